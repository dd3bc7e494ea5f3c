//! ABORT TASK and resets: what they end gets no response, and gives all back.

use super::disk::HANG;
use super::pair::Pair;
use crate::iscsi::{Direction, Offers};
use crate::scsi::ScsiStatus;

#[test]
fn a_write_that_is_aborted_in_the_middle_of_its_data() {
    for seed in 1..80 {
        let mut pair = Pair::logged_in(Offers::long_fat_pipe(), Offers::lan(), seed, 3000);
        pair.write(1, 0, 300_000, 1);
        for _ in 0..seed {
            pair.step();
        }
        let ended = pair.outcomes.contains_key(&1);
        if !ended {
            pair.initiator.abort_task(1).unwrap();
        }
        pair.run();
        let complete = pair
            .seen
            .iter()
            .any(|seen| seen.contains("response: Complete"));
        let outcome = pair.outcomes.get(&1).and_then(|outcome| outcome.status);
        assert_ne!(complete, outcome.is_some(), "one of both: {:?}", pair.seen);
        assert!(pair.write(2, 0, 1000, 2));
        pair.run();
        assert_eq!(pair.outcomes[&2].status, Some(ScsiStatus::GOOD));
        assert_eq!(pair.initiator.window(), 8, "its place is free again");
        assert_eq!(pair.target.counters().violations, 0);
    }
}

#[test]
fn a_read_that_is_aborted_gives_its_tokens_back() {
    for seed in 1..40 {
        let mut pair = Pair::logged_in(Offers::lan(), Offers::lan(), seed, 3000);
        pair.read(1, 0, 500_000);
        for _ in 0..seed {
            pair.step();
        }
        let _ = pair.initiator.abort_task(1);
        pair.run();
        assert!(pair.disk.tokens.is_empty());
        assert!(pair.read(2, 0, 1000));
        pair.run();
        assert_eq!(pair.outcomes[&2].status, Some(ScsiStatus::GOOD));
        assert_eq!(pair.initiator.window(), 8);
    }
}

#[test]
fn a_lun_reset_ends_what_hangs() {
    let mut pair = Pair::logged_in(Offers::lan(), Offers::lan(), 3, 3000);
    for token in 0..8 {
        pair.seeds.insert(token, token);
        assert!(pair.submit(token, HANG, 0, 100, Direction::Out(100)));
    }
    pair.run();
    assert_eq!(pair.initiator.window(), 0, "all hang");
    pair.initiator.reset_lun(1 << 48).unwrap();
    pair.run();
    assert!(pair.seen.last().unwrap().contains("TaskDoesNotExist"));
    // The disk resets all its commands when asked about LUN 2.
    pair.initiator.reset_lun(2 << 48).unwrap();
    pair.run();
    assert!(pair.seen.last().unwrap().contains("Complete"));
    assert_eq!(pair.initiator.abort_task(99), Err(crate::iscsi::WindowFull));
}

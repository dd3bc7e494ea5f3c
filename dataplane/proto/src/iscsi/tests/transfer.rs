//! Reads and writes through both sides, whatever was negotiated and however
//! the stream is cut.

use super::disk::{FAIL, READ_SHORT, SENSE, WRITE_BUSY, fill};
use super::pair::Pair;
use crate::iscsi::{DigestPolicy, Direction, Offers, Residual};
use crate::scsi::ScsiStatus;
use proptest::prelude::*;

fn digest() -> impl Strategy<Value = DigestPolicy> {
    prop_oneof![
        Just(DigestPolicy::Never),
        Just(DigestPolicy::Allowed),
        Just(DigestPolicy::Preferred),
    ]
}

fn offers() -> impl Strategy<Value = Offers> {
    (
        (digest(), digest(), 512..20_000u32),
        (512..70_000u32, 512..70_000u32),
        (any::<bool>(), any::<bool>(), 1..4u16),
    )
        .prop_map(
            |((header, data, recv), (burst, first), (immediate, r2t, outstanding))| Offers {
                header_digest: header,
                data_digest: data,
                max_recv_data_segment_length: recv,
                max_burst_length: burst,
                first_burst_length: first.min(burst),
                immediate_data: immediate,
                initial_r2t: r2t,
                max_outstanding_r2t: outstanding,
                ..Offers::lan()
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read(
        initiator in offers(),
        target in offers(),
        seed in any::<u64>(),
        cut in 1..30_000usize,
        ops in proptest::collection::vec((any::<bool>(), 0..300_000u32, 0..120_000u32), 1..12),
    ) {
        // Small cuts cost a loop each: keep the product of both bounded.
        let cut = cut.max(100);
        let mut pair = Pair::logged_in(initiator, target, seed, cut);
        let mut oracle = vec![0; pair.disk.bytes.len()];
        for (token, (write, at, len)) in ops.into_iter().enumerate() {
            let token = token as u64;
            if write {
                prop_assert!(pair.write(token, at, len, seed ^ token));
                fill(seed ^ token, 0, &mut oracle[at as usize..(at + len) as usize]);
            } else {
                prop_assert!(pair.read(token, at, len));
            }
            // Commands of one step overlap on the wire where it is safe.
            if pair.random.below(3) > 0 {
                pair.run();
                let outcome = &pair.outcomes[&token];
                prop_assert_eq!(outcome.status, Some(ScsiStatus::GOOD));
                if !write {
                    prop_assert_eq!(&outcome.data[..], &oracle[at as usize..(at + len) as usize]);
                }
            } else {
                pair.run();
            }
        }
        prop_assert_eq!(&pair.disk.bytes, &oracle);
        prop_assert!(pair.disk.tokens.is_empty(), "every token came back");
        prop_assert_eq!(pair.target.counters().violations, 0);
    }
}

#[test]
fn a_connection_is_small() {
    // 5,000 sessions must fit a small box: 64 KiB each is 320 MiB.
    let len = crate::iscsi::TargetConfig::default().connection_len();
    assert!(len < 72 * 1024, "{len} bytes a connection");
}

#[test]
fn many_commands_at_a_time() {
    for seed in 1..20 {
        let mut pair = Pair::logged_in(Offers::long_fat_pipe(), Offers::lan(), seed, 20_000);
        let (mut next, mut waiting) = (0, 0);
        while waiting < 200 {
            while next < 200 && {
                let at = u32::try_from(next).unwrap() * 20_000;
                pair.write(next, at, 5000 + 50 * u32::try_from(next).unwrap(), next)
            } {
                next += 1;
            }
            assert!(pair.initiator.window() <= 8, "the target's window holds");
            pair.step();
            waiting = pair
                .outcomes
                .values()
                .filter(|o| o.status.is_some())
                .count();
        }
        for token in 0..200 {
            let mut expected = vec![0; 5000 + 50 * token];
            fill(token as u64, 0, &mut expected);
            assert_eq!(
                pair.disk.bytes[token * 20_000..][..expected.len()],
                expected
            );
        }
    }
}

#[test]
fn busy_at_once_swallows_the_data_that_still_comes() {
    for seed in 1..50 {
        let target = Offers {
            first_burst_length: 4096,
            ..Offers::lan()
        };
        let mut pair = Pair::logged_in(Offers::long_fat_pipe(), target, seed, 700);
        for token in 0..8 {
            pair.seeds.insert(token, 1);
            let op = if token % 2 == 0 { WRITE_BUSY } else { 0x2a };
            assert!(pair.submit(token, op, 0, 50_000, Direction::Out(50_000)));
        }
        pair.run();
        for token in 0..8 {
            let expected = if token % 2 == 0 {
                ScsiStatus::BUSY
            } else {
                ScsiStatus::GOOD
            };
            assert_eq!(pair.outcomes[&token].status, Some(expected));
        }
        assert_eq!(pair.outcomes[&0].residual, Residual::Underflow(50_000));
        assert_eq!(pair.target.counters().violations, 0);
        assert_eq!(pair.initiator.window(), 8);
    }
}

#[test]
fn sense_and_residuals() {
    let mut pair = Pair::logged_in(Offers::lan(), Offers::lan(), 5, 4096);
    assert!(pair.submit(0, FAIL, 0, 512, Direction::In(512)));
    assert!(pair.submit(1, READ_SHORT, 0, 1000, Direction::In(1000)));
    assert!(pair.submit(2, 0x28, 0, 1000, Direction::In(600)));
    assert!(pair.submit(3, FAIL, 0, 0, Direction::None));
    pair.run();
    let outcome = |token: u64| {
        let outcome = &pair.outcomes[&token];
        (
            outcome.status.unwrap(),
            outcome.data.len(),
            outcome.residual,
        )
    };
    assert_eq!(
        outcome(0),
        (ScsiStatus::CHECK_CONDITION, 0, Residual::Underflow(512))
    );
    assert_eq!(
        outcome(1),
        (ScsiStatus::GOOD, 500, Residual::Underflow(500))
    );
    assert_eq!(outcome(2), (ScsiStatus::GOOD, 600, Residual::Overflow(400)));
    assert_eq!(outcome(3), (ScsiStatus::CHECK_CONDITION, 0, Residual::None));
    assert_eq!(pair.outcomes[&0].sense, SENSE);
    assert!(pair.outcomes[&1].sense.is_empty());
}

#[test]
fn damaged_write_data_never_completes() {
    let digests = Offers {
        data_digest: DigestPolicy::Required,
        header_digest: DigestPolicy::Never,
        ..Offers::lan()
    };
    let (mut faults, mut rejected) = (0, 0);
    for flip in (0..9000).step_by(97) {
        let initiator = Offers {
            initial_r2t: true,
            first_burst_length: 1024,
            ..digests
        };
        let mut pair = Pair::logged_in(initiator, digests, 3, 500);
        // Skip the command's header: that one has no digest here.
        pair.flip_at = Some(pair.carried + 48 + flip);
        pair.write(1, 0, 8192, 1);
        pair.run();
        let damaged = pair.disk.bytes.iter().any(|byte| *byte != 0);
        if pair.disk.faults > 0 {
            assert!(!damaged, "nothing was written");
            faults += 1;
        }
        rejected += usize::from(!pair.initiator.is_logged_in());
    }
    assert!(faults > 50, "most of the stream is data: {faults}");
    assert!(rejected > 0);
}

#[test]
fn a_damaged_header_ends_the_connection() {
    let offers = Offers {
        header_digest: DigestPolicy::Required,
        ..Offers::lan()
    };
    for flip in 0..52 {
        let mut pair = Pair::logged_in(offers, offers, 3, 500);
        pair.flip_at = Some(pair.carried + flip);
        pair.read(1, 0, 512);
        pair.run();
        let ended = pair.target.is_finished() || flip == 4;
        assert!(ended, "byte {flip}: {:?}", pair.seen);
        assert!(!pair.outcomes.contains_key(&1));
    }
}

/// One SCSI event at a time: a second is the caller's while the first waits for room.
#[test]
fn a_scsi_event_is_told_with_its_sense() {
    let mut pair = Pair::logged_in(Offers::lan(), Offers::lan(), 9, 100);
    let (first, second) = ([0x70, 0, 6, 1], [0x70, 0, 6, 2]);
    assert!(!pair.target.scsi_event(3, &[]));
    assert!(pair.target.scsi_event(3, &first));
    assert!(!pair.target.scsi_event(3, &second));
    pair.run();
    let told = pair.seen.last().unwrap();
    assert!(
        told.contains("lun: 3") && told.contains("event: 0"),
        "{told}"
    );
    assert_eq!(pair.initiator.sense(), first);
    assert!(pair.target.scsi_event(3, &second));
    pair.run();
    assert_eq!(pair.initiator.sense(), second);
}

#[test]
fn pings_both_ways_and_logout() {
    let mut pair = Pair::logged_in(Offers::lan(), Offers::lan(), 9, 100);
    pair.initiator.ping();
    pair.target.ping();
    pair.run();
    assert!(
        pair.seen.contains(&"target Pong".to_owned()),
        "{:?}",
        pair.seen
    );
    assert!(pair.seen.contains(&"initiator Pong".to_owned()));
    pair.target.request_logout(10);
    pair.run();
    assert!(
        pair.seen.last().unwrap().contains("event: 1"),
        "{:?}",
        pair.seen
    );
    pair.read(1, 0, 100_000);
    pair.run();
    pair.initiator.logout();
    pair.run();
    assert!(
        pair.seen
            .contains(&"target Logout { reason: 0 }".to_owned())
    );
    assert!(
        pair.seen
            .contains(&"initiator LoggedOut { response: 0 }".to_owned())
    );
    assert!(pair.target.is_finished() && pair.initiator.is_finished());
}

#[test]
fn b14_a_probe_is_a_train_of_pings_with_data() {
    let mut pair = Pair::logged_in(Offers::lan(), Offers::lan(), 9, 100);
    assert_eq!(pair.initiator.probe(), Some(8 * (48 + 4096)));
    assert_eq!(pair.initiator.probe(), None, "one is under way");
    pair.initiator.ping();
    let before = pair.initiator.counters().pdus_received;
    pair.run();
    let pongs = pair.seen.iter().filter(|seen| *seen == "initiator Pong");
    assert_eq!(pongs.count(), 8, "{:?}", pair.seen);
    assert_eq!(pair.initiator.counters().pdus_received, before + 8);
    assert!(pair.initiator.probe().is_some(), "all have come back");
    pair.run();
    assert_eq!(pair.initiator.counters().violations, 0);
}

#[test]
fn the_window_shrinks_and_opens() {
    let mut pair = Pair::logged_in(Offers::lan(), Offers::lan(), 9, 5000);
    assert_eq!(pair.initiator.window(), 8);
    pair.target.set_command_window(2);
    for token in 0..8 {
        assert!(pair.write(token, 0, 512, token));
    }
    assert!(!pair.write(8, 0, 512, 8), "the window is closed");
    pair.run();
    assert_eq!(pair.initiator.window(), 2);
    pair.target.set_command_window(100);
    pair.read(9, 0, 1);
    pair.run();
    assert_eq!(pair.initiator.window(), 8, "never above the table");
}

//! The rules of the queue one by one, as transcripts.

use super::*;
use crate::scsi::Access;

const LIMITS: FlushLimits = FlushLimits {
    writes_in_flight_max: 4,
    bytes_in_flight_max: 1 << 20,
    joined_bytes_max: 0,
    unsynced_bytes_max: 1 << 20,
    awaited: None,
    epoch_max: u64::MAX,
    sequence_max: u64::MAX,
};

/// A command that passes in the epoch that it began in.
const fn at(epoch: u64) -> Epochs {
    Epochs {
        since: epoch,
        open: epoch,
    }
}

/// A queue of volume 0, and what is pushed numbered as it comes.
struct Lab {
    queue: FlushQueue,
    pushed: u32,
    epoch: u64,
    wce: bool,
    limits: FlushLimits,
}

impl Lab {
    fn new() -> Self {
        let queue = FlushQueue::new(64, 2);
        Self {
            queue,
            pushed: 0,
            epoch: 1,
            wce: true,
            limits: LIMITS,
        }
    }

    fn push(&mut self, lba: u64, blocks: u32) -> u32 {
        let record = self.pushed;
        self.pushed += 1;
        let sequence = u64::from(self.pushed);
        let (epoch, bytes, arrived) = (self.epoch, blocks * 512, Time::from_millis(sequence));
        self.queue.push(
            0,
            Entry {
                record,
                lba,
                blocks,
                epoch,
                sequence,
                bytes,
                arrived,
                maybe_sent: false,
            },
            true,
        );
        record
    }

    fn next(&mut self) -> Option<FlushAction> {
        self.queue.next(0, &self.limits, self.wce, |_| None)
    }

    /// Everything there is to send now; a sync is written as `S`.
    fn sends(&mut self) -> String {
        let mut sent = String::new();
        while let Some(action) = self.next() {
            match action {
                FlushAction::Write { record } => sent += &format!("{record} "),
                FlushAction::Sync => sent += "S ",
            }
        }
        sent.trim_end().into()
    }

    fn good(&mut self, records: &[u32]) {
        records
            .iter()
            .for_each(|record| self.queue.write_done(0, *record, Outcome::Good));
    }

    fn freed(&mut self) -> Vec<u32> {
        std::iter::from_fn(|| self.queue.next_durable(0)).collect()
    }
}

#[test]
fn a19_arrival_order_pipelined_within_an_epoch() {
    let mut lab = Lab::new();
    (0..6).for_each(|n| _ = lab.push(n * 10, 8));
    assert_eq!(lab.sends(), "0 1 2 3", "four in flight at most");
    lab.good(&[2, 0]);
    assert_eq!(lab.sends(), "4 5");
}

#[test]
fn a15_what_came_later_is_not_sent_and_not_waited_for() {
    let mut lab = Lab::new();
    (0..4).for_each(|n| _ = lab.push(n * 10, 8));
    // Sequences begin at 1.
    lab.limits.sequence_max = 2;
    assert_eq!(lab.sends(), "0 1");
    lab.good(&[0, 1]);
    assert_eq!(lab.sends(), "S", "nothing else is to be sent");
    lab.queue.sync_done(0, true);
    assert_eq!(lab.freed(), [0, 1]);
    assert_eq!(lab.queue.oldest_sequence(0), Some(3));
    assert_eq!(lab.sends(), "");
    lab.limits.sequence_max = u64::MAX;
    assert_eq!(lab.sends(), "2 3");
}

#[test]
fn bytes_in_flight_are_bounded_but_one_write_always_goes() {
    let mut lab = Lab::new();
    lab.limits.bytes_in_flight_max = 10 * 512;
    (0..3).for_each(|n| _ = lab.push(n * 100, 6));
    assert_eq!(lab.sends(), "0");
    lab.limits.bytes_in_flight_max = 12 * 512;
    assert_eq!(lab.sends(), "1");
    lab.limits.bytes_in_flight_max = 1;
    lab.good(&[0, 1]);
    assert_eq!(lab.sends(), "2");
    assert_eq!(lab.queue.in_flight(0), (1, 6 * 512));
}

#[test]
fn c6_an_overlapping_write_waits_for_the_good() {
    let mut lab = Lab::new();
    lab.push(0, 8);
    lab.push(7, 1);
    lab.push(100, 1);
    assert_eq!(
        lab.sends(),
        "0",
        "the next overlaps, and order holds behind it"
    );
    lab.good(&[0]);
    assert_eq!(lab.sends(), "1 2");
}

#[test]
fn c6_a_retried_write_still_guards() {
    let mut lab = Lab::new();
    lab.push(0, 8);
    lab.push(20, 8);
    lab.push(4, 8);
    assert_eq!(lab.sends(), "0 1");
    lab.queue.write_done(0, 0, Outcome::Retry);
    assert_eq!(
        lab.sends(),
        "0",
        "the retried one first, what overlaps it after"
    );
    lab.good(&[1]);
    assert_eq!(lab.sends(), "");
    lab.good(&[0]);
    assert_eq!(lab.sends(), "2");
}

#[test]
fn a19_a_later_epoch_waits_until_the_earlier_is_durable() {
    let mut lab = Lab::new();
    lab.push(0, 8);
    lab.push(10, 8);
    lab.epoch = 2;
    lab.push(20, 8);
    assert_eq!(lab.sends(), "0 1");
    lab.good(&[0]);
    assert_eq!(lab.sends(), "", "one of the epoch is in flight");
    lab.good(&[1]);
    assert_eq!(lab.sends(), "S");
    assert_eq!(lab.sends(), "", "GOOD is not durable");
    lab.queue.sync_done(0, true);
    assert_eq!(lab.sends(), "2");
}

#[test]
fn a17_plain_good_is_durable_without_a_volatile_cache() {
    let mut lab = Lab::new();
    lab.wce = false;
    lab.push(0, 8);
    lab.epoch = 2;
    lab.push(20, 8);
    assert_eq!(lab.sends(), "0");
    lab.good(&[0]);
    assert_eq!(lab.freed(), [0]);
    assert_eq!(lab.sends(), "1");
    lab.good(&[1]);
    assert_eq!((lab.sends(), lab.freed()), (String::new(), vec![1]));
    assert!(lab.queue.is_drained(0));
}

#[test]
fn a17_a_cache_that_turns_volatile_is_believed_at_once() {
    let mut lab = Lab::new();
    lab.wce = false;
    lab.push(0, 8);
    assert_eq!(lab.sends(), "0");
    lab.wce = true;
    assert_eq!(lab.sends(), "");
    lab.good(&[0]);
    assert_eq!(lab.freed(), []);
    assert_eq!(lab.sends(), "S");
}

#[test]
fn a17_unsynced_ones_are_not_overtaken_when_the_cache_turns_stable() {
    let mut lab = Lab::new();
    lab.push(0, 8);
    assert_eq!(lab.sends(), "0");
    lab.good(&[0]);
    lab.wce = false;
    lab.push(0, 8);
    assert_eq!(lab.sends(), "1");
    lab.good(&[1]);
    lab.queue.session_lost(0);
    assert_eq!(lab.sends(), "0");
    lab.good(&[0]);
    assert_eq!(lab.sends(), "1", "else 0 would stand over a durable 1");
    lab.good(&[1]);
    assert_eq!(lab.freed(), [0, 1]);
}

#[test]
fn a17_a_sync_covers_only_what_was_good_before_it_was_sent() {
    let mut lab = Lab::new();
    lab.limits.unsynced_bytes_max = 512;
    lab.push(0, 1);
    lab.push(10, 1);
    assert_eq!(lab.sends(), "0 1");
    lab.good(&[0]);
    assert_eq!(lab.sends(), "S", "the limit of unsynced bytes");
    lab.push(20, 1);
    assert_eq!(lab.sends(), "2", "writes of the epoch go on");
    lab.good(&[1]);
    lab.queue.sync_done(0, true);
    assert_eq!(lab.freed(), [0]);
    assert_eq!(lab.queue.dirty_bytes(0), 1024);
    assert_eq!(lab.sends(), "S");
    lab.queue.sync_done(0, true);
    assert_eq!(lab.freed(), [1]);
}

#[test]
fn a17_a_failed_sync_makes_nothing_durable() {
    let mut lab = Lab::new();
    lab.push(0, 8);
    assert_eq!(lab.sends(), "0");
    lab.good(&[0]);
    assert_eq!(lab.sends(), "S");
    lab.queue.sync_done(0, false);
    assert_eq!(lab.freed(), []);
    assert_eq!(lab.sends(), "S");
    lab.queue.sync_done(0, true);
    assert_eq!(lab.freed(), [0]);
}

#[test]
fn a17_a_lost_session_sends_every_unsynced_record_again_in_order() {
    let mut lab = Lab::new();
    lab.limits.unsynced_bytes_max = 1;
    (0..5).for_each(|n| _ = lab.push(n * 10, 8));
    assert_eq!(lab.sends(), "0 1 2 3");
    lab.good(&[0]);
    assert_eq!(lab.sends(), "S 4");
    lab.queue.sync_done(0, true);
    lab.good(&[2, 4]);
    assert_eq!(lab.sends(), "S");
    lab.queue.session_lost(0);
    assert_eq!(lab.sends(), "1 2 3 4", "0 was durable");
    assert_eq!(lab.freed(), [0]);
    lab.good(&[1, 2, 3, 4]);
    assert_eq!(lab.sends(), "S");
    lab.queue.sync_done(0, true);
    assert_eq!(lab.freed(), [1, 2, 3, 4]);
}

#[test]
fn a17_the_oldest_is_freed_first() {
    let mut lab = Lab::new();
    lab.wce = false;
    lab.push(0, 8);
    lab.push(10, 8);
    assert_eq!(lab.sends(), "0 1");
    lab.good(&[1]);
    assert_eq!(lab.freed(), []);
    lab.good(&[0]);
    assert_eq!(lab.freed(), [0, 1]);
}

#[test]
fn a17_superseded_within_its_epoch_is_never_sent_again() {
    let mut lab = Lab::new();
    lab.push(0, 8);
    lab.push(0, 8);
    assert!(lab.queue.supersede(0, 1), "not sent yet");
    assert_eq!(lab.sends(), "1");
    lab.push(0, 8);
    assert!(!lab.queue.supersede(1, 2), "in flight");
    lab.good(&[1]);
    assert!(
        lab.queue.supersede(1, 2),
        "GOOD, and would be sent again after a loss"
    );
    lab.queue.session_lost(0);
    assert_eq!(lab.sends(), "2");
    lab.epoch = 2;
    lab.push(0, 8);
    assert!(
        !lab.queue.supersede(2, 3),
        "by a later epoch: sent in its place"
    );
    assert_eq!(lab.queue.records(0), 2);
}

#[test]
fn c2_durable_through_is_what_a_synchronize_cache_waits_for() {
    let mut lab = Lab::new();
    assert!(lab.queue.durable_through(0, 0));
    lab.push(0, 8);
    lab.epoch = 2;
    lab.push(10, 8);
    assert_eq!(lab.queue.oldest_dirty(0), Some(Time::from_millis(1)));
    assert_eq!(lab.sends(), "0");
    lab.good(&[0]);
    assert!(!lab.queue.durable_through(0, 1));
    assert_eq!(lab.sends(), "S");
    lab.queue.sync_done(0, true);
    assert!(lab.queue.durable_through(0, 1) && !lab.queue.durable_through(0, 2));
    assert_eq!(lab.queue.oldest_dirty(0), Some(Time::from_millis(2)));
}

#[test]
fn c2_a_wait_is_ended_by_a_sync_of_its_own() {
    let mut lab = Lab::new();
    (0..6).for_each(|n| _ = lab.push(n * 10, 8));
    lab.limits.awaited = Some(2);
    assert_eq!(lab.sends(), "0 1 2 3");
    lab.good(&[0]);
    assert_eq!(lab.sends(), "4", "sequence 2, record 1, is in flight");
    lab.good(&[1]);
    assert_eq!(lab.sends(), "S 5");
    lab.good(&[2]);
    lab.queue.sync_done(0, true);
    assert!(lab.queue.durable_through(0, 2));
    assert_eq!(lab.sends(), "", "nobody waits any more");
}

#[test]
fn c4_a_refused_write_stops_the_volume_until_the_operator_decides() {
    let mut lab = Lab::new();
    (0..2).for_each(|n| _ = lab.push(n * 10, 8));
    assert_eq!(lab.sends(), "0 1");
    lab.queue.write_done(0, 0, Outcome::Refused);
    assert_eq!(lab.queue.refused(0).count(), 1);
    lab.push(30, 8);
    lab.epoch = 2;
    lab.push(40, 8);
    assert_eq!(lab.sends(), "");
    lab.good(&[1]);
    assert_eq!(lab.sends(), "S", "what was taken is made durable");
    lab.queue.sync_done(0, true);
    assert_eq!((lab.sends(), lab.freed()), (String::new(), vec![]));
    lab.queue.session_lost(0);
    assert_eq!(lab.sends(), "", "still refused");
    lab.queue.retry_refused(0);
    assert_eq!(lab.sends(), "0 2");
    lab.queue.write_done(0, 0, Outcome::Refused);
    lab.good(&[2]);
    assert_eq!(lab.queue.refused(0).collect::<Vec<_>>(), [0]);
    assert!(!lab.queue.discard_refused(0, 1), "it is not refused");
    assert!(lab.queue.discard_refused(0, 0));
    assert_eq!(lab.queue.refused(0).count(), 0);
    assert_eq!(lab.sends(), "S");
    lab.queue.sync_done(0, true);
    assert_eq!((lab.sends(), lab.freed()), ("3".into(), vec![1, 2]));
}

#[test]
fn c4_what_cannot_be_made_durable_is_refused_and_sent_again_on_retry() {
    let mut lab = Lab::new();
    (0..3).for_each(|n| _ = lab.push(n * 10, 8));
    assert_eq!(lab.sends(), "0 1 2");
    lab.good(&[0, 1]);
    let mut refused = Vec::new();
    lab.queue.refuse_unsynced(0, |record| refused.push(record));
    assert_eq!(refused, [0, 1], "2 is in flight still");
    lab.good(&[2]);
    assert_eq!(lab.sends(), "S", "what came after may be sound");
    lab.queue.sync_done(0, true);
    assert_eq!((lab.sends(), lab.freed()), (String::new(), vec![]));
    lab.queue.session_lost(0);
    assert_eq!(lab.queue.refused(0).collect::<Vec<_>>(), [0, 1]);
    lab.queue.retry_refused(0);
    assert_eq!(lab.sends(), "0 1");
    lab.good(&[0, 1]);
    assert_eq!(lab.sends(), "S");
    lab.queue.sync_done(0, true);
    assert_eq!(lab.freed(), [0, 1, 2]);
}

#[test]
fn a20_a_change_drains_its_overlap_and_every_earlier_epoch() {
    let mut lab = Lab::new();
    lab.push(0, 8);
    lab.epoch = 2;
    lab.push(100, 8);
    let change = |lba| Access::Range {
        lba,
        blocks: 4,
        changes: true,
    };
    let look = |lba| Access::Range {
        lba,
        blocks: 4,
        changes: false,
    };
    assert_eq!(lab.queue.drain_point(0, 7, change(50), 1), None);
    assert_eq!(lab.queue.drain_point(0, 7, change(50), 2), Some(1), "A-19");
    assert_eq!(lab.queue.drain_point(0, 7, look(50), 2), None);
    assert_eq!(lab.queue.drain_point(0, 7, look(104), 2), Some(2));
    assert_eq!(lab.queue.drain_point(0, 7, Access::Medium, 2), Some(2));
    assert!(lab.queue.overlaps_dirty(0, 107, u64::MAX) && !lab.queue.overlaps_dirty(0, 8, 92));
    assert_eq!(
        lab.queue.pass(0, 7, look(0), at(2)),
        Err(Blocked::Until { sequence: 1 })
    );
}

#[test]
fn c6_nothing_overtakes_a_change_that_is_passing() {
    let mut lab = Lab::new();
    let change = Access::Range {
        lba: 0,
        blocks: 10,
        changes: true,
    };
    assert_eq!(lab.queue.pass(0, 7, change, at(1)), Ok(()));
    assert_eq!(lab.queue.pass(0, 8, change, at(1)), Err(Blocked::Passing));
    lab.push(20, 1);
    lab.push(9, 1);
    assert_eq!(lab.sends(), "0");
    lab.good(&[0]);
    lab.queue.passed(0, 7);
    assert_eq!(lab.sends(), "1");
}

#[test]
fn c7_a_change_waits_until_what_it_touches_left_the_cache() {
    let mut lab = Lab::new();
    lab.wce = false;
    lab.push(0, 8);
    assert_eq!(lab.sends(), "0");
    lab.good(&[0]);
    let change = |lba| Access::Range {
        lba,
        blocks: 1,
        changes: true,
    };
    assert_eq!(
        lab.queue.pass(0, 7, change(7), at(1)),
        Err(Blocked::Unfreed)
    );
    assert_eq!(lab.queue.pass(0, 8, change(8), at(1)), Ok(()));
    assert_eq!(lab.freed(), [0]);
    assert_eq!(lab.queue.pass(0, 7, change(7), at(1)), Ok(()));
}

#[test]
fn a19_a_change_that_passed_is_synced_before_the_next_epoch() {
    let mut lab = Lab::new();
    let change = Access::Range {
        lba: 0,
        blocks: 10,
        changes: true,
    };
    assert_eq!(lab.queue.pass(0, 7, change, at(1)), Ok(()));
    lab.epoch = 2;
    lab.push(20, 1);
    assert_eq!(lab.sends(), "", "still passing");
    let later = Access::Range {
        lba: 50,
        blocks: 1,
        changes: true,
    };
    assert_eq!(lab.queue.pass(0, 8, later, at(2)), Err(Blocked::Passing));
    lab.queue.passed(0, 7);
    assert!(!lab.queue.durable_through(0, 0) && !lab.queue.is_drained(0));
    assert_eq!(
        lab.queue.pass(0, 8, later, at(2)),
        Err(Blocked::Until { sequence: 1 })
    );
    assert_eq!(lab.sends(), "S");
    lab.queue.sync_done(0, true);
    assert!(lab.queue.durable_through(0, 0));
    assert_eq!(lab.sends(), "0");
}

/// Ordering points beside it do not keep it waiting; nor does it take what they order past them.
#[test]
fn a19_a_change_does_not_wait_for_epochs_that_were_closed_after_it_began() {
    let mut lab = Lab::new();
    let change = |lba| Access::Range {
        lba,
        blocks: 1,
        changes: true,
    };
    lab.push(0, 1);
    lab.epoch = 2;
    lab.push(1, 1);
    let epochs = |since| Epochs { since, open: 3 };
    assert_eq!(lab.sends(), "0");
    assert_eq!(
        lab.queue.pass(0, 7, change(50), epochs(2)),
        Err(Blocked::Until { sequence: 1 })
    );
    assert_eq!(lab.queue.pass(0, 7, change(50), epochs(1)), Ok(()));
    assert_eq!(lab.sends(), "", "the first epoch is under way");
    lab.good(&[0]);
    assert_eq!(lab.sends(), "S");
    lab.queue.sync_done(0, true);
    assert_eq!(lab.sends(), "", "a later one waits while it passes");
    assert_eq!(
        lab.queue.pass(0, 8, change(60), epochs(2)),
        Ok(()),
        "two that began before either has ended have no order"
    );
    assert_eq!(
        lab.queue.pass(0, 9, change(70), at(4)),
        Err(Blocked::Until { sequence: 2 })
    );
    assert_eq!(lab.sends(), "1", "all before its epoch is durable");
    lab.queue.passed(0, 7);
    lab.queue.passed(0, 8);
    lab.good(&[1]);
    lab.epoch = 4;
    lab.push(2, 1);
    assert_eq!(lab.sends(), "S");
    lab.queue.sync_done(0, true);
    assert_eq!(lab.sends(), "2");
}

#[test]
fn a21_what_was_passing_when_the_session_was_lost_may_have_been_applied() {
    let mut lab = Lab::new();
    assert_eq!(lab.queue.pass(0, 7, Access::Medium, at(1)), Ok(()));
    lab.queue.session_lost(0);
    // It has a session of its own, perhaps: until it ends, it is still out.
    assert_eq!(
        lab.queue.pass(0, 8, Access::Medium, at(1)),
        Err(Blocked::Passing)
    );
    lab.queue.passed(0, 7);
    assert!(!lab.queue.is_drained(0));
    let sync = Access::Sync {
        lba: 0,
        blocks: 8,
        immed: false,
    };
    assert_eq!(lab.queue.drain_point(0, 7, sync, 1), Some(0));
    assert_eq!(lab.sends(), "S");
    lab.queue.sync_done(0, true);
    assert_eq!(lab.queue.drain_point(0, 7, sync, 1), None);
}

#[test]
fn volumes_do_not_see_each_other() {
    let mut lab = Lab::new();
    lab.push(0, 8);
    let arrived = Time::ZERO;
    let entry = Entry {
        record: 60,
        lba: 0,
        blocks: 8,
        epoch: 9,
        sequence: 9,
        bytes: 4096,
        arrived,
        maybe_sent: false,
    };
    lab.queue.push(1, entry, true);
    assert_eq!(lab.sends(), "0");
    assert_eq!(
        lab.queue.next(1, &LIMITS, false, |_| None),
        Some(FlushAction::Write { record: 60 })
    );
    lab.queue.write_done(1, 60, Outcome::Good);
    assert_eq!(lab.queue.next_durable(1), Some(60));
    assert_eq!((lab.queue.records(0), lab.queue.records(1)), (1, 0));
}

#[test]
#[should_panic(expected = "records arrive in order")]
fn epochs_never_go_back() {
    let mut lab = Lab::new();
    lab.epoch = 2;
    lab.push(0, 8);
    lab.epoch = 1;
    lab.push(0, 8);
}

/// The sync's refusal takes the older write's GOOD away after a newer one over
/// the same blocks was sent: that one goes again, after it.
#[test]
fn c4_what_is_tried_again_does_not_land_over_what_is_newer() {
    for answered_first in [true, false] {
        let mut lab = Lab::new();
        let old = lab.push(0, 8);
        assert_eq!(lab.sends(), "0");
        lab.good(&[old]);
        assert_eq!(lab.sends(), "S");
        let new = lab.push(4, 8);
        assert_eq!(lab.sends(), "1");
        lab.queue.sync_done(0, false);
        lab.queue.refuse_unsynced(0, |_| ());
        if answered_first {
            lab.good(&[new]);
            assert_eq!(lab.sends(), "", "nothing is sent past what is refused");
        }
        lab.queue.retry_refused(0);
        if !answered_first {
            assert_eq!(lab.sends(), "");
            lab.good(&[new]);
        }
        assert_eq!(lab.sends(), "0", "the newer one waits for its GOOD");
        lab.good(&[old]);
        assert_eq!(lab.sends(), "1");
        lab.good(&[new]);
        assert_eq!(lab.sends(), "S");
        lab.queue.sync_done(0, true);
        assert_eq!(lab.freed(), [old, new]);
    }
}

const fn whole(lba: u64, blocks: u64) -> Access {
    Access::Range {
        lba,
        blocks,
        changes: true,
    }
}

#[test]
fn a17_what_is_overwritten_is_given_up_when_that_is_durable() {
    let mut lab = Lab::new();
    lab.limits.writes_in_flight_max = 2;
    (0..5).for_each(|n| _ = lab.push(n * 10, 10));
    assert_eq!(lab.sends(), "0 1");
    assert!(lab.queue.hold(0, 7, whole(10, 30), 1));
    assert_eq!(
        lab.queue.pass(0, 7, whole(10, 30), at(1)),
        Err(Blocked::Until { sequence: 2 }),
        "what is under way ends first"
    );
    lab.good(&[0, 1]);
    assert_eq!(lab.sends(), "S", "2 and 3 are held back, and 4 behind them");
    lab.queue.sync_done(0, true);
    assert_eq!(lab.freed(), [0, 1]);
    assert_eq!(lab.queue.pass(0, 7, whole(10, 30), at(1)), Ok(()));
    assert_eq!(lab.sends(), "");
    lab.queue.passed(0, 7);
    let mark = lab.queue.sync_mark(0);
    assert_eq!(lab.sends(), "S");
    assert!(!lab.queue.is_synced_since(0, mark), "GOOD is not durable");
    lab.queue.sync_done(0, true);
    assert!(lab.queue.is_synced_since(0, mark));
    // What arrived after the command is not the command's to give up.
    lab.push(15, 1);
    let given_up: Vec<_> = std::iter::from_fn(|| lab.queue.next_overwritten(0, 7)).collect();
    assert_eq!(given_up, [2, 3]);
    assert!(!lab.queue.is_holding(0, 7));
    assert_eq!(lab.sends(), "4 5");
}

#[test]
fn a_sync_sent_before_an_answer_does_not_cover_it() {
    let mut lab = Lab::new();
    lab.push(100, 1);
    assert_eq!(lab.sends(), "0");
    lab.good(&[0]);
    assert_eq!(lab.sends(), "S");
    lab.push(0, 8);
    assert!(lab.queue.hold(0, 7, whole(0, 8), 1));
    assert_eq!(lab.queue.pass(0, 7, whole(0, 8), at(1)), Ok(()));
    lab.queue.passed(0, 7);
    let mark = lab.queue.sync_mark(0);
    lab.queue.sync_done(0, true);
    assert!(!lab.queue.is_synced_since(0, mark));
    assert_eq!(lab.sends(), "S");
}

#[test]
fn what_was_held_back_is_sent_if_the_command_fails() {
    let mut lab = Lab::new();
    lab.push(0, 8);
    assert!(lab.queue.hold(0, 7, whole(0, 8), 1));
    assert_eq!(lab.queue.pass(0, 7, whole(0, 8), at(1)), Ok(()));
    lab.queue.passed(0, 7);
    assert_eq!(lab.sends(), "S", "it may have changed something");
    lab.queue.release_hold(0, 7);
    assert_eq!(lab.sends(), "0");
}

#[test]
fn only_what_was_never_sent_lies_inside_and_is_of_the_open_epoch_is_held() {
    let mut lab = Lab::new();
    lab.push(0, 8);
    assert!(
        !lab.queue.hold(0, 7, whole(1, 7), 1),
        "its first block stays"
    );
    assert!(!lab.queue.hold(0, 7, whole(8, 8), 1), "nothing is there");
    assert!(!lab.queue.hold(0, 7, whole(0, 8), 2), "the epoch is closed");
    assert!(lab.queue.hold(0, 7, whole(0, 8), 1));
    assert!(!lab.queue.hold(0, 8, whole(0, 9), 1), "one at a time");
    assert!(lab.queue.is_holding(0, 7));
    assert!(!lab.queue.hold(0, 7, whole(0, 8), 2), "closed since");
    assert_eq!(lab.sends(), "0");
    lab.queue.write_done(0, 0, Outcome::Retry);
    assert!(!lab.queue.hold(0, 7, whole(0, 8), 1), "a stray may be left");
}

/// Records of one block each, found by their first block.
fn joined(lab: &mut Lab, records: &[(u64, u32)]) -> Option<Vec<u32>> {
    let newest = |lba| records.iter().find(|of| of.0 == lba).map(|of| of.1);
    let FlushAction::Write { record } = lab.queue.next(0, &lab.limits, lab.wce, newest)? else {
        return None;
    };
    Some(lab.queue.joined(record).collect())
}

/// Pushed over nothing.
fn push_clear(lab: &mut Lab, lba: u64) -> (u64, u32) {
    let record = lab.push(lba, 1);
    lab.queue.nodes[record as usize].overlaps = false;
    (lba, record)
}

#[test]
fn a16_neighbours_of_an_epoch_go_as_one_write_in_lba_order() {
    let mut lab = Lab::new();
    lab.limits.joined_bytes_max = 4 * 512;
    let lbas = [7, 20, 6, 8, 5, 9];
    let mut all: Vec<_> = lbas.iter().map(|&lba| push_clear(&mut lab, lba)).collect();
    lab.epoch += 1;
    all.push(push_clear(&mut lab, 21));
    // Behind it first, then before it, and four at most.
    assert_eq!(joined(&mut lab, &all), Some(vec![2, 0, 3, 5]));
    assert_eq!(lab.queue.in_flight(0), (1, 4 * 512));
    assert_eq!(
        joined(&mut lab, &all),
        Some(vec![1]),
        "the next is of a later epoch"
    );
    assert_eq!(joined(&mut lab, &all), Some(vec![4]));
    lab.good(&[4, 1, 2]);
    assert_eq!(lab.next(), Some(FlushAction::Sync));
    lab.queue.sync_done(0, true);
    assert_eq!(lab.freed(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(joined(&mut lab, &all), Some(vec![6]));
}

#[test]
fn a16_what_lies_over_something_older_waits_for_its_turn() {
    let mut lab = Lab::new();
    lab.limits.joined_bytes_max = 4 * 512;
    lab.limits.writes_in_flight_max = 8;
    let first = push_clear(&mut lab, 3);
    let under = push_clear(&mut lab, 4);
    let over = (4, lab.push(4, 1));
    let next = push_clear(&mut lab, 5);
    let all = [first, over, next];
    assert_eq!(joined(&mut lab, &all), Some(vec![first.1]));
    // Its own turn comes, and what is under it is not the newest: nothing finds it.
    assert_eq!(joined(&mut lab, &all), Some(vec![under.1, next.1]));
    assert_eq!(joined(&mut lab, &all), None, "C-6");
    lab.good(&[under.1]);
    assert_eq!(joined(&mut lab, &all), Some(vec![over.1]));
}

#[test]
fn c4_joined_writes_that_are_refused_go_one_by_one() {
    let mut lab = Lab::new();
    lab.limits.joined_bytes_max = 1 << 16;
    let all = [2, 3, 4].map(|lba| push_clear(&mut lab, lba));
    assert_eq!(joined(&mut lab, &all), Some(vec![0, 1, 2]));
    lab.queue.write_done(0, 0, Outcome::Apart);
    for record in 0..3 {
        assert_eq!(joined(&mut lab, &all), Some(vec![record]));
    }
    lab.queue.write_done(0, 1, Outcome::Refused);
    lab.good(&[0, 2]);
    assert_eq!(lab.queue.refused(0).collect::<Vec<_>>(), [1]);
}

#[test]
fn a17_a_lost_session_sends_joined_records_again() {
    let mut lab = Lab::new();
    lab.limits.joined_bytes_max = 1 << 16;
    let all = [2, 3, 4].map(|lba| push_clear(&mut lab, lba));
    assert_eq!(joined(&mut lab, &all), Some(vec![0, 1, 2]));
    lab.queue.session_lost(0);
    assert_eq!(lab.queue.in_flight(0), (0, 0));
    assert_eq!(
        lab.queue.joined(0).collect::<Vec<_>>(),
        [0, 1, 2],
        "for what is astray"
    );
    assert_eq!(joined(&mut lab, &all), Some(vec![0, 1, 2]));
}

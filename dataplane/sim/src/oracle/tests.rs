//! Each rule holds where it should, and fires where it should.

use super::*;

fn rules(oracle: &Oracle) -> Vec<&'static str> {
    oracle
        .violations
        .iter()
        .map(|violation| violation.rule)
        .collect()
}

#[test]
fn a_stale_read_is_seen() {
    let mut oracle = Oracle::new(2);
    let write = oracle.write_issued(0, 1, WriteKind::Plain);
    oracle.write_acknowledged(write);
    let read = oracle.read_issued();
    oracle.read_answered(read, 0, &[0]);
    assert_eq!(rules(&oracle), ["fresh reads"]);
}

#[test]
fn a_read_beside_a_write_may_see_either() {
    let mut oracle = Oracle::new(1);
    let write = oracle.write_issued(0, 1, WriteKind::Plain);
    let read = oracle.read_issued();
    oracle.write_acknowledged(write);
    oracle.read_answered(read, 0, &[0]);
    oracle.read_answered(read, 0, &[write]);
    assert!(oracle.violations.is_empty());
}

#[test]
fn a_write_that_overtakes_an_ordering_point_is_seen() {
    let mut oracle = Oracle::new(2);
    let first = oracle.write_issued(0, 1, WriteKind::Plain);
    oracle.write_acknowledged(first);
    let sync = oracle.sync_issued();
    oracle.storage_changed(&[first, 0], &[first, 0]);
    oracle.sync_acknowledged(sync);
    let second = oracle.write_issued(1, 1, WriteKind::Plain);
    oracle.write_acknowledged(second);
    oracle.storage_changed(&[first, second], &[first, second]);
    assert!(oracle.violations.is_empty());

    let mut oracle = Oracle::new(2);
    let first = oracle.write_issued(0, 1, WriteKind::Plain);
    oracle.write_acknowledged(first);
    let sync = oracle.sync_issued();
    oracle.sync_acknowledged(sync);
    let second = oracle.write_issued(1, 1, WriteKind::Plain);
    oracle.storage_changed(&[0, second], &[0, 0]);
    assert_eq!(
        rules(&oracle),
        [
            "durability of SYNCHRONIZE CACHE",
            "no way back",
            "order, as the storage would answer"
        ]
    );
}

#[test]
fn media_going_back_is_seen() {
    let mut oracle = Oracle::new(1);
    let first = oracle.write_issued(0, 1, WriteKind::Plain);
    oracle.write_acknowledged(first);
    let second = oracle.write_issued(0, 1, WriteKind::Plain);
    oracle.write_acknowledged(second);
    oracle.storage_changed(&[second], &[second]);
    // Sent anew, in order.
    oracle.storage_changed(&[first], &[first]);
    oracle.storage_changed(&[second], &[second]);
    assert!(oracle.violations.is_empty());
    let sync = oracle.sync_issued();
    oracle.sync_acknowledged(sync);
    oracle.storage_changed(&[first], &[first]);
    assert_eq!(rules(&oracle), ["no way back"]);
}

#[test]
fn a_lost_write_and_a_refused_one_that_shows_are_seen() {
    let mut oracle = Oracle::new(2);
    let lost = oracle.write_issued(0, 1, WriteKind::Plain);
    oracle.write_acknowledged(lost);
    let refused = oracle.write_issued(1, 1, WriteKind::Plain);
    oracle.write_refused(refused);
    oracle.storage_changed(&[0, refused], &[0, 0]);
    oracle.finish(&[0, 0]);
    assert_eq!(
        rules(&oracle),
        [
            "order, as the storage would answer",
            "nothing lost",
            "nothing lost"
        ]
    );
}

#[test]
fn an_ordered_write_shows_before_what_follows_it() {
    let mut oracle = Oracle::new(2);
    let ordered = oracle.write_issued(0, 1, WriteKind::Ordered);
    oracle.write_acknowledged(ordered);
    let later = oracle.write_issued(1, 1, WriteKind::Plain);
    oracle.storage_changed(&[ordered, later], &[0, 0]);
    assert!(oracle.violations.is_empty());
    oracle.storage_changed(&[0, later], &[0, 0]);
    assert_eq!(rules(&oracle), ["order, as the storage would answer"]);
}

#[test]
fn the_storage_may_lose_what_passed_until_it_is_synchronized() {
    for synchronized in [false, true] {
        let mut oracle = Oracle::new(1);
        let passed = oracle.write_issued(0, 1, WriteKind::Passed);
        oracle.storage_changed(&[passed], &[0]);
        oracle.write_acknowledged(passed);
        if synchronized {
            oracle.storage_changed(&[passed], &[passed]);
            let sync = oracle.sync_issued();
            oracle.sync_acknowledged(sync);
        }
        oracle.storage_lost_cache();
        oracle.storage_changed(&[0], &[0]);
        let read = oracle.read_issued();
        oracle.read_answered(read, 0, &[0]);
        assert_eq!(!oracle.violations.is_empty(), synchronized);
    }
}

/// With its log the relay forgets what it has to sync: what the storage answers with
/// stays, and is durable when a SYNCHRONIZE CACHE says so.
#[test]
fn what_a_relay_forgot_is_asked_of_the_storage() {
    for kind in [WriteKind::Plain, WriteKind::Passed] {
        let begin = |visible: bool| {
            let mut oracle = Oracle::new(1);
            let number = oracle.write_issued(0, 1, kind);
            oracle.write_acknowledged(number);
            let visible = if visible { number } else { 0 };
            oracle.storage_changed(&[visible], &[0]);
            oracle.relay_lost_memory(&[visible]);
            (oracle, number)
        };
        let (mut oracle, number) = begin(true);
        oracle.finish(&[number]);
        assert_eq!(oracle.violations, [], "nobody asked for a sync");
        oracle.finish(&[0]);
        assert_eq!(rules(&oracle), ["nothing lost"], "it was there");

        let (mut oracle, _) = begin(true);
        let sync = oracle.sync_issued();
        oracle.sync_acknowledged(sync);
        assert_eq!(rules(&oracle), ["durability of SYNCHRONIZE CACHE"]);

        let (mut oracle, _) = begin(false);
        let sync = oracle.sync_issued();
        oracle.sync_acknowledged(sync);
        oracle.finish(&[0]);
        assert_eq!(oracle.violations, [], "it was in the log alone");
    }
}

/// By contract `storage` a plain write was on the media; what passed is the storage's
/// own, by its cache or not, and may still not be lost.
#[test]
fn what_passed_is_forgotten_with_the_log_by_every_contract() {
    for (contract, kind, at_the_end) in [
        (Durability::Storage, WriteKind::Passed, vec![]),
        (Durability::Storage, WriteKind::Plain, vec!["nothing lost"]),
        (Durability::Journal, WriteKind::Passed, vec![]),
        (Durability::Journal, WriteKind::Plain, vec!["nothing lost"]),
    ] {
        let mut oracle = Oracle::of(1, contract);
        let number = oracle.write_issued(0, 1, kind);
        oracle.storage_changed(&[number], &[0]);
        oracle.write_acknowledged(number);
        oracle.violations.clear();
        oracle.relay_lost_memory(&[number]);
        oracle.finish(&[number]);
        assert_eq!(rules(&oracle), at_the_end, "{kind:?} on the media");
        oracle.violations.clear();
        oracle.finish(&[0]);
        assert!(rules(&oracle).contains(&"nothing lost"), "{kind:?} at all");
    }
}

/// Damage excuses nothing before it is given up, and then the blocks of its record alone.
#[test]
fn what_was_damaged_is_excused_when_it_is_given_up() {
    let acknowledged = |oracle: &mut Oracle, lba: u64, blocks: u32| {
        let number = oracle.write_issued(lba, blocks, WriteKind::Plain);
        oracle.write_acknowledged(number);
        number
    };
    let begin = || {
        let mut oracle = Oracle::new(4);
        let older = acknowledged(&mut oracle, 0, 2);
        let lost = acknowledged(&mut oracle, 0, 4);
        let over = acknowledged(&mut oracle, 1, 1);
        // A record of three of its four blocks is damaged, under a newer write of one.
        let mut damage = oracle.damage(lost, 0, 3);
        damage.stays(1, over);
        (oracle, older, lost, over, damage)
    };
    let (mut oracle, _, lost, over, _) = begin();
    let read = oracle.read_issued();
    oracle.read_answered(read, 0, &[0, over, lost, lost]);
    assert_eq!(rules(&oracle), ["fresh reads"]);

    // Nor is the older write there any more: it was hidden, and never sent.
    let (mut oracle, older, lost, over, damage) = begin();
    oracle.give_up(&damage);
    let read = oracle.read_issued();
    oracle.read_answered(read, 0, &[0, over, 0, lost]);
    oracle.storage_changed(&[0, over, 0, lost], &[0, over, 0, lost]);
    oracle.finish(&[0, over, 0, lost]);
    assert_eq!(oracle.violations, []);

    for image in [[0, lost, 0, lost], [0, older, 0, lost], [0, over, 0, 0]] {
        let (mut oracle, _, _, _, damage) = begin();
        oracle.give_up(&damage);
        let read = oracle.read_issued();
        oracle.read_answered(read, 0, &image);
        assert_eq!(rules(&oracle), ["fresh reads"], "{image:?}");
        oracle.storage_changed(&image, &image);
        oracle.finish(&image);
        assert!(rules(&oracle).contains(&"nothing lost"), "{image:?}");
    }
    // What comes after it is asked for as ever.
    let (mut oracle, _, lost, _, damage) = begin();
    oracle.give_up(&damage);
    let later = acknowledged(&mut oracle, 2, 1);
    let read = oracle.read_issued();
    oracle.read_answered(read, 2, &[lost]);
    assert_eq!(rules(&oracle), ["fresh reads"]);
    assert_eq!(oracle.expected(2), later);
}

/// A computer that another keeps out is acknowledged nothing; a doubt excuses it.
#[test]
fn what_is_acknowledged_past_a_fence_is_seen() {
    let reserve = Reserving::Reserve(sluice_proto::scsi::reservation::Kind::WriteExclusive);
    for doubt in [false, true] {
        let mut oracle = Oracle::new(2);
        let before = oracle.write_issued_by(1, 0, 1, WriteKind::Plain);
        let ticket = oracle.reserve_issued(0, reserve);
        oracle.reserve_answered(ticket, true);
        // It was under way before.
        oracle.write_acknowledged(before);
        let own = oracle.write_issued_by(0, 1, 1, WriteKind::Plain);
        oracle.write_acknowledged(own);
        let other = oracle.write_issued_by(1, 0, 1, WriteKind::Plain);
        if doubt {
            let _ = oracle.reserve_issued(1, Reserving::Clear);
        }
        assert!(oracle.violations.is_empty());
        oracle.write_acknowledged(other);
        assert_eq!(oracle.violations.is_empty(), doubt);
    }
}

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

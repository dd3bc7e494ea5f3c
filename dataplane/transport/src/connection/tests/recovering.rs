use super::*;

/// RFC 8985, 3.1 and 7: the tail is lost; a probe brings an acknowledgement, and that
/// shows what is missing, long before the timeout.
#[test]
fn rfc_8985_a_lost_tail_is_probed() {
    let mut script = Script::established(config());
    script.lend(4000);
    assert_eq!(script.out().len(), 4);
    script.pass(100);
    script.peer_sacks(1001, &[]);
    script.sends_nothing();
    let waited = script.next_deadline();
    assert!((200..=205).contains(&waited), "two round trips: {waited}");
    script.sends(&[(3001, 1, 1000, ACK)]);
    assert_eq!(script.connection.counters().tail_probes, 1);
    script.pass(100);
    script.peer_sacks(1001, &[(3001, 4001)]);
    let mut resent: Vec<_> = script.out().iter().map(|out| out.seq).collect();
    while resent.len() < 2 {
        let waited = script.next_deadline();
        assert!(waited <= 50, "within a quarter of a round trip: {waited}");
        resent.extend(script.out().iter().map(|out| out.seq));
    }
    assert_eq!(resent, [1001, 2001]);
    script.pass(100);
    script.peer_sacks(4001, &[]);
    let counters = script.connection.counters();
    assert_eq!((counters.timeouts, counters.recoveries), (0, 1));
    assert!(script.connection.tx.recovery.is_open());
}

/// RFC 8985, 6.2: three segments sacked behind a hole, and no reordering was ever seen.
#[test]
fn rfc_8985_a_hole_is_filled_at_once() {
    let mut script = Script::established(config());
    script.lend(5000);
    script.out();
    script.pass(100);
    script.peer_sacks(1, &[(1001, 2001)]);
    script.sends_nothing();
    script.peer_sacks(1, &[(1001, 3001)]);
    script.sends_nothing();
    script.peer_sacks(1, &[(1001, 4001)]);
    script.sends(&[(1, 1, 1000, ACK)]);
    assert_eq!(script.connection.counters().recoveries, 1);
    script.pass(100);
    script.peer_sacks(5001, &[]);
    assert!(script.connection.tx.recovery.is_open());
    assert_eq!(script.connection.next_released(), Some(7));
}

/// RFC 5682, 3: the timeout was too early: the originals are acknowledged one by one.
#[test]
fn rfc_5682_a_spurious_timeout_is_undone() {
    let mut script = Script::established(config());
    script.lend(5000);
    script.out();
    let window = script.connection.sample().window;
    while script.connection.counters().timeouts == 0 {
        script.next_deadline();
        script.out();
    }
    assert_eq!(script.connection.sample().window, 1000);
    script.peer_sacks(2001, &[]);
    // That was of the first, which was resent, and of the second, which was not: no proof.
    let counters = script.connection.counters();
    assert_eq!(counters.spurious_timeouts, 0);
    assert!(counters.bytes_resent > 0 && window > 5000);
}

#[test]
fn rfc_5682_an_original_that_arrives_after_the_timeout() {
    let mut script = Script::established(config());
    script.lend(5000);
    script.out();
    let window = script.connection.sample().window;
    while script.connection.counters().timeouts == 0 {
        script.next_deadline();
        script.out();
    }
    // The first only: it says nothing. Then the others, of which the third was not resent.
    script.peer_sacks(1001, &[]);
    script.peer_sacks(1001, &[(2001, 3001)]);
    assert_eq!(script.connection.counters().spurious_timeouts, 1);
    assert!(
        script.connection.sample().window >= window,
        "the window is back"
    );
    assert!(script.connection.tx.recovery.is_open());
}

/// RFC 2883, 5: every retransmission came twice, so nothing was lost.
#[test]
fn rfc_2883_a_needless_recovery_is_undone() {
    let mut script = Script::established(Config {
        control: crate::ControlKind::Cubic,
        ..config()
    });
    script.lend(5000);
    script.out();
    let window = script.connection.sample().window;
    script.pass(100);
    script.peer_sacks(1, &[(1001, 4001)]);
    script.sends(&[(1, 1, 1000, ACK)]);
    script.pass(20);
    script.peer_sacks(5001, &[]);
    script.pass(80);
    script.peer_sacks(5001, &[(1, 1001)]);
    let counters = script.connection.counters();
    assert_eq!((counters.dsacks, counters.recoveries), (1, 1));
    assert!(counters.undone == 1 && script.connection.sample().window >= window);
}

/// RFC 5681, 3.2, for a peer without SACK.
#[test]
fn three_duplicates_of_a_peer_without_sack() {
    let mut script = Script::established(Config {
        sack: false,
        ..config()
    });
    script.lend(6000);
    script.out();
    script.pass(100);
    for _ in 0..2 {
        script.peer_sacks(1, &[]);
        script.sends_nothing();
    }
    script.peer_sacks(1, &[]);
    script.sends(&[(1, 1, 1000, ACK)]);
    script.pass(100);
    // RFC 6582, 3.2: a partial acknowledgement shows the next hole.
    script.peer_sacks(3001, &[]);
    assert_eq!(script.out()[0].seq, 3001);
}

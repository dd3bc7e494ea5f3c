use super::*;
use crate::seq::DATA_AT;

#[test]
fn acknowledgements_are_delayed_and_every_second_one_is_not() {
    let mut script = Script::established(config());
    let mut seq = 1;
    for _ in 0..16 {
        script.peer_data(seq, 1, 10);
        seq += 10;
        script.sends(&[(1, seq, 0, ACK)]);
    }
    script.peer_data(seq, 1, 1000);
    script.sends_nothing();
    assert_eq!(script.next_deadline(), 40);
    script.sends(&[(1, seq + 1000, 0, ACK)]);
    script.peer_data(seq + 1000, 1, 1000);
    script.sends_nothing();
    script.peer_data(seq + 2000, 1, 1000);
    script.sends(&[(1, seq + 3000, 0, ACK)]);
    // Data takes the acknowledgement along.
    script.peer_data(seq + 3000, 1, 1000);
    script.lend(100);
    script.sends(&[(1, seq + 4000, 100, ACK)]);
}

#[test]
fn rfc_9293_3_8_6_1_a_closed_window_is_probed_with_backoff() {
    let mut script = Script::established(config());
    script.lend(1000);
    script.out();
    script.pass(100);
    let mut closed = from_peer(1, 1001, ACK);
    closed.window = 0;
    script.peer(closed);
    script.lend(500);
    script.sends_nothing();
    let mut waits = Vec::new();
    for _ in 0..4 {
        waits.push(script.next_deadline());
        script.sends(&[(1000, 1, 0, ACK)]);
        script.peer(closed);
    }
    assert!(
        waits[0] >= 200 && waits.windows(2).all(|pair| pair[1] == 2 * pair[0]),
        "{waits:?}"
    );
    let mut open = closed;
    open.window = 500;
    script.peer(open);
    script.sends(&[(1001, 1, 500, ACK)]);
}

#[test]
fn rfc_9293_3_8_6_2_1_a_window_too_small_for_a_segment_is_not_used_at_once() {
    let mut script = Script::established(config());
    script.lend(1000);
    script.out();
    let mut small = from_peer(1, 1001, ACK);
    small.window = 300;
    script.peer(small);
    script.lend(2000);
    script.sends_nothing();
    script.next_deadline();
    script.sends(&[(1001, 1, 300, ACK)]);
}

#[test]
fn rfc_9293_3_8_4_keep_alive() {
    let mut script = Script::established(Config {
        keep_alive: Some(KeepAlive {
            idle: Duration::from_secs(10),
            interval: Duration::from_secs(2),
            probes_max: 2,
        }),
        ..config()
    });
    assert_eq!(script.next_deadline(), 10_000);
    script.sends(&[(0, 1, 0, ACK)]);
    script.pass(50);
    script.peer(from_peer(1, 1, ACK));
    assert_eq!(script.next_deadline(), 10_000, "answered");
    script.sends(&[(0, 1, 0, ACK)]);
    assert_eq!(script.next_deadline(), 2000);
    script.sends(&[(0, 1, 0, ACK)]);
    assert_eq!(script.next_deadline(), 2000);
    script.sends_nothing();
    assert_eq!(script.connection.ended(), Some(Ended::TimedOut));
}

#[test]
fn rfc_5482_the_user_timeout() {
    let config = Config {
        user_timeout: Duration::from_secs(30),
        user_timeout_option: true,
        ..config()
    };
    let mut script = Script::connect(config);
    script.poll();
    assert_eq!(script.wire.0.remove(0).0.options.user_timeout_s, Some(30));
    let mut syn = from_peer(0, 1, Flags::SYN | ACK);
    syn.options.user_timeout_s = Some(5);
    script.peer(syn);
    script.out();
    let began = script.now_ms;
    script.lend(100);
    while script.connection.ended().is_none() {
        script.out();
        if script.connection.ended().is_none() {
            script.next_deadline();
        }
    }
    assert_eq!(script.connection.ended(), Some(Ended::TimedOut));
    // What the peer asks for is taken within 100 s and an hour (3.1).
    assert_eq!(script.now_ms - began, 100_000);
}

#[test]
fn an_idle_connection_has_no_deadline() {
    let mut script = Script::established(config());
    script.sends_nothing();
    assert_eq!(script.connection.next_deadline(), None);
    script.lend(10);
    script.out();
    script.peer_data(1, 11, 0);
    script.sends_nothing();
    assert_eq!(script.connection.next_deadline(), None);
}

#[test]
fn rfc_8899_two_timeouts_of_full_segments_are_a_black_hole() {
    let mut script = Script::established(Config {
        mss_max: 9000,
        ..config()
    });
    // The peer said 1000, which is below the base: nothing to shrink but to the floor.
    assert_eq!(script.connection.tx.mtu.size(), 1000);
    script.lend(5000);
    script.out();
    let mut sizes = Vec::new();
    while script.connection.counters().black_holes == 0 {
        script.next_deadline();
        sizes.extend(script.out().iter().map(|out| out.len));
    }
    assert_eq!(script.connection.tx.mtu.size(), crate::mtu::FLOOR);
    assert_eq!(
        sizes.iter().rev().take(2).copied().collect::<Vec<_>>(),
        [464, 536],
        "{sizes:?}"
    );
    // The long segment is acknowledged in parts.
    script.peer_sacks(537, &[]);
    assert_eq!(script.connection.tx.una, DATA_AT + 536);
}

#[test]
fn the_send_limit_is_changed_live() {
    let mut script = Script::established(Config {
        send_limit: 2000,
        ..config()
    });
    assert_eq!(script.connection.send_room(), 2000);
    script.lend(2000);
    assert_eq!(script.connection.send(8, 1), Err(8));
    script.connection.set_send_limit(1 << 20);
    assert_eq!(script.connection.send(8, 5000), Ok(()));
    script.connection.set_send_limit(1000);
    assert_eq!(script.connection.send_room(), 0);
    script.out();
    script.peer_data(1, 7001, 0);
    assert_eq!(script.connection.send_room(), 1000);
}

/// What bounds a sender whose buffer is full is not that it has too little to send: it
/// would never leave the start, which waits for a round that the path bounds.
#[test]
fn a_full_buffer_is_not_too_little_to_send() {
    for (lent, app_limited) in [(5999, true), (6000, false), (8000, false)] {
        let mut script = Script::established(Config {
            send_limit: 8000,
            ..config()
        });
        script.lend(lent);
        script.out();
        script.pass(10);
        script.peer_data(1, 1 + lent, 0);
        script.lend(lent);
        script.out();
        assert_eq!(script.connection.unsent(), 0, "all of it is out");
        let sample = script.connection.sample();
        assert!(sample.in_flight < sample.window);
        assert_eq!(sample.app_limited, app_limited, "{lent} of 8000 bytes");
    }
}

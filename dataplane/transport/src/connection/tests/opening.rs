use super::*;
use crate::Violation;

#[test]
fn rfc_9293_figure_6_three_way_handshake() {
    let mut script = Script::connect(Config {
        timestamps: true,
        window_max: 64 << 20,
        ..config()
    });
    script.poll();
    let (syn, _, _) = script.wire.0.remove(0);
    assert_eq!((syn.flags, syn.options.mss), (Flags::SYN, Some(1000)));
    assert_eq!(
        (syn.options.window_scale, syn.options.sack_permitted),
        (Some(11), true)
    );
    assert!(syn.options.timestamp.is_some() && syn.window == 65_535);
    let mut answer = from_peer(0, 1, Flags::SYN | ACK);
    answer.options.mss = Some(500);
    answer.options.window_scale = Some(3);
    answer.window = 1000;
    script.pass(40);
    script.peer(answer);
    script.sends(&[(1, 1, 0, ACK)]);
    assert_eq!(script.connection.state(), State::Established);
    // No timestamps, no SACK: the peer did not offer them. A SYN's window is not scaled.
    script.lend(4000);
    let out = script.out();
    assert_eq!((out.len(), out[0].len, out[1].len), (2, 500, 500));
    assert_eq!(
        script.connection.sample().srtt,
        Some(Duration::from_millis(40))
    );
    script.peer_data(1, 1001, 0);
    assert_eq!(script.out().len(), 6, "60,000 << 3 is room for the rest");
}

#[test]
fn a_lost_syn_is_sent_again_with_backoff_and_without_ecn() {
    let mut script = Script::connect(Config {
        ecn: true,
        syn_attempts_max: 3,
        ..config()
    });
    script.sends(&[(0, 0, 0, Flags::SYN | Flags::ECE | Flags::CWR)]);
    assert_eq!(script.next_deadline(), 1000);
    script.sends(&[(0, 0, 0, Flags::SYN)]);
    assert_eq!(script.next_deadline(), 2000);
    script.sends(&[(0, 0, 0, Flags::SYN)]);
    assert_eq!(script.next_deadline(), 4000);
    script.sends_nothing();
    assert_eq!(script.connection.ended(), Some(Ended::TimedOut));
    assert_eq!(script.connection.next_deadline(), None);
}

#[test]
fn rfc_9293_figure_7_simultaneous_open() {
    let mut script = Script::connect(config());
    script.sends(&[(0, 0, 0, Flags::SYN)]);
    script.peer(from_peer(0, 0, Flags::SYN));
    assert_eq!(script.connection.state(), State::SynReceived);
    script.sends(&[(0, 1, 0, Flags::SYN | ACK)]);
    script.peer(from_peer(1, 1, ACK));
    assert_eq!(script.connection.state(), State::Established);
}

#[test]
fn rfc_9293_figure_9_an_old_incarnation_is_reset_and_the_port_used_again() {
    let mut script = Script::connect(config());
    script.sends(&[(0, 0, 0, Flags::SYN)]);
    // The peer is in TIME-WAIT and acknowledges what it knows.
    script.peer(from_peer(500, 77_777, ACK));
    script.sends(&[(77_777, 0, 0, Flags::RST)]);
    assert_eq!(script.violations(Violation::AckOfUnsent), 1);
    script.next_deadline();
    script.sends(&[(0, 0, 0, Flags::SYN)]);
    script.peer(from_peer(0, 1, Flags::SYN | ACK));
    assert_eq!(script.connection.state(), State::Established);
}

#[test]
fn a_refusal_must_acknowledge_the_syn() {
    let mut script = Script::connect(config());
    script.sends(&[(0, 0, 0, Flags::SYN)]);
    script.peer(from_peer(0, 0, Flags::RST));
    script.peer(from_peer(0, 50, Flags::RST | ACK));
    assert_eq!(script.connection.ended(), None);
    script.peer(from_peer(0, 1, Flags::RST | ACK));
    assert_eq!(script.connection.ended(), Some(Ended::Refused));
}

#[test]
fn a_passive_open() {
    let mut syn = from_peer(0, 0, Flags::SYN);
    assert!(
        Connection::<u32, u32>::accept(config(), Seq(ISN), ms(0), &from_peer(0, 0, ACK)).is_none()
    );
    syn.options.window_scale = Some(0);
    let connection = Connection::accept(config(), Seq(ISN), ms(1000), &syn).unwrap();
    let mut script = Script {
        connection,
        ..Script::connect(config())
    };
    script.poll();
    assert_eq!(
        script.wire.0[0].0.options.window_scale,
        Some(0),
        "offered, so answered"
    );
    script.sends(&[(0, 1, 0, Flags::SYN | ACK)]);
    // A reset of someone who saw a port and no number.
    script.peer(from_peer(1, 40_000, ACK));
    script.sends(&[(40_000, 0, 0, Flags::RST)]);
    script.peer(from_peer(1, 1, ACK));
    assert_eq!(script.connection.state(), State::Established);
}

#[test]
fn rfc_3168_6_1_1_1_a_refusal_of_what_asks_is_believed_the_second_time() {
    let mut script = Script::connect(Config {
        ecn: true,
        ..config()
    });
    let asking = Flags::SYN | Flags::ECE | Flags::CWR;
    script.sends(&[(0, 0, 0, asking)]);
    script.pass(30);
    script.peer(from_peer(0, 1, Flags::RST | ACK));
    assert_eq!(script.connection.ended(), None);
    script.sends(&[(0, 0, 0, Flags::SYN)]);
    assert_eq!(script.connection.counters().timeouts, 0);
    assert_eq!(script.next_deadline(), 1000, "as if it were the first");
    script.peer(from_peer(0, 1, Flags::RST | ACK));
    assert_eq!(script.connection.ended(), Some(Ended::Refused));
}

#[test]
fn rfc_3168_6_1_1_an_answer_to_the_first_syn_after_the_second() {
    let mut script = Script::connect(Config {
        ecn: true,
        ..config()
    });
    script.out();
    script.next_deadline();
    script.sends(&[(0, 0, 0, Flags::SYN)]);
    script.peer(from_peer(0, 1, Flags::SYN | ACK | Flags::ECE));
    script.sends(&[(1, 1, 0, ACK)]);
    // The peer takes it that we can: marks are echoed, but none is asked for.
    script.peer_with(from_peer(1, 1, ACK), 100, IpEcn::Congested);
    script.sends(&[(1, 101, 0, ACK | Flags::ECE)]);
    script.lend(500);
    script.poll();
    assert_eq!(script.wire.0[0].1, IpEcn::NotCapable);
}

#[test]
fn rfc_3168_ecn_is_agreed_on_echoed_and_answered() {
    let mut script = Script::connect(Config {
        ecn: true,
        ..config()
    });
    script.out();
    script.peer(from_peer(0, 1, Flags::SYN | ACK | Flags::ECE));
    script.sends(&[(1, 1, 0, ACK)]);
    // 6.1.3: a mark is echoed until the peer has slowed down.
    script.peer_with(from_peer(1, 1, ACK), 100, IpEcn::Congested);
    script.sends(&[(1, 101, 0, ACK | Flags::ECE)]);
    script.peer_with(from_peer(101, 1, ACK), 100, IpEcn::Capable);
    script.sends(&[(1, 201, 0, ACK | Flags::ECE)]);
    script.peer_with(from_peer(201, 1, ACK | Flags::CWR), 100, IpEcn::Capable);
    script.sends(&[(1, 301, 0, ACK)]);
    // 6.1.2: once a window, and said so.
    script.lend(2000);
    script.poll();
    assert!(
        script
            .wire
            .0
            .iter()
            .all(|(_, ecn, _)| *ecn == IpEcn::Capable)
    );
    script.wire.0.clear();
    script.pass(50);
    script.peer(from_peer(301, 1001, ACK | Flags::ECE));
    script.peer(from_peer(301, 2001, ACK | Flags::ECE));
    assert_eq!(script.connection.counters().congestion_marks, 1);
    script.lend(500);
    script.sends(&[(2001, 301, 500, ACK | Flags::CWR)]);
}

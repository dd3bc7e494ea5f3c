use super::*;

const FIN: Flags = Flags::FIN;

#[test]
fn rfc_9293_figure_12_normal_close() {
    let mut script = Script::established(config());
    script.lend(100);
    script.connection.close();
    assert_eq!(script.connection.send(7, 1), Err(7));
    script.sends(&[(1, 1, 100, ACK | FIN)]);
    assert_eq!(script.connection.state(), State::FinWait1);
    script.peer(from_peer(1, 102, ACK));
    assert_eq!(script.connection.state(), State::FinWait2);
    script.peer_data(1, 102, 50);
    script.peer(from_peer(51, 102, ACK | FIN));
    script.sends(&[(102, 52, 0, ACK)]);
    assert_eq!(script.connection.state(), State::TimeWait);
    assert_eq!(script.connection.read().unwrap().len, 50);
    assert!(script.connection.is_read_to_end());
    // The FIN again: acknowledged again, and the wait begins anew (3.10.7.4).
    script.pass(30_000);
    script.peer(from_peer(51, 102, ACK | FIN));
    script.sends(&[(102, 52, 0, ACK)]);
    assert_eq!(script.next_deadline(), 60_000);
    script.sends_nothing();
    assert_eq!(script.connection.ended(), Some(Ended::Finished));
}

#[test]
fn rfc_9293_figure_13_simultaneous_close() {
    let mut script = Script::established(config());
    script.connection.close();
    script.sends(&[(1, 1, 0, ACK | FIN)]);
    script.peer(from_peer(1, 1, ACK | FIN));
    assert_eq!(script.connection.state(), State::Closing);
    script.sends(&[(2, 2, 0, ACK)]);
    script.peer(from_peer(2, 2, ACK));
    assert_eq!(script.connection.state(), State::TimeWait);
}

#[test]
fn the_peer_closes_first() {
    let mut script = Script::established(config());
    script.peer(from_peer(1, 1, ACK | FIN));
    script.sends(&[(1, 2, 0, ACK)]);
    assert_eq!(script.connection.state(), State::CloseWait);
    script.lend(100);
    script.sends(&[(1, 2, 100, ACK)]);
    script.connection.close();
    script.sends(&[(101, 2, 0, ACK | FIN)]);
    assert_eq!(script.connection.state(), State::LastAck);
    script.peer(from_peer(2, 102, ACK));
    assert_eq!(script.connection.ended(), Some(Ended::Finished));
    assert_eq!(script.connection.next_released(), Some(7));
}

#[test]
fn a_lost_fin_is_sent_again() {
    let mut script = Script::established(config());
    script.connection.close();
    script.sends(&[(1, 1, 0, ACK | FIN)]);
    // The tail's probe first: two round trips and the peer's delay, unless the timeout
    // comes before that.
    script.next_deadline();
    script.sends(&[(1, 1, 0, ACK | FIN)]);
}

#[test]
fn a_fin_before_its_turn_waits_to_come_again() {
    let mut script = Script::established(config());
    script.peer_with(from_peer(101, 1, ACK | FIN), 100, IpEcn::NotCapable);
    assert_eq!(script.connection.state(), State::Established);
    script.poll();
    let sack = script.wire.0.pop().unwrap().0.options.sack;
    let at = |n| Seq(PEER_ISN).plus(n);
    assert_eq!(
        sack.as_slice(),
        [(at(101), at(201))],
        "the FIN is not sacked"
    );
    script.peer_data(1, 1, 100);
    script.sends(&[(1, 201, 0, ACK)]);
    script.peer(from_peer(201, 1, ACK | FIN));
    script.sends(&[(1, 202, 0, ACK)]);
}

#[test]
fn abort_resets() {
    let mut script = Script::established(config());
    script.lend(100);
    script.out();
    script.connection.abort();
    script.sends(&[(101, 1, 0, Flags::RST | ACK)]);
    assert_eq!(script.connection.ended(), Some(Ended::Aborted));
    assert_eq!(script.connection.next_released(), Some(7));
    script.sends_nothing();
}

#[test]
fn rfc_6191_a_port_in_time_wait_is_used_again_with_newer_timestamps() {
    let mut script = Script::established(Config {
        timestamps: true,
        ..config()
    });
    script.connection.close();
    script.out();
    script.peer(from_peer(1, 2, ACK | FIN));
    assert_eq!(script.connection.state(), State::TimeWait);
    let reusable = |script: &Script, isn| script.connection.is_reusable(script.now(), Seq(isn));
    assert!(!reusable(&script, 200_000), "too early");
    script.pass(1000);
    assert!(reusable(&script, 200_000));
    assert!(!reusable(&script, ISN), "not behind");
}

#[test]
fn rfc_9293_3_10_7_1_a_segment_for_nobody() {
    let syn = from_peer(0, 0, Flags::SYN);
    let reset = refuse(&syn, 10).unwrap();
    assert_eq!(
        (reset.ack, reset.flags),
        (Seq(PEER_ISN).plus(11), Flags::RST | ACK)
    );
    let reset = refuse(&from_peer(5, 77, ACK), 0).unwrap();
    assert_eq!((reset.seq, reset.flags), (Seq(ISN).plus(77), Flags::RST));
    assert_eq!(refuse(&reset, 0), None);
    // The peer of a connection that was aborted challenges, and is answered with this.
    let mut script = Script::established(config());
    script.peer(Segment {
        seq: Seq(PEER_ISN).plus(1),
        ..reset
    });
    assert_eq!(script.connection.ended(), Some(Ended::Reset));
}

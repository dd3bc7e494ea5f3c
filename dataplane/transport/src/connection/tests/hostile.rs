use super::*;
use crate::Violation;

#[test]
fn rfc_5961_3_2_resets() {
    let mut script = Script::established(config());
    // Outside the window: dropped in silence.
    script.peer(from_peer(70_000, 1, Flags::RST));
    script.sends_nothing();
    // In the window and not the next: challenged.
    script.peer(from_peer(2, 1, Flags::RST));
    script.sends(&[(1, 1, 0, ACK)]);
    assert_eq!(script.connection.ended(), None);
    assert_eq!(script.violations(Violation::ResetOutside), 1);
    assert_eq!(script.violations(Violation::ResetInWindow), 1);
    // Exactly the next.
    script.peer(from_peer(1, 1, Flags::RST));
    assert_eq!(script.connection.ended(), Some(Ended::Reset));
    script.sends_nothing();
}

#[test]
fn rfc_5961_4_2_a_syn_is_challenged_whatever_its_number() {
    let mut script = Script::established(config());
    for seq in [0, 1, 500, 70_000] {
        script.peer(from_peer(seq, 1, Flags::SYN));
        script.sends(&[(1, 1, 0, ACK)]);
    }
    assert_eq!(script.connection.state(), State::Established);
}

#[test]
fn rfc_5961_5_2_the_range_of_acknowledgements() {
    let mut script = Script::established(config());
    script.lend(1000);
    script.out();
    script.peer_data(1, 1002, 10);
    script.sends(&[(1001, 1, 0, ACK)]);
    assert_eq!(script.violations(Violation::AckOfUnsent), 1);
    // 65,535 behind is as old as it may be.
    script.peer_data(1, 1u32.wrapping_sub(70_000), 10);
    script.sends(&[(1001, 1, 0, ACK)]);
    assert_eq!(script.violations(Violation::AckTooOld), 1);
    assert_eq!(script.connection.readable(), 0, "nor is their data taken");
    script.peer_data(1, 1u32.wrapping_sub(60_000), 10);
    assert_eq!(script.connection.readable(), 10);
}

#[test]
fn rfc_5961_7_challenges_are_few() {
    let mut script = Script::established(config());
    let mut answers = 0;
    for _ in 0..50 {
        script.peer(from_peer(2, 1, Flags::RST));
        answers += script.out().len();
    }
    assert_eq!(answers, 10);
    assert_eq!(script.violations(Violation::ChallengesThrottled), 40);
    script.pass(1000);
    script.peer(from_peer(2, 1, Flags::RST));
    assert_eq!(script.out().len(), 1);
}

#[test]
fn rfc_7323_5_paws() {
    let mut script = Script::established(Config {
        timestamps: true,
        ..config()
    });
    script.peer_data(1, 1, 100);
    script.sends(&[(1, 101, 0, ACK)]);
    let with = |seq, value| {
        let mut segment = from_peer(seq, 1, ACK);
        segment.options.timestamp = Some(Timestamp { value, echo: 0 });
        segment
    };
    script.peer_with(with(101, 499), 100, IpEcn::NotCapable);
    script.sends(&[(1, 101, 0, ACK)]);
    assert_eq!(script.violations(Violation::OldTimestamp), 1);
    // A timestamp beyond the left edge is not remembered (4.3).
    script.peer_with(with(301, 90_000), 100, IpEcn::NotCapable);
    script.out();
    script.peer_with(with(101, 500), 100, IpEcn::NotCapable);
    script.sends(&[(1, 201, 0, ACK)]);
    // Without one it is dropped, but for a reset (3.2).
    script.peer_clock = None;
    script.peer_data(201, 1, 100);
    script.sends_nothing();
    assert_eq!(script.violations(Violation::MissingTimestamp), 1);
    script.peer(from_peer(201, 1, Flags::RST));
    assert_eq!(script.connection.ended(), Some(Ended::Reset));
}

#[test]
fn sack_lies_are_counted_and_change_nothing() {
    let mut script = Script::established(config());
    script.lend(4000);
    script.out();
    script.pass(50);
    script.peer_sacks(1, &[(5000, 9000), (2000, 1000), (3000, 3000)]);
    assert_eq!(script.violations(Violation::SackOfUnsent), 3);
    script.peer_sacks(1, &[(0, 1)]);
    assert_eq!(script.violations(Violation::DsackOfUnresent), 1);
    assert_eq!(script.connection.sample().in_flight, 4000);
    script.sends_nothing();
}

#[test]
fn rfc_2018_8_a_receiver_that_throws_away_what_it_sacked() {
    let mut script = Script::established(config());
    script.lend(3000);
    script.out();
    script.pass(100);
    script.peer_sacks(1, &[(1001, 3001)]);
    script.pass(200);
    // The first comes again, and then nothing is sacked any more.
    assert_eq!(script.out()[0].seq, 1);
    script.pass(100);
    script.peer_sacks(1001, &[]);
    let mut again = Vec::new();
    for _ in 0..6 {
        script.next_deadline();
        again.extend(script.out().iter().map(|out| out.seq));
        if again.contains(&1001) {
            script.peer_sacks(3001, &[]);
            break;
        }
    }
    assert!(again.contains(&1001), "{again:?}");
    assert_eq!(script.violations(Violation::Reneged), 1);
    assert_eq!(script.connection.unacknowledged(), 0);
}

#[test]
fn a_router_is_believed_about_what_is_outstanding() {
    let mut script = Script::established(config());
    let says = |script: &mut Script, seq, mss| {
        let now = script.now();
        let seq = Seq(ISN).plus(seq);
        script.connection.on_packet_too_big(now, seq, mss)
    };
    assert_eq!(says(&mut script, 0, 600), TooBig::Refused, "nothing is out");
    script.lend(3000);
    script.out();
    script.pass(100);
    script.peer_sacks(1001, &[]);
    // Acknowledged, and never sent.
    for seq in [0, 1, 1000, 3001, 5000, 1 << 31] {
        assert_eq!(says(&mut script, seq, 600), TooBig::Refused, "{seq}");
    }
    for mss in [0, 68 - 40, 535, 1000, 9000] {
        assert_eq!(says(&mut script, 2001, mss), TooBig::Refused, "{mss}");
    }
    assert_eq!(script.connection.tx.mtu.size(), 1000);
    assert_eq!(says(&mut script, 2001, 600), TooBig::Shrunk);
    assert_eq!(script.connection.tx.mtu.size(), 600);
    assert_eq!(says(&mut script, 2001, 600), TooBig::Known);
    // What came before it may have got through; the rest goes out at once, in two parts.
    let again = [(2001, 0, 600, ACK), (2601, 0, 400, ACK)];
    let out = script.out();
    assert_eq!(out.len(), 2);
    for (out, (seq, _, len, flags)) in out.iter().zip(again) {
        assert_eq!((out.seq, out.len, out.flags), (seq, len, flags));
    }
    assert_eq!(script.connection.counters().timeouts, 0);
    assert_eq!(script.connection.counters().recoveries, 0);
}

//! Explicit congestion notification (RFC 3168) on flows to the storage.

use super::path::{Heard, Path, Way, mark};
use super::*;

const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const RST_ACK: u8 = 0x14;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
const NOT_ECT: u8 = 0;
const ECT_0: u8 = 2;
const CE: u8 = 3;
const LIMIT: Duration = Duration::from_secs(20);

fn asks(packet: &[u8]) -> bool {
    packet[33] & (SYN | ECE | CWR) == SYN | ECE | CWR
}

/// The RST that answers a SYN.
fn refusal(syn: &[u8]) -> Vec<u8> {
    let port = u16::from_be_bytes([syn[20], syn[21]]);
    let seq = u32::from_be_bytes(syn[24..28].try_into().unwrap());
    let mut rst = Raw {
        from: STORAGE,
        to: SocketAddrV4::new(COMPUTER, port),
        control: TcpControl::Rst,
        seq: 0,
        ack: Some(seq.wrapping_add(1)),
        payload: &[],
    }
    .packet()
    .bytes;
    assert_eq!(rst[33], RST_ACK);
    rst.truncate(40);
    rst
}

#[test]
fn only_new_data_can_be_marked() {
    let mut count = 0;
    let mut path = Path::new(config(), true, |_, way, packet: Vec<u8>| {
        count += u32::from(way == Way::ToStorage && packet.len() > 1000);
        let is_lost = way == Way::ToStorage && packet.len() > 1000 && count.is_multiple_of(20);
        if is_lost {
            Vec::new()
        } else {
            vec![(way, packet)]
        }
    });
    assert!(path.exchange(300_000, 300_000, LIMIT));
    path.host.tcp.close(path.flow);
    path.exchange(0, 0, LIMIT);
    let syn = path.sent[0];
    assert_eq!((syn.flags, syn.ecn), (SYN | ECE | CWR, NOT_ECT));
    let first = path.first_sent();
    let data = path.sent.iter().filter(|segment| segment.payload_len > 0);
    assert!(
        data.clone().count() > first.len(),
        "something was sent again"
    );
    assert!(first.iter().all(|segment| segment.ecn == ECT_0));
    assert_eq!(
        data.filter(|segment| segment.ecn == ECT_0).count(),
        first.len(),
        "nothing that was sent again can be marked"
    );
    let bare = |segment: &&Heard| segment.payload_len == 0;
    let bare: Vec<_> = path.sent.iter().filter(bare).collect();
    assert!(bare.len() > 10 && bare.iter().all(|segment| segment.ecn == NOT_ECT));
    assert!(
        bare.iter().any(|segment| segment.flags & FIN != 0),
        "a FIN is no data"
    );
    assert!(
        path.sent[1..]
            .iter()
            .all(|segment| segment.flags & (ECE | CWR) == 0)
    );
    let counters = path.host.tcp.counters();
    assert!(counters.wan_segments_resent > 0);
    assert_eq!(
        (counters.wan_marks_echoed, counters.wan_marks_received),
        (0, 0)
    );
}

#[test]
fn a_mark_of_what_the_storage_sends_is_echoed_until_it_has_slowed_down() {
    let mut count = 0;
    let mut path = Path::new(config(), true, |_, way, mut packet: Vec<u8>| {
        if way == Way::ToRelay && packet[1] & 3 == ECT_0 {
            count += 1;
            if count == 20 {
                mark(&mut packet, CE);
            }
        }
        vec![(way, packet)]
    });
    assert!(path.exchange(0, 300_000, LIMIT));
    assert_eq!(path.host.tcp.counters().wan_marks_received, 1);
    assert_eq!(path.peer_slowed(), 1, "once a window");
    let echoes = path
        .sent
        .iter()
        .skip(1)
        .filter(|segment| segment.flags & ECE != 0)
        .count();
    assert!(echoes > 1, "until it has said that it slowed down");
    assert_eq!(path.sent.last().unwrap().flags & ECE, 0, "and no longer");
}

#[test]
fn a_mark_that_is_echoed_slows_the_flow_down_and_is_answered() {
    for gso in [false, true] {
        let mut count = 0;
        let mut config = config();
        config.connect.gso = gso;
        let mut path = Path::new(config, true, |_, way, mut packet: Vec<u8>| {
            if way == Way::ToStorage && packet[1] & 3 == ECT_0 {
                count += 1;
                if count == 10 {
                    mark(&mut packet, CE);
                }
            }
            vec![(way, packet)]
        });
        assert!(path.exchange(600_000, 0, LIMIT));
        let counters = path.host.tcp.counters();
        assert_eq!((counters.wan_marks_echoed, counters.wan_timeouts), (1, 0));
        assert_eq!(counters.wan_segments_resent, 0, "nothing was lost");
        let told: Vec<_> = path.sent[1..]
            .iter()
            .filter(|segment| segment.flags & CWR != 0)
            .collect();
        assert_eq!(told.len(), 1, "RFC 3168 6.1.2: once");
        assert!(told[0].payload_len > 0 && told[0].ecn == ECT_0);
    }
}

/// Connects over a path that has a way of its own with a SYN that asks.
fn connects_without(how: impl Fn(Vec<u8>) -> Vec<(Way, Vec<u8>)>, least: Duration, most: Duration) {
    let mut path = Path::new(config(), true, |_, way, packet: Vec<u8>| {
        if way == Way::ToStorage && asks(&packet) {
            how(packet)
        } else {
            vec![(way, packet)]
        }
    });
    let began = path.now;
    assert!(path.exchange(1, 0, LIMIT));
    let took = path.now.since(began);
    assert!((least..most).contains(&took), "{took:?}");
    assert!(path.exchange(100_000, 100_000, LIMIT));
    assert_eq!(path.sent[1].flags, SYN, "the second asks for nothing");
    assert!(
        path.sent[1..]
            .iter()
            .all(|segment| segment.ecn == NOT_ECT && segment.flags & (ECE | CWR) == 0)
    );
    assert_eq!(path.host.tcp.counters().connected, 1);
}

#[test]
fn a_path_that_drops_a_syn_that_asks_gets_one_that_does_not() {
    let second = Duration::from_secs(1);
    connects_without(|_| Vec::new(), second, second + second / 5);
}

#[test]
fn a_path_that_refuses_a_syn_that_asks_gets_one_that_does_not_at_once() {
    connects_without(
        |syn| vec![(Way::ToRelay, refusal(&syn))],
        Duration::ZERO,
        Duration::from_millis(200),
    );
}

#[test]
fn a_storage_that_refuses_is_believed_the_second_time() {
    let mut path = Path::new(config(), true, |_, _, packet: Vec<u8>| {
        vec![(Way::ToRelay, refusal(&packet))]
    });
    assert!(!path.exchange(1, 0, LIMIT));
    assert_eq!(path.sent.len(), 2);
    assert_eq!(path.events, [FlowEvent::Closed(CloseReason::Refused)]);
}

#[test]
fn a_path_that_clears_the_field_or_the_flags_carries_all_the_same() {
    // The field both ways; the flags of the answer; all flags sent back as they came.
    type Change = fn(Way, &mut Vec<u8>);
    let fields: Change = |_, packet| mark(packet, NOT_ECT);
    let flags: Change = |way, packet| {
        if way == Way::ToRelay && packet[33] & SYN != 0 {
            packet[33] &= !(ECE | CWR);
        }
    };
    let reflected: Change = |way, packet| {
        if way == Way::ToRelay && packet[33] & SYN != 0 {
            packet[33] |= ECE | CWR;
        }
    };
    for (change, capable) in [(fields, true), (flags, false), (reflected, false)] {
        let mut path = Path::new(config(), true, |_, way, mut packet: Vec<u8>| {
            change(way, &mut packet);
            segment::fill_checksum(&mut packet);
            vec![(way, packet)]
        });
        assert!(path.exchange(100_000, 100_000, LIMIT));
        assert!(
            path.first_sent()
                .iter()
                .all(|segment| (segment.ecn == ECT_0) == capable)
        );
        assert_eq!(path.host.tcp.counters().wan_timeouts, 0);
    }
}

#[test]
fn a_path_that_drops_what_can_be_marked_is_found_out_with_the_first_loss() {
    for alone in [true, false] {
        let mut path = Path::new(config(), true, |_, way, packet: Vec<u8>| {
            if way == Way::ToStorage && packet[1] & 3 != NOT_ECT {
                Vec::new()
            } else {
                vec![(way, packet)]
            }
        });
        if alone {
            assert!(path.exchange(100, 0, LIMIT));
        }
        assert!(path.exchange(300_000, 0, LIMIT));
        let capable = path.sent.iter().filter(|segment| segment.ecn == ECT_0);
        let capable = capable.count();
        assert!(capable <= 11, "the first flight and a probe, not {capable}");
        let took = path.now.since(Time::from_millis(1_000));
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

#[test]
fn nothing_is_asked_where_it_is_turned_off() {
    let mut config = config();
    config.connect.ecn = false;
    let mut path = Path::new(config, true, |_, way, packet: Vec<u8>| vec![(way, packet)]);
    assert!(path.exchange(10_000, 10_000, LIMIT));
    assert_eq!(path.sent[0].flags, SYN);
    assert!(path.sent.iter().all(|segment| segment.ecn == NOT_ECT));
}

#[test]
fn a_path_that_marks_everything_is_not_listened_to_for_long() {
    let mut path = Path::new(config(), true, |_, way, mut packet: Vec<u8>| {
        if packet[1] & 3 != NOT_ECT {
            mark(&mut packet, CE);
        }
        vec![(way, packet)]
    });
    assert!(path.exchange(2_000_000, 0, LIMIT));
    assert_eq!(path.host.tcp.counters().wan_marks_echoed, 16);
}

//! Peers that do what they must not.

use super::*;
use proptest::prelude::*;

/// An accepted flow, the number the peer is to send next, and the one it is to acknowledge.
fn accepted(host: &mut Host, now: Time) -> (FlowId, u32, u32) {
    let syn = Raw::syn(40_000, u32::MAX - 10);
    let (seq, ack) = numbers(&host.input(now, &syn.packet())[0]);
    let done = Raw {
        control: TcpControl::None,
        seq: ack,
        ack: Some(seq.wrapping_add(1)),
        ..syn
    };
    host.input(now, &done.packet());
    let [(id, FlowEvent::Accepted { .. })] = host.events()[..] else {
        panic!("not accepted")
    };
    (id, ack, seq.wrapping_add(1))
}

fn server() -> Host {
    let mut host = Host::new(config(), 32);
    host.tcp.listen(STORAGE);
    host
}

fn raw(control: TcpControl, seq: u32, ack: u32) -> Raw<'static> {
    Raw {
        control,
        seq,
        ack: Some(ack),
        ..Raw::syn(40_000, 0)
    }
}

#[test]
fn the_window_of_a_syn_is_not_scaled() {
    let now = Time::from_millis(1);
    let mut config = config();
    config.accept_buffers = Buffers {
        rx_pages: 4,
        tx_pages: 1,
    };
    let mut host = Host::new(config, 64);
    host.tcp.listen(STORAGE);
    let (id, seq, ack) = accepted(&mut host, now);
    let payload = [1u8; 1000];
    let beyond = Raw {
        payload: &payload,
        ..raw(TcpControl::None, seq.wrapping_add(65_000), ack)
    };
    host.input(now, &beyond.packet());
    assert_eq!(host.tcp.counters().drop_beyond_window, 1);
    let within = Raw {
        payload: &payload,
        ..raw(TcpControl::None, seq, ack)
    };
    host.input(now, &within.packet());
    let sent = host.poll(now);
    assert_eq!(
        usize::from(window(&sent[0])) << 3,
        4 * 65_536 - 1000,
        "the window of all four pages from here"
    );
    host.input(now, &beyond.packet());
    assert_eq!(
        host.tcp.counters().drop_beyond_window,
        1,
        "and it may be used"
    );
    assert_eq!(host.tcp.recv_available(id), 1000);
}

#[test]
fn only_the_exact_number_resets() {
    let now = Time::from_millis(5_000);
    let mut host = server();
    let (id, seq, ack) = accepted(&mut host, now);
    let inside = raw(TcpControl::Rst, seq.wrapping_add(100), ack).packet();
    let challenge = host.input(now, &inside);
    assert_eq!(
        numbers(&challenge[0]),
        (ack, seq),
        "RFC 5961: a challenge ACK"
    );
    assert!(host.input(now, &inside).is_empty(), "throttled");
    assert!(
        host.input(
            now,
            &raw(TcpControl::Rst, seq.wrapping_sub(100), ack).packet()
        )
        .is_empty()
    );
    assert!(host.events().is_empty());
    host.input(now, &raw(TcpControl::Rst, seq, ack).packet());
    assert_eq!(host.events(), [(id, FlowEvent::Closed(CloseReason::Reset))]);
    assert_eq!(host.pages_leased(), 0);
}

#[test]
fn wrong_checksums_fragments_and_impossible_addresses_go_no_further() {
    let now = Time::from_millis(1);
    let mut host = server();
    let good = Raw::syn(7, 7).packet();
    let mut bad = good.clone();
    bad.bytes[25] ^= 1;
    assert!(host.input(now, &bad).is_empty());
    assert_eq!(host.tcp.counters().drop_checksum, 1);
    bad.checksum = Checksum::Verified;
    assert_eq!(host.input(now, &bad).len(), 1, "the port has verified it");
    let mut fragment = good.clone();
    fragment.bytes[6] = 0x20;
    let multicast = Raw {
        from: SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), 5),
        ..Raw::syn(7, 7)
    };
    let land = Raw {
        from: STORAGE,
        ..Raw::syn(7, 7)
    };
    let short = Packet::complete(good.bytes[..30].to_vec());
    for packet in [fragment, multicast.packet(), land.packet(), short] {
        assert!(host.input(now, &packet).is_empty());
    }
    let counters = host.tcp.counters();
    assert_eq!((counters.drop_fragment, counters.drop_malformed), (1, 3));
    assert!(counters.named().any(|named| named == ("drop_fragment", 1)));
    host.pages_leased();
}

#[test]
fn handshakes_that_do_not_fit_are_not_completed() {
    let now = Time::from_millis(1);
    let mut host = server();
    let syn = Raw::syn(40_000, 100);
    let (seq, _) = numbers(&host.input(now, &syn.packet())[0]);
    // RFC 9293 3.10.7.4, SYN-RECEIVED: an ACK of what we did not send is reset.
    let answer = host.input(now, &raw(TcpControl::None, 101, seq).packet());
    assert_eq!(answer[0].segment().control, TcpControl::Rst);
    assert!(
        host.input(
            now,
            &raw(TcpControl::None, 99, seq.wrapping_add(1)).packet()
        )
        .is_empty()
    );
    // A new SYN is a new attempt.
    let again = host.input(
        now + Duration::from_millis(8),
        &Raw::syn(40_000, 500).packet(),
    );
    let (second, ack) = numbers(&again[0]);
    assert_eq!((ack, second.wrapping_sub(seq)), (501, 2000));
    assert!(
        host.input(now, &raw(TcpControl::Rst, 501, 0).packet())
            .is_empty()
    );
    assert_eq!(host.tcp.rows().count(), 0);
}

#[test]
fn data_may_come_with_the_last_segment_of_the_handshake_or_overtake_it() {
    let now = Time::from_millis(1);
    for overtaken in [false, true] {
        let mut host = server();
        let (seq, ack) = numbers(&host.input(now, &Raw::syn(40_000, 100).packet())[0]);
        let first = Raw {
            payload: b"first",
            ..raw(TcpControl::Psh, ack, seq.wrapping_add(1))
        };
        let second = Raw {
            payload: b"second",
            ..raw(TcpControl::Psh, ack + 5, seq.wrapping_add(1))
        };
        let [early, late] = if overtaken {
            [second, first]
        } else {
            [first, second]
        };
        host.input(now, &early.packet());
        host.input(now, &late.packet());
        let events = host.events();
        let [(id, FlowEvent::Accepted { .. }), (_, FlowEvent::Ready)] = events[..] else {
            panic!("{events:?}")
        };
        let mut read = Vec::new();
        host.tcp.recv(id, |bytes| {
            read.extend_from_slice(bytes);
            bytes.len()
        });
        assert_eq!(read, b"firstsecond");
        // One acknowledgement for all of it; a hole that is filled has it at once (RFC 5681 4.2).
        assert_eq!(host.poll(now).len(), usize::from(!overtaken));
    }
}

#[test]
fn a_packet_in_a_chain_of_buffers_is_gathered() {
    let now = Time::from_millis(1);
    let mut host = server();
    let (id, seq, ack) = accepted(&mut host, now);
    let payload: Vec<u8> = (0..8000u32).map(|at| at.to_le_bytes()[0]).collect();
    let segment = Raw {
        payload: &payload,
        ..raw(TcpControl::None, seq, ack)
    }
    .packet();
    let [head, middle, tail] = [0..3000, 3000..6000, 6000..segment.bytes.len()]
        .map(|part| host.frame(&Packet::complete(segment.bytes[part].to_vec())));
    let mut head = head;
    host.pool.link(&mut head, middle);
    host.pool.link(&mut head, tail);
    let mut out = Vec::new();
    assert!(
        host.tcp
            .input(now, &mut host.pool, head, &mut out)
            .is_none()
    );
    let taken = host.tcp.recv(id, |bytes| {
        assert_eq!(bytes, payload);
        bytes.len()
    });
    assert_eq!(taken, 8000);
    host.pages_leased();
}

#[derive(Clone, Debug)]
struct Wild {
    control: u8,
    seq: i64,
    ack: Option<i64>,
    len: usize,
    act: u8,
}

fn wild() -> impl Strategy<Value = Wild> {
    let near = || prop_oneof![4 => -3i64..3, 2 => -70_000i64..70_000, 1 => any::<i64>()];
    (
        0u8..10,
        near(),
        proptest::option::weighted(0.9, near()),
        prop_oneof![3 => 0usize..4, 1 => 0usize..30_000],
        0u8..12,
    )
        .prop_map(|(control, seq, ack, len, act)| Wild {
            control,
            seq,
            ack,
            len,
            act,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever segments come, in whatever state: no panic, and nothing is lost.
    #[test]
    fn no_segment_breaks_the_room(steps in proptest::collection::vec(wild(), 1..60), pages in 1u32..3) {
        let mut config = config();
        config.accept_buffers = Buffers { rx_pages: pages, tx_pages: pages };
        let mut host = Host::new(config, 32);
        host.tcp.listen(STORAGE);
        let mut now = Time::from_millis(1);
        let (id, first, mut acked) = accepted(&mut host, now);
        let mut next = first;
        let payload = vec![7u8; 30_000];
        for step in steps {
            let control = match step.control {
                0 => TcpControl::Rst,
                1 => TcpControl::Syn,
                2 => TcpControl::Fin,
                _ => TcpControl::None,
            };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "modulo 2^32")]
            let number = |base: u32, offset: i64| base.wrapping_add(offset as u32);
            let segment = Raw {
                payload: &payload[..step.len],
                control,
                seq: number(next, step.seq),
                ack: step.ack.map(|ack| number(acked, ack)),
                ..Raw::syn(40_000, 0)
            };
            let mut sent = host.input(now, &segment.packet());
            match step.act {
                0 => host.tcp.close(id),
                1 => {
                    host.send(id, |room| room.len().min(3000));
                }
                2 | 3 => {
                    host.tcp.recv(id, |bytes| bytes.len());
                }
                4 => now += Duration::from_millis(1500),
                _ => {}
            }
            now += Duration::from_micros(300);
            sent.extend(host.poll(now));
            for packet in &sent {
                let segment = packet.segment();
                if segment.control != TcpControl::Rst {
                    acked = segment.end();
                    next = segment.ack.unwrap_or(next);
                }
            }
            host.events();
        }
        host.tcp.abort(id);
        host.poll(now);
        for _ in 0..3 {
            now += Duration::from_secs(100);
            host.poll(now);
            host.events();
        }
        prop_assert_eq!(host.tcp.rows().filter(|row| row.state != "TIME-WAIT").count() * 2 * pages as usize, host.pages_leased());
    }
}

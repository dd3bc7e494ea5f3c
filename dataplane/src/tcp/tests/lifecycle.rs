//! How flows begin and end, and what they leave behind.

use super::*;

fn leased(world: &World) -> [usize; 2] {
    world.hosts.each_ref().map(Host::pages_leased)
}

#[test]
fn a_flood_of_syns_spends_no_buffer_and_disturbs_nobody() {
    let mut world = World::plain();
    let [client, server] = world.connected();
    let before = leased(&world);
    let now = world.now;
    for seq in 0..20_000u32 {
        let from = SocketAddrV4::new(Ipv4Addr::from_bits(0x0a00_0000 + seq), 999);
        let syn = Raw {
            from,
            ..Raw::syn(1, seq)
        };
        assert_eq!(world.hosts[1].input(now, &syn.packet()).len(), 1);
    }
    assert_eq!(leased(&world), before);
    let counters = *world.hosts[1].tcp.counters();
    assert_eq!(counters.drop_half_open_oldest, 20_000 - 4096);
    // The flow of before still works, and a new one can be opened.
    world.hosts[0].send(client, |room| {
        room[..5].copy_from_slice(b"hello");
        5
    });
    world.pass(Duration::from_millis(1));
    assert_eq!(world.hosts[1].events(), [(server, FlowEvent::Ready)]);
    assert_eq!(
        world.hosts[1]
            .tcp
            .recv(server, |bytes| (bytes == b"hello").then_some(5).unwrap()),
        5
    );
    world.hosts[0].events();
    world.connected();
    world.pass(Duration::from_secs(6));
    assert_eq!(
        world.hosts[1].tcp.counters().drop_half_open_expired,
        4096 - 1,
        "one was completed after evicting another"
    );
    assert_eq!(world.hosts[1].tcp.rows().count(), 2);
}

#[test]
fn what_belongs_to_no_connection_is_answered_with_rst_and_rst_with_nothing() {
    let mut world = World::plain();
    let now = world.now;
    let server = &mut world.hosts[1];
    let elsewhere = SocketAddrV4::new(*STORAGE.ip(), 80);
    let base = Raw {
        control: TcpControl::None,
        ..Raw::syn(5_000, 77)
    };
    // RFC 9293 3.10.7.1: with ACK, <SEQ=SEG.ACK><CTL=RST>.
    let stray = Raw {
        ack: Some(4_242),
        payload: b"mid-stream",
        ..base
    };
    for to in [STORAGE, elsewhere] {
        let answer = server.input(now, &Raw { to, ..stray }.packet());
        let segment = answer[0].segment();
        assert_eq!(
            (segment.control, segment.seq, segment.ack),
            (TcpControl::Rst, 4_242, None)
        );
        assert_eq!((segment.tuple.local, segment.tuple.remote), (base.from, to));
    }
    // Without, <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
    for (control, payload, len) in [
        (TcpControl::Syn, &b""[..], 1),
        (TcpControl::Fin, b"xyz", 4),
        (TcpControl::None, b"xyz", 3),
    ] {
        let answer = server.input(
            now,
            &Raw {
                to: elsewhere,
                control,
                payload,
                ..base
            }
            .packet(),
        );
        let segment = answer[0].segment();
        assert_eq!(
            (segment.control, segment.seq, segment.ack),
            (TcpControl::Rst, 0, Some(77 + len))
        );
    }
    for ack in [None, Some(1)] {
        assert!(
            server
                .input(
                    now,
                    &Raw {
                        control: TcpControl::Rst,
                        ack,
                        ..base
                    }
                    .packet()
                )
                .is_empty()
        );
    }
    assert_eq!(server.tcp.rows().count(), 0);
    assert_eq!(server.pages_leased(), 0);
}

#[test]
fn sequence_numbers_on_the_wire_are_those_of_rfc_6528() {
    let mut world = World::plain();
    let now = world.now;
    let mut seen = std::collections::BTreeSet::new();
    for port in 1..=200 {
        let syn = Raw::syn(port, 5).packet();
        let answer = world.hosts[1].input(now, &syn);
        let (seq, ack) = numbers(&answer[0]);
        assert_eq!(ack, 6);
        assert_eq!(seq, Keyed::new([3; 16]).isn(&syn.segment().tuple, now));
        assert_eq!(
            answer,
            world.hosts[1].input(now, &syn),
            "a repeated SYN gets the same answer"
        );
        seen.insert(seq);
    }
    assert_eq!(seen.len(), 200);
    let ports: std::collections::BTreeSet<u16> = (0..20)
        .map(|_| {
            let flow = world.connect();
            world.hosts[0].tcp.ends(flow).unwrap().local.port()
        })
        .collect();
    assert_eq!(ports.len(), 20);
    assert!(ports.iter().all(|&port| port >= 49_152));
    let first: Vec<u32> = world.hosts[0]
        .poll(now)
        .iter()
        .map(|syn| numbers(syn).0)
        .collect();
    assert_eq!(first.len(), 20);
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

#[test]
fn abort_resets_the_peer_and_gives_everything_back_at_once() {
    let mut world = World::plain();
    let [client, server] = world.connected();
    world.hosts[0].tcp.abort(client);
    assert_eq!(world.hosts[0].send(client, |_| 1), 0);
    world.pass(Duration::from_millis(1));
    assert!(world.hosts[0].events().is_empty());
    assert_eq!(
        world.hosts[1].events(),
        [(server, FlowEvent::Closed(CloseReason::Reset))]
    );
    assert_eq!(leased(&world), [0, 0]);
    assert_eq!(
        world.hosts.each_ref().map(|host| host.tcp.rows().count()),
        [0, 0]
    );
}

#[test]
fn a_closed_flow_is_remembered_without_buffers() {
    let mut world = World::plain();
    let [client, server] = world.connected();
    world.hosts[0].send(client, |room| {
        room[..3].copy_from_slice(b"bye");
        3
    });
    world.hosts[0].tcp.close(client);
    world.pass(Duration::from_millis(1));
    assert_eq!(
        world.hosts[1].events(),
        [(server, FlowEvent::Ready), (server, FlowEvent::Finished)]
    );
    assert_eq!(world.hosts[1].tcp.recv(server, |bytes| bytes.len()), 3);
    // Half-closed: this side may still speak.
    world.hosts[1].send(server, |room| {
        room[0] = b'!';
        1
    });
    world.hosts[1].tcp.close(server);
    world.pass(Duration::from_millis(1));
    for (at, flow) in [(0, client), (1, server)] {
        let events = world.hosts[at].events();
        assert_eq!(
            events.last(),
            Some(&(flow, FlowEvent::Closed(CloseReason::Finished)))
        );
    }
    assert_eq!(leased(&world), [0, 0]);
    let rows: Vec<_> = world.hosts[0].tcp.rows().collect();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].state, rows[0].rx_len), ("TIME-WAIT", 0));
    // A FIN of the peer whose acknowledgement was lost is acknowledged again.
    let now = world.now;
    let fin = Raw {
        from: rows[0].ends.remote,
        to: rows[0].ends.local,
        control: TcpControl::Fin,
        seq: 1,
        ack: Some(1),
        payload: &[],
    };
    let answer = world.hosts[0].input(now, &fin.packet());
    assert_eq!(answer[0].segment().control, TcpControl::None);
    world.pass(Duration::from_secs(11));
    assert_eq!(world.hosts[0].tcp.rows().count(), 0);
}

#[test]
fn a_new_syn_opens_a_connection_anew_out_of_time_wait() {
    let mut world = World::plain();
    let [client, server] = world.connected();
    world.hosts[1].tcp.close(server);
    world.pass(Duration::from_millis(1));
    world.hosts[0].tcp.close(client);
    world.pass(Duration::from_millis(1));
    let row = world.hosts[1].tcp.rows().next().unwrap();
    assert_eq!(row.state, "TIME-WAIT");
    let now = world.now;
    let old = Raw {
        from: row.ends.remote,
        ..Raw::syn(1, 0)
    };
    let Some(Slot::TimeWait(note)) = world.hosts[1]
        .tcp
        .table
        .find(&row.ends)
        .and_then(|i| world.hosts[1].tcp.table.get(i))
    else {
        panic!()
    };
    let rcv_nxt = note.rcv_nxt;
    let answer = world.hosts[1].input(
        now,
        &Raw {
            seq: rcv_nxt.wrapping_sub(5),
            ..old
        }
        .packet(),
    );
    assert_eq!(
        answer[0].segment().control,
        TcpControl::None,
        "an old SYN gets an acknowledgement"
    );
    let answer = world.hosts[1].input(
        now,
        &Raw {
            seq: rcv_nxt.wrapping_add(5),
            ..old
        }
        .packet(),
    );
    assert_eq!(answer[0].segment().control, TcpControl::Syn);
}

#[test]
fn connect_says_why_it_failed() {
    let mut world = World::plain();
    let now = world.now;
    let nobody = SocketAddrV4::new(*STORAGE.ip(), 81);
    let buffers = WanBuffers {
        rx_pages: 1,
        tx_frames: 16,
    };
    let client = &mut world.hosts[0];
    let refused = client
        .tcp
        .connect(
            now,
            &mut client.pool,
            COMPUTER,
            nobody,
            buffers,
            Reservation::NONE,
        )
        .unwrap();
    // What was written for it goes with it, and makes no room.
    let written = client.send(refused, |room| {
        room[0] = 1;
        1
    });
    assert_eq!(written, 1);
    assert!(
        client
            .tcp
            .connect(
                now,
                &mut client.pool,
                Ipv4Addr::UNSPECIFIED,
                STORAGE,
                buffers,
                Reservation::NONE,
            )
            .is_err()
    );
    world.pass(Duration::from_millis(1));
    assert_eq!(
        world.hosts[0].events(),
        [(refused, FlowEvent::Closed(CloseReason::Refused))]
    );
    world.link.loss_permille = 1000;
    let lost = world.connect();
    let given_up = world.connect();
    world.pass(Duration::from_millis(1));
    world.hosts[0].tcp.close(given_up);
    world.pass(Duration::from_millis(1));
    assert_eq!(
        world.hosts[0].events(),
        [(given_up, FlowEvent::Closed(CloseReason::Finished))]
    );
    world.pass(Duration::from_secs(20));
    assert_eq!(
        world.hosts[0].events(),
        [(lost, FlowEvent::Closed(CloseReason::TimedOut))]
    );
    assert_eq!(leased(&world), [0, 0]);
}

#[test]
fn a_peer_that_never_finishes_does_not_hold_a_closed_flow() {
    let mut world = World::plain();
    let [client, server] = world.connected();
    world.hosts[0].tcp.close(client);
    world.pass(Duration::from_secs(31));
    assert_eq!(
        world.hosts[0].events(),
        [(client, FlowEvent::Closed(CloseReason::TimedOut))]
    );
    assert_eq!(world.hosts[0].tcp.counters().lingered_out, 1);
    assert_eq!(
        world.hosts[1].events().last(),
        Some(&(server, FlowEvent::Closed(CloseReason::Reset)))
    );
    assert_eq!(leased(&world), [0, 0]);
}

#[test]
fn a_full_room_refuses_and_a_pool_without_pages_puts_off() {
    let mut server = config();
    server.flows_max = 2;
    let link = Link {
        delay: Duration::from_micros(50),
        ..Link::default()
    };
    let mut world = World::new(config(), server, 16, link, 1);
    let server = &mut world.hosts[1];
    let mut hoard: Vec<_> = std::iter::from_fn(|| server.pool.alloc_page_frame()).collect();
    // One page, for frames; a lease wants two.
    server.pool.release(hoard.pop().unwrap());
    let waiting = world.connect();
    world.pass(Duration::from_millis(1));
    assert_eq!(world.hosts[0].events(), [(waiting, FlowEvent::Connected)]);
    assert!(world.hosts[1].events().is_empty());
    assert!(world.hosts[1].tcp.counters().wait_for_lease > 0);
    for page in hoard {
        world.hosts[1].pool.release(page);
    }
    // What the computer says next completes the handshake, and is not lost.
    world.hosts[0].send(waiting, |room| {
        room[0] = 9;
        1
    });
    world.pass(Duration::from_secs(3));
    let events = world.hosts[1].events();
    assert!(
        matches!(
            events[..],
            [(_, FlowEvent::Accepted { .. }), (_, FlowEvent::Ready)]
        ),
        "{events:?}"
    );
    world.connect();
    world.pass(Duration::from_millis(1));
    let third = world.connect();
    world.pass(Duration::from_millis(1));
    let events = world.hosts[0].events();
    assert_eq!(
        events.last(),
        Some(&(third, FlowEvent::Closed(CloseReason::Reset)))
    );
}

#[test]
fn a_flow_moves_to_another_worker_with_its_frames() {
    let mut world = World::plain();
    let [client, server] = world.connected();
    let now = world.now;
    let mut other = Tcp::new(config());
    let flow = world.hosts[1].tcp.hand_over(server, 1).expect("lives");
    assert_eq!(world.hosts[1].tcp.recv_available(server), 0);
    let adopted = other.adopt(flow).expect("room");
    world.hosts[0].send(client, |room| {
        room[..4].copy_from_slice(b"move");
        4
    });
    let packet = world.hosts[0].poll(now).remove(0);
    let frame = world.hosts[1].frame(&packet);
    let Host { tcp, pool } = &mut world.hosts[1];
    let mut out = Vec::new();
    let (worker, frame) = tcp.input(now, pool, frame, &mut out).expect("not ours");
    assert_eq!(worker, 1);
    assert!(other.input(now, pool, frame, &mut out).is_none());
    assert_eq!(
        other.recv(adopted, |bytes| (bytes == b"move").then_some(4).unwrap()),
        4
    );
    other.abort(adopted);
    other.poll(now, pool, &mut out);
    let ends = packet.segment().tuple;
    tcp.forget_remote(&ends);
    assert_eq!(tcp.rows().count() + other.rows().count(), 0);
    world.hosts[1].collect(out);
    assert_eq!(world.hosts[1].pages_leased(), 0);
}

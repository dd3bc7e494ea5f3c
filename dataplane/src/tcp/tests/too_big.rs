//! What routers say of packets that are too big for their next link (RFC 1191, RFC 5927),
//! about flows to the storage.

use super::path::{Heard, Path, Way};
use super::*;

const LIMIT: Duration = Duration::from_secs(60);
const NARROW: usize = 1400;

/// *Fragmentation needed*, quoting what every router does: the header and 8 bytes.
fn too_big(packet: &[u8], mtu: u16) -> Vec<u8> {
    let mut told = vec![0; 20];
    told[9] = 1;
    told.extend([3, 4, 0, 0, 0, 0]);
    told.extend(mtu.to_be_bytes());
    told.extend(&packet[..28]);
    told
}

/// Sends over a path that is narrow from `from` on, with a router before it that says so
/// or does not.
fn over_a_narrow_path(speaks: bool, gso: bool, from: Duration) -> (Counters, Vec<Heard>, Duration) {
    let mut config = config();
    config.connect.gso = gso;
    let narrow_from = Time::from_millis(1_000) + from;
    let narrow = u16::try_from(NARROW).unwrap();
    let mut path = Path::new(config, true, move |now, way, packet: Vec<u8>| {
        if way == Way::ToRelay || now < narrow_from || packet.len() <= NARROW {
            return vec![(way, packet)];
        }
        if speaks {
            vec![(Way::ToRelay, too_big(&packet, narrow))]
        } else {
            Vec::new()
        }
    });
    assert!(path.exchange(1_000_000, 0, LIMIT));
    let took = path.now.since(Time::from_millis(1_000));
    (*path.host.tcp.counters(), path.sent, took)
}

#[test]
fn segments_are_shorter_at_once() {
    for gso in [false, true] {
        for from in [0, 100] {
            let from = Duration::from_millis(from);
            let (counters, sent, took) = over_a_narrow_path(true, gso, from);
            let (silent, _, silent_took) = over_a_narrow_path(false, gso, from);
            assert!(counters.wan_too_big > 0 && counters.wan_too_big_refused == 0);
            assert_eq!(
                (counters.wan_timeouts, counters.wan_black_holes),
                (0, 0),
                "{gso} {from:?}"
            );
            let largest = sent.iter().rev().take(50).map(|sent| sent.len).max();
            assert_eq!(largest, Some(NARROW), "all that the path takes");
            assert!(silent.wan_black_holes > 0);
            assert!(
                took + Duration::from_millis(400) < silent_took,
                "{took:?} and {silent_took:?}"
            );
        }
    }
}

/// A flow with something under way; its ends, and the number of what is not acknowledged.
fn under_way(host: &mut Host, now: Time) -> (FourTuple, u32, usize) {
    let flow = host
        .tcp
        .connect(
            now,
            &mut host.pool,
            COMPUTER,
            STORAGE,
            path::BUFFERS,
            Reservation::NONE,
        )
        .unwrap();
    let tuple = host.tcp.ends(flow).unwrap();
    let (seq, _) = numbers(&host.poll(now)[0]);
    let raw = Raw {
        from: STORAGE,
        to: tuple.local,
        control: TcpControl::Syn,
        seq: 9_000,
        ack: Some(seq.wrapping_add(1)),
        payload: &[],
    };
    assert!(host.input(now, &raw.packet()).is_empty());
    host.events();
    host.send(flow, |room| room.len());
    let sent = host.poll(now);
    let sent: Vec<_> = sent
        .iter()
        .filter(|packet| packet.bytes.len() > 1000)
        .collect();
    assert_eq!(sent[0].bytes.len(), 1500);
    (tuple, seq.wrapping_add(1), sent.len() * 1460)
}

#[test]
fn who_does_not_know_what_is_under_way_changes_nothing() {
    let now = Time::from_millis(5_000);
    let mut host = Host::new(config(), 64);
    let (tuple, una, len) = under_way(&mut host, now);
    let len = u32::try_from(len).unwrap();
    let mut refused = 0;
    let mut says = |host: &mut Host, tuple: &FourTuple, seq: u32, mtu: u16| {
        refused += 1;
        host.tcp.packet_too_big(now, tuple, seq, mtu);
        assert_eq!(host.tcp.counters().wan_too_big_refused, refused);
        assert!(host.poll(now).is_empty(), "nothing goes out again");
    };
    // Of another connection, or the other way round.
    let port = |port| FourTuple {
        local: SocketAddrV4::new(COMPUTER, port),
        ..tuple
    };
    let other = [
        port(1),
        port(tuple.local.port() ^ 1),
        FourTuple {
            local: tuple.remote,
            remote: tuple.local,
        },
    ];
    for tuple in other {
        says(&mut host, &tuple, una, 1400);
    }
    // Numbers that are not under way.
    for seq in [una.wrapping_sub(1), una.wrapping_add(len), una ^ 1 << 31, 0] {
        says(&mut host, &tuple, seq, 1400);
    }
    // Sizes that no packet of ours had, or that no link has.
    for mtu in [0, 1, 67, 68, 296, 575, 1500, 9000, u16::MAX] {
        says(&mut host, &tuple, una, mtu);
    }
    host.tcp
        .packet_too_big(now, &tuple, una.wrapping_add(1460), 1400);
    assert_eq!(host.tcp.counters().wan_too_big, 1);
    let again = host.poll(now);
    assert_eq!(
        again[0].bytes.len(),
        1400,
        "and who does makes it go out again"
    );
    assert_eq!(numbers(&again[0]).0, una.wrapping_add(1460));
    assert_eq!(host.tcp.counters().wan_timeouts, 0);
}

#[test]
fn a_flow_that_is_not_yet_one_or_a_computers_is_not_spoken_of() {
    let now = Time::from_millis(5_000);
    let mut host = Host::new(config(), 64);
    let flow = host
        .tcp
        .connect(
            now,
            &mut host.pool,
            COMPUTER,
            STORAGE,
            path::BUFFERS,
            Reservation::NONE,
        )
        .unwrap();
    let tuple = host.tcp.ends(flow).unwrap();
    let (seq, _) = numbers(&host.poll(now)[0]);
    host.tcp.packet_too_big(now, &tuple, seq, 1400);
    assert_eq!(host.tcp.counters().wan_too_big_refused, 1, "a SYN is small");
    host.tcp.abort(flow);
    host.tcp.packet_too_big(now, &tuple, seq, 1400);
    let mut world = World::plain();
    let [_, server] = world.connected();
    let server_tuple = world.hosts[1].tcp.ends(server).unwrap();
    let tcp = &mut world.hosts[1].tcp;
    tcp.packet_too_big(now, &server_tuple, 0, 1400);
    assert_eq!(
        (
            host.tcp.counters().wan_too_big_refused,
            tcp.counters().wan_too_big_refused
        ),
        (2, 1)
    );
}

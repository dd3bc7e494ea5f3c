//! Packets for the relay itself: A-2.

use sluice_hugepages::pool::GsoKind;

use super::*;

#[test]
fn an_echo_byte_for_byte() {
    let mut lab = Lab::new();
    let (sent, _) = lab.input(
        LAN,
        &[
            2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 10, 8, 0, //
            0x45, 0, 0, 30, 0xab, 0xcd, 0, 0, 9, 1, 0x79, 0xe2, 198, 18, 0, 10, 198, 18, 0,
            1, //
            8, 0, 0x7d, 0x61, 0x12, 0x34, 0, 1, b'h', b'i',
        ],
    );
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].port, LAN);
    assert_eq!(
        sent[0].bytes,
        [
            2, 0, 0, 0, 1, 10, 2, 0, 0, 0, 0, 1, 8, 0, //
            0x45, 0, 0, 30, 0xab, 0xcd, 0, 0, 64, 1, 0x42, 0xe2, 198, 18, 0, 1, 198, 18, 0,
            10, //
            0, 0, 0x85, 0x61, 0x12, 0x34, 0, 1, b'h', b'i',
        ]
    );
    assert_eq!(lab.router.counters().echo_replies, 1);
    lab.check_frames();
}

#[test]
fn the_wan_address_answers_from_the_lan() {
    let mut lab = Lab::new();
    let (sent, _) = lab.packet(
        LAN,
        &Ip {
            ttl: 1,
            ..Ip::echo(COMPUTER, RELAY_WAN, &[5; 700])
        }
        .bytes(),
    );
    assert_eq!(sent[0].port, LAN);
    assert_eq!(sent[0].ipv4()[12..16], RELAY_WAN.octets());
    assert_eq!(checksum::sum(&sent[0].ipv4()[20..]), 0xffff);
}

#[test]
fn icmp_that_asks_for_nothing_is_counted() {
    let mut lab = Lab::new();
    let mut echo = Ip::echo(COMPUTER, RELAY_LAN, b"x");
    echo.payload[8] ^= 1;
    lab.dropped(LAN, &link(LAN, &echo.bytes()), Drop::IcmpMalformed);
    let reply = Ip {
        payload: vec![0, 0, 0xff, 0xff, 0, 0, 0, 0],
        ..echo
    };
    lab.dropped(LAN, &link(LAN, &reply.bytes()), Drop::IcmpIgnored);
}

#[test]
fn udp_and_other_protocols_are_refused() {
    let mut lab = Lab::new();
    let udp = Ip::udp(COMPUTER, RELAY_WAN, 40).bytes();
    let (sent, _) = lab.packet(LAN, &udp);
    assert_icmp_error(&sent[0], (3, 3), 0, RELAY_WAN, COMPUTER, &udp);
    let sctp = Ip {
        protocol: 132,
        ..Ip::udp(COMPUTER, RELAY_LAN, 40)
    }
    .bytes();
    let (sent, _) = lab.packet(LAN, &sctp);
    assert_icmp_error(&sent[0], (3, 2), 0, RELAY_LAN, COMPUTER, &sctp);
    lab.check_frames();
}

#[test]
fn a_segment_comes_with_its_marks_counted_from_the_ipv4_header() {
    let mut lab = Lab::new();
    let packet = Ip::tcp(
        (COMPUTER, 5000),
        (STORAGE, 3260),
        TcpFlags::ACK,
        &[1; 20_000],
    )
    .bytes();
    let mut frame = lab.frame(&link(LAN, &packet));
    frame.checksum = Checksum::Partial {
        start: 34,
        offset: 16,
    };
    frame.gso = Some(Gso {
        size: 1448,
        header_len: 54,
        kind: GsoKind::TcpV4,
    });
    let (_, local) = lab.input_frame(LAN, frame);
    let local = local.unwrap();
    assert_eq!(
        local.frame.checksum,
        Checksum::Partial {
            start: 20,
            offset: 16
        }
    );
    assert_eq!(local.frame.gso.unwrap().header_len, 40);
    assert_eq!(local.header().payload_len, 20_000);
    assert_eq!(lab.take(local), packet);
}

#[test]
fn a_padded_segment_is_trimmed() {
    let mut lab = Lab::new();
    let packet = Ip::tcp((COMPUTER, 5000), (RELAY_LAN, 3260), TcpFlags::SYN, &[]).bytes();
    let mut frame = link(LAN, &packet);
    frame.resize(60, 0);
    let (_, local) = lab.input(LAN, &frame);
    assert_eq!(lab.take(local.unwrap()), packet);
}

/// *Fragmentation needed* about a segment, as the router at the WAN's gateway says it.
pub(super) fn too_big(source: (Ipv4Addr, u16), to: (Ipv4Addr, u16), quoted_len: usize) -> Ip {
    let mut payload = vec![3, 4, 0, 0, 0, 0, 0x05, 0x78];
    let segment = Ip::tcp(source, to, TcpFlags::ACK, &[7; 600]).bytes();
    payload.extend(&segment[..quoted_len]);
    let sum = !checksum::sum(&payload);
    payload[2..4].copy_from_slice(&sum.to_be_bytes());
    Ip {
        protocol: 1,
        payload,
        ..Ip::udp(GATEWAY, source.0, 8)
    }
}

#[test]
fn what_a_router_says_of_a_segments_size_is_the_tcp_rooms() {
    let mut lab = Lab::new();
    let ends = ((RELAY_WAN, 50_000), (STORAGE, 3260));
    for quoted_len in [28, 48, 548] {
        let packet = too_big(ends.0, ends.1, quoted_len).bytes();
        let (sent, local) = lab.packet(WAN, &packet);
        assert!(sent.is_empty());
        let local = local.unwrap();
        let LocalKind::PacketTooBig(told) = local.kind else {
            panic!("{local:?}")
        };
        assert_eq!(told.source, std::net::SocketAddrV4::new(RELAY_WAN, 50_000));
        assert_eq!(told.destination, std::net::SocketAddrV4::new(STORAGE, 3260));
        let seq = u32::from_be_bytes(packet[28 + 24..28 + 28].try_into().unwrap());
        assert_eq!((told.seq, told.mtu), (seq, 1400));
        lab.take(local);
    }
    // Cut off in the segment's header or before, of a later fragment, of another protocol,
    // of another version, with a header that is too short.
    for quoted_len in [0, 1, 19, 20, 27] {
        let packet = too_big(ends.0, ends.1, quoted_len).bytes();
        lab.dropped(WAN, &link(WAN, &packet), Drop::IcmpMalformed);
    }
    for (at, byte) in [(7, 1), (9, 17), (0, 0x65), (0, 0x44)] {
        let mut packet = too_big(ends.0, ends.1, 28);
        packet.payload[8 + at] = byte;
        packet.payload[2..4].fill(0);
        let sum = !checksum::sum(&packet.payload);
        packet.payload[2..4].copy_from_slice(&sum.to_be_bytes());
        lab.dropped(WAN, &link(WAN, &packet.bytes()), Drop::IcmpMalformed);
    }
    // Other errors are nobody's still.
    let mut unreachable = too_big(ends.0, ends.1, 28);
    unreachable.payload[1] = 1;
    unreachable.payload[2..4].fill(0);
    let sum = !checksum::sum(&unreachable.payload);
    unreachable.payload[2..4].copy_from_slice(&sum.to_be_bytes());
    lab.dropped(WAN, &link(WAN, &unreachable.bytes()), Drop::IcmpIgnored);
    lab.check_frames();
}

//! Routing a packet: A-1, RFC 1812 5.2 and 5.3.

use proptest::prelude::*;
use sluice_hugepages::pool::GsoKind;

use super::*;

#[test]
fn a_packet_byte_for_byte() {
    let mut lab = Lab::new();
    let (sent, local) = lab.input(
        LAN,
        &[
            2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 10, 8, 0, // to the relay's LAN port
            0x45, 0, 0, 24, 0, 0, 0x40, 0, 64, 17, 0x38, 0xb3, 198, 18, 0, 10, 203, 0, 113,
            5, // TTL 64
            0, 1, 0, 2, // payload
        ],
    );
    assert!(local.is_none());
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].port, WAN);
    assert_eq!(
        sent[0].bytes,
        [
            2, 0, 0, 0, 2, 254, 2, 0, 0, 0, 0, 2, 8, 0, // to the gateway, from the WAN port
            0x45, 0, 0, 24, 0, 0, 0x40, 0, 63, 17, 0x39, 0xb3, 198, 18, 0, 10, 203, 0, 113,
            5, // TTL 63
            0, 1, 0, 2,
        ]
    );
    assert_eq!(lab.router.counters().routed, 1);
    let wan = lab.router.ports().nth(1).unwrap().counters;
    assert_eq!((wan.tx_packets, wan.tx_bytes), (1, 38));
    lab.check_frames();
}

#[test]
fn link_padding_is_cut_off() {
    let mut lab = Lab::new();
    let packet = Ip::udp(COMPUTER, FAR, 8).bytes();
    let mut frame = link(LAN, &packet);
    frame.resize(60, 0xee);
    let (sent, _) = lab.input(LAN, &frame);
    assert_eq!(sent[0].bytes.len(), 14 + packet.len());
}

#[test]
fn a_connected_destination_gets_it_directly() {
    let mut lab = Lab::new();
    let (sent, _) = lab.packet(WAN, &Ip::udp(FAR, COMPUTER, 30).bytes());
    assert_eq!(
        (sent[0].port, &sent[0].bytes[..6]),
        (LAN, &COMPUTER_MAC[..])
    );
}

#[test]
fn an_expired_packet_is_told_of() {
    let mut lab = Lab::new();
    for ttl in [0, 1] {
        let packet = Ip {
            ttl,
            ..Ip::udp(COMPUTER, FAR, 900)
        }
        .bytes();
        let (sent, _) = lab.packet(LAN, &packet);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].port, LAN);
        assert_icmp_error(&sent[0], (11, 0), 0, RELAY_LAN, COMPUTER, &packet);
    }
    assert_eq!(lab.router.drops().get(Drop::TtlExpired), 2);
    lab.check_frames();
}

#[test]
fn no_route_is_told_of() {
    let mut lab = Lab::new();
    let packet = Ip::udp(COMPUTER, Ipv4Addr::new(192, 0, 2, 1), 12).bytes();
    let (sent, _) = lab.packet(LAN, &packet);
    assert_icmp_error(&sent[0], (3, 0), 0, RELAY_LAN, COMPUTER, &packet);
    assert_eq!(lab.router.drops().get(Drop::NoRoute), 1);
}

#[test]
fn a_large_packet_with_df_is_told_the_mtu() {
    let mut lab = Lab::new();
    let packet = Ip::udp(COMPUTER, FAR, 1381).bytes();
    let (sent, _) = lab.packet(LAN, &packet);
    assert_icmp_error(&sent[0], (3, 4), 1400, RELAY_LAN, COMPUTER, &packet);
    assert_eq!(lab.router.drops().get(Drop::FragmentationNeeded), 1);
    let (sent, _) = lab.packet(LAN, &Ip::udp(COMPUTER, FAR, 1380).bytes());
    assert_eq!(sent[0].bytes.len(), 1414, "exactly the MTU passes");
}

#[test]
fn no_error_about_an_error_or_a_later_fragment() {
    let mut lab = Lab::new();
    let unreachable = Ip {
        protocol: 1,
        ttl: 1,
        payload: vec![3, 1, 0, 0, 0, 0, 0, 0],
        ..Ip::udp(COMPUTER, FAR, 8)
    };
    lab.dropped(LAN, &link(LAN, &unreachable.bytes()), Drop::TtlExpired);
    let later = Ip {
        ttl: 1,
        fragment: 5,
        ..Ip::udp(COMPUTER, FAR, 8)
    };
    lab.dropped(LAN, &link(LAN, &later.bytes()), Drop::TtlExpired);
    let first = Ip {
        ttl: 1,
        fragment: 0x2000,
        ..Ip::udp(COMPUTER, FAR, 8)
    };
    assert_eq!(lab.packet(LAN, &first.bytes()).0.len(), 1);
    let echo = Ip {
        ttl: 1,
        ..Ip::echo(COMPUTER, FAR, b"traceroute")
    };
    assert_eq!(lab.packet(LAN, &echo.bytes()).0.len(), 1);
    lab.check_frames();
}

#[test]
fn errors_are_told_at_a_bounded_rate() {
    let mut lab = Lab::new();
    let packet = Ip {
        ttl: 1,
        ..Ip::udp(COMPUTER, FAR, 8)
    }
    .bytes();
    let told: usize = (0..100).map(|_| lab.packet(LAN, &packet).0.len()).sum();
    assert_eq!(told, 32);
    assert_eq!(lab.router.counters().icmp_limited, 68);
    assert_eq!(lab.router.drops().get(Drop::TtlExpired), 100);
    lab.now += Duration::from_secs(1);
    assert_eq!(lab.packet(LAN, &packet).0.len(), 1);
    lab.check_frames();
}

#[test]
fn a_gso_packet_passes_whole_when_its_segments_fit() {
    let mut lab = Lab::new();
    let mark = |size| Gso {
        size,
        header_len: 54,
        kind: GsoKind::TcpV4,
    };
    let packet = Ip::tcp((COMPUTER, 5000), (FAR, 80), TcpFlags::ACK, &[7; 30_000]);
    let partial = Checksum::Partial {
        start: 34,
        offset: 16,
    };
    let mut frame = lab.frame(&link(LAN, &packet.bytes()));
    (frame.gso, frame.checksum) = (Some(mark(1360)), partial);
    let (sent, _) = lab.input_frame(LAN, frame);
    assert_eq!((sent[0].gso, sent[0].checksum), (Some(mark(1360)), partial));
    assert_eq!(sent[0].bytes.len(), 14 + 40 + 30_000);
    assert_eq!(
        sent[0].ipv4()[20..],
        packet.bytes()[20..],
        "behind the IPv4 header nothing changes"
    );

    let mut frame = lab.frame(&link(LAN, &packet.bytes()));
    (frame.gso, frame.checksum) = (Some(mark(1361)), partial);
    let (sent, _) = lab.input_frame(LAN, frame);
    assert_icmp_error(&sent[0], (3, 4), 1400, RELAY_LAN, COMPUTER, &packet.bytes());

    let mut frame = lab.frame(&link(
        LAN,
        &Ip {
            fragment: 0,
            ..packet
        }
        .bytes(),
    ));
    frame.gso = Some(mark(1361));
    let (sent, _) = lab.input_frame(LAN, frame);
    assert!(sent.is_empty());
    assert_eq!(lab.router.drops().get(Drop::GsoExceedsMtu), 1);
    lab.check_frames();
}

proptest! {
    #[test]
    fn whatever_is_forwarded_has_a_right_header(source in any::<u32>(), far in any::<u8>(), ttl in 2u8.., len in 8usize..1300, id in any::<[u8; 2]>(), tos: u8) {
        let mut lab = Lab::new();
        let mut packet = Ip { ttl, ..Ip::udp(source.into(), Ipv4Addr::new(203, 0, 113, far), len) }.bytes();
        packet[1] = tos;
        packet[4..6].copy_from_slice(&id);
        checksum::fill_ipv4(&mut packet[..20]);
        let (sent, _) = lab.packet(LAN, &packet);
        for one in sent.iter().filter(|one| one.port == WAN) {
            packet[8] -= 1;
            checksum::fill_ipv4(&mut packet[..20]);
            prop_assert_eq!(one.ipv4(), &packet[..]);
        }
        lab.check_frames();
    }
}

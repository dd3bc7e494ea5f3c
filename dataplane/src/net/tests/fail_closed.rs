//! nothing for or from an intercepted address and port is ever sent on.

use proptest::prelude::*;

use super::*;

#[test]
fn a_segment_to_the_storage_is_local_whatever_its_flags() {
    let mut lab = Lab::new();
    for flags in 0..=u8::MAX {
        let packet = Ip::tcp((COMPUTER, 5000), (STORAGE, 3260), flags, b"mid-stream").bytes();
        let (sent, local) = lab.packet(LAN, &packet);
        assert!(sent.is_empty());
        let local = local.unwrap();
        assert_eq!(local.port, LAN);
        assert_eq!(local.header().flags, TcpFlags(flags));
        assert_eq!(
            (local.header().seq, local.header().ack),
            (0x0102_0304, 0x0506_0708)
        );
        assert_eq!(local.header().source.to_string(), "198.18.0.10:5000");
        assert_eq!(local.header().destination.to_string(), "198.19.0.10:3260");
        assert_eq!(
            (
                local.header().ipv4_len,
                local.header().tcp_len,
                local.header().payload_len
            ),
            (20, 20, 10)
        );
        assert_eq!(lab.take(local), packet);
    }
    lab.check_frames();
}

#[test]
fn it_is_local_with_no_route_no_neighbour_and_no_ttl_too() {
    let mut config = config();
    config.intercepts.push((Ipv4Addr::new(192, 0, 2, 7), 3260));
    let mut lab = Lab::cold(config);
    let packet = Ip {
        ttl: 1,
        ..Ip::tcp(
            (COMPUTER, 5000),
            (Ipv4Addr::new(192, 0, 2, 7), 3260),
            TcpFlags::SYN,
            &[],
        )
    };
    let (sent, local) = lab.packet(LAN, &packet.bytes());
    assert!(sent.is_empty());
    lab.take(local.unwrap());
}

#[test]
fn tcp_fragments_to_and_from_the_storage_end_here() {
    let mut lab = Lab::new();
    for fragment in [0x2000, 0x2001, 1, 2, 3, 185, 0x1fff] {
        let to = Ip {
            fragment,
            ..Ip::tcp((COMPUTER, 5000), (STORAGE, 3260), TcpFlags::ACK, &[0; 16])
        };
        lab.dropped(LAN, &link(LAN, &to.bytes()), Drop::InterceptedFragment);
        let from = Ip {
            fragment,
            ..Ip::tcp((STORAGE, 3260), (COMPUTER, 5000), TcpFlags::ACK, &[0; 16])
        };
        lab.dropped(WAN, &link(WAN, &from.bytes()), Drop::InterceptedFragment);
    }
}

#[test]
fn a_header_too_short_for_its_ports_ends_here() {
    let mut lab = Lab::new();
    for len in 0..20 {
        let mut packet = Ip::tcp((COMPUTER, 5000), (STORAGE, 3260), TcpFlags::ACK, &[]);
        packet.payload.truncate(len);
        lab.dropped(LAN, &link(LAN, &packet.bytes()), Drop::TcpMalformed);
    }
}

#[test]
fn the_storage_cannot_speak_past_the_relay() {
    let mut lab = Lab::new();
    let packet = Ip::tcp((STORAGE, 3260), (COMPUTER, 5000), TcpFlags::ACK, b"stale");
    lab.dropped(WAN, &link(WAN, &packet.bytes()), Drop::InterceptedReply);
    let (sent, local) = lab.packet(
        WAN,
        &Ip::tcp((STORAGE, 3260), (RELAY_WAN, 40_000), TcpFlags::ACK, b"own").bytes(),
    );
    assert!(sent.is_empty());
    lab.take(local.unwrap());
}

#[test]
fn a_source_route_cannot_hide_the_storage() {
    let mut lab = Lab::new();
    for kind in [131, 137] {
        let mut options = vec![1, kind, 7, 4];
        options.extend_from_slice(&STORAGE.octets());
        let packet = Ip {
            options,
            ..Ip::tcp((COMPUTER, 5000), (FAR, 3260), TcpFlags::SYN, &[])
        };
        lab.dropped(LAN, &link(LAN, &packet.bytes()), Drop::Ipv4SourceRoute);
    }
}

#[test]
fn what_is_not_the_storages_iscsi_is_routed() {
    let mut lab = Lab::new();
    let far = Ip::tcp((COMPUTER, 5000), (FAR, 3260), TcpFlags::SYN, &[]);
    let ssh = Ip::tcp((COMPUTER, 5000), (STORAGE, 22), TcpFlags::SYN, &[]);
    let udp = Ip {
        fragment: 0x2000,
        ..Ip::udp(COMPUTER, STORAGE, 16)
    };
    let echo = Ip::echo(COMPUTER, STORAGE, b"ping");
    for packet in [far, ssh, udp, echo] {
        let (sent, local) = lab.packet(LAN, &packet.bytes());
        assert!(local.is_none());
        assert_eq!((sent.len(), sent[0].port), (1, WAN), "{packet:?}");
    }
    let (sent, _) = lab.packet(
        WAN,
        &Ip::tcp((STORAGE, 22), (COMPUTER, 5000), TcpFlags::ACK, &[]).bytes(),
    );
    assert_eq!(sent[0].port, LAN);
}

#[test]
fn the_portal_mode_holds_direct_dials_too() {
    let portal = Ipv4Addr::new(198, 18, 0, 2);
    let mut lab = Lab::with(RouterConfig {
        portal: Some((portal, 3260)),
        ..config()
    });
    for destination in [
        (STORAGE, 3260),
        (portal, 3260),
        (portal, 80),
        (RELAY_LAN, 22),
    ] {
        let (sent, local) = lab.packet(
            LAN,
            &Ip::tcp((COMPUTER, 5000), destination, TcpFlags::SYN, &[]).bytes(),
        );
        assert!(sent.is_empty());
        lab.take(local.unwrap());
    }
}

/// Addresses and ports around the ones that matter.
fn endpoint() -> impl Strategy<Value = (Ipv4Addr, u16)> {
    let address = prop_oneof![4 => Just(STORAGE), 2 => Just(COMPUTER), 1 => Just(FAR), 1 => Just(RELAY_WAN), 1 => Just(RELAY_LAN)];
    (
        address,
        prop_oneof![3 => Just(3260u16), 1 => Just(5000), 1 => any::<u16>()],
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_packet_gets_through(
        source in endpoint(), destination in endpoint(), flags: u8, ttl: u8,
        fragment in prop_oneof![Just(0u16), Just(0x4000), Just(0x2000), any::<u16>()],
        cut in prop_oneof![3 => Just(usize::MAX), 1 => 0usize..60],
        options in prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec(any::<u8>(), 4), 1 => proptest::collection::vec(any::<u8>(), 40)],
        wan: bool, data in 0usize..1600, gso in proptest::option::of(500u16..1500),
    ) {
        let mut lab = Lab::new();
        let mut packet = Ip { ttl, fragment, options, ..Ip::tcp(source, destination, flags, &vec![9; data]) };
        packet.payload.truncate(cut);
        let port = if wan { WAN } else { LAN };
        let mut frame = lab.frame(&link(port, &packet.bytes()));
        frame.gso = gso.map(|size| Gso { size, header_len: 54, kind: sluice_hugepages::pool::GsoKind::TcpV4 });
        let (sent, local) = lab.input_frame(port, frame);
        if let Some(local) = local {
            lab.take(local);
        }
        // Nothing but errors of the relay's own may come of a packet that is
        // the storage's, or could be a part of one.
        let storage_iscsi = source == (STORAGE, 3260) || destination == (STORAGE, 3260);
        let ports_unknown = fragment & 0x3fff != 0 || cut < 20;
        let storage = source.0 == STORAGE || destination.0 == STORAGE;
        if storage_iscsi || storage && ports_unknown {
            prop_assert!(sent.iter().all(|one| one.ipv4()[9] == 1), "{:?}", sent);
        }
        lab.check_frames();
    }
}

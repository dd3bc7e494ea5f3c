//! Packets of the relay's own.

use sluice_hugepages::pool::GsoKind;

use super::*;

#[test]
fn a_packet_in_the_storages_name_reaches_the_computer() {
    let mut lab = Lab::new();
    let packet = Ip::tcp((STORAGE, 3260), (COMPUTER, 5000), TcpFlags::ACK, b"data").bytes();
    let sent = lab.output(&packet);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].port, LAN);
    assert_eq!(sent[0].bytes[..12], [COMPUTER_MAC, LAN_MAC].concat());
    assert_eq!(sent[0].ipv4(), packet, "the time to live is the maker's");
    lab.check_frames();
}

#[test]
fn marks_count_from_the_link_header_again() {
    let mut lab = Lab::new();
    let packet = Ip::tcp(
        (RELAY_WAN, 40_000),
        (STORAGE, 3260),
        TcpFlags::ACK,
        &[3; 10_000],
    )
    .bytes();
    let mut frame = lab.frame(&packet);
    frame.checksum = Checksum::Partial {
        start: 20,
        offset: 16,
    };
    frame.gso = Some(Gso {
        size: 1360,
        header_len: 40,
        kind: GsoKind::TcpV4,
    });
    lab.router
        .output(lab.now, &mut lab.pool, frame, &mut lab.tx);
    let sent = lab.sent();
    assert_eq!(
        sent[0].checksum,
        Checksum::Partial {
            start: 34,
            offset: 16
        }
    );
    assert_eq!(sent[0].gso.unwrap().header_len, 54);
}

#[test]
fn what_cannot_be_sent_is_counted_and_nobody_told() {
    let mut lab = Lab::new();
    assert!(
        lab.output(&Ip::udp(RELAY_WAN, Ipv4Addr::new(192, 0, 2, 1), 20).bytes())
            .is_empty()
    );
    assert!(
        lab.output(&Ip::udp(RELAY_WAN, FAR, 1400).bytes())
            .is_empty()
    );
    assert!(
        lab.output(&Ip::udp(RELAY_WAN, RELAY_LAN, 20).bytes())
            .is_empty()
    );
    for drop in [
        Drop::NoRoute,
        Drop::FragmentationNeeded,
        Drop::OutputInvalid,
    ] {
        assert_eq!(lab.router.drops().get(drop), 1, "{drop}");
    }
    lab.check_frames();
}

#[test]
fn the_path_tells_port_source_and_mtu() {
    let lab = Lab::new();
    assert_eq!(
        lab.router.path(STORAGE),
        Some(Path {
            port: WAN,
            source: RELAY_WAN,
            mtu: 1400
        })
    );
    assert_eq!(
        lab.router.path(FAR),
        Some(Path {
            port: WAN,
            source: RELAY_WAN,
            mtu: 1400
        })
    );
    assert_eq!(lab.router.path(Ipv4Addr::new(192, 0, 2, 1)), None);
}

//! Fragments made by the router: RFC 791 3.2.

use proptest::prelude::*;

use super::*;

/// Puts fragments together by offset; checks headers on the way.
fn reassemble(sent: &[Sent], mtu: usize) -> Vec<u8> {
    let mut whole = Vec::new();
    for (at, one) in sent.iter().enumerate() {
        let packet = one.ipv4();
        assert!(packet.len() <= mtu);
        let header = ipv4::Ipv4Header::parse(packet, packet.len()).unwrap();
        assert_eq!(usize::from(header.fragment_offset()) * 8, whole.len());
        assert_eq!(header.more_fragments(), at + 1 < sent.len());
        whole.extend_from_slice(&packet[usize::from(header.header_len)..]);
    }
    whole
}

#[test]
fn a_large_packet_without_df_is_cut() {
    let mut lab = Lab::new();
    let packet = Ip {
        fragment: 0,
        ..Ip::udp(COMPUTER, FAR, 1480)
    };
    let (sent, _) = lab.packet(LAN, &packet.bytes());
    assert_eq!(
        sent.iter().map(|one| one.ipv4().len()).collect::<Vec<_>>(),
        [20 + 1376, 20 + 104]
    );
    assert!(
        sent.iter()
            .all(|one| one.ipv4()[4..6] == [0xab, 0xcd] && one.ipv4()[8] == 63)
    );
    assert_eq!(reassemble(&sent, 1400), packet.payload);
    assert_eq!(lab.router.counters().fragmented, 1);
    lab.check_frames();
}

#[test]
fn options_are_copied_as_their_copied_bit_says() {
    let mut lab = Lab::new();
    // Record route (7, not copied), router alert (148, copied), end.
    let options = vec![7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0];
    let packet = Ip {
        fragment: 0,
        options,
        ..Ip::udp(COMPUTER, FAR, 1480)
    };
    let (sent, _) = lab.packet(LAN, &packet.bytes());
    assert_eq!(sent[0].ipv4()[0], 0x48);
    assert_eq!(sent[1].ipv4()[0], 0x46);
    assert_eq!(sent[1].ipv4()[20..24], [148, 4, 0, 0]);
    assert_eq!(reassemble(&sent, 1400), packet.payload);
}

#[test]
fn a_partial_checksum_is_completed_before_the_cut() {
    let mut lab = Lab::new();
    let mut packet = Ip {
        fragment: 0,
        ..Ip::udp(COMPUTER, FAR, 1480)
    };
    // The pseudo-header sum stands in the field, as a kernel leaves it.
    let pseudo = [
        &COMPUTER.octets()[..],
        &FAR.octets(),
        &[0, 17],
        &1480u16.to_be_bytes(),
    ]
    .concat();
    packet.payload[6..8].copy_from_slice(&checksum::sum(&pseudo).to_be_bytes());
    let mut frame = lab.frame(&link(LAN, &packet.bytes()));
    frame.checksum = Checksum::Partial {
        start: 34,
        offset: 6,
    };
    let (sent, _) = lab.input_frame(LAN, frame);
    assert!(sent.iter().all(|one| one.checksum == Checksum::InPacket));
    let whole = reassemble(&sent, 1400);
    assert_eq!(
        checksum::add(checksum::sum(&pseudo), checksum::sum(&whole)),
        0xffff
    );
    lab.check_frames();
}

proptest! {
    #[test]
    fn cut_and_put_together_is_the_same(len in 1381usize..3900, offset in 0u16..100, more: bool) {
        let mut config = config();
        config.ports[0].mtu = 9000;
        let mut lab = Lab::with(config);
        let fragment = offset | if more { 0x2000 } else { 0 };
        let len = if more { len & !7 } else { len };
        prop_assume!(len > 1380);
        let packet = Ip { fragment, ..Ip::udp(COMPUTER, FAR, len) };
        let (sent, _) = lab.packet(LAN, &packet.bytes());
        let mut whole = Vec::new();
        for one in &sent {
            let header = ipv4::Ipv4Header::parse(one.ipv4(), one.ipv4().len()).unwrap();
            prop_assert!(header.total_len <= 1400);
            prop_assert_eq!(usize::from(header.fragment_offset() - offset) * 8, whole.len());
            whole.extend_from_slice(&one.ipv4()[20..]);
            prop_assert_eq!(header.more_fragments(), more || whole.len() < len);
        }
        prop_assert_eq!(whole, packet.payload);
        lab.check_frames();
    }
}

//! Random and half-right bytes: nothing panics, nothing is lost.

use proptest::prelude::*;

use super::*;

/// A packet that is right but for some bytes.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let packet = prop_oneof![
        (8usize..1500).prop_map(|len| Ip::udp(COMPUTER, FAR, len).bytes()),
        (0usize..100).prop_map(|len| Ip::echo(COMPUTER, RELAY_LAN, &vec![1; len]).bytes()),
        any::<u8>()
            .prop_map(|flags| Ip::tcp((COMPUTER, 5000), (STORAGE, 3260), flags, b"x").bytes()),
        proptest::collection::vec(any::<u8>(), 0..80),
    ];
    let changes = proptest::collection::vec((0usize..70, any::<u8>()), 0..4);
    (packet, changes, 0usize..1600, any::<bool>()).prop_map(|(packet, changes, cut, reseal)| {
        let mut frame = link(LAN, &packet);
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        let header_len = usize::from(frame.get(14).unwrap_or(&0) & 15) * 4;
        if reseal && header_len >= 20 && frame.len() >= 14 + header_len {
            checksum::fill_ipv4(&mut frame[14..14 + header_len]);
        }
        frame.truncate(cut.max(1));
        frame
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_end_somewhere(
        frames in proptest::collection::vec((nearly_right(), any::<bool>(), 0u64..2_000), 1..40),
        marks in proptest::collection::vec((any::<u16>(), any::<u16>(), 1u16.., any::<bool>()), 40),
    ) {
        let mut lab = Lab::new();
        let mut came = 0;
        for ((bytes, wan, later), (start, offset, size, marked)) in frames.into_iter().zip(marks) {
            lab.now += Duration::from_millis(later);
            let mut frame = lab.frame(&bytes);
            if marked {
                frame.checksum = Checksum::Partial { start, offset };
                frame.gso = Some(Gso { size, header_len: start, kind: sluice_hugepages::pool::GsoKind::UdpL4 });
            }
            let (_, local) = lab.input_frame(if wan { WAN } else { LAN }, frame);
            if let Some(local) = local {
                lab.take(local);
            }
            came += 1;
            lab.poll_after(Duration::ZERO);
            lab.check_frames();
        }
        let ports: u64 = lab.router.ports().map(|row| row.counters.rx_packets).sum();
        prop_assert_eq!(ports, came + 3, "with the three ARP replies of the start");
    }
}

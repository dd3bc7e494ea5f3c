//! Every drop is reached, under its name; and what a configuration may not say.

use std::collections::BTreeSet;

use super::ethernet::{Arp, ArpOperation, BROADCAST, header};
use super::*;

/// Makes one packet end for this reason.
fn provoke(drop: Drop) -> Lab {
    let mut lab = Lab::new();
    let udp = Ip::udp(COMPUTER, FAR, 20);
    let arp = |sender, target| {
        Arp {
            operation: ArpOperation::Request,
            sender_mac: COMPUTER_MAC,
            sender,
            target_mac: [0; 6],
            target,
        }
        .frame(BROADCAST)
        .to_vec()
    };
    let tcp = Ip::tcp((COMPUTER, 5000), (STORAGE, 3260), TcpFlags::ACK, &[]);
    let with_type = |ethertype| [&header(LAN_MAC, COMPUTER_MAC, ethertype)[..], &[0; 46]].concat();
    let changed = |at: usize, value: u8| {
        let mut packet = udp.bytes();
        packet[at] = value;
        link(LAN, &packet)
    };
    let to = |destination: [u8; 4]| {
        link(
            LAN,
            &Ip {
                destination: destination.into(),
                ..udp.clone()
            }
            .bytes(),
        )
    };
    let frame = match drop {
        Drop::EthernetTruncated => vec![2; 13],
        Drop::OtherStation => {
            [&header(STORAGE_MAC, COMPUTER_MAC, 0x0800)[..], &udp.bytes()].concat()
        }
        Drop::EtherTypeUnknown => with_type(0x8100),
        Drop::Ipv6NotRouted => with_type(0x86dd),
        Drop::ArpMalformed => with_type(0x0806),
        Drop::ArpAddressConflict => arp(RELAY_LAN, COMPUTER),
        Drop::ArpForeignSender => arp(FAR, RELAY_LAN),
        Drop::ArpNotForRelay => arp(COMPUTER, Ipv4Addr::new(198, 18, 0, 11)),
        Drop::Ipv4HeaderTruncated => link(LAN, &udp.bytes()[..19]),
        Drop::Ipv4BadVersion => changed(0, 0x65),
        Drop::Ipv4BadLength => link(LAN, &udp.bytes()[..39]),
        Drop::Ipv4BadChecksum => changed(8, 65),
        Drop::Ipv4SourceRoute => link(
            LAN,
            &Ip {
                options: vec![131, 3, 4, 0],
                ..udp
            }
            .bytes(),
        ),
        Drop::MartianSource => link(
            LAN,
            &Ip {
                source: RELAY_WAN,
                ..udp
            }
            .bytes(),
        ),
        Drop::MartianDestination => to([127, 0, 0, 1]),
        Drop::Multicast => to([224, 0, 0, 5]),
        Drop::Broadcast => to([198, 19, 0, 255]),
        Drop::TtlExpired => link(LAN, &Ip { ttl: 1, ..udp }.bytes()),
        Drop::NoRoute => to([192, 0, 2, 1]),
        Drop::FragmentationNeeded => link(LAN, &Ip::udp(COMPUTER, FAR, 1450).bytes()),
        Drop::GsoExceedsMtu => {
            let packet = Ip {
                fragment: 0,
                ..Ip::tcp((COMPUTER, 1), (FAR, 1), 0, &[0; 3000])
            };
            let mut frame = lab.frame(&link(LAN, &packet.bytes()));
            frame.gso = Some(Gso {
                size: 1448,
                header_len: 54,
                kind: sluice_hugepages::pool::GsoKind::TcpV4,
            });
            lab.input_frame(LAN, frame);
            return lab;
        }
        Drop::HostUnreachable => {
            lab.input(LAN, &to([198, 19, 0, 99]));
            for _ in 0..3 {
                lab.poll_after(Duration::from_secs(1));
            }
            return lab;
        }
        Drop::NeighbourQueueFull => {
            for _ in 0..3 {
                lab.input(LAN, &to([198, 19, 0, 99]));
            }
            return lab;
        }
        Drop::NeighbourTableFull => {
            for host in 90..95 {
                lab.input(LAN, &to([198, 19, 0, host]));
            }
            return lab;
        }
        Drop::TxQueueFull => {
            let mut lab = Lab {
                pool: Pool::anonymous(TX_QUEUE_LEN / 4),
                ..lab
            };
            for _ in 0..=TX_QUEUE_LEN {
                let frame = lab.frame(&link(LAN, &udp.bytes()));
                assert!(
                    lab.router
                        .input(lab.now, &mut lab.pool, LAN, frame, &mut lab.tx)
                        .is_none()
                );
            }
            assert_eq!(lab.tx.port(WAN).len(), TX_QUEUE_LEN);
            while !lab.tx.is_empty() {
                lab.sent();
            }
            return lab;
        }
        Drop::NoFrame => {
            let frame = lab.frame(&arp(COMPUTER, RELAY_LAN));
            let mut taken = vec![];
            while let Some(frame) = lab.pool.alloc_frame() {
                taken.push(frame);
            }
            lab.input_frame(LAN, frame);
            taken.into_iter().for_each(|frame| lab.pool.release(frame));
            return lab;
        }
        Drop::InterceptedFragment => link(LAN, &Ip { fragment: 7, ..tcp }.bytes()),
        Drop::InterceptedReply => link(
            WAN,
            &Ip::tcp((STORAGE, 3260), (COMPUTER, 5000), TcpFlags::ACK, &[]).bytes(),
        ),
        Drop::TcpMalformed => link(
            LAN,
            &Ip {
                payload: vec![0; 19],
                ..tcp
            }
            .bytes(),
        ),
        Drop::FragmentToRelay => link(
            LAN,
            &Ip {
                fragment: 0x2000,
                ..Ip::echo(COMPUTER, RELAY_LAN, &[0; 8])
            }
            .bytes(),
        ),
        Drop::IcmpMalformed => link(
            LAN,
            &Ip {
                payload: vec![8, 0, 0, 0, 0, 0, 0, 0],
                ..Ip::echo(COMPUTER, RELAY_LAN, &[])
            }
            .bytes(),
        ),
        Drop::IcmpIgnored => link(
            LAN,
            &Ip {
                payload: vec![0, 0, 0xff, 0xff, 0, 0, 0, 0],
                ..Ip::echo(COMPUTER, RELAY_LAN, &[])
            }
            .bytes(),
        ),
        Drop::UdpToRelay => to([198, 18, 0, 1]),
        Drop::ProtocolToRelay => link(
            LAN,
            &Ip {
                protocol: 89,
                destination: RELAY_LAN,
                ..udp
            }
            .bytes(),
        ),
        Drop::KernelIntercepted => {
            let mut lab = kernel::lab();
            let dial = Ip::tcp((RELAY_WAN, 5000), (STORAGE, 3260), TcpFlags::SYN, &[]);
            kernel::send(&mut lab, &dial.bytes());
            return lab;
        }
        Drop::OutputInvalid => {
            lab.output(&[0x45; 20]);
            return lab;
        }
    };
    let port = if drop == Drop::InterceptedReply {
        WAN
    } else {
        LAN
    };
    let frame = if port == WAN {
        [&WAN_MAC[..], &frame[6..]].concat()
    } else {
        frame
    };
    let (_, local) = lab.input(port, &frame);
    assert!(local.is_none());
    lab
}

#[test]
fn every_drop_is_reached_and_is_the_only_one() {
    for &drop in Drop::ALL {
        let lab = provoke(drop);
        let seen: Vec<_> = lab
            .router
            .drops()
            .iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(seen, [(drop, 1)]);
        if drop != Drop::TxQueueFull {
            lab.check_frames();
        }
    }
}

#[test]
fn names_are_distinct_snake_case() {
    let names: BTreeSet<_> = Drop::ALL.iter().map(|drop| drop.name()).collect();
    assert_eq!(names.len(), Drop::ALL.len());
    assert!(names.iter().all(|name| {
        name.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    }));
}

#[test]
fn martians_of_every_kind() {
    let mut lab = Lab::new();
    for source in [
        "0.0.0.1",
        "127.0.0.1",
        "169.254.3.3",
        "224.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
        "198.19.0.1",
        "198.18.0.255",
        "198.19.0.0",
    ] {
        let packet = Ip {
            source: source.parse().unwrap(),
            ..Ip::udp(COMPUTER, FAR, 20)
        };
        lab.dropped(LAN, &link(LAN, &packet.bytes()), Drop::MartianSource);
    }
    for (destination, drop) in [
        ("0.0.0.0", Drop::MartianDestination),
        ("127.1.2.3", Drop::MartianDestination),
        ("169.254.0.1", Drop::MartianDestination),
        ("240.0.0.1", Drop::MartianDestination),
        ("239.1.1.1", Drop::Multicast),
        ("255.255.255.255", Drop::Broadcast),
        ("198.18.0.255", Drop::Broadcast),
        ("198.19.0.0", Drop::Broadcast),
    ] {
        let packet = Ip {
            destination: destination.parse().unwrap(),
            ..Ip::udp(COMPUTER, FAR, 20)
        };
        lab.dropped(LAN, &link(LAN, &packet.bytes()), drop);
    }
    let in_broadcast = [
        &header(BROADCAST, COMPUTER_MAC, 0x0800)[..],
        &Ip::udp(COMPUTER, FAR, 20).bytes(),
    ]
    .concat();
    lab.dropped(LAN, &in_broadcast, Drop::Broadcast);
    lab.check_frames();
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused_with_its_value() {
    let refused = |change: fn(&mut RouterConfig)| {
        let mut config = config();
        change(&mut config);
        Router::new(config).unwrap_err().to_string()
    };
    assert!(refused(|c| c.ports.clear()).starts_with("0 ports"));
    assert!(
        refused(|c| c.ports[0].address = Ipv4Addr::new(198, 18, 0, 255))
            .starts_with("port lan: 198.18.0.255/24")
    );
    assert!(refused(|c| c.ports[0].prefix_len = 33).contains("/33"));
    assert!(refused(|c| c.ports[1].prefix_len = 0).contains("/0"));
    assert!(
        refused(|c| c.ports[1].address = Ipv4Addr::new(198, 18, 0, 2))
            .contains("overlaps that of port lan")
    );
    assert!(refused(|c| c.ports[1].mac = [1, 0, 0, 0, 0, 0]).contains("[01, 00"));
    assert!(refused(|c| c.ports[1].mtu = 500).contains("MTU 500"));
    assert!(
        refused(|c| c.routes[0].prefix = Ipv4Addr::new(203, 0, 113, 1)).contains("203.0.113.1/24")
    );
    assert!(refused(|c| c.routes[0].via = Ipv4Addr::new(10, 0, 0, 1)).contains("via 10.0.0.1"));
    assert!(refused(|c| c.routes[0].via = RELAY_WAN).contains("via 198.19.0.1"));
    assert!(refused(|c| c.routes.push(c.routes[0])).contains("given twice"));
    assert!(
        refused(|c| c.routes[0].prefix = Ipv4Addr::new(198, 18, 0, 0))
            .contains("subnet of port lan")
    );
    assert!(refused(|c| c.intercepts[0].0 = RELAY_LAN).starts_with("intercept 198.18.0.1:3260"));
    assert!(refused(|c| c.portal = Some((FAR, 3260))).starts_with("portal 203.0.113.5:3260"));
    assert!(refused(|c| c.neighbours.entries_max = 0).contains("1 neighbour entries needed"));
}

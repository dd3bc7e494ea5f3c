//! The way to the host's kernel and back: A-2, and what it must not open.

use sluice_hugepages::pool::GsoKind;

use super::*;

const KERNEL: u8 = 2;

pub(super) fn lab() -> Lab {
    Lab::with(RouterConfig {
        kernel: true,
        ..config()
    })
}

/// What the kernel was given, without link headers.
fn given(lab: &mut Lab) -> Vec<(Vec<u8>, Checksum, Option<Gso>)> {
    let mut burst = Burst::new();
    lab.tx.fill_burst(KERNEL, &mut burst);
    let given = burst.drain(..).map(|frame| {
        let bytes = lab.pool.bytes(&frame).to_vec();
        let marks = (frame.checksum, frame.gso);
        lab.pool.release(frame);
        (bytes, marks.0, marks.1)
    });
    given.collect()
}

/// Sends a packet as the kernel; says what went out by the ports.
pub(super) fn send(lab: &mut Lab, packet: &[u8]) -> Vec<Sent> {
    let frame = lab.frame(packet);
    let mut burst = Burst::new();
    burst.push(frame);
    lab.router
        .input_kernel(lab.now, &mut lab.pool, &mut burst, &mut lab.tx);
    assert!(burst.is_empty());
    lab.sent()
}

fn refused(lab: &mut Lab, packet: &Ip, drop: Drop) {
    let before = lab.router.drops().get(drop);
    assert!(send(lab, &packet.bytes()).is_empty(), "{packet:?}");
    assert_eq!(lab.router.drops().get(drop), before + 1, "{drop}");
}

#[test]
fn what_is_for_the_box_goes_to_its_kernel() {
    let mut lab = lab();
    let unreachable = Ip {
        protocol: 1,
        payload: vec![3, 4, 0, 0, 0, 0, 5, 0],
        ..Ip::udp(FAR, RELAY_WAN, 8)
    };
    let fragment = Ip {
        fragment: 0x2000,
        ..Ip::echo(COMPUTER, RELAY_LAN, &[7; 64])
    };
    let sctp = Ip {
        protocol: 132,
        ..Ip::udp(COMPUTER, RELAY_LAN, 40)
    };
    for packet in [
        Ip::tcp((COMPUTER, 5000), (RELAY_LAN, 22), TcpFlags::SYN, &[]),
        Ip::tcp((FAR, 179), (RELAY_WAN, 40_000), TcpFlags::ACK, b"bgp"),
        Ip::udp(COMPUTER, RELAY_WAN, 40),
        sctp,
        unreachable,
        fragment,
    ] {
        let packet = packet.bytes();
        let (sent, local) = lab.packet(LAN, &[packet.as_slice(), &[0; 6]].concat());
        assert!(sent.is_empty() && local.is_none());
        let given = given(&mut lab);
        assert_eq!(given.len(), 1);
        assert_eq!(given[0].0, packet, "without link header and padding");
    }
    assert_eq!(lab.router.counters().to_kernel, 6);
    lab.check_frames();
}

#[test]
fn marks_go_along() {
    let mut lab = lab();
    let packet = Ip::tcp((COMPUTER, 5000), (RELAY_LAN, 22), TcpFlags::ACK, &[1; 8000]).bytes();
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
    assert!(local.is_none());
    let (bytes, checksum, gso) = given(&mut lab).remove(0);
    assert_eq!(bytes, packet);
    assert_eq!(
        checksum,
        Checksum::Partial {
            start: 20,
            offset: 16
        }
    );
    assert_eq!(gso.map(|gso| gso.header_len), Some(40));
}

#[test]
fn the_relays_own_never_reaches_the_kernel() {
    let mut lab = lab();
    for packet in [
        // Its connections to the storage, and a portal's port at its own address.
        Ip::tcp((STORAGE, 3260), (RELAY_WAN, 40_000), TcpFlags::ACK, b"x"),
        Ip::tcp((COMPUTER, 5000), (RELAY_LAN, 3260), TcpFlags::SYN, &[]),
    ] {
        let (_, local) = lab.packet(LAN, &packet.bytes());
        lab.take(local.expect("it is TCP's"));
    }
    let (sent, _) = lab.packet(LAN, &Ip::echo(COMPUTER, RELAY_LAN, b"ping").bytes());
    assert_eq!(sent.len(), 1, "the echo is answered here");
    let fragment = Ip {
        fragment: 0x2000,
        ..Ip::tcp((STORAGE, 3260), (RELAY_WAN, 40_000), TcpFlags::ACK, b"x")
    };
    lab.dropped(WAN, &link(WAN, &fragment.bytes()), Drop::FragmentToRelay);
    assert!(given(&mut lab).is_empty());
    lab.check_frames();
}

#[test]
fn the_kernel_is_a_host_at_the_routers_addresses() {
    let mut lab = lab();
    let answer = Ip::tcp((RELAY_LAN, 22), (COMPUTER, 5000), TcpFlags::SYN, &[]).bytes();
    let sent = send(&mut lab, &answer);
    assert_eq!(
        (sent[0].port, sent[0].ipv4()),
        (LAN, &answer[..]),
        "the TTL stays"
    );
    let far = Ip::udp(RELAY_WAN, FAR, 100).bytes();
    assert_eq!(send(&mut lab, &far)[0].port, WAN);
    assert_eq!(lab.router.counters().from_kernel, 2);
    lab.check_frames();
}

#[test]
fn the_kernel_cannot_reach_the_storage_or_forward() {
    let mut lab = lab();
    refused(
        &mut lab,
        &Ip::tcp((RELAY_WAN, 40_000), (STORAGE, 3260), TcpFlags::SYN, &[]),
        Drop::KernelIntercepted,
    );
    let fragment = Ip {
        fragment: 0x2000,
        ..Ip::tcp((RELAY_WAN, 40_000), (STORAGE, 3260), TcpFlags::SYN, &[])
    };
    refused(&mut lab, &fragment, Drop::InterceptedFragment);
    refused(&mut lab, &Ip::udp(COMPUTER, FAR, 40), Drop::MartianSource);
    refused(
        &mut lab,
        &Ip::udp(RELAY_WAN, RELAY_LAN, 40),
        Drop::MartianDestination,
    );
    refused(
        &mut lab,
        &Ip::udp(RELAY_WAN, Ipv4Addr::new(224, 0, 0, 5), 40),
        Drop::Multicast,
    );
    // Another port of the storage's address is nobody's secret.
    let ssh = Ip::tcp((RELAY_WAN, 40_000), (STORAGE, 22), TcpFlags::SYN, &[]);
    assert_eq!(send(&mut lab, &ssh.bytes()).len(), 1);
    let before = lab.router.drops().get(Drop::Ipv6NotRouted);
    assert!(send(&mut lab, &[0x60; 48]).is_empty());
    assert_eq!(lab.router.drops().get(Drop::Ipv6NotRouted), before + 1);
    assert!(send(&mut lab, &[]).is_empty());
    lab.check_frames();
}

#[test]
fn a_kernel_that_takes_nothing_costs_a_bounded_queue() {
    let mut lab = lab();
    lab.pool = Pool::anonymous(128);
    let packet = link(LAN, &Ip::udp(COMPUTER, RELAY_LAN, 40).bytes());
    for _ in 0..TX_QUEUE_LEN {
        lab.input(LAN, &packet);
    }
    lab.dropped(LAN, &packet, Drop::TxQueueFull);
}

#[test]
fn what_is_said_of_the_kernels_own_segments_is_the_kernels() {
    let mut lab = lab();
    let packet = local::too_big((RELAY_WAN, 40_000), (FAR, 179), 28).bytes();
    let (sent, local) = lab.packet(WAN, &packet);
    assert!(sent.is_empty() && local.is_none());
    assert_eq!(given(&mut lab)[0].0, packet);
    let packet = local::too_big((RELAY_WAN, 40_000), (STORAGE, 3260), 28).bytes();
    let (_, local) = lab.packet(WAN, &packet);
    lab.take(local.expect("it is of a connection to the storage"));
    assert!(given(&mut lab).is_empty());
    lab.check_frames();
}

//! Neighbours: RFC 826, RFC 1122 2.3.2.

use super::ethernet::{Arp, ArpOperation, BROADCAST};
use super::*;

fn state(lab: &Lab, address: Ipv4Addr) -> Option<NeighbourState> {
    lab.router
        .neighbours()
        .find(|row| row.address == address)
        .map(|row| row.state)
}

fn request(sender: Ipv4Addr, sender_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    Arp {
        operation: ArpOperation::Request,
        sender_mac,
        sender,
        target_mac: [0; 6],
        target,
    }
    .frame(BROADCAST)
    .to_vec()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_request_byte_for_byte() {
    let mut lab = Lab::cold(config());
    let (sent, _) = lab.input(
        LAN,
        &[
            255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 1, 10, 8, 6, // broadcast
            0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 1, 10, 198, 18, 0, 10, 0, 0, 0, 0, 0, 0, 198, 18,
            0, 1, // who has .1?
        ],
    );
    assert_eq!(sent.len(), 1);
    assert_eq!(
        sent[0].bytes,
        [
            2, 0, 0, 0, 1, 10, 2, 0, 0, 0, 0, 1, 8, 6, // to the asker
            0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1, 198, 18, 0, 1, 2, 0, 0, 0, 1, 10, 198, 18, 0,
            10,
        ]
    );
    assert_eq!(
        state(&lab, COMPUTER),
        Some(NeighbourState::Stale),
        "the asker is learned"
    );
    lab.check_frames();
}

#[test]
fn only_own_addresses_are_answered_for() {
    let mut lab = Lab::cold(config());
    lab.dropped(
        LAN,
        &request(COMPUTER, COMPUTER_MAC, Ipv4Addr::new(198, 18, 0, 77)),
        Drop::ArpNotForRelay,
    );
    lab.dropped(
        LAN,
        &request(COMPUTER, COMPUTER_MAC, RELAY_WAN),
        Drop::ArpNotForRelay,
    );
    assert_eq!(
        state(&lab, COMPUTER),
        None,
        "others' requests teach nothing new"
    );
    let portal = Ipv4Addr::new(198, 18, 0, 2);
    let mut lab = Lab::cold(RouterConfig {
        portal: Some((portal, 3260)),
        ..config()
    });
    assert_eq!(
        lab.input(LAN, &request(COMPUTER, COMPUTER_MAC, portal))
            .0
            .len(),
        1
    );
}

#[test]
fn a_probe_is_answered_and_not_learned() {
    let mut lab = Lab::cold(config());
    let (sent, _) = lab.input(
        LAN,
        &request(Ipv4Addr::UNSPECIFIED, COMPUTER_MAC, RELAY_LAN),
    );
    assert_eq!(sent.len(), 1);
    assert_eq!(
        lab.router.neighbours().count(),
        1,
        "only the gateway, which is configured"
    );
}

#[test]
fn packets_wait_for_the_answer_in_order() {
    let mut lab = Lab::cold(config());
    let packets: Vec<_> = (0..3)
        .map(|at| Ip::udp(COMPUTER, FAR, 20 + at).bytes())
        .collect();
    let (sent, _) = lab.packet(LAN, &packets[0]);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].port, &sent[0].bytes[..6]), (WAN, &BROADCAST[..]));
    let asked = Arp::parse(&sent[0].bytes[14..]).unwrap();
    assert_eq!(
        (asked.operation, asked.sender, asked.target),
        (ArpOperation::Request, RELAY_WAN, GATEWAY)
    );
    assert!(lab.packet(LAN, &packets[1]).0.is_empty(), "asked once");
    assert!(lab.packet(LAN, &packets[2]).0.is_empty());
    assert_eq!(
        lab.router.drops().get(Drop::NeighbourQueueFull),
        1,
        "two may wait; the oldest made room"
    );
    let sent = lab.arp_reply(WAN, GATEWAY, GATEWAY_MAC);
    assert_eq!(
        sent.iter().map(|one| one.ipv4().len()).collect::<Vec<_>>(),
        [41, 42]
    );
    assert!(
        sent.iter()
            .all(|one| one.bytes[..6] == GATEWAY_MAC && one.ipv4()[8] == 63)
    );
    assert_eq!(lab.packet(LAN, &packets[0]).0.len(), 1);
    lab.check_frames();
}

#[test]
fn who_never_answers_is_unreachable() {
    let mut lab = Lab::with(config());
    let nobody = Ipv4Addr::new(198, 19, 0, 99);
    let packet = Ip::udp(COMPUTER, nobody, 64);
    assert_eq!(lab.packet(LAN, &packet.bytes()).0.len(), 1);
    assert_eq!(lab.router.deadline(), lab.now + SECOND);
    assert!(lab.poll_after(SECOND / 2).is_empty());
    for _ in 0..2 {
        let sent = lab.poll_after(SECOND);
        assert_eq!(Arp::parse(&sent[0].bytes[14..]).unwrap().target, nobody);
    }
    let sent = lab.poll_after(SECOND);
    let quoted = Ip {
        ttl: 63,
        ..packet.clone()
    }
    .bytes();
    assert_icmp_error(&sent[0], (3, 1), 0, RELAY_LAN, COMPUTER, &quoted);
    assert_eq!(lab.router.counters().arp_requests, 3);
    assert_eq!(state(&lab, nobody), Some(NeighbourState::Failed));
    // Not asked again for a while, and refused at once.
    let (sent, _) = lab.packet(LAN, &packet.bytes());
    assert_icmp_error(&sent[0], (3, 1), 0, RELAY_LAN, COMPUTER, &quoted);
    assert!(lab.poll_after(SECOND).is_empty());
    assert_eq!(state(&lab, nobody), None);
    let (sent, _) = lab.packet(LAN, &packet.bytes());
    assert_eq!(Arp::parse(&sent[0].bytes[14..]).unwrap().target, nobody);
    lab.check_frames();
}

#[test]
fn an_own_packet_that_waits_in_vain_is_only_counted() {
    let mut lab = Lab::cold(config());
    assert_eq!(lab.output(&Ip::udp(STORAGE, COMPUTER, 30).bytes()).len(), 1);
    for _ in 0..2 {
        assert_eq!(lab.poll_after(SECOND).len(), 1);
    }
    assert!(lab.poll_after(SECOND).is_empty());
    assert_eq!(lab.router.drops().get(Drop::HostUnreachable), 1);
    lab.check_frames();
}

#[test]
fn a_neighbour_ages_is_probed_and_asked_for_anew() {
    let mut lab = Lab::new();
    let packet = Ip::udp(COMPUTER, FAR, 30).bytes();
    assert_eq!(state(&lab, GATEWAY), Some(NeighbourState::Reachable));
    lab.poll_after(30 * SECOND);
    assert_eq!(state(&lab, GATEWAY), Some(NeighbourState::Stale));
    // The first use sends the packet and asks the neighbour itself.
    let (sent, _) = lab.packet(LAN, &packet);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].ipv4().len(), 50);
    assert_eq!(
        (&sent[1].bytes[..6], &sent[1].bytes[12..14]),
        (&GATEWAY_MAC[..], &[8, 6][..])
    );
    assert_eq!(
        lab.packet(LAN, &packet).0.len(),
        1,
        "sent meanwhile, not asked again"
    );
    lab.arp_reply(WAN, GATEWAY, GATEWAY_MAC);
    assert_eq!(state(&lab, GATEWAY), Some(NeighbourState::Reachable));
    // Now it stays silent: two more probes, then everybody is asked.
    lab.poll_after(30 * SECOND);
    lab.packet(LAN, &packet);
    for destination in [GATEWAY_MAC, GATEWAY_MAC, BROADCAST] {
        let sent = lab.poll_after(SECOND);
        assert_eq!((sent.len(), &sent[0].bytes[..6]), (1, &destination[..]));
    }
    assert_eq!(state(&lab, GATEWAY), Some(NeighbourState::Incomplete));
    let other = [2, 0, 0, 0, 2, 253];
    lab.packet(LAN, &packet);
    let sent = lab.arp_reply(WAN, GATEWAY, other);
    assert_eq!(sent[0].bytes[..6], other);
    lab.check_frames();
}

#[test]
fn an_idle_neighbour_goes_a_gateway_stays() {
    let mut lab = Lab::new();
    lab.poll_after(30 * SECOND);
    lab.poll_after(600 * SECOND);
    assert_eq!(
        lab.router
            .neighbours()
            .map(|row| (row.address, row.state, row.mac))
            .collect::<Vec<_>>(),
        [(GATEWAY, NeighbourState::Unresolved, None)]
    );
    assert_eq!(lab.router.deadline(), Time::FAR);
}

#[test]
fn a_known_neighbour_that_moves_is_followed() {
    let mut lab = Lab::new();
    let moved = [2, 0, 0, 0, 1, 99];
    // Gratuitous: sender and target are the same address.
    let (sent, _) = lab.input(LAN, &request(COMPUTER, moved, COMPUTER));
    assert!(sent.is_empty());
    let (sent, _) = lab.packet(WAN, &Ip::udp(FAR, COMPUTER, 20).bytes());
    assert_eq!(sent[0].bytes[..6], moved);
}

#[test]
fn a_scan_of_the_subnet_leaves_room_for_who_is_there() {
    let mut lab = Lab::new();
    for host in 100..200 {
        lab.packet(
            LAN,
            &Ip::udp(COMPUTER, Ipv4Addr::new(198, 19, 0, host), 20).bytes(),
        );
    }
    assert!(lab.router.drops().get(Drop::NeighbourTableFull) >= 90);
    assert!(
        lab.router
            .neighbours()
            .filter(|row| row.state == NeighbourState::Incomplete)
            .count()
            <= 4
    );
    assert_eq!(state(&lab, GATEWAY), Some(NeighbourState::Reachable));
    // Somebody new who speaks to the relay is still learned.
    let newcomer = Ipv4Addr::new(198, 18, 0, 50);
    lab.input(LAN, &request(newcomer, [2, 0, 0, 0, 1, 50], RELAY_LAN));
    assert_eq!(state(&lab, newcomer), Some(NeighbourState::Stale));
    lab.poll_after(SECOND);
    lab.poll_after(SECOND);
    lab.poll_after(SECOND);
    lab.check_frames();
}

#[test]
fn a_full_table_gives_up_the_stale_first() {
    let mut lab = Lab::cold(config());
    for host in 10..40 {
        let mac = [2, 0, 0, 0, 1, host];
        let (sent, _) = lab.input(
            LAN,
            &request(Ipv4Addr::new(198, 18, 0, host), mac, RELAY_LAN),
        );
        assert_eq!(sent.len(), 1, "answered, learned or not");
    }
    assert_eq!(lab.router.neighbours().count(), 16);
    assert_eq!(
        state(&lab, GATEWAY),
        Some(NeighbourState::Unresolved),
        "pinned"
    );
    assert_eq!(
        state(&lab, Ipv4Addr::new(198, 18, 0, 39)),
        Some(NeighbourState::Stale)
    );
}

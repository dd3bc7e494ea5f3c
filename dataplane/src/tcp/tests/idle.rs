//! What nobody touches costs nothing.

use super::*;

/// Flows opened by hand, so that neither side has a peer that keeps time.
fn open(host: &mut Host, now: Time, port: u16) -> FlowId {
    let syn = Raw::syn(port, 1_000);
    let syn_ack = host.input(now, &syn.packet());
    let (seq, _) = numbers(&syn_ack[0]);
    let ack = Raw {
        control: TcpControl::None,
        seq: 1_001,
        ack: Some(seq.wrapping_add(1)),
        ..syn
    };
    assert!(host.input(now, &ack.packet()).is_empty());
    host.poll(now);
    match host.events()[..] {
        [(id, FlowEvent::Accepted { .. })] => id,
        ref events => panic!("{events:?}"),
    }
}

fn polls_of_one_busy_flow(idle: u16) -> u64 {
    let mut config = config();
    config.flows_max = 400;
    let mut host = Host::new(config, 2 * usize::from(idle) + 32);
    host.tcp.listen(STORAGE);
    let now = Time::from_millis(1);
    for port in 0..idle {
        open(&mut host, now, 20_000 + port);
    }
    let busy = open(&mut host, now, 1_000);
    let before = host.tcp.counters().flow_polls;
    for turn in 0..100u32 {
        let now = now + Duration::from_micros(100) * turn;
        host.send(busy, |room| {
            room[0] = 1;
            1
        });
        let sent = host.poll(now);
        assert_eq!(sent.len(), 1);
        let (seq, _) = numbers(&sent[0]);
        let ack = Raw {
            control: TcpControl::None,
            seq: 1_001,
            ack: Some(seq.wrapping_add(1)),
            ..Raw::syn(1_000, 0)
        };
        host.input(now, &ack.packet());
        host.poll(now);
    }
    host.tcp.counters().flow_polls - before
}

#[test]
fn polls_do_not_grow_with_idle_flows() {
    assert_eq!(polls_of_one_busy_flow(0), polls_of_one_busy_flow(300));
}

#[test]
fn an_idle_room_sleeps_until_the_keep_alive() {
    let mut world = World::plain();
    world.connected();
    let now = world.now;
    let deadline = world.hosts[0].tcp.deadline();
    assert!(
        deadline > now + Duration::from_secs(5),
        "{:?} away",
        deadline.since(now)
    );
    let polls = world.hosts[0].tcp.counters().flow_polls;
    world.pass(Duration::from_secs(300));
    assert!(
        world.hosts.iter_mut().all(|host| host.events().is_empty()),
        "an idle peer that answers lives"
    );
    assert!(world.hosts[0].tcp.counters().flow_polls - polls < 150);
}

#[test]
fn a_peer_that_fell_silent_is_given_up() {
    let mut world = World::plain();
    let [client, server] = world.connected();
    world.link.loss_permille = 1000;
    world.pass(Duration::from_secs(90));
    assert_eq!(
        world.hosts[0].events(),
        [(client, FlowEvent::Closed(CloseReason::TimedOut))]
    );
    assert_eq!(
        world.hosts[1].events(),
        [(server, FlowEvent::Closed(CloseReason::TimedOut))]
    );
    assert_eq!(world.hosts.each_ref().map(Host::pages_leased), [0, 0]);
}

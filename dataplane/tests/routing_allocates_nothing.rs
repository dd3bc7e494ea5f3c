//! After the start, no packet makes the router allocate, whatever becomes of it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::Ipv4Addr;

use arrayvec::ArrayVec;
use sluice_dataplane::net::{
    Drop, NeighbourLimits, PortConfig, RouteConfig, Router, RouterConfig, TxQueues,
};
use sluice_hugepages::pool::{BURST_LEN, Burst, Pool};
use sluice_proto::Time;

struct Counting;

thread_local! {
    /// Of this thread: the test runner's own allocate when they like.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all is the system allocator's; the count changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // At the end of a thread the cell may be gone; then nobody counts.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const COMPUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);

/// An IPv4 frame from the computer; UDP, or TCP where `port` is given.
fn packet(destination: Ipv4Addr, len: u16, ttl: u8, protocol: u8, port: u16) -> Vec<u8> {
    let mut frame = vec![0; 14 + usize::from(len)];
    frame[..6].copy_from_slice(&LAN_MAC);
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 1, 10, 8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&len.to_be_bytes());
    frame[22..24].copy_from_slice(&[ttl, protocol]);
    frame[26..30].copy_from_slice(&COMPUTER.octets());
    frame[30..34].copy_from_slice(&destination.octets());
    let sum = !sluice_dataplane::checksum::sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    if protocol == 6 {
        frame[46] = 0x50;
    }
    frame
}

#[test]
fn routing_allocates_nothing() {
    let port = |name: &str, mac, address, mtu| PortConfig {
        name: name.into(),
        mac,
        address,
        prefix_len: 24,
        mtu,
    };
    let storage = Ipv4Addr::new(198, 19, 0, 10);
    let mut router = Router::new(RouterConfig {
        ports: vec![
            port("lan", LAN_MAC, Ipv4Addr::new(198, 18, 0, 1), 1500),
            port(
                "wan",
                [2, 0, 0, 0, 0, 2],
                Ipv4Addr::new(198, 19, 0, 1),
                1000,
            ),
        ],
        routes: vec![RouteConfig {
            prefix: Ipv4Addr::UNSPECIFIED,
            prefix_len: 0,
            via: Ipv4Addr::new(198, 19, 0, 254),
        }],
        intercepts: vec![(storage, 3260)],
        portal: None,
        kernel: false,
        neighbours: NeighbourLimits {
            entries_max: 64,
            ..NeighbourLimits::default()
        },
    })
    .unwrap();
    let mut pool = Pool::anonymous(64);
    let mut tx = TxQueues::new(2);
    let mut locals = ArrayVec::<_, BURST_LEN>::new();
    let gateway_answer = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 2, 254, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 2, 254,
        198, 19, 0, 254, 2, 0, 0, 0, 0, 2, 198, 19, 0, 1,
    ];
    let far = Ipv4Addr::new(203, 0, 113, 5);
    // Routed, fragmented, refused, for the TCP room, for hosts that never
    // answer, malformed, and from who is learned.
    let mut frames: Vec<(u8, Vec<u8>)> = vec![
        (0, packet(far, 200, 64, 17, 9)),
        (0, packet(far, 1400, 64, 17, 9)),
        (0, packet(far, 200, 1, 17, 9)),
        (0, packet(storage, 60, 64, 6, 3260)),
        (0, packet(Ipv4Addr::new(198, 18, 0, 1), 60, 64, 17, 9)),
        (0, vec![0; 20]),
        (1, gateway_answer.to_vec()),
    ];
    frames.extend((20..60).map(|host| (0, packet(Ipv4Addr::new(198, 19, 0, host), 60, 64, 17, 9))));

    let mut round = |now: Time| {
        for (port, bytes) in &frames {
            let mut frame = pool.alloc_frame().unwrap();
            frame.len = u32::try_from(bytes.len()).unwrap();
            pool.bytes_mut(&frame).copy_from_slice(bytes);
            let mut burst = Burst::new();
            burst.push(frame);
            router.input_burst(now, &mut pool, *port, &mut burst, &mut tx, &mut locals);
            locals.drain(..).for_each(|local| pool.release(local.frame));
        }
        router.poll(now, &mut pool, &mut tx);
        for port in 0..2 {
            tx.port_mut(port)
                .drain(..)
                .for_each(|frame| pool.release(frame));
        }
    };
    round(Time::from_millis(1));
    let before = ALLOCATIONS.get();
    for at in 2..200 {
        round(Time::from_millis(at * 250));
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    for drop in [
        Drop::TtlExpired,
        Drop::UdpToRelay,
        Drop::HostUnreachable,
        Drop::NeighbourTableFull,
    ] {
        assert!(router.drops().get(drop) > 0, "{drop} was not reached");
    }
    let counters = router.counters();
    assert!(
        counters.routed > 200
            && counters.fragmented > 200 / 2
            && counters.local > 100
            && counters.icmp_errors > 100,
        "{counters:?}"
    );
}

//! One suite for every driver: frames arrive and leave whole and in order,
//! bursts stay bounded, buffers come back, and faults of the link are counted.
//!
//! Needs root (network namespaces, raw sockets, XDP).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's way to fail and to tell"
)]

mod wire;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sluice_dataplane::driver::memory::MemorySpec;
use sluice_dataplane::driver::{Driver, Port, PortSpec, open};
use sluice_hugepages::pool::{
    BURST_LEN, Burst, Checksum, FRAME_LEN, Frame, Gso, GsoKind, HEADROOM, Owner, PAGE_LEN,
    PIECES_MAX, Pool, Reservation,
};
use sluice_proto::Time;
use wire::{ETHERTYPE_EXPERIMENTAL, Namespaces, RawPeer, eventually, run, within};

/// Pages of the tests' pools: armed buffers of two ports of any driver and 64 bursts.
const POOL_PAGES: usize = 512;

/// Counts what a thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is the system allocator's; the count is a thread's own and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Runs what must not allocate.
fn without_allocation<T>(task: impl FnOnce() -> T) -> T {
    let before = ALLOCATIONS.get();
    let done = task();
    assert_eq!(ALLOCATIONS.get(), before, "the hot path allocated");
    done
}

enum Far {
    Memory,
    Raw(RawPeer),
}

/// A port and its far end.
struct Setup {
    port: Port,
    pool: Pool,
    free_before: usize,
    far: Far,
    namespaces: Option<Namespaces>,
}

fn spec(driver: Driver) -> PortSpec {
    PortSpec {
        device: "near".to_owned(),
        driver,
        index: 0,
    }
}

impl Setup {
    fn new(driver: Driver) -> Self {
        let mut pool = Pool::anonymous(POOL_PAGES);
        let free_before = free_bytes(&pool);
        if driver == Driver::Memory {
            let port = Port::memory(&MemorySpec {
                gso: false,
                ..MemorySpec::default()
            });
            return Self {
                port,
                pool,
                free_before,
                far: Far::Memory,
                namespaces: None,
            };
        }
        let namespaces = Namespaces::new(2);
        namespaces.link((0, "near"), (1, "far"));
        let port = within(&namespaces.0[0], || open(&spec(driver), &mut pool, &[])).unwrap();
        let far = Far::Raw(within(&namespaces.0[1], || RawPeer::open("far")));
        Self {
            port,
            pool,
            free_before,
            far,
            namespaces: Some(namespaces),
        }
    }

    fn ip(&self, arguments: &str) {
        run(&format!(
            "ip -n {} {arguments}",
            self.namespaces.as_ref().unwrap().0[0]
        ));
    }

    fn far_send(&mut self, bytes: &[u8]) {
        match &self.far {
            Far::Memory => self
                .port
                .memory_mut()
                .unwrap()
                .inject(&mut self.pool, bytes)
                .unwrap(),
            Far::Raw(peer) => peer.send(bytes),
        }
    }

    fn far_receive(&mut self) -> Option<Vec<u8>> {
        match &self.far {
            Far::Memory => {
                let mut bytes = Vec::new();
                self.port
                    .memory_mut()
                    .unwrap()
                    .take(&mut self.pool, &mut bytes)
                    .then_some(bytes)
            }
            Far::Raw(peer) => peer.receive(),
        }
    }

    fn receive(&mut self, burst: &mut Burst) -> usize {
        without_allocation(|| self.port.rx(Time::ZERO, &mut self.pool, burst))
    }

    fn send(&mut self, burst: &mut Burst) {
        without_allocation(|| self.port.tx(Time::ZERO, &mut self.pool, burst));
    }

    fn frame(&mut self, bytes: &[u8]) -> Frame {
        frame(&mut self.pool, bytes)
    }

    fn finish(mut self) {
        self.port.close(&mut self.pool);
        assert_eq!(free_bytes(&self.pool), self.free_before, "buffers leaked");
    }
}

/// Bytes of the pool that nobody has.
fn free_bytes(pool: &Pool) -> usize {
    let stats = pool.stats();
    stats.pages_free * PAGE_LEN + stats.frames_free * FRAME_LEN
}

fn frame(pool: &mut Pool, bytes: &[u8]) -> Frame {
    let mut frame = pool.alloc_frame().unwrap();
    frame.len = u32::try_from(bytes.len()).unwrap();
    pool.bytes_mut(&frame).copy_from_slice(bytes);
    frame
}

/// Frame number `number`, recognisable to its last byte.
fn packet(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([0x02, 0, 0, 0, 0, 9]);
    bytes.extend(ETHERTYPE_EXPERIMENTAL);
    bytes.extend(u32::try_from(number).unwrap().to_be_bytes());
    bytes.extend((bytes.len()..len).map(|at| u8::try_from((at * 7 + number * 13) % 251).unwrap()));
    bytes
}

fn content_and_order(driver: Driver) {
    let mut setup = Setup::new(driver);
    let sizes: Vec<usize> = (60..=1514).step_by(6).chain([60, 1513, 1514]).collect();
    for (number, len) in sizes.iter().enumerate() {
        // In.
        let sent = packet(number, *len);
        setup.far_send(&sent);
        let mut burst = Burst::new();
        eventually("a frame arrives", || {
            (setup.receive(&mut burst) > 0).then_some(())
        });
        assert_eq!(
            setup.pool.bytes(&burst[0]),
            sent,
            "{driver}: in, frame {number}"
        );
        assert!(
            usize::from(burst[0].offset) >= HEADROOM,
            "room in front for a longer header"
        );
        assert_eq!((burst.len(), burst[0].gso), (1, None));
        // And the same buffer out again.
        setup.send(&mut burst);
        assert!(burst.is_empty());
        let arrived = eventually("the frame leaves", || setup.far_receive());
        assert_eq!(arrived, sent, "{driver}: out, frame {number}");
    }
    let stats = setup.port.stats();
    assert_eq!(
        (stats.rx_frames, stats.tx_frames),
        (sizes.len() as u64, sizes.len() as u64)
    );
    assert_eq!(stats.rx_bytes, sizes.iter().sum::<usize>() as u64);
    assert_eq!(stats.tx_bytes, stats.rx_bytes);
    setup.finish();
}

fn bursts_stay_in_order_and_bounded(driver: Driver) {
    let mut setup = Setup::new(driver);
    const COUNT: usize = 200;
    for number in 0..COUNT {
        setup.far_send(&packet(number, 60 + number));
    }
    let (mut received, mut room) = (0, 1);
    while received < COUNT {
        // A burst that is full but for `room`.
        let mut burst = Burst::new();
        for _ in room..BURST_LEN {
            burst.push(setup.frame(b"in the way"));
        }
        let count = eventually("frames arrive", || {
            Some(setup.receive(&mut burst)).filter(|count| *count > 0)
        });
        assert!(count <= room && burst.len() == BURST_LEN - room + count);
        for (at, frame) in burst.drain(..).enumerate() {
            if at >= BURST_LEN - room {
                assert_eq!(
                    setup.pool.bytes(&frame),
                    packet(received, 60 + received),
                    "{driver}: frame {received}"
                );
                received += 1;
            }
            setup.pool.release(frame);
        }
        room = room % BURST_LEN + 1;
    }
    let mut full = Burst::new();
    while !full.is_full() {
        full.push(setup.frame(b"in the way"));
    }
    setup.far_send(&packet(1, 60));
    assert_eq!(setup.receive(&mut full), 0, "a full burst takes nothing");
    full.drain(..).for_each(|frame| setup.pool.release(frame));

    // Out: whole bursts, and what is not taken stays in order.
    let (mut next, mut arrived, mut burst) = (0, 0, Burst::new());
    while arrived < COUNT {
        while !burst.is_full() && next < COUNT {
            burst.push(setup.frame(&packet(next, 60 + next)));
            next += 1;
        }
        setup.send(&mut burst);
        while let Some(bytes) = setup.far_receive() {
            assert_eq!(bytes, packet(arrived, 60 + arrived), "{driver}: out");
            arrived += 1;
        }
        // Drivers that defer do so until the next rx.
        let mut in_between = Burst::new();
        setup.receive(&mut in_between);
        in_between
            .drain(..)
            .for_each(|frame| setup.pool.release(frame));
    }
    setup.finish();
}

/// Frames on their way in and out when the port is closed come back too, and a driver under a pool
/// that has run out drops by name and recovers.
fn buffers_come_back(driver: Driver) {
    let mut setup = Setup::new(driver);
    let mut hoard = Vec::new();
    while let Some(frame) = setup.pool.alloc_frame() {
        hoard.push(frame);
    }
    if driver != Driver::Memory {
        let mut burst = Burst::new();
        // More than are armed: with none to replace them the rest must be dropped, and counted.
        let mut received = 0;
        for number in 0..1500 {
            setup.far_send(&packet(number, 100));
            received += setup.receive(&mut burst);
            hoard.extend(burst.drain(..));
        }
        setup.port.refresh_stats();
        let stats = setup.port.stats();
        assert!(
            stats.rx_no_buffer + stats.fill_starved > 0,
            "{driver}: {stats:?}"
        );
        assert!(received < 1500);
    }
    hoard.drain(..).for_each(|frame| setup.pool.release(frame));
    let mut burst = Burst::new();
    let last = packet(9009, 100);
    eventually("frames arrive again", || {
        setup.far_send(&last);
        setup.receive(&mut burst);
        let arrived = burst.iter().any(|frame| setup.pool.bytes(frame) == last);
        burst.drain(..).for_each(|frame| setup.pool.release(frame));
        arrived.then_some(())
    });
    // Leave some of everything behind.
    for number in 0..100 {
        setup.far_send(&packet(number, 300));
    }
    while !burst.is_full() {
        burst.push(setup.frame(&packet(0, 200)));
    }
    setup.send(&mut burst);
    burst.drain(..).for_each(|frame| setup.pool.release(frame));
    setup.finish();
}

fn unsendable_frames_are_named(driver: Driver) {
    let mut setup = Setup::new(driver);
    let mut burst = Burst::new();
    let (good, long, runt) = (packet(1, 100), packet(2, 1600), packet(3, 60));
    burst.push(setup.frame(&good));
    burst.push(setup.frame(&long));
    burst.push(setup.frame(&runt[..13]));
    burst.push(setup.frame(&good));
    let mut arrived = 0;
    eventually("both good frames leave", || {
        setup.send(&mut burst);
        while let Some(bytes) = setup.far_receive() {
            assert_eq!(bytes, good);
            arrived += 1;
        }
        (arrived == 2).then_some(())
    });
    let stats = setup.port.stats();
    assert!(burst.is_empty());
    assert_eq!(
        (stats.tx_too_long, stats.tx_runt, stats.tx_frames),
        (1, 1, 2),
        "{driver}"
    );
    setup.finish();
}

/// Until the port is full, and then what it could not take is still there.
fn a_full_port_leaves_the_rest(driver: Driver) {
    let mut setup = Setup::new(driver);
    match driver {
        Driver::AfPacket => {
            let namespace = &setup.namespaces.as_ref().unwrap().0[0];
            // One small packet a second, and a queue longer than the socket's buffer.
            run(&format!(
                "ip netns exec {namespace} tc qdisc add dev near root tbf rate 8kbit burst 1600 limit 100000000"
            ));
        }
        // The ring is not emptied while the link is down.
        Driver::AfXdp => setup.ip("link set near down"),
        _ => {}
    }
    let mut burst = Burst::new();
    let mut sent = 0;
    while setup.port.stats().tx_full == 0 {
        while !burst.is_full() {
            burst.push(setup.frame(&packet(sent + burst.len(), 1500)));
        }
        setup.send(&mut burst);
        sent += BURST_LEN - burst.len();
        assert!(sent < 100_000, "{driver}: never full");
    }
    assert!(!burst.is_empty());
    assert_eq!(
        setup.pool.bytes(&burst[0]),
        packet(sent, 1500),
        "{driver}: the front is the next one"
    );
    assert_eq!(setup.port.stats().tx_frames, sent as u64);
    burst.drain(..).for_each(|frame| setup.pool.release(frame));
    setup.finish();
}

fn carries_on_after_link_down(driver: Driver) {
    let mut setup = Setup::new(driver);
    let mut burst = Burst::new();
    if driver == Driver::Memory {
        let Setup { port, pool, .. } = &mut setup;
        port.memory_mut().unwrap().set_link(pool, false);
    } else {
        setup.ip("link set near down");
    }
    for number in 0..3 {
        burst.push(setup.frame(&packet(number, 100)));
    }
    setup.send(&mut burst);
    assert!(burst.is_empty(), "{driver}: nothing clogs");
    assert_eq!(setup.receive(&mut burst), 0);
    assert_eq!(
        setup.port.stats().link_down,
        1,
        "{driver}: {:?}",
        setup.port.stats()
    );
    assert!(
        !setup.port.tx_pending(),
        "{driver}: nothing keeps the worker awake"
    );
    if driver == Driver::Memory {
        let Setup { port, pool, .. } = &mut setup;
        port.memory_mut().unwrap().set_link(pool, true);
    } else {
        setup.ip("link set near up");
    }
    // Out and in again. (veth may take a moment; a frame lost in it is the network's right.)
    eventually("frames leave again", || {
        burst.push(setup.frame(&packet(7, 200)));
        setup.send(&mut burst);
        std::iter::from_fn(|| setup.far_receive())
            .any(|bytes| bytes == packet(7, 200))
            .then_some(())
    });
    eventually("frames arrive again", || {
        setup.far_send(&packet(8, 200));
        setup.receive(&mut burst);
        let arrived = burst
            .iter()
            .any(|frame| setup.pool.bytes(frame) == packet(8, 200));
        burst.drain(..).for_each(|frame| setup.pool.release(frame));
        arrived.then_some(())
    });
    setup.finish();
}

/// A UDP-like frame whose checksum was left to the card, and one to be cut.
fn marks_of_other_ports(driver: Driver) {
    let mut setup = Setup::new(driver);
    if driver == Driver::AfPacket {
        // Over veth the mark would reach the peer as it is; so the kernel must complete it.
        let namespace = &setup.namespaces.as_ref().unwrap().0[0];
        run(&format!("ip netns exec {namespace} ethtool -K near tx off"));
    }
    let mut bytes = packet(1, 101);
    bytes[40..42].copy_from_slice(&[0x12, 0x34]);
    let mut partial = setup.frame(&bytes);
    partial.checksum = Checksum::Partial {
        start: 34,
        offset: 6,
    };
    // In a page, beyond its first frame: what a GSO-sized buffer may hold.
    let mut page = setup.pool.alloc_page_frame().unwrap();
    (page.offset, page.len) = (30_000, u32::try_from(bytes.len()).unwrap());
    setup.pool.bytes_mut(&page).copy_from_slice(&bytes);
    let mut outside = setup.frame(&bytes);
    outside.checksum = Checksum::Partial {
        start: 99,
        offset: 6,
    };
    let mut gso = setup.frame(&bytes);
    gso.gso = Some(Gso {
        size: 20,
        header_len: 54,
        kind: GsoKind::TcpV4,
    });
    let mut burst = Burst::from_iter([partial, page]);
    setup.send(&mut burst);
    let sum = |bytes: &[u8]| {
        let mut sum: u32 = bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
            .sum();
        sum = (sum & 0xffff) + (sum >> 16);
        u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
    };
    let completed = eventually("the partial one leaves", || setup.far_receive());
    let mut expected = bytes.clone();
    expected[40..42].copy_from_slice(&(!sum(&bytes[34..])).to_be_bytes());
    assert_eq!(completed, expected, "{driver}: complete on the wire");
    assert_eq!(
        eventually("the one in a page leaves", || setup.far_receive()),
        bytes
    );
    if driver == Driver::AfXdp {
        setup.send(&mut Burst::from_iter([outside, gso]));
        let stats = setup.port.stats();
        assert_eq!((stats.gso_unsupported, stats.tx_bad_checksum_mark), (1, 1));
    } else {
        setup.pool.release(outside);
        setup.pool.release(gso);
    }
    setup.finish();
}

/// As many pieces as a packet can have, of frames that stay their owner's, sent and sent again.
fn gathered_packets(driver: Driver) {
    const PIECE_LEN: usize = 80;
    let mut setup = Setup::new(driver);
    let pool = &mut setup.pool;
    let kept: Vec<Frame> = (0..16)
        .map(|_| pool.take(Reservation::NONE, Owner::Tcp(0)).unwrap())
        .collect();
    let whole = packet(3, 50 + PIECES_MAX * PIECE_LEN);
    let (head, payload) = whole.split_at(50);
    let places = (0..PIECES_MAX).map(|piece| (&kept[piece % 16], piece / 16 * PIECE_LEN));
    for ((frame, at), piece) in places.clone().zip(payload.chunks(PIECE_LEN)) {
        pool.buffer_mut(frame)[at..][..PIECE_LEN].copy_from_slice(piece);
    }
    let mut burst = Burst::new();
    for _ in 0..2 {
        let mut frame = setup.frame(head);
        let parts = places.clone().map(|(frame, at)| (frame, at, PIECE_LEN));
        assert!(setup.pool.gather(&mut frame, parts));
        burst.push(frame);
    }
    setup.send(&mut burst);
    for _ in 0..2 {
        let arrived = eventually("it leaves", || setup.far_receive());
        assert_eq!(arrived, whole, "{driver}");
    }
    assert_eq!(setup.pool.packets_gathered(), 0);
    assert_eq!(setup.port.stats().tx_bytes, 2 * whole.len() as u64);
    kept.into_iter().for_each(|frame| setup.pool.release(frame));
    setup.finish();
}

/// A tagged frame would look like one of the untagged network, since the kernel strips the tag.
#[test]
fn af_packet_leaves_tagged_frames_to_the_kernel() {
    let mut setup = Setup::new(Driver::AfPacket);
    let plain = packet(2, 100);
    let mut tagged = packet(1, 100);
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    setup.far_send(&tagged);
    setup.far_send(&plain);
    let mut burst = Burst::new();
    eventually("a frame arrives", || {
        (setup.receive(&mut burst) > 0).then_some(())
    });
    assert_eq!(setup.pool.bytes(&burst[0]), plain);
    setup.pool.release(burst.remove(0));
    setup.finish();
}

macro_rules! suite {
    ($($driver:ident: $variant:expr;)*) => {$(
        mod $driver {
            use super::*;
            #[test] fn content_and_order() { super::content_and_order($variant) }
            #[test] fn bursts_stay_in_order_and_bounded() { super::bursts_stay_in_order_and_bounded($variant) }
            #[test] fn buffers_come_back() { super::buffers_come_back($variant) }
            #[test] fn unsendable_frames_are_named() { super::unsendable_frames_are_named($variant) }
            #[test] fn a_full_port_leaves_the_rest() { super::a_full_port_leaves_the_rest($variant) }
            #[test] fn carries_on_after_link_down() { super::carries_on_after_link_down($variant) }
            #[test] fn marks_of_other_ports() { super::marks_of_other_ports($variant) }
            #[test] fn gathered_packets() { super::gathered_packets($variant) }
        }
    )*};
}

suite! {
    memory: Driver::Memory;
    af_packet: Driver::AfPacket;
    af_xdp: Driver::AfXdp;
}

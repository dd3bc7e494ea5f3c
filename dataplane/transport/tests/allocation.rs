//! Once a connection has its size, neither side allocates: not for data in either
//! direction, acknowledgements, losses or retransmissions.

use sluice_transport::send_buffer::Pieces;
use sluice_transport::{Config, Connection, Emit, IpEcn, Segment, Seq, Time};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting does
// not allocate (the cell is const-initialised and needs no destructor).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A wire that holds so many segments, and loses some.
struct Wire {
    segments: Box<[(Segment, u32); 1024]>,
    len: usize,
    count: u64,
    lossy: bool,
}

impl Emit<u64> for Wire {
    fn emit(&mut self, segment: &Segment, _: IpEcn, size: Option<u16>, payload: Pieces<'_, u64>) {
        let len = payload.len();
        let size = size.map_or(len.max(1), u32::from);
        let mut done = 0;
        loop {
            let part = size.min(len - done);
            let mut segment = *segment;
            segment.seq = segment.seq.plus(done);
            self.count += 1;
            if !self.lossy || !self.count.is_multiple_of(53) {
                self.segments[self.len] = (segment, part);
                self.len += 1;
            }
            done += part;
            if done == len {
                break;
            }
        }
    }
}

fn move_bytes(
    from: &mut Connection<u64, u64>,
    to: &mut Connection<u64, u64>,
    now: Time,
    wire: &mut Wire,
) {
    wire.len = 0;
    while from.next_released().is_some() {}
    while from.send(0, 4096).is_ok() {}
    from.poll_transmit(now, 64, wire);
    for (segment, len) in &wire.segments[..wire.len] {
        to.on_segment(
            now + Duration::from_millis(1),
            segment,
            IpEcn::NotCapable,
            *len,
            0,
        );
    }
    while to.read().is_some() {}
}

#[test]
fn nothing_is_allocated_on_the_way() {
    let config = Config {
        send_limit: 1 << 20,
        window_max: 1 << 20,
        receive_frames_max: 1024,
        ..Config::default()
    };
    let mut now = Time::from_millis(1000);
    let mut wire = Wire {
        segments: Box::new([(Segment::default(), 0); 1024]),
        len: 0,
        count: 0,
        lossy: false,
    };
    let mut a = Connection::connect(config, Seq(1), now);
    a.poll_transmit(now, 64, &mut wire);
    let mut b = Connection::accept(config, Seq(2), now, &wire.segments[0].0).expect("a SYN");
    wire.lossy = true;
    let turn =
        |now: Time, a: &mut Connection<u64, u64>, b: &mut Connection<u64, u64>, wire: &mut Wire| {
            move_bytes(a, b, now, wire);
            move_bytes(b, a, now + Duration::from_millis(2), wire);
        };
    // Lists of received parts grow to the most that was ever held.
    for _ in 0..5000 {
        turn(now, &mut a, &mut b, &mut wire);
        now += Duration::from_millis(4);
    }
    let (before, delivered) = (ALLOCATIONS.get(), a.sample().delivered);
    for _ in 0..5000 {
        turn(now, &mut a, &mut b, &mut wire);
        now += Duration::from_millis(4);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0, "allocations on the way");
    assert!(
        a.sample().delivered - delivered > 10_000_000,
        "{:?}",
        a.sample()
    );
    assert!(a.counters().segments_resent > 100, "{:?}", a.counters());
}

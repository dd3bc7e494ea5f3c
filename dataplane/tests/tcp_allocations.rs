//! An open connection allocates nothing: not for a segment, an answer, an
//! event, a timer or a step without work.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_dataplane::tcp::{FlowEvent, FlowId, Tcp, TcpConfig, WanBuffers};
use sluice_hugepages::pool::{Frame, Pool, Reservation};
use sluice_proto::Time;

struct Counting;

thread_local! {
    /// Of this thread: the test harness has others.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is ours.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is ours.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);

/// Both ends share a pool, so that frames pass between them as they are.
struct Pair {
    now: Time,
    pool: Pool,
    ends: [Tcp; 2],
    wires: [Vec<Frame>; 2],
    flows: [Option<FlowId>; 2],
}

impl Pair {
    /// One step of both ends: what the other has sent, events, the owner, poll.
    fn step(&mut self, mut owner: impl FnMut(usize, &mut Tcp, &mut Pool, FlowId)) {
        self.now += Duration::from_micros(20);
        for at in 0..2 {
            let (mine, theirs) = self.wires.split_at_mut(1);
            let (input, output) = match at {
                0 => (&mut theirs[0], &mut mine[0]),
                _ => (&mut mine[0], &mut theirs[0]),
            };
            let tcp = &mut self.ends[at];
            for frame in input.drain(..) {
                assert!(tcp.input(self.now, &mut self.pool, frame, output).is_none());
            }
            while let Some((flow, event)) = tcp.next_event() {
                if matches!(event, FlowEvent::Accepted { .. } | FlowEvent::Connected) {
                    self.flows[at] = Some(flow);
                }
            }
            if let Some(flow) = self.flows[at] {
                owner(at, tcp, &mut self.pool, flow);
            }
            tcp.poll(self.now, &mut self.pool, output);
        }
    }
}

#[test]
fn a_connection_allocates_nothing_once_it_is_open() {
    let mut config = TcpConfig::new(8, 1500, [1; 16]);
    config.packets_per_poll = 64;
    let mut pair = Pair {
        now: Time::from_millis(1),
        pool: Pool::anonymous(32),
        ends: [Tcp::new(config.clone()), Tcp::new(config)],
        wires: [Vec::with_capacity(256), Vec::with_capacity(256)],
        flows: [None; 2],
    };
    pair.ends[1].listen(SERVER);
    let buffers = WanBuffers {
        rx_pages: 1,
        tx_frames: 16,
    };
    pair.ends[0]
        .connect(
            pair.now,
            &mut pair.pool,
            CLIENT,
            SERVER,
            buffers,
            Reservation::NONE,
        )
        .expect("connects");
    for _ in 0..10 {
        pair.step(|_, _, _, _| {});
    }
    assert!(pair.flows.iter().all(Option::is_some));
    let before = ALLOCATIONS.get();
    let mut moved = 0;
    for round in 0..5_000 {
        pair.step(|at, tcp, pool, flow| {
            moved += tcp.recv(flow, |bytes| bytes.len());
            // Bursts with pauses in between.
            if round % 50 < 40 {
                tcp.draw(pool, flow);
                tcp.send(flow, |room| room.len().min(4096 + 48 * at));
            }
        });
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert!(moved > 10 << 20, "{moved} bytes");
}

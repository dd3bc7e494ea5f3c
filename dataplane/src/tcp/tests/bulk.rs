//! Streams arrive whole and in order, whatever the link does.

use super::*;
use std::cell::RefCell;

/// A byte of a stream by its direction and position.
fn byte(direction: usize, at: u64) -> u8 {
    let word = (at / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.to_le_bytes()[usize::try_from(at % 8).unwrap()] ^ [0x55, 0xaa][direction]
}

/// One end's progress.
#[derive(Debug, Default)]
struct End {
    flow: Option<FlowId>,
    written: u64,
    read: u64,
    closing: bool,
    closed: Option<CloseReason>,
}

impl End {
    /// What a worker does with a flow in a step.
    fn step(&mut self, at: usize, host: &mut Host, total: u64) {
        while let Some((id, event)) = host.tcp.next_event() {
            match event {
                FlowEvent::Accepted { .. } => self.flow = Some(id),
                FlowEvent::Closed(reason) => self.closed = Some(reason),
                FlowEvent::Finished => {
                    assert_eq!(self.read + host.tcp.recv_available(id) as u64, total)
                }
                FlowEvent::Connected | FlowEvent::Ready => {}
            }
            assert_eq!(Some(id), self.flow);
        }
        let Some(flow) = self.flow else { return };
        let (read, written) = (&mut self.read, &mut self.written);
        // Up to the end of a ring or a frame, and on, until there is no more.
        while host.tcp.recv(flow, |bytes| {
            for &got in bytes {
                assert_eq!(got, byte(1 - at, *read), "byte {read}");
                *read += 1;
            }
            bytes.len()
        }) > 0
        {}
        loop {
            host.tcp.draw(&mut host.pool, flow);
            let room = host.tcp.send_room(flow);
            let sent = host.tcp.send(flow, |room| {
                let len = room.len().min(usize::try_from(total - *written).unwrap());
                for slot in &mut room[..len] {
                    *slot = byte(at, *written);
                    *written += 1;
                }
                len
            });
            assert!(sent <= room);
            if sent == 0 {
                break;
            }
        }
        if self.written == total && self.read == total && !self.closing {
            host.tcp.close(flow);
            self.closing = true;
        }
    }
}

/// Moves `total` bytes each way on one flow and closes it from both ends.
fn transfer(world: &mut World, total: u64, buffers: WanBuffers) -> [CloseReason; 2] {
    let now = world.now;
    let client = &mut world.hosts[0];
    let flow = client
        .tcp
        .connect(
            now,
            &mut client.pool,
            COMPUTER,
            STORAGE,
            buffers,
            Reservation::NONE,
        )
        .unwrap();
    let ends = RefCell::new([
        End {
            flow: Some(flow),
            ..End::default()
        },
        End::default(),
    ]);
    let done = world.run(
        Duration::from_secs(3600),
        |at, host| ends.borrow_mut()[at].step(at, host, total),
        || ends.borrow().iter().all(|end| end.closed.is_some()),
    );
    assert!(done, "stuck at {:?}: {ends:?}", world.now);
    ends.into_inner().map(|end| end.closed.unwrap())
}

fn wild(seed: u64) -> World {
    let link = Link {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(3),
        loss_permille: 10,
        repeat_permille: 5,
    };
    World::new(config(), config(), 128, link, seed)
}

const SMALL: WanBuffers = WanBuffers {
    rx_pages: 1,
    tx_frames: 16,
};

#[test]
fn loss_reorder_and_repetition_do_not_show_in_the_stream() {
    for seed in 1..=3 {
        let mut world = wild(seed);
        assert_eq!(
            transfer(&mut world, 1 << 20, SMALL),
            [CloseReason::Finished; 2],
            "seed {seed}"
        );
        world.pass(Duration::from_secs(60));
        for host in &world.hosts {
            assert_eq!(host.pages_leased(), 0);
            assert_eq!(host.tcp.rows().count(), 0, "TIME-WAIT is over");
        }
    }
}

#[test]
fn a_run_of_pages_gives_a_wan_flow_a_scaled_window() {
    let link = Link {
        delay: Duration::from_millis(20),
        ..Link::default()
    };
    let mut server = config();
    server.accept_buffers = Buffers {
        rx_pages: 16,
        tx_pages: 16,
    };
    let mut world = World::new(config(), server, 128, link, 1);
    let started = world.now;
    transfer(
        &mut world,
        8 << 20,
        WanBuffers {
            rx_pages: 16,
            tx_frames: 256,
        },
    );
    // 1 MiB a round trip of 40 ms; without scale it would take 128 of them, 5.1 s.
    assert!(
        world.now.since(started) < Duration::from_millis(800),
        "{:?}",
        world.now.since(started)
    );
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    let trace = |seed| {
        let mut world = wild(seed);
        transfer(&mut world, 1 << 18, SMALL);
        (world.now, world.packets)
    };
    assert_eq!(trace(9), trace(9));
    assert_ne!(trace(9), trace(10));
}

#[test]
fn with_gso_segments_are_long_marked_and_whole() {
    let mut gso = config();
    (gso.accept.gso, gso.connect.gso) = (true, true);
    let link = Link {
        delay: Duration::from_micros(30),
        ..Link::default()
    };
    let mut world = World::new(gso.clone(), gso, 128, link, 1);
    transfer(&mut world, 2 << 20, SMALL);
    assert!(
        *world.packets.iter().max().unwrap() > 40_000,
        "long packets"
    );
    // 4 MiB took fewer packets than 1460-byte segments alone would.
    assert!(
        world.packets.len() < 1000,
        "{} packets",
        world.packets.len()
    );
}

#[test]
fn a_long_segment_says_how_it_is_to_be_cut() {
    let mut gso = config();
    gso.connect.gso = true;
    let mut world = World::new(gso, config(), 128, Link::default(), 1);
    let [client, _] = world.connected();
    while world.hosts[0].send(client, |room| room.len()) > 0 {}
    let now = world.now;
    let packets = world.hosts[0].poll(now);
    assert_eq!(
        packets[0].gso,
        Some(Gso {
            size: 1460,
            header_len: 40,
            kind: sluice_hugepages::pool::GsoKind::TcpV4
        })
    );
    assert_eq!((packets[0].bytes.len() - 40) % 1460, 0, "whole segments");
    assert_eq!(
        packets[0].checksum,
        Checksum::Partial {
            start: 20,
            offset: 16
        }
    );
    // Completed as a port would, the checksum is right.
    let mut bytes = packets[0].bytes.clone();
    segment::fill_checksum(&mut bytes);
    assert!(Segment::parse(&bytes, Checksum::InPacket).is_ok());
    let sum = |bytes: &[u8]| {
        let sum: u32 = bytes
            .chunks(2)
            .map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)))
            .sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
    };
    assert_eq!(
        sum(&packets[0].bytes[20..]),
        u16::from_be_bytes([bytes[36], bytes[37]])
    );
}

#[test]
fn a_pool_that_runs_dry_delays_and_loses_nothing() {
    let mut world = wild(4);
    let server = &mut world.hosts[1];
    // Leave the server's flow its two pages and sixteen frames for everything else.
    let hoard: Vec<_> = std::iter::from_fn(|| server.pool.alloc_page_frame()).collect();
    let mut hoard = hoard.into_iter();
    for page in hoard.by_ref().take(3) {
        server.pool.release(page);
    }
    let mut frames = Vec::new();
    world.link = Link {
        delay: Duration::from_millis(1),
        ..Link::default()
    };
    let flow = world.connect();
    world.pass(Duration::from_millis(10));
    let server = &mut world.hosts[1];
    let (id, _) = server.tcp.next_event().expect("accepted");
    server.tcp.send(id, |room| {
        room.fill(7);
        room.len()
    });
    while let Some(frame) = server.pool.alloc_frame() {
        frames.push(frame);
    }
    let now = world.now;
    assert!(world.hosts[1].poll(now).is_empty());
    assert!(world.hosts[1].tcp.counters().waits_for_pool > 0);
    let deadline = world.hosts[1].tcp.deadline();
    assert!(
        deadline > now && deadline < now + Duration::from_millis(1),
        "waits, does not spin"
    );
    for frame in frames {
        world.hosts[1].pool.release(frame);
    }
    world.pass(Duration::from_secs(5));
    let mut got = 0;
    world.run(
        Duration::from_secs(5),
        |at, host| {
            if at == 0 {
                got += std::iter::repeat_with(|| host.tcp.recv(flow, |bytes| bytes.len()))
                    .take_while(|&taken| taken > 0)
                    .sum::<usize>();
            }
        },
        || false,
    );
    assert_eq!(got, 65_536);
}

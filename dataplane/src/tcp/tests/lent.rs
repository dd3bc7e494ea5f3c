//! Packets that name what a flow keeps: whatever becomes of the flow, their bytes are those
//! that were sent until they are released, and nothing stays behind.

use super::super::chain::Chain;
use super::*;
use proptest::prelude::*;
use sluice_hugepages::pool::{FRAME_LEN, Owner};
use std::collections::VecDeque;

const PAGES: usize = 8;
const RESERVATION: Reservation = Reservation(1);

/// A chain, and the bytes that it is to have.
struct Kept {
    chain: Chain,
    bytes: VecDeque<u8>,
    acked: u64,
}

struct Bench {
    pool: Pool,
    chains: [Option<Kept>; 2],
    /// Packets in queues, and what each is to say.
    waiting: Vec<(Frame, Vec<u8>)>,
    next: u8,
}

impl Bench {
    fn new() -> Self {
        let mut pool = Pool::anonymous(PAGES);
        pool.reserve(RESERVATION, 24).unwrap();
        Self {
            pool,
            chains: [None, None],
            waiting: Vec::new(),
            next: 0,
        }
    }

    fn step(&mut self, (step, which, len): (u8, usize, usize)) {
        let Self {
            pool,
            chains,
            waiting,
            next,
        } = self;
        let slot = &mut chains[which % 2];
        let Some(kept) = slot else {
            let limit = u32::try_from(len % 40 + 1).unwrap();
            let reservation = [Reservation::NONE, RESERVATION][which / 2 % 2];
            *slot = Chain::take(pool, 0, limit, reservation).map(|chain| Kept {
                chain,
                bytes: VecDeque::new(),
                acked: 0,
            });
            return;
        };
        match step {
            // Written.
            0..4 => {
                kept.chain.draw(pool);
                kept.chain.append(len, |out| {
                    for byte in out.iter_mut() {
                        *next = next.wrapping_mul(5).wrapping_add(1);
                        *byte = *next;
                        kept.bytes.push_back(*next);
                    }
                    out.len()
                });
            }
            // Sent, or sent again.
            4..8 => {
                if kept.bytes.is_empty() {
                    return;
                }
                let from = which % kept.bytes.len();
                let count = (len * 8).min(kept.bytes.len() - from).min(65_000);
                let Some(mut head) = pool.alloc_frame() else {
                    return;
                };
                pool.set(&mut head, HEADROOM, 40);
                pool.bytes_mut(&head).fill(0x45);
                let start = kept.acked + from as u64;
                if !kept.chain.lend(pool, &mut head, start, count) {
                    assert_eq!(head.next, None);
                    pool.release(head);
                    return;
                }
                let mut says = vec![0x45; 40];
                says.extend(kept.bytes.range(from..from + count));
                waiting.push((head, says));
            }
            // Acknowledged.
            8..11 => {
                let count = (len * 4).min(kept.bytes.len());
                kept.bytes.drain(..count);
                kept.acked += count as u64;
                kept.chain.acknowledge(pool, kept.acked);
            }
            // A port has sent some.
            11..13 => {
                for _ in 0..=len % 3 {
                    if !waiting.is_empty() {
                        let (frame, _) = waiting.swap_remove(which % waiting.len());
                        pool.release(frame);
                    }
                }
            }
            // Its reservation, and with it the frames that packets name, ends, or is made anew.
            13 => match which / 2 % 3 {
                0 => pool.cancel(RESERVATION),
                _ => drop(pool.reserve(RESERVATION, len % 30)),
            },
            14 => {
                let limit = u32::try_from(len % 60).unwrap();
                let reservation = [Reservation::NONE, RESERVATION][which / 2 % 2];
                kept.chain.set_limit(pool, limit, reservation);
            }
            // The flow ends.
            15 => {
                if let Some(kept) = slot.take() {
                    kept.chain.release(pool);
                }
            }
            // Others use what is free.
            _ => {
                let page = pool.alloc_page_frame();
                let run = pool.lease_pages(1, Owner::Staging);
                if let Some(page) = page {
                    pool.buffer_mut(&page).fill(0xee);
                    pool.release(page);
                }
                if let Some(run) = run {
                    pool.run_bytes_mut(&run).fill(0xdd);
                    pool.release_pages(run);
                }
            }
        }
    }

    fn check(&self) {
        for (frame, says) in &self.waiting {
            assert!(self.pool.packet(frame) == *says, "a packet has changed");
            assert_eq!(self.pool.packet_len(frame), says.len());
            let mut middle = [0; 700];
            let at = says.len() / 2;
            let count = self.pool.read(frame, at, &mut middle);
            assert_eq!(middle[..count], says[at..][..count]);
            assert_eq!(count, middle.len().min(says.len() - at));
        }
        for kept in self.chains.iter().flatten() {
            let mut out = vec![0; kept.bytes.len()];
            kept.chain.copy(kept.acked, &mut out);
            assert!(kept.bytes.iter().eq(&out), "what is kept has changed");
        }
        assert_eq!(self.pool.packets_gathered(), self.waiting.len());
    }

    /// In any order, all comes back.
    fn end(mut self, packets_first: bool) {
        let frames: Vec<_> = self.waiting.drain(..).map(|(frame, _)| frame).collect();
        let chains = self.chains.map(|kept| kept.map(|kept| kept.chain));
        let pool = &mut self.pool;
        if packets_first {
            frames.into_iter().for_each(|frame| pool.release(frame));
            for chain in chains.into_iter().flatten() {
                chain.release(pool);
            }
        } else {
            for chain in chains.into_iter().flatten() {
                chain.release(pool);
            }
            frames.into_iter().for_each(|frame| pool.release(frame));
        }
        assert_eq!(self.pool.packets_gathered(), 0);
        assert_eq!(self.pool.stats().frames_in_use, 0);
        self.pool.cancel(RESERVATION);
        let all = self.pool.lease_pages(PAGES, Owner::Staging);
        assert!(all.is_some(), "every page is free again");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn packets_say_what_was_sent_whatever_becomes_of_the_flow(
        steps in proptest::collection::vec((0u8..17, 0usize..20_000, 1usize..9000), 1..300),
        packets_first: bool,
    ) {
        let mut bench = Bench::new();
        for step in steps {
            bench.step(step);
            bench.check();
        }
        bench.end(packets_first);
    }
}

/// A room with segmentation offload, connected to one without; the first's packets are kept
/// in a queue when they have been carried.
fn with_offload(pages: usize) -> (World, [FlowId; 2]) {
    let mut client = config();
    client.connect.gso = true;
    let link = Link {
        delay: Duration::from_micros(50),
        ..Link::default()
    };
    let mut world = World::new(client, config(), pages, link, 1);
    let flows = world.connected();
    (world, flows)
}

fn write_all(host: &mut Host, flow: FlowId, byte: u8) -> usize {
    let mut written = 0;
    loop {
        let count = host.send(flow, |room| {
            room.fill(byte);
            room.len()
        });
        if count == 0 {
            return written;
        }
        written += count;
    }
}

/// Polls, and keeps the frames beside what they say.
fn poll_and_keep(host: &mut Host, now: Time) -> (Vec<Packet>, Vec<Frame>) {
    let mut out = Vec::new();
    host.tcp.poll(now, &mut host.pool, &mut out);
    let packets = out.iter().map(|frame| Packet {
        bytes: host.pool.packet(frame),
        checksum: frame.checksum,
        gso: frame.gso,
    });
    (packets.collect(), out)
}

/// Sends until all of a full chain is acknowledged; the frames stay in a queue.
fn acknowledged_but_queued() -> (World, FlowId, Vec<Packet>, Vec<Frame>) {
    let (mut world, [client, server]) = with_offload(64);
    let Host { tcp, pool } = &mut world.hosts[0];
    pool.reserve(RESERVATION, 20).unwrap();
    tcp.set_send_buffer(pool, client, 20, RESERVATION);
    let written = write_all(&mut world.hosts[0], client, 0x11);
    assert_eq!(written, 16 * FRAME_LEN, "a few are left to others");
    let (mut said, mut queue) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        let (packets, frames) = poll_and_keep(&mut world.hosts[0], world.now);
        queue.extend(frames);
        for packet in &packets {
            // The peer takes it whole, as a port that puts segments together hands it over.
            let answers = world.hosts[1].input(world.now, packet);
            for answer in answers {
                world.hosts[0].input(world.now, &answer);
            }
        }
        said.extend(packets);
        while world.hosts[1].tcp.recv(server, <[u8]>::len) > 0 {}
        world.now += Duration::from_millis(1);
        for answer in world.hosts[1].poll(world.now) {
            world.hosts[0].input(world.now, &answer);
        }
        if world.hosts[0].tcp.unacknowledged(client) == 0 {
            break;
        }
    }
    assert_eq!(world.hosts[0].tcp.unacknowledged(client), 0);
    assert!(world.hosts[0].pool.packets_gathered() > 0);
    (world, client, said, queue)
}

fn assert_unchanged(host: &Host, said: &[Packet], queue: &[Frame]) {
    for (packet, frame) in said.iter().zip(queue) {
        assert!(host.pool.packet(frame) == packet.bytes);
    }
}

#[test]
fn what_a_queue_still_has_is_no_room_until_it_is_gone_and_then_the_owner_is_told() {
    let (mut world, client, said, queue) = acknowledged_but_queued();
    let host = &mut world.hosts[0];
    host.events();
    // All that it has of its reservation is named by packets.
    assert_eq!(write_all(host, client, 0x22), 0);
    assert_eq!(host.tcp.held(client).unwrap().frames, 4);
    assert_eq!(host.pool.reserved(RESERVATION).unwrap().in_use, 16);
    host.poll(world.now);
    assert!(host.events().is_empty());
    assert!(host.deadline() < world.now + Duration::from_millis(1));
    assert_unchanged(host, &said, &queue);
    for frame in queue {
        host.pool.release(frame);
    }
    world.now = host.deadline();
    host.poll(world.now);
    assert_eq!(host.events(), [(client, FlowEvent::Ready)]);
    assert_eq!(write_all(host, client, 0x22), 16 * FRAME_LEN);
}

#[test]
fn a_flow_that_ends_leaves_its_queued_packets_as_they_are() {
    let (mut world, client, said, queue) = acknowledged_but_queued();
    let host = &mut world.hosts[0];
    host.tcp.abort(client);
    host.poll(world.now);
    assert_eq!(host.tcp.flows, 0);
    // Whatever is free goes to others.
    let others: Vec<Frame> = std::iter::from_fn(|| host.pool.alloc_frame()).collect();
    for frame in &others {
        host.pool.buffer_mut(frame).fill(0xee);
    }
    assert_unchanged(host, &said, &queue);
    assert_eq!(host.pool.reserved(RESERVATION).unwrap().in_use, 16);
    for frame in others.into_iter().chain(queue) {
        host.pool.release(frame);
    }
    assert_eq!(host.pages_leased(), 0);
    assert_eq!(host.pool.reserved(RESERVATION).unwrap().listed, 20);
}

#[test]
fn a_packet_is_lent_as_few_parts_as_a_port_takes() {
    let mut pool = Pool::anonymous(32);
    let mut chain = Chain::take(&mut pool, 0, 20, Reservation::NONE).expect("frames");
    while chain.draw(&mut pool) {
        chain.append(FRAME_LEN, |room| room.len());
    }
    let mut head = pool.alloc_frame().expect("a frame");
    assert!(chain.lend(&mut pool, &mut head, 4095, 65_400));
    assert_eq!(pool.parts(&head).count(), 1 + 17);
    pool.release(head);
    chain.release(&mut pool);
}

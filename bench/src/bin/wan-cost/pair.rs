//! Two rooms over a path in memory, in simulated time: the one opens a flow, the other
//! takes it, and either sends.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_bench::tsc;
use sluice_dataplane::tcp::{Buffers, FlowEvent, FlowId, Tcp, TcpConfig, WanBuffers};
use sluice_hugepages::pool::{Checksum, FRAME_LEN, Frame, HEADROOM, Pool, Reservation};
use sluice_proto::Time;

const NEAR: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
const FAR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260);
const MTU: u16 = 1500;
const IPV4_LEN: usize = 20;
const LINK_LEN: usize = 14;
/// Two bandwidth-delay products of the path at twice its rate.
const BUFFERS: Buffers = Buffers {
    rx_pages: 16,
    tx_pages: 16,
};
const WAN_BUFFERS: WanBuffers = WanBuffers {
    rx_pages: 16,
    tx_frames: 256,
};
const POOL_PAGES: usize = 512;
/// One way.
const DELAY: Duration = Duration::from_millis(1);
/// 1 Gbit/s, so that what comes at once, and is acknowledged at once, is little.
const NANOS_PER_BYTE: u64 = 8;
/// A worker's round under load: what comes within it is a burst.
const STEP: Duration = Duration::from_micros(25);
static PAYLOAD: [u8; FRAME_LEN] = [0x5a; FRAME_LEN];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Transport,
    Smoltcp,
}

/// What an amount of data has cost its sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    send_ticks: u64,
    input_ticks: u64,
    /// With payload, as on the wire.
    pub segments: u64,
    /// As the room wrote them.
    pub packets: u64,
    pub acks: u64,
}

impl Cost {
    pub fn ticks_per_mss(&self) -> f64 {
        self.send_ticks as f64 / self.segments as f64
    }

    pub fn ticks_per_ack(&self) -> f64 {
        self.input_ticks as f64 / self.acks as f64
    }
}

struct Packet {
    at: Time,
    bytes: Vec<u8>,
    checksum: Checksum,
}

struct Room {
    tcp: Tcp,
    pool: Pool,
    flow: Option<FlowId>,
    /// On the way to it, in order.
    arriving: VecDeque<Packet>,
    /// When the link to it has nothing left to send.
    idle_from: Time,
    out: Vec<Frame>,
}

pub struct Pair {
    now: Time,
    /// The one that opens, and the one that takes.
    rooms: [Room; 2],
}

impl Room {
    fn new(gso: bool) -> Self {
        let mut config = TcpConfig::new(4, MTU, [7; 16]);
        (config.accept.gso, config.connect.gso) = (gso, gso);
        config.accept_buffers = BUFFERS;
        Self {
            tcp: Tcp::new(config),
            pool: Pool::anonymous(POOL_PAGES),
            flow: None,
            arriving: VecDeque::new(),
            idle_from: Time::ZERO,
            out: Vec::new(),
        }
    }

    /// A packet as a port hands it over.
    fn frame(&mut self, packet: &Packet) -> Frame {
        let mut frame = self.pool.alloc_frame().expect("frames enough");
        self.pool
            .set(&mut frame, HEADROOM + LINK_LEN, packet.bytes.len());
        self.pool.bytes_mut(&frame).copy_from_slice(&packet.bytes);
        frame.checksum = packet.checksum;
        frame
    }
}

impl Pair {
    pub fn new(gso: bool) -> Self {
        let mut pair = Self {
            now: Time::from_millis(1_000),
            rooms: [Room::new(gso), Room::new(gso)],
        };
        let [near, far] = &mut pair.rooms;
        far.tcp.listen(FAR);
        let flow = near.tcp.connect(
            pair.now,
            &mut near.pool,
            NEAR,
            FAR,
            WAN_BUFFERS,
            Reservation::NONE,
        );
        near.flow = Some(flow.expect("there is room for one"));
        let mut cost = Cost::default();
        while pair.rooms[1].flow.is_none() {
            pair.step(0, 0, &mut cost);
        }
        pair
    }

    /// Sends so much, until all of it is acknowledged.
    pub fn send(&mut self, sender: Sender, bytes: u64) -> Cost {
        let from = usize::from(sender == Sender::Smoltcp);
        let mut cost = Cost::default();
        let mut left = bytes;
        loop {
            left -= self.step(from, left, &mut cost);
            let room = &self.rooms[from];
            let flow = room.flow.expect("it is connected");
            if left == 0 && room.tcp.unacknowledged(flow) == 0 {
                return cost;
            }
        }
    }

    /// A round of both workers; how much was written.
    fn step(&mut self, from: usize, left: u64, cost: &mut Cost) -> u64 {
        let next = self.rooms.iter().map(|room| {
            let arrival = room.arriving.front().map_or(Time::FAR, |packet| packet.at);
            room.tcp.deadline().min(arrival)
        });
        let next = next.min().expect("there are two");
        self.now = next.max(self.now + STEP);
        let mut written = 0;
        for at in [from, 1 - from] {
            let begun = self.input(at);
            if at == from {
                cost.input_ticks += begun.0;
                cost.acks += begun.1;
                let begin = tsc::now();
                written = self.write(at, left);
                cost.send_ticks += tsc::now() - begin;
            } else {
                self.read(at);
            }
            let room = &mut self.rooms[at];
            let begin = tsc::now();
            room.tcp.poll(self.now, &mut room.pool, &mut room.out);
            let ticks = tsc::now() - begin;
            let (packets, segments) = self.carry(at);
            if at == from {
                cost.send_ticks += ticks;
                cost.packets += packets;
                cost.segments += segments;
            }
        }
        written
    }

    /// What has arrived; ticks that it took, and packets.
    fn input(&mut self, at: usize) -> (u64, u64) {
        let room = &mut self.rooms[at];
        let mut frames = Vec::new();
        while let Some(packet) = room.arriving.pop_front_if(|packet| packet.at <= self.now) {
            frames.push(room.frame(&packet));
        }
        let count = frames.len() as u64;
        let begin = tsc::now();
        for frame in frames {
            room.tcp
                .input(self.now, &mut room.pool, frame, &mut room.out);
        }
        let ticks = tsc::now() - begin;
        while let Some((flow, event)) = room.tcp.next_event() {
            match event {
                FlowEvent::Accepted { .. } | FlowEvent::Connected => room.flow = Some(flow),
                FlowEvent::Ready => {}
                other => panic!("{other:?}"),
            }
        }
        (ticks, count)
    }

    fn write(&mut self, at: usize, left: u64) -> u64 {
        let room = &mut self.rooms[at];
        let Some(flow) = room.flow else { return 0 };
        let mut written = 0;
        while written < left {
            let most = usize::try_from(left - written).unwrap_or(usize::MAX);
            room.tcp.draw(&mut room.pool, flow);
            let count = room.tcp.send(flow, |free| {
                let count = free.len().min(PAYLOAD.len()).min(most);
                free[..count].copy_from_slice(&PAYLOAD[..count]);
                count
            });
            if count == 0 {
                break;
            }
            written += count as u64;
        }
        written
    }

    fn read(&mut self, at: usize) {
        let room = &mut self.rooms[at];
        if let Some(flow) = room.flow {
            while room.tcp.recv(flow, <[u8]>::len) > 0 {}
        }
    }

    /// Sends on what a room has written, cut as a port does; packets with payload, and
    /// segments of them.
    fn carry(&mut self, from: usize) -> (u64, u64) {
        let [near, far] = &mut self.rooms;
        let (room, to) = if from == 0 { (near, far) } else { (far, near) };
        let (mut packets, mut segments) = (0, 0);
        for frame in room.out.drain(..) {
            let header_len =
                IPV4_LEN + usize::from(room.pool.bytes(&frame)[IPV4_LEN + 12] >> 4) * 4;
            let has_payload = room.pool.packet_len(&frame) > header_len;
            packets += u64::from(has_payload);
            for bytes in cut(&room.pool, &frame, header_len) {
                segments += u64::from(has_payload);
                let wire = Duration::from_nanos(bytes.len() as u64 * NANOS_PER_BYTE);
                to.idle_from = to.idle_from.max(self.now) + wire;
                to.arriving.push_back(Packet {
                    at: to.idle_from + DELAY,
                    bytes,
                    checksum: frame.checksum,
                });
            }
            room.pool.release(frame);
        }
        (packets, segments)
    }
}

/// The segments of a packet (their checksums are left to nobody, as between workers), each
/// copied from where the packet has it.
fn cut(pool: &Pool, frame: &Frame, header_len: usize) -> Vec<Vec<u8>> {
    let payload_len = pool.packet_len(frame) - header_len;
    let size = frame.gso.map_or(payload_len, |gso| gso.size.into()).max(1);
    let header = &pool.bytes(frame)[..header_len];
    let seq = u32::from_be_bytes(header[24..28].try_into().expect("four bytes"));
    let cut = (0..payload_len.max(1)).step_by(size).map(|at| {
        let mut segment = header.to_vec();
        segment.resize(header_len + size.min(payload_len - at), 0);
        pool.read(frame, header_len + at, &mut segment[header_len..]);
        let len = u16::try_from(segment.len()).expect("a segment");
        segment[2..4].copy_from_slice(&len.to_be_bytes());
        let seq = seq.wrapping_add(u32::try_from(at).expect("a burst"));
        segment[24..28].copy_from_slice(&seq.to_be_bytes());
        segment
    });
    cut.collect()
}

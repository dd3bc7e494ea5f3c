//! Two rooms back to back over a link that may lose, repeat and reorder, in
//! simulated time, from a seed.

mod bulk;
mod ecn;
mod edges;
mod idle;
mod lent;
mod lifecycle;
mod path;
mod reserved;
mod too_big;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_hugepages::pool::{Checksum, Frame, Gso, HEADROOM, Pool, PoolStats, Reservation};
use sluice_proto::Time;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use super::segment::{Segment, sequence};
use super::*;

pub(super) const COMPUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);
pub(super) const STORAGE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260);

/// xorshift64*: all that the link needs.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }

    /// True `permille` times in a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}

/// A packet outside any pool.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub gso: Option<Gso>,
}

impl Packet {
    pub fn complete(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            checksum: Checksum::InPacket,
            gso: None,
        }
    }

    pub fn segment(&self) -> Segment {
        Segment::parse(&self.bytes, self.checksum).expect("a good segment")
    }
}

/// A room, its pool, and what it has sent.
#[derive(Debug)]
pub(super) struct Host {
    pub tcp: Tcp,
    pub pool: Pool,
}

impl Host {
    pub fn new(config: TcpConfig, pages: usize) -> Self {
        Self {
            tcp: Tcp::new(config),
            pool: Pool::anonymous(pages),
        }
    }

    /// Puts a packet into a frame where a port would have put it.
    pub fn frame(&mut self, packet: &Packet) -> Frame {
        let long = packet.bytes.len() > 4000;
        let frame = if long {
            self.pool.alloc_page_frame()
        } else {
            self.pool.alloc_frame()
        };
        let mut frame = frame.expect("room to receive");
        let offset = HEADROOM + 14;
        self.pool.buffer_mut(&frame)[offset..][..packet.bytes.len()].copy_from_slice(&packet.bytes);
        frame.offset = u16::try_from(offset).unwrap();
        frame.len = u32::try_from(packet.bytes.len()).unwrap();
        (frame.checksum, frame.gso) = (packet.checksum, packet.gso);
        frame
    }

    pub fn input(&mut self, now: Time, packet: &Packet) -> Vec<Packet> {
        let frame = self.frame(packet);
        let mut out = Vec::new();
        assert!(
            self.tcp
                .input(now, &mut self.pool, frame, &mut out)
                .is_none()
        );
        self.collect(out)
    }

    pub fn poll(&mut self, now: Time) -> Vec<Packet> {
        let mut out = Vec::new();
        self.tcp.poll(now, &mut self.pool, &mut out);
        self.collect(out)
    }

    pub fn collect(&mut self, frames: Vec<Frame>) -> Vec<Packet> {
        let mut packets = Vec::new();
        for frame in frames {
            assert!(usize::from(frame.offset) >= 14, "room for a link header");
            let bytes = self.pool.packet(&frame);
            let (checksum, gso) = (frame.checksum, frame.gso);
            packets.push(Packet {
                bytes,
                checksum,
                gso,
            });
            self.pool.release(frame);
        }
        packets
    }

    /// As the room says, but for events that a test leaves untaken.
    pub fn deadline(&self) -> Time {
        if self.tcp.ready.is_empty() {
            self.tcp.next_timer()
        } else {
            self.tcp.deadline()
        }
    }

    pub fn events(&mut self) -> Vec<(FlowId, FlowEvent)> {
        std::iter::from_fn(|| self.tcp.next_event()).collect()
    }

    /// Draws, and writes.
    pub fn send(&mut self, flow: FlowId, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        self.tcp.draw(&mut self.pool, flow);
        self.tcp.send(flow, write)
    }

    /// Frames that flows have to send from.
    pub fn frames_held(&self) -> usize {
        let flows = self.tcp.table.iter();
        let held = flows.filter_map(|(index, _)| self.tcp.held(self.tcp.table.id(index)));
        held.map(|held| held.frames as usize).sum()
    }

    /// Pages leased to flows; every frame that flows do not have must be back.
    pub fn pages_leased(&self) -> usize {
        let stats: PoolStats = self.pool.stats();
        assert_eq!(
            stats.frames_in_use + stats.page_frames_in_use,
            self.frames_held(),
            "a frame was lost"
        );
        stats.pages_leased
    }
}

/// What the link does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    pub delay: Duration,
    /// A packet arrives up to this much later than it should.
    pub jitter: Duration,
    pub loss_permille: u64,
    pub repeat_permille: u64,
}

/// Two hosts: a client (0), which connects, and a server (1), which listens.
#[derive(Debug)]
pub(super) struct World {
    pub now: Time,
    pub hosts: [Host; 2],
    pub link: Link,
    dice: Dice,
    flying: BTreeMap<(Time, u64), (usize, Packet)>,
    sent: u64,
    pub packets: Vec<usize>,
}

pub(super) fn config() -> TcpConfig {
    TcpConfig::new(64, 1500, [3; 16])
}

impl World {
    pub fn new(client: TcpConfig, server: TcpConfig, pages: usize, link: Link, seed: u64) -> Self {
        let mut server = Host::new(server, pages);
        server.tcp.listen(STORAGE);
        Self {
            now: Time::from_millis(1_000),
            hosts: [Host::new(client, pages), server],
            link,
            dice: Dice::new(seed),
            flying: BTreeMap::new(),
            sent: 0,
            packets: Vec::new(),
        }
    }

    pub fn plain() -> Self {
        let link = Link {
            delay: Duration::from_micros(50),
            ..Link::default()
        };
        Self::new(config(), config(), 64, link, 1)
    }

    pub fn send(&mut self, from: usize, packets: Vec<Packet>) {
        for packet in packets {
            self.packets.push(packet.bytes.len());
            if self.dice.chance(self.link.loss_permille) {
                continue;
            }
            let copies = 1 + usize::from(self.dice.chance(self.link.repeat_permille));
            for _ in 0..copies {
                let jitter = u64::try_from(self.link.jitter.as_nanos()).unwrap();
                let late = Duration::from_nanos(self.dice.below(jitter.max(1)));
                let arrival = self.now + self.link.delay + late;
                self.sent += 1;
                self.flying
                    .insert((arrival, self.sent), (1 - from, packet.clone()));
            }
        }
    }

    /// Everything that happens now; `app` runs between input and poll, as a worker's would.
    pub fn step(&mut self, mut app: impl FnMut(usize, &mut Host)) {
        let mut arrived = Vec::new();
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            arrived.push(entry.remove());
        }
        for (to, packet) in arrived {
            let answers = self.hosts[to].input(self.now, &packet);
            self.send(to, answers);
        }
        for at in 0..2 {
            app(at, &mut self.hosts[at]);
            let packets = self.hosts[at].poll(self.now);
            self.send(at, packets);
        }
    }

    /// Steps from deadline to deadline until `done` or nothing is left to
    /// happen; false if that took longer than `limit`.
    pub fn run(
        &mut self,
        limit: Duration,
        mut app: impl FnMut(usize, &mut Host),
        mut done: impl FnMut() -> bool,
    ) -> bool {
        let end = self.now + limit;
        loop {
            self.step(&mut app);
            if done() {
                return true;
            }
            let flying = self.flying.keys().next().map_or(Time::FAR, |key| key.0);
            let next = self.hosts.iter().map(Host::deadline).min().unwrap();
            self.now = self.now.max(next.min(flying));
            if self.now > end {
                return false;
            }
        }
    }

    /// Lets time pass without anyone reading or writing.
    pub fn pass(&mut self, length: Duration) {
        let end = self.now + length;
        self.run(length, |_, _| {}, || false);
        self.now = end;
        self.step(|_, _| {});
    }

    pub fn connect(&mut self) -> FlowId {
        let buffers = WanBuffers {
            rx_pages: 1,
            tx_frames: 16,
        };
        let Self {
            now,
            hosts: [client, _],
            ..
        } = self;
        client
            .tcp
            .connect(
                *now,
                &mut client.pool,
                COMPUTER,
                STORAGE,
                buffers,
                Reservation::NONE,
            )
            .expect("connects")
    }

    /// A connection, both ends; events up to then are taken.
    pub fn connected(&mut self) -> [FlowId; 2] {
        let client = self.connect();
        self.pass(Duration::from_millis(1));
        assert_eq!(self.hosts[0].events(), [(client, FlowEvent::Connected)]);
        let events = self.hosts[1].events();
        let [(server, FlowEvent::Accepted { local, .. })] = events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(local, STORAGE);
        [client, server]
    }
}

/// A segment as any peer could send it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a> {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub control: TcpControl,
    pub seq: u32,
    pub ack: Option<u32>,
    pub payload: &'a [u8],
}

impl Raw<'_> {
    pub fn syn(port: u16, seq: u32) -> Self {
        let from = SocketAddrV4::new(COMPUTER, port);
        Self {
            from,
            to: STORAGE,
            control: TcpControl::Syn,
            seq,
            ack: None,
            payload: &[],
        }
    }

    pub fn packet(&self) -> Packet {
        let number = |number: u32| TcpSeqNumber(number.cast_signed());
        let tcp = TcpRepr {
            src_port: self.from.port(),
            dst_port: self.to.port(),
            control: self.control,
            seq_number: number(self.seq),
            ack_number: self.ack.map(number),
            window_len: 60_000,
            window_scale: (self.control == TcpControl::Syn).then_some(7),
            max_seg_size: (self.control == TcpControl::Syn).then_some(1460),
            sack_permitted: self.control == TcpControl::Syn,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: self.payload,
        };
        let ipv4 = Ipv4Repr {
            src_addr: *self.from.ip(),
            dst_addr: *self.to.ip(),
            next_header: IpProtocol::Tcp,
            payload_len: tcp.buffer_len(),
            hop_limit: 64,
        };
        let mut bytes = vec![0; 20 + tcp.buffer_len()];
        let checksums = ChecksumCapabilities::default();
        ipv4.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &checksums);
        let (from, to) = (
            IpAddress::Ipv4(*self.from.ip()),
            IpAddress::Ipv4(*self.to.ip()),
        );
        tcp.emit(
            &mut TcpPacket::new_unchecked(&mut bytes[20..]),
            &from,
            &to,
            &checksums,
        );
        Packet::complete(bytes)
    }
}

/// The window field of a packet.
pub(super) fn window(packet: &Packet) -> u16 {
    TcpPacket::new_unchecked(&packet.bytes[20..]).window_len()
}

/// Sequence and acknowledgement number of a packet.
pub(super) fn numbers(packet: &Packet) -> (u32, u32) {
    let tcp = TcpPacket::new_unchecked(&packet.bytes[20..]);
    (sequence(tcp.seq_number()), sequence(tcp.ack_number()))
}

//! The two ends of a path, and the run of events between them.

use crate::link::{Chance, Link, Packet};
use sluice_transport::send_buffer::Pieces;
use sluice_transport::wire;
use sluice_transport::{Config, Connection, Emit, Flags, IpEcn, Segment, Seq, State, Time};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

/// Segments that one call may send.
pub const BUDGET: usize = 64;

/// Frames lent are at most so long.
const FRAME: u64 = 4096;

/// One end: what it is to send, and how far what it received is right.
#[derive(Debug)]
pub struct End {
    pub connection: Option<Connection<u64, u64>>,
    pub to_send: u64,
    pub close_when_sent: bool,
    pub lent: u64,
    pub released: u64,
    lent_frames: u64,
    pub received: u64,
    /// It reads what it receives.
    pub reads: bool,
    /// Frames are of random lengths.
    pub ragged: Option<Chance>,
    pub isn: Seq,
    pub config: Config,
}

impl End {
    pub fn new(config: Config, isn: u32) -> Self {
        Self {
            connection: None,
            to_send: 0,
            close_when_sent: true,
            lent: 0,
            released: 0,
            lent_frames: 0,
            received: 0,
            reads: true,
            ragged: None,
            isn: Seq(isn),
            config,
        }
    }

    pub fn connection(&self) -> &Connection<u64, u64> {
        self.connection.as_ref().expect("connected")
    }

    pub fn is_over(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.ended().is_some())
    }

    /// Lends, takes back, reads; asserts that every byte comes once and in order.
    pub fn pump(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        while connection.next_released().is_some() {
            self.released += 1;
        }
        while self.lent < self.to_send {
            let most = match &mut self.ragged {
                Some(chance) => 1 + chance.below(FRAME),
                None => FRAME,
            };
            let len = most
                .min(self.to_send - self.lent)
                .min(connection.send_room());
            if len == 0
                || connection
                    .send(self.lent, u32::try_from(len).unwrap())
                    .is_err()
            {
                break;
            }
            self.lent += len;
            self.lent_frames += 1;
        }
        if self.lent == self.to_send && self.close_when_sent {
            connection.close();
        }
        while self.reads {
            let Some(part) = connection.read() else { break };
            assert_eq!(
                part.frame + u64::from(part.at),
                self.received,
                "every byte once, in order"
            );
            self.received += u64::from(part.len);
        }
    }
}

pub struct Wire<'a> {
    pub out: &'a mut Vec<Packet>,
}

impl Emit<u64> for Wire<'_> {
    fn emit(
        &mut self,
        segment: &Segment,
        ecn: IpEcn,
        segment_size: Option<u16>,
        payload: Pieces<'_, u64>,
    ) {
        let len = payload.len();
        let (mut first, mut end) = (None, 0);
        for piece in payload {
            let start = piece.frame + u64::from(piece.at);
            assert!(first.is_none() || start == end, "pieces follow each other");
            first.get_or_insert(start);
            end = start + u64::from(piece.len);
        }
        let at = first.unwrap_or(0);
        let size = segment_size.map_or(len.max(1), u32::from);
        let mut done = 0;
        loop {
            let part = size.min(len - done);
            let last = done + part == len;
            let mut segment = *segment;
            segment.seq = segment.seq.plus(done);
            if !last {
                segment.flags = segment.flags.without(Flags::FIN | Flags::PSH);
            }
            if done > 0 {
                segment.flags = segment.flags.without(Flags::CWR);
            }
            let mut bytes = [0; wire::HEADER_LEN_MAX];
            let header = wire::write(&segment, 3260, 50_000, &mut bytes);
            assert_eq!(wire::parse(&bytes[..header]), Some((segment, header)));
            let at = at + u64::from(done);
            self.out.push(Packet {
                segment,
                ecn,
                at,
                len: part,
            });
            done += part;
            if last {
                break;
            }
        }
    }
}

#[derive(Debug)]
struct Arrival {
    at: Time,
    number: u64,
    to_b: bool,
    packet: Packet,
}

impl PartialEq for Arrival {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Arrival {}

impl PartialOrd for Arrival {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Arrival {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Something that sees each packet before it is carried, and may add others.
pub type Tap = Box<dyn FnMut(Time, bool, &Packet, &mut Vec<(bool, Packet)>)>;

pub struct Path {
    pub now: Time,
    pub a: End,
    pub b: End,
    pub ab: Link,
    pub ba: Link,
    pub tap: Option<Tap>,
    arrivals: BinaryHeap<Reverse<Arrival>>,
    number: u64,
    idle_polls: u32,
    out: Vec<Packet>,
}

impl Path {
    /// `a` connects to `b`.
    pub fn new(a: End, b: End, ab: Link, ba: Link) -> Self {
        let mut path = Self {
            now: Time::from_millis(1000),
            a,
            b,
            ab,
            ba,
            tap: None,
            arrivals: BinaryHeap::new(),
            number: 0,
            idle_polls: 0,
            out: Vec::new(),
        };
        path.a.connection = Some(Connection::connect(path.a.config, path.a.isn, path.now));
        path.poll(true);
        path
    }

    /// A sender and a receiver across a symmetric path, the sender with an endless stream.
    pub fn bulk(config: Config, mbit: u64, rtt: Duration, seed: u64) -> Self {
        let mut a = End::new(config, 1_000_000);
        a.to_send = 1 << 40;
        let mut b = End::new(Config { seed: 99, ..config }, 4_294_967_000);
        b.close_when_sent = false;
        let (ab, mut ba) = (Link::new(mbit, rtt, seed), Link::new(mbit, rtt, seed + 1));
        ba.queue_max = 1 << 30;
        Self::new(a, b, ab, ba)
    }

    /// What a caller does after it changed something at an end.
    pub fn poll(&mut self, from_a: bool) {
        let end = if from_a { &mut self.a } else { &mut self.b };
        end.pump();
        let Some(connection) = &mut end.connection else {
            return;
        };
        connection.poll_transmit(self.now, BUDGET, &mut Wire { out: &mut self.out });
        end.pump();
        let mut out = std::mem::take(&mut self.out);
        for packet in out.drain(..) {
            self.carry(from_a, packet);
        }
        self.out = out;
    }

    fn carry(&mut self, from_a: bool, packet: Packet) {
        let mut packets = vec![];
        if let Some(tap) = &mut self.tap {
            tap(self.now, from_a, &packet, &mut packets);
        }
        self.launch(from_a, packet);
        for (from_a, packet) in packets {
            self.launch(from_a, packet);
        }
    }

    fn launch(&mut self, from_a: bool, mut packet: Packet) {
        let link = if from_a { &mut self.ab } else { &mut self.ba };
        let (arrivals, number) = (&mut self.arrivals, &mut self.number);
        link.carry(self.now, &mut packet, |at, packet| {
            *number += 1;
            arrivals.push(Reverse(Arrival {
                at,
                number: *number,
                to_b: from_a,
                packet,
            }));
        });
    }

    fn deliver(&mut self, arrival: Arrival) {
        let end = if arrival.to_b {
            &mut self.b
        } else {
            &mut self.a
        };
        let packet = arrival.packet;
        match &mut end.connection {
            None => {
                end.connection = Connection::accept(end.config, end.isn, self.now, &packet.segment);
            }
            Some(connection) => {
                connection.on_segment(self.now, &packet.segment, packet.ecn, packet.len, packet.at);
            }
        }
    }

    fn deadline(&self) -> Option<Time> {
        let of = |end: &End| end.connection.as_ref().and_then(Connection::next_deadline);
        of(&self.a).into_iter().chain(of(&self.b)).min()
    }

    /// Runs until `until`, or nothing is left to happen.
    pub fn run_until(&mut self, until: Time) -> bool {
        loop {
            let arrival = self.arrivals.peek().map(|Reverse(arrival)| arrival.at);
            let next = arrival.into_iter().chain(self.deadline()).min();
            let Some(next) = next.map(|at| at.max(self.now)).filter(|&at| at <= until) else {
                self.now = until;
                return next.is_some();
            };
            // A deadline that is over must make something happen.
            self.idle_polls = if next > self.now {
                0
            } else {
                self.idle_polls + 1
            };
            assert!(
                self.idle_polls < 100_000,
                "live-lock at {:?}: {:?} {:?}",
                self.now,
                self.a,
                self.b
            );
            self.now = next;
            let mut to = [false; 2];
            while let Some(Reverse(arrival)) = self.arrivals.peek()
                && arrival.at <= self.now
            {
                to[usize::from(arrival.to_b)] = true;
                let Reverse(arrival) = self.arrivals.pop().unwrap();
                self.deliver(arrival);
            }
            let now = self.now;
            let due = |end: &End| {
                let deadline = end.connection.as_ref().and_then(Connection::next_deadline);
                deadline.is_some_and(|at| at <= now)
            };
            if to[0] || due(&self.a) {
                self.poll(true);
            }
            if to[1] || due(&self.b) {
                self.poll(false);
            }
        }
    }

    pub fn run_for(&mut self, time: Duration) -> bool {
        self.run_until(self.now + time)
    }

    /// Runs so long, and says what part of the link's rate the receiver got.
    pub fn goodput_per_mille(&mut self, time: Duration) -> u64 {
        let before = self.b.received;
        self.ab.forget_queue();
        self.run_for(time);
        let bytes = self.b.received - before;
        let could = self.ab.bytes_per_s * u64::try_from(time.as_millis()).unwrap() / 1000;
        bytes * 1000 / could
    }

    /// Everything that each end had to send has arrived at the other.
    pub fn is_complete(&self) -> bool {
        self.b.received == self.a.to_send && self.a.received == self.b.to_send
    }

    pub fn states(&self) -> (State, State) {
        (self.a.connection().state(), self.b.connection().state())
    }
}

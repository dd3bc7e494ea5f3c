//! Connections of the relay's transport over a packet socket: one thread that sleeps
//! until a frame comes or something is due.

use super::frame::{Ends, FRAME_LEN_MAX, MTU, Mac};
use super::{PATTERN_LEN, pattern};
use hdrhistogram::Histogram;
use serde::Serialize;
use sluice_bench::host;
use sluice_bench::packets::{BATCH, PacketPort, Store, Stored};
use sluice_bench::random::Random;
use sluice_transport::rate::Rate;
use sluice_transport::send_buffer::Pieces;
use sluice_transport::{
    Config, Connection, ControlKind, Emit, IpEcn, Segment, Seq, State, Time, wire,
};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Of the sender's connections; the n-th has the n-th port from here on.
const FIRST_PORT: u16 = 20_000;
/// Bytes lent at a time.
const FRAME: u32 = 4096;
/// Segments that a connection may send before others have their turn.
const BUDGET: usize = 64;
/// Frames in hands at once: what one round sends, and what is armed for receive.
const STORE_BYTES: u64 = 64 << 20;
/// Between two looks at how the path does.
const SAMPLE_PERIOD: Duration = Duration::from_millis(20);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Plan {
    pub device: String,
    pub source: Ipv4Addr,
    pub peer: SocketAddrV4,
    pub peer_mac: Mac,
    pub connections: u16,
    pub time: Duration,
    /// Of it, what is not told of: connections find the path's rate.
    pub omit: Duration,
    pub control: ControlKind,
    /// Bytes kept until they are acknowledged, of each connection.
    pub send_limit: u64,
    /// Between two notes of the course; at least the time between two looks.
    pub course_period: Duration,
    pub seed: u64,
}

/// Of all connections together, without the time that is left out.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub acknowledged_bytes: u64,
    pub segments_sent: u64,
    pub segments_resent: u64,
    pub resent_share: f64,
    pub min_rtt_ms: f64,
    pub rtt_p50_ms: f64,
    pub rtt_p99_ms: f64,
    pub cpu_s: f64,
    /// In order of their ports.
    pub connections: Vec<OfConnection>,
    /// When the course begins, by the wall clock: to lay it beside what others did then.
    pub begun_unix_s: f64,
    /// Of the first connection, from the beginning on: what it believes.
    pub course: Vec<Course>,
}

/// Its own part of the sums, and what it takes the path for at the end.
#[derive(Debug, Serialize)]
pub struct OfConnection {
    #[serde(flatten)]
    pub counted: Totals,
    pub bandwidth_mbit_per_s: f64,
    pub min_rtt_ms: f64,
    pub window_bytes: u64,
}

/// What a connection has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub acknowledged_bytes: u64,
    pub segments_sent: u64,
    pub segments_resent: u64,
}

impl Totals {
    fn of(connection: &Connection<u64, ()>) -> Self {
        let counters = connection.counters();
        Self {
            acknowledged_bytes: connection.sample().delivered,
            segments_sent: counters.segments_sent,
            segments_resent: counters.segments_resent,
        }
    }

    /// What was done since `before`.
    fn since(self, before: Self) -> Self {
        Self {
            acknowledged_bytes: self.acknowledged_bytes - before.acknowledged_bytes,
            segments_sent: self.segments_sent - before.segments_sent,
            segments_resent: self.segments_resent - before.segments_resent,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Course {
    pub at_ms: u64,
    pub acknowledged_bytes: u64,
    /// What it paces at.
    pub rate_mbit_per_s: f64,
    /// What it takes the path for.
    pub bandwidth_mbit_per_s: f64,
    pub min_rtt_ms: f64,
    pub window_bytes: u64,
    pub in_flight_bytes: u64,
    pub srtt_ms: f64,
    pub resent: u64,
}

/// Frames of one round, until they are sent.
struct Wire<'a> {
    ends: Ends,
    port: u16,
    pattern: &'a [u8],
    store: &'a mut Store,
    out: &'a mut Vec<Stored>,
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
        // Frames are lent in order, and a frame's handle is where in the stream it begins.
        let start = payload
            .clone()
            .next()
            .map_or(0, |piece| piece.frame + u64::from(piece.at));
        let size = segment_size.map_or(len.max(1), u32::from);
        let mut done = 0;
        loop {
            let part = size.min(len - done);
            let is_last = done + part == len;
            let segment = segment.of_burst(done, is_last);
            self.frame(&segment, ecn, start + u64::from(done), part as usize);
            done += part;
            if done >= len {
                return;
            }
        }
    }
}

impl Wire<'_> {
    /// A frame that finds no room is lost, as on any full queue.
    fn frame(&mut self, segment: &Segment, ecn: IpEcn, start: u64, len: usize) {
        let Some(slot) = self.store.take() else {
            return;
        };
        let pattern = self.pattern;
        let fill = |payload: &mut [u8]| {
            let at = usize::try_from(start % PATTERN_LEN as u64).expect("short");
            let first = payload.len().min(PATTERN_LEN - at);
            let (head, tail) = payload.split_at_mut(first);
            head.copy_from_slice(&pattern[at..at + first]);
            tail.copy_from_slice(&pattern[..tail.len()]);
        };
        let bytes = self.store.slot_mut(slot);
        let len = self.ends.write(self.port, segment, ecn, fill, len, bytes);
        self.out.push(Stored {
            slot,
            bytes: u32::try_from(len).expect("a frame"),
        });
    }
}

struct Sender {
    ends: Ends,
    port: PacketPort,
    store: Store,
    connections: Vec<Connection<u64, ()>>,
    /// Where in each stream the next frame begins.
    lent: Vec<u64>,
    pattern: Vec<u8>,
    received: Vec<Stored>,
    out: Vec<Stored>,
    begun: Instant,
    /// Whose turn is the first.
    first: usize,
}

impl Sender {
    fn now(&self) -> Time {
        Time::ZERO + self.begun.elapsed()
    }

    fn receive(&mut self) -> io::Result<()> {
        self.port.receive(&mut self.store, &mut self.received)?;
        let now = self.now();
        for stored in std::mem::take(&mut self.received) {
            if let Some((port, segment, ecn, len)) = self.ends.read(self.store.bytes(stored))
                && let Some(connection) = self
                    .connections
                    .get_mut(usize::from(port.wrapping_sub(FIRST_PORT)))
            {
                let _ = connection.on_segment(now, &segment, ecn, len, ());
            }
            self.store.release(stored.slot);
        }
        Ok(())
    }

    /// Everything that is due now; whether a connection has more than its budget.
    fn transmit(&mut self, is_over: bool) -> io::Result<bool> {
        let mut more = false;
        // Each is the first in turns, as on the worker's queue: who always came last would
        // always meet the queue that the others have filled.
        let count = self.connections.len();
        self.first = (self.first + 1) % count;
        for at in (self.first..count).chain(0..self.first) {
            let connection = &mut self.connections[at];
            while connection.next_released().is_some() {}
            while !is_over
                && connection.send_room() >= u64::from(FRAME)
                && connection.send(self.lent[at], FRAME).is_ok()
            {
                self.lent[at] += u64::from(FRAME);
            }
            let now = Time::ZERO + self.begun.elapsed();
            let port = FIRST_PORT + u16::try_from(at).expect("at most 1024");
            let mut wire = Wire {
                ends: self.ends,
                port,
                pattern: &self.pattern,
                store: &mut self.store,
                out: &mut self.out,
            };
            more |= connection.poll_transmit(now, BUDGET, &mut wire) >= BUDGET;
            for batch in self.out.chunks(BATCH) {
                self.port.send(&mut self.store, batch)?;
            }
            for stored in self.out.drain(..) {
                self.store.release(stored.slot);
            }
        }
        Ok(more)
    }

    /// Of each connection, from its beginning on.
    fn totals(&self) -> Vec<Totals> {
        self.connections.iter().map(Totals::of).collect()
    }

    fn wait(&self, more: bool) -> io::Result<()> {
        let due = self
            .connections
            .iter()
            .filter_map(Connection::next_deadline);
        let due = due.min().unwrap_or(Time::FAR);
        let wait = due.since(self.now()).min(SAMPLE_PERIOD);
        if !more && !wait.is_zero() {
            host::wait_readable(&[self.port.fd()], Some(wait))?;
        }
        Ok(())
    }
}

/// Sends for the time of the plan, from the first handshake that is through on.
pub fn run(plan: &Plan) -> io::Result<Report> {
    host::precise_timers();
    let port = PacketPort::open(&plan.device)?;
    let own_mac = std::fs::read_to_string(format!("/sys/class/net/{}/address", plan.device))?;
    let own_mac = own_mac.trim().parse().map_err(io::Error::other)?;
    let mut random = Random::new(plan.seed);
    let begun = Instant::now();
    let connect = |_| {
        let config = Config {
            mss_max: u16::try_from(MTU - 20 - wire::HEADER_LEN).expect("an MTU of 1500"),
            send_limit: plan.send_limit,
            control: plan.control,
            seed: random.next(),
            timestamp_offset: random.bits(),
            ..Config::default()
        };
        Connection::connect(config, Seq(random.bits()), Time::ZERO)
    };
    let mut sender = Sender {
        ends: Ends {
            own_mac,
            peer_mac: plan.peer_mac,
            source: plan.source,
            peer: plan.peer,
        },
        port,
        store: Store::new(FRAME_LEN_MAX, STORE_BYTES),
        connections: (0..plan.connections).map(connect).collect(),
        lent: vec![0; usize::from(plan.connections)],
        pattern: pattern(),
        received: Vec::with_capacity(BATCH),
        out: Vec::with_capacity(BUDGET * 2),
        begun,
        first: 0,
    };
    let mut rtt_us = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("up to a minute");
    let begun_unix = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut report = Report {
        begun_unix_s: begun_unix.map_err(io::Error::other)?.as_secs_f64()
            - begun.elapsed().as_secs_f64(),
        ..Report::default()
    };
    let (mut established, mut sampled) = (None, begun);
    // What was done before it counts.
    let mut before = None;
    loop {
        sender.receive()?;
        let is_up = |connection: &Connection<_, _>| connection.state() == State::Established;
        let now = Instant::now();
        if established.is_none() && sender.connections.iter().all(is_up) {
            established = Some(now);
        }
        let since = established.map(|since| now - since);
        let over = since.is_some_and(|since| since >= plan.time);
        if before.is_none() && since.is_some_and(|since| since >= plan.omit) {
            before = Some(sender.totals());
        }
        if let Some(ended) = sender.connections.iter().find_map(Connection::ended) {
            return Err(io::Error::other(format!("a connection ended: {ended:?}")));
        }
        if established.is_none() && begun.elapsed() > CONNECT_TIME_MAX {
            return Err(io::Error::other(format!("{} does not answer", plan.peer)));
        }
        if over {
            break;
        }
        let more = sender.transmit(false)?;
        if now - sampled >= SAMPLE_PERIOD {
            sampled = now;
            for connection in &sender.connections {
                let sample = connection.sample();
                if let Some(rtt) = sample.latest_rtt.filter(|_| before.is_some()) {
                    rtt_us.saturating_record(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
                }
            }
            note_course(&mut report, &sender, now - begun, plan.course_period);
        }
        sender.wait(more)?;
    }
    // A time that is all left out has nothing that counts.
    let totals = sender.totals();
    let before = before.unwrap_or_else(|| totals.clone());
    for ((connection, total), before) in sender.connections.iter().zip(totals).zip(before) {
        let (counted, sample) = (total.since(before), connection.sample());
        report.segments_sent += counted.segments_sent;
        report.segments_resent += counted.segments_resent;
        report.acknowledged_bytes += counted.acknowledged_bytes;
        report.connections.push(OfConnection {
            counted,
            bandwidth_mbit_per_s: mbit_per_s(sample.bandwidth),
            min_rtt_ms: sample.min_rtt.map_or(0.0, ms),
            window_bytes: sample.window,
        });
    }
    let min_rtts = sender
        .connections
        .iter()
        .filter_map(|it| it.sample().min_rtt);
    report.min_rtt_ms = min_rtts.min().map_or(0.0, ms);
    for connection in &mut sender.connections {
        connection.abort();
    }
    sender.transmit(true)?;
    report.resent_share = report.segments_resent as f64 / report.segments_sent.max(1) as f64;
    report.rtt_p50_ms = rtt_us.value_at_quantile(0.5) as f64 / 1e3;
    report.rtt_p99_ms = rtt_us.value_at_quantile(0.99) as f64 / 1e3;
    report.cpu_s = host::cpu_time().as_secs_f64();
    Ok(report)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mbit_per_s(rate: Rate) -> f64 {
    rate.bytes_per_s() as f64 * 8.0 / 1e6
}

fn note_course(report: &mut Report, sender: &Sender, at: Duration, period: Duration) {
    let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
    if report
        .course
        .last()
        .is_some_and(|last| at < Duration::from_millis(last.at_ms) + period)
    {
        return;
    }
    let connection = &sender.connections[0];
    let sample = connection.sample();
    report.course.push(Course {
        at_ms,
        acknowledged_bytes: sample.delivered,
        rate_mbit_per_s: mbit_per_s(sample.pacing_rate),
        bandwidth_mbit_per_s: mbit_per_s(sample.bandwidth),
        min_rtt_ms: sample.min_rtt.map_or(0.0, ms),
        window_bytes: sample.window,
        in_flight_bytes: sample.in_flight,
        srtt_ms: sample.srtt.map_or(0.0, ms),
        resent: connection.counters().segments_resent,
    });
}

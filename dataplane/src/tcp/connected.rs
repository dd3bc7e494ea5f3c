//! A connection that we have opened: one of the WAN's transport, sending from a
//! chain of slots and reading from the frames that came.
//!
//! What always holds: of received frames no more are kept than the window is
//! worth, and never so many that the segment everything waits for finds no room.

use std::time::Duration;

use sluice_hugepages::pool::{FRAME_LEN, Frame, PAGE_LEN, Pool, Reservation};
use sluice_proto::Time;
use sluice_transport::receive::Part;
use sluice_transport::{
    Config, Connection, Ended, IpEcn, KeepAlive, PathSample, Seq, State, TooBig, wire,
};
use smoltcp::socket::tcp;
use smoltcp::wire::Ipv4Packet;

use super::CloseReason;
use super::chain::{Chain, SEND_FRAMES_MAX};
use super::counters::Counters;
use super::emit::Emitter;
use super::flow::Fill;
#[cfg(test)]
use super::flow::Flow;
use super::keyed::{FourTuple, Keyed};
use super::lease::{WanBuffers, lend_received};
use super::output::RETRY;
use super::profile::Profile;
use super::segment::{IPV4_HEADER_LEN, TCP_HEADER_LEN};
use super::stream::Held;
use super::wire::Egress;

/// SYNs without an answer: 1, 2, 4 and 8 s apart (RFC 6298 2, 5.5), 15 s in all.
const SYN_ATTEMPTS_MAX: u32 = 4;
/// Of the window, what a kept frame is worth: a full segment leaves more than half of a
/// frame empty, and a share of the frames is for data in order only.
const WINDOW_PER_FRAME: u64 = 1024;
/// Of a packet, what the MSS does not count.
#[expect(clippy::cast_possible_truncation, reason = "40")]
const HEADERS_LEN: u16 = (IPV4_HEADER_LEN + TCP_HEADER_LEN) as u16;
/// What is kept of the window's worth at least, whatever the window.
const FRAMES_MIN: u32 = 16;

/// A received frame, and the payload in it.
#[derive(Debug)]
struct Received {
    payload: &'static [u8],
    frame: Frame,
}

/// Why a segment was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untaken {
    /// Its header makes no sense.
    Malformed,
    /// It is not the one that everything waits for, and enough is kept.
    NoRoom,
}

#[derive(Debug)]
pub(super) struct Connected {
    /// What is lent for sending is named by where in the stream it begins.
    connection: Connection<u64, Received>,
    /// What is being read, and how far it was.
    reading: Option<(Part<Received>, usize)>,
    chain: Chain,
    /// It has asked for a frame to write in, and there was none.
    is_starved: bool,
    /// Frames that were read, until there is a pool to give them back to.
    spent: Vec<Frame>,
    /// Of what is kept, in frames; a page counts as all it could be divided into.
    kept: usize,
    kept_max: usize,
    window: usize,
    /// The port cuts bursts into segments and completes checksums.
    gso: bool,
    /// When to look again whether packets have let go of what it keeps: nothing else brings it
    /// a frame to write in.
    look_again: Option<Time>,
    /// They have.
    has_new_room: bool,
    /// Its owner closed it before it was answered.
    closed_early: bool,
    /// What was counted when [`Connected::count`] was last asked.
    counted: sluice_transport::Counters,
}

/// In frames, what is kept with this one.
fn weight(pool: &Pool, frame: &Frame) -> usize {
    pool.capacity(frame) / FRAME_LEN
}

/// But for what is the flow's own.
fn config(profile: &Profile, buffers: WanBuffers) -> Config {
    let bytes = |pages: u32| u64::from(pages) * PAGE_LEN as u64;
    let frames = bytes(buffers.rx_pages) / WINDOW_PER_FRAME;
    let timeout = profile.timeout.unwrap_or(Duration::MAX);
    Config {
        mss_max: profile.mtu - HEADERS_LEN,
        window_max: bytes(buffers.rx_pages),
        receive_frames_max: u32::try_from(frames).unwrap_or(u32::MAX).max(FRAMES_MIN),
        send_limit: u64::from(buffers.tx_frames.clamp(1, SEND_FRAMES_MAX)) * FRAME_LEN as u64,
        user_timeout: timeout,
        keep_alive: profile.keep_alive.map(|interval| KeepAlive {
            idle: interval,
            interval,
            probes_max: probes(timeout, interval),
        }),
        syn_attempts_max: SYN_ATTEMPTS_MAX,
        ecn: profile.ecn,
        ..Config::default()
    }
}

/// Most heap that a flow which we open takes, itself included.
#[cfg(test)]
pub(crate) fn heap_len(buffers: WanBuffers) -> usize {
    let config = config(&Profile::new(1500), buffers);
    size_of::<Flow>()
        + size_of::<Connected>()
        + config.heap_len::<u64, Received>()
        + Chain::heap_len(buffers.tx_frames)
        + config.receive_frames_max as usize * size_of::<Frame>()
}

impl Connected {
    /// Makes a SYN ready to go out.
    pub fn new(
        now: Time,
        profile: &Profile,
        keyed: &Keyed,
        tuple: &FourTuple,
        chain: Chain,
        buffers: WanBuffers,
    ) -> Self {
        let config = config(profile, buffers);
        let config = Config {
            seed: keyed.flow_seed(tuple, now),
            timestamp_offset: keyed.timestamp_offset(tuple),
            ..config
        };
        let isn = Seq(keyed.isn(tuple, now));
        Self {
            connection: Connection::connect(config, isn, now),
            reading: None,
            chain,
            is_starved: false,
            spent: Vec::with_capacity(config.receive_frames_max as usize),
            kept: 0,
            kept_max: config.receive_frames_max as usize,
            window: buffers.rx_pages as usize * PAGE_LEN,
            gso: profile.gso,
            look_again: None,
            has_new_room: false,
            closed_early: false,
            counted: sluice_transport::Counters::default(),
        }
    }

    pub fn state(&self) -> tcp::State {
        if self.connection.ended().is_some() {
            return tcp::State::Closed;
        }
        match self.connection.state() {
            State::SynSent => tcp::State::SynSent,
            State::SynReceived => tcp::State::SynReceived,
            State::Established => tcp::State::Established,
            State::FinWait1 => tcp::State::FinWait1,
            State::FinWait2 => tcp::State::FinWait2,
            State::CloseWait => tcp::State::CloseWait,
            State::Closing => tcp::State::Closing,
            State::LastAck => tcp::State::LastAck,
            State::TimeWait => tcp::State::TimeWait,
            State::Closed => tcp::State::Closed,
        }
    }

    pub fn ended(&self) -> Option<CloseReason> {
        Some(match self.connection.ended()? {
            // Given up by its owner before it was answered, it ends as it was meant to.
            _ if self.closed_early => CloseReason::Finished,
            Ended::Finished => CloseReason::Finished,
            Ended::Reset => CloseReason::Reset,
            Ended::Refused => CloseReason::Refused,
            // The room aborts what lingers; of a flow that its owner aborts nobody hears.
            Ended::TimedOut | Ended::Aborted => CloseReason::TimedOut,
        })
    }

    pub fn numbers(&self) -> (u32, u32) {
        let (snd_nxt, rcv_nxt) = self.connection.numbers();
        (snd_nxt.0, rcv_nxt.0)
    }

    pub fn fill(&self) -> Fill {
        Fill {
            rx_len: self.window,
            rx_used: self.readable(),
            tx_len: self.chain.capacity(),
            tx_used: self.unacknowledged(),
        }
    }

    fn readable(&self) -> usize {
        let rest = self
            .reading
            .as_ref()
            .map_or(0, |(part, at)| part.len as usize - at);
        rest + usize::try_from(self.connection.readable()).expect("within the window")
    }

    fn unacknowledged(&self) -> usize {
        usize::try_from(self.connection.unacknowledged()).expect("within the chain")
    }

    /// Takes a packet, whose IPv4 header the room has checked. Whether there is something
    /// new to read, or new room to write; and why it was not taken, if so.
    pub fn receive(
        &mut self,
        now: Time,
        pool: &mut Pool,
        frame: Frame,
    ) -> (bool, Result<(), Untaken>) {
        let packet = pool.bytes(&frame);
        let ipv4 = Ipv4Packet::new_unchecked(packet);
        let header_len = usize::from(ipv4.header_len());
        let ecn = match ipv4.ecn() {
            0 => IpEcn::NotCapable,
            3 => IpEcn::Congested,
            _ => IpEcn::Capable,
        };
        let end = usize::from(ipv4.total_len());
        let Some((segment, at)) = wire::parse(&packet[header_len..end]) else {
            pool.release(frame);
            return (false, Err(Untaken::Malformed));
        };
        let payload = header_len + at..end;
        let len = u32::try_from(payload.len()).expect("a packet is below 64 KiB");
        let weight = weight(pool, &frame);
        let full = self.kept + weight > self.kept_max(pool);
        // What everything waits for, unless it is the owner who is waited for.
        let awaited = self.readable() == 0 && self.connection.is_next(&segment);
        if len > 0 && full && !awaited {
            // Without the payload its acknowledgement counts for nothing either: it comes again.
            pool.release(frame);
            return (false, Err(Untaken::NoRoom));
        }
        // SAFETY: the slice goes with the frame, and is dropped before it is released
        // (`give_back`, `dissolve`, `recv`); a flow is dropped before the pool.
        let payload = unsafe { lend_received(pool, &frame, payload) };
        let (readable, unacknowledged) = (self.readable(), self.unacknowledged());
        let received = Received { payload, frame };
        match self
            .connection
            .on_segment(now, &segment, ecn, len, received)
        {
            None => self.kept += weight,
            Some(Received { frame, .. }) => pool.release(frame),
        }
        self.free_acknowledged(pool);
        // What an end lets go of makes no room.
        let acknowledged =
            self.connection.ended().is_none() && self.unacknowledged() < unacknowledged;
        let progress = self.readable() > readable || acknowledged;
        (progress, Ok(()))
    }

    /// A router says that a packet was larger than its next link's `mtu`.
    pub fn packet_too_big(&mut self, now: Time, seq: u32, mtu: u16) -> TooBig {
        let mss = mtu.saturating_sub(HEADERS_LEN);
        self.connection.on_packet_too_big(now, Seq(seq), mss)
    }

    /// With nothing left but for packets on their way, a flow keeps what lets it go on.
    fn kept_max(&self, pool: &Pool) -> usize {
        if pool.available() == 0 {
            self.kept_max.min(FRAMES_MIN as usize)
        } else {
            self.kept_max
        }
    }

    fn free_acknowledged(&mut self, pool: &mut Pool) {
        while self.connection.next_released().is_some() {}
        let acknowledged = self.chain.end() - self.connection.unacknowledged();
        self.chain.acknowledge(pool, acknowledged);
    }

    pub fn unsent(&self) -> usize {
        usize::try_from(self.connection.unsent()).expect("within the chain")
    }

    pub fn send_unpaced(&mut self, bytes: u32) {
        self.connection.send_unpaced(bytes);
    }

    pub fn path_sample(&self) -> PathSample {
        self.connection.sample()
    }

    pub fn recv(&mut self, take: impl FnOnce(&[u8]) -> usize) -> usize {
        if self.reading.is_none() {
            self.reading = self.connection.read().map(|part| (part, 0));
        }
        let Some((part, from)) = &mut self.reading else {
            return 0;
        };
        let unread = &part.frame.payload[part.at as usize..][..part.len as usize][*from..];
        let taken = take(unread);
        assert!(taken <= unread.len(), "{taken} bytes of {}", unread.len());
        *from += taken;
        if *from == part.len as usize
            && let Some((part, _)) = self.reading.take()
        {
            self.spent.push(part.frame.frame);
        }
        taken
    }

    pub fn send(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let room = self.connection.send_room();
        if room == 0 {
            return 0;
        }
        let start = self.chain.end();
        let max = usize::try_from(room).unwrap_or(usize::MAX);
        let written = self.chain.append(max, write);
        if written > 0 {
            let len = u32::try_from(written).expect("within a slot");
            self.connection
                .send(start, len)
                .expect("there is room for so much");
        }
        written
    }

    pub fn send_room(&self) -> usize {
        let room = usize::try_from(self.connection.send_room()).unwrap_or(usize::MAX);
        room.min(self.chain.room())
    }

    /// Changes how many frames may wait for an acknowledgement, and where they are taken from:
    /// more at once, less as they are acknowledged.
    pub fn set_limit(&mut self, pool: &mut Pool, frames: u32, reservation: Reservation) {
        self.chain.set_limit(pool, frames, reservation);
        self.allow_all();
    }

    fn allow_all(&mut self) {
        self.is_starved = false;
        self.connection.set_send_limit(self.chain.capacity() as u64);
    }

    /// Gets a frame to write in, if there is none; whether there is room.
    pub fn draw(&mut self, pool: &mut Pool) -> bool {
        if self.is_starved {
            self.allow_all();
        }
        if self.connection.send_room() == 0 {
            return false;
        }
        let drawn = self.chain.draw(pool);
        if !drawn {
            // It is full with what it has: so it is buffers that bound what is under way, and
            // not what there is to send.
            self.is_starved = true;
            self.connection
                .set_send_limit(self.connection.unacknowledged());
        }
        drawn
    }

    /// Whether no acknowledgement will bring it a frame to write in.
    pub const fn must_look(&self) -> bool {
        self.is_starved && self.connection.unacknowledged() == 0
    }

    pub fn held(&self) -> Held {
        let count = |frames: usize| u32::try_from(frames).unwrap_or(u32::MAX);
        Held {
            reservation: self.chain.reservation(),
            frames: count(self.chain.frames()),
            limit_frames: count(self.chain.limit()),
            unacknowledged: self.connection.unacknowledged(),
            refused: self.chain.refused(),
        }
    }

    pub fn close(&mut self) {
        let is_opening = self.connection.state() == State::SynSent;
        self.connection.close();
        self.closed_early = is_opening && self.connection.ended().is_some();
    }

    pub fn abort(&mut self) {
        self.connection.abort();
    }

    /// Writes what is due, as far as the pool has frames; how many segments.
    pub fn transmit(
        &mut self,
        now: Time,
        tuple: &FourTuple,
        segments: usize,
        device: &mut Egress<'_>,
    ) -> usize {
        self.give_back(device.pool);
        let stats = device.pool.stats();
        let frames = stats.frames_free + stats.pages_free * (PAGE_LEN / FRAME_LEN);
        // An acknowledgement goes beyond the budget.
        let budget = segments.min(frames.saturating_sub(1));
        if budget == 0 {
            device.exhausted = true;
            return 0;
        }
        let mut emitter = Emitter {
            chain: &self.chain,
            gso: self.gso,
            tuple,
            device,
        };
        let sent = self.connection.poll_transmit(now, budget, &mut emitter);
        self.free_acknowledged(device.pool);
        let must_look = self.must_look() && self.connection.ended().is_none();
        self.has_new_room = must_look && self.chain.has_spare(device.pool);
        if self.has_new_room {
            self.allow_all();
        }
        self.look_again = (must_look && !self.has_new_room).then(|| now + RETRY);
        sent
    }

    pub fn due(&self) -> Option<Time> {
        let due = self.connection.next_deadline();
        due.into_iter().chain(self.look_again).min()
    }

    /// Whether its owner can write, of which no acknowledgement has told it.
    pub const fn take_new_room(&mut self) -> bool {
        std::mem::replace(&mut self.has_new_room, false)
    }

    /// Adds what happened since it was last asked.
    pub fn count(&mut self, into: &mut Counters) {
        let now = *self.connection.counters();
        let before = std::mem::replace(&mut self.counted, now);
        into.wan_segments_out += now.segments_sent - before.segments_sent;
        into.wan_segments_resent += now.segments_resent - before.segments_resent;
        into.wan_timeouts += now.timeouts - before.timeouts;
        into.wan_timeouts_spurious += now.spurious_timeouts - before.spurious_timeouts;
        into.wan_tail_probes += now.tail_probes - before.tail_probes;
        into.wan_recoveries += now.recoveries - before.recoveries;
        into.wan_black_holes += now.black_holes - before.black_holes;
        into.wan_marks_echoed += now.congestion_marks - before.congestion_marks;
        into.wan_marks_received += now.marks_received - before.marks_received;
        into.wan_violations += now.violations_in_all() - before.violations_in_all();
        let gap_us = u64::try_from(now.gap_longest.as_micros()).unwrap_or(u64::MAX);
        into.wan_gap_longest_us = into.wan_gap_longest_us.max(gap_us);
    }

    /// Gives back the frames that were read.
    fn give_back(&mut self, pool: &mut Pool) {
        for frame in self.spent.drain(..) {
            self.kept -= weight(pool, &frame);
            pool.release(frame);
        }
    }

    pub fn dissolve(mut self, pool: &mut Pool) {
        if let Some((part, _)) = self.reading.take() {
            self.spent.push(part.frame.frame);
        }
        // A flow may be let go of before its stack has come to an end.
        self.connection.abort();
        while let Some(received) = self.connection.next_discarded() {
            self.spent.push(received.frame);
        }
        self.give_back(pool);
        self.chain.release(pool);
    }
}

/// Unanswered questions until a peer has been silent for `timeout`.
fn probes(timeout: Duration, interval: Duration) -> u32 {
    let intervals = timeout.as_nanos() / interval.as_nanos().max(1);
    u32::try_from(intervals)
        .unwrap_or(u32::MAX)
        .saturating_sub(1)
        .max(1)
}

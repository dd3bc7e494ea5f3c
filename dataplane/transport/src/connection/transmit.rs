//! What goes out: lost data first, then probes, new data, and an acknowledgement if
//! nothing carried it.

use super::timers::Probe;
use super::{Connection, Emit, State};
use crate::pacing::Pacer;
use crate::segment::{Flags, IpEcn, Segment, Timestamp};
use sluice_proto::Time;

/// How a round of sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blocked {
    /// There is nothing, or an acknowledgement must come first.
    No,
    Pacer,
    Budget,
}

impl<S, R> Connection<S, R> {
    /// Runs the timers, and sends what is due now, `budget` full segments at most and an
    /// acknowledgement. Says how many segments went out.
    pub fn poll_transmit(&mut self, now: Time, budget: usize, emit: &mut impl Emit<S>) -> usize {
        self.run_timers(now);
        let before = self.counters.segments_sent;
        if let Some(segment) = self.reset.take() {
            self.emit_bare(emit, &segment);
        }
        match self.state {
            State::Closed => {}
            State::SynSent | State::SynReceived => {
                if let Some(segment) = self.next_syn(now) {
                    self.emit_bare(emit, &segment);
                }
            }
            _ => self.transmit(now, budget, emit),
        }
        usize::try_from(self.counters.segments_sent - before).unwrap_or(usize::MAX)
    }

    fn transmit(&mut self, now: Time, budget: usize, emit: &mut impl Emit<S>) {
        let mut left = budget;
        let mut blocked = Blocked::No;
        if self.state.is_sending() {
            self.probe(now, emit);
            blocked = self.resend(now, &mut left, emit);
            if blocked == Blocked::No {
                blocked = self.send_new(now, &mut left, emit);
            }
        } else if self.timers.due.take().is_some() {
            self.probe_peer(now, emit);
        }
        self.timers.paced_until = match blocked {
            Blocked::No => None,
            Blocked::Pacer => Some(self.tx.pacer.next_at()),
            Blocked::Budget => Some(Time::ZERO),
        };
        let update = self.state.may_receive() && self.rx.data.is_update_due(self.tx.mss());
        if self.rx.acks.is_due(now) || update {
            self.acknowledge(now, emit);
        }
    }

    /// Lost segments, as the window and the pacer allow.
    fn resend(&mut self, now: Time, left: &mut usize, emit: &mut impl Emit<S>) -> Blocked {
        while let Some(id) = self.tx.board.first_lost() {
            let (start, end) = (self.tx.board[id].start, self.tx.board[id].end);
            let in_flight = self.tx.board.in_flight();
            // One goes out in any case: after a timeout, or a segment that is longer than
            // segments are now, would wait for ever.
            if in_flight > 0 && in_flight + (end - start) > self.tx.control.window() {
                return Blocked::No;
            }
            if *left == 0 {
                return Blocked::Budget;
            }
            if !self.tx.pacer.is_ready(now) {
                return Blocked::Pacer;
            }
            *left -= 1;
            self.on_sending(now, end - start);
            let snapshot = self.tx.rate.on_send(now, in_flight);
            self.tx.board.resend(id, now, snapshot);
            self.tx.recovery.on_retransmission();
            self.arm_after_resend(now);
            self.emit_data(now, start, end, IpEcn::NotCapable, Flags::NONE, emit);
            self.counters.segments_resent += 1;
            self.counters.bytes_resent += end - start;
        }
        Blocked::No
    }

    fn arm_after_resend(&mut self, now: Time) {
        if self.tx.recovery.is_open() {
            self.arm(now);
        }
    }

    fn send_new(&mut self, now: Time, left: &mut usize, emit: &mut impl Emit<S>) -> Blocked {
        loop {
            let unsent = self.tx.unsent();
            if unsent == 0 {
                let in_flight = self.tx.board.in_flight();
                let has_more_room = in_flight < self.tx.control.window();
                if has_more_room && self.tx.board.lost_bytes() == 0 {
                    if self.tx.buffer.is_full() {
                        self.tx.rate.set_buffer_limited(in_flight);
                    } else {
                        self.tx.rate.set_app_limited(in_flight);
                    }
                }
                return Blocked::No;
            }
            if *left == 0 {
                return Blocked::Budget;
            }
            if !self.tx.pacer.is_ready(now) && self.tx.nxt >= self.tx.unpaced_until {
                return Blocked::Pacer;
            }
            if self.send_mtu_probe(now, unsent, emit) {
                *left -= 1;
                continue;
            }
            let Some(len) = self.next_burst(now, unsent, *left) else {
                return Blocked::No;
            };
            *left -= usize::try_from(len.div_ceil(self.tx.mss()))
                .unwrap_or(*left)
                .min(*left);
            self.send_burst(now, len, emit);
        }
    }

    /// How much of what is unsent goes out as one burst, if any may.
    fn next_burst(&mut self, now: Time, unsent: u64, left: usize) -> Option<u64> {
        let tx = &mut self.tx;
        let mss = tx.mss();
        let usable = tx.edge.saturating_sub(tx.nxt);
        let in_flight = tx.board.in_flight();
        let room = tx.control.window().saturating_sub(in_flight);
        let budget = mss.saturating_mul(u64::try_from(left).unwrap_or(u64::MAX));
        let burst = Pacer::burst_bytes(tx.control.pacing_rate(), mss).min(budget);
        let fin_only = tx.fin_at == Some(tx.nxt);
        if room < mss.min(unsent) {
            tx.limited_until = tx.nxt;
            return None;
        }
        if fin_only {
            // A FIN takes no buffer: it may go out into a closed window.
            return tx.board.has_room().then_some(1);
        }
        let mut len = unsent.min(usable).min(room).min(burst);
        if len < unsent {
            // RFC 9293, 3.8.6.2.1: full segments, or half of the largest window.
            let whole = len - len % mss;
            let half = usable < mss && usable > 0 && usable >= tx.window_max / 2;
            len = if whole > 0 {
                whole
            } else if half {
                len
            } else {
                0
            };
        }
        if len == 0 {
            if tx.board.is_empty() {
                self.persist(now);
            }
            return None;
        }
        self.tx.board.has_room().then_some(len)
    }

    /// New data in full segments, the last perhaps shorter, as one burst.
    fn send_burst(&mut self, now: Time, len: u64, emit: &mut impl Emit<S>) {
        let mss = self.tx.mss();
        let (start, limit) = (self.tx.nxt, self.tx.nxt + len);
        self.on_sending(now, len);
        self.tx.train.on_send(now, self.tx.board.in_flight());
        while self.tx.nxt < limit && self.tx.board.has_room() {
            let end = limit.min(self.tx.nxt + mss);
            let snapshot = self.tx.rate.on_send(now, self.tx.board.in_flight());
            self.tx.board.push(self.tx.nxt, end, now, snapshot, false);
            self.tx.nxt = end;
        }
        let end = self.tx.nxt;
        self.arm(now);
        // A FIN by itself is no data (RFC 3168, 6.1.4).
        let (flags, ecn) = if start < self.tx.buffer.end() {
            self.ecn.data_flags()
        } else {
            (Flags::NONE, IpEcn::NotCapable)
        };
        self.emit_data(now, start, end, ecn, flags, emit);
    }

    /// A segment larger than the path is known to take (RFC 4821, 7.4).
    fn send_mtu_probe(&mut self, now: Time, unsent: u64, emit: &mut impl Emit<S>) -> bool {
        let Some(size) = self.tx.mtu.probe_due(now) else {
            return false;
        };
        let tx = &mut self.tx;
        let len = u64::from(tx.payload_of(size));
        let fits = tx.control.window().saturating_sub(tx.board.in_flight()) >= len
            && tx.edge.saturating_sub(tx.nxt) >= len;
        // Nothing is sent early for it: there must be more to send than the probe holds.
        if unsent <= len || !fits || !tx.board.has_room() || !tx.recovery.is_open() {
            return false;
        }
        let (start, end) = (tx.nxt, tx.nxt + len);
        tx.mtu.on_probe_sent(size);
        self.on_sending(now, len);
        let snapshot = self.tx.rate.on_send(now, self.tx.board.in_flight());
        self.tx.board.push(start, end, now, snapshot, true);
        self.tx.nxt = end;
        self.arm(now);
        let segment = self.header(now, start, Flags::ACK);
        self.counters.segments_sent += 1;
        self.counters.bytes_sent += len;
        let pieces = self.tx.buffer.pieces(start, end);
        emit.emit(&segment, IpEcn::NotCapable, None, pieces);
        true
    }

    /// Bytes are about to go out.
    fn on_sending(&mut self, now: Time, len: u64) {
        let tx = &mut self.tx;
        let idle = tx.idle_since.take().map(|since| now.since(since));
        if idle.is_some() {
            // What has waited for long begins to wait now.
            self.timers.on_progress(now);
        }
        tx.control.on_send(now, len, idle);
        tx.pacer.on_send(now, len, tx.control.pacing_rate());
    }

    /// Sends what [`super::timers`] found due.
    fn probe(&mut self, now: Time, emit: &mut impl Emit<S>) {
        match self.timers.due.take() {
            None => {}
            Some(Probe::Peer) => self.probe_peer(now, emit),
            Some(Probe::Tail) => self.probe_tail(now, emit),
        }
    }

    /// RFC 8985, 7.3: new data if there is some, else the last segment again.
    fn probe_tail(&mut self, now: Time, emit: &mut impl Emit<S>) {
        let Some(last) = self.tx.board.last_unsacked() else {
            return;
        };
        self.counters.tail_probes += 1;
        let mss = self.tx.mss();
        let len = self.tx.unsent().min(mss);
        if len > 0 && self.tx.edge.saturating_sub(self.tx.nxt) >= len && self.tx.board.has_room() {
            self.send_burst(now, len, emit);
            self.tx.tlp.on_probe(self.tx.nxt, false);
        } else {
            let (start, end) = (self.tx.board[last].start, self.tx.board[last].end);
            self.on_sending(now, end - start);
            let snapshot = self.tx.rate.on_send(now, self.tx.board.in_flight());
            self.tx.board.resend(last, now, snapshot);
            self.tx.tlp.on_probe(self.tx.nxt, true);
            self.emit_data(now, start, end, IpEcn::NotCapable, Flags::NONE, emit);
            self.counters.segments_resent += 1;
            self.counters.bytes_resent += end - start;
        }
        self.arm(now);
    }

    /// An empty segment with an old number: every receiver answers it with its window
    /// (RFC 9293, 3.8.4 and 3.10.7.4). A byte of data would have to be taken back where
    /// the window stays closed.
    ///
    /// A window that is too small for a segment is used now (3.8.6.2.1: the override).
    fn probe_peer(&mut self, now: Time, emit: &mut impl Emit<S>) {
        let usable = self.tx.edge.saturating_sub(self.tx.nxt);
        let len = self.tx.unsent().min(usable).min(self.tx.mss());
        if self.state.is_sending() && len > 0 && self.tx.board.is_empty() {
            self.send_burst(now, len, emit);
            return;
        }
        self.counters.window_probes += 1;
        let segment = self.header(now, self.tx.una - 1, Flags::ACK);
        self.emit_bare(emit, &segment);
    }

    fn acknowledge(&mut self, now: Time, emit: &mut impl Emit<S>) {
        let mut segment = self.header(now, self.tx.nxt, Flags::ACK);
        if self.tx.sack {
            let room = if segment.options.timestamp.is_some() {
                3
            } else {
                4
            };
            for (left, right) in self.rx.data.blocks(room) {
                let space = self.rx.space;
                segment
                    .options
                    .sack
                    .push(space.wire(left), space.wire(right));
            }
        }
        self.rx.acks.on_sent();
        self.counters.acks_sent += 1;
        self.emit_bare(emit, &segment);
    }

    /// The bytes from `start` to `end`, and the FIN if it is among them.
    fn emit_data(
        &mut self,
        now: Time,
        start: u64,
        end: u64,
        ecn: IpEcn,
        extra: Flags,
        emit: &mut impl Emit<S>,
    ) {
        let mut flags = Flags::ACK | extra;
        let data_end = end.min(self.tx.buffer.end());
        if self.tx.fin_at.is_some_and(|fin| end > fin) {
            flags = flags | Flags::FIN;
        }
        if data_end == self.tx.buffer.end() && data_end > start {
            flags = flags | Flags::PSH;
        }
        let segment = self.header(now, start, flags);
        // Blocks do not go with data: the acknowledgement that has them goes by itself.
        if !self.rx.data.has_blocks() {
            self.rx.acks.on_sent();
        }
        let size = self.tx.payload_max();
        let len = data_end.saturating_sub(start);
        let segments = len.div_ceil(u64::from(size)).max(1);
        self.counters.segments_sent += segments;
        self.counters.bytes_sent += len;
        let pieces = self.tx.buffer.pieces(start, data_end.max(start));
        emit.emit(&segment, ecn, (segments > 1).then_some(size), pieces);
    }

    fn emit_bare(&mut self, emit: &mut impl Emit<S>, segment: &Segment) {
        self.counters.segments_sent += 1;
        let at = self.tx.buffer.end();
        let pieces = self.tx.buffer.pieces(at, at);
        emit.emit(segment, IpEcn::NotCapable, None, pieces);
    }

    /// A header with what every segment of a connection that stands says.
    fn header(&mut self, now: Time, seq: u64, flags: Flags) -> Segment {
        let mss = self.tx.mss();
        let window = self.rx.window_field(mss);
        let next = self.rx.data.next();
        self.rx.last_ack = next;
        let mut segment = Segment {
            seq: self.tx.space.wire(seq),
            ack: self.rx.space.wire(next),
            flags: flags | self.ecn.ack_flags(),
            window,
            ..Segment::default()
        };
        if let Some(value) = self.tx.timestamp(now) {
            let echo = self.rx.recent;
            segment.options.timestamp = Some(Timestamp { value, echo });
        }
        segment
    }
}

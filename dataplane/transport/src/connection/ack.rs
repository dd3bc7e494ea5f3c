//! What an acknowledgement says: the scoreboard, round trips, losses, the controller.

use super::{Connection, State};
use crate::control::Ack;
use crate::counters::Violation;
use crate::rate::Sampler;
use crate::recovery::{Phase, ProbeOutcome, Rack};
use crate::scoreboard::{self, Delivered};
use crate::segment::{Flags, SACK_BLOCKS_MAX, Segment};
use crate::seq::Seq;
use arrayvec::ArrayVec;
use sluice_proto::Time;
use std::time::Duration;

/// DupThresh (RFC 5681, 3.2).
const DUPLICATES: u32 = 3;

type Blocks = ArrayVec<(u64, u64), SACK_BLOCKS_MAX>;

/// What of an acknowledgement is of interest beyond the scoreboard.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    delivered: u64,
    /// When the latest of those never resent was sent: the round trip's sample.
    sent_at: Option<Time>,
    /// When the earliest of those held to be lost was sent, that was never resent, or
    /// whose acknowledgement is older than its being resent.
    original: Option<Time>,
    /// Some of it was resent, and this may be the answer to that.
    resent: bool,
    mtu_probe: bool,
    full: bool,
}

impl Heard {
    fn add(&mut self, delivered: &Delivered, echo_is_older: bool, mss: u64) {
        self.delivered += u64::from(delivered.bytes);
        if delivered.retransmissions > 0 {
            // RFC 3522, 3.2: the echo is of before it went out again.
            if echo_is_older {
                self.original = Some(Time::ZERO);
            } else {
                self.resent = true;
            }
        } else {
            self.sent_at = self.sent_at.max(Some(delivered.sent_at));
            if delivered.was_lost {
                let at = self.original.unwrap_or(Time::FAR);
                self.original = Some(at.min(delivered.sent_at));
            }
        }
        self.mtu_probe |= delivered.mtu_probe;
        self.full |= u64::from(delivered.bytes) >= mss;
    }
}

impl<S, R> Connection<S, R> {
    /// Takes an acceptable acknowledgement, `una` to `nxt` or older; `seq` is where the
    /// segment stands.
    pub(super) fn on_ack(&mut self, now: Time, seq: u64, ack: u64, len: u32, segment: &Segment) {
        if ack < self.tx.una {
            // Overtaken by a newer one that said more.
            return;
        }
        let edge = self.tx.edge;
        self.update_window(now, seq, ack, segment);
        let prior_in_flight = self.tx.board.in_flight();
        let (blocks, dsack) = self.blocks(ack, segment);
        let heard = self.take_delivered(now, ack, &blocks, segment);
        if heard.sent_at.is_some() {
            self.ecn.on_delivered();
        }
        let advanced = ack > self.tx.una;
        self.tx.una = ack;
        self.tx.buffer.acknowledge(ack);
        if advanced {
            let gap = self.timers.since_progress(now);
            self.counters.gap_longest = self.counters.gap_longest.max(gap);
            self.timers.on_progress(now);
        }
        let rtt = self.sample_rtt(now, &heard, advanced, segment);
        self.recover(now, &heard, dsack);
        let lost = if heard.delivered > 0 || dsack.is_some() {
            self.restart_timeout(now);
            self.find_losses(now)
        } else {
            0
        };
        if !self.tx.sack {
            let duplicate = !advanced && len == 0 && edge == self.tx.edge;
            self.count_duplicates(now, duplicate, advanced);
        }
        let marked = self.ecn.on_ack(segment.flags, ack, self.tx.nxt);
        if marked {
            self.counters.congestion_marks += 1;
            self.tx.control.on_congestion(now, prior_in_flight, false);
        }
        if heard.delivered > 0 {
            self.tell_controller(now, &heard, rtt, lost, prior_in_flight, marked);
            self.arm(now);
        }
        if self.tx.board.is_empty() {
            self.tx.idle_since.get_or_insert(now);
        }
        if self.tx.is_fin_acked() {
            self.on_fin_acked(now);
        }
    }

    /// RFC 9293, 3.10.7.4: the window, if this segment is not older than the last that
    /// said something of it.
    fn update_window(&mut self, now: Time, seq: u64, ack: u64, segment: &Segment) {
        let tx = &mut self.tx;
        // An acknowledgement of something new is new, whatever a forged number ahead said.
        let fresh =
            ack > tx.una || tx.window_seq < seq || tx.window_seq == seq && tx.window_ack <= ack;
        if !fresh {
            return;
        }
        let window = u64::from(segment.window) << tx.shift;
        let edge = ack + window;
        if edge < tx.edge {
            self.counters.violation(Violation::WindowShrunk);
        }
        tx.edge = edge;
        tx.window_seq = seq;
        tx.window_ack = ack;
        tx.window_max = tx.window_max.max(window);
        if window == 0 {
            // A peer that answers probes may keep its window closed (RFC 9293, 3.8.6.1).
            self.timers.on_progress(now);
        } else if tx.edge > tx.nxt {
            self.stop_persisting();
        }
    }

    /// The SACK blocks that may be believed, and what came twice (RFC 2883, 5).
    fn blocks(&mut self, ack: u64, segment: &Segment) -> (Blocks, Option<(u64, u64)>) {
        let mut blocks = Blocks::new();
        let mut dsack = None;
        if !self.tx.sack {
            return (blocks, dsack);
        }
        let tx = &self.tx;
        let offset = |seq: Seq| tx.space.offset(ack, seq);
        let given = segment.options.sack.as_slice();
        for (index, &(left, right)) in given.iter().enumerate() {
            let (left, right) = (offset(left), offset(right));
            if left >= right || right > tx.nxt {
                self.counters.violation(Violation::SackOfUnsent);
                continue;
            }
            let within = given.get(1).is_some_and(|&(outer_left, outer_right)| {
                offset(outer_left) <= left && right <= offset(outer_right)
            });
            if index == 0 && (right <= ack || within) {
                dsack = Some((left, right));
            } else if left >= ack {
                blocks.push((left, right));
            }
        }
        if dsack.is_some() && self.counters.segments_resent == 0 {
            // The network's own duplicate, or a lie: nothing of ours was needless.
            self.counters.violation(Violation::DsackOfUnresent);
            dsack = None;
        }
        (blocks, dsack)
    }

    fn take_delivered(&mut self, now: Time, ack: u64, blocks: &Blocks, segment: &Segment) -> Heard {
        let mut heard = Heard::default();
        let mss = self.tx.mss();
        let min_rtt = self.tx.rtt.min().unwrap_or_default();
        let clock = self.tx.timestamp(Time::ZERO);
        let echo = segment
            .options
            .timestamp
            .map(|timestamp| Seq(timestamp.echo));
        let tx = &mut self.tx;
        let (rack, rate): (&mut Rack, &mut Sampler) = (&mut tx.rack, &mut tx.rate);
        let mut take = |delivered: Delivered| {
            let (bytes, end) = (delivered.bytes, delivered.end);
            rate.on_delivered(now, bytes, delivered.sent_at, end, &delivered.snapshot);
            let sent_clock = clock.map(|clock| clock_at(clock, delivered.sent_at));
            let older = echo
                .zip(sent_clock)
                .is_some_and(|(echo, sent)| echo.since(sent) < 0);
            heard.add(&delivered, older, mss);
            rack.on_delivered(now, &delivered, older, min_rtt);
        };
        tx.board.acknowledge(ack, &mut take);
        tx.board.sack(blocks, &mut take);
        heard
    }

    /// RFC 6298, 3 (Karn), and RFC 7323, 4.1 for what was sent more than once.
    fn sample_rtt(
        &mut self,
        now: Time,
        heard: &Heard,
        advanced: bool,
        segment: &Segment,
    ) -> Option<Duration> {
        let clock = self.tx.timestamp(now);
        let echo = segment.options.timestamp.map(|timestamp| timestamp.echo);
        let elapsed_ms = clock
            .zip(echo)
            .map(|(clock, echo)| Seq(clock).since(Seq(echo)));
        if elapsed_ms.is_some_and(|elapsed_ms| elapsed_ms < 0) {
            self.counters.violation(Violation::EchoOfUnsent);
        }
        let by_echo = || {
            let elapsed_ms = u64::try_from(elapsed_ms?).ok()?;
            // Older than a minute is no round trip.
            (advanced && elapsed_ms < 60_000).then(|| Duration::from_millis(elapsed_ms.max(1)))
        };
        // Without SACK, what is acknowledged with a hole that was filled came long ago.
        let prompt = self.tx.sack || !heard.resent;
        let exact = heard.sent_at.filter(|_| prompt).map(|at| now.since(at));
        let rtt = exact.or_else(by_echo).filter(|_| heard.delivered > 0)?;
        let flight = self.tx.nxt - self.tx.una;
        let samples = u32::try_from(flight / (2 * self.tx.mss())).unwrap_or(u32::MAX);
        self.tx.rtt.sample(now, rtt, samples);
        // The echo's millisecond is too coarse to be a smallest round trip.
        exact
    }

    /// Ends, undoes and probes' outcomes, before new losses are looked for.
    fn recover(&mut self, now: Time, heard: &Heard, dsack: Option<(u64, u64)>) {
        let (una, nxt) = (self.tx.una, self.tx.nxt);
        let tx = &mut self.tx;
        let probe = tx.tlp.on_ack(una, dsack.map(|(_, right)| right));
        if dsack.is_some() {
            self.counters.dsacks += 1;
            tx.rack.on_dsack(una, nxt);
            if tx.recovery.on_duplicate() {
                self.counters.undone += 1;
                tx.recovery.undo();
                tx.control.on_undo();
                tx.board.restore_lost();
            }
        }
        if probe == ProbeOutcome::Repaired && tx.recovery.is_open() {
            // RFC 8985, 7.4.2: a loss that left nothing else to see.
            self.ecn.on_lost();
            tx.control.on_congestion(now, nxt - una, true);
            tx.control.on_recovered();
        }
        if let Some(sent_at) = heard.original
            && !heard.resent
            && tx.recovery.on_original(sent_at)
        {
            self.counters.spurious_timeouts += 1;
            tx.rtt.forget_backoff();
            tx.control.on_undo();
            tx.board.restore_lost();
        } else if heard.resent && heard.original.is_some() {
            // RFC 5682, 2.1 (2.b): the hole was filled, and what was behind it is there.
            tx.recovery.believe_timeout();
        }
        if tx.recovery.on_acknowledged(una) {
            tx.rack.on_recovered();
            tx.control.on_recovered();
        }
        if heard.full {
            tx.mtu.on_delivered();
        }
        if heard.mtu_probe {
            tx.mtu.on_probe_delivered(now);
            tx.on_mss_changed();
        }
    }

    fn tell_controller(
        &mut self,
        now: Time,
        heard: &Heard,
        rtt: Option<Duration>,
        lost: u64,
        prior_in_flight: u64,
        marked: bool,
    ) {
        let tx = &mut self.tx;
        let rate = tx.rate.sample(tx.rtt.min().unwrap_or_default());
        let is_broken = lost > 0 || !tx.recovery.is_open();
        tx.train.on_ack(
            now,
            heard.delivered,
            tx.board.in_flight(),
            tx.mss(),
            is_broken,
        );
        let window_limited =
            tx.una <= tx.limited_until || 2 * prior_in_flight > tx.control.window();
        tx.control.on_ack(&Ack {
            now,
            delivered: heard.delivered,
            total_delivered: tx.rate.delivered(),
            lost,
            in_flight: tx.board.in_flight(),
            prior_in_flight,
            rtt,
            srtt: tx.rtt.srtt().unwrap_or_default(),
            rate,
            marked,
            recovering: !tx.recovery.is_open(),
            window_limited,
            mss: tx.mss(),
        });
    }

    /// A peer without SACK: three duplicates tell of a loss (RFC 5681, 3.2), and an
    /// acknowledgement within the recovery of the next one (RFC 6582, 3.2).
    fn count_duplicates(&mut self, now: Time, duplicate: bool, advanced: bool) {
        let tx = &mut self.tx;
        tx.duplicates = if duplicate {
            tx.duplicates.saturating_add(1)
        } else {
            0
        };
        let partial = advanced && matches!(tx.recovery.phase(), Phase::Recovery { .. });
        if tx.duplicates != DUPLICATES && !partial {
            return;
        }
        let Some(id) = tx
            .board
            .first_id()
            .filter(|&id| tx.board[id].state == scoreboard::State::Flying)
        else {
            return;
        };
        let flight = tx.nxt - tx.una;
        tx.board.mark_lost(id);
        if tx.recovery.on_loss(tx.nxt) {
            self.counters.recoveries += 1;
            tx.control.on_congestion(now, flight, true);
        }
    }

    /// The acknowledgement of our SYN-ACK (RFC 9293, 3.10.7.4). Whether it is one.
    pub(super) fn take_handshake_ack(&mut self, now: Time, segment: &Segment) -> bool {
        let ack = self.tx.space.offset(self.tx.una, segment.ack);
        if ack <= self.tx.una || ack > self.tx.nxt {
            self.counters.violation(Violation::AckOfUnsent);
            self.reset = Some(Segment {
                seq: segment.ack,
                flags: Flags::RST,
                ..Segment::default()
            });
            return false;
        }
        debug_assert_eq!(self.state, State::SynReceived);
        self.established(now, segment);
        true
    }
}

/// What the timestamp clock showed at a time, by what it showed at zero.
fn clock_at(zero: u32, at: Time) -> Seq {
    #[expect(clippy::cast_possible_truncation, reason = "the clock wraps")]
    let elapsed_ms = (at.as_micros() / 1000) as u32;
    Seq(zero.wrapping_add(elapsed_ms))
}

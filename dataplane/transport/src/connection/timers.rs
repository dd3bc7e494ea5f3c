//! What is due without a segment coming in.

use super::{Connection, Ended, State};
use crate::counters::Violation;
use crate::recovery::Tlp;
use crate::rtt::RTO_MAX;
use crate::scoreboard;
use sluice_proto::Time;
use std::time::Duration;

/// A segment that goes out only to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// RFC 8985, 7.3.
    Tail,
    /// The window is closed (RFC 9293, 3.8.6.1), or the peer is silent (3.8.4).
    Peer,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    /// The retransmission timer runs since then.
    timeout_from: Option<Time>,
    /// When a reordered segment is lost (RFC 8985, 6.3).
    reorder: Option<Time>,
    /// When the tail is probed.
    tail: Option<Time>,
    /// When a closed window is probed, and how often it was.
    persist: Option<(Time, u32)>,
    /// Probes of a silent peer, and the last one's time.
    keep_alive: (u32, Time),
    /// When something was last acknowledged, or began to wait for it.
    progress_at: Time,
    /// Since when and until when.
    pub time_wait: Option<(Time, Time)>,
    /// When the pacer lets more go out, if something waits for that.
    pub paced_until: Option<Time>,
    pub due: Option<Probe>,
}

impl Timers {
    pub const fn on_progress(&mut self, now: Time) {
        self.progress_at = now;
    }

    pub const fn since_progress(&self, now: Time) -> Duration {
        now.since(self.progress_at)
    }
}

impl<S, R> Connection<S, R> {
    /// When [`Self::poll_transmit`] is to be called even if nothing happens. Besides, it is
    /// to be called after segments came in, and after a call that changed something.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        if self.reset.is_some() {
            return Some(Time::ZERO);
        }
        if self.ended.is_some() {
            return None;
        }
        let timers = &self.timers;
        [
            self.opening.at,
            self.timeout_at(),
            timers.reorder,
            timers.tail,
            timers.persist.map(|(at, _)| at),
            timers.time_wait.map(|(_, until)| until),
            timers.paced_until,
            timers.due.map(|_| Time::ZERO),
            self.rx
                .acks
                .deadline()
                .filter(|_| self.state.is_synchronized()),
            self.user_timeout_at(),
            self.keep_alive_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn timeout_at(&self) -> Option<Time> {
        Some(self.timers.timeout_from? + self.tx.rtt.rto())
    }

    fn user_timeout_at(&self) -> Option<Time> {
        let waits = match self.state {
            State::FinWait2 => true,
            state => state.is_sending() && (!self.tx.board.is_empty() || self.tx.unsent() > 0),
        };
        waits.then(|| self.timers.progress_at + self.config.user_timeout)
    }

    fn keep_alive_at(&self) -> Option<Time> {
        let keep_alive = self.config.keep_alive?;
        let quiet = self.tx.board.is_empty() && self.timers.persist.is_none();
        if !quiet
            || !matches!(
                self.state,
                State::Established | State::CloseWait | State::FinWait2
            )
        {
            return None;
        }
        let (probes, last) = self.timers.keep_alive;
        let after_probe = last + keep_alive.interval;
        let after_silence = self.rx.heard_at + keep_alive.idle;
        Some(if probes > 0 {
            after_probe.max(after_silence)
        } else {
            after_silence
        })
    }

    pub(super) fn run_timers(&mut self, now: Time) {
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if due(self.timers.time_wait.map(|(_, until)| until)) {
            self.end(Ended::Finished);
        }
        if due(self.user_timeout_at()) {
            self.end(Ended::TimedOut);
        }
        if self.ended.is_some() {
            return;
        }
        if due(self.timers.reorder) {
            self.find_losses(now);
            self.arm(now);
        }
        if due(self.timeout_at()) {
            self.on_timeout(now);
        } else if due(self.timers.tail) {
            self.timers.tail = None;
            self.timers.timeout_from = Some(now);
            self.timers.due = Some(Probe::Tail);
        }
        if let Some((at, count)) = self.timers.persist
            && at <= now
        {
            let wait = self
                .tx
                .rtt
                .rto()
                .saturating_mul(2 << count.min(16))
                .min(RTO_MAX);
            self.timers.persist = Some((now + wait, count + 1));
            self.timers.due = Some(Probe::Peer);
        }
        if due(self.keep_alive_at()) {
            let (probes, _) = self.timers.keep_alive;
            if self
                .config
                .keep_alive
                .is_some_and(|config| probes >= config.probes_max)
            {
                return self.end(Ended::TimedOut);
            }
            self.timers.keep_alive = (probes + 1, now);
            self.timers.due = Some(Probe::Peer);
        }
    }

    /// The peer was heard.
    pub(super) const fn on_heard(&mut self, now: Time) {
        self.rx.heard_at = now;
        self.timers.keep_alive.0 = 0;
    }

    /// RFC 6298, 5.4 to 5.7, and RFC 8985, 6.3.
    fn on_timeout(&mut self, now: Time) {
        self.counters.timeouts += 1;
        self.ecn.on_lost();
        let full = self
            .tx
            .board
            .first()
            .is_some_and(|sent| u64::from(sent.bytes()) >= self.tx.mss());
        if self.tx.mtu.on_timeout(now, full) {
            self.counters.black_holes += 1;
            self.tx.on_mss_changed();
        }
        // The first that is missing was sacked: the receiver has thrown it away, and may
        // have done so with the others (RFC 2018, 8).
        let reneged = self
            .tx
            .board
            .first()
            .is_some_and(|sent| sent.state == scoreboard::State::Sacked);
        if reneged {
            self.counters.violation(Violation::Reneged);
        }
        let in_flight = self.tx.board.in_flight();
        self.tx.board.mark_all_lost(reneged);
        self.tx.recovery.on_timeout(now, self.tx.nxt);
        self.tx.control.on_timeout(now, in_flight);
        self.tx.rtt.back_off();
        self.tx.tlp.reset();
        self.timers.timeout_from = Some(now);
        self.timers.reorder = None;
        self.timers.tail = None;
    }

    /// Losses that time has shown, and when the next one is.
    pub(super) fn find_losses(&mut self, now: Time) -> u64 {
        let tx = &mut self.tx;
        let min_rtt = tx.rtt.min().unwrap_or_default();
        let srtt = tx.rtt.srtt().unwrap_or_default();
        let recovering = !tx.recovery.is_open();
        let window = tx
            .rack
            .window(recovering, tx.board.sacked_segments(), min_rtt, srtt);
        let flight = tx.nxt - tx.una;
        let found = tx.rack.detect(now, window, &mut tx.board);
        self.timers.reorder = found.deadline;
        if found.lost_mtu_probes > 0 {
            tx.mtu.on_probe_lost(now);
        }
        if found.lost_segments > 0 {
            self.ecn.on_lost();
        }
        if found.lost_segments > 0 && tx.recovery.on_loss(tx.nxt) {
            self.counters.recoveries += 1;
            tx.control.on_congestion(now, flight, true);
        }
        found.lost_bytes
    }

    /// Something was sent or acknowledged: the timers of what is outstanding.
    pub(super) fn arm(&mut self, now: Time) {
        let tx = &self.tx;
        if tx.board.is_empty() {
            self.timers.timeout_from = None;
            self.timers.reorder = None;
            self.timers.tail = None;
            return;
        }
        self.timers.persist = None;
        self.timers.timeout_from.get_or_insert(now);
        // RFC 8985, 7.2: not in recovery, and where nothing is sacked, or RACK would see.
        let wanted = tx.sack
            && tx.recovery.is_open()
            && tx.tlp.may_probe()
            && tx.board.sacked_segments() == 0
            && tx.board.lost_bytes() == 0
            && self.timers.reorder.is_none();
        let tail = now + Tlp::timeout(tx.rtt.srtt(), tx.board.len());
        self.timers.tail =
            Some(tail).filter(|&at| wanted && self.timeout_at().is_none_or(|timeout| at < timeout));
    }

    /// Something new was delivered: the retransmission timer begins anew (RFC 6298, 5.3).
    pub(super) const fn restart_timeout(&mut self, now: Time) {
        self.timers.timeout_from = Some(now);
    }

    /// Everything that is outstanding is acknowledged, and the peer's window keeps the
    /// rest back.
    pub(super) fn persist(&mut self, now: Time) {
        let first = now + self.tx.rtt.rto();
        self.timers.persist.get_or_insert((first, 0));
    }

    pub(super) const fn stop_persisting(&mut self) {
        self.timers.persist = None;
    }
}

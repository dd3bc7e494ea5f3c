//! The model-based controller, in the way of BBR: what the path delivers and how long it
//! takes are measured, and the rate and the window follow from that, not from losses.
//!
//! ```text
//!  Startup --(no growth, or losses)--> Drain --> Cruise --> Up --> Down --> Cruise ...
//!                                          any --(smallest round trip is old)--> ProbeRtt
//! ```
//!
//! What always holds:
//! * bandwidth is the greatest delivery rate of the last ten rounds that were not limited
//!   by the sender; the round trip is the smallest of the last ten seconds;
//! * losses below [`round::LOSS_MAX`] of a round are the path's, not a queue's, and change
//!   nothing; above it rate and window go down to what was delivered, and not below;
//! * a probe that finds more is followed by another at once, one that finds losses ends;
//! * a round trip that has grown and does not shrink when the flight is halved is the
//!   path's own, and is believed at once.
//!
//! Not for: recovery, which goes on beside it.

mod gains;
mod min_rtt;
mod round;
#[cfg(test)]
mod tests;

use super::filter::MaxFilter;
use super::{Ack, INITIAL_SEGMENTS, SEGMENTS_MIN};
use crate::pacing::Pacer;
use crate::rate::{Rate, scale};
use gains::*;
use min_rtt::{MinRtt, Probed};
use round::{Round, Verdict};
use sluice_proto::Time;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Startup,
    Drain,
    /// Drains what the last probe put in the queue.
    Down,
    Cruise,
    /// Sends more than the path is known to take.
    Up,
    /// Half the flight, so that the queue empties and the round trip shows.
    ProbeRtt,
}

#[derive(Clone, Debug)]
pub struct Bbr {
    mss: u64,
    mode: Mode,
    /// The round in which the mode began, and for cruising, in which it ends.
    mode_round: u64,
    cruise_ends: u64,
    bandwidth: MaxFilter,
    /// Until the next probe: what a congested round delivered.
    bandwidth_low: Option<Rate>,
    window_low: Option<u64>,
    /// The flight that was too much.
    window_high: Option<u64>,
    min_rtt: MinRtt,
    round: Round,
    filled: bool,
    filled_bandwidth: Rate,
    filled_rounds: u32,
    /// The bandwidth when the last probe began.
    probe_base: Rate,
    window: u64,
    /// The window before a timeout or a probe of the round trip.
    prior_window: u64,
    rate: Rate,
    chance: u64,
}

impl Bbr {
    #[must_use]
    pub fn new(mss: u64, seed: u64) -> Self {
        let window = INITIAL_SEGMENTS * mss;
        Self {
            mss,
            mode: Mode::Startup,
            mode_round: 0,
            cruise_ends: 0,
            bandwidth: MaxFilter::default(),
            bandwidth_low: None,
            window_low: None,
            window_high: None,
            min_rtt: MinRtt::default(),
            round: Round::default(),
            filled: false,
            filled_bandwidth: Rate::ZERO,
            filled_rounds: 0,
            probe_base: Rate::ZERO,
            window,
            prior_window: window,
            rate: Rate::over(window, Duration::from_millis(1)).scaled(STARTUP_GAIN),
            chance: seed | 1,
        }
    }

    pub(in crate::control) fn on_connected(&mut self, now: Time, rtt: Option<Duration>) {
        if let Some(rtt) = rtt {
            self.min_rtt.sample(now, rtt);
            self.rate = Rate::over(self.window, rtt).scaled(STARTUP_GAIN);
        }
    }

    pub(in crate::control) fn on_ack(&mut self, ack: &Ack) {
        self.mss = ack.mss;
        let mut verdict = None;
        if let Some(sample) = &ack.rate
            && self.round.begins(sample, ack.total_delivered)
        {
            verdict = Some(self.end_round(ack));
        }
        self.round.add(ack);
        if let Some(sample) = &ack.rate
            && (!sample.app_limited || sample.rate >= self.bandwidth.max())
        {
            self.bandwidth.push(sample.rate);
        }
        if let Some(rtt) = ack.rtt {
            self.min_rtt.sample(ack.now, rtt);
        }
        self.advance(ack, verdict);
        self.set_rate();
        self.set_window(ack);
    }

    /// Judges the round that is over and begins the next.
    fn end_round(&mut self, ack: &Ack) -> Verdict {
        let mut verdict = self.round.verdict(self.mss);
        // The start goes on through a burst of losses.
        verdict.too_high &= self.mode != Mode::Startup || verdict.overrun;
        if verdict.limited_by_path {
            self.bandwidth.advance();
        }
        self.min_rtt.on_round(self.round.min_rtt());
        if verdict.too_high {
            let low = self
                .effective_bandwidth()
                .scaled(LOSS_BETA)
                .max(verdict.rate);
            self.lower(low, scale(self.window, LOSS_BETA).max(verdict.flight));
        }
        self.round.next(ack.total_delivered);
        verdict
    }

    /// Rate and window go down until the next probe.
    fn lower(&mut self, rate: Rate, window: u64) {
        let floor = SEGMENTS_MIN * self.mss;
        self.bandwidth_low = Some(rate);
        self.window_low = Some(
            self.window_low
                .map_or(window, |low| low.min(window))
                .max(floor),
        );
        if matches!(self.mode, Mode::Startup | Mode::Up) {
            self.window_high = Some(window.max(self.flight(1000)).max(floor));
        }
    }

    fn advance(&mut self, ack: &Ack, verdict: Option<Verdict>) {
        if self.mode != Mode::ProbeRtt && self.min_rtt.wants_probe(ack.now, self.filled) {
            self.prior_window = self.window.max(self.prior_window);
            self.min_rtt.begin_probe(ack.now);
            self.enter(Mode::ProbeRtt);
        }
        match self.mode {
            Mode::Startup => {
                if let Some(verdict) = verdict {
                    self.judge_startup(verdict);
                }
                if self.filled {
                    self.enter(Mode::Drain);
                }
            }
            Mode::Drain => {
                if ack.in_flight <= self.flight(1000) {
                    self.cruise();
                }
            }
            Mode::Cruise => {
                let found_more = self.bandwidth.max() >= self.probe_base.scaled(PROBE_GROWTH);
                if verdict.is_some() && (self.round.number() >= self.cruise_ends || found_more) {
                    self.probe();
                }
            }
            Mode::Up => {
                if let Some(verdict) = verdict {
                    self.judge_probe(ack, verdict);
                }
            }
            Mode::Down => {
                let drained = ack.in_flight <= self.flight(1000).min(self.high(HEADROOM));
                if drained || self.rounds_in_mode() >= DOWN_ROUNDS_MAX {
                    self.cruise();
                }
            }
            Mode::ProbeRtt => {
                let low = ack.in_flight <= self.probe_rtt_window();
                let probed = self.min_rtt.advance_probe(ack, low, self.round.number());
                if probed == Probed::Grown {
                    self.forget_flights();
                }
                if probed != Probed::Goes {
                    self.leave_probe_rtt();
                }
            }
        }
    }

    fn judge_startup(&mut self, verdict: Verdict) {
        if verdict.too_high {
            self.filled = true;
        }
        if !verdict.limited_by_path {
            return;
        }
        if self.bandwidth.max() >= self.filled_bandwidth.scaled(STARTUP_GROWTH) {
            self.filled_bandwidth = self.bandwidth.max();
            self.filled_rounds = 0;
            return;
        }
        self.filled_rounds += 1;
        self.filled |= self.filled_rounds >= STARTUP_ROUNDS;
    }

    fn judge_probe(&mut self, ack: &Ack, verdict: Verdict) {
        if verdict.too_high {
            self.enter(Mode::Down);
            return;
        }
        if let Some(high) = &mut self.window_high
            && ack.prior_in_flight >= scale(*high, 950)
        {
            *high += *high / 4;
        }
        let full = ack.prior_in_flight >= self.flight(UP_GAIN);
        if full || self.rounds_in_mode() >= UP_ROUNDS_MAX {
            self.enter(Mode::Down);
        }
    }

    fn enter(&mut self, mode: Mode) {
        self.mode = mode;
        self.mode_round = self.round.number();
    }

    fn rounds_in_mode(&self) -> u64 {
        self.round.number() - self.mode_round
    }

    fn cruise(&mut self) {
        if self.probe_base == Rate::ZERO {
            self.probe_base = self.bandwidth.max();
        }
        // xorshift64.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let rounds = CRUISE_ROUNDS + self.chance % CRUISE_ROUNDS_CHANCE;
        self.enter(Mode::Cruise);
        self.cruise_ends = self.mode_round + rounds;
    }

    fn probe(&mut self) {
        self.bandwidth_low = None;
        self.window_low = None;
        self.probe_base = self.bandwidth.max();
        self.enter(Mode::Up);
    }

    /// The path is longer than it was: what was too much in flight on the old one says
    /// nothing, nor does what came through while that was all that there was.
    fn forget_flights(&mut self) {
        self.window_low = None;
        self.window_high = None;
        self.bandwidth_low = None;
        self.bandwidth.refresh();
    }

    fn leave_probe_rtt(&mut self) {
        self.window = self.window.max(self.prior_window);
        self.prior_window = 0;
        if self.filled {
            self.cruise();
        } else {
            self.enter(Mode::Startup);
        }
    }

    /// Bandwidth times the smallest round trip, times so many thousandths.
    fn flight(&self, gain: u32) -> u64 {
        let rtt = self.min_rtt.get().unwrap_or(Duration::from_millis(1));
        scale(self.effective_bandwidth().bytes_in(rtt), gain).max(SEGMENTS_MIN * self.mss)
    }

    fn high(&self, per_mille: u32) -> u64 {
        self.window_high
            .map_or(u64::MAX, |high| scale(high, per_mille))
    }

    fn effective_bandwidth(&self) -> Rate {
        let max = self.bandwidth.max();
        self.bandwidth_low.map_or(max, |low| low.min(max))
    }

    fn probe_rtt_window(&self) -> u64 {
        self.flight(500)
    }

    fn set_rate(&mut self) {
        let bandwidth = self.effective_bandwidth();
        if bandwidth == Rate::ZERO {
            return;
        }
        let gain = match self.mode {
            Mode::Startup => STARTUP_GAIN,
            Mode::Drain => DRAIN_GAIN,
            Mode::Down => DOWN_GAIN,
            Mode::Cruise | Mode::ProbeRtt => 1000,
            Mode::Up => UP_GAIN,
        };
        let rate = bandwidth.scaled(gain).scaled(MARGIN);
        // Until the pipe is full a low sample is only a young one.
        if self.filled || rate > self.rate {
            self.rate = rate.max(Rate::from_bytes_per_s(self.mss));
        }
    }

    fn set_window(&mut self, ack: &Ack) {
        let floor = SEGMENTS_MIN * self.mss;
        let gain = match self.mode {
            Mode::Startup => STARTUP_WINDOW_GAIN,
            Mode::Up => UP_WINDOW_GAIN,
            _ => WINDOW_GAIN,
        };
        let bursts = 2 * Pacer::burst_bytes(self.rate, self.mss) + EXTRA_SEGMENTS * self.mss;
        let target = self.flight(gain) + bursts;
        let window = self.window + ack.delivered;
        if self.filled {
            self.window = window.min(target);
        } else if self.window < target || ack.total_delivered < INITIAL_SEGMENTS * self.mss {
            self.window = window;
        }
        let bound = match self.mode {
            Mode::Up | Mode::Startup => self.high(1000),
            Mode::ProbeRtt => self.probe_rtt_window(),
            Mode::Drain | Mode::Down | Mode::Cruise => self.high(HEADROOM),
        };
        let bound = bound.min(self.window_low.unwrap_or(u64::MAX));
        self.window = self.window.min(bound.max(floor)).max(self.mss);
        if !ack.recovering {
            self.window = self.window.max(floor);
        }
    }

    /// Losses are judged by the round; a mark is a queue's own word.
    pub(in crate::control) fn on_congestion(&mut self, lost: bool) {
        if lost {
            return;
        }
        let low = self.effective_bandwidth().scaled(MARK_BETA);
        self.lower(low, scale(self.window, MARK_BETA));
        match self.mode {
            Mode::Startup => self.filled = true,
            Mode::Up => self.enter(Mode::Down),
            _ => {}
        }
    }

    /// All that was in flight is taken for lost: one segment, then as it is delivered.
    pub(in crate::control) fn on_timeout(&mut self) {
        self.prior_window = self.prior_window.max(self.window);
        self.window = self.mss;
    }

    pub(in crate::control) fn on_recovered(&mut self) {
        if self.mode != Mode::ProbeRtt {
            self.window = self.window.max(self.prior_window);
            self.prior_window = 0;
        }
    }

    pub(in crate::control) fn on_undo(&mut self) {
        self.bandwidth_low = None;
        self.window_low = None;
        self.window_high = None;
        self.on_recovered();
    }

    pub(in crate::control) fn on_send(&mut self, now: Time, idle: Option<Duration>) {
        if let Some(idle) = idle {
            // A path on which nothing was sent has no queue of ours to empty.
            self.min_rtt.on_idle(now, idle);
        }
    }

    pub(in crate::control) const fn set_mss(&mut self, mss: u64) {
        self.mss = mss;
    }

    pub(in crate::control) const fn window(&self) -> u64 {
        self.window
    }

    pub(in crate::control) const fn pacing_rate(&self) -> Rate {
        self.rate
    }

    pub(in crate::control) fn bandwidth(&self) -> Rate {
        self.effective_bandwidth()
    }

    pub(in crate::control) const fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt.get()
    }
}

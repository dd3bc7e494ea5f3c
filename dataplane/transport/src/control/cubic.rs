//! CUBIC (RFC 9438), paced, with HyStart++ (RFC 9406) for the way out of slow start.

use super::{Ack, INITIAL_SEGMENTS, SEGMENTS_MIN};
use crate::rate::{Rate, scale};
use crate::recovery::Prr;
use sluice_proto::Time;
use std::time::Duration;

/// Beta, in thousandths (RFC 9438, 4.6).
const BETA: u32 = 700;

/// The Reno-friendly additive increase 3 (1 - beta) / (1 + beta) (RFC 9438, 4.3).
const ALPHA: u32 = 529;

/// RFC 9406, 4.3: MIN_RTT_THRESH, MAX_RTT_THRESH, N_RTT_SAMPLE, CSS_GROWTH_DIVISOR, CSS_ROUNDS.
const HYSTART_THRESHOLD_MIN: Duration = Duration::from_millis(4);
const HYSTART_THRESHOLD_MAX: Duration = Duration::from_millis(16);
const HYSTART_SAMPLES: u32 = 8;
const HYSTART_DIVISOR: u64 = 4;
const HYSTART_ROUNDS: u32 = 5;

/// A burst would be as long as the window without (thousandths of window / SRTT).
const PACING_SLOW_START: u32 = 2000;
const PACING_AVOIDANCE: u32 = 1200;

#[derive(Clone, Copy, Debug)]
struct Epoch {
    began: Time,
    /// K, in milliseconds (RFC 9438, 4.2).
    k_ms: u64,
    /// W_est, in bytes.
    reno: u64,
    /// Bytes delivered towards the next growth.
    credit: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct HyStart {
    round_ends: u64,
    samples: u32,
    last_round_min: Option<Duration>,
    round_min: Option<Duration>,
    /// Conservative slow start: rounds in it, and the smallest round trip before.
    conservative: Option<(u32, Duration)>,
}

#[derive(Clone, Debug)]
pub struct Cubic {
    mss: u64,
    window: u64,
    threshold: u64,
    /// W_max, in bytes.
    origin: u64,
    epoch: Option<Epoch>,
    hystart: HyStart,
    prr: Option<Prr>,
    /// Window, threshold and origin before the last congestion event.
    before: Option<(u64, u64, u64)>,
    rate: Rate,
    bandwidth: Rate,
    min_rtt: Option<Duration>,
}

impl Cubic {
    #[must_use]
    pub fn new(mss: u64) -> Self {
        Self {
            mss,
            window: INITIAL_SEGMENTS * mss,
            threshold: u64::MAX,
            origin: 0,
            epoch: None,
            hystart: HyStart::default(),
            prr: None,
            before: None,
            rate: Rate::over(INITIAL_SEGMENTS * mss, Duration::from_millis(1)),
            bandwidth: Rate::ZERO,
            min_rtt: None,
        }
    }

    pub(super) fn on_connected(&mut self, rtt: Option<Duration>) {
        if let Some(rtt) = rtt {
            self.min_rtt = Some(rtt);
            self.rate = Rate::over(self.window, rtt).scaled(PACING_SLOW_START);
        }
    }

    pub(super) fn on_ack(&mut self, ack: &Ack) {
        if let Some(sample) = ack.rate {
            let smoothed = Rate::from_bytes_per_s(
                self.bandwidth.bytes_per_s() / 8 * 7 + sample.rate.bytes_per_s() / 8,
            );
            if !sample.app_limited || sample.rate > self.bandwidth {
                self.bandwidth = smoothed;
            }
        }
        if let Some(rtt) = ack.rtt {
            self.min_rtt = Some(self.min_rtt.map_or(rtt, |min| min.min(rtt)));
        }
        if let Some(prr) = &mut self.prr {
            self.window = prr.on_ack(ack.delivered, ack.in_flight, self.mss);
        } else if self.window < self.threshold {
            self.slow_start(ack);
        } else if ack.window_limited {
            self.avoid(ack);
        }
        let gain = if self.window < self.threshold / 2 {
            PACING_SLOW_START
        } else {
            PACING_AVOIDANCE
        };
        if !ack.srtt.is_zero() {
            let window = self.window.max(self.mss);
            self.rate = Rate::over(window, ack.srtt).scaled(gain);
        }
    }

    fn slow_start(&mut self, ack: &Ack) {
        self.hystart_round(ack);
        if !ack.window_limited {
            return;
        }
        let divisor = if self.hystart.conservative.is_some() {
            HYSTART_DIVISOR
        } else {
            1
        };
        let window = self.window + ack.delivered / divisor;
        self.window = window.min(self.threshold.max(self.window));
    }

    /// RFC 9406, 4.2.
    fn hystart_round(&mut self, ack: &Ack) {
        let hystart = &mut self.hystart;
        if let Some(rtt) = ack.rtt {
            hystart.samples += 1;
            hystart.round_min = Some(hystart.round_min.map_or(rtt, |min| min.min(rtt)));
        }
        if let (Some(last), Some(this)) = (hystart.last_round_min, hystart.round_min)
            && hystart.samples >= HYSTART_SAMPLES
        {
            let threshold = (last / 8).clamp(HYSTART_THRESHOLD_MIN, HYSTART_THRESHOLD_MAX);
            match hystart.conservative {
                None if this >= last + threshold => hystart.conservative = Some((0, this)),
                // It was not a queue after all.
                Some((_, base)) if this < base => hystart.conservative = None,
                _ => {}
            }
        }
        if ack.total_delivered < hystart.round_ends {
            return;
        }
        hystart.round_ends = ack.total_delivered + ack.in_flight;
        hystart.last_round_min = hystart.round_min.take().or(hystart.last_round_min);
        hystart.samples = 0;
        if let Some((rounds, _)) = &mut hystart.conservative {
            *rounds += 1;
            if *rounds >= HYSTART_ROUNDS {
                hystart.conservative = None;
                self.threshold = self.window;
            }
        }
    }

    /// RFC 9438, 4.2 to 4.5.
    fn avoid(&mut self, ack: &Ack) {
        let mss = self.mss;
        let (window, origin) = (self.window, self.origin.max(self.window));
        let epoch = self.epoch.get_or_insert_with(|| Epoch {
            began: ack.now,
            // K = cbrt((W_max - cwnd_epoch) / C) with C = 0.4, in ms (4.2).
            k_ms: cube_root(u128::from(origin - window) * 2_500_000_000 / u128::from(mss)),
            reno: window,
            credit: 0,
        });
        self.origin = origin;
        let elapsed = ack.now.since(epoch.began) + ack.srtt;
        let t_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let distance_ms = t_ms.abs_diff(epoch.k_ms).min(1 << 20);
        // C (t - K)^3 in segments is 0.4 * ms^3 / 10^9.
        let cube = u128::from(distance_ms).pow(3) * u128::from(mss) / 2_500_000_000;
        let cube = u64::try_from(cube).unwrap_or(u64::MAX);
        let cubic = if t_ms < epoch.k_ms {
            origin.saturating_sub(cube)
        } else {
            origin.saturating_add(cube)
        };
        // 4.2: the target is at most half as much again.
        let target = cubic.clamp(window, window + window / 2);
        // 4.3: as Reno would have it.
        let alpha = if epoch.reno >= origin { 1000 } else { ALPHA };
        epoch.reno += scale(mss, alpha) * ack.delivered / window.max(1);
        if epoch.reno > cubic {
            self.window = window.max(epoch.reno);
            return;
        }
        epoch.credit += ack.delivered * (target - window) / mss;
        let growth = epoch.credit * mss / window.max(1);
        if growth > 0 {
            epoch.credit = 0;
            self.window += growth;
        }
    }

    fn reduce(&mut self, flight: u64) {
        self.before = Some((self.window, self.threshold, self.origin));
        // 4.7: fast convergence.
        self.origin = if self.window < self.origin {
            scale(self.window, 500 + BETA / 2)
        } else {
            self.window
        };
        // 4.6: of what was in flight, so that a window that was not used is none.
        let base = flight.clamp(self.window / 2, self.window);
        self.threshold = scale(base, BETA).max(SEGMENTS_MIN / 2 * self.mss);
        self.epoch = None;
        self.hystart = HyStart::default();
    }

    pub(super) fn on_congestion(&mut self, _now: Time, in_flight: u64, lost: bool) {
        self.reduce(in_flight);
        if lost {
            let mut prr = Prr::default();
            prr.begin(in_flight, self.threshold);
            self.prr = Some(prr);
        } else {
            self.window = self.threshold;
        }
    }

    pub(super) fn on_timeout(&mut self, _now: Time, in_flight: u64) {
        if self.window > self.mss {
            self.reduce(in_flight.max(self.window / 2));
        }
        self.prr = None;
        self.window = self.mss;
    }

    pub(super) fn on_recovered(&mut self) {
        if self.prr.take().is_some() {
            // RFC 6937, 3: in the end the window is the threshold.
            self.window = self.threshold;
        }
    }

    pub(super) fn on_undo(&mut self) {
        self.prr = None;
        if let Some((window, threshold, origin)) = self.before.take() {
            self.window = self.window.max(window);
            self.threshold = threshold;
            self.origin = origin;
        }
    }

    pub(super) fn on_send(&mut self, now: Time, bytes: u64, idle: Option<Duration>) {
        if let Some(prr) = &mut self.prr {
            prr.on_send(bytes);
        }
        if let (Some(idle), Some(epoch)) = (idle, &mut self.epoch) {
            // 5.8: the curve does not grow while nothing is sent.
            epoch.began = (epoch.began + idle).min(now);
        }
    }

    pub(super) const fn set_mss(&mut self, mss: u64) {
        self.mss = mss;
    }

    pub(super) const fn window(&self) -> u64 {
        self.window
    }

    pub(super) const fn pacing_rate(&self) -> Rate {
        self.rate
    }

    pub(super) const fn bandwidth(&self) -> Rate {
        self.bandwidth
    }

    pub(super) const fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt
    }
}

/// The integer below the cube root.
fn cube_root(value: u128) -> u64 {
    let (mut low, mut high) = (0u64, 1u64 << 42);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if u128::from(middle).pow(3) <= value {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u64 = 1000;

    fn ack(now_ms: u64, delivered: u64) -> Ack {
        Ack {
            now: Time::from_millis(now_ms),
            delivered,
            total_delivered: 0,
            lost: 0,
            in_flight: 0,
            prior_in_flight: 0,
            rtt: None,
            srtt: Duration::from_millis(100),
            rate: None,
            marked: false,
            recovering: false,
            window_limited: true,
            mss: MSS,
        }
    }

    #[test]
    fn roots() {
        assert_eq!(cube_root(0), 0);
        for root in [1u64, 2, 10, 1000, 4217, 1 << 41] {
            assert_eq!(cube_root(u128::from(root).pow(3)), root);
            assert_eq!(cube_root(u128::from(root).pow(3) + 1), root);
        }
    }

    /// RFC 9438, 4.2 and 4.6: down to 0.7, then back to W_max after K seconds with a
    /// plateau there, then beyond.
    #[test]
    fn rfc_9438_the_curve() {
        let mut cubic = Cubic::new(MSS);
        cubic.window = 1000 * MSS;
        cubic.threshold = 0;
        cubic.on_congestion(Time::ZERO, 1000 * MSS, false);
        assert_eq!(cubic.window(), 700 * MSS);
        // K = cbrt(300 / 0.4) = 9.09 s.
        let mut at = Vec::new();
        for round in 0..150u64 {
            // A window a round trip, in pieces.
            for part in 0..20 {
                let window = cubic.window();
                cubic.on_ack(&ack(round * 100 + part * 5, window / 20));
            }
            at.push(cubic.window() / MSS);
        }
        assert!(
            (930..=975).contains(&at[44]),
            "halfway it is nearly there: {}",
            at[44]
        );
        assert!((990..=1003).contains(&at[90]), "at K: {}", at[90]);
        assert!(at[149] > 1050, "beyond: {}", at[149]);
        assert!(at.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn rfc_9438_undo_and_timeout() {
        let mut cubic = Cubic::new(MSS);
        cubic.window = 100 * MSS;
        cubic.on_timeout(Time::ZERO, 100 * MSS);
        assert_eq!(cubic.window(), MSS);
        cubic.on_undo();
        assert_eq!(cubic.window(), 100 * MSS);
    }
}

//! When the next burst may go out.
//!
//! What always holds: over any time longer than a burst's, no more goes out than the rate
//! allows; a caller that comes late may catch up by 2 ms and no more.
//!
//! Not for: the rate ([`crate::control`]), or timers (the worker's wheel).

use crate::rate::Rate;
use sluice_proto::Time;
use std::time::Duration;

/// What a caller whose timers are coarse does not lose.
const CREDIT_NANOS: u64 = 2_000_000;

/// The time that one burst is sized for: long enough for segmentation offload to pay,
/// short beside any WAN's round trip.
const BURST: Duration = Duration::from_millis(1);

/// What one frame of a port with offload holds.
const BURST_BYTES_MAX: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, Default)]
pub struct Pacer {
    next_at: Time,
}

impl Pacer {
    /// When the next burst may go.
    #[must_use]
    pub const fn next_at(&self) -> Time {
        self.next_at
    }

    #[must_use]
    pub fn is_ready(&self, now: Time) -> bool {
        self.next_at <= now
    }

    /// So much went out.
    pub fn on_send(&mut self, now: Time, bytes: u64, rate: Rate) {
        let from = self.next_at.as_nanos();
        let credit = Time::from_nanos(now.as_nanos().saturating_sub(CREDIT_NANOS));
        self.next_at = Time::from_nanos(from).max(credit) + rate.time_for(bytes);
    }

    /// The size of a burst: two segments at least, so that a delayed acknowledgement
    /// is not waited for.
    #[must_use]
    pub fn burst_bytes(rate: Rate, mss: u64) -> u64 {
        rate.bytes_in(BURST).clamp(2 * mss, BURST_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_faster_than_the_rate_and_little_is_caught_up() {
        let rate = Rate::from_bytes_per_s(12_500_000);
        let mut pacer = Pacer::default();
        let (mut now, mut sent) = (Time::from_millis(1000), 0u64);
        while now < Time::from_millis(2000) {
            while pacer.is_ready(now) {
                pacer.on_send(now, 12_500, rate);
                sent += 12_500;
            }
            now += Duration::from_micros(700);
        }
        assert!((12_450_000..12_560_000).contains(&sent), "{sent}");
        now += Duration::from_millis(500);
        let mut late = 0;
        while pacer.is_ready(now) {
            pacer.on_send(now, 12_500, rate);
            late += 1;
        }
        assert_eq!(late, 3, "2 ms of credit and the burst that is due");
    }

    #[test]
    fn bursts() {
        let burst = |bytes_per_s| Pacer::burst_bytes(Rate::from_bytes_per_s(bytes_per_s), 1448);
        assert_eq!(burst(1000), 2896);
        assert_eq!(burst(12_500_000), 12_500);
        assert_eq!(burst(1_250_000_000), 65_536);
    }
}

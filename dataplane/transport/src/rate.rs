//! How fast data is delivered: a sample an acknowledgement, from what was delivered
//! between a segment's departure and its acknowledgement.
//!
//! What always holds: a sample's interval is the longer of the time that the flight took
//! to be sent and to be acknowledged, so neither a burst of segments nor one of
//! acknowledgements makes a path look faster than it is; a sample taken while the
//! sender had nothing to send says so.
//!
//! Not for: filtering samples ([`crate::control`]).

use sluice_proto::Time;
use std::time::Duration;

/// Bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub const fn from_bytes_per_s(bytes_per_s: u64) -> Self {
        Self(bytes_per_s)
    }

    #[must_use]
    pub const fn bytes_per_s(self) -> u64 {
        self.0
    }

    /// `bytes` in so long a time; the highest rate there is if there is no time.
    #[must_use]
    pub fn over(bytes: u64, interval: Duration) -> Self {
        let scaled = u128::from(bytes) * 1_000_000_000;
        let rate = scaled.checked_div(interval.as_nanos());
        Self(rate.map_or(u64::MAX, saturate))
    }

    /// How long `bytes` take.
    #[must_use]
    pub fn time_for(self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.0.max(1));
        Duration::from_nanos(saturate(nanos))
    }

    /// What goes in so long a time.
    #[must_use]
    pub fn bytes_in(self, interval: Duration) -> u64 {
        saturate(u128::from(self.0) * interval.as_nanos() / 1_000_000_000)
    }

    #[must_use]
    pub fn scaled(self, per_mille: u32) -> Self {
        Self(scale(self.0, per_mille))
    }
}

/// `value` times so many thousandths.
#[must_use]
pub fn scale(value: u64, per_mille: u32) -> u64 {
    saturate(u128::from(value) * u128::from(per_mille) / 1000)
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// What a segment takes along when it is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    delivered: u64,
    delivered_at: Time,
    first_sent_at: Time,
    app_limited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateSample {
    pub rate: Rate,
    /// Delivered in all when the segment was sent: ends a round trip once all of that is
    /// acknowledged.
    pub prior_delivered: u64,
    /// Delivered within the sample's interval.
    pub delivered: u64,
    pub app_limited: bool,
}

/// The connection's side of it.
#[derive(Clone, Debug, Default)]
pub struct Sampler {
    delivered: u64,
    delivered_at: Time,
    /// When the oldest segment of the flight being measured was sent.
    first_sent_at: Time,
    /// Samples are limited by the sender until this much is delivered.
    app_limited_until: u64,
    /// And by its buffer.
    buffer_limited_until: u64,
    /// Of the newest segment that this acknowledgement delivered.
    newest: Option<(Time, u64, Snapshot)>,
}

impl Sampler {
    pub fn on_send(&mut self, now: Time, in_flight: u64) -> Snapshot {
        if in_flight == 0 {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        Snapshot {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            app_limited: self.app_limited_until > 0,
        }
    }

    /// A segment, or the part of it up to `end`, has been delivered.
    pub fn on_delivered(
        &mut self,
        now: Time,
        bytes: u32,
        sent_at: Time,
        end: u64,
        snapshot: &Snapshot,
    ) {
        self.delivered += u64::from(bytes);
        self.delivered_at = now;
        if self
            .newest
            .is_none_or(|(at, newest_end, _)| (sent_at, end) > (at, newest_end))
        {
            self.newest = Some((sent_at, end, *snapshot));
        }
    }

    /// Closes an acknowledgement: the sample of all that it delivered, if it delivered.
    pub fn sample(&mut self, min_rtt: Duration) -> Option<RateSample> {
        for until in [&mut self.app_limited_until, &mut self.buffer_limited_until] {
            if self.delivered > *until {
                *until = 0;
            }
        }
        let (sent_at, _, snapshot) = self.newest.take()?;
        self.first_sent_at = self.first_sent_at.max(sent_at);
        let send_interval = sent_at.since(snapshot.first_sent_at);
        let ack_interval = self.delivered_at.since(snapshot.delivered_at);
        let interval = send_interval.max(ack_interval);
        // Shorter than any round trip: several acknowledgements at once, or a lie.
        if interval < min_rtt || interval.is_zero() {
            return None;
        }
        let delivered = self.delivered - snapshot.delivered;
        Some(RateSample {
            rate: Rate::over(delivered, interval),
            prior_delivered: snapshot.delivered,
            delivered,
            app_limited: snapshot.app_limited,
        })
    }

    /// There is nothing to send though there is room in the window.
    pub fn set_app_limited(&mut self, in_flight: u64) {
        self.app_limited_until = (self.delivered + in_flight).max(1);
    }

    /// All that the buffer holds is out though there is room in the window: what is
    /// measured is the path's if a queue has grown on it, and else the buffer's.
    pub fn set_buffer_limited(&mut self, in_flight: u64) {
        self.buffer_limited_until = (self.delivered + in_flight).max(1);
    }

    #[must_use]
    pub const fn is_buffer_limited(&self) -> bool {
        self.buffer_limited_until > 0
    }

    /// Bytes delivered in all, each once.
    #[must_use]
    pub const fn delivered(&self) -> u64 {
        self.delivered
    }

    #[must_use]
    pub const fn is_app_limited(&self) -> bool {
        self.app_limited_until > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flight_is_measured_at_the_rate_of_its_acknowledgements() {
        let mut sampler = Sampler::default();
        let ms = Time::from_millis;
        // A burst of ten, acknowledged one a millisecond from 40 ms on.
        let sent: Vec<_> = (0..10).map(|n| sampler.on_send(ms(0), n * 1000)).collect();
        let mut last = None;
        for (n, snapshot) in (0..).zip(&sent) {
            sampler.on_delivered(ms(40 + n), 1000, ms(0), 1000 * (n + 1), snapshot);
            last = sampler.sample(Duration::from_millis(40));
        }
        let first = last.unwrap();
        assert_eq!(first.delivered, 10_000);
        assert_eq!(first.rate, Rate::over(10_000, Duration::from_millis(49)));
        // Sent as they were acknowledged: now the rate of the path shows.
        let snapshot = sampler.on_send(ms(49), 1000);
        sampler.on_delivered(ms(89), 1000, ms(49), 11_000, &snapshot);
        let sample = sampler.sample(Duration::from_millis(40)).unwrap();
        assert_eq!(sample.prior_delivered, 10_000);
        assert!(!sample.app_limited);
    }

    #[test]
    fn a_sender_without_data_says_so_until_what_it_had_is_delivered() {
        let mut sampler = Sampler::default();
        let first = sampler.on_send(Time::ZERO, 0);
        sampler.set_app_limited(1000);
        let second = sampler.on_send(Time::ZERO, 1000);
        let at = Time::from_millis(10);
        sampler.on_delivered(at, 1000, Time::ZERO, 1000, &first);
        assert!(!sampler.sample(Duration::ZERO).unwrap().app_limited);
        sampler.on_delivered(at, 1000, Time::ZERO, 2000, &second);
        assert!(sampler.sample(Duration::ZERO).unwrap().app_limited);
        assert!(!sampler.is_app_limited());
    }

    #[test]
    fn rates() {
        let rate = Rate::from_bytes_per_s(12_500_000);
        assert_eq!(rate.time_for(1500), Duration::from_micros(120));
        assert_eq!(rate.bytes_in(Duration::from_millis(40)), 500_000);
        assert_eq!(rate.scaled(1250).bytes_per_s(), 15_625_000);
        assert_eq!(Rate::over(1, Duration::ZERO).bytes_per_s(), u64::MAX);
    }
}

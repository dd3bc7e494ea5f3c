//! How quickly a volume's storage answers, and how fast its bytes come
//! and go.
//!
//! Nothing allocates and a sample costs the same however many came before:
//! response times are counted in buckets of fixed bounds, rates are kept from
//! counters. Not for: what follows from it; that is the flush policy's.

use std::time::Duration;

use sluice_proto::Time;

/// Buckets of an eighth of a power of two: the first eight hold one microsecond each.
const SUB_BUCKETS: usize = 8;
const SUB_BITS: u32 = SUB_BUCKETS.ilog2();
/// The last bucket begins below 2^28 µs (268 s): no command is waited for that long.
const EXPONENT_MAX: u32 = 27;
const BUCKETS: usize = (EXPONENT_MAX - SUB_BITS + 2) as usize * SUB_BUCKETS;

/// Percentiles are of one to two windows.
const WINDOW: Duration = Duration::from_secs(10);

/// What the storage takes at rest is the shortest of one to two of these.
const REST_WINDOW: Duration = Duration::from_secs(300);

/// Between two samples of the rates; each is a quarter of what is shown, so
/// that a change of the rate shows within some two seconds.
const RATE_PERIOD: Duration = Duration::from_millis(500);

/// Response times of the storage to a volume's requests.
#[derive(Clone, Debug)]
pub struct Load {
    /// One eighth new; before the first what the login took.
    smoothed: Duration,
    newest: [u32; BUCKETS],
    before: [u32; BUCKETS],
    /// When the newest window began.
    begun: Time,
    /// The shortest of the newest window and of the one before, and when the newest began.
    shortest: (Duration, Duration),
    shortest_since: Time,
}

impl Load {
    pub const fn new(now: Time) -> Self {
        Self {
            shortest: (Duration::MAX, Duration::MAX),
            shortest_since: now,
            smoothed: Duration::ZERO,
            newest: [0; BUCKETS],
            before: [0; BUCKETS],
            begun: now,
        }
    }

    /// How long the storage took to let the relay in: all that is known
    /// until a request has been answered.
    pub fn begin(&mut self, login_response: Duration) {
        if self.smoothed.is_zero() {
            self.smoothed = login_response;
        }
    }

    /// A request that was answered now.
    pub fn sample(&mut self, now: Time, response: Duration) {
        self.smoothed = if self.smoothed.is_zero() {
            response
        } else {
            (self.smoothed * 7 + response) / 8
        };
        if now.since(self.begun) >= WINDOW {
            self.before = std::mem::replace(&mut self.newest, [0; BUCKETS]);
            self.begun = now;
        }
        if now.since(self.shortest_since) >= REST_WINDOW {
            self.shortest = (Duration::MAX, self.shortest.0);
            self.shortest_since = now;
        }
        self.shortest.0 = self.shortest.0.min(response);
        let bucket = &mut self.newest[bucket_of(response)];
        *bucket = bucket.saturating_add(1);
    }

    /// What the storage takes when nothing burdens it: the shortest response time of the
    /// last five minutes and more; zero before the first.
    pub fn at_rest(&self) -> Duration {
        let shortest = self.shortest.0.min(self.shortest.1);
        if shortest == Duration::MAX {
            Duration::ZERO
        } else {
            shortest
        }
    }

    /// The smoothed response time; zero before the first login.
    pub const fn smoothed(&self) -> Duration {
        self.smoothed
    }

    /// The response time that so many thousandths of the newest requests did not
    /// exceed, an eighth too long at most; zero before the first. Of the window
    /// that is not over and the one before, so of at least 10 s with requests.
    pub fn permille(&self, permille: u64) -> Duration {
        let both = || self.newest.iter().zip(&self.before);
        let sum = |(newest, before): (&u32, &u32)| u64::from(*newest) + u64::from(*before);
        let total: u64 = both().map(sum).sum();
        let rank = (total * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        let reaches = |count| {
            seen += count;
            seen >= rank
        };
        both()
            .map(sum)
            .position(reaches)
            .map_or(Duration::ZERO, longest_of)
    }
}

fn bucket_of(response: Duration) -> usize {
    let us = u64::try_from(response.as_micros()).unwrap_or(u64::MAX);
    let us = us.min((1 << (EXPONENT_MAX + 1)) - 1);
    let exponent = us.max(1).ilog2().max(SUB_BITS) - SUB_BITS;
    let within = usize::try_from(us >> exponent).expect("below 2 * SUB_BUCKETS");
    exponent as usize * SUB_BUCKETS + within
}

/// The longest response time of a bucket.
fn longest_of(bucket: usize) -> Duration {
    let exponent = (bucket / SUB_BUCKETS).saturating_sub(1);
    let within = bucket - exponent * SUB_BUCKETS;
    Duration::from_micros(((within as u64 + 1) << exponent) - 1)
}

/// What a volume's bytes did, since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Written by computers.
    pub written: u64,
    /// Durable at the storage.
    pub flushed: u64,
    /// Never sent, because newer ones of their epoch hid them.
    pub superseded: u64,
}

/// The same a second, smoothed.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    at: Time,
    seen: Moved,
    per_s: Moved,
}

impl Rates {
    pub fn new(now: Time) -> Self {
        Self {
            at: now,
            seen: Moved::default(),
            per_s: Moved::default(),
        }
    }

    /// Takes the counters' state, if it is time to.
    pub fn sample(&mut self, now: Time, moved: Moved) {
        let passed = now.since(self.at);
        if passed < RATE_PERIOD {
            return;
        }
        let smooth = |per_s: &mut u64, seen: u64, count: u64| {
            let second = u128::from(count.saturating_sub(seen)) * 1_000_000_000;
            let newest = u64::try_from(second / passed.as_nanos()).unwrap_or(u64::MAX);
            *per_s = per_s.saturating_mul(3).saturating_add(newest) / 4;
        };
        smooth(&mut self.per_s.written, self.seen.written, moved.written);
        smooth(&mut self.per_s.flushed, self.seen.flushed, moved.flushed);
        smooth(
            &mut self.per_s.superseded,
            self.seen.superseded,
            moved.superseded,
        );
        (self.at, self.seen) = (now, moved);
    }

    pub const fn per_s(&self) -> Moved {
        self.per_s
    }

    /// Bytes a second by which the volume's share of the cache grows; negative, shrinks.
    pub fn growth(&self) -> i128 {
        let Moved {
            written,
            flushed,
            superseded,
        } = self.per_s;
        i128::from(written) - i128::from(flushed) - i128::from(superseded)
    }
}

/// Milliseconds until so many bytes are gone at that many a second; `None` if never.
pub fn ms_until(bytes: u64, per_s: i128) -> Option<u64> {
    if bytes == 0 {
        return Some(0);
    }
    let per_s = u128::try_from(per_s).ok().filter(|&per_s| per_s > 0)?;
    Some(u64::try_from(u128::from(bytes) * 1000 / per_s).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a16_every_response_time_has_its_bucket() {
        let mut last = 0;
        let powers = (13..=EXPONENT_MAX).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit]);
        for us in (0..8_000).chain(powers) {
            let response = Duration::from_micros(us);
            let bucket = bucket_of(response);
            assert!(bucket < BUCKETS && bucket >= last, "{us}");
            assert!(us > 8_000 || bucket <= last + 1, "{us}");
            last = bucket;
            let longest = longest_of(bucket);
            assert!(longest >= response, "{us}");
            let eighth_more = u128::from(us) * 9 / 8;
            assert!(longest.as_micros() <= eighth_more, "{us}: {longest:?}");
        }
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn a16_percentiles_are_of_the_newest_requests() {
        let at = |s: u64| Time::from_millis(1000 * s);
        let mut load = Load::new(at(0));
        assert_eq!(load.permille(990), Duration::ZERO);
        for _ in 0..98 {
            load.sample(at(1), Duration::from_millis(2));
        }
        for _ in 0..2 {
            load.sample(at(1), Duration::from_millis(80));
        }
        let near = |load: &Load, permille: u64, ms: u64| {
            let (low, high) = (Duration::from_millis(ms), Duration::from_millis(ms) * 9 / 8);
            let found = load.permille(permille);
            assert!(found >= low && found <= high, "{permille}: {found:?}");
        };
        near(&load, 500, 2);
        near(&load, 980, 2);
        near(&load, 990, 80);
        assert!(load.smoothed() > Duration::from_millis(2));
        // Two windows later the slow ones count no more.
        load.sample(at(11), Duration::from_millis(3));
        near(&load, 990, 80);
        load.sample(at(21), Duration::from_millis(3));
        near(&load, 990, 3);
    }

    #[test]
    fn a18_at_rest_is_the_shortest_of_late() {
        let at = |s: u64| Time::from_millis(1000 * s);
        let mut load = Load::new(at(0));
        assert_eq!(load.at_rest(), Duration::ZERO);
        load.sample(at(1), Duration::from_millis(7));
        load.sample(at(2), Duration::from_millis(50));
        assert_eq!(load.at_rest(), Duration::from_millis(7));
        load.sample(at(301), Duration::from_millis(50));
        assert_eq!(load.at_rest(), Duration::from_millis(7));
        load.sample(at(602), Duration::from_millis(60));
        assert_eq!(load.at_rest(), Duration::from_millis(50));
    }

    #[test]
    fn rates_follow_the_counters() {
        let mut rates = Rates::new(Time::ZERO);
        let mut moved = Moved::default();
        for tenth in 1..=200 {
            moved.written += 100_000;
            moved.flushed += 60_000;
            moved.superseded += 10_000;
            rates.sample(Time::from_millis(tenth * 100), moved);
        }
        let near = |rate: u64, wanted: u64| rate.abs_diff(wanted) <= wanted / 100;
        assert!(near(rates.per_s().written, 1_000_000));
        assert!(near(rates.per_s().flushed, 600_000));
        assert!(near(rates.per_s().superseded, 100_000));
        assert!((290_000..=310_000).contains(&rates.growth()));
        for second in 21..=120 {
            rates.sample(Time::from_millis(second * 1000), moved);
        }
        assert_eq!(rates.per_s(), Moved::default(), "nothing moves any more");
    }

    #[test]
    fn what_does_not_move_is_never_done() {
        assert_eq!(ms_until(1000, 500), Some(2000));
        assert_eq!(ms_until(1000, 0), None);
        assert_eq!(ms_until(1000, -5), None);
        assert_eq!(ms_until(0, -5), Some(0));
        assert_eq!(ms_until(u64::MAX, 1), Some(u64::MAX));
    }
}

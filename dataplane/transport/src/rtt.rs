//! Round-trip time and the retransmission timeout (RFC 6298).
//!
//! What always holds: the timeout lies between [`RTO_MIN`] and [`RTO_MAX`], backed off
//! or not; the smallest round trip is of the last 10 to 20 s, so a path that has become
//! longer is believed in the end.
//!
//! Not for: which acknowledgement is a valid sample (Karn's rule: the scoreboard).

use sluice_proto::Time;
use std::time::Duration;

/// Lower than RFC 6298's (2.4) whole second, as everyone's is.
pub const RTO_MIN: Duration = Duration::from_millis(200);

/// RFC 6298, 2.5.
pub const RTO_MAX: Duration = Duration::from_secs(60);

/// Before there is a sample (RFC 6298, 2.1).
const RTO_INITIAL: Duration = Duration::from_secs(1);

/// The clock's granularity G, and the least that a variance adds.
const GRANULARITY: Duration = Duration::from_millis(1);

/// Half the age at which a smallest round trip is forgotten.
const MIN_BUCKET: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Rtt {
    srtt: Option<Duration>,
    rttvar: Duration,
    latest: Option<Duration>,
    /// Smallest of this bucket of time and of the one before.
    minima: [Option<Duration>; 2],
    bucket_began: Time,
    backoff: u32,
}

impl Rtt {
    #[must_use]
    pub const fn new() -> Self {
        Self {
            srtt: None,
            rttvar: Duration::ZERO,
            latest: None,
            minima: [None; 2],
            bucket_began: Time::ZERO,
            backoff: 0,
        }
    }

    /// Takes a sample. `samples_a_round`: how many come in a round trip; each then counts
    /// for less, or the estimate would remember less than one round (RFC 7323, appendix G).
    pub fn sample(&mut self, now: Time, rtt: Duration, samples_a_round: u32) {
        let rtt = rtt.max(Duration::from_micros(1));
        self.latest = Some(rtt);
        self.backoff = 0;
        if now.since(self.bucket_began) >= MIN_BUCKET {
            self.minima = [None, self.minima[0]];
            self.bucket_began = now;
        }
        self.minima[0] = Some(self.minima[0].map_or(rtt, |min| min.min(rtt)));
        let Some(srtt) = self.srtt else {
            // RFC 6298, 2.2.
            self.srtt = Some(rtt);
            self.rttvar = rtt / 2;
            return;
        };
        // RFC 6298, 2.3: the variance first, with the old SRTT.
        let samples = samples_a_round.clamp(1, 1024);
        let (alpha, beta) = (8 * samples, 4 * samples);
        self.rttvar = self.rttvar - self.rttvar / beta + srtt.abs_diff(rtt) / beta;
        self.srtt = Some(srtt - srtt / alpha + rtt / alpha);
    }

    /// The timeout, backed off (RFC 6298, 5.5).
    #[must_use]
    pub fn rto(&self) -> Duration {
        let base = match self.srtt {
            None => RTO_INITIAL,
            Some(srtt) => srtt + (self.rttvar * 4).max(GRANULARITY),
        };
        base.clamp(RTO_MIN, RTO_MAX)
            .saturating_mul(1 << self.backoff.min(16))
            .min(RTO_MAX)
    }

    /// A timeout has passed (RFC 6298, 5.5).
    pub const fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    /// The timeout was one too early, or what it was for has been answered.
    pub const fn forget_backoff(&mut self) {
        self.backoff = 0;
    }

    #[must_use]
    pub const fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    #[must_use]
    pub const fn rttvar(&self) -> Duration {
        self.rttvar
    }

    #[must_use]
    pub const fn latest(&self) -> Option<Duration> {
        self.latest
    }

    #[must_use]
    pub fn min(&self) -> Option<Duration> {
        match self.minima {
            [Some(this), Some(last)] => Some(this.min(last)),
            [this, last] => this.or(last),
        }
    }
}

impl Default for Rtt {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn rfc_6298_section_2() {
        let mut rtt = Rtt::new();
        assert_eq!(rtt.rto(), ms(1000), "2.1");
        rtt.sample(Time::ZERO, ms(400), 1);
        // 2.2: SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 RTTVAR.
        assert_eq!((rtt.srtt(), rtt.rttvar()), (Some(ms(400)), ms(200)));
        assert_eq!(rtt.rto(), ms(1200));
        rtt.sample(Time::ZERO, ms(480), 1);
        // 2.3: RTTVAR = 3/4 * 200 + 1/4 * |400 - 480|, SRTT = 7/8 * 400 + 1/8 * 480.
        assert_eq!((rtt.srtt(), rtt.rttvar()), (Some(ms(410)), ms(170)));
        assert_eq!(rtt.rto(), ms(410 + 680));
    }

    #[test]
    fn rfc_6298_section_5_backs_off_up_to_a_minute() {
        let mut rtt = Rtt::new();
        rtt.sample(Time::ZERO, ms(100), 1);
        assert_eq!(rtt.rto(), ms(300));
        for expected_ms in [600, 1200, 2400, 4800, 9600, 19_200, 38_400, 60_000, 60_000] {
            rtt.back_off();
            assert_eq!(rtt.rto(), ms(expected_ms));
        }
        rtt.sample(Time::ZERO, ms(100), 1);
        assert!(rtt.rto() < ms(300), "a sample ends it");
    }

    #[test]
    fn the_timeout_has_a_floor() {
        let mut rtt = Rtt::new();
        for _ in 0..100 {
            rtt.sample(Time::ZERO, ms(1), 1);
        }
        assert_eq!(rtt.rto(), RTO_MIN);
    }

    #[test]
    fn many_samples_a_round_remember_as_long_as_one() {
        let (mut one, mut many) = (Rtt::new(), Rtt::new());
        one.sample(Time::ZERO, ms(100), 1);
        many.sample(Time::ZERO, ms(100), 1);
        for _ in 0..8 {
            one.sample(Time::ZERO, ms(200), 1);
            for _ in 0..50 {
                many.sample(Time::ZERO, ms(200), 50);
            }
        }
        let (one, many) = (one.srtt().unwrap(), many.srtt().unwrap());
        assert!(one.abs_diff(many) < ms(8), "{one:?} {many:?}");
    }

    #[test]
    fn the_smallest_is_forgotten() {
        let mut rtt = Rtt::new();
        rtt.sample(Time::ZERO, ms(20), 1);
        for second in 1..=9 {
            rtt.sample(Time::from_millis(second * 1000), ms(120), 1);
        }
        assert_eq!(rtt.min(), Some(ms(20)));
        for second in 10..=21 {
            rtt.sample(Time::from_millis(second * 1000), ms(120), 1);
        }
        assert_eq!(rtt.min(), Some(ms(120)));
    }
}

//! The path's round trip without a queue, and when to look for it.

use super::super::Ack;
use sluice_proto::Time;
use std::time::Duration;

/// The smallest round trip is believed for so long.
const AGE_MAX: Duration = Duration::from_secs(10);

/// A sample so near (in percent) is the smallest again.
const NEAR_PERCENT: u32 = 103;

/// How long the flight is small when the round trip is looked for.
const PROBE: Duration = Duration::from_millis(200);

/// Rounds in a row above [`GROWN_PERCENT`] of the smallest that make it doubtful.
const GROWN_ROUNDS: u32 = 3;
const GROWN_PERCENT: u32 = 150;

/// The round trip that stays above so much of what it was, with half the flight, is the path's.
const KEPT_PERCENT: u32 = 90;

/// Longer than the round trip with a queue of two bandwidth-delay products.
const ANOTHER_PATH_PERCENT: u32 = 300;

/// Between two doubts.
const DOUBT_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
struct Probe {
    /// Why: the round trip has grown to so much. None: it was only time.
    grown_to: Option<Duration>,
    /// Once the flight is small: since when, and the round then.
    low_since: Option<(Time, u64)>,
    min: Option<Duration>,
}

/// How far a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    Goes,
    Over,
    /// And the round trip is so much longer than was believed that no queue of others
    /// makes it so: the path is another one.
    Grown,
}

#[derive(Clone, Debug, Default)]
pub(super) struct MinRtt {
    min: Option<Duration>,
    at: Time,
    grown_rounds: u32,
    /// The smallest since the round trip has grown.
    grown_min: Option<Duration>,
    doubted_at: Option<Time>,
    probe: Option<Probe>,
}

impl MinRtt {
    pub const fn get(&self) -> Option<Duration> {
        self.min
    }

    pub fn sample(&mut self, now: Time, rtt: Duration) {
        if let Some(probe) = &mut self.probe
            && probe.low_since.is_some()
        {
            probe.min = Some(probe.min.map_or(rtt, |min| min.min(rtt)));
        }
        match self.min {
            Some(min) if rtt > min * NEAR_PERCENT / 100 => {}
            Some(min) => {
                self.min = Some(min.min(rtt));
                self.at = now;
            }
            None => {
                self.min = Some(rtt);
                self.at = now;
            }
        }
    }

    /// A round is over; `smallest` is its own.
    pub fn on_round(&mut self, smallest: Option<Duration>) {
        let (Some(smallest), Some(min)) = (smallest, self.min) else {
            return;
        };
        if smallest * 100 < min * GROWN_PERCENT {
            self.grown_rounds = 0;
            self.grown_min = None;
            return;
        }
        self.grown_rounds += 1;
        self.grown_min = Some(self.grown_min.map_or(smallest, |grown| grown.min(smallest)));
    }

    pub fn wants_probe(&self, now: Time, filled: bool) -> bool {
        let old = now.since(self.at) > AGE_MAX;
        let rested = self
            .doubted_at
            .is_none_or(|at| now.since(at) > DOUBT_INTERVAL);
        let grown = self.grown_rounds >= GROWN_ROUNDS && rested;
        self.min.is_some() && (old || grown && filled)
    }

    pub fn begin_probe(&mut self, now: Time) {
        let old = now.since(self.at) > AGE_MAX;
        let grown_to = self.grown_min.filter(|_| !old);
        self.doubted_at = Some(now);
        self.probe = Some(Probe {
            grown_to,
            low_since: None,
            min: None,
        });
    }

    /// `low`: the flight is small now.
    pub fn advance_probe(&mut self, ack: &Ack, low: bool, round: u64) -> Probed {
        let Some(probe) = &mut self.probe else {
            return Probed::Over;
        };
        let Some((since, first_round)) = probe.low_since else {
            if low {
                probe.low_since = Some((ack.now, round));
            }
            return Probed::Goes;
        };
        // A doubt needs a round trip to settle, the smallest round trip a queue's emptying.
        let time = if probe.grown_to.is_some() {
            Duration::ZERO
        } else {
            PROBE
        };
        if ack.now.since(since) < time || round < first_round + 2 {
            return Probed::Goes;
        }
        let (grown_to, min) = (probe.grown_to, probe.min);
        self.probe = None;
        self.grown_rounds = 0;
        self.grown_min = None;
        let believed =
            grown_to.is_none_or(|grown| min.is_some_and(|min| min * 100 >= grown * KEPT_PERCENT));
        let before = self.min.unwrap_or_default();
        if let Some(min) = min.filter(|_| believed) {
            self.min = Some(min);
            self.at = ack.now;
        }
        let far = min.is_some_and(|min| min * 100 >= before * ANOTHER_PATH_PERCENT);
        if believed && grown_to.is_some() && far {
            Probed::Grown
        } else {
            Probed::Over
        }
    }

    /// Nothing was in flight for so long.
    pub fn on_idle(&mut self, now: Time, idle: Duration) {
        if self.min.is_some_and(|min| idle >= min) && now.since(self.at) > AGE_MAX {
            self.at = now;
        }
    }
}

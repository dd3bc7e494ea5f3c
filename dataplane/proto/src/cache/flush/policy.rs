//! When a volume is flushed.

use std::time::Duration;

use crate::Time;

/// The operator's settings for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Above this many dirty bytes a flush begins.
    pub threshold_bytes: u64,
    /// And goes on until no more than this many are left; not set: half as many.
    pub stop_bytes: Option<u64>,
    /// It begins too when this has passed since the last flush ended, or since the
    /// volume has had something to flush, whichever is later; then it goes on until all that
    /// had arrived by then is durable. What arrives meanwhile has its own period: a
    /// block that is written again and again is joined for so long.
    pub period: Duration,
    /// The same begins earlier when nothing has been written for so long; zero: never.
    pub idle: Duration,
    /// Above this response time of the storage the volume is skipped; 0: never.
    pub load_limit_ms: u64,
    /// The same, as a share of the response time at rest; 0: never.
    pub load_limit_percent: u64,
}

impl FlushPolicy {
    /// Nothing is due but what is asked for: what settings are laid over.
    pub const BY_REQUEST: Self = Self {
        threshold_bytes: u64::MAX,
        stop_bytes: None,
        period: Duration::MAX,
        idle: Duration::ZERO,
        load_limit_ms: 0,
        load_limit_percent: 0,
    };

    /// Where a flush by threshold ends: above the threshold it would begin again at once.
    #[must_use]
    pub fn stop_bytes(&self) -> u64 {
        let half = self.threshold_bytes / 2;
        self.stop_bytes.unwrap_or(half).min(self.threshold_bytes)
    }

    /// For how long what is left alone may wait for its flush.
    #[must_use]
    pub fn left_alone_max(&self) -> Duration {
        match self.idle {
            Duration::ZERO => self.period,
            idle => self.period.min(idle),
        }
    }

    /// The response time above which the volume is skipped: the lower of both limits.
    #[must_use]
    pub fn load_limit(&self, at_rest: Duration) -> Option<Duration> {
        let absolute = (self.load_limit_ms > 0).then(|| Duration::from_millis(self.load_limit_ms));
        let percent = u32::try_from(self.load_limit_percent).unwrap_or(u32::MAX);
        let relative =
            (percent > 0 && !at_rest.is_zero()).then(|| at_rest.saturating_mul(percent) / 100);
        absolute.into_iter().chain(relative).min()
    }
}

/// What the decision looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeView {
    /// A session towards the storage is up.
    pub connected: bool,
    pub dirty_bytes: u64,
    /// When the oldest of them arrived, and its place in the order of arrival.
    pub oldest_dirty: Option<(Time, u64)>,
    /// When the newest record arrived, if any is dirty.
    pub newest_dirty: Option<Time>,
    /// The place of the newest record ever.
    pub newest_sequence: u64,
    /// Response time of recent requests, and at rest.
    pub load: Duration,
    pub load_at_rest: Duration,
    /// The cache is so full that a skipped volume must go on at the floor rate.
    pub near_full: bool,
    /// What was asked for is durable: [`super::FlushQueue::durable_through`] it.
    pub ask_done: bool,
}

/// What to do with a volume now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nothing is due.
    Rest,
    /// A flush is due, but the storage is loaded: sample its load with a small
    /// probe.
    Skip,
    /// As [`Pace::Skip`], but the cache is near full: flush at the floor rate.
    Floor,
    Flow,
}

/// A volume's flush, going or not. Keeps no clock: call [`FlushGate::pace`] often.
#[derive(Clone, Copy, Debug)]
pub struct FlushGate {
    /// A flush goes on to [`FlushPolicy::stop_bytes`].
    above_threshold: bool,
    /// A flush by period or idle time goes on through this sequence.
    period_through: Option<u64>,
    /// When the last flush ended.
    last: Time,
    /// Since when there has been something to flush: not the oldest record's age, which
    /// one that is written over and over takes with it.
    dirty_since: Option<Time>,
    /// The sequence through which someone asked for a flush (A-25, the CLI, a
    /// command that waits for it).
    asked: Option<u64>,
    /// The load is above its limit, and has not been well below it since.
    loaded: bool,
}

impl FlushGate {
    #[must_use]
    pub const fn new(now: Time) -> Self {
        Self {
            above_threshold: false,
            period_through: None,
            last: now,
            dirty_since: None,
            asked: None,
            loaded: false,
        }
    }

    /// Whether the volume is skipped for its storage's load, if a flush is due.
    #[must_use]
    pub const fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Flush everything up to and with `sequence`, whatever the load.
    pub fn ask(&mut self, sequence: u64) {
        self.asked = self.asked.max(Some(sequence));
    }

    /// The sequence still asked for.
    #[must_use]
    pub const fn asked(&self) -> Option<u64> {
        self.asked
    }

    const fn is_running(&self) -> bool {
        self.above_threshold || self.period_through.is_some()
    }

    /// What a flush that goes on now is for: no record behind this sequence.
    #[must_use]
    pub const fn sequence_max(&self) -> u64 {
        match self.period_through {
            Some(through) if !self.above_threshold && self.asked.is_none() => through,
            _ => u64::MAX,
        }
    }

    /// What to do now. A disconnected volume rests, and remembers what was due.
    pub fn pace(&mut self, now: Time, policy: &FlushPolicy, volume: &VolumeView) -> Pace {
        if volume.ask_done {
            self.asked = None;
        }
        self.step(now, policy, volume);
        // What went above the limit must come well below it, or the flush would begin and
        // end by what it does to the load itself.
        let limit = policy.load_limit(volume.load_at_rest);
        self.loaded = limit.is_some_and(|limit| {
            let mark = if self.loaded { limit / 4 * 3 } else { limit };
            volume.load > mark
        });
        if !volume.connected || (!self.is_running() && self.asked.is_none()) {
            return Pace::Rest;
        }
        if self.asked.is_some() || !self.loaded {
            Pace::Flow
        } else if volume.near_full {
            Pace::Floor
        } else {
            Pace::Skip
        }
    }

    /// When time makes a flush due; never, if nothing was dirty when it was looked
    /// at last, or one is going.
    fn deadline(&self, policy: &FlushPolicy, volume: &VolumeView) -> Time {
        let Some(since) = self.dirty_since.filter(|_| !self.is_running()) else {
            return Time::FAR;
        };
        let by_period = self.last.max(since) + policy.period;
        let newest = volume.newest_dirty.filter(|_| !policy.idle.is_zero());
        newest.map_or(by_period, |newest| by_period.min(newest + policy.idle))
    }

    fn step(&mut self, now: Time, policy: &FlushPolicy, volume: &VolumeView) {
        let was_running = self.is_running();
        let oldest = volume.oldest_dirty;
        self.dirty_since = oldest.map(|(arrived, _)| self.dirty_since.unwrap_or(arrived));
        self.above_threshold = volume.dirty_bytes > policy.threshold_bytes
            || self.above_threshold && volume.dirty_bytes > policy.stop_bytes();
        self.period_through = self
            .period_through
            .filter(|&through| oldest.is_some_and(|(_, at)| at <= through));
        if was_running && !self.is_running() {
            self.last = now;
        }
        if now >= self.deadline(policy, volume) {
            self.period_through = Some(volume.newest_sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: FlushPolicy = FlushPolicy {
        threshold_bytes: 100,
        stop_bytes: Some(20),
        period: Duration::from_secs(5),
        idle: Duration::ZERO,
        load_limit_ms: 200,
        load_limit_percent: 0,
    };

    fn view(dirty_bytes: u64, oldest_s: u64) -> VolumeView {
        VolumeView {
            connected: true,
            dirty_bytes,
            oldest_dirty: (dirty_bytes > 0).then(|| (at(oldest_s), oldest_s)),
            newest_dirty: (dirty_bytes > 0).then(|| at(oldest_s)),
            newest_sequence: 1000,
            load: Duration::from_millis(40),
            load_at_rest: Duration::from_millis(20),
            near_full: false,
            ask_done: false,
        }
    }

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    #[test]
    fn a15_above_the_threshold_until_the_stop_mark() {
        let mut gate = FlushGate::new(at(0));
        assert_eq!(gate.pace(at(1), &POLICY, &view(100, 1)), Pace::Rest);
        assert_eq!(gate.pace(at(1), &POLICY, &view(101, 1)), Pace::Flow);
        assert_eq!(gate.pace(at(2), &POLICY, &view(21, 1)), Pace::Flow);
        assert_eq!(gate.pace(at(2), &POLICY, &view(20, 1)), Pace::Rest);
    }

    #[test]
    fn a15_the_stop_mark_is_half_of_the_threshold_or_what_is_set_of_it() {
        let stop = |threshold_bytes, stop_bytes| {
            let policy = FlushPolicy {
                threshold_bytes,
                stop_bytes,
                ..POLICY
            };
            policy.stop_bytes()
        };
        assert_eq!(stop(100, None), 50);
        assert_eq!(stop(100, Some(0)), 0);
        assert_eq!(stop(100, Some(100)), 100);
        assert_eq!(stop(100, Some(101)), 100, "not above the threshold");
        let all = FlushPolicy {
            stop_bytes: Some(1000),
            ..POLICY
        };
        let mut gate = FlushGate::new(at(0));
        assert_eq!(gate.pace(at(1), &all, &view(101, 1)), Pace::Flow);
        assert_eq!(gate.pace(at(1), &all, &view(100, 1)), Pace::Rest);
    }

    #[test]
    fn a15_what_has_been_idle_is_flushed_until_what_was_there_is_durable() {
        let idle = FlushPolicy {
            period: Duration::from_secs(100),
            idle: Duration::from_secs(3),
            ..POLICY
        };
        let mut gate = FlushGate::new(at(0));
        let written = |oldest_s, newest_s| VolumeView {
            newest_dirty: Some(at(newest_s)),
            newest_sequence: newest_s,
            ..view(50, oldest_s)
        };
        assert_eq!(gate.pace(at(10), &idle, &written(10, 10)), Pace::Rest);
        assert_eq!(gate.pace(at(12), &idle, &written(10, 12)), Pace::Rest);
        assert_eq!(
            gate.pace(at(14), &idle, &written(10, 12)),
            Pace::Rest,
            "counts from the newest"
        );
        assert_eq!(gate.pace(at(15), &idle, &written(10, 12)), Pace::Flow);
        assert_eq!(gate.pace(at(16), &idle, &written(11, 16)), Pace::Flow);
        assert_eq!(gate.sequence_max(), 12, "as it was when it began");
        assert_eq!(gate.pace(at(17), &idle, &written(16, 16)), Pace::Rest);
        assert_eq!(gate.pace(at(18), &idle, &written(16, 16)), Pace::Rest);
        assert_eq!(gate.pace(at(19), &idle, &written(16, 16)), Pace::Flow);
        assert_eq!(gate.pace(at(20), &idle, &view(0, 0)), Pace::Rest);
        // Written all the time: the period is what counts.
        let mut gate = FlushGate::new(at(0));
        for now in 10..110 {
            assert_eq!(gate.pace(at(now), &idle, &written(10, now)), Pace::Rest);
        }
        assert_eq!(gate.pace(at(110), &idle, &written(10, 110)), Pace::Flow);
        let never = FlushPolicy {
            idle: Duration::ZERO,
            ..idle
        };
        let mut gate = FlushGate::new(at(0));
        assert_eq!(gate.pace(at(10), &never, &written(10, 10)), Pace::Rest);
        assert_eq!(gate.pace(at(109), &never, &written(10, 10)), Pace::Rest);
        assert_eq!(never.left_alone_max(), Duration::from_secs(100));
        assert_eq!(idle.left_alone_max(), Duration::from_secs(3));
    }

    #[test]
    fn a15_after_the_period_until_what_was_there_is_durable() {
        let mut gate = FlushGate::new(at(0));
        assert_eq!(gate.pace(at(9), &POLICY, &view(0, 0)), Pace::Rest);
        let mut one = VolumeView {
            newest_sequence: 12,
            ..view(1, 10)
        };
        assert_eq!(gate.pace(at(10), &POLICY, &one), Pace::Rest);
        assert_eq!(gate.deadline(&POLICY, &one), at(15));
        one.oldest_dirty = Some((at(11), 11));
        assert_eq!(gate.pace(at(14), &POLICY, &one), Pace::Rest);
        assert_eq!(gate.pace(at(15), &POLICY, &one), Pace::Flow);
        one.newest_sequence = 14;
        assert_eq!(gate.pace(at(15), &POLICY, &one), Pace::Flow);
        assert_eq!(gate.sequence_max(), 12, "as it was when it began");
        one.oldest_dirty = Some((at(12), 12));
        assert_eq!(gate.pace(at(16), &POLICY, &one), Pace::Flow);
        one.oldest_dirty = Some((at(13), 13));
        assert_eq!(gate.pace(at(16), &POLICY, &one), Pace::Rest);
        assert_eq!(gate.deadline(&POLICY, &one), at(21), "since the last flush");
        let none = view(0, 0);
        assert_eq!(gate.pace(at(17), &POLICY, &none), Pace::Rest);
        assert_eq!(gate.deadline(&POLICY, &none), Time::FAR);
        let other = view(1, 18);
        assert_eq!(gate.pace(at(18), &POLICY, &other), Pace::Rest);
        assert_eq!(gate.deadline(&POLICY, &other), at(23));
    }

    #[test]
    fn a15_the_threshold_and_who_asks_need_more_than_the_period() {
        let mut gate = FlushGate::new(at(0));
        assert_eq!(gate.pace(at(15), &POLICY, &view(50, 1)), Pace::Flow);
        assert_eq!(gate.sequence_max(), 1000);
        gate.ask(2000);
        assert_eq!(gate.sequence_max(), u64::MAX);
        let asked_for = VolumeView {
            ask_done: true,
            ..view(101, 1)
        };
        assert_eq!(gate.pace(at(16), &POLICY, &asked_for), Pace::Flow);
        assert_eq!(gate.sequence_max(), u64::MAX, "above the threshold");
        assert_eq!(gate.pace(at(17), &POLICY, &view(20, 1000)), Pace::Flow);
        assert_eq!(gate.sequence_max(), 1000, "what the period is for is left");
        assert_eq!(gate.pace(at(17), &POLICY, &view(20, 1001)), Pace::Rest);
    }

    #[test]
    fn a15_disconnected_rests_and_remembers() {
        let mut gate = FlushGate::new(at(0));
        let down = VolumeView {
            connected: false,
            ..view(500, 1)
        };
        assert_eq!(gate.pace(at(1), &POLICY, &down), Pace::Rest);
        assert_eq!(gate.pace(at(2), &POLICY, &view(50, 1)), Pace::Flow);
    }

    #[test]
    fn a18_the_lower_limit_holds_and_is_left_well_below() {
        let limit = |load_limit_ms, load_limit_percent, at_rest_ms| {
            let policy = FlushPolicy {
                load_limit_ms,
                load_limit_percent,
                ..POLICY
            };
            policy
                .load_limit(Duration::from_millis(at_rest_ms))
                .map(|limit| limit.as_millis())
        };
        assert_eq!(limit(0, 0, 40), None);
        assert_eq!(limit(200, 0, 40), Some(200));
        assert_eq!(limit(0, 300, 40), Some(120));
        assert_eq!(limit(100, 300, 40), Some(100));
        assert_eq!(limit(0, 300, 0), None, "nothing is known yet");
        let mut gate = FlushGate::new(at(0));
        let mut pace = |load_ms| {
            let view = VolumeView {
                load: Duration::from_millis(load_ms),
                ..view(500, 1)
            };
            gate.pace(at(1), &POLICY, &view)
        };
        let paces = [200, 201, 180, 151, 150, 200, 201].map(&mut pace);
        let (flow, skip) = (Pace::Flow, Pace::Skip);
        assert_eq!(paces, [flow, skip, skip, skip, flow, flow, skip]);
    }

    #[test]
    fn a18_a_loaded_volume_is_skipped_unless_asked_for() {
        let mut gate = FlushGate::new(at(0));
        let loaded = VolumeView {
            load: Duration::from_secs(1),
            ..view(500, 1)
        };
        assert_eq!(gate.pace(at(1), &POLICY, &loaded), Pace::Skip);
        let full = VolumeView {
            near_full: true,
            ..loaded
        };
        assert_eq!(gate.pace(at(1), &POLICY, &full), Pace::Floor);
        gate.ask(7);
        gate.ask(3);
        assert_eq!(gate.asked(), Some(7));
        assert_eq!(gate.pace(at(1), &POLICY, &loaded), Pace::Flow);
        let done = VolumeView {
            ask_done: true,
            ..loaded
        };
        assert_eq!(gate.pace(at(1), &POLICY, &done), Pace::Skip);
    }
}

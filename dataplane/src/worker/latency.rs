//! How long a volume's commands take: what computers wait for its writes and
//! reads, and what its flushed writes take at the storage, as histograms (HDR).
//!
//! A computer's wait begins with the step that takes the command from its
//! connection, and ends with the step that answers it: only when that is over has
//! the answer gone to the port. So it is counted by the step after, and a write that
//! is answered in the step that it came in counts as long as that step took.
//!
//! What always holds: an answer costs a place in a list and a count; nothing is
//! allocated once the volume is known. Percentiles are of the last 10 to 20 s, and one
//! histogram is gone through in a sweep, however many there are.

use std::time::Duration;

use hdrhistogram::Histogram;
use sluice_hugepages::tables;
use sluice_proto::Time;
use sluice_proto::scsi::{self, Access};

use super::publish::micros;
use super::relay::{Relay, VOLUMES_MAX};
use super::task::{Task, VolumeKey, Work};

/// Longer ones count as this: no command waits for so long (C-16), nor the flush for an answer.
const LONGEST: Duration = Duration::from_secs(100);
/// Half a hundredth too long at most.
const SIGNIFICANT_FIGURES: u8 = 2;
/// Percentiles are of one to two windows.
const WINDOW: Duration = Duration::from_secs(10);
/// Between two looks at a histogram that something is counted in.
const SHOWN_PERIOD: Duration = Duration::from_secs(1);

/// What takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A computer's write, until it is answered.
    Write,
    Read,
    /// A write of the flush, from the moment that its last byte left until the storage's answer.
    Flush,
}

const KINDS: usize = 3;

impl Kind {
    /// `None` of a command that neither reads nor writes blocks.
    fn of(task: &Task) -> Option<Self> {
        match &task.work {
            Work::Write(_) => Some(Self::Write),
            Work::Read(_) => Some(Self::Read),
            Work::Sync(_) => None,
            Work::Pass(_) => match scsi::classify(&task.whole_cdb()) {
                Ok(Access::Write { .. }) => Some(Self::Write),
                Ok(Access::Read { .. }) => Some(Self::Read),
                _ => None,
            },
        }
    }
}

/// Of one volume, by [`Kind`].
#[derive(Debug)]
pub struct Latencies([Latency; KINDS]);

impl Latencies {
    pub fn new(now: Time) -> Self {
        Self(std::array::from_fn(|_| Latency::new(now)))
    }

    /// Bytes that it takes on the heap.
    #[cfg(test)]
    pub fn heap_len() -> usize {
        2 * KINDS * histogram().distinct_values() * size_of::<u32>()
    }

    pub fn record(&mut self, kind: Kind, took: Duration) {
        self.0[kind as usize].record(took);
    }

    pub fn shown(&self, kind: Kind) -> tables::Latency {
        self.0[kind as usize].shown
    }
}

#[derive(Debug)]
struct Latency {
    newest: Histogram<u32>,
    before: Histogram<u32>,
    /// When the newest window began.
    begun: Time,
    /// Something was counted since it was looked at.
    has_moved: bool,
    looked_at: Time,
    /// As it was then; what is of the whole life is kept up to date.
    shown: tables::Latency,
}

fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, micros(LONGEST), SIGNIFICANT_FIGURES)
        .expect("bounds that a histogram takes")
}

impl Latency {
    fn new(now: Time) -> Self {
        Self {
            newest: histogram(),
            before: histogram(),
            begun: now,
            has_moved: false,
            looked_at: now,
            shown: tables::Latency::default(),
        }
    }

    fn record(&mut self, took: Duration) {
        let us = micros(took);
        self.newest.saturating_record(us);
        self.shown.total_count += 1;
        self.shown.total_max_us = self.shown.total_max_us.max(us);
        self.has_moved = true;
    }

    fn is_due(&self, now: Time) -> bool {
        let is_empty = self.newest.is_empty() && self.before.is_empty();
        !is_empty && now.since(self.begun) >= WINDOW
            || self.has_moved && now.since(self.looked_at) >= SHOWN_PERIOD
    }

    /// Ends a window that is over, and finds the percentiles.
    fn look(&mut self, now: Time, sum: &mut Histogram<u32>) {
        if now.since(self.begun) >= WINDOW {
            std::mem::swap(&mut self.newest, &mut self.before);
            self.newest.reset();
            self.begun = now;
        }
        sum.reset();
        for part in [&self.newest, &self.before] {
            sum.add(part).expect("all have the same bounds");
        }
        // A bucket's upper end may be beyond all that it holds.
        let longest = self.shown.total_max_us;
        let mut percentiles = sum.value_at_quantiles([0.5, 0.9, 0.99, 0.999]);
        let mut next = || percentiles.next().unwrap_or(0).min(longest);
        self.shown = tables::Latency {
            count: sum.len(),
            p50_us: next(),
            p90_us: next(),
            p99_us: next(),
            p999_us: next(),
            max_us: sum.max().min(longest),
            ..self.shown
        };
        self.has_moved = false;
        self.looked_at = now;
    }
}

/// A command that has been answered in the step under way.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    volume: VolumeKey,
    kind: Kind,
    begun: Time,
}

/// What the relay keeps for all volumes.
#[derive(Debug)]
pub struct Recorder {
    answered: Vec<Answered>,
    /// The histogram that is looked at next, if it is due.
    turn: usize,
    /// Scratch: both windows of one.
    sum: Histogram<u32>,
}

impl Recorder {
    /// For so many commands under way.
    pub fn new(tasks_max: usize) -> Self {
        Self {
            answered: Vec::with_capacity(tasks_max),
            turn: 0,
            sum: histogram(),
        }
    }

    /// The command has been answered, whatever with. A computer that sends more than its
    /// window in one step, blindly, is answered all the same, and not counted.
    pub(super) fn answered(&mut self, task: &Task) {
        if let (Some(volume), Some(kind)) = (task.volume, Kind::of(task))
            && self.answered.len() < self.answered.capacity()
        {
            self.answered.push(Answered {
                volume,
                kind,
                begun: task.begun,
            });
        }
    }
}

impl Relay {
    /// The step in which they were answered is over: counts how long that took.
    pub fn count_answered(&mut self, now: Time) {
        let Self {
            latency: recorder,
            volumes,
            ..
        } = self;
        for answered in recorder.answered.drain(..) {
            if let Some(volume) = &mut volumes[usize::from(answered.volume.0)] {
                let took = now.since(answered.begun);
                volume.latencies.record(answered.kind, took);
            }
        }
    }

    /// Goes through one histogram that is due, the volumes in turns.
    pub(super) fn look_at_latency(&mut self, now: Time) {
        let Self {
            latency: recorder,
            volumes,
            ..
        } = self;
        for _ in 0..VOLUMES_MAX * KINDS {
            let at = recorder.turn;
            recorder.turn = (at + 1) % (VOLUMES_MAX * KINDS);
            if let Some(volume) = &mut volumes[at / KINDS]
                && let latency = &mut volume.latencies.0[at % KINDS]
                && latency.is_due(now)
            {
                return latency.look(now, &mut recorder.sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(s: u64) -> Time {
        Time::from_millis(1000 * s)
    }

    fn shown(latency: &mut Latency, now: Time) -> tables::Latency {
        latency.look(now, &mut histogram());
        latency.shown
    }

    /// At most a hundredth too long, and never too short.
    fn is_near(shown_us: u64, wanted_us: u64) -> bool {
        (wanted_us..=wanted_us + wanted_us / 100).contains(&shown_us)
    }

    #[test]
    fn latency_percentiles_are_of_what_was_counted() {
        let mut latency = Latency::new(at(0));
        assert_eq!(shown(&mut latency, at(0)), tables::Latency::default());
        for us in 1..=10_000 {
            latency.record(Duration::from_micros(us));
        }
        let all = shown(&mut latency, at(1));
        assert_eq!((all.count, all.total_count), (10_000, 10_000));
        assert!(is_near(all.p50_us, 5_000), "{all:?}");
        assert!(is_near(all.p90_us, 9_000), "{all:?}");
        assert!(is_near(all.p99_us, 9_900), "{all:?}");
        assert!(is_near(all.p999_us, 9_990), "{all:?}");
        assert_eq!((all.max_us, all.total_max_us), (10_000, 10_000));
    }

    #[test]
    fn a_latency_out_of_bounds_counts_as_the_longest_or_the_shortest() {
        let mut latency = Latency::new(at(0));
        latency.record(Duration::from_nanos(999));
        latency.record(Duration::MAX);
        latency.record(Duration::from_secs(1000));
        let all = shown(&mut latency, at(1));
        assert_eq!(all.count, 3);
        assert!(is_near(all.p50_us, micros(LONGEST)), "{all:?}");
        assert_eq!(all.max_us, all.p999_us);
        assert_eq!(all.total_max_us, u64::MAX, "it is told as it was");
    }

    #[test]
    fn latencies_are_those_of_the_last_one_or_two_windows() {
        let (slow, quick) = (Duration::from_millis(50), Duration::from_millis(1));
        let mut latency = Latency::new(at(0));
        latency.record(slow);
        assert!(latency.is_due(at(1)) && !latency.is_due(Time::from_millis(999)));
        assert_eq!(shown(&mut latency, at(1)).count, 1);
        assert!(!latency.is_due(at(9)), "nothing new");
        assert!(latency.is_due(at(10)), "the window is over");
        latency.record(quick);
        let both = shown(&mut latency, at(10));
        assert_eq!(both.count, 2);
        assert!(is_near(both.p50_us, 1_000) && is_near(both.max_us, 50_000));
        latency.record(quick);
        let newest = shown(&mut latency, at(20));
        assert!(
            newest.count >= 1 && is_near(newest.max_us, 1_000),
            "{newest:?}"
        );
        shown(&mut latency, at(30));
        let none = shown(&mut latency, at(40));
        assert_eq!((none.count, none.p999_us, none.max_us), (0, 0, 0));
        assert_eq!((none.total_count, none.total_max_us), (3, 50_000));
        assert!(!latency.is_due(at(100)), "an idle volume costs nothing");
    }
}

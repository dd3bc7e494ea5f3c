//! A link between two hosts: delay, rate, and the faults of a seed. Frames are
//! lost, doubled, delayed past each other, or, while cut, all lost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use sluice_proto::Time;

use crate::ecn;
use crate::random::Random;

#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Of 10,000 frames.
    pub loss: u32,
    pub duplicate: u32,
    pub reorder: u32,
    /// Of those that may be marked (RFC 3168).
    pub marks: u32,
    /// SYNs that ask for ECN are lost.
    pub drops_asking: bool,
    pub delay: Duration,
    /// Added at random, up to this.
    pub jitter: Duration,
    /// Bytes a second; 0 for no limit.
    pub rate: u64,
}

/// Each kind of fault, counted, so that a run shows what it exercised.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkCounters {
    pub carried: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub cut: u64,
    pub marked: u64,
    pub asking_dropped: u64,
}

/// One direction.
#[derive(Clone, Debug)]
pub struct Link {
    pub faults: Faults,
    pub is_cut: bool,
    pub counters: LinkCounters,
    /// By due time, then order of entry.
    queue: BinaryHeap<Reverse<(Time, u64, Vec<u8>)>>,
    entered: u64,
    free_at: Time,
    last_due: Time,
}

impl Link {
    pub fn new(faults: Faults) -> Self {
        Self {
            faults,
            is_cut: false,
            counters: LinkCounters::default(),
            queue: BinaryHeap::new(),
            entered: 0,
            free_at: Time::ZERO,
            last_due: Time::ZERO,
        }
    }

    pub fn send(&mut self, now: Time, mut frame: Vec<u8>, random: &mut Random) {
        if self.is_cut {
            self.counters.cut += 1;
            return;
        }
        if self.faults.drops_asking && ecn::asks(&frame) {
            self.counters.asking_dropped += 1;
            return;
        }
        if random.of(10_000) < u64::from(self.faults.loss) {
            self.counters.lost += 1;
            return;
        }
        // Nothing is drawn where nothing is marked, so that seeds without it stay as they were.
        if self.faults.marks > 0 && random.of(10_000) < u64::from(self.faults.marks) {
            self.counters.marked += u64::from(ecn::mark(&mut frame));
        }
        let begin = now.max(self.free_at);
        let nanos = frame.len() as u64 * 1_000_000_000;
        let transmission = nanos.checked_div(self.faults.rate).unwrap_or(0);
        self.free_at = begin + Duration::from_nanos(transmission);
        let mut due = self.free_at + self.faults.delay;
        if random.of(10_000) < u64::from(self.faults.reorder) {
            // Later than frames that follow: as far as a few of them.
            due += self.faults.delay / 4 + Duration::from_micros(200);
            self.counters.reordered += 1;
        } else {
            let jitter = u64::try_from(self.faults.jitter.as_nanos()).unwrap_or(0);
            due = (due + Duration::from_nanos(random.of(jitter + 1))).max(self.last_due);
            self.last_due = due;
        }
        if random.of(10_000) < u64::from(self.faults.duplicate) {
            self.counters.duplicated += 1;
            self.push(due + Duration::from_micros(50), frame.clone());
        }
        self.push(due, frame);
    }

    fn push(&mut self, due: Time, frame: Vec<u8>) {
        self.entered += 1;
        self.queue.push(Reverse((due, self.entered, frame)));
    }

    pub fn receive(&mut self, now: Time) -> Option<Vec<u8>> {
        if self
            .queue
            .peek()
            .is_none_or(|Reverse((due, ..))| *due > now)
        {
            return None;
        }
        let Reverse((_, _, frame)) = self.queue.pop()?;
        self.counters.carried += 1;
        Some(frame)
    }

    pub fn deadline(&self) -> Time {
        self.queue
            .peek()
            .map_or(Time::FAR, |Reverse((due, ..))| *due)
    }
}

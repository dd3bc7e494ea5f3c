//! Many seeds on several threads, and what they reached together.
//!
//! What always holds: the sum does not depend on the threads. A fault or a
//! state that no seed met is named, since a rule that was never put to the
//! test proves nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::oracle::Violation;
use crate::world::{self, Options, Outcome};

/// What a range of seeds found.
#[derive(Debug, Default)]
pub struct Summary {
    /// Sums over the seeds, by name.
    pub coverage: BTreeMap<&'static str, u64>,
    /// Seeds that broke a rule, in order.
    pub failed: Vec<Outcome>,
    pub simulated: Duration,
}

impl Summary {
    /// Kinds of fault and state that no seed reached.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.coverage
            .iter()
            .filter(|(_, count)| **count == 0)
            .map(|(name, _)| *name)
    }

    fn add(&mut self, outcome: Outcome) {
        for (name, count) in &outcome.coverage {
            *self.coverage.entry(name).or_default() += count;
        }
        self.simulated += outcome.simulated;
        if !outcome.violations.is_empty() {
            self.failed.push(outcome);
        }
    }
}

/// A run; a panic in it, of an invariant say, is a finding like any other.
pub fn run_one(seed: u64, options: &Options) -> Outcome {
    let run = || world::run_with(seed, options);
    std::panic::catch_unwind(run).unwrap_or_else(|_| Outcome {
        seed,
        violations: vec![Violation {
            rule: "no panic",
            detail: "an invariant of the data plane does not hold".to_owned(),
        }],
        ..Outcome::default()
    })
}

/// Runs the seeds on `threads` threads; `each` sees every outcome as it comes.
/// With `to_first` none is begun after one has failed.
pub fn run(
    seeds: Range<u64>,
    threads: usize,
    options: &Options,
    to_first: bool,
    each: impl Fn(&Outcome) + Sync,
) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    // Relaxed, here and below: a number is all that is shared.
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = run_one(seed, options);
                    each(&outcome);
                    if to_first && !outcome.violations.is_empty() {
                        // Those before it are under way already, and are waited for.
                        next.fetch_max(seeds.end, Ordering::Relaxed);
                    }
                    summary
                        .lock()
                        .expect("no holder of this lock panics")
                        .add(outcome);
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("no holder of this lock panics");
    summary.failed.sort_by_key(|outcome| outcome.seed);
    summary
}

//! A test of the judges: faults are planted in the worker, one at a time, and the
//! seeds must find each.

use std::time::{Duration, Instant};

use sluice_proto::mutation::{self, Mutation};

use crate::campaign;
use crate::oracle::Violation;
use crate::world::{Options, run_with};

/// Seeds in which a fault must show.
pub const SEEDS_MAX: u64 = 1000;

/// How a planted fault was found, or not.
#[derive(Clone, Debug)]
pub struct Found {
    pub mutation: &'static str,
    /// The first seed that failed, and how.
    pub failure: Option<(u64, Violation)>,
    /// That seed fails without the fault, too: it has found something else.
    pub fails_without: bool,
    pub tried: u64,
    pub took: Duration,
}

/// Plants each of these and runs seeds from 0 on until one fails.
pub fn run(
    mutations: &[(Mutation, &'static str)],
    threads: usize,
    options: &Options,
    mut each: impl FnMut(&Found),
) -> bool {
    // What a planted fault breaks may be an assertion: that is found, and not news.
    std::panic::set_hook(Box::new(|_| {}));
    let mut all = true;
    for &(planted, name) in mutations {
        mutation::plant(Some(planted));
        let begun = Instant::now();
        let summary = campaign::run(0..SEEDS_MAX, threads, options, true, |_| {});
        let first = summary.failed.into_iter().next();
        let failure = first.map(|mut outcome| (outcome.seed, outcome.violations.remove(0)));
        mutation::plant(None);
        let fails_without = failure
            .as_ref()
            .is_some_and(|&(seed, _)| !run_with(seed, options).violations.is_empty());
        let found = Found {
            mutation: name,
            fails_without,
            tried: failure.as_ref().map_or(SEEDS_MAX, |(seed, _)| seed + 1),
            failure,
            took: begun.elapsed(),
        };
        all &= found.failure.is_some() && !fails_without;
        each(&found);
    }
    drop(std::panic::take_hook());
    all
}

//! A failing run made shorter: with less time, fewer kinds of fault, fewer events,
//! computers, volumes and commands, as long as the same rule is broken first.
//!
//! What always holds: what comes out fails as what went in did, and a seed with
//! the same options gives it again. Whatever is taken away leaves the chance of
//! everything else as it was; it may still change what happens, so a thing that
//! could not be taken away is tried again after others have gone.

use std::time::{Duration, Instant};

use crate::campaign;
use crate::fault::KINDS;
use crate::world::{Options, Outcome};

/// Where it stops, wherever it has come.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub tries: u32,
    pub time: Duration,
}

/// The shortest run that was found.
#[derive(Clone, Debug)]
pub struct Shortened {
    pub options: Options,
    pub outcome: Outcome,
    pub tries: u32,
}

struct Search {
    seed: u64,
    rule: &'static str,
    best: Options,
    outcome: Outcome,
    tries: u32,
    budget: Budget,
    begun: Instant,
}

/// Shortens a run; `None` if it does not fail.
pub fn minimise(seed: u64, options: &Options, budget: Budget) -> Option<Shortened> {
    let outcome = campaign::run_one(seed, options);
    let mut search = Search {
        seed,
        rule: outcome.violations.first()?.rule,
        best: options.clone(),
        outcome,
        tries: 1,
        budget,
        begun: Instant::now(),
    };
    loop {
        let before = search.best.clone();
        search.less_time();
        search.fewer_kinds();
        search.fewer_events();
        search.fewer_parties();
        search.fewer_commands();
        if search.best == before || search.is_over() {
            break;
        }
    }
    Some(Shortened {
        options: search.best,
        outcome: search.outcome,
        tries: search.tries,
    })
}

impl Search {
    fn is_over(&self) -> bool {
        self.tries >= self.budget.tries || self.begun.elapsed() >= self.budget.time
    }

    /// Keeps a change that still fails the same way.
    fn keep(&mut self, change: impl FnOnce(&mut Options)) -> bool {
        let mut options = self.best.clone();
        change(&mut options);
        if options == self.best || self.is_over() {
            return false;
        }
        self.tries += 1;
        let outcome = campaign::run_one(self.seed, &options);
        let same = outcome
            .violations
            .first()
            .is_some_and(|it| it.rule == self.rule);
        if same {
            (self.best, self.outcome) = (options, outcome);
        }
        same
    }

    /// The least of a quantity, by bisection, as if all above it failed too.
    fn least(&mut self, mut below: u64, mut known: u64, set: impl Fn(&mut Options, u64)) {
        while known - below > 1 + known / 16 && !self.is_over() {
            let middle = below + (known - below) / 2;
            if self.keep(|options| set(options, middle)) {
                known = middle;
            } else {
                below = middle;
            }
        }
    }

    fn less_time(&mut self) {
        let simulated = self.outcome.simulated;
        if !simulated.is_zero() {
            // What fails before the end of the work needs no more of it.
            self.keep(|options| options.work = options.work.min(simulated));
        }
        let known = u64::try_from(self.best.work.as_millis()).expect("a run is short");
        self.least(0, known, |options, millis| {
            options.work = Duration::from_millis(millis);
        });
    }

    fn fewer_kinds(&mut self) {
        for (kind, _) in KINDS {
            self.keep(|options| options.without = options.without.and(kind));
        }
    }

    fn fewer_events(&mut self) {
        let events = self.outcome.events;
        let mut len = events.div_ceil(2);
        while len > 0 {
            for first in (0..events).step_by(len) {
                self.keep(|options| {
                    options.skip.extend(first..events.min(first + len));
                    options.skip.sort_unstable();
                    options.skip.dedup();
                });
            }
            len /= 2;
        }
    }

    fn fewer_parties(&mut self) {
        for number in 0..3 {
            self.keep(|options| options.computers_off |= 1 << number);
        }
        for number in 0..6 {
            self.keep(|options| options.volumes_off |= 1 << number);
        }
    }

    fn fewer_commands(&mut self) {
        if self.best.commands.is_none() {
            // More than any computer issues in a run.
            self.keep(|options| options.commands = Some(1 << 16));
        }
        let Some(known) = self.best.commands else {
            return;
        };
        self.least(0, known, |options, commands| {
            options.commands = Some(commands)
        });
    }
}

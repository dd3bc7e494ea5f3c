//! Seeds hold, and a seed is all that a run depends on. More of them, and whether they
//! meet every kind of fault and state together, is `scripts/test`'s to see.

use sluice_sim::campaign;
use sluice_sim::world::{self, Options};

/// Under a minute on two cores with the dev profile; `sim` runs more.
const SEEDS: u64 = 60;

#[test]
fn every_seed_holds() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let summary = campaign::run(0..SEEDS, threads, &Options::default(), false, |_| {});
    let failed: Vec<_> = summary
        .failed
        .iter()
        .map(|outcome| (outcome.seed, &outcome.violations[0]))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 1_000_003] {
        assert_eq!(world::run(seed), world::run(seed));
    }
}

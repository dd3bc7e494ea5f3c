//! A few hundred seeds hold, and meet every kind of fault and state together;
//! a seed is all that a run depends on.

use sluice_sim::{campaign, world};

/// Under a minute on two cores with the dev profile; `sim` runs more.
const SEEDS: u64 = 200;

#[test]
fn every_seed_holds_and_together_they_meet_everything() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let summary = campaign::run(0..SEEDS, threads, |_| {});
    let failed: Vec<_> = summary
        .failed
        .iter()
        .map(|outcome| (outcome.seed, &outcome.violations[0]))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let missing: Vec<_> = summary.missing().collect();
    assert!(missing.is_empty(), "no seed reached {missing:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 1_000_003] {
        assert_eq!(world::run(seed), world::run(seed));
    }
}

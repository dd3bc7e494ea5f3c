//! `sim`: runs seeds, reports what they exercised, and replays one that failed.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use sluice_sim::world;

/// Exit codes: 0 every seed held, 1 a rule was broken or a fault never happened, 2 usage.
#[derive(Debug, Parser)]
#[command(name = "sim", version, about = "Simulates the data plane from seeds")]
struct Arguments {
    /// Seeds A..B, B not included; a single number runs that seed.
    #[arg(long, value_parser = seeds)]
    seeds: Range<u64>,
    /// Print each seed's line.
    #[arg(long, short)]
    verbose: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |part: &str| {
        part.parse::<u64>()
            .map_err(|error| format!("{part:?}: {error}"))
    };
    match text.split_once("..") {
        Some((from, to)) => {
            let range = number(from)?..number(to)?;
            if range.is_empty() {
                Err(format!("{text}: no seed in it"))
            } else {
                Ok(range)
            }
        }
        None => number(text).map(|seed| seed..seed + 1),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let begun = Instant::now();
    let mut totals: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut failed = 0_u64;
    let mut simulated = 0.0;
    let count = arguments.seeds.end - arguments.seeds.start;
    for seed in arguments.seeds {
        let outcome = world::run(seed);
        simulated += outcome.simulated.as_secs_f64();
        for (name, value) in &outcome.coverage {
            *totals.entry(name).or_default() += value;
        }
        if arguments.verbose {
            println!(
                "seed {seed}: {} rounds, {:.1} s",
                outcome.rounds,
                outcome.simulated.as_secs_f64()
            );
        }
        if !outcome.violations.is_empty() {
            failed += 1;
            for violation in outcome.violations.iter().take(3) {
                eprintln!("seed {seed}: {violation}");
            }
            eprintln!(
                "seed {seed}: replay with: target/release/sim --seeds {seed}..{}",
                seed + 1
            );
        }
    }
    for (name, value) in &totals {
        println!("{name:24} {value}");
    }
    // A single replay need not meet every fault; a whole run must.
    let mut missing = 0;
    if count >= 100 {
        for name in totals
            .iter()
            .filter(|(_, value)| **value == 0)
            .map(|(name, _)| name)
        {
            eprintln!("sim: no seed reached {name}");
            missing += 1;
        }
    }
    println!(
        "{count} seeds, {failed} failed, {simulated:.0} s simulated in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    ExitCode::from(u8::from(failed > 0 || missing > 0))
}

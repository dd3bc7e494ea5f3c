//! `sim`: runs seeds, reports what they exercised, and replays one that failed.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use sluice_sim::campaign;

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
    /// Threads.
    #[arg(long, short, default_value_t = 1)]
    jobs: usize,
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
    let count = arguments.seeds.end - arguments.seeds.start;
    let summary = campaign::run(arguments.seeds, arguments.jobs, |outcome| {
        let seed = outcome.seed;
        if arguments.verbose {
            println!(
                "seed {seed}: {} rounds, {:.1} s",
                outcome.rounds,
                outcome.simulated.as_secs_f64()
            );
        }
        for violation in outcome.violations.iter().take(3) {
            eprintln!("seed {seed}: {violation}");
        }
        if !outcome.violations.is_empty() {
            eprintln!(
                "seed {seed}: replay with: target/release/sim --seeds {seed}..{}",
                seed + 1
            );
        }
    });
    for (name, value) in &summary.coverage {
        println!("{name:28} {value}");
    }
    // A single replay need not meet every fault; a whole run must.
    let mut missing = 0;
    if count >= 100 {
        for name in summary.missing() {
            eprintln!("sim: no seed reached {name}");
            missing += 1;
        }
    }
    println!(
        "{count} seeds, {} failed, {:.0} s simulated in {:.1} s",
        summary.failed.len(),
        summary.simulated.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    ExitCode::from(u8::from(!summary.failed.is_empty() || missing > 0))
}

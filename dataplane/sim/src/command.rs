//! The command line of `sim`, and of `sim-mutated`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use std::fmt::Write as _;
use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::campaign::{self, Summary};
use crate::fault::Without;
use crate::minimise::{self, Budget, Shortened};
use crate::world::{self, Options, Outcome};

/// Of a minimisation.
const TRIES_MAX: u32 = 400;
const TIME_MAX: Duration = Duration::from_secs(180);

/// Exit codes: 0 every seed held, 1 a rule was broken, a fault never happened or a planted
/// one was not found, 2 usage.
#[derive(Debug, Parser)]
#[command(name = "sim", version, about = "Simulates the data plane from seeds")]
struct Arguments {
    /// Seeds A..B, B not included; a single number runs that seed.
    #[arg(long, visible_alias = "seed", value_parser = seeds, default_value = "0..300")]
    seeds: Range<u64>,
    /// Print each seed's line.
    #[arg(long, short)]
    verbose: bool,
    /// Threads.
    #[arg(long, short, default_value_t = 1)]
    jobs: usize,
    /// Shorten the first run that fails, and print the line that replays it.
    #[arg(long)]
    minimise: bool,
    /// Kinds of fault that do not happen, with commas between them.
    #[arg(long, value_parser = Without::parse, default_value = "")]
    without: Without,
    /// Events of the seed's schedule that do not happen, by number.
    #[arg(long, value_delimiter = ',')]
    skip: Vec<usize>,
    /// Computers, from 0, that ask nothing.
    #[arg(long, value_delimiter = ',')]
    idle_computers: Vec<u32>,
    /// Volumes, from 0, that nothing is asked of.
    #[arg(long, value_delimiter = ',')]
    idle_volumes: Vec<u32>,
    /// Commands that each computer issues, at most.
    #[arg(long)]
    commands: Option<u64>,
    /// Milliseconds for which computers work and things go wrong.
    #[arg(long)]
    work_ms: Option<u64>,
    /// Do not fail for a kind of fault or state that no seed has met.
    #[arg(long)]
    may_miss: bool,
    /// The fault that is planted in the worker; several, with commas, for the self-test.
    #[cfg(feature = "mutations")]
    #[arg(long, value_parser = planted::mutation, value_delimiter = ',')]
    mutation: Vec<planted::Planted>,
    /// Plant these faults, or all there are, one after another, and see that the seeds
    /// find each.
    #[cfg(feature = "mutations")]
    #[arg(long)]
    self_test: bool,
}

impl Arguments {
    fn options(&self) -> Options {
        let bits = |numbers: &[u32]| {
            let bit = |number: &u32| 1_u32.checked_shl(*number).unwrap_or(0);
            numbers.iter().map(bit).fold(0, |all, bit| all | bit)
        };
        let mut options = Options {
            without: self.without,
            skip: self.skip.clone(),
            computers_off: bits(&self.idle_computers),
            volumes_off: bits(&self.idle_volumes),
            commands: self.commands,
            ..Options::default()
        };
        if let Some(millis) = self.work_ms {
            options.work = Duration::from_millis(millis);
        }
        options
    }

    /// How this program is called with the same fault planted.
    fn program(&self) -> String {
        #[cfg(feature = "mutations")]
        if let Some((_, name)) = self.mutation.first() {
            return format!("target/release/sim-mutated --mutation {name}");
        }
        "target/release/sim".to_owned()
    }
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

/// The arguments that give these options again.
fn line_of(seed: u64, options: &Options) -> String {
    let list = |numbers: &mut dyn Iterator<Item = usize>| {
        let texts: Vec<_> = numbers.map(|number| number.to_string()).collect();
        texts.join(",")
    };
    let bits = |set: u32| list(&mut (0..32).filter(|bit| set & 1 << bit != 0));
    let default = Options::default();
    let mut line = format!("--seed {seed}");
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = write!(line, " --{name} {value}");
        }
    };
    add("without", options.without.to_string());
    add("skip", list(&mut options.skip.iter().copied()));
    add("idle-computers", bits(options.computers_off));
    add("idle-volumes", bits(options.volumes_off));
    if let Some(commands) = options.commands {
        add("commands", commands.to_string());
    }
    if options.work != default.work {
        add("work-ms", options.work.as_millis().to_string());
    }
    line
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(feature = "mutations")]
    if let Some(code) = planted::begin(&arguments) {
        return code;
    }
    let options = arguments.options();
    let program = arguments.program();
    let begun = Instant::now();
    let count = arguments.seeds.end - arguments.seeds.start;
    let to_first = arguments.minimise;
    let seeds = arguments.seeds.clone();
    let summary = campaign::run(seeds, arguments.jobs, &options, to_first, |outcome| {
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
                "seed {seed}: replay with: {program} {}",
                line_of(seed, &options)
            );
        }
    });
    if arguments.minimise {
        return shorten(&summary, &options, &program);
    }
    for (name, value) in &summary.coverage {
        println!("{name:31} {value}");
    }
    // A single replay need not meet every fault; a whole run must.
    let mut missing = 0;
    if count >= 100 && options == Options::default() && !arguments.may_miss {
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

fn shorten(summary: &Summary, options: &Options, program: &str) -> ExitCode {
    let Some(Outcome { seed, .. }) = summary.failed.first() else {
        println!("no seed failed: there is nothing to shorten");
        return ExitCode::SUCCESS;
    };
    let budget = Budget {
        tries: TRIES_MAX,
        time: TIME_MAX,
    };
    let shortened = minimise::minimise(*seed, options, budget);
    let Some(Shortened {
        options,
        outcome,
        tries,
    }) = shortened
    else {
        println!("seed {seed} does not fail again");
        return ExitCode::FAILURE;
    };
    println!("after {tries} runs of seed {seed}, what is left goes wrong at:");
    let schedule = world::schedule_of(*seed, &options);
    for (number, scheduled) in schedule.iter().enumerate() {
        let happens = !options.skip.contains(&number)
            && !options.without.has(scheduled.event.kind())
            && scheduled.at.as_micros() < options.work.as_micros().try_into().unwrap_or(u64::MAX);
        if happens {
            let at = scheduled.at.as_micros() / 1000;
            println!("  {number:3} {at:6} ms  {:?}", scheduled.event);
        }
    }
    println!("{}", outcome.violations[0]);
    println!("replay with: {program} {}", line_of(*seed, &options));
    ExitCode::FAILURE
}

#[cfg(feature = "mutations")]
mod planted {
    use std::process::ExitCode;

    use sluice_proto::mutation::{self, Mutation};

    use super::Arguments;
    use crate::self_test;

    pub type Planted = (Mutation, &'static str);

    pub fn mutation(text: &str) -> Result<Planted, String> {
        let known = Mutation::ALL.iter().find(|(_, name)| *name == text);
        known.copied().ok_or_else(|| {
            let names: Vec<_> = Mutation::ALL.iter().map(|(_, name)| *name).collect();
            format!("no such fault; there are {}", names.join(", "))
        })
    }

    /// Plants what is to be planted; an exit code if that was all.
    pub fn begin(arguments: &Arguments) -> Option<ExitCode> {
        mutation::plant(arguments.mutation.first().map(|&(planted, _)| planted));
        if !arguments.self_test {
            return None;
        }
        let chosen = match &arguments.mutation[..] {
            [] => &Mutation::ALL[..],
            named => named,
        };
        let options = arguments.options();
        let all = self_test::run(chosen, arguments.jobs, &options, |found| {
            let after = format!("{} seeds, {:.1} s", found.tried, found.took.as_secs_f64());
            match &found.failure {
                Some((seed, _)) if found.fails_without => println!(
                    "{:28} NOT FOUND ({after}): seed {seed} fails without it, too",
                    found.mutation
                ),
                Some((seed, violation)) => println!(
                    "{:28} found by seed {seed} ({after}): {}",
                    found.mutation, violation.rule
                ),
                None => println!("{:28} NOT FOUND ({after})", found.mutation),
            }
        });
        Some(ExitCode::from(u8::from(!all)))
    }
}

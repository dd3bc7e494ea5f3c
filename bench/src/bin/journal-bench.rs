//! `bench/run journal`: what the local journal costs, on a file of a real
//! disk. In turns, round after round:
//!
//! - 4 KiB writes, 32 at a time, with contract `journal`, through the worker on
//!   memory ports and the journal's thread; and the same with a plain group-commit
//!   writer in the journal's place, on the same file, behind the same worker and the
//!   same computer: what waits is copied together and written by one
//!   `O_DIRECT | O_DSYNC` write, no more at a time than a group of the journal has,
//!   without names, checksums, order, or an end;
//! - for comparison, that writer alone, fed from memory: what the disk can do;
//! - one 4 KiB write at a time: with contract `journal`, with contract `memory`, and
//!   a bare `O_DSYNC` write to the file.
//!
//! The median of the rounds' ratios counts: what disturbs one half of a round
//! disturbs the other. A writer of the relay is a model host in the worker's own
//! thread, so its time is in the relay's figures. Ends with 1 where a budget is
//! missed, with 2 where the file cannot be had.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

#[path = "journal-bench/plain.rs"]
mod plain;
#[path = "journal-bench/relay.rs"]
mod relay;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use plain::Plain;
use relay::Relay;
use serde::Serialize;
use sluice_dataplane::journal::JournalError;
use sluice_hugepages::tables::Durability;

/// The least of a plain writer's IOPS.
const IOPS_BUDGET: f64 = 0.8;
/// The most of a bare write's and the memory contract's latency together.
const LATENCY_BUDGET: f64 = 1.3;
const WRITE_LEN: usize = 4096;
const DEPTH: usize = 32;

#[derive(Debug, Parser)]
#[command(about = "Cost of the local journal, against the disk's own")]
struct Arguments {
    /// Of each: so many rounds; the median of their ratios counts.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Writes of a round, 32 at a time; 8192 at most.
    #[arg(long, default_value_t = 2048)]
    writes: usize,
    /// Writes of a round, one at a time; 2048 at most.
    #[arg(long, default_value_t = 200)]
    singles: usize,
    /// Where the file is made, and removed: a directory on a real disk.
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
    #[arg(long)]
    json: bool,
}

/// One round.
#[derive(Clone, Copy, Debug)]
struct Round {
    journal_iops: f64,
    plain_iops: f64,
    bare_iops: f64,
    memory_iops: f64,
    /// Writes in one write of the device.
    journal_group: f64,
    plain_group: f64,
    journal_p50: Duration,
    memory_p50: Duration,
    dsync_p50: Duration,
}

impl Round {
    fn iops_ratio(&self) -> f64 {
        self.journal_iops / self.plain_iops
    }

    fn p50_ratio(&self) -> f64 {
        self.journal_p50.as_secs_f64() / (self.memory_p50 + self.dsync_p50).as_secs_f64()
    }
}

#[derive(Debug, Serialize)]
struct Report {
    directory: PathBuf,
    rounds: usize,
    journal_iops: f64,
    plain_iops: f64,
    /// The plain writer with nothing before it.
    bare_iops: f64,
    /// With contract memory: what worker and model computer do at most here.
    memory_iops: f64,
    journal_group: f64,
    plain_group: f64,
    /// At least `iops_budget`.
    iops_ratio: f64,
    iops_budget: f64,
    journal_p50_us: f64,
    memory_p50_us: f64,
    dsync_p50_us: f64,
    /// Over the sum of the other two: at most `p50_budget`.
    p50_ratio: f64,
    p50_budget: f64,
    budgets_met: bool,
}

/// The journal's file, gone at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is seen by its name.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(report) => {
            show(&report, arguments.json);
            if report.budgets_met {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!(
                "bench/run journal: {error}; --directory names another place, on a disk that takes O_DIRECT"
            );
            ExitCode::from(2)
        }
    }
}

/// What else runs on this machine is not to be measured: this thread goes before it
/// as far as it may.
fn go_first() {
    // SAFETY: the calling process's own priority; a refusal changes nothing.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
}

/// This thread is the worker's and spins, on a core of its own as `dataplane.cpu`
/// gives it one; the journal's thread and the plain writer's keep off it. That core,
/// or `None` where there is no other.
fn take_core() -> Option<usize> {
    let cores = std::thread::available_parallelism().ok()?.get();
    let core = cores.checked_sub(1).filter(|&core| core > 0)?;
    set_cores(|other| other == core).then_some(core)
}

/// Has this thread run on these cores only; whether it does.
fn set_cores(may_run: impl Fn(usize) -> bool) -> bool {
    // SAFETY: a cpu_set_t of zeroes is an empty set, and CPU_SET is within CPU_SETSIZE.
    // A set without a usable core is refused, which changes nothing.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for core in (0..libc::CPU_SETSIZE as usize).filter(|&core| may_run(core)) {
            libc::CPU_SET(core, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) == 0
    }
}

fn measure(arguments: &Arguments) -> Result<Report, JournalError> {
    let name = format!("sluice-journal-bench-{}", std::process::id());
    let scratch = Scratch(arguments.directory.join(name));
    let (writes, singles) = (arguments.writes.min(8192), arguments.singles.min(2048));
    go_first();
    let core = take_core();
    let mut memory = Relay::start(Durability::Memory, None, core)?;
    let mut journal = Relay::start(Durability::Journal, Some(&scratch.0), core)?;
    let mut plain = Plain::open(&scratch.0, core).map_err(|source| JournalError::Os {
        what: "open",
        path: scratch.0.clone(),
        source,
    })?;
    let mut rounds = Vec::new();
    // The first warms up.
    for number in 0..=arguments.rounds {
        let round = round(
            &mut journal,
            &mut memory,
            &mut plain,
            number,
            (writes, singles),
        );
        if number > 0 {
            rounds.push(round);
        }
    }
    Ok(report(&arguments.directory, &rounds))
}

fn round(
    journal: &mut Relay,
    memory: &mut Relay,
    plain: &mut Plain,
    number: usize,
    (writes, singles): (usize, usize),
) -> Round {
    let mut through = || {
        let groups = journal.groups();
        let iops = per_second(writes, || journal.write(writes, DEPTH));
        let group = writes as f64 / (journal.groups() - groups) as f64;
        journal.drain();
        (iops, group)
    };
    let mut past = || {
        let groups = plain.groups();
        let iops = per_second(writes, || plain.write_behind(memory, writes, DEPTH));
        let group = writes as f64 / (plain.groups() - groups) as f64;
        memory.drain();
        (iops, group)
    };
    let ((journal_iops, journal_group), (plain_iops, plain_group)) = if number.is_multiple_of(2) {
        let first = through();
        (first, past())
    } else {
        let first = past();
        (through(), first)
    };
    let bare_iops = per_second(writes, || plain.write(writes, DEPTH));
    let memory_iops = per_second(writes, || memory.write(writes, DEPTH));
    memory.drain();
    // In small turns: a disk's latency moves in the time that one of them takes.
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..singles.div_ceil(20) {
        journal.write_singly(20, &mut times[0]);
        memory.write_singly(20, &mut times[1]);
        plain.write_singly(20, &mut times[2]);
    }
    journal.drain();
    memory.drain();
    let [journal_p50, memory_p50, dsync_p50] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    Round {
        journal_iops,
        plain_iops,
        bare_iops,
        memory_iops,
        journal_group,
        plain_group,
        journal_p50,
        memory_p50,
        dsync_p50,
    }
}

fn per_second(count: usize, work: impl FnOnce()) -> f64 {
    let begun = std::time::Instant::now();
    work();
    count as f64 / begun.elapsed().as_secs_f64()
}

fn report(directory: &Path, rounds: &[Round]) -> Report {
    let median = |of: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (iops_ratio, p50_ratio) = (median(Round::iops_ratio), median(Round::p50_ratio));
    Report {
        directory: directory.to_owned(),
        rounds: rounds.len(),
        journal_iops: median(|round| round.journal_iops),
        plain_iops: median(|round| round.plain_iops),
        bare_iops: median(|round| round.bare_iops),
        memory_iops: median(|round| round.memory_iops),
        journal_group: median(|round| round.journal_group),
        plain_group: median(|round| round.plain_group),
        iops_ratio,
        iops_budget: IOPS_BUDGET,
        journal_p50_us: median(|round| round.journal_p50.as_secs_f64() * 1e6),
        memory_p50_us: median(|round| round.memory_p50.as_secs_f64() * 1e6),
        dsync_p50_us: median(|round| round.dsync_p50.as_secs_f64() * 1e6),
        p50_ratio,
        p50_budget: LATENCY_BUDGET,
        budgets_met: iops_ratio >= IOPS_BUDGET && p50_ratio <= LATENCY_BUDGET,
    }
}

fn show(report: &Report, json: bool) {
    if json {
        println!("{}", serde_json::to_string(report).expect("plain data"));
        return;
    }
    let verdict = |met: bool| if met { "PASS       " } else { "over budget" };
    println!(
        "{}  {:.2}x (budget >= {IOPS_BUDGET}x)  4 KiB writes, {DEPTH} at a time: {:.0} IOPS with contract journal \
         in groups of {:.1}; {:.0} with a plain group-commit writer in its place, in groups of {:.1}",
        verdict(report.iops_ratio >= IOPS_BUDGET),
        report.iops_ratio,
        report.journal_iops,
        report.journal_group,
        report.plain_iops,
        report.plain_group,
    );
    println!(
        "{}  {:.2}x (budget <= {LATENCY_BUDGET}x)  4 KiB writes, one at a time, p50: {:.0} us with contract journal; \
         {:.0} us an O_DSYNC write + {:.0} us with contract memory",
        verdict(report.p50_ratio <= LATENCY_BUDGET),
        report.p50_ratio,
        report.journal_p50_us,
        report.dsync_p50_us,
        report.memory_p50_us,
    );
    println!(
        "             for comparison: that writer alone, fed from memory, {:.0} IOPS ({:.2}x); this worker with \
         contract memory {:.0}",
        report.bare_iops,
        report.journal_iops / report.bare_iops,
        report.memory_iops,
    );
    println!(
        "median of {} rounds, in {:?}",
        report.rounds, report.directory
    );
}

//! `bench/run reservation scale`: what ten thousand reservations cost. The look-up when a
//! connection is set up (B-8), an update as control's message asks for it (B-7), both on the
//! worker's own registry and pool; and `sluicectl -j reserve show` of all rows, as a process.
//! Ends with 1 if a budget is missed.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use sluice_bench::random::Random;
use sluice_dataplane::worker::buffers::Registry;
use sluice_hugepages::pool::{FRAME_LEN, Pool, Reservation};
use sluice_hugepages::shm::{Birth, SegmentReader, SegmentWriter};
use sluice_hugepages::tables::{
    self, Command, Completion, Outcome, ReservationSize, ReservationTarget,
};
use sluice_proto::Time;

const LOOK_UP_BUDGET_NS: f64 = 200.0;
const UPDATE_BUDGET_US: f64 = 10.0;
const SHOW_BUDGET_MS: f64 = 100.0;
/// Of each reservation: what one connection keeps.
const FRAMES_MIN: u64 = 4;
/// What an update adds, and the next takes away.
const FRAMES_MORE: u64 = 16;
const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

#[derive(Debug, Parser)]
#[command(about = "Cost of a look-up, an update and a listing with many reservations")]
struct Arguments {
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(8..=10_000))]
    reservations: u16,
    /// Of each kind of measurement; the median of their means counts.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    #[arg(long)]
    json: bool,
}

/// Times are medians of the rounds' means.
#[derive(Debug, Serialize)]
struct Report {
    reservations: usize,
    look_up_ns: f64,
    /// Of connections that find none.
    look_up_none_ns: f64,
    look_up_budget_ns: f64,
    /// A message is read, done and answered; 64 KiB more, or less.
    update_us: f64,
    /// The same of a MiB.
    update_mib_us: f64,
    update_budget_us: f64,
    /// The process from its start to its end.
    show_ms: f64,
    show_bytes: usize,
    show_budget_ms: f64,
    /// All rows read out of the segment.
    rows_ms: f64,
    budgets_met: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(report) => {
            if arguments.json {
                println!("{}", serde_json::to_string(&report).expect("plain data"));
            } else {
                print(&report);
            }
            ExitCode::from(u8::from(!report.budgets_met))
        }
        Err(error) => {
            eprintln!("reservation-scale: {error}");
            ExitCode::from(2)
        }
    }
}

fn print(report: &Report) {
    println!("{} reservations:", report.reservations);
    println!(
        "  look-up {:.0} ns (budget {LOOK_UP_BUDGET_NS}), of a connection that has none {:.0} ns",
        report.look_up_ns, report.look_up_none_ns
    );
    println!(
        "  update {:.2} us (budget {UPDATE_BUDGET_US}), of a MiB {:.2} us",
        report.update_us, report.update_mib_us
    );
    println!(
        "  sluicectl -j reserve show {:.1} ms (budget {SHOW_BUDGET_MS}) for {} bytes, of which rows {:.1} ms",
        report.show_ms, report.show_bytes, report.rows_ms
    );
}

/// As the worker has them: every third for a pair, a pair and port, a buffer id.
struct Reserved {
    registry: Registry,
    pool: Pool,
    targets: Vec<ReservationTarget>,
}

fn remote(number: u16) -> SocketAddrV4 {
    let address = Ipv4Addr::new(198, 20, 0, 0).to_bits() + u32::from(number);
    SocketAddrV4::new(Ipv4Addr::from_bits(address), 3260)
}

fn target(number: u16) -> ReservationTarget {
    match number % 3 {
        0 => ReservationTarget::Pair {
            local: LOCAL,
            remote: *remote(number).ip(),
        },
        1 => ReservationTarget::PairPort {
            local: LOCAL,
            remote: remote(number),
        },
        // Ids from 1 up; the others' numbers come from the top.
        _ => ReservationTarget::Connection {
            buffer_id: number / 3 + 1,
        },
    }
}

fn size(frames: u64) -> ReservationSize {
    ReservationSize {
        bytes: frames * FRAME_LEN as u64,
        automatic: false,
        sessions: 0,
        connections: 0,
    }
}

impl Reserved {
    fn of(count: u16) -> Result<Self, String> {
        let names: Vec<String> = (0..count).map(|number| format!("iqn.{number}")).collect();
        let clients = names.iter().map(String::as_str).zip(0..count);
        let registry = Registry::new(clients.map(|(name, number)| (name, LOCAL, remote(number))));
        let frames = u64::from(count) * FRAMES_MIN + 16 * 1024;
        let pages = usize::try_from(frames / 16).expect("some thousand pages");
        let mut reserved = Self {
            registry,
            pool: Pool::anonymous(pages),
            targets: (0..count).map(target).collect(),
        };
        for number in 0..usize::from(count) {
            reserved.update(number, FRAMES_MIN)?;
        }
        Ok(reserved)
    }

    /// A message of control's, from its words to those of the answer.
    fn update(&mut self, number: usize, frames: u64) -> Result<(), String> {
        let command = Command::Reserve {
            target: self.targets[number],
            size: size(frames),
        };
        let message = std::hint::black_box(command.encode(number as u64));
        let (id, command) = Command::decode(&message);
        let command = command.ok_or("a message that is none")?;
        let answer = self
            .registry
            .command(Time::ZERO, &mut self.pool, &command)
            .ok_or("a command about buffers that is none")?;
        let completion = Completion {
            buffers: answer.buffers,
            ..Completion::new(id, answer.outcome, 0)
        };
        std::hint::black_box(completion.encode());
        while self.registry.next_notice().is_some() {}
        if answer.outcome == Outcome::Done {
            Ok(())
        } else {
            Err(format!("{:?}: {:?}", self.targets[number], answer.outcome))
        }
    }
}

fn measure(arguments: &Arguments) -> Result<Report, String> {
    const LOOK_UPS: u32 = 100_000;
    const UPDATES: u32 = 2_000;
    let mut reserved = Reserved::of(arguments.reservations)?;
    let count = u64::from(arguments.reservations);
    let mut random = Random::new(5);
    let mut draw = |bound: u64| u16::try_from(random.below(bound)).expect("16 bits");
    let (mut found, mut none) = (Vec::new(), Vec::new());
    let (mut updates, mut updates_mib) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        // Drawn before: what is measured is the look-up, in no order that a cache would like.
        let asked: Vec<_> = (0..LOOK_UPS)
            .map(|_| draw(count))
            .map(|number| match target(number) {
                ReservationTarget::Connection { buffer_id } => (remote(number), Some(buffer_id)),
                _ => (remote(number), None),
            })
            .collect();
        found.push(look_up(&reserved, &asked, true)?);
        let unknown: Vec<_> = (0..LOOK_UPS)
            .map(|_| (remote(60_000 + draw(5_000)), None))
            .collect();
        none.push(look_up(&reserved, &unknown, false)?);
        for (more, each) in [(FRAMES_MORE, &mut updates), (256, &mut updates_mib)] {
            let numbers: Vec<_> = (0..UPDATES / 2).map(|_| draw(count)).collect();
            let begun = Instant::now();
            for number in numbers {
                reserved.update(number.into(), FRAMES_MIN + more)?;
                reserved.update(number.into(), FRAMES_MIN)?;
            }
            each.push(begun.elapsed().as_secs_f64() * 1e6 / f64::from(UPDATES));
        }
    }
    let place = Place::new();
    let rows_ms = shown(&mut reserved, &place.0, arguments.rounds)?;
    let mut shows = Vec::new();
    let mut show_bytes = 0;
    for _ in 0..arguments.rounds {
        let (took, bytes) = show(&place.0, usize::from(arguments.reservations))?;
        shows.push(took.as_secs_f64() * 1e3);
        show_bytes = bytes;
    }
    let mut report = Report {
        reservations: usize::from(arguments.reservations),
        look_up_ns: median(found),
        look_up_none_ns: median(none),
        look_up_budget_ns: LOOK_UP_BUDGET_NS,
        update_us: median(updates),
        update_mib_us: median(updates_mib),
        update_budget_us: UPDATE_BUDGET_US,
        show_ms: median(shows),
        show_bytes,
        show_budget_ms: SHOW_BUDGET_MS,
        rows_ms,
        budgets_met: false,
    };
    report.budgets_met = report.look_up_ns < LOOK_UP_BUDGET_NS
        && report.update_us < UPDATE_BUDGET_US
        && report.show_ms < SHOW_BUDGET_MS;
    Ok(report)
}

/// Nanoseconds each.
fn look_up(
    reserved: &Reserved,
    asked: &[(SocketAddrV4, Option<u16>)],
    there: bool,
) -> Result<f64, String> {
    let mut missed = 0_usize;
    let begun = Instant::now();
    for &(remote, presents) in asked {
        let found = reserved.registry.find(LOCAL, remote, presents);
        missed += usize::from((found != Reservation::NONE) != there);
    }
    let took = begun.elapsed();
    if missed > 0 {
        return Err(format!("{missed} look-ups found what they must not"));
    }
    Ok(took.as_secs_f64() * 1e9 / asked.len() as f64)
}

/// Shows all rows in a segment of their own; milliseconds that reading them takes.
fn shown(reserved: &mut Reserved, path: &Path, rounds: usize) -> Result<f64, String> {
    let said = |error: sluice_hugepages::shm::SegmentError| error.to_string();
    let mut segment = SegmentWriter::create(path, Birth::now()).map_err(said)?;
    reserved.registry.show_some(reserved.targets.len());
    while let Some((place, row)) = reserved.registry.next_shown(&reserved.pool) {
        segment.put(place, &row);
    }
    let reader = SegmentReader::open(path).map_err(said)?;
    let mut took = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        let rows = reader.rows::<tables::Reservation>().rows.len();
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        if rows != reserved.targets.len() {
            return Err(format!("{rows} of {} rows", reserved.targets.len()));
        }
    }
    // Kept open: the segment is that of a data plane which lives.
    std::mem::forget(segment);
    Ok(median(took))
}

/// How long `sluicectl` takes to list them, and how much it says.
fn show(segment: &Path, rows: usize) -> Result<(Duration, usize), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let sluicectl = own.with_file_name("sluicectl");
    let begun = Instant::now();
    let output = Process::new(&sluicectl)
        .arg("--segment")
        .arg(segment)
        .args(["-j", "reserve", "show"])
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", sluicectl.display()))?;
    let took = begun.elapsed();
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("sluicectl -j reserve show: {error}"))?;
    let listed = listed.as_array().map_or(0, Vec::len);
    if !output.status.success() || listed != rows {
        return Err(format!("sluicectl shows {listed} of {rows} rows"));
    }
    Ok((took, output.stdout.len()))
}

/// A segment's file, removed when dropped.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let name = format!("sluice-reservation-scale-{}.seg", std::process::id());
        Self(Path::new("/dev/shm").join(name))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

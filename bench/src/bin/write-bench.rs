//! `bench/run write`, its first half: what a 4 KiB write costs the worker, in
//! TSC ticks, from the frames of its PDU to the frames of its answer, and what
//! its flush costs later. The real worker on memory ports between model hosts;
//! only the worker's steps are timed, the ones that find nothing to do included.

#![expect(clippy::print_stdout, reason = "a command-line program")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use sluice_bench::tsc;
use sluice_hugepages::tables::{FlushSetting, Scope};
use sluice_sim::site::{Session, Site, Size};

/// Writes a second that one core must acknowledge.
const BUDGET: f64 = 120_000.0;
const WRITE_LEN: u32 = 4096;
const BLOCK_LEN: u32 = 512;
/// The part of the volume that a round writes once, so that nothing is superseded: 8 MiB.
const ROUND_WRITES: u32 = 2048;
const DEPTH: u32 = 32;

#[derive(Debug, Parser)]
#[command(about = "Cost of a 4 KiB write, acknowledged and flushed")]
struct Arguments {
    /// Rounds of 2048 writes; the median counts.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    tsc_mhz: f64,
    /// TSC ticks of the worker a write, to its answer.
    ack_ticks: f64,
    /// The same for its flush, the sync that follows it included.
    flush_ticks: f64,
    /// Writes a second that one core acknowledges.
    ack_per_second: f64,
    /// The same if it flushes as many meanwhile.
    ack_and_flush_per_second: f64,
    /// `ack_per_second` over the budget of 120,000: at least 1.
    ack_ratio: f64,
}

/// Relaxed on both sides: one thread counts and reads.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static TICKS: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let began = (Instant::now(), tsc::now());
    let blocks = (ROUND_WRITES * WRITE_LEN / BLOCK_LEN) as usize;
    let size = Size {
        log_len: 64 << 20,
        ..Size::SMALL
    };
    let mut site = Site::of(size, |storage| storage.resize(blocks));
    let mut session = site.login(0, 0, 0);
    site.around_step = [
        || BEGUN.store(tsc::now(), Relaxed),
        || {
            TICKS.fetch_add(tsc::now() - BEGUN.load(Relaxed), Relaxed);
        },
    ];
    // The first round warms up.
    let _ = round(&mut site, &mut session);
    let rounds: Vec<(f64, f64)> = (0..arguments.rounds)
        .map(|_| round(&mut site, &mut session))
        .collect();
    let ticks_per_second = (tsc::now() - began.1) as f64 / began.0.elapsed().as_secs_f64();
    let ack_ticks = median(rounds.iter().map(|round| round.0));
    let flush_ticks = median(rounds.iter().map(|round| round.1));
    let ack_per_second = ticks_per_second / ack_ticks;
    let report = Report {
        tsc_mhz: ticks_per_second / 1e6,
        ack_ticks,
        flush_ticks,
        ack_per_second,
        ack_and_flush_per_second: ticks_per_second / (ack_ticks + flush_ticks),
        ack_ratio: ack_per_second / BUDGET,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report).expect("plain data"));
    } else {
        println!(
            "a 4 KiB write: {ack_ticks:.0} ticks to its answer, {flush_ticks:.0} for its flush, at {:.0} MHz\n\
             one core acknowledges {ack_per_second:.0} a second: {:.2}x of the budget of {BUDGET} (with the flush {:.0})",
            report.tsc_mhz, report.ack_ratio, report.ack_and_flush_per_second
        );
    }
    if report.ack_ratio >= 1.0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Ticks a write to its answer, and for its flush.
fn round(site: &mut Site, session: &mut Session) -> (f64, f64) {
    flush_policy(site, u64::MAX, Duration::from_secs(3600));
    TICKS.store(0, Relaxed);
    let data = [0x5A; WRITE_LEN as usize];
    for batch in 0..ROUND_WRITES / DEPTH {
        let mut bytes = Vec::new();
        let mut last = 0;
        for number in 0..DEPTH {
            let lba = u64::from((batch * DEPTH + number) * (WRITE_LEN / BLOCK_LEN));
            let cdb = sluice_proto::scsi::cdb::write(lba, WRITE_LEN / BLOCK_LEN);
            // F and W: immediate data, all of it (RFC 7143 11.3.1).
            let pdu = Site::command(session, 0x20, WRITE_LEN, &cdb).data(&data);
            last = pdu.itt();
            bytes.extend_from_slice(&pdu.bytes());
        }
        site.send(session, &bytes);
        // One connection answers writes that are taken in their order.
        let (status, _) = site.finish(session, last).expect("an answer");
        assert_eq!(status, 0, "GOOD");
    }
    let ack = TICKS.swap(0, Relaxed);
    assert!(
        site.worker.relay.dirty_bytes() >= u64::from(ROUND_WRITES * WRITE_LEN),
        "nothing was flushed meanwhile"
    );
    flush_policy(site, 0, Duration::from_millis(10));
    while !site.worker.relay.is_drained() {
        site.run(Duration::from_millis(5));
    }
    let flush = TICKS.swap(0, Relaxed);
    let per_write = |ticks: u64| ticks as f64 / f64::from(ROUND_WRITES);
    (per_write(ack), per_write(flush))
}

fn flush_policy(site: &mut Site, threshold_bytes: u64, period: Duration) {
    let setting = FlushSetting {
        threshold_bytes: Some(threshold_bytes),
        period_ms: u64::try_from(period.as_millis()).ok(),
        ..FlushSetting::default()
    };
    site.worker.relay.set_flush(&Scope::All, &setting);
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

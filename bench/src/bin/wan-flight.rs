//! `wan-flight`: how much is in flight from one address to another, from every packet on a
//! network device, until SIGINT or SIGTERM. One line of JSON.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{io, thread};

use clap::Parser;
use serde::Serialize;
use sluice_bench::flight::{Flight, Header, Pair};
use sluice_bench::host;
use sluice_bench::packets::{BATCH, PacketPort, Store};

/// Room for the headers.
const CUT_LEN: u32 = 160;
/// Packets are looked at so often, and have passed when they are looked at.
const TURN: Duration = Duration::from_millis(1);

/// Exit codes: 0 done, 1 more was in flight than the limit, 2 usage, 3 no capture.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// A device of this network namespace.
    #[arg(long)]
    device: String,
    /// Who sends.
    #[arg(long)]
    local: Ipv4Addr,
    /// And to whom.
    #[arg(long)]
    remote: Ipv4Addr,
    #[arg(long)]
    remote_port: Option<u16>,
    /// More than this is told as a fault.
    #[arg(long)]
    limit_bytes: Option<u64>,
    #[arg(long, default_value_t = 600)]
    seconds_max: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    seconds: f64,
    flows: usize,
    segments: u64,
    resent: u64,
    bytes: u64,
    in_flight_max_bytes: u64,
    in_flight_max_at_unix_s: f64,
    limit_bytes: Option<u64>,
    /// Longest time without a segment with payload.
    gap_max_ms: f64,
    gap_max_at_unix_s: f64,
    /// Packets that the capture has missed.
    missed: u64,
}

fn main() -> ExitCode {
    let stop = host::stop_on(&[libc::SIGINT, libc::SIGTERM]);
    let arguments = Arguments::parse();
    host::precise_timers();
    if let Err(error) = host::run_realtime(5) {
        eprintln!("wan-flight: no real-time priority ({error}): gaps may be of this process");
    }
    match capture(&arguments, stop) {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).expect("plain numbers"));
            let limit = arguments.limit_bytes.unwrap_or(u64::MAX);
            ExitCode::from(u8::from(report.in_flight_max_bytes > limit))
        }
        Err(error) => {
            eprintln!("wan-flight: {}: {error}", arguments.device);
            ExitCode::from(3)
        }
    }
}

fn capture(arguments: &Arguments, stop: &AtomicBool) -> io::Result<Report> {
    let mut port = PacketPort::tap(&arguments.device)?;
    let mut store = Store::new(CUT_LEN, 1 << 20);
    let mut flight = Flight::new(Pair {
        local: arguments.local,
        remote: arguments.remote,
        remote_port: arguments.remote_port,
    });
    let (begun, begun_unix) = (
        Instant::now(),
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    );
    let time_max = Duration::from_secs(arguments.seconds_max);
    let mut received = Vec::with_capacity(BATCH);
    let mut missed = 0;
    while begun.elapsed() < time_max && !stop.load(Ordering::Relaxed) {
        port.receive(&mut store, &mut received)?;
        let (at, full) = (begun.elapsed(), received.len() == BATCH);
        for frame in received.drain(..) {
            if let Some(header) = Header::read(store.bytes(frame)) {
                flight.see(at, &header);
            }
            store.release(frame.slot);
        }
        if !full {
            missed += port.socket_drops()?;
            thread::sleep(TURN);
        }
    }
    let unix_s = |at: Duration| (begun_unix + at).as_secs_f64();
    Ok(Report {
        seconds: begun.elapsed().as_secs_f64(),
        flows: flight.flows(),
        segments: flight.segments,
        resent: flight.resent,
        bytes: flight.bytes,
        in_flight_max_bytes: flight.most.value,
        in_flight_max_at_unix_s: unix_s(flight.most.at),
        limit_bytes: arguments.limit_bytes,
        gap_max_ms: flight.gap.value as f64 / 1e6,
        gap_max_at_unix_s: unix_s(flight.gap.at),
        missed,
    })
}

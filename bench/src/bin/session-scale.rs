//! `bench/run session-scale`: what one more idle iSCSI session costs a routed
//! packet and a write. The real worker on memory ports, with one idle session
//! and with thousands, in one run; only the worker's steps are timed. Idle means
//! silent: pings and keep-alives, some hundred a second for thousands of
//! sessions, are off.

#![expect(clippy::print_stdout, reason = "a command-line program")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::Parser;
use serde::Serialize;
use sluice_bench::tsc;
use sluice_hugepages::pool::BURST_LEN;
use sluice_sim::site::{Session, Site, Size};

/// Packets come at 200,000 a second: a burst of 64 each 320 us. So the share of
/// what the worker does by the clock (sweeps, timers) is what it is at that rate.
const BURST_PERIOD: Duration = Duration::from_micros(320);

#[derive(Debug, Parser)]
#[command(about = "Cost of a packet and of a write with many idle sessions")]
struct Arguments {
    #[arg(long, default_value_t = 5000)]
    sessions: u16,
    /// Bursts of 64 packets a round.
    #[arg(long, default_value_t = 500)]
    bursts: u32,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    #[arg(long, default_value_t = 300)]
    writes: u32,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    sessions: u16,
    packet_ticks_one: f64,
    packet_ticks_many: f64,
    /// Budget: at most 1.1.
    packet_ratio: f64,
    write_ticks_one: f64,
    write_ticks_many: f64,
    write_ratio: f64,
}

/// Relaxed on both sides: one thread counts and reads.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static TICKS: AtomicU64 = AtomicU64::new(0);

fn main() {
    let arguments = Arguments::parse();
    let mut site = Site::of(
        Size {
            sessions_max: usize::from(arguments.sessions) + 16,
            // A page a direction on either side of each session, and room to work.
            pool_pages: usize::from(arguments.sessions) * 4 + 1024,
            log_len: 512 * 1024 * 1024,
            wan_pages: 1,
            silence_max: Duration::from_secs(3600),
            asks_idle: false,
        },
        |_| (),
    );
    let mut active = site.login(0, 0, 0);
    let idle = site.login(0, 0, 1);
    site.leave_idle(&idle);
    // The first round warms caches and tables up, and counts for nothing.
    let _ = measure(&arguments, &mut site, &mut active);
    let (packet_ticks_one, write_ticks_one) = measure(&arguments, &mut site, &mut active);
    for isid in 2..=arguments.sessions {
        let idle = site.login(0, 0, isid);
        site.leave_idle(&idle);
    }
    assert!(
        site.usage().sessions > usize::from(arguments.sessions),
        "every idle session is still there"
    );
    let (packet_ticks_many, write_ticks_many) = measure(&arguments, &mut site, &mut active);
    assert!(
        site.usage().sessions > usize::from(arguments.sessions),
        "every idle session is still there"
    );
    let report = Report {
        sessions: arguments.sessions,
        packet_ticks_one,
        packet_ticks_many,
        packet_ratio: packet_ticks_many / packet_ticks_one,
        write_ticks_one,
        write_ticks_many,
        write_ratio: write_ticks_many / write_ticks_one,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report).expect("plain data"));
    } else {
        println!("{report:#?}");
    }
}

/// TSC ticks of the worker a routed packet, and a write with its read back and flush.
fn measure(arguments: &Arguments, site: &mut Site, session: &mut Session) -> (f64, f64) {
    site.around_step = [
        || BEGUN.store(tsc::now(), Relaxed),
        || {
            TICKS.fetch_add(tsc::now() - BEGUN.load(Relaxed), Relaxed);
        },
    ];
    let frame = datagram();
    let packets: Vec<f64> = (0..arguments.rounds)
        .map(|_| {
            TICKS.store(0, Relaxed);
            let mut sent = 0;
            for _ in 0..arguments.bursts {
                for _ in 0..BURST_LEN {
                    site.inject_lan(&frame);
                }
                sent += site.step(BURST_PERIOD);
            }
            assert!(
                sent >= arguments.bursts as usize * BURST_LEN,
                "every packet is routed"
            );
            TICKS.load(Relaxed) as f64 / sent as f64
        })
        .collect();
    let mut number = 1;
    let writes: Vec<f64> = (0..arguments.rounds.div_ceil(3))
        .map(|_| {
            TICKS.store(0, Relaxed);
            for _ in 0..arguments.writes {
                number += 1;
                let status = site.write(session, u64::from(number % 512), number);
                assert_eq!(status, Some(0), "GOOD");
            }
            TICKS.load(Relaxed) as f64 / f64::from(arguments.writes)
        })
        .collect();
    site.around_step = [|| (), || ()];
    (median(packets), median(writes))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A UDP datagram of 60 bytes with its link header, from the computer to the
/// discard port of the storage's host: routed like any other.
fn datagram() -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 0x10, 8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&46_u16.to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[26..30].copy_from_slice(&[198, 18, 0, 10]);
    frame[30..34].copy_from_slice(&[198, 19, 0, 10]);
    let sum = !sluice_dataplane::checksum::sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[36..38].copy_from_slice(&9_u16.to_be_bytes());
    frame[38..40].copy_from_slice(&26_u16.to_be_bytes());
    frame
}

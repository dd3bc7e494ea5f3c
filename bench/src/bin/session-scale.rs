//! `bench/run session-scale`: what one more idle iSCSI session costs a routed
//! packet and a write. Two real workers on memory ports, one with one idle
//! session and one with thousands, measured in turns; only their steps are
//! timed. Idle means silent: pings and keep-alives, some hundred a second for
//! thousands of sessions, are off. Ends with 1 if the budget is missed.

#![expect(clippy::print_stdout, reason = "a command-line program")]

use std::process::ExitCode;
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
/// What thousands of idle sessions may make a packet cost, times what it costs with one.
const BUDGET: f64 = 1.1;

#[derive(Debug, Parser)]
#[command(about = "Cost of a packet and of a write with many idle sessions")]
struct Arguments {
    #[arg(long, default_value_t = 5000)]
    sessions: u16,
    /// Bursts of 64 packets a round.
    #[arg(long, default_value_t = 500)]
    bursts: u32,
    /// Pairs of rounds; the median of their ratios counts.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    #[arg(long, default_value_t = 100)]
    writes: u32,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    sessions: u16,
    packet_ticks_one: f64,
    packet_ticks_many: f64,
    packet_ratio: f64,
    write_ticks_one: f64,
    write_ticks_many: f64,
    write_ratio: f64,
    /// Of `packet_ratio`.
    budget: f64,
}

/// Relaxed on both sides: one thread counts and reads.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static TICKS: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut one = Relay::with_idle(&arguments, 1);
    let mut many = Relay::with_idle(&arguments, arguments.sessions);
    for relay in [&mut one, &mut many] {
        // Warms caches and tables up, and counts for nothing.
        let _ = relay.packets(arguments.bursts);
        let _ = relay.writes(arguments.writes);
    }
    let mut packets = Vec::new();
    let mut writes = Vec::new();
    // In turns, so that a noisy moment meets both; the first of a pair alternates.
    for round in 0..arguments.rounds {
        let pair =
            |measure: &mut dyn FnMut(&mut Relay) -> f64, one: &mut Relay, many: &mut Relay| {
                if round % 2 == 0 {
                    let first = measure(one);
                    (first, measure(many))
                } else {
                    let first = measure(many);
                    (measure(one), first)
                }
            };
        packets.push(pair(
            &mut |relay| relay.packets(arguments.bursts),
            &mut one,
            &mut many,
        ));
        writes.push(pair(
            &mut |relay| relay.writes(arguments.writes),
            &mut one,
            &mut many,
        ));
    }
    let many_sessions = many.site.usage().sessions;
    assert!(
        many_sessions > usize::from(arguments.sessions),
        "every idle session is still there"
    );
    let report = Report {
        sessions: arguments.sessions,
        packet_ticks_one: median(packets.iter().map(|pair| pair.0)),
        packet_ticks_many: median(packets.iter().map(|pair| pair.1)),
        packet_ratio: median(packets.iter().map(|pair| pair.1 / pair.0)),
        write_ticks_one: median(writes.iter().map(|pair| pair.0)),
        write_ticks_many: median(writes.iter().map(|pair| pair.1)),
        write_ratio: median(writes.iter().map(|pair| pair.1 / pair.0)),
        budget: BUDGET,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report).expect("plain data"));
    } else {
        println!(
            "{} idle sessions against 1, medians of {} paired rounds:",
            report.sessions, arguments.rounds
        );
        println!(
            "  a routed packet {:.0} ticks against {:.0}: {:.3}x (budget {BUDGET}x)",
            report.packet_ticks_many, report.packet_ticks_one, report.packet_ratio
        );
        println!(
            "  a write, its read back and flush {:.0} ticks against {:.0}: {:.3}x",
            report.write_ticks_many, report.write_ticks_one, report.write_ratio
        );
    }
    if report.packet_ratio <= BUDGET {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A worker with one session at work and others idle.
struct Relay {
    site: Site,
    active: Session,
    number: u32,
}

impl Relay {
    fn with_idle(arguments: &Arguments, sessions: u16) -> Self {
        let mut site = Site::of(
            Size {
                // The same tables and memory, however many of them are in use.
                sessions_max: usize::from(arguments.sessions) + 16,
                // A page a direction on either side of each session, and room to work.
                pool_pages: usize::from(arguments.sessions) * 4 + 1024,
                log_len: 512 * 1024 * 1024,
                wan_pages: 1,
                silence_max: Duration::from_secs(3600),
                asks_idle: false,
                ..Size::SMALL
            },
            |_| (),
        );
        let active = site.login(0, 0, 0);
        for isid in 1..=sessions {
            let idle = site.login(0, 0, isid);
            site.leave_idle(&idle);
        }
        site.around_step = [
            || BEGUN.store(tsc::now(), Relaxed),
            || {
                TICKS.fetch_add(tsc::now() - BEGUN.load(Relaxed), Relaxed);
            },
        ];
        Self {
            site,
            active,
            number: 1,
        }
    }

    /// TSC ticks of the worker a routed packet.
    fn packets(&mut self, bursts: u32) -> f64 {
        let frame = datagram();
        TICKS.store(0, Relaxed);
        let mut sent = 0;
        for _ in 0..bursts {
            for _ in 0..BURST_LEN {
                self.site.inject_lan(&frame);
            }
            sent += self.site.step(BURST_PERIOD);
        }
        assert!(
            sent >= bursts as usize * BURST_LEN,
            "every packet is routed"
        );
        TICKS.load(Relaxed) as f64 / sent as f64
    }

    /// TSC ticks of the worker a write with its read back and flush.
    fn writes(&mut self, writes: u32) -> f64 {
        TICKS.store(0, Relaxed);
        for _ in 0..writes {
            self.number += 1;
            let (block, stamp) = (u64::from(self.number % 512), self.number);
            let status = self.site.write(&mut self.active, block, stamp);
            assert_eq!(status, Some(0), "GOOD");
        }
        TICKS.load(Relaxed) as f64 / f64::from(writes)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
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

//! `bench/run wan-cost`: what a segment costs the TCP room that sends it. Flows that we
//! open send by the WAN's transport, those that computers open by smoltcp: both send the
//! same amount between the same two rooms in memory, in turns, with and without
//! segmentation offload. Only the sender's calls are timed. And what 10,000 idle flows
//! cost a poll and a busy flow. Ends with 1 if the budget of the latter is missed.

#![expect(clippy::print_stdout, reason = "a command-line program")]

#[path = "wan-cost/idle.rs"]
mod idle;
#[path = "wan-cost/pair.rs"]
mod pair;

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use idle::Idle;
use pair::{Cost, Pair, Sender};

/// What idle flows may make a poll and a segment cost, times what they cost beside one.
const BUDGET: f64 = 1.1;

#[derive(Debug, Parser)]
#[command(about = "CPU cost of a segment by the WAN's transport and by smoltcp, and of idle flows")]
struct Arguments {
    /// Bytes each sender sends a round, in MiB.
    #[arg(long, default_value_t = 16)]
    mib: u64,
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    #[arg(long, default_value_t = 10_000)]
    flows: u16,
    #[arg(long)]
    json: bool,
}

/// Medians of the rounds.
#[derive(Debug, Serialize)]
struct Cell {
    /// Of `send` and `poll`.
    ticks_per_mss: f64,
    /// Of `input`.
    ticks_per_ack: f64,
    acks_per_mss: f64,
    mss_per_packet: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    transport: Cell,
    transport_gso: Cell,
    smoltcp: Cell,
    smoltcp_gso: Cell,
    /// Transport over smoltcp: medians of the ratios of each round.
    mss_ratio: f64,
    mss_ratio_gso: f64,
    ack_ratio: f64,
    ack_ratio_gso: f64,
    idle: IdleReport,
    /// Of `idle.poll_ratio` and `idle.segment_ratio`.
    budget: f64,
    budgets_met: bool,
}

#[derive(Debug, Serialize)]
struct IdleReport {
    flows: u16,
    poll_ticks_one: f64,
    poll_ticks_many: f64,
    poll_ratio: f64,
    segment_ticks_one: f64,
    segment_ticks_many: f64,
    segment_ratio: f64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let [plain, gso] = [false, true].map(|gso| bulk(&arguments, gso));
    let idle = idle(&arguments);
    let ratio = |costs: &[[Cost; 2]], of: fn(&Cost) -> f64| {
        median(costs.iter().map(|[ours, theirs]| of(ours) / of(theirs)))
    };
    let budgets_met = idle.poll_ratio <= BUDGET && idle.segment_ratio <= BUDGET;
    let report = Report {
        transport: cell(&plain, 0),
        transport_gso: cell(&gso, 0),
        smoltcp: cell(&plain, 1),
        smoltcp_gso: cell(&gso, 1),
        mss_ratio: ratio(&plain, Cost::ticks_per_mss),
        mss_ratio_gso: ratio(&gso, Cost::ticks_per_mss),
        ack_ratio: ratio(&plain, Cost::ticks_per_ack),
        ack_ratio_gso: ratio(&gso, Cost::ticks_per_ack),
        idle,
        budget: BUDGET,
        budgets_met,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report).expect("plain data"));
    } else {
        print(&arguments, &report);
    }
    if budgets_met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print(arguments: &Arguments, report: &Report) {
    println!(
        "medians of {} rounds of {} MiB:",
        arguments.rounds, arguments.mib
    );
    for (name, cell, ratios) in [
        (
            "transport",
            &report.transport,
            Some((report.mss_ratio, report.ack_ratio)),
        ),
        ("smoltcp", &report.smoltcp, None),
        (
            "transport, GSO",
            &report.transport_gso,
            Some((report.mss_ratio_gso, report.ack_ratio_gso)),
        ),
        ("smoltcp, GSO", &report.smoltcp_gso, None),
    ] {
        let ratios = ratios.map_or(String::new(), |(mss, ack)| {
            format!(": {mss:.2}x and {ack:.2}x of smoltcp's")
        });
        println!(
            "  {name}: {:.0} ticks a sent MSS, {:.0} a received ACK{ratios} ({:.1} MSS a packet, {:.2} ACKs an MSS)",
            cell.ticks_per_mss, cell.ticks_per_ack, cell.mss_per_packet, cell.acks_per_mss
        );
    }
    let idle = &report.idle;
    println!("{} idle flows against 1:", idle.flows);
    println!(
        "  a poll with nothing to do {:.0} ticks against {:.0}: {:.3}x (budget {BUDGET}x)",
        idle.poll_ticks_many, idle.poll_ticks_one, idle.poll_ratio
    );
    println!(
        "  a segment of a busy flow and its ACK {:.0} ticks against {:.0}: {:.3}x (budget {BUDGET}x)",
        idle.segment_ticks_many, idle.segment_ticks_one, idle.segment_ratio
    );
}

/// What each round cost the transport and smoltcp, in turns, so that a noisy moment meets
/// both; the first of a pair alternates.
fn bulk(arguments: &Arguments, gso: bool) -> Vec<[Cost; 2]> {
    let bytes = arguments.mib << 20;
    let mut pair = Pair::new(gso);
    let mut costs = Vec::new();
    // The first two warm caches up, and count for nothing.
    for round in 0..arguments.rounds + 2 {
        let cost = if round % 2 == 0 {
            let first = pair.send(Sender::Transport, bytes);
            [first, pair.send(Sender::Smoltcp, bytes)]
        } else {
            let first = pair.send(Sender::Smoltcp, bytes);
            [pair.send(Sender::Transport, bytes), first]
        };
        if round >= 2 {
            costs.push(cost);
        }
    }
    costs
}

fn cell(costs: &[[Cost; 2]], at: usize) -> Cell {
    let median_of = |of: fn(&Cost) -> f64| median(costs.iter().map(|cost| of(&cost[at])));
    Cell {
        ticks_per_mss: median_of(Cost::ticks_per_mss),
        ticks_per_ack: median_of(Cost::ticks_per_ack),
        acks_per_mss: median_of(|cost| cost.acks as f64 / cost.segments as f64),
        mss_per_packet: median_of(|cost| cost.segments as f64 / cost.packets as f64),
    }
}

fn idle(arguments: &Arguments) -> IdleReport {
    let mut rooms = [1, arguments.flows].map(|idle| Idle::new(idle, arguments.flows));
    let (mut polls, mut segments) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds + 2 {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        let (mut poll, mut segment) = ([0.0; 2], [0.0; 2]);
        for at in order {
            poll[at] = rooms[at].poll();
            segment[at] = rooms[at].segment();
        }
        if round >= 2 {
            polls.push(poll);
            segments.push(segment);
        }
    }
    IdleReport {
        flows: arguments.flows,
        poll_ticks_one: median(polls.iter().map(|pair| pair[0])),
        poll_ticks_many: median(polls.iter().map(|pair| pair[1])),
        poll_ratio: median(polls.iter().map(|pair| pair[1] / pair[0])),
        segment_ticks_one: median(segments.iter().map(|pair| pair[0])),
        segment_ticks_many: median(segments.iter().map(|pair| pair[1])),
        segment_ratio: median(segments.iter().map(|pair| pair[1] / pair[0])),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

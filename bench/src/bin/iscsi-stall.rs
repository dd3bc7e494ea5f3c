//! `iscsi-stall`: computers that log in to a target, ask for data and read none of it, until
//! SIGINT or SIGTERM. Two lines of JSON: how many stand, when all have been tried, and how
//! many still do in the end.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use sluice_bench::host;
use sluice_bench::load::session::Login;
use sluice_bench::load::stall::{Plan, Stall, Standing};

/// Exit codes: 0 all got in and stayed, 1 some did not, 2 usage.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Portal to dial.
    #[arg(long)]
    portal: SocketAddrV4,
    /// Target name.
    #[arg(long)]
    target: String,
    #[arg(long, default_value_t = 1)]
    lun: u8,
    #[arg(long, default_value = "iqn.2004-03.example.bench:stall")]
    initiator: String,
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    sessions: u32,
    /// Logins a second.
    #[arg(long, default_value_t = 50.0)]
    per_second: f64,
    /// The first of the addresses to dial from.
    #[arg(long, default_value = "198.18.0.20")]
    first: Ipv4Addr,
    #[arg(long, default_value_t = 160, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    addresses: u32,
    /// READs that each sends.
    #[arg(long, default_value_t = 4)]
    reads: u32,
    /// Bytes a READ, a multiple of the block.
    #[arg(long, default_value_t = 262_144)]
    read_len: u32,
    #[arg(long, default_value_t = 512)]
    block_len: u32,
    /// They go after so long at the latest.
    #[arg(long, default_value_t = 600)]
    seconds_max: u64,
}

fn main() -> ExitCode {
    let stop = host::stop_on(&[libc::SIGINT, libc::SIGTERM]);
    let arguments = Arguments::parse();
    if !(arguments.per_second > 0.0 && arguments.per_second.is_finite())
        || arguments.block_len == 0
        || !arguments.read_len.is_multiple_of(arguments.block_len)
    {
        eprintln!("iscsi-stall: --per-second must be above 0, --read-len whole blocks");
        return ExitCode::from(2);
    }
    let plan = Plan {
        to: arguments.portal,
        lun: u64::from(arguments.lun) << 48,
        block_len: arguments.block_len,
        sessions: arguments.sessions,
        per_second: arguments.per_second,
        first: arguments.first,
        addresses: arguments.addresses,
        reads: arguments.reads,
        read_len: arguments.read_len,
    };
    let login = Login {
        address: SocketAddr::V4(arguments.portal),
        initiator: arguments.initiator,
        target: arguments.target,
        isid: [0; 6],
        chap: None,
        header_digest: false,
        data_digest: false,
        patience: Duration::from_secs(15),
    };
    let (mut stall, begun) = Stall::begin(&plan, &login, stop, |error| {
        eprintln!("iscsi-stall: {error}");
    });
    say(&begun);
    stall.stay(Duration::from_secs(arguments.seconds_max), stop);
    let ended = stall.standing();
    say(&ended);
    ExitCode::from(u8::from(begun.failed + ended.failed > 0))
}

fn say(standing: &Standing) {
    println!(
        "{}",
        serde_json::to_string(standing).expect("plain numbers")
    );
}

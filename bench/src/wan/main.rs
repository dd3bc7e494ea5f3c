//! The ends of a WAN path that `bench/run wan` measures: a sender on the relay's own
//! transport over a packet socket, and a sink behind the kernel's TCP that counts what
//! arrives and looks at every byte of it. The kernel's senders it is compared with are
//! iperf3's.
//!
//! ```text
//! sender ── Connection ── frames ── packet socket ── emulator ── kernel TCP ── sink
//! ```
//!
//! The sender has an address of its own on the device, which the kernel's stack beside
//! it does not know, so that stack stays silent; the peer has it as a fixed neighbour.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

mod frame;
mod sender;
mod sink;

use clap::{Parser, Subcommand, ValueEnum};
use sluice_transport::ControlKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::ExitCode;
use std::time::Duration;

/// Bytes after which the stream repeats; what stands where is known at both ends.
pub const PATTERN_LEN: usize = 1 << 16;

#[derive(Debug, Parser)]
#[command(name = "wan-bench", version, about = "The ends of a measured WAN path")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send for a time over the relay's own transport, and tell of it as JSON
    Send(Send),
    /// Take connections, count and compare what arrives, and tell of it as JSON
    Sink(Sink),
}

#[derive(Debug, clap::Args)]
struct Send {
    /// Network device of this namespace, offloads and GRO off
    #[arg(long)]
    device: String,
    /// Address of the sender, which must not be one of the kernel's
    #[arg(long)]
    source: Ipv4Addr,
    #[arg(long)]
    peer: SocketAddrV4,
    /// The peer's hardware address
    #[arg(long)]
    peer_mac: frame::Mac,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds of it that are not told of
    #[arg(long, default_value_t = 1)]
    omit: u64,
    #[arg(long, value_enum, default_value_t)]
    control: Control,
    /// Memory for what is not acknowledged, in MiB for each connection
    #[arg(long, default_value_t = 32)]
    send_limit_mib: u64,
    /// Milliseconds between two notes of what the first connection believes
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(20..))]
    course_ms: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Control {
    #[default]
    Model,
    Cubic,
}

impl From<Control> for ControlKind {
    fn from(control: Control) -> Self {
        match control {
            Control::Model => Self::Model,
            Control::Cubic => Self::Cubic,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Sink {
    #[arg(long)]
    listen: SocketAddrV4,
    #[arg(long, default_value_t = 1)]
    connections: u16,
    /// Seconds from a connection's first byte on that are not counted
    #[arg(long, default_value_t = 1.0)]
    omit: f64,
    /// Seconds that are
    #[arg(long, default_value_t = 9.0)]
    seconds: f64,
}

fn main() -> ExitCode {
    let told = match Cli::parse().command {
        Command::Send(send) => sender::run(&sender::Plan {
            device: send.device,
            source: send.source,
            peer: send.peer,
            peer_mac: send.peer_mac,
            connections: send.connections,
            time: Duration::from_secs(send.seconds),
            omit: Duration::from_secs(send.omit),
            control: send.control.into(),
            send_limit: send.send_limit_mib << 20,
            course_period: Duration::from_millis(send.course_ms),
            seed: send.seed,
        })
        .map(|report| serde_json::to_string(&report)),
        Command::Sink(sink) => sink::run(
            sink.listen,
            sink.connections,
            Duration::from_secs_f64(sink.omit),
            Duration::from_secs_f64(sink.seconds),
        )
        .map(|report| serde_json::to_string(&report)),
    };
    match told {
        Ok(json) => {
            println!("{}", json.expect("a report is plain data"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("wan-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What stands in the stream, over and over.
pub fn pattern() -> Vec<u8> {
    let mut random = sluice_bench::random::Random::new(7);
    (0..PATTERN_LEN)
        .map(|_| random.next().to_le_bytes()[0])
        .collect()
}

//! The command line as clap reads it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgGroup, ArgMatches, Command, FromArgMatches, Parser, Subcommand, ValueEnum};
use sluice_config::{FlushParameter, FlushSet};

use crate::CONFIG_VARIABLE;
use crate::amount;

/// Shows and changes a running Sluice
#[derive(Debug, Parser)]
#[command(name = "sluicectl", version, after_help = AFTER_HELP)]
pub struct Args {
    /// Answer in JSON
    #[arg(short, long, global = true)]
    pub(super) json: bool,
    /// Control segment to read [default: the configuration's]
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) segment: Option<PathBuf>,
    /// Control socket to send changes to [default: the configuration's]
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Configuration file [default: /etc/sluice/sluice.toml]
    #[arg(long, global = true, value_name = "FILE", env = CONFIG_VARIABLE)]
    pub(super) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) action: Action,
}

const AFTER_HELP: &str = "\
A volume is TARGET/LUN; TARGET alone means all its LUNs.

`show` reads the data plane's tables directly: it works without sluice-control, \
and shows the last state when the data plane is gone (standard error says so).

Exit codes:
  0  done, or shown
  1  failed: not drained in time, no such volume, value out of range, out of memory, faults in a log
  2  usage
  3  no data plane: segment not there or of another release, or no answer
  4  sluice-control does not answer
  5  configuration not valid";

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Show a table
    Show {
        #[arg(value_enum)]
        table: Shown,
    },
    /// Workers and volumes, refreshed; the busiest volumes first
    Top {
        /// End after so many refreshes; without it, when interrupted
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// Between two refreshes
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
        interval: Duration,
    },
    /// What has happened to volumes and the journal, the oldest first
    Events {
        /// Go on with each event as it happens
        #[arg(short, long)]
        follow: bool,
        /// End after so many events
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Paths to storages
    Path {
        #[command(subcommand)]
        what: PathAction,
    },
    /// Memory buffers: free, reserved, in use, and the pages not divided into any
    Buffers {
        /// What each connection to a storage holds
        #[arg(long)]
        allocations: bool,
    },
    /// Memory buffers reserved for connections to storages; on a terminal, without more, a dialogue
    Reserve {
        #[command(subcommand)]
        what: Option<ReserveAction>,
    },
    /// Change a policy, live and for good
    Set {
        #[command(subcommand)]
        what: SetAction,
    },
    /// Flush what is cached now, and wait until the storage has it
    Flush {
        /// TARGET/LUN, TARGET, or all
        volume: String,
        /// Give up waiting after so many seconds (0: do not wait)
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
        timeout: Duration,
    },
    /// Empty the cache before a stop: writes are acknowledged by the storage from now on
    Drain {
        /// Give up waiting after so many seconds; it goes on draining
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
        timeout: Duration,
        /// End it: writes are cached again
        #[arg(long, conflicts_with = "timeout")]
        cancel: bool,
    },
    /// The data plane's process
    Dataplane {
        #[command(subcommand)]
        what: DataplaneAction,
    },
    /// What the storage has refused for good of acknowledged writes
    Volume {
        #[command(subcommand)]
        what: VolumeAction,
    },
    /// Look at a configuration file
    Config {
        #[command(subcommand)]
        what: ConfigAction,
    },
    /// Look into a write log or a journal that no data plane uses; nothing is changed
    Log {
        #[command(subcommand)]
        what: LogAction,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PathAction {
    /// What the connections to storages have measured, and the buffers that it calls for
    Show,
    /// Type in what a path carries: it goes before what is measured, until it is taken back
    Set {
        #[command(flatten)]
        path: PathName,
        #[command(flatten)]
        values: PathArgs,
        /// Take it back: the path is measured again
        #[arg(long, conflicts_with_all = ["bandwidth", "rtt"])]
        clear: bool,
    },
    /// What a probe has measured: it holds until the path's own next measurement
    Report {
        #[command(flatten)]
        path: PathName,
        #[command(flatten)]
        values: PathArgs,
    },
    /// Measure a path now, and show what came of it
    Measure {
        #[command(flatten)]
        path: PathName,
        /// Give up waiting after so many seconds (0: do not wait)
        #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
        timeout: Duration,
    },
}

/// A path's own address, and the storage's with its port.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct PathName {
    /// Address of the relay's port
    pub local: Ipv4Addr,
    /// ADDRESS:PORT of the storage
    pub remote: SocketAddrV4,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct PathArgs {
    /// Of one connection: 12.5MB/s, 100Mbit/s
    #[arg(long, value_name = "RATE", value_parser = amount::parse_rate)]
    pub bandwidth: Option<u64>,
    /// The least that a round trip takes: 40ms
    #[arg(long, value_name = "TIME", value_parser = amount::parse_delay)]
    pub rtt: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ReserveAction {
    /// Make a reservation; one for the same target is replaced
    Add {
        #[command(subcommand)]
        target: Target<SizeArgs>,
    },
    /// Change one: what is not given stays as it is
    Update {
        #[command(subcommand)]
        target: Target<SizeArgs>,
    },
    /// End one; its buffers are free when connections have given them back
    Cancel {
        #[command(subcommand)]
        target: Target<NoArgs>,
    },
    /// The reservations: size, what is held, what is recommended
    Show {
        #[command(subcommand)]
        target: Option<Target<NoArgs>>,
    },
    /// The connections of a target present a buffer id from now on
    Attach {
        #[arg(allow_negative_numbers = true)]
        buffer_id: i64,
        /// iSCSI name of the target
        target: String,
    },
    /// The connections of a target present none
    Detach {
        /// iSCSI name of the target
        target: String,
    },
    /// Ask for each value, show what is free and recommended, and do it when confirmed
    Edit,
}

/// What a reservation is for.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Target<T: clap::Args> {
    /// All connections between two addresses
    Pair {
        /// Address of the relay's port
        local: Ipv4Addr,
        /// Address of the storage
        remote: Ipv4Addr,
        #[command(flatten)]
        with: T,
    },
    /// The connections to one port
    Port {
        /// Address of the relay's port
        local: Ipv4Addr,
        /// ADDRESS:PORT of the storage
        remote: SocketAddrV4,
        #[command(flatten)]
        with: T,
    },
    /// The connections that present a buffer id
    Connection {
        /// The id; `add` without one takes the lowest that is free
        #[arg(allow_negative_numbers = true)]
        id: Option<i64>,
        #[command(flatten)]
        with: T,
    },
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct NoArgs {}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct SizeArgs {
    /// 4MiB, 512KiB, 1.5MB, bytes; or auto: what is recommended, followed as that changes
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size)]
    pub size: Option<Size>,
    /// Sessions that it is for [default: as many as there are]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub sessions: Option<i64>,
    /// Connections of each session [default: as many as there are]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub connections: Option<i64>,
}

/// A size as it is typed in; the daemon judges it, which knows what is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Automatic,
    Bytes(i64),
}

pub(super) fn size(text: &str) -> Result<Size, String> {
    match text {
        "auto" | "automatic" => Ok(Size::Automatic),
        _ => amount::parse_bytes(text)
            .map(Size::Bytes)
            .map_err(|why| format!("{why}, or auto")),
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum SetAction {
    /// When volumes are flushed
    Flush {
        /// TARGET/LUN or TARGET; without it the default of all volumes
        volume: Option<String>,
        #[command(flatten)]
        set: FlushArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DataplaneAction {
    /// Ask it to stop (SIGTERM): computers are asked to log out, and come back to the next one
    Stop {
        /// First have all that was acknowledged at the storage; stop only if that is so
        #[arg(long)]
        drain: bool,
        /// Give up waiting after so many seconds, for the drain and for the stop each
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
        timeout: Duration,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigAction {
    /// Check a configuration file; every fault with its line
    Check { file: PathBuf },
}

#[derive(Debug, Subcommand)]
pub(super) enum VolumeAction {
    /// List the refused writes, and why
    Failed {
        /// TARGET/LUN or TARGET; without it all volumes
        volume: Option<String>,
    },
    /// Send them again; a volume turned to write-through is cached again
    Retry {
        /// TARGET/LUN, TARGET, or all
        volume: String,
    },
    /// Throw them away: the blocks are as the storage has them
    Discard {
        /// TARGET/LUN
        volume: String,
        /// Without it they are only listed
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum LogAction {
    /// Check every header, record and payload; faults end with 1
    Check { file: PathBuf },
    /// List the records in their order of arrival
    Dump {
        file: PathBuf,
        /// TARGET/LUN or TARGET; without it all volumes
        #[arg(long)]
        volume: Option<String>,
    },
}

/// What `show` can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Shown {
    /// Versions of the programs and of the segment
    Version,
    /// Router ports: driver and why it, address, traffic
    Ports,
    /// Routes
    Routes,
    /// Neighbours (ARP)
    Neighbours,
    /// iSCSI sessions, a row a session and LUN
    Sessions,
    /// Volumes: state, what is cached, how old the oldest of it is
    Volumes,
    /// What volumes' writes, reads and flushed writes take, of the last 10 to 20 s
    Latency,
    /// Memory: pages, frames, write cache
    Buffers,
    /// The journal: state, how full it is
    Journal,
    /// Why packets and PDUs were dropped, how often
    Drops,
    /// Workers: steps, packets, idle share
    Runtime,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "not a number of seconds".to_owned())
}

/// An option for each parameter of the flush policy; one is needed at least.
#[derive(Debug)]
pub(super) struct FlushArgs(pub FlushSet<i64>);

impl FlushArgs {
    /// The option, and what it says.
    const fn option(parameter: FlushParameter) -> (&'static str, &'static str) {
        match parameter {
            FlushParameter::ThresholdKib => {
                ("threshold-kib", "Flush a volume that holds more than this")
            }
            FlushParameter::StopKib => (
                "stop-kib",
                "And go on until no more than this is left; unless set, half of the threshold",
            ),
            FlushParameter::PeriodMs => ("period-ms", "Flush a volume at least so often"),
            FlushParameter::IdleMs => (
                "idle-ms",
                "Flush a volume that has not been written for so long; 0: never",
            ),
            FlushParameter::LoadLimitMs => (
                "load-limit-ms",
                "Skip a volume while its storage takes longer than this to answer; 0: never",
            ),
            FlushParameter::LoadLimitPercent => (
                "load-limit-percent",
                "Skip a volume while its storage takes longer than this share of its response time at rest; 0: never",
            ),
        }
    }
}

impl clap::Args for FlushArgs {
    fn augment_args(command: Command) -> Command {
        let of = |parameter: FlushParameter| {
            let (long, help) = Self::option(parameter);
            // The daemon judges the number, which knows the configuration; what is none
            // has a range, too.
            let value = move |text: &str| {
                text.parse::<i64>()
                    .map_err(|_| format!("must be a whole number, {}", parameter.range()))
            };
            Arg::new(parameter.key())
                .long(long)
                .value_name("N")
                .allow_negative_numbers(true)
                .value_parser(value)
                .help(help)
        };
        let keys = FlushParameter::all().map(FlushParameter::key);
        let group = ArgGroup::new("parameters").args(keys).multiple(true);
        command
            .args(FlushParameter::all().map(of))
            .group(group.required(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FlushArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |parameter: FlushParameter| {
            let value = matches.get_one::<i64>(parameter.key())?;
            Some((parameter, *value))
        };
        Ok(Self(FlushParameter::all().filter_map(value).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.merge(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

//! A disk that forgets and fails on command: files in a directory, held in
//! memory behind FUSE, whose writes are durable as O_DSYNC and fsync promise and
//! no sooner. Built because kernels without device-mapper exist, and because a
//! power loss that tears a write can be had again from its seed.
//!
//! The directory holds the files that are made in it, and `control`: one command
//! a write, refused with EINVAL when it is none; read, it is the state as JSON.
//!
//! | command | |
//! |---|---|
//! | `power-loss SEED` | at once and whole: what has not settled is lost or torn, nothing is answered |
//! | `power-on` | what was under way ends with EIO, and the disk works again |
//! | `fault NAME` | writes end with `eio` or `enospc`, or reads with `eio-read`; `none` |
//! | `latency-us N` | how long an O_DSYNC write or an fsync takes |
//! | `capacity-mib N` | files longer than that meet ENOSPC |
//!
//! With `--record` it writes down what it meets ([`sluice_bench::order::record`]), so
//! that an order can be judged that somebody else wrote in.
//!
//! [`volatile`] is what a disk holds, [`host`] what the kernel sees of it. Names
//! and lengths of files survive every power loss: they are a file system's matter.

mod host;
mod volatile;

use clap::Parser;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "failing-disk",
    version,
    about = "A directory on a disk that forgets and fails on command"
)]
struct Cli {
    /// Where to mount it: an empty directory
    mountpoint: PathBuf,
    /// How long an O_DSYNC write or an fsync takes
    #[arg(long, default_value_t = 300)]
    latency_us: u64,
    /// Room for one file
    #[arg(long, default_value_t = 1024)]
    capacity_mib: u64,
    /// Note there each write and sync in the order of their coming, for order-check
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match host::serve(
        &cli.mountpoint,
        cli.latency_us,
        cli.capacity_mib,
        cli.record.as_deref(),
    ) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let place = cli.mountpoint.display();
            let said = format!(
                "failing-disk: {place}: {error}; it wants an empty directory, /dev/fuse and root"
            );
            // Nobody is left to tell that standard error is closed.
            let _ = writeln!(io::stderr(), "{said}");
            ExitCode::FAILURE
        }
    }
}

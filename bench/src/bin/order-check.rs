//! `order-check`: whether what reached the storage's disk was at every moment a state
//! that the computer could have left behind.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde::de::DeserializeOwned;
use sluice_bench::order::check::check;
use sluice_bench::order::record::Entry;
use sluice_bench::order::{lines, trace::Event};

/// Exit codes: 0 it was, with figures as JSON, 1 it was not, 2 usage, or nothing to check.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What the load did: iscsi-load --trace.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// What the disk met: failing-disk --record.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    /// The file on that disk that was the volume.
    #[arg(long, value_name = "NAME")]
    image: String,
    /// In so many lines of the record, the first ones, nothing may be sent again.
    #[arg(long, default_value_t = 0, value_name = "LINES")]
    undisturbed: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (trace, record) = match (read::<Event>(&arguments.trace), read(&arguments.record)) {
        (Ok(trace), Ok(record)) => (trace, record),
        (Err(said), _) | (_, Err(said)) => {
            eprintln!("order-check: {said}");
            return ExitCode::from(2);
        }
    };
    let is_of_image = |entry: &&Entry| entry.file() == arguments.image;
    let before = record.iter().take(arguments.undisturbed);
    let undisturbed = before.filter(is_of_image).count();
    match check(&trace, record.iter().filter(is_of_image), undisturbed) {
        Ok(figures) => {
            println!(
                "{}",
                serde_json::to_string(&figures).expect("figures are plain data")
            );
            ExitCode::SUCCESS
        }
        Err(breach) => {
            eprintln!("order-check: {breach}");
            ExitCode::FAILURE
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, String> {
    lines(path).map_err(|error| format!("{}: {error}", path.display()))
}

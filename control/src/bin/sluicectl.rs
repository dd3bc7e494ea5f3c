//! The command line: see `sluicectl --help` and docs/sluicectl.md.

use std::io::{stderr, stdout};
use std::process::ExitCode;

use clap::Parser;
use sluice_control::cli::{self, Args};

fn main() -> ExitCode {
    ExitCode::from(cli::run(
        &Args::parse(),
        &mut stdout().lock(),
        &mut stderr().lock(),
    ))
}

//! `sim`: runs seeds, reports what they exercised, replays and shortens what failed.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice_sim::command::main()
}

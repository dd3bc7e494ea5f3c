//! `sim-mutated`: `sim` over a worker in which faults can be planted. Never deployed,
//! and built only with the feature `mutations`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice_sim::command::main()
}

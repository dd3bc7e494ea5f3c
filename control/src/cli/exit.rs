//! Exit codes: documented in `--help` and docs/sluicectl.md, and relied on by scripts.

/// Done, or shown.
pub const DONE: u8 = 0;
/// The operation was understood and failed: not drained in time, no such
/// volume, a value out of range.
pub const FAILED: u8 = 1;
/// The command line is not one (clap's own).
pub const USAGE: u8 = 2;
/// No data plane: its segment is not there, not readable or of another
/// release, or it does not answer.
pub const DATA_PLANE: u8 = 3;
/// The daemon does not answer.
pub const DAEMON: u8 = 4;
/// The configuration is not valid.
pub const CONFIG: u8 = 5;

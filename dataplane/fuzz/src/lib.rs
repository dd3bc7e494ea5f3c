//! Fuzz targets: each takes any bytes at all, and panics where something that
//! must always hold does not (C-17).
//!
//! A target is a plain function, deterministic in its input, so the same one is
//! driven by libFuzzer with coverage (`scripts/fuzz`), by the tests over the
//! committed corpus, and by hand over one file. Most read their input as a
//! program: bytes choose well-formed things to do and small damage to them,
//! since bytes alone would seldom get past a login or a checksum. Input that
//! ends early reads as zeroes, so every prefix is a program too.
//!
//! Not for: what the simulator's seeds do better (losses, crashes, order).

mod cdb;
mod control_segment;
pub mod corpus;
mod frames;
mod initiator_stream;
mod journal_replay;
mod log_attach;
mod login_text;
mod session;
mod source;
mod target_stream;
mod tcp;
mod wan_connection;
mod wire;

/// What a target is called, and what it does.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Longest input that is worth trying, in bytes.
    pub input_len_max: usize,
}

pub const TARGETS: [Target; 10] = [
    Target {
        name: "target-stream",
        run: target_stream::run,
        input_len_max: 4096,
    },
    Target {
        name: "initiator-stream",
        run: initiator_stream::run,
        input_len_max: 4096,
    },
    Target {
        name: "login-text",
        run: login_text::run,
        input_len_max: 4096,
    },
    Target {
        name: "cdb",
        run: cdb::run,
        input_len_max: 512,
    },
    Target {
        name: "session",
        run: session::run,
        input_len_max: 600,
    },
    Target {
        name: "frames",
        run: frames::run,
        input_len_max: 1200,
    },
    Target {
        name: "log-attach",
        run: log_attach::run,
        input_len_max: 400,
    },
    Target {
        name: "journal-replay",
        run: journal_replay::run,
        input_len_max: 200,
    },
    Target {
        name: "wan-connection",
        run: wan_connection::run,
        input_len_max: 500,
    },
    Target {
        name: "control-segment",
        run: control_segment::run,
        input_len_max: 800,
    },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

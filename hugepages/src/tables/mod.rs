//! What stands in the control segment: rows of tables, commands, completions.
//! Plain types and their words; no unsafe, no logic.
//!
//! What always holds: a row that decodes is one that could have been written;
//! anything else is `None`. The shape of the segment follows from [`SPECS`]
//! and [`LAYOUT_VERSION`]; a change of any row changes [`FINGERPRINT`] too, so
//! that two builds that differ cannot misread each other.

mod buffers;
mod command;
mod field;
mod rows;

use arrayvec::ArrayString;

pub use buffers::{BufferState, RESERVATIONS_MAX, ReservationSize, ReservationTarget};
pub use command::{Command, Completion, FlushSetting, MESSAGE_WORDS, Outcome, Scope};
pub use field::{Field, text};
pub use rows::{
    Allocation, Backing, Buffers, CounterName, Drain, Durability, Event, EventKind, FailedWrite,
    HeldUp, Journal, JournalState, Latency, LinkState, Neighbour, NeighbourState, Path, PathLimit,
    Port, Reservation, Route, Runtime, Session, StartKind, Volume, VolumeState,
};

/// Raised when what a word means changes without the shape changing.
pub const LAYOUT_VERSION: u64 = 1;

/// An iSCSI name (223 bytes, RFC 7143 4.2.7.1, rounded to whole words).
pub type Name = ArrayString<224>;
/// A port's, device's or driver's name (IFNAMSIZ is 16).
pub type Label = ArrayString<16>;
/// Why something is as it is, in words for the operator.
pub type Why = ArrayString<160>;

/// A table of the segment; its value is its place in [`SPECS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Ports,
    Routes,
    Neighbours,
    Sessions,
    Volumes,
    Buffers,
    Runtime,
    CounterNames,
    FailedWrites,
    Journals,
    Events,
    Paths,
    Reservations,
    Allocations,
}

/// How many tables there are.
pub const TABLES: usize = 14;

/// Name and size of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSpec {
    pub name: &'static str,
    pub rows: usize,
    pub row_words: usize,
}

/// Every table, in the order of [`Table`]. Row counts:
/// - ports: what a configuration may have (8), and the way to the kernel;
/// - routes: static ones (1016) and a connected one a port (8);
/// - neighbours: four /24 nets full;
/// - sessions: what a configuration may have, one row a session and LUN;
/// - volumes: 256 targets with four LUNs each on average;
/// - buffers: one a NUMA node; runtime: one a worker;
/// - counters: every named drop and fault, with room to grow;
/// - failed writes: sixteen volumes that each list all they may;
/// - journals: one a worker;
/// - events: the newest [`EVENTS_MAX`], each in the row of its number modulo that;
/// - paths: each target's own;
/// - reservations: as many as there can be;
/// - allocations: a connection to a storage for each session, and the lanes.
pub const SPECS: [TableSpec; TABLES] = [
    spec::<Port>("ports", 9),
    spec::<Route>("routes", 1024),
    spec::<Neighbour>("neighbours", 1024),
    spec::<Session>("sessions", 8192),
    spec::<Volume>("volumes", 1024),
    spec::<Buffers>("buffers", 8),
    spec::<Runtime>("runtime", 16),
    spec::<CounterName>("counters", COUNTERS_MAX),
    spec::<FailedWrite>("failed_writes", 4096),
    spec::<Journal>("journals", 16),
    spec::<Event>("events", EVENTS_MAX),
    spec::<Path>("paths", 256),
    spec::<Reservation>("reservations", RESERVATIONS_MAX),
    spec::<Allocation>("allocations", 8192),
];

/// Events that are kept.
pub const EVENTS_MAX: usize = 512;
/// Most named counters.
pub const COUNTERS_MAX: usize = 512;
/// No row is longer; what a writer encodes into stands on its stack.
pub const ROW_WORDS_MAX: usize = 128;

const fn spec<T: Row>(name: &'static str, rows: usize) -> TableSpec {
    assert!(T::WORDS <= ROW_WORDS_MAX, "raise ROW_WORDS_MAX");
    TableSpec {
        name,
        rows,
        row_words: T::WORDS,
    }
}

/// FNV-1a over the shape of every table and message.
pub const FINGERPRINT: u64 = {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut table = 0;
    while table < TABLES {
        hash = fnv(
            fnv(hash, SPECS[table].rows as u64),
            SPECS[table].row_words as u64,
        );
        table += 1;
    }
    fnv(hash, MESSAGE_WORDS as u64)
};

const fn fnv(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3)
}

/// A row of one table.
pub trait Row: Sized {
    const TABLE: Table;
    const WORDS: usize;
    /// Stores into exactly `WORDS` words.
    fn encode(&self, words: &mut [u64]);
    /// Takes from exactly `WORDS` words; `None` if no writer stored these.
    fn decode(words: &[u64]) -> Option<Self>;
}

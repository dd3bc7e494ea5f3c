//! Where everything stands in the segment, in 64-bit words. Offsets follow
//! from the tables' sizes at compile time; none is read from the file.
//!
//! ```text
//!   header │ table 0 │ … │ table n │ counters │ command ring │ completion ring
//! ```

use std::ops::Range;

use super::seqlock::CELL_HEADER;
use crate::ring::RingShape;
use crate::tables::{COUNTERS_MAX, MESSAGE_WORDS, SPECS, TABLES, Table};

/// "SLUICESG" in memory order. This word and the version's stay in place in
/// every layout there will ever be.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"SLUICESG");

/// Words of the header.
pub(super) mod header {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 1;
    pub const FINGERPRINT: usize = 2;
    pub const LEN_BYTES: usize = 3;
    // Stored once a start.
    pub const PID: usize = 8;
    pub const STARTED_UNIX_NS: usize = 9;
    pub const STARTED_NS: usize = 10;
    /// Grows with every start of a data plane on this file.
    pub const INSTANCE: usize = 11;
    pub const STATE: usize = 12;
    /// Rows found half-written at attach.
    pub const ROWS_REPAIRED: usize = 13;
    // Stored all the time: on lines of their own.
    pub const HEARTBEAT_NS: usize = 16;
    pub const ROWS_LOST: usize = 17;
    pub const RING_FAULTS: usize = 18;
    pub const COMPLETIONS_LOST: usize = 19;
    /// One a table: rows ever used, so that readers need not look at the rest.
    pub const USED: usize = 24;
    pub const WORDS: usize = 64;
}
const _: () = assert!(header::USED + TABLES <= header::WORDS, "one word a table");

pub(super) const RING: RingShape = RingShape {
    slots: 64,
    message_words: MESSAGE_WORDS,
};

/// A cell is whole cache lines, so that a writer of one row does not disturb readers of the next.
pub(super) const fn cell_words(table: usize) -> usize {
    (CELL_HEADER + SPECS[table].row_words).next_multiple_of(8)
}

/// First word of each table, and behind the last one that of the counters.
const TABLE_AT: [usize; TABLES + 1] = {
    let mut at = [header::WORDS; TABLES + 1];
    let mut table = 0;
    while table < TABLES {
        at[table + 1] = at[table] + SPECS[table].rows * cell_words(table);
        table += 1;
    }
    at
};

const COUNTERS_AT: usize = TABLE_AT[TABLES];
const COMMANDS_AT: usize = COUNTERS_AT + COUNTERS_MAX;
const COMPLETIONS_AT: usize = COMMANDS_AT + RING.cells();

/// Words of the whole segment: whole 4 KiB pages.
pub(super) const WORDS: usize = (COMPLETIONS_AT + RING.cells()).next_multiple_of(512);
/// Bytes of the segment's file.
pub const SEGMENT_BYTES: usize = WORDS * 8;

/// Cells of one row; the caller has checked `index` against the table's rows.
pub(super) fn row_cells(table: Table, index: usize) -> Range<usize> {
    let table = table as usize;
    assert!(index < SPECS[table].rows, "a row of the table");
    let start = TABLE_AT[table] + index * cell_words(table);
    start..start + CELL_HEADER + SPECS[table].row_words
}

pub(super) fn counter_cell(index: usize) -> usize {
    assert!(index < COUNTERS_MAX, "a counter of the segment");
    COUNTERS_AT + index
}

pub(super) const COMMANDS: Range<usize> = COMMANDS_AT..COMPLETIONS_AT;
pub(super) const COMPLETIONS: Range<usize> = COMPLETIONS_AT..COMPLETIONS_AT + RING.cells();

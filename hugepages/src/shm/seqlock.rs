//! One row of a table in shared cells: a sequence word, then the row's words.
//!
//! ```text
//!   word 0      1         2 …
//!   ┌──────────┬─────────┬──────────────┐
//!   │ sequence │ present │ row          │   sequence odd: being written
//!   └──────────┴─────────┴──────────────┘
//! ```
//! What always holds: a reader gets a row as it was written as a whole, or
//! [`Read::Stale`]. It never waits for the writer: a row that changes under
//! every try, or whose writer was killed in the middle, is stale.
//! Not for: more than one writer.

use crate::atomic::{AtomicU64, Ordering, fence, pause};
use crate::fuse::Fuse;

/// Cells in front of a row's own words.
pub const CELL_HEADER: usize = 2;
/// A row is written in well under a microsecond; this many tries are some ten of them.
#[cfg(not(loom))]
const TRIES_MAX: usize = 64;
#[cfg(loom)]
const TRIES_MAX: usize = 2;

const SEQUENCE: usize = 0;
const PRESENT: usize = 1;

/// What a reader found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Empty,
    Present,
    /// Could not be read whole within the bound.
    Stale,
}

/// Replaces the row; `None` empties it.
pub fn write(cell: &[AtomicU64], row: Option<&[u64]>) {
    write_fused(cell, row, &mut { Fuse::NEVER });
}

/// As [`write`], by a writer that dies when the fuse blows.
pub fn write_fused(cell: &[AtomicU64], row: Option<&[u64]>, fuse: &mut Fuse) {
    let mut store = |cell: &AtomicU64, word: u64, ordering: Ordering| {
        if fuse.burn() {
            cell.store(word, ordering);
        }
    };
    // Relaxed: only this writer stores it.
    let sequence = cell[SEQUENCE].load(Ordering::Relaxed);
    // An odd one was left by a writer that died; it stays odd while we write.
    let odd = sequence | 1;
    store(&cell[SEQUENCE], odd, Ordering::Relaxed);
    // Release: whoever sees a word stored below also sees the odd sequence.
    // Pairs with the Acquire fence in `read`.
    fence(Ordering::Release);
    store(&cell[PRESENT], u64::from(row.is_some()), Ordering::Relaxed);
    for (cell, word) in cell[CELL_HEADER..].iter().zip(row.unwrap_or_default()) {
        store(cell, *word, Ordering::Relaxed);
    }
    // Release: pairs with the Acquire load of the sequence in `read`.
    store(&cell[SEQUENCE], odd.wrapping_add(1), Ordering::Release);
}

/// Copies the row out.
pub fn read(cell: &[AtomicU64], row: &mut [u64]) -> Read {
    for _ in 0..TRIES_MAX {
        // Acquire: pairs with the last Release store in `write`.
        let before = cell[SEQUENCE].load(Ordering::Acquire);
        if before & 1 == 0 {
            let present = cell[PRESENT].load(Ordering::Relaxed);
            for (word, cell) in row.iter_mut().zip(&cell[CELL_HEADER..]) {
                *word = cell.load(Ordering::Relaxed);
            }
            // Acquire: pairs with the Release fence in `write`; a word of a
            // later write makes that write's sequence visible below.
            fence(Ordering::Acquire);
            if cell[SEQUENCE].load(Ordering::Relaxed) == before {
                return if present == 1 {
                    Read::Present
                } else {
                    Read::Empty
                };
            }
        }
        pause();
    }
    Read::Stale
}

/// Whether the writer died in the middle of this row.
pub fn is_torn(cell: &[AtomicU64]) -> bool {
    // Relaxed: asked at attach, by the one writer.
    cell[SEQUENCE].load(Ordering::Relaxed) & 1 == 1
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_row_left_half_written_is_stale_until_written_again() {
        let cell: Vec<AtomicU64> = (0..5).map(|_| AtomicU64::new(0)).collect();
        let mut row = [0; 3];
        assert_eq!(read(&cell, &mut row), Read::Empty);
        write(&cell, Some(&[1, 2, 3]));
        assert_eq!(read(&cell, &mut row), Read::Present);
        assert_eq!(row, [1, 2, 3]);
        cell[SEQUENCE].store(7, Ordering::Relaxed);
        assert!(is_torn(&cell));
        assert_eq!(read(&cell, &mut row), Read::Stale);
        write(&cell, None);
        assert!(!is_torn(&cell));
        assert_eq!(read(&cell, &mut row), Read::Empty);
    }
}

//! What stands in a journal, for all that read one: the data plane at its start,
//! and whoever looks at a journal's file while no data plane has it.
//!
//! What always holds: nothing here writes to a device, and every byte that is
//! read is hostile until it has been checked.
//!
//! [`layout`] draws the bytes, [`mod@replay`] reads them back, [`error`] says why
//! a journal is not used.
//!
//! Not for: what is written when (the data plane's `journal`).

pub mod error;
pub mod layout;
pub mod replay;

pub use error::JournalError;

use layout::RECORD_BLOCKS_MAX;

/// Blocks of the longest group: 4 MiB of payload and one more record, so that
/// a group is long enough for a device's sequential rate, and the look for a
/// group behind a damaged one is short.
pub const GROUP_BLOCKS_MAX: u64 = 1 + 4 * RECORD_BLOCKS_MAX + RECORD_BLOCKS_MAX;

//! The journal: what makes an acknowledged write outlive a power loss (A-22).
//!
//! ```text
//! worker ──requests──► thread: core ── what to write ──► device
//!        ◄──durable──              ◄── what has ended ──
//! ```
//!
//! What always holds:
//! - a request is durable when the device has said so of the group it is in and of
//!   every group before (O_DIRECT, RWF_DSYNC); nothing is told earlier;
//! - after a power loss at any moment [`replay`] finds all that was told
//!   durable, nothing that was told gone, and no byte of an earlier life;
//! - payload goes from the log's own pages to the device; nothing copies it;
//! - the worker never waits for the device, and the device's faults are states,
//!   not surprises: [`core`] stops, and can still be told to void the journal.
//!
//! [`layout`] draws the bytes, [`core`] decides what is written where,
//! [`mod@replay`] reads it back, [`begin`] makes a start of what is found, [`left`] knows which journal
//! must not be one's, [`restore`] makes it a write log again,
//! [`device`] is a file or block device, [`thread`] drives it, [`gather`] says when a
//! group waits for more.
//!
//! Not for: order towards the storage and what is acknowledged when (the
//! worker's and the flush queue's), a process crash (the log outlives it).

pub mod account;
pub mod begin;
pub mod core;
pub mod device;
pub mod gather;
pub mod line;
pub mod model;
pub mod restore;
pub mod thread;

pub use self::core::{Core, Op, Progress, Request, Span};
pub use device::Device;
pub use line::Line;
pub use sluice_journal::{GROUP_BLOCKS_MAX, JournalError, error, layout, replay};

#[cfg(test)]
mod tests;

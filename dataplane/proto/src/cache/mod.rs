//! The write cache's decisions, without its memory: which record holds the
//! newest copy of a block ([`index`]), what is written to the storage next
//! ([`flush`]), and whether a write is let in ([`admission`]).
//!
//! Bytes stay in the write log, which gives every record a number; these rooms
//! see only those numbers and block ranges. Everything is allocated at start.
//! Numbers here come from the relay's own rooms, not from the network, so an
//! impossible one is a bug and asserts.

pub mod admission;
pub mod flush;
pub mod index;

//! Protocol and cache logic without I/O: the same bytes and times in give the
//! same bytes out.
#![forbid(unsafe_code)]

pub mod cache;
pub mod iscsi;
pub mod mutation;
pub mod scsi;
pub mod time;

pub use time::Time;

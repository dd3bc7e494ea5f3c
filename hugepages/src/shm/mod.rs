//! The control segment: one file on tmpfs through which the data plane shows
//! its tables and takes commands.
//!
//! - [`SegmentWriter`]: the data plane. Creates the file, or attaches to the one
//!   its predecessor left; writes rows and counters, takes commands.
//! - [`SegmentReader`]: anyone, read-only; works with no other process alive.
//! - [`ControlLink`]: the daemon; a reader that also sends commands.
//!
//! What always holds: memory that another process can write is seen as atomic
//! words, copied out and then decoded; every length and index in it is checked;
//! no reader waits for a writer without a bound. Nothing in the file outlives
//! its data plane: each start clears it. Not for: what rows mean ([`crate::tables`]).
//!
//! Traps: the file must not be shortened while mapped (nobody here does); two
//! data planes on one file are kept apart by a lock that ends with its process;
//! a reader that keeps the file mapped must look for a replaced one
//! ([`SegmentReader::is_replaced`]).

pub mod seqlock;

#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
mod link;
#[cfg(not(loom))]
mod map;
#[cfg(not(loom))]
mod reader;
#[cfg(not(loom))]
mod writer;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

#[cfg(not(loom))]
pub use self::{
    layout::SEGMENT_BYTES,
    link::{ControlLink, SendError},
    map::monotonic_ns,
    reader::{Counter, Rows, SegmentReader, Vitality},
    writer::{Birth, SegmentWriter},
};

/// How often a data plane beats at least, asleep or not; so long a command may wait.
pub const HEARTBEAT_PERIOD: Duration = Duration::from_millis(20);
/// A live data plane whose heart has not beaten for this long is stuck.
pub const HEARTBEAT_STALE: Duration = Duration::from_secs(2);

/// Why a segment cannot be used.
#[derive(Debug, Error)]
pub enum SegmentError {
    #[error("control segment {} is not there; start sluice-dataplane, or name the segment it uses", path.display())]
    NotThere { path: PathBuf },
    #[error("control segment {} is being made; try again", path.display())]
    NotReady { path: PathBuf },
    #[error("{} is not a control segment; name another file as segment, or remove this one", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "control segment {} has layout {found}, this program knows {known}; use the programs of one release", path.display()
    )]
    Version {
        path: PathBuf,
        found: Layout,
        known: Layout,
    },
    #[error("control segment {} is in use by the data plane with pid {pid}; stop it first, or name another segment", path.display())]
    DataPlaneRuns { path: PathBuf, pid: u64 },
    #[error("control segment {} is in use by another sluice-control; stop it first", path.display())]
    ControlRuns { path: PathBuf },
    #[error("control segment {}: cannot {action} ({source})", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        source: std::io::Error,
    },
}

/// Version and shape of a segment, as an error shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub version: u64,
    pub fingerprint: u64,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "version {} ({:08x})",
            self.version,
            self.fingerprint >> 32
        )
    }
}

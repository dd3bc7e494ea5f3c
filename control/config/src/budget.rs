//! The memory that a configuration needs, added up before anything starts.
//!
//! ```text
//! frames ─┬─ ports: what their rings hold at a time
//!         ├─ flows: sessions_max x (LAN socket + WAN socket buffers)
//!         └─ rest:  packets on their way, read staging
//! log    ─── the write cache
//! index  ─── which record holds which block of it
//! segment ── the control segment
//! ```

use thiserror::Error;

use crate::{Config, DataPlane, Iscsi, SESSIONS_MAX};

const PAGE_BYTES: u64 = 64 * 1024;
/// Frames that one port keeps in its rings: 1024 to receive into, 1024 on their way out.
const PORT_BYTES: u64 = 2 * 1024 * 4096;
/// A LAN socket takes one page a direction.
const LAN_FLOW_BYTES: u64 = 2 * PAGE_BYTES;
/// One index entry (32 bytes) a 4 KiB granule of the log, in a hash twice that large, and one record (64 bytes).
const INDEX_BYTES_PER_GRANULE: u64 = 2 * 32 + 64;
/// Upper bound of the control segment, whatever its layout.
const SEGMENT_BYTES_MAX: u64 = 16 << 20;

/// What is needed of each kind, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBudget {
    /// The communication memory; `ports_bytes` and `flows_bytes` are parts of it.
    pub frames_bytes: u64,
    pub ports_bytes: u64,
    pub flows_bytes: u64,
    pub log_bytes: u64,
    pub index_bytes: u64,
    pub segment_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{total_mib} MiB of memory are needed (frames {frames_mib}, log {log_mib}, index and tables {rest_mib}) but {available_mib} MiB are available; lower frames_mib or log_mib under [dataplane]"
)]
pub struct BudgetError {
    pub total_mib: u64,
    pub frames_mib: u64,
    pub log_mib: u64,
    pub rest_mib: u64,
    pub available_mib: u64,
}

impl MemoryBudget {
    /// The budget of a checked configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self::derive(&config.dataplane, &config.iscsi, config.ports.len())
    }

    pub(crate) fn derive(dataplane: &DataPlane, iscsi: &Iscsi, ports: usize) -> Self {
        let granules = dataplane.log_bytes / 4096;
        Self {
            frames_bytes: dataplane.frames_bytes,
            ports_bytes: ports as u64 * PORT_BYTES,
            flows_bytes: u64::from(iscsi.sessions_max)
                * session_bytes(iscsi.wan_send_bytes, iscsi.wan_receive_bytes),
            log_bytes: dataplane.log_bytes,
            index_bytes: granules * INDEX_BYTES_PER_GRANULE,
            segment_bytes: SEGMENT_BYTES_MAX,
        }
    }

    /// All that is mapped or allocated.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.frames_bytes + self.log_bytes + self.index_bytes + self.segment_bytes
    }

    /// Compares with what the machine has to give.
    ///
    /// # Errors
    /// It does not fit; the message says what to lower.
    pub const fn check(&self, available_bytes: u64) -> Result<(), BudgetError> {
        if self.total_bytes() <= available_bytes {
            return Ok(());
        }
        Err(BudgetError {
            total_mib: self.total_bytes() >> 20,
            frames_mib: self.frames_bytes >> 20,
            log_mib: self.log_bytes >> 20,
            rest_mib: (self.index_bytes + self.segment_bytes) >> 20,
            available_mib: available_bytes >> 20,
        })
    }
}

/// Buffers of one session: its LAN socket and its WAN socket.
pub(crate) fn session_bytes(wan_send_bytes: u32, wan_receive_bytes: u32) -> u64 {
    LAN_FLOW_BYTES + u64::from(wan_send_bytes) + u64::from(wan_receive_bytes)
}

/// Most sessions whose buffers fit beside the ports' rings.
pub(crate) fn sessions_that_fit(frames_bytes: u64, ports: usize, session_bytes: u64) -> u32 {
    let room = frames_bytes.saturating_sub(ports as u64 * PORT_BYTES);
    u32::try_from(room / session_bytes).map_or(SESSIONS_MAX, |sessions| sessions.min(SESSIONS_MAX))
}

/// Smallest communication memory: the rings of the ports and one session.
pub(crate) fn frames_bytes_min(ports: usize, session_bytes: u64) -> u64 {
    (ports as u64 * PORT_BYTES + session_bytes).next_multiple_of(2 << 20)
}

//! The memory that a configuration needs, added up before anything starts.
//!
//! ```text
//! frames ──┬─ ports:   what their receive rings and transmit queues hold at a time
//!          ├─ staging: read data, parameters, held first bursts
//!          ├─ reservations: what is on their lists, or in use by connections of theirs (B-6)
//!          ├─ flows:   sessions_max x (LAN socket + WAN send buffer + WAN frames),
//!          │           and the latter two for each lane of a target beyond its first
//!          └─ rest:    packets on their way, flows that close
//! log     ─── the write cache
//! index   ─── what is kept on the heap of each page of the log
//! tables  ─── what is kept on the heap of each session and volume
//! segment ─── the control segment
//! ```
//!
//! A WAN send buffer is drawn as it is filled: of it, and of the WAN frames, only a
//! minimum must be there for each flow. Beyond what all flows could fill at a time they
//! borrow from each other ([`MemoryBudget::borrows`]), down to that minimum.
//!
//! The sizes are upper bounds of what the data plane's rooms allocate at start;
//! this crate links none of them; a test there compares.

use thiserror::Error;

use crate::{Config, DataPlane, Driver, Iscsi, LANES_SPARE, Port, Reservation, SESSIONS_MAX};

const PAGE_BYTES: u64 = 64 * 1024;
const HUGEPAGE_BYTES: u64 = 2 << 20;
const FRAME_BYTES: u64 = 4096;
/// AF_PACKET arms 32 slots, each with a page and a frame.
const AF_PACKET_RECEIVE_BYTES: u64 = 32 * (PAGE_BYTES + FRAME_BYTES);
/// AF_XDP lends the kernel 2048 frames, or an eighth of a small communication memory.
const AF_XDP_RECEIVE_BYTES_MAX: u64 = 2048 * FRAME_BYTES;
/// Frames of one port that wait for its link.
const TRANSMIT_BYTES: u64 = 1024 * FRAME_BYTES;
/// A frame is kept for so much of the window to the storage: full segments of 1,448 bytes,
/// and a quarter of the frames is for data in order.
const WINDOW_BYTES_PER_FRAME: u64 = 1024;
/// What a flow to the storage keeps to send from and to receive in, whatever others have.
pub(crate) const WAN_FLOW_BYTES_LEAST: u64 = (4 + 16) * FRAME_BYTES;
/// A LAN socket takes one page a direction.
const LAN_FLOW_BYTES: u64 = 2 * PAGE_BYTES;
/// Of each 4 KiB page of the log, which holds at most one record: two versions
/// of a granule in the index (32 bytes each) and four places in its hash (4
/// each, rounded up to a power of two), the record's row there (24), its place
/// in the log's slab (80), which record its header is (4), its place in the flush
/// queue (64), what it waits for when it is durable (16), and a place in the list of a
/// start (4).
const INDEX_BYTES_PER_LOG_PAGE: u64 = 2 * 32 + 4 * 4 + 24 + 80 + 4 + 64 + 16 + 4;
/// Of each page and volume: a place in the volume's list of durable records.
const VOLUME_BYTES_PER_LOG_PAGE: u64 = 4;
/// Of each page of a log with a journal: the number of its write (8), three
/// requests in short (24) and in full (216), a place among the pinned (16), in
/// the journal's own table (32) and in a group's list (16).
const JOURNAL_BYTES_PER_LOG_PAGE: u64 = 8 + 24 + 216 + 16 + 32 + 16;
/// Upper bound of the control segment, whatever its layout.
const SEGMENT_BYTES_MAX: u64 = 16 << 20;

/// What is needed of each kind, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBudget {
    /// The communication memory; of its parts `flows_bytes` may be
    /// more than there is.
    pub frames_bytes: u64,
    pub ports_bytes: u64,
    /// Of `ports_bytes`, what is for packets on their way.
    pub transit_bytes: u64,
    pub staging_bytes: u64,
    /// With every buffer full, and what they must have.
    pub flows_bytes: u64,
    pub flows_least_bytes: u64,
    /// Of the configuration's reservations, automatic ones as they begin.
    pub reservations_bytes: u64,
    pub log_bytes: u64,
    /// What the heap holds of the log's records: slab, index, flush queue, journal.
    pub index_bytes: u64,
    /// What the heap holds of sessions, their commands, and volumes.
    pub tables_bytes: u64,
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
    /// Of a session with the storage: the connection (75 KiB) and its lists (10). The flow is
    /// beside it.
    pub const NEXUS_BYTES: u64 = (75 + 10) * 1024;
    /// Of each session: the connection to the computer (61 KiB) and its lists (4), two to the
    /// storage, since one may outlive its session by a flush, two flows of computers (4 each).
    pub const SESSION_BYTES: u64 = (61 + 4 + 2 * 4) * 1024 + 2 * Self::NEXUS_BYTES;
    /// Of each of two flows to the storage, itself.
    pub const WAN_FLOW_BYTES: u64 = 6 * 1024;
    /// A segment that is out, a link of the chain, a quarter of a slot.
    pub const WAN_BYTES_PER_SEND_KIB: u64 = 108;
    /// A frame that is kept, up to twice in a list that doubles.
    pub const WAN_BYTES_PER_RECEIVE_KIB: u64 = 232;
    /// Of each command under way: the task, its command to the storage, a place in two queues,
    /// and in the list of those answered in a step.
    pub const TASK_BYTES: u64 = 400 + 72 + 16 + 16;
    /// Commands of one session.
    pub const TASKS_PER_SESSION: u64 = 128;
    /// Of each volume: six histograms of latency (11 KiB each).
    pub const VOLUME_BYTES: u64 = 6 * 11 * 1024;
    /// Volumes that are cached.
    pub const VOLUMES_MAX: u64 = 64;
    /// Commands of all sessions.
    pub const TASKS_MAX: u64 = 16_384;

    /// The budget of a checked configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        // LUNs that only a login tells come on top: 4 bytes a page each, and a volume's own.
        let volumes = config.targets.iter().map(|target| target.luns.len()).sum();
        let mut budget = Self::derive(&config.dataplane, &config.iscsi, &config.ports, volumes);
        if config.journal.is_some() {
            let log_pages = config.dataplane.log_bytes / FRAME_BYTES;
            budget.index_bytes += log_pages * JOURNAL_BYTES_PER_LOG_PAGE;
        }
        let bytes =
            |reservation: &Reservation| reservation.bytes(u64::from(config.iscsi.wan_send_bytes));
        budget.reservations_bytes = config.reservations.iter().map(bytes).sum();
        // Lists of its connections, each of which may fill it.
        let lists = config.reservations.iter().map(|reservation| {
            let of = |count: Option<u16>| u64::from(count.unwrap_or(1));
            let flows = of(reservation.sessions) * of(reservation.connections);
            bytes(reservation) / 1024 * Self::WAN_BYTES_PER_SEND_KIB * flows
        });
        budget.tables_bytes += lists.sum::<u64>();
        budget
    }

    pub(crate) fn derive(
        dataplane: &DataPlane,
        iscsi: &Iscsi,
        ports: &[Port],
        volumes: usize,
    ) -> Self {
        let log_pages = dataplane.log_bytes / FRAME_BYTES;
        let sessions = u64::from(iscsi.sessions_max);
        let lanes = u64::from(iscsi.lanes_beside);
        let lanes_kept = lanes + u64::from(LANES_SPARE);
        let tasks = (sessions * Self::TASKS_PER_SESSION).min(Self::TASKS_MAX);
        Self {
            frames_bytes: dataplane.frames_bytes,
            ports_bytes: ports_bytes(ports, dataplane.frames_bytes),
            transit_bytes: ports.len() as u64 * TRANSMIT_BYTES,
            staging_bytes: u64::from(staging_pages(dataplane.frames_bytes)) * PAGE_BYTES,
            flows_bytes: sessions * session_bytes(iscsi.wan_send_bytes, iscsi.wan_receive_bytes)
                + lanes * wan_buffers_bytes(iscsi.wan_send_bytes, iscsi.wan_receive_bytes),
            flows_least_bytes: sessions * SESSION_BYTES_LEAST + lanes * WAN_FLOW_BYTES_LEAST,
            reservations_bytes: 0,
            log_bytes: dataplane.log_bytes,
            index_bytes: log_pages
                * (INDEX_BYTES_PER_LOG_PAGE + volumes as u64 * VOLUME_BYTES_PER_LOG_PAGE),
            tables_bytes: sessions * (Self::SESSION_BYTES + 2 * Self::wan_flow_bytes(iscsi))
                + lanes_kept * (Self::NEXUS_BYTES + Self::wan_flow_bytes(iscsi))
                + tasks * Self::TASK_BYTES
                + (volumes as u64).min(Self::VOLUMES_MAX) * Self::VOLUME_BYTES,
            segment_bytes: SEGMENT_BYTES_MAX,
        }
    }

    fn wan_flow_bytes(iscsi: &Iscsi) -> u64 {
        Self::WAN_FLOW_BYTES
            + u64::from(iscsi.wan_send_bytes / 1024) * Self::WAN_BYTES_PER_SEND_KIB
            + u64::from(iscsi.wan_receive_bytes / 1024) * Self::WAN_BYTES_PER_RECEIVE_KIB
    }

    /// All that is mapped or allocated.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.frames_bytes
            + self.log_bytes
            + self.index_bytes
            + self.tables_bytes
            + self.segment_bytes
    }

    /// Whether WAN send buffers, all full at a time, would be more than there is: then
    /// connections without a reservation take what others leave.
    #[must_use]
    pub const fn borrows(&self) -> bool {
        self.frames_bytes
            < self.ports_bytes + self.staging_bytes + self.reservations_bytes + self.flows_bytes
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
            rest_mib: (self.index_bytes + self.tables_bytes + self.segment_bytes) >> 20,
            available_mib: available_bytes >> 20,
        })
    }
}

/// Buffers of one session: its LAN socket, what it sends to the storage, and the frames that it
/// keeps of what comes from there.
pub(crate) fn session_bytes(wan_send_bytes: u32, wan_receive_bytes: u32) -> u64 {
    LAN_FLOW_BYTES + wan_buffers_bytes(wan_send_bytes, wan_receive_bytes)
}

/// What a session must have.
pub(crate) const SESSION_BYTES_LEAST: u64 = LAN_FLOW_BYTES + WAN_FLOW_BYTES_LEAST;

/// With full buffers, of a session with the storage, which is all that a lane is.
pub(crate) fn wan_buffers_bytes(wan_send_bytes: u32, wan_receive_bytes: u32) -> u64 {
    u64::from(wan_send_bytes) + u64::from(wan_receive_bytes) / WINDOW_BYTES_PER_FRAME * FRAME_BYTES
}

/// Pages that wait between the two sides: an eighth of the communication memory, at most 64 MiB.
pub(crate) fn staging_pages(frames_bytes: u64) -> u16 {
    u16::try_from((frames_bytes / PAGE_BYTES / 8).clamp(8, 1024)).expect("at most 1024")
}

/// What all ports hold at a time, by the hungriest driver that each may get.
fn ports_bytes(ports: &[Port], frames_bytes: u64) -> u64 {
    let af_xdp = (frames_bytes / 8).min(AF_XDP_RECEIVE_BYTES_MAX);
    ports
        .iter()
        .map(|port| {
            TRANSMIT_BYTES
                + match port.driver {
                    Driver::AfPacket => AF_PACKET_RECEIVE_BYTES,
                    Driver::AfXdp => af_xdp,
                    Driver::Auto => af_xdp.max(AF_PACKET_RECEIVE_BYTES),
                }
        })
        .sum()
}

/// What ports and staging leave of the communication memory.
pub(crate) fn room_bytes(frames_bytes: u64, ports: &[Port]) -> u64 {
    let staging = u64::from(staging_pages(frames_bytes)) * PAGE_BYTES;
    frames_bytes.saturating_sub(ports_bytes(ports, frames_bytes) + staging)
}

/// Most sessions of so many bytes that fit in `room_bytes`.
pub(crate) fn sessions_that_fit(room_bytes: u64, session_bytes: u64) -> u32 {
    let sessions = room_bytes / session_bytes;
    u32::try_from(sessions).map_or(SESSIONS_MAX, |sessions| sessions.min(SESSIONS_MAX))
}

/// Smallest communication memory: ports, staging, lanes and one session, their buffers full.
pub(crate) fn frames_bytes_min(ports: &[Port], session_bytes: u64, lanes_bytes: u64) -> u64 {
    // Parts grow with the whole, up to a bound: the first size that fits, in hugepages.
    let mut frames_bytes = HUGEPAGE_BYTES;
    while room_bytes(frames_bytes, ports) < session_bytes + lanes_bytes {
        frames_bytes += HUGEPAGE_BYTES;
    }
    frames_bytes
}

/// Sessions towards the storage that a log of this size has directory rows for:
/// a row is written before the first login under it (C-8). The log's own
/// arithmetic; a test of the data plane compares it with the log itself.
#[must_use]
pub const fn sessions_in_directory(log_bytes: u64) -> u64 {
    const SEGMENT: u64 = 2 << 20;
    let directory = match log_bytes / SEGMENT / 64 {
        0 => 1,
        segments @ 1..=16 => segments,
        _ => 16,
    };
    let rows = (directory * SEGMENT - 4096) / 1024;
    rows - rows / 4
}

//! What is under way: commands of computers ([`Task`]) and commands that the
//! relay has out at the storage ([`WanTask`]).
//!
//! A task belongs to a session towards a computer until it is answered; if the
//! computer goes first, the task stays, ownerless, until the storage has
//! answered what it has out, so that no answer meets a slot used anew.

use arrayvec::ArrayVec;
use sluice_hugepages::log::WriteId;
use sluice_proto::Time;
use sluice_proto::iscsi::{TaskAttribute, TaskId};
use sluice_proto::scsi::{self, Access};

use super::inquiry::Question;
use super::staging::{STAGE_LEN, StagePage};
use super::writable::CheckStep;

/// Slab keys, kept apart by type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanKey(pub usize);
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NexusKey(pub usize);
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskKey(pub usize);
/// The index of a volume, equal to its number in the log's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeKey(pub u16);

/// Most bytes of a command that passes through by way of staging pages. More
/// data-out of a command on blocks waits in the log's room; anything else that
/// moves more is refused with INVALID FIELD IN CDB.
pub const PASS_BYTES_MAX: usize = PASS_PAGES_MAX * STAGE_LEN;
pub const PASS_PAGES_MAX: usize = 16;
/// Longest CDB that is taken up: no command of SBC-4 or SPC-5 for disks has more.
pub const CDB_LEN_MAX: usize = 32;
/// Chunks of one read that may be under way at once: 8 x 64 KiB keeps a
/// 100 Mbit/s, 40 ms path full from a single large read.
pub const READ_CHUNKS_MAX: usize = 8;

/// A command of a computer.
#[derive(Debug)]
pub struct Task {
    /// The session and its own number for the task; `None` once the computer has gone.
    pub lan: Option<(LanKey, TaskId)>,
    pub nexus: NexusKey,
    pub volume: Option<VolumeKey>,
    pub lun: u64,
    pub cdb: [u8; 16],
    /// Bytes 16 to 31 of a 32-byte command.
    pub cdb_rest: Option<[u8; 16]>,
    pub expected_len: u32,
    /// When it came.
    pub begun: Time,
    /// When a task that waits for room, the storage or durability ends BUSY (C-16).
    pub deadline: Time,
    /// When its data-out moved last.
    pub moved: Time,
    /// Its place among all commands that came, of all sessions.
    pub arrival: u64,
    pub attribute: TaskAttribute,
    /// It has not begun: others of its session come first.
    pub dormant: bool,
    pub work: Work,
}

impl Task {
    /// Data-out has been asked for, and is not all here.
    pub fn lacks_data(&self) -> bool {
        match &self.work {
            Work::Write(write) => matches!(write.state, WriteState::Landing(_)),
            Work::Pass(pass) => !pass.data_complete && !self.dormant,
            Work::Read(_) | Work::Sync(_) => false,
        }
    }

    /// In the log, its answer held back for less than any bound on waiting.
    pub fn is_answered_soon(&self) -> bool {
        matches!(&self.work, Work::Write(write) if write.state == WriteState::Delayed)
    }

    /// The whole CDB, with zeroes after a shorter one.
    pub fn whole_cdb(&self) -> [u8; CDB_LEN_MAX] {
        let mut whole = [0; CDB_LEN_MAX];
        whole[..16].copy_from_slice(&self.cdb);
        whole[16..].copy_from_slice(&self.cdb_rest.unwrap_or_default());
        whole
    }

    /// The write that this passing command is: LBA, blocks, and whether with FUA. One that
    /// changes blocks by what they hold (COMPARE AND WRITE) is one if it is with FUA.
    pub fn passing_write(&self) -> Option<(u64, u32, bool)> {
        let cdb = self.whole_cdb();
        let (Work::Pass(_), Some(_)) = (&self.work, self.volume) else {
            return None;
        };
        match scsi::classify(&cdb) {
            Ok(Access::Write { lba, blocks, fua }) => Some((lba, blocks, fua)),
            Ok(Access::Range {
                lba,
                blocks,
                changes: true,
            }) if scsi::asks_fua(&cdb) => Some((lba, u32::try_from(blocks).ok()?, true)),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub enum Work {
    Write(WriteTask),
    Read(ReadTask),
    Sync(SyncTask),
    Pass(PassTask),
}

/// A write on its way into the log.
#[derive(Debug)]
pub struct WriteTask {
    pub lba: u64,
    pub blocks: u32,
    pub len: u32,
    /// FUA or an ORDERED task: an ordering point in the log (C-5, A-19).
    pub ordering: bool,
    pub fua: bool,
    pub state: WriteState,
}

#[derive(Debug, PartialEq, Eq)]
pub enum WriteState {
    /// No room yet: what arrived unasked waits in a staging page.
    Held { page: StagePage, received: u32 },
    /// Data goes straight to where it stays.
    Landing(WriteId),
    /// Complete, but others of its session take their place first.
    Dormant(WriteId),
    /// Complete, but a command that passes through touches the same blocks.
    Behind(WriteId),
    /// In the log; its answer is held back.
    Delayed,
    /// In the log; waits for the journal.
    Journal { sequence: u64 },
    /// In the log, or passed to the storage and GOOD there; waits for the storage's
    /// stable media, and for this request of the journal.
    Durable {
        sequence: u64,
        number: u64,
        passed: bool,
    },
}

/// A read, cut into chunks of a staging page each.
#[derive(Debug)]
pub struct ReadTask {
    pub lba: u64,
    pub blocks: u32,
    /// Blocks for which chunks have been made.
    pub planned: u32,
    /// Bytes handed to the session, in order.
    pub delivered: u32,
    /// Chunks under way, in order of LBA.
    pub chunks: ArrayVec<Chunk, READ_CHUNKS_MAX>,
    /// Set by the first chunk that failed: nothing more is asked for.
    pub failed: bool,
}

#[derive(Debug)]
pub struct Chunk {
    pub page: StagePage,
    pub lba: u64,
    pub blocks: u32,
    pub state: ChunkState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// To be asked of the storage, when a session has room for it.
    Wanted,
    /// Asked of the storage by this WAN task.
    Asked(usize),
    Ready,
}

/// A SYNCHRONIZE CACHE: waits until everything before it is durable at the storage.
#[derive(Debug)]
pub struct SyncTask {
    /// Records of the volume up to this sequence must be durable.
    pub through: u64,
    /// The volume's last write in the journal.
    pub number: u64,
    /// It is answered when its turn has come, whatever is durable by then (SBC-4 5.26).
    pub immed: bool,
}

/// A command passed to the storage, when what it overlaps has been flushed.
#[derive(Debug)]
pub struct PassTask {
    pub read: bool,
    pub write: bool,
    /// First those of data-out, then those of data-in.
    pub pages: ArrayVec<StagePage, PASS_PAGES_MAX>,
    /// How many of the pages are data-out's.
    pub pages_out: usize,
    /// Where data-out is that is too long for pages: room in the log that never
    /// becomes a record.
    pub room: Option<WriteId>,
    /// Room for data-in at the computer, in bytes.
    pub read_len: u32,
    /// Data-out bytes that have arrived.
    pub landed: u32,
    /// Data-in bytes that the storage has sent.
    pub transferred: u32,
    pub data_complete: bool,
    /// What to drain first, a range or the medium: no record of it may be dirty
    /// when the command is sent, and none is committed until it is answered
    /// . `None` when the command touches no medium.
    pub barrier: Option<Access>,
    /// The volume's open epoch when it began to wait: what is of an earlier one was before
    /// it; what came since, ordering points too, has no order with it.
    pub since: u64,
    /// Known when the barrier's blocks are clean.
    pub freed: Option<LetGo>,
    /// On its way: the flush queue knows of it.
    pub passing: bool,
    /// The storage has overwritten what is in the log, and said GOOD.
    pub settling: Option<Settling>,
    pub asked: Option<usize>,
    /// The volume's [`losses`](super::volume::Volume::losses) when it was sent.
    pub losses: u64,
    /// A task management function has ended it; the storage may not have yet.
    pub aborting: bool,
    /// A RELEASE of the relay's own: the arrival of the function that waits for it.
    pub released_for: Option<u64>,
}

/// The journal's request after which a replay brings back nothing of a passing command's
/// blocks, but what it holds back itself, and nothing of an epoch before its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetGo {
    pub number: u64,
    /// Whether records were held back when that was known: if not any more, there is more
    /// to be let go of.
    pub held: bool,
}

/// What a command that has overwritten records waits for, until they are given up and it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settling {
    /// A SYNCHRONIZE CACHE sent after this mark; and reads up to this one, which may
    /// have found the storage as it was before.
    Durable {
        mark: u64,
        reads_asked: u64,
        moved: u32,
    },
    /// They are given up: the journal is to let go of them, too.
    Released { number: u64, moved: u32 },
}

/// Whether a barrier covers a block of the range.
pub fn bars(barrier: Access, lba: u64, blocks: u64) -> bool {
    match barrier {
        Access::Range {
            lba: from,
            blocks: len,
            ..
        } => overlap(from, len, lba, blocks),
        _ => true,
    }
}

/// Whether two block ranges share a block.
pub fn overlap(a: u64, a_blocks: u64, b: u64, b_blocks: u64) -> bool {
    a < b.saturating_add(b_blocks) && b < a.saturating_add(a_blocks)
}

/// A command that the relay has out at the storage.
#[derive(Clone, Copy, Debug)]
pub struct WanTask {
    pub nexus: NexusKey,
    pub sent: Time,
    /// When the last of its data had left for the storage: what it takes from then on is
    /// its own and the path's, not our queue's.
    pub left: Option<Time>,
    /// Bytes of data-out.
    pub out_len: u32,
    pub kind: WanKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WanKind {
    /// A record of the log.
    Flush { volume: VolumeKey, record: u32 },
    /// The flusher's SYNCHRONIZE CACHE.
    FlushSync { volume: VolumeKey },
    /// A chunk of a computer's read. The page is the WAN task's own copy of
    /// the name, so that data for a reader that has gone still has its place.
    Chunk {
        task: TaskKey,
        volume: VolumeKey,
        page: StagePage,
        len: u32,
        received: u32,
    },
    /// A computer's passing command.
    Forward { task: TaskKey },
    /// A write or sync of the flusher whose answer counts no more: the storage
    /// has said that it was reset since. What of a write is still to be sent
    /// is the record's own bytes, so the record stays.
    Stray {
        volume: VolumeKey,
        record: Option<u32>,
    },
    /// The relay's own question whether a volume takes writes.
    Check {
        volume: VolumeKey,
        /// The volume's, when it was asked.
        doubts: u32,
        step: CheckStep,
        page: StagePage,
        received: u32,
    },
    /// The relay's own question who holds a volume.
    Holding {
        volume: VolumeKey,
        question: Question,
        page: StagePage,
        received: u32,
    },
    /// Whether the nexus has a unit attention to tell: TEST UNIT READY.
    Poll { volume: VolumeKey },
    /// The relay's own question after login (capacity, caching mode).
    Probe {
        step: ProbeStep,
        page: StagePage,
        lun: u64,
        /// The volume's, when it was asked.
        doubts: u32,
        received: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStep {
    ReportLuns,
    Capacity16,
    Capacity10,
    CachingMode,
    BlockLimits,
}

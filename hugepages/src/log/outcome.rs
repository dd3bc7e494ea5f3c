//! What the log answers: what was found, what is wrong, what has no room.

use std::fmt;

use super::{RecordId, VolumeId};

/// A write that does not fit; nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// Segments that the write needs beyond the volume's open one.
    pub segments_wanted: usize,
    pub segments_free: usize,
}

/// How much is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub segments_total: usize,
    pub segments_free: usize,
    /// Kept for the operator, not for use.
    pub segments_damaged: usize,
    /// Payload bytes of all segments.
    pub bytes_total: u64,
    /// Payload bytes of the free segments.
    pub bytes_free: u64,
    /// Payload bytes of committed records.
    pub dirty_bytes: u64,
}

/// A payload that is not what its checksum says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "volume {} sequence {sequence}: {len} bytes at LBA {lba} have CRC32C {found:#010x}, not \
     {expected:#010x}; the write is lost, the volume must be failed", volume.0
)]
pub struct Torn {
    pub volume: VolumeId,
    pub sequence: u64,
    pub lba: u64,
    pub len: u32,
    pub expected: u32,
    pub found: u32,
}

/// What is wrong with a record or segment found at attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DamageKind {
    /// The segment's header fails its checksum; nothing in it can be trusted.
    SegmentHeader,
    /// State and generation do not agree with their own checksum: nobody can tell
    /// whether the record counts, nor whether the segment is in use.
    Life,
    /// The state is none that this version writes.
    State,
    /// The record's header fails its checksum; the other fields are guesses.
    HeaderChecksum,
    /// The payload is empty or longer than a record may be.
    Length,
    /// The payload pages are not inside the segment.
    Pages,
    /// Part numbers that no write has.
    Parts,
    /// The record names another volume than its segment.
    Volume,
    /// The directory has no such volume.
    UnknownVolume,
    /// The blocks are not inside the volume.
    Blocks,
    /// The payload pages are another record's too.
    Overlap,
    /// Another record has the same volume, sequence and part, and other contents.
    Duplicate,
}

/// A record or segment that is kept, never shown, and reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    pub kind: DamageKind,
    pub segment: usize,
    /// `None` when it is the whole segment.
    pub slot: Option<usize>,
    /// The volume as the segment's header names it, if that one is sound.
    pub volume: Option<VolumeId>,
    pub epoch: u64,
    pub sequence: u64,
    pub lba: u64,
    pub len: u32,
}

impl DamageKind {
    /// In a few words, for a message.
    pub const fn as_str(self) -> &'static str {
        match self {
            DamageKind::SegmentHeader => "the segment's header fails its checksum",
            DamageKind::Life => "its state and generation fail their checksum",
            DamageKind::State => "a state that no release writes",
            DamageKind::HeaderChecksum => "the record's header fails its checksum",
            DamageKind::Length => "a length that no record has",
            DamageKind::Pages => "payload pages outside its segment",
            DamageKind::Parts => "part numbers that no write has",
            DamageKind::Volume => "it names another volume than its segment",
            DamageKind::UnknownVolume => "the directory has no such volume",
            DamageKind::Blocks => "blocks outside the volume",
            DamageKind::Overlap => "its payload pages are another record's too",
            DamageKind::Duplicate => "another record has its place in the order",
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}", self.segment)?;
        if let Some(slot) = self.slot {
            let Damage {
                sequence, lba, len, ..
            } = self;
            write!(
                f,
                " record {slot} (sequence {sequence}, {len} bytes at LBA {lba})"
            )?;
        }
        write!(f, ": {}", self.kind.as_str())
    }
}

/// How far an opening has come, for whoever waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Segments gone through, and in all.
    pub segments_done: usize,
    pub segments: usize,
    /// Sound headers found so far.
    pub records: usize,
}

/// What was found when the log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The region was empty and is now a log.
    pub formatted: bool,
    /// The last that used it ended in good order ([`super::Log::close`]). Nothing
    /// is trusted for that: all is checked as after a crash.
    pub clean: bool,
    /// All records, by volume and in order of arrival.
    pub records: Vec<RecordId>,
    /// A row a volume of the directory.
    pub volumes: Vec<VolumeRecovery>,
    /// Records and segments with faults.
    pub damaged: Vec<Damage>,
    /// Volume rows both copies of which are damaged.
    pub damaged_volume_rows: Vec<VolumeId>,
    /// Nexus rows both copies of which are damaged; the nexus comes back at its next login.
    pub damaged_nexus_rows: usize,
    /// Records of writes that were never committed, so never acknowledged; dropped.
    pub incomplete_records: usize,
}

impl Recovery {
    /// Whether every record has its volume, as one must have who goes on to serve.
    ///
    /// # Errors
    /// [`LogError::VolumeRow`]: one that is lost might have writes for a volume which
    /// would be served without them.
    pub fn has_all_volumes(&self) -> Result<(), LogError> {
        match self.damaged_volume_rows.first() {
            Some(&VolumeId(row)) => Err(LogError::VolumeRow { row }),
            None => Ok(()),
        }
    }
}

/// What was found of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeRecovery {
    pub volume: VolumeId,
    pub records: u32,
    pub dirty_bytes: u64,
    /// Highest seen in any sound header, freed ones included; 0 when there is none.
    pub epoch_max: u64,
    pub sequence_max: u64,
}

/// Why the log cannot be used, or its directory not be changed so.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("a region of {len} bytes is too small for a log: it takes 4 MiB at least")]
    TooSmall { len: usize },
    #[error(
        "the region holds something that is not a Sluice log (it begins {begins:#018x}); nothing \
         was changed: give the log another name, or remove the file if it is not wanted"
    )]
    Foreign { begins: u64 },
    #[error(
        "the log has format version {found}, this program knows {known}; nothing was changed: \
         start the release that wrote it, `sluicectl drain`, stop it and remove the log's file, then \
         start this one"
    )]
    Version { found: u32, known: u32 },
    #[error(
        "the log was made with {found} segments and the region has {wanted}; configure a log of \
         {found} x 2 MiB"
    )]
    Segments { found: usize, wanted: usize },
    #[error(
        "the log's superblock fails its checksum; nothing was changed: keep the file for recovery \
         and start with another name"
    )]
    Superblock,
    #[error(
        "the log's directory has no free {what} row (of {rows}); remove one, or make a larger log"
    )]
    RowsFull { what: &'static str, rows: usize },
    #[error(
        "both copies of volume row {row} in the log's directory are damaged, so nobody can tell \
         whose its writes are; nothing was flushed: `sluicectl log check` lists what is there; \
         where there is a journal, move the log's file away and the log is made from it, else \
         keep the file for recovery and start with another name"
    )]
    VolumeRow { row: u16 },
    #[error("the log's directory has no {what} {id}")]
    NoRow { what: &'static str, id: u16 },
    #[error(
        "volume {id} has {records} records ({dirty_bytes} bytes) in the log, or damaged ones; flush \
         or discard them first"
    )]
    InUse {
        id: u16,
        records: u32,
        dirty_bytes: u64,
    },
    #[error(
        "volume {name}: a block length of {block_len} bytes is not a power of two from 512 to 4096"
    )]
    BlockLen { name: String, block_len: u32 },
}

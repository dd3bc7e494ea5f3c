//! The write log: acknowledged writes in segments of 2 MiB hugepages, found
//! again after a crash.
//!
//! What always holds:
//! - A record is visible only when its header, its payload and the payload's
//!   CRC32C are complete; one store makes it so, for a write of several records
//!   too.
//! - A process that is stopped after any store leaves a log in which each write
//!   is whole or absent, each free done or not, each row old or new.
//! - A write is taken whole or refused whole; room is counted in segments.
//! - What is found at attach is hostile until checked. A damaged record is
//!   listed, kept and never shown; payload is verified before its first use.
//! - Identity is not position: a [`RecordId`] indexes a private slab, and where
//!   the record stands is the log's own business.
//! - Nothing is allocated by `reserve`, `append`, `commit`, `abort` and `free`.
//!
//! Not for: order and flushing (the cache's part, which gives the sequences),
//! overlap of records, power loss (the journal's part).
//!
//! The bytes are drawn in `layout.rs`.

mod attach;
mod directory;
mod layout;
mod memory;
mod moving;
mod outcome;
mod records;
mod restore;
mod rows;
mod segments;
mod write;

use arrayvec::ArrayVec;

pub use layout::ROW_BODY_LEN;
pub use moving::{Emptying, Moved};
pub use outcome::{
    Damage, DamageKind, LogError, NoRoom, Progress, Recovery, Room, Torn, VolumeRecovery,
};
pub use restore::Pairing;
pub use rows::{NAME_LEN_MAX, NexusEntry, VolumeEntry, VolumeFlags};

use crate::fuse::Fuse;
use crate::region::Region;
use directory::Table;
use layout::{END_CLEAN, END_OFFSET, Geometry, PAGE_LEN, PAYLOAD_PAGES};
use memory::Memory;
use records::Slab;
use segments::Segments;

/// Longest write that [`Log::reserve`] takes: 65,536 blocks of 512 bytes, what
/// WRITE (10) can ask for and initiators send to a target that names no limit.
pub const WRITE_LEN_MAX: usize = 32 * 1024 * 1024;
/// Longest record; a longer write is several.
pub const RECORD_LEN_MAX: usize = 1024 * 1024;
/// Payload bytes of a segment, the unit of admission.
pub const SEGMENT_PAYLOAD_LEN: usize = PAYLOAD_PAGES * PAGE_LEN;

/// Segments that the longest write touches: the rest of one and as many as the
/// pages that do not fit there need.
const WRITE_SEGMENTS_MAX: usize = 1 + (WRITE_LEN_MAX / PAGE_LEN - 1).div_ceil(PAYLOAD_PAGES);
/// Records of one write: a segment holds two of the longest record's pages at most.
pub const WRITE_PARTS_MAX: usize =
    WRITE_SEGMENTS_MAX * PAYLOAD_PAGES.div_ceil(RECORD_LEN_MAX / PAGE_LEN);

/// A row of the volume directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub u16);

/// A row of the nexus directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexusId(pub u16);

/// A record, by its index in the slab; below [`Log::records_max`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u32);

/// A write that has room and is being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriteId(u32);

/// The records of a committed write, in LBA order.
pub type Parts = ArrayVec<RecordId, WRITE_PARTS_MAX>;

/// What is remembered of a write beside its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordFlags(pub u8);

impl RecordFlags {
    pub const NONE: RecordFlags = RecordFlags(0);
    /// FUA or an ORDERED task: nothing is reordered across it.
    pub const ORDERING_POINT: RecordFlags = RecordFlags(1);

    /// Whether all of `flags` are set.
    pub const fn contains(self, flags: RecordFlags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both sets of flags.
    #[must_use]
    pub const fn with(self, flags: RecordFlags) -> RecordFlags {
        RecordFlags(self.0 | flags.0)
    }
}

/// A committed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub volume: VolumeId,
    pub epoch: u64,
    /// Place in the volume's order of arrival; shared by the parts of a write.
    pub sequence: u64,
    pub lba: u64,
    /// Bytes of payload.
    pub len: u32,
    pub flags: RecordFlags,
    /// Which of the write's records this is, from 0.
    pub part: u8,
    /// How many records the write has.
    pub parts: u8,
}

/// What the log holds of a volume (the amount of A-7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeUse {
    pub records: u32,
    /// Payload bytes of committed records.
    pub dirty_bytes: u64,
    /// Segments claimed, those of writes still being received included.
    pub segments: u32,
    /// Where the next record goes.
    open: Option<u32>,
}

/// The write log over one region. One worker owns it.
#[derive(Debug)]
pub struct Log {
    memory: Memory,
    geometry: Geometry,
    worker: u8,
    volume_rows: Table<VolumeEntry>,
    nexus_rows: Table<NexusEntry>,
    /// By `VolumeId`.
    uses: Box<[VolumeUse]>,
    segments: Segments,
    slab: Slab,
    damaged: Vec<Damage>,
}

impl Log {
    /// Formats an empty region, or attaches to the log that is in it. Over a
    /// region that is read only nothing is stored: what the log says then is
    /// what the next data plane would find.
    ///
    /// # Errors
    /// Foreign bytes, an unknown version or a damaged superblock are refused:
    /// see [`LogError`]. The bytes stay as they are.
    pub fn open(region: Region) -> Result<(Log, Recovery), LogError> {
        Log::open_with_fuse(region, Fuse::NEVER)
    }

    /// As [`Log::open`], stopping after as many stores as `fuse` allows.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_with_fuse(region: Region, fuse: Fuse) -> Result<(Log, Recovery), LogError> {
        attach::open(Memory::new(region, fuse), &mut |_| ())
    }

    /// As [`Log::open`]; `progress` is called now and then.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_with_progress(
        region: Region,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Log, Recovery), LogError> {
        attach::open(Memory::new(region, Fuse::NEVER), progress)
    }

    /// Its user begins: from now on whoever finds it finds it after a crash.
    pub fn begin(&mut self) {
        if self.memory.load(END_OFFSET) != 0 {
            self.memory.store(END_OFFSET, 0);
        }
    }

    /// Its user has ended in good order: the last thing that is stored. The next
    /// [`Log::open`] says so.
    pub fn close(&mut self) {
        self.memory.store(END_OFFSET, END_CLEAN);
    }

    /// The memory, for the next life after a simulated crash.
    pub fn into_region(self) -> Region {
        self.memory.into_region()
    }

    /// From now on, stop after as many stores as `fuse` allows.
    pub fn set_fuse(&mut self, fuse: Fuse) {
        self.memory.set_fuse(fuse);
    }

    /// The fuse that every store asks; once blown, what this log says is of a
    /// world that no longer exists.
    pub fn fuse(&self) -> &Fuse {
        self.memory.fuse()
    }

    /// Segments claimed from now on are `worker`'s.
    pub fn set_worker(&mut self, worker: u8) {
        self.worker = worker;
    }

    /// How much is free (A-11, B-5).
    pub fn room(&self) -> Room {
        let segments_total = self.geometry.segments - self.geometry.directory_segments;
        let segments_free = self.segments.free_count();
        Room {
            segments_total,
            segments_free,
            segments_damaged: self.segments.damaged_count(),
            bytes_total: segments_total as u64 * SEGMENT_PAYLOAD_LEN as u64,
            bytes_free: segments_free as u64 * SEGMENT_PAYLOAD_LEN as u64,
            dirty_bytes: self.uses.iter().map(|used| used.dirty_bytes).sum(),
        }
    }

    /// What the log holds of a volume.
    pub fn volume_use(&self, volume: VolumeId) -> VolumeUse {
        self.uses[usize::from(volume.0)]
    }

    /// Upper bound of [`RecordId`] values, for tables beside the log.
    pub fn records_max(&self) -> usize {
        self.slab.capacity()
    }
}

/// The directory. Updates are durable when they return; they are not for the
/// hot path.
impl Log {
    /// All volumes.
    pub fn volumes(&self) -> impl Iterator<Item = (VolumeId, &VolumeEntry)> {
        self.volume_rows
            .iter()
            .map(|(row, entry)| (VolumeId(row_id(row)), entry))
    }

    /// One volume.
    pub fn volume(&self, id: VolumeId) -> Option<&VolumeEntry> {
        self.volume_rows.get(usize::from(id.0))
    }

    /// Adds a volume.
    ///
    /// # Errors
    /// No row is left, or the block length is not one the log can cut at.
    pub fn put_volume(&mut self, entry: VolumeEntry) -> Result<VolumeId, LogError> {
        check_block_len(&entry)?;
        // A row whose old records are damaged stays theirs.
        let vacant = (0..self.volume_rows.len()).find(|&row| {
            self.volume_rows.is_vacant(row)
                && self
                    .damaged
                    .iter()
                    .all(|damage| damage.volume != Some(VolumeId(row_id(row))))
        });
        let Some(row) = vacant else {
            return Err(LogError::RowsFull {
                what: "volume",
                rows: self.volume_rows.len(),
            });
        };
        self.volume_rows.set(&mut self.memory, row, Some(entry));
        Ok(VolumeId(row_id(row)))
    }

    /// Replaces a volume's row.
    ///
    /// # Errors
    /// There is none, or the log holds writes for it and it would shrink or its
    /// block length change.
    pub fn update_volume(&mut self, id: VolumeId, entry: VolumeEntry) -> Result<(), LogError> {
        check_block_len(&entry)?;
        let Some(old) = self.volume(id) else {
            return Err(LogError::NoRow {
                what: "volume",
                id: id.0,
            });
        };
        let holds_records = old.block_len == entry.block_len && old.blocks <= entry.blocks;
        if !holds_records {
            self.check_unused(id)?;
        }
        self.volume_rows
            .set(&mut self.memory, usize::from(id.0), Some(entry));
        Ok(())
    }

    /// Takes a volume out of the directory.
    ///
    /// # Errors
    /// There is none, or the log still holds writes for it.
    pub fn remove_volume(&mut self, id: VolumeId) -> Result<(), LogError> {
        if self.volume(id).is_none() {
            return Err(LogError::NoRow {
                what: "volume",
                id: id.0,
            });
        }
        self.check_unused(id)?;
        self.volume_rows
            .set(&mut self.memory, usize::from(id.0), None);
        Ok(())
    }

    /// All nexuses.
    pub fn nexuses(&self) -> impl Iterator<Item = (NexusId, &NexusEntry)> {
        self.nexus_rows
            .iter()
            .map(|(row, entry)| (NexusId(row_id(row)), entry))
    }

    /// How many nexuses the directory has rows for.
    pub fn nexuses_max(&self) -> usize {
        self.nexus_rows.len()
    }

    /// One nexus.
    pub fn nexus(&self, id: NexusId) -> Option<&NexusEntry> {
        self.nexus_rows.get(usize::from(id.0))
    }

    /// Adds a nexus.
    ///
    /// # Errors
    /// No row is left.
    pub fn put_nexus(&mut self, entry: NexusEntry) -> Result<NexusId, LogError> {
        let vacant = (0..self.nexus_rows.len()).find(|&row| self.nexus_rows.is_vacant(row));
        let Some(row) = vacant else {
            return Err(LogError::RowsFull {
                what: "nexus",
                rows: self.nexus_rows.len(),
            });
        };
        self.nexus_rows.set(&mut self.memory, row, Some(entry));
        Ok(NexusId(row_id(row)))
    }

    /// Replaces a nexus's row.
    ///
    /// # Errors
    /// There is none.
    pub fn update_nexus(&mut self, id: NexusId, entry: NexusEntry) -> Result<(), LogError> {
        self.set_nexus(id, Some(entry))
    }

    /// Takes a nexus out of the directory.
    ///
    /// # Errors
    /// There is none.
    pub fn remove_nexus(&mut self, id: NexusId) -> Result<(), LogError> {
        self.set_nexus(id, None)
    }

    fn set_nexus(&mut self, id: NexusId, entry: Option<NexusEntry>) -> Result<(), LogError> {
        if self.nexus(id).is_none() {
            return Err(LogError::NoRow {
                what: "nexus",
                id: id.0,
            });
        }
        self.nexus_rows
            .set(&mut self.memory, usize::from(id.0), entry);
        Ok(())
    }

    fn check_unused(&self, id: VolumeId) -> Result<(), LogError> {
        let VolumeUse {
            records,
            segments,
            dirty_bytes,
            ..
        } = self.volume_use(id);
        if segments != 0 || self.damaged.iter().any(|damage| damage.volume == Some(id)) {
            return Err(LogError::InUse {
                id: id.0,
                records,
                dirty_bytes,
            });
        }
        Ok(())
    }
}

fn check_block_len(entry: &VolumeEntry) -> Result<(), LogError> {
    if entry.has_valid_block_len() {
        return Ok(());
    }
    Err(LogError::BlockLen {
        name: entry.target_name.to_string(),
        block_len: entry.block_len,
    })
}

/// Rows are fewer than 2^15: `layout::DIRECTORY_SEGMENTS_MAX`.
fn row_id(row: usize) -> u16 {
    u16::try_from(row).expect("the directory has fewer than 2^15 rows")
}

#[cfg(test)]
mod tests;

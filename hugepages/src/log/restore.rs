//! What a journal needs of a log: where a record's bytes stand, and a way to
//! put rows and records back under their old names.
//!
//! What always holds: one word says which journal the log goes with, and
//! whether it is being filled from one; it is one store, so a log that was
//! half filled never passes for whole.
//!
//! Not for: the journal itself, which is the data plane's.

use super::layout::{
    COMMITTED, Life, PAGE_LEN, PAIRING_OFFSET, ROW_BODY_LEN, ROW_LEN, RecordHeader, pages_of,
    slot_offset,
};
use super::records::{Entry, Phase};
use super::rows::Row;
use super::write::page_count;
use super::{
    Log, LogError, NexusEntry, NexusId, NoRoom, RECORD_LEN_MAX, Record, RecordId, VolumeEntry,
    VolumeId,
};

/// Which journal a log goes with, by the journal's id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pairing {
    #[default]
    None,
    /// The log is being filled from it: what is here is a part of it.
    Restoring(u32),
    /// Both have all that counts.
    With(u32),
    /// That journal is being filled from the log: what is in it is a part of it.
    Into(u32),
}

impl Pairing {
    fn encode(self) -> u64 {
        let (id, state) = match self {
            Pairing::None => return 0,
            Pairing::Restoring(id) => (id, 1),
            Pairing::With(id) => (id, 2),
            Pairing::Into(id) => (id, 3),
        };
        u64::from(id) << 32 | u64::from(check(id, state))
    }

    /// A word that none of these makes is a log that goes with no journal.
    fn decode(word: u64) -> Pairing {
        let id = (word >> 32) as u32;
        [Pairing::Restoring(id), Pairing::With(id), Pairing::Into(id)]
            .into_iter()
            .find(|pairing| pairing.encode() == word)
            .unwrap_or(Pairing::None)
    }
}

fn check(id: u32, state: u8) -> u32 {
    crc32c::crc32c_append(u32::from(state), &id.to_le_bytes())
}

impl VolumeEntry {
    /// The row's bytes, as the directory has them.
    pub fn to_row(&self) -> [u8; ROW_BODY_LEN] {
        self.encode()
    }

    /// `None` when the bytes are no such row.
    pub fn from_row(body: &[u8; ROW_BODY_LEN]) -> Option<VolumeEntry> {
        VolumeEntry::decode(body)
    }
}

impl NexusEntry {
    /// The row's bytes, as the directory has them.
    pub fn to_row(&self) -> [u8; ROW_BODY_LEN] {
        self.encode()
    }

    /// `None` when the bytes are no such row.
    pub fn from_row(body: &[u8; ROW_BODY_LEN]) -> Option<NexusEntry> {
        NexusEntry::decode(body)
    }
}

impl Log {
    /// The journal that this log goes with.
    pub fn pairing(&self) -> Pairing {
        Pairing::decode(self.memory.load(PAIRING_OFFSET))
    }

    /// Says so from now on; one store.
    pub fn pair(&mut self, pairing: Pairing) {
        self.memory.store(PAIRING_OFFSET, pairing.encode());
    }

    /// Where a record's payload stands in the region; a page's beginning.
    pub fn payload_offset(&self, id: RecordId) -> usize {
        self.slab.live(id).0.payload_offset()
    }

    /// Where a record's header stands in the region.
    pub fn header_offset(&self, id: RecordId) -> usize {
        self.slab.live(id).0.slot_offset()
    }

    /// Where a volume's row stands in the region, and its bytes: two copies.
    pub fn volume_row_place(&self, id: VolumeId) -> std::ops::Range<usize> {
        let row = self.geometry.volume_row(usize::from(id.0));
        row..row + ROW_LEN
    }

    /// CRC32C of a record's payload, as its header says.
    pub fn payload_crc(&self, id: RecordId) -> u32 {
        self.slab.live(id).0.payload_crc
    }

    /// The pages from `offset` on, for a model of what a device reads there.
    ///
    /// # Panics
    /// When they are not inside the region.
    pub fn pages(&self, offset: usize, pages: usize) -> &[u8] {
        self.memory.bytes(offset, pages * PAGE_LEN)
    }

    /// First byte of the region, for a device that reads payload itself.
    pub fn base(&self) -> *const u8 {
        self.memory.bytes(0, 0).as_ptr()
    }

    /// Bytes of the region.
    pub fn region_len(&self) -> usize {
        self.memory.len()
    }

    /// Puts a volume's row back under its old number.
    ///
    /// # Errors
    /// There is no such number in a log of this size, or the row is taken.
    pub fn restore_volume(&mut self, id: VolumeId, entry: VolumeEntry) -> Result<(), LogError> {
        let row = usize::from(id.0);
        if row >= self.volume_rows.len() || !self.volume_rows.is_vacant(row) {
            let rows = self.volume_rows.len();
            return Err(LogError::RowsFull {
                what: "volume",
                rows,
            });
        }
        self.volume_rows.set(&mut self.memory, row, Some(entry));
        Ok(())
    }

    /// Puts a nexus's row back under its old number.
    ///
    /// # Errors
    /// As [`Log::restore_volume`].
    pub fn restore_nexus(&mut self, id: NexusId, entry: NexusEntry) -> Result<(), LogError> {
        let row = usize::from(id.0);
        if row >= self.nexus_rows.len() || !self.nexus_rows.is_vacant(row) {
            let rows = self.nexus_rows.len();
            return Err(LogError::RowsFull {
                what: "nexus",
                rows,
            });
        }
        self.nexus_rows.set(&mut self.memory, row, Some(entry));
        Ok(())
    }

    /// Nothing was ever put into it: no row, no record.
    pub fn is_unused(&self) -> bool {
        let rows = (0..self.volume_rows.len()).all(|row| self.volume_rows.is_vacant(row))
            && (0..self.nexus_rows.len()).all(|row| self.nexus_rows.is_vacant(row));
        rows && self.damaged.is_empty() && self.records().next().is_none()
    }

    /// Puts a record back, committed, under its old name and payload CRC32C, which
    /// [`Log::verify`] will find wrong if its bytes were lost. A part is its own
    /// record here: what it was split from need not be there.
    ///
    /// # Errors
    /// [`NoRoom`]; nothing was taken.
    ///
    /// # Panics
    /// When the volume is not there, or the blocks are not in it: rows come first,
    /// and a journal's records were the log's.
    pub fn restore_record(
        &mut self,
        record: &Record,
        bytes: &[u8],
        payload_crc: u32,
    ) -> Result<RecordId, NoRoom> {
        let volume = self.volume(record.volume).expect("rows come first");
        assert!(
            bytes.len() == record.len as usize
                && (1..=RECORD_LEN_MAX).contains(&bytes.len())
                && volume.holds(record.lba, record.len.into()),
            "{} bytes for {record:?}",
            bytes.len()
        );
        let pages = pages_of(bytes.len());
        // They come in another order than they were reserved in, and cannot
        // be cut anew: what stayed free behind a long one is taken at last.
        let segment = self
            .segment_with(record.volume, pages)
            .or_else(|| self.segments.with_room(record.volume, pages))
            .ok_or(NoRoom {
                segments_wanted: 1,
                segments_free: 0,
            })?;
        self.uses[usize::from(record.volume.0)].open = Some(segment);
        let info = self.segments.get_mut(segment);
        let (slot, first_page) = (info.next_slot, info.next_page);
        info.next_slot += 1;
        info.next_page += page_count(record.len);
        info.live_records += 1;
        info.live_pages += page_count(record.len);
        let generation = info.generation;
        let used = &mut self.uses[usize::from(record.volume.0)];
        used.records += 1;
        used.dirty_bytes += u64::from(record.len);
        let mut entry = Entry {
            record: *record,
            segment,
            slot,
            first_page,
            payload_crc,
            phase: Phase::COMMITTED,
        };
        let verified = self.memory.copy_in(entry.payload_offset(), bytes, 0) == payload_crc;
        if !verified {
            entry.phase = Phase::FOUND;
        }
        let place = (segment as usize, usize::from(slot));
        let life = Life::new(COMMITTED, generation);
        let words = RecordHeader::encode(&entry.header(), place.0, place.1, life);
        self.memory
            .store_header(slot_offset(place.0, place.1), &words);
        Ok(RecordId(self.slab.insert(entry)))
    }
}

//! The way of a write into the log: room, bytes, commit.
//!
//! What always holds: until its commit a write has stored nothing but payload
//! in pages that are no one else's; the last part's header is the one store
//! that commits all parts.

use super::layout::{
    COMMITTED, Life, PAGE_LEN, PAYLOAD_PAGES, PREPARED, RecordHeader, pages_of, slot_offset,
};
use super::records::{Entry, NONE, Phase, index};
use super::{
    Log, NoRoom, Parts, RECORD_LEN_MAX, Record, RecordFlags, RecordId, VolumeId, WRITE_LEN_MAX,
    WriteId,
};

impl Log {
    /// Takes room for a whole write of `len` bytes at `lba`, or none.
    ///
    /// # Errors
    /// [`NoRoom`]: answered as A-12 says.
    ///
    /// # Panics
    /// When the caller has not checked the command: an unknown volume, blocks
    /// outside it, or a length of zero or beyond [`WRITE_LEN_MAX`].
    pub fn reserve(&mut self, volume: VolumeId, lba: u64, len: u32) -> Result<WriteId, NoRoom> {
        let entry = self
            .volume(volume)
            .expect("writes are for volumes of the directory");
        assert!(
            len > 0 && len as usize <= WRITE_LEN_MAX,
            "a write of {len} bytes"
        );
        assert!(
            entry.holds(lba, len.into()),
            "{len} bytes at LBA {lba} of {} blocks",
            entry.blocks
        );
        let block_len = u64::from(entry.block_len);
        self.check_room(volume, len)?;

        let (mut first, mut last) = (NONE, NONE);
        let (mut done, mut part) = (0, 0);
        while done < len {
            let segment = self.open_segment(volume);
            let info = self.segments.get_mut(segment);
            let room = (info.pages_left() * PAGE_LEN).min(RECORD_LEN_MAX);
            let part_len = (len - done).min(index(room));
            let (slot, first_page) = (info.next_slot, info.next_page);
            info.next_slot += 1;
            info.next_page += page_count(part_len);
            info.receiving += 1;
            let record = Record {
                volume,
                epoch: 0,
                sequence: 0,
                lba: lba + u64::from(done) / block_len,
                len: part_len,
                flags: RecordFlags::NONE,
                part,
                parts: 0,
            };
            let phase = Phase::Receiving {
                next: NONE,
                filled: 0,
                current: 0,
                received: 0,
                total: len,
            };
            let entry = Entry {
                record,
                segment,
                slot,
                first_page,
                payload_crc: 0,
                phase,
            };
            let id = self.slab.insert(entry);
            if part == 0 {
                first = id;
            } else {
                self.slab.chain(last, id);
            }
            last = id;
            done += part_len;
            part += 1;
        }
        Ok(WriteId(first))
    }

    /// Whether [`Log::reserve`] would take such a write now.
    pub fn fits(&self, volume: VolumeId, len: u32) -> bool {
        self.check_room(volume, len).is_ok()
    }

    /// Copies the next bytes of a write in, checksumming them on the way.
    ///
    /// # Panics
    /// When they are more than were reserved.
    pub fn append(&mut self, write: WriteId, mut bytes: &[u8]) {
        let Phase::Receiving {
            current,
            received,
            total,
            ..
        } = self.slab.get(write.0).phase
        else {
            panic!("write {} is not being received", write.0);
        };
        let mut current = if received == 0 { write.0 } else { current };
        let added = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        assert!(
            added <= total - received,
            "{added} more bytes for {received} of {total}"
        );
        while !bytes.is_empty() {
            let entry = self.slab.get_mut(current);
            let at = entry.payload_offset();
            let len = entry.record.len;
            let Phase::Receiving { next, filled, .. } = &mut entry.phase else {
                unreachable!("a part of a write that is being received");
            };
            if *filled == len {
                current = *next;
                continue;
            }
            let (now, rest) = bytes.split_at(bytes.len().min((len - *filled) as usize));
            entry.payload_crc = self
                .memory
                .copy_in(at + *filled as usize, now, entry.payload_crc);
            *filled += index(now.len());
            bytes = rest;
        }
        if let Phase::Receiving {
            current: at,
            received,
            ..
        } = &mut self.slab.get_mut(write.0).phase
        {
            *at = current;
            *received += added;
        }
    }

    /// Copies bytes of a write that is being received out again, from `offset`
    /// on: for data that goes to the storage without ever becoming a record.
    ///
    /// # Panics
    /// When they are not all appended yet.
    pub fn copy_received(&self, write: WriteId, offset: usize, mut into: &mut [u8]) {
        assert!(
            offset + into.len() <= self.received(write) as usize,
            "{} bytes at {offset} have not all come",
            into.len()
        );
        let (mut id, mut skip) = (write.0, offset);
        while !into.is_empty() {
            let entry = self.slab.get(id);
            let Phase::Receiving { next, filled, .. } = entry.phase else {
                unreachable!("a part of a write that is being received");
            };
            let filled = filled as usize;
            let from = skip.min(filled);
            let (now, rest) = into.split_at_mut((filled - from).min(into.len()));
            now.copy_from_slice(self.memory.bytes(entry.payload_offset() + from, now.len()));
            (id, skip, into) = (next, skip - from, rest);
        }
    }

    /// Bytes appended so far.
    pub fn received(&self, write: WriteId) -> u32 {
        match self.slab.get(write.0).phase {
            Phase::Receiving { received, .. } => received,
            _ => panic!("write {} is not being received", write.0),
        }
    }

    /// Makes the write a record, or several, at its place in the order of
    /// arrival. When this returns it may be acknowledged.
    ///
    /// `sequence` is the volume's next: used once, and growing.
    ///
    /// # Panics
    /// When bytes are missing.
    pub fn commit(
        &mut self,
        write: WriteId,
        epoch: u64,
        sequence: u64,
        flags: RecordFlags,
    ) -> Parts {
        let Phase::Receiving {
            received, total, ..
        } = self.slab.get(write.0).phase
        else {
            panic!("write {} is not being received", write.0);
        };
        assert_eq!(received, total, "a write is committed with all its bytes");
        let ids = self.parts_of(write);
        let parts = u8::try_from(ids.len()).expect("at most WRITE_PARTS_MAX");
        for &id in &ids {
            let entry = self.slab.get_mut(id.0);
            entry.phase = Phase::COMMITTED;
            entry.record = Record {
                epoch,
                sequence,
                flags,
                parts,
                ..entry.record
            };
            let record = entry.record;
            let segment = self.segments.get_mut(entry.segment);
            segment.receiving -= 1;
            segment.live_records += 1;
            segment.live_pages += page_count(record.len);
            let used = &mut self.uses[usize::from(record.volume.0)];
            used.records += 1;
            used.dirty_bytes += u64::from(record.len);
            // Prepared parts count from the moment on that the last is committed.
            let state = if record.part + 1 == parts {
                COMMITTED
            } else {
                PREPARED
            };
            let life = Life::new(state, segment.generation);
            let place = (entry.segment as usize, usize::from(entry.slot));
            let words = RecordHeader::encode(&entry.header(), place.0, place.1, life);
            self.memory
                .store_header(slot_offset(place.0, place.1), &words);
        }
        // Raised at once, so that parts can be freed one by one.
        for &id in &ids[..ids.len() - 1] {
            let entry = self.slab.get(id.0);
            let generation = self.segments.get(entry.segment).generation;
            self.memory.store(
                entry.slot_offset(),
                Life::new(COMMITTED, generation).encode(),
            );
        }
        ids
    }

    /// Gives up a write that will not be committed (ABORT TASK, session loss).
    pub fn abort(&mut self, write: WriteId) {
        let ids = self.parts_of(write);
        // From the last on, so that each is the end of its segment if the next was.
        for &id in ids.iter().rev() {
            let entry = *self.slab.get(id.0);
            let pages = page_count(entry.record.len);
            let segment = self.segments.get_mut(entry.segment);
            segment.receiving -= 1;
            if (segment.next_slot, segment.next_page) == (entry.slot + 1, entry.first_page + pages)
            {
                // No header was stored, so slot and pages are as good as new.
                segment.next_slot = entry.slot;
                segment.next_page = entry.first_page;
            }
            self.slab.remove(id.0);
            let used = &mut self.uses[usize::from(entry.record.volume.0)];
            self.segments.recycle(&mut self.memory, used, entry.segment);
        }
    }

    fn check_room(&self, volume: VolumeId, len: u32) -> Result<(), NoRoom> {
        let open = self.uses[usize::from(volume.0)].open;
        let left = open.map_or(0, |segment| self.segments.get(segment).pages_left());
        let segments_wanted = pages_of(len as usize)
            .saturating_sub(left)
            .div_ceil(PAYLOAD_PAGES);
        let segments_free = self.segments.free_count();
        if segments_wanted > segments_free {
            return Err(NoRoom {
                segments_wanted,
                segments_free,
            });
        }
        Ok(())
    }

    /// The volume's segment with a page left, claimed if need be.
    fn open_segment(&mut self, volume: VolumeId) -> u32 {
        let used = &mut self.uses[usize::from(volume.0)];
        if let Some(segment) = used.open
            && self.segments.get(segment).pages_left() > 0
        {
            return segment;
        }
        let claimed = self.segments.claim(&mut self.memory, volume, self.worker);
        let segment = claimed.expect("check_room has counted the free segments");
        used.open = Some(segment);
        used.segments += 1;
        segment
    }

    fn parts_of(&self, write: WriteId) -> Parts {
        let mut ids = Parts::new();
        let mut id = write.0;
        while id != NONE {
            let Phase::Receiving { next, .. } = self.slab.get(id).phase else {
                panic!("write {} is not being received", write.0);
            };
            ids.push(RecordId(id));
            id = next;
        }
        ids
    }
}

/// Pages of a part, at most 256.
pub(super) fn page_count(part_len: u32) -> u16 {
    u16::try_from(pages_of(part_len as usize)).expect("a record has at most 256 pages")
}

// A part ends where a page, and so a block, ends.
const _: () = assert!(RECORD_LEN_MAX.is_multiple_of(PAGE_LEN));

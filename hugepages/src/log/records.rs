//! The slab of records: what each is, and where it stands now.
//!
//! What always holds: the slab has an entry for every record that the region's
//! pages could hold, so it never runs out and never grows. Not for: finding a
//! record by LBA (the cache's index).

use super::layout::{
    FREED, Geometry, Life, PAYLOAD_PAGES, RecordHeader, SLOTS, page_offset, slot_offset,
};
use super::write::page_count;
use super::{Damage, Log, Record, RecordId, Torn, VolumeId};

/// "No entry" in a chain.
pub(super) const NONE: u32 = u32::MAX;

/// An entry's use.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    Vacant {
        next: u32,
    },
    /// A part of a write that is being received. What is of the write as a
    /// whole (the part that is filled now, bytes received and in all) stands at
    /// its first part.
    Receiving {
        next: u32,
        filled: u32,
        current: u32,
        received: u32,
        total: u32,
    },
    Live {
        verified: bool,
        /// A restart does not find it any more ([`Log::retire`]).
        retired: bool,
    },
}

impl Phase {
    /// Just committed, by this process.
    pub const COMMITTED: Phase = Phase::Live {
        verified: true,
        retired: false,
    };
    /// Found at attach.
    pub const FOUND: Phase = Phase::Live {
        verified: false,
        retired: false,
    };
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub record: Record,
    pub segment: u32,
    pub slot: u16,
    pub first_page: u16,
    pub payload_crc: u32,
    pub phase: Phase,
}

impl Entry {
    pub fn header(&self) -> RecordHeader {
        let Record {
            volume,
            epoch,
            sequence,
            lba,
            len,
            flags,
            part,
            parts,
        } = self.record;
        RecordHeader {
            volume,
            lba,
            epoch,
            sequence,
            len,
            first_page: self.first_page,
            flags,
            part,
            parts,
            payload_crc: self.payload_crc,
        }
    }

    pub fn slot_offset(&self) -> usize {
        slot_offset(self.segment as usize, usize::from(self.slot))
    }

    pub fn payload_offset(&self) -> usize {
        page_offset(self.segment as usize, usize::from(self.first_page))
    }
}

#[derive(Debug)]
pub(super) struct Slab {
    entries: Vec<Entry>,
    /// By segment and slot: the record that was put there last.
    places: Box<[u32]>,
    capacity: usize,
    vacant: u32,
}

impl Slab {
    /// A record has a page at least, so there are no more of them than pages.
    pub fn new(geometry: &Geometry) -> Slab {
        let segments = geometry.segments - geometry.directory_segments;
        let capacity = segments * PAYLOAD_PAGES;
        Slab {
            entries: Vec::with_capacity(capacity),
            places: vec![NONE; geometry.segments * SLOTS].into(),
            capacity,
            vacant: NONE,
        }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline]
    pub fn insert(&mut self, entry: Entry) -> u32 {
        let id = self.insert_anywhere(entry);
        self.places[place_of(&entry)] = id;
        id
    }

    /// A committed record stands somewhere else now.
    pub fn put_at(&mut self, id: u32, entry: Entry) {
        *self.get_mut(id) = entry;
        self.places[place_of(&entry)] = id;
    }

    /// The committed record whose header is in a slot, if a restart would find it.
    pub fn found_at(&self, segment: u32, slot: u16) -> Option<u32> {
        let id = self.places[segment as usize * SLOTS + usize::from(slot)];
        let entry = self.entries.get(id as usize)?;
        let counts = matches!(entry.phase, Phase::Live { retired: false, .. });
        let stands_there = (entry.segment, entry.slot) == (segment, slot);
        (counts && stands_there).then_some(id)
    }

    fn insert_anywhere(&mut self, entry: Entry) -> u32 {
        match self.vacant {
            NONE => {
                assert!(
                    self.entries.len() < self.capacity,
                    "more records than pages"
                );
                self.entries.push(entry);
                index(self.entries.len() - 1)
            }
            id => {
                let place = &mut self.entries[id as usize];
                let Phase::Vacant { next } = place.phase else {
                    panic!("record {id} is not vacant")
                };
                self.vacant = next;
                *place = entry;
                id
            }
        }
    }

    #[inline]
    pub fn remove(&mut self, id: u32) {
        self.entries[id as usize].phase = Phase::Vacant { next: self.vacant };
        self.vacant = id;
    }

    /// Makes `after` the part behind `before`.
    pub fn chain(&mut self, before: u32, after: u32) {
        match &mut self.get_mut(before).phase {
            Phase::Receiving { next, .. } => *next = after,
            other => panic!("record {before} is {other:?}, not being received"),
        }
    }

    #[inline]
    pub fn get(&self, id: u32) -> &Entry {
        &self.entries[id as usize]
    }

    #[inline]
    pub fn get_mut(&mut self, id: u32) -> &mut Entry {
        &mut self.entries[id as usize]
    }

    /// A record's entry and whether its payload was verified.
    #[inline]
    pub fn live(&self, id: RecordId) -> (&Entry, bool) {
        let entry = self.get(id.0);
        match entry.phase {
            Phase::Live { verified, .. } => (entry, verified),
            _ => panic!("record {} is not committed, or was freed", id.0),
        }
    }

    pub fn live_ids(&self) -> impl Iterator<Item = RecordId> {
        let live = self.entries.iter().enumerate();
        live.filter(|(_, entry)| matches!(entry.phase, Phase::Live { .. }))
            .map(|(id, _)| RecordId(index(id)))
    }
}

impl Log {
    /// What a record is.
    ///
    /// # Panics
    /// As all functions of records: when it was freed. Holding on to the id is a bug.
    #[inline]
    pub fn record(&self, id: RecordId) -> &Record {
        &self.slab.live(id).0.record
    }

    /// All committed records, in no order. ([`super::Recovery::records`] has one.)
    pub fn records(&self) -> impl Iterator<Item = RecordId> {
        self.slab.live_ids()
    }

    /// The payload, 4 KiB-aligned.
    ///
    /// # Panics
    /// When it was found at attach and [`Log::verify`] has not passed it.
    #[inline]
    pub fn payload(&self, id: RecordId) -> &[u8] {
        let (entry, verified) = self.slab.live(id);
        assert!(
            verified,
            "record {} is used before its payload was verified",
            id.0
        );
        self.memory
            .bytes(entry.payload_offset(), entry.record.len as usize)
    }

    /// Checks the payload of a record found at attach, once; free afterwards.
    ///
    /// # Errors
    /// The record stays, is never to be flushed, and its volume goes failed (A-23, C-4).
    #[inline]
    pub fn verify(&mut self, id: RecordId) -> Result<(), Torn> {
        match self.slab.live(id) {
            (_, true) => Ok(()),
            (_, false) => self.verify_payload(id),
        }
    }

    /// Takes a payload found at attach for sound without a look at it: a planted fault.
    #[cfg(feature = "mutations")]
    pub fn believe(&mut self, id: RecordId) {
        self.mark_verified(id);
    }

    fn mark_verified(&mut self, id: RecordId) {
        if let Phase::Live { verified, .. } = &mut self.slab.get_mut(id.0).phase {
            *verified = true;
        }
    }

    /// Whether the payload is what its checksum says; looks at it, if that was not
    /// verified before.
    pub fn is_sound(&self, id: RecordId) -> bool {
        let (_, is_verified) = self.slab.live(id);
        let entry = self.slab.get(id.0);
        let bytes = || {
            self.memory
                .bytes(entry.payload_offset(), entry.record.len as usize)
        };
        is_verified || crc32c::crc32c(bytes()) == entry.payload_crc
    }

    #[cold]
    fn verify_payload(&mut self, id: RecordId) -> Result<(), Torn> {
        let entry = self.slab.get(id.0);
        let Record {
            volume,
            sequence,
            lba,
            len,
            ..
        } = entry.record;
        let found = crc32c::crc32c(self.memory.bytes(entry.payload_offset(), len as usize));
        let expected = entry.payload_crc;
        if found != expected {
            return Err(Torn {
                volume,
                sequence,
                lba,
                len,
                expected,
                found,
            });
        }
        self.mark_verified(id);
        Ok(())
    }

    /// A record is durable at the storage, but is still read: its payload
    /// stays until it is freed, and a restart does not find it any more.
    pub fn retire(&mut self, id: RecordId) {
        let (&entry, verified) = self.slab.live(id);
        self.bury(&entry);
        self.slab.get_mut(id.0).phase = Phase::Live {
            verified,
            retired: true,
        };
    }

    /// One store, which makes the header void.
    pub(super) fn bury(&mut self, entry: &Entry) {
        let generation = self.segments.get(entry.segment).generation;
        self.memory
            .store(entry.slot_offset(), Life::new(FREED, generation).encode());
    }

    /// Forgets a record that is durable at the storage, or discarded.
    pub fn free(&mut self, id: RecordId) {
        let (&entry, _) = self.slab.live(id);
        self.bury(&entry);
        self.slab.remove(id.0);
        let len = entry.record.len;
        let segment = self.segments.get_mut(entry.segment);
        segment.live_records -= 1;
        segment.live_pages -= page_count(len);
        let used = &mut self.uses[usize::from(entry.record.volume.0)];
        used.records -= 1;
        used.dirty_bytes -= u64::from(len);
        self.segments.recycle(&mut self.memory, used, entry.segment);
    }

    /// What was found damaged and not given up since.
    pub fn damaged(&self) -> &[Damage] {
        &self.damaged
    }

    /// Gives up what is damaged of a volume, or with `None` the segments that
    /// no volume can be named for: the operator's word (C-4).
    pub fn discard_damaged(&mut self, volume: Option<VolumeId>) -> usize {
        let mut damaged = std::mem::take(&mut self.damaged);
        let before = damaged.len();
        damaged.retain(|damage| {
            let given_up = damage.volume == volume;
            if given_up {
                self.discard(damage);
            }
            !given_up
        });
        self.damaged = damaged;
        before - self.damaged.len()
    }

    fn discard(&mut self, damage: &Damage) {
        let segment = index(damage.segment);
        let generation = self.segments.get(segment).generation;
        let slots = match damage.slot {
            Some(slot) => slot..slot + 1,
            // Its generation is as doubtful as the rest: no header of any life may
            // speak up again in a later one.
            None => 1..SLOTS,
        };
        let word = if damage.slot.is_some() {
            Life::new(FREED, generation).encode()
        } else {
            0
        };
        for slot in slots {
            self.memory.store(slot_offset(damage.segment, slot), word);
        }
        self.segments.get_mut(segment).damaged -= 1;
        match damage.volume {
            Some(volume) => {
                let used = &mut self.uses[usize::from(volume.0)];
                self.segments.recycle(&mut self.memory, used, segment);
            }
            None => {
                // No volume's account has it.
                let mut used = super::VolumeUse {
                    segments: 1,
                    ..Default::default()
                };
                self.segments.recycle(&mut self.memory, &mut used, segment);
            }
        }
    }
}

fn place_of(entry: &Entry) -> usize {
    entry.segment as usize * SLOTS + usize::from(entry.slot)
}

/// Indexes of records and segments, which `Geometry::of` has bounded.
#[inline]
pub(super) fn index(value: usize) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a region has less than 2^32 headers"
    )]
    let index = value as u32;
    index
}

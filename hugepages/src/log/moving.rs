//! Moving live records together, so that segments come free which hold little.
//!
//! Random overwriting leaves segments of which most is hidden by newer writes. Where
//! the storage cannot be reached nothing else would free them: a log could be full
//! with half of it dead.
//!
//! What always holds: the copy counts before the original does not, and is the same
//! but for its place, so that a stop between the two leaves one of them to drop
//! ([`super::attach`]); a record that is retired, received, or unsound stays; an id
//! is good for its record wherever that stands.
//!
//! Not for: when to move, and what may not be since others read its bytes by their
//! place; the worker knows that.

use super::layout::{COMMITTED, Life, RecordHeader, slot_offset};
use super::records::Entry;
use super::write::page_count;
use super::{Log, RecordId, VolumeId};

/// A segment that is being emptied, and how far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emptying {
    segment: u32,
    /// Once it has been free it is another.
    generation: u64,
    slot: u16,
}

/// What [`Log::move_record`] made of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// So many pages were copied.
    Pages(u16),
    /// Its payload is not what its checksum says: it stays for its next user to find.
    Unsound,
    /// No segment is free to move it to.
    NoRoom,
}

impl Log {
    /// The segment that costs least to empty, if any is worth it: an eighth of it
    /// comes free by that.
    pub fn sparsest_segment(&self) -> Option<Emptying> {
        let is_open =
            |segment, volume: VolumeId| self.uses[usize::from(volume.0)].open == Some(segment);
        let segment = self.segments.sparsest(is_open)?;
        let generation = self.segments.get(segment).generation;
        Some(Emptying {
            segment,
            generation,
            slot: 1,
        })
    }

    /// The next record to move; `None` at the end, from where on the segment is not
    /// offered again until it has been free.
    pub fn next_to_move(&mut self, emptying: &mut Emptying) -> Option<RecordId> {
        let Emptying {
            segment,
            generation,
            slot,
        } = emptying;
        let info = self.segments.get(*segment);
        if !info.is_claimed || info.generation != *generation {
            return None;
        }
        let end = info.next_slot;
        while *slot < end {
            if let Some(id) = self.slab.found_at(*segment, *slot) {
                return Some(RecordId(id));
            }
            *slot += 1;
        }
        self.segments.get_mut(*segment).emptied = true;
        None
    }

    /// Leaves the record where it is.
    pub fn pass_over(&self, emptying: &mut Emptying) {
        emptying.slot += 1;
    }

    /// Copies a record into its volume's open segment, or one that is free, and
    /// voids the original. The id stays.
    ///
    /// # Panics
    /// When it was freed or retired.
    pub fn move_record(&mut self, id: RecordId) -> Moved {
        let (&old, _) = self.slab.live(id);
        assert!(
            self.slab.found_at(old.segment, old.slot) == Some(id.0),
            "record {} is retired",
            id.0
        );
        let (volume, len) = (old.record.volume, old.record.len);
        let pages = page_count(len);
        let Some(segment) = self.segment_with(volume, usize::from(pages)) else {
            return Moved::NoRoom;
        };
        let info = self.segments.get_mut(segment);
        let entry = Entry {
            segment,
            slot: info.next_slot,
            first_page: info.next_page,
            ..old
        };
        let copied =
            self.memory
                .copy_within(old.payload_offset(), entry.payload_offset(), len as usize);
        if copied != old.payload_crc {
            return Moved::Unsound;
        }
        info.next_slot += 1;
        info.next_page += pages;
        info.live_records += 1;
        info.live_pages += pages;
        let life = Life::new(COMMITTED, info.generation);
        let place = (segment as usize, usize::from(entry.slot));
        let words = RecordHeader::encode(&entry.header(), place.0, place.1, life);
        self.memory
            .store_header(slot_offset(place.0, place.1), &words);
        self.bury(&old);
        self.slab.put_at(id.0, entry);
        let info = self.segments.get_mut(old.segment);
        info.live_records -= 1;
        info.live_pages -= pages;
        let used = &mut self.uses[usize::from(volume.0)];
        self.segments.recycle(&mut self.memory, used, old.segment);
        Moved::Pages(pages)
    }

    /// The volume's open segment if it has so many pages left, else a new one.
    pub(super) fn segment_with(&mut self, volume: VolumeId, pages: usize) -> Option<u32> {
        let used = &mut self.uses[usize::from(volume.0)];
        let open = used
            .open
            .filter(|&at| self.segments.get(at).pages_left() >= pages);
        if open.is_some() {
            return open;
        }
        let claimed = self.segments.claim(&mut self.memory, volume, self.worker)?;
        used.segments += 1;
        used.open = Some(claimed);
        Some(claimed)
    }
}

//! The segments: who has claimed which, and how full they are.
//!
//! What always holds: a segment belongs to one volume; it is filled from the
//! front and becomes free when nothing in it is live, being received or
//! damaged. Not for: what is in a record ([`super::records`]).

use super::layout::{
    Geometry, HEADER_PAGES, Life, PAYLOAD_PAGES, SEGMENT_CLAIMED, SEGMENT_FREE, SEGMENT_PAGES,
    SLOTS, SegmentHeader, slot_offset,
};
use super::memory::Memory;
use super::records::index;
use super::{VolumeId, VolumeUse};

/// A segment is emptied if an eighth of it comes free by that.
#[expect(clippy::cast_possible_truncation, reason = "441")]
const MOVED_PAGES_MAX: u16 = (PAYLOAD_PAGES / 8 * 7) as u16;

/// A segment in private memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub generation: u64,
    pub is_claimed: bool,
    pub volume: VolumeId,
    pub live_records: u16,
    /// Payload pages of the live records; what moving them would cost.
    pub live_pages: u16,
    /// Records reserved and not committed yet.
    pub receiving: u16,
    /// Records with faults that the operator has not given up, or the segment itself.
    pub damaged: u16,
    pub next_slot: u16,
    pub next_page: u16,
    /// What could be moved out of it has been ([`super::Log::next_to_move`]).
    pub emptied: bool,
}

#[expect(clippy::cast_possible_truncation, reason = "8")]
const UNUSED: Segment = Segment {
    generation: 0,
    is_claimed: false,
    volume: VolumeId(0),
    live_records: 0,
    live_pages: 0,
    receiving: 0,
    damaged: 0,
    next_slot: 1,
    next_page: HEADER_PAGES as u16,
    emptied: false,
};

#[derive(Debug)]
pub(super) struct Segments {
    /// By place in the region; the directory's are never used.
    all: Box<[Segment]>,
    /// Taken from the end: the one freed last is in the cache.
    free: Vec<u32>,
}

impl Segment {
    /// Pages that can still be given, counting a header slot each.
    pub fn pages_left(&self) -> usize {
        let pages = SEGMENT_PAGES - usize::from(self.next_page);
        pages.min(SLOTS - usize::from(self.next_slot))
    }

    fn is_idle(&self) -> bool {
        self.live_records == 0 && self.receiving == 0 && self.damaged == 0
    }
}

impl Segments {
    pub fn new(geometry: &Geometry) -> Segments {
        Segments {
            all: vec![UNUSED; geometry.segments].into(),
            free: Vec::with_capacity(geometry.segments),
        }
    }

    pub fn get(&self, segment: u32) -> &Segment {
        &self.all[segment as usize]
    }

    pub fn get_mut(&mut self, segment: u32) -> &mut Segment {
        &mut self.all[segment as usize]
    }

    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    pub fn damaged_count(&self) -> usize {
        self.all
            .iter()
            .filter(|segment| segment.damaged != 0)
            .count()
    }

    /// Notes a segment found free.
    pub fn put_free(&mut self, segment: u32, generation: u64) {
        self.all[segment as usize] = Segment {
            generation,
            ..UNUSED
        };
        self.free.push(segment);
    }

    /// Takes a free segment for a volume.
    pub fn claim(&mut self, memory: &mut Memory, volume: VolumeId, worker: u8) -> Option<u32> {
        let segment = self.free.pop()?;
        let info = &mut self.all[segment as usize];
        let life = Life::new(SEGMENT_CLAIMED, info.generation + 1);
        *info = Segment {
            generation: life.generation,
            is_claimed: true,
            volume,
            ..UNUSED
        };
        let place = segment as usize;
        let words = SegmentHeader { volume, worker }.encode(place, life);
        memory.store_header(slot_offset(place, 0), &words);
        Some(segment)
    }

    /// The segment whose records are the fewest pages to move, of those that are worth
    /// it and go on as they are: closed, received into by nobody, undamaged. Looks at each.
    pub fn sparsest(&self, is_open: impl Fn(u32, VolumeId) -> bool) -> Option<u32> {
        let all = self.all.iter().enumerate();
        let worth_it = all.filter(|(at, segment)| {
            segment.is_claimed
                && segment.receiving == 0
                && segment.damaged == 0
                && !segment.emptied
                && segment.live_pages <= MOVED_PAGES_MAX
                && !is_open(index(*at), segment.volume)
        });
        worth_it
            .min_by_key(|(_, segment)| segment.live_pages)
            .map(|(at, _)| index(at))
    }

    /// A segment of the volume's with so many pages left; looks at each.
    pub fn with_room(&self, volume: VolumeId, pages: usize) -> Option<u32> {
        let found = self.all.iter().position(|segment| {
            segment.is_claimed
                && segment.volume == volume
                && segment.damaged == 0
                && segment.pages_left() >= pages
        });
        found.map(index)
    }

    /// Frees the segment if nothing in it is of use to anyone. `used` is what
    /// its volume uses.
    pub fn recycle(&mut self, memory: &mut Memory, used: &mut VolumeUse, segment: u32) {
        let info = self.get(segment);
        if !info.is_claimed || !info.is_idle() {
            return;
        }
        let generation = info.generation;
        memory.store(
            slot_offset(segment as usize, 0),
            Life::new(SEGMENT_FREE, generation).encode(),
        );
        if used.open == Some(segment) {
            used.open = None;
        }
        used.segments -= 1;
        self.put_free(segment, generation);
    }
}

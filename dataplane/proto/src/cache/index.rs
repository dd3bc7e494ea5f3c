//! Which record holds the newest copy of each block.
//!
//! A hash over (volume, 4 KiB granule), every bucket a chain of granules,
//! every granule a ring of *versions*, one a record that has blocks in it:
//!
//! ```text
//! heads   entries (a slab)
//! +----+    newest copy of granule g           of granule h
//! |  --+--> [rec 9  1111_0000] --next--------> [rec 4  0011_1111]
//! +----+      | older      ^ newer
//! |    |    [rec 7  0000_1100]
//!             |            ^
//!           [rec 2  0000_0011]   the oldest, one step from the newest
//! ```
//!
//! What always holds:
//! * a version's mask is the blocks for which it is the newest copy, so the
//!   masks of a granule's versions are disjoint and their order does not matter
//!   to a lookup;
//! * versions stand in order of insertion, which is the order of arrival, so
//!   the record removed next is the oldest of each of its granules and found in
//!   one step, however often a block was written;
//! * a record that is the newest copy of nothing is still in the index until it
//!   is removed, and its [`Index::visible_blocks`] is 0.
//!
//! Not for: the bytes (the write log), what may be removed when ([`super::flush`]).

mod entry;
mod granule;
mod lookup;

use crate::scsi::capacity::VOLUME_BYTES_MAX;

use entry::{Entry, NONE};
use granule::Granules;
pub use lookup::{Extent, Source};

/// Bytes of a granule: a payload page of the log.
pub const GRANULE_LEN: u32 = 4096;

// A granule number has 48 bits beside the 16 of the volume.
const _: () = assert!(VOLUME_BYTES_MAX / GRANULE_LEN as u64 <= 1 << 48);

/// Bucket heads that neighbouring granules share: one cache line of `u32`.
const NEIGHBOURS_LOG2: u32 = 4;

/// How much the log can hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexCapacity {
    /// Volume numbers are below this.
    pub volumes_max: u16,
    /// Record numbers are below this.
    pub records_max: u32,
    /// Payload pages of the log; a record takes at least one.
    pub payload_pages: u32,
}

impl IndexCapacity {
    /// Most granules that the log's records can have a block in at once.
    #[must_use]
    pub const fn entries_max(&self) -> usize {
        // A record of n pages has at most 4096 * n bytes, and so blocks in n
        // granules, or in n + 1 where it does not begin at a granule's edge.
        let live_records = if self.records_max < self.payload_pages {
            self.records_max
        } else {
            self.payload_pages
        };
        self.payload_pages as usize + live_records as usize
    }
}

/// What the index knows of a record.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    lba: u64,
    /// 0: the record is not in the index.
    blocks: u32,
    /// Blocks for which it is the newest copy.
    visible: u32,
    volume: u16,
}

/// The newest copy of every cached block. Sized once; nothing allocates later.
#[derive(Debug)]
pub struct Index {
    /// First granule of each bucket, as its newest version.
    heads: Box<[u32]>,
    entries: Box<[Entry]>,
    /// Unused entries, chained by `next`.
    free: u32,
    free_len: usize,
    rows: Box<[Row]>,
    /// log2 of the blocks in a granule, a volume.
    shifts: Box<[Option<u8>]>,
    seed: u64,
}

impl Index {
    /// An empty index. `seed` keys the hash, so that a computer cannot choose
    /// LBAs that fall into one bucket.
    ///
    /// # Panics
    /// If the capacity needs 2^32 entries or more (a log of 8 TiB).
    #[must_use]
    pub fn new(capacity: IndexCapacity, seed: u64) -> Self {
        let entries_max = capacity.entries_max();
        let last = u32::try_from(entries_max).expect("entries are numbered in 32 bits");
        let entries = (0..last)
            .map(|at| Entry {
                next: if at + 1 < last { at + 1 } else { NONE },
                ..Entry::EMPTY
            })
            .collect();
        let buckets = entries_max.next_power_of_two().max(1 << NEIGHBOURS_LOG2);
        Self {
            heads: vec![NONE; buckets].into(),
            entries,
            free: if last == 0 { NONE } else { 0 },
            free_len: entries_max,
            rows: vec![Row::default(); capacity.records_max as usize].into(),
            shifts: vec![None; usize::from(capacity.volumes_max)].into(),
            seed,
        }
    }

    /// Says how long the blocks of a volume are; before its first record.
    ///
    /// # Panics
    /// If `block_len` is not a power of two from 512 to 4096, or differs from
    /// what was said before.
    pub fn set_block_len(&mut self, volume: u16, block_len: u32) {
        assert!(
            block_len.is_power_of_two() && (512..=GRANULE_LEN).contains(&block_len),
            "blocks of {block_len} bytes cannot be cached"
        );
        let shift = u8::try_from((GRANULE_LEN / block_len).ilog2()).expect("3 at most");
        let known = &mut self.shifts[usize::from(volume)];
        assert!(
            known.is_none_or(|known| known == shift),
            "a volume's block length is fixed"
        );
        *known = Some(shift);
    }

    /// Adds a record that is newer than every record of the volume. Gives whether a
    /// record was there that has a block in common with it.
    ///
    /// # Panics
    /// As [`Index::insert_with`].
    pub fn insert(&mut self, volume: u16, lba: u64, blocks: u32, record: u32) -> bool {
        self.insert_with(volume, lba, blocks, record, |_| ())
    }

    /// As [`Index::insert`]; `hidden` is called with every record that is no
    /// longer the newest copy of any block. Gives whether a record was there that has
    /// a block in common with it.
    ///
    /// # Panics
    /// If the record is in the index already, holds no block or lies beyond
    /// [`VOLUME_BYTES_MAX`]; or if the log holds more than the capacity allows,
    /// in which case nothing was changed.
    pub fn insert_with(
        &mut self,
        volume: u16,
        lba: u64,
        blocks: u32,
        record: u32,
        mut hidden: impl FnMut(u32),
    ) -> bool {
        let shift = self.shift(volume);
        assert!(blocks > 0, "a record holds at least a block");
        let end = lba
            .checked_add(u64::from(blocks))
            .expect("checked against the volume");
        let granules = Granules::new(volume, shift, lba, end);
        let needed = granules.last - granules.first + 1;
        assert!(
            needed <= self.free_len as u64,
            "the capacity covers every record of the log"
        );
        let row = &mut self.rows[record as usize];
        assert!(row.blocks == 0, "record {record} is in the index already");
        *row = Row {
            lba,
            blocks,
            visible: blocks,
            volume,
        };
        let mut overlaps = false;
        for granule in granules.first..=granules.last {
            let mask = granules.mask(granule);
            overlaps |= self.insert_version(granules.key(granule), mask, record, &mut hidden);
        }
        overlaps
    }

    /// Removes a record's copies, and nothing else: what it hid of older
    /// records is the newest copy again.
    ///
    /// # Panics
    /// If the record is not in the index.
    pub fn remove(&mut self, record: u32) {
        let Row {
            lba,
            blocks,
            volume,
            ..
        } = self.rows[record as usize];
        assert!(blocks > 0, "record {record} is not in the index");
        let granules = Granules::new(volume, self.shift(volume), lba, lba + u64::from(blocks));
        for granule in granules.first..=granules.last {
            self.remove_version(&granules, granule, record);
        }
        self.rows[record as usize] = Row::default();
    }

    /// Blocks for which the record is the newest copy; 0 for one that is
    /// superseded whole, or not in the index.
    #[must_use]
    pub fn visible_blocks(&self, record: u32) -> u32 {
        self.rows[record as usize].visible
    }

    /// Granule versions in use and at most.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        (self.entries.len() - self.free_len, self.entries.len())
    }

    fn shift(&self, volume: u16) -> u8 {
        self.shifts[usize::from(volume)].expect("set_block_len comes first")
    }

    /// Bucket of a key. Neighbouring granules have neighbouring buckets, so a
    /// large write touches few cache lines.
    fn bucket(&self, key: u64) -> usize {
        let product = u128::from((key >> NEIGHBOURS_LOG2) ^ self.seed) * 0x9E37_79B9_7F4A_7C15;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "both halves are folded into one"
        )]
        let hash = (product >> 64) as u64 ^ product as u64;
        let line = hash << NEIGHBOURS_LOG2;
        let neighbour = key & ((1 << NEIGHBOURS_LOG2) - 1);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "masked to the table's length"
        )]
        let bucket = (line | neighbour) as usize & (self.heads.len() - 1);
        bucket
    }

    /// The newest version of a granule, and the entry before it in its bucket.
    fn find(&self, bucket: usize, key: u64) -> Option<(u32, u32)> {
        let (mut at, mut before) = (self.heads[bucket], NONE);
        while at != NONE {
            let entry = &self.entries[at as usize];
            if entry.key == key {
                return Some((at, before));
            }
            (before, at) = (at, entry.next);
        }
        None
    }

    /// Makes `to` what the bucket, or the entry `before`, points at.
    fn link(&mut self, bucket: usize, before: u32, to: u32) {
        if before == NONE {
            self.heads[bucket] = to;
        } else {
            self.entries[before as usize].next = to;
        }
    }

    /// Whether another version has one of the blocks.
    fn insert_version(
        &mut self,
        key: u64,
        mask: u8,
        record: u32,
        hidden: &mut impl FnMut(u32),
    ) -> bool {
        let bucket = self.bucket(key);
        let found = self.find(bucket, key);
        let at = self.take_entry();
        let Some((top, before)) = found else {
            let next = self.heads[bucket];
            let (older, newer) = (NONE, at);
            self.entries[at as usize] = Entry {
                key,
                record,
                next,
                older,
                newer,
                visible: mask,
                covered: mask,
            };
            self.heads[bucket] = at;
            return false;
        };
        let Entry {
            next,
            newer: oldest,
            covered,
            ..
        } = self.entries[top as usize];
        self.hide(top, mask & covered, hidden);
        self.entries[top as usize].newer = at;
        self.entries[at as usize] = Entry {
            key,
            record,
            next,
            older: top,
            newer: oldest,
            visible: mask,
            covered: covered | mask,
        };
        self.link(bucket, before, at);
        covered & mask != 0
    }

    /// Takes `mask` away from the versions at and below `at` that show it.
    fn hide(&mut self, mut at: u32, mut mask: u8, hidden: &mut impl FnMut(u32)) {
        while mask != 0 {
            let entry = &mut self.entries[at as usize];
            let taken = entry.visible & mask;
            entry.visible &= !taken;
            mask &= !taken;
            if taken != 0 {
                let row = &mut self.rows[entry.record as usize];
                row.visible -= taken.count_ones();
                if row.visible == 0 {
                    hidden(entry.record);
                }
            }
            at = entry.older;
        }
    }

    fn remove_version(&mut self, granules: &Granules, granule: u64, record: u32) {
        let key = granules.key(granule);
        let bucket = self.bucket(key);
        let (top, before) = self
            .find(bucket, key)
            .expect("every granule of a record is here");
        // From the oldest on: in order of arrival it is the first looked at.
        let oldest = self.entries[top as usize].newer;
        let mut at = oldest;
        while self.entries[at as usize].record != record {
            assert!(at != top, "every granule of a record is here");
            at = self.entries[at as usize].newer;
        }
        let Entry {
            next,
            older,
            newer,
            visible,
            covered,
            ..
        } = self.entries[at as usize];
        let gone = visible & !self.show(older, granules, granule, visible);
        if at == top {
            if older == NONE {
                self.link(bucket, before, next);
            } else {
                self.link(bucket, before, older);
                // The heir leads the bucket's chain and closes the ring.
                let heir = &mut self.entries[older as usize];
                (heir.next, heir.newer, heir.covered) = (next, oldest, covered & !gone);
            }
        } else {
            self.entries[newer as usize].older = older;
            if older == NONE {
                self.entries[top as usize].newer = newer;
            } else {
                self.entries[older as usize].newer = newer;
            }
            self.entries[top as usize].covered &= !gone;
        }
        self.give_entry(at);
    }

    /// Shows `mask` through the versions at and below `at` that have copies;
    /// returns what of it has one.
    fn show(&mut self, mut at: u32, granules: &Granules, granule: u64, mask: u8) -> u8 {
        let mut rest = mask;
        while rest != 0 && at != NONE {
            let entry = &mut self.entries[at as usize];
            let row = &mut self.rows[entry.record as usize];
            let own = granules.mask_of(granule, row.lba, row.lba + u64::from(row.blocks));
            let shown = own & rest;
            entry.visible |= shown;
            row.visible += shown.count_ones();
            rest &= !shown;
            at = entry.older;
        }
        mask & !rest
    }

    fn take_entry(&mut self) -> u32 {
        let at = self.free;
        assert!(at != NONE, "insert checked that there are enough");
        self.free = self.entries[at as usize].next;
        self.free_len -= 1;
        at
    }

    fn give_entry(&mut self, at: u32) {
        self.entries[at as usize] = Entry {
            next: self.free,
            ..Entry::EMPTY
        };
        self.free = at;
        self.free_len += 1;
    }
}

#[cfg(test)]
mod tests;

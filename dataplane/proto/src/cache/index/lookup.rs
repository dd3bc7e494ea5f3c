//! Reading the index: a block range as extents, each from one record or from
//! the storage.

use super::entry::Entry;
use super::{GRANULE_LEN, Granules, Index, VOLUME_BYTES_MAX};

/// Where a record holds a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub record: u32,
    /// Of the extent's first block, counted from the record's first.
    pub block: u32,
}

/// A run of blocks with one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub lba: u64,
    pub blocks: u32,
    /// `None`: not cached, the storage has the newest copy.
    pub source: Option<Source>,
}

impl Index {
    /// Calls back the range in LBA order, holes and all, in as few extents as
    /// its sources allow. Nothing is called for no blocks.
    pub fn lookup(&self, volume: u16, lba: u64, blocks: u32, mut each: impl FnMut(Extent)) {
        if blocks == 0 {
            return;
        }
        let end = lba
            .checked_add(u64::from(blocks))
            .expect("checked against the volume");
        let granules = Granules::new(volume, self.shift(volume), lba, end);
        let mut run = Run {
            lba,
            blocks: 0,
            record: None,
        };
        for granule in granules.first..=granules.last {
            let wanted = granules.mask(granule);
            self.granule(granules.key(granule), wanted, |record, blocks| {
                if record == run.record {
                    run.blocks += blocks;
                } else {
                    self.emit(&run, &mut each);
                    run = Run {
                        lba: run.lba + u64::from(run.blocks),
                        blocks,
                        record,
                    };
                }
            });
        }
        self.emit(&run, &mut each);
    }

    /// Whether any block of the range is cached. Costs a probe for every 4 KiB
    /// of the range until one is found.
    #[must_use]
    pub fn overlaps(&self, volume: u16, lba: u64, blocks: u32) -> bool {
        if blocks == 0 {
            return false;
        }
        let end = lba
            .checked_add(u64::from(blocks))
            .expect("checked against the volume");
        let granules = Granules::new(volume, self.shift(volume), lba, end);
        (granules.first..=granules.last).any(|granule| {
            let top = self.top(granules.key(granule));
            top.is_some_and(|top| top.covered & granules.mask(granule) != 0)
        })
    }

    /// The record that is the newest copy of a block; of one beyond every volume none is.
    #[must_use]
    pub fn newest(&self, volume: u16, lba: u64) -> Option<u32> {
        let shift = self.shift(volume);
        if lba >> shift >= VOLUME_BYTES_MAX / u64::from(GRANULE_LEN) {
            return None;
        }
        let granules = Granules::new(volume, shift, lba, lba + 1);
        let mut newest = None;
        self.granule(
            granules.key(granules.first),
            granules.mask(granules.first),
            |record, _| newest = record,
        );
        newest
    }

    fn top(&self, key: u64) -> Option<&Entry> {
        let (top, _) = self.find(self.bucket(key), key)?;
        Some(&self.entries[top as usize])
    }

    /// The wanted blocks of one granule as (record, blocks) in LBA order.
    fn granule(&self, key: u64, wanted: u8, mut each: impl FnMut(Option<u32>, u32)) {
        let Some(mut entry) = self.top(key).copied() else {
            return each(None, wanted.count_ones());
        };
        if entry.visible & wanted == wanted {
            return each(Some(entry.record), wanted.count_ones());
        }
        let mut rest = wanted & entry.covered;
        let mut sources = [None; 8];
        loop {
            let mut found = entry.visible & rest;
            rest &= !found;
            while found != 0 {
                sources[found.trailing_zeros() as usize] = Some(entry.record);
                found &= found - 1;
            }
            if rest == 0 {
                break;
            }
            entry = self.entries[entry.older as usize];
        }
        for (bit, record) in sources.into_iter().enumerate() {
            if wanted & 1 << bit != 0 {
                each(record, 1);
            }
        }
    }

    fn emit(&self, run: &Run, each: &mut impl FnMut(Extent)) {
        if run.blocks == 0 {
            return;
        }
        let source = run.record.map(|record| {
            let block = run.lba - self.rows[record as usize].lba;
            Source {
                record,
                block: u32::try_from(block).expect("within the record"),
            }
        });
        each(Extent {
            lba: run.lba,
            blocks: run.blocks,
            source,
        });
    }
}

/// The extent being gathered.
struct Run {
    lba: u64,
    blocks: u32,
    record: Option<u32>,
}

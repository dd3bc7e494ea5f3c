//! Block ranges as granules, and granules as keys and masks.

use super::{GRANULE_LEN, VOLUME_BYTES_MAX};

/// The granules of a block range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granules {
    volume: u16,
    shift: u8,
    lba: u64,
    end: u64,
    pub first: u64,
    pub last: u64,
}

impl Granules {
    /// Of `lba..end`, which must not be empty.
    pub fn new(volume: u16, shift: u8, lba: u64, end: u64) -> Self {
        let (first, last) = (lba >> shift, (end - 1) >> shift);
        assert!(
            last < VOLUME_BYTES_MAX / u64::from(GRANULE_LEN),
            "volumes end at 1 EiB"
        );
        Self {
            volume,
            shift,
            lba,
            end,
            first,
            last,
        }
    }

    pub const fn key(&self, granule: u64) -> u64 {
        (self.volume as u64) << 48 | granule
    }

    /// Which of the granule's blocks are in the range; bit 0 is the first.
    pub fn mask(&self, granule: u64) -> u8 {
        self.mask_of(granule, self.lba, self.end)
    }

    /// The same for another range of the volume with blocks in the granule.
    pub fn mask_of(&self, granule: u64, lba: u64, end: u64) -> u8 {
        let start = granule << self.shift;
        let from = lba.saturating_sub(start);
        let to = (end - start).min(1 << self.shift);
        assert!(from < to, "the range has a block in the granule");
        #[expect(
            clippy::cast_possible_truncation,
            reason = "eight blocks a granule at most"
        )]
        let mask = ((1u16 << to) - (1u16 << from)) as u8;
        mask
    }
}

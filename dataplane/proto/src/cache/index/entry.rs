//! One version of a granule, in the slab of the index.

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Volume and granule.
    pub key: u64,
    pub record: u32,
    /// The next granule of the bucket; only in the newest version. Of a free
    /// entry the next free one.
    pub next: u32,
    /// The version before this one.
    pub older: u32,
    /// The version after this one; in the newest, the oldest.
    pub newer: u32,
    /// Blocks for which this is the newest copy.
    pub visible: u8,
    /// Blocks of which any version has a copy; only in the newest version.
    pub covered: u8,
}

// Two to a cache line.
const _: () = assert!(size_of::<Entry>() == 32);

impl Entry {
    pub const EMPTY: Self = Self {
        key: u64::MAX,
        record: NONE,
        next: NONE,
        older: NONE,
        newer: NONE,
        visible: 0,
        covered: 0,
    };
}

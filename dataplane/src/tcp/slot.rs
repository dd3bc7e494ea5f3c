//! A slot of a flow's chain: 4 KiB of a leased page, filled from its start, whose bytes packets
//! may name where they stand ([`Pool::gather`]).
//!
//! What always holds: a slice of a slot lives no longer than a call, and one to write is of
//! bytes that no packet names; so the pool can lend the same bytes to a port meanwhile.

use std::ops::Range;
use std::ptr::NonNull;

use sluice_hugepages::pool::{FRAME_LEN, PAGE_LEN, PageRun, Pool};

#[derive(Debug)]
pub(super) struct Slot {
    /// The page, by its place in the chain's list of leases.
    pub lease: u32,
    /// Its place in the page.
    number: u32,
    first: NonNull<u8>,
}

// SAFETY: the bytes are reached by whoever has the slot alone, and a worker's memory is mapped
// in all of its process.
unsafe impl Send for Slot {}

impl Slot {
    /// The slots of a page.
    ///
    /// # Safety
    /// Made once of a lease, `run`; gone before it is released and before `pool` is dropped.
    /// What packets name of a slot is not written ([`Slot::room`]).
    pub unsafe fn all(pool: &Pool, run: &PageRun, lease: u32) -> impl Iterator<Item = Self> {
        assert_eq!(run.len(), PAGE_LEN, "a run of one page");
        let page = NonNull::new(pool.run_ptr(run)).expect("mapped memory");
        (0..PAGE_LEN / FRAME_LEN).map(move |number| Self {
            lease,
            number: u32::try_from(number).expect("few"),
            // SAFETY: within the page.
            first: unsafe { page.add(number * FRAME_LEN) },
        })
    }

    /// Where in its page it begins.
    pub const fn at(&self) -> usize {
        self.number as usize * FRAME_LEN
    }

    /// # Panics
    /// If the range is not within the slot.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= FRAME_LEN);
        // SAFETY: initialised bytes of a page that is leased while the slot lives, in bounds
        // (asserted); writing needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.first.add(range.start).as_ptr(), range.len()) }
    }

    /// Bytes to write: behind all that was ever lent of the slot since it was last free.
    ///
    /// # Panics
    /// If the range is not within the slot.
    pub fn room(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= FRAME_LEN);
        // SAFETY: as `bytes`; no packet names them, as `all`'s caller has promised, so no
        // slice of the pool's has them.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start).as_ptr(), range.len()) }
    }
}

//! A slot of a flow's chain: a frame that is filled from its start, whose bytes packets may name
//! where they stand ([`Pool::gather`]).
//!
//! What always holds: a slice of a slot lives no longer than a call, and one to write is of
//! bytes that no packet names; so the pool can lend the same bytes to a port meanwhile.

use std::ops::Range;
use std::ptr::NonNull;

use sluice_hugepages::pool::{FRAME_LEN, Frame, Pool, Reservation};

#[derive(Debug)]
pub(super) struct Slot {
    frame: Frame,
    /// Where the frame goes when it is released.
    reservation: Reservation,
    first: NonNull<u8>,
}

// SAFETY: the bytes are reached by whoever has the slot alone, and a worker's memory is mapped
// in all of its process.
unsafe impl Send for Slot {}

impl Slot {
    /// Of a frame that was taken to keep.
    ///
    /// # Safety
    /// It is released, or forgotten, before `pool` is dropped. What packets name of a slot is
    /// not written ([`Slot::room`]).
    pub unsafe fn new(pool: &Pool, frame: Frame, reservation: Reservation) -> Self {
        assert_eq!(pool.capacity(&frame), FRAME_LEN, "a frame, not a page");
        let first = NonNull::new(pool.buffer_ptr(&frame)).expect("mapped memory");
        Self {
            frame,
            reservation,
            first,
        }
    }

    pub const fn frame(&self) -> &Frame {
        &self.frame
    }

    pub const fn reservation(&self) -> Reservation {
        self.reservation
    }

    /// Gives the frame back. Packets that name it keep it until they are sent.
    pub fn release(self, pool: &mut Pool) {
        pool.release(self.frame);
    }

    /// # Panics
    /// If the range is not within the slot.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= FRAME_LEN);
        // SAFETY: initialised bytes of a frame that is in use while the slot lives, in bounds
        // (asserted); writing needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.first.add(range.start).as_ptr(), range.len()) }
    }

    /// Bytes to write: behind all that was ever lent of the slot since it was last empty.
    ///
    /// # Panics
    /// If the range is not within the slot.
    pub fn room(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= FRAME_LEN);
        // SAFETY: as `bytes`; no packet names them, as the caller of `new` has promised, so no
        // slice of the pool's has them.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start).as_ptr(), range.len()) }
    }
}

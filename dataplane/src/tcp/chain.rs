//! What a flow sends, kept until it is acknowledged: a chain of 4 KiB slots of
//! leased pages, by the stream's positions.
//!
//! ```text
//!        first    acknowledged                     end
//!          |           |                            |
//!   slots [####|####] [####|####] [####|##..]   free [....] [....]
//! ```
//!
//! What always holds: slots stand in the stream's order without gaps, each but the
//! last is full, and a slot is free again when its last byte is acknowledged.
//!
//! Not for: what of it was sent (the transport's scoreboard).

use std::collections::VecDeque;

use sluice_hugepages::pool::{FRAME_LEN, Owner, PAGE_LEN, PageRun, Pool};

use super::lease::lend_page;

const SLOT_LEN: u64 = FRAME_LEN as u64;

/// The slots come before the leases they are parts of: they drop first.
#[derive(Debug)]
pub(super) struct Chain {
    free: Vec<&'static mut [u8]>,
    used: VecDeque<&'static mut [u8]>,
    leases: Vec<PageRun>,
    /// Where in the stream the first used slot begins.
    first: u64,
    /// Where the next byte will stand.
    end: u64,
}

impl Chain {
    /// Leases `pages` pages, or nothing.
    pub fn take(pool: &mut Pool, owner: u32, pages: u32) -> Option<Self> {
        let slots = pages as usize * (PAGE_LEN / FRAME_LEN);
        let mut chain = Self {
            free: Vec::with_capacity(slots),
            used: VecDeque::with_capacity(slots),
            leases: Vec::with_capacity(pages as usize),
            first: 0,
            end: 0,
        };
        for _ in 0..pages {
            let Some(run) = pool.lease_pages(1, Owner::Tcp(owner)) else {
                chain.release(pool);
                return None;
            };
            // SAFETY: lent once, here; `release` and the order of fields drop the slots
            // before the run, and a flow is dropped before the pool.
            let page = unsafe { lend_page(pool, &run) };
            chain.free.extend(page.chunks_exact_mut(FRAME_LEN));
            chain.leases.push(run);
        }
        Some(chain)
    }

    #[cfg(test)]
    pub const fn heap_len(pages: u32) -> usize {
        let slots = pages as usize * (PAGE_LEN / FRAME_LEN);
        slots * 2 * size_of::<&mut [u8]>() + pages as usize * size_of::<PageRun>()
    }

    pub fn release(self, pool: &mut Pool) {
        let Self {
            free, used, leases, ..
        } = self;
        drop((free, used));
        for run in leases {
            pool.release_pages(run);
        }
    }

    /// Bytes that it holds when it is full.
    pub const fn capacity(&self) -> usize {
        self.leases.len() * PAGE_LEN
    }

    /// Bytes that there is room for.
    pub fn room(&self) -> usize {
        self.tail_room() + self.free.len() * FRAME_LEN
    }

    fn tail_room(&self) -> usize {
        let filled = self.end - self.first;
        let slots = self.used.len() as u64;
        usize::try_from(slots * SLOT_LEN - filled).expect("within a slot")
    }

    /// Where in the stream the next byte will stand.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Lets `write` fill the next contiguous room, `max` bytes of it at most, from its
    /// start; how many bytes it says to have written.
    ///
    /// # Panics
    /// If it says more than there was room.
    pub fn append(&mut self, max: usize, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let mut room = self.tail_room();
        if room == 0 {
            let Some(slot) = self.free.pop() else {
                return 0;
            };
            self.used.push_back(slot);
            room = FRAME_LEN;
        }
        let slot = self.used.back_mut().expect("there is room in it");
        let max = room.min(max);
        let written = write(&mut slot[FRAME_LEN - room..][..max]);
        assert!(written <= max, "{written} bytes into a room of {max}");
        self.end += written as u64;
        written
    }

    /// Everything before `position` is acknowledged.
    pub fn acknowledge(&mut self, position: u64) {
        while self.first + SLOT_LEN <= position {
            let Some(slot) = self.used.pop_front() else {
                return;
            };
            self.free.push(slot);
            self.first += SLOT_LEN;
        }
    }

    /// Copies the bytes from `position` on.
    ///
    /// # Panics
    /// If they are not all here.
    pub fn copy(&self, position: u64, mut out: &mut [u8]) {
        assert!(position >= self.first && position + out.len() as u64 <= self.end);
        let at = usize::try_from(position - self.first).expect("within the chain");
        let (mut slot, mut from) = (at / FRAME_LEN, at % FRAME_LEN);
        while !out.is_empty() {
            let len = out.len().min(FRAME_LEN - from);
            let (piece, rest) = out.split_at_mut(len);
            piece.copy_from_slice(&self.used[slot][from..from + len]);
            out = rest;
            (slot, from) = (slot + 1, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain queue of bytes, with acknowledgements anywhere.
        #[test]
        fn it_is_a_queue_of_bytes(steps in proptest::collection::vec((0u8..2, 1usize..9000), 1..200)) {
            let mut pool = Pool::anonymous(4);
            let mut chain = Chain::take(&mut pool, 0, 2).expect("two pages");
            let mut model: VecDeque<u8> = VecDeque::new();
            let (mut next, mut acked) = (0u8, 0u64);
            for (step, len) in steps {
                if step == 0 {
                    let room = chain.room();
                    let written = chain.append(len, |out| {
                        for byte in out.iter_mut() {
                            next = next.wrapping_mul(5).wrapping_add(1);
                            *byte = next;
                            model.push_back(next);
                        }
                        out.len()
                    });
                    prop_assert_eq!(written == 0, room == 0);
                    prop_assert_eq!(chain.room(), room - written);
                } else {
                    let len = len.min(model.len());
                    model.drain(..len);
                    acked += len as u64;
                    chain.acknowledge(acked);
                }
                prop_assert_eq!(chain.end(), acked + model.len() as u64);
                let mut out = vec![0; model.len()];
                chain.copy(acked, &mut out);
                prop_assert_eq!(&out, model.make_contiguous());
                // What is acknowledged costs less than a slot.
                prop_assert!(chain.room() + model.len() + FRAME_LEN > chain.capacity());
            }
            chain.release(&mut pool);
            prop_assert_eq!(pool.stats().pages_leased, 0);
        }
    }

    #[test]
    fn all_or_nothing() {
        let mut pool = Pool::anonymous(2);
        assert!(Chain::take(&mut pool, 0, 3).is_none());
        assert_eq!(pool.stats().pages_leased, 0);
    }
}

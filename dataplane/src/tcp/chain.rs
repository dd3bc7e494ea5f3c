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
//! last is full, and a slot is free again when its last byte is acknowledged and no packet
//! names any of it: what is lent to a packet ([`Chain::lend`]) is before the end, stays where it
//! is while it is used, and is not filled again while the pool says that it is held.
//!
//! Not for: what of it was sent (the transport's scoreboard).

use std::collections::VecDeque;
use std::ops::Range;

use sluice_hugepages::pool::{FRAME_LEN, Frame, Owner, PAGE_LEN, PageRun, Pool};

use super::slot::Slot;
use crate::checksum;

const SLOT_LEN: u64 = FRAME_LEN as u64;
const SLOTS_PER_PAGE: usize = PAGE_LEN / FRAME_LEN;

#[derive(Debug)]
struct Lease {
    run: PageRun,
    /// Slots of it that are used, or that packets still hold.
    used: usize,
    /// It is one too many: its slots are not filled again.
    leaving: bool,
}

/// The slots come before the leases they are parts of: they drop first.
#[derive(Debug)]
pub(super) struct Chain {
    free: Vec<Slot>,
    used: VecDeque<Slot>,
    /// Acknowledged, and still held by packets that wait.
    held: Vec<Slot>,
    /// Of pages that are leaving.
    parked: Vec<Slot>,
    leases: Vec<Option<Lease>>,
    /// Of the leases, those that are not leaving.
    pages: u32,
    /// Where in the stream the first used slot begins.
    first: u64,
    /// Where the next byte will stand.
    end: u64,
}

impl Chain {
    /// Leases `pages` pages, or nothing.
    pub fn take(pool: &mut Pool, owner: u32, pages: u32) -> Option<Self> {
        let mut chain = Self {
            free: Vec::new(),
            used: VecDeque::new(),
            held: Vec::new(),
            parked: Vec::new(),
            leases: Vec::new(),
            pages: 0,
            first: 0,
            end: 0,
        };
        chain.resize(pool, owner, pages).then_some(chain)
    }

    /// Changes how many pages it has: more at once, or not at all and `false`; fewer as
    /// they come free.
    pub fn resize(&mut self, pool: &mut Pool, owner: u32, pages: u32) -> bool {
        let before = self.pages;
        let slots = pages as usize * SLOTS_PER_PAGE;
        self.free.reserve(slots.saturating_sub(self.free.len()));
        self.used.reserve(slots.saturating_sub(self.used.len()));
        self.held.reserve(slots.saturating_sub(self.held.len()));
        while self.pages < pages {
            if self.call_back() {
                continue;
            }
            let Some(run) = pool.lease_pages(1, Owner::Tcp(owner)) else {
                self.let_go(before);
                self.trim(pool);
                return false;
            };
            self.add(pool, run);
        }
        self.let_go(pages);
        self.trim(pool);
        true
    }

    fn add(&mut self, pool: &Pool, run: PageRun) {
        let vacant = self.leases.iter().position(Option::is_none);
        let at = vacant.unwrap_or_else(|| {
            self.leases.push(None);
            self.leases.len() - 1
        });
        let lease = u32::try_from(at).expect("few pages");
        // SAFETY: made once, here; `trim`, `release` and the order of fields drop the slots
        // before the run, and a flow is dropped before the pool. `append` writes behind the
        // end, and begins with a slot that was not held.
        self.free.extend(unsafe { Slot::all(pool, &run, lease) });
        self.leases[at] = Some(Lease {
            run,
            used: 0,
            leaving: false,
        });
        self.pages += 1;
    }

    /// Fills no more than `pages` of its pages from now on; the emptiest go.
    fn let_go(&mut self, pages: u32) {
        while self.pages > pages {
            let staying = self.leases.iter_mut().enumerate();
            let staying = staying.filter_map(|(at, lease)| Some((at, lease.as_mut()?)));
            let (at, lease) = staying
                .filter(|(_, lease)| !lease.leaving)
                .min_by_key(|(_, lease)| lease.used)
                .expect("as many as are counted");
            lease.leaving = true;
            self.pages -= 1;
            let parked = self.free.extract_if(.., |slot| slot.lease as usize == at);
            self.parked.extend(parked);
        }
    }

    /// A page that is leaving stays, if there is one.
    fn call_back(&mut self) -> bool {
        let leaving = |lease: &Lease| lease.leaving;
        let at = self
            .leases
            .iter()
            .position(|lease| lease.as_ref().is_some_and(leaving));
        let Some((at, lease)) = at.and_then(|at| Some((at, self.leases[at].as_mut()?))) else {
            return false;
        };
        lease.leaving = false;
        self.pages += 1;
        let free = self.parked.extract_if(.., |slot| slot.lease as usize == at);
        self.free.extend(free);
        true
    }

    /// Gives back pages that are too many and hold nothing.
    pub fn trim(&mut self, pool: &mut Pool) {
        if self.leases.len() == self.pages as usize {
            return;
        }
        for at in 0..self.leases.len() {
            let lease = &mut self.leases[at];
            if let Some(lease) = lease.take_if(|lease| lease.leaving && lease.used == 0) {
                self.parked.retain(|slot| slot.lease as usize != at);
                pool.release_pages(lease.run);
            }
        }
        while self.leases.pop_if(|lease| lease.is_none()).is_some() {}
    }

    #[cfg(test)]
    pub const fn heap_len(pages: u32) -> usize {
        let slots = pages as usize * SLOTS_PER_PAGE;
        slots * 3 * size_of::<Slot>() + pages as usize * size_of::<Option<Lease>>()
    }

    /// Pages that packets still hold stay leased until those are sent.
    pub fn release(self, pool: &mut Pool) {
        let Self {
            free,
            used,
            held,
            parked,
            leases,
            ..
        } = self;
        drop((free, used, held, parked));
        for lease in leases.into_iter().flatten() {
            pool.release_pages(lease.run);
        }
    }

    /// Bytes that it is to hold when it is full.
    pub const fn capacity(&self) -> usize {
        self.pages as usize * PAGE_LEN
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
            self.lease_mut(&slot).used += 1;
            self.used.push_back(slot);
            room = FRAME_LEN;
        }
        let slot = self.used.back_mut().expect("there is room in it");
        let max = room.min(max);
        let from = FRAME_LEN - room;
        let written = write(slot.room(from..from + max));
        assert!(written <= max, "{written} bytes into a room of {max}");
        self.end += written as u64;
        written
    }

    fn lease_mut(&mut self, slot: &Slot) -> &mut Lease {
        let lease = self.leases[slot.lease as usize].as_mut();
        lease.expect("a page is held while it has slots")
    }

    /// Everything before `position` is acknowledged.
    pub fn acknowledge(&mut self, pool: &Pool, position: u64) {
        while self.first + SLOT_LEN <= position {
            let Some(slot) = self.used.pop_front() else {
                return;
            };
            self.first += SLOT_LEN;
            if self.is_held(pool, &slot) {
                self.held.push(slot);
            } else {
                self.empty(slot);
            }
        }
    }

    /// Takes slots back that packets had when they were acknowledged; whether there was one.
    pub fn take_back(&mut self, pool: &Pool) -> bool {
        let before = self.held.len();
        let mut at = 0;
        while let Some(slot) = self.held.get(at) {
            if self.is_held(pool, slot) {
                at += 1;
            } else {
                let slot = self.held.swap_remove(at);
                self.empty(slot);
            }
        }
        self.held.len() < before
    }

    /// Whether packets have slots that are acknowledged.
    pub const fn is_lent(&self) -> bool {
        !self.held.is_empty()
    }

    fn lease(&self, slot: &Slot) -> &Lease {
        let lease = self.leases[slot.lease as usize].as_ref();
        lease.expect("a page is held while it has slots")
    }

    fn is_held(&self, pool: &Pool, slot: &Slot) -> bool {
        pool.is_held(&self.lease(slot).run, slot.at())
    }

    /// Nobody needs what is in the slot.
    fn empty(&mut self, slot: Slot) {
        let lease = self.lease_mut(&slot);
        lease.used -= 1;
        let leaving = lease.leaving;
        if leaving {
            &mut self.parked
        } else {
            &mut self.free
        }
        .push(slot);
    }

    /// Where the `len` bytes from `position` on stand, slot by slot.
    ///
    /// # Panics
    /// If they are not all here.
    fn places(&self, position: u64, len: usize) -> impl Iterator<Item = (&Slot, Range<usize>)> {
        assert!(position >= self.first && position + len as u64 <= self.end);
        let at = usize::try_from(position - self.first).expect("within the chain");
        let (mut slot, mut from, mut rest) = (at / FRAME_LEN, at % FRAME_LEN, len);
        std::iter::from_fn(move || {
            let len = rest.min(FRAME_LEN - from);
            let piece = (len > 0).then(|| (&self.used[slot], from..from + len));
            (slot, from, rest) = (slot + 1, 0, rest - len);
            piece
        })
    }

    fn pieces(&self, position: u64, len: usize) -> impl Iterator<Item = &[u8]> {
        let places = self.places(position, len);
        places.map(|(slot, range)| slot.bytes(range))
    }

    /// Makes the `len` bytes from `position` on the payload of the packet whose headers are in
    /// `head`; false, and nothing is changed, if the pool cannot have another such packet.
    ///
    /// # Panics
    /// If they are not all here, or more than a packet's.
    #[must_use]
    pub fn lend(&self, pool: &mut Pool, head: &mut Frame, position: u64, len: usize) -> bool {
        let places = self.places(position, len);
        let parts = places.map(|(slot, range)| {
            let run = &self.lease(slot).run;
            (run, slot.at() + range.start, range.len())
        });
        pool.gather(head, parts)
    }

    /// Copies the bytes from `position` on.
    ///
    /// # Panics
    /// If they are not all here.
    pub fn copy(&self, position: u64, out: &mut [u8]) {
        let mut at = 0;
        for piece in self.pieces(position, out.len()) {
            out[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
    }

    /// As [`Chain::copy`]; and the Internet checksum's sum of them, in the same pass.
    pub fn copy_and_sum(&self, position: u64, out: &mut [u8]) -> u16 {
        let (mut at, mut sum) = (0, 0);
        for piece in self.pieces(position, out.len()) {
            let copied = checksum::copy_and_sum(piece, &mut out[at..at + piece.len()]);
            sum = checksum::append(sum, at, copied);
            at += piece.len();
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leased(chain: &Chain) -> usize {
        chain.leases.iter().flatten().count()
    }

    proptest! {
        /// Against a plain queue of bytes, with acknowledgements anywhere, and more or
        /// fewer pages at any time.
        #[test]
        fn it_is_a_queue_of_bytes(steps in proptest::collection::vec((0u8..5, 1usize..9000), 1..300)) {
            let mut pool = Pool::anonymous(6);
            let mut chain = Chain::take(&mut pool, 0, 2).expect("two pages");
            let mut model: VecDeque<u8> = VecDeque::new();
            let (mut next, mut acked) = (0u8, 0u64);
            for (step, len) in steps {
                match step {
                    0 | 1 => {
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
                    }
                    2 | 3 => {
                        let len = len.min(model.len());
                        model.drain(..len);
                        acked += len as u64;
                        chain.acknowledge(&pool, acked);
                    }
                    _ => {
                        let pages = u32::try_from(len % 8 + 1).expect("few");
                        let before = (chain.pages, leased(&chain));
                        if chain.resize(&mut pool, 0, pages) {
                            prop_assert_eq!(chain.pages, pages);
                        } else {
                            prop_assert!(pool.stats().pages_free < pages as usize);
                            prop_assert_eq!(chain.pages, before.0, "all or nothing");
                            prop_assert!(leased(&chain) <= before.1);
                        }
                    }
                }
                chain.trim(&mut pool);
                prop_assert_eq!(pool.stats().pages_leased, leased(&chain));
                prop_assert_eq!(chain.end(), acked + model.len() as u64);
                let mut out = vec![0; model.len()];
                chain.copy(acked, &mut out);
                prop_assert_eq!(&out, model.make_contiguous());
                out.fill(0);
                let sum = chain.copy_and_sum(acked, &mut out);
                prop_assert_eq!(sum, checksum::sum(&out));
                prop_assert_eq!(&out, model.make_contiguous());
                // What is acknowledged costs less than a slot.
                prop_assert!(chain.room() + model.len() + FRAME_LEN > chain.capacity());
            }
            chain.acknowledge(&pool, acked + model.len() as u64);
            chain.trim(&mut pool);
            // The last slot is not full, so it stays in use.
            prop_assert!(leased(&chain) <= chain.pages as usize + 1);
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

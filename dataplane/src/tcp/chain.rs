//! What a flow sends, kept until it is acknowledged: a chain of the pool's frames, by the
//! stream's positions.
//!
//! ```text
//!        first    acknowledged                end
//!          |           |                       |
//!   used [####] [####] [####] [####] [####] [##..]   next [....]   spare [....] [....]
//! ```
//!
//! What always holds: used slots stand in the stream's order without gaps, each but the last is
//! full. A frame is drawn when there is something to write, and goes home when its last byte is
//! acknowledged, but for the few that a flow has from its beginning to its end: what others
//! hold can slow it, and never stop it. It has no more frames than its limit, if that was not
//! larger when it drew them, and with a reservation it draws from nowhere else. What is lent
//! to a packet ([`Chain::lend`]) is before the end, and stays where it is: a slot that packets
//! name is not filled again, and if it is given back the pool keeps it until they are sent.
//!
//! Not for: what of it was sent (the transport's scoreboard).

use std::collections::VecDeque;
use std::ops::Range;

use arrayvec::ArrayVec;
use sluice_hugepages::pool::{FRAME_LEN, Frame, Owner, Pool, Reservation};

use super::slot::Slot;
use crate::checksum;

const SLOT_LEN: u64 = FRAME_LEN as u64;
/// Frames that a flow keeps, and that the connections of a reservation leave on its list for one that begins.
pub(super) const KEPT: usize = 4;
/// Most frames of a flow, 64 MiB, which is what its lists on the heap are budgeted for.
pub const SEND_FRAMES_MAX: u32 = 16 * 1024;

#[derive(Debug)]
pub(super) struct Chain {
    used: VecDeque<Slot>,
    /// Empty, and no packet names it.
    next: Option<Slot>,
    /// Empty, though packets may still name some.
    spare: ArrayVec<Slot, KEPT>,
    owner: Owner,
    reservation: Reservation,
    /// Frames, at least one.
    limit: usize,
    /// Frames that were asked for in vain.
    refused: u64,
    /// Where in the stream the first used slot begins.
    first: u64,
    /// Where the next byte will stand.
    end: u64,
}

impl Chain {
    /// Takes the frames that it keeps, or as many of them as there are.
    pub fn take(pool: &mut Pool, owner: u32, limit: u32, reservation: Reservation) -> Option<Self> {
        let mut chain = Self {
            used: VecDeque::new(),
            next: None,
            spare: ArrayVec::new(),
            owner: Owner::Tcp(owner),
            reservation,
            limit: 0,
            refused: 0,
            first: 0,
            end: 0,
        };
        chain.set_limit(pool, limit, reservation);
        (chain.frames() > 0).then_some(chain)
    }

    /// Changes how many frames it may have, and where it takes them from. Those of an earlier
    /// reservation go home as they are released; of what it keeps, as far as there are others.
    pub fn set_limit(&mut self, pool: &mut Pool, limit: u32, reservation: Reservation) {
        self.limit = limit.clamp(1, SEND_FRAMES_MAX) as usize;
        self.reservation = reservation;
        self.used
            .reserve_exact(self.limit.saturating_sub(self.used.len()));
        self.renew(pool);
        while self.frames() > self.limit
            && let Some(slot) = self.spare.pop()
        {
            slot.release(pool);
        }
        while self.frames() < self.kept()
            && let Some(slot) = self.take_frame(pool)
        {
            self.spare.push(slot);
        }
    }

    /// Exchanges what it keeps of an earlier reservation.
    fn renew(&mut self, pool: &mut Pool) {
        let (reservation, owner) = (self.reservation, self.owner);
        for slot in self.spare.iter_mut().chain(&mut self.next) {
            if slot.reservation() == reservation {
                continue;
            }
            let frame = pool.take_least(reservation, owner);
            let Some(new) = slot_of(pool, frame, reservation) else {
                return;
            };
            std::mem::replace(slot, new).release(pool);
        }
    }

    #[cfg(test)]
    pub const fn heap_len(limit: u32) -> usize {
        limit as usize * size_of::<Slot>()
    }

    pub fn release(self, pool: &mut Pool) {
        let Self {
            used, next, spare, ..
        } = self;
        let all = used.into_iter().chain(next).chain(spare);
        all.for_each(|slot| slot.release(pool));
    }

    /// Frames that it has.
    pub fn frames(&self) -> usize {
        self.used.len() + self.spare.len() + usize::from(self.next.is_some())
    }

    /// Of these, how many it does not give back.
    const fn kept(&self) -> usize {
        if self.limit < KEPT { self.limit } else { KEPT }
    }

    /// Frames.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    pub const fn reservation(&self) -> Reservation {
        self.reservation
    }

    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Bytes that it may hold.
    pub const fn capacity(&self) -> usize {
        self.limit * FRAME_LEN
    }

    /// Bytes that there is room for without drawing.
    pub fn room(&self) -> usize {
        let next = self.next.as_ref().map_or(0, |_| FRAME_LEN);
        self.tail_room() + next
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

    /// Gets a frame to write in, if it has none and may have one; whether there is room.
    pub fn draw(&mut self, pool: &mut Pool) -> bool {
        if self.room() > 0 {
            return true;
        }
        if self.used.len() >= self.limit {
            return false;
        }
        self.renew(pool);
        self.next = self.take_spare(pool);
        if self.next.is_none() && self.frames() < self.limit {
            self.next = self.take_frame(pool);
            self.refused += u64::from(self.next.is_none());
        }
        self.next.is_some()
    }

    fn take_spare(&mut self, pool: &Pool) -> Option<Slot> {
        let is_free = |slot: &Slot| !pool.is_held(slot.frame());
        let at = self.spare.iter().position(is_free)?;
        Some(self.spare.swap_remove(at))
    }

    /// Whether it can write again though nothing was acknowledged: packets have let go of
    /// what it keeps.
    pub fn has_spare(&self, pool: &Pool) -> bool {
        self.spare.iter().any(|slot| !pool.is_held(slot.frame()))
    }

    fn take_frame(&self, pool: &mut Pool) -> Option<Slot> {
        // Whoever has what it needs to go on leaves something to those that have nothing.
        if self.reservation != Reservation::NONE
            && self.frames() >= KEPT
            && pool.reserved(self.reservation)?.listed <= KEPT
        {
            return None;
        }
        let frame = match self.frames() < KEPT {
            true => pool.take_least(self.reservation, self.owner),
            false => pool.take(self.reservation, self.owner),
        };
        slot_of(pool, frame, self.reservation)
    }

    /// Lets `write` fill the next contiguous room, `max` bytes of it at most, from its
    /// start; how many bytes it says to have written.
    ///
    /// # Panics
    /// If it says more than there was room.
    pub fn append(&mut self, max: usize, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let mut room = self.tail_room();
        if room == 0 {
            let Some(slot) = self.next.take() else {
                return 0;
            };
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

    /// Everything before `position` is acknowledged.
    pub fn acknowledge(&mut self, pool: &mut Pool, position: u64) {
        while self.first + SLOT_LEN <= position {
            let Some(slot) = self.used.pop_front() else {
                return;
            };
            self.first += SLOT_LEN;
            if self.frames() >= self.kept() {
                slot.release(pool);
            } else {
                self.spare.push(slot);
            }
        }
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
        let parts = places.map(|(slot, range)| (slot.frame(), range.start, range.len()));
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

fn slot_of(pool: &mut Pool, frame: Option<Frame>, reservation: Reservation) -> Option<Slot> {
    let frame = frame?;
    // SAFETY: a flow is dissolved, or dropped, before the pool is dropped. `append` writes
    // behind the end, and begins with a slot that no packet names: one that is new, or that
    // `take_spare` has looked at.
    Some(unsafe { Slot::new(pool, frame, reservation) })
}

#[cfg(test)]
mod tests;

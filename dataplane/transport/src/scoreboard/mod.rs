//! What was sent and is not yet acknowledged, segment by segment.
//!
//! ```text
//!  una                                                        nxt
//!   | lost | flying | sacked | sacked | flying (resent) | flying |   a ring, by offset
//!     flying: a list by the time they were last sent, oldest first
//!     lost:   a list by what is to be resent first
//! ```
//!
//! What always holds:
//! * the ring covers what is outstanding without a gap; a segment in it is flying, lost
//!   or sacked, and is in the list of its state, so nobody searches;
//! * `in_flight` is the bytes of the flying ones: what was sent, less what is sacked and
//!   what is held to be lost (the pipe of RFC 6675);
//! * a segment that is partly covered by a SACK block is not sacked;
//! * whatever blocks a peer invents, a block is looked at once for as long as it stays
//!   the same or grows ([`sack`]).
//!
//! Not for: what is lost ([`crate::recovery`]), or which blocks may be believed (the
//! connection).

mod list;
mod sack;
#[cfg(test)]
mod tests;

use crate::rate::Snapshot;
use list::List;
use sluice_proto::Time;
use std::collections::VecDeque;

/// Names a segment for as long as it is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentId(u32);

impl SentId {
    const NONE: Self = Self(u32::MAX);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Flying,
    Lost,
    Sacked,
}

/// A segment that was sent. It may be longer than segments are now: then it goes out
/// as several when it is resent, and still is acknowledged as one.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub start: u64,
    pub end: u64,
    /// When it was last sent.
    pub sent_at: Time,
    pub retransmissions: u32,
    pub state: State,
    /// It tries a larger path MTU: its loss says nothing of congestion (RFC 4821, 7.5).
    pub mtu_probe: bool,
    snapshot: Snapshot,
    previous: SentId,
    next: SentId,
}

impl Sent {
    #[must_use]
    pub fn bytes(&self) -> u32 {
        u32::try_from(self.end - self.start).unwrap_or(u32::MAX)
    }
}

/// A segment, or the front of one, that an acknowledgement says has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    pub bytes: u32,
    pub end: u64,
    pub sent_at: Time,
    pub retransmissions: u32,
    /// It was held to be lost and had not been resent since.
    pub was_lost: bool,
    pub mtu_probe: bool,
    pub snapshot: Snapshot,
}

impl Delivered {
    fn of(sent: &Sent, bytes: u32, end: u64) -> Self {
        Self {
            bytes,
            end,
            sent_at: sent.sent_at,
            retransmissions: sent.retransmissions,
            was_lost: sent.state == State::Lost,
            mtu_probe: sent.mtu_probe,
            snapshot: sent.snapshot,
        }
    }
}

#[derive(Debug)]
pub struct Scoreboard {
    ring: VecDeque<Sent>,
    /// The id of the ring's first.
    base: u32,
    flying: List,
    lost: List,
    in_flight: u64,
    lost_bytes: u64,
    sacked_segments: u32,
    /// The highest end that was ever sacked.
    highest_sacked: u64,
    /// The blocks of the last acknowledgement.
    known: [(u64, u64); sack::KNOWN_MAX],
}

impl Scoreboard {
    #[must_use]
    pub fn new(segments: usize) -> Self {
        Self {
            ring: VecDeque::with_capacity(segments),
            base: 0,
            flying: List::EMPTY,
            lost: List::EMPTY,
            in_flight: 0,
            lost_bytes: 0,
            sacked_segments: 0,
            highest_sacked: 0,
            known: [(0, 0); sack::KNOWN_MAX],
        }
    }

    /// Of so many segments.
    #[must_use]
    pub(crate) const fn heap_len(segments: usize) -> usize {
        segments * size_of::<Sent>()
    }

    /// Makes room for so many; the one place where the ring grows.
    pub fn reserve(&mut self, segments: usize) {
        self.ring
            .reserve_exact(segments.saturating_sub(self.ring.len()));
    }

    /// Room for one more without growing.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.ring.len() < self.ring.capacity()
    }

    /// A new segment goes out, right behind the last.
    ///
    /// # Panics
    /// If it is empty or leaves a gap.
    pub fn push(&mut self, start: u64, end: u64, now: Time, snapshot: Snapshot, mtu_probe: bool) {
        assert!(start < end && self.ring.back().is_none_or(|last| last.end == start));
        let id = SentId(self.base.wrapping_add(self.count()));
        self.ring.push_back(Sent {
            start,
            end,
            sent_at: now,
            retransmissions: 0,
            state: State::Flying,
            mtu_probe,
            snapshot,
            previous: SentId::NONE,
            next: SentId::NONE,
        });
        self.fly(id);
    }

    /// A segment goes out again: the lost one, or one that probes while it may still fly.
    ///
    /// # Panics
    /// If it is sacked.
    pub fn resend(&mut self, id: SentId, now: Time, snapshot: Snapshot) {
        assert!(self[id].state != State::Sacked, "sacked data is not resent");
        self.leave(id);
        let sent = &mut self[id];
        sent.sent_at = now;
        sent.snapshot = snapshot;
        sent.retransmissions += 1;
        sent.mtu_probe = false;
        self.fly(id);
    }

    /// Everything before `una` has arrived. `delivered` hears of what was not sacked before.
    pub fn acknowledge(&mut self, una: u64, mut delivered: impl FnMut(Delivered)) {
        while let Some(&front) = self.ring.front()
            && front.start < una
        {
            let id = SentId(self.base);
            let end = front.end.min(una);
            let bytes = u32::try_from(end - front.start).unwrap_or(u32::MAX);
            if front.state != State::Sacked {
                delivered(Delivered::of(&front, bytes, end));
            }
            if end == front.end {
                self.leave(id);
                self.ring.pop_front();
                self.base = self.base.wrapping_add(1);
                continue;
            }
            match front.state {
                State::Flying => self.in_flight -= u64::from(bytes),
                State::Lost => self.lost_bytes -= u64::from(bytes),
                State::Sacked => {}
            }
            self.ring[0].start = end;
        }
    }

    /// Holds a flying segment to be lost.
    pub fn mark_lost(&mut self, id: SentId) {
        debug_assert_eq!(self[id].state, State::Flying);
        self.leave(id);
        self.lose(id);
    }

    /// Holds all that flies to be lost; with `renege`, what was sacked, too (RFC 2018, 8).
    pub fn mark_all_lost(&mut self, renege: bool) {
        self.lost = List::EMPTY;
        self.flying = List::EMPTY;
        self.in_flight = 0;
        self.lost_bytes = 0;
        if renege {
            self.sacked_segments = 0;
            self.highest_sacked = 0;
            self.known = [(0, 0); sack::KNOWN_MAX];
        }
        for index in 0..self.count() {
            let id = SentId(self.base.wrapping_add(index));
            if renege || self[id].state != State::Sacked {
                self.lose(id);
            }
        }
    }

    /// Holds what flies to be lost from the segment with `from` on, where it is longer than
    /// `len`.
    pub fn lose_longer(&mut self, from: u64, len: u64) {
        for index in 0..self.count() {
            let id = SentId(self.base.wrapping_add(index));
            let sent = &self[id];
            if sent.state == State::Flying && sent.end > from && sent.end - sent.start > len {
                self.mark_lost(id);
            }
        }
    }

    /// What was held to be lost and was not resent flies after all, since it was sent.
    pub fn restore_lost(&mut self) {
        let mut after = SentId::NONE;
        while let Some(id) = self.first_lost() {
            self.leave(id);
            let sent_at = self[id].sent_at;
            // Both lists are mostly by time, so the place is near the last one's.
            if after != SentId::NONE && self[after].sent_at > sent_at {
                after = SentId::NONE;
            }
            loop {
                let next = if after == SentId::NONE {
                    self.flying.head
                } else {
                    self[after].next
                };
                if next == SentId::NONE || self[next].sent_at > sent_at {
                    break;
                }
                after = next;
            }
            let len = u64::from(self[id].bytes());
            self[id].state = State::Flying;
            self.in_flight += len;
            List::insert_after(self, |board| &mut board.flying, after, id);
            after = id;
        }
    }

    /// The longest in flight.
    #[must_use]
    pub fn first_flying(&self) -> Option<SentId> {
        Some(self.flying.head).filter(|&id| id != SentId::NONE)
    }

    /// The next one of those that fly, by time.
    #[must_use]
    pub fn next_flying(&self, id: SentId) -> Option<SentId> {
        Some(self[id].next).filter(|&id| id != SentId::NONE)
    }

    /// What to resend first.
    #[must_use]
    pub fn first_lost(&self) -> Option<SentId> {
        Some(self.lost.head).filter(|&id| id != SentId::NONE)
    }

    /// The highest segment that is not sacked.
    #[must_use]
    pub fn last_unsacked(&self) -> Option<SentId> {
        let index = self
            .ring
            .iter()
            .rposition(|sent| sent.state != State::Sacked)?;
        Some(self.id_at(index))
    }

    /// The segment that the cumulative acknowledgement waits for.
    #[must_use]
    pub fn first(&self) -> Option<&Sent> {
        self.ring.front()
    }

    #[must_use]
    pub fn first_id(&self) -> Option<SentId> {
        (!self.ring.is_empty()).then_some(SentId(self.base))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    #[must_use]
    pub const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes held to be lost and not resent.
    #[must_use]
    pub const fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }

    #[must_use]
    pub const fn sacked_segments(&self) -> u32 {
        self.sacked_segments
    }

    #[must_use]
    pub const fn highest_sacked(&self) -> u64 {
        self.highest_sacked
    }

    fn count(&self) -> u32 {
        u32::try_from(self.ring.len()).expect("fewer segments than sequence numbers")
    }

    fn id_at(&self, index: usize) -> SentId {
        let index = u32::try_from(index).expect("fewer segments than sequence numbers");
        SentId(self.base.wrapping_add(index))
    }

    fn index(&self, id: SentId) -> usize {
        id.0.wrapping_sub(self.base) as usize
    }

    /// Into the list of what flies, as the one sent last.
    fn fly(&mut self, id: SentId) {
        self[id].state = State::Flying;
        self.in_flight += u64::from(self[id].bytes());
        let tail = self.flying.tail;
        List::insert_after(self, |board| &mut board.flying, tail, id);
    }

    /// Into the list of what is lost: in front if it comes before all of it, else behind.
    fn lose(&mut self, id: SentId) {
        self[id].state = State::Lost;
        self.lost_bytes += u64::from(self[id].bytes());
        let head = self.lost.head;
        let first = head != SentId::NONE && self[id].start < self[head].start;
        let after = if first { SentId::NONE } else { self.lost.tail };
        List::insert_after(self, |board| &mut board.lost, after, id);
    }

    /// Out of the list and the sums of its state.
    fn leave(&mut self, id: SentId) {
        let len = u64::from(self[id].bytes());
        match self[id].state {
            State::Flying => {
                self.in_flight -= len;
                List::remove(self, |board| &mut board.flying, id);
            }
            State::Lost => {
                self.lost_bytes -= len;
                List::remove(self, |board| &mut board.lost, id);
            }
            State::Sacked => self.sacked_segments -= 1,
        }
    }
}

impl std::ops::Index<SentId> for Scoreboard {
    type Output = Sent;

    fn index(&self, id: SentId) -> &Sent {
        &self.ring[Self::index(self, id)]
    }
}

impl std::ops::IndexMut<SentId> for Scoreboard {
    fn index_mut(&mut self, id: SentId) -> &mut Sent {
        let index = Self::index(self, id);
        &mut self.ring[index]
    }
}

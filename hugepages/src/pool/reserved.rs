//! Reserved lists: frames that connections of one reservation may take, and nobody else (Spec B).
//!
//! ```text
//! rows    [ goal 3, listed 2, in use 1, head ]──┐        one a reservation
//!                                               ▼
//! next    [      . | 17 |  . | ... |  . | 4 |        ]   one a frame
//! ```
//!
//! What always holds: a frame whose owner word says *reserved* is on the list of the
//! reservation that it names, and is counted there; one in use that names a reservation is
//! counted there too. A list has frames beyond its goal never: those that are in use when it is
//! made smaller, or cancelled, are free when they are given back. Taking and giving back
//! cost the same however many there are.
//!
//! Not for: whom a reservation is for (the worker's), and how large it is to be (control).

use super::word::{State, Word};
use super::{FRAMES_PER_PAGE, Frame, NOWHERE, Owner, Pool, Reservation, index};
use crate::tables::RESERVATIONS_MAX;

/// There are not enough free frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBuffers {
    /// Frames that could be had.
    pub free: usize,
}

/// What a reservation has, in frames. It holds those listed and those in use: more than its goal
/// while what is too much has not been given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    pub goal: usize,
    pub listed: usize,
    pub in_use: usize,
}

impl Reserved {
    pub const fn held(self) -> usize {
        self.listed + self.in_use
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    goal: u32,
    pub(super) listed: u32,
    in_use: u32,
    /// The first frame of the list.
    pub(super) head: u32,
}

impl Row {
    const NONE: Row = Row {
        goal: 0,
        listed: 0,
        in_use: 0,
        head: NOWHERE,
    };

    const fn held(&self) -> u32 {
        self.listed + self.in_use
    }
}

#[derive(Debug)]
pub(super) struct ReservedLists {
    /// By a reservation's number.
    pub(super) rows: Box<[Row]>,
    /// By frame, which counts while it is on a list.
    pub(super) next: Box<[u32]>,
}

impl ReservedLists {
    pub fn new(frames: usize) -> ReservedLists {
        ReservedLists {
            rows: vec![Row::NONE; RESERVATIONS_MAX].into(),
            next: vec![NOWHERE; frames].into(),
        }
    }

    /// Whether there can be such a reservation.
    pub fn is_number(reservation: Reservation) -> bool {
        reservation != Reservation::NONE && usize::from(reservation.0) < RESERVATIONS_MAX
    }

    fn row(&mut self, reservation: Reservation) -> &mut Row {
        &mut self.rows[usize::from(reservation.0)]
    }

    fn push(&mut self, reservation: Reservation, frame: usize) {
        let row = &mut self.rows[usize::from(reservation.0)];
        self.next[frame] = row.head;
        row.head = index(frame);
        row.listed += 1;
    }

    fn pop(&mut self, reservation: Reservation) -> Option<usize> {
        let row = &mut self.rows[usize::from(reservation.0)];
        let frame = (row.head != NOWHERE).then_some(row.head as usize)?;
        row.head = self.next[frame];
        row.listed -= 1;
        Some(frame)
    }
}

/// Reservations: see the module's head.
impl Pool {
    /// From now on `transit` frames are for packets on their way alone: no reservation, lease
    /// or borrowing connection takes them. Who borrows leaves `borrow` more.
    pub fn set_floors(&mut self, transit: usize, borrow: usize) {
        (self.transit_floor, self.borrow_floor) = (transit, borrow);
    }

    /// Frames that a reservation or lease could have: the free ones, those of undivided pages,
    /// less what packets on their way need.
    #[inline]
    pub fn available(&self) -> usize {
        let free = self.stats.frames_free + self.whole.count() * FRAMES_PER_PAGE;
        free.saturating_sub(self.transit_floor)
    }

    /// Makes a reservation hold `frames` frames (B-6, B-7): what it has too little comes from
    /// the free list, for which undivided pages are divided, all or nothing. What it has too
    /// much is free at once, as far as it is not in use.
    ///
    /// # Errors
    /// There are not enough; nothing was changed.
    ///
    /// # Panics
    /// When there can be no such reservation.
    pub fn reserve(&mut self, reservation: Reservation, frames: usize) -> Result<(), OutOfBuffers> {
        assert!(ReservedLists::is_number(reservation), "{reservation:?}");
        let held = self.lists.row(reservation).held() as usize;
        let free = self.available();
        if frames > held && frames - held > free {
            return Err(OutOfBuffers { free });
        }
        self.lists.row(reservation).goal = index(frames);
        for _ in held..frames {
            let frame = self.pop_free().expect("as many as are available");
            self.stats.frames_reserved += 1;
            self.lists.push(reservation, frame);
            self.store(frame, Word::reserved(reservation));
        }
        for _ in frames..held {
            let Some(frame) = self.lists.pop(reservation) else {
                break;
            };
            self.stats.frames_reserved -= 1;
            self.free_for_good(frame);
        }
        Ok(())
    }

    /// Ends a reservation (B-10): what is listed is free at once, what is in use when it is given
    /// back, and pages are whole again with their last frame.
    ///
    /// # Panics
    /// When there can be no such reservation.
    pub fn cancel(&mut self, reservation: Reservation) {
        self.reserve(reservation, 0)
            .expect("nothing is always there");
    }

    /// What a reservation has; `None` if there is no such, and no frame of one that was cancelled
    /// is in use any more.
    pub fn reserved(&self, reservation: Reservation) -> Option<Reserved> {
        let row = self.lists.rows.get(usize::from(reservation.0))?;
        let known = row.goal > 0 || row.held() > 0;
        known.then_some(Reserved {
            goal: row.goal as usize,
            listed: row.listed as usize,
            in_use: row.in_use as usize,
        })
    }

    /// A frame for a connection to keep (B-8): of its reservation, or, without one, of what is
    /// free, of which some is left to others ([`Pool::set_floors`]).
    #[inline]
    pub fn take(&mut self, reservation: Reservation, owner: Owner) -> Option<Frame> {
        self.take_above(self.borrow_floor, reservation, owner)
    }

    /// As [`Pool::take`], of what a connection must have: that is what those who borrow leave.
    pub fn take_least(&mut self, reservation: Reservation, owner: Owner) -> Option<Frame> {
        self.take_above(0, reservation, owner)
    }

    #[inline]
    fn take_above(
        &mut self,
        floor: usize,
        reservation: Reservation,
        owner: Owner,
    ) -> Option<Frame> {
        let frame = if reservation == Reservation::NONE {
            let may = self.available() > floor;
            may.then(|| self.pop_free()).flatten()
        } else if ReservedLists::is_number(reservation) {
            self.lists.pop(reservation).inspect(|_| {
                self.stats.frames_reserved -= 1;
            })
        } else {
            None
        };
        let Some(frame) = frame else {
            self.stats.takes_refused += 1;
            return None;
        };
        if reservation != Reservation::NONE {
            self.lists.row(reservation).in_use += 1;
        }
        self.stats.frames_in_use += 1;
        self.store(frame, Word::held(State::InUse, owner).of(reservation));
        Some(self.handle(frame))
    }

    /// A frame that was in use goes home (B-9).
    #[inline]
    pub(super) fn bring_home(&mut self, frame: usize, reservation: Reservation) {
        let row = self.lists.row(reservation);
        let too_many = row.held() > row.goal;
        row.in_use -= 1;
        if too_many {
            self.free_for_good(frame);
        } else {
            self.put_reserved(frame, reservation);
        }
    }

    /// Onto the list of a reservation.
    fn put_reserved(&mut self, frame: usize, reservation: Reservation) {
        self.store(frame, Word::reserved(reservation));
        self.lists.push(reservation, frame);
        self.stats.frames_reserved += 1;
    }

    /// As it was found in an earlier life's memory: the reservation is as large as it is found.
    pub(super) fn attach_reserved(&mut self, frame: usize, reservation: Reservation) {
        self.put_reserved(frame, reservation);
        self.lists.row(reservation).goal += 1;
    }

    /// What no reservation has any more: of its page nothing is kept divided for it.
    fn free_for_good(&mut self, frame: usize) {
        self.store(frame, Word::FREE);
        self.put_free(frame);
        self.unite_if_free(frame / FRAMES_PER_PAGE);
    }
}

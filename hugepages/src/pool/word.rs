//! The owner word of a frame: the truth about it in one 64-bit store (Spec B-1).
//!
//! ```text
//!  63            56 55            48 47                    32 31                     0
//! +----------------+----------------+------------------------+------------------------+
//! | state          | owner kind     | reservation, 0 = none  | owner value            |
//! +----------------+----------------+------------------------+------------------------+
//! ```
//!
//! There is a word a 4 KiB frame. The word of a page's *first* frame speaks for
//! the whole page as long as its state is one of the page states; the other
//! fifteen count only while the page is divided. So dividing and uniting a page
//! are one store each. A word of zeroes is an undivided free page: fresh memory
//! is a valid pool.

/// Who uses a buffer (a row of the allocation table, B-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A port's rings, by port number.
    Driver(u8),
    /// A TCP flow's buffers, by flow number.
    Tcp(u32),
    /// The relay's own staging of a request.
    Staging,
    /// On its way through the worker.
    Forward,
}

/// A reservation's number (B-3); zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reservation(pub u16);

impl Reservation {
    /// From the free list, and back to it.
    pub const NONE: Reservation = Reservation(0);
}

/// Where a page or frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A whole page that no one uses.
    PageFree,
    /// A whole page, part of a leased run.
    PageLeased,
    /// A whole page in use as one buffer of a [`super::Frame`].
    PageFrame,
    /// A frame on the free list.
    Free,
    /// A frame on a reserved list.
    Reserved,
    /// A frame that a [`super::Frame`] stands for.
    InUse,
}

/// The kind of owner that is a connection.
const OWNER_TCP: u8 = 2;
const OWNER_NONE: u8 = 0;

/// A decoded owner word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub state: State,
    pub owner: Option<Owner>,
    pub reservation: Reservation,
}

impl Word {
    pub const PAGE_FREE: Word = Word::idle(State::PageFree);
    pub const FREE: Word = Word::idle(State::Free);
    /// In use by packets that have not gone out yet alone.
    pub const NOBODYS: Word = Word::idle(State::InUse);

    const fn idle(state: State) -> Word {
        Word {
            state,
            owner: None,
            reservation: Reservation::NONE,
        }
    }

    pub const fn held(state: State, owner: Owner) -> Word {
        Word {
            state,
            owner: Some(owner),
            reservation: Reservation::NONE,
        }
    }

    pub const fn reserved(reservation: Reservation) -> Word {
        Word::idle(State::Reserved).of(reservation)
    }

    pub const fn of(self, reservation: Reservation) -> Word {
        Word {
            reservation,
            ..self
        }
    }

    /// Whether a connection keeps it.
    #[expect(clippy::cast_possible_truncation, reason = "its own bit field")]
    pub const fn is_kept(word: u64) -> bool {
        (word >> 48) as u8 == OWNER_TCP
    }

    /// Whether one keeps it, or has kept it and packets alone have it.
    #[expect(clippy::cast_possible_truncation, reason = "its own bit field")]
    pub const fn may_be_held(word: u64) -> bool {
        matches!((word >> 48) as u8, OWNER_NONE | OWNER_TCP)
    }

    /// The reservation alone, which may be no number of one.
    #[expect(clippy::cast_possible_truncation, reason = "its own bit field")]
    pub const fn reservation_of(word: u64) -> Reservation {
        Reservation((word >> 32) as u16)
    }

    pub const fn encode(self) -> u64 {
        let state = match self.state {
            State::PageFree => 0,
            State::PageLeased => 1,
            State::PageFrame => 2,
            State::Free => 3,
            State::Reserved => 4,
            State::InUse => 5,
        };
        let (kind, value) = match self.owner {
            None => (OWNER_NONE as u64, 0),
            Some(Owner::Driver(port)) => (1, port as u32),
            Some(Owner::Tcp(flow)) => (OWNER_TCP as u64, flow),
            Some(Owner::Staging) => (3, 0),
            Some(Owner::Forward) => (4, 0),
        };
        state << 56 | kind << 48 | (self.reservation.0 as u64) << 32 | value as u64
    }

    /// The state alone, for the hot path; `None` for a word no pool has written.
    pub const fn state_of(word: u64) -> Option<State> {
        Some(match word >> 56 {
            0 => State::PageFree,
            1 => State::PageLeased,
            2 => State::PageFrame,
            3 => State::Free,
            4 => State::Reserved,
            5 => State::InUse,
            _ => return None,
        })
    }

    /// `None` for a word no pool has written.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each cast takes its own bit field"
    )]
    pub const fn decode(word: u64) -> Option<Word> {
        let Some(state) = Word::state_of(word) else {
            return None;
        };
        let owner = match (word >> 48) as u8 {
            OWNER_NONE => None,
            1 => Some(Owner::Driver(word as u8)),
            OWNER_TCP => Some(Owner::Tcp(word as u32)),
            3 => Some(Owner::Staging),
            4 => Some(Owner::Forward),
            _ => return None,
        };
        Some(Word {
            state,
            owner,
            reservation: Word::reservation_of(word),
        })
    }
}

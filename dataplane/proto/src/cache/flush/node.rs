//! A record's place in the queue of its volume.

use super::NONE;
use super::volume::Span;
use crate::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Absent,
    Waiting,
    InFlight,
    /// GOOD came; durable once a sync sent later succeeds.
    Good,
    Durable,
    Refused,
}

/// A record's place in its volume's queue: one cache line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub lba: u64,
    pub epoch: u64,
    pub sequence: u64,
    pub arrived: Time,
    /// Syncs that had been sent when its GOOD came; a later one covers it.
    pub good_at: u64,
    pub blocks: u32,
    pub bytes: u32,
    pub older: u32,
    pub newer: u32,
    pub volume: u16,
    pub state: State,
    /// It was sent once, so that the storage may have it.
    pub maybe_sent: bool,
    /// The storage's cache was volatile when it was sent.
    pub sent_volatile: bool,
    /// Something older may be under it: it never goes before its turn.
    pub overlaps: bool,
    /// The storage has refused it together with others: it goes by itself.
    pub apart: bool,
}

const _: () = assert!(size_of::<Node>() == 64);

impl Node {
    pub const ABSENT: Self = Self {
        lba: 0,
        epoch: 0,
        sequence: 0,
        arrived: Time::ZERO,
        good_at: 0,
        blocks: 0,
        bytes: 0,
        older: NONE,
        newer: NONE,
        volume: 0,
        state: State::Absent,
        maybe_sent: false,
        sent_volatile: true,
        overlaps: false,
        apart: false,
    };

    pub const fn span(&self) -> Span {
        Span {
            lba: self.lba,
            end: self.lba + self.blocks as u64,
        }
    }
}

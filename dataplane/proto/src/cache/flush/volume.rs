//! One volume's side of the queue: what is in flight, and what a sync covers.

use arrayvec::ArrayVec;

use super::overwrite::Hold;
use super::passing::Passing;
use super::{FlushLimits, NONE, Node, WRITES_IN_FLIGHT_MAX};
use crate::mutation::{Mutation, planted};

/// A block range, end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub lba: u64,
    pub end: u64,
}

impl Span {
    pub const fn overlaps(self, other: Self) -> bool {
        self.lba < other.end && other.lba < self.end
    }

    pub const fn contains(self, other: Self) -> bool {
        self.lba <= other.lba && other.end <= self.end
    }
}

/// A write in flight: a record, or several that are neighbours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// The first in the order of blocks.
    pub record: u32,
    pub span: Span,
    pub records: usize,
    pub bytes: u64,
    /// The lowest sequence of theirs.
    pub oldest: u64,
}

/// A number of records and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Amount {
    pub records: usize,
    pub bytes: u64,
}

impl Amount {
    pub fn add(&mut self, bytes: u32) {
        self.records += 1;
        self.bytes += u64::from(bytes);
    }

    pub fn sub(&mut self, bytes: u32) {
        self.records -= 1;
        self.bytes -= u64::from(bytes);
    }

    fn add_all(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

#[derive(Debug)]
pub(super) struct Volume {
    /// Oldest and newest record of the queue.
    pub head: u32,
    pub tail: u32,
    /// Oldest record that is not durable: all before it are.
    pub undurable: u32,
    /// No record before it waits to be sent.
    pub cursor: u32,
    /// Epoch and sequence of the newest record ever pushed.
    pub newest: (u64, u64),
    /// The epoch being sent.
    epoch: u64,
    pub in_flight: ArrayVec<Sent, WRITES_IN_FLIGHT_MAX>,
    pub bytes_in_flight: u64,
    /// Since something was refused after its GOOD there was always a write in
    /// flight: one that was sent before may be of the same blocks, and newer.
    pub overtaken: bool,
    /// Commands that went past the queue and have not ended.
    pub passing: Passing,
    /// What one of them may make meaningless, and is not sent meanwhile.
    pub hold: Option<Hold>,
    /// What was not durable, sent or not.
    pub dirty: Amount,
    /// GOOD before the sync in flight was sent: it makes them durable.
    pub good_before: Amount,
    /// GOOD since: they need another.
    pub good_after: Amount,
    /// The same two for changes that passed through: the oldest epoch of such a one.
    passed_before: Option<u64>,
    passed_after: Option<u64>,
    pub syncs_sent: u64,
    /// The number of the last sync that succeeded; syncs are numbered from 1.
    syncs_good: u64,
    pub sync_in_flight: bool,
    /// Records that the storage will not take.
    pub refused: u32,
    /// The storage's cache is volatile, as far as is known.
    pub volatile: bool,
}

impl Volume {
    pub fn new() -> Self {
        Self {
            head: NONE,
            tail: NONE,
            undurable: NONE,
            cursor: NONE,
            newest: (0, 0),
            epoch: 0,
            in_flight: ArrayVec::new(),
            bytes_in_flight: 0,
            overtaken: false,
            passing: Passing::new(),
            hold: None,
            dirty: Amount::default(),
            good_before: Amount::default(),
            good_after: Amount::default(),
            passed_before: None,
            passed_after: None,
            syncs_sent: 0,
            syncs_good: 0,
            sync_in_flight: false,
            refused: 0,
            volatile: true,
        }
    }

    /// Whether a succeeded sync was sent after the GOOD counted at `good_at`.
    pub const fn covers(&self, good_at: u64) -> bool {
        good_at < self.syncs_good
    }

    /// Whether GOOD records wait for a sync, in flight or not.
    pub const fn has_unsynced(&self) -> bool {
        self.good_before.records + self.good_after.records > 0
    }

    pub const fn passed_unsynced(&self) -> bool {
        self.passed_before.is_some() || self.passed_after.is_some()
    }

    /// A change that began in `epoch` is about to pass: all that is earlier is durable.
    /// What is of `epoch` and later need not be, and a later one is not entered here.
    pub fn change_begins(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// A change passed through. Whatever the storage says of its cache now, it
    /// may have said otherwise while the command ran: a sync is always due.
    pub fn change_passed(&mut self, epoch: u64) {
        self.passed_after = older(self.passed_after, Some(epoch));
    }

    /// Whether a change of an epoch before `epoch` passed and is not durable.
    pub fn passed_unsynced_before(&self, epoch: u64) -> bool {
        older(self.passed_before, self.passed_after).is_some_and(|oldest| oldest < epoch)
    }

    /// Whether records of `epoch` may be sent; entering a later one needs all
    /// that was sent before to be durable. A failed volume sends none (C-4).
    pub fn may_send_epoch(&mut self, epoch: u64, epoch_max: u64) -> bool {
        if self.refused > 0 {
            return false;
        }
        if epoch != self.epoch {
            let settled = planted(Mutation::EpochsMixed)
                || epoch <= epoch_max
                    && self.in_flight.is_empty()
                    && self.passing.newest_change().is_none()
                    && !self.has_unsynced()
                    && !self.passed_unsynced();
            if !settled {
                return false;
            }
            self.epoch = epoch;
        }
        true
    }

    /// Whether a sync would cover something, and may be sent beside none.
    pub const fn may_sync(&self) -> bool {
        !self.sync_in_flight && (self.good_after.records > 0 || self.passed_after.is_some())
    }

    /// GOOD bytes that no sync covers, in flight or not.
    pub const fn unsynced_bytes(&self) -> u64 {
        self.good_after.bytes
    }

    /// Whether a sync sent now makes durable all that is not yet, up to `sequence`.
    pub fn completes(&self, sequence: u64, nodes: &[Node]) -> bool {
        let later = |record: u32| record == NONE || nodes[record as usize].sequence > sequence;
        let needed = self.passed_after.is_some() || !later(self.undurable);
        let in_flight = self.in_flight.iter();
        needed && later(self.cursor) && in_flight.map(|sent| sent.oldest).all(|at| at > sequence)
    }

    pub fn sync_sent(&mut self) {
        self.sync_in_flight = true;
        self.syncs_sent += 1;
        self.good_before = std::mem::take(&mut self.good_after);
        self.passed_before = std::mem::take(&mut self.passed_after);
    }

    pub fn sync_ended(&mut self, good: bool) {
        assert!(self.sync_in_flight, "no sync is in flight");
        self.sync_in_flight = false;
        let before = std::mem::take(&mut self.good_before);
        let passed = std::mem::take(&mut self.passed_before);
        if good {
            self.syncs_good = self.syncs_sent;
            self.dirty.records -= before.records;
            self.dirty.bytes -= before.bytes;
        } else {
            self.good_after.add_all(before);
            self.passed_after = older(self.passed_after, passed);
        }
    }

    /// A GOOD record leaves the queue without a sync.
    pub fn forget_good(&mut self, good_at: u64, bytes: u32) {
        let before = self.sync_in_flight && good_at < self.syncs_sent;
        let amount = if before {
            &mut self.good_before
        } else {
            &mut self.good_after
        };
        amount.sub(bytes);
    }

    pub fn room_in_flight(&self, bytes: u64, limits: &FlushLimits) -> bool {
        let writes_max = limits.writes_in_flight_max.min(WRITES_IN_FLIGHT_MAX);
        let bytes_after = self.bytes_in_flight + bytes;
        self.in_flight.len() < writes_max
            && (self.in_flight.is_empty() || bytes_after <= limits.bytes_in_flight_max)
    }

    /// The overlap guard (C-6): something in flight touches the range.
    pub fn guards(&self, span: Span) -> bool {
        let sent = || self.in_flight.iter().any(|sent| sent.span.overlaps(span));
        !planted(Mutation::NoOverlapGuard) && sent() || self.passing.touches(span)
    }

    pub fn write_sent(&mut self, sent: Sent) {
        self.bytes_in_flight += sent.bytes;
        self.in_flight.push(sent);
    }

    pub fn write_ended(&mut self, record: u32) {
        let at = self.in_flight.iter().position(|sent| sent.record == record);
        let sent = at.expect("what is in flight is listed");
        self.bytes_in_flight -= self.in_flight.swap_remove(sent).bytes;
        self.overtaken &= !self.in_flight.is_empty();
    }

    /// Forgets what was on its way. What passes through does so on its own
    /// session, and ends by itself.
    pub fn session_lost(&mut self) {
        self.in_flight.clear();
        self.bytes_in_flight = 0;
        self.overtaken = false;
        self.good_before = Amount::default();
        self.good_after = Amount::default();
        self.sync_in_flight = false;
        self.passed_after = older(self.passed_after, self.passed_before.take());
    }
}

/// The older of two epochs, of which either may be none.
fn older(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

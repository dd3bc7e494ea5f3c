//! What is written to the storage next, and what is durable there.
//!
//! Every volume has a queue of its records in order of arrival:
//!
//! ```text
//! head              undurable                cursor              tail
//!  |  durable, to be  |  in flight, GOOD but    |  not sent yet    |
//!  |  freed in order  |  unsynced, or to retry  |                  |
//! ```
//!
//! What always holds:
//! * records are sent in order of arrival, many in flight together, but never
//!   two that overlap: the later waits for the earlier's GOOD (C-6);
//! * only neighbours on the medium go before their turn, joined to the one whose turn
//!   it is, and of them only what had no older record under it ([`join`], A-16);
//! * a record of a later epoch is sent only when every record of the earlier
//!   ones is durable (A-19), so at every moment the storage holds a state that
//!   the computer could have left behind;
//! * a record is durable by GOOD to a SYNCHRONIZE CACHE that was sent after its
//!   own GOOD, or by its GOOD alone where the storage has no volatile cache
//!   (A-17); a lost session makes every other record unsent again;
//! * records are handed out for freeing from the oldest on, so of overlapping
//!   ones the oldest is freed first.
//!
//! Not for: when to flush at all ([`policy`]), sending (the relay), bytes (the
//! log). The queue has no clock: after [`Outcome::Retry`] or a failed sync it
//! would offer the same at once, and the back-off is the caller's.

mod join;
mod node;
mod overwrite;
mod passing;
pub mod policy;
mod report;
mod volume;

use node::{Node, State};
pub use passing::{Blocked, Epochs};
use volume::Volume;

use crate::Time;
use crate::mutation::{Mutation, planted};

/// Most writes of one volume in flight; the overlap guard looks at each.
pub const WRITES_IN_FLIGHT_MAX: usize = 128;

/// No record.
const NONE: u32 = u32::MAX;

/// A committed record as the flush sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub record: u32,
    pub lba: u64,
    pub blocks: u32,
    /// Epochs end at ordering points (A-19); they never go back.
    pub epoch: u64,
    /// Place in the order of arrival, given at commit; the parts of one write share it.
    pub sequence: u64,
    pub bytes: u32,
    /// When it was committed.
    pub arrived: Time,
    /// A process before this one may have sent it.
    pub maybe_sent: bool,
}

/// How much may be on its way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushLimits {
    /// At most [`WRITES_IN_FLIGHT_MAX`] count.
    pub writes_in_flight_max: usize,
    /// One write is always allowed.
    pub bytes_in_flight_max: u64,
    /// Neighbours are joined to a write of so many bytes at most; 0: to none.
    pub joined_bytes_max: u32,
    /// GOOD bytes that no sync covers yet before one is sent in mid-epoch, so
    /// that the log is freed while the flush goes on.
    pub unsynced_bytes_max: u64,
    /// Someone waits for everything up to this sequence ([`policy::FlushGate::asked`]):
    /// the sync that makes it durable is sent as soon as it can be.
    pub awaited: Option<u64>,
    /// Newest epoch that may be entered now: of those before a later one not all is gone
    /// from where a replay would bring it back.
    pub epoch_max: u64,
    /// No record behind it is sent ([`policy::FlushGate::sequence_max`]).
    pub sequence_max: u64,
}

/// What to send on the storage session now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushAction {
    /// The record and what is joined to it ([`FlushQueue::joined`]), as one WRITE.
    /// Answer with [`FlushQueue::write_done`].
    Write { record: u32 },
    /// SYNCHRONIZE CACHE of the whole volume. Answer with [`FlushQueue::sync_done`].
    Sync,
}

/// How a flushed write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// BUSY, TASK SET FULL, a unit attention: to be sent again.
    Retry,
    /// The storage will not take it as it is: each of the joined records is to be
    /// sent by itself, so that the one to blame is known.
    Apart,
    /// The storage will not take it (C-4): the volume is failed until the
    /// operator retries or discards.
    Refused,
}

/// The queues of all volumes over one slab; nothing allocates after `new`.
#[derive(Debug)]
pub struct FlushQueue {
    nodes: Box<[Node]>,
    /// By record: the one that follows it in the write it was last sent in.
    joined: Box<[u32]>,
    volumes: Box<[Volume]>,
}

impl FlushQueue {
    /// For record numbers below `records_max` and volume numbers below `volumes_max`.
    #[must_use]
    pub fn new(records_max: u32, volumes_max: u16) -> Self {
        Self {
            nodes: vec![Node::ABSENT; records_max as usize].into(),
            joined: vec![NONE; records_max as usize].into(),
            volumes: (0..volumes_max).map(|_| Volume::new()).collect(),
        }
    }

    /// Adds a record at its commit, as the newest of its volume. `overlaps`: a record is
    /// in the index that has a block in common with it, as
    /// [`super::index::Index::insert_with`] says.
    ///
    /// # Panics
    /// If the record is in a queue already, or its epoch or sequence is lower
    /// than that of the record before.
    pub fn push(&mut self, volume: u16, entry: Entry, overlaps: bool) {
        let Entry {
            record,
            lba,
            blocks,
            epoch,
            sequence,
            bytes,
            arrived,
            maybe_sent,
        } = entry;
        let queue = &mut self.volumes[usize::from(volume)];
        let order = (epoch, sequence);
        assert!(
            epoch >= queue.newest.0 && sequence >= queue.newest.1,
            "records arrive in order"
        );
        queue.newest = order;
        let node = &mut self.nodes[record as usize];
        assert!(
            node.state == State::Absent,
            "record {record} is in a queue already"
        );
        assert!(lba.checked_add(u64::from(blocks)).is_some() && blocks > 0);
        *node = Node {
            lba,
            blocks,
            epoch,
            sequence,
            bytes,
            arrived,
            volume,
            older: queue.tail,
            state: State::Waiting,
            maybe_sent,
            overlaps,
            ..Node::ABSENT
        };
        match queue.tail {
            NONE => queue.head = record,
            tail => self.nodes[tail as usize].newer = record,
        }
        queue.tail = record;
        for pointer in [&mut queue.undurable, &mut queue.cursor] {
            if *pointer == NONE {
                *pointer = record;
            }
        }
        queue.dirty.add(bytes);
    }

    /// What to send for the volume now, if anything. Call it again until it has
    /// nothing. `storage_wce`: the storage has a volatile write cache. `newest`: the
    /// record that is the newest copy of a block ([`super::index::Index::newest`]).
    ///
    /// A sync is due when an epoch has been GOOD to its end, when nothing else
    /// is left to send, when `unsynced_bytes_max` is reached, or when it ends a
    /// wait; writes of the same epoch go on while it is in flight.
    pub fn next(
        &mut self,
        volume: u16,
        limits: &FlushLimits,
        storage_wce: bool,
        newest: impl Fn(u64) -> Option<u32>,
    ) -> Option<FlushAction> {
        let queue = &mut self.volumes[usize::from(volume)];
        queue.volatile = storage_wce;
        while queue.cursor != NONE && self.nodes[queue.cursor as usize].state != State::Waiting {
            queue.cursor = self.nodes[queue.cursor as usize].newer;
        }
        let candidate = (queue.cursor != NONE).then(|| self.nodes[queue.cursor as usize]);
        let candidate = candidate.filter(|node| node.sequence <= limits.sequence_max);
        let candidate = candidate.filter(|node| queue.may_send_epoch(node.epoch, limits.epoch_max));
        let candidate = candidate.filter(|node| !queue.holds_back(node.span()));
        let at_end = candidate.is_none() && queue.in_flight.is_empty();
        if queue.may_sync()
            && (at_end
                || queue.unsynced_bytes() >= limits.unsynced_bytes_max.max(1)
                || limits
                    .awaited
                    .is_some_and(|sequence| queue.completes(sequence, &self.nodes)))
        {
            queue.sync_sent();
            return Some(FlushAction::Sync);
        }
        let node = candidate?;
        if !queue.room_in_flight(u64::from(node.bytes), limits) || queue.guards(node.span()) {
            return None;
        }
        let cursor = queue.cursor;
        queue.cursor = node.newer;
        let (record, sent) = self.join(cursor, limits, newest);
        let mut at = record;
        while at != NONE {
            let node = &mut self.nodes[at as usize];
            node.state = State::InFlight;
            node.maybe_sent = true;
            node.sent_volatile = storage_wce;
            at = self.joined[at as usize];
        }
        self.volumes[usize::from(volume)].write_sent(sent);
        Some(FlushAction::Write { record })
    }

    /// The records of a write in the order of their blocks, the one that
    /// [`FlushAction::Write`] named first. As it was sent, until one of them is sent again.
    pub fn joined(&self, record: u32) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(Some(record), |&at| {
            Some(self.joined[at as usize]).filter(|&next| next != NONE)
        })
    }

    /// A write in flight ended: the record that [`FlushAction::Write`] named, and all
    /// that is joined to it.
    ///
    /// # Panics
    /// If it is not in flight: completions of a lost session must not arrive
    /// after [`FlushQueue::session_lost`].
    pub fn write_done(&mut self, volume: u16, record: u32, outcome: Outcome) {
        let mut at = record;
        while at != NONE {
            let node = &self.nodes[at as usize];
            assert!(
                node.state == State::InFlight && node.volume == volume,
                "record {at} is not in flight"
            );
            let outcome = match outcome {
                Outcome::Good if self.goes_again(volume, at) => Outcome::Retry,
                outcome => outcome,
            };
            self.record_done(at, outcome);
            at = self.joined[at as usize];
        }
        self.volumes[usize::from(volume)].write_ended(record);
        self.advance(volume);
    }

    fn record_done(&mut self, record: u32, outcome: Outcome) {
        let node = &mut self.nodes[record as usize];
        let queue = &mut self.volumes[usize::from(node.volume)];
        match outcome {
            // Beside unsynced ones it waits for their sync too: else an older
            // one that it overlaps could be sent again over it.
            Outcome::Good
                if !planted(Mutation::DurableUnsynced)
                    && (node.sent_volatile || queue.volatile || queue.has_unsynced()) =>
            {
                node.state = State::Good;
                node.good_at = queue.syncs_sent;
                queue.good_after.add(node.bytes);
            }
            Outcome::Good => {
                node.state = State::Durable;
                queue.dirty.sub(node.bytes);
            }
            Outcome::Retry | Outcome::Apart => {
                node.state = State::Waiting;
                node.apart |= outcome == Outcome::Apart;
                queue.cursor = queue.undurable;
            }
            Outcome::Refused => {
                node.state = State::Refused;
                queue.refused += 1;
            }
        }
    }

    /// The sync in flight ended. If not `good`, the same is due again.
    ///
    /// # Panics
    /// If none is in flight.
    pub fn sync_done(&mut self, volume: u16, good: bool) {
        self.volumes[usize::from(volume)].sync_ended(good);
        self.advance(volume);
    }

    /// The oldest record if it is durable: it leaves the
    /// queue, and is to be removed from the index and freed in the log. Call it
    /// until it has none.
    pub fn next_durable(&mut self, volume: u16) -> Option<u32> {
        let queue = &self.volumes[usize::from(volume)];
        let record = queue.head;
        if record == queue.undurable {
            return None;
        }
        self.unlink(volume, record);
        Some(record)
    }

    /// The storage session is gone, or the storage says it was reset (29h,
    /// 2Fh): every record that is not durable is sent again, in order (A-17).
    pub fn session_lost(&mut self, volume: u16) {
        let queue = &mut self.volumes[usize::from(volume)];
        let sent = queue
            .in_flight
            .iter()
            .map(|sent| sent.records)
            .sum::<usize>();
        let mut sent = sent + queue.good_before.records + queue.good_after.records;
        let mut at = queue.undurable;
        while sent > 0 {
            let node = &mut self.nodes[at as usize];
            let undurable_good = node.state == State::Good && !queue.covers(node.good_at);
            if node.state == State::InFlight || undurable_good {
                node.state = State::Waiting;
                sent -= 1;
            }
            at = node.newer;
        }
        queue.session_lost();
        queue.cursor = queue.undurable;
    }

    /// A newer record `by` of the same epoch is now the newest copy of
    /// everything that `record` holds ([`super::index::Index::insert_with`]):
    /// unless it is in flight, it leaves the queue and is never sent
    /// again (A-17). `true`: remove it from the index and free it.
    pub fn supersede(&mut self, record: u32, by: u32) -> bool {
        let (node, newer) = (self.nodes[record as usize], self.nodes[by as usize]);
        let same_epoch = (node.volume, node.epoch) == (newer.volume, newer.epoch);
        if !same_epoch || newer.state == State::Absent {
            return false;
        }
        let queue = &mut self.volumes[usize::from(node.volume)];
        match node.state {
            State::Waiting => {}
            State::Good if !queue.covers(node.good_at) => {
                queue.forget_good(node.good_at, node.bytes)
            }
            State::Absent | State::InFlight | State::Good | State::Durable | State::Refused => {
                return false;
            }
        }
        queue.dirty.sub(node.bytes);
        self.unlink(node.volume, record);
        true
    }

    /// A record that was never sent is found lost (A-23): it stands for what it
    /// was as one does that the storage has refused.
    ///
    /// # Panics
    /// If it does not wait to be sent.
    pub fn refuse_unsent(&mut self, volume: u16, record: u32) {
        let node = &mut self.nodes[record as usize];
        assert!(
            node.state == State::Waiting && node.volume == volume,
            "record {record} does not wait"
        );
        node.state = State::Refused;
        self.volumes[usize::from(volume)].refused += 1;
    }

    /// The operator tries again what was refused (C-4).
    pub fn retry_refused(&mut self, volume: u16) {
        let mut at = self.volumes[usize::from(volume)].undurable;
        while at != NONE {
            let node = &mut self.nodes[at as usize];
            if node.state == State::Refused {
                node.state = State::Waiting;
            }
            at = node.newer;
        }
        let queue = &mut self.volumes[usize::from(volume)];
        queue.refused = 0;
        queue.cursor = queue.undurable;
    }

    /// The operator gives up a refused record (C-4): it leaves the queue; remove
    /// it from the index and free it. `false` if it is not refused.
    pub fn discard_refused(&mut self, volume: u16, record: u32) -> bool {
        let node = &self.nodes[record as usize];
        if node.state != State::Refused || node.volume != volume {
            return false;
        }
        let queue = &mut self.volumes[usize::from(volume)];
        queue.refused -= 1;
        queue.dirty.sub(node.bytes);
        self.unlink(volume, record);
        true
    }

    /// The storage cannot make durable what it had taken (C-4): every record
    /// that is GOOD and not durable is refused, and handed to `each`, the oldest first.
    /// A sync in flight covers none of them any more, and a write in flight over
    /// the same blocks goes again after them.
    pub fn refuse_unsynced(&mut self, volume: u16, mut each: impl FnMut(u32)) {
        let queue = &mut self.volumes[usize::from(volume)];
        queue.overtaken |= queue.has_unsynced() && !queue.in_flight.is_empty();
        let mut at = queue.undurable;
        while queue.has_unsynced() {
            let node = &mut self.nodes[at as usize];
            if node.state == State::Good && !queue.covers(node.good_at) {
                node.state = State::Refused;
                queue.forget_good(node.good_at, node.bytes);
                queue.refused += 1;
                each(at);
            }
            at = node.newer;
        }
    }

    /// Whether an older write of the same blocks is yet to be sent, or may be
    /// again: it would land over what is newer.
    fn goes_again(&self, volume: u16, record: u32) -> bool {
        let queue = &self.volumes[usize::from(volume)];
        if !queue.overtaken {
            return false;
        }
        let span = self.nodes[record as usize].span();
        let mut at = queue.undurable;
        while at != record {
            let node = &self.nodes[at as usize];
            if matches!(node.state, State::Waiting | State::Refused) && node.span().overlaps(span) {
                return true;
            }
            at = node.newer;
        }
        false
    }

    /// The refused records of a volume, the oldest first.
    pub fn refused(&self, volume: u16) -> impl Iterator<Item = u32> + '_ {
        let queue = &self.volumes[usize::from(volume)];
        let mut left = queue.refused;
        let mut at = queue.undurable;
        std::iter::from_fn(move || {
            while left > 0 {
                let record = at;
                let node = &self.nodes[record as usize];
                at = node.newer;
                if node.state == State::Refused {
                    left -= 1;
                    return Some(record);
                }
            }
            None
        })
    }

    fn is_durable(&self, node: &Node) -> bool {
        match node.state {
            State::Durable => true,
            State::Good => self.volumes[usize::from(node.volume)].covers(node.good_at),
            State::Absent | State::Waiting | State::InFlight | State::Refused => false,
        }
    }

    /// Moves `undurable` over what has become durable.
    fn advance(&mut self, volume: u16) {
        let mut at = self.volumes[usize::from(volume)].undurable;
        while at != NONE && self.is_durable(&self.nodes[at as usize]) {
            at = self.nodes[at as usize].newer;
        }
        self.volumes[usize::from(volume)].undurable = at;
    }

    fn unlink(&mut self, volume: u16, record: u32) {
        let Node { older, newer, .. } = self.nodes[record as usize];
        let queue = &mut self.volumes[usize::from(volume)];
        match older {
            NONE => queue.head = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        match newer {
            NONE => queue.tail = older,
            newer => self.nodes[newer as usize].older = older,
        }
        for pointer in [&mut queue.undurable, &mut queue.cursor] {
            if *pointer == record {
                *pointer = newer;
            }
        }
        self.nodes[record as usize] = Node::ABSENT;
        self.advance(volume);
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

//! Neighbours on the medium that go in one write.
//!
//! What always holds:
//! * what is joined lies wholly before or behind what it is joined to, is of the
//!   same epoch and waits to be sent;
//! * it had no older record under it when it came: nothing that is sent after it, in
//!   its turn, can land over it and be older (C-6). What is newer and lies over it is
//!   never joined before its own turn, which is later.
//!
//! The index finds the neighbours: what is not the newest copy of its first or last
//! block is found by nobody, and goes in its turn.

use super::node::State;
use super::volume::Sent;
use super::{FlushLimits, FlushQueue, NONE};

/// Most records of a write: each is looked at for every piece of it that is sent.
const RECORDS_MAX: usize = 128;

impl FlushQueue {
    /// Joins to a record whose turn it is what may go with it, before it and behind
    /// it on the medium. Gives the first of them and the write that they are.
    pub(super) fn join(
        &mut self,
        record: u32,
        limits: &FlushLimits,
        newest: impl Fn(u64) -> Option<u32>,
    ) -> (u32, Sent) {
        let node = &self.nodes[record as usize];
        let mut sent = Sent {
            record,
            span: node.span(),
            records: 1,
            bytes: u64::from(node.bytes),
            oldest: node.sequence,
        };
        self.joined[record as usize] = NONE;
        if node.apart {
            return (record, sent);
        }
        let mut last = record;
        while let Some(next) = newest(sent.span.end)
            && self.nodes[next as usize].lba == sent.span.end
            && self.may_join(next, record, &sent, limits)
        {
            self.joined[last as usize] = next;
            self.joined[next as usize] = NONE;
            sent.span.end = self.nodes[next as usize].span().end;
            self.count(&mut sent, next);
            last = next;
        }
        while let Some(before) = sent.span.lba.checked_sub(1)
            && let Some(next) = newest(before)
            && self.nodes[next as usize].span().end == sent.span.lba
            && self.may_join(next, record, &sent, limits)
        {
            self.joined[next as usize] = sent.record;
            sent.record = next;
            sent.span.lba = self.nodes[next as usize].lba;
            self.count(&mut sent, next);
        }
        (sent.record, sent)
    }

    fn count(&self, sent: &mut Sent, next: u32) {
        let node = &self.nodes[next as usize];
        sent.records += 1;
        sent.bytes += u64::from(node.bytes);
        sent.oldest = sent.oldest.min(node.sequence);
    }

    fn may_join(&self, next: u32, record: u32, sent: &Sent, limits: &FlushLimits) -> bool {
        let node = &self.nodes[next as usize];
        let queue = &self.volumes[usize::from(node.volume)];
        let bytes = sent.bytes + u64::from(node.bytes);
        let span = node.span();
        node.state == State::Waiting
            && node.epoch == self.nodes[record as usize].epoch
            && node.sequence <= limits.sequence_max
            && !node.overlaps
            && !node.apart
            && sent.records < RECORDS_MAX
            && bytes <= u64::from(limits.joined_bytes_max)
            && queue.room_in_flight(bytes, limits)
            && !queue.holds_back(span)
            && !queue.guards(span)
    }
}

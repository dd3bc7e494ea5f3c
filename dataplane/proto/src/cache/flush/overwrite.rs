//! A command that writes every block of its range, whatever was there (WRITE
//! SAME): what waits to be sent and lies inside it need not be sent at all.
//!
//! What always holds:
//! * what such a command may make meaningless is held back until it has ended,
//!   and with it everything younger, so that nothing is sent out of order (C-6);
//! * it is given up only when a sync has covered the command: until then it is
//!   what the computer was promised, and is sent as ever if the command fails;
//! * it was never sent before: no stray of it can land on what the command wrote.
//!
//! Not for: when the command is answered (the relay).

use super::node::{Node, State};
use super::passing::passes;
use super::volume::{Span, Volume};
use super::{FlushQueue, NONE};
use crate::scsi::Access;

/// The records that wait and have a block in common with the range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    token: u32,
    span: Span,
    /// The youngest of them: what arrives later is younger than the command.
    through: u64,
    /// Where the next of them to be given up is looked for.
    at: Option<u32>,
}

impl Volume {
    /// Whether a record of these blocks is not to be sent now.
    pub fn holds_back(&self, span: Span) -> bool {
        self.hold.is_some_and(|hold| hold.span.overlaps(span))
    }

    fn held_by(&self, token: u32) -> Option<Hold> {
        self.hold.filter(|hold| hold.token == token)
    }

    /// Whether the command is to overwrite this record, and holds it back.
    pub fn is_held_by(&self, token: u32, node: &Node) -> bool {
        let hold = self.held_by(token);
        node.state == State::Waiting && hold.is_some_and(|hold| hold.span.overlaps(node.span()))
    }
}

impl FlushQueue {
    /// Holds back what waits inside the range of a command that is about to
    /// overwrite it, in the open `epoch`; what is under way there ends first.
    /// Looks anew each time, and says whether anything is held, for which
    /// [`FlushQueue::pass`] then does not wait. Nothing is, or no more, where a record
    /// reaches over the range's edge, may be at the storage already, or is of an
    /// epoch that has been closed; and while another command holds some.
    ///
    /// The hold outlives [`FlushQueue::passed`], until [`FlushQueue::next_overwritten`]
    /// has none or [`FlushQueue::release_hold`].
    ///
    /// # Panics
    /// If `access` is neither a range nor the whole medium.
    pub fn hold(&mut self, volume: u16, token: u32, access: Access, epoch: u64) -> bool {
        let (span, _) = passes(access).expect("only ranges and whole media pass");
        let is_held = self.can_hold(volume, token, span, epoch);
        let queue = &mut self.volumes[usize::from(volume)];
        if is_held {
            queue.hold = Some(Hold {
                token,
                span,
                through: queue.newest.1,
                at: None,
            });
        } else if queue.held_by(token).is_some() {
            queue.hold = None;
        }
        is_held
    }

    fn can_hold(&self, volume: u16, token: u32, span: Span, epoch: u64) -> bool {
        let queue = &self.volumes[usize::from(volume)];
        if queue.hold.is_some_and(|hold| hold.token != token) {
            return false;
        }
        let mut any = false;
        let mut at = queue.cursor;
        while at != NONE {
            let node = &self.nodes[at as usize];
            at = node.newer;
            if node.state != State::Waiting || !node.span().overlaps(span) {
                continue;
            }
            if node.maybe_sent || node.epoch != epoch || !span.contains(node.span()) {
                return false;
            }
            any = true;
        }
        any
    }

    /// Whether the command holds records back.
    #[must_use]
    pub fn is_holding(&self, volume: u16, token: u32) -> bool {
        self.volumes[usize::from(volume)].held_by(token).is_some()
    }

    /// The command will not overwrite what it held back: that is sent as ever.
    pub fn release_hold(&mut self, volume: u16, token: u32) {
        let queue = &mut self.volumes[usize::from(volume)];
        if queue.held_by(token).is_some() {
            queue.hold = None;
        }
    }

    /// The command has overwritten what it held back, and a sync has covered it
    /// ([`FlushQueue::is_synced_since`]): the next record that nobody needs any more.
    /// It leaves the queue, is to be removed from the index and freed.
    pub fn next_overwritten(&mut self, volume: u16, token: u32) -> Option<u32> {
        let queue = &self.volumes[usize::from(volume)];
        let hold = queue.held_by(token)?;
        let mut at = hold.at.unwrap_or(queue.cursor);
        while at != NONE {
            let node = self.nodes[at as usize];
            let older = node.sequence <= hold.through;
            if node.state == State::Waiting && older && node.span().overlaps(hold.span) {
                let queue = &mut self.volumes[usize::from(volume)];
                let next = Some(node.newer);
                queue.hold = Some(Hold { at: next, ..hold });
                queue.dirty.sub(node.bytes);
                self.unlink(volume, at);
                return Some(at);
            }
            at = node.newer;
        }
        self.volumes[usize::from(volume)].hold = None;
        None
    }

    /// The moment of an answer, for [`FlushQueue::is_synced_since`].
    #[must_use]
    pub fn sync_mark(&self, volume: u16) -> u64 {
        self.volumes[usize::from(volume)].syncs_sent
    }

    /// Whether a sync that was sent after the mark has succeeded.
    #[must_use]
    pub fn is_synced_since(&self, volume: u16, mark: u64) -> bool {
        self.volumes[usize::from(volume)].covers(mark)
    }
}

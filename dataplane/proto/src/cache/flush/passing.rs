//! Commands that go past the queue to the storage: what they wait for first,
//! and what waits for them (A-20, C-6, C-9).

use arrayvec::ArrayVec;

use super::FlushQueue;
use super::volume::Span;
use crate::scsi::Access;

/// Most such commands of one volume at the storage at once.
const PASSING_MAX: usize = 16;

/// Why a command cannot pass now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Until [`FlushQueue::durable_through`] this sequence.
    Until { sequence: u64 },
    /// Until durable records that it touches have been freed: the index would
    /// still answer reads from them. A read may hold one.
    Unfreed,
    /// Until a command that passed before has ended: it touches the same
    /// blocks, or there are too many.
    Passing,
}

#[derive(Clone, Copy, Debug)]
struct Pass {
    token: u32,
    span: Span,
    changes: bool,
    /// The one that was open when it was let pass.
    epoch: u64,
}

/// Between which ordering points a command passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epochs {
    /// The epoch that was open when the command began: what is of an earlier one was
    /// there before it. What came since has no order with it.
    pub since: u64,
    /// The epoch that is open now: what is ordered behind the command is of a later one.
    pub open: u64,
}

#[derive(Debug)]
pub(super) struct Passing(ArrayVec<Pass, PASSING_MAX>);

impl Passing {
    pub const fn new() -> Self {
        Self(ArrayVec::new_const())
    }

    pub fn touches(&self, span: Span) -> bool {
        self.0.iter().any(|pass| pass.span.overlaps(span))
    }

    /// The newest epoch of a passing command that changes blocks.
    pub fn newest_change(&self) -> Option<u64> {
        self.0
            .iter()
            .filter(|pass| pass.changes)
            .map(|pass| pass.epoch)
            .max()
    }

    /// Whether a command of an epoch before `epoch` still passes.
    fn any_before(&self, epoch: u64) -> bool {
        self.0.iter().any(|pass| pass.epoch < epoch)
    }
}

/// The blocks that a command of this kind passes over, and whether it may
/// change them; `None` for those that do not go past the queue.
pub(super) fn passes(access: Access) -> Option<(Span, bool)> {
    match access {
        Access::Range {
            lba,
            blocks,
            changes,
        } => Some((
            Span {
                lba,
                end: lba + blocks,
            },
            changes,
        )),
        Access::Medium => Some((
            Span {
                lba: 0,
                end: u64::MAX,
            },
            true,
        )),
        Access::None | Access::Read { .. } | Access::Write { .. } | Access::Sync { .. } => None,
    }
}

impl FlushQueue {
    /// The sequence that must be durable before the command may pass or end:
    /// all for [`Access::Sync`] and [`Access::Medium`]; what overlaps for
    /// [`Access::Range`], but for what it holds back itself ([`FlushQueue::hold`]), and
    /// all of the epochs before `since` ([`Epochs`]), if it changes blocks.
    /// `None`: nothing.
    #[must_use]
    pub fn drain_point(&self, volume: u16, token: u32, access: Access, since: u64) -> Option<u64> {
        let queue = &self.volumes[usize::from(volume)];
        // A change that passed has no record; waiting for the newest one waits
        // for the sync that covers it too.
        let (dirty, passed) = match access {
            Access::None | Access::Read { .. } | Access::Write { .. } => return None,
            Access::Sync { .. } | Access::Medium => (
                self.newest_dirty_where(volume, |_| true),
                queue.passed_unsynced(),
            ),
            Access::Range {
                lba,
                blocks,
                changes,
            } => {
                let span = Span {
                    lba,
                    end: lba + blocks,
                };
                let dirty = self.newest_dirty_where(volume, |node| {
                    let older = changes && node.epoch < since;
                    older || node.span().overlaps(span) && !queue.is_held_by(token, node)
                });
                (dirty, changes && queue.passed_unsynced_before(since))
            }
        };
        if passed { Some(queue.newest.1) } else { dirty }
    }

    /// Lets a [`Access::Range`] or [`Access::Medium`] command pass to the
    /// storage. Until [`FlushQueue::passed`] no write that overlaps it is sent,
    /// and if it changes blocks no later epoch is begun than the one being sent; that
    /// is `epochs.open` at most. Writes that overlap and arrive while it is
    /// blocked should be kept back, else it may wait for ever.
    ///
    /// # Errors
    /// [`Blocked`]: what to wait for before asking again.
    ///
    /// # Panics
    /// If `access` is of another kind.
    pub fn pass(
        &mut self,
        volume: u16,
        token: u32,
        access: Access,
        epochs: Epochs,
    ) -> Result<(), Blocked> {
        let Epochs { since, open } = epochs;
        let (span, changes) = passes(access).expect("only ranges and whole media pass");
        if let Some(sequence) = self.drain_point(volume, token, access, since) {
            return Err(Blocked::Until { sequence });
        }
        if self.durable_overlaps(volume, span) {
            return Err(Blocked::Unfreed);
        }
        let queue = &mut self.volumes[usize::from(volume)];
        let pass = Pass {
            token,
            span,
            changes,
            epoch: open,
        };
        let waits = queue.passing.touches(span) || (changes && queue.passing.any_before(since));
        if waits || queue.passing.0.try_push(pass).is_err() {
            return Err(Blocked::Passing);
        }
        if changes {
            queue.change_begins(since);
        }
        Ok(())
    }

    /// Whether a record of the durable front of the queue touches the range.
    fn durable_overlaps(&self, volume: u16, span: Span) -> bool {
        let queue = &self.volumes[usize::from(volume)];
        let mut at = queue.head;
        while at != queue.undurable {
            let node = &self.nodes[at as usize];
            if node.span().overlaps(span) {
                return true;
            }
            at = node.newer;
        }
        false
    }

    /// The command ended. If it may have changed blocks, a sync is due before
    /// the next epoch or answer to a SYNCHRONIZE CACHE.
    ///
    /// # Panics
    /// If no such command is passing.
    pub fn passed(&mut self, volume: u16, token: u32) {
        let queue = &mut self.volumes[usize::from(volume)];
        let at = queue.passing.0.iter().position(|pass| pass.token == token);
        let pass = queue
            .passing
            .0
            .swap_remove(at.expect("what is passing is listed"));
        if pass.changes {
            queue.change_passed(pass.epoch);
        }
    }

    /// The storage may hold unsynced changes of `epoch` that the queue never
    /// saw: a write that went through uncached, or whatever was passing when
    /// the relay died.
    pub fn changed_elsewhere(&mut self, volume: u16, epoch: u64) {
        self.volumes[usize::from(volume)].change_passed(epoch);
    }
}

//! A volume that has failed: the storage has refused for good what the relay had
//! acknowledged (C-4). What is kept stays in the log, nothing is flushed past
//! it, and the computers hear of it, until the operator decides: try again, or
//! throw away what is listed.
//!
//! What always holds while a volume is failed:
//! * a command that reads or writes a refused block, and every SYNCHRONIZE CACHE
//!   and write with FUA, ends with a current sense that names the fault. A
//!   deferred one would be carried by an innocent command and retried away;
//! * other blocks are served, and their writes kept, while the log is less than
//!   half full: a volume that gives nothing back must not take others' room;
//! * a command that would have to wait for the flush ends with the fault.
//!
//! A start tries again by itself: the storage may have been set right meanwhile,
//! and if not it says so before anything is answered that depends on it.
//!
//! Not for: whether the storage takes writes at all ([`super::writable`]).

use std::collections::BTreeSet;

use sluice_hugepages::log::{Log, RecordId, VolumeFlags, VolumeId};
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::iscsi::Residual;
#[cfg(feature = "mutations")]
use sluice_proto::mutation::{Mutation, planted};
use sluice_proto::scsi::sense::Received;
use sluice_proto::scsi::{Access, ScsiStatus, Sense, SenseKey, sense};

use super::nexus::SENSE_LEN;
use super::relay::Relay;
use super::task::{TaskKey, VolumeKey, overlap};
use super::wan::Ended;
use crate::journal::layout::{Identity, RowTable};
use crate::journal::restore::entry_of;

/// Refused writes of one volume that are told one by one; the blocks between
/// the first and the last of further ones are all taken for refused.
pub const LISTED_MAX: usize = 256;
/// Deferred errors, with no SYNCHRONIZE CACHE that succeeds between them, that
/// all unsynced writes are sent again for.
const DEFERRED_MAX: u8 = 3;

/// What is lost until the operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedWrite {
    /// `None`: a start found its place in the log damaged. Which blocks it
    /// was of cannot be told, so it stands for the whole volume.
    pub record: Option<u32>,
    pub sequence: u64,
    pub lba: u64,
    pub blocks: u64,
    /// 0 where that is not known.
    pub bytes: u32,
    pub sense: Sense,
}

/// What the storage has refused of one volume.
#[derive(Debug)]
pub struct Failure {
    /// The oldest refusals.
    listed: Vec<RefusedWrite>,
    /// Refusals that are not listed: how many, and their first and last block.
    more: u32,
    more_span: (u64, u64),
    /// Of the first refusal: what is about no certain blocks ends with it.
    sense: [u8; SENSE_LEN],
    /// Another number whenever something else is refused: a decision is about
    /// what its operator has seen.
    pub stamp: u64,
    /// Deferred errors since a SYNCHRONIZE CACHE succeeded.
    deferred: u8,
    /// What the storage has said of commands that passed, for the next SYNCHRONIZE CACHE.
    pub(super) passed: Option<Sense>,
}

impl Failure {
    pub(super) fn new() -> Self {
        Self {
            listed: Vec::with_capacity(LISTED_MAX),
            more: 0,
            more_span: (0, 0),
            sense: [0; SENSE_LEN],
            stamp: 0,
            deferred: 0,
            passed: None,
        }
    }

    /// The sense that everything ends with that needs the whole volume's log.
    pub fn sense(&self) -> Option<[u8; SENSE_LEN]> {
        (!self.listed.is_empty()).then_some(self.sense)
    }

    /// The sense of a command that touches the blocks.
    pub fn over(&self, lba: u64, blocks: u64) -> Option<[u8; SENSE_LEN]> {
        let listed = self
            .listed
            .iter()
            .find(|refused| overlap(refused.lba, refused.blocks, lba, blocks))
            .map(|refused| refused.sense.fixed_at(refused.lba.max(lba)));
        let (first, end) = self.more_span;
        listed.or_else(|| {
            (self.more > 0 && overlap(first, end - first, lba, blocks)).then_some(self.sense)
        })
    }

    pub fn listed(&self) -> &[RefusedWrite] {
        &self.listed
    }

    /// Refusals that are not listed.
    pub fn more(&self) -> u32 {
        self.more
    }

    /// A record is lost that might have been of any block and epoch: nothing
    /// may be sent before the operator has given it up.
    pub fn is_damaged(&self) -> bool {
        self.listed.iter().any(|refused| refused.record.is_none())
    }

    fn add(&mut self, refused: RefusedWrite) {
        if self.listed.is_empty() {
            self.sense = refused.sense.fixed_at(refused.lba);
        }
        self.stamp += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push(refused);
            return;
        }
        let end = refused.lba + refused.blocks;
        self.more_span = match self.more {
            0 => (refused.lba, end),
            _ => (self.more_span.0.min(refused.lba), self.more_span.1.max(end)),
        };
        self.more += 1;
    }

    /// Forgets what may be sent again; what is damaged stays.
    fn clear(&mut self) {
        self.listed.retain(|refused| refused.record.is_none());
        self.more = 0;
        self.stamp += 1;
    }
}

/// What an answer to the flusher means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// To be sent again, as it is.
    Again,
    /// The error is of a write that was GOOD (SPC-5, deferred errors): any that
    /// is not synced may be the one.
    Deferred(Sense),
    /// Sending it again would not help.
    Refused(Sense),
}

/// What a deferred error says of writes that were GOOD, if it says anything.
pub(super) fn lost_before(received: &Received) -> Option<Sense> {
    let harmless = matches!(
        received.sense.key,
        SenseKey::NO_SENSE | SenseKey::RECOVERED_ERROR | SenseKey::UNIT_ATTENTION
    );
    (received.deferred && !harmless).then_some(received.sense)
}

/// Judges how a flushed write or sync has ended, by status, sense and residual
/// alone; a RESERVATION CONFLICT is for [`Relay::flush_conflict`] to judge.
pub(super) fn verdict(ended: &Ended<'_>) -> Verdict {
    if ended.status == ScsiStatus::GOOD {
        return match ended.residual {
            // It has not taken all that it was sent, or wanted more.
            Residual::Underflow(1..) | Residual::Overflow(1..) => {
                Verdict::Refused(Sense::INTERNAL_TARGET_FAILURE)
            }
            _ => Verdict::Good,
        };
    }
    if ended.status != ScsiStatus::CHECK_CONDITION {
        return Verdict::Again;
    }
    match sense::parse(ended.sense) {
        Some(received) if received.deferred => {
            lost_before(&received).map_or(Verdict::Again, Verdict::Deferred)
        }
        // What it came with was done (SPC-5, RECOVERED ERROR).
        Some(received) if received.sense.key == SenseKey::RECOVERED_ERROR => Verdict::Good,
        Some(received) if received.sense.refuses_write_for_good() => {
            Verdict::Refused(received.sense)
        }
        _ => Verdict::Again,
    }
}

/// Whether a record's payload is what its checksum says; looked at once.
pub(super) fn is_sound(log: &mut Log, record: RecordId) -> bool {
    #[cfg(feature = "mutations")]
    if planted(Mutation::SkipLogChecksum) {
        log.believe(record);
    }
    log.verify(record).is_ok()
}

impl Relay {
    /// A record is refused for good; the queue has been told.
    pub(super) fn fail_record(&mut self, key: VolumeKey, record: u32, sense: Sense) {
        self.note_refused(key, record, sense);
        self.end_what_waits(key);
    }

    /// The storage cannot make durable what it had taken: all of that is refused.
    pub(super) fn fail_unsynced(&mut self, key: VolumeKey, sense: Sense) {
        self.volume_mut(key).losses += 1;
        // Rare, and the queue cannot be asked while it is walked.
        let mut refused = Vec::new();
        self.flush
            .refuse_unsynced(key.0, |record| refused.push(record));
        for record in refused {
            self.note_refused(key, record, sense);
        }
        self.end_what_waits(key);
        // With nothing of the log's refused it is what had passed that cannot
        // be made durable, and who waits for that must hear of it.
        if self.volume(key).failure.sense().is_none() {
            self.keep_for_sync(key, sense);
            self.lose_passed(key, None, sense);
            self.end_waiting(key, &sense.fixed());
        }
    }

    /// What had passed may be lost, and nobody waits for it: the next SYNCHRONIZE CACHE
    /// says so, as the storage would have told the computer's own.
    fn keep_for_sync(&mut self, key: VolumeKey, sense: Sense) {
        let volume = self.volume(key);
        let is_heard = !volume.waiting.is_empty() || volume.settling.is_some();
        if !is_heard && self.flush.passed_unsynced(key.0) {
            self.volume_mut(key).failure.passed = Some(sense);
        }
    }

    /// A deferred error: every unsynced write is sent again, some times; a
    /// storage that goes on so does not take them.
    pub(super) fn heed_deferred(&mut self, key: VolumeKey, sense: Sense) {
        let failure = &mut self.volume_mut(key).failure;
        failure.deferred = failure.deferred.saturating_add(1);
        if failure.deferred < DEFERRED_MAX {
            self.keep_for_sync(key, sense);
            return self.flush_lost(key);
        }
        self.volume_mut(key).failure.deferred = 0;
        // What is in flight may be sound, and is answered or sent again.
        self.fail_unsynced(key, sense);
    }

    /// A sync of the flusher has succeeded.
    pub(super) fn nothing_deferred(&mut self, key: VolumeKey) {
        self.volume_mut(key).failure.deferred = 0;
    }

    fn note_refused(&mut self, key: VolumeKey, record: u32, sense: Sense) {
        let first = self.volume(key).failure.sense().is_none();
        self.list(key, record, sense);
        self.counters.writes_refused += 1;
        self.counters.volumes_failed += u64::from(first);
    }

    fn list(&mut self, key: VolumeKey, record: u32, sense: Sense) {
        let (sequence, lba, bytes) = {
            let record = self.log.record(RecordId(record));
            (record.sequence, record.lba, record.len)
        };
        let volume = self.volume_mut(key);
        let blocks = u64::from(bytes / volume.block_len());
        volume.failure.add(RefusedWrite {
            record: Some(record),
            sequence,
            lba,
            blocks,
            bytes,
            sense,
        });
    }

    /// A start has found records damaged: their volumes fail. Where the
    /// volume cannot be told either, it may have been any.
    pub(super) fn fail_damaged(&mut self) {
        let damaged: Vec<(Option<VolumeId>, u64)> = self
            .log
            .damaged()
            .iter()
            .map(|damage| (damage.volume, damage.sequence))
            .collect();
        for key in self.volume_keys() {
            let id = super::log_volume(key);
            for &(of, sequence) in &damaged {
                if of.is_some_and(|of| of != id) || self.volume(key).failure.is_damaged() {
                    continue;
                }
                self.fail_whole(key, sequence);
            }
        }
        self.fail_marked();
    }

    /// The log was made from a journal that had been told to forget what an earlier log
    /// had lost.
    fn fail_marked(&mut self) {
        for key in self.volume_keys() {
            let row = self.log.volume(super::log_volume(key));
            let is_marked = row.is_some_and(|row| row.flags.contains(VolumeFlags::DAMAGED));
            if is_marked && !self.volume(key).failure.is_damaged() {
                self.fail_whole(key, 0);
            }
        }
    }

    /// Something of the volume is lost that might have been of any block.
    fn fail_whole(&mut self, key: VolumeKey, sequence: u64) {
        let volume = self.volume_mut(key);
        let blocks = volume.geometry.map_or(u64::MAX, |geometry| geometry.blocks);
        volume.failure.add(RefusedWrite {
            record: None,
            sequence,
            lba: 0,
            blocks,
            bytes: 0,
            sense: Sense::UNRECOVERED_READ_ERROR,
        });
        self.counters.volumes_failed += 1;
    }

    /// A start has made the log from the journal, and these writes could not be
    /// read there: they are as lost as if the storage had refused them. A
    /// later start meets their checksums in the log.
    pub fn fail_torn(&mut self, torn: &[Identity]) {
        if torn.is_empty() {
            return;
        }
        let names: BTreeSet<Identity> = torn.iter().copied().collect();
        let lost: Vec<RecordId> = self
            .log
            .records()
            .filter(|&id| names.contains(&entry_of(&self.log, id).identity))
            .collect();
        for RecordId(record) in lost {
            let key = VolumeKey(self.log.record(RecordId(record)).volume.0);
            self.counters.records_unsound += 1;
            self.flush.refuse_unsent(key.0, record);
            self.note_refused(key, record, Sense::UNRECOVERED_READ_ERROR);
        }
    }

    /// Who waits for the flush of a failed volume is told.
    fn end_what_waits(&mut self, key: VolumeKey) {
        if let Some(sense) = self.volume(key).failure.sense() {
            self.end_waiting(key, &sense);
            self.try_draining(key, usize::MAX);
        }
    }

    fn end_waiting(&mut self, key: VolumeKey, sense: &[u8]) {
        while let Some(task) = self.volume_mut(key).waiting.pop_front() {
            self.answer(task, ScsiStatus::CHECK_CONDITION, sense, 0);
            self.forget(task);
        }
    }

    /// The sense that a command of these blocks must end with now.
    pub(super) fn refused_over(&self, key: VolumeKey, access: Access) -> Option<[u8; SENSE_LEN]> {
        let failure = &self.volume(key).failure;
        failure.sense()?;
        match access {
            Access::Read { lba, blocks, .. } => failure.over(lba, u64::from(blocks)),
            Access::Write { fua: true, .. } | Access::Sync { .. } => failure.sense(),
            Access::Write { lba, blocks, .. } => {
                failure.over(lba, u64::from(blocks)).or_else(|| {
                    let waits =
                        self.volume(key).write_through || self.contract(key) == Durability::Storage;
                    let ends = waits || self.is_half_full();
                    ends.then(|| failure.sense()).flatten()
                })
            }
            Access::Range { lba, blocks, .. } => failure.over(lba, blocks),
            Access::None | Access::Medium => None,
        }
    }

    fn is_half_full(&self) -> bool {
        let room = self.log.room();
        room.segments_free * 2 < room.segments_total
    }

    /// The operator has the refused writes sent again, and the volume cached if
    /// it was not for want of space.
    pub(super) fn retry_refused(&mut self, key: VolumeKey) {
        self.set_write_through(key, false);
        let volume = self.volume_mut(key);
        volume.failure.clear();
        volume.retry_at = Time::ZERO;
        self.flush.retry_refused(key.0);
        self.ask_flush(key);
    }

    /// The operator throws the listed refusals away, as they were when he saw
    /// them: how many. `None`: others are listed now, or one is still being sent.
    pub(super) fn discard_refused(&mut self, key: VolumeKey, stamp: u64) -> Option<u32> {
        let volume = self.volume(key);
        // A stray write may still be sending a record's bytes.
        if volume.failure.stamp != stamp || volume.strays > 0 {
            return None;
        }
        let sense = sense::parse(&volume.failure.sense);
        let sense = sense.map_or(Sense::WRITE_ERROR, |found| found.sense);
        let mut discarded = 0;
        while let Some(RefusedWrite { record, .. }) = self.volume_mut(key).failure.listed.pop() {
            discarded += 1;
            let Some(record) = record else {
                self.log.discard_damaged(Some(super::log_volume(key)));
                self.set_flag(key, VolumeFlags::DAMAGED, false);
                continue;
            };
            assert!(
                self.flush.discard_refused(key.0, record),
                "what is listed is refused"
            );
            self.index.remove(record);
            let released = self.release_record(record);
            self.let_go(record, released);
        }
        self.volume_mut(key).failure.clear();
        if !self
            .volume_keys()
            .any(|key| self.volume(key).failure.is_damaged())
        {
            // It was every volume's; none misses it any more.
            self.log.discard_damaged(None);
        }
        // What had no place in the list has one now. The operator's command, not the worker's way.
        let left: Vec<u32> = self.flush.refused(key.0).collect();
        for record in left {
            self.list(key, record, sense);
        }
        self.counters.writes_discarded += u64::from(discarded);
        self.room_moved |= !self.held.is_empty();
        self.ask_flush(key);
        Some(discarded)
    }

    /// Whether plain writes are the storage's to acknowledge (C-4: it runs out
    /// of space). The log's directory knows it too.
    pub(super) fn set_write_through(&mut self, key: VolumeKey, through: bool) {
        if self.volume(key).write_through == through {
            return;
        }
        self.volume_mut(key).write_through = through;
        self.counters.thin_warnings += u64::from(through);
        self.set_flag(key, VolumeFlags::WRITE_THROUGH, through);
    }

    /// In the volume's row, which outlives the process.
    pub(super) fn set_flag(&mut self, key: VolumeKey, flag: VolumeFlags, on: bool) {
        let id = super::log_volume(key);
        let row = self
            .log
            .volume(id)
            .expect("a volume is a row of the directory");
        if row.flags.contains(flag) == on {
            return;
        }
        let mut row = row.clone();
        row.flags = if on {
            row.flags.with(flag)
        } else {
            row.flags.without(flag)
        };
        self.log
            .update_volume(id, row)
            .expect("a row of the same size");
        self.journal_row(RowTable::Volume, id.0);
    }

    /// A passing command would have to wait for the flush of a failed volume.
    pub(super) fn cannot_drain(&mut self, key: TaskKey, volume: VolumeKey) -> bool {
        let Some(sense) = self.volume(volume).failure.sense() else {
            return false;
        };
        self.give_up(key, ScsiStatus::CHECK_CONDITION, &sense);
        true
    }
}

//! The way of a write: room in the log, data to its place, a place in the
//! order of arrival, the index, the answer.

use std::time::Duration;

use sluice_hugepages::log::{RecordFlags, RecordId, WriteId};
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::cache::flush::Entry;
use sluice_proto::iscsi::{CommandEvent, TaskAttribute};
use sluice_proto::mutation::{Mutation, planted};
use sluice_proto::scsi::{Access, ScsiStatus, Sense};

use super::admit::Refusal;
use super::holding::{Deed, Standing};
use super::lan::SESSION_TASKS_MAX;
use super::relay::{Net, Relay};
use super::task::{LanKey, NexusKey, Task, TaskKey, VolumeKey, Work, WriteState, WriteTask};
use super::volume::Geometry;

/// Longest that an answer is held back when the log is full: seen by a computer
/// long before its 30 s are over (C-16), and by a flood of writes at once.
pub const DELAY_MAX: Duration = Duration::from_secs(1);

impl Relay {
    pub(super) fn plan_write(
        &self,
        geometry: Geometry,
        lba: u64,
        blocks: u32,
        fua: bool,
        command: &CommandEvent,
    ) -> Result<Work, Refusal> {
        if !geometry.has(lba, blocks) {
            return Err(Refusal::sense(Sense::LBA_OUT_OF_RANGE));
        }
        if blocks == 0 {
            return Err(Refusal::status(ScsiStatus::GOOD));
        }
        if command.expected_len > self.write_len_max {
            return Err(Refusal::sense(Sense::INVALID_FIELD_IN_CDB));
        }
        Ok(Work::Write(WriteTask {
            lba,
            blocks,
            len: command.expected_len,
            ordering: fua || command.attribute == TaskAttribute::Ordered,
            fua,
            // Replaced by `start_write` before anything else sees it.
            state: WriteState::Durable {
                sequence: 0,
                number: 0,
                passed: false,
            },
        }))
    }

    /// Gives the write room in the log, or lets it wait its turn for some.
    pub(super) fn start_write(&mut self, key: TaskKey) {
        let first = self.tasks[key.0].attribute == TaskAttribute::HeadOfQueue;
        if (first || !self.others_wait())
            && let Some(id) = self.reserve(key)
        {
            self.write_mut(key).state = WriteState::Landing(id);
            self.grant(key);
            return;
        }
        let nexus = self.tasks[key.0].nexus;
        match self.staging.take_for(nexus) {
            Some(page) => {
                self.counters.writes_held += 1;
                self.write_mut(key).state = WriteState::Held { page, received: 0 };
                if first {
                    self.held.push_front(key);
                } else {
                    self.held.push_back(key);
                }
                self.want_room();
            }
            None => {
                self.counters.busy_no_staging += 1;
                self.answer(key, ScsiStatus::BUSY, &[], 0);
                self.forget(key);
            }
        }
    }

    /// Whether the write's blocks lie within its volume, as far as that is known now.
    fn fits_volume(&mut self, key: TaskKey) -> bool {
        let volume = self.tasks[key.0].volume.expect("a write has a volume");
        let WriteTask { lba, blocks, .. } = *self.write_mut(key);
        let geometry = self.volume(volume).geometry;
        geometry.is_some_and(|of| of.has(lba, blocks))
    }

    /// Admits held writes in order, as far as the room goes.
    pub(super) fn admit_held(&mut self, net: &mut Net<'_>, now: Time) {
        self.room_moved = false;
        let mut at = 0;
        while let Some(&key) = self.held.get(at) {
            if self.is_over_share(key) {
                at += 1;
                continue;
            }
            if !self.fits_volume(key) {
                // It is smaller than when the write came, or that is being asked for.
                let volume = self.tasks[key.0].volume.expect("a write has a volume");
                if self.volume(volume).waits_for_storage() {
                    at += 1;
                } else {
                    let sense = Sense::LBA_OUT_OF_RANGE.fixed();
                    self.give_up(key, ScsiStatus::CHECK_CONDITION, &sense);
                }
                continue;
            }
            let Some(id) = self.reserve(key) else {
                self.want_room();
                return;
            };
            self.held.remove(at);
            self.tasks[key.0].moved = now;
            let WriteState::Held { page, received } = self.write_mut(key).state else {
                unreachable!("only held writes are in the list of held writes")
            };
            // The one more copy that back-pressure costs: staging to log.
            self.log
                .append(id, &self.staging.bytes(net.pool, page)[..received as usize]);
            self.staging.give(page);
            self.write_mut(key).state = WriteState::Landing(id);
            if received == self.write_mut(key).len {
                self.commit_write(now, key);
            } else {
                self.grant(key);
            }
        }
    }

    /// The write's data is complete: it takes its place in the order of arrival
    /// and is answered, unless a passing command touches the same blocks.
    pub(super) fn commit_write(&mut self, now: Time, key: TaskKey) {
        let volume_key = self.tasks[key.0].volume.expect("a write has a volume");
        let WriteTask {
            lba,
            blocks,
            len,
            ordering,
            fua,
            ref state,
        } = *self.write_mut(key);
        let (id, waited) = match *state {
            WriteState::Landing(id) => (id, false),
            WriteState::Dormant(id) => (id, false),
            WriteState::Behind(id) => (id, true),
            // All its data came unasked, and it still waits for room.
            WriteState::Held { .. } => return,
            WriteState::Delayed | WriteState::Journal { .. } | WriteState::Durable { .. } => {
                unreachable!("a write is committed once")
            }
        };
        if self.is_blocked(key) {
            self.write_mut(key).state = WriteState::Dormant(id);
            return;
        }
        let nexus = self.tasks[key.0].nexus;
        let standing = self.standing(volume_key, nexus, Deed::Write);
        let volume = self.volumes[usize::from(volume_key.0)]
            .as_mut()
            .expect("the task's volume");
        if volume.barrier_over(lba, u64::from(blocks)) || standing == Standing::Unread {
            if !waited {
                volume.behind.push_back(key);
                self.counters.writes_behind += 1;
                self.write_mut(key).state = WriteState::Behind(id);
            }
            return;
        }
        match standing {
            Standing::Free | Standing::Unread => {}
            Standing::Barred => return self.give_up(key, ScsiStatus::RESERVATION_CONFLICT, &[]),
            // Sent again, it is the storage's to judge.
            Standing::Unclear => return self.give_up(key, ScsiStatus::BUSY, &[]),
        }
        if let Some(sense) = volume.refusal {
            return self.give_up(key, ScsiStatus::CHECK_CONDITION, &sense);
        }
        if volume.misfit {
            let sense = Sense::INTERNAL_TARGET_FAILURE.fixed();
            return self.give_up(key, ScsiStatus::CHECK_CONDITION, &sense);
        }
        if !self.fits_volume(key) {
            let sense = Sense::LBA_OUT_OF_RANGE.fixed();
            return self.give_up(key, ScsiStatus::CHECK_CONDITION, &sense);
        }
        if let Some(sense) = self.refused_over(volume_key, Access::Write { lba, blocks, fua }) {
            return self.give_up(key, ScsiStatus::CHECK_CONDITION, &sense);
        }
        let volume = self.volumes[usize::from(volume_key.0)]
            .as_mut()
            .expect("the task's volume");
        // Too long to pass, it goes by the log, and is answered when it is durable.
        let through = volume.write_through;
        let contract = self.contract(volume_key);
        let clean = self.flush.records(volume_key.0) == 0;
        let clean = clean && self.journal_has(self.volume(volume_key).freed.last());
        let volume = self.volume_mut(volume_key);
        if clean {
            volume.dirty_since = now;
        }
        if ordering {
            volume.close_epoch();
        }
        let sequence = volume.take_sequence();
        let flags = if ordering {
            RecordFlags::ORDERING_POINT
        } else {
            RecordFlags::NONE
        };
        self.nexuses[nexus.0].unfinished -= u64::from(len);
        self.room_moved |= !self.held.is_empty();
        let volume = self.volumes[usize::from(volume_key.0)]
            .as_mut()
            .expect("the task's volume");
        let parts = self.log.commit(id, volume.epoch, sequence, flags);
        let (block_len, epoch) = (volume.block_len(), volume.epoch);
        if ordering {
            volume.close_epoch();
        }
        volume.bytes_written += u64::from(len);
        volume.writes += 1;
        // Before what they hide is freed: a replay must find the one or the other.
        if !planted(Mutation::FreeBeforeHidingWrite) {
            self.journal_write(volume_key, &parts);
        }
        for &part in &parts {
            let (lba, len) = {
                let record = self.log.record(part);
                (record.lba, record.len)
            };
            let blocks = len / block_len;
            let record = part.0;
            let entry = Entry {
                record,
                lba,
                blocks,
                epoch,
                sequence,
                bytes: len,
                arrived: now,
                maybe_sent: false,
            };
            self.place(volume_key, entry);
        }
        if planted(Mutation::FreeBeforeHidingWrite) {
            self.journal_write(volume_key, &parts);
        }
        let by_journal = contract == Durability::Journal && !through;
        if by_journal || fua || through || contract == Durability::Storage {
            if let Some((lan, _)) = self.tasks[key.0].lan {
                self.leave_line(lan, key);
            }
            if by_journal {
                self.write_mut(key).state = WriteState::Journal { sequence };
                self.await_journal(key, volume_key);
            } else {
                let number = self.volume(volume_key).journalled;
                self.write_mut(key).state = WriteState::Durable {
                    sequence,
                    number,
                    passed: false,
                };
                self.volume_mut(volume_key).waiting.push_back(key);
                self.ask_flush(volume_key);
            }
        } else {
            self.answer_in_time(now, key, volume_key);
        }
        self.flush_volume(now, volume_key);
    }

    /// Answers a write that is in the log: at once, or the later the fuller the
    /// log is with writes of volumes above their threshold.
    pub(super) fn answer_in_time(&mut self, now: Time, key: TaskKey, volume: VolumeKey) {
        let delay = self.pressure.delay(self.pressing_bytes(volume));
        let len = self.write_mut(key).len;
        let Some((lan, _)) = self.tasks[key.0].lan.filter(|_| !delay.is_zero()) else {
            self.answer(key, ScsiStatus::GOOD, &[], len);
            return self.forget(key);
        };
        self.counters.writes_delayed += 1;
        self.write_mut(key).state = WriteState::Delayed;
        self.lans[lan.0].slowed = Some(volume);
        self.leave_line(lan, key);
        // Answers keep their order, and the list its: none waits longer than the longest delay.
        let last = self.delayed.back().map_or(now, |&(until, _)| until);
        self.delayed.push_back(((now + delay).max(last), key));
    }

    /// Answers what was held back long enough.
    pub(super) fn answer_delayed(&mut self, now: Time) {
        while let Some(&(until, key)) = self.delayed.front()
            && until <= now
        {
            self.delayed.pop_front();
            let len = self.write_mut(key).len;
            self.answer(key, ScsiStatus::GOOD, &[], len);
            self.forget(key);
        }
    }

    /// How much of the log is taken, as far as the volume has to do with it.
    fn pressing_bytes(&self, volume: VolumeKey) -> u64 {
        let dirty = self.flush.dirty_bytes(volume.0);
        if dirty <= self.volume(volume).policy.threshold_bytes {
            return 0;
        }
        let room = self.log.room();
        let segment_len = room.bytes_total / room.segments_total.max(1) as u64;
        (room.segments_total - room.segments_free) as u64 * segment_len
    }

    /// The command window of a session whose writes are answered late.
    pub(super) fn narrow_window(&mut self, lan: LanKey) {
        let Some(volume) = self.lans.get(lan.0).and_then(|lan| lan.slowed) else {
            return;
        };
        let widest = u16::try_from(SESSION_TASKS_MAX).expect("a small number");
        let window = self.pressure.window(self.pressing_bytes(volume), widest);
        let session = &mut self.lans[lan.0];
        session.conn.set_command_window(window);
        if window == widest {
            session.slowed = None;
        }
    }

    /// The session's unfinished writes have as much of the log as it may hold
    /// without filling it. One is always let in.
    fn is_over_share(&self, key: TaskKey) -> bool {
        let Task {
            nexus,
            expected_len,
            ..
        } = self.tasks[key.0];
        self.would_exceed_share(nexus, expected_len)
    }

    fn would_exceed_share(&self, nexus: NexusKey, len: u32) -> bool {
        let unfinished = self.nexuses[nexus.0].unfinished;
        unfinished > 0 && unfinished + u64::from(len) > self.unfinished_max
    }

    /// Writes wait for room that are not waiting for their session's own.
    fn others_wait(&self) -> bool {
        self.held.iter().any(|&key| !self.is_over_share(key))
    }

    /// Room that a write had reserved is free again.
    pub(super) fn give_room(&mut self, key: TaskKey, id: WriteId) {
        let Task {
            nexus,
            expected_len,
            ..
        } = self.tasks[key.0];
        self.log.abort(id);
        self.nexuses[nexus.0].unfinished -= u64::from(expected_len);
        self.room_moved |= !self.held.is_empty();
    }

    /// Commits what waited behind a passing command, in order of completion.
    pub(super) fn commit_behind(&mut self, now: Time, volume: VolumeKey) {
        for _ in 0..self.volume(volume).behind.len() {
            let Some(key) = self.volume_mut(volume).behind.pop_front() else {
                return;
            };
            let write = self.write_mut(key);
            let (lba, blocks) = (write.lba, u64::from(write.blocks));
            let nexus = self.tasks[key.0].nexus;
            let unread = self.standing(volume, nexus, Deed::Write) == Standing::Unread;
            if unread || self.volume(volume).barrier_over(lba, blocks) {
                self.volume_mut(volume).behind.push_back(key);
            } else {
                self.commit_write(now, key);
            }
        }
    }

    /// Puts a record at the end of its volume's queue, and makes it the newest copy of
    /// its blocks. What it hides whole, of its own epoch and not under way, is never
    /// sent.
    fn place(&mut self, volume: VolumeKey, entry: Entry) {
        // A stray write may still be sending a record's bytes; and where the storage
        // acknowledges, each write's own blocks are to be durable there.
        let kept = self.contract(volume) != Durability::Storage;
        let state = self.volume(volume);
        let whole = kept && state.strays == 0 && !state.write_through;
        let Self {
            index, superseded, ..
        } = self;
        let Entry {
            lba,
            blocks,
            record,
            ..
        } = entry;
        let overlaps = index.insert_with(volume.0, lba, blocks, record, |hidden| {
            superseded.push(hidden)
        });
        self.flush.push(volume.0, entry, overlaps);
        while let Some(hidden) = self.superseded.pop() {
            if whole && self.flush.supersede(hidden, record) {
                // What was promised of it is this one's to keep, answered or not.
                let hidden_sequence = self.log.record(RecordId(hidden)).sequence;
                if hidden_sequence <= self.volume(volume).kept_through {
                    self.promise_through(volume, entry.sequence);
                }
                self.give_up_hidden(volume, hidden);
            }
        }
    }

    /// A record that has left the flush queue without having been sent: something
    /// newer is what its blocks hold.
    pub(super) fn give_up_hidden(&mut self, volume: VolumeKey, record: u32) {
        self.counters.records_superseded += 1;
        let len = self.log.record(RecordId(record)).len;
        self.volume_mut(volume).bytes_superseded += u64::from(len);
        self.index.remove(record);
        let released = self.release_record(record);
        self.let_go(record, released);
    }

    fn reserve(&mut self, key: TaskKey) -> Option<WriteId> {
        let Task { nexus, volume, .. } = self.tasks[key.0];
        let volume = volume.expect("a write has a volume");
        let WriteTask { lba, len, .. } = *self.write_mut(key);
        self.take_room(volume, nexus, lba, (len, len))
    }

    /// Room in the log for whole blocks at `lba`, for so many bytes of a command's
    /// data: [`Relay::give_room`] gives it back.
    pub(super) fn take_room(
        &mut self,
        volume: VolumeKey,
        nexus: NexusKey,
        lba: u64,
        (room_len, data_len): (u32, u32),
    ) -> Option<WriteId> {
        let no_room = self.log.room().segments_free <= self.margin_segments;
        if no_room || self.would_exceed_share(nexus, data_len) {
            return None;
        }
        let volume = super::log_volume(volume);
        let id = self.log.reserve(volume, lba, room_len).ok()?;
        self.nexuses[nexus.0].unfinished += u64::from(data_len);
        Some(id)
    }

    /// Asks the computer for the data that did not come with the command.
    fn grant(&mut self, key: TaskKey) {
        if let Some((lan, number)) = self.tasks[key.0].lan {
            self.lans[lan.0].conn.grant(number);
            self.touch_lan(lan);
        }
    }

    /// The log is short: every volume that has something to give back is flushed now.
    fn want_room(&mut self) {
        for volume in self.volume_keys() {
            if self.flush.records(volume.0) > 0 {
                self.ask_flush(volume);
            }
        }
    }

    pub(super) fn write_mut(&mut self, key: TaskKey) -> &mut WriteTask {
        match &mut self.tasks[key.0].work {
            Work::Write(write) => write,
            _ => unreachable!("the caller knows the task for a write"),
        }
    }
}

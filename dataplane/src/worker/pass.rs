//! SYNCHRONIZE CACHE, and commands that pass through to the storage.
//!
//! What a passing command touches is flushed first; while it is out, writes to
//! the same blocks complete but take no place in the log, and the flush
//! queue keeps later epochs behind what it changes.

use arrayvec::ArrayVec;
use sluice_hugepages::log::WriteId;
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::cache::flush::Epochs;
use sluice_proto::iscsi::{CommandEvent, Residual, TaskAttribute};
use sluice_proto::scsi::capacity::VOLUME_BYTES_MAX;
use sluice_proto::scsi::identity::Identity;
use sluice_proto::scsi::mode::ModeSense;
use sluice_proto::scsi::reservation::Change;
use sluice_proto::scsi::{Access, ScsiStatus, Sense, lun_number, sense, vpd};

use super::admit::Refusal;
use super::relay::{Net, Relay};
use super::staging::{STAGE_LEN, StagePage};
use super::task::{
    LetGo, NexusKey, PASS_BYTES_MAX, PASS_PAGES_MAX, PassTask, SyncTask, Task, TaskKey, VolumeKey,
    Work, WriteState, WriteTask,
};
use super::wan::Ended;
use super::writable::{may_change, may_resize};

/// A range wider than this waits until the whole volume is drained: looking
/// each of its granules up would cost more than the flush it spares.
const RANGE_BLOCKS_MAX: u64 = 64 * 1024;

impl Relay {
    pub(super) fn plan_sync(&mut self, volume: VolumeKey, immed: bool) -> Work {
        let state = self.volume_mut(volume);
        state.close_epoch();
        Work::Sync(SyncTask {
            through: state.next_sequence - 1,
            number: state.journalled,
            immed,
        })
    }

    /// Answers a SYNCHRONIZE CACHE: at once if it asks for that, else when all before it,
    /// what passed through included, is on stable media (C-2): the journal's, or the
    /// storage's by the flusher's own SYNCHRONIZE CACHE, so no second one is sent.
    pub(super) fn start_sync(&mut self, key: TaskKey) {
        let volume = self.tasks[key.0].volume.expect("a sync has a volume");
        let Work::Sync(sync) = &self.tasks[key.0].work else {
            unreachable!("the caller knows the task for a sync")
        };
        let (through, number, immed) = (sync.through, sync.number, sync.immed);
        let failed = self.volume(volume).failure.sense();
        if let Some(sense) = failed {
            self.answer(key, ScsiStatus::CHECK_CONDITION, &sense, 0);
            self.forget(key);
        } else if let Some(sense) = self.volume_mut(volume).failure.passed.take() {
            self.answer(key, ScsiStatus::CHECK_CONDITION, &sense.fixed(), 0);
            self.forget(key);
        } else if immed {
            self.ask_flush(volume);
            self.answer(key, ScsiStatus::GOOD, &[], 0);
            self.forget(key);
        } else if self.may_answer(volume, through, number, true) {
            self.promise_through(volume, through);
            self.answer(key, ScsiStatus::GOOD, &[], 0);
            self.forget(key);
        } else {
            self.volume_mut(volume).waiting.push_back(key);
            if self.contract(volume) != Durability::Journal
                || self.is_voiding()
                || self.flush.passed_unsynced(volume.0)
            {
                self.ask_flush(volume);
            }
        }
    }

    pub(super) fn plan_pass(
        &mut self,
        volume: Option<VolumeKey>,
        access: Access,
        nexus: NexusKey,
        command: &CommandEvent,
    ) -> Result<Work, Refusal> {
        let geometry = volume.and_then(|volume| self.volume(volume).geometry);
        // Beyond the end as it is known, which may be another by now, there may be blocks.
        let is_resizing = volume.is_some_and(|volume| self.volume(volume).waits_for_storage());
        let blocks_max = geometry.map_or(0, |geometry| match is_resizing {
            true => VOLUME_BYTES_MAX / u64::from(geometry.block_len),
            false => geometry.blocks,
        });
        let barrier = match access {
            Access::None => None,
            // Beyond the volume: the storage refuses it, whatever it is.
            _ if access.check(blocks_max).is_err() => Some(Access::Medium),
            // Transfer lengths that do not fit the blocks: the storage judges them.
            Access::Read { lba, blocks, .. } => Some(range(lba, u64::from(blocks), false)),
            Access::Write { lba, blocks, .. } => Some(range(lba, u64::from(blocks), true)),
            Access::Range { .. } => Some(access),
            Access::Medium if Change::from_cdb(&command.cdb).is_some() => {
                volume.map(|volume| self.whole(volume))
            }
            Access::Sync { .. } | Access::Medium => Some(Access::Medium),
        };
        let len = command.expected_len as usize;
        let read_len = match (command.read, command.write) {
            (true, true) => command.bidirectional_read_len,
            (true, false) => command.expected_len,
            (false, _) => 0,
        };
        let out_len = if command.write { len } else { 0 };
        let pages_max = PASS_PAGES_MAX.min(self.staging.share());
        let pages_in = (read_len as usize).div_ceil(STAGE_LEN);
        let pages_out = out_len.div_ceil(STAGE_LEN);
        let on_blocks = matches!(
            access,
            Access::Read { .. } | Access::Write { .. } | Access::Range { .. }
        );
        let long = volume.filter(|_| on_blocks && pages_out + pages_in > pages_max);
        let pages_out = if long.is_some() { 0 } else { pages_out };
        let pages_needed = pages_out + pages_in;
        if pages_needed > pages_max {
            return Err(Refusal::sense(Sense::INVALID_FIELD_IN_CDB));
        }
        let mut pages = ArrayVec::new();
        while pages.len() < pages_needed {
            match self.staging.take_for(nexus) {
                Some(page) => pages.push(page),
                None => {
                    for page in pages {
                        self.staging.give(page);
                    }
                    self.counters.busy_no_staging += 1;
                    return Err(Refusal::status(ScsiStatus::BUSY));
                }
            }
        }
        let room = match long.map(|volume| self.room_to_pass(volume, nexus, command.expected_len)) {
            None => None,
            Some(Ok(room)) => Some(room),
            Some(Err(refusal)) => {
                for page in pages {
                    self.staging.give(page);
                }
                return Err(refusal);
            }
        };
        Ok(Work::Pass(PassTask {
            read: command.read,
            write: command.write,
            pages,
            pages_out,
            room,
            read_len,
            landed: 0,
            transferred: 0,
            data_complete: !command.write || len == 0,
            barrier: volume.and(barrier),
            since: 0,
            freed: None,
            passing: false,
            settling: None,
            asked: None,
            losses: 0,
            aborting: false,
            released_for: None,
        }))
    }

    /// Room in the log for data-out that no staging pages hold. It is read there
    /// on its way to the storage and given back; a crash leaves nothing of it.
    fn room_to_pass(
        &mut self,
        volume: VolumeKey,
        nexus: NexusKey,
        len: u32,
    ) -> Result<WriteId, Refusal> {
        let geometry = self.volume(volume).geometry.expect("a known volume");
        // COMPARE AND WRITE and the like bring more than their blocks: the room is
        // taken in the volume's name, not at a place of it.
        let whole = len.checked_next_multiple_of(geometry.block_len);
        let whole = whole.filter(|&whole| {
            let blocks = u64::from(whole / geometry.block_len);
            whole <= self.write_len_max && blocks <= geometry.blocks
        });
        let Some(whole) = whole else {
            return Err(Refusal::sense(Sense::INVALID_FIELD_IN_CDB));
        };
        let room = self.take_room(volume, nexus, 0, (whole, len));
        room.ok_or_else(|| {
            self.counters.busy_no_staging += 1;
            Refusal::status(ScsiStatus::BUSY)
        })
    }

    pub(super) fn start_pass(&mut self, key: TaskKey) {
        if let (Some(volume), Some(barrier)) =
            (self.tasks[key.0].volume, self.pass_mut(key).barrier)
        {
            self.pass_mut(key).since = self.volume(volume).epoch;
            self.volume_mut(volume).barriers.push((key, barrier));
        }
        if !self.pass_mut(key).data_complete
            && let Some((lan, number)) = self.tasks[key.0].lan
        {
            self.lans[lan.0].conn.grant(number);
            self.touch_lan(lan);
        }
        self.continue_pass(key);
    }

    /// Sends the command on if its data is here and its blocks are clean.
    pub(super) fn continue_pass(&mut self, key: TaskKey) {
        let Task {
            volume, dormant, ..
        } = self.tasks[key.0];
        let pass = self.pass_mut(key);
        if pass.passing || !pass.data_complete || dormant {
            return;
        }
        let (barrier, since) = (pass.barrier, pass.since);
        if let (Some(volume), Some(barrier)) = (volume, barrier) {
            let epochs = Epochs {
                since,
                open: self.volume(volume).epoch,
            };
            let held = self.holds(key, volume, barrier);
            let is_clean = if held {
                !self.is_pinned(volume, barrier)
            } else {
                self.is_clean(volume, barrier)
            };
            let token = token_of(key);
            if !is_clean
                || !self.is_freed(key, volume, barrier, held)
                || self.flush.pass(volume.0, token, barrier, epochs).is_err()
            {
                if self.cannot_drain(key, volume) {
                    return;
                }
                if !self.volume(volume).draining.contains(&key) {
                    self.volume_mut(volume).draining.push_back(key);
                }
                return self.ask_flush(volume);
            }
            self.volume_mut(volume).draining.retain(|&task| task != key);
        }
        self.reservation_passes(key);
        self.pass_mut(key).passing = true;
        self.counters.commands_passed += 1;
        let nexus = self.tasks[key.0].nexus;
        self.want(nexus, key);
    }

    /// No record overlaps the blocks, not even one already durable that a read
    /// still pins: it would be laid over what the command changes.
    fn is_clean(&self, volume: VolumeKey, barrier: Access) -> bool {
        match barrier {
            Access::Range { lba, blocks, .. } if blocks <= RANGE_BLOCKS_MAX => {
                let blocks = u32::try_from(blocks).expect("RANGE_BLOCKS_MAX fits");
                !self.index.overlaps(volume.0, lba, blocks)
            }
            _ => self.flush.records(volume.0) == 0 && self.volume(volume).durable.is_empty(),
        }
    }

    /// Nothing of the blocks, which are clean, can come back by a replay of the
    /// journal over what the command changes, or lets others change; nor, beside it,
    /// anything of an epoch before the one that it began in.
    fn is_freed(&mut self, key: TaskKey, volume: VolumeKey, barrier: Access, held: bool) -> bool {
        if self.journal.is_none() {
            return true;
        }
        let since = self.pass_mut(key).since;
        let drained = self
            .flush
            .drain_point(volume.0, token_of(key), barrier, since);
        if drained.is_some() {
            return false;
        }
        let reserves = Change::from_cdb(&self.tasks[key.0].cdb).is_some();
        let changes = !matches!(barrier, Access::Range { changes: false, .. });
        let number = match self.pass_mut(key).freed {
            // While it waited for others what it held back may have been sent, and be
            // released since. Who reserves keeps every write of the volume back.
            Some(known) if known.held == held || reserves || !changes => known.number,
            // That it may be reserved is to be found by a replay, too.
            _ if reserves => {
                self.mark_reserved(volume, true);
                self.journal_made()
            }
            _ => self.volume(volume).freed.last(),
        };
        self.pass_mut(key).freed = Some(LetGo { number, held });
        self.journal_has(number)
    }

    /// A passing command leaves its volume: answered, given up, or lost.
    pub(super) fn end_pass(&mut self, key: TaskKey) {
        let Some(volume) = self.tasks[key.0].volume else {
            return;
        };
        let pass = self.pass_mut(key);
        if std::mem::take(&mut pass.passing) && pass.barrier.is_some() {
            self.flush.passed(volume.0, token_of(key));
            if self.tasks[key.0].attribute == TaskAttribute::Ordered {
                // What follows it stays behind the sync of what it changed.
                self.volume_mut(volume).close_epoch();
            }
        }
        self.flush.release_hold(volume.0, token_of(key));
        let state = self.volume_mut(volume);
        state.settling.take_if(|&mut task| task == key);
        state.barriers.retain(|&(task, _)| task != key);
        state.draining.retain(|&task| task != key);
    }

    /// The storage has answered a command that passed.
    pub(super) fn pass_answered(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        key: TaskKey,
        ended: Ended<'_>,
    ) {
        let lost = Sense::COMMUNICATION_FAILURE.fixed();
        let ended = match ended.status {
            ScsiStatus::GOOD if self.is_overtaken(key) => Ended::lost(&lost),
            _ => ended,
        };
        let Ended {
            status,
            residual,
            sense,
        } = ended;
        self.heed_passed(net, now, key, status, sense);
        // GOOD of a part leaves it open which blocks keep what they held.
        let settles =
            status == ScsiStatus::GOOD && residual == Residual::None && self.may_settle(key);
        if !settles {
            self.end_pass(key);
        }
        let pass = self.pass_mut(key);
        pass.asked = None;
        let mut pages = std::mem::take(&mut pass.pages);
        let transferred = if ended.counts() { pass.transferred } else { 0 };
        let read = pass.read && !pass.write;
        let (pages_out, room) = (pass.pages_out, pass.room.take());
        for page in pages.drain(..pages_out) {
            self.staging.give(page);
        }
        if let Some(room) = room {
            self.give_room(key, room);
        }
        let stand_in = pages
            .first()
            .and_then(|&first| self.stand_in_for_caching_page(net, key, first, status, sense));
        let (status, sense, residual, transferred) = match stand_in {
            Some(len) => (ScsiStatus::GOOD, &[][..], Residual::None, len),
            None => (status, sense, residual, transferred),
        };
        let has_data_in = transferred > 0;
        let (transferred, own_len) = match pages.first() {
            Some(&first) if has_data_in => self.present_own(net, key, first, transferred),
            _ => (transferred, None),
        };
        let expected_len = self.tasks[key.0].expected_len;
        // A command may give data and a status that is not GOOD; the data counts as far as it came.
        let delivered = has_data_in && self.deliver_pass(net, key, &pages, transferred);
        if !delivered {
            for page in pages {
                self.staging.give(page);
            }
        }
        // The storage's residual is the computer's too (RFC 7143 11.4.5): both
        // expected the same. Of data-in, what was handed over is what counts.
        let moved = match (read, residual, own_len) {
            (true, ..) if !delivered && has_data_in => 0,
            (true, _, Some(own_len)) => own_len,
            (true, Residual::Overflow(more), None) => transferred.saturating_add(more),
            (true, _, None) => transferred,
            (false, Residual::Overflow(more), _) => expected_len.saturating_add(more),
            (false, Residual::Underflow(less), _) => expected_len.saturating_sub(less),
            (false, Residual::None, _) => expected_len,
        };
        let task = &self.tasks[key.0];
        let (volume, cdb, nexus) = (task.volume, task.cdb, task.nexus);
        self.release_answered(key, status, sense);
        if settles {
            self.begin_to_settle(now, key, moved);
        } else if status != ScsiStatus::GOOD || !self.wait_for_media(key, moved) {
            self.answer(key, status, sense, moved);
            self.forget(key);
        }
        if let Some(volume) = volume {
            if may_change(&cdb) {
                // Its write cache may be on now: a needless SYNCHRONIZE CACHE loses nothing.
                self.volume_mut(volume).storage_wce = true;
                self.doubt(now, volume);
                if may_resize(&cdb) {
                    // The computer that did it is told nothing of it (SBC-4 4.10).
                    self.probe_again(now, nexus);
                }
            }
            let state = self.volume_mut(volume);
            state.sync_passed_at = now + state.policy.left_alone_max();
            self.commit_behind(now, volume);
            self.release_durable(net, now, volume);
        }
        self.feed_starved(net);
    }

    /// A write that the storage was left to judge is answered when a SYNCHRONIZE
    /// CACHE of the flusher has covered it, as any other, if it is with FUA or the
    /// contract promises more than memory (C-2).
    fn wait_for_media(&mut self, key: TaskKey, moved: u32) -> bool {
        let task = &self.tasks[key.0];
        let (Some((lba, blocks, fua)), Some(volume)) = (task.passing_write(), task.volume) else {
            return false;
        };
        if !self.awaits_media(key) {
            return false;
        }
        if let Some(sense) = self.volume(volume).failure.sense() {
            self.answer(key, ScsiStatus::CHECK_CONDITION, &sense, 0);
            self.forget(key);
            return true;
        }
        let sequence = self.volume(volume).next_sequence - 1;
        let number = self.volume(volume).journalled;
        self.tasks[key.0].work = Work::Write(WriteTask {
            lba,
            blocks,
            len: moved,
            ordering: fua,
            fua,
            state: WriteState::Durable {
                sequence,
                number,
                passed: true,
            },
        });
        self.volume_mut(volume).waiting.push_back(key);
        self.ask_flush(volume);
        true
    }

    /// Whether it is such a write.
    pub(super) fn awaits_media(&self, key: TaskKey) -> bool {
        let task = &self.tasks[key.0];
        let (Some((_, _, fua)), Some(volume), Some(_)) =
            (task.passing_write(), task.volume, task.lan)
        else {
            return false;
        };
        fua || self.contract(volume) != Durability::Memory
    }

    /// A storage without a Caching mode page is answered for: a computer that finds none
    /// takes every write for durable (C-1). The length of the answer, which is in the page.
    fn stand_in_for_caching_page(
        &mut self,
        net: &mut Net<'_>,
        key: TaskKey,
        page: StagePage,
        status: ScsiStatus,
        sense: &[u8],
    ) -> Option<u32> {
        let task = &self.tasks[key.0];
        task.volume?;
        let refused = status == ScsiStatus::CHECK_CONDITION
            && sense::parse(sense).is_some_and(|received| {
                matches!(
                    received.sense,
                    Sense::INVALID_FIELD_IN_CDB | Sense::INVALID_COMMAND_OPERATION_CODE
                )
            });
        let mode = ModeSense::from_cdb(&task.cdb).filter(|_| refused)?;
        let mut answer = mode.caching_page_answer()?;
        answer.truncate(task.expected_len as usize);
        self.staging.bytes_mut(net.pool, page)[..answer.len()].copy_from_slice(&answer);
        u32::try_from(answer.len()).ok()
    }

    /// What the answer says that is the relay's to say: what the unit is (C-15), and
    /// that it caches (C-1). How long the answer is now.
    fn present_own(
        &mut self,
        net: &mut Net<'_>,
        key: TaskKey,
        page: StagePage,
        transferred: u32,
    ) -> (u32, Option<u32>) {
        let task = &self.tasks[key.0];
        let room = (task.expected_len as usize).min(STAGE_LEN);
        let received = transferred as usize;
        if received > room {
            return (transferred, None);
        }
        let len = |bytes: usize| u32::try_from(bytes).expect("a page of data");
        if let (Some(mode), Some(_)) = (ModeSense::from_cdb(&task.cdb), task.volume) {
            let data = &mut self.staging.bytes_mut(net.pool, page)[..room];
            let added = mode.add_caching_page(data, received);
            return (added.map_or(transferred, len), added.map(len));
        }
        let Some(identity) = self.own_identity(task.nexus, task.lun) else {
            return (transferred, None);
        };
        let data = &mut self.staging.bytes_mut(net.pool, page)[..room];
        let presented = identity.present(&task.cdb, data, received);
        (len(presented.len), presented.own_len.map(len))
    }

    pub(super) fn own_identity(&self, nexus: NexusKey, lun: u64) -> Option<Identity> {
        let target = &self.config.targets[self.nexuses[nexus.0].target];
        // One unit whatever addressing method names it.
        let lun = lun_number(lun).map_or(lun, |number| number << 48);
        target.own_identity.then(|| {
            let storage = target.address.to_string();
            Identity::of(&target.name, &storage, lun)
        })
    }

    /// Hands passed-through data to the session, told truthfully: where a
    /// caching mode page or block limits pass, they say what holds for the relay (C-1).
    /// False if nobody takes it.
    fn deliver_pass(
        &mut self,
        net: &mut Net<'_>,
        key: TaskKey,
        pages: &[StagePage],
        transferred: u32,
    ) -> bool {
        let task = &self.tasks[key.0];
        let (Some((lan, number)), Some(&first)) = (task.lan, pages.first()) else {
            return false;
        };
        let len = (transferred as usize).min(STAGE_LEN);
        let data = &mut self.staging.bytes_mut(net.pool, first)[..len];
        if self
            .find_volume(self.nexuses[task.nexus.0].target, task.lun)
            .is_none()
        {
            // Not cached, it has no room in the log: all goes by staging pages. Its
            // block length was not asked for; the longest there is makes no false promise.
            if vpd::requested_page(&task.cdb) == Some(vpd::BLOCK_LIMITS) {
                let bytes_max = u32::try_from(PASS_BYTES_MAX).expect("1 MiB");
                vpd::cap_block_limits(data, 4096, bytes_max);
            }
        } else if let Some(volume) = task.volume {
            if let Some(mode) = ModeSense::from_cdb(&task.cdb) {
                mode.report_relay_cache(data);
            } else if vpd::requested_page(&task.cdb) == Some(vpd::BLOCK_LIMITS) {
                let block_len = self.volumes[usize::from(volume.0)]
                    .as_ref()
                    .map_or(512, |volume| volume.block_len());
                vpd::cap_block_limits(data, block_len, self.write_len_max);
            }
        }
        let session = &mut self.lans[lan.0];
        let mut at = 0;
        for &page in pages {
            let len = (transferred - at).min(u32::try_from(STAGE_LEN).expect("64 KiB"));
            if len == 0 {
                self.staging.give(page);
                continue;
            }
            session
                .conn
                .data_in(number, u64::from(page.number()), 0, at, len)
                .expect("a session's share of pages is no more than its queue holds");
            session.pages_out.push(page);
            at += len;
        }
        true
    }

    pub(super) fn pass_mut(&mut self, key: TaskKey) -> &mut PassTask {
        match &mut self.tasks[key.0].work {
            Work::Pass(pass) => pass,
            _ => unreachable!("the caller knows the task for a passing command"),
        }
    }
}

/// A passing command's name in the flush queue.
pub(super) fn token_of(TaskKey(key): TaskKey) -> u32 {
    u32::try_from(key).expect("tasks are numbered in 32 bits")
}

const fn range(lba: u64, blocks: u64, changes: bool) -> Access {
    Access::Range {
        lba,
        blocks,
        changes,
    }
}

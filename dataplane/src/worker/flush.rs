//! Flushing: records go to the storage in the flush queue's order and leave
//! the log when they are durable there.
//!
//! This room only carries: what may be sent, and what is durable, is the flush
//! queue's to say, and whether now is the time its gate's.

use std::time::Duration;

use sluice_hugepages::log::RecordId;
use sluice_proto::Time;
use sluice_proto::cache::flush::policy::{Pace, VolumeView};
use sluice_proto::cache::flush::{FlushAction, FlushLimits, Outcome, WRITES_IN_FLIGHT_MAX};
use sluice_proto::iscsi::{Command, Direction, TaskAttribute};
use sluice_proto::mutation::{Mutation, planted};
use sluice_proto::scsi::{ScsiStatus, Sense, SenseKey, cdb, sense};

use super::failure::{Verdict, is_sound, verdict};
use super::fence::ATTEMPTS_BEFORE_RESET;
use super::flight::Flight;
use super::pass::token_of;
use super::relay::{Net, Relay};
use super::task::{NexusKey, VolumeKey, WanKind, WanTask, Work, WriteState, WriteTask};
use super::volume::Retired;
use super::wan::Ended;

/// Commands of a session's window that the flush leaves to reads and to what passes.
const WINDOW_FOR_OTHERS: usize = 8;
/// Writes that a volume may have under way however many it shares a session with.
const WRITES_MIN: usize = 4;
/// Longest write that records are joined to: so long that its header costs nothing, and
/// so short that a lost session, or a read behind it, costs little.
const JOINED_BYTES_MAX: u32 = 256 * 1024;
/// So long it may be though the storage asks for it: many are under way at once.
const JOINED_BYTES_MIN: u32 = 64 * 1024;
/// A sync every 16 MiB, so that the log is freed while a long flush goes on.
const UNSYNCED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// And one after such a time: where writes come one by one for ever, some are always on
/// their way, and nothing would be durable but by the bytes.
const UNSYNCED_TIME_MAX: Duration = Duration::from_secs(1);

/// Passing commands that are tried whenever something became durable: each may
/// cost a look at every granule of its range.
const DRAINING_TRIED_MAX: usize = 8;

/// Between two questions how loaded the storage of a skipped volume is.
const SAMPLE_PERIOD: Duration = Duration::from_millis(250);
/// Between two writes of a volume that is loaded and must go on, since the cache is full.
const FLOOR_PERIOD: Duration = Duration::from_millis(250);

/// Pause after a flush that the storage refused.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

impl Relay {
    /// Sends what may be sent of a volume's log, if it is time to.
    pub(super) fn flush_volume(&mut self, now: Time, key: VolumeKey) {
        let Some(nexus) = self.flush_nexus(key) else {
            return;
        };
        let pace = self.pace(now, key);
        match pace {
            Pace::Rest => return,
            Pace::Skip => return self.sample_load(now, nexus, key),
            Pace::Floor if now < self.volume(key).sampled_at + FLOOR_PERIOD => return,
            Pace::Floor => self.volume_mut(key).sampled_at = now,
            Pace::Flow => {}
        }
        self.open_lanes(now, nexus);
        let share = self.flush_share(nexus, key);
        let mut sent = false;
        // The carrier takes a sync whoever takes the writes.
        while self.nexuses[nexus.0].window() > 0
            && self.wan_tasks.len() < self.wan_tasks.capacity()
            && let Some(lane) = self.lane_for(now, key, nexus)
        {
            let volume = self.volume(key);
            let storage_wce = volume.storage_wce;
            let is_overdue = volume
                .unsynced_since
                .is_some_and(|since| now.since(since) >= UNSYNCED_TIME_MAX);
            let limits = FlushLimits {
                // How many bytes they may be is `super::flight`'s to say.
                writes_in_flight_max: (WRITES_IN_FLIGHT_MAX / share).max(WRITES_MIN),
                bytes_in_flight_max: volume.flight.bytes_max() / share as u64,
                joined_bytes_max: self.joined_bytes_max(nexus, key),
                unsynced_bytes_max: if is_overdue { 1 } else { UNSYNCED_BYTES_MAX },
                awaited: volume.gate.asked(),
                epoch_max: self.epoch_max(key),
                sequence_max: volume.gate.sequence_max(),
            };
            let Self { flush, index, .. } = self;
            let newest = |lba| index.newest(key.0, lba);
            let Some(action) = flush.next(key.0, &limits, storage_wce, newest) else {
                break;
            };
            match action {
                FlushAction::Write { record } => {
                    // Itself is under way by now.
                    if self.flush.in_flight(key.0).0 == 1 {
                        self.volume_mut(key).flight.begin(now);
                    }
                    self.counters.lane_writes += u64::from(lane != nexus);
                    if !self.send_records(now, lane, key, record) {
                        break;
                    }
                }
                FlushAction::Sync => {
                    let volume = self.volume_mut(key);
                    volume.begun = true;
                    volume.unsynced_since = None;
                    let lun = volume.lun;
                    self.submit(
                        now,
                        nexus,
                        WanKind::FlushSync { volume: key },
                        lun,
                        cdb::synchronize_cache(),
                        Direction::None,
                    );
                }
            }
            sent = true;
            if pace == Pace::Floor {
                break;
            }
        }
        if sent {
            self.touch_nexus(nexus);
        }
    }

    /// Of how many volumes that flush by this nexus and have something to send this is one.
    /// What is under way of each comes out of the stream in order, so who has as much under
    /// way as another is sent as fast, and who has little waits for little.
    fn flush_share(&self, nexus: NexusKey, key: VolumeKey) -> usize {
        let others = self.volume_keys().filter(|&other| {
            other != key
                && self.volume(other).flush_nexus == Some(nexus)
                && self.flush.dirty_bytes(other.0) > 0
        });
        1 + others.count()
    }

    /// Whether the storage takes one more command; the last few are for others.
    pub(super) fn has_window_to_flush(&self, nexus: NexusKey, key: VolumeKey) -> bool {
        let window = self.nexuses[nexus.0].window();
        window > WINDOW_FOR_OTHERS || window > 0 && self.flush.in_flight(key.0).0 == 0
    }

    /// While a volume is skipped its storage's load is known by a small question now and
    /// then: one that touches no medium, so that it adds nothing to what it measures.
    fn sample_load(&mut self, now: Time, nexus: NexusKey, key: VolumeKey) {
        let volume = self.volume(key);
        let is_out = self.flush.in_flight(key.0).0 > 0;
        let is_full = self.nexuses[nexus.0].window() == 0
            || self.wan_tasks.len() == self.wan_tasks.capacity();
        if is_out || is_full || now < volume.sampled_at + SAMPLE_PERIOD {
            return;
        }
        let lun = volume.lun;
        let volume = self.volume_mut(key);
        volume.sampled_at = now;
        // What comes after it begins with little.
        volume.flight = Flight::new(now);
        let kind = WanKind::Poll { volume: key };
        self.submit(now, nexus, kind, lun, [0; 16], Direction::None);
    }

    /// A-15, and not while it backs off after a refusal.
    fn pace(&mut self, now: Time, key: VolumeKey) -> Pace {
        let asked = self.volume(key).gate.asked();
        let view = VolumeView {
            connected: true,
            dirty_bytes: self.flush.dirty_bytes(key.0),
            oldest_dirty: self
                .flush
                .oldest_dirty(key.0)
                .zip(self.flush.oldest_sequence(key.0)),
            newest_dirty: self.flush.newest_dirty(key.0),
            newest_sequence: self.volume(key).next_sequence - 1,
            load: self.volume(key).load.smoothed(),
            load_at_rest: self.volume(key).load.at_rest(),
            near_full: !self.held.is_empty(),
            ask_done: asked.is_some_and(|sequence| self.flush.durable_through(key.0, sequence)),
        };
        let fenced_off = self
            .volume(key)
            .target
            .is_some_and(|target| self.is_fenced_off(target));
        let volume = self.volume_mut(key);
        // A stray write could land on what is sent after it (C-6, C-8).
        let held_up = volume.misfit || volume.strays > 0 || volume.failure.is_damaged();
        if fenced_off || held_up || now < volume.retry_at {
            return Pace::Rest;
        }
        if volume.holding.is_asked_after_conflict() {
            return Pace::Rest;
        }
        let policy = volume.policy;
        // What is written but not synced has no other way to become durable.
        let finishing = view.dirty_bytes == 0 && volume.gate.asked().is_some();
        match volume.gate.pace(now, &policy, &view) {
            Pace::Rest if finishing => Pace::Flow,
            pace => pace,
        }
    }

    /// The nexus that carries the volume's flush, if it is ready. It stays the
    /// same through its reconnects while it has unsynced work (C-8); only with
    /// nothing under way does another take over. What is not synced then goes again: what
    /// happens to it would be told to the one that sent it.
    fn flush_nexus(&mut self, key: VolumeKey) -> Option<NexusKey> {
        let volume = self.volume(key);
        let target = volume.target?;
        if let Some(current) = volume
            .flush_nexus
            .filter(|current| self.nexuses.contains(current.0))
        {
            let carrier = &self.nexuses[current.0];
            if !self.flush_must_move(key, current) {
                if carrier.is_ready() {
                    return Some(current);
                }
                // With nothing of it left at the storage it need not be waited for for ever.
                let may_return = carrier.astray || carrier.attempts < ATTEMPTS_BEFORE_RESET;
                if volume.begun && may_return && !planted(Mutation::ResendBeforeReinstatement) {
                    return None;
                }
            } else if volume.begun {
                // What passed by others and waits for a sync, too: of a reset nobody may
                // have heard but this one.
                self.flush_lost(key);
            }
        }
        let ready = self
            .nexuses
            .iter()
            .filter(|(_, nexus)| nexus.target == target && nexus.is_ready());
        // The storage has the last word on one that, as far as is known, may not write. A
        // lane is no better than a computer's, and hears less.
        let (ready, _) = ready.min_by_key(|&(at, nexus)| {
            let may_carry = self.may_carry(key, NexusKey(at));
            (!may_carry, nexus.is_lane())
        })?;
        let ready = NexusKey(ready);
        self.volume_mut(key).flush_nexus = Some(ready);
        Some(ready)
    }

    /// Asks for everything committed so far, whatever the policy says.
    pub(super) fn ask_flush(&mut self, key: VolumeKey) {
        let volume = self.volume_mut(key);
        let newest = volume.next_sequence - 1;
        volume.gate.ask(newest);
        if let Some(nexus) = volume.flush_nexus {
            self.touch_nexus(nexus);
        }
    }

    /// How long a write may become by joining: what goes without an R2T, so that
    /// it costs no round trip more, where that is worth joining for; and no longer than
    /// the storage takes.
    fn joined_bytes_max(&self, nexus: NexusKey, key: VolumeKey) -> u32 {
        let conn = self.nexuses[nexus.0].conn.as_ref();
        let unsolicited = conn.map_or(0, |conn| conn.parameters().unsolicited_max());
        let joined = unsolicited.clamp(JOINED_BYTES_MIN, JOINED_BYTES_MAX);
        joined.min(self.volume(key).transfer_bytes_max)
    }

    /// Sends a record and what is joined to it. False if one of them is unsound:
    /// it is never sent, and the volume has failed; what is newer waits behind it (C-4).
    fn send_records(&mut self, now: Time, nexus: NexusKey, key: VolumeKey, first: u32) -> bool {
        let Self { flush, log, .. } = self;
        let unsound = flush
            .joined(first)
            .find(|&record| !is_sound(log, RecordId(record)));
        if let Some(record) = unsound {
            if planted(Mutation::UnsoundAsDurable) {
                self.flush.write_done(key.0, first, Outcome::Good);
                return true;
            }
            self.counters.records_unsound += 1;
            self.flush.write_done(key.0, first, Outcome::Retry);
            self.flush.refuse_unsent(key.0, record);
            self.fail_record(key, record, Sense::UNRECOVERED_READ_ERROR);
            return false;
        }
        let joined = self.flush.joined(first).skip(1).count() as u64;
        self.counters.records_joined += joined;
        let lba = self.log.record(RecordId(first)).lba;
        let len = self.joined_len(first);
        let volume = self.volume_mut(key);
        volume.begun = true;
        let lun = volume.lun;
        let blocks = len / volume.block_len();
        let kind = WanKind::Flush {
            volume: key,
            record: first,
        };
        self.submit(
            now,
            nexus,
            kind,
            lun,
            cdb::write(lba, blocks),
            Direction::Out(len),
        );
        if planted(Mutation::FreeBeforeGood) {
            self.log.retire(RecordId(first));
        }
        true
    }

    /// Bytes of a record and what was joined to it when it was sent last.
    fn joined_len(&self, first: u32) -> u32 {
        let records = self.flush.joined(first);
        records
            .map(|record| self.log.record(RecordId(record)).len)
            .sum()
    }

    /// Gives a command to a nexus whose window has room; the caller has looked.
    pub(super) fn submit(
        &mut self,
        now: Time,
        nexus: NexusKey,
        kind: WanKind,
        lun: u64,
        cdb: [u8; 16],
        data: Direction,
    ) -> usize {
        self.submit_long(now, nexus, kind, lun, (cdb, None), data)
    }

    /// As [`Relay::submit`], with bytes 16 to 31 of a 32-byte CDB.
    pub(super) fn submit_long(
        &mut self,
        now: Time,
        nexus: NexusKey,
        kind: WanKind,
        lun: u64,
        (cdb, cdb_rest): ([u8; 16], Option<[u8; 16]>),
        data: Direction,
    ) -> usize {
        let wan_task = self.wan_tasks.insert(WanTask {
            nexus,
            sent: now,
            left: None,
            out_len: match data {
                Direction::Out(len) | Direction::Both { out_len: len, .. } => len,
                Direction::In(_) | Direction::None => 0,
            },
            kind,
        });
        self.nexuses[nexus.0].out_bytes += u64::from(self.wan_tasks[wan_task].out_len);
        let conn = self.nexuses[nexus.0]
            .conn
            .as_mut()
            .expect("a nexus with a window has a connection");
        conn.submit(Command {
            token: wan_task as u64,
            lun,
            cdb,
            cdb_rest,
            attribute: TaskAttribute::Simple,
            data,
        })
        .expect("the caller has looked at the window");
        self.touch_nexus(nexus);
        wan_task
    }

    /// A command is out no more.
    pub(super) fn take_wan_task(&mut self, at: usize) -> WanTask {
        let wan_task = self.wan_tasks.remove(at);
        self.nexuses[wan_task.nexus.0].out_bytes -= u64::from(wan_task.out_len);
        wan_task
    }

    /// The answer to a record, and to all that was joined to it.
    pub(super) fn flush_answered(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        lane: NexusKey,
        key: VolumeKey,
        record: u32,
        ended: &Ended<'_>,
    ) {
        match self.judge_flush(now, lane, key, ended) {
            Verdict::Good => {
                let len = self.joined_len(record);
                let volume = self.volume_mut(key);
                volume.flight.answered(now, len);
                volume.unsynced_since.get_or_insert(now);
                self.flush_agreed(key);
                self.flush.write_done(key.0, record, Outcome::Good);
            }
            Verdict::Again => {
                self.flush.write_done(key.0, record, Outcome::Retry);
                self.flush_again(now, key, ended);
            }
            Verdict::Deferred(sense) => {
                self.flush.write_done(key.0, record, Outcome::Retry);
                self.flush_again(now, key, ended);
                self.heed_deferred(key, sense);
            }
            Verdict::Refused(_) if self.flush.joined(record).nth(1).is_some() => {
                self.counters.flush_failures += 1;
                self.counters.writes_taken_apart += 1;
                self.flush.write_done(key.0, record, Outcome::Apart);
            }
            Verdict::Refused(sense) => {
                self.counters.flush_failures += 1;
                self.flush.write_done(key.0, record, Outcome::Refused);
                self.fail_record(key, record, sense);
                // What else would be acknowledged may fare no better.
                self.doubt(now, key);
            }
        }
        self.release_durable(net, now, key);
        self.flush_volume(now, key);
    }

    /// A RESERVATION CONFLICT is refused for good when no nexus of ours can get
    /// past it; the rest is plain to see.
    fn judge_flush(
        &mut self,
        now: Time,
        lane: NexusKey,
        key: VolumeKey,
        ended: &Ended<'_>,
    ) -> Verdict {
        if ended.status == ScsiStatus::RESERVATION_CONFLICT && self.flush_conflict(now, lane, key) {
            return Verdict::Refused(Sense::WRITE_PROTECTED);
        }
        verdict(ended)
    }

    /// The flusher's SYNCHRONIZE CACHE has ended.
    pub(super) fn sync_answered(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        carrier: NexusKey,
        key: VolumeKey,
        ended: &Ended<'_>,
    ) {
        let Ended { status, sense, .. } = *ended;
        let unsupported = status == ScsiStatus::CHECK_CONDITION
            && sense::parse(sense)
                .is_some_and(|received| received.sense == Sense::INVALID_COMMAND_OPERATION_CODE);
        if unsupported {
            // The command is optional (SBC-4): a storage without it has no cache to synchronize.
            self.volume_mut(key).storage_wce = false;
        }
        let verdict = if unsupported {
            Verdict::Good
        } else {
            self.judge_flush(now, carrier, key, ended)
        };
        self.flush.sync_done(key.0, verdict == Verdict::Good);
        match verdict {
            Verdict::Good => self.nothing_deferred(key),
            Verdict::Again => self.flush_again(now, key, ended),
            Verdict::Deferred(sense) => {
                self.flush_again(now, key, ended);
                self.heed_deferred(key, sense);
            }
            Verdict::Refused(sense) => {
                self.flush_again(now, key, ended);
                self.fail_unsynced(key, sense);
            }
        }
        self.release_durable(net, now, key);
        self.flush_volume(now, key);
    }

    /// it stays and is tried again; after a reset, so is all that was not synced.
    fn flush_again(&mut self, now: Time, key: VolumeKey, ended: &Ended<'_>) {
        self.counters.flush_failures += 1;
        if ended.status == ScsiStatus::RESERVATION_CONFLICT {
            // It goes on when it is known who may carry it; one that is known to be barred
            // pauses, so that another can take over.
            if !self.volume(key).holding.is_asked_after_conflict() {
                self.volume_mut(key).retry_at = now + RETRY_PAUSE;
            }
            return;
        }
        let received = (ended.status == ScsiStatus::CHECK_CONDITION)
            .then(|| sense::parse(ended.sense))
            .flatten();
        if let Some(received) = received
            && received.sense.key == SenseKey::UNIT_ATTENTION
        {
            if received.sense.is_reset() && !planted(Mutation::ResetUnheeded) {
                self.flush_lost(key);
            }
            return;
        }
        self.volume_mut(key).retry_at = now + RETRY_PAUSE;
    }

    /// Every unsynced record of the volume is to be sent again. Answers to what
    /// is still out no longer count.
    pub(super) fn flush_lost(&mut self, key: VolumeKey) {
        self.volume_mut(key).losses += 1;
        self.lose_passed(key, None, Sense::COMMUNICATION_FAILURE);
        self.flush.session_lost(key.0);
        self.make_stray(key, |_| true);
    }

    /// Answers to what the volume's flush has out by such nexuses count no more but as a
    /// sign that it is over.
    pub(super) fn make_stray(&mut self, key: VolumeKey, by: impl Fn(NexusKey) -> bool) {
        let mut strays = 0;
        for (_, wan_task) in &mut self.wan_tasks {
            let record = match wan_task.kind {
                WanKind::Flush { volume, record } if volume == key => Some(record),
                WanKind::FlushSync { volume } if volume == key => None,
                _ => continue,
            };
            if by(wan_task.nexus) {
                wan_task.kind = WanKind::Stray {
                    volume: key,
                    record,
                };
                strays += 1;
            }
        }
        self.volume_mut(key).strays += strays;
    }

    /// Frees what is durable, oldest first, and stops at a record that a read
    /// sent before may still miss. That one is no more found by a restart
    /// all the same, in log or journal, which would send it again over what is
    /// newer.
    pub(super) fn release_durable(&mut self, net: &mut Net<'_>, now: Time, key: VolumeKey) {
        while let Some(record) = self.flush.next_durable(key.0) {
            self.log.retire(RecordId(record));
            let released = self.release_record(record);
            let volume = self.volume_mut(key);
            volume.durable.push_back(record);
            self.retired[record as usize] = Retired {
                reads_asked: self.volume(key).reads_asked,
                released,
            };
        }
        let mut freed = false;
        while let Some(&record) = self.volume(key).durable.front() {
            let Retired {
                reads_asked,
                released,
            } = self.retired[record as usize];
            let (lba, blocks) = self.blocks_of(key, record);
            let volume = self.volume_mut(key);
            let read_over = volume.read_over(lba, blocks, reads_asked);
            if read_over && !planted(Mutation::FreeUnderRead) {
                break;
            }
            volume.durable.pop_front();
            volume.bytes_flushed += blocks * u64::from(volume.block_len());
            self.index.remove(record);
            self.let_go(record, released);
            freed = true;
        }
        // A sync that is out may outlast what it was for: a discard takes that away.
        if self.flush.is_drained(key.0) && !self.flush.is_syncing(key.0) {
            self.volume_mut(key).begun = false;
        }
        self.wake_waiting(now, key);
        if (freed || self.room_moved) && !self.held.is_empty() {
            self.admit_held(net, now);
        }
    }

    /// First block and number of blocks of a record.
    pub(super) fn blocks_of(&self, key: VolumeKey, record: u32) -> (u64, u64) {
        let record = self.log.record(RecordId(record));
        let block_len = self.volume(key).block_len();
        (record.lba, u64::from(record.len / block_len))
    }

    /// Looks whether what waits for durability, or for clean blocks, may go on.
    pub(super) fn wake_waiting(&mut self, now: Time, key: VolumeKey) {
        self.settle_overwritten(now, key);
        while let Some(&task) = self.volume(key).waiting.front() {
            let (through, number, is_sync, len) = match &self.tasks[task.0].work {
                Work::Write(WriteTask {
                    state:
                        WriteState::Durable {
                            sequence, number, ..
                        },
                    len,
                    ..
                }) => (*sequence, *number, false, *len),
                Work::Sync(sync) => (sync.through, sync.number, true, 0),
                _ => unreachable!("only FUA writes and SYNCHRONIZE CACHEs wait here"),
            };
            if !self.may_answer(key, through, number, is_sync) {
                break;
            }
            self.volume_mut(key).waiting.pop_front();
            if is_sync {
                self.promise_through(key, through);
            }
            self.answer(task, ScsiStatus::GOOD, &[], len);
            self.forget(task);
        }
        self.try_draining(key, DRAINING_TRIED_MAX);
    }

    /// Looks whether passing commands that wait for clean blocks may go on; at
    /// so many of them.
    pub(super) fn try_draining(&mut self, key: VolumeKey, most: usize) {
        let mut at = 0;
        for _ in 0..most {
            let Some(&task) = self.volume(key).draining.get(at) else {
                break;
            };
            self.continue_pass(task);
            if self.volume(key).draining.get(at) == Some(&task) {
                at += 1;
            }
        }
        // Who holds records back may be what those ahead of it wait for.
        let mut rest = self.volume(key).draining.iter().skip(at).copied();
        if let Some(holder) = rest.find(|&task| self.flush.is_holding(key.0, token_of(task))) {
            self.continue_pass(holder);
        }
    }
}

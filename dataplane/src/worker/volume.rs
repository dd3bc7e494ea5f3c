//! A volume: one LUN of one target, with its place in the log.
//!
//! Holds what is true of the volume whoever is connected: its size, epoch and
//! sequence, who waits for its records to become durable, and which reads and
//! passing commands are out. The records themselves are the log's, their order
//! of flushing the flush queue's.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use arrayvec::ArrayString;
use sluice_hugepages::log::{VolumeEntry, VolumeFlags};
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::cache::flush::policy::{FlushGate, FlushPolicy};
use sluice_proto::scsi::{Access, Sense};

use super::drain::DrainStep;
use super::failure::Failure;
use super::flight::Flight;
use super::holding::Holding;
use super::journal::Released;
use super::latency::Latencies;
use super::load::{Load, Moved, Rates};
use super::nexus::SENSE_LEN;
use super::publish::apply;
use super::relay::{Relay, VOLUMES_MAX};
use super::task::{NexusKey, TaskKey, VolumeKey, bars, overlap};
use crate::journal::layout::RowTable;

/// Commands of computers that one volume serves at a time; sizes every list here.
pub const VOLUME_TASKS_MAX: usize = 1024;

/// What the storage said of the volume's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub block_len: u32,
    pub blocks: u64,
}

impl Geometry {
    /// Whether the blocks lie within it.
    pub fn has(self, lba: u64, blocks: u32) -> bool {
        let end = lba.checked_add(u64::from(blocks));
        end.is_some_and(|end| end <= self.blocks)
    }
}

#[derive(Debug)]
pub struct Volume {
    pub target_name: ArrayString<224>,
    pub storage: SocketAddrV4,
    /// The 8-byte LUN as a big-endian number.
    pub lun: u64,
    /// The configured target; `None` if the configuration names it no more, then nothing is flushed.
    pub target: Option<usize>,
    pub geometry: Option<Geometry>,
    /// The storage's own write cache (WCE): GOOD is durable only after a SYNCHRONIZE CACHE.
    pub storage_wce: bool,
    /// The longest write that the storage takes.
    pub transfer_bytes_max: u32,
    /// Ordering points seen: records of an epoch reach the storage before any of the next.
    pub epoch: u64,
    /// Place of the next record in the order of arrival.
    pub next_sequence: u64,
    pub policy: FlushPolicy,
    pub gate: FlushGate,
    /// Commands of the flusher out at the storage whose answers count no more.
    pub strays: u32,
    /// Records have been sent since the volume was last drained: its flush
    /// keeps to its nexus.
    pub begun: bool,
    /// Whether it takes writes, and how large it is, is being asked; none is committed meanwhile.
    pub in_doubt: bool,
    /// Times that there was reason to ask.
    pub doubts: u32,
    /// The storage is away and cannot be asked: as in any outage, what was known
    /// last counts until it is back.
    pub doubt_rests: bool,
    /// Sense with which the storage refuses writes, and so do we.
    pub refusal: Option<[u8; SENSE_LEN]>,
    /// When that was asked last.
    pub checked_at: Option<Time>,
    /// What the storage has refused of what was acknowledged (C-4).
    pub failure: Failure,
    /// Plain writes are acknowledged by the storage alone: it runs out of space (C-4).
    pub write_through: bool,
    /// Who holds it, by reservation.
    pub holding: Holding,
    /// The storage's blocks are of another length than the log's: no command
    /// touches it, and nothing is flushed, until that is set right.
    pub misfit: bool,
    /// After a refused flush: not before this.
    pub retry_at: Time,
    /// When its storage was last asked how loaded it is, or given a write at the floor rate.
    pub sampled_at: Time,
    /// The nexus whose WAN session carries the flush. Kept across its reconnects (C-8).
    pub flush_nexus: Option<NexusKey>,
    /// By that alone until then.
    pub lanes_from: Time,
    /// Response times of its storage.
    pub load: Load,
    pub latencies: Latencies,
    pub flight: Flight,
    /// When the oldest answer came that no SYNCHRONIZE CACHE sent since covers.
    pub unsynced_since: Option<Time>,
    /// Durable records, oldest first, that a read sent before may still miss.
    pub durable: VecDeque<u32>,
    /// Reads asked of the storage so far.
    pub reads_asked: u64,
    pub reads_out: Vec<ReadOut>,
    pub barriers: Vec<(TaskKey, Access)>,
    /// When what has passed through is to be synced, if nobody asks before.
    pub sync_passed_at: Time,
    /// Complete writes held behind a barrier, in order of completion.
    pub behind: VecDeque<TaskKey>,
    /// FUA writes and SYNCHRONIZE CACHEs that wait for records to become durable,
    /// the one that waits for least first.
    pub waiting: VecDeque<TaskKey>,
    /// Passing commands that wait for clean blocks, in order of arrival.
    pub draining: VecDeque<TaskKey>,
    /// The one that has overwritten what is in the log, and is not answered yet.
    pub settling: Option<TaskKey>,
    /// Times that the storage may have lost what it had not synced.
    pub losses: u64,
    /// As configured; what is in force is [`Relay::contract`]'s to say.
    pub contract: Durability,
    /// Of its last write: the journal's request.
    pub journalled: u64,
    pub freed: Freed,
    /// Writes up to this sequence may have been answered by the journal, or a SYNCHRONIZE
    /// CACHE behind them.
    pub kept_through: u64,
    /// Since when it has not been wholly at the storage, as the journal says too.
    pub dirty_since: Time,
    pub drain: DrainStep,
    pub bytes_written: u64,
    pub bytes_flushed: u64,
    /// Of what newer writes of the same epoch hid before it was sent.
    pub bytes_superseded: u64,
    pub rates: Rates,
    pub writes: u64,
    pub reads: u64,
    pub read_hits: u64,
}

/// The journal's requests that free a volume's records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Freed {
    last: u64,
    /// The newest epoch that a record was freed of, and the last of those before it: what
    /// hides each other in the open epoch keeps no older one from being entered.
    epoch: u64,
    before: u64,
}

impl Freed {
    /// `number` frees a record of `epoch`.
    pub(super) fn note(&mut self, epoch: u64, number: u64) {
        if epoch > self.epoch {
            (self.before, self.epoch) = (self.last, epoch);
        } else if epoch < self.epoch {
            self.before = self.before.max(number);
        }
        self.last = self.last.max(number);
    }

    /// The last of all.
    pub const fn last(self) -> u64 {
        self.last
    }

    /// The newest epoch that may be entered when the journal has the requests that
    /// `has` says: nothing of an older one comes back by a replay.
    pub(super) fn epoch_max(self, has: impl Fn(u64) -> bool) -> u64 {
        if has(self.last) {
            u64::MAX
        } else if has(self.before) {
            self.epoch
        } else {
            0
        }
    }
}

/// A record that is durable at the storage, and still read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Retired {
    /// How many reads had been sent when it became durable: only those may miss it.
    pub reads_asked: u64,
    pub released: Released,
}

/// A read that the storage has been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOut {
    pub wan_task: usize,
    /// Its place among the reads asked.
    pub number: u64,
    pub lba: u64,
    pub blocks: u64,
}

impl Volume {
    pub fn new(
        target_name: ArrayString<224>,
        storage: SocketAddrV4,
        lun: u64,
        policy: FlushPolicy,
        records_max: usize,
        now: Time,
    ) -> Self {
        Self {
            target_name,
            storage,
            lun,
            target: None,
            geometry: None,
            storage_wce: true,
            transfer_bytes_max: u32::MAX,
            epoch: 1,
            next_sequence: 1,
            policy,
            gate: FlushGate::new(now),
            strays: 0,
            begun: false,
            in_doubt: false,
            doubts: 0,
            doubt_rests: false,
            refusal: None,
            failure: Failure::new(),
            write_through: false,
            checked_at: None,
            holding: Holding::new(false, true),
            misfit: false,
            retry_at: Time::ZERO,
            sampled_at: Time::ZERO,
            flush_nexus: None,
            lanes_from: Time::ZERO,
            load: Load::new(now),
            latencies: Latencies::new(now),
            flight: Flight::new(now),
            unsynced_since: None,
            durable: VecDeque::with_capacity(records_max),
            reads_asked: 0,
            reads_out: Vec::with_capacity(VOLUME_TASKS_MAX),
            sync_passed_at: Time::ZERO,
            barriers: Vec::with_capacity(VOLUME_TASKS_MAX),
            behind: VecDeque::with_capacity(VOLUME_TASKS_MAX),
            waiting: VecDeque::with_capacity(VOLUME_TASKS_MAX),
            draining: VecDeque::with_capacity(VOLUME_TASKS_MAX),
            settling: None,
            losses: 0,
            contract: Durability::Memory,
            journalled: 0,
            freed: Freed::default(),
            kept_through: 0,
            dirty_since: now,
            drain: DrainStep::Drained,
            bytes_written: 0,
            bytes_flushed: 0,
            bytes_superseded: 0,
            rates: Rates::new(now),
            writes: 0,
            reads: 0,
            read_hits: 0,
        }
    }

    /// Bytes of a block of a volume that has records or tasks: those are made
    /// only when the storage has said it.
    pub fn block_len(&self) -> u32 {
        self.geometry
            .expect("records and tasks are of volumes of known form")
            .block_len
    }

    /// Takes a sequence number, the next place in the order of arrival.
    pub fn take_sequence(&mut self) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// Puts an ordering point after everything committed so far.
    pub fn close_epoch(&mut self) {
        self.epoch += 1;
    }

    /// Whether no write is committed before the storage has answered.
    pub fn waits_for_storage(&self) -> bool {
        self.in_doubt && !self.doubt_rests
    }

    /// Whether a write to the blocks may not be committed now.
    pub fn barrier_over(&self, lba: u64, blocks: u64) -> bool {
        self.waits_for_storage()
            || self
                .barriers
                .iter()
                .any(|(_, barrier)| bars(*barrier, lba, blocks))
    }

    /// Whether one of the first `reads_asked` reads is out over the blocks.
    pub fn read_over(&self, lba: u64, blocks: u64, reads_asked: u64) -> bool {
        self.reads_out
            .iter()
            .any(|read| read.number <= reads_asked && overlap(read.lba, read.blocks, lba, blocks))
    }

    pub fn sample_rates(&mut self, now: Time) {
        let moved = Moved {
            written: self.bytes_written,
            flushed: self.bytes_flushed,
            superseded: self.bytes_superseded,
        };
        self.rates.sample(now, moved);
    }
}

impl Relay {
    /// A LUN that is a disk: its volume is known by the log's directory from here on.
    pub(super) fn learn_volume(&mut self, now: Time, key: NexusKey, lun: u64, geometry: Geometry) {
        let target = self.nexuses[key.0].target;
        if let Some(volume) = self.find_volume(target, lun) {
            return self.fit_volume(volume, geometry);
        }
        let policy = &self.config.targets[target];
        let Ok(target_name) = ArrayString::from(&policy.name) else {
            return;
        };
        let entry = VolumeEntry {
            target_name,
            lun,
            storage: policy.address,
            block_len: geometry.block_len,
            blocks: geometry.blocks,
            flags: VolumeFlags::default(),
        };
        // With the directory full the LUN stays uncached: its commands pass.
        if self.volume_keys().count() == VOLUMES_MAX {
            return;
        }
        let Ok(id) = self.log.put_volume(entry) else {
            return;
        };
        assert!(
            usize::from(id.0) < VOLUMES_MAX,
            "the directory gives its lowest free row"
        );
        let policy = self.policy_of(&target_name, lun);
        let storage = self.config.targets[target].address;
        let mut volume = Volume::new(
            target_name,
            storage,
            lun,
            policy,
            self.log.records_max(),
            now,
        );
        volume.target = Some(target);
        volume.geometry = Some(geometry);
        volume.contract = self.config.targets[target].durability;
        self.journal_row(RowTable::Volume, id.0);
        self.index.set_block_len(id.0, geometry.block_len);
        self.volumes[usize::from(id.0)] = Some(volume);
        let volume = VolumeKey(id.0);
        // A relay before this one may have lost its log.
        self.may_be_unsynced(volume);
        self.ask_holding(now, volume);
        // Uncached till now, it showed the storage's own WCE (C-1).
        self.raise_attention(volume, Sense::MODE_PARAMETERS_CHANGED);
    }

    /// What a process before this one let pass may be in the storage's cache alone: the
    /// next epoch, and a SYNCHRONIZE CACHE, wait for a sync of this one's own (C-2).
    pub(super) fn may_be_unsynced(&mut self, key: VolumeKey) {
        let epoch = self.volume(key).epoch;
        self.flush.changed_elsewhere(key.0, epoch - 1);
    }

    /// A volume that is known may have another form now. The log's row says what
    /// a record may cover, and keeps to it while there are records.
    pub(super) fn fit_volume(&mut self, key: VolumeKey, geometry: Geometry) {
        let id = super::log_volume(key);
        let row = self
            .log
            .volume(id)
            .expect("a volume is a row of the directory")
            .clone();
        if row.block_len != geometry.block_len {
            // The unit of every record and of the index: nothing goes either way.
            self.counters.volumes_misfit += u64::from(!self.volume(key).misfit);
            self.volume_mut(key).misfit = true;
            return;
        }
        let (block_len, kept) = (row.block_len, row.blocks);
        let updated = geometry.blocks == kept
            || self
                .log
                .update_volume(
                    id,
                    VolumeEntry {
                        blocks: geometry.blocks,
                        ..row
                    },
                )
                .is_ok();
        if updated && geometry.blocks != kept {
            self.journal_row(RowTable::Volume, id.0);
        }
        let blocks = if updated {
            geometry.blocks
        } else {
            // The log holds blocks beyond: the smaller counts, and what is beyond is refused at once.
            geometry.blocks.min(kept)
        };
        let volume = self.volume_mut(key);
        volume.misfit = false;
        volume.geometry = Some(Geometry { block_len, blocks });
    }

    /// The flush policy of a volume: the default, what is set for its target,
    /// then what is set for itself.
    pub(super) fn policy_of(&self, target: &str, lun: u64) -> FlushPolicy {
        let mut policy = self.config.flush;
        for (scope, setting) in &self.overrides {
            if scope.covers(target, lun) {
                apply(&mut policy, setting);
            }
        }
        policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a19_what_hides_each_other_in_an_epoch_does_not_keep_it_from_being_entered() {
        let mut freed = Freed::default();
        let epoch_max = |freed: Freed, durable: u64| freed.epoch_max(|number| number <= durable);
        freed.note(5, 12);
        assert_eq!(epoch_max(freed, 11), 5);
        freed.note(6, 13);
        assert_eq!(
            epoch_max(freed, 11),
            0,
            "one of the epoch before may come back"
        );
        assert_eq!(epoch_max(freed, 12), 6);
        assert_eq!(epoch_max(freed, 13), u64::MAX);
        freed.note(5, 14);
        assert_eq!(epoch_max(freed, 13), 0);
        assert_eq!(epoch_max(freed, 14), u64::MAX);
    }
}

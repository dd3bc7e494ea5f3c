//! Reads, never older than an acknowledged write (A-20, C-7).
//!
//! A read is cut into chunks of a staging page. A chunk that the cache holds
//! wholly is filled from the log. Any other is asked of the storage whole, and
//! when it has come, what the cache holds *then* is laid over it: records that
//! became durable meanwhile stay in the cache until the chunk is back.

use arrayvec::ArrayVec;
use sluice_hugepages::log::RecordId;
use sluice_hugepages::pool::Pool;
use sluice_proto::Time;
use sluice_proto::cache::index::Source;
use sluice_proto::scsi::{ScsiStatus, Sense};

use super::admit::Refusal;
use super::failure::is_sound;
use super::relay::{Net, Relay};
use super::staging::{STAGE_LEN, StagePage};
use super::task::{Chunk, ChunkState, READ_CHUNKS_MAX, ReadTask, Task, TaskKey, VolumeKey, Work};
use super::volume::{Geometry, Volume};

/// Sessions with starved reads that are looked at whenever a page comes back.
const FED_MAX: usize = 16;

/// How much of a chunk the cache held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overlay {
    Whole,
    Partial,
    Absent,
    /// A record fails its checksum: the blocks are lost, and that is said.
    Unsound,
}

impl Relay {
    pub(super) fn plan_read(geometry: Geometry, lba: u64, blocks: u32) -> Result<Work, Refusal> {
        if lba
            .checked_add(u64::from(blocks))
            .is_none_or(|end| end > geometry.blocks)
        {
            return Err(Refusal::sense(Sense::LBA_OUT_OF_RANGE));
        }
        if blocks == 0 {
            return Err(Refusal::status(ScsiStatus::GOOD));
        }
        Ok(Work::Read(ReadTask {
            lba,
            blocks,
            planned: 0,
            delivered: 0,
            chunks: ArrayVec::new(),
            failed: false,
        }))
    }

    pub(super) fn start_read(&mut self, net: &mut Net<'_>, key: TaskKey) {
        let volume = self.tasks[key.0].volume.expect("a read has a volume");
        self.volume_mut(volume).reads += 1;
        self.continue_read(net, key);
        if let Some(task) = self.tasks.get(key.0)
            && let Work::Read(read) = &task.work
            && read
                .chunks
                .iter()
                .all(|chunk| chunk.state == ChunkState::Ready)
        {
            self.volume_mut(volume).read_hits += 1;
        }
    }

    /// Makes chunks as far as pages go, and delivers what is ready, in order.
    pub(super) fn continue_read(&mut self, net: &mut Net<'_>, key: TaskKey) {
        loop {
            self.plan_chunks(net.pool, key);
            if !self.deliver(key) {
                break;
            }
        }
        let Some(task) = self.tasks.get(key.0) else {
            return;
        };
        let Work::Read(read) = &task.work else {
            unreachable!("the caller knows the task for a read")
        };
        let (nexus, lan) = (task.nexus, task.lan);
        if read
            .chunks
            .iter()
            .any(|chunk| chunk.state == ChunkState::Wanted)
        {
            if !self.nexuses[nexus.0].wanted.contains(&key) {
                self.want(nexus, key);
            }
        } else if lan.is_some()
            && read
                .chunks
                .iter()
                .all(|chunk| chunk.state == ChunkState::Ready)
        {
            // No page: goes on when one comes.
            let state = &mut self.nexuses[nexus.0];
            if !state.starved.contains(&key) {
                state.starved.push_back(key);
            }
            if !std::mem::replace(&mut state.starving, true) {
                self.starving.push_back(nexus);
            }
        }
    }

    fn plan_chunks(&mut self, pool: &mut Pool, key: TaskKey) {
        let Some(&Task {
            volume: Some(volume_key),
            nexus,
            ..
        }) = self.tasks.get(key.0)
        else {
            return;
        };
        let chunk_blocks =
            u32::try_from(STAGE_LEN).expect("64 KiB") / self.volume(volume_key).block_len();
        loop {
            let read = self.read_mut(key);
            if read.failed || read.planned == read.blocks || read.chunks.len() == READ_CHUNKS_MAX {
                return;
            }
            let (lba, blocks) = (
                read.lba + u64::from(read.planned),
                chunk_blocks.min(read.blocks - read.planned),
            );
            let Some(page) = self.staging.take_for_read(nexus) else {
                return;
            };
            let state = match self.overlay(pool, volume_key, page, lba, blocks) {
                // The storage is to say whether it may be read; its answer is laid over as any.
                Overlay::Whole if !self.may_read(volume_key, key) => {
                    self.counters.reads_partly_cached += 1;
                    ChunkState::Wanted
                }
                Overlay::Whole => {
                    self.counters.reads_cached += 1;
                    ChunkState::Ready
                }
                Overlay::Partial => {
                    self.counters.reads_partly_cached += 1;
                    ChunkState::Wanted
                }
                Overlay::Absent => {
                    self.counters.reads_uncached += 1;
                    ChunkState::Wanted
                }
                Overlay::Unsound => {
                    self.staging.give(page);
                    return self.fail_read(
                        key,
                        ScsiStatus::CHECK_CONDITION,
                        &Sense::UNRECOVERED_READ_ERROR.fixed(),
                    );
                }
            };
            let read = self.read_mut(key);
            read.planned += blocks;
            read.chunks.push(Chunk {
                page,
                lba,
                blocks,
                state,
            });
        }
    }

    /// Lays what the cache holds of the blocks over the page.
    pub(super) fn overlay(
        &mut self,
        pool: &mut Pool,
        volume: VolumeKey,
        page: StagePage,
        lba: u64,
        blocks: u32,
    ) -> Overlay {
        let block_len = self.volume(volume).block_len() as usize;
        let Self {
            index,
            log,
            staging,
            counters,
            ..
        } = self;
        let into = staging.bytes_mut(pool, page);
        let mut outcome = Overlay::Whole;
        let mut any = false;
        index.lookup(volume.0, lba, blocks, |extent| {
            let Some(Source { record, block }) = extent.source else {
                if outcome == Overlay::Whole {
                    outcome = Overlay::Partial;
                }
                return;
            };
            any = true;
            let record = RecordId(record);
            if !is_sound(log, record) {
                counters.records_unsound += 1;
                outcome = Overlay::Unsound;
                return;
            }
            let at = usize::try_from(extent.lba - lba).expect("within a page") * block_len;
            let len = extent.blocks as usize * block_len;
            let from = block as usize * block_len;
            into[at..at + len].copy_from_slice(&log.payload(record)[from..from + len]);
        });
        if outcome == Overlay::Partial && !any {
            return Overlay::Absent;
        }
        outcome
    }

    /// Hands ready chunks to the session; true if one went and more may be planned.
    fn deliver(&mut self, key: TaskKey) -> bool {
        let Some(task) = self.tasks.get_mut(key.0) else {
            return false;
        };
        let (Some((lan_key, number)), Work::Read(read)) = (task.lan, &mut task.work) else {
            return false;
        };
        let Some(Chunk {
            state: ChunkState::Ready,
            ..
        }) = read.chunks.first()
        else {
            return false;
        };
        let volume = task.volume.expect("a read has a volume");
        let lan = &mut self.lans[lan_key.0];
        let block_len = self.volumes[usize::from(volume.0)]
            .as_ref()
            .map_or(0, Volume::block_len);
        let chunk = read.chunks.remove(0);
        let len = chunk.blocks * block_len;
        lan.conn
            .data_in(
                number,
                u64::from(chunk.page.number()),
                0,
                read.delivered,
                len,
            )
            .expect("a session's share of pages is no more than its queue holds");
        lan.pages_out.push(chunk.page);
        read.delivered += len;
        let done = read.planned == read.blocks && read.chunks.is_empty();
        let delivered = read.delivered;
        self.touch_lan(lan_key);
        if done {
            self.answer(key, ScsiStatus::GOOD, &[], delivered);
            self.forget(key);
        }
        !done
    }

    /// A chunk's answer has come from the storage.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call, the facts of one answer"
    )]
    pub(super) fn chunk_answered(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        wan_task: usize,
        key: TaskKey,
        volume: VolumeKey,
        status: ScsiStatus,
        sense: &[u8],
        whole: bool,
    ) {
        self.volume_mut(volume)
            .reads_out
            .retain(|read| read.wan_task != wan_task);
        let Some(at) = self
            .read_mut(key)
            .chunks
            .iter()
            .position(|chunk| chunk.state == ChunkState::Asked(wan_task))
        else {
            unreachable!("a read keeps its chunks until they are answered")
        };
        let Chunk {
            page, lba, blocks, ..
        } = self.read_mut(key).chunks[at];
        let orphan = self.tasks[key.0].lan.is_none();
        if orphan || self.read_mut(key).failed {
            self.read_mut(key).chunks.remove(at);
            self.staging.give(page);
            self.finish_read(key);
        } else if status == ScsiStatus::GOOD && whole {
            match self.overlay(net.pool, volume, page, lba, blocks) {
                Overlay::Unsound => {
                    self.read_mut(key).chunks[at].state = ChunkState::Ready;
                    self.fail_read(
                        key,
                        ScsiStatus::CHECK_CONDITION,
                        &Sense::UNRECOVERED_READ_ERROR.fixed(),
                    );
                }
                Overlay::Whole | Overlay::Partial | Overlay::Absent => {
                    self.read_mut(key).chunks[at].state = ChunkState::Ready;
                    self.continue_read(net, key);
                }
            }
        } else {
            self.read_mut(key).chunks[at].state = ChunkState::Ready;
            let short = status == ScsiStatus::GOOD;
            let lost = Sense::COMMUNICATION_FAILURE.fixed();
            let (status, sense) = if short {
                (ScsiStatus::CHECK_CONDITION, lost.as_slice())
            } else {
                (status, sense)
            };
            self.fail_read(key, status, sense);
        }
        self.release_durable(net, now, volume);
        self.feed_starved(net);
    }

    /// Answers a read with a fault; pages not asked for come back now, the others with their answers.
    pub(super) fn fail_read(&mut self, key: TaskKey, status: ScsiStatus, sense: &[u8]) {
        let read = self.read_mut(key);
        read.failed = true;
        let delivered = read.delivered;
        self.answer(key, status, sense, delivered);
        if self.abandon_read(key) {
            let nexus = self.tasks[key.0].nexus;
            self.nexuses[nexus.0].wanted.retain(|&wanted| wanted != key);
            self.forget(key);
        }
    }

    /// Gives back the pages of chunks that are not out; true if none is.
    pub(super) fn abandon_read(&mut self, key: TaskKey) -> bool {
        let nexus = self.tasks.get(key.0).map(|task| task.nexus);
        if let Some(nexus) = nexus.and_then(|nexus| self.nexuses.get_mut(nexus.0)) {
            nexus.starved.retain(|&starved| starved != key);
        }
        let Some(Work::Read(read)) = self.tasks.get_mut(key.0).map(|task| &mut task.work) else {
            return true;
        };
        read.failed = true;
        let staging = &mut self.staging;
        read.chunks.retain(|chunk| {
            let out = matches!(chunk.state, ChunkState::Asked(_));
            if !out {
                staging.give(chunk.page);
            }
            out
        });
        read.chunks.is_empty()
    }

    /// Forgets a read that was answered before its last chunk came back.
    pub(super) fn finish_read(&mut self, key: TaskKey) {
        if self.read_mut(key).chunks.is_empty() {
            let nexus = self.tasks[key.0].nexus;
            self.nexuses[nexus.0].wanted.retain(|&wanted| wanted != key);
            self.forget(key);
        }
    }

    /// Pages have come back: reads that had none go on, sessions in turns, each
    /// one's in order of arrival.
    pub(super) fn feed_starved(&mut self, net: &mut Net<'_>) {
        for _ in 0..self.starving.len().min(FED_MAX) {
            if !self.staging.has_page_for_read() {
                return;
            }
            let Some(nexus) = self.starving.pop_front() else {
                return;
            };
            for _ in 0..self.nexuses[nexus.0].starved.len() {
                if !self.staging.may_read(nexus) {
                    break;
                }
                if let Some(key) = self.nexuses[nexus.0].starved.pop_front() {
                    self.continue_read(net, key);
                }
            }
            let state = &mut self.nexuses[nexus.0];
            state.starving = !state.starved.is_empty();
            if state.starving {
                self.starving.push_back(nexus);
            }
        }
    }

    pub(super) fn read_mut(&mut self, key: TaskKey) -> &mut ReadTask {
        match &mut self.tasks[key.0].work {
            Work::Read(read) => read,
            _ => unreachable!("the caller knows the task for a read"),
        }
    }
}

//! A session with the storage that is lost: what was out comes back to where it
//! came from, and the next attempt has its time. And what the storage may have
//! lost though it had said GOOD to it: no log has what passed, so who waits for that to
//! be durable is told (C-2).

use sluice_proto::Time;
use sluice_proto::cache::flush::Outcome;
use sluice_proto::scsi::{ScsiStatus, Sense};

use super::nexus::WanState;
use super::relay::{Net, Relay};
use super::task::{
    ChunkState, NexusKey, Settling, TaskKey, VolumeKey, WanKind, WanTask, Work, WriteState,
};
use super::wan::Ended;

impl Relay {
    /// The session is lost: everything out comes back to where it came from.
    pub(super) fn lose_wan(&mut self, net: &mut Net<'_>, now: Time, key: NexusKey) {
        if let Some(flow) = self.nexuses[key.0].flow.take() {
            net.tcp.abort(flow);
            self.unbind(flow);
        }
        if self.nexuses[key.0].conn.take().is_some() && self.nexuses[key.0].state == WanState::Ready
        {
            self.counters.wan_losses += 1;
        }
        self.nexuses[key.0].pinged = None;
        self.nexus_left(key);
        // One that logs out of itself leaves nothing unsynced.
        let leaves = self.nexuses[key.0].state == WanState::LoggingOut;
        for volume in self.volume_keys() {
            let carried = self.volume(volume).flush_nexus == Some(key);
            if carried && !leaves {
                self.volume_mut(volume).losses += 1;
            }
            if !leaves {
                let of = (!carried).then_some(key);
                self.lose_passed(volume, of, Sense::COMMUNICATION_FAILURE);
            }
            if carried {
                self.flush.session_lost(volume.0);
                // What other lanes have out of it is not waited for as what it was.
                self.make_stray(volume, |nexus| nexus != key);
            }
        }
        // At most as many as the session's window; collected since answering changes the slab.
        let out: Vec<usize> = self
            .wan_tasks
            .iter()
            .filter(|(_, task)| task.nexus == key)
            .map(|(at, _)| at)
            .collect();
        for at in out {
            let WanTask { kind, .. } = self.take_wan_task(at);
            if self.may_change_media(&kind) {
                self.gone_astray(key);
            }
            match kind {
                WanKind::Flush { volume, record } => {
                    // With the carrier all of it was given back at once.
                    if self.volume(volume).flush_nexus != Some(key) {
                        self.counters.lane_writes_back += 1;
                        self.flush.write_done(volume.0, record, Outcome::Retry);
                    }
                }
                WanKind::FlushSync { .. } => {}
                // Reinstatement ends them before anything is sent again.
                WanKind::Stray { volume, .. } => self.volume_mut(volume).strays -= 1,
                WanKind::Chunk { task, volume, .. } => self.chunk_lost(at, task, volume),
                WanKind::Forward { task } => {
                    // Until the reinstatement it may still be done: a function that
                    // has ended it is not told that it is over, and is rejected.
                    let pass = self.pass_mut(task);
                    (pass.aborting, pass.released_for) = (false, None);
                    // Nobody knows whether it was done: the computer is told so, and decides.
                    let sense = Sense::COMMUNICATION_FAILURE.fixed();
                    self.pass_answered(net, now, task, Ended::lost(&sense));
                }
                WanKind::Probe { page, .. } | WanKind::Check { page, .. } => {
                    self.staging.give(page)
                }
                WanKind::Holding { volume, page, .. } => self.holding_lost(volume, page),
                WanKind::Poll { .. } => {}
            }
        }
        for volume in self.volume_keys() {
            self.release_durable(net, now, volume);
        }
        self.give_up_releases(key);
        self.give_up_resets(key, false);
        let target = self.nexuses[key.0].target;
        // What it was to leave behind may have come back to it since it said so.
        if leaves && !self.nexuses[key.0].astray && !self.carries_flush(key) {
            self.nexuses[key.0].state = WanState::Gone;
            self.look_at_nexus(key);
        } else {
            self.back_off(now, key);
        }
        // It counts as lost by now.
        self.rest_doubts(now, target);
        self.feed_starved(net);
    }

    /// The storage may have lost what it has not synced, of commands that passed too: those
    /// that are not answered yet are not done, or nobody knows, and computers are told so.
    /// `of`: those alone that went by this nexus, whose session is lost.
    pub(super) fn lose_passed(&mut self, volume: VolumeKey, of: Option<NexusKey>, sense: Sense) {
        let sense = sense.fixed();
        let is_of =
            |relay: &Self, key: TaskKey| of.is_none_or(|nexus| relay.tasks[key.0].nexus == nexus);
        if let Some(key) = self.volume(volume).settling
            && is_of(self, key)
            && matches!(self.pass_mut(key).settling, Some(Settling::Durable { .. }))
        {
            self.give_up(key, ScsiStatus::CHECK_CONDITION, &sense);
        }
        for _ in 0..self.volume(volume).waiting.len() {
            let Some(key) = self.volume_mut(volume).waiting.pop_front() else {
                break;
            };
            if let Work::Write(write) = &self.tasks[key.0].work
                && matches!(write.state, WriteState::Durable { passed: true, .. })
                && is_of(self, key)
            {
                self.answer(key, ScsiStatus::CHECK_CONDITION, &sense, 0);
                self.forget(key);
            } else {
                self.volume_mut(volume).waiting.push_back(key);
            }
        }
    }

    /// Whether GOOD came from before such a loss, of a command that is to outlive it.
    pub(super) fn is_overtaken(&self, key: TaskKey) -> bool {
        let task = &self.tasks[key.0];
        let (Some(volume), Work::Pass(pass)) = (task.volume, &task.work) else {
            return false;
        };
        pass.losses != self.volume(volume).losses
            && (self.may_settle(key) || self.awaits_media(key))
    }

    pub(super) fn back_off(&mut self, now: Time, key: NexusKey) {
        let random = self.draw();
        let nexus = &mut self.nexuses[key.0];
        let pause = nexus.backoff(random);
        nexus.attempts += 1;
        nexus.state = WanState::Backoff(now + pause);
        self.look_at_nexus(key);
    }

    /// A chunk goes back to be asked again, or its page home if nobody waits.
    pub(super) fn chunk_lost(&mut self, wan_task: usize, key: TaskKey, volume: VolumeKey) {
        self.volume_mut(volume)
            .reads_out
            .retain(|read| read.wan_task != wan_task);
        let orphan = self.tasks[key.0].lan.is_none();
        let staging = &mut self.staging;
        let Work::Read(read) = &mut self.tasks[key.0].work else {
            unreachable!("chunks belong to reads")
        };
        let at = read
            .chunks
            .iter()
            .position(|chunk| chunk.state == ChunkState::Asked(wan_task));
        let at = at.expect("a read keeps its chunks until they are answered");
        if orphan || read.failed {
            staging.give(read.chunks.remove(at).page);
            self.finish_read(key);
        } else {
            read.chunks[at].state = ChunkState::Wanted;
            let nexus = self.tasks[key.0].nexus;
            if !self.nexuses[nexus.0].wanted.contains(&key) {
                self.nexuses[nexus.0].wanted.push_back(key);
            }
        }
    }
}

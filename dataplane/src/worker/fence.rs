//! What a lost session may still do at the storage, and how that is ended
//! before anything could land after it that is older (C-8).
//!
//! A session that is lost, by its connection or with the whole process, may have
//! writes under way that the storage carries out later. Its nexus is *astray*
//! until its next login, which reinstates and so ends them (RFC 7143 6.3.5).
//! While a nexus of a target is astray, no other sends a change to that target.
//! One that cannot come back (its name is no longer let in) would stop the
//! flush for ever: then another nexus resets each LUN, which ends the commands
//! of all sessions there (SAM-5 7.7), and logs in anew itself.
//!
//! Not for: stray answers on a session that lives (`WanKind::Stray`).

use arrayvec::ArrayVec;
use sluice_proto::Time;
use sluice_proto::iscsi::TaskFunctionResponse;
use sluice_proto::mutation::{Mutation, planted};

use super::nexus::{TARGET_LUNS_MAX, WanState};
use super::relay::{Net, Relay};
use super::task::{NexusKey, TaskKey, WanKind, Work};

/// Logins in vain after which another nexus resets what this one may have
/// under way: some 8 s, in which a storage that restarts is back.
pub(super) const ATTEMPTS_BEFORE_RESET: u32 = 8;

impl Relay {
    /// Notes that the storage may still carry out commands of a session that is lost.
    pub(super) fn gone_astray(&mut self, key: NexusKey) {
        let nexus = &mut self.nexuses[key.0];
        if !nexus.astray {
            nexus.astray = true;
            self.astray[nexus.target] += 1;
        }
    }

    /// It was reinstated, or what it had under way was reset.
    pub(super) fn no_longer_astray(&mut self, key: NexusKey) {
        let nexus = &mut self.nexuses[key.0];
        if nexus.astray {
            nexus.astray = false;
            self.astray[nexus.target] -= 1;
        }
        nexus.fenced_by = None;
        let target = nexus.target;
        if self.is_fenced_off(target) {
            return;
        }
        // Rare, and what has waited may go now.
        let waiting: Vec<NexusKey> = self
            .nexuses
            .iter()
            .filter(|(_, nexus)| nexus.target == target && !nexus.wanted.is_empty())
            .map(|(at, _)| NexusKey(at))
            .collect();
        for nexus in waiting {
            self.touch_nexus(nexus);
        }
    }

    /// Whether the storage may still change something by it after its session is lost.
    pub(super) fn may_change_media(&self, kind: &WanKind) -> bool {
        match *kind {
            WanKind::Flush { .. } => true,
            WanKind::Stray { record, .. } => record.is_some(),
            WanKind::Forward { task } => self.passes_change(task),
            WanKind::FlushSync { .. }
            | WanKind::Chunk { .. }
            | WanKind::Check { .. }
            | WanKind::Holding { .. }
            | WanKind::Poll { .. }
            | WanKind::Probe { .. } => false,
        }
    }

    /// Whether the task is a command that passes and touches the medium.
    pub(super) fn passes_change(&self, task: TaskKey) -> bool {
        matches!(&self.tasks[task.0].work, Work::Pass(pass) if pass.barrier.is_some())
    }

    /// Whether a change that is sent now could be followed by an older one.
    pub(super) fn is_fenced_off(&self, target: usize) -> bool {
        self.astray[target] > 0 && !planted(Mutation::ResendBeforeReinstatement)
    }

    /// Has another nexus reset the LUNs if this one has tried in vain for long.
    pub(super) fn consider_reset(&mut self, key: NexusKey) {
        let nexus = &self.nexuses[key.0];
        let target = nexus.target;
        let waits = nexus.astray
            && nexus.fenced_by.is_none()
            && matches!(nexus.state, WanState::Backoff(_))
            && nexus.attempts >= ATTEMPTS_BEFORE_RESET;
        if !waits {
            return;
        }
        let ready = self
            .nexuses
            .iter()
            .find(|(_, other)| {
                other.target == target && other.is_ready() && other.resets.is_empty()
            })
            .map(|(at, _)| NexusKey(at));
        let Some(ready) = ready else {
            return;
        };
        let luns = self
            .volume_keys()
            .map(|volume| self.volume(volume))
            .filter(|volume| volume.target == Some(target))
            .map(|volume| volume.lun);
        // As many as a target may have.
        let luns: ArrayVec<_, TARGET_LUNS_MAX> = luns.take(TARGET_LUNS_MAX).collect();
        if luns.is_empty() {
            return;
        }
        self.nexuses[ready.0].resets = luns;
        for (_, other) in &mut self.nexuses {
            if other.target == target && other.astray {
                other.fenced_by = Some(ready);
            }
        }
        self.counters.lun_resets += 1;
        self.send_reset(ready);
    }

    /// Sends a computer's LUN RESETs on to the storage. False if its nexus cannot now.
    pub(super) fn reset_units(
        &mut self,
        key: NexusKey,
        luns: ArrayVec<u64, TARGET_LUNS_MAX>,
    ) -> bool {
        let nexus = &mut self.nexuses[key.0];
        if !nexus.is_ready() || !nexus.resets.is_empty() {
            return false;
        }
        nexus.resets = luns;
        self.counters.lun_resets += 1;
        self.send_reset(key);
        !self.nexuses[key.0].resets.is_empty()
    }

    /// Sends the next LUN RESET of a nexus that has some to send.
    fn send_reset(&mut self, key: NexusKey) {
        let nexus = &mut self.nexuses[key.0];
        if let (Some(&lun), Some(conn)) = (nexus.resets.last(), nexus.conn.as_mut()) {
            if conn.reset_lun(lun).is_err() {
                return self.give_up_resets(key, false);
            }
            self.touch_nexus(key);
        }
    }

    /// The storage has answered a LUN RESET. After the last one this nexus logs
    /// in anew: its own commands were ended too, and get no answers.
    pub(super) fn reset_answered(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        key: NexusKey,
        response: TaskFunctionResponse,
    ) {
        match response {
            TaskFunctionResponse::Complete | TaskFunctionResponse::LunDoesNotExist => {}
            _ => return self.give_up_resets(key, true),
        }
        let lun = self.nexuses[key.0].resets.pop();
        if let (TaskFunctionResponse::LunDoesNotExist, Some(lun)) = (response, lun) {
            self.unit_is_missing(key, lun);
        }
        if !self.nexuses[key.0].resets.is_empty() {
            return self.send_reset(key);
        }
        let fenced: Vec<NexusKey> = self
            .nexuses
            .iter()
            .filter(|(_, nexus)| nexus.fenced_by == Some(key))
            .map(|(at, _)| NexusKey(at))
            .collect();
        for nexus in fenced {
            self.no_longer_astray(nexus);
        }
        self.reset_is_done(key);
        // Whatever others had out there was ended too, and may get no answer.
        let target = self.nexuses[key.0].target;
        let others: Vec<NexusKey> = self
            .nexuses
            .iter()
            .filter(|&(at, nexus)| at != key.0 && nexus.target == target && nexus.is_ready())
            .map(|(at, _)| NexusKey(at))
            .filter(|&other| self.wan_tasks.iter().any(|(_, task)| task.nexus == other))
            .collect();
        for other in others {
            self.lose_wan(net, now, other);
        }
        self.lose_wan(net, now, key);
    }

    /// The nexus that resets was lost, or the storage does not do it: those that
    /// wait may ask another, or the same again.
    pub(super) fn give_up_resets(&mut self, key: NexusKey, is_refused: bool) {
        self.nexuses[key.0].resets.clear();
        self.reset_is_given_up(key, is_refused);
        for (_, nexus) in &mut self.nexuses {
            if nexus.fenced_by == Some(key) {
                nexus.fenced_by = None;
            }
        }
    }
}

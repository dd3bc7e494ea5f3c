//! Unit attentions (C-14; SAM-5 5.14).
//!
//! The storage establishes one for each I_T nexus, and the relay's nexus for a
//! computer *is* that computer's: what is met on it by the relay's own commands
//! is kept for that computer, once, and never told to another, who is met by
//! one of his own. What it says of the volume is heeded here, whoever meets it, and
//! what the storage says by itself, in an asynchronous message, likewise.
//!
//! A computer whose commands are all answered from the cache would hear nothing,
//! and neither would the relay hear that it has been fenced off: so its nexus
//! is asked now and then whether it has something to say.

use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_proto::Time;
use sluice_proto::iscsi::{CommandEvent, Direction};
use sluice_proto::scsi::{Sense, SenseKey, opcode, same_lun, sense};

use super::failure::lost_before;
use super::nexus::{Probe, SENSE_LEN, TARGET_LUNS_MAX};
use super::relay::Relay;
use super::task::{NexusKey, ProbeStep, VolumeKey, WanKind};

/// How long a nexus may have answered from the cache alone before it is asked.
const POLL_PERIOD: Duration = Duration::from_secs(1);
/// The same where a reservation is held: so long may a computer that was fenced
/// off from outside go on being acknowledged.
const POLL_PERIOD_RESERVED: Duration = Duration::from_millis(250);

/// One unit attention for all of a unit: after a reset the computer looks at everything
/// anew (SAM-5 5.14.3: it stands for what came before it).
fn make_room(attentions: &mut ArrayVec<(u64, [u8; SENSE_LEN]), TARGET_LUNS_MAX>) {
    let several = attentions
        .iter()
        .map(|&(lun, _)| lun)
        .find(|&lun| attentions.iter().filter(|(of, _)| *of == lun).count() > 1);
    if let Some(lun) = several {
        attentions.retain(|(of, _)| *of != lun);
        attentions.push((lun, Sense::POWER_ON_OR_RESET.fixed()));
    }
}

impl Relay {
    /// A command of the relay's or a computer's has ended in CHECK CONDITION.
    /// A unit attention comes once, on whichever command is next, and all of
    /// the relay must know what it says.
    pub(super) fn heed_attention(
        &mut self,
        now: Time,
        nexus: NexusKey,
        kind: WanKind,
        bytes: &[u8],
    ) {
        let Some(received) = sense::parse(bytes) else {
            return;
        };
        let lost = lost_before(&received);
        if lost.is_none() && received.sense.key != SenseKey::UNIT_ATTENTION {
            return;
        }
        let orphan = |task: super::task::TaskKey| self.tasks[task.0].lan.is_none();
        // A computer's own command takes it there by itself, while there is one.
        let (volume, lun, untold) = match kind {
            WanKind::Flush { volume, .. }
            | WanKind::FlushSync { volume }
            | WanKind::Stray { volume, .. }
            | WanKind::Check { volume, .. }
            | WanKind::Holding { volume, .. }
            | WanKind::Poll { volume } => (Some(volume), self.volume(volume).lun, true),
            WanKind::Chunk { task, volume, .. } => {
                (Some(volume), self.volume(volume).lun, orphan(task))
            }
            WanKind::Forward { task } => {
                let known = &self.tasks[task.0];
                (known.volume, known.lun, orphan(task))
            }
            WanKind::Probe { lun, .. } => {
                let target = self.nexuses[nexus.0].target;
                (self.find_volume(target, lun), lun, true)
            }
        };
        // The flusher looks at its own answers itself.
        let flushers = matches!(kind, WanKind::Flush { .. } | WanKind::FlushSync { .. });
        if let Some(lost) = lost {
            // Whatever command meets it, it may be of what was flushed and not synced.
            if let (Some(volume), false) = (volume, flushers) {
                self.heed_deferred(volume, lost);
            }
            return;
        }
        if untold {
            self.keep_unit_attention(nexus, lun, bytes);
        }
        self.heed_unit_attention(now, nexus, volume, received.sense, flushers);
    }

    /// The storage tells of something that no command has met (RFC 7143 11.9.1, event 0).
    /// What it means for the relay is heeded; the computer, which this nexus is, is told
    /// in the same way, or by its next command.
    pub(super) fn heed_scsi_event(&mut self, now: Time, nexus: NexusKey, lun: u64, bytes: &[u8]) {
        let Some(received) = sense::parse(bytes) else {
            return;
        };
        let volume = self.find_volume(self.nexuses[nexus.0].target, lun);
        if let Some(lost) = lost_before(&received) {
            // Every nexus is told of the one error.
            if let Some(volume) = volume
                && self.volume(volume).flush_nexus == Some(nexus)
            {
                self.heed_deferred(volume, lost);
            }
            return;
        }
        let lan = self.nexuses[nexus.0].lan;
        let session = lan.and_then(|lan| self.lans.get_mut(lan.0));
        let told = session.is_some_and(|session| session.conn.scsi_event(lun, bytes));
        if let (true, Some(lan)) = (told, lan) {
            self.touch_lan(lan);
        }
        if received.sense.key == SenseKey::UNIT_ATTENTION {
            if !told {
                self.keep_unit_attention(nexus, lun, bytes);
            }
            self.heed_unit_attention(now, nexus, volume, received.sense, false);
        }
    }

    /// What a unit attention says of the volume. `flushers`: the flusher met it, and
    /// looks at it itself.
    fn heed_unit_attention(
        &mut self,
        now: Time,
        nexus: NexusKey,
        volume: Option<VolumeKey>,
        found: Sense,
        flushers: bool,
    ) {
        if found == Sense::CAPACITY_DATA_CHANGED
            || found == Sense::REPORTED_LUNS_CHANGED
            || found == Sense::MODE_PARAMETERS_CHANGED
        {
            self.probe_again(now, nexus);
        }
        let Some(volume) = volume else { return };
        if found == Sense::CAPACITY_DATA_CHANGED {
            self.doubt(now, volume);
        }
        if found.is_reset() && !flushers && self.hears_for_flush(volume, nexus) {
            self.flush_lost(volume);
        }
        if found == Sense::THIN_THRESHOLD_REACHED {
            self.set_write_through(volume, true);
        }
        if found == Sense::MODE_PARAMETERS_CHANGED {
            // Until it is known again; a needless SYNCHRONIZE CACHE loses nothing.
            self.volume_mut(volume).storage_wce = true;
            self.doubt(now, volume);
        }
        self.heed_reservation(now, nexus, volume, found);
    }

    /// Whether a reset of which this nexus hears counts for the flush: the one that carries
    /// it is told before its next sync is done, and while it is away nobody else would hear
    /// (C-2). Any other hears of a reset at each login, too.
    fn hears_for_flush(&self, volume: VolumeKey, nexus: NexusKey) -> bool {
        let Some(carrier) = self.volume(volume).flush_nexus else {
            return true;
        };
        let away = |carrier: &super::nexus::Nexus| !carrier.is_ready();
        carrier == nexus || self.nexuses.get(carrier.0).is_none_or(away)
    }

    /// A unit attention that no command has carried to the computer yet.
    pub(super) fn keep_unit_attention(&mut self, key: NexusKey, lun: u64, sense: &[u8]) {
        if self.nexuses[key.0].is_lane() {
            return;
        }
        let mut kept = [0; SENSE_LEN];
        let len = sense.len().min(SENSE_LEN);
        kept[..len].copy_from_slice(&sense[..len]);
        let attentions = &mut self.nexuses[key.0].unit_attentions;
        if !attentions.contains(&(lun, kept)) {
            self.counters.attentions_kept += 1;
            if attentions.is_full() {
                make_room(attentions);
            }
            // With one a LUN it holds every unit that is cached.
            let _ = attentions.try_push((lun, kept));
        }
    }

    /// The unit attention that this command must carry, if one is kept.
    pub(super) fn take_unit_attention(
        &mut self,
        key: NexusKey,
        command: &CommandEvent,
    ) -> Option<[u8; SENSE_LEN]> {
        if matches!(
            command.cdb[0],
            opcode::REQUEST_SENSE | opcode::INQUIRY | opcode::REPORT_LUNS
        ) {
            return None;
        }
        let attentions = &mut self.nexuses[key.0].unit_attentions;
        let at = attentions
            .iter()
            .position(|(lun, _)| same_lun(*lun, command.lun))?;
        Some(attentions.remove(at).1)
    }

    /// Every computer that has been let in is told, for what the relay itself
    /// changes in what they see of the volume (C-1: what it says of WCE).
    pub(super) fn raise_attention(&mut self, volume: VolumeKey, sense: Sense) {
        let (target, lun) = (self.volume(volume).target, self.volume(volume).lun);
        for at in 0..self.nexuses.capacity() {
            if self
                .nexuses
                .get(at)
                .is_some_and(|nexus| Some(nexus.target) == target && nexus.established)
            {
                self.keep_unit_attention(NexusKey(at), lun, &sense.fixed());
            }
        }
    }

    /// Asks again what is asked after login: LUNs, capacity, caching mode.
    pub(super) fn probe_again(&mut self, now: Time, key: NexusKey) {
        let nexus = &mut self.nexuses[key.0];
        if !nexus.is_ready() {
            return;
        }
        if nexus.probe.step.is_some() {
            nexus.probe.again = true;
            return;
        }
        nexus.probe = Probe {
            step: Some(ProbeStep::ReportLuns),
            ..Probe::default()
        };
        self.ask(now, key);
        self.look_at_nexus(key);
    }

    /// A command of the nexus' computer that the cache may answer alone.
    pub(super) fn note_local(&mut self, nexus: NexusKey, volume: VolumeKey) {
        let before = self.nexuses[nexus.0].unasked;
        self.nexuses[nexus.0].unasked |= 1 << volume.0;
        if before == 0 {
            self.look_at_nexus(nexus);
        }
    }

    /// Asks a nexus that has answered from the cache: TEST UNIT READY.
    pub(super) fn poll_nexus(&mut self, now: Time, key: NexusKey) {
        let nexus = &self.nexuses[key.0];
        if nexus.unasked == 0 || !nexus.is_ready() {
            return;
        }
        let since = now.since(nexus.polled_at);
        for volume in self.volume_keys() {
            let bit = 1_u64 << volume.0;
            let nexus = &self.nexuses[key.0];
            if nexus.unasked & bit == 0 {
                continue;
            }
            let period = if self.volume(volume).holding.is_held() {
                POLL_PERIOD_RESERVED
            } else {
                POLL_PERIOD
            };
            let full = self.wan_tasks.len() == self.wan_tasks.capacity();
            if since < period || nexus.window() == 0 || full {
                continue;
            }
            let nexus = &mut self.nexuses[key.0];
            nexus.unasked &= !bit;
            nexus.polled_at = now;
            let lun = self.volume(volume).lun;
            self.submit(
                now,
                key,
                WanKind::Poll { volume },
                lun,
                [0; 16],
                Direction::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c14_a_full_list_tells_of_a_unit_as_of_one_that_was_reset() {
        let mut attentions = ArrayVec::new();
        for lun in 0..14 {
            attentions.push((lun, Sense::NEXUS_LOSS.fixed()));
        }
        for sense in [Sense::CAPACITY_DATA_CHANGED, Sense::MODE_PARAMETERS_CHANGED] {
            attentions.push((3, sense.fixed()));
        }
        assert!(attentions.is_full());
        make_room(&mut attentions);
        assert_eq!(attentions.len(), 14);
        let of_3: Vec<_> = attentions.iter().filter(|(lun, _)| *lun == 3).collect();
        assert_eq!(of_3, [&(3, Sense::POWER_ON_OR_RESET.fixed())]);
    }
}

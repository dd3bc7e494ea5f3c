//! The operator: looks now and then at what has failed, has it sent again, and gives
//! up what is damaged (C-4, A-23).
//!
//! What always holds: nothing is given up but what was damaged ([`super::rot`]); what
//! fails without having been damaged or refused by the storage is a finding.

use std::time::Duration;

use sluice_hugepages::tables::{Command, FailedWrite, Outcome, Scope};
use sluice_proto::Time;
use sluice_proto::scsi::Sense;

use super::World;

/// Between two looks when nothing goes wrong any more.
const LOOKS_EVERY: Duration = Duration::from_millis(500);
/// Longest between two looks before.
const LOOKS_WITHIN_MS: u64 = 4000;

fn is_unsound(failed: &FailedWrite) -> bool {
    is_of(failed, Sense::UNRECOVERED_READ_ERROR)
}

fn is_of(failed: &FailedWrite, sense: Sense) -> bool {
    (failed.sense_key, failed.asc, failed.ascq) == (sense.key.code(), sense.asc, sense.ascq)
}

impl World {
    /// Looks, if it is time to.
    pub(super) fn operate(&mut self) {
        let now = self.now;
        if now < self.operator_looks || self.paused_until != Time::FAR {
            return;
        }
        let pause = if now < self.faults_over {
            Duration::from_millis(1 + self.operator_random.of(LOOKS_WITHIN_MS))
        } else {
            LOOKS_EVERY
        };
        self.operator_looks = now + pause;
        let failed: Vec<FailedWrite> = self.worker().relay.failed_writes().collect();
        for listed in failed.chunk_by(|a, b| (&a.target, a.lun) == (&b.target, b.lun)) {
            self.decide(listed);
        }
    }

    /// About what is listed of a volume.
    fn decide(&mut self, listed: &[FailedWrite]) {
        let FailedWrite {
            target, lun, stamp, ..
        } = listed[0];
        let mut volumes = self.storage.volumes.iter();
        let volume = volumes
            .position(|volume| volume.is_at(&target, lun))
            .expect("a volume of the storage");
        let is_rotten = |failed: &FailedWrite| {
            let mut rotten = self.rotten.iter();
            rotten.any(|it| it.volume == volume && it.is_listed_as(failed))
        };
        let reason = |failed: &&FailedWrite| {
            if is_unsound(failed) {
                is_rotten(failed)
            } else {
                let mut senses = self.storage.refused_with.iter();
                senses.any(|&sense| is_of(failed, sense))
            }
        };
        if let Some(failed) = listed.iter().find(|failed| !reason(failed)) {
            let detail = format!("{failed:?}");
            return self.report("what fails was damaged or refused", detail);
        }
        // What the storage refused is worth another try; so, now and then, is what is damaged.
        let all_rotten = listed.iter().all(is_unsound);
        let scope = Scope::Volume { target, lun };
        if !all_rotten || self.operator_random.chance(25) {
            self.met.retries += 1;
            self.command(&Command::RetryFailed { scope });
            return;
        }
        if self.command(&Command::DiscardFailed { scope, stamp }) != Outcome::Done {
            return;
        }
        // It may have died over it; and what is given up the journal may still know of.
        let forgets = !self.worker().relay.log_has_stopped() && self.journal.is_none();
        let Self {
            rotten,
            oracles,
            met,
            ..
        } = self;
        rotten.retain(|it| {
            if it.volume != volume || !listed.iter().any(|failed| it.is_listed_as(failed)) {
                return true;
            }
            met.given_up += 1;
            oracles[volume].give_up(&it.damage);
            !(it.header && forgets)
        });
    }

    fn command(&mut self, command: &Command) -> Outcome {
        let now = self.relay_now();
        self.worker().relay.command_from_control(now, command).0
    }
}

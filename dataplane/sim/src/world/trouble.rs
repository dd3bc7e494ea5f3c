//! What goes wrong, and when: one fault every few seconds, until all must drain.

use std::time::Duration;

use sluice_hugepages::fuse::Fuse;
use sluice_proto::Time;

use super::World;
use crate::fault::FaultKind;

impl World {
    /// What goes wrong now: cuts, crashes, power failures.
    pub(super) fn trouble(&mut self) {
        let now = self.now;
        if now >= self.cut_until {
            self.set_cut(false);
            self.cut_until = Time::FAR;
        }
        if now >= self.faults_over {
            self.set_cut(false);
            self.cut_until = Time::FAR;
            for link in &mut self.links {
                link.faults.loss = 0;
            }
            self.storage.busy_percent = 0;
            if let Some(journal) = &mut self.journal {
                journal.stalled_until = Time::ZERO;
                journal.disk.fails = false;
            }
            self.worker().relay.set_log_fuse(Fuse::NEVER);
            return;
        }
        if now < self.next_fault {
            return;
        }
        self.next_fault = now + Duration::from_millis(300 + self.random.of(6000));
        if self.journal.is_some() && self.journal_random.chance(60) {
            return self.trouble_journal();
        }
        match self.random.of(8) {
            0 | 1 => {
                let lasts = Duration::from_millis(self.random.of(4000));
                if self.meets(FaultKind::Cut) {
                    self.cuts += 1;
                    self.set_cut(true);
                    self.cut_until = now + lasts;
                }
            }
            2 => {
                if self.meets(FaultKind::Crash) {
                    self.crash();
                }
            }
            3 => {
                // In the middle of a step, soon: a write makes some ten stores.
                let most = 1 << (2 + self.random.of(8));
                let stores = 1 + self.random.of(most);
                if self.meets(FaultKind::CrashInStep) {
                    self.worker().relay.set_log_fuse(Fuse::after(stores));
                }
            }
            4 => {
                if self.meets(FaultKind::Reset) {
                    self.forget_what_passed();
                    self.storage.lose_cache();
                }
            }
            5 => {
                if self.meets(FaultKind::PowerFailure) {
                    self.forget_what_passed();
                    self.storage.fail_power();
                }
            }
            _ => {
                if self.meets(FaultKind::BrokenConnection) {
                    self.storage.break_one(&mut self.random);
                }
            }
        }
    }

    fn trouble_journal(&mut self) {
        let kind = self.journal_random.of(10);
        let stall = Duration::from_millis(self.journal_random.of(12_000));
        let Some(journal) = &mut self.journal else {
            return;
        };
        let without = self.options.without;
        match kind {
            // A journal that fails and a power loss are two faults: see `worker::journal`.
            0..=6 if journal.disk.fails || without.has(FaultKind::PowerLoss) => {}
            0..=6 => self.lose_power(),
            7 | 8 if without.has(FaultKind::JournalStall) => {}
            7 | 8 => {
                self.journal_stalls += 1;
                journal.stalled_until = self.now + stall;
            }
            _ if without.has(FaultKind::JournalFault) => {}
            _ => {
                self.journal_faults += 1;
                journal.disk.fails = true;
            }
        }
    }

    fn meets(&self, kind: FaultKind) -> bool {
        !self.options.without.has(kind)
    }

    fn forget_what_passed(&mut self) {
        for oracle in &mut self.oracles {
            oracle.storage_lost_cache();
        }
    }

    fn set_cut(&mut self, cut: bool) {
        self.links[2].is_cut = cut;
        self.links[3].is_cut = cut;
    }
}

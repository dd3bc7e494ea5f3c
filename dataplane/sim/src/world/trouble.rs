//! Makes happen what the schedule says, and ends it when its time is over.

use sluice_hugepages::fuse::Fuse;
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::scsi::ScsiStatus;

use super::World;
use super::rot::Rot;
use super::schedule::{Event, Scheduled};
use crate::oracle::Oracle;
use crate::storage::{Fault, Trouble};

impl World {
    /// Everything that goes wrong, or right again, by now.
    pub(super) fn trouble(&mut self) {
        let now = self.now;
        for cut in &mut self.cut_until {
            if now >= *cut {
                *cut = Time::FAR;
            }
        }
        if now >= self.paused_until {
            self.paused_until = Time::FAR;
        }
        if now >= self.hangs_until {
            self.hang(None);
        }
        if now >= self.faults_over {
            return self.mend();
        }
        while let Some(&Scheduled { at, event }) = self.schedule.get(self.next_event)
            && at <= now
        {
            let skipped = self.options.skip.contains(&self.next_event);
            self.next_event += 1;
            if !skipped && !self.options.without.has(event.kind()) {
                self.meet(event);
            }
        }
        self.cut_links();
    }

    /// Nothing goes wrong from here on.
    fn mend(&mut self) {
        self.cut_until = [Time::FAR; 2];
        self.paused_until = Time::FAR;
        self.cut_links();
        for link in &mut self.links {
            link.faults.loss = 0;
        }
        self.storage.busy_percent = 0;
        self.storage.hiccup_one_in = 0;
        self.storage.troubles.clear();
        self.storage.let_in();
        self.hang(None);
        if !self.cleared {
            self.cleared = true;
            self.storage.clear_reservations();
            self.oracles.iter_mut().for_each(Oracle::fence_forgotten);
        }
        if let Some(journal) = &mut self.journal {
            journal.stalled_until = Time::ZERO;
            journal.disk.fails = false;
            journal.behind_group = None;
        }
        self.worker().relay.set_log_fuse(Fuse::NEVER);
    }

    fn meet(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Cut { lasts } => {
                self.met.cuts += 1;
                self.cut_until = [now + lasts; 2];
            }
            Event::HalfCut { lasts, outward } => {
                self.met.half_cuts += 1;
                self.cut_until[usize::from(!outward)] = now + lasts;
            }
            Event::Crash { lingers } => {
                if lingers {
                    self.storage.linger(now, &mut self.storage_random);
                }
                self.crash(None);
            }
            Event::RotInLog { records } => self.crash(Some(Rot::Log { records })),
            Event::CrashInStep { stores } => {
                self.worker().relay.set_log_fuse(Fuse::after(stores));
            }
            Event::Pause { lasts } => {
                self.met.pauses += 1;
                self.paused_until = now + lasts;
            }
            Event::Leap { by } => {
                self.met.leaps += 1;
                self.ahead += by;
            }
            Event::LogLost => self.lose_log(),
            Event::StorageReset => {
                self.forget_what_passed();
                self.storage.lose_cache();
            }
            Event::StoragePower => {
                self.forget_what_passed();
                self.storage.fail_power();
                self.oracles.iter_mut().for_each(Oracle::fence_forgotten);
            }
            Event::Hang { lasts } => {
                self.met.hangs += 1;
                self.hang(Some(now + lasts));
            }
            Event::BrokenConnection { shut_out } => self.storage.break_soon = Some(shut_out),
            Event::Trouble {
                volume,
                of,
                fault,
                times,
                lasts,
            } => {
                let volume = volume % self.storage.volumes.len();
                if fault == Fault::Status(ScsiStatus::RESERVATION_CONFLICT) {
                    self.oracles[volume].conflict_begins();
                }
                self.storage.troubles.push(Trouble {
                    volume,
                    of,
                    fault,
                    until: now + lasts,
                    times,
                });
            }
            Event::PowerLoss
            | Event::PowerLossInStart { .. }
            | Event::PowerLossBehindGroup
            | Event::RotInJournal { .. }
            | Event::JournalStall { .. }
            | Event::JournalFault => self.meet_of_journal(event),
        }
    }

    fn meet_of_journal(&mut self, event: Event) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        match event {
            // A journal that fails and a power loss are two faults: see `worker::journal`.
            Event::PowerLoss
            | Event::PowerLossInStart { .. }
            | Event::PowerLossBehindGroup
            | Event::RotInJournal { .. }
                if journal.disk.fails => {}
            Event::PowerLoss => self.lose_power(None),
            Event::PowerLossInStart { keeps_log, writes } => {
                self.lose_power_in_start(keeps_log, writes);
            }
            Event::RotInJournal { part } => self.lose_power(Some(Rot::Journal { part })),
            Event::PowerLossBehindGroup => journal.behind_group = Some(false),
            Event::JournalStall { lasts } => {
                self.met.journal_stalls += 1;
                journal.stalled_until = self.now + lasts;
            }
            _ => {
                self.met.journal_faults += 1;
                journal.disk.fails = true;
            }
        }
    }

    /// The process dies, and the file of its log is gone; that takes longer than what
    /// the storage has under way.
    fn lose_log(&mut self) {
        self.met.logs_lost += 1;
        self.lose_memory();
        self.end(false, None);
    }

    /// What is not in the journal goes with the relay's memory.
    pub(super) fn lose_memory(&mut self) {
        let in_journal = |volume: usize| self.contract(volume) == Durability::Journal;
        let lost: Vec<usize> = (0..self.oracles.len())
            .filter(|&volume| !in_journal(volume))
            .collect();
        if !lost.is_empty() {
            self.storage.settle(&mut self.storage_random);
            self.judge_storage();
        }
        // That something passed, no journal says either.
        for (oracle, volume) in self.oracles.iter_mut().zip(&self.storage.volumes) {
            oracle.relay_lost_memory(&volume.visible);
        }
        // With the memory goes what was damaged in it; that a volume lacks something,
        // nobody knows what, is in its row, which a journal keeps of every volume.
        let has_journal = self.journal.is_some();
        self.rotten
            .retain(|rotten| !lost.contains(&rotten.volume) || has_journal && rotten.header);
    }

    fn hang(&mut self, until: Option<Time>) {
        self.hangs_until = until.unwrap_or(Time::FAR);
        self.storage.hangs = until.is_some();
        self.storage.ignores_functions = until.is_some();
    }

    fn forget_what_passed(&mut self) {
        for oracle in &mut self.oracles {
            oracle.storage_lost_cache();
        }
    }

    fn cut_links(&mut self) {
        let now = self.now;
        for (link, until) in self.links[2..].iter_mut().zip(self.cut_until) {
            link.is_cut = until != Time::FAR && now < until;
        }
    }
}

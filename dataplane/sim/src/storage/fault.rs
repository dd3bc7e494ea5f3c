//! Commands that the storage fails, each in a way that real ones do.

use std::ops::Range;

use sluice_proto::Time;
use sluice_proto::scsi::{self, Access, ScsiStatus, Sense, SenseKey, opcode};

use super::{Pending, Storage};
use crate::random::Random;

/// How a write or sync that is to fail ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not carried out.
    Status(ScsiStatus),
    Sense(Sense),
    /// Not carried out, and an earlier one that was GOOD is lost.
    Deferred(Sense),
    /// Not carried out, and all that was not synced is dropped, though it was GOOD: a
    /// kernel does so with its page cache after a write error.
    Dropped(Sense),
    /// GOOD, with so many bytes not taken.
    Short(u32),
    /// No answer, ever.
    Silence,
    /// The connection is reset.
    Disconnect,
}

/// Commands that are to fail.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Writes and changes of these blocks; syncs if there are none.
    pub lba: u64,
    pub blocks: u64,
    pub fault: Fault,
    /// How many of them.
    pub times: u32,
}

impl Refusal {
    fn meets(&self, access: Access) -> bool {
        match access {
            Access::Write { lba, blocks, .. } => {
                self.blocks > 0
                    && lba < self.lba + self.blocks
                    && self.lba < lba + u64::from(blocks)
            }
            Access::Range {
                lba,
                blocks,
                changes: true,
            } => self.blocks > 0 && lba < self.lba + self.blocks && self.lba < lba + blocks,
            Access::Sync { .. } => self.blocks == 0,
            _ => false,
        }
    }
}

/// Which commands of a volume are in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Troubled {
    Writes,
    Syncs,
    /// What changes blocks and is no plain write.
    Changes,
    Reads,
}

impl Troubled {
    fn of(access: Access) -> Option<Self> {
        match access {
            Access::Write { .. } => Some(Self::Writes),
            Access::Sync { .. } => Some(Self::Syncs),
            Access::Range { changes: true, .. } => Some(Self::Changes),
            Access::Read { .. } => Some(Self::Reads),
            _ => None,
        }
    }
}

/// For a while, or so many times, commands of a volume fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub volume: usize,
    pub of: Troubled,
    pub fault: Fault,
    pub until: Time,
    pub times: u32,
}

/// Commands that failed, by how, and by what they were.
#[derive(Clone, Copy, Debug, Default)]
pub struct TroubleCounters {
    /// BUSY, TASK SET FULL, and senses that say: later.
    pub for_now: u64,
    pub for_good: u64,
    pub conflicts: u64,
    pub deferred: u64,
    pub dropped: u64,
    pub short: u64,
    pub silent: u64,
    pub disconnected: u64,
    pub writes: u64,
    pub syncs: u64,
    pub changes: u64,
    pub reads: u64,
}

impl TroubleCounters {
    fn count(&mut self, of: Troubled, fault: Fault) {
        *match fault {
            Fault::Status(ScsiStatus::RESERVATION_CONFLICT) => &mut self.conflicts,
            Fault::Sense(sense) if sense.refuses_write_for_good() => &mut self.for_good,
            Fault::Status(_) | Fault::Sense(_) => &mut self.for_now,
            Fault::Deferred(_) => &mut self.deferred,
            Fault::Dropped(_) => &mut self.dropped,
            Fault::Short(_) => &mut self.short,
            Fault::Silence => &mut self.silent,
            Fault::Disconnect => &mut self.disconnected,
        } += 1;
        *match of {
            Troubled::Writes => &mut self.writes,
            Troubled::Syncs => &mut self.syncs,
            Troubled::Changes => &mut self.changes,
            Troubled::Reads => &mut self.reads,
        } += 1;
    }
}

/// What any command that changes something may end with now and then, and what the
/// next try of it need not.
const HICCUPS: [Fault; 6] = [
    Fault::Status(ScsiStatus::BUSY),
    Fault::Status(ScsiStatus::TASK_SET_FULL),
    Fault::Sense(Sense::BECOMING_READY),
    Fault::Sense(Sense::COMMANDS_CLEARED),
    Fault::Sense(Sense::POWER_ON_OR_RESET),
    Fault::Sense(Sense::new(SenseKey::ABORTED_COMMAND, 0x4B, 0x00)),
];

/// How a command fails, and of what blocks of which volume earlier writes are lost with it.
pub(super) type Failure = (Fault, usize, Range<usize>);

impl Storage {
    /// Takes one from the first refusal or trouble that the command meets.
    pub(super) fn fault_of(
        &mut self,
        now: Time,
        at: usize,
        pending: &Pending,
        random: &mut Random,
    ) -> Option<Failure> {
        if pending.cdb[0] == opcode::RELEASE_6
            && let Some((fault, times @ 1..)) = &mut self.releases_fail
        {
            *times -= 1;
            self.counters.refused += 1;
            return Some((*fault, 0, 0..0));
        }
        let access = scsi::classify(&pending.cdb).ok()?;
        let met = self
            .refusals
            .iter_mut()
            .find(|refusal| refusal.times > 0 && refusal.meets(access));
        if let Some(met) = met {
            met.times -= 1;
            self.counters.refused += 1;
            let first = usize::try_from(met.lba).expect("a small volume");
            let blocks = usize::try_from(met.blocks).expect("a small volume");
            return Some((met.fault, 0, first..first + blocks));
        }
        let volume = self.find(at, pending.command.lun)?;
        let of = Troubled::of(access)?;
        if let Some(sense) = self.sessions[at].attentions[volume].deferred.take() {
            self.trouble_counters.count(of, Fault::Deferred(sense));
            return Some((Fault::Deferred(sense), volume, 0..0));
        }
        let met = self.troubles.iter_mut().find(|trouble| {
            let due = trouble.times > 0 && now < trouble.until;
            due && (trouble.volume, trouble.of) == (volume, of)
        });
        let fault = match met {
            Some(trouble) => {
                trouble.times -= 1;
                trouble.fault
            }
            None if of == Troubled::Reads || self.hiccup_one_in == 0 => return None,
            None if random.of(self.hiccup_one_in) > 0 => return None,
            None => HICCUPS[random.below(HICCUPS.len())],
        };
        self.counters.refused += 1;
        self.trouble_counters.count(of, fault);
        let sense = match fault {
            Fault::Sense(sense) | Fault::Deferred(sense) | Fault::Dropped(sense) => Some(sense),
            Fault::Short(_) => Some(Sense::INTERNAL_TARGET_FAILURE),
            Fault::Status(ScsiStatus::RESERVATION_CONFLICT) => Some(Sense::WRITE_PROTECTED),
            _ => None,
        };
        let sense = sense.filter(|sense| sense.refuses_write_for_good());
        if let Some(sense) = sense.filter(|sense| !self.refused_with.contains(sense)) {
            self.refused_with.push(sense);
        }
        Some((fault, volume, 0..self.volumes[volume].media.len()))
    }

    pub(super) fn fail(&mut self, at: usize, pending: &Pending, failure: Failure) {
        let (fault, volume, lost) = failure;
        let check = ScsiStatus::CHECK_CONDITION;
        let (status, sense, moved) = match fault {
            Fault::Silence => return,
            Fault::Disconnect => {
                let handle = self.sessions[at].handle;
                return self.host.socket_mut(handle).abort();
            }
            Fault::Status(status) => (status, Vec::new(), 0),
            Fault::Sense(sense) => (check, sense.fixed().to_vec(), 0),
            Fault::Dropped(sense) => {
                self.volumes[volume].drop_unsynced(lost);
                self.lost.insert(volume);
                (check, sense.fixed().to_vec(), 0)
            }
            Fault::Deferred(sense) => {
                let lost_all = lost.len() == self.volumes[volume].media.len();
                self.volumes[volume].drop_unsynced(lost);
                if lost_all {
                    // Whose writes they were it does not know any more: every nexus is told.
                    self.lost.insert(volume);
                    for (other, session) in self.sessions.iter_mut().enumerate() {
                        if other != at && session.isid.is_some() {
                            session.attentions[volume].deferred = Some(sense);
                        }
                    }
                }
                let mut bytes = sense.fixed().to_vec();
                bytes[0] = 0x71;
                (check, bytes, 0)
            }
            Fault::Short(by) => (
                ScsiStatus::GOOD,
                Vec::new(),
                pending.command.expected_len - by,
            ),
        };
        let session = &mut self.sessions[at];
        session.conn.respond(pending.task, status, &sense, moved);
    }
}

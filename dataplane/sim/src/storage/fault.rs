//! Commands that the storage fails, each in a way that real ones do.

use sluice_proto::scsi::{self, Access, ScsiStatus, Sense};

use super::{Pending, Storage};

/// How a write or sync that is to fail ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not carried out.
    Status(ScsiStatus),
    Sense(Sense),
    /// Not carried out, and an earlier one that was GOOD is lost.
    Deferred(Sense),
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

impl Storage {
    /// Takes one from the first refusal that the command meets.
    pub(super) fn fault_of(&mut self, pending: &Pending) -> Option<(Refusal, Fault)> {
        let access = scsi::classify(&pending.cdb).ok()?;
        let met = self
            .refusals
            .iter_mut()
            .find(|refusal| refusal.times > 0 && refusal.meets(access))?;
        met.times -= 1;
        self.counters.refused += 1;
        Some((*met, met.fault))
    }

    pub(super) fn fail(&mut self, at: usize, pending: &Pending, fault: (Refusal, Fault)) {
        let (refusal, fault) = fault;
        let check = ScsiStatus::CHECK_CONDITION;
        let (status, sense, moved) = match fault {
            Fault::Silence => return,
            Fault::Disconnect => {
                let handle = self.sessions[at].handle;
                return self.host.socket(handle).abort();
            }
            Fault::Status(status) => (status, Vec::new(), 0),
            Fault::Sense(sense) => (check, sense.fixed().to_vec(), 0),
            Fault::Deferred(sense) => {
                for lba in refusal.lba..refusal.lba + refusal.blocks {
                    let block = usize::try_from(lba).expect("small");
                    let volume = &mut self.volumes[0];
                    volume.visible[block] = volume.media[block];
                }
                self.volumes[0].changed = true;
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

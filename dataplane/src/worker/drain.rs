//! Draining: an operator is to stop the relay, or its machine, and wants nothing
//! acknowledged to depend on it.
//!
//! What always holds while it drains:
//! * no write is acknowledged from the cache: the contract in force is `storage`
//!   for every volume ([`Relay::contract`]), so what is written meanwhile is on the
//!   storage's stable media when it is answered;
//! * computers are served as ever, and what they write goes the way of any
//!   other write: in its order, through the log;
//! * a volume is drained when all that was taken before is on the storage's
//!   stable media, and the journal knows that of it, so that a replay brings
//!   none of it back. How much is written meanwhile does not matter.
//!
//! It ends by the operator's word, or with the process. A volume that cannot be
//! flushed holds up nothing but itself, and says why.

use sluice_hugepages::tables::{Drain, HeldUp};
use sluice_proto::Time;

use super::relay::Relay;
use super::task::{NexusKey, VolumeKey};

/// How far a volume is. Of no meaning while nobody drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainStep {
    /// What was taken up to this sequence is not all at the storage.
    Flushing {
        through: u64,
    },
    /// It is; the journal does not know of these frees yet.
    Settling {
        freed: u64,
    },
    Drained,
}

impl Relay {
    /// Begins, or goes on: the volumes that are not drained.
    pub(super) fn drain(&mut self, now: Time) -> u32 {
        if self.draining_since.is_none() {
            self.draining_since = Some(now);
            for key in self.volume_keys() {
                let through = self.volume(key).next_sequence - 1;
                self.volume_mut(key).drain = DrainStep::Flushing { through };
            }
        }
        let mut left = 0;
        for key in self.volume_keys() {
            self.advance_drain(key);
            if self.volume(key).drain != DrainStep::Drained {
                left += 1;
                self.ask_flush(key);
            }
        }
        left
    }

    /// Writes are acknowledged again as each volume's own contract says. Those that
    /// wait for the storage go on waiting for it.
    pub(super) fn end_drain(&mut self) {
        self.draining_since = None;
    }

    /// Since when it drains.
    pub fn draining_since(&self) -> Option<Time> {
        self.draining_since
    }

    pub(super) fn advance_drain(&mut self, key: VolumeKey) {
        if self.draining_since.is_none() {
            return;
        }
        let volume = self.volume(key);
        let step = match volume.drain {
            DrainStep::Flushing { through }
                if volume.failure.sense().is_none()
                    && self.flush.durable_through(key.0, through) =>
            {
                DrainStep::Settling {
                    freed: volume.freed.last(),
                }
            }
            step => step,
        };
        self.volume_mut(key).drain = match step {
            DrainStep::Settling { freed } if self.journal_has(freed) => DrainStep::Drained,
            step => step,
        };
    }

    /// How far the volume is; one that nobody has written to is drained.
    pub fn drain_of(&self, key: Option<VolumeKey>) -> Drain {
        match (self.draining_since, key.map(|key| self.volume(key).drain)) {
            (None, _) => Drain::No,
            (Some(_), None | Some(DrainStep::Drained)) => Drain::Drained,
            (Some(_), Some(_)) => Drain::Draining,
        }
    }

    /// Why what the volume holds does not get to the storage, as far as is known.
    pub fn held_up(&self, key: VolumeKey) -> HeldUp {
        let volume = self.volume(key);
        if volume.failure.sense().is_some() {
            return HeldUp::Failed;
        }
        if self.flush.is_drained(key.0) {
            return match self.journal_has(volume.freed.last()) {
                true => HeldUp::No,
                false => HeldUp::Journal,
            };
        }
        let Some(target) = volume.target else {
            return HeldUp::Unconfigured;
        };
        let mut ready = self
            .nexuses
            .iter()
            .filter(|(_, nexus)| nexus.target == target && nexus.is_ready())
            .peekable();
        if volume.gate.is_loaded() && volume.gate.asked().is_none() {
            HeldUp::Loaded
        } else if volume.misfit {
            HeldUp::Misfit
        } else if ready.peek().is_none() {
            HeldUp::Storage
        } else if self.is_fenced_off(target) || volume.strays > 0 {
            HeldUp::Fenced
        } else if volume.refusal.is_some() {
            HeldUp::Refused
        } else if volume.holding.is_held()
            && !ready.any(|(at, _)| self.may_carry(key, NexusKey(at)))
        {
            HeldUp::Reserved
        } else {
            HeldUp::No
        }
    }
}

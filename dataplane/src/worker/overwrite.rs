//! A passing command that writes every block of its range (WRITE SAME), over
//! records that wait in the log: they are held back instead of flushed, and given
//! up when what the storage has made of them is durable there.
//!
//! What always holds: until then they are in the log, index and journal as ever. So
//! whatever happens to the command (the storage refuses it, a session is lost, the process
//! dies), they are sent, and the computer, which has had no answer, finds the
//! blocks as they were. When it is answered they are gone, from a replay too.
//!
//! Not for: what may be held back ([`sluice_proto::cache::flush`]).

use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::scsi::{self, Access, ScsiStatus};

use super::pass::token_of;
use super::relay::Relay;
use super::task::{Settling, TaskKey, VolumeKey, bars};

impl Relay {
    /// Whether the command is to go past records that wait, and holds them back.
    pub(super) fn holds(&mut self, key: TaskKey, volume: VolumeKey, barrier: Access) -> bool {
        let task = &self.tasks[key.0];
        // With less data than its range takes (RFC 7143 11.4.5) some blocks keep what they hold.
        let data_len = match barrier {
            Access::Range { blocks, .. } => {
                let block_len = self.volume(volume).block_len();
                scsi::overwrites_with(&task.whole_cdb(), blocks, block_len)
            }
            _ => None,
        };
        if data_len != Some(u64::from(task.expected_len)) {
            return false;
        }
        let state = self.volume(volume);
        // A stray write may still land; and where the storage acknowledges, each
        // write's own blocks are to be durable there.
        let may = task.lan.is_some()
            && state.strays == 0
            && !state.write_through
            && state.settling.is_none()
            && state.failure.sense().is_none()
            && self.contract(volume) != Durability::Storage;
        if !may {
            self.flush.release_hold(volume.0, token_of(key));
            return false;
        }
        let epoch = state.epoch;
        self.flush.hold(volume.0, token_of(key), barrier, epoch)
    }

    /// Whether a read still needs a record of the blocks that is durable already.
    pub(super) fn is_pinned(&self, volume: VolumeKey, barrier: Access) -> bool {
        self.volume(volume).durable.iter().any(|&record| {
            let (lba, blocks) = self.blocks_of(volume, record);
            bars(barrier, lba, blocks)
        })
    }

    /// Whether a command that the storage has just said GOOD to has records to give up.
    pub(super) fn may_settle(&self, key: TaskKey) -> bool {
        let task = &self.tasks[key.0];
        task.lan.is_some()
            && task
                .volume
                .is_some_and(|volume| self.flush.is_holding(volume.0, token_of(key)))
    }

    pub(super) fn begin_to_settle(&mut self, now: Time, key: TaskKey, moved: u32) {
        let volume = self.tasks[key.0].volume.expect("it holds records of one");
        let pass = self.pass_mut(key);
        pass.passing = false;
        self.flush.passed(volume.0, token_of(key));
        let settling = Settling::Durable {
            mark: self.flush.sync_mark(volume.0),
            reads_asked: self.volume(volume).reads_asked,
            moved,
        };
        self.pass_mut(key).settling = Some(settling);
        self.volume_mut(volume).settling = Some(key);
        self.ask_flush(volume);
        self.flush_volume(now, volume);
    }

    /// Gives up what has been overwritten, and answers, as far as that may be.
    pub(super) fn settle_overwritten(&mut self, now: Time, volume: VolumeKey) {
        let Some(key) = self.volume(volume).settling else {
            return;
        };
        let pass = self.pass_mut(key);
        let barrier = pass.barrier.expect("it has a range");
        let settling = pass.settling.expect("it is the volume's");
        let (number, moved) = match settling {
            Settling::Released { number, moved } => (number, moved),
            Settling::Durable {
                mark,
                reads_asked,
                moved,
            } => {
                if let Some(sense) = self.volume(volume).failure.sense() {
                    return self.give_up(key, ScsiStatus::CHECK_CONDITION, &sense);
                }
                let is_read =
                    self.volume(volume).reads_out.iter().any(|read| {
                        read.number <= reads_asked && bars(barrier, read.lba, read.blocks)
                    });
                if is_read || !self.flush.is_synced_since(volume.0, mark) {
                    return;
                }
                self.give_up_overwritten(key, volume);
                let number = self.volume(volume).freed.last();
                self.pass_mut(key).settling = Some(Settling::Released { number, moved });
                (number, moved)
            }
        };
        if !self.journal_has(number) {
            return;
        }
        self.end_pass(key);
        self.answer(key, ScsiStatus::GOOD, &[], moved);
        self.forget(key);
        self.commit_behind(now, volume);
    }

    fn give_up_overwritten(&mut self, key: TaskKey, volume: VolumeKey) {
        while let Some(record) = self.flush.next_overwritten(volume.0, token_of(key)) {
            self.give_up_hidden(volume, record);
        }
        self.counters.commands_overwrote += 1;
        self.room_moved |= !self.held.is_empty();
    }
}

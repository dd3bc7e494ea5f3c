//! Whether the storage takes writes to a volume at all, and how large that is. A write
//! acknowledged for a volume that is write protected, has no medium or ends before it,
//! could never be flushed (C-4): so what may have changed that is asked about before another
//! write is committed, and while the storage refuses, the relay refuses too,
//! with the storage's own sense.

use std::time::Duration;

use sluice_proto::Time;
use sluice_proto::iscsi::Direction;
use sluice_proto::scsi::mode::ModeSense;
use sluice_proto::scsi::{Capacity, ScsiStatus, Sense, SenseKey, cdb, opcode, sense};

use super::nexus::SENSE_LEN;
use super::relay::{Net, Relay};
use super::staging::StagePage;
use super::task::{VolumeKey, WanKind};
use super::volume::Geometry;

/// Bytes asked for of a caching mode page with its header.
const MODE_LEN: u8 = 192;
/// Of READ CAPACITY (16).
const CAPACITY_LEN: u32 = 32;
/// Refused writes ask the storage again this often, in case it was set right
/// by another way than through the relay.
const RECHECK_PERIOD: Duration = Duration::from_secs(1);

/// The questions of a check, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStep {
    /// TEST UNIT READY.
    Ready,
    /// MODE SENSE, for the WP bit of its header (SPC-5).
    Protected,
    /// READ CAPACITY (16): a write beyond the end could not be flushed either.
    Capacity,
}

/// Commands that can change whether a volume takes writes.
pub(super) fn may_change(cdb: &[u8; 16]) -> bool {
    matches!(
        cdb[0],
        opcode::MODE_SELECT_6
            | opcode::MODE_SELECT_10
            | opcode::START_STOP_UNIT
            | opcode::FORMAT_UNIT
            | opcode::SANITIZE
    )
}

/// And the unit may have another number of blocks, or of another length.
pub(super) fn may_resize(cdb: &[u8; 16]) -> bool {
    matches!(
        cdb[0],
        opcode::MODE_SELECT_6 | opcode::MODE_SELECT_10 | opcode::FORMAT_UNIT
    )
}

impl Relay {
    /// From here on writes wait to be committed until the storage has answered.
    pub(super) fn doubt(&mut self, now: Time, key: VolumeKey) {
        let volume = self.volume_mut(key);
        volume.in_doubt = true;
        volume.doubts += 1;
        self.check(now, key, CheckStep::Ready);
    }

    /// A session with the storage is lost. With none left nobody can be asked, and a
    /// doubt must not turn the outage into one of writes; where something was refused
    /// already, it holds them all the same (C-4).
    pub(super) fn rest_doubts(&mut self, now: Time, target: usize) {
        let mut nexuses = self.nexuses.iter();
        if nexuses.any(|(_, nexus)| nexus.target == target && nexus.is_ready()) {
            return;
        }
        for key in self.volume_keys() {
            let volume = self.volume_mut(key);
            if volume.target == Some(target)
                && volume.in_doubt
                && volume.refusal.is_none()
                && volume.failure.sense().is_none()
            {
                volume.doubt_rests = true;
                self.commit_behind(now, key);
            }
        }
    }

    /// The storage is there again: what was in doubt is asked, and waited for.
    pub(super) fn wake_doubts(&mut self, now: Time, target: usize) {
        for key in self.volume_keys() {
            let volume = self.volume_mut(key);
            if volume.target == Some(target) && std::mem::take(&mut volume.doubt_rests) {
                self.check(now, key, CheckStep::Ready);
            }
        }
    }

    /// Asks a check's question, or leaves it to the sweep when there is no way to.
    pub(super) fn check(&mut self, now: Time, key: VolumeKey, step: CheckStep) {
        self.volume_mut(key).checked_at = None;
        let Some(target) = self.volume(key).target else {
            return;
        };
        let nexus = self
            .nexuses
            .iter()
            .find(|(_, nexus)| nexus.target == target && nexus.is_ready() && nexus.window() > 0)
            .map(|(at, _)| super::task::NexusKey(at));
        let full = self.wan_tasks.len() == self.wan_tasks.capacity();
        let (Some(nexus), false) = (nexus, full) else {
            return;
        };
        let Some(page) = self.staging.take() else {
            return;
        };
        let (cdb, data) = match step {
            CheckStep::Ready => ([0; 16], Direction::None),
            CheckStep::Protected => {
                let cdb = ModeSense::caching_page_cdb(MODE_LEN);
                (cdb, Direction::In(u32::from(MODE_LEN)))
            }
            CheckStep::Capacity => {
                let cdb = cdb::read_capacity_16(CAPACITY_LEN);
                (cdb, Direction::In(CAPACITY_LEN))
            }
        };
        let lun = self.volume(key).lun;
        let volume = self.volume_mut(key);
        volume.checked_at = Some(now);
        let kind = WanKind::Check {
            volume: key,
            doubts: volume.doubts,
            step,
            page,
            received: 0,
        };
        self.submit(now, nexus, kind, lun, cdb, data);
    }

    /// A check has been answered.
    pub(super) fn check_answered(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        key: VolumeKey,
        (step, doubts): (CheckStep, u32),
        answer: (StagePage, u32),
        ended: (ScsiStatus, &[u8]),
    ) {
        let (page, received) = answer;
        let (status, bytes) = ended;
        let data = &self.staging.bytes(net.pool, page)[..received as usize];
        let mode =
            ModeSense::from_cdb(&ModeSense::caching_page_cdb(MODE_LEN)).expect("our own CDB");
        let protected = mode.parse(data).is_some_and(|state| state.write_protected);
        let capacity = Capacity::parse_16(data).ok();
        self.staging.give(page);
        if doubts != self.volume(key).doubts {
            // It may have been asked before what there is to know now, which has a check
            // of its own.
            return;
        }
        let found = sense::parse(bytes).map(|received| received.sense);
        match (status, found) {
            (
                ScsiStatus::CHECK_CONDITION,
                Some(Sense {
                    key: SenseKey::UNIT_ATTENTION,
                    ..
                }),
            )
            | (ScsiStatus::BUSY | ScsiStatus::TASK_SET_FULL, _) => {
                self.volume_mut(key).checked_at = None;
            }
            (ScsiStatus::CHECK_CONDITION, _) if step == CheckStep::Ready => {
                let mut kept = [0; SENSE_LEN];
                let len = bytes.len().min(SENSE_LEN);
                kept[..len].copy_from_slice(&bytes[..len]);
                self.settle(now, key, Some(kept));
            }
            _ if step == CheckStep::Ready => self.check(now, key, CheckStep::Protected),
            _ if step == CheckStep::Protected && protected => {
                self.settle(now, key, Some(Sense::WRITE_PROTECTED.fixed()));
            }
            _ if step == CheckStep::Protected => self.check(now, key, CheckStep::Capacity),
            // One that does not know the command is asked by READ CAPACITY (10), at leisure.
            (ScsiStatus::GOOD, _) if let Some(capacity) = capacity => {
                let geometry = Geometry {
                    block_len: capacity.block_len,
                    blocks: capacity.blocks,
                };
                self.fit_volume(key, geometry);
                self.settle(now, key, None);
            }
            _ => self.settle(now, key, None),
        }
    }

    /// It is known again: what waited is committed, or refused as the storage would.
    pub(super) fn settle(&mut self, now: Time, key: VolumeKey, refusal: Option<[u8; SENSE_LEN]>) {
        let volume = self.volume_mut(key);
        (volume.in_doubt, volume.doubt_rests) = (false, false);
        volume.refusal = refusal;
        self.commit_behind(now, key);
    }

    /// Asks again what could not be asked, and now and then what was refused.
    pub(super) fn recheck(&mut self, now: Time, key: VolumeKey) {
        let volume = self.volume(key);
        let rested = volume
            .checked_at
            .is_none_or(|at| now.since(at) >= RECHECK_PERIOD);
        if (volume.in_doubt || volume.refusal.is_some()) && rested {
            self.check(now, key, CheckStep::Ready);
        }
    }
}

//! A volume of the model storage: what it would answer, what its stable media
//! hold, and what commands do to both.

use std::collections::VecDeque;
use std::ops::Range;

use sluice_proto::scsi::{self, Access, Sense, SenseKey, opcode};

use super::{Pending, StorageCounters};
use crate::block;
use crate::oracle::Image;
use crate::reservation::Reservations;

#[derive(Debug)]
pub struct Volume {
    /// The target that has it; `None` for any.
    pub target: Option<String>,
    pub lun: u64,
    pub block_len: usize,
    /// Of the places in its blocks: see [`block::tag`].
    pub tag: u64,
    pub visible: Image,
    pub media: Image,
    /// No volatile cache: GOOD means stable media (WCE = 0).
    pub write_through: bool,
    /// There is a Caching mode page.
    pub caching_page: bool,
    pub reservations: Reservations,
    /// Blocks that it has after a FORMAT UNIT, if not as many as before.
    pub formats_to: Option<usize>,
    /// Blocks written to it that were of no write.
    pub torn: u64,
    /// Of the contents, since somebody looked last.
    pub changed: bool,
}

/// Unit attentions that wait for a nexus' next command.
#[derive(Clone, Debug, Default)]
pub(super) struct Attentions {
    pub(super) reset: bool,
    /// Others, oldest first.
    pub(super) told: VecDeque<Sense>,
    /// What its next command is told of writes that were GOOD.
    pub(super) deferred: Option<Sense>,
}

impl Attentions {
    /// What a new nexus, and one after a reset, is met with.
    pub(super) fn fresh() -> Self {
        Self {
            reset: true,
            ..Self::default()
        }
    }

    pub(super) fn take(&mut self) -> Option<Sense> {
        if std::mem::take(&mut self.reset) {
            return Some(Sense::POWER_ON_OR_RESET);
        }
        self.told.pop_front()
    }
}

fn at(lba: u64) -> usize {
    usize::try_from(lba).expect("a small volume")
}

/// What MODE SELECT sets the number of blocks to: that of a short block descriptor, behind
/// a header of 4 bytes or of 8 (SPC-5 7.5.4, 7.5.5; SBC-4 6.4.2.2).
fn blocks_of_mode(operation: u8, list: &[u8]) -> Option<usize> {
    let (header_len, len_at) = match operation {
        opcode::MODE_SELECT_6 => (4, 3),
        _ => (8, 7),
    };
    (list.get(len_at) == Some(&8)).then_some(())?;
    let number = list.get(header_len..)?.first_chunk()?;
    Some(at(u32::from_be_bytes(*number).into()))
}

impl Volume {
    /// Empty, the `number`th of the storage.
    pub fn new(
        target: Option<String>,
        lun: u64,
        block_len: usize,
        blocks: usize,
        number: usize,
    ) -> Self {
        Self {
            target,
            lun,
            block_len,
            tag: block::tag(number),
            visible: vec![0; blocks],
            media: vec![0; blocks],
            write_through: false,
            caching_page: true,
            reservations: Reservations::default(),
            formats_to: None,
            torn: 0,
            changed: false,
        }
    }

    /// Grows by blocks that read as zeroes, or shrinks.
    pub(super) fn resize(&mut self, blocks: usize) {
        self.visible.resize(blocks, 0);
        self.media.resize(blocks, 0);
    }

    pub(super) fn is_of(&self, target: &str) -> bool {
        self.target.as_deref().is_none_or(|own| own == target)
    }

    /// Whether it is this unit of the target.
    pub fn is_at(&self, target: &str, lun: u64) -> bool {
        self.is_of(target) && self.lun == lun
    }

    /// Carries out what touches the medium, or asks about it; gives its read data.
    pub(super) fn perform(
        &mut self,
        pending: &Pending,
        counters: &mut StorageCounters,
        unmaps: bool,
    ) -> Result<Vec<u8>, Sense> {
        let cdb = &pending.command.cdb;
        let len = self.block_len;
        let access = scsi::classify(&pending.cdb);
        access.and_then(|access| access.check(self.media.len() as u64))?;
        if let Ok(Access::Read { blocks, .. }) = access
            && pending.command.expected_len as usize != blocks as usize * len
        {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        // What changes blocks brings no more of them than there are from its first on.
        if let Ok(Access::Write { lba, .. } | Access::Range { lba, .. }) = access
            && lba + (pending.data.len().div_ceil(len) as u64) > self.media.len() as u64
        {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        match (cdb[0], access) {
            (opcode::SERVICE_ACTION_IN_16, _) => {
                let mut answer = vec![0; 32];
                answer[..8].copy_from_slice(&(self.media.len() as u64 - 1).to_be_bytes());
                let len = u32::try_from(len).expect("512 or 4096");
                answer[8..12].copy_from_slice(&len.to_be_bytes());
                return Ok(answer);
            }
            (opcode::MODE_SENSE_6, _) if !self.caching_page => {
                // All pages are a header: the one that was asked for is not there.
                let all = cdb[2] & 0x3F == 0x3F;
                return all
                    .then(|| vec![3, 0, 0, 0])
                    .ok_or(Sense::INVALID_FIELD_IN_CDB);
            }
            (opcode::MODE_SENSE_6, _) => {
                // Header of 4 bytes, caching page with WCE set.
                let caching = if self.write_through { 0x00 } else { 0x04 };
                let mut answer = vec![23, 0, 0, 0, 0x08, 0x12, caching];
                answer.resize(24, 0);
                return Ok(answer);
            }
            (_, Ok(Access::Read { lba, blocks, .. })) => {
                counters.reads += 1;
                return Ok(self.read(lba, blocks as usize * len));
            }
            (_, Ok(Access::Write { lba, fua, .. })) => {
                counters.writes += 1;
                self.write(lba, &pending.data, fua, counters);
            }
            (opcode::WRITE_AND_VERIFY_10, Ok(Access::Range { lba, .. })) => {
                counters.changes_passed += 1;
                self.write(lba, &pending.data, false, counters);
            }
            (opcode::WRITE_SAME_16, Ok(Access::Range { lba, blocks, .. })) => {
                counters.changes_passed += 1;
                // Its one block goes to all, whatever place it says; with NDOB zeroes do.
                let has_none = cdb[1] & 1 != 0;
                let zeroes = vec![0; len];
                let block = if has_none { &zeroes } else { &pending.data };
                self.write(lba, &block.repeat(at(blocks)), false, counters);
            }
            (opcode::FORMAT_UNIT, _) => {
                self.resize(self.formats_to.unwrap_or(self.media.len()));
                self.visible.fill(0);
                self.media.fill(0);
                self.changed = true;
            }
            (opcode::MODE_SELECT_6 | opcode::MODE_SELECT_10, _) => {
                if let Some(blocks) = blocks_of_mode(cdb[0], &pending.data) {
                    self.resize(blocks);
                }
            }
            (opcode::XDWRITEREAD_10, Ok(Access::Range { lba, .. })) => {
                counters.changes_passed += 1;
                let mut answer = self.read(lba, pending.data.len());
                for (old, new) in answer.iter_mut().zip(&pending.data) {
                    *old ^= new;
                }
                self.write(lba, &pending.data, false, counters);
                return Ok(answer);
            }
            (opcode::UNMAP, _) if unmaps => {
                counters.changes_passed += 1;
                // Block descriptors of 16 bytes from byte 8 on (SBC-4, UNMAP parameter list).
                let descriptors = pending.data.get(8..).unwrap_or_default();
                for descriptor in descriptors.chunks_exact(16) {
                    let lba = u64::from_be_bytes(*descriptor.first_chunk().expect("16 bytes"));
                    let blocks = u32::from_be_bytes(descriptor[8..12].try_into().expect("4 bytes"));
                    if lba.saturating_add(blocks.into()) > self.media.len() as u64 {
                        return Err(Sense::LBA_OUT_OF_RANGE);
                    }
                    let zeroes = vec![0; blocks as usize * len];
                    self.write(lba, &zeroes, false, counters);
                }
            }
            (opcode::COMPARE_AND_WRITE, Ok(Access::Range { lba, .. })) => {
                let (expected, new) = pending.data.split_at(pending.data.len() / 2);
                let equal = expected.chunks(len).zip(lba..).all(|(piece, lba)| {
                    block::number(piece, self.tag | lba) == Some(self.visible[at(lba)])
                });
                if !equal {
                    return Err(Sense::new(SenseKey::MISCOMPARE, 0x1D, 0x00));
                }
                counters.changes_passed += 1;
                self.write(lba, new, false, counters);
            }
            (_, Ok(Access::Sync { .. })) => {
                counters.syncs += 1;
                self.changed = true;
                self.media.clone_from(&self.visible);
            }
            _ => {}
        }
        Ok(Vec::new())
    }

    fn read(&self, lba: u64, len: usize) -> Vec<u8> {
        let mut answer = vec![0; len];
        for (piece, lba) in answer.chunks_mut(self.block_len).zip(lba..) {
            block::fill(piece, self.visible[at(lba)], self.tag | lba);
        }
        answer
    }

    /// Of these blocks only what is on stable media is left.
    pub(super) fn drop_unsynced(&mut self, blocks: Range<usize>) {
        self.visible[blocks.clone()].copy_from_slice(&self.media[blocks]);
        self.changed = true;
    }

    fn write(&mut self, lba: u64, data: &[u8], fua: bool, counters: &mut StorageCounters) {
        counters.write_through += u64::from(self.write_through);
        self.changed = true;
        for (piece, lba) in data.chunks(self.block_len).zip(lba..) {
            let at = at(lba);
            match block::number(piece, self.tag | lba) {
                Some(number) => self.visible[at] = number,
                None => self.torn += 1,
            }
            if fua || self.write_through {
                self.media[at] = self.visible[at];
            }
        }
    }
}

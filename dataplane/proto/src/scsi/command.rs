//! Which command reads, writes, orders or touches which blocks.
//!
//! One table says it for every command the relay knows; [`classify`] reads it.
//! What the table does not name is [`Access::Medium`]: everything cached is
//! flushed before it passes, so an unknown command can be slow but never sees
//! or leaves stale data. A command that carries protection information
//! with its blocks is never answered from the cache, which does not hold any.

use super::cdb::FUA;
use super::{Sense, be16, be32, be64, opcode};
use table::{COMMANDS, Command, FIRST_ROW, Field, Kind, NO_ROW, Zero};

mod table;

/// WRITE SAME (16) and (32): no data-out, zeroes are written.
const NDOB: u8 = 1 << 0;

/// What a command does to the blocks of its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No block: passes at any time, or is answered by the relay.
    None,
    /// Returns `blocks` blocks; none if it is 0.
    Read { lba: u64, blocks: u32, fua: bool },
    /// Stores `blocks` blocks; none if it is 0. With `fua` its end is an ordering point (C-5).
    Write { lba: u64, blocks: u32, fua: bool },
    /// Everything before it is durable when it ends, or with `immed` soon
    /// after (C-2). To the end of the volume: see [`Access::to_end`].
    Sync { lba: u64, blocks: u64, immed: bool },
    /// What overlaps is flushed first, then the command passes (A-20, C-6).
    /// With `changes` it changes the blocks too, so it also waits until every
    /// earlier epoch is durable.
    Range {
        lba: u64,
        blocks: u64,
        changes: bool,
    },
    /// Everything is flushed first, then the command passes.
    Medium,
}

impl Access {
    /// The `blocks` of a range from `lba` to the end of the volume, whatever its size.
    #[must_use]
    pub const fn to_end(lba: u64) -> u64 {
        u64::MAX - lba
    }

    /// Whether the range lies on a volume of `capacity` blocks.
    ///
    /// # Errors
    /// LBA OUT OF RANGE (SBC-4: the logical block range exceeds the capacity).
    pub const fn check(self, capacity: u64) -> Result<(), Sense> {
        let end = match self {
            Self::None | Self::Medium => return Ok(()),
            Self::Read { lba, blocks, .. } | Self::Write { lba, blocks, .. } => {
                lba.checked_add(blocks as u64)
            }
            Self::Sync { lba, blocks, .. } | Self::Range { lba, blocks, .. } => {
                if blocks == Self::to_end(lba) {
                    Some(lba)
                } else {
                    lba.checked_add(blocks)
                }
            }
        };
        match end {
            Some(end) if end <= capacity => Ok(()),
            _ => Err(Sense::LBA_OUT_OF_RANGE),
        }
    }

    /// The initiator asks for order with this command itself. The task
    /// attribute can ask for it too and is not in the CDB.
    #[must_use]
    pub const fn orders(self) -> bool {
        matches!(self, Self::Sync { .. } | Self::Write { fua: true, .. })
    }
}

fn find(cdb: &[u8]) -> Result<Option<&'static Command>, Sense> {
    let code = *cdb.first().ok_or(Sense::INVALID_FIELD_IN_CDB)?;
    let first = FIRST_ROW[usize::from(code)];
    if first == NO_ROW {
        return Ok(None);
    }
    let rows = &COMMANDS[usize::from(first)..];
    if rows[0].service_action.is_none() {
        return Ok(Some(&rows[0]));
    }
    let action = match code {
        opcode::VARIABLE_LENGTH => be16(cdb, 8),
        _ => cdb.get(1).map(|byte| u16::from(byte & 0x1F)),
    };
    let action = action.ok_or(Sense::INVALID_FIELD_IN_CDB)?;
    let mut same_code = rows.iter().take_while(|row| row.opcode == code);
    Ok(same_code.find(|row| row.service_action == Some(action)))
}

/// The name of a command, for the operator; `None` if the table has none.
#[must_use]
pub fn name(cdb: &[u8]) -> Option<&'static str> {
    find(cdb).ok().flatten().map(|row| row.name)
}

/// Bytes of data-out with which the command leaves nothing of what `blocks` blocks of
/// `block_len` bytes held; with less some keep it, whatever the CDB says. `None`: some
/// keep it anyway.
#[must_use]
pub fn overwrites_with(cdb: &[u8], blocks: u64, block_len: u32) -> Option<u64> {
    let row = find(cdb).ok().flatten()?;
    match row.kind {
        Kind::Overwrite => blocks.checked_mul(u64::from(block_len)),
        // One block of data goes to all, or with NDOB none (SBC-4 5.50).
        Kind::Repeat => {
            let flags = *cdb.get(row.flags)?;
            let has_ndob = cdb[0] != opcode::WRITE_SAME_10;
            Some(if has_ndob && flags & NDOB != 0 {
                0
            } else {
                u64::from(block_len)
            })
        }
        _ => None,
    }
}

/// The byte of the CDB with FUA and DPO, of a command that has them (SBC-4: reads and
/// writes of 10 bytes and more, and what changes blocks by what they hold).
#[must_use]
pub fn fua_byte(cdb: &[u8]) -> Option<usize> {
    let row = find(cdb).ok().flatten()?;
    let has_fua = matches!(row.kind, Kind::Read | Kind::Write | Kind::Change) && row.flags != 0;
    (has_fua && row.flags < cdb.len()).then_some(row.flags)
}

/// Whether the command is to reach the medium, or come from it.
#[must_use]
pub fn asks_fua(cdb: &[u8]) -> bool {
    fua_byte(cdb).is_some_and(|at| cdb[at] & FUA != 0)
}

impl Field {
    /// `Ok(None)`: the command has no such field.
    fn read(self, cdb: &[u8]) -> Result<Option<u64>, Sense> {
        let value = match self {
            Self::Absent => return Ok(None),
            Self::U8(at) => cdb.get(at).map(|byte| u64::from(*byte)),
            Self::U21 => be32(cdb, 0).map(|word| u64::from(word & 0x1F_FFFF)),
            Self::U16(at) => be16(cdb, at).map(u64::from),
            Self::U32(at) => be32(cdb, at).map(u64::from),
            Self::U64(at) => be64(cdb, at),
        };
        value.map(Some).ok_or(Sense::INVALID_FIELD_IN_CDB)
    }
}

/// Says what the command in `cdb` touches. A CDB may be longer than its
/// command (iSCSI pads to 16 bytes).
///
/// # Errors
/// INVALID FIELD IN CDB if the bytes end too early; LBA OUT OF RANGE if first
/// block and count overflow 64 bits. Whether the range lies on the volume is
/// for [`Access::check`].
pub fn classify(cdb: &[u8]) -> Result<Access, Sense> {
    let Some(row) = find(cdb)? else {
        return Ok(Access::Medium);
    };
    match row.kind {
        Kind::NoBlocks => return Ok(Access::None),
        Kind::Medium => return Ok(Access::Medium),
        Kind::Read
        | Kind::Write
        | Kind::Sync
        | Kind::Inspect
        | Kind::Change
        | Kind::Overwrite
        | Kind::Repeat => {}
    }
    let lba = row.lba.read(cdb)?.unwrap_or(0);
    let blocks = match (row.blocks.read(cdb)?.unwrap_or(0), row.zero) {
        (0, Zero::ToEnd) => Access::to_end(lba),
        (0, Zero::Blocks256) => 256,
        (blocks, _) => blocks,
    };
    lba.checked_add(blocks).ok_or(Sense::LBA_OUT_OF_RANGE)?;
    let flags = match row.flags {
        0 => 0,
        at => *cdb.get(at).ok_or(Sense::INVALID_FIELD_IN_CDB)?,
    };
    let (protection, fua) = (flags & 0xE0 != 0, flags & FUA != 0);
    let counted = u32::try_from(blocks);
    Ok(match (row.kind, counted) {
        (Kind::Read, Ok(blocks)) if !protection => Access::Read { lba, blocks, fua },
        (Kind::Write, Ok(blocks)) if !protection => Access::Write { lba, blocks, fua },
        (Kind::Sync, _) => Access::Sync {
            lba,
            blocks,
            immed: cdb[1] & 0x02 != 0,
        },
        (Kind::Read | Kind::Inspect, _) => Access::Range {
            lba,
            blocks,
            changes: false,
        },
        _ => Access::Range {
            lba,
            blocks,
            changes: true,
        },
    })
}

#[cfg(test)]
mod tests;

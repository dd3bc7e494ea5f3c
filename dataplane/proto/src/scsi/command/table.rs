//! The rows: what each command does, and where its numbers stand in the CDB.

use crate::scsi::opcode::{self, maintenance_in, service_action_in_16, variable_length};

/// What a command of the table does; the CDB fills in the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    NoBlocks,
    Read,
    Write,
    Sync,
    /// Passes once the overlap is flushed, and leaves the blocks as they are.
    Inspect,
    /// Passes once the overlap is flushed, and changes the blocks.
    Change,
    /// As [`Kind::Change`], and no block of the range keeps anything of what it held.
    Overwrite,
    /// As [`Kind::Overwrite`], every block with the one that comes as data-out, or zeroes.
    Repeat,
    Medium,
}

/// Where a number stands in the CDB (offset of its first byte).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Absent,
    U8(usize),
    /// 21 bits, the lower five of byte 1 first: the LBA of 6-byte commands.
    U21,
    U16(usize),
    U32(usize),
    U64(usize),
}

/// What a block count of zero stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zero {
    NoBlocks,
    Blocks256,
    ToEnd,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub opcode: u8,
    pub service_action: Option<u16>,
    /// The title of its clause in SBC-4 or SPC-5 (or the last edition that had it).
    pub name: &'static str,
    pub kind: Kind,
    pub lba: Field,
    pub blocks: Field,
    pub zero: Zero,
    /// The byte with RDPROTECT, WRPROTECT, VRPROTECT or ORPROTECT in bits 5 to
    /// 7 and FUA in bit 3; 0 for commands that have none.
    pub flags: usize,
}

const fn row(opcode: u8, name: &'static str, kind: Kind) -> Command {
    let (lba, blocks) = (Absent, Absent);
    Command {
        opcode,
        service_action: None,
        name,
        kind,
        lba,
        blocks,
        zero: Zero::NoBlocks,
        flags: 0,
    }
}

impl Command {
    const fn at(self, lba: Field, blocks: Field) -> Self {
        Self {
            lba,
            blocks,
            ..self
        }
    }

    const fn zero(self, zero: Zero) -> Self {
        Self { zero, ..self }
    }

    const fn flags(self, flags: usize) -> Self {
        Self { flags, ..self }
    }

    const fn action(self, service_action: u16) -> Self {
        Self {
            service_action: Some(service_action),
            ..self
        }
    }
}

use Field::{Absent, U8, U16, U21, U32, U64};
use Kind::{Change, Inspect, Medium, NoBlocks, Overwrite, Read, Repeat, Sync, Write};
use Zero::{Blocks256, ToEnd};

/// In order of operation code; those of one code stand together.
#[rustfmt::skip]
pub(super) static COMMANDS: [Command; 60] = [
    row(opcode::TEST_UNIT_READY, "TEST UNIT READY", NoBlocks),
    row(opcode::REQUEST_SENSE, "REQUEST SENSE", NoBlocks),
    row(opcode::FORMAT_UNIT, "FORMAT UNIT", Medium),
    row(opcode::READ_6, "READ (6)", Read).at(U21, U8(4)).zero(Blocks256),
    row(opcode::WRITE_6, "WRITE (6)", Write).at(U21, U8(4)).zero(Blocks256),
    row(opcode::INQUIRY, "INQUIRY", NoBlocks),
    row(opcode::MODE_SELECT_6, "MODE SELECT (6)", Medium),
    row(opcode::RESERVE_6, "RESERVE (6)", Medium),
    row(opcode::RELEASE_6, "RELEASE (6)", Medium),
    row(opcode::MODE_SENSE_6, "MODE SENSE (6)", NoBlocks),
    row(opcode::START_STOP_UNIT, "START STOP UNIT", Medium),
    row(opcode::PREVENT_ALLOW_MEDIUM_REMOVAL, "PREVENT ALLOW MEDIUM REMOVAL", NoBlocks),
    row(opcode::READ_CAPACITY_10, "READ CAPACITY (10)", NoBlocks),
    row(opcode::READ_10, "READ (10)", Read).at(U32(2), U16(7)).flags(1),
    row(opcode::WRITE_10, "WRITE (10)", Write).at(U32(2), U16(7)).flags(1),
    row(opcode::WRITE_AND_VERIFY_10, "WRITE AND VERIFY (10)", Overwrite).at(U32(2), U16(7)).flags(1),
    // A VERIFY of zero blocks verifies none; it is PRE-FETCH whose zero means the rest.
    row(opcode::VERIFY_10, "VERIFY (10)", Inspect).at(U32(2), U16(7)).flags(1),
    row(opcode::PRE_FETCH_10, "PRE-FETCH (10)", Inspect).at(U32(2), U16(7)).zero(ToEnd),
    row(opcode::SYNCHRONIZE_CACHE_10, "SYNCHRONIZE CACHE (10)", Sync).at(U32(2), U16(7)).zero(ToEnd),
    row(opcode::WRITE_SAME_10, "WRITE SAME (10)", Repeat).at(U32(2), U16(7)).zero(ToEnd).flags(1),
    // Its ranges stand in the parameter list, which arrives after the command.
    row(opcode::UNMAP, "UNMAP", Medium),
    row(opcode::SANITIZE, "SANITIZE", Medium),
    row(opcode::LOG_SENSE, "LOG SENSE", NoBlocks),
    row(opcode::XDWRITEREAD_10, "XDWRITEREAD (10)", Change).at(U32(2), U16(7)).flags(1),
    row(opcode::MODE_SELECT_10, "MODE SELECT (10)", Medium),
    row(opcode::RESERVE_10, "RESERVE (10)", Medium),
    row(opcode::RELEASE_10, "RELEASE (10)", Medium),
    row(opcode::MODE_SENSE_10, "MODE SENSE (10)", NoBlocks),
    row(opcode::PERSISTENT_RESERVE_IN, "PERSISTENT RESERVE IN", NoBlocks),
    row(opcode::PERSISTENT_RESERVE_OUT, "PERSISTENT RESERVE OUT", Medium),
    row(opcode::VARIABLE_LENGTH, "READ (32)", Read).action(variable_length::READ_32).at(U64(12), U32(28)).flags(10),
    row(opcode::VARIABLE_LENGTH, "VERIFY (32)", Inspect).action(variable_length::VERIFY_32).at(U64(12), U32(28)).flags(10),
    row(opcode::VARIABLE_LENGTH, "WRITE (32)", Write).action(variable_length::WRITE_32).at(U64(12), U32(28)).flags(10),
    row(opcode::VARIABLE_LENGTH, "WRITE AND VERIFY (32)", Overwrite).action(variable_length::WRITE_AND_VERIFY_32).at(U64(12), U32(28)).flags(10),
    row(opcode::VARIABLE_LENGTH, "WRITE SAME (32)", Repeat).action(variable_length::WRITE_SAME_32).at(U64(12), U32(28)).zero(ToEnd).flags(10),
    row(opcode::VARIABLE_LENGTH, "ORWRITE (32)", Change).action(variable_length::ORWRITE_32).at(U64(12), U32(28)).flags(10),
    // All service actions, POPULATE TOKEN and WRITE USING TOKEN among them.
    row(opcode::EXTENDED_COPY, "EXTENDED COPY", Medium),
    row(opcode::RECEIVE_COPY_RESULTS, "RECEIVE COPY RESULTS", NoBlocks),
    row(opcode::READ_16, "READ (16)", Read).at(U64(2), U32(10)).flags(1),
    row(opcode::COMPARE_AND_WRITE, "COMPARE AND WRITE", Change).at(U64(2), U8(13)).flags(1),
    row(opcode::WRITE_16, "WRITE (16)", Write).at(U64(2), U32(10)).flags(1),
    row(opcode::ORWRITE_16, "ORWRITE (16)", Change).at(U64(2), U32(10)).flags(1),
    row(opcode::WRITE_AND_VERIFY_16, "WRITE AND VERIFY (16)", Overwrite).at(U64(2), U32(10)).flags(1),
    row(opcode::VERIFY_16, "VERIFY (16)", Inspect).at(U64(2), U32(10)).flags(1),
    row(opcode::PRE_FETCH_16, "PRE-FETCH (16)", Inspect).at(U64(2), U32(10)).zero(ToEnd),
    row(opcode::SYNCHRONIZE_CACHE_16, "SYNCHRONIZE CACHE (16)", Sync).at(U64(2), U32(10)).zero(ToEnd),
    row(opcode::WRITE_SAME_16, "WRITE SAME (16)", Repeat).at(U64(2), U32(10)).zero(ToEnd).flags(1),
    // Must not be torn, which a write joined with others on its way could be.
    row(opcode::WRITE_ATOMIC_16, "WRITE ATOMIC (16)", Change).at(U64(2), U16(12)).flags(1),
    row(opcode::SERVICE_ACTION_IN_16, "READ CAPACITY (16)", NoBlocks).action(service_action_in_16::READ_CAPACITY_16),
    // How far it looks is up to the device: the allocation length is in bytes.
    row(opcode::SERVICE_ACTION_IN_16, "GET LBA STATUS (16)", Inspect).action(service_action_in_16::GET_LBA_STATUS_16).at(U64(2), Absent).zero(ToEnd),
    row(opcode::REPORT_LUNS, "REPORT LUNS", NoBlocks),
    row(opcode::MAINTENANCE_IN, "REPORT IDENTIFYING INFORMATION", NoBlocks).action(maintenance_in::REPORT_IDENTIFYING_INFORMATION),
    row(opcode::MAINTENANCE_IN, "REPORT TARGET PORT GROUPS", NoBlocks).action(maintenance_in::REPORT_TARGET_PORT_GROUPS),
    row(opcode::MAINTENANCE_IN, "REPORT SUPPORTED OPERATION CODES", NoBlocks).action(maintenance_in::REPORT_SUPPORTED_OPERATION_CODES),
    row(opcode::MAINTENANCE_IN, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", NoBlocks).action(maintenance_in::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS),
    row(opcode::MAINTENANCE_IN, "REPORT TIMESTAMP", NoBlocks).action(maintenance_in::REPORT_TIMESTAMP),
    row(opcode::READ_12, "READ (12)", Read).at(U32(2), U32(6)).flags(1),
    row(opcode::WRITE_12, "WRITE (12)", Write).at(U32(2), U32(6)).flags(1),
    row(opcode::WRITE_AND_VERIFY_12, "WRITE AND VERIFY (12)", Overwrite).at(U32(2), U32(6)).flags(1),
    row(opcode::VERIFY_12, "VERIFY (12)", Inspect).at(U32(2), U32(6)).flags(1),
];

/// No row of [`COMMANDS`] begins here.
pub(super) const NO_ROW: u8 = u8::MAX;

/// The first row of each operation code.
pub(super) static FIRST_ROW: [u8; 256] = {
    let mut first = [NO_ROW; 256];
    let mut row = COMMANDS.len();
    assert!(row < NO_ROW as usize);
    while row > 0 {
        row -= 1;
        #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
        {
            first[COMMANDS[row].opcode as usize] = row as u8;
        }
    }
    first
};

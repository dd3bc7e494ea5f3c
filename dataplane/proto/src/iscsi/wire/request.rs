//! PDUs that an initiator sends (RFC 7143 11.3, 11.5, 11.7, 11.10, 11.12,
//! 11.14, 11.18).
//!
//! Each struct is what the header says; the data segment and the additional
//! header segments travel beside it. DataSegmentLength is not a field: whoever
//! frames the PDU sets it.

use super::{Bhs, CONTINUE, FINAL, Malformed, Opcode, RESERVED_TAG, TaskAttribute, TaskFunction};

/// The part of a CDB that the BHS carries, zero-padded.
pub type Cdb = [u8; 16];

/// SCSI Command (11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    pub immediate: bool,
    /// No unsolicited Data-Out PDU follows.
    pub is_final: bool,
    pub read: bool,
    pub write: bool,
    pub attribute: TaskAttribute,
    pub lun: u64,
    pub itt: u32,
    /// Expected Data Transfer Length in bytes; the write part of a
    /// bidirectional command.
    pub expected_len: u32,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
    pub cdb: Cdb,
}

impl ScsiCommand {
    const READ: u8 = 0x40;
    const WRITE: u8 = 0x20;

    /// Reads the header of a SCSI Command.
    ///
    /// # Errors
    /// [`Malformed::Field`]: reserved attribute or tag; a command that is not
    /// final and yet does not write (11.3.1).
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&bhs.0[32..48]);
        let command = Self {
            immediate: bhs.immediate(),
            is_final: bhs.is_final(),
            read: bhs.flag(Self::READ),
            write: bhs.flag(Self::WRITE),
            attribute: TaskAttribute::from_u8(bhs.0[1] & 7).ok_or(Malformed::Field)?,
            lun: bhs.lun(),
            itt: bhs.itt(),
            expected_len: bhs.u32_at(20),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.u32_at(28),
            cdb,
        };
        if command.itt == RESERVED_TAG || (!command.is_final && !command.write) {
            return Err(Malformed::Field);
        }
        Ok(command)
    }

    /// The header of this command.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::ScsiCommand);
        bhs.set_immediate(self.immediate);
        bhs.set_flag(FINAL, self.is_final);
        bhs.set_flag(Self::READ, self.read);
        bhs.set_flag(Self::WRITE, self.write);
        bhs.0[1] |= self.attribute as u8;
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_u32(20, self.expected_len);
        bhs.set_u32(24, self.cmd_sn);
        bhs.set_u32(28, self.exp_stat_sn);
        bhs.0[32..48].copy_from_slice(&self.cdb);
        bhs
    }
}

/// Task Management Function Request (11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementRequest {
    pub immediate: bool,
    pub function: TaskFunction,
    pub lun: u64,
    pub itt: u32,
    /// ITT of the task it is about, or the reserved tag.
    pub ref_task_tag: u32,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
    pub ref_cmd_sn: u32,
    pub exp_data_sn: u32,
}

impl TaskManagementRequest {
    /// Reads the header of a task management request.
    ///
    /// # Errors
    /// [`Malformed::Field`] if its tag is the reserved one.
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        if bhs.itt() == RESERVED_TAG {
            return Err(Malformed::Field);
        }
        Ok(Self {
            immediate: bhs.immediate(),
            function: TaskFunction::from_u8(bhs.0[1] & 0x7f),
            lun: bhs.lun(),
            itt: bhs.itt(),
            ref_task_tag: bhs.u32_at(20),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.u32_at(28),
            ref_cmd_sn: bhs.u32_at(32),
            exp_data_sn: bhs.u32_at(36),
        })
    }

    /// The header of this request.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::TaskManagementRequest);
        bhs.set_immediate(self.immediate);
        bhs.0[1] = FINAL | (self.function.to_u8() & 0x7f);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_u32(20, self.ref_task_tag);
        bhs.set_u32(24, self.cmd_sn);
        bhs.set_u32(28, self.exp_stat_sn);
        bhs.set_u32(32, self.ref_cmd_sn);
        bhs.set_u32(36, self.exp_data_sn);
        bhs
    }
}

/// SCSI Data-Out (11.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOut {
    /// Last PDU of this R2T's (or of the unsolicited) sequence.
    pub is_final: bool,
    pub lun: u64,
    pub itt: u32,
    /// The R2T's tag, or the reserved tag for unsolicited data.
    pub ttt: u32,
    pub exp_stat_sn: u32,
    pub data_sn: u32,
    /// Bytes from the start of the command's data.
    pub buffer_offset: u32,
}

impl DataOut {
    /// Reads the header of a Data-Out.
    ///
    /// # Errors
    /// [`Malformed::Field`] if its task tag is the reserved one.
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        if bhs.itt() == RESERVED_TAG {
            return Err(Malformed::Field);
        }
        Ok(Self {
            is_final: bhs.is_final(),
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.u32_at(20),
            exp_stat_sn: bhs.u32_at(28),
            data_sn: bhs.u32_at(36),
            buffer_offset: bhs.u32_at(40),
        })
    }

    /// The header of this Data-Out.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::DataOut);
        bhs.set_flag(FINAL, self.is_final);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_u32(20, self.ttt);
        bhs.set_u32(28, self.exp_stat_sn);
        bhs.set_u32(36, self.data_sn);
        bhs.set_u32(40, self.buffer_offset);
        bhs
    }
}

/// NOP-Out (11.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopOut {
    pub immediate: bool,
    pub lun: u64,
    /// Reserved where no answer is wanted.
    pub itt: u32,
    /// Copied from the NOP-In that this answers, else reserved.
    pub ttt: u32,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
}

impl NopOut {
    /// Reads the header of a NOP-Out.
    ///
    /// # Errors
    /// [`Malformed::Field`]: without a task tag it must be immediate (11.18).
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        if bhs.itt() == RESERVED_TAG && !bhs.immediate() {
            return Err(Malformed::Field);
        }
        Ok(Self {
            immediate: bhs.immediate(),
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.u32_at(20),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.u32_at(28),
        })
    }

    /// The header of this NOP-Out.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::NopOut);
        bhs.set_immediate(self.immediate);
        bhs.set_flag(FINAL, true);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_u32(20, self.ttt);
        bhs.set_u32(24, self.cmd_sn);
        bhs.set_u32(28, self.exp_stat_sn);
        bhs
    }
}

/// Text Request (11.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRequest {
    pub immediate: bool,
    pub is_final: bool,
    /// The text goes on in the next PDU (C bit).
    pub continues: bool,
    pub lun: u64,
    pub itt: u32,
    pub ttt: u32,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
}

impl TextRequest {
    /// Reads the header of a Text Request.
    ///
    /// # Errors
    /// [`Malformed::Field`]: reserved tag, or both F and C (11.10.2).
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let (is_final, continues) = (bhs.is_final(), bhs.flag(CONTINUE));
        if bhs.itt() == RESERVED_TAG || (is_final && continues) {
            return Err(Malformed::Field);
        }
        Ok(Self {
            immediate: bhs.immediate(),
            is_final,
            continues,
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.u32_at(20),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.u32_at(28),
        })
    }

    /// The header of this request.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::TextRequest);
        bhs.set_immediate(self.immediate);
        bhs.set_flag(FINAL, self.is_final);
        bhs.set_flag(CONTINUE, self.continues);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_u32(20, self.ttt);
        bhs.set_u32(24, self.cmd_sn);
        bhs.set_u32(28, self.exp_stat_sn);
        bhs
    }
}

/// Login stages (11.12.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    Security = 0,
    Operational = 1,
    FullFeature = 3,
}

impl Stage {
    pub(super) const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Security,
            1 => Self::Operational,
            3 => Self::FullFeature,
            _ => return None,
        })
    }
}

/// Login Request (11.12). Always immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRequestPdu {
    /// Stage that the initiator is in: security or operational.
    pub stage: Stage,
    /// Stage that it is ready to go to (T bit and NSG).
    pub next: Option<Stage>,
    pub continues: bool,
    pub version_max: u8,
    pub version_min: u8,
    pub isid: [u8; 6],
    pub tsih: u16,
    pub itt: u32,
    pub cid: u16,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
}

impl LoginRequestPdu {
    /// Reads the header of a Login Request.
    ///
    /// # Errors
    /// [`Malformed::Field`]: an unknown stage, a next stage that is not later
    /// than this one, T together with C (11.12.1 to 11.12.3), a reserved tag.
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let stage = Stage::from_u8(bhs.0[1] >> 2 & 3).ok_or(Malformed::Field)?;
        let continues = bhs.flag(CONTINUE);
        let next = if bhs.flag(FINAL) {
            Some(Stage::from_u8(bhs.0[1] & 3).ok_or(Malformed::Field)?)
        } else {
            None
        };
        let forward = next.is_none_or(|next| next as u8 > stage as u8);
        if stage == Stage::FullFeature
            || !forward
            || (next.is_some() && continues)
            || bhs.itt() == RESERVED_TAG
        {
            return Err(Malformed::Field);
        }
        Ok(Self {
            stage,
            next,
            continues,
            version_max: bhs.0[2],
            version_min: bhs.0[3],
            isid: bhs.isid(),
            tsih: bhs.u16_at(14),
            itt: bhs.itt(),
            cid: bhs.u16_at(20),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.u32_at(28),
        })
    }

    /// The header of this request.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::LoginRequest);
        bhs.set_immediate(true);
        bhs.0[1] = (self.stage as u8) << 2 | self.next.map_or(0, |next| FINAL | next as u8);
        bhs.set_flag(CONTINUE, self.continues);
        bhs.0[2] = self.version_max;
        bhs.0[3] = self.version_min;
        bhs.0[8..14].copy_from_slice(&self.isid);
        bhs.set_u16(14, self.tsih);
        bhs.set_itt(self.itt);
        bhs.set_u16(20, self.cid);
        bhs.set_u32(24, self.cmd_sn);
        bhs.set_u32(28, self.exp_stat_sn);
        bhs
    }
}

/// Logout Request (11.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutRequest {
    pub immediate: bool,
    /// 0 close the session, 1 close the connection, 2 remove the connection
    /// for recovery.
    pub reason: u8,
    pub itt: u32,
    pub cid: u16,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
}

impl LogoutRequest {
    /// Reads the header of a Logout Request.
    ///
    /// # Errors
    /// [`Malformed::Field`]: a reserved reason or tag.
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let reason = bhs.0[1] & 0x7f;
        if reason > 2 || bhs.itt() == RESERVED_TAG {
            return Err(Malformed::Field);
        }
        Ok(Self {
            immediate: bhs.immediate(),
            reason,
            itt: bhs.itt(),
            cid: bhs.u16_at(20),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.u32_at(28),
        })
    }

    /// The header of this request.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::LogoutRequest);
        bhs.set_immediate(self.immediate);
        bhs.0[1] = FINAL | self.reason;
        bhs.set_itt(self.itt);
        bhs.set_u16(20, self.cid);
        bhs.set_u32(24, self.cmd_sn);
        bhs.set_u32(28, self.exp_stat_sn);
        bhs
    }
}

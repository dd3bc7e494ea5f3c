//! PDUs that a target sends (RFC 7143 11.4, 11.6 to 11.9, 11.11, 11.13,
//! 11.15, 11.17, 11.19).
//!
//! StatSN, ExpCmdSN and MaxCmdSN are not fields here: they belong to the moment
//! a PDU leaves, see [`Bhs::set_numbering`] and [`Bhs::numbering`].

use super::{
    Bhs, CONTINUE, FINAL, Malformed, Opcode, RESERVED_TAG, Residual, Stage, TaskFunctionResponse,
};

const RESIDUAL_OVERFLOW: u8 = 0x04;
const RESIDUAL_UNDERFLOW: u8 = 0x02;

impl Bhs {
    const fn set_residual(&mut self, residual: Residual) {
        self.set_flag(RESIDUAL_OVERFLOW, matches!(residual, Residual::Overflow(_)));
        self.set_flag(
            RESIDUAL_UNDERFLOW,
            matches!(residual, Residual::Underflow(_)),
        );
        self.set_u32(44, residual.count());
    }

    const fn residual(&self) -> Result<Residual, Malformed> {
        Residual::parse(
            self.flag(RESIDUAL_OVERFLOW),
            self.flag(RESIDUAL_UNDERFLOW),
            self.u32_at(44),
        )
    }
}

/// SCSI Response (11.4). Sense data travels in the data segment after a
/// two-byte length (11.4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiResponse {
    /// iSCSI service response: 0 completed at target, 1 target failure.
    pub response: u8,
    pub status: u8,
    pub itt: u32,
    /// Data-In PDUs that were sent for the command.
    pub exp_data_sn: u32,
    pub residual: Residual,
    pub bidirectional_read_residual: Residual,
}

impl ScsiResponse {
    const BIDIRECTIONAL_OVERFLOW: u8 = 0x10;
    const BIDIRECTIONAL_UNDERFLOW: u8 = 0x08;

    /// Reads the header of a SCSI Response.
    ///
    /// # Errors
    /// [`Malformed::Field`] if both residual flags of a pair are set.
    pub const fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        if bhs.0[2] != 0 {
            // 11.4.3: the flags and status of a failed target are not looked at.
            return Ok(Self {
                response: bhs.0[2],
                status: bhs.0[3],
                itt: bhs.itt(),
                exp_data_sn: 0,
                residual: Residual::None,
                bidirectional_read_residual: Residual::None,
            });
        }
        let residual = match bhs.residual() {
            Ok(residual) => residual,
            Err(malformed) => return Err(malformed),
        };
        let bidirectional = Residual::parse(
            bhs.flag(Self::BIDIRECTIONAL_OVERFLOW),
            bhs.flag(Self::BIDIRECTIONAL_UNDERFLOW),
            bhs.u32_at(40),
        );
        let bidirectional_read_residual = match bidirectional {
            Ok(residual) => residual,
            Err(malformed) => return Err(malformed),
        };
        Ok(Self {
            response: bhs.0[2],
            status: bhs.0[3],
            itt: bhs.itt(),
            exp_data_sn: bhs.u32_at(36),
            residual,
            bidirectional_read_residual,
        })
    }

    /// The header of this response.
    #[must_use]
    pub const fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::ScsiResponse);
        bhs.set_flag(FINAL, true);
        let read = self.bidirectional_read_residual;
        bhs.set_flag(
            Self::BIDIRECTIONAL_OVERFLOW,
            matches!(read, Residual::Overflow(_)),
        );
        bhs.set_flag(
            Self::BIDIRECTIONAL_UNDERFLOW,
            matches!(read, Residual::Underflow(_)),
        );
        bhs.0[2] = self.response;
        bhs.0[3] = self.status;
        bhs.set_itt(self.itt);
        bhs.set_u32(36, self.exp_data_sn);
        bhs.set_u32(40, read.count());
        bhs.set_residual(self.residual);
        bhs
    }
}

/// Task Management Function Response (11.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementResponse {
    pub itt: u32,
    pub response: TaskFunctionResponse,
}

impl TaskManagementResponse {
    /// Reads the header of a task management response.
    ///
    /// # Errors
    /// [`Malformed::Field`] for an unknown response.
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        Ok(Self {
            itt: bhs.itt(),
            response: TaskFunctionResponse::from_u8(bhs.0[2]).ok_or(Malformed::Field)?,
        })
    }

    /// The header of this response.
    #[must_use]
    pub const fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::TaskManagementResponse);
        bhs.set_flag(FINAL, true);
        bhs.0[2] = self.response as u8;
        bhs.set_itt(self.itt);
        bhs
    }
}

/// SCSI Data-In (11.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataIn {
    /// Last PDU of this sequence.
    pub is_final: bool,
    /// The status, where this PDU also ends the command (S bit).
    pub status: Option<u8>,
    pub lun: u64,
    pub itt: u32,
    pub ttt: u32,
    pub data_sn: u32,
    /// Bytes from the start of the command's data.
    pub buffer_offset: u32,
    pub residual: Residual,
}

impl DataIn {
    const STATUS: u8 = 0x01;

    /// Reads the header of a Data-In.
    ///
    /// # Errors
    /// [`Malformed::Field`]: S without F (11.7.3), or a bad residual.
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let has_status = bhs.flag(Self::STATUS);
        if has_status && !bhs.is_final() {
            return Err(Malformed::Field);
        }
        Ok(Self {
            is_final: bhs.is_final(),
            status: has_status.then_some(bhs.0[3]),
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.u32_at(20),
            data_sn: bhs.u32_at(36),
            buffer_offset: bhs.u32_at(40),
            residual: if has_status {
                bhs.residual()?
            } else {
                Residual::None
            },
        })
    }

    /// The header of this Data-In.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::DataIn);
        bhs.set_flag(FINAL, self.is_final);
        if let Some(status) = self.status {
            bhs.set_flag(Self::STATUS, true);
            bhs.0[3] = status;
            bhs.set_residual(self.residual);
        }
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_u32(20, self.ttt);
        bhs.set_u32(36, self.data_sn);
        bhs.set_u32(40, self.buffer_offset);
        bhs
    }
}

/// Ready To Transfer (11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct R2t {
    pub lun: u64,
    pub itt: u32,
    pub ttt: u32,
    pub r2t_sn: u32,
    pub buffer_offset: u32,
    /// Bytes asked for; never 0.
    pub desired_len: u32,
}

impl R2t {
    /// Reads the header of an R2T.
    ///
    /// # Errors
    /// [`Malformed::Field`]: a reserved tag or nothing asked for (11.8.4).
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let r2t = Self {
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.u32_at(20),
            r2t_sn: bhs.u32_at(36),
            buffer_offset: bhs.u32_at(40),
            desired_len: bhs.u32_at(44),
        };
        if r2t.ttt == RESERVED_TAG || r2t.desired_len == 0 {
            return Err(Malformed::Field);
        }
        Ok(r2t)
    }

    /// The header of this R2T.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::R2t);
        bhs.set_flag(FINAL, true);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_u32(20, self.ttt);
        bhs.set_u32(36, self.r2t_sn);
        bhs.set_u32(40, self.buffer_offset);
        bhs.set_u32(44, self.desired_len);
        bhs
    }
}

/// Asynchronous Message (11.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncMessage {
    pub lun: u64,
    /// 0 SCSI event, 1 logout requested, 2 connection drops, 3 session drops,
    /// 4 renegotiation, 255 vendor.
    pub event: u8,
    pub vendor_code: u8,
    pub parameters: [u16; 3],
}

impl AsyncMessage {
    /// Reads the header of an Asynchronous Message.
    #[must_use]
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            lun: bhs.lun(),
            event: bhs.0[36],
            vendor_code: bhs.0[37],
            parameters: [bhs.u16_at(38), bhs.u16_at(40), bhs.u16_at(42)],
        }
    }

    /// The header of this message.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::AsyncMessage);
        bhs.set_flag(FINAL, true);
        bhs.set_lun(self.lun);
        bhs.set_itt(RESERVED_TAG);
        bhs.0[36] = self.event;
        bhs.0[37] = self.vendor_code;
        for (at, parameter) in [38, 40, 42].into_iter().zip(self.parameters) {
            bhs.set_u16(at, parameter);
        }
        bhs
    }
}

/// NOP-In (11.19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopIn {
    pub lun: u64,
    /// ITT of the NOP-Out that this answers, else reserved.
    pub itt: u32,
    /// Reserved where no answer is wanted.
    pub ttt: u32,
}

impl NopIn {
    /// Reads the header of a NOP-In.
    #[must_use]
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.u32_at(20),
        }
    }

    /// The header of this NOP-In.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::NopIn);
        bhs.set_flag(FINAL, true);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_u32(20, self.ttt);
        bhs
    }
}

/// Text Response (11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextResponse {
    pub is_final: bool,
    pub continues: bool,
    pub lun: u64,
    pub itt: u32,
    pub ttt: u32,
}

impl TextResponse {
    /// Reads the header of a Text Response.
    ///
    /// # Errors
    /// [`Malformed::Field`]: F with C, or F with a transfer tag (11.11.1).
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let response = Self {
            is_final: bhs.is_final(),
            continues: bhs.flag(CONTINUE),
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.u32_at(20),
        };
        if response.is_final && (response.continues || response.ttt != RESERVED_TAG) {
            return Err(Malformed::Field);
        }
        Ok(response)
    }

    /// The header of this response.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::TextResponse);
        bhs.set_flag(FINAL, self.is_final);
        bhs.set_flag(CONTINUE, self.continues);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_u32(20, self.ttt);
        bhs
    }
}

/// Login Response (11.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginResponsePdu {
    pub stage: Stage,
    /// Stage that both sides go to now (T bit and NSG).
    pub next: Option<Stage>,
    pub continues: bool,
    pub version_max: u8,
    pub version_active: u8,
    pub isid: [u8; 6],
    pub tsih: u16,
    pub itt: u32,
    /// 0 success, 1 redirection, 2 initiator error, 3 target error.
    pub status_class: u8,
    pub status_detail: u8,
}

impl LoginResponsePdu {
    /// Reads the header of a Login Response.
    ///
    /// # Errors
    /// [`Malformed::Field`]: an unknown stage, or T together with C. A refusal
    /// (a status class other than 0) is taken whatever its stages say.
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let refused = bhs.0[36] != 0;
        let stage = match Stage::from_u8(bhs.0[1] >> 2 & 3) {
            Some(stage) => stage,
            None if refused => Stage::Security,
            None => return Err(Malformed::Field),
        };
        let continues = bhs.flag(CONTINUE);
        let next = if bhs.flag(FINAL) && !refused {
            Some(Stage::from_u8(bhs.0[1] & 3).ok_or(Malformed::Field)?)
        } else {
            None
        };
        if next.is_some() && continues {
            return Err(Malformed::Field);
        }
        Ok(Self {
            stage,
            next,
            continues,
            version_max: bhs.0[2],
            version_active: bhs.0[3],
            isid: bhs.isid(),
            tsih: bhs.u16_at(14),
            itt: bhs.itt(),
            status_class: bhs.0[36],
            status_detail: bhs.0[37],
        })
    }

    /// The header of this response.
    #[must_use]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::LoginResponse);
        bhs.0[1] = (self.stage as u8) << 2 | self.next.map_or(0, |next| FINAL | next as u8);
        bhs.set_flag(CONTINUE, self.continues);
        bhs.0[2] = self.version_max;
        bhs.0[3] = self.version_active;
        bhs.0[8..14].copy_from_slice(&self.isid);
        bhs.set_u16(14, self.tsih);
        bhs.set_itt(self.itt);
        bhs.0[36] = self.status_class;
        bhs.0[37] = self.status_detail;
        bhs
    }
}

/// Logout Response (11.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutResponse {
    /// 0 closed, 1 no such connection, 2 recovery not supported, 3 cleanup
    /// failed.
    pub response: u8,
    pub itt: u32,
    pub time2wait_s: u16,
    pub time2retain_s: u16,
}

impl LogoutResponse {
    /// Reads the header of a Logout Response.
    #[must_use]
    pub const fn parse(bhs: &Bhs) -> Self {
        Self {
            response: bhs.0[2],
            itt: bhs.itt(),
            time2wait_s: bhs.u16_at(40),
            time2retain_s: bhs.u16_at(42),
        }
    }

    /// The header of this response.
    #[must_use]
    pub const fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::LogoutResponse);
        bhs.set_flag(FINAL, true);
        bhs.0[2] = self.response;
        bhs.set_itt(self.itt);
        bhs.set_u16(40, self.time2wait_s);
        bhs.set_u16(42, self.time2retain_s);
        bhs
    }
}

/// Reject (11.17). The header of the refused PDU is the data segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    pub reason: u8,
}

impl Reject {
    /// Reads the header of a Reject.
    #[must_use]
    pub const fn parse(bhs: &Bhs) -> Self {
        Self { reason: bhs.0[2] }
    }

    /// The header of this Reject.
    #[must_use]
    pub const fn emit(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::Reject);
        bhs.set_flag(FINAL, true);
        bhs.0[2] = self.reason;
        bhs.set_itt(RESERVED_TAG);
        bhs
    }
}

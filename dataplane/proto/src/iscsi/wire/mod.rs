//! iSCSI PDU formats (RFC 7143 clause 11): a checked view of the 48-byte Basic
//! Header Segment, and one plain struct a PDU kind.
//!
//! What always holds: a [`Bhs`] is 48 bytes, so its accessors cannot panic; a
//! struct that `parse` returned has no field outside what the RFC allows; what
//! `emit` writes, `parse` reads back unchanged. Reserved fields are sent as
//! zero and ignored on receipt (11.1). Not for: sequence numbers, negotiation
//! or any state; see `target` and `initiator`.

mod ahs;
mod request;
mod response;

pub use ahs::{AhsBytes, AhsSegments, EXTENDED_CDB_LEN_MAX};
pub use request::{
    Cdb, DataOut, LoginRequestPdu, LogoutRequest, NopOut, ScsiCommand, Stage,
    TaskManagementRequest, TextRequest,
};
pub use response::{
    AsyncMessage, DataIn, LoginResponsePdu, LogoutResponse, NopIn, R2t, Reject, ScsiResponse,
    TaskManagementResponse, TextResponse,
};

/// Length of the Basic Header Segment in bytes (RFC 7143 11.2.1).
pub const BHS_LEN: usize = 48;
/// The tag value that means "no tag" (11.2.1.8, 11.7.4): 0xffffffff.
pub const RESERVED_TAG: u32 = 0xffff_ffff;
/// Largest value of the 24-bit DataSegmentLength field, in bytes.
pub const DATA_SEGMENT_LEN_MAX: u32 = (1 << 24) - 1;

/// Why a header is not a PDU. Each becomes a Reject with a reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The opcode is not one this side may receive (Reject 05h).
    Opcode(u8),
    /// A field has a value the RFC does not allow (Reject 09h).
    Field,
}

/// Operation codes (RFC 7143 11.2.1.2), without the immediate bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    NopOut = 0x00,
    ScsiCommand = 0x01,
    TaskManagementRequest = 0x02,
    LoginRequest = 0x03,
    TextRequest = 0x04,
    DataOut = 0x05,
    LogoutRequest = 0x06,
    Snack = 0x10,
    NopIn = 0x20,
    ScsiResponse = 0x21,
    TaskManagementResponse = 0x22,
    LoginResponse = 0x23,
    TextResponse = 0x24,
    DataIn = 0x25,
    LogoutResponse = 0x26,
    R2t = 0x31,
    AsyncMessage = 0x32,
    Reject = 0x3f,
}

impl Opcode {
    /// The opcode with this number, if there is one.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0x00 => Self::NopOut,
            0x01 => Self::ScsiCommand,
            0x02 => Self::TaskManagementRequest,
            0x03 => Self::LoginRequest,
            0x04 => Self::TextRequest,
            0x05 => Self::DataOut,
            0x06 => Self::LogoutRequest,
            0x10 => Self::Snack,
            0x20 => Self::NopIn,
            0x21 => Self::ScsiResponse,
            0x22 => Self::TaskManagementResponse,
            0x23 => Self::LoginResponse,
            0x24 => Self::TextResponse,
            0x25 => Self::DataIn,
            0x26 => Self::LogoutResponse,
            0x31 => Self::R2t,
            0x32 => Self::AsyncMessage,
            0x3f => Self::Reject,
            _ => return None,
        })
    }
}

/// The first byte's immediate-delivery bit.
const IMMEDIATE: u8 = 0x40;
/// Byte 1: Final (or Transit, in a login PDU).
const FINAL: u8 = 0x80;
/// Byte 1: Continue, in login and text PDUs.
const CONTINUE: u8 = 0x40;

/// One Basic Header Segment, in wire order.
///
/// ```text
///  0 |.|I| opcode  | 1 F + specific | 2,3 specific                   |
///  4 TotalAHSLength (4-byte words)  | 5..8 DataSegmentLength (bytes) |
///  8..16 LUN or opcode-specific                                      |
/// 16..20 Initiator Task Tag         | 20..48 opcode-specific         |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bhs(pub [u8; BHS_LEN]);

impl Bhs {
    /// An all-zero header with this opcode.
    #[must_use]
    pub const fn new(opcode: Opcode) -> Self {
        let mut bytes = [0; BHS_LEN];
        bytes[0] = opcode as u8;
        Self(bytes)
    }

    /// The raw six-bit operation code.
    #[must_use]
    pub const fn opcode_raw(&self) -> u8 {
        self.0[0] & 0x3f
    }

    /// The operation code, if it is one of RFC 7143's.
    ///
    /// # Errors
    /// [`Malformed::Opcode`] for any other value.
    pub const fn opcode(&self) -> Result<Opcode, Malformed> {
        match Opcode::from_u8(self.opcode_raw()) {
            Some(opcode) => Ok(opcode),
            None => Err(Malformed::Opcode(self.opcode_raw())),
        }
    }

    /// The immediate-delivery bit (RFC 7143 11.2.1.1).
    #[must_use]
    pub const fn immediate(&self) -> bool {
        self.0[0] & IMMEDIATE != 0
    }

    const fn set_immediate(&mut self, immediate: bool) {
        if immediate {
            self.0[0] |= IMMEDIATE;
        }
    }

    const fn flag(&self, bit: u8) -> bool {
        self.0[1] & bit != 0
    }

    const fn set_flag(&mut self, bit: u8, on: bool) {
        if on {
            self.0[1] |= bit;
        }
    }

    /// The Final bit.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        self.flag(FINAL)
    }

    /// Length of all additional header segments together, in bytes.
    #[must_use]
    pub const fn ahs_len(&self) -> usize {
        self.0[4] as usize * 4
    }

    /// DataSegmentLength in bytes, without padding.
    #[must_use]
    pub const fn data_len(&self) -> u32 {
        u32::from_be_bytes([0, self.0[5], self.0[6], self.0[7]])
    }

    /// Sets DataSegmentLength.
    ///
    /// # Panics
    /// If `len` does not fit 24 bits: the caller splits data before.
    pub const fn set_data_len(&mut self, len: u32) {
        assert!(len <= DATA_SEGMENT_LEN_MAX);
        let bytes = len.to_be_bytes();
        self.0[5] = bytes[1];
        self.0[6] = bytes[2];
        self.0[7] = bytes[3];
    }

    /// The 8-byte LUN field as one big-endian number.
    #[must_use]
    pub fn lun(&self) -> u64 {
        self.u64_at(8)
    }

    fn set_lun(&mut self, lun: u64) {
        self.0[8..16].copy_from_slice(&lun.to_be_bytes());
    }

    /// The Initiator Task Tag.
    #[must_use]
    pub const fn itt(&self) -> u32 {
        self.u32_at(16)
    }

    const fn set_itt(&mut self, itt: u32) {
        self.set_u32(16, itt);
    }

    /// CmdSN of a request that carries one.
    #[must_use]
    pub const fn cmd_sn(&self) -> u32 {
        self.u32_at(24)
    }

    /// Fills StatSN, ExpCmdSN and MaxCmdSN of a PDU from the target.
    pub const fn set_numbering(&mut self, numbering: Numbering) {
        self.set_u32(24, numbering.stat_sn);
        self.set_u32(28, numbering.exp_cmd_sn);
        self.set_u32(32, numbering.max_cmd_sn);
    }

    /// StatSN, ExpCmdSN and MaxCmdSN of a PDU from the target.
    #[must_use]
    pub const fn numbering(&self) -> Numbering {
        Numbering {
            stat_sn: self.u32_at(24),
            exp_cmd_sn: self.u32_at(28),
            max_cmd_sn: self.u32_at(32),
        }
    }

    const fn u16_at(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    const fn u32_at(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from(self.u32_at(at)) << 32 | u64::from(self.u32_at(at + 4))
    }

    const fn set_u16(&mut self, at: usize, value: u16) {
        let bytes = value.to_be_bytes();
        self.0[at] = bytes[0];
        self.0[at + 1] = bytes[1];
    }

    const fn set_u32(&mut self, at: usize, value: u32) {
        let bytes = value.to_be_bytes();
        self.0[at] = bytes[0];
        self.0[at + 1] = bytes[1];
        self.0[at + 2] = bytes[2];
        self.0[at + 3] = bytes[3];
    }

    fn isid(&self) -> [u8; 6] {
        let mut isid = [0; 6];
        isid.copy_from_slice(&self.0[8..14]);
        isid
    }
}

/// The three sequence numbers in every PDU from the target (RFC 7143 4.2.2).
/// Session-wide: the target fills them in when the PDU leaves, not before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbering {
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
}

/// Task attributes of a SCSI Command (RFC 7143 11.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskAttribute {
    Untagged = 0,
    #[default]
    Simple = 1,
    Ordered = 2,
    HeadOfQueue = 3,
    Aca = 4,
}

impl TaskAttribute {
    const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Untagged,
            1 => Self::Simple,
            2 => Self::Ordered,
            3 => Self::HeadOfQueue,
            4 => Self::Aca,
            _ => return None,
        })
    }
}

/// Task management functions (RFC 7143 11.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskFunction {
    AbortTask,
    AbortTaskSet,
    ClearAca,
    ClearTaskSet,
    LunReset,
    TargetWarmReset,
    TargetColdReset,
    TaskReassign,
    /// Not one of RFC 7143's; answered "function not supported".
    Unknown(u8),
}

impl TaskFunction {
    const fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::AbortTask,
            2 => Self::AbortTaskSet,
            3 => Self::ClearAca,
            4 => Self::ClearTaskSet,
            5 => Self::LunReset,
            6 => Self::TargetWarmReset,
            7 => Self::TargetColdReset,
            8 => Self::TaskReassign,
            other => Self::Unknown(other),
        }
    }

    const fn to_u8(self) -> u8 {
        match self {
            Self::AbortTask => 1,
            Self::AbortTaskSet => 2,
            Self::ClearAca => 3,
            Self::ClearTaskSet => 4,
            Self::LunReset => 5,
            Self::TargetWarmReset => 6,
            Self::TargetColdReset => 7,
            Self::TaskReassign => 8,
            Self::Unknown(other) => other,
        }
    }
}

/// Answers to a task management function (RFC 7143 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskFunctionResponse {
    Complete = 0,
    TaskDoesNotExist = 1,
    LunDoesNotExist = 2,
    TaskStillAllegiant = 3,
    ReassignmentNotSupported = 4,
    NotSupported = 5,
    AuthorizationFailed = 6,
    Rejected = 255,
}

impl TaskFunctionResponse {
    const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Complete,
            1 => Self::TaskDoesNotExist,
            2 => Self::LunDoesNotExist,
            3 => Self::TaskStillAllegiant,
            4 => Self::ReassignmentNotSupported,
            5 => Self::NotSupported,
            6 => Self::AuthorizationFailed,
            255 => Self::Rejected,
            _ => return None,
        })
    }
}

/// How many bytes a command moved less or more than the initiator expected
/// (RFC 7143 11.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    #[default]
    None,
    /// This many expected bytes were not transferred.
    Underflow(u32),
    /// This many bytes did not fit what the initiator expected.
    Overflow(u32),
}

impl Residual {
    /// The residual of a transfer that had `transferred` bytes where the
    /// initiator made room for `expected`.
    #[must_use]
    pub const fn between(expected: u32, transferred: u32) -> Self {
        if transferred < expected {
            Self::Underflow(expected - transferred)
        } else if transferred > expected {
            Self::Overflow(transferred - expected)
        } else {
            Self::None
        }
    }

    const fn parse(overflow: bool, underflow: bool, count: u32) -> Result<Self, Malformed> {
        match (overflow, underflow) {
            (true, true) => Err(Malformed::Field),
            (true, false) => Ok(Self::Overflow(count)),
            (false, true) => Ok(Self::Underflow(count)),
            (false, false) => Ok(Self::None),
        }
    }

    const fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Underflow(count) | Self::Overflow(count) => count,
        }
    }
}

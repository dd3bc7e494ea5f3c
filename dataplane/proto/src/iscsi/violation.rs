//! What a peer can do wrong, and what it gets for it.
//!
//! At error recovery level 0 a violation ends the connection (RFC 7143 7.1.5):
//! a Reject goes out where the header could be believed, then nothing more.
//! Not for: what the peer may do and we only decline (an unknown key, a SNACK);
//! those are answered and counted in [`Counters`].

use super::wire::Malformed;

/// A peer's breach of RFC 7143; the connection ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The header failed its CRC32C, so nothing in it is known (7.8).
    HeaderDigest,
    /// A data segment that is no Data-Out PDU's failed its CRC32C: a command with it counts
    /// as never received (7.3, 7.8).
    DataDigest,
    /// More additional header segments than any PDU we know can have.
    AhsTooLong,
    /// DataSegmentLength above the MaxRecvDataSegmentLength we declared.
    DataTooLong,
    /// An opcode this side does not receive.
    Opcode,
    /// A header field with a value the RFC does not allow.
    Field,
    /// A PDU that has no place in this phase or kind of session.
    Phase,
    /// A task tag that is still in use.
    DuplicateTag,
    /// CmdSN left a gap; on a single connection none can be filled (4.2.2.1).
    CmdSnGap,
    /// StatSN left a gap: a status was lost (7.9).
    StatSnGap,
    /// DataSN or R2TSN is not the next one.
    DataSn,
    /// A transfer tag that no open R2T has, or data without one where
    /// negotiation forbids it (13.10, 13.11).
    TransferTag,
    /// Data out of order, or beyond what the command or burst covers.
    Offset,
    /// A solicited sequence that ended early or went on past its F bit.
    BurstLength,
    /// More R2Ts at a time than MaxOutstandingR2T.
    TooManyR2ts,
    /// Text that is not `key=value`, comes twice, or is longer than the bound.
    Text,
    /// A negotiated value outside what was offered (6.2).
    Negotiation,
    /// The peer did not prove who it is, or broke CHAP's order (12.1.3).
    Authentication,
    /// A status, data or tag for a task that does not exist.
    UnknownTask,
    /// The peer refused a PDU of ours with this reason (11.17.1).
    Rejected(u8),
}

impl Violation {
    /// The Reject reason (RFC 7143 11.17.1), or none where answering would
    /// mean trusting a header that cannot be.
    #[must_use]
    pub const fn reject_reason(self) -> Option<u8> {
        match self {
            Self::HeaderDigest | Self::Rejected(_) => None,
            Self::DataDigest => Some(reason::DATA_DIGEST),
            Self::Opcode => Some(reason::COMMAND_NOT_SUPPORTED),
            Self::DuplicateTag => Some(reason::TASK_IN_PROGRESS),
            Self::Field | Self::AhsTooLong | Self::DataTooLong | Self::Offset => {
                Some(reason::INVALID_FIELD)
            }
            Self::Phase
            | Self::CmdSnGap
            | Self::StatSnGap
            | Self::DataSn
            | Self::TransferTag
            | Self::BurstLength
            | Self::TooManyR2ts
            | Self::Text
            | Self::Negotiation
            | Self::Authentication
            | Self::UnknownTask => Some(reason::PROTOCOL_ERROR),
        }
    }
}

/// A format error ends the connection (7.7).
impl From<Malformed> for Violation {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Opcode(_) => Self::Opcode,
            Malformed::Field => Self::Field,
        }
    }
}

/// Reject reasons (RFC 7143 11.17.1) that this side gives.
pub(super) mod reason {
    pub(in crate::iscsi) const DATA_DIGEST: u8 = 0x02;
    pub(in crate::iscsi) const SNACK: u8 = 0x03;
    pub(in crate::iscsi) const PROTOCOL_ERROR: u8 = 0x04;
    pub(in crate::iscsi) const COMMAND_NOT_SUPPORTED: u8 = 0x05;
    pub(in crate::iscsi) const TOO_MANY_IMMEDIATE: u8 = 0x06;
    pub(in crate::iscsi) const TASK_IN_PROGRESS: u8 = 0x07;
    pub(in crate::iscsi) const INVALID_FIELD: u8 = 0x09;
}

/// What a connection ignored, declined or lost; each drop has its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// PDUs whose header was taken.
    pub pdus_received: u64,
    /// PDUs that went out whole.
    pub pdus_sent: u64,
    /// Numbered requests outside the CmdSN window, ignored (4.2.2.1).
    pub outside_window: u64,
    /// Data-Out PDUs of tasks that were already answered or aborted.
    pub late_data: u64,
    /// Data segments of writes that failed their digest.
    pub data_digest_errors: u64,
    /// SNACK requests declined (error recovery level 0).
    pub snacks_declined: u64,
    /// Immediate commands declined for want of a slot.
    pub immediate_declined: u64,
    /// Violations; at most one a connection.
    pub violations: u64,
}

//! The operational keys by name, and the values they may have (RFC 7143 13).

use super::Failed;
use crate::iscsi::text;

/// Smallest burst or data segment length that may be negotiated (13.12).
pub(super) const LEN_MIN: u32 = 512;
/// Largest (13.12): 2^24 - 1.
pub(super) const LEN_MAX: u32 = (1 << 24) - 1;

/// The operational keys of RFC 7143 13, those with a rule of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Key {
    HeaderDigest,
    DataDigest,
    MaxConnections,
    InitialR2t,
    ImmediateData,
    MaxRecvDataSegmentLength,
    MaxBurstLength,
    FirstBurstLength,
    DefaultTime2Wait,
    DefaultTime2Retain,
    MaxOutstandingR2t,
    DataPduInOrder,
    DataSequenceInOrder,
    ErrorRecoveryLevel,
    ProtocolLevel,
    TaskReporting,
    /// Markers, which RFC 7143 dropped: some initiators still ask.
    IfMarker,
    OfMarker,
    IfMarkInt,
    OfMarkInt,
}

impl Key {
    pub(super) const ALL: [(&'static str, Self); 20] = [
        ("HeaderDigest", Self::HeaderDigest),
        ("DataDigest", Self::DataDigest),
        ("MaxConnections", Self::MaxConnections),
        ("InitialR2T", Self::InitialR2t),
        ("ImmediateData", Self::ImmediateData),
        ("MaxRecvDataSegmentLength", Self::MaxRecvDataSegmentLength),
        ("MaxBurstLength", Self::MaxBurstLength),
        ("FirstBurstLength", Self::FirstBurstLength),
        ("DefaultTime2Wait", Self::DefaultTime2Wait),
        ("DefaultTime2Retain", Self::DefaultTime2Retain),
        ("MaxOutstandingR2T", Self::MaxOutstandingR2t),
        ("DataPDUInOrder", Self::DataPduInOrder),
        ("DataSequenceInOrder", Self::DataSequenceInOrder),
        ("ErrorRecoveryLevel", Self::ErrorRecoveryLevel),
        ("iSCSIProtocolLevel", Self::ProtocolLevel),
        ("TaskReporting", Self::TaskReporting),
        ("IFMarker", Self::IfMarker),
        ("OFMarker", Self::OfMarker),
        ("IFMarkInt", Self::IfMarkInt),
        ("OFMarkInt", Self::OfMarkInt),
    ];

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find_map(|(key, value)| (*key == name).then_some(*value))
    }

    /// Whether the key means nothing in a discovery session (13, "Irrelevant
    /// when: SessionType=Discovery").
    pub(super) const fn only_normal(self) -> bool {
        matches!(
            self,
            Self::MaxConnections
                | Self::InitialR2t
                | Self::ImmediateData
                | Self::MaxBurstLength
                | Self::FirstBurstLength
                | Self::MaxOutstandingR2t
                | Self::DataPduInOrder
                | Self::DataSequenceInOrder
                | Self::ProtocolLevel
                | Self::TaskReporting
        )
    }
}

pub(super) fn number(value: &str, min: u32, max: u32) -> Result<u32, Failed> {
    text::number(value)
        .filter(|number| (min..=max).contains(number))
        .ok_or(Failed)
}

pub(super) fn number_u16(value: &str, min: u16, max: u16) -> Result<u16, Failed> {
    let number = number(value, u32::from(min), u32::from(max))?;
    u16::try_from(number).map_err(|_| Failed)
}

pub(super) fn boolean(value: &str) -> Result<bool, Failed> {
    match value {
        "Yes" => Ok(true),
        "No" => Ok(false),
        _ => Err(Failed),
    }
}

/// Whether RFC 7143 knows this operational key.
pub(in crate::iscsi) fn is_known(name: &str) -> bool {
    Key::from_name(name).is_some()
}

/// The value of a MaxRecvDataSegmentLength, if it is a legal one.
pub(in crate::iscsi) fn data_segment_length(value: &str) -> Option<u32> {
    number(value, LEN_MIN, LEN_MAX).ok()
}

pub(super) const fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

//! Sense data: the fixed format that the relay answers with (SPC-5, Fixed
//! format sense data), and key, code and qualifier of both formats when the
//! storage's sense passes through.

use std::fmt;

use super::{be32, be64};

/// Bytes of the fixed format sense data that [`Sense::fixed`] builds.
pub const FIXED_LEN: usize = 18;

/// The sense key (SPC-5, Sense key and additional sense code definitions).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SenseKey(u8);

impl SenseKey {
    pub const NO_SENSE: Self = Self(0x0);
    pub const RECOVERED_ERROR: Self = Self(0x1);
    pub const NOT_READY: Self = Self(0x2);
    pub const MEDIUM_ERROR: Self = Self(0x3);
    pub const HARDWARE_ERROR: Self = Self(0x4);
    pub const ILLEGAL_REQUEST: Self = Self(0x5);
    pub const UNIT_ATTENTION: Self = Self(0x6);
    pub const DATA_PROTECT: Self = Self(0x7);
    pub const ABORTED_COMMAND: Self = Self(0xB);
    pub const MISCOMPARE: Self = Self(0xE);

    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        Self(code & 0x0F)
    }

    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for SenseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NO_SENSE => "NO SENSE",
            Self::RECOVERED_ERROR => "RECOVERED ERROR",
            Self::NOT_READY => "NOT READY",
            Self::MEDIUM_ERROR => "MEDIUM ERROR",
            Self::HARDWARE_ERROR => "HARDWARE ERROR",
            Self::ILLEGAL_REQUEST => "ILLEGAL REQUEST",
            Self::UNIT_ATTENTION => "UNIT ATTENTION",
            Self::DATA_PROTECT => "DATA PROTECT",
            Self::ABORTED_COMMAND => "ABORTED COMMAND",
            Self::MISCOMPARE => "MISCOMPARE",
            Self(code) => return write!(f, "sense key {code:X}h"),
        })
    }
}

/// What went wrong with a command: key, additional sense code and qualifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sense {
    pub key: SenseKey,
    /// ADDITIONAL SENSE CODE.
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub ascq: u8,
}

impl Sense {
    pub const INVALID_COMMAND_OPERATION_CODE: Self = illegal_request(0x20, 0x00);
    pub const LBA_OUT_OF_RANGE: Self = illegal_request(0x21, 0x00);
    pub const INVALID_FIELD_IN_CDB: Self = illegal_request(0x24, 0x00);
    pub const LOGICAL_UNIT_NOT_SUPPORTED: Self = illegal_request(0x25, 0x00);
    pub const INVALID_FIELD_IN_PARAMETER_LIST: Self = illegal_request(0x26, 0x00);
    /// Cause not reportable: the answer when an ordering point cannot be made durable in time (C-2).
    pub const LOGICAL_UNIT_NOT_READY: Self = Self::new(SenseKey::NOT_READY, 0x04, 0x00);
    pub const BECOMING_READY: Self = Self::new(SenseKey::NOT_READY, 0x04, 0x01);
    pub const UNRECOVERED_READ_ERROR: Self = Self::new(SenseKey::MEDIUM_ERROR, 0x11, 0x00);
    pub const WRITE_ERROR: Self = Self::new(SenseKey::MEDIUM_ERROR, 0x0C, 0x00);
    pub const INTERNAL_TARGET_FAILURE: Self = Self::new(SenseKey::HARDWARE_ERROR, 0x44, 0x00);
    pub const WRITE_PROTECTED: Self = Self::new(SenseKey::DATA_PROTECT, 0x27, 0x00);
    pub const SPACE_ALLOCATION_FAILED: Self = Self::new(SenseKey::DATA_PROTECT, 0x27, 0x07);
    pub const POWER_ON_OR_RESET: Self = Self::new(SenseKey::UNIT_ATTENTION, 0x29, 0x00);
    /// BUS DEVICE RESET FUNCTION OCCURRED: a logical unit or target reset function.
    pub const BUS_DEVICE_RESET: Self = Self::new(SenseKey::UNIT_ATTENTION, 0x29, 0x03);
    pub const NEXUS_LOSS: Self = Self::new(SenseKey::UNIT_ATTENTION, 0x29, 0x07);
    /// Raised when the WCE that a computer was told changes (C-14).
    pub const MODE_PARAMETERS_CHANGED: Self = Self::new(SenseKey::UNIT_ATTENTION, 0x2A, 0x01);
    pub const CAPACITY_DATA_CHANGED: Self = Self::new(SenseKey::UNIT_ATTENTION, 0x2A, 0x09);
    pub const COMMANDS_CLEARED: Self = Self::new(SenseKey::UNIT_ATTENTION, 0x2F, 0x00);
    /// Thin provisioning soft threshold reached (C-4).
    pub const THIN_THRESHOLD_REACHED: Self = Self::new(SenseKey::UNIT_ATTENTION, 0x38, 0x07);
    pub const REPORTED_LUNS_CHANGED: Self = Self::new(SenseKey::UNIT_ATTENTION, 0x3F, 0x0E);
    /// LOGICAL UNIT COMMUNICATION FAILURE: the WAN session ended with the command out.
    pub const COMMUNICATION_FAILURE: Self = aborted(0x08, 0x00);
    /// RFC 7143 11.4.7.2, the four conditions that iSCSI itself reports as sense.
    pub const UNEXPECTED_UNSOLICITED_DATA: Self = aborted(0x0C, 0x0C);
    pub const INCORRECT_AMOUNT_OF_DATA: Self = aborted(0x0C, 0x0D);
    pub const SNACK_REJECTED: Self = aborted(0x11, 0x13);
    pub const PROTOCOL_SERVICE_CRC_ERROR: Self = aborted(0x47, 0x05);
    /// Commands ended with their connection, without a status (RFC 7143 11.14.5).
    pub const CLEARED_BY_ISCSI_EVENT: Self = Self::new(SenseKey::UNIT_ATTENTION, 0x47, 0x7F);

    #[must_use]
    pub const fn new(key: SenseKey, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq }
    }

    /// Fixed format, current information (response code 70h).
    #[must_use]
    pub const fn fixed(self) -> [u8; FIXED_LEN] {
        let mut bytes = [0; FIXED_LEN];
        bytes[0] = 0x70;
        bytes[2] = self.key.0;
        bytes[7] = 10; // ADDITIONAL SENSE LENGTH: the bytes after this one
        bytes[12] = self.asc;
        bytes[13] = self.ascq;
        bytes
    }

    /// As [`Sense::fixed`], with the LBA that the error is about. An LBA of
    /// more than 32 bits has no place in this format and is left out
    /// (SPC-5: VALID is then zero).
    #[must_use]
    pub fn fixed_at(self, lba: u64) -> [u8; FIXED_LEN] {
        let mut bytes = self.fixed();
        if let Ok(lba) = u32::try_from(lba) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&lba.to_be_bytes());
        }
        bytes
    }

    /// The device, or the nexus, was reset: what it had not made durable may be gone.
    #[must_use]
    pub fn is_reset(self) -> bool {
        self.key == SenseKey::UNIT_ATTENTION && matches!(self.asc, 0x29 | 0x2F)
    }

    /// Reservations or registrations changed (C-9: read them again before
    /// acknowledging anything locally).
    #[must_use]
    pub fn is_reservation_change(self) -> bool {
        self.key == SenseKey::UNIT_ATTENTION && self.asc == 0x2A && matches!(self.ascq, 0x03..=0x05)
    }

    /// Sending the same write again will not help (C-4): the volume has failed
    /// until the operator decides.
    #[must_use]
    pub fn refuses_write_for_good(self) -> bool {
        matches!(
            self.key,
            SenseKey::MEDIUM_ERROR
                | SenseKey::HARDWARE_ERROR
                | SenseKey::ILLEGAL_REQUEST
                | SenseKey::DATA_PROTECT
        )
    }
}

const fn illegal_request(asc: u8, ascq: u8) -> Sense {
    Sense::new(SenseKey::ILLEGAL_REQUEST, asc, ascq)
}

const fn aborted(asc: u8, ascq: u8) -> Sense {
    Sense::new(SenseKey::ABORTED_COMMAND, asc, ascq)
}

impl fmt::Debug for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:02X}h/{:02X}h", self.key, self.asc, self.ascq)
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Sense data received from the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub sense: Sense,
    /// The error is of an earlier command, not of the one that carries it
    /// (response codes 71h and 73h).
    pub deferred: bool,
    /// The INFORMATION field where it is valid: for a medium error, the LBA.
    pub information: Option<u64>,
}

/// Reads fixed (70h, 71h) and descriptor (72h, 73h) format sense data. `None`
/// for any other response code, or when the bytes end before the sense code.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Received> {
    let response_code = bytes.first()? & 0x7F;
    let deferred = response_code & 1 == 1;
    match response_code {
        0x70 | 0x71 => {
            let key = SenseKey::from_code(*bytes.get(2)?);
            // A device may leave the codes out; the key alone still counts.
            let asc = bytes.get(12).copied().unwrap_or(0);
            let ascq = bytes.get(13).copied().unwrap_or(0);
            let valid = bytes[0] & 0x80 != 0;
            let information = be32(bytes, 3).filter(|_| valid).map(u64::from);
            Some(Received {
                sense: Sense::new(key, asc, ascq),
                deferred,
                information,
            })
        }
        0x72 | 0x73 => {
            let key = SenseKey::from_code(*bytes.get(1)?);
            let sense = Sense::new(key, *bytes.get(2)?, *bytes.get(3)?);
            Some(Received {
                sense,
                deferred,
                information: information_descriptor(bytes),
            })
        }
        _ => None,
    }
}

/// The Information sense data descriptor (type 00h), if there is a valid one.
fn information_descriptor(bytes: &[u8]) -> Option<u64> {
    let mut rest = bytes.get(8..)?;
    while let [kind, len, ..] = *rest {
        if kind == 0x00 {
            let valid = rest.get(2)? & 0x80 != 0;
            return be64(rest, 4).filter(|_| valid);
        }
        rest = rest.get(2 + usize::from(len)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_built_is_read_back() {
        let bytes = Sense::LBA_OUT_OF_RANGE.fixed();
        assert_eq!(bytes[..8], [0x70, 0, 5, 0, 0, 0, 0, 10]);
        assert_eq!(bytes[12..14], [0x21, 0x00]);
        let read = parse(&bytes).unwrap();
        assert_eq!(read.sense, Sense::LBA_OUT_OF_RANGE);
        assert!(!read.deferred);
        assert_eq!(read.information, None);
    }

    #[test]
    fn information_is_the_lba_where_it_fits() {
        let at = |lba| {
            parse(&Sense::WRITE_ERROR.fixed_at(lba))
                .unwrap()
                .information
        };
        assert_eq!(at(0x1234_5678), Some(0x1234_5678));
        assert_eq!(at(1 << 32), None);
    }

    #[test]
    fn descriptor_format() {
        let mut bytes = vec![0x73, 0x06, 0x29, 0x07, 0, 0, 0, 16];
        bytes.extend([0x02, 0x02, 0, 0]); // some other descriptor first
        bytes.extend([0x00, 0x0A, 0x80, 0]);
        bytes.extend(0x0102_0304_0506_0708u64.to_be_bytes());
        let read = parse(&bytes).unwrap();
        assert_eq!(read.sense, Sense::NEXUS_LOSS);
        assert!(read.deferred && read.sense.is_reset());
        assert_eq!(read.information, Some(0x0102_0304_0506_0708));
    }

    #[test]
    fn short_or_foreign_sense_is_refused() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0x7F; 18]), None);
        assert_eq!(parse(&[0x70, 0]), None);
        assert_eq!(parse(&[0x72, 5, 0x24]), None);
        // A key alone is still a key.
        assert_eq!(
            parse(&[0x70, 0, 3]).unwrap().sense,
            Sense::new(SenseKey::MEDIUM_ERROR, 0, 0)
        );
    }

    #[test]
    fn c4_what_refuses_a_write_for_good() {
        assert!(Sense::WRITE_PROTECTED.refuses_write_for_good());
        assert!(Sense::SPACE_ALLOCATION_FAILED.refuses_write_for_good());
        assert!(Sense::WRITE_ERROR.refuses_write_for_good());
        assert!(!Sense::POWER_ON_OR_RESET.refuses_write_for_good());
        assert!(!Sense::LOGICAL_UNIT_NOT_READY.refuses_write_for_good());
        assert!(!Sense::THIN_THRESHOLD_REACHED.is_reset());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }
    }
}

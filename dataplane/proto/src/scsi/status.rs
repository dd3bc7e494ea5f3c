//! The status a SCSI command ends with (SAM-5, Status codes).

use std::fmt;

/// A status code. Codes that the relay has no name for are kept and passed on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScsiStatus(u8);

impl ScsiStatus {
    pub const GOOD: Self = Self(0x00);
    pub const CHECK_CONDITION: Self = Self(0x02);
    pub const CONDITION_MET: Self = Self(0x04);
    pub const BUSY: Self = Self(0x08);
    pub const RESERVATION_CONFLICT: Self = Self(0x18);
    pub const TASK_SET_FULL: Self = Self(0x28);
    pub const ACA_ACTIVE: Self = Self(0x30);
    pub const TASK_ABORTED: Self = Self(0x40);

    /// The status of the code in a SCSI Response or Data-In PDU (RFC 7143 11.4.2).
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        Self(code)
    }

    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The command did what it was asked to do. CONDITION MET is how a
    /// PRE-FETCH says GOOD (SBC-4, PRE-FETCH (10) command).
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::GOOD | Self::CONDITION_MET)
    }

    /// The initiator is asked to send the same command again later.
    #[must_use]
    pub const fn asks_retry(self) -> bool {
        matches!(self, Self::BUSY | Self::TASK_SET_FULL)
    }

    const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::GOOD => "GOOD",
            Self::CHECK_CONDITION => "CHECK CONDITION",
            Self::CONDITION_MET => "CONDITION MET",
            Self::BUSY => "BUSY",
            Self::RESERVATION_CONFLICT => "RESERVATION CONFLICT",
            Self::TASK_SET_FULL => "TASK SET FULL",
            Self::ACA_ACTIVE => "ACA ACTIVE",
            Self::TASK_ABORTED => "TASK ABORTED",
            Self(_) => return None,
        })
    }
}

impl fmt::Display for ScsiStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "status {:02X}h", self.0),
        }
    }
}

impl fmt::Debug for ScsiStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_kept() {
        for code in 0..=u8::MAX {
            assert_eq!(ScsiStatus::from_code(code).code(), code);
        }
    }

    #[test]
    fn names_are_the_standards() {
        assert_eq!(ScsiStatus::from_code(0x28).to_string(), "TASK SET FULL");
        assert_eq!(ScsiStatus::from_code(0x14).to_string(), "status 14h");
        assert!(ScsiStatus::CONDITION_MET.is_success());
        assert!(!ScsiStatus::CHECK_CONDITION.is_success());
        assert!(ScsiStatus::BUSY.asks_retry());
    }
}

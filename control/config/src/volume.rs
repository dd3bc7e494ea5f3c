//! How operators name a volume: `TARGET/LUN`, or `TARGET` for all its LUNs.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::iscsi_name::{IscsiNameError, check_iscsi_name};

/// A volume, or all volumes of a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeName {
    /// iSCSI name in lower case.
    pub target: String,
    /// The 8-byte LUN field as a big-endian number (SAM-5 4.7); `None` is every LUN.
    pub lun: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VolumeNameError {
    #[error("volume {name:?}: {why}; write TARGET/LUN, or TARGET for all its LUNs")]
    Target { name: String, why: IscsiNameError },
    #[error("volume {name:?}: LUN {lun:?} is not 0 to 16383, nor 0x and 16 hexadecimal digits")]
    Lun { name: String, lun: String },
}

/// The 8-byte LUN of a small number: peripheral device addressing up to 255,
/// flat space up to 16383 (SAM-5 4.7.7).
#[must_use]
pub const fn lun_from_number(number: u16) -> Option<u64> {
    match number {
        0..=0xFF => Some((number as u64) << 48),
        0x100..=0x3FFF => Some((0x4000 | number as u64) << 48),
        _ => None,
    }
}

/// The number that operators know the LUN by, for the two simple address methods.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the arms bound the values")]
pub const fn lun_number(lun: u64) -> Option<u16> {
    if lun << 16 != 0 {
        return None;
    }
    match lun >> 48 {
        peripheral @ 0..=0xFF => Some(peripheral as u16),
        flat @ 0x4000..=0x7FFF => Some((flat & 0x3FFF) as u16),
        _ => None,
    }
}

impl VolumeName {
    /// Whether this names the given volume.
    #[must_use]
    pub fn covers(&self, target: &str, lun: u64) -> bool {
        self.target == target && self.lun.is_none_or(|own| own == lun)
    }
}

impl FromStr for VolumeName {
    type Err = VolumeNameError;

    fn from_str(name: &str) -> Result<Self, VolumeNameError> {
        let (target, lun) = match name.rsplit_once('/') {
            Some((target, lun)) => (target, Some(lun)),
            None => (name, None),
        };
        let target = target.to_lowercase();
        check_iscsi_name(&target).map_err(|why| VolumeNameError::Target {
            name: name.to_owned(),
            why,
        })?;
        let parse = |lun: &str| match lun.strip_prefix("0x") {
            Some(digits) if digits.len() == 16 => u64::from_str_radix(digits, 16).ok(),
            Some(_) => None,
            None => lun.parse().ok().and_then(lun_from_number),
        };
        let lun = match lun {
            None => None,
            Some(lun) => Some(parse(lun).ok_or_else(|| VolumeNameError::Lun {
                name: name.to_owned(),
                lun: lun.to_owned(),
            })?),
        };
        Ok(Self { target, lun })
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target)?;
        match self.lun.map(|lun| (lun, lun_number(lun))) {
            None => Ok(()),
            Some((_, Some(number))) => write!(f, "/{number}"),
            Some((lun, None)) => write!(f, "/{lun:#018x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were_written() {
        for name in [
            "iqn.2004-03.example.storage:vol0",
            "iqn.2004-03.example.storage:vol0/1",
            "iqn.2004-03.example.storage:vol0/300",
            "iqn.2004-03.example.storage:vol0/0x0123456789abcdef",
        ] {
            assert_eq!(name.parse::<VolumeName>().unwrap().to_string(), name);
        }
        let volume: VolumeName = "IQN.2004-03.example.storage:vol0/1".parse().unwrap();
        assert_eq!(volume.lun, Some(0x0001_0000_0000_0000));
        assert!(volume.covers("iqn.2004-03.example.storage:vol0", 1 << 48));
        for bad in [
            "vol0/1",
            "iqn.2004-03.example:v/x",
            "iqn.2004-03.example:v/16384",
            "iqn.2004-03.example:v/",
        ] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad}");
        }
    }
}

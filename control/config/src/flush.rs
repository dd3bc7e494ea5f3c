//! When a volume is flushed, and the ranges in which that can be set.

use std::time::Duration;

use thiserror::Error;

/// Smallest threshold: one granule of the cache index.
pub const THRESHOLD_KIB_MIN: u64 = 4;
/// Shortest flush period.
pub const PERIOD_MS_MIN: u64 = 10;
/// Longest flush period: one hour.
pub const PERIOD_MS_MAX: u64 = 3_600_000;

/// A volume is flushed when it holds more than the threshold, or when the
/// period has passed since its last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    pub threshold_bytes: u64,
    pub period: Duration,
}

/// A value outside its range, which the message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    #[error(
        "threshold of {value} KiB: must be {THRESHOLD_KIB_MIN} to {max} KiB (the size of the write cache)"
    )]
    Threshold { value: i64, max: u64 },
    #[error("period of {value} ms: must be {PERIOD_MS_MIN} to {PERIOD_MS_MAX} ms")]
    Period { value: i64 },
}

impl FlushPolicy {
    /// Checks a threshold against the size of the write cache; answers bytes.
    ///
    /// # Errors
    /// Out of range.
    pub fn threshold_bytes(kib: i64, log_bytes: u64) -> Result<u64, PolicyError> {
        let max = log_bytes / 1024;
        match u64::try_from(kib) {
            Ok(value) if (THRESHOLD_KIB_MIN..=max).contains(&value) => Ok(value * 1024),
            _ => Err(PolicyError::Threshold { value: kib, max }),
        }
    }

    /// Checks a period.
    ///
    /// # Errors
    /// Out of range.
    pub fn period(ms: i64) -> Result<Duration, PolicyError> {
        match u64::try_from(ms) {
            Ok(value) if (PERIOD_MS_MIN..=PERIOD_MS_MAX).contains(&value) => {
                Ok(Duration::from_millis(value))
            }
            _ => Err(PolicyError::Period { value: ms }),
        }
    }
}

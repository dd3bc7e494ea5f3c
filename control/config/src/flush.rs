//! When a volume is flushed, and the ranges in which that can be set.

use std::time::Duration;

use thiserror::Error;

/// Smallest threshold: one granule of the cache index.
pub const THRESHOLD_KIB_MIN: u64 = 4;
/// Shortest flush period.
pub const PERIOD_MS_MIN: u64 = 10;
/// Longest flush period: one hour.
pub const PERIOD_MS_MAX: u64 = 3_600_000;
/// Longest limit on the storage's response time: a minute.
pub const LOAD_LIMIT_MS_MAX: u64 = 60_000;
/// Smallest limit relative to the response time of the storage at rest: less would be
/// reached by chance.
pub const LOAD_LIMIT_PERCENT_MIN: u64 = 120;
pub const LOAD_LIMIT_PERCENT_MAX: u64 = 10_000;

/// A volume is flushed when it holds more than the threshold, or when the
/// period has passed since its last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    pub threshold_bytes: u64,
    pub period: Duration,
    /// Above this response time of the storage the volume is skipped; 0: never.
    pub load_limit_ms: u64,
    /// The same, as a share of its response time at rest; 0: never.
    pub load_limit_percent: u64,
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
    #[error("load limit of {value} ms: must be 1 to {LOAD_LIMIT_MS_MAX} ms, or 0 for none")]
    LoadMs { value: i64 },
    #[error(
        "load limit of {value} %: must be {LOAD_LIMIT_PERCENT_MIN} to {LOAD_LIMIT_PERCENT_MAX} % of the response time at rest, or 0 for none"
    )]
    LoadPercent { value: i64 },
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

    /// Checks an absolute limit on the storage's response time.
    ///
    /// # Errors
    /// Out of range.
    pub fn load_limit_ms(ms: i64) -> Result<u64, PolicyError> {
        match u64::try_from(ms) {
            Ok(value) if value <= LOAD_LIMIT_MS_MAX => Ok(value),
            _ => Err(PolicyError::LoadMs { value: ms }),
        }
    }

    /// Checks one relative to the response time at rest.
    ///
    /// # Errors
    /// Out of range.
    pub fn load_limit_percent(percent: i64) -> Result<u64, PolicyError> {
        let range = LOAD_LIMIT_PERCENT_MIN..=LOAD_LIMIT_PERCENT_MAX;
        match u64::try_from(percent) {
            Ok(value) if value == 0 || range.contains(&value) => Ok(value),
            _ => Err(PolicyError::LoadPercent { value: percent }),
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

//! How hard a computer is slowed down before its writes are refused (A-13,
//! C-16). Pure functions; whether there is room at all is the log's to say.

use std::time::Duration;

/// The slope from the threshold, where a computer runs free, to full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackPressure {
    pub threshold_bytes: u64,
    pub full_bytes: u64,
    /// Delay of a response when full.
    pub delay_max: Duration,
}

impl BackPressure {
    /// How long to delay the response to a write while `dirty_bytes` are dirty.
    #[must_use]
    pub fn delay(&self, dirty_bytes: u64) -> Duration {
        let thousandths = self.thousandths(dirty_bytes);
        self.delay_max * thousandths / 1000
    }

    /// Tasks that the command window offers: all up to the threshold, one when full.
    #[must_use]
    pub fn window(&self, dirty_bytes: u64, tasks_max: u16) -> u16 {
        let closed =
            u64::from(tasks_max.saturating_sub(1)) * u64::from(self.thousandths(dirty_bytes));
        let closed = u16::try_from(closed / 1000).expect("no more than tasks_max");
        tasks_max - closed
    }

    /// Place on the slope: 0 at the threshold, 1000 when full.
    fn thousandths(&self, dirty_bytes: u64) -> u32 {
        let above = dirty_bytes.saturating_sub(self.threshold_bytes);
        let slope = self.full_bytes.saturating_sub(self.threshold_bytes).max(1);
        let thousandths = u128::from(above) * 1000 / u128::from(slope);
        u32::try_from(thousandths.min(1000)).expect("1000 at most")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a13_slower_and_slower_up_to_full() {
        let slope = BackPressure {
            threshold_bytes: 1000,
            full_bytes: 3000,
            delay_max: Duration::from_millis(100),
        };
        assert_eq!(slope.delay(1000), Duration::ZERO);
        assert_eq!(slope.delay(2000), Duration::from_millis(50));
        assert_eq!(slope.delay(u64::MAX), Duration::from_millis(100));
        assert_eq!(
            (slope.window(0, 128), slope.window(u64::MAX, 128)),
            (128, 1)
        );
        assert!(
            (0..4000)
                .map(|dirty| slope.window(dirty, 128))
                .is_sorted_by(|a, b| a >= b)
        );
        assert_eq!(slope.window(5000, 0), 0);
    }
}

//! Whether a write is let into the cache now, and how hard the computer is
//! slowed down before it is not (A-11 to A-13, C-16). Pure functions.

use std::time::Duration;

use crate::Time;

/// How long a write is held back before it ends BUSY: well below the 30 s
/// after which Linux gives a command up, and Windows' 60 s (C-16).
pub const HOLD_MAX_DEFAULT: Duration = Duration::from_secs(10);

/// The door of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Room that is never given to a new write: what the flush itself, and
    /// writes that were granted their data, may still need.
    pub margin_bytes: u64,
    /// Longest that a write waits for room.
    pub hold_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Admit,
    /// Ask again when room came free, and at this time at the latest.
    HoldUntil(Time),
    /// It waited long enough: BUSY.
    Busy,
    /// It can never fit; BUSY would be asked again for ever. To be written through.
    TooLarge,
}

impl Admission {
    /// Decides over a write of `write_bytes` that first asked at `arrived`.
    /// `room_bytes` is what the log can take now, `total_bytes` what it could
    /// when empty.
    #[must_use]
    pub fn decide(
        &self,
        now: Time,
        arrived: Time,
        write_bytes: u64,
        room_bytes: u64,
        total_bytes: u64,
    ) -> Verdict {
        let needed = write_bytes.saturating_add(self.margin_bytes);
        let deadline = arrived + self.hold_max;
        if needed <= room_bytes {
            Verdict::Admit
        } else if needed > total_bytes {
            Verdict::TooLarge
        } else if now < deadline {
            Verdict::HoldUntil(deadline)
        } else {
            Verdict::Busy
        }
    }
}

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

    const DOOR: Admission = Admission {
        margin_bytes: 10,
        hold_max: HOLD_MAX_DEFAULT,
    };

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    #[test]
    fn a11_room_less_a_margin() {
        assert_eq!(DOOR.decide(at(1), at(1), 90, 100, 1000), Verdict::Admit);
        assert_eq!(
            DOOR.decide(at(1), at(1), 91, 100, 1000),
            Verdict::HoldUntil(at(11))
        );
        assert_eq!(
            DOOR.decide(at(1), at(1), u64::MAX, 100, 1000),
            Verdict::TooLarge
        );
    }

    #[test]
    fn c16_a_held_write_ends_busy_in_time() {
        assert_eq!(
            DOOR.decide(at(10), at(1), 91, 100, 1000),
            Verdict::HoldUntil(at(11))
        );
        assert_eq!(DOOR.decide(at(11), at(1), 91, 100, 1000), Verdict::Busy);
        assert_eq!(
            DOOR.decide(at(11), at(1), 91, 101, 1000),
            Verdict::Admit,
            "room came late"
        );
    }

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

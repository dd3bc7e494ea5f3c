//! Whether a path is another one than it was (B-14).
//!
//! What always holds: what is measured counts as the path's when it has stayed nearly as it is
//! for a second, and as another path's when it is then a quarter off what it was; so neither
//! a start that grows nor one that probes is a change.

use std::time::Duration;

/// Looks in a row that find the same.
const LOOKS: u8 = 4;
/// Of a hundred: what is the same, and what is another.
const SAME: u64 = 10;
const OTHER: u64 = 25;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    pub bytes_per_s: u64,
    pub round_trip: Duration,
}

impl Measure {
    fn is_within(&self, other: &Self, percent: u64) -> bool {
        let near = |one: u64, other: u64| {
            u128::from(one.abs_diff(other)) * 100
                <= u128::from(one.max(other)) * u128::from(percent)
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // On a LAN a millisecond more or less is no other path.
        let (own, others) = (micros(self.round_trip), micros(other.round_trip));
        near(self.bytes_per_s, other.bytes_per_s)
            && (near(own, others) || own.abs_diff(others) < 1000)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Steady {
    is: Option<Measure>,
    seen: Option<Measure>,
    looks: u8,
}

impl Steady {
    /// What it was before, if this is when it is found to be another.
    pub fn look(&mut self, measure: Measure) -> Option<Measure> {
        match self.seen {
            Some(seen) if measure.is_within(&seen, SAME) => {
                self.looks = self.looks.saturating_add(1)
            }
            _ => (self.seen, self.looks) = (Some(measure), 1),
        }
        if self.looks < LOOKS {
            return None;
        }
        let is = *self.is.get_or_insert(measure);
        if measure.is_within(&is, OTHER) {
            return None;
        }
        self.is = Some(measure);
        Some(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(bytes_per_s: u64, rtt_ms: u64) -> Measure {
        Measure {
            bytes_per_s,
            round_trip: Duration::from_millis(rtt_ms),
        }
    }

    #[test]
    fn b14_a_start_and_noise_are_no_change_and_another_path_is_one() {
        let mut steady = Steady::default();
        // A start, then 12.5 MB/s over 20 ms with some noise.
        for bytes_per_s in [1_000_000, 2_500_000, 6_000_000, 11_000_000] {
            assert_eq!(steady.look(measure(bytes_per_s, 20)), None);
        }
        for look in 0..100 {
            let noise = look % 7 * 150_000;
            assert_eq!(
                steady.look(measure(12_000_000 + noise, 20 + look % 2)),
                None
            );
        }
        let mut found = Vec::new();
        for look in 0..20 {
            found.extend(
                steady
                    .look(measure(12_500_000, 120))
                    .map(|was| (look, was.round_trip)),
            );
        }
        let [(look, was)] = found[..] else {
            panic!("once: {found:?}");
        };
        assert_eq!(look, u64::from(LOOKS) - 1);
        assert!(was < Duration::from_millis(22), "{was:?}");
        // Passing through values on its way, the change is told once and whole.
        let mut found = Vec::new();
        for bytes_per_s in [
            10_000_000, 7_000_000, 4_000_000, 2_500_000, 2_500_000, 2_450_000, 2_500_000,
        ] {
            found.extend(steady.look(measure(bytes_per_s, 120)));
        }
        assert_eq!(found, [measure(12_500_000, 120)]);
    }
}

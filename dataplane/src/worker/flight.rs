//! How much of a volume's flush may be under way: so much that the transport never
//! runs dry, and no more than the path takes in a short time. What is under way
//! cannot be called back, and reads and passing commands of the same session, or
//! over the same blocks, wait behind it.

use std::time::Duration;

use sluice_proto::Time;

/// More than fits any send buffer here.
const BYTES_MAX: u64 = 8 << 20;
/// What a path carries in a round trip of 100 ms at 80 Mbit/s: from here on the
/// measured rate grows with what is under way.
const BYTES_MIN: u64 = 1 << 20;
/// What the storage answers in such a time may be under way: ten round trips of a
/// long path, and no more than a reader behind it should have to wait.
const AHEAD: Duration = Duration::from_secs(2);
/// A rate is of at least so long.
const MEASURED: Duration = Duration::from_millis(500);

/// What the storage has answered of late.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    since: Time,
    answered: u64,
    bytes_max: u64,
}

impl Flight {
    pub fn new(now: Time) -> Self {
        Self {
            since: now,
            answered: 0,
            bytes_max: BYTES_MIN,
        }
    }

    /// Nothing was under way: the time until now says nothing of the path.
    pub fn begin(&mut self, now: Time) {
        (self.since, self.answered) = (now, 0);
    }

    /// The storage has answered a write of so many bytes.
    pub fn answered(&mut self, now: Time, bytes: u32) {
        self.answered += u64::from(bytes);
        let time = now.since(self.since);
        if time < MEASURED {
            return;
        }
        let ahead = u128::from(self.answered) * AHEAD.as_nanos() / time.as_nanos();
        let ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
        self.bytes_max = ahead.clamp(BYTES_MIN, BYTES_MAX);
        self.begin(now);
    }

    /// Bytes that may be under way; one write always may.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_what_the_path_takes_in_two_seconds() {
        let mut flight = Flight::new(Time::ZERO);
        assert_eq!(flight.bytes_max(), 1 << 20, "nothing is known");
        flight.answered(Time::from_millis(499), 1 << 20);
        assert_eq!(flight.bytes_max(), 1 << 20, "not long enough");
        flight.answered(Time::from_millis(1000), 1 << 20);
        assert_eq!(flight.bytes_max(), 4 << 20, "2 MiB a second");
        flight.answered(Time::from_millis(1500), 100 << 20);
        assert_eq!(flight.bytes_max(), 8 << 20);
        flight.answered(Time::from_millis(21_500), 1 << 20);
        assert_eq!(flight.bytes_max(), 1 << 20, "it stood still");
    }

    #[test]
    fn time_with_nothing_to_send_does_not_count() {
        let mut flight = Flight::new(Time::ZERO);
        flight.answered(Time::from_millis(500), 2 << 20);
        assert_eq!(flight.bytes_max(), 8 << 20);
        flight.begin(Time::from_millis(60_000));
        flight.answered(Time::from_millis(60_100), 1 << 20);
        assert_eq!(flight.bytes_max(), 8 << 20);
    }
}

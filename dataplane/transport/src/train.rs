//! What a short flight over an idle path says of it: the segments leave close together, the
//! narrowest link spreads them out, and their acknowledgements come as it has spread them.
//!
//! What always holds: only a flight that began with nothing out and has ended counts, and of
//! it what was acknowledged after the first acknowledgement; so neither the round trip nor a
//! delayed acknowledgement of the last segment is in it. A flight that took nearly as long to
//! be sent as to be acknowledged shows only that the path is no slower.
//!
//! Not for: a sender with much to send ([`crate::rate`]).

use crate::rate::Rate;
use sluice_proto::Time;

/// Shorter flights say nothing.
const BYTES_MIN: u64 = 16 * 1024;
/// Longer ones are no probe: the rate samples have them.
const BYTES_MAX: u64 = 256 * 1024;
const ACKS_MIN: u32 = 4;

/// The flight under way, and what the last one has shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Train {
    begun: bool,
    /// When it was begun, and when the last of it was sent.
    first_sent: Time,
    last_sent: Time,
    /// When the first acknowledgement of it came.
    first: Option<Time>,
    /// Acknowledged after that, and when last.
    bytes: u64,
    last: Time,
    acks: u32,
    shown: Option<Shown>,
    count: u64,
}

/// What a flight has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub rate: Rate,
    /// The path may be faster: it was not sent faster.
    pub at_least: bool,
}

impl Train {
    /// Something is sent, with so much out before it.
    pub const fn on_send(&mut self, now: Time, in_flight: u64) {
        if in_flight == 0 && !self.begun {
            *self = Self {
                begun: true,
                first_sent: now,
                first: None,
                bytes: 0,
                last: Time::ZERO,
                acks: 0,
                ..*self
            };
        }
        self.last_sent = now;
    }

    /// An acknowledgement has delivered so much; `lost`: some of the flight is missing.
    pub fn on_ack(&mut self, now: Time, delivered: u64, in_flight: u64, mss: u64, lost: bool) {
        if !self.begun {
            return;
        }
        match self.first {
            None => self.first = Some(now),
            // The last one, if for a single segment, has waited for another that did not come.
            Some(_) if in_flight == 0 && delivered < 2 * mss => {}
            Some(_) => {
                self.bytes += delivered;
                self.last = now;
                self.acks += 1;
            }
        }
        let is_too_long = self.bytes > BYTES_MAX;
        if lost || is_too_long {
            self.begun = false;
        } else if in_flight == 0 {
            self.begun = false;
            let elapsed = self.last.since(self.first.unwrap_or(now));
            if self.bytes >= BYTES_MIN && self.acks >= ACKS_MIN && !elapsed.is_zero() {
                let sending = self.last_sent.since(self.first_sent);
                self.shown = Some(Shown {
                    rate: Rate::over(self.bytes, elapsed),
                    at_least: sending > elapsed / 4 * 3,
                });
                self.count += 1;
            }
        }
    }

    /// What the last flight has shown, and how many have shown something.
    #[must_use]
    pub const fn shown(&self) -> (Option<Shown>, u64) {
        (self.shown, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u64 = 1448;

    /// A flight of so many pairs of segments, acknowledged each `gap_us`.
    fn flight(train: &mut Train, at_us: u64, pairs: u64, gap_us: u64) {
        train.on_send(Time::from_micros(at_us), 0);
        train.on_send(Time::from_micros(at_us + 1000), MSS);
        for pair in 1..=pairs {
            let now = Time::from_micros(at_us + pair * gap_us);
            let left = (pairs - pair) * 2 * MSS;
            train.on_ack(now, 2 * MSS, left + MSS, MSS, false);
        }
        // The last is alone, and its acknowledgement late.
        let late = Time::from_micros(at_us + pairs * gap_us + 40_000);
        train.on_ack(late, MSS, 0, MSS, false);
    }

    #[test]
    fn b14_a_flight_is_as_fast_as_its_acknowledgements_come() {
        let mut train = Train::default();
        flight(&mut train, 100_000, 20, 250);
        let (shown, count) = train.shown();
        let rate = Rate::from_bytes_per_s(11_584_000);
        let at_least = false;
        assert_eq!((shown, count), (Some(Shown { rate, at_least }), 1));
        // Sent in as much time as it is acknowledged in.
        flight(&mut train, 200_000, 20, 60);
        assert!(train.shown().0.unwrap().at_least);
    }

    #[test]
    fn b14_short_long_and_broken_flights_say_nothing() {
        let mut train = Train::default();
        flight(&mut train, 0, 4, 250);
        assert_eq!(train.shown(), (None, 0));
        flight(&mut train, 0, 200, 250);
        assert_eq!(train.shown(), (None, 0), "that is no probe");
        train.on_send(Time::ZERO, 0);
        for pair in 1..20 {
            let now = Time::from_micros(pair * 250);
            train.on_ack(now, 2 * MSS, MSS, MSS, pair == 10);
        }
        train.on_ack(Time::from_millis(50), MSS, 0, MSS, false);
        assert_eq!(train.shown(), (None, 0), "a loss");
        flight(&mut train, 100_000, 20, 500);
        assert_eq!(train.shown().1, 1, "the next one does");
    }
}

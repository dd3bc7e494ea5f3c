//! When an acknowledgement goes out.
//!
//! What always holds: at least every second full segment is acknowledged, and every one
//! within [`DELAY`] (RFC 9293, 3.8.6.3; RFC 5681, 4.2); what is out of order, came twice
//! or fills a hole is acknowledged at once.

use sluice_proto::Time;
use std::time::Duration;

/// RFC 9293 allows half a second; a peer's probe timer is not to be met.
pub const DELAY: Duration = Duration::from_millis(40);

/// Segments acknowledged at once in the beginning and after a pause, so that the peer's
/// window opens quickly.
const QUICK_SEGMENTS: u32 = 16;

/// A pause after which the peer begins with a small window again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub struct Acks {
    /// Bytes in order that were not acknowledged.
    pending: u64,
    due: bool,
    deadline: Option<Time>,
    quick: u32,
    heard_at: Time,
}

impl Acks {
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pending: 0,
            due: false,
            deadline: None,
            quick: QUICK_SEGMENTS,
            heard_at: Time::ZERO,
        }
    }

    /// Data came in order.
    pub fn on_data(&mut self, now: Time, len: u32, mss: u64) {
        if now.since(self.heard_at) > PAUSE {
            self.quick = QUICK_SEGMENTS;
        }
        self.heard_at = now;
        self.pending += u64::from(len);
        if self.pending >= 2 * mss || self.quick > 0 {
            self.quick = self.quick.saturating_sub(1);
            self.due = true;
        } else if self.deadline.is_none() {
            self.deadline = Some(now + DELAY);
        }
    }

    pub const fn at_once(&mut self) {
        self.due = true;
    }

    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        self.due || self.deadline.is_some_and(|deadline| deadline <= now)
    }

    #[must_use]
    pub const fn deadline(&self) -> Option<Time> {
        if self.due {
            Some(Time::ZERO)
        } else {
            self.deadline
        }
    }

    /// A segment with an acknowledgement has gone out.
    pub const fn on_sent(&mut self) {
        self.pending = 0;
        self.due = false;
        self.deadline = None;
    }
}

impl Default for Acks {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_segment_or_after_the_delay() {
        let mut acks = Acks::new();
        for _ in 0..QUICK_SEGMENTS {
            acks.on_data(Time::ZERO, 100, 1448);
            assert!(acks.is_due(Time::ZERO), "quick");
            acks.on_sent();
        }
        acks.on_data(Time::ZERO, 1448, 1448);
        assert!(!acks.is_due(Time::ZERO));
        assert_eq!(acks.deadline(), Some(Time::ZERO + DELAY));
        assert!(acks.is_due(Time::ZERO + DELAY));
        acks.on_data(Time::ZERO, 1448, 1448);
        assert!(acks.is_due(Time::ZERO));
        acks.on_sent();
        assert_eq!(acks.deadline(), None);
        acks.on_data(Time::from_millis(1100), 100, 1448);
        assert!(acks.is_due(Time::from_millis(1100)), "quick after a pause");
    }
}

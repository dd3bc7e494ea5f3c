//! The size of segments, and whether the path carries it (RFC 8899; RFC 4821).
//!
//! What always holds: a size above [`BASE`] is used only as long as full segments get
//! through; a black hole costs two timeouts, then the base size goes on while larger ones
//! are searched for by probes that carry data and whose loss means nothing else.
//!
//! Not for: what of the size is options (the connection).

use sluice_proto::Time;
use std::time::Duration;

/// BASE_PLPMTU less headers (RFC 8899, 5.1.2): every path carries it.
pub const BASE: u16 = 1200 - 40;

/// Nothing reasonable is smaller, whatever a router says (RFC 9293, 3.7.1).
pub const FLOOR: u16 = 536;

/// What a peer may ask for; less would be all headers.
const PEER_FLOOR: u16 = 88;

/// Timeouts in a row of full segments that make a black hole.
const TIMEOUTS: u8 = 2;

/// MAX_PROBES (RFC 8899, 5.1.2).
const PROBES: u8 = 3;

/// The search ends when so little is left.
const STEP: u16 = 16;

/// Between two probes that were not answered, and after one that was.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// PMTU_RAISE_TIMER (RFC 8899, 5.1.1): when a larger size is tried again.
const RAISE_INTERVAL: Duration = Duration::from_secs(600);

/// What came of a router's word that a packet is too big.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooBig {
    /// It is not believed.
    Refused,
    /// It may be true, and segments are no larger already.
    Known,
    /// Segments are smaller from now on.
    Shrunk,
}

/// Sizes as the MSS option counts: payload and TCP options.
#[derive(Clone, Copy, Debug)]
pub struct PathMtu {
    size: u16,
    /// What the peer and the port allow.
    max: u16,
    /// The smallest size known not to get through, or `max` + 1.
    ceiling: u16,
    timeouts: u8,
    probes_lost: u8,
    probe: Option<u16>,
    probe_at: Time,
}

impl PathMtu {
    #[must_use]
    pub fn new(max: u16) -> Self {
        let max = max.max(PEER_FLOOR);
        Self {
            size: max,
            max,
            ceiling: max.saturating_add(1),
            timeouts: 0,
            probes_lost: 0,
            probe: None,
            probe_at: Time::FAR,
        }
    }

    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// A timeout; `full`: what was lost was a full segment. Whether this is a black hole
    /// now, and the size has gone down (RFC 8899, 4.3).
    pub fn on_timeout(&mut self, now: Time, full: bool) -> bool {
        let base = BASE.min(self.max);
        if !full || self.size <= base {
            // Smaller still, if not even the base gets through (RFC 4821, 7.7).
            self.timeouts = self.timeouts.saturating_add(u8::from(full));
            if self.timeouts > 2 * TIMEOUTS && self.size > FLOOR {
                self.shrink(now, FLOOR.min(self.max));
                return true;
            }
            return false;
        }
        self.timeouts += 1;
        if self.timeouts < TIMEOUTS {
            return false;
        }
        self.shrink(now, base);
        true
    }

    fn shrink(&mut self, now: Time, size: u16) {
        self.ceiling = self.size;
        self.size = size;
        self.timeouts = 0;
        self.probes_lost = 0;
        self.probe = None;
        self.probe_at = now + PROBE_INTERVAL;
    }

    /// A full segment has been acknowledged.
    pub const fn on_delivered(&mut self) {
        self.timeouts = 0;
    }

    /// A router says that `size` is what goes through (RFC 8899, 4.6.1: only with proof
    /// that the packet was ours, which the caller has).
    pub fn on_too_big(&mut self, now: Time, size: u16) -> TooBig {
        // No packet of ours was ever larger than the one bound, none needs be smaller than
        // the other.
        if size >= self.max || size < FLOOR {
            return TooBig::Refused;
        }
        if size >= self.size {
            return TooBig::Known;
        }
        self.shrink(now, size);
        // A router that speaks is to be believed until the raise timer.
        self.ceiling = size + 1;
        self.probe_at = now + RAISE_INTERVAL;
        TooBig::Shrunk
    }

    /// The size of a probe to send now, if one is due.
    #[must_use]
    pub fn probe_due(&self, now: Time) -> Option<u16> {
        if self.probe.is_some() || now < self.probe_at || self.size >= self.max {
            return None;
        }
        let ceiling = if self.is_searched() {
            self.max + 1
        } else {
            self.ceiling
        };
        let size = self.size + (ceiling - self.size).div_ceil(2);
        Some(if self.size + STEP >= ceiling {
            ceiling - 1
        } else {
            size.min(ceiling - 1)
        })
    }

    fn is_searched(&self) -> bool {
        self.ceiling <= self.size.saturating_add(STEP)
    }

    pub fn on_probe_sent(&mut self, size: u16) {
        if self.is_searched() {
            self.ceiling = self.max.saturating_add(1);
        }
        self.probe = Some(size);
    }

    pub fn on_probe_delivered(&mut self, now: Time) {
        let Some(size) = self.probe.take() else {
            return;
        };
        self.size = size;
        self.probes_lost = 0;
        self.rest(now);
    }

    pub fn on_probe_lost(&mut self, now: Time) {
        let Some(size) = self.probe.take() else {
            return;
        };
        self.probes_lost += 1;
        if self.probes_lost >= PROBES {
            self.ceiling = size;
            self.probes_lost = 0;
        }
        self.rest(now);
    }

    fn rest(&mut self, now: Time) {
        let interval = if self.is_searched() {
            RAISE_INTERVAL
        } else {
            PROBE_INTERVAL
        };
        self.probe_at = now + interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_black_hole_is_found_and_the_size_searched_for() {
        let mut mtu = PathMtu::new(8960);
        let mut now = Time::ZERO;
        assert!(!mtu.on_timeout(now, true));
        assert!(!mtu.on_timeout(now, false), "small segments prove nothing");
        assert!(mtu.on_timeout(now, true));
        assert_eq!(mtu.size(), BASE);
        // The path carries 1460.
        let mut probes = 0;
        while now < Time::from_millis(400_000) {
            now += Duration::from_millis(500);
            if let Some(size) = mtu.probe_due(now) {
                assert!(size > mtu.size() && size <= 8960);
                probes += 1;
                mtu.on_probe_sent(size);
                if size <= 1460 {
                    mtu.on_probe_delivered(now);
                } else {
                    mtu.on_probe_lost(now);
                }
            }
        }
        assert!((1460 - STEP..=1460).contains(&mtu.size()), "{}", mtu.size());
        assert!(probes < 40, "{probes}");
    }

    #[test]
    fn the_path_gets_better() {
        let mut mtu = PathMtu::new(1460);
        mtu.on_timeout(Time::ZERO, true);
        mtu.on_timeout(Time::ZERO, true);
        let mut now = Time::ZERO;
        while mtu.size() < 1460 {
            now += Duration::from_secs(1);
            assert!(now < Time::from_millis(3_000_000), "at {}", mtu.size());
            if let Some(size) = mtu.probe_due(now) {
                mtu.on_probe_sent(size);
                mtu.on_probe_delivered(now);
            }
        }
        assert_eq!(mtu.probe_due(Time::FAR), None);
    }

    #[test]
    fn a_router_may_make_it_smaller_within_reason() {
        let mut mtu = PathMtu::new(1460);
        for size in [0, 100, FLOOR - 1, 1460, u16::MAX] {
            assert_eq!(mtu.on_too_big(Time::ZERO, size), TooBig::Refused, "{size}");
        }
        assert_eq!(mtu.on_too_big(Time::ZERO, 1400), TooBig::Shrunk);
        assert_eq!(mtu.on_too_big(Time::ZERO, 1400), TooBig::Known);
        assert_eq!(mtu.size(), 1400);
        assert_eq!(mtu.probe_due(Time::from_millis(10_000)), None);
        assert!(mtu.probe_due(Time::from_millis(700_000)).is_some());
    }
}

//! One round trip after the other, and what each delivered and lost.

use super::super::Ack;
use crate::rate::{Rate, RateSample};
use std::time::Duration;

/// Losses of a round, in thousandths, that a path without a full queue may have.
pub(super) const LOSS_MAX: u64 = 30;

/// Fewer segments than these prove nothing in a small round.
const LOSS_SEGMENTS_MIN: u64 = 6;

/// A full queue that drops one here and there is told of by so many acknowledgements.
const LOSS_EVENTS: u32 = 6;

/// One that drops all that follows, by few; then so many thousandths are lost.
const OVERRUN: u64 = 200;

/// What a round was like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    /// More was lost than the path loses by itself.
    pub too_high: bool,
    /// So much was lost, or told of by so many acknowledgements, that it was no burst of a
    /// path that is far from full.
    pub overrun: bool,
    /// Some of it was sent as fast as the controller would have it.
    pub limited_by_path: bool,
    /// The best that it delivered.
    pub rate: Rate,
    /// The most that it delivered in a round trip.
    pub flight: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    number: u64,
    /// It ends when something is acknowledged that was sent after so much was delivered.
    ends: u64,
    delivered: u64,
    lost: u64,
    loss_events: u32,
    rate: Rate,
    flight: u64,
    limited_by_path: bool,
    min_rtt: Option<Duration>,
}

impl Round {
    /// Whether with this sample the next round begins.
    pub const fn begins(&self, sample: &RateSample, total_delivered: u64) -> bool {
        sample.prior_delivered >= self.ends && total_delivered > self.ends
    }

    pub fn verdict(&self, mss: u64) -> Verdict {
        let all = self.delivered + self.lost;
        Verdict {
            too_high: self.lost >= LOSS_SEGMENTS_MIN * mss && self.lost * 1000 > all * LOSS_MAX,
            overrun: self.loss_events >= LOSS_EVENTS || self.lost * 1000 > all * OVERRUN,
            limited_by_path: self.limited_by_path,
            rate: self.rate,
            flight: self.flight,
        }
    }

    pub fn next(&mut self, total_delivered: u64) {
        *self = Self {
            number: self.number + 1,
            ends: total_delivered,
            ..Self::default()
        };
    }

    pub fn add(&mut self, ack: &Ack) {
        self.delivered += ack.delivered;
        self.lost += ack.lost;
        self.loss_events += u32::from(ack.lost > 0);
        if let Some(sample) = &ack.rate {
            self.rate = self.rate.max(sample.rate);
            self.flight = self.flight.max(sample.delivered);
            self.limited_by_path |= !sample.app_limited;
        }
        if let Some(rtt) = ack.rtt {
            self.min_rtt = Some(self.min_rtt.map_or(rtt, |min| min.min(rtt)));
        }
    }

    pub const fn number(&self) -> u64 {
        self.number
    }

    pub const fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt
    }
}

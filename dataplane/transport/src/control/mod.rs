//! How much may be in flight, and how fast it goes out.
//!
//! What always holds: the model's window is at least [`SEGMENTS_MIN`] segments except
//! right after a timeout, CUBIC's half of that, and the rate is never zero; a controller is told of acknowledgements and of
//! congestion, knows no segment, and is matched, not called through a pointer.
//!
//! Not for: what is lost ([`crate::recovery`]), or the peer's window.

mod bbr;
mod cubic;
mod filter;

pub use bbr::Bbr;
pub use cubic::Cubic;

use crate::rate::{Rate, RateSample};
use sluice_proto::Time;
use std::time::Duration;

/// RFC 6928.
pub const INITIAL_SEGMENTS: u64 = 10;

/// Fewer would leave delayed acknowledgements and recovery nothing to go by.
pub const SEGMENTS_MIN: u64 = 4;

/// Which controller a connection has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ControlKind {
    /// Model-based: bandwidth and round trip are measured, and losses that the model
    /// can bear are borne.
    #[default]
    Model,
    /// RFC 9438, with pacing.
    Cubic,
}

/// What an acknowledgement said.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub now: Time,
    /// Newly delivered, by number or by SACK.
    pub delivered: u64,
    /// Delivered in all.
    pub total_delivered: u64,
    /// Newly held to be lost.
    pub lost: u64,
    pub in_flight: u64,
    /// Before this acknowledgement.
    pub prior_in_flight: u64,
    pub rtt: Option<Duration>,
    pub srtt: Duration,
    pub rate: Option<RateSample>,
    /// The peer saw a congestion mark (RFC 3168).
    pub marked: bool,
    /// Something is being recovered from.
    pub recovering: bool,
    /// The window was what kept the sender from sending.
    pub window_limited: bool,
    pub mss: u64,
}

#[derive(Clone, Debug)]
pub enum Controller {
    Model(Bbr),
    Cubic(Cubic),
}

impl Controller {
    #[must_use]
    pub fn new(kind: ControlKind, mss: u64, seed: u64) -> Self {
        match kind {
            ControlKind::Model => Self::Model(Bbr::new(mss, seed)),
            ControlKind::Cubic => Self::Cubic(Cubic::new(mss)),
        }
    }

    /// The handshake's round trip.
    pub fn on_connected(&mut self, now: Time, rtt: Option<Duration>) {
        match self {
            Self::Model(bbr) => bbr.on_connected(now, rtt),
            Self::Cubic(cubic) => cubic.on_connected(rtt),
        }
    }

    pub fn on_ack(&mut self, ack: &Ack) {
        match self {
            Self::Model(bbr) => bbr.on_ack(ack),
            Self::Cubic(cubic) => cubic.on_ack(ack),
        }
    }

    /// A recovery begins, or a mark was echoed: one congestion event.
    pub fn on_congestion(&mut self, now: Time, in_flight: u64, lost: bool) {
        match self {
            Self::Model(bbr) => bbr.on_congestion(lost),
            Self::Cubic(cubic) => cubic.on_congestion(now, in_flight, lost),
        }
    }

    pub fn on_timeout(&mut self, now: Time, in_flight: u64) {
        match self {
            Self::Model(bbr) => bbr.on_timeout(),
            Self::Cubic(cubic) => cubic.on_timeout(now, in_flight),
        }
    }

    /// A recovery is over.
    pub fn on_recovered(&mut self) {
        match self {
            Self::Model(bbr) => bbr.on_recovered(),
            Self::Cubic(cubic) => cubic.on_recovered(),
        }
    }

    /// The last congestion event was none.
    pub fn on_undo(&mut self) {
        match self {
            Self::Model(bbr) => bbr.on_undo(),
            Self::Cubic(cubic) => cubic.on_undo(),
        }
    }

    /// So much goes out, after `idle` without anything in flight.
    pub fn on_send(&mut self, now: Time, bytes: u64, idle: Option<Duration>) {
        match self {
            Self::Model(bbr) => bbr.on_send(now, idle),
            Self::Cubic(cubic) => cubic.on_send(now, bytes, idle),
        }
    }

    /// Segments have another size now.
    pub const fn set_mss(&mut self, mss: u64) {
        match self {
            Self::Model(bbr) => bbr.set_mss(mss),
            Self::Cubic(cubic) => cubic.set_mss(mss),
        }
    }

    /// What may be in flight.
    #[must_use]
    pub const fn window(&self) -> u64 {
        match self {
            Self::Model(bbr) => bbr.window(),
            Self::Cubic(cubic) => cubic.window(),
        }
    }

    #[must_use]
    pub const fn pacing_rate(&self) -> Rate {
        match self {
            Self::Model(bbr) => bbr.pacing_rate(),
            Self::Cubic(cubic) => cubic.pacing_rate(),
        }
    }

    /// The path's bandwidth, as far as it is known.
    #[must_use]
    pub fn bandwidth(&self) -> Rate {
        match self {
            Self::Model(bbr) => bbr.bandwidth(),
            Self::Cubic(cubic) => cubic.bandwidth(),
        }
    }

    /// The path's round trip without a queue of ours.
    #[must_use]
    pub const fn min_rtt(&self) -> Option<Duration> {
        match self {
            Self::Model(bbr) => bbr.min_rtt(),
            Self::Cubic(cubic) => cubic.min_rtt(),
        }
    }
}

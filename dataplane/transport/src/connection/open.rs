//! The handshake (RFC 9293, 3.5).

use super::sender::MSS_DEFAULT;
use super::{Config, Connection, Ended, Receiver, Sender, State, ecn, timers};
use crate::counters::{Counters, Violation};
use crate::mtu::PathMtu;
use crate::segment::{Flags, Segment, Timestamp};
use crate::seq::{DATA_AT, SYN_AT, Seq};
use sluice_proto::Time;
use std::time::Duration;

/// A SYN on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    /// When it is to go out (again).
    pub at: Option<Time>,
    pub attempts: u32,
    sent_at: Time,
    /// The peer's SYN has the window scale option.
    scaled: bool,
}

/// RFC 5482, 3.3: bounds of what a peer may ask for.
const USER_TIMEOUT_MIN: Duration = Duration::from_secs(100);
const USER_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

impl<S, R> Connection<S, R> {
    /// An active open: the SYN goes out with the next [`Self::poll_transmit`]. `isn` is
    /// the caller's, by RFC 6528.
    #[must_use]
    pub fn connect(config: Config, isn: Seq, now: Time) -> Self {
        Self {
            state: State::SynSent,
            ended: None,
            opening: Opening {
                at: Some(now),
                attempts: 0,
                sent_at: now,
                scaled: false,
            },
            tx: Sender::new(&config, isn),
            rx: Receiver::new(&config),
            ecn: ecn::Ecn::new(config.ecn),
            timers: timers::Timers::default(),
            reset: None,
            counters: Counters::default(),
            config,
        }
    }

    /// A passive open, by the SYN that came; nothing if it is none. The SYN-ACK goes out
    /// with the next [`Self::poll_transmit`].
    #[must_use]
    pub fn accept(config: Config, isn: Seq, now: Time, syn: &Segment) -> Option<Self> {
        let flags = syn.flags;
        if !flags.has(Flags::SYN)
            || flags.has(Flags::ACK)
            || flags.has(Flags::RST)
            || flags.has(Flags::FIN)
        {
            return None;
        }
        let mut connection = Self::connect(config, isn, now);
        connection.state = State::SynReceived;
        connection.take_syn(now, syn);
        Some(connection)
    }

    /// What the peer's SYN says.
    fn take_syn(&mut self, now: Time, syn: &Segment) {
        let Config {
            sack,
            timestamps,
            timestamp_offset,
            ..
        } = self.config;
        self.rx.set_isn(syn.seq);
        self.rx.heard_at = now;
        let options = &syn.options;
        let mss = options.mss.unwrap_or(MSS_DEFAULT).min(self.config.mss_max);
        self.tx.mtu = PathMtu::new(mss);
        self.tx.sack = sack && options.sack_permitted;
        if let Some(timestamp) = options.timestamp.filter(|_| timestamps) {
            self.tx.timestamps = Some(timestamp_offset);
            self.rx.set_recent(now, timestamp.value);
        } else {
            self.tx.timestamps = None;
        }
        // RFC 7323, 2.2: both or neither; a SYN's own window is never scaled.
        self.opening.scaled = options.window_scale.is_some();
        if let Some(shift) = options.window_scale {
            self.tx.shift = shift.min(14);
            self.rx.shift = self.config.window_shift();
        }
        self.tx.edge = SYN_AT + u64::from(syn.window);
        self.tx.window_max = u64::from(syn.window);
        self.tx.window_seq = SYN_AT;
        self.tx.window_ack = SYN_AT;
        self.ecn.on_syn(syn.flags);
        self.follow_user_timeout(options.user_timeout_s);
        self.tx.on_mss_changed();
    }

    /// RFC 5482, 3.1: the peer's user timeout is taken within bounds.
    pub(super) fn follow_user_timeout(&mut self, seconds: Option<u32>) {
        if let Some(seconds) = seconds.filter(|_| self.config.user_timeout_option) {
            let asked = Duration::from_secs(u64::from(seconds));
            let own = self.config.user_timeout;
            self.config.user_timeout = own.max(asked.clamp(USER_TIMEOUT_MIN, USER_TIMEOUT_MAX));
        }
    }

    /// A segment in SYN-SENT (RFC 9293, 3.10.7.3).
    pub(super) fn on_segment_in_syn_sent(&mut self, now: Time, segment: &Segment) {
        let acked = segment.flags.has(Flags::ACK);
        if acked && self.tx.space.offset(SYN_AT, segment.ack) != DATA_AT {
            // From another incarnation, perhaps one in TIME-WAIT: the reset ends it there,
            // and the next SYN finds the way free.
            self.counters.violation(Violation::AckOfUnsent);
            if !segment.flags.has(Flags::RST) {
                self.reset = Some(Segment {
                    seq: segment.ack,
                    flags: Flags::RST,
                    ..Segment::default()
                });
            }
            return;
        }
        if segment.flags.has(Flags::RST) {
            if acked && self.ecn.asks {
                // RFC 3168, 6.1.1.1: what refuses it may be something on the path, for
                // what it asks.
                self.ecn.asks = false;
                self.opening.attempts = 0;
                self.opening.at = Some(now);
            } else if acked {
                self.end(Ended::Refused);
            } else {
                self.counters.violation(Violation::ResetOutside);
            }
            return;
        }
        if !segment.flags.has(Flags::SYN) {
            return;
        }
        self.take_syn(now, segment);
        if acked {
            self.established(now, segment);
            self.rx.acks.at_once();
        } else {
            // Both sides opened at once (3.5, figure 8).
            self.state = State::SynReceived;
            self.opening.at = Some(now);
        }
    }

    /// Our SYN is acknowledged.
    pub(super) fn established(&mut self, now: Time, segment: &Segment) {
        // Closed before it was open: the FIN goes out now.
        let closed = self.tx.fin_at.is_some();
        self.state = if closed {
            State::FinWait1
        } else {
            State::Established
        };
        self.opening.at = None;
        self.tx.una = DATA_AT;
        self.tx.idle_since = Some(now);
        let rtt = match (segment.options.timestamp, self.tx.timestamp(now)) {
            // RFC 6298, 3: a SYN that was sent twice is no sample, unless it has a timestamp.
            _ if self.opening.attempts <= 1 => Some(now.since(self.opening.sent_at)),
            (Some(Timestamp { echo, .. }), Some(clock)) => {
                let elapsed = u64::from(clock.wrapping_sub(echo));
                Some(Duration::from_millis(elapsed)).filter(|&rtt| rtt <= now.since(Time::ZERO))
            }
            _ => None,
        };
        self.tx.rtt.forget_backoff();
        if let Some(rtt) = rtt.filter(|&rtt| rtt < Duration::from_secs(60)) {
            self.tx.rtt.sample(now, rtt, 1);
            self.tx.control.on_connected(now, Some(rtt));
        }
        let shift = if segment.flags.has(Flags::SYN) {
            0
        } else {
            self.tx.shift
        };
        self.tx.edge = DATA_AT + (u64::from(segment.window) << shift);
        self.tx.window_max = self.tx.window_max.max(self.tx.edge - DATA_AT);
        self.tx.window_ack = DATA_AT;
        self.timers.on_progress(now);
    }

    /// The SYN or SYN-ACK, if it is due; `None` also when the last attempt was.
    pub(super) fn next_syn(&mut self, now: Time) -> Option<Segment> {
        self.opening.at.filter(|&at| at <= now)?;
        if self.opening.attempts >= self.config.syn_attempts_max {
            self.end(Ended::TimedOut);
            return None;
        }
        let passive = self.state == State::SynReceived;
        let first = self.opening.attempts == 0;
        if !first {
            self.tx.rtt.back_off();
            // RFC 3168, 6.1.1.1: something on the path may drop a SYN that asks for it.
            self.ecn.asks &= passive;
            self.counters.timeouts += 1;
        }
        self.opening.attempts += 1;
        self.opening.sent_at = now;
        self.opening.at = Some(now + self.tx.rtt.rto());
        let flags = if passive {
            Flags::SYN | Flags::ACK | self.ecn.syn_ack_flags()
        } else {
            Flags::SYN | self.ecn.syn_flags()
        };
        let mut segment = Segment {
            seq: self.tx.space.wire(SYN_AT),
            ack: if passive {
                self.rx.space.wire(DATA_AT)
            } else {
                Seq(0)
            },
            flags,
            ..Segment::default()
        };
        segment.window = u16::try_from(self.rx.data.promise(1, 1, 65_535)).unwrap_or(u16::MAX);
        let options = &mut segment.options;
        options.mss = Some(self.config.mss_max);
        options.sack_permitted = if passive {
            self.tx.sack
        } else {
            self.config.sack
        };
        let offer = self.config.timestamps && (!passive || self.tx.timestamps.is_some());
        if offer {
            // An offer's clock is the one that will be used.
            let agreed = self.tx.timestamps.replace(self.config.timestamp_offset);
            let value = self.tx.timestamp(now).unwrap_or_default();
            self.tx.timestamps = agreed;
            let echo = if passive { self.rx.recent } else { 0 };
            options.timestamp = Some(Timestamp { value, echo });
        }
        if !passive || self.opening.scaled {
            options.window_scale = Some(self.config.window_shift());
        }
        if self.config.user_timeout_option && !passive {
            let seconds = self.config.user_timeout.as_secs();
            options.user_timeout_s = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
        }
        Some(segment)
    }
}

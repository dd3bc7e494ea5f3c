//! The receiving half's state.

use super::config::Config;
use crate::receive::Receive;
use crate::receive::acks::Acks;
use crate::seq::{DATA_AT, Seq, Space};
use sluice_proto::Time;
use std::time::Duration;

/// Older than this a timestamp proves nothing: the peer's clock may have wrapped
/// (RFC 7323, 5.5).
const TIMESTAMP_AGE_MAX: Duration = Duration::from_secs(24 * 24 * 3600);

/// Acknowledgements a second that only say "that was not for me" (RFC 5961, 7).
const CHALLENGES_A_SECOND: u32 = 10;

#[derive(Debug)]
pub(super) struct Receiver<R> {
    pub space: Space,
    pub data: Receive<R>,
    pub acks: Acks,
    pub shift: u8,
    /// The peer's FIN was in order and is counted in `data.next()`.
    pub finished: bool,
    /// TS.Recent and when it was set (RFC 7323, 4.3).
    pub recent: u32,
    pub recent_at: Time,
    /// Last.ACK.sent.
    pub last_ack: u64,
    /// When a segment of the peer's was last acceptable.
    pub heard_at: Time,
    challenges: u32,
    challenges_since: Time,
}

impl<R> Receiver<R> {
    pub fn new(config: &Config) -> Self {
        let window_max = config.window_max.min(1 << 30);
        Self {
            space: Space::default(),
            data: Receive::new(DATA_AT, window_max, config.receive_frames_max),
            acks: Acks::new(),
            shift: 0,
            finished: false,
            recent: 0,
            recent_at: Time::ZERO,
            last_ack: DATA_AT,
            heard_at: Time::ZERO,
            challenges: 0,
            challenges_since: Time::ZERO,
        }
    }

    pub fn set_isn(&mut self, isn: Seq) {
        self.space = Space::new(isn);
    }

    /// A timestamp older than what was seen (PAWS; RFC 7323, 5.3).
    pub fn is_old(&self, now: Time, value: u32) -> bool {
        let age = Seq(value).since(Seq(self.recent));
        age < 0 && now.since(self.recent_at) < TIMESTAMP_AGE_MAX
    }

    pub const fn set_recent(&mut self, now: Time, value: u32) {
        self.recent = value;
        self.recent_at = now;
    }

    /// Whether one more challenge acknowledgement may go out.
    pub fn may_challenge(&mut self, now: Time) -> bool {
        if now.since(self.challenges_since) >= Duration::from_secs(1) {
            self.challenges_since = now;
            self.challenges = 0;
        }
        self.challenges += 1;
        self.challenges <= CHALLENGES_A_SECOND
    }

    /// The window field of a segment other than a SYN, after promising what is possible.
    pub fn window_field(&mut self, mss: u64) -> u16 {
        let granularity = 1 << self.shift;
        let window = self.data.promise(mss, granularity, 65_535 << self.shift);
        u16::try_from(window >> self.shift).unwrap_or(u16::MAX)
    }
}

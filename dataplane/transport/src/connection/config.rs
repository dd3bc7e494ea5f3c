//! What a connection is made with.

use crate::control::ControlKind;
use crate::receive::Receive;
use crate::scoreboard::Scoreboard;
use crate::send_buffer::SendBuffer;
use std::time::Duration;

/// Probes of a silent peer (RFC 9293, 3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first.
    pub idle: Duration,
    pub interval: Duration,
    /// Unanswered ones that end the connection.
    pub probes_max: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What the port below takes: its MTU less IP and TCP headers without options.
    pub mss_max: u16,
    /// The largest window that is promised, in bytes; 1 GiB is the most there can be.
    pub window_max: u64,
    /// Received frames that are held at once.
    pub receive_frames_max: u32,
    /// Bytes kept until they are acknowledged; changed live by `set_send_limit`.
    pub send_limit: u64,
    pub control: ControlKind,
    /// Desynchronises flows that share a path.
    pub seed: u64,
    /// Added to the clock of timestamps, so that they tell nothing (RFC 7323, 5.4).
    pub timestamp_offset: u32,
    pub sack: bool,
    pub timestamps: bool,
    pub ecn: bool,
    /// The connection ends if nothing is acknowledged for so long (RFC 9293, 3.8.3).
    pub user_timeout: Duration,
    /// Tell the peer our user timeout, and follow its own within bounds (RFC 5482).
    pub user_timeout_option: bool,
    pub keep_alive: Option<KeepAlive>,
    /// Attempts to connect that end in a timeout.
    pub syn_attempts_max: u32,
    /// Twice the maximum segment lifetime (RFC 9293, 3.6.1).
    pub time_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mss_max: 1460,
            window_max: 4 << 20,
            receive_frames_max: 4096,
            send_limit: 4 << 20,
            control: ControlKind::Model,
            seed: 1,
            timestamp_offset: 0,
            sack: true,
            timestamps: true,
            ecn: false,
            user_timeout: Duration::from_secs(100),
            user_timeout_option: false,
            keep_alive: None,
            syn_attempts_max: 6,
            time_wait: Duration::from_secs(60),
        }
    }
}

/// RFC 7323, 2.3.
const SHIFT_MAX: u8 = 14;

impl Config {
    /// The smallest window scale that can say `window_max`.
    #[must_use]
    pub fn window_shift(&self) -> u8 {
        (0..SHIFT_MAX)
            .find(|&shift| self.window_max <= 65_535 << shift)
            .unwrap_or(SHIFT_MAX)
    }

    /// Most heap that a connection of these limits takes, besides itself.
    #[must_use]
    pub fn heap_len<S, R>(&self) -> usize {
        let segments = Self::segments_for(self.send_limit);
        let frames = usize::try_from(self.receive_frames_max).unwrap_or(usize::MAX);
        SendBuffer::<S>::heap_len(segments)
            + Scoreboard::heap_len(segments)
            + Receive::<R>::heap_len(frames)
    }

    /// Links and segments to have room for: small sends make more of them than bytes say,
    /// up to a segment each 1024 bytes; beyond that they are joined.
    #[must_use]
    pub(super) fn segments_for(limit: u64) -> usize {
        usize::try_from(limit / 1024)
            .unwrap_or(usize::MAX)
            .clamp(64, 1 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_fits_the_window() {
        let shift = |window_max| {
            Config {
                window_max,
                ..Config::default()
            }
            .window_shift()
        };
        assert_eq!(shift(65_535), 0);
        assert_eq!(shift(65_536), 1);
        assert_eq!(shift(64 << 20), 11);
        assert_eq!(shift(1 << 40), 14);
    }
}

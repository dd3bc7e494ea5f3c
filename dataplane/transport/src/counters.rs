//! What happened, counted; what a peer did wrong, by name.

use std::time::Duration;

/// What a peer, or someone in its name, can do wrong. None ends the connection by itself
/// unless RFC 9293 says so; all are survived and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A segment outside the window that is no old duplicate (RFC 9293, 3.10.7.4).
    OutsideWindow,
    /// An acknowledgement of what was never sent (RFC 9293, 3.10.7.4).
    AckOfUnsent,
    /// An acknowledgement older than any window (RFC 5961, 5.2).
    AckTooOld,
    /// A reset that is in the window and not at its start (RFC 5961, 3.2).
    ResetInWindow,
    /// A reset that is not even in the window.
    ResetOutside,
    /// A SYN on a connection that stands (RFC 5961, 4.2).
    SynInWindow,
    /// A timestamp from the past (PAWS; RFC 7323, 5.3).
    OldTimestamp,
    /// An echo of a timestamp that was never sent.
    EchoOfUnsent,
    /// No timestamp though they were agreed on (RFC 7323, 3.2).
    MissingTimestamp,
    /// A SACK block of what was never sent, or the wrong way round (RFC 2018, 4).
    SackOfUnsent,
    /// A D-SACK for what was never sent twice (RFC 2883, 5).
    DsackOfUnresent,
    /// What was sacked is not there any more (RFC 2018, 8).
    Reneged,
    /// The window's right edge went back (RFC 9293, 3.8.6).
    WindowShrunk,
    /// More data out of order than there are frames for.
    TooManyOutOfOrder,
    /// Data after the FIN, or a second FIN elsewhere.
    BeyondFin,
    /// A segment without ACK, on a connection that stands.
    NoAck,
    /// More segments to be challenged than are answered (RFC 5961, 7).
    ChallengesThrottled,
}

/// How many there are.
pub const VIOLATIONS: usize = Violation::ChallengesThrottled as usize + 1;

/// Of one connection; added up by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub segments_sent: u64,
    pub segments_received: u64,
    pub bytes_sent: u64,
    pub bytes_resent: u64,
    pub segments_resent: u64,
    pub acks_sent: u64,
    pub timeouts: u64,
    pub spurious_timeouts: u64,
    pub tail_probes: u64,
    pub window_probes: u64,
    pub recoveries: u64,
    pub undone: u64,
    pub dsacks: u64,
    pub black_holes: u64,
    /// Congestion events that the peer has told of (RFC 3168), one a window.
    pub congestion_marks: u64,
    /// Data that came with a mark.
    pub marks_received: u64,
    /// The longest time that something was out and nothing was newly acknowledged in order.
    pub gap_longest: Duration,
    violations: [u64; VIOLATIONS],
}

impl Counters {
    pub const fn violation(&mut self, violation: Violation) {
        self.violations[violation as usize] += 1;
    }

    #[must_use]
    pub fn violations_in_all(&self) -> u64 {
        self.violations.iter().sum()
    }

    #[must_use]
    pub const fn violations(&self, violation: Violation) -> u64 {
        self.violations[violation as usize]
    }
}

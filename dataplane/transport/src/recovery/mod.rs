//! What is lost, and what follows from it.
//!
//! What always holds:
//! * a segment is held to be lost when one that was sent later has arrived and it has had
//!   a round trip and the reordering window ([`Rack`], RFC 8985), or when the timeout is over;
//! * a window reduction that turns out to be for nothing is undone: an original that was
//!   acknowledged after a timeout (RFC 5682), or every retransmission a duplicate (RFC 2883);
//! * congestion control hears of one congestion event a recovery.
//!
//! Not for: how much may be sent meanwhile ([`crate::control`]; [`Prr`] is CUBIC's part).

mod prr;
mod rack;
mod tlp;

pub use prr::Prr;
pub use rack::{Found, Rack};
pub use tlp::{ProbeOutcome, Tlp};

use sluice_proto::Time;

/// Where the sender stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Open,
    /// Something was lost; over when all up to `end` is acknowledged.
    Recovery {
        end: u64,
    },
    /// The timeout has passed; over when all up to `end` is acknowledged. As long as
    /// `doubtful`, nothing has shown that it was not one too early.
    Timeout {
        end: u64,
        began: Time,
        doubtful: bool,
    },
}

#[derive(Clone, Debug)]
pub struct Recovery {
    phase: Phase,
    /// Retransmissions of this recovery that no D-SACK has called needless; none if
    /// there is nothing to undo.
    unexplained: Option<u32>,
}

impl Recovery {
    #[must_use]
    pub const fn new() -> Self {
        Self {
            phase: Phase::Open,
            unexplained: None,
        }
    }

    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// A segment is lost. Whether that begins a recovery.
    pub fn on_loss(&mut self, nxt: u64) -> bool {
        if self.phase != Phase::Open {
            return false;
        }
        self.phase = Phase::Recovery { end: nxt };
        self.unexplained = Some(0);
        true
    }

    /// The timeout has passed.
    pub fn on_timeout(&mut self, now: Time, nxt: u64) {
        // RFC 5682, 2.1 (1): a repeated timeout is not doubted again.
        let doubtful = !matches!(self.phase, Phase::Timeout { .. });
        self.phase = Phase::Timeout {
            end: nxt,
            began: now,
            doubtful,
        };
        self.unexplained = None;
    }

    pub fn on_retransmission(&mut self) {
        if let Some(count) = &mut self.unexplained {
            *count += 1;
        }
    }

    /// A D-SACK for something resent. Whether with it every retransmission was needless.
    pub fn on_duplicate(&mut self) -> bool {
        let Some(count) = &mut self.unexplained else {
            return false;
        };
        if *count == 0 {
            return false;
        }
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.unexplained = None;
        true
    }

    /// Something never resent was acknowledged that had been sent before the timeout.
    /// Whether that shows the timeout to have been one too early (RFC 5682, 3.1 (3.b)).
    pub fn on_original(&mut self, sent_at: Time) -> bool {
        match self.phase {
            Phase::Timeout {
                began,
                doubtful: true,
                ..
            } if sent_at < began => {
                self.phase = Phase::Open;
                true
            }
            _ => false,
        }
    }

    /// Everything is taken back: what was lost was late.
    pub const fn undo(&mut self) {
        self.phase = Phase::Open;
        self.unexplained = None;
    }

    /// The cumulative acknowledgement stands at `una`. Whether that ends a recovery.
    pub fn on_acknowledged(&mut self, una: u64) -> bool {
        match self.phase {
            Phase::Recovery { end } | Phase::Timeout { end, .. } if una >= end => {
                self.phase = Phase::Open;
                true
            }
            // RFC 5682, 3.1 (2.a): resent data was needed, so the timeout was right; it
            // stays doubtful only until the acknowledgement has moved.
            _ => false,
        }
    }

    /// Resent data was acknowledged after a timeout.
    pub const fn believe_timeout(&mut self) {
        if let Phase::Timeout { doubtful, .. } = &mut self.phase {
            *doubtful = false;
        }
    }
}

impl Default for Recovery {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_5682_an_original_after_the_timeout_undoes_it() {
        let mut recovery = Recovery::new();
        let ms = Time::from_millis;
        recovery.on_timeout(ms(500), 9000);
        assert!(!recovery.on_original(ms(501)), "sent since");
        assert!(recovery.on_original(ms(100)));
        assert!(recovery.is_open());
    }

    #[test]
    fn rfc_5682_resent_data_that_was_needed_confirms_it() {
        let mut recovery = Recovery::new();
        recovery.on_timeout(Time::from_millis(500), 9000);
        recovery.believe_timeout();
        assert!(!recovery.on_original(Time::from_millis(100)));
        assert!(!recovery.on_acknowledged(8999));
        assert!(recovery.on_acknowledged(9000) && recovery.is_open());
        recovery.on_timeout(Time::from_millis(500), 9000);
        recovery.on_timeout(Time::from_millis(900), 9000);
        assert!(
            !recovery.on_original(Time::from_millis(100)),
            "a second in a row"
        );
    }

    #[test]
    fn rfc_2883_all_retransmissions_needless() {
        let mut recovery = Recovery::new();
        assert!(recovery.on_loss(9000) && !recovery.on_loss(9500));
        recovery.on_retransmission();
        recovery.on_retransmission();
        assert!(!recovery.on_duplicate());
        assert!(recovery.on_duplicate());
        assert!(!recovery.on_duplicate(), "once");
    }
}

//! RACK (RFC 8985): a segment is lost when one sent later has been delivered, and the
//! time for reordering is over.

use crate::scoreboard::{Delivered, Scoreboard, SentId};
use sluice_proto::Time;
use std::time::Duration;

/// SACKed segments that tell loss from reordering while none was ever seen (DupThresh).
const SACKED_SEGMENTS: u32 = 3;

/// Recoveries that a widened window outlives the last D-SACK (RFC 8985, 6.2 step 4).
const PERSIST: u32 = 16;

#[derive(Clone, Debug)]
pub struct Rack {
    /// The segment sent last of all that have been delivered.
    newest: Option<(Time, u64)>,
    rtt: Duration,
    /// RACK.fack: the highest end delivered.
    highest: u64,
    reordering_seen: bool,
    /// RACK.reo_wnd_mult, in quarters of the smallest round trip.
    quarters: u32,
    persist: u32,
    /// RACK.dsack_round: one widening a round trip.
    widened_until: u64,
}

/// What [`Rack::detect`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub lost_bytes: u64,
    pub lost_segments: u32,
    /// Of these, probes of the path MTU.
    pub lost_mtu_probes: u32,
    /// When the next one would be lost if nothing is heard.
    pub deadline: Option<Time>,
}

impl Rack {
    #[must_use]
    pub const fn new() -> Self {
        Self {
            newest: None,
            rtt: Duration::ZERO,
            highest: 0,
            reordering_seen: false,
            quarters: 1,
            persist: 0,
            widened_until: 0,
        }
    }

    /// Steps 2 and 3. `echo_is_older`: the acknowledgement's timestamp is from before the
    /// segment was last sent.
    pub fn on_delivered(
        &mut self,
        now: Time,
        delivered: &Delivered,
        echo_is_older: bool,
        min_rtt: Duration,
    ) {
        let resent = delivered.retransmissions > 0;
        if delivered.end > self.highest {
            self.highest = delivered.end;
        } else if delivered.end < self.highest && !resent {
            self.reordering_seen = true;
        }
        let rtt = now.since(delivered.sent_at);
        // The acknowledgement is for an earlier transmission of it.
        if resent && (echo_is_older || rtt < min_rtt) {
            return;
        }
        self.rtt = rtt;
        let this = (delivered.sent_at, delivered.end);
        if self.newest.is_none_or(|newest| this > newest) {
            self.newest = Some(this);
        }
    }

    /// Step 4: a D-SACK says that a retransmission was for nothing.
    pub fn on_dsack(&mut self, una: u64, nxt: u64) {
        if una >= self.widened_until {
            self.widened_until = nxt;
            self.quarters = self.quarters.saturating_add(1);
            self.persist = PERSIST;
        }
    }

    /// Step 4: a recovery is over.
    pub const fn on_recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.quarters = 1;
        }
    }

    /// RACK_update_reo_wnd: how long reordered segments are waited for.
    #[must_use]
    pub fn window(
        &self,
        recovering: bool,
        sacked: u32,
        min_rtt: Duration,
        srtt: Duration,
    ) -> Duration {
        if !self.reordering_seen && (recovering || sacked >= SACKED_SEGMENTS) {
            return Duration::ZERO;
        }
        (min_rtt * self.quarters / 4).min(srtt)
    }

    /// Step 5: marks what is lost.
    pub fn detect(&self, now: Time, window: Duration, board: &mut Scoreboard) -> Found {
        let mut found = Found::default();
        let Some(newest) = self.newest else {
            return found;
        };
        let mut at = board.first_flying();
        while let Some(id) = at {
            let sent = board[id];
            // By time, and within a burst by number: what comes now was sent later still.
            // (What was resent at the very same moment is found with the next delivery.)
            if (sent.sent_at, sent.end) >= newest {
                break;
            }
            at = board.next_flying(id);
            let deadline = sent.sent_at + self.rtt + window;
            if deadline > now {
                found.deadline = Some(deadline);
                break;
            }
            self.lose(id, board, &mut found);
        }
        found
    }

    fn lose(&self, id: SentId, board: &mut Scoreboard, found: &mut Found) {
        let sent = &board[id];
        if sent.mtu_probe {
            found.lost_mtu_probes += 1;
        } else {
            found.lost_bytes += u64::from(sent.bytes());
            found.lost_segments += 1;
        }
        board.mark_lost(id);
    }

    #[must_use]
    pub const fn reordering_seen(&self) -> bool {
        self.reordering_seen
    }
}

impl Default for Rack {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Snapshot;
    use crate::scoreboard::State;

    const RTT: Duration = Duration::from_millis(40);

    const fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    fn sent(board: &mut Scoreboard, n: u64, at: Time) {
        board.push(n * 100, (n + 1) * 100, at, Snapshot::default(), false);
    }

    fn sacked(rack: &mut Rack, board: &mut Scoreboard, now: Time, n: u64) {
        board.sack(&[(n * 100, (n + 1) * 100)], |delivered| {
            rack.on_delivered(now, &delivered, false, RTT);
        });
    }

    fn lost(board: &Scoreboard) -> Option<u64> {
        board.first_lost().map(|id| board[id].start / 100)
    }

    /// RFC 8985, 3.1: a tail of three, the first two lost, found by the third's
    /// acknowledgement and a quarter of a round trip, with no duplicates to count.
    #[test]
    fn one_sack_is_enough() {
        let (mut rack, mut board) = (Rack::new(), Scoreboard::new(8));
        for n in 1..=3 {
            sent(&mut board, n, ms(n));
        }
        sacked(&mut rack, &mut board, ms(43), 3);
        let window = rack.window(false, board.sacked_segments(), RTT, RTT);
        assert_eq!(window, RTT / 4);
        let found = rack.detect(ms(43), window, &mut board);
        assert_eq!(found.deadline, Some(ms(1 + 40 + 10)));
        assert_eq!(found.lost_segments, 0);
        let found = rack.detect(ms(52), window, &mut board);
        assert_eq!((found.lost_segments, found.lost_bytes), (2, 200));
        assert_eq!(lost(&board), Some(1));
    }

    /// RFC 8985, 3.2 and 6.2 step 4: no window once three are sacked, unless reordering
    /// was seen.
    #[test]
    fn the_window_is_for_paths_that_reorder() {
        let (mut rack, mut board) = (Rack::new(), Scoreboard::new(8));
        for n in 1..=6 {
            sent(&mut board, n, ms(n));
        }
        for n in 2..=4 {
            sacked(&mut rack, &mut board, ms(40 + n), n);
        }
        let window = rack.window(false, board.sacked_segments(), RTT, RTT);
        assert_eq!(window, Duration::ZERO);
        assert_eq!(rack.detect(ms(44), window, &mut board).lost_segments, 1);
        // The original arrives late: a path that reorders.
        assert!(!rack.reordering_seen());
        sacked(&mut rack, &mut board, ms(45), 1);
        assert!(rack.reordering_seen());
        assert_eq!(rack.window(true, 3, RTT, RTT), RTT / 4);
    }

    /// RFC 8985, 6.2 step 4: a D-SACK a round trip widens it, sixteen recoveries end that.
    #[test]
    fn dsacks_widen_the_window() {
        let mut rack = Rack::new();
        rack.reordering_seen = true;
        rack.on_dsack(100, 900);
        rack.on_dsack(500, 900);
        assert_eq!(rack.window(true, 9, RTT, RTT), RTT / 2, "once a round");
        for _ in 0..9 {
            rack.on_dsack(1 << 40, 1 << 40);
        }
        assert_eq!(rack.window(true, 9, RTT, RTT), RTT, "no more than SRTT");
        for _ in 0..16 {
            rack.on_recovered();
        }
        assert_eq!(rack.window(true, 9, RTT, RTT), RTT / 4);
    }

    /// RFC 8985, 3.1: a lost retransmission is found as any other segment is.
    #[test]
    fn a_lost_retransmission_is_found() {
        let (mut rack, mut board) = (Rack::new(), Scoreboard::new(8));
        for n in 1..=3 {
            sent(&mut board, n, ms(n));
        }
        sacked(&mut rack, &mut board, ms(42), 2);
        rack.detect(ms(60), RTT / 4, &mut board);
        let first = board.first_lost().unwrap();
        board.resend(first, ms(60), Snapshot::default());
        sent(&mut board, 4, ms(61));
        sacked(&mut rack, &mut board, ms(62), 3);
        assert_eq!(rack.detect(ms(62), RTT / 4, &mut board), Found::default());
        sacked(&mut rack, &mut board, ms(101), 4);
        assert_eq!(rack.detect(ms(110), RTT / 4, &mut board).lost_segments, 1);
        assert_eq!(board[first].state, State::Lost);
    }

    /// RFC 8985, 6.2 step 2: an acknowledgement of the original is not one of the
    /// retransmission.
    #[test]
    fn an_ambiguous_acknowledgement_moves_nothing() {
        for (echo_is_older, now_ms) in [(true, 100), (false, 65)] {
            let (mut rack, mut board) = (Rack::new(), Scoreboard::new(8));
            sent(&mut board, 1, ms(1));
            sent(&mut board, 2, ms(2));
            let first = board.first_flying().unwrap();
            board.resend(first, ms(60), Snapshot::default());
            board.sack(&[(100, 200)], |delivered| {
                rack.on_delivered(ms(now_ms), &delivered, echo_is_older, RTT);
            });
            assert_eq!(
                rack.detect(ms(1000), Duration::ZERO, &mut board),
                Found::default()
            );
        }
    }
}

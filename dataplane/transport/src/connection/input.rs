//! A segment comes in (RFC 9293, 3.10.7): is it acceptable, and what is in it.

use super::{Connection, Ended, State};
use crate::counters::Violation;
use crate::receive::Taken;
use crate::segment::{Flags, IpEcn, Segment};
use sluice_proto::Time;

impl<S, R> Connection<S, R> {
    /// Takes a segment with `len` bytes of payload in `frame`. The frame is given back if
    /// nothing of it is kept. `ecn` is the field of its IP header.
    ///
    /// Afterwards, at the latest after a burst of them, call [`Self::poll_transmit`].
    pub fn on_segment(
        &mut self,
        now: Time,
        segment: &Segment,
        ecn: IpEcn,
        len: u32,
        frame: R,
    ) -> Option<R> {
        self.counters.segments_received += 1;
        match self.state {
            State::Closed => Some(frame),
            State::SynSent => {
                self.on_segment_in_syn_sent(now, segment);
                Some(frame)
            }
            _ => self.on_synchronized(now, segment, ecn, len, frame),
        }
    }

    /// The steps of RFC 9293, 3.10.7.4, as RFC 5961 and RFC 7323 change them.
    fn on_synchronized(
        &mut self,
        now: Time,
        segment: &Segment,
        ecn: IpEcn,
        len: u32,
        frame: R,
    ) -> Option<R> {
        let flags = segment.flags;
        let seq = self.rx.space.offset(self.rx.data.next(), segment.seq);
        let syn_fin = u64::from(flags.has(Flags::SYN)) + u64::from(flags.has(Flags::FIN));
        let end = seq + u64::from(len) + syn_fin;
        if !self.is_timely(now, segment) || !self.is_in_window(now, segment, seq, end) {
            return Some(frame);
        }
        if flags.has(Flags::RST) {
            self.on_reset(now, seq);
            return Some(frame);
        }
        if flags.has(Flags::SYN) {
            // RFC 5961, 4.2: whatever its number; a peer that restarted answers the
            // challenge with a reset.
            self.counters.violation(Violation::SynInWindow);
            self.challenge(now);
            return Some(frame);
        }
        if !flags.has(Flags::ACK) {
            self.counters.violation(Violation::NoAck);
            return Some(frame);
        }
        if self.state == State::SynReceived && !self.take_handshake_ack(now, segment) {
            return Some(frame);
        }
        let ack = self.tx.space.offset(self.tx.una, segment.ack);
        if !self.is_ack_acceptable(now, ack) {
            return Some(frame);
        }
        self.on_heard(now);
        self.remember_timestamp(now, segment, seq);
        self.on_ack(now, seq, ack, len, segment);
        if self.ended.is_some() {
            return Some(frame);
        }
        if len > 0 && ecn == IpEcn::Congested {
            self.counters.marks_received += 1;
        }
        if self.ecn.on_segment(flags, ecn, len > 0) {
            self.rx.acks.at_once();
        }
        let back = if len > 0 {
            self.take_payload(now, seq, len, frame)
        } else {
            Some(frame)
        };
        if flags.has(Flags::FIN) {
            self.take_fin(now, seq + u64::from(len));
        }
        back
    }

    /// PAWS (RFC 7323, 5.3), and the option's presence (3.2).
    fn is_timely(&mut self, now: Time, segment: &Segment) -> bool {
        if self.tx.timestamps.is_none() || segment.flags.has(Flags::RST) {
            return true;
        }
        let Some(timestamp) = segment.options.timestamp else {
            self.counters.violation(Violation::MissingTimestamp);
            return false;
        };
        if self.rx.is_old(now, timestamp.value) {
            self.counters.violation(Violation::OldTimestamp);
            self.challenge(now);
            return false;
        }
        true
    }

    /// RFC 9293, 3.4: some of it is in the window. An empty segment may stand at its end.
    fn is_in_window(&mut self, now: Time, segment: &Segment, seq: u64, end: u64) -> bool {
        let (next, edge) = (self.rx.data.next(), self.rx.data.edge());
        let acceptable = if seq == end {
            (next..=edge).contains(&seq)
        } else {
            // A closed window still lets acknowledgements in; the payload finds no room.
            end > next && (seq < edge || seq == next)
        };
        if acceptable {
            return true;
        }
        if segment.flags.has(Flags::RST) {
            self.counters.violation(Violation::ResetOutside);
            return false;
        }
        if end > seq && end <= next {
            // An old duplicate, which is to be acknowledged, for ours may be lost.
            if !segment.flags.has(Flags::SYN) {
                self.rx.data.note_duplicate(seq, end);
            }
            self.rx.acks.at_once();
            if self.state == State::TimeWait && segment.flags.has(Flags::FIN) {
                // RFC 9293, 3.10.7.4: the FIN again.
                self.wait(now);
            }
            return false;
        }
        if seq > edge || seq + (1 << 30) < next {
            self.counters.violation(Violation::OutsideWindow);
        }
        self.challenge(now);
        false
    }

    /// RFC 5961, 3.2: a reset must name the very next number.
    fn on_reset(&mut self, now: Time, seq: u64) {
        if seq != self.rx.data.next() {
            self.counters.violation(Violation::ResetInWindow);
            self.challenge(now);
            return;
        }
        self.end(match self.state {
            // Nothing is owed any more.
            State::Closing | State::LastAck | State::TimeWait => Ended::Finished,
            State::SynReceived => Ended::Refused,
            _ => Ended::Reset,
        });
    }

    /// RFC 5961, 5.2: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT.
    fn is_ack_acceptable(&mut self, now: Time, ack: u64) -> bool {
        let violation = if ack > self.tx.nxt {
            Violation::AckOfUnsent
        } else if ack + self.tx.window_max.max(1 << 16) < self.tx.una {
            Violation::AckTooOld
        } else {
            return true;
        };
        self.counters.violation(violation);
        self.challenge(now);
        false
    }

    /// An acknowledgement that says where we stand, a few a second (RFC 5961, 7).
    fn challenge(&mut self, now: Time) {
        if self.rx.may_challenge(now) {
            self.rx.acks.at_once();
        } else {
            self.counters.violation(Violation::ChallengesThrottled);
        }
    }

    /// RFC 7323, 4.3 (2).
    fn remember_timestamp(&mut self, now: Time, segment: &Segment, seq: u64) {
        if let Some(timestamp) = segment.options.timestamp
            && self.tx.timestamps.is_some()
            && seq <= self.rx.last_ack
            && !self.rx.is_old(now, timestamp.value)
        {
            self.rx.set_recent(now, timestamp.value);
        }
    }

    fn take_payload(&mut self, now: Time, seq: u64, len: u32, frame: R) -> Option<R> {
        if !self.state.may_receive() || self.rx.finished {
            self.counters.violation(Violation::BeyondFin);
            return Some(frame);
        }
        let (taken, back) = self.rx.data.take(seq, len, frame);
        match taken {
            Taken::InOrder { filled } => {
                let mss = self.tx.mss();
                self.rx.acks.on_data(now, len, mss);
                // RFC 5681, 4.2: a filled hole at once; also while others are left.
                if filled || self.rx.data.has_blocks() {
                    self.rx.acks.at_once();
                }
            }
            Taken::OutOfOrder | Taken::Duplicate => self.rx.acks.at_once(),
            Taken::Refused => {
                self.counters.violation(Violation::TooManyOutOfOrder);
                self.rx.acks.at_once();
            }
        }
        back
    }

    /// A FIN counts where everything before it is here; one that comes too early is not
    /// sacked, so it comes again.
    fn take_fin(&mut self, now: Time, at: u64) {
        if self.rx.finished {
            return;
        }
        if at != self.rx.data.next() {
            self.rx.acks.at_once();
            return;
        }
        if self.state.may_receive() {
            self.on_fin(now);
        }
    }
}

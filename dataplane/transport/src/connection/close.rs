//! The ways a connection ends (RFC 9293, 3.6).

use super::{Connection, Ended, State};
use crate::segment::{Flags, Segment};
use sluice_proto::Time;
use std::time::Duration;

/// RFC 6191, 3: the timestamp clock must have moved on before a port is used again.
const REUSE_AFTER: Duration = Duration::from_secs(1);

/// The reset for a segment that belongs to no connection (RFC 9293, 3.10.7.1); `len` is
/// its payload's. None if it is a reset itself.
#[must_use]
pub fn refuse(segment: &Segment, len: u32) -> Option<Segment> {
    let flags = segment.flags;
    if flags.has(Flags::RST) {
        return None;
    }
    if flags.has(Flags::ACK) {
        return Some(Segment {
            seq: segment.ack,
            flags: Flags::RST,
            ..Segment::default()
        });
    }
    let syn_fin = u32::from(flags.has(Flags::SYN)) + u32::from(flags.has(Flags::FIN));
    Some(Segment {
        ack: segment.seq.plus(len).plus(syn_fin),
        flags: Flags::RST | Flags::ACK,
        ..Segment::default()
    })
}

impl<S, R> Connection<S, R> {
    /// No more will be sent: a FIN follows what is lent. Receiving goes on.
    pub fn close(&mut self) {
        if self.ended.is_some() || self.tx.fin_at.is_some() {
            return;
        }
        match self.state {
            State::SynSent if self.tx.buffer.is_empty() => return self.end(Ended::Aborted),
            // What is lent, and the FIN, wait for the handshake.
            State::SynSent | State::SynReceived => {}
            State::Established => self.state = State::FinWait1,
            State::CloseWait => self.state = State::LastAck,
            _ => return,
        }
        self.tx.fin_at = Some(self.tx.buffer.end());
    }

    /// Ends the connection now; the peer gets a reset.
    pub fn abort(&mut self) {
        if self.ended.is_some() {
            return;
        }
        if self.state != State::SynSent && self.state != State::TimeWait {
            self.reset = Some(Segment {
                seq: self.tx.space.wire(self.tx.nxt),
                ack: self.rx.space.wire(self.rx.data.next()),
                flags: Flags::RST | Flags::ACK,
                ..Segment::default()
            });
        }
        self.end(Ended::Aborted);
    }

    pub(super) fn end(&mut self, why: Ended) {
        self.state = State::Closed;
        self.ended.get_or_insert(why);
        self.tx.buffer.release_all();
        self.opening.at = None;
    }

    /// Our FIN is acknowledged.
    pub(super) fn on_fin_acked(&mut self, now: Time) {
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                self.timers.on_progress(now);
            }
            State::Closing => self.wait(now),
            State::LastAck => self.end(Ended::Finished),
            _ => {}
        }
    }

    /// The peer's FIN is in order.
    pub(super) fn on_fin(&mut self, now: Time) {
        self.rx.finished = true;
        self.rx.data.take_fin();
        self.rx.acks.at_once();
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.wait(now),
            _ => {}
        }
    }

    /// Into TIME-WAIT, or once more from its beginning.
    pub(super) fn wait(&mut self, now: Time) {
        self.state = State::TimeWait;
        self.timers.time_wait = Some((now, now + self.config.time_wait));
    }

    /// Whether the port pair may be used for a new connection now: it is over, or waits,
    /// has waited long enough for its timestamps to be older than a new one's (RFC 6191),
    /// and the new connection's number lies behind this one's.
    #[must_use]
    pub fn is_reusable(&self, now: Time, isn: crate::seq::Seq) -> bool {
        match (self.state, self.timers.time_wait) {
            (State::Closed, _) => true,
            (State::TimeWait, Some((since, _))) => {
                let behind = isn.since(self.tx.space.wire(self.tx.nxt)) > 0;
                now.since(since) >= REUSE_AFTER && self.tx.timestamps.is_some() && behind
            }
            _ => false,
        }
    }
}

//! How a program ends: the peer is honest from here, then the connection is let go of.

use std::time::Duration;

use super::{Play, STORAGE};
use crate::tcp::{ACK, Header, RST};

/// Steps from deadline to deadline in which all that is left must go through.
const STEPS_MAX: usize = 20_000;
/// A connection that stood still for longer may rightly be given up before it moves again.
const STALL_MAX: Duration = Duration::from_secs(8);
/// A peer has so long to finish its side after ours.
const LINGER: Duration = Duration::from_secs(30);
/// Most payload of a segment of the peer's.
const SEGMENT_LEN: i64 = 1400;
/// After a close a connection is gone within the room's patience with the peer.
const CLOSING_MAX: Duration = Duration::from_secs(60);

impl Play<'_> {
    pub(super) fn finish(mut self) {
        for frame in self.hogs.drain(..) {
            self.pool.release(frame);
        }
        if self.over {
            return;
        }
        let choice = self.written ^ self.read;
        if self.connected && !self.peer.forged && !self.peer.blind {
            self.drain();
        }
        if self.over {
            return;
        }
        if choice & 1 == 0 {
            self.abort();
        } else {
            self.ends_by_itself();
        }
    }

    /// The owner lets go of it: nothing is left, and who still talks hears so.
    pub(super) fn abort(&mut self) {
        self.tcp.abort(self.flow);
        self.over = true;
        let mut out = Vec::new();
        self.tcp.poll(self.now, &mut self.pool, &mut out);
        let view = self.view();
        assert!(!view.alive);
        for frame in out {
            self.pool.release(frame);
        }
        self.nothing_is_left();
        if self.peer.synced {
            self.late_segment();
        }
        self.nothing_is_left();
    }

    /// A segment of a connection that is gone.
    fn late_segment(&mut self) {
        let header = self.header(ACK).bytes(STORAGE.port(), self.local.port());
        let resets = self.tcp.counters().resets_out;
        self.deliver(&header, 0);
        assert_eq!(self.tcp.counters().resets_out, resets + 1);
    }

    /// All that the owner has written goes out again as it must, all that the peer has
    /// begun to send is read, and neither takes a minute.
    fn drain(&mut self) {
        self.peer.window = u16::MAX;
        let mut received = self.view().una;
        if self.peer.sent > received {
            // Something moves: patience begins anew.
            received += 1;
        }
        self.answer(received);
        for _ in 0..STEPS_MAX {
            self.owner_takes(usize::MAX);
            let before = self.view();
            let is_read = before.next >= self.peer.spoken.end();
            if self.over || is_read && before.una == self.written {
                break;
            }
            self.fill();
            let mut heard = self.poll();
            if heard.is_empty() && self.view().next == before.next {
                heard = self.until_deadline();
            }
            if self.over {
                break;
            }
            // What the peer has acknowledged it has, whatever became of it.
            received = received.max(self.view().una);
            heard.sort_unstable();
            for (start, end) in heard {
                if start <= received {
                    received = received.max(end);
                }
            }
            self.answer(received);
        }
        let view = self.view();
        let is_done = view.next >= self.peer.spoken.end() && view.una == self.written;
        let lingered = self
            .closed_at
            .is_some_and(|at| self.now.since(at) >= LINGER);
        assert!(
            if self.over {
                self.stalled > STALL_MAX || lingered || self.finished
            } else {
                is_done
            },
            "{view:?} after {:?} of {:?}",
            self.now.since(self.began),
            self.peer
        );
    }

    fn answer(&mut self, received: i64) {
        if self.over {
            return;
        }
        let fin_is_next = self.closed && received == self.written && self.peer.sent > received;
        let header = Header {
            ack: self.peer.ours.wire(received + i64::from(fin_is_next)),
            ..self.header(ACK)
        };
        self.say(header, 0);
    }

    /// The peer sends again what did not arrive.
    fn fill(&mut self) {
        let next = self.view().next;
        let end = self.peer.data.end().min(self.peer.edge);
        if !self.tcp.finished(self.flow) && next < end {
            self.next_bytes((end - next).min(SEGMENT_LEN));
        } else if !self.tcp.finished(self.flow) && self.peer.fins.contains(&next) {
            let header = self.header(ACK | crate::tcp::FIN);
            self.say(header, 0);
        }
    }

    /// The owner closes; whatever the peer does not do, nothing is left in the end.
    fn ends_by_itself(&mut self) {
        self.tcp.close(self.flow);
        self.closed = true;
        self.closed_at.get_or_insert(self.now);
        let end = self.now + CLOSING_MAX;
        while !self.over {
            self.until_deadline();
            assert!(self.now < end, "a connection that does not end");
        }
        let reset = self.header(RST);
        self.say(reset, 0);
        self.nothing_is_left();
    }
}

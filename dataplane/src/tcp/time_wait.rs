//! Connections that we have closed first, remembered for a while without
//! buffers (RFC 9293 3.6.1): a repeated FIN of the peer is acknowledged
//! again, and nothing old gets into a new connection of the same ends.

use sluice_proto::Time;
use smoltcp::wire::TcpControl;

use super::keyed::FourTuple;
use super::segment::{Control, Segment, after};
use super::wire::Reply;
use super::{Slot, Tcp};

/// What is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeWait {
    pub snd_nxt: u32,
    pub rcv_nxt: u32,
    pub expires: Time,
}

impl Tcp {
    pub(super) fn remember(&mut self, tuple: FourTuple, note: TimeWait) {
        if self.time_wait.len() == self.config.time_wait_max {
            let oldest = self.time_wait.front().expect("the limit is not zero");
            self.forget_time_wait(oldest);
            self.counters.drop_time_wait_oldest += 1;
        }
        let index = self.table.insert(tuple, Slot::TimeWait(note));
        self.time_wait.push(index);
    }

    /// RFC 9293 3.10.7.4, TIME-WAIT. A RST does not end it (RFC 1337).
    pub(super) fn time_wait_segment(
        &mut self,
        now: Time,
        index: u32,
        note: TimeWait,
        packet: &[u8],
        segment: &Segment,
        reply: &mut Reply,
    ) {
        let new = segment.control == TcpControl::Syn && segment.ack.is_none();
        if new && after(segment.seq, note.rcv_nxt) {
            // RFC 9293 3.6.1: a SYN beyond the old numbers may open anew.
            self.forget_time_wait(index);
            self.stray(now, packet, segment, reply);
        } else if segment.control != TcpControl::Rst && segment.len() > 0 {
            // Only what takes sequence numbers is answered, or two ends in
            // this state could answer each other for ever.
            let answer = Control {
                control: TcpControl::None,
                seq: note.snd_nxt,
                ack: Some(note.rcv_nxt),
                window: 0,
                offer: None,
            };
            reply.len = answer.emit(segment.tuple.local, segment.tuple.remote, &mut reply.bytes);
            let expires = now + self.config.time_wait;
            self.table
                .replace(index, Slot::TimeWait(TimeWait { expires, ..note }));
            self.time_wait.remove(index);
            self.time_wait.push(index);
        } else {
            self.counters.drop_time_wait += 1;
        }
    }

    pub(super) fn expire_time_wait(&mut self, now: Time) {
        while let Some(index) = self.time_wait.front() {
            let Some(Slot::TimeWait(note)) = self.table.get(index) else {
                unreachable!("the queue holds TIME-WAIT slots")
            };
            if note.expires > now {
                break;
            }
            self.forget_time_wait(index);
        }
    }

    fn forget_time_wait(&mut self, index: u32) {
        self.time_wait.remove(index);
        self.table.remove(index);
    }
}

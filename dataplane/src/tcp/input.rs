//! A segment arrives (RFC 9293 3.10.7): to its flow, or an answer.

use sluice_hugepages::pool::{Checksum, Frame, HEADROOM, PAGE_LEN, Pool};
use sluice_proto::Time;
use sluice_transport::TooBig;
use smoltcp::wire::TcpControl;

use super::connected::Untaken;
use super::flow::Stack;
use super::keyed::FourTuple;
use super::output::Cause;
use super::segment::{Control, Segment, Unfit};
use super::wire::Reply;
use super::{Slot, Tcp};

impl Tcp {
    /// Takes one packet: `frame` begins at its IPv4 header (which the router
    /// has checked) and is addressed to us or to what we stand for. An answer
    /// that cannot wait goes to `out`, in the same frame.
    ///
    /// Gives the frame back, with the worker it must go to, if its flow lives
    /// with another.
    pub fn input(
        &mut self,
        now: Time,
        pool: &mut Pool,
        frame: Frame,
        out: &mut Vec<Frame>,
    ) -> Option<(u8, Frame)> {
        self.counters.segments_in += 1;
        let frame = match frame.next {
            None => frame,
            Some(_) => match gather(pool, frame) {
                Ok(whole) => whole,
                Err(frame) => {
                    self.counters.drop_chained += 1;
                    pool.release(frame);
                    return None;
                }
            },
        };
        let segment = match Segment::parse(pool.bytes(&frame), frame.checksum) {
            Ok(segment) => Ok(segment),
            Err(Unfit::Malformed) => Err(&mut self.counters.drop_malformed),
            Err(Unfit::Fragment) => Err(&mut self.counters.drop_fragment),
            Err(Unfit::Checksum) => Err(&mut self.counters.drop_checksum),
        };
        let segment = match segment {
            Ok(segment) => segment,
            Err(counter) => {
                *counter += 1;
                pool.release(frame);
                return None;
            }
        };
        let mut reply = Reply::none();
        let index = self.table.find(&segment.tuple);
        match index.and_then(|index| Some((index, self.table.get(index)?))) {
            None => self.stray(now, pool.bytes(&frame), &segment, &mut reply),
            Some((index, Slot::Flow(flow))) => {
                if matches!(flow.stack, Stack::Connected(_)) {
                    self.connected_segment(now, index, pool, frame, &segment);
                    return None;
                }
                self.accepted_segment(now, index, pool, &frame, &segment, &mut reply);
            }
            Some((index, &Slot::HalfOpen(half_open))) => {
                let packet = pool.bytes(&frame);
                if self.half_open_segment(now, index, half_open, packet, &segment, &mut reply)
                    && self.promote(index, half_open, &segment, pool, &mut reply)
                {
                    self.accepted_segment(now, index, pool, &frame, &segment, &mut reply);
                }
            }
            Some((index, &Slot::TimeWait(time_wait))) => {
                self.time_wait_segment(
                    now,
                    index,
                    time_wait,
                    pool.bytes(&frame),
                    &segment,
                    &mut reply,
                );
            }
            Some((_, &Slot::Remote(worker))) => return Some((worker, frame)),
            Some((_, Slot::Closed(_))) => unreachable!("no 4-tuple leads to a closed slot"),
        }
        self.answer(pool, frame, &reply, out);
        None
    }

    /// A segment of no connection: one may begin with it, else RST.
    pub(super) fn stray(&mut self, now: Time, packet: &[u8], segment: &Segment, reply: &mut Reply) {
        let local = segment.tuple.local;
        let listening = self.listening.iter().any(|at| {
            at.port() == local.port() && (at.ip() == local.ip() || at.ip().is_unspecified())
        });
        if listening && segment.control == TcpControl::Syn && segment.ack.is_none() {
            self.syn(now, packet, segment, reply);
        } else {
            self.reset(segment, reply);
        }
    }

    pub(super) fn reset(&mut self, segment: &Segment, reply: &mut Reply) {
        match Control::reset(segment) {
            None => self.counters.drop_reset += 1,
            Some(reset) => {
                reply.len = reset.emit(segment.tuple.local, segment.tuple.remote, &mut reply.bytes);
                self.counters.resets_out += 1;
            }
        }
    }

    /// To a flow that we have opened. The frame may stay with it, until what is in it was
    /// read; what there is to say is said by the next [`poll`](Tcp::poll).
    fn connected_segment(
        &mut self,
        now: Time,
        index: u32,
        pool: &mut Pool,
        frame: Frame,
        segment: &Segment,
    ) {
        let Some(Slot::Flow(flow)) = self.table.get_mut(index) else {
            unreachable!("the caller looked")
        };
        let Stack::Connected(stack) = &mut flow.stack else {
            unreachable!("the caller looked")
        };
        if flow.aborted {
            self.counters.drop_aborted += 1;
            pool.release(frame);
            return;
        }
        let (progress, taken) = stack.receive(now, pool, frame);
        if let Err(reason) = taken {
            match reason {
                Untaken::Malformed => self.counters.drop_malformed += 1,
                Untaken::NoRoom => self.counters.drop_no_room += 1,
            }
        }
        self.ready.push(index);
        if progress {
            self.raise(index, |pending| pending.ready = true);
        }
        let reset = segment.control == TcpControl::Rst;
        self.settle(index, pool, Cause::Segment { reset });
    }

    /// A router says that the segment with the number `seq`, from `tuple.local`, was larger
    /// than the `mtu` of its next link. Anybody can say so: what is not of a connection of
    /// ours to the storage, and of what it has under way, changes nothing.
    pub fn packet_too_big(&mut self, now: Time, tuple: &FourTuple, seq: u32, mtu: u16) {
        let index = self.table.find(tuple);
        let came = match index.and_then(|index| Some((index, self.table.get_mut(index)?))) {
            Some((index, Slot::Flow(flow))) if !flow.aborted => match &mut flow.stack {
                Stack::Connected(stack) => Some((index, stack.packet_too_big(now, seq, mtu))),
                // Towards computers segments are as long as their link takes.
                Stack::Accepted(_) => None,
            },
            _ => None,
        };
        match came {
            None | Some((_, TooBig::Refused)) => self.counters.wan_too_big_refused += 1,
            Some((_, TooBig::Known)) => self.counters.wan_too_big += 1,
            Some((index, TooBig::Shrunk)) => {
                self.counters.wan_too_big += 1;
                self.ready.push(index);
            }
        }
    }

    fn accepted_segment(
        &mut self,
        now: Time,
        index: u32,
        pool: &mut Pool,
        frame: &Frame,
        segment: &Segment,
        reply: &mut Reply,
    ) {
        let Some(Slot::Flow(flow)) = self.table.get_mut(index) else {
            unreachable!("the caller looked")
        };
        let Stack::Accepted(stack) = &mut flow.stack else {
            unreachable!("the caller looked")
        };
        if flow.aborted {
            self.counters.drop_aborted += 1;
            return;
        }
        if stack.beyond_first_flight(segment) {
            self.counters.drop_beyond_window += 1;
            return;
        }
        let reset = segment.control == TcpControl::Rst;
        if reset && segment.seq != stack.rcv_nxt {
            // RFC 5961 3.2: only the exact number resets; one in the window is
            // asked back for, so that a peer that means it can say it right.
            self.counters.drop_reset += 1;
            let room = stack.socket().recv_capacity() - stack.socket().recv_queue();
            let distance = segment.seq.wrapping_sub(stack.rcv_nxt);
            if (distance as usize) < room && stack.may_challenge(now) {
                let challenge = Control {
                    control: TcpControl::None,
                    seq: stack.snd_nxt,
                    ack: Some(stack.rcv_nxt),
                    window: stack.window,
                    offer: None,
                };
                reply.len =
                    challenge.emit(segment.tuple.local, segment.tuple.remote, &mut reply.bytes);
                self.counters.challenges_out += 1;
            }
            return;
        }
        let progress = stack.receive(now, pool.bytes(frame), &self.accept, reply);
        self.ready.push(index);
        if progress {
            self.raise(index, |pending| pending.ready = true);
        }
        self.settle(index, pool, Cause::Segment { reset });
    }

    /// Sends `reply` in the frame that it answers, or gives that back.
    fn answer(&mut self, pool: &mut Pool, frame: Frame, reply: &Reply, out: &mut Vec<Frame>) {
        let Some(packet) = reply.packet() else {
            pool.release(frame);
            return;
        };
        pool.buffer_mut(&frame)[HEADROOM..][..packet.len()].copy_from_slice(packet);
        self.counters.segments_out += 1;
        out.push(Frame {
            offset: u16::try_from(HEADROOM).expect("a small constant"),
            len: u32::try_from(packet.len()).expect("two headers"),
            checksum: Checksum::InPacket,
            gso: None,
            ..frame
        });
    }
}

/// The packet in one buffer, for smoltcp reads one slice. Ports chain buffers
/// only for MTUs above what a frame holds; a page takes the copy, a piece at a
/// time since the pool lends the bytes of one frame at a time. The frame as
/// it was if there is no page.
fn gather(pool: &mut Pool, frame: Frame) -> Result<Frame, Frame> {
    let len = pool.packet_len(&frame);
    if len > PAGE_LEN - HEADROOM {
        return Err(frame);
    }
    let Some(mut whole) = pool.alloc_page_frame() else {
        return Err(frame);
    };
    pool.set(&mut whole, HEADROOM, len);
    (whole.checksum, whole.gso) = (frame.checksum, frame.gso);
    let mut piece = [0; 512];
    for at in (0..len).step_by(piece.len()) {
        let count = pool.read(&frame, at, &mut piece);
        pool.bytes_mut(&whole)[at..][..count].copy_from_slice(&piece[..count]);
    }
    pool.release(frame);
    Ok(whole)
}

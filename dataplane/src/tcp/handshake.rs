//! A computer opens a connection: from its SYN to a flow with buffers.
//!
//! Until the handshake completes there is no smoltcp socket, for that would
//! need buffers: the room answers the SYN itself and remembers what it said
//! in a slot of a bounded table. The acknowledgement of our SYN shows that
//! the peer is where it says; only then are pages leased. The new socket is
//! then shown the same SYN, made up again from what was remembered, and its
//! own SYN-ACK is not sent: with the ISN [chosen](super::seed) it is the one
//! that the peer has answered.
//!
//! A lost SYN-ACK is repeated when the SYN is; the room does not repeat it by
//! itself, as the side that opens an iSCSI connection is also the first to
//! speak on it (a lost final acknowledgement is made good by the login).

use std::time::Duration;

use sluice_hugepages::pool::Pool;
use sluice_proto::Time;
use smoltcp::socket::tcp::State;
use smoltcp::wire::TcpControl;

use super::accepted::Accepted;
use super::flow::{Flow, Stack};
use super::keyed::FourTuple;
use super::lease::Lease;
use super::seed::seed_for;
use super::segment::{Control, Offer, Segment, after};
use super::wire::Reply;
use super::{Slot, Tcp};

/// A connection of which we have a SYN, and the peer perhaps our answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct HalfOpen {
    /// The peer's initial sequence number.
    irs: u32,
    /// Ours.
    iss: u32,
    window: u16,
    offer: Offer,
    since: Time,
}

impl HalfOpen {
    pub fn expires(&self, timeout: Duration) -> Time {
        self.since + timeout
    }
}

impl Tcp {
    /// A SYN for a listening address, from a peer of which nothing is known.
    pub(super) fn syn(&mut self, now: Time, packet: &[u8], segment: &Segment, reply: &mut Reply) {
        let Some(offer) = Offer::parse(packet) else {
            self.counters.drop_malformed += 1;
            return;
        };
        if self.half_open.len() == self.config.half_open_max {
            let oldest = self.half_open.pop().expect("the limit is not zero");
            self.table.remove(oldest);
            self.counters.drop_half_open_oldest += 1;
        }
        let half_open = HalfOpen {
            irs: segment.seq,
            iss: self.keyed.isn(&segment.tuple, now),
            window: segment.window,
            offer,
            since: now,
        };
        let index = self.table.insert(segment.tuple, Slot::HalfOpen(half_open));
        self.half_open.push(index);
        self.counters.half_open += 1;
        self.syn_ack(&half_open, &segment.tuple, reply);
    }

    /// A segment of a half-open connection (RFC 9293 3.10.7.4, SYN-RECEIVED).
    /// True if it completes the handshake.
    pub(super) fn half_open_segment(
        &mut self,
        now: Time,
        index: u32,
        half_open: HalfOpen,
        packet: &[u8],
        segment: &Segment,
        reply: &mut Reply,
    ) -> bool {
        let expected = half_open.irs.wrapping_add(1);
        match (segment.control, segment.ack) {
            (TcpControl::Syn, None) if segment.seq == half_open.irs => {
                self.syn_ack(&half_open, &segment.tuple, reply);
            }
            (TcpControl::Syn, None) => {
                // The peer has started anew.
                self.forget_half_open(index);
                self.syn(now, packet, segment, reply);
            }
            (TcpControl::Rst, _) => {
                self.counters.drop_reset += 1;
                if segment.seq == expected {
                    self.forget_half_open(index);
                }
            }
            (TcpControl::None | TcpControl::Fin, Some(ack)) => {
                if ack != half_open.iss.wrapping_add(1) {
                    self.reset(segment, reply);
                    return false;
                }
                let edge =
                    expected.wrapping_add(u32::from(self.config.accept_buffers.syn_window()));
                if !after(expected, segment.seq) && !after(segment.end(), edge) {
                    return true;
                }
                self.counters.drop_handshake += 1;
            }
            _ => self.counters.drop_handshake += 1,
        }
        false
    }

    /// Makes a flow of a half-open connection whose handshake has completed
    /// (the segment that did so is still to be given to it).
    pub(super) fn promote(
        &mut self,
        index: u32,
        half_open: HalfOpen,
        segment: &Segment,
        pool: &mut Pool,
        reply: &mut Reply,
    ) -> bool {
        if self.flows == self.config.flows_max {
            self.counters.refuse_flows_max += 1;
            self.forget_half_open(index);
            self.reset(segment, reply);
            return false;
        }
        let Some(lease) = Lease::take(pool, index, self.config.accept_buffers) else {
            // The peer will say more, and say it again.
            self.counters.wait_for_lease += 1;
            return false;
        };
        let mut stack = Accepted::new(
            half_open.since,
            &self.accept,
            seed_for(half_open.iss),
            lease,
            pool,
        );
        stack.listen(segment.tuple.local);
        let mut syn = Reply::none();
        syn.len = half_open
            .syn()
            .emit(segment.tuple.remote, segment.tuple.local, &mut syn.bytes);
        let packet = syn.packet().expect("just written");
        stack.receive(half_open.since, packet, &self.accept, &mut Reply::none());
        // Said already, by `syn_ack`.
        stack.answer(half_open.since, &self.accept, &mut Reply::none());
        assert_eq!(
            stack.snd_nxt,
            half_open.iss.wrapping_add(1),
            "smoltcp draws its ISN as `seed` has it"
        );
        assert_eq!(
            stack.socket().state(),
            State::SynReceived,
            "a listening socket takes a SYN"
        );
        stack.bound_first_flight(
            half_open.irs.wrapping_add(1),
            self.config.accept_buffers.syn_window(),
        );
        stack.open(&self.accept);
        let mut flow = Flow::new(segment.tuple, Stack::Accepted(stack), State::SynReceived);
        flow.opened = true;
        self.half_open.remove(index);
        self.table.replace(index, Slot::Flow(Box::new(flow)));
        self.flows += 1;
        self.counters.accepted += 1;
        self.raise(index, |pending| pending.accepted = true);
        true
    }

    /// Forgets the half-open connections whose time is over.
    pub(super) fn expire_half_open(&mut self, now: Time) {
        while let Some(index) = self.half_open.front() {
            let Some(Slot::HalfOpen(half_open)) = self.table.get(index) else {
                unreachable!("the queue holds half-open slots")
            };
            if half_open.expires(self.config.handshake_timeout) > now {
                break;
            }
            self.counters.drop_half_open_expired += 1;
            self.forget_half_open(index);
        }
    }

    pub(super) fn forget_half_open(&mut self, index: u32) {
        self.half_open.remove(index);
        self.table.remove(index);
    }

    /// Our answer to the SYN: what smoltcp will believe it has said.
    fn syn_ack(&mut self, half_open: &HalfOpen, tuple: &FourTuple, reply: &mut Reply) {
        let buffers = self.config.accept_buffers;
        let mss = self.config.accept.mtu - 40;
        let answer = Control {
            control: TcpControl::Syn,
            seq: half_open.iss,
            ack: Some(half_open.irs.wrapping_add(1)),
            window: buffers.syn_window(),
            offer: Some(Offer {
                mss: Some(mss),
                window_scale: half_open.offer.window_scale.map(|_| buffers.window_scale()),
                sack_permitted: half_open.offer.sack_permitted,
            }),
        };
        reply.len = answer.emit(tuple.local, tuple.remote, &mut reply.bytes);
    }
}

impl HalfOpen {
    /// The peer's SYN, as far as it matters.
    const fn syn(&self) -> Control {
        Control {
            control: TcpControl::Syn,
            seq: self.irs,
            ack: None,
            window: self.window,
            offer: Some(self.offer),
        }
    }
}

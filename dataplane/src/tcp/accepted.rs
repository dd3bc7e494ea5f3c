//! A connection that a computer has opened: a smoltcp stack of its own around
//! a single socket.
//!
//! The stack is fed packets and asked for packets; sequence numbers that
//! smoltcp keeps to itself are read off the segments it sends.

use std::net::SocketAddrV4;
use std::time::Duration;

use sluice_hugepages::pool::Pool;
use sluice_proto::Time;
use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet, SocketStorage,
};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpListenEndpoint};

use super::flow::Fill;
use super::lease::Lease;
use super::profile::Terms;
use super::segment::{Segment, after, fill_checksum};
use super::wire::{Egress, FRAME_ROOM, Ingress, Reply, Sent};

/// The stack and what it holds. Fields drop in order: sockets, then lease.
pub(super) struct Accepted {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    interface: Interface,
    lease: Lease,
    gso: bool,
    mtu: u16,
    /// SND.NXT as of the last segment sent.
    pub snd_nxt: u32,
    pub rcv_nxt: u32,
    /// The window field of the last segment sent.
    pub window: u16,
    /// Until the first segment after our SYN: the right edge of the SYN's
    /// window. smoltcp scales that window, which RFC 7323 2.2 does not, and
    /// would take (and lose count of) more than its buffer holds.
    syn_edge: Option<u32>,
    /// No challenge ACK before.
    challenge_at: Time,
}

pub(super) fn instant(now: Time) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).expect("584 years in ns fit into us"))
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.socket().state();
        out.debug_struct("Accepted")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

impl Accepted {
    /// A stack with a closed socket, whose first random number is `seed`'s.
    pub fn new(now: Time, terms: &Terms, seed: u64, lease: Lease, pool: &Pool) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let Terms {
            profile,
            capabilities,
        } = terms;
        let mut device = Ingress {
            packet: None,
            reply: &mut Reply::none(),
            capabilities,
        };
        let mut interface = Interface::new(config, &mut device, instant(now));
        // Every local address is ours: the table has seen to that.
        interface.set_any_ip(true);
        // SAFETY: once a lease, here; the flow drops its sockets before it
        // releases or drops the lease, and its owner drops it before the pool.
        let [rx, tx] = unsafe { lease.lend(pool) };
        let mut socket = Socket::new(SocketBuffer::new(rx), SocketBuffer::new(tx));
        socket.set_nagle_enabled(false);
        // Acknowledgements wait for the end of the step anyway, where they
        // ride on the answer; any longer is felt at queue depth 1.
        socket.set_ack_delay(None);
        // A link of our own, where the send buffer of a page or two is all that can ever be
        // in flight.
        socket.set_congestion_control(CongestionControl::None);
        let mut sockets = SocketSet::new(vec![SocketStorage::EMPTY]);
        let handle = sockets.add(socket);
        Self {
            sockets,
            handle,
            interface,
            lease,
            gso: profile.gso,
            mtu: profile.mtu,
            snd_nxt: 0,
            rcv_nxt: 0,
            window: 0,
            syn_edge: None,
            challenge_at: Time::ZERO,
        }
    }

    pub fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub fn recv(&mut self, take: impl FnOnce(&[u8]) -> usize) -> usize {
        if !self.socket().can_recv() {
            return 0;
        }
        let taken = self.socket_mut().recv(|bytes| {
            let taken = take(bytes);
            (taken, taken)
        });
        taken.unwrap_or(0)
    }

    pub fn send(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        if !self.socket().can_send() {
            return 0;
        }
        let written = self.socket_mut().send(|room| {
            let written = write(room);
            (written, written)
        });
        written.unwrap_or(0)
    }

    pub fn send_room(&self) -> usize {
        let socket = self.socket();
        if socket.may_send() {
            socket.send_capacity() - socket.send_queue()
        } else {
            0
        }
    }

    pub fn fill(&self) -> Fill {
        let socket = self.socket();
        Fill {
            rx_len: socket.recv_capacity(),
            rx_used: socket.recv_queue(),
            tx_len: socket.send_capacity(),
            tx_used: socket.send_queue(),
        }
    }

    /// Waits for the peer's SYN.
    pub fn listen(&mut self, local: SocketAddrV4) {
        let local = IpListenEndpoint {
            addr: Some(IpAddress::Ipv4(*local.ip())),
            port: local.port(),
        };
        self.socket_mut()
            .listen(local)
            .expect("a new socket, and a port that is not zero");
    }

    /// The handshake is done.
    pub fn open(&mut self, terms: &Terms) {
        let profile = &terms.profile;
        let socket = self.socket_mut();
        socket.set_timeout(profile.timeout.map(duration));
        socket.set_keep_alive(profile.keep_alive.map(duration));
    }

    /// From here the peer may send `window` bytes, and no more before we have spoken again.
    pub fn bound_first_flight(&mut self, rcv_nxt: u32, window: u16) {
        self.rcv_nxt = rcv_nxt;
        self.syn_edge = Some(rcv_nxt.wrapping_add(u32::from(window)));
    }

    /// Whether a segment goes beyond what a SYN's window allowed.
    pub fn beyond_first_flight(&self, segment: &Segment) -> bool {
        self.syn_edge.is_some_and(|edge| after(segment.end(), edge))
    }

    /// Hands over a packet; the answer that cannot wait is in `reply`.
    /// True if there is something new to read, or new room to write.
    pub fn receive(&mut self, now: Time, packet: &[u8], terms: &Terms, reply: &mut Reply) -> bool {
        let (unread, unacknowledged) = (self.socket().recv_queue(), self.socket().send_queue());
        let finished = has_finished(self.socket().state());
        let mut device = Ingress {
            packet: Some(packet),
            reply,
            capabilities: &terms.capabilities,
        };
        let result =
            self.interface
                .poll_ingress_single(instant(now), &mut device, &mut self.sockets);
        debug_assert_ne!(result, PollIngressSingleResult::None);
        if reply.len > 0 {
            fill_checksum(&mut reply.bytes[..reply.len]);
        }
        let arrived = self.socket().recv_queue().saturating_sub(unread);
        let advance = u32::try_from(arrived).expect("a receive buffer is below 1 GiB");
        let fin = !finished && has_finished(self.socket().state());
        self.rcv_nxt = self
            .rcv_nxt
            .wrapping_add(advance)
            .wrapping_add(u32::from(fin));
        if let Some(sent) = reply.sent() {
            self.note(sent);
        }
        arrived > 0 || self.socket().send_queue() < unacknowledged
    }

    /// Writes one segment without payload, if there is something to say, into `reply`.
    pub fn answer(&mut self, now: Time, terms: &Terms, reply: &mut Reply) {
        let mut device = Ingress {
            packet: None,
            reply,
            capabilities: &terms.capabilities,
        };
        self.interface
            .poll_egress(instant(now), &mut device, &mut self.sockets);
        if let Some(sent) = reply.sent() {
            self.note(sent);
        }
    }

    /// Writes up to `packets` packets; how many it did.
    pub fn transmit(&mut self, now: Time, packets: usize, device: &mut Egress<'_>) -> usize {
        // A packet is long if it may exceed a frame: a jumbo MTU, or more
        // than one segment's payload waiting with GSO.
        let mtu = usize::from(self.mtu);
        let waiting = self.socket().send_queue();
        device.long = waiting > 0 && (mtu > FRAME_ROOM || self.gso && waiting > FRAME_ROOM - 40);
        device.partial = self.gso;
        device.sent = None;
        let mut written = 0;
        while written < packets
            && self
                .interface
                .poll_egress(instant(now), device, &mut self.sockets)
                == PollResult::SocketStateChanged
        {
            written += 1;
        }
        if let Some(sent) = device.sent.take() {
            self.note(sent);
        }
        written
    }

    /// When smoltcp wants to be asked again: `None` never, past or present at once.
    pub fn due(&mut self, now: Time) -> Option<Time> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Time::from_micros(
            u64::try_from(at.total_micros()).unwrap_or(0),
        ))
    }

    /// Whether a challenge ACK may go out now (RFC 5961 7: they are throttled).
    pub fn may_challenge(&mut self, now: Time) -> bool {
        let may = now >= self.challenge_at;
        if may {
            self.challenge_at = now + Duration::from_secs(1);
        }
        may
    }

    /// Drops the socket, then gives the pages back.
    pub fn dissolve(self, pool: &mut Pool) {
        let Self { sockets, lease, .. } = self;
        drop(sockets);
        lease.release(pool);
    }

    fn note(&mut self, sent: Sent) {
        if after(sent.end, self.snd_nxt) || sent.syn {
            self.snd_nxt = sent.end;
        }
        self.window = sent.window;
        if let Some(ack) = sent.ack {
            self.rcv_nxt = ack;
        }
        if !sent.syn {
            self.syn_edge = None;
        }
    }
}

/// Whether the peer has sent its FIN, and all before it has arrived.
pub(super) const fn has_finished(state: State) -> bool {
    matches!(
        state,
        State::CloseWait | State::LastAck | State::Closing | State::TimeWait
    )
}

fn duration(length: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(u64::try_from(length.as_micros()).unwrap_or(u64::MAX))
}

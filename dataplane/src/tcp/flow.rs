//! One connection: a smoltcp stack of its own around a single socket.
//!
//! The stack is fed packets and asked for packets; sequence numbers that
//! smoltcp keeps to itself are read off the segments it sends. It is `Send`,
//! so that a flow can move to another worker.

use std::time::Duration;

use sluice_hugepages::pool::Pool;
use sluice_proto::Time;
use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet, SocketStorage,
};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpEndpoint, IpListenEndpoint};

use super::keyed::FourTuple;
use super::lease::Lease;
use super::profile::{Congestion, Side, Terms};
use super::segment::{Segment, after, fill_checksum};
use super::wire::{Egress, FRAME_ROOM, Ingress, Reply, Sent};

/// A connection and what it holds. Fields drop in order: sockets, then lease.
pub struct Flow {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    interface: Interface,
    lease: Lease,
    pub(super) tuple: FourTuple,
    pub(super) side: Side,
    gso: bool,
    mtu: u16,
    /// State at the last look, to see changes by.
    pub(super) state: State,
    /// The handshake has completed and was reported.
    pub(super) opened: bool,
    /// The peer's FIN was reported.
    pub(super) finished: bool,
    /// The owner has closed its side; then when it will be torn down.
    pub(super) closing: bool,
    pub(super) linger: Option<Time>,
    /// The owner has let go of it.
    pub(super) aborted: bool,
    /// SND.NXT as of the last segment sent.
    pub(super) snd_nxt: u32,
    pub(super) rcv_nxt: u32,
    /// The window field of the last segment sent.
    pub(super) window: u16,
    /// Until the first segment after our SYN: the right edge of the SYN's
    /// window. smoltcp scales that window, which RFC 7323 2.2 does not, and
    /// would take (and lose count of) more than its buffer holds.
    syn_edge: Option<u32>,
    /// No challenge ACK before.
    challenge_at: Time,
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ends, state) = (&self.tuple, &self.state);
        out.debug_struct("Flow")
            .field("ends", ends)
            .field("state", state)
            .finish_non_exhaustive()
    }
}

const fn _flows_can_move_to_another_worker() {
    const fn send<T: Send>() {}
    send::<Flow>();
}

pub(super) fn instant(now: Time) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).expect("584 years in ns fit into us"))
}

impl Flow {
    /// A flow with a closed socket, whose first random number is `seed`'s.
    pub(super) fn new(
        now: Time,
        tuple: FourTuple,
        terms: &Terms,
        seed: u64,
        lease: Lease,
        pool: &Pool,
    ) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let Terms {
            side,
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
        socket.set_congestion_control(match profile.congestion {
            Congestion::None => CongestionControl::None,
            Congestion::Reno => CongestionControl::Reno,
        });
        let mut sockets = SocketSet::new(vec![SocketStorage::EMPTY]);
        let handle = sockets.add(socket);
        Self {
            sockets,
            handle,
            interface,
            lease,
            tuple,
            side: *side,
            gso: profile.gso,
            mtu: profile.mtu,
            state: State::Closed,
            opened: false,
            finished: false,
            closing: false,
            linger: None,
            aborted: false,
            snd_nxt: 0,
            rcv_nxt: 0,
            window: 0,
            syn_edge: None,
            challenge_at: Time::ZERO,
        }
    }

    pub(super) fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub(super) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Waits for the peer's SYN.
    pub(super) fn listen(&mut self) {
        let local = listen_endpoint(&self.tuple);
        self.socket_mut()
            .listen(local)
            .expect("a new socket, and a port that is not zero");
    }

    /// Makes a SYN ready to go out.
    pub(super) fn connect(&mut self, terms: &Terms) {
        let local = listen_endpoint(&self.tuple);
        let remote = &self.tuple.remote;
        let remote = IpEndpoint::new(IpAddress::Ipv4(*remote.ip()), remote.port());
        let socket: &mut Socket<'static> = self.sockets.get_mut(self.handle);
        socket.set_timeout(Some(duration(terms.profile.connect_timeout)));
        socket
            .connect(self.interface.context(), remote, local)
            .expect("a new socket, and both ends checked");
        self.state = State::SynSent;
    }

    /// The handshake is done.
    pub(super) fn open(&mut self, terms: &Terms) {
        self.opened = true;
        let profile = &terms.profile;
        let socket = self.socket_mut();
        socket.set_timeout(profile.timeout.map(duration));
        socket.set_keep_alive(profile.keep_alive.map(duration));
    }

    /// From here the peer may send `window` bytes, and no more before we have spoken again.
    pub(super) fn bound_first_flight(&mut self, rcv_nxt: u32, window: u16) {
        self.rcv_nxt = rcv_nxt;
        self.syn_edge = Some(rcv_nxt.wrapping_add(u32::from(window)));
    }

    /// Whether a segment goes beyond what a SYN's window allowed.
    pub(super) fn beyond_first_flight(&self, segment: &Segment) -> bool {
        self.syn_edge.is_some_and(|edge| after(segment.end(), edge))
    }

    /// Hands over a packet; the answer that cannot wait is in `reply`.
    /// True if there is something new to read, or new room to write.
    pub(super) fn receive(
        &mut self,
        now: Time,
        packet: &[u8],
        terms: &Terms,
        reply: &mut Reply,
    ) -> bool {
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
    pub(super) fn answer(&mut self, now: Time, terms: &Terms, reply: &mut Reply) {
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
    pub(super) fn transmit(&mut self, now: Time, packets: usize, device: &mut Egress<'_>) -> usize {
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
    pub(super) fn due(&mut self, now: Time) -> Option<Time> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Time::from_micros(
            u64::try_from(at.total_micros()).unwrap_or(0),
        ))
    }

    /// Whether a challenge ACK may go out now (RFC 5961 7: they are throttled).
    pub(super) fn may_challenge(&mut self, now: Time) -> bool {
        let may = now >= self.challenge_at;
        if may {
            self.challenge_at = now + Duration::from_secs(1);
        }
        may
    }

    /// Drops the socket, then gives the pages back.
    pub(super) fn dissolve(self, pool: &mut Pool) {
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

fn listen_endpoint(tuple: &FourTuple) -> IpListenEndpoint {
    IpListenEndpoint {
        addr: Some(IpAddress::Ipv4(*tuple.local.ip())),
        port: tuple.local.port(),
    }
}

fn duration(length: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(u64::try_from(length.as_micros()).unwrap_or(u64::MAX))
}

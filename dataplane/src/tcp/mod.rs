//! TCP: connections end here, and become ordered byte streams.
//!
//! Flows are found by the room's own table. One that a computer has opened is a
//! small smoltcp stack, its buffers leased from the pool; one that we open, across a
//! WAN, is a connection of [`sluice_transport`]: it sends from a chain of frames that
//! it draws as it needs them, and reads from the frames that came. Only flows that a segment, their owner or a
//! timer ([`crate::wheel`]) has touched are looked at, so an idle one costs nothing.
//! Packets come in as frames at their IPv4 header and
//! go out the same way; the room knows nothing of links, routes or iSCSI.
//!
//! What always holds:
//! - Nothing is spent on a SYN but a slot of a bounded table: buffers are
//!   leased when the handshake completes.
//! - A segment of no connection is answered with RST (RFC 9293 3.10.7.1), so
//!   a connection that a crash has forgotten ends at once.
//! - A [`FlowId`] lives until [`FlowEvent::Closed`] is taken or the owner
//!   aborts; a stale one finds nothing.
//! - No clock, no random source: time and the key are arguments, the same
//!   frames at the same times give the same frames.
//!
//! A step is: [`input`](Tcp::input) for every frame, then events
//! ([`next_event`](Tcp::next_event)) and streams ([`recv`](Tcp::recv),
//! [`send`](Tcp::send)), then one [`poll`](Tcp::poll), which is what sends
//! data and acknowledgements; then sleep until [`deadline`](Tcp::deadline).

mod accepted;
mod chain;
mod connected;
mod counters;
mod emit;
mod flow;
mod handshake;
mod input;
mod keyed;
mod lease;
mod migrate;
mod output;
mod profile;
mod queue;
mod rows;
mod seed;
mod segment;
mod slot;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod time_wait;
mod wire;

use std::net::SocketAddrV4;
use std::ops::RangeInclusive;
use std::time::Duration;

pub use chain::SEND_FRAMES_MAX;
#[cfg(test)]
pub(crate) use connected::heap_len;
pub use counters::Counters;
pub use flow::Flow;
pub use keyed::FourTuple;
pub use lease::{Buffers, WanBuffers};
pub use profile::Profile;
pub use rows::Row;
pub use stream::{ConnectError, Held};
pub use table::FlowId;

use crate::wheel::Wheel;
use handshake::HalfOpen;
use keyed::Keyed;
use profile::Terms;
use queue::Queue;
use table::Table;
use time_wait::TimeWait;

/// How the room is set up. All tables are of the sizes given here.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Most connections at a time, either direction.
    pub flows_max: u32,
    /// Most connections between SYN and its acknowledgement.
    pub half_open_max: u32,
    /// Most closed connections remembered (they hold no buffers).
    pub time_wait_max: u32,
    /// Secret of this start: makes sequence numbers and ports unpredictable.
    pub isn_key: [u8; 16],
    /// Flows that computers open.
    pub accept: Profile,
    /// Their buffers.
    pub accept_buffers: Buffers,
    /// Flows that we open.
    pub connect: Profile,
    /// A half-open connection is forgotten after this.
    pub handshake_timeout: Duration,
    /// How long a closed connection is remembered (2 MSL of RFC 9293, which
    /// leaves the value to the implementation).
    pub time_wait: Duration,
    /// How long a peer has to finish its side after we have finished ours.
    pub linger: Duration,
    /// Local ports of connections that we open (RFC 6335 8.1.2).
    pub ephemeral_ports: RangeInclusive<u16>,
    /// Most packets a [`poll`](Tcp::poll) writes.
    pub packets_per_poll: usize,
    /// Most packets a flow writes before the next has its turn.
    pub packets_per_turn: usize,
}

impl TcpConfig {
    /// A room for `flows_max` connections, with buffers of a page a direction
    /// towards computers, and packets of at most `mtu` bytes everywhere.
    #[must_use]
    pub const fn new(flows_max: u32, mtu: u16, isn_key: [u8; 16]) -> Self {
        Self {
            flows_max,
            // At 24 bytes a link and 100 a slot this is little memory; it
            // holds a flood of a million SYNs a second for 4 ms, a dozen
            // times what an honest computer needs on a LAN to complete.
            half_open_max: 4096,
            time_wait_max: 4096,
            isn_key,
            accept: Profile::new(mtu),
            accept_buffers: Buffers {
                rx_pages: 1,
                tx_pages: 1,
            },
            connect: Profile::new(mtu),
            // A computer repeats its SYN after 1 s and 3 s, and starts anew.
            handshake_timeout: Duration::from_secs(5),
            time_wait: Duration::from_secs(10),
            linger: Duration::from_secs(30),
            ephemeral_ports: 49_152..=65_535,
            packets_per_poll: 256,
            packets_per_turn: 32,
        }
    }
}

/// Why a flow has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Both sides have sent all they had, and said so.
    Finished,
    /// The peer sent RST.
    Reset,
    /// The peer answered our SYN with RST.
    Refused,
    /// The peer did not answer in time.
    TimedOut,
}

/// What happens to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEvent {
    /// A computer has opened it.
    Accepted {
        local: SocketAddrV4,
        remote: SocketAddrV4,
    },
    /// Our `connect` succeeded.
    Connected,
    /// There is something new to read, or new room to write. Said once for
    /// all that came since it was taken.
    Ready,
    /// The peer has sent its last; what is still unread is all there is.
    Finished,
    /// It is gone, with what was unread. Its `FlowId` finds nothing from here.
    Closed(CloseReason),
}

/// Events of a slot that were not taken yet, in the order in which they are told.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    accepted: bool,
    connected: bool,
    ready: bool,
    finished: bool,
}

/// What a slot of the flow table holds.
#[derive(Debug)]
enum Slot {
    HalfOpen(HalfOpen),
    Flow(Box<Flow>),
    TimeWait(TimeWait),
    /// Lives with another worker, to which its segments go.
    Remote(u8),
    /// Gone; only its owner does not know yet.
    Closed(CloseReason),
}

/// The connections of one worker.
#[derive(Debug)]
pub struct Tcp {
    config: TcpConfig,
    accept: Terms,
    keyed: Keyed,
    listening: Vec<SocketAddrV4>,
    table: Table<Slot>,
    /// Slots that are `Flow`, `Remote` or `Closed`.
    flows: u32,
    /// In order of expiry.
    half_open: Queue,
    /// In order of expiry.
    time_wait: Queue,
    /// Flows that may have something to send.
    ready: Queue,
    /// Flows with an event.
    events: Queue,
    pending: Vec<Pending>,
    wheel: Wheel,
    next_port: u64,
    counters: Counters,
}

impl Tcp {
    /// Allocates all tables; listens to nothing yet.
    ///
    /// # Panics
    /// If a limit is zero, an MTU is below 576, or a timeout is not longer
    /// than its keep-alive interval: the configuration is checked before.
    #[must_use]
    pub fn new(config: TcpConfig) -> Self {
        assert!(config.flows_max > 0 && config.half_open_max > 0 && config.time_wait_max > 0);
        assert!(config.packets_per_poll > 0 && config.packets_per_turn > 0);
        config.connect.check();
        let slots = config.flows_max + config.half_open_max + config.time_wait_max;
        let keyed = Keyed::new(config.isn_key);
        Self {
            accept: Terms::new(config.accept),
            keyed,
            listening: Vec::new(),
            table: Table::new(slots, keyed),
            flows: 0,
            half_open: Queue::new(slots),
            time_wait: Queue::new(slots),
            ready: Queue::new(slots),
            events: Queue::new(slots),
            pending: vec![Pending::default(); slots as usize],
            wheel: Wheel::new(slots),
            next_port: 0,
            counters: Counters::default(),
            config,
        }
    }

    /// Takes connections to `address` from now on; port only if its IP
    /// address is 0.0.0.0.
    pub fn listen(&mut self, address: SocketAddrV4) {
        if !self.listening.contains(&address) {
            self.listening.push(address);
        }
    }

    /// The next event, the longest waiting flow first.
    pub fn next_event(&mut self) -> Option<(FlowId, FlowEvent)> {
        let index = self.events.front()?;
        let id = self.table.id(index);
        let pending = &mut self.pending[index as usize];
        let event = if std::mem::take(&mut pending.accepted) {
            let FourTuple { local, remote } = self.table.tuple(index);
            FlowEvent::Accepted { local, remote }
        } else if std::mem::take(&mut pending.connected) {
            FlowEvent::Connected
        } else if std::mem::take(&mut pending.ready) {
            FlowEvent::Ready
        } else if std::mem::take(&mut pending.finished) {
            FlowEvent::Finished
        } else {
            let Some(&Slot::Closed(reason)) = self.table.get(index) else {
                unreachable!("a queued slot has an event")
            };
            self.free(index);
            return Some((id, FlowEvent::Closed(reason)));
        };
        let Pending {
            accepted,
            connected,
            ready,
            finished,
        } = *pending;
        let closed = matches!(self.table.get(index), Some(Slot::Closed(_)));
        if !(accepted || connected || ready || finished || closed) {
            self.events.remove(index);
        }
        Some((id, event))
    }

    /// What was counted since start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    fn raise(&mut self, index: u32, event: impl FnOnce(&mut Pending)) {
        event(&mut self.pending[index as usize]);
        self.events.push(index);
    }

    /// Frees the slot of a flow.
    fn free(&mut self, index: u32) {
        self.forget_work(index);
        self.events.remove(index);
        self.pending[index as usize] = Pending::default();
        let removed = self.table.remove(index);
        debug_assert!(removed.is_some());
        self.flows -= 1;
    }

    fn forget_work(&mut self, index: u32) {
        self.ready.remove(index);
        self.wheel.disarm(index);
    }

    fn flow(&self, id: FlowId) -> Option<&Flow> {
        match self.table.get(self.table.slot(id)?) {
            Some(Slot::Flow(flow)) if !flow.aborted => Some(flow),
            _ => None,
        }
    }

    fn flow_mut(&mut self, id: FlowId) -> Option<(u32, &mut Flow)> {
        let index = self.table.slot(id)?;
        match self.table.get_mut(index) {
            Some(Slot::Flow(flow)) if !flow.aborted => Some((index, flow)),
            _ => None,
        }
    }
}

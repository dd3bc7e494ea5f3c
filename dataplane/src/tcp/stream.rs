//! What a flow's owner does with it: open, read, write, close.

use std::net::{Ipv4Addr, SocketAddrV4};

use sluice_hugepages::pool::{Pool, Reservation};
use sluice_proto::Time;
use sluice_transport::PathSample;
use smoltcp::socket::tcp::State;

use super::chain::Chain;
use super::connected::Connected;
use super::flow::{Flow, Stack};
use super::keyed::FourTuple;
use super::lease::WanBuffers;
use super::table::FlowId;
use super::{Slot, Tcp};

/// Why a connection could not be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    #[error("{local} to {remote}: both must be unicast addresses, and the port not 0")]
    Address {
        local: Ipv4Addr,
        remote: SocketAddrV4,
    },
    #[error("all {0} flows are in use; raise the number of flows or close some")]
    Flows(u32),
    #[error(
        "every ephemeral port of {local} to {remote} is in use; close some flows or widen the range of ports"
    )]
    Ports {
        local: Ipv4Addr,
        remote: SocketAddrV4,
    },
    #[error(
        "no frame is left to send from, in reservation {0:?} or without one in the pool; enlarge it"
    )]
    Frames(Reservation),
}

/// What a flow that we have opened holds of what it sends (B-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where it takes frames from now.
    pub reservation: Reservation,
    /// Those that it has, of an earlier reservation too, and the most that it may have.
    pub frames: u32,
    pub limit_frames: u32,
    /// Bytes.
    pub unacknowledged: u64,
    /// Times that it asked for a frame and got none.
    pub refused: u64,
}

impl Tcp {
    /// Begins a connection from a port of its own choice (RFC 6056 3.3.3) on
    /// `local`. [`Connected`](super::FlowEvent::Connected) or
    /// [`Closed`](super::FlowEvent::Closed) says how it went.
    ///
    /// What it may keep to send also bounds what is in flight: two bandwidth-delay products
    /// leave the rate control room to measure the path and to repair losses. It keeps it in
    /// frames of the reservation alone, or without one of the free list (B-8).
    ///
    /// # Errors
    /// When an address is unusable, or flows, ports or frames have run out.
    pub fn connect(
        &mut self,
        now: Time,
        pool: &mut Pool,
        local: Ipv4Addr,
        remote: SocketAddrV4,
        buffers: WanBuffers,
        reservation: Reservation,
    ) -> Result<FlowId, ConnectError> {
        let unicast =
            |ip: &Ipv4Addr| !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast());
        if !unicast(&local) || !unicast(remote.ip()) || remote.port() == 0 {
            return Err(ConnectError::Address { local, remote });
        }
        if self.flows == self.config.flows_max {
            return Err(ConnectError::Flows(self.config.flows_max));
        }
        let tuple = self
            .free_port(local, remote)
            .ok_or(ConnectError::Ports { local, remote })?;
        let owner = self.table.next_index();
        let chain = Chain::take(pool, owner, buffers.tx_frames, reservation)
            .ok_or(ConnectError::Frames(reservation))?;
        let stack = Connected::new(
            now,
            &self.config.connect,
            &self.keyed,
            &tuple,
            chain,
            buffers,
        );
        let flow = Flow::new(tuple, Stack::Connected(Box::new(stack)), State::SynSent);
        let index = self.table.insert(tuple, Slot::Flow(Box::new(flow)));
        self.flows += 1;
        self.ready.push(index);
        Ok(self.table.id(index))
    }

    /// Shows `take` the longest contiguous run of unread bytes, and drops as
    /// many of them as it returns; that number (0 if there is nothing). Call
    /// again for what lies beyond the end of the ring, or of the frame.
    ///
    /// # Panics
    /// If `take` takes more than it was shown.
    pub fn recv(&mut self, flow: FlowId, take: impl FnOnce(&[u8]) -> usize) -> usize {
        let Some((index, flow)) = self.flow_mut(flow) else {
            return 0;
        };
        let taken = flow.recv(take);
        if taken > 0 {
            // The peer may have to hear of a wider window.
            self.ready.push(index);
        }
        taken
    }

    /// Unread bytes.
    #[must_use]
    pub fn recv_available(&self, flow: FlowId) -> usize {
        self.flow(flow).map_or(0, |flow| flow.fill().rx_used)
    }

    /// Lets `write` fill the longest contiguous run of free room from its
    /// start, and queues as many bytes as it returns; that number (0 if there
    /// is no room, or we have closed). Call again for what lies beyond the
    /// end of the ring, or of the slot.
    ///
    /// # Panics
    /// If `write` wrote more than there was room.
    pub fn send(&mut self, flow: FlowId, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let Some((index, flow)) = self.flow_mut(flow) else {
            return 0;
        };
        let written = flow.send(write);
        if written > 0 {
            self.ready.push(index);
        }
        written
    }

    /// Bytes that [`send`](Self::send) has room for.
    #[must_use]
    pub fn send_room(&self, flow: FlowId) -> usize {
        self.flow(flow).map_or(0, Flow::send_room)
    }

    /// Changes the most frames that a flow which we have opened may keep to send, and with it
    /// what can be in flight, and where it takes them from. What was written stays; with fewer,
    /// nothing is taken until so much is acknowledged. Frames of an earlier reservation go back
    /// to it as they are released.
    pub fn set_send_buffer(
        &mut self,
        pool: &mut Pool,
        flow: FlowId,
        frames: u32,
        reservation: Reservation,
    ) {
        let Some((index, flow)) = self.flow_mut(flow) else {
            return;
        };
        let Stack::Connected(stack) = &mut flow.stack else {
            return;
        };
        stack.set_limit(pool, frames, reservation);
        let opened = flow.opened;
        self.ready.push(index);
        if opened {
            self.raise(index, |pending| pending.ready = true);
        }
    }

    /// Gets a flow that we have opened a frame to write in, if it has none and may have more.
    /// To be called before each [`send`](Self::send), which may read the pool meanwhile. What
    /// it cannot have now, it can when more of its own is acknowledged, or its limit is raised:
    /// [`Ready`](super::FlowEvent::Ready) tells. Whether there is room.
    pub fn draw(&mut self, pool: &mut Pool, flow: FlowId) -> bool {
        let Some((index, flow)) = self.flow_mut(flow) else {
            return false;
        };
        let Stack::Connected(stack) = &mut flow.stack else {
            return flow.send_room() > 0;
        };
        let drawn = stack.draw(pool);
        if stack.must_look() {
            self.ready.push(index);
        }
        drawn
    }

    /// What a flow that we have opened holds of what it sends.
    #[must_use]
    pub fn held(&self, flow: FlowId) -> Option<Held> {
        match self.flow(flow).map(|flow| &flow.stack) {
            Some(Stack::Connected(stack)) => Some(stack.held()),
            _ => None,
        }
    }

    /// Bytes written and not yet acknowledged by the peer.
    #[must_use]
    pub fn unacknowledged(&self, flow: FlowId) -> usize {
        self.flow(flow).map_or(0, |flow| flow.fill().tx_used)
    }

    /// Bytes written and not yet sent, of a flow that we have opened.
    #[must_use]
    pub fn unsent(&self, flow: FlowId) -> usize {
        match self.flow(flow).map(|flow| &flow.stack) {
            Some(Stack::Connected(stack)) => stack.unsent(),
            _ => 0,
        }
    }

    /// What a flow that we have opened has measured of its path.
    #[must_use]
    pub fn path_sample(&self, flow: FlowId) -> Option<PathSample> {
        match self.flow(flow).map(|flow| &flow.stack) {
            Some(Stack::Connected(stack)) => Some(stack.path_sample()),
            _ => None,
        }
    }

    /// The next so many bytes of a flow that we have opened are a probe: they go out close
    /// together.
    pub fn send_unpaced(&mut self, flow: FlowId, bytes: u32) {
        if let Some((_, flow)) = self.flow_mut(flow)
            && let Stack::Connected(stack) = &mut flow.stack
        {
            stack.send_unpaced(bytes);
        }
    }

    /// Whether the peer has sent its FIN, and all before it has arrived.
    #[must_use]
    pub fn finished(&self, flow: FlowId) -> bool {
        self.flow(flow).is_some_and(|flow| flow.finished)
    }

    /// Both ends.
    #[must_use]
    pub fn ends(&self, flow: FlowId) -> Option<FourTuple> {
        self.flow(flow).map(|flow| flow.tuple)
    }

    /// Nothing more will be sent than what was written so far, and then FIN.
    /// The flow can be read until it is [`Closed`](super::FlowEvent::Closed),
    /// at the latest `linger` from now.
    pub fn close(&mut self, flow: FlowId) {
        let Some((index, flow)) = self.flow_mut(flow) else {
            return;
        };
        flow.close();
        self.ready.push(index);
    }

    /// Ends a flow now: RST to the peer at the next poll, no event, and `flow`
    /// finds nothing from here.
    pub fn abort(&mut self, flow: FlowId) {
        let Some((index, flow)) = self.flow_mut(flow) else {
            return;
        };
        flow.abort();
        flow.aborted = true;
        self.events.remove(index);
        self.ready.push(index);
    }

    fn free_port(&mut self, local: Ipv4Addr, remote: SocketAddrV4) -> Option<FourTuple> {
        let first = u64::from(*self.config.ephemeral_ports.start());
        let count = u64::from(*self.config.ephemeral_ports.end()) + 1 - first;
        let offset = self.keyed.port_offset(local, remote);
        for _ in 0..count {
            self.next_port = self.next_port.wrapping_add(1);
            let port = first + offset.wrapping_add(self.next_port) % count;
            let port = u16::try_from(port).expect("in the range");
            let tuple = FourTuple {
                local: SocketAddrV4::new(local, port),
                remote,
            };
            if self.table.find(&tuple).is_none() {
                return Some(tuple);
            }
        }
        None
    }
}

//! What a flow's owner does with it: open, read, write, close.

use std::net::{Ipv4Addr, SocketAddrV4};

use sluice_hugepages::pool::Pool;
use sluice_proto::Time;

use super::flow::Flow;
use super::keyed::FourTuple;
use super::lease::{Buffers, Lease};
use super::seed::seed_for;
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
    #[error("the pool has no run of {} and {} whole pages; give it more pages or the flow less", .0.rx_pages, .0.tx_pages)]
    Pages(Buffers),
}

impl Tcp {
    /// Begins a connection from a port of its own choice (RFC 6056 3.3.3) on
    /// `local`. [`Connected`](super::FlowEvent::Connected) or
    /// [`Closed`](super::FlowEvent::Closed) says how it went.
    ///
    /// The send buffer also bounds what is in flight: one bandwidth-delay
    /// product is enough, more only fills queues.
    ///
    /// # Errors
    /// When an address is unusable, or flows, ports or pages have run out.
    pub fn connect(
        &mut self,
        now: Time,
        pool: &mut Pool,
        local: Ipv4Addr,
        remote: SocketAddrV4,
        buffers: Buffers,
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
        let lease = Lease::take(pool, self.table.next_index(), buffers)
            .ok_or(ConnectError::Pages(buffers))?;
        let mut flow = Flow::new(
            now,
            tuple,
            &self.connect,
            seed_for(self.keyed.isn(&tuple, now)),
            lease,
            pool,
        );
        flow.connect(&self.connect);
        let index = self.table.insert(tuple, Slot::Flow(Box::new(flow)));
        self.flows += 1;
        self.ready.push(index);
        Ok(self.table.id(index))
    }

    /// Shows `take` the longest contiguous run of unread bytes, and drops as
    /// many of them as it returns; that number (0 if there is nothing). Call
    /// again for what lies beyond the end of the ring.
    ///
    /// # Panics
    /// If `take` takes more than it was shown.
    pub fn recv(&mut self, flow: FlowId, take: impl FnOnce(&[u8]) -> usize) -> usize {
        let Some((index, flow)) = self.flow_mut(flow) else {
            return 0;
        };
        if !flow.socket().can_recv() {
            return 0;
        }
        let taken = flow.socket_mut().recv(|bytes| {
            let taken = take(bytes);
            (taken, taken)
        });
        let taken = taken.unwrap_or(0);
        if taken > 0 {
            // The peer may have to hear of a wider window.
            self.ready.push(index);
        }
        taken
    }

    /// Unread bytes.
    #[must_use]
    pub fn recv_available(&self, flow: FlowId) -> usize {
        self.flow(flow).map_or(0, |flow| flow.socket().recv_queue())
    }

    /// Lets `write` fill the longest contiguous run of free room from its
    /// start, and queues as many bytes as it returns; that number (0 if there
    /// is no room, or we have closed). Call again for what lies beyond the
    /// end of the ring.
    ///
    /// # Panics
    /// If `write` wrote more than there was room.
    pub fn send(&mut self, flow: FlowId, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let Some((index, flow)) = self.flow_mut(flow) else {
            return 0;
        };
        if !flow.socket().can_send() {
            return 0;
        }
        let written = flow.socket_mut().send(|room| {
            let written = write(room);
            (written, written)
        });
        let written = written.unwrap_or(0);
        if written > 0 {
            self.ready.push(index);
        }
        written
    }

    /// Bytes that [`send`](Self::send) has room for.
    #[must_use]
    pub fn send_room(&self, flow: FlowId) -> usize {
        let Some(flow) = self.flow(flow) else {
            return 0;
        };
        let socket = flow.socket();
        if socket.may_send() {
            socket.send_capacity() - socket.send_queue()
        } else {
            0
        }
    }

    /// Bytes written and not yet acknowledged by the peer.
    #[must_use]
    pub fn unacknowledged(&self, flow: FlowId) -> usize {
        self.flow(flow).map_or(0, |flow| flow.socket().send_queue())
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
        flow.socket_mut().close();
        flow.closing = true;
        self.ready.push(index);
    }

    /// Ends a flow now: RST to the peer at the next poll, no event, and `flow`
    /// finds nothing from here.
    pub fn abort(&mut self, flow: FlowId) {
        let Some((index, flow)) = self.flow_mut(flow) else {
            return;
        };
        flow.socket_mut().abort();
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

//! One connection, whoever has opened it, as the room and its owner see it.
//!
//! Computers' connections are a smoltcp stack each ([`accepted`](super::accepted)),
//! those to the storage the WAN's transport ([`connected`](super::connected)). A flow
//! is `Send`, so that it can move to another worker.

use sluice_hugepages::pool::Pool;
use sluice_proto::Time;
use smoltcp::socket::tcp::State;

use super::CloseReason;
use super::accepted::Accepted;
use super::connected::Connected;
use super::keyed::FourTuple;
use super::wire::Egress;

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a flow is in a box itself, and most are a computer's"
)]
pub(super) enum Stack {
    Accepted(Accepted),
    Connected(Box<Connected>),
}

/// A connection and what it holds.
#[derive(Debug)]
pub struct Flow {
    pub(super) tuple: FourTuple,
    pub(super) stack: Stack,
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
}

const fn _flows_can_move_to_another_worker() {
    const fn send<T: Send>() {}
    send::<Flow>();
}

/// Bytes of a flow's buffers, and how many of them are unread or unacknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    pub rx_len: usize,
    pub rx_used: usize,
    pub tx_len: usize,
    pub tx_used: usize,
}

impl Flow {
    pub(super) const fn new(tuple: FourTuple, stack: Stack, state: State) -> Self {
        Self {
            tuple,
            stack,
            state,
            opened: false,
            finished: false,
            closing: false,
            linger: None,
            aborted: false,
        }
    }

    pub(super) fn state_now(&self) -> State {
        match &self.stack {
            Stack::Accepted(stack) => stack.socket().state(),
            Stack::Connected(stack) => stack.state(),
        }
    }

    /// Why it has ended, if its stack knows that.
    pub(super) fn ended(&self) -> Option<CloseReason> {
        match &self.stack {
            Stack::Accepted(_) => None,
            Stack::Connected(stack) => stack.ended(),
        }
    }

    pub(super) fn recv(&mut self, take: impl FnOnce(&[u8]) -> usize) -> usize {
        match &mut self.stack {
            Stack::Accepted(stack) => stack.recv(take),
            Stack::Connected(stack) => stack.recv(take),
        }
    }

    pub(super) fn send(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        match &mut self.stack {
            Stack::Accepted(stack) => stack.send(write),
            Stack::Connected(stack) => stack.send(write),
        }
    }

    pub(super) fn send_room(&self) -> usize {
        match &self.stack {
            Stack::Accepted(stack) => stack.send_room(),
            Stack::Connected(stack) => stack.send_room(),
        }
    }

    pub(super) fn fill(&self) -> Fill {
        match &self.stack {
            Stack::Accepted(stack) => stack.fill(),
            Stack::Connected(stack) => stack.fill(),
        }
    }

    pub(super) fn close(&mut self) {
        match &mut self.stack {
            Stack::Accepted(stack) => stack.socket_mut().close(),
            Stack::Connected(stack) => stack.close(),
        }
        self.closing = true;
    }

    /// A RST goes out with the next turn.
    pub(super) fn abort(&mut self) {
        match &mut self.stack {
            Stack::Accepted(stack) => stack.socket_mut().abort(),
            Stack::Connected(stack) => stack.abort(),
        }
    }

    /// Writes up to `packets` packets, or bursts that the port cuts into so many; how
    /// many it did.
    pub(super) fn transmit(&mut self, now: Time, packets: usize, device: &mut Egress<'_>) -> usize {
        match &mut self.stack {
            Stack::Accepted(stack) => stack.transmit(now, packets, device),
            Stack::Connected(stack) => stack.transmit(now, &self.tuple, packets, device),
        }
    }

    /// When it wants to be asked again: `None` never, past or present at once.
    pub(super) fn due(&mut self, now: Time) -> Option<Time> {
        match &mut self.stack {
            Stack::Accepted(stack) => stack.due(now),
            Stack::Connected(stack) => stack.due(),
        }
    }

    /// SND.NXT and RCV.NXT.
    pub(super) fn numbers(&self) -> (u32, u32) {
        match &self.stack {
            Stack::Accepted(stack) => (stack.snd_nxt, stack.rcv_nxt),
            Stack::Connected(stack) => stack.numbers(),
        }
    }

    /// Gives back what it holds of the pool.
    pub(super) fn dissolve(self, pool: &mut Pool) {
        match self.stack {
            Stack::Accepted(stack) => stack.dissolve(pool),
            Stack::Connected(stack) => stack.dissolve(pool),
        }
    }
}

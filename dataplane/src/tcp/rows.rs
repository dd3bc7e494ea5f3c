//! The flow table as rows, for whoever shows it.

use smoltcp::socket::tcp::State;

use super::keyed::FourTuple;
use super::{Slot, Tcp};

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub ends: FourTuple,
    /// As RFC 9293 3.3.2 names it, or `REMOTE`.
    pub state: &'static str,
    /// Bytes of the receive buffer, and how many of them are unread.
    pub rx_len: usize,
    pub rx_used: usize,
    /// Bytes of the send buffer, and how many of them are unacknowledged.
    pub tx_len: usize,
    pub tx_used: usize,
}

impl Tcp {
    /// All connections, half-open and remembered ones included.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.table.iter().filter_map(|(index, slot)| {
            let bare = |state| Row {
                ends: self.table.tuple(index),
                state,
                rx_len: 0,
                rx_used: 0,
                tx_len: 0,
                tx_used: 0,
            };
            match slot {
                Slot::HalfOpen(_) => Some(bare("SYN-RECEIVED")),
                Slot::TimeWait(_) => Some(bare("TIME-WAIT")),
                Slot::Remote(_) => Some(bare("REMOTE")),
                Slot::Closed(_) => None,
                Slot::Flow(flow) => {
                    let fill = flow.fill();
                    Some(Row {
                        rx_len: fill.rx_len,
                        rx_used: fill.rx_used,
                        tx_len: fill.tx_len,
                        tx_used: fill.tx_used,
                        ..bare(name(flow.state_now()))
                    })
                }
            }
        })
    }
}

const fn name(state: State) -> &'static str {
    match state {
        State::Closed => "CLOSED",
        State::Listen => "LISTEN",
        State::SynSent => "SYN-SENT",
        State::SynReceived => "SYN-RECEIVED",
        State::Established => "ESTABLISHED",
        State::FinWait1 => "FIN-WAIT-1",
        State::FinWait2 => "FIN-WAIT-2",
        State::CloseWait => "CLOSE-WAIT",
        State::Closing => "CLOSING",
        State::LastAck => "LAST-ACK",
        State::TimeWait => "TIME-WAIT",
    }
}

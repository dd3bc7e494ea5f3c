//! The router: frames of a port in, frames for ports, TCP segments for the relay
//! and what routers say of its own out (Spec A-1 to A-3).
//!
//! ```text
//!  burst -> ethernet, ipv4 (checked once) -> classify -+-> forward: fib -> neighbour -> TxQueues
//!                                                      +-> local:   ICMP echo, Local for the TCP room,
//!                                                      |            or the rest to the host's kernel
//!                                                      +-> Drop:    counted by name
//!  locally made packets -> Router::output -----------------> forward, from the fib on
//!  the kernel's packets -> kernel (checked) ---------------> forward, from the fib on
//! ```
//!
//! What always holds: no packet for or from an intercepted address and port is
//! sent on (`classify`); each frame that comes in goes out, becomes a
//! [`Local`], waits in a bounded queue, or is counted under a [`Drop`]; nothing
//! is allocated, locked or logged after [`Router::new`]; the same frames and
//! times in give the same frames out.
//!
//! Not for connections (the TCP room), drivers, or policy: what is intercepted
//! and where packets go is told by the configuration.

mod classify;
mod config;
mod drops;
mod ethernet;
mod fib;
mod forward;
mod frame;
mod icmp;
mod ipv4;
mod kernel;
mod local;
mod neighbour;
mod resolve;
mod router;
mod rows;
#[cfg(test)]
mod tests;
mod tx;

pub use config::{
    MTU_MAX, MTU_MIN, Mac, NeighbourLimits, PORTS_MAX, PortConfig, RouteConfig, RouterConfig,
    RouterError,
};
pub use drops::{Drop, Drops};
pub use ethernet::ETHERNET_LEN;
pub use fib::{Fib, NextHopId};
pub use icmp::PacketTooBig;
pub use ipv4::{IPV4_LEN, TcpFlags, TcpHeader};
pub use local::{Local, LocalKind};
pub use neighbour::NeighbourState;
pub use router::{Path, Router};
pub use rows::{NeighbourRow, PortCounters, PortRow, RouteRow, RouteSource, RouterCounters};
pub use tx::{TX_QUEUE_LEN, TxQueues};

//! Frames in, frames out: the ports of a worker.
//!
//! A [`Port`] is one of a few drivers, matched once a burst, never called
//! through a pointer. What always holds, whatever the driver:
//!
//! - a frame handed over by `rx` belongs to the caller; a frame taken by `tx`
//!   belongs to the port, which gives its buffer back to the pool when it has
//!   left. `tx` takes from the front of the burst and leaves the rest there;
//! - `rx` and `tx` do at most one receive, one send or one kick of the kernel,
//!   never wait and never allocate. Each frame that is lost has a counter in
//!   [`PortStats`];
//! - a link that goes down is a counter, not an end: the port carries on when
//!   it comes back;
//! - [`Port::close`] gives every buffer back. (A port that is only dropped, as
//!   when a process ends, leaves them marked as the driver's.)
//!
//! Drivers: `af_packet` (any link; GSO frames and partial checksums pass
//! whole, which is faster for TCP on links that have no zero-copy, as veth and
//! virtio), `af_xdp` (network cards with zero-copy; copy mode elsewhere, for
//! tests) and `memory` (tests, simulator, benches). `tun` is no network port but
//! the way to the host's kernel: its frames start with the IPv4 header, and it
//! makes a system call a packet, a few a burst. `faults` and `pcap` wrap a
//! port. Not here: Ethernet, addresses, routes (`net`), and anything that
//! looks into a frame beyond the checksum it must complete.

pub mod af_packet;
pub mod af_xdp;
pub mod device;
mod error;
pub mod faults;
pub mod idle;
pub mod memory;
mod parts;
pub mod pcap;
mod port;
mod stats;
mod tun;
mod vnet_hdr;

pub use error::PortError;
pub use idle::{Idle, IdlePolicy, Source, Wake};
pub use memory::MemoryPort;
pub use port::{Driver, Port, PortInfo, PortSpec, open, open_tun};
pub use stats::PortStats;
pub use tun::TunSpec;

/// Bytes of an Ethernet header without a VLAN tag.
pub const ETHERNET_HEADER_LEN: usize = 14;

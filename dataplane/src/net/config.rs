//! What a [`Router`](super::Router) is made from, and why one cannot be made.

use std::net::Ipv4Addr;
use std::time::Duration;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The smallest MTU of a port: RFC 791 obliges every host to take 576 bytes.
pub const MTU_MIN: u16 = 576;
/// The largest MTU of a port: a jumbo frame as NICs take it.
pub const MTU_MAX: u16 = 9216;
/// Most ports a router has.
pub const PORTS_MAX: usize = 16;

/// One port of the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    pub name: String,
    pub mac: Mac,
    /// The relay's own address on this link.
    pub address: Ipv4Addr,
    /// Bits of the link's subnet, 1 to 32.
    pub prefix_len: u8,
    /// Largest IPv4 packet of the link, in bytes.
    pub mtu: u16,
}

/// A static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    pub prefix: Ipv4Addr,
    /// Bits of the prefix, 0 to 32; the bits after it must be zero.
    pub prefix_len: u8,
    /// The next router, on the subnet of a port.
    pub via: Ipv4Addr,
}

/// Bounds and times of neighbour resolution (RFC 826, RFC 1122 2.3.2; the
/// states are those of RFC 4861 7.3.2 in a simple form).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourLimits {
    /// Entries of the table, gateways included.
    pub entries_max: u16,
    /// Packets that wait for one neighbour's answer.
    pub pending_max: u8,
    /// Packets that wait for the answers of all.
    pub pending_total_max: u16,
    /// ARP requests before a neighbour counts as unreachable.
    pub attempts_max: u8,
    /// Time between two of them.
    pub retry: Duration,
    /// How long an answer counts as fresh.
    pub reachable: Duration,
    /// How long an entry that nobody uses stays after that.
    pub stale: Duration,
    /// How long no new request is made for an address that did not answer.
    pub hold_down: Duration,
}

impl Default for NeighbourLimits {
    fn default() -> Self {
        Self {
            entries_max: 4096,
            pending_max: 8,
            pending_total_max: 256,
            attempts_max: 3,
            retry: Duration::from_secs(1),
            reachable: Duration::from_secs(30),
            stale: Duration::from_secs(600),
            hold_down: Duration::from_secs(1),
        }
    }
}

/// Everything a router is told at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterConfig {
    /// At most [`PORTS_MAX`]; a port's number is its index.
    pub ports: Vec<PortConfig>,
    pub routes: Vec<RouteConfig>,
    /// Storage addresses and ports whose TCP is never forwarded.
    pub intercepts: Vec<(Ipv4Addr, u16)>,
    /// The proxy portal's address and port, when there is one.
    pub portal: Option<(Ipv4Addr, u16)>,
    /// What is for the box itself goes to its kernel, by a port behind `ports`.
    pub kernel: bool,
    pub neighbours: NeighbourLimits,
}

/// A configuration that makes no router.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouterError {
    #[error("{0} ports configured; a router has 1 to {PORTS_MAX}")]
    PortCount(usize),
    #[error(
        "port {port}: {address}/{prefix_len} is not an address of a host in a subnet; give the port's own unicast address and 1 to 32 bits"
    )]
    PortAddress {
        port: String,
        address: Ipv4Addr,
        prefix_len: u8,
    },
    #[error(
        "port {port}: the subnet of {address}/{prefix_len} overlaps that of port {other}; each link needs a subnet of its own"
    )]
    PortOverlap {
        port: String,
        other: String,
        address: Ipv4Addr,
        prefix_len: u8,
    },
    #[error("port {port}: MAC address {mac:02x?} is zero or a group address")]
    PortMac { port: String, mac: Mac },
    #[error("port {port}: MTU {mtu} is not between {MTU_MIN} and {MTU_MAX}")]
    PortMtu { port: String, mtu: u16 },
    #[error(
        "route {prefix}/{prefix_len}: the prefix has more than 32 bits, or bits set after them"
    )]
    RoutePrefix { prefix: Ipv4Addr, prefix_len: u8 },
    #[error(
        "route {prefix}/{prefix_len} via {via}: the gateway is not another host on the subnet of a port"
    )]
    RouteGateway {
        prefix: Ipv4Addr,
        prefix_len: u8,
        via: Ipv4Addr,
    },
    #[error("route {prefix}/{prefix_len} is the subnet of port {port} itself; remove it")]
    RouteConnected {
        prefix: Ipv4Addr,
        prefix_len: u8,
        port: String,
    },
    #[error("route {prefix}/{prefix_len} is given twice")]
    RouteTwice { prefix: Ipv4Addr, prefix_len: u8 },
    #[error(
        "intercept {address}:{port}: not the unicast address of a storage, or one of the relay's own; the relay's own is the portal"
    )]
    Intercept { address: Ipv4Addr, port: u16 },
    #[error("portal {address}:{port}: not a unicast address on the subnet of a port")]
    Portal { address: Ipv4Addr, port: u16 },
    #[error(
        "{needed} neighbour entries needed for the gateways, at most {entries_max} allowed; raise the neighbour limit"
    )]
    NeighbourLimit { needed: usize, entries_max: u16 },
}

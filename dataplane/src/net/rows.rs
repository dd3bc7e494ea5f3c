//! What the router shows of itself: rows for the CLI, and counters.

use std::net::Ipv4Addr;

use sluice_proto::Time;

use super::config::Mac;
use super::drops::Drops;
use super::neighbour::NeighbourState;
use super::router::Router;

/// Frames and their bytes, link headers included, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
}

/// What the router did, in packets since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterCounters {
    /// Routed from a port to a port, fragments each.
    pub routed: u64,
    /// TCP segments handed to the TCP room.
    pub local: u64,
    /// IPv4 packets of the relay's own.
    pub own: u64,
    /// Packets for the box itself, handed to its kernel.
    pub to_kernel: u64,
    /// Packets of the box's kernel, sent on.
    pub from_kernel: u64,
    /// Packets cut into fragments.
    pub fragmented: u64,
    pub echo_replies: u64,
    /// ICMP errors told.
    pub icmp_errors: u64,
    /// ICMP errors not told for their rate.
    pub icmp_limited: u64,
    pub arp_requests: u64,
    pub arp_replies: u64,
}

/// Why a route is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteSource {
    Connected,
    Static,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRow<'a> {
    pub prefix: Ipv4Addr,
    pub prefix_len: u8,
    pub source: RouteSource,
    /// The next router; `None` on a connected subnet.
    pub via: Option<Ipv4Addr>,
    pub port: &'a str,
}

/// A neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourRow<'a> {
    pub address: Ipv4Addr,
    /// Known in the states that send.
    pub mac: Option<Mac>,
    pub port: &'a str,
    pub state: NeighbourState,
    /// Packets that wait for its answer.
    pub pending: u8,
    /// When it last answered; zero if it never did.
    pub confirmed: Time,
}

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRow<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub mtu: u16,
    pub counters: PortCounters,
}

impl Router {
    /// All routes, in the order of their prefixes.
    pub fn routes(&self) -> impl Iterator<Item = RouteRow<'_>> {
        self.fib.routes().map(|(prefix, prefix_len, hop)| {
            let hop = self.next_hops[usize::from(hop.0)];
            RouteRow {
                prefix,
                prefix_len,
                source: if hop.gateway.is_some() {
                    RouteSource::Static
                } else {
                    RouteSource::Connected
                },
                via: hop.gateway.map(|(address, _)| address),
                port: &self.port(hop.port).config.name,
            }
        })
    }

    /// All neighbours, in no order that means something.
    pub fn neighbours(&self) -> impl Iterator<Item = NeighbourRow<'_>> {
        self.neighbours.iter().map(|neighbour| NeighbourRow {
            address: neighbour.address,
            mac: neighbour.resolved().then(|| neighbour.mac()),
            port: &self.port(neighbour.port).config.name,
            state: neighbour.state,
            pending: neighbour.pending,
            confirmed: neighbour.confirmed,
        })
    }

    /// All ports, by number.
    pub fn ports(&self) -> impl ExactSizeIterator<Item = PortRow<'_>> {
        self.ports.iter().map(|port| PortRow {
            name: &port.config.name,
            mac: port.config.mac,
            address: port.config.address,
            prefix_len: port.config.prefix_len,
            mtu: port.config.mtu,
            counters: port.counters,
        })
    }

    #[must_use]
    pub const fn drops(&self) -> &Drops {
        &self.drops
    }

    #[must_use]
    pub const fn counters(&self) -> &RouterCounters {
        &self.counters
    }

    /// Bytes of the forwarding table's second level.
    #[must_use]
    pub fn fib_group_bytes(&self) -> usize {
        self.fib.group_bytes()
    }
}

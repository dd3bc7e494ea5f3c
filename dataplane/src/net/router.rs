//! The router's state, how it is made, and the way of a burst through it.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;
use sluice_hugepages::pool::{BURST_LEN, Burst, Frame, Pool};
use sluice_proto::Time;

use super::classify::{Classifier, Verdict, is_never_unicast};
use super::config::{
    MTU_MAX, MTU_MIN, PORTS_MAX, PortConfig, RouteConfig, RouterConfig, RouterError,
};
use super::drops::{Drop, Drops};
use super::ethernet::{self, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use super::fib::{self, Fib, NextHopId};
use super::frame::packet_len;
use super::icmp::IcmpLimit;
use super::ipv4::Ipv4Header;
use super::local::Local;
use super::neighbour::{Neighbours, Slot};
use super::resolve::Pending;
use super::rows::{PortCounters, RouterCounters};
use super::tx::TxQueues;

/// One port as the router sees it.
#[derive(Debug)]
pub(super) struct Port {
    pub config: PortConfig,
    /// The MAC address as [`mac_word`] reads it from a frame.
    mac: u64,
    pub counters: PortCounters,
}

impl Port {
    pub fn holds(&self, address: Ipv4Addr) -> bool {
        (self.config.address.to_bits() ^ address.to_bits()) & fib::mask(self.config.prefix_len) == 0
    }
}

/// Where a route leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextHop {
    pub port: u8,
    /// The port's MTU; 0 where there is no next hop.
    pub mtu: u16,
    /// The next router; `None`: the destination itself is on the port's subnet.
    pub gateway: Option<(Ipv4Addr, Slot)>,
}

/// What the relay knows of the way to an address, for whoever opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub port: u8,
    /// The relay's own address on that port.
    pub source: Ipv4Addr,
    /// Largest IPv4 packet of the first link, in bytes.
    pub mtu: u16,
}

/// An IPv4 router with a hold on intercepted connections.
#[derive(Debug)]
pub struct Router {
    pub(super) ports: Vec<Port>,
    pub(super) fib: Fib,
    /// By [`NextHopId`]; the first is never used.
    pub(super) next_hops: Vec<NextHop>,
    pub(super) classifier: Classifier,
    pub(super) portal: Option<Ipv4Addr>,
    /// The queue of the host's kernel.
    pub(super) kernel: Option<u8>,
    pub(super) neighbours: Neighbours,
    pub(super) pending: Pending,
    pub(super) icmp_limit: IcmpLimit,
    pub(super) drops: Drops,
    pub(super) counters: RouterCounters,
}

/// What the handling of one frame works on, besides the router.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub now: Time,
    pub pool: &'a mut Pool,
    pub tx: &'a mut TxQueues,
}

/// What was found out about a frame before anything is done with it.
#[derive(Clone, Copy, Debug)]
struct Examined {
    what: What,
    header: Ipv4Header,
    next_hop: NextHopId,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Arp,
    Ipv4(Verdict),
    Drop(Drop),
}

/// Frames between the one whose headers are asked for and the one being read.
const PREFETCH_AHEAD: usize = 8;

impl Router {
    /// A router with empty neighbour entries, all of its memory allocated.
    ///
    /// # Errors
    /// What in the configuration makes no sense.
    pub fn new(config: RouterConfig) -> Result<Self, RouterError> {
        check_ports(&config.ports)?;
        let own: Vec<Ipv4Addr> = config
            .ports
            .iter()
            .map(|port| port.address)
            .chain(config.portal.map(|(address, _)| address))
            .collect();
        let broadcasts = config
            .ports
            .iter()
            .filter(|port| port.prefix_len < 31)
            .flat_map(|port| {
                let (address, mask) = (port.address.to_bits(), fib::mask(port.prefix_len));
                [
                    Ipv4Addr::from_bits(address & mask),
                    Ipv4Addr::from_bits(address | !mask),
                ]
            });
        let broadcasts: Vec<Ipv4Addr> = broadcasts.collect();
        for &(address, port) in &config.intercepts {
            if own.contains(&address)
                || broadcasts.contains(&address)
                || is_never_unicast(address.to_bits())
            {
                return Err(RouterError::Intercept { address, port });
            }
        }
        let limits = config.neighbours;
        let mut router = Self {
            classifier: Classifier::new(&own, &broadcasts, &config.intercepts, config.portal),
            kernel: config.kernel.then(|| port_number(config.ports.len())),
            ports: config
                .ports
                .into_iter()
                .map(|config| Port {
                    mac: mac_word(&ethernet::header(config.mac, config.mac, 0)),
                    config,
                    counters: PortCounters::default(),
                })
                .collect(),
            fib: Fib::new(config.routes.len()),
            next_hops: vec![NextHop {
                port: 0,
                mtu: 0,
                gateway: None,
            }],
            portal: config.portal.map(|(address, _)| address),
            neighbours: Neighbours::new(limits),
            pending: Pending::new(limits),
            icmp_limit: IcmpLimit::new(),
            drops: Drops::default(),
            counters: RouterCounters::default(),
        };
        if let Some((address, port)) = config.portal
            && (router.port_of(address).is_none() || broadcasts.contains(&address))
        {
            return Err(RouterError::Portal { address, port });
        }
        for index in 0..router.ports.len() {
            let port = &router.ports[index].config;
            let (prefix, len) = (
                port.address.to_bits() & fib::mask(port.prefix_len),
                port.prefix_len,
            );
            let mtu = port.mtu;
            let hop = router.add_next_hop(NextHop {
                port: port_number(index),
                mtu,
                gateway: None,
            });
            router.fib.insert(prefix, len, hop);
        }
        router.add_routes(&config.routes, limits.entries_max)?;
        Ok(router)
    }

    fn add_next_hop(&mut self, hop: NextHop) -> NextHopId {
        let id = u16::try_from(self.next_hops.len())
            .expect("ports and pinned neighbours are fewer than 65,536");
        self.next_hops.push(hop);
        NextHopId(id)
    }

    fn add_routes(&mut self, routes: &[RouteConfig], entries_max: u16) -> Result<(), RouterError> {
        // The gateways met so far, sorted, for a table of a million routes.
        let mut gateways: Vec<(Ipv4Addr, NextHopId)> = Vec::new();
        for &RouteConfig {
            prefix,
            prefix_len,
            via,
        } in routes
        {
            if prefix_len > 32 || prefix.to_bits() & !fib::mask(prefix_len) != 0 {
                return Err(RouterError::RoutePrefix { prefix, prefix_len });
            }
            let hop = match gateways.binary_search_by_key(&via, |known| known.0) {
                Ok(at) => gateways[at].1,
                Err(at) => {
                    let port = self.port_of(via).filter(|_| !self.classifier.is_own(via));
                    let port = port.ok_or(RouterError::RouteGateway {
                        prefix,
                        prefix_len,
                        via,
                    })?;
                    let slot = self.neighbours.pin(port, via).map_err(|_| {
                        RouterError::NeighbourLimit {
                            needed: gateways.len() + 1,
                            entries_max,
                        }
                    })?;
                    let mtu = self.port(port).config.mtu;
                    let hop = self.add_next_hop(NextHop {
                        port,
                        mtu,
                        gateway: Some((via, slot)),
                    });
                    gateways.insert(at, (via, hop));
                    hop
                }
            };
            if let Some(other) = self.fib.route(prefix.to_bits(), prefix_len) {
                let hop = self.next_hops[usize::from(other.0)];
                return Err(match hop.gateway {
                    None => RouterError::RouteConnected {
                        prefix,
                        prefix_len,
                        port: self.ports[usize::from(hop.port)].config.name.clone(),
                    },
                    Some(_) => RouterError::RouteTwice { prefix, prefix_len },
                });
            }
            self.fib.insert(prefix.to_bits(), prefix_len, hop);
        }
        Ok(())
    }

    /// The port whose subnet holds an address.
    pub(super) fn port_of(&self, address: Ipv4Addr) -> Option<u8> {
        self.ports
            .iter()
            .position(|port| port.holds(address))
            .map(port_number)
    }

    pub(super) fn port(&self, port: u8) -> &Port {
        &self.ports[usize::from(port)]
    }

    /// The way to an address; `None` without a route.
    #[must_use]
    pub fn path(&self, destination: Ipv4Addr) -> Option<Path> {
        let hop = self.fib.lookup(destination.to_bits());
        if hop == NextHopId::NONE {
            return None;
        }
        let port = self.next_hops[usize::from(hop.0)].port;
        let config = &self.port(port).config;
        Some(Path {
            port,
            source: config.address,
            mtu: config.mtu,
        })
    }

    /// Takes a burst that came in by `port`: what is to be sent on goes to
    /// `tx`, TCP for the relay to `locals`. Leaves `burst` empty.
    ///
    /// # Panics
    /// If `locals` has less room than the burst has frames, or `port` is not a port.
    pub fn input_burst(
        &mut self,
        now: Time,
        pool: &mut Pool,
        port: u8,
        burst: &mut Burst,
        tx: &mut TxQueues,
        locals: &mut ArrayVec<Local, BURST_LEN>,
    ) {
        assert!(
            locals.remaining_capacity() >= burst.len(),
            "the caller takes the locals of a burst before the next"
        );
        // Three passes, so that the cache misses of different packets overlap:
        // headers, then routes, then what is done about it, in order.
        let mut examined: ArrayVec<Examined, BURST_LEN> = ArrayVec::new();
        let port_mac = self.port(port).mac;
        let mut rx_bytes = 0;
        for (at, frame) in burst.iter().enumerate() {
            if let Some(ahead) = burst.get(at + PREFETCH_AHEAD) {
                pool.prefetch(ahead);
            }
            rx_bytes += u64::from(frame.len);
            let one = self.examine(port_mac, pool, frame);
            self.fib.prefetch(one.header.destination);
            examined.push(one);
        }
        let counters = &mut self.ports[usize::from(port)].counters;
        counters.rx_packets += burst.len() as u64;
        counters.rx_bytes += rx_bytes;
        for one in &mut examined {
            one.next_hop = self.fib.lookup(one.header.destination);
        }
        let step = &mut Step { now, pool, tx };
        for (frame, one) in burst.drain(..).zip(&examined) {
            if let Some(local) = self.act(step, port, frame, one) {
                locals.push(local);
            }
        }
    }

    /// Takes one frame, as [`Router::input_burst`] does.
    ///
    /// # Panics
    /// If `port` is not a port.
    pub fn input(
        &mut self,
        now: Time,
        pool: &mut Pool,
        port: u8,
        frame: Frame,
        tx: &mut TxQueues,
    ) -> Option<Local> {
        let port_mac = self.port(port).mac;
        let counters = &mut self.ports[usize::from(port)].counters;
        counters.rx_packets += 1;
        counters.rx_bytes += u64::from(frame.len);
        let mut examined = self.examine(port_mac, pool, &frame);
        examined.next_hop = self.fib.lookup(examined.header.destination);
        self.act(&mut Step { now, pool, tx }, port, frame, &examined)
    }

    /// Reads link and IPv4 headers and says whose business the packet is.
    #[inline(always)]
    fn examine(&self, port_mac: u64, pool: &Pool, frame: &Frame) -> Examined {
        let (what, header) = match self.read(port_mac, pool.bytes(frame), packet_len(pool, frame)) {
            Ok((what, header)) => (what, header),
            Err(drop) => (What::Drop(drop), Ipv4Header::default()),
        };
        Examined {
            what,
            header,
            next_hop: NextHopId::NONE,
        }
    }

    #[inline(always)]
    fn read(
        &self,
        port_mac: u64,
        bytes: &[u8],
        available: usize,
    ) -> Result<(What, Ipv4Header), Drop> {
        let Some((link, packet)) = bytes.split_first_chunk::<ETHERNET_LEN>() else {
            return Err(Drop::EthernetTruncated);
        };
        let [mac @ .., _, _, _, _, _, _, type_high, type_low] = *link;
        let for_port = mac_word(link) == port_mac;
        if !for_port && !ethernet::is_group(mac) {
            return Err(Drop::OtherStation);
        }
        match u16::from_be_bytes([type_high, type_low]) {
            ETHERTYPE_IPV4 if for_port => {
                let header = Ipv4Header::parse(packet, available - ETHERNET_LEN)?;
                Ok((
                    What::Ipv4(self.classifier.classify(packet, &header)),
                    header,
                ))
            }
            ETHERTYPE_IPV4 => Err(Drop::Broadcast),
            ETHERTYPE_ARP => Ok((What::Arp, Ipv4Header::default())),
            ETHERTYPE_IPV6 => Err(Drop::Ipv6NotRouted),
            _ => Err(Drop::EtherTypeUnknown),
        }
    }

    #[inline(always)]
    fn act(
        &mut self,
        step: &mut Step<'_>,
        port: u8,
        frame: Frame,
        examined: &Examined,
    ) -> Option<Local> {
        match examined.what {
            What::Ipv4(Verdict::Forward) => {
                self.forward(step, frame, &examined.header, examined.next_hop)
            }
            What::Ipv4(Verdict::Intercepted) => {
                return self.local_tcp(step, frame, &examined.header, port);
            }
            What::Ipv4(Verdict::Own) => return self.own(step, frame, &examined.header, port),
            What::Arp => self.arp(step, frame, port),
            What::Ipv4(Verdict::Drop(drop)) | What::Drop(drop) => self.discard(step, frame, drop),
        }
        None
    }

    /// The end of a frame.
    pub(super) fn discard(&mut self, step: &mut Step<'_>, frame: Frame, drop: Drop) {
        self.drops.count(drop);
        step.pool.release(frame);
    }
}

/// The destination of a frame as one word, for one comparison.
#[inline]
fn mac_word(link: &[u8; ETHERNET_LEN]) -> u64 {
    let [word @ .., _, _, _, _, _, _] = *link;
    u64::from_le_bytes(word) & 0xffff_ffff_ffff
}

fn port_number(index: usize) -> u8 {
    u8::try_from(index).expect("at most PORTS_MAX ports")
}

fn check_ports(ports: &[PortConfig]) -> Result<(), RouterError> {
    if ports.is_empty() || ports.len() > PORTS_MAX {
        return Err(RouterError::PortCount(ports.len()));
    }
    for (index, port) in ports.iter().enumerate() {
        let &PortConfig {
            ref name,
            mac,
            address,
            prefix_len,
            mtu,
        } = port;
        let host = address.to_bits() & !fib::mask(prefix_len.min(32));
        let host_invalid = prefix_len < 31 && (host == 0 || host == !fib::mask(prefix_len));
        if prefix_len == 0 || prefix_len > 32 || is_never_unicast(address.to_bits()) || host_invalid
        {
            return Err(RouterError::PortAddress {
                port: name.clone(),
                address,
                prefix_len,
            });
        }
        if !ethernet::is_station(mac) {
            return Err(RouterError::PortMac {
                port: name.clone(),
                mac,
            });
        }
        if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
            return Err(RouterError::PortMtu {
                port: name.clone(),
                mtu,
            });
        }
        let overlaps = |other: &&PortConfig| {
            (other.address.to_bits() ^ address.to_bits())
                & fib::mask(prefix_len.min(other.prefix_len))
                == 0
        };
        if let Some(other) = ports[..index].iter().find(overlaps) {
            return Err(RouterError::PortOverlap {
                port: name.clone(),
                other: other.name.clone(),
                address,
                prefix_len,
            });
        }
    }
    Ok(())
}

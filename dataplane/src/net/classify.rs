//! Whose business a packet is: the relay's own, the storage's that is
//! intercepted, or somebody's to be routed.
//!
//! What always holds: the answer depends on the packet's own addresses,
//! protocol and ports alone, never on routes, neighbours, connections or the
//! port it came in by. So no state of the relay can let a segment to or from
//! an intercepted address and port through.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::drops::Drop;
use super::ipv4::{Ipv4Header, PROTOCOL_TCP, TcpHeader};

/// What is to be done with an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Route it by destination.
    Forward,
    /// It is for one of the relay's own addresses.
    Own,
    /// TCP to an intercepted address and port.
    Intercepted,
    Drop(Drop),
}

/// What an address means to the relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Meaning(u8);

impl Meaning {
    const OWN: u8 = 1;
    /// The broadcast address of a connected subnet, or its all-zeros form.
    const BROADCAST: u8 = 2;
    const STORAGE: u8 = 4;

    const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }
}

/// The addresses that mean something, in an open-addressed table at most a
/// quarter full: for all others, one load says so.
#[derive(Debug)]
pub(super) struct Classifier {
    slots: Box<[(u32, Meaning)]>,
    shift: u32,
    /// Intercepted address and port pairs, sorted.
    intercepts: Vec<(u32, u16)>,
    /// Ports of all portals, the storage's and the relay's; few.
    iscsi_ports: Vec<u16>,
}

const SLOTS_MIN: usize = 64;

impl Classifier {
    /// `own` are the relay's addresses, `broadcasts` those of its subnets.
    pub fn new(
        own: &[Ipv4Addr],
        broadcasts: &[Ipv4Addr],
        intercepts: &[(Ipv4Addr, u16)],
        portal: Option<(Ipv4Addr, u16)>,
    ) -> Self {
        let meant = own.len() + broadcasts.len() + intercepts.len();
        let len = (meant * 4).next_power_of_two().max(SLOTS_MIN);
        let mut classifier = Self {
            slots: vec![(0, Meaning::default()); len].into_boxed_slice(),
            shift: 32 - len.ilog2(),
            intercepts: intercepts
                .iter()
                .map(|&(address, port)| (address.to_bits(), port))
                .collect(),
            iscsi_ports: intercepts
                .iter()
                .chain(&portal)
                .map(|pair| pair.1)
                .collect(),
        };
        classifier.intercepts.sort_unstable();
        classifier.iscsi_ports.sort_unstable();
        classifier.iscsi_ports.dedup();
        for (addresses, flag) in [(own, Meaning::OWN), (broadcasts, Meaning::BROADCAST)] {
            for address in addresses {
                classifier.mark(address.to_bits(), flag);
            }
        }
        for (address, _) in intercepts {
            classifier.mark(address.to_bits(), Meaning::STORAGE);
        }
        classifier
    }

    fn first_slot(&self, address: u32) -> usize {
        // Fibonacci hashing: the addresses are the operator's, not a peer's.
        (address.wrapping_mul(0x9e37_79b9) >> self.shift) as usize
    }

    fn mark(&mut self, address: u32, flag: u8) {
        let mut slot = self.first_slot(address);
        while self.slots[slot].1 != Meaning::default() && self.slots[slot].0 != address {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        self.slots[slot].0 = address;
        self.slots[slot].1.0 |= flag;
    }

    #[inline]
    fn meaning(&self, address: u32) -> Meaning {
        let mut slot = self.first_slot(address);
        loop {
            let (at, meaning) = self.slots[slot];
            if meaning == Meaning::default() || at == address {
                return meaning;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// Whether the relay answers for this address.
    pub fn is_own(&self, address: Ipv4Addr) -> bool {
        self.meaning(address.to_bits()).has(Meaning::OWN)
    }

    /// Whether a segment for one of the relay's addresses is of its own
    /// connections, or would be of an iSCSI portal: the kernel never sees it.
    pub fn is_relays(&self, tcp: &TcpHeader) -> bool {
        self.is_connection(tcp.destination.port(), tcp.source)
    }

    /// Whether a connection between a port of one of the relay's addresses and `remote` is
    /// the relay's.
    pub fn is_connection(&self, port: u16, remote: SocketAddrV4) -> bool {
        self.iscsi_ports.contains(&port)
            || self.is_intercepted(remote.ip().to_bits(), remote.port())
    }

    fn is_intercepted(&self, address: u32, port: u16) -> bool {
        self.intercepts.binary_search(&(address, port)).is_ok()
    }

    /// Whose business a packet is. `packet` starts at the header that `header` was read from.
    #[inline]
    pub fn classify(&self, packet: &[u8], header: &Ipv4Header) -> Verdict {
        if is_never_unicast(header.source) {
            return Verdict::Drop(Drop::MartianSource);
        }
        if is_never_unicast(header.destination) {
            return Verdict::Drop(never_sent_to(header.destination));
        }
        let source = self.meaning(header.source);
        let destination = self.meaning(header.destination);
        if source.0 | destination.0 == 0 {
            return Verdict::Forward;
        }
        self.classify_meant(packet, header, source, destination)
    }

    fn classify_meant(
        &self,
        packet: &[u8],
        header: &Ipv4Header,
        source: Meaning,
        destination: Meaning,
    ) -> Verdict {
        if source.has(Meaning::OWN | Meaning::BROADCAST) {
            return Verdict::Drop(Drop::MartianSource);
        }
        self.classify_by_destination(packet, header, destination)
    }

    /// As [`Self::classify`], for a packet whose source is not in question.
    pub fn classify_destination(&self, packet: &[u8], header: &Ipv4Header) -> Verdict {
        if is_never_unicast(header.destination) {
            return Verdict::Drop(never_sent_to(header.destination));
        }
        match self.meaning(header.destination) {
            Meaning(0) => Verdict::Forward,
            destination => self.classify_by_destination(packet, header, destination),
        }
    }

    fn classify_by_destination(
        &self,
        packet: &[u8],
        header: &Ipv4Header,
        destination: Meaning,
    ) -> Verdict {
        if destination.has(Meaning::BROADCAST) {
            return Verdict::Drop(Drop::Broadcast);
        }
        if destination.has(Meaning::OWN) {
            return Verdict::Own;
        }
        // The protocol stands in every fragment and is part of what they are
        // reassembled by, so only TCP can become a segment for the storage.
        if header.protocol != PROTOCOL_TCP {
            return Verdict::Forward;
        }
        if header.is_fragment() {
            return Verdict::Drop(Drop::InterceptedFragment);
        }
        let Some(tcp) = TcpHeader::parse(packet, header) else {
            return Verdict::Drop(Drop::TcpMalformed);
        };
        if self.is_intercepted(header.destination, tcp.destination.port()) {
            Verdict::Intercepted
        } else if self.is_intercepted(header.source, tcp.source.port()) {
            Verdict::Drop(Drop::InterceptedReply)
        } else {
            Verdict::Forward
        }
    }
}

/// Why such a destination is not sent to.
fn never_sent_to(destination: u32) -> Drop {
    match destination >> 28 {
        0xe => Drop::Multicast,
        _ if destination == u32::MAX => Drop::Broadcast,
        _ => Drop::MartianDestination,
    }
}

/// 0/8, 127/8, 169.254/16 (RFC 3927 2.7), multicast and 240/4: neither a
/// source nor a destination of a packet that a router passes on.
#[inline]
pub(super) fn is_never_unicast(address: u32) -> bool {
    match TOP_BYTES[(address >> 24) as usize] {
        Top::Unicast => false,
        Top::Never => true,
        Top::LinkLocal => address >> 16 == 0xa9fe,
    }
}

/// What the first byte of an address says: one load instead of a comparison
/// for each range.
#[derive(Clone, Copy)]
enum Top {
    Unicast,
    Never,
    /// 169/8, of which one /16 is link-local.
    LinkLocal,
}

static TOP_BYTES: [Top; 256] = {
    let mut tops = [Top::Unicast; 256];
    tops[0] = Top::Never;
    tops[127] = Top::Never;
    tops[169] = Top::LinkLocal;
    let mut top = 224;
    while top < 256 {
        tops[top] = Top::Never;
        top += 1;
    }
    tops
};

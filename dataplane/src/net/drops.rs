//! Why a packet was not sent on: every drop has a name and a counter.
//!
//! Names are stable: the CLI, the metrics and the tests use them.

use std::fmt;

macro_rules! drops {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The reason for which a packet ended here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Drop {
            $($(#[$doc])* $variant,)*
        }

        impl Drop {
            /// Every reason, in the order of its counter.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name operators see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

drops! {
    /// The frame ends inside its Ethernet header.
    EthernetTruncated = "ethernet_truncated",
    /// Unicast to another station's MAC address (a promiscuous port).
    OtherStation = "other_station",
    /// Neither IPv4 nor ARP.
    EtherTypeUnknown = "ethertype_unknown",
    /// IPv6, which is not routed yet.
    Ipv6NotRouted = "ipv6_not_routed",
    /// Malformed ARP, or ARP for another hardware or protocol.
    ArpMalformed = "arp_malformed",
    /// An ARP sender claims an address of the relay itself.
    ArpAddressConflict = "arp_address_conflict",
    /// An ARP sender outside the subnet of the port it speaks on.
    ArpForeignSender = "arp_foreign_sender",
    /// ARP for somebody else; seen on every shared link.
    ArpNotForRelay = "arp_not_for_relay",
    /// The packet ends inside its IPv4 header, or the header's length is below 20.
    Ipv4HeaderTruncated = "ipv4_header_truncated",
    /// The version field is not 4.
    Ipv4BadVersion = "ipv4_bad_version",
    /// The total length is below the header's, or beyond the end of the frame.
    Ipv4BadLength = "ipv4_bad_length",
    /// The header checksum is wrong (RFC 1812 5.2.2).
    Ipv4BadChecksum = "ipv4_bad_checksum",
    /// A loose or strict source route option: refused, since the address to
    /// classify by would not be the packet's last (A-3; RFC 7126 4.3, 4.4).
    Ipv4SourceRoute = "ipv4_source_route",
    /// A source address nobody may have: 0/8, 127/8, 169.254/16, multicast, broadcast, the relay's own.
    MartianSource = "martian_source",
    /// A destination that is never routed: 0/8, 127/8, 169.254/16, 240/4.
    MartianDestination = "martian_destination",
    /// A multicast destination; multicast is not routed.
    Multicast = "multicast",
    /// A limited or directed broadcast, or unicast IPv4 in a broadcast frame (RFC 1122 3.3.6).
    Broadcast = "broadcast",
    /// The time to live ran out.
    TtlExpired = "ttl_expired",
    /// No route to the destination.
    NoRoute = "no_route",
    /// Larger than the next link's MTU with DF set.
    FragmentationNeeded = "fragmentation_needed",
    /// A GSO packet whose segments exceed the next link's MTU, DF not set.
    GsoExceedsMtu = "gso_exceeds_mtu",
    /// The next hop does not answer ARP.
    HostUnreachable = "host_unreachable",
    /// Too many packets wait for this next hop, or for all of them.
    NeighbourQueueFull = "neighbour_queue_full",
    /// No room for one more neighbour.
    NeighbourTableFull = "neighbour_table_full",
    /// The port's transmit queue is full.
    TxQueueFull = "tx_queue_full",
    /// No frame for a packet of the relay's own, or for a fragment.
    NoFrame = "no_frame",
    /// A TCP fragment to or from an intercepted address.
    InterceptedFragment = "intercepted_fragment",
    /// A segment from an intercepted storage address and port, not for the relay.
    InterceptedReply = "intercepted_reply",
    /// TCP of the host's kernel to an intercepted address and port.
    KernelIntercepted = "kernel_intercepted",
    /// TCP whose header is cut short or inconsistent, to or from an address that matters.
    TcpMalformed = "tcp_malformed",
    /// A fragment addressed to the relay itself, which does not reassemble: of TCP always, others with no way to the kernel.
    FragmentToRelay = "fragment_to_relay",
    /// ICMP to the relay with a bad checksum or length, or that quotes no segment where it
    /// says that one was too big.
    IcmpMalformed = "icmp_malformed",
    /// ICMP to the relay that asks for nothing (replies, errors, unknown types), with no way to the kernel.
    IcmpIgnored = "icmp_ignored",
    /// UDP to the relay, with no way to the kernel.
    UdpToRelay = "udp_to_relay",
    /// Another protocol to the relay, with no way to the kernel.
    ProtocolToRelay = "protocol_to_relay",
    /// A packet of the relay's own that cannot be sent: malformed, or for itself.
    OutputInvalid = "output_invalid",
}

impl fmt::Display for Drop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A counter for each [`Drop`], in packets.
#[derive(Clone, Debug)]
pub struct Drops([u64; Drop::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; Drop::ALL.len()])
    }
}

impl Drops {
    #[inline]
    pub(super) fn count(&mut self, drop: Drop) {
        self.0[drop as usize] += 1;
    }

    /// Packets dropped for this reason since the start.
    #[must_use]
    pub fn get(&self, drop: Drop) -> u64 {
        self.0[drop as usize]
    }

    /// Every reason with its count, zeros too, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (Drop, u64)> + '_ {
        Drop::ALL.iter().map(|&drop| (drop, self.get(drop)))
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

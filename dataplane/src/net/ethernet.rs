//! Ethernet II headers and ARP packets (RFC 826), on bytes.

use std::net::Ipv4Addr;

use super::config::Mac;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of an ARP packet for Ethernet and IPv4.
pub const ARP_LEN: usize = 28;

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_ARP: u16 = 0x0806;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(super) const BROADCAST: Mac = [0xff; 6];

/// Whether the address is a multicast or broadcast one.
#[inline]
pub(super) const fn is_group(mac: Mac) -> bool {
    mac[0] & 1 != 0
}

/// Whether one station may have this address.
pub(super) fn is_station(mac: Mac) -> bool {
    !is_group(mac) && mac != [0; 6]
}

/// The header of a frame from `source` to `destination`.
pub(super) fn header(destination: Mac, source: Mac, ethertype: u16) -> [u8; ETHERNET_LEN] {
    let mut header = [0; ETHERNET_LEN];
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    header
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArpOperation {
    Request,
    Reply,
}

/// An ARP packet for Ethernet and IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    pub operation: ArpOperation,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target_mac: Mac,
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads the packet behind an Ethernet header. `None` if it is cut short,
    /// not for Ethernet and IPv4, neither request nor reply, or from a sender
    /// that is no single station.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let packet = packet.first_chunk::<ARP_LEN>()?;
        // Hardware type Ethernet, protocol IPv4, address lengths 6 and 4.
        if packet[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let operation = match [packet[6], packet[7]] {
            [0, 1] => ArpOperation::Request,
            [0, 2] => ArpOperation::Reply,
            _ => return None,
        };
        let mac = |at: usize| {
            [
                packet[at],
                packet[at + 1],
                packet[at + 2],
                packet[at + 3],
                packet[at + 4],
                packet[at + 5],
            ]
        };
        let address =
            |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        let arp = Self {
            operation,
            sender_mac: mac(8),
            sender: address(14),
            target_mac: mac(18),
            target: address(24),
        };
        is_station(arp.sender_mac).then_some(arp)
    }

    /// The whole frame, to `destination`.
    pub fn frame(&self, destination: Mac) -> [u8; ETHERNET_LEN + ARP_LEN] {
        let mut frame = [0; ETHERNET_LEN + ARP_LEN];
        frame[..14].copy_from_slice(&header(destination, self.sender_mac, ETHERTYPE_ARP));
        frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        frame[21] = match self.operation {
            ArpOperation::Request => 1,
            ArpOperation::Reply => 2,
        };
        frame[22..28].copy_from_slice(&self.sender_mac);
        frame[28..32].copy_from_slice(&self.sender.octets());
        frame[32..38].copy_from_slice(&self.target_mac);
        frame[38..42].copy_from_slice(&self.target.octets());
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arp_comes_back_as_written(sender_mac: [u8; 6], target_mac: [u8; 6], sender: u32, target: u32, request: bool) {
            let arp = Arp {
                operation: if request { ArpOperation::Request } else { ArpOperation::Reply },
                sender_mac, target_mac, sender: sender.into(), target: target.into(),
            };
            let parsed = Arp::parse(&arp.frame(BROADCAST)[ETHERNET_LEN..]);
            prop_assert_eq!(parsed, is_station(sender_mac).then_some(arp));
        }
    }
}

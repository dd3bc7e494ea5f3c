//! TCP segments in IPv4 in Ethernet: bytes of a frame, and back.

use sluice_transport::{IpEcn, Segment, wire};
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, TcpPacket,
};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

const ETHERNET_LEN: usize = 14;
const IP_LEN: usize = 20;
/// An IP packet on the path.
pub const MTU: usize = 1500;
/// Room for any frame of it.
pub const FRAME_LEN_MAX: u32 = 2048;

/// A hardware address, as `ip link` shows it.
#[derive(Clone, Copy, Debug)]
pub struct Mac(EthernetAddress);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            *byte = parts
                .next()
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| format!("'{text}' is no hardware address like 02:00:00:00:00:01"))?;
        }
        match parts.next() {
            None => Ok(Self(EthernetAddress(bytes))),
            Some(_) => Err(format!("'{text}' has more than six bytes")),
        }
    }
}

/// Both ends of a flow, as the sender sees them.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub own_mac: Mac,
    pub peer_mac: Mac,
    pub source: Ipv4Addr,
    pub peer: SocketAddrV4,
}

impl Ends {
    /// Writes a frame with this payload behind the header; says how long it is.
    pub fn write(
        &self,
        port: u16,
        segment: &Segment,
        ecn: IpEcn,
        payload: impl FnOnce(&mut [u8]),
        payload_len: usize,
        out: &mut [u8],
    ) -> usize {
        let tcp = &mut out[ETHERNET_LEN + IP_LEN..];
        let header_len = wire::write(segment, port, self.peer.port(), tcp);
        let tcp_len = header_len + payload_len;
        payload(&mut tcp[header_len..tcp_len]);
        let (source, peer) = (
            IpAddress::Ipv4(self.source),
            IpAddress::Ipv4(*self.peer.ip()),
        );
        TcpPacket::new_unchecked(&mut tcp[..tcp_len]).fill_checksum(&source, &peer);
        let ip = &mut out[ETHERNET_LEN..][..IP_LEN + tcp_len];
        let mut ip = Ipv4Packet::new_unchecked(ip);
        ip.set_version(4);
        ip.set_header_len(u8::try_from(IP_LEN).expect("20"));
        ip.set_dscp(0);
        ip.set_ecn(match ecn {
            IpEcn::NotCapable => 0,
            IpEcn::Capable => 2,
            IpEcn::Congested => 3,
        });
        ip.set_total_len(u16::try_from(IP_LEN + tcp_len).expect("within the MTU"));
        ip.set_ident(0);
        ip.clear_flags();
        ip.set_dont_frag(true);
        ip.set_frag_offset(0);
        ip.set_hop_limit(64);
        ip.set_next_header(IpProtocol::Tcp);
        ip.set_src_addr(self.source);
        ip.set_dst_addr(*self.peer.ip());
        ip.fill_checksum();
        let mut ethernet = EthernetFrame::new_unchecked(out);
        ethernet.set_src_addr(self.own_mac.0);
        ethernet.set_dst_addr(self.peer_mac.0);
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        ETHERNET_LEN + IP_LEN + tcp_len
    }

    /// A sound segment from the peer to the sender: the port it is for, the header, the
    /// ECN field and the bytes of payload.
    pub fn read(&self, frame: &[u8]) -> Option<(u16, Segment, IpEcn, u32)> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if ethernet.ethertype() != EthernetProtocol::Ipv4 {
            return None;
        }
        let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        if (ip.src_addr(), ip.dst_addr()) != (*self.peer.ip(), self.source)
            || ip.next_header() != IpProtocol::Tcp
            || !ip.verify_checksum()
        {
            return None;
        }
        let (source, peer) = (
            IpAddress::Ipv4(self.source),
            IpAddress::Ipv4(*self.peer.ip()),
        );
        let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
        if tcp.src_port() != self.peer.port() || !tcp.verify_checksum(&peer, &source) {
            return None;
        }
        let (segment, header_len) = wire::parse(ip.payload())?;
        let ecn = match ip.ecn() {
            0 => IpEcn::NotCapable,
            3 => IpEcn::Congested,
            _ => IpEcn::Capable,
        };
        let payload_len = u32::try_from(ip.payload().len() - header_len).ok()?;
        Some((tcp.dst_port(), segment, ecn, payload_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_transport::{Flags, Seq};

    #[test]
    fn a_frame_that_is_written_reads_the_same_from_the_other_end() {
        let mac = |text| Mac::from_str(text).unwrap();
        let ends = Ends {
            own_mac: mac("02:00:00:00:00:01"),
            peer_mac: mac("02:00:00:00:00:02"),
            source: Ipv4Addr::new(198, 51, 100, 3),
            peer: "198.51.100.2:5000".parse().unwrap(),
        };
        let other = Ends {
            own_mac: ends.peer_mac,
            peer_mac: ends.own_mac,
            source: *ends.peer.ip(),
            peer: SocketAddrV4::new(ends.source, 4000),
        };
        let segment = Segment {
            seq: Seq(7),
            flags: Flags::ACK | Flags::PSH,
            window: 9,
            ..Segment::default()
        };
        let mut frame = [0xff; FRAME_LEN_MAX as usize];
        let fill = |bytes: &mut [u8]| bytes.fill(5);
        let len = ends.write(4000, &segment, IpEcn::Capable, fill, 1001, &mut frame);
        assert_eq!(len, 14 + 20 + 20 + 1001);
        assert_eq!(
            other.read(&frame[..len]),
            Some((5000, segment, IpEcn::Capable, 1001))
        );
        assert_eq!(ends.read(&frame[..len]), None, "it is not for the sender");
        frame[len - 1] ^= 1;
        assert_eq!(other.read(&frame[..len]), None);
        assert!(Mac::from_str("02:00").is_err());
    }
}

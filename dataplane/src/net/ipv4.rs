//! IPv4 and TCP headers read from bytes: every length is checked once, here,
//! and what comes out is facts.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::drops::Drop;
use crate::checksum;

pub(super) const PROTOCOL_ICMP: u8 = 1;
pub(super) const PROTOCOL_TCP: u8 = 6;
pub(super) const PROTOCOL_UDP: u8 = 17;

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// An IPv4 header whose version, lengths and checksum hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv4Header {
    pub source: u32,
    pub destination: u32,
    /// Bytes of header and payload.
    pub total_len: u16,
    /// Flags and fragment offset as they stand in the packet.
    pub fragment: u16,
    /// Bytes of the header, 20 to 60.
    pub header_len: u8,
    pub ttl: u8,
    pub protocol: u8,
}

impl Ipv4Header {
    /// Reads the header at the front of `packet`. `available` is the length
    /// of the packet with the rest of its chain, at least `packet.len()`.
    ///
    /// # Errors
    /// The reason to drop it (RFC 1812 5.2.2).
    #[inline]
    pub(super) fn parse(packet: &[u8], available: usize) -> Result<Self, Drop> {
        let Some(fixed) = packet.first_chunk::<IPV4_LEN>() else {
            return Err(Drop::Ipv4HeaderTruncated);
        };
        let header_len = if fixed[0] == 0x45 {
            if !checksum::short_header_valid(fixed) {
                return Err(Drop::Ipv4BadChecksum);
            }
            20
        } else {
            Self::check_long(packet, fixed[0])?
        };
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let long = |at: usize| {
            u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let total_len = word(2);
        if total_len < u16::from(header_len) || usize::from(total_len) > available {
            return Err(Drop::Ipv4BadLength);
        }
        Ok(Self {
            source: long(12),
            destination: long(16),
            total_len,
            fragment: word(6),
            header_len,
            ttl: fixed[8],
            protocol: fixed[9],
        })
    }

    /// The header's length when it is not plain version 4 without options.
    #[cold]
    fn check_long(packet: &[u8], first: u8) -> Result<u8, Drop> {
        if first >> 4 != 4 {
            return Err(Drop::Ipv4BadVersion);
        }
        let header_len = (first & 15) * 4;
        let Some(header) = packet.get(..usize::from(header_len)) else {
            return Err(Drop::Ipv4HeaderTruncated);
        };
        let Some(options) = header.get(IPV4_LEN..) else {
            return Err(Drop::Ipv4HeaderTruncated);
        };
        if checksum::sum(header) != 0xffff {
            return Err(Drop::Ipv4BadChecksum);
        }
        if Options(options).any(|option| matches!(option[0], OPTION_LSRR | OPTION_SSRR)) {
            return Err(Drop::Ipv4SourceRoute);
        }
        Ok(header_len)
    }

    pub const fn dont_fragment(&self) -> bool {
        self.fragment & DONT_FRAGMENT != 0
    }

    /// Whether this is a part of a larger packet.
    pub const fn is_fragment(&self) -> bool {
        self.fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    pub(super) const fn more_fragments(&self) -> bool {
        self.fragment & MORE_FRAGMENTS != 0
    }

    /// Offset of this fragment, in units of 8 bytes.
    pub(super) const fn fragment_offset(&self) -> u16 {
        self.fragment & FRAGMENT_OFFSET
    }
}

const OPTION_LSRR: u8 = 131;
const OPTION_SSRR: u8 = 137;

/// The options of a header, each with its type and length bytes; ends at the
/// first that is malformed.
pub(super) struct Options<'a>(pub &'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&kind, rest) = self.0.split_first()?;
        let len = match kind {
            0 => return None,
            1 => 1,
            _ => usize::from(*rest.first()?),
        };
        if len == 0 {
            return None;
        }
        let (option, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(option)
    }
}

/// The flags of a TCP segment (RFC 9293 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    #[must_use]
    pub const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    #[must_use]
    pub const fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    #[must_use]
    pub const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    #[must_use]
    pub const fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }
}

/// What the router learned about a TCP segment. Lengths are checked, the TCP
/// checksum is not: the frame's mark says what the port knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHeader {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub flags: TcpFlags,
    /// Bytes of the IPv4 header.
    pub ipv4_len: u8,
    /// Bytes of the TCP header, 20 to 60.
    pub tcp_len: u8,
    /// Bytes of payload.
    pub payload_len: u16,
}

impl TcpHeader {
    /// Reads the TCP header of an unfragmented packet. `None` if the header
    /// is not all in `packet` or longer than what the packet holds.
    pub(super) fn parse(packet: &[u8], ipv4: &Ipv4Header) -> Option<Self> {
        let segment = packet
            .get(usize::from(ipv4.header_len)..usize::from(ipv4.total_len).min(packet.len()))?;
        let fixed = segment.first_chunk::<20>()?;
        let tcp_len = (fixed[12] >> 4) * 4;
        let segment_len = ipv4.total_len - u16::from(ipv4.header_len);
        if tcp_len < 20 || u16::from(tcp_len) > segment_len || usize::from(tcp_len) > segment.len()
        {
            return None;
        }
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let long = |at: usize| {
            u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        Some(Self {
            source: SocketAddrV4::new(Ipv4Addr::from_bits(ipv4.source), word(0)),
            destination: SocketAddrV4::new(Ipv4Addr::from_bits(ipv4.destination), word(2)),
            seq: long(4),
            ack: long(8),
            window: word(14),
            flags: TcpFlags(fixed[13]),
            ipv4_len: ipv4.header_len,
            tcp_len,
            payload_len: segment_len - u16::from(tcp_len),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), plausible: bool) {
            if plausible && bytes.len() >= 60 {
                bytes[0] = 0x40 | bytes[0] & 15;
                bytes[2..4].copy_from_slice(&[0, 60]);
                let header_len = usize::from(bytes[0] & 15) * 4;
                if header_len >= 20 {
                    checksum::fill_ipv4(&mut bytes[..header_len]);
                }
            }
            if let Ok(header) = Ipv4Header::parse(&bytes, bytes.len()) {
                prop_assert!(usize::from(header.total_len) <= bytes.len());
                prop_assert!(u16::from(header.header_len) <= header.total_len);
                if let Some(tcp) = TcpHeader::parse(&bytes, &header) {
                    prop_assert_eq!(u16::from(tcp.ipv4_len) + u16::from(tcp.tcp_len) + tcp.payload_len, header.total_len);
                }
            }
        }

        #[test]
        fn options_end(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(Options(&bytes).map(<[u8]>::len).sum::<usize>() <= bytes.len());
        }
    }
}

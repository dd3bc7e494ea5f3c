//! TCP in IPv4 as a peer puts it together and takes it apart (RFC 9293 3.1, RFC 7323,
//! RFC 2018). Independent of the code under test.

use std::net::{Ipv4Addr, SocketAddrV4};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

const IPV4_LEN: usize = 20;
const TCP_LEN: usize = 20;
/// Where the checksums stand, each in its header.
const IPV4_CHECKSUM: usize = 10;
const TCP_CHECKSUM: usize = 16;
const PROTOCOL_TCP: u8 = 6;

/// A header; what follows it is kept apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// As on the wire.
    pub options: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    pub sack_permitted: bool,
    /// Value and echo.
    pub timestamp: Option<(u32, u32)>,
    pub sack: Vec<(u32, u32)>,
}

impl Header {
    /// The TCP header; options that do not fit are cut off.
    pub fn bytes(&self, src_port: u16, dst_port: u16) -> Vec<u8> {
        let options = &self.options[..self.options.len().min(40)];
        let len = TCP_LEN + options.len().next_multiple_of(4);
        let mut bytes = vec![0; len];
        bytes[..2].copy_from_slice(&src_port.to_be_bytes());
        bytes[2..4].copy_from_slice(&dst_port.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.seq.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.ack.to_be_bytes());
        bytes[12] = u8::try_from(len * 4).expect("at most 240");
        bytes[13] = self.flags;
        bytes[14..16].copy_from_slice(&self.window.to_be_bytes());
        bytes[TCP_LEN..][..options.len()].copy_from_slice(options);
        bytes
    }

    /// The header, and how long it says to be; nothing if it is cut off.
    pub fn read(tcp: &[u8]) -> Option<(Self, usize)> {
        let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
        let len = usize::from(tcp.get(12)? >> 4) * 4;
        let header = Self {
            seq: word(4)?,
            ack: word(8)?,
            flags: tcp[13],
            window: u16::from_be_bytes([*tcp.get(14)?, *tcp.get(15)?]),
            options: tcp.get(TCP_LEN..len)?.to_vec(),
        };
        Some((header, len))
    }

    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

impl Options {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(mss) = self.mss {
            bytes.extend([2, 4]);
            bytes.extend(mss.to_be_bytes());
        }
        if let Some(scale) = self.scale {
            bytes.extend([1, 3, 3, scale]);
        }
        if self.sack_permitted {
            bytes.extend([1, 1, 4, 2]);
        }
        if let Some((value, echo)) = self.timestamp {
            bytes.extend([1, 1, 8, 10]);
            bytes.extend(value.to_be_bytes());
            bytes.extend(echo.to_be_bytes());
        }
        if !self.sack.is_empty() {
            let len = u8::try_from(2 + 8 * self.sack.len()).expect("a few blocks");
            bytes.extend([1, 1, 5, len]);
            for (left, right) in &self.sack {
                bytes.extend(left.to_be_bytes());
                bytes.extend(right.to_be_bytes());
            }
        }
        bytes
    }

    /// # Panics
    /// If they are not sound, or not of those that the sender has reason to use: it is the
    /// code under test.
    pub fn read(mut bytes: &[u8]) -> Self {
        let half = |data: &[u8]| u16::from_be_bytes(data.try_into().expect("two bytes"));
        let word = |data: &[u8]| u32::from_be_bytes(data.try_into().expect("four bytes"));
        let mut options = Self::default();
        while let [kind, rest @ ..] = bytes {
            match kind {
                0 => {
                    assert!(rest.iter().all(|&byte| byte == 0), "padding is zero");
                    break;
                }
                1 => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let len = usize::from(rest[0]);
            let data = &bytes[2..len];
            match (kind, len) {
                (2, 4) => options.mss = Some(half(data)),
                (3, 3) => options.scale = Some(data[0]),
                (4, 2) => options.sack_permitted = true,
                (8, 10) => options.timestamp = Some((word(&data[..4]), word(&data[4..]))),
                (5, 10 | 18 | 26 | 34) => {
                    let blocks = data.chunks_exact(8);
                    options.sack = blocks.map(|b| (word(&b[..4]), word(&b[4..]))).collect();
                }
                _ => panic!("option {kind} of {len} bytes"),
            }
            bytes = &bytes[len..];
        }
        options
    }
}

/// An IPv4 packet around a segment, checksums complete.
pub fn packet(from: SocketAddrV4, to: SocketAddrV4, ecn: u8, mut tcp: Vec<u8>) -> Vec<u8> {
    if tcp.len() >= TCP_LEN {
        tcp[TCP_CHECKSUM..][..2].fill(0);
        let sum = folded(pseudo(*from.ip(), *to.ip(), &tcp) + sum(&tcp));
        tcp[TCP_CHECKSUM..][..2].copy_from_slice(&(!sum).to_be_bytes());
    }
    let len = u16::try_from(IPV4_LEN + tcp.len()).expect("below 64 KiB");
    let mut packet = vec![0; IPV4_LEN];
    packet[..2].copy_from_slice(&[0x45, ecn & 3]);
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[8..10].copy_from_slice(&[64, PROTOCOL_TCP]);
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    let sum = folded(sum(&packet));
    packet[IPV4_CHECKSUM..][..2].copy_from_slice(&(!sum).to_be_bytes());
    packet.append(&mut tcp);
    packet
}

/// The segment in a packet from `from` to `to`.
///
/// # Panics
/// If the packet is not sound, with a TCP checksum that is complete, or with `partial`
/// one that is left to the port.
pub fn unpack(from: SocketAddrV4, to: SocketAddrV4, packet: &[u8], partial: bool) -> &[u8] {
    let (header, tcp) = packet.split_at(IPV4_LEN);
    assert_eq!(header[0], 0x45, "IPv4 without options");
    assert_eq!(
        usize::from(u16::from_be_bytes([header[2], header[3]])),
        packet.len()
    );
    assert_eq!(header[6] & 0x3f, 0, "no fragment");
    assert_eq!(header[9], PROTOCOL_TCP);
    assert_eq!(folded(sum(header)), 0xffff, "the header's checksum");
    assert_eq!(
        (&header[12..16], &header[16..]),
        (&from.ip().octets()[..], &to.ip().octets()[..])
    );
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    assert_eq!(tcp[..4], ports);
    let pseudo = pseudo(*from.ip(), *to.ip(), tcp);
    if partial {
        assert_eq!(tcp[TCP_CHECKSUM..][..2], folded(pseudo).to_be_bytes());
    } else {
        assert_eq!(folded(pseudo + sum(tcp)), 0xffff, "the segment's checksum");
    }
    tcp
}

fn pseudo(from: Ipv4Addr, to: Ipv4Addr, tcp: &[u8]) -> u32 {
    let len = u32::try_from(tcp.len()).expect("below 64 KiB");
    sum(&from.octets()) + sum(&to.octets()) + u32::from(PROTOCOL_TCP) + len
}

fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2);
    pairs
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

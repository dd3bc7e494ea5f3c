//! `struct virtio_net_hdr`: what stands in front of each frame on an AF_PACKET
//! socket with `PACKET_VNET_HDR` and on a TUN device with `IFF_VNET_HDR`, and
//! carries the marks of [`Frame`] through the kernel, so that a GSO frame stays
//! whole.
//!
//! ```text
//!   0     1         2..4     4..6      6..8        8..10
//!   flags gso_type  hdr_len  gso_size  csum_start  csum_offset     native endian
//! ```
//!
//! `hdr_len` from the kernel is a hint (how much of the frame was linear), not
//! the length of the headers, so it is computed here.
//!
//! [`Frame`]: sluice_hugepages::pool::Frame

use sluice_hugepages::pool::{Checksum, Gso, GsoKind};

use crate::driver::ETHERNET_HEADER_LEN;

pub const VNET_HDR_LEN: usize = 10;

// linux/virtio_net.h
const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// The first segment carries CWR (RFC 3168), which the others must not. Not kept, since the frame says
/// it: who cuts in software looks there, a network card may have to be told.
const GSO_ECN: u8 = 0x80;

/// Where a TCP header has its flags, and one of them.
const TCP_FLAGS: usize = 13;
const TCP_CWR: u8 = 0x80;

const UDP_HEADER_LEN: usize = 8;
const IPV6_HEADER_LEN: usize = 40;

/// The header contradicts the frame, or asks for a cut that is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeader;

/// Reads the marks out of a header; `frame` is at least the first part of the frame, `len` its
/// whole length in bytes.
///
/// # Errors
/// An offset points outside of the frame, or the kind of cut is unknown.
pub fn decode(
    header: &[u8; VNET_HDR_LEN],
    frame: &[u8],
    len: usize,
) -> Result<(Checksum, Option<Gso>), BadHeader> {
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let checksum = if header[0] & F_NEEDS_CSUM != 0 {
        let (start, offset) = (word(6), word(8));
        if usize::from(start) + usize::from(offset) + 2 > len {
            return Err(BadHeader);
        }
        Checksum::Partial { start, offset }
    } else if header[0] & F_DATA_VALID != 0 {
        Checksum::Verified
    } else {
        Checksum::InPacket
    };
    let kind = match header[1] & !GSO_ECN {
        GSO_NONE => return Ok((checksum, None)),
        GSO_TCPV4 => GsoKind::TcpV4,
        GSO_TCPV6 => GsoKind::TcpV6,
        GSO_UDP_L4 => GsoKind::UdpL4,
        _ => return Err(BadHeader),
    };
    // With a partial checksum the kernel says where the transport header is. Without one a network
    // card has put the segments together (LRO), and the frame itself must say.
    let start = match checksum {
        Checksum::Partial { start, .. } => usize::from(start),
        Checksum::Verified | Checksum::InPacket => transport_start(frame).ok_or(BadHeader)?,
    };
    let transport_len = match kind {
        GsoKind::TcpV4 | GsoKind::TcpV6 => {
            usize::from(frame.get(start + 12).ok_or(BadHeader)? >> 4) * 4
        }
        GsoKind::UdpL4 => UDP_HEADER_LEN,
    };
    let header_len = start + transport_len;
    let size = word(4);
    if size == 0 || transport_len < UDP_HEADER_LEN || header_len > len {
        return Err(BadHeader);
    }
    let header_len = u16::try_from(header_len).map_err(|_| BadHeader)?;
    Ok((
        checksum,
        Some(Gso {
            size,
            header_len,
            kind,
        }),
    ))
}

/// Byte at which the transport header of an IP packet on Ethernet begins.
fn transport_start(frame: &[u8]) -> Option<usize> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            Some(ETHERNET_HEADER_LEN + usize::from(frame.get(ETHERNET_HEADER_LEN)? & 0xf) * 4)
        }
        // What is put together has no extension headers.
        [0x86, 0xdd] => Some(ETHERNET_HEADER_LEN + IPV6_HEADER_LEN),
        _ => None,
    }
}

/// The header for a frame with these marks; `frame` is at least its headers.
#[must_use]
pub fn encode(checksum: Checksum, gso: Option<Gso>, frame: &[u8]) -> [u8; VNET_HDR_LEN] {
    let mut header = [0; VNET_HDR_LEN];
    let mut put = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    if let Some(gso) = gso {
        put(2, gso.header_len);
        put(4, gso.size);
    }
    if let Checksum::Partial { start, offset } = checksum {
        put(6, start);
        put(8, offset);
        header[0] = F_NEEDS_CSUM;
    }
    // `Verified` is not said on: what leaves was perhaps rewritten, and the kernel ignores it.
    header[1] = match gso.map(|gso| gso.kind) {
        None => GSO_NONE,
        Some(GsoKind::TcpV4) => GSO_TCPV4,
        Some(GsoKind::TcpV6) => GSO_TCPV6,
        Some(GsoKind::UdpL4) => GSO_UDP_L4,
    };
    if let (GSO_TCPV4 | GSO_TCPV6, Checksum::Partial { start, .. }) = (header[1], checksum)
        && frame
            .get(usize::from(start) + TCP_FLAGS)
            .is_some_and(|flags| flags & TCP_CWR != 0)
    {
        header[1] |= GSO_ECN;
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp_frame() -> Vec<u8> {
        let mut frame = vec![0u8; 3000];
        frame[34 + 12] = 0x80; // 32 bytes of TCP header
        frame
    }

    #[test]
    fn marks_survive_the_round_trip() {
        let frame = tcp_frame();
        let partial = Checksum::Partial {
            start: 34,
            offset: 16,
        };
        for kind in [GsoKind::TcpV4, GsoKind::TcpV6] {
            let gso = Some(Gso {
                size: 1448,
                header_len: 66,
                kind,
            });
            assert_eq!(
                decode(&encode(partial, gso, &frame), &frame, frame.len()),
                Ok((partial, gso))
            );
        }
        let udp = (
            Checksum::Partial {
                start: 34,
                offset: 6,
            },
            Some(Gso {
                size: 1472,
                header_len: 42,
                kind: GsoKind::UdpL4,
            }),
        );
        assert_eq!(
            decode(&encode(udp.0, udp.1, &frame), &frame, frame.len()),
            Ok(udp)
        );
        assert_eq!(
            decode(&encode(partial, None, &frame), &frame, 60),
            Ok((partial, None))
        );
        assert_eq!(
            decode(&[0; VNET_HDR_LEN], &frame, 60),
            Ok((Checksum::InPacket, None))
        );
        let mut valid = [0; VNET_HDR_LEN];
        valid[0] = F_DATA_VALID;
        assert_eq!(decode(&valid, &frame, 60), Ok((Checksum::Verified, None)));
    }

    #[test]
    fn a_card_is_told_that_only_the_first_segment_carries_cwr() {
        let mut frame = tcp_frame();
        frame[34 + 13] = 0x90; // CWR, ACK
        let partial = Checksum::Partial {
            start: 34,
            offset: 16,
        };
        let gso = Some(Gso {
            size: 1448,
            header_len: 66,
            kind: GsoKind::TcpV4,
        });
        let header = encode(partial, gso, &frame);
        assert_eq!(header[1], GSO_TCPV4 | GSO_ECN);
        assert_eq!(decode(&header, &frame, frame.len()), Ok((partial, gso)));
        assert_eq!(encode(partial, None, &frame)[1], GSO_NONE);
        frame[34 + 13] = 0x50; // ECE, ACK
        assert_eq!(encode(partial, gso, &frame)[1], GSO_TCPV4);
    }

    #[test]
    fn contradictions_are_refused() {
        let frame = tcp_frame();
        let partial = Checksum::Partial {
            start: 34,
            offset: 16,
        };
        let gso = Some(Gso {
            size: 1448,
            header_len: 66,
            kind: GsoKind::TcpV4,
        });
        assert_eq!(
            decode(&encode(partial, None, &frame), &frame, 51),
            Err(BadHeader),
            "checksum outside"
        );
        assert_eq!(
            decode(&encode(Checksum::InPacket, gso, &frame), &frame, 3000),
            Err(BadHeader),
            "no IP, so no transport offset"
        );
        assert_eq!(
            decode(&encode(partial, gso, &frame), &frame, 60),
            Err(BadHeader),
            "headers outside"
        );
        let mut ufo = encode(partial, gso, &frame);
        ufo[1] = 3;
        assert_eq!(decode(&ufo, &frame, 3000), Err(BadHeader), "unknown kind");
    }

    #[test]
    fn what_a_card_put_together_says_itself_where_its_headers_end() {
        let gso = |header_len, kind| {
            Some(Gso {
                size: 1448,
                header_len,
                kind,
            })
        };
        let mut frame = tcp_frame();
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        let header = encode(Checksum::InPacket, gso(0, GsoKind::TcpV4), &frame);
        let decoded = decode(&header, &frame, frame.len());
        assert_eq!(decoded, Ok((Checksum::InPacket, gso(66, GsoKind::TcpV4))));
        let mut frame = vec![0; 3000];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[54 + 12] = 0x50;
        let header = encode(Checksum::InPacket, gso(0, GsoKind::TcpV6), &frame);
        let decoded = decode(&header, &frame, frame.len());
        assert_eq!(decoded, Ok((Checksum::InPacket, gso(74, GsoKind::TcpV6))));
    }

    proptest! {
        #[test]
        fn any_header_is_decoded_or_refused(header: [u8; VNET_HDR_LEN], frame in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok((checksum, gso)) = decode(&header, &frame, frame.len()) {
                if let Checksum::Partial { start, offset } = checksum {
                    prop_assert!(usize::from(start) + usize::from(offset) + 2 <= frame.len());
                }
                if let Some(gso) = gso {
                    prop_assert!(usize::from(gso.header_len) <= frame.len() && gso.size > 0);
                }
            }
        }
    }
}

//! ICMP messages of the router's own (RFC 792, RFC 1812 4.3): which there are,
//! when none may be sent, what they quote, and how many a second.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_proto::Time;

use super::ipv4::{IPV4_LEN, Ipv4Header, PROTOCOL_ICMP, PROTOCOL_TCP};
use crate::checksum;

/// Bytes of an ICMP header.
pub(super) const ICMP_LEN: usize = 8;
/// Largest error message, its IPv4 header included (RFC 1812 4.3.2.3).
const ERROR_LEN_MAX: usize = 576;
/// The time to live of the relay's own packets.
pub(super) const TTL: u8 = 64;

pub(super) const ECHO_REPLY: u8 = 0;
pub(super) const ECHO_REQUEST: u8 = 8;
/// Type and code of *fragmentation needed and DF set*.
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];

/// An error the router tells the source of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IcmpError {
    NetUnreachable,
    HostUnreachable,
    ProtocolUnreachable,
    PortUnreachable,
    /// RFC 1191: with the MTU of the next link.
    FragmentationNeeded {
        mtu: u16,
    },
    TimeExceeded,
}

impl IcmpError {
    /// Type, code, and the second half of the second word.
    const fn wire(self) -> (u8, u8, u16) {
        match self {
            Self::NetUnreachable => (3, 0, 0),
            Self::HostUnreachable => (3, 1, 0),
            Self::ProtocolUnreachable => (3, 2, 0),
            Self::PortUnreachable => (3, 3, 0),
            Self::FragmentationNeeded { mtu } => (3, 4, mtu),
            Self::TimeExceeded => (11, 0, 0),
        }
    }
}

/// A router's word that a TCP segment is too big for its next link (RFC 1191 4), of what
/// it quotes: nothing of it is more than somebody's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketTooBig {
    /// Who is said to have sent the segment, and to whom.
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub seq: u32,
    /// Of the next link; 0 from a router older than RFC 1191.
    pub mtu: u16,
}

impl PacketTooBig {
    /// Whether an ICMP message is of this kind.
    pub(super) fn is_told_by(message: &[u8]) -> bool {
        message.starts_with(&FRAGMENTATION_NEEDED)
    }

    /// Reads an ICMP message; nothing if it is of another kind, or what it quotes is no
    /// segment's beginning: a header and the 8 bytes behind it (RFC 792), which are the
    /// ports and the number.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let quoted = message.get(ICMP_LEN..)?;
        let header_len = usize::from(quoted.first()? & 15) * 4;
        if !Self::is_told_by(message) || quoted[0] >> 4 != 4 || header_len < IPV4_LEN {
            return None;
        }
        let word = |bytes: &[u8], at: usize| {
            let word: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_be_bytes(word))
        };
        let half = |bytes: &[u8], at: usize| {
            let half: [u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
            Some(u16::from_be_bytes(half))
        };
        let segment = quoted.get(header_len..)?;
        let is_first = half(quoted, 6)? & 0x1fff == 0;
        if quoted[9] != PROTOCOL_TCP || !is_first {
            return None;
        }
        let end = |address: usize, port: usize| {
            let address = Ipv4Addr::from_bits(word(quoted, address)?);
            Some(SocketAddrV4::new(address, half(segment, port)?))
        };
        Some(Self {
            source: end(12, 0)?,
            destination: end(16, 2)?,
            seq: word(segment, 4)?,
            mtu: half(message, 6)?,
        })
    }
}

/// Whether an error may be told about this packet at all (RFC 1812 4.3.2.7):
/// not about later fragments, and not about ICMP errors. Packets from or to
/// addresses that are not one host's, and those that came as a link broadcast,
/// were dropped before.
pub(super) fn may_tell(packet: &[u8], header: &Ipv4Header) -> bool {
    if header.fragment_offset() != 0 {
        return false;
    }
    if header.protocol != PROTOCOL_ICMP {
        return true;
    }
    // Queries and their replies; all else is an error or unknown.
    matches!(
        packet.get(usize::from(header.header_len)),
        Some(0 | 8..=10 | 13..=18)
    )
}

/// Bytes an error about `packet` takes, header included.
pub(super) fn error_len(packet: &[u8], header: &Ipv4Header) -> usize {
    let quoted = packet.len().min(usize::from(header.total_len));
    (IPV4_LEN + ICMP_LEN + quoted).min(ERROR_LEN_MAX)
}

/// Writes the error about `packet` into `out`, which is [`error_len`] long.
pub(super) fn write_error(
    out: &mut [u8],
    error: IcmpError,
    source: u32,
    packet: &[u8],
    header: &Ipv4Header,
) {
    let (kind, code, second) = error.wire();
    let (ipv4, icmp) = out.split_at_mut(IPV4_LEN);
    let quoted = icmp.len() - ICMP_LEN;
    icmp[..ICMP_LEN].copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    icmp[6..8].copy_from_slice(&second.to_be_bytes());
    icmp[ICMP_LEN..].copy_from_slice(&packet[..quoted]);
    let sum = !checksum::sum(icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let total_len = u16::try_from(IPV4_LEN + icmp.len()).expect("at most 576");
    write_header(ipv4, total_len, PROTOCOL_ICMP, source, header.source);
}

/// Writes an IPv4 header of the relay's own. An atomic datagram (DF, not a
/// fragment) needs no identification (RFC 6864 4.1); errors are small enough
/// for every link, so DF never stops one.
fn write_header(out: &mut [u8], total_len: u16, protocol: u8, source: u32, destination: u32) {
    // RFC 1812 4.3.2.5: errors go with precedence 6 (internetwork control).
    out[..2].copy_from_slice(&[0x45, 0xc0]);
    out[2..4].copy_from_slice(&total_len.to_be_bytes());
    out[4..10].copy_from_slice(&[0, 0, 0x40, 0, TTL, protocol]);
    out[12..16].copy_from_slice(&source.to_be_bytes());
    out[16..20].copy_from_slice(&destination.to_be_bytes());
    checksum::fill_ipv4(out);
}

/// A token bucket, kept as the one time at which it will be full again.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    full_at: Time,
}

impl Bucket {
    const FULL: Self = Self {
        full_at: Time::ZERO,
    };

    /// Takes a token; one comes back every `interval`, at most `burst` are kept.
    fn take(&mut self, now: Time, interval: Duration, burst: u32) -> bool {
        let full_at = self.full_at.max(now) + interval;
        let admitted = full_at.since(now) <= interval * burst;
        if admitted {
            self.full_at = full_at;
        }
        admitted
    }
}

/// How many errors are told (RFC 1812 4.3.2.8): to all, and to those of one source.
#[derive(Debug)]
pub(super) struct IcmpLimit {
    all: Bucket,
    /// By a hash of the source; sources that share a bucket share its rate.
    sources: Box<[Bucket; 256]>,
}

const ALL_INTERVAL: Duration = Duration::from_millis(1);
const ALL_BURST: u32 = 64;
const SOURCE_INTERVAL: Duration = Duration::from_millis(20);
/// A traceroute sends three probes a hop and several hops at once.
const SOURCE_BURST: u32 = 32;

impl IcmpLimit {
    pub fn new() -> Self {
        Self {
            all: Bucket::FULL,
            sources: Box::new([Bucket::FULL; 256]),
        }
    }

    /// Whether one more error may go to `source` now.
    pub fn admit(&mut self, source: u32, now: Time) -> bool {
        let bucket = (source.wrapping_mul(0x9e37_79b9) >> 24) as usize;
        self.sources[bucket].take(now, SOURCE_INTERVAL, SOURCE_BURST)
            && self.all.take(now, ALL_INTERVAL, ALL_BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        for start in [0, 5, 1_000_000] {
            let mut limit = IcmpLimit::new();
            let start = Time::from_millis(start);
            let at_once = (0..100).filter(|_| limit.admit(7, start)).count();
            assert_eq!(at_once, 32);
            let later = (0..100u64)
                .filter(|ms| limit.admit(7, start + Duration::from_millis(*ms)))
                .count();
            assert!(
                (4..=5).contains(&later),
                "{later} in 100 ms at one every 20"
            );
        }
    }

    #[test]
    fn one_source_does_not_use_up_what_others_get() {
        let mut limit = IcmpLimit::new();
        let now = Time::from_millis(3);
        assert_eq!((0..1000).filter(|_| limit.admit(1, now)).count(), 32);
        assert!(limit.admit(2, now));
    }
}

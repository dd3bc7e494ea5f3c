//! What is in flight from one host to another, as the packets on a link tell: of each TCP
//! connection what was sent and is not acknowledged, and all of them together.
//!
//! What always holds: payload that was seen and whose acknowledgement was not is in flight,
//! so a packet that the capture has lost is seldom counted too little: a lost segment until
//! the next one of its connection, a lost acknowledgement (which counts too much) until the
//! next one. A connection of which the capture did not see the beginning counts from the
//! first acknowledgement on.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Which packets count: what `local` sends to `remote`, and the answers.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub local: Ipv4Addr,
    pub remote: Ipv4Addr,
    /// All ports without one.
    pub remote_port: Option<u16>,
}

/// A TCP segment's header, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub seq: u32,
    pub ack: Option<u32>,
    pub syn: bool,
    pub rst: bool,
    /// Bytes of payload.
    pub len: u32,
}

impl Header {
    /// Of a frame that may be cut behind its headers; `None` if it is no whole TCP header in IPv4.
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        let word = |at: usize| Some(u32::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        const IP: usize = 14;
        if half(12)? != 0x0800 || *frame.get(IP + 9)? != 6 {
            return None;
        }
        let version = *frame.get(IP)?;
        let ip_len = usize::from(version & 15) * 4;
        // A fragment but the first has no TCP header.
        if version >> 4 != 4 || ip_len < 20 || half(IP + 6)? & 0x1fff != 0 {
            return None;
        }
        let tcp = IP + ip_len;
        let header_len = ip_len + usize::from(*frame.get(tcp + 12)? >> 4) * 4;
        let flags = *frame.get(tcp + 13)?;
        Some(Self {
            from: SocketAddrV4::new(Ipv4Addr::from(word(IP + 12)?), half(tcp)?),
            to: SocketAddrV4::new(Ipv4Addr::from(word(IP + 16)?), half(tcp + 2)?),
            seq: word(tcp + 4)?,
            ack: (flags & 0x10 != 0).then_some(word(tcp + 8)?),
            syn: flags & 2 != 0,
            rst: flags & 4 != 0,
            len: u32::from(half(IP + 2)?).checked_sub(u32::try_from(header_len).ok()?)?,
        })
    }
}

/// One connection: the end of what was sent, and of what was acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    sent: Option<u32>,
    acknowledged: Option<u32>,
}

impl Flow {
    fn in_flight(&self) -> u64 {
        match (self.sent, self.acknowledged) {
            (Some(sent), Some(acknowledged)) => u64::from(behind(acknowledged, sent)),
            _ => 0,
        }
    }
}

/// How far `to` is ahead of `from`; 0 if it is not.
fn behind(from: u32, to: u32) -> u32 {
    to.wrapping_sub(from).cast_signed().max(0).cast_unsigned()
}

/// A moment that was the worst so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worst {
    pub value: u64,
    pub at: Duration,
}

impl Worst {
    fn note(&mut self, value: u64, at: Duration) {
        if value > self.value {
            *self = Self { value, at };
        }
    }
}

#[derive(Debug)]
pub struct Flight {
    pair: Pair,
    flows: HashMap<(SocketAddrV4, SocketAddrV4), Flow>,
    in_flight: u64,
    /// Most bytes in flight, of all connections together.
    pub most: Worst,
    /// Longest time between two segments with payload, in nanoseconds, and when it began.
    pub gap: Worst,
    sent_at: Option<Duration>,
    /// Segments with payload, those of them that said nothing new, and bytes that were new.
    pub segments: u64,
    pub resent: u64,
    pub bytes: u64,
}

impl Flight {
    #[must_use]
    pub fn new(pair: Pair) -> Self {
        Self {
            pair,
            flows: HashMap::new(),
            in_flight: 0,
            most: Worst::default(),
            gap: Worst::default(),
            sent_at: None,
            segments: 0,
            resent: 0,
            bytes: 0,
        }
    }

    /// Connections that were seen.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    #[must_use]
    pub const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// A packet that passed `at` some time since a fixed one.
    pub fn see(&mut self, at: Duration, header: &Header) {
        let Pair {
            local,
            remote,
            remote_port,
        } = self.pair;
        let meant = |far: &SocketAddrV4| {
            *far.ip() == remote && remote_port.is_none_or(|port| far.port() == port)
        };
        if *header.from.ip() == local && meant(&header.to) {
            self.sent(at, header);
        } else if *header.to.ip() == local && meant(&header.from) {
            self.answered(header);
        }
    }

    fn sent(&mut self, at: Duration, header: &Header) {
        let flow = self.flows.entry((header.from, header.to)).or_default();
        let before = flow.in_flight();
        let end = header.seq.wrapping_add(header.len);
        if header.syn {
            let first = header.seq.wrapping_add(1);
            *flow = Flow {
                sent: Some(first),
                acknowledged: Some(first),
            };
        } else if header.rst {
            *flow = Flow::default();
        } else if header.len > 0 {
            let new = flow.sent.map_or(header.len, |sent| behind(sent, end));
            self.segments += 1;
            self.resent += u64::from(new == 0);
            self.bytes += u64::from(new.min(header.len));
            if flow.sent.is_none() || new > 0 {
                flow.sent = Some(end);
            }
            if let Some(since) = self.sent_at.replace(at) {
                let gap = at.saturating_sub(since).as_nanos();
                self.gap.note(u64::try_from(gap).unwrap_or(u64::MAX), since);
            }
        }
        let after = flow.in_flight();
        self.in_flight = self.in_flight - before + after;
        self.most.note(self.in_flight, at);
    }

    fn answered(&mut self, header: &Header) {
        let flow = self.flows.entry((header.to, header.from)).or_default();
        let before = flow.in_flight();
        if header.rst {
            *flow = Flow::default();
        } else if let Some(ack) = header.ack {
            let newer = |known: u32| behind(known, ack) > 0;
            if flow.acknowledged.is_none_or(newer) {
                flow.acknowledged = Some(ack);
            }
        }
        let after = flow.in_flight();
        self.in_flight = self.in_flight - before + after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 1), 40_000);
    const REMOTE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260);

    fn flight() -> Flight {
        Flight::new(Pair {
            local: *LOCAL.ip(),
            remote: *REMOTE.ip(),
            remote_port: Some(3260),
        })
    }

    fn data(port: u16, seq: u32, len: u32) -> Header {
        Header {
            from: SocketAddrV4::new(*LOCAL.ip(), port),
            to: REMOTE,
            seq,
            ack: Some(1),
            syn: false,
            rst: false,
            len,
        }
    }

    fn ack(port: u16, ack: u32) -> Header {
        Header {
            from: REMOTE,
            to: SocketAddrV4::new(*LOCAL.ip(), port),
            seq: 1,
            ack: Some(ack),
            syn: false,
            rst: false,
            len: 0,
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_was_sent_and_not_acknowledged_is_in_flight_over_all_connections() {
        let mut flight = flight();
        let syn = |port| Header {
            syn: true,
            ack: None,
            ..data(port, u32::MAX - 500, 0)
        };
        flight.see(ms(0), &syn(1));
        flight.see(ms(0), &syn(2));
        flight.see(ms(1), &data(1, u32::MAX - 499, 1000));
        flight.see(ms(2), &data(2, u32::MAX - 499, 300));
        assert_eq!(flight.in_flight(), 1300);
        // Over the end of the numbers.
        flight.see(ms(3), &ack(1, 200));
        assert_eq!(flight.in_flight(), 600);
        // Sent again, and acknowledged again with less: nothing changes.
        flight.see(ms(13), &data(1, u32::MAX - 499, 1000));
        flight.see(ms(13), &ack(1, 100));
        assert_eq!(flight.in_flight(), 600);
        assert_eq!((flight.segments, flight.resent, flight.bytes), (3, 1, 1300));
        let expected = Worst {
            value: 1300,
            at: ms(2),
        };
        assert_eq!(flight.most, expected);
        let expected = Worst {
            value: 11_000_000,
            at: ms(2),
        };
        assert_eq!(flight.gap, expected);
        let end = Header {
            rst: true,
            ..data(2, 0, 0)
        };
        flight.see(ms(14), &end);
        assert_eq!(flight.in_flight(), 300);
    }

    #[test]
    fn a_connection_counts_from_its_first_acknowledgement_on() {
        let mut flight = flight();
        flight.see(ms(0), &data(1, 5_000, 1000));
        assert_eq!(flight.in_flight(), 0);
        flight.see(ms(1), &ack(1, 2_000));
        assert_eq!(flight.in_flight(), 4000);
        // Of another port, another host.
        let mut other = data(1, 5_000, 1000);
        other.to.set_port(80);
        flight.see(ms(1), &other);
        assert_eq!((flight.in_flight(), flight.flows()), (4000, 1));
    }

    #[test]
    fn a_header_is_read_from_a_frame_that_is_cut_behind_it() {
        let mut frame = vec![0; 14 + 24 + 32];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x46;
        frame[16..18].copy_from_slice(&1500_u16.to_be_bytes());
        frame[23] = 6;
        frame[26..30].copy_from_slice(&LOCAL.ip().octets());
        frame[30..34].copy_from_slice(&REMOTE.ip().octets());
        frame[38..40].copy_from_slice(&LOCAL.port().to_be_bytes());
        frame[40..42].copy_from_slice(&REMOTE.port().to_be_bytes());
        frame[42..46].copy_from_slice(&7_u32.to_be_bytes());
        frame[46..50].copy_from_slice(&9_u32.to_be_bytes());
        frame[50] = 0x80;
        frame[51] = 0x10;
        let expected = Header {
            from: LOCAL,
            to: REMOTE,
            seq: 7,
            ack: Some(9),
            syn: false,
            rst: false,
            len: 1500 - 24 - 32,
        };
        assert_eq!(Header::read(&frame), Some(expected));
        frame[21] = 1;
        assert_eq!(Header::read(&frame), None, "a later fragment");
        frame[21] = 0;
        assert_eq!(Header::read(&frame[..50]), None);
        frame[16..18].copy_from_slice(&40_u16.to_be_bytes());
        assert_eq!(Header::read(&frame), None, "shorter than its headers");
    }
}

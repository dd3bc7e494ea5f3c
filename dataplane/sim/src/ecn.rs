//! The storage's network card as it must be for ECN (RFC 3168): smoltcp, which is behind
//! it, has none. It agrees to what a SYN asks, echoes marks until the relay says that it
//! has slowed down, and lets what smoltcp sends be marked; and it looks whether the relay
//! asks for marks only where it may.
//!
//! Frames are Ethernet, IPv4 without options and TCP, or are left as they are.

use std::collections::BTreeMap;

use sluice_dataplane::checksum;

use crate::random::Random;

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const TCP: usize = ETHERNET_LEN + IPV4_LEN;
const TOS: usize = ETHERNET_LEN + 1;
const FLAGS: usize = TCP + 13;
const CHECKSUM: usize = TCP + 16;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

const NOT_ECT: u8 = 0;
const ECT_0: u8 = 2;
const CE: u8 = 3;

#[derive(Clone, Copy, Debug, Default)]
pub struct EcnCounters {
    pub agreed: u64,
    /// Data of the relay's that came with a mark, and times that it has said so.
    pub marked: u64,
    pub slowed: u64,
    /// Times that the relay has told of marks on what it was sent.
    pub echoed: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    /// Of the SYN that began it.
    isn: u32,
    agreed: bool,
    /// A mark has come that the relay has not answered.
    echo: bool,
    /// The relay has echoed one; the next data says that we slowed down.
    reduced: bool,
}

/// Where a connection of the relay's ends, by its port there.
#[derive(Clone, Debug, Default)]
pub struct Ecn {
    flows: BTreeMap<u16, Flow>,
    pub counters: EcnCounters,
}

fn is_tcp(frame: &[u8]) -> bool {
    frame.len() > FLAGS
        && frame[12..15] == [0x08, 0x00, 0x45]
        && frame[ETHERNET_LEN + 9] == 6
        // A fragment has no header of its own.
        && frame[ETHERNET_LEN + 6] & 0x3f == 0
        && frame[ETHERNET_LEN + 7] == 0
}

fn port(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// The payload's length by the headers (a frame may be padded).
fn payload_len(frame: &[u8]) -> usize {
    let header_len = IPV4_LEN + usize::from(frame[TCP + 12] >> 4) * 4;
    usize::from(port(frame, ETHERNET_LEN + 2)).saturating_sub(header_len)
}

fn set_field(frame: &mut [u8], ecn: u8) {
    frame[TOS] = frame[TOS] & !3 | ecn;
    checksum::fill_ipv4(&mut frame[ETHERNET_LEN..TCP]);
}

fn set_flags(frame: &mut [u8], flags: u8) {
    let word = |frame: &[u8]| port(frame, FLAGS - 1);
    let (old, sum) = (word(frame), port(frame, CHECKSUM));
    frame[FLAGS] = flags;
    let sum = checksum::update(sum, old, word(frame));
    frame[CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
}

/// Whether it is a SYN that asks.
#[must_use]
pub fn asks(frame: &[u8]) -> bool {
    is_tcp(frame) && frame[FLAGS] & (SYN | ACK | ECE | CWR) == SYN | ECE | CWR
}

/// Marks it, as a router that has a queue does: false if it may not be.
pub fn mark(frame: &mut [u8]) -> bool {
    let may = is_tcp(frame) && matches!(frame[TOS] & 3, 1 | 2);
    if may {
        set_field(frame, CE);
    }
    may
}

impl Ecn {
    /// A frame has come from the relay.
    ///
    /// # Panics
    /// If it could have been marked and must not be (RFC 3168 6.1.1, 6.1.4): the relay is
    /// under test.
    pub fn arrives(&mut self, frame: &[u8], agrees: bool) {
        if !is_tcp(frame) {
            return;
        }
        let (from, flags) = (port(frame, TCP), frame[FLAGS]);
        let field = frame[TOS] & 3;
        if flags & SYN != 0 {
            assert_eq!(field, NOT_ECT, "a SYN is not to be marked");
            let isn = u32::from_be_bytes([4, 5, 6, 7].map(|at| frame[TCP + at]));
            let known = self.flows.get(&from).filter(|flow| flow.isn == isn);
            // What the first SYN asked stays agreed on when another comes that does not.
            let agreed = known.is_some_and(|flow| flow.agreed) || asks(frame) && agrees;
            let flow = Flow {
                isn,
                agreed,
                ..Flow::default()
            };
            self.flows.insert(from, flow);
            return;
        }
        let Some(flow) = self.flows.get_mut(&from) else {
            return;
        };
        if !flow.agreed {
            assert_eq!(field, NOT_ECT, "it was not agreed on");
            assert_eq!(flags & (ECE | CWR), 0, "it was not agreed on");
            return;
        }
        if flags & ECE != 0 {
            flow.reduced = true;
            self.counters.echoed += 1;
        }
        if payload_len(frame) == 0 {
            assert_eq!(field, NOT_ECT, "an acknowledgement is not to be marked");
            return;
        }
        if flags & CWR != 0 {
            flow.echo = false;
            self.counters.slowed += 1;
        }
        if field == CE {
            flow.echo = true;
            self.counters.marked += 1;
        }
    }

    /// A frame of the storage's goes out.
    pub fn leaves(&mut self, frame: &mut [u8]) {
        if !is_tcp(frame) {
            return;
        }
        let flow = self.flows.get_mut(&port(frame, TCP + 2));
        let Some(flow) = flow.filter(|flow| flow.agreed) else {
            return;
        };
        let flags = frame[FLAGS];
        if flags & (SYN | ACK) == SYN | ACK {
            self.counters.agreed += 1;
            return set_flags(frame, flags | ECE);
        }
        let mut flags = flags | if flow.echo { ECE } else { 0 };
        if payload_len(frame) > 0 {
            if std::mem::take(&mut flow.reduced) {
                flags |= CWR;
            }
            set_field(frame, ECT_0);
        }
        set_flags(frame, flags);
    }
}

/// What a seed's WAN and its storage do with ECN.
#[derive(Clone, Copy, Debug, Default)]
pub struct EcnPlan {
    /// The storage agrees to it.
    pub agrees: bool,
    /// Of 10,000 frames that may be, so many are marked.
    pub marks: u32,
    /// The path drops a SYN that asks.
    pub drops_asking: bool,
}

impl EcnPlan {
    pub fn draw(random: &mut Random) -> Self {
        Self {
            agrees: random.chance(70),
            marks: [0, 50, 1000, 10_000][random.below(4)],
            drops_asking: random.chance(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_stay_right() {
        let mut frame = vec![0; TCP + 20 + 5];
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[ETHERNET_LEN + 3] = 45;
        frame[ETHERNET_LEN + 9] = 6;
        frame[TCP + 12..][..2].copy_from_slice(&[0x50, SYN | ECE | CWR]);
        let mut ecn = Ecn::default();
        ecn.arrives(&frame, true);
        frame[FLAGS] = ACK;
        frame[TCP + 20..].copy_from_slice(b"bytes");
        // The pseudo-header of no addresses.
        frame[CHECKSUM + 1] = 6 + 25;
        checksum::complete(&mut frame, u16::try_from(TCP).unwrap(), 16).unwrap();
        ecn.flows.get_mut(&0).unwrap().reduced = true;
        ecn.flows.get_mut(&0).unwrap().echo = true;
        ecn.leaves(&mut frame);
        assert_eq!(frame[FLAGS], ACK | ECE | CWR);
        assert_eq!(frame[TOS], ECT_0);
        assert_eq!(checksum::sum(&frame[ETHERNET_LEN..TCP]), 0xffff);
        let sum = u32::from(checksum::sum(&frame[TCP..])) + 6 + 25;
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert!(mark(&mut frame) && !mark(&mut frame.clone()));
        assert_eq!(frame[TOS], CE);
    }
}

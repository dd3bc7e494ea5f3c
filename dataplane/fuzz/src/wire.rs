//! PDUs as a peer puts them on the wire and takes them off it: lengths,
//! padding, digests, and a little damage. Independent of the code under test.

use sluice_sim::site::Pdu;

use crate::source::Source;

pub const RESERVED_TAG: u32 = u32::MAX;
const BHS_LEN: usize = 48;

/// Whether a PDU has a header digest, and a data digest.
pub type Digests = (bool, bool);

/// The PDU with its digests (RFC 7143 11.2.3).
pub fn seal(pdu: &Pdu, (header_digest, data_digest): Digests) -> Vec<u8> {
    let mut bytes = pdu.header.to_vec();
    bytes.extend_from_slice(&pdu.ahs);
    if header_digest {
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
    }
    let begin = bytes.len();
    bytes.extend_from_slice(&pdu.data);
    bytes.resize(begin + pdu.data.len().next_multiple_of(4), 0);
    if data_digest && !pdu.data.is_empty() {
        let crc = crc32c::crc32c(&bytes[begin..]);
        bytes.extend_from_slice(&crc.to_le_bytes());
    }
    bytes
}

/// Up to three bytes of the header become others, one time of four.
pub fn damage_header(source: &mut Source<'_>, pdu: &mut Pdu) {
    let choice = source.byte();
    if choice & 3 == 3 {
        for _ in 0..=choice >> 6 {
            let at = source.below(BHS_LEN);
            pdu.header[at] = source.byte();
        }
    }
}

/// A word of the header; for reading what the code under test has sent.
pub fn word(pdu: &Pdu, at: usize) -> u32 {
    u32::from_be_bytes(pdu.header[at..at + 4].try_into().expect("in the header"))
}

/// Cuts a stream that must be sound into its PDUs.
#[derive(Debug, Default)]
pub struct Framer {
    bytes: Vec<u8>,
    /// For PDUs that begin from now on.
    pub digests: Digests,
    /// Of the one that has begun.
    begun: Option<Digests>,
}

impl Framer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether no PDU is cut off.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// # Panics
    /// If a digest is wrong: the sender is the code under test.
    pub fn next(&mut self) -> Option<Pdu> {
        if self.bytes.is_empty() {
            return None;
        }
        let (header_digest, data_digest) = *self.begun.get_or_insert(self.digests);
        let header: [u8; BHS_LEN] = *self.bytes.first_chunk()?;
        let mut at = BHS_LEN + usize::from(header[4]) * 4;
        let ahs = self.bytes.get(BHS_LEN..at)?.to_vec();
        if header_digest {
            let crc = self.bytes.get(at..at + 4)?;
            assert_eq!(crc, crc32c::crc32c(&self.bytes[..at]).to_le_bytes());
            at += 4;
        }
        let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let data = self.bytes.get(at..at + len)?.to_vec();
        let mut end = at + len.next_multiple_of(4);
        let padded = self.bytes.get(at..end)?;
        if data_digest && len > 0 {
            let crc = self.bytes.get(end..end + 4)?;
            assert_eq!(crc, crc32c::crc32c(padded).to_le_bytes());
            end += 4;
        }
        self.bytes.drain(..end);
        self.begun = None;
        Some(Pdu { header, ahs, data })
    }
}

/// Serial numbers (RFC 1982): whether `a` comes after `b`.
pub const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

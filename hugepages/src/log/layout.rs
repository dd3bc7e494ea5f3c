//! Where every byte of the log stands, and how words become headers.
//!
//! What always holds: format and check live here and nowhere else; a header
//! that decodes has all its lengths and indexes inside its segment. All
//! integers are little-endian words of 64 bits, so that one store changes one.
//!
//! Not for: what is done with records ([`super`]), rows' contents ([`super::rows`]).
//!
//! ```text
//! REGION: whole segments of 2 MiB
//! +---------------------------+-------------+-------------+-- ... --+
//! | directory, d segments     | segment d   | segment d+1 |         |
//! +---------------------------+-------------+-------------+-- ... --+
//!
//! DIRECTORY
//! offset 0        4096
//! +---------------+-----------------------------+--------------------------------+
//! | superblock    | volume rows, 1 KiB each     | nexus rows, 1 KiB each         |
//! +---------------+-----------------------------+--------------------------------+
//!
//! SUPERBLOCK, 64 bytes, and two words behind it; the rest of its page is zero
//! word 0  magic "SLUICLOG"; stored last
//!      1  version (32) | record header bytes (16) | header pages a segment (16)
//!      2  segments in all (32) | directory segments (32)
//!      3  volume rows (32) | nexus rows (32)
//!    4-6  zero
//!      7  CRC32C of words 0 to 6 (32) | zero (32)
//!      8  PAIRING: journal id (32) | CRC32C of it, begun from 1: being filled from
//!         that journal, from 2: goes with it, from 3: that journal is being
//!         filled from the log (32); any other word: with none
//!      9  END: "SLUICEND" when its last user ended in good order; any other word
//!         when it did not, or the log is in use
//!
//! ROW: two copies of 512 bytes, written one behind the other: an update leaves the
//! old one whole until the new one is, and one copy is enough when the other rots
//! word 0  generation, stored last; 0: never written
//!      1  CRC32C (32) | zero (24) | live (8)
//!   2-63  body (`rows`)
//! The CRC32C is of: offset in the region, generation, live, body.
//! The row is what the valid copy of the higher generation says.
//!
//! BODY OF A VOLUME'S ROW (byte: field; names are padded with zero, as is the body)
//!   0  target name: bytes (2), name (224)
//! 226  storage: IPv4 address as on the wire (4), port (2)
//! 232  LUN (8), as SAM-5 4.7 has its bytes, the first one highest
//! 240  blocks (8)
//! 248  bytes a block (4)
//! 252  flags (4): 1 refuses writes, 2 write-through, 4 reserved, 8 damaged
//!
//! BODY OF A NEXUS'S ROW
//!   0  initiator name: bytes (2), name (224)
//! 226  target name: bytes (2), name (224)
//! 452  storage: address (4), port (2)
//! 458  computer: address (4), port (2)
//! 464  ISID of the computer (6)
//! 470  ISID of the relay towards the storage (6)
//!
//! SEGMENT: 512 pages of 4 KiB
//! page 0                                   7   8                            511
//! +----------------+--------+-- ... --------+-----------------------------------+
//! | segment header | record headers 1 .. 511 | payload pages                     |
//! +----------------+--------+-- ... --------+-----------------------------------+
//!   64 bytes         64 bytes each
//!
//! LIFE: a word that one store changes, with a checksum of its own, so that a bit that
//! turns over in it does not make it say something else (`Life`); 0: never written
//!         state (8) | check (16) | generation (40)
//!
//! SEGMENT HEADER
//! word 0  LIFE, stored last: state 1 free, 2 claimed; one never written is free
//!      1  volume (16) | worker (8) | zero (40)
//!    2-6  zero
//!      7  CRC32C of: segment, generation, words 1 to 6 (32) | zero (32)
//!
//! RECORD HEADER
//! word 0  LIFE, stored last: state 1 prepared, 2 committed, 3 freed
//!      1  LBA of the first block
//!      2  epoch
//!      3  sequence
//!      4  volume (16) | first page (16) | payload bytes (32)
//!      5  payload CRC32C (32) | zero (8) | parts (8) | part (8) | flags (8)
//!      6  zero
//!      7  CRC32C of: segment, slot, generation, words 1 to 6 (32) | zero (32)
//! (Fields are listed from the high bits down.)
//! ```
//!
//! A record header counts only while its generation is its segment's, so
//! recycling a segment is one store and clears nothing.

use super::{Damage, DamageKind, RECORD_LEN_MAX, RecordFlags, VolumeId, WRITE_PARTS_MAX};
use crate::region::HUGEPAGE_LEN;

/// "SLUICLOG" as the bytes stand in memory.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"SLUICLOG");
/// The one version that this code reads and writes.
pub(super) const VERSION: u32 = 2;

pub(super) const SEGMENT_LEN: usize = HUGEPAGE_LEN;
pub(super) const PAGE_LEN: usize = 4096;
pub(super) const HEADER_LEN: usize = 64;
pub(super) const HEADER_WORDS: usize = HEADER_LEN / 8;
pub(super) const SEGMENT_PAGES: usize = SEGMENT_LEN / PAGE_LEN;
/// A header a payload page at least, since a record has one page at least:
/// 504 of them, and the segment's own, need 7.9 pages.
pub(super) const HEADER_PAGES: usize = 8;
pub(super) const PAYLOAD_PAGES: usize = SEGMENT_PAGES - HEADER_PAGES;
/// Header slots, the segment's own (slot 0) included.
pub(super) const SLOTS: usize = HEADER_PAGES * PAGE_LEN / HEADER_LEN;
const _: () = assert!(SLOTS > PAYLOAD_PAGES);

pub(super) const ROW_COPY_LEN: usize = 512;
pub(super) const ROW_LEN: usize = 2 * ROW_COPY_LEN;
/// Bytes of a row's body.
pub const ROW_BODY_LEN: usize = ROW_COPY_LEN - 16;

/// The word behind the superblock that says which journal the log goes with.
pub(super) const PAIRING_OFFSET: usize = HEADER_LEN;

/// The word behind that one that says how the log's last user ended.
pub(super) const END_OFFSET: usize = PAIRING_OFFSET + 8;
pub(super) const END_CLEAN: u64 = u64::from_le_bytes(*b"SLUICEND");

/// A directory segment for every so many in the region, so that a large log,
/// which serves more computers, has more rows.
const SEGMENTS_PER_DIRECTORY: usize = 64;
/// 16 x 2048 rows; a quarter of them is what a `VolumeId` can number.
const DIRECTORY_SEGMENTS_MAX: usize = 16;
/// Of the rows, one in so many is a volume's; a volume has several nexuses.
const ROWS_PER_VOLUME: usize = 4;

/// The sizes that follow from the region's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub segments: usize,
    pub directory_segments: usize,
    pub volume_rows: usize,
    pub nexus_rows: usize,
}

impl Geometry {
    /// `None` when there would be no segment for records.
    pub fn of(region_len: usize) -> Option<Geometry> {
        let segments = region_len / SEGMENT_LEN;
        let directory_segments =
            (segments / SEGMENTS_PER_DIRECTORY).clamp(1, DIRECTORY_SEGMENTS_MAX);
        let rows = (directory_segments * SEGMENT_LEN - PAGE_LEN) / ROW_LEN;
        let volume_rows = rows / ROWS_PER_VOLUME;
        let nexus_rows = rows - volume_rows;
        (segments > directory_segments && u32::try_from(segments * SLOTS).is_ok()).then_some(
            Geometry {
                segments,
                directory_segments,
                volume_rows,
                nexus_rows,
            },
        )
    }

    /// Offset of a volume's row.
    pub fn volume_row(&self, row: usize) -> usize {
        PAGE_LEN + row * ROW_LEN
    }

    /// Offset of a nexus's row.
    pub fn nexus_row(&self, row: usize) -> usize {
        PAGE_LEN + (self.volume_rows + row) * ROW_LEN
    }

    /// The words of the superblock.
    pub fn superblock(&self) -> [u64; HEADER_WORDS] {
        let pair = |high: usize, low: usize| (high as u64) << 32 | low as u64;
        let mut words = [0; HEADER_WORDS];
        words[0] = MAGIC;
        words[1] = u64::from(VERSION) << 32 | (HEADER_LEN as u64) << 16 | HEADER_PAGES as u64;
        words[2] = pair(self.segments, self.directory_segments);
        words[3] = pair(self.volume_rows, self.nexus_rows);
        words[7] = superblock_crc(&words);
        words
    }
}

pub(super) fn superblock_crc(words: &[u64; HEADER_WORDS]) -> u64 {
    checksum(&words[..7])
}

/// The version that a superblock claims.
pub(super) fn superblock_version(words: &[u64; HEADER_WORDS]) -> u32 {
    high(words[1])
}

/// The number of segments that a superblock claims.
pub(super) fn superblock_segments(words: &[u64; HEADER_WORDS]) -> usize {
    high(words[2]) as usize
}

/// First byte of a header.
pub(super) fn slot_offset(segment: usize, slot: usize) -> usize {
    segment * SEGMENT_LEN + slot * HEADER_LEN
}

/// First byte of a page.
pub(super) fn page_offset(segment: usize, page: usize) -> usize {
    segment * SEGMENT_LEN + page * PAGE_LEN
}

/// Pages that `len` bytes of payload take.
pub(super) fn pages_of(len: usize) -> usize {
    len.div_ceil(PAGE_LEN)
}

/// A state beside the generation of the segment's life, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub state: u8,
    /// 40 bits: at a life a millisecond, 34 years.
    pub generation: u64,
}

pub(super) const SEGMENT_FREE: u8 = 1;
pub(super) const SEGMENT_CLAIMED: u8 = 2;

pub(super) const PREPARED: u8 = 1;
pub(super) const COMMITTED: u8 = 2;
pub(super) const FREED: u8 = 3;

impl Life {
    pub const GENERATION_MASK: u64 = (1 << 40) - 1;
    /// What stands where nothing was ever written.
    pub const NONE: Life = Life::new(0, 0);

    pub const fn new(state: u8, generation: u64) -> Life {
        Life {
            state,
            generation: generation & Life::GENERATION_MASK,
        }
    }

    pub fn encode(self) -> u64 {
        if self == Life::NONE {
            return 0;
        }
        u64::from(self.state) << 56 | u64::from(self.check()) << 40 | self.generation
    }

    /// `None`: no store of this release left this word; something in it has
    /// turned over (A-23).
    pub fn decode(word: u64) -> Option<Life> {
        let life = Life::new(byte(word, 56), word);
        (life.encode() == word).then_some(life)
    }

    /// Any one or two bits of the word that turn over are noticed: a test tries them.
    fn check(self) -> u16 {
        let word = u64::from(self.state) << 56 | self.generation;
        let [a, b, c, d] = crc32c::crc32c(&word.to_le_bytes()).to_le_bytes();
        u16::from_le_bytes([a ^ c, b ^ d])
    }
}

/// A segment's header but its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub volume: VolumeId,
    pub worker: u8,
}

impl SegmentHeader {
    pub fn encode(self, segment: usize, life: Life) -> [u64; HEADER_WORDS] {
        let mut words = [0; HEADER_WORDS];
        words[1] = u64::from(self.volume.0) << 48 | u64::from(self.worker) << 40;
        words[7] = placed_crc(&words, segment, 0, life.generation);
        words[0] = life.encode();
        words
    }

    /// `None` when the words are not what a claim wrote.
    pub fn decode(
        words: &[u64; HEADER_WORDS],
        segment: usize,
        generation: u64,
    ) -> Option<SegmentHeader> {
        let header = SegmentHeader {
            volume: VolumeId((words[1] >> 48) as u16),
            worker: byte(words[1], 40),
        };
        (words[7] == placed_crc(words, segment, 0, generation)).then_some(header)
    }
}

/// A record's header but its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub volume: VolumeId,
    pub lba: u64,
    pub epoch: u64,
    pub sequence: u64,
    pub len: u32,
    pub first_page: u16,
    pub flags: RecordFlags,
    pub part: u8,
    pub parts: u8,
    pub payload_crc: u32,
}

impl RecordHeader {
    pub fn encode(&self, segment: usize, slot: usize, life: Life) -> [u64; HEADER_WORDS] {
        let mut words = [
            life.encode(),
            self.lba,
            self.epoch,
            self.sequence,
            u64::from(self.volume.0) << 48 | u64::from(self.first_page) << 32 | u64::from(self.len),
            u64::from(self.payload_crc) << 32
                | u64::from(self.parts) << 16
                | u64::from(self.part) << 8
                | u64::from(self.flags.0),
            0,
            0,
        ];
        words[7] = placed_crc(&words, segment, slot, life.generation);
        words
    }

    /// Reads a header found in memory in this life of its segment, all of whose
    /// fields are hostile until checked. What is known of a bad one comes back
    /// with its fault.
    pub fn decode(
        words: &[u64; HEADER_WORDS],
        segment: usize,
        slot: usize,
        generation: u64,
    ) -> Result<RecordHeader, Damage> {
        let header = RecordHeader {
            volume: VolumeId((words[4] >> 48) as u16),
            lba: words[1],
            epoch: words[2],
            sequence: words[3],
            len: low(words[4]),
            first_page: (words[4] >> 32 & 0xffff) as u16,
            flags: RecordFlags(byte(words[5], 0)),
            part: byte(words[5], 8),
            parts: byte(words[5], 16),
            payload_crc: high(words[5]),
        };
        let kind = if Life::decode(words[0]).is_none() {
            DamageKind::Life
        } else if words[7] != placed_crc(words, segment, slot, generation) {
            DamageKind::HeaderChecksum
        } else if header.len == 0 || header.len as usize > RECORD_LEN_MAX {
            DamageKind::Length
        } else if usize::from(header.first_page) < HEADER_PAGES || header.end_page() > SEGMENT_PAGES
        {
            DamageKind::Pages
        } else if header.part >= header.parts || usize::from(header.parts) > WRITE_PARTS_MAX {
            DamageKind::Parts
        } else {
            return Ok(header);
        };
        Err(header.damage(kind, segment, slot))
    }

    pub fn pages(&self) -> usize {
        pages_of(self.len as usize)
    }

    pub fn end_page(&self) -> usize {
        usize::from(self.first_page) + self.pages()
    }

    /// What is known of a record with a fault.
    pub fn damage(&self, kind: DamageKind, segment: usize, slot: usize) -> Damage {
        Damage {
            kind,
            segment,
            slot: Some(slot),
            volume: Some(self.volume),
            epoch: self.epoch,
            sequence: self.sequence,
            lba: self.lba,
            len: self.len,
        }
    }
}

/// The checksum of a header where it stands and in the life it was written in,
/// so that a stale or misplaced one does not pass for another.
fn placed_crc(words: &[u64; HEADER_WORDS], segment: usize, slot: usize, generation: u64) -> u64 {
    let mut placed = [0; 8];
    placed[0] = (segment as u64) << 32 | slot as u64;
    placed[1] = generation;
    placed[2..].copy_from_slice(&words[1..7]);
    checksum(&placed)
}

fn checksum(words: &[u64]) -> u64 {
    let mut bytes = [0; 64];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    u64::from(crc32c::crc32c(&bytes[..words.len() * 8])) << 32
}

#[expect(clippy::cast_possible_truncation, reason = "takes the low half")]
pub(super) const fn low(word: u64) -> u32 {
    word as u32
}

pub(super) const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "takes one byte")]
const fn byte(word: u64, shift: u32) -> u8 {
    (word >> shift) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Words at one and at two bits from this one.
    fn neighbours(word: u64) -> impl Iterator<Item = u64> {
        let pairs = (0..64).flat_map(|a| (0..64).map(move |b| (a, b)));
        pairs.map(move |(a, b)| word ^ (1 << a | 1 << b))
    }

    #[test]
    fn nothing_that_is_nearly_zero_is_a_life() {
        for word in neighbours(0) {
            assert_eq!(Life::decode(word), None, "{word:#x}");
        }
    }

    proptest! {
        #[test]
        fn one_or_two_bits_that_turn_over_in_a_life_are_noticed(
            state in 1..=FREED,
            generation in 0..=Life::GENERATION_MASK,
        ) {
            let life = Life::new(state, generation);
            let word = life.encode();
            prop_assert_eq!(Life::decode(word), Some(life));
            for near in neighbours(word) {
                prop_assert_eq!(Life::decode(near), None, "{:#x}", near);
            }
        }
    }
}

//! Where every byte of the journal stands, and how blocks become entries.
//!
//! What always holds: format and check live here and nowhere else; whatever is
//! read is hostile until its checksum, its place and its run agree; an entry
//! that decodes lies inside its block. All integers are little-endian words of
//! 64 bits; `a (32) | b (32)` has `a` in the high half.
//!
//! Not for: what is written when (the data plane's), or found ([`super::replay`]).
//!
//! ```text
//! FILE OR DEVICE: blocks of 4 KiB
//! +----------+----------+--------------------------------------------------+
//! | header A | header B | area: groups, one behind the other, round and round |
//! +----------+----------+--------------------------------------------------+
//! An address counts blocks of the area and never wraps; it stands in block
//! 2 + address modulo area. A group may go on at the area's first block.
//!
//! HEADER: two copies, written in turns; the valid one of the higher serial counts
//! word 0  magic "SLUICJNL"
//!      1  version (32) | state (32): 1 in use, 2 void (nothing in it is replayed)
//!      2  journal id (32) | run (32): grows by one each time the journal is opened
//!      3  serial
//!      4  area, in blocks
//!      5  tail: address of the oldest group that a replay needs
//!      6  tail: its number
//!      7  this run: address of its first group
//!      8  this run: number of its first group
//!      9  CRC32C of words 0 to 8 (32) | zero (32)
//! The rest of the block is zero.
//!
//! GROUP: a head block, then the payload of its write entries in their order,
//! each from a block's beginning
//! +------+-------------------+-------------------+--
//! | head | payload, 1-256 bl.| payload           | ...
//! +------+-------------------+-------------------+--
//!
//! HEAD
//! word 0  magic "SLJGROUP"
//!      1  CRC32C (32) of the block, these 32 bits zero | zero (16) | units used (16)
//!      2  journal id (32) | run (32)
//!      3  group number; one more than the group's before
//!      4  address
//!      5  zero (32) | blocks (32), the head's own included
//!    6-7  zero
//!      8  entries, in units of 16 bytes, 252 at most
//!
//! WRITE ENTRY, 3 units
//! word 0  volume (16) | zero (16) | parts (8) | part (8) | flags (8) | kind (8) = 1
//!      1  payload CRC32C (32) | payload bytes (32)
//!      2  LBA of the first block
//!      3  epoch
//!      4  sequence
//!      5  zero (62) | damaged before it came here (1) | with it, the parts of its
//!         write that are here are all there are (1)
//!
//! FREE ENTRY, 1 unit: the record of that name is gone
//! word 0  volume (16) | zero (24) | part (8) | zero (8) | kind (8) = 2
//!      1  sequence
//!
//! ROW ENTRY, 32 units, or 1 for a row that is gone
//! word 0  row (16) | zero (32) | live (8) | kind (8) = 3 volume, 4 nexus
//!      1  zero
//!      2  body, 496 bytes, as in the write log's directory
//! ```
//!
//! One group is written at a time, and the next only when it is durable; so
//! every group but the last is whole, and the last was acknowledged by nobody
//! unless it is whole too. A group of an earlier run behind the place where
//! this run began is a leftover, whatever its number.

use sluice_hugepages::log::{RECORD_LEN_MAX, ROW_BODY_LEN, WRITE_PARTS_MAX};

/// Bytes of a block, the unit of everything here and of O_DIRECT.
pub const BLOCK_LEN: usize = 4096;
/// Blocks before the area.
pub const HEADER_BLOCKS: u64 = 2;
/// The one version that this code reads and writes.
pub const VERSION: u32 = 1;
/// Blocks of the longest record's payload.
pub const RECORD_BLOCKS_MAX: u64 = (RECORD_LEN_MAX / BLOCK_LEN) as u64;

const MAGIC: u64 = u64::from_le_bytes(*b"SLUICJNL");
const HEAD_MAGIC: u64 = u64::from_le_bytes(*b"SLJGROUP");
/// Addresses, group numbers and serials end below this, which no journal reaches in
/// its life: sums of two of them do not overflow.
const COUNT_MAX: u64 = 1 << 56;
const IN_USE: u32 = 1;
const VOID: u32 = 2;

const UNIT_LEN: usize = 16;
const HEAD_LEN: usize = 64;
/// Units of entries that a head holds.
pub const UNITS_MAX: usize = (BLOCK_LEN - HEAD_LEN) / UNIT_LEN;
const WRITE_UNITS: usize = 3;
/// Writes that a head has room to name.
pub const HEAD_WRITES_MAX: usize = UNITS_MAX / WRITE_UNITS;
const ROW_UNITS: usize = 1 + ROW_BODY_LEN / UNIT_LEN;
const _: () = assert!(ROW_BODY_LEN.is_multiple_of(UNIT_LEN));

const WRITE: u8 = 1;
const FREE: u8 = 2;
const VOLUME_ROW: u8 = 3;
const NEXUS_ROW: u8 = 4;

/// A block's bytes, aligned as O_DIRECT wants them.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Block(pub [u8; BLOCK_LEN]);

impl Block {
    pub const ZERO: Block = Block([0; BLOCK_LEN]);

    fn word(&self, index: usize) -> u64 {
        let bytes = self.0[index * 8..].first_chunk();
        u64::from_le_bytes(*bytes.expect("the caller's index is inside the block"))
    }

    fn set(&mut self, index: usize, word: u64) {
        self.0[index * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
}

/// An address with the number of the group that begins there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub address: u64,
    pub group: u64,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub id: u32,
    pub run: u32,
    pub serial: u64,
    /// Blocks of the area.
    pub area: u64,
    pub tail: Mark,
    /// Where the current run began.
    pub run_start: Mark,
    /// Nothing in the journal is to be replayed: it was given up, durably.
    pub void: bool,
}

/// What is wrong with a header's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// All zero: never written.
    Blank,
    Foreign {
        begins: u64,
    },
    Version {
        found: u32,
    },
    Checksum,
}

impl Header {
    /// The copy that this serial is written to: block 0 or 1.
    pub fn place(&self) -> u64 {
        self.serial % HEADER_BLOCKS
    }

    pub fn encode(&self) -> Block {
        let mut block = Block::ZERO;
        block.set(0, MAGIC);
        block.set(1, pair(VERSION, if self.void { VOID } else { IN_USE }));
        block.set(2, pair(self.id, self.run));
        block.set(3, self.serial);
        block.set(4, self.area);
        block.set(5, self.tail.address);
        block.set(6, self.tail.group);
        block.set(7, self.run_start.address);
        block.set(8, self.run_start.group);
        let crc = crc32c::crc32c(&block.0[..72]);
        block.set(9, pair(crc, 0));
        block
    }

    /// # Errors
    /// [`HeaderFault`]: it is none, or of another version.
    pub fn decode(block: &Block) -> Result<Header, HeaderFault> {
        if block.0.iter().all(|&byte| byte == 0) {
            return Err(HeaderFault::Blank);
        }
        if block.word(0) != MAGIC {
            let begins = block.word(0).swap_bytes();
            return Err(HeaderFault::Foreign { begins });
        }
        // Before the checksum: another version may have another one.
        if high(block.word(1)) != VERSION {
            let found = high(block.word(1));
            return Err(HeaderFault::Version { found });
        }
        let mark = |at: usize| Mark {
            address: block.word(at),
            group: block.word(at + 1),
        };
        let header = Header {
            id: high(block.word(2)),
            run: low(block.word(2)),
            serial: block.word(3),
            area: block.word(4),
            tail: mark(5),
            run_start: mark(7),
            void: low(block.word(1)) == VOID,
        };
        let sound = high(block.word(9)) == crc32c::crc32c(&block.0[..72])
            && matches!(low(block.word(1)), IN_USE | VOID)
            && header.run < u32::MAX
            && [header.serial, header.area, header.tail.address, header.tail.group]
                .iter()
                .chain(&[header.run_start.address, header.run_start.group])
                .all(|&count| count < COUNT_MAX)
            && header.area > 0
            // The tail goes past the run's beginning in time.
            && header.run_start.address.saturating_sub(header.tail.address) <= header.area;
        sound.then_some(header).ok_or(HeaderFault::Checksum)
    }
}

/// The name of a record in the journal. A name may be used again after a free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub volume: u16,
    pub sequence: u64,
    pub part: u8,
}

/// A record as the journal keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteEntry {
    pub identity: Identity,
    pub parts: u8,
    /// The log's flags of the record.
    pub flags: u8,
    pub epoch: u64,
    pub lba: u64,
    /// Bytes of payload, at most [`RECORD_LEN_MAX`].
    pub len: u32,
    pub payload_crc: u32,
    /// With it the parts of its write that the journal has are all there are of it: they
    /// have been here before, or the log has no others any more. The last part says so
    /// by its number.
    pub completes: bool,
    /// Its payload was not what the checksum says when it was written here: damage
    /// that a group is whole with, and that is told like any other (A-23).
    pub damaged: bool,
}

impl WriteEntry {
    /// Blocks of payload.
    pub fn blocks(&self) -> u64 {
        u64::from(self.len).div_ceil(BLOCK_LEN as u64)
    }
}

/// Which of the log's directories a row is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowTable {
    Volume,
    Nexus,
}

/// A row's bytes as they stand in the log's directory.
pub type RowBody = [u8; ROW_BODY_LEN];

/// An entry of a group's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Write(WriteEntry),
    Free(Identity),
    /// `None`: the row is gone.
    Row(RowTable, u16, Option<Box<RowBody>>),
}

impl Entry {
    /// Units it takes in a head.
    pub fn units(&self) -> usize {
        match self {
            Entry::Write(_) => WRITE_UNITS,
            Entry::Free(_) | Entry::Row(_, _, None) => 1,
            Entry::Row(_, _, Some(_)) => ROW_UNITS,
        }
    }

    /// Blocks of payload behind the head.
    pub fn blocks(&self) -> u64 {
        match self {
            Entry::Write(write) => write.blocks(),
            Entry::Free(_) | Entry::Row(..) => 0,
        }
    }
}

/// A head that is being filled.
#[derive(Debug)]
pub struct HeadWriter<'a> {
    block: &'a mut Block,
    units: usize,
    blocks: u64,
}

impl<'a> HeadWriter<'a> {
    pub fn new(block: &'a mut Block) -> Self {
        block.0.fill(0);
        Self {
            block,
            units: 0,
            blocks: 1,
        }
    }

    pub fn units_left(&self) -> usize {
        UNITS_MAX - self.units
    }

    /// Blocks so far, the head's own included.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    pub fn is_empty(&self) -> bool {
        self.units == 0
    }

    /// # Panics
    /// When it does not fit: the caller has looked at [`HeadWriter::units_left`].
    pub fn push(&mut self, entry: &Entry) {
        assert!(entry.units() <= self.units_left(), "a head is full");
        let at = (HEAD_LEN + self.units * UNIT_LEN) / 8;
        match entry {
            Entry::Write(write) => {
                let Identity {
                    volume,
                    sequence,
                    part,
                } = write.identity;
                let word = u64::from(volume) << 48
                    | u64::from(write.parts) << 24
                    | u64::from(part) << 16
                    | u64::from(write.flags) << 8
                    | u64::from(WRITE);
                self.block.set(at, word);
                self.block.set(at + 1, pair(write.payload_crc, write.len));
                self.block.set(at + 2, write.lba);
                self.block.set(at + 3, write.epoch);
                self.block.set(at + 4, sequence);
                let bits = u64::from(write.completes) | u64::from(write.damaged) << 1;
                self.block.set(at + 5, bits);
            }
            Entry::Free(identity) => {
                let word = u64::from(identity.volume) << 48
                    | u64::from(identity.part) << 16
                    | u64::from(FREE);
                self.block.set(at, word);
                self.block.set(at + 1, identity.sequence);
            }
            Entry::Row(table, row, body) => {
                let kind = match table {
                    RowTable::Volume => VOLUME_ROW,
                    RowTable::Nexus => NEXUS_ROW,
                };
                let word = u64::from(*row) << 48 | u64::from(body.is_some()) << 8 | u64::from(kind);
                self.block.set(at, word);
                if let Some(body) = body {
                    self.block.0[(at + 2) * 8..][..ROW_BODY_LEN].copy_from_slice(&body[..]);
                }
            }
        }
        self.units += entry.units();
        self.blocks += entry.blocks();
    }

    /// Writes the head's own words, the checksum last.
    pub fn finish(self, id: u32, run: u32, at: Mark) {
        let block = self.block;
        block.set(0, HEAD_MAGIC);
        block.set(1, self.units as u64);
        block.set(2, pair(id, run));
        block.set(3, at.group);
        block.set(4, at.address);
        block.set(5, self.blocks);
        let crc = crc32c::crc32c(&block.0);
        block.set(1, u64::from(crc) << 32 | self.units as u64);
    }
}

/// A head that was read, with what it says of itself.
#[derive(Debug)]
pub struct Head<'a> {
    pub id: u32,
    pub run: u32,
    pub at: Mark,
    /// Blocks of the group, the head's own included.
    pub blocks: u64,
    block: &'a Block,
    units: usize,
}

impl<'a> Head<'a> {
    /// `None` when the block is no head with a sound checksum.
    pub fn decode(block: &'a Block) -> Option<Head<'a>> {
        if block.word(0) != HEAD_MAGIC {
            return None;
        }
        let mut zeroed = block.clone();
        zeroed.set(1, block.word(1) & 0xffff_ffff);
        if crc32c::crc32c(&zeroed.0) != high(block.word(1)) {
            return None;
        }
        let head = Head {
            id: high(block.word(2)),
            run: low(block.word(2)),
            at: Mark {
                address: block.word(4),
                group: block.word(3),
            },
            blocks: block.word(5),
            block,
            units: (block.word(1) & 0xffff) as usize,
        };
        (head.units <= UNITS_MAX).then_some(head)
    }

    /// The entries in their order; `None` if one is none that this version
    /// writes, or their payload is not as long as the head says.
    pub fn entries(&self) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        let (mut unit, mut blocks) = (0, 1);
        while unit < self.units {
            let entry = self.entry(unit)?;
            unit += entry.units();
            blocks += entry.blocks();
            entries.push(entry);
        }
        (unit == self.units && blocks == self.blocks).then_some(entries)
    }

    fn entry(&self, unit: usize) -> Option<Entry> {
        let at = (HEAD_LEN + unit * UNIT_LEN) / 8;
        let left = self.units - unit;
        let word = self.block.word(at);
        let identity = |sequence: u64| Identity {
            volume: (word >> 48) as u16,
            sequence,
            part: byte(word, 16),
        };
        match byte(word, 0) {
            WRITE if left >= WRITE_UNITS => {
                let sizes = self.block.word(at + 1);
                let bits = self.block.word(at + 5);
                let write = WriteEntry {
                    identity: identity(self.block.word(at + 4)),
                    parts: byte(word, 24),
                    flags: byte(word, 8),
                    epoch: self.block.word(at + 3),
                    lba: self.block.word(at + 2),
                    len: low(sizes),
                    payload_crc: high(sizes),
                    completes: bits & 1 != 0,
                    damaged: bits & 2 != 0,
                };
                let sound = bits < 4
                    && (1..=RECORD_LEN_MAX).contains(&(write.len as usize))
                    && write.identity.part < write.parts
                    && usize::from(write.parts) <= WRITE_PARTS_MAX;
                sound.then_some(Entry::Write(write))
            }
            FREE => Some(Entry::Free(identity(self.block.word(at + 1)))),
            kind @ (VOLUME_ROW | NEXUS_ROW) => {
                let table = match kind {
                    VOLUME_ROW => RowTable::Volume,
                    _ => RowTable::Nexus,
                };
                let row = (word >> 48) as u16;
                let body = match byte(word, 8) {
                    0 => None,
                    _ if left < ROW_UNITS => return None,
                    _ => {
                        let bytes = self.block.0[(at + 2) * 8..].first_chunk();
                        Some(Box::new(*bytes.expect("its units are inside the block")))
                    }
                };
                Some(Entry::Row(table, row, body))
            }
            _ => None,
        }
    }
}

const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[expect(clippy::cast_possible_truncation, reason = "takes the low half")]
const fn low(word: u64) -> u32 {
    word as u32
}

const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "takes one byte")]
const fn byte(word: u64, shift: u32) -> u8 {
    (word >> shift) as u8
}

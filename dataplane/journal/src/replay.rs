//! What a start finds in a journal: the records and rows that it still holds.
//!
//! What always holds: the walk begins at the durable tail and goes from group
//! to group while number, address, run and checksum are the ones expected, so
//! it ends, and no byte of an earlier life is taken for one of this. The last
//! group counts only if its payloads are whole, since nobody was told of it
//! otherwise. A group that is missing before one that is there is damage, and
//! said so: something acknowledged is in it.
//!
//! Not for: putting the records back into the log (the data plane's); the
//! payloads of older groups, whose checksums are looked at when they are used.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use sluice_proto::mutation::{Mutation, planted};

use super::GROUP_BLOCKS_MAX;
use super::error::JournalError;
use super::layout::{
    BLOCK_LEN, Block, Entry, HEADER_BLOCKS, Head, Header, HeaderFault, Identity, Mark, RowBody,
    RowTable, WriteEntry,
};

/// Blocks that can be read; a file, a device, or a model of one.
pub trait Blocks {
    /// Blocks in all.
    fn blocks(&self) -> u64;

    /// Fills `into` from block `first` on. They are inside, the caller has looked.
    ///
    /// # Errors
    /// The device's.
    fn read(&mut self, first: u64, into: &mut [Block]) -> io::Result<()>;
}

/// A record that the journal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub entry: WriteEntry,
    /// Address of the first block of its payload.
    pub payload: u64,
    /// The group it stands in.
    pub group: u64,
}

/// A row that the journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRow {
    pub body: Box<RowBody>,
    pub group: u64,
}

/// Everything that counts between the tail and the end.
#[derive(Debug)]
pub struct Replay {
    pub header: Header,
    /// Where the next group goes.
    pub next: Mark,
    /// Address and blocks of the groups, from the header's tail on.
    pub groups: Vec<(u64, u64)>,
    /// In order of volume, then of arrival.
    pub records: BTreeMap<Identity, Kept>,
    /// Parts of a write whose last part never came: never acknowledged.
    pub incomplete: Vec<Identity>,
    pub rows: BTreeMap<(RowTable, u16), KeptRow>,
}

/// What stands on a device.
#[derive(Debug)]
pub enum Found {
    /// Nothing, or a format that was interrupted.
    Blank,
    Journal(Box<Replay>),
}

/// Reads a journal.
///
/// # Errors
/// Foreign, of another version, of another size, damaged: nothing was changed.
pub fn replay(disk: &mut impl Blocks) -> Result<Found, JournalError> {
    let Some(header) = read_header(disk)? else {
        return Ok(Found::Blank);
    };
    let expected = header.area + HEADER_BLOCKS;
    if disk.blocks() < expected {
        let found = disk.blocks();
        return Err(JournalError::Truncated { found, expected });
    }
    let mut replay = Replay {
        header,
        next: header.tail,
        groups: Vec::new(),
        records: BTreeMap::new(),
        incomplete: Vec::new(),
        rows: BTreeMap::new(),
    };
    if header.void {
        return Ok(Found::Journal(Box::new(replay)));
    }
    let mut window = Window::new(disk, header.area);
    let mut whole = BTreeSet::new();
    // One behind: a group is taken when the next one shows that it was durable.
    let mut last: Option<(usize, Vec<Entry>)> = None;
    while let Some((entries, blocks)) = read_group(&mut window, &header, replay.next)? {
        if let Some((index, entries)) = last.replace((replay.groups.len(), entries)) {
            replay.take(index, &entries, &mut whole);
        }
        replay.groups.push((replay.next.address, blocks));
        replay.next = Mark {
            address: replay.next.address + blocks,
            group: replay.next.group + 1,
        };
    }
    if let Some((index, entries)) = last {
        let (address, blocks) = replay.groups[index];
        // A start has counted on what is older than its run: that was not torn.
        if replay.next.group <= header.run_start.group
            || payloads_agree(&mut window, address, &entries)?
        {
            replay.take(index, &entries, &mut whole);
        } else {
            replay.groups.pop();
            replay.next = Mark {
                address: replay.next.address - blocks,
                group: replay.next.group - 1,
            };
        }
    }
    if replay.next.group < header.run_start.group {
        return Err(JournalError::Hole {
            block: block_of(replay.next.address, header.area),
            group: replay.next.group,
            later: header.run_start.group,
        });
    }
    look_behind(&mut window, &header, replay.next)?;
    replay.drop_incomplete(&whole);
    Ok(Found::Journal(Box::new(replay)))
}

/// The valid header of the higher serial; `None` when there never was one.
fn read_header(disk: &mut impl Blocks) -> Result<Option<Header>, JournalError> {
    if disk.blocks() <= HEADER_BLOCKS {
        return Err(JournalError::Truncated {
            found: disk.blocks(),
            expected: HEADER_BLOCKS + 1,
        });
    }
    let mut blocks = [Block::ZERO, Block::ZERO];
    disk.read(0, &mut blocks).map_err(JournalError::Read)?;
    match [Header::decode(&blocks[0]), Header::decode(&blocks[1])] {
        [Ok(a), Ok(b)] if a.id != b.id => Err(JournalError::Headers),
        [Ok(a), Ok(b)] => Ok(Some(if a.serial > b.serial { a } else { b })),
        [Err(HeaderFault::Version { found }), _] | [_, Err(HeaderFault::Version { found })] => {
            Err(JournalError::Version { found })
        }
        // One copy may be torn, or rot, its magic too; the other says whose both are.
        [Ok(header), Err(_)] | [Err(_), Ok(header)] => Ok(Some(header)),
        [Err(HeaderFault::Blank), Err(HeaderFault::Blank)] => Ok(None),
        [Err(HeaderFault::Foreign { begins }), _] | [_, Err(HeaderFault::Foreign { begins })] => {
            Err(JournalError::Foreign { begins })
        }
        [Err(_), Err(_)] => Err(JournalError::Headers),
    }
}

/// The group at `at`, if it is there: its entries and its blocks.
fn read_group(
    window: &mut Window<'_, impl Blocks>,
    header: &Header,
    at: Mark,
) -> Result<Option<(Vec<Entry>, u64)>, JournalError> {
    let end = header.tail.address + header.area;
    if at.address >= end {
        return Ok(None);
    }
    let block = window.block(at.address)?;
    let Some(head) = Head::decode(block) else {
        return Ok(None);
    };
    // An earlier run's group behind the beginning of this one is a leftover.
    let run = if at.address >= header.run_start.address {
        head.run == header.run
    } else {
        head.run < header.run
    };
    if head.id != header.id || !run || head.at != at {
        return Ok(None);
    }
    let sound = (1..=GROUP_BLOCKS_MAX).contains(&head.blocks) && at.address + head.blocks <= end;
    let entries = head.entries().filter(|_| sound);
    // Its checksum is right and its contents are not: no program of this version wrote it.
    let entries = entries.ok_or(JournalError::Group {
        block: block_of(at.address, header.area),
        group: at.group,
    })?;
    let blocks = head.blocks;
    Ok(Some((entries, blocks)))
}

fn payloads_agree(
    window: &mut Window<'_, impl Blocks>,
    address: u64,
    entries: &[Entry],
) -> Result<bool, JournalError> {
    let mut at = address + 1;
    for entry in entries {
        if let Entry::Write(write) = entry
            && !write.damaged
            && window.crc(at, write.len)? != write.payload_crc
            && !planted(Mutation::SkipChecksum)
        {
            return Ok(false);
        }
        at += entry.blocks();
    }
    Ok(true)
}

/// A group that follows one that is not there: the missing one was durable once.
fn look_behind(
    window: &mut Window<'_, impl Blocks>,
    header: &Header,
    next: Mark,
) -> Result<(), JournalError> {
    let end = header.tail.address + header.area;
    for address in next.address..end.min(next.address + GROUP_BLOCKS_MAX + 1) {
        let block = window.block(address)?;
        let later = Head::decode(block).filter(|head| {
            head.id == header.id
                // A later run: the header that is left is older than what it speaks of.
                && head.run >= header.run
                && head.at.address == address
                && (head.at.group > next.group || head.run > header.run)
        });
        if let Some(head) = later {
            return Err(JournalError::Hole {
                block: block_of(next.address, header.area),
                group: next.group,
                later: head.at.group,
            });
        }
    }
    Ok(())
}

impl Replay {
    fn take(&mut self, index: usize, entries: &[Entry], whole: &mut BTreeSet<(u16, u64)>) {
        let (address, _) = self.groups[index];
        let group = self.header.tail.group + index as u64;
        let mut payload = address + 1;
        for entry in entries {
            match entry {
                Entry::Write(entry) => {
                    let name = (entry.identity.volume, entry.identity.sequence);
                    if entry.identity.part == 0 && !entry.completes {
                        // The name begins anew.
                        whole.remove(&name);
                    }
                    if entry.completes || entry.identity.part + 1 == entry.parts {
                        whole.insert(name);
                    }
                    let entry = *entry;
                    let kept = Kept {
                        entry,
                        payload,
                        group,
                    };
                    self.records.insert(entry.identity, kept);
                }
                Entry::Free(identity) => {
                    self.records.remove(identity);
                }
                Entry::Row(table, row, Some(body)) => {
                    let body = body.clone();
                    self.rows.insert((*table, *row), KeptRow { body, group });
                }
                Entry::Row(table, row, None) => {
                    self.rows.remove(&(*table, *row));
                }
            }
            payload += entry.blocks();
        }
    }

    fn drop_incomplete(&mut self, whole: &BTreeSet<(u16, u64)>) {
        let names = self.records.keys();
        let incomplete = names.filter(|name| !whole.contains(&(name.volume, name.sequence)));
        self.incomplete = incomplete.copied().collect();
        for name in &self.incomplete {
            self.records.remove(name);
        }
    }

    /// The block of the file that the head of a group stands in, which a record or row is
    /// of.
    pub fn block_of_group(&self, group: u64) -> u64 {
        let index = usize::try_from(group - self.header.tail.group).expect("in memory");
        block_of(self.groups[index].0, self.header.area)
    }

    /// Payload bytes of all records.
    pub fn bytes(&self) -> u64 {
        let records = self.records.values();
        records.map(|kept| u64::from(kept.entry.len)).sum()
    }
}

/// Reads payloads: those that stand side by side in one go.
#[derive(Debug)]
pub struct Payloads<'a, D>(Window<'a, D>);

impl<'a, D: Blocks> Payloads<'a, D> {
    /// Of the journal on `disk` whose header says `area`.
    pub fn new(disk: &'a mut D, area: u64) -> Self {
        Self(Window::new(disk, area))
    }

    /// One record's payload into `into`, which gets exactly its bytes.
    /// `false`: it is not what its checksum says.
    ///
    /// # Errors
    /// The device's.
    pub fn read(&mut self, kept: &Kept, into: &mut Vec<u8>) -> Result<bool, JournalError> {
        into.clear();
        let crc = self.0.each(kept.payload, kept.entry.len, |bytes| {
            into.extend_from_slice(bytes);
        })?;
        Ok(crc == kept.entry.payload_crc || planted(Mutation::SkipChecksum))
    }
}

/// The block of the file that an address stands in.
pub fn block_of(address: u64, area: u64) -> u64 {
    HEADER_BLOCKS + address % area
}

/// Blocks of the area by address, read some at a time.
#[derive(Debug)]
struct Window<'a, D> {
    disk: &'a mut D,
    area: u64,
    /// The file's block that `held[0]` is.
    first: u64,
    held: Vec<Block>,
}

/// 1 MiB: large enough that a walk runs at the device's sequential rate.
const WINDOW_BLOCKS: u64 = 256;

impl<'a, D: Blocks> Window<'a, D> {
    fn new(disk: &'a mut D, area: u64) -> Self {
        Self {
            disk,
            area,
            first: 0,
            held: Vec::new(),
        }
    }

    fn block(&mut self, address: u64) -> Result<&Block, JournalError> {
        let block = block_of(address, self.area);
        let held = self.held.len() as u64;
        if block < self.first || block >= self.first + held {
            let count = WINDOW_BLOCKS.min(HEADER_BLOCKS + self.area - block);
            self.held.resize(
                usize::try_from(count).expect("a window's blocks"),
                Block::ZERO,
            );
            self.first = block;
            if let Err(source) = self.disk.read(block, &mut self.held) {
                self.held.clear();
                return Err(JournalError::Read(source));
            }
        }
        let index = usize::try_from(block - self.first).expect("inside the window");
        Ok(&self.held[index])
    }

    fn crc(&mut self, address: u64, len: u32) -> Result<u32, JournalError> {
        self.each(address, len, |_| {})
    }

    /// Hands out `len` bytes block by block, and returns their CRC32C.
    fn each(
        &mut self,
        mut address: u64,
        len: u32,
        mut take: impl FnMut(&[u8]),
    ) -> Result<u32, JournalError> {
        let (mut crc, mut left) = (0, len as usize);
        while left > 0 {
            let now = left.min(BLOCK_LEN);
            let bytes = &self.block(address)?.0[..now];
            crc = crc32c::crc32c_append(crc, bytes);
            take(bytes);
            left -= now;
            address += 1;
        }
        Ok(crc)
    }
}

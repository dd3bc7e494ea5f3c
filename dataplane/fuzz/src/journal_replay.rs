//! A journal whose bytes were damaged while nobody had it open: headers and
//! heads with any contents, their checksums made right again or not, groups of
//! elsewhere, payload turned over, the file cut off. With its log lost, and kept.
//!
//! It is refused, or what it says is consistent; a header that was forged may count so
//! far, or so far back, that the start after that refuses it. Where no checksum was made
//! right again, that is exactly what was written, but for a last group that nobody was
//! told of, and what was before it if its head is gone too; and with the log kept, a
//! journal that was taken agrees with it again.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::LazyLock;

use sluice_dataplane::journal::begin::{Begun, Disk, begin, settle};
use sluice_dataplane::journal::layout::{BLOCK_LEN, Block, HEADER_BLOCKS, Identity, RowTable};
use sluice_dataplane::journal::replay::{Blocks, Found, Kept, Replay, replay};
use sluice_dataplane::journal::restore::{entry_of, write_request};
use sluice_dataplane::journal::{Core, JournalError, Op, Request};
use sluice_hugepages::log::{
    Log, LogError, Pairing, RecordFlags, RecordId, Recovery, VolumeEntry, VolumeFlags, VolumeId,
};
use sluice_hugepages::region::{HUGEPAGE_LEN, Region};

use crate::source::Source;

const ID: u32 = 7;
/// The smallest area there may be, in blocks, and the two headers.
const DISK_BLOCKS: u64 = sluice_dataplane::journal::core::AREA_BLOCKS_MIN + HEADER_BLOCKS;
/// One segment for the directory and four for records.
const LOG_LEN: usize = 5 * HUGEPAGE_LEN;
const VOLUME_BLOCK_LEN: u32 = 512;
/// More would only be slower.
const DAMAGES_MAX: usize = 12;
const WORDS: usize = BLOCK_LEN / 8;

/// A sound journal that has gone round its area, with its log.
struct Sample {
    blocks: Vec<Block>,
    log: Vec<u8>,
    /// What it holds, and held behind each group since it was opened: a number of heads.
    records: BTreeMap<usize, BTreeMap<Identity, Kept>>,
    /// Blocks of the file that are heads.
    heads: Vec<u64>,
}

impl Sample {
    fn held(&self) -> &BTreeMap<Identity, Kept> {
        &self.records[&self.heads.len()]
    }

    /// Whether a replay of what is damaged may end with this: with all, or before a group
    /// behind which no head is as it was. Nobody can tell that from a power loss.
    fn may_be(&self, records: &BTreeMap<Identity, Kept>, disk: &Damaged<'_>) -> bool {
        self.records.iter().any(|(&groups, held)| {
            let mut behind = self.heads.iter().skip(groups + 1);
            held == records && behind.all(|head| disk.changed.contains_key(head))
        })
    }
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(sample);

pub fn run(input: &[u8]) {
    let sample = &*SAMPLE;
    let mut source = Source::new(input);
    let is_log_lost = source.byte() & 1 == 0;
    let mut disk = Damaged::new(&sample.blocks);
    let mut is_forged = false;
    for _ in 0..DAMAGES_MAX {
        if source.is_empty() {
            break;
        }
        is_forged |= damage(&mut source, &mut disk);
    }
    if let (Ok(Found::Journal(found)), false) = (replay(&mut disk), is_forged) {
        assert!(
            sample.may_be(&found.records, &disk),
            "neither all that was durable, nor what was before groups that are gone"
        );
    }
    if is_log_lost {
        lost(&mut disk, is_forged);
    } else {
        kept(&mut disk, is_forged);
    }
}

fn lost(disk: &mut Damaged<'_>, is_forged: bool) {
    let Ok(begun) = start(disk, None) else {
        return;
    };
    let torn = begun.restored.map_or(Vec::new(), |restored| restored.torn);
    let mut log = begun.log;
    let mut held = BTreeMap::new();
    for id in ids(&log) {
        let entry = entry_of(&log, id);
        let is_sound = log.verify(id).is_ok();
        assert_eq!(
            is_sound,
            !torn.contains(&entry.identity),
            "told once, and ever"
        );
        if is_sound && !is_forged {
            let fill = fill(entry.identity.sequence);
            assert!(log.payload(id).iter().all(|&byte| byte == fill));
        }
        held.insert(entry.identity, entry);
    }
    // The next start has a log, and finds the same.
    let again = match start(disk, Some(log.into_region())) {
        Err(Refused::Journal) if is_forged => return,
        again => again.expect("begun before"),
    };
    assert_eq!(again.restored, None);
    let found: BTreeMap<_, _> = ids(&again.log)
        .map(|id| entry_of(&again.log, id))
        .map(|entry| (entry.identity, entry))
        .collect();
    assert_eq!(held, found, "the same records at the next start");
}

fn kept(disk: &mut Damaged<'_>, is_forged: bool) {
    let region = region_of(&SAMPLE.log);
    let Ok(begun) = start(disk, Some(region)) else {
        return;
    };
    let records: Vec<_> = ids(&begun.log)
        .map(|id| entry_of(&begun.log, id).identity)
        .collect();
    let held = SAMPLE.held();
    assert!(
        records.len() == held.len() && records.iter().all(|name| held.contains_key(name)),
        "a log that is there is the newer"
    );
    // And now the log goes: the journal has followed it.
    drop(begun);
    match replay(disk) {
        Ok(Found::Journal(found)) => assert!(found.records.keys().eq(held.keys())),
        Err(_) if is_forged => {}
        other => panic!("a journal that was begun is one: {other:?}"),
    }
}

fn ids(log: &Log) -> impl Iterator<Item = RecordId> + use<> {
    log.records().collect::<Vec<_>>().into_iter()
}

#[derive(Debug)]
enum Refused {
    Journal,
    Log,
}

impl From<JournalError> for Refused {
    fn from(error: JournalError) -> Refused {
        assert!(!error.to_string().is_empty());
        Refused::Journal
    }
}

impl From<LogError> for Refused {
    fn from(_: LogError) -> Refused {
        Refused::Log
    }
}

/// As a data plane starts: with the log that is there, or an empty one.
fn start(disk: &mut impl Disk, region: Option<Region>) -> Result<Begun, Refused> {
    let mut region = region;
    let open = |is_anew: bool| -> Result<(Log, Recovery), Refused> {
        let found = region.take().filter(|_| !is_anew);
        Ok(Log::open(
            found.unwrap_or_else(|| Region::anonymous(LOG_LEN)),
        )?)
    };
    let mut begun = begin(disk, ID, None, open, |_| true)?;
    begun.pair();
    Ok(begun)
}

fn region_of(bytes: &[u8]) -> Region {
    let region = Region::anonymous(bytes.len());
    // SAFETY: the mapping is as long, and nobody else has it.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), region.ptr(), bytes.len()) };
    region
}

fn fill(sequence: u64) -> u8 {
    u8::try_from(sequence % 251).expect("below 251")
}

/// Two lives: one that goes round the area, and one that ends with a few records of
/// several sizes, one of several parts, and some that are gone.
fn sample() -> Sample {
    let mut disk = Damaged::new(&[]);
    disk.blocks = DISK_BLOCKS;
    let begun = start(&mut disk, None).expect("a blank disk");
    let (mut log, mut core) = (begun.log, begun.core);
    let volume = log
        .put_volume(VolumeEntry {
            target_name: "iqn.2004-03.example.storage:vol0"
                .try_into()
                .expect("short"),
            lun: 0,
            storage: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
            block_len: VOLUME_BLOCK_LEN,
            blocks: 1 << 20,
            flags: VolumeFlags::default(),
        })
        .expect("room for a row");
    let row = log.volume(volume).expect("just put").to_row();
    core.request(Request::Row(
        RowTable::Volume,
        volume.0,
        Some(Box::new(row)),
    ));
    for sequence in 1..=24 {
        let ids = put(&mut log, &mut core, volume, sequence, 1 << 20);
        write_out(&mut disk, &mut core, &log);
        take_away(&mut log, &mut core, &ids);
    }
    write_out(&mut disk, &mut core, &log);
    drop(core);
    let begun = start(&mut disk, Some(log.into_region())).expect("a sound journal");
    let (mut log, mut core) = (begun.log, begun.core);
    // By the number of the group that comes next.
    let mut kept = Vec::new();
    let next = |found: &Replay| found.header.tail.group + found.groups.len() as u64;
    for (sequence, len) in (25..).zip([512, 4096, 4608, 65_536, (1 << 20) + 512, 8192, 1024]) {
        let before = found(&mut disk);
        kept.push((next(&before), before.records));
        let ids = put(&mut log, &mut core, volume, sequence, len);
        if sequence == 27 {
            take_away(&mut log, &mut core, &ids);
        }
        write_out(&mut disk, &mut core, &log);
    }
    log.pair(Pairing::With(ID));
    let all = found(&mut disk);
    kept.push((next(&all), all.records));
    let groups = |next: u64| usize::try_from(next - all.header.tail.group).expect("few");
    let records = kept.into_iter();
    let records = records.map(|(next, held)| (groups(next), held)).collect();
    let heads: Vec<_> = all
        .groups
        .iter()
        .map(|&(address, _)| HEADER_BLOCKS + address % all.header.area)
        .collect();
    let region = log.into_region();
    // SAFETY: the mapping is that long, and nobody writes to it.
    let log = unsafe { std::slice::from_raw_parts(region.ptr(), region.len()) }.to_vec();
    let mut blocks = vec![Block::ZERO; usize::try_from(DISK_BLOCKS).expect("small")];
    disk.read(0, &mut blocks).expect("memory");
    Sample {
        blocks,
        log,
        records,
        heads,
    }
}

fn put(log: &mut Log, core: &mut Core, volume: VolumeId, sequence: u64, len: u32) -> Vec<RecordId> {
    let write = log.reserve(volume, sequence * 4096, len).expect("room");
    log.append(write, &vec![fill(sequence); len as usize]);
    let parts = log.commit(write, 1, sequence, RecordFlags::NONE);
    for &id in &parts {
        core.request(write_request(log, id, entry_of(log, id)));
    }
    parts.to_vec()
}

fn take_away(log: &mut Log, core: &mut Core, ids: &[RecordId]) {
    for &id in ids {
        core.request(Request::Free { record: id.0 });
        log.free(id);
    }
}

fn write_out(disk: &mut Damaged<'_>, core: &mut Core, log: &Log) {
    settle(disk, core, |span| {
        log.pages(
            usize::try_from(span.offset).expect("inside the log"),
            usize::try_from(span.blocks).expect("small"),
        )
    })
    .expect("memory does not fail");
}

fn found(disk: &mut Damaged<'_>) -> Replay {
    match replay(disk) {
        Ok(Found::Journal(found)) => *found,
        other => panic!("the sample is sound: {other:?}"),
    }
}

/// The sample with what became of some of its blocks.
#[derive(Debug)]
struct Damaged<'a> {
    base: &'a [Block],
    changed: BTreeMap<u64, Block>,
    /// Blocks in all.
    blocks: u64,
}

impl<'a> Damaged<'a> {
    fn new(base: &'a [Block]) -> Damaged<'a> {
        Damaged {
            base,
            changed: BTreeMap::new(),
            blocks: base.len() as u64,
        }
    }

    fn block(&mut self, at: u64) -> &mut Block {
        let base = self.base;
        self.changed.entry(at).or_insert_with(|| {
            let index = usize::try_from(at).expect("small");
            base.get(index).unwrap_or(&Block::ZERO).clone()
        })
    }
}

impl Blocks for Damaged<'_> {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, first: u64, into: &mut [Block]) -> io::Result<()> {
        let end = first + into.len() as u64;
        assert!(end <= self.blocks, "the caller has looked");
        for (at, block) in (first..).zip(into.iter_mut()) {
            let index = usize::try_from(at).expect("small");
            let held = self.changed.get(&at).or_else(|| self.base.get(index));
            block.clone_from(held.unwrap_or(&Block::ZERO));
        }
        Ok(())
    }
}

impl Disk for Damaged<'_> {
    fn write(&mut self, op: Op, staged: &[Block]) -> io::Result<()> {
        let (first, end) = match op {
            Op::Header { block } => (block, block + 1),
            Op::Group { first, end, .. } => (first, end),
        };
        for (at, block) in (first..).zip(staged) {
            let at = if at < end {
                at
            } else {
                HEADER_BLOCKS + at - end
            };
            assert!(at < self.blocks, "a write inside the disk");
            self.changed.insert(at, block.clone());
        }
        Ok(())
    }
}

fn word(block: &Block, index: usize) -> u64 {
    u64::from_le_bytes(*block.0[index * 8..].first_chunk().expect("inside a block"))
}

fn set_word(block: &mut Block, index: usize, value: u64) {
    block.0[index * 8..][..8].copy_from_slice(&value.to_le_bytes());
}

/// A header, or a head; seldom any block at all.
fn place(source: &mut Source<'_>, disk: &Damaged<'_>) -> u64 {
    match source.byte() {
        at @ 0..96 => u64::from(at % 2),
        at @ 96..240 => SAMPLE.heads[usize::from(at) % SAMPLE.heads.len()],
        _ => u64::from(source.half()) % disk.blocks,
    }
}

/// Whether a checksum was made right again, so that the damage is a lie.
fn damage(source: &mut Source<'_>, disk: &mut Damaged<'_>) -> bool {
    let at = place(source, disk);
    if at >= disk.blocks {
        return false;
    }
    let kind = source.below(8);
    // The words that say something: a header's ten, a head's eight and its first entries.
    let index = source.below(if kind & 1 == 0 { 10 } else { 64 });
    match kind {
        0 | 1 => {
            let value = u64::from(source.byte()) << (source.below(8) * 8);
            let block = disk.block(at);
            set_word(block, index, word(block, index) ^ value);
            false
        }
        2 | 3 => {
            let value = u64::from(source.byte()) << (source.below(8) * 8);
            let block = disk.block(at);
            set_word(block, index, word(block, index) ^ value);
            reseal(block, at);
            true
        }
        4 => {
            let value = u64::from_be_bytes(source.array());
            let block = disk.block(at);
            set_word(block, index, value);
            reseal(block, at);
            true
        }
        5 => {
            // A block of elsewhere, or an older copy of a header.
            let from = place(source, disk);
            let block = disk.block(from.min(disk.blocks - 1)).clone();
            *disk.block(at) = block;
            false
        }
        6 => {
            // Payload: behind a head.
            let behind = (at + 1 + u64::from(source.byte())).min(disk.blocks - 1);
            if behind >= HEADER_BLOCKS {
                let offset = usize::from(source.half()) % WORDS;
                let block = disk.block(behind);
                set_word(block, offset, !word(block, offset));
            }
            false
        }
        _ => {
            disk.blocks = disk.blocks.min(u64::from(source.half()).max(1));
            false
        }
    }
}

fn reseal(block: &mut Block, at: u64) {
    if at < HEADER_BLOCKS {
        let crc = crc32c::crc32c(&block.0[..72]);
        set_word(block, 9, u64::from(crc) << 32);
    } else {
        let units = word(block, 1) & 0xffff_ffff;
        set_word(block, 1, units);
        let crc = crc32c::crc32c(&block.0);
        set_word(block, 1, u64::from(crc) << 32 | units);
    }
}

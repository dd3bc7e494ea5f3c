//! Starts that were stopped in the middle, and starts over what a worse start,
//! or a worse disk, has left behind.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use sluice_hugepages::log::{
    Log, LogError, Pairing, RecordFlags, RecordId, Recovery, VolumeEntry, VolumeId,
};
use sluice_hugepages::region::{Directories, Region, RegionSpec};

use super::*;
use crate::journal::JournalError;
use crate::journal::begin::{Begun, Disk, begin};
use crate::journal::replay::Blocks;
use crate::journal::restore::{entry_of, write_request};

const REGION_LEN: usize = 24 << 20;

#[derive(Debug)]
enum Fault {
    Journal(JournalError),
    Log(LogError),
}

impl From<JournalError> for Fault {
    fn from(fault: JournalError) -> Self {
        Self::Journal(fault)
    }
}

impl From<LogError> for Fault {
    fn from(fault: LogError) -> Self {
        Self::Log(fault)
    }
}

fn new_log() -> Log {
    Log::open(Region::anonymous(REGION_LEN))
        .expect("a new log")
        .0
}

/// Writes `len` bytes of their sequence's number at a place of its own.
fn put(log: &mut Log, sequence: u64, len: u32) {
    put_at(log, sequence * 2048, sequence, len);
}

fn put_at(log: &mut Log, lba: u64, sequence: u64, len: u32) {
    let id = log.reserve(VolumeId(0), lba, len).expect("room");
    let fill = u8::try_from(sequence % 251).expect("a byte");
    log.append(id, &vec![fill; len as usize]);
    log.commit(id, 1, sequence, RecordFlags::NONE);
}

/// A start over a region, or over none.
fn start(disk: &mut ModelDisk, region: Option<Region>) -> Result<Begun, Fault> {
    start_of(disk, (7, None), region, |_| true)
}

/// With this number if the journal is a new one, and this one in use.
fn start_of(
    disk: &mut impl Disk,
    (id, used): (u32, Option<u32>),
    mut region: Option<Region>,
    journalled: impl Fn(&VolumeEntry) -> bool,
) -> Result<Begun, Fault> {
    let open = |anew: bool| -> Result<(Log, Recovery), Fault> {
        let found = region.take().filter(|_| !anew);
        Ok(Log::open(
            found.unwrap_or_else(|| Region::anonymous(REGION_LEN)),
        )?)
    };
    let mut begun = begin(disk, id, used, open, journalled)?;
    begun.pair();
    Ok(begun)
}

/// A disk whose power goes after so many writes.
struct Cut<'a> {
    disk: &'a mut ModelDisk,
    left: usize,
}

impl Blocks for Cut<'_> {
    fn blocks(&self) -> u64 {
        self.disk.blocks()
    }

    fn read(&mut self, first: u64, into: &mut [Block]) -> io::Result<()> {
        self.disk.read(first, into)
    }
}

impl Disk for Cut<'_> {
    fn write(&mut self, op: Op, staged: &[Block]) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::Other)?;
        self.disk.write(op, staged)
    }
}

/// The same contents in a region of its own.
fn copy(log: &Log) -> Region {
    let region = Region::anonymous(REGION_LEN);
    let bytes = log.pages(0, REGION_LEN / BLOCK_LEN);
    // SAFETY: both are mappings of that length, apart, and this test's alone.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), region.ptr(), REGION_LEN) };
    region
}

/// A log's file: a start that is killed leaves in it what it has made of it.
struct LogFile(PathBuf);

impl LogFile {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed); // A number, it orders nothing.
        let name = format!("sluice-begin-{}-{unique}", std::process::id());
        let directory = Path::new("/dev/shm").join(name);
        std::fs::create_dir(&directory).expect("a directory of its own");
        Self(directory)
    }

    fn holds(&self, log: &Log) {
        let bytes = log.pages(0, REGION_LEN / BLOCK_LEN);
        std::fs::write(self.0.join("log"), bytes).expect("room on tmpfs");
    }

    fn open(&self) -> Region {
        let spec = RegionSpec {
            directories: Directories {
                hugetlbfs: None,
                tmpfs: self.0.clone(),
            },
            name: "log".to_owned(),
            len: REGION_LEN,
        };
        Region::open(&spec).expect("a file of that length, or none")
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn begun(disk: &mut ModelDisk, region: Option<Region>) -> Begun {
    start(disk, region).unwrap_or_else(|fault| panic!("refused: {fault:?}"))
}

/// A log of one volume, with writes of these lengths, and its journal.
fn log_and_journal(lens: &[u32]) -> (ModelDisk, Log) {
    let mut disk = ModelDisk::new(blocks());
    let mut log = new_log();
    log.put_volume(volume()).expect("a row");
    for (&len, sequence) in lens.iter().zip(1..) {
        put(&mut log, sequence, len);
    }
    let begun = begun(&mut disk, Some(log.into_region()));
    (disk, begun.log)
}

fn sequences(log: &Log) -> Vec<u64> {
    let records = log.records();
    let mut all: Vec<u64> = records.map(|id| log.record(id).sequence).collect();
    all.sort_unstable();
    // One that crosses the end of a segment has several parts.
    all.dedup();
    all
}

/// The log's region was made and formatted, and the process killed before the
/// log said that it is being filled: what is there is as good as nothing.
#[test]
fn a22_a_start_killed_before_its_first_mark_is_begun_again() {
    let (mut disk, _lost) = log_and_journal(&[4096, 8192]);
    let again = begun(&mut disk, Some(new_log().into_region()));
    assert_eq!(again.restored.map(|restored| restored.records), Some(2));
    assert_eq!(sequences(&again.log), [1, 2]);
}

/// The process dies before any of the writes that a start makes to the journal; the log's
/// memory stays as it is then. The next start finds what there was, and so does the one
/// after that if the log is lost.
#[test]
fn a22_a_start_killed_before_any_of_its_writes_is_begun_again() {
    let (disk, log) = log_and_journal(&[4096, 8192, 1 << 20]);
    // The log is lost, the journal is to be.
    let written = killed_at_each(&disk, None, &[1, 2, 3]);
    assert!(written >= 1, "{written}");
    // The journal is behind.
    let mut log = Log::open(copy(&log)).expect("a log").0;
    put(&mut log, 4, 1 << 20);
    put(&mut log, 5, 4096);
    let first = log.records().next().expect("a record");
    log.free(first);
    let written = killed_at_each(&disk, Some(&log), &[2, 3, 4, 5]);
    assert!(written >= 3, "{written}");
    // There is none.
    let blank = ModelDisk::new(blocks());
    let written = killed_at_each(&blank, Some(&log), &[2, 3, 4, 5]);
    assert!(written >= 3, "{written}");
}

/// The last part of a write is overwritten and gone: what is left of it is wanted all the
/// same, by a journal that never had it as by one that had all of it.
#[test]
fn a22_what_is_left_of_a_write_of_several_parts_is_whole() {
    let (disk, log) = log_and_journal(&[4096, 8192, 1 << 20]);
    let mut log = Log::open(copy(&log)).expect("a log").0;
    put(&mut log, 4, 1 << 20);
    let parts = |log: &Log| -> Vec<_> {
        let of_it = log.records().filter(|&id| log.record(id).sequence == 4);
        of_it.collect()
    };
    let last = |id: &RecordId| log.record(*id).part + 1 == log.record(*id).parts;
    let last = parts(&log).into_iter().find(last).expect("a last part");
    assert!(parts(&log).len() > 1, "it has several parts");
    log.free(last);
    for mut disk in [disk, ModelDisk::new(blocks())] {
        begun(&mut disk, Some(copy(&log)));
        let alone = begun(&mut disk, None);
        assert_eq!(parts(&alone.log).len(), parts(&log).len());
    }
}

/// How many writes a start makes that is not killed.
fn killed_at_each(disk: &ModelDisk, log: Option<&Log>, held: &[u64]) -> usize {
    for left in 0..1000 {
        let file = LogFile::new();
        if let Some(log) = log {
            file.holds(log);
        }
        let mut disk = disk.clone();
        let mut cut = Cut {
            disk: &mut disk,
            left,
        };
        let ends = start_of(&mut cut, (7, None), Some(file.open()), |_| true).is_ok();
        let again = begun(&mut disk, Some(file.open()));
        assert_eq!(sequences(&again.log), held, "killed before write {left}");
        drop(again);
        let alone = begun(&mut disk, None);
        assert_eq!(sequences(&alone.log), held, "then lost, killed at {left}");
        if ends {
            return left;
        }
    }
    panic!("it makes writes without end");
}

/// The rest of what the log was being filled with is in the other journal.
#[test]
fn a22_a_half_filled_log_is_not_whole_because_the_journal_is_another() {
    let (_gone, log) = log_and_journal(&[4096, 8192]);
    let mut half = log;
    half.pair(Pairing::Restoring(8));
    let mut blank = ModelDisk::new(blocks());
    let refused = refusal(&mut blank, half.into_region());
    assert!(matches!(refused, JournalError::HalfFilled), "{refused}");
}

fn refusal(disk: &mut ModelDisk, region: Region) -> JournalError {
    match start(disk, Some(region)) {
        Err(Fault::Journal(refused)) => refused,
        Err(Fault::Log(fault)) => panic!("{fault}"),
        Ok(_) => panic!("it is not refused"),
    }
}

/// A journal that cannot hold what the log does: it is said, and the log stays.
#[test]
fn a22_a_journal_too_small_for_its_log_is_refused() {
    let mut disk = ModelDisk::new(blocks());
    let mut log = new_log();
    log.put_volume(volume()).expect("a row");
    for sequence in 1..=16 {
        put(&mut log, sequence, 1 << 20);
    }
    let refused = refusal(&mut disk, log.into_region());
    assert!(matches!(refused, JournalError::Crowded), "{refused}");
}

/// What the log has more finds no room before an old record is written again:
/// when a start is over, all of it is durable all the same.
#[test]
fn a22_a_start_writes_again_what_keeps_the_tail() {
    let (mut disk, mut log) = log_and_journal(&[4096]);
    // Another life has filled the journal as far as new writes go, all of it freed.
    let replayed = found(&mut disk);
    let held = log.records().map(|id| (id.0, entry_of(&log, id).identity));
    let held: Vec<_> = held.collect();
    let mut core = Core::resume(&replayed, log.records_max(), held.into_iter());
    for sequence in 2..=10 {
        put(&mut log, sequence, 1 << 20);
        let new: Vec<_> = log
            .records()
            .filter(|&id| log.record(id).sequence == sequence)
            .collect();
        for &id in &new {
            core.request(write_request(&log, id, entry_of(&log, id)));
        }
        for &id in &new {
            core.request(Request::Free { record: id.0 });
        }
        settle_over(&mut core, &mut disk, &log);
        new.into_iter().for_each(|id| log.free(id));
    }
    // And died with these asked for, and not durable.
    for sequence in 11..=18 {
        put(&mut log, sequence, 1 << 20);
    }
    let begun = begun(&mut disk, Some(log.into_region()));
    assert!(begun.core.is_idle(), "{:?}", begun.core.progress());
    let lost = self::begun(&mut disk, None);
    assert_eq!(sequences(&lost.log), sequences(&begun.log));
}

fn settle_over(core: &mut Core, disk: &mut ModelDisk, log: &Log) {
    crate::journal::begin::settle(disk, core, |span| {
        log.pages(
            usize::try_from(span.offset).expect("inside"),
            usize::try_from(span.blocks).expect("small"),
        )
    })
    .expect("a working disk");
}

fn unsound(log: &mut Log) -> Vec<u64> {
    let all: Vec<_> = log.records().collect();
    let torn = all.into_iter().filter(|&id| log.verify(id).is_err());
    let torn: Vec<_> = torn.collect();
    torn.into_iter().map(|id| log.record(id).sequence).collect()
}

/// A write that cannot be read any more is lost, and stays so over every start
/// until the operator has given it up: none of them passes it over.
#[test]
fn a23_what_the_journal_cannot_read_is_told_at_every_start() {
    let (mut disk, mut log) = log_and_journal(&[4096, 4096, 4096]);
    // A group behind it: of the last one nobody can tell.
    put(&mut log, 4, 4096);
    begun(&mut disk, Some(log.into_region()));
    let torn = found(&mut disk)
        .records
        .values()
        .find(|kept| kept.entry.identity.sequence == 2)
        .copied()
        .expect("it is there");
    let place = usize::try_from(HEADER_BLOCKS + torn.payload).expect("small");
    disk.blocks[place].0[77] ^= 1;

    let begun = begun(&mut disk, None);
    let told = begun.restored.expect("made from the journal").torn;
    assert_eq!(told, [torn.entry.identity]);
    let mut log = begun.log;
    assert_eq!(unsound(&mut log), [2]);
    // The process is killed; then the power goes.
    let mut log = self::begun(&mut disk, Some(log.into_region())).log;
    assert_eq!(unsound(&mut log), [2]);
    let mut log = self::begun(&mut disk, None).log;
    assert_eq!(
        (unsound(&mut log), sequences(&log)),
        (vec![2], vec![1, 2, 3, 4])
    );
}

/// What is damaged in the log and not yet in the journal comes into one group with what
/// is not: that is durable all the same, and the damage is told.
#[test]
fn a23_what_the_log_has_lost_takes_nothing_else_with_it() {
    let (mut disk, mut log) = log_and_journal(&[4096]);
    for sequence in 2..5 {
        put(&mut log, sequence, 8192);
    }
    let lost = log.records().find(|&id| log.record(id).sequence == 3);
    let place = log.payload_offset(lost.expect("it is there")) + 5000;
    let region = log.into_region();
    assert!(place < region.len());
    // SAFETY: inside the region, which nobody else uses while it has no log.
    unsafe { *region.ptr().add(place) ^= 4 };
    let mut log = begun(&mut disk, Some(region)).log;
    assert_eq!(unsound(&mut log), [3]);
    // The power goes, and goes again.
    for _ in 0..2 {
        let begun = begun(&mut disk, None);
        let told = begun.restored.expect("made from the journal").torn;
        let told: Vec<_> = told.iter().map(|name| name.sequence).collect();
        let mut log = begun.log;
        let unsound = unsound(&mut log);
        assert_eq!((told, unsound), (vec![3], vec![3]));
        assert_eq!(sequences(&log), [1, 2, 3, 4]);
    }
}

/// The last group of an earlier run was there when a start counted on it: it is not
/// taken for one that was torn, and dropped.
#[test]
fn a23_rot_in_the_last_group_of_an_earlier_run_is_told() {
    let (mut disk, log) = log_and_journal(&[4096, 4096]);
    begun(&mut disk, Some(log.into_region()));
    let replay = found(&mut disk);
    assert_eq!(
        replay.next.group, replay.header.run_start.group,
        "nothing since"
    );
    let kept = replay.records.values().next_back().copied().expect("two");
    let place = usize::try_from(HEADER_BLOCKS + kept.payload).expect("small");
    disk.blocks[place].0[7] ^= 1;
    let begun = begun(&mut disk, None);
    let told = begun.restored.expect("made from the journal").torn;
    assert_eq!(told, [kept.entry.identity]);
    assert_eq!(sequences(&begun.log), [1, 2]);
}

/// Killed with what had hidden old writes in the log and not yet in the journal. At each
/// write of the start that follows the power may go, and the log with it: of each block
/// the journal has the old write or the new.
#[test]
fn a22_what_hid_a_write_is_durable_before_that_is_forgotten() {
    const PAIRS: u64 = 150;
    let mut log = new_log();
    log.put_volume(volume()).expect("a row");
    for number in 1..=PAIRS {
        put_at(&mut log, number * 8, number, 4096);
    }
    let mut before = ModelDisk::new(blocks());
    let mut log = begun(&mut before, Some(log.into_region())).log;
    let old: Vec<_> = log.records().collect();
    for number in 1..=PAIRS {
        put_at(&mut log, number * 8, PAIRS + number, 4096);
    }
    old.into_iter().for_each(|id| log.free(id));
    let mut writes = 0;
    loop {
        let mut disk = before.clone();
        let mut cut = Cut {
            disk: &mut disk,
            left: writes,
        };
        let done = start_of(&mut cut, (7, None), Some(copy(&log)), |_| true);
        let records = found(&mut disk).records;
        for number in 1..=PAIRS {
            let has = |sequence| {
                let mut names = records.keys();
                names.any(|name| name.sequence == sequence)
            };
            assert!(
                has(number) || has(PAIRS + number),
                "block {} is lost after {writes} writes",
                number * 8
            );
        }
        if done.is_ok() {
            assert_eq!(records.len() as u64, PAIRS, "the old are forgotten");
            break;
        }
        writes += 1;
    }
    assert!(writes > 4, "it took more than the headers and one group");
}

/// A log that goes with one journal is started with another; before that has all of it,
/// the process is killed, or the power goes.
#[test]
fn a22_a_journal_that_is_being_filled_is_not_worth_what_was_before_it() {
    let (mut first, mut log) = log_and_journal(&[4096, 8192]);
    // More than one group.
    for sequence in 3..=9 {
        put(&mut log, sequence, 1 << 20);
    }
    let mut log = begun(&mut first, Some(log.into_region())).log;
    let mut second = ModelDisk::new(blocks());
    // Its headers, those of its first run, and a group.
    let mut cut = Cut {
        disk: &mut second,
        left: 5,
    };
    let region = copy(&log);
    let half = start_of(&mut cut, (8, Some(7)), Some(region), |_| true);
    assert!(half.is_err(), "its disk has failed");
    let has = found(&mut second).records.len();
    let all = log.records().count();
    assert!((1..all).contains(&has), "{has} of {all}");
    // Killed: the log is there, and says so. It goes on with either.
    log.pair(Pairing::Into(8));
    for (disk, id) in [(&mut second.clone(), 8), (&mut first.clone(), 7)] {
        let begun = start_of(disk, (id, Some(7)), Some(copy(&log)), |_| true);
        let begun = begun.unwrap_or_else(|fault| panic!("journal {id}: {fault:?}"));
        assert_eq!(found(disk).records.len(), all);
        assert_eq!(begun.log.pairing(), Pairing::With(id));
    }
    // One that is neither has writes of some other log.
    let (mut other, _) = log_and_journal(&[4096]);
    let refused = start_of(&mut other, (7, Some(9)), Some(copy(&log)), |_| true);
    assert!(matches!(
        refused,
        Err(Fault::Journal(JournalError::OtherLog { records: 1, .. }))
    ));
}

/// What a volume's writes were promised by stays, though the volume has another contract
/// now, until they are at the storage.
#[test]
fn a22_a_volume_that_is_not_the_journals_any_more_keeps_what_it_had() {
    let (mut disk, mut log) = log_and_journal(&[4096, 8192]);
    // Written over the second, and not in the journal yet.
    put_at(&mut log, 2 * 2048, 3, 8192);
    let hidden = log.records().find(|&id| log.record(id).sequence == 2);
    log.free(hidden.expect("the second"));
    let region = Some(log.into_region());
    let begun = start_of(&mut disk, (7, None), region, |_| false).expect("not refused");
    let kept = found(&mut disk).records;
    let kept: Vec<_> = kept.keys().map(|name| name.sequence).collect();
    assert_eq!(kept, [1, 3], "what it had, or what has hidden that");
    let (mut core, log) = (begun.core, begun.log);
    for id in log.records() {
        core.request(Request::Free { record: id.0 });
    }
    settle_over(&mut core, &mut disk, &log);
    assert_eq!(
        (core.progress().durable, found(&mut disk).records.len()),
        (4, 0)
    );
    // With nothing of it left there, nothing new goes in.
    drop((core, log));
    let mut log = new_log();
    log.put_volume(volume()).expect("a row");
    put(&mut log, 1, 4096);
    let mut disk = ModelDisk::new(blocks());
    let begun = start_of(&mut disk, (7, None), Some(log.into_region()), |_| false);
    begun.expect("not refused");
    assert!(found(&mut disk).records.is_empty());
}

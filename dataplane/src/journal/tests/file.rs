//! The journal on a real file, through the thread and its ring; and a write
//! log that is lost and made again from it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrayvec::ArrayString;
use sluice_hugepages::log::{Log, NexusEntry, Pairing, RecordFlags, RecordId, VolumeId};
use sluice_hugepages::region::Region;

use super::*;
use crate::journal::begin::settle;
use crate::journal::restore::{self, Plan, entry_of, write_request};
use crate::journal::thread::{JournalPort, LogBase};
use crate::journal::{Device, JournalError};

/// A journal's file that goes with the test.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str) -> TestFile {
        let name = format!("sluice-journal-{name}-{}", std::process::id());
        let file = TestFile(std::env::temp_dir().join(name));
        let _ = fs::remove_file(&file.0);
        file
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn nexus() -> NexusEntry {
    NexusEntry {
        initiator_name: ArrayString::from("iqn.2004-03.example.computer:a").expect("short"),
        target_name: volume().target_name,
        storage: volume().storage,
        computer: "198.18.0.10:50000".parse().expect("an address"),
        lan_isid: [1; 6],
        wan_isid: [2; 6],
    }
}

fn put(log: &mut Log, volume: VolumeId, sequence: u64, len: u32) -> Vec<RecordId> {
    let id = log.reserve(volume, sequence * 64, len).expect("room");
    let fill = u8::try_from(sequence % 251).expect("a byte");
    log.append(id, &vec![fill; len as usize]);
    log.commit(id, 1 + sequence / 10, sequence, RecordFlags::NONE)
        .into_iter()
        .collect()
}

fn settle_on(device: &mut Device, core: &mut Core, log: &Log) {
    settle(device, core, |span| {
        log.pages(
            usize::try_from(span.offset).expect("inside"),
            usize::try_from(span.blocks).expect("small"),
        )
    })
    .expect("a working disk");
}

fn wait_for(port: &JournalPort, durable: u64) {
    let begun = Instant::now();
    while port.progress().durable < durable {
        assert!(port.fault().is_none(), "{:?}", port.fault());
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            port.progress()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn replayed(device: &mut Device) -> Replay {
    match replay(device).expect("a sound journal") {
        Found::Journal(replay) => *replay,
        Found::Blank => panic!("a journal was there"),
    }
}

#[test]
fn a22_a_lost_log_is_made_again_from_its_journal() {
    let file = TestFile::new("refill");
    let (mut log, _) = Log::open(Region::anonymous(16 << 20)).expect("a new log");
    let id = log.put_volume(volume()).expect("a row");
    log.put_nexus(nexus()).expect("a row");
    let mut device = Device::open(&file.0, blocks()).expect("a file can be made");
    assert!(matches!(replay(&mut device), Ok(Found::Blank)));
    let mut core = Core::format(7, blocks(), log.records_max());
    for (table, row, body) in [
        (RowTable::Volume, id.0, volume().to_row()),
        (RowTable::Nexus, 0, nexus().to_row()),
    ] {
        core.request(Request::Row(table, row, Some(Box::new(body))));
    }
    settle_on(&mut device, &mut core, &log);
    log.pair(Pairing::With(7));

    // Through the thread, while the log goes on being written.
    let (base, len) = (log.base(), log.region_len());
    // SAFETY: the log outlives the port, and no record is freed before it is durable.
    let port = unsafe { JournalPort::start(core, device, LogBase { base, len }, 4096, None) };
    let port = port.expect("a thread");
    let mut asked = port.progress().durable;
    let mut records = Vec::new();
    for sequence in 1..=120 {
        // One is longer than a record may be, so it is two.
        let len = if sequence == 60 { 3 << 19 } else { 4096 + 512 };
        for id in put(&mut log, id, sequence, len) {
            let request = write_request(&log, id, entry_of(&log, id));
            port.push(request).expect("room in the ring");
            records.push(id);
            asked += 1;
        }
        port.kick();
    }
    wait_for(&port, asked);
    let freed: Vec<RecordId> = records.drain(..40).collect();
    for id in freed {
        log.free(id);
        port.push(Request::Free { record: id.0 }).expect("room");
        asked += 1;
    }
    port.kick();
    wait_for(&port, asked);
    drop(port);

    // The power is gone, and the log with it.
    let mut device = Device::open(&file.0, blocks()).expect("the file is there");
    let found = replayed(&mut device);
    let (mut again, _) = Log::open(Region::anonymous(16 << 20)).expect("a new log");
    assert_eq!(
        restore::plan(&again, &found, None).expect("ours"),
        Plan::Refill
    );
    let restored = restore::refill(&mut again, &mut device, &found).expect("it fits");
    assert_eq!((restored.records, restored.torn), (records.len(), vec![]));
    let (mut again, recovery) = Log::open(again.into_region()).expect("sound");
    assert_eq!(recovery.damaged, []);
    assert_eq!(again.volume(id), Some(&volume()));
    assert_eq!(
        again
            .nexuses()
            .map(|(_, row)| row.clone())
            .collect::<Vec<_>>(),
        [nexus()]
    );
    assert_eq!(recovery.records.len(), records.len());
    for (&old, &new) in records.iter().zip(&recovery.records) {
        assert_eq!(log.record(old), again.record(new));
        again.verify(new).expect("its checksum agrees");
        assert_eq!(log.payload(old), again.payload(new));
    }

    // The log and its journal agree: nothing is to be written but a new run's header.
    assert_eq!(
        restore::plan(&again, &found, None).expect("ours"),
        Plan::Reconcile
    );
    let mut core = restore::reconcile(&again, &found, |_| true);
    settle_on(&mut device, &mut core, &again);
    assert_eq!(core.progress().durable, 0);

    // The log has gone on alone: what it freed is gone, what it has more is written.
    let gone = recovery.records[0];
    again.free(gone);
    put(&mut again, id, 500, 4096);
    let found = replayed(&mut device);
    let mut core = restore::reconcile(&again, &found, |_| true);
    settle_on(&mut device, &mut core, &again);
    let names: Vec<u64> = replayed(&mut device)
        .records
        .keys()
        .map(|name| name.sequence)
        .collect();
    let mut wanted: Vec<u64> = again
        .records()
        .map(|id| again.record(id).sequence)
        .collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
}

#[test]
fn a_refill_that_was_interrupted_is_done_anew() {
    let file = TestFile::new("interrupted");
    let mut device = Device::open(&file.0, blocks()).expect("a file can be made");
    let (mut log, _) = Log::open(Region::anonymous(16 << 20)).expect("a new log");
    let id = log.put_volume(volume()).expect("a row");
    put(&mut log, id, 1, 4096);
    let mut core = Core::format(7, blocks(), log.records_max());
    let body = Box::new(volume().to_row());
    core.request(Request::Row(RowTable::Volume, id.0, Some(body)));
    for id in log.records() {
        core.request(write_request(&log, id, entry_of(&log, id)));
    }
    settle_on(&mut device, &mut core, &log);
    let found = replayed(&mut device);
    let (mut half, _) = Log::open(Region::anonymous(16 << 20)).expect("a new log");
    half.pair(Pairing::Restoring(7));
    assert_eq!(
        restore::plan(&half, &found, None).expect("ours"),
        Plan::RefillAnew
    );
    // A log that went with another journal, or none, is not mixed with this one.
    let (mut other, _) = Log::open(Region::anonymous(16 << 20)).expect("a new log");
    assert_eq!(
        restore::plan(&other, &found, None).expect("never used"),
        Plan::Refill
    );
    other.put_volume(volume()).expect("a row");
    for pairing in [Pairing::None, Pairing::With(8)] {
        other.pair(pairing);
        let refused = restore::plan(&other, &found, None).expect_err("not its journal");
        assert!(
            matches!(refused, JournalError::OtherLog { records: 1, .. }),
            "{refused}"
        );
    }
}

#[test]
fn a_file_in_use_of_another_size_or_foreign_is_refused() {
    let file = TestFile::new("refused");
    let mut device = Device::open(&file.0, blocks()).expect("a file can be made");
    device.is_memory().expect("it has a file system");
    assert!(matches!(
        Device::open(&file.0, blocks()),
        Err(JournalError::Busy { .. })
    ));
    settle_on(
        &mut device,
        &mut Core::format(7, blocks(), 16),
        &Log::open(Region::anonymous(4 << 20)).expect("a log").0,
    );
    drop(device);
    let refused = Device::open(&file.0, blocks() + 256).expect_err("another size");
    assert!(matches!(refused, JournalError::Size { .. }), "{refused}");
    let opened = fs::OpenOptions::new()
        .write(true)
        .open(&file.0)
        .expect("ours");
    opened.set_len(8 << 20).expect("it can be cut off");
    let refused = Device::open(&file.0, blocks()).expect_err("cut off");
    assert!(
        matches!(refused, JournalError::Truncated { .. }),
        "{refused}"
    );
    fs::write(&file.0, vec![1; 1 << 20]).expect("ours");
    let refused = Device::open(&file.0, blocks()).expect_err("foreign");
    assert!(matches!(refused, JournalError::Foreign { .. }), "{refused}");
    // Short ones, and ones that begin with zeroes, are not ours to write over.
    fs::write(&file.0, "someone's notes").expect("ours");
    let refused = Device::open(&file.0, blocks()).expect_err("foreign");
    assert!(matches!(refused, JournalError::Foreign { .. }), "{refused}");
    assert_eq!(fs::read(&file.0).expect("ours"), b"someone's notes");
    let len = usize::try_from(blocks()).expect("small") * BLOCK_LEN;
    let mut image = vec![0; len];
    image[len - 100] = 1;
    fs::write(&file.0, &image).expect("ours");
    let refused = Device::open(&file.0, blocks()).expect_err("foreign");
    assert!(matches!(refused, JournalError::Foreign { .. }), "{refused}");
    assert!(fs::read(&file.0).expect("ours") == image);
    let nowhere = PathBuf::from("/nonexistent/journal");
    let refused = Device::open(&nowhere, blocks()).expect_err("no directory");
    assert!(
        refused.to_string().contains("/nonexistent/journal"),
        "{refused}"
    );
}

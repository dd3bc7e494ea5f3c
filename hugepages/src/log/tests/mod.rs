//! The log against an oracle; what each file of tests is about:
//! [`crash`] stops after any store, [`hostile`] puts other bytes in,
//! [`room`] counts segments. Here: what they share.

mod crash;
mod hostile;
mod moving;
mod room;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use arrayvec::ArrayString;

use super::*;
use crate::region::HUGEPAGE_LEN;

pub(super) const BLOCK_LEN: u32 = 512;

/// An anonymous region of `segments` segments, the directory's one included.
fn region(segments: usize) -> Region {
    Region::anonymous(segments * HUGEPAGE_LEN)
}

fn open(region: Region) -> (Log, Recovery) {
    Log::open(region).expect("a log or an empty region")
}

fn name(text: &str) -> ArrayString<NAME_LEN_MAX> {
    ArrayString::from(text).expect("a short name")
}

fn volume_entry(lun: u64) -> VolumeEntry {
    VolumeEntry {
        target_name: name("iqn.2004-03.example.storage:vol0"),
        lun,
        storage: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
        block_len: BLOCK_LEN,
        blocks: 1 << 20,
        flags: VolumeFlags::default(),
    }
}

fn nexus_entry(isid: u8) -> NexusEntry {
    NexusEntry {
        initiator_name: name("iqn.2004-03.example.computer:c0"),
        target_name: name("iqn.2004-03.example.storage:vol0"),
        storage: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
        computer: SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 10), 40000),
        lan_isid: [isid; 6],
        wan_isid: [isid, 1, 2, 3, 4, 5],
    }
}

/// Bytes that say which write they are of and where in it.
fn pattern(stamp: u64, len: u32) -> Vec<u8> {
    let words = (0..u64::from(len.div_ceil(8))).map(|at| (stamp << 24 ^ at).to_le_bytes());
    words.flatten().take(len as usize).collect()
}

/// Reserve, append in pieces, commit.
fn write(log: &mut Log, volume: VolumeId, lba: u64, len: u32, sequence: u64) -> Parts {
    let id = log.reserve(volume, lba, len).expect("room");
    for piece in pattern(sequence, len).chunks(5000) {
        log.append(id, piece);
    }
    assert_eq!(log.received(id), len);
    log.commit(id, 1, sequence, RecordFlags::NONE)
}

/// A committed record as a reader of the log sees it, by (volume, sequence, part).
type Seen = BTreeMap<(VolumeId, u64, u8), (Record, Vec<u8>)>;

fn seen(log: &mut Log) -> Seen {
    let ids: Vec<_> = log.records().collect();
    let all = ids.into_iter().map(|id| {
        log.verify(id).expect("no payload is torn");
        let record = *log.record(id);
        (
            (record.volume, record.sequence, record.part),
            (record, log.payload(id).to_vec()),
        )
    });
    let all: Vec<_> = all.collect();
    let count = all.len();
    let seen: Seen = all.into_iter().collect();
    assert_eq!(seen.len(), count, "a record is there twice");
    seen
}

#[test]
fn records_and_rows_are_found_again() {
    let (mut log, recovery) = open(region(4));
    assert!(recovery.formatted);
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let nexus = log.put_nexus(nexus_entry(1)).unwrap();
    write(&mut log, volume, 0, 4096, 1);
    let id = log.reserve(volume, 8, 512).unwrap();
    log.append(id, &pattern(2, 512));
    let parts = log.commit(id, 3, 2, RecordFlags::ORDERING_POINT);
    assert_eq!(parts.len(), 1);
    let before = seen(&mut log);

    let (mut log, recovery) = open(log.into_region());
    assert!(!recovery.formatted);
    assert_eq!(recovery.damaged, []);
    let order: Vec<_> = recovery
        .records
        .iter()
        .map(|&id| log.record(id).sequence)
        .collect();
    assert_eq!(order, [1, 2]);
    let volume_recovery = VolumeRecovery {
        volume,
        records: 2,
        dirty_bytes: 4608,
        epoch_max: 3,
        sequence_max: 2,
    };
    assert_eq!(recovery.volumes, [volume_recovery]);
    assert_eq!(log.volume(volume), Some(&volume_entry(1)));
    assert_eq!(log.nexus(nexus), Some(&nexus_entry(1)));
    let last = log.record(recovery.records[1]);
    assert!(last.flags.contains(RecordFlags::ORDERING_POINT));
    assert_eq!(seen(&mut log), before);

    // What is freed is gone for good, and its sequence is remembered while its header is.
    log.free(recovery.records[1]);
    let (mut log, recovery) = open(log.into_region());
    assert_eq!(seen(&mut log).len(), 1);
    assert_eq!(recovery.volumes[0].sequence_max, 2);
}

#[test]
fn writes_complete_out_of_order_and_are_ordered_by_commit() {
    let (mut log, _) = open(region(4));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let first = log.reserve(volume, 0, 1024).unwrap();
    let second = log.reserve(volume, 0, 1024).unwrap();
    log.append(first, &[1; 1000]);
    log.append(second, &[2; 1024]);
    log.commit(second, 1, 1, RecordFlags::NONE);
    log.append(first, &[1; 24]);
    log.commit(first, 1, 2, RecordFlags::NONE);
    let (mut log, recovery) = open(log.into_region());
    let payloads: Vec<u8> = recovery
        .records
        .iter()
        .map(|&id| {
            log.verify(id).unwrap();
            log.payload(id)[0]
        })
        .collect();
    assert_eq!(payloads, [2, 1]);
}

#[test]
fn payload_is_page_aligned() {
    let (mut log, _) = open(region(4));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    for sequence in 1..20 {
        for &id in &write(&mut log, volume, 0, 512 * 3, sequence) {
            assert_eq!(log.payload(id).as_ptr().addr() % 4096, 0);
        }
    }
}

#[test]
fn the_directory_keeps_its_rules() {
    let (mut log, _) = open(region(2));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let bad = VolumeEntry {
        block_len: 520,
        ..volume_entry(2)
    };
    assert!(matches!(
        log.put_volume(bad),
        Err(LogError::BlockLen { .. })
    ));
    let ids = write(&mut log, volume, 0, 512, 1);
    assert!(matches!(
        log.remove_volume(volume),
        Err(LogError::InUse { records: 1, .. })
    ));
    let shrunk = VolumeEntry {
        blocks: 1,
        ..volume_entry(1)
    };
    assert!(matches!(
        log.update_volume(volume, shrunk),
        Err(LogError::InUse { .. })
    ));
    // One that grows holds its records as before.
    let refusing = VolumeEntry {
        flags: VolumeFlags::REFUSES_WRITES,
        blocks: volume_entry(1).blocks + 1,
        ..volume_entry(1)
    };
    log.update_volume(volume, refusing.clone()).unwrap();
    log.free(ids[0]);
    let (mut log, _) = open(log.into_region());
    assert_eq!(log.volumes().collect::<Vec<_>>(), [(volume, &refusing)]);
    log.remove_volume(volume).unwrap();
    assert!(matches!(
        log.remove_volume(volume),
        Err(LogError::NoRow { .. })
    ));
    assert!(matches!(
        log.update_nexus(NexusId(0), nexus_entry(1)),
        Err(LogError::NoRow { .. })
    ));
    let (mut log, _) = open(log.into_region());
    assert_eq!(log.volumes().count(), 0);
    let rows = std::iter::from_fn(|| log.put_volume(volume_entry(7)).ok()).count();
    assert_eq!(rows, 511);
    assert!(matches!(
        log.put_volume(volume_entry(7)),
        Err(LogError::RowsFull { .. })
    ));
}

#[test]
#[should_panic(expected = "with all its bytes")]
fn a_commit_without_all_bytes_is_a_bug() {
    let (mut log, _) = open(region(2));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let id = log.reserve(volume, 0, 1024).unwrap();
    log.append(id, &[0; 1023]);
    log.commit(id, 1, 1, RecordFlags::NONE);
}

#[test]
#[should_panic(expected = "before its payload was verified")]
fn payload_found_at_attach_is_not_used_unverified() {
    let (mut log, _) = open(region(2));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    write(&mut log, volume, 0, 512, 1);
    let (log, recovery) = open(log.into_region());
    log.payload(recovery.records[0]);
}

#[test]
fn an_end_in_good_order_is_told_once() {
    let (log, recovery) = open(region(4));
    assert!(recovery.formatted && !recovery.clean);
    let (mut log, recovery) = Log::open(log.into_region()).unwrap();
    assert!(!recovery.clean, "nobody said so");
    log.close();
    // Who only looks, or cannot start, leaves it.
    let (log, recovery) = Log::open(log.into_region()).unwrap();
    assert!(recovery.clean);
    let (mut log, recovery) = Log::open(log.into_region()).unwrap();
    assert!(recovery.clean);
    log.begin();
    let (_, recovery) = Log::open(log.into_region()).unwrap();
    assert!(!recovery.clean);
}

#[test]
fn an_opening_tells_how_far_it_is() {
    let (log, _) = open(region(300));
    let mut told = Vec::new();
    Log::open_with_progress(log.into_region(), &mut |at| told.push(at)).unwrap();
    assert!(told.len() >= 4, "{told:?}");
    assert!(told.is_sorted_by_key(|at| at.segments_done));
    assert!(
        told.iter()
            .all(|at| at.segments == 300 && at.segments_done < 300)
    );
}

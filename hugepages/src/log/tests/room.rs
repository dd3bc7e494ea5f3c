//! Room is counted in segments, taken whole or not at all, and all comes back.

use super::*;

const PAGE: u32 = 4096;
/// Payload pages of a segment.
const PAGES: u32 = 504;

#[test]
fn a_write_is_taken_whole_or_not_at_all() {
    let (mut log, _) = open(region(1 + 3));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let other = log.put_volume(volume_entry(2)).unwrap();
    assert_eq!(log.room().bytes_total, 3 * 504 * 4096);
    // 5 MiB need 1280 pages: three segments of 504.
    let write = log.reserve(volume, 0, 5 << 20).unwrap();
    assert_eq!(log.room().segments_free, 0);
    let no_room = NoRoom {
        segments_wanted: 1,
        segments_free: 0,
    };
    assert_eq!(log.reserve(other, 0, 512), Err(no_room));
    // The rest of the open segment is the same volume's.
    let left = (3 * PAGES - 1280) * PAGE;
    assert!(log.fits(volume, left) && !log.fits(volume, left + 512));
    log.abort(write);
    assert_eq!(log.room().segments_free, 3);
    assert!(log.reserve(other, 0, 512).is_ok());
}

#[test]
fn the_longest_write_has_the_parts_that_are_derived() {
    assert_eq!(WRITE_PARTS_MAX, 36);
    let (mut log, _) = open(region(1 + 19));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    for (tail_pages, parts) in [(0, 33), (1, 34), (127, 34), (128, 33), (257, 34), (503, 33)] {
        let before = (PAGES - tail_pages) * PAGE % (PAGES * PAGE);
        let filler = (before > 0).then(|| log.reserve(volume, 0, before).unwrap());
        let id = log.reserve(volume, 0, 32 << 20).unwrap();
        for piece in pattern(9, 32 << 20).chunks(1 << 20) {
            log.append(id, piece);
        }
        // What is not a record yet can be read all the same, across parts.
        for (offset, len) in [(0, 5000), ((1 << 20) - 3, 2 << 20), ((32 << 20) - 7, 7)] {
            let mut read = vec![0; len];
            log.copy_received(id, offset, &mut read);
            assert!(read == pattern(9, 32 << 20)[offset..offset + len]);
        }
        let ids = log.commit(id, 1, 1, RecordFlags::NONE);
        assert_eq!(ids.len(), parts, "after a tail of {tail_pages} pages");
        let mut whole = Vec::new();
        for &id in &ids {
            assert_eq!(log.record(id).lba, whole.len() as u64 / 512);
            assert!(log.record(id).len as usize <= RECORD_LEN_MAX);
            whole.extend_from_slice(log.payload(id));
        }
        assert!(whole == pattern(9, 32 << 20));
        ids.iter().for_each(|&id| log.free(id));
        if let Some(filler) = filler {
            log.abort(filler);
        }
        assert_eq!(log.room().segments_free, 19);
    }
}

#[test]
fn a_segment_is_free_when_its_last_record_is() {
    let (mut log, _) = open(region(1 + 2));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let mut ids: Vec<_> = (0..504)
        .map(|n| write(&mut log, volume, n, 512, n + 1)[0])
        .collect();
    assert_eq!(log.room().segments_free, 1);
    assert_eq!(log.volume_use(volume).dirty_bytes, 504 * 512);
    let kept = ids.pop().unwrap();
    ids.into_iter().for_each(|id| log.free(id));
    assert_eq!(log.room().segments_free, 1);
    log.free(kept);
    assert_eq!(log.room().segments_free, 2);
    assert_eq!(log.volume_use(volume), VolumeUse::default());
    // Its stale headers are of another life.
    write(&mut log, volume, 0, 512, 1000);
    let (mut log, _) = open(log.into_region());
    assert_eq!(seen(&mut log).len(), 1);
    assert!(log.fits(volume, (504 + 503) * PAGE) && !log.fits(volume, (504 + 504) * PAGE));
}

/// Records come back in the order of their commits, which is not the one that they
/// were reserved in: what fitted before fits again.
#[test]
fn what_is_restored_finds_the_room_behind_longer_ones() {
    let (mut log, _) = open(region(1 + 2));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    for (pages, sequence) in [(256, 1), (256, 2), (240, 3), (240, 4), (8, 5)] {
        let record = Record {
            volume,
            epoch: 1,
            sequence,
            lba: sequence * 4096,
            len: pages * PAGE,
            flags: RecordFlags::NONE,
            part: 0,
            parts: 1,
        };
        let bytes = pattern(sequence, record.len);
        let crc = crc32c::crc32c(&bytes);
        // The last one's bytes are not those that were written.
        let crc = if sequence == 5 { !crc } else { crc };
        log.restore_record(&record, &bytes, crc).expect("room");
    }
    let (mut again, recovery) = open(log.into_region());
    assert_eq!((recovery.damaged, recovery.records.len()), (vec![], 5));
    let mut sound = 0;
    for &id in &recovery.records {
        sound += usize::from(again.verify(id).is_ok());
    }
    assert_eq!(sound, 4);
}

#[test]
fn a_retired_record_is_read_on_and_not_found_again() {
    let (mut log, _) = open(region(1 + 2));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let old = write(&mut log, volume, 0, 4096, 1)[0];
    let new = write(&mut log, volume, 8, 4096, 2)[0];
    let held = log.payload(old).to_vec();
    log.retire(old);
    assert!(log.payload(old) == held, "until it is freed");
    log.free(new);
    assert_eq!(log.room().segments_free, 1, "its payload is in the other");
    let (mut again, _) = open(log.into_region());
    assert!(seen(&mut again).is_empty());
    assert_eq!(again.room().segments_free, 2);
}

#[test]
fn a_volume_goes_on_in_its_segment_after_a_restart() {
    let (mut log, _) = open(region(1 + 1));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    for sequence in 1..=504 {
        write(&mut log, volume, sequence, 4096, sequence);
        log = open(log.into_region()).0;
    }
    assert!(!log.fits(volume, 512));
    assert_eq!(seen(&mut log).len(), 504);
}

#[test]
fn an_aborted_write_at_the_end_gives_its_pages_back() {
    let (mut log, _) = open(region(1 + 1));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    write(&mut log, volume, 0, 512, 1);
    for _ in 0..1000 {
        let id = log.reserve(volume, 0, 1 << 20).unwrap();
        log.append(id, &[7; 9999]);
        log.abort(id);
    }
    assert!(log.fits(volume, 503 * PAGE));
}

#[test]
#[should_panic(expected = "of 1048576 blocks")]
fn blocks_beyond_the_volume_are_a_bug_of_the_caller() {
    let (mut log, _) = open(region(2));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let _ = log.reserve(volume, (1 << 20) - 1, 1024);
}

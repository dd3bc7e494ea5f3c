//! Live records move together, and what they leave is free.

use super::*;

const BLOCKS: u64 = 8;

/// Moves all of the sparsest segment; whether there was one.
fn empty_sparsest(log: &mut Log) -> bool {
    let Some(mut emptying) = log.sparsest_segment() else {
        return false;
    };
    while let Some(id) = log.next_to_move(&mut emptying) {
        assert_eq!(log.move_record(id), Moved::Pages(1));
    }
    true
}

#[test]
fn half_dead_segments_become_free() {
    let (mut log, _) = open(region(1 + 8));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    // Seven segments of pages, of which every other is hidden.
    let ids: Vec<_> = (0..7 * 504)
        .map(|n| write(&mut log, volume, n % 100 * BLOCKS, 4096, n + 1)[0])
        .collect();
    for id in ids.iter().step_by(2) {
        log.free(*id);
    }
    assert_eq!(log.room().segments_free, 1);
    let expected = seen(&mut log);
    while empty_sparsest(&mut log) {}
    // 1764 pages are three segments and a half; the open one counts.
    assert_eq!(log.room().segments_free, 4);
    assert!(seen(&mut log) == expected, "the ids are good for the same");
    let (mut log, recovery) = open(log.into_region());
    assert_eq!(recovery.damaged, []);
    assert!(seen(&mut log) == expected);
    for id in recovery.records {
        log.free(id);
    }
    assert_eq!(log.room().segments_free, 8);
}

#[test]
fn a_log_that_is_nearly_all_live_is_left_alone() {
    let (mut log, _) = open(region(1 + 3));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let mut ids: Vec<_> = (0..2 * 504)
        .map(|n| write(&mut log, volume, n % 100 * BLOCKS, 4096, n + 1)[0])
        .collect();
    for _ in 0..62 {
        log.free(ids.remove(0));
    }
    assert_eq!(log.sparsest_segment(), None, "442 of 504 are live");
    log.free(ids.remove(0));
    assert!(log.sparsest_segment().is_some());
}

#[test]
fn what_is_retired_or_received_stays_where_it_is() {
    let (mut log, _) = open(region(1 + 4));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let retired = write(&mut log, volume, 0, 4096, 1)[0];
    let live = write(&mut log, volume, 8, 4096, 2)[0];
    let filler = write(&mut log, volume, 16, 502 * 4096, 3);
    let _open = write(&mut log, volume, 0, 4096, 4);
    filler.iter().for_each(|&id| log.free(id));
    log.retire(retired);
    let mut emptying = log.sparsest_segment().unwrap();
    assert_eq!(log.next_to_move(&mut emptying), Some(live));
    assert_eq!(log.move_record(live), Moved::Pages(1));
    assert_eq!(log.next_to_move(&mut emptying), None);
    assert_eq!(log.sparsest_segment(), None, "it is not offered again");
    assert_eq!(log.payload(retired), pattern(1, 4096), "it is still read");
    let free = log.room().segments_free;
    log.free(retired);
    assert_eq!(log.room().segments_free, free + 1);

    // Data that is still to come keeps a segment as it is.
    let (mut log, _) = open(region(1 + 4));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let receiving = log.reserve(volume, 0, 4096).unwrap();
    let _rest = write(&mut log, volume, 16, 503 * 4096, 3);
    let _open = write(&mut log, volume, 0, 4096, 4);
    for part in log.records().collect::<Vec<_>>() {
        if log.record(part).sequence == 3 {
            log.free(part);
        }
    }
    assert_eq!(log.sparsest_segment(), None);
    log.abort(receiving);
}

#[test]
fn a23_a_record_that_rots_is_not_copied() {
    let (mut log, _) = open(region(1 + 3));
    let volume = log.put_volume(volume_entry(1)).unwrap();
    let id = write(&mut log, volume, 0, 4096, 1)[0];
    let filler = write(&mut log, volume, 16, 503 * 4096, 2);
    let _open = write(&mut log, volume, 0, 4096, 3);
    filler.iter().for_each(|&id| log.free(id));
    let offset = log.payload_offset(id);
    let (mut log, recovery) = open(hostile::poke(log, offset + 80, |word| word ^ 1));
    let rotten = recovery.records[0];
    let mut emptying = log.sparsest_segment().unwrap();
    assert_eq!(log.next_to_move(&mut emptying), Some(rotten));
    assert_eq!(log.move_record(rotten), Moved::Unsound);
    log.pass_over(&mut emptying);
    assert_eq!(log.next_to_move(&mut emptying), None);
    assert!(log.verify(rotten).is_err(), "who uses it finds it");
}

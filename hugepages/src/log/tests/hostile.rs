//! Bytes that no log wrote: refused, or listed and kept, and never a panic.

use proptest::prelude::*;

use super::*;
use crate::log::layout::{
    COMMITTED, FREED, HEADER_PAGES, Life, PREPARED, ROW_COPY_LEN, SEGMENT_CLAIMED, SEGMENT_FREE,
    SEGMENT_LEN, VERSION, slot_offset,
};

/// Two volumes with a few records each, some freed, one of several parts.
fn sample() -> Log {
    let (mut log, _) = open(region(1 + 4));
    for lun in 0..2 {
        let volume = log.put_volume(volume_entry(lun)).unwrap();
        for sequence in 1..6 {
            let ids = write(&mut log, volume, sequence * 100, 6000 / 512 * 512, sequence);
            if sequence == 3 {
                ids.iter().for_each(|&id| log.free(id));
            }
        }
        write(&mut log, volume, 0, (1 << 20) + 512, 6);
    }
    log.put_nexus(nexus_entry(1)).unwrap();
    log
}

pub(super) fn poke(log: Log, offset: usize, change: impl FnOnce(u64) -> u64) -> Region {
    let mut memory = log.memory;
    let word = memory.load(offset);
    memory.store(offset, change(word));
    memory.into_region()
}

#[test]
fn an_unknown_version_is_refused_and_says_what_to_do() {
    let region = poke(sample(), 8, |word| word + (1 << 32));
    let error = Log::open(region).unwrap_err();
    let known = VERSION;
    assert!(
        matches!(error, LogError::Version { found, known: k } if (found, k) == (known + 1, known))
    );
    assert!(
        error
            .to_string()
            .contains("start the release that wrote it"),
        "{error}"
    );
}

#[test]
fn foreign_bytes_are_refused() {
    for offset in [0, 64, 4096, 2 * SEGMENT_LEN] {
        let mut memory = Memory::new(region(3), Fuse::NEVER);
        memory.store(offset, u64::from_le_bytes(*b"LUKS\xba\xbe\0\x01"));
        let error = Log::open(memory.into_region()).unwrap_err();
        assert!(
            matches!(error, LogError::Foreign { .. }),
            "at {offset}: {error}"
        );
    }
}

#[test]
fn a_damaged_superblock_or_another_length_is_refused() {
    let error = Log::open(poke(sample(), 24, |word| word ^ 1)).unwrap_err();
    assert!(matches!(error, LogError::Superblock), "{error}");
    let longer = region(6);
    let log = sample();
    // SAFETY: both mappings are at least as long, apart, and held by this test alone.
    unsafe {
        std::ptr::copy_nonoverlapping(
            log.memory.bytes(0, 5 * SEGMENT_LEN).as_ptr(),
            longer.ptr(),
            5 * SEGMENT_LEN,
        );
    }
    let error = Log::open(longer).unwrap_err();
    assert!(
        matches!(
            error,
            LogError::Segments {
                found: 5,
                wanted: 6
            }
        ),
        "{error}"
    );
    let small = Log::open(region(1)).unwrap_err();
    assert!(matches!(small, LogError::TooSmall { .. }), "{small}");
}

#[test]
fn a_torn_payload_is_found_before_its_first_use() {
    let log = sample();
    let id = log.records().next().unwrap();
    let offset = log.slab.get(id.0).payload_offset();
    let victim = *log.record(id);
    let (mut log, recovery) = open(poke(log, offset, |word| word ^ 1));
    assert_eq!(recovery.damaged, []);
    let torn: Vec<Torn> = recovery
        .records
        .iter()
        .filter_map(|&id| log.verify(id).err())
        .collect();
    assert_eq!(torn.len(), 1);
    assert_eq!(
        (torn[0].sequence, torn[0].lba),
        (victim.sequence, victim.lba)
    );
    assert!(torn[0].to_string().contains("must be failed"));
}

#[test]
fn a_damaged_header_is_listed_kept_and_given_up_on_request() {
    let log = sample();
    let all = log.records().count();
    let id = log.records().next().unwrap();
    let (victim, offset) = (*log.record(id), log.slab.get(id.0).slot_offset());
    let (log, recovery) = open(poke(log, offset + 8, |lba| lba ^ 0x100));
    let [damage] = recovery.damaged[..] else {
        panic!("{:?}", recovery.damaged)
    };
    assert_eq!(damage.kind, DamageKind::HeaderChecksum);
    assert_eq!(
        (damage.volume, damage.sequence),
        (Some(victim.volume), victim.sequence)
    );
    assert_eq!(recovery.records.len(), all - 1);
    // Its segment is not recycled, in this life or the next.
    let (mut log, recovery) = open(log.into_region());
    recovery.records.iter().for_each(|&id| log.free(id));
    assert_eq!(
        (log.room().segments_damaged, log.room().segments_free),
        (1, 3)
    );
    assert!(matches!(
        log.remove_volume(victim.volume),
        Err(LogError::InUse { .. })
    ));
    assert_eq!(log.discard_damaged(Some(victim.volume)), 1);
    let (log, recovery) = open(log.into_region());
    assert_eq!((recovery.damaged.len(), log.room().segments_free), (0, 4));
}

#[test]
fn a_damaged_segment_is_set_apart_whole() {
    let log = sample();
    let segment = log.slab.get(log.records().next().unwrap().0).segment as usize;
    let (mut log, recovery) = open(poke(log, slot_offset(segment, 0) + 8, |word| {
        word ^ 1 << 40
    }));
    assert_eq!(recovery.damaged.len(), 1);
    assert_eq!(recovery.damaged[0].kind, DamageKind::SegmentHeader);
    recovery.records.iter().for_each(|&id| log.free(id));
    assert_eq!(log.room().segments_free, 3);
    assert_eq!(log.discard_damaged(None), 1);
    let (_, recovery) = open(log.into_region());
    assert_eq!((recovery.damaged, recovery.records), (vec![], vec![]));
}

/// Any bit of the word that says whether a record counts: a committed one that
/// turned into a freed one would be a write that was acknowledged and is gone.
#[test]
fn a_bit_that_turns_over_in_a_records_state_is_told() {
    for bit in 0..64 {
        let log = sample();
        let id = log.records().next().unwrap();
        let (victim, all) = (*log.record(id), log.records().count());
        let offset = log.slab.get(id.0).slot_offset();
        let (mut log, recovery) = open(poke(log, offset, |word| word ^ 1 << bit));
        let [damage] = recovery.damaged[..] else {
            panic!("bit {bit}: {:?}", recovery.damaged)
        };
        assert_eq!(damage.kind, DamageKind::Life, "bit {bit}");
        assert_eq!(
            (damage.volume, damage.sequence, damage.lba),
            (Some(victim.volume), victim.sequence, victim.lba)
        );
        assert_eq!(recovery.records.len(), all - 1);
        assert_eq!(log.discard_damaged(Some(victim.volume)), 1);
        let (_, recovery) = open(log.into_region());
        assert_eq!(
            (recovery.damaged.len(), recovery.records.len()),
            (0, all - 1)
        );
    }
}

/// The same of a segment, which would take all its records along.
#[test]
fn a_bit_that_turns_over_in_a_segments_state_is_told() {
    for bit in 0..64 {
        let log = sample();
        let segment = log.slab.get(log.records().next().unwrap().0).segment as usize;
        let (mut log, recovery) = open(poke(log, slot_offset(segment, 0), |word| word ^ 1 << bit));
        let [damage] = recovery.damaged[..] else {
            panic!("bit {bit}: {:?}", recovery.damaged)
        };
        assert_eq!((damage.kind, damage.slot), (DamageKind::Life, None));
        recovery.records.iter().for_each(|&id| log.free(id));
        assert_eq!(log.discard_damaged(None), 1);
        let (_, recovery) = open(log.into_region());
        assert_eq!((recovery.damaged, recovery.records), (vec![], vec![]));
    }
}

/// So two bits that turn over make none of them another.
#[test]
fn the_states_of_a_record_and_of_a_segment_differ_in_more_than_two_bits() {
    let states = [PREPARED, COMMITTED, FREED];
    let pairs = states.iter().flat_map(|a| states.map(|b| (*a, b)));
    for (a, b) in pairs
        .filter(|(a, b)| a != b)
        .chain([(SEGMENT_FREE, SEGMENT_CLAIMED)])
    {
        let [a, b] = [a, b].map(|state| Life::new(state, 7).encode());
        assert!((a ^ b).count_ones() > 2, "{a:#x} {b:#x}");
    }
}

#[test]
fn a_record_that_stands_twice_counts_once_and_two_of_one_name_are_damage() {
    for other_contents in [false, true] {
        let (mut log, _) = open(region(1 + 2));
        let volume = log.put_volume(volume_entry(1)).unwrap();
        write(&mut log, volume, 0, 512, 1);
        // The same sequence again: what a mover leaves when it is stopped, or a bug.
        let id = log.reserve(volume, 0, 512).unwrap();
        log.append(id, &pattern(if other_contents { 2 } else { 1 }, 512));
        log.commit(id, 1, 1, RecordFlags::NONE);
        let (log, recovery) = open(log.into_region());
        assert_eq!(recovery.records.len(), 1);
        let kinds: Vec<_> = recovery.damaged.iter().map(|damage| damage.kind).collect();
        assert_eq!(
            kinds,
            if other_contents {
                vec![DamageKind::Duplicate]
            } else {
                vec![]
            }
        );
        assert_eq!(log.volume_use(volume).records, 1);
    }
}

/// One copy stands in for the other, whichever word of it rots, and is made again.
#[test]
fn a_row_outlives_the_loss_of_one_copy() {
    for copy in [0, ROW_COPY_LEN] {
        for word in 0..ROW_COPY_LEN / 8 {
            let mut log = sample();
            let mut entry = volume_entry(1);
            entry.flags = VolumeFlags::RESERVED;
            log.update_volume(VolumeId(1), entry.clone()).unwrap();
            let row = log.geometry.volume_row(1);
            let at = row + copy + word * 8;
            let (log, recovery) = open(poke(log, at, |word| word ^ 1));
            assert!(recovery.has_all_volumes().is_ok() && recovery.damaged.is_empty());
            assert_eq!(log.volume(VolumeId(1)), Some(&entry), "byte {at}");
            // The other may rot next.
            let other = row + (ROW_COPY_LEN - copy) + 16;
            let (log, recovery) = open(poke(log, other, |word| word ^ 1));
            assert!(recovery.has_all_volumes().is_ok());
            assert_eq!(log.volume(VolumeId(1)), Some(&entry), "byte {at}");
        }
    }
}

#[test]
fn a_row_with_both_copies_damaged_hides_its_volume_and_keeps_its_records() {
    let log = sample();
    let row = log.geometry.volume_row(1);
    let kept = log.volume_use(VolumeId(1)).records as usize;
    let mut memory = log.memory;
    for copy in [row, row + ROW_COPY_LEN] {
        let word = memory.load(copy + 16);
        memory.store(copy + 16, word ^ 1);
    }
    let (mut log, recovery) = open(memory.into_region());
    assert_eq!(recovery.damaged_volume_rows, [VolumeId(1)]);
    let refused = recovery.has_all_volumes().unwrap_err();
    assert!(
        matches!(refused, LogError::VolumeRow { row: 1 }),
        "{refused}"
    );
    assert_eq!(log.volumes().count(), 1);
    assert_eq!(recovery.damaged.len(), kept);
    assert!(
        recovery
            .damaged
            .iter()
            .all(|damage| damage.kind == DamageKind::UnknownVolume)
    );
    assert_eq!(
        log.put_volume(volume_entry(9)).unwrap(),
        VolumeId(2),
        "the row is not reused"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Headers, rows and superblock with any words changed: an error, or a log
    /// whose every record is inside its volume and its bytes inside the region.
    #[test]
    fn any_words_are_survived(changes in prop::collection::vec((0..5usize, 0..4096usize, any::<u64>(), 0..4u8), 1..40)) {
        let mut memory = sample().memory;
        for (segment, word, value, how) in changes {
            let at = segment * SEGMENT_LEN + word % (HEADER_PAGES * 4096 / 8) * 8;
            // The first few headers and rows are where something stands.
            let at = if how < 2 { at % SEGMENT_LEN % 1024 + segment * SEGMENT_LEN } else { at } & !7;
            let old = memory.load(at);
            memory.store(at, if how % 2 == 0 { old ^ 1 << (value % 64) } else { value });
        }
        if let Ok((mut log, recovery)) = Log::open(memory.into_region()) {
            for &id in &recovery.records {
                let record = *log.record(id);
                let entry = log.volume(record.volume).expect("of a volume that is there");
                prop_assert!(entry.holds(record.lba, record.len.into()));
                if log.verify(id).is_ok() {
                    prop_assert_eq!(log.payload(id).len(), record.len as usize);
                }
            }
            // It goes on: what is sound is freed, the rest given up.
            recovery.records.iter().for_each(|&id| log.free(id));
            let volumes: Vec<_> = (0..511).map(|row| Some(VolumeId(row))).chain([None]).collect();
            for volume in volumes {
                log.discard_damaged(volume);
            }
            let room = log.room();
            prop_assert_eq!((room.segments_free, room.segments_damaged), (4, 0));
            let (_, recovery) = open(log.into_region());
            prop_assert!(recovery.damaged.is_empty() && recovery.records.is_empty());
        }
    }
}

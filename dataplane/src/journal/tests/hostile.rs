//! Foreign, cut off, damaged, of another version, failing: refused or told,
//! never guessed.

use super::*;
use crate::journal::JournalError;
use crate::journal::replay::Payloads;

/// A journal of three groups of one record each.
fn three_groups() -> (ModelDisk, Vec<u8>) {
    let log = vec![0x5a; LOG_LEN];
    let mut disk = ModelDisk::new(blocks());
    let mut core = Core::format(7, blocks(), 16);
    settle(&mut core, &mut disk, &log);
    for record in 0..3 {
        core.request(write(record, u64::from(record) + 1, &log, 8192, 4096));
        settle(&mut core, &mut disk, &log);
    }
    (disk, log)
}

#[test]
fn blank_is_not_foreign_and_foreign_is_refused() {
    let mut disk = ModelDisk::new(blocks());
    assert!(matches!(replay(&mut disk), Ok(Found::Blank)));
    disk.blocks[0].0[..8].copy_from_slice(b"NOT OURS");
    let refused = replay(&mut disk).expect_err("foreign");
    assert!(
        refused.to_string().contains("not a Sluice journal"),
        "{refused}"
    );
}

#[test]
fn another_version_is_refused_with_what_to_do() {
    let (mut disk, _) = three_groups();
    for copy in 0..2 {
        disk.blocks[copy].0[12] = 9;
    }
    let refused = replay(&mut disk).expect_err("version 9");
    assert!(matches!(refused, JournalError::Version { found: 9 }));
    assert!(
        refused.to_string().contains("drain all volumes"),
        "{refused}"
    );
}

#[test]
fn a_file_that_was_cut_off_is_refused() {
    let (mut disk, _) = three_groups();
    disk.blocks.truncate(2000);
    let refused = replay(&mut disk).expect_err("short");
    assert!(matches!(
        refused,
        JournalError::Truncated { found: 2000, .. }
    ));
}

/// Whichever copy of the header is left, nothing durable is missed: the space
/// that the older one speaks of is not used again before both have moved on.
#[test]
fn either_copy_of_the_header_is_enough() {
    let log = vec![0x5a; LOG_LEN];
    let mut disk = ModelDisk::new(blocks());
    let mut core = Core::format(7, blocks(), 16);
    settle(&mut core, &mut disk, &log);
    // More than three times round, each record freed before the next but one.
    for sequence in 1..=80_u32 {
        if sequence % 27 == 0 {
            let replayed = found(&mut disk);
            let held = replayed.records.iter().map(|(&name, kept)| {
                let record = u32::try_from(kept.entry.identity.sequence % 2).expect("small");
                (record, name)
            });
            core = Core::resume(&replayed, 16, held.collect::<Vec<_>>().into_iter());
            settle(&mut core, &mut disk, &log);
        }
        core.request(Request::Free {
            record: sequence % 2,
        });
        core.request(write(sequence % 2, u64::from(sequence), &log, 0, 1 << 20));
        settle(&mut core, &mut disk, &log);
        assert!(core.is_idle(), "{:?}", core.progress());
        if sequence % 3 != 0 {
            continue;
        }
        let whole = found(&mut disk);
        // A bit of its magic, or of what it says.
        for (copy, byte) in [(0, 30), (1, 30), (0, 3), (1, 3)] {
            let mut disk = ModelDisk {
                blocks: disk.blocks.clone(),
                fails: false,
            };
            disk.blocks[copy].0[byte] ^= 1;
            assert_eq!(
                found(&mut disk).records,
                whole.records,
                "{sequence}, copy {copy}"
            );
            disk.blocks[1 - copy].0[30] ^= 1;
            let refused = replay(&mut disk);
            assert!(matches!(
                refused,
                Err(JournalError::Headers | JournalError::Foreign { .. })
            ));
        }
    }
    assert!(core.next_address() > 3 * AREA_BLOCKS_MIN);
}

#[test]
fn a_damaged_group_before_a_sound_one_is_told() {
    let (mut disk, _) = three_groups();
    // Each group is a head and a block; the second head is block 4.
    disk.blocks[4].0[100] ^= 1;
    let refused = replay(&mut disk).expect_err("a hole");
    let JournalError::Hole {
        block,
        group,
        later,
    } = refused
    else {
        panic!("{refused}")
    };
    assert_eq!((block, group, later), (4, 2, 3));
}

#[test]
fn a23_a_damaged_payload_is_found_when_it_is_read() {
    let (mut disk, _) = three_groups();
    disk.blocks[5].0[0] ^= 1;
    let replay = found(&mut disk);
    assert_eq!(replay.records.len(), 3);
    let mut bytes = Vec::new();
    let mut payloads = Payloads::new(&mut disk, replay.header.area);
    let records = replay.records.values();
    let sound: Vec<bool> = records
        .map(|kept| payloads.read(kept, &mut bytes).expect("a model reads"))
        .collect();
    assert_eq!(sound, [true, false, true]);
}

/// Three groups, and nothing to do since: the last was answered for, and cannot be torn.
fn sealed() -> ModelDisk {
    let (mut disk, log) = three_groups();
    let replay = found(&mut disk);
    let held = replay.records.keys().zip(0_u32..);
    let mut core = Core::resume(&replay, 16, held.map(|(&name, record)| (record, name)));
    settle(&mut core, &mut disk, &log);
    core.request(write(3, 4, &log, 3 * BLOCK_LEN, 512));
    settle(&mut core, &mut disk, &log);
    assert!(core.can_be_sealed());
    core.seal();
    settle(&mut core, &mut disk, &log);
    assert!(!core.can_be_sealed() && core.is_idle());
    disk
}

#[test]
fn a23_a_last_group_that_rots_is_told_when_it_was_sealed() {
    let disk = sealed();
    let (head, payload) = (8, 9);
    for copy in 0..HEADER_BLOCKS {
        // Either copy of the header says it.
        let mut disk = disk.clone();
        let copy = usize::try_from(copy).expect("a block");
        disk.blocks[copy] = Block::ZERO;
        assert_eq!(found(&mut disk).records.len(), 4);
        let mut headless = disk.clone();
        headless.blocks[head].0[100] ^= 1;
        assert!(matches!(
            replay(&mut headless),
            Err(JournalError::Hole { group: 4, .. })
        ));
        disk.blocks[payload].0[0] ^= 1;
        let replay = found(&mut disk);
        let (mut bytes, mut payloads) = (Vec::new(), Payloads::new(&mut disk, replay.header.area));
        let last = replay.records.values().last().expect("four");
        assert!(!payloads.read(last, &mut bytes).expect("a model reads"));
    }
}

/// One that was not: nobody knows whether it was ever whole, and nobody is told.
#[test]
fn a_last_group_that_is_not_whole_is_dropped_when_nobody_said_that_it_was() {
    let (mut disk, _) = three_groups();
    disk.blocks[7].0[0] ^= 1;
    assert_eq!(found(&mut disk).records.len(), 2);
}

#[test]
fn what_is_written_after_a_seal_is_found() {
    let mut disk = sealed();
    let log = vec![7; LOG_LEN];
    let replay = found(&mut disk);
    let held = replay.records.keys().zip(0_u32..);
    let mut core = Core::resume(&replay, 16, held.map(|(&name, record)| (record, name)));
    settle(&mut core, &mut disk, &log);
    for sequence in 5..8 {
        let record = u32::try_from(sequence).expect("small");
        core.request(write(record, sequence, &log, 0, 512));
        settle(&mut core, &mut disk, &log);
        core.seal();
        settle(&mut core, &mut disk, &log);
        assert_eq!(
            found(&mut disk).records.len(),
            usize::try_from(sequence).expect("small")
        );
    }
}

#[test]
fn a_group_of_an_earlier_run_is_never_replayed() {
    let (mut disk, log) = three_groups();
    let before = disk.blocks.clone();
    // The third group is lost, and a new run begins where it stood.
    disk.blocks[6] = Block::ZERO;
    let cut = found(&mut disk);
    assert_eq!(cut.records.len(), 2);
    let held = cut
        .records
        .keys()
        .zip(0_u32..)
        .map(|(&name, record)| (record, name));
    let mut core = Core::resume(&cut, 16, held);
    settle(&mut core, &mut disk, &log);
    // The old bytes come back, right number and all.
    disk.blocks[6] = before[6].clone();
    assert_eq!(found(&mut disk).records.len(), 2);
}

#[test]
fn after_a_fault_nothing_is_written_but_what_voids_it() {
    let (mut disk, log) = three_groups();
    let replayed = found(&mut disk);
    let held = replayed
        .records
        .keys()
        .zip(0_u32..)
        .map(|(&name, record)| (record, name));
    let mut core = Core::resume(&replayed, 16, held);
    settle(&mut core, &mut disk, &log);
    let durable = core.progress().durable;
    core.request(write(5, 9, &log, 0, 4096));
    disk.fails = true;
    settle(&mut core, &mut disk, &log);
    assert!(core.has_failed());
    assert_eq!(core.progress().durable, durable);
    disk.fails = false;
    core.request(write(6, 10, &log, 0, 4096));
    settle(&mut core, &mut disk, &log);
    assert_eq!(
        core.progress().durable,
        durable,
        "nothing more is told durable"
    );
    assert_eq!(found(&mut disk).records.len(), 3, "and nothing is lost");
    core.request(Request::Void);
    settle(&mut core, &mut disk, &log);
    assert!(core.progress().is_void);
    assert!(found(&mut disk).records.is_empty());
    disk.blocks[0].0[30] ^= 1;
    assert!(found(&mut disk).records.is_empty(), "by either copy");
}

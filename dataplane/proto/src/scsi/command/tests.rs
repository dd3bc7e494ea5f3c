//! The table of commands, row by row, from CDBs as they stand on the wire.

use super::*;
use proptest::prelude::*;

fn cdb_10(opcode: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[opcode, flags]);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn cdb_12(opcode: u8, flags: u8, lba: u32, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[opcode, flags]);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[6..10].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn cdb_16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[opcode, flags]);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn cdb_32(action: u16, flags: u8, lba: u64, blocks: u32) -> [u8; 32] {
    let mut cdb = [0; 32];
    cdb[0] = opcode::VARIABLE_LENGTH;
    cdb[7] = 0x18;
    cdb[8..10].copy_from_slice(&action.to_be_bytes());
    cdb[10] = flags;
    cdb[12..20].copy_from_slice(&lba.to_be_bytes());
    cdb[28..32].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

const FUA: u8 = 0x08;

#[test]
fn the_table_is_sorted_and_has_no_twins() {
    let keys: Vec<_> = COMMANDS
        .iter()
        .map(|row| (row.opcode, row.service_action))
        .collect();
    assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] != pair[1]));
    for pair in COMMANDS
        .windows(2)
        .filter(|pair| pair[0].opcode == pair[1].opcode)
    {
        assert!(pair.iter().all(|row| row.service_action.is_some()));
    }
}

#[test]
fn reads() {
    let read = |lba, blocks, fua| Ok(Access::Read { lba, blocks, fua });
    assert_eq!(
        classify(&[0x08, 0xFF, 0x23, 0x45, 7, 0]),
        read(0x1F_2345, 7, false)
    );
    assert_eq!(
        classify(&[0x08, 0, 0, 1, 0, 0]),
        read(1, 256, false),
        "READ (6): 0 means 256"
    );
    assert_eq!(
        classify(&cdb_10(0x28, FUA, u32::MAX, 0xFFFF)),
        read(0xFFFF_FFFF, 0xFFFF, true)
    );
    assert_eq!(
        classify(&cdb_10(0x28, 0x10, 9, 0)),
        read(9, 0, false),
        "READ (10): 0 means none"
    );
    assert_eq!(
        classify(&cdb_12(0xA8, 0, 5, 1 << 20)),
        read(5, 1 << 20, false)
    );
    assert_eq!(
        classify(&cdb_16(0x88, FUA, 1 << 40, 3)),
        read(1 << 40, 3, true)
    );
    assert_eq!(classify(&cdb_32(0x0009, FUA, 77, 8)), read(77, 8, true));
}

#[test]
fn writes() {
    let write = |lba, blocks, fua| Ok(Access::Write { lba, blocks, fua });
    assert_eq!(
        classify(&[0x0A, 0x1F, 0xFF, 0xFF, 0, 0]),
        write(0x1F_FFFF, 256, false)
    );
    assert_eq!(classify(&cdb_10(0x2A, 0, 5, 8)), write(5, 8, false));
    assert_eq!(classify(&cdb_12(0xAA, FUA, 5, 8)), write(5, 8, true));
    assert_eq!(
        classify(&cdb_16(0x8A, 0, 5, u32::MAX)),
        write(5, u32::MAX, false)
    );
    assert_eq!(classify(&cdb_32(0x000B, 0, 77, 8)), write(77, 8, false));
}

#[test]
fn c5_what_asks_for_order() {
    assert!(classify(&cdb_10(0x2A, FUA, 0, 1)).unwrap().orders());
    assert!(classify(&cdb_10(0x35, 0, 0, 0)).unwrap().orders());
    assert!(!classify(&cdb_10(0x2A, 0x10, 0, 1)).unwrap().orders());
    assert!(!classify(&cdb_10(0x28, FUA, 0, 1)).unwrap().orders());
}

#[test]
fn c2_synchronize_cache() {
    let sync = |lba, blocks, immed| Ok(Access::Sync { lba, blocks, immed });
    assert_eq!(classify(&cdb_10(0x35, 0, 0, 0)), sync(0, u64::MAX, false));
    assert_eq!(
        classify(&cdb_10(0x35, 2, 8, 0)),
        sync(8, u64::MAX - 8, true)
    );
    assert_eq!(classify(&cdb_10(0x35, 0, 8, 8)), sync(8, 8, false));
    assert_eq!(
        classify(&cdb_16(0x91, 2, 1 << 33, 1)),
        sync(1 << 33, 1, true)
    );
}

#[test]
fn a20_what_drains_its_overlap() {
    let passes = |lba, blocks, changes| {
        Ok(Access::Range {
            lba,
            blocks,
            changes,
        })
    };
    for (opcode, changes) in [
        (0x2E, true),
        (0x2F, false),
        (0x34, false),
        (0x41, true),
        (0x53, true),
    ] {
        assert_eq!(
            classify(&cdb_10(opcode, 0, 4, 2)),
            passes(4, 2, changes),
            "{opcode:#x}"
        );
    }
    for (opcode, changes) in [(0xAE, true), (0xAF, false)] {
        assert_eq!(
            classify(&cdb_12(opcode, 0, 4, 2)),
            passes(4, 2, changes),
            "{opcode:#x}"
        );
    }
    for (opcode, changes) in [
        (0x8B, true),
        (0x8E, true),
        (0x8F, false),
        (0x90, false),
        (0x93, true),
    ] {
        assert_eq!(
            classify(&cdb_16(opcode, 0, 4, 2)),
            passes(4, 2, changes),
            "{opcode:#x}"
        );
    }
    for (action, changes) in [(0x0A, false), (0x0C, true), (0x0D, true), (0x0E, true)] {
        assert_eq!(
            classify(&cdb_32(action, 0, 4, 2)),
            passes(4, 2, changes),
            "{action:#x}"
        );
    }
    // COMPARE AND WRITE has its count in one byte, WRITE ATOMIC in two.
    assert_eq!(classify(&cdb_16(0x89, 0, 4, 2)), passes(4, 2, true));
    assert_eq!(classify(&cdb_16(0x9C, 0, 4, 2)), passes(4, 2, true));
    // GET LBA STATUS looks as far as it likes.
    assert_eq!(
        classify(&cdb_16(0x9E, 0x12, 4, 2)),
        passes(4, u64::MAX - 4, false)
    );
}

#[test]
fn what_zero_blocks_mean_is_each_commands_own() {
    let blocks = |cdb: &[u8]| match classify(cdb) {
        Ok(Access::Range { blocks, .. }) => blocks,
        other => panic!("{other:?}"),
    };
    assert_eq!(blocks(&cdb_10(0x2F, 0, 4, 0)), 0, "VERIFY: nothing");
    assert_eq!(
        blocks(&cdb_10(0x34, 0, 4, 0)),
        u64::MAX - 4,
        "PRE-FETCH: the rest"
    );
    assert_eq!(
        blocks(&cdb_10(0x41, 0, 4, 0)),
        u64::MAX - 4,
        "WRITE SAME: the rest"
    );
    assert_eq!(
        blocks(&cdb_16(0x89, 0, 4, 0)),
        0,
        "COMPARE AND WRITE: nothing"
    );
}

#[test]
fn protection_information_never_meets_the_cache() {
    let passes = |changes| {
        Ok(Access::Range {
            lba: 4,
            blocks: 2,
            changes,
        })
    };
    for protect in [0x20, 0x60, 0xE0] {
        assert_eq!(classify(&cdb_10(0x28, protect, 4, 2)), passes(false));
        assert_eq!(classify(&cdb_16(0x8A, protect | FUA, 4, 2)), passes(true));
        assert_eq!(classify(&cdb_32(0x000B, protect, 4, 2)), passes(true));
    }
}

#[test]
fn a20_what_drains_everything() {
    for opcode in [
        0x04, 0x15, 0x16, 0x17, 0x1B, 0x42, 0x48, 0x55, 0x56, 0x57, 0x5F, 0x83,
    ] {
        assert_eq!(
            classify(&cdb_16(opcode, 0, 0, 0)),
            Ok(Access::Medium),
            "{opcode:#x}"
        );
    }
}

#[test]
fn what_touches_no_block() {
    for opcode in [
        0x00, 0x03, 0x12, 0x1A, 0x1E, 0x25, 0x4D, 0x5A, 0x5E, 0x84, 0xA0,
    ] {
        assert_eq!(
            classify(&cdb_16(opcode, 0, 0, 0)),
            Ok(Access::None),
            "{opcode:#x}"
        );
    }
    assert_eq!(classify(&cdb_16(0x9E, 0x10, 0, 0)), Ok(Access::None));
    assert_eq!(classify(&cdb_16(0xA3, 0x0A, 0, 0)), Ok(Access::None));
    assert_eq!(name(&[0x9E, 0x10]), Some("READ CAPACITY (16)"));
}

#[test]
fn the_unknown_drains_everything() {
    let known: Vec<u8> = COMMANDS.iter().map(|row| row.opcode).collect();
    for opcode in (0..=u8::MAX).filter(|opcode| !known.contains(opcode)) {
        assert_eq!(classify(&[opcode]), Ok(Access::Medium));
    }
    // Known operation codes with an unknown service action, too.
    assert_eq!(classify(&cdb_16(0x9E, 0x11, 0, 0)), Ok(Access::Medium));
    assert_eq!(classify(&cdb_16(0xA3, 0x1F, 0, 0)), Ok(Access::Medium));
    assert_eq!(classify(&cdb_32(0x0007, 0, 0, 0)), Ok(Access::Medium));
}

#[test]
fn ranges_end_on_the_volume() {
    let read = |lba, blocks| classify(&cdb_16(0x88, 0, lba, blocks)).and_then(|a| a.check(100));
    assert_eq!(read(99, 1), Ok(()));
    assert_eq!(read(100, 0), Ok(()), "nothing at the very end is nothing");
    assert_eq!(read(101, 0), Err(Sense::LBA_OUT_OF_RANGE));
    assert_eq!(read(99, 2), Err(Sense::LBA_OUT_OF_RANGE));
    assert_eq!(read(u64::MAX, 2), Err(Sense::LBA_OUT_OF_RANGE), "overflow");
    let sync = |lba, blocks| classify(&cdb_16(0x91, 0, lba, blocks)).and_then(|a| a.check(100));
    assert_eq!(sync(0, 0), Ok(()));
    assert_eq!(sync(100, 0), Ok(()));
    assert_eq!(sync(101, 0), Err(Sense::LBA_OUT_OF_RANGE));
    assert_eq!(sync(50, 51), Err(Sense::LBA_OUT_OF_RANGE));
    assert_eq!(Access::Medium.check(0), Ok(()));
}

/// What leaves nothing of a range, and with how much data; less data leaves some of it.
#[test]
fn what_overwrites_says_with_how_much_data() {
    let with = |cdb: &[u8], blocks| overwrites_with(cdb, blocks, 512);
    assert_eq!(with(&cdb_10(0x2E, 0, 0, 3), 3), Some(1536));
    assert_eq!(with(&cdb_12(0xAE, 0, 0, 3), 3), Some(1536));
    assert_eq!(with(&cdb_16(0x8E, 0, 0, 3), 3), Some(1536));
    assert_eq!(with(&cdb_32(0x000C, 0, 0, 3), 3), Some(1536));
    // One block goes to all of them; with NDOB none, but WRITE SAME (10) has no such bit.
    assert_eq!(with(&cdb_10(0x41, 0, 0, 3), 3), Some(512));
    assert_eq!(with(&cdb_10(0x41, 0x01, 0, 3), 3), Some(512));
    assert_eq!(with(&cdb_16(0x93, 0, 0, 3), 3), Some(512));
    assert_eq!(with(&cdb_16(0x93, 0x01, 0, 3), 3), Some(0));
    assert_eq!(with(&cdb_32(0x000D, 0x01, 0, 3), 3), Some(0));
    // Writes have records of their own; these keep something of what was there.
    for cdb in [
        cdb_16(0x8A, 0, 0, 1),
        cdb_16(0x89, 0, 0, 1),
        cdb_16(0x8B, 0, 0, 1),
    ] {
        assert_eq!(with(&cdb, 1), None, "{:#x}", cdb[0]);
    }
}

/// Bit 3 is FUA for some, UNMAP for WRITE SAME, and reserved for VERIFY.
#[test]
fn fua_is_where_the_command_has_it() {
    const BIT: u8 = 0x08;
    for (cdb, at) in [
        (&cdb_10(0x28, BIT, 0, 1)[..], Some(1)),
        (&cdb_12(0xAA, BIT, 0, 1)[..], Some(1)),
        (&cdb_16(0x89, BIT, 0, 1)[..], Some(1)),
        (&cdb_32(0x0009, BIT, 0, 1)[..], Some(10)),
        (&cdb_16(0x93, BIT, 0, 1)[..], None),
        (&cdb_10(0x2F, BIT, 0, 1)[..], None),
        (&[0x08, BIT, 0, 0, 1, 0][..], None),
        (&cdb_10(0x35, BIT, 0, 1)[..], None),
    ] {
        assert_eq!(fua_byte(cdb), at, "{:#x}", cdb[0]);
        assert_eq!(asks_fua(cdb), at.is_some(), "{:#x}", cdb[0]);
    }
    assert!(!asks_fua(&cdb_10(0x28, 0, 0, 1)));
}

#[test]
fn short_cdbs_are_refused() {
    assert_eq!(classify(&[]), Err(Sense::INVALID_FIELD_IN_CDB));
    assert_eq!(
        classify(&cdb_10(0x28, 0, 0, 1)[..8]),
        Err(Sense::INVALID_FIELD_IN_CDB)
    );
    assert_eq!(
        classify(&cdb_32(0x000B, 0, 0, 1)[..16]),
        Err(Sense::INVALID_FIELD_IN_CDB)
    );
    assert_eq!(classify(&[0x7F; 9]), Err(Sense::INVALID_FIELD_IN_CDB));
    assert_eq!(classify(&[0x9E]), Err(Sense::INVALID_FIELD_IN_CDB));
}

proptest! {
    /// C-17: any bytes are survived, and no range wraps around.
    #[test]
    fn no_range_overflows(cdb in proptest::collection::vec(any::<u8>(), 0..40)) {
        match classify(&cdb) {
            Ok(Access::Read { lba, blocks, .. } | Access::Write { lba, blocks, .. }) => {
                prop_assert!(lba.checked_add(u64::from(blocks)).is_some());
            }
            Ok(Access::Sync { lba, blocks, .. } | Access::Range { lba, blocks, .. }) => {
                prop_assert!(lba.checked_add(blocks).is_some());
            }
            Ok(Access::None | Access::Medium) => {}
            Err(sense) => prop_assert!(
                sense == Sense::LBA_OUT_OF_RANGE || sense == Sense::INVALID_FIELD_IN_CDB
            ),
        }
    }
}

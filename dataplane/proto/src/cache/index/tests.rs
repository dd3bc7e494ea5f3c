//! The index against a map of blocks, and each of its rules by itself.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

const CAPACITY: IndexCapacity = IndexCapacity {
    volumes_max: 3,
    records_max: 64,
    payload_pages: 128,
};

fn index(block_len: u32) -> Index {
    let mut index = Index::new(CAPACITY, 0x5EED);
    for volume in 0..3 {
        index.set_block_len(volume, block_len);
    }
    index
}

/// First LBA, blocks, and the record and its block that they come from.
type Found = (u64, u32, Option<(u32, u32)>);

fn extents(index: &Index, volume: u16, lba: u64, blocks: u32) -> Vec<Found> {
    let mut found = Vec::new();
    index.lookup(volume, lba, blocks, |extent| {
        let source = extent.source.map(|source| (source.record, source.block));
        found.push((extent.lba, extent.blocks, source));
    });
    found
}

#[test]
fn a20_the_newest_copy_wins_and_holes_are_told() {
    let mut index = index(512);
    index.insert(0, 4, 16, 1);
    index.insert(0, 10, 4, 2);
    let expected = [
        (0, 4, None),
        (4, 6, Some((1, 0))),
        (10, 4, Some((2, 0))),
        (14, 6, Some((1, 10))),
        (20, 12, None),
    ];
    assert_eq!(extents(&index, 0, 0, 32), expected);
    assert_eq!(
        extents(&index, 0, 12, 3),
        [(12, 2, Some((2, 2))), (14, 1, Some((1, 10)))]
    );
    assert_eq!(extents(&index, 1, 4, 2), [(4, 2, None)], "another volume");
    assert_eq!(extents(&index, 0, 4, 0), []);
    assert!(index.overlaps(0, 0, 5) && !index.overlaps(0, 0, 4) && !index.overlaps(0, 20, 400));
}

#[test]
fn one_extent_for_one_record_however_long() {
    let mut index = index(4096);
    index.insert(2, 7, 100, 5);
    assert_eq!(extents(&index, 2, 7, 100), [(7, 100, Some((5, 0)))]);
    assert_eq!(extents(&index, 2, 50, 9), [(50, 9, Some((5, 43)))]);
}

#[test]
fn a_superseded_record_is_reported_and_shows_again() {
    let mut index = index(512);
    let mut hidden = Vec::new();
    index.insert(0, 0, 16, 1);
    index.insert_with(0, 0, 12, 2, |record| hidden.push(record));
    assert_eq!((index.visible_blocks(1), hidden.len()), (4, 0));
    index.insert_with(0, 10, 10, 3, |record| hidden.push(record));
    assert_eq!(hidden, [1]);
    assert_eq!((index.visible_blocks(1), index.visible_blocks(2)), (0, 10));
    index.remove(3);
    assert_eq!((index.visible_blocks(1), index.visible_blocks(2)), (4, 12));
    assert_eq!(
        extents(&index, 0, 0, 16),
        [(0, 12, Some((2, 0))), (12, 4, Some((1, 12)))]
    );
    index.remove(1);
    assert_eq!(
        extents(&index, 0, 0, 16),
        [(0, 12, Some((2, 0))), (12, 4, None)]
    );
    index.remove(2);
    assert_eq!(index.usage().0, 0);
}

#[test]
fn the_derived_capacity_is_enough_for_the_worst_log() {
    // Every page a record of its own, every record across a granule's edge.
    let capacity = IndexCapacity {
        volumes_max: 1,
        records_max: 32,
        payload_pages: 32,
    };
    let mut index = Index::new(capacity, 1);
    index.set_block_len(0, 512);
    for record in 0..32 {
        index.insert(0, u64::from(record) * 8 + 7, 8, record);
    }
    assert_eq!(index.usage(), (64, 64));
    for record in 0..32 {
        index.remove(record);
    }
    assert_eq!(index.usage(), (0, 64));
}

#[test]
#[should_panic(expected = "the capacity covers every record")]
fn more_than_the_log_can_hold_is_a_bug() {
    let capacity = IndexCapacity {
        volumes_max: 1,
        records_max: 2,
        payload_pages: 2,
    };
    let mut index = Index::new(capacity, 1);
    index.set_block_len(0, 4096);
    index.insert(0, 0, 5, 0);
}

#[test]
#[should_panic(expected = "in the index already")]
fn a_record_is_inserted_once() {
    let mut index = index(512);
    index.insert(0, 0, 1, 9);
    index.insert(0, 8, 1, 9);
}

#[test]
fn a_block_written_over_and_over_stays_cheap() {
    const TIMES: u32 = 50_000;
    let capacity = IndexCapacity {
        volumes_max: 1,
        records_max: TIMES,
        payload_pages: TIMES,
    };
    let mut index = Index::new(capacity, 1);
    index.set_block_len(0, 4096);
    // Quadratic, this would take minutes.
    for record in 0..TIMES {
        index.insert(0, 77, 1, record);
    }
    for record in 0..TIMES {
        assert_eq!(extents(&index, 0, 77, 1), [(77, 1, Some((TIMES - 1, 0)))]);
        index.remove(record);
    }
    assert_eq!(index.usage().0, 0);
}

/// Blocks of every live record, in order of arrival.
#[derive(Default)]
struct Oracle(Vec<(u32, u16, std::ops::Range<u64>)>);

impl Oracle {
    fn newest(&self) -> BTreeMap<(u16, u64), (u32, u32)> {
        let mut newest = BTreeMap::new();
        for (record, volume, range) in &self.0 {
            for lba in range.clone() {
                let block = u32::try_from(lba - range.start).unwrap();
                newest.insert((*volume, lba), (*record, block));
            }
        }
        newest
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert {
        volume: u16,
        lba: u64,
        blocks: u32,
    },
    /// The n-th oldest live record; 0 mostly, as the flush does.
    Remove {
        nth: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..3u16, 0..60u64, 1..20u32)
            .prop_map(|(volume, lba, blocks)| Op::Insert { volume, lba, blocks }),
        2 => Just(Op::Remove { nth: 0 }),
        1 => (0..64usize).prop_map(|nth| Op::Remove { nth }),
    ]
}

proptest! {
    #[test]
    fn it_agrees_with_a_map_of_blocks(
        block_len in prop_oneof![Just(512u32), Just(1024), Just(4096)],
        ops in proptest::collection::vec(op(), 1..120),
        seed: u64,
    ) {
        let mut index = Index::new(CAPACITY, seed);
        (0..3).for_each(|volume| index.set_block_len(volume, block_len));
        let mut oracle = Oracle::default();
        for op in ops {
            match op {
                Op::Insert { volume, lba, blocks } => {
                    let taken: Vec<u32> = oracle.0.iter().map(|live| live.0).collect();
                    let record = (0..CAPACITY.records_max).find(|r| !taken.contains(r));
                    // Six of 20 pages at most, so that 128 pages hold them all.
                    let Some(record) = record.filter(|_| taken.len() < 6) else { continue };
                    oracle.0.push((record, volume, lba..lba + u64::from(blocks)));
                    let mut hidden = Vec::new();
                    let before: Vec<_> =
                        taken.iter().filter(|r| index.visible_blocks(**r) > 0).copied().collect();
                    index.insert_with(volume, lba, blocks, record, |r| hidden.push(r));
                    let mut now_hidden: Vec<_> =
                        before.into_iter().filter(|r| index.visible_blocks(*r) == 0).collect();
                    now_hidden.sort_unstable();
                    hidden.sort_unstable();
                    prop_assert_eq!(hidden, now_hidden);
                }
                Op::Remove { nth } => {
                    if nth < oracle.0.len() {
                        index.remove(oracle.0.remove(nth).0);
                    }
                }
            }
            let newest = oracle.newest();
            for (record, ..) in &oracle.0 {
                let visible = newest.values().filter(|source| source.0 == *record).count();
                prop_assert_eq!(index.visible_blocks(*record) as usize, visible);
            }
            for volume in 0..3 {
                let mut at = 0;
                let mut previous = None;
                for (lba, blocks, source) in extents(&index, volume, 0, 90) {
                    prop_assert_eq!(lba, at);
                    prop_assert!(previous != Some(source.map(|s| s.0)), "extents are coalesced");
                    for block in 0..blocks {
                        let expected = newest.get(&(volume, lba + u64::from(block))).copied();
                        let found = source.map(|(record, first)| (record, first + block));
                        prop_assert_eq!(found, expected);
                    }
                    at = lba + u64::from(blocks);
                    previous = Some(source.map(|s| s.0));
                }
                prop_assert_eq!(at, 90);
            }
        }
        for (record, ..) in oracle.0 {
            index.remove(record);
        }
        prop_assert_eq!(index.usage().0, 0);
    }
}

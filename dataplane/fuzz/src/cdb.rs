//! Any CDB and any answer of a storage: what the table says agrees with a
//! second reading of the CDB, and what is rewritten is no more than was meant.

use sluice_proto::scsi::mode::ModeSense;
use sluice_proto::scsi::reservation::{self, Change};
use sluice_proto::scsi::{Access, Capacity, cdb, classify, command, sense, vpd};

use crate::source::Source;

/// First bytes: the length of the CDB and the CDB, the rest an answer to it.
pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let len = source.below(64);
    let cdb = source.bytes(len);
    let capacity = u64::from(source.word()) << source.below(32);
    let answer = source.bytes(usize::MAX);
    classified(cdb, capacity);
    answered(cdb, answer);
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// LBA and blocks of the reads and writes that the cache answers, read from
/// their clauses of SBC-4 a second time.
fn transfer(cdb: &[u8]) -> Option<(u64, u64)> {
    let at = |from: usize, len: usize| cdb.get(from..from + len).map(big_endian);
    match *cdb.first()? {
        0x08 | 0x0A => {
            let blocks = at(4, 1)?;
            let blocks = if blocks == 0 { 256 } else { blocks };
            Some((at(1, 3)? & 0x1F_FFFF, blocks))
        }
        0x28 | 0x2A => Some((at(2, 4)?, at(7, 2)?)),
        0xA8 | 0xAA => Some((at(2, 4)?, at(6, 4)?)),
        0x88 | 0x8A => Some((at(2, 8)?, at(10, 4)?)),
        0x7F if matches!(at(8, 2)?, 0x0009 | 0x000B) => Some((at(12, 8)?, at(28, 4)?)),
        _ => None,
    }
}

fn classified(cdb: &[u8], capacity: u64) {
    let _ = command::name(cdb);
    let Ok(access) = classify(cdb) else { return };
    let range = match access {
        Access::Read { lba, blocks, .. } | Access::Write { lba, blocks, .. } => {
            let blocks = u64::from(blocks);
            assert_eq!(transfer(cdb), Some((lba, blocks)), "{cdb:02x?}");
            Some((lba, blocks))
        }
        Access::Range { lba, blocks, .. } | Access::Sync { lba, blocks, .. } => {
            if let Some(same) = transfer(cdb) {
                assert_eq!(same, (lba, blocks), "{cdb:02x?}");
            }
            Some((lba, blocks))
        }
        Access::None | Access::Medium => None,
    };
    // The same for the reads and writes that are none for the cache.
    assert!(
        transfer(cdb).is_none() || range.is_some(),
        "blocks of {cdb:02x?} are touched unseen"
    );
    if let Some((lba, blocks)) = range {
        let end = u128::from(lba) + u128::from(blocks);
        let to_end = blocks == Access::to_end(lba) && !matches!(access, Access::Read { .. });
        let fits = end <= u128::from(capacity) || (to_end && lba <= capacity);
        assert_eq!(access.check(capacity).is_ok(), fits, "{access:?}");
    }
}

fn answered(cdb: &[u8], answer: &[u8]) {
    let changed = |now: &[u8]| {
        let pairs = answer.iter().zip(now);
        pairs.map(|(was, is)| (was ^ is).count_ones()).sum::<u32>()
    };
    if let Some(mode) = ModeSense::from_cdb(cdb) {
        let mut now = answer.to_vec();
        mode.report_relay_cache(&mut now);
        assert!(changed(&now) <= 2, "WCE and DPOFUA, nothing else");
        let _ = mode.caching_page_answer();
        if let (Some(was), Some(is)) = (mode.parse(answer), mode.parse(&now)) {
            assert!(is.dpofua && is.write_protected == was.write_protected);
            assert_eq!(is.wce.is_some(), was.wce.is_some());
        }
    }
    let _ = vpd::requested_page(cdb);
    let mut page = answer.to_vec();
    if vpd::cap_block_limits(&mut page, 512, 8 << 20) {
        let maximum = big_endian(&page[8..12]);
        assert!((1..=16_384).contains(&maximum));
        assert!(!vpd::cap_block_limits(&mut page, 512, 8 << 20), "once");
    }
    for capacity in [Capacity::parse_10(answer), Capacity::parse_16(answer)]
        .into_iter()
        .flatten()
    {
        let len = u64::from(capacity.block_len);
        assert!(capacity.blocks.checked_mul(len).is_some());
    }
    assert!(cdb::luns(answer).count() <= answer.len() / 8);
    if let Some(received) = sense::parse(answer) {
        let again = sense::parse(&received.sense.fixed()).expect("our own");
        assert_eq!(again.sense, received.sense);
    }
    if let Some(whole) = cdb.first_chunk() {
        let _ = Change::from_cdb(whole);
        let _ = reservation::registration(whole, answer);
    }
    let _ = reservation::held(answer);
    if let Ok(keys) = reservation::keys(answer) {
        assert!(keys.count() <= answer.len() / 8);
    }
    if let Ok(registrants) = reservation::full_status(answer) {
        for registrant in registrants {
            let _ = registrant.is("iqn.2004-03.example.sim:computer0", [0x80, 0, 0, 0, 0, 1]);
        }
    }
}

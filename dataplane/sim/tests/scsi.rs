//! Commands that libiscsi's tests leave out, through the whole worker: what
//! passes over blocks that are in the log, what is long, goes both ways or
//! leaves a residual (C-2, C-6, C-12, A-20).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::ops::Range;
use std::time::Duration;

use sluice_hugepages::tables::Durability;
use sluice_proto::scsi::identity::Identity;
use sluice_proto::scsi::{ScsiStatus, Sense};
use sluice_sim::block::{self, BLOCK_LEN};
use sluice_sim::site::{Pdu, STORAGE, Session, Site, Size, TARGETS, op};
use sluice_sim::storage::{Fault, LUN, Refusal};

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;
const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const ORDERED: u8 = 2;
/// As `BLOCK_LEN`, in the width of the header's fields.
const BLOCK_BYTES: u32 = 512;

fn stamped(lba: u64, number: u32) -> Vec<u8> {
    let mut data = vec![0; BLOCK_LEN];
    block::fill(&mut data, number, lba);
    data
}

/// WRITE AND VERIFY (10) of one block: it passes (SBC-4 5.47).
fn write_and_verify(session: &mut Session, lba: u8, number: u32) -> Pdu {
    let cdb = [0x2E, 0, 0, 0, 0, lba, 0, 0, 1, 0];
    Site::command(session, WRITE, BLOCK_BYTES, &cdb).data(&stamped(lba.into(), number))
}

/// A command whose data, if any, comes with it.
fn run(site: &mut Site, session: &mut Session, cdb: &[u8], data: &[u8]) -> u8 {
    let (flags, len) = if data.is_empty() {
        (0, 0)
    } else {
        (WRITE, u32::try_from(data.len()).unwrap())
    };
    let pdu = Site::command(session, flags, len, cdb).data(data);
    site.send(session, &pdu.bytes());
    site.finish(session, pdu.itt()).unwrap().0
}

fn cdb_32(action: u16, lba: u64, blocks: u32) -> [u8; 32] {
    let mut cdb = [0; 32];
    (cdb[0], cdb[7]) = (0x7F, 0x18);
    cdb[8..10].copy_from_slice(&action.to_be_bytes());
    cdb[12..20].copy_from_slice(&lba.to_be_bytes());
    cdb[28..].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// A command of 32 bytes: 16 in the header, 16 in a segment of type 1.
fn command_32(session: &mut Session, flags: u8, len: u32, cdb: &[u8; 32]) -> Pdu {
    let segment = [&[0, 17, 1, 0][..], &cdb[16..]].concat();
    Site::command(session, flags, len, &cdb[..16]).ahs(&segment)
}

fn unmap(lba: u64, blocks: u32) -> ([u8; 10], Vec<u8>) {
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend(lba.to_be_bytes());
    list.extend(blocks.to_be_bytes());
    list.extend([0; 4]);
    ([0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], list)
}

#[test]
fn unmap_over_dirty_blocks_wins_and_what_is_beside_it_stays() {
    let mut site = Site::small();
    site.storage.unmaps = true;
    let mut session = site.login(0, 0, 1);
    for lba in 10..14 {
        assert_eq!(site.write(&mut session, lba, 1), Some(GOOD));
    }
    let (cdb, list) = unmap(11, 2);
    assert_eq!(run(&mut site, &mut session, &cdb, &list), GOOD);
    let read: Vec<_> = (10..14)
        .map(|lba| site.read(&mut session, lba).unwrap().1.unwrap())
        .collect();
    assert_eq!(read, [1, 0, 0, 1]);
    assert_eq!(site.write(&mut session, 11, 2), Some(GOOD));
    assert_eq!(site.read(&mut session, 11), Some((GOOD, Some(2))));
    site.run(Duration::from_secs(3));
    assert!(site.worker.relay.is_drained());
    assert_eq!(
        site.read(&mut session, 12),
        Some((GOOD, Some(0))),
        "no stale write comes after it"
    );
}

#[test]
fn write_same_over_dirty_blocks_wins() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 20, 1), Some(GOOD));
    let mut cdb = [0; 16];
    (cdb[0], cdb[9], cdb[13]) = (0x93, 20, 1);
    assert_eq!(run(&mut site, &mut session, &cdb, &stamped(20, 7)), GOOD);
    assert_eq!(site.read(&mut session, 20), Some((GOOD, Some(7))));
    site.run(Duration::from_secs(3));
    assert_eq!(site.read(&mut session, 20), Some((GOOD, Some(7))));
}

/// WRITE SAME (16) of zeroes, with a block of them or with none (NDOB, SBC-4 5.50).
fn write_zeroes(site: &mut Site, session: &mut Session, lba: u8, blocks: u8, ndob: bool) -> u8 {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[9], cdb[13]) = (0x93, u8::from(ndob), lba, blocks);
    let block = [0; BLOCK_LEN];
    run(site, session, &cdb, if ndob { &[] } else { &block })
}

fn numbers(site: &mut Site, session: &mut Session, blocks: Range<u64>) -> Vec<u32> {
    blocks
        .map(|lba| site.read(session, lba).unwrap().1.unwrap())
        .collect()
}

/// Zeroes, the one block content that is right at every place, over blocks that are at
/// the storage, that wait over such, and that wait alone. Where a record reaches over the
/// edge, nothing is held back for the command, and what is beyond the edge stays.
#[test]
fn a20_one_block_to_many_wins_over_all_of_them_and_what_is_beside_it_stays() {
    for durability in [Durability::Memory, Durability::Journal] {
        for (ndob, over_the_edge) in [(false, false), (true, false), (false, true)] {
            let size = Size {
                durability,
                ..Size::SMALL
            };
            let mut site = Site::of(size, |_| ());
            let mut session = site.login(0, 0, 1);
            for lba in 19..23 {
                assert_eq!(site.write(&mut session, lba, 1), Some(GOOD));
            }
            assert_eq!(site.synchronize(&mut session), Some(GOOD));
            site.run(Duration::from_secs(3));
            assert!(site.worker.relay.is_drained());
            for lba in 21..24 {
                assert_eq!(site.write(&mut session, lba, 2), Some(GOOD));
            }
            // Blocks 24 and 25 in one record, or in two.
            let write = sluice_proto::scsi::cdb::write(24, 2);
            let data = [stamped(24, 2), stamped(25, 2)].concat();
            if over_the_edge {
                assert_eq!(run(&mut site, &mut session, &write, &data), GOOD);
            } else {
                for lba in [24, 25] {
                    assert_eq!(site.write(&mut session, lba, 2), Some(GOOD));
                }
            }
            let status = write_zeroes(&mut site, &mut session, 20, 5, ndob);
            let case = (durability, ndob, over_the_edge);
            assert_eq!(status, GOOD, "{case:?}");
            let superseded = if over_the_edge { 0 } else { 4 };
            assert_eq!(site.counter("record_superseded"), superseded, "{case:?}");
            let expected = [1, 0, 0, 0, 0, 0, 2];
            let read = numbers(&mut site, &mut session, 19..26);
            assert_eq!(read, expected, "{case:?}");
            site.run(Duration::from_secs(3));
            assert!(site.worker.relay.is_drained());
            assert_eq!(site.storage.volumes[0].media[19..26], expected, "{case:?}");
            assert_eq!(site.storage.volumes[0].torn, 0);
            // None of it comes back with what a process leaves behind.
            let mut site = site.restart();
            let mut session = site.login(0, 0, 1);
            site.run(Duration::from_secs(3));
            let read = numbers(&mut site, &mut session, 19..26);
            assert_eq!(read, expected, "{case:?}");
            assert_eq!(site.storage.volumes[0].media[19..26], expected, "{case:?}");
        }
    }
}

/// WRITE AND VERIFY of two blocks with the data of one (RFC 7143 11.4.5: the residual says
/// so): the other keeps what was acknowledged, in the log or behind it.
#[test]
fn a20_what_a_short_overwrite_leaves_alone_stays() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    for lba in [20, 21] {
        assert_eq!(site.write(&mut session, lba, 1), Some(GOOD));
    }
    let cdb = [0x2E, 0, 0, 0, 0, 20, 0, 0, 2, 0];
    let pdu = Site::command(&mut session, WRITE, BLOCK_BYTES, &cdb).data(&stamped(20, 7));
    site.send(&session, &pdu.bytes());
    assert_eq!(site.finish(&session, pdu.itt()).unwrap().0, GOOD);
    for _ in 0..2 {
        assert_eq!(site.read(&mut session, 20), Some((GOOD, Some(7))));
        assert_eq!(site.read(&mut session, 21), Some((GOOD, Some(1))));
        site.run(Duration::from_secs(3));
    }
    assert!(site.worker.relay.is_drained());
    assert_eq!(site.storage.volumes[0].visible[20..22], [7, 1]);
}

/// FUA is told to be honoured (DPOFUA): what is read with it is on the medium, and what is
/// changed with it is before its answer (C-2).
#[test]
fn c2_fua_is_honoured_by_reads_and_by_what_changes_blocks() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 30, 1), Some(GOOD));
    assert_eq!(site.storage.volumes[0].media[30], 0, "it is cached");
    let read = [0x28, 0x08, 0, 0, 0, 30, 0, 0, 1, 0];
    let pdu = Site::command(&mut session, READ, BLOCK_BYTES, &read);
    site.send(&session, &pdu.bytes());
    let (status, data) = site.finish(&session, pdu.itt()).unwrap();
    assert_eq!(status, GOOD);
    assert_eq!(block::number(&data, 30), Some(1));
    assert_eq!(site.storage.volumes[0].media[30], 1);
    // COMPARE AND WRITE of one block.
    let mut compare = [0; 16];
    (compare[0], compare[1], compare[9], compare[13]) = (0x89, 0x08, 30, 1);
    let both = [stamped(30, 1), stamped(30, 2)].concat();
    assert_eq!(run(&mut site, &mut session, &compare, &both), GOOD);
    assert_eq!(site.storage.volumes[0].media[30], 2);
}

#[test]
fn c2_a_synchronize_cache_beyond_the_volume_is_refused() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    let blocks = u32::try_from(site.storage.volumes[0].media.len()).unwrap();
    for (lba, status) in [(blocks, GOOD), (blocks + 1, CHECK_CONDITION)] {
        let mut cdb = [0; 10];
        cdb[0] = 0x35;
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        assert_eq!(run(&mut site, &mut session, &cdb, &[]), status, "LBA {lba}");
    }
}

/// A storage without a Caching mode page: its computers are told of the relay's cache all
/// the same, or they would never ask for what they wrote to be made durable (C-1).
#[test]
fn c1_a_storage_without_a_caching_page_is_answered_for() {
    let mut site = Site::small();
    for volume in &mut site.storage.volumes {
        volume.caching_page = false;
    }
    let mut session = site.login(0, 0, 1);
    // The page alone, all pages, and all of them with no room for it.
    let header = |len| [len, 0, 0x10, 0];
    for (page, room, length, page_at) in [
        (0x08, 0xFF, 23, Some(4)),
        (0x3F, 0xFF, 23, Some(4)),
        (0x3F, 4, 23, None),
    ] {
        let cdb = [0x1A, 8, page, 0, room, 0];
        let pdu = Site::command(&mut session, READ, room.into(), &cdb);
        site.send(&session, &pdu.bytes());
        let (status, data) = site.finish(&session, pdu.itt()).unwrap();
        assert_eq!(status, GOOD, "page {page:#x}");
        assert_eq!(data[..4], header(length), "page {page:#x}");
        match page_at {
            Some(at) => {
                assert_eq!(data.len(), 24);
                assert_eq!(data[at..at + 3], [0x08, 0x12, 0x04], "page {page:#x}");
            }
            None => assert_eq!(data.len(), 4),
        }
    }
}

/// Cached writes of a block and commands that change it, ORDERED and all sent at
/// once: each comparison holds only if the storage had what came before it, and no more.
#[test]
fn a4_commands_that_change_media_pass_in_their_order_among_cached_writes() {
    const LBA: u64 = 60;
    let mut site = Site::small();
    site.storage.unmaps = true;
    let mut session = site.login(0, 0, 1);
    let mut compare = [0; 16];
    (compare[0], compare[9], compare[13]) = (0x89, 60, 1);
    let mut sent = Vec::new();
    for number in (1..20).step_by(3) {
        let cdb = sluice_proto::scsi::cdb::write(LBA, 1);
        let write = Site::command(&mut session, WRITE, BLOCK_BYTES, &cdb);
        sent.push(write.data(&stamped(LBA, number)));
        let both = [stamped(LBA, number), stamped(LBA, number + 1)].concat();
        let compared = Site::command(&mut session, WRITE, 2 * BLOCK_BYTES, &compare);
        sent.push(compared.data(&both));
    }
    for command in &mut sent {
        command.header[1] = command.header[1] & !7 | ORDERED;
    }
    let bytes: Vec<u8> = sent.iter().flat_map(Pdu::bytes).collect();
    site.send(&session, &bytes);
    for _ in 0..sent.len() {
        let answer = site.next_pdu(&session).unwrap();
        assert_eq!((answer.opcode(), answer.status()), (op::RESPONSE, GOOD));
    }
    assert_eq!(site.storage.volumes[0].visible[60], 20);
    assert_eq!(site.write(&mut session, LBA, 30), Some(GOOD));
    let (cdb, list) = unmap(LBA, 1);
    assert_eq!(run(&mut site, &mut session, &cdb, &list), GOOD);
    assert_eq!(site.storage.volumes[0].visible[60], 0);
    assert_eq!(site.write(&mut session, LBA, 31), Some(GOOD));
    site.run(Duration::from_secs(3));
    assert!(site.worker.relay.is_drained());
    assert_eq!(site.storage.volumes[0].media[60], 31);
}

/// Commands wait for blocks that one behind them is to overwrite, and keeps from being sent:
/// that one's turn comes though more wait ahead of it than are tried at once.
#[test]
fn a4_who_holds_records_back_passes_though_many_wait_ahead_of_it() {
    const AHEAD: usize = 12;
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.synchronize(&mut session), Some(GOOD));
    site.storage.hangs = true;
    // What is written after it is not sent before it is durable.
    let cdb = sluice_proto::scsi::cdb::write(60, 1);
    let first = Site::command(&mut session, WRITE, BLOCK_BYTES, &cdb).data(&stamped(60, 1));
    let first = first.at(1, &[0x80 | WRITE | ORDERED]);
    site.send(&session, &first.bytes());
    assert_eq!(site.finish(&session, first.itt()).unwrap().0, GOOD);
    assert_eq!(site.write(&mut session, 20, 1), Some(GOOD));
    // VERIFY of a block from the medium (SBC-4 5.33) waits until that is flushed.
    let verify = [0x2F, 0, 0, 0, 0, 20, 0, 0, 1, 0];
    let mut sent: Vec<_> = (0..AHEAD)
        .map(|_| Site::command(&mut session, 0, 0, &verify))
        .collect();
    sent.push(write_and_verify(&mut session, 20, 7));
    let bytes: Vec<u8> = sent.iter().flat_map(Pdu::bytes).collect();
    site.send(&session, &bytes);
    site.run(Duration::from_millis(200));
    let (passed, writes) = (site.counter("command_passed"), site.storage.counters.writes);
    site.storage.hangs = false;
    for _ in 0..sent.len() {
        let answer = site.next_pdu(&session).expect("within a second");
        assert_eq!((answer.opcode(), answer.status()), (op::RESPONSE, GOOD));
    }
    assert_eq!(site.counter("command_passed") - passed, AHEAD as u64 + 1);
    assert_eq!(site.counter("record_superseded"), 1, "it was held back");
    assert_eq!(site.storage.counters.writes, writes + 1);
    assert_eq!(site.storage.volumes[0].media[20], 7);
    assert_eq!(site.read(&mut session, 20), Some((GOOD, Some(7))));
    site.run(Duration::from_secs(3));
    assert!(site.worker.relay.is_drained());
    assert_eq!(site.usage().tasks, 0);
}

#[test]
fn fua_and_synchronize_cache_reach_the_media_before_they_end() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 5, 1), Some(GOOD));
    let fua = sluice_proto::scsi::cdb::write_fua(6, 1);
    assert_eq!(run(&mut site, &mut session, &fua, &stamped(6, 2)), GOOD);
    // The storage loses what it has not on its media, and the relay's log is not asked.
    assert_eq!(site.storage.volumes[0].media[6], 2);
    assert_eq!(
        site.storage.volumes[0].media[5], 1,
        "what was acknowledged before is durable before"
    );
    assert_eq!(site.write(&mut session, 7, 3), Some(GOOD));
    assert_eq!(
        run(
            &mut site,
            &mut session,
            &[0x35, 0, 0, 0, 0, 7, 0, 0, 1, 0],
            &[]
        ),
        GOOD
    );
    assert_eq!(site.storage.volumes[0].media[7], 3);
}

#[test]
fn a_read_that_overlaps_a_flush_in_flight_is_of_the_newest() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    for lba in 30..34 {
        assert_eq!(site.write(&mut session, lba, 1), Some(GOOD));
    }
    site.storage.hangs = true;
    site.run(Duration::from_millis(1500));
    assert_eq!(site.write(&mut session, 31, 2), Some(GOOD));
    let cdb = sluice_proto::scsi::cdb::read(29, 6);
    let pdu = Site::command(&mut session, READ, 6 * BLOCK_BYTES, &cdb);
    site.send(&session, &pdu.bytes());
    site.run(Duration::from_millis(50));
    site.storage.hangs = false;
    let (status, data) = site.finish(&session, pdu.itt()).unwrap();
    let read: Vec<_> = data
        .chunks(BLOCK_LEN)
        .zip(29..)
        .map(|(piece, lba)| block::number(piece, lba).unwrap())
        .collect();
    assert_eq!((status, read.as_slice()), (GOOD, &[0, 1, 2, 1, 1, 0][..]));
}

#[test]
fn commands_of_32_bytes_are_cached_as_others_are() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    let len = BLOCK_BYTES;
    let write = command_32(&mut session, WRITE, len, &cdb_32(0x0B, 40, 1)).data(&stamped(40, 5));
    site.send(&session, &write.bytes());
    assert_eq!(site.finish(&session, write.itt()).unwrap().0, GOOD);
    let read = command_32(&mut session, READ, len, &cdb_32(0x09, 40, 1));
    site.send(&session, &read.bytes());
    let (status, data) = site.finish(&session, read.itt()).unwrap();
    assert_eq!((status, block::number(&data, 40)), (GOOD, Some(5)));
    assert_eq!(site.counter("read_cached"), 1);
}

#[test]
fn a_passing_command_of_32_bytes_arrives_whole() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 40, 1), Some(GOOD));
    // VERIFY (32) beyond the end: only the storage, with all 32 bytes, refuses it.
    let verify = command_32(&mut session, 0, 0, &cdb_32(0x0A, 40, 1));
    site.send(&session, &verify.bytes());
    assert_eq!(site.finish(&session, verify.itt()).unwrap().0, GOOD);
    let beyond = command_32(&mut session, 0, 0, &cdb_32(0x0A, 1 << 40, 1));
    site.send(&session, &beyond.bytes());
    assert_eq!(
        site.finish(&session, beyond.itt()).unwrap().0,
        CHECK_CONDITION
    );
    assert_eq!(site.counter("command_passed"), 2);
}

#[test]
fn a_cdb_that_is_not_all_there_or_too_long_is_refused() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    let whole = cdb_32(0x0B, 40, 1);
    let short = Site::command(&mut session, WRITE, 512, &whole[..16]);
    let mut long = whole;
    long[7] = 0xC0;
    let long = command_32(&mut session, WRITE, 512, &long);
    for pdu in [short, long] {
        let pdu = pdu.data(&stamped(40, 1));
        site.send(&session, &pdu.bytes());
        assert_eq!(site.finish(&session, pdu.itt()).unwrap().0, CHECK_CONDITION);
    }
    assert_eq!(
        site.write(&mut session, 40, 2),
        Some(GOOD),
        "the session goes on"
    );
}

#[test]
fn a_bidirectional_command_moves_both_ways() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 50, 1), Some(GOOD));
    let new = stamped(50, 2);
    let read_len = [&[0, 5, 2, 0][..], &512_u32.to_be_bytes()].concat();
    let cdb = [0x53, 0, 0, 0, 0, 50, 0, 0, 1, 0];
    let pdu = Site::command(&mut session, READ | WRITE, 512, &cdb)
        .ahs(&read_len)
        .data(&new);
    site.send(&session, &pdu.bytes());
    let (status, data) = site.finish(&session, pdu.itt()).unwrap();
    let old: Vec<u8> = data.iter().zip(&new).map(|(xor, new)| xor ^ new).collect();
    assert_eq!(
        (status, block::number(&old, 50)),
        (GOOD, Some(1)),
        "the log's block was flushed first"
    );
    assert_eq!(site.read(&mut session, 50), Some((GOOD, Some(2))));
}

#[test]
fn the_storages_residual_is_the_computers() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    // INQUIRY answers 36 bytes of the 255 expected.
    let inquiry = Site::command(&mut session, READ, 255, &[0x12, 0, 0, 0, 255, 0]);
    site.send(&session, &inquiry.bytes());
    let last = loop {
        let pdu = site.next_pdu(&session).unwrap();
        if pdu.opcode() == op::RESPONSE || pdu.header[1] & 1 != 0 {
            break pdu;
        }
    };
    assert_eq!(last.header[1] & 6, 2, "underflow");
    assert_eq!(last.header[44..], 219_u32.to_be_bytes());
}

/// Two MiB, stamped for their places.
fn long(number: u32) -> Vec<u8> {
    (0..4096).flat_map(|lba| stamped(lba, number)).collect()
}

/// More than the staging pages hold: it waits in the log's room, which it gives
/// back, and is no record of it.
#[test]
fn a_long_passing_command_goes_by_the_logs_room() {
    let mut site = Site::with(|storage| storage.resize(8192));
    let mut session = site.login(0, 0, 1);
    let before = site.usage().segments;
    assert_eq!(site.write(&mut session, 100, 1), Some(GOOD));
    let verified = [0x2E, 0, 0, 0, 0, 0, 0, 0x10, 0, 0];
    let data = long(2);
    let pdu = Site::command(&mut session, WRITE, 4096 * BLOCK_BYTES, &verified);
    site.send(&session, &pdu.bytes());
    assert_eq!(site.finish_write(&session, pdu.itt(), &data), Some(GOOD));
    assert!(
        site.storage.volumes[0].visible[..4096]
            .iter()
            .all(|&is| is == 2)
    );
    for lba in [0, 100, 4095] {
        assert_eq!(site.read(&mut session, lba), Some((GOOD, Some(2))));
    }
    assert_eq!(site.usage().segments, before);
    // One whose computer goes in the middle of its data leaves nothing, either.
    let pdu = Site::command(&mut session, WRITE, 4096 * BLOCK_BYTES, &verified);
    site.send(&session, &pdu.bytes());
    assert_eq!(site.next_pdu(&session).unwrap().opcode(), op::R2T);
    assert!(site.usage().segments > before);
    site.abort(&session);
    site.run(Duration::from_millis(100));
    assert_eq!(site.usage().segments, before);
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.read(&mut session, 100), Some((GOOD, Some(2))));
}

#[test]
fn reads_leave_pages_for_what_passes() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    site.storage.hangs = true;
    for lba in 0..100 {
        let cdb = sluice_proto::scsi::cdb::read(lba, 1);
        let pdu = Site::command(&mut session, READ, BLOCK_BYTES, &cdb);
        site.send(&session, &pdu.bytes());
    }
    let inquiry = Site::command(&mut session, READ, 36, &[0x12, 0, 0, 0, 36, 0]);
    site.send(&session, &inquiry.bytes());
    site.run(Duration::from_millis(100));
    site.storage.hangs = false;
    assert_eq!(
        site.finish(&session, inquiry.itt())
            .map(|(status, _)| status),
        Some(GOOD)
    );
    assert_eq!(site.counter("busy_no_staging"), 0);
}

/// INQUIRY of a VPD page, or of the standard data.
fn inquire(site: &mut Site, session: &mut Session, page: Option<u8>) -> Vec<u8> {
    let cdb = [0x12, u8::from(page.is_some()), page.unwrap_or(0), 0, 96, 0];
    let pdu = Site::command(session, READ, 96, &cdb);
    site.send(session, &pdu.bytes());
    site.finish(session, pdu.itt()).unwrap().1
}

#[test]
fn c15_a_unit_is_the_storages_or_the_relays_own() {
    for own_identity in [false, true] {
        let size = Size {
            own_identity,
            ..Size::SMALL
        };
        let mut site = Site::of(size, |_| ());
        let mut session = site.login(0, 0, 1);
        let page = inquire(&mut site, &mut session, Some(0x83));
        let serial = inquire(&mut site, &mut session, Some(0x80));
        let copy = Site::command(&mut session, 0, 0, &[0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
        site.send(&session, &copy.bytes());
        let copy = site.finish(&session, copy.itt()).unwrap().0;
        if own_identity {
            let identity = Identity::of(TARGETS[0], &format!("{STORAGE}:3260"), LUN);
            assert_eq!(page[..8], [0, 0x83, 0, 12, 0x01, 0x03, 0, 8]);
            assert_eq!(page[8..], identity.naa());
            assert_eq!(serial[4..], identity.serial_number());
            assert_eq!(copy, CHECK_CONDITION);
            // The residual is of the relay's own page, 20 bytes, however long the storage's.
            for (room, flag, residual) in [(96, 0x02, 76), (20, 0, 0), (8, 0x04, 12)] {
                let cdb = [0x12, 1, 0x80, 0, 96, 0];
                let pdu = Site::command(&mut session, READ, room, &cdb);
                site.send(&session, &pdu.bytes());
                let end = loop {
                    let answer = site.next_pdu(&session).unwrap();
                    if answer.itt() == pdu.itt()
                        && (answer.opcode() == 0x21 || answer.header[1] & 1 != 0)
                    {
                        break answer;
                    }
                };
                let told = u32::from_be_bytes(*end.header[44..].first_chunk().unwrap());
                assert_eq!(
                    (end.header[1] & 0x06, told),
                    (flag, residual),
                    "room of {room}"
                );
            }
        } else {
            assert_eq!(
                (page.len(), serial.len()),
                (36, 36),
                "as the storage has it"
            );
            assert_eq!((page[1], copy), (0, GOOD));
        }
    }
}

const FIRST: u64 = 20;
const COUNT: u8 = 4;

/// What is overwritten: four blocks in the log, and a WRITE AND VERIFY of all of
/// them that a storage holds up.
struct Overwritten {
    site: Site,
    session: Session,
    itt: u32,
    /// Writes that the storage has had.
    writes: u64,
}

impl Overwritten {
    fn new(durability: Durability) -> Self {
        let size = Size {
            durability,
            ..Size::SMALL
        };
        let mut site = Site::of(size, |_| ());
        let mut session = site.login(0, 0, 1);
        assert_eq!(site.synchronize(&mut session), Some(GOOD));
        let blocks = FIRST..FIRST + u64::from(COUNT);
        for lba in blocks.clone() {
            assert_eq!(site.write(&mut session, lba, 1), Some(GOOD));
        }
        let data: Vec<_> = blocks.flat_map(|lba| stamped(lba, 7)).collect();
        let cdb = [0x2E, 0, 0, 0, 0, 20, 0, 0, COUNT, 0];
        let len = u32::from(COUNT) * BLOCK_BYTES;
        let pdu = Site::command(&mut session, WRITE, len, &cdb).data(&data);
        site.storage.hangs = true;
        site.send(&session, &pdu.bytes());
        site.run(Duration::from_millis(200));
        assert_eq!(site.read(&mut session, 22), Some((GOOD, Some(1))));
        let writes = site.storage.counters.writes;
        Self {
            site,
            session,
            itt: pdu.itt(),
            writes,
        }
    }

    /// A write of so many of the blocks is to fail, or a sync if there are none.
    fn refuse(&mut self, blocks: u64, fault: Fault) {
        self.site.storage.refusals.push(Refusal {
            lba: FIRST,
            blocks,
            fault,
            times: 1,
        });
    }

    fn answer(&mut self) -> u8 {
        self.site.finish(&self.session, self.itt).unwrap().0
    }

    /// The four as they are durable at the storage.
    fn media(&self) -> &[u32] {
        let first = usize::try_from(FIRST).unwrap();
        &self.site.storage.volumes[0].media[first..][..usize::from(COUNT)]
    }

    /// With another process, and nothing left to send.
    fn again(mut self, power: bool) -> Self {
        self.site = if power {
            self.site.lose_power()
        } else {
            self.site.restart()
        };
        self.session = self.site.login(0, 0, 1);
        self.site.run(Duration::from_secs(3));
        assert!(self.site.worker.relay.is_drained());
        self
    }

    fn read(&mut self) -> Option<u32> {
        self.site.read(&mut self.session, 22).unwrap().1
    }
}

#[test]
fn a17_what_is_overwritten_is_not_sent_and_durable_when_that_is_answered() {
    for durability in [Durability::Memory, Durability::Journal] {
        let mut over = Overwritten::new(durability);
        over.site.storage.hangs = false;
        assert_eq!(over.answer(), GOOD);
        assert_eq!(over.media(), [7; 4], "{durability:?}");
        assert_eq!(over.site.storage.counters.writes, over.writes);
        assert_eq!(over.site.counter("record_superseded"), 4);
        let mut over = over.again(durability == Durability::Journal);
        assert_eq!(over.read(), Some(7), "none of them comes back");
        assert_eq!(over.media(), [7; 4]);
    }
}

/// The storage has overwritten them and said so, and cannot make it durable: a
/// process that dies then finds them, and sends them.
#[test]
fn a21_what_is_overwritten_is_kept_until_that_is_durable() {
    for durability in [Durability::Memory, Durability::Journal] {
        let mut over = Overwritten::new(durability);
        over.site.storage.hangs = false;
        over.refuse(0, Fault::Silence);
        over.site.run(Duration::from_secs(1));
        assert_eq!(over.site.storage.counters.changes_passed, 1);
        assert_eq!(over.read(), Some(1), "it is not answered yet");
        let mut over = over.again(durability == Durability::Journal);
        assert_eq!(over.read(), Some(1), "what was acknowledged");
        assert_eq!(over.media(), [1; 4]);
    }
}

/// An ORDERED command that passes is an ordering point like one that is held: what is
/// written after it is not at the storage while that may still lose it.
#[test]
fn a19_what_follows_an_ordered_command_that_passed_waits_for_its_sync() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.synchronize(&mut session), Some(GOOD));
    site.storage.refusals.push(Refusal {
        lba: 0,
        blocks: 0,
        fault: Fault::Status(ScsiStatus::BUSY),
        times: u32::MAX,
    });
    let mut pdu = write_and_verify(&mut session, 20, 7);
    pdu.header[1] = pdu.header[1] & !7 | ORDERED;
    site.send(&session, &pdu.bytes());
    assert_eq!(site.finish(&session, pdu.itt()).unwrap().0, GOOD);
    assert_eq!(site.write(&mut session, 40, 8), Some(GOOD));
    site.run(Duration::from_secs(5));
    let stored = |site: &Site| {
        let volume = &site.storage.volumes[0];
        (volume.media[20], volume.visible[40])
    };
    assert!(site.storage.counters.refused > 0, "a sync was asked for");
    assert_eq!(stored(&site), (0, 0));
    site.storage.refusals.clear();
    site.run(Duration::from_secs(5));
    assert_eq!(stored(&site), (7, 8));
}

/// A relay let a change pass and lost its log. The next one knows nothing of it, and
/// still does not answer SYNCHRONIZE CACHE before it is durable.
#[test]
fn c2_what_a_relay_that_lost_its_log_let_pass_is_synced() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    let pdu = write_and_verify(&mut session, 20, 7);
    site.send(&session, &pdu.bytes());
    assert_eq!(site.finish(&session, pdu.itt()).unwrap().0, GOOD);
    let stored = |site: &Site| {
        let volume = &site.storage.volumes[0];
        (volume.visible[20], volume.media[20])
    };
    assert_eq!(stored(&site), (7, 0), "in the storage's cache alone");
    let mut site = site.lose_power();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.synchronize(&mut session), Some(GOOD));
    assert_eq!(stored(&site), (7, 7));
}

/// The same, and the storage loses its power: nobody knows whether the command was
/// done, and what was acknowledged is sent.
#[test]
fn c8_what_is_overwritten_is_sent_when_the_storage_has_lost_that() {
    let mut over = Overwritten::new(Durability::Memory);
    over.site.storage.hangs = false;
    over.refuse(0, Fault::Silence);
    over.site.run(Duration::from_secs(1));
    assert_eq!(over.site.storage.counters.changes_passed, 1);
    over.site.storage.fail_power();
    assert_eq!(over.answer(), CHECK_CONDITION);
    over.site.run(Duration::from_secs(5));
    let (status, _) = over.site.read(&mut over.session, 22).unwrap();
    assert_eq!(status, CHECK_CONDITION, "the storage's unit attention");
    assert_eq!(over.read(), Some(1));
    assert_eq!(over.media(), [1; 4]);
}

/// The storage says that it cannot make durable what it had taken, and then that it has
/// nothing more to sync: the command was not done.
#[test]
fn c2_what_is_overwritten_is_sent_when_the_sync_of_that_fails() {
    let mut over = Overwritten::new(Durability::Memory);
    over.site.storage.hangs = false;
    over.refuse(0, Fault::Sense(Sense::WRITE_ERROR));
    assert_eq!(over.answer(), CHECK_CONDITION);
    over.site.run(Duration::from_secs(3));
    assert_eq!(over.read(), Some(1));
    assert_eq!(over.media(), [1; 4]);
}

/// What passed and was GOOD cannot be made durable, as the relay's own SYNCHRONIZE CACHE is
/// told: the computer's next one says so, once.
#[test]
fn c2_what_the_relays_own_sync_was_told_of_what_passed_is_told_on() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.synchronize(&mut session), Some(GOOD));
    site.storage.refusals.push(Refusal {
        lba: 0,
        blocks: 0,
        fault: Fault::Sense(Sense::WRITE_ERROR),
        times: 1,
    });
    let pdu = write_and_verify(&mut session, 20, 7);
    site.send(&session, &pdu.bytes());
    assert_eq!(site.finish(&session, pdu.itt()).unwrap().0, GOOD);
    site.run(Duration::from_secs(10));
    assert_eq!(
        site.storage.counters.refused, 1,
        "a sync of the relay's own"
    );
    assert_eq!(site.synchronize(&mut session), Some(CHECK_CONDITION));
    assert_eq!(site.synchronize(&mut session), Some(GOOD));
}

#[test]
fn what_was_to_be_overwritten_is_sent_when_the_storage_refuses() {
    let mut over = Overwritten::new(Durability::Memory);
    over.site.storage.hangs = false;
    over.refuse(COUNT.into(), Fault::Sense(Sense::WRITE_PROTECTED));
    assert_eq!(over.answer(), CHECK_CONDITION);
    over.site.run(Duration::from_secs(3));
    assert_eq!(over.media(), [1; 4]);
    assert_eq!(over.site.storage.counters.writes, over.writes + 1, "A-16");
}

/// An error without sense data says nothing that a computer could act on (RFC 7143 10.2).
#[test]
fn c12_an_error_of_the_storage_that_has_no_sense_gets_one() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    site.storage.refusals.push(Refusal {
        lba: 5,
        blocks: 1,
        fault: Fault::Status(ScsiStatus::CHECK_CONDITION),
        times: 1,
    });
    let pdu = write_and_verify(&mut session, 5, 7);
    site.send(&session, &pdu.bytes());
    let answer = site.next_pdu(&session).expect("an answer");
    assert_eq!(answer.status(), CHECK_CONDITION);
    let told = sluice_proto::scsi::sense::parse(&answer.data[2..]).map(|received| received.sense);
    assert_eq!(told, Some(Sense::COMMUNICATION_FAILURE));
}

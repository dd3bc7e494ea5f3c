//! Task attributes and task management, byte by byte: who takes its place
//! before whom (C-5, SAM-5 8.7), and what a function ends and what it does not
//! (C-3, RFC 7143 11.5 and 11.6).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_proto::scsi::cdb;
use sluice_sim::block::{self, BLOCK_LEN};
use sluice_sim::site::{Pdu, Session, Site, Size, op};
use sluice_sim::storage::{LUN, Volume};

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;
const TASK_ABORTED: u8 = 0x40;

const SIMPLE: u8 = 1;
const ORDERED: u8 = 2;
const HEAD_OF_QUEUE: u8 = 3;

const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_ACA: u8 = 3;
const CLEAR_TASK_SET: u8 = 4;
const LUN_RESET: u8 = 5;
const TARGET_WARM_RESET: u8 = 6;
const TARGET_COLD_RESET: u8 = 7;
const TASK_REASSIGN: u8 = 8;

const COMPLETE: u8 = 0;
const NO_TASK: u8 = 1;
const NO_LUN: u8 = 2;

fn with_attribute(mut pdu: Pdu, attribute: u8) -> Pdu {
    pdu.header[1] = pdu.header[1] & !7 | attribute;
    pdu
}

fn stamped(number: u32, lba: u64) -> Vec<u8> {
    let mut data = vec![0; BLOCK_LEN];
    block::fill(&mut data, number, lba);
    data
}

/// A write of one block whose data comes with it.
fn write(site: &mut Site, session: &mut Session, attribute: u8, lba: u64, number: u32) -> u32 {
    let pdu = Site::command(session, 0x20, 512, &cdb::write(lba, 1)).data(&stamped(number, lba));
    site.send(session, &with_attribute(pdu.clone(), attribute).bytes());
    pdu.itt()
}

/// A write of one block whose data is asked for: its tag, and the R2T's.
fn write_by_r2t(site: &mut Site, session: &mut Session, attribute: u8, lba: u64) -> (u32, u32) {
    let pdu = Site::command(session, 0x20, 512, &cdb::write(lba, 1));
    site.send(session, &with_attribute(pdu.clone(), attribute).bytes());
    let r2t = site.next_pdu(session).expect("an R2T");
    assert_eq!((r2t.opcode(), r2t.itt()), (0x31, pdu.itt()));
    let ttt = u32::from_be_bytes(r2t.header[20..24].try_into().unwrap());
    (pdu.itt(), ttt)
}

fn data_out(site: &mut Site, session: &Session, (itt, ttt): (u32, u32), data: &[u8]) {
    let pdu = Pdu::new(op::DATA_OUT, 0x80, itt)
        .at(8, &LUN.to_be_bytes())
        .word(20, ttt)
        .data(data);
    site.send(session, &pdu.bytes());
}

fn read(site: &mut Site, session: &mut Session, attribute: u8, lba: u64) -> u32 {
    let pdu = Site::command(session, 0x40, 512, &cdb::read(lba, 1));
    site.send(session, &with_attribute(pdu.clone(), attribute).bytes());
    pdu.itt()
}

/// WRITE SAME (16) of one block: a command that passes, and changes blocks.
fn write_same(site: &mut Site, session: &mut Session, lba: u64, number: u32) -> u32 {
    let mut cdb = [0; 16];
    cdb[0] = 0x93;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[13] = 1;
    let pdu = Site::command(session, 0x20, 512, &cdb).data(&stamped(number, lba));
    site.send(session, &pdu.bytes());
    pdu.itt()
}

/// Sends a function as an immediate request.
fn ask(site: &mut Site, session: &mut Session, function: u8, lun: u64, task: u32) -> u32 {
    let tag = 0x4000_0000 + session.itt;
    session.itt += 1;
    let pdu = Pdu::new(op::TASK_MANAGEMENT | op::IMMEDIATE, 0x80 | function, tag)
        .at(8, &lun.to_be_bytes())
        .word(20, task)
        .word(24, session.cmd_sn)
        .word(32, session.cmd_sn);
    site.send(session, &pdu.bytes());
    tag
}

/// Does a function; its response code.
fn manage(site: &mut Site, session: &mut Session, function: u8, lun: u64, task: u32) -> u8 {
    let tag = ask(site, session, function, lun, task);
    let answer = site.next_pdu(session).expect("an answer to the function");
    assert_eq!((answer.opcode(), answer.itt()), (0x22, tag));
    answer.header[2]
}

/// Nothing comes for a while.
fn is_silent(site: &mut Site, session: &Session) -> bool {
    site.next_pdu(session).is_none()
}

/// All of the session's answers up to so many, in the order they came: tag and status.
fn answers(site: &mut Site, session: &Session, count: usize) -> Vec<(u32, u8)> {
    (0..count)
        .map(|_| {
            let pdu = site.next_pdu(session).expect("an answer");
            (pdu.itt(), pdu.status())
        })
        .collect()
}

fn shared() -> Site {
    let size = Size {
        shared: true,
        ..Size::SMALL
    };
    Site::of(size, |_| ())
}

/// Its own data is here first, and that of the write before it last of all.
#[test]
fn an_ordered_write_takes_its_place_by_cmd_sn() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    let first = write_by_r2t(&mut site, &mut session, SIMPLE, 7);
    let ordered = write(&mut site, &mut session, ORDERED, 7, 2);
    let other = write(&mut site, &mut session, SIMPLE, 8, 4);
    let last = write(&mut site, &mut session, SIMPLE, 7, 3);
    assert!(is_silent(&mut site, &session), "all wait for the first");
    data_out(&mut site, &session, first, &stamped(1, 7));
    assert_eq!(
        answers(&mut site, &session, 4),
        [
            (first.0, GOOD),
            (ordered, GOOD),
            (other, GOOD),
            (last, GOOD)
        ]
    );
    assert_eq!(site.read(&mut session, 7), Some((GOOD, Some(3))));
    assert_eq!(site.read(&mut session, 8), Some((GOOD, Some(4))));
}

/// The data of an ORDERED write is what is late: what came after it waits, what came before does not.
#[test]
fn what_comes_after_an_ordered_write_waits_for_its_data() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    let ordered = write_by_r2t(&mut site, &mut session, ORDERED, 7);
    let after = read(&mut site, &mut session, SIMPLE, 7);
    // Though it asks for its answer at once.
    let mut immed = cdb::synchronize_cache();
    immed[1] = 2;
    let immed = Site::command(&mut session, 0, 0, &immed);
    let sync = Site::command(&mut session, 0, 0, &cdb::synchronize_cache());
    site.send(&session, &immed.bytes());
    site.send(&session, &sync.bytes());
    assert!(is_silent(&mut site, &session));
    data_out(&mut site, &session, ordered, &stamped(5, 7));
    assert_eq!(answers(&mut site, &session, 1), [(ordered.0, GOOD)]);
    let mut rest = answers(&mut site, &session, 3);
    rest.sort_unstable();
    let all = [after, immed.itt(), sync.itt()];
    assert_eq!(rest, all.map(|itt| (itt, GOOD)));
    assert_eq!(
        site.storage.volumes[0].media[7], 5,
        "the SYNCHRONIZE CACHE covers it"
    );
}

/// Writes complete in any order between two that ask for order.
#[test]
fn simple_writes_between_ordered_ones() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    let first = write_by_r2t(&mut site, &mut session, SIMPLE, 1);
    let second = write_by_r2t(&mut site, &mut session, SIMPLE, 1);
    let ordered = write_by_r2t(&mut site, &mut session, ORDERED, 1);
    let third = write_by_r2t(&mut site, &mut session, SIMPLE, 1);
    for (which, number) in [(third, 4), (second, 2), (ordered, 3)] {
        data_out(&mut site, &session, which, &stamped(number, 1));
    }
    assert_eq!(answers(&mut site, &session, 1), [(second.0, GOOD)]);
    assert!(is_silent(&mut site, &session));
    data_out(&mut site, &session, first, &stamped(1, 1));
    assert_eq!(
        answers(&mut site, &session, 3),
        [(first.0, GOOD), (ordered.0, GOOD), (third.0, GOOD)]
    );
    assert_eq!(site.read(&mut session, 1), Some((GOOD, Some(4))));
}

#[test]
fn head_of_queue_waits_for_nobody() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 9, 1), Some(GOOD));
    let late = write_by_r2t(&mut site, &mut session, SIMPLE, 7);
    let ordered = write(&mut site, &mut session, ORDERED, 7, 2);
    let head = read(&mut site, &mut session, HEAD_OF_QUEUE, 9);
    assert_eq!(answers(&mut site, &session, 1), [(head, GOOD)]);
    assert!(is_silent(&mut site, &session));
    data_out(&mut site, &session, late, &stamped(1, 7));
    assert_eq!(
        answers(&mut site, &session, 2),
        [(late.0, GOOD), (ordered, GOOD)]
    );
}

/// Order is a unit's: the command of another session, and of another unit, goes on.
#[test]
fn another_session_does_not_wait() {
    let mut site = shared();
    let mut session = site.login(0, 0, 1);
    let mut other = site.login(1, 0, 2);
    let late = write_by_r2t(&mut site, &mut session, SIMPLE, 7);
    let ordered = write(&mut site, &mut session, ORDERED, 7, 2);
    assert_eq!(site.write(&mut other, 8, 3), Some(GOOD));
    assert_eq!(site.read(&mut other, 8), Some((GOOD, Some(3))));
    let inquiry = Site::command_to(2 << 48, &mut session, 0x40, 36, &[0x12, 0, 0, 0, 36]);
    site.send(&session, &inquiry.bytes());
    assert_eq!(answers(&mut site, &session, 1)[0].0, inquiry.itt());
    data_out(&mut site, &session, late, &stamped(1, 7));
    assert_eq!(
        answers(&mut site, &session, 2),
        [(late.0, GOOD), (ordered, GOOD)]
    );
}

/// What waits for a command that never gets its data ends BUSY, in time (C-16).
#[test]
fn an_order_that_is_never_complete_ends_in_time() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    let _ = write_by_r2t(&mut site, &mut session, SIMPLE, 7);
    for number in 0..20 {
        write(&mut site, &mut session, ORDERED, 7, 100 + number);
        read(&mut site, &mut session, SIMPLE, 7);
    }
    let mut ended = 0;
    for _ in 0..20 {
        while let Some(pdu) = site.next_pdu(&session) {
            ended += usize::from(pdu.opcode() == op::RESPONSE || pdu.opcode() == op::DATA_IN);
        }
    }
    assert_eq!(ended, 41);
    assert_eq!(site.usage().tasks, 0, "{:?}", site.usage());
}

#[test]
fn an_aborted_write_is_never_committed() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 7, 1), Some(GOOD));
    let segments = site.usage().segments;
    let late = write_by_r2t(&mut site, &mut session, SIMPLE, 7);
    let waiting = write(&mut site, &mut session, ORDERED, 7, 9);
    // The one whose data is all here, then the one whose data comes too late.
    assert_eq!(
        manage(&mut site, &mut session, ABORT_TASK, LUN, waiting),
        COMPLETE
    );
    assert_eq!(
        manage(&mut site, &mut session, ABORT_TASK, LUN, late.0),
        COMPLETE
    );
    assert_eq!(
        manage(&mut site, &mut session, ABORT_TASK, LUN, late.0),
        NO_TASK
    );
    data_out(&mut site, &session, late, &stamped(8, 7));
    assert!(is_silent(&mut site, &session));
    assert_eq!(site.read(&mut session, 7), Some((GOOD, Some(1))));
    site.run(Duration::from_secs(4));
    assert_eq!(site.storage.volumes[0].media[7], 1);
    assert_eq!(site.usage().tasks, 0);
    assert!(site.usage().segments <= segments);
}

/// The second of two that wait is ended; the first and the third go on in order.
#[test]
fn a_gap_in_the_line_closes() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    let late = write_by_r2t(&mut site, &mut session, SIMPLE, 7);
    let ended = write(&mut site, &mut session, ORDERED, 7, 2);
    let last = write(&mut site, &mut session, SIMPLE, 7, 3);
    assert_eq!(
        manage(&mut site, &mut session, ABORT_TASK, LUN, ended),
        COMPLETE
    );
    // Nothing asks for order any more.
    assert_eq!(answers(&mut site, &session, 1), [(last, GOOD)]);
    data_out(&mut site, &session, late, &stamped(1, 7));
    assert_eq!(answers(&mut site, &session, 1), [(late.0, GOOD)]);
    assert_eq!(site.read(&mut session, 7), Some((GOOD, Some(1))));
}

#[test]
fn response_codes() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    let late = write_by_r2t(&mut site, &mut session, SIMPLE, 7);
    let mut code = |function, lun, task| manage(&mut site, &mut session, function, lun, task);
    let nowhere = 77 << 48;
    assert_eq!(code(ABORT_TASK, LUN, 999), NO_TASK);
    assert_eq!(code(ABORT_TASK, nowhere, late.0), NO_TASK);
    for function in [ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET] {
        assert_eq!(code(function, nowhere, u32::MAX), NO_LUN);
    }
    assert_eq!(code(CLEAR_ACA, LUN, u32::MAX), 5);
    assert_eq!(code(TASK_REASSIGN, LUN, late.0), 4);
    assert_eq!(code(99, LUN, u32::MAX), 5);
    // The same unit by the flat space method.
    assert_eq!(code(ABORT_TASK_SET, LUN | 0x4000 << 48, u32::MAX), COMPLETE);
    assert_eq!(code(ABORT_TASK, LUN, late.0), NO_TASK);
}

/// Each function ends what hangs, and none loses what was acknowledged (C-3).
#[test]
fn what_is_acknowledged_survives_every_function() {
    for function in [
        ABORT_TASK_SET,
        CLEAR_TASK_SET,
        LUN_RESET,
        TARGET_WARM_RESET,
        TARGET_COLD_RESET,
    ] {
        let mut site = Site::small();
        let mut session = site.login(0, 0, 1);
        for lba in 0..20 {
            assert_eq!(site.write(&mut session, lba, 50), Some(GOOD));
        }
        let _ = write_by_r2t(&mut site, &mut session, SIMPLE, 3);
        site.storage.hangs = true;
        let mut fua = cdb::write_fua(30, 1);
        fua[1] |= 8;
        let fua = Site::command(&mut session, 0x20, 512, &fua).data(&stamped(60, 30));
        site.send(&session, &fua.bytes());
        read(&mut site, &mut session, SIMPLE, 200);
        site.run(Duration::from_millis(50));
        let code = manage(&mut site, &mut session, function, LUN, u32::MAX);
        assert_eq!(code, COMPLETE, "{function}");
        site.storage.hangs = false;
        assert!(is_silent(&mut site, &session), "{function}: no late answer");
        if function == TARGET_COLD_RESET {
            assert!(!site.is_open(&session));
            session = site.login(0, 0, 1);
        }
        if matches!(function, LUN_RESET | TARGET_WARM_RESET) {
            // It is told of its own reset, once.
            assert_eq!(
                site.read(&mut session, 0).map(|(status, _)| status),
                Some(CHECK_CONDITION)
            );
        }
        for lba in 0..20 {
            assert_eq!(site.read(&mut session, lba), Some((GOOD, Some(50))));
        }
        site.run(Duration::from_secs(6));
        for lba in 0..20 {
            assert_eq!(site.storage.volumes[0].media[lba], 50, "{function}");
        }
        let usage = site.usage();
        assert_eq!((usage.tasks, usage.staging_pages), (0, 0), "{function}");
    }
}

/// Other computers of the unit lose their commands, and hear of it.
#[test]
fn a_lun_reset_reaches_the_other_computers() {
    let mut site = shared();
    let mut session = site.login(0, 0, 1);
    let mut other = site.login(1, 0, 2);
    let late = write_by_r2t(&mut site, &mut other, SIMPLE, 7);
    let code = manage(&mut site, &mut session, LUN_RESET, LUN, u32::MAX);
    assert_eq!(code, COMPLETE);
    assert_eq!(answers(&mut site, &other, 1), [(late.0, TASK_ABORTED)]);
    data_out(&mut site, &other, late, &stamped(8, 7));
    let ready = Site::command(&mut other, 0, 0, &[0; 6]);
    site.send(&other, &ready.bytes());
    let answer = site.next_pdu(&other).unwrap();
    assert_eq!(answer.status(), CHECK_CONDITION);
    assert_eq!((answer.data[2 + 12], answer.data[2 + 13]), (0x29, 0x03));
    assert_eq!(site.write(&mut other, 7, 3), Some(GOOD), "told once");
    // The one that asked is told too.
    assert_eq!(site.write(&mut session, 8, 4), Some(CHECK_CONDITION));
    assert_eq!(site.write(&mut session, 8, 4), Some(GOOD));
    assert_eq!(site.read(&mut session, 7), Some((GOOD, Some(3))));
}

/// ABORT TASK SET is for one computer's own commands.
#[test]
fn an_abort_task_set_leaves_the_others_alone() {
    let mut site = shared();
    let mut session = site.login(0, 0, 1);
    let mut other = site.login(1, 0, 2);
    let late = write_by_r2t(&mut site, &mut other, SIMPLE, 7);
    let code = manage(&mut site, &mut session, ABORT_TASK_SET, LUN, u32::MAX);
    assert_eq!(code, COMPLETE);
    data_out(&mut site, &other, late, &stamped(8, 7));
    assert_eq!(answers(&mut site, &other, 1), [(late.0, GOOD)]);
    assert_eq!(site.read(&mut session, 7), Some((GOOD, Some(8))));
}

/// A change that is out at the storage is aborted there before the function ends.
#[test]
fn a_passing_change_is_aborted_at_the_storage() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 7, 1), Some(GOOD));
    site.run(Duration::from_secs(4));
    site.storage.hangs = true;
    let change = write_same(&mut site, &mut session, 7, 9);
    site.run(Duration::from_millis(50));
    let code = manage(&mut site, &mut session, ABORT_TASK, LUN, change);
    assert_eq!((code, site.storage.counters.aborted), (COMPLETE, 1));
    // Blocks that it touched are the cache's again at once.
    assert_eq!(site.write(&mut session, 7, 2), Some(GOOD));
    site.storage.hangs = false;
    site.run(Duration::from_secs(4));
    assert_eq!(site.storage.volumes[0].media[7], 2);
    assert!(is_silent(&mut site, &session));
    assert_eq!(site.usage().tasks, 0);
}

/// The way to the storage is cut: nobody knows, and the function does not say that it is done.
#[test]
fn a_passing_change_that_cannot_be_aborted() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.synchronize(&mut session), Some(GOOD));
    site.storage.hangs = true;
    let change = write_same(&mut site, &mut session, 7, 9);
    site.run(Duration::from_millis(50));
    site.storage.deaf = true;
    ask(&mut site, &mut session, LUN_RESET, LUN, u32::MAX);
    let begun = site.now;
    let answer = loop {
        if let Some(pdu) = site.next_pdu(&session)
            && pdu.opcode() == 0x22
        {
            break pdu;
        }
        assert!(site.now.since(begun) < Duration::from_secs(15));
    };
    assert_eq!(answer.header[2], 255, "rejected: it may still be done");
    assert!(site.now.since(begun) > Duration::from_secs(2));
    assert_eq!(site.counter("wan_session_lost"), 1);
    let _ = change;
}

/// The storage has carried the change out when the abort reaches it. Its word on
/// the abort is of no command any more, and of no reset either: nothing else ends.
#[test]
fn an_abort_that_comes_too_late_ends_nothing_else() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.synchronize(&mut session), Some(GOOD));
    site.storage.hangs = true;
    site.storage.finishes_aborted = true;
    let change = write_same(&mut site, &mut session, 7, 9);
    site.run(Duration::from_millis(50));
    let code = manage(&mut site, &mut session, ABORT_TASK, LUN, change);
    assert_eq!((code, site.storage.counters.aborted), (COMPLETE, 0));
    assert_eq!(site.read(&mut session, 7), Some((GOOD, Some(9))));
    assert_eq!(site.counter("wan_session_lost"), 0);
}

/// Units of the target, more than the relay asks about: those beyond are served uncached.
const UNITS: u64 = 20;
const LAST: u64 = UNITS << 48;

fn with_many_units() -> Site {
    Site::with(|storage| {
        for number in 1..UNITS {
            let at = usize::try_from(number).unwrap();
            let volume = Volume::new(None, (number + 1) << 48, BLOCK_LEN, 64, at);
            storage.volumes.push(volume);
        }
        storage.listen_anew();
    })
}

/// A block of the last unit, as it is known there.
fn stamped_for_last(number: u32, lba: u64) -> Vec<u8> {
    let volume = usize::try_from(UNITS - 1).unwrap();
    stamped(number, block::tag(volume) | lba)
}

fn write_to_last(site: &mut Site, session: &mut Session, lba: u64, number: u32) -> u32 {
    let pdu = Site::command_to(LAST, session, 0x20, 512, &cdb::write(lba, 1))
        .data(&stamped_for_last(number, lba));
    site.send(session, &pdu.bytes());
    pdu.itt()
}

fn read_of_last(site: &mut Site, session: &mut Session, lba: u64) -> (u8, Vec<u8>) {
    let pdu = Site::command_to(LAST, session, 0x40, 512, &cdb::read(lba, 1));
    site.send(session, &pdu.bytes());
    site.finish(session, pdu.itt()).expect("a status")
}

/// TEST UNIT READY of the last unit.
fn ready_of_last(site: &mut Site, session: &mut Session) -> u8 {
    let pdu = Site::command_to(LAST, session, 0, 0, &[0; 6]);
    site.send(session, &pdu.bytes());
    site.finish(session, pdu.itt()).expect("a status").0
}

#[test]
fn c12_a_unit_beyond_those_that_are_asked_about_is_there() {
    let mut site = with_many_units();
    let mut session = site.login(0, 0, 1);
    let of_last = |site: &Site| site.storage.volumes.last().unwrap().visible[3];
    assert_eq!(ready_of_last(&mut site, &mut session), CHECK_CONDITION);
    let passed = site.counter("command_passed");
    let write = write_to_last(&mut site, &mut session, 3, 5);
    assert_eq!(site.finish(&session, write).unwrap().0, GOOD);
    assert_eq!(of_last(&site), 5, "the storage's own answer");
    let read = read_of_last(&mut site, &mut session, 3);
    assert_eq!(read, (GOOD, stamped_for_last(5, 3)));
    assert_eq!(site.counter("command_passed"), passed + 2);

    // What is out there ends by its function, and is not done.
    site.storage.hangs = true;
    let late = write_to_last(&mut site, &mut session, 3, 6);
    site.run(Duration::from_millis(50));
    let code = manage(&mut site, &mut session, ABORT_TASK_SET, LAST, u32::MAX);
    assert_eq!((code, site.storage.counters.aborted), (COMPLETE, 1));
    site.storage.hangs = false;
    assert!(is_silent(&mut site, &session));
    assert_eq!((of_last(&site), late), (5, session.itt - 2));
}

/// Whether such a unit is there the storage alone knows, and its word is the computer's.
#[test]
fn c12_a_unit_that_is_not_there_is_not_reset() {
    let mut site = with_many_units();
    let mut session = site.login(0, 0, 1);
    assert_eq!(ready_of_last(&mut site, &mut session), CHECK_CONDITION);
    let code = manage(&mut site, &mut session, LUN_RESET, LAST, u32::MAX);
    assert_eq!((code, site.storage.counters.lun_resets), (COMPLETE, 1));
    site.run(Duration::from_millis(500));
    let nowhere = 77 << 48;
    let code = manage(&mut site, &mut session, LUN_RESET, nowhere, u32::MAX);
    assert_eq!((code, site.storage.counters.lun_resets), (NO_LUN, 1));
}

/// The reset is the storage's own: the relay has nothing of such a unit. What it has of
/// another stays (C-3).
#[test]
fn c12_a_unit_beyond_those_that_are_asked_about_is_reset() {
    let mut site = with_many_units();
    let mut session = site.login(0, 0, 1);
    assert_eq!(ready_of_last(&mut site, &mut session), CHECK_CONDITION);
    assert_eq!(site.write(&mut session, 7, 1), Some(GOOD));
    site.storage.hangs = true;
    write_to_last(&mut site, &mut session, 3, 6);
    site.run(Duration::from_millis(50));
    let code = manage(&mut site, &mut session, LUN_RESET, LAST, u32::MAX);
    assert_eq!((code, site.storage.counters.lun_resets), (COMPLETE, 1));
    site.storage.hangs = false;
    assert!(is_silent(&mut site, &session), "no late answer");
    assert_eq!(site.storage.volumes.last().unwrap().visible[3], 0);
    // It is told there, and is served on.
    assert_eq!(ready_of_last(&mut site, &mut session), CHECK_CONDITION);
    let write = write_to_last(&mut site, &mut session, 3, 8);
    assert_eq!(site.finish(&session, write).unwrap().0, GOOD);
    let read = read_of_last(&mut site, &mut session, 3);
    assert_eq!(read, (GOOD, stamped_for_last(8, 3)));
    site.run(Duration::from_secs(4));
    assert_eq!(site.storage.volumes[0].media[7], 1);
    assert_eq!(site.usage().tasks, 0);
}

/// What has no status when its computer logs out ends at the storage, too, and the computer
/// hears of it when it is back (RFC 7143 11.14, 11.14.5).
#[test]
fn c12_a_logout_ends_what_is_under_way() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 7, 1), Some(GOOD));
    site.run(Duration::from_secs(4));
    site.storage.hangs = true;
    write_same(&mut site, &mut session, 7, 9);
    site.run(Duration::from_millis(50));
    let logout = Pdu::new(0x46, 0x80, 99);
    site.send(&session, &logout.bytes());
    site.run(Duration::from_millis(50));
    assert_eq!(site.storage.counters.aborted, 1);
    let mut again = site.connect(0);
    site.send(&again, &Site::login_pdu(0, 0, 1).bytes());
    assert_eq!(site.next_pdu(&again).expect("an answer").header[36], 0);
    site.storage.hangs = false;
    let ready = Site::command(&mut again, 0, 0, &[0; 6]);
    site.send(&again, &ready.bytes());
    let answer = site.next_pdu(&again).expect("an answer");
    let told = sluice_proto::scsi::sense::parse(&answer.data[2..]).map(|received| received.sense);
    assert_eq!(
        told,
        Some(sluice_proto::scsi::Sense::CLEARED_BY_ISCSI_EVENT)
    );
    site.run(Duration::from_secs(4));
    assert_eq!(site.storage.volumes[0].visible[7], 1);
    assert_eq!(site.write(&mut again, 7, 2), Some(GOOD));
}

//! Several computers on one volume: what one reserves, the other meets; what the
//! storage has to say, each hears once; and neither reads what is old (C-9, C-14, C-7).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_hugepages::tables::Durability;
use sluice_proto::scsi::reservation::{Change, Kind};
use sluice_proto::scsi::{ScsiStatus, Sense, SenseKey, cdb, opcode, sense};
use sluice_sim::block::{self, BLOCK_LEN};
use sluice_sim::reservation::InitiatorPort;
use sluice_sim::site::{BLOCKS, Pdu, Session, Site, Size, op};
use sluice_sim::storage::{Fault, LUN, Refusal};

const GOOD: u8 = 0x00;
const CHECK_CONDITION: u8 = 0x02;
const BUSY: u8 = 0x08;
const RESERVATION_CONFLICT: u8 = 0x18;

const SIMPLE: u8 = 1;
const ORDERED: u8 = 2;

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;

const KINDS: [Kind; 6] = [
    Kind::WriteExclusive,
    Kind::ExclusiveAccess,
    Kind::WriteExclusiveRegistrants,
    Kind::ExclusiveAccessRegistrants,
    Kind::WriteExclusiveAll,
    Kind::ExclusiveAccessAll,
];

/// Two computers on one target, and whether its storage knows READ FULL STATUS.
struct Pair {
    site: Site,
    a: Session,
    b: Session,
}

impl Pair {
    fn new(full_status: bool) -> Self {
        let size = Size {
            shared: true,
            ..Size::SMALL
        };
        let mut site = Site::of(size, |storage| {
            storage.volumes[0].reservations.no_full_status = !full_status;
        });
        let a = site.login(0, 0, 1);
        let b = site.login(1, 0, 1);
        Self { site, a, b }
    }
}

/// Sends a command; its status and sense, or the data it brought.
fn send(
    site: &mut Site,
    session: &mut Session,
    flags: u8,
    len: u32,
    cdb: &[u8],
    out: &[u8],
) -> (u8, Vec<u8>) {
    let mut pdu = Site::command(session, flags, len, cdb);
    if !out.is_empty() {
        pdu = pdu.data(out);
    }
    site.send(session, &pdu.bytes());
    site.finish(session, pdu.itt()).expect("a status")
}

/// As [`send`] for commands without data; the sense of a CHECK CONDITION.
fn sense_of(site: &mut Site, session: &mut Session, cdb: &[u8]) -> (u8, Option<Sense>) {
    let pdu = Site::command(session, 0, 0, cdb);
    site.send(session, &pdu.bytes());
    loop {
        let answer: Pdu = site.next_pdu(session).expect("an answer");
        if answer.itt() == pdu.itt() && answer.opcode() == op::RESPONSE {
            let sense = answer.data.get(2..).and_then(sense::parse);
            return (answer.status(), sense.map(|received| received.sense));
        }
    }
}

/// Sends a write of so many blocks of the same number; its task.
fn send_write(
    site: &mut Site,
    session: &mut Session,
    attribute: u8,
    lba: u64,
    blocks: u32,
    number: u32,
) -> u32 {
    let data: Vec<_> = (lba..lba + u64::from(blocks))
        .flat_map(|lba| {
            let mut block = [0; BLOCK_LEN];
            block::fill(&mut block, number, lba);
            block
        })
        .collect();
    let len = u32::try_from(data.len()).unwrap();
    let pdu = Site::command(session, 0x20, len, &cdb::write(lba, blocks)).data(&data);
    let pdu = pdu.at(1, &[0xA0 | attribute]);
    site.send(session, &pdu.bytes());
    pdu.itt()
}

/// The tasks that end next, each with its status and sense.
fn ends_of(site: &mut Site, session: &Session, count: usize) -> Vec<(u32, u8, Option<Sense>)> {
    let mut ends = Vec::new();
    while ends.len() < count {
        let answer: Pdu = site.next_pdu(session).expect("an answer");
        if answer.opcode() == op::RESPONSE {
            let sense = answer.data.get(2..).and_then(sense::parse);
            let sense = sense.map(|received| received.sense);
            ends.push((answer.itt(), answer.status(), sense));
        }
    }
    ends
}

fn reserve_out(
    site: &mut Site,
    session: &mut Session,
    action: u8,
    kind: Kind,
    key: u64,
    action_key: u64,
) -> u8 {
    let (cdb, list) = persistent(action, kind, key, action_key);
    send(site, session, 0x20, 24, &cdb, &list).0
}

fn persistent(action: u8, kind: Kind, key: u64, action_key: u64) -> ([u8; 16], [u8; 24]) {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[2], cdb[8]) = (opcode::PERSISTENT_RESERVE_OUT, action, kind.code(), 24);
    let mut list = [0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&action_key.to_be_bytes());
    (cdb, list)
}

fn ready(site: &mut Site, session: &mut Session) -> (u8, Option<Sense>) {
    sense_of(site, session, &[0; 6])
}

#[test]
fn c9_what_one_reserves_the_other_meets() {
    for full_status in [true, false] {
        for kind in KINDS {
            let Pair {
                mut site,
                mut a,
                mut b,
            } = Pair::new(full_status);
            assert_eq!(reserve_out(&mut site, &mut a, REGISTER, kind, 0, 0xA), GOOD);
            // In the log of the relay when the reservation passes, and drained by it.
            assert_eq!(site.write(&mut b, 7, 70), Some(GOOD));
            assert_eq!(reserve_out(&mut site, &mut a, RESERVE, kind, 0xA, 0), GOOD);
            assert_eq!(
                site.storage.volumes[0].visible[7], 70,
                "drained before it passed"
            );

            assert_eq!(
                site.write(&mut b, 7, 71),
                Some(RESERVATION_CONFLICT),
                "{kind:?}"
            );
            let acked = site.counter("write_left_to_storage");
            assert_eq!(site.write(&mut a, 7, 72), Some(GOOD), "{kind:?}");
            assert_eq!(
                site.counter("write_left_to_storage"),
                acked,
                "the holder is cached"
            );
            // The log holds the block, and the storage does not: the other may not have it.
            let read = site.read(&mut b, 7).unwrap();
            if kind.forbids_reads() {
                assert_eq!(read.0, RESERVATION_CONFLICT, "{kind:?}");
            } else {
                assert_eq!(read, (GOOD, Some(72)), "{kind:?}");
            }
            // The holder's nexus flushes.
            site.run(Duration::from_secs(4));
            assert_eq!(
                (
                    site.storage.volumes[0].media[7],
                    site.counter("flush_failed")
                ),
                (72, 0)
            );

            // Registered, the other may do what the kind says.
            assert_eq!(reserve_out(&mut site, &mut b, REGISTER, kind, 0, 0xB), GOOD);
            let expected = if kind.admits_registrants() {
                GOOD
            } else {
                RESERVATION_CONFLICT
            };
            assert_eq!(site.write(&mut b, 8, 80), Some(expected), "{kind:?}");

            assert_eq!(reserve_out(&mut site, &mut a, RELEASE, kind, 0xA, 0), GOOD);
            if kind.admits_registrants() {
                assert_eq!(ready(&mut site, &mut b).1.unwrap().ascq, 4, "released");
            }
            assert_eq!(site.write(&mut b, 9, 90), Some(GOOD), "{kind:?}");
            assert_eq!(site.read(&mut a, 9), Some((GOOD, Some(90))));
            assert!(site.storage.volumes[0].reservations.is_free());
        }
    }
}

#[test]
fn c9_reserve_is_the_holders_until_it_goes() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    assert_eq!(
        sense_of(&mut site, &mut a, &[opcode::RESERVE_6, 0, 0, 0, 0, 0]).0,
        GOOD
    );
    assert_eq!(site.write(&mut a, 1, 10), Some(GOOD));
    assert_eq!(site.write(&mut b, 1, 11), Some(RESERVATION_CONFLICT));
    assert_eq!(site.read(&mut b, 1).unwrap().0, RESERVATION_CONFLICT);
    assert_eq!(
        sense_of(&mut site, &mut b, &[opcode::RELEASE_6, 0, 0, 0, 0, 0]).0,
        GOOD
    );
    assert_eq!(
        site.write(&mut b, 1, 12),
        Some(RESERVATION_CONFLICT),
        "not its to release"
    );
    // The computer goes, the relay's nexus stays to flush: released all the same.
    site.close(&a);
    site.run(Duration::from_millis(200));
    assert_eq!(site.write(&mut b, 1, 13), Some(GOOD));
    assert_eq!(
        sense_of(&mut site, &mut b, &[opcode::RESERVE_6, 0, 0, 0, 0, 0]).0,
        GOOD
    );
    site.run(Duration::from_secs(4));
    assert_eq!(
        (
            site.storage.volumes[0].media[1],
            site.counter("flush_failed")
        ),
        (13, 0)
    );
}

/// The relay's own RELEASE waits for the flush when the storage goes: the volume's
/// writes do not wait with it, what was reserved went with the session.
#[test]
fn a_release_that_cannot_go_out_does_not_outlive_its_session() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    let reserve = [opcode::RESERVE_6, 0, 0, 0, 0, 0];
    assert_eq!(sense_of(&mut site, &mut a, &reserve).0, GOOD);
    site.storage.deaf = true;
    assert_eq!(site.write(&mut a, 1, 10), Some(GOOD));
    site.close(&a);
    let taken = (0..40).any(|number| {
        site.run(Duration::from_secs(1));
        site.write(&mut b, 2, number) == Some(GOOD)
    });
    assert!(taken, "an outage is bridged");
    site.storage.deaf = false;
    site.run(Duration::from_secs(40));
    assert_eq!(site.storage.volumes[0].media[1], 10);
    assert!(site.worker.relay.is_drained());
}

/// LUN RESET; what the relay says to it.
fn reset(site: &mut Site, session: &mut Session) -> u8 {
    let tag = send_reset(site, session);
    let answer = site.next_pdu(session).expect("an answer to the function");
    assert_eq!(answer.itt(), tag);
    answer.header[2]
}

fn send_reset(site: &mut Site, session: &Session) -> u32 {
    let tag = 0x7000 + session.cmd_sn;
    let pdu = Pdu::new(op::TASK_MANAGEMENT | op::IMMEDIATE, 0x80 | 5, tag)
        .at(8, &LUN.to_be_bytes())
        .word(20, u32::MAX)
        .word(24, session.cmd_sn);
    site.send(session, &pdu.bytes());
    tag
}

/// *Complete* means that what was reserved is free: not before the storage has said so.
#[test]
fn c9_a_reset_waits_for_the_release_at_the_storage() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    let reserve = [opcode::RESERVE_6, 0, 0, 0, 0, 0];
    assert_eq!(sense_of(&mut site, &mut a, &reserve).0, GOOD);
    site.run(Duration::from_secs(2));
    site.storage.hangs = true;
    let tag = send_reset(&mut site, &b);
    assert!(site.next_pdu(&b).is_none(), "it is still reserved there");
    site.storage.hangs = false;
    let answer = site.next_pdu(&b).expect("an answer to the function");
    assert_eq!((answer.itt(), answer.header[2]), (tag, 0));
    while ready(&mut site, &mut b).0 == CHECK_CONDITION {}
    assert_eq!(sense_of(&mut site, &mut b, &reserve).0, GOOD);
}

/// A storage that has something else to say to the RELEASE first is asked again; one
/// that refuses it is not said to have done it.
#[test]
fn c9_a_reset_is_complete_only_when_its_release_is_good() {
    let attention = Answer::Attention(Sense::MODE_PARAMETERS_CHANGED);
    for (first, complete) in [
        (attention, true),
        (Answer::Fails(Fault::Status(ScsiStatus::BUSY), 3), true),
        (
            Answer::Fails(Fault::Status(ScsiStatus::TASK_SET_FULL), 3),
            true,
        ),
        (
            Answer::Fails(Fault::Sense(Sense::INVALID_FIELD_IN_CDB), 1),
            false,
        ),
    ] {
        let Pair {
            mut site,
            mut a,
            mut b,
        } = Pair::new(true);
        let reserve = [opcode::RESERVE_6, 0, 0, 0, 0, 0];
        assert_eq!(sense_of(&mut site, &mut a, &reserve).0, GOOD);
        site.run(Duration::from_secs(2));
        match first {
            Answer::Attention(sense) => site.storage.announce(sense),
            Answer::Fails(fault, times) => site.storage.releases_fail = Some((fault, times)),
        }
        let tag = send_reset(&mut site, &b);
        let answer = (0..15).find_map(|_| site.next_pdu(&b));
        let answer = answer.expect("an answer to the function");
        let said = if complete { 0 } else { 255 };
        assert_eq!((answer.itt(), answer.header[2]), (tag, said), "{first:?}");
        if complete {
            assert!(site.storage.volumes[0].reservations.is_free(), "{first:?}");
            while ready(&mut site, &mut b).0 == CHECK_CONDITION {}
            assert_eq!(sense_of(&mut site, &mut b, &reserve).0, GOOD);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Attention(Sense),
    Fails(Fault, u32),
}

/// A reset that only the storage can do, while the way there is broken: it is done
/// when that is back in time, and else rejected, never said to be done.
#[test]
fn c9_a_reset_that_cannot_reach_the_storage_is_not_complete() {
    for back_in_time in [true, false] {
        let Pair {
            mut site, mut a, ..
        } = Pair::new(true);
        assert_eq!(site.write(&mut a, 1, 10), Some(GOOD));
        site.run(Duration::from_secs(3));
        let outsider = InitiatorPort {
            name: "iqn.2004-03.example.elsewhere:c".to_owned(),
            isid: [0x40, 0, 0, 0, 0, 1],
        };
        site.storage.volumes[0]
            .reservations
            .reserve(&outsider, Change::Reserve);
        while site.write(&mut a, 2, 11) == Some(GOOD) {
            site.run(Duration::from_millis(500));
        }
        site.storage.bars = Some("computer0");
        site.storage.cut_first();
        site.run(Duration::from_millis(50));
        let tag = send_reset(&mut site, &a);
        assert!(site.next_pdu(&a).is_none(), "nobody could have reset it");
        if back_in_time {
            site.storage.bars = None;
        } else {
            site.run(Duration::from_secs(9));
        }
        let answer = (0..9).find_map(|_| site.next_pdu(&a));
        let answer = answer.expect("an answer to the function");
        let said = if back_in_time { 0 } else { 255 };
        assert_eq!((answer.itt(), answer.header[2]), (tag, said));
        assert_eq!(site.storage.counters.lun_resets, u64::from(back_in_time));
    }
}

#[test]
fn c9_a_reset_ends_what_another_computer_has_reserved() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    let reserve = [opcode::RESERVE_6, 0, 0, 0, 0, 0];
    assert_eq!(sense_of(&mut site, &mut a, &reserve).0, GOOD);
    assert_eq!(site.write(&mut a, 1, 10), Some(GOOD));
    assert_eq!(
        sense_of(&mut site, &mut b, &reserve).0,
        RESERVATION_CONFLICT
    );
    assert_eq!(reset(&mut site, &mut b), 0);
    for session in [&mut a, &mut b] {
        let (status, sense) = ready(&mut site, session);
        assert_eq!(
            (status, sense),
            (CHECK_CONDITION, Some(Sense::BUS_DEVICE_RESET))
        );
        assert_eq!(ready(&mut site, session).0, GOOD, "told once");
    }
    assert_eq!(sense_of(&mut site, &mut b, &reserve).0, GOOD);
    assert_eq!(site.write(&mut a, 1, 11), Some(RESERVATION_CONFLICT));
    assert_eq!(site.write(&mut b, 1, 12), Some(GOOD));
    assert_eq!(
        site.storage.counters.lun_resets, 0,
        "its own nexus let it go"
    );
    site.run(Duration::from_secs(3));
    assert_eq!(site.storage.volumes[0].media[1], 12);
}

#[test]
fn c9_a_reset_ends_what_was_reserved_elsewhere() {
    let Pair {
        mut site, mut a, ..
    } = Pair::new(true);
    assert_eq!(site.write(&mut a, 1, 10), Some(GOOD));
    site.run(Duration::from_secs(3));
    let outsider = InitiatorPort {
        name: "iqn.2004-03.example.elsewhere:c".to_owned(),
        isid: [0x40, 0, 0, 0, 0, 1],
    };
    site.storage.volumes[0]
        .reservations
        .reserve(&outsider, Change::Reserve);
    // The first is acknowledged, the conflict is met by its flush or a poll.
    while site.write(&mut a, 2, 11) == Some(GOOD) {
        site.run(Duration::from_millis(500));
    }
    assert_eq!(reset(&mut site, &mut a), 0);
    assert_eq!(site.storage.counters.lun_resets, 1);
    site.run(Duration::from_millis(500));
    while ready(&mut site, &mut a).0 == CHECK_CONDITION {}
    assert_eq!(site.write(&mut a, 3, 12), Some(GOOD));
    site.run(Duration::from_secs(3));
    assert_eq!(site.storage.volumes[0].media[3], 12);
}

#[test]
fn c9_a_computer_that_preempts_fences_the_other_off() {
    for full_status in [true, false] {
        let Pair {
            mut site,
            mut a,
            mut b,
        } = Pair::new(full_status);
        let kind = Kind::WriteExclusiveRegistrants;
        assert_eq!(reserve_out(&mut site, &mut a, REGISTER, kind, 0, 0xA), GOOD);
        assert_eq!(reserve_out(&mut site, &mut b, REGISTER, kind, 0, 0xB), GOOD);
        assert_eq!(reserve_out(&mut site, &mut a, RESERVE, kind, 0xA, 0), GOOD);
        assert_eq!(site.write(&mut a, 1, 10), Some(GOOD));
        assert_eq!(
            reserve_out(&mut site, &mut b, PREEMPT, kind, 0xB, 0xA),
            GOOD
        );
        assert_eq!(
            site.storage.volumes[0].visible[1], 10,
            "what was acknowledged went first"
        );
        let (status, sense) = ready(&mut site, &mut a);
        assert_eq!(
            (status, sense.unwrap().ascq),
            (CHECK_CONDITION, 5),
            "preempted"
        );
        assert_eq!(ready(&mut site, &mut a).0, GOOD, "told once");
        assert_eq!(site.write(&mut a, 1, 11), Some(RESERVATION_CONFLICT));
        assert_eq!(site.write(&mut b, 1, 12), Some(GOOD));
        assert_eq!(reserve_out(&mut site, &mut b, CLEAR, kind, 0xB, 0), GOOD);
        assert_eq!(site.write(&mut a, 1, 13), Some(GOOD));
    }
}

/// Somebody who does not come by the relay takes the volume: the next the relay
/// hears of it stops what it acknowledges.
#[test]
fn c9_one_from_outside_is_met_by_its_unit_attention() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    let kind = Kind::WriteExclusiveRegistrants;
    assert_eq!(reserve_out(&mut site, &mut a, REGISTER, kind, 0, 0xA), GOOD);
    assert_eq!(reserve_out(&mut site, &mut b, REGISTER, kind, 0, 0xB), GOOD);
    assert_eq!(reserve_out(&mut site, &mut a, RESERVE, kind, 0xA, 0), GOOD);
    assert_eq!(site.write(&mut b, 1, 10), Some(GOOD));
    site.run(Duration::from_secs(4));
    let outsider = InitiatorPort {
        name: "iqn.2004-03.example.elsewhere:c".to_owned(),
        isid: [0x40, 0, 0, 0, 0, 1],
    };
    let (cdb, list) = persistent(REGISTER, kind, 0, 0xC);
    site.storage
        .change_from_outside(&outsider, &cdb, &list)
        .unwrap();
    let (cdb, list) = persistent(PREEMPT, kind, 0xC, 0xB);
    site.storage
        .change_from_outside(&outsider, &cdb, &list)
        .unwrap();
    // Its writes are answered from the log and flushed by another's nexus; it is asked
    // all the same, in a quarter of a second.
    let mut status = GOOD;
    for round in 0..8 {
        status = site.write(&mut b, 2, 20 + round).unwrap();
        site.run(Duration::from_millis(100));
        if status != GOOD {
            break;
        }
    }
    assert_eq!(status, CHECK_CONDITION, "the unit attention comes first");
    assert_eq!(site.write(&mut b, 2, 99), Some(RESERVATION_CONFLICT));
    assert_eq!(
        site.write(&mut a, 3, 30),
        Some(GOOD),
        "the other is as before"
    );
}

/// A start finds the reservation before anything is acknowledged.
#[test]
fn c9_after_a_crash_the_storage_is_asked_first() {
    for full_status in [true, false] {
        let Pair {
            mut site, mut a, ..
        } = Pair::new(full_status);
        let kind = Kind::WriteExclusive;
        assert_eq!(reserve_out(&mut site, &mut a, REGISTER, kind, 0, 0xA), GOOD);
        assert_eq!(reserve_out(&mut site, &mut a, RESERVE, kind, 0xA, 0), GOOD);
        assert_eq!(site.write(&mut a, 5, 50), Some(GOOD));
        let mut site = site.restart();
        let mut b = site.login(1, 0, 1);
        let mut a = site.login(0, 0, 1);
        assert_eq!(site.write(&mut b, 5, 51), Some(RESERVATION_CONFLICT));
        let mut status = site.write(&mut a, 5, 52).unwrap();
        if status == BUSY {
            status = site.write(&mut a, 5, 52).unwrap();
        }
        assert_eq!(status, GOOD, "its nexus is the same as before");
        site.run(Duration::from_secs(4));
        assert_eq!(site.storage.volumes[0].media[5], 52);
    }
}

/// One that the relay must leave to the storage may be as long as any.
#[test]
fn c9_a_long_write_is_the_storages_to_judge() {
    const BLOCKS: u32 = 4096;
    let size = Size {
        shared: true,
        ..Size::SMALL
    };
    let mut site = Site::of(size, |storage| {
        storage.volumes[0].reservations.no_full_status = true;
        storage.resize(8192);
    });
    let mut a = site.login(0, 0, 1);
    let kind = Kind::WriteExclusive;
    assert_eq!(reserve_out(&mut site, &mut a, REGISTER, kind, 0, 0xA), GOOD);
    assert_eq!(reserve_out(&mut site, &mut a, RESERVE, kind, 0xA, 0), GOOD);
    // Who is registered is forgotten with the process, and this storage does not say.
    let mut site = site.restart();
    let mut b = site.login(1, 0, 1);
    let mut a = site.login(0, 0, 1);
    assert_eq!(site.write(&mut b, 5, 51), Some(RESERVATION_CONFLICT));
    let data: Vec<_> = (0..u64::from(BLOCKS))
        .flat_map(|lba| {
            let mut block = [0; BLOCK_LEN];
            block::fill(&mut block, 7, lba);
            block
        })
        .collect();
    for (session, expected) in [(&mut b, RESERVATION_CONFLICT), (&mut a, GOOD)] {
        let mut status = BUSY;
        for _ in 0..2 {
            let pdu = Site::command(session, 0x20, BLOCKS * 512, &cdb::write(0, BLOCKS));
            site.send(session, &pdu.bytes());
            status = site.finish_write(session, pdu.itt(), &data).unwrap();
            if status != BUSY {
                break;
            }
        }
        assert_eq!(status, expected);
    }
    assert!(
        site.storage.volumes[0].visible[..4096]
            .iter()
            .all(|&is| is == 7)
    );
    site.run(Duration::from_secs(3));
    assert_eq!(site.usage().staging_pages, 0);
}

#[test]
fn c9_compare_and_write_of_two_computers_takes_turns() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    let mut compare = [0; 16];
    (compare[0], compare[9], compare[13]) = (opcode::COMPARE_AND_WRITE, 40, 1);
    let blocks = |expected: u32, new: u32| {
        let mut data = [0; 2 * BLOCK_LEN];
        block::fill(&mut data[..BLOCK_LEN], expected, 40);
        block::fill(&mut data[BLOCK_LEN..], new, 40);
        data
    };
    let len = u32::try_from(2 * BLOCK_LEN).unwrap();
    // What it compares with stands in the log, written by the other.
    let mut number = 1;
    assert_eq!(site.write(&mut a, 40, number), Some(GOOD));
    for round in 0..20 {
        let (first, second) = if round % 2 == 0 {
            (&mut a, &mut b)
        } else {
            (&mut b, &mut a)
        };
        // Both at once, with the same expectation: one of them wins.
        let won = Site::command(first, 0x20, len, &compare).data(&blocks(number, number + 1));
        let lost = Site::command(second, 0x20, len, &compare).data(&blocks(number, number + 2));
        site.send(first, &won.bytes());
        site.send(second, &lost.bytes());
        let ends = [
            site.finish(first, won.itt()).unwrap().0,
            site.finish(second, lost.itt()).unwrap().0,
        ];
        assert!(
            ends == [GOOD, CHECK_CONDITION] || ends == [CHECK_CONDITION, GOOD],
            "{ends:?}"
        );
        number += if ends[0] == GOOD { 1 } else { 2 };
        assert_eq!(site.read(first, 40), Some((GOOD, Some(number))));
        assert_eq!(site.read(second, 40), Some((GOOD, Some(number))));
        // And a cached write between.
        number += 10;
        assert_eq!(site.write(second, 40, number), Some(GOOD));
    }
}

#[test]
fn c14_each_computer_hears_once() {
    for told in [
        Sense::MODE_PARAMETERS_CHANGED,
        Sense::CAPACITY_DATA_CHANGED,
        Sense::REPORTED_LUNS_CHANGED,
        Sense::THIN_THRESHOLD_REACHED,
        Sense::POWER_ON_OR_RESET,
    ] {
        let Pair {
            mut site,
            mut a,
            mut b,
        } = Pair::new(true);
        // One nexus carries the flush, and is met by it in the relay's own commands.
        assert_eq!(site.write(&mut a, 1, 10), Some(GOOD));
        assert_eq!(site.write(&mut b, 2, 20), Some(GOOD));
        site.storage.announce(told);
        site.run(Duration::from_secs(4));
        assert!(site.counter("unit_attention_kept") > 0);
        for session in [&mut a, &mut b] {
            assert_eq!(ready(&mut site, session), (CHECK_CONDITION, Some(told)));
            assert_eq!(ready(&mut site, session), (GOOD, None), "{told:?} once");
        }
        assert_eq!(
            (
                site.storage.volumes[0].media[1],
                site.storage.volumes[0].media[2]
            ),
            (10, 20)
        );
    }
}

/// The storage speaks of it without being asked anything: each computer is told in the
/// same way, and not by its next command once more.
#[test]
fn c14_an_event_is_told_to_every_computer_and_heeded() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    let end = BLOCKS as u64;
    assert_eq!(
        site.write(&mut a, end, 1),
        Some(CHECK_CONDITION),
        "beyond the end"
    );
    site.storage.resize(BLOCKS + 8);
    site.storage.tell_of(LUN, Sense::CAPACITY_DATA_CHANGED);
    site.run(Duration::from_secs(1));
    for session in [&mut a, &mut b] {
        let message = site.next_pdu(session).expect("an asynchronous message");
        assert_eq!((message.opcode(), message.header[36]), (0x32, 0));
        let sense = Sense::CAPACITY_DATA_CHANGED.fixed();
        assert_eq!(message.data[..2], 18_u16.to_be_bytes());
        assert_eq!(message.data[2..][..sense.len()], sense);
        assert_eq!(ready(&mut site, session), (GOOD, None));
    }
    assert_eq!(site.write(&mut a, end + 7, 20), Some(GOOD));
    site.run(Duration::from_secs(4));
    assert_eq!(site.storage.volumes[0].media[BLOCKS + 7], 20);
}

#[test]
fn c14_a_volume_that_has_grown_is_written_to_its_end() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    let end = BLOCKS as u64;
    assert_eq!(site.write(&mut a, 1, 10), Some(GOOD));
    assert_eq!(
        site.write(&mut b, end, 1),
        Some(CHECK_CONDITION),
        "beyond the end"
    );
    site.storage.resize(BLOCKS * 2);
    site.storage.announce(Sense::CAPACITY_DATA_CHANGED);
    site.run(Duration::from_secs(1));
    assert_eq!(
        ready(&mut site, &mut a).1,
        Some(Sense::CAPACITY_DATA_CHANGED)
    );
    assert_eq!(
        ready(&mut site, &mut b).1,
        Some(Sense::CAPACITY_DATA_CHANGED)
    );
    assert_eq!(site.write(&mut b, end, 7), Some(GOOD));
    assert_eq!(site.read(&mut a, end), Some((GOOD, Some(7))));
    site.run(Duration::from_secs(4));
    assert_eq!(site.storage.volumes[0].media[BLOCKS], 7);
}

/// What a computer makes a volume of 2,048 blocks with, and the data of it. A FORMAT UNIT
/// has none: the volume knows how large it is to be.
fn resizing(operation: u8, blocks: u32) -> ([u8; 10], Vec<u8>) {
    let mut descriptor = blocks.to_be_bytes().to_vec();
    descriptor.extend(u32::try_from(BLOCK_LEN).unwrap().to_be_bytes());
    let list = match operation {
        opcode::FORMAT_UNIT => Vec::new(),
        opcode::MODE_SELECT_6 => [vec![0, 0, 0, 8], descriptor].concat(),
        _ => [vec![0, 0, 0, 0, 0, 0, 0, 8], descriptor].concat(),
    };
    let len = u8::try_from(list.len()).unwrap();
    let mut cdb = [operation, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    match operation {
        opcode::FORMAT_UNIT => {}
        opcode::MODE_SELECT_6 => (cdb[1], cdb[4]) = (0x10, len),
        _ => (cdb[1], cdb[8]) = (0x10, len),
    }
    (cdb, list)
}

const RESIZING: [u8; 3] = [
    opcode::FORMAT_UNIT,
    opcode::MODE_SELECT_6,
    opcode::MODE_SELECT_10,
];

/// Has the volume made of so many blocks by a command of the computer's.
fn resize_by(site: &mut Site, session: &mut Session, operation: u8, blocks: usize) {
    site.storage.volumes[0].formats_to = Some(blocks);
    let (cdb, list) = resizing(operation, u32::try_from(blocks).unwrap());
    let (flags, len) = if list.is_empty() {
        (0, 0)
    } else {
        (0x20, u32::try_from(list.len()).unwrap())
    };
    let (status, _) = send(site, session, flags, len, &cdb, &list);
    assert_eq!(status, GOOD, "{operation:#x}");
}

/// The computer whose command it was hears of no change (SBC-4 4.10), and so does the
/// relay, whose nexus it went by: it asks of its own accord.
#[test]
fn c14_a_volume_that_a_computer_has_made_larger_is_written_to_its_end() {
    for operation in RESIZING {
        let Pair {
            mut site,
            mut a,
            mut b,
        } = Pair::new(true);
        let end = BLOCKS as u64;
        assert_eq!(site.write(&mut a, end, 1), Some(CHECK_CONDITION));
        resize_by(&mut site, &mut a, operation, 2 * BLOCKS);
        site.run(Duration::from_millis(50));
        // The other, which would tell the relay too, has not said a word since.
        let last = 2 * end - 1;
        for (lba, number) in [(end, 7), (last, 8)] {
            assert_eq!(
                site.write(&mut a, lba, number),
                Some(GOOD),
                "{operation:#x}"
            );
            assert_eq!(site.read(&mut a, lba), Some((GOOD, Some(number))));
        }
        assert_eq!(site.write(&mut a, last + 1, 9), Some(CHECK_CONDITION));
        let heard = (CHECK_CONDITION, Some(Sense::CAPACITY_DATA_CHANGED));
        assert_eq!(ready(&mut site, &mut b), heard);
        assert_eq!(ready(&mut site, &mut a), (GOOD, None), "its own doing");
        site.run(Duration::from_secs(4));
        let media = &site.storage.volumes[0].media;
        assert_eq!((media[BLOCKS], media[2 * BLOCKS - 1]), (7, 8));
        assert!(site.worker.relay.is_drained());
    }
}

/// It looks at the volume and writes to its end, while the relay may still be asking.
#[test]
fn c14_a_volume_that_has_just_been_made_larger_is_written_to_its_end() {
    for operation in RESIZING {
        let Pair {
            mut site, mut a, ..
        } = Pair::new(true);
        site.storage.latency_max = Duration::from_millis(40);
        resize_by(&mut site, &mut a, operation, 2 * BLOCKS);
        let capacity = send(&mut site, &mut a, 0x40, 32, &cdb::read_capacity_16(32), &[]);
        assert_eq!(capacity.1[4..8], [0, 0, 7, 0xFF], "{operation:#x}");
        let last = 2 * BLOCKS as u64 - 1;
        assert_eq!(site.write(&mut a, last, 7), Some(GOOD), "{operation:#x}");
        assert_eq!(
            site.read(&mut a, last),
            Some((GOOD, Some(7))),
            "{operation:#x}"
        );
        site.run(Duration::from_secs(4));
        assert_eq!(site.storage.volumes[0].media[2 * BLOCKS - 1], 7);
    }
}

/// Nothing is acknowledged for blocks that are not there any more (C-4).
#[test]
fn c14_a_volume_that_has_just_been_made_smaller_takes_no_write_beyond_its_end() {
    for operation in RESIZING {
        let Pair {
            mut site, mut a, ..
        } = Pair::new(true);
        site.storage.latency_max = Duration::from_millis(40);
        resize_by(&mut site, &mut a, operation, BLOCKS / 2);
        let gone = BLOCKS as u64 / 2;
        assert_ne!(site.write(&mut a, gone, 7), Some(GOOD), "{operation:#x}");
        assert_eq!(site.write(&mut a, gone - 1, 8), Some(GOOD));
        site.run(Duration::from_secs(4));
        assert_eq!(site.storage.volumes[0].media[BLOCKS / 2 - 1], 8);
        assert!(site.worker.relay.is_drained());
    }
}

/// Nor a write that came before it was smaller, has all its data, and waits for that to be
/// known: it is told so, and nothing of it is in the log.
#[test]
fn c14_a_write_that_waits_while_its_volume_is_made_smaller_is_refused() {
    for operation in RESIZING {
        let Pair {
            mut site, mut a, ..
        } = Pair::new(true);
        site.storage.latency_max = Duration::from_millis(40);
        let half = BLOCKS / 2;
        site.storage.volumes[0].formats_to = Some(half);
        let (resize, list) = resizing(operation, u32::try_from(half).unwrap());
        let len = u32::try_from(list.len()).unwrap();
        let flags = if list.is_empty() { 0 } else { 0x20 };
        site.storage.hangs = true;
        let resize = Site::command(&mut a, flags, len, &resize).data(&list);
        site.send(&a, &resize.bytes());
        // Across the end that is to be, at it, and before it.
        let half = half as u64;
        let writes = [(half - 1, 2), (half, 1), (half - 1, 1)]
            .map(|(lba, blocks)| send_write(&mut site, &mut a, SIMPLE, lba, blocks, 7));
        site.run(Duration::from_millis(50));
        assert_eq!(site.counter("write_behind_command"), 3, "{operation:#x}");
        site.storage.hangs = false;
        let mut ends = ends_of(&mut site, &a, 4);
        ends.sort_unstable_by_key(|&(itt, ..)| itt);
        let refused = (CHECK_CONDITION, Some(Sense::LBA_OUT_OF_RANGE));
        let [across, at, before] = writes;
        let expected = [
            (resize.itt(), GOOD, None),
            (across, refused.0, refused.1),
            (at, refused.0, refused.1),
            (before, GOOD, None),
        ];
        assert_eq!(ends, expected, "{operation:#x}");
        assert_eq!(site.worker.relay.dirty_bytes(), BLOCK_LEN as u64);
        site.run(Duration::from_secs(4));
        assert_eq!(site.storage.volumes[0].media[BLOCKS / 2 - 1], 7);
        assert!(site.worker.relay.is_drained());
        assert_eq!((site.usage().tasks, site.usage().segments), (0, 0));
    }
}

/// Nor one that has no room in the log yet, which another volume fills: it gets none, when
/// there is some, and those behind it do. That may be before it is known how large the
/// volume is, and after.
#[test]
fn c14_a_held_write_that_no_longer_fits_its_volume_gets_no_room() {
    for known_first in [true, false] {
        let mut site = Site::of(
            Size {
                log_len: 16 * 1024 * 1024,
                ..Size::SMALL
            },
            |_| (),
        );
        let mut a = site.login(0, 0, 1);
        let mut other = site.login(1, 1, 1);
        site.storage.stalls = Some("computer1");
        while site.usage().held == 0 {
            let lba = u64::from(other.itt % 3) * 128;
            // None takes the place of one before.
            send_write(&mut site, &mut other, ORDERED, lba, 128, 5);
            while site.usage().tasks > 60 {
                site.run(Duration::from_millis(100));
            }
        }
        let half = BLOCKS as u64 / 2;
        let gone = send_write(&mut site, &mut a, SIMPLE, half, 1, 7);
        let kept = send_write(&mut site, &mut a, SIMPLE, half - 1, 1, 8);
        site.run(Duration::from_millis(5));
        assert_eq!(site.counter("write_held_for_room"), 3);
        site.storage.holds_answer_to = (!known_first).then_some(opcode::SERVICE_ACTION_IN_16);
        resize_by(&mut site, &mut a, opcode::MODE_SELECT_10, BLOCKS / 2);
        site.run(Duration::from_millis(50));
        assert_eq!(site.usage().held, 3, "they wait for room");
        site.storage.stalls = None;
        site.run(Duration::from_secs(1));
        assert_eq!(site.usage().held, 0);
        site.storage.let_go();
        let mut ends = ends_of(&mut site, &a, 2);
        ends.sort_unstable_by_key(|&(itt, ..)| itt);
        let refused = Some(Sense::LBA_OUT_OF_RANGE);
        assert_eq!(ends, [(gone, CHECK_CONDITION, refused), (kept, GOOD, None)]);
        site.run(Duration::from_secs(4));
        assert_eq!(site.storage.volumes[0].media[BLOCKS / 2 - 1], 8);
        assert!(site.worker.relay.is_drained());
        let usage = site.usage();
        assert_eq!(
            (usage.tasks, usage.segments, usage.staging_pages),
            (0, 0, 0)
        );
    }
}

/// What was asked before another computer's MODE SELECT says nothing of the cache that
/// this has turned on.
#[test]
fn c2_what_was_said_of_the_cache_before_it_was_turned_on_counts_no_more() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    site.storage.volumes[0].write_through = true;
    site.storage.announce(Sense::CAPACITY_DATA_CHANGED);
    site.storage.holds_answer_to = Some(opcode::MODE_SENSE_6);
    // The relay asks by this one's nexus, and waits.
    assert_eq!(ready(&mut site, &mut b).0, CHECK_CONDITION);
    site.run(Duration::from_millis(50));
    assert_eq!(site.storage.holds_answer_to, None, "it was asked");
    assert_eq!(ready(&mut site, &mut a).0, CHECK_CONDITION);
    site.run(Duration::from_millis(50));
    site.storage.volumes[0].write_through = false;
    resize_by(&mut site, &mut a, opcode::MODE_SELECT_10, BLOCKS);
    site.run(Duration::from_millis(50));
    site.storage.let_go();
    site.run(Duration::from_millis(50));
    let mut data = [0; BLOCK_LEN];
    block::fill(&mut data, 33, 3);
    let len = u32::try_from(BLOCK_LEN).unwrap();
    let (status, _) = send(&mut site, &mut a, 0x20, len, &cdb::write_fua(3, 1), &data);
    assert_eq!((status, site.storage.volumes[0].media[3]), (GOOD, 33));
}

/// Nor does what was asked of the size before it became another.
#[test]
fn c14_what_was_said_of_the_size_before_it_was_made_another_counts_no_more() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    site.storage.announce(Sense::CAPACITY_DATA_CHANGED);
    site.storage.holds_answer_to = Some(opcode::SERVICE_ACTION_IN_16);
    assert_eq!(ready(&mut site, &mut b).0, CHECK_CONDITION);
    site.run(Duration::from_millis(50));
    assert_eq!(site.storage.holds_answer_to, None, "it was asked");
    assert_eq!(ready(&mut site, &mut a).0, CHECK_CONDITION);
    site.run(Duration::from_millis(50));
    resize_by(&mut site, &mut a, opcode::MODE_SELECT_10, BLOCKS / 2);
    site.run(Duration::from_millis(50));
    // That it has changed since takes longer to be heard.
    site.storage.latency_max = Duration::from_secs(1);
    site.storage.let_go();
    site.run(Duration::from_millis(5));
    let gone = BLOCKS as u64 / 2;
    assert_ne!(site.write(&mut a, gone, 7), Some(GOOD));
    assert_eq!(site.write(&mut a, gone - 1, 8), Some(GOOD));
    site.run(Duration::from_secs(4));
    assert_eq!(site.storage.volumes[0].media[BLOCKS / 2 - 1], 8);
}

/// Another nexus takes the flush over from one that has records at the storage which no sync
/// covers. The storage has dropped them meanwhile, and tells of it the one that sent them:
/// they go again (C-2).
#[test]
fn c2_what_is_not_synced_goes_again_when_the_flush_moves() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    let kind = Kind::WriteExclusiveRegistrants;
    assert_eq!(reserve_out(&mut site, &mut a, REGISTER, kind, 0, 0xA), GOOD);
    assert_eq!(reserve_out(&mut site, &mut b, REGISTER, kind, 0, 0xB), GOOD);
    assert_eq!(reserve_out(&mut site, &mut b, RESERVE, kind, 0xB, 0), GOOD);
    site.run(Duration::from_secs(4));
    // A's carries it; its syncs end BUSY.
    site.storage.refusals.push(Refusal {
        lba: 0,
        blocks: 0,
        fault: Fault::Status(ScsiStatus::BUSY),
        times: u32::MAX,
    });
    assert_eq!(site.write(&mut a, 1, 10), Some(GOOD));
    for _ in 0..400 {
        site.run(Duration::from_millis(10));
        if site.storage.volumes[0].visible[1] == 10 {
            break;
        }
    }
    site.run(Duration::from_millis(50));
    assert_eq!(site.storage.volumes[0].visible[1], 10);
    site.storage.lose_cache();
    // The other hears of the reset, which is not its to heed.
    assert_eq!(ready(&mut site, &mut b).0, CHECK_CONDITION);
    let outsider = InitiatorPort {
        name: "iqn.2004-03.example.elsewhere:c".to_owned(),
        isid: [0x40, 0, 0, 0, 0, 1],
    };
    let outside = &mut site.storage;
    for (action, own, other) in [(REGISTER, 0, 0xC), (PREEMPT, 0xC, 0xA)] {
        let (cdb, list) = persistent(action, kind, own, other);
        outside.change_from_outside(&outsider, &cdb, &list).unwrap();
    }
    site.run(Duration::from_millis(50));
    // B hears of a change, and the relay asks who holds the volume.
    let changed = Sense::new(SenseKey::UNIT_ATTENTION, 0x2A, 0x03);
    site.storage.announce(changed);
    assert_eq!(ready(&mut site, &mut b), (CHECK_CONDITION, Some(changed)));
    site.run(Duration::from_millis(100));
    site.storage.refusals.clear();
    site.run(Duration::from_secs(8));
    assert!(site.worker.relay.is_drained());
    assert_eq!(site.storage.volumes[0].media[1], 10);
}

/// The holder's nexus is away for long, and another's tries in its place, which the storage
/// does not let write: when the holder is back the flush is its again (C-8).
#[test]
fn c8_the_flush_comes_back_to_the_one_that_may_write() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    let kind = Kind::WriteExclusive;
    assert_eq!(reserve_out(&mut site, &mut a, REGISTER, kind, 0, 0xA), GOOD);
    assert_eq!(reserve_out(&mut site, &mut a, RESERVE, kind, 0xA, 0), GOOD);
    site.run(Duration::from_millis(200));
    site.storage.bars = Some("computer0");
    site.storage.cut("computer0");
    site.run(Duration::from_millis(10));
    for (lba, number) in (1..9).zip(10..) {
        assert_eq!(site.write(&mut a, 4 * lba, number), Some(GOOD));
    }
    // More than once B's nexus asks to write, and none of it gets in.
    site.run(Duration::from_secs(20));
    assert!(ready(&mut site, &mut b).0 != RESERVATION_CONFLICT);
    assert_eq!(site.storage.volumes[0].visible[4], 0);
    site.storage.bars = None;
    site.run(Duration::from_secs(15));
    let stored: Vec<_> = (1..9)
        .map(|lba| site.storage.volumes[0].media[4 * lba])
        .collect();
    assert_eq!(stored, (10..18).collect::<Vec<_>>());
    assert!(site.worker.relay.is_drained());
}

/// A write with FUA that is left to the storage ends when it is on stable media,
/// though nobody tells the storage of FUA.
#[test]
fn c2_fua_left_to_the_storage_is_on_stable_media() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(false);
    let kind = Kind::WriteExclusiveRegistrants;
    assert_eq!(reserve_out(&mut site, &mut a, REGISTER, kind, 0, 0xA), GOOD);
    // The same key twice: which of the two holds is not known, and neither is cached.
    let kind = Kind::WriteExclusive;
    assert_eq!(reserve_out(&mut site, &mut b, REGISTER, kind, 0, 0xA), GOOD);
    assert_eq!(reserve_out(&mut site, &mut a, RESERVE, kind, 0xA, 0), GOOD);
    // Until the storage has said who holds it, a write that was begun is to come again.
    site.run(Duration::from_millis(50));
    let mut data = [0; BLOCK_LEN];
    block::fill(&mut data, 33, 3);
    let len = u32::try_from(BLOCK_LEN).unwrap();
    let (status, _) = send(&mut site, &mut a, 0x20, len, &cdb::write_fua(3, 1), &data);
    assert_eq!((status, site.storage.volumes[0].media[3]), (GOOD, 33));
    assert!(site.counter("write_left_to_storage") > 0);
    let (status, _) = send(&mut site, &mut b, 0x20, len, &cdb::write_fua(3, 1), &data);
    assert_eq!(status, RESERVATION_CONFLICT);
    // The storage has said GOOD, and loses it before it is synced: no later sync makes
    // that good.
    site.storage.latency_max = Duration::from_secs(1);
    block::fill(&mut data, 44, 4);
    let pdu = Site::command(&mut a, 0x20, len, &cdb::write_fua(4, 1)).data(&data);
    site.send(&a, &pdu.bytes());
    for _ in 0..1000 {
        site.run(Duration::from_millis(10));
        if site.storage.volumes[0].visible[4] == 44 {
            break;
        }
    }
    site.run(Duration::from_millis(10));
    let volume = &site.storage.volumes[0];
    assert_eq!((volume.visible[4], volume.media[4]), (44, 0));
    site.storage.fail_power();
    site.storage.latency_max = Duration::from_millis(2);
    site.run(Duration::from_secs(5));
    let (status, _) = site.finish(&a, pdu.itt()).expect("an answer");
    assert_eq!(status, CHECK_CONDITION);
}

/// It waits for a sync that goes by another computer's nexus, and its own session with the
/// storage is lost, with what the storage had cached of it: that sync says nothing of it.
#[test]
fn c2_what_passed_by_a_session_that_is_lost_before_its_sync_is_not_good() {
    let size = Size {
        shared: true,
        durability: Durability::Storage,
        ..Size::SMALL
    };
    let mut site = Site::of(size, |_| ());
    let mut a = site.login(0, 0, 1);
    let mut b = site.login(1, 0, 1);
    // From here on writes are left to the storage.
    site.storage.announce(Sense::THIN_THRESHOLD_REACHED);
    assert_eq!(ready(&mut site, &mut a).0, CHECK_CONDITION);
    assert_eq!(ready(&mut site, &mut b).0, CHECK_CONDITION);
    let busy = Refusal {
        lba: 0,
        blocks: 0,
        fault: Fault::Status(ScsiStatus::BUSY),
        times: u32::MAX,
    };
    site.storage.refusals.push(busy);
    let mut data = [0; BLOCK_LEN];
    let len = u32::try_from(BLOCK_LEN).unwrap();
    let [of_a, of_b] = [(&mut a, 3), (&mut b, 4)].map(|(session, lba)| {
        block::fill(&mut data, 33, lba);
        let pdu = Site::command(session, 0x20, len, &cdb::write(lba, 1)).data(&data);
        site.send(session, &pdu.bytes());
        pdu.itt()
    });
    site.run(Duration::from_secs(1));
    let volume = &mut site.storage.volumes[0];
    assert_eq!((volume.visible[3], volume.visible[4]), (33, 33));
    assert_eq!((volume.media[3], volume.media[4]), (0, 0));
    assert!(site.storage.counters.refused > 0, "a sync was asked for");
    // A's nexus carries the flush, as it has from the beginning, and hears nothing.
    let volume = &mut site.storage.volumes[0];
    volume.visible[4] = volume.media[4];
    let lost = site.counter("wan_session_lost");
    site.storage.cut("computer1");
    site.run(Duration::from_secs(1));
    assert_eq!(site.counter("wan_session_lost"), lost + 1);
    site.storage.refusals.clear();
    assert_eq!(site.finish(&a, of_a).unwrap().0, GOOD);
    let ends = ends_of(&mut site, &b, 1);
    let told = Some(Sense::COMMUNICATION_FAILURE);
    assert_eq!(ends, [(of_b, CHECK_CONDITION, told)]);
    let volume = &site.storage.volumes[0];
    assert_eq!((volume.media[3], volume.media[4]), (33, 0));
}

/// The nexus that carries the flush may not write any more, another of ours may:
/// it takes over, and nothing is lost (C-8). When none may, the records stay.
#[test]
fn c9_a_flush_that_meets_a_reservation_moves_to_the_holders_nexus() {
    let Pair {
        mut site,
        mut a,
        mut b,
    } = Pair::new(true);
    let kind = Kind::WriteExclusiveRegistrants;
    assert_eq!(reserve_out(&mut site, &mut a, REGISTER, kind, 0, 0xA), GOOD);
    assert_eq!(reserve_out(&mut site, &mut b, REGISTER, kind, 0, 0xB), GOOD);
    assert_eq!(reserve_out(&mut site, &mut b, RESERVE, kind, 0xB, 0), GOOD);
    // A's nexus carries the flush, as it has from the beginning.
    assert_eq!(site.write(&mut a, 1, 10), Some(GOOD));
    assert_eq!(site.write(&mut b, 2, 20), Some(GOOD));
    let outsider = InitiatorPort {
        name: "iqn.2004-03.example.elsewhere:c".to_owned(),
        isid: [0x40, 0, 0, 0, 0, 1],
    };
    let (cdb, list) = persistent(REGISTER, kind, 0, 0xC);
    let outside = &mut site.storage;
    outside.change_from_outside(&outsider, &cdb, &list).unwrap();
    let (cdb, list) = persistent(PREEMPT, kind, 0xC, 0xA);
    outside.change_from_outside(&outsider, &cdb, &list).unwrap();
    site.run(Duration::from_secs(4));
    assert_eq!(
        (
            site.storage.volumes[0].media[1],
            site.storage.volumes[0].media[2]
        ),
        (10, 20)
    );

    assert_eq!(site.write(&mut b, 3, 30), Some(GOOD));
    let (cdb, list) = persistent(PREEMPT, kind, 0xC, 0xB);
    let outside = &mut site.storage;
    outside.change_from_outside(&outsider, &cdb, &list).unwrap();
    site.run(Duration::from_secs(4));
    assert_eq!(
        site.storage.volumes[0].visible[3], 0,
        "the storage does not let it in"
    );
    assert!(!site.worker.relay.is_drained(), "and the relay keeps it");
    let refused = site.write(&mut b, 4, 40);
    assert_ne!(refused, Some(GOOD));
}

/// The session that carries the flush is lost, and before another takes it over (which is
/// the sweep's to see to) the storage is reset: only who has a command out hears of it. What
/// it had done of a write that is answered after that is lost all the same.
#[test]
fn c2_a_reset_that_is_heard_while_the_flush_has_no_session_counts() {
    let size = Size {
        shared: true,
        durability: Durability::Storage,
        ..Size::SMALL
    };
    let mut site = Site::of(size, |storage| {
        storage.latency_max = Duration::from_micros(1);
    });
    // The first carries the flush.
    let mut b = site.login(1, 0, 1);
    let mut a = site.login(0, 0, 1);
    assert_eq!(site.synchronize(&mut b), Some(GOOD));
    // From here on writes are left to the storage.
    site.storage.announce(Sense::THIN_THRESHOLD_REACHED);
    assert_eq!(ready(&mut site, &mut a).0, CHECK_CONDITION);
    assert_eq!(ready(&mut site, &mut b).0, CHECK_CONDITION);
    site.run(Duration::from_secs(4));
    assert!(site.worker.relay.is_drained());
    site.storage.bars = Some("computer1");
    site.storage.cut("computer1");
    site.run(Duration::from_micros(100));
    let mut data = [0; BLOCK_LEN];
    block::fill(&mut data, 44, 4);
    let len = u32::try_from(BLOCK_LEN).unwrap();
    site.storage.holds_answer_to = Some(opcode::WRITE_10);
    let write = Site::command(&mut a, 0x20, len, &cdb::write(4, 1)).data(&data);
    site.offer(&a, &write.bytes());
    site.run(Duration::from_micros(500));
    assert_eq!(site.storage.volumes[0].visible[4], 44);
    site.storage.lose_cache();
    let ready = Site::command(&mut a, 0, 0, &[0; 6]);
    site.offer(&a, &ready.bytes());
    site.run(Duration::from_micros(500));
    site.storage.let_go();
    let reset = Some(Sense::POWER_ON_OR_RESET);
    let ends = ends_of(&mut site, &a, 2);
    assert_eq!(ends[0], (ready.itt(), CHECK_CONDITION, reset));
    let (itt, status, _) = ends[1];
    let stored = site.storage.volumes[0].media[4];
    assert_eq!(itt, write.itt());
    assert!(status != GOOD || stored == 44, "GOOD, and nothing stored");
}

/// The nexus that carries the flush has sent what is not durable yet, is lost, and is never
/// let in again: with what it may have under way ended, another's takes over, and what was
/// acknowledged reaches the storage (C-8).
#[test]
fn c8_the_flush_leaves_a_nexus_that_cannot_come_back() {
    for under_way in [false, true] {
        let Pair {
            mut site,
            mut a,
            mut b,
        } = Pair::new(true);
        // A's carries it. What it sends is not carried out, or done and not synced.
        if under_way {
            site.storage.stalls = Some("computer0");
        } else {
            site.storage.refusals.push(Refusal {
                lba: 0,
                blocks: 0,
                fault: Fault::Status(ScsiStatus::BUSY),
                times: u32::MAX,
            });
        }
        assert_eq!(site.write(&mut a, 3, 33), Some(GOOD));
        site.run(Duration::from_secs(4));
        let done = if under_way { 0 } else { 33 };
        assert_eq!(site.storage.volumes[0].visible[3], done);
        site.storage.bars = Some("computer0");
        site.storage.cut("computer0");
        site.run(Duration::from_secs(60));
        assert_eq!(site.counter("lun_reset"), u64::from(under_way));
        site.storage.stalls = None;
        site.storage.refusals.clear();
        site.run(Duration::from_secs(60));
        assert_eq!(site.storage.volumes[0].media[3], 33, "{under_way}");
        assert!(site.worker.relay.is_drained());
        // A unit attention may come first.
        let synced = [site.synchronize(&mut b), site.synchronize(&mut b)];
        assert_eq!(synced[1], Some(GOOD));
    }
}

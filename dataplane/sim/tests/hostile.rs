//! Bytes that nobody should send, from computers and from the storage: each
//! ends its own connection or command, is counted, leaves nothing behind, and
//! another session on the same worker goes on (C-17).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_proto::scsi::cdb;
use sluice_sim::block;
use sluice_sim::site::{BLOCKS, Pdu, Session, Site, op};
use sluice_sim::storage::LUN;

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;

/// A site with a bystander, whose session must not notice anything.
struct Hostile {
    site: Site,
    bystander: Session,
    writes: u32,
}

impl Hostile {
    fn new(mut site: Site) -> Self {
        let bystander = site.login(1, 1, 1);
        let mut hostile = Self {
            site,
            bystander,
            writes: 0,
        };
        hostile.check();
        hostile
    }

    /// The bystander writes, and reads what it wrote.
    fn check(&mut self) {
        self.writes += 1;
        let lba = u64::from(900 + self.writes % 50);
        let Self {
            site, bystander, ..
        } = self;
        assert_eq!(site.write(bystander, lba, self.writes), Some(GOOD));
        assert_eq!(site.read(bystander, lba), Some((GOOD, Some(self.writes))));
    }

    /// Nothing of the other sessions is left, after they have gone.
    fn is_clean(&mut self, seconds: u64) {
        self.site.run(Duration::from_secs(seconds + 4));
        self.check();
        let usage = self.site.usage();
        assert_eq!(
            (
                usage.sessions,
                usage.tasks,
                usage.wan_tasks,
                usage.staging_pages,
                usage.held
            ),
            (1, 0, 0, 0, 0),
            "{usage:?}"
        );
        assert_eq!(usage.nexuses, 1, "{usage:?}");
    }
}

#[test]
fn garbage_ends_its_own_connection_and_is_counted() {
    let mut hostile = Hostile::new(Site::small());
    let oversize = Pdu::new(op::NOP_OUT | op::IMMEDIATE, 0x80, 9).at(5, &[0xff, 0xff, 0xff]);
    let with_header = Pdu::new(op::COMMAND, 0x81, 9).at(4, &[0xff]).word(24, 1);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an opcode of a target", Pdu::new(0x21, 0x80, 9).bytes()),
        ("an opcode of nobody", Pdu::new(0x1f, 0x80, 9).bytes()),
        ("a data segment of 16 MiB", oversize.bytes()),
        ("an additional header of 1020 bytes", with_header.bytes()),
        ("a second login", Site::login_pdu(0, 0, 1).bytes()),
        (
            "a gap in CmdSN",
            Pdu::new(op::COMMAND, 0x81, 9).word(24, 5).bytes(),
        ),
        (
            "more immediate data than expected",
            Pdu::new(op::COMMAND, 0xa1, 9)
                .word(24, 1)
                .word(20, 4)
                .data(&[0; 512])
                .bytes(),
        ),
    ];
    for (name, bytes) in cases {
        let before = hostile.site.counter("iscsi_violation");
        let session = hostile.site.login(0, 0, 1);
        hostile.site.send(&session, &bytes);
        hostile.site.run(Duration::from_millis(200));
        assert!(!hostile.site.is_open(&session), "{name}");
        assert_eq!(
            hostile.site.counter("iscsi_violation"),
            before + 1,
            "{name}"
        );
        hostile.check();
    }
    hostile.is_clean(5);
}

#[test]
fn logins_with_garbage_keys_are_refused() {
    let mut hostile = Hostile::new(Site::small());
    for text in [
        &b"InitiatorName"[..],
        b"=\0=\0=\0",
        b"InitiatorName=\0TargetName=\0",
        b"InitiatorName=x\0MaxBurstLength=99999999999999999999\0TargetName=y\0",
        b"\xff\xfe\0\0\0\0",
        b"InitiatorName=iqn.a\0TargetName=iqn.2004-03.example.sim:nobody\0SessionType=Normal\0",
    ] {
        let session = hostile.site.connect(0);
        let login = Site::login_pdu(0, 0, 1).data(text);
        hostile.site.send(&session, &login.bytes());
        hostile.site.run(Duration::from_millis(200));
        let answer = hostile.site.next_pdu(&session);
        let refused = answer.is_none_or(|pdu| pdu.header[36] != 0);
        assert!(refused, "{:?}", String::from_utf8_lossy(text));
        hostile.check();
    }
    // One that stops in the middle of a header waits for its deadline, not longer.
    let silent = hostile.site.connect(0);
    hostile.site.send(&silent, &[0x43, 0x87, 0]);
    hostile.is_clean(20);
}

/// Commands beside the window have task numbers of their own.
#[test]
fn a_full_window_and_immediate_commands_beside_it() {
    let mut hostile = Hostile::new(Site::small());
    let mut session = hostile.site.login(0, 0, 1);
    for lba in 0..128 {
        let write = Site::command(&mut session, 0x20, 512, &cdb::write(lba, 1));
        hostile.site.send(&session, &write.bytes());
    }
    for _ in 0..6 {
        let mut inquiry = Site::command(&mut session, 0x40, 36, &[0x12, 0, 0, 0, 36]);
        inquiry.header[0] |= op::IMMEDIATE;
        session.cmd_sn -= 1;
        hostile.site.send(&session, &inquiry.bytes());
    }
    hostile.check();
    hostile.site.close(&session);
    hostile.is_clean(15);
}

#[test]
fn blocks_beyond_the_volume_and_beyond_reason() {
    let mut hostile = Hostile::new(Site::small());
    let mut session = hostile.site.login(0, 0, 1);
    for lba in [
        BLOCKS as u64,
        1 << 40,
        1 << 52,
        1 << 61,
        u64::MAX - 1,
        u64::MAX,
    ] {
        for opcode in [0x88, 0x8a, 0x8f, 0x91, 0x93, 0x89, 0x8b, 0x9e] {
            for blocks in [0_u32, 1, 0xffff_ffff] {
                let mut cdb = [0; 16];
                cdb[0] = opcode;
                cdb[1] = if opcode == 0x9e { 0x12 } else { 0 };
                cdb[2..10].copy_from_slice(&lba.to_be_bytes());
                cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
                let command = Site::command(&mut session, 0, 0, &cdb);
                hostile.site.send(&session, &command.bytes());
                let answer = hostile.site.finish(&session, command.itt());
                assert!(answer.is_some(), "{opcode:#x} of {blocks} at {lba:#x}");
            }
        }
    }
    // All of the volume's blocks, and every one of 32 bits, with no room for data.
    for blocks in [1024, u32::MAX] {
        let command = Site::command(&mut session, 0x40, 0, &cdb::read(0, blocks));
        hostile.site.send(&session, &command.bytes());
        assert!(hostile.site.finish(&session, command.itt()).is_some());
    }
    hostile.site.close(&session);
    hostile.is_clean(15);
}

/// A storage that takes one command at a time: its window is closed when the last chunk of a read is out.
#[test]
fn a_storage_with_a_window_of_one() {
    let mut hostile = Hostile::new(Site::with(|storage| storage.window = 1));
    let mut session = hostile.site.login(0, 0, 1);
    for lba in 0..20 {
        assert_eq!(
            hostile
                .site
                .read(&mut session, lba)
                .map(|(status, _)| status),
            Some(GOOD)
        );
    }
    let large = Site::command(&mut session, 0x40, 1024 * 512, &cdb::read(0, 1024));
    hostile.site.send(&session, &large.bytes());
    let (status, data) = hostile
        .site
        .finish(&session, large.itt())
        .expect("an answer");
    assert_eq!((status, data.len()), (GOOD, 1024 * 512));
    hostile.site.close(&session);
    hostile.is_clean(15);
}

/// A volume that grows while the log has records of it.
#[test]
fn a_capacity_that_changes_at_the_next_login() {
    let mut hostile = Hostile::new(Site::small());
    let mut first = hostile.site.login(0, 0, 1);
    assert_eq!(hostile.site.write(&mut first, 5, 77), Some(GOOD));
    for (blocks, isid) in [(4 * BLOCKS, 2), (BLOCKS / 2, 3)] {
        hostile.site.storage.resize(blocks);
        let mut again = hostile.site.login(0, 0, isid);
        assert!(
            hostile
                .site
                .write(&mut again, blocks as u64 - 1, 78)
                .is_some()
        );
        let beyond = hostile.site.write(&mut again, blocks as u64, 79);
        assert_eq!(beyond, Some(CHECK_CONDITION));
        assert_eq!(hostile.site.read(&mut again, 5), Some((GOOD, Some(77))));
        hostile.site.close(&again);
        hostile.site.run(Duration::from_secs(3));
    }
    hostile.site.storage.resize(BLOCKS);
    hostile.site.close(&first);
    hostile.is_clean(15);
}

/// Another name for the volume must not lead around its cache.
#[test]
fn one_volume_by_other_luns() {
    let mut hostile = Hostile::new(Site::small());
    let mut session = hostile.site.login(0, 0, 1);
    assert_eq!(hostile.site.write(&mut session, 7, 42), Some(GOOD));
    let mut read = |lun: u64| {
        let command = Site::command_to(lun, &mut session, 0x40, 512, &cdb::read(7, 1));
        hostile.site.send(&session, &command.bytes());
        hostile.site.finish(&session, command.itt()).unwrap()
    };
    let (status, data) = read(0x4001 << 48);
    assert_eq!((status, block::number(&data, 7)), (GOOD, Some(42)));
    for lun in [LUN | 1, 0x8001 << 48, 0x0101 << 48, u64::MAX] {
        assert_eq!(read(lun).0, CHECK_CONDITION, "{lun:#x}");
    }
    hostile.site.close(&session);
    hostile.is_clean(15);
}

/// Data, aborts and a logout for tasks that are not there, or not any more.
#[test]
fn data_and_task_management_out_of_turn() {
    let mut hostile = Hostile::new(Site::small());
    let mut session = hostile.site.login(0, 0, 1);
    let data_out = |itt: u32, ttt: u32| {
        Pdu::new(op::DATA_OUT, 0x80, itt)
            .word(20, ttt)
            .data(&[1; 512])
            .bytes()
    };
    hostile.site.send(&session, &data_out(999, 0));
    let write = Site::command(&mut session, 0x20, 1024, &cdb::write(3, 2));
    hostile.site.send(&session, &write.bytes());
    for (tag, function) in (100..).zip([1, 2, 4, 5, 6, 8, 99]) {
        let abort = Pdu::new(op::TASK_MANAGEMENT | op::IMMEDIATE, 0x80 | function, tag)
            .at(8, &LUN.to_be_bytes())
            .word(20, write.itt())
            .word(24, session.cmd_sn);
        hostile.site.send(&session, &abort.bytes());
    }
    hostile.site.send(&session, &data_out(write.itt(), 0));
    hostile.site.run(Duration::from_millis(100));
    hostile.check();
    // The reset's unit attention comes first.
    assert_eq!(
        hostile.site.write(&mut session, 3, 5),
        Some(CHECK_CONDITION)
    );
    assert_eq!(hostile.site.write(&mut session, 3, 5), Some(GOOD));
    let logout = Pdu::new(op::LOGOUT | op::IMMEDIATE, 0x80, 500).word(24, session.cmd_sn);
    hostile.site.send(&session, &logout.bytes());
    hostile.is_clean(15);
}

/// What the storage should not send ends the storage's session; the computer's stays.
#[test]
fn garbage_from_the_storage() {
    let r2t = Pdu::new(0x31, 0x80, 1).word(20, 7).word(44, 512).bytes();
    let data = Pdu::new(op::DATA_IN, 0x81, 1)
        .word(20, u32::MAX)
        .data(&[9; 64]);
    for bytes in [
        vec![0xff; 48],
        vec![0; 4096],
        r2t,
        data.bytes(),
        Pdu::new(op::RESPONSE, 0x80, 77).bytes(),
        Pdu::new(0x32, 0x80, 0).word(36, u32::MAX).bytes(),
    ] {
        let mut hostile = Hostile::new(Site::small());
        let mut session = hostile.site.login(0, 0, 1);
        assert_eq!(hostile.site.write(&mut session, 9, 1), Some(GOOD));
        hostile.site.storage.babble(&bytes);
        hostile.site.run(Duration::from_millis(50));
        assert_eq!(hostile.site.read(&mut session, 9), Some((GOOD, Some(1))));
        hostile.site.close(&session);
        hostile.site.run(Duration::from_secs(1));
    }
}

/// A process that ends loses nothing that it has acknowledged.
#[test]
fn a_write_survives_the_process() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 11, 4), Some(GOOD));
    let mut site = site.restart();
    site.run(Duration::from_secs(5));
    assert_eq!(
        (
            site.storage.volumes[0].media[11],
            site.worker.relay.is_drained()
        ),
        (4, true)
    );
}

/// A storage that answers pings and nothing else: what waits for it ends in time.
#[test]
fn a_storage_that_hangs() {
    let mut hostile = Hostile::new(Site::small());
    let mut session = hostile.site.login(0, 0, 1);
    hostile.site.storage.hangs = true;
    for lba in 0..40 {
        let read = Site::command(&mut session, 0x40, 512, &cdb::read(lba, 1));
        hostile.site.send(&session, &read.bytes());
    }
    let sync = Site::command(&mut session, 0, 0, &[0x35, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
    hostile.site.send(&session, &sync.bytes());
    // IMMED: answered although nothing else is.
    assert_eq!(hostile.site.finish(&session, sync.itt()).unwrap().0, GOOD);
    hostile.site.close(&session);
    for _ in 0..22 {
        hostile.site.run(Duration::from_secs(3));
        let Hostile {
            site, bystander, ..
        } = &mut hostile;
        assert_eq!(site.write(bystander, 950, 1), Some(GOOD));
    }
    assert_eq!(hostile.site.usage().tasks, 0);
    hostile.site.storage.hangs = false;
    hostile.site.run(Duration::from_secs(3));
    // The new session at the storage has a unit attention for the bystander too.
    let _ = hostile.site.read(&mut hostile.bystander, 950);
    hostile.is_clean(20);
}

/// A computer that closes its side has gone; one that says nothing has not.
#[test]
fn a_half_closed_and_a_silent_session() {
    let mut hostile = Hostile::new(Site::small());
    let session = hostile.site.connect(0);
    let login = Site::login_pdu(0, 0, 1);
    hostile.site.send(&session, &login.bytes());
    hostile.site.run(Duration::from_millis(100));
    assert_eq!(hostile.site.usage().sessions, 2);
    hostile.site.close(&session);
    hostile.site.run(Duration::from_millis(200));
    assert_eq!(hostile.site.usage().sessions, 1);
    hostile.is_clean(6);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// Any bytes at all, before and after a login.
    #[test]
    fn any_bytes(
        logged_in in proptest::bool::ANY,
        pdus in proptest::collection::vec(
            (0_u8..0x80, proptest::array::uniform32(proptest::num::u8::ANY), 0_usize..600, proptest::bool::ANY),
            1..12,
        ),
    ) {
        let mut hostile = Hostile::new(Site::small());
        let session = if logged_in {
            hostile.site.login(0, 0, 1)
        } else {
            hostile.site.connect(0)
        };
        let mut cmd_sn = session.cmd_sn;
        for (opcode, noise, len, sane) in pdus {
            let mut pdu = Pdu::new(opcode, noise[0], 50 + cmd_sn).at(16, &noise[..16]);
            pdu = pdu.at(32, &noise[16..]);
            if sane {
                pdu = pdu.at(8, &LUN.to_be_bytes()).word(16, cmd_sn).word(24, cmd_sn);
                cmd_sn += u32::from(opcode & op::IMMEDIATE == 0);
            }
            hostile.site.send(&session, &pdu.data(&vec![noise[1]; len]).bytes());
        }
        hostile.site.run(Duration::from_millis(50));
        hostile.site.close(&session);
        hostile.is_clean(18);
    }
}

/// Pings with data, many in one segment: each is answered, none waits for the next packet.
#[test]
fn pings_in_one_burst() {
    let mut hostile = Hostile::new(Site::small());
    let session = hostile.site.login(0, 0, 1);
    let ping = |itt| {
        let pdu = Pdu::new(op::NOP_OUT | op::IMMEDIATE, 0x80, itt);
        pdu.word(20, u32::MAX)
            .word(24, session.cmd_sn)
            .data(b"ping")
    };
    let burst: Vec<u8> = (700..720).flat_map(|itt| ping(itt).bytes()).collect();
    hostile.site.send(&session, &burst);
    for _ in 0..20 {
        let answer = hostile.site.next_pdu(&session).unwrap();
        assert_eq!(
            (answer.opcode(), answer.data.as_slice()),
            (0x20, &b"ping"[..])
        );
    }
    hostile.site.close(&session);
    hostile.is_clean(6);
}

//! What a session is made of and how it comes again: reinstatement by the
//! computer (RFC 7143 6.3.5), digests that are right and wrong (C-13), and the
//! cache that it is told of when that changes (C-1, C-14).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_proto::iscsi::DigestPolicy;
use sluice_proto::scsi::{Sense, cdb, opcode, sense};
use sluice_sim::block::{self, BLOCK_LEN};
use sluice_sim::site::{Pdu, Session, Site, TARGETS, op};

const GOOD: u8 = 0x00;
const CHECK_CONDITION: u8 = 0x02;
const WRITE: u8 = 0x20;
const READ: u8 = 0x40;

fn stamped(lba: u64, number: u32) -> Vec<u8> {
    let mut data = vec![0; 512];
    block::fill(&mut data, number, lba);
    data
}

fn stored(site: &Site, lba: u64) -> u32 {
    site.storage.volumes[0].media[usize::try_from(lba).unwrap()]
}

/// Once, with its next command: commands of its ended without a status (RFC 7143 11.14.5).
fn hears_of_what_ended(site: &mut Site, session: &mut Session) {
    let pdu = Site::command(session, 0, 0, &[0; 6]);
    site.send(session, &pdu.bytes());
    let answer = site.next_pdu(session).expect("an answer");
    let told = sense::parse(&answer.data[2..]).map(|received| received.sense);
    assert_eq!(told, Some(Sense::CLEARED_BY_ISCSI_EVENT));
}

/// The computer's session comes again while everything of it is under way: what
/// was acknowledged stays, what was not is as if it had never been sent.
#[test]
fn c8_a_session_that_is_reinstated_keeps_what_was_acknowledged_and_nothing_else() {
    let mut site = Site::small();
    let mut old = site.login(0, 0, 1);
    assert_eq!(site.write(&mut old, 5, 1), Some(GOOD));
    // A write that waits for its data, a read and a sync that wait for the storage.
    site.storage.hangs = true;
    let unfinished = Site::command(&mut old, WRITE, 512, &cdb::write(6, 1));
    let read = Site::command(&mut old, READ, 512, &cdb::read(9, 1));
    let sync = Site::command(&mut old, 0, 0, &cdb::synchronize_cache());
    for pdu in [unfinished, read, sync] {
        site.send(&old, &pdu.bytes());
    }
    site.run(Duration::from_millis(50));
    let mut new = site.connect(0);
    site.send(&new, &Site::login_pdu(0, 0, 1).bytes());
    let answer = site.next_pdu(&new).unwrap();
    assert_eq!(
        answer.header[36..38],
        [0, 0],
        "let in while the storage hangs"
    );
    assert_eq!(site.counter("session_reinstated"), 1);
    site.run(Duration::from_millis(50));
    assert!(!site.is_open(&old));
    hears_of_what_ended(&mut site, &mut new);
    assert_eq!(site.write(&mut new, 6, 2), Some(GOOD));
    assert_eq!(
        site.read(&mut new, 5),
        Some((GOOD, Some(1))),
        "from the log"
    );
    site.storage.hangs = false;
    site.run(Duration::from_secs(4));
    assert!(site.worker.relay.is_drained());
    assert_eq!((stored(&site, 5), stored(&site, 6)), (1, 2));
    let usage = site.usage();
    assert_eq!(
        (
            usage.sessions,
            usage.nexuses,
            usage.tasks,
            usage.staging_pages
        ),
        (1, 1, 0, 0)
    );
}

/// A login into a session by its TSIH: the connection of the same CID is
/// reinstated, another is one too many (RFC 7143 6.3.4, 11.13.5).
#[test]
fn a_connection_is_reinstated_by_its_cid() {
    let mut site = Site::small();
    let mut old = site.login(0, 0, 1);
    assert_eq!(site.write(&mut old, 5, 1), Some(GOOD));
    let unfinished = Site::command(&mut old, WRITE, 512, &cdb::write(6, 1));
    site.send(&old, &unfinished.bytes());
    let login = |site: &mut Site, tsih: u16, cid: u16| {
        let session = site.connect(0);
        let pdu = Site::login_pdu(0, 0, 1)
            .at(14, &tsih.to_be_bytes())
            .at(20, &cid.to_be_bytes());
        site.send(&session, &pdu.bytes());
        let answer = site.next_pdu(&session).unwrap();
        let given = u16::from_be_bytes([answer.header[14], answer.header[15]]);
        (session, [answer.header[36], answer.header[37]], given)
    };
    assert_eq!(login(&mut site, 1, 1).1, [2, 6], "too many connections");
    assert_eq!(login(&mut site, 9, 0).1, [2, 10], "no such session");
    assert!(site.is_open(&old));
    let (mut new, status, given) = login(&mut site, 1, 0);
    assert_eq!((status, given), ([0, 0], 1));
    site.run(Duration::from_millis(50));
    assert!(!site.is_open(&old));
    hears_of_what_ended(&mut site, &mut new);
    assert_eq!(site.write(&mut new, 6, 2), Some(GOOD));
    assert_eq!(site.read(&mut new, 5), Some((GOOD, Some(1))));
    assert_eq!((site.usage().sessions, site.usage().tasks), (1, 0));
}

/// RFC 7143 7.4: a discovery session is reinstated by the same port, as others are.
#[test]
fn a_discovery_session_is_reinstated_by_its_own_port_alone() {
    let discovery = |site: &mut Site, computer: usize, isid: u16| {
        let text = format!(
            "InitiatorName=iqn.2004-03.example.sim:computer{computer}\0SessionType=Discovery\0"
        );
        let session = site.connect(computer);
        let login = Pdu::new(op::LOGIN | op::IMMEDIATE, 0x87, 0)
            .at(8, &[0x80, 0, 0, 0])
            .at(12, &isid.to_be_bytes())
            .word(24, 1)
            .data(text.as_bytes());
        site.send(&session, &login.bytes());
        let answer = site.next_pdu(&session).unwrap();
        assert_eq!(answer.header[36..38], [0, 0], "let in");
        site.run(Duration::from_millis(50));
        session
    };
    let mut site = Site::small();
    let mut normal = site.login(0, 0, 1);
    let old = discovery(&mut site, 0, 1);
    let other_port = discovery(&mut site, 0, 2);
    let other_computer = discovery(&mut site, 1, 1);
    assert_eq!(site.counter("session_reinstated"), 0);
    let new = discovery(&mut site, 0, 1);
    assert_eq!(site.counter("session_reinstated"), 1);
    assert!(!site.is_open(&old));
    for session in [&other_port, &other_computer, &new] {
        assert!(site.is_open(session));
    }
    assert_eq!(site.write(&mut normal, 5, 1), Some(GOOD));
}

/// A login that wants digests; headers have none while it goes on.
fn login_with_digests(site: &mut Site, header: &str, data: &str) -> Session {
    let text = format!(
        "InitiatorName=iqn.2004-03.example.sim:computer0\0TargetName={}\0SessionType=Normal\0\
         InitialR2T=Yes\0ImmediateData=Yes\0HeaderDigest={header}\0DataDigest={data}\0",
        TARGETS[0]
    );
    let mut session = site.connect(0);
    let login = Pdu::new(op::LOGIN | op::IMMEDIATE, 0x87, 0)
        .at(8, &[0x80, 0, 0, 0])
        .at(12, &1_u16.to_be_bytes())
        .word(24, 1)
        .data(text.as_bytes());
    site.send(&session, &login.bytes());
    let answer = site.next_pdu(&session).unwrap();
    assert_eq!(answer.header[36..38], [0, 0], "let in");
    let said = String::from_utf8(answer.data).unwrap();
    assert!(said.contains(&format!("HeaderDigest={header}")), "{said}");
    assert!(said.contains(&format!("DataDigest={data}")), "{said}");
    // The storage's reset, which it tells each session once.
    let ready = Site::command(&mut session, 0, 0, &[0; 6]);
    let mut wire = ready.bytes();
    if header == "CRC32C" {
        wire.extend(crc32c::crc32c(&wire).to_le_bytes());
    }
    site.send(&session, &wire);
    site.run(Duration::from_millis(20));
    assert_eq!(site.take_received(&session)[3], CHECK_CONDITION);
    session
}

/// A write of one block whose digests, where there are any, are off by so much.
fn write_with_digests(
    session: &mut Session,
    lba: u64,
    number: u32,
    header: Option<u32>,
    data: Option<u32>,
) -> Vec<u8> {
    let bytes = stamped(lba, number);
    let pdu = Site::command(session, WRITE, 512, &cdb::write(lba, 1)).data(&bytes);
    let mut wire = pdu.header.to_vec();
    for (wrong, of) in [(header, pdu.header.to_vec()), (data, bytes)] {
        if of.len() > 48 {
            wire.extend_from_slice(&of);
        }
        if let Some(wrong) = wrong {
            wire.extend((crc32c::crc32c(&of) ^ wrong).to_le_bytes());
        }
    }
    wire
}

/// RFC 7143 7.3, 7.8: a command with it counts as never received, which at level 0 nobody
/// makes good: its session ends. Of data by itself the computer hears, and goes on.
#[test]
fn c13_data_that_fails_its_digest_never_reaches_the_log() {
    let mut site = Site::small();
    let mut session = login_with_digests(&mut site, "None", "CRC32C");
    let wire = write_with_digests(&mut session, 5, 1, None, Some(0));
    site.send(&session, &wire);
    site.run(Duration::from_millis(20));
    let answer = site.take_received(&session);
    assert_eq!((answer[0], answer[3]), (op::RESPONSE, GOOD));
    for wrong in [1, 1 << 31, u32::MAX] {
        let wire = write_with_digests(&mut session, 5, 2, None, Some(wrong));
        site.send(&session, &wire);
        site.run(Duration::from_millis(20));
        let answer = site.take_received(&session);
        assert_eq!((answer[0], answer[2]), (0x3F, 0x02), "for its digest");
        assert_eq!(answer.len(), 48 + 48 + 4, "with the header that came");
        site.run(Duration::from_secs(6));
        assert!(!site.is_open(&session));
        session = login_with_digests(&mut site, "None", "CRC32C");
    }
    assert_eq!(site.worker.relay.dirty_bytes(), 0);
    assert_eq!(stored(&site, 5), 1);

    let pdu = Site::command(&mut session, WRITE, 512, &cdb::write(5, 1));
    site.send(&session, &pdu.bytes());
    site.run(Duration::from_millis(20));
    let r2t = site.take_received(&session);
    assert_eq!(r2t[0], 0x31);
    for wrong in [1, 0] {
        let data = stamped(5, 3);
        let mut wire = vec![0; 48];
        (wire[0], wire[1]) = (0x05, 0x80);
        wire[5..8].copy_from_slice(&[0, 2, 0]);
        wire[8..24].copy_from_slice(&r2t[8..24]);
        wire.extend(&data);
        wire.extend((crc32c::crc32c(&data) ^ wrong).to_le_bytes());
        site.send(&session, &wire);
        site.run(Duration::from_millis(20));
        let answer = site.take_received(&session);
        if wrong == 0 {
            assert_eq!(answer, [], "it has ended");
            break;
        }
        assert_eq!((answer[0], answer[2]), (0x3F, 0x02));
        let answer = &answer[48 + 48 + 4..];
        assert_eq!((answer[0], answer[3]), (op::RESPONSE, CHECK_CONDITION));
        let told = sense::parse(&answer[50..]).map(|received| received.sense);
        assert_eq!(told, Some(Sense::PROTOCOL_SERVICE_CRC_ERROR));
    }
    site.run(Duration::from_secs(3));
    assert_eq!(stored(&site, 5), 1);
    assert_eq!(site.usage().tasks, 0);
}

#[test]
fn c13_a_header_that_fails_its_digest_ends_the_connection_and_nothing_else() {
    let mut site = Site::small();
    let mut session = login_with_digests(&mut site, "CRC32C", "None");
    let wire = write_with_digests(&mut session, 5, 1, Some(0), None);
    site.send(&session, &wire);
    site.run(Duration::from_millis(20));
    let answer = site.take_received(&session);
    assert_eq!((answer.len(), answer[3]), (52, GOOD));
    let made = u32::from_le_bytes(*answer.last_chunk().unwrap());
    assert_eq!(made, crc32c::crc32c(&answer[..48]), "made anew");
    let wire = write_with_digests(&mut session, 5, 2, Some(1), None);
    site.send(&session, &wire);
    site.run(Duration::from_secs(6));
    assert!(!site.is_open(&session));
    let mut again = site.login(0, 0, 1);
    assert_eq!(site.read(&mut again, 5), Some((GOOD, Some(1))));
}

/// A storage that has data digests, or none, with block 5 on its medium and in no cache
/// but its own, and block 6 in the log.
fn with_storage_digests(data_digest: DigestPolicy) -> (Site, Session) {
    let mut site = Site::with(|storage| {
        storage.offers.data_digest = data_digest;
        storage.listen_anew();
    });
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 5, 1), Some(GOOD));
    site.run(Duration::from_secs(4));
    assert!(site.worker.relay.is_drained());
    assert_eq!(site.write(&mut session, 6, 2), Some(GOOD));
    (site, session)
}

/// Reads blocks 5 and 6, in one minute at most: the status, and what each holds.
fn read_both(site: &mut Site, session: &mut Session, cdb: &[u8]) -> (u8, Vec<Option<u32>>) {
    let pdu = Site::command(session, READ, 1024, cdb);
    site.send(session, &pdu.bytes());
    let ended = (0..60).find_map(|_| site.finish(session, pdu.itt()));
    let (status, data) = ended.expect("an end to the read");
    let blocks = data.chunks(BLOCK_LEN).zip(5..);
    let numbers = blocks.map(|(piece, lba)| block::number(piece, lba));
    (status, numbers.collect())
}

/// The storage's new session has told the relay of its own, which the computer hears of.
fn hear_of_the_new_session(site: &mut Site, session: &mut Session) {
    site.run(Duration::from_secs(2));
    let ready = Site::command(session, 0, 0, &[0; 6]);
    site.send(session, &ready.bytes());
    assert_eq!(
        site.finish(session, ready.itt()).unwrap().0,
        CHECK_CONDITION
    );
}

/// The session with the storage ends, as its data may be anything (RFC 7143 7.8); the read
/// is asked again in the next one, and what is in the log is none the worse.
#[test]
fn c13_a_read_whose_data_fails_its_digest_is_asked_again() {
    let read = cdb::read(5, 2);
    let (mut site, mut session) = with_storage_digests(DigestPolicy::Never);
    site.storage.damages = 1;
    let ended = read_both(&mut site, &mut session, &read);
    assert_eq!(ended, (GOOD, vec![None, Some(2)]), "nobody could tell");

    let (mut site, mut session) = with_storage_digests(DigestPolicy::Required);
    for times in [1, 3] {
        let lost = site.counter("wan_session_lost");
        site.storage.damages = times;
        let ended = read_both(&mut site, &mut session, &read);
        assert_eq!(ended, (GOOD, vec![Some(1), Some(2)]));
        assert_eq!(site.storage.damages, 0);
        assert_eq!(site.counter("wan_session_lost"), lost + u64::from(times));
        hear_of_the_new_session(&mut site, &mut session);
    }
    site.run(Duration::from_secs(4));
    assert_eq!((stored(&site, 5), stored(&site, 6)), (1, 2));
    assert_eq!(site.usage().tasks, 0);
}

/// One that passes, as with FUA, is the computer's to send again.
#[test]
fn c13_a_passing_read_whose_data_fails_its_digest_is_not_good() {
    let (mut site, mut session) = with_storage_digests(DigestPolicy::Required);
    let mut read = cdb::read(5, 2);
    read[1] |= 0x08;
    site.storage.damages = 1;
    let ended = read_both(&mut site, &mut session, &read);
    assert_eq!(ended, (CHECK_CONDITION, vec![]));
    assert_eq!(site.storage.damages, 0);
    hear_of_the_new_session(&mut site, &mut session);
    let ended = read_both(&mut site, &mut session, &read);
    assert_eq!(ended, (GOOD, vec![Some(1), Some(2)]));
}

/// Every read's data is damaged: the read ends in time, and not well; what is written
/// meanwhile is kept, and flushed between one session and the next or after.
#[test]
fn c13_read_data_that_is_never_intact_is_never_good() {
    let (mut site, mut session) = with_storage_digests(DigestPolicy::Required);
    site.storage.damages = u32::MAX;
    let (status, blocks) = read_both(&mut site, &mut session, &cdb::read(5, 2));
    assert_ne!(status, GOOD);
    assert_eq!(blocks, [], "nothing damaged was handed on");
    hear_of_the_new_session(&mut site, &mut session);
    assert_eq!(site.write(&mut session, 7, 3), Some(GOOD));
    assert_eq!(
        site.read(&mut session, 7),
        Some((GOOD, Some(3))),
        "the log's"
    );
    site.storage.damages = 0;
    site.run(Duration::from_secs(10));
    assert_eq!((stored(&site, 6), stored(&site, 7)), (2, 3));
    let ended = read_both(&mut site, &mut session, &cdb::read(5, 2));
    assert_eq!(ended, (GOOD, vec![Some(1), Some(2)]));
    assert_eq!(site.usage().tasks, 0);
}

/// WCE as a computer is told it: bit 2 of byte 2 of the caching page.
fn wce(site: &mut Site, session: &mut Session) -> bool {
    let mode = [opcode::MODE_SENSE_6, 0x08, 0x08, 0, 192, 0];
    let pdu = Site::command(session, READ, 192, &mode);
    site.send(session, &pdu.bytes());
    let (status, data) = site.finish(session, pdu.itt()).unwrap();
    assert_eq!(status, GOOD);
    data[6] & 0x04 != 0
}

/// A unit that is not cached shows its storage's own WCE. When it is, it is said
/// that this has changed, before anything is acknowledged by it.
#[test]
fn c14_a_change_of_wce_is_told_to_every_computer() {
    let mut site = Site::with(|storage| {
        storage.volumes[0].write_through = true;
        storage.hides_capacity = true;
    });
    let mut session = site.login(0, 0, 1);
    assert!(!wce(&mut site, &mut session));
    let passed = site.counter("command_passed");
    assert_eq!(site.write(&mut session, 5, 1), Some(GOOD));
    assert_eq!(site.counter("command_passed"), passed + 1);
    site.storage.hides_capacity = false;
    site.storage.announce(Sense::CAPACITY_DATA_CHANGED);
    let mut heard = Vec::new();
    for _ in 0..4 {
        let ready = Site::command(&mut session, 0, 0, &[0; 6]);
        site.send(&session, &ready.bytes());
        let answer = site.next_pdu(&session).unwrap();
        if answer.status() == CHECK_CONDITION {
            heard.push(sense::parse(&answer.data[2..]).unwrap().sense);
        }
        site.run(Duration::from_millis(100));
    }
    assert_eq!(
        heard,
        [Sense::CAPACITY_DATA_CHANGED, Sense::MODE_PARAMETERS_CHANGED]
    );
    assert!(wce(&mut site, &mut session));
    let passed = site.counter("command_passed");
    assert_eq!(site.write(&mut session, 5, 2), Some(GOOD));
    assert_eq!(site.counter("command_passed"), passed);
}

/// RFC 7143 11.13.5: what the connection itself refuses, when the worker has let the
/// computer in, is closed at once as well. (Keys that nobody knows, with answers that do
/// not fit.)
#[test]
fn a_login_that_ends_in_its_last_answer_is_closed() {
    let mut site = Site::small();
    let session = site.connect(0);
    let pdu = Site::login_pdu(0, 0, 1);
    let mut text = pdu.data.clone();
    for number in 0..120 {
        text.extend(format!("X-{number:0>60}=1\0").bytes());
    }
    let pdu = pdu.data(&text);
    site.send(&session, &pdu.bytes());
    let answer = site.next_pdu(&session).expect("an answer");
    assert_eq!(answer.header[36..38], [2, 0]);
    site.run(Duration::from_secs(1));
    assert!(!site.is_open(&session));
    assert_eq!(site.usage().sessions, 0);
}

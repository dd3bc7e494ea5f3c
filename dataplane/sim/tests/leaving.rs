//! Who may come in, who must make room, and how one leaves: half-open logins,
//! the same name from elsewhere, a login that the storage does not
//! answer, a stop of the relay's, and one of the storage's (C-12, C-17).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_proto::scsi::cdb;
use sluice_sim::site::{Pdu, Session, Site, Size, TARGETS, op};
use sluice_sim::storage::LUN;

const GOOD: u8 = 0;

/// The answer to a login: its status class and detail.
fn try_login(site: &mut Site, computer: usize, name: usize, isid: u16) -> (u8, u8) {
    let session = site.connect(computer);
    site.send(&session, &Site::login_pdu(name, 0, isid).bytes());
    let answer = site.next_pdu(&session).expect("an answer to the login");
    (answer.header[36], answer.header[37])
}

fn logout(site: &mut Site, session: &Session) {
    let logout = Pdu::new(op::LOGOUT | op::IMMEDIATE, 0x80, 0x500).word(24, session.cmd_sn);
    site.send(session, &logout.bytes());
}

/// More connections than sessions, from one address, that say nothing or stop in the middle.
#[test]
fn half_open_logins_keep_nobody_out() {
    let mut site = Site::small();
    let mut bystander = site.login(1, 1, 1);
    for at in 0..40 {
        let silent = site.connect(0);
        if at % 2 == 0 {
            let login = Site::login_pdu(0, 0, 1).bytes();
            site.send(&silent, &login[..60]);
        }
        assert!(site.usage().sessions <= 1 + 4, "{:?}", site.usage());
    }
    assert!(site.counter("login_dropped") >= 30);
    // Two more from there get in at once, and the other computer is as before.
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 3, 1), Some(GOOD));
    assert_eq!(site.write(&mut bystander, 4, 2), Some(GOOD));
    assert_eq!(site.read(&mut bystander, 4), Some((GOOD, Some(2))));
}

/// A computer is a name and an address: another one is refused while the
/// first is connected, unless it is the same session that comes again.
#[test]
fn the_same_name_from_another_address() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(try_login(&mut site, 1, 0, 2), (2, 2), "another computer");
    assert_eq!(try_login(&mut site, 1, 1, 3), (2, 2), "and another name");
    assert_eq!(site.write(&mut session, 3, 1), Some(GOOD));
    assert_eq!(
        try_login(&mut site, 1, 0, 1),
        (0, 0),
        "the same session, from where it is now"
    );
    assert!(!site.is_open(&session));
    assert_eq!(site.counter("session_reinstated"), 1);

    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(try_login(&mut site, 0, 0, 4), (0, 0), "a second of its own");
    assert_eq!(site.write(&mut session, 3, 1), Some(GOOD));

    let size = Size {
        shared: true,
        ..Size::SMALL
    };
    let mut site = Site::of(size, |_| ());
    let mut session = site.login(0, 0, 1);
    assert_eq!(try_login(&mut site, 1, 0, 2), (0, 0), "a shared volume");
    assert_eq!(site.write(&mut session, 3, 1), Some(GOOD));
}

/// A row that nobody is connected by may be taken over.
#[test]
fn a_name_that_has_gone_comes_back_from_elsewhere() {
    let mut site = Site::small();
    let session = site.login(0, 0, 1);
    site.close(&session);
    site.run(Duration::from_millis(100));
    assert_eq!(try_login(&mut site, 1, 0, 2), (0, 0));
}

/// The storage takes the relay's connection and says nothing: the computer is
/// told so before its own connection ends.
#[test]
fn a_login_that_the_storage_does_not_answer_is_refused_aloud() {
    let mut site = Site::small();
    site.storage.deaf = true;
    let session = site.connect(0);
    site.send(&session, &Site::login_pdu(0, 0, 1).bytes());
    let begun = site.now;
    let answer = loop {
        if let Some(pdu) = site.next_pdu(&session) {
            break pdu;
        }
        assert!(site.now.since(begun) < Duration::from_secs(20));
    };
    assert_eq!(
        (answer.opcode(), answer.header[36]),
        (op::LOGIN_RESPONSE, 3)
    );
    site.run(Duration::from_secs(6));
    assert!(!site.is_open(&session));
    assert_eq!(site.usage().sessions, 0);
}

/// One that logs out and reads no more does not keep its place.
#[test]
fn a_session_that_does_not_take_its_last_answers() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    site.set_reading(&session, false);
    for _ in 0..8 {
        let read = Site::command(&mut session, 0x40, 65_536, &cdb::read(0, 128));
        site.send(&session, &read.bytes());
    }
    logout(&mut site, &session);
    site.run(Duration::from_secs(3));
    assert_eq!(site.usage().sessions, 1);
    site.run(Duration::from_secs(3));
    let usage = site.usage();
    assert_eq!((usage.sessions, usage.staging_pages), (0, 0), "{usage:?}");
}

/// Computers are asked to log out, new ones are kept out, and the one that does
/// not listen is cut off; what was acknowledged is in the log.
#[test]
fn a_stop_asks_computers_to_log_out() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    let bystander = site.login(1, 1, 1);
    site.storage.hangs = true;
    assert_eq!(site.write(&mut session, 3, 9), Some(GOOD));
    site.worker.begin_stop(5);
    for session in [&session, &bystander] {
        let message = site.next_pdu(session).expect("an asynchronous message");
        assert_eq!((message.opcode(), message.header[36]), (0x32, 1));
        let within = u16::from_be_bytes(message.header[42..44].try_into().unwrap());
        assert_eq!(within, 5);
    }
    let late = site.connect(0);
    assert!(!site.is_open(&late));
    // What is under way is done still.
    assert_eq!(site.write(&mut session, 4, 8), Some(GOOD));
    logout(&mut site, &session);
    let answer = site.next_pdu(&session).expect("an answer to the logout");
    assert_eq!((answer.opcode(), answer.header[2]), (0x26, 0));
    site.run(Duration::from_secs(1));
    assert_eq!(
        (site.usage().sessions, site.worker.relay.is_left()),
        (1, false)
    );
    site.worker.cut_off();
    assert!(site.worker.relay.is_left());
    site.run(Duration::from_millis(200));
    assert!(!site.is_open(&bystander));
    site.storage.hangs = false;
    let mut site = site.restart();
    site.run(Duration::from_secs(5));
    assert_eq!(
        (
            site.storage.volumes[0].media[3],
            site.storage.volumes[0].media[4]
        ),
        (9, 8)
    );
}

/// The storage asks to be left: what is out is answered first, what is dirty
/// stays, the relay comes back by itself, and the computer hears nothing of it.
#[test]
fn a_storage_that_asks_to_be_left() {
    let mut site = Site::with(|storage| storage.latency_max = Duration::from_millis(300));
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.synchronize(&mut session), Some(GOOD));
    for lba in 0..20 {
        assert_eq!(site.write(&mut session, lba, 5), Some(GOOD));
    }
    let logins = site.counter("wan_login");
    let mut same = [0; 16];
    same[0] = 0x93;
    same[9] = 200;
    same[13] = 1;
    let mut data = vec![0; 512];
    sluice_sim::block::fill(&mut data, 6, 200);
    let change = Site::command_to(LUN, &mut session, 0x20, 512, &same).data(&data);
    site.send(&session, &change.bytes());
    site.run(Duration::from_millis(50));
    site.storage.ask_to_leave(4);
    assert_eq!(site.finish(&session, change.itt()).unwrap().0, GOOD);
    for lba in 20..40 {
        assert_eq!(site.write(&mut session, lba, 5), Some(GOOD));
    }
    site.run(Duration::from_secs(4));
    assert!(site.counter("wan_login") > logins);
    assert!(site.is_open(&session));
    for lba in 0..40 {
        let read = site.read(&mut session, lba);
        // The new session at the storage has a unit attention for the computer.
        if read.is_none_or(|(status, _)| status != GOOD) {
            assert_eq!(site.read(&mut session, lba), Some((GOOD, Some(5))));
        }
    }
    assert_eq!(site.storage.volumes[0].media[..40], [5; 40]);
    assert_eq!(site.storage.volumes[0].media[200], 6);
}

/// The relay's own refusals, as RFC 7143 11.13.5 tells them: the storage hears of
/// neither, and neither leaves anything behind.
#[test]
fn a8_an_unknown_target_and_a_foreign_initiator_are_refused_by_the_relay() {
    let size = Size {
        initiators: &["iqn.2004-03.example.sim:computer0"],
        ..Size::SMALL
    };
    let mut site = Site::of(size, |_| ());
    let session = site.connect(0);
    let login = Site::login_pdu(0, 0, 1);
    let text = String::from_utf8(login.data.clone()).unwrap();
    let text = text.replace(TARGETS[0], "iqn.2004-03.example.sim:nobody");
    site.send(&session, &login.data(text.as_bytes()).bytes());
    let answer = site.next_pdu(&session).expect("an answer to the login");
    assert_eq!(
        (answer.opcode(), answer.header[36], answer.header[37]),
        (op::LOGIN_RESPONSE, 2, 3),
        "not found"
    );
    assert_eq!(try_login(&mut site, 1, 1, 2), (2, 2), "not let in");
    assert_eq!(site.counter("login_refused"), 2);
    site.run(Duration::from_secs(6));
    assert!(!site.is_open(&session));
    let usage = site.usage();
    assert_eq!((usage.sessions, usage.nexuses), (0, 0), "{usage:?}");
    assert_eq!(site.counter("wan_login"), 0);
    assert_eq!(try_login(&mut site, 0, 0, 3), (0, 0), "the one it is for");
}

/// Its TCP is there, but it answers no NOP: it is asked once, then given up, its row
/// is another's to have, and what it was told is kept reaches the storage.
#[test]
fn a10_a_computer_that_falls_silent_is_given_up_and_its_data_flushed() {
    let silence = Size::SMALL.silence_max;
    let mut site = Site::small();
    site.mute = true;
    let mut session = site.login(0, 0, 1);
    site.storage.hangs = true;
    assert_eq!(site.write(&mut session, 3, 9), Some(GOOD));
    site.run(silence + Duration::from_secs(1));
    let ping = site.next_pdu(&session).expect("a NOP-In");
    assert_eq!((ping.opcode(), ping.itt()), (op::NOP_IN, u32::MAX));
    assert!(site.is_open(&session));
    assert_eq!(site.usage().sessions, 1);
    site.run(silence);
    assert!(!site.is_open(&session));
    assert_eq!(site.usage().sessions, 0);
    assert_eq!(site.storage.volumes[0].media[3], 0, "not flushed yet");
    site.storage.hangs = false;
    site.run(Duration::from_secs(15));
    assert_eq!(site.storage.volumes[0].media[3], 9);
    assert!(site.worker.relay.is_drained());
    assert_eq!(
        try_login(&mut site, 1, 0, 2),
        (0, 0),
        "another takes its place"
    );
}

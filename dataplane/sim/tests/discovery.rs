//! What the worker tells computers of its targets, in both modes, to sessions of
//! both kinds, and only to those that prove who they are where they must (C-10, C-11).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use sluice_proto::iscsi::chap::{ChapLogin, Secret};
use sluice_proto::iscsi::{
    InitiatorConfig, InitiatorConn, InitiatorEvent, IscsiName, LoginFailure, Offers,
};
use sluice_sim::proof::Names;
use sluice_sim::site::{Pdu, RELAY_LAN, STORAGE, Session, Site, Size, TARGETS, op};

const SITES: [Size; 2] = [
    Size {
        apart: true,
        ..Size::SMALL
    },
    Size {
        apart: true,
        portal: true,
        ..Size::SMALL
    },
];

/// What came of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    In,
    Refused(u8, u8),
    Left,
}

fn login(site: &mut Site, target: Option<&str>, chap: Option<ChapLogin>) -> (Session, Outcome) {
    let mut conn = InitiatorConn::new(InitiatorConfig {
        initiator_name: IscsiName::from("iqn.2004-03.example.sim:computer0").unwrap(),
        target_name: target.map(|name| IscsiName::from(name).unwrap()),
        isid: [0x80, 0, 0, 1, 0, 1],
        offers: Offers::lan(),
        chap,
        max_tasks: 4,
    });
    let session = site.connect(0);
    let mut out = [0; 16 * 1024];
    loop {
        let len = conn.transmit(&mut out, |_, _, _| ());
        if len > 0 {
            site.send(&session, &out[..len]);
        }
        let Some(pdu) = site.next_pdu(&session) else {
            return (session, Outcome::Left);
        };
        let bytes = pdu.bytes();
        let mut rest = &bytes[..];
        loop {
            let (used, event) = conn.receive(rest);
            rest = &rest[used..];
            match event {
                Some(InitiatorEvent::LoggedIn) => return (session, Outcome::In),
                Some(InitiatorEvent::LoginFailed(LoginFailure { class, detail })) => {
                    return (session, Outcome::Refused(class, detail));
                }
                Some(InitiatorEvent::Violation(_)) => return (session, Outcome::Left),
                Some(other) => panic!("{other:?}"),
                None if used == 0 => break,
                None => {}
            }
        }
    }
}

/// The answer to `SendTargets=`, with `\n` for the zero byte.
fn targets(site: &mut Site, session: &Session, which: &str) -> String {
    let text = format!("SendTargets={which}\0");
    let pdu = Pdu::new(op::TEXT | op::IMMEDIATE, 0x80, 77)
        .word(20, u32::MAX)
        .word(24, 1)
        .data(text.as_bytes());
    site.send(session, &pdu.bytes());
    loop {
        let pdu = site.next_pdu(session).expect("an answer");
        if pdu.opcode() == op::TEXT_RESPONSE {
            return String::from_utf8(pdu.data).unwrap().replace('\0', "\n");
        }
    }
}

#[test]
fn c11_each_computer_hears_of_what_it_can_reach_where_it_can() {
    for size in SITES {
        let mut site = Site::of(size, |_| ());
        let dialled = if size.portal { RELAY_LAN } else { STORAGE };
        let row = |name: &str| format!("TargetName={name}\nTargetAddress={dialled}:3260,1\n");
        // What is cached at another address is dialled there.
        let all = if size.portal {
            row(TARGETS[0]) + &row(TARGETS[1])
        } else {
            row(TARGETS[0])
        };
        let (session, outcome) = login(&mut site, None, None);
        assert_eq!(outcome, Outcome::In);
        assert_eq!(targets(&mut site, &session, "All"), all);
        assert_eq!(targets(&mut site, &session, TARGETS[0]), row(TARGETS[0]));
        let other = if size.portal {
            row(TARGETS[1])
        } else {
            String::new()
        };
        assert_eq!(targets(&mut site, &session, TARGETS[1]), other);
        assert_eq!(
            targets(&mut site, &session, "iqn.2004-03.example.sim:none"),
            ""
        );
        assert_eq!(targets(&mut site, &session, ""), "SendTargets=Reject\n");
        site.close(&session);

        let (session, outcome) = login(&mut site, Some(TARGETS[0]), None);
        assert_eq!(outcome, Outcome::In);
        assert_eq!(targets(&mut site, &session, ""), row(TARGETS[0]));
        assert_eq!(targets(&mut site, &session, TARGETS[0]), row(TARGETS[0]));
        assert_eq!(targets(&mut site, &session, "All"), "SendTargets=Reject\n");
    }
}

#[test]
fn c10_nothing_is_told_to_who_proves_nothing() {
    for size in SITES {
        let mut site = Site::of(Size { chap: true, ..size }, |_| ());
        let mut wrong = Names::LAN.login();
        wrong.initiator.secret = Secret::new(b"another secret").unwrap();
        let mut doubtful = Names::LAN.login();
        doubtful.target.as_mut().unwrap().secret = Secret::new(b"another secret").unwrap();
        let nobody = "iqn.2004-03.example.sim:none";
        // One answer for a target that is there and for one that is not.
        for target in [None, Some(TARGETS[0]), Some(nobody)] {
            for chap in [None, Some(wrong.clone())] {
                let (_, outcome) = login(&mut site, target, chap);
                assert_eq!(outcome, Outcome::Refused(2, 1), "{target:?}");
            }
            let (_, outcome) = login(&mut site, target, Some(doubtful.clone()));
            let expected = if target == Some(nobody) {
                Outcome::Refused(2, 3)
            } else {
                Outcome::Left
            };
            assert_eq!(outcome, expected);
        }
        assert_eq!(site.counter("login_unproved"), 6);
        let (_, outcome) = login(&mut site, Some(nobody), Some(Names::LAN.login()));
        assert_eq!(
            outcome,
            Outcome::Refused(2, 3),
            "not found, once it is known who asks"
        );
        for target in [None, Some(TARGETS[0])] {
            let (session, outcome) = login(&mut site, target, Some(Names::LAN.login()));
            assert_eq!(outcome, Outcome::In);
            let listed = targets(&mut site, &session, TARGETS[0]);
            assert!(listed.contains(TARGETS[0]), "{listed}");
            site.close(&session);
        }
    }
}

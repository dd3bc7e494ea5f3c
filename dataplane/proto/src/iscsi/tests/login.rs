//! Login as a transcript: what goes in, what must come out.

use super::pair::{Pair, initiator_config, target_config};
use crate::iscsi::inbound::{Framed, Inbound};
use crate::iscsi::login_status::{self, Status};
use crate::iscsi::wire::{
    Bhs, LoginRequestPdu, LoginResponsePdu, Opcode, RESERVED_TAG, Stage, TextRequest, TextResponse,
};
use crate::iscsi::{
    DigestPolicy, InitiatorConn, InitiatorEvent, LoginFailure, Offers, SendTargetsScope,
    TargetConn, TargetEvent, Violation,
};

pub(super) const REQUEST: LoginRequestPdu = LoginRequestPdu {
    stage: Stage::Operational,
    next: Some(Stage::FullFeature),
    continues: false,
    version_max: 0,
    version_min: 0,
    isid: [0x80, 1, 2, 3, 4, 5],
    tsih: 0,
    itt: 9,
    cid: 1,
    cmd_sn: 100,
    exp_stat_sn: 55,
};

pub(super) const NAMES: &str = "InitiatorName=iqn.i\nTargetName=iqn.t\nSessionType=Normal\n";

/// Text as it is on the wire; tests write `\n` for the zero byte.
fn wire(text: &str) -> Vec<u8> {
    text.replace('\n', "\0").into_bytes()
}

pub(super) fn pdu(mut bhs: Bhs, data: &[u8]) -> Vec<u8> {
    bhs.set_data_len(u32::try_from(data.len()).unwrap());
    let mut bytes = [&bhs.0[..], data].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Splits a stream without digests into PDUs.
pub(super) fn split(mut stream: &[u8]) -> Vec<(Bhs, Vec<u8>)> {
    let mut inbound = Inbound::new(1 << 20);
    let mut pdus = Vec::new();
    loop {
        let (used, step) = inbound.step(stream).unwrap();
        stream = &stream[used..];
        match step {
            Some(Framed::Header) => pdus.push((inbound.bhs(), Vec::new())),
            Some(Framed::Data(bytes)) => pdus.last_mut().unwrap().1.extend_from_slice(bytes),
            Some(Framed::End { .. }) => {}
            None => return pdus,
        }
    }
}

pub(super) struct Target(pub(super) TargetConn);

impl Target {
    fn new() -> Self {
        Self(TargetConn::new(target_config(Offers::lan())))
    }

    /// The first event that the PDU brings.
    pub(super) fn send(&mut self, bhs: Bhs, text: &str) -> Option<TargetEvent<'static>> {
        let bytes = pdu(bhs, &wire(text));
        let mut used = 0;
        loop {
            let (taken, event) = self.0.receive(&bytes[used..]);
            used += taken;
            match event {
                Some(TargetEvent::Authenticate) => return Some(TargetEvent::Authenticate),
                Some(TargetEvent::Login) => return Some(TargetEvent::Login),
                Some(TargetEvent::LoggedIn) => return Some(TargetEvent::LoggedIn),
                Some(TargetEvent::SendTargets) => return Some(TargetEvent::SendTargets),
                Some(TargetEvent::Violation(v)) => return Some(TargetEvent::Violation(v)),
                Some(other) => panic!("{other:?}"),
                None if taken == 0 => return None,
                None => {}
            }
        }
    }

    fn output(&mut self) -> Vec<(Bhs, Vec<u8>)> {
        let mut out = vec![0; 1 << 16];
        let len = self
            .0
            .transmit(&mut out, |_, _, _| panic!("no data in login"));
        split(&out[..len])
    }

    pub(super) fn response(&mut self) -> (LoginResponsePdu, String) {
        let mut pdus = self.output();
        assert_eq!(pdus.len(), 1, "one response");
        let (bhs, text) = pdus.remove(0);
        assert_eq!(bhs.opcode(), Ok(Opcode::LoginResponse));
        let text = String::from_utf8(text).unwrap().replace('\0', "\n");
        (LoginResponsePdu::parse(&bhs).unwrap(), text)
    }

    pub(super) fn refused_with(&mut self, status: Status) {
        let (response, text) = self.response();
        assert_eq!((response.status_class, response.status_detail), status);
        assert_eq!(text, "");
        assert!(self.0.is_finished());
    }
}

#[test]
fn straight_to_full_feature() {
    let mut target = Target::new();
    let keys = format!("{NAMES}HeaderDigest=None,CRC32C\nInitialR2T=Yes\nX-new=1\n");
    assert_eq!(target.send(REQUEST.emit(), &keys), Some(TargetEvent::Login));
    let request = target.0.login_request();
    assert_eq!(request.initiator_name.as_str(), "iqn.i");
    assert_eq!(request.target_name.unwrap().as_str(), "iqn.t");
    assert!(!target.0.has_output(), "nothing before the caller's answer");
    target.0.accept_login(7);
    assert_eq!(target.0.receive(&[]), (0, Some(TargetEvent::LoggedIn)));
    let pdus = {
        let mut out = vec![0; 4096];
        let len = target.0.transmit(&mut out, |_, _, _| {});
        split(&out[..len])
    };
    let numbering = pdus[0].0.numbering();
    assert_eq!(
        numbering.stat_sn, 55,
        "counts from the initiator's ExpStatSN"
    );
    assert_eq!((numbering.exp_cmd_sn, numbering.max_cmd_sn), (100, 107));
    let response = LoginResponsePdu::parse(&pdus[0].0).unwrap();
    assert_eq!(
        (response.next, response.tsih),
        (Some(Stage::FullFeature), 7)
    );
    assert_eq!(
        pdus[0].1,
        wire(
            "HeaderDigest=None\nInitialR2T=Yes\nX-new=NotUnderstood\nTargetPortalGroupTag=1\n\
             MaxRecvDataSegmentLength=262144\n"
        )
    );
    assert!(target.0.parameters().initial_r2t);
}

#[test]
fn security_then_operational_in_pieces() {
    let mut target = Target::new();
    let security = LoginRequestPdu {
        stage: Stage::Security,
        next: Some(Stage::Operational),
        ..REQUEST
    };
    let keys = format!("{NAMES}AuthMethod=CHAP,None\n");
    target.send(security.emit(), &keys);
    target.0.accept_login(7);
    let (response, text) = target.response();
    assert_eq!(response.next, Some(Stage::Operational));
    assert_eq!(response.tsih, 0, "no session yet");
    assert_eq!(text, "AuthMethod=None\nTargetPortalGroupTag=1\n");

    let part = LoginRequestPdu {
        next: None,
        continues: true,
        ..REQUEST
    };
    assert_eq!(target.send(part.emit(), "MaxBurst"), None);
    let (response, text) = target.response();
    assert_eq!((response.next, text.as_str()), (None, ""), "go on");
    assert_eq!(
        target.send(REQUEST.emit(), "Length=1024\nImmediateData=No\n"),
        Some(TargetEvent::LoggedIn)
    );
    let (response, text) = target.response();
    assert_eq!(response.next, Some(Stage::FullFeature));
    assert_eq!(
        text,
        "MaxBurstLength=1024\nImmediateData=No\nMaxRecvDataSegmentLength=262144\n"
    );
}

#[test]
fn refusals_have_a_precise_status() {
    let security = LoginRequestPdu {
        stage: Stage::Security,
        ..REQUEST
    };
    let newer = LoginRequestPdu {
        version_min: 1,
        version_max: 1,
        ..REQUEST
    };
    let long = format!("{NAMES}{}", "X=\n".repeat(200));
    let chap = format!("{NAMES}AuthMethod=CHAP\n");
    let twice = format!("{NAMES}InitialR2T=No\nInitialR2T=No\n");
    let range = format!("{NAMES}MaxBurstLength=1\n");
    for (request, keys, status) in [
        (
            REQUEST,
            "TargetName=iqn.t\n",
            login_status::MISSING_PARAMETER,
        ),
        (
            REQUEST,
            "InitiatorName=iqn.i\n",
            login_status::MISSING_PARAMETER,
        ),
        (
            REQUEST,
            "InitiatorName=iqn.i\nSessionType=Other\n",
            login_status::SESSION_TYPE_NOT_SUPPORTED,
        ),
        (security, &chap, login_status::AUTHENTICATION_FAILURE),
        (newer, NAMES, login_status::UNSUPPORTED_VERSION),
        (REQUEST, &twice, login_status::INITIATOR_ERROR),
        (REQUEST, &range, login_status::INITIATOR_ERROR),
        (REQUEST, &long, login_status::INITIATOR_ERROR),
        (REQUEST, "rubbish", login_status::INITIATOR_ERROR),
    ] {
        let mut target = Target::new();
        let event = target.send(request.emit(), keys);
        assert!(matches!(event, Some(TargetEvent::Violation(_))), "{keys}");
        target.refused_with(status);
    }
    let mut target = Target::new();
    target.send(REQUEST.emit(), NAMES);
    target
        .0
        .reject_login(login_status::NOT_FOUND.0, login_status::NOT_FOUND.1);
    target.refused_with(login_status::NOT_FOUND);
}

/// The keys of chapter 13 that are not negotiated, at a target: declared ones
/// are silent, those that are not an initiator's to say end the login.
#[test]
fn keys_that_are_declared_have_their_place_and_their_sender() {
    let bad = Some(login_status::INITIATOR_ERROR);
    for (clause, key, status) in [
        ("13.3", "SendTargets=All", bad),
        ("13.6", "TargetAlias=disk", bad),
        ("13.7", "InitiatorAlias=computer", None),
        ("13.8", "TargetAddress=198.18.0.1", bad),
        ("13.9", "TargetPortalGroupTag=1", bad),
        ("13.26", "X#NodeArchitecture=x,y", None),
        ("12.1", "AuthMethod=None", bad),
        ("12.1.3", "CHAP_A=5", bad),
    ] {
        let mut target = Target::new();
        let event = target.send(REQUEST.emit(), &format!("{NAMES}{key}\n"));
        match status {
            None => {
                assert_eq!(event, Some(TargetEvent::Login), "{clause}");
                target.0.accept_login(1);
                let (_, text) = target.response();
                assert!(!text.contains(key.split('=').next().unwrap()), "{text}");
            }
            Some(status) => target.refused_with(status),
        }
    }
    // 13.4, 13.5, 13.21: the leading request's alone.
    for key in [
        "InitiatorName=iqn.i",
        "TargetName=iqn.t",
        "SessionType=Normal",
    ] {
        let mut target = Target::new();
        let first = LoginRequestPdu {
            next: None,
            ..REQUEST
        };
        target.send(first.emit(), NAMES);
        target.0.accept_login(1);
        target.response();
        target.send(REQUEST.emit(), &format!("{key}\n"));
        target.refused_with(login_status::INITIATOR_ERROR);
    }
}

#[test]
fn what_changes_between_two_requests_is_refused() {
    let first = LoginRequestPdu {
        next: None,
        ..REQUEST
    };
    for second in [
        LoginRequestPdu { itt: 10, ..REQUEST },
        LoginRequestPdu {
            isid: [0; 6],
            ..REQUEST
        },
        LoginRequestPdu { cid: 2, ..REQUEST },
        LoginRequestPdu {
            stage: Stage::Security,
            ..REQUEST
        },
    ] {
        let mut target = Target::new();
        target.send(first.emit(), NAMES);
        target.0.accept_login(1);
        target.response();
        target.send(second.emit(), "");
        target.refused_with(login_status::INVALID_DURING_LOGIN);
    }
}

#[test]
fn text_without_end_is_refused() {
    let mut target = Target::new();
    let part = LoginRequestPdu {
        next: None,
        continues: true,
        ..REQUEST
    };
    let piece = "X".repeat(8000);
    for _ in 0..2 {
        assert_eq!(target.send(part.emit(), &piece), None);
        target.response();
    }
    let event = target.send(part.emit(), &piece);
    assert_eq!(event, Some(TargetEvent::Violation(Violation::Text)));
    target.refused_with(login_status::INITIATOR_ERROR);
}

#[test]
fn pdus_wait_while_the_caller_decides() {
    let mut target = Target::new();
    target.send(REQUEST.emit(), NAMES);
    assert_eq!(target.0.receive(&[0; 100]), (0, None));
    target.0.accept_login(1);
    assert_eq!(
        target.0.receive(&[0; 100]),
        (0, Some(TargetEvent::LoggedIn))
    );
    assert_eq!(
        target.0.receive(&[0; 100]),
        (0, None),
        "until the response is out"
    );
    target.response();
    assert_eq!(target.0.receive(&[0; 100]).0, 100);
}

#[test]
fn discovery_in_pieces() {
    let config = crate::iscsi::InitiatorConfig {
        target_name: None,
        ..initiator_config(Offers::lan())
    };
    let mut pair = Pair::with(
        InitiatorConn::new(config),
        TargetConn::new(target_config(Offers::lan())),
        1,
        1000,
    );
    pair.run();
    pair.initiator.send_targets();
    pair.run();
    let targets: Vec<_> = pair.initiator.targets().collect();
    assert_eq!(targets.len(), 200, "more than one PDU holds");
    assert_eq!(
        targets[199],
        ("iqn.2004-03.example.storage:vol199", "198.18.0.1:3260,1")
    );
    assert_eq!(pair.initiator.window(), 0, "no commands here");
    assert_eq!(pair.target.send_targets_scope(), &SendTargetsScope::All);
}

#[test]
fn text_in_a_normal_session() {
    let mut target = Target::new();
    target.send(REQUEST.emit(), NAMES);
    target.0.accept_login(1);
    target.send(REQUEST.emit(), "");
    target.response();
    let text = TextRequest {
        immediate: true,
        is_final: true,
        continues: false,
        lun: 0,
        itt: 77,
        ttt: RESERVED_TAG,
        cmd_sn: 100,
        exp_stat_sn: 56,
    };
    let keys = "SendTargets=All\nMaxRecvDataSegmentLength=4096\nInitialR2T=No\nX-y=z\n";
    assert_eq!(target.send(text.emit(), keys), None);
    let (bhs, reply) = target.output().remove(0);
    assert!(TextResponse::parse(&bhs).unwrap().is_final);
    assert_eq!(
        reply,
        wire("SendTargets=Reject\nInitialR2T=Reject\nX-y=NotUnderstood\n")
    );
    assert_eq!(
        target.0.parameters().peer_max_recv_data_segment_length,
        4096
    );
    let event = target.send(text.emit(), "SendTargets=\n");
    assert_eq!(event, Some(TargetEvent::SendTargets));
    assert_eq!(target.0.send_targets_scope(), &SendTargetsScope::Session);
}

/// The initiator against a target that is written by hand here.
struct Initiator(InitiatorConn);

impl Initiator {
    fn request(&mut self) -> (LoginRequestPdu, String) {
        let mut out = vec![0; 1 << 16];
        let len = self
            .0
            .transmit(&mut out, |_, _, _| panic!("no data in login"));
        let (bhs, text) = split(&out[..len]).remove(0);
        let text = String::from_utf8(text).unwrap().replace('\0', "\n");
        (LoginRequestPdu::parse(&bhs).unwrap(), text)
    }

    fn answer(
        &mut self,
        response: LoginResponsePdu,
        text: &str,
    ) -> Option<InitiatorEvent<'static>> {
        let bytes = pdu(response.emit(), &wire(text));
        let (_, event) = self.0.receive(&bytes);
        event.map(|event| match event {
            InitiatorEvent::LoggedIn => InitiatorEvent::LoggedIn,
            InitiatorEvent::LoginFailed(failure) => InitiatorEvent::LoginFailed(failure),
            InitiatorEvent::Violation(violation) => InitiatorEvent::Violation(violation),
            other => panic!("{other:?}"),
        })
    }
}

fn response(request: &LoginRequestPdu) -> LoginResponsePdu {
    LoginResponsePdu {
        stage: request.stage,
        next: Some(Stage::FullFeature),
        continues: false,
        version_max: 0,
        version_active: 0,
        isid: request.isid,
        tsih: 3,
        itt: request.itt,
        status_class: 0,
        status_detail: 0,
    }
}

#[test]
fn a_target_that_talks_more_than_it_must() {
    let mut initiator = Initiator(InitiatorConn::new(initiator_config(Offers::lan())));
    let (request, text) = initiator.request();
    assert!(text.starts_with("InitiatorName=iqn.2004-03.example.computer:a\n"));
    let mut reply = response(&request);
    reply.next = None;
    let keys = "HeaderDigest=None\nMaxRecvDataSegmentLength=8192\nTargetPortalGroupTag=1\nX-t=1\nIFMarker=No\n";
    assert_eq!(initiator.answer(reply, keys), None);
    let (_, text) = initiator.request();
    assert_eq!(text, "X-t=NotUnderstood\nIFMarker=No\n");
    reply.continues = true;
    assert_eq!(initiator.answer(reply, "InitialR"), None);
    let (request, text) = initiator.request();
    assert_eq!((request.next, text.as_str()), (None, ""));
    reply = response(&request);
    let event = initiator.answer(reply, "2T=Yes\n");
    assert_eq!(event, Some(InitiatorEvent::LoggedIn));
    assert_eq!(
        initiator.0.parameters().peer_max_recv_data_segment_length,
        8192
    );
    assert!(initiator.0.parameters().initial_r2t);
    assert_eq!(initiator.0.tsih(), 3);
}

#[test]
fn refusals_and_breaches_end_the_login() {
    let required = Offers {
        data_digest: DigestPolicy::Required,
        ..Offers::lan()
    };
    let mut initiator = Initiator(InitiatorConn::new(initiator_config(required)));
    let (request, _) = initiator.request();
    let event = initiator.answer(response(&request), "DataDigest=None\n");
    assert_eq!(
        event,
        Some(InitiatorEvent::Violation(Violation::Negotiation))
    );

    let mut initiator = Initiator(InitiatorConn::new(initiator_config(Offers::lan())));
    let (request, _) = initiator.request();
    let mut refusal = response(&request);
    (refusal.status_class, refusal.status_detail) = login_status::AUTHENTICATION_FAILURE;
    let failure = LoginFailure {
        class: 2,
        detail: 1,
    };
    assert_eq!(
        initiator.answer(refusal, ""),
        Some(InitiatorEvent::LoginFailed(failure))
    );
    assert!(initiator.0.is_finished());

    let mut initiator = Initiator(InitiatorConn::new(initiator_config(Offers::lan())));
    let mut endless = None;
    for _ in 0..100 {
        let (request, _) = initiator.request();
        let mut reply = response(&request);
        reply.next = None;
        endless = initiator.answer(reply, "");
        if endless.is_some() {
            break;
        }
    }
    assert_eq!(
        endless,
        Some(InitiatorEvent::Violation(Violation::Negotiation))
    );
}

/// RFC 7143 4.2.4: nothing but Login Requests until the login is over. Before the first one
/// the connection ends without a word, after it by a Login Response.
#[test]
fn what_is_no_login_request_ends_the_login() {
    let other = Bhs::new(Opcode::NopOut);
    let mut target = Target::new();
    let ended = Some(TargetEvent::Violation(Violation::Phase));
    assert_eq!(target.send(other, ""), ended);
    assert_eq!(target.output(), []);
    assert!(target.0.is_finished());

    let mut target = Target::new();
    let first = LoginRequestPdu {
        next: None,
        ..REQUEST
    };
    target.send(first.emit(), NAMES);
    target.0.accept_login(1);
    target.response();
    assert_eq!(target.send(other, ""), ended);
    target.refused_with(login_status::INVALID_DURING_LOGIN);
}

/// RFC 7143 11.14: after its Logout Request an initiator asks nothing any more.
#[test]
fn an_initiator_that_leaves_asks_nothing_more() {
    let mut initiator = Pair::logged_in(Offers::lan(), Offers::lan(), 1, 1000).initiator;
    initiator.logout();
    initiator.ping();
    assert!(initiator.reset_lun(0).is_err());
    let mut out = vec![0; 4096];
    let len = initiator.transmit(&mut out, |_, _, _| {});
    let sent = split(&out[..len]);
    let opcodes: Vec<_> = sent.iter().map(|(bhs, _)| bhs.opcode().unwrap()).collect();
    assert_eq!(opcodes, [Opcode::LogoutRequest]);
    initiator.ping();
    assert!(initiator.reset_lun(0).is_err());
    assert_eq!(initiator.transmit(&mut out, |_, _, _| {}), 0);
}

//! Logins with CHAP, over streams that are cut anywhere.

use super::login::{NAMES, REQUEST, Target};
use super::pair::{Pair, initiator_config, target_config};
use crate::iscsi::chap::{
    Algorithm, Algorithms, Challenges, ChapDemand, ChapLogin, ChapName, Credential, Demand, Secret,
};
use crate::iscsi::login_status;
use crate::iscsi::wire::{LoginRequestPdu, Stage};
use crate::iscsi::{
    InitiatorConfig, InitiatorConn, Offers, TargetConfig, TargetConn, TargetEvent, Violation,
};

fn credential(name: &str, secret: &str) -> Credential {
    Credential {
        name: ChapName::from(name).unwrap(),
        secret: Secret::new(secret.as_bytes()).unwrap(),
    }
}

fn demand() -> ChapDemand {
    ChapDemand {
        algorithms: Algorithms::default(),
        challenge: Challenges::new([1; 32]).draw(),
        initiator: Some(credential("computer", "a computer's secret")),
        target: Some(credential("relay", "a relay's secret")),
    }
}

fn login() -> ChapLogin {
    ChapLogin {
        algorithms: Algorithms::default(),
        initiator: credential("computer", "a computer's secret"),
        target: Some(credential("relay", "a relay's secret")),
        challenge: Challenges::new([2; 32]).draw(),
    }
}

fn run(chap: Option<ChapLogin>, demand: Demand, discovery: bool, cut: usize) -> Pair {
    let mut config = InitiatorConfig {
        chap,
        ..initiator_config(Offers::lan())
    };
    config.target_name = config.target_name.filter(|_| !discovery);
    let target = TargetConfig {
        authenticates: true,
        ..target_config(Offers::lan())
    };
    let mut pair = Pair::with(InitiatorConn::new(config), TargetConn::new(target), 9, cut);
    pair.demand = Some(demand);
    pair.run();
    pair
}

#[test]
fn one_way_and_mutual_in_sessions_of_both_kinds() {
    for algorithm in [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256] {
        for target in [None, login().target] {
            for (discovery, cut) in [(false, 3000), (false, 7), (true, 50)] {
                let chap = ChapLogin {
                    algorithms: Algorithms::new([algorithm]),
                    target: target.clone(),
                    ..login()
                };
                let pair = run(Some(chap), Demand::Chap(demand()), discovery, cut);
                assert!(pair.initiator.is_logged_in(), "{:?}", pair.seen);
                assert!(pair.target.is_logged_in(), "{:?}", pair.seen);
                assert_eq!(
                    pair.target.parameters().max_burst_length,
                    pair.initiator.parameters().max_burst_length
                );
            }
        }
    }
}

#[test]
fn one_who_proves_itself_to_a_target_that_does_not_ask() {
    let one_way = ChapLogin {
        target: None,
        ..login()
    };
    let pair = run(Some(one_way), Demand::Nothing, false, 100);
    assert!(pair.initiator.is_logged_in(), "{:?}", pair.seen);
    // Whoever wants the target's proof does without none.
    let pair = run(Some(login()), Demand::Nothing, false, 100);
    assert!(!pair.initiator.is_logged_in());
}

#[test]
fn refusals_are_authentication_failures_and_all_alike() {
    let wrong = credential("computer", "some other secret");
    let mut replies = Vec::new();
    for (chap, initiator) in [
        (Some(login()), None),
        (Some(login()), Some(wrong.clone())),
        (
            Some(ChapLogin {
                initiator: wrong,
                ..login()
            }),
            demand().initiator,
        ),
        // Straight to the operational stage.
        (None, demand().initiator),
    ] {
        let demand = ChapDemand {
            initiator,
            ..demand()
        };
        let pair = run(chap, Demand::Chap(demand), false, 100);
        assert!(!pair.initiator.is_logged_in() && pair.target.is_finished());
        replies.push(pair.seen);
    }
    let seen = [
        "target Authenticate",
        "target Violation(Authentication)",
        "initiator LoginFailed(LoginFailure { class: 2, detail: 1 })",
    ];
    for reply in replies {
        assert_eq!(reply, seen);
    }
}

#[test]
fn a_target_that_proves_nothing_is_left() {
    for target in [
        credential("relay", "another secret"),
        credential("other", "a relay's secret"),
    ] {
        let demand = ChapDemand {
            target: Some(target),
            ..demand()
        };
        let pair = run(Some(login()), Demand::Chap(demand), false, 100);
        assert!(!pair.initiator.is_logged_in());
        assert!(
            pair.seen
                .contains(&"initiator Violation(Authentication)".to_owned()),
            "{:?}",
            pair.seen
        );
    }
}

#[test]
fn the_security_stage_cannot_be_walked_out_of() {
    let security = LoginRequestPdu {
        stage: Stage::Security,
        next: None,
        ..REQUEST
    };
    let leaving = LoginRequestPdu {
        next: Some(Stage::Operational),
        ..security
    };
    let with_none = format!("{NAMES}AuthMethod=None\n");
    let eager = format!("{NAMES}AuthMethod=CHAP\n");
    let mut target = Target(TargetConn::new(TargetConfig {
        authenticates: true,
        ..target_config(Offers::lan())
    }));
    target.send(leaving.emit(), &eager);
    assert_eq!(target.0.authenticate(Demand::Chap(demand())), None);
    let (response, _) = target.response();
    assert_eq!((response.stage, response.next), (Stage::Security, None));
    let early = format!("{NAMES}CHAP_A=5\n");
    let twice = format!("{NAMES}AuthMethod=CHAP\nAuthMethod=CHAP\n");
    for (request, keys, status) in [
        (leaving, NAMES, login_status::AUTHENTICATION_FAILURE),
        (security, &with_none, login_status::AUTHENTICATION_FAILURE),
        (security, &early, login_status::INITIATOR_ERROR),
        (security, &twice, login_status::INITIATOR_ERROR),
        (REQUEST, NAMES, login_status::AUTHENTICATION_FAILURE),
    ] {
        let mut target = Target(TargetConn::new(TargetConfig {
            authenticates: true,
            ..target_config(Offers::lan())
        }));
        let asked = target.send(request.emit(), keys);
        assert_eq!(asked, Some(TargetEvent::Authenticate));
        assert!(!target.0.has_output(), "nothing before the caller's answer");
        let event = target.0.authenticate(Demand::Chap(demand()));
        let violation = if status == login_status::AUTHENTICATION_FAILURE {
            Violation::Authentication
        } else {
            Violation::Negotiation
        };
        assert_eq!(event, Some(TargetEvent::Violation(violation)), "{keys}");
        target.refused_with(status);
    }
}

#[test]
fn the_longest_challenge_and_both_encodings() {
    // By hand: the storage's challenge has 1024 bytes, in base64 here.
    let mut target = Target(TargetConn::new(TargetConfig {
        authenticates: true,
        ..target_config(Offers::lan())
    }));
    let security = LoginRequestPdu {
        stage: Stage::Security,
        next: None,
        ..REQUEST
    };
    target.send(security.emit(), &format!("{NAMES}AuthMethod=CHAP\n"));
    assert_eq!(target.0.authenticate(Demand::Chap(demand())), None);
    let (_, text) = target.response();
    assert_eq!(text, "AuthMethod=CHAP\nTargetPortalGroupTag=1\n");
    target.send(security.emit(), "CHAP_A=9,5\n");
    let (_, text) = target.response();
    assert!(text.starts_with("CHAP_A=5\nCHAP_I=1\nCHAP_C=0x"), "{text}");
    let long = format!(
        "CHAP_N=computer\nCHAP_R=0b{}\nCHAP_I=0xff\nCHAP_C=0b{}AA==\n",
        "AAAAAAAAAAAAAAAAAAAAAA==",
        "AAAA".repeat(341)
    );
    // Well-formed to its end, and refused for the response alone.
    let event = target.send(security.emit(), &long);
    assert_eq!(
        event,
        Some(TargetEvent::Violation(Violation::Authentication))
    );
    target.refused_with(login_status::AUTHENTICATION_FAILURE);
}

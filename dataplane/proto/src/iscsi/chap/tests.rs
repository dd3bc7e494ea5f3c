//! Known answers, encodings, and exchanges that must fail.

use super::*;
use crate::iscsi::login_status;
use binary::{Hex, decode};
use prove::Step;

fn credential(name: &str, secret: &str) -> Credential {
    Credential {
        name: ChapName::from(name).unwrap(),
        secret: Secret::new(secret.as_bytes()).unwrap(),
    }
}

/// Answers made with another implementation (Python's hashlib) over
/// identifier 7, `correct horse battery` and the bytes 0 to 15.
#[test]
fn the_hash_is_over_identifier_secret_and_challenge() {
    let challenge: Vec<u8> = (0..16).collect();
    for (algorithm, answer) in [
        (Algorithm::Md5, "0x25609ddacf9b3f06a7bc211ccc96a512"),
        (
            Algorithm::Sha1,
            "0x411d41575439c212706f7131fd4f85b3931a8b8a",
        ),
        (
            Algorithm::Sha256,
            "0x50ac74e5cc01919ce4d6c5997632e88ac05d025d5569000ee8c6e0fe37221471",
        ),
    ] {
        let bytes = response(algorithm, 7, b"correct horse battery", &challenge);
        assert_eq!(Hex(&bytes).to_string(), answer);
    }
}

#[test]
fn binary_values() {
    for (value, bytes) in [
        ("0x00", &[0][..]),
        ("0XaBcD", &[0xab, 0xcd]),
        ("0bAA==", &[0]),
        ("0B+/8=", &[0xfb, 0xff]),
        ("0bAAEC", &[0, 1, 2]),
    ] {
        assert_eq!(decode::<1024>(value).as_deref(), Some(bytes), "{value}");
    }
    for bad in [
        "",
        "0",
        "0x",
        "0b",
        "12",
        "0x1",
        "0xzz",
        "0x+1",
        "0bA",
        "0bAA",
        "0bAA=",
        "0bAB==",
        "0b====",
        "0bAA==AAEC",
        "0bA*==",
        "0xé",
    ] {
        assert_eq!(decode::<1024>(bad), None, "{bad}");
    }
    let longest = Hex(&[7; 1024]).to_string();
    assert_eq!(decode::<1024>(&longest).unwrap().len(), 1024);
    assert_eq!(decode::<1024>(&format!("{longest}07")), None, "1025 bytes");
    let longest = format!("0b{}AA==", "AAAA".repeat(341));
    assert_eq!(decode::<1024>(&longest).unwrap().len(), 1024);
}

#[test]
fn secrets_have_96_bits_and_are_not_printed() {
    assert!(Secret::new(b"elevenbytes").is_none());
    assert!(Secret::new(&[b'x'; 256]).is_none());
    let credential = credential("a", "twelve bytes");
    assert!(!format!("{credential:?}").contains("twelve"));
}

#[test]
fn the_offerers_preference_decides() {
    let ours = Algorithms::new([Algorithm::Md5, Algorithm::Sha256]);
    assert_eq!(ours.choose("9,6,7,5"), Some(Algorithm::Sha256));
    assert_eq!(ours.choose("0x5,7"), Some(Algorithm::Md5));
    assert_eq!(ours.choose("6"), None);
    assert_eq!(Algorithms::default().to_string(), "7,6,5");
}

#[test]
fn challenges_differ() {
    let mut a = Challenges::new([1; 32]);
    let mut b = Challenges::new([2; 32]);
    let drawn = [a.draw(), a.draw(), b.draw()];
    assert_ne!(drawn[0].bytes, drawn[1].bytes);
    assert_ne!(drawn[0].identifier, drawn[1].identifier);
    assert_ne!(drawn[0].bytes, drawn[2].bytes);
    assert_eq!(drawn[0], Challenges::new([1; 32]).draw());
}

fn keys(text: &[u8]) -> (Option<&str>, Keys<'_>) {
    let (mut method, mut keys) = (None, Keys::default());
    for pair in crate::iscsi::text::pairs(text) {
        let (key, value) = pair.unwrap();
        if !keys.take(key, value).unwrap() {
            assert_eq!(key, "AuthMethod");
            method = Some(value);
        }
    }
    (method, keys)
}

/// Carries a whole exchange; gives the sides' verdicts.
fn exchange(login: ChapLogin, demand: ChapDemand) -> Result<(), &'static str> {
    let (mut prover, mut verifier) = (Prover::new(login), Verifier::new(demand));
    let mut request = Vec::new();
    prover.offer(&mut request);
    for _ in 0..3 {
        let mut reply = Vec::new();
        let (method, asked) = keys(&request);
        if let Some(method) = method {
            verifier.method(method, &mut reply).map_err(|_| "target")?;
        }
        verifier.take(&asked, &mut reply).map_err(|_| "target")?;
        let mut next = Vec::new();
        let (method, answered) = keys(&reply);
        prover
            .take(method, &answered, &mut next)
            .map_err(|_| "initiator")?;
        request = next;
    }
    assert!(verifier.passed() && prover.step == Step::Done);
    Ok(())
}

fn both(algorithm: Algorithm) -> (ChapLogin, ChapDemand) {
    let (i, t) = (
        credential("computer", "what the computer knows"),
        credential("relay", "what the relay knows"),
    );
    let login = ChapLogin {
        algorithms: Algorithms::new([algorithm]),
        initiator: i.clone(),
        target: Some(t.clone()),
        challenge: Challenges::new([3; 32]).draw(),
    };
    let demand = ChapDemand {
        algorithms: Algorithms::default(),
        challenge: Challenges::new([4; 32]).draw(),
        initiator: Some(i),
        target: Some(t),
    };
    (login, demand)
}

#[test]
fn one_way_and_mutual_with_each_algorithm() {
    for algorithm in [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256] {
        let (login, demand) = both(algorithm);
        assert_eq!(exchange(login.clone(), demand.clone()), Ok(()));
        let one_way = ChapLogin {
            target: None,
            ..login
        };
        assert_eq!(exchange(one_way, demand), Ok(()));
    }
}

#[test]
fn whoever_cannot_prove_himself_is_found_out() {
    let (login, demand) = both(Algorithm::Sha256);
    let wrong = credential("computer", "what nobody knows");
    for initiator in [
        None,
        Some(wrong.clone()),
        Some(credential("other", "what the computer knows")),
    ] {
        let demand = ChapDemand {
            initiator,
            ..demand.clone()
        };
        assert_eq!(exchange(login.clone(), demand), Err("target"));
    }
    for (target, who) in [
        (None, "target"),
        (Some(wrong), "initiator"),
        (
            Some(credential("other", "what the relay knows")),
            "initiator",
        ),
    ] {
        let demand = ChapDemand {
            target,
            ..demand.clone()
        };
        assert_eq!(exchange(login.clone(), demand), Err(who));
    }
    let md5_only = ChapDemand {
        algorithms: Algorithms::new([Algorithm::Md5]),
        ..demand.clone()
    };
    assert_eq!(exchange(login.clone(), md5_only), Err("target"));
    // One challenge both ways: what one side answers would do for the other.
    let reflected = ChapDemand {
        challenge: login.challenge,
        ..demand
    };
    assert_eq!(exchange(login, reflected), Err("initiator"));
}

#[test]
fn a_reflected_challenge_is_not_answered() {
    let (login, demand) = both(Algorithm::Md5);
    let challenge = demand.challenge;
    let mut verifier = Verifier::new(demand);
    let mut reply = Vec::new();
    verifier.method("CHAP", &mut reply).unwrap();
    verifier.take(&keys(b"CHAP_A=5\0").1, &mut reply).unwrap();
    let answer = response(
        Algorithm::Md5,
        challenge.identifier,
        &login.initiator.secret.0,
        &challenge.bytes,
    );
    let text = format!(
        "CHAP_N=computer\0CHAP_R={}\0CHAP_I=1\0CHAP_C={}\0",
        Hex(&answer),
        Hex(&challenge.bytes)
    );
    assert_eq!(
        verifier.take(&keys(text.as_bytes()).1, &mut reply),
        Err(login_status::AUTHENTICATION_FAILURE)
    );
}

#[test]
fn keys_out_of_turn_fail() {
    let (_, demand) = both(Algorithm::Md5);
    let out_of_step = login_status::INITIATOR_ERROR;
    let missing = login_status::MISSING_PARAMETER;
    let unproved = login_status::AUTHENTICATION_FAILURE;
    // RFC 7143 9.2: each has its own status.
    for (texts, status) in [
        (&["CHAP_N=a\0CHAP_R=0x00\0"][..], out_of_step),
        (&["CHAP_A=5\0CHAP_N=a\0CHAP_R=0x00\0"], out_of_step),
        (&["CHAP_A=5\0", "CHAP_A=5\0"], out_of_step),
        (&["CHAP_A=5\0", "CHAP_N=computer\0"], missing),
        (&["CHAP_A=5\0", "CHAP_R=0x00\0"], missing),
        (&["CHAP_A=5\0", "CHAP_N=computer\0CHAP_R=0x\0"], out_of_step),
        (&["CHAP_A=5\0", "CHAP_N=computer\0CHAP_R=0x00\0"], unproved),
        (&["CHAP_A=8\0"], unproved),
        (&["CHAP_A=\0"], unproved),
    ] {
        let mut verifier = Verifier::new(demand.clone());
        let mut reply = Vec::new();
        assert_eq!(verifier.method("None", &mut reply), Err(Failed));
        verifier.method("None,CHAP", &mut reply).unwrap();
        let result = texts
            .iter()
            .try_for_each(|text| verifier.take(&keys(text.as_bytes()).1, &mut reply));
        assert_eq!(result, Err(status), "{texts:?}");
        assert!(!verifier.passed());
    }
}

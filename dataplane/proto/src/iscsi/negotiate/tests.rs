//! Both sides of a negotiation, and what ends one.

use super::*;
use crate::iscsi::text;

fn agree(initiator: Offers, target: Offers) -> (Parameters, Parameters) {
    let mut proposal = Proposal::new(initiator, false);
    let mut answers = Answers::new(target, false);
    let (mut request, mut reply, mut more) = (Vec::new(), Vec::new(), Vec::new());
    proposal.offer(&mut request);
    for pair in text::pairs(&request) {
        let (name, value) = pair.unwrap();
        answers.answer(name, value, &mut reply).unwrap();
    }
    answers.finish(&mut reply);
    text::push(
        &mut reply,
        "MaxRecvDataSegmentLength",
        target.max_recv_data_segment_length,
    );
    for pair in text::pairs(&reply) {
        let (name, value) = pair.unwrap();
        proposal.take(name, value, &mut more).unwrap();
    }
    assert_eq!(proposal.open, 0, "every offer was answered");
    assert!(more.is_empty(), "nothing is left to say");
    (proposal.settled().unwrap(), answers.settled().unwrap())
}

#[test]
fn both_sides_end_with_the_same() {
    let digests = [
        DigestPolicy::Never,
        DigestPolicy::Allowed,
        DigestPolicy::Preferred,
        DigestPolicy::Required,
    ];
    for header_digest in digests {
        for data_digest in digests {
            let initiator = Offers {
                header_digest,
                immediate_data: false,
                ..Offers::long_fat_pipe()
            };
            let target = Offers {
                data_digest,
                first_burst_length: 4096,
                max_burst_length: 8192,
                ..Offers::lan()
            };
            let (a, b) = agree(initiator, target);
            let swapped = Parameters {
                max_recv_data_segment_length: b.peer_max_recv_data_segment_length,
                peer_max_recv_data_segment_length: b.max_recv_data_segment_length,
                ..b
            };
            assert_eq!(a, swapped);
            assert_eq!((a.first_burst_length, a.max_burst_length), (4096, 8192));
            assert!(!a.immediate_data && !a.initial_r2t);
            assert_eq!(
                a.header_digest,
                matches!(
                    header_digest,
                    DigestPolicy::Preferred | DigestPolicy::Required
                )
            );
        }
    }
}

#[test]
fn first_burst_is_cut_to_max_burst() {
    let mut answers = Answers::new(Offers::lan(), false);
    let mut reply = Vec::new();
    answers
        .answer("MaxBurstLength", "1024", &mut reply)
        .unwrap();
    assert_eq!(answers.settled().unwrap().first_burst_length, 1024);
}

/// RFC 7143 13.14: what is agreed is what is answered, in whatever order the keys come.
#[test]
fn first_burst_is_answered_within_max_burst() {
    for keys in [
        [("FirstBurstLength", "65536"), ("MaxBurstLength", "16384")],
        [("MaxBurstLength", "16384"), ("FirstBurstLength", "65536")],
    ] {
        let mut answers = Answers::new(Offers::lan(), false);
        let mut reply = Vec::new();
        for (name, value) in keys {
            answers.answer(name, value, &mut reply).unwrap();
        }
        answers.finish(&mut reply);
        assert_eq!(reply, b"MaxBurstLength=16384\0FirstBurstLength=16384\0");
        assert_eq!(answers.settled().unwrap().first_burst_length, 16_384);
    }
}

#[test]
fn a_key_twice_or_out_of_range_fails() {
    let mut reply = Vec::new();
    for (name, value) in [
        ("MaxBurstLength", "511"),
        ("MaxBurstLength", "16777216"),
        ("ImmediateData", "yes"),
        ("DefaultTime2Wait", "3601"),
        ("MaxConnections", "0"),
        ("ErrorRecoveryLevel", "3"),
        ("MaxRecvDataSegmentLength", "many"),
    ] {
        let mut answers = Answers::new(Offers::lan(), false);
        assert_eq!(
            answers.answer(name, value, &mut reply),
            Err(Failed),
            "{name}={value}"
        );
    }
    let mut answers = Answers::new(Offers::lan(), false);
    answers.answer("InitialR2T", "No", &mut reply).unwrap();
    assert_eq!(answers.answer("InitialR2T", "No", &mut reply), Err(Failed));
}

#[test]
fn unknown_irrelevant_and_impossible_keys_are_answered() {
    let mut reply = Vec::new();
    let target = Offers {
        header_digest: DigestPolicy::Never,
        ..Offers::lan()
    };
    let mut answers = Answers::new(target, true);
    for (name, value) in [
        ("X-com.example.key", "1"),
        ("MaxBurstLength", "1024"),
        ("HeaderDigest", "CRC32C"),
        ("IFMarker", "Yes"),
    ] {
        answers.answer(name, value, &mut reply).unwrap();
    }
    assert_eq!(
        reply,
        b"X-com.example.key=NotUnderstood\0MaxBurstLength=Irrelevant\0HeaderDigest=Reject\0IFMarker=No\0"
    );
}

#[test]
fn a_target_that_grants_more_than_was_asked_is_refused() {
    for (name, value) in [
        ("MaxBurstLength", "16776192"),
        ("HeaderDigest", "CRC32C"),
        ("ErrorRecoveryLevel", "1"),
        ("ImmediateData", "Maybe"),
        ("DataPDUInOrder", "No"),
    ] {
        let offers = Offers {
            header_digest: DigestPolicy::Never,
            ..Offers::lan()
        };
        let mut proposal = Proposal::new(offers, false);
        let mut request = Vec::new();
        proposal.offer(&mut request);
        assert_eq!(
            proposal.take(name, value, &mut request),
            Err(Failed),
            "{name}={value}"
        );
    }
}

/// RFC 7143 6.2.2: the answer to a No whose function is AND may be left out; one that was
/// never offered has its default.
#[test]
fn an_answer_that_is_left_out_is_no() {
    let offers = Offers {
        immediate_data: false,
        ..Offers::lan()
    };
    for offered in [false, true] {
        let mut proposal = Proposal::new(offers, false);
        let mut request = Vec::new();
        if offered {
            proposal.offer(&mut request);
        }
        assert_eq!(proposal.settled().unwrap().immediate_data, !offered);
        if offered {
            proposal
                .take("ImmediateData", "NotUnderstood", &mut request)
                .unwrap();
            assert!(proposal.settled().unwrap().immediate_data, "the default");
            let twice = proposal.take("ImmediateData", "No", &mut request);
            assert_eq!(twice, Err(Failed), "one answer to an offer (6.3)");
        }
    }
}

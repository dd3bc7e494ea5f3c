//! RFC 7143 chapter 13, operational key by key: what a target answers to each
//! kind of value, in sessions of both kinds, and what an initiator takes.

use super::key::Key;
use super::*;
use crate::iscsi::text;

/// One key at a target with [`Offers::lan`].
struct Row {
    clause: &'static str,
    name: &'static str,
    /// Values and the answer to each; "" answers nothing.
    answered: &'static [(&'static str, &'static str)],
    /// Values that end the negotiation.
    refused: &'static [&'static str],
    /// Means nothing in a discovery session.
    only_normal: bool,
    /// What an initiator with [`Offers::lan`] says; "" if it leaves the key out.
    offer: &'static str,
    /// Answers that it takes, and that end its login.
    taken: &'static [&'static str],
    too_much: &'static [&'static str],
}

const NO_LENGTH: &[&str] = &["511", "16777216", "0", "-1", "1k", "", "4294967808"];
const NO_BOOLEAN: &[&str] = &["yes", "1", "", "Yes,No"];

const ROWS: &[Row] = &[
    Row {
        clause: "13.1",
        name: "HeaderDigest",
        answered: &[
            ("None", "None"),
            ("CRC32C", "CRC32C"),
            ("CRC32C,None", "CRC32C"),
            ("None,CRC32C", "None"),
            ("X-fnv,CRC32C", "CRC32C"),
            ("X-fnv", "Reject"),
        ],
        refused: &[],
        only_normal: false,
        offer: "None,CRC32C",
        taken: &["None", "CRC32C", "Reject", "NotUnderstood"],
        too_much: &["X-fnv", "None,CRC32C", ""],
    },
    Row {
        clause: "13.1",
        name: "DataDigest",
        answered: &[("CRC32C,None", "CRC32C"), ("None", "None")],
        refused: &[],
        only_normal: false,
        offer: "None,CRC32C",
        taken: &["None", "CRC32C"],
        too_much: &["crc32c"],
    },
    Row {
        clause: "13.2",
        name: "MaxConnections",
        answered: &[("1", "1"), ("8", "1"), ("65535", "1")],
        refused: &["0", "65536", "many"],
        only_normal: true,
        offer: "1",
        taken: &["1", "Irrelevant"],
        too_much: &["2", "0"],
    },
    Row {
        clause: "13.10",
        name: "InitialR2T",
        // OR: one side's Yes is enough, and this target says No.
        answered: &[("Yes", "Yes"), ("No", "No")],
        refused: NO_BOOLEAN,
        only_normal: true,
        offer: "No",
        taken: &["Yes", "No", "Irrelevant"],
        too_much: NO_BOOLEAN,
    },
    Row {
        clause: "13.11",
        name: "ImmediateData",
        // AND: one side's No is enough, and this target says Yes.
        answered: &[("Yes", "Yes"), ("No", "No")],
        refused: NO_BOOLEAN,
        only_normal: true,
        offer: "Yes",
        taken: &["Yes", "No", "Irrelevant"],
        too_much: NO_BOOLEAN,
    },
    Row {
        clause: "13.12",
        name: "MaxRecvDataSegmentLength",
        // Declared, so not answered.
        answered: &[("512", ""), ("16777215", ""), ("0x2000", "")],
        refused: NO_LENGTH,
        only_normal: false,
        offer: "262144",
        taken: &["512", "16777215"],
        too_much: NO_LENGTH,
    },
    Row {
        clause: "13.13",
        name: "MaxBurstLength",
        answered: &[("512", "512"), ("262144", "262144"), ("16777215", "262144")],
        refused: NO_LENGTH,
        only_normal: true,
        offer: "262144",
        taken: &["512", "262144", "0x200"],
        too_much: &["262145", "511"],
    },
    Row {
        clause: "13.14",
        name: "FirstBurstLength",
        answered: &[("512", "512"), ("65536", "65536"), ("16777215", "65536")],
        refused: NO_LENGTH,
        only_normal: true,
        offer: "65536",
        taken: &["512", "65536", "Irrelevant"],
        too_much: &["65537", "511"],
    },
    Row {
        clause: "13.15",
        name: "DefaultTime2Wait",
        // The longer one holds.
        answered: &[("0", "2"), ("2", "2"), ("3600", "3600")],
        refused: &["3601", "-1", "soon"],
        only_normal: false,
        offer: "2",
        taken: &["2", "3600"],
        too_much: &["1", "3601"],
    },
    Row {
        clause: "13.16",
        name: "DefaultTime2Retain",
        // The shorter one holds.
        answered: &[("0", "0"), ("20", "20"), ("3600", "20")],
        refused: &["3601", "-1"],
        only_normal: false,
        offer: "20",
        taken: &["0", "20"],
        too_much: &["21", "3601"],
    },
    Row {
        clause: "13.17",
        name: "MaxOutstandingR2T",
        answered: &[("1", "1"), ("65535", "1")],
        refused: &["0", "65536"],
        only_normal: true,
        offer: "1",
        taken: &["1"],
        too_much: &["2", "0"],
    },
    Row {
        clause: "13.18",
        name: "DataPDUInOrder",
        answered: &[("Yes", "Yes"), ("No", "Yes")],
        refused: NO_BOOLEAN,
        only_normal: true,
        offer: "Yes",
        taken: &["Yes"],
        too_much: &["No", "maybe"],
    },
    Row {
        clause: "13.19",
        name: "DataSequenceInOrder",
        answered: &[("Yes", "Yes"), ("No", "Yes")],
        refused: NO_BOOLEAN,
        only_normal: true,
        offer: "Yes",
        taken: &["Yes"],
        too_much: &["No", "maybe"],
    },
    Row {
        clause: "13.20",
        name: "ErrorRecoveryLevel",
        answered: &[("0", "0"), ("1", "0"), ("2", "0")],
        refused: &["3", "-1"],
        only_normal: false,
        offer: "0",
        taken: &["0"],
        too_much: &["1", "2"],
    },
    Row {
        clause: "13.23",
        name: "TaskReporting",
        answered: &[
            ("RFC3720", "RFC3720"),
            ("FastAbort,ResponseFence,RFC3720", "RFC3720"),
            ("FastAbort", "Reject"),
        ],
        refused: &[],
        only_normal: true,
        offer: "",
        taken: &[],
        too_much: &[],
    },
    Row {
        clause: "13.24",
        name: "iSCSIProtocolLevel",
        answered: &[("0", "0"), ("1", "1"), ("2", "1"), ("31", "1")],
        refused: &["32", "-1"],
        only_normal: true,
        offer: "",
        taken: &[],
        too_much: &[],
    },
    // Dropped by RFC 7143; a responder may still say No, and Irrelevant.
    Row {
        clause: "13.25",
        name: "IFMarker",
        answered: &[("Yes", "No"), ("No", "No")],
        refused: NO_BOOLEAN,
        only_normal: false,
        offer: "",
        taken: &[],
        too_much: &[],
    },
    Row {
        clause: "13.25",
        name: "OFMarker",
        answered: &[("Yes", "No"), ("No", "No")],
        refused: NO_BOOLEAN,
        only_normal: false,
        offer: "",
        taken: &[],
        too_much: &[],
    },
    Row {
        clause: "13.25",
        name: "IFMarkInt",
        answered: &[("1~2048", "Reject")],
        refused: &[],
        only_normal: false,
        offer: "",
        taken: &[],
        too_much: &[],
    },
    Row {
        clause: "13.25",
        name: "OFMarkInt",
        answered: &[("1~2048", "Reject")],
        refused: &[],
        only_normal: false,
        offer: "",
        taken: &[],
        too_much: &[],
    },
    // Private ones (13.22), and any other that nobody knows (6.2).
    Row {
        clause: "13.22",
        name: "X-com.example.colour",
        answered: &[("blue", "NotUnderstood"), ("", "NotUnderstood")],
        refused: &[],
        only_normal: false,
        offer: "",
        taken: &[],
        too_much: &[],
    },
];

fn reply(discovery: bool, name: &str, value: &str) -> Result<String, Failed> {
    let mut reply = Vec::new();
    let mut answers = Answers::new(Offers::lan(), discovery);
    answers.answer(name, value, &mut reply)?;
    answers.finish(&mut reply);
    Ok(String::from_utf8(reply).unwrap())
}

#[test]
fn every_key_has_a_row() {
    for (name, _) in Key::ALL {
        assert_eq!(
            ROWS.iter().filter(|row| row.name == name).count(),
            1,
            "{name}"
        );
    }
}

#[test]
fn a_target_answers_each_key_by_its_rule() {
    for row in ROWS {
        let Row { clause, name, .. } = row;
        let said = |answer: &str| {
            if answer.is_empty() {
                String::new()
            } else {
                format!("{name}={answer}\0")
            }
        };
        for (value, answer) in row.answered {
            let case = format!("{clause} {name}={value}");
            assert_eq!(reply(false, name, value), Ok(said(answer)), "{case}");
            let answer = if row.only_normal {
                "Irrelevant"
            } else {
                answer
            };
            assert_eq!(
                reply(true, name, value),
                Ok(said(answer)),
                "{case} in discovery"
            );
        }
        for value in row.refused {
            assert_eq!(
                reply(false, name, value),
                Err(Failed),
                "{clause} {name}={value}"
            );
        }
    }
}

#[test]
fn an_initiator_offers_and_takes_each_key_by_its_rule() {
    for row in ROWS {
        let Row { clause, name, .. } = row;
        let proposal = |discovery| {
            let mut proposal = Proposal::new(Offers::lan(), discovery);
            let mut request = Vec::new();
            proposal.offer(&mut request);
            let offered = text::pairs(&request)
                .map(Result::unwrap)
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.to_owned());
            (proposal, offered.unwrap_or_default())
        };
        let (_, offered) = proposal(false);
        assert_eq!(offered, row.offer, "{clause} {name}");
        let (_, offered) = proposal(true);
        let offer = if row.only_normal { "" } else { row.offer };
        assert_eq!(offered, offer, "{clause} {name} in discovery");
        for value in row.taken {
            let mut said = Vec::new();
            let (mut proposal, _) = proposal(false);
            let case = format!("{clause} {name}={value}");
            assert_eq!(proposal.take(name, value, &mut said), Ok(()), "{case}");
            assert!(said.is_empty(), "{case}: an answer is not answered");
        }
        for value in row.too_much {
            let (mut proposal, _) = proposal(false);
            let taken = proposal.take(name, value, &mut Vec::new());
            assert_eq!(taken, Err(Failed), "{clause} {name}={value}");
        }
    }
}

//! Text keys in any form: into a target that is logged in to, into an initiator
//! that is answered, and through both sides with offers of any kind, which must
//! end with the same parameters.

use sluice_proto::iscsi::chap::{
    Algorithms, Challenges, ChapDemand, ChapLogin, ChapName, Credential, Demand, Secret,
};
use sluice_proto::iscsi::{
    DigestPolicy, InitiatorConfig, InitiatorConn, InitiatorEvent, IscsiName, Offers, Parameters,
    TargetConfig, TargetConn, TargetEvent,
};
use sluice_sim::site::{Pdu, op};

use crate::source::Source;
use crate::wire::{Framer, seal};

/// Stays within what 13.12 to 13.14 allow.
const LEN_MIN: u32 = 512;
const LEN_MAX: u32 = (1 << 24) - 1;
const NO_DIGESTS: (bool, bool) = (false, false);
/// More than either side allows.
const ROUNDS_MAX: usize = 24;
/// What is seldom guessed right, and needed to get any further; the input adds
/// its own pairs before and after.
const NAMES: &str = "InitiatorName=iqn.2004-03.example.computer:a\0SessionType=Normal\0\
    TargetName=iqn.2004-03.example.storage:vol0\0";

pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    match source.below(4) {
        0 => into_target(source),
        1 => into_initiator(source),
        2 => into_discovery(source),
        _ => both_sides(source),
    }
}

/// Keys that mean something, and values that one of them takes.
const KEYS: [&str; 32] = [
    "HeaderDigest",
    "DataDigest",
    "MaxConnections",
    "InitialR2T",
    "ImmediateData",
    "MaxRecvDataSegmentLength",
    "MaxBurstLength",
    "FirstBurstLength",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "MaxOutstandingR2T",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "ErrorRecoveryLevel",
    "iSCSIProtocolLevel",
    "TaskReporting",
    "OFMarker",
    "IFMarkInt",
    "AuthMethod",
    "CHAP_A",
    "CHAP_I",
    "CHAP_C",
    "CHAP_N",
    "CHAP_R",
    "InitiatorName",
    "InitiatorAlias",
    "TargetName",
    "SessionType",
    "SendTargets",
    "TargetPortalGroupTag",
    "TargetAddress",
    "X-com.example.key",
];
const VALUES: [&str; 24] = [
    "Yes",
    "No",
    "None",
    "CRC32C",
    "None,CRC32C",
    "CRC32C,None",
    "0",
    "1",
    "2",
    "511",
    "512",
    "8192",
    "65536",
    "262144",
    "16777215",
    "16777216",
    "4294967296",
    "0x200",
    "CHAP",
    "CHAP,None",
    "5,6,7",
    "computer",
    "All",
    "NotUnderstood",
];

/// Pairs from the tables, and bytes between them.
fn text(source: &mut Source<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..source.below(12) {
        match source.byte() {
            at @ 0..192 => {
                let value = match source.byte() {
                    at @ 0..192 => VALUES[usize::from(at) % VALUES.len()].to_owned(),
                    192..224 => source.word().to_string(),
                    len => format!("0x{}", "5a".repeat(usize::from(len - 223))),
                };
                let key = KEYS[usize::from(at) % KEYS.len()];
                text.extend_from_slice(format!("{key}={value}\0").as_bytes());
            }
            len => text.extend_from_slice(source.bytes(usize::from(len - 192))),
        }
    }
    text
}

fn offers(source: &mut Source<'_>) -> Offers {
    let [digests, flags] = source.array();
    let policy = |bits: u8| match bits & 3 {
        0 => DigestPolicy::Never,
        1 => DigestPolicy::Allowed,
        2 => DigestPolicy::Preferred,
        _ => DigestPolicy::Required,
    };
    let mut len = || source.len().clamp(LEN_MIN, LEN_MAX);
    let (segment, burst, first) = (len(), len(), len());
    Offers {
        header_digest: policy(digests),
        data_digest: policy(digests >> 2),
        max_recv_data_segment_length: segment,
        max_burst_length: burst,
        first_burst_length: first.min(burst),
        immediate_data: flags & 1 != 0,
        initial_r2t: flags & 2 != 0,
        max_outstanding_r2t: 1 + u16::from(flags >> 4),
        default_time2wait_s: u16::from(digests >> 4),
        default_time2retain_s: u16::from(flags >> 2),
    }
}

/// What was agreed on is legal, and nothing that this side refuses.
fn check(parameters: &Parameters, offers: &Offers) {
    for len in [
        parameters.max_recv_data_segment_length,
        parameters.peer_max_recv_data_segment_length,
        parameters.max_burst_length,
        parameters.first_burst_length,
    ] {
        assert!((LEN_MIN..=LEN_MAX).contains(&len), "{parameters:?}");
    }
    assert!(parameters.first_burst_length <= parameters.max_burst_length);
    assert!(parameters.max_outstanding_r2t >= 1);
    for (digest, policy) in [
        (parameters.header_digest, offers.header_digest),
        (parameters.data_digest, offers.data_digest),
    ] {
        assert!(
            !(digest && policy == DigestPolicy::Never),
            "a digest never wanted"
        );
        assert!(
            digest || policy != DigestPolicy::Required,
            "a digest that must be"
        );
    }
}

fn credential(name: &str, secret: &[u8]) -> Credential {
    Credential {
        name: ChapName::from(name).expect("a short name"),
        secret: Secret::new(secret).expect("96 bits at least"),
    }
}

fn name(name: &str) -> IscsiName {
    IscsiName::from(name).expect("a short name")
}

fn target_config(offers: Offers, authenticates: bool) -> TargetConfig {
    TargetConfig {
        offers,
        max_tasks: 4,
        max_data_items: 4,
        target_portal_group_tag: 1,
        authenticates,
    }
}

/// What the target's caller does while somebody logs in.
fn serve(conn: &mut TargetConn, offers: &Offers, input: &[u8]) -> bool {
    let (mut used, mut logged_in) = (0, false);
    loop {
        let (taken, event) = conn.receive(&input[used..]);
        used += taken;
        let mut next = event;
        if let Some(TargetEvent::Authenticate) = next {
            next = conn.authenticate(Demand::Chap(ChapDemand {
                algorithms: Algorithms::default(),
                challenge: Challenges::new([3; 32]).draw(),
                initiator: Some(credential("computer", b"the computer's secret")),
                target: Some(credential("storage", b"the storage's secret")),
            }));
        }
        match next {
            Some(TargetEvent::Login) => conn.accept_login(7),
            Some(TargetEvent::LoggedIn) => {
                check(conn.parameters(), offers);
                logged_in = true;
            }
            Some(TargetEvent::SendTargets) => {
                let address = "198.18.0.1:3260".parse().expect("an address");
                conn.send_targets(std::iter::once(("iqn.2004-03.example:a", address, 1)));
            }
            Some(_) => {}
            None if event.is_none() && taken == 0 => return logged_in,
            None => {}
        }
    }
}

/// The stream that a connection sends; every answer is one a peer can read.
fn sent(conn: &mut TargetConn, framer: &mut Framer) -> Vec<Pdu> {
    let mut out = [0; 4096];
    let mut pdus = Vec::new();
    loop {
        let len = conn.transmit(&mut out, |_, _, _| unreachable!("no read data"));
        framer.push(&out[..len]);
        while let Some(pdu) = framer.next() {
            if pdu.opcode() == 0x23 && pdu.header[36] == 0 && pdu.header[1] & 0x83 == 0x83 {
                let parameters = conn.parameters();
                framer.digests = (parameters.header_digest, parameters.data_digest);
            }
            pdus.push(pdu);
        }
        if len == 0 {
            assert!(framer.is_empty(), "ends between PDUs");
            return pdus;
        }
    }
}

/// A request of the input's, and what comes back: pairs, whole, and short enough.
fn into_target(mut source: Source<'_>) {
    let flags = source.byte();
    let offers = offers(&mut source);
    let mut conn = TargetConn::new(target_config(offers, flags & 1 != 0));
    let mut framer = Framer::default();
    let mut first = true;
    let mut cmd_sn = 1;
    while !source.is_empty() {
        let [stages, shape] = source.array();
        let mut pairs = Vec::new();
        if first && shape & 1 == 0 {
            pairs.extend_from_slice(NAMES.as_bytes());
        }
        first = false;
        pairs.extend_from_slice(&text(&mut source));
        let (opcode, bits) = if conn.is_logged_in() {
            (op::TEXT, if shape & 4 == 0 { 0x80 } else { 0x40 })
        } else {
            // From security or operational stage, to any.
            let bits = [0x87, 0x81, 0x83, 0x00, 0x04, 0x40, 0x44, 0x01][usize::from(stages & 7)];
            (
                op::LOGIN | op::IMMEDIATE,
                if shape & 0xe0 == 0xe0 { stages } else { bits },
            )
        };
        let pdu = Pdu::new(opcode, bits, 0)
            .at(8, &[0x80, 0, 0, 0, 0, 1])
            .word(24, cmd_sn)
            .data(&pairs);
        let pdu = if conn.is_logged_in() {
            cmd_sn += 1;
            pdu.at(8, &[0; 8]).word(20, u32::MAX)
        } else {
            pdu
        };
        let digests = if conn.is_logged_in() {
            framer.digests
        } else {
            NO_DIGESTS
        };
        serve(&mut conn, &offers, &seal(&pdu, digests));
        for answer in sent(&mut conn, &mut framer) {
            if matches!(answer.opcode(), 0x23 | 0x24) && !answer.data.is_empty() {
                let last = answer.data.last();
                let whole = answer.header[1] & 0x40 != 0 || last == Some(&0);
                assert!(whole, "text ends with its last pair");
                assert!(answer.data.len() <= 8192 || conn.is_logged_in());
            }
        }
    }
}

/// What the initiator says next, if anything.
fn asked(conn: &mut InitiatorConn, framer: &mut Framer) -> Vec<Pdu> {
    let mut out = [0; 4096];
    let mut pdus = Vec::new();
    loop {
        let len = conn.transmit(&mut out, |_, _, _| unreachable!("no write data"));
        framer.push(&out[..len]);
        while let Some(pdu) = framer.next() {
            pdus.push(pdu);
        }
        if len == 0 {
            return pdus;
        }
    }
}

/// Whether the login ended well, if it ended.
fn answer(conn: &mut InitiatorConn, offers: &Offers, input: &[u8]) -> Option<bool> {
    let (mut used, mut ended) = (0, None);
    loop {
        let (taken, event) = conn.receive(&input[used..]);
        used += taken;
        match event {
            Some(InitiatorEvent::LoggedIn) => {
                check(conn.parameters(), offers);
                ended = Some(true);
            }
            Some(InitiatorEvent::LoginFailed(_) | InitiatorEvent::Violation(_)) => {
                ended = Some(false);
            }
            Some(_) => {}
            None if taken == 0 => return ended,
            None => {}
        }
    }
}

fn chap() -> ChapLogin {
    ChapLogin {
        algorithms: Algorithms::default(),
        initiator: credential("computer", b"the computer's secret"),
        target: Some(credential("storage", b"the storage's secret")),
        challenge: Challenges::new([9; 32]).draw(),
    }
}

fn initiator(offers: Offers, with_chap: bool, discovery: bool) -> InitiatorConn {
    InitiatorConn::new(InitiatorConfig {
        initiator_name: name("iqn.2004-03.example.computer:a"),
        target_name: (!discovery).then(|| name("iqn.2004-03.example.storage:vol0")),
        isid: [0x80, 0, 0, 0, 0, 1],
        offers,
        chap: with_chap.then(chap),
        max_tasks: 4,
    })
}

fn into_initiator(mut source: Source<'_>) {
    let flags = source.byte();
    let offers = offers(&mut source);
    let mut conn = initiator(offers, flags & 1 != 0, false);
    let mut framer = Framer::default();
    while !source.is_empty() {
        let requests = asked(&mut conn, &mut framer);
        if conn.is_finished() {
            return;
        }
        let Some(request) = requests.last() else {
            return;
        };
        let [stages] = source.array();
        let pairs = text(&mut source);
        let granted = request.header[1] & [0x8f, 0x0c, 0x4c, 0x8f][usize::from(stages & 3)];
        let pdu = Pdu::new(0x23, granted, request.itt())
            .at(8, &request.header[8..14])
            .at(14, &[0, 7])
            .data(&pairs);
        if answer(&mut conn, &offers, &seal(&pdu, NO_DIGESTS)).is_some() {
            return;
        }
    }
}

/// A discovery session, and an answer to SendTargets in the input's words.
fn into_discovery(mut source: Source<'_>) {
    let offers = offers(&mut source);
    let mut conn = initiator(offers, false, true);
    let mut framer = Framer::default();
    let request = asked(&mut conn, &mut framer).pop().expect("a login");
    let pdu = Pdu::new(0x23, 0x87, request.itt())
        .at(8, &request.header[8..14])
        .at(14, &[0, 7]);
    if answer(&mut conn, &offers, &seal(&pdu, NO_DIGESTS)) != Some(true) {
        // It insists on digests, which this target does not speak of.
        return;
    }
    let parameters = *conn.parameters();
    let digests = (parameters.header_digest, parameters.data_digest);
    framer.digests = digests;
    conn.send_targets();
    while let Some(request) = asked(&mut conn, &mut framer).pop() {
        let last = source.byte() & 1 == 0 || source.is_empty();
        let len = usize::from(source.half()) % 8192;
        let pdu = Pdu::new(0x24, if last { 0x80 } else { 0x40 }, request.itt())
            .word(20, if last { u32::MAX } else { 5 })
            .data(source.bytes(len));
        answer(&mut conn, &offers, &seal(&pdu, digests));
        let listed = conn.targets().count();
        assert!(listed <= 256 * 1024, "no more than the text has");
        if last {
            return;
        }
    }
}

/// Two of our own: they agree, or a digest is wanted by one and refused by the other.
fn both_sides(mut source: Source<'_>) {
    let flags = source.byte();
    let (ours, theirs) = (offers(&mut source), offers(&mut source));
    let with_chap = flags & 1 != 0;
    let mut initiator = initiator(ours, with_chap, flags & 2 != 0);
    let mut target = TargetConn::new(target_config(theirs, with_chap));
    let (mut requests, mut answers) = (Framer::default(), Framer::default());
    let (mut ended, mut welcomed) = (None, false);
    for _ in 0..ROUNDS_MAX {
        for request in asked(&mut initiator, &mut requests) {
            welcomed |= serve(&mut target, &theirs, &seal(&request, NO_DIGESTS));
        }
        for response in sent(&mut target, &mut answers) {
            ended = ended.or(answer(&mut initiator, &ours, &seal(&response, NO_DIGESTS)));
        }
        if ended.is_some() {
            break;
        }
    }
    let clash = |a: DigestPolicy, b: DigestPolicy| {
        (a == DigestPolicy::Never && b == DigestPolicy::Required)
            || (a == DigestPolicy::Required && b == DigestPolicy::Never)
    };
    let cannot = clash(ours.header_digest, theirs.header_digest)
        || clash(ours.data_digest, theirs.data_digest);
    assert_eq!(ended, Some(!cannot), "the login ends, as it must");
    if !cannot {
        assert!(welcomed);
        let (a, b) = (*initiator.parameters(), *target.parameters());
        let mirrored = Parameters {
            max_recv_data_segment_length: b.peer_max_recv_data_segment_length,
            peer_max_recv_data_segment_length: b.max_recv_data_segment_length,
            ..b
        };
        assert_eq!(a, mirrored, "both sides end with the same");
    }
}

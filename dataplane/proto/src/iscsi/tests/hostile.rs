//! Bytes that no peer should send: whatever comes, the connection does not
//! panic, and what is wrong ends in a violation and a Reject with its reason.

use super::login::{pdu, split};
use super::pair::{Pair, Random, initiator_config, target_config};
use crate::iscsi::violation::reason;
use crate::iscsi::wire::{
    Bhs, DataIn, DataOut, LoginRequestPdu, NopIn, NopOut, Numbering, Opcode, R2t, RESERVED_TAG,
    Reject, Residual, ScsiCommand, ScsiResponse, Stage, TaskAttribute,
};
use crate::iscsi::{
    DigestPolicy, Direction, InitiatorConn, InitiatorEvent, Offers, TargetConn, TargetEvent,
    TaskFunctionResponse, Violation,
};
use crate::scsi::ScsiStatus;
use proptest::prelude::*;

/// Input to a target whose caller answers everything.
fn drive(target: &mut TargetConn, input: &[u8]) -> Option<Violation> {
    let mut used = 0;
    let mut violation = None;
    let mut out = [0; 4096];
    for _ in 0..100_000 {
        let (taken, event) = target.receive(&input[used..]);
        used += taken;
        match event {
            Some(TargetEvent::Login) => target.accept_login(1),
            Some(TargetEvent::SendTargets) => target.send_targets([]),
            Some(TargetEvent::Command(command)) if command.write => target.grant(command.task),
            Some(TargetEvent::Command(command)) => {
                target.respond(command.task, ScsiStatus::GOOD, &[], 0);
            }
            Some(TargetEvent::WriteComplete { task }) => {
                target.respond(task, ScsiStatus::GOOD, &[], 0);
            }
            Some(TargetEvent::DataFault { task }) => {
                target.respond(task, ScsiStatus::CHECK_CONDITION, &[0; 18], 0);
            }
            Some(TargetEvent::TaskManagement { tag, ref_task, .. }) => {
                if let Some(task) = ref_task {
                    target.abort(task);
                }
                target.answer_task_management(tag, TaskFunctionResponse::Complete);
            }
            Some(TargetEvent::Violation(found)) => violation = Some(found),
            Some(_) => {}
            None => {
                let idle = taken == 0 && target.transmit(&mut out, |_, _, slot| slot.fill(0)) == 0;
                if idle {
                    return violation;
                }
            }
        }
    }
    panic!("the connection neither ends nor moves");
}

fn logged_in() -> TargetConn {
    let pair = Pair::logged_in(Offers::lan(), Offers::lan(), 1, 1000);
    pair.target
}

/// The next CmdSN after `logged_in`.
const CMD_SN: u32 = 1;

const WRITE: ScsiCommand = ScsiCommand {
    immediate: false,
    is_final: true,
    read: false,
    write: true,
    attribute: TaskAttribute::Simple,
    lun: 0,
    itt: 5,
    expected_len: 100_000,
    cmd_sn: CMD_SN,
    exp_stat_sn: 0,
    cdb: [0x2a; 16],
};

const DATA_OUT: DataOut = DataOut {
    is_final: true,
    lun: 0,
    itt: 5,
    ttt: RESERVED_TAG,
    exp_stat_sn: 0,
    data_sn: 0,
    buffer_offset: 0,
};

/// The violation that the PDUs end in, and the reason of the Reject.
fn rejected(pdus: &[Vec<u8>]) -> (Option<Violation>, Option<u8>) {
    let mut target = logged_in();
    let input = pdus.concat();
    let (mut used, mut violation) = (0, None);
    let mut sent = Vec::new();
    let mut out = [0; 4096];
    while violation.is_none() {
        let (taken, event) = target.receive(&input[used..]);
        used += taken;
        match event {
            Some(TargetEvent::Command(command)) if command.write => target.grant(command.task),
            Some(TargetEvent::Violation(found)) => violation = Some(found),
            None if taken == 0 => {
                let len = target.transmit(&mut out, |_, _, _| {});
                sent.extend_from_slice(&out[..len]);
                if len == 0 {
                    break;
                }
            }
            _ => {}
        }
    }
    let len = target.transmit(&mut out, |_, _, _| {});
    sent.extend_from_slice(&out[..len]);
    let reason = split(&sent)
        .iter()
        .find(|(bhs, _)| bhs.opcode() == Ok(Opcode::Reject))
        .map(|(bhs, _)| Reject::parse(bhs).reason);
    assert_eq!(target.is_finished(), violation.is_some());
    (violation, reason)
}

#[test]
fn each_breach_has_its_reason() {
    let with = |violation, reason| (Some(violation), Some(reason));
    let command = |command: ScsiCommand| pdu(command.emit(), &[]);
    let data_out = |data: DataOut, len: usize| pdu(data.emit(), &vec![1; len]);
    let unsolicited = ScsiCommand {
        is_final: false,
        ..WRITE
    };
    let mut oversize = WRITE.emit();
    oversize.set_data_len(262_145);
    let mut long_ahs = WRITE.emit();
    long_ahs.0[4] = 255;
    let mut bad_ahs = WRITE.emit();
    bad_ahs.0[4] = 1;
    let mut opcode = Bhs::new(Opcode::NopOut);
    opcode.0[0] = 0x1c;
    let protocol = reason::PROTOCOL_ERROR;
    let field = reason::INVALID_FIELD;
    for (what, pdus, expected) in [
        (
            "unknown opcode",
            vec![pdu(opcode, &[])],
            with(Violation::Opcode, reason::COMMAND_NOT_SUPPORTED),
        ),
        (
            "a response",
            vec![pdu(Bhs::new(Opcode::ScsiResponse), &[])],
            with(Violation::Opcode, reason::COMMAND_NOT_SUPPORTED),
        ),
        (
            "login again",
            vec![pdu(Bhs::new(Opcode::LoginRequest), &[])],
            with(Violation::Phase, protocol),
        ),
        (
            "too much data",
            vec![oversize.0.to_vec()],
            with(Violation::DataTooLong, field),
        ),
        (
            "too many AHS",
            vec![long_ahs.0.to_vec()],
            with(Violation::AhsTooLong, field),
        ),
        (
            "bad AHS",
            vec![pdu(bad_ahs, &[]), vec![0, 9, 1, 0]],
            with(Violation::Field, field),
        ),
        (
            "reserved tag",
            vec![command(ScsiCommand {
                itt: RESERVED_TAG,
                ..WRITE
            })],
            with(Violation::Field, field),
        ),
        (
            "unsolicited read",
            vec![command(ScsiCommand {
                is_final: false,
                write: false,
                read: true,
                ..WRITE
            })],
            with(Violation::Field, field),
        ),
        (
            "CmdSN gap",
            vec![command(ScsiCommand {
                cmd_sn: CMD_SN + 1,
                ..WRITE
            })],
            with(Violation::CmdSnGap, protocol),
        ),
        (
            "tag in use",
            vec![
                command(WRITE),
                command(ScsiCommand {
                    cmd_sn: CMD_SN + 1,
                    ..WRITE
                }),
            ],
            with(Violation::DuplicateTag, reason::TASK_IN_PROGRESS),
        ),
        (
            "data not announced",
            vec![command(WRITE), data_out(DATA_OUT, 10)],
            with(Violation::TransferTag, protocol),
        ),
        (
            "R2T not sent",
            vec![command(WRITE), data_out(DataOut { ttt: 1, ..DATA_OUT }, 10)],
            with(Violation::TransferTag, protocol),
        ),
        (
            "beyond first burst",
            vec![command(unsolicited), data_out(DATA_OUT, 65_540)],
            with(Violation::Offset, field),
        ),
        (
            "wrong offset",
            vec![
                command(unsolicited),
                data_out(
                    DataOut {
                        buffer_offset: 4,
                        ..DATA_OUT
                    },
                    4,
                ),
            ],
            with(Violation::Offset, field),
        ),
        (
            "wrong DataSN",
            vec![
                command(unsolicited),
                data_out(
                    DataOut {
                        data_sn: u32::MAX,
                        ..DATA_OUT
                    },
                    4,
                ),
            ],
            with(Violation::DataSn, protocol),
        ),
        (
            "more immediate data than expected",
            vec![pdu(
                ScsiCommand {
                    expected_len: 2,
                    ..WRITE
                }
                .emit(),
                &[0; 3],
            )],
            with(Violation::Offset, field),
        ),
        (
            "outside the window: ignored",
            vec![command(ScsiCommand {
                cmd_sn: CMD_SN + 8,
                ..WRITE
            })],
            (None, None),
        ),
        (
            "late data: ignored",
            vec![data_out(
                DataOut {
                    itt: 99,
                    ..DATA_OUT
                },
                40,
            )],
            (None, None),
        ),
        (
            "SNACK: declined",
            vec![pdu(Bhs::new(Opcode::Snack), &[])],
            (None, Some(reason::SNACK)),
        ),
    ] {
        assert_eq!(rejected(&pdus), expected, "{what}");
    }
}

#[test]
fn solicited_data_must_be_what_was_asked_for() {
    for (what, is_final, len, expected) in [
        ("ends early", true, 5000, Some(Violation::BurstLength)),
        ("never ends", false, 100_000, Some(Violation::BurstLength)),
        ("too long", true, 100_004, Some(Violation::Offset)),
        ("right", true, 100_000, None),
    ] {
        let mut target = logged_in();
        let input = pdu(WRITE.emit(), &[]);
        assert!(drive(&mut target, &input).is_none());
        // The R2T of task slot 0 has tag 0.
        let data = DataOut {
            ttt: 0,
            is_final,
            ..DATA_OUT
        };
        let input = pdu(data.emit(), &vec![7; len]);
        assert_eq!(drive(&mut target, &input), expected, "{what}");
    }
}

/// Its CmdSN counts as never received, and at level 0 nobody sends it again (RFC 7143 7.3, 7.8).
#[test]
fn a_command_with_damaged_immediate_data_ends_the_session() {
    let digests = Offers {
        data_digest: DigestPolicy::Required,
        header_digest: DigestPolicy::Never,
        ..Offers::lan()
    };
    for answered in [false, true] {
        let mut target = Pair::logged_in(digests, digests, 1, 1000).target;
        let command = ScsiCommand {
            expected_len: 512,
            ..WRITE
        };
        let mut input = pdu(command.emit(), &[7; 512]);
        input.extend_from_slice(&[0; 4]);
        let (used, event) = target.receive(&input);
        let Some(TargetEvent::Command(command)) = event else {
            panic!("{event:?}");
        };
        if answered {
            target.respond(command.task, ScsiStatus::BUSY, &[], 0);
        }
        let violation = Some(TargetEvent::Violation(Violation::DataDigest));
        let mut rest = &input[used..];
        let ended = loop {
            match target.receive(rest) {
                (taken, Some(TargetEvent::Data { .. })) => rest = &rest[taken..],
                (_, event) => break event,
            }
        };
        assert_eq!(ended, violation);
        let mut out = [0; 4096];
        let len = target.transmit(&mut out, |_, _, _| {});
        let sent = split(&out[..len]);
        assert_eq!(sent.len(), 1);
        assert_eq!(Reject::parse(&sent[0].0).reason, reason::DATA_DIGEST);
        assert!(target.is_finished());
    }
}

#[test]
fn a_flood_of_pings_waits_for_its_answers() {
    let mut target = logged_in();
    let ping = NopOut {
        immediate: true,
        lun: 0,
        itt: 6,
        ttt: RESERVED_TAG,
        cmd_sn: CMD_SN,
        exp_stat_sn: 0,
    };
    let flood = pdu(ping.emit(), &[]).repeat(1000);
    let (used, event) = target.receive(&flood);
    assert_eq!(event, None);
    assert_eq!(used, 48 * 16, "as many as may wait");
    assert_eq!(target.receive(&flood[used..]), (0, None));
    let mut out = vec![0; 48 * 3];
    assert_eq!(target.transmit(&mut out, |_, _, _| {}), out.len());
    assert_eq!(target.receive(&flood[used..]).0, 48 * 3);

    let mut target = logged_in();
    let input = pdu(ping.emit(), &[9; 10_000]);
    drive(&mut target, &input);
    let (used, _) = target.receive(&input);
    assert_eq!(used, input.len());
    let mut out = vec![0; 20_000];
    let len = target.transmit(&mut out, |_, _, _| {});
    assert_eq!(
        split(&out[..len])[0].1,
        vec![9; 4096],
        "the echo is bounded"
    );
}

fn numbered(mut bhs: Bhs, stat_sn: u32) -> Bhs {
    let numbering = bhs.numbering();
    bhs.set_numbering(Numbering {
        stat_sn,
        ..numbering
    });
    bhs
}

#[test]
fn a_storage_that_breaks_the_rules() {
    let response = ScsiResponse {
        response: 0,
        status: 0,
        itt: 1 << 16,
        exp_data_sn: 0,
        residual: Residual::None,
        bidirectional_read_residual: Residual::None,
    };
    let data_in = DataIn {
        is_final: true,
        status: None,
        lun: 0,
        itt: 1 << 16,
        ttt: RESERVED_TAG,
        data_sn: 0,
        buffer_offset: 0,
        residual: Residual::None,
    };
    let r2t = R2t {
        lun: 0,
        itt: 1 << 16,
        ttt: 1,
        r2t_sn: 0,
        buffer_offset: 65_536,
        desired_len: 1000,
    };
    let (read, write) = (Direction::In(100), Direction::Out(100_000));
    let none = Vec::new;
    for (what, direction, bhs, data, expected) in [
        (
            "no such task",
            read,
            ScsiResponse { itt: 7, ..response }.emit(),
            none(),
            Violation::UnknownTask,
        ),
        (
            "data for a write",
            write,
            data_in.emit(),
            vec![0; 4],
            Violation::UnknownTask,
        ),
        (
            "data beyond the end",
            read,
            data_in.emit(),
            vec![0; 101],
            Violation::Offset,
        ),
        (
            "data with a gap",
            read,
            DataIn {
                buffer_offset: 4,
                ..data_in
            }
            .emit(),
            vec![0; 4],
            Violation::Offset,
        ),
        (
            "DataSN",
            read,
            DataIn {
                data_sn: 1,
                ..data_in
            }
            .emit(),
            vec![0; 4],
            Violation::DataSn,
        ),
        (
            "R2T for a read",
            read,
            r2t.emit(),
            none(),
            Violation::Offset,
        ),
        (
            "R2T beyond the end",
            write,
            R2t {
                desired_len: 40_000,
                ..r2t
            }
            .emit(),
            none(),
            Violation::Offset,
        ),
        (
            "R2T again",
            write,
            R2t {
                buffer_offset: 0,
                ..r2t
            }
            .emit(),
            none(),
            Violation::Offset,
        ),
        (
            "R2T for nothing",
            write,
            R2t {
                desired_len: 0,
                ..r2t
            }
            .emit(),
            none(),
            Violation::Field,
        ),
        (
            "R2T too long",
            write,
            R2t {
                desired_len: 300_000,
                ..r2t
            }
            .emit(),
            none(),
            Violation::BurstLength,
        ),
        (
            "R2TSN",
            write,
            R2t { r2t_sn: 3, ..r2t }.emit(),
            none(),
            Violation::DataSn,
        ),
        (
            "a request",
            read,
            Bhs::new(Opcode::NopOut),
            none(),
            Violation::Opcode,
        ),
        (
            "a status lost before this one",
            read,
            numbered(response.emit(), 1000),
            none(),
            Violation::StatSnGap,
        ),
        (
            "an answer to a ping of nobody's",
            read,
            NopIn {
                lun: 0,
                itt: 7,
                ttt: RESERVED_TAG,
            }
            .emit(),
            none(),
            Violation::UnknownTask,
        ),
        (
            "an answer to a logout of nobody's",
            read,
            Bhs::new(Opcode::LogoutResponse),
            none(),
            Violation::UnknownTask,
        ),
        (
            "text nobody asked for",
            read,
            Bhs::new(Opcode::TextResponse),
            none(),
            Violation::UnknownTask,
        ),
        (
            "task management nobody asked for",
            read,
            Bhs::new(Opcode::TaskManagementResponse),
            none(),
            Violation::UnknownTask,
        ),
        (
            "reject",
            read,
            Reject { reason: 9 }.emit(),
            none(),
            Violation::Rejected(9),
        ),
    ] {
        let mut pair = Pair::logged_in(Offers::lan(), Offers::lan(), 1, 1000);
        assert!(pair.submit(1, 0, 0, 0, direction));
        let mut out = vec![0; 200_000];
        pair.initiator.transmit(&mut out, |_, _, slot| slot.fill(0));
        let bytes = pdu(bhs, &data);
        let mut rest = &bytes[..];
        let event = loop {
            let (used, event) = pair.initiator.receive(rest);
            rest = &rest[used..];
            match event {
                Some(InitiatorEvent::DataIn { .. }) => {}
                Some(event) => break Some(event),
                None if used == 0 => break None,
                None => {}
            }
        };
        assert_eq!(event, Some(InitiatorEvent::Violation(expected)), "{what}");
        assert!(pair.initiator.is_finished());
    }
}

/// An exchange is under way, and the answer is to another one.
#[test]
fn text_with_a_tag_that_was_not_asked_by() {
    let mut pair = Pair::logged_in(Offers::lan(), Offers::lan(), 1, 1000);
    pair.initiator.send_targets();
    pair.initiator.transmit(&mut [0; 4096], |_, _, _| {});
    let mut bhs = Bhs::new(Opcode::TextResponse);
    bhs.0[1] = 0x80;
    bhs.0[16..20].copy_from_slice(&7_u32.to_be_bytes());
    bhs.0[20..24].copy_from_slice(&RESERVED_TAG.to_be_bytes());
    let bytes = pdu(bhs, &[]);
    let (_, event) = pair.initiator.receive(&bytes);
    assert_eq!(
        event,
        Some(InitiatorEvent::Violation(Violation::UnknownTask))
    );
}

/// A PDU of any kind: a real header with some bytes drawn anew.
fn mutated(random: &mut Random) -> Vec<u8> {
    let opcodes = [
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26,
        0x31, 0x32, 0x3f,
    ];
    let mut bhs = WRITE.emit();
    bhs.0[0] = opcodes[random.below(opcodes.len())] | u8::try_from(random.below(2) * 0x40).unwrap();
    bhs.0[1] = u8::try_from(random.below(256)).unwrap();
    for (at, values) in [(16, 3), (20, 4), (24, 2), (36, 3), (40, 3)] {
        let value = match random.below(values) {
            0 => RESERVED_TAG,
            other => u32::try_from(other).unwrap(),
        };
        bhs.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    for _ in 0..random.below(4) {
        bhs.0[random.below(48)] = u8::try_from(random.below(256)).unwrap();
    }
    bhs.0[4] = 0;
    let len = random.below(300);
    pdu(bhs, &vec![b'='; len])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        drive(&mut TargetConn::new(target_config(Offers::lan())), &bytes);
        drive(&mut logged_in(), &bytes);
        let mut initiator = InitiatorConn::new(initiator_config(Offers::lan()));
        initiator.transmit(&mut [0; 4096], |_, _, _| {});
        let mut used = 0;
        while used < bytes.len() {
            used += initiator.receive(&bytes[used..]).0;
        }
    }

}

proptest! {
    // Each case is 400 PDUs.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_pdus_never_panic(seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let mut target = logged_in();
        let mut pair = Pair::logged_in(Offers::lan(), Offers::lan(), seed, 1000);
        for token in 0..8 {
            let data = if token % 2 == 0 { Direction::Out(70_000) } else { Direction::In(400) };
            pair.submit(token, 0, 0, 0, data);
        }
        pair.initiator.ping();
        pair.initiator.reset_lun(0).unwrap();
        let mut out = vec![0; 100_000];
        for _ in 0..200 {
            drive(&mut target, &mutated(&mut random));
            let bytes = mutated(&mut random);
            let (mut used, mut still) = (0, 0);
            while still < 2 {
                let (taken, event) = pair.initiator.receive(&bytes[used..]);
                used += taken;
                let moved = taken > 0 || event.is_some();
                still = if moved { 0 } else { still + 1 };
                let len = random.below(10_000);
                pair.initiator.transmit(&mut out[..len], |_, _, slot| slot.fill(1));
            }
            if target.is_finished() {
                target = logged_in();
            }
        }
    }

    #[test]
    fn garbage_keys_never_panic(text in proptest::collection::vec(any::<u8>(), 0..600), next in any::<bool>()) {
        let request = LoginRequestPdu {
            stage: Stage::Security,
            next: next.then_some(Stage::Operational),
            continues: false,
            version_max: 0,
            version_min: 0,
            isid: [0; 6],
            tsih: 0,
            itt: 1,
            cid: 0,
            cmd_sn: 0,
            exp_stat_sn: 0,
        };
        let mut target = TargetConn::new(target_config(Offers::lan()));
        let names = b"InitiatorName=a\0TargetName=b\0";
        drive(&mut target, &pdu(request.emit(), &[names, &text[..]].concat()));
    }
}

//! Commands that fail before all their write data has come, and the functions that meet
//! them (RFC 7143 7.8, 11.4.2, 11.5.1).

use super::login::{pdu, split};
use super::pair::Pair;
use crate::iscsi::wire::{
    Bhs, DataOut, Opcode, RESERVED_TAG, ScsiCommand, TaskAttribute, TaskFunction,
    TaskManagementRequest,
};
use crate::iscsi::{Offers, TargetConn, TargetEvent, TaskFunctionResponse, TaskId};
use crate::scsi::ScsiStatus;

const ITT: u32 = 5;
const LUN: u64 = 1 << 48;
const LEN: u32 = 2048;
/// More than the command's own segment, and unsolicited.
const WRITE: ScsiCommand = ScsiCommand {
    immediate: false,
    is_final: false,
    read: false,
    write: true,
    attribute: TaskAttribute::Simple,
    lun: LUN,
    itt: ITT,
    expected_len: LEN,
    cmd_sn: 1,
    exp_stat_sn: 0,
    cdb: [0x2a; 16],
};

fn data_out(data_sn: u32) -> Vec<u8> {
    let half = LEN / 2;
    let data = DataOut {
        is_final: data_sn == 1,
        lun: LUN,
        itt: ITT,
        ttt: RESERVED_TAG,
        exp_stat_sn: 0,
        data_sn,
        buffer_offset: data_sn * half,
    };
    pdu(data.emit(), &vec![7; half as usize])
}

fn function(function: TaskFunction, itt: u32, ref_task_tag: u32) -> Vec<u8> {
    let request = TaskManagementRequest {
        immediate: true,
        function,
        lun: LUN,
        itt,
        ref_task_tag,
        cmd_sn: 2,
        exp_stat_sn: 0,
        ref_cmd_sn: 1,
        exp_data_sn: 0,
    };
    pdu(request.emit(), &[])
}

/// Takes all of it; the last event that is not data.
fn take(target: &mut TargetConn, mut input: &[u8]) -> Option<TargetEvent<'static>> {
    let mut last = None;
    loop {
        let (taken, event) = target.receive(input);
        input = &input[taken..];
        match event {
            Some(TargetEvent::Data { .. }) => {}
            Some(TargetEvent::Command(command)) => last = Some(TargetEvent::Command(command)),
            Some(TargetEvent::TaskManagement {
                tag,
                function,
                lun,
                ref_task,
            }) => {
                last = Some(TargetEvent::TaskManagement {
                    tag,
                    function,
                    lun,
                    ref_task,
                });
            }
            Some(other) => panic!("{other:?}"),
            None if taken == 0 || input.is_empty() => return last,
            None => {}
        }
    }
}

fn sent(target: &mut TargetConn) -> Vec<Bhs> {
    let mut out = [0; 4096];
    let len = target.transmit(&mut out, |_, _, _| {});
    split(&out[..len]).into_iter().map(|(bhs, _)| bhs).collect()
}

fn opcodes(target: &mut TargetConn) -> Vec<Opcode> {
    sent(target)
        .iter()
        .map(|bhs| bhs.opcode().unwrap())
        .collect()
}

/// A write answered so with the first half of its data here.
fn answered(status: ScsiStatus) -> TargetConn {
    let offers = Offers {
        initial_r2t: false,
        ..Offers::lan()
    };
    let mut target = Pair::logged_in(offers, offers, 1, 1000).target;
    let event = take(&mut target, &pdu(WRITE.emit(), &[]));
    let Some(TargetEvent::Command(command)) = event else {
        panic!("{event:?}");
    };
    assert_eq!(take(&mut target, &data_out(0)), None);
    let sense: &[u8] = match status {
        ScsiStatus::CHECK_CONDITION => &[0x70; 18],
        _ => &[],
    };
    target.respond(command.task, status, sense, 0);
    target
}

#[test]
fn an_error_is_told_when_the_last_data_that_was_announced_has_come() {
    let mut target = answered(ScsiStatus::CHECK_CONDITION);
    assert_eq!(opcodes(&mut target), []);
    assert_eq!(take(&mut target, &data_out(1)), None);
    assert_eq!(opcodes(&mut target), [Opcode::ScsiResponse]);
    // Try it again later: that is no error, and swallows what still comes.
    let mut target = answered(ScsiStatus::BUSY);
    assert_eq!(opcodes(&mut target), [Opcode::ScsiResponse]);
    assert_eq!(take(&mut target, &data_out(1)), None);
    assert_eq!(opcodes(&mut target), []);
}

/// Nothing of it comes after the function's own response, and its tag is free again.
#[test]
fn a_function_ends_a_failed_task_that_waits_for_its_data() {
    for kind in [
        TaskFunction::AbortTask,
        TaskFunction::AbortTaskSet,
        TaskFunction::LunReset,
        TaskFunction::TargetWarmReset,
    ] {
        let mut target = answered(ScsiStatus::CHECK_CONDITION);
        let event = take(&mut target, &function(kind, 9, ITT));
        if kind == TaskFunction::AbortTask {
            assert_eq!(event, None, "answered at once");
        } else {
            assert!(matches!(
                event,
                Some(TargetEvent::TaskManagement { ref_task: None, .. })
            ));
            target.answer_task_management(9, TaskFunctionResponse::Complete);
        }
        let told = sent(&mut target);
        assert_eq!(told.len(), 1, "{kind:?}");
        assert_eq!(told[0].opcode(), Ok(Opcode::TaskManagementResponse));
        assert_eq!(told[0].0[2], 0, "{kind:?}: complete");
        assert_eq!(take(&mut target, &data_out(1)), None);
        assert_eq!(opcodes(&mut target), [], "{kind:?}");
        let again = ScsiCommand { cmd_sn: 2, ..WRITE };
        let event = take(&mut target, &pdu(again.emit(), &[]));
        assert!(matches!(event, Some(TargetEvent::Command(command)) if command.task == TaskId(0)));
    }
}

#[test]
fn no_function_aborts_another() {
    let mut target = answered(ScsiStatus::BUSY);
    sent(&mut target);
    assert!(
        take(
            &mut target,
            &function(TaskFunction::LunReset, 9, RESERVED_TAG)
        )
        .is_some()
    );
    for (itt, other) in [(10, 9), (11, 11)] {
        assert_eq!(
            take(&mut target, &function(TaskFunction::AbortTask, itt, other)),
            None
        );
        let told = sent(&mut target);
        assert_eq!((told.len(), told[0].0[2]), (1, 255));
    }
}

/// RFC 7143 4.2.2.4: R2Ts and Data-In PDUs of one command are counted together; ExpDataSN
/// is of the latter alone (11.4.8).
#[test]
fn a_bidirectional_command_has_one_sequence() {
    let mut target = Pair::logged_in(Offers::lan(), Offers::lan(), 1, 1000).target;
    let command = ScsiCommand {
        is_final: true,
        read: true,
        ..WRITE
    };
    // Additional header segment: bidirectional read data length, 512 bytes.
    let mut bytes = pdu(command.emit(), &[]);
    bytes[4] = 2;
    bytes.extend([0, 5, 2, 0, 0, 0, 2, 0]);
    let Some(TargetEvent::Command(command)) = take(&mut target, &bytes) else {
        panic!("no command");
    };
    assert_eq!(command.bidirectional_read_len, 512);
    target.grant(command.task);
    let r2t = sent(&mut target);
    let word = |bhs: &Bhs, at: usize| u32::from_be_bytes(bhs.0[at..at + 4].try_into().unwrap());
    assert_eq!((r2t[0].opcode(), word(&r2t[0], 36)), (Ok(Opcode::R2t), 0));
    let ttt = word(&r2t[0], 20);
    target.data_in(command.task, 77, 0, 0, 512).unwrap();
    let data_in = sent(&mut target);
    assert_eq!(
        (data_in[0].opcode(), word(&data_in[0], 36)),
        (Ok(Opcode::DataIn), 1)
    );
    let data = DataOut {
        is_final: true,
        lun: LUN,
        itt: ITT,
        ttt,
        exp_stat_sn: 0,
        data_sn: 0,
        buffer_offset: 0,
    };
    let (_, event) = {
        let input = pdu(data.emit(), &[7; LEN as usize]);
        let (taken, _) = target.receive(&input);
        let (_, event) = target.receive(&input[taken..]);
        (
            taken,
            event.map(|event| matches!(event, TargetEvent::WriteComplete { .. })),
        )
    };
    assert_eq!(event, Some(true));
    target.respond(command.task, ScsiStatus::GOOD, &[], LEN);
    let response = sent(&mut target);
    assert_eq!(
        (response[0].opcode(), word(&response[0], 36)),
        (Ok(Opcode::ScsiResponse), 1)
    );
}

/// RFC 7143 4.2.3.3: what other computers' functions have ended is told before the unit
/// attention that tells of them, though the one waits for its data to go out.
#[test]
fn a_unit_attention_comes_after_the_data_that_was_queued_before() {
    for (sense_key, order) in [
        (
            0x06,
            [Opcode::DataIn, Opcode::ScsiResponse, Opcode::ScsiResponse],
        ),
        (
            0x03,
            [Opcode::ScsiResponse, Opcode::DataIn, Opcode::ScsiResponse],
        ),
    ] {
        let mut target = Pair::logged_in(Offers::lan(), Offers::lan(), 1, 1000).target;
        let mut command = |itt: u32| {
            let command = ScsiCommand {
                is_final: true,
                read: true,
                write: false,
                itt,
                cmd_sn: itt - 4,
                expected_len: 512,
                ..WRITE
            };
            let event = take(&mut target, &pdu(command.emit(), &[]));
            match event {
                Some(TargetEvent::Command(command)) => command.task,
                _ => panic!("{event:?}"),
            }
        };
        let (ended, next) = (command(5), command(6));
        target.data_in(ended, 77, 0, 0, 256).unwrap();
        target.respond(ended, ScsiStatus::TASK_ABORTED, &[], 0);
        let mut sense = [0; 18];
        (sense[0], sense[2]) = (0x70, sense_key);
        target.respond(next, ScsiStatus::CHECK_CONDITION, &sense, 0);
        let told = sent(&mut target);
        let opcodes: Vec<_> = told.iter().map(|bhs| bhs.opcode().unwrap()).collect();
        assert_eq!(opcodes, order);
        let last = if sense_key == 0x06 { 6 } else { 5 };
        assert_eq!(told[2].itt(), last);
    }
}

/// One that has sent all of it, and leaves out the F bit, is not waited for.
#[test]
fn an_error_waits_for_data_and_not_for_its_last_bit() {
    let offers = Offers {
        initial_r2t: false,
        ..Offers::lan()
    };
    let mut target = Pair::logged_in(offers, offers, 1, 1000).target;
    let short = ScsiCommand {
        expected_len: LEN / 2,
        ..WRITE
    };
    let event = take(&mut target, &pdu(short.emit(), &[]));
    let Some(TargetEvent::Command(command)) = event else {
        panic!("{event:?}");
    };
    let input = data_out(0);
    let (taken, _) = target.receive(&input);
    target.receive(&input[taken..]);
    target.respond(command.task, ScsiStatus::CHECK_CONDITION, &[0x70; 18], 0);
    assert_eq!(opcodes(&mut target), [Opcode::ScsiResponse]);
}

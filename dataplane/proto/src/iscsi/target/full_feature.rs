//! What comes in: from a PDU's header, data and end to events.
//!
//! What always holds: whatever RFC 7143 lets a target check is checked here,
//! before the caller hears of it. Not for: what goes out, see `answer` and
//! `transmit`.

use super::task::{DataOutStep, TaskId};
use super::transmit::Control;
use super::{CommandEvent, Phase, TargetConn, TargetEvent};
use crate::iscsi::outbound::INLINE_LEN;
use crate::iscsi::violation::reason;
use crate::iscsi::wire::{
    AhsSegments, Bhs, DataOut, LoginRequestPdu, LogoutRequest, NopOut, Opcode, RESERVED_TAG,
    ScsiCommand, TaskFunction, TaskFunctionResponse, TaskManagementRequest, TextRequest,
};
use crate::iscsi::{Violation, serial};
use crate::scsi::same_lun;

/// What the PDU that is coming in is, from its header to its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Current {
    /// Its data, if any, is dropped.
    Ignored,
    Login(LoginRequestPdu),
    NopOut(NopOut),
    Text(TextRequest),
    TaskManagement(TaskManagementRequest),
    Logout(LogoutRequest),
    /// A command with or without immediate data.
    Command {
        task: TaskId,
        itt: u32,
    },
    DataOut {
        task: TaskId,
        itt: u32,
        solicited: bool,
        is_final: bool,
    },
}

type Step<'a> = Result<Option<TargetEvent<'a>>, Violation>;

impl TargetConn {
    pub(super) fn header_arrived(&mut self) -> Step<'static> {
        self.current = Current::Ignored;
        let bhs = self.inbound.bhs();
        let opcode = bhs.opcode()?;
        if self.phase == Phase::Login {
            // 6.3: nothing but Login Requests before full feature phase.
            if opcode != Opcode::LoginRequest {
                return Err(Violation::Phase);
            }
            return match self.login_header(&bhs)? {
                Some(pdu) => {
                    self.current = Current::Login(pdu);
                    Ok(None)
                }
                None => Ok(Some(TargetEvent::Violation(Violation::Negotiation))),
            };
        }
        match opcode {
            Opcode::ScsiCommand => return self.command(&bhs),
            Opcode::DataOut if self.login.request.discovery => return Err(Violation::Phase),
            Opcode::DataOut => self.data_out(&bhs)?,
            Opcode::NopOut => {
                let pdu = NopOut::parse(&bhs)?;
                // A NOP-Out that answers or only acknowledges is immediate.
                if self.take_cmd_sn(pdu.immediate, pdu.cmd_sn)? {
                    self.current = Current::NopOut(pdu);
                }
            }
            Opcode::TextRequest => {
                let pdu = TextRequest::parse(&bhs)?;
                if self.take_cmd_sn(pdu.immediate, pdu.cmd_sn)? {
                    self.text.begin(&pdu)?;
                    self.current = Current::Text(pdu);
                }
            }
            Opcode::TaskManagementRequest => {
                let pdu = TaskManagementRequest::parse(&bhs)?;
                if self.take_cmd_sn(pdu.immediate, pdu.cmd_sn)? {
                    self.current = Current::TaskManagement(pdu);
                }
            }
            Opcode::LogoutRequest => {
                let pdu = LogoutRequest::parse(&bhs)?;
                // 4.3: a discovery session is ended as one.
                if self.login.request.discovery && pdu.reason != 0 {
                    return Err(Violation::Phase);
                }
                if self.take_cmd_sn(pdu.immediate, pdu.cmd_sn)? {
                    self.current = Current::Logout(pdu);
                }
            }
            Opcode::Snack => {
                // 11.16: needs an error recovery level above 0.
                self.counters.snacks_declined += 1;
                self.queue_reject(reason::SNACK, bhs);
            }
            Opcode::LoginRequest => return Err(Violation::Phase),
            _ => return Err(Violation::Opcode),
        }
        Ok(None)
    }

    pub(super) fn data_arrived<'a>(&mut self, bytes: &'a [u8]) -> Step<'a> {
        match self.current {
            Current::Login(_) => Ok(self.login_data(bytes)),
            Current::NopOut(pdu) if pdu.itt != RESERVED_TAG => {
                let peer_len_max = self.parameters.peer_max_recv_data_segment_length as usize;
                let room = INLINE_LEN.min(peer_len_max) - self.ping_data.len();
                // 11.18: the echo is no longer than the initiator can take;
                // here, nor than one buffer.
                self.ping_data
                    .extend_from_slice(&bytes[..room.min(bytes.len())]);
                Ok(None)
            }
            Current::Text(_) => {
                self.text.append(bytes)?;
                Ok(None)
            }
            Current::Command { task: id, itt } | Current::DataOut { task: id, itt, .. } => {
                let task = self.tasks.get(id).filter(|task| task.itt == itt);
                let Some(task) = task else { return Ok(None) };
                let offset = task.received;
                task.received += u32::try_from(bytes.len()).expect("24-bit length");
                Ok(task.collects().then_some(TargetEvent::Data {
                    task: id,
                    offset,
                    bytes,
                }))
            }
            Current::Ignored
            | Current::NopOut(_)
            | Current::TaskManagement(_)
            | Current::Logout(_) => Ok(None),
        }
    }

    pub(super) fn pdu_arrived(&mut self, intact: bool) -> Step<'static> {
        let current = std::mem::replace(&mut self.current, Current::Ignored);
        let (id, itt, sequence) = match current {
            Current::Command { task, itt } => (task, itt, None),
            Current::DataOut {
                task,
                itt,
                solicited,
                is_final,
            } => (task, itt, Some((solicited, is_final))),
            _ if !intact => return Err(Violation::DataDigest),
            Current::Login(pdu) => return Ok(self.login_arrived(pdu)),
            Current::NopOut(pdu) => return Ok(self.nop_out(&pdu)),
            Current::Text(pdu) => return self.text_arrived(&pdu),
            Current::TaskManagement(pdu) => return self.task_management(&pdu),
            Current::Logout(pdu) => return Ok(self.logout(&pdu)),
            Current::Ignored => return Ok(None),
        };
        let Some(task) = self.tasks.get(id).filter(|task| task.itt == itt) else {
            return Ok(None);
        };
        task.arriving = false;
        if let Some((solicited, is_final)) = sequence {
            task.end_data_out(solicited, is_final);
        }
        if !intact && sequence.is_none() {
            // 7.3, 7.8: a command in pieces counts as never received, nor does its CmdSN. At
            // recovery level 0 nobody sends it again, so that the session ends.
            self.counters.data_digest_errors += 1;
            return Err(Violation::DataDigest);
        }
        let mut event = None;
        if !intact {
            // 7.8: the task ends with a status of the caller's, once all data
            // that was asked for has come.
            if task.collects() {
                event = Some(TargetEvent::DataFault { task: id });
            }
            task.sink = true;
            self.counters.data_digest_errors += 1;
            let bhs = self.inbound.bhs();
            self.queue_reject(reason::DATA_DIGEST, bhs);
        } else if task.collects() && task.received == task.write_len {
            task.write_complete = true;
            event = Some(TargetEvent::WriteComplete { task: id });
        } else {
            self.queue_r2ts(id);
        }
        self.queue_held_response(id);
        Ok(event)
    }

    /// Whether a request is to be taken (4.2.2.1); it counts from then on.
    fn take_cmd_sn(&mut self, immediate: bool, cmd_sn: u32) -> Result<bool, Violation> {
        if immediate {
            return Ok(true);
        }
        let outside =
            serial::after(self.exp_cmd_sn, cmd_sn) || serial::after(cmd_sn, self.max_cmd_sn);
        if outside {
            self.counters.outside_window += 1;
            return Ok(false);
        }
        if cmd_sn != self.exp_cmd_sn {
            return Err(Violation::CmdSnGap);
        }
        self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
        Ok(true)
    }

    fn command(&mut self, bhs: &Bhs) -> Step<'static> {
        let pdu = ScsiCommand::parse(bhs)?;
        let segments = AhsSegments::parse(self.inbound.ahs())?;
        if self.login.request.discovery {
            // 4.3: a discovery session carries text, not commands.
            return Err(Violation::Phase);
        }
        let immediate_len = bhs.data_len();
        let parameters = &self.parameters;
        let (write_len, read_len) = match (pdu.write, pdu.read) {
            (true, true) => (
                pdu.expected_len,
                segments.bidirectional_read_len.unwrap_or(0),
            ),
            (true, false) => (pdu.expected_len, 0),
            (false, true) => (0, pdu.expected_len),
            (false, false) => (0, 0),
        };
        // 13.11 and 13.10: data beside or before an R2T, only as negotiated.
        if (immediate_len > 0 && !parameters.immediate_data)
            || (!pdu.is_final && parameters.initial_r2t)
        {
            return Err(Violation::TransferTag);
        }
        if immediate_len > write_len.min(parameters.first_burst_length) {
            return Err(Violation::Offset);
        }
        let extended_cdb = arrayvec::ArrayVec::try_from(segments.extended_cdb)
            .expect("AhsSegments checks the length");
        if !self.take_cmd_sn(pdu.immediate, pdu.cmd_sn)? {
            return Ok(None);
        }
        // 4.2.5.3: a tag names one task at a time.
        if self.tasks.find(pdu.itt).is_some() {
            return Err(Violation::DuplicateTag);
        }
        let Some(id) = self.tasks.insert(pdu.itt, pdu.immediate) else {
            self.counters.immediate_declined += 1;
            self.queue_reject(reason::TOO_MANY_IMMEDIATE, *bhs);
            return Ok(None);
        };
        let task = self.tasks.get(id).expect("just taken");
        task.lun = pdu.lun;
        task.writes = pdu.write;
        task.write_len = write_len;
        task.read_len = read_len;
        task.arriving = true;
        task.unsolicited_open = !pdu.is_final;
        self.extended_cdb = extended_cdb;
        self.current = Current::Command {
            task: id,
            itt: pdu.itt,
        };
        Ok(Some(TargetEvent::Command(CommandEvent {
            task: id,
            lun: pdu.lun,
            cdb: pdu.cdb,
            attribute: pdu.attribute,
            read: pdu.read,
            write: pdu.write,
            expected_len: pdu.expected_len,
            bidirectional_read_len: if pdu.write { read_len } else { 0 },
            immediate: pdu.immediate,
            cmd_sn: pdu.cmd_sn,
        })))
    }

    fn data_out(&mut self, bhs: &Bhs) -> Result<(), Violation> {
        let pdu = DataOut::parse(bhs)?;
        let solicited = pdu.ttt != RESERVED_TAG;
        let slot = u16::try_from(pdu.ttt >> 16).expect("16 bits");
        #[expect(clippy::cast_possible_truncation, reason = "the low half of the tag")]
        let r2t_sn_low = pdu.ttt as u16;
        let id = if solicited {
            Some(TaskId(slot))
        } else {
            self.tasks.find(pdu.itt)
        };
        let found = id.and_then(|id| Some((id, self.tasks.get(id)?)));
        let Some((id, task)) = found.filter(|(_, task)| task.itt == pdu.itt) else {
            if self.tasks.find(pdu.itt).is_some() {
                return Err(Violation::TransferTag);
            }
            // Data that crossed the response or the abort of its task (10.7).
            self.counters.late_data += 1;
            return Ok(());
        };
        task.check_data_out(
            DataOutStep {
                is_final: pdu.is_final,
                solicited,
                data_sn: pdu.data_sn,
                buffer_offset: pdu.buffer_offset,
                len: bhs.data_len(),
                r2t_sn_low,
            },
            self.parameters.first_burst_length,
            self.parameters.max_burst_length,
        )?;
        self.current = Current::DataOut {
            task: id,
            itt: pdu.itt,
            solicited,
            is_final: pdu.is_final,
        };
        Ok(())
    }

    fn nop_out(&mut self, pdu: &NopOut) -> Option<TargetEvent<'static>> {
        if pdu.itt != RESERVED_TAG {
            self.untasked += 1;
            self.control.push_front(Control::NopIn {
                itt: pdu.itt,
                ttt: RESERVED_TAG,
                lun: pdu.lun,
            });
            return None;
        }
        if pdu.ttt != RESERVED_TAG && self.keep_alive_due == Some(pdu.ttt) {
            self.keep_alive_due = None;
            return Some(TargetEvent::Pong);
        }
        None
    }

    fn task_management(&mut self, pdu: &TaskManagementRequest) -> Step<'static> {
        if self.login.request.discovery {
            return Err(Violation::Phase);
        }
        if self.task_management.contains(&pdu.itt) || self.tasks.find(pdu.itt).is_some() {
            return Err(Violation::DuplicateTag);
        }
        // 7.2.2: nothing is reassigned at recovery level 0.
        let own_answer = match pdu.function {
            TaskFunction::TaskReassign => Some(TaskFunctionResponse::ReassignmentNotSupported),
            TaskFunction::Unknown(_) => Some(TaskFunctionResponse::NotSupported),
            _ if self.task_management.is_full() => Some(TaskFunctionResponse::Rejected),
            // 11.5.1: no function aborts another.
            TaskFunction::AbortTask
                if pdu.ref_task_tag == pdu.itt
                    || self.task_management.contains(&pdu.ref_task_tag) =>
            {
                Some(TaskFunctionResponse::Rejected)
            }
            _ if self.end_held(pdu) => Some(TaskFunctionResponse::Complete),
            _ => None,
        };
        if let Some(response) = own_answer {
            self.queue_task_management_response(pdu.itt, response);
            return Ok(None);
        }
        self.task_management.push(pdu.itt);
        let names_a_task = pdu.function == TaskFunction::AbortTask;
        let ref_task = self
            .tasks
            .find(pdu.ref_task_tag)
            .filter(|_| names_a_task)
            .filter(|id| {
                self.tasks
                    .get(*id)
                    .is_some_and(|task| task.answer.is_none())
            });
        Ok(Some(TargetEvent::TaskManagement {
            tag: pdu.itt,
            function: pdu.function,
            lun: pdu.lun,
            ref_task,
        }))
    }

    /// Ends failed tasks that wait for their data without a response (7.8), which would
    /// come after the function's. True if that was all that was asked for.
    fn end_held(&mut self, pdu: &TaskManagementRequest) -> bool {
        let function = pdu.function;
        let mut ended = false;
        while let Some(task) = self.tasks.first_held(|task| match function {
            TaskFunction::AbortTask => task.itt == pdu.ref_task_tag && same_lun(task.lun, pdu.lun),
            TaskFunction::AbortTaskSet | TaskFunction::ClearTaskSet | TaskFunction::LunReset => {
                same_lun(task.lun, pdu.lun)
            }
            TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset => true,
            _ => false,
        }) {
            self.data.drop_task(task, &self.outbound);
            self.tasks.remove(task);
            ended = true;
        }
        ended && function == TaskFunction::AbortTask
    }

    fn logout(&mut self, pdu: &LogoutRequest) -> Option<TargetEvent<'static>> {
        // 11.15.1: 0 closed, 1 no such connection, 2 no recovery at level 0.
        let response = match pdu.reason {
            2 => 2,
            1 if pdu.cid != self.login.request.cid => 1,
            _ => 0,
        };
        self.queue_untasked(Control::Logout {
            itt: pdu.itt,
            response,
            after: self.data.queued_until(),
        });
        if response != 0 {
            return None;
        }
        self.phase = Phase::Leaving;
        Some(TargetEvent::Logout { reason: pdu.reason })
    }
}

//! What comes in: from a PDU's header, data and end to events.
//!
//! What always holds: whatever RFC 7143 lets an initiator check is checked
//! here, before the caller hears of it; a PDU that ends a task waits while that
//! task's data is still being fetched.

use super::transmit::{Burst, Control, LOGOUT_TAG, PING_TAG, TEXT_TAG};
use super::{CONTROL_MAX, InitiatorConn, InitiatorEvent, Phase, TaskManagement};
use crate::iscsi::inbound::Framed;
use crate::iscsi::wire::{
    AsyncMessage, Bhs, DataIn, LoginResponsePdu, LogoutResponse, NopIn, Opcode, R2t, RESERVED_TAG,
    Reject, Residual, ScsiResponse, TaskFunction, TaskFunctionResponse, TaskManagementResponse,
    TextResponse,
};
use crate::iscsi::{Violation, serial, text};
use crate::scsi::ScsiStatus;

/// Longest answer to SendTargets that is kept, in bytes: 1,000 targets with
/// names as long as they get.
const TARGETS_LEN_MAX: usize = 256 * 1024;

/// What the PDU that is coming in is, from its header to its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Current {
    /// Its data, if any, is dropped.
    Ignored,
    Login(LoginResponsePdu),
    Response(ScsiResponse),
    DataIn(DataIn),
    TaskManagement(TaskManagementResponse),
    Text(TextResponse),
    NopIn(NopIn),
    Async(AsyncMessage),
    Logout(LogoutResponse),
    Reject(Reject),
}

pub(super) type Step<'a> = Result<Option<InitiatorEvent<'a>>, Violation>;

impl InitiatorConn {
    /// Takes bytes of the stream; gives how many, and what they mean. Call it
    /// again with the rest until it takes nothing and says nothing; what is
    /// left then must come again once output has gone out.
    pub fn receive<'a>(&mut self, input: &'a [u8]) -> (usize, Option<InitiatorEvent<'a>>) {
        let mut used = 0;
        loop {
            if self.phase == Phase::Closed {
                return (input.len(), None);
            }
            let event = if let Some(held) = self.held {
                if self.must_hold(held) {
                    return (used, None);
                }
                self.held = None;
                self.pdu_arrived(held)
            } else {
                if self.inbound.at_boundary() && self.control.len() >= CONTROL_MAX {
                    return (used, None);
                }
                match self.inbound.step(&input[used..]) {
                    Ok((taken, step)) => {
                        used += taken;
                        match step {
                            None => return (used, None),
                            Some(Framed::Header) => {
                                self.counters.pdus_received += 1;
                                self.header_arrived().map(|()| None)
                            }
                            Some(Framed::Data(bytes)) => self.data_arrived(bytes),
                            Some(Framed::End { intact: false }) => {
                                self.counters.data_digest_errors += 1;
                                Err(Violation::DataDigest)
                            }
                            Some(Framed::End { intact: true }) => {
                                let current =
                                    std::mem::replace(&mut self.current, Current::Ignored);
                                self.held = Some(current);
                                Ok(None)
                            }
                        }
                    }
                    Err(violation) => Err(violation),
                }
            };
            match event {
                Ok(None) => {}
                Ok(Some(event)) => return (used, Some(event)),
                Err(violation) => {
                    self.counters.violations += 1;
                    self.phase = Phase::Closed;
                    return (used, Some(InitiatorEvent::Violation(violation)));
                }
            }
        }
    }

    /// Whether this PDU ends a task whose data is in the PDU under way.
    fn must_hold(&mut self, current: Current) -> bool {
        let Some(token) = self.outbound.fetching() else {
            return false;
        };
        let itt = match current {
            Current::Response(pdu) => pdu.itt,
            Current::DataIn(pdu) if pdu.status.is_some() => pdu.itt,
            Current::TaskManagement(_) => return true,
            _ => return false,
        };
        self.tasks
            .find(itt)
            .is_some_and(|task| task.command.token == token)
    }

    fn header_arrived(&mut self) -> Result<(), Violation> {
        self.current = Current::Ignored;
        let bhs = self.inbound.bhs();
        let opcode = bhs.opcode()?;
        if self.phase == Phase::Login && !matches!(opcode, Opcode::LoginResponse | Opcode::Reject) {
            return Err(Violation::Phase);
        }
        let mut advances = true;
        self.current = match opcode {
            Opcode::LoginResponse => {
                if self.phase != Phase::Login || self.login.ready {
                    return Err(Violation::Phase);
                }
                let pdu = LoginResponsePdu::parse(&bhs)?;
                self.exp_stat_sn = bhs.numbering().stat_sn;
                Current::Login(pdu)
            }
            Opcode::ScsiResponse => {
                self.sense.clear();
                Current::Response(ScsiResponse::parse(&bhs)?)
            }
            Opcode::DataIn => {
                let pdu = DataIn::parse(&bhs)?;
                advances = pdu.status.is_some();
                let task = self.tasks.find(pdu.itt).ok_or(Violation::UnknownTask)?;
                task.take_data_in(&pdu, bhs.data_len())?;
                if advances {
                    self.sense.clear();
                }
                Current::DataIn(pdu)
            }
            Opcode::R2t => {
                advances = false;
                self.r2t(&R2t::parse(&bhs)?)?;
                Current::Ignored
            }
            Opcode::TaskManagementResponse => {
                Current::TaskManagement(TaskManagementResponse::parse(&bhs)?)
            }
            Opcode::TextResponse => {
                let pdu = TextResponse::parse(&bhs)?;
                if !self.text_due || pdu.itt != TEXT_TAG {
                    return Err(Violation::UnknownTask);
                }
                Current::Text(pdu)
            }
            Opcode::NopIn => {
                let pdu = NopIn::parse(&bhs);
                advances = pdu.itt != RESERVED_TAG;
                if advances && !(pdu.itt == PING_TAG && self.pings_due > 0) {
                    return Err(Violation::UnknownTask);
                }
                Current::NopIn(pdu)
            }
            Opcode::AsyncMessage => {
                self.sense.clear();
                Current::Async(AsyncMessage::parse(&bhs))
            }
            Opcode::LogoutResponse => {
                let pdu = LogoutResponse::parse(&bhs);
                if !self.logout_due || pdu.itt != LOGOUT_TAG {
                    return Err(Violation::UnknownTask);
                }
                Current::Logout(pdu)
            }
            Opcode::Reject => Current::Reject(Reject::parse(&bhs)),
            _ => return Err(Violation::Opcode),
        };
        self.take_numbering(&bhs, advances)
    }

    /// 4.2.2: the numbers in a PDU of the storage. A status that is ahead of its
    /// turn shows that one was lost before it (7.9), and with it what it said: at
    /// recovery level 0 the session ends (7.4).
    fn take_numbering(&mut self, bhs: &Bhs, advances: bool) -> Result<(), Violation> {
        let numbering = bhs.numbering();
        let sane = !serial::after(numbering.exp_cmd_sn.wrapping_sub(1), numbering.max_cmd_sn);
        if sane && serial::after(numbering.max_cmd_sn, self.max_cmd_sn) {
            self.max_cmd_sn = numbering.max_cmd_sn;
        }
        if advances && serial::after(numbering.stat_sn, self.exp_stat_sn) {
            return Err(Violation::StatSnGap);
        }
        if advances && numbering.stat_sn == self.exp_stat_sn {
            self.exp_stat_sn = numbering.stat_sn.wrapping_add(1);
        }
        Ok(())
    }

    fn r2t(&mut self, r2t: &R2t) -> Result<(), Violation> {
        let task = self.tasks.find(r2t.itt).ok_or(Violation::UnknownTask)?;
        let parameters = &self.parameters;
        task.take_r2t(
            r2t,
            parameters.max_burst_length,
            parameters.max_outstanding_r2t,
        )?;
        self.bursts.push_back(Burst {
            itt: r2t.itt,
            ttt: r2t.ttt,
            offset: r2t.buffer_offset,
            end: r2t.buffer_offset + r2t.desired_len,
            data_sn: 0,
        });
        Ok(())
    }

    fn data_arrived<'a>(&mut self, bytes: &'a [u8]) -> Step<'a> {
        match self.current {
            Current::DataIn(pdu) => {
                let task = self.tasks.find(pdu.itt);
                let task = task.expect("checked with the header");
                let offset = task.received;
                task.received += u32::try_from(bytes.len()).expect("24-bit length");
                Ok(Some(InitiatorEvent::DataIn {
                    token: task.command.token,
                    offset,
                    bytes,
                }))
            }
            Current::Response(_) | Current::Async(_) => {
                let room = self.sense.remaining_capacity().min(bytes.len());
                self.sense
                    .try_extend_from_slice(&bytes[..room])
                    .expect("cut to what fits");
                Ok(None)
            }
            Current::Login(_) => {
                text::append(&mut self.login.text, bytes).map_err(|_| Violation::Text)?;
                Ok(None)
            }
            Current::Text(_) => {
                if self.targets.len() + bytes.len() > TARGETS_LEN_MAX {
                    return Err(Violation::Text);
                }
                self.targets.extend_from_slice(bytes);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn pdu_arrived(&mut self, current: Current) -> Step<'static> {
        match current {
            Current::Ignored => Ok(None),
            Current::Login(pdu) => self.login_arrived(&pdu),
            Current::Response(pdu) => self.end_task(
                pdu.itt,
                pdu.response,
                pdu.status,
                (pdu.residual, pdu.bidirectional_read_residual),
            ),
            Current::DataIn(pdu) => match pdu.status {
                Some(status) => self.end_task(pdu.itt, 0, status, (pdu.residual, Residual::None)),
                None => Ok(None),
            },
            Current::TaskManagement(pdu) => self.task_management(&pdu),
            Current::Text(pdu) => {
                if pdu.is_final {
                    self.text_due = false;
                    return Ok(Some(InitiatorEvent::SendTargets));
                }
                let go_on = Some(pdu.ttt);
                self.control.push_back(Control::SendTargets { go_on });
                Ok(None)
            }
            Current::NopIn(pdu) => {
                if pdu.ttt != RESERVED_TAG {
                    let NopIn { lun, ttt, .. } = pdu;
                    self.control.push_back(Control::Pong { lun, ttt });
                }
                let ours = pdu.itt == PING_TAG && self.pings_due > 0;
                self.pings_due -= u8::from(ours);
                Ok(ours.then_some(InitiatorEvent::Pong))
            }
            Current::Async(pdu) => Ok(Some(InitiatorEvent::Async {
                lun: pdu.lun,
                event: pdu.event,
                vendor_code: pdu.vendor_code,
                parameters: pdu.parameters,
            })),
            Current::Logout(pdu) => {
                self.phase = Phase::Closed;
                Ok(Some(InitiatorEvent::LoggedOut {
                    response: pdu.response,
                }))
            }
            Current::Reject(pdu) => Err(Violation::Rejected(pdu.reason)),
        }
    }

    fn end_task(
        &mut self,
        itt: u32,
        response: u8,
        status: u8,
        residuals: (Residual, Residual),
    ) -> Step<'static> {
        self.tasks.find(itt).ok_or(Violation::UnknownTask)?;
        let token = self.forget(itt).ok_or(Violation::UnknownTask)?;
        Ok(Some(InitiatorEvent::Response {
            token,
            response,
            status: ScsiStatus::from_code(status),
            residual: residuals.0,
            read_residual: residuals.1,
        }))
    }

    /// Ends a task, with its data that has not gone out; gives its token.
    fn forget(&mut self, itt: u32) -> Option<u64> {
        let task = self.tasks.remove(itt)?;
        if task.write_len() > 0 {
            self.bursts.retain(|burst| burst.itt != itt);
        }
        Some(task.command.token)
    }

    fn task_management(&mut self, pdu: &TaskManagementResponse) -> Step<'static> {
        let mut functions = self.task_management.iter();
        let sent = |function: &TaskManagement| function.itt == pdu.itt && function.cmd_sn.is_some();
        let at = functions.position(sent).ok_or(Violation::UnknownTask)?;
        let TaskManagement {
            function,
            lun,
            task,
            cmd_sn,
            ..
        } = self.task_management.swap_remove(at);
        let cmd_sn = cmd_sn.expect("it was sent");
        let mut ended = None;
        match (pdu.response, task) {
            // A task that the storage does not know will get no response.
            (
                TaskFunctionResponse::Complete | TaskFunctionResponse::TaskDoesNotExist,
                Some((itt, _)),
            ) => {
                ended = self.forget(itt);
            }
            (TaskFunctionResponse::Complete, None) => {
                let one_lun = function != TaskFunction::TargetWarmReset;
                while let Some(itt) = self.tasks.first(|task| {
                    task.sent
                        && serial::after(cmd_sn, task.cmd_sn)
                        && (!one_lun || task.command.lun == lun)
                }) {
                    self.forget(itt);
                }
            }
            _ => {}
        }
        Ok(Some(InitiatorEvent::TaskManagementResponse {
            function,
            lun,
            token: ended,
            response: pdu.response,
        }))
    }
}

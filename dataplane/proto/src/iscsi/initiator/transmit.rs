//! What an initiator sends, and in which order.
//!
//! Answers to pings go first. Then commands and write data take turns, a PDU
//! each: commands alone would starve the writes that the storage waits for,
//! data alone would leave its window empty. CmdSN is given when a command is
//! begun, so numbers go out in order whatever overtakes (RFC 7143 4.2.2.1);
//! unsolicited data follows the order of its commands (4.2.5.2).

use super::{Direction, InitiatorConn, Phase};
use crate::iscsi::outbound::Payload;
use crate::iscsi::text;
use crate::iscsi::wire::{
    AhsBytes, DataOut, LogoutRequest, NopOut, RESERVED_TAG, ScsiCommand, TaskManagementRequest,
    TextRequest,
};

/// Tags of PDUs that are no SCSI tasks; see `task` for those.
pub(super) const TASK_MANAGEMENT_TAG: u32 = 0x4000_0000;
pub(super) const PING_TAG: u32 = 0x8000_0000;
pub(super) const TEXT_TAG: u32 = 0x8000_0001;
pub(super) const LOGOUT_TAG: u32 = 0x8000_0002;
pub(super) const LOGIN_TAG: u32 = 0x8000_0003;

/// A PDU that carries or follows CmdSN order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    Command(u16),
    TaskManagement { itt: u32 },
    Logout,
}

/// A PDU outside any order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Control {
    Pong {
        lun: u64,
        ttt: u32,
    },
    Ping {
        /// Bytes of data that come back.
        len: u16,
    },
    /// SendTargets, or the request for the rest of its answer.
    SendTargets {
        go_on: Option<u32>,
    },
}

/// A sequence of Data-Out PDUs: unsolicited, or what an R2T asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst {
    pub(super) itt: u32,
    pub(super) ttt: u32,
    /// Bytes from the start of the command's data: next to send, and end.
    pub(super) offset: u32,
    pub(super) end: u32,
    pub(super) data_sn: u32,
}

impl InitiatorConn {
    /// Fills `out` with bytes of the stream; gives how many. `fetch(token,
    /// offset, slot)` fills a slot with write data.
    pub fn transmit(
        &mut self,
        out: &mut [u8],
        mut fetch: impl FnMut(u64, u32, &mut [u8]),
    ) -> usize {
        let mut written = 0;
        while written < out.len() && self.phase != Phase::Closed {
            if self.outbound.is_idle() && !self.begin_next() {
                break;
            }
            written += self.outbound.write(&mut out[written..], &mut fetch);
            self.counters.pdus_sent += u64::from(self.outbound.is_idle());
        }
        written
    }

    /// Whether `transmit` has something to write.
    #[must_use]
    pub fn has_output(&self) -> bool {
        match self.phase {
            Phase::Login => self.login.ready || !self.outbound.is_idle(),
            Phase::FullFeature => {
                !self.outbound.is_idle()
                    || !self.control.is_empty()
                    || !self.queue.is_empty()
                    || !self.bursts.is_empty()
            }
            Phase::Closed => false,
        }
    }

    fn begin_next(&mut self) -> bool {
        if self.phase == Phase::Login {
            let ready = self.login.ready;
            if ready {
                self.begin_login_request();
            }
            return ready;
        }
        if let Some(control) = self.control.pop_front() {
            self.begin_control(control);
            return true;
        }
        self.data_turn = !self.data_turn;
        let begun = if self.data_turn {
            self.begin_data_out()
        } else {
            self.begin_queued()
        };
        begun || self.begin_data_out() || self.begin_queued()
    }

    fn begin_control(&mut self, control: Control) {
        match control {
            Control::Pong { .. } | Control::Ping { .. } => {
                let (lun, itt, ttt) = match control {
                    Control::Pong { lun, ttt } => (lun, RESERVED_TAG, ttt),
                    _ => (0, PING_TAG, RESERVED_TAG),
                };
                let nop_out = NopOut {
                    immediate: true,
                    lun,
                    itt,
                    ttt,
                    cmd_sn: self.cmd_sn,
                    exp_stat_sn: self.exp_stat_sn,
                };
                let data = match control {
                    Control::Ping { len } if len > 0 => {
                        let inline = &mut self.outbound.inline;
                        inline.clear();
                        inline.resize(usize::from(len), 0);
                        Payload::Inline
                    }
                    _ => Payload::None,
                };
                self.outbound.begin(nop_out.emit(), data);
            }
            Control::SendTargets { go_on } => {
                let inline = &mut self.outbound.inline;
                inline.clear();
                if go_on.is_none() {
                    text::push(inline, "SendTargets", "All");
                }
                let request = TextRequest {
                    immediate: true,
                    is_final: true,
                    continues: false,
                    lun: 0,
                    itt: TEXT_TAG,
                    ttt: go_on.unwrap_or(RESERVED_TAG),
                    cmd_sn: self.cmd_sn,
                    exp_stat_sn: self.exp_stat_sn,
                };
                self.outbound.begin(request.emit(), Payload::Inline);
            }
        }
    }

    fn begin_queued(&mut self) -> bool {
        let Some(queued) = self.queue.pop_front() else {
            return false;
        };
        match queued {
            Queued::Command(slot) => {
                self.unsent -= 1;
                self.begin_command(slot);
            }
            Queued::TaskManagement { itt } => self.begin_task_management(itt),
            Queued::Logout => {
                let logout = LogoutRequest {
                    immediate: true,
                    reason: 0,
                    itt: LOGOUT_TAG,
                    cid: 0,
                    cmd_sn: self.cmd_sn,
                    exp_stat_sn: self.exp_stat_sn,
                };
                self.logout_due = true;
                self.outbound.begin(logout.emit(), Payload::None);
            }
        }
        true
    }

    fn begin_command(&mut self, slot: u16) {
        let parameters = &self.parameters;
        let task = self.tasks.slot(slot).expect("queued commands have a slot");
        let command = task.command;
        let expected_len = match command.data {
            Direction::None => 0,
            Direction::In(len) | Direction::Out(len) | Direction::Both { out_len: len, .. } => len,
        };
        let mut ahs = AhsBytes::default();
        if let Some(rest) = &command.cdb_rest {
            ahs.extended_cdb(rest);
        }
        if let Direction::Both { in_len, .. } = command.data {
            ahs.bidirectional_read_len(in_len);
        }
        let write_len = task.write_len();
        let immediate_len = write_len.min(parameters.immediate_max());
        let unasked_len = write_len.min(parameters.unsolicited_max());
        task.sent = true;
        task.cmd_sn = self.cmd_sn;
        task.asked = unasked_len;
        if unasked_len > immediate_len {
            self.bursts.push_back(Burst {
                itt: task.itt,
                ttt: RESERVED_TAG,
                offset: immediate_len,
                end: unasked_len,
                data_sn: 0,
            });
        }
        let pdu = ScsiCommand {
            immediate: false,
            is_final: unasked_len == immediate_len,
            read: command.data.in_len().is_some(),
            write: matches!(command.data, Direction::Out(_) | Direction::Both { .. }),
            attribute: command.attribute,
            lun: command.lun,
            itt: task.itt,
            expected_len,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb: command.cdb,
        };
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        let payload = if immediate_len > 0 {
            Payload::Fetched {
                token: command.token,
                offset: 0,
                len: immediate_len,
            }
        } else {
            Payload::None
        };
        self.outbound
            .begin_with(pdu.emit(), ahs.as_slice(), payload);
    }

    fn begin_task_management(&mut self, itt: u32) {
        let mut functions = self.task_management.iter_mut();
        let function = functions.find(|function| function.itt == itt);
        let function = function.expect("stays until its response");
        function.cmd_sn = Some(self.cmd_sn);
        let (ref_task_tag, ref_cmd_sn) = match function.task {
            // 11.5.5: without its CmdSN, a task that ended is named by one that
            // has certainly passed, so the answer is "does not exist".
            Some((tag, _)) => {
                let ended = self.cmd_sn.wrapping_sub(1);
                (tag, self.tasks.find(tag).map_or(ended, |task| task.cmd_sn))
            }
            None => (RESERVED_TAG, 0),
        };
        let request = TaskManagementRequest {
            immediate: true,
            function: function.function,
            lun: function.lun,
            itt,
            ref_task_tag,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ref_cmd_sn,
            exp_data_sn: 0,
        };
        self.outbound.begin(request.emit(), Payload::None);
    }

    fn begin_data_out(&mut self) -> bool {
        let Some(burst) = self.bursts.front_mut() else {
            return false;
        };
        let task = self.tasks.find(burst.itt).expect("ends with its bursts");
        let left = burst.end - burst.offset;
        let len = left.min(self.parameters.peer_max_recv_data_segment_length);
        let is_final = len == left;
        let pdu = DataOut {
            is_final,
            lun: task.command.lun,
            itt: burst.itt,
            ttt: burst.ttt,
            exp_stat_sn: self.exp_stat_sn,
            data_sn: burst.data_sn,
            buffer_offset: burst.offset,
        };
        let payload = Payload::Fetched {
            token: task.command.token,
            offset: burst.offset,
            len,
        };
        burst.offset += len;
        burst.data_sn += 1;
        if is_final {
            if burst.ttt != RESERVED_TAG {
                task.r2ts_open -= 1;
            }
            self.bursts.pop_front();
        }
        self.outbound.begin(pdu.emit(), payload);
        true
    }
}

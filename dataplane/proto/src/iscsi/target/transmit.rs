//! What a target sends, and in which order.
//!
//! Control PDUs go before read data, because an R2T or a ping that waits costs
//! the peer a round trip; StatSN is given when a PDU is begun, so whatever
//! overtakes, numbers stay in order (RFC 7143 4.2.2.2). A task's response comes
//! after all its data, and a task management or logout response after all data
//! that was queued before it (4.2.3.3).

use super::TargetConn;
use super::task::TaskId;
use crate::iscsi::outbound::{INLINE_LEN, Payload};
use crate::iscsi::serial;
use crate::iscsi::wire::{
    AsyncMessage, Bhs, DataIn, LogoutResponse, NopIn, Numbering, R2t, RESERVED_TAG, Reject,
    ScsiResponse, TaskFunctionResponse, TaskManagementResponse,
};
use crate::scsi::ScsiStatus;

/// A PDU without read data that waits for its turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Control {
    Login,
    Text,
    NopIn {
        itt: u32,
        ttt: u32,
        lun: u64,
    },
    R2t {
        task: TaskId,
        itt: u32,
        r2t_sn: u32,
        offset: u32,
        len: u32,
    },
    Response {
        task: TaskId,
        after: u64,
    },
    TaskManagementResponse {
        itt: u32,
        response: TaskFunctionResponse,
        after: u64,
    },
    Logout {
        itt: u32,
        response: u8,
        after: u64,
    },
    LogoutRequested {
        within_s: u16,
    },
    /// Its sense data stands in the connection.
    ScsiEvent {
        lun: u64,
    },
    /// Of the first header in `rejected`.
    Reject {
        reason: u8,
    },
}

impl TargetConn {
    /// Fills `out` with bytes of the stream; gives how many. `fetch(token,
    /// offset, slot)` fills a slot with read data.
    pub fn transmit(
        &mut self,
        out: &mut [u8],
        mut fetch: impl FnMut(u64, u32, &mut [u8]),
    ) -> usize {
        let mut written = 0;
        while written < out.len() {
            if self.outbound.is_idle() && !self.begin_next() {
                break;
            }
            written += self.outbound.write(&mut out[written..], &mut fetch);
            if self.outbound.is_idle() {
                self.counters.pdus_sent += 1;
                self.data.settle(&self.outbound);
            }
        }
        written
    }

    /// Whether `transmit` has something to write.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.outbound.is_idle() || !self.control.is_empty() || self.data.is_waiting()
    }

    fn begin_next(&mut self) -> bool {
        while let Some(control) = self.control.front().copied() {
            if let Control::TaskManagementResponse { after, .. }
            | Control::Response { after, .. }
            | Control::Logout { after, .. } = control
                && !self.data.begun_until(after)
            {
                break;
            }
            self.control.pop_front();
            if self.begin_control(control) {
                return true;
            }
        }
        self.begin_data_in()
    }

    /// Begins a PDU with the numbers of this moment (4.2.2). `advances` is true
    /// for PDUs that the initiator acknowledges with ExpStatSN.
    pub(super) fn begin(&mut self, mut bhs: Bhs, advances: bool, payload: Payload) {
        let free = self.window.saturating_sub(self.tasks.numbered());
        let max_cmd_sn = self
            .exp_cmd_sn
            .wrapping_add(u32::from(free))
            .wrapping_sub(1);
        // 4.2.2.1: MaxCmdSN never goes back.
        if serial::after(max_cmd_sn, self.max_cmd_sn) {
            self.max_cmd_sn = max_cmd_sn;
        }
        bhs.set_numbering(Numbering {
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn,
        });
        if advances {
            self.stat_sn = self.stat_sn.wrapping_add(1);
        }
        self.outbound.begin(bhs, payload);
    }

    /// Begins a control PDU; false if there is no reason for it any more.
    fn begin_control(&mut self, control: Control) -> bool {
        match control {
            Control::R2t {
                task,
                itt,
                r2t_sn,
                offset,
                len,
            } => return self.begin_r2t(task, itt, r2t_sn, offset, len),
            Control::Response { task, .. } => self.begin_response(task),
            Control::TaskManagementResponse { itt, response, .. } => {
                self.untasked -= 1;
                let response = TaskManagementResponse { itt, response };
                self.begin(response.emit(), true, Payload::None);
            }
            Control::Login => {
                self.untasked -= 1;
                self.begin_login_response();
            }
            Control::Text => {
                self.untasked -= 1;
                self.begin_text_response();
            }
            Control::NopIn { itt, ttt, lun } => {
                self.untasked -= 1;
                let mut payload = Payload::None;
                if itt != RESERVED_TAG && !self.ping_data.is_empty() {
                    std::mem::swap(&mut self.outbound.inline, &mut self.ping_data);
                    self.ping_data.clear();
                    payload = Payload::Inline;
                }
                // An unasked NOP-In shows the next StatSN and uses none (11.19).
                let nop_in = NopIn { lun, itt, ttt };
                self.begin(nop_in.emit(), itt != RESERVED_TAG, payload);
            }
            Control::Logout { itt, response, .. } => {
                self.untasked -= 1;
                let logout = LogoutResponse {
                    response,
                    itt,
                    time2wait_s: self.parameters.default_time2wait_s,
                    time2retain_s: 0,
                };
                self.begin(logout.emit(), true, Payload::None);
                if response == 0 {
                    self.close();
                }
            }
            Control::LogoutRequested { within_s } => {
                self.untasked -= 1;
                // 11.9.1, event 1: Parameter3 is the time to do so.
                let message = AsyncMessage {
                    lun: 0,
                    event: 1,
                    vendor_code: 0,
                    parameters: [0, 0, within_s],
                };
                self.begin(message.emit(), true, Payload::None);
            }
            Control::ScsiEvent { lun } => {
                self.untasked -= 1;
                let message = AsyncMessage {
                    lun,
                    event: 0,
                    vendor_code: 0,
                    parameters: [0; 3],
                };
                let inline = &mut self.outbound.inline;
                inline.clear();
                let len = u16::try_from(self.event_sense.len()).expect("at most SENSE_LEN_MAX");
                inline.extend_from_slice(&len.to_be_bytes());
                inline.extend_from_slice(&self.event_sense);
                self.event_sense.clear();
                self.begin(message.emit(), true, Payload::Inline);
            }
            Control::Reject { reason } => {
                self.untasked -= 1;
                let bhs = self.rejected.pop_front().expect("queued with its header");
                self.outbound.inline.clear();
                self.outbound.inline.extend_from_slice(&bhs.0);
                self.begin(Reject { reason }.emit(), true, Payload::Inline);
            }
        }
        true
    }

    fn begin_r2t(&mut self, id: TaskId, itt: u32, r2t_sn: u32, offset: u32, len: u32) -> bool {
        let task = self.tasks.get(id);
        let Some(task) = task.filter(|task| task.itt == itt && !task.sink) else {
            return false;
        };
        // 4.2.2.4: R2Ts and Data-In PDUs of a command share one sequence; the tag has the
        // number of the R2T itself.
        let shared_sn = task.data_in_sn.wrapping_add(task.r2ts_sent);
        task.r2ts_sent += 1;
        let r2t = R2t {
            lun: task.lun,
            itt,
            ttt: u32::from(id.0) << 16 | (r2t_sn & 0xffff),
            r2t_sn: shared_sn,
            buffer_offset: offset,
            desired_len: len,
        };
        self.begin(r2t.emit(), false, Payload::None);
        true
    }

    fn begin_response(&mut self, id: TaskId) {
        let task = self.tasks.get(id).expect("answered tasks stay until then");
        let answer = task.answer.take().expect("queued with an answer");
        let response = ScsiResponse {
            response: 0,
            status: answer.status.code(),
            itt: task.itt,
            // 11.4.8: of Data-In PDUs alone.
            exp_data_sn: task.data_in_sn,
            residual: answer.residual,
            bidirectional_read_residual: answer.bidirectional_read_residual,
        };
        // 4.6.1.2, 10.2: sense data goes with its status.
        let inline = &mut self.outbound.inline;
        inline.clear();
        let mut payload = Payload::None;
        if !task.sense.is_empty() {
            let len = u16::try_from(task.sense.len()).expect("at most SENSE_LEN_MAX");
            inline.extend_from_slice(&len.to_be_bytes());
            inline.extend_from_slice(&task.sense);
            payload = Payload::Inline;
        }
        // The slot is free before MaxCmdSN is computed: this very PDU offers
        // its place again.
        self.tasks.remove(id);
        self.begin(response.emit(), true, payload);
    }

    fn begin_data_in(&mut self) -> bool {
        let data_len_max = self.parameters.peer_max_recv_data_segment_length;
        let burst_len_max = self.parameters.max_burst_length;
        let Some(item) = self.data.first_waiting() else {
            return false;
        };
        let id = item.task;
        let task = self.tasks.get(id).expect("a task's items leave before it");
        let offset = item.begun;
        let len = (item.len - offset)
            .min(data_len_max)
            .min(burst_len_max - task.burst_sent);
        item.begun += len;
        task.burst_sent += len;
        if item.begun == item.len {
            task.data_in_items -= 1;
        }
        // A sequence may end before MaxBurstLength: it does where no more is
        // queued, so that its last PDU always carries F (11.7.1).
        let dry = task.data_in_items == 0;
        let is_final = dry || task.burst_sent == burst_len_max;
        if is_final {
            task.burst_sent = 0;
        }
        // GOOD without sense rides on the last data (11.7.3); a command that
        // also writes needs a response of its own.
        let answer = task.answer.filter(|_| dry);
        let collapsed = !task.writes
            && task.sense.is_empty()
            && answer.is_some_and(|answer| answer.status == ScsiStatus::GOOD);
        let pdu = DataIn {
            is_final,
            status: collapsed.then_some(ScsiStatus::GOOD.code()),
            lun: 0,
            itt: task.itt,
            ttt: RESERVED_TAG,
            data_sn: task.data_in_sn.wrapping_add(task.r2ts_sent),
            buffer_offset: item.buffer_offset + offset,
            residual: answer.map(|answer| answer.residual).unwrap_or_default(),
        };
        task.data_in_sn = task.data_in_sn.wrapping_add(1);
        let payload = Payload::Fetched {
            token: item.token,
            offset: item.token_offset + offset,
            len,
        };
        if collapsed {
            self.tasks.remove(id);
        } else if task.take_response() {
            // Before any task management response that waits for this data.
            let after = 0;
            self.control
                .push_front(Control::Response { task: id, after });
        }
        self.begin(pdu.emit(), collapsed, payload);
        true
    }

    fn begin_text_response(&mut self) {
        let len_max = usize::try_from(self.parameters.peer_max_recv_data_segment_length)
            .expect("24-bit length")
            .min(INLINE_LEN);
        let inline = &mut self.outbound.inline;
        inline.clear();
        let header = self.text.next_chunk(len_max, inline);
        // 6.2, 6.4: what was negotiated takes effect when all of it is.
        if header.is_final
            && let Some(len_max) = self.text.data_segment_len_max.take()
        {
            self.parameters.peer_max_recv_data_segment_length = len_max;
        }
        self.begin(header.emit(), true, Payload::Inline);
    }
}

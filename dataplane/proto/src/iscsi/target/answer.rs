//! What the caller answers: data wanted, data given, status, abort.
//!
//! What always holds: a call for a task that a closing connection took with it
//! does nothing but give the task and its tokens back, so the caller need not
//! ask first.

use super::data_queue::DataItem;
use super::task::{Answer, Task, TaskId};
use super::transmit::Control;
use super::{DataQueueFull, Phase, TargetConn};
use crate::iscsi::SENSE_LEN_MAX;
use crate::iscsi::wire::{RESERVED_TAG, Residual, TaskFunctionResponse};
use crate::scsi::sense::parse;
use crate::scsi::{ScsiStatus, SenseKey};

impl TargetConn {
    fn task(&mut self, id: TaskId) -> &mut Task {
        let task = self.tasks.get(id).expect("the task has not ended");
        assert!(task.answer.is_none(), "a task is answered once");
        task
    }

    const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// Asks for all write data that is not here yet: R2Ts of MaxBurstLength at
    /// most, MaxOutstandingR2T at a time, after the unsolicited data ended.
    ///
    /// # Panics
    /// If the task has ended.
    pub fn grant(&mut self, task: TaskId) {
        self.task(task).granted = true;
        self.queue_r2ts(task);
    }

    pub(super) fn queue_r2ts(&mut self, id: TaskId) {
        if self.phase != Phase::FullFeature {
            return;
        }
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let burst_len_max = self.parameters.max_burst_length;
        let outstanding_max = self.parameters.max_outstanding_r2t;
        while let Some((r2t_sn, offset, len)) = task.next_r2t(burst_len_max, outstanding_max) {
            self.control.push_back(Control::R2t {
                task: id,
                itt: task.itt,
                r2t_sn,
                offset,
                len,
            });
        }
    }

    /// Hands over `len` bytes of read data: those from `token_offset` of what
    /// `token` means to the caller, at `buffer_offset` of the command's data.
    /// The token comes back from `next_released`.
    ///
    /// # Errors
    /// [`DataQueueFull`] while as many pieces wait as the configuration allows.
    ///
    /// # Panics
    /// If the task has ended, the data leaves a gap, or goes beyond what the
    /// initiator has room for.
    pub fn data_in(
        &mut self,
        task: TaskId,
        token: u64,
        token_offset: u32,
        buffer_offset: u32,
        len: u32,
    ) -> Result<(), DataQueueFull> {
        if self.data.room() == 0 {
            return Err(DataQueueFull);
        }
        let closed = self.is_closed();
        let state = self.task(task);
        assert_eq!(buffer_offset, state.data_in_len, "data in order, no gaps");
        state.data_in_len += len;
        assert!(state.data_in_len <= state.read_len, "no more than expected");
        let len = if closed { 0 } else { len };
        state.data_in_items += u32::from(len > 0);
        let item = DataItem {
            task,
            token,
            token_offset,
            buffer_offset,
            len,
            begun: 0,
        };
        self.data.push(item, &self.outbound);
        Ok(())
    }

    /// Ends a task with a status, after the read data handed over before.
    /// `transferred` is how many bytes the command moved or would have moved
    /// with room enough: the residual follows from it (of a command that reads
    /// and writes, it is the write part). Sense data beyond
    /// [`SENSE_LEN_MAX`] is cut. Write data still on its way is swallowed.
    ///
    /// # Panics
    /// If the task has ended.
    pub fn respond(&mut self, task: TaskId, status: ScsiStatus, sense: &[u8], transferred: u32) {
        if self.is_closed() {
            self.tasks.remove(task);
            return;
        }
        let state = self.task(task);
        let bidirectional = state.writes && state.read_len > 0;
        let expected = if state.writes {
            state.write_len
        } else {
            state.read_len
        };
        state.answer = Some(Answer {
            status,
            residual: Residual::between(expected, transferred),
            bidirectional_read_residual: if bidirectional {
                Residual::between(state.read_len, state.data_in_len)
            } else {
                Residual::None
            },
        });
        let len = sense.len().min(SENSE_LEN_MAX);
        state
            .sense
            .try_extend_from_slice(&sense[..len])
            .expect("cut to what fits");
        state.sink = true;
        if state.take_response() {
            let attention = parse(&state.sense)
                .is_some_and(|received| received.sense.key == SenseKey::UNIT_ATTENTION);
            // 4.2.3.3, 4.2.3.6: one that tells of other computers' functions comes after the responses
            // of what these have ended, which may wait for data that is queued.
            let after = if attention {
                self.data.queued_until()
            } else {
                0
            };
            self.control.push_back(Control::Response { task, after });
        }
    }

    /// Queues the response of a task that had to wait for its data.
    pub(super) fn queue_held_response(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if task.take_response() {
            let after = 0;
            self.control
                .push_back(Control::Response { task: id, after });
        }
    }

    /// Ends a task without a response, as task management asks: data still on
    /// its way is swallowed, read data that waits is dropped and released.
    ///
    /// # Panics
    /// If the task has ended.
    pub fn abort(&mut self, task: TaskId) {
        let _ = self.task(task);
        self.data.drop_task(task, &self.outbound);
        self.tasks.remove(task);
    }

    /// Answers a task management function.
    ///
    /// # Panics
    /// If no function with this `tag` waits for an answer.
    pub fn answer_task_management(&mut self, tag: u32, response: TaskFunctionResponse) {
        let at = self.task_management.iter().position(|itt| *itt == tag);
        let at = at.expect("answers a function that was announced, once");
        self.task_management.swap_remove(at);
        if !self.is_closed() {
            self.queue_task_management_response(tag, response);
        }
    }

    pub(super) fn queue_task_management_response(
        &mut self,
        itt: u32,
        response: TaskFunctionResponse,
    ) {
        // RFC 7143 4.2.2.3: it overtakes nothing that was answered before it. On the
        // one connection of a session that is a place behind what is queued.
        let after = self.data.queued_until();
        self.queue_untasked(Control::TaskManagementResponse {
            itt,
            response,
            after,
        });
    }

    /// How many commands may be outstanding from now on. What MaxCmdSN already
    /// promised stays promised (4.2.2.1): a smaller window takes hold as
    /// commands arrive.
    pub fn set_command_window(&mut self, tasks: u16) {
        self.window = tasks.min(self.config.max_tasks);
    }

    /// Asks whether the initiator is alive (NOP-In with a transfer tag, 11.19);
    /// `Pong` is the answer. Nothing happens while one is under way.
    pub fn ping(&mut self) {
        if self.phase != Phase::FullFeature
            || self.login.response_queued
            || self.keep_alive_due.is_some()
        {
            return;
        }
        self.keep_alives = self.keep_alives.wrapping_add(1) & 0x7fff_ffff;
        self.keep_alive_due = Some(self.keep_alives);
        self.untasked += 1;
        self.control.push_front(Control::NopIn {
            itt: RESERVED_TAG,
            ttt: self.keep_alives,
            lun: 0,
        });
    }

    /// Asks the initiator to log out within `within_s` seconds (11.9.1, event
    /// 1), as before a planned restart. Nothing happens if it was asked before.
    pub fn request_logout(&mut self, within_s: u16) {
        if self.phase != Phase::FullFeature || self.logout_requested {
            return;
        }
        self.logout_requested = true;
        self.queue_untasked(Control::LogoutRequested { within_s });
    }

    /// Tells of a SCSI event of a logical unit, with its sense data (11.9.1, event 0), of
    /// which what is beyond [`SENSE_LEN_MAX`] is cut. False, and nothing is told, while one
    /// waits for room on the stream, and outside of full feature phase.
    pub fn scsi_event(&mut self, lun: u64, sense: &[u8]) -> bool {
        if self.phase != Phase::FullFeature || sense.is_empty() || !self.event_sense.is_empty() {
            return false;
        }
        let len = sense.len().min(SENSE_LEN_MAX);
        self.event_sense.extend(sense[..len].iter().copied());
        self.queue_untasked(Control::ScsiEvent { lun });
        true
    }
}

//! The task table of a target connection: what each outstanding command still
//! waits for, and how far its data has come.
//!
//! What always holds: memory is taken once, in `new`; a free slot's tag is the
//! reserved one, which no command may carry; `received` only grows. Not for:
//! queues and PDUs.

use crate::iscsi::wire::{RESERVED_TAG, Residual};
use crate::iscsi::{SENSE_LEN_MAX, Violation};
use crate::scsi::ScsiStatus;
use arrayvec::ArrayVec;

/// Names an outstanding command: its slot in the task table. Free for the next
/// command as soon as its response goes out or it is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u16);

/// What ends a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) status: ScsiStatus,
    pub(super) residual: Residual,
    pub(super) bidirectional_read_residual: Residual,
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) itt: u32,
    pub(super) lun: u64,
    /// Bytes the initiator will send; 0 if the command does not write.
    pub(super) write_len: u32,
    /// Bytes the initiator has room for; 0 if the command does not read.
    pub(super) read_len: u32,
    pub(super) writes: bool,
    /// It holds none of the places that MaxCmdSN promises.
    immediate: bool,
    /// Write data that is here.
    pub(super) received: u32,
    /// Nobody wants the write data any more: it was answered, or is damaged.
    pub(super) sink: bool,
    /// Its response is among what goes out next.
    response_queued: bool,
    pub(super) write_complete: bool,
    /// The command PDU itself is not over, nor its immediate data.
    pub(super) arriving: bool,
    /// An unsolicited sequence goes on until its F bit.
    pub(super) unsolicited_open: bool,
    pub(super) granted: bool,
    /// Offset of the first R2T.
    solicited_from: u32,
    /// R2Ts queued, sent, and answered with all their data.
    r2ts_queued: u32,
    pub(super) r2ts_sent: u32,
    r2ts_done: u32,
    /// DataSN that the open Data-Out sequence comes to next.
    data_out_sn: u32,
    /// Data-In PDUs begun.
    pub(super) data_in_sn: u32,
    /// Read data handed over by the caller, in bytes, and the items of it that
    /// are not begun whole.
    pub(super) data_in_len: u32,
    pub(super) data_in_items: u32,
    /// Bytes begun of the open Data-In sequence.
    pub(super) burst_sent: u32,
    pub(super) answer: Option<Answer>,
    pub(super) sense: ArrayVec<u8, SENSE_LEN_MAX>,
}

/// A Data-Out PDU, as far as order and bounds are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataOutStep {
    pub(super) is_final: bool,
    pub(super) solicited: bool,
    pub(super) data_sn: u32,
    pub(super) buffer_offset: u32,
    pub(super) len: u32,
    /// Low half of the transfer tag: R2TSN modulo 2^16.
    pub(super) r2t_sn_low: u16,
}

impl Task {
    const fn free() -> Self {
        Self {
            itt: RESERVED_TAG,
            lun: 0,
            write_len: 0,
            read_len: 0,
            writes: false,
            immediate: false,
            received: 0,
            sink: false,
            response_queued: false,
            write_complete: false,
            arriving: false,
            unsolicited_open: false,
            granted: false,
            solicited_from: 0,
            r2ts_queued: 0,
            r2ts_sent: 0,
            r2ts_done: 0,
            data_out_sn: 0,
            data_in_sn: 0,
            data_in_len: 0,
            data_in_items: 0,
            burst_sent: 0,
            answer: None,
            sense: ArrayVec::new_const(),
        }
    }

    /// Whether the caller still waits for write data.
    pub(super) const fn collects(&self) -> bool {
        self.writes && !self.sink && !self.write_complete
    }

    /// Whether data that was asked for or announced is still on its way. Of the whole of
    /// it nobody waits for the F bit.
    pub(super) const fn data_on_its_way(&self) -> bool {
        self.unsolicited_open && self.received < self.write_len || self.r2ts_done < self.r2ts_sent
    }

    /// Whether the response is to be queued now, which it is once: after all read
    /// data, and that of an error after the last write data that was asked for or
    /// announced (11.4.2, 7.8).
    pub(super) fn take_response(&mut self) -> bool {
        let due = !self.response_queued
            && self.data_in_items == 0
            && self.answer.is_some()
            && !self.is_held();
        self.response_queued |= due;
        due
    }

    /// Whether it has failed and waits for the rest of its write data to say so.
    pub(super) fn is_held(&self) -> bool {
        self.answer.is_some_and(|answer| {
            answer.status == ScsiStatus::CHECK_CONDITION && self.data_on_its_way()
        })
    }

    /// The (offset, length) of the R2T with this number.
    fn burst(&self, r2t_sn: u32, max_burst_length: u32) -> Option<(u32, u32)> {
        let skip = r2t_sn.checked_mul(max_burst_length)?;
        let offset = self.solicited_from.checked_add(skip)?;
        let left = self.write_len.checked_sub(offset)?;
        (left > 0).then_some((offset, left.min(max_burst_length)))
    }

    /// The next R2T to queue, if there is data left to ask for and
    /// MaxOutstandingR2T leaves room: (R2TSN, offset, length).
    pub(super) fn next_r2t(
        &mut self,
        max_burst_length: u32,
        max_outstanding: u16,
    ) -> Option<(u32, u32, u32)> {
        if !self.granted || !self.collects() || self.arriving || self.unsolicited_open {
            return None;
        }
        if self.r2ts_queued == 0 {
            self.solicited_from = self.received;
        }
        if self.r2ts_queued - self.r2ts_done >= u32::from(max_outstanding) {
            return None;
        }
        let (offset, len) = self.burst(self.r2ts_queued, max_burst_length)?;
        self.r2ts_queued += 1;
        Some((self.r2ts_queued - 1, offset, len))
    }

    /// Checks a Data-Out header against what this task waits for.
    pub(super) fn check_data_out(
        &self,
        step: DataOutStep,
        first_burst_length: u32,
        max_burst_length: u32,
    ) -> Result<(), Violation> {
        let end = if step.solicited {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the tag holds the low half"
            )]
            let expected = self.r2ts_done as u16;
            if self.r2ts_done >= self.r2ts_sent || step.r2t_sn_low != expected {
                return Err(Violation::TransferTag);
            }
            let (offset, len) = self
                .burst(self.r2ts_done, max_burst_length)
                .expect("this R2T was sent");
            offset + len
        } else {
            if !self.unsolicited_open {
                return Err(Violation::TransferTag);
            }
            self.write_len.min(first_burst_length)
        };
        if step.data_sn != self.data_out_sn {
            return Err(Violation::DataSn);
        }
        if step.buffer_offset != self.received {
            return Err(Violation::Offset);
        }
        let left = end.checked_sub(self.received).ok_or(Violation::Offset)?;
        if step.len > left {
            return Err(Violation::Offset);
        }
        // 11.8.4: solicited data is exactly what the R2T asked for.
        if step.solicited && step.is_final != (step.len == left) {
            return Err(Violation::BurstLength);
        }
        Ok(())
    }

    /// A Data-Out PDU is over; its bytes are counted in `received` already.
    pub(super) const fn end_data_out(&mut self, solicited: bool, is_final: bool) {
        self.data_out_sn = self.data_out_sn.wrapping_add(1);
        if is_final {
            self.data_out_sn = 0;
            if solicited {
                self.r2ts_done += 1;
            } else {
                self.unsolicited_open = false;
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct TaskTable {
    slots: Vec<Task>,
    /// The slots' tags side by side: a search compares eight at a time.
    itts: Vec<u32>,
    free: Vec<u16>,
    numbered: u16,
    immediate: u16,
    immediate_max: u16,
}

impl TaskTable {
    /// Room for `numbered_max` commands within the CmdSN window and
    /// `immediate_max` beside it.
    pub(super) fn new(numbered_max: u16, immediate_max: u16) -> Self {
        let len = numbered_max + immediate_max;
        Self {
            slots: (0..len).map(|_| Task::free()).collect(),
            itts: vec![RESERVED_TAG; usize::from(len).next_multiple_of(8)],
            free: (0..len).rev().collect(),
            numbered: 0,
            immediate: 0,
            immediate_max,
        }
    }

    /// Bytes that a table of so many slots takes.
    pub(super) fn len(slots: usize) -> usize {
        slots * (size_of::<Task>() + size_of::<u32>() + size_of::<u16>())
    }

    /// Commands that hold a place of the CmdSN window.
    pub(super) const fn numbered(&self) -> u16 {
        self.numbered
    }

    /// Takes a slot; none if too many immediate commands are outstanding.
    pub(super) fn insert(&mut self, itt: u32, immediate: bool) -> Option<TaskId> {
        if immediate && self.immediate == self.immediate_max {
            return None;
        }
        let slot = self
            .free
            .pop()
            .expect("MaxCmdSN promises no more than fits");
        if immediate {
            self.immediate += 1;
        } else {
            self.numbered += 1;
        }
        let index = usize::from(slot);
        self.itts[index] = itt;
        let task = &mut self.slots[index];
        task.itt = itt;
        task.immediate = immediate;
        Some(TaskId(slot))
    }

    pub(super) fn remove(&mut self, id: TaskId) {
        let index = usize::from(id.0);
        let task = &mut self.slots[index];
        assert_ne!(task.itt, RESERVED_TAG, "a task ends once");
        if task.immediate {
            self.immediate -= 1;
        } else {
            self.numbered -= 1;
        }
        *task = Task::free();
        self.itts[index] = RESERVED_TAG;
        self.free.push(id.0);
    }

    /// The task with this tag.
    pub(super) fn find(&self, itt: u32) -> Option<TaskId> {
        if itt == RESERVED_TAG {
            return None;
        }
        let group = self
            .itts
            .chunks_exact(8)
            .position(|group| group.iter().fold(false, |hit, tag| hit | (*tag == itt)))?;
        let within = self.itts[group * 8..].iter().position(|tag| *tag == itt)?;
        u16::try_from(group * 8 + within).ok().map(TaskId)
    }

    /// A failed task of these that waits for its data.
    pub(super) fn first_held(&self, covered: impl Fn(&Task) -> bool) -> Option<TaskId> {
        let mut slots = self.slots.iter();
        let at = slots.position(|task| task.is_held() && covered(task))?;
        u16::try_from(at).ok().map(TaskId)
    }

    /// The task in this slot, if there is one.
    pub(super) fn get(&mut self, id: TaskId) -> Option<&mut Task> {
        self.slots
            .get_mut(usize::from(id.0))
            .filter(|task| task.itt != RESERVED_TAG)
    }
}

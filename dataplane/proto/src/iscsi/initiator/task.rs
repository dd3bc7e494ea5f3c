//! The task table of an initiator connection.
//!
//! What always holds: memory is taken once; a tag names a slot and the slot's
//! generation, so a late PDU of an ended task finds nothing.

use super::Command;
use crate::iscsi::Violation;
use crate::iscsi::wire::{DataIn, R2t};

/// Tags of tasks have their top two bits clear; others are the connection's own.
const GENERATION_MASK: u32 = 0x3fff;

#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) itt: u32,
    pub(super) command: Command,
    pub(super) sent: bool,
    pub(super) cmd_sn: u32,
    /// Read data that is here, in bytes.
    pub(super) received: u32,
    /// The number that the next Data-In PDU or R2T has: they share one sequence (4.2.2.4).
    next_sn: u32,
    /// Write data that was announced or asked for, in bytes.
    pub(super) asked: u32,
    /// R2Ts whose data is not all out.
    pub(super) r2ts_open: u16,
}

impl Task {
    pub(super) const fn write_len(&self) -> u32 {
        self.command.data.out_len()
    }

    /// Checks a Data-In header: in order and within the room there is.
    pub(super) fn take_data_in(&mut self, pdu: &DataIn, len: u32) -> Result<(), Violation> {
        let room = self.command.data.in_len().ok_or(Violation::UnknownTask)?;
        if pdu.data_sn != self.next_sn {
            return Err(Violation::DataSn);
        }
        let end = self.received.checked_add(len);
        if pdu.buffer_offset != self.received || end.is_none_or(|end| end > room) {
            return Err(Violation::Offset);
        }
        self.next_sn = self.next_sn.wrapping_add(1);
        Ok(())
    }

    /// Checks an R2T: in order (DataSequenceInOrder is always Yes here), no
    /// longer than a burst, no more at a time than agreed.
    pub(super) fn take_r2t(
        &mut self,
        r2t: &R2t,
        max_burst_length: u32,
        max_outstanding: u16,
    ) -> Result<(), Violation> {
        if r2t.r2t_sn != self.next_sn {
            return Err(Violation::DataSn);
        }
        if self.r2ts_open >= max_outstanding {
            return Err(Violation::TooManyR2ts);
        }
        if r2t.desired_len > max_burst_length {
            return Err(Violation::BurstLength);
        }
        let end = r2t.buffer_offset.checked_add(r2t.desired_len);
        let end = end.filter(|end| *end <= self.write_len());
        if r2t.buffer_offset != self.asked || end.is_none() {
            return Err(Violation::Offset);
        }
        self.asked += r2t.desired_len;
        self.next_sn = self.next_sn.wrapping_add(1);
        self.r2ts_open += 1;
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct TaskTable {
    slots: Vec<Option<Task>>,
    generations: Vec<u16>,
    free: Vec<u16>,
}

impl TaskTable {
    pub(super) fn new(len: u16) -> Self {
        Self {
            slots: vec![None; usize::from(len)],
            generations: vec![0; usize::from(len)],
            free: (0..len).rev().collect(),
        }
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn insert(&mut self, command: Command) -> u16 {
        let slot = self.free.pop().expect("the window was checked");
        let index = usize::from(slot);
        let generation = self.generations[index].wrapping_add(1);
        self.generations[index] = generation;
        let itt = (u32::from(generation) & GENERATION_MASK) << 16 | u32::from(slot);
        self.slots[index] = Some(Task {
            itt,
            command,
            sent: false,
            cmd_sn: 0,
            received: 0,
            next_sn: 0,
            asked: 0,
            r2ts_open: 0,
        });
        slot
    }

    pub(super) fn slot(&mut self, slot: u16) -> Option<&mut Task> {
        self.slots.get_mut(usize::from(slot))?.as_mut()
    }

    /// The task with this tag, if the storage can know it.
    pub(super) fn find(&mut self, itt: u32) -> Option<&mut Task> {
        let slot = u16::try_from(itt & 0xffff).expect("16 bits");
        self.slot(slot).filter(|task| task.itt == itt && task.sent)
    }

    pub(super) fn find_token(&self, token: u64) -> Option<&Task> {
        self.slots
            .iter()
            .flatten()
            .find(|task| task.command.token == token)
    }

    /// Ends the task with this tag, if it is there.
    pub(super) fn remove(&mut self, itt: u32) -> Option<Task> {
        let slot = u16::try_from(itt & 0xffff).expect("16 bits");
        let entry = self.slots.get_mut(usize::from(slot))?;
        let task = entry.take_if(|task| task.itt == itt)?;
        self.free.push(slot);
        Some(task)
    }

    /// The first task for which `covered` holds.
    pub(super) fn first(&self, covered: impl Fn(&Task) -> bool) -> Option<u32> {
        let mut tasks = self.slots.iter().flatten();
        tasks.find(|task| covered(task)).map(|task| task.itt)
    }
}

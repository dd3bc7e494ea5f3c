//! A disk for tests: commands address bytes, and some commands misbehave on
//! purpose, so that both sides' rarer ways are walked.

use super::pair::Random;
use crate::iscsi::{CommandEvent, TargetConn, TargetEvent, TaskFunctionResponse, TaskId};
use crate::scsi::ScsiStatus;
use std::collections::BTreeMap;

/// Byte `offset..` of the data made from `seed`.
pub(super) fn fill(seed: u64, offset: u32, slot: &mut [u8]) {
    for (at, byte) in slot.iter_mut().enumerate() {
        let at = (u64::from(offset) + at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *byte = (at.wrapping_add(seed.wrapping_mul(0x5851_f42d_4c95_7f2d)) >> 56) as u8;
    }
}

/// What a write's own opcode asks this disk to do.
pub(super) const WRITE: u8 = 0x2a;
pub(super) const READ: u8 = 0x28;
/// Answer BUSY at once, whatever data still comes.
pub(super) const WRITE_BUSY: u8 = 0xc0;
/// Answer CHECK CONDITION with sense data.
pub(super) const FAIL: u8 = 0xc1;
/// Read half of what was asked for.
pub(super) const READ_SHORT: u8 = 0xc2;
/// Never answer.
pub(super) const HANG: u8 = 0xc3;

pub(super) const SENSE: [u8; 18] = [
    0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x0c, 0x02, 0, 0, 0, 0,
];

#[derive(Debug)]
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    commands: BTreeMap<TaskId, (CommandEvent, Vec<u8>)>,
    /// Reads under way: how far data was handed over, and when to respond.
    reads: BTreeMap<TaskId, (u32, u32, u32)>,
    /// Tokens of read data: what they stand for, until released.
    pub(super) tokens: BTreeMap<u64, Vec<u8>>,
    next_token: u64,
    pub(super) faults: usize,
}

fn operands(command: &CommandEvent) -> (u32, u32) {
    let word = |at: usize| u32::from_be_bytes(command.cdb[at..at + 4].try_into().unwrap());
    (word(2), word(6))
}

impl Disk {
    pub(super) fn new(len: usize) -> Self {
        Self {
            bytes: vec![0; len],
            commands: BTreeMap::new(),
            reads: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_token: 0,
            faults: 0,
        }
    }

    pub(super) fn fetch(&self, token: u64, offset: u32, slot: &mut [u8]) {
        let bytes = &self.tokens[&token];
        slot.copy_from_slice(&bytes[offset as usize..offset as usize + slot.len()]);
    }

    pub(super) fn released(&mut self, token: u64) {
        self.tokens.remove(&token).expect("released once");
    }

    pub(super) fn event(&mut self, target: &mut TargetConn, event: TargetEvent<'_>) {
        match event {
            TargetEvent::Command(command) => self.command(target, command),
            TargetEvent::Data {
                task,
                offset,
                bytes,
            } => {
                let (_, data) = self.commands.get_mut(&task).expect("a live write");
                assert_eq!(offset as usize, data.len(), "in order");
                data.extend_from_slice(bytes);
            }
            TargetEvent::WriteComplete { task } => {
                let (command, data) = self.commands.remove(&task).expect("a live write");
                let (at, len) = operands(&command);
                assert_eq!(data.len(), command.expected_len as usize);
                if command.cdb[0] == HANG {
                    self.commands.insert(task, (command, data));
                    return;
                }
                let at = at as usize;
                self.bytes[at..at + data.len()].copy_from_slice(&data);
                target.respond(task, ScsiStatus::GOOD, &[], len);
            }
            TargetEvent::DataFault { task } => {
                self.faults += 1;
                self.commands.remove(&task).expect("a live write");
                target.respond(task, ScsiStatus::CHECK_CONDITION, &SENSE, 0);
            }
            TargetEvent::TaskManagement {
                tag, ref_task, lun, ..
            } => {
                let ended: Vec<TaskId> = match ref_task {
                    Some(task) => vec![task],
                    None if lun == 2 << 48 => self.commands.keys().copied().collect(),
                    None => Vec::new(),
                };
                for task in &ended {
                    self.commands.remove(task);
                    self.reads.remove(task);
                    target.abort(*task);
                }
                let response = if ended.is_empty() {
                    TaskFunctionResponse::TaskDoesNotExist
                } else {
                    TaskFunctionResponse::Complete
                };
                target.answer_task_management(tag, response);
            }
            _ => {}
        }
    }

    fn command(&mut self, target: &mut TargetConn, command: CommandEvent) {
        let task = command.task;
        let (_, len) = operands(&command);
        match command.cdb[0] {
            WRITE_BUSY => target.respond(task, ScsiStatus::BUSY, &[], 0),
            FAIL => target.respond(task, ScsiStatus::CHECK_CONDITION, &SENSE, 0),
            READ | READ_SHORT => {
                let len = if command.cdb[0] == READ { len } else { len / 2 };
                self.reads
                    .insert(task, (0, len.min(command.expected_len), len));
                self.commands.insert(task, (command, Vec::new()));
            }
            _ => {
                assert!(command.write);
                self.commands.insert(task, (command, Vec::new()));
                target.grant(task);
            }
        }
    }

    /// Hands over some read data.
    pub(super) fn work(&mut self, target: &mut TargetConn, random: &mut Random) -> bool {
        let Some((&task, &(done, len, full_len))) = self.reads.iter().next() else {
            return false;
        };
        if done == len {
            self.reads.remove(&task);
            self.commands.remove(&task);
            target.respond(task, ScsiStatus::GOOD, &[], full_len);
            return true;
        }
        if target.data_in_room() == 0 {
            return false;
        }
        let (at, _) = operands(&self.commands[&task].0);
        let piece = u32::try_from(random.below(100_000) + 1)
            .unwrap()
            .min(len - done);
        let from = (at + done) as usize;
        let token = self.next_token;
        self.next_token += 1;
        // The token's data starts before the piece, so that offsets count.
        let mut bytes = vec![0xee; 3];
        bytes.extend_from_slice(&self.bytes[from..from + piece as usize]);
        self.tokens.insert(token, bytes);
        target.data_in(task, token, 3, done, piece).unwrap();
        self.reads.insert(task, (done + piece, len, full_len));
        true
    }
}

//! The sessions towards the computers: bytes of a connection become login
//! requests and commands, answers become bytes.
//!
//! Nothing here decides what a command does: that is for [`super::admit`].

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use arrayvec::ArrayVec;
use sluice_proto::Time;
use sluice_proto::iscsi::{CommandEvent, TargetConn, TaskId};
use sluice_proto::scsi::{Sense, opcode};

use super::staging::StagePage;
use super::task::{CDB_LEN_MAX, NexusKey, TaskKey, VolumeKey};
use crate::tcp::FlowId;

/// Commands a session may have outstanding; MaxCmdSN is opened this far (RFC 7143 4.2.2.1).
pub const SESSION_TASKS_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanState {
    /// Login under way, or waiting for the storage's answer to ours.
    Login,
    FullFeature,
    /// Nothing more is read; closed when what is queued has gone out.
    Closing,
}

/// One connection from a computer.
#[derive(Debug)]
pub struct Lan {
    pub flow: FlowId,
    pub conn: Box<TargetConn>,
    pub state: LanState,
    /// What the computer dialled.
    pub local: SocketAddrV4,
    pub computer: SocketAddrV4,
    pub nexus: Option<NexusKey>,
    /// By the connection's task number.
    pub tasks: Box<[Option<TaskKey>]>,
    /// Commands that have no place yet, while one asks for order: see [`super::line`].
    pub line: VecDeque<TaskKey>,
    /// One has left it.
    pub line_moved: bool,
    /// The volume for whose sake its writes are answered late.
    pub slowed: Option<VolumeKey>,
    pub last_heard: Time,
    /// A NOP-In is out and unanswered since.
    pub pinged: Option<Time>,
    /// Staging pages whose bytes the connection still has to send.
    pub pages_out: Vec<StagePage>,
    /// In the worker's list of connections to serve.
    pub queued: bool,
    /// The computer has sent its last byte.
    pub finished: bool,
    pub tsih: u16,
    /// When a login, or a session that is closing, is given up.
    pub login_deadline: Time,
}

impl Lan {
    /// The CDB of the command that came last, and its bytes from 16 on if it
    /// has 32 (RFC 7143 11.2.2.3). Cut short it would be another command.
    ///
    /// # Errors
    /// A CDB longer than 32 bytes, or one that says to be longer than what came.
    pub fn whole_cdb(
        &self,
        command: &CommandEvent,
    ) -> Result<(ArrayVec<u8, CDB_LEN_MAX>, Option<[u8; 16]>), Sense> {
        let rest = self.conn.extended_cdb();
        let mut whole = ArrayVec::from_iter(command.cdb);
        // SPC-5, variable type data fields: ADDITIONAL CDB LENGTH counts from byte 8.
        let declared = match command.cdb[0] {
            opcode::VARIABLE_LENGTH => 8 + usize::from(command.cdb[7]),
            _ => 16,
        };
        if declared > CDB_LEN_MAX || (declared <= 16 && !rest.is_empty()) {
            return Err(Sense::INVALID_COMMAND_OPERATION_CODE);
        }
        if declared <= 16 {
            return Ok((whole, None));
        }
        let rest = rest.first_chunk().ok_or(Sense::INVALID_FIELD_IN_CDB)?;
        whole.extend(*rest);
        Ok((whole, Some(*rest)))
    }

    pub fn task(&self, task: TaskId) -> Option<TaskKey> {
        self.tasks.get(usize::from(task.0)).copied().flatten()
    }

    /// The connection has sent the page's last byte.
    pub fn release_page(&mut self, page: StagePage) {
        let at = self
            .pages_out
            .iter()
            .position(|&out| out == page)
            .expect("released once, after data_in");
        self.pages_out.swap_remove(at);
    }
}

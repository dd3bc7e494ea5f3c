//! The sessions towards the computers: bytes of a connection become login
//! requests and commands, answers become bytes.
//!
//! Nothing here decides what a command does: that is for [`super::admit`].

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use sluice_proto::Time;
use sluice_proto::iscsi::{TargetConn, TaskId};

use super::staging::StagePage;
use super::task::{NexusKey, TaskKey, VolumeKey};
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

//! The initiator side of a connection: it logs in to a storage, sends the
//! caller's commands within the storage's window, serves R2Ts from the
//! caller's data, and hands back data and status.
//!
//! What always holds: a command that was submitted ends with exactly one
//! `Response`, unless a task management function or the connection's end took
//! it; `fetch` is never called for a token after that; CmdSN goes out in the
//! order of `submit`. Read data is handed out as it streams in, before its
//! digest is known: it counts only with the `Response`. Not for: retries,
//! time-outs, and what a command means: the caller's.

mod login;
mod receive;
mod task;
mod transmit;

use super::chap::ChapLogin;
use super::inbound::Inbound;
use super::negotiate::{Offers, Parameters};
use super::outbound::Outbound;
use super::violation::{Counters, Violation};
use super::wire::{BHS_LEN, Cdb, Residual, TaskAttribute, TaskFunction, TaskFunctionResponse};
use super::{IscsiName, SENSE_LEN_MAX, text};
use crate::scsi::ScsiStatus;
use arrayvec::ArrayVec;
use login::Login;
use receive::Current;
use std::collections::VecDeque;
use task::TaskTable;
use transmit::{Burst, Control, Queued};

/// Task management functions under way at a time.
const TASK_MANAGEMENT_MAX: usize = 8;
/// Answers to the storage's pings that may wait for room on the stream; beyond
/// it, input waits.
const CONTROL_MAX: usize = 16;
/// Control PDUs of our own beside those: pings, a text request.
const CONTROL_OWN_MAX: usize = PROBE_PINGS as usize + 1;
/// Pings of a probe, and the most data of each: enough for the path to spread them out, and
/// little beside what it carries.
const PROBE_PINGS: u8 = 8;
const PROBE_PING_LEN: u16 = 4096;
/// Sense data with its length, as it comes in a data segment.
const SENSE_SEGMENT_MAX: usize = 2 + SENSE_LEN_MAX;

/// How to log in.
#[derive(Clone, Debug)]
pub struct InitiatorConfig {
    pub initiator_name: IscsiName,
    /// None for a discovery session.
    pub target_name: Option<IscsiName>,
    pub isid: [u8; 6],
    pub offers: Offers,
    /// What is proved to the storage, and asked of it; none offers no authentication.
    pub chap: Option<ChapLogin>,
    /// Commands outstanding at a time, whatever the storage's window allows.
    pub max_tasks: u16,
}

/// Which way a command's data goes, and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    None,
    In(u32),
    Out(u32),
    /// A bidirectional command (RFC 7143 11.2.2.4).
    Both {
        out_len: u32,
        in_len: u32,
    },
}

impl Direction {
    /// Bytes of write data.
    #[must_use]
    pub const fn out_len(self) -> u32 {
        match self {
            Self::Out(len) | Self::Both { out_len: len, .. } => len,
            Self::None | Self::In(_) => 0,
        }
    }

    /// Room for read data; `None` if the command has none.
    #[must_use]
    pub const fn in_len(self) -> Option<u32> {
        match self {
            Self::In(len) | Self::Both { in_len: len, .. } => Some(len),
            Self::None | Self::Out(_) => None,
        }
    }
}

/// A SCSI command to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// The caller's name for it and for its data.
    pub token: u64,
    pub lun: u64,
    pub cdb: Cdb,
    /// Bytes 16 to 31 of a 32-byte CDB, the longest that SBC-4 has.
    pub cdb_rest: Option<Cdb>,
    pub attribute: TaskAttribute,
    pub data: Direction,
}

/// The storage refused the login (RFC 7143 11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginFailure {
    pub class: u8,
    pub detail: u8,
}

/// No command can be sent now: the storage's window or the task table is full,
/// or the session is not in full feature phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowFull;

/// What an initiator connection has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitiatorEvent<'a> {
    LoggedIn,
    /// The connection is over.
    LoginFailed(LoginFailure),
    /// Read data, in order from 0.
    DataIn {
        token: u64,
        offset: u32,
        bytes: &'a [u8],
    },
    /// The command has ended. Sense data is at [`InitiatorConn::sense`].
    Response {
        token: u64,
        /// 0: `status` holds; else the target failed to deliver it (11.4.3).
        response: u8,
        status: ScsiStatus,
        /// Of a bidirectional command, the write part's.
        residual: Residual,
        /// Of a bidirectional command's read part.
        read_residual: Residual,
    },
    /// A task management function ended. After `Complete` the commands that it
    /// covers get no `Response` any more.
    TaskManagementResponse {
        function: TaskFunction,
        lun: u64,
        /// The command of an `abort_task`, if it was outstanding until now: it
        /// gets no `Response` any more.
        token: Option<u64>,
        response: TaskFunctionResponse,
    },
    /// The storage has news (11.9.1): 0 SCSI event, with sense data; 1 log out
    /// within `parameters[2]` seconds; 2 and 3 it drops the connection or the
    /// session; 4 renegotiate.
    Async {
        lun: u64,
        event: u8,
        vendor_code: u8,
        parameters: [u16; 3],
    },
    /// The answer to `ping`.
    Pong,
    /// The answer to `logout`; the connection is over. 0 is success (11.15.1).
    LoggedOut {
        response: u8,
    },
    /// See [`InitiatorConn::targets`].
    SendTargets,
    /// The connection is over: drop it.
    Violation(Violation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Login,
    FullFeature,
    Closed,
}

/// A task management function under way.
#[derive(Clone, Copy, Debug)]
struct TaskManagement {
    itt: u32,
    function: TaskFunction,
    lun: u64,
    /// (tag, token) of the task that it aborts.
    task: Option<(u32, u64)>,
    /// Its CmdSN, once sent: it covers only commands from before.
    cmd_sn: Option<u32>,
}

/// The initiator side of one connection, which is one session.
#[derive(Debug)]
pub struct InitiatorConn {
    config: InitiatorConfig,
    phase: Phase,
    parameters: Parameters,
    inbound: Inbound,
    outbound: Outbound,
    /// What the PDU that is coming in is.
    current: Current,
    /// A PDU that ended while data of the task it ends was still going out.
    held: Option<Current>,
    login: Box<Login>,
    tasks: TaskTable,
    /// Commands and task management, in the order they go out.
    queue: VecDeque<Queued>,
    /// Commands in `queue`: they have a place of the window, no CmdSN yet.
    unsent: u32,
    control: VecDeque<Control>,
    bursts: VecDeque<Burst>,
    /// Commands and data take turns: this one is data's.
    data_turn: bool,
    task_management: ArrayVec<TaskManagement, TASK_MANAGEMENT_MAX>,
    task_managements: u32,
    sense: ArrayVec<u8, SENSE_SEGMENT_MAX>,
    targets: Vec<u8>,
    /// Pings without an answer.
    pings_due: u8,
    text_due: bool,
    /// A Logout Request has gone out.
    logout_due: bool,
    /// The next CmdSN, and the last that the storage takes.
    cmd_sn: u32,
    max_cmd_sn: u32,
    exp_stat_sn: u32,
    counters: Counters,
}

impl InitiatorConn {
    /// A connection whose login starts with the first `transmit`.
    ///
    /// # Panics
    /// If an offer is outside RFC 7143's range, or `max_tasks` is 0 or above
    /// 32,000.
    #[must_use]
    pub fn new(mut config: InitiatorConfig) -> Self {
        config.offers.check();
        assert!((1..=32_000).contains(&config.max_tasks), "1..=32000 tasks");
        let tasks = usize::from(config.max_tasks);
        // A task has one unsolicited sequence and its R2Ts.
        let bursts_max = tasks * (1 + usize::from(config.offers.max_outstanding_r2t));
        Self {
            phase: Phase::Login,
            parameters: Parameters::default(),
            inbound: Inbound::new(Parameters::default().max_recv_data_segment_length),
            outbound: Outbound::new(),
            current: Current::Ignored,
            held: None,
            login: Box::new(Login::new(&mut config)),
            tasks: TaskTable::new(config.max_tasks),
            // Every task, every task management function, and a logout.
            queue: VecDeque::with_capacity(tasks + TASK_MANAGEMENT_MAX + 1),
            unsent: 0,
            control: VecDeque::with_capacity(CONTROL_MAX + CONTROL_OWN_MAX),
            bursts: VecDeque::with_capacity(bursts_max),
            data_turn: false,
            task_management: ArrayVec::new(),
            task_managements: 0,
            sense: ArrayVec::new(),
            targets: Vec::new(),
            pings_due: 0,
            text_due: false,
            logout_due: false,
            cmd_sn: 1,
            max_cmd_sn: 0,
            exp_stat_sn: 0,
            counters: Counters::default(),
            config,
        }
    }

    /// How many commands `submit` takes now.
    #[must_use]
    pub fn window(&self) -> usize {
        if self.phase != Phase::FullFeature || self.config.target_name.is_none() {
            return 0;
        }
        let promised = self.max_cmd_sn.wrapping_sub(self.cmd_sn).wrapping_add(1);
        let open = promised.cast_signed().saturating_sub_unsigned(self.unsent);
        self.tasks.free().min(usize::try_from(open).unwrap_or(0))
    }

    /// Queues a command. Its write data is fetched by its token as it goes out,
    /// up to its `Response`.
    ///
    /// # Errors
    /// [`WindowFull`] if `window` is 0.
    pub fn submit(&mut self, command: Command) -> Result<(), WindowFull> {
        if self.window() == 0 {
            return Err(WindowFull);
        }
        let slot = self.tasks.insert(command);
        self.unsent += 1;
        self.queue.push_back(Queued::Command(slot));
        Ok(())
    }

    /// Asks the storage to abort the command with this token.
    ///
    /// # Errors
    /// [`WindowFull`] if too many functions are under way, or no such command
    /// is outstanding.
    pub fn abort_task(&mut self, token: u64) -> Result<(), WindowFull> {
        let task = self.tasks.find_token(token).ok_or(WindowFull)?;
        let (itt, lun) = (task.itt, task.command.lun);
        self.manage(TaskFunction::AbortTask, lun, Some((itt, token)))
    }

    /// Asks the storage to reset a logical unit.
    ///
    /// # Errors
    /// [`WindowFull`] if too many functions are under way.
    pub fn reset_lun(&mut self, lun: u64) -> Result<(), WindowFull> {
        self.manage(TaskFunction::LunReset, lun, None)
    }

    /// Asks the storage to abort all of this session's commands for a logical unit.
    ///
    /// # Errors
    /// [`WindowFull`] if too many functions are under way.
    pub fn abort_task_set(&mut self, lun: u64) -> Result<(), WindowFull> {
        self.manage(TaskFunction::AbortTaskSet, lun, None)
    }

    /// Asks the storage to reset the target (a warm reset: sessions stay).
    ///
    /// # Errors
    /// [`WindowFull`] if too many functions are under way.
    pub fn reset_target(&mut self) -> Result<(), WindowFull> {
        self.manage(TaskFunction::TargetWarmReset, 0, None)
    }

    /// Whether the command with this token has had no end yet.
    #[must_use]
    pub fn is_outstanding(&self, token: u64) -> bool {
        self.tasks.find_token(token).is_some()
    }

    fn manage(
        &mut self,
        function: TaskFunction,
        lun: u64,
        task: Option<(u32, u64)>,
    ) -> Result<(), WindowFull> {
        if self.phase != Phase::FullFeature || self.is_leaving() || self.task_management.is_full() {
            return Err(WindowFull);
        }
        self.task_managements = self.task_managements.wrapping_add(1);
        let itt = transmit::TASK_MANAGEMENT_TAG | (self.task_managements & 0xffff);
        self.task_management.push(TaskManagement {
            itt,
            function,
            lun,
            task,
            cmd_sn: None,
        });
        self.queue.push_back(Queued::TaskManagement { itt });
        Ok(())
    }

    /// Asks whether the storage is alive; `Pong` is the answer. Nothing happens
    /// while one is under way.
    pub fn ping(&mut self) {
        self.send_pings(1, 0);
    }

    /// Sends pings with data, close together, for what they show of the path (Spec B,
    /// B-14); a `Pong` answers each. How many bytes they have; nothing happens while one is
    /// under way.
    pub fn probe(&mut self) -> Option<u32> {
        let len = self.parameters.peer_max_recv_data_segment_length;
        let len = u16::try_from(len).unwrap_or(u16::MAX).min(PROBE_PING_LEN);
        let bytes = usize::from(PROBE_PINGS) * (BHS_LEN + usize::from(len));
        self.send_pings(PROBE_PINGS, len)
            .then(|| u32::try_from(bytes).expect("a few KiB"))
    }

    fn send_pings(&mut self, count: u8, len: u16) -> bool {
        let may = self.phase == Phase::FullFeature && !self.is_leaving() && self.pings_due == 0;
        if may {
            self.pings_due = count;
            (0..count).for_each(|_| self.control.push_back(Control::Ping { len }));
        }
        may
    }

    /// Leaves, after what was submitted before has gone out; `LoggedOut` is the
    /// answer.
    pub fn logout(&mut self) {
        if self.phase == Phase::FullFeature && !self.is_leaving() {
            self.queue.push_back(Queued::Logout);
        }
    }

    /// RFC 7143 11.14: after a Logout Request nothing is asked any more.
    fn is_leaving(&self) -> bool {
        self.logout_due || self.queue.iter().any(|q| matches!(q, Queued::Logout))
    }

    /// Asks for all targets, in a discovery session; `SendTargets` is the
    /// answer. Nothing happens while it is under way.
    pub fn send_targets(&mut self) {
        if self.phase == Phase::FullFeature && !self.is_leaving() && !self.text_due {
            self.text_due = true;
            self.targets.clear();
            self.control.push_back(Control::SendTargets { go_on: None });
        }
    }

    /// What `SendTargets` brought: (target name, `address:port,group tag`).
    pub fn targets(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut name = "";
        text::pairs(&self.targets).filter_map(move |pair| match pair {
            Ok(("TargetName", value)) => {
                name = value;
                None
            }
            Ok(("TargetAddress", value)) => Some((name, value)),
            _ => None,
        })
    }

    /// Sense data of the `Response` or `Async` event that `receive` gave last;
    /// at most [`SENSE_LEN_MAX`] bytes.
    #[must_use]
    pub fn sense(&self) -> &[u8] {
        let Some((len, rest)) = self.sense.split_first_chunk() else {
            return &[];
        };
        let len = usize::from(u16::from_be_bytes(*len));
        &rest[..len.min(rest.len())]
    }

    /// What login negotiated; RFC 7143's defaults before.
    #[must_use]
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The session's handle at the storage (TSIH); 0 before login.
    #[must_use]
    pub fn tsih(&self) -> u16 {
        self.login.tsih
    }

    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the connection is in full feature phase.
    #[must_use]
    pub fn is_logged_in(&self) -> bool {
        self.phase == Phase::FullFeature
    }

    /// Whether nothing more will come or go: close the stream.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Closed
    }
}

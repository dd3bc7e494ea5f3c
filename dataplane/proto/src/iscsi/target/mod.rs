//! The target side of a connection: it answers a computer's login, hands its
//! commands and data to the caller, and sends what the caller answers.
//!
//! What always holds: the caller sees commands in CmdSN order and each one's
//! data in order, once; a [`TaskId`] in an event stays valid until the caller
//! responds or aborts; nothing is queued beyond what was sized in `new`, and
//! where a peer would make it grow, its input waits. Not for: which targets
//! exist, who may log in, and time-outs: the caller's.

mod answer;
mod data_queue;
mod full_feature;
mod login;
mod task;
mod text_exchange;
mod transmit;

pub use login::LoginRequest;
pub use task::TaskId;

use super::inbound::{Framed, Inbound};
use super::negotiate::{Offers, Parameters};
use super::outbound::{INLINE_LEN, Outbound};
use super::violation::{Counters, Violation};
use super::wire::{Bhs, Cdb, EXTENDED_CDB_LEN_MAX, TaskAttribute, TaskFunction};
use crate::iscsi::SENSE_LEN_MAX;
use arrayvec::ArrayVec;
use data_queue::{DataItem, DataQueue};
use full_feature::Current;
use login::Login;
use std::collections::VecDeque;
use task::TaskTable;
use text_exchange::TextExchange;
use transmit::Control;

/// Immediate commands outstanding beside the CmdSN window. RFC 7143 4.2.2.1
/// asks for one at least; initiators use one for error handling.
const IMMEDIATE_TASKS_MAX: u16 = 4;
/// Task management functions waiting for the caller's answer. An initiator's
/// error handler sends one at a time a LUN.
const TASK_MANAGEMENT_MAX: usize = 8;
/// Answers that belong to no task (pings, rejects, text, login) which may wait
/// for room on the stream; beyond it, input waits.
const UNTASKED_MAX: usize = 16;
/// Untasked PDUs that come without input: a ping, an asynchronous message of either
/// kind, and a violation's Reject.
const UNASKED_MAX: usize = 4;

/// Limits and offers of a target connection.
#[derive(Clone, Copy, Debug)]
pub struct TargetConfig {
    pub offers: Offers,
    /// Commands outstanding at a time: the widest CmdSN window.
    pub max_tasks: u16,
    /// [`TargetConn::data_in`] pieces that may wait at a time.
    pub max_data_items: u16,
    pub target_portal_group_tag: u16,
    /// The caller is asked what an initiator must prove
    /// ([`TargetEvent::Authenticate`]). If not, nobody has to prove anything.
    pub authenticates: bool,
}

impl Default for TargetConfig {
    fn default() -> Self {
        Self {
            offers: Offers::lan(),
            max_tasks: 128,
            max_data_items: 512,
            target_portal_group_tag: 1,
            authenticates: false,
        }
    }
}

impl TargetConfig {
    /// Commands outstanding at a time, immediate ones included: every
    /// [`TaskId`] is below it.
    #[must_use]
    pub fn slots(&self) -> usize {
        usize::from(self.max_tasks + IMMEDIATE_TASKS_MAX)
    }

    /// PDUs without read data that can wait at a time: a task's response, R2Ts
    /// that the response overtook, and what belongs to no task.
    fn control_max(&self) -> usize {
        let a_task = 1 + usize::from(self.offers.max_outstanding_r2t);
        self.slots() * a_task + TASK_MANAGEMENT_MAX + UNTASKED_MAX + UNASKED_MAX
    }

    /// Memory that one connection takes in full feature phase, in bytes: for
    /// the budget that is checked at start.
    #[must_use]
    pub fn connection_len(&self) -> usize {
        size_of::<TargetConn>()
            + size_of::<Login>()
            + TaskTable::len(self.slots())
            + self.control_max() * size_of::<Control>()
            + (UNTASKED_MAX + UNASKED_MAX) * size_of::<Bhs>()
            + usize::from(self.max_data_items) * size_of::<DataItem>()
            + 2 * INLINE_LEN
    }
}

/// A SCSI command (RFC 7143 11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandEvent {
    pub task: TaskId,
    pub lun: u64,
    /// The first 16 bytes; the others are at [`TargetConn::extended_cdb`].
    pub cdb: Cdb,
    pub attribute: TaskAttribute,
    pub read: bool,
    pub write: bool,
    /// Expected Data Transfer Length in bytes; of a command that reads and
    /// writes, the write part.
    pub expected_len: u32,
    /// Expected read length of a command that reads and writes, in bytes.
    pub bidirectional_read_len: u32,
    pub immediate: bool,
    pub cmd_sn: u32,
}

/// Which targets an initiator asks about (RFC 7143 Appendix C).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one a connection, rarely copied")]
pub enum SendTargetsScope {
    #[default]
    All,
    /// One, by name.
    Named(super::IscsiName),
    /// The one this session is logged in to.
    Session,
}

/// What a target connection has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetEvent<'a> {
    /// Names are known, nothing else has been looked at: see
    /// [`TargetConn::login_request`]; answer with `authenticate`. Input waits
    /// until then.
    Authenticate,
    /// The initiator is who it says it is, or need not be. See [`TargetConn::login_request`]; answer with `accept_login` or
    /// `reject_login`, now or later. Input waits until then.
    Login,
    /// Login is over; commands may come.
    LoggedIn,
    Command(CommandEvent),
    /// Write data, in order. It counts only once the write is complete.
    Data {
        task: TaskId,
        offset: u32,
        bytes: &'a [u8],
    },
    /// Write data failed its digest: drop what came, and respond.
    DataFault {
        task: TaskId,
    },
    /// All expected write data is here.
    WriteComplete {
        task: TaskId,
    },
    /// Answer with `answer_task_management(tag, ..)`, after `abort` of every
    /// task that it ends.
    TaskManagement {
        tag: u32,
        function: TaskFunction,
        lun: u64,
        /// The task that an ABORT TASK names, if it has no response yet.
        ref_task: Option<TaskId>,
    },
    /// See [`TargetConn::send_targets_scope`]; answer with `send_targets`.
    /// Input waits until then.
    SendTargets,
    /// The answer to `ping`.
    Pong,
    /// The initiator leaves; the answer is queued, no task gets a response any
    /// more. Reason as in 11.14.1.
    Logout {
        reason: u8,
    },
    /// The connection is over; a Reject may be queued.
    Violation(Violation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Login,
    FullFeature,
    /// The initiator logged out; what was queued before the answer, and the
    /// answer, still go out. Input is dropped.
    Leaving,
    /// Only what is queued still goes out; input is dropped.
    Closing,
}

/// Too many pieces of read data wait; see [`TargetConn::data_in_room`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataQueueFull;

/// The target side of one connection, which is one session (4.2.1): data and status go by
/// the connection that the command came by (4.2.5.1).
#[derive(Debug)]
pub struct TargetConn {
    config: TargetConfig,
    phase: Phase,
    parameters: Parameters,
    inbound: Inbound,
    outbound: Outbound,
    /// What the PDU that is coming in is.
    current: Current,
    login: Box<Login>,
    text: TextExchange,
    /// Login ended outside `receive`, which has yet to say so.
    logged_in_pending: bool,
    tasks: TaskTable,
    task_management: ArrayVec<u32, TASK_MANAGEMENT_MAX>,
    control: VecDeque<Control>,
    /// Headers of PDUs whose Reject is in `control`, in its order.
    rejected: VecDeque<Bhs>,
    /// Entries of `control` that belong to no task.
    untasked: usize,
    data: DataQueue,
    extended_cdb: ArrayVec<u8, EXTENDED_CDB_LEN_MAX>,
    /// The ping data that waits to be echoed.
    ping_data: Vec<u8>,
    /// Transfer tag of the last keep-alive of ours, while its answer is due.
    keep_alive_due: Option<u32>,
    keep_alives: u32,
    logout_requested: bool,
    /// Of the SCSI event that waits in `control`; empty if none does.
    event_sense: ArrayVec<u8, SENSE_LEN_MAX>,
    stat_sn: u32,
    exp_cmd_sn: u32,
    max_cmd_sn: u32,
    window: u16,
    counters: Counters,
}

impl TargetConn {
    /// A connection that waits for its login.
    ///
    /// # Panics
    /// If an offer is outside RFC 7143's range, or `max_tasks` is 0 or above
    /// 32,000 (transfer tags hold a slot in 15 bits).
    #[must_use]
    pub fn new(config: TargetConfig) -> Self {
        config.offers.check();
        assert!((1..=32_000).contains(&config.max_tasks), "1..=32000 tasks");
        Self {
            phase: Phase::Login,
            parameters: Parameters::default(),
            inbound: Inbound::new(Parameters::default().max_recv_data_segment_length),
            outbound: Outbound::new(),
            current: Current::Ignored,
            login: Box::new(Login::new(config.offers)),
            text: TextExchange::default(),
            logged_in_pending: false,
            tasks: TaskTable::new(config.max_tasks, IMMEDIATE_TASKS_MAX),
            task_management: ArrayVec::new(),
            control: VecDeque::with_capacity(config.control_max()),
            rejected: VecDeque::with_capacity(UNTASKED_MAX + UNASKED_MAX),
            untasked: 0,
            data: DataQueue::new(config.max_data_items),
            extended_cdb: ArrayVec::new(),
            ping_data: Vec::with_capacity(INLINE_LEN),
            keep_alive_due: None,
            keep_alives: 0,
            logout_requested: false,
            event_sense: ArrayVec::new(),
            stat_sn: 0,
            exp_cmd_sn: 0,
            max_cmd_sn: 0,
            window: config.max_tasks,
            counters: Counters::default(),
            config,
        }
    }

    /// Takes bytes of the stream; gives how many, and what they mean. Call it
    /// again with the rest until it takes nothing and says nothing; what is
    /// left then must come again once output has gone out, or the event that
    /// asked for an answer has got it.
    pub fn receive<'a>(&mut self, input: &'a [u8]) -> (usize, Option<TargetEvent<'a>>) {
        if std::mem::take(&mut self.logged_in_pending) {
            return (0, Some(TargetEvent::LoggedIn));
        }
        let mut used = 0;
        loop {
            if matches!(self.phase, Phase::Leaving | Phase::Closing) {
                return (input.len(), None);
            }
            if self.inbound.at_boundary() && self.input_waits() {
                return (used, None);
            }
            let event = match self.inbound.step(&input[used..]) {
                Ok((taken, step)) => {
                    used += taken;
                    match step {
                        None => return (used, None),
                        Some(Framed::Header) => {
                            self.counters.pdus_received += 1;
                            self.header_arrived()
                        }
                        Some(Framed::Data(bytes)) => self.data_arrived(bytes),
                        Some(Framed::End { intact }) => self.pdu_arrived(intact),
                    }
                }
                Err(violation) => Err(violation),
            };
            match event {
                Ok(None) => {}
                Ok(Some(event)) => return (used, Some(event)),
                Err(violation) => {
                    self.end_with(violation);
                    return (used, Some(TargetEvent::Violation(violation)));
                }
            }
        }
    }

    /// Whether a PDU that begins now would have to wait: for an answer of the
    /// caller, or for earlier answers to go out.
    fn input_waits(&self) -> bool {
        self.login.waits()
            || self.text.waits()
            || !self.ping_data.is_empty()
            || self.untasked >= UNTASKED_MAX
    }

    /// What `Login` was about; empty before.
    #[must_use]
    pub fn login_request(&self) -> &LoginRequest {
        &self.login.request
    }

    /// What `SendTargets` asked for.
    #[must_use]
    pub const fn send_targets_scope(&self) -> &SendTargetsScope {
        &self.text.scope
    }

    /// CDB bytes from 16 on, of the `Command` that `receive` gave last.
    #[must_use]
    pub fn extended_cdb(&self) -> &[u8] {
        &self.extended_cdb
    }

    /// What login negotiated; RFC 7143's defaults before.
    #[must_use]
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
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
        self.phase == Phase::Closing && !self.has_output()
    }

    /// Ends the connection for a violation: what was queued is dropped, a
    /// Reject goes out where it can, input is dropped from here on. What breaks a login is
    /// answered by a Login Response, or before the first request by nothing (4.2.4).
    fn end_with(&mut self, violation: Violation) {
        self.counters.violations += 1;
        if self.phase == Phase::Login {
            return self.break_login(violation);
        }
        let bhs = self.inbound.bhs();
        self.close();
        if let Some(reason) = violation.reject_reason() {
            self.queue_reject(reason, bhs);
        }
    }

    /// Drops what is queued and takes no more input; a PDU that was begun is
    /// finished. Read data that was handed over is released, that of a PDU under
    /// way once it is out; a caller that drops the connection takes back what
    /// is left. Tasks end without a response (7.6).
    pub fn close(&mut self) {
        self.phase = Phase::Closing;
        self.logged_in_pending = false;
        self.control.clear();
        self.rejected.clear();
        self.untasked = 0;
        self.event_sense.clear();
        self.ping_data.clear();
        self.data.drop_all(&self.outbound);
    }

    fn queue_untasked(&mut self, control: Control) {
        self.untasked += 1;
        self.control.push_back(control);
    }

    fn queue_reject(&mut self, reason: u8, bhs: Bhs) {
        self.rejected.push_back(bhs);
        self.queue_untasked(Control::Reject { reason });
    }
}

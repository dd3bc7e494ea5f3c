//! The initiator side: connecting a nexus to its storage, asking what it is,
//! sending what is wanted, taking the answers, and coming back after a loss
//!

use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_proto::Time;
use sluice_proto::iscsi::login_status::{self, Status};
use sluice_proto::iscsi::{
    InitiatorConfig, InitiatorConn, InitiatorEvent, IscsiName, Offers, Residual, Violation,
};
use sluice_proto::iscsi::{SENSE_LEN_MAX, TaskFunction, TaskFunctionResponse};
use sluice_proto::scsi::{ScsiStatus, Sense};

use super::holding::Deed;
use super::latency::Kind;
use super::nexus::{Probe, WanState};
use super::relay::{Net, Relay, Side};
use super::staging::{STAGE_LEN, StagePage};
use super::task::{NexusKey, ProbeStep, WanKind, WanTask, Work};

/// Between two looks whether the journal has a nexus' row.
const PERSIST_PAUSE: Duration = Duration::from_millis(1);
/// A connection attempt, a login or a logout that takes longer is given up.
const STEP_MAX: Duration = Duration::from_secs(5);
/// Commands of one nexus that are out at the storage: reads of its computer, and a full flush.
pub(super) const WAN_TASKS_MAX: u16 = 256;
/// Bytes read from one connection a step.
const SERVE_BYTES_MAX: usize = 256 * 1024;

/// An event of a nexus' connection that no longer borrows its stream.
enum Arrived {
    LoggedIn,
    LoginFailed(Status),
    Response {
        token: u64,
        status: ScsiStatus,
        sense: ArrayVec<u8, SENSE_LEN_MAX>,
        residual: Residual,
        failed: bool,
    },
    Aborted {
        token: u64,
    },
    Pong,
    Reset(TaskFunctionResponse),
    LogoutRequested {
        within_s: u16,
    },
    ScsiEvent {
        lun: u64,
        sense: ArrayVec<u8, SENSE_LEN_MAX>,
    },
    LoggedOut,
    Violation,
}

/// How a command at the storage ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended<'a> {
    pub status: ScsiStatus,
    pub residual: Residual,
    pub sense: &'a [u8],
}

/// Of a command of which no data counts, whatever has come.
const NOTHING: Residual = Residual::Underflow(u32::MAX);

impl<'a> Ended<'a> {
    /// By task management: no data counts.
    pub(super) const fn aborted() -> Self {
        Self {
            status: ScsiStatus::TASK_ABORTED,
            residual: NOTHING,
            sense: &[],
        }
    }

    /// Whether what has come of its data is whole: else not even the digest may have come.
    pub(super) fn counts(&self) -> bool {
        self.residual != NOTHING
    }

    /// With its session: nobody knows what became of it.
    pub(super) fn lost(sense: &'a [u8]) -> Self {
        Self {
            status: ScsiStatus::CHECK_CONDITION,
            residual: NOTHING,
            sense,
        }
    }
}

impl Relay {
    /// Begins a connection to the storage.
    pub(super) fn connect(&mut self, net: &mut Net<'_>, now: Time, key: NexusKey) {
        let nexus = &self.nexuses[key.0];
        if self.is_journalling() && !self.journal_has(nexus.persisted) {
            // After a power loss too it must be found under its ISID (C-8).
            self.nexuses[key.0].state = WanState::Backoff(now + PERSIST_PAUSE);
            return self.look_at_nexus(key);
        }
        let (buffers, reservation) = self.buffers_for(nexus.target);
        let target = &self.config.targets[nexus.target];
        match net.tcp.connect(
            now,
            net.pool,
            target.wan_address,
            target.address,
            buffers,
            reservation,
        ) {
            Ok(flow) => {
                let chap = self.config.security.login(
                    &target.name,
                    &nexus.initiator_name,
                    &mut self.challenges,
                );
                // The ISID that it had before, and TSIH 0: reinstatement (RFC 7143 7.15).
                let conn = InitiatorConn::new(InitiatorConfig {
                    initiator_name: nexus.initiator_name,
                    target_name: IscsiName::from(&target.name).ok(),
                    isid: nexus.wan_isid,
                    offers: self.config.wan_digests.over(Offers::long_fat_pipe()),
                    chap,
                    max_tasks: WAN_TASKS_MAX,
                });
                let nexus = &mut self.nexuses[key.0];
                nexus.flow = Some(flow);
                nexus.conn = Some(Box::new(conn));
                (nexus.sent, nexus.acknowledged, nexus.watched) = (0, 0, false);
                nexus.draws_refused = 0;
                nexus.leaving.clear();
                nexus.leave_by = None;
                nexus.state = WanState::Connecting;
                nexus.state_deadline = now + STEP_MAX;
                self.look_at_nexus(key);
                self.bind(flow, Side::Wan(key));
            }
            Err(_) => self.back_off(now, key),
        }
    }

    pub(super) fn wan_connected(&mut self, now: Time, key: NexusKey) {
        let nexus = &mut self.nexuses[key.0];
        nexus.state = WanState::LoggingIn;
        nexus.state_deadline = now + STEP_MAX;
        nexus.login_begun = now;
        nexus.last_heard = now;
        nexus.progressed = now;
        self.touch_nexus(key);
    }

    /// Takes what came from the storage and sends what is wanted.
    /// Returns whether more is waiting than one step may take.
    pub(super) fn serve_nexus(&mut self, net: &mut Net<'_>, now: Time, key: NexusKey) -> bool {
        let mut budget = SERVE_BYTES_MAX;
        while let Some(arrived) = self.receive_nexus(net, now, key, &mut budget) {
            match arrived {
                Arrived::LoggedIn => {
                    self.counters.wan_logins += 1;
                    self.no_longer_astray(key);
                    let nexus = &mut self.nexuses[key.0];
                    nexus.logins += 1;
                    nexus.login_response = now.since(nexus.login_begun);
                    nexus.state = WanState::Probing;
                    nexus.state_deadline = now + STEP_MAX * 2;
                    nexus.probe = Probe {
                        step: Some(ProbeStep::ReportLuns),
                        ..Probe::default()
                    };
                    self.look_at_nexus(key);
                    self.ask(now, key);
                    self.nexus_entered(now, key);
                }
                Arrived::LoginFailed(status) => self.wan_refused(net, now, key, status),
                Arrived::Response {
                    token,
                    status,
                    sense,
                    residual,
                    failed,
                } => {
                    let ended = Ended {
                        status,
                        residual,
                        sense: &sense,
                    };
                    self.response(net, now, token, ended, failed);
                }
                Arrived::Aborted { token } => {
                    if let Ok(wan_task) = usize::try_from(token) {
                        self.aborted_at_storage(net, now, wan_task);
                    }
                }
                Arrived::Pong => self.nexuses[key.0].pinged = None,
                Arrived::Reset(response) => self.reset_answered(net, now, key, response),
                // RFC 7143 11.9.1: the storage asks to be left, or for a new negotiation, which
                // a logout answers as well; we come back by ourselves.
                Arrived::LogoutRequested { within_s } => {
                    let wait = Duration::from_secs(u64::from(within_s) / 2).min(STEP_MAX);
                    self.nexuses[key.0].leave_by = Some(now + wait);
                    self.look_at_nexus(key);
                }
                Arrived::ScsiEvent { lun, sense } => self.heed_scsi_event(now, key, lun, &sense),
                Arrived::LoggedOut => self.wan_logged_out(net, now, key),
                Arrived::Violation => {
                    self.counters.violations += 1;
                    self.lose_wan(net, now, key);
                }
            }
            if !self.nexuses.contains(key.0) || self.nexuses[key.0].conn.is_none() {
                return false;
            }
        }
        self.send_wanted(now, key);
        for volume in self.volume_keys() {
            if self.serves_flush(volume, key) {
                self.flush_volume(now, volume);
            }
        }
        self.leave_storage(now, key);
        self.transmit_nexus(net, now, key);
        budget == 0
    }

    /// Logs out where the storage has asked for it, when nothing is out any more
    /// or its patience ends. What is dirty stays, and the session is made anew.
    fn leave_storage(&mut self, now: Time, key: NexusKey) {
        let Some(by) = self.nexuses.get(key.0).and_then(|nexus| nexus.leave_by) else {
            return;
        };
        let out = self.wan_tasks.iter().any(|(_, task)| task.nexus == key);
        let nexus = &mut self.nexuses[key.0];
        if by != Time::FAR
            && (!out || now >= by)
            && let Some(conn) = nexus.conn.as_mut()
        {
            conn.logout();
            nexus.leave_by = Some(Time::FAR);
        }
    }

    /// Feeds the connection from its stream until an event needs a decision.
    /// Read data goes to its staging page here.
    fn receive_nexus(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        key: NexusKey,
        budget: &mut usize,
    ) -> Option<Arrived> {
        let Self {
            nexuses,
            tasks,
            wan_tasks,
            staging,
            ..
        } = self;
        let nexus = nexuses.get_mut(key.0)?;
        let (Some(flow), Some(conn)) = (nexus.flow, nexus.conn.as_mut()) else {
            return None;
        };
        let mut arrived = None;
        let pool = &mut *net.pool;
        loop {
            if *budget == 0 {
                return None;
            }
            let mut taken = 0;
            let mut feed = |bytes: &[u8]| {
                let window = &bytes[..bytes.len().min(*budget)];
                while arrived.is_none() {
                    let (used, event) = conn.receive(&window[taken..]);
                    taken += used;
                    arrived = match event {
                        None if used == 0 || taken == window.len() => break,
                        None | Some(InitiatorEvent::SendTargets) => None,
                        Some(InitiatorEvent::TaskManagementResponse {
                            function: TaskFunction::LunReset,
                            response,
                            ..
                        }) => Some(Arrived::Reset(response)),
                        // Without a token the command's own answer came first, or will come.
                        Some(InitiatorEvent::TaskManagementResponse { token, .. }) => {
                            token.map(|token| Arrived::Aborted { token })
                        }
                        Some(InitiatorEvent::DataIn {
                            token,
                            offset,
                            bytes,
                        }) => {
                            if let Some(wan_task) = wan_task_mut(wan_tasks, token) {
                                store_data_in(
                                    wan_task,
                                    tasks,
                                    staging,
                                    pool,
                                    offset as usize,
                                    bytes,
                                );
                            }
                            None
                        }
                        Some(InitiatorEvent::Response {
                            token,
                            response,
                            status,
                            residual,
                            ..
                        }) => Some(Arrived::Response {
                            token,
                            status,
                            residual,
                            sense: conn.sense().iter().copied().collect(),
                            failed: response != 0,
                        }),
                        Some(InitiatorEvent::LoggedIn) => Some(Arrived::LoggedIn),
                        Some(InitiatorEvent::LoginFailed(failure)) => {
                            Some(Arrived::LoginFailed((failure.class, failure.detail)))
                        }
                        Some(InitiatorEvent::Pong) => Some(Arrived::Pong),
                        Some(InitiatorEvent::Async {
                            event: 1 | 4,
                            parameters: [_, _, within_s],
                            ..
                        }) => Some(Arrived::LogoutRequested { within_s }),
                        Some(InitiatorEvent::Async { lun, event, .. }) => {
                            self.counters.wan_async_events += 1;
                            (event == 0).then(|| Arrived::ScsiEvent {
                                lun,
                                sense: conn.sense().iter().copied().collect(),
                            })
                        }
                        Some(InitiatorEvent::LoggedOut { .. }) => Some(Arrived::LoggedOut),
                        // As if the storage had refused: nothing of it is to be believed.
                        Some(InitiatorEvent::Violation(Violation::Authentication)) => {
                            Some(Arrived::LoginFailed(login_status::AUTHENTICATION_FAILURE))
                        }
                        Some(InitiatorEvent::Violation(_)) => Some(Arrived::Violation),
                    };
                }
                taken
            };
            if net.tcp.recv_available(flow) == 0 {
                // The last PDU may have no byte left to come, and an end to tell of.
                feed(&[]);
            } else {
                net.tcp.recv(flow, feed);
            }
            *budget -= taken;
            if taken > 0 {
                nexus.last_heard = now;
            }
            if arrived.is_some() || taken == 0 {
                return arrived;
            }
        }
    }

    /// The storage has answered a command: back to the room that sent it.
    fn response(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        token: u64,
        ended: Ended<'_>,
        failed: bool,
    ) {
        let Some(at) = usize::try_from(token)
            .ok()
            .filter(|&at| self.wan_tasks.contains(at))
        else {
            return;
        };
        let WanTask {
            nexus,
            sent,
            left,
            kind,
            ..
        } = self.take_wan_task(at);
        let response = now.since(left.unwrap_or(sent));
        // RFC 7143 11.4.3: a response code other than 00h means the target failed, whatever the
        // status says. And an error without sense data (10.2) says nothing that a computer
        // could act on.
        let lost = Sense::COMMUNICATION_FAILURE.fixed();
        let mute = ended.status == ScsiStatus::CHECK_CONDITION && ended.sense.is_empty();
        let ended = if failed || mute {
            Ended::lost(&lost)
        } else {
            ended
        };
        let (status, sense) = (ended.status, ended.sense);
        if status == ScsiStatus::CHECK_CONDITION {
            self.heed_attention(now, nexus, kind, sense);
        }
        match kind {
            WanKind::Flush { volume, record } => {
                let state = self.volume_mut(volume);
                state.load.sample(now, response);
                state.latencies.record(Kind::Flush, response);
                self.flush_answered(net, now, nexus, volume, record, &ended);
            }
            WanKind::FlushSync { volume } => self.sync_answered(net, now, nexus, volume, &ended),
            WanKind::Chunk {
                task,
                volume,
                len,
                received,
                ..
            } => {
                self.volume_mut(volume).load.sample(now, response);
                self.judged(now, volume, nexus, Deed::Read, status);
                self.chunk_answered(net, now, at, task, volume, status, sense, received == len);
            }
            WanKind::Forward { task } => self.pass_answered(net, now, task, ended),
            WanKind::Stray { volume, .. } => {
                self.volume_mut(volume).strays -= 1;
                self.flush_volume(now, volume);
            }
            WanKind::Check {
                volume,
                doubts,
                step,
                page,
                received,
            } => {
                let answer = (page, received);
                self.check_answered(net, now, volume, (step, doubts), answer, (status, sense));
            }
            WanKind::Holding {
                volume,
                question,
                page,
                received,
            } => {
                let answer = (page, received);
                self.holding_answered(net, now, volume, question, answer, (status, sense));
            }
            WanKind::Poll { volume } => {
                self.volume_mut(volume).load.sample(now, response);
                self.judged(now, volume, nexus, Deed::Write, status);
            }
            WanKind::Probe {
                step,
                page,
                lun,
                doubts,
                received,
            } => {
                let unit = (lun, doubts);
                self.probe_answered(net, now, nexus, step, page, unit, received, status, sense);
            }
        }
    }
}

fn wan_task_mut(wan_tasks: &mut slab::Slab<WanTask>, token: u64) -> Option<&mut WanTask> {
    usize::try_from(token)
        .ok()
        .and_then(|at| wan_tasks.get_mut(at))
}

/// Puts data-in bytes in the staging pages of the command they answer. The
/// connection has checked that they lie within what was asked for.
fn store_data_in(
    wan_task: &mut WanTask,
    tasks: &mut slab::Slab<super::task::Task>,
    staging: &super::staging::Staging,
    pool: &mut sluice_hugepages::pool::Pool,
    offset: usize,
    bytes: &[u8],
) {
    let mut put = |page: StagePage, at: usize, bytes: &[u8]| {
        staging.bytes_mut(pool, page)[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let end = u32::try_from(offset + bytes.len()).expect("transfer lengths have 32 bits");
    match &mut wan_task.kind {
        WanKind::Chunk { page, received, .. }
        | WanKind::Check { page, received, .. }
        | WanKind::Holding { page, received, .. }
        | WanKind::Probe { page, received, .. } => {
            put(*page, offset, bytes);
            *received = end;
        }
        WanKind::Forward { task } => {
            let Work::Pass(pass) = &mut tasks[task.0].work else {
                return;
            };
            let mut done = 0;
            while done < bytes.len() {
                let at = offset + done;
                let len = (STAGE_LEN - at % STAGE_LEN).min(bytes.len() - done);
                put(
                    pass.pages[pass.pages_out + at / STAGE_LEN],
                    at % STAGE_LEN,
                    &bytes[done..done + len],
                );
                done += len;
            }
            pass.transferred = end;
        }
        WanKind::Flush { .. }
        | WanKind::FlushSync { .. }
        | WanKind::Poll { .. }
        | WanKind::Stray { .. } => {}
    }
}

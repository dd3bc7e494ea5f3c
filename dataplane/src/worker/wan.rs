//! The initiator side: connecting a nexus to its storage, asking what it is,
//! sending what is wanted, taking the answers, and coming back after a loss
//!

use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_proto::Time;
use sluice_proto::iscsi::login_status::{self, Status};
use sluice_proto::iscsi::{
    Direction, InitiatorConfig, InitiatorConn, InitiatorEvent, IscsiName, Offers, Residual,
    Violation,
};
use sluice_proto::iscsi::{SENSE_LEN_MAX, TaskFunction, TaskFunctionResponse};
use sluice_proto::scsi::{ScsiStatus, Sense, cdb, opcode};

use super::holding::Deed;
use super::nexus::{Probe, WanState};
use super::relay::{Net, Relay, Side};
use super::staging::{STAGE_LEN, StagePage};
use super::task::{ChunkState, NexusKey, ProbeStep, TaskKey, VolumeKey, WanKind, WanTask, Work};
use super::upkeep::nexus_slot;
use super::volume::ReadOut;

/// A connection attempt, a login or a logout that takes longer is given up.
const STEP_MAX: Duration = Duration::from_secs(5);
/// Commands of one nexus that are out at the storage: reads of its computer, and a full flush.
const WAN_TASKS_MAX: u16 = 256;
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

impl<'a> Ended<'a> {
    /// By task management: no data counts.
    pub(super) const fn aborted() -> Self {
        Self {
            status: ScsiStatus::TASK_ABORTED,
            residual: Residual::Underflow(u32::MAX),
            sense: &[],
        }
    }

    /// With its session: nobody knows what became of it.
    fn lost(sense: &'a [u8]) -> Self {
        Self {
            status: ScsiStatus::CHECK_CONDITION,
            residual: Residual::Underflow(u32::MAX),
            sense,
        }
    }
}

impl Relay {
    /// Begins a connection to the storage.
    pub(super) fn connect(&mut self, net: &mut Net<'_>, now: Time, key: NexusKey) {
        let nexus = &self.nexuses[key.0];
        let target = &self.config.targets[nexus.target];
        match net.tcp.connect(
            now,
            net.pool,
            target.wan_address,
            target.address,
            self.config.wan_buffers,
        ) {
            Ok(flow) => {
                let chap = self.config.security.login(
                    &target.name,
                    &nexus.initiator_name,
                    &mut self.challenges,
                );
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
                // RFC 7143 11.9.1: the storage asks to be left; we come back by ourselves.
                Arrived::LogoutRequested { within_s } => {
                    let wait = Duration::from_secs(u64::from(within_s) / 2).min(STEP_MAX);
                    self.nexuses[key.0].leave_by = Some(now + wait);
                    self.look_at_nexus(key);
                }
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
        self.send_wanted(net, now, key);
        for volume in self.volume_keys() {
            if self.volume(volume).flush_nexus == Some(key) {
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
                            event: 1,
                            parameters: [_, _, within_s],
                            ..
                        }) => Some(Arrived::LogoutRequested { within_s }),
                        Some(InitiatorEvent::Async { .. }) => None,
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

    /// Sends what is queued for the storage, as far as its window and buffer go.
    fn transmit_nexus(&mut self, net: &mut Net<'_>, now: Time, key: NexusKey) {
        let Self {
            nexuses,
            tasks,
            wan_tasks,
            staging,
            log,
            nexus_timers,
            ..
        } = self;
        let Some(nexus) = nexuses.get_mut(key.0) else {
            return;
        };
        let (Some(flow), Some(conn)) = (nexus.flow, nexus.conn.as_mut()) else {
            return;
        };
        if nexus.state == WanState::Connecting {
            return;
        }
        while conn.has_output() {
            let pool = &*net.pool;
            let sent = net.tcp.send(flow, |out| {
                conn.transmit(out, |token, offset, into| {
                    let from = offset as usize;
                    let wan_task = usize::try_from(token).ok().and_then(|at| wan_tasks.get(at));
                    match wan_task
                        .expect("data is fetched for commands that are out")
                        .kind
                    {
                        WanKind::Flush { record, .. }
                        | WanKind::Stray {
                            record: Some(record),
                            ..
                        } => {
                            let payload = log.payload(sluice_hugepages::log::RecordId(record));
                            into.copy_from_slice(&payload[from..from + into.len()]);
                        }
                        WanKind::Forward { task } => {
                            let Work::Pass(pass) = &tasks[task.0].work else {
                                unreachable!("only passing commands forward data")
                            };
                            let mut done = 0;
                            while done < into.len() {
                                let at = from + done;
                                let len = (STAGE_LEN - at % STAGE_LEN).min(into.len() - done);
                                let page = staging.bytes(pool, pass.pages[at / STAGE_LEN]);
                                into[done..done + len]
                                    .copy_from_slice(&page[at % STAGE_LEN..at % STAGE_LEN + len]);
                                done += len;
                            }
                        }
                        WanKind::FlushSync { .. }
                        | WanKind::Stray { record: None, .. }
                        | WanKind::Chunk { .. }
                        | WanKind::Check { .. }
                        | WanKind::Holding { .. }
                        | WanKind::Poll { .. }
                        | WanKind::Probe { .. } => {
                            unreachable!("these commands have no data-out")
                        }
                    }
                })
            });
            if sent == 0 {
                break;
            }
            nexus.sent += sent as u64;
            if !nexus.watched {
                (nexus.watched, nexus.progressed) = (true, now);
                nexus_timers.arm(nexus_slot(key), Time::ZERO);
            }
        }
    }

    /// Sends the commands and chunks that wait for this nexus, as far as its window goes.
    fn send_wanted(&mut self, net: &mut Net<'_>, now: Time, key: NexusKey) {
        let _ = net;
        while let Some(nexus) = self.nexuses.get_mut(key.0)
            && nexus.is_ready()
            && nexus.window() > 0
            && self.wan_tasks.len() < self.wan_tasks.capacity()
        {
            let target = nexus.target;
            let Some(&task) = nexus.wanted.front() else {
                return;
            };
            // C-8: an older change could land after it.
            if self.is_fenced_off(target) && self.passes_change(task) {
                return;
            }
            if !self.send_for(now, key, task) {
                self.nexuses[key.0].wanted.pop_front();
            }
        }
    }

    /// Sends one thing that the task wants; false if it wants no more. A task on
    /// the list wants something: one that is answered is on it no more.
    fn send_for(&mut self, now: Time, key: NexusKey, task_key: TaskKey) -> bool {
        let task = &mut self.tasks[task_key.0];
        let (lun, mut cdb, volume) = (task.lun, task.cdb, task.volume);
        let cdb_rest = task.cdb_rest;
        if task.fua_write().is_some() {
            // The computer was told that FUA is honoured; the storage may not know it.
            let at = if cdb[0] == opcode::VARIABLE_LENGTH {
                10
            } else {
                1
            };
            cdb[at] &= !(cdb::DPO | cdb::FUA);
        }
        let expected = task.expected_len;
        let direction = match &mut task.work {
            Work::Read(read) => {
                let Some(at) = read
                    .chunks
                    .iter()
                    .position(|chunk| chunk.state == ChunkState::Wanted)
                else {
                    return false;
                };
                let (page, lba, blocks) = (
                    read.chunks[at].page,
                    read.chunks[at].lba,
                    read.chunks[at].blocks,
                );
                let volume = volume.expect("a read has a volume");
                let geometry = self
                    .volume(volume)
                    .geometry
                    .expect("a read was planned with the geometry");
                let len = blocks * geometry.block_len;
                let kind = WanKind::Chunk {
                    task: task_key,
                    volume,
                    page,
                    len,
                    received: 0,
                };
                let wan_task = self.submit(
                    now,
                    key,
                    kind,
                    lun,
                    cdb::read(lba, blocks),
                    Direction::In(len),
                );
                let read = self.read_mut(task_key);
                read.chunks[at].state = ChunkState::Asked(wan_task);
                let wants_more = read
                    .chunks
                    .iter()
                    .any(|chunk| chunk.state == ChunkState::Wanted);
                let state = self.volume_mut(volume);
                state.reads_asked += 1;
                let number = state.reads_asked;
                state.reads_out.push(ReadOut {
                    wan_task,
                    number,
                    lba,
                    blocks: u64::from(blocks),
                });
                return wants_more;
            }
            Work::Pass(pass) if pass.read && pass.write => Direction::Both {
                out_len: expected,
                in_len: pass.read_len,
            },
            Work::Pass(pass) if pass.read => Direction::In(expected),
            Work::Pass(pass) if pass.write => Direction::Out(expected),
            Work::Pass(_) => Direction::None,
            Work::Write(_) | Work::Sync(_) => unreachable!("these go by way of the flush"),
        };
        let wan_task = self.submit_long(
            now,
            key,
            WanKind::Forward { task: task_key },
            lun,
            (cdb, cdb_rest),
            direction,
        );
        self.pass_mut(task_key).asked = Some(wan_task);
        false
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
        let WanTask { nexus, sent, kind } = self.wan_tasks.remove(at);
        // RFC 7143 11.4.3: a response code other than 00h means the target failed, whatever the status says.
        let lost = Sense::COMMUNICATION_FAILURE.fixed();
        let ended = if failed { Ended::lost(&lost) } else { ended };
        let (status, sense) = (ended.status, ended.sense);
        if status == ScsiStatus::CHECK_CONDITION {
            self.heed_attention(now, nexus, kind, sense);
        }
        match kind {
            WanKind::Flush { volume, record } => {
                self.volume_mut(volume).sample_load(now.since(sent));
                self.flush_answered(net, now, volume, record, status, sense);
            }
            WanKind::FlushSync { volume } => self.sync_answered(net, now, volume, status, sense),
            WanKind::Chunk {
                task,
                volume,
                len,
                received,
                ..
            } => {
                self.volume_mut(volume).sample_load(now.since(sent));
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
                step,
                page,
                received,
            } => self.check_answered(net, now, volume, step, (page, received), (status, sense)),
            WanKind::Holding {
                volume,
                question,
                page,
                received,
            } => {
                let answer = (page, received);
                self.holding_answered(net, now, volume, question, answer, (status, sense));
            }
            WanKind::Poll { volume } => self.judged(now, volume, nexus, Deed::Write, status),
            WanKind::Probe {
                step,
                page,
                lun,
                received,
            } => {
                self.probe_answered(net, now, nexus, step, page, lun, received, status, sense);
            }
        }
    }

    /// The session is lost: everything out comes back to where it came from.
    pub(super) fn lose_wan(&mut self, net: &mut Net<'_>, now: Time, key: NexusKey) {
        if let Some(flow) = self.nexuses[key.0].flow.take() {
            net.tcp.abort(flow);
            self.unbind(flow);
        }
        if self.nexuses[key.0].conn.take().is_some() && self.nexuses[key.0].state == WanState::Ready
        {
            self.counters.wan_losses += 1;
        }
        self.nexuses[key.0].pinged = None;
        self.nexus_left(key);
        for volume in self.volume_keys() {
            if self.volume(volume).flush_nexus == Some(key) {
                self.flush.session_lost(volume.0);
            }
        }
        // At most as many as the session's window; collected since answering changes the slab.
        let out: Vec<usize> = self
            .wan_tasks
            .iter()
            .filter(|(_, task)| task.nexus == key)
            .map(|(at, _)| at)
            .collect();
        for at in out {
            let WanTask { kind, .. } = self.wan_tasks.remove(at);
            if self.may_change_media(&kind) {
                self.gone_astray(key);
            }
            match kind {
                WanKind::Flush { .. } | WanKind::FlushSync { .. } => {}
                // Reinstatement ends them before anything is sent again.
                WanKind::Stray { volume, .. } => self.volume_mut(volume).strays -= 1,
                WanKind::Chunk { task, volume, .. } => self.chunk_lost(at, task, volume),
                WanKind::Forward { task } => {
                    // Until the reinstatement it may still be done: a function that
                    // has ended it is not told that it is over, and is rejected.
                    self.pass_mut(task).aborting = false;
                    // Nobody knows whether it was done: the computer is told so, and decides.
                    let sense = Sense::COMMUNICATION_FAILURE.fixed();
                    self.pass_answered(net, now, task, Ended::lost(&sense));
                }
                WanKind::Probe { page, .. } | WanKind::Check { page, .. } => {
                    self.staging.give(page)
                }
                WanKind::Holding { volume, page, .. } => self.holding_lost(volume, page),
                WanKind::Poll { .. } => {}
            }
        }
        for volume in self.volume_keys() {
            self.release_durable(net, now, volume);
        }
        self.give_up_resets(key);
        let leaves = self.nexuses[key.0].state == WanState::LoggingOut;
        // What it was to leave behind may have come back to it since it said so.
        if leaves && !self.nexuses[key.0].astray && !self.carries_flush(key) {
            self.nexuses[key.0].state = WanState::Gone;
            self.look_at_nexus(key);
        } else {
            self.back_off(now, key);
        }
        self.feed_starved(net, now);
    }

    pub(super) fn back_off(&mut self, now: Time, key: NexusKey) {
        let random = self.draw();
        let nexus = &mut self.nexuses[key.0];
        let pause = nexus.backoff(random);
        nexus.attempts += 1;
        nexus.state = WanState::Backoff(now + pause);
        self.look_at_nexus(key);
    }

    /// A chunk goes back to be asked again, or its page home if nobody waits.
    fn chunk_lost(&mut self, wan_task: usize, key: TaskKey, volume: VolumeKey) {
        self.volume_mut(volume)
            .reads_out
            .retain(|read| read.wan_task != wan_task);
        let orphan = self.tasks[key.0].lan.is_none();
        let staging = &mut self.staging;
        let Work::Read(read) = &mut self.tasks[key.0].work else {
            unreachable!("chunks belong to reads")
        };
        let at = read
            .chunks
            .iter()
            .position(|chunk| chunk.state == ChunkState::Asked(wan_task));
        let at = at.expect("a read keeps its chunks until they are answered");
        if orphan || read.failed {
            staging.give(read.chunks.remove(at).page);
            self.finish_read(key);
        } else {
            read.chunks[at].state = ChunkState::Wanted;
            let nexus = self.tasks[key.0].nexus;
            if !self.nexuses[nexus.0].wanted.contains(&key) {
                self.nexuses[nexus.0].wanted.push_back(key);
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

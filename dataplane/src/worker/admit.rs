//! The target side: a computer's bytes become commands, and each command goes
//! to the room that does it. The way of a write starts here.

use sluice_proto::Time;
use sluice_proto::iscsi::{
    CommandEvent, TargetEvent, TaskAttribute, TaskFunction, TaskId, Violation,
};
use sluice_proto::scsi::{self, Access, ScsiStatus, Sense, lun_number};

use super::lan::LanState;
use super::relay::{Net, Relay};
use super::task::{
    LanKey, NexusKey, PASS_BYTES_MAX, PassTask, Task, TaskKey, VolumeKey, Work, WriteState,
};

/// Bytes read from one connection a step, so that one sender cannot stall forwarding.
pub const SERVE_BYTES_MAX: usize = 256 * 1024;

/// How long the last answers of a session may take to go out.
pub(super) const CLOSING_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// What [`Relay::receive_lan`] hands out: an event that no longer borrows the stream.
enum Arrived {
    Authenticate,
    Login,
    LoggedIn,
    Command(CommandEvent),
    WriteComplete(TaskId),
    DataFault(TaskId),
    TaskManagement {
        tag: u32,
        function: TaskFunction,
        lun: u64,
        referenced: Option<TaskId>,
    },
    SendTargets,
    Pong,
    Logout,
    Violation(Violation),
}

impl Relay {
    /// Reads what has come from a computer, does it, and sends what is queued.
    /// Returns whether more is waiting than one step may take.
    pub(super) fn serve_lan(&mut self, net: &mut Net<'_>, now: Time, key: LanKey) -> bool {
        let mut budget = SERVE_BYTES_MAX;
        while let Some(arrived) = self.receive_lan(net, now, key, &mut budget) {
            match arrived {
                Arrived::Authenticate => match self.authenticate(key) {
                    Some(TargetEvent::Login) => self.login(net, now, key),
                    Some(TargetEvent::Violation(violation)) => self.breach(now, key, violation),
                    _ => {}
                },
                Arrived::Login => self.login(net, now, key),
                Arrived::LoggedIn => {
                    self.lans[key.0].state = LanState::FullFeature;
                    // From now on it is its silence that ends it.
                    self.look_at_lan(key);
                    self.end_of_login(key);
                    if !self.accepting {
                        self.lose_lan(net, key);
                    }
                }
                Arrived::Command(command) => self.command(net, now, key, &command),
                Arrived::WriteComplete(task) => {
                    if let Some(task) = self.lans[key.0].task(task) {
                        self.data_complete(now, task);
                    }
                }
                Arrived::DataFault(task) => {
                    if let Some(task) = self.lans[key.0].task(task) {
                        let sense = Sense::PROTOCOL_SERVICE_CRC_ERROR.fixed();
                        self.give_up(task, ScsiStatus::CHECK_CONDITION, &sense);
                    }
                }
                Arrived::TaskManagement {
                    tag,
                    function,
                    lun,
                    referenced,
                } => {
                    if self.task_management(net, now, key, tag, function, lun, referenced) {
                        budget = 0;
                    }
                }
                Arrived::SendTargets => self.send_targets(key),
                Arrived::Pong => self.lans[key.0].pinged = None,
                Arrived::Logout => {
                    self.end_tasks_of(key);
                    self.begin_closing(now, key);
                }
                Arrived::Violation(violation) => self.breach(now, key, violation),
            }
            if !self.lans.contains(key.0) {
                return false;
            }
        }
        self.advance_line(net, now, key);
        self.narrow_window(key);
        let Some(lan) = self.lans.get(key.0) else {
            return false;
        };
        let flow = lan.flow;
        let sent = self.transmit_lan(net, key);
        // Input may have waited for the answers that have gone out now.
        budget == 0 || sent && self.lans.contains(key.0) && net.tcp.recv_available(flow) > 0
    }

    /// Nothing more is read; what is queued has this long to go out.
    pub(super) fn begin_closing(&mut self, now: Time, key: LanKey) {
        let lan = &mut self.lans[key.0];
        lan.state = LanState::Closing;
        lan.login_deadline = now + CLOSING_MAX;
        self.look_at_lan(key);
    }

    fn breach(&mut self, now: Time, key: LanKey, violation: Violation) {
        if violation == Violation::Authentication {
            self.counters.unproved += 1;
        } else {
            self.counters.violations += 1;
        }
        self.begin_closing(now, key);
    }

    /// Feeds the connection from its stream until an event needs a decision.
    /// Data of writes goes to its place here, in the one copy from stream to log.
    fn receive_lan(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        key: LanKey,
        budget: &mut usize,
    ) -> Option<Arrived> {
        let Self {
            lans,
            tasks,
            log,
            staging,
            ..
        } = self;
        let lan = lans.get_mut(key.0)?;
        if lan.state == LanState::Closing || *budget == 0 {
            return None;
        }
        let flow = lan.flow;
        let mut arrived = None;
        loop {
            let mut taken = 0;
            let mut feed = |bytes: &[u8]| {
                let window = &bytes[..bytes.len().min(*budget)];
                while arrived.is_none() {
                    let (used, event) = lan.conn.receive(&window[taken..]);
                    taken += used;
                    arrived = match event {
                        None if used == 0 || taken == window.len() => break,
                        None => None,
                        Some(TargetEvent::Data { task, bytes, .. }) => {
                            let slot = lan.task(task);
                            if let Some(task) = slot.and_then(|task| tasks.get_mut(task.0)) {
                                task.moved = now;
                                land(task, bytes, log, staging, net.pool);
                            }
                            None
                        }
                        Some(TargetEvent::Authenticate) => Some(Arrived::Authenticate),
                        Some(TargetEvent::Login) => Some(Arrived::Login),
                        Some(TargetEvent::LoggedIn) => Some(Arrived::LoggedIn),
                        Some(TargetEvent::Command(command)) => Some(Arrived::Command(command)),
                        Some(TargetEvent::WriteComplete { task }) => {
                            Some(Arrived::WriteComplete(task))
                        }
                        Some(TargetEvent::DataFault { task }) => Some(Arrived::DataFault(task)),
                        Some(TargetEvent::TaskManagement {
                            tag,
                            function,
                            lun,
                            ref_task,
                        }) => Some(Arrived::TaskManagement {
                            tag,
                            function,
                            lun,
                            referenced: ref_task,
                        }),
                        Some(TargetEvent::SendTargets) => Some(Arrived::SendTargets),
                        Some(TargetEvent::Pong) => Some(Arrived::Pong),
                        Some(TargetEvent::Logout { .. }) => Some(Arrived::Logout),
                        Some(TargetEvent::Violation(violation)) => {
                            Some(Arrived::Violation(violation))
                        }
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
                lan.last_heard = now;
            }
            if arrived.is_some() || taken == 0 || *budget == 0 {
                return arrived;
            }
        }
    }

    /// Sends what is queued for a computer, as far as its window and buffer go.
    /// Whether anything went.
    fn transmit_lan(&mut self, net: &mut Net<'_>, key: LanKey) -> bool {
        let Some(lan) = self.lans.get_mut(key.0) else {
            return false;
        };
        let mut sent_any = false;
        let staging = &mut self.staging;
        while lan.conn.has_output() {
            let pool = &*net.pool;
            let sent = net.tcp.send(lan.flow, |out| {
                lan.conn.transmit(out, |token, offset, into| {
                    let from = offset as usize;
                    let page = staging.bytes(pool, page_of(token));
                    into.copy_from_slice(&page[from..from + into.len()]);
                })
            });
            if sent == 0 {
                break;
            }
            sent_any = true;
        }
        let mut released = false;
        while let Some(token) = lan.conn.next_released() {
            lan.release_page(page_of(token));
            staging.give(page_of(token));
            released = true;
        }
        // RFC 7143 11.13.5: a login that the connection itself has refused closes it, too.
        if lan.conn.is_finished() || lan.state == LanState::Closing && !lan.conn.has_output() {
            net.tcp.close(lan.flow);
            self.detach_lan(key);
        }
        if released {
            self.feed_starved(net);
        }
        sent_any
    }

    /// Sends a command to the room that does it.
    fn command(&mut self, net: &mut Net<'_>, now: Time, lan: LanKey, command: &CommandEvent) {
        let Some(nexus_key) = self.lans[lan.0].nexus else {
            return self.refuse(lan, command.task, ScsiStatus::BUSY, &[]);
        };
        if let Some(sense) = self.take_unit_attention(nexus_key, command) {
            return self.refuse(lan, command.task, ScsiStatus::CHECK_CONDITION, &sense);
        }
        let nexus = &self.nexuses[nexus_key.0];
        let volume = self.find_volume(nexus.target, command.lun);
        let (cdb, cdb_rest) = match self.lans[lan.0].whole_cdb(command) {
            Ok(whole) => whole,
            Err(fault) => {
                let sense = fault.fixed();
                return self.refuse(lan, command.task, ScsiStatus::CHECK_CONDITION, &sense);
            }
        };
        let withheld = scsi::identity::names_storage_unit(&cdb)
            && self.config.targets[self.nexuses[nexus_key.0].target].own_identity;
        let access = match scsi::classify(&cdb) {
            Ok(_) if withheld => {
                let sense = Sense::INVALID_COMMAND_OPERATION_CODE.fixed();
                return self.refuse(lan, command.task, ScsiStatus::CHECK_CONDITION, &sense);
            }
            Ok(access) => access,
            Err(fault) => {
                return self.refuse(
                    lan,
                    command.task,
                    ScsiStatus::CHECK_CONDITION,
                    &fault.fixed(),
                );
            }
        };
        if let Some(sense) = self.unreachable_unit(volume, command.lun, access) {
            let sense = sense.fixed();
            return self.refuse(lan, command.task, ScsiStatus::CHECK_CONDITION, &sense);
        }
        // A write's turn comes later, and it is looked at then.
        if let (Some(volume), Access::Read { .. } | Access::Sync { .. }) = (volume, access)
            && let Some(sense) = self.refused_over(volume, access)
        {
            return self.refuse(lan, command.task, ScsiStatus::CHECK_CONDITION, &sense);
        }
        if self.tasks.len() == self.tasks.capacity() {
            return self.refuse(lan, command.task, ScsiStatus::TASK_SET_FULL, &[]);
        }
        let known =
            volume.and_then(|key| self.volume(key).geometry.map(|geometry| (key, geometry)));
        let judged = self.is_for_storage(
            volume,
            nexus_key,
            access,
            command.attribute == TaskAttribute::Ordered,
            command.expected_len,
        );
        let work = match (known, access) {
            // Beyond the end while that is being asked for, it is the storage's to judge.
            (Some((key, geometry)), Access::Write { lba, blocks, fua })
                if !judged
                    && (geometry.has(lba, blocks) || !self.volume(key).waits_for_storage())
                    && command.write
                    && !command.read
                    && u64::from(command.expected_len)
                        == u64::from(blocks) * u64::from(geometry.block_len) =>
            {
                self.plan_write(geometry, lba, blocks, fua, command)
            }
            // With FUA from the medium (SBC-4 4.15): what is cached of it is flushed first. One
            // too long to pass is read as ever.
            (Some((key, geometry)), Access::Read { lba, blocks, fua })
                if (geometry.has(lba, blocks) || !self.volume(key).waits_for_storage())
                    && (!fua || command.expected_len as usize > PASS_BYTES_MAX)
                    && command.read
                    && !command.write
                    && u64::from(command.expected_len)
                        == u64::from(blocks) * u64::from(geometry.block_len) =>
            {
                Self::plan_read(geometry, lba, blocks)
            }
            // Beyond the volume the storage refuses it.
            (Some((key, geometry)), Access::Sync { immed, .. })
                if !judged
                    && !command.read
                    && !command.write
                    && access.check(geometry.blocks).is_ok() =>
            {
                Ok(self.plan_sync(key, immed))
            }
            (known, access) => {
                self.plan_pass(known.map(|(key, _)| key), access, nexus_key, command)
            }
        };
        let work = match work {
            Ok(work) => work,
            Err(Refusal { status, sense }) => {
                return self.refuse(lan, command.task, status, sense.as_ref());
            }
        };
        let key = TaskKey(self.tasks.insert(Task {
            lan: Some((lan, command.task)),
            nexus: nexus_key,
            volume: known.map(|(key, _)| key),
            lun: command.lun,
            cdb: command.cdb,
            cdb_rest,
            expected_len: command.expected_len,
            begun: now,
            deadline: now + self.config.wait_max,
            moved: now,
            arrival: self.arrivals,
            attribute: command.attribute,
            dormant: false,
            work,
        }));
        self.arrivals += 1;
        self.nexuses[nexus_key.0].tasks += 1;
        self.nexuses[nexus_key.0].commands += 1;
        self.lans[lan.0].tasks[usize::from(command.task.0)] = Some(key);
        if let (Some((volume, _)), false) = (known, matches!(self.tasks[key.0].work, Work::Pass(_)))
        {
            self.note_local(nexus_key, volume);
        }
        let its_turn = self.line_up(lan, key);
        match self.tasks[key.0].work {
            // Its data may come; only its commit waits for its turn.
            Work::Write(_) => self.start_write(key),
            _ if its_turn => self.begin(net, key),
            _ => self.tasks[key.0].dormant = true,
        }
    }

    /// A command other than a write begins: its turn has come.
    pub(super) fn begin(&mut self, net: &mut Net<'_>, key: TaskKey) {
        let task = &self.tasks[key.0];
        if let (TaskAttribute::Ordered, Some(volume)) = (task.attribute, task.volume) {
            self.volume_mut(volume).close_epoch();
        }
        match self.tasks[key.0].work {
            Work::Write(_) => unreachable!("writes begin when they arrive"),
            Work::Read(_) => self.start_read(net, key),
            Work::Sync(_) => {
                if let Some((lan, _)) = self.tasks[key.0].lan {
                    self.leave_line(lan, key);
                }
                self.start_sync(key);
            }
            Work::Pass(_) => self.start_pass(key),
        }
    }

    /// Puts a task on the list of those that have something to send.
    pub(super) fn want(&mut self, nexus: NexusKey, key: TaskKey) {
        let first = self.tasks[key.0].attribute == TaskAttribute::HeadOfQueue;
        let wanted = &mut self.nexuses[nexus.0].wanted;
        if first {
            wanted.push_front(key);
        } else {
            wanted.push_back(key);
        }
        self.touch_nexus(nexus);
    }

    /// Why no command that touches blocks may go to this unit: the cache cannot
    /// tell whose blocks they are, or they are not the log's.
    fn unreachable_unit(
        &self,
        volume: Option<VolumeKey>,
        lun: u64,
        access: Access,
    ) -> Option<Sense> {
        if access == Access::None {
            return None;
        }
        match volume {
            Some(volume) => self
                .volume(volume)
                .misfit
                .then_some(Sense::INTERNAL_TARGET_FAILURE),
            // Storages differ in what they make of the rest of a LUN; some would
            // take this for a volume that the cache knows by another name.
            None => lun_number(lun)
                .is_none()
                .then_some(Sense::LOGICAL_UNIT_NOT_SUPPORTED),
        }
    }

    /// All data-out of a command is here.
    fn data_complete(&mut self, now: Time, key: TaskKey) {
        match self.tasks[key.0].work {
            Work::Write(_) => self.commit_write(now, key),
            Work::Pass(ref mut pass) => {
                pass.data_complete = true;
                self.continue_pass(key);
            }
            Work::Read(_) | Work::Sync(_) => {}
        }
    }

    /// Ends a command that is not in the log yet: what it holds is given back.
    pub(super) fn give_up(&mut self, key: TaskKey, status: ScsiStatus, sense: &[u8]) {
        self.answer(key, status, sense, 0);
        self.abandon(key);
    }

    /// Lets go of a task whose computer has been answered or has gone. What is
    /// out at the storage keeps it until the answer comes; what is in the log stays (C-3).
    pub(super) fn abandon(&mut self, key: TaskKey) {
        self.tasks[key.0].lan = None;
        let volume = self.tasks[key.0].volume;
        let gone = match &mut self.tasks[key.0].work {
            Work::Write(write) => {
                match write.state {
                    WriteState::Held { page, .. } => {
                        self.staging.give(page);
                        self.held.retain(|&held| held != key);
                        self.room_moved |= !self.held.is_empty();
                    }
                    WriteState::Landing(id) | WriteState::Dormant(id) => self.give_room(key, id),
                    WriteState::Behind(id) => {
                        self.give_room(key, id);
                        self.leave_volume(volume, key);
                    }
                    WriteState::Journal { .. } => self.leave_journal(key),
                    WriteState::Delayed => self.delayed.retain(|&(_, delayed)| delayed != key),
                    WriteState::Durable { .. } => self.leave_volume(volume, key),
                }
                true
            }
            Work::Read(_) => self.abandon_read(key),
            Work::Sync(_) => {
                self.leave_volume(volume, key);
                true
            }
            Work::Pass(pass) if pass.asked.is_some() => false,
            Work::Pass(pass) => {
                for page in pass.pages.drain(..) {
                    self.staging.give(page);
                }
                if let Some(room) = pass.room.take() {
                    self.give_room(key, room);
                }
                self.end_pass(key);
                true
            }
        };
        if gone {
            let nexus = self.tasks[key.0].nexus;
            self.nexuses[nexus.0].wanted.retain(|&wanted| wanted != key);
            self.forget(key);
        }
    }

    /// Takes a task off its volume's lists.
    fn leave_volume(&mut self, volume: Option<VolumeKey>, key: TaskKey) {
        let Some(volume) = volume else { return };
        let state = self.volume_mut(volume);
        state.behind.retain(|&task| task != key);
        state.waiting.retain(|&task| task != key);
    }
}

/// Why a command is not taken up.
pub(super) struct Refusal {
    pub status: ScsiStatus,
    pub sense: arrayvec::ArrayVec<u8, { super::nexus::SENSE_LEN }>,
}

impl Refusal {
    pub fn sense(sense: Sense) -> Self {
        let mut bytes = arrayvec::ArrayVec::new();
        bytes
            .try_extend_from_slice(&sense.fixed())
            .expect("fixed sense is SENSE_LEN bytes");
        Self {
            status: ScsiStatus::CHECK_CONDITION,
            sense: bytes,
        }
    }

    pub fn status(status: ScsiStatus) -> Self {
        Self {
            status,
            sense: arrayvec::ArrayVec::new(),
        }
    }
}

/// Puts data-out bytes in their place: the log, or staging pages.
fn land(
    task: &mut Task,
    bytes: &[u8],
    log: &mut sluice_hugepages::log::Log,
    staging: &super::staging::Staging,
    pool: &mut sluice_hugepages::pool::Pool,
) {
    use super::staging::STAGE_LEN;
    match &mut task.work {
        Work::Write(write) => match &mut write.state {
            WriteState::Landing(id) => log.append(*id, bytes),
            WriteState::Held { page, received } => {
                // At most FirstBurstLength comes unasked, and that is a page (RFC 7143 13.14).
                let from = *received as usize;
                staging.bytes_mut(pool, *page)[from..from + bytes.len()].copy_from_slice(bytes);
                *received += u32::try_from(bytes.len()).expect("a page of data");
            }
            WriteState::Dormant(_)
            | WriteState::Behind(_)
            | WriteState::Delayed
            | WriteState::Journal { .. }
            | WriteState::Durable { .. } => {
                unreachable!("complete writes get no more data")
            }
        },
        Work::Pass(PassTask {
            room: Some(room),
            landed,
            ..
        }) => {
            log.append(*room, bytes);
            *landed += u32::try_from(bytes.len()).expect("a part of a write");
        }
        Work::Pass(PassTask { pages, landed, .. }) => {
            let mut rest = bytes;
            while !rest.is_empty() {
                let at = *landed as usize;
                let room = STAGE_LEN - at % STAGE_LEN;
                let (now, later) = rest.split_at(rest.len().min(room));
                let page = pages[at / STAGE_LEN];
                staging.bytes_mut(pool, page)[at % STAGE_LEN..at % STAGE_LEN + now.len()]
                    .copy_from_slice(now);
                *landed += u32::try_from(now.len()).expect("a page of data");
                rest = later;
            }
        }
        Work::Read(_) | Work::Sync(_) => {}
    }
}

/// The staging page that a transfer token names.
pub(super) fn page_of(token: u64) -> super::staging::StagePage {
    let number = u16::try_from(token).expect("tokens towards computers are page numbers");
    super::staging::StagePage::from_number(number)
}

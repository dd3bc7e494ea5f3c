//! The model storage: an iSCSI target whose volume has a volatile write cache.
//!
//! Commands take a random while and may finish in any order. What was written
//! is visible at once and reaches stable media at SYNCHRONIZE CACHE, or block
//! by block whenever the storage likes. A power failure takes the rest away,
//! and the sessions; a reset takes it away and leaves them, with what they have
//! under way, to be told by a unit attention.

mod fault;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use sluice_proto::Time;
use sluice_proto::iscsi::{
    CommandEvent, TargetConfig, TargetConn, TargetEvent, TaskFunction, TaskFunctionResponse,
    TaskId, login_status,
};
use sluice_proto::scsi::reservation::Change;
use sluice_proto::scsi::{self, Access, ScsiStatus, Sense, SenseKey, opcode};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

pub use fault::{Fault, Refusal};

use crate::block::{self, BLOCK_LEN};
use crate::host::Host;
use crate::oracle::Image;
use crate::random::Random;
use crate::reservation::{InitiatorPort, Refused, Reservations, Told};

pub const PORT: u16 = 3260;
const LISTENERS: usize = 4;
/// The LUN of the one volume (SAM-5 single level, LUN 1).
pub const LUN: u64 = 1 << 48;

#[derive(Debug)]
struct Pending {
    task: TaskId,
    due: Time,
    command: CommandEvent,
    /// The CDB with what came beyond its first 16 bytes.
    cdb: Vec<u8>,
    data: Vec<u8>,
    complete: bool,
}

#[derive(Debug)]
struct Session {
    handle: SocketHandle,
    conn: Box<TargetConn>,
    isid: Option<[u8; 6]>,
    open: bool,
    pending: Vec<Pending>,
    /// Data-in under way, by token.
    answers: Vec<(u64, Vec<u8>)>,
    attention: bool,
    /// Other unit attentions, oldest first.
    told: VecDeque<Sense>,
    port: Option<InitiatorPort>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct StorageCounters {
    pub writes: u64,
    pub reads: u64,
    pub syncs: u64,
    pub power_failures: u64,
    pub resets: u64,
    /// Commands that an ABORT TASK has ended.
    pub aborted: u64,
    pub lun_resets: u64,
    /// Sessions that broke with writes under way, and writes carried out for such.
    pub left_behind: u64,
    pub strays_done: u64,
    /// Commands that were under way in a reset.
    pub strays: u64,
    pub changes_passed: u64,
    pub write_through: u64,
    pub reinstated: u64,
    pub busy: u64,
    pub destaged: u64,
    /// Commands that were made to fail.
    pub refused: u64,
}

#[derive(Debug)]
pub struct Storage {
    pub host: Host,
    pub visible: Image,
    pub media: Image,
    pub counters: StorageCounters,
    pub latency_max: Duration,
    pub busy_percent: u64,
    /// No volatile cache: GOOD means stable media (WCE = 0).
    pub write_through: bool,
    pub reservations: Reservations,
    pub torn: u64,
    /// The command window of sessions to come.
    pub window: u16,
    pub refusals: Vec<Refusal>,
    /// Answers no command while set; pings it does.
    pub hangs: bool,
    /// A command that ABORT TASK names is carried out and answered first: the
    /// function comes too late, and is *complete* all the same.
    pub finishes_aborted: bool,
    /// It does not say how large it is: its unit may be anything.
    pub hides_capacity: bool,
    /// Unmapped blocks read as zeroes; else UNMAP is a hint that is not taken.
    pub unmaps: bool,
    /// It reads nothing any more, though its TCP acknowledges.
    pub deaf: bool,
    /// Writes of initiators whose names end so are not carried out while set.
    pub stalls: Option<&'static str>,
    /// Initiator names ending so are not let in.
    pub bars: Option<&'static str>,
    sessions: Vec<Session>,
    /// Sessions whose connection is gone, with what is still carried out of them.
    left: Vec<Session>,
    next_token: u64,
    next_tsih: u16,
    changed: bool,
}

impl Storage {
    pub fn new(address: Ipv4Addr, gateway: Ipv4Addr, blocks: usize, seed: u64) -> Self {
        let mut storage = Self {
            host: Host::new(address, gateway, [2, 0, 0, 0, 0, 0x20], seed),
            visible: vec![0; blocks],
            media: vec![0; blocks],
            counters: StorageCounters::default(),
            latency_max: Duration::from_millis(2),
            busy_percent: 0,
            write_through: false,
            reservations: Reservations::default(),
            torn: 0,
            window: TargetConfig::default().max_tasks,
            refusals: Vec::new(),
            hangs: false,
            finishes_aborted: false,
            hides_capacity: false,
            unmaps: false,
            deaf: false,
            stalls: None,
            bars: None,
            sessions: Vec::new(),
            left: Vec::new(),
            next_token: 1,
            next_tsih: 1,
            changed: false,
        };
        for _ in 0..LISTENERS {
            storage.listen();
        }
        storage
    }

    fn listen(&mut self) {
        let handle = self.host.open();
        self.host
            .socket(handle)
            .listen(PORT)
            .expect("a fresh socket");
        self.sessions.push(Session {
            handle,
            conn: Box::new(TargetConn::new(TargetConfig {
                max_tasks: self.window,
                ..TargetConfig::default()
            })),
            isid: None,
            open: false,
            pending: Vec::new(),
            answers: Vec::new(),
            attention: true,
            told: VecDeque::new(),
            port: None,
        });
    }

    /// Whether visible or stable contents changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The storage loses power: its cache, its sessions and what they had under way.
    pub fn fail_power(&mut self) {
        self.counters.power_failures += 1;
        self.visible.clone_from(&self.media);
        self.changed = true;
        for at in (0..self.sessions.len()).rev() {
            let handle = self.sessions[at].handle;
            if self.sessions[at].open {
                self.host.socket(handle).abort();
            }
        }
        for session in &mut self.sessions {
            session.pending.clear();
        }
        self.left.clear();
        self.reservations.forget();
    }

    /// Every nexus is told this once, on its next command.
    pub fn announce(&mut self, sense: Sense) {
        for session in &mut self.sessions {
            session.told.push_back(sense);
        }
    }

    fn tell(&mut self, told: Vec<Told>) {
        for (port, sense) in told {
            for session in &mut self.sessions {
                if session.port.as_ref() == Some(&port) {
                    session.told.push_back(sense);
                }
            }
        }
    }

    /// A PERSISTENT RESERVE OUT of an initiator that does not come by the relay.
    ///
    /// # Errors
    /// As the storage would answer.
    pub fn change_from_outside(
        &mut self,
        port: &InitiatorPort,
        cdb: &[u8; 16],
        parameters: &[u8],
    ) -> Result<(), Refused> {
        let told = self.reservations.change(port, cdb, parameters)?;
        self.tell(told);
        Ok(())
    }

    /// Drops the storage's end of every session but the first without a word.
    /// They stay at the relay, and cost this model nothing more.
    pub fn forget_all_but_first(&mut self) {
        let mut kept = false;
        let host = &mut self.host;
        self.sessions.retain(|session| {
            let stays = !session.open || !std::mem::replace(&mut kept, true);
            if !stays {
                host.close(session.handle);
            }
            stays
        });
    }

    /// Sends these bytes on every session, whatever is due.
    pub fn babble(&mut self, bytes: &[u8]) {
        for session in &self.sessions {
            let socket = self.host.socket(session.handle);
            if socket.can_send() {
                let _ = socket.send_slice(bytes);
            }
        }
    }

    /// The storage resets its LUN without losing a session: its cache is gone,
    /// and the next command of each nexus hears of it.
    pub fn reset(&mut self) {
        self.counters.resets += 1;
        self.visible.clone_from(&self.media);
        self.changed = true;
        for session in &mut self.sessions {
            session.attention = true;
        }
        self.reservations.end_reserve(None);
    }

    /// Every session is asked to log out within some seconds (RFC 7143 11.9.1).
    pub fn ask_to_leave(&mut self, within_s: u16) {
        for session in &mut self.sessions {
            session.conn.request_logout(within_s);
        }
    }

    /// The volume grows, or shrinks.
    pub fn resize(&mut self, blocks: usize) {
        self.visible.resize(blocks, 0);
        self.media.resize(blocks, 0);
    }

    /// The volume is reset by someone: its cache is gone, every session will be
    /// told so, and commands under way end after it (C-6, A-17).
    pub fn lose_cache(&mut self) {
        self.counters.resets += 1;
        self.visible.clone_from(&self.media);
        self.changed = true;
        for session in &mut self.sessions {
            session.attention = true;
            self.counters.strays += session
                .pending
                .iter()
                .filter(|pending| pending.command.write)
                .count() as u64;
        }
    }

    /// One block of the cache goes to stable media by itself.
    pub fn destage(&mut self, random: &mut Random) {
        let at = usize::try_from(random.of(self.media.len() as u64)).expect("a small volume");
        if self.media[at] != self.visible[at] {
            self.media[at] = self.visible[at];
            self.counters.destaged += 1;
            self.changed = true;
        }
    }

    pub fn deadline(&mut self, now: Time) -> Time {
        let due = self
            .sessions
            .iter()
            .chain(&self.left)
            .flat_map(|session| session.pending.iter())
            .filter(|pending| pending.complete)
            .map(|pending| pending.due)
            .min();
        self.host.deadline(now).min(due.unwrap_or(Time::FAR))
    }

    pub fn step(&mut self, now: Time, random: &mut Random) {
        self.host.poll(now);
        for at in 0..self.sessions.len() {
            self.serve(now, at, random);
        }
        // Closed connections make room for new ones.
        for at in (0..self.sessions.len()).rev() {
            let handle = self.sessions[at].handle;
            if self.sessions[at].open && !self.host.socket(handle).is_open() {
                self.host.close(handle);
                let mut gone = self.sessions.remove(at);
                if gone.isid.is_some() {
                    self.reservations.end_reserve(gone.port.as_ref());
                }
                // A storage need not end what it has all the data of (RFC 7143 6.3.5):
                // it is carried out in its time, unless the session is reinstated.
                gone.pending
                    .retain(|pending| pending.complete && pending.command.write);
                if gone.isid.is_some() && !gone.pending.is_empty() {
                    self.counters.left_behind += 1;
                    gone.attention = false;
                    gone.told.clear();
                    self.left.push(gone);
                }
            }
        }
        while self.sessions.iter().filter(|session| !session.open).count() < LISTENERS {
            self.listen();
        }
        self.execute_left(now, random);
        self.host.poll(now);
    }

    /// Carries out what is due of sessions whose connection is gone.
    fn execute_left(&mut self, now: Time, random: &mut Random) {
        for _ in 0..self.left.len() {
            // Each has its turn as if it were the last session that is there.
            let session = self.left.remove(0);
            self.sessions.push(session);
            let at = self.sessions.len() - 1;
            while let Some(pending) = self.due(now, at) {
                let _ = self.perform(at, &pending, random);
                self.counters.strays_done += 1;
            }
            let session = self.sessions.pop().expect("it was pushed");
            if !session.pending.is_empty() {
                self.left.push(session);
            }
        }
    }

    /// Takes a command that is to be carried out now.
    fn due(&mut self, now: Time, at: usize) -> Option<Pending> {
        let stalls = self.stalls;
        let session = &mut self.sessions[at];
        let stalled = stalls.is_some_and(|end| {
            let port = session.port.as_ref();
            port.is_some_and(|port| port.name.ends_with(end))
        });
        if self.hangs {
            return None;
        }
        let which = session.pending.iter().position(|pending| {
            pending.complete && pending.due <= now && !(stalled && pending.command.write)
        })?;
        Some(session.pending.remove(which))
    }

    /// Writes of block `lba` under way, of any session, by the number they carry.
    pub fn writes_under_way(&self, lba: u64) -> Vec<u32> {
        let sessions = self.sessions.iter().chain(&self.left);
        let pending = sessions.flat_map(|session| &session.pending);
        pending
            .filter(|pending| pending.complete && pending.command.write)
            .filter_map(|pending| block::number(&pending.data, lba))
            .collect()
    }

    /// The connection of the first session breaks; its commands stay.
    pub fn cut_first(&mut self) {
        let handle = self.sessions[0].handle;
        self.host.socket(handle).abort();
    }

    fn serve(&mut self, now: Time, at: usize, random: &mut Random) {
        let handle = self.sessions[at].handle;
        if self.host.socket(handle).state() != State::Listen {
            self.sessions[at].open = true;
        }
        while !self.deaf && self.receive(now, at, random) {}
        self.execute(now, at, random);
        self.transmit(at);
        if self.host.socket(handle).state() == State::CloseWait {
            self.host.socket(handle).close();
        }
    }

    /// Takes one event off the stream; false when nothing more is there.
    fn receive(&mut self, now: Time, at: usize, random: &mut Random) -> bool {
        let Self { host, sessions, .. } = self;
        let session = &mut sessions[at];
        let socket = host.socket(session.handle);
        if !socket.can_recv() {
            return false;
        }
        let mut event = None;
        let mut used_any = false;
        let _ = socket.recv(|bytes| {
            let mut taken = 0;
            loop {
                let (used, next) = session.conn.receive(&bytes[taken..]);
                taken += used;
                match next {
                    Some(TargetEvent::Data {
                        task,
                        offset,
                        bytes,
                    }) => {
                        if let Some(pending) = session
                            .pending
                            .iter_mut()
                            .find(|pending| pending.task == task)
                        {
                            let from = offset as usize;
                            pending.data[from..from + bytes.len()].copy_from_slice(bytes);
                        }
                    }
                    Some(TargetEvent::Login) => event = Some(Simple::Login),
                    Some(TargetEvent::Command(command)) => event = Some(Simple::Command(command)),
                    Some(TargetEvent::WriteComplete { task }) => {
                        event = Some(Simple::Complete(task))
                    }
                    Some(TargetEvent::TaskManagement {
                        tag,
                        function,
                        ref_task,
                        ..
                    }) => event = Some(Simple::Management(tag, function, ref_task)),
                    Some(TargetEvent::Violation(_)) => event = Some(Simple::Close),
                    Some(_) => {}
                    None if used == 0 => break,
                    None => {}
                }
                if event.is_some() {
                    break;
                }
            }
            used_any = taken > 0;
            (taken, ())
        });
        match event {
            None => return used_any,
            Some(Simple::Login) => self.login(at),
            Some(Simple::Command(command)) => self.command(now, at, command, random),
            Some(Simple::Complete(task)) => {
                if let Some(pending) = self.sessions[at]
                    .pending
                    .iter_mut()
                    .find(|pending| pending.task == task)
                {
                    pending.complete = true;
                }
            }
            Some(Simple::Management(tag, function, task)) => {
                if function == TaskFunction::LunReset {
                    self.reset_tasks();
                }
                if self.finishes_aborted {
                    self.hangs = false;
                    self.execute(now, at, random);
                }
                let session = &mut self.sessions[at];
                if let Some(task) = task.filter(|_| !self.finishes_aborted) {
                    session.pending.retain(|pending| pending.task != task);
                    session.conn.abort(task);
                    self.counters.aborted += 1;
                }
                session
                    .conn
                    .answer_task_management(tag, TaskFunctionResponse::Complete);
            }
            Some(Simple::Close) => {
                let handle = self.sessions[at].handle;
                self.host.socket(handle).abort();
            }
        }
        true
    }

    /// LUN RESET: what every session had under way is ended, and each is told so
    /// but the one that asked (SAM-5 7.7); the cache stays.
    fn reset_tasks(&mut self) {
        self.counters.lun_resets += 1;
        self.left.clear();
        for session in &mut self.sessions {
            session.pending.clear();
            session.attention = true;
        }
        self.reservations.end_reserve(None);
    }

    /// The same ISID reinstates: what the old session had under way is dropped (RFC 7143 6.3.5).
    fn login(&mut self, at: usize) {
        let request = self.sessions[at].conn.login_request();
        let isid = request.isid;
        if self
            .bars
            .is_some_and(|end| request.initiator_name.ends_with(end))
        {
            let status = login_status::AUTHORIZATION_FAILURE;
            return self.sessions[at].conn.reject_login(status.0, status.1);
        }
        for other in 0..self.sessions.len() {
            if other != at && self.sessions[other].isid == Some(isid) {
                self.counters.reinstated += u64::from(!self.sessions[other].pending.is_empty());
                self.sessions[other].pending.clear();
                self.sessions[other].isid = None;
                let handle = self.sessions[other].handle;
                self.host.socket(handle).abort();
            }
        }
        self.left.retain(|left| {
            let same = left.isid == Some(isid);
            self.counters.reinstated += u64::from(same);
            !same
        });
        let port = InitiatorPort {
            name: self.sessions[at]
                .conn
                .login_request()
                .initiator_name
                .to_string(),
            isid,
        };
        self.reservations.end_reserve(Some(&port));
        self.sessions[at].port = Some(port);
        self.sessions[at].isid = Some(isid);
        let tsih = self.next_tsih;
        self.next_tsih = self.next_tsih.checked_add(1).unwrap_or(1);
        self.sessions[at].conn.accept_login(tsih);
    }

    fn command(&mut self, now: Time, at: usize, command: CommandEvent, random: &mut Random) {
        let latency = u64::try_from(self.latency_max.as_nanos()).expect("short");
        let due = now + Duration::from_nanos(random.of(latency + 1));
        let task = command.task;
        let data = if command.write {
            vec![0; command.expected_len as usize]
        } else {
            Vec::new()
        };
        let mut cdb = command.cdb.to_vec();
        cdb.extend_from_slice(self.sessions[at].conn.extended_cdb());
        let complete = !command.write;
        self.sessions[at].pending.push(Pending {
            task,
            due,
            command,
            cdb,
            data,
            complete,
        });
        if !complete {
            self.sessions[at].conn.grant(task);
        }
    }

    fn execute(&mut self, now: Time, at: usize, random: &mut Random) {
        while let Some(pending) = self.due(now, at) {
            if let Some(fault) = self.fault_of(&pending) {
                self.fail(at, &pending, fault);
                continue;
            }
            let (status, sense, answer) = self.perform(at, &pending, random);
            let session = &mut self.sessions[at];
            let transferred = if pending.command.write {
                if status == ScsiStatus::GOOD {
                    pending.command.expected_len
                } else {
                    0
                }
            } else {
                u32::try_from(answer.len())
                    .expect("short")
                    .min(pending.command.expected_len)
            };
            let read_len = match pending.command.write {
                true => pending.command.bidirectional_read_len,
                false => transferred,
            };
            if !answer.is_empty() && read_len > 0 {
                let token = self.next_token;
                self.next_token += 1;
                session.answers.push((token, answer));
                session
                    .conn
                    .data_in(pending.task, token, 0, 0, read_len)
                    .expect("fewer answers than data items");
            }
            session
                .conn
                .respond(pending.task, status, &sense, transferred);
        }
    }

    fn perform(
        &mut self,
        at: usize,
        pending: &Pending,
        random: &mut Random,
    ) -> (ScsiStatus, Vec<u8>, Vec<u8>) {
        let good = |answer: Vec<u8>| (ScsiStatus::GOOD, Vec::new(), answer);
        let check = |sense: Sense| {
            (
                ScsiStatus::CHECK_CONDITION,
                sense.fixed().to_vec(),
                Vec::new(),
            )
        };
        let cdb = &pending.command.cdb;
        if pending.command.lun != LUN && cdb[0] != opcode::REPORT_LUNS {
            return check(Sense::LOGICAL_UNIT_NOT_SUPPORTED);
        }
        match cdb[0] {
            opcode::REPORT_LUNS => {
                let mut answer = vec![0; 16];
                answer[3] = 8;
                answer[8..].copy_from_slice(&LUN.to_be_bytes());
                return good(answer);
            }
            opcode::INQUIRY => return good(vec![0; 36]),
            _ => {}
        }
        if std::mem::take(&mut self.sessions[at].attention) {
            return check(Sense::POWER_ON_OR_RESET);
        }
        if let Some(sense) = self.sessions[at].told.pop_front() {
            return check(sense);
        }
        if random.chance(self.busy_percent) {
            self.counters.busy += 1;
            return (ScsiStatus::BUSY, Vec::new(), Vec::new());
        }
        let access = scsi::classify(&pending.cdb);
        let port = self.sessions[at].port.clone().expect("logged in");
        let refused = |refused| match refused {
            Refused::Conflict => (ScsiStatus::RESERVATION_CONFLICT, Vec::new(), Vec::new()),
            Refused::Sense(sense) => check(sense),
        };
        let judged = access.map(|access| self.reservations.judge(&port, cdb, access));
        if let Ok(Err(conflict)) = judged {
            return refused(conflict);
        }
        match Change::from_cdb(cdb) {
            Some(Change::Persistent) => {
                return match self.reservations.change(&port, cdb, &pending.data) {
                    Ok(told) => {
                        self.tell(told);
                        good(Vec::new())
                    }
                    Err(why) => refused(why),
                };
            }
            Some(change) => {
                self.reservations.reserve(&port, change);
                return good(Vec::new());
            }
            None if cdb[0] == opcode::PERSISTENT_RESERVE_IN => {
                return self.reservations.read(cdb).map_or_else(refused, good);
            }
            None => {}
        }
        if let Err(sense) = access.and_then(|access| access.check(self.media.len() as u64)) {
            return check(sense);
        }
        if let Ok(Access::Read { blocks, .. }) = access
            && pending.command.expected_len as usize != blocks as usize * BLOCK_LEN
        {
            return check(Sense::INVALID_FIELD_IN_CDB);
        }
        // What changes blocks brings no more of them than there are from its first on.
        if let Ok(Access::Write { lba, .. } | Access::Range { lba, .. }) = access
            && lba + (pending.data.len().div_ceil(BLOCK_LEN) as u64) > self.media.len() as u64
        {
            return check(Sense::INVALID_FIELD_IN_CDB);
        }
        match (cdb[0], access) {
            (opcode::SERVICE_ACTION_IN_16 | opcode::READ_CAPACITY_10, _) if self.hides_capacity => {
                check(Sense::INVALID_COMMAND_OPERATION_CODE)
            }
            (opcode::SERVICE_ACTION_IN_16, _) => {
                let mut answer = vec![0; 32];
                answer[..8].copy_from_slice(&(self.media.len() as u64 - 1).to_be_bytes());
                answer[8..12]
                    .copy_from_slice(&u32::try_from(BLOCK_LEN).expect("512").to_be_bytes());
                good(answer)
            }
            (opcode::MODE_SENSE_6, _) => {
                // Header of 4 bytes, caching page with WCE set.
                let caching = if self.write_through { 0x00 } else { 0x04 };
                let mut answer = vec![23, 0, 0, 0, 0x08, 0x12, caching];
                answer.resize(24, 0);
                good(answer)
            }
            (_, Ok(Access::Read { lba, blocks, .. })) => {
                self.counters.reads += 1;
                let mut answer = vec![0; blocks as usize * BLOCK_LEN];
                for (piece, lba) in answer.chunks_mut(BLOCK_LEN).zip(lba..) {
                    block::fill(
                        piece,
                        self.visible[usize::try_from(lba).expect("small")],
                        lba,
                    );
                }
                good(answer)
            }
            (_, Ok(Access::Write { lba, fua, .. })) => {
                self.counters.writes += 1;
                self.write(lba, &pending.data, fua);
                good(Vec::new())
            }
            (
                opcode::WRITE_AND_VERIFY_10 | opcode::WRITE_SAME_16,
                Ok(Access::Range { lba, .. }),
            ) => {
                self.counters.changes_passed += 1;
                self.write(lba, &pending.data, false);
                good(Vec::new())
            }
            (opcode::XDWRITEREAD_10, Ok(Access::Range { lba, .. })) => {
                self.counters.changes_passed += 1;
                let mut answer = vec![0; pending.data.len()];
                for (piece, lba) in answer.chunks_mut(BLOCK_LEN).zip(lba..) {
                    let at = usize::try_from(lba).expect("small");
                    block::fill(piece, self.visible[at], lba);
                }
                for (old, new) in answer.iter_mut().zip(&pending.data) {
                    *old ^= new;
                }
                self.write(lba, &pending.data, false);
                good(answer)
            }
            (opcode::UNMAP, _) if self.unmaps => {
                self.counters.changes_passed += 1;
                // Block descriptors of 16 bytes from byte 8 on (SBC-4, UNMAP parameter list).
                let descriptors = pending.data.get(8..).unwrap_or_default();
                for descriptor in descriptors.chunks_exact(16) {
                    let lba = u64::from_be_bytes(*descriptor.first_chunk().expect("16 bytes"));
                    let blocks = u32::from_be_bytes(descriptor[8..12].try_into().expect("4 bytes"));
                    if lba.saturating_add(blocks.into()) > self.media.len() as u64 {
                        return check(Sense::LBA_OUT_OF_RANGE);
                    }
                    let zeroes = vec![0; blocks as usize * BLOCK_LEN];
                    self.write(lba, &zeroes, false);
                }
                good(Vec::new())
            }
            (opcode::COMPARE_AND_WRITE, Ok(Access::Range { lba, .. })) => {
                let (expected, new) = pending.data.split_at(pending.data.len() / 2);
                let equal = expected.chunks(BLOCK_LEN).zip(lba..).all(|(piece, lba)| {
                    let at = usize::try_from(lba).expect("small");
                    block::number(piece, lba) == Some(self.visible[at])
                });
                if !equal {
                    return check(Sense::new(SenseKey::MISCOMPARE, 0x1D, 0x00));
                }
                self.counters.changes_passed += 1;
                self.write(lba, new, false);
                good(Vec::new())
            }
            (_, Ok(Access::Sync { .. })) => {
                self.counters.syncs += 1;
                self.media.clone_from(&self.visible);
                self.changed = true;
                good(Vec::new())
            }
            _ => good(Vec::new()),
        }
    }

    fn write(&mut self, lba: u64, data: &[u8], fua: bool) {
        self.counters.write_through += u64::from(self.write_through);
        for (piece, lba) in data.chunks(BLOCK_LEN).zip(lba..) {
            let at = usize::try_from(lba).expect("small");
            match block::number(piece, lba) {
                Some(number) => self.visible[at] = number,
                None => self.torn += 1,
            }
            if fua || self.write_through {
                self.media[at] = self.visible[at];
            }
        }
        self.changed = true;
    }

    fn transmit(&mut self, at: usize) {
        let Self { host, sessions, .. } = self;
        let session = &mut sessions[at];
        let socket = host.socket(session.handle);
        while session.conn.has_output() && socket.can_send() {
            let Session { conn, answers, .. } = session;
            let sent = socket.send(|out| {
                let len = conn.transmit(out, |token, offset, into| {
                    let (_, answer) = answers
                        .iter()
                        .find(|(known, _)| *known == token)
                        .expect("kept until released");
                    let from = offset as usize;
                    into.copy_from_slice(&answer[from..from + into.len()]);
                });
                (len, len)
            });
            while let Some(token) = session.conn.next_released() {
                session.answers.retain(|(known, _)| *known != token);
            }
            if sent.unwrap_or(0) == 0 {
                break;
            }
        }
    }
}

enum Simple {
    Login,
    Command(CommandEvent),
    Complete(TaskId),
    /// A task management function, with the task that it names.
    Management(u32, TaskFunction, Option<TaskId>),
    Close,
}

//! The model computer: an initiator that writes, reads and synchronizes at
//! random, on one or more volumes, ends its own commands now and then, leaves
//! and comes back, and tells each volume's oracle everything.
//!
//! This room is the life of its sessions; [`request`] makes commands, [`answer`]
//! says what their ends mean.

mod answer;
mod request;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use sluice_proto::Time;
use sluice_proto::iscsi::{
    InitiatorConfig, InitiatorConn, InitiatorEvent, IscsiName, Offers, TaskFunctionResponse,
};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::host::Host;
use crate::oracle::Oracle;
use crate::proof::Proof;
use crate::random::Random;
use request::{Kind, Request, Standing};

/// Silence after which the computer asks by NOP, and once more after which it gives up.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// No answer to a command for this long is a fault of its own (C-16: Linux gives up at 30 s).
pub const ANSWER_MAX: Duration = Duration::from_secs(25);

#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub depth: usize,
    pub request_blocks_max: u64,
    pub write_percent: u64,
    pub sync_percent: u64,
    /// Of the writes.
    pub fua_percent: u64,
    /// Of the writes: ORDERED tasks.
    pub ordered_percent: u64,
    /// Commands that the relay passes on.
    pub pass_percent: u64,
    pub think_max: Duration,
    /// One in so many actions ends commands by a task management function; 0 for none.
    pub management_one_in: u64,
    /// One in so many is to leave, or to drop dead; 0 for none.
    pub departure_one_in: u64,
    /// One command in so many is about who holds the volume; 0 for none.
    pub reserve_one_in: u64,
    /// On the same volumes, itself included.
    pub computers: u8,
    /// Commands that it issues, at most.
    pub commands_max: u64,
    /// Volumes, by bit, that it leaves alone.
    pub leaves_alone: u32,
}

/// A volume as the computer knows it.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    pub lun: u64,
    /// Which of the oracles judges it; its places carry this number.
    pub volume: usize,
    pub block_len: usize,
    pub blocks: u64,
}

/// Who the computer is, and what it dials.
#[derive(Debug)]
pub struct Identity {
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
    /// The storage, or the relay's portal.
    pub dials: Ipv4Addr,
    /// Of its MAC address and its first ISID.
    pub number: u8,
    pub initiator: String,
    pub target: String,
    pub offers: Offers,
    pub proof: Option<Proof>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ClientCounters {
    pub logins: u64,
    pub login_failures: u64,
    pub writes_good: u64,
    pub fua_good: u64,
    pub ordered_good: u64,
    pub passed_writes_good: u64,
    pub compares_good: u64,
    pub compares_failed: u64,
    pub verifies_good: u64,
    pub unmaps_good: u64,
    pub reads_good: u64,
    pub syncs_good: u64,
    pub reserves_good: u64,
    /// Nobody said whether they were done.
    pub reserves_unclear: u64,
    pub conflicts: u64,
    pub busy: u64,
    pub attentions: u64,
    pub errors: u64,
    /// Passed commands that the storage ended GOOD with a part of their data.
    pub sessions_lost: u64,
    pub dropped_by_choice: u64,
    pub dropped_in_silence: u64,
    pub logged_out: u64,
    /// Sessions that came back under the ISID of one that had commands under way.
    pub came_back_as_before: u64,
    pub came_back_anew: u64,
    pub tasks_aborted: u64,
    pub task_sets_aborted: u64,
    pub units_reset: u64,
    pub targets_reset: u64,
    pub functions_rejected: u64,
    /// Commands that a function of its own, or of another computer, ended.
    pub ended: u64,
    pub task_aborted: u64,
}

#[derive(Debug)]
pub struct Client {
    pub host: Host,
    pub counters: ClientCounters,
    pub stopping: bool,
    /// A command or function that was not answered in [`ANSWER_MAX`].
    pub late: Option<String>,
    identity: Identity,
    workload: Workload,
    units: Vec<Unit>,
    handle: Option<SocketHandle>,
    conn: Option<Box<InitiatorConn>>,
    /// Its next session's ISID ends so.
    isid: u8,
    ready: bool,
    /// It has asked to log out.
    leaving: bool,
    requests: Vec<Request>,
    /// What a session that has begun reads through before anything else: volume and LBA.
    to_look_at: VecDeque<(Unit, u64)>,
    /// What it takes itself for, by volume.
    standing: BTreeMap<usize, Standing>,
    /// Volumes of PERSISTENT RESERVE OUTs whose session was lost, and its ISID.
    reserves_astray: Vec<(u8, usize)>,
    /// Commands issued.
    issued: u64,
    /// A task management function is out since then.
    function: Option<Time>,
    /// Writes whose session was lost, by volume and number, and the ISID it had:
    /// they may still take effect until it is reinstated.
    astray: Vec<(u8, usize, u32)>,
    next_token: u64,
    next_port: u16,
    next_action: Time,
    connect_deadline: Time,
    last_heard: Time,
    pinged: bool,
}

impl Client {
    pub fn new(identity: Identity, units: Vec<Unit>, workload: Workload, seed: u64) -> Self {
        let mac = [2, 0, 0, 0, 0, 0x10 + identity.number];
        Self {
            host: Host::new(identity.address, identity.gateway, mac, seed),
            counters: ClientCounters::default(),
            stopping: false,
            late: None,
            identity,
            workload,
            units,
            handle: None,
            conn: None,
            isid: 0,
            ready: false,
            leaving: false,
            requests: Vec::new(),
            to_look_at: VecDeque::new(),
            standing: BTreeMap::new(),
            reserves_astray: Vec::new(),
            issued: 0,
            function: None,
            astray: Vec::new(),
            next_token: 1,
            next_port: 40_000,
            next_action: Time::ZERO,
            connect_deadline: Time::FAR,
            last_heard: Time::ZERO,
            pinged: false,
        }
    }

    pub fn deadline(&mut self, now: Time) -> Time {
        let soon = now + Duration::from_micros(1);
        self.host.deadline(now).min(self.next_action.max(soon))
    }

    /// Commands and functions that it waits for.
    pub fn under_way(&self) -> usize {
        self.requests.len() + usize::from(self.function.is_some())
    }

    pub fn is_idle(&self) -> bool {
        self.under_way() == 0
    }

    /// One step of its life; `oracles` are the volumes'.
    pub fn step(&mut self, now: Time, random: &mut Random, oracles: &mut [Oracle]) {
        self.host.poll(now);
        if let Some(handle) = self.handle {
            let state = self.host.socket(handle).state();
            // What came before the end counts: the answer to a logout is the last of it.
            while self.receive(now, oracles) {
                self.last_heard = now;
                self.pinged = false;
            }
            if self.handle.is_some()
                && (state == State::Closed
                    || state == State::CloseWait
                    || now >= self.connect_deadline && !self.ready)
            {
                self.lose(now, oracles);
            }
        }
        self.watch(now, oracles);
        if now >= self.next_action {
            self.act(now, random, oracles);
        }
        self.note_late(now);
        self.transmit();
        self.host.poll(now);
    }

    fn note_late(&mut self, now: Time) {
        let overdue = |issued: Time| now.since(issued) > ANSWER_MAX;
        let who = self.identity.number;
        if let Some(request) = self.requests.iter().find(|one| overdue(one.issued)) {
            let Request { unit, kind, .. } = request;
            self.late = Some(format!(
                "computer {who}: {} of volume {} is not answered after {} s",
                kind.name(),
                unit.volume,
                ANSWER_MAX.as_secs()
            ));
        } else if self.function.is_some_and(overdue) {
            self.late = Some(format!("computer {who}: a task management function"));
        }
    }

    /// A relay that died says nothing; nor does one whose frames are lost.
    fn watch(&mut self, now: Time, oracles: &mut [Oracle]) {
        if !self.ready || now.since(self.last_heard) < SILENCE_MAX {
            return;
        }
        if self.pinged {
            return self.lose(now, oracles);
        }
        if let Some(conn) = self.conn.as_mut() {
            conn.ping();
        }
        self.pinged = true;
        self.last_heard = now;
    }

    fn connect(&mut self, now: Time) {
        let handle = self.host.open();
        let port = self.next_port;
        self.next_port = if port == 60_000 { 40_000 } else { port + 1 };
        self.host
            .connect(handle, (self.identity.dials, crate::storage::PORT), port);
        self.handle = Some(handle);
        self.conn = Some(Box::new(InitiatorConn::new(InitiatorConfig {
            isid: [0x80, 1, 2, 3, self.identity.number, self.isid],
            initiator_name: IscsiName::from(&self.identity.initiator).expect("a short name"),
            target_name: IscsiName::from(&self.identity.target).ok(),
            offers: self.identity.offers,
            chap: self.identity.proof.as_mut().map(Proof::login),
            max_tasks: 64,
        })));
        self.ready = false;
        self.leaving = false;
        self.connect_deadline = now + Duration::from_secs(20);
        self.last_heard = now;
        self.pinged = false;
    }

    /// The session is gone: of what was under way nothing is known.
    fn lose(&mut self, now: Time, oracles: &mut [Oracle]) {
        if let Some(handle) = self.handle {
            self.host.socket_mut(handle).abort();
            self.host.poll(now);
        }
        self.vanish(now, oracles);
    }

    /// It leaves for good.
    pub fn retire(&mut self, now: Time, oracles: &mut [Oracle]) {
        self.stopping = true;
        self.lose(now, oracles);
        self.next_action = Time::FAR;
    }

    /// As a power failure: nobody is told.
    fn vanish(&mut self, now: Time, oracles: &mut [Oracle]) {
        if let Some(handle) = self.handle.take() {
            self.host.close(handle);
        }
        self.conn = None;
        self.counters.sessions_lost += u64::from(self.ready);
        self.ready = false;
        self.function = None;
        for request in self.requests.drain(..) {
            let volume = request.unit.volume;
            if let Some(number) = request.kind.write() {
                oracles[volume].write_unknown(number);
                self.astray.push((self.isid, volume, number));
            }
            if let Kind::Reserve { .. } = request.kind {
                self.counters.reserves_unclear += 1;
                oracles[volume].reserve_lost();
                self.reserves_astray.push((self.isid, volume));
            }
        }
        self.next_action = now + Duration::from_millis(50);
    }

    fn act(&mut self, now: Time, random: &mut Random, oracles: &mut [Oracle]) {
        let think = u64::try_from(self.workload.think_max.as_nanos()).expect("short");
        self.next_action = now + Duration::from_nanos(1000 + random.of(think));
        if self.handle.is_none() {
            return self.connect(now);
        }
        let window = self.conn.as_ref().map_or(0, |conn| conn.window());
        let done = self.issued >= self.workload.commands_max;
        if !self.ready || self.leaving || self.stopping || done || window == 0 {
            return;
        }
        let one_in = |many: u64, random: &mut Random| many > 0 && random.of(many) == 0;
        if one_in(self.workload.departure_one_in, random) {
            return self.depart(now, random, oracles);
        }
        if one_in(self.workload.management_one_in, random) && self.function.is_none() {
            return self.manage(now, random);
        }
        if self.requests.len() < self.workload.depth {
            self.ask(now, random, oracles);
        }
    }

    /// It leaves, or drops dead, and comes back soon: as the same initiator port
    /// or as another.
    fn depart(&mut self, now: Time, random: &mut Random, oracles: &mut [Oracle]) {
        let how = random.of(3);
        let next = if random.chance(30) {
            (self.isid + 1) % 3
        } else {
            self.isid
        };
        match how {
            0 => {
                self.counters.dropped_in_silence += 1;
                self.vanish(now, oracles);
            }
            1 => {
                self.counters.dropped_by_choice += 1;
                self.lose(now, oracles);
            }
            _ => {
                // Under the same ISID: what it leaves is by then gone.
                self.leaving = true;
                if let Some(conn) = self.conn.as_mut() {
                    conn.logout();
                }
                return;
            }
        }
        self.counters.came_back_anew += u64::from(next != self.isid);
        self.isid = next;
    }

    /// Ends some of its commands, or all of a unit's, or everybody's.
    fn manage(&mut self, now: Time, random: &mut Random) {
        let Self {
            conn: Some(conn),
            requests,
            units,
            counters,
            ..
        } = self
        else {
            return;
        };
        let at = |random: &mut Random, len: usize| {
            usize::try_from(random.of(len as u64)).expect("a short list")
        };
        let unit = units[at(random, units.len())];
        let sent = match random.of(8) {
            0..4 if requests.is_empty() => return,
            0..4 => {
                counters.tasks_aborted += 1;
                conn.abort_task(requests[at(random, requests.len())].token)
            }
            4..6 => {
                counters.task_sets_aborted += 1;
                conn.abort_task_set(unit.lun)
            }
            6 => {
                counters.units_reset += 1;
                conn.reset_lun(unit.lun)
            }
            _ => {
                counters.targets_reset += 1;
                conn.reset_target()
            }
        };
        sent.expect("one function at a time, of a command that is under way");
        self.function = Some(now);
    }

    /// A function has ended: so have the commands that it covers.
    fn function_ended(&mut self, oracles: &mut [Oracle]) {
        self.function = None;
        let Self {
            conn: Some(conn),
            requests,
            counters,
            ..
        } = self
        else {
            return;
        };
        requests.retain(|request| {
            if conn.is_outstanding(request.token) {
                return true;
            }
            counters.ended += 1;
            if let Some(number) = request.kind.write() {
                oracles[request.unit.volume].write_ended(number);
            }
            if let Kind::Reserve { ticket } = request.kind {
                // It may have been done before it was ended.
                counters.reserves_unclear += 1;
                oracles[request.unit.volume].reserve_answered(ticket, false);
            }
            false
        });
    }

    /// It is in. What an earlier session under this ISID had under way has ended
    /// (RFC 7143 6.3.5).
    fn logged_in(&mut self, oracles: &mut [Oracle]) {
        self.counters.logins += 1;
        self.ready = true;
        let isid = self.isid;
        let mut any = false;
        self.astray.retain(|&(its, volume, number)| {
            if its == isid {
                any = true;
                oracles[volume].write_ended(number);
            }
            its != isid
        });
        self.counters.came_back_as_before += u64::from(any);
        self.reserves_astray.retain(|&(its, volume)| {
            if its == isid {
                oracles[volume].reserve_ended();
            }
            its != isid
        });
        self.standing.clear();
        // Every other session begins with a look at all there is.
        self.to_look_at.clear();
        if self.counters.logins.is_multiple_of(2) {
            for &unit in &self.units {
                let lbas = (0..unit.blocks).step_by(request::LOOK_BLOCKS);
                self.to_look_at.extend(lbas.map(|lba| (unit, lba)));
            }
        }
    }

    /// Takes one event off the stream; false when nothing more is there.
    fn receive(&mut self, now: Time, oracles: &mut [Oracle]) -> bool {
        let (Some(handle), Some(conn)) = (self.handle, self.conn.as_mut()) else {
            return false;
        };
        if !self.host.socket(handle).can_recv() {
            return false;
        }
        let socket = self.host.socket_mut(handle);
        let Self {
            requests, counters, ..
        } = self;
        let mut told = None;
        let mut used_any = false;
        let _ = socket.recv(|bytes| {
            let mut taken = 0;
            while told.is_none() {
                let (used, event) = conn.receive(&bytes[taken..]);
                taken += used;
                match event {
                    None if used == 0 => break,
                    None => {}
                    Some(InitiatorEvent::LoggedIn) => told = Some(Told::In),
                    Some(InitiatorEvent::LoginFailed(_)) => {
                        counters.login_failures += 1;
                        told = Some(Told::Out);
                    }
                    Some(InitiatorEvent::DataIn {
                        token,
                        offset,
                        bytes,
                    }) => {
                        if let Some(Kind::Read { data, .. }) = requests
                            .iter_mut()
                            .find(|request| request.token == token)
                            .map(|request| &mut request.kind)
                        {
                            let from = offset as usize;
                            data[from..from + bytes.len()].copy_from_slice(bytes);
                        }
                    }
                    Some(InitiatorEvent::Response {
                        token,
                        status,
                        residual,
                        ..
                    }) => {
                        let at = requests.iter().position(|request| request.token == token);
                        let request = requests.remove(at.expect("an answer to a request"));
                        let oracle = &mut oracles[request.unit.volume];
                        let ended = (status, residual);
                        answer::answered(&request, ended, conn.sense(), counters, oracle);
                    }
                    Some(InitiatorEvent::TaskManagementResponse { response, .. }) => {
                        told = Some(Told::Function(response));
                    }
                    Some(InitiatorEvent::LoggedOut { .. }) => {
                        counters.logged_out += 1;
                        told = Some(Told::Out);
                    }
                    Some(InitiatorEvent::Violation(_)) => told = Some(Told::Out),
                    Some(_) => {}
                }
            }
            used_any = taken > 0;
            (taken, ())
        });
        match told {
            None => {}
            Some(Told::In) => self.logged_in(oracles),
            // What the function should have ended may be anything by now: the next
            // means of a computer is to end the session (as Linux and Windows do).
            Some(Told::Function(TaskFunctionResponse::Rejected)) => {
                self.counters.functions_rejected += 1;
                self.lose(now, oracles);
            }
            Some(Told::Function(_)) => self.function_ended(oracles),
            Some(Told::Out) => self.lose(now, oracles),
        }
        used_any || told.is_some()
    }

    fn transmit(&mut self) {
        let (Some(handle), Some(conn)) = (self.handle, self.conn.as_mut()) else {
            return;
        };
        if !conn.has_output() {
            return;
        }
        let socket = self.host.socket_mut(handle);
        let requests = &self.requests;
        while conn.has_output() && socket.can_send() {
            let sent = socket.send(|out| {
                let len = conn.transmit(out, |token, offset, into| {
                    let request = requests
                        .iter()
                        .find(|request| request.token == token)
                        .expect("still under way");
                    let from = offset as usize;
                    into.copy_from_slice(&request.payload[from..from + into.len()]);
                });
                (len, len)
            });
            if sent.unwrap_or(0) == 0 {
                break;
            }
        }
    }
}

/// What a stream says of the session as a whole.
#[derive(Clone, Copy)]
enum Told {
    In,
    Function(TaskFunctionResponse),
    /// It is over.
    Out,
}

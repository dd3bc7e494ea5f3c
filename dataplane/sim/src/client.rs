//! The model computer: an initiator that writes, reads and synchronizes at
//! random, loses its connection now and then, and tells the oracle everything.

use std::net::Ipv4Addr;
use std::time::Duration;

use sluice_proto::Time;
use sluice_proto::iscsi::{
    Command, Direction, InitiatorConfig, InitiatorConn, InitiatorEvent, IscsiName, Offers,
    TaskAttribute,
};
use sluice_proto::scsi::{ScsiStatus, SenseKey, cdb, sense};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::block::{self, BLOCK_LEN};
use crate::host::Host;
use crate::oracle::{Oracle, ReadTicket, SyncTicket, WriteNumber};
use crate::random::Random;
use crate::storage::LUN;

pub const TARGET: &str = "iqn.2004-03.example.sim:vol0";
pub const INITIATOR: &str = "iqn.2004-03.example.sim:computer";

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
    pub think_max: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ClientCounters {
    pub logins: u64,
    pub login_failures: u64,
    pub writes_good: u64,
    pub fua_good: u64,
    pub reads_good: u64,
    pub syncs_good: u64,
    pub busy: u64,
    pub attentions: u64,
    pub errors: u64,
    pub sessions_lost: u64,
    pub dropped_by_choice: u64,
}

#[derive(Debug)]
enum Kind {
    Write {
        number: WriteNumber,
        fua: bool,
    },
    Read {
        ticket: ReadTicket,
        lba: u64,
        data: Vec<u8>,
    },
    Sync {
        ticket: SyncTicket,
    },
}

#[derive(Debug)]
struct Request {
    token: u64,
    issued: Time,
    kind: Kind,
    /// What a write carries.
    payload: Vec<u8>,
}

#[derive(Debug)]
pub struct Client {
    pub host: Host,
    pub counters: ClientCounters,
    pub stopping: bool,
    pub late: u64,
    storage: Ipv4Addr,
    workload: Workload,
    blocks: u64,
    handle: Option<SocketHandle>,
    conn: Option<Box<InitiatorConn>>,
    ready: bool,
    requests: Vec<Request>,
    next_token: u64,
    next_port: u16,
    next_action: Time,
    connect_deadline: Time,
    last_heard: Time,
    pinged: bool,
}

impl Client {
    pub fn new(
        address: Ipv4Addr,
        gateway: Ipv4Addr,
        storage: Ipv4Addr,
        blocks: u64,
        workload: Workload,
        seed: u64,
    ) -> Self {
        Self {
            host: Host::new(address, gateway, [2, 0, 0, 0, 0, 0x10], seed),
            counters: ClientCounters::default(),
            stopping: false,
            late: 0,
            storage,
            workload,
            blocks,
            handle: None,
            conn: None,
            ready: false,
            requests: Vec::new(),
            next_token: 1,
            next_port: 40_000,
            next_action: Time::ZERO,
            connect_deadline: Time::FAR,
            last_heard: Time::ZERO,
            pinged: false,
        }
    }

    pub fn deadline(&mut self, now: Time) -> Time {
        self.host
            .deadline(now)
            .min(self.next_action.max(now + Duration::from_micros(1)))
    }

    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    pub fn step(&mut self, now: Time, random: &mut Random, oracle: &mut Oracle) {
        self.host.poll(now);
        if let Some(handle) = self.handle {
            let state = self.host.socket(handle).state();
            if state == State::Closed
                || state == State::CloseWait
                || now >= self.connect_deadline && !self.ready
            {
                self.lose(now, oracle);
            }
        }
        while self.receive(oracle) {
            self.last_heard = now;
            self.pinged = false;
        }
        self.watch(now, oracle);
        if now >= self.next_action {
            self.act(now, random, oracle);
        }
        self.late += self
            .requests
            .iter()
            .filter(|request| now.since(request.issued) > ANSWER_MAX)
            .count() as u64;
        self.transmit();
        self.host.poll(now);
    }

    /// A relay that died says nothing; nor does one whose frames are lost.
    fn watch(&mut self, now: Time, oracle: &mut Oracle) {
        if !self.ready || now.since(self.last_heard) < SILENCE_MAX {
            return;
        }
        if self.pinged {
            return self.lose(now, oracle);
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
            .connect(handle, (self.storage, crate::storage::PORT), port);
        self.handle = Some(handle);
        self.conn = Some(Box::new(InitiatorConn::new(InitiatorConfig {
            isid: [0x80, 1, 2, 3, 4, 5],
            initiator_name: IscsiName::from(INITIATOR).expect("a short name"),
            target_name: IscsiName::from(TARGET).ok(),
            offers: Offers::lan(),
            max_tasks: 64,
        })));
        self.ready = false;
        self.connect_deadline = now + Duration::from_secs(20);
        self.last_heard = now;
        self.pinged = false;
    }

    /// The session is gone: of what was under way nothing is known.
    pub fn lose(&mut self, now: Time, oracle: &mut Oracle) {
        if let Some(handle) = self.handle.take() {
            self.host.socket(handle).abort();
            self.host.poll(now);
            self.host.close(handle);
        }
        self.conn = None;
        self.counters.sessions_lost += u64::from(self.ready);
        self.ready = false;
        for request in self.requests.drain(..) {
            if let Kind::Write { number, .. } = request.kind {
                oracle.write_unknown(number);
            }
        }
        self.next_action = now + Duration::from_millis(50);
    }

    fn act(&mut self, now: Time, random: &mut Random, oracle: &mut Oracle) {
        let think = u64::try_from(self.workload.think_max.as_nanos()).expect("short");
        self.next_action = now + Duration::from_nanos(1000 + random.of(think));
        if self.handle.is_none() {
            return self.connect(now);
        }
        let window = self.conn.as_ref().map_or(0, |conn| conn.window());
        if !self.ready || self.stopping || self.requests.len() >= self.workload.depth || window == 0
        {
            return;
        }
        // About once in 2,000 actions the computer drops dead and comes back.
        if random.of(2000) == 0 {
            self.counters.dropped_by_choice += 1;
            return self.lose(now, oracle);
        }
        let blocks = 1 + random.of(self.workload.request_blocks_max);
        let lba = random.of(self.blocks - blocks + 1);
        let count = u32::try_from(blocks).expect("small");
        let len = count * u32::try_from(BLOCK_LEN).expect("512");
        let mut payload = Vec::new();
        let (kind, cdb, data) = if random.chance(self.workload.sync_percent) {
            (
                Kind::Sync {
                    ticket: oracle.sync_issued(),
                },
                cdb::synchronize_cache(),
                Direction::None,
            )
        } else if random.chance(self.workload.write_percent) {
            let fua = random.chance(self.workload.fua_percent);
            let number = oracle.write_issued(lba, count, fua);
            payload = vec![0; len as usize];
            for (piece, lba) in payload.chunks_mut(BLOCK_LEN).zip(lba..) {
                block::fill(piece, number, lba);
            }
            let cdb = if fua {
                cdb::write_fua(lba, count)
            } else {
                cdb::write(lba, count)
            };
            (Kind::Write { number, fua }, cdb, Direction::Out(len))
        } else {
            let ticket = oracle.read_issued();
            (
                Kind::Read {
                    ticket,
                    lba,
                    data: vec![0; len as usize],
                },
                cdb::read(lba, count),
                Direction::In(len),
            )
        };
        let token = self.next_token;
        self.next_token += 1;
        self.requests.push(Request {
            token,
            issued: now,
            kind,
            payload,
        });
        let conn = self
            .conn
            .as_mut()
            .expect("a ready session has a connection");
        conn.submit(Command {
            token,
            lun: LUN,
            cdb,
            attribute: TaskAttribute::Simple,
            data,
        })
        .expect("the window was open");
    }

    fn receive(&mut self, oracle: &mut Oracle) -> bool {
        let (Some(handle), Some(conn)) = (self.handle, self.conn.as_mut()) else {
            return false;
        };
        let socket = self.host.socket(handle);
        if !socket.can_recv() {
            return false;
        }
        let Self {
            requests,
            counters,
            ready,
            ..
        } = self;
        let mut used_any = false;
        let mut lost = false;
        let _ = socket.recv(|bytes| {
            let mut taken = 0;
            loop {
                let (used, event) = conn.receive(&bytes[taken..]);
                taken += used;
                match event {
                    None if used == 0 => break,
                    None => {}
                    Some(InitiatorEvent::LoggedIn) => {
                        counters.logins += 1;
                        *ready = true;
                    }
                    Some(InitiatorEvent::LoginFailed(_)) => {
                        counters.login_failures += 1;
                        lost = true;
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
                    Some(InitiatorEvent::Response { token, status, .. }) => {
                        let at = requests.iter().position(|request| request.token == token);
                        let request = requests.remove(at.expect("an answer to a request"));
                        answered(&request.kind, status, conn.sense(), counters, oracle);
                    }
                    Some(InitiatorEvent::Violation(_) | InitiatorEvent::LoggedOut { .. }) => {
                        lost = true
                    }
                    Some(_) => {}
                }
            }
            used_any = taken > 0;
            (taken, ())
        });
        if lost {
            self.host.socket(handle).abort();
        }
        used_any
    }

    fn transmit(&mut self) {
        let (Some(handle), Some(conn)) = (self.handle, self.conn.as_mut()) else {
            return;
        };
        let socket = self.host.socket(handle);
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

fn answered(
    kind: &Kind,
    status: ScsiStatus,
    bytes: &[u8],
    counters: &mut ClientCounters,
    oracle: &mut Oracle,
) {
    let good = status == ScsiStatus::GOOD;
    if !good {
        let attention = sense::parse(bytes)
            .is_some_and(|received| received.sense.key == SenseKey::UNIT_ATTENTION);
        match status {
            ScsiStatus::BUSY | ScsiStatus::TASK_SET_FULL => counters.busy += 1,
            ScsiStatus::CHECK_CONDITION if attention => counters.attentions += 1,
            _ => counters.errors += 1,
        }
    }
    match kind {
        Kind::Write { number, fua } if good => {
            oracle.write_acknowledged(*number);
            counters.writes_good += 1;
            counters.fua_good += u64::from(*fua);
        }
        Kind::Write { number, .. } => oracle.write_refused(*number),
        Kind::Read { ticket, lba, data } if good => {
            counters.reads_good += 1;
            let numbers: Vec<WriteNumber> = data
                .chunks(BLOCK_LEN)
                .zip(*lba..)
                .map(|(piece, lba)| block::number(piece, lba).unwrap_or(WriteNumber::MAX))
                .collect();
            oracle.read_answered(*ticket, *lba, &numbers);
        }
        Kind::Sync { ticket } if good => {
            counters.syncs_good += 1;
            oracle.sync_acknowledged(*ticket);
        }
        Kind::Read { .. } | Kind::Sync { .. } => {}
    }
}

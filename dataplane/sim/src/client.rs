//! The model computer: an initiator that writes, reads and synchronizes at
//! random, loses its connection now and then, and tells the oracle everything.

use std::net::Ipv4Addr;
use std::time::Duration;

use sluice_proto::Time;
use sluice_proto::iscsi::{
    Command, Direction, InitiatorConfig, InitiatorConn, InitiatorEvent, IscsiName, Offers,
    TaskAttribute,
};
use sluice_proto::scsi::{ScsiStatus, SenseKey, cdb, opcode, sense};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::block::{self, BLOCK_LEN};
use crate::host::Host;
use crate::oracle::{Oracle, ReadTicket, SyncTicket, WriteKind, WriteNumber};
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
    /// Of the writes: ORDERED tasks.
    pub ordered_percent: u64,
    /// Commands that the relay passes on.
    pub pass_percent: u64,
    pub think_max: Duration,
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
    pub busy: u64,
    pub attentions: u64,
    pub errors: u64,
    pub sessions_lost: u64,
    pub dropped_by_choice: u64,
    pub dropped_in_silence: u64,
}

#[derive(Debug)]
enum Kind {
    Write {
        number: WriteNumber,
        kind: WriteKind,
    },
    /// COMPARE AND WRITE: a read of what is expected, and a write.
    Compare {
        number: WriteNumber,
        ticket: ReadTicket,
        lba: u64,
        expected: Vec<WriteNumber>,
    },
    Verify,
    Unmap,
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
    /// What it dials: the storage, or the relay's portal.
    target: Ipv4Addr,
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
        target: Ipv4Addr,
        blocks: u64,
        workload: Workload,
        seed: u64,
    ) -> Self {
        Self {
            host: Host::new(address, gateway, [2, 0, 0, 0, 0, 0x10], seed),
            counters: ClientCounters::default(),
            stopping: false,
            late: 0,
            target,
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
            .connect(handle, (self.target, crate::storage::PORT), port);
        self.handle = Some(handle);
        self.conn = Some(Box::new(InitiatorConn::new(InitiatorConfig {
            isid: [0x80, 1, 2, 3, 4, 5],
            initiator_name: IscsiName::from(INITIATOR).expect("a short name"),
            target_name: IscsiName::from(TARGET).ok(),
            offers: Offers::lan(),
            chap: None,
            max_tasks: 64,
        })));
        self.ready = false;
        self.connect_deadline = now + Duration::from_secs(20);
        self.last_heard = now;
        self.pinged = false;
    }

    /// The session is gone: of what was under way nothing is known.
    pub fn lose(&mut self, now: Time, oracle: &mut Oracle) {
        if let Some(handle) = self.handle {
            self.host.socket(handle).abort();
            self.host.poll(now);
        }
        self.vanish(now, oracle);
    }

    /// As a power failure: nobody is told.
    fn vanish(&mut self, now: Time, oracle: &mut Oracle) {
        if let Some(handle) = self.handle.take() {
            self.host.close(handle);
        }
        self.conn = None;
        self.counters.sessions_lost += u64::from(self.ready);
        self.ready = false;
        for request in self.requests.drain(..) {
            if let Kind::Write { number, .. } | Kind::Compare { number, .. } = request.kind {
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
            if random.chance(50) {
                self.counters.dropped_in_silence += 1;
                return self.vanish(now, oracle);
            }
            return self.lose(now, oracle);
        }
        let blocks = 1 + random.of(self.workload.request_blocks_max);
        let lba = random.of(self.blocks - blocks + 1);
        let count = u32::try_from(blocks).expect("small");
        let len = count * u32::try_from(BLOCK_LEN).expect("512");
        let mut payload = Vec::new();
        let mut attribute = TaskAttribute::Simple;
        let (kind, cdb, data) = if random.chance(self.workload.pass_percent) {
            passing(lba, count, &mut payload, random, oracle)
        } else if random.chance(self.workload.sync_percent) {
            (
                Kind::Sync {
                    ticket: oracle.sync_issued(),
                },
                cdb::synchronize_cache(),
                Direction::None,
            )
        } else if random.chance(self.workload.write_percent) {
            let kind = if random.chance(self.workload.fua_percent) {
                WriteKind::Fua
            } else if random.chance(self.workload.ordered_percent) {
                attribute = TaskAttribute::Ordered;
                WriteKind::Ordered
            } else {
                WriteKind::Plain
            };
            let number = oracle.write_issued(lba, count, kind);
            stamp(&mut payload, number, lba, count);
            let cdb = if kind == WriteKind::Fua {
                cdb::write_fua(lba, count)
            } else {
                cdb::write(lba, count)
            };
            (Kind::Write { number, kind }, cdb, Direction::Out(len))
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
            cdb_rest: None,
            attribute,
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

/// Appends what a write of these blocks carries.
fn stamp(payload: &mut Vec<u8>, number: WriteNumber, lba: u64, blocks: u32) {
    for lba in lba..lba + u64::from(blocks) {
        let from = payload.len();
        payload.resize(from + BLOCK_LEN, 0);
        block::fill(&mut payload[from..], number, lba);
    }
}

/// A command that the relay passes on: WRITE AND VERIFY, WRITE SAME of a
/// block, COMPARE AND WRITE, VERIFY, or an UNMAP, which the storage may take for a hint.
fn passing(
    lba: u64,
    blocks: u32,
    payload: &mut Vec<u8>,
    random: &mut Random,
    oracle: &mut Oracle,
) -> (Kind, [u8; 16], Direction) {
    let mut cdb = [0; 16];
    let sixteen = |cdb: &mut [u8; 16], blocks: u32| {
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    };
    let kind = match random.of(10) {
        0..4 => {
            cdb = cdb::write(lba, blocks);
            cdb[0] = opcode::WRITE_AND_VERIFY_10;
            let number = oracle.write_issued(lba, blocks, WriteKind::Passed);
            stamp(payload, number, lba, blocks);
            Kind::Write {
                number,
                kind: WriteKind::Passed,
            }
        }
        4..6 => {
            cdb[0] = opcode::WRITE_SAME_16;
            sixteen(&mut cdb, 1);
            let number = oracle.write_issued(lba, 1, WriteKind::Passed);
            stamp(payload, number, lba, 1);
            Kind::Write {
                number,
                kind: WriteKind::Passed,
            }
        }
        6..8 => {
            let blocks = blocks.min(4);
            cdb[0] = opcode::COMPARE_AND_WRITE;
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[13] = u8::try_from(blocks).expect("at most 4");
            let ticket = oracle.read_issued();
            let expected: Vec<_> = (lba..lba + u64::from(blocks))
                .map(|block| oracle.expected(block))
                .collect();
            for (&number, lba) in expected.iter().zip(lba..) {
                stamp(payload, number, lba, 1);
            }
            let number = oracle.write_issued(lba, blocks, WriteKind::Passed);
            stamp(payload, number, lba, blocks);
            Kind::Compare {
                number,
                ticket,
                lba,
                expected,
            }
        }
        8 => {
            cdb = cdb::read(lba, blocks);
            cdb[0] = opcode::VERIFY_10;
            return (Kind::Verify, cdb, Direction::None);
        }
        _ => {
            cdb[0] = opcode::UNMAP;
            cdb[8] = 24;
            payload.resize(24, 0);
            payload[1] = 22;
            payload[3] = 16;
            payload[8..16].copy_from_slice(&lba.to_be_bytes());
            payload[16..20].copy_from_slice(&blocks.to_be_bytes());
            Kind::Unmap
        }
    };
    let len = u32::try_from(payload.len()).expect("a short request");
    (kind, cdb, Direction::Out(len))
}

fn answered(
    kind: &Kind,
    status: ScsiStatus,
    bytes: &[u8],
    counters: &mut ClientCounters,
    oracle: &mut Oracle,
) {
    let good = status == ScsiStatus::GOOD;
    let key = (status == ScsiStatus::CHECK_CONDITION)
        .then(|| sense::parse(bytes))
        .flatten()
        .map(|received| received.sense.key);
    let attention = key == Some(SenseKey::UNIT_ATTENTION);
    if !good {
        match status {
            ScsiStatus::BUSY | ScsiStatus::TASK_SET_FULL => counters.busy += 1,
            ScsiStatus::CHECK_CONDITION if attention => counters.attentions += 1,
            ScsiStatus::CHECK_CONDITION if key == Some(SenseKey::MISCOMPARE) => {
                counters.compares_failed += 1;
            }
            _ => counters.errors += 1,
        }
    }
    match kind {
        Kind::Write { number, kind } if good => {
            oracle.write_acknowledged(*number);
            match kind {
                WriteKind::Plain => counters.writes_good += 1,
                WriteKind::Ordered => counters.ordered_good += 1,
                WriteKind::Fua => counters.fua_good += 1,
                WriteKind::Passed => counters.passed_writes_good += 1,
            }
        }
        Kind::Compare {
            number,
            ticket,
            lba,
            expected,
        } if good => {
            counters.compares_good += 1;
            oracle.read_answered(*ticket, *lba, expected);
            oracle.write_acknowledged(*number);
        }
        // The storage may have done it, and the answer be lost.
        Kind::Write {
            number,
            kind: WriteKind::Passed,
        }
        | Kind::Compare { number, .. }
            if key == Some(SenseKey::ABORTED_COMMAND) =>
        {
            oracle.write_unknown(*number);
        }
        Kind::Write { number, .. } | Kind::Compare { number, .. } => {
            oracle.write_refused(*number);
        }
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
        Kind::Verify => counters.verifies_good += u64::from(good),
        Kind::Unmap => counters.unmaps_good += u64::from(good),
        Kind::Read { .. } | Kind::Sync { .. } => {}
    }
}

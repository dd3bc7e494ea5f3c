//! A small site for tests and benches that speak iSCSI byte by byte: two computers, the
//! real worker on memory ports, and the model storage, on links without loss.
//!
//! It asserts what it needs to go on, and so ends whoever uses it wrongly.
//! A [`Session`] is a TCP connection and nothing more: what goes over it is
//! the test's to say, right or wrong.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::block::{self, BLOCK_LEN};
use crate::host::Host;
use crate::journal::Journal;
use crate::link::{Faults, Link};
use crate::proof::Names;
use crate::random::Random;
use crate::storage::{LUN, PORT, Storage};
use sluice_dataplane::driver::Port;
use sluice_dataplane::driver::memory::MemorySpec;
use sluice_dataplane::journal::core::AREA_BLOCKS_MIN;
use sluice_dataplane::journal::layout::HEADER_BLOCKS;
use sluice_dataplane::net::{PortConfig, Router, RouterConfig};
use sluice_dataplane::tcp::{Tcp, TcpConfig, WanBuffers};
use sluice_dataplane::worker::publish::Publisher;
use sluice_dataplane::worker::security::Security;
use sluice_dataplane::worker::{Digests, Io, Mode, Relay, RelayConfig, Target, Usage, Worker};
use sluice_hugepages::log::Log;
use sluice_hugepages::pool::Pool;
use sluice_hugepages::region::Region;
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::cache::flush::policy::FlushPolicy;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

pub const BLOCKS: usize = 1024;
pub const TARGETS: [&str; 2] = [
    "iqn.2004-03.example.sim:vol0",
    "iqn.2004-03.example.sim:vol1",
];
const COMPUTERS: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 10), Ipv4Addr::new(198, 18, 0, 11)];
pub const RELAY_LAN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub const RELAY_WAN: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
pub const STORAGE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 10);
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 11);

/// Opcodes of RFC 7143 11.2.1.2 that these tests send or wait for.
pub mod op {
    pub const NOP_OUT: u8 = 0x00;
    pub const COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT: u8 = 0x02;
    pub const LOGIN: u8 = 0x03;
    pub const TEXT: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT: u8 = 0x06;
    pub const NOP_IN: u8 = 0x20;
    pub const RESPONSE: u8 = 0x21;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const R2T: u8 = 0x31;
    pub const IMMEDIATE: u8 = 0x40;
}

/// A PDU as it comes or goes, without digests.
#[derive(Clone, Debug)]
pub struct Pdu {
    pub header: [u8; 48],
    /// Additional header segments, in whole words.
    pub ahs: Vec<u8>,
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn new(opcode: u8, flags: u8, itt: u32) -> Self {
        let mut header = [0; 48];
        header[0] = opcode;
        header[1] = flags;
        header[16..20].copy_from_slice(&itt.to_be_bytes());
        Self {
            header,
            ahs: Vec::new(),
            data: Vec::new(),
        }
    }

    pub fn at(mut self, at: usize, bytes: &[u8]) -> Self {
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn word(self, at: usize, word: u32) -> Self {
        self.at(at, &word.to_be_bytes())
    }

    /// Additional header segments (RFC 7143 11.2.2), in whole words.
    pub fn ahs(mut self, segments: &[u8]) -> Self {
        self.header[4] = u8::try_from(segments.len() / 4).expect("the site holds");
        self.ahs = segments.to_vec();
        self
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        let len = u32::try_from(data.len())
            .expect("the site holds")
            .to_be_bytes();
        self.header[5..8].copy_from_slice(&len[1..]);
        self.data = data.to_vec();
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.to_vec();
        bytes.extend_from_slice(&self.ahs);
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    pub fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    pub fn itt(&self) -> u32 {
        u32::from_be_bytes(self.header[16..20].try_into().expect("the site holds"))
    }

    pub fn status(&self) -> u8 {
        self.header[3]
    }
}

/// Takes a ping of the relay's from the front of what has come, and gives the answer
/// (RFC 7143 11.18): as an initiator does it that is idle, or reads what it is sent.
fn take_ping(received: &mut Vec<u8>) -> Option<[u8; 48]> {
    let ping: [u8; 48] = *received.first_chunk()?;
    let asks = ping[20..24] != [0xff; 4];
    if ping[0] & 0x3f != op::NOP_IN || ping[16..20] != [0xff; 4] || !asks {
        return None;
    }
    received.drain(..48);
    let mut pong = [0; 48];
    (pong[0], pong[1]) = (op::NOP_OUT | op::IMMEDIATE, 0x80);
    pong[16..20].fill(0xff);
    pong[20..24].copy_from_slice(&ping[20..24]);
    // Its CmdSN is the one that is expected, which an immediate command does not use up.
    pong[24..28].copy_from_slice(&ping[28..32]);
    pong[28..32].copy_from_slice(&ping[24..28]);
    Some(pong)
}

/// A connection of a computer, and where its numbers stand.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    computer: usize,
    handle: SocketHandle,
    pub cmd_sn: u32,
    pub itt: u32,
}

/// How large a site is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub sessions_max: usize,
    pub pool_pages: usize,
    /// Bytes of the log; its directory has a row for each nexus, some 1,500 in the
    /// first 2 MiB and as many in each 128 MiB more.
    pub log_len: usize,
    pub wan_pages: u32,
    pub silence_max: Duration,
    /// TCP keep-alives towards computers and the storage.
    pub asks_idle: bool,
    /// Several computers may be on one target.
    pub shared: bool,
    /// Units have an identity of the relay's own.
    pub own_identity: bool,
    /// Computers dial the relay's own portal.
    pub portal: bool,
    /// The second target is at [`ELSEWHERE`], where nobody answers but
    /// [`Site::elsewhere`].
    pub apart: bool,
    /// Computers must prove who they are: see [`Names::login`].
    pub chap: bool,
    /// When plain writes are acknowledged.
    pub durability: Durability,
    /// Sessions that flush to each target.
    pub lanes: usize,
    /// Initiator names that the relay lets in; empty for any.
    pub initiators: &'static [&'static str],
}

impl Size {
    pub const SMALL: Self = Self {
        sessions_max: 8,
        pool_pages: 512,
        log_len: 24 * 1024 * 1024,
        wan_pages: 4,
        silence_max: Duration::from_secs(5),
        asks_idle: true,
        shared: false,
        own_identity: false,
        portal: false,
        apart: false,
        chap: false,
        durability: Durability::Memory,
        lanes: 1,
        initiators: &[],
    };
}

#[derive(Debug)]
pub struct Site {
    pub now: Time,
    pub worker: Worker,
    pub storage: Storage,
    /// Another storage, at [`ELSEWHERE`].
    pub elsewhere: Option<Storage>,
    size: Size,
    ports: Vec<Port>,
    computers: [Host; 2],
    received: Vec<(SocketHandle, usize, Vec<u8>)>,
    /// Sessions whose computer reads nothing: their window closes.
    unread: Vec<(SocketHandle, usize)>,
    /// Computers leave the relay's pings unanswered.
    pub mute: bool,
    random: Random,
    next_port: u16,
    /// Where the contract is `journal`.
    pub journal: Option<Journal>,
    /// The WAN's two directions: from the relay, and to it.
    wan: [Link; 2],
    wan_random: Random,
    /// Called before and after every step of the worker.
    pub around_step: [fn(); 2],
    /// Where the worker's tables are shown, if anywhere.
    pub control: Option<Publisher>,
}

impl Site {
    pub fn small() -> Self {
        Self::with(|_| ())
    }

    pub fn with(change: impl FnOnce(&mut Storage)) -> Self {
        Self::of(Size::SMALL, change)
    }

    pub fn of(size: Size, change: impl FnOnce(&mut Storage)) -> Self {
        let mut random = Random::new(7);
        let mut storage = Storage::new(STORAGE, RELAY_WAN, BLOCKS, random.draw());
        storage.latency_max = Duration::from_micros(100);
        change(&mut storage);
        let mut journal = (size.durability == Durability::Journal)
            .then(|| Journal::new(AREA_BLOCKS_MIN + HEADER_BLOCKS));
        let begun = Time::from_millis(1);
        let (worker, ports) = start(None, size, journal.as_mut(), &mut random, begun);
        let host = |at: usize| {
            let mac = [
                2,
                0,
                0,
                0,
                0,
                0x10 + u8::try_from(at).expect("the site holds"),
            ];
            Host::new(COMPUTERS[at], RELAY_LAN, mac, 11 + at as u64)
        };
        Self {
            now: Time::from_millis(1),
            worker,
            storage,
            elsewhere: None,
            ports,
            size,
            computers: [host(0), host(1)],
            received: Vec::new(),
            unread: Vec::new(),
            mute: false,
            random,
            next_port: 40_000,
            journal,
            wan: [Faults::default(); 2].map(Link::new),
            wan_random: Random::new(8),
            around_step: [|| (), || ()],
            control: None,
        }
    }

    /// What is sent over the WAN from now on takes so long, each way.
    pub fn delay_wan(&mut self, delay: Duration) {
        for link in &mut self.wan {
            link.faults.delay = delay;
        }
    }

    /// So many bytes a second the WAN carries each way.
    pub fn limit_wan(&mut self, rate: u64) {
        for link in &mut self.wan {
            link.faults.rate = rate;
        }
    }

    /// The process dies, and another begins with what it left behind.
    pub fn restart(self) -> Self {
        self.restart_over(|_| ())
    }

    /// As [`Site::restart`], with another configuration.
    pub fn restart_as(mut self, size: Size) -> Self {
        self.size = size;
        self.restart()
    }

    /// As [`Site::restart`], with what it left behind changed meanwhile.
    pub fn restart_over(self, change: impl FnOnce(&mut Region)) -> Self {
        self.begin_anew(|mut region| {
            change(&mut region);
            Some(region)
        })
    }

    /// The relay's power fails, and comes back: there is no log any more.
    pub fn lose_power(self) -> Self {
        self.begin_anew(|_| None)
    }

    fn begin_anew(mut self, left: impl FnOnce(Region) -> Option<Region>) -> Self {
        let log = self.worker.into_log();
        if let Some(journal) = &mut self.journal {
            journal.stop(&log, &mut self.random);
        }
        let region = left(log.into_region());
        let journal = self.journal.as_mut();
        (self.worker, self.ports) = start(region, self.size, journal, &mut self.random, self.now);
        self
    }

    /// Drops the computer's end of a session without a word, and the storage's of
    /// all but the first: they stay, idle, at the relay, where nobody asks them
    /// for a sign of life ([`Size::asks_idle`]).
    pub fn leave_idle(&mut self, session: &Session) {
        let Session {
            computer, handle, ..
        } = *session;
        self.received
            .retain(|(known, owner, _)| (*known, *owner) != (handle, computer));
        self.computers[computer].close(handle);
        self.storage.forget_all_but_first();
    }

    /// The session's computer reads nothing any more, or reads again.
    pub fn set_reading(&mut self, session: &Session, reads: bool) {
        let name = (session.handle, session.computer);
        self.unread.retain(|&unread| unread != name);
        if !reads {
            self.unread.push(name);
        }
    }

    /// Hands a frame to the relay's LAN port.
    pub fn inject_lan(&mut self, frame: &[u8]) {
        let lan = self.ports[0].memory_mut().expect("a memory port");
        lan.inject(&mut self.worker.pool, frame)
            .expect("room in the port's queue");
    }

    /// One step of the worker; what it sends to the WAN is taken away and counted.
    pub fn step(&mut self, time: Duration) -> usize {
        self.now += time;
        let mut io = Io {
            ports: &mut self.ports,
            control: self.control.as_mut(),
        };
        self.around_step[0]();
        self.worker.step(self.now, &mut io);
        self.around_step[1]();
        let wan = self.ports[1].memory_mut().expect("a memory port");
        let mut sent = 0;
        while let Some(frame) = wan.take_frame() {
            self.worker.pool.release(frame);
            sent += 1;
        }
        sent
    }

    pub fn usage(&self) -> Usage {
        self.worker.relay.usage()
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.round();
            let mut next = self.worker.deadline().min(self.storage.deadline(self.now));
            if let Some(elsewhere) = &mut self.elsewhere {
                next = next.min(elsewhere.deadline(self.now));
            }
            for computer in &mut self.computers {
                next = next.min(computer.deadline(self.now));
            }
            if let Some(journal) = &self.journal {
                next = next.min(journal.deadline());
            }
            for link in &self.wan {
                next = next.min(link.deadline());
            }
            let elsewhere = self.elsewhere.as_ref().map(|storage| &storage.host);
            let hosts = self.computers.iter().chain([&self.storage.host]);
            let mut hosts = hosts.chain(elsewhere);
            if hosts.any(|host| !host.wire.received.is_empty()) {
                next = self.now;
            }
            self.now = next.max(self.now + Duration::from_micros(20)).min(end);
        }
    }

    fn round(&mut self) {
        let now = self.now;
        for (at, computer) in self.computers.iter_mut().enumerate() {
            computer.poll(now);
            for (handle, owner, bytes) in &mut self.received {
                if *owner == at && !self.unread.contains(&(*handle, *owner)) {
                    let socket = computer.socket_mut(*handle);
                    while socket.can_recv() {
                        let _ = socket.recv(|new| {
                            bytes.extend_from_slice(new);
                            (new.len(), ())
                        });
                    }
                    while !self.mute
                        && let Some(pong) = take_ping(bytes)
                    {
                        let _ = socket.send_slice(&pong);
                    }
                }
            }
            computer.poll(now);
        }
        for storage in [&mut self.storage].into_iter().chain(&mut self.elsewhere) {
            storage.step(now, &mut self.random);
        }
        for _ in 0..64 {
            self.carry();
            let mut io = Io {
                ports: &mut self.ports,
                control: self.control.as_mut(),
            };
            self.around_step[0]();
            let did_work = self.worker.step(now, &mut io).did_work;
            self.around_step[1]();
            let heard = self
                .journal
                .as_mut()
                .is_some_and(|journal| journal.step(now, &mut self.worker.relay, &mut self.random));
            if !did_work && !heard {
                break;
            }
        }
        self.carry();
    }

    fn carry(&mut self) {
        let pool = &mut self.worker.pool;
        let lan = self.ports[0].memory_mut().expect("the site holds");
        let mut bytes = Vec::new();
        while lan.take(pool, &mut bytes) {
            for computer in &mut self.computers {
                computer.wire.received.push_back(bytes.clone());
            }
        }
        for computer in &mut self.computers {
            while let Some(frame) = computer.wire.sent.pop_front() {
                let _ = lan.inject(pool, &frame);
            }
        }
        let wan = self.ports[1].memory_mut().expect("the site holds");
        let mut storages = vec![&mut self.storage];
        storages.extend(&mut self.elsewhere);
        let [out, back] = &mut self.wan;
        while wan.take(pool, &mut bytes) {
            out.send(self.now, bytes.clone(), &mut self.wan_random);
        }
        while let Some(frame) = out.receive(self.now) {
            for storage in &mut storages {
                storage.host.wire.received.push_back(frame.clone());
            }
        }
        for storage in storages {
            while let Some(frame) = storage.host.wire.sent.pop_front() {
                back.send(self.now, frame, &mut self.wan_random);
            }
        }
        while let Some(frame) = back.receive(self.now) {
            let _ = wan.inject(pool, &frame);
        }
    }

    pub fn connect(&mut self, computer: usize) -> Session {
        let handle = self.computers[computer].open();
        self.next_port += 1;
        let dialled = if self.size.portal { RELAY_LAN } else { STORAGE };
        self.computers[computer].connect(handle, (dialled, PORT), self.next_port);
        self.received.push((handle, computer, Vec::new()));
        self.run(Duration::from_millis(20));
        Session {
            computer,
            handle,
            cmd_sn: 1,
            itt: 1,
        }
    }

    pub fn send(&mut self, session: &Session, bytes: &[u8]) {
        let mut rest = bytes;
        for _ in 0..10_000 {
            let socket = self.computers[session.computer].socket_mut(session.handle);
            if rest.is_empty() || !socket.may_send() {
                break;
            }
            let sent = socket.send_slice(rest).expect("the site holds");
            rest = &rest[sent..];
            self.run(Duration::from_micros(200));
        }
    }

    /// Hands over as many of these bytes as the connection has room for; gives how
    /// many. No time passes.
    pub fn offer(&mut self, session: &Session, bytes: &[u8]) -> usize {
        let socket = self.computers[session.computer].socket_mut(session.handle);
        socket.send_slice(bytes).unwrap_or(0)
    }

    /// What has come on the session since the last call.
    pub fn take_received(&mut self, session: &Session) -> Vec<u8> {
        let name = (session.handle, session.computer);
        let mut known = self.received.iter_mut();
        let of = known.find(|(handle, owner, _)| (*handle, *owner) == name);
        of.map(|(_, _, bytes)| std::mem::take(bytes))
            .unwrap_or_default()
    }

    /// Ends the connection at once: RST.
    pub fn abort(&mut self, session: &Session) {
        self.computers[session.computer]
            .socket_mut(session.handle)
            .abort();
    }

    /// Ends the computer's side of the connection: FIN.
    pub fn close(&mut self, session: &Session) {
        self.computers[session.computer]
            .socket_mut(session.handle)
            .close();
    }

    pub fn is_open(&mut self, session: &Session) -> bool {
        self.computers[session.computer]
            .socket(session.handle)
            .state()
            == State::Established
    }

    /// The next PDU that has come, waiting for it a second at most.
    pub fn next_pdu(&mut self, session: &Session) -> Option<Pdu> {
        for _ in 0..1000 {
            if let Some(pdu) = self.take_pdu(session) {
                return Some(pdu);
            }
            self.run(Duration::from_millis(1));
        }
        None
    }

    /// The next PDU, if one has come.
    pub fn take_pdu(&mut self, session: &Session) -> Option<Pdu> {
        let (_, _, bytes) = self
            .received
            .iter_mut()
            .find(|(handle, owner, _)| (*handle, *owner) == (session.handle, session.computer))?;
        let header: [u8; 48] = *bytes.first_chunk()?;
        let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let end = (48 + len).next_multiple_of(4);
        if bytes.len() < end {
            return None;
        }
        let data = bytes[48..48 + len].to_vec();
        bytes.drain(..end);
        Some(Pdu {
            header,
            ahs: Vec::new(),
            data,
        })
    }

    pub fn login_pdu(computer: usize, target: usize, isid: u16) -> Pdu {
        let text = format!(
            "InitiatorName=iqn.2004-03.example.sim:computer{computer}\0\
             TargetName={}\0SessionType=Normal\0InitialR2T=Yes\0ImmediateData=Yes\0",
            TARGETS[target]
        );
        Pdu::new(op::LOGIN | op::IMMEDIATE, 0x87, 0)
            .at(8, &[0x80, 0, 0, 0])
            .at(12, &isid.to_be_bytes())
            .word(24, 1)
            .data(text.as_bytes())
    }

    /// A session that has logged in.
    pub fn login(&mut self, computer: usize, target: usize, isid: u16) -> Session {
        let mut session = self.connect(computer);
        self.send(&session, &Self::login_pdu(computer, target, isid).bytes());
        let answer = self.next_pdu(&session).expect("an answer to the login");
        assert_eq!(
            (answer.opcode(), answer.header[36]),
            (op::LOGIN_RESPONSE, 0),
            "login status class, detail {}",
            answer.header[37]
        );
        // Takes the unit attention that every new session is met with.
        let ready = Self::command(&mut session, 0, 0, &[0; 6]);
        self.send(&session, &ready.bytes());
        self.finish(&session, ready.itt()).expect("a status");
        session
    }

    pub fn command(session: &mut Session, flags: u8, len: u32, cdb: &[u8]) -> Pdu {
        Self::command_to(LUN, session, flags, len, cdb)
    }

    pub fn command_to(lun: u64, session: &mut Session, flags: u8, len: u32, cdb: &[u8]) -> Pdu {
        let pdu = Pdu::new(op::COMMAND, 0x81 | flags, session.itt)
            .at(8, &lun.to_be_bytes())
            .word(20, len)
            .word(24, session.cmd_sn)
            .at(32, cdb);
        session.itt += 1;
        session.cmd_sn += 1;
        pdu
    }

    /// The status of the task, and the data that came before it.
    pub fn finish(&mut self, session: &Session, itt: u32) -> Option<(u8, Vec<u8>)> {
        let mut data = Vec::new();
        while let Some(pdu) = self.next_pdu(session) {
            if pdu.itt() != itt {
                continue;
            }
            match pdu.opcode() {
                op::DATA_IN => {
                    data.extend_from_slice(&pdu.data);
                    if pdu.header[1] & 1 != 0 {
                        return Some((pdu.status(), data));
                    }
                }
                op::RESPONSE => return Some((pdu.status(), data)),
                _ => {}
            }
        }
        None
    }

    /// Answers every R2T of the task with its part of `data`; the task's status.
    pub fn finish_write(&mut self, session: &Session, itt: u32, data: &[u8]) -> Option<u8> {
        let word = |pdu: &Pdu, at: usize| {
            u32::from_be_bytes(*pdu.header[at..].first_chunk().expect("a word"))
        };
        while let Some(pdu) = self.next_pdu(session) {
            match pdu.opcode() {
                op::RESPONSE if pdu.itt() == itt => return Some(pdu.status()),
                op::R2T if pdu.itt() == itt => {
                    let (ttt, offset) = (word(&pdu, 20), word(&pdu, 40) as usize);
                    let burst = &data[offset..offset + word(&pdu, 44) as usize];
                    // The least that anyone must take (RFC 7143 13.12).
                    let pieces = burst.chunks(512);
                    let last = pieces.len() - 1;
                    let mut bytes = Vec::new();
                    for ((at, piece), number) in pieces.enumerate().zip(0..) {
                        let from = u32::try_from(offset + at * 512).expect("the site holds");
                        let is_last = u8::from(at == last) << 7;
                        let out = Pdu::new(op::DATA_OUT, is_last, itt)
                            .at(8, &LUN.to_be_bytes())
                            .word(20, ttt)
                            .word(36, number)
                            .word(40, from)
                            .data(piece);
                        bytes.extend(out.bytes());
                    }
                    self.send(session, &bytes);
                }
                _ => {}
            }
        }
        None
    }

    pub fn write(&mut self, session: &mut Session, lba: u64, number: u32) -> Option<u8> {
        let mut data = [0; BLOCK_LEN];
        block::fill(&mut data, number, lba);
        let len = u32::try_from(BLOCK_LEN).expect("the site holds");
        let cdb = sluice_proto::scsi::cdb::write(lba, 1);
        let pdu = Self::command(session, 0x20, len, &cdb).data(&data);
        self.send(session, &pdu.bytes());
        self.finish(session, pdu.itt()).map(|(status, _)| status)
    }

    pub fn read(&mut self, session: &mut Session, lba: u64) -> Option<(u8, Option<u32>)> {
        let len = u32::try_from(BLOCK_LEN).expect("the site holds");
        let cdb = sluice_proto::scsi::cdb::read(lba, 1);
        let pdu = Self::command(session, 0x40, len, &cdb);
        self.send(session, &pdu.bytes());
        let (status, data) = self.finish(session, pdu.itt())?;
        let number = (data.len() == BLOCK_LEN)
            .then(|| block::number(&data, lba))
            .flatten();
        Some((status, number))
    }

    /// SYNCHRONIZE CACHE. A test of ordering points gives one first: a volume's first
    /// waits for what a relay before this one may have left in the storage's cache (C-2).
    pub fn synchronize(&mut self, session: &mut Session) -> Option<u8> {
        let cdb = sluice_proto::scsi::cdb::synchronize_cache();
        let pdu = Self::command(session, 0, 0, &cdb);
        self.send(session, &pdu.bytes());
        self.finish(session, pdu.itt()).map(|(status, _)| status)
    }

    pub fn counter(&self, name: &str) -> u64 {
        let rows = self.worker.relay.counters.rows();
        rows.iter()
            .find(|(row, _)| *row == name)
            .expect("a counter")
            .1
    }
}

fn start(
    mut region: Option<Region>,
    size: Size,
    journal: Option<&mut Journal>,
    random: &mut Random,
    now: Time,
) -> (Worker, Vec<Port>) {
    let mut open = |anew: bool| {
        let found = region.take().filter(|_| !anew);
        Log::open(found.unwrap_or_else(|| Region::anonymous(size.log_len)))
    };
    let (log, recovery, line, torn) = match journal {
        None => {
            let (log, recovery) = open(false).expect("a log of our own making");
            (log, recovery, None, Vec::new())
        }
        Some(journal) => {
            let begun = journal.begin(|anew| Ok(open(anew)?), |_| true);
            let torn = begun.restored.map_or(Vec::new(), |restored| restored.torn);
            (begun.log, begun.recovery, Some(begun.line), torn)
        }
    };
    let mut pool = Pool::anonymous(size.pool_pages);
    let config = RelayConfig {
        mode: if size.portal {
            Mode::Portal
        } else {
            Mode::Transparent
        },
        targets: TARGETS
            .iter()
            .map(|name| Target {
                name: (*name).to_owned(),
                address: SocketAddrV4::new(
                    if size.apart && *name == TARGETS[1] {
                        ELSEWHERE
                    } else {
                        STORAGE
                    },
                    PORT,
                ),
                initiators: size
                    .initiators
                    .iter()
                    .map(|&name| name.to_owned())
                    .collect(),
                shared: size.shared,
                own_identity: size.own_identity,
                luns: vec![LUN],
                chap: size.chap,
                wan_address: RELAY_WAN,
                durability: size.durability,
                lanes: size.lanes,
            })
            .collect(),
        flush: FlushPolicy {
            threshold_bytes: 1 << 20,
            stop_bytes: None,
            period: Duration::from_secs(2),
            idle: Duration::ZERO,
            load_limit_ms: 0,
            load_limit_percent: 0,
        },
        wait_max: Duration::from_secs(10),
        cache_warning_percent: 75,
        sessions_max: size.sessions_max,
        staging_pages: 96,
        wan_buffers: WanBuffers {
            rx_pages: size.wan_pages,
            tx_frames: size.wan_pages * 16,
        },
        silence_max: size.silence_max,
        lan_digests: Digests::default(),
        wan_digests: Digests::default(),
        security: Security {
            computers: vec![Names::LAN.of_computers()],
            storages: Vec::new(),
        },
        challenge_key: [7; 32],
        seed: random.draw(),
    };
    let port = |index: u8| {
        Port::memory(&MemorySpec {
            name: format!("port{index}"),
            index,
            mac: [2, 0, 0, 0, 0, index + 1],
            gso: false,
            ..MemorySpec::default()
        })
    };
    let net = |name: &str, index: u8, address| PortConfig {
        name: name.to_owned(),
        mac: [2, 0, 0, 0, 0, index + 1],
        address,
        prefix_len: 24,
        mtu: 1500,
    };
    let router = Router::new(RouterConfig {
        ports: vec![net("lan", 0, RELAY_LAN), net("wan", 1, RELAY_WAN)],
        intercepts: vec![(STORAGE, PORT), (ELSEWHERE, PORT)],
        portal: size.portal.then_some((RELAY_LAN, PORT)),
        ..RouterConfig::default()
    })
    .expect("a valid configuration");
    let mut settings = TcpConfig::new(
        u32::try_from(size.sessions_max * 4).expect("a small number"),
        1500,
        random.seed(),
    );
    if !size.asks_idle {
        for side in [&mut settings.accept, &mut settings.connect] {
            (side.keep_alive, side.timeout) = (None, None);
        }
    }
    let mut tcp = Tcp::new(settings);
    let listens = if size.portal { RELAY_LAN } else { STORAGE };
    tcp.listen(SocketAddrV4::new(listens, PORT));
    let mut relay = Relay::new(config, log, &recovery, &mut pool, now).expect("the pool holds it");
    relay.fail_torn(&torn);
    if let Some(line) = line {
        relay.set_journal(line, now);
    }
    (
        Worker::new(pool, router, tcp, relay),
        vec![port(0), port(1)],
    )
}

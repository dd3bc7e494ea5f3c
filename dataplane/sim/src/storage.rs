//! The model storage: an iSCSI target whose volume has a volatile write cache.
//!
//! Commands take a random while and may finish in any order. What was written
//! is visible at once and reaches stable media at SYNCHRONIZE CACHE, or block
//! by block whenever the storage likes. A power failure takes the rest away,
//! and the sessions; a reset takes it away and leaves them, with what they have
//! under way, to be told by a unit attention.

mod fault;
mod volume;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use sluice_proto::Time;
use sluice_proto::iscsi::chap::Demand;
use sluice_proto::iscsi::{
    CommandEvent, Offers, TargetConfig, TargetConn, TargetEvent, TaskFunction,
    TaskFunctionResponse, TaskId, login_status,
};
use sluice_proto::scsi::reservation::Change;
use sluice_proto::scsi::{self, Access, ScsiStatus, Sense, SenseKey, opcode};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

pub use fault::{Fault, Refusal, Trouble, TroubleCounters, Troubled};
use volume::Attentions;
pub use volume::Volume;

use crate::block::{self, BLOCK_LEN};
use crate::host::Host;
use crate::proof::Proof;
use crate::random::Random;
use crate::reservation::{InitiatorPort, Refused, Told};

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

/// Status, sense data and data-in.
type Performed = (ScsiStatus, Vec<u8>, Vec<u8>);

#[derive(Debug)]
struct Session {
    handle: SocketHandle,
    conn: Box<TargetConn>,
    isid: Option<[u8; 6]>,
    open: bool,
    pending: Vec<Pending>,
    /// Data-in under way, by token.
    answers: Vec<(u64, Vec<u8>)>,
    /// Unit attentions that wait, a volume.
    attentions: Vec<Attentions>,
    port: Option<InitiatorPort>,
}

impl Session {
    /// Some of its writes, each by itself, take up to three seconds more; how many.
    fn linger(&mut self, now: Time, random: &mut Random) -> u64 {
        let mut late = 0;
        for pending in &mut self.pending {
            if pending.complete && pending.command.write && random.chance(50) {
                pending.due = now + Duration::from_millis(random.of(3000));
                late += 1;
            }
        }
        late
    }
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
    /// Connections broken on purpose.
    pub broken: u64,
    /// Writes made to take long when their session was about to be lost.
    pub lingering: u64,
    /// Initiator ports that could not log in for a while.
    pub shut_out: u64,
    /// Sessions that broke with writes under way, and writes carried out for such.
    pub left_behind: u64,
    pub strays_done: u64,
    /// Commands that were under way in a reset.
    pub strays: u64,
    pub changes_passed: u64,
    pub write_through: u64,
    pub reinstated: u64,
    pub busy: u64,
    /// Commands that somebody's reservation kept out.
    pub conflicts: u64,
    pub destaged: u64,
    /// Commands that were made to fail.
    pub refused: u64,
}

#[derive(Debug)]
pub struct Storage {
    pub host: Host,
    pub volumes: Vec<Volume>,
    pub counters: StorageCounters,
    pub latency_max: Duration,
    pub busy_percent: u64,
    /// The command window of sessions to come.
    pub window: u16,
    /// What it offers them.
    pub offers: Offers,
    /// What initiators must prove; none must.
    pub proof: Option<Proof>,
    pub refusals: Vec<Refusal>,
    /// So many times RELEASE (6) fails.
    pub releases_fail: Option<(Fault, u32)>,
    pub troubles: Vec<Trouble>,
    pub trouble_counters: TroubleCounters,
    /// One command in so many that change something ends so that it is worth another
    /// try; 0 for none.
    pub hiccup_one_in: u64,
    /// What it has refused writes with for good.
    pub refused_with: Vec<Sense>,
    /// Volumes that have lost what they had answered and not synchronized, since
    /// somebody looked last.
    pub lost: BTreeSet<usize>,
    /// Answers no command while set; pings it does.
    pub hangs: bool,
    /// Answers no task management function while set.
    pub ignores_functions: bool,
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
    /// Reads are not carried out while set.
    pub holds_reads: bool,
    /// Initiator names ending so are not let in.
    pub bars: Option<&'static str>,
    /// Sessions that are let in at a time.
    pub sessions_max: usize,
    /// A connection breaks as soon as one has a write under way, and its initiator port
    /// cannot log in for so long.
    pub break_soon: Option<Duration>,
    /// The port that cannot, and until when.
    shut_out: Option<(InitiatorPort, Time)>,
    /// So many times a bit of a read's data turns over on its way, after its digest was
    /// made; TCP's checksum is of what came of it.
    pub damages: u32,
    /// The answer to the next command of this operation code takes long on its way: see
    /// [`Storage::let_go`].
    pub holds_answer_to: Option<u8>,
    held: Option<(usize, Pending, Performed)>,
    sessions: Vec<Session>,
    /// Sessions whose connection is gone, with what is still carried out of them.
    left: Vec<Session>,
    next_token: u64,
    next_tsih: u16,
}

impl Storage {
    pub fn new(address: Ipv4Addr, gateway: Ipv4Addr, blocks: usize, seed: u64) -> Self {
        let mut storage = Self {
            host: Host::new(address, gateway, [2, 0, 0, 0, 0, 0x20], seed),
            volumes: vec![Volume::new(None, LUN, BLOCK_LEN, blocks, 0)],
            counters: StorageCounters::default(),
            latency_max: Duration::from_millis(2),
            busy_percent: 0,
            window: TargetConfig::default().max_tasks,
            offers: TargetConfig::default().offers,
            proof: None,
            refusals: Vec::new(),
            releases_fail: None,
            troubles: Vec::new(),
            trouble_counters: TroubleCounters::default(),
            hiccup_one_in: 0,
            refused_with: Vec::new(),
            lost: BTreeSet::new(),
            hangs: false,
            ignores_functions: false,
            finishes_aborted: false,
            hides_capacity: false,
            unmaps: false,
            deaf: false,
            stalls: None,
            holds_reads: false,
            bars: None,
            sessions_max: usize::MAX,
            break_soon: None,
            shut_out: None,
            damages: 0,
            holds_answer_to: None,
            held: None,
            sessions: Vec::new(),
            left: Vec::new(),
            next_token: 1,
            next_tsih: 1,
        };
        for _ in 0..LISTENERS {
            storage.listen();
        }
        storage
    }

    /// Listens as it is set up by now; nobody has connected yet.
    pub fn listen_anew(&mut self) {
        for session in self.sessions.drain(..) {
            self.host.close(session.handle);
        }
        for _ in 0..LISTENERS {
            self.listen();
        }
    }

    fn listen(&mut self) {
        let handle = self.host.open();
        self.host
            .socket_mut(handle)
            .listen(PORT)
            .expect("a fresh socket");
        self.sessions.push(Session {
            handle,
            conn: Box::new(TargetConn::new(TargetConfig {
                max_tasks: self.window,
                offers: self.offers,
                authenticates: self.proof.is_some(),
                ..TargetConfig::default()
            })),
            isid: None,
            open: false,
            pending: Vec::new(),
            answers: Vec::new(),
            attentions: vec![Attentions::fresh(); self.volumes.len()],
            port: None,
        });
    }

    /// The storage loses power: its cache, its sessions and what they had under way.
    pub fn fail_power(&mut self) {
        self.counters.power_failures += 1;
        self.lose_caches();
        for at in (0..self.sessions.len()).rev() {
            let handle = self.sessions[at].handle;
            if self.sessions[at].open {
                self.host.socket_mut(handle).abort();
            }
        }
        for session in &mut self.sessions {
            session.pending.clear();
        }
        self.left.clear();
        for volume in &mut self.volumes {
            volume.reservations.forget();
        }
    }

    fn lose_caches(&mut self) {
        for volume in &mut self.volumes {
            volume.drop_unsynced(0..volume.media.len());
        }
    }

    /// Every nexus is told this once, on its next command.
    pub fn announce(&mut self, sense: Sense) {
        for session in &mut self.sessions {
            for attentions in &mut session.attentions {
                attentions.told.push_back(sense);
            }
        }
    }

    fn tell(&mut self, volume: usize, told: Vec<Told>) {
        for (port, sense) in told {
            for session in &mut self.sessions {
                if session.port.as_ref() == Some(&port) {
                    session.attentions[volume].told.push_back(sense);
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
        let told = self.volumes[0].reservations.change(port, cdb, parameters)?;
        self.tell(0, told);
        Ok(())
    }

    /// Nobody holds any volume or is registered any more; every nexus is told.
    pub fn clear_reservations(&mut self) {
        for (at, volume) in self.volumes.iter_mut().enumerate() {
            if !volume.reservations.is_unused() {
                volume.reservations.forget();
                for session in &mut self.sessions {
                    let told = &mut session.attentions[at].told;
                    told.push_back(Sense::new(SenseKey::UNIT_ATTENTION, 0x2A, 0x03));
                }
            }
        }
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
            let socket = self.host.socket_mut(session.handle);
            if socket.can_send() {
                let _ = socket.send_slice(bytes);
            }
        }
    }

    /// The storage resets its LUN without losing a session: its cache is gone,
    /// and the next command of each nexus hears of it.
    pub fn reset(&mut self) {
        self.counters.resets += 1;
        self.lose_caches();
        for session in &mut self.sessions {
            session.attentions.fill(Attentions::fresh());
        }
        for volume in &mut self.volumes {
            volume.reservations.end_reserve(None);
        }
    }

    /// Every session is asked to log out within some seconds (RFC 7143 11.9.1).
    pub fn ask_to_leave(&mut self, within_s: u16) {
        for session in &mut self.sessions {
            session.conn.request_logout(within_s);
        }
    }

    /// Every session is told of an event of the volume (RFC 7143 11.9.1, event 0).
    pub fn tell_of(&mut self, lun: u64, sense: Sense) {
        for session in &mut self.sessions {
            session.conn.scsi_event(lun, &sense.fixed());
        }
    }

    /// The volume grows, or shrinks.
    pub fn resize(&mut self, blocks: usize) {
        self.volumes[0].resize(blocks);
    }

    /// The volume is reset by someone: its cache is gone, every session will be
    /// told so, and commands under way end after it (C-6, A-17).
    pub fn lose_cache(&mut self) {
        self.counters.resets += 1;
        self.lose_caches();
        for session in &mut self.sessions {
            for attentions in &mut session.attentions {
                attentions.reset = true;
            }
            self.counters.strays += session
                .pending
                .iter()
                .filter(|pending| pending.command.write)
                .count() as u64;
        }
    }

    /// One block of the cache goes to stable media by itself.
    pub fn destage(&mut self, random: &mut Random) {
        let volume = usize::try_from(random.of(self.volumes.len() as u64)).expect("few volumes");
        let volume = &mut self.volumes[volume];
        let at = usize::try_from(random.of(volume.media.len() as u64)).expect("a small volume");
        if volume.media[at] != volume.visible[at] {
            volume.media[at] = volume.visible[at];
            volume.changed = true;
            self.counters.destaged += 1;
        }
    }

    pub fn deadline(&mut self, now: Time) -> Time {
        let due = self
            .sessions
            .iter()
            .chain(&self.left)
            .flat_map(|session| session.pending.iter())
            .filter(|pending| pending.complete && !self.hangs)
            .map(|pending| pending.due)
            .min();
        self.host.deadline(now).min(due.unwrap_or(Time::FAR))
    }

    pub fn step(&mut self, now: Time, random: &mut Random) {
        self.host.poll(now);
        for at in 0..self.sessions.len() {
            self.serve(now, at, random);
        }
        if let Some(shut_out) = self.break_soon {
            self.break_one(now, shut_out, random);
        }
        // Closed connections make room for new ones.
        for at in (0..self.sessions.len()).rev() {
            let handle = self.sessions[at].handle;
            if self.sessions[at].open && !self.host.socket(handle).is_open() {
                self.host.close(handle);
                let mut gone = self.sessions.remove(at);
                if gone.isid.is_some() {
                    self.end_reserve(gone.port.as_ref());
                }
                // A storage need not end what it has all the data of (RFC 7143 6.3.5):
                // it is carried out in its time, unless the session is reinstated.
                gone.pending
                    .retain(|pending| pending.complete && pending.command.write);
                if gone.isid.is_some() && !gone.pending.is_empty() {
                    self.counters.left_behind += 1;
                    gone.attentions.fill(Attentions::default());
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
        let holds_reads = self.holds_reads;
        let is_read = |pending: &Pending| {
            let access = scsi::classify(&pending.cdb);
            matches!(access, Ok(Access::Read { .. }))
        };
        let which = session.pending.iter().position(|pending| {
            pending.complete
                && pending.due <= now
                && !(stalled && pending.command.write)
                && !(holds_reads && is_read(pending))
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

    /// Sessions that are logged in, the oldest first.
    fn logged_in(&self) -> impl DoubleEndedIterator<Item = &Session> {
        let sessions = self.sessions.iter();
        sessions.filter(|session| session.open && session.isid.is_some())
    }

    /// How many writes each session that is logged in has under way, the oldest first.
    pub fn writes_by_session(&self) -> Vec<usize> {
        let writes = |session: &Session| {
            let pending = session.pending.iter();
            pending.filter(|pending| pending.command.write).count()
        };
        self.logged_in().map(writes).collect()
    }

    /// The connection of the first session breaks; its commands stay.
    pub fn cut_first(&mut self) {
        let handle = self.sessions[0].handle;
        self.host.socket_mut(handle).abort();
    }

    /// The same of the newest that is logged in.
    pub fn cut_last(&mut self) {
        let handle = self.logged_in().next_back().map(|session| session.handle);
        self.host
            .socket_mut(handle.expect("one is logged in"))
            .abort();
    }

    /// The connections of initiators whose names end so break; their commands stay.
    pub fn cut(&mut self, end: &str) {
        for session in &self.sessions {
            let port = session.port.as_ref();
            if port.is_some_and(|port| port.name.ends_with(end)) {
                self.host.socket_mut(session.handle).abort();
            }
        }
    }

    /// The connection of a session breaks, as when a path fails: what it has under
    /// way is carried out all the same, some of it late.
    fn break_one(&mut self, now: Time, shut_out: Duration, random: &mut Random) {
        let has_writes = |session: &Session| {
            let writes = |pending: &Pending| pending.complete && pending.command.write;
            session.open && session.isid.is_some() && session.pending.iter().any(writes)
        };
        let count = self.sessions.iter().filter(|one| has_writes(one)).count();
        if count == 0 {
            return;
        }
        let which = random.below(count);
        let mut sessions = self.sessions.iter_mut().filter(|one| has_writes(one));
        let session = sessions.nth(which).expect("as many as were counted");
        self.break_soon = None;
        self.counters.broken += 1;
        if !shut_out.is_zero() {
            self.counters.shut_out += 1;
            self.shut_out = session.port.clone().map(|port| (port, now + shut_out));
        }
        self.counters.lingering += session.linger(now, random);
        self.host.socket_mut(session.handle).abort();
    }

    /// Everybody may log in.
    pub fn let_in(&mut self) {
        self.break_soon = None;
        self.shut_out = None;
    }

    /// Some of what is under way takes long.
    pub fn linger(&mut self, now: Time, random: &mut Random) {
        for session in &mut self.sessions {
            self.counters.lingering += session.linger(now, random);
        }
    }

    /// What is under way is done, and every session ends.
    pub fn settle(&mut self, random: &mut Random) {
        for at in 0..self.sessions.len() {
            while let Some(pending) = self.due(Time::FAR, at) {
                let _ = self.perform(at, &pending, random);
            }
            let session = &mut self.sessions[at];
            session.pending.clear();
            if session.open {
                self.host.socket_mut(session.handle).abort();
            }
        }
        self.execute_left(Time::FAR, random);
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
            self.host.socket_mut(handle).close();
        }
    }

    /// Takes one event off the stream; false when nothing more is there.
    fn receive(&mut self, now: Time, at: usize, random: &mut Random) -> bool {
        let Self { host, sessions, .. } = self;
        let session = &mut sessions[at];
        if !host.socket(session.handle).can_recv() {
            return false;
        }
        let socket = host.socket_mut(session.handle);
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
                    Some(TargetEvent::Authenticate) => event = Some(Simple::Authenticate),
                    Some(TargetEvent::Login) => event = Some(Simple::Login),
                    Some(TargetEvent::Command(command)) => event = Some(Simple::Command(command)),
                    Some(TargetEvent::WriteComplete { task }) => {
                        event = Some(Simple::Complete(task))
                    }
                    Some(TargetEvent::TaskManagement {
                        tag,
                        function,
                        lun,
                        ref_task,
                    }) => event = Some(Simple::Management(tag, function, lun, ref_task)),
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
            Some(Simple::Authenticate) => {
                let demand = self.proof.as_mut().map_or(Demand::Nothing, Proof::demand);
                if let Some(TargetEvent::Login) = self.sessions[at].conn.authenticate(demand) {
                    self.login(now, at);
                }
            }
            Some(Simple::Login) => self.login(now, at),
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
            Some(Simple::Management(..)) if self.ignores_functions => {}
            Some(Simple::Management(tag, function, lun, task)) => {
                let is_there = function != TaskFunction::LunReset || self.find(at, lun).is_some();
                if function == TaskFunction::LunReset && is_there {
                    self.reset_tasks(lun);
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
                let response = match is_there {
                    true => TaskFunctionResponse::Complete,
                    false => TaskFunctionResponse::LunDoesNotExist,
                };
                session.conn.answer_task_management(tag, response);
            }
            Some(Simple::Close) => {
                let handle = self.sessions[at].handle;
                self.host.socket_mut(handle).abort();
            }
        }
        true
    }

    /// LUN RESET: what every session had under way is ended, and each is told so
    /// but the one that asked (SAM-5 7.7); the cache stays.
    fn reset_tasks(&mut self, lun: u64) {
        self.counters.lun_resets += 1;
        for session in self.sessions.iter_mut().chain(&mut self.left) {
            let Session { conn, pending, .. } = session;
            pending.retain(|pending| {
                let stays = pending.command.lun != lun;
                if !stays {
                    conn.abort(pending.task);
                }
                stays
            });
        }
        for (at, volume) in self.volumes.iter_mut().enumerate() {
            if volume.lun == lun {
                for session in &mut self.sessions {
                    session.attentions[at] = Attentions::fresh();
                }
                volume.reservations.end_reserve(None);
            }
        }
    }

    fn end_reserve(&mut self, port: Option<&InitiatorPort>) {
        for volume in &mut self.volumes {
            volume.reservations.end_reserve(port);
        }
    }

    /// The volume that a session means by this LUN.
    fn find(&self, at: usize, lun: u64) -> Option<usize> {
        let target = &self.sessions[at].conn.login_request().target_name;
        let target = target.as_deref().unwrap_or_default();
        let mut volumes = self.volumes.iter();
        volumes.position(|volume| volume.lun == lun && volume.is_of(target))
    }

    /// The same ISID reinstates: what the old session had under way is dropped (RFC 7143 6.3.5).
    fn login(&mut self, now: Time, at: usize) {
        let request = self.sessions[at].conn.login_request();
        let isid = request.isid;
        if self
            .bars
            .is_some_and(|end| request.initiator_name.ends_with(end))
        {
            let status = login_status::AUTHORIZATION_FAILURE;
            return self.sessions[at].conn.reject_login(status.0, status.1);
        }
        if self.logged_in().count() >= self.sessions_max {
            let status = login_status::OUT_OF_RESOURCES;
            return self.sessions[at].conn.reject_login(status.0, status.1);
        }
        let port = InitiatorPort {
            name: request.initiator_name.to_string(),
            isid,
        };
        let shut_out = self.shut_out.as_ref();
        if shut_out.is_some_and(|(out, until)| *out == port && now < *until) {
            let status = login_status::SERVICE_UNAVAILABLE;
            return self.sessions[at].conn.reject_login(status.0, status.1);
        }
        let target = request.target_name;
        let same = |session: &Session| {
            session.isid.is_some()
                && session.port.as_ref() == Some(&port)
                && session.conn.login_request().target_name == target
        };
        for other in 0..self.sessions.len() {
            if other != at && same(&self.sessions[other]) {
                self.counters.reinstated += u64::from(!self.sessions[other].pending.is_empty());
                self.sessions[other].pending.clear();
                self.sessions[other].isid = None;
                let handle = self.sessions[other].handle;
                self.host.socket_mut(handle).abort();
            }
        }
        self.left.retain(|left| {
            let same = same(left);
            self.counters.reinstated += u64::from(same);
            !same
        });
        self.end_reserve(Some(&port));
        self.sessions[at].port = Some(port);
        let volumes = self.volumes.len();
        self.sessions[at]
            .attentions
            .resize(volumes, Attentions::fresh());
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
            if let Some(fault) = self.fault_of(now, at, &pending, random) {
                self.fail(at, &pending, fault);
                continue;
            }
            let performed = self.perform(at, &pending, random);
            let operation = pending.cdb[0];
            if self
                .holds_answer_to
                .take_if(|&mut held| held == operation)
                .is_some()
            {
                self.held = Some((at, pending, performed));
                continue;
            }
            self.answer(at, &pending, performed);
        }
    }

    /// The held answer arrives, whatever has happened meanwhile.
    pub fn let_go(&mut self) {
        if let Some((at, pending, performed)) = self.held.take() {
            self.answer(at, &pending, performed);
        }
    }

    fn answer(&mut self, at: usize, pending: &Pending, (status, sense, answer): Performed) {
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

    fn perform(&mut self, at: usize, pending: &Pending, random: &mut Random) -> Performed {
        let good = |answer: Vec<u8>| (ScsiStatus::GOOD, Vec::new(), answer);
        let check = |sense: Sense| {
            (
                ScsiStatus::CHECK_CONDITION,
                sense.fixed().to_vec(),
                Vec::new(),
            )
        };
        let cdb = &pending.command.cdb;
        match cdb[0] {
            opcode::REPORT_LUNS => {
                let target = self.sessions[at].conn.login_request().target_name;
                let target = target.as_deref().unwrap_or_default();
                let mut answer = vec![0; 8];
                for volume in self.volumes.iter().filter(|volume| volume.is_of(target)) {
                    answer.extend(volume.lun.to_be_bytes());
                }
                let len = u32::try_from(answer.len() - 8).expect("few volumes");
                answer[..4].copy_from_slice(&len.to_be_bytes());
                return good(answer);
            }
            opcode::INQUIRY => return good(vec![0; 36]),
            _ => {}
        }
        let Some(volume) = self.find(at, pending.command.lun) else {
            return check(Sense::LOGICAL_UNIT_NOT_SUPPORTED);
        };
        if let Some(sense) = self.sessions[at].attentions[volume].take() {
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
        let reservations = &mut self.volumes[volume].reservations;
        let judged = access.map(|access| reservations.judge(&port, cdb, access));
        if let Ok(Err(conflict)) = judged {
            self.counters.conflicts += 1;
            if !self.refused_with.contains(&Sense::WRITE_PROTECTED) {
                // What the relay makes of it when none of its nexuses gets past.
                self.refused_with.push(Sense::WRITE_PROTECTED);
            }
            return refused(conflict);
        }
        match Change::from_cdb(cdb) {
            Some(Change::Persistent) => {
                return match reservations.change(&port, cdb, &pending.data) {
                    Ok(told) => {
                        self.tell(volume, told);
                        good(Vec::new())
                    }
                    Err(why) => refused(why),
                };
            }
            Some(change) => {
                reservations.reserve(&port, change);
                return good(Vec::new());
            }
            None if cdb[0] == opcode::PERSISTENT_RESERVE_IN => {
                return reservations.read(cdb).map_or_else(refused, good);
            }
            None => {}
        }
        if self.hides_capacity
            && matches!(
                cdb[0],
                opcode::SERVICE_ACTION_IN_16 | opcode::READ_CAPACITY_10
            )
        {
            return check(Sense::INVALID_COMMAND_OPERATION_CODE);
        }
        let Self {
            volumes,
            counters,
            unmaps,
            ..
        } = self;
        let blocks = volumes[volume].media.len();
        let done = volumes[volume].perform(pending, counters, *unmaps);
        if volumes[volume].media.len() != blocks {
            self.tell_of_capacity(at, volume);
        }
        done.map_or_else(check, good)
    }

    /// Every nexus but the one whose command it was (SBC-4 4.10).
    fn tell_of_capacity(&mut self, by: usize, volume: usize) {
        for (at, session) in self.sessions.iter_mut().enumerate() {
            if at != by && session.port.is_some() {
                let told = &mut session.attentions[volume].told;
                told.push_back(Sense::CAPACITY_DATA_CHANGED);
            }
        }
    }

    fn transmit(&mut self, at: usize) {
        let Self {
            host,
            sessions,
            damages,
            ..
        } = self;
        let session = &mut sessions[at];
        if !session.conn.has_output() {
            return;
        }
        let socket = host.socket_mut(session.handle);
        while session.conn.has_output() && socket.can_send() {
            let Session { conn, answers, .. } = session;
            let sent = socket.send(|out| {
                let begin = out.as_ptr().addr();
                let mut block = None;
                let len = conn.transmit(out, |token, offset, into| {
                    let (_, answer) = answers
                        .iter()
                        .find(|(known, _)| *known == token)
                        .expect("kept until released");
                    let from = offset as usize;
                    into.copy_from_slice(&answer[from..from + into.len()]);
                    // No answer about a volume is as long as a block.
                    if answer.len() >= BLOCK_LEN {
                        block = Some(into.as_ptr().addr() - begin);
                    }
                });
                if let (Some(at), 1..) = (block, *damages) {
                    *damages -= 1;
                    out[at] ^= 1;
                }
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
    Authenticate,
    Login,
    Command(CommandEvent),
    Complete(TaskId),
    /// A task management function, with the task that it names.
    Management(u32, TaskFunction, u64, Option<TaskId>),
    Close,
}

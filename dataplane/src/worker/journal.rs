//! The worker's half of the journal: what is asked of it, what may be answered
//! when, and what follows when it is slow, full or broken (A-22, C-2).
//!
//! ```text
//! commit  ──► write request ──► durable ──► answer       (contract `journal`)
//! release ──► free request  ──► durable ──► the next epoch may be sent, what
//!                                           passes uncached may pass, a flush is complete
//! ```
//! A record is *released* when it need not be replayed any more: durable at the
//! storage, hidden, or given up. What a read still pins is released all the same.
//!
//! What always holds:
//! * requests go in the order in which the log changed, the write that hides a
//!   record before that record's free: any prefix of them is a state of the log;
//! * a record's bytes stay in the log until nothing that the journal was asked
//!   for needs them;
//! * a write of a volume of contract `journal` is answered when the journal has
//!   it, by nothing else, until the journal is void;
//! * no write of a later epoch, and nothing that passes uncached, is sent to
//!   the storage while a replay could still put back what it makes old.
//!
//! When the journal stalls for [`STALL_MAX`], or its device fails, everything
//! that was acknowledged by it is flushed; then it is made void; from then on
//! its volumes have contract `storage`. Until then they acknowledge what it
//! still makes durable, if anything: a stale journal that could be replayed
//! must not outlive an acknowledgement. One that only stalled goes on.
//!
//! Not for: what is written where ([`crate::journal::core`]).

use std::collections::VecDeque;
use std::time::Duration;
use std::{fmt, io};

use sluice_hugepages::log::{Log, NexusId, RecordId, VolumeId};
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::mutation::{Mutation, planted};
use sluice_proto::scsi::ScsiStatus;

use super::relay::{Net, Relay};
use super::task::{TaskKey, VolumeKey, WriteState};
use crate::journal::layout::{Identity, RowTable};
use crate::journal::line::{Line, MemoryLine};
use crate::journal::restore::{again_request, entry_of, write_request};
use crate::journal::{Progress, Request};

/// So long may what was asked for not be durable before the journal counts as stalled.
pub const STALL_MAX: Duration = Duration::from_secs(2);
/// One that stalls may recover for so long before it is given up.
const STALL_GRACE: Duration = Duration::from_secs(5);
/// Between two attempts to void a journal whose device fails.
const VOID_AGAIN: Duration = Duration::from_secs(1);
/// Records to be written again that are looked at before the line is asked for more.
const AGAIN_MAX: usize = 1024;

/// The request that will never be made: the journal takes none any more.
pub(super) const NEVER: u64 = u64::MAX;
/// Of a record that the journal does not have.
const NONE: u64 = u64::MAX;

/// Why a journal is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// What was asked for is not durable in time.
    Slow,
    /// The same, and there is no room in it.
    Full,
    /// The device's error number.
    Device(i32),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow => write!(
                f,
                "its device has made nothing durable for {} s",
                STALL_MAX.as_secs()
            ),
            Self::Full => write!(f, "it is full, and nothing leaves it"),
            Self::Device(number) => {
                write!(
                    f,
                    "its device fails: {}",
                    io::Error::from_raw_os_error(*number)
                )
            }
        }
    }
}

/// How it is with the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    /// What it keeps is being flushed.
    Failing(Trouble),
    /// All that was acknowledged by it is at the storage; it is being made void.
    Voiding(Trouble),
    /// It is void. Contract `journal` is `storage` until the next start.
    GivenUp(Trouble),
}

/// A request in short: it is made from the log when it is handed over.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Write(u32),
    Free(u32),
    Row(RowTable, u16),
}

/// The request that frees a record in the journal; 0 if that never had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Released(u64);

/// A record that is gone, but for its bytes: until its free is durable the
/// journal may want them again, so that its tail can move.
#[derive(Clone, Copy, Debug)]
struct Pinned {
    record: u32,
    number: u64,
}

/// What is under way between worker and journal.
#[derive(Debug)]
pub struct Journal {
    line: Line,
    health: Health,
    /// Requests made, of all times, and how many of them are durable.
    made: u64,
    durable: u64,
    pending: VecDeque<Pending>,
    again_pending: VecDeque<(u32, Identity)>,
    /// Requests to write one again that were handed over, and how many are over.
    again_asked: u64,
    again_over: u64,
    /// By record: the number of its write, as long as its bytes are in the log;
    /// [`NONE`] if the journal has none.
    written: Box<[u64]>,
    pinned: VecDeque<Pinned>,
    /// Writes in the log that wait for the journal, in its order.
    acks: VecDeque<(u64, TaskKey)>,
    /// What had been asked for at this moment is what must be durable in time.
    mark: (u64, Time),
    failing_since: Time,
    void_asked_at: Time,
}

impl Journal {
    fn new(line: Line, records: usize, tasks: usize, now: Time) -> Self {
        let progress = line.progress();
        Self {
            line,
            health: Health::Good,
            made: progress.durable,
            durable: progress.durable,
            // Of a record its write and its free; the rest is for rows.
            pending: VecDeque::with_capacity(3 * records),
            again_pending: VecDeque::with_capacity(AGAIN_MAX),
            again_asked: progress.again,
            again_over: progress.again,
            written: vec![NONE; records].into(),
            pinned: VecDeque::with_capacity(records),
            acks: VecDeque::with_capacity(tasks),
            mark: (0, now),
            failing_since: Time::ZERO,
            void_asked_at: Time::ZERO,
        }
    }

    /// Whether the journal will never be replayed to before this request.
    fn has(&self, number: u64) -> bool {
        number <= self.durable || matches!(self.health, Health::GivenUp(_))
    }

    /// It takes no more requests.
    fn is_frozen(&self) -> bool {
        matches!(
            self.health,
            Health::Failing(Trouble::Device(_)) | Health::Voiding(_) | Health::GivenUp(_)
        )
    }

    /// Nothing reads the log's pages any more, whatever was asked for.
    fn is_quiet(&self) -> bool {
        matches!(
            self.health,
            Health::Failing(Trouble::Device(_))
                | Health::Voiding(Trouble::Device(_))
                | Health::GivenUp(_)
        )
    }

    /// Whether it may be reading the record's bytes where they stand, now or later.
    fn reads(&self, record: u32) -> bool {
        let written = self.written[record as usize];
        let is_new = written != NONE && written > self.durable;
        !self.is_quiet() && (is_new || self.again_over < self.again_asked)
    }

    fn ask(&mut self, request: Pending) -> u64 {
        if self.is_frozen() {
            return NEVER;
        }
        self.pending.push_back(request);
        self.made += 1;
        self.made
    }

    /// Nothing is under way.
    fn is_settled(&self) -> bool {
        self.pinned.is_empty() && self.acks.is_empty() && self.has(self.made)
    }

    /// Hands over what fits.
    fn hand_over(&mut self, log: &Log) {
        if self.is_frozen() {
            self.pending.clear();
            self.again_pending.clear();
            return;
        }
        let mut handed = false;
        while self.again_pending.len() < AGAIN_MAX
            && let Some(wanted) = self.line.wanted()
        {
            self.again_pending.push_back(wanted);
        }
        while let Some(&(record, identity)) = self.again_pending.front() {
            // If it is not there under that name, its free is durable.
            if self.written[record as usize] != NONE {
                let id = RecordId(record);
                if entry_of(log, id).identity == identity {
                    if self.line.push(again_request(log, id)).is_err() {
                        break;
                    }
                    self.again_asked += 1;
                    handed = true;
                }
            }
            self.again_pending.pop_front();
        }
        while let Some(&pending) = self.pending.front() {
            if self.line.push(request_of(log, pending)).is_err() {
                break;
            }
            self.pending.pop_front();
            handed = true;
        }
        if handed {
            self.line.kick();
        }
    }

    /// What the device makes of it.
    fn look(&mut self, now: Time) -> Progress {
        let progress = self.line.progress();
        self.durable = progress.durable;
        self.again_over = progress.again;
        if self.durable >= self.mark.0 {
            self.mark = (self.made, now);
        }
        progress
    }

    fn trouble(&self, now: Time, progress: &Progress) -> Option<Trouble> {
        if let Some(fault) = self.line.fault() {
            return Some(Trouble::Device(fault.raw_os_error().unwrap_or(libc::EIO)));
        }
        let stalled = self.durable < self.mark.0 && now.since(self.mark.1) >= STALL_MAX;
        stalled.then_some(if progress.is_full {
            Trouble::Full
        } else {
            Trouble::Slow
        })
    }
}

fn request_of(log: &Log, pending: Pending) -> Request {
    match pending {
        Pending::Write(record) => {
            let id = RecordId(record);
            write_request(log, id, entry_of(log, id))
        }
        Pending::Free(record) => Request::Free { record },
        Pending::Row(table, row) => {
            let body = match table {
                RowTable::Volume => log.volume(VolumeId(row)).map(|entry| entry.to_row()),
                RowTable::Nexus => log.nexus(NexusId(row)).map(|entry| entry.to_row()),
            };
            // Rows change when sessions come and go, not with every write.
            Request::Row(table, row, body.map(Box::new))
        }
    }
}

impl Relay {
    /// Has the journal from here on. It agrees with the log: every record of a
    /// volume that it is for is durable in it, and of others what was while it was
    /// for them; which of those it does not say, and frees what it never had for nothing.
    pub fn set_journal(&mut self, line: Line, now: Time) {
        let (records, tasks) = (self.log.records_max(), self.tasks.capacity());
        let mut journal = Journal::new(line, records, tasks, now);
        for id in self.log.records() {
            journal.written[id.0 as usize] = 0;
        }
        self.journal = Some(journal);
    }

    /// The journal's other end, where a simulator plays it.
    pub fn journal_line(&mut self) -> Option<&mut MemoryLine> {
        match &mut self.journal.as_mut()?.line {
            Line::Memory(line) => Some(line),
            Line::Thread(_) => None,
        }
    }

    /// The line to wait on, and to clear when awake.
    pub fn journal_thread(&self) -> Option<&Line> {
        self.journal.as_ref().map(|journal| &journal.line)
    }

    /// How it is with the journal, how far it has come, and the requests made;
    /// `None` without one.
    pub fn journal_health(&self) -> Option<(Health, Progress, u64)> {
        let journal = self.journal.as_ref()?;
        Some((journal.health, journal.line.progress(), journal.made))
    }

    /// The contract in force: `journal` is `storage` when the journal was given up,
    /// and each is while the relay drains.
    pub(super) fn contract(&self, key: VolumeKey) -> Durability {
        self.contract_over(self.volume(key).contract)
    }

    /// The same of a volume whose own is this one.
    pub(super) fn contract_over(&self, own: Durability) -> Durability {
        if self.draining_since.is_some() {
            return Durability::Storage;
        }
        match (own, &self.journal) {
            (Durability::Journal, Some(journal)) => match journal.health {
                Health::GivenUp(_) => Durability::Storage,
                _ => Durability::Journal,
            },
            // Of a target that the configuration does not name, without a journal.
            (Durability::Journal, None) => Durability::Memory,
            (contract, _) => contract,
        }
    }

    pub(super) fn journal_has(&self, number: u64) -> bool {
        self.journal
            .as_ref()
            .is_none_or(|journal| journal.has(number))
    }

    /// Whether the record has to stay where it is for the journal.
    pub(super) fn journal_reads(&self, record: u32) -> bool {
        let journal = self.journal.as_ref();
        journal.is_some_and(|journal| journal.reads(record))
    }

    /// It is there, and takes requests.
    pub(super) fn is_journalling(&self) -> bool {
        self.journal
            .as_ref()
            .is_some_and(|journal| !journal.is_frozen())
    }

    pub(super) fn journal_is_settled(&self) -> bool {
        self.journal.as_ref().is_none_or(Journal::is_settled)
    }

    /// The number of the last request of all.
    pub(super) fn journal_made(&self) -> u64 {
        self.journal
            .as_ref()
            .map_or(0, |journal| match journal.is_frozen() {
                true => NEVER,
                false => journal.made,
            })
    }

    /// The records of a write, before anything that they hide is freed.
    pub(super) fn journal_write(&mut self, key: VolumeKey, parts: &[RecordId]) {
        if self.volume(key).contract != Durability::Journal {
            return;
        }
        let Some(journal) = &mut self.journal else {
            return;
        };
        let mut last = NEVER;
        for part in parts {
            last = journal.ask(Pending::Write(part.0));
            journal.written[part.0 as usize] = last;
        }
        if journal.health != Health::Good {
            self.ask_flush(key);
        }
        self.volume_mut(key).journalled = last;
    }

    /// The write is in the log: it waits for the journal.
    pub(super) fn await_journal(&mut self, key: TaskKey, volume: VolumeKey) {
        let number = self.volume(volume).journalled;
        let journal = self.journal.as_mut().expect("a contract of it has one");
        journal.acks.push_back((number, key));
    }

    pub(super) fn leave_journal(&mut self, key: TaskKey) {
        if let Some(journal) = &mut self.journal {
            journal.acks.retain(|&(_, task)| task != key);
        }
    }

    /// The record is not to come back from a replay: it is durable at the storage,
    /// hidden, or given up. Its bytes stay until [`Relay::let_go`].
    pub(super) fn release_record(&mut self, record: u32) -> Released {
        let Some(journal) = &mut self.journal else {
            return Released(0);
        };
        if journal.written[record as usize] == NONE {
            return Released(0);
        }
        let free = journal.ask(Pending::Free(record));
        let record = self.log.record(RecordId(record));
        let volume = self.volumes[usize::from(record.volume.0)]
            .as_mut()
            .expect("a record's volume");
        volume.freed.note(record.epoch, free);
        Released(free)
    }

    /// A released record is gone from index and queue, and no read needs it any more.
    pub(super) fn let_go(&mut self, record: u32, Released(number): Released) {
        match &mut self.journal {
            Some(journal) if number > journal.durable && !journal.is_quiet() => {
                journal.pinned.push_back(Pinned { record, number });
                // What hid it may be durable, and gone, before it is: a restart is to
                // find neither, or it would send this one over the other.
                self.log.retire(RecordId(record));
            }
            _ => self.forget_record(record),
        }
    }

    fn forget_record(&mut self, record: u32) {
        if let Some(journal) = &mut self.journal {
            journal.written[record as usize] = NONE;
        }
        self.log.free(RecordId(record));
    }

    /// A row of the directory has changed. The number of the request.
    pub(super) fn journal_row(&mut self, table: RowTable, row: u16) -> u64 {
        self.journal
            .as_mut()
            .map_or(0, |journal| journal.ask(Pending::Row(table, row)))
    }

    /// The newest epoch that may be entered now: of those before it a replay could put
    /// nothing back over what is newer (A-19). A device that has failed will not say so
    /// any more, and what it keeps is to be flushed.
    pub(super) fn epoch_max(&self, key: VolumeKey) -> u64 {
        match &self.journal {
            Some(journal) if !matches!(journal.health, Health::Failing(Trouble::Device(_))) => {
                let freed = self.volume(key).freed;
                freed.epoch_max(|number| journal.has(number))
            }
            _ => u64::MAX,
        }
    }

    /// Nothing more is promised by it, and it is not void yet.
    pub(super) fn is_voiding(&self) -> bool {
        let journal = self.journal.as_ref();
        journal.is_some_and(|journal| matches!(journal.health, Health::Voiding(_)))
    }

    /// Whether a SYNCHRONIZE CACHE (`is_sync`) or a write that waits for the storage may be
    /// answered. The journal is stable media for all that went into it; what
    /// passed by it is durable when the storage has it so.
    pub(super) fn may_answer(
        &self,
        key: VolumeKey,
        through: u64,
        number: u64,
        is_sync: bool,
    ) -> bool {
        // One that is being made void keeps what was promised by it before, and no more.
        let keeps = is_sync && !self.is_voiding() && self.contract(key) == Durability::Journal;
        is_sync && planted(Mutation::SyncUnawaited)
            || self.journal_has(number)
                && (self.flush.durable_through(key.0, through)
                    || keeps && !self.flush.passed_unsynced(key.0))
    }

    /// A SYNCHRONIZE CACHE is answered, by the journal perhaps: what it covers is
    /// kept from now on, a write too whose own answer nobody heard.
    pub(super) fn promise_through(&mut self, key: VolumeKey, sequence: u64) {
        let volume = self.volume_mut(key);
        volume.kept_through = volume.kept_through.max(sequence);
    }

    /// Hands over, hears, and does what follows. Whether anything moved.
    pub(super) fn work_journal(&mut self, net: &mut Net<'_>, now: Time) -> bool {
        let Some(journal) = &mut self.journal else {
            return false;
        };
        journal.hand_over(&self.log);
        let before = (journal.durable, journal.health);
        let progress = journal.look(now);
        let trouble = journal.trouble(now, &progress);
        let health = self.judge_journal(now, &progress, trouble);
        let journal = self.journal.as_mut().expect("just seen");
        journal.health = health;
        if before == (journal.durable, health) {
            return false;
        }
        self.unpin();
        self.answer_journalled(now);
        for key in self.volume_keys() {
            let volume = self.volume(key);
            let freed = volume.freed.epoch_max(|number| number <= before.0)
                < volume.freed.epoch_max(|number| self.journal_has(number));
            let waits = !volume.waiting.is_empty() || !volume.draining.is_empty();
            if waits || volume.settling.is_some() {
                self.wake_waiting(now, key);
            }
            if freed || health != before.1 {
                self.flush_volume(now, key);
            }
        }
        if self.room_moved {
            self.admit_held(net, now);
        }
        true
    }

    /// What follows from how the device does; does it, too.
    fn judge_journal(
        &mut self,
        now: Time,
        progress: &Progress,
        trouble: Option<Trouble>,
    ) -> Health {
        let journal = self.journal.as_mut().expect("the caller has looked");
        match (journal.health, trouble) {
            (Health::Good, None) | (Health::GivenUp(_), _) => journal.health,
            // It only stalled.
            (Health::Failing(Trouble::Slow | Trouble::Full), None) => Health::Good,
            (Health::Good, Some(trouble)) => {
                journal.failing_since = now;
                self.counters.journal_troubles += 1;
                self.ask_flush_of_journal();
                Health::Failing(trouble)
            }
            (Health::Failing(known), trouble) => {
                let trouble = trouble.unwrap_or(known);
                let may_recover = !matches!(trouble, Trouble::Device(_))
                    && now.since(journal.failing_since) < STALL_GRACE;
                let flushed = planted(Mutation::VoidUnflushed) || self.is_journal_flushed();
                if may_recover || !flushed {
                    return Health::Failing(trouble);
                }
                self.void(now);
                // What waits for the journal now waits for the storage.
                self.ask_flush_of_journal();
                Health::Voiding(trouble)
            }
            (Health::Voiding(known), _) if progress.is_void => {
                self.counters.journals_given_up += 1;
                Health::GivenUp(known)
            }
            (Health::Voiding(known), trouble) => {
                if now.since(journal.void_asked_at) >= VOID_AGAIN {
                    self.void(now);
                }
                // Its thread may stand still for the same reason; a device that fails is news.
                let news = trouble.filter(|trouble| matches!(trouble, Trouble::Device(_)));
                Health::Voiding(news.unwrap_or(known))
            }
        }
    }

    fn void(&mut self, now: Time) {
        let journal = self.journal.as_mut().expect("the caller has looked");
        journal.void_asked_at = now;
        // A full ring is tried again.
        let _ = journal.line.push(Request::Void);
        journal.line.kick();
    }

    fn ask_flush_of_journal(&mut self) {
        for key in self.volume_keys() {
            self.ask_flush(key);
        }
    }

    /// Nothing that was acknowledged stands in the journal alone; of a volume that it
    /// is not for any more nothing that it may have from before.
    fn is_journal_flushed(&self) -> bool {
        self.volume_keys().all(|key| {
            self.flush
                .durable_through(key.0, self.volume(key).kept_through)
        })
    }

    /// Frees what nothing needs any more.
    fn unpin(&mut self) {
        loop {
            let journal = self.journal.as_mut().expect("the caller has looked");
            let Some(&Pinned { record, number }) = journal.pinned.front() else {
                return;
            };
            if number > journal.durable && !journal.is_quiet() {
                return;
            }
            journal.pinned.pop_front();
            self.forget_record(record);
            self.room_moved |= !self.held.is_empty();
        }
    }

    /// Answers the writes that the journal has. With a void one they wait for the storage.
    fn answer_journalled(&mut self, now: Time) {
        loop {
            let journal = self.journal.as_mut().expect("the caller has looked");
            let Some(&(number, key)) = journal.acks.front() else {
                return;
            };
            let given_up = match journal.health {
                Health::GivenUp(_) => true,
                Health::Good | Health::Failing(_)
                    if number <= journal.durable || planted(Mutation::AckBeforeJournal) =>
                {
                    false
                }
                _ => return,
            };
            journal.acks.pop_front();
            let volume = self.tasks[key.0].volume.expect("a write has a volume");
            let write = self.write_mut(key);
            let (WriteState::Journal { sequence }, fua, len) = (&write.state, write.fua, write.len)
            else {
                unreachable!("only such writes wait for the journal")
            };
            let sequence = *sequence;
            if given_up {
                // What has hidden it meanwhile is to be durable too.
                let sequence = self.volume(volume).next_sequence - 1;
                self.write_mut(key).state = WriteState::Durable {
                    sequence,
                    number,
                    passed: false,
                };
                self.volume_mut(volume).waiting.push_back(key);
                self.ask_flush(volume);
                continue;
            }
            let state = self.volume_mut(volume);
            state.kept_through = state.kept_through.max(sequence);
            if fua {
                self.answer(key, ScsiStatus::GOOD, &[], len);
                self.forget(key);
            } else {
                self.answer_in_time(now, key, volume);
            }
        }
    }
}

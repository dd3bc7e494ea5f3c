//! What is written where, and what is durable after which completion.
//!
//! ```text
//! requests ──► group under way ──► durable         tail ... next: what replays
//!   (in order)  (one at a time)    (their count)   everything else is free
//! ```
//!
//! What always holds:
//! * requests become durable in the order they were made, but for records
//!   written once more, which may overtake: their names are in the journal already;
//! * one write is under way at a time, and nothing is written over a block that
//!   a replay could read, whichever copy of the header is left;
//! * a group leaves the tail only when nothing in it counts: its records were
//!   freed or written again, its rows replaced, and all of that is durable;
//! * writes leave room for the frees, rows and records written again that
//!   make the tail move, so a journal larger than the log never stands still:
//!   whatever keeps the tail can be written again, though its free is asked for;
//! * what a header that begins a run says is older than that run is durable, so a
//!   replay may count on it: whatever of it is missing then is damage, not a torn end;
//! * after a fault nothing is written but the header that voids the journal.
//!
//! Not for: doing it ([`super::thread`], or the simulator's model disk), when to
//! give the journal up (the worker), time.

use std::collections::{BTreeMap, VecDeque};

use super::GROUP_BLOCKS_MAX;
use super::layout::{
    Block, Entry, HEADER_BLOCKS, HeadWriter, Header, Identity, Mark, RowBody, RowTable, WriteEntry,
};
use super::replay::{Replay, block_of};

/// No group.
const NONE: u64 = u64::MAX;
/// Blocks that new writes leave free.
const RESERVE_BLOCKS: u64 = 2 * GROUP_BLOCKS_MAX;

/// Smallest area that makes sense: the reserve, and as much again to write in.
pub const AREA_BLOCKS_MIN: u64 = 2 * RESERVE_BLOCKS;

/// What the worker asks for. `record` is the log's slab index, the name by
/// which a record is freed; at most one record has it at a time.
#[derive(Clone, Debug)]
pub enum Request {
    Write {
        record: u32,
        entry: WriteEntry,
        /// Where its payload stands in the log's region. The bytes stay until this is durable.
        offset: u64,
        /// It is durable, and written once more so that the tail can move.
        again: bool,
    },
    /// The record is durable at the storage, or given up.
    Free { record: u32 },
    /// A name that a replay found and the log does not hold. Until this is asked for
    /// it keeps the tail, as if it were held.
    Forget(Identity),
    /// `None`: the row is gone.
    Row(RowTable, u16, Option<Box<RowBody>>),
    /// Nothing is to be replayed from now on: the journal is given up.
    Void,
}

/// Payload of a group: bytes of the log's region, in whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub offset: u64,
    pub blocks: u64,
}

/// The one write that is due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The head, then the spans, from block `first` of the file on; what does
    /// not fit before the file's block `end` goes on at block [`HEADER_BLOCKS`].
    Group { first: u64, end: u64, blocks: u64 },
    /// The head's bytes, at this block.
    Header { block: u64 },
}

/// How far it has come; for the worker and for operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Requests that are durable, of all made, in their order.
    pub durable: u64,
    /// Requests to write one again that are over: durable, or needless by then.
    pub again: u64,
    /// Blocks from tail to next.
    pub used_blocks: u64,
    pub groups: u64,
    pub is_void: bool,
    /// A write waits for the tail to move.
    pub is_full: bool,
}

/// New writes that wait for a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub writes: usize,
    /// Of their payload.
    pub blocks: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    identity: Identity,
    group: u64,
    /// Asked for again, and not seen yet.
    asked: bool,
}

#[derive(Debug, Default)]
struct Group {
    address: u64,
    blocks: u64,
    /// Records and rows that count here and nowhere later.
    live: u32,
    records: Vec<u32>,
    rows: Vec<(RowTable, u16)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnderWay {
    Group { requests: u64, again: u64 },
    Header { tail: Mark, void: bool },
}

/// The journal's state between two writes.
#[derive(Debug)]
pub struct Core {
    header: Header,
    /// The tail that the older copy of the header names: either copy is enough,
    /// so nothing behind this one is written over.
    older_tail: Mark,
    /// What the next header says of the tail.
    tail: Mark,
    next: Mark,
    /// From `tail` on.
    groups: VecDeque<Group>,
    /// Emptied groups, for their lists' memory.
    spare: Vec<Group>,
    /// By the log's record index.
    slots: Vec<Slot>,
    rows: BTreeMap<(RowTable, u16), (Box<RowBody>, u64)>,
    /// Names that a replay found, the log does not hold, and nobody has asked to
    /// forget yet, with their groups.
    unheld: BTreeMap<Identity, u64>,
    requests: VecDeque<Request>,
    /// Of the requests, new writes.
    waiting: Waiting,
    /// Records written again: they may overtake.
    again: VecDeque<Request>,
    /// Records that the tail waits for: the worker is to make their request again.
    wanted: VecDeque<(u32, Identity)>,
    /// Records asked for again and not seen since, by a write or a free.
    asked: usize,
    under_way: Option<UnderWay>,
    /// Copies of the header to be written before anything else: at a start both,
    /// or the older one would know nothing of this run.
    headers_due: u8,
    void_asked: bool,
    failed: bool,
    progress: Progress,
}

impl Core {
    /// Over a device of `blocks` that holds nothing; `records` as the log has.
    /// Its header is the first thing written.
    ///
    /// # Panics
    /// When the device is too small: the caller has looked.
    pub fn format(id: u32, blocks: u64, records: usize) -> Core {
        let area = blocks - HEADER_BLOCKS;
        assert!(area >= AREA_BLOCKS_MIN, "a journal of {blocks} blocks");
        let start = Mark {
            address: 0,
            group: 1,
        };
        let header = Header {
            id,
            run: 1,
            serial: 0,
            area,
            tail: start,
            run_start: start,
            void: false,
        };
        Core::over(header, start, records)
    }

    /// Over what a replay found; a new run begins. `held` names, by the log's
    /// index, those that the log holds too. The others are to be forgotten.
    pub fn resume(
        replay: &Replay,
        records: usize,
        held: impl Iterator<Item = (u32, Identity)>,
    ) -> Core {
        let header = Header {
            run: replay.header.run + 1,
            serial: replay.header.serial + 1,
            run_start: replay.next,
            void: false,
            ..replay.header
        };
        let mut core = Core::over(header, replay.next, records);
        core.groups = replay
            .groups
            .iter()
            .map(|&(address, blocks)| Group {
                address,
                blocks,
                ..Group::default()
            })
            .collect();
        let records_found = replay.records.iter();
        let mut unheld: BTreeMap<_, _> = records_found
            .map(|(&name, kept)| (name, kept.group))
            .collect();
        for (record, identity) in held {
            unheld.remove(&identity);
            let kept = &replay.records[&identity];
            core.slots[record as usize] = Slot {
                identity,
                group: kept.group,
                asked: false,
            };
            let group = core.group_mut(kept.group);
            group.live += 1;
            group.records.push(record);
        }
        for group in unheld.values() {
            core.group_mut(*group).live += 1;
        }
        core.unheld = unheld;
        for (&name, kept) in &replay.rows {
            core.rows.insert(name, (kept.body.clone(), kept.group));
            let group = core.group_mut(kept.group);
            group.live += 1;
            group.rows.push(name);
        }
        core
    }

    fn over(header: Header, next: Mark, records: usize) -> Core {
        let slot = Slot {
            identity: Identity::default(),
            group: NONE,
            asked: false,
        };
        Core {
            header,
            older_tail: header.tail,
            tail: header.tail,
            next,
            groups: VecDeque::new(),
            spare: Vec::new(),
            slots: vec![slot; records],
            rows: BTreeMap::new(),
            unheld: BTreeMap::new(),
            requests: VecDeque::new(),
            waiting: Waiting::default(),
            again: VecDeque::new(),
            wanted: VecDeque::new(),
            asked: 0,
            under_way: None,
            headers_due: 2,
            void_asked: false,
            failed: false,
            progress: Progress::default(),
        }
    }

    pub fn id(&self) -> u32 {
        self.header.id
    }

    /// Takes a request. Its number, from 1 on, is the count of those made;
    /// records written again count on their own.
    pub fn request(&mut self, request: Request) {
        match request {
            Request::Write { again: true, .. } => self.again.push_back(request),
            Request::Void => self.void_asked = true,
            _ => {
                if let Request::Write { entry, .. } = &request {
                    self.waiting.writes += 1;
                    self.waiting.blocks += entry.blocks();
                }
                self.requests.push_back(request);
            }
        }
    }

    /// A start that has no room for what the log has more: what it has no more is
    /// forgotten first. `false` when nothing of it waits.
    pub fn forget_first(&mut self) -> bool {
        let requests = std::mem::take(&mut self.requests);
        let is_forget = |request: &Request| matches!(request, Request::Forget(_));
        let behind = requests
            .iter()
            .skip_while(|request| is_forget(request))
            .any(is_forget);
        let (first, last): (Vec<_>, Vec<_>) = requests.into_iter().partition(is_forget);
        self.requests.extend(first);
        self.requests.extend(last);
        behind
    }

    /// New writes that no group has taken yet.
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// The next record that is to be written again, by a [`Request::Write`] with
    /// `again`, if the log still has its bytes under that name: it has them until
    /// its [`Request::Free`] is durable. That may wait behind a write which waits
    /// for the tail, which waits for this record.
    pub fn wanted(&mut self) -> Option<(u32, Identity)> {
        self.wanted.pop_front()
    }

    pub fn progress(&self) -> Progress {
        Progress {
            used_blocks: self.next.address - self.tail.address,
            ..self.progress
        }
    }

    /// Nothing is under way, and nothing waits that could be written.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_none()
            && self.requests.is_empty()
            && self.again.is_empty()
            && self.headers_due == 0
            && !self.void_asked
    }

    /// All is durable, and nothing on the device says so yet of the last group: a replay
    /// would take it, if it rots, for one that was torn and that nobody was told of.
    pub fn can_be_sealed(&self) -> bool {
        self.is_idle()
            && self.header.run_start != self.next
            && !self.failed
            && !self.progress.is_void
    }

    /// Begins a new run behind all that is durable, if that can be done now; both copies
    /// of the header, which are written next, say so (A-23).
    pub fn seal(&mut self) {
        if !self.can_be_sealed() {
            return;
        }
        self.header.run += 1;
        self.header.run_start = self.next;
        // As at a start: the older copy would know nothing of this run's groups.
        self.headers_due = 2;
    }

    /// The next write: its first block in `head`, the rest as spans of the log.
    /// `None` while one is under way, and when there is nothing to write.
    pub fn next(&mut self, head: &mut Block, spans: &mut Vec<Span>) -> Option<Op> {
        if self.under_way.is_some() || self.progress.is_void {
            return None;
        }
        spans.clear();
        if self.void_asked {
            return Some(self.write_header(head, true));
        }
        if self.failed {
            return None;
        }
        self.advance_tail();
        if self.headers_due > 0 || self.is_tail_worth_it() {
            return Some(self.write_header(head, false));
        }
        if self.waits_for_header() {
            return Some(self.write_header(head, false));
        }
        self.want_again();
        let op = self.write_group(head, spans);
        let blocked = op.is_none() && !(self.requests.is_empty() && self.again.is_empty());
        self.progress.is_full = blocked;
        if blocked && self.tail != self.older_tail {
            return Some(self.write_header(head, false));
        }
        op
    }

    /// The write under way has ended. After a fault the journal only takes
    /// [`Request::Void`].
    ///
    /// # Panics
    /// When none is under way.
    pub fn done(&mut self, good: bool) {
        let ended = self.under_way.take().expect("a write was under way");
        match ended {
            UnderWay::Header { tail, void } if good => {
                self.older_tail = self.header.tail;
                self.header.tail = tail;
                self.header.serial += 1;
                self.headers_due = self.headers_due.saturating_sub(1);
                // Both copies say so before anyone relies on it.
                self.progress.is_void = void && self.header.void;
                self.header.void = void;
                self.void_asked &= !self.progress.is_void;
            }
            UnderWay::Group { requests, again } if good => {
                self.progress.durable += requests;
                self.progress.again += again;
                self.progress.groups += 1;
            }
            UnderWay::Header { void, .. } => {
                self.failed = true;
                // Tried once: the caller asks again if it wants to.
                self.void_asked &= !void;
            }
            UnderWay::Group { .. } => self.failed = true,
        }
    }

    /// Where the next group goes: blocks since the journal was made.
    pub fn next_address(&self) -> u64 {
        self.next.address
    }

    pub fn has_failed(&self) -> bool {
        self.failed
    }

    fn write_header(&mut self, head: &mut Block, void: bool) -> Op {
        let header = Header {
            tail: self.tail,
            void,
            ..self.header
        };
        *head = header.encode();
        self.under_way = Some(UnderWay::Header {
            tail: self.tail,
            void,
        });
        Op::Header {
            block: header.place(),
        }
    }

    /// Room between the next group and what a replay may still read.
    fn free_blocks(&self) -> u64 {
        self.header.area - (self.next.address - self.older_tail.address)
    }

    /// A header is a write of its own: it is worth it once for an eighth of the area.
    fn is_tail_worth_it(&self) -> bool {
        let gain = self.tail.address - self.header.tail.address;
        gain >= self.header.area / 8 && self.free_blocks() < self.header.area / 2
    }

    /// Blocks that the next new write needs free, if one is next.
    fn new_write_needs(&self) -> Option<u64> {
        match self.requests.front()? {
            Request::Write { entry, .. } => Some(1 + entry.blocks() + RESERVE_BLOCKS),
            _ => None,
        }
    }

    /// The next new write has room, but for what the older header still names.
    fn waits_for_header(&self) -> bool {
        let by_tail = self.header.area - (self.next.address - self.tail.address);
        self.new_write_needs()
            .is_some_and(|needs| needs <= by_tail && needs > self.free_blocks())
    }

    fn advance_tail(&mut self) {
        while self.groups.front().is_some_and(|group| group.live == 0) {
            let mut group = self.groups.pop_front().expect("just seen");
            self.tail = Mark {
                address: group.address + group.blocks,
                group: self.tail.group + 1,
            };
            group.records.clear();
            group.rows.clear();
            self.spare.push(group);
        }
    }

    /// With little of the area left and something new to write, what still
    /// counts in the oldest groups is written again, so that the tail can move.
    fn want_again(&mut self) {
        let left = self.header.area - (self.next.address - self.tail.address);
        let enough = (self.header.area / 8).max(RESERVE_BLOCKS + GROUP_BLOCKS_MAX);
        if left >= enough || self.requests.is_empty() || self.is_writing_again() {
            return;
        }
        let (mut rows, mut blocks) = (Vec::new(), 0);
        for (group, number) in self.groups.iter().zip(self.tail.group..) {
            let counts = |slot: &Slot| slot.group == number && !slot.asked;
            for &record in &group.records {
                let slot = &mut self.slots[record as usize];
                if counts(slot) {
                    slot.asked = true;
                    self.asked += 1;
                    self.wanted.push_back((record, slot.identity));
                }
            }
            for name in &group.rows {
                if let Some((body, at)) = self.rows.get(name)
                    && *at == number
                {
                    rows.push(Request::Row(name.0, name.1, Some(body.clone())));
                }
            }
            // So much fits the reserve, and the tail moves by as much.
            blocks += group.blocks;
            if blocks >= GROUP_BLOCKS_MAX {
                break;
            }
        }
        self.again.extend(rows);
    }

    /// What was asked for again is not all there yet.
    fn is_writing_again(&self) -> bool {
        self.asked > 0 || !self.again.is_empty()
    }

    /// Something written again whose end, or next writing, was faster.
    fn is_stale(&self, request: &Request) -> bool {
        match request {
            Request::Write { record, entry, .. } => {
                let slot = &self.slots[*record as usize];
                !slot.asked || slot.identity != entry.identity
            }
            Request::Row(table, row, body) => {
                let known = self.rows.get(&(*table, *row)).map(|(body, _)| body);
                known != body.as_ref()
            }
            _ => false,
        }
    }

    fn write_group(&mut self, head: &mut Block, spans: &mut Vec<Span>) -> Option<Op> {
        let room = self.free_blocks();
        let number = self.next.group;
        let mut writer = HeadWriter::new(head);
        let mut group = self.spare.pop().unwrap_or_default();
        (group.address, group.live) = (self.next.address, 0);
        self.groups.push_back(group);
        let (mut taken, mut again) = (0, 0);
        // A new write that has room goes first: what is written again takes none
        // of it, and may never end while the log is nearly full.
        let is_urgent = self.new_write_needs().is_none_or(|needs| needs > room);
        loop {
            while self
                .again
                .front()
                .is_some_and(|request| self.is_stale(request))
            {
                let stale = self.again.pop_front();
                let is_write = matches!(stale, Some(Request::Write { .. }));
                self.progress.again += u64::from(is_write);
            }
            let overtakes = is_urgent && !self.again.is_empty();
            let queue = if overtakes {
                &self.again
            } else {
                &self.requests
            };
            let Some(request) = queue.front() else { break };
            let (units, blocks) = match request {
                Request::Write { entry, .. } => (3, entry.blocks()),
                Request::Row(_, _, Some(_)) => (32, 0),
                _ => (1, 0),
            };
            let new = matches!(request, Request::Write { again: false, .. });
            let after = writer.blocks() + blocks;
            let left = room.saturating_sub(after);
            if units > writer.units_left()
                || after > GROUP_BLOCKS_MAX
                || after > room
                || (new && left < RESERVE_BLOCKS)
            {
                break;
            }
            let queue = if overtakes {
                &mut self.again
            } else {
                &mut self.requests
            };
            let request = queue.pop_front().expect("just seen");
            if new {
                self.waiting.writes -= 1;
                self.waiting.blocks -= blocks;
            }
            if matches!(request, Request::Write { again: true, .. }) {
                again += 1;
            } else if !overtakes {
                taken += 1;
            }
            self.put(request, number, &mut writer, spans);
        }
        if taken + again == 0 && writer.is_empty() {
            self.spare.extend(self.groups.pop_back());
            return None;
        }
        let blocks = writer.blocks();
        writer.finish(self.header.id, self.header.run, self.next);
        self.groups.back_mut().expect("just pushed").blocks = blocks;
        let first = block_of(self.next.address, self.header.area);
        self.next = Mark {
            address: self.next.address + blocks,
            group: number + 1,
        };
        self.under_way = Some(UnderWay::Group {
            requests: taken,
            again,
        });
        Some(Op::Group {
            first,
            end: HEADER_BLOCKS + self.header.area,
            blocks,
        })
    }

    fn put(
        &mut self,
        request: Request,
        number: u64,
        writer: &mut HeadWriter<'_>,
        spans: &mut Vec<Span>,
    ) {
        match request {
            Request::Write {
                record,
                entry,
                offset,
                again: _,
            } => {
                let old = self.slots[record as usize];
                self.leave(old.group);
                self.asked -= usize::from(old.asked);
                self.slots[record as usize] = Slot {
                    identity: entry.identity,
                    group: number,
                    asked: false,
                };
                let group = self.groups.back_mut().expect("the one that is filled");
                group.live += 1;
                group.records.push(record);
                spans.push(Span {
                    offset,
                    blocks: entry.blocks(),
                });
                writer.push(&Entry::Write(entry));
            }
            Request::Free { record } => {
                let slot = &mut self.slots[record as usize];
                let group = std::mem::replace(&mut slot.group, NONE);
                self.asked -= usize::from(std::mem::take(&mut slot.asked));
                if group != NONE {
                    let identity = slot.identity;
                    writer.push(&Entry::Free(identity));
                    self.leave(group);
                }
            }
            Request::Forget(identity) => {
                writer.push(&Entry::Free(identity));
                if let Some(group) = self.unheld.remove(&identity) {
                    self.leave(group);
                }
            }
            Request::Row(table, row, body) => {
                if let Some((_, group)) = self.rows.remove(&(table, row)) {
                    self.leave(group);
                }
                writer.push(&Entry::Row(table, row, body.clone()));
                if let Some(body) = body {
                    self.rows.insert((table, row), (body, number));
                    let group = self.groups.back_mut().expect("the one that is filled");
                    group.live += 1;
                    group.rows.push((table, row));
                }
            }
            Request::Void => unreachable!("never queued"),
        }
    }

    /// Something in the group no longer counts.
    fn leave(&mut self, group: u64) {
        if group != NONE {
            self.group_mut(group).live -= 1;
        }
    }

    fn group_mut(&mut self, number: u64) -> &mut Group {
        let index = usize::try_from(number - self.tail.group).expect("groups are in memory");
        &mut self.groups[index]
    }
}

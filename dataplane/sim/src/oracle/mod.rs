//! The judge of one volume. It sees what computers asked and were answered, and
//! what the storage holds; never a table, epoch or counter of the relay. This
//! room keeps the trace; the rules stand in rooms of their own.
//!
//! Every write has a number that stands in each of its blocks, so what a block
//! holds says which write put it there. Of two writes, one is *before* the
//! other only if it was acknowledged before the other was issued; writes that
//! were under way together may land in either order.
//!
//! What is checked:
//! - **fresh reads** (A-20): a block read is never from before a write that was
//!   acknowledged when the read was issued, and never from a write not issued;
//! - **order** (A-19): if the storage shows a write issued after an ordering
//!   point was acknowledged, it shows every write acknowledged before that
//!   point was issued; both in what it would answer and on its stable media;
//! - **durability** (C-2): when a SYNCHRONIZE CACHE or a FUA write is
//!   acknowledged, what it covers is on stable media; with contract `storage` so is
//!   every write. With a journal that is seen later: after a power loss of the
//!   relay every acknowledged write is still read, and reaches the storage;
//! - **no way back** (C-6): what was durable when a SYNCHRONIZE CACHE or FUA write
//!   was acknowledged stays: its blocks never go to an earlier write again.
//!   (Inside an epoch they may: after a reset unsynced writes are sent anew, in order.)
//! - **an end is an end** (C-3, C-8): a write that a task management function
//!   or a reinstated session has ended may show or not, but never in the place
//!   of one that was issued after the end;
//! - **refused means refused** (A-12): a plain write answered BUSY never shows;
//!   nor does a COMPARE AND WRITE that found something else;
//! - **fencing** (C-9): while a computer is known to hold a volume for itself, no write
//!   of another is acknowledged;
//! - **nothing lost** (A-21): when all is drained, every acknowledged write, or
//!   one not before it, is on the media.
//!
//! A write is excused from all this in the blocks of a record that was damaged, when
//! the operator has given it up ([`damage`]), and not before.

mod damage;
mod durable;
mod fence;
mod lost;
mod order;
mod reading;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

pub use damage::Damage;
use fence::Fence;
pub use fence::{Computer, ReserveTicket, Reserving};
use sluice_hugepages::tables::Durability;

/// A write's number; 0 is what a block holds before the first.
pub type WriteNumber = u32;

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    /// At this tick of the trace.
    Acknowledged(u64),
    /// Answered with a status that says it was not done.
    Refused,
    /// The session went away, or an ordered write timed out: it may show, or not.
    Unknown,
    /// The same, but since this tick nothing of it can take effect any more.
    Ended(u64),
}

/// What a write promises beside its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    Plain,
    /// An ORDERED task: an ordering point of its own (C-5).
    Ordered,
    /// An ordering point, and on stable media when acknowledged.
    Fua,
    /// WRITE SAME and the like: done by the storage, whose cache may lose it
    /// until the next SYNCHRONIZE CACHE.
    Passed,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    lba: u64,
    blocks: u32,
    issued: u64,
    fate: Fate,
    kind: WriteKind,
    /// Whose it is, where that matters.
    by: Option<Computer>,
    /// Somebody may have held the volume: it may have passed the cache by.
    may_pass: bool,
    /// Under way when what it relies on was lost, a passed write the storage's cache
    /// or a plain one the relay's log: its GOOD may be older than the loss.
    may_be_lost: bool,
    /// The relay lost its log when the storage had it in its cache: nobody owes it a
    /// sync but who asks for one.
    forgotten: bool,
}

/// Of a block's writes acknowledged up to a tick, the one issued last.
#[derive(Clone, Copy, Debug)]
struct Newest {
    acknowledged: u64,
    issued: u64,
    number: WriteNumber,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    issued: u64,
    acknowledged: u64,
}

/// A rule broken, with what broke it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: &'static str,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

/// What the storage holds: a write number a block.
pub type Image = Vec<WriteNumber>;

#[derive(Debug)]
pub struct Oracle {
    /// By write number less one.
    writes: Vec<Write>,
    points: Vec<Point>,
    /// By block, in order of acknowledgement.
    acknowledged: Vec<Vec<Newest>>,
    /// What was acknowledged before this tick is durable: a SYNCHRONIZE CACHE
    /// or FUA write issued then was acknowledged.
    durable_before: u64,
    /// Ticks order the trace: one an event.
    tick: u64,
    /// When a plain write is acknowledged: with a journal it need not be at the storage.
    contract: Durability,
    media: Image,
    /// The newest write of each block that has been promised to be durable.
    promised: Image,
    /// Blocks of writes that were damaged and given up.
    excused: BTreeSet<(usize, WriteNumber)>,
    fence: Fence,
    pub fences: u64,
    pub violations: Vec<Violation>,
    pub reads_checked: u64,
    pub images_checked: u64,
}

/// A read under way, as [`Oracle::read_issued`] saw it.
#[derive(Clone, Copy, Debug)]
pub struct ReadTicket {
    issued: u64,
    by: Option<Computer>,
}

/// A SYNCHRONIZE CACHE under way.
#[derive(Clone, Copy, Debug)]
pub struct SyncTicket {
    issued: u64,
}

impl Oracle {
    pub fn new(blocks: usize) -> Self {
        Self::of(blocks, Durability::Memory)
    }

    pub fn of(blocks: usize, contract: Durability) -> Self {
        Self {
            contract,
            writes: Vec::new(),
            points: Vec::new(),
            acknowledged: vec![Vec::new(); blocks],
            durable_before: 0,
            tick: 0,
            media: vec![0; blocks],
            promised: vec![0; blocks],
            excused: BTreeSet::new(),
            fence: Fence::default(),
            fences: 0,
            violations: Vec::new(),
            reads_checked: 0,
            images_checked: 0,
        }
    }

    fn now(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// The computer issues a write; its number goes into the blocks.
    pub fn write_issued(&mut self, lba: u64, blocks: u32, kind: WriteKind) -> WriteNumber {
        let issued = self.now();
        self.writes.push(Write {
            lba,
            blocks,
            issued,
            fate: Fate::Pending,
            kind,
            by: None,
            may_pass: self.fence.lets_pass(),
            may_be_lost: false,
            forgotten: false,
        });
        WriteNumber::try_from(self.writes.len()).expect("a trace is short")
    }

    /// As [`Oracle::write_issued`], by this computer.
    pub fn write_issued_by(
        &mut self,
        by: Computer,
        lba: u64,
        blocks: u32,
        kind: WriteKind,
    ) -> WriteNumber {
        let number = self.write_issued(lba, blocks, kind);
        self.write_mut(number).by = Some(by);
        number
    }

    pub fn write_acknowledged(&mut self, number: WriteNumber) {
        let at = self.now();
        self.check_write_fenced(number);
        let write = self.write_mut(number);
        if write.may_be_lost {
            write.fate = Fate::Unknown;
            return;
        }
        write.fate = Fate::Acknowledged(at);
        let write = *write;
        for block in blocks_of(&write) {
            self.remember(block, at, write.issued, number);
        }
        if matches!(write.kind, WriteKind::Ordered | WriteKind::Fua) {
            self.points.push(Point {
                issued: write.issued,
                acknowledged: at,
            });
        }
        // By itself FUA is about no other write; without a journal the relay makes it so.
        if write.kind == WriteKind::Fua && self.contract != Durability::Journal {
            self.check_durable(write.issued, "durability of what a FUA write follows");
        }
        let at_storage = match self.contract {
            Durability::Memory => write.kind == WriteKind::Fua,
            Durability::Journal => false,
            Durability::Storage => write.kind != WriteKind::Passed,
        };
        if at_storage {
            self.check_own_durable(number);
        }
    }

    fn remember(&mut self, block: usize, acknowledged: u64, issued: u64, number: WriteNumber) {
        if self.is_excused(block, number) {
            return;
        }
        let history = &mut self.acknowledged[block];
        let (issued, number) = match history.last() {
            Some(last) if last.issued > issued => (last.issued, last.number),
            _ => (issued, number),
        };
        history.push(Newest {
            acknowledged,
            issued,
            number,
        });
    }

    /// Of the block's writes acknowledged before `tick`, the one issued last.
    /// What a block holds is from before some such write only if from before this one.
    fn newest_before(&self, block: usize, tick: u64) -> Option<WriteNumber> {
        let history = &self.acknowledged[block];
        let count = history.partition_point(|newest| newest.acknowledged < tick);
        count.checked_sub(1).map(|last| history[last].number)
    }

    /// What the computer believes the block to hold.
    pub fn expected(&self, block: u64) -> WriteNumber {
        let block = usize::try_from(block).expect("a small volume");
        self.newest_before(block, u64::MAX).unwrap_or(0)
    }

    /// BUSY and the like. A write whose answer waits for stable media may have
    /// been taken all the same (C-2).
    pub fn write_refused(&mut self, number: WriteNumber) {
        let waits = self.contract != Durability::Memory;
        let write = self.write_mut(number);
        let waits = waits && write.kind != WriteKind::Passed;
        write.fate = if waits || write.kind == WriteKind::Fua {
            Fate::Unknown
        } else {
            Fate::Refused
        };
    }

    /// Whether it is one that passes, or may have passed the cache by because somebody
    /// held the volume meanwhile.
    pub fn may_have_passed(&self, number: WriteNumber) -> bool {
        let write = self.write(number);
        write.kind == WriteKind::Passed || write.may_pass || self.fence.lets_pass()
    }

    /// The session that carried it is gone.
    pub fn write_unknown(&mut self, number: WriteNumber) {
        self.write_mut(number).fate = Fate::Unknown;
    }

    /// A task management function has ended it, or its session was reinstated.
    pub fn write_ended(&mut self, number: WriteNumber) {
        let at = self.now();
        self.write_mut(number).fate = Fate::Ended(at);
    }

    pub fn sync_issued(&mut self) -> SyncTicket {
        SyncTicket { issued: self.now() }
    }

    pub fn sync_acknowledged(&mut self, ticket: SyncTicket) {
        let at = self.now();
        self.points.push(Point {
            issued: ticket.issued,
            acknowledged: at,
        });
        self.check_durable(ticket.issued, "durability of SYNCHRONIZE CACHE");
    }

    pub fn read_issued(&mut self) -> ReadTicket {
        let issued = self.now();
        ReadTicket { issued, by: None }
    }

    /// As [`Oracle::read_issued`], by this computer.
    pub fn read_issued_by(&mut self, by: Computer) -> ReadTicket {
        ReadTicket {
            by: Some(by),
            ..self.read_issued()
        }
    }

    /// The storage's state has changed: what it would answer, and its stable media.
    pub fn storage_changed(&mut self, visible: &[WriteNumber], media: &[WriteNumber]) {
        self.images_checked += 1;
        self.check_no_way_back(media);
        self.media.copy_from_slice(media);
        self.check_order(visible, "order, as the storage would answer");
        self.check_order(media, "order, on stable media");
    }

    pub fn acknowledged(&self) -> usize {
        self.writes
            .iter()
            .filter(|write| matches!(write.fate, Fate::Acknowledged(_)))
            .count()
    }

    /// Why a block cannot hold this, if it cannot.
    fn impossible(&self, number: WriteNumber, block: u64) -> Option<String> {
        if number == 0 {
            return None;
        }
        let Some(write) = self.writes.get(number as usize - 1) else {
            return Some(format!("write {number}, which was never issued"));
        };
        if !(write.lba..write.lba + u64::from(write.blocks)).contains(&block) {
            return Some(format!("write {number}, which was not of that block"));
        }
        (write.fate == Fate::Refused).then(|| format!("write {number}, which was refused"))
    }

    /// `earlier` was acknowledged, or had ended, before `later` was issued.
    fn is_before(&self, earlier: WriteNumber, later: WriteNumber) -> bool {
        if earlier == 0 {
            return later != 0;
        }
        match self.write(earlier).fate {
            Fate::Acknowledged(at) | Fate::Ended(at) => at < self.write(later).issued,
            // Not known to have ended: nothing is known to come after it.
            _ => false,
        }
    }

    /// A write as its trace has it, for a report.
    fn tell(&self, number: WriteNumber) -> String {
        if number == 0 {
            return "nothing".to_owned();
        }
        let write = self.write(number);
        format!(
            "write {number} ({:?} of {}+{}, issued at {}, {:?})",
            write.kind, write.lba, write.blocks, write.issued, write.fate
        )
    }

    fn write(&self, number: WriteNumber) -> &Write {
        &self.writes[number as usize - 1]
    }

    fn write_mut(&mut self, number: WriteNumber) -> &mut Write {
        &mut self.writes[number as usize - 1]
    }

    fn report(&mut self, rule: &'static str, detail: String) {
        self.violations.push(Violation { rule, detail });
    }
}

fn blocks_of(write: &Write) -> Range<usize> {
    let start = usize::try_from(write.lba).expect("a small volume");
    start..start + write.blocks as usize
}

#[cfg(test)]
mod tests;

//! The judge. It sees what the computer asked and was answered, and what the
//! storage holds; never a table, epoch or counter of the relay.
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
//! - **refused means refused** (A-12): a plain write answered BUSY never shows;
//!   nor does a COMPARE AND WRITE that found something else;
//! - **nothing lost** (A-21): when all is drained, every acknowledged write, or
//!   one not before it, is on the media.

use std::fmt;
use std::ops::Range;

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
    /// A passed write that was under way when the storage lost its cache: its
    /// GOOD may be older than the loss.
    may_be_lost: bool,
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
    pub violations: Vec<Violation>,
    pub reads_checked: u64,
    pub images_checked: u64,
}

/// A read under way, as [`Oracle::read_issued`] saw it.
#[derive(Clone, Copy, Debug)]
pub struct ReadTicket {
    issued: u64,
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
            may_be_lost: false,
        });
        WriteNumber::try_from(self.writes.len()).expect("a trace is short")
    }

    pub fn write_acknowledged(&mut self, number: WriteNumber) {
        let at = self.now();
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
            for lba in blocks_of(&write) {
                if self.is_before(self.media[lba], number) {
                    self.report("durability of a write", format!(
                        "write {number} was acknowledged, block {lba} of the media still holds write {}",
                        self.media[lba]
                    ));
                }
            }
        }
    }

    fn remember(&mut self, block: usize, acknowledged: u64, issued: u64, number: WriteNumber) {
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

    /// The storage lost its volatile cache. The relay sends its records anew;
    /// what only passed through it is gone by the storage's own contract,
    /// unless a SYNCHRONIZE CACHE has covered it.
    pub fn storage_lost_cache(&mut self) {
        for at in 0..self.writes.len() {
            let write = self.writes[at];
            if write.kind != WriteKind::Passed {
                continue;
            }
            let number = WriteNumber::try_from(at + 1).expect("a trace is short");
            match write.fate {
                Fate::Pending => self.writes[at].may_be_lost = true,
                Fate::Acknowledged(acknowledged)
                    if acknowledged >= self.durable_before
                        && blocks_of(&write)
                            .any(|block| self.is_before(self.media[block], number)) =>
                {
                    self.writes[at].fate = Fate::Unknown;
                    for block in blocks_of(&write) {
                        self.recall(block);
                    }
                }
                Fate::Acknowledged(_) | Fate::Refused | Fate::Unknown => {}
            }
        }
    }

    /// Makes a block's history anew, without what is acknowledged no more.
    fn recall(&mut self, block: usize) {
        let mut known: Vec<(u64, u64, WriteNumber)> = self
            .writes
            .iter()
            .zip(1..)
            .filter(|(write, _)| blocks_of(write).contains(&block))
            .filter_map(|(write, number)| match write.fate {
                Fate::Acknowledged(at) => Some((at, write.issued, number)),
                Fate::Pending | Fate::Refused | Fate::Unknown => None,
            })
            .collect();
        known.sort_unstable();
        self.acknowledged[block].clear();
        for (at, issued, number) in known {
            self.remember(block, at, issued, number);
        }
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

    /// The session that carried it is gone.
    pub fn write_unknown(&mut self, number: WriteNumber) {
        self.write_mut(number).fate = Fate::Unknown;
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
        ReadTicket { issued: self.now() }
    }

    /// A read was answered GOOD with these write numbers, a block each from `lba`.
    pub fn read_answered(&mut self, ticket: ReadTicket, lba: u64, numbers: &[WriteNumber]) {
        self.now();
        self.reads_checked += 1;
        for (&number, block) in numbers.iter().zip(lba..) {
            if let Some(why) = self.impossible(number, block) {
                self.report(
                    "a read of what was written",
                    format!("block {block} holds {why}"),
                );
                continue;
            }
            let at = usize::try_from(block).expect("a small volume");
            let newer = self
                .newest_before(at, ticket.issued)
                .filter(|&newer| self.is_before(number, newer));
            if let Some(newer) = newer {
                self.report("fresh reads", format!(
                    "block {block} was read as write {number}, though write {newer} had been acknowledged"
                ));
            }
        }
    }

    /// The storage's state has changed: what it would answer, and its stable media.
    pub fn storage_changed(&mut self, visible: &[WriteNumber], media: &[WriteNumber]) {
        self.images_checked += 1;
        for (block, &is) in media.iter().enumerate() {
            let promised = self.promised[block];
            if promised != 0 && self.is_before(is, promised) {
                self.report(
                    "no way back",
                    format!("block {block} holds write {is}, though write {promised} was durable"),
                );
            }
        }
        self.media.copy_from_slice(media);
        self.check_order(visible, "order, as the storage would answer");
        self.check_order(media, "order, on stable media");
    }

    /// Everything is drained and quiet.
    pub fn finish(&mut self, visible: &[WriteNumber]) {
        for number in 1..=WriteNumber::try_from(self.writes.len()).expect("a trace is short") {
            let write = *self.write(number);
            if !matches!(write.fate, Fate::Acknowledged(_)) {
                continue;
            }
            for block in blocks_of(&write) {
                for (image, holds) in [("answers", visible[block]), ("media", self.media[block])] {
                    if self.is_before(holds, number) {
                        self.report("nothing lost", format!(
                            "write {number} was acknowledged; at the end block {block} ({image}) holds write {holds}"
                        ));
                    }
                }
            }
        }
    }

    pub fn acknowledged(&self) -> usize {
        self.writes
            .iter()
            .filter(|write| matches!(write.fate, Fate::Acknowledged(_)))
            .count()
    }

    /// Every write acknowledged before `issued` is on the media, or one not before it.
    fn check_durable(&mut self, issued: u64, rule: &'static str) {
        self.durable_before = self.durable_before.max(issued);
        for block in 0..self.media.len() {
            let Some(number) = self.newest_before(block, issued) else {
                continue;
            };
            // What went into the journal is on stable media, what passed by it is not.
            if self.contract == Durability::Journal && self.write(number).kind != WriteKind::Passed
            {
                continue;
            }
            let promised = self.promised[block];
            if promised == 0 || self.write(promised).issued < self.write(number).issued {
                self.promised[block] = number;
            }
            if self.is_before(self.media[block], number) {
                self.report(rule, format!(
                    "write {number} was acknowledged before, block {block} of the media holds write {}",
                    self.media[block]
                ));
            }
        }
    }

    fn check_order(&mut self, image: &[WriteNumber], rule: &'static str) {
        for (block, &number) in image.iter().enumerate() {
            if let Some(why) = self.impossible(number, block as u64) {
                return self.report(rule, format!("block {block} holds {why}"));
            }
        }
        // The newest ordering point that some visible write was issued after.
        let newest = image
            .iter()
            .filter(|&&number| number != 0)
            .map(|&number| self.write(number).issued)
            .max();
        let Some(newest) = newest else { return };
        let issued = self
            .points
            .iter()
            .filter(|point| point.acknowledged < newest)
            .map(|point| point.issued)
            .max();
        let Some(issued) = issued else { return };
        for (block, &is) in image.iter().enumerate() {
            if let Some(number) = self.newest_before(block, issued)
                && self.is_before(is, number)
            {
                return self.report(rule, format!(
                    "a write after an ordering point shows, yet block {block} holds write {is} and not {number}"
                ));
            }
        }
        self.check_points_show(image, newest, rule);
    }

    /// A write that is itself an ordering point shows before any later one (C-5).
    fn check_points_show(&mut self, image: &[WriteNumber], newest: u64, rule: &'static str) {
        let point = self.writes.iter().enumerate().rev().find(|(_, write)| {
            matches!(write.kind, WriteKind::Ordered | WriteKind::Fua)
                && matches!(write.fate, Fate::Acknowledged(at) if at < newest)
        });
        let Some((at, &write)) = point else { return };
        let number = WriteNumber::try_from(at + 1).expect("a trace is short");
        if let Some(block) = blocks_of(&write).find(|&block| self.is_before(image[block], number)) {
            self.report(
                rule,
                format!(
                    "a write after ordered write {number} shows, yet block {block} holds write {}",
                    image[block]
                ),
            );
        }
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

    /// `earlier` was acknowledged before `later` was issued.
    fn is_before(&self, earlier: WriteNumber, later: WriteNumber) -> bool {
        if earlier == 0 {
            return later != 0;
        }
        match self.write(earlier).fate {
            Fate::Acknowledged(at) => at < self.write(later).issued,
            // Not known to have ended: nothing is known to come after it.
            _ => false,
        }
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
mod tests {
    use super::*;

    fn rules(oracle: &Oracle) -> Vec<&'static str> {
        oracle
            .violations
            .iter()
            .map(|violation| violation.rule)
            .collect()
    }

    #[test]
    fn a_stale_read_is_seen() {
        let mut oracle = Oracle::new(2);
        let write = oracle.write_issued(0, 1, WriteKind::Plain);
        oracle.write_acknowledged(write);
        let read = oracle.read_issued();
        oracle.read_answered(read, 0, &[0]);
        assert_eq!(rules(&oracle), ["fresh reads"]);
    }

    #[test]
    fn a_read_beside_a_write_may_see_either() {
        let mut oracle = Oracle::new(1);
        let write = oracle.write_issued(0, 1, WriteKind::Plain);
        let read = oracle.read_issued();
        oracle.write_acknowledged(write);
        oracle.read_answered(read, 0, &[0]);
        oracle.read_answered(read, 0, &[write]);
        assert!(oracle.violations.is_empty());
    }

    #[test]
    fn a_write_that_overtakes_an_ordering_point_is_seen() {
        let mut oracle = Oracle::new(2);
        let first = oracle.write_issued(0, 1, WriteKind::Plain);
        oracle.write_acknowledged(first);
        let sync = oracle.sync_issued();
        oracle.storage_changed(&[first, 0], &[first, 0]);
        oracle.sync_acknowledged(sync);
        let second = oracle.write_issued(1, 1, WriteKind::Plain);
        oracle.write_acknowledged(second);
        oracle.storage_changed(&[first, second], &[first, second]);
        assert!(oracle.violations.is_empty());

        let mut oracle = Oracle::new(2);
        let first = oracle.write_issued(0, 1, WriteKind::Plain);
        oracle.write_acknowledged(first);
        let sync = oracle.sync_issued();
        oracle.sync_acknowledged(sync);
        let second = oracle.write_issued(1, 1, WriteKind::Plain);
        oracle.storage_changed(&[0, second], &[0, 0]);
        assert_eq!(
            rules(&oracle),
            [
                "durability of SYNCHRONIZE CACHE",
                "no way back",
                "order, as the storage would answer"
            ]
        );
    }

    #[test]
    fn media_going_back_is_seen() {
        let mut oracle = Oracle::new(1);
        let first = oracle.write_issued(0, 1, WriteKind::Plain);
        oracle.write_acknowledged(first);
        let second = oracle.write_issued(0, 1, WriteKind::Plain);
        oracle.write_acknowledged(second);
        oracle.storage_changed(&[second], &[second]);
        // Sent anew, in order.
        oracle.storage_changed(&[first], &[first]);
        oracle.storage_changed(&[second], &[second]);
        assert!(oracle.violations.is_empty());
        let sync = oracle.sync_issued();
        oracle.sync_acknowledged(sync);
        oracle.storage_changed(&[first], &[first]);
        assert_eq!(rules(&oracle), ["no way back"]);
    }

    #[test]
    fn a_lost_write_and_a_refused_one_that_shows_are_seen() {
        let mut oracle = Oracle::new(2);
        let lost = oracle.write_issued(0, 1, WriteKind::Plain);
        oracle.write_acknowledged(lost);
        let refused = oracle.write_issued(1, 1, WriteKind::Plain);
        oracle.write_refused(refused);
        oracle.storage_changed(&[0, refused], &[0, 0]);
        oracle.finish(&[0, 0]);
        assert_eq!(
            rules(&oracle),
            [
                "order, as the storage would answer",
                "nothing lost",
                "nothing lost"
            ]
        );
    }

    #[test]
    fn an_ordered_write_shows_before_what_follows_it() {
        let mut oracle = Oracle::new(2);
        let ordered = oracle.write_issued(0, 1, WriteKind::Ordered);
        oracle.write_acknowledged(ordered);
        let later = oracle.write_issued(1, 1, WriteKind::Plain);
        oracle.storage_changed(&[ordered, later], &[0, 0]);
        assert!(oracle.violations.is_empty());
        oracle.storage_changed(&[0, later], &[0, 0]);
        assert_eq!(rules(&oracle), ["order, as the storage would answer"]);
    }

    #[test]
    fn the_storage_may_lose_what_passed_until_it_is_synchronized() {
        for synchronized in [false, true] {
            let mut oracle = Oracle::new(1);
            let passed = oracle.write_issued(0, 1, WriteKind::Passed);
            oracle.storage_changed(&[passed], &[0]);
            oracle.write_acknowledged(passed);
            if synchronized {
                oracle.storage_changed(&[passed], &[passed]);
                let sync = oracle.sync_issued();
                oracle.sync_acknowledged(sync);
            }
            oracle.storage_lost_cache();
            oracle.storage_changed(&[0], &[0]);
            let read = oracle.read_issued();
            oracle.read_answered(read, 0, &[0]);
            assert_eq!(!oracle.violations.is_empty(), synchronized);
        }
    }
}

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
//!   acknowledged, what it covers is on stable media;
//! - **no way back** (C-6): what was durable when a SYNCHRONIZE CACHE or FUA write
//!   was acknowledged stays: its blocks never go to an earlier write again.
//!   (Inside an epoch they may: after a reset unsynced writes are sent anew, in order.)
//! - **refused means refused** (A-12): a plain write answered BUSY never shows;
//! - **nothing lost** (A-21): when all is drained, every acknowledged write, or
//!   one not before it, is on the media.

use std::fmt;

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

#[derive(Clone, Copy, Debug)]
struct Write {
    lba: u64,
    blocks: u32,
    issued: u64,
    fate: Fate,
    /// FUA: an ordering point of its own.
    ordering: bool,
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
    /// Ticks order the trace: one an event.
    tick: u64,
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
        Self {
            writes: Vec::new(),
            points: Vec::new(),
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
    pub fn write_issued(&mut self, lba: u64, blocks: u32, ordering: bool) -> WriteNumber {
        let issued = self.now();
        self.writes.push(Write {
            lba,
            blocks,
            issued,
            fate: Fate::Pending,
            ordering,
        });
        WriteNumber::try_from(self.writes.len()).expect("a trace is short")
    }

    pub fn write_acknowledged(&mut self, number: WriteNumber) {
        let at = self.now();
        let write = self.write_mut(number);
        write.fate = Fate::Acknowledged(at);
        let write = *write;
        if write.ordering {
            self.points.push(Point {
                issued: write.issued,
                acknowledged: at,
            });
            self.check_durable(write.issued, "durability of what a FUA write follows");
            for lba in blocks_of(&write) {
                if self.is_before(self.media[lba], number) {
                    self.report("durability of a FUA write", format!(
                        "write {number} was acknowledged, block {lba} of the media still holds write {}",
                        self.media[lba]
                    ));
                }
            }
        }
    }

    /// BUSY and the like. An ordered write may have been taken all the same (C-2).
    pub fn write_refused(&mut self, number: WriteNumber) {
        let write = self.write_mut(number);
        write.fate = if write.ordering {
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
            let newer = self.covering(block).find(|&newer| {
                matches!(self.write(newer).fate, Fate::Acknowledged(at) if at < ticket.issued)
                    && self.is_before(number, newer)
            });
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
        for number in 1..=WriteNumber::try_from(self.writes.len()).expect("a trace is short") {
            let write = *self.write(number);
            if !matches!(write.fate, Fate::Acknowledged(at) if at < issued) {
                continue;
            }
            for block in blocks_of(&write) {
                // Of writes that were all acknowledged, whatever is before the one
                // issued last is before the others' successor too.
                let promised = self.promised[block];
                if promised == 0 || self.write(promised).issued < write.issued {
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
        let Some(issued) = self
            .points
            .iter()
            .filter(|point| point.acknowledged < newest)
            .map(|point| point.issued)
            .max()
        else {
            return;
        };
        for at in 0..self.writes.len() {
            let write = self.writes[at];
            if !matches!(write.fate, Fate::Acknowledged(at) if at < issued) {
                continue;
            }
            let number = WriteNumber::try_from(at + 1).expect("a trace is short");
            for block in blocks_of(&write) {
                if self.is_before(image[block], number) {
                    return self.report(rule, format!(
                        "a write after an ordering point shows, yet block {block} holds write {} and not {number}",
                        image[block]
                    ));
                }
            }
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

    fn covering(&self, block: u64) -> impl Iterator<Item = WriteNumber> + '_ {
        self.writes
            .iter()
            .zip(1..)
            .filter_map(move |(write, number)| {
                (write.lba..write.lba + u64::from(write.blocks))
                    .contains(&block)
                    .then_some(number)
            })
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

fn blocks_of(write: &Write) -> std::ops::Range<usize> {
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
        let write = oracle.write_issued(0, 1, false);
        oracle.write_acknowledged(write);
        let read = oracle.read_issued();
        oracle.read_answered(read, 0, &[0]);
        assert_eq!(rules(&oracle), ["fresh reads"]);
    }

    #[test]
    fn a_read_beside_a_write_may_see_either() {
        let mut oracle = Oracle::new(1);
        let write = oracle.write_issued(0, 1, false);
        let read = oracle.read_issued();
        oracle.write_acknowledged(write);
        oracle.read_answered(read, 0, &[0]);
        oracle.read_answered(read, 0, &[write]);
        assert!(oracle.violations.is_empty());
    }

    #[test]
    fn a_write_that_overtakes_an_ordering_point_is_seen() {
        let mut oracle = Oracle::new(2);
        let first = oracle.write_issued(0, 1, false);
        oracle.write_acknowledged(first);
        let sync = oracle.sync_issued();
        oracle.storage_changed(&[first, 0], &[first, 0]);
        oracle.sync_acknowledged(sync);
        let second = oracle.write_issued(1, 1, false);
        oracle.write_acknowledged(second);
        oracle.storage_changed(&[first, second], &[first, second]);
        assert!(oracle.violations.is_empty());

        let mut oracle = Oracle::new(2);
        let first = oracle.write_issued(0, 1, false);
        oracle.write_acknowledged(first);
        let sync = oracle.sync_issued();
        oracle.sync_acknowledged(sync);
        let second = oracle.write_issued(1, 1, false);
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
        let first = oracle.write_issued(0, 1, false);
        oracle.write_acknowledged(first);
        let second = oracle.write_issued(0, 1, false);
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
        let lost = oracle.write_issued(0, 1, false);
        oracle.write_acknowledged(lost);
        let refused = oracle.write_issued(1, 1, false);
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
}

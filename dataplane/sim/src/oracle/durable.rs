//! Durability (C-2), no way back (C-6), and what a storage without its cache
//! may have lost.

use sluice_hugepages::tables::Durability;

use super::{Fate, Oracle, WriteKind, WriteNumber, blocks_of};

impl Oracle {
    /// Every write acknowledged before `issued` is on the media, or one not before it.
    pub(super) fn check_durable(&mut self, issued: u64, rule: &'static str) {
        self.durable_before = self.durable_before.max(issued);
        for block in 0..self.media.len() {
            let Some(number) = self.newest_before(block, issued) else {
                continue;
            };
            // What went into the journal is on stable media, what passed by it is not.
            let write = self.write(number);
            let passed = write.kind == WriteKind::Passed && !write.may_pass;
            if self.contract == Durability::Journal && !passed {
                continue;
            }
            let promised = self.promised[block];
            if promised == 0 || self.write(promised).issued < self.write(number).issued {
                self.promised[block] = number;
            }
            if self.is_before(self.media[block], number) {
                let (is, number) = (self.tell(self.media[block]), self.tell(number));
                self.report(
                    rule,
                    format!("{number} came before, block {block} of the media holds {is}"),
                );
            }
        }
    }

    /// A write that promises so is on the media itself.
    pub(super) fn check_own_durable(&mut self, number: WriteNumber) {
        for lba in blocks_of(self.write(number)) {
            let is = self.media[lba];
            if self.is_before(is, number) && !self.is_excused(lba, number) {
                let (is, number) = (self.tell(is), self.tell(number));
                self.report(
                    "durability of a write",
                    format!("{number}; block {lba} of the media still holds {is}"),
                );
            }
        }
    }

    /// What was promised to be durable never goes back to something earlier.
    pub(super) fn check_no_way_back(&mut self, media: &[WriteNumber]) {
        for (block, &is) in media.iter().enumerate() {
            let promised = self.promised[block];
            if promised != 0 && self.is_before(is, promised) {
                let (is, promised) = (self.tell(is), self.tell(promised));
                self.report(
                    "no way back",
                    format!("block {block} holds {is}; durable was {promised}"),
                );
            }
        }
    }

    /// The storage lost its volatile cache. The relay sends its records anew;
    /// what only passed through it is gone by the storage's own contract,
    /// unless a SYNCHRONIZE CACHE has covered it.
    pub fn storage_lost_cache(&mut self) {
        for at in 0..self.writes.len() {
            let write = self.writes[at];
            if write.kind != WriteKind::Passed && !write.may_pass {
                continue;
            }
            let number = WriteNumber::try_from(at + 1).expect("a trace is short");
            match write.fate {
                // One that is answered when it is durable is not answered by a GOOD from before.
                Fate::Pending => {
                    let waits = write.kind == WriteKind::Fua
                        || write.kind == WriteKind::Plain && self.contract != Durability::Memory;
                    self.writes[at].may_be_lost |= !waits;
                }
                Fate::Acknowledged(acknowledged)
                    if acknowledged >= self.durable_before
                        && blocks_of(&write).any(|block| {
                            self.is_before(self.media[block], number)
                                && !self.is_excused(block, number)
                        }) =>
                {
                    self.writes[at].fate = Fate::Unknown;
                    for block in blocks_of(&write) {
                        self.recall(block);
                    }
                }
                Fate::Acknowledged(_) | Fate::Refused | Fate::Unknown | Fate::Ended(_) => {}
            }
        }
    }

    /// The relay lost its log's memory. Where the volume's contract promises no more
    /// than that memory (C-1), what was acknowledged, and not promised to be durable
    /// since, may be gone where what the storage would answer is older; what the
    /// storage has only in its cache is its own from here on, as if it had passed:
    /// there is no record to send it anew from. By every contract, what had passed is
    /// forgotten: it is there, and nobody owes it a sync but who asks for one.
    pub fn relay_lost_memory(&mut self, visible: &[WriteNumber]) {
        for at in 0..self.writes.len() {
            let write = self.writes[at];
            let number = WriteNumber::try_from(at + 1).expect("a trace is short");
            let passed = write.kind == WriteKind::Passed || write.may_pass;
            let was_in_log = self.contract == Durability::Memory;
            if write.kind == WriteKind::Fua || !(was_in_log || passed) {
                continue;
            }
            let older = |held: &[WriteNumber]| {
                blocks_of(&write).any(|block| {
                    self.is_before(held[block], number) && !self.is_excused(block, number)
                })
            };
            match write.fate {
                // Its GOOD may be older than the loss.
                Fate::Pending => self.writes[at].may_be_lost = true,
                Fate::Acknowledged(acknowledged) if acknowledged >= self.durable_before => {
                    if was_in_log && older(visible) {
                        self.writes[at].fate = Fate::Unknown;
                        for block in blocks_of(&write) {
                            self.recall(block);
                        }
                    } else if older(&self.media) {
                        self.writes[at].may_pass = true;
                        self.writes[at].forgotten = true;
                    }
                }
                _ => {}
            }
        }
    }

    /// Makes a block's history anew, without what is acknowledged no more.
    pub(super) fn recall(&mut self, block: usize) {
        let mut known: Vec<(u64, u64, WriteNumber)> = self
            .writes
            .iter()
            .zip(1..)
            .filter(|(write, _)| blocks_of(write).contains(&block))
            .filter_map(|(write, number)| match write.fate {
                Fate::Acknowledged(at) => Some((at, write.issued, number)),
                Fate::Pending | Fate::Refused | Fate::Unknown | Fate::Ended(_) => None,
            })
            .collect();
        known.sort_unstable();
        self.acknowledged[block].clear();
        for (at, issued, number) in known {
            self.remember(block, at, issued, number);
        }
    }
}

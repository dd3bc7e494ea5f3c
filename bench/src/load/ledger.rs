//! What each block may hold where a power loss may take what was acknowledged and not
//! synchronized: a volume of durability `memory` promises no more (C-1).
//!
//! A block's states in a run are numbered: 0 is what it held before, then one for each
//! write that was answered GOOD, or is under way. What always holds: a block never reads
//! as a state older than the one that is durable, or newer than the newest; without a
//! loss as the newest alone; and once read, as that until it is written again.

/// What a read of a block was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Newest,
    /// An older one, of those that a loss may have left.
    Older,
    Wrong,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// What it may hold: from `low` to `high`.
    low: u32,
    high: u32,
    /// What no loss takes.
    durable: u32,
    /// `low` when the synchronization under way was asked for.
    covered: u32,
}

#[derive(Debug)]
pub struct Ledger {
    blocks: Vec<Block>,
}

impl Ledger {
    pub fn new(blocks: usize) -> Self {
        Self {
            blocks: vec![Block::default(); blocks],
        }
    }

    /// A write was answered GOOD; with FUA it is durable.
    pub fn acknowledged(&mut self, at: usize, state: u32, fua: bool) {
        let block = &mut self.blocks[at];
        (block.low, block.high) = (state, state);
        if fua {
            block.durable = state;
        }
    }

    /// The session broke: that may have been a power loss.
    pub fn may_be_lost(&mut self) {
        for block in &mut self.blocks {
            block.low = block.durable;
        }
    }

    pub fn sync_asked(&mut self) {
        for block in &mut self.blocks {
            block.covered = block.low;
        }
    }

    /// The blocks that became durable by it, with their states.
    pub fn synced(&mut self) -> Vec<(usize, u32)> {
        let mut newly = Vec::new();
        for (at, block) in self.blocks.iter_mut().enumerate() {
            if block.covered > block.durable {
                block.durable = block.covered;
                newly.push((at, block.durable));
            }
        }
        newly
    }

    /// Judges a read; `is` says whether what was read is that state.
    pub fn read(&mut self, at: usize, is: impl Fn(u32) -> bool) -> Seen {
        let block = &mut self.blocks[at];
        let newest = block.high;
        let Some(state) = (block.low..=newest).rev().find(|&state| is(state)) else {
            return Seen::Wrong;
        };
        (block.low, block.high) = (state, state);
        if state == newest {
            Seen::Newest
        } else {
            Seen::Older
        }
    }

    /// The first block from `at` on of which it is not known what it holds.
    pub fn unknown_from(&self, at: usize) -> Option<usize> {
        let mut blocks = self.blocks.iter().enumerate().skip(at);
        blocks
            .find(|(_, block)| block.low != block.high)
            .map(|(at, _)| at)
    }

    /// What no loss takes.
    pub fn durable(&self, at: usize) -> u32 {
        self.blocks[at].durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IS: fn(u32) -> Box<dyn Fn(u32) -> bool> = |held| Box::new(move |state| state == held);

    #[test]
    fn without_a_loss_a_block_reads_as_it_was_written_last() {
        let mut ledger = Ledger::new(1);
        assert_eq!(ledger.read(0, IS(0)), Seen::Newest);
        ledger.acknowledged(0, 1, false);
        assert_eq!(ledger.read(0, IS(0)), Seen::Wrong);
        assert_eq!(ledger.read(0, IS(1)), Seen::Newest);
    }

    #[test]
    fn a_loss_takes_what_is_not_durable_and_no_more() {
        let mut ledger = Ledger::new(2);
        ledger.acknowledged(0, 1, true);
        ledger.acknowledged(0, 2, false);
        ledger.acknowledged(1, 1, false);
        ledger.sync_asked();
        // Too late for that one.
        ledger.acknowledged(1, 2, false);
        assert_eq!(ledger.synced(), [(0, 2), (1, 1)]);
        ledger.acknowledged(0, 3, false);
        ledger.may_be_lost();
        assert_eq!(ledger.unknown_from(0), Some(0));
        assert_eq!(ledger.read(0, IS(1)), Seen::Wrong);
        assert_eq!(ledger.read(0, IS(2)), Seen::Older);
        assert_eq!(ledger.read(0, IS(3)), Seen::Wrong, "it does not come back");
        assert_eq!(ledger.unknown_from(0), Some(1));
        assert_eq!(ledger.read(1, IS(2)), Seen::Newest, "nor need it be lost");
        assert_eq!(ledger.unknown_from(0), None);
    }

    #[test]
    fn what_is_lost_before_it_is_synced_is_not_covered() {
        let mut ledger = Ledger::new(1);
        ledger.acknowledged(0, 1, false);
        ledger.may_be_lost();
        ledger.sync_asked();
        assert_eq!(ledger.synced(), []);
        assert_eq!(ledger.read(0, IS(0)), Seen::Older);
    }
}

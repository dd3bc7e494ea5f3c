//! Damage that the operator has given up (A-23, C-4): the one thing that excuses an
//! acknowledged write, and of it only the blocks of the damaged record.
//!
//! What a record had hidden in its blocks may have left the log before it was sent, so
//! what was written there before it is excused with it; what lay over it is not.

use std::collections::BTreeSet;

use super::{Fate, Oracle, WriteNumber, blocks_of};

/// Blocks of a write that were damaged, as things stood when it happened.
#[derive(Clone, Debug)]
pub struct Damage {
    number: WriteNumber,
    lba: u64,
    blocks: u64,
    tick: u64,
    /// By block, writes that came after it and are kept.
    over: BTreeSet<(u64, WriteNumber)>,
}

impl Damage {
    /// The write lies over the damaged one, and is sound.
    pub fn stays(&mut self, block: u64, number: WriteNumber) {
        self.over.insert((block, number));
    }
}

impl Oracle {
    /// These blocks of the write are damaged now. That excuses nothing yet.
    pub fn damage(&self, number: WriteNumber, lba: u64, blocks: u64) -> Damage {
        Damage {
            number,
            lba,
            blocks,
            tick: self.tick,
            over: BTreeSet::new(),
        }
    }

    /// The operator has thrown away what was damaged.
    pub fn give_up(&mut self, damage: &Damage) {
        // What was issued after it was acknowledged came after it.
        let until = match self.write(damage.number).fate {
            Fate::Acknowledged(at) => at.min(damage.tick),
            _ => damage.tick,
        };
        for block in damage.lba..damage.lba + damage.blocks {
            let at = usize::try_from(block).expect("a small volume");
            for (write, number) in self.writes.iter().zip(1..) {
                if write.issued <= until
                    && blocks_of(write).contains(&at)
                    && !damage.over.contains(&(block, number))
                {
                    self.excused.insert((at, number));
                }
            }
            self.recall(at);
        }
    }

    /// Nobody may ask any more for what the write put into the block.
    pub(super) fn is_excused(&self, block: usize, number: WriteNumber) -> bool {
        self.excused.contains(&(block, number))
    }
}

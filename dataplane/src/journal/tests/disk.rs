//! A disk in memory: every write is synchronous, so what a power loss may tear
//! is the one under way, sector by sector.

use std::io;

use super::{BLOCK_LEN, Block, HEADER_BLOCKS, Op, Random, Span};
use crate::journal::replay::Blocks;

const SECTOR_LEN: usize = 512;

#[derive(Debug)]
pub struct ModelDisk {
    pub blocks: Vec<Block>,
    /// Every write ends in an error from now on; a part of it may be there.
    pub fails: bool,
}

impl ModelDisk {
    pub fn new(blocks: u64) -> ModelDisk {
        let blocks = usize::try_from(blocks).expect("small");
        ModelDisk {
            blocks: vec![Block::ZERO; blocks],
            fails: false,
        }
    }

    /// The whole write, durably; `false` if the disk fails.
    pub fn write(&mut self, op: Op, head: &Block, spans: &[Span], log: &[u8]) -> bool {
        if self.fails {
            return false;
        }
        for (block, bytes) in pieces(op, head, spans, log) {
            self.blocks[block] = bytes;
        }
        true
    }

    /// The write at the moment power goes: any of its sectors.
    pub fn tear(&mut self, op: Op, head: &Block, spans: &[Span], log: &[u8], random: &mut Random) {
        // Often nearly all of it, which is the harder case.
        let one_lost_in = [2, 3, 50, 10_000][random.below(4)];
        for (block, bytes) in pieces(op, head, spans, log) {
            for at in (0..BLOCK_LEN).step_by(SECTOR_LEN) {
                if !random.one_in(one_lost_in) {
                    let sector = at..at + SECTOR_LEN;
                    self.blocks[block].0[sector.clone()].copy_from_slice(&bytes.0[sector]);
                }
            }
        }
    }
}

/// Each block of a write with the place it goes to.
fn pieces(op: Op, head: &Block, spans: &[Span], log: &[u8]) -> Vec<(usize, Block)> {
    let (first, end) = match op {
        Op::Header { block } => (block, block + 1),
        Op::Group { first, end, .. } => (first, end),
    };
    let mut blocks = vec![head.clone()];
    for span in spans {
        let offset = usize::try_from(span.offset).expect("inside the log");
        let len = usize::try_from(span.blocks).expect("small") * BLOCK_LEN;
        for chunk in log[offset..offset + len].chunks_exact(BLOCK_LEN) {
            blocks.push(Block(chunk.try_into().expect("a block")));
        }
    }
    let place = |at: u64| {
        if at < end {
            at
        } else {
            HEADER_BLOCKS + at - end
        }
    };
    let places = (first..).map(|at| usize::try_from(place(at)).expect("small"));
    places.zip(blocks).collect()
}

impl Blocks for ModelDisk {
    fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    fn read(&mut self, first: u64, into: &mut [Block]) -> io::Result<()> {
        let first = usize::try_from(first).expect("small");
        into.clone_from_slice(&self.blocks[first..first + into.len()]);
        Ok(())
    }
}

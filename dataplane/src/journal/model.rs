//! A disk in memory, for tests and the simulator: every write is synchronous,
//! so what a power loss may tear is the one under way, sector by sector.

use std::io;

use super::begin::Disk;
use super::core::{Op, Span};
use super::layout::{BLOCK_LEN, Block, HEADER_BLOCKS};
use super::replay::Blocks;

const SECTOR_LEN: usize = 512;

#[derive(Clone, Debug)]
pub struct ModelDisk {
    pub blocks: Vec<Block>,
    /// Every write ends in an error from now on; a part of it may be there.
    pub fails: bool,
}

/// A write: each block with the place it goes to.
pub type Pieces = Vec<(usize, Block)>;

impl ModelDisk {
    /// # Panics
    /// With more blocks than memory has addresses for.
    pub fn new(blocks: u64) -> ModelDisk {
        let blocks = usize::try_from(blocks).expect("small");
        ModelDisk {
            blocks: vec![Block::ZERO; blocks],
            fails: false,
        }
    }

    /// The whole write, durably; `false` if the disk fails.
    pub fn write_pieces(&mut self, pieces: Pieces) -> bool {
        if self.fails {
            return false;
        }
        for (place, block) in pieces {
            self.blocks[place] = block;
        }
        true
    }

    /// The write at the moment power goes: the sectors that are not `lost`.
    pub fn tear(&mut self, pieces: &Pieces, mut lost: impl FnMut() -> bool) {
        for (place, block) in pieces {
            for at in (0..BLOCK_LEN).step_by(SECTOR_LEN) {
                if !lost() {
                    let sector = at..at + SECTOR_LEN;
                    self.blocks[*place].0[sector.clone()].copy_from_slice(&block.0[sector]);
                }
            }
        }
    }
}

/// The blocks of a write; `bytes` gives a span's, as a device would read them now.
///
/// # Panics
/// When they are not whole blocks.
pub fn pieces<'a>(
    op: Op,
    head: &Block,
    spans: &[Span],
    bytes: impl Fn(Span) -> &'a [u8],
) -> Pieces {
    let mut blocks = vec![head.clone()];
    for &span in spans {
        for chunk in bytes(span).chunks_exact(BLOCK_LEN) {
            blocks.push(Block(chunk.try_into().expect("a block")));
        }
    }
    placed(op, blocks)
}

/// The staged blocks, each with its place.
///
/// # Panics
/// With more blocks than memory has addresses for.
pub fn placed(op: Op, blocks: Vec<Block>) -> Pieces {
    let (first, end) = match op {
        Op::Header { block } => (block, block + 1),
        Op::Group { first, end, .. } => (first, end),
    };
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

impl Disk for ModelDisk {
    fn write(&mut self, op: Op, staged: &[Block]) -> io::Result<()> {
        if self.write_pieces(placed(op, staged.to_vec())) {
            Ok(())
        } else {
            Err(io::ErrorKind::Other.into())
        }
    }
}

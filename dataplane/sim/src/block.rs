//! What stands in a block: the number of the write that put it there, and the
//! block's own place, over and over, so that a torn or misplaced block shows.
//!
//! A place is a volume's [`tag`] and an LBA. Blocks are as long as the slices given.

use crate::oracle::WriteNumber;

/// Bytes of a block, where a volume is not said to have longer ones.
pub const BLOCK_LEN: usize = 512;
/// The number and the place, as they are repeated.
const PIECE_LEN: usize = 16;

/// What a volume adds to its LBAs, so that no block passes for another volume's.
pub const fn tag(volume: usize) -> u64 {
    (volume as u64) << 48
}

fn piece(number: WriteNumber, place: u64) -> [u8; PIECE_LEN] {
    let mut piece = [0; PIECE_LEN];
    if number != 0 {
        piece[..4].copy_from_slice(&number.to_le_bytes());
        piece[4..8].copy_from_slice(&(!number).to_le_bytes());
        piece[8..].copy_from_slice(&place.to_le_bytes());
    }
    piece
}

pub fn fill(block: &mut [u8], number: WriteNumber, place: u64) {
    let piece = piece(number, place);
    for into in block.chunks_exact_mut(PIECE_LEN) {
        into.copy_from_slice(&piece);
    }
}

/// The write a block holds; `None` if it is torn, or of another place.
pub fn number(block: &[u8], place: u64) -> Option<WriteNumber> {
    let number = WriteNumber::from_le_bytes(*block.first_chunk()?);
    let piece = piece(number, place);
    let whole = block.chunks(PIECE_LEN).all(|is| is == piece);
    whole.then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_tells_its_write_and_its_place() {
        let mut block = [0; BLOCK_LEN];
        assert_eq!(number(&block, 9), Some(0));
        fill(&mut block, 7, 9);
        assert_eq!(number(&block, 9), Some(7));
        assert_eq!(number(&block, 8), None);
        block[100] ^= 1;
        assert_eq!(number(&block, 9), None);
    }
}

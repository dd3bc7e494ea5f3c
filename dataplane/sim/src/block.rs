//! What stands in a block: the number of the write that put it there, and the
//! block's own place, over and over, so that a torn or misplaced block shows.

use crate::oracle::WriteNumber;

pub const BLOCK_LEN: usize = 512;

pub fn fill(block: &mut [u8], number: WriteNumber, lba: u64) {
    if number == 0 {
        return block.fill(0);
    }
    for piece in block.chunks_exact_mut(16) {
        piece[..4].copy_from_slice(&number.to_le_bytes());
        piece[4..8].copy_from_slice(&(!number).to_le_bytes());
        piece[8..].copy_from_slice(&lba.to_le_bytes());
    }
}

/// The write a block holds; `None` if it is torn, or of another place.
pub fn number(block: &[u8], lba: u64) -> Option<WriteNumber> {
    let number = WriteNumber::from_le_bytes(*block.first_chunk()?);
    let mut expected = [0; BLOCK_LEN];
    fill(&mut expected, number, lba);
    (block == expected).then_some(number)
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

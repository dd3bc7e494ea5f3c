//! Block contents that say what they are: volume offset, generation and seed,
//! so that a read can be judged without keeping what was written.

/// Fills `block` with the stamp of block `lba` in its `generation`.
/// Generation 0 is a block never written: all zeroes.
pub fn fill(block: &mut [u8], lba: u64, generation: u32, seed: u64) {
    if generation == 0 {
        block.fill(0);
        return;
    }
    let mut state = seed ^ lba.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (u64::from(generation) << 40);
    for word in block.chunks_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let bytes = (state ^ (state >> 29)).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

/// What a stamp begins with: of one block and seed no two generations have the same.
pub fn first_word(lba: u64, generation: u32, seed: u64) -> u64 {
    let mut word = [0; 8];
    fill(&mut word, lba, generation, seed);
    u64::from_le_bytes(word)
}

/// Whether `block` is exactly the stamp.
pub fn matches(block: &[u8], lba: u64, generation: u32, seed: u64) -> bool {
    let mut expected = [0; 4096];
    let expected = &mut expected[..block.len()];
    fill(expected, lba, generation, seed);
    expected == block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_differ_by_place_generation_and_seed() {
        let mut block = [0; 512];
        fill(&mut block, 7, 1, 1);
        assert!(matches(&block, 7, 1, 1));
        assert!(!matches(&block, 8, 1, 1));
        assert!(!matches(&block, 7, 2, 1));
        assert!(!matches(&block, 7, 1, 2));
        assert!(!matches(&block, 7, 0, 1));
    }
}

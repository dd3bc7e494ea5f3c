//! The one source of chance in a run: a xorshift sequence from the seed.

#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Any state but zero; neighbouring seeds are spread by the multiplication.
        Self((seed.wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Chance for one purpose of a seed's, so that what others draw does not change it.
    pub fn of_purpose(seed: u64, purpose: u64) -> Self {
        // The finalizer of splitmix64: neighbouring seeds and purposes have nothing in common.
        let mut state = seed ^ (purpose + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        state = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state = (state ^ state >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self(state ^ state >> 31 | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`; 0 if the bound is 0.
    pub fn of(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            0
        } else {
            (self.draw() >> 11) % bound
        }
    }

    /// As [`Random::of`], of things in a list.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.of(bound as u64)).expect("below a usize")
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.of(100) < percent
    }

    pub fn key(&mut self) -> [u8; 32] {
        let mut key = [0; 32];
        for piece in key.chunks_exact_mut(8) {
            piece.copy_from_slice(&self.draw().to_le_bytes());
        }
        key
    }

    pub fn seed(&mut self) -> [u8; 16] {
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&self.draw().to_le_bytes());
        seed[8..].copy_from_slice(&self.draw().to_le_bytes());
        seed
    }
}

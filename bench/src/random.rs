//! Seeded numbers for benches: the same seed gives the same run. Not for secrets.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 32 random bits.
    pub const fn bits(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// A number below `bound`, with the small bias of a modulo.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

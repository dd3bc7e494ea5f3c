//! The input as choices: it never ends, it only turns to zeroes.

/// Bytes not read yet.
#[derive(Clone, Debug)]
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let take = N.min(self.0.len());
        let (head, rest) = self.0.split_at(take);
        array[..take].copy_from_slice(head);
        self.0 = rest;
        array
    }

    pub fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub fn word(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub fn half(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// A number below `bound`, which is at most 256.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// `len` bytes, or what there is.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// A length that is often on one of the edges protocols have.
    pub fn len(&mut self) -> u32 {
        const EDGES: [u32; 12] = [
            0, 1, 3, 4, 511, 512, 4096, 8192, 8193, 65_536, 262_144, 262_145,
        ];
        match self.byte() {
            at @ 0..128 => EDGES[usize::from(at) % EDGES.len()],
            high => u32::from(high & 0x7f) << 8 | u32::from(self.byte()),
        }
    }
}

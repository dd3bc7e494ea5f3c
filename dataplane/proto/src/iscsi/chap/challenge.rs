//! Where challenges come from: a key that was drawn once, and a count, so that
//! none repeats and none can be foretold, and a simulation can be repeated.

use sha2::{Digest as _, Sha256};
use std::fmt;

/// As long as the longest hash (RFC 1994 2.2), in bytes.
const LEN: usize = 32;

/// CHAP_I and CHAP_C for one login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub identifier: u8,
    pub bytes: [u8; LEN],
}

/// A sequence of challenges.
pub struct Challenges {
    key: [u8; LEN],
    count: u64,
}

impl Challenges {
    /// `key` is from the kernel's generator, anew at each start.
    #[must_use]
    pub const fn new(key: [u8; LEN]) -> Self {
        Self { key, count: 0 }
    }

    /// The next one: SHA-256 over key and count, both of fixed length.
    pub fn draw(&mut self) -> Challenge {
        self.count += 1;
        let bytes = Sha256::new()
            .chain_update(self.key)
            .chain_update(self.count.to_be_bytes())
            .finalize();
        let [.., identifier] = self.count.to_be_bytes();
        Challenge {
            identifier,
            bytes: bytes.into(),
        }
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

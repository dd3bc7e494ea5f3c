//! How the fields of a row or message become 64-bit words and come back. A
//! word that no writer could have stored comes back as `None`: the bytes may
//! be another process's doing.

use std::net::{Ipv4Addr, SocketAddrV4};

use arrayvec::ArrayString;

/// A value with a fixed number of words.
pub trait Field: Sized {
    const WORDS: usize;
    /// Stores into exactly `WORDS` words.
    fn store(&self, words: &mut [u64]);
    /// Takes from exactly `WORDS` words.
    fn load(words: &[u64]) -> Option<Self>;
}

/// `text` cut to at most `N` bytes, at a character.
#[must_use]
pub fn text<const N: usize>(text: &str) -> ArrayString<N> {
    let cut = (0..=N.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at));
    let mut out = ArrayString::new();
    out.push_str(&text[..cut.unwrap_or(0)]);
    out
}

impl Field for u64 {
    const WORDS: usize = 1;
    fn store(&self, words: &mut [u64]) {
        words[0] = *self;
    }
    fn load(words: &[u64]) -> Option<Self> {
        Some(words[0])
    }
}

macro_rules! narrow {
    ($($number:ty),*) => {$(
        impl Field for $number {
            const WORDS: usize = 1;
            fn store(&self, words: &mut [u64]) {
                words[0] = u64::from(*self);
            }
            fn load(words: &[u64]) -> Option<Self> {
                Self::try_from(words[0]).ok()
            }
        }
    )*};
}
narrow!(u8, u16, u32);

impl Field for bool {
    const WORDS: usize = 1;
    fn store(&self, words: &mut [u64]) {
        words[0] = u64::from(*self);
    }
    fn load(words: &[u64]) -> Option<Self> {
        match words[0] {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Field for Ipv4Addr {
    const WORDS: usize = 1;
    fn store(&self, words: &mut [u64]) {
        words[0] = u64::from(u32::from(*self));
    }
    fn load(words: &[u64]) -> Option<Self> {
        u32::load(words).map(Self::from)
    }
}

impl Field for SocketAddrV4 {
    const WORDS: usize = 1;
    fn store(&self, words: &mut [u64]) {
        words[0] = u64::from(u32::from(*self.ip())) << 16 | u64::from(self.port());
    }
    fn load(words: &[u64]) -> Option<Self> {
        let ip = u32::try_from(words[0] >> 16).ok()?;
        let port = u16::try_from(words[0] & 0xFFFF).ok()?;
        Some(Self::new(Ipv4Addr::from(ip), port))
    }
}

/// MAC addresses and ISIDs, in the order of their bytes.
impl Field for [u8; 6] {
    const WORDS: usize = 1;
    fn store(&self, words: &mut [u64]) {
        words[0] = self
            .iter()
            .fold(0, |word, &byte| word << 8 | u64::from(byte));
    }
    fn load(words: &[u64]) -> Option<Self> {
        let bytes = words[0].to_be_bytes();
        let [0, 0, own @ ..] = bytes else { return None };
        Some(own)
    }
}

impl<const N: usize> Field for ArrayString<N> {
    const WORDS: usize = 1 + N.div_ceil(8);
    fn store(&self, words: &mut [u64]) {
        words[0] = self.len() as u64;
        for (word, bytes) in words[1..].iter_mut().zip(self.as_bytes().chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(whole);
        }
    }
    fn load(words: &[u64]) -> Option<Self> {
        let len = usize::try_from(words[0]).ok().filter(|&len| len <= N)?;
        let mut out = [0; N];
        for (bytes, word) in out[..len].chunks_mut(8).zip(&words[1..]) {
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        }
        let text = std::str::from_utf8(&out[..len]).ok()?;
        Some(self::text(text))
    }
}

impl<T: Field> Field for Option<T> {
    const WORDS: usize = 1 + T::WORDS;
    fn store(&self, words: &mut [u64]) {
        words.fill(0);
        if let Some(value) = self {
            words[0] = 1;
            value.store(&mut words[1..]);
        }
    }
    fn load(words: &[u64]) -> Option<Self> {
        match words[0] {
            0 => Some(None),
            1 => T::load(&words[1..]).map(Some),
            _ => None,
        }
    }
}

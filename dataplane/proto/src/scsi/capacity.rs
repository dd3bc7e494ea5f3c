//! How large a volume is: READ CAPACITY (10) and (16) parameter data (SBC-4).

use thiserror::Error;

use super::{be32, be64};

/// Smallest and largest logical block that the cache holds, in bytes.
pub const BLOCK_LEN_MIN: u32 = 512;
pub const BLOCK_LEN_MAX: u32 = 4096;

/// Largest volume that the cache can address: 1 EiB.
pub const VOLUME_BYTES_MAX: u64 = 1 << 60;

/// Size of a volume, from the storage's own answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Number of logical blocks; never zero.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_len: u32,
    /// LBPME: the volume is thin (READ CAPACITY (16) only, else `false`).
    pub thin: bool,
    /// PROT_EN: formatted with protection information (READ CAPACITY (16) only, else `false`).
    pub protected: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CapacityError {
    #[error("READ CAPACITY answered {got} bytes, {need} are needed")]
    Short { got: usize, need: usize },
    /// The volume is too large for the 10-byte command.
    #[error("the volume has more than 2^32 blocks: ask with READ CAPACITY (16)")]
    AskSixteen,
    #[error("READ CAPACITY answered a last block of {0:#x}, which no volume has")]
    LastBlock(u64),
    #[error("the volume has {0} blocks, more than the 1 EiB that can be cached")]
    TooLarge(u64),
    #[error("logical blocks of {0} bytes cannot be cached: need a power of two from 512 to 4096")]
    BlockLen(u32),
}

impl Capacity {
    /// From the eight bytes that READ CAPACITY (10) answers.
    ///
    /// # Errors
    /// Too few bytes, a volume that needs the 16-byte command, or a block
    /// length that cannot be cached.
    pub fn parse_10(bytes: &[u8]) -> Result<Self, CapacityError> {
        let short = CapacityError::Short {
            got: bytes.len(),
            need: 8,
        };
        let last = be32(bytes, 0).ok_or(short)?;
        let block_len = be32(bytes, 4).ok_or(short)?;
        if last == u32::MAX {
            return Err(CapacityError::AskSixteen);
        }
        Self {
            blocks: u64::from(last) + 1,
            block_len,
            thin: false,
            protected: false,
        }
        .checked()
    }

    /// From what READ CAPACITY (16) answers; 12 bytes are enough, flags count
    /// when they are there.
    ///
    /// # Errors
    /// Too few bytes, an impossible last block, or a block length that cannot
    /// be cached.
    pub fn parse_16(bytes: &[u8]) -> Result<Self, CapacityError> {
        let short = CapacityError::Short {
            got: bytes.len(),
            need: 12,
        };
        let last = be64(bytes, 0).ok_or(short)?;
        let block_len = be32(bytes, 8).ok_or(short)?;
        let blocks = last.checked_add(1).ok_or(CapacityError::LastBlock(last))?;
        let bit = |byte: usize, mask: u8| bytes.get(byte).is_some_and(|b| b & mask != 0);
        Self {
            blocks,
            block_len,
            thin: bit(14, 0x80),
            protected: bit(12, 0x01),
        }
        .checked()
    }

    fn checked(self) -> Result<Self, CapacityError> {
        let fits = (BLOCK_LEN_MIN..=BLOCK_LEN_MAX).contains(&self.block_len);
        if !fits || !self.block_len.is_power_of_two() {
            return Err(CapacityError::BlockLen(self.block_len));
        }
        match self.blocks.checked_mul(u64::from(self.block_len)) {
            Some(0..=VOLUME_BYTES_MAX) => Ok(self),
            _ => Err(CapacityError::TooLarge(self.blocks)),
        }
    }

    /// Bytes of the whole volume.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.blocks * self.block_len as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten() {
        let bytes = [0, 0, 0x7F, 0xFF, 0, 0, 2, 0];
        let capacity = Capacity::parse_10(&bytes).unwrap();
        assert_eq!((capacity.blocks, capacity.block_len), (0x8000, 512));
        assert_eq!(capacity.bytes(), 16 << 20);
        let large = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 2, 0];
        assert_eq!(Capacity::parse_10(&large), Err(CapacityError::AskSixteen));
        let short = CapacityError::Short { got: 7, need: 8 };
        assert_eq!(Capacity::parse_10(&bytes[..7]), Err(short));
    }

    #[test]
    fn sixteen() {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&0x1_0000_0000u64.to_be_bytes());
        bytes[8..12].copy_from_slice(&4096u32.to_be_bytes());
        bytes[12] = 0x01;
        bytes[14] = 0x80;
        let capacity = Capacity::parse_16(&bytes).unwrap();
        assert_eq!((capacity.blocks, capacity.block_len), (0x1_0000_0001, 4096));
        assert!(capacity.thin && capacity.protected);
        assert!(!Capacity::parse_16(&bytes[..12]).unwrap().thin);
    }

    #[test]
    fn impossible_answers_are_refused() {
        let answer = |last: u64, block_len: u32| {
            let mut bytes = [0; 12];
            bytes[..8].copy_from_slice(&last.to_be_bytes());
            bytes[8..].copy_from_slice(&block_len.to_be_bytes());
            Capacity::parse_16(&bytes)
        };
        assert_eq!(
            answer(u64::MAX, 512),
            Err(CapacityError::LastBlock(u64::MAX))
        );
        assert!(answer((1 << 51) - 1, 512).is_ok());
        assert_eq!(
            answer(1 << 51, 512),
            Err(CapacityError::TooLarge((1 << 51) + 1))
        );
        assert_eq!(
            answer(u64::MAX - 1, 512),
            Err(CapacityError::TooLarge(u64::MAX))
        );
        for block_len in [0, 256, 520, 528, 3000, 8192, u32::MAX] {
            assert_eq!(
                answer(100, block_len),
                Err(CapacityError::BlockLen(block_len))
            );
        }
    }
}

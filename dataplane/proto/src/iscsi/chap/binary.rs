//! Binary values in text (RFC 7143 6.1): `0x` and hexadecimal digits, or `0b`
//! and base64 (RFC 4648). Not for: numbers.

use arrayvec::ArrayVec;
use std::fmt;

/// Bytes of a value; none if it is empty, malformed, or longer than `N` bytes.
/// A value has one meaning: half a byte and loose bits at the end are malformed.
pub(super) fn decode<const N: usize>(value: &str) -> Option<ArrayVec<u8, N>> {
    let (kind, digits) = value.as_bytes().split_at_checked(2)?;
    let bytes = match kind {
        b"0x" | b"0X" => hexadecimal(digits),
        b"0b" | b"0B" => base64(digits),
        _ => None,
    }?;
    (!bytes.is_empty()).then_some(bytes)
}

fn hexadecimal<const N: usize>(digits: &[u8]) -> Option<ArrayVec<u8, N>> {
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let nibble = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    let mut bytes = ArrayVec::new();
    for [high, low] in pairs {
        bytes.try_push(nibble(*high)? << 4 | nibble(*low)?).ok()?;
    }
    Some(bytes)
}

fn base64<const N: usize>(digits: &[u8]) -> Option<ArrayVec<u8, N>> {
    let (groups, []) = digits.as_chunks::<4>() else {
        return None;
    };
    let mut bytes = ArrayVec::new();
    for (at, group) in groups.iter().enumerate() {
        let padding = match group {
            [_, _, b'=', b'='] => 2,
            [_, _, _, b'='] => 1,
            _ => 0,
        };
        if padding > 0 && at + 1 < groups.len() {
            return None;
        }
        let mut bits = 0_u32;
        for digit in &group[..4 - padding] {
            bits = bits << 6 | u32::from(sextet(*digit)?);
        }
        bits <<= 6 * padding;
        let [_, three @ ..] = bits.to_be_bytes();
        let (kept, loose) = three.split_at(3 - padding);
        if loose.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.try_extend_from_slice(kept).ok()?;
    }
    Some(bytes)
}

const fn sextet(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// Writes bytes as hexadecimal, which every peer reads.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

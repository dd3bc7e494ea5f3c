//! Text keys (RFC 7143 6.1): `key=value`, each ended by a zero byte.
//!
//! What always holds: keys and values handed out are ASCII without control
//! characters and within the RFC's lengths. Not for: what a key means, see
//! `negotiate`.

use std::fmt::{Display, Write as _};

/// Longest key name in bytes (6.1).
const KEY_LEN_MAX: usize = 63;
/// Longest value in bytes: a CHAP challenge of 1024 bytes in hexadecimal
/// (12.1.3). 6.1 asks for 255 in simple values, and lists are far below this.
const VALUE_LEN_MAX: usize = 2 + 2 * 1024;
/// Longest text of one negotiation step, over all PDUs joined with the C bit:
/// 13's keys with the longest names and values need less than a quarter.
pub(super) const TEXT_LEN_MAX: usize = 16 * 1024;
/// Most pairs in one step: four times what RFC 7143 defines.
pub(super) const PAIRS_MAX: usize = 128;

/// The text was not a list of `key=value` pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadText;

/// The pairs of a text, in order.
pub(super) fn pairs(text: &[u8]) -> impl Iterator<Item = Result<(&str, &str), BadText>> {
    text.split(|byte| *byte == 0)
        // Some initiators pad with zeroes; an empty pair says nothing.
        .filter(|pair| !pair.is_empty())
        .map(pair)
}

fn pair(bytes: &[u8]) -> Result<(&str, &str), BadText> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadText)?;
    let (key, value) = text.split_once('=').ok_or(BadText)?;
    let key_ok = (1..=KEY_LEN_MAX).contains(&key.len())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-+@_#".contains(&byte));
    let value_ok = value.len() <= VALUE_LEN_MAX && value.bytes().all(|byte| byte >= b' ');
    if key_ok && value_ok {
        Ok((key, value))
    } else {
        Err(BadText)
    }
}

/// Appends `key=value` and its end.
pub(super) fn push(text: &mut Vec<u8>, key: &str, value: impl Display) {
    let mut pair = String::with_capacity(key.len() + 16);
    write!(pair, "{key}={value}").expect("writing to a String cannot fail");
    text.extend_from_slice(pair.as_bytes());
    text.push(0);
}

/// Adds a PDU's data to a text that may span several.
pub(super) fn append(text: &mut Vec<u8>, bytes: &[u8]) -> Result<(), BadText> {
    if text.len() + bytes.len() > TEXT_LEN_MAX {
        return Err(BadText);
    }
    text.extend_from_slice(bytes);
    Ok(())
}

/// A number as 6.1 writes them: decimal, or hexadecimal after `0x`.
pub(super) fn number(value: &str) -> Option<u32> {
    let hex = value
        .strip_prefix("0x")
        .or_else(|| value.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((value, 10), |digits| (digits, 16));
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_padding() {
        let text = b"A=1\0\0X-b.c=None,CRC32C\0E=\0";
        let all: Result<Vec<_>, _> = pairs(text).collect();
        assert_eq!(
            all.unwrap(),
            [("A", "1"), ("X-b.c", "None,CRC32C"), ("E", "")]
        );
    }

    #[test]
    fn garbage_is_bad_text() {
        let long = [b"k=".as_slice(), &[b'x'; 2051]].concat();
        for text in [
            b"novalue\0".as_slice(),
            b"=v\0",
            b"a b=v\0",
            b"k=\x01\0",
            b"k=\xff\0",
            &long,
        ] {
            assert_eq!(pairs(text).next(), Some(Err(BadText)), "{text:?}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number("8192"), Some(8192));
        assert_eq!(number("0x2000"), Some(8192));
        for bad in ["", "0x", "+5", "-1", "12k", "4294967296"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}

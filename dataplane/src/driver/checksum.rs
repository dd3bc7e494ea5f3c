//! Completes in software the transport checksum that a sender left to its
//! network card, for ports that have no card to ask.
//!
//! Not for verifying, nor for building packets: that is done where the packet
//! is read or built.

/// The marks of a partial checksum point outside of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkOutside;

/// Completes a partial checksum: sums `frame[start..]`, in which the
/// pseudo-header's sum stands at `start + offset`, and stores the complement
/// there (RFC 1071; RFC 768 for the zero of UDP).
///
/// `start` and `offset` are bytes, as in [`sluice_hugepages::pool::Checksum::Partial`].
///
/// # Errors
/// The two bytes at `start + offset` do not lie in the frame; it is unchanged.
pub fn complete(frame: &mut [u8], start: u16, offset: u16) -> Result<(), MarkOutside> {
    let (start, offset) = (usize::from(start), usize::from(offset));
    let covered = frame.get_mut(start..).ok_or(MarkOutside)?;
    if offset + 2 > covered.len() {
        return Err(MarkOutside);
    }
    let sum = match !fold(sum_be(covered)) {
        // Zero means "no checksum" to UDP (RFC 768); TCP takes either form.
        0 => 0xffff,
        sum => sum,
    };
    covered[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// Sum of the 16-bit big-endian words of `bytes`, an odd last byte padded with zero.
fn sum_be(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    // Two 16-bit words a time: their carries meet again in `fold`.
    let sum: u64 = words
        .by_ref()
        .map(|word| u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]])))
        .sum();
    let rest = match *words.remainder() {
        [] => 0,
        [a] => u32::from_be_bytes([a, 0, 0, 0]),
        [a, b] => u32::from_be_bytes([a, b, 0, 0]),
        [a, b, c, ..] => u32::from_be_bytes([a, b, c, 0]),
    };
    sum + u64::from(rest)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the loop ends when the sum fits 16 bits"
)]
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    proptest! {
        #[test]
        fn completed_sums_to_all_ones(mut bytes in prop::collection::vec(any::<u8>(), 20..300), start in 0u16..10) {
            let before = naive(&bytes[usize::from(start)..]);
            complete(&mut bytes, start, 6).unwrap();
            // The field held the pseudo-header's sum; a receiver sums it again with its own.
            let field = usize::from(start) + 6;
            let sum = u16::from_be_bytes([bytes[field], bytes[field + 1]]);
            let expected = match !before { 0 => 0xffff, sum => sum };
            prop_assert_eq!(sum, expected);
        }
    }

    #[test]
    fn marks_outside_change_nothing() {
        let mut bytes = [7u8; 20];
        assert_eq!(complete(&mut bytes, 21, 0), Err(MarkOutside));
        assert_eq!(complete(&mut bytes, 10, 9), Err(MarkOutside));
        assert_eq!(bytes, [7u8; 20]);
        assert_eq!(complete(&mut bytes, 10, 8), Ok(()));
    }
}

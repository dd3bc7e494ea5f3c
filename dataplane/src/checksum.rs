//! The Internet checksum (RFC 1071), its incremental update (RFC 1624), and the
//! completion of one that a sender left to its network card.

/// One's complement sum of `bytes`, folded, not complemented, in host order.
/// An odd last byte counts as the high half of a word.
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    // Summed in the machine's byte order four bytes at a time: the one's
    // complement sum only swaps with the order (RFC 1071 2.B).
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(last));
    u16::from_be(fold(total))
}

/// Copies `from` to `to`, and sums it as [`sum`] does: one pass over bytes that are read
/// once anyway.
///
/// # Panics
/// If they are not of one length.
#[inline]
#[must_use]
pub fn copy_and_sum(from: &[u8], to: &mut [u8]) -> u16 {
    assert_eq!(from.len(), to.len(), "a copy is as long as what it is of");
    let (words, rest) = from.as_chunks::<4>();
    let (to_words, to_rest) = to.as_chunks_mut::<4>();
    let mut total = 0;
    for (to, word) in to_words.iter_mut().zip(words) {
        *to = *word;
        total += u64::from(u32::from_ne_bytes(*word));
    }
    to_rest.copy_from_slice(rest);
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(last));
    u16::from_be(fold(total))
}

/// The sum of bytes of which `a` is the sum of the first `len` and `b` that of the rest:
/// behind an odd number each byte counts as the other half of its word (RFC 1071 2.B).
#[must_use]
pub const fn append(a: u16, len: usize, b: u16) -> u16 {
    add(a, if len & 1 == 0 { b } else { b.swap_bytes() })
}

/// Adds two folded sums.
#[must_use]
pub const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "folding is what truncates, after the carries are in"
)]
const fn fold(total: u64) -> u16 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    total as u16
}

/// Whether a header without options sums to all ones, its checksum included.
#[inline]
#[must_use]
pub fn short_header_valid(header: &[u8; 20]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let total: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum();
    fold(total) == 0xffff
}

/// The checksum of a header in which one word went from `old` to `new`
/// (RFC 1624 equation 3; never turns 0x0000 into 0xffff by mistake).
#[inline]
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !add(add(!checksum, !old), new)
}

/// Writes the checksum of an IPv4 header into it.
///
/// # Panics
/// If `header` is shorter than 20 bytes.
pub fn fill_ipv4(header: &mut [u8]) {
    header[10..12].copy_from_slice(&[0, 0]);
    let checksum = !sum(header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// The marks of a partial checksum point outside of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkOutside;

/// Completes a partial checksum: sums `bytes[start..]`, in which the
/// pseudo-header's sum stands at `start + offset`, and stores the complement
/// there (RFC 1071; RFC 768 for the zero of UDP).
///
/// `start` and `offset` are bytes, as in [`sluice_hugepages::pool::Checksum::Partial`].
///
/// # Errors
/// The two bytes at `start + offset` do not lie in `bytes`; it is unchanged.
pub fn complete(bytes: &mut [u8], start: u16, offset: u16) -> Result<(), MarkOutside> {
    let covered = bytes.get_mut(usize::from(start)..).ok_or(MarkOutside)?;
    let checksum = !sum(covered);
    let field = covered
        .get_mut(usize::from(offset)..usize::from(offset) + 2)
        .ok_or(MarkOutside)?;
    // RFC 768: a UDP checksum that computes to zero is sent as all ones; for
    // TCP both are the same number.
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    field.copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 written down word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        u16::try_from(total).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
    }

    #[test]
    fn the_example_of_rfc_1624() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn sum_is_the_word_by_word_sum(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(sum(&bytes), naive(&bytes));
        }

        #[test]
        fn a_copy_in_pieces_has_the_plain_sum(bytes in proptest::collection::vec(any::<u8>(), 0..300), cuts in proptest::collection::vec(0usize..300, 0..4)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut copy = vec![0; bytes.len()];
            let mut total = 0;
            for cut in cuts.windows(2) {
                let piece = cut[0]..cut[1];
                let sum = copy_and_sum(&bytes[piece.clone()], &mut copy[piece]);
                total = append(total, cut[0], sum);
            }
            prop_assert_eq!(total, naive(&bytes));
            prop_assert_eq!(copy, bytes);
        }

        #[test]
        fn update_is_the_full_recomputation(mut header in any::<[u8; 20]>(), at in 0usize..9, new: u16) {
            // A real header never sums to zero: its version is 4.
            header[0] = 0x45;
            let at = if at < 5 { at } else { at + 1 } * 2;
            fill_ipv4(&mut header);
            prop_assert!(short_header_valid(&header));
            let new = if at == 0 { 0x4500 | (new & 0xff) } else { new };
            let old = u16::from_be_bytes([header[at], header[at + 1]]);
            let checksum = u16::from_be_bytes([header[10], header[11]]);
            let updated = update(checksum, old, new);
            header[at..at + 2].copy_from_slice(&new.to_be_bytes());
            fill_ipv4(&mut header);
            prop_assert_eq!(updated, u16::from_be_bytes([header[10], header[11]]));
        }
    }
    proptest! {
        #[test]
        fn completed_sums_to_all_ones(mut bytes in proptest::collection::vec(any::<u8>(), 20..300), start in 0u16..10) {
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

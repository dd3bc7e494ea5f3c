//! Vital product data that the relay reads or changes while it passes through:
//! the Block Limits page (SBC-4, Block Limits VPD page).

use super::{be16, be32, opcode};

/// Page code of the Block Limits page.
pub const BLOCK_LIMITS: u8 = 0xB0;

/// The VPD page that this CDB asks for; `None` if it is not an INQUIRY with
/// EVPD set.
#[must_use]
pub fn requested_page(cdb: &[u8]) -> Option<u8> {
    match *cdb {
        [opcode::INQUIRY, flags, page, ..] if flags & 0x01 != 0 => Some(page),
        _ => None,
    }
}

/// INQUIRY for the Block Limits page (SPC-5).
#[must_use]
pub fn block_limits_cdb(allocation_len: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[2]) = (opcode::INQUIRY, 0x01, BLOCK_LIMITS);
    cdb[3..5].copy_from_slice(&allocation_len.to_be_bytes());
    cdb
}

/// Blocks that a transfer may have by a Block Limits page: MAXIMUM TRANSFER LENGTH, and
/// OPTIMAL TRANSFER LENGTH, beyond which the unit may be slow. `None`: it names no limit.
#[must_use]
pub fn transfer_blocks_max(page: &[u8]) -> Option<u32> {
    let listed = be16(page, 2).map_or(0, |len| usize::from(len) + 4);
    let limit = |at: usize| be32(page, at).filter(|&blocks| blocks > 0 && listed >= at + 4);
    if page.get(1) != Some(&BLOCK_LIMITS) {
        return None;
    }
    limit(8).into_iter().chain(limit(12)).min()
}

/// Caps MAXIMUM TRANSFER LENGTH at `bytes_max`, the largest write that the
/// relay takes as one, where the storage says more or says nothing (zero), and
/// OPTIMAL TRANSFER LENGTH and MAXIMUM COMPARE AND WRITE LENGTH (which brings
/// its blocks twice) with it. Bytes cut off by the allocation length are left alone. Returns whether anything changed; not a Block Limits page: no.
///
/// # Panics
/// If `block_len` is zero.
pub fn cap_block_limits(page: &mut [u8], block_len: u32, bytes_max: u32) -> bool {
    let is_block_limits = page.get(1) == Some(&BLOCK_LIMITS);
    // PAGE LENGTH counts from byte 4; a page that ends before the field has none.
    let has_field = be16(page, 2).is_some_and(|len| len >= 8);
    if !is_block_limits || !has_field {
        return false;
    }
    let blocks_max = bytes_max / block_len;
    let mut changed = false;
    let compare_max = u8::try_from(blocks_max / 2).unwrap_or(u8::MAX);
    if let Some(compare) = page.get_mut(5).filter(|blocks| **blocks > compare_max) {
        *compare = compare_max;
        changed = true;
    }
    // Zero means "no limit" in the first field and "not reported" in the second.
    for (at, none_is_unlimited) in [(8, true), (12, false)] {
        let Some(blocks) = be32(page, at) else {
            continue;
        };
        if blocks > blocks_max || (blocks == 0 && none_is_unlimited) {
            page[at..at + 4].copy_from_slice(&blocks_max.to_be_bytes());
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(maximum: u32, optimal: u32) -> [u8; 64] {
        let mut page = [0; 64];
        page[1] = BLOCK_LIMITS;
        page[3] = 0x3C;
        page[8..12].copy_from_slice(&maximum.to_be_bytes());
        page[12..16].copy_from_slice(&optimal.to_be_bytes());
        page
    }

    #[test]
    fn the_longest_transfer_is_the_lower_of_two() {
        let mut page = [0; 64];
        (page[1], page[3]) = (BLOCK_LIMITS, 60);
        assert_eq!(transfer_blocks_max(&page), None, "it names none");
        page[8..12].copy_from_slice(&2048_u32.to_be_bytes());
        assert_eq!(transfer_blocks_max(&page), Some(2048));
        page[12..16].copy_from_slice(&128_u32.to_be_bytes());
        assert_eq!(transfer_blocks_max(&page), Some(128));
        assert_eq!(transfer_blocks_max(&page[..12]), Some(2048), "cut off");
        page[3] = 4;
        assert_eq!(transfer_blocks_max(&page), None, "older, shorter pages");
        page[1] = 0xB1;
        assert_eq!(transfer_blocks_max(&page), None, "another page");
        assert_eq!(requested_page(&block_limits_cdb(64)), Some(BLOCK_LIMITS));
    }

    #[test]
    fn larger_or_missing_limits_are_capped() {
        const MAX: u32 = 8 << 20;
        for (before, after) in [((0, 0), (16384, 0)), ((65536, 32768), (16384, 16384))] {
            let mut bytes = page(before.0, before.1);
            assert!(cap_block_limits(&mut bytes, 512, MAX));
            assert_eq!(bytes, page(after.0, after.1));
        }
        let mut small = page(128, 64);
        assert!(!cap_block_limits(&mut small, 512, MAX));
        assert_eq!(small, page(128, 64));
        // COMPARE AND WRITE brings what is there and what is to be.
        small[5] = 255;
        assert!(!cap_block_limits(&mut small, 512, MAX));
        assert!(cap_block_limits(&mut small, 4096, 1 << 20));
        assert_eq!(small[5], 128);
    }

    #[test]
    fn only_the_page_and_only_what_is_there() {
        let mut other = page(0, 0);
        other[1] = 0xB1;
        assert!(!cap_block_limits(&mut other, 512, 1 << 20));
        for len in 0..12 {
            assert!(
                !cap_block_limits(&mut page(0, 0)[..len], 512, 1 << 20),
                "{len} bytes"
            );
        }
        assert_eq!(
            requested_page(&[0x12, 1, 0xB0, 0, 64, 0]),
            Some(BLOCK_LIMITS)
        );
        assert_eq!(requested_page(&[0x12, 0, 0, 0, 64, 0]), None);
        assert_eq!(requested_page(&[0x12]), None);
    }
}

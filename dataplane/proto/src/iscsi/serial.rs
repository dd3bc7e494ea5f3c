//! Serial number arithmetic over 32 bits (RFC 1982, as RFC 7143 4.2.2 asks):
//! CmdSN, StatSN and DataSN wrap, so "less" is a question of distance.

/// Whether `a` comes after `b`.
pub(super) const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use super::after;

    #[test]
    fn order_survives_the_wrap() {
        assert!(after(1, 0) && !after(0, 1) && !after(7, 7));
        assert!(after(0, u32::MAX) && after(5, u32::MAX - 5));
        assert!(!after(u32::MAX, 0));
    }
}

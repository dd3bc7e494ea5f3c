//! How LUNs name units (SAM-5).

/// The number of a single-level LUN by the peripheral or the flat space method
/// (SAM-5 4.7.7); `None` for every other.
#[must_use]
pub fn lun_number(lun: u64) -> Option<u64> {
    let first = lun >> 48;
    if lun & ((1 << 48) - 1) != 0 {
        return None;
    }
    match first >> 14 {
        0 if first < 256 => Some(first),
        1 => Some(first & 0x3fff),
        _ => None,
    }
}

/// Whether two LUNs name one logical unit: storages take both methods.
#[must_use]
pub fn same_lun(a: u64, b: u64) -> bool {
    a == b || lun_number(a).is_some_and(|number| lun_number(b) == Some(number))
}

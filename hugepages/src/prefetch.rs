//! Asking for a cache line before it is needed.
//!
//! What always holds: a hint changes nothing but time, so it is safe for any
//! address. Not for: waiting for anything.

/// Asks for the first cache line of `item`, soon to be read.
#[inline]
pub fn prefetch<T>(item: &T) {
    prefetch_at(std::ptr::from_ref(item).cast());
}

/// As [`prefetch`], for what is known by its place only.
#[inline]
pub(crate) fn prefetch_at(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction reads nothing for the program and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

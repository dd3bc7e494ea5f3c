//! The seed that makes smoltcp choose a given initial sequence number.
//!
//! smoltcp takes a connection's ISN from a generator that is not
//! cryptographic, seeded per interface. A flow has an interface of its own,
//! and its ISN is the second number drawn, after an IPv4 identification that
//! is drawn again while it is zero. The generator's step can be inverted, so
//! the seed is chosen for the ISN that RFC 6528 wants. Should the
//! generator ever change, the ISN remains a function of a keyed hash, and the
//! check at the end of every handshake ([`super::handshake`]) says so.

/// smoltcp's generator is sPCG32: `s = seed * MULTIPLIER + INCREMENT`, of
/// which it shows 32 bits from bit `29 - (s >> 61)` up.
const MULTIPLIER: u64 = 0xbb2e_fcec_3c39_611d;
const INCREMENT: u64 = 0x7590_ef39;

/// Inverse of the multiplier modulo 2^64. Every Newton step doubles the bits
/// that are right; an odd number is its own inverse in three.
const INVERSE: u64 = {
    let mut inverse = MULTIPLIER;
    let mut bits = 3;
    while bits < 64 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(MULTIPLIER.wrapping_mul(inverse)));
        bits *= 2;
    }
    inverse
};

/// The seed whose second number is `isn`.
#[expect(clippy::cast_possible_truncation, reason = "as the generator does")]
pub(super) const fn seed_for(isn: u32) -> u64 {
    let mut below = 0;
    loop {
        // With the three top bits zero, what is shown begins at bit 29.
        let second = (isn as u64) << 29 | below;
        let first = before(second);
        let shown = (first >> (29 - (first >> 61))) as u32;
        if (shown ^ shown >> 16) as u16 != 0 {
            return before(first);
        }
        below += 1;
    }
}

/// The state from which a step leads to `state`.
const fn before(state: u64) -> u64 {
    state.wrapping_sub(INCREMENT).wrapping_mul(INVERSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_inverted() {
        assert_eq!(MULTIPLIER.wrapping_mul(INVERSE), 1);
        for isn in [0, 1, 0x8000_0000, u32::MAX] {
            let step = |state: u64| state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
            let state = step(step(seed_for(isn)));
            assert_eq!(state >> 61, 0);
            assert_eq!(u32::try_from(state >> 29).unwrap(), isn);
        }
    }
}

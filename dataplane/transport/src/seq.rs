//! Sequence numbers: 32 bits on the wire, 64 bits within.
//!
//! What always holds: past the room that reads segments nothing is compared modulo
//! 2^32. Every direction has a [`Space`], which turns a number of the wire into an
//! *offset*, the nearest one to a place that is known. An offset never wraps, so `<`
//! means what it says.
//!
//! Not for: whether a number is acceptable (the connection).

/// A sequence or acknowledgement number as it is on the wire (RFC 9293, 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    #[must_use]
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// How far this is behind `earlier`; negative if it lies before it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }
}

/// Where the SYN stands. Not 0, so that what a peer says of before it has an offset, too.
pub const SYN_AT: u64 = 1 << 32;

/// Where the first byte of data stands.
pub const DATA_AT: u64 = SYN_AT + 1;

/// The sequence space of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    isn: Seq,
}

impl Space {
    #[must_use]
    pub const fn new(isn: Seq) -> Self {
        Self { isn }
    }

    #[must_use]
    pub const fn wire(self, offset: u64) -> Seq {
        // The low half of an offset is its distance from the SYN modulo 2^32.
        self.isn.plus(low_half(offset.wrapping_sub(SYN_AT)))
    }

    /// The offset of `seq` that is nearest to `near`: no window is larger than 2^30
    /// (RFC 7323, 2.3), so there is no doubt which.
    #[must_use]
    pub const fn offset(self, near: u64, seq: Seq) -> u64 {
        near.wrapping_add_signed(seq.since(self.wire(near)) as i64)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
const fn low_half(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_wrap_and_offsets_do_not() {
        let space = Space::new(Seq(u32::MAX - 1));
        assert_eq!(space.wire(SYN_AT), Seq(u32::MAX - 1));
        assert_eq!(space.wire(DATA_AT), Seq(u32::MAX));
        assert_eq!(space.wire(DATA_AT + 1), Seq(0));
        let far = DATA_AT + (7 << 32) + 12;
        for near in [far - (1 << 30), far, far + (1 << 30)] {
            assert_eq!(space.offset(near, space.wire(far)), far);
        }
    }

    #[test]
    fn what_lies_before_the_syn_has_an_offset() {
        let space = Space::new(Seq(5));
        assert_eq!(space.offset(DATA_AT, Seq(4)), SYN_AT - 1);
        assert_eq!(Seq(2).since(Seq(u32::MAX)), 3);
        assert_eq!(Seq(u32::MAX).since(Seq(2)), -3);
    }
}

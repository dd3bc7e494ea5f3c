//! A segment's header as the connection sees it.
//!
//! What always holds: a [`Segment`] is plain `Copy` data without ports and addresses;
//! whose segment it is, the flow table knows.
//!
//! Not for: bytes ([`crate::wire`]), or what a segment means ([`crate::connection`]).

use crate::seq::Seq;
use std::ops::BitOr;

/// The control bits that TCP of today uses (RFC 9293, 3.1; RFC 3168, 6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    pub const NONE: Self = Self(0);
    pub const FIN: Self = Self(0x01);
    pub const SYN: Self = Self(0x02);
    pub const RST: Self = Self(0x04);
    pub const PSH: Self = Self(0x08);
    pub const ACK: Self = Self(0x10);
    pub const ECE: Self = Self(0x40);
    pub const CWR: Self = Self(0x80);

    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The timestamps option (RFC 7323, 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    pub value: u32,
    pub echo: u32,
}

/// Most blocks of a SACK option: 40 bytes of options hold four, three with timestamps
/// (RFC 2018, 3).
pub const SACK_BLOCKS_MAX: usize = 4;

/// The blocks of a SACK option, in the order of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [(Seq, Seq); SACK_BLOCKS_MAX],
    len: u8,
}

impl SackBlocks {
    /// Adds a block, if there is room.
    pub fn push(&mut self, left: Seq, right: Seq) {
        if let Some(slot) = self.blocks.get_mut(usize::from(self.len)) {
            *slot = (left, right);
            self.len += 1;
        }
    }

    #[must_use]
    pub fn as_slice(&self) -> &[(Seq, Seq)] {
        &self.blocks[..usize::from(self.len)]
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub mss: Option<u16>,
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    pub timestamp: Option<Timestamp>,
    pub sack: SackBlocks,
    /// The user timeout option (RFC 5482), in seconds.
    pub user_timeout_s: Option<u32>,
}

impl Options {
    /// Bytes they take in a header, with padding.
    #[must_use]
    pub fn len(&self) -> usize {
        let plain = usize::from(self.mss.is_some()) * 4
            + usize::from(self.window_scale.is_some()) * 3
            + usize::from(self.sack_permitted) * 2
            + usize::from(self.timestamp.is_some()) * self.timestamp_len()
            + usize::from(self.user_timeout_s.is_some()) * 4;
        let sack = match self.sack.as_slice().len() {
            0 => 0,
            // Two of padding go before it.
            blocks => 4 + 8 * blocks,
        };
        (plain + sack).next_multiple_of(4)
    }

    /// The timestamps option with what goes before it: padding to where peers look for it
    /// first (RFC 7323, appendix A), or the option of a SYN that fills the place.
    pub(crate) const fn timestamp_len(&self) -> usize {
        if self.sack_permitted { 10 } else { 12 }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A segment without its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub seq: Seq,
    /// Means something with [`Flags::ACK`] only.
    pub ack: Seq,
    pub flags: Flags,
    /// As on the wire: unscaled.
    pub window: u16,
    pub options: Options,
}

impl Segment {
    /// The header of the part of a burst that begins `at` bytes into it, as segmentation
    /// offload writes it (see [`crate::Emit::emit`]).
    #[must_use]
    pub fn of_burst(mut self, at: u32, is_last: bool) -> Self {
        self.seq = self.seq.plus(at);
        if !is_last {
            self.flags = self.flags.without(Flags::FIN | Flags::PSH);
        }
        if at > 0 {
            self.flags = self.flags.without(Flags::CWR);
        }
        self
    }
}

/// The ECN field of the IP header (RFC 3168, 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpEcn {
    #[default]
    NotCapable,
    /// ECT(0) or ECT(1).
    Capable,
    /// CE: a router on the path is congested.
    Congested,
}

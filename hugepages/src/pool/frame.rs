//! What moves through the data plane: frames and bursts of them.
//!
//! What always holds: a [`Frame`] is a handle that is not cloned, so that its
//! buffer has one holder. Not for: the memory itself ([`super::Pool`]).

use arrayvec::ArrayVec;

/// Most packets a port hands over or takes in one call.
pub const BURST_LEN: usize = 64;
/// Room kept in front of a packet that the relay itself makes (link header, alignment).
pub const HEADROOM: usize = 64;

/// A buffer of the frame memory, by the index of its first 4 KiB frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufId(pub u32);

/// What the sender of a frame left for the receiver to complete, as in
/// `struct virtio_net_hdr` (offsets from the first byte of the frame's data).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Complete in the packet, not verified by anyone on the way.
    #[default]
    InPacket,
    /// The port says that the transport checksum was verified.
    Verified,
    /// A pseudo-header sum stands in the packet; to be completed from `start`, stored at `start + offset`.
    Partial { start: u16, offset: u16 },
}

/// A packet larger than its link's MTU, to be cut by whoever sends it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Payload bytes a segment.
    pub size: u16,
    /// Link, IP and transport header bytes, repeated in front of each segment.
    pub header_len: u16,
    pub kind: GsoKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    TcpV4,
    TcpV6,
    UdpL4,
}

/// Where a packet goes on behind its first buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// In the next buffer of a chain.
    Buffer(BufId),
    /// In pieces of frames that are kept, by the number of their list ([`Pool::gather`](super::Pool::gather)).
    Gathered(u16),
}

/// A received or outgoing packet: one buffer, a chain of them, or one and pieces of frames that are kept.
///
/// A frame is a handle: whoever holds it owns the buffer, and must hand it on
/// or give it back with [`Pool::release`](super::Pool::release).
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub buf: BufId,
    /// First byte of the packet (its link header) in the buffer.
    pub offset: u16,
    /// Bytes of the packet in this buffer (64 KiB GSO frames need more than 16 bits).
    pub len: u32,
    /// What of the packet is not in this buffer.
    pub next: Option<Next>,
    /// The worker whose lists the buffer belongs to.
    pub home: u8,
    pub checksum: Checksum,
    pub gso: Option<Gso>,
}

/// Up to [`BURST_LEN`] frames.
pub type Burst = ArrayVec<Frame, BURST_LEN>;

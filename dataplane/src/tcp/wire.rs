//! What a flow's smoltcp stack takes for its network device.
//!
//! Receiving and sending are separate devices, since smoltcp answers at most
//! one segment without payload while it receives, and all else can wait until
//! whoever reads the stream has had its turn: acknowledgements then ride on
//! what it sends. A received packet is read where it lies. Packets are
//! written straight into frames of the pool, [`HEADROOM`] bytes in; when the
//! pool has none, smoltcp is told before it changes anything.

use sluice_hugepages::pool::{Checksum, FRAME_LEN, Frame, Gso, GsoKind, HEADROOM, PAGE_LEN, Pool};
use smoltcp::phy::{
    self, Checksum as Verify, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta,
};
use smoltcp::time::Instant;
use smoltcp::wire::{Ipv4Packet, TcpPacket};
use std::num::NonZeroUsize;

use super::segment::{
    CONTROL_LEN_MAX, IPV4_HEADER_LEN, PARTIAL, TCP_HEADER_LEN, fill_checksum,
    leave_partial_checksum, sequence,
};

const HEADERS_LEN: usize = IPV4_HEADER_LEN + TCP_HEADER_LEN;
/// The longest packet that a frame of the pool holds behind its headroom.
pub(super) const FRAME_ROOM: usize = FRAME_LEN - HEADROOM;

/// What smoltcp is told about a flow's way out.
///
/// TCP checksums are this room's (or the port's), both ways. With `gso` it
/// writes segments of up to 64 KiB.
pub(super) fn capabilities(mtu: u16, gso: bool) -> DeviceCapabilities {
    let mtu = usize::from(mtu);
    let mut checksum = ChecksumCapabilities::ignored();
    checksum.ipv4 = Verify::Tx;
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = mtu;
    capabilities.checksum = checksum;
    if gso {
        // Whole segments only, so that no small one stands in mid-stream.
        let mss = mtu - HEADERS_LEN;
        let segments = (PAGE_LEN - HEADROOM - HEADERS_LEN) / mss;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(HEADERS_LEN + segments * mss);
    }
    capabilities
}

/// Sequence numbers of a segment that went out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// The number after its last.
    pub end: u32,
    pub ack: Option<u32>,
    pub window: u16,
    pub syn: bool,
}

impl Sent {
    fn read(packet: &[u8]) -> Self {
        let tcp = TcpPacket::new_unchecked(&packet[IPV4_HEADER_LEN..]);
        let payload_len = packet.len() - IPV4_HEADER_LEN - usize::from(tcp.header_len());
        let len = u32::try_from(payload_len).expect("a packet is below 64 KiB");
        let len = len + u32::from(tcp.syn()) + u32::from(tcp.fin());
        Self {
            end: sequence(tcp.seq_number()).wrapping_add(len),
            ack: tcp.ack().then(|| sequence(tcp.ack_number())),
            window: tcp.window_len(),
            syn: tcp.syn(),
        }
    }
}

/// A segment without payload on its way out.
#[derive(Debug)]
pub(super) struct Reply {
    pub bytes: [u8; CONTROL_LEN_MAX],
    /// Zero: there is none.
    pub len: usize,
}

impl Reply {
    pub const fn none() -> Self {
        Self {
            bytes: [0; CONTROL_LEN_MAX],
            len: 0,
        }
    }

    pub fn packet(&self) -> Option<&[u8]> {
        (self.len > 0).then(|| &self.bytes[..self.len])
    }

    pub fn sent(&self) -> Option<Sent> {
        self.packet().map(Sent::read)
    }
}

/// The device that hands over one packet, and takes one segment without
/// payload: what smoltcp answers at once, or a SYN-ACK that is not to be sent.
#[derive(Debug)]
pub(super) struct Ingress<'a> {
    pub packet: Option<&'a [u8]>,
    pub reply: &'a mut Reply,
    pub capabilities: &'a DeviceCapabilities,
}

impl Device for Ingress<'_> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = &'t mut Reply
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, &mut Reply)> {
        Some((Received(self.packet.take()?), self.reply))
    }

    fn transmit(&mut self, _now: Instant) -> Option<&mut Reply> {
        Some(self.reply)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

#[derive(Debug)]
pub(super) struct Received<'a>(&'a [u8]);

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl phy::TxToken for &mut Reply {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        // What smoltcp answers while it receives carries no payload.
        self.len = len;
        write(&mut self.bytes[..len])
    }
}

/// The device that takes packets into frames of the pool.
#[derive(Debug)]
pub(super) struct Egress<'a> {
    pub pool: &'a mut Pool,
    out: &'a mut Vec<Frame>,
    /// A frame and a page in hand: smoltcp must know that there is room
    /// before it says how much it wants.
    frame: Option<Frame>,
    page: Option<Frame>,
    /// Whether the flow whose turn it is may write more than a frame holds.
    pub long: bool,
    /// Whether the port completes that flow's checksums.
    pub partial: bool,
    /// The pool had nothing left.
    pub exhausted: bool,
    /// Packets for which the pool had no frame though it was thought to have.
    pub lost: u64,
    /// The last packet of the flow whose turn it is.
    pub sent: Option<Sent>,
}

impl<'a> Egress<'a> {
    pub fn new(pool: &'a mut Pool, out: &'a mut Vec<Frame>) -> Self {
        Self {
            pool,
            out,
            frame: None,
            page: None,
            long: false,
            partial: false,
            exhausted: false,
            lost: 0,
            sent: None,
        }
    }

    /// Takes a packet that is written.
    pub fn push(&mut self, frame: Frame) {
        self.out.push(frame);
    }

    /// Gives back the room that was not used.
    pub fn finish(self) {
        for spare in [self.frame, self.page].into_iter().flatten() {
            self.pool.release(spare);
        }
    }
}

impl Device for Egress<'_> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Slot<'t>
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Slot<'_>)> {
        None
    }

    fn transmit(&mut self, _now: Instant) -> Option<Slot<'_>> {
        if self.frame.is_none() {
            self.frame = self.pool.alloc_frame();
        }
        if self.long && self.page.is_none() {
            self.page = self.pool.alloc_page_frame();
        }
        if self.frame.is_none() || (self.long && self.page.is_none()) {
            self.exhausted = true;
            return None;
        }
        let Self {
            pool,
            out,
            frame,
            page,
            partial,
            sent,
            ..
        } = self;
        Some(Slot {
            pool,
            out,
            frame,
            page,
            partial: *partial,
            sent,
            meta: PacketMeta::default(),
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        // smoltcp goes by what the interface was made with.
        capabilities(1500, false)
    }
}

/// Room for one packet.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    pool: &'a mut Pool,
    out: &'a mut Vec<Frame>,
    frame: &'a mut Option<Frame>,
    page: &'a mut Option<Frame>,
    partial: bool,
    sent: &'a mut Option<Sent>,
    meta: PacketMeta,
}

impl phy::TxToken for Slot<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let spare = if len <= FRAME_ROOM {
            self.frame
        } else {
            self.page
        };
        let mut frame = spare
            .take()
            .expect("transmit saw to both, or the flow writes short packets");
        let packet = &mut self.pool.buffer_mut(&frame)[HEADROOM..HEADROOM + len];
        let result = write(packet);
        if self.partial {
            leave_partial_checksum(packet);
            let [start, offset] = PARTIAL;
            frame.checksum = Checksum::Partial { start, offset };
        } else {
            fill_checksum(packet);
        }
        if let Some(size) = self.meta.segmentation_offload_size {
            let tcp_len = TcpPacket::new_unchecked(&packet[IPV4_HEADER_LEN..]).header_len();
            let header_len = Ipv4Packet::new_unchecked(&*packet).header_len() + tcp_len;
            frame.gso = Some(Gso {
                size: size.get(),
                header_len: u16::from(header_len),
                kind: GsoKind::TcpV4,
            });
        }
        *self.sent = Some(Sent::read(packet));
        frame.offset = u16::try_from(HEADROOM).expect("a small constant");
        frame.len = u32::try_from(len).expect("a packet is below 64 KiB");
        self.out.push(frame);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}

//! A transport's segments as packets in frames of the pool.

use sluice_hugepages::pool::{Checksum, Frame, Gso, GsoKind, HEADROOM, PAGE_LEN};
use sluice_transport::send_buffer::Pieces;
use sluice_transport::{Emit, IpEcn, Segment, wire};
use smoltcp::wire::{IpProtocol, Ipv4Packet};

use super::chain::Chain;
use super::keyed::FourTuple;
use super::segment::{IPV4_HEADER_LEN, PARTIAL, finish_checksum, leave_partial_checksum};
use super::wire::{Egress, FRAME_ROOM};

/// The longest packet that a page holds; an IPv4 packet is below 64 KiB anyway.
const PAGE_ROOM: usize = PAGE_LEN - HEADROOM;
/// Payload below this is copied also where it could be lent: that costs no more, and a port
/// has fewer parts to send.
const LENT_LEN_MIN: usize = 1024;

pub(super) struct Emitter<'a, 'b> {
    pub chain: &'a Chain,
    /// The port cuts bursts into segments and completes checksums.
    pub gso: bool,
    pub tuple: &'a FourTuple,
    pub device: &'a mut Egress<'b>,
}

/// Payload of one packet, by the stream's positions.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: u64,
    len: usize,
    /// The payload of each segment, if the port is to cut it.
    cut: Option<u16>,
}

impl Emit<u64> for Emitter<'_, '_> {
    fn emit(
        &mut self,
        segment: &Segment,
        ecn: IpEcn,
        segment_size: Option<u16>,
        payload: Pieces<'_, u64>,
    ) {
        let total = payload.len() as usize;
        let start = payload
            .clone()
            .next()
            .map_or(0, |piece| piece.frame + u64::from(piece.at));
        let size = segment_size.map_or(total.max(1), usize::from);
        let mut done = 0;
        loop {
            let rest = total - done;
            let from = start + done as u64;
            let burst =
                rest.min((PAGE_ROOM - IPV4_HEADER_LEN - wire::HEADER_LEN_MAX) / size * size);
            let room = (self.gso && rest > size)
                .then(|| self.room(from, burst))
                .flatten();
            // Without room for it, the burst goes one by one.
            let len = if room.is_some() {
                burst
            } else {
                rest.min(size)
            };
            let at = u32::try_from(done).expect("a burst is short");
            let segment = segment.of_burst(at, done + len >= total);
            let part = Part {
                start: from,
                len,
                cut: segment_size.filter(|_| room.is_some() && len > size),
            };
            self.packet(&segment, ecn, part, room);
            done += len;
            if done >= total {
                return;
            }
        }
    }
}

impl Emitter<'_, '_> {
    /// A buffer for a packet of `len` bytes from `position` on. Where the port sums, they may
    /// be lent by the chain, and follow it already.
    fn room(&mut self, position: u64, len: usize) -> Option<Frame> {
        let pool = &mut *self.device.pool;
        let fits = IPV4_HEADER_LEN + wire::HEADER_LEN_MAX + len <= FRAME_ROOM;
        if !self.gso || len < LENT_LEN_MIN {
            return if fits {
                pool.alloc_frame()
            } else {
                pool.alloc_page_frame()
            };
        }
        let mut frame = pool.alloc_frame()?;
        if self.chain.lend(pool, &mut frame, position, len) || fits {
            return Some(frame);
        }
        pool.release(frame);
        pool.alloc_page_frame()
    }

    /// A packet for which there is no frame is lost, as on any full queue; the caller saw
    /// to it that there are enough.
    fn packet(&mut self, segment: &Segment, ecn: IpEcn, part: Part, room: Option<Frame>) {
        let headers_len = IPV4_HEADER_LEN + wire::HEADER_LEN + segment.options.len();
        let packet_len = headers_len + part.len;
        let Some(mut frame) = room.or_else(|| self.room(part.start, part.len)) else {
            self.device.lost += 1;
            return;
        };
        let is_lent = frame.next.is_some();
        let len = if is_lent { headers_len } else { packet_len };
        let pool = &mut *self.device.pool;
        let packet = &mut pool.buffer_mut(&frame)[HEADROOM..HEADROOM + len];
        let tcp = &mut packet[IPV4_HEADER_LEN..];
        let FourTuple { local, remote } = self.tuple;
        let header_len = wire::write(segment, local.port(), remote.port(), tcp);
        let payload = &mut tcp[header_len..];
        let sum = if payload.is_empty() {
            0
        } else if self.gso {
            self.chain.copy(part.start, payload);
            0
        } else {
            self.chain.copy_and_sum(part.start, payload)
        };
        let mut ipv4 = Ipv4Packet::new_unchecked(&mut *packet);
        ipv4.set_version(4);
        ipv4.set_header_len(u8::try_from(IPV4_HEADER_LEN).expect("20"));
        ipv4.set_dscp(0);
        ipv4.set_ecn(match ecn {
            IpEcn::NotCapable => 0,
            IpEcn::Capable => 2,
            IpEcn::Congested => 3,
        });
        ipv4.set_total_len(u16::try_from(packet_len).expect("a packet is below 64 KiB"));
        ipv4.set_ident(0);
        ipv4.clear_flags();
        ipv4.set_dont_frag(true);
        ipv4.set_frag_offset(0);
        ipv4.set_hop_limit(64);
        ipv4.set_next_header(IpProtocol::Tcp);
        ipv4.set_src_addr(*local.ip());
        ipv4.set_dst_addr(*remote.ip());
        ipv4.fill_checksum();
        if self.gso {
            leave_partial_checksum(packet);
            let [start, offset] = PARTIAL;
            frame.checksum = Checksum::Partial { start, offset };
        } else {
            finish_checksum(packet, IPV4_HEADER_LEN + header_len, sum);
        }
        frame.gso = part.cut.map(|size| Gso {
            size,
            header_len: u16::try_from(IPV4_HEADER_LEN + header_len).expect("at most 80"),
            kind: GsoKind::TcpV4,
        });
        pool.set(&mut frame, HEADROOM, len);
        self.device.push(frame);
    }
}

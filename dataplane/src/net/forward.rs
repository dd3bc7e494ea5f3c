//! Sending a packet on: time to live, MTU, fragments, and the errors told to
//! its source (RFC 1812 5.2, 5.3).

use std::net::Ipv4Addr;

use sluice_hugepages::pool::{Frame, GsoKind, HEADROOM, Pool};
use sluice_proto::Time;

use super::drops::Drop;
use super::ethernet::ETHERNET_LEN;
use super::fib::NextHopId;
use super::frame::{self, complete_checksum, push_link, set_len, trim};
use super::icmp::{self, IcmpError};
use super::ipv4::{IPV4_LEN, Ipv4Header, Options, TcpHeader};
use super::neighbour::Slot;
use super::router::{NextHop, Router, Step};
use super::tx::TxQueues;
use crate::checksum;

/// Who made a packet, and so who hears of its failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Its source, by ICMP.
    Routed,
    /// Nobody: the relay's own (which may bear a storage's address, so an
    /// error would go to the storage).
    Own,
}

impl Router {
    /// Sends a routed packet to its next hop, or tells its source why not.
    ///
    /// Here is only what nearly every packet is: it fits, and its neighbour is
    /// known. All else is [`Router::forward_slow`]'s, which needs none of this
    /// to be right.
    #[inline]
    pub(super) fn forward(
        &mut self,
        step: &mut Step<'_>,
        mut frame: Frame,
        header: &Ipv4Header,
        next_hop: NextHopId,
    ) {
        let hop = &self.next_hops[usize::from(next_hop.0)];
        let neighbour = match hop.gateway {
            Some((_, slot)) => Some(self.neighbours.get(slot)),
            None => self
                .neighbours
                .find(hop.port, Ipv4Addr::from_bits(header.destination))
                .map(|slot| self.neighbours.get(slot)),
        };
        // An unused next hop has MTU 0, so no route is one of the slow cases too.
        let plain = header.ttl > 1 && header.total_len <= hop.mtu && step.tx.has_room(hop.port);
        let (Some(neighbour), true) = (neighbour.filter(|neighbour| neighbour.ready()), plain)
        else {
            self.forward_slow(step, frame, header, next_hop);
            return;
        };
        let head: &mut [u8; ETHERNET_LEN + IPV4_LEN] = step
            .pool
            .bytes_mut(&frame)
            .first_chunk_mut()
            .expect("the headers were read from these bytes");
        head[..ETHERNET_LEN].copy_from_slice(&neighbour.link);
        decrement_ttl(head, header);
        trim(&mut frame, header.total_len);
        let counters = &mut self.ports[usize::from(hop.port)].counters;
        counters.tx_packets += 1;
        counters.tx_bytes += u64::from(header.total_len) + ETHERNET_LEN as u64;
        self.counters.routed += 1;
        step.tx.push_within_room(hop.port, frame);
    }

    #[cold]
    fn forward_slow(
        &mut self,
        step: &mut Step<'_>,
        frame: Frame,
        header: &Ipv4Header,
        next_hop: NextHopId,
    ) {
        if header.ttl <= 1 {
            self.refuse(
                step,
                frame,
                header,
                Drop::TtlExpired,
                IcmpError::TimeExceeded,
            );
            return;
        }
        if next_hop == NextHopId::NONE {
            self.refuse(
                step,
                frame,
                header,
                Drop::NoRoute,
                IcmpError::NetUnreachable,
            );
            return;
        }
        let hop = self.next_hops[usize::from(next_hop.0)];
        if header.total_len > hop.mtu && !fits_as_segments(step.pool, &frame, header, hop.mtu) {
            self.oversize(step, frame, header, hop, Origin::Routed);
            return;
        }
        lower_ttl(step.pool, &frame, header);
        self.send(step, frame, header, hop, Origin::Routed);
    }

    /// Hands a packet that fits its link to the neighbour it goes to. The
    /// frame starts with room for the link header.
    pub(super) fn send(
        &mut self,
        step: &mut Step<'_>,
        mut frame: Frame,
        header: &Ipv4Header,
        hop: NextHop,
        origin: Origin,
    ) {
        trim(&mut frame, header.total_len);
        let (address, slot) = match hop.gateway {
            Some((address, slot)) => (address, Some(slot)),
            None => {
                let address = Ipv4Addr::from_bits(header.destination);
                (address, self.neighbours.find(hop.port, address))
            }
        };
        match slot {
            Some(slot) if self.neighbours.get(slot).ready() => {
                self.transmit(step, frame, slot, origin)
            }
            _ => self.resolve(step, frame, hop.port, address, origin),
        }
    }

    /// Puts the link header on and the frame into its port's queue.
    pub(super) fn transmit(
        &mut self,
        step: &mut Step<'_>,
        frame: Frame,
        slot: Slot,
        origin: Origin,
    ) {
        let neighbour = self.neighbours.get(slot);
        let port = neighbour.port;
        *step
            .pool
            .bytes_mut(&frame)
            .first_chunk_mut()
            .expect("room for the link header was checked") = neighbour.link;
        let bytes = step.pool.packet_len(&frame) as u64;
        if !step.tx.has_room(port) {
            self.discard(step, frame, Drop::TxQueueFull);
            return;
        }
        step.tx.push_within_room(port, frame);
        let counters = &mut self.ports[usize::from(port)].counters;
        counters.tx_packets += 1;
        counters.tx_bytes += bytes;
        match origin {
            Origin::Routed => self.counters.routed += 1,
            Origin::Own => self.counters.own += 1,
        }
    }

    /// Sends an IPv4 packet that the relay made. The frame starts with its
    /// IPv4 header and has at least 14 bytes of room in front; its marks count
    /// from the IPv4 header.
    ///
    /// # Panics
    /// If there is no such room: that is a bug of whoever made the packet.
    pub fn output(&mut self, now: Time, pool: &mut Pool, frame: Frame, tx: &mut TxQueues) {
        self.send_own(&mut Step { now, pool, tx }, frame);
    }

    pub(super) fn send_own(&mut self, step: &mut Step<'_>, mut frame: Frame) {
        let parsed = Ipv4Header::parse(step.pool.bytes(&frame), step.pool.packet_len(&frame));
        let Some(header) = parsed.ok().filter(|header| {
            !self
                .classifier
                .is_own(Ipv4Addr::from_bits(header.destination))
        }) else {
            self.discard(step, frame, Drop::OutputInvalid);
            return;
        };
        push_link(&mut frame);
        let next_hop = self.fib.lookup(header.destination);
        if next_hop == NextHopId::NONE {
            self.discard(step, frame, Drop::NoRoute);
            return;
        }
        let hop = self.next_hops[usize::from(next_hop.0)];
        if header.total_len > hop.mtu && !fits_as_segments(step.pool, &frame, &header, hop.mtu) {
            self.oversize(step, frame, &header, hop, Origin::Own);
            return;
        }
        self.send(step, frame, &header, hop, Origin::Own);
    }

    /// A packet larger than its next link takes.
    #[cold]
    fn oversize(
        &mut self,
        step: &mut Step<'_>,
        frame: Frame,
        header: &Ipv4Header,
        hop: NextHop,
        origin: Origin,
    ) {
        let mtu = hop.mtu;
        if header.dont_fragment() {
            match origin {
                Origin::Routed => {
                    self.refuse(
                        step,
                        frame,
                        header,
                        Drop::FragmentationNeeded,
                        IcmpError::FragmentationNeeded { mtu },
                    );
                }
                Origin::Own => self.discard(step, frame, Drop::FragmentationNeeded),
            }
        } else if frame.gso.is_some() {
            self.discard(step, frame, Drop::GsoExceedsMtu);
        } else {
            self.fragment(step, frame, header, hop, origin);
        }
    }

    /// Cuts a packet into fragments of the next link's MTU (RFC 791 3.2).
    fn fragment(
        &mut self,
        step: &mut Step<'_>,
        mut frame: Frame,
        header: &Ipv4Header,
        hop: NextHop,
        origin: Origin,
    ) {
        if origin == Origin::Routed {
            lower_ttl(step.pool, &frame, header);
        }
        // A chain is a jumbo packet, whose senders set DF: not worth a way of its own.
        if frame.next.is_some() || !complete_checksum(step.pool, &mut frame) {
            self.discard(step, frame, Drop::FragmentationNeeded);
            return;
        }
        let header_len = usize::from(header.header_len);
        let mut first_header = [0; 60];
        first_header[..header_len]
            .copy_from_slice(&step.pool.bytes(&frame)[ETHERNET_LEN..ETHERNET_LEN + header_len]);
        let later = later_header(&first_header[..header_len]);
        let mut headers = (first_header, header_len);
        let mtu = usize::from(hop.mtu);
        let mut at = header_len;
        while at < usize::from(header.total_len) {
            let (bytes, len) = (&mut headers.0, headers.1);
            let left = usize::from(header.total_len) - at;
            let (payload, last) = if len + left <= mtu {
                (left, true)
            } else {
                ((mtu - len) & !7, false)
            };
            let units = u16::try_from((at - header_len) / 8).expect("a packet is below 64 KiB");
            let more = if last && !header.more_fragments() {
                0
            } else {
                0x2000
            };
            let total_len = u16::try_from(len + payload).expect("at most the MTU");
            bytes[2..4].copy_from_slice(&total_len.to_be_bytes());
            bytes[6..8].copy_from_slice(&(more | (header.fragment_offset() + units)).to_be_bytes());
            checksum::fill_ipv4(&mut bytes[..len]);
            let Some(part) =
                copy_part(step.pool, &frame, &bytes[..len], ETHERNET_LEN + at, payload)
            else {
                self.discard(step, frame, Drop::NoFrame);
                return;
            };
            let part_header = Ipv4Header {
                total_len,
                ..*header
            };
            self.send(step, part, &part_header, hop, origin);
            at += payload;
            headers = later;
        }
        self.counters.fragmented += 1;
        step.pool.release(frame);
    }

    /// Drops a packet and tells its source why, if it may be told.
    #[cold]
    pub(super) fn refuse(
        &mut self,
        step: &mut Step<'_>,
        frame: Frame,
        header: &Ipv4Header,
        drop: Drop,
        error: IcmpError,
    ) {
        if let Some(message) = self.error_about(step, &frame, header, error) {
            self.counters.icmp_errors += 1;
            self.send_own(step, message);
        }
        self.discard(step, frame, drop);
    }

    fn error_about(
        &mut self,
        step: &mut Step<'_>,
        frame: &Frame,
        header: &Ipv4Header,
        error: IcmpError,
    ) -> Option<Frame> {
        if !icmp::may_tell(&step.pool.bytes(frame)[ETHERNET_LEN..], header) {
            return None;
        }
        // RFC 1812 4.3.2.4: from the address of the port the error goes out by,
        // but about a packet to the relay itself from the address it was sent to.
        let path = self.path(Ipv4Addr::from_bits(header.source))?;
        let addressed = Ipv4Addr::from_bits(header.destination);
        let source = if self.classifier.is_own(addressed) {
            addressed
        } else {
            path.source
        };
        if !self.icmp_limit.admit(header.source, step.now) {
            self.counters.icmp_limited += 1;
            return None;
        }
        let mut message = step.pool.alloc_frame()?;
        let len = icmp::error_len(&step.pool.bytes(frame)[ETHERNET_LEN..], header);
        let mut quoted = [0; 576];
        let quote = (len - IPV4_LEN - icmp::ICMP_LEN).min(quoted.len());
        quoted[..quote]
            .copy_from_slice(&step.pool.bytes(frame)[ETHERNET_LEN..ETHERNET_LEN + quote]);
        set_len(&mut message, len);
        icmp::write_error(
            step.pool.bytes_mut(&message),
            error,
            source.to_bits(),
            &quoted[..quote],
            header,
        );
        Some(message)
    }
}

/// Lowers the time to live, with the header checksum (RFC 1624), in a frame
/// that begins with `head`.
#[inline]
fn decrement_ttl(head: &mut [u8; ETHERNET_LEN + IPV4_LEN], header: &Ipv4Header) {
    let word = |ttl| u16::from_be_bytes([ttl, header.protocol]);
    let old = u16::from_be_bytes([head[24], head[25]]);
    let new = checksum::update(old, word(header.ttl), word(header.ttl - 1));
    head[22] = header.ttl - 1;
    head[24..26].copy_from_slice(&new.to_be_bytes());
}

fn lower_ttl(pool: &mut Pool, frame: &Frame, header: &Ipv4Header) {
    let head = pool
        .bytes_mut(frame)
        .first_chunk_mut()
        .expect("the headers were read from these bytes");
    decrement_ttl(head, header);
}

/// Whether each segment of a GSO packet fits the MTU. The header lengths are
/// read from the packet: the mark's own is only a hint in `virtio_net_hdr`.
fn fits_as_segments(pool: &Pool, frame: &Frame, header: &Ipv4Header, mtu: u16) -> bool {
    let Some(gso) = frame.gso else {
        return false;
    };
    let transport_len = match gso.kind {
        GsoKind::UdpL4 => Some(8),
        GsoKind::TcpV4 => TcpHeader::parse(&pool.bytes(frame)[ETHERNET_LEN..], header)
            .map(|tcp| u32::from(tcp.tcp_len)),
        GsoKind::TcpV6 => None,
    };
    transport_len.is_some_and(|len| {
        u32::from(header.header_len) + len + u32::from(gso.size) <= u32::from(mtu)
    })
}

/// The header of the fragments after the first: only options that are to be copied (RFC 791 3.1).
fn later_header(first: &[u8]) -> ([u8; 60], usize) {
    let mut header = [0; 60];
    header[..IPV4_LEN].copy_from_slice(&first[..IPV4_LEN]);
    let mut len = IPV4_LEN;
    for option in Options(&first[IPV4_LEN..]).filter(|option| option[0] & 0x80 != 0) {
        header[len..len + option.len()].copy_from_slice(option);
        len += option.len();
    }
    // The rest of the last word is zeros, the end-of-options mark.
    len = len.next_multiple_of(4);
    header[0] = 0x40
        | u8::try_from(len / 4).expect("at most 15 words: a part of the first header's options");
    (header, len)
}

/// A frame of its own with `header` and `len` bytes of `frame` from `at` on.
fn copy_part(
    pool: &mut Pool,
    frame: &Frame,
    header: &[u8],
    at: usize,
    len: usize,
) -> Option<Frame> {
    let whole = ETHERNET_LEN + header.len() + len;
    let mut part = pool.alloc_frame()?;
    if HEADROOM + whole > pool.capacity(&part) {
        pool.release(part);
        part = pool.alloc_page_frame()?;
    }
    set_len(&mut part, whole);
    let (_, packet) = pool.bytes_mut(&part).split_at_mut(ETHERNET_LEN);
    packet[..header.len()].copy_from_slice(header);
    let payload_at = ETHERNET_LEN + header.len();
    frame::copy(pool, (frame, at), (&part, payload_at), len);
    Some(part)
}

//! One TCP segment in an IPv4 packet: what the room reads of it before a flow
//! sees it, and the few segments that the room writes by itself.
//!
//! Lengths are checked here in full, whatever the port or the router has
//! checked before; the IPv4 header's checksum is the router's. Wire formats
//! are smoltcp's, checksums the router's.

use std::net::{Ipv4Addr, SocketAddrV4};

use sluice_hugepages::pool::Checksum;
use smoltcp::phy::{self, ChecksumCapabilities};
use smoltcp::wire::{
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use super::keyed::FourTuple;
use crate::checksum;

/// An IPv4 header as this room writes it, without options.
pub(super) const IPV4_HEADER_LEN: usize = 20;
/// A TCP header without options.
pub(super) const TCP_HEADER_LEN: usize = 20;
/// Where a TCP header has its checksum.
const TCP_CHECKSUM_OFFSET: usize = 16;
/// Start and offset of a TCP checksum left to the port, from the IPv4 header.
#[expect(clippy::cast_possible_truncation, reason = "small constants")]
pub(super) const PARTIAL: [u16; 2] = [IPV4_HEADER_LEN as u16, TCP_CHECKSUM_OFFSET as u16];
/// The longest segment without payload (both headers, all options).
pub(super) const CONTROL_LEN_MAX: usize = 20 + 60;

/// Why a packet was not taken for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// A length, an address, a port or the combination of flags is impossible.
    Malformed,
    /// A fragment; those are not put together here.
    Fragment,
    /// The TCP checksum is wrong.
    Checksum,
}

/// The facts of a received segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Ours first: the packet's destination is `local`.
    pub tuple: FourTuple,
    pub seq: u32,
    pub ack: Option<u32>,
    pub control: TcpControl,
    pub window: u16,
    pub payload_len: u32,
}

impl Segment {
    /// Reads an IPv4 packet (trailing bytes of the link are cut off).
    pub fn parse(packet: &[u8], checksum: Checksum) -> Result<Self, Unfit> {
        let ipv4 = Ipv4Packet::new_checked(packet).map_err(|_| Unfit::Malformed)?;
        if ipv4.version() != 4 || ipv4.next_header() != IpProtocol::Tcp {
            return Err(Unfit::Malformed);
        }
        if ipv4.more_frags() || ipv4.frag_offset() != 0 {
            return Err(Unfit::Fragment);
        }
        let (source, destination) = (ipv4.src_addr(), ipv4.dst_addr());
        let tcp = TcpPacket::new_checked(ipv4.payload()).map_err(|_| Unfit::Malformed)?;
        let tuple = FourTuple {
            local: SocketAddrV4::new(destination, tcp.dst_port()),
            remote: SocketAddrV4::new(source, tcp.src_port()),
        };
        let unicast = |end: &SocketAddrV4| {
            let ip = end.ip();
            !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast()) && end.port() != 0
        };
        // An answer must never go to many, nor to ourselves.
        if !unicast(&tuple.local) || !unicast(&tuple.remote) || tuple.local == tuple.remote {
            return Err(Unfit::Malformed);
        }
        let control = match (tcp.syn(), tcp.fin(), tcp.rst()) {
            (false, false, false) => TcpControl::None,
            (true, false, false) => TcpControl::Syn,
            (false, true, false) => TcpControl::Fin,
            (false, false, true) => TcpControl::Rst,
            _ => return Err(Unfit::Malformed),
        };
        // A partial checksum comes from a sender on this machine, whose bytes
        // crossed no wire; a verified one was the port's work.
        if checksum == Checksum::InPacket
            && add(
                pseudo_sum(source, destination, ipv4.payload().len()),
                checksum::sum(ipv4.payload()),
            ) != 0xffff
        {
            return Err(Unfit::Checksum);
        }
        Ok(Self {
            tuple,
            seq: sequence(tcp.seq_number()),
            ack: tcp.ack().then(|| sequence(tcp.ack_number())),
            control,
            window: tcp.window_len(),
            payload_len: u32::try_from(tcp.payload().len()).expect("a packet is below 64 KiB"),
        })
    }

    /// SEG.LEN: the sequence numbers it occupies.
    pub fn len(&self) -> u32 {
        let flag = matches!(self.control, TcpControl::Syn | TcpControl::Fin);
        self.payload_len + u32::from(flag)
    }

    /// The sequence number after its last.
    pub fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len())
    }
}

/// What a SYN offers (RFC 9293 3.1, RFC 7323, RFC 2018).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub mss: Option<u16>,
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
}

impl Offer {
    /// Reads the options of a segment that [`Segment::parse`] has taken;
    /// nothing if they are garbled.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let ipv4 = Ipv4Packet::new_checked(packet).ok()?;
        let tcp = TcpPacket::new_checked(ipv4.payload()).ok()?;
        let (from, to) = (
            IpAddress::Ipv4(ipv4.src_addr()),
            IpAddress::Ipv4(ipv4.dst_addr()),
        );
        let repr = TcpRepr::parse(&tcp, &from, &to, &ChecksumCapabilities::ignored()).ok()?;
        Some(Self {
            mss: repr.max_seg_size,
            window_scale: repr.window_scale,
            sack_permitted: repr.sack_permitted,
        })
    }
}

pub(super) const fn sequence(number: TcpSeqNumber) -> u32 {
    number.0.cast_unsigned()
}

/// Whether `a` is after `b` (RFC 9293 3.4, modulo 2^32).
pub(super) const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// A segment without payload, to be written by this room itself.
#[derive(Debug)]
pub(super) struct Control {
    pub control: TcpControl,
    pub seq: u32,
    pub ack: Option<u32>,
    pub window: u16,
    pub offer: Option<Offer>,
}

impl Control {
    /// The answer to a segment of no connection (RFC 9293 3.10.7.1); none to a RST.
    pub fn reset(segment: &Segment) -> Option<Self> {
        let (seq, ack) = match (segment.control, segment.ack) {
            (TcpControl::Rst, _) => return None,
            (_, Some(ack)) => (ack, None),
            (_, None) => (0, Some(segment.end())),
        };
        Some(Self {
            control: TcpControl::Rst,
            seq,
            ack,
            window: 0,
            offer: None,
        })
    }

    /// Writes it as an IPv4 packet from `from` to `to`, checksums complete.
    pub fn emit(
        &self,
        from: SocketAddrV4,
        to: SocketAddrV4,
        buffer: &mut [u8; CONTROL_LEN_MAX],
    ) -> usize {
        let number = |number: u32| TcpSeqNumber(number.cast_signed());
        let tcp = TcpRepr {
            src_port: from.port(),
            dst_port: to.port(),
            control: self.control,
            seq_number: number(self.seq),
            ack_number: self.ack.map(number),
            window_len: self.window,
            window_scale: self.offer.and_then(|offer| offer.window_scale),
            max_seg_size: self.offer.and_then(|offer| offer.mss),
            sack_permitted: self.offer.is_some_and(|offer| offer.sack_permitted),
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let ipv4 = Ipv4Repr {
            src_addr: *from.ip(),
            dst_addr: *to.ip(),
            next_header: IpProtocol::Tcp,
            payload_len: tcp.buffer_len(),
            hop_limit: 64,
        };
        let mut checksums = ChecksumCapabilities::ignored();
        checksums.ipv4 = phy::Checksum::Tx;
        ipv4.emit(&mut Ipv4Packet::new_unchecked(&mut buffer[..]), &checksums);
        let len = IPV4_HEADER_LEN + tcp.buffer_len();
        tcp.emit(
            &mut TcpPacket::new_unchecked(&mut buffer[IPV4_HEADER_LEN..len]),
            &IpAddress::Ipv4(*from.ip()),
            &IpAddress::Ipv4(*to.ip()),
            &checksums,
        );
        fill_checksum(&mut buffer[..len]);
        len
    }
}

/// Writes the sum of the pseudo-header (RFC 9293 3.1) into the segment of a
/// packet of ours (no IPv4 options), for the port to complete.
///
/// # Panics
/// If the packet is not one of ours.
pub(super) fn leave_partial_checksum(packet: &mut [u8]) {
    let ipv4 = Ipv4Packet::new_unchecked(&packet[..]);
    let (source, destination) = (ipv4.src_addr(), ipv4.dst_addr());
    // The payload may stand elsewhere.
    let segment_len = usize::from(ipv4.total_len()) - IPV4_HEADER_LEN;
    let segment = &mut packet[IPV4_HEADER_LEN..];
    let sum = pseudo_sum(source, destination, segment_len);
    segment[TCP_CHECKSUM_OFFSET..][..2].copy_from_slice(&sum.to_be_bytes());
}

/// Completes the TCP checksum of a packet of ours (no IPv4 options).
///
/// # Panics
/// If the packet is not one of ours.
pub(super) fn fill_checksum(packet: &mut [u8]) {
    leave_partial_checksum(packet);
    let [start, offset] = PARTIAL;
    assert!(
        checksum::complete(packet, start, offset).is_ok(),
        "the packet has a TCP header"
    );
}

/// As [`fill_checksum`], for a packet of which what stands from `payload_at` on, behind a
/// header of whole words, was summed when it was put there.
///
/// # Panics
/// If the packet is not one of ours.
pub(super) fn finish_checksum(packet: &mut [u8], payload_at: usize, payload_sum: u16) {
    leave_partial_checksum(packet);
    let header = &mut packet[IPV4_HEADER_LEN..payload_at];
    let sum = !checksum::append(checksum::sum(header), header.len(), payload_sum);
    header[TCP_CHECKSUM_OFFSET..][..2].copy_from_slice(&sum.to_be_bytes());
}

fn pseudo_sum(source: Ipv4Addr, destination: Ipv4Addr, segment_len: usize) -> u16 {
    let len = u16::try_from(segment_len).expect("a packet is below 64 KiB");
    let ends = add(
        checksum::sum(&source.octets()),
        checksum::sum(&destination.octets()),
    );
    add(ends, add(u16::from(u8::from(IpProtocol::Tcp)), len))
}

/// One's complement sum of two sums (RFC 1071).
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

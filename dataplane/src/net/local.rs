//! Packets for the relay itself: TCP of its own goes to the TCP room, and what a router
//! says of its segments' size; echo requests are answered, the rest is the kernel's, or
//! without a way there refused as a host does.

use sluice_hugepages::pool::Frame;

use super::drops::Drop;
use super::ethernet::ETHERNET_LEN;
use super::frame::{complete_checksum, pull_link, trim};
use super::icmp::{self, IcmpError, PacketTooBig};
use super::ipv4::{Ipv4Header, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, TcpHeader};
use super::router::{Router, Step};
use crate::checksum;

/// What the TCP room is to do with a packet.
#[derive(Clone, Copy, Debug)]
pub enum LocalKind {
    Segment(TcpHeader),
    PacketTooBig(PacketTooBig),
}

/// A packet for the TCP room: a segment to an intercepted address and port or to one of
/// the relay's own addresses, or a router's word about one from there.
#[derive(Debug)]
pub struct Local {
    /// Starts with the IPv4 header; holds nothing behind the packet. Its marks
    /// count from the IPv4 header.
    pub frame: Frame,
    pub kind: LocalKind,
    /// The port it came in by.
    pub port: u8,
}

impl Router {
    /// The one place that decides what becomes of a packet for the relay's own
    /// addresses.
    pub(super) fn own(
        &mut self,
        step: &mut Step<'_>,
        frame: Frame,
        header: &Ipv4Header,
        port: u8,
    ) -> Option<Local> {
        if let Some(kernel) = self.kernel
            && !self.is_relays(&step.pool.bytes(&frame)[ETHERNET_LEN..], header)
        {
            self.hand_to_kernel(step, kernel, frame, header);
            return None;
        }
        if header.is_fragment() {
            self.discard(step, frame, Drop::FragmentToRelay);
            return None;
        }
        match header.protocol {
            PROTOCOL_TCP => return self.local_tcp(step, frame, header, port),
            PROTOCOL_ICMP => return self.icmp(step, frame, header, port),
            PROTOCOL_UDP => self.refuse(
                step,
                frame,
                header,
                Drop::UdpToRelay,
                IcmpError::PortUnreachable,
            ),
            _ => self.refuse(
                step,
                frame,
                header,
                Drop::ProtocolToRelay,
                IcmpError::ProtocolUnreachable,
            ),
        }
        None
    }

    /// Whether the relay itself is a party to this packet: its connections, what routers
    /// say of the size of their segments, and pings of a single packet (others are the
    /// kernel's to put together).
    fn is_relays(&self, packet: &[u8], header: &Ipv4Header) -> bool {
        match header.protocol {
            // A fragment might be of a connection that the kernel does not
            // know, and would reset.
            PROTOCOL_TCP if header.is_fragment() => true,
            PROTOCOL_TCP => {
                TcpHeader::parse(packet, header).is_none_or(|tcp| self.classifier.is_relays(&tcp))
            }
            PROTOCOL_ICMP => {
                let message =
                    usize::from(header.header_len)..packet.len().min(usize::from(header.total_len));
                let message = packet.get(message).unwrap_or_default();
                let is_ours = |told: PacketTooBig| {
                    self.classifier
                        .is_connection(told.source.port(), told.destination)
                };
                !header.is_fragment()
                    && (message.first() == Some(&icmp::ECHO_REQUEST)
                        || PacketTooBig::read(message).is_some_and(is_ours))
            }
            _ => false,
        }
    }

    /// A segment for the TCP room.
    pub(super) fn local_tcp(
        &mut self,
        step: &mut Step<'_>,
        mut frame: Frame,
        header: &Ipv4Header,
        port: u8,
    ) -> Option<Local> {
        let tcp = TcpHeader::parse(&step.pool.bytes(&frame)[ETHERNET_LEN..], header);
        trim(&mut frame, header.total_len);
        let Some(tcp) = tcp.filter(|_| pull_link(&mut frame)) else {
            self.discard(step, frame, Drop::TcpMalformed);
            return None;
        };
        self.counters.local += 1;
        Some(Local {
            frame,
            kind: LocalKind::Segment(tcp),
            port,
        })
    }

    /// Answers an echo request in its own frame (RFC 1122 3.2.2.6); what a router says of
    /// a segment's size is the TCP room's.
    fn icmp(
        &mut self,
        step: &mut Step<'_>,
        mut frame: Frame,
        header: &Ipv4Header,
        port: u8,
    ) -> Option<Local> {
        trim(&mut frame, header.total_len);
        let completed = complete_checksum(step.pool, &mut frame) && pull_link(&mut frame);
        let packet = step.pool.bytes_mut(&frame);
        let packet = if completed {
            packet
        } else {
            &mut packet[ETHERNET_LEN..]
        };
        let (ipv4, message) = packet.split_at_mut(usize::from(header.header_len));
        if frame.next.is_some()
            || !completed
            || message.len() < icmp::ICMP_LEN
            || checksum::sum(message) != 0xffff
        {
            self.discard(step, frame, Drop::IcmpMalformed);
            return None;
        }
        if PacketTooBig::is_told_by(message) {
            let Some(told) = PacketTooBig::read(message) else {
                self.discard(step, frame, Drop::IcmpMalformed);
                return None;
            };
            return Some(Local {
                frame,
                kind: LocalKind::PacketTooBig(told),
                port,
            });
        }
        if message[..2] != [icmp::ECHO_REQUEST, 0] {
            self.discard(step, frame, Drop::IcmpIgnored);
            return None;
        }
        message[0] = icmp::ECHO_REPLY;
        let old = u16::from_be_bytes([message[2], message[3]]);
        let new = checksum::update(
            old,
            u16::from_be_bytes([icmp::ECHO_REQUEST, 0]),
            u16::from_be_bytes([icmp::ECHO_REPLY, 0]),
        );
        message[2..4].copy_from_slice(&new.to_be_bytes());
        ipv4[8] = icmp::TTL;
        ipv4[12..16].copy_from_slice(&header.destination.to_be_bytes());
        ipv4[16..20].copy_from_slice(&header.source.to_be_bytes());
        checksum::fill_ipv4(ipv4);
        self.counters.echo_replies += 1;
        self.send_own(step, frame);
        None
    }
}

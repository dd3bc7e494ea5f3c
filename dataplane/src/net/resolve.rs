//! ARP (RFC 826): answering for the relay, learning neighbours, asking for
//! them, and the packets that wait meanwhile.

use std::net::Ipv4Addr;

use sluice_hugepages::pool::{Frame, Pool};
use sluice_proto::Time;

use super::config::{Mac, NeighbourLimits};
use super::drops::Drop;
use super::ethernet::{Arp, ArpOperation, BROADCAST, ETHERNET_LEN};
use super::forward::Origin;
use super::frame::set_len;
use super::icmp::IcmpError;
use super::ipv4::Ipv4Header;
use super::neighbour::{Expiry, Slot, Use};
use super::router::{Router, Step};
use super::tx::TxQueues;

/// Packets that wait for a neighbour's answer, in order of arrival.
#[derive(Debug)]
pub(super) struct Pending {
    packets: Vec<Waiting>,
    each_max: u8,
    total_max: usize,
}

#[derive(Debug)]
struct Waiting {
    slot: Slot,
    frame: Frame,
    origin: Origin,
}

impl Pending {
    pub fn new(limits: NeighbourLimits) -> Self {
        let total_max = usize::from(limits.pending_total_max);
        Self {
            packets: Vec::with_capacity(total_max),
            each_max: limits.pending_max,
            total_max,
        }
    }

    fn take_oldest(&mut self, slot: Slot) -> Option<(Frame, Origin)> {
        let at = self
            .packets
            .iter()
            .position(|waiting| waiting.slot == slot)?;
        let Waiting { frame, origin, .. } = self.packets.remove(at);
        Some((frame, origin))
    }
}

impl Router {
    /// Takes an ARP packet that came in by `port`.
    #[cold]
    pub(super) fn arp(&mut self, step: &mut Step<'_>, frame: Frame, port: u8) {
        let arp = Arp::parse(&step.pool.bytes(&frame)[ETHERNET_LEN..]);
        match self.arp_packet(step, port, arp) {
            Ok(()) => step.pool.release(frame),
            Err(drop) => self.discard(step, frame, drop),
        }
    }

    fn arp_packet(&mut self, step: &mut Step<'_>, port: u8, arp: Option<Arp>) -> Result<(), Drop> {
        let arp = arp.ok_or(Drop::ArpMalformed)?;
        let for_relay = arp.target == self.port(port).config.address
            || self
                .portal
                .is_some_and(|portal| portal == arp.target && self.port(port).holds(portal));
        if self.classifier.is_own(arp.sender) {
            return Err(Drop::ArpAddressConflict);
        }
        // A probe (RFC 5227 2.1.1) has no sender address to learn, but wants an answer.
        let probe = arp.sender.is_unspecified();
        if !probe && !self.port(port).holds(arp.sender) {
            return Err(Drop::ArpForeignSender);
        }
        if !probe {
            self.learn(step, port, &arp, for_relay);
        }
        match arp.operation {
            ArpOperation::Reply => Ok(()),
            ArpOperation::Request if for_relay => {
                self.counters.arp_replies += 1;
                let own_mac = self.port(port).config.mac;
                let reply = Arp {
                    operation: ArpOperation::Reply,
                    sender_mac: own_mac,
                    sender: arp.target,
                    target_mac: arp.sender_mac,
                    target: arp.sender,
                };
                self.send_arp(step, port, &reply, arp.sender_mac);
                Ok(())
            }
            ArpOperation::Request => Err(Drop::ArpNotForRelay),
        }
    }

    /// RFC 826: who is known is updated by whatever it says; who is not is
    /// learned from what it says to the relay.
    fn learn(&mut self, step: &mut Step<'_>, port: u8, arp: &Arp, for_relay: bool) {
        let slot = if for_relay {
            // With the table full the request is answered all the same.
            self.neighbours.find_or_insert(port, arp.sender).ok()
        } else {
            self.neighbours.find(port, arp.sender)
        };
        let Some(slot) = slot else {
            return;
        };
        let own_mac = self.port(port).config.mac;
        let solicited = for_relay && arp.operation == ArpOperation::Reply;
        self.neighbours
            .confirm(slot, arp.sender_mac, own_mac, solicited, step.now);
        while let Some((frame, origin)) = self.pending.take_oldest(slot) {
            self.neighbours.get_mut(slot).pending -= 1;
            self.transmit(step, frame, slot, origin);
        }
    }

    /// A packet for a neighbour that is not known, or not known well enough.
    #[cold]
    pub(super) fn resolve(
        &mut self,
        step: &mut Step<'_>,
        frame: Frame,
        port: u8,
        address: Ipv4Addr,
        origin: Origin,
    ) {
        let found = self.neighbours.find_or_insert(port, address);
        let used = found.and_then(|slot| Ok((slot, self.neighbours.use_slot(slot, step.now)?)));
        let Ok((slot, used)) = used else {
            self.discard(step, frame, Drop::NeighbourTableFull);
            return;
        };
        match used {
            Use::Send => self.transmit(step, frame, slot, origin),
            Use::SendAndProbe => {
                self.transmit(step, frame, slot, origin);
                self.ask(step, slot, self.neighbours.get(slot).mac());
            }
            Use::Wait => self.wait(step, frame, slot, origin),
            Use::WaitAndAsk => {
                self.wait(step, frame, slot, origin);
                self.ask(step, slot, BROADCAST);
            }
            Use::Unreachable => self.unreachable(step, frame, origin),
        }
    }

    /// Keeps a packet; the oldest for the same neighbour makes room
    /// (RFC 1122 2.3.2.2: the latest is the one to keep).
    fn wait(&mut self, step: &mut Step<'_>, frame: Frame, slot: Slot, origin: Origin) {
        let waiting = self.neighbours.get(slot).pending;
        if waiting >= self.pending.each_max
            && let Some((oldest, _)) = self.pending.take_oldest(slot)
        {
            self.neighbours.get_mut(slot).pending -= 1;
            self.discard(step, oldest, Drop::NeighbourQueueFull);
        }
        if self.pending.packets.len() >= self.pending.total_max || self.pending.each_max == 0 {
            self.discard(step, frame, Drop::NeighbourQueueFull);
            return;
        }
        self.neighbours.get_mut(slot).pending += 1;
        self.pending.packets.push(Waiting {
            slot,
            frame,
            origin,
        });
    }

    fn unreachable(&mut self, step: &mut Step<'_>, frame: Frame, origin: Origin) {
        let packet = &step.pool.bytes(&frame)[ETHERNET_LEN..];
        match Ipv4Header::parse(packet, step.pool.packet_len(&frame) - ETHERNET_LEN) {
            Ok(header) if origin == Origin::Routed => {
                self.refuse(
                    step,
                    frame,
                    &header,
                    Drop::HostUnreachable,
                    IcmpError::HostUnreachable,
                );
            }
            _ => self.discard(step, frame, Drop::HostUnreachable),
        }
    }

    /// Asks for a neighbour: everybody, or itself.
    fn ask(&mut self, step: &mut Step<'_>, slot: Slot, destination: Mac) {
        let neighbour = self.neighbours.get(slot);
        let (port, target) = (neighbour.port, neighbour.address);
        let config = &self.port(port).config;
        let request = Arp {
            operation: ArpOperation::Request,
            sender_mac: config.mac,
            sender: config.address,
            target_mac: [0; 6],
            target,
        };
        self.counters.arp_requests += 1;
        self.send_arp(step, port, &request, destination);
    }

    fn send_arp(&mut self, step: &mut Step<'_>, port: u8, arp: &Arp, destination: Mac) {
        let Some(mut frame) = step.pool.alloc_frame() else {
            self.drops.count(Drop::NoFrame);
            return;
        };
        let bytes = arp.frame(destination);
        set_len(&mut frame, bytes.len());
        step.pool.bytes_mut(&frame).copy_from_slice(&bytes);
        if !step.tx.has_room(port) {
            self.discard(step, frame, Drop::TxQueueFull);
            return;
        }
        step.tx.push_within_room(port, frame);
        let counters = &mut self.ports[usize::from(port)].counters;
        counters.tx_packets += 1;
        counters.tx_bytes += bytes.len() as u64;
    }

    /// Does what time has brought: requests again, neighbours aged, packets
    /// that waited in vain refused.
    pub fn poll(&mut self, now: Time, pool: &mut Pool, tx: &mut TxQueues) {
        let step = &mut Step { now, pool, tx };
        let mut cursor = 0;
        while let Some(expiry) = self.neighbours.expire(step.now, &mut cursor) {
            match expiry {
                Expiry::Ask(slot) => self.ask(step, slot, BROADCAST),
                Expiry::Probe(slot) => self.ask(step, slot, self.neighbours.get(slot).mac()),
                Expiry::Unreachable(slot) => {
                    while let Some((frame, origin)) = self.pending.take_oldest(slot) {
                        self.neighbours.get_mut(slot).pending -= 1;
                        self.unreachable(step, frame, origin);
                    }
                }
            }
        }
    }

    /// When [`Router::poll`] has something to do; [`Time::FAR`] if nothing is awaited.
    #[must_use]
    pub const fn deadline(&self) -> Time {
        self.neighbours.deadline()
    }
}

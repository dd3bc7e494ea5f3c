//! The slow path: what is for the box itself goes to its kernel, what the
//! kernel sends goes out by the router.
//!
//! What always holds: the kernel gets nothing that the relay answers or is a
//! party to, and can send nothing to an intercepted address and port,
//! nor under an address that is not the router's: it is a host here, and can
//! forward for nobody.

use std::net::Ipv4Addr;

use sluice_hugepages::pool::{Burst, Frame, Pool};
use sluice_proto::Time;

use super::classify::Verdict;
use super::drops::Drop;
use super::frame::{pull_link, trim};
use super::ipv4::Ipv4Header;
use super::router::{Router, Step};
use super::tx::TxQueues;

impl Router {
    /// The number of the queue whose packets are the kernel's, behind those of
    /// the ports; none where the host has no part in the network.
    #[must_use]
    pub fn kernel_port(&self) -> Option<u8> {
        self.kernel
    }

    /// Hands a packet for one of the router's addresses to the kernel, without
    /// its link header.
    pub(super) fn hand_to_kernel(
        &mut self,
        step: &mut Step<'_>,
        kernel: u8,
        mut frame: Frame,
        header: &Ipv4Header,
    ) {
        trim(&mut frame, header.total_len);
        if !pull_link(&mut frame) {
            self.discard(step, frame, Drop::TcpMalformed);
        } else if step.tx.has_room(kernel) {
            self.counters.to_kernel += 1;
            step.tx.push_within_room(kernel, frame);
        } else {
            self.discard(step, frame, Drop::TxQueueFull);
        }
    }

    /// Takes a burst from the kernel: frames that start with their IPv4 header,
    /// with room for a link header in front. Leaves `burst` empty.
    pub fn input_kernel(
        &mut self,
        now: Time,
        pool: &mut Pool,
        burst: &mut Burst,
        tx: &mut TxQueues,
    ) {
        let step = &mut Step { now, pool, tx };
        for frame in burst.drain(..) {
            match self.check_kernel(step.pool, &frame) {
                Ok(()) => {
                    self.counters.from_kernel += 1;
                    self.send_own(step, frame);
                }
                Err(drop) => self.discard(step, frame, drop),
            }
        }
    }

    fn check_kernel(&self, pool: &Pool, frame: &Frame) -> Result<(), Drop> {
        let packet = pool.bytes(frame);
        if packet.first().is_some_and(|byte| byte >> 4 == 6) {
            return Err(Drop::Ipv6NotRouted);
        }
        let header = Ipv4Header::parse(packet, frame.len as usize)?;
        if !self.classifier.is_own(Ipv4Addr::from_bits(header.source)) {
            return Err(Drop::MartianSource);
        }
        match self.classifier.classify_destination(packet, &header) {
            Verdict::Forward => Ok(()),
            Verdict::Drop(drop) => Err(drop),
            // Its own addresses never leave a host.
            Verdict::Own => Err(Drop::MartianDestination),
            Verdict::Intercepted => Err(Drop::KernelIntercepted),
        }
    }
}

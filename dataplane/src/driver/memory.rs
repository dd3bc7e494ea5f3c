//! A port whose other end is the caller: tests, the simulator, benches.
//!
//! Deterministic: two bounded queues of frames, first in first out, no clock
//! and no chance (faults are a wrapper's business). The caller's end puts
//! frames in with [`MemoryPort::inject`] and takes what was sent with
//! [`MemoryPort::take`]. Frames stay in the pool; only `inject` and `take` copy.
//!
//! For benches, frames can be preloaded: [`MemoryPort::restock`] moves what a
//! port has sent back to be received again, without a copy.

use std::collections::VecDeque;

use sluice_hugepages::pool::{
    BURST_LEN, Burst, Checksum, FRAME_LEN, Frame, HEADROOM, PAGE_LEN, Pool,
};

use super::parts;
use super::port::{Driver, PortInfo};
use super::{ETHERNET_HEADER_LEN, PortStats};
use crate::checksum;

/// A memory port to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemorySpec {
    pub name: String,
    pub index: u8,
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Frames that each of the two queues holds.
    pub queue_frames: usize,
    /// Take frames marked to be cut, as a link with virtio_net_hdr does.
    pub gso: bool,
}

impl Default for MemorySpec {
    fn default() -> Self {
        Self {
            name: "memory".to_owned(),
            index: 0,
            mac: [0x02, 0, 0, 0, 0, 1],
            mtu: 1500,
            queue_frames: 4 * BURST_LEN,
            gso: true,
        }
    }
}

/// Why a frame was not injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotInjected {
    /// The receive queue is full.
    Full,
    /// The pool has no buffer.
    NoBuffer,
    /// Longer than a page.
    TooLong,
    LinkDown,
}

/// Bytes of a preloaded frame that are put back when it is restocked: link, IPv6 and some of TCP,
/// all that a router rewrites.
const RESTORED_LEN: usize = 64;

/// How a preloaded frame looked.
#[derive(Clone, Copy, Debug)]
struct Preloaded {
    offset: usize,
    len: usize,
    head: [u8; RESTORED_LEN],
}

/// See the module.
#[derive(Debug)]
pub struct MemoryPort {
    info: PortInfo,
    stats: PortStats,
    /// To be received.
    inbound: VecDeque<Frame>,
    /// Sent.
    outbound: VecDeque<Frame>,
    queue_frames: usize,
    link_up: bool,
    /// By buffer index, where it was preloaded; empty unless benches use it.
    preloaded: Vec<Option<Preloaded>>,
}

impl MemoryPort {
    #[must_use]
    pub fn new(spec: &MemorySpec) -> Self {
        Self {
            info: PortInfo {
                device: spec.name.clone(),
                index: spec.index,
                driver: Driver::Memory,
                why: "made by its caller".to_owned(),
                mac: spec.mac,
                mtu: spec.mtu,
                zero_copy: true,
                gso: spec.gso,
                speed_mbit: None,
            },
            stats: PortStats::default(),
            inbound: VecDeque::with_capacity(spec.queue_frames),
            outbound: VecDeque::with_capacity(spec.queue_frames),
            queue_frames: spec.queue_frames,
            link_up: true,
            preloaded: Vec::new(),
        }
    }

    /// Puts a frame with these bytes (from the link header on) where the port receives from.
    ///
    /// # Errors
    /// It was not taken, and nothing changed.
    pub fn inject(&mut self, pool: &mut Pool, bytes: &[u8]) -> Result<(), NotInjected> {
        let frame = self.fill(pool, bytes)?;
        self.inbound.push_back(frame);
        Ok(())
    }

    fn fill(&self, pool: &mut Pool, bytes: &[u8]) -> Result<Frame, NotInjected> {
        if !self.link_up {
            return Err(NotInjected::LinkDown);
        }
        if self.inbound.len() == self.queue_frames {
            return Err(NotInjected::Full);
        }
        let mut frame = match HEADROOM + bytes.len() {
            0..=FRAME_LEN => pool.alloc_frame(),
            len if len <= PAGE_LEN => pool.alloc_page_frame(),
            _ => return Err(NotInjected::TooLong),
        }
        .ok_or(NotInjected::NoBuffer)?;
        parts::write(pool, &mut frame, bytes);
        Ok(frame)
    }

    /// Puts a frame, with its marks, where the port receives from; gives it back if it is not taken.
    ///
    /// # Errors
    /// The receive queue is full or the link down.
    pub fn inject_frame(&mut self, frame: Frame) -> Result<(), Frame> {
        if !self.link_up || self.inbound.len() == self.queue_frames {
            return Err(frame);
        }
        self.inbound.push_back(frame);
        Ok(())
    }

    /// Replaces `bytes` with the oldest frame sent and releases it; false if there is none. A
    /// partial checksum is completed, as on a wire.
    pub fn take(&mut self, pool: &mut Pool, bytes: &mut Vec<u8>) -> bool {
        let Some(frame) = self.outbound.pop_front() else {
            return false;
        };
        bytes.clear();
        parts::copy_to(pool, &frame, bytes);
        if let Checksum::Partial { start, offset } = frame.checksum {
            // Marks outside of the frame are the caller's to find: it sees the bytes as they are.
            let _ = checksum::complete(bytes, start, offset);
        }
        pool.release(frame);
        true
    }

    /// Takes the oldest frame sent, with its marks.
    pub fn take_frame(&mut self) -> Option<Frame> {
        self.outbound.pop_front()
    }

    /// Frames sent that were not taken.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.outbound.len()
    }

    /// Frames injected that were not received.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inbound.len()
    }

    /// Takes the link down (frames on their way are lost) or up.
    pub fn set_link(&mut self, pool: &mut Pool, up: bool) {
        if self.link_up && !up {
            self.stats.link_down += 1;
            for frame in self.inbound.drain(..).chain(self.outbound.drain(..)) {
                pool.release(frame);
            }
        }
        self.link_up = up;
    }

    /// Injects a frame that [`Self::restock`] will let be received again and again.
    ///
    /// # Errors
    /// As for [`Self::inject`].
    pub fn preload(&mut self, pool: &mut Pool, bytes: &[u8]) -> Result<(), NotInjected> {
        let frame = self.fill(pool, bytes)?;
        if self.preloaded.is_empty() {
            self.preloaded.resize(pool.len() / FRAME_LEN, None);
        }
        let mut head = [0; RESTORED_LEN];
        let len = bytes.len().min(RESTORED_LEN);
        head[..len].copy_from_slice(&bytes[..len]);
        self.preloaded[frame.buf.0 as usize] = Some(Preloaded {
            offset: frame.offset.into(),
            len: frame.len as usize,
            head,
        });
        self.inbound.push_back(frame);
        Ok(())
    }

    /// Takes back what `sender` has sent, so that it is received here again with its first 64 bytes
    /// as they were preloaded; frames that were not preloaded here go back to the pool.
    pub fn restock(&mut self, pool: &mut Pool, sender: &mut Self) {
        for mut frame in sender.outbound.drain(..) {
            match self.preloaded.get(frame.buf.0 as usize).copied().flatten() {
                Some(was) if self.inbound.len() < self.queue_frames => {
                    pool.set(&mut frame, was.offset, was.len);
                    frame.checksum = Checksum::InPacket;
                    frame.gso = None;
                    let bytes = pool.bytes_mut(&frame);
                    let len = bytes.len().min(RESTORED_LEN);
                    bytes[..len].copy_from_slice(&was.head[..len]);
                    self.inbound.push_back(frame);
                }
                _ => pool.release(frame),
            }
        }
    }

    pub(super) fn info(&self) -> &PortInfo {
        &self.info
    }

    pub(super) const fn is_up(&self) -> bool {
        self.link_up
    }

    pub(super) fn stats(&self) -> PortStats {
        self.stats
    }

    pub(super) fn rx(&mut self, out: &mut Burst) -> usize {
        let count = self.inbound.len().min(out.remaining_capacity());
        let mut bytes = 0;
        for frame in self.inbound.drain(..count) {
            bytes += u64::from(frame.len);
            out.push(frame);
        }
        self.stats.rx_frames += count as u64;
        self.stats.rx_bytes += bytes;
        count
    }

    pub(super) fn tx(&mut self, pool: &mut Pool, burst: &mut Burst) {
        let limit = self.info.mtu as usize + ETHERNET_HEADER_LEN;
        // Room for all of them is asked for, so that a burst is judged as a whole, dropped frames included.
        let taken = burst.len().min(self.queue_frames - self.outbound.len());
        self.stats.tx_full += u64::from(taken < burst.len());
        for frame in burst.drain(..taken) {
            let len = pool.packet_len(&frame);
            let dropped = if !self.link_up {
                Some(&mut self.stats.tx_link_down)
            } else if frame.gso.is_some() && !self.info.gso {
                Some(&mut self.stats.gso_unsupported)
            } else if frame.gso.is_none() && len > limit {
                Some(&mut self.stats.tx_too_long)
            } else if len < ETHERNET_HEADER_LEN {
                Some(&mut self.stats.tx_runt)
            } else {
                None
            };
            if let Some(counter) = dropped {
                *counter += 1;
                pool.release(frame);
            } else {
                self.stats.tx_frames += 1;
                self.stats.tx_bytes += len as u64;
                self.outbound.push_back(frame);
            }
        }
    }

    pub(super) fn close(mut self, pool: &mut Pool) {
        for frame in self.inbound.drain(..).chain(self.outbound.drain(..)) {
            pool.release(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Port;
    use sluice_proto::Time;

    fn in_use(pool: &Pool) -> usize {
        pool.stats().frames_in_use + pool.stats().page_frames_in_use
    }

    #[test]
    fn queues_are_bounded_and_refusals_change_nothing() {
        let mut pool = Pool::anonymous(4);
        let mut port = MemoryPort::new(&MemorySpec {
            queue_frames: 2,
            ..MemorySpec::default()
        });
        assert_eq!(port.inject(&mut pool, &[1; 60]), Ok(()));
        assert_eq!(
            port.inject(&mut pool, &[2; PAGE_LEN]),
            Err(NotInjected::TooLong)
        );
        assert_eq!(port.inject(&mut pool, &[2; 9000]), Ok(()));
        assert_eq!(port.inject(&mut pool, &[3; 60]), Err(NotInjected::Full));
        assert_eq!((port.waiting(), in_use(&pool)), (2, 2));
        let mut burst = Burst::new();
        assert_eq!(port.rx(&mut burst), 2);
        assert_eq!(
            (pool.capacity(&burst[0]), pool.capacity(&burst[1])),
            (FRAME_LEN, PAGE_LEN)
        );
        burst[1].gso = Some(sluice_hugepages::pool::Gso {
            size: 1448,
            header_len: 66,
            kind: sluice_hugepages::pool::GsoKind::TcpV4,
        });
        port.tx(&mut pool, &mut burst);
        port.set_link(&mut pool, false);
        assert_eq!(
            (port.sent(), in_use(&pool), port.stats().link_down),
            (0, 0, 1)
        );
        assert_eq!(port.inject(&mut pool, &[1; 60]), Err(NotInjected::LinkDown));
    }

    /// As a bench does: the same buffers go round, and look as they did each time.
    #[test]
    fn preloaded_frames_go_round_without_a_copy() {
        let mut pool = Pool::anonymous(4);
        let (mut a, mut b) = (
            Port::memory(&MemorySpec::default()),
            Port::memory(&MemorySpec::default()),
        );
        for number in 0..10u8 {
            a.memory_mut()
                .unwrap()
                .preload(&mut pool, &[number; 100])
                .unwrap();
        }
        for _ in 0..100 {
            let mut burst = Burst::new();
            assert_eq!(a.rx(Time::ZERO, &mut pool, &mut burst), 10);
            for (number, frame) in (0..10u8).zip(&burst) {
                assert_eq!(pool.bytes(frame), [number; 100]);
            }
            // A router rewrites the front, and a tunnel's header is taken off.
            for frame in &mut burst {
                pool.bytes_mut(frame)[..60].fill(0xee);
                let (offset, len) = (usize::from(frame.offset), frame.len as usize);
                pool.set(frame, offset + 8, len - 8);
            }
            b.tx(Time::ZERO, &mut pool, &mut burst);
            a.memory_mut()
                .unwrap()
                .restock(&mut pool, b.memory_mut().unwrap());
            assert_eq!(in_use(&pool), 10);
        }
        a.close(&mut pool);
        b.close(&mut pool);
        assert_eq!(in_use(&pool), 0);
    }

    #[test]
    fn a_chain_leaves_as_one_packet_with_its_checksum() {
        let mut pool = Pool::anonymous(4);
        let mut port = MemoryPort::new(&MemorySpec::default());
        let mut head = pool.alloc_frame().unwrap();
        parts::write(&mut pool, &mut head, &[0; 20]);
        let mut tail = pool.alloc_frame().unwrap();
        parts::write(&mut pool, &mut tail, &[1; 30]);
        pool.link(&mut head, tail);
        head.checksum = Checksum::Partial {
            start: 10,
            offset: 2,
        };
        port.tx(&mut pool, &mut Burst::from_iter([head]));
        let mut bytes = Vec::new();
        assert!(port.take(&mut pool, &mut bytes));
        let mut expected = [[0; 20].as_slice(), &[1; 30]].concat();
        checksum::complete(&mut expected, 10, 2).unwrap();
        assert_eq!(bytes, expected);
        assert_eq!((in_use(&pool), port.stats().tx_bytes), (0, 50));
    }
}

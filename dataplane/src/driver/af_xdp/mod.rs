//! AF_XDP: frames straight between a network card's queue and the pool.
//!
//! The whole pool is registered as one frame memory in chunks of 4 KiB, shared
//! by all AF_XDP ports of a worker (the first registers, the others share its
//! registration), so a frame received on one port is sent on another without a
//! copy. Each port has four rings of its own:
//!
//! ```text
//!   pool --fill--> kernel --rx--> worker        pool <--completion-- kernel <--tx-- worker
//! ```
//!
//! What holds: `lent` says of every chunk whether the kernel has it, and from
//! which ring; a descriptor that names a chunk that was not lent, or bytes
//! outside of it, is counted and not believed. One queue a port: the device
//! must have one, or frames of the others would pass to the host's stack.
//!
//! A card that is asked through AF_XDP can neither complete checksums nor cut:
//! partial checksums are completed here, and frames marked to be cut are
//! dropped by name. What a *local* peer over veth left partial cannot be seen
//! here (XDP does not say), so such peers must send complete checksums.

mod redirect;
pub(super) mod ring;
pub(super) mod socket;

use std::os::fd::{AsRawFd, RawFd};

use sluice_hugepages::pool::{BufId, Burst, Checksum, FRAME_LEN, Frame, Owner, Pool};

use self::redirect::Redirect;
use self::socket::{
    CHUNK_LEN, Desc, FrameMemory, Mode, RX_RING_LEN, TX_RING_LEN, XdpSocket, probe_zero_copy,
    retry_busy,
};
use super::device::Device;
use super::parts;
use super::port::{Driver, PortInfo};
use super::{ETHERNET_HEADER_LEN, PortError, PortStats};
use crate::checksum;

/// What the kernel keeps free in front of a received packet (`XDP_PACKET_HEADROOM`).
const XDP_PACKET_HEADROOM: u32 = 256;
const WIRE_LEN_MAX: u32 = CHUNK_LEN - XDP_PACKET_HEADROOM;
/// Of a pool's frames, a port keeps at most one in so many with the kernel for receiving, so that
/// two ports leave most of a small pool to its other users.
const FILL_SHARE: usize = 8;
/// Fewer than this with the kernel are no port.
const FILL_MIN: u32 = 64;
const QUEUE: u32 = 0;

/// Who has a chunk, as far as this port knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lent {
    No,
    /// With the kernel, for a packet to be received.
    Fill,
    /// With the kernel, to be sent.
    Tx,
}

/// See the module.
#[derive(Debug)]
pub struct AfXdpPort {
    info: PortInfo,
    stats: PortStats,
    /// Detached before the socket goes: fields are dropped in the order in which they stand here.
    _redirect: Redirect,
    socket: XdpSocket,
    /// By chunk of the frame memory.
    lent: Vec<Lent>,
    /// Chunks lent for receiving and for sending.
    filled: u32,
    sending: u32,
    /// Chunks to keep lent for receiving, and how many must be missing to lend more.
    fill_target: u32,
    fill_batch: u32,
    link_up: bool,
    /// What `XDP_STATISTICS` said before.
    kernel_dropped: u64,
}

impl AfXdpPort {
    pub(super) fn open(
        device: &Device,
        index: u8,
        mode: Mode,
        sibling: Option<&Self>,
        pool: &mut Pool,
    ) -> Result<Self, PortError> {
        if device.rx_queues != 1 {
            return Err(PortError::Queues {
                device: device.name.clone(),
                queues: device.rx_queues,
            });
        }
        let header_len = u32::try_from(ETHERNET_HEADER_LEN).expect("14");
        if device.mtu + header_len > WIRE_LEN_MAX {
            return Err(PortError::Mtu {
                device: device.name.clone(),
                mtu: device.mtu,
                mtu_max: WIRE_LEN_MAX - header_len,
            });
        }
        let memory = match sibling {
            Some(sibling) => FrameMemory::Shared(sibling.fd()),
            None => FrameMemory::Register {
                base: pool.base(),
                len: pool.len(),
            },
        };
        let os = |step, source| PortError::Os {
            device: device.name.clone(),
            step,
            source,
        };
        if mode == Mode::ZeroCopy && sibling.is_none() {
            probe_zero_copy(device, QUEUE).map_err(|failed| os(failed.step, failed.source))?;
        }
        // SAFETY: the registered memory is the pool's. The kernel pins its pages, so that even a pool
        // dropped before its ports is not memory given to someone else.
        let socket = unsafe { XdpSocket::bind(device, QUEUE, memory, mode) }
            .map_err(|failed| os(failed.step, failed.source))?;
        // A predecessor's program can outlive its socket by a moment, as its queue does.
        let mut step = "";
        let (redirect, busy_tries) = retry_busy(|| {
            Redirect::attach(device.ifindex, QUEUE, socket.fd()).map_err(|(failed, source)| {
                step = failed;
                source
            })
        })
        .map_err(|source| os(step, source))?;
        let fill_target = u32::try_from(pool.len() / FRAME_LEN / FILL_SHARE)
            .unwrap_or(RX_RING_LEN)
            .clamp(FILL_MIN, RX_RING_LEN);
        let mut port = Self {
            info: PortInfo {
                device: device.name.clone(),
                index,
                driver: Driver::AfXdp,
                why: String::new(),
                mac: device.mac,
                mtu: device.mtu,
                zero_copy: socket.zero_copy,
                gso: false,
                speed_mbit: device.speed_mbit,
            },
            stats: PortStats::default(),
            lent: vec![Lent::No; pool.len() / FRAME_LEN],
            _redirect: redirect,
            filled: 0,
            sending: 0,
            fill_target,
            fill_batch: (fill_target / 8).min(FILL_MIN),
            link_up: true,
            kernel_dropped: 0,
            socket,
        };
        if port.socket.busy_tries + busy_tries > 0 {
            log::info!(
                "{}: waited for a predecessor to let go of the queue ({} tries)",
                device.name,
                port.socket.busy_tries + busy_tries
            );
        }
        port.fill(pool);
        if port.filled < FILL_MIN {
            port.close(pool);
            return Err(PortError::NoBuffers {
                device: device.name.clone(),
                buffers: "frames",
                wanted: FILL_MIN as usize,
            });
        }
        Ok(port)
    }

    /// Sets the reason for this driver.
    pub(super) fn because(mut self, why: String) -> Self {
        self.info.why = why;
        self
    }

    /// Lends buffers for receiving, up to the target.
    fn fill(&mut self, pool: &mut Pool) {
        let want = self.fill_target - self.filled;
        let Ok(room) = self.socket.fill.room(want) else {
            self.stats.ring_fault += 1;
            return;
        };
        for _ in 0..want.min(room) {
            let Some(frame) = pool.alloc_frame_for(Owner::Driver(self.info.index)) else {
                // The kernel counts what it drops for want of a buffer; this says why it has none.
                self.stats.fill_starved += 1;
                break;
            };
            self.socket
                .fill
                .push(u64::from(frame.buf.0) * FRAME_LEN as u64);
            self.lent[frame.buf.0 as usize] = Lent::Fill;
            self.filled += 1;
        }
        self.socket.fill.submit();
    }

    /// The chunk that an address from the kernel names, if it was lent as `lent`; it is ours again then.
    fn take_back(&mut self, addr: u64, lent: Lent) -> Option<BufId> {
        let chunk = u32::try_from(addr / u64::from(CHUNK_LEN)).ok()?;
        let known = self.lent.get_mut(chunk as usize)?;
        if *known != lent {
            return None;
        }
        *known = Lent::No;
        Some(BufId(chunk))
    }

    pub(super) fn rx(&mut self, pool: &mut Pool, out: &mut Burst) -> usize {
        self.complete(pool);
        let want = u32::try_from(out.remaining_capacity()).expect("a burst is small");
        let Ok(available) = self.socket.rx.available(want) else {
            self.stats.ring_fault += 1;
            return 0;
        };
        let (before, mut bytes) = (out.len(), 0);
        for _ in 0..available.min(want) {
            let desc = self.socket.rx.pop();
            if let Some(frame) = self.receive(pool, desc) {
                bytes += u64::from(frame.len);
                out.push(frame);
            }
        }
        self.socket.rx.release();
        let count = out.len() - before;
        self.link_up |= count > 0;
        self.stats.rx_frames += count as u64;
        self.stats.rx_bytes += bytes;
        // Topped up by the burst, not by the frame.
        if self.filled + self.fill_batch <= self.fill_target {
            self.fill(pool);
        }
        if self.wants_kick() {
            self.kick_tx();
        } else if count == 0 && self.socket.fill.needs_wakeup() && self.socket.kick_rx().is_err() {
            self.stats.syscall_errors += 1;
        }
        count
    }

    fn receive(&mut self, pool: &mut Pool, desc: Desc) -> Option<Frame> {
        let Some(buf) = self.take_back(desc.addr, Lent::Fill) else {
            self.stats.rx_bad_descriptor += 1;
            return None;
        };
        self.filled -= 1;
        // Options: the packet goes on in another descriptor, which was not asked for.
        let frame = if desc.options == 0 {
            pool.frame_from_addr(desc.addr, desc.len)
        } else {
            None
        };
        let Some(frame) = frame else {
            self.stats.rx_bad_descriptor += 1;
            pool.release(parts::handle(buf));
            return None;
        };
        pool.set_owner(&frame, Owner::Forward);
        Some(frame)
    }

    /// Takes back the frames that were sent.
    fn complete(&mut self, pool: &mut Pool) {
        if self.sending == 0 {
            return;
        }
        let Ok(available) = self.socket.completion.available(TX_RING_LEN) else {
            self.stats.ring_fault += 1;
            return;
        };
        for _ in 0..available {
            let addr = self.socket.completion.pop();
            match self.take_back(addr, Lent::Tx) {
                Some(buf) => {
                    self.sending -= 1;
                    pool.release(parts::handle(buf));
                }
                None => self.stats.rx_bad_descriptor += 1,
            }
        }
        self.socket.completion.release();
    }

    pub(super) fn tx(&mut self, pool: &mut Pool, burst: &mut Burst) {
        self.complete(pool);
        let want = u32::try_from(burst.len()).expect("a burst is small");
        // No more than the completion ring takes back.
        let Ok(room) = self.socket.tx.room(want) else {
            self.stats.ring_fault += 1;
            return;
        };
        let room = room.min(TX_RING_LEN - self.sending);
        let taken = want.min(room);
        self.stats.tx_full += u64::from(taken < want);
        for frame in burst.drain(..taken as usize) {
            if let Some(frame) = self.make_sendable(pool, frame) {
                self.lent[frame.buf.0 as usize] = Lent::Tx;
                self.sending += 1;
                self.stats.tx_frames += 1;
                self.stats.tx_bytes += u64::from(frame.len);
                pool.set_owner(&frame, Owner::Driver(self.info.index));
                self.socket.tx.push(Desc {
                    addr: pool.addr(&frame),
                    len: frame.len,
                    options: 0,
                });
            }
        }
        self.socket.tx.submit();
        if self.wants_kick() {
            self.kick_tx();
        }
    }

    /// One packet in one chunk with its checksum complete; `None` if it was dropped.
    fn make_sendable(&mut self, pool: &mut Pool, mut frame: Frame) -> Option<Frame> {
        let len = pool.packet_len(&frame);
        let dropped = if frame.gso.is_some() {
            Some(&mut self.stats.gso_unsupported)
        } else if len > self.info.mtu as usize + ETHERNET_HEADER_LEN {
            Some(&mut self.stats.tx_too_long)
        } else if len < ETHERNET_HEADER_LEN {
            Some(&mut self.stats.tx_runt)
        } else {
            None
        };
        if let Some(counter) = dropped {
            *counter += 1;
            pool.release(frame);
            return None;
        }
        // A chain, or a packet beyond the first chunk of a page: the card takes neither.
        if frame.next.is_some() || usize::from(frame.offset) + frame.len as usize > FRAME_LEN {
            let copy = parts::duplicate_in_frame(pool, &frame);
            pool.release(frame);
            let Some(copy) = copy else {
                self.stats.tx_no_buffer += 1;
                return None;
            };
            frame = copy;
        }
        if let Checksum::Partial { start, offset } = frame.checksum
            && checksum::complete(pool.bytes_mut(&frame), start, offset).is_err()
        {
            self.stats.tx_bad_checksum_mark += 1;
            pool.release(frame);
            return None;
        }
        Some(frame)
    }

    /// Descriptors are in the tx ring that the kernel has not looked at, and will not unless it is told.
    fn wants_kick(&self) -> bool {
        self.socket.tx.needs_wakeup() && self.socket.tx.backlog() > 0
    }

    /// While the link is down they wait for it, and nobody needs to stay awake for them.
    pub(super) fn tx_pending(&self) -> bool {
        self.link_up && self.wants_kick()
    }

    fn kick_tx(&mut self) {
        let Err(error) = self.socket.kick_tx() else {
            self.link_up = true;
            return;
        };
        match error.raw_os_error() {
            // Some went, the rest goes with the next kick.
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => {}
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                self.stats.link_down += u64::from(self.link_up);
                self.link_up = false;
            }
            _ => self.stats.syscall_errors += 1,
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

    pub(super) fn refresh_stats(&mut self) {
        match self.socket.statistics() {
            Ok(kernel) => {
                let dropped =
                    kernel.rx_dropped + kernel.rx_ring_full + kernel.rx_fill_ring_empty_descs;
                self.stats.rx_kernel_dropped += dropped.saturating_sub(self.kernel_dropped);
                self.kernel_dropped = dropped;
            }
            Err(_) => self.stats.syscall_errors += 1,
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.fd().as_raw_fd()
    }

    pub(super) fn close(self, pool: &mut Pool) {
        let Self {
            _redirect: redirect,
            socket,
            lent,
            ..
        } = self;
        // The kernel must have let go of the chunks before they are anyone's: the program first, so that
        // nothing comes any more, then rings and socket.
        drop(redirect);
        drop(socket);
        for (chunk, lent) in (0u32..).zip(lent) {
            if lent != Lent::No {
                pool.release(parts::handle(BufId(chunk)));
            }
        }
    }
}

//! AF_PACKET with `PACKET_VNET_HDR`: any Ethernet device, GSO frames and
//! partial checksums pass whole, each way.
//!
//! One `recvmmsg` or `sendmmsg` a burst. Each receive slot keeps two buffers
//! armed, and the kernel fills one after the other:
//!
//! ```text
//!   frame (4 KiB):  HEADROOM | 1984 bytes                      a packet of up to 1984 bytes ends here
//!   page (64 KiB):  HEADROOM | (1984 bytes) | 63488 bytes ...  the rest of a longer one
//! ```
//!
//! So a packet of an MTU of 1500 takes a frame and no copy, and the page stays
//! armed: small packets waiting in queues do not hold pages. A longer one (GSO)
//! is handed over in the page, after its first 1984 bytes were copied in front
//! of the rest: that is the only copy, and TCP gets its payload in one piece.
//!
//! Not done here: keeping the host's own stack from answering what it also
//! sees (a drop rule, set up by whoever starts the relay).

mod socket;

use std::io;
use std::os::fd::RawFd;

use sluice_hugepages::pool::{Burst, Frame, HEADROOM, Owner, PAGE_LEN, Pool};

use self::socket::{PacketSocket, ReceiveSlots, SendSlots};
use super::device::Device;
use super::parts;
use super::port::{Driver, PortInfo};
use super::{ETHERNET_HEADER_LEN, PortError, PortStats, vnet_hdr};

/// Frames received in one call, each with a frame and a page armed for it: 2 MiB of pages a port.
pub const RX_SLOTS: usize = 32;
/// Bytes of a packet that the first buffer takes: half a frame, room for an MTU of 1500 with any
/// tunnel's headers, and little to copy for a longer packet.
const FIRST_LEN: usize = 2048 - HEADROOM;
/// Bytes of a packet that a page takes. GSO frames of Linux stay under 64 KiB with their headers;
/// in a page with headroom the very longest forwarded ones (above 65472) do not fit, and are counted.
const PACKET_LEN_MAX: usize = PAGE_LEN - HEADROOM;

/// See the module.
#[derive(Debug)]
pub struct AfPacketPort {
    info: PortInfo,
    stats: PortStats,
    socket: PacketSocket,
    receive: ReceiveSlots<RX_SLOTS>,
    /// Armed, by slot.
    frames: Vec<Frame>,
    pages: Vec<Frame>,
    send: SendSlots,
    link_up: bool,
}

impl AfPacketPort {
    pub(super) fn open(
        device: &Device,
        index: u8,
        why: String,
        pool: &mut Pool,
    ) -> Result<Self, PortError> {
        let socket = PacketSocket::open(device)?;
        let mut port = Self {
            info: PortInfo {
                device: device.name.clone(),
                index,
                driver: Driver::AfPacket,
                why,
                mac: device.mac,
                mtu: device.mtu,
                zero_copy: false,
                gso: true,
                speed_mbit: device.speed_mbit,
            },
            stats: PortStats::default(),
            socket,
            receive: ReceiveSlots::new(),
            frames: Vec::with_capacity(RX_SLOTS),
            pages: Vec::with_capacity(RX_SLOTS),
            send: SendSlots::new(),
            link_up: true,
        };
        for slot in 0..RX_SLOTS {
            let buffers = if let Some(page) = pool.alloc_page_frame_for(Owner::Driver(index)) {
                port.pages.push(page);
                pool.alloc_frame_for(Owner::Driver(index))
                    .map(|frame| port.frames.push(frame))
                    .ok_or("frames")
            } else {
                Err("whole pages")
            };
            if let Err(buffers) = buffers {
                port.close(pool);
                return Err(PortError::NoBuffers {
                    device: device.name.clone(),
                    buffers,
                    wanted: RX_SLOTS,
                });
            }
            port.arm_frame(pool, slot);
            port.arm_page(pool, slot);
        }
        Ok(port)
    }

    fn arm_frame(&mut self, pool: &mut Pool, slot: usize) {
        pool.set(&mut self.frames[slot], HEADROOM, FIRST_LEN);
        self.receive.arm(
            slot,
            0,
            parts::buffer_ptr(pool, &self.frames[slot], HEADROOM, FIRST_LEN),
            FIRST_LEN,
        );
    }

    fn arm_page(&mut self, pool: &Pool, slot: usize) {
        let len = PACKET_LEN_MAX - FIRST_LEN;
        let base = parts::buffer_ptr(pool, &self.pages[slot], HEADROOM + FIRST_LEN, len);
        self.receive.arm(slot, 1, base, len);
    }

    pub(super) fn rx(&mut self, pool: &mut Pool, out: &mut Burst) -> usize {
        let want = out.remaining_capacity().min(RX_SLOTS);
        if want == 0 {
            return 0;
        }
        // SAFETY: each slot is armed with a frame and a page that this port owns, and nobody else has
        // a reference into the pool, which is borrowed here.
        let received = match unsafe { self.receive.receive(&self.socket, want) } {
            Ok(received) => received,
            Err(error) => {
                self.receive_failed(&error);
                return 0;
            }
        };
        self.link_up |= received > 0;
        let (before, mut bytes) = (out.len(), 0);
        for slot in 0..received {
            if let Some(frame) = self.deliver(pool, slot) {
                bytes += u64::from(frame.len);
                out.push(frame);
            }
        }
        let count = out.len() - before;
        self.stats.rx_frames += count as u64;
        self.stats.rx_bytes += bytes;
        count
    }

    /// Makes a frame of what is in a slot, and arms the slot anew. If it is dropped, its buffers
    /// stay armed, so the port never runs out of them.
    fn deliver(&mut self, pool: &mut Pool, slot: usize) -> Option<Frame> {
        let received = self.receive.received(slot);
        let len = received.len;
        if received.truncated || len > PACKET_LEN_MAX {
            self.stats.rx_truncated += 1;
            return None;
        }
        let first = len.min(FIRST_LEN);
        let head = &pool.bytes(&self.frames[slot])[..first];
        let Ok((checksum, gso)) = vnet_hdr::decode(&received.header, head, len) else {
            self.stats.rx_bad_header += 1;
            return None;
        };
        let driver = Owner::Driver(self.info.index);
        let spare = if len <= FIRST_LEN {
            pool.alloc_frame_for(driver)
        } else {
            pool.alloc_page_frame_for(driver)
        };
        let Some(spare) = spare else {
            self.stats.rx_no_buffer += 1;
            return None;
        };
        let mut frame = if len <= FIRST_LEN {
            let frame = std::mem::replace(&mut self.frames[slot], spare);
            self.arm_frame(pool, slot);
            frame
        } else {
            parts::copy_between(
                pool,
                &self.frames[slot],
                &self.pages[slot],
                HEADROOM,
                FIRST_LEN,
            );
            let page = std::mem::replace(&mut self.pages[slot], spare);
            self.arm_page(pool, slot);
            page
        };
        pool.set(&mut frame, HEADROOM, len);
        pool.set_owner(&frame, Owner::Forward);
        frame.checksum = checksum;
        frame.gso = gso;
        Some(frame)
    }

    fn receive_failed(&mut self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => {}
            Some(libc::ENETDOWN) => self.link_went_down(),
            _ => self.stats.syscall_errors += 1,
        }
    }

    fn link_went_down(&mut self) {
        self.stats.link_down += u64::from(self.link_up);
        self.link_up = false;
    }

    pub(super) fn tx(&mut self, pool: &mut Pool, burst: &mut Burst) {
        // A frame that cannot be sent ends the burst that is offered to the kernel; when it stands
        // in front it is dropped. They are a fault of whoever made them, and rare.
        while let Some(frame) = burst.first() {
            if self.offer(pool, 0, frame) {
                break;
            }
            self.count_unsendable(pool, frame);
            pool.release(burst.remove(0));
        }
        let mut offered = usize::from(!burst.is_empty());
        if offered == 0 {
            return;
        }
        while offered < burst.len() && self.offer(pool, offered, &burst[offered]) {
            offered += 1;
        }
        // SAFETY: the messages point to the bytes of frames in `burst`, which are released after the call.
        match unsafe { self.send.send(&self.socket, offered) } {
            Ok(sent) => {
                self.link_up |= sent > 0;
                self.stats.tx_full += u64::from(sent < offered);
                self.stats.tx_frames += sent as u64;
                for frame in burst.drain(..sent) {
                    self.stats.tx_bytes += pool.packet_len(&frame) as u64;
                    pool.release(frame);
                }
            }
            Err(error) => self.send_failed(&error, pool, burst),
        }
    }

    /// Prepares a message of the frame; false if it cannot be one.
    fn offer(&mut self, pool: &Pool, slot: usize, frame: &Frame) -> bool {
        let len = pool.packet_len(frame);
        if len < ETHERNET_HEADER_LEN || (frame.gso.is_none() && len > self.wire_len_max()) {
            return false;
        }
        self.send.start(
            slot,
            vnet_hdr::encode(frame.checksum, frame.gso, pool.bytes(frame)),
        );
        pool.parts(frame).all(|bytes| self.send.add(slot, bytes))
    }

    fn count_unsendable(&mut self, pool: &Pool, frame: &Frame) {
        if pool.packet_len(frame) < ETHERNET_HEADER_LEN {
            self.stats.tx_runt += 1;
        } else {
            self.stats.tx_too_long += 1;
        }
    }

    fn wire_len_max(&self) -> usize {
        self.info.mtu as usize + ETHERNET_HEADER_LEN
    }

    /// The first frame was not sent.
    fn send_failed(&mut self, error: &io::Error, pool: &mut Pool, burst: &mut Burst) {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR | libc::ENOMEM) => {
                self.stats.tx_full += 1
            }
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                self.link_went_down();
                // What is kept for later would be stale: its senders will have sent again.
                self.stats.tx_link_down += burst.len() as u64;
                for frame in burst.drain(..) {
                    pool.release(frame);
                }
            }
            _ => {
                self.stats.tx_refused += 1;
                pool.release(burst.remove(0));
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

    pub(super) fn refresh_stats(&mut self) {
        match self.socket.take_dropped() {
            Ok(dropped) => self.stats.rx_kernel_dropped += dropped,
            Err(_) => self.stats.syscall_errors += 1,
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.raw_fd()
    }

    pub(super) fn close(self, pool: &mut Pool) {
        drop(self.socket);
        for frame in self.frames.into_iter().chain(self.pages) {
            pool.release(frame);
        }
    }
}

//! Frames in and out of one network device by `recvmmsg` and `sendmmsg` on a
//! packet socket, and the memory that they wait in.
//!
//! Always holds: a slot is in exactly one place: free, armed for receive, or
//! in the hands of the caller. All system calls on packets are here.
//!
//! Not for: GSO frames or partial checksums. The devices at both ends, and
//! those of their peers, have offloads and GRO off; a frame too large for a
//! slot is counted and dropped.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Frames a system call.
pub const BATCH: usize = 64;

/// Asked of the kernel for each socket: what arrives at 1 Gbit/s in some
/// 100 ms, while the emulator is not scheduled, counted with skb overhead.
const SOCKET_BUFFER_BYTES: libc::c_int = 32 << 20;

/// Slots in a chunk of memory, the step in which the store grows.
const CHUNK_SLOTS: u32 = 512;

/// A frame in the store.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub slot: u32,
    pub bytes: u32,
}

/// Slots of one size, grown on demand up to a limit and then reused, the
/// warmest first.
#[derive(Debug)]
pub struct Store {
    chunks: Vec<Box<[u8]>>,
    free: Vec<u32>,
    slot_bytes: u32,
    chunks_max: usize,
}

impl Store {
    /// `slot_bytes`: the largest frame, Ethernet header included.
    pub fn new(slot_bytes: u32, bytes_max: u64) -> Store {
        let chunk_bytes = u64::from(slot_bytes) * u64::from(CHUNK_SLOTS);
        // One chunk for each port's armed batch and for frames inside.
        let chunks_max = usize::try_from(bytes_max / chunk_bytes)
            .unwrap_or(usize::MAX)
            .max(1);
        Store {
            chunks: Vec::new(),
            free: Vec::new(),
            slot_bytes,
            chunks_max,
        }
    }

    /// A slot to write a frame into; `None` at the limit.
    pub fn take(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            if self.chunks.len() == self.chunks_max {
                return None;
            }
            let first = u32::try_from(self.chunks.len())
                .ok()?
                .checked_mul(CHUNK_SLOTS)?;
            let chunk_bytes = self.slot_bytes as usize * CHUNK_SLOTS as usize;
            self.chunks.push(vec![0; chunk_bytes].into_boxed_slice());
            self.free
                .extend((first..first.checked_add(CHUNK_SLOTS)?).rev());
        }
        self.free.pop()
    }

    pub fn release(&mut self, slot: u32) {
        self.free.push(slot);
    }

    pub fn bytes(&self, frame: Stored) -> &[u8] {
        let start = self.offset(frame.slot);
        &self.chunks[(frame.slot / CHUNK_SLOTS) as usize][start..start + frame.bytes as usize]
    }

    /// All bytes of a slot.
    pub fn slot_mut(&mut self, slot: u32) -> &mut [u8] {
        let start = self.offset(slot);
        let end = start + self.slot_bytes as usize;
        &mut self.chunks[(slot / CHUNK_SLOTS) as usize][start..end]
    }

    fn offset(&self, slot: u32) -> usize {
        (slot % CHUNK_SLOTS) as usize * self.slot_bytes as usize
    }
}

/// A packet socket bound to a device.
#[derive(Debug)]
pub struct PacketPort {
    socket: OwnedFd,
    armed: Vec<u32>,
    /// Of a frame larger than a slot the beginning is kept.
    cuts: bool,
    /// Frames that were larger than a slot, and dropped.
    pub oversize: u64,
    /// Frames that the device did not take.
    pub send_failed: u64,
}

/// A batch of message headers over `vectors`, one vector each.
fn headers(vectors: &mut [libc::iovec]) -> Vec<libc::mmsghdr> {
    vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: a msghdr of zeroes is valid: no name, no vectors, no
            // control data.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect()
}

impl PacketPort {
    /// Opens the device of that name in the current network namespace.
    pub fn open(device: &str) -> io::Result<PacketPort> {
        let port = Self::bind(device, false)?;
        set_option(port.fd(), libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        Ok(port)
    }

    /// Listens to what arrives at the device and what leaves it; of a frame that is larger
    /// than a slot the beginning is received.
    pub fn tap(device: &str) -> io::Result<PacketPort> {
        Self::bind(device, true)
    }

    fn bind(device: &str, tap: bool) -> io::Result<PacketPort> {
        let name = CString::new(device)?;
        // SAFETY: `name` is a C string that outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let index = i32::try_from(index).ok().filter(|&index| index > 0);
        let index = index.ok_or_else(io::Error::last_os_error)?;
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; protocol 0 receives nothing until bound.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: just opened and owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let ignored = i32::from(!tap);
        set_option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, ignored)?;
        set_option(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            SOCKET_BUFFER_BYTES,
        )?;
        set_option(
            fd,
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            SOCKET_BUFFER_BYTES,
        )?;
        // SAFETY: a sockaddr_ll of zeroes is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = short(libc::AF_PACKET);
        address.sll_protocol = short(libc::ETH_P_ALL).to_be();
        address.sll_ifindex = index;
        let length = length_of::<libc::sockaddr_ll>();
        // SAFETY: `address` is a sockaddr_ll of the length given.
        check(unsafe { libc::bind(fd, (&raw const address).cast(), length) })?;
        Ok(PacketPort {
            socket,
            armed: Vec::with_capacity(BATCH),
            cuts: tap,
            oversize: 0,
            send_failed: 0,
        })
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Receives up to a batch without waiting; the frames become the caller's.
    /// With the store at its limit nothing is received: frames wait in the
    /// socket and are lost there, as [`PacketPort::socket_drops`] tells.
    pub fn receive(&mut self, store: &mut Store, out: &mut Vec<Stored>) -> io::Result<()> {
        while self.armed.len() < BATCH {
            let Some(slot) = store.take() else { break };
            self.armed.push(slot);
        }
        let mut vectors: Vec<libc::iovec> = self
            .armed
            .iter()
            .map(|&slot| {
                let bytes = store.slot_mut(slot);
                libc::iovec {
                    iov_base: bytes.as_mut_ptr().cast(),
                    iov_len: bytes.len(),
                }
            })
            .collect();
        let mut headers = headers(&mut vectors);
        let count = u32::try_from(headers.len()).expect("at most BATCH");
        // SAFETY: `count` headers, each over one live vector that points into
        // a slot of its own (armed slots are distinct and in no other hands).
        let received = check(unsafe {
            libc::recvmmsg(
                self.fd(),
                headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        });
        let received = match received {
            Ok(received) => received.unsigned_abs() as usize,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        for (header, slot) in headers[..received].iter().zip(self.armed.drain(..received)) {
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 && !self.cuts {
                self.oversize += 1;
                store.release(slot);
            } else {
                out.push(Stored {
                    slot,
                    bytes: header.msg_len,
                });
            }
        }
        Ok(())
    }

    /// Sends up to a batch of frames; they stay the caller's.
    pub fn send(&mut self, store: &mut Store, frames: &[Stored]) -> io::Result<()> {
        let mut vectors: Vec<libc::iovec> = frames
            .iter()
            .map(|frame| libc::iovec {
                iov_base: store.slot_mut(frame.slot).as_mut_ptr().cast(),
                iov_len: frame.bytes as usize,
            })
            .collect();
        let mut headers = headers(&mut vectors);
        let mut sent = 0;
        while sent < headers.len() {
            let rest = &mut headers[sent..];
            let count = u32::try_from(rest.len()).expect("at most BATCH");
            // SAFETY: `count` headers over live vectors, each within its slot.
            let result = check(unsafe {
                libc::sendmmsg(self.fd(), rest.as_mut_ptr(), count, libc::MSG_DONTWAIT)
            });
            match result {
                Ok(taken) => sent += taken.unsigned_abs() as usize,
                Err(error) => match error.raw_os_error() {
                    // The frame at the head was refused: the peer's queue is
                    // full or its end is down. A link loses it and goes on.
                    Some(libc::ENOBUFS | libc::EAGAIN | libc::ENETDOWN) => {
                        self.send_failed += 1;
                        sent += 1;
                    }
                    Some(libc::EINTR) => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Frames lost in the socket's receive buffer since the last call.
    pub fn socket_drops(&self) -> io::Result<u64> {
        let mut stats = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = length_of::<libc::tpacket_stats>();
        // SAFETY: `stats` is as long as `length` says.
        check(unsafe {
            libc::getsockopt(
                self.fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        })?;
        Ok(u64::from(stats.tp_drops))
    }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a few bytes")
}

fn short(constant: libc::c_int) -> u16 {
    u16::try_from(constant).expect("a constant of 16 bits")
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn set_option(fd: RawFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let length = length_of::<libc::c_int>();
    // SAFETY: `value` is an int, of the length given.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_grows_to_its_limit_and_reuses() {
        let mut store = Store::new(2048, 2048 * u64::from(CHUNK_SLOTS) * 2);
        let slots: Vec<u32> = std::iter::from_fn(|| store.take()).collect();
        assert_eq!(slots, (0..2 * CHUNK_SLOTS).collect::<Vec<_>>());
        store.slot_mut(700)[..3].copy_from_slice(b"abc");
        assert_eq!(
            store.bytes(Stored {
                slot: 700,
                bytes: 3
            }),
            b"abc"
        );
        assert_eq!(
            store
                .slot_mut(699)
                .iter()
                .filter(|&&byte| byte != 0)
                .count(),
            0
        );
        store.release(700);
        assert_eq!(store.take(), Some(700));
        assert_eq!(store.take(), None);
    }
}

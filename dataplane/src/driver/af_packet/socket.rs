//! The system calls of an AF_PACKET port: open and configure the socket,
//! receive and send many frames in one call each.
//!
//! Knows file descriptors, headers and memory, not frames or pools. The
//! message arrays are made once and point into themselves, so they are boxed
//! and never moved.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use sluice_hugepages::pool::BURST_LEN;

use crate::driver::PortError;
use crate::driver::device::Device;
use crate::driver::vnet_hdr::VNET_HDR_LEN;

// linux/if_packet.h
const PACKET_STATISTICS: libc::c_int = 6;
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Asked for as socket buffers. Receiving: 64 GSO frames of 64 KiB with the kernel's own
/// overhead, so that a sleeping worker loses nothing for some milliseconds. Sending: two bursts.
const RECEIVE_BUFFER_BYTES: libc::c_int = 16 << 20;
const SEND_BUFFER_BYTES: libc::c_int = 8 << 20;

/// Parts of an outgoing packet: 64 KiB in 4 KiB frames, one more for headers and one for a ragged end.
pub const SEND_PARTS: usize = 18;

/// An AF_PACKET socket bound to one device: non-blocking, every protocol, not promiscuous, with
/// `virtio_net_hdr`, without the device's own outgoing frames.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// # Errors
    /// The step that the kernel refused.
    pub fn open(device: &Device) -> Result<Self, PortError> {
        // Protocol 0: before it is bound it receives from no device.
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                0,
            )
        };
        if fd < 0 {
            return Err(PortError::os(&device.name, "open an AF_PACKET socket"));
        }
        // SAFETY: `fd` was just made, and nobody else has it.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { fd: owned };
        let failed = |step| {
            move |source| PortError::Os {
                device: device.name.clone(),
                step,
                source,
            }
        };
        socket
            .set(libc::SOL_PACKET, PACKET_VNET_HDR, &1i32)
            .map_err(failed("set PACKET_VNET_HDR"))?;
        socket
            .set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32)
            .map_err(failed("set PACKET_IGNORE_OUTGOING"))?;
        socket
            .refuse_vlan_tags()
            .map_err(failed("attach the VLAN filter"))?;
        // Beyond the sysctl's limit with privilege; a smaller buffer is no reason not to start.
        for (force, plain, bytes) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER_BYTES),
        ] {
            if socket.set(libc::SOL_SOCKET, force, &bytes).is_err() {
                let _ = socket.set(libc::SOL_SOCKET, plain, &bytes);
            }
        }
        // SAFETY: integers and a byte array; zeroes are a value of each.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("17");
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).expect("3").to_be();
        address.sll_ifindex =
            i32::try_from(device.ifindex).expect("the kernel's ifindex is an int");
        let len = libc::socklen_t::try_from(size_of_val(&address)).expect("20");
        // SAFETY: `address` is a sockaddr_ll of that length and outlives the call.
        if unsafe { libc::bind(fd, (&raw const address).cast(), len) } < 0 {
            return Err(PortError::os(&device.name, "bind an AF_PACKET socket"));
        }
        Ok(socket)
    }

    fn set<T: Copy>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let len = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
        // SAFETY: `value` is `len` bytes and outlives the call.
        let done = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                len,
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// The kernel strips a VLAN tag before this socket sees the frame, which would then look like
    /// one of the untagged network: tagged frames belong to other ports and are left to the kernel.
    fn refuse_vlan_tags(&self) -> io::Result<()> {
        let statement = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        // BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
        let mut filter = [
            statement(
                0x20,
                0,
                0,
                (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT).cast_unsigned(),
            ),
            statement(0x15, 1, 0, 0),
            statement(0x06, 0, 0, 0),
            statement(0x06, 0, 0, u32::MAX),
        ];
        let program = libc::sock_fprog {
            len: 4,
            filter: filter.as_mut_ptr(),
        };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    /// Frames that the kernel dropped at this socket since the last call.
    pub fn take_dropped(&self) -> io::Result<u64> {
        // struct tpacket_stats { tp_packets, tp_drops }; reading it clears it.
        let mut stats = [0u32; 2];
        let mut len = libc::socklen_t::try_from(size_of_val(&stats)).expect("8");
        // SAFETY: `stats` has the `len` bytes that may be written, and both outlive the call.
        let done = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(u64::from(stats[1]))
        }
    }

    pub fn raw_fd(&self) -> libc::c_int {
        self.fd.as_raw_fd()
    }
}

const NO_PART: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// What `recvmmsg` fills: a header and two buffers a message.
pub struct ReceiveSlots<const N: usize> {
    headers: Box<[[u8; VNET_HDR_LEN]; N]>,
    parts: Box<[[libc::iovec; 3]; N]>,
    messages: Box<[libc::mmsghdr; N]>,
}

// SAFETY: the pointers go to the boxes beside them and to what was armed, none of it tied to a thread.
unsafe impl<const N: usize> Send for ReceiveSlots<N> {}

impl<const N: usize> std::fmt::Debug for ReceiveSlots<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveSlots")
            .field("slots", &N)
            .finish_non_exhaustive()
    }
}

/// A message as it was received.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub header: [u8; VNET_HDR_LEN],
    /// Bytes of the frame that are in the buffers.
    pub len: usize,
    /// The frame was longer than the buffers.
    pub truncated: bool,
}

impl<const N: usize> ReceiveSlots<N> {
    pub fn new() -> Self {
        let mut slots = Self {
            headers: Box::new([[0; VNET_HDR_LEN]; N]),
            parts: Box::new([[NO_PART; 3]; N]),
            // SAFETY: `mmsghdr` is integers and raw pointers; zeroes are a value of each.
            messages: Box::new(unsafe { std::mem::zeroed() }),
        };
        for ((header, parts), message) in slots
            .headers
            .iter_mut()
            .zip(slots.parts.iter_mut())
            .zip(slots.messages.iter_mut())
        {
            parts[0] = libc::iovec {
                iov_base: header.as_mut_ptr().cast(),
                iov_len: VNET_HDR_LEN,
            };
            message.msg_hdr.msg_iov = parts.as_mut_ptr();
            message.msg_hdr.msg_iovlen = parts.len();
        }
        slots
    }

    /// Sets where slot `slot` receives: first into one buffer, then into the other.
    pub fn arm(&mut self, slot: usize, buffer: usize, base: *mut u8, len: usize) {
        self.parts[slot][1 + buffer] = libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        };
    }

    /// Fills at most `count` slots, from the first on, without waiting; says how many.
    ///
    /// # Safety
    /// What was armed in the first `count` slots is memory that nobody else uses during the call.
    pub unsafe fn receive(&mut self, socket: &PacketSocket, count: usize) -> io::Result<usize> {
        assert!(count <= N, "{count} of {N} slots");
        let vlen = libc::c_uint::try_from(count).expect("N is small");
        // SAFETY: `count` messages point to parts that are valid (boxed here, armed by the caller's promise).
        let received = unsafe {
            libc::recvmmsg(
                socket.fd.as_raw_fd(),
                self.messages.as_mut_ptr(),
                vlen,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// What slot `slot` received in the last call.
    pub fn received(&self, slot: usize) -> Received {
        let message = &self.messages[slot];
        Received {
            header: self.headers[slot],
            len: (message.msg_len as usize).saturating_sub(VNET_HDR_LEN),
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        }
    }
}

/// What `sendmmsg` sends: a header and some parts a message.
pub struct SendSlots {
    headers: Box<[[u8; VNET_HDR_LEN]; BURST_LEN]>,
    parts: Box<[[libc::iovec; 1 + SEND_PARTS]; BURST_LEN]>,
    messages: Box<[libc::mmsghdr; BURST_LEN]>,
}

// SAFETY: as for `ReceiveSlots`.
unsafe impl Send for SendSlots {}

impl std::fmt::Debug for SendSlots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendSlots").finish_non_exhaustive()
    }
}

impl SendSlots {
    pub fn new() -> Self {
        let mut slots = Self {
            headers: Box::new([[0; VNET_HDR_LEN]; BURST_LEN]),
            parts: Box::new([[NO_PART; 1 + SEND_PARTS]; BURST_LEN]),
            // SAFETY: `mmsghdr` is integers and raw pointers; zeroes are a value of each.
            messages: Box::new(unsafe { std::mem::zeroed() }),
        };
        for ((header, parts), message) in slots
            .headers
            .iter_mut()
            .zip(slots.parts.iter_mut())
            .zip(slots.messages.iter_mut())
        {
            parts[0] = libc::iovec {
                iov_base: header.as_mut_ptr().cast(),
                iov_len: VNET_HDR_LEN,
            };
            message.msg_hdr.msg_iov = parts.as_mut_ptr();
        }
        slots
    }

    /// Begins the message of slot `slot`.
    pub fn start(&mut self, slot: usize, header: [u8; VNET_HDR_LEN]) {
        self.headers[slot] = header;
        self.messages[slot].msg_hdr.msg_iovlen = 1;
    }

    /// Adds bytes to it; false if it has [`SEND_PARTS`] already.
    pub fn add(&mut self, slot: usize, bytes: &[u8]) -> bool {
        let message = &mut self.messages[slot].msg_hdr;
        let Some(part) = self.parts[slot].get_mut(message.msg_iovlen) else {
            return false;
        };
        *part = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        message.msg_iovlen += 1;
        true
    }

    /// Sends the first `count` messages without waiting; says how many went. An error is the
    /// first message's.
    ///
    /// # Safety
    /// The bytes added to the first `count` messages are still there, and nobody writes them.
    pub unsafe fn send(&mut self, socket: &PacketSocket, count: usize) -> io::Result<usize> {
        assert!(count <= BURST_LEN, "{count} messages");
        let vlen = libc::c_uint::try_from(count).expect("BURST_LEN is small");
        // SAFETY: `count` messages point to parts that are valid (boxed here, added by the caller's promise).
        let sent = unsafe {
            libc::sendmmsg(
                socket.fd.as_raw_fd(),
                self.messages.as_mut_ptr(),
                vlen,
                libc::MSG_DONTWAIT as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

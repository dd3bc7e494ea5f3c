//! The system calls of an AF_XDP port: the socket, the frame memory registered
//! with it, its four rings, and the kicks.
//!
//! What holds: the rings are unmapped before the socket is closed, because a
//! mapped ring keeps the socket, and with it the queue, alive. The frame memory
//! belongs to the caller and outlives the socket.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use super::ring::{Consumer, Producer, RingParts};
use crate::driver::device::Device;

/// Bytes of a chunk of the frame memory: the largest that aligned chunks may have.
pub const CHUNK_LEN: u32 = 4096;
/// Entries of the fill and rx rings: what a 10 Gbit/s link brings in its smallest packets while a
/// sleeping worker wakes up (2048 of 67 ns are 137 us).
pub const RX_RING_LEN: u32 = 2048;
/// Entries of the tx and completion rings: eight bursts.
pub const TX_RING_LEN: u32 = 512;
/// Frames that a kick may send in copy mode, so that one kick a burst is enough
/// (the kernel's default is 32, and older kernels cannot be told).
const TX_BUDGET: u32 = 64;
/// `XDP_MAX_TX_SKB_BUDGET`, since Linux 6.17.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// A queue stays bound for some 45 ms after its owner was killed: tried again for half a second.
const BIND_TRIES: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// A descriptor of the rx and tx rings, as `struct xdp_desc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desc {
    /// Byte of the frame memory.
    pub addr: u64,
    pub len: u32,
    pub options: u32,
}

/// Memory that the kernel shares with us; unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: it is only unmapped through, by whichever thread owns it.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and the rings in it are dropped with their socket.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A step of opening failed.
#[derive(Debug)]
pub struct Failed {
    pub step: &'static str,
    pub source: io::Error,
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> Failed {
    move |source| Failed { step, source }
}

/// Where the frame memory comes from.
#[derive(Clone, Copy, Debug)]
pub enum FrameMemory {
    /// Register this memory: `base`, a multiple of the page size, and its bytes.
    Register { base: *mut u8, len: usize },
    /// Use what another, bound, socket has registered.
    Shared(RawFd),
}

/// How a socket is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    ZeroCopy,
    Copy,
}

/// Chunks of the frame memory with which zero-copy is tried.
const PROBE_CHUNKS: usize = 16;

#[repr(C, align(4096))]
struct Chunk([u8; CHUNK_LEN as usize]);

/// Whether the queue takes zero-copy, found out with a little memory: to register a pool of
/// gigabytes takes seconds, and on most links the answer is no.
///
/// # Errors
/// The step that the kernel refused.
pub fn probe_zero_copy(device: &Device, queue: u32) -> Result<(), Failed> {
    let mut chunks: Vec<Chunk> = (0..PROBE_CHUNKS).map(|_| Chunk([0; _])).collect();
    let memory = FrameMemory::Register {
        base: chunks.as_mut_ptr().cast(),
        len: PROBE_CHUNKS * size_of::<Chunk>(),
    };
    // SAFETY: `chunks` is dropped after the socket, of which nothing is ever received or sent.
    let socket = unsafe { XdpSocket::bind(device, queue, memory, Mode::ZeroCopy) }?;
    drop(socket);
    drop(chunks);
    Ok(())
}

/// A bound AF_XDP socket and its rings.
#[derive(Debug)]
pub struct XdpSocket {
    pub fill: Producer<u64>,
    pub completion: Consumer<u64>,
    pub rx: Consumer<Desc>,
    pub tx: Producer<Desc>,
    pub zero_copy: bool,
    /// Binds that were refused because a predecessor was still there.
    pub busy_tries: u32,
    // Unmapped before `fd` is closed: fields are dropped in the order in which they stand here.
    _mappings: [Mapping; 4],
    fd: OwnedFd,
}

impl XdpSocket {
    /// Opens, registers or shares the frame memory, maps the rings and binds to `queue`.
    ///
    /// # Errors
    /// The step that the kernel refused; `EBUSY` after half a second of trying.
    ///
    /// # Safety
    /// Memory given as [`FrameMemory::Register`] stays mapped until the socket (and all that share
    /// it) are dropped.
    pub unsafe fn bind(
        device: &Device,
        queue: u32,
        memory: FrameMemory,
        mode: Mode,
    ) -> Result<Self, Failed> {
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(failed("open an AF_XDP socket")(io::Error::last_os_error()));
        }
        // SAFETY: `fd` was just made, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if let FrameMemory::Register { base, len } = memory {
            let registration = libc::xdp_umem_reg {
                addr: base.expose_provenance() as u64,
                len: len as u64,
                chunk_size: CHUNK_LEN,
                headroom: 0,
                flags: 0,
                tx_metadata_len: 0,
            };
            set(&fd, libc::XDP_UMEM_REG, &registration)
                .map_err(failed("register the frame memory (XDP_UMEM_REG)"))?;
        }
        for (option, entries, step) in [
            (libc::XDP_UMEM_FILL_RING, RX_RING_LEN, "make the fill ring"),
            (
                libc::XDP_UMEM_COMPLETION_RING,
                TX_RING_LEN,
                "make the completion ring",
            ),
            (libc::XDP_RX_RING, RX_RING_LEN, "make the rx ring"),
            (libc::XDP_TX_RING, TX_RING_LEN, "make the tx ring"),
        ] {
            set(&fd, option, &entries).map_err(failed(step))?;
        }
        // Only some kernels know it; without it a burst of 64 takes two kicks.
        let _ = set(&fd, XDP_MAX_TX_SKB_BUDGET, &TX_BUDGET);
        let offsets = offsets(&fd).map_err(failed("ask where the rings are (XDP_MMAP_OFFSETS)"))?;
        let step = failed("map the rings");
        let rings = || -> io::Result<_> {
            Ok((
                map::<u64>(
                    &fd,
                    &offsets.fr,
                    RX_RING_LEN,
                    libc::XDP_UMEM_PGOFF_FILL_RING,
                )?,
                map::<u64>(
                    &fd,
                    &offsets.cr,
                    TX_RING_LEN,
                    libc::XDP_UMEM_PGOFF_COMPLETION_RING,
                )?,
                map::<Desc>(
                    &fd,
                    &offsets.rx,
                    RX_RING_LEN,
                    libc::XDP_PGOFF_RX_RING as u64,
                )?,
                map::<Desc>(
                    &fd,
                    &offsets.tx,
                    TX_RING_LEN,
                    libc::XDP_PGOFF_TX_RING as u64,
                )?,
            ))
        };
        let (fill, completion, rx, tx) = rings().map_err(step)?;
        let busy_tries = bind(&fd, device.ifindex, queue, memory, mode)
            .map_err(failed("bind an AF_XDP socket to its queue"))?;
        // SAFETY: the parts lie in the mappings, which live as long as the rings (both are fields of
        // one struct that hands out neither); this process is their only user beside the kernel; every
        // bit pattern is a u64 and a Desc.
        let (fill, completion, rx, tx, mappings) = unsafe {
            (
                Producer::new(fill.1),
                Consumer::new(completion.1),
                Consumer::new(rx.1),
                Producer::new(tx.1),
                [fill.0, completion.0, rx.0, tx.0],
            )
        };
        let zero_copy =
            zero_copy(&fd).map_err(failed("ask whether it is zero-copy (XDP_OPTIONS)"))?;
        Ok(Self {
            fill,
            completion,
            rx,
            tx,
            zero_copy,
            busy_tries,
            _mappings: mappings,
            fd,
        })
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Tells the kernel to look at the tx ring; does not wait.
    pub fn kick_tx(&self) -> io::Result<()> {
        // SAFETY: no buffer is given.
        let done = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Tells the kernel to look at the fill ring; does not wait.
    pub fn kick_rx(&self) -> io::Result<()> {
        // SAFETY: no buffer is given.
        let done = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// What the kernel counted for this socket.
    pub fn statistics(&self) -> io::Result<libc::xdp_statistics> {
        // SAFETY: integers only; zeroes are a value of each.
        let mut statistics: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        get(&self.fd, libc::XDP_STATISTICS, &mut statistics)?;
        Ok(statistics)
    }
}

fn set<T: Copy>(fd: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: `value` is `len` bytes and outlives the call.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
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

/// Reads an option into `value`, a plain struct of integers; says how many bytes it has.
fn get<T: Copy>(fd: &OwnedFd, option: libc::c_int, value: &mut T) -> io::Result<usize> {
    let mut len = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: `value` has the `len` bytes that may be written, and both outlive the call.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            option,
            std::ptr::from_mut(value).cast(),
            &raw mut len,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(len as usize)
    }
}

fn offsets(fd: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: integers only; zeroes are a value of each.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let len = get(fd, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    // Kernels before 5.4 answer with a shorter struct, which has no flags.
    if len < size_of_val(&offsets) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel is older than Linux 5.4",
        ));
    }
    Ok(offsets)
}

fn zero_copy(fd: &OwnedFd) -> io::Result<bool> {
    let mut options = libc::xdp_options { flags: 0 };
    get(fd, libc::XDP_OPTIONS, &mut options)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

fn map<T>(
    fd: &OwnedFd,
    at: &libc::xdp_ring_offset,
    entries: u32,
    page_offset: u64,
) -> io::Result<(Mapping, RingParts<T>)> {
    let offset = |offset: u64| usize::try_from(offset).expect("a ring is small");
    let len = offset(at.desc) + entries as usize * size_of::<T>();
    for index in [at.producer, at.consumer, at.flags] {
        assert!(
            index % 4 == 0 && offset(index) + 4 <= len,
            "ring index at {index} of {len} bytes"
        );
    }
    // SAFETY: a new mapping at a place of the kernel's choice.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            fd.as_raw_fd(),
            libc::off_t::try_from(page_offset).expect("page offsets of rings are below 2^33"),
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = NonNull::new(base.cast::<u8>()).expect("mmap does not map at 0");
    let mapping = Mapping { base, len };
    // SAFETY: the offsets lie in the mapping (checked above), which is page-aligned.
    let parts = unsafe {
        RingParts {
            producer: base.add(offset(at.producer)).cast(),
            consumer: base.add(offset(at.consumer)).cast(),
            flags: base.add(offset(at.flags)).cast(),
            desc: base.add(offset(at.desc)).cast(),
            size: entries,
        }
    };
    assert!(parts.desc.is_aligned(), "descriptors at {}", at.desc);
    Ok((mapping, parts))
}

/// Binds; says how often it was refused because the queue was still taken.
fn bind(
    fd: &OwnedFd,
    ifindex: u32,
    queue: u32,
    memory: FrameMemory,
    mode: Mode,
) -> io::Result<u32> {
    let (flags, shared) = match memory {
        // Mode and wakeups are those of the socket that registered.
        FrameMemory::Shared(fd) => (libc::XDP_SHARED_UMEM, fd.cast_unsigned()),
        FrameMemory::Register { .. } => {
            let mode = if mode == Mode::ZeroCopy {
                libc::XDP_ZEROCOPY
            } else {
                libc::XDP_COPY
            };
            (mode | libc::XDP_USE_NEED_WAKEUP, 0)
        }
    };
    let address = libc::sockaddr_xdp {
        sxdp_family: u16::try_from(libc::AF_XDP).expect("44"),
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared,
    };
    let len = libc::socklen_t::try_from(size_of_val(&address)).expect("16");
    retry_busy(|| {
        // SAFETY: `address` is a sockaddr_xdp of that length and outlives the call.
        let done = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    })
    .map(|((), tries)| tries)
}

/// Runs `step` again while it says `EBUSY`, for a bounded time; says how often it did.
pub fn retry_busy<T>(mut step: impl FnMut() -> io::Result<T>) -> io::Result<(T, u32)> {
    let mut tries = 0;
    loop {
        match step() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries < BIND_TRIES => {
                tries += 1;
                std::thread::sleep(BIND_PAUSE);
            }
            done => return done.map(|value| (value, tries)),
        }
    }
}

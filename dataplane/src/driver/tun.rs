//! The way to the host's kernel: a TUN device, so that what runs on the box
//! (ssh, routing daemons, ping) has the router's addresses while no port has.
//!
//! What always holds: the device exists only while the port does, so after a
//! crash the addresses are gone and the host is as cut off as before;
//! its frames start with the IPv4 header and keep their marks (`IFF_VNET_HDR`);
//! a burst from the kernel is short and asked for at a bounded rate, so that
//! the host cannot starve the ports.
//!
//! Layer 3, since Ethernet and ARP are the router's. Not for speed: a system
//! call a packet. Not for: which packets the kernel may have (`net`).

use std::ffi::{c_char, c_int, c_short, c_ulong};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_hugepages::pool::{Burst, FRAME_LEN, Frame, HEADROOM, Pool};
use sluice_proto::Time;

use super::port::{Driver, PortInfo};
use super::vnet_hdr::{self, VNET_HDR_LEN};
use super::{ETHERNET_HEADER_LEN, PortError, PortStats, parts};

/// Packets taken from the kernel at a time.
const RX_BURST: usize = 16;
/// Between two looks while the kernel had nothing: a spinning worker makes no
/// system call for it in each step. (One that sleeps is woken.)
const LOOK_PERIOD: Duration = Duration::from_micros(50);
/// Parts of a packet: 64 KiB in 4 KiB frames, one more at each end, and the header.
const PARTS: usize = 19;
/// Where a packet from the kernel is put: the router adds the link header in front.
const OFFSET: usize = HEADROOM + ETHERNET_HEADER_LEN;

/// A device to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunSpec {
    /// At most 11 bytes: further addresses have labels `DEVICE:N`.
    pub device: String,
    /// The port's number in its worker.
    pub index: u8,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// The router's addresses, with the subnets that the kernel is to find
    /// through the device. Further routes are the operator's (`ip route`).
    pub addresses: Vec<(Ipv4Addr, u8)>,
}

/// See the module.
#[derive(Debug)]
pub struct TunPort {
    info: PortInfo,
    stats: PortStats,
    fd: OwnedFd,
    looked: Time,
    is_up: bool,
}

impl TunPort {
    pub(super) fn open(spec: &TunSpec) -> Result<Self, PortError> {
        let name = spec.device.as_str();
        let failed = |step| {
            move |source| PortError::Os {
                device: name.to_owned(),
                step,
                source,
            }
        };
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
        // SAFETY: the path is NUL-terminated and outlives the call.
        let fd = unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) };
        let fd = owned(fd).map_err(failed("open /dev/net/tun"))?;
        let mut request = request(name);
        request.ifr_ifru.ifru_flags =
            c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR)
                .expect("flags of 16 bits");
        ioctl(&fd, libc::TUNSETIFF, &mut request)
            .map_err(failed("make it (TUNSETIFF); is its name taken?"))?;
        Settings::new(name)
            .and_then(|settings| settings.apply(spec))
            .map_err(|(step, source)| failed(step)(source))?;
        Ok(Self {
            info: PortInfo {
                device: spec.device.clone(),
                index: spec.index,
                driver: Driver::Tun,
                why: "what is for the box itself goes to its kernel".to_owned(),
                mac: [0; 6],
                mtu: u32::from(spec.mtu),
                zero_copy: false,
                gso: true,
                speed_mbit: None,
            },
            stats: PortStats::default(),
            fd,
            looked: Time::ZERO,
            is_up: true,
        })
    }

    pub(super) fn rx(&mut self, now: Time, pool: &mut Pool, out: &mut Burst) -> usize {
        if now.since(self.looked) < LOOK_PERIOD {
            return 0;
        }
        let before = out.len();
        for _ in 0..RX_BURST.min(out.remaining_capacity()) {
            let frame = if OFFSET + self.info.mtu as usize > FRAME_LEN {
                pool.alloc_page_frame()
            } else {
                pool.alloc_frame()
            };
            let Some(mut frame) = frame else {
                self.stats.rx_no_buffer += 1;
                break;
            };
            match self.read(pool, &mut frame) {
                Ok(true) => out.push(frame),
                Ok(false) => pool.release(frame),
                Err(error) => {
                    pool.release(frame);
                    self.looked = now;
                    if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
                        self.stats.syscall_errors += 1;
                    }
                    break;
                }
            }
        }
        let count = out.len() - before;
        self.stats.rx_frames += count as u64;
        let received = out.iter().skip(before);
        self.stats.rx_bytes += received.map(|frame| u64::from(frame.len)).sum::<u64>();
        count
    }

    /// One packet; false if it was dropped and counted.
    fn read(&mut self, pool: &mut Pool, frame: &mut Frame) -> io::Result<bool> {
        let room = pool.capacity(frame) - OFFSET;
        let mut header = [0_u8; VNET_HDR_LEN];
        let to = [
            part(header.as_mut_ptr(), VNET_HDR_LEN),
            part(parts::buffer_ptr(pool, frame, OFFSET, room), room),
        ];
        // SAFETY: both parts are writable memory of their lengths: a local array, and a buffer
        // that was just allocated, which nobody else refers to.
        let got = unsafe { libc::readv(self.fd.as_raw_fd(), to.as_ptr(), 2) };
        let Ok(got) = usize::try_from(got) else {
            return Err(io::Error::last_os_error());
        };
        // The kernel cuts off what finds no room and does not say so: its own
        // packets are never longer than the device's MTU.
        let Some(len) = got.checked_sub(VNET_HDR_LEN).filter(|&len| len < room) else {
            self.stats.rx_truncated += 1;
            return Ok(false);
        };
        pool.set(frame, OFFSET, len);
        let Ok((checksum, gso)) = vnet_hdr::decode(&header, pool.bytes(frame), len) else {
            self.stats.rx_bad_header += 1;
            return Ok(false);
        };
        (frame.checksum, frame.gso) = (checksum, gso);
        Ok(true)
    }

    pub(super) fn tx(&mut self, pool: &mut Pool, burst: &mut Burst) {
        while let Some(frame) = burst.first() {
            match self.write(pool, frame) {
                Ok(()) => {
                    self.is_up = true;
                    self.stats.tx_frames += 1;
                    self.stats.tx_bytes += pool.packet_len(frame) as u64;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => {
                        self.stats.tx_full += 1;
                        return;
                    }
                    // Somebody has set the device down.
                    Some(libc::EIO | libc::ENETDOWN) => {
                        self.stats.link_down += u64::from(self.is_up);
                        self.is_up = false;
                        self.stats.tx_link_down += 1;
                    }
                    _ => self.stats.tx_refused += 1,
                },
            }
            pool.release(burst.remove(0));
        }
    }

    fn write(&self, pool: &Pool, frame: &Frame) -> io::Result<()> {
        let header = vnet_hdr::encode(frame.checksum, frame.gso, pool.bytes(frame));
        let mut from: ArrayVec<libc::iovec, PARTS> = ArrayVec::new();
        from.push(part(header.as_ptr().cast_mut(), VNET_HDR_LEN));
        for bytes in pool.parts(frame) {
            let part = part(bytes.as_ptr().cast_mut(), bytes.len());
            if from.try_push(part).is_err() {
                return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
            }
        }
        let count = c_int::try_from(from.len()).expect("at most PARTS");
        // SAFETY: writev only reads the parts, which are a local array and the bytes of a frame
        // that is the caller's until the call is over.
        let sent = unsafe { libc::writev(self.fd.as_raw_fd(), from.as_ptr(), count) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    pub(super) fn info(&self) -> &PortInfo {
        &self.info
    }

    pub(super) fn stats(&self) -> PortStats {
        self.stats
    }

    pub(super) const fn is_up(&self) -> bool {
        self.is_up
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn part(at: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: at.cast(),
        iov_len: len,
    }
}

fn owned(fd: c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is integers, byte arrays and a raw pointer; zeroes are a value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    request
}

fn ioctl(fd: &OwnedFd, call: c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the calls of this module read and write within the `ifreq` alone.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), call as _, std::ptr::from_mut(request)) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Addresses, MTU and state of the device, by ioctl.
struct Settings<'a> {
    fd: OwnedFd,
    name: &'a str,
}

type Refused = (&'static str, io::Error);

impl<'a> Settings<'a> {
    fn new(name: &'a str) -> Result<Self, Refused> {
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        let fd = owned(fd).map_err(|source| ("open a socket to set it up", source))?;
        Ok(Self { fd, name })
    }

    fn apply(&self, spec: &TunSpec) -> Result<(), Refused> {
        let mut mtu = request(self.name);
        mtu.ifr_ifru.ifru_mtu = c_int::from(spec.mtu);
        ioctl(&self.fd, libc::SIOCSIFMTU, &mut mtu).map_err(|source| ("set its MTU", source))?;
        for (number, &(address, prefix_len)) in spec.addresses.iter().enumerate() {
            let label = match number {
                0 => self.name.to_owned(),
                _ => format!("{}:{number}", self.name),
            };
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix_len))
                .unwrap_or(0);
            for (call, value, step) in [
                (libc::SIOCSIFADDR, address, "give it an address"),
                (
                    libc::SIOCSIFNETMASK,
                    Ipv4Addr::from_bits(mask),
                    "set a netmask",
                ),
            ] {
                let mut request = request(&label);
                request.ifr_ifru.ifru_addr = socket_address(value);
                ioctl(&self.fd, call, &mut request).map_err(|source| (step, source))?;
            }
        }
        let mut flags = request(self.name);
        flags.ifr_ifru.ifru_flags =
            c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("flags of 16 bits");
        ioctl(&self.fd, libc::SIOCSIFFLAGS, &mut flags).map_err(|source| ("set it up", source))
    }
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // struct sockaddr_in: the port, then the address in network order.
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = c_char::from_ne_bytes([from]);
    }
    libc::sockaddr {
        sa_family: u16::try_from(libc::AF_INET).expect("2"),
        sa_data: data,
    }
}

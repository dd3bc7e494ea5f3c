//! What the kernel says of a network device, asked once when a port is opened.
//!
//! Asks by ioctl, because those answer for the caller's network namespace;
//! `/sys` shows the namespace in which it was mounted. Not for watching a
//! device: a port learns from its own socket that the link went down.

use std::ffi::c_char;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::PortError;

/// A network device, as it was when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub ifindex: u32,
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes (without the link header).
    pub mtu: u32,
    /// `None` if the device does not say (or has no speed, as a tunnel).
    pub speed_mbit: Option<u32>,
    /// Name of its kernel driver, empty if it does not say.
    pub kernel_driver: String,
    /// Receive queues in use; 1 if the device does not say.
    pub rx_queues: u32,
}

// linux/ethtool.h
const ETHTOOL_GSET: u32 = 0x01;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// `struct ethtool_cmd`, `ethtool_drvinfo` and `ethtool_channels` are 44, 196 and 36 bytes.
const ETHTOOL_WORDS: usize = 64;

impl Device {
    /// Looks `name` up in the calling thread's network namespace.
    ///
    /// # Errors
    /// There is no such device, it is not an Ethernet, or the kernel refused an ioctl.
    pub fn find(name: &str) -> Result<Self, PortError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.bytes().any(|byte| byte == 0) {
            return Err(PortError::NotFound {
                device: name.to_owned(),
            });
        }
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(PortError::os(name, "open a socket to ask about it"));
        }
        // SAFETY: `fd` was just made, and nobody else has it.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        let asked = Ask { fd: owned, name };
        let index =
            asked
                .ioctl(libc::SIOCGIFINDEX)
                .map_err(|source| match source.raw_os_error() {
                    Some(libc::ENODEV) => PortError::NotFound {
                        device: name.to_owned(),
                    },
                    _ => PortError::Os {
                        device: name.to_owned(),
                        step: "find its index",
                        source,
                    },
                })?;
        let hardware = asked
            .ioctl(libc::SIOCGIFHWADDR)
            .map_err(|source| asked.error("read its MAC", source))?;
        let mtu = asked
            .ioctl(libc::SIOCGIFMTU)
            .map_err(|source| asked.error("read its MTU", source))?;
        // SAFETY: SIOCGIFHWADDR fills `ifru_hwaddr`, a plain struct; the request was zeroed before.
        let hardware = unsafe { hardware.ifr_ifru.ifru_hwaddr };
        if hardware.sa_family != libc::ARPHRD_ETHER {
            return Err(PortError::NotEthernet {
                device: name.to_owned(),
                kind: hardware.sa_family,
            });
        }
        // SAFETY: SIOCGIFINDEX and SIOCGIFMTU fill these integers; the requests were zeroed before.
        let (index, mtu) = unsafe { (index.ifr_ifru.ifru_ifindex, mtu.ifr_ifru.ifru_mtu) };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(hardware.sa_data) {
            *to = from.to_ne_bytes()[0];
        }
        Ok(Self {
            name: name.to_owned(),
            ifindex: u32::try_from(index).expect("the kernel numbers devices from 1"),
            mac,
            mtu: u32::try_from(mtu).expect("the kernel holds an MTU of at least 0"),
            speed_mbit: asked.speed_mbit(),
            kernel_driver: asked.kernel_driver(),
            rx_queues: asked.rx_queues(),
        })
    }
}

struct Ask<'a> {
    fd: OwnedFd,
    name: &'a str,
}

impl Ask<'_> {
    fn error(&self, step: &'static str, source: io::Error) -> PortError {
        PortError::Os {
            device: self.name.to_owned(),
            step,
            source,
        }
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: `ifreq` is integers, byte arrays and a raw pointer; zeroes are a value of each.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = c_char::from_ne_bytes([from]);
        }
        request
    }

    fn ioctl(&self, call: libc::c_ulong) -> Result<libc::ifreq, io::Error> {
        let mut request = self.request();
        // SAFETY: the SIOCGIF calls read the name and write only within the `ifreq`.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), call as _, &raw mut request) };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(request)
        }
    }

    /// An ethtool command that only reads; `None` where the device does not know it.
    fn ethtool(&self, command: u32) -> Option<[u32; ETHTOOL_WORDS]> {
        let mut words = [0; ETHTOOL_WORDS];
        words[0] = command;
        let mut request = self.request();
        request.ifr_ifru.ifru_data = (&raw mut words).cast();
        // SAFETY: the three commands used here write at most 196 bytes to `ifru_data`, which has 256
        // and outlives the call.
        let done = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::SIOCETHTOOL as _,
                &raw mut request,
            )
        };
        (done >= 0).then_some(words)
    }

    fn speed_mbit(&self) -> Option<u32> {
        // struct ethtool_cmd: u16 speed (low half) at byte 12, u16 speed_hi at byte 28.
        let words = self.ethtool(ETHTOOL_GSET)?;
        let [low0, low1, ..] = words[3].to_ne_bytes();
        let [high0, high1, ..] = words[7].to_ne_bytes();
        let speed = u32::from(u16::from_ne_bytes([high0, high1])) << 16
            | u32::from(u16::from_ne_bytes([low0, low1]));
        // 0 and the two forms of SPEED_UNKNOWN.
        (speed != 0 && speed != 0xffff && speed != u32::MAX).then_some(speed)
    }

    fn kernel_driver(&self) -> String {
        let Some(words) = self.ethtool(ETHTOOL_GDRVINFO) else {
            return String::new();
        };
        // struct ethtool_drvinfo: char driver[32] at byte 4.
        words[1..9]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .take_while(|byte| *byte != 0)
            .map(char::from)
            .collect()
    }

    fn rx_queues(&self) -> u32 {
        // struct ethtool_channels: cmd, max_{rx,tx,other,combined}, {rx,tx,other,combined}_count.
        self.ethtool(ETHTOOL_GCHANNELS)
            .map_or(1, |words| (words[5] + words[8]).max(1))
    }
}

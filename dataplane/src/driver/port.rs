//! The port as its worker sees it, and the choice of its driver.

use std::fmt;
use std::os::fd::RawFd;

use sluice_hugepages::pool::{Burst, Pool};
use sluice_proto::Time;

use super::af_packet::AfPacketPort;
use super::af_xdp::{AfXdpPort, socket::Mode};
use super::device::Device;
use super::faults::{FaultPlan, FaultyPort};
use super::memory::{MemoryPort, MemorySpec};
use super::pcap::{CaptureSpec, TracedPort};
use super::tun::{TunPort, TunSpec};
use super::{PortError, PortStats};

/// Which driver a port uses, or should use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// AF_XDP if it can be had with zero-copy, else AF_PACKET.
    Auto,
    AfXdp,
    AfPacket,
    /// Not for [`open`]: made by [`Port::memory`].
    Memory,
    /// Not for [`open`]: made by [`open_tun`].
    Tun,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::AfXdp => "af_xdp",
            Self::AfPacket => "af_packet",
            Self::Memory => "memory",
            Self::Tun => "tun",
        })
    }
}

/// A port to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Name of the network device, in the calling thread's network namespace.
    pub device: String,
    pub driver: Driver,
    /// The port's number in its worker.
    pub index: u8,
}

/// What a port is, for tables and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Name of the network device.
    pub device: String,
    pub index: u8,
    /// The driver in use, never `Auto`.
    pub driver: Driver,
    /// Why this driver, and why not a better one.
    pub why: String,
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    pub zero_copy: bool,
    /// Takes frames larger than the MTU that are marked to be cut ([`Frame::gso`]).
    ///
    /// [`Frame::gso`]: sluice_hugepages::pool::Frame::gso
    pub gso: bool,
    pub speed_mbit: Option<u32>,
}

/// A port of a worker.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a worker has a few, and reaches them without one more pointer"
)]
pub enum Port {
    AfPacket(AfPacketPort),
    AfXdp(AfXdpPort),
    Memory(MemoryPort),
    Tun(TunPort),
    /// Another port, with faults.
    Faulty(Box<FaultyPort>),
    /// Another port, with a capture of what passes.
    Traced(Box<TracedPort>),
}

/// Opens a port. `siblings` are the ports already open on the same pool: AF_XDP ports share one
/// registration of the frame memory.
///
/// # Errors
/// The device is missing or unsuitable, or the kernel refused a step (the error names it).
///
/// # Panics
/// `spec.driver` is [`Driver::Memory`] or [`Driver::Tun`].
pub fn open(spec: &PortSpec, pool: &mut Pool, siblings: &[Port]) -> Result<Port, PortError> {
    let device = Device::find(&spec.device)?;
    let kernel_driver = match device.kernel_driver.as_str() {
        "" => "unknown driver".to_owned(),
        name => format!("driver {name}"),
    };
    let sibling = siblings.iter().find_map(Port::af_xdp);
    match spec.driver {
        Driver::Memory => panic!("a memory port is made, not opened"),
        Driver::Tun => panic!("the kernel's port is opened by `open_tun`"),
        Driver::AfPacket => {
            let why = "af_packet asked for by configuration".to_owned();
            AfPacketPort::open(&device, spec.index, why, pool).map(Port::AfPacket)
        }
        Driver::AfXdp => {
            open_af_xdp(&device, &kernel_driver, spec.index, sibling, pool).map(Port::AfXdp)
        }
        Driver::Auto => {
            let refused = match AfXdpPort::open(&device, spec.index, Mode::ZeroCopy, sibling, pool)
            {
                Ok(port) if port.info().zero_copy => {
                    let why = format!(
                        "af_xdp, since {} has zero-copy ({kernel_driver})",
                        device.name
                    );
                    return Ok(Port::AfXdp(port.because(why)));
                }
                // It shares the frame memory of a port that was forced into copy mode.
                Ok(port) => {
                    port.close(pool);
                    "the port that shares its frame memory is in copy mode".to_owned()
                }
                Err(error) => error.to_string(),
            };
            let why = format!(
                "af_packet with virtio_net_hdr; no zero-copy af_xdp ({kernel_driver}): {refused}"
            );
            AfPacketPort::open(&device, spec.index, why, pool).map(Port::AfPacket)
        }
    }
}

/// Makes the device that leads to the host's kernel; it ends with the port.
///
/// # Errors
/// The kernel refused a step (the error names it).
pub fn open_tun(spec: &TunSpec) -> Result<Port, PortError> {
    TunPort::open(spec).map(Port::Tun)
}

/// AF_XDP as asked for: with zero-copy if it can be had, else in copy mode.
fn open_af_xdp(
    device: &Device,
    kernel_driver: &str,
    index: u8,
    sibling: Option<&AfXdpPort>,
    pool: &mut Pool,
) -> Result<AfXdpPort, PortError> {
    let asked = "af_xdp asked for by configuration";
    match AfXdpPort::open(device, index, Mode::ZeroCopy, sibling, pool) {
        Ok(port) if port.info().zero_copy => {
            Ok(port.because(format!("{asked}; zero-copy ({kernel_driver})")))
        }
        Ok(port) => Ok(port.because(format!(
            "{asked}; copy mode, as the port that shares its frame memory"
        ))),
        // The kernel was not asked, or was asked for something that copy mode needs as well.
        Err(
            error
            @ (PortError::Queues { .. } | PortError::Mtu { .. } | PortError::NoBuffers { .. }),
        ) => Err(error),
        Err(error) => {
            let port = AfXdpPort::open(device, index, Mode::Copy, sibling, pool)?;
            let why = format!(
                "{asked}; copy mode, since zero-copy was refused ({kernel_driver}): {error}"
            );
            Ok(port.because(why))
        }
    }
}

impl Port {
    /// A port whose other end is the caller ([`Port::memory_mut`]).
    #[must_use]
    pub fn memory(spec: &MemorySpec) -> Self {
        Self::Memory(MemoryPort::new(spec))
    }

    /// This port with seeded faults.
    #[must_use]
    pub fn with_faults(self, plan: &FaultPlan) -> Self {
        Self::Faulty(Box::new(FaultyPort::new(self, plan)))
    }

    /// This port with a capture of what passes.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn with_capture(self, spec: &CaptureSpec) -> Result<Self, PortError> {
        TracedPort::create(self, spec).map(|port| Self::Traced(Box::new(port)))
    }

    /// Receives frames into what room `out` has; says how many. Also sees to what earlier calls of
    /// `tx` left with the port. `now` is for captures.
    pub fn rx(&mut self, now: Time, pool: &mut Pool, out: &mut Burst) -> usize {
        match self {
            Self::AfPacket(port) => port.rx(pool, out),
            Self::AfXdp(port) => port.rx(pool, out),
            Self::Memory(port) => port.rx(out),
            Self::Tun(port) => port.rx(now, pool, out),
            Self::Faulty(port) => port.rx(now, pool, out),
            Self::Traced(port) => port.rx(now, pool, out),
        }
    }

    /// Sends frames from the front of `burst`; what the port cannot take now stays in it, in order.
    /// An empty burst only sees to what earlier calls left with the port.
    pub fn tx(&mut self, now: Time, pool: &mut Pool, burst: &mut Burst) {
        match self {
            Self::AfPacket(port) => port.tx(pool, burst),
            Self::AfXdp(port) => port.tx(pool, burst),
            Self::Memory(port) => port.tx(pool, burst),
            Self::Tun(port) => port.tx(pool, burst),
            Self::Faulty(port) => port.tx(now, pool, burst),
            Self::Traced(port) => port.tx(now, pool, burst),
        }
    }

    /// Whether frames wait in the port for another call of `rx` or `tx`: the worker must not sleep.
    #[must_use]
    pub fn tx_pending(&self) -> bool {
        match self {
            Self::AfPacket(_) | Self::Memory(_) | Self::Tun(_) => false,
            Self::AfXdp(port) => port.tx_pending(),
            Self::Faulty(port) => port.tx_pending(),
            Self::Traced(port) => port.inner().tx_pending(),
        }
    }

    #[must_use]
    pub fn info(&self) -> &PortInfo {
        match self {
            Self::AfPacket(port) => port.info(),
            Self::AfXdp(port) => port.info(),
            Self::Memory(port) => port.info(),
            Self::Tun(port) => port.info(),
            Self::Faulty(port) => port.inner().info(),
            Self::Traced(port) => port.inner().info(),
        }
    }

    /// For the idle policy: readable when there is something to receive. `None`: a memory port.
    #[must_use]
    pub fn fd(&self) -> Option<RawFd> {
        match self {
            Self::AfPacket(port) => Some(port.fd()),
            Self::AfXdp(port) => Some(port.fd()),
            Self::Tun(port) => Some(port.fd()),
            Self::Memory(_) => None,
            Self::Faulty(port) => port.inner().fd(),
            Self::Traced(port) => port.inner().fd(),
        }
    }

    /// The port's counters; those that the kernel keeps are as of the last [`Self::refresh_stats`].
    #[must_use]
    pub fn stats(&self) -> PortStats {
        match self {
            Self::AfPacket(port) => port.stats(),
            Self::AfXdp(port) => port.stats(),
            Self::Memory(port) => port.stats(),
            Self::Tun(port) => port.stats(),
            Self::Faulty(port) => port.inner().stats(),
            Self::Traced(port) => port.inner().stats(),
        }
    }

    /// Whether the link was up when it was last used.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match self {
            Self::AfPacket(port) => port.is_up(),
            Self::AfXdp(port) => port.is_up(),
            Self::Memory(port) => port.is_up(),
            Self::Tun(port) => port.is_up(),
            Self::Faulty(port) => port.inner().is_up(),
            Self::Traced(port) => port.inner().is_up(),
        }
    }

    /// Asks the kernel for the counters that it keeps: a system call, so once a second, not a burst.
    pub fn refresh_stats(&mut self) {
        match self {
            Self::AfPacket(port) => port.refresh_stats(),
            Self::AfXdp(port) => port.refresh_stats(),
            Self::Memory(_) | Self::Tun(_) => {}
            Self::Faulty(port) => port.inner_mut().refresh_stats(),
            Self::Traced(port) => port.inner_mut().refresh_stats(),
        }
    }

    /// Closes the port and gives every buffer that it holds back to the pool.
    pub fn close(self, pool: &mut Pool) {
        match self {
            Self::AfPacket(port) => port.close(pool),
            Self::AfXdp(port) => port.close(pool),
            Self::Memory(port) => port.close(pool),
            // It holds no frames; the device goes with its file descriptor.
            Self::Tun(_) => {}
            Self::Faulty(port) => port.close(pool),
            Self::Traced(port) => port.close(pool),
        }
    }

    /// The memory port behind any wrappers: the test's end of it.
    #[must_use]
    pub fn memory_mut(&mut self) -> Option<&mut MemoryPort> {
        match self {
            Self::Memory(port) => Some(port),
            Self::Faulty(port) => port.inner_mut().memory_mut(),
            Self::Traced(port) => port.inner_mut().memory_mut(),
            Self::AfPacket(_) | Self::AfXdp(_) | Self::Tun(_) => None,
        }
    }

    /// What the faults of a faulty port, at any depth, have done.
    #[must_use]
    pub fn fault_stats(&self) -> Option<super::faults::FaultStats> {
        match self {
            Self::Faulty(port) => Some(port.fault_stats()),
            Self::Traced(port) => port.inner().fault_stats(),
            _ => None,
        }
    }

    fn af_xdp(&self) -> Option<&AfXdpPort> {
        match self {
            Self::AfXdp(port) => Some(port),
            Self::Faulty(port) => port.inner().af_xdp(),
            Self::Traced(port) => port.inner().af_xdp(),
            Self::AfPacket(_) | Self::Memory(_) | Self::Tun(_) => None,
        }
    }
}

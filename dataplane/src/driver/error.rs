//! What can go wrong when a port is opened. Later faults are counters.

use std::io;

use thiserror::Error;

/// A port could not be opened.
#[derive(Debug, Error)]
pub enum PortError {
    #[error("there is no device {device:?} in this network namespace (`ip link` lists them)")]
    NotFound { device: String },
    #[error(
        "{device} is not an Ethernet (ARPHRD {kind}); choose one that `ip link` shows as link/ether"
    )]
    NotEthernet { device: String, kind: u16 },
    #[error("{device}: cannot {step}: {source}{}", advice(.source))]
    Os {
        device: String,
        step: &'static str,
        source: io::Error,
    },
    #[error(
        "{device} has {queues} receive queues and the af_xdp driver takes one; \
         `ethtool -L {device} combined 1`, or driver = \"af_packet\""
    )]
    Queues { device: String, queues: u32 },
    #[error(
        "{device} has an MTU of {mtu} and af_xdp buffers hold {mtu_max}; lower it, or driver = \"af_packet\""
    )]
    Mtu {
        device: String,
        mtu: u32,
        mtu_max: u32,
    },
    #[error(
        "the frame memory has no free {buffers} for {device} (it wants {wanted}): give it more pages"
    )]
    NoBuffers {
        device: String,
        buffers: &'static str,
        wanted: usize,
    },
    #[error("cannot write a capture to {path}: {source}")]
    Capture { path: String, source: io::Error },
}

impl PortError {
    /// The last system call's error.
    pub(crate) fn os(device: &str, step: &'static str) -> Self {
        Self::Os {
            device: device.to_owned(),
            step,
            source: io::Error::last_os_error(),
        }
    }
}

/// What to do about it, where the number alone does not say.
fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; it needs CAP_NET_RAW (af_packet) or CAP_NET_ADMIN and CAP_BPF (af_xdp): run as root"
        }
        Some(libc::EBUSY) => {
            "; another process has the queue or an XDP program there (`ip link`, `ss --xdp`): stop it"
        }
        Some(libc::EOPNOTSUPP) => "; the device's driver does not support it",
        Some(libc::ENOMEM) => {
            "; the frame memory could not be pinned or a ring not made: more memory or `ulimit -l`"
        }
        _ => "",
    }
}

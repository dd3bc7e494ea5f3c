//! How the flows of one side are run: those that computers open, and those
//! that we open.

use std::time::Duration;

use smoltcp::phy::DeviceCapabilities;

use super::wire::capabilities;

/// How the flows of one side are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Largest IPv4 packet, bytes, 576 to 65,535.
    pub mtu: u16,
    /// Leave checksums and the cutting of long segments to the port.
    pub gso: bool,
    /// Ask for explicit congestion notification (RFC 3168); of flows that we open.
    pub ecn: bool,
    /// An idle peer is asked for a sign of life this often.
    pub keep_alive: Option<Duration>,
    /// A peer that is silent this long is given up. Longer than `keep_alive`,
    /// without which an idle connection would end by it.
    pub timeout: Option<Duration>,
}

impl Profile {
    #[must_use]
    pub const fn new(mtu: u16) -> Self {
        Self {
            mtu,
            gso: false,
            ecn: true,
            keep_alive: Some(Duration::from_secs(15)),
            timeout: Some(Duration::from_secs(60)),
        }
    }

    /// # Panics
    /// If the MTU is below what every host takes, or a silent peer would be given up
    /// before it was asked.
    pub(super) fn check(&self) {
        assert!(self.mtu >= 576, "RFC 791 3.1: every host takes 576 bytes");
        if let Some(timeout) = self.timeout {
            let asks = self.keep_alive.is_some_and(|interval| interval < timeout);
            assert!(asks, "an idle connection would time out");
        }
    }
}

/// What the flows that computers open have in common.
#[derive(Debug)]
pub(super) struct Terms {
    pub profile: Profile,
    /// What smoltcp is told about the way out.
    pub capabilities: DeviceCapabilities,
}

impl Terms {
    pub fn new(profile: Profile) -> Self {
        profile.check();
        Self {
            profile,
            capabilities: capabilities(profile.mtu, profile.gso),
        }
    }
}

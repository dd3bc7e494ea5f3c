//! How the flows of one side are run: those that computers open, and those
//! that we open.

use std::time::Duration;

use smoltcp::phy::DeviceCapabilities;

use super::wire::capabilities;

/// How congestion is controlled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// Not at all: only for a link of our own, where the send buffer of a
    /// page or two is all that can ever be in flight.
    None,
    /// RFC 5681. On a path without loss it fills 92 % of the link with a send
    /// buffer of one bandwidth-delay product (which also caps its window: a
    /// larger one only grows the queue); with loss it does not fill it.
    Reno,
}

/// How the flows of one side are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Largest IPv4 packet, bytes, 576 to 65,535.
    pub mtu: u16,
    /// Leave checksums and the cutting of long segments to the port.
    pub gso: bool,
    pub congestion: Congestion,
    /// An idle peer is asked for a sign of life this often.
    pub keep_alive: Option<Duration>,
    /// A peer that is silent this long is given up. Longer than `keep_alive`,
    /// without which an idle connection would end by it.
    pub timeout: Option<Duration>,
    /// A `connect` that is not answered this long is given up.
    pub connect_timeout: Duration,
}

impl Profile {
    /// For computers on links of our own.
    #[must_use]
    pub const fn lan(mtu: u16) -> Self {
        Self {
            mtu,
            gso: false,
            congestion: Congestion::None,
            keep_alive: Some(Duration::from_secs(15)),
            timeout: Some(Duration::from_secs(60)),
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// For storage across a WAN.
    #[must_use]
    pub const fn wan(mtu: u16) -> Self {
        Self {
            mtu,
            gso: false,
            congestion: Congestion::Reno,
            keep_alive: Some(Duration::from_secs(15)),
            timeout: Some(Duration::from_secs(60)),
            connect_timeout: Duration::from_secs(15),
        }
    }
}

/// Who has opened a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Accepted,
    Connected,
}

/// What the flows of one side have in common.
#[derive(Debug)]
pub(super) struct Terms {
    pub side: Side,
    pub profile: Profile,
    /// What smoltcp is told about the way out.
    pub capabilities: DeviceCapabilities,
}

impl Terms {
    pub fn new(side: Side, profile: Profile) -> Self {
        assert!(
            profile.mtu >= 576,
            "RFC 791 3.1: every host takes 576 bytes"
        );
        if let Some(timeout) = profile.timeout {
            let asks = profile
                .keep_alive
                .is_some_and(|interval| interval < timeout);
            assert!(asks, "an idle connection would time out");
        }
        Self {
            side,
            profile,
            capabilities: capabilities(profile.mtu, profile.gso),
        }
    }
}

//! Operational keys and how two sides agree on them (RFC 7143 6.2 and 13).
//!
//! [`Offers`] is what one side wants, [`Parameters`] what both ended with. The
//! responder ([`Answers`]) and the proposer ([`Proposal`]) apply the same rule
//! a key, so two of our own connections always agree. Not for: names, session
//! type and authentication, which the login rooms handle.

mod answers;
mod key;
#[cfg(test)]
mod keys_test;
mod proposal;
#[cfg(test)]
mod tests;

pub(super) use answers::Answers;
pub(super) use key::{data_segment_length, is_known};
pub(super) use proposal::Proposal;

use key::{LEN_MAX, LEN_MIN};

/// Whether a CRC32C digest is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestPolicy {
    /// Never, not even if the peer insists.
    Never,
    /// As the peer likes it better.
    #[default]
    Allowed,
    /// If the peer can.
    Preferred,
    /// Or there is no session.
    Required,
}

impl DigestPolicy {
    const fn offer(self) -> &'static str {
        match self {
            Self::Never => "None",
            Self::Allowed => "None,CRC32C",
            Self::Preferred => "CRC32C,None",
            Self::Required => "CRC32C",
        }
    }

    /// The answer to a list of the peer's (6.2.1): whether a digest is used.
    fn choose(self, list: &str) -> Option<bool> {
        let has = |name| list.split(',').any(|value| value == name);
        match self {
            Self::Never => has("None").then_some(false),
            Self::Required => has("CRC32C").then_some(true),
            Self::Preferred if has("CRC32C") => Some(true),
            Self::Preferred | Self::Allowed => list.split(',').find_map(|value| match value {
                "None" => Some(false),
                "CRC32C" => Some(true),
                _ => None,
            }),
        }
    }

    /// Whether what was agreed is acceptable.
    const fn admits(self, digest: bool) -> bool {
        match self {
            Self::Never => !digest,
            Self::Allowed | Self::Preferred => true,
            Self::Required => digest,
        }
    }
}

/// What one side wants of a session. Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    pub header_digest: DigestPolicy,
    pub data_digest: DigestPolicy,
    /// Longest data segment that we take (declared, not negotiated).
    pub max_recv_data_segment_length: u32,
    pub max_burst_length: u32,
    pub first_burst_length: u32,
    pub immediate_data: bool,
    pub initial_r2t: bool,
    pub max_outstanding_r2t: u16,
    pub default_time2wait_s: u16,
    pub default_time2retain_s: u16,
}

impl Offers {
    /// For a LAN: RFC 7143's defaults, but data segments as long as a burst, so
    /// that a write of 256 KiB is one R2T and one PDU.
    #[must_use]
    pub const fn lan() -> Self {
        Self {
            header_digest: DigestPolicy::Allowed,
            data_digest: DigestPolicy::Allowed,
            max_recv_data_segment_length: 262_144,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            immediate_data: true,
            initial_r2t: false,
            max_outstanding_r2t: 1,
            default_time2wait_s: 2,
            default_time2retain_s: 20,
        }
    }

    /// For a long fat pipe: every round trip that may be saved is. Writes of up
    /// to 1 MiB (the longest record) go out at once, and longer ones keep
    /// several R2Ts in flight.
    #[must_use]
    pub const fn long_fat_pipe() -> Self {
        Self {
            max_burst_length: 1 << 20,
            first_burst_length: 1 << 20,
            max_outstanding_r2t: 8,
            ..Self::lan()
        }
    }

    /// Asserts what the RFC demands of the values, once, at start.
    pub(super) fn check(&self) {
        for len in [
            self.max_recv_data_segment_length,
            self.max_burst_length,
            self.first_burst_length,
        ] {
            assert!(
                (LEN_MIN..=LEN_MAX).contains(&len),
                "length {len} is outside {LEN_MIN}..={LEN_MAX} (RFC 7143 13.12 to 13.14)"
            );
        }
        assert!(self.first_burst_length <= self.max_burst_length, "13.14");
        assert!(self.max_outstanding_r2t >= 1, "13.17");
    }
}

/// What a session runs with. Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    pub header_digest: bool,
    pub data_digest: bool,
    /// Longest data segment that we take.
    pub max_recv_data_segment_length: u32,
    /// Longest data segment that the peer takes.
    pub peer_max_recv_data_segment_length: u32,
    pub max_burst_length: u32,
    pub first_burst_length: u32,
    pub immediate_data: bool,
    pub initial_r2t: bool,
    pub max_outstanding_r2t: u16,
    pub default_time2wait_s: u16,
    pub default_time2retain_s: u16,
}

impl Default for Parameters {
    /// What holds where nothing is negotiated (RFC 7143 13).
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            max_recv_data_segment_length: 8192,
            peer_max_recv_data_segment_length: 8192,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            immediate_data: true,
            initial_r2t: true,
            max_outstanding_r2t: 1,
            default_time2wait_s: 2,
            default_time2retain_s: 20,
        }
    }
}

impl Parameters {
    pub(super) const fn digests(&self) -> (bool, bool) {
        (self.header_digest, self.data_digest)
    }

    /// Bytes of a write that go in the command's own data segment (13.11).
    #[must_use]
    pub const fn immediate_max(&self) -> u32 {
        let segment = self.peer_max_recv_data_segment_length;
        match self.immediate_data {
            true if segment < self.first_burst_length => segment,
            true => self.first_burst_length,
            false => 0,
        }
    }

    /// Bytes of a write that go without being asked for: without InitialR2T the whole
    /// first burst (13.10).
    #[must_use]
    pub const fn unsolicited_max(&self) -> u32 {
        if self.initial_r2t {
            self.immediate_max()
        } else {
            self.first_burst_length
        }
    }

    fn settle(&mut self) {
        // 13.14: FirstBurstLength MUST NOT exceed MaxBurstLength.
        self.first_burst_length = self.first_burst_length.min(self.max_burst_length);
    }
}

/// A negotiation that cannot go on (RFC 7143 6.2): the login fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

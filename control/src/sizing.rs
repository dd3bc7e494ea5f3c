//! What a reservation is to have (B-13), from what is measured of the paths or typed in.
//! Pure functions of rows: the daemon acts by them, the CLI shows the same.

use std::net::SocketAddrV4;

use sluice_config::{Config, ReservationTarget as Configured, State};
use sluice_hugepages::tables::{Path, PathLimit, ReservationTarget};

/// Of a memory buffer.
pub const BUFFER_BYTES: u64 = 4096;

/// Which buffer id is presented to which storage, in order.
pub type Presented = Vec<(u16, SocketAddrV4)>;

/// What the targets of a configuration present, live changes included.
#[must_use]
pub fn presented(config: &Config, state: &State) -> Presented {
    let of = |target| Some((state.buffer_id(target)?, target.address));
    let mut presented: Presented = config.targets.iter().filter_map(of).collect();
    presented.sort_unstable();
    presented.dedup();
    presented
}

/// The data plane's type of the same thing.
#[must_use]
pub fn wire(target: Configured) -> ReservationTarget {
    match target {
        Configured::Pair { local, remote } => ReservationTarget::Pair { local, remote },
        Configured::PairPort { local, remote } => ReservationTarget::PairPort { local, remote },
        Configured::Connection { buffer_id } => ReservationTarget::Connection { buffer_id },
    }
}

/// The rows of the path table, found by what reservations are for.
#[derive(Debug)]
pub struct Paths<'a> {
    /// In order of local and remote address.
    rows: Vec<&'a Path>,
    presented: &'a [(u16, SocketAddrV4)],
}

/// What is to be said of a reservation's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// Bandwidth x delay x sessions x connections, of all its paths; `None` while that is not
    /// known of one.
    pub recommended: Option<u64>,
    /// That is the least that is right: of a path, only connections that had too little to
    /// send have shown anything. No size is made smaller by it.
    pub at_least: bool,
    /// The buffers bound a connection of a path whose bandwidth nobody has typed in: the path
    /// might carry more than was measured.
    pub bound_by_buffers: bool,
    /// Of its paths, so that another path can be told from the same.
    pub changes: u64,
    /// The longest that a round trip takes now.
    pub rtt_us: u64,
}

impl<'a> Paths<'a> {
    pub fn new(rows: impl Iterator<Item = &'a Path>, presented: &'a [(u16, SocketAddrV4)]) -> Self {
        let mut rows: Vec<&Path> = rows.collect();
        rows.sort_unstable_by_key(|path| (path.local, path.remote));
        Self { rows, presented }
    }

    /// Those that the connections of a reservation use.
    pub fn of(&self, target: ReservationTarget) -> impl Iterator<Item = &'a Path> {
        let (from, to) = match target {
            ReservationTarget::Pair { local, remote } => (
                (local, SocketAddrV4::new(remote, 0)),
                (local, SocketAddrV4::new(remote, u16::MAX)),
            ),
            ReservationTarget::PairPort { local, remote } => ((local, remote), (local, remote)),
            ReservationTarget::Connection { .. } => {
                let none = SocketAddrV4::new([0; 4].into(), 0);
                let last = SocketAddrV4::new([255; 4].into(), u16::MAX);
                ((*none.ip(), none), (*last.ip(), last))
            }
        };
        let key = |path: &&Path| (path.local, path.remote);
        let first = self.rows.partition_point(|path| key(path) < from);
        let end = self.rows.partition_point(|path| key(path) <= to);
        let presented = self.presented;
        let meant = move |path: &&Path| match target {
            ReservationTarget::Connection { buffer_id } => {
                presented.binary_search(&(buffer_id, path.remote)).is_ok()
            }
            _ => true,
        };
        self.rows[first..end].iter().copied().filter(meant)
    }

    /// `sessions`, `connections`: 0 for as many as there are.
    #[must_use]
    pub fn advice(&self, target: ReservationTarget, sessions: u16, connections: u16) -> Advice {
        let mut advice = Advice::default();
        let mut known = 0_u64;
        let mut all_known = true;
        for path in self.of(target) {
            // The kind *connection* counts 1 x 1.
            let streams = match (target, sessions) {
                (ReservationTarget::Connection { .. }, _) => 1,
                (_, 0) => u64::from(path.sessions.max(1)) * u64::from(connections.max(1)),
                (_, sessions) => u64::from(sessions) * u64::from(connections.max(1)),
            };
            match of_one(path) {
                Some(bytes) => known = known.saturating_add(bytes.saturating_mul(streams)),
                // A path that nothing uses has nothing to say.
                None => all_known &= path.sessions == 0,
            }
            advice.at_least |= path.typed_bytes_per_s.is_none() && !is_measured(path);
            advice.bound_by_buffers |=
                path.limit == PathLimit::Buffers && path.typed_bytes_per_s.is_none();
            advice.changes = advice.changes.saturating_add(path.changes);
            advice.rtt_us = advice.rtt_us.max(path.rtt_us);
        }
        advice.recommended = Some(known).filter(|&bytes| bytes > 0 && all_known);
        advice
    }
}

/// Whether its bandwidth is the path's: by a probe, or by connections that fill it.
fn is_measured(path: &Path) -> bool {
    let is_filled = matches!(path.limit, PathLimit::Path | PathLimit::Buffers);
    is_filled || path.probes > 0 || path.measured > 0
}

/// Bandwidth x delay of one connection.
fn of_one(path: &Path) -> Option<u64> {
    let measured = path.bandwidth_at_ns.map(|_| path.bandwidth_bytes_per_s);
    let bytes_per_s = path
        .typed_bytes_per_s
        .or(measured)
        .filter(|&rate| rate > 0)?;
    let measured = path.min_rtt_at_ns.map(|_| path.min_rtt_us);
    let rtt_us = path.typed_rtt_us.or(measured).filter(|&rtt| rtt > 0)?;
    let bytes = (u128::from(bytes_per_s) * u128::from(rtt_us)).div_ceil(1_000_000);
    Some(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// As the command line names it.
#[must_use]
pub fn shown(target: ReservationTarget) -> String {
    match target {
        ReservationTarget::Pair { local, remote } => format!("pair {local} {remote}"),
        ReservationTarget::PairPort { local, remote } => format!("port {local} {remote}"),
        ReservationTarget::Connection { buffer_id } => format!("connection {buffer_id}"),
    }
}

/// In whole memory buffers.
#[must_use]
pub fn whole_buffers(bytes: u64) -> u64 {
    bytes
        .checked_next_multiple_of(BUFFER_BYTES)
        .unwrap_or(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    pub const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
    pub const REMOTE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260);

    /// Bandwidth in KB/s times ms is bytes.
    pub fn path(remote: SocketAddrV4, kbytes_per_s: u64, rtt_ms: u64) -> Path {
        Path {
            local: LOCAL,
            remote,
            sessions: 1,
            bandwidth_bytes_per_s: kbytes_per_s * 1000,
            bandwidth_at_ns: (kbytes_per_s > 0).then_some(1),
            min_rtt_us: rtt_ms * 1000,
            min_rtt_at_ns: (rtt_ms > 0).then_some(1),
            limit: PathLimit::Path,
            rtt_us: rtt_ms * 1000,
            typed_bytes_per_s: None,
            typed_rtt_us: None,
            changes: 0,
            changed_at_ns: None,
            probes: 0,
            measured: 0,
            recommended_bytes: None,
        }
    }

    #[test]
    fn b13_a_pair_is_the_sum_of_its_paths_and_a_connection_counts_once() {
        let mut first = path(REMOTE, 1000, 100);
        first.sessions = 3;
        let other_port = path(SocketAddrV4::new(*REMOTE.ip(), 3261), 500, 100);
        let other_host = path(SocketAddrV4::new([198, 19, 0, 11].into(), 3260), 9, 9);
        let rows = [other_host, other_port, first];
        let presented = [(7, REMOTE)];
        let paths = Paths::new(rows.iter(), &presented);
        let remote = *REMOTE.ip();
        let (local, pair) = (
            LOCAL,
            ReservationTarget::Pair {
                local: LOCAL,
                remote,
            },
        );
        let port = ReservationTarget::PairPort {
            local,
            remote: REMOTE,
        };
        let of =
            |target, sessions, connections| paths.advice(target, sessions, connections).recommended;
        assert_eq!(of(pair, 0, 0), Some(300_000 + 50_000));
        assert_eq!(of(pair, 2, 2), Some(4 * 150_000));
        assert_eq!(of(port, 0, 0), Some(300_000));
        assert_eq!(of(port, 0, 2), Some(600_000));
        let connection = |buffer_id| ReservationTarget::Connection { buffer_id };
        assert_eq!(of(connection(7), 0, 0), Some(100_000));
        assert_eq!(of(connection(8), 0, 0), None, "nobody presents it");
    }

    #[test]
    fn b14_what_is_typed_in_goes_before_what_is_measured() {
        let mut row = path(REMOTE, 1000, 100);
        row.limit = PathLimit::Buffers;
        let target = ReservationTarget::PairPort {
            local: LOCAL,
            remote: REMOTE,
        };
        let advice = |row: &Path| Paths::new(std::iter::once(row), &[]).advice(target, 0, 0);
        assert!(advice(&row).bound_by_buffers);
        row.typed_bytes_per_s = Some(2_000_000);
        assert_eq!(advice(&row).recommended, Some(200_000));
        assert!(!advice(&row).bound_by_buffers, "that is what it carries");
        row.typed_rtt_us = Some(50_000);
        assert_eq!(advice(&row).recommended, Some(100_000));
        row.typed_bytes_per_s = None;
        row.limit = PathLimit::Idle;
        assert!(advice(&row).at_least, "what a login has shown");
        row.probes = 1;
        assert!(!advice(&row).at_least);
        assert_eq!(advice(&path(REMOTE, 0, 100)).recommended, None);
        assert_eq!(advice(&path(REMOTE, 1000, 0)).recommended, None);
    }
}

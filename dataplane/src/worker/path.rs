//! What the paths to the storages carry (B-12, B-14), as the connections that use them
//! have measured it: a row an own address, a storage's address and its port.
//!
//! What always holds: bandwidth is of one connection, and of a time at which it had
//! enough to send: what it could not fill says nothing of the path, unless it is more
//! than was known. (Where its send buffer is smaller than what the path holds, it is what
//! the connection gets with that buffer.) The delay is the least that a round trip took of late, which is not
//! what our own queue makes of it (B-13).
//!
//! Not for: idle paths, which nobody probes yet; what is reserved by it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_proto::Time;
use sluice_transport::PathSample;

use super::relay::{Net, Relay, Target};

/// Between two looks at the connections.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// A path, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub local: Ipv4Addr,
    pub remote: SocketAddrV4,
    /// Sessions with the storage that are up, of a connection each.
    pub sessions: u32,
    /// Of one connection; 0: not known yet.
    pub bytes_per_s: u64,
    pub bandwidth_at: Option<Time>,
    /// Zero: not known yet.
    pub round_trip: Duration,
    pub round_trip_at: Option<Time>,
}

impl Path {
    /// Bandwidth x delay x sessions x connections a session (B-13); `None` while one of
    /// them is not known.
    #[must_use]
    pub fn recommended_bytes(&self) -> Option<u64> {
        self.bandwidth_at.and(self.round_trip_at)?;
        let bytes = u128::from(self.bytes_per_s) * self.round_trip.as_nanos();
        let bytes = bytes * u128::from(self.sessions.max(1));
        Some(u64::try_from(bytes.div_ceil(1_000_000_000)).unwrap_or(u64::MAX))
    }
}

/// What a look finds of the connections of one path.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    sessions: u32,
    /// Of those that had enough to send.
    bytes_per_s: u64,
    busy: u64,
    /// Of the others, the one that still got the most.
    limited_max: u64,
    round_trip: Option<Duration>,
}

impl Sum {
    fn add(&mut self, sample: &PathSample) {
        self.sessions += 1;
        let bytes_per_s = sample.bandwidth.bytes_per_s();
        if bytes_per_s == 0 {
            return;
        }
        if sample.app_limited {
            self.limited_max = self.limited_max.max(bytes_per_s);
        } else {
            self.bytes_per_s = self.bytes_per_s.saturating_add(bytes_per_s);
            self.busy += 1;
        }
        self.round_trip = self.round_trip.into_iter().chain(sample.min_rtt).min();
    }

    fn enter(&self, now: Time, path: &mut Path) {
        path.sessions = self.sessions;
        let of_busy = self.bytes_per_s.checked_div(self.busy);
        let of_limited = Some(self.limited_max).filter(|&most| most > path.bytes_per_s);
        if let Some(bytes_per_s) = of_busy.or(of_limited) {
            (path.bytes_per_s, path.bandwidth_at) = (bytes_per_s, Some(now));
        }
        if let Some(round_trip) = self.round_trip {
            (path.round_trip, path.round_trip_at) = (round_trip, Some(now));
        }
    }
}

#[derive(Debug)]
pub(super) struct Paths {
    rows: Vec<Path>,
    sums: Vec<Sum>,
    /// By target, its row.
    of_target: Vec<usize>,
    next_look: Time,
}

impl Paths {
    pub fn new(targets: &[Target], now: Time) -> Self {
        let mut rows: Vec<Path> = Vec::new();
        let of_target = targets.iter().map(|target| {
            let (local, remote) = (target.wan_address, target.address);
            let known = |row: &Path| (row.local, row.remote) == (local, remote);
            rows.iter().position(known).unwrap_or_else(|| {
                rows.push(Path {
                    local,
                    remote,
                    sessions: 0,
                    bytes_per_s: 0,
                    bandwidth_at: None,
                    round_trip: Duration::ZERO,
                    round_trip_at: None,
                });
                rows.len() - 1
            })
        });
        Self {
            of_target: of_target.collect(),
            sums: vec![Sum::default(); rows.len()],
            rows,
            next_look: now,
        }
    }

    pub fn rows(&self) -> &[Path] {
        &self.rows
    }
}

impl Relay {
    /// Asks the connections to the storages what they have measured, now and then.
    pub(super) fn look_at_paths(&mut self, net: &Net<'_>, now: Time) {
        let Self { paths, nexuses, .. } = self;
        if now < paths.next_look {
            return;
        }
        paths.next_look = now + LOOK_PERIOD;
        paths.sums.fill(Sum::default());
        for (_, nexus) in nexuses.iter().filter(|(_, nexus)| nexus.is_ready()) {
            if let Some(sample) = nexus.flow.and_then(|flow| net.tcp.path_sample(flow)) {
                paths.sums[paths.of_target[nexus.target]].add(&sample);
            }
        }
        for (path, sum) in paths.rows.iter_mut().zip(&paths.sums) {
            sum.enter(now, path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_transport::rate::Rate;

    fn sample(bytes_per_s: u64, rtt_ms: u64, app_limited: bool) -> PathSample {
        PathSample {
            bandwidth: Rate::from_bytes_per_s(bytes_per_s),
            min_rtt: Some(Duration::from_millis(rtt_ms)),
            srtt: None,
            rttvar: Duration::ZERO,
            latest_rtt: None,
            delivered: 0,
            in_flight: 0,
            window: 0,
            pacing_rate: Rate::ZERO,
            app_limited,
        }
    }

    fn enter(path: &mut Path, at_ms: u64, samples: &[PathSample]) {
        let mut sum = Sum::default();
        samples.iter().for_each(|sample| sum.add(sample));
        sum.enter(Time::from_millis(at_ms), path);
    }

    fn path() -> Path {
        Path {
            local: Ipv4Addr::LOCALHOST,
            remote: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3260),
            sessions: 0,
            bytes_per_s: 0,
            bandwidth_at: None,
            round_trip: Duration::ZERO,
            round_trip_at: None,
        }
    }

    #[test]
    fn b12_bandwidth_is_of_one_connection_that_has_enough_to_send() {
        let mut path = path();
        enter(&mut path, 1, &[sample(100, 40, true)]);
        assert_eq!(path.bytes_per_s, 100, "more than nothing");
        let (busy, idle) = (sample(3000, 45, false), sample(500, 40, true));
        enter(&mut path, 2, &[busy, sample(5000, 41, false), idle]);
        assert_eq!((path.sessions, path.bytes_per_s), (3, 4000));
        assert_eq!(path.round_trip, Duration::from_millis(40), "the least");
        enter(&mut path, 3, &[sample(3900, 42, true)]);
        assert_eq!(path.bytes_per_s, 4000, "it had too little to send");
        assert_eq!(path.bandwidth_at, Some(Time::from_millis(2)));
        assert_eq!(path.round_trip_at, Some(Time::from_millis(3)));
        enter(&mut path, 4, &[sample(1000, 42, false)]);
        assert_eq!(path.bytes_per_s, 1000, "the path has become slower");
    }

    #[test]
    fn b13_what_is_recommended() {
        let mut path = path();
        assert_eq!(path.recommended_bytes(), None);
        enter(&mut path, 1, &[sample(12_500_000, 100, false); 3]);
        assert_eq!(path.recommended_bytes(), Some(3 * 1_250_000));
        // With nobody connected, for the one that will be.
        enter(&mut path, 2, &[]);
        assert_eq!(
            (path.sessions, path.recommended_bytes()),
            (0, Some(1_250_000))
        );
    }
}

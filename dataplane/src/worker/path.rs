//! What the paths to the storages carry (B-12, B-14), as the connections that use them
//! have measured it: a row an own address, a storage's address and its port.
//!
//! What always holds: bandwidth is of one connection, and of a time at which the path
//! bounded it. What bounds a connection is one of three: it has too little to send; all that
//! its buffers hold is out, and round trips are no longer for it, so the path might carry
//! more; or else the path. In the first two cases what it gets counts only if that is more
//! than was known. The delay is the least that a round trip took of late, which is not what
//! our own queue makes of it (B-13). An idle path is probed, with 32 KiB each
//! [`PROBE_PERIOD`]: pings with data, whose acknowledgements come as the narrowest link
//! has spread them.
//!
//! Not for: sizes of reservations, which control makes of it.

mod steady;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_hugepages::tables::{Outcome, PathLimit};
use sluice_proto::Time;
use sluice_transport::PathSample;
use sluice_transport::train::Shown;

use super::relay::{Net, Relay, Target};
use super::task::NexusKey;
pub use steady::Measure;
use steady::Steady;

/// Between two looks at the connections.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
/// Between two probes of a path that is idle.
const PROBE_PERIOD: Duration = Duration::from_secs(10);
/// What a probe has not shown by then it does not show, and what was to be measured and
/// could not be is as it was.
const MEASURED_WITHIN: Duration = Duration::from_secs(2);
/// Less than this in a look is no traffic: sessions ask whether the other side is alive.
const TRAFFIC_MIN: u64 = 4096;
/// Looks in a row that find connections bounded by their buffers, until the path counts as
/// not measured: one that probes for bandwidth comes near its buffer's end now and then.
const LOOKS_OF_BUFFERS: u8 = 3;
/// Looks that a measurement of a path in use takes.
const LOOKS_OF_MEASUREMENT: u8 = 4;
/// What may be typed in or reported: bytes a second, and a round trip.
const BYTES_PER_S_MAX: u64 = 1 << 40;
const ROUND_TRIP_MAX: Duration = Duration::from_secs(60);

/// A path, and what is known of it.
#[derive(Clone, Debug)]
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
    /// What a round trip takes now, our own queue included.
    pub round_trip_now: Duration,
    pub limit: PathLimit,
    pub typed_bytes_per_s: Option<u64>,
    pub typed_round_trip: Option<Duration>,
    /// Times that it was found to be another path, when last, and from what to what.
    pub changes: u64,
    pub changed_at: Option<Time>,
    pub change: Option<(Measure, Measure)>,
    pub probes: u64,
    /// Measurements that were asked for and have ended.
    pub measured: u64,
    steady: Steady,
    looks_of_buffers: u8,
    /// What its connections had delivered at the last look, and when that was not only a
    /// probe last.
    delivered: u64,
    used_at: Time,
    probe: Option<Probe>,
    /// What connections remembered when a probe showed less: it is not of now.
    overruled: u64,
    /// A session was lost over a probe: its storage takes no pings with data.
    spares_storage: bool,
    asked: Option<Asked>,
}

/// A probe that is out.
#[derive(Clone, Copy, Debug)]
struct Probe {
    nexus: NexusKey,
    begun: Time,
    /// Flights that its connection had measured before.
    trains: u64,
}

/// A measurement that was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Time,
    looks: u8,
}

impl Path {
    fn new(local: Ipv4Addr, remote: SocketAddrV4, now: Time) -> Self {
        Self {
            local,
            remote,
            sessions: 0,
            bytes_per_s: 0,
            bandwidth_at: None,
            round_trip: Duration::ZERO,
            round_trip_at: None,
            round_trip_now: Duration::ZERO,
            limit: PathLimit::Idle,
            typed_bytes_per_s: None,
            typed_round_trip: None,
            changes: 0,
            changed_at: None,
            change: None,
            probes: 0,
            measured: 0,
            steady: Steady::default(),
            looks_of_buffers: 0,
            delivered: 0,
            used_at: now,
            probe: None,
            overruled: 0,
            spares_storage: false,
            asked: None,
        }
    }

    /// Bandwidth x delay x sessions x connections a session (B-13), of what was typed in
    /// before what was measured; `None` while one of them is not known.
    #[must_use]
    pub fn recommended_bytes(&self) -> Option<u64> {
        let bandwidth = self.bandwidth_at.map(|_| self.bytes_per_s);
        let round_trip = self.round_trip_at.map(|_| self.round_trip);
        let bandwidth = self.typed_bytes_per_s.or(bandwidth)?;
        let round_trip = self.typed_round_trip.or(round_trip)?;
        let bytes = u128::from(bandwidth) * round_trip.as_nanos();
        let bytes = bytes * u128::from(self.sessions.max(1));
        Some(u64::try_from(bytes.div_ceil(1_000_000_000)).unwrap_or(u64::MAX))
    }

    fn enter(&mut self, now: Time, sum: &Sum) {
        self.sessions = sum.sessions;
        let delivered = sum.delivered.saturating_sub(self.delivered);
        self.delivered = sum.delivered;
        let moved = sum.in_flight + delivered >= TRAFFIC_MIN;
        if self.probe.is_none() {
            self.limit = if moved {
                self.bound(sum)
            } else {
                PathLimit::Idle
            };
            if moved {
                self.used_at = now;
            }
        }
        let of_bounded = sum.bytes_per_s.checked_div(sum.bounded).filter(|_| moved);
        let known = self.bytes_per_s.max(self.overruled);
        let of_others = Some(sum.others_max).filter(|&most| most > known);
        if of_bounded.is_some() {
            self.overruled = 0;
        }
        if let Some(bytes_per_s) = of_bounded.or(of_others) {
            (self.bytes_per_s, self.bandwidth_at) = (bytes_per_s, Some(now));
        }
        // What one remembers that has been idle since may be of another path.
        if let Some(round_trip) = sum.round_trip.or(sum.round_trip_of_all) {
            (self.round_trip, self.round_trip_at) = (round_trip, Some(now));
            self.round_trip_now = sum.round_trip_now;
        }
    }

    fn bound(&mut self, sum: &Sum) -> PathLimit {
        if sum.bounded > 0 {
            self.looks_of_buffers = 0;
            return PathLimit::Path;
        }
        if sum.of_buffers == 0 {
            self.looks_of_buffers = 0;
            return PathLimit::Application;
        }
        self.looks_of_buffers = self.looks_of_buffers.saturating_add(1);
        match self.looks_of_buffers {
            LOOKS_OF_BUFFERS.. => PathLimit::Buffers,
            _ => self.limit,
        }
    }

    /// What the flight of a probe has shown.
    fn take_train(&mut self, now: Time, shown: Shown, remembered: u64) {
        let (known, bytes_per_s) = (self.bytes_per_s, shown.rate.bytes_per_s());
        let is_slower = !shown.at_least && bytes_per_s < known / 5 * 4;
        if bytes_per_s > known || is_slower {
            (self.bytes_per_s, self.overruled) = (bytes_per_s, remembered);
        }
        if bytes_per_s >= known || !shown.at_least {
            self.bandwidth_at = Some(now);
        }
    }

    fn look_for_change(&mut self, now: Time) {
        if self.sessions == 0 || self.bytes_per_s == 0 || self.round_trip.is_zero() {
            return;
        }
        let measure = Measure {
            bytes_per_s: self.bytes_per_s,
            round_trip: self.round_trip,
        };
        if let Some(before) = self.steady.look(measure) {
            self.changes += 1;
            self.changed_at = Some(now);
            self.change = Some((before, measure));
        }
    }

    fn look_at_asked(&mut self, now: Time) {
        let Some(asked) = &mut self.asked else {
            return;
        };
        let in_use = !matches!(self.limit, PathLimit::Idle);
        asked.looks += u8::from(in_use);
        let done = asked.looks >= LOOKS_OF_MEASUREMENT
            || now.since(asked.at) >= MEASURED_WITHIN + LOOK_PERIOD
            || self.bandwidth_at.is_some_and(|at| at > asked.at) && !in_use;
        if done {
            self.asked = None;
            self.measured += 1;
        }
    }

    fn is_probe_due(&self, now: Time) -> bool {
        let asked = self.asked.is_some_and(|asked| asked.looks == 0);
        let idle = self.limit == PathLimit::Idle && self.probe.is_none();
        let due = asked || now.since(self.used_at) >= PROBE_PERIOD;
        idle && due && self.sessions > 0 && !self.spares_storage
    }
}

/// What a look finds of the connections of one path.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    sessions: u32,
    delivered: u64,
    in_flight: u64,
    /// Of those that the path bounds.
    bytes_per_s: u64,
    bounded: u64,
    /// Of the others, the one that still got the most, and those that their buffers bound.
    others_max: u64,
    of_buffers: u64,
    /// Of those that have enough to send, and of all.
    round_trip: Option<Duration>,
    round_trip_of_all: Option<Duration>,
    round_trip_now: Duration,
}

impl Sum {
    fn add(&mut self, sample: &PathSample) {
        self.sessions += 1;
        self.delivered += sample.delivered;
        self.in_flight += sample.in_flight;
        let bytes_per_s = sample.bandwidth.bytes_per_s();
        if bytes_per_s == 0 {
            return;
        }
        if let (false, Some(round_trip)) = (sample.app_limited, sample.srtt) {
            self.round_trip_now = self.round_trip_now.max(round_trip);
        }
        let of_buffers = sample.buffer_limited && !has_queue(sample);
        if sample.app_limited || of_buffers {
            self.others_max = self.others_max.max(bytes_per_s);
            self.of_buffers += u64::from(of_buffers && !sample.app_limited);
        } else {
            self.bytes_per_s = self.bytes_per_s.saturating_add(bytes_per_s);
            self.bounded += 1;
        }
        let least = |known: Option<Duration>| known.into_iter().chain(sample.min_rtt).min();
        if !sample.app_limited {
            self.round_trip = least(self.round_trip);
        }
        self.round_trip_of_all = least(self.round_trip_of_all);
    }
}

/// Whether round trips are longer for what is out: the path holds less than that.
fn has_queue(sample: &PathSample) -> bool {
    let (Some(now), Some(least)) = (sample.srtt, sample.min_rtt) else {
        return false;
    };
    now > least + least / 4 + Duration::from_millis(2)
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
                rows.push(Path::new(local, remote, now));
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

    fn find(&mut self, local: Ipv4Addr, remote: SocketAddrV4) -> Option<&mut Path> {
        let mut rows = self.rows.iter_mut();
        rows.find(|row| (row.local, row.remote) == (local, remote))
    }
}

/// What is known of a path from elsewhere (B-14).
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub bytes_per_s: Option<u64>,
    pub round_trip: Option<Duration>,
    /// By an operator: it goes before what is measured until it is taken back. Else it was
    /// measured by someone else, and is as good as what we measure until we do.
    pub typed: bool,
}

impl Relay {
    /// Takes what is known of a path from elsewhere.
    pub fn set_path(
        &mut self,
        now: Time,
        local: Ipv4Addr,
        remote: SocketAddrV4,
        known: Known,
    ) -> Outcome {
        let rate = known.bytes_per_s.unwrap_or(1);
        let round_trip = known.round_trip.unwrap_or(ROUND_TRIP_MAX);
        let Some(path) = self.paths.find(local, remote) else {
            return Outcome::UnknownPath;
        };
        if !(1..=BYTES_PER_S_MAX).contains(&rate)
            || round_trip.is_zero()
            || round_trip > ROUND_TRIP_MAX
        {
            return Outcome::OutOfRange;
        }
        if known.typed {
            path.typed_bytes_per_s = known.bytes_per_s;
            path.typed_round_trip = known.round_trip;
            return Outcome::Done;
        }
        if let Some(bytes_per_s) = known.bytes_per_s {
            (path.bytes_per_s, path.bandwidth_at) = (bytes_per_s, Some(now));
        }
        if let Some(round_trip) = known.round_trip {
            (path.round_trip, path.round_trip_at) = (round_trip, Some(now));
        }
        Outcome::Done
    }

    /// Has a path measured now; its row's `measured` tells when that is done.
    pub fn measure_path(&mut self, now: Time, local: Ipv4Addr, remote: SocketAddrV4) -> Outcome {
        let Some(path) = self.paths.find(local, remote) else {
            return Outcome::UnknownPath;
        };
        path.asked = Some(Asked { at: now, looks: 0 });
        Outcome::Done
    }

    /// Asks the connections to the storages what they have measured, now and then.
    pub(super) fn look_at_paths(&mut self, net: &mut Net<'_>, now: Time) {
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
        for row in 0..self.paths.rows.len() {
            let Paths { rows, sums, .. } = &mut self.paths;
            rows[row].enter(now, &sums[row]);
            self.look_at_probe(net, now, row);
            let path = &mut self.paths.rows[row];
            path.look_for_change(now);
            path.look_at_asked(now);
            if path.is_probe_due(now) {
                self.probe_path(net, now, row);
            }
        }
    }

    fn look_at_probe(&mut self, net: &Net<'_>, now: Time, row: usize) {
        let path = &mut self.paths.rows[row];
        let Some(probe) = path.probe else {
            return;
        };
        let nexus = self.nexuses.get(probe.nexus.0);
        let flow = nexus
            .filter(|nexus| nexus.is_ready())
            .and_then(|nexus| nexus.flow);
        let Some(sample) = flow.and_then(|flow| net.tcp.path_sample(flow)) else {
            path.spares_storage = true;
            path.probe = None;
            return;
        };
        if let (true, Some(shown)) = (sample.trains > probe.trains, sample.train) {
            path.take_train(now, shown, self.paths.sums[row].others_max);
        } else if now.since(probe.begun) < MEASURED_WITHIN {
            return;
        }
        path.probe = None;
    }

    fn probe_path(&mut self, net: &mut Net<'_>, now: Time, row: usize) {
        let Self { paths, nexuses, .. } = self;
        let path = &mut paths.rows[row];
        path.used_at = now;
        let ready = nexuses
            .iter_mut()
            .filter(|(_, nexus)| nexus.is_ready() && paths.of_target[nexus.target] == row);
        for (at, nexus) in ready {
            let (Some(flow), Some(conn)) = (nexus.flow, nexus.conn.as_mut()) else {
                continue;
            };
            let Some(sample) = net.tcp.path_sample(flow) else {
                continue;
            };
            let Some(bytes) = conn.probe() else {
                continue;
            };
            net.tcp.send_unpaced(flow, bytes);
            let nexus = NexusKey(at);
            path.probes += 1;
            path.probe = Some(Probe {
                nexus,
                begun: now,
                trains: sample.trains,
            });
            return self.touch_nexus(nexus);
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
            buffer_limited: false,
            train: None,
            trains: 0,
        }
    }

    fn enter(path: &mut Path, at_ms: u64, samples: &[PathSample]) {
        let mut sum = Sum::default();
        samples.iter().for_each(|sample| sum.add(sample));
        sum.delivered = at_ms * TRAFFIC_MIN;
        path.enter(Time::from_millis(at_ms), &sum);
    }

    fn shown(bytes_per_s: u64, at_least: bool) -> Shown {
        Shown {
            rate: Rate::from_bytes_per_s(bytes_per_s),
            at_least,
        }
    }

    fn path() -> Path {
        let remote = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3260);
        Path::new(Ipv4Addr::LOCALHOST, remote, Time::ZERO)
    }

    #[test]
    fn b12_bandwidth_is_of_one_connection_that_has_enough_to_send() {
        let mut path = path();
        enter(&mut path, 1, &[sample(100, 40, true)]);
        assert_eq!(path.bytes_per_s, 100, "more than nothing");
        assert_eq!(path.round_trip, Duration::from_millis(40));
        let (busy, idle) = (sample(3000, 45, false), sample(500, 20, true));
        enter(&mut path, 2, &[busy, sample(5000, 41, false), idle]);
        assert_eq!((path.sessions, path.bytes_per_s), (3, 4000));
        let least = Duration::from_millis(41);
        assert_eq!(path.round_trip, least, "not what an idle one remembers");
        enter(&mut path, 3, &[sample(3900, 42, true)]);
        assert_eq!(path.bytes_per_s, 4000, "it had too little to send");
        assert_eq!(path.bandwidth_at, Some(Time::from_millis(2)));
        assert_eq!(path.round_trip_at, Some(Time::from_millis(3)));
        enter(&mut path, 4, &[sample(1000, 42, false)]);
        assert_eq!(path.bytes_per_s, 1000, "the path has become slower");
    }

    #[test]
    fn b14_what_buffers_bound_is_not_the_path() {
        let mut path = path();
        let mut bounded = sample(1000, 40, false);
        (bounded.buffer_limited, bounded.srtt) = (true, Some(Duration::from_millis(41)));
        enter(&mut path, 1, &[bounded]);
        assert_eq!(path.limit, PathLimit::Idle, "not at once");
        (2..4).for_each(|at| enter(&mut path, at, &[bounded]));
        assert_eq!((path.limit, path.bytes_per_s), (PathLimit::Buffers, 1000));
        bounded.bandwidth = Rate::from_bytes_per_s(500);
        enter(&mut path, 4, &[bounded]);
        assert_eq!(path.bytes_per_s, 1000, "the path carried more");
        // A queue has grown: the path takes no more.
        bounded.srtt = Some(Duration::from_millis(90));
        enter(&mut path, 5, &[bounded]);
        assert_eq!((path.limit, path.bytes_per_s), (PathLimit::Path, 500));
        assert_eq!(path.round_trip_now, Duration::from_millis(90));
        enter(&mut path, 6, &[sample(400, 40, true)]);
        assert_eq!(
            (path.limit, path.bytes_per_s),
            (PathLimit::Application, 500)
        );
        enter(&mut path, 6, &[sample(400, 40, true)]);
        assert_eq!(path.limit, PathLimit::Idle, "nothing was delivered since");
    }

    #[test]
    fn b14_a_probe_shows_a_path_that_has_become_slower() {
        let mut path = path();
        enter(&mut path, 1, &[sample(10_000, 40, false)]);
        path.take_train(Time::from_millis(2), shown(9000, false), 10_000);
        assert_eq!(path.bytes_per_s, 10_000, "near enough for a flight");
        path.take_train(Time::from_millis(2), shown(2000, true), 10_000);
        assert_eq!(path.bytes_per_s, 10_000, "it was not sent faster");
        path.take_train(Time::from_millis(3), shown(2000, false), 10_000);
        assert_eq!(path.bytes_per_s, 2000);
        assert_eq!(path.bandwidth_at, Some(Time::from_millis(3)));
        enter(&mut path, 4, &[sample(10_000, 40, true)]);
        assert_eq!(path.bytes_per_s, 2000, "what the connection remembers");
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
        path.typed_bytes_per_s = Some(1_000_000);
        assert_eq!(path.recommended_bytes(), Some(100_000));
    }
}

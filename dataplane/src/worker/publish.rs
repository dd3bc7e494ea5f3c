//! What operators see: the worker's tables as rows of the control segment,
//! some ten times a second, and the commands that come back by it.
//!
//! Only copies out; nothing here changes what a packet or a write does, but
//! for the commands.

mod buffers;

use std::net::Ipv4Addr;
use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_hugepages::log::SEGMENT_PAYLOAD_LEN;
use sluice_hugepages::shm::SegmentWriter;
use sluice_hugepages::tables::{
    self, Command, Completion, FlushSetting, Outcome, Scope, Table, text,
};
use sluice_proto::Time;
use sluice_proto::cache::flush::policy::FlushPolicy;

use buffers::Watch;

use super::events::Events;
use super::journal::Health;
use super::latency::Kind;
use super::load::ms_until;
use super::path::Known;
use super::relay::{Mode, Relay, Target, VOLUMES_MAX};
use super::step::Worker;
use super::task::VolumeKey;
use super::volume::Volume;
use crate::driver::Port;
use crate::journal::layout::BLOCK_LEN;
use crate::net::NeighbourState;

/// Time between two rounds of publishing.
pub const PUBLISH_PERIOD: Duration = Duration::from_millis(100);
/// Time between two system calls a port for the counters that the kernel keeps.
const REFRESH_PERIOD: Duration = Duration::from_secs(1);
/// Time between two looks at the command ring, and two heartbeats: half of what control counts on.
const BEAT_PERIOD: Duration = Duration::from_millis(10);

/// What only `main` knows of the running process.
#[derive(Clone, Debug)]
pub struct Facts {
    pub core: Option<u16>,
    pub frames_backing: (tables::Backing, String),
    pub log_backing: tables::Backing,
    pub log_bytes: u64,
    /// Path and bytes of the journal.
    pub journal: Option<(String, u64)>,
    pub ticks_per_second: u64,
    pub start: StartFacts,
}

/// What the start found.
#[derive(Clone, Copy, Debug)]
pub struct StartFacts {
    pub kind: tables::StartKind,
    pub records: u64,
    /// From the log's opening to the relay's tables.
    pub took: Duration,
}

/// Ticks and sleeps since start, counted by the loop around the step.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopCounters {
    pub sleeps: u64,
    pub busy_ticks: u64,
    pub total_ticks: u64,
    pub idle_permille: u16,
}

/// Where a worker's rows go.
#[derive(Debug)]
pub struct Publisher {
    segment: SegmentWriter,
    facts: Facts,
    /// Kept up to date by the loop around the step.
    pub loop_counters: LoopCounters,
    next_refresh: Time,
    next: Time,
    next_beat: Time,
    named: bool,
    /// What was said of it last.
    journal_state: tables::JournalState,
    events: Events,
    /// Rows written last time, so that those gone are cleared.
    neighbours: usize,
    watch: Watch,
}

/// The name of the port that leads to the host's kernel.
pub const KERNEL_PORT: &str = "kernel";

impl Publisher {
    pub fn new(segment: SegmentWriter, facts: Facts) -> Self {
        Self {
            segment,
            facts,
            loop_counters: LoopCounters::default(),
            next_refresh: Time::ZERO,
            next: Time::ZERO,
            next_beat: Time::ZERO,
            named: false,
            journal_state: tables::JournalState::Good,
            events: Events::new(),
            neighbours: 0,
            watch: Watch::default(),
        }
    }

    /// Does what control asks, and shows the tables when it is time to.
    pub fn run(&mut self, now: Time, worker: &mut Worker, ports: &mut [Port]) {
        if now < self.next_beat {
            return;
        }
        self.next_beat = now + BEAT_PERIOD;
        self.segment.heartbeat(now.as_nanos());
        let mut commanded = false;
        while let Some((id, command)) = self.segment.next_command() {
            let (outcome, volumes, buffers) = worker.command_from_control(now, &command);
            if !commanded {
                // Whoever waits for a flush compares with rows of before his command's answer.
                self.volumes(now, worker);
            }
            commanded = true;
            self.segment.complete(&Completion {
                buffers,
                ..Completion::new(id, outcome, volumes)
            });
        }
        if now < self.next && !commanded {
            return;
        }
        self.next = now + PUBLISH_PERIOD;
        if now >= self.next_refresh {
            self.next_refresh = now + REFRESH_PERIOD;
            for port in &mut *ports {
                port.refresh_stats();
            }
        }
        self.ports(worker, ports);
        if !self.named {
            self.routes(worker);
        }
        self.neighbours(worker);
        self.sessions(worker);
        self.volumes(now, worker);
        self.paths(now, worker);
        self.buffers(worker);
        self.reservations(worker);
        self.tell_of_buffers(now, worker);
        self.journal(now, worker);
        self.runtime(worker);
        self.counters(worker);
    }

    /// When [`Publisher::run`] wants to be called again.
    pub fn deadline(&self) -> Time {
        self.next_beat
    }

    fn ports(&mut self, worker: &Worker, ports: &[Port]) {
        for ((row, port), index) in worker.router.ports().zip(ports).zip(0..) {
            let port = port_row(
                port,
                row.name,
                row.mac,
                (row.address, row.prefix_len),
                row.mtu,
            );
            self.segment.put(index, &port);
        }
        if let Some(index) = worker.router.kernel_port().map(usize::from)
            && let (Some(port), Some(first)) = (ports.get(index), worker.router.ports().next())
        {
            let mtu = u16::try_from(port.info().mtu).unwrap_or(u16::MAX);
            let port = port_row(port, KERNEL_PORT, [0; 6], (first.address, 32), mtu);
            self.segment.put(index, &port);
        }
    }

    fn routes(&mut self, worker: &Worker) {
        let port_of = |name: &str| {
            worker
                .router
                .ports()
                .position(|port| port.name == name)
                .unwrap_or(0)
        };
        for (row, index) in worker.router.routes().zip(0..) {
            self.segment.put(
                index,
                &tables::Route {
                    prefix: row.prefix,
                    prefix_len: row.prefix_len,
                    via: row.via,
                    port: u8::try_from(port_of(row.port)).unwrap_or(u8::MAX),
                },
            );
        }
    }

    fn neighbours(&mut self, worker: &Worker) {
        let port_of = |name: &str| {
            worker
                .router
                .ports()
                .position(|port| port.name == name)
                .unwrap_or(0)
        };
        let mut count = 0;
        for row in worker.router.neighbours() {
            self.segment.put(
                count,
                &tables::Neighbour {
                    address: row.address,
                    mac: row.mac.unwrap_or_default(),
                    port: u8::try_from(port_of(row.port)).unwrap_or(u8::MAX),
                    state: match row.state {
                        NeighbourState::Unresolved | NeighbourState::Incomplete => {
                            tables::NeighbourState::Incomplete
                        }
                        NeighbourState::Reachable => tables::NeighbourState::Reachable,
                        NeighbourState::Stale | NeighbourState::Probe => {
                            tables::NeighbourState::Stale
                        }
                        NeighbourState::Failed => tables::NeighbourState::Failed,
                    },
                    confirmed_ns: row.confirmed.as_nanos(),
                },
            );
            count += 1;
        }
        if count < self.neighbours {
            self.segment.clear_from(Table::Neighbours, count);
        }
        self.neighbours = count;
    }

    /// One row a nexus and LUN.
    fn sessions(&mut self, worker: &Worker) {
        let relay = &worker.relay;
        let mut count = 0;
        for (_, nexus) in &relay.nexuses {
            let target = &relay.config.targets[nexus.target];
            let lan = nexus.lan.and_then(|lan| relay.lans.get(lan.0));
            let mut volumes = relay
                .volume_keys()
                .filter(|&key| relay.volume(key).target == Some(nexus.target))
                .peekable();
            let unnamed = volumes.peek().is_none().then_some(None);
            for volume in volumes.map(Some).chain(unnamed) {
                self.segment.put(
                    count,
                    &tables::Session {
                        target: text(&target.name),
                        storage: target.address,
                        lun: volume.map(|key| relay.volume(key).lun),
                        volume: volume.map(|key| key.0),
                        initiator: text(&nexus.initiator_name),
                        computer: nexus.computer,
                        lan_isid: nexus.lan_isid,
                        lan_tsih: lan.map_or(0, |lan| lan.tsih),
                        lan_connected: lan.is_some(),
                        wan_isid: nexus.wan_isid,
                        wan_tsih: nexus.conn.as_ref().map_or(0, |conn| conn.tsih()),
                        wan_connected: nexus.is_ready(),
                        dirty_bytes: volume.map_or(0, |key| relay.flush.dirty_bytes(key.0)),
                        commands: nexus.commands,
                        since_ns: nexus.since.as_nanos(),
                    },
                );
                count += 1;
            }
        }
        self.segment.clear_from(Table::Sessions, count);
    }

    /// Volumes the log knows, and configured ones that no login has told of yet.
    fn volumes(&mut self, now: Time, worker: &Worker) {
        let relay = &worker.relay;
        let mut count = 0;
        let growth = relay.growth();
        for key in relay.volume_keys() {
            let row = relay.volume_row(key, growth);
            self.segment.put(count, &row);
            self.events.volume(&mut self.segment, now, key, &row);
            count += 1;
        }
        for (target, at) in relay.config.targets.iter().zip(0..) {
            for &lun in &target.luns {
                if relay.find_volume(at, lun).is_none() {
                    self.segment.put(count, &relay.unseen_row(at, lun));
                    count += 1;
                }
            }
        }
        self.segment.clear_from(Table::Volumes, count);
        let mut failed = 0;
        for row in relay.failed_writes() {
            self.segment.put(failed, &row);
            failed += 1;
        }
        self.segment.clear_from(Table::FailedWrites, failed);
    }

    /// As many as there are targets at most, and they stay.
    fn paths(&mut self, now: Time, worker: &Worker) {
        for (path, index) in worker.relay.paths.rows().iter().zip(0..) {
            self.events.path(&mut self.segment, now, index, path);
            self.segment.put(
                index,
                &tables::Path {
                    local: path.local,
                    remote: path.remote,
                    sessions: path.sessions,
                    bandwidth_bytes_per_s: path.bytes_per_s,
                    bandwidth_at_ns: path.bandwidth_at.map(Time::as_nanos),
                    min_rtt_us: micros(path.round_trip),
                    min_rtt_at_ns: path.round_trip_at.map(Time::as_nanos),
                    limit: path.limit,
                    rtt_us: micros(path.round_trip_now),
                    typed_bytes_per_s: path.typed_bytes_per_s,
                    typed_rtt_us: path.typed_round_trip.map(micros),
                    changes: path.changes,
                    changed_at_ns: path.changed_at.map(Time::as_nanos),
                    probes: path.probes,
                    measured: path.measured,
                    recommended_bytes: path.recommended_bytes(),
                },
            );
        }
    }

    /// What it has to say is said in the log too, when it changes.
    fn journal(&mut self, now: Time, worker: &Worker) {
        let Some((path, size_bytes)) = &self.facts.journal else {
            return;
        };
        let Some((health, progress, made)) = worker.relay.journal_health() else {
            return;
        };
        let (state, why) = match health {
            Health::Good => (tables::JournalState::Good, None),
            Health::Failing(trouble) | Health::Voiding(trouble) => {
                (tables::JournalState::Failing, Some(trouble))
            }
            Health::GivenUp(trouble) => (tables::JournalState::GivenUp, Some(trouble)),
        };
        let why = why.map(|trouble| trouble.to_string()).unwrap_or_default();
        if state != self.journal_state {
            let change = (self.journal_state, state);
            self.events.journal(&mut self.segment, now, change, &why);
            self.journal_state = state;
            match health {
                Health::Good => log::warn!("journal {path}: it is good again"),
                Health::Failing(_) | Health::Voiding(_) => log::error!(
                    "journal {path}: {why}; what it keeps is flushed, and if it does not recover it is given up"
                ),
                Health::GivenUp(_) => log::error!(
                    "journal {path}: {why}; all it kept is at the storage, and it is void: volumes of durability \
                     journal have durability storage until the next start"
                ),
            }
        }
        self.segment.put(
            0,
            &tables::Journal {
                path: text(path),
                state,
                why: text(&why),
                size_bytes: *size_bytes,
                used_bytes: progress.used_blocks * BLOCK_LEN as u64,
                groups: progress.groups,
                durable: progress.durable,
                made,
            },
        );
    }

    fn runtime(&mut self, worker: &Worker) {
        let counters = self.loop_counters;
        let (mut rx_packets, mut tx_packets) = (0, 0);
        for port in worker.router.ports() {
            rx_packets += port.counters.rx_packets;
            tx_packets += port.counters.tx_packets;
        }
        self.segment.put(
            0,
            &tables::Runtime {
                version: text(env!("CARGO_PKG_VERSION")),
                mode: text(match worker.relay.config.mode {
                    Mode::Transparent => "transparent",
                    Mode::Portal => "portal",
                }),
                core: self.facts.core,
                steps: worker.counters.steps,
                idle_steps: worker.counters.steps_idle,
                sleeps: counters.sleeps,
                rx_packets,
                tx_packets,
                busy_ticks: counters.busy_ticks,
                total_ticks: counters.total_ticks,
                ticks_per_second: self.facts.ticks_per_second,
                idle_permille: counters.idle_permille,
                start: self.facts.start.kind,
                start_records: self.facts.start.records,
                start_us: u64::try_from(self.facts.start.took.as_micros()).unwrap_or(u64::MAX),
                recovering_permille: None,
                draining_since_ns: worker.relay.draining_since().map(Time::as_nanos),
            },
        );
    }

    /// Every named drop and fault of router, TCP, relay and reservations.
    fn counters(&mut self, worker: &Worker) {
        let drops = worker
            .router
            .drops()
            .iter()
            .map(|(drop, count)| ("net", drop.name(), count));
        let tcp = worker
            .tcp
            .counters()
            .named()
            .map(|(name, count)| ("tcp", name, count));
        let relay = worker
            .relay
            .counters
            .rows()
            .into_iter()
            .map(|(name, count)| ("iscsi", name, count));
        let buffers = worker
            .relay
            .reservations
            .counts
            .rows()
            .into_iter()
            .map(|(name, count)| ("buffers", name, count));
        for ((room, name, count), index) in drops.chain(tcp).chain(relay).chain(buffers).zip(0..) {
            if !self.named {
                let mut full = arrayvec::ArrayString::<48>::new();
                // A name too long for its cell is cut; the names here are all shorter.
                let _ = std::fmt::Write::write_fmt(&mut full, format_args!("{room}.{name}"));
                self.segment.name_counter(index, &full);
            }
            self.segment.set_counter(index, count);
        }
        self.named = true;
    }
}

impl Relay {
    /// Carries out a command of the control process.
    pub fn command_from_control(&mut self, now: Time, command: &Command) -> (Outcome, u32) {
        match command {
            Command::SetFlush { scope, setting } => self.set_flush(scope, setting),
            Command::FlushVolume { scope } => {
                let covered = self.covered(scope);
                for &key in &covered {
                    self.ask_flush(key);
                }
                let covered = u32::try_from(covered.len()).expect("VOLUMES_MAX");
                (self.outcome(scope), covered)
            }
            Command::RetryFailed { scope } => {
                let mut covered = 0;
                for key in self.covered(scope) {
                    if self.volume(key).failure.sense().is_some() || self.volume(key).write_through
                    {
                        covered += 1;
                        self.retry_refused(key);
                    }
                }
                (self.outcome(scope), covered)
            }
            Command::DiscardFailed { scope, stamp } => match *self.covered(scope) {
                [key] => match self.discard_refused(key, *stamp) {
                    Some(writes) => (Outcome::Done, writes),
                    None => (Outcome::Changed, 0),
                },
                _ => (Outcome::UnknownVolume, 0),
            },
            Command::Drain { on: true } => (Outcome::Done, self.drain(now)),
            Command::Drain { on: false } => {
                self.end_drain();
                (Outcome::Done, 0)
            }
            // Those about buffers are the worker's ([`Worker::command_from_control`]).
            Command::Reserve { .. }
            | Command::CancelReservation { .. }
            | Command::QueryBuffers { .. }
            | Command::PresentBufferId { .. } => (Outcome::OutOfRange, 0),
            &Command::SetPath {
                local,
                remote,
                bytes_per_s,
                min_rtt_us,
                typed,
            } => {
                let known = Known {
                    bytes_per_s,
                    round_trip: min_rtt_us.map(Duration::from_micros),
                    typed,
                };
                (self.set_path(now, local, remote, known), 0)
            }
            &Command::MeasurePath { local, remote } => (self.measure_path(now, local, remote), 0),
        }
    }

    fn covered(&self, scope: &Scope) -> ArrayVec<VolumeKey, VOLUMES_MAX> {
        self.volume_keys()
            .filter(|&key| {
                let volume = self.volume(key);
                scope.covers(&volume.target_name, volume.lun)
            })
            .collect()
    }

    /// Sets the flush policy of the volumes that `scope` covers, seen or not.
    pub fn set_flush(&mut self, scope: &Scope, setting: &FlushSetting) -> (Outcome, u32) {
        let outcome = self.outcome(scope);
        if outcome != Outcome::Done {
            return (outcome, 0);
        }
        if *scope == Scope::All {
            apply(&mut self.config.flush, setting);
        } else {
            match self.overrides.iter_mut().find(|(known, _)| known == scope) {
                Some((_, known)) => known.merge(setting),
                None => self.overrides.push((scope.clone(), *setting)),
            }
            // A target's setting goes before its volumes' own.
            self.overrides
                .sort_by_key(|(scope, _)| matches!(scope, Scope::Volume { .. }));
        }
        let mut covered = 0;
        for key in self.volume_keys() {
            let (target, lun) = (self.volume(key).target_name, self.volume(key).lun);
            covered += u32::from(scope.covers(&target, lun));
            let policy = self.policy_of(&target, lun);
            self.volume_mut(key).policy = policy;
        }
        (outcome, covered)
    }

    /// Whether there is such a volume, in the log or in the configuration.
    fn outcome(&self, scope: &Scope) -> Outcome {
        let seen = |volume: &Volume| scope.covers(&volume.target_name, volume.lun);
        let configured = |target: &Target| match scope {
            Scope::All => true,
            Scope::Target(name) => target.name == name.as_str(),
            Scope::Volume { target: name, lun } => {
                target.name == name.as_str() && target.luns.contains(lun)
            }
        };
        let known = *scope == Scope::All
            || self.volumes.iter().flatten().any(seen)
            || self.config.targets.iter().any(configured);
        if known {
            Outcome::Done
        } else {
            Outcome::UnknownVolume
        }
    }

    /// Bytes a second by which what is cached grows, all volumes together: they share the log.
    fn growth(&self) -> i128 {
        let volumes = self.volumes.iter().flatten();
        volumes.map(|volume| volume.rates.growth()).sum()
    }

    /// `growth` is [`Relay::growth`].
    fn volume_row(&self, key: VolumeKey, growth: i128) -> tables::Volume {
        let volume = self.volume(key);
        let room = self.log.room();
        let room_bytes = room.segments_free.saturating_sub(self.margin_segments) as u64
            * SEGMENT_PAYLOAD_LEN as u64;
        let epochs_pending = self
            .flush
            .oldest_epoch(key.0)
            .map_or(0, |oldest| volume.epoch.saturating_sub(oldest) + 1);
        let rates = volume.rates.per_s();
        let dirty_bytes = self.flush.dirty_bytes(key.0);
        let sessions = self
            .nexuses
            .iter()
            .filter(|(_, nexus)| Some(nexus.target) == volume.target && nexus.lan.is_some())
            .count();
        let connected = self
            .nexuses
            .iter()
            .any(|(_, nexus)| Some(nexus.target) == volume.target && nexus.is_ready());
        let records = self.flush.records(key.0) + volume.durable.len();
        // A flush is complete when the journal says so too.
        let oldest = self
            .flush
            .oldest_dirty(key.0)
            .or_else(|| (!self.journal_has(volume.freed.last())).then_some(volume.dirty_since));
        let state = if volume.failure.sense().is_some() {
            tables::VolumeState::Failed
        } else if volume.write_through {
            tables::VolumeState::WriteThrough
        } else if !connected {
            tables::VolumeState::Disconnected
        } else if sessions == 0 && records > 0 {
            tables::VolumeState::Draining
        } else {
            tables::VolumeState::Connected
        };
        tables::Volume {
            target: volume.target_name,
            lun: volume.lun,
            storage: volume.storage,
            state,
            durability: self.contract(key),
            load_us: micros(volume.load.smoothed()),
            load_p99_us: micros(volume.load.permille(990)),
            dirty_bytes,
            oldest_dirty_since_ns: oldest.map(Time::as_nanos),
            block_len: volume.geometry.map_or(0, |geometry| geometry.block_len),
            blocks: volume.geometry.map_or(0, |geometry| geometry.blocks),
            records: records as u64,
            written_bytes: volume.bytes_written,
            flushed_bytes: volume.bytes_flushed,
            superseded_bytes: volume.bytes_superseded,
            written_bytes_per_s: rates.written,
            flushed_bytes_per_s: rates.flushed,
            epochs_pending,
            drained_in_ms: ms_until(dirty_bytes, -volume.rates.growth()),
            full_in_ms: ms_until(room_bytes, growth),
            room_bytes,
            sessions: u32::try_from(sessions).unwrap_or(u32::MAX),
            flush_threshold_bytes: volume.policy.threshold_bytes,
            flush_stop_bytes: volume.policy.stop_bytes(),
            flush_period_ns: nanos(volume.policy.period),
            flush_idle_ns: nanos(volume.policy.idle),
            flush_load_limit_us: volume.policy.load_limit(volume.load.at_rest()).map(micros),
            load_at_rest_us: micros(volume.load.at_rest()),
            failed_writes: (volume.failure.listed().len() + volume.failure.more() as usize) as u64,
            failed_stamp: volume.failure.stamp,
            drain: self.drain_of(Some(key)),
            held_up: self.held_up(key),
            write_latency: volume.latencies.shown(Kind::Write),
            read_latency: volume.latencies.shown(Kind::Read),
            flush_latency: volume.latencies.shown(Kind::Flush),
        }
    }

    /// The refused writes that are listed, volume by volume.
    pub fn failed_writes(&self) -> impl Iterator<Item = tables::FailedWrite> + '_ {
        self.volumes
            .iter()
            .flatten()
            .flat_map(Self::failed_writes_of)
    }

    fn failed_writes_of(volume: &Volume) -> impl Iterator<Item = tables::FailedWrite> + '_ {
        volume
            .failure
            .listed()
            .iter()
            .map(|refused| tables::FailedWrite {
                target: volume.target_name,
                lun: volume.lun,
                stamp: volume.failure.stamp,
                lba: refused.lba,
                blocks: refused.blocks,
                bytes: u64::from(refused.bytes),
                sense_key: refused.sense.key.code(),
                asc: refused.sense.asc,
                ascq: refused.sense.ascq,
                sequence: refused.sequence,
            })
    }

    fn unseen_row(&self, target: usize, lun: u64) -> tables::Volume {
        let target = &self.config.targets[target];
        // It may have been set for this one, which shows it before anybody logs in.
        let policy = self.policy_of(&target.name, lun);
        tables::Volume {
            target: text(&target.name),
            lun,
            storage: target.address,
            state: tables::VolumeState::Disconnected,
            durability: self.contract_over(target.durability),
            load_us: 0,
            load_p99_us: 0,
            dirty_bytes: 0,
            oldest_dirty_since_ns: None,
            block_len: 0,
            blocks: 0,
            records: 0,
            written_bytes: 0,
            flushed_bytes: 0,
            superseded_bytes: 0,
            written_bytes_per_s: 0,
            flushed_bytes_per_s: 0,
            epochs_pending: 0,
            drained_in_ms: Some(0),
            full_in_ms: None,
            room_bytes: 0,
            sessions: 0,
            flush_threshold_bytes: policy.threshold_bytes,
            flush_stop_bytes: policy.stop_bytes(),
            flush_period_ns: nanos(policy.period),
            flush_idle_ns: nanos(policy.idle),
            flush_load_limit_us: policy.load_limit(Duration::ZERO).map(micros),
            load_at_rest_us: 0,
            failed_writes: 0,
            failed_stamp: 0,
            drain: self.drain_of(None),
            held_up: tables::HeldUp::No,
            write_latency: tables::Latency::default(),
            read_latency: tables::Latency::default(),
            flush_latency: tables::Latency::default(),
        }
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Lays a setting over a policy.
pub(crate) fn apply(policy: &mut FlushPolicy, setting: &FlushSetting) {
    if let Some(bytes) = setting.threshold_bytes {
        policy.threshold_bytes = bytes;
    }
    policy.stop_bytes = setting.stop_bytes.or(policy.stop_bytes);
    if let Some(ms) = setting.period_ms {
        policy.period = Duration::from_millis(ms);
    }
    if let Some(ms) = setting.idle_ms {
        policy.idle = Duration::from_millis(ms);
    }
    if let Some(ms) = setting.load_limit_ms {
        policy.load_limit_ms = ms;
    }
    if let Some(percent) = setting.load_limit_percent {
        policy.load_limit_percent = percent;
    }
}

fn port_row(
    port: &Port,
    name: &str,
    mac: [u8; 6],
    (address, prefix_len): (Ipv4Addr, u8),
    mtu: u16,
) -> tables::Port {
    let (info, stats) = (port.info(), port.stats());
    tables::Port {
        name: text(name),
        device: text(&info.device),
        driver: text(&info.driver.to_string()),
        why: text(&info.why),
        mac,
        address,
        prefix_len,
        mtu,
        link: if port.is_up() {
            tables::LinkState::Up
        } else {
            tables::LinkState::Down
        },
        rx_packets: stats.rx_frames,
        rx_bytes: stats.rx_bytes,
        rx_drops: stats.rx_drops(),
        tx_packets: stats.tx_frames,
        tx_bytes: stats.tx_bytes,
        tx_drops: stats.tx_drops(),
    }
}

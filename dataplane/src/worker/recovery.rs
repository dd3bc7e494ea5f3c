//! A start that finds a log: volumes, sessions and records of before, checked
//! and put back in order.

use slab::Slab;
use sluice_hugepages::log::{Log, NexusEntry, Record, Recovery, VolumeFlags, WRITE_LEN_MAX};
use sluice_hugepages::pool::Pool;
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::cache::admission::BackPressure;
use sluice_proto::cache::flush::{Entry, FlushQueue};
use sluice_proto::cache::index::{Index, IndexCapacity};
use sluice_proto::iscsi::chap::Challenges;

use super::buffers::Registry;
use super::compact::Compaction;
use super::holding::Holding;
use super::lan::SESSION_TASKS_MAX;
use super::lanes::{LANES_SPARE, Lanes, NO_COMPUTER};
use super::latency::Recorder;
use super::path::Paths;
use super::relay::{Counters, Relay, RelayConfig, VOLUMES_MAX};
use super::staging::Staging;
use super::task::VolumeKey;
use super::volume::{Geometry, Retired, Volume};
use crate::wheel::Wheel;

/// Commands of all computers under way; one more is answered TASK SET FULL.
/// 16,384 full windows of a 100 Gbit/s LAN are 4 KiB each in 5 ms: enough for
/// any storage behind a WAN to be the limit first.
const TASKS_MAX: usize = 16_384;

/// Records put back between two words of progress: some hundredths of a second.
const PROGRESS_RECORDS: usize = 64 * 1024;

/// A relay that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The communication memory has no room for the staging pages.
    #[error(
        "{pages} staging pages of 64 KiB do not fit the communication memory: raise dataplane.frames_mib"
    )]
    NoStaging { pages: u16 },
    /// A session with a storage that is left out could not be reinstated, and what it
    /// had under way might land after something newer (C-8).
    #[error(
        "the log knows {found} sessions with storages from before, and dataplane.sessions_max has room \
         for {room}: raise it to {wanted} at least"
    )]
    NoNexuses {
        found: usize,
        room: usize,
        wanted: usize,
    },
}

impl Relay {
    /// Builds the relay over its log, with what the log held put back.
    ///
    /// # Errors
    /// [`StartError`]: the pool or `sessions_max` is too small.
    pub fn new(
        config: RelayConfig,
        log: Log,
        recovery: &Recovery,
        pool: &mut Pool,
        now: Time,
    ) -> Result<Self, StartError> {
        Self::new_with_progress(config, log, recovery, pool, now, &mut |_| ())
    }

    /// As [`Relay::new`]; `progress` is called now and then with the records that
    /// have been put back.
    ///
    /// # Errors
    /// As [`Relay::new`].
    pub fn new_with_progress(
        config: RelayConfig,
        log: Log,
        recovery: &Recovery,
        pool: &mut Pool,
        now: Time,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, StartError> {
        let pages = config.staging_pages;
        let records = u32::try_from(log.records_max()).expect("records are numbered in 32 bits");
        let volumes = u16::try_from(VOLUMES_MAX).expect("a small number");
        let sessions = config.sessions_max;
        let margin_segments = (log.room().segments_total / 64).max(1);
        // A nexus may outlive its session by a flush: twice as many.
        let computers_max = sessions * 2;
        let known = log
            .nexuses()
            .filter(|(_, entry)| target_of(&config, entry).is_some());
        let (lanes, computers): (Vec<_>, Vec<_>) =
            known.partition(|(_, entry)| entry.computer == NO_COMPUTER);
        let found = computers.len();
        if found > computers_max {
            return Err(StartError::NoNexuses {
                found,
                room: computers_max,
                wanted: found.div_ceil(2),
            });
        }
        // Those of before may be more, and are reinstated before they go.
        let lanes_wanted: usize = config.targets.iter().map(|target| target.lanes - 1).sum();
        let lanes_wanted = lanes_wanted + LANES_SPARE;
        let nexuses_max = computers_max + lanes.len().max(lanes_wanted);
        let share_max = usize::from(super::login::target_config().max_data_items);
        let staging = Staging::new(pool, pages, nexuses_max, share_max)
            .ok_or(StartError::NoStaging { pages })?;
        let room = log.room();
        let segment_len = room.bytes_total / room.segments_total.max(1) as u64;
        let bytes = |segments: usize| segments as u64 * segment_len;
        let usable = room.segments_total.saturating_sub(margin_segments);
        let write_len_max = bytes(usable).min(WRITE_LEN_MAX as u64);
        let (lans, nexuses) = (
            Slab::with_capacity(sessions),
            Slab::with_capacity(nexuses_max),
        );
        let tasks = (sessions * SESSION_TASKS_MAX).min(TASKS_MAX);
        let mut relay = Self {
            challenges: Challenges::new(config.challenge_key),
            index: Index::new(
                IndexCapacity {
                    volumes_max: volumes,
                    records_max: records,
                    payload_pages: u32::try_from(log.room().bytes_total / 4096)
                        .expect("a log below 16 TiB"),
                },
                config.seed,
            ),
            flush: FlushQueue::new(records, volumes),
            retired: vec![Retired::default(); log.records_max()].into(),
            // A write hides at most a record a block of its own.
            superseded: Vec::with_capacity(WRITE_LEN_MAX / 512),
            overrides: Vec::new(),
            volumes: (0..VOLUMES_MAX).map(|_| None).collect(),
            tasks: Slab::with_capacity(tasks),
            wan_tasks: Slab::with_capacity(tasks + nexuses_max),
            staging,
            held: std::collections::VecDeque::with_capacity(tasks),
            room_moved: false,
            compaction: Compaction::default(),
            latency: Recorder::new(tasks),
            delayed: std::collections::VecDeque::with_capacity(tasks),
            starving: std::collections::VecDeque::with_capacity(nexuses_max),
            flows: Vec::with_capacity(sessions * 2 + nexuses_max),
            logins: Vec::with_capacity(sessions),
            lans_queued: std::collections::VecDeque::with_capacity(sessions),
            nexuses_queued: std::collections::VecDeque::with_capacity(nexuses_max),
            departing: Vec::with_capacity(nexuses_max),
            next_sweep: now,
            paths: Paths::new(&config.targets, now),
            reservations: Registry::new(
                config
                    .targets
                    .iter()
                    .map(|target| (target.name.as_str(), target.wan_address, target.address)),
            ),
            lanes: config.targets.iter().map(|_| Lanes::default()).collect(),
            astray: vec![0; config.targets.len()],
            lan_timers: Wheel::new(slots(lans.capacity())),
            nexus_timers: Wheel::new(slots(nexuses.capacity())),
            lans,
            nexuses,
            task_turn: 0,
            wan_task_turn: 0,
            next_tsih: 1,
            arrivals: 0,
            functions: Vec::with_capacity(super::management::FUNCTIONS_MAX),
            functions_moved: false,
            random: config.seed,
            stamp: 0,
            counters: Counters::default(),
            margin_segments,
            pressure: BackPressure {
                threshold_bytes: bytes(usable / 2),
                full_bytes: bytes(usable),
                delay_max: super::write::DELAY_MAX,
            },
            unfinished_max: bytes(usable) / 4,
            write_len_max: u32::try_from(write_len_max).expect("32 MiB"),
            accepting: true,
            draining_since: None,
            journal: None,
            log,
            config,
        };
        relay.recover_volumes(recovery, now);
        relay.recover_records(recovery, now, progress);
        relay.recover_nexuses();
        relay.fail_damaged();
        relay.log.begin();
        relay.counters.records_unsound = recovery.damaged.len() as u64;
        Ok(relay)
    }

    fn recover_volumes(&mut self, recovery: &Recovery, now: Time) {
        let found: Vec<_> = self
            .log
            .volumes()
            .map(|(id, entry)| (id, entry.clone()))
            .collect();
        for (id, entry) in found {
            let policy = self.policy_of(&entry.target_name, entry.lun);
            let records_max = self.log.records_max();
            let mut volume = Volume::new(
                entry.target_name,
                entry.storage,
                entry.lun,
                policy,
                records_max,
                now,
            );
            volume.target = self.config.targets.iter().position(|target| {
                target.name == entry.target_name.as_str() && target.address == entry.storage
            });
            volume.geometry = Some(Geometry {
                block_len: entry.block_len,
                blocks: entry.blocks,
            });
            if let Some(found) = recovery.volumes.iter().find(|found| found.volume == id) {
                volume.epoch = found.epoch_max + 1;
                volume.next_sequence = found.sequence_max + 1;
            }
            // What the configuration does not name keeps what it had.
            volume.contract = volume.target.map_or(Durability::Journal, |target| {
                self.config.targets[target].durability
            });
            volume.kept_through = volume.next_sequence - 1;
            volume.write_through = entry.flags.contains(VolumeFlags::WRITE_THROUGH);
            volume.holding = Holding::new(!entry.flags.contains(VolumeFlags::RESERVED), false);
            self.index.set_block_len(id.0, entry.block_len);
            self.volumes[usize::from(id.0)] = Some(volume);
        }
    }

    /// Records go back in order of arrival, as the recovery lists them: the
    /// index must meet the newest last.
    fn recover_records(&mut self, recovery: &Recovery, now: Time, progress: &mut dyn FnMut(usize)) {
        for (done, &id) in recovery.records.iter().enumerate() {
            if done.is_multiple_of(PROGRESS_RECORDS) {
                progress(done);
            }
            let Record {
                volume,
                epoch,
                sequence,
                lba,
                len,
                ..
            } = *self.log.record(id);
            let block_len = self.volume(VolumeKey(volume.0)).block_len();
            let blocks = len / block_len;
            let overlaps = self.index.insert(volume.0, lba, blocks, id.0);
            self.flush.push(
                volume.0,
                Entry {
                    record: id.0,
                    lba,
                    blocks,
                    epoch,
                    sequence,
                    bytes: len,
                    arrived: now,
                    maybe_sent: true,
                },
                overlaps,
            );
        }
        for key in self.volume_keys() {
            if self.volume(key).geometry.is_some() {
                self.may_be_unsynced(key);
            }
            // What a crash left dirty is flushed at once.
            self.ask_flush(key);
        }
    }

    /// Sessions of before log in again by themselves, under the same ISID (C-8).
    fn recover_nexuses(&mut self) {
        let found: Vec<_> = self
            .log
            .nexuses()
            .map(|(id, entry)| (id, entry.clone()))
            .collect();
        for (id, entry) in found {
            let Some(target) = target_of(&self.config, &entry) else {
                continue;
            };
            let key = self.insert_nexus(
                target,
                entry.initiator_name,
                entry.lan_isid,
                entry.wan_isid,
                entry.computer,
                id,
            );
            self.nexuses[key.0].established = true;
            // What the process had under way when it died.
            self.gone_astray(key);
            for number in 0..VOLUMES_MAX {
                let dirty = self
                    .flush
                    .records(u16::try_from(number).expect("VOLUMES_MAX"))
                    > 0;
                // A lane only if there is nobody else.
                if let Some(volume) = self.volumes[number].as_mut()
                    && volume.target == Some(target)
                    && dirty
                    && volume
                        .flush_nexus
                        .is_none_or(|known| self.nexuses[known.0].is_lane())
                {
                    volume.flush_nexus = Some(key);
                }
            }
        }
    }
}

/// The target that a nexus of before was of, if it is still configured.
fn target_of(config: &RelayConfig, entry: &NexusEntry) -> Option<usize> {
    config.targets.iter().position(|target| {
        target.name == entry.target_name.as_str() && target.address == entry.storage
    })
}

fn slots(capacity: usize) -> u32 {
    u32::try_from(capacity).expect("sessions are counted in 16 bits")
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};
    use std::time::Duration;

    use arrayvec::ArrayString;
    use sluice_config::MemoryBudget;
    use sluice_hugepages::region::Region;
    use sluice_proto::cache::flush::policy::FlushPolicy;
    use sluice_proto::iscsi::InitiatorConn;

    use super::super::latency::{Answered, Latencies};
    use super::super::relay::{Digests, Mode, Target};
    use super::super::security::Security;
    use super::super::task::{Task, TaskKey, WanTask};
    use super::super::{lan::Lan, nexus::Nexus};
    use super::*;
    use crate::tcp::WanBuffers;

    /// The configuration knows how many sessions a log has rows for.
    #[test]
    fn the_directory_has_the_rows_that_are_promised() {
        for mib in [4, 8, 64, 128, 256, 2048] {
            let region = Region::anonymous(mib << 20);
            let (log, _) = Log::open(region).expect("an empty region");
            let promised = sluice_config::sessions_in_directory(mib as u64 * 1024 * 1024);
            assert_eq!(log.nexuses_max() as u64, promised, "{mib} MiB");
        }
    }

    const TARGET: &str = "iqn.2004-03.example.storage:vol0";
    const STORAGE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260);

    fn config(sessions_max: usize) -> RelayConfig {
        RelayConfig {
            mode: Mode::Transparent,
            targets: vec![Target {
                name: TARGET.to_owned(),
                address: STORAGE,
                initiators: Vec::new(),
                shared: true,
                luns: Vec::new(),
                own_identity: false,
                chap: false,
                wan_address: Ipv4Addr::new(198, 19, 0, 1),
                durability: Durability::Memory,
                lanes: 1,
            }],
            flush: FlushPolicy {
                threshold_bytes: 1 << 20,
                stop_bytes: None,
                period: Duration::from_secs(2),
                idle: Duration::ZERO,
                load_limit_ms: 0,
                load_limit_percent: 0,
            },
            wait_max: Duration::from_secs(10),
            cache_warning_percent: 75,
            sessions_max,
            staging_pages: 16,
            wan_buffers: WanBuffers {
                rx_pages: 1,
                tx_frames: 16,
            },
            silence_max: Duration::from_secs(10),
            lan_digests: Digests::default(),
            wan_digests: Digests::default(),
            security: Security::default(),
            challenge_key: [7; 32],
            seed: 7,
        }
    }

    /// A session with the storage that a start leaves out could not be reinstated, and
    /// what it had under way could land after something newer (C-8).
    #[test]
    fn c8_sessions_of_before_that_have_no_room_are_said_at_the_start() {
        let region = Region::anonymous(4 << 20);
        let (mut log, recovery) = Log::open(region).expect("an empty region");
        let target_name = ArrayString::from(TARGET).expect("short");
        for number in 0..5 {
            let entry = NexusEntry {
                initiator_name: ArrayString::from("iqn.2004-03.example:host").expect("short"),
                target_name,
                // The fifth is of a target that is configured no more.
                storage: SocketAddrV4::new(*STORAGE.ip(), 3260 + u16::from(number == 4)),
                computer: SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 10), 40_000),
                lan_isid: [0x80, 0, 0, 0, 0, number],
                wan_isid: [0x80, 0, 0, 0, 1, number],
            };
            log.put_nexus(entry).expect("a row");
        }
        let mut pool = Pool::anonymous(64);
        let region = log.into_region();
        let (log, _) = Log::open(region).expect("ours");
        let refused = Relay::new(config(1), log, &recovery, &mut pool, Time::ZERO);
        let (found, room, wanted) = (4, 2, 2);
        match refused.map(|_| ()) {
            Err(StartError::NoNexuses {
                found: f,
                room: r,
                wanted: w,
            }) => assert_eq!((f, r, w), (found, room, wanted)),
            other => panic!("{other:?}"),
        }
    }

    /// The budget is checked before anything is allocated, by a crate that knows no room of
    /// this one: what it takes a session, a command and a volume for must not be less than they are.
    #[test]
    fn the_budget_covers_sessions_commands_and_volumes() {
        let bytes = |len: usize| u64::try_from(len).expect("small");
        assert_eq!(bytes(SESSION_TASKS_MAX), MemoryBudget::TASKS_PER_SESSION);
        assert_eq!(bytes(TASKS_MAX), MemoryBudget::TASKS_MAX);
        let task = size_of::<Task>()
            + size_of::<WanTask>()
            + 2 * size_of::<TaskKey>()
            + size_of::<Answered>();
        assert!(
            bytes(task) <= MemoryBudget::TASK_BYTES,
            "{task} bytes a command"
        );
        assert_eq!(bytes(VOLUMES_MAX), MemoryBudget::VOLUMES_MAX);
        let volume = Latencies::heap_len();
        assert!(
            bytes(volume) <= MemoryBudget::VOLUME_BYTES,
            "{volume} bytes a volume"
        );
        let session = super::super::login::target_config().connection_len()
            + size_of::<Lan>()
            + 2 * (size_of::<Nexus>() + size_of::<InitiatorConn>());
        assert!(
            bytes(session) <= MemoryBudget::SESSION_BYTES,
            "{session} bytes a session"
        );
        for (rx_pages, tx_pages) in [(1, 1), (3, 5), (4, 16), (16, 4), (64, 1024)] {
            let tx_frames = tx_pages * 16;
            let flow = crate::tcp::heap_len(WanBuffers {
                rx_pages,
                tx_frames,
            });
            let kib = |pages: u32| u64::from(pages) * 64;
            let budget = MemoryBudget::WAN_FLOW_BYTES
                + kib(tx_pages) * MemoryBudget::WAN_BYTES_PER_SEND_KIB
                + kib(rx_pages) * MemoryBudget::WAN_BYTES_PER_RECEIVE_KIB;
            assert!(bytes(flow) <= budget, "{flow} bytes of {budget} a flow");
        }
    }
}

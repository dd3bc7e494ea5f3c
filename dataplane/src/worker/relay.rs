//! The relay's state and its tables: who is connected, what is under way, and
//! the cache between the two sides. The rooms beside this one are its parts:
//! [`login`](super::login), [`admit`](super::admit), [`write`](super::write),
//! [`read`](super::read), [`pass`](super::pass), [`flush`](super::flush),
//! [`wan`](super::wan).

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use slab::Slab;
use sluice_hugepages::fuse::Fuse;
use sluice_hugepages::log::Log;
use sluice_hugepages::pool::Pool;
use sluice_hugepages::tables::{Durability, FlushSetting, Scope};
use sluice_proto::Time;
use sluice_proto::cache::admission::BackPressure;
use sluice_proto::cache::flush::FlushQueue;
use sluice_proto::cache::flush::policy::FlushPolicy;
use sluice_proto::cache::index::Index;
use sluice_proto::iscsi::chap::Challenges;
use sluice_proto::iscsi::{DigestPolicy, Offers, TaskId};
use sluice_proto::scsi::ScsiStatus;
use sluice_proto::scsi::same_lun;

use super::buffers::Registry;
use super::compact::Compaction;
use super::journal::Journal;
use super::lan::Lan;
use super::lanes::Lanes;
use super::latency::Recorder;
use super::management::Function;
use super::nexus::Nexus;
use super::path::Paths;
use super::security::Security;
use super::staging::Staging;
use super::task::{LanKey, NexusKey, Task, TaskKey, VolumeKey, WanTask, Work};
use super::volume::{Retired, Volume};
use crate::tcp::{FlowId, Tcp, WanBuffers};
use crate::wheel::Wheel;

/// How computers reach the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Transparent,
    Portal,
}

/// A target that is cached, as configured.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    pub address: SocketAddrV4,
    /// Initiator names let in; empty for any.
    pub initiators: Vec<String>,
    /// Several computers may be connected at once.
    pub shared: bool,
    /// LUNs shown before any login has told them.
    pub luns: Vec<u64>,
    /// Units have an identity of the relay's own (C-15).
    pub own_identity: bool,
    /// Computers must prove who they are.
    pub chap: bool,
    /// The relay's own address towards the storage.
    pub wan_address: Ipv4Addr,
    /// When a plain write is acknowledged (C-2).
    pub durability: Durability,
    /// Sessions that flush to it, 1 to [`super::lanes::LANES_MAX`].
    pub lanes: usize,
}

/// Digests on one side of the relay (C-13).
#[derive(Clone, Copy, Debug, Default)]
pub struct Digests {
    pub header: DigestPolicy,
    pub data: DigestPolicy,
}

impl Digests {
    pub(super) const fn over(self, offers: Offers) -> Offers {
        Offers {
            header_digest: self.header,
            data_digest: self.data,
            ..offers
        }
    }
}

#[derive(Clone, Debug)]
pub struct RelayConfig {
    pub mode: Mode,
    pub targets: Vec<Target>,
    pub flush: FlushPolicy,
    /// How long a command may wait for room, the storage or durability before it ends BUSY (C-16).
    pub wait_max: Duration,
    /// The write cache is short of room when so much of the log is used (B-16).
    pub cache_warning_percent: u8,
    pub sessions_max: usize,
    pub staging_pages: u16,
    /// Of a connection to the storage that no reservation is for.
    pub wan_buffers: WanBuffers,
    /// A connection that is silent this long is asked by NOP, and given up after as long again.
    pub silence_max: Duration,
    pub lan_digests: Digests,
    pub wan_digests: Digests,
    pub security: Security,
    /// Challenges follow from it; drawn by `main`.
    pub challenge_key: [u8; 32],
    /// Seeds the ISIDs and the jitter of back-off; drawn by `main`.
    pub seed: u64,
}

/// Network rooms that the relay's calls need.
#[derive(Debug)]
pub struct Net<'a> {
    pub tcp: &'a mut Tcp,
    pub pool: &'a mut Pool,
}

/// Which half of the relay a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Lan(LanKey),
    Wan(NexusKey),
}

/// Counters of the relay, by name in [`Counters::rows`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub logins: u64,
    pub logins_refused: u64,
    /// Connections that said nothing and made room for others.
    pub logins_dropped: u64,
    pub violations: u64,
    /// Computers that did not prove who they are; the same for storage, and refusals of our proof.
    pub unproved: u64,
    pub wan_unproved: u64,
    pub wan_logins: u64,
    pub wan_losses: u64,
    /// Flushed writes that went by another lane than the carrier, and those that a lane gave back.
    pub lane_writes: u64,
    pub lane_writes_back: u64,
    pub writes_held: u64,
    pub busy_no_room: u64,
    pub busy_wait_max: u64,
    pub busy_no_staging: u64,
    /// Writes whose data did not come.
    pub busy_no_data: u64,
    /// Writes whose answer was held back.
    pub writes_delayed: u64,
    pub flush_failures: u64,
    pub records_unsound: u64,
    pub volumes_misfit: u64,
    pub sessions_reinstated: u64,
    /// Times that LUNs were reset for a nexus that could not come back.
    pub lun_resets: u64,
    /// Chunks of reads, by how much of them the cache held.
    pub reads_cached: u64,
    pub reads_partly_cached: u64,
    pub reads_uncached: u64,
    pub writes_behind: u64,
    pub commands_passed: u64,
    pub records_superseded: u64,
    /// Live ones, out of segments that held little else.
    pub records_moved: u64,
    /// Sent in a write together with a neighbour; such writes that the storage refused,
    /// whose records were sent one by one then.
    pub records_joined: u64,
    pub writes_taken_apart: u64,
    /// Passing commands that overwrote records which were then given up unsent.
    pub commands_overwrote: u64,
    /// Task management functions that were done.
    pub functions: u64,
    /// Unit attentions met by the relay's own commands, for the computer to hear.
    pub attentions_kept: u64,
    pub reservation_questions: u64,
    pub reservation_conflicts: u64,
    /// Writes that the storage was left to judge.
    pub writes_judged: u64,
    /// Acknowledged writes that the storage refused for good, and volumes that failed by one (C-4).
    pub writes_refused: u64,
    pub volumes_failed: u64,
    /// Of those, what the operator threw away.
    pub writes_discarded: u64,
    /// Asynchronous messages of a storage other than its wish to be left (RFC 7143 11.9.1).
    pub wan_async_events: u64,
    /// Times that a thin volume was turned to write-through.
    pub thin_warnings: u64,
    /// Times that the journal stalled or its device failed, and that it was given up.
    pub journal_troubles: u64,
    pub journals_given_up: u64,
    /// Events of memory, and of the write cache, that ran short (B-20, B-16).
    pub memory_short: u64,
    pub cache_short: u64,
}

impl Counters {
    pub fn rows(&self) -> [(&'static str, u64); 45] {
        [
            ("login_accepted", self.logins),
            ("login_refused", self.logins_refused),
            ("login_dropped", self.logins_dropped),
            ("iscsi_violation", self.violations),
            ("login_unproved", self.unproved),
            ("wan_login_unproved", self.wan_unproved),
            ("wan_login", self.wan_logins),
            ("wan_session_lost", self.wan_losses),
            ("lane_write", self.lane_writes),
            ("lane_write_given_back", self.lane_writes_back),
            ("wan_async_event", self.wan_async_events),
            ("write_held_for_room", self.writes_held),
            ("busy_no_room", self.busy_no_room),
            ("busy_wait_limit", self.busy_wait_max),
            ("busy_no_staging", self.busy_no_staging),
            ("busy_no_data", self.busy_no_data),
            ("write_delayed", self.writes_delayed),
            ("flush_failed", self.flush_failures),
            ("record_unsound", self.records_unsound),
            ("volume_misfit", self.volumes_misfit),
            ("session_reinstated", self.sessions_reinstated),
            ("lun_reset", self.lun_resets),
            ("read_cached", self.reads_cached),
            ("read_partly_cached", self.reads_partly_cached),
            ("read_uncached", self.reads_uncached),
            ("write_behind_command", self.writes_behind),
            ("command_passed", self.commands_passed),
            ("record_superseded", self.records_superseded),
            ("record_moved", self.records_moved),
            ("record_joined", self.records_joined),
            ("write_taken_apart", self.writes_taken_apart),
            ("command_overwrote", self.commands_overwrote),
            ("task_management", self.functions),
            ("unit_attention_kept", self.attentions_kept),
            ("reservation_question", self.reservation_questions),
            ("reservation_conflict", self.reservation_conflicts),
            ("write_left_to_storage", self.writes_judged),
            ("write_refused_for_good", self.writes_refused),
            ("volume_failed", self.volumes_failed),
            ("write_discarded", self.writes_discarded),
            ("volume_turned_write_through", self.thin_warnings),
            ("journal_trouble", self.journal_troubles),
            ("journal_given_up", self.journals_given_up),
            ("memory_short", self.memory_short),
            ("cache_short", self.cache_short),
        ]
    }
}

/// How much is in use: see [`Relay::usage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Connections of computers.
    pub sessions: usize,
    pub nexuses: usize,
    pub tasks: usize,
    pub wan_tasks: usize,
    pub staging_pages: usize,
    /// Commands that wait for room or for a page.
    pub held: usize,
    /// Log segments that are not free.
    pub segments: usize,
}

#[derive(Debug)]
pub struct Relay {
    pub(super) config: RelayConfig,
    /// Before the log, whose pages its thread reads.
    pub(super) journal: Option<Journal>,
    pub(super) log: Log,
    pub(super) index: Index,
    pub(super) flush: FlushQueue,
    /// By the log directory's volume number.
    pub(super) volumes: Vec<Option<Volume>>,
    pub(super) lans: Slab<Lan>,
    pub(super) nexuses: Slab<Nexus>,
    pub(super) tasks: Slab<Task>,
    pub(super) wan_tasks: Slab<WanTask>,
    pub(super) staging: Staging,
    /// By record: of one in its volume's list of durable ones, what it waits for.
    pub(super) retired: Box<[Retired]>,
    /// Scratch: records that a write has hidden; at most one a block of it.
    pub(super) superseded: Vec<u32>,
    /// Flush settings of volumes and targets, for those not seen yet.
    pub(super) overrides: Vec<(Scope, FlushSetting)>,
    /// Writes without room, in order of arrival.
    pub(super) held: VecDeque<TaskKey>,
    /// Room or a share of it has come free otherwise than by a flush.
    pub(super) room_moved: bool,
    pub(super) compaction: Compaction,
    pub(super) latency: Recorder,
    /// Writes in the log whose answer is held back, and until when; the first is due first.
    pub(super) delayed: VecDeque<(Time, TaskKey)>,
    /// Nexuses with reads that found no staging page.
    pub(super) starving: VecDeque<NexusKey>,
    /// By the flow's index.
    pub(super) flows: Vec<Option<(FlowId, Side)>>,
    /// Connections that have not logged in yet, the oldest first.
    pub(super) logins: Vec<LanKey>,
    pub(super) lans_queued: VecDeque<LanKey>,
    pub(super) nexuses_queued: VecDeque<NexusKey>,
    /// Nexuses with commands whose last data has not left.
    pub(super) departing: Vec<NexusKey>,
    pub(super) next_sweep: Time,
    /// By target.
    pub(super) lanes: Vec<Lanes>,
    pub(super) paths: Paths,
    pub reservations: Registry,
    /// Nexuses that are astray, by target.
    pub(super) astray: Vec<u32>,
    /// When each session and nexus is to be looked at, though nothing arrives.
    pub(super) lan_timers: Wheel,
    pub(super) nexus_timers: Wheel,
    /// Where the next sweep begins in the tables of commands.
    pub(super) task_turn: usize,
    pub(super) wan_task_turn: usize,
    pub(super) next_tsih: u16,
    /// Commands and functions that have come.
    pub(super) arrivals: u64,
    /// Task management functions that wait for the storage.
    pub(super) functions: Vec<Function>,
    pub(super) functions_moved: bool,
    pub(super) random: u64,
    pub(super) challenges: Challenges,
    /// Places in the sequence of questions, logins and doubts: see [`super::reservation`].
    pub(super) stamp: u64,
    pub counters: Counters,
    /// The log's free room never goes below this many segments (A-11's margin).
    pub(super) margin_segments: usize,
    /// How computers are slowed down as the log fills.
    pub(super) pressure: BackPressure,
    /// Bytes of the log that one session's unfinished writes may have reserved.
    pub(super) unfinished_max: u64,
    /// Longest write: what an empty log surely holds.
    pub(super) write_len_max: u32,
    pub(super) accepting: bool,
    /// Since when nothing is acknowledged from the cache: see [`super::drain`].
    pub(super) draining_since: Option<Time>,
}

impl Relay {
    /// The next number of a splitmix64 sequence: jitter and ISIDs, not secrets.
    pub(super) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn volume(&self, key: VolumeKey) -> &Volume {
        self.volumes[usize::from(key.0)]
            .as_ref()
            .expect("a volume key names a volume of the directory")
    }

    pub(super) fn volume_mut(&mut self, key: VolumeKey) -> &mut Volume {
        self.volumes[usize::from(key.0)]
            .as_mut()
            .expect("a volume key names a volume of the directory")
    }

    pub(super) fn find_volume(&self, target: usize, lun: u64) -> Option<VolumeKey> {
        self.volume_keys().find(|&key| {
            let volume = self.volume(key);
            volume.target == Some(target) && same_lun(volume.lun, lun)
        })
    }

    pub(super) fn volume_keys(&self) -> impl Iterator<Item = VolumeKey> + use<> {
        let present: arrayvec::ArrayVec<VolumeKey, VOLUMES_MAX> = self
            .volumes
            .iter()
            .zip(0_u16..)
            .filter_map(|(volume, number)| volume.is_some().then_some(VolumeKey(number)))
            .collect();
        present.into_iter()
    }

    /// Bytes of all volumes that are not durable at their storage.
    pub fn dirty_bytes(&self) -> u64 {
        self.volume_keys()
            .map(|key| self.flush.dirty_bytes(key.0))
            .sum()
    }

    /// What is taken of the tables and pages that bytes from outside can take.
    pub fn usage(&self) -> Usage {
        Usage {
            sessions: self.lans.len(),
            nexuses: self.nexuses.len(),
            tasks: self.tasks.len(),
            wan_tasks: self.wan_tasks.len(),
            staging_pages: self.staging.total_pages() - self.staging.free_pages(),
            held: self.held.len()
                + self
                    .nexuses
                    .iter()
                    .map(|(_, nexus)| nexus.starved.len())
                    .sum::<usize>(),
            segments: self.log.room().segments_total - self.log.room().segments_free,
        }
    }

    /// Nothing is left to flush, to sync, or to free.
    pub fn is_drained(&self) -> bool {
        self.volume_keys()
            .all(|key| self.flush.is_drained(key.0) && self.volume(key).durable.is_empty())
            && self.journal_is_settled()
    }

    /// Stops the log's memory after some stores, as a crash in the middle of a step would.
    pub fn set_log_fuse(&mut self, fuse: Fuse) {
        self.log.set_fuse(fuse);
    }

    /// The fuse has blown: what this relay says and sends from the step on in
    /// which it did is of a world that no longer exists.
    pub fn log_has_stopped(&self) -> bool {
        self.log.fuse().is_blown()
    }

    /// Nothing that has been promised waits for its journal, and with a drain nothing
    /// is left in the log: what a stop gives some time to.
    pub fn is_settled(&self) -> bool {
        if self.draining_since.is_some() {
            self.is_drained()
        } else {
            self.journal_is_settled()
        }
    }

    /// Leaves the mark in the log that the next start reads: this one has ended
    /// in good order. Nothing is done with the relay afterwards.
    pub fn close_log(&mut self) {
        self.log.close();
    }

    pub fn into_log(self) -> Log {
        self.log
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Puts a session on the list to be served in this step.
    pub(super) fn touch_lan(&mut self, key: LanKey) {
        if let Some(lan) = self.lans.get_mut(key.0)
            && !lan.queued
        {
            lan.queued = true;
            self.lans_queued.push_back(key);
        }
    }

    pub(super) fn touch_nexus(&mut self, key: NexusKey) {
        if let Some(nexus) = self.nexuses.get_mut(key.0)
            && !nexus.queued
        {
            nexus.queued = true;
            self.nexuses_queued.push_back(key);
        }
    }

    /// Answers a command that has no task yet.
    pub(super) fn refuse(&mut self, lan: LanKey, task: TaskId, status: ScsiStatus, sense: &[u8]) {
        if let Some(session) = self.lans.get_mut(lan.0) {
            session.conn.respond(task, status, sense, 0);
            self.touch_lan(lan);
        }
    }

    /// Answers a command: from here on the computer's task number is free, and
    /// the task itself stays only while it has something out at the storage.
    pub(super) fn answer(
        &mut self,
        key: TaskKey,
        status: ScsiStatus,
        sense: &[u8],
        transferred: u32,
    ) {
        let task = &mut self.tasks[key.0];
        let Some((lan, number)) = task.lan.take() else {
            return;
        };
        self.latency.answered(task);
        let session = &mut self.lans[lan.0];
        session.tasks[usize::from(number.0)] = None;
        session.conn.respond(number, status, sense, transferred);
        self.leave_line(lan, key);
        self.touch_lan(lan);
    }

    /// Removes a task that nothing refers to any more.
    pub(super) fn forget(&mut self, key: TaskKey) {
        let task = self.tasks.remove(key.0);
        assert!(
            task.lan.is_none(),
            "a task is answered before it is forgotten"
        );
        self.nexuses[task.nexus.0].tasks -= 1;
        let Work::Pass(pass) = &task.work else {
            return;
        };
        if pass.aborting {
            self.ended_at_storage(key, &task);
        }
    }
}

/// Volumes of one worker. A LUN beyond them is not cached; its commands pass.
/// A nexus has a word of bits for them.
pub const VOLUMES_MAX: usize = 64;

//! One simulated site: computers, relay, storage, the links, and what goes wrong.
//! One thread, one clock, and all chance from the seed.
//!
//! This room moves time and frames; [`plan`] draws the site and [`schedule`] what is to
//! go wrong, [`trouble`] makes it so and [`rot`] damages what is kept, [`operator`] looks
//! after what has failed, [`buffers`] reserves memory, [`coverage`] counts what a run has met, [`leak`] looks whether
//! anything is left in the end.
//!
//! The relay is the real [`Worker`] on memory ports. A crash of it is a drop
//! of the worker and a new start on the same log memory, as after SIGKILL:
//! between two steps, or after any store of one, whose frames then never leave.
//! Where a volume's contract is `journal`, its power fails too, in a start as well: the
//! log is gone then, and is made from the journal again; volumes of another contract
//! beside it have lost what that allows (C-1).

mod buffers;
mod coverage;
mod leak;
mod operator;
mod plan;
mod rot;
pub mod schedule;
mod trouble;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_dataplane::driver::Port;
use sluice_dataplane::driver::memory::MemorySpec;
use sluice_dataplane::net::{PortConfig, Router, RouterConfig};
use sluice_dataplane::tcp::{Tcp, TcpConfig};
use sluice_dataplane::worker::{Io, Mode, Relay, RelayConfig, Target, Worker};
use sluice_hugepages::log::{Log, Recovery, VolumeEntry};
use sluice_hugepages::pool::{Pool, PoolStats};
use sluice_hugepages::region::Region;
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;

use crate::client::Client;
use crate::ecn::{Ecn, EcnPlan};
use crate::fault::{FaultKind, Without};
use crate::journal::{Begun, Fault, Journal};
use crate::link::Link;
use crate::narrow::Narrow;
use crate::oracle::{Oracle, Violation};
use crate::random::Random;
use crate::storage::{PORT, Storage};
use buffers::Reserver;
use plan::{Plan, Side};
use rot::{Rot, Rotten};
use schedule::Scheduled;

const RELAY_LAN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const RELAY_WAN: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
const STORAGE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 10);

/// Pages of the relay's communication memory.
const POOL_PAGES: usize = 512;
/// Simulated time in which the work is done.
const RUN: Duration = Duration::from_secs(20);
/// After the last fault nothing stands still for so long: a command that was never
/// answered is given up by the relay after a minute, and asked for again.
const STILL_MAX: Duration = Duration::from_secs(120);
/// And all is drained in this time, as slow as a storage may be.
const DRAIN_MAX: Duration = Duration::from_secs(1800);
/// No second takes this many rounds; a run that does has stopped making progress.
const ROUNDS_A_SECOND_MAX: u64 = 200_000;

/// What of a seed's world is not left to the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long computers work and things go wrong, at most.
    pub work: Duration,
    pub without: Without,
    /// So many computers, on one volume.
    pub computers: Option<usize>,
    pub luns: Option<usize>,
    /// Events of the schedule that do not happen, by number.
    pub skip: Vec<usize>,
    /// Computers and volumes, by bit, that nothing is asked by, or of.
    pub computers_off: u32,
    pub volumes_off: u32,
    /// Commands that each computer issues, at most.
    pub commands: Option<u64>,
}

impl Options {
    fn commands_max(&self, computer: usize) -> u64 {
        match self.computers_off & 1 << computer {
            0 => self.commands.unwrap_or(u64::MAX),
            _ => 0,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            work: RUN,
            without: Without::NOTHING,
            computers: None,
            luns: None,
            skip: Vec::new(),
            computers_off: 0,
            volumes_off: 0,
            commands: None,
        }
    }
}

/// Steps of the worker at one moment of simulated time.
const STEPS_MAX: usize = 64;

/// The address that the computer dials.
fn dialled(mode: Mode) -> Ipv4Addr {
    match mode {
        Mode::Transparent => STORAGE,
        Mode::Portal => RELAY_LAN,
    }
}

/// What a run exercised and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<Violation>,
    pub coverage: Vec<(&'static str, u64)>,
    pub simulated: Duration,
    pub rounds: u64,
    /// Events of the schedule.
    pub events: usize,
}

/// Chance for each that draws in a run, so that none changes what another meets.
const SCHEDULE: u64 = 0;
const JOURNAL_AND_RESTARTS: u64 = 1;
const STORAGES: u64 = 2;
const OPERATOR: u64 = 3;
const ECN: u64 = 4;
const NARROW: u64 = 5;
const BUFFERS: u64 = 6;
const LINKS: u64 = 8;
const CLIENTS: u64 = 16;

/// Things that went wrong, counted.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    restored: u64,
    power_losses: u64,
    power_losses_in_start: u64,
    power_losses_behind_group: u64,
    journal_stalls: u64,
    journal_faults: u64,
    crashes: u64,
    crashes_in_step: u64,
    logs_lost: u64,
    cuts: u64,
    half_cuts: u64,
    pauses: u64,
    leaps: u64,
    hangs: u64,
    leak_checks: u64,
    payloads_rotted: u64,
    headers_rotted: u64,
    rows_rotted: u64,
    journal_payloads_rotted: u64,
    journal_heads_rotted: u64,
    journal_headers_rotted: u64,
    torn_restored: u64,
    given_up: u64,
    retries: u64,
}

struct World {
    now: Time,
    worker: Option<Worker>,
    ports: Vec<Port>,
    /// Computer to relay, relay to computer, relay to storage, storage to relay.
    links: [Link; 4],
    ecn: Ecn,
    storage_agrees_to_ecn: bool,
    narrow: Option<Narrow>,
    clients: Vec<Client>,
    storage: Storage,
    /// One a volume of the storage.
    oracles: Vec<Oracle>,
    /// Rules of the whole site that were broken.
    violations: Vec<Violation>,
    config: RelayConfig,
    log_len: usize,
    journal: Option<Journal>,
    /// For the journal and the relay's starts.
    journal_random: Random,
    storage_random: Random,
    link_randoms: [Random; 4],
    client_randoms: Vec<Random>,
    met: Met,
    /// The relay's memory right after its start.
    fresh: PoolStats,
    options: Options,
    sides: [Side; 2],
    shared: bool,
    luns: usize,
    /// Counters of the relays that crashed, by name.
    relays: BTreeMap<&'static str, u64>,
    schedule: Vec<Scheduled>,
    next_event: usize,
    /// Towards the storage, and from it.
    cut_until: [Time; 2],
    paused_until: Time,
    hangs_until: Time,
    faults_over: Time,
    /// So far is the relay's clock ahead.
    ahead: Duration,
    /// Records that were damaged and not given up since.
    rotten: Vec<Rotten>,
    operator_random: Random,
    operator_looks: Time,
    reserver: Reserver,
    /// Nobody holds a volume any more.
    cleared: bool,
}

/// What is left to be done when nothing goes wrong any more, and when it last became less.
struct Progress {
    dirty_bytes: u64,
    under_way: usize,
    moved: Time,
}

impl Progress {
    /// Whether there has been any for so long.
    fn stands_still(&mut self, world: &World) -> bool {
        if world.now <= world.faults_over {
            return false;
        }
        let (dirty_bytes, under_way) = (world.dirty_bytes(), world.under_way());
        if dirty_bytes < self.dirty_bytes || under_way < self.under_way {
            self.moved = world.now;
        }
        (self.dirty_bytes, self.under_way) = (dirty_bytes, under_way);
        world.now.since(self.moved.max(world.faults_over)) > STILL_MAX
    }
}

/// Runs one seed to its end.
pub fn run(seed: u64) -> Outcome {
    run_with(seed, &Options::default())
}

/// What goes wrong in a seed: the events by their numbers.
pub fn schedule_of(seed: u64, options: &Options) -> Vec<Scheduled> {
    World::new(seed, options.clone()).schedule
}

/// Runs one seed to its end, with what is not left to it.
pub fn run_with(seed: u64, options: &Options) -> Outcome {
    let mut world = World::new(seed, options.clone());
    let mut rounds = 0;
    let end = world.faults_over + DRAIN_MAX;
    let mut progress = Progress {
        dirty_bytes: 0,
        under_way: 0,
        moved: Time::ZERO,
    };
    let mut drained = false;
    while world.now < end && world.holds() {
        rounds += 1;
        world.round();
        if world.now > world.faults_over && world.is_idle() && world.is_drained() {
            drained = true;
            break;
        }
        let seconds = world.now.since(Time::ZERO).as_secs() + 60;
        if progress.stands_still(&world) || rounds > seconds * ROUNDS_A_SECOND_MAX {
            break;
        }
        world.advance();
    }
    if world.holds() {
        if !drained {
            let detail = format!(
                "not drained {} s after the last fault, nothing moved for {} s ({rounds} rounds): {} bytes dirty, computers idle: {}, {:?}, journal {:?}, failed {:?}",
                world.now.since(world.faults_over).as_secs(),
                world.now.since(progress.moved).as_secs(),
                world.dirty_bytes(),
                world.is_idle(),
                world.worker().relay.usage(),
                world.worker().relay.journal_health(),
                world.worker().relay.failed_writes().next(),
            );
            world.report("liveness", detail);
        }
        for (oracle, volume) in world.oracles.iter_mut().zip(&world.storage.volumes) {
            oracle.finish(&volume.visible);
        }
    }
    if world.holds() {
        world.look_for_leaks();
    }
    world.outcome(seed, rounds)
}

/// Opens this log memory, or new memory if there is none or it is not wanted.
fn opener(
    mut region: Option<Region>,
    log_len: usize,
) -> impl FnMut(bool) -> Result<(Log, Recovery), Fault> {
    move |anew| {
        let found = region.take().filter(|_| !anew);
        let region = found.unwrap_or_else(|| Region::anonymous(log_len));
        Ok(Log::open(region)?)
    }
}

/// The volumes whose records the journal keeps.
fn journalled(config: &RelayConfig) -> impl Fn(&VolumeEntry) -> bool {
    |entry| {
        let target = |target: &&Target| target.name == entry.target_name.as_str();
        let target = config.targets.iter().find(target);
        target.is_none_or(|target| target.durability == Durability::Journal)
    }
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random, &options);
        let (lan, mut wan) = (Link::new(plan.lan), Link::new(plan.wan));
        let volumes = plan.storage.volumes.iter();
        let has_journal = plan.journal.is_some();
        let chance = |purpose: u64| Random::of_purpose(seed, purpose);
        let ecn = if options.without.has(FaultKind::Ecn) {
            EcnPlan::default()
        } else {
            EcnPlan::draw(&mut chance(ECN))
        };
        wan.faults.marks = ecn.marks;
        wan.faults.drops_asking = ecn.drops_asking;
        let end = Time::ZERO + options.work.max(RUN);
        let targets = plan.config.targets.len();
        let mut world = Self {
            now: Time::from_millis(1),
            worker: None,
            ports: Vec::new(),
            links: [lan.clone(), lan, wan.clone(), wan],
            ecn: Ecn::default(),
            storage_agrees_to_ecn: ecn.agrees,
            narrow: Narrow::draw(&mut chance(NARROW))
                .filter(|_| !options.without.has(FaultKind::Narrow)),
            oracles: volumes
                .enumerate()
                .map(|(number, volume)| {
                    let target = &plan.config.targets[number / plan.luns];
                    Oracle::of(volume.media.len(), target.durability)
                })
                .collect(),
            client_randoms: (0..plan.clients.len() as u64)
                .map(|number| chance(CLIENTS + number))
                .collect(),
            clients: plan.clients,
            storage: plan.storage,
            violations: Vec::new(),
            config: plan.config,
            log_len: plan.log_len,
            journal: plan.journal,
            journal_random: chance(JOURNAL_AND_RESTARTS),
            storage_random: chance(STORAGES),
            link_randoms: [0, 1, 2, 3].map(|link| chance(LINKS + link)),
            met: Met::default(),
            fresh: PoolStats::default(),
            sides: plan.sides,
            shared: plan.shared,
            luns: plan.luns,
            relays: BTreeMap::new(),
            schedule: schedule::draw(&mut chance(SCHEDULE), end, has_journal),
            next_event: 0,
            cut_until: [Time::FAR; 2],
            paused_until: Time::FAR,
            hangs_until: Time::FAR,
            faults_over: Time::ZERO + options.work,
            ahead: Duration::ZERO,
            rotten: Vec::new(),
            operator_random: chance(OPERATOR),
            operator_looks: Time::ZERO,
            reserver: Reserver::new(
                chance(BUFFERS),
                targets,
                options.without.has(FaultKind::Buffers),
            ),
            cleared: false,
            options,
        };
        world.start(Some(Region::anonymous(plan.log_len)));
        world
    }

    fn report(&mut self, rule: &'static str, detail: String) {
        self.violations.push(Violation { rule, detail });
    }

    /// No rule has been broken yet.
    fn holds(&self) -> bool {
        let mut oracles = self.oracles.iter();
        self.violations.is_empty() && oracles.all(|oracle| oracle.violations.is_empty())
    }

    fn is_idle(&self) -> bool {
        self.clients.iter().all(Client::is_idle)
    }

    /// Starts a data plane on this log memory, or on new memory if there is none.
    fn start(&mut self, region: Option<Region>) {
        let mut open = opener(region, self.log_len);
        let mut torn = Vec::new();
        let (log, recovery, line) = match &mut self.journal {
            None => {
                let (log, recovery) = open(false).expect("the log of our own making");
                (log, recovery, None)
            }
            Some(journal) => {
                let Begun {
                    log,
                    recovery,
                    line,
                    restored,
                } = journal.begin(open, journalled(&self.config));
                if let Some(restored) = restored {
                    self.met.restored += restored.records as u64;
                    torn = restored.torn;
                }
                (log, recovery, Some(line))
            }
        };
        self.judge_torn(&torn);
        let now = self.relay_now();
        let mut pool = Pool::anonymous(POOL_PAGES);
        let port = |index: u8| {
            Port::memory(&MemorySpec {
                name: format!("port{index}"),
                index,
                mac: [2, 0, 0, 0, 0, index + 1],
                gso: false,
                ..MemorySpec::default()
            })
        };
        self.ports = vec![port(0), port(1)];
        let net = |name: &str, index: u8, address| PortConfig {
            name: name.to_owned(),
            mac: [2, 0, 0, 0, 0, index + 1],
            address,
            prefix_len: 24,
            mtu: 1500,
        };
        let router = Router::new(RouterConfig {
            ports: vec![net("lan", 0, RELAY_LAN), net("wan", 1, RELAY_WAN)],
            intercepts: vec![(STORAGE, PORT)],
            portal: (self.config.mode == Mode::Portal).then_some((RELAY_LAN, PORT)),
            ..RouterConfig::default()
        })
        .expect("a valid configuration");
        let mut tcp = Tcp::new(TcpConfig::new(64, 1500, self.journal_random.seed()));
        tcp.listen(SocketAddrV4::new(dialled(self.config.mode), PORT));
        let mut relay = Relay::new(self.config.clone(), log, &recovery, &mut pool, now)
            .expect("the pool holds the pages");
        relay.fail_torn(&torn);
        if let Some(line) = line {
            relay.set_journal(line, now);
        }
        self.fresh = pool.stats();
        self.worker = Some(Worker::new(pool, router, tcp, relay));
        self.reserve_again();
    }

    /// The process dies; its log memory stays, and nothing else does.
    fn crash(&mut self, rot: Option<Rot>) {
        self.met.crashes += 1;
        self.end(true, rot);
    }

    /// The relay's power fails; of it nothing stays but the journal.
    fn lose_power(&mut self, rot: Option<Rot>) {
        self.met.power_losses += 1;
        self.lose_memory();
        self.end(false, rot);
    }

    /// The process ends, or the power fails; and the power fails in the next start.
    fn lose_power_in_start(&mut self, keeps_log: bool, writes: u64) {
        self.met.power_losses_in_start += 1;
        self.lose_memory();
        let region = self.stop(keeps_log);
        let log_len = self.log_len;
        let journal = self.journal.as_mut().expect("a journal's fault");
        let volumes = journalled(&self.config);
        let open = opener(region, log_len);
        journal.begin_and_lose_power(writes, open, volumes, &mut self.journal_random);
        self.start(None);
    }

    fn end(&mut self, keeps_log: bool, rot: Option<Rot>) {
        let mut region = self.stop(keeps_log);
        match rot {
            Some(Rot::Log { records }) => {
                region = region.map(|region| self.rot_log(region, records));
            }
            Some(Rot::Journal { part }) => self.rot_journal(part),
            None => {}
        }
        self.start(region);
    }

    /// The process is gone; its log's memory, if that is kept.
    fn stop(&mut self, keeps_log: bool) -> Option<Region> {
        let worker = self.worker.take().expect("a running worker");
        let counters = worker.relay.counters.rows();
        for (name, count) in counters.into_iter().chain(worker.tcp.counters().named()) {
            *self.relays.entry(name).or_default() += count;
        }
        let log = worker.into_log();
        if let Some(journal) = &mut self.journal {
            journal.stop(&log, &mut self.journal_random);
            // It is mended, or another is in its place.
            journal.disk.fails = false;
            journal.stalled_until = Time::ZERO;
        }
        keeps_log.then(|| log.into_region())
    }

    /// What the volume is promised.
    fn contract(&self, volume: usize) -> Durability {
        self.config.targets[volume / self.luns].durability
    }

    /// The moment that the relay takes it to be.
    fn relay_now(&self) -> Time {
        self.now + self.ahead
    }

    /// Commands that computers wait for.
    fn under_way(&self) -> usize {
        self.clients.iter().map(Client::under_way).sum()
    }

    fn worker(&mut self) -> &mut Worker {
        self.worker
            .as_mut()
            .expect("there is one but while it crashes")
    }

    fn dirty_bytes(&self) -> u64 {
        self.worker
            .as_ref()
            .map_or(0, |worker| worker.relay.dirty_bytes())
    }

    fn is_drained(&self) -> bool {
        self.worker
            .as_ref()
            .is_some_and(|worker| worker.relay.is_drained())
    }

    /// Everyone does what is due at this moment.
    fn round(&mut self) {
        let now = self.now;
        self.trouble();
        let Self {
            clients,
            oracles,
            client_randoms,
            ..
        } = self;
        for (client, random) in clients.iter_mut().zip(client_randoms) {
            client.stopping = now >= self.faults_over;
            client.step(now, random, oracles);
        }
        self.operate();
        self.reserve();
        self.storage.step(now, &mut self.storage_random);
        if self.storage_random.of(50) == 0 {
            self.storage.destage(&mut self.storage_random);
        }
        self.judge_storage();
        self.carry();
        if self.paused_until == Time::FAR {
            self.work();
            self.judge_buffers();
        }
        self.carry();
        if let Some(late) = self
            .clients
            .iter_mut()
            .find_map(|client| client.late.take())
        {
            self.report("bounded waiting", late);
        }
    }

    /// Shows the oracles what the storage holds, where that has changed.
    fn judge_storage(&mut self) {
        for volume in std::mem::take(&mut self.storage.lost) {
            self.oracles[volume].storage_lost_cache();
        }
        for (oracle, volume) in self.oracles.iter_mut().zip(&mut self.storage.volumes) {
            if std::mem::take(&mut volume.changed) {
                oracle.storage_changed(&volume.visible, &volume.media);
            }
        }
    }

    /// The relay does what there is to do, and its journal.
    fn work(&mut self) {
        let (now, relay_now) = (self.now, self.relay_now());
        let Self {
            worker,
            ports,
            journal,
            journal_random,
            ..
        } = self;
        let worker = worker.as_mut().expect("there is one but while it crashes");
        for _ in 0..STEPS_MAX {
            let mut io = Io {
                ports,
                control: None,
            };
            let did_work = worker.step(relay_now, &mut io).did_work;
            if worker.relay.log_has_stopped() {
                // It died in this step: what the step would have sent was never sent.
                self.met.crashes_in_step += 1;
                return self.crash(None);
            }
            let heard = journal
                .as_mut()
                .is_some_and(|journal| journal.step(now, &mut worker.relay, journal_random));
            if journal
                .as_ref()
                .is_some_and(|it| it.behind_group == Some(true))
            {
                self.met.power_losses_behind_group += 1;
                return self.lose_power(None);
            }
            if !did_work && !heard {
                break;
            }
        }
    }

    /// Moves frames between hosts, links and ports.
    fn carry(&mut self) {
        let now = self.now;
        let Self {
            clients,
            storage,
            links,
            ports,
            worker,
            link_randoms,
            ecn,
            storage_agrees_to_ecn,
            narrow,
            ..
        } = self;
        let worker = worker.as_mut().expect("there is one but while it crashes");
        for client in clients.iter_mut() {
            while let Some(frame) = client.host.wire.sent.pop_front() {
                links[0].send(now, frame, &mut link_randoms[0]);
            }
        }
        while let Some(mut frame) = storage.host.wire.sent.pop_front() {
            ecn.leaves(&mut frame);
            links[3].send(now, frame, &mut link_randoms[3]);
        }
        let mut bytes = Vec::new();
        for (port, link) in [(0, 1), (1, 2)] {
            let memory = ports[port].memory_mut().expect("a memory port");
            while memory.take(&mut worker.pool, &mut bytes) {
                let narrow = narrow.as_mut().filter(|_| link == 2);
                if let Some(Err(told)) = narrow.map(|it| it.takes(now, &bytes)) {
                    if let Some(told) = told {
                        links[3].send(now, told, &mut link_randoms[3]);
                    }
                    continue;
                }
                links[link].send(now, bytes.clone(), &mut link_randoms[link]);
            }
        }
        for (port, link) in [(0, 0), (1, 3)] {
            let memory = ports[port].memory_mut().expect("a memory port");
            while let Some(frame) = links[link].receive(now) {
                // A full queue loses the frame, as a NIC's would.
                let _ = memory.inject(&mut worker.pool, &frame);
            }
        }
        while let Some(frame) = links[1].receive(now) {
            // As a switch does: by MAC address, or to all.
            for client in clients.iter_mut() {
                if frame[0] & 1 != 0 || frame[..6] == client.host.mac {
                    client.host.wire.received.push_back(frame.clone());
                }
            }
        }
        while let Some(frame) = links[2].receive(now) {
            ecn.arrives(&frame, *storage_agrees_to_ecn);
            storage.host.wire.received.push_back(frame);
        }
    }

    /// On to the next moment at which anybody has something to do.
    fn advance(&mut self) {
        let now = self.now;
        let worker = self
            .worker
            .as_ref()
            .expect("there is one but while it crashes");
        let mut next = self.paused_until;
        if next == Time::FAR {
            let deadline = worker.deadline();
            if deadline != Time::FAR {
                let ahead = Time::ZERO + self.ahead;
                next = Time::ZERO + deadline.since(ahead);
            }
            if let Some(journal) = &self.journal {
                next = next.min(journal.deadline());
            }
        }
        for link in &self.links {
            next = next.min(link.deadline());
        }
        for client in &mut self.clients {
            next = next.min(client.deadline(now));
        }
        next = next.min(self.storage.deadline(now));
        next = next.min(self.operator_looks).min(self.reserver.next);
        let [outward, inward] = self.cut_until;
        next = next.min(outward).min(inward).min(self.hangs_until);
        if now < self.faults_over {
            next = next.min(self.faults_over);
        }
        if let Some(scheduled) = self.schedule.get(self.next_event)
            && now < self.faults_over
        {
            next = next.min(scheduled.at);
        }
        // Never backwards, never standing still.
        self.now = next.max(now + Duration::from_micros(1));
    }
}

//! One simulated site: computer, relay, storage, the two links, and what goes
//! wrong. One thread, one clock, one source of chance: the seed.
//!
//! The relay is the real [`Worker`] on memory ports. A crash of it is a drop
//! of the worker and a new start on the same log memory, as after SIGKILL:
//! between two steps, or after any store of one, whose frames then never leave.
//! Where the volume's contract is `journal`, its power fails too: the log is
//! gone then, and is made from the journal again.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_dataplane::driver::Port;
use sluice_dataplane::driver::memory::MemorySpec;
use sluice_dataplane::journal::core::AREA_BLOCKS_MIN;
use sluice_dataplane::journal::layout::HEADER_BLOCKS;
use sluice_dataplane::net::{PortConfig, Router, RouterConfig};
use sluice_dataplane::tcp::{Buffers, Tcp, TcpConfig};
use sluice_dataplane::worker::security::Security;
use sluice_dataplane::worker::{Digests, Io, Mode, Relay, RelayConfig, Target, Worker};
use sluice_hugepages::fuse::Fuse;
use sluice_hugepages::log::Log;
use sluice_hugepages::pool::Pool;
use sluice_hugepages::region::Region;
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::cache::flush::policy::FlushPolicy;

use crate::client::{Client, TARGET, Workload};
use crate::journal::{Begun, Journal};
use crate::link::{Faults, Link};
use crate::oracle::{Oracle, Violation};
use crate::random::Random;
use crate::storage::{LUN, PORT, Storage};

const COMPUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);
const RELAY_LAN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const RELAY_WAN: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
const STORAGE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 10);

/// Blocks of the volume: few, so that requests overlap often.
const BLOCKS: usize = 256;
/// Pages of the relay's communication memory.
const POOL_PAGES: usize = 256;
/// Simulated time in which the work is done, and in which all must drain after.
const RUN: Duration = Duration::from_secs(20);
const DRAIN: Duration = Duration::from_secs(120);
/// No run takes this many rounds; one that does has stopped making progress.
const ROUNDS_MAX: u64 = 20_000_000;

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
}

struct World {
    now: Time,
    random: Random,
    worker: Option<Worker>,
    ports: Vec<Port>,
    /// Computer to relay, relay to computer, relay to storage, storage to relay.
    links: [Link; 4],
    client: Client,
    storage: Storage,
    oracle: Oracle,
    config: RelayConfig,
    log_len: usize,
    journal: Option<Journal>,
    /// Chance for the journal alone, so that a seed's other faults are as without it.
    journal_random: Random,
    restored: u64,
    power_losses: u64,
    journal_stalls: u64,
    journal_faults: u64,
    crashes: u64,
    crashes_in_step: u64,
    cuts: u64,
    /// Counters of the relays that crashed, by name.
    relays: BTreeMap<&'static str, u64>,
    next_fault: Time,
    cut_until: Time,
    faults_over: Time,
}

/// Runs one seed to its end.
pub fn run(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let mut world = World::new(&mut random);
    world.random = random;
    let mut rounds = 0;
    let end = world.faults_over + DRAIN;
    let mut drained = false;
    while world.now < end && rounds < ROUNDS_MAX && world.oracle.violations.is_empty() {
        rounds += 1;
        world.round();
        if world.now > world.faults_over && world.client.is_idle() && world.is_drained() {
            drained = true;
            break;
        }
        world.advance();
    }
    if world.oracle.violations.is_empty() {
        if !drained {
            world.oracle.violations.push(Violation {
                rule: "liveness",
                detail: format!(
                    "not drained {} s after the last fault ({rounds} rounds): {} bytes dirty, computer idle: {}",
                    world.now.since(world.faults_over).as_secs(),
                    world.dirty_bytes(),
                    world.client.is_idle(),
                ),
            });
        }
        let visible = world.storage.visible.clone();
        world.oracle.finish(&visible);
    }
    world.outcome(seed, rounds)
}

impl World {
    fn new(random: &mut Random) -> Self {
        let wan = Faults {
            loss: [0, 0, 20, 100][usize::try_from(random.of(4)).expect("small")],
            duplicate: if random.chance(30) { 50 } else { 0 },
            reorder: if random.chance(30) { 100 } else { 0 },
            delay: Duration::from_millis(1 + random.of(20)),
            jitter: Duration::from_micros(random.of(500)),
            rate: [0, 1_250_000, 12_500_000][usize::try_from(random.of(3)).expect("small")],
        };
        let lan = Faults {
            loss: if random.chance(15) { 10 } else { 0 },
            delay: Duration::from_micros(20),
            ..Faults::default()
        };
        let workload = Workload {
            depth: 1 + usize::try_from(random.of(16)).expect("small"),
            request_blocks_max: [1, 8, 64, 128][usize::try_from(random.of(4)).expect("small")],
            write_percent: 30 + random.of(60),
            sync_percent: random.of(8),
            fua_percent: random.of(10),
            ordered_percent: random.of(10),
            pass_percent: random.of(6),
            think_max: Duration::from_micros(200 + random.of(5000)),
        };
        let mut storage = Storage::new(STORAGE, RELAY_WAN, BLOCKS, random.draw());
        storage.latency_max = Duration::from_micros(random.of(5000));
        storage.busy_percent = if random.chance(20) { 5 } else { 0 };
        storage.write_through = random.chance(15);
        let mut journal_random = Random::new(random.draw());
        let durability = match journal_random.of(8) {
            0..=2 => Durability::Memory,
            3 => Durability::Storage,
            _ => Durability::Journal,
        };
        let mode = if random.chance(30) {
            Mode::Portal
        } else {
            Mode::Transparent
        };
        let config = RelayConfig {
            mode,
            targets: vec![Target {
                name: TARGET.to_owned(),
                address: SocketAddrV4::new(STORAGE, PORT),
                initiators: Vec::new(),
                shared: false,
                own_identity: false,
                luns: vec![LUN],
                chap: false,
                wan_address: RELAY_WAN,
                durability,
            }],
            flush: FlushPolicy {
                threshold_bytes: 1 << (12 + random.of(8)),
                stop_bytes: 1 << random.of(12),
                period: Duration::from_millis(50 + random.of(2000)),
                load_max: Duration::MAX,
            },
            wait_max: Duration::from_secs(if random.chance(30) { 2 } else { 10 }),
            sessions_max: 4,
            staging_pages: u16::try_from(3 + random.of(61)).expect("small"),
            wan_buffers: Buffers {
                rx_pages: 4,
                tx_pages: 4,
            },
            silence_max: Duration::from_secs(5),
            lan_digests: Digests::default(),
            wan_digests: Digests::default(),
            security: Security::default(),
            challenge_key: [7; 32],
            seed: random.draw(),
        };
        // From scarce to plentiful: the directory, and 3 to 10 segments of payload.
        let log_len = usize::try_from(4 + random.of(8)).expect("small") * 2 * 1024 * 1024;
        let journal = (durability == Durability::Journal).then(|| {
            let blocks = (log_len as u64 / 4096 * 3 / 2).max(AREA_BLOCKS_MIN + HEADER_BLOCKS);
            let mut journal = Journal::new(blocks);
            journal.latency_max = Duration::from_micros(20 + journal_random.of(3000));
            journal
        });
        let mut world = Self {
            now: Time::from_millis(1),
            random: random.clone(),
            worker: None,
            ports: Vec::new(),
            links: [
                Link::new(lan),
                Link::new(lan),
                Link::new(wan),
                Link::new(wan),
            ],
            client: Client::new(
                COMPUTER,
                RELAY_LAN,
                dialled(mode),
                BLOCKS as u64,
                workload,
                random.draw(),
            ),
            storage,
            oracle: Oracle::of(BLOCKS, durability),
            config,
            log_len,
            journal,
            journal_random,
            restored: 0,
            power_losses: 0,
            journal_stalls: 0,
            journal_faults: 0,
            crashes: 0,
            crashes_in_step: 0,
            cuts: 0,
            relays: BTreeMap::new(),
            next_fault: Time::from_millis(500 + random.of(3000)),
            cut_until: Time::FAR,
            faults_over: Time::ZERO + RUN,
        };
        world.start(Some(Region::anonymous(log_len)), random);
        world
    }

    /// Starts a data plane on this log memory, or on new memory if there is none.
    fn start(&mut self, mut region: Option<Region>, random: &mut Random) {
        let log_len = self.log_len;
        let mut open = |anew: bool| {
            let found = region.take().filter(|_| !anew);
            Log::open(found.unwrap_or_else(|| Region::anonymous(log_len)))
        };
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
                } = journal.begin(|anew| Ok(open(anew)?), |_| true);
                if let Some(restored) = restored {
                    self.restored += restored.records as u64;
                    for torn in restored.torn {
                        self.oracle.violations.push(Violation {
                            rule: "no torn record in the journal",
                            detail: format!("{torn:?}"),
                        });
                    }
                }
                (log, recovery, Some(line))
            }
        };
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
        let mut tcp = Tcp::new(TcpConfig::new(16, 1500, random.seed()));
        tcp.listen(SocketAddrV4::new(dialled(self.config.mode), PORT));
        let mut relay = Relay::new(self.config.clone(), log, &recovery, &mut pool, self.now)
            .expect("the pool holds the pages");
        if let Some(line) = line {
            relay.set_journal(line, self.now);
        }
        self.worker = Some(Worker::new(pool, router, tcp, relay));
    }

    /// The process dies; its log memory stays, and nothing else does.
    fn crash(&mut self) {
        self.crashes += 1;
        self.end(true);
    }

    /// The relay's power fails; of it nothing stays but the journal.
    fn lose_power(&mut self) {
        self.power_losses += 1;
        self.end(false);
    }

    fn end(&mut self, keeps_log: bool) {
        let worker = self.worker.take().expect("a running worker");
        for (name, count) in worker.relay.counters.rows() {
            *self.relays.entry(name).or_default() += count;
        }
        let log = worker.into_log();
        if let Some(journal) = &mut self.journal {
            journal.stop(&log, &mut self.journal_random);
            // It is mended, or another is in its place.
            journal.disk.fails = false;
            journal.stalled_until = Time::ZERO;
        }
        let region = keeps_log.then(|| log.into_region());
        let mut random = self.random.clone();
        self.start(region, &mut random);
        self.random = random;
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
            client,
            oracle,
            random,
            ..
        } = self;
        client.stopping = now >= self.faults_over;
        client.step(now, random, oracle);
        self.storage.step(now, random);
        if self.random.of(50) == 0 {
            self.storage.destage(&mut self.random);
        }
        if self.storage.take_changed() {
            self.oracle
                .storage_changed(&self.storage.visible, &self.storage.media);
        }
        self.carry();
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
            let did_work = worker.step(now, &mut io).did_work;
            if worker.relay.log_has_stopped() {
                // It died in this step: what the step would have sent was never sent.
                self.crashes_in_step += 1;
                return self.crash();
            }
            let heard = journal
                .as_mut()
                .is_some_and(|journal| journal.step(now, &mut worker.relay, journal_random));
            if !did_work && !heard {
                break;
            }
        }
        self.carry();
        if self.client.late > 0 {
            self.oracle.violations.push(Violation {
                rule: "bounded waiting",
                detail: "a command was not answered for 25 s (C-16)".to_owned(),
            });
        }
    }

    /// Moves frames between hosts, links and ports.
    fn carry(&mut self) {
        let now = self.now;
        let Self {
            client,
            storage,
            links,
            ports,
            worker,
            random,
            ..
        } = self;
        let worker = worker.as_mut().expect("there is one but while it crashes");
        while let Some(frame) = client.host.wire.sent.pop_front() {
            links[0].send(now, frame, random);
        }
        while let Some(frame) = storage.host.wire.sent.pop_front() {
            links[3].send(now, frame, random);
        }
        let mut bytes = Vec::new();
        for (port, link) in [(0, 1), (1, 2)] {
            let memory = ports[port].memory_mut().expect("a memory port");
            while memory.take(&mut worker.pool, &mut bytes) {
                links[link].send(now, bytes.clone(), random);
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
            client.host.wire.received.push_back(frame);
        }
        while let Some(frame) = links[2].receive(now) {
            storage.host.wire.received.push_back(frame);
        }
    }

    /// What goes wrong now: cuts, crashes, power failures.
    fn trouble(&mut self) {
        let now = self.now;
        if now >= self.cut_until {
            self.set_cut(false);
            self.cut_until = Time::FAR;
        }
        if now >= self.faults_over {
            self.set_cut(false);
            self.cut_until = Time::FAR;
            for link in &mut self.links {
                link.faults.loss = 0;
            }
            self.storage.busy_percent = 0;
            if let Some(journal) = &mut self.journal {
                journal.stalled_until = Time::ZERO;
                journal.disk.fails = false;
            }
            self.worker().relay.set_log_fuse(Fuse::NEVER);
            return;
        }
        if now < self.next_fault {
            return;
        }
        self.next_fault = now + Duration::from_millis(300 + self.random.of(6000));
        if let Some(journal) = &mut self.journal
            && self.journal_random.chance(60)
        {
            match self.journal_random.of(10) {
                // A journal that fails and a power loss are two faults: see `worker::journal`.
                0..=6 if journal.disk.fails => {}
                0..=6 => self.lose_power(),
                7 | 8 => {
                    self.journal_stalls += 1;
                    let stall = Duration::from_millis(self.journal_random.of(12_000));
                    journal.stalled_until = now + stall;
                }
                _ => {
                    self.journal_faults += 1;
                    journal.disk.fails = true;
                }
            }
            return;
        }
        match self.random.of(6) {
            0 | 1 => {
                self.cuts += 1;
                self.set_cut(true);
                self.cut_until = now + Duration::from_millis(self.random.of(4000));
            }
            2 => self.crash(),
            3 => {
                // In the middle of a step, soon: a write makes some ten stores.
                let most = 1 << (2 + self.random.of(8));
                let stores = 1 + self.random.of(most);
                self.worker().relay.set_log_fuse(Fuse::after(stores));
            }
            4 => {
                self.oracle.storage_lost_cache();
                self.storage.lose_cache();
            }
            _ => {
                self.oracle.storage_lost_cache();
                self.storage.fail_power();
            }
        }
    }

    fn set_cut(&mut self, cut: bool) {
        self.links[2].is_cut = cut;
        self.links[3].is_cut = cut;
    }

    /// On to the next moment at which anybody has something to do.
    fn advance(&mut self) {
        let now = self.now;
        let worker = self
            .worker
            .as_ref()
            .expect("there is one but while it crashes");
        let mut next = worker.deadline();
        if let Some(journal) = &self.journal {
            next = next.min(journal.deadline());
        }
        for link in &self.links {
            next = next.min(link.deadline());
        }
        next = next
            .min(self.client.deadline(now))
            .min(self.storage.deadline(now));
        next = next.min(self.cut_until);
        if self.next_fault > now {
            next = next.min(self.next_fault);
        }
        // Never backwards, never standing still.
        self.now = next.max(now + Duration::from_micros(1));
    }

    fn outcome(mut self, seed: u64, rounds: u64) -> Outcome {
        let client = self.client.counters;
        let storage = self.storage.counters;
        for (name, count) in self.worker().relay.counters.rows() {
            *self.relays.entry(name).or_default() += count;
        }
        // Relay counters only say what a run has met; no rule looks at them.
        let relay = |name: &str| self.relays.get(name).copied().unwrap_or(0);
        let contract = self.config.targets[0].durability;
        let portal = u64::from(self.config.mode == Mode::Portal);
        let sum = |f: fn(&Link) -> u64| self.links.iter().map(f).sum::<u64>();
        if self.storage.torn > 0 {
            self.oracle.violations.push(Violation {
                rule: "no torn write",
                detail: format!(
                    "{} blocks written to the storage were of no write",
                    self.storage.torn
                ),
            });
        }
        let coverage = vec![
            ("frames_lost", sum(|link| link.counters.lost)),
            ("frames_duplicated", sum(|link| link.counters.duplicated)),
            ("frames_reordered", sum(|link| link.counters.reordered)),
            ("frames_cut", sum(|link| link.counters.cut)),
            ("wan_cuts", self.cuts),
            ("relay_crashes", self.crashes - self.crashes_in_step),
            ("relay_crashes_in_step", self.crashes_in_step),
            ("storage_power_failures", storage.power_failures),
            ("storage_resets", storage.resets),
            ("storage_strays", storage.strays),
            ("storage_reinstatements", storage.reinstated),
            ("storage_writes_through", storage.write_through),
            ("storage_changes_passed", storage.changes_passed),
            ("storage_busy", storage.busy),
            ("storage_writes", storage.writes),
            ("storage_reads", storage.reads),
            ("storage_syncs", storage.syncs),
            ("storage_destaged", storage.destaged),
            ("logins", client.logins),
            ("sessions_lost", client.sessions_lost),
            ("computer_dropped", client.dropped_by_choice),
            ("writes_good", client.writes_good),
            ("computer_dropped_in_silence", client.dropped_in_silence),
            ("fua_good", client.fua_good),
            ("ordered_good", client.ordered_good),
            ("passed_writes_good", client.passed_writes_good),
            ("compares_good", client.compares_good),
            ("compares_failed", client.compares_failed),
            ("verifies_good", client.verifies_good),
            ("unmaps_good", client.unmaps_good),
            ("reads_good", client.reads_good),
            ("syncs_good", client.syncs_good),
            ("busy", client.busy),
            ("attentions", client.attentions),
            ("errors", client.errors),
            ("mode_transparent", 1 - portal),
            ("mode_portal", portal),
            ("writes_held", relay("write_held_for_room")),
            ("writes_behind_a_command", relay("write_behind_command")),
            ("reads_cached", relay("read_cached")),
            ("reads_partly_cached", relay("read_partly_cached")),
            ("reads_uncached", relay("read_uncached")),
            ("records_superseded", relay("record_superseded")),
            ("computer_reinstatements", relay("session_reinstated")),
            ("busy_wait_limit", relay("busy_wait_limit")),
            ("busy_no_staging", relay("busy_no_staging")),
            ("relay_power_losses", self.power_losses),
            ("records_restored", self.restored),
            (
                "journal_writes",
                self.journal.as_ref().map_or(0, |it| it.writes),
            ),
            ("journal_stalls", self.journal_stalls),
            ("journal_faults", self.journal_faults),
            ("journals_given_up", relay("journal_given_up")),
            ("journal_troubles", relay("journal_trouble")),
            (
                "contract_journal",
                u64::from(contract == Durability::Journal),
            ),
            (
                "contract_storage",
                u64::from(contract == Durability::Storage),
            ),
            ("reads_checked", self.oracle.reads_checked),
            ("images_checked", self.oracle.images_checked),
        ];
        Outcome {
            seed,
            violations: self.oracle.violations,
            coverage,
            simulated: self.now.since(Time::ZERO),
            rounds,
        }
    }
}

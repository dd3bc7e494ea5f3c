//! One simulated site: computers, relay, storage, the links, and what goes wrong.
//! One thread, one clock, one source of chance: the seed.
//!
//! This room moves time and frames; [`plan`] draws the site, [`trouble`] makes
//! things go wrong, [`coverage`] counts what a run has met.
//!
//! The relay is the real [`Worker`] on memory ports. A crash of it is a drop
//! of the worker and a new start on the same log memory, as after SIGKILL:
//! between two steps, or after any store of one, whose frames then never leave.
//! Where the volumes' contract is `journal`, its power fails too: the log is
//! gone then, and is made from the journal again.

mod coverage;
mod plan;
mod trouble;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_dataplane::driver::Port;
use sluice_dataplane::driver::memory::MemorySpec;
use sluice_dataplane::net::{PortConfig, Router, RouterConfig};
use sluice_dataplane::tcp::{Tcp, TcpConfig};
use sluice_dataplane::worker::{Io, Mode, Relay, RelayConfig, Worker};
use sluice_hugepages::log::Log;
use sluice_hugepages::pool::Pool;
use sluice_hugepages::region::Region;
use sluice_proto::Time;

use crate::client::Client;
use crate::fault::Without;
use crate::journal::{Begun, Journal};
use crate::link::Link;
use crate::oracle::{Oracle, Violation};
use crate::random::Random;
use crate::storage::{PORT, Storage};
use plan::{Plan, Side};

const RELAY_LAN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const RELAY_WAN: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
const STORAGE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 10);

/// Pages of the relay's communication memory.
const POOL_PAGES: usize = 512;
/// Simulated time in which the work is done, and in which all must drain after.
const RUN: Duration = Duration::from_secs(20);
const DRAIN: Duration = Duration::from_secs(120);
/// No second takes this many rounds; a run that does has stopped making progress.
const ROUNDS_A_SECOND_MAX: u64 = 200_000;

/// What of a seed's world is not left to the seed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long computers work and things go wrong, at most.
    pub work: Duration,
    pub without: Without,
    /// So many computers, on one volume.
    pub computers: Option<usize>,
    pub luns: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            work: RUN,
            without: Without::NOTHING,
            computers: None,
            luns: None,
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
}

struct World {
    now: Time,
    random: Random,
    worker: Option<Worker>,
    ports: Vec<Port>,
    /// Computer to relay, relay to computer, relay to storage, storage to relay.
    links: [Link; 4],
    clients: Vec<Client>,
    storage: Storage,
    /// One a volume of the storage.
    oracles: Vec<Oracle>,
    /// Rules of the whole site that were broken.
    violations: Vec<Violation>,
    config: RelayConfig,
    log_len: usize,
    journal: Option<Journal>,
    /// Chance for the journal alone, so that a seed's other faults are as without it.
    journal_random: Random,
    restored: u64,
    power_losses: u64,
    journal_stalls: u64,
    journal_faults: u64,
    options: Options,
    sides: [Side; 2],
    shared: bool,
    luns: usize,
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
    run_with(seed, &Options::default())
}

/// Runs one seed to its end, with what is not left to it.
pub fn run_with(seed: u64, options: &Options) -> Outcome {
    let mut random = Random::new(seed);
    let mut world = World::new(&mut random, *options);
    world.random = random;
    let mut rounds = 0;
    let end = world.faults_over + DRAIN;
    let rounds_max = ROUNDS_A_SECOND_MAX * end.since(Time::ZERO).as_secs();
    let mut drained = false;
    while world.now < end && rounds < rounds_max && world.holds() {
        rounds += 1;
        world.round();
        if world.now > world.faults_over && world.is_idle() && world.is_drained() {
            drained = true;
            break;
        }
        world.advance();
    }
    if world.holds() {
        if !drained {
            let detail = format!(
                "not drained {} s after the last fault ({rounds} rounds): {} bytes dirty, computers idle: {}",
                world.now.since(world.faults_over).as_secs(),
                world.dirty_bytes(),
                world.is_idle(),
            );
            world.report("liveness", detail);
        }
        for (oracle, volume) in world.oracles.iter_mut().zip(&world.storage.volumes) {
            oracle.finish(&volume.visible);
        }
    }
    world.outcome(seed, rounds)
}

impl World {
    fn new(random: &mut Random, options: Options) -> Self {
        let plan = Plan::draw(random, &options);
        let (lan, wan) = (Link::new(plan.lan), Link::new(plan.wan));
        let volumes = plan.storage.volumes.iter();
        let contract = plan.config.targets[0].durability;
        let mut world = Self {
            now: Time::from_millis(1),
            random: random.clone(),
            worker: None,
            ports: Vec::new(),
            links: [lan.clone(), lan, wan.clone(), wan],
            oracles: volumes
                .map(|volume| Oracle::of(volume.media.len(), contract))
                .collect(),
            clients: plan.clients,
            storage: plan.storage,
            violations: Vec::new(),
            config: plan.config,
            log_len: plan.log_len,
            journal: plan.journal,
            journal_random: plan.journal_random,
            restored: 0,
            power_losses: 0,
            journal_stalls: 0,
            journal_faults: 0,
            options,
            sides: plan.sides,
            shared: plan.shared,
            luns: plan.luns,
            crashes: 0,
            crashes_in_step: 0,
            cuts: 0,
            relays: BTreeMap::new(),
            next_fault: Time::from_millis(500 + random.of(3000)),
            cut_until: Time::FAR,
            faults_over: Time::ZERO + options.work,
        };
        world.start(Some(Region::anonymous(plan.log_len)), random);
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
                        self.report("no torn record in the journal", format!("{torn:?}"));
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
        let mut tcp = Tcp::new(TcpConfig::new(64, 1500, random.seed()));
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
        for oracle in &mut self.oracles {
            oracle.catching_up = true;
        }
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
            clients,
            oracles,
            random,
            ..
        } = self;
        for client in clients {
            client.stopping = now >= self.faults_over;
            client.step(now, random, oracles);
        }
        if self.power_losses > 0 && self.is_drained() {
            for oracle in &mut self.oracles {
                oracle.catching_up = false;
            }
        }
        let Self { random, .. } = self;
        self.storage.step(now, random);
        if self.random.of(50) == 0 {
            self.storage.destage(&mut self.random);
        }
        for (oracle, volume) in self.oracles.iter_mut().zip(&mut self.storage.volumes) {
            if std::mem::take(&mut volume.changed) {
                oracle.storage_changed(&volume.visible, &volume.media);
            }
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
        if let Some(late) = self
            .clients
            .iter_mut()
            .find_map(|client| client.late.take())
        {
            self.report("bounded waiting", late);
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
            random,
            ..
        } = self;
        let worker = worker.as_mut().expect("there is one but while it crashes");
        for client in clients.iter_mut() {
            while let Some(frame) = client.host.wire.sent.pop_front() {
                links[0].send(now, frame, random);
            }
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
            // As a switch does: by MAC address, or to all.
            for client in clients.iter_mut() {
                if frame[0] & 1 != 0 || frame[..6] == client.host.mac {
                    client.host.wire.received.push_back(frame.clone());
                }
            }
        }
        while let Some(frame) = links[2].receive(now) {
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
        let mut next = worker.deadline();
        if let Some(journal) = &self.journal {
            next = next.min(journal.deadline());
        }
        for link in &self.links {
            next = next.min(link.deadline());
        }
        for client in &mut self.clients {
            next = next.min(client.deadline(now));
        }
        next = next.min(self.storage.deadline(now));
        next = next.min(self.cut_until);
        if self.next_fault > now {
            next = next.min(self.next_fault);
        }
        // Never backwards, never standing still.
        self.now = next.max(now + Duration::from_micros(1));
    }
}

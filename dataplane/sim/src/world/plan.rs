//! What a seed says of its world: who is there, how the links are, and what may
//! go wrong.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_dataplane::tcp::WanBuffers;
use sluice_dataplane::worker::security::Security;
use sluice_dataplane::worker::{Digests, Mode, RelayConfig, Target};
use sluice_hugepages::tables::Durability;
use sluice_proto::cache::flush::policy::FlushPolicy;
use sluice_proto::iscsi::{DigestPolicy, Offers};

use super::{Options, RELAY_LAN, RELAY_WAN, STORAGE, dialled};
use crate::client::{Client, Identity, Unit, Workload};
use crate::fault::{FaultKind, Without};
use crate::journal::Journal;
use crate::link::Faults;
use crate::proof::{Names, Proof};
use crate::random::Random;
use crate::storage::{LUN, PORT, Storage, Volume};

/// Blocks of a volume: few, so that requests overlap often.
const BLOCKS: usize = 256;
/// A segment of the log, in bytes.
const SEGMENT_LEN: usize = 2 * 1024 * 1024;

fn target_name(number: usize) -> String {
    format!("iqn.2004-03.example.sim:vol{number}")
}

/// One side of the relay: what its two ends prove and check.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub(super) chap: bool,
    /// Whether digests are in use.
    pub(super) digests: bool,
    initiator: DigestPolicy,
    target: DigestPolicy,
}

impl Side {
    fn draw(random: &mut Random) -> Self {
        use DigestPolicy::{Allowed, Never, Preferred, Required};
        let policy = [Never, Allowed, Preferred, Required][random.below(4)];
        let wanted = matches!(policy, Preferred | Required);
        let (initiator, target) = if random.chance(50) {
            (policy, Allowed)
        } else {
            (Allowed, policy)
        };
        Self {
            chap: random.chance(25),
            digests: wanted,
            initiator,
            target,
        }
    }
}

fn offers(policy: DigestPolicy) -> Offers {
    Offers {
        header_digest: policy,
        data_digest: policy,
        ..Offers::lan()
    }
}

const fn digests(policy: DigestPolicy) -> Digests {
    Digests {
        header: policy,
        data: policy,
    }
}

/// All that a seed draws before its run.
pub(super) struct Plan {
    pub(super) lan: Faults,
    pub(super) wan: Faults,
    pub(super) sides: [Side; 2],
    pub(super) config: RelayConfig,
    pub(super) clients: Vec<Client>,
    pub(super) storage: Storage,
    /// Computers are on the same volumes.
    pub(super) shared: bool,
    pub(super) luns: usize,
    pub(super) log_len: usize,
    pub(super) journal: Option<Journal>,
}

fn links(random: &mut Random, without: Without) -> (Faults, Faults) {
    let mut wan = Faults {
        loss: [0, 0, 20, 100][random.below(4)],
        duplicate: if random.chance(30) { 50 } else { 0 },
        reorder: if random.chance(30) { 100 } else { 0 },
        marks: 0,
        drops_asking: false,
        delay: Duration::from_millis(1 + random.of(20)),
        jitter: Duration::from_micros(random.of(500)),
        rate: [0, 1_250_000, 12_500_000][random.below(3)],
    };
    let mut lan = Faults {
        loss: if random.chance(15) { 10 } else { 0 },
        delay: Duration::from_micros(20),
        ..Faults::default()
    };
    for faults in [&mut lan, &mut wan] {
        if without.has(FaultKind::Loss) {
            faults.loss = 0;
        }
        if without.has(FaultKind::Duplicate) {
            faults.duplicate = 0;
        }
        if without.has(FaultKind::Reorder) {
            faults.reorder = 0;
        }
    }
    (lan, wan)
}

fn workload(random: &mut Random, without: Without) -> Workload {
    let mut workload = Workload {
        depth: 1 + random.below(16),
        request_blocks_max: [1, 8, 64, 128][random.below(4)],
        write_percent: 30 + random.of(60),
        sync_percent: random.of(8),
        fua_percent: random.of(10),
        ordered_percent: random.of(10),
        pass_percent: random.of(6),
        think_max: Duration::from_micros(200 + random.of(5000)),
        management_one_in: [0, 100, 500, 1000][random.below(4)],
        departure_one_in: [0, 500, 2000, 2000][random.below(4)],
        reserve_one_in: 0,
        computers: 1,
        commands_max: u64::MAX,
        leaves_alone: 0,
    };
    if without.has(FaultKind::Management) {
        workload.management_one_in = 0;
    }
    if without.has(FaultKind::Departure) {
        workload.departure_one_in = 0;
    }
    workload
}

fn storage(random: &mut Random, options: &Options, volumes: Vec<Volume>, side: Side) -> Storage {
    let mut storage = Storage::new(STORAGE, RELAY_WAN, BLOCKS, random.draw());
    let slow = random.chance(10) && !options.without.has(FaultKind::Slow);
    storage.latency_max = Duration::from_micros(random.of(if slow { 300_000 } else { 5000 }));
    storage.busy_percent = if random.chance(20) { 5 } else { 0 };
    if options.without.has(FaultKind::Busy) {
        storage.busy_percent = 0;
    }
    if !options.without.has(FaultKind::Failing) {
        storage.hiccup_one_in = [100, 300, 1000, 3000][random.below(4)];
    }
    storage.volumes = volumes;
    storage.offers = offers(side.target);
    let key = random.key();
    storage.proof = side.chap.then(|| Proof::new(Names::WAN, key));
    // Those that listen already have been made before this was said.
    storage.listen_anew();
    storage
}

fn contract(random: &mut Random) -> Durability {
    match random.of(8) {
        0..=2 => Durability::Memory,
        3 => Durability::Storage,
        _ => Durability::Journal,
    }
}

impl Plan {
    pub(super) fn draw(random: &mut Random, options: &Options) -> Self {
        let (lan, wan) = links(random, options.without);
        let sides = [Side::draw(random), Side::draw(random)];
        let computers = options.computers.unwrap_or(1 + random.below(3));
        let shared = computers > 1 && (random.chance(50) || options.computers.is_some());
        let targets = if shared { 1 } else { computers };
        let luns = match options.luns {
            Some(luns) => luns,
            None => 1 + random.below(if targets == 3 { 2 } else { 3 }),
        };
        let volumes: Vec<_> = (0..targets * luns)
            .map(|number| {
                let target = Some(target_name(number / luns));
                let lun = LUN * (number % luns + 1) as u64;
                let block_len = if random.chance(30) { 4096 } else { 512 };
                let mut volume = Volume::new(target, lun, block_len, BLOCKS, number);
                volume.write_through = random.chance(15);
                volume
            })
            .collect();
        let mode = if random.chance(30) {
            Mode::Portal
        } else {
            Mode::Transparent
        };
        let reserve_one_in = match random.of(10) {
            0 | 1 if shared => 12,
            2 | 3 if shared => 40,
            _ => 0,
        };
        let reserve_one_in = if options.without.has(FaultKind::Reservations) {
            0
        } else {
            reserve_one_in
        };
        let clients = (0..computers)
            .map(|number| {
                let target = if shared { 0 } else { number };
                let units = volumes[target * luns..(target + 1) * luns]
                    .iter()
                    .enumerate();
                let units = units
                    .map(|(at, volume)| Unit {
                        lun: volume.lun,
                        volume: target * luns + at,
                        block_len: volume.block_len,
                        blocks: BLOCKS as u64,
                    })
                    .collect();
                let number = u8::try_from(number).expect("few computers");
                let key = random.key();
                let identity = Identity {
                    address: Ipv4Addr::new(198, 18, 0, 10 + number),
                    gateway: RELAY_LAN,
                    dials: dialled(mode),
                    number,
                    initiator: format!("iqn.2004-03.example.sim:computer{number}"),
                    target: target_name(target),
                    offers: offers(sides[0].initiator),
                    proof: sides[0].chap.then(|| Proof::new(Names::LAN, key)),
                };
                let workload = Workload {
                    commands_max: options.commands_max(usize::from(number)),
                    leaves_alone: options.volumes_off,
                    reserve_one_in,
                    computers: u8::try_from(computers).expect("few computers"),
                    ..workload(random, options.without)
                };
                Client::new(identity, units, workload, random.draw())
            })
            .collect();
        let own_identity = random.chance(20);
        let mut journal_random = Random::new(random.draw());
        let contract = contract(&mut journal_random);
        let mut journal_latency_max = Duration::from_micros(20);
        if contract == Durability::Journal {
            journal_latency_max += Duration::from_micros(journal_random.of(3000));
        }
        let mut contracts = vec![contract; targets];
        if targets > 1 && journal_random.chance(40) {
            contracts.fill_with(|| self::contract(&mut journal_random));
        }
        let lanes = [1, 1, 2, 3][journal_random.below(4)];
        let idle_ms = [0, 0, 0, 20 + journal_random.of(500)][journal_random.below(4)];
        let count = volumes.len();
        let storage = storage(random, options, volumes, sides[1]);
        let config = RelayConfig {
            mode,
            targets: (0..targets)
                .map(|number| Target {
                    name: target_name(number),
                    address: SocketAddrV4::new(STORAGE, PORT),
                    initiators: Vec::new(),
                    shared,
                    own_identity,
                    luns: (1..=luns as u64).map(|lun| LUN * lun).collect(),
                    chap: sides[0].chap,
                    wan_address: RELAY_WAN,
                    durability: contracts[number],
                    lanes,
                })
                .collect(),
            flush: FlushPolicy {
                threshold_bytes: 1 << (12 + random.of(8)),
                stop_bytes: Some(1 << random.of(12)),
                period: Duration::from_millis(50 + random.of(2000)),
                idle: Duration::from_millis(idle_ms),
                load_limit_ms: 0,
                load_limit_percent: 0,
            },
            wait_max: Duration::from_secs(if random.chance(30) { 2 } else { 10 }),
            cache_warning_percent: 75,
            // Every computer under each of its names, and as many that leave.
            sessions_max: 18,
            staging_pages: u16::try_from(3 + random.of(61)).expect("small"),
            wan_buffers: WanBuffers {
                rx_pages: 4,
                tx_frames: 64,
            },
            silence_max: Duration::from_secs(5),
            lan_digests: digests(sides[0].target),
            wan_digests: digests(sides[1].initiator),
            security: Security {
                computers: vec![Names::LAN.of_computers()],
                storages: (0..targets)
                    .filter(|_| sides[1].chap)
                    .map(|number| Names::WAN.of_storage(&target_name(number)))
                    .collect(),
            },
            challenge_key: random.key(),
            seed: random.draw(),
        };
        // From scarce to plentiful: the directory, a segment a volume, and 2 to 9 more.
        let log_len = (3 + count + random.below(8)) * SEGMENT_LEN;
        let journal = contracts.contains(&Durability::Journal).then(|| {
            // The least that a configuration may say.
            let log_blocks = log_len as u64 / 4096;
            let blocks = (log_blocks * 3 / 2).max(log_blocks + (16 << 20) / 4096);
            let mut journal = Journal::new(blocks);
            journal.latency_max = journal_latency_max;
            journal
        });
        Self {
            journal,
            lan,
            wan,
            sides,
            config,
            clients,
            storage,
            shared,
            luns,
            log_len,
        }
    }
}

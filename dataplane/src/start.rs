//! From a configuration to a running worker: opens memory and ports, finds the
//! log of before, and puts the rooms together. The only room beside `main`
//! that knows them all; it decides nothing that the configuration does not say.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::{info, warn};
use sluice_config::{
    Account, ChapAlgorithm, Config, Digest, Driver, Durability, FlushParameter, FlushSet,
    IdentityPolicy, Initiators, LANES_SPARE, MemoryBudget, Mode, ReservationTarget, Secrets, State,
};
use sluice_hugepages::log::LogError;
use sluice_hugepages::pool::Pool;
use sluice_hugepages::region::{Backing, Directories, Region, RegionError, RegionSpec};
use sluice_hugepages::shm::{Birth, SegmentError, SegmentWriter, monotonic_ns};
use sluice_hugepages::tables;
use sluice_proto::Time;
use sluice_proto::iscsi::DigestPolicy;
use sluice_proto::iscsi::chap::{self, Algorithms, ChapName, Credential};

use crate::driver::{self, Port, PortError, PortSpec, TunSpec};
use crate::journal::thread::{JournalPort, LogBase};
use crate::journal::{JournalError, Line};
use crate::net::{PortConfig, RouteConfig, Router, RouterConfig, RouterError};
use crate::tcp::{Tcp, TcpConfig, WanBuffers};
use crate::worker::publish::{self, Facts, KERNEL_PORT, Publisher, StartFacts};
use crate::worker::recovery::StartError as RelayError;
use crate::worker::security::{ComputerChap, Security, StorageChap};
use crate::worker::{Digests, Relay, RelayConfig, Target, Worker};
use sluice_proto::cache::flush::policy::FlushPolicy;

mod opening;

use opening::{OpenedJournal, OpenedLog, open_log};

/// Seconds of silence on an iSCSI connection before it is asked by NOP.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Requests to the journal that its ring holds; more wait in the worker.
const JOURNAL_REQUESTS: usize = 4096;
/// Bytes of a staging page.
const PAGE_LEN: u32 = 64 * 1024;
const FRAME_LEN: u32 = 4096;

/// Why the data plane does not start. Each says what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error("log region: {0}")]
    Log(#[from] LogError),
    #[error("journal {path:?}: {source}")]
    Journal { path: PathBuf, source: JournalError },
    #[error("journal {path:?}: cannot run its thread: {source}")]
    JournalThread { path: PathBuf, source: io::Error },
    #[error(
        "the log was being made from a journal when the data plane stopped, and none is configured: \
         configure [journal] as it was and start again"
    )]
    HalfRestored,
    #[error(
        "journal {path:?}: it was left behind by a start without it, or with another one: writes were \
         acknowledged since that it does not have, and what it holds would come back over them; nothing \
         on it was changed: remove the file (zero a block device) and start again"
    )]
    LeftBehind { path: PathBuf },
    #[error(
        "the log was lost, and journal number {used:08x}, which was in use and holds what was \
         acknowledged, is not there; nothing was changed: configure it as it was and put it back (is its \
         file system mounted?); if it is lost too, or given up, remove the line `used {used:08x}` from \
         {account:?}, and start again"
    )]
    JournalMissing { used: u32, account: PathBuf },
    #[error(
        "cannot keep in {path:?} which journal is in use and which were left behind: {source}; mend that \
         file: without it a journal that is configured again could bring back old data"
    )]
    Account { path: PathBuf, source: io::Error },
    #[error("port {name}: {source}")]
    Port { name: String, source: PortError },
    #[error(transparent)]
    Router(#[from] RouterError),
    #[error(transparent)]
    Relay(#[from] RelayError),
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(
        "reservation {target}: it wants {wanted_kib} KiB and {free_kib} KiB are free, {} KiB too few; reserve \
         less (`size_kib`, in the configuration or in {state:?}), lower iscsi.sessions_max, or raise \
         dataplane.frames_mib",
        wanted_kib.saturating_sub(*free_kib)
    )]
    Reservation {
        target: ReservationTarget,
        wanted_kib: u64,
        free_kib: u64,
        state: PathBuf,
    },
    #[error(
        "reservation {target}: more than {} are asked for, or another one has its number; cancel some",
        tables::RESERVATIONS_MAX - 1
    )]
    Reservations { target: ReservationTarget },
    #[error("target {target}: no port and no route leads to {address}; add a [[route]]")]
    NoWayTo { target: String, address: Ipv4Addr },
}

/// Secrets and seeds, drawn by `main`.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// Keys sequence numbers and ephemeral ports.
    pub isn_key: [u8; 16],
    /// CHAP's challenges follow from it.
    pub challenge_key: [u8; 32],
    /// ISIDs, jitter, hash seeds.
    pub relay: u64,
}

/// A worker ready to step, with what it reaches outside itself.
#[derive(Debug)]
pub struct Started {
    pub worker: Worker,
    pub ports: Vec<Port>,
    pub publisher: Publisher,
}

/// Opens everything that `config` names.
///
/// # Errors
/// The first thing that cannot be had; nothing acknowledged is touched by then.
pub fn start(
    config: &Config,
    state: &State,
    secrets: &Secrets,
    seeds: Seeds,
    now: Time,
    ticks_per_second: u64,
) -> Result<Started, StartError> {
    // The segment first: its lock is what keeps a second data plane out.
    let mut segment = SegmentWriter::create(&config.dataplane.segment, Birth::now())?;
    if let Some(layout) = segment.replaced() {
        warn!("control segment of another layout ({layout:?}) replaced: restart what reads it");
    }
    let opening = Instant::now();
    let mut waiting = Waiting::new(&mut segment);
    let OpenedLog {
        log,
        recovery,
        backing: log_backing,
        found,
        journal,
    } = open_log(config, seeds.relay, &mut waiting)?;
    let opened = opening.elapsed();
    let kind = match (&journal, found && !recovery.formatted) {
        (Some(journal), _) if journal.restored => tables::StartKind::Restored,
        (_, false) => tables::StartKind::New,
        (_, true) if recovery.clean => tables::StartKind::Clean,
        (_, true) => tables::StartKind::Crash,
    };
    if kind != tables::StartKind::New {
        info!(
            "log: {}; {} records found, {} unsound, {} never acknowledged and dropped",
            match kind {
                tables::StartKind::New | tables::StartKind::Restored => "made from the journal",
                tables::StartKind::Clean => "clean, the last data plane ended in good order",
                tables::StartKind::Crash => "after a crash, the last data plane left no mark",
            },
            recovery.records.len(),
            recovery.damaged.len(),
            recovery.incomplete_records
        );
        for damage in &recovery.damaged {
            warn!("log: {damage}: kept, and not flushed");
        }
    }
    let frames = region(config, "frames", config.dataplane.frames_bytes);
    Region::discard(&frames)?;
    let frames = Region::open(&frames)?;
    let frames_backing = frames.backing().clone();
    info!(
        "frames: {} MiB on {frames_backing}",
        config.dataplane.frames_bytes >> 20
    );
    let mut pool = Pool::new(frames);

    let mut ports: Vec<Port> = Vec::new();
    for (port, index) in config.ports.iter().zip(0_u8..) {
        let spec = PortSpec {
            device: port.device.clone(),
            driver: driver_of(port.driver),
            index,
        };
        let opened = driver::open(&spec, &mut pool, &ports).map_err(|source| StartError::Port {
            name: port.name.clone(),
            source,
        })?;
        info!(
            "port {}: {} ({})",
            port.name,
            opened.info().driver,
            opened.info().why
        );
        ports.push(opened);
    }
    let router = Router::new(router_config(config, &ports))?;
    if let (Some(device), Some(index)) = (&config.kernel_device, router.kernel_port()) {
        ports.push(open_kernel_port(config, device, index)?);
    }
    let mtu = config
        .ports
        .iter()
        .map(|port| port.mtu)
        .min()
        .unwrap_or(1500);
    let gso = ports.iter().all(|port| port.info().gso);
    let tcp = tcp(config, mtu, gso, seeds.isn_key);
    let relay = relay_config(config, secrets, &router, seeds)?;
    let placing = Instant::now();
    let records = recovery.records.len();
    let mut waiting = Waiting::new(&mut segment);
    let mut progress = |done: usize| waiting.tell(500 + share(done, records), records);
    let mut relay = Relay::new_with_progress(relay, log, &recovery, &mut pool, now, &mut progress)?;
    let found = StartFacts {
        kind,
        records: recovery.records.len() as u64,
        took: opened + placing.elapsed(),
    };
    info!(
        "log: {} MiB to flush, found and placed in {} ms",
        relay.dirty_bytes() >> 20,
        found.took.as_millis()
    );
    if let Some(OpenedJournal {
        core, device, torn, ..
    }) = journal
    {
        relay.fail_torn(&torn);
        let path = device.path().to_owned();
        let log = LogBase {
            base: relay.log().base(),
            len: relay.log().region_len(),
        };
        // SAFETY: the relay owns both, and drops the port before the log; it frees no
        // record before the journal has what it was asked for.
        let port = unsafe {
            JournalPort::start(core, device, log, JOURNAL_REQUESTS, config.dataplane.cpu)
        };
        let port = port.map_err(|source| StartError::JournalThread { path, source })?;
        relay.set_journal(Line::Thread(port), now);
    }
    for change in &state.volumes {
        let setting = setting(&change.flush);
        let scope = match change.name.lun {
            Some(lun) => tables::Scope::Volume {
                target: tables::text(&change.name.target),
                lun,
            },
            None => tables::Scope::Target(tables::text(&change.name.target)),
        };
        relay.set_flush(&scope, &setting);
    }
    relay.set_flush(&tables::Scope::All, &setting(&state.flush));
    let facts = Facts {
        core: config.dataplane.cpu.and_then(|cpu| u16::try_from(cpu).ok()),
        frames_backing: (backing_of(&frames_backing), frames_backing.to_string()),
        log_backing: backing_of(&log_backing),
        log_bytes: config.dataplane.log_bytes,
        journal: config
            .journal
            .as_ref()
            .map(|journal| (journal.path.display().to_string(), journal.size_bytes)),
        ticks_per_second,
        start: found,
    };
    let mut worker = Worker::new(pool, router, tcp, relay);
    reserve(&mut worker, config, state, now)?;
    Ok(Started {
        worker,
        ports,
        publisher: Publisher::new(segment, facts),
    })
}

/// Makes all reservations of the configuration and the state file, before any packet is
/// taken (B-6): all of them, or the data plane does not start.
///
/// # Errors
/// The first that cannot be made.
pub fn reserve(
    worker: &mut Worker,
    config: &Config,
    state: &State,
    now: Time,
) -> Result<(), StartError> {
    let frames = |bytes: u64| usize::try_from(bytes).map_or(0, |bytes| bytes / FRAME_LEN as usize);
    let budget = MemoryBudget::of(config);
    // Who borrows leaves what computers need to log in, up to a quarter of it all.
    let borrow_bytes = budget.flows_least_bytes.min(budget.frames_bytes / 4);
    worker
        .pool
        .set_floors(frames(budget.transit_bytes), frames(borrow_bytes));
    for (target, error) in state.stray_reservations(config) {
        warn!("reservation {target} of the state file is left out: {error}");
    }
    for (target, index) in config.targets.iter().zip(0..) {
        let buffer_id = state.buffer_id(target);
        worker.relay.reservations.present(index, buffer_id);
    }
    let mut reservations = state.effective_reservations(config);
    // A buffer id is what it is; the others have numbers of those that are left.
    let has_id =
        |target: &ReservationTarget| matches!(target, ReservationTarget::Connection { .. });
    reservations.sort_by_key(|reservation| !has_id(&reservation.target));
    for reservation in &reservations {
        let target = reservation.target;
        let size = tables::ReservationSize {
            bytes: reservation.bytes(config.iscsi.wan_send_bytes.into()),
            automatic: reservation.automatic,
            sessions: reservation.sessions.unwrap_or(0),
            connections: reservation.connections.unwrap_or(0),
        };
        let registry = &mut worker.relay.reservations;
        match registry.reserve(now, &mut worker.pool, target_of(target), size) {
            Ok(_) => {}
            Err(tables::Outcome::OutOfMemory) => {
                return Err(StartError::Reservation {
                    target,
                    wanted_kib: size.bytes / 1024,
                    free_kib: (worker.pool.available() * FRAME_LEN as usize) as u64 / 1024,
                    state: config.control.state.clone(),
                });
            }
            Err(_) => return Err(StartError::Reservations { target }),
        }
    }
    // They are what there was before.
    while worker.relay.reservations.next_notice().is_some() {}
    (0..config.targets.len()).for_each(|target| worker.relay.lanes_follow(target));
    if !reservations.is_empty() {
        info!("{} reservations of memory buffers", reservations.len());
    }
    if budget.borrows() {
        info!(
            "WAN send buffers, all full, are more than dataplane.frames_mib: connections without a \
             reservation take what others leave"
        );
    }
    Ok(())
}

fn target_of(target: ReservationTarget) -> tables::ReservationTarget {
    match target {
        ReservationTarget::Pair { local, remote } => {
            tables::ReservationTarget::Pair { local, remote }
        }
        ReservationTarget::PairPort { local, remote } => {
            tables::ReservationTarget::PairPort { local, remote }
        }
        ReservationTarget::Connection { buffer_id } => {
            tables::ReservationTarget::Connection { buffer_id }
        }
    }
}

/// Tells those who wait for a start how far it is: in the control segment, and
/// once a second in the log. A start that is quick says nothing.
struct Waiting<'a> {
    segment: &'a mut SegmentWriter,
    shown: Instant,
    said: Instant,
}

impl<'a> Waiting<'a> {
    const SHOW_PERIOD: Duration = Duration::from_millis(100);
    const SAY_PERIOD: Duration = Duration::from_secs(1);

    fn new(segment: &'a mut SegmentWriter) -> Self {
        let (shown, said) = (Instant::now(), Instant::now());
        Self {
            segment,
            shown,
            said,
        }
    }

    fn tell(&mut self, permille: u16, records: usize) {
        if self.shown.elapsed() < Self::SHOW_PERIOD {
            return;
        }
        self.shown = Instant::now();
        self.segment.heartbeat(monotonic_ns());
        self.segment.put(0, &recovering(permille, records));
        if self.said.elapsed() >= Self::SAY_PERIOD {
            self.said = Instant::now();
            info!(
                "log: recovering, {}.{} %, {records} records found",
                permille / 10,
                permille % 10
            );
        }
    }
}

/// The row of a worker that is not there yet.
fn recovering(permille: u16, records: usize) -> tables::Runtime {
    tables::Runtime {
        version: tables::text(env!("CARGO_PKG_VERSION")),
        mode: tables::text(""),
        core: None,
        steps: 0,
        idle_steps: 0,
        sleeps: 0,
        rx_packets: 0,
        tx_packets: 0,
        busy_ticks: 0,
        total_ticks: 0,
        ticks_per_second: 0,
        idle_permille: 0,
        start: tables::StartKind::Crash,
        start_records: records as u64,
        start_us: 0,
        recovering_permille: Some(permille),
        draining_since_ns: None,
    }
}

/// One half of a start, in thousandths of all of it: finding, then placing.
fn share(done: usize, all: usize) -> u16 {
    u16::try_from(done.min(all) * 500 / all.max(1)).expect("500 at most")
}

/// The box itself as a host at the router's addresses: each with its port's
/// subnet, the portal's alone.
fn open_kernel_port(config: &Config, device: &str, index: u8) -> Result<Port, StartError> {
    let ports = config.ports.iter();
    let mut addresses: Vec<(Ipv4Addr, u8)> = ports
        .map(|port| (port.address.address(), port.address.prefix_len()))
        .collect();
    let portal = config.iscsi.portal.map(|portal| *portal.ip());
    if let Some(portal) = portal
        && addresses.iter().all(|&(address, _)| address != portal)
    {
        addresses.push((portal, 32));
    }
    let spec = TunSpec {
        device: device.to_owned(),
        index,
        mtu: config
            .ports
            .iter()
            .map(|port| port.mtu)
            .min()
            .unwrap_or(1500),
        addresses,
    };
    let opened = driver::open_tun(&spec).map_err(|source| StartError::Port {
        name: KERNEL_PORT.to_owned(),
        source,
    })?;
    info!(
        "port {KERNEL_PORT}: tun device {device} ({})",
        opened.info().why
    );
    Ok(opened)
}

fn region(config: &Config, name: &str, bytes: u64) -> RegionSpec {
    RegionSpec {
        directories: Directories {
            hugetlbfs: Some(PathBuf::from(&config.dataplane.directory)),
            tmpfs: PathBuf::from(&config.dataplane.fallback_directory),
        },
        name: name.to_owned(),
        len: usize::try_from(bytes).expect("checked against this machine's memory"),
    }
}

fn driver_of(driver: Driver) -> driver::Driver {
    match driver {
        Driver::Auto => driver::Driver::Auto,
        Driver::AfXdp => driver::Driver::AfXdp,
        Driver::AfPacket => driver::Driver::AfPacket,
    }
}

fn backing_of(backing: &Backing) -> tables::Backing {
    match backing {
        Backing::Hugetlbfs => tables::Backing::Hugepages,
        Backing::Tmpfs(_) => tables::Backing::Tmpfs,
        // A data plane opens no region to read it only.
        Backing::Anonymous | Backing::ReadOnly => tables::Backing::Anonymous,
    }
}

fn setting(set: &FlushSet) -> tables::FlushSetting {
    use FlushParameter::{IdleMs, LoadLimitMs, LoadLimitPercent, PeriodMs, StopKib, ThresholdKib};
    let bytes = |kib: u64| kib.saturating_mul(1024);
    tables::FlushSetting {
        threshold_bytes: set.get(ThresholdKib).map(bytes),
        stop_bytes: set.get(StopKib).map(bytes),
        period_ms: set.get(PeriodMs),
        idle_ms: set.get(IdleMs),
        load_limit_ms: set.get(LoadLimitMs),
        load_limit_percent: set.get(LoadLimitPercent),
    }
}

/// The router's part of the configuration. In both modes every address and
/// port of a cached target is intercepted.
fn router_config(config: &Config, ports: &[Port]) -> RouterConfig {
    RouterConfig {
        ports: config
            .ports
            .iter()
            .zip(ports)
            .map(|(port, opened)| PortConfig {
                name: port.name.clone(),
                mac: opened.info().mac,
                address: port.address.address(),
                prefix_len: port.address.prefix_len(),
                mtu: port.mtu,
            })
            .collect(),
        routes: config
            .routes
            .iter()
            .map(|route| RouteConfig {
                prefix: route.prefix.network().address(),
                prefix_len: route.prefix.prefix_len(),
                via: route.via,
            })
            .collect(),
        intercepts: config
            .targets
            .iter()
            .map(|target| (*target.address.ip(), target.address.port()))
            .collect(),
        portal: config
            .iscsi
            .portal
            .filter(|_| config.iscsi.mode == Mode::Portal)
            .map(|portal| (*portal.ip(), portal.port())),
        kernel: config.kernel_device.is_some(),
        ..RouterConfig::default()
    }
}

fn tcp(config: &Config, mtu: u16, gso: bool, isn_key: [u8; 16]) -> Tcp {
    // A session is a flow on either side, and a nexus may outlive its session;
    // as many again for those that close.
    let mut settings = TcpConfig::new(
        config.iscsi.sessions_max * 4 + config.iscsi.lanes_beside + LANES_SPARE,
        mtu,
        isn_key,
    );
    settings.accept.gso = gso;
    settings.connect.gso = gso;
    settings.connect.ecn = config.iscsi.wan_ecn;
    let mut tcp = Tcp::new(settings);
    match config.iscsi.mode {
        Mode::Portal => {
            if let Some(portal) = config.iscsi.portal {
                tcp.listen(portal);
            }
        }
        Mode::Transparent => {
            for target in &config.targets {
                tcp.listen(target.address);
            }
        }
    }
    tcp
}

fn relay_config(
    config: &Config,
    secrets: &Secrets,
    router: &Router,
    seeds: Seeds,
) -> Result<RelayConfig, StartError> {
    let mut targets = Vec::new();
    for target in &config.targets {
        let address = *target.address.ip();
        let path = router.path(address).ok_or_else(|| StartError::NoWayTo {
            target: target.name.clone(),
            address,
        })?;
        targets.push(Target {
            name: target.name.clone(),
            address: target.address,
            initiators: match &target.initiators {
                Initiators::Any => Vec::new(),
                Initiators::Named(names) => names.clone(),
            },
            shared: target.shared,
            own_identity: target.identity == IdentityPolicy::Own,
            luns: target.luns.clone(),
            chap: secrets.demanded_by(target),
            wan_address: path.source,
            durability: match target.durability {
                Durability::Memory => tables::Durability::Memory,
                Durability::Journal => tables::Durability::Journal,
                Durability::Storage => tables::Durability::Storage,
            },
            lanes: target.lanes as usize,
        });
    }
    let mut flush = FlushPolicy::BY_REQUEST;
    publish::apply(&mut flush, &setting(&config.flush.set));
    Ok(RelayConfig {
        mode: match config.iscsi.mode {
            Mode::Transparent => crate::worker::Mode::Transparent,
            Mode::Portal => crate::worker::Mode::Portal,
        },
        targets,
        flush,
        wait_max: config.flush.held_write_max,
        cache_warning_percent: config.control.cache_warning_percent,
        sessions_max: config.iscsi.sessions_max as usize,
        staging_pages: config.dataplane.staging_pages(),
        wan_buffers: WanBuffers {
            rx_pages: config.iscsi.wan_receive_bytes / PAGE_LEN,
            tx_frames: config.iscsi.wan_send_bytes / FRAME_LEN,
        },
        silence_max: SILENCE_MAX,
        lan_digests: digests(config.iscsi.lan_digests),
        wan_digests: digests(config.iscsi.wan_digests),
        security: security(secrets),
        challenge_key: seeds.challenge_key,
        seed: seeds.relay,
    })
}

fn digests(digests: sluice_config::Digests) -> Digests {
    let policy = |digest| match digest {
        Digest::Never => DigestPolicy::Never,
        Digest::Allowed => DigestPolicy::Allowed,
        Digest::Preferred => DigestPolicy::Preferred,
        Digest::Required => DigestPolicy::Required,
    };
    Digests {
        header: policy(digests.header),
        data: policy(digests.data),
    }
}

fn security(secrets: &Secrets) -> Security {
    let algorithms = |list: &[ChapAlgorithm]| {
        Algorithms::new(list.iter().map(|algorithm| match algorithm {
            ChapAlgorithm::Md5 => chap::Algorithm::Md5,
            ChapAlgorithm::Sha1 => chap::Algorithm::Sha1,
            ChapAlgorithm::Sha256 => chap::Algorithm::Sha256,
        }))
    };
    let computers = secrets.computers.iter().map(|one| ComputerChap {
        initiator: one.initiator.clone(),
        computer: credential(&one.computer),
        relay: one.relay.as_ref().map(credential),
        algorithms: algorithms(&one.algorithms),
    });
    let storages = secrets.storages.iter().map(|one| StorageChap {
        target: one.target.clone(),
        initiator: one.initiator.clone(),
        relay: credential(&one.relay),
        storage: one.storage.as_ref().map(credential),
        algorithms: algorithms(&one.algorithms),
    });
    Security {
        computers: computers.collect(),
        storages: storages.collect(),
    }
}

fn credential(account: &Account) -> Credential {
    Credential {
        name: ChapName::from(&account.user).expect("the secrets were checked: 255 bytes"),
        secret: chap::Secret::new(account.secret.bytes())
            .expect("the secrets were checked: 12 to 255 bytes"),
    }
}

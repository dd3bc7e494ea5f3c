//! `bench/run recovery`: how long a start over a full write log takes. A
//! log of so many GiB is filled through [`sluice_hugepages::log`] as a data
//! plane fills it, then found again: mapped, attached (headers checked, records
//! put in order), and given to a relay, which builds index and flush queue from
//! it. Once with records of 4 KiB, as many as a log can hold, and once with
//! 64 KiB. Ends with 1 if the budget is missed.
//!
//! The kernel has the file's pages all the time, as after a crash of the process.

#![expect(clippy::print_stdout, reason = "a command-line program")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use sluice_bench::tsc;
use sluice_dataplane::tcp::WanBuffers;
use sluice_dataplane::worker::security::Security;
use sluice_dataplane::worker::{Digests, Mode, Relay, RelayConfig, Target};
use sluice_hugepages::log::{Log, RecordFlags, VolumeEntry, VolumeFlags, VolumeId};
use sluice_hugepages::pool::Pool;
use sluice_hugepages::region::{Backing, Directories, Region, RegionSpec};
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::cache::flush::policy::FlushPolicy;

const TARGET: &str = "iqn.2004-03.example.bench:vol0";
const BLOCK_LEN: u32 = 512;
const VOLUME_BLOCKS: u64 = 1 << 31;
/// Attach and rebuild of 8 GiB; of less, in proportion.
const BUDGET_8_GIB: Duration = Duration::from_millis(1500);
/// Writes between two ordering points.
const EPOCH_WRITES: u64 = 1000;

#[derive(Debug, Parser)]
#[command(about = "Time of a start over a full write log")]
struct Arguments {
    /// Size of the log.
    #[arg(long, default_value_t = 8)]
    gib: usize,
    /// Volumes that are written in turns.
    #[arg(long, default_value_t = 8)]
    volumes: u16,
    /// Starts over each log; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A mount of hugetlbfs, used if it has room for the log.
    #[arg(long, default_value = "/dev/hugepages")]
    hugepages: PathBuf,
    /// Where the log stands otherwise.
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Start {
    /// Mapping the file, every page of it there.
    map_s: f64,
    /// Headers checked, records in order.
    attach_s: f64,
    /// Index, flush queue and tables made.
    rebuild_s: f64,
    /// Attach and rebuild.
    start_s: f64,
    cycles_per_record: f64,
}

#[derive(Debug, Serialize)]
struct Filled {
    record_kib: u32,
    records: usize,
    dirty_gib: f64,
    backing: String,
    fill_s: f64,
    /// Of the rounds, the one whose `start_s` is the median.
    median: Start,
}

#[derive(Debug, Serialize)]
struct Report {
    gib: usize,
    volumes: u16,
    budget_s: f64,
    met: bool,
    logs: Vec<Filled>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let budget = BUDGET_8_GIB.mul_f64(gib(arguments.gib << 30) / 8.0);
    let logs: Vec<Filled> = [4, 64]
        .into_iter()
        .map(|record_kib| measure(&arguments, record_kib))
        .collect();
    let met = logs
        .iter()
        .all(|log| log.median.start_s <= budget.as_secs_f64());
    let report = Report {
        gib: arguments.gib,
        volumes: arguments.volumes,
        budget_s: budget.as_secs_f64(),
        met,
        logs,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report).expect("plain data"));
    } else {
        for log in &report.logs {
            let start = &log.median;
            println!(
                "{} GiB of {} KiB records ({}, on {}): attach {:.2} s + rebuild {:.2} s = {:.2} s (budget {:.2} s), \
                 {:.0} cycles a record; mapping before that {:.2} s; filled in {:.1} s",
                report.gib,
                log.record_kib,
                log.records,
                log.backing,
                start.attach_s,
                start.rebuild_s,
                start.start_s,
                report.budget_s,
                start.cycles_per_record,
                start.map_s,
                log.fill_s,
            );
        }
    }
    if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The log's file, gone at the end.
struct Scratch(RegionSpec);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is said by its name: nothing else has this one.
        let _ = Region::discard(&self.0);
    }
}

fn measure(arguments: &Arguments, record_kib: u32) -> Filled {
    let scratch = Scratch(RegionSpec {
        directories: Directories {
            hugetlbfs: Some(arguments.hugepages.clone()),
            tmpfs: arguments.memory.clone(),
        },
        name: format!("sluice-recovery-bench-{}", std::process::id()),
        len: arguments.gib << 30,
    });
    let begun = Instant::now();
    let region = Region::open(&scratch.0).expect("memory for a log of this size");
    let backing = match region.backing() {
        Backing::Hugetlbfs => "hugepages",
        _ => "tmpfs",
    };
    let records = fill(region, arguments.volumes, record_kib * 1024);
    let fill_s = begun.elapsed().as_secs_f64();
    let mut starts: Vec<Start> = (0..arguments.rounds.max(1))
        .map(|_| start(&scratch.0, records))
        .collect();
    starts.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
    Filled {
        record_kib,
        records,
        dirty_gib: gib(records * record_kib as usize * 1024),
        backing: backing.to_owned(),
        fill_s,
        median: starts[starts.len() / 2],
    }
}

/// Writes until there is no room; how many records.
fn fill(region: Region, volumes: u16, len: u32) -> usize {
    let (mut log, _) = Log::open(region).expect("an empty log");
    let ids: Vec<VolumeId> = (0..volumes)
        .map(|lun| {
            let entry = VolumeEntry {
                target_name: TARGET.try_into().expect("a short name"),
                lun: u64::from(lun) << 48,
                storage: storage(),
                block_len: BLOCK_LEN,
                blocks: VOLUME_BLOCKS,
                flags: VolumeFlags::default(),
            };
            log.put_volume(entry).expect("a row of the directory")
        })
        .collect();
    let payload = vec![0x5A; len as usize];
    let places = VOLUME_BLOCKS / u64::from(len / BLOCK_LEN);
    let mut records = 0;
    for turn in 1.. {
        for &volume in &ids {
            // All over the volume: no two writes have a cache line of the index in common.
            let lba = turn * 0x9E37_79B1 % places * u64::from(len / BLOCK_LEN);
            let Ok(write) = log.reserve(volume, lba, len) else {
                return records;
            };
            log.append(write, &payload);
            records += log
                .commit(write, 1 + turn / EPOCH_WRITES, turn, RecordFlags::NONE)
                .len();
        }
    }
    records
}

fn start(spec: &RegionSpec, records: usize) -> Start {
    let begun = Instant::now();
    let region = Region::open(spec).expect("it was there a moment ago");
    let mapped = begun.elapsed();
    let ticks = tsc::now();
    let attaching = Instant::now();
    let (log, recovery) = Log::open(region).expect("a log of our own making");
    let attached = attaching.elapsed();
    assert_eq!(recovery.records.len(), records, "every record is found");
    let mut pool = Pool::anonymous(4096);
    let rebuilding = Instant::now();
    let relay = Relay::new(config(), log, &recovery, &mut pool, Time::from_millis(1));
    let rebuilt = rebuilding.elapsed();
    let ticks = tsc::now() - ticks;
    drop(relay.expect("the pool holds its staging"));
    let start = attached + rebuilt;
    #[expect(clippy::cast_precision_loss, reason = "shown with no decimals")]
    let cycles_per_record = ticks as f64 / records as f64;
    Start {
        map_s: mapped.as_secs_f64(),
        attach_s: attached.as_secs_f64(),
        rebuild_s: rebuilt.as_secs_f64(),
        start_s: start.as_secs_f64(),
        cycles_per_record,
    }
}

fn storage() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260)
}

fn config() -> RelayConfig {
    RelayConfig {
        mode: Mode::Transparent,
        targets: vec![Target {
            name: TARGET.to_owned(),
            address: storage(),
            initiators: Vec::new(),
            shared: false,
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
        sessions_max: 50,
        staging_pages: 96,
        wan_buffers: WanBuffers {
            rx_pages: 4,
            tx_frames: 128,
        },
        silence_max: Duration::from_secs(10),
        lan_digests: Digests::default(),
        wan_digests: Digests::default(),
        security: Security {
            computers: Vec::new(),
            storages: Vec::new(),
        },
        challenge_key: [7; 32],
        seed: 7,
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
fn gib(bytes: usize) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

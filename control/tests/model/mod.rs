//! The two programs as they are run, against a data plane of a few lines that has two volumes
//! and memory buffers, and keeps the segment.
#![allow(dead_code, reason = "each file of tests uses its part")]

mod memory;

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command as Program, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_hugepages::shm::{Birth, HEARTBEAT_PERIOD, SegmentWriter, monotonic_ns};
use sluice_hugepages::tables::*;

pub use self::memory::Memory;

pub const TARGET: &str = "iqn.2004-03.example.storage:vol0";

/// A directory with a configuration of its own; what was started in it ends with it.
pub struct Site {
    pub directory: PathBuf,
    pub daemon: Option<Child>,
}

/// What a program said and how it ended.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self {
            code: output.status.code().unwrap(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

impl Site {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-control-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let at = directory.display();
        let config = format!(
            "[dataplane]\nsegment = \"{at}/control.seg\"\nlog_mib = 64\n\
             [control]\nsocket = \"{at}/control.sock\"\nstate = \"{at}/lib/state.toml\"\n\
             [[port]]\nname = \"wan\"\ndevice = \"wan0\"\naddress = \"198.19.0.1/24\"\n\
             [[target]]\nname = \"{TARGET}\"\naddress = \"198.19.0.10:3260\"\ninitiators = [\"*\"]\n"
        );
        fs::write(directory.join("sluice.toml"), config).unwrap();
        Self {
            directory,
            daemon: None,
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn ctl(&self, args: &[&str]) -> Said {
        let output = Program::new(env!("CARGO_BIN_EXE_sluicectl"))
            .args(args)
            .env("SLUICE_CONFIG", self.file("sluice.toml"))
            .output()
            .unwrap();
        Said::of(&output)
    }

    /// As `ctl`, with lines on standard input.
    pub fn ctl_told(&self, args: &[&str], input: &str) -> Said {
        let mut child = Program::new(env!("CARGO_BIN_EXE_sluicectl"))
            .args(args)
            .env("SLUICE_CONFIG", self.file("sluice.toml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have refused before it reads.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Said::of(&child.wait_with_output().unwrap())
    }

    pub fn spawn_daemon(&self) -> Child {
        Program::new(env!("CARGO_BIN_EXE_sluice-control"))
            .arg("--config")
            .arg(self.file("sluice.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub fn start_daemon(&mut self) {
        self.daemon = Some(self.spawn_daemon());
        until("the daemon answers", || {
            UnixStream::connect(self.file("control.sock")).is_ok()
        });
    }

    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What the stand-in for the data plane has and was told.
pub struct Model {
    pub dirty_bytes: [u64; 2],
    /// Drains only when told to.
    pub holds: bool,
    pub failed: bool,
    /// Refused writes of LUN 1, by their LBA; and the stamp they are listed under.
    pub refused: Vec<u64>,
    pub stamp: u64,
    pub draining: bool,
    pub held_up: HeldUp,
    pub told: Vec<Command>,
    pub memory: Memory,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            dirty_bytes: [0; 2],
            holds: false,
            failed: false,
            refused: Vec::new(),
            stamp: 0,
            draining: false,
            held_up: HeldUp::No,
            told: Vec::new(),
            memory: Memory::default(),
        }
    }
}

pub struct DataPlane {
    pub model: Arc<Mutex<Model>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DataPlane {
    pub fn start(site: &Site) -> Self {
        Self::start_as(site, std::process::id())
    }

    /// With another process to be told to stop.
    pub fn start_as(site: &Site, pid: u32) -> Self {
        Self::start_with(site, pid, Memory::default())
    }

    /// With reservations that it has made by itself, as from the state file.
    pub fn start_with(site: &Site, pid: u32, memory: Memory) -> Self {
        let model = Model {
            memory,
            ..Model::default()
        };
        let model = Arc::new(Mutex::new(model));
        let stop = Arc::new(AtomicBool::new(false));
        // A child that another test has forked keeps the lock of the one before until it is
        // another program.
        let mut made = None;
        until("the segment is free", || {
            let birth = Birth {
                pid,
                ..Birth::now()
            };
            made = SegmentWriter::create(&site.file("control.seg"), birth).ok();
            made.is_some()
        });
        let mut writer = made.unwrap();
        writer.name_counter(0, "net.ttl_expired");
        writer.name_counter(1, "net.no_route");
        writer.set_counter(0, 3);
        fill(&mut writer);
        let thread = thread::spawn({
            let (model, stop) = (Arc::clone(&model), Arc::clone(&stop));
            move || run(writer, &model, &stop)
        });
        Self {
            model,
            stop,
            thread: Some(thread),
        }
    }

    pub fn model(&self) -> std::sync::MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn run(mut writer: SegmentWriter, shared: &Mutex<Model>, stop: &AtomicBool) {
    let mut flushed_at = None;
    while !stop.load(Ordering::Relaxed) {
        writer.heartbeat(monotonic_ns());
        let mut model = shared.lock().unwrap();
        while let Some((id, command)) = writer.next_command() {
            let scope = match &command {
                Command::SetFlush { scope, .. }
                | Command::FlushVolume { scope }
                | Command::RetryFailed { scope }
                | Command::DiscardFailed { scope, .. } => scope.clone(),
                _ => Scope::All,
            };
            let mut luns = (1..=2)
                .filter(|&lun| scope.covers(TARGET, lun << 48))
                .count();
            let mut outcome = if luns == 0 {
                Outcome::UnknownVolume
            } else {
                Outcome::Done
            };
            match command {
                Command::RetryFailed { .. } => luns = usize::from(!model.refused.is_empty()),
                Command::DiscardFailed { stamp, .. } if stamp == model.stamp => {
                    luns = model.refused.len();
                    model.refused.clear();
                }
                Command::DiscardFailed { .. } => outcome = Outcome::Changed,
                _ => {}
            }
            if let Command::FlushVolume { .. } | Command::Drain { on: true } = command {
                flushed_at = Some(Instant::now());
            }
            if let Command::Drain { on } = command {
                model.draining = on;
            }
            model.told.push(command.clone());
            let mut answer = Completion::new(id, outcome, u32::try_from(luns).unwrap());
            if let Some(outcome) = model.memory.take(&command) {
                (answer.outcome, answer.buffers) = outcome;
                answer.volumes = 0;
                let changes = matches!(
                    command,
                    Command::Reserve { .. } | Command::CancelReservation { .. }
                );
                if changes && model.memory.dies {
                    // With the command done, and nobody told.
                    model.memory.show(&mut writer);
                    return;
                }
                while changes && model.memory.mute && !stop.load(Ordering::Relaxed) {
                    model.memory.show(&mut writer);
                    writer.heartbeat(monotonic_ns());
                    drop(model);
                    thread::sleep(HEARTBEAT_PERIOD / 10);
                    model = shared.lock().unwrap();
                }
                if !model.memory.lags {
                    model.memory.show(&mut writer);
                }
            }
            show_volumes(&mut writer, &model);
            writer.complete(&answer);
        }
        if flushed_at.is_some_and(|at| at.elapsed() > Duration::from_millis(50)) && !model.holds {
            model.dirty_bytes = [0; 2];
            flushed_at = None;
        }
        show_volumes(&mut writer, &model);
        model.memory.show(&mut writer);
        drop(model);
        thread::sleep(HEARTBEAT_PERIOD / 10);
    }
}

fn show_volumes(writer: &mut SegmentWriter, model: &Model) {
    for (index, &dirty_bytes) in model.dirty_bytes.iter().enumerate() {
        let volume = Volume {
            target: text(TARGET),
            lun: (index as u64 + 1) << 48,
            storage: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
            state: if model.failed {
                VolumeState::Failed
            } else {
                VolumeState::Connected
            },
            durability: Durability::Memory,
            load_us: 40_000,
            load_p99_us: 90_000,
            dirty_bytes,
            oldest_dirty_since_ns: (dirty_bytes > 0).then_some(1),
            block_len: 512,
            blocks: 131_072,
            records: u64::from(dirty_bytes > 0),
            written_bytes: 1 << 20,
            flushed_bytes: (1 << 20) - dirty_bytes,
            superseded_bytes: 1 << 20,
            written_bytes_per_s: 3 << 20,
            flushed_bytes_per_s: 1 << 20,
            epochs_pending: 2,
            drained_in_ms: Some(1_500),
            full_in_ms: None,
            room_bytes: 1 << 24,
            sessions: 1,
            flush_threshold_bytes: 1 << 20,
            flush_stop_bytes: 1 << 19,
            flush_period_ns: 1_000_000_000,
            flush_idle_ns: 0,
            flush_load_limit_us: None,
            load_at_rest_us: 0,
            failed_writes: if index == 0 {
                model.refused.len() as u64
            } else {
                0
            },
            failed_stamp: model.stamp,
            drain: match (model.draining, dirty_bytes) {
                (false, _) => Drain::No,
                (true, 0) => Drain::Drained,
                (true, _) => Drain::Draining,
            },
            held_up: if dirty_bytes > 0 {
                model.held_up
            } else {
                HeldUp::No
            },
            write_latency: Latency {
                count: 2_000,
                p50_us: 90,
                p90_us: 120,
                p99_us: 850,
                p999_us: 12_000,
                max_us: 31_000,
                total_count: 50_000,
                total_max_us: 2_500_000,
            },
            read_latency: Latency {
                total_count: 7,
                total_max_us: 44_000,
                ..Latency::default()
            },
            flush_latency: Latency::default(),
        };
        writer.put(index, &volume);
    }
    for (index, &lba) in model.refused.iter().enumerate() {
        let write = FailedWrite {
            target: text(TARGET),
            lun: 1 << 48,
            stamp: model.stamp,
            lba,
            blocks: 8,
            bytes: 4096,
            sense_key: 3,
            asc: 0x0C,
            ascq: 0,
            sequence: 100 + index as u64,
        };
        writer.put(index, &write);
    }
    writer.clear_from(Table::FailedWrites, model.refused.len());
}

/// One row of every other table.
fn fill(writer: &mut SegmentWriter) {
    let computer = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 10), 41_000);
    writer.put(
        0,
        &Port {
            name: text("wan"),
            device: text("wan0"),
            driver: text("af_packet"),
            why: text("auto: veth has no zero-copy"),
            mac: [2, 0, 0, 0, 0, 0x1f],
            address: Ipv4Addr::new(198, 19, 0, 1),
            prefix_len: 24,
            mtu: 1500,
            link: LinkState::Up,
            rx_packets: 7,
            rx_bytes: 7000,
            rx_drops: 0,
            tx_packets: 8,
            tx_bytes: 8000,
            tx_drops: 1,
        },
    );
    for (number, now) in (0..).zip(["connected", "disconnected"]) {
        writer.put(
            number,
            &Event {
                number: number as u64,
                at_ns: 1,
                kind: EventKind::Volume,
                target: Some(text(TARGET)),
                lun: 1 << 48,
                before: (number > 0).then(|| text("connected")),
                now: text(now),
                why: text(""),
            },
        );
    }
    let net = Ipv4Addr::new(198, 19, 0, 0);
    writer.put(
        0,
        &Route {
            prefix: net,
            prefix_len: 24,
            via: None,
            port: 0,
        },
    );
    writer.put(
        0,
        &Neighbour {
            address: Ipv4Addr::new(198, 19, 0, 10),
            mac: [2, 0, 0, 0, 0, 0x10],
            port: 0,
            state: NeighbourState::Reachable,
            confirmed_ns: monotonic_ns(),
        },
    );
    writer.put(
        0,
        &Session {
            target: text(TARGET),
            storage: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
            lun: Some(1 << 48),
            volume: Some(0),
            initiator: text("iqn.2004-03.example.host:one"),
            computer,
            lan_isid: [0x80, 1, 2, 3, 4, 5],
            lan_tsih: 1,
            lan_connected: true,
            wan_isid: [0x80, 9, 9, 9, 9, 9],
            wan_tsih: 2,
            wan_connected: false,
            dirty_bytes: 0,
            commands: 12,
            since_ns: monotonic_ns(),
        },
    );
    writer.put(
        0,
        &Runtime {
            version: text("0.1.0"),
            mode: text("transparent"),
            core: Some(1),
            steps: 1000,
            idle_steps: 900,
            sleeps: 10,
            rx_packets: 100,
            tx_packets: 100,
            busy_ticks: 20_000,
            total_ticks: 1_000_000,
            ticks_per_second: 2_000_000_000,
            idle_permille: 905,
            start: StartKind::Crash,
            start_records: 12,
            start_us: 3000,
            recovering_permille: None,
            draining_since_ns: None,
        },
    );
}

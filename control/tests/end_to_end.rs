//! The two programs as they are run, against a data plane of a few lines that
//! has two volumes and keeps the segment.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command as Program, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_hugepages::shm::{Birth, HEARTBEAT_PERIOD, SegmentWriter, monotonic_ns};
use sluice_hugepages::tables::*;

const TARGET: &str = "iqn.2004-03.example.storage:vol0";

/// A directory with a configuration of its own; what was started in it ends with it.
struct Site {
    directory: PathBuf,
    daemon: Option<Child>,
}

/// What a program said and how it ended.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

impl Site {
    fn new() -> Self {
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

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn ctl(&self, args: &[&str]) -> Said {
        let output = Program::new(env!("CARGO_BIN_EXE_sluicectl"))
            .args(args)
            .env("SLUICE_CONFIG", self.file("sluice.toml"))
            .output()
            .unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn spawn_daemon(&self) -> Child {
        Program::new(env!("CARGO_BIN_EXE_sluice-control"))
            .arg("--config")
            .arg(self.file("sluice.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn start_daemon(&mut self) {
        self.daemon = Some(self.spawn_daemon());
        until("the daemon answers", || {
            UnixStream::connect(self.file("control.sock")).is_ok()
        });
    }

    fn kill_daemon(&mut self) {
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

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What the stand-in for the data plane has and was told.
struct Model {
    dirty_bytes: [u64; 2],
    /// Drains only when told to.
    holds: bool,
    failed: bool,
    /// Refused writes of LUN 1, by their LBA; and the stamp they are listed under.
    refused: Vec<u64>,
    stamp: u64,
    draining: bool,
    held_up: HeldUp,
    told: Vec<Command>,
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
        }
    }
}

struct DataPlane {
    model: Arc<Mutex<Model>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DataPlane {
    fn start(site: &Site) -> Self {
        Self::start_as(site, std::process::id())
    }

    /// With another process to be told to stop.
    fn start_as(site: &Site, pid: u32) -> Self {
        let model = Arc::new(Mutex::new(Model::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut writer = {
            let birth = Birth {
                pid,
                ..Birth::now()
            };
            SegmentWriter::create(&site.file("control.seg"), birth).unwrap()
        };
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

    fn model(&self) -> std::sync::MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn run(mut writer: SegmentWriter, model: &Mutex<Model>, stop: &AtomicBool) {
    let mut flushed_at = None;
    while !stop.load(Ordering::Relaxed) {
        writer.heartbeat(monotonic_ns());
        let mut model = model.lock().unwrap();
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
            model.told.push(command);
            show_volumes(&mut writer, &model);
            writer.complete(&Completion::new(id, outcome, u32::try_from(luns).unwrap()));
        }
        if flushed_at.is_some_and(|at| at.elapsed() > Duration::from_millis(50)) && !model.holds {
            model.dirty_bytes = [0; 2];
            flushed_at = None;
        }
        show_volumes(&mut writer, &model);
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
    writer.put(
        0,
        &Path {
            local: Ipv4Addr::new(198, 19, 0, 1),
            remote: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
            sessions: 2,
            bandwidth_bytes_per_s: 12_500_000,
            bandwidth_at_ns: Some(1),
            min_rtt_us: 40_100,
            min_rtt_at_ns: Some(1),
            limit: PathLimit::Path,
            rtt_us: 41_000,
            typed_bytes_per_s: None,
            typed_rtt_us: None,
            changes: 0,
            changed_at_ns: None,
            probes: 0,
            measured: 0,
            recommended_bytes: Some(1_002_500),
        },
    );
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
        &Buffers {
            backing: Backing::Tmpfs,
            why: text("no hugepages are free"),
            pages_free: 100,
            pages_leased: 20,
            pages_divided: 8,
            frames_free: 120,
            frames_reserved: 0,
            frames_in_use: 8,
            free_bytes: 120 * 4096 + 100 * 65_536,
            log_backing: Backing::Hugepages,
            log_segments: 32,
            log_segments_free: 31,
            log_bytes: 64 << 20,
            log_live_bytes: 4096,
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

#[test]
fn exit_codes_say_what_is_missing() {
    let site = Site::new();
    let said = site.ctl(&["show", "volumes"]);
    assert_eq!(said.code, 3);
    assert!(
        said.err
            .contains("control.seg is not there; start sluice-dataplane"),
        "{}",
        said.err
    );
    let said = site.ctl(&["-j", "show", "ports"]);
    assert_eq!(
        (said.code, &said.json()["error"]["exit"]),
        (3, &Value::from(3))
    );
    let said = site.ctl(&["flush", "all"]);
    assert_eq!(said.code, 4);
    assert!(
        said.err.contains("sluice-control does not answer on"),
        "{}",
        said.err
    );
    assert_eq!(site.ctl(&["set", "flush"]).code, 2);
    assert_eq!(site.ctl(&["show", "weather"]).code, 2);
    assert_eq!(site.ctl(&["show", "version"]).code, 0);

    let file = site.file("sluice.toml").display().to_string();
    let said = site.ctl(&["config", "check", &file]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out
            .contains("1 ports, 0 routes, 1 targets, mode transparent"),
        "{}",
        said.out
    );
    let bad = site.file("bad.toml");
    let text = fs::read_to_string(site.file("sluice.toml")).unwrap();
    fs::write(&bad, text.replace("198.19.0.1/24", "198.19.0.300/24")).unwrap();
    let bad = bad.display().to_string();
    let said = site.ctl(&["config", "check", &bad]);
    assert_eq!(said.code, 5);
    assert!(
        said.err
            .contains("bad.toml:10: address = \"198.19.0.300/24\": the address is not"),
        "{}",
        said.err
    );
    let json = site.ctl(&["config", "check", &bad, "--json"]).json();
    assert_eq!(json["error"]["faults"][0]["line"], 10);
    let said = site.ctl(&["--config", &bad, "show", "ports"]);
    assert_eq!(said.code, 5);
}

#[test]
fn every_table_is_shown_for_people_and_for_scripts() {
    let site = Site::new();
    let _plane = DataPlane::start(&site);
    until("volumes are there", || {
        site.ctl(&["show", "volumes", "-j"])
            .json()
            .as_array()
            .unwrap()
            .len()
            == 2
    });
    for (table, word) in [
        ("ports", "auto: veth has no zero-copy"),
        ("routes", "198.19.0.0/24  connected  wan"),
        ("neighbours", "02:00:00:00:00:10"),
        ("sessions", "iqn.2004-03.example.storage:vol0/1"),
        ("volumes", "64.0 MiB"),
        (
            "latency",
            "2000  90 us  120 us  850 us  12.0 ms  31.0 ms         50000           2.5 s",
        ),
        ("buffers", "no hugepages are free"),
        ("drops", "net.ttl_expired      3"),
        ("runtime", "90.5 %"),
    ] {
        let said = site.ctl(&["show", table]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{table}");
        assert!(said.out.contains(word), "{table}: {}", said.out);
        let said = site.ctl(&["show", table, "--json"]);
        assert_eq!(said.code, 0, "{table}");
        said.json();
    }
    let paths = site.ctl(&["path", "show"]).out;
    assert!(paths.contains("11.9 MiB"), "{paths}");
    assert!(paths.contains("40.1 ms"), "{paths}");
    let path = &site.ctl(&["path", "show", "-j"]).json()[0];
    assert_eq!(path["remote"], "198.19.0.10:3260");
    assert_eq!(path["recommended_bytes"], 1_002_500);
    let volume = &site.ctl(&["show", "volumes", "-j"]).json()[1];
    assert_eq!(volume["target"], TARGET);
    assert_eq!(volume["lun"], 2);
    assert_eq!(volume["state"], "connected");
    assert_eq!(volume["dirty_bytes"], 0);
    assert_eq!(volume["oldest_dirty_s"], 0.0);
    assert_eq!(volume["durability"], "memory");
    assert_eq!(volume["load_p99_us"], 90_000);
    assert_eq!(volume["coalescing_ratio"], 2.0);
    assert_eq!(volume["latency"]["write"]["p999_us"], 12_000);
    assert_eq!(volume["latency"]["flush"]["total_count"], 0);
    assert_eq!(volume["drained_in_s"], 1.5);
    assert_eq!(volume["full_in_s"], Value::Null);
    let latency = site.ctl(&["show", "latency", "-j"]).json();
    assert_eq!(latency.as_array().unwrap().len(), 6, "a volume and kind");
    let reads = &latency[4];
    assert_eq!((&reads["lun"], &reads["kind"]), (&2.into(), &"read".into()));
    assert_eq!(
        (&reads["count"], &reads["total_count"]),
        (&0.into(), &7.into())
    );
    assert_eq!(reads["p99_us"], Value::Null, "none of late");
    assert_eq!(reads["total_max_us"], 44_000);
    let session = &site.ctl(&["show", "sessions", "-j"]).json()[0];
    assert_eq!(session["lan"]["isid"], "800102030405");
    assert_eq!(session["wan"]["state"], "disconnected");
    let runtime = site.ctl(&["show", "runtime", "-j"]).json();
    assert_eq!(runtime["state"], "alive");
    assert_eq!(runtime["start"]["kind"], "after-crash");
    assert_eq!(runtime["start"]["records"], 12);
    assert_eq!(runtime["workers"][0]["ticks_per_packet"], 200);
}

#[test]
fn top_is_refreshed_so_many_times() {
    let site = Site::new();
    let _plane = DataPlane::start(&site);
    let top = ["top", "--count", "2", "--interval", "0.01"];
    until("volumes are there", || {
        site.ctl(&top).out.contains("3.0 MiB")
    });
    let said = site.ctl(&top);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert_eq!(said.out.matches("drained in").count(), 2, "{}", said.out);
    assert!(!said.out.contains('\x1b'), "no terminal");
    let said = site.ctl(&[&top[..], &["-j"]].concat());
    let lines: Vec<Value> = said
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["volumes"][0]["epochs_pending"], 2);
    assert_eq!(lines[1]["volumes"][0]["written_bytes_per_s"], 3 << 20);
    assert_eq!(lines[1]["volumes"][0]["write_p99_us"], 850);
    assert_eq!(site.ctl(&["top", "--count", "0"]).code, 2);
}

#[test]
fn events_are_listed_and_followed() {
    let site = Site::new();
    let _plane = DataPlane::start(&site);
    until("events are there", || {
        site.ctl(&["events"]).out.lines().count() == 2
    });
    let said = site.ctl(&["events"]);
    assert_eq!(said.err, "");
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 2, "{}", said.out);
    assert!(lines[0].starts_with("#0 ") && lines[0].ends_with("vol0/1: connected"));
    assert!(lines[1].ends_with(": connected -> disconnected"));
    let events = site.ctl(&["events", "-j"]).json();
    assert_eq!(events[1]["number"], 1);
    assert_eq!(events[1]["kind"], "volume");
    assert_eq!(
        (&events[1]["target"], &events[1]["lun"]),
        (&TARGET.into(), &1.into())
    );
    assert_eq!(events[0]["before"], Value::Null);
    let said = site.ctl(&["events", "-f", "--count", "2", "-j"]);
    let last = said.out.lines().next_back().unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(
        (&last["before"], &last["now"]),
        (&"connected".into(), &"disconnected".into())
    );
}

#[test]
fn the_last_state_of_a_dead_data_plane_is_shown_as_such() {
    let site = Site::new();
    drop(DataPlane::start(&site));
    let segment = fs::OpenOptions::new()
        .write(true)
        .open(site.file("control.seg"))
        .unwrap();
    let said = site.ctl(&["show", "ports"]);
    assert_eq!(said.code, 0);
    assert!(
        said.err.contains("was stopped: stale heartbeat"),
        "{}",
        said.err
    );
    assert!(said.out.contains("af_packet"), "{}", said.out);
    // As SIGKILL leaves it: nobody has said goodbye (the state is word 12).
    segment.write_all_at(&1_u64.to_ne_bytes(), 12 * 8).unwrap();
    let said = site.ctl(&["show", "runtime", "-j"]);
    assert!(
        said.err.contains("is dead: stale heartbeat"),
        "{}",
        said.err
    );
    assert_eq!(said.json()["state"], "dead");
    // Another release (the version is word 1).
    segment.write_all_at(&99_u64.to_ne_bytes(), 8).unwrap();
    let said = site.ctl(&["show", "volumes"]);
    assert_eq!(said.code, 3);
    assert!(said.err.contains("has layout version 99"), "{}", said.err);
}

#[test]
fn changes_are_made_kept_and_made_again() {
    let mut site = Site::new();
    // Before any data plane: it waits for one.
    site.start_daemon();
    assert_eq!(
        fs::metadata(site.file("control.sock"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o660
    );
    let said = site.ctl(&["set", "flush", "--period-ms", "200"]);
    assert_eq!(said.code, 3);
    assert!(
        said.err.contains("control.seg is not there"),
        "{}",
        said.err
    );

    let plane = DataPlane::start(&site);
    until("a change is taken", || {
        site.ctl(&["set", "flush", "--period-ms", "200"]).code == 0
    });
    let default = Command::SetFlush {
        scope: Scope::All,
        setting: FlushSetting {
            period_ms: Some(200),
            ..FlushSetting::default()
        },
    };
    assert_eq!(plane.model().told, std::slice::from_ref(&default));
    let one = format!("{TARGET}/2");
    let several = [
        "--threshold-kib",
        "64",
        "--stop-kib",
        "32",
        "--idle-ms",
        "500",
    ];
    let said = site.ctl(&[&["-j", "set", "flush", &one], &several[..]].concat());
    assert_eq!(
        (said.code, &said.json()["volumes"]),
        (0, &Value::from(1)),
        "{}",
        said.err
    );
    let second = Command::SetFlush {
        scope: Scope::Volume {
            target: text(TARGET),
            lun: 2 << 48,
        },
        setting: FlushSetting {
            threshold_bytes: Some(65536),
            stop_bytes: Some(32768),
            idle_ms: Some(500),
            ..FlushSetting::default()
        },
    };
    assert_eq!(plane.model().told.last(), Some(&second));

    for (args, message) in [
        (
            &["set", "flush", "--period-ms", "1"][..],
            "period of 1 ms: must be 10 to 3600000 ms",
        ),
        (
            &["set", "flush", "--threshold-kib", "-4"][..],
            "threshold of -4 KiB: must be 4 to 65536 KiB",
        ),
        (
            &["set", "flush", "--stop-kib", "-1"][..],
            "stop mark of -1 KiB: must be 0 to 65536 KiB (the size of the write cache)",
        ),
        (
            &["set", "flush", "--idle-ms", "9"][..],
            "idle time of 9 ms: must be 10 to 3600000 ms, or 0 for never",
        ),
        (
            &["set", "flush", "--load-limit-ms", "60001"][..],
            "load limit of 60001 ms: must be 1 to 60000 ms, or 0 for none",
        ),
        (
            &["set", "flush", "--load-limit-percent", "100"][..],
            "load limit of 100 %: must be 120 to 10000 % of the response time at rest, or 0 for none",
        ),
        (
            &["set", "flush", "vol9", "--period-ms", "20"][..],
            "volume \"vol9\": an iSCSI name starts with",
        ),
        (
            &["flush", "iqn.2004-03.example.storage:vol0/7"][..],
            "volume iqn.2004-03.example.storage:vol0/7: no such volume",
        ),
    ] {
        let said = site.ctl(args);
        assert_eq!(said.code, 1, "{args:?}");
        assert!(said.err.contains(message), "{args:?}: {}", said.err);
    }

    let said = site.ctl(&["set", "flush", "--period-ms", "1.5"]);
    assert_eq!(said.code, 2);
    let message = "'1.5' for '--period-ms <N>': must be a whole number, 10 to 3600000";
    assert!(said.err.contains(message), "{}", said.err);

    // The daemon is killed and comes back; then the data plane.
    site.kill_daemon();
    assert_eq!(site.ctl(&["set", "flush", "--period-ms", "300"]).code, 4);
    plane.model().told.clear();
    site.start_daemon();
    until("all changes again", || {
        plane.model().told == [default.clone(), second.clone()]
    });
    drop(plane);
    let plane = DataPlane::start(&site);
    until("all changes to the new one", || {
        plane.model().told == [default.clone(), second.clone()]
    });
}

#[test]
fn flush_waits_until_the_storage_has_it() {
    let mut site = Site::new();
    let plane = DataPlane::start(&site);
    site.start_daemon();
    plane.model().dirty_bytes = [4096, 8192];
    let said = site.ctl(&["-j", "flush", TARGET]);
    assert_eq!(said.code, 0, "{}", said.err);
    let json = said.json();
    assert_eq!(
        (&json["volumes"], &json["drained"]),
        (&Value::from(2), &Value::from(true))
    );
    assert!(json["seconds"].as_f64().unwrap() > 0.04);
    assert_eq!(plane.model().dirty_bytes, [0, 0]);

    plane.model().holds = true;
    plane.model().dirty_bytes = [4096, 0];
    let said = site.ctl(&["flush", "all", "--timeout", "0.2"]);
    assert_eq!(said.code, 1);
    let message =
        "not drained within 200.0 ms: iqn.2004-03.example.storage:vol0/1 (connected) has 4.0 KiB";
    assert!(said.err.contains(message), "{}", said.err);
    assert_eq!(
        site.ctl(&["flush", &format!("{TARGET}/2")]).code,
        0,
        "the other volume has nothing"
    );
    assert_eq!(site.ctl(&["flush", "all", "--timeout", "0"]).code, 0);
    plane.model().failed = true;
    let said = site.ctl(&["flush", "all"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("vol0/1 has failed"), "{}", said.err);
}

#[test]
fn a_drain_is_waited_for_tells_what_holds_it_up_and_is_cancelled() {
    let mut site = Site::new();
    let plane = DataPlane::start(&site);
    site.start_daemon();
    plane.model().dirty_bytes = [4096, 8192];
    let said = site.ctl(&["drain"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("drained: safe to stop"), "{}", said.out);
    assert_eq!(plane.model().told, [Command::Drain { on: true }]);
    // Asked again it is as it was; the daemon is not needed once it has begun.
    let again = site.ctl(&["-j", "drain"]).json();
    assert_eq!(
        (&again["ok"], &again["drained"], &again["volumes"]),
        (&true.into(), &true.into(), &2.into())
    );
    let shown = site.ctl(&["show", "volumes"]);
    assert!(shown.out.contains("connected, drained"), "{}", shown.out);
    let shown = site.ctl(&["show", "volumes", "-j"]).json();
    assert_eq!(shown[0]["drain"], "drained");

    let (holds, held_up) = (true, HeldUp::Storage);
    plane.model().dirty_bytes = [4096, 0];
    (plane.model().holds, plane.model().held_up) = (holds, held_up);
    let said = site.ctl(&["drain", "--timeout", "0.2"]);
    assert_eq!(said.code, 1);
    for words in [
        "not drained within 2",
        "vol0/1 has 4.0 KiB: its storage is not there",
        "drain --cancel",
    ] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    assert!(!said.out.contains("vol0/2"), "{}", said.out);
    // What waiting does not mend is told at once.
    plane.model().held_up = HeldUp::Failed;
    let said = site.ctl(&["drain", "-j", "--timeout", "600"]);
    assert_eq!(said.code, 1);
    let json = said.json();
    assert_eq!(json["volumes"][0]["held_up"], "failed");
    assert_eq!(json["volumes"][0]["dirty_bytes"], 4096);

    let said = site.ctl(&["drain", "--cancel"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(
        plane.model().told.last(),
        Some(&Command::Drain { on: false })
    );
    until("it does not drain", || {
        site.ctl(&["show", "volumes", "-j"]).json()[0]["drain"] == "no"
    });
    site.kill_daemon();
    assert_eq!(site.ctl(&["drain"]).code, 4);
}

#[test]
fn a_data_plane_is_asked_to_stop_and_waited_for() {
    let mut site = Site::new();
    let said = site.ctl(&["dataplane", "stop"]);
    assert_eq!(said.code, 3, "none is there: {}", said.err);
    let mut child = Program::new("sleep").arg("600").spawn().unwrap();
    let plane = DataPlane::start_as(&site, child.id());
    // It does not end what does not drain.
    site.start_daemon();
    plane.model().dirty_bytes = [4096, 0];
    (plane.model().holds, plane.model().held_up) = (true, HeldUp::Failed);
    let said = site.ctl(&["dataplane", "stop", "--drain"]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.out.contains("has failed"), "{}", said.out);
    assert!(said.out.contains("was not stopped"), "{}", said.out);
    assert!(child.try_wait().unwrap().is_none(), "it is still there");

    plane.model().dirty_bytes = [0; 2];
    let gone = thread::spawn(move || {
        let status = child.wait().unwrap();
        drop(plane);
        status
    });
    let said = site.ctl(&["dataplane", "stop", "--drain"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.contains("stopped"), "{}", said.out);
    let signal = std::os::unix::process::ExitStatusExt::signal(&gone.join().unwrap());
    assert_eq!(signal, Some(libc::SIGTERM));
    assert_eq!(site.ctl(&["dataplane", "stop"]).code, 3, "it is gone");
}

#[test]
fn what_the_storage_refused_is_listed_sent_again_or_thrown_away_by_name() {
    let mut site = Site::new();
    site.start_daemon();
    let plane = DataPlane::start(&site);
    let none = site.ctl(&["volume", "failed"]);
    assert_eq!(
        (none.code, none.out.trim()),
        (0, "no volume has refused writes")
    );
    let name = format!("{TARGET}/1");
    let said = site.ctl(&["volume", "discard", &name, "--yes"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("has no refused writes"), "{}", said.err);
    let said = site.ctl(&["volume", "failed", "iqn.2004-03.example:none"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("no such volume"), "{}", said.err);

    (plane.model().refused, plane.model().stamp) = (vec![2048, 16], 7);
    until("the refusals are shown", || {
        site.ctl(&["volume", "failed"]).out.contains("2048")
    });
    let said = site.ctl(&["volume", "failed", TARGET, "-j"]);
    let list = said.json();
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(list[0]["lba"], 2048);
    assert_eq!(list[0]["blocks"], 8);
    assert_eq!(list[0]["sense"], "MEDIUM ERROR 0Ch/00h");
    let shown = site.ctl(&["show", "volumes"]);
    assert_eq!(shown.code, 0);
    assert!(
        shown.err.contains("refused 2 acknowledged writes"),
        "{}",
        shown.err
    );

    // Nothing is thrown away that was not named, and agreed to.
    let said = site.ctl(&["volume", "discard", &name]);
    assert_eq!(said.code, 1);
    assert!(
        said.out.contains("2055") && said.out.contains("--yes"),
        "{}",
        said.out
    );
    assert_eq!(plane.model().refused.len(), 2);
    assert!(plane.model().told.is_empty());
    let said = site.ctl(&["volume", "discard", "all", "--yes"]);
    assert_eq!(said.code, 1);

    let said = site.ctl(&["volume", "retry", &name]);
    assert_eq!(said.code, 0, "{}", said.err);
    let scope = Scope::Volume {
        target: text(TARGET),
        lun: 1 << 48,
    };
    let retry = Command::RetryFailed {
        scope: scope.clone(),
    };
    assert_eq!(plane.model().told, [retry]);
    let said = site.ctl(&["volume", "discard", &name, "--yes"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out.contains("2055") && said.out.contains("these 2 writes"),
        "{}",
        said.out
    );
    let discard = Command::DiscardFailed { scope, stamp: 7 };
    assert_eq!(plane.model().told.last(), Some(&discard));
    until("nothing is refused any more", || {
        site.ctl(&["volume", "failed"]).out.contains("no volume")
    });
}

#[test]
fn the_socket_takes_anything_and_the_daemon_goes_when_asked() {
    let mut site = Site::new();
    site.start_daemon();
    let stream = UnixStream::connect(site.file("control.sock")).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut ask = |line: &str| {
        (&stream).write_all(line.as_bytes()).unwrap();
        let mut reply = String::new();
        lines.read_line(&mut reply).unwrap();
        reply
    };
    assert!(ask("hello\n").contains("\"bad_request\""));
    assert!(ask("{\"do\":\"fly\"}\n").contains("not a request"));
    assert!(ask("{\"do\":\"flush\",\"volume\":\"all\",\"now\":1}\n").contains("\"bad_request\""));
    assert_eq!(ask("{\"do\":\"ping\"}\n"), "{\"reply\":\"pong\"}\n");
    assert!(ask(&"x".repeat(5000)).contains("at most 4096 bytes"));

    let second = site.spawn_daemon().wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another sluice-control answers on"), "{said}");

    let mut daemon = site.daemon.take().unwrap();
    let pid = libc::pid_t::try_from(daemon.id()).unwrap();
    // SAFETY: a signal to the child just started, not yet waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(!site.file("control.sock").exists());
}

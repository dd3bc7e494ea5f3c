//! The configuration as operators meet it: a good file in full, and for every
//! kind of mistake the exact message.

use std::time::Duration;

use sluice_config::{
    Config, ConfigError, Driver, FlushParameter, FlushSet, Initiators, MemoryBudget, Mode, State,
    VolumeName,
};

const GOOD: &str = r#"[dataplane]
driver = "auto"
frames_mib = 256
log_mib = 256
spin_us = 50
cpu = 1
[control]
socket = "/run/sluice/control.sock"
[[port]]
name = "lan"
device = "lan0"
address = "198.18.0.1/24"
mtu = 1500
[[port]]
name = "wan"
device = "wan0"
address = "198.19.0.1/24"
driver = "af_packet"
[[route]]
prefix = "0.0.0.0/0"
via = "198.19.0.254"
[iscsi]
mode = "portal"
portal = "198.18.0.1:3260"
sessions_max = 64
[flush]
threshold_kib = 1024
period_ms = 1000
held_write_max_ms = 10000
[[target]]
name = "iqn.2004-03.example.storage:VOL0"
address = "198.19.0.10:3260"
initiators = ["*"]
shared = true
durability = "memory"
"#;

fn faults(text: &str) -> String {
    Config::parse(text).expect_err("a bad file").to_string()
}

#[test]
fn a_good_file_in_full() {
    let config = Config::parse(GOOD).unwrap();
    assert_eq!(config.dataplane.frames_bytes, 256 << 20);
    assert_eq!(config.dataplane.spin, Duration::from_micros(50));
    assert_eq!(config.dataplane.cpu, Some(1));
    assert_eq!(config.ports[0].driver, Driver::Auto);
    assert_eq!(config.ports[1].driver, Driver::AfPacket);
    assert_eq!(config.ports[1].mtu, 1500);
    assert_eq!(config.routes[0].port, 1);
    assert_eq!(config.iscsi.mode, Mode::Portal);
    assert_eq!(config.targets[0].name, "iqn.2004-03.example.storage:vol0");
    assert_eq!(config.targets[0].initiators, Initiators::Any);
    assert_eq!(config.route_port([8, 8, 8, 8].into()), Some(1));
    assert_eq!(config.connected_port([8, 8, 8, 8].into()), None);
    let budget = MemoryBudget::of(&config);
    assert!(budget.ports_bytes + budget.staging_bytes + budget.flows_bytes <= budget.frames_bytes);
    assert!(budget.check(1 << 30).is_ok());
    let error = budget.check(512 << 20).unwrap_err().to_string();
    assert!(
        error.contains("512 MiB are available; lower frames_mib or log_mib"),
        "{error}"
    );
}

#[test]
fn lanes_take_memory_and_rows_of_their_own() {
    let one = Config::parse(GOOD).unwrap();
    let text = GOOD.replace("shared = true", "lanes = 8");
    let eight = Config::parse(&text).unwrap();
    assert_eq!((one.targets[0].lanes, eight.targets[0].lanes), (1, 8));
    assert_eq!((one.iscsi.lanes_beside, eight.iscsi.lanes_beside), (0, 7));
    let flows = |config: &Config| MemoryBudget::of(config).flows_bytes;
    let lane = u64::from(one.iscsi.wan_send_bytes) + (1 << 20);
    assert_eq!(flows(&eight) - flows(&one), 7 * lane);
    let text = text.replace("sessions_max = 64", "sessions_max = 1012");
    let error = faults(&text);
    assert!(
        error.contains("must be 1 to 1010, what fits in frames_mib = 256 beside 7 lanes"),
        "{error}"
    );
}

#[test]
fn the_least_that_is_a_configuration() {
    let text = "[[port]]\nname = \"lan\"\ndevice = \"lan0\"\naddress = \"198.18.0.1/24\"\n";
    let config = Config::parse(text).unwrap();
    assert_eq!(
        config.flush.set.to_string(),
        "threshold_kib = 1024, period_ms = 1000, idle_ms = 0, load_limit_ms = 0, load_limit_percent = 0"
    );
    assert_eq!(config.iscsi.mode, Mode::Transparent);
    assert_eq!(config.iscsi.sessions_max, 49, "derived from frames_mib");
    assert!(config.iscsi.wan_ecn);
    let config = Config::parse(&format!("[iscsi]\nwan_ecn = false\n{text}")).unwrap();
    assert!(!config.iscsi.wan_ecn);
}

/// What to put in place of what in [`GOOD`], and the message that must come.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "driver = \"auto\"",
        "driver = \"dpdk\"",
        "config:2: driver = \"dpdk\": must be \"auto\", \"af_xdp\" or \"af_packet\"",
    ),
    (
        "frames_mib = 256",
        "frames_mib = 257",
        "config:3: frames_mib = 257: must be a multiple of 2 (one hugepage); use 258",
    ),
    (
        "frames_mib = 256",
        "frames_mib = -1",
        "config:3: frames_mib = -1: must be 18 to 4194304",
    ),
    (
        "log_mib = 256",
        "log_mib = 4",
        "config:4: log_mib = 4: must be 8 to 4194304",
    ),
    (
        "cpu = 1",
        "cpu = \"one\"",
        "config:6: invalid type: string \"one\", expected i64",
    ),
    (
        "spin_us = 50",
        "spin_ms = 50",
        "config:5: unknown field `spin_ms`, expected one of `driver`, `frames_mib`, `log_mib`, `directory`, `fallback_directory`, `segment`, `spin_us`, `busy_poll`, `cpu`",
    ),
    (
        "socket = \"/run/sluice/control.sock\"",
        "socket = \"control.sock\"",
        "config:8: socket = \"control.sock\": must be an absolute path",
    ),
    (
        "name = \"wan\"",
        "name = \"lan\"",
        "config:15: name = \"lan\": another port has this name; give each its own",
    ),
    (
        "device = \"wan0\"",
        "device = \"lan0\"",
        "config:16: device = \"lan0\": port lan has this device; give each its own",
    ),
    (
        "device = \"wan0\"",
        "device = \"a-device-of-many-letters\"",
        "config:16: device = \"a-device-of-many-letters\": a device name is 1 to 15 bytes without '/' or blanks; `ip link` lists them",
    ),
    (
        "address = \"198.18.0.1/24\"",
        "address = \"198.18.0.1\"",
        "config:12: address = \"198.18.0.1\": not ADDRESS/LENGTH, as in 198.18.0.1/24",
    ),
    (
        "address = \"198.19.0.1/24\"",
        "address = \"198.19.0.0/24\"",
        "config:17: address = \"198.19.0.0/24\": is the net's own or its broadcast address; use a host's",
    ),
    (
        "mtu = 1500",
        "mtu = 100",
        "config:13: mtu = 100: must be 576 to 9000",
    ),
    (
        "prefix = \"0.0.0.0/0\"",
        "prefix = \"10.1.0.0/8\"",
        "config:20: prefix = \"10.1.0.0/8\": has host bits set; use \"10.0.0.0/8\"",
    ),
    (
        "via = \"198.19.0.254\"",
        "via = \"198.20.0.1\"",
        "config:21: via = \"198.20.0.1\": is on no port's net (198.18.0.0/24, 198.19.0.0/24); use a next hop that is",
    ),
    (
        "via = \"198.19.0.254\"",
        "via = \"198.19.0.1\"",
        "config:21: via = \"198.19.0.1\": is the relay's own address; use the next router's",
    ),
    (
        "portal = \"198.18.0.1:3260\"",
        "portal = \"198.18.0.2:3260\"",
        "config:24: portal = \"198.18.0.2:3260\": is not the address of a port (198.18.0.1, 198.19.0.1); use one of these",
    ),
    (
        "portal = \"198.18.0.1:3260\"\n",
        "",
        "config:23: mode = \"portal\": needs `portal = \"ADDRESS:3260\"` under [iscsi], on the address of a port",
    ),
    (
        "sessions_max = 64",
        "sessions_max = 5000",
        "config:25: sessions_max = 5000: must be 1 to 1013, what fits in frames_mib = 256 at 208 KiB a session; raise frames_mib for more",
    ),
    (
        "threshold_kib = 1024",
        "threshold_kib = 0",
        "config:27: threshold_kib = 0: must be 4 to 262144 (log_mib)",
    ),
    (
        "period_ms = 1000",
        "period_ms = 1",
        "config:28: period_ms = 1: must be 10 to 3600000",
    ),
    (
        "period_ms = 1000",
        "stop_kib = 262145\nidle_ms = 9",
        "config:28: stop_kib = 262145: must be 0 to 262144 (log_mib)\nconfig:29: idle_ms = 9: must be 10 to 3600000, or 0 for never",
    ),
    (
        "period_ms = 1000",
        "load_limit_ms = 60001\nload_limit_percent = 119",
        "config:28: load_limit_ms = 60001: must be 1 to 60000, or 0 for none\nconfig:29: load_limit_percent = 119: must be 120 to 10000, or 0 for none",
    ),
    (
        "period_ms = 1000",
        "perod_ms = 1000",
        "config:28: unknown field `perod_ms`, expected one of `threshold_kib`, `stop_kib`, `period_ms`, `idle_ms`, `load_limit_ms`, `load_limit_percent`, `held_write_max_ms`",
    ),
    (
        "held_write_max_ms = 10000",
        "held_write_max_ms = 60000",
        "config:29: held_write_max_ms = 60000: must be 100 to 25000",
    ),
    (
        "name = \"iqn.2004-03.example.storage:VOL0\"",
        "name = \"vol0\"",
        "config:31: name = \"vol0\": an iSCSI name starts with iqn., eui. or naa.",
    ),
    (
        "shared = true",
        "lanes = 9",
        "config:34: lanes = 9: must be 1 to 8",
    ),
    (
        "address = \"198.19.0.10:3260\"",
        "address = \"198.19.0.10\"",
        "config:32: address = \"198.19.0.10\": must be a unicast IPv4 address and a port, as in 198.19.0.10:3260",
    ),
    (
        "address = \"198.19.0.10:3260\"",
        "address = \"198.19.0.1:3260\"",
        "config:32: address = \"198.19.0.1:3260\": is the relay's own address; use the storage's",
    ),
    (
        "initiators = [\"*\"]",
        "initiators = []",
        "config:33: initiators = []: admits nobody; use [\"*\"] for any initiator, or list their names",
    ),
    (
        "initiators = [\"*\"]",
        "initiators = [\"iqn.2001-99.a\"]",
        "config:33: initiators = \"iqn.2001-99.a\": after iqn. comes a year and month and a reversed domain, as in iqn.2004-03.example.storage:vol0",
    ),
    (
        "initiators = [\"*\"]\n",
        "",
        "config:30: missing field `initiators`",
    ),
    (
        "durability = \"memory\"",
        "identity = \"none\"",
        "config:35: identity = \"none\": must be \"pass\" or \"own\"",
    ),
    (
        "durability = \"memory\"",
        "durability = \"journal\"",
        "config:35: durability = \"journal\": needs a journal; add [journal] with path = \"...\", a file or block device on a local disk",
    ),
];

#[test]
fn every_mistake_has_its_line_its_value_and_what_to_do() {
    for (right, wrong, message) in MISTAKES {
        assert!(GOOD.contains(right), "{right}");
        let text = GOOD.replacen(right, wrong, 1);
        assert_eq!(faults(&text), *message, "{right} -> {wrong}");
    }
}

#[test]
fn all_faults_are_shown_at_once_in_the_order_of_lines() {
    let text = GOOD
        .replace("mtu = 1500", "mtu = 1")
        .replace("log_mib = 256", "log_mib = 1");
    let got = faults(&text);
    assert_eq!(got.lines().count(), 2, "{got}");
    assert!(got.starts_with("config:4: log_mib = 1"), "{got}");
}

#[test]
fn overlapping_nets_and_doubled_names_are_refused() {
    let got = faults(&GOOD.replace("198.19.0.1/24", "198.18.7.1/16"));
    assert!(
        got.contains("config:17: address = \"198.18.7.1/16\": overlaps 198.18.0.1/24 of port lan"),
        "{got}"
    );
    let doubled = format!(
        "{GOOD}[[target]]\nname = \"iqn.2004-03.example.storage:vol0\"\naddress = \"198.19.0.11:3260\"\ninitiators = [\"*\"]\n"
    );
    let got = faults(&doubled);
    assert!(
        got.ends_with("another target has this name; keep one"),
        "{got}"
    );
    let lost = GOOD
        .replace("prefix = \"0.0.0.0/0\"", "prefix = \"10.0.0.0/8\"")
        .replace("198.19.0.10:3260", "192.0.2.1:3260");
    assert!(faults(&lost).contains("no port's net and no route leads there; add a [[route]]"));
}

#[test]
fn text_that_is_not_toml_names_its_line() {
    let got = faults("[dataplane]\ndriver = auto\n");
    assert!(got.starts_with("config:2: "), "{got}");
}

#[test]
fn a_missing_file_says_how_to_name_another() {
    let error = Config::load("/nonexistent/sluice.toml".as_ref()).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }));
    assert!(
        error.to_string().contains("--config FILE or SLUICE_CONFIG"),
        "{error}"
    );
}

#[test]
fn state_is_kept_and_merged() {
    let directory = std::env::temp_dir().join(format!("sluice-state-{}", std::process::id()));
    let path = directory.join("state.toml");
    let config = Config::parse(GOOD).unwrap();
    assert_eq!(State::load(&path).unwrap(), State::default());

    let target = "iqn.2004-03.example.storage:vol0";
    let whole: VolumeName = target.parse().unwrap();
    let one: VolumeName = format!("{target}/1").parse().unwrap();
    let set = |values: &[(FlushParameter, u64)]| values.iter().copied().collect::<FlushSet>();
    let mut state = State::default();
    state.set(None, set(&[(FlushParameter::ThresholdKib, 64)]));
    state.set(Some(&one), set(&[(FlushParameter::PeriodMs, 20)]));
    // Every key there is.
    let every: FlushSet = FlushParameter::all().zip(500..).collect();
    state.set(Some(&whole), every);
    let more = [
        (FlushParameter::PeriodMs, 30),
        (FlushParameter::LoadLimitMs, 0),
    ];
    state.set(Some(&one), set(&more));
    state.save(&path).unwrap();
    let read = State::load(&path).unwrap();
    assert_eq!(read, state);
    read.check(&config, &path).unwrap();
    let kept: Vec<_> = read
        .volumes
        .iter()
        .map(|volume| (volume.name.to_string(), volume.flush.to_string()))
        .collect();
    assert_eq!(read.flush.to_string(), "threshold_kib = 64");
    assert_eq!(kept[0], (target.to_owned(), every.to_string()));
    let merged = "period_ms = 30, load_limit_ms = 0";
    assert_eq!(kept[1], (format!("{target}/1"), merged.to_owned()));
    assert_eq!(kept.len(), 2);

    state.set(None, set(&[(FlushParameter::ThresholdKib, 1 << 30)]));
    let error = state.check(&config, &path).unwrap_err().to_string();
    assert!(
        error.contains("threshold of 1073741824 KiB: must be 4 to 262144 KiB"),
        "{error}"
    );

    // As the first releases wrote it, and what none has.
    let old = format!(
        "version = 1\n[flush]\nthreshold_kib = 64\n[[volume]]\nname = \"{target}/1\"\nperiod_ms = 20\n"
    );
    std::fs::write(&path, &old).unwrap();
    let read = State::load(&path).unwrap();
    assert_eq!(read.flush.to_string(), "threshold_kib = 64");
    assert_eq!(read.volumes[0].flush.to_string(), "period_ms = 20");
    for (known, other) in [("threshold_kib", "treshold_kib"), ("period_ms", "perod_ms")] {
        std::fs::write(&path, old.replace(known, other)).unwrap();
        let error = State::load(&path).unwrap_err().to_string();
        assert!(
            error.contains(&format!("unknown field `{other}`")),
            "{error}"
        );
    }

    std::fs::write(&path, "version = 9\n").unwrap();
    let error = State::load(&path).unwrap_err().to_string();
    assert!(error.contains("version 9 is not 1"), "{error}");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_kernels_device_is_a_new_one() {
    let with = |device: &str| format!("{GOOD}[kernel]\ndevice = \"{device}\"\n");
    let config = Config::parse(&with("sluice0")).unwrap();
    assert_eq!(config.kernel_device.as_deref(), Some("sluice0"));
    assert_eq!(Config::parse(GOOD).unwrap().kernel_device, None);
    let taken = faults(&with("lan0"));
    assert!(taken.contains("port lan is on this device"), "{taken}");
    for device in ["", "thirteen-long", "a b"] {
        let bad = faults(&with(device));
        assert!(bad.contains("1 to 12 letters"), "{bad}");
    }
}

#[test]
fn sessions_have_rows_in_the_logs_directory() {
    let text = |sessions: u32, log_mib: u32| {
        GOOD.replace("frames_mib = 256", "frames_mib = 16384")
            .replace("log_mib = 256", &format!("log_mib = {log_mib}"))
            .replace("sessions_max = 64", &format!("sessions_max = {sessions}"))
    };
    let rows = sluice_config::sessions_in_directory(64 << 20);
    let refused = faults(&text(5000, 64));
    let wanted = format!("must be 1 to {rows}, as many as log_mib = 64 has rows for");
    assert!(refused.contains(&wanted), "{refused}");
    assert_eq!(
        Config::parse(&text(5000, 512)).unwrap().iscsi.sessions_max,
        5000
    );
}

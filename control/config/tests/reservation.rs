//! Reservations as operators write them down: good ones, every kind of mistake with its
//! message, and live changes over the configuration's.

use sluice_config::{
    Config, MemoryBudget, PathChange, Reservation, ReservationEntry, ReservationTarget, State,
};

const BASE: &str = r#"[[port]]
name = "lan"
device = "lan0"
address = "198.18.0.1/24"
[[port]]
name = "wan"
device = "wan0"
address = "198.19.0.1/24"
[control]
cache_warning_percent = 60
[[target]]
name = "iqn.2004-03.example.storage:vol0"
address = "198.19.0.10:3260"
initiators = ["*"]
[[target]]
name = "iqn.2004-03.example.storage:vol1"
address = "198.19.0.11:3260"
initiators = ["*"]
buffer_id = 7
[[reservation]]
kind = "pair"
local = "198.19.0.1"
remote = "198.19.0.10"
size = "automatic"
sessions = 2
connections = 4
[[reservation]]
kind = "pair-port"
local = "198.19.0.1"
remote = "198.19.0.10"
port = 3260
size_kib = 2049
[[reservation]]
kind = "connection"
buffer_id = 7
size = "automatic"
size_kib = 512
"#;

const PAIR: ReservationTarget = ReservationTarget::Pair {
    local: std::net::Ipv4Addr::new(198, 19, 0, 1),
    remote: std::net::Ipv4Addr::new(198, 19, 0, 10),
};
const BY_ID: ReservationTarget = ReservationTarget::Connection { buffer_id: 7 };

fn config() -> Config {
    Config::parse(BASE).expect("a good file")
}

#[test]
fn b04_b15_the_three_kinds_automatic_and_manual() {
    let config = config();
    assert_eq!(config.control.cache_warning_percent, 60);
    let buffer_ids: Vec<_> = config.targets.iter().map(|one| one.buffer_id).collect();
    assert_eq!(buffer_ids, [None, Some(7)]);
    let [pair, port, by_id] = config.reservations[..] else {
        panic!("{:?}", config.reservations);
    };
    assert_eq!(
        pair,
        Reservation {
            target: PAIR,
            automatic: true,
            size_kib: None,
            sessions: Some(2),
            connections: Some(4),
        }
    );
    let expected = ReservationTarget::PairPort {
        local: [198, 19, 0, 1].into(),
        remote: "198.19.0.10:3260".parse().unwrap(),
    };
    assert_eq!((port.target, port.automatic), (expected, false));
    assert_eq!((by_id.target, by_id.automatic), (BY_ID, true));
    // In whole memory buffers, rounded up; an automatic one begins with what is known.
    assert_eq!(port.bytes(0), 2052 * 1024);
    assert_eq!(pair.bytes(1 << 20), 1 << 20);
    assert_eq!(by_id.bytes(1 << 20), 512 * 1024);
}

/// What to put in place of what in [`BASE`], and what the message must end with.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "kind = \"pair\"",
        "kind = \"par\"",
        "config:21: kind = \"par\": must be \"pair\", \"pair-port\" or \"connection\"",
    ),
    (
        "size_kib = 2049",
        "size_kib = 0",
        "config:32: size_kib = 0: must be 16 to 4294967296; one connection keeps 16",
    ),
    (
        "size_kib = 2049",
        "size_kib = -4",
        "config:32: size_kib = -4: must be 16 to 4294967296; one connection keeps 16",
    ),
    (
        "size_kib = 2049",
        "size_kib = 9223372036854775807",
        "must be 16 to 4294967296; one connection keeps 16",
    ),
    (
        "size_kib = 2049",
        "size_kib = 262145",
        "KiB are left for it of frames_mib = 256; reserve less, or raise frames_mib",
    ),
    (
        "size_kib = 2049",
        "size = \"manual\"",
        "config:27: size_kib: is missing: a manual size is typed in",
    ),
    (
        "size_kib = 2049",
        "size = \"2M\"",
        "config:32: size = \"2M\": must be \"automatic\" or \"manual\"; a size goes into size_kib",
    ),
    (
        "local = \"198.19.0.1\"\nremote = \"198.19.0.10\"\nport",
        "local = \"198.19.0.2\"\nremote = \"198.19.0.10\"\nport",
        "config:29: local = \"198.19.0.2\": is no port's address; use one of 198.18.0.1, 198.19.0.1",
    ),
    (
        "remote = \"198.19.0.10\"\nport",
        "remote = \"198.19.0.12\"\nport",
        "config:30: remote = \"198.19.0.12\": is no target's address; use one of 198.19.0.10, 198.19.0.11",
    ),
    (
        "port = 3260\n",
        "port = 3261\n",
        "config:31: port = 3261: no target of 198.19.0.10 has this port; use one of 3260",
    ),
    (
        "port = 3260\n",
        "port = 65536\n",
        "config:31: port = 65536: must be 1 to 65535",
    ),
    (
        "port = 3260\n",
        "",
        "config:27: port: is missing: a reservation of kind \"pair-port\" needs it",
    ),
    (
        "kind = \"pair-port\"",
        "kind = \"pair\"",
        "config:31: port = 3260: a reservation of kind \"pair\" has none; leave it out",
    ),
    (
        "kind = \"connection\"\nbuffer_id = 7",
        "kind = \"pair\"\nlocal = \"198.19.0.1\"\nremote = \"198.19.0.10\"",
        "another [[reservation]] is for pair 198.19.0.1 to 198.19.0.10 too; keep one",
    ),
    (
        "kind = \"connection\"\nbuffer_id = 7",
        "kind = \"connection\"\nbuffer_id = 0",
        "config:35: buffer_id = 0: must be 1 to 10239",
    ),
    (
        "kind = \"connection\"\nbuffer_id = 7",
        "kind = \"connection\"\nbuffer_id = 10240",
        "config:35: buffer_id = 10240: must be 1 to 10239",
    ),
    (
        "kind = \"connection\"\nbuffer_id = 7",
        "kind = \"connection\"\nbuffer_id = 8",
        "config:19: buffer_id = 7: is not reserved; add a [[reservation]] with kind = \"connection\" and buffer_id = 7",
    ),
    (
        "size = \"automatic\"\nsize_kib = 512",
        "sessions = 2",
        "config:36: sessions = 2: is for a pair; the connections that present a buffer id share one size",
    ),
    (
        "sessions = 2",
        "sessions = 0",
        "config:25: sessions = 0: must be 1 to 8192",
    ),
    (
        "connections = 4",
        "connections = 9",
        "config:26: connections = 9: must be 1 to 8",
    ),
    (
        "connections = 4",
        "connection = 4",
        "unknown field `connection`",
    ),
    (
        "cache_warning_percent = 60",
        "cache_warning_percent = 101",
        "cache_warning_percent = 101: must be 1 to 100",
    ),
];

#[test]
fn b15_what_cannot_be_reserved_is_said() {
    for (good, bad, message) in MISTAKES {
        assert!(BASE.contains(good), "{good}");
        let text = BASE.replacen(good, bad, 1);
        let error = Config::parse(&text).expect_err(bad).to_string();
        assert!(error.contains(message), "{bad}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn b10_live_changes_go_before_the_configuration() {
    let config = config();
    let directory = std::env::temp_dir().join(format!("sluice-reserve-{}", std::process::id()));
    let path = directory.join("state.toml");
    let mut state = State::default();
    let configured = state.effective_reservations(&config);
    assert_eq!(configured.len(), 3);
    assert!(configured.is_sorted_by_key(|reservation| reservation.target));

    let entry = |size_kib| ReservationEntry {
        size_kib: Some(size_kib),
        ..PAIR.entry()
    };
    let manual = entry(4096).read().unwrap();
    state.reserve(entry(100).read().unwrap());
    state.reserve(manual);
    state.cancel_reservation(BY_ID, &config);
    let own = ReservationTarget::Connection { buffer_id: 9 };
    state.reserve(Reservation {
        target: own,
        automatic: true,
        size_kib: Some(64),
        sessions: None,
        connections: None,
    });
    let path_change = PathChange {
        local: [198, 19, 0, 1].into(),
        remote: "198.19.0.10:3260".parse().unwrap(),
        bytes_per_s: Some(12_500_000),
        min_rtt_us: None,
    };
    state.set_path(path_change);
    state.present(&config.targets[0].name, Some(9));
    state.present(&config.targets[1].name, None);
    state.save(&path).unwrap();
    let read = State::load(&path).unwrap();
    assert_eq!(read, state);

    let effective = read.effective_reservations(&config);
    assert_eq!(effective.len(), 3);
    assert!(effective.contains(&manual));
    assert!(effective.iter().any(|one| one.target == own));
    assert!(!effective.iter().any(|one| one.target == BY_ID));
    let presented = |state: &State| -> Vec<Option<u16>> {
        let targets = config.targets.iter();
        targets.map(|target| state.buffer_id(target)).collect()
    };
    assert_eq!(presented(&read), [Some(9), None]);
    assert_eq!(presented(&State::default()), [None, Some(7)]);

    // One of the state alone is forgotten, and so are values of a path that are taken back.
    state.cancel_reservation(own, &config);
    assert_eq!(state.reservations.len(), 2);
    state.set_path(PathChange {
        bytes_per_s: None,
        ..path_change
    });
    assert_eq!(state.paths, []);

    // What has gone from the configuration since is left out, and told.
    let text = BASE.replace("198.19.0.10", "198.19.0.12");
    let moved = Config::parse(&text).unwrap();
    let effective = state.effective_reservations(&moved);
    assert!(!effective.iter().any(|one| one.target == PAIR));
    let strays = state.stray_reservations(&moved);
    assert_eq!(strays.len(), 1);
    assert_eq!(
        strays[0].1.to_string(),
        "remote = 198.19.0.10: is no target's address; use one of 198.19.0.12, 198.19.0.11"
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_state_file_with_a_bad_reservation_says_which_value() {
    let directory = std::env::temp_dir().join(format!("sluice-strays-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("state.toml");
    for (text, message) in [
        (
            "[[reservation]]\nkind = \"connection\"\nbuffer_id = 3\nsize_kib = 3\n",
            "[[reservation]] size_kib = 3: must be 16 to 4294967296",
        ),
        (
            "[[reservation]]\nkind = \"pair\"\nlocal = \"a\"\nremote = \"198.19.0.10\"\ncancelled = true\n",
            "[[reservation]] local = \"a\": must be an IPv4 address, as in 198.19.0.1",
        ),
        (
            "[[target]]\nname = \"iqn.2004-03.example.storage:vol0\"\nbuffer_id = 0\n",
            "buffer_id = 0: must be 1 to 10239",
        ),
        (
            "[[path]]\nlocal = \"198.19.0.1\"\nremote = \"198.19.0.10\"\nport = 3260\nspeed = 1\n",
            "unknown field `speed`",
        ),
    ] {
        std::fs::write(&path, format!("version = 1\n{text}")).unwrap();
        let error = State::load(&path).expect_err(text).to_string();
        assert!(error.contains(message), "{error}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn b06_reservations_are_part_of_the_memory() {
    let config = config();
    let budget = MemoryBudget::of(&config);
    // One begins with what a connection has otherwise, one rounded up, one as it is.
    assert_eq!(budget.reservations_bytes, (1024 + 2052 + 512) * 1024);
    assert!(
        !budget.borrows(),
        "sessions_max is half of what fits with every buffer full"
    );
    let with = |frames_mib, sessions: u32, size_kib: u32| {
        let text = BASE.replace("size_kib = 2049", &format!("size_kib = {size_kib}"));
        let head =
            format!("[dataplane]\nframes_mib = {frames_mib}\n[iscsi]\nsessions_max = {sessions}\n");
        Config::parse(&format!("{head}{text}"))
    };
    // More sessions than could fill their buffers at a time: they borrow.
    let many = with(256, 500, 16).expect("208 KiB each");
    assert!(MemoryBudget::of(&many).borrows());
    // Large reservations leave less for sessions, and for those that say nothing fewer.
    let error = with(256, 500, 160 << 10).expect_err("too many").to_string();
    assert!(
        error.contains("beside 162 MiB of reservations at 208 KiB a session"),
        "{error}"
    );
    let large = BASE.replace("size_kib = 2049", &format!("size_kib = {}", 160 << 10));
    let fewer = Config::parse(&large).expect("it fits");
    assert!(fewer.iscsi.sessions_max < config.iscsi.sessions_max / 2);
    assert!(!MemoryBudget::of(&fewer).borrows());
}

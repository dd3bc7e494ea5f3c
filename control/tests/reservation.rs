//! Reservations of memory buffers as an operator makes, changes, sees and ends them, and as
//! they come through the death of either process (Spec B).

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod model;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sluice_config::State;
use sluice_hugepages::tables::*;

use self::model::{DataPlane, Memory, Site, TARGET, until};

const PAIR: [&str; 3] = ["pair", "198.19.0.1", "198.19.0.10"];
const PORT: [&str; 3] = ["port", "198.19.0.1", "198.19.0.10:3260"];

/// A site whose daemon has been attached for long enough to have looked at everything.
fn attached() -> (Site, DataPlane) {
    let mut site = Site::new();
    let plane = DataPlane::start(&site);
    site.start_daemon();
    until("the data plane is there", || {
        site.ctl(&["reserve", "show"]).code == 0
    });
    (site, plane)
}

fn reserve(site: &Site, args: &[&[&str]]) -> model::Said {
    let mut all = vec!["reserve"];
    all.extend(args.concat());
    site.ctl(&all)
}

fn pair() -> ReservationTarget {
    ReservationTarget::Pair {
        local: [198, 19, 0, 1].into(),
        remote: [198, 19, 0, 10].into(),
    }
}

fn connection(buffer_id: u16) -> ReservationTarget {
    ReservationTarget::Connection { buffer_id }
}

fn state(site: &Site) -> State {
    State::load(&site.file("lib/state.toml")).unwrap()
}

/// Size in KiB of what the data plane has, by target.
fn kib(plane: &DataPlane, target: ReservationTarget) -> Option<u64> {
    let model = plane.model();
    let own = model.memory.reservations.get(&target);
    own.map(|(_, size)| size.bytes / 1024)
}

#[test]
fn b06_b07_b10_reservations_are_made_changed_shown_and_cancelled() {
    let (site, plane) = attached();
    let said = reserve(
        &site,
        &[&["add"], &PAIR, &["--size", "2MiB", "--sessions", "2"]],
    );
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert!(said.out.contains("2.0 MiB reserved"), "{}", said.out);
    assert_eq!(kib(&plane, pair()), Some(2048));
    let said = reserve(&site, &[&["add"], &PORT, &["-j"]]);
    let json = said.json();
    // 12.5 MB/s x 40.1 ms x 2 sessions, in whole buffers.
    assert_eq!(json["reserved_bytes"], 1_002_500_u64.next_multiple_of(4096));
    assert_eq!(json["recommended_bytes"], 1_002_500);
    assert_eq!(json["warning"], Value::Null);

    // An update leaves what it does not say.
    let said = reserve(&site, &[&["update"], &PAIR, &["--connections", "3"]]);
    assert_eq!(said.code, 0, "{}", said.err);
    // 3 x 2 of half a million: more than it has.
    assert!(said.out.contains("2.9 MiB is recommended"), "{}", said.out);
    until("the rows show it", || {
        let rows = reserve(&site, &[&["show", "-j"]]).json();
        let row = &rows[0];
        row["kind"] == "pair"
            && row["reserved_bytes"] == 2 << 20
            && row["sessions"] == 2
            && row["connections"] == 3
            && row["size"] == "manual"
            && row["recommended_bytes"] == 3_007_500
            && rows[1]["size"] == "automatic"
    });
    let shown = reserve(&site, &[&["show"]]).out;
    assert!(shown.contains("pair 198.19.0.1 198.19.0.10 "), "{shown}");
    assert!(
        shown.contains("port 198.19.0.1 198.19.0.10:3260"),
        "{shown}"
    );
    let one = reserve(&site, &[&["show"], &PORT, &["-j"]]).json();
    assert_eq!(one.as_array().unwrap().len(), 1);
    assert_eq!(one[0]["port"], 3260);
    assert_eq!(reserve(&site, &[&["show", "connection", "7"]]).code, 1);

    // An update of what is not there makes it; what has no reservation cannot end.
    let said = reserve(&site, &[&["update", "connection", "5", "--size", "64KiB"]]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(kib(&plane, connection(5)), Some(64));
    let said = reserve(&site, &[&["cancel"], &PAIR, &["-j"]]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(kib(&plane, pair()), None);
    let said = reserve(&site, &[&["cancel"], &PAIR]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("no such reservation"), "{}", said.err);
    assert_eq!(state(&site).reservations.len(), 2);
}

#[test]
fn b04_a_connection_gets_the_lowest_free_id_and_targets_present_it() {
    let (site, plane) = attached();
    plane.model().memory.lags = true;
    let add = |id: &[&str]| {
        let said = reserve(
            &site,
            &[&["add", "connection"], id, &["--size", "64KiB", "-j"]],
        );
        assert_eq!(said.code, 0, "{}", said.err);
        said.json()["buffer_id"].as_u64().unwrap()
    };
    assert_eq!((add(&[]), add(&[]), add(&["4"]), add(&[])), (1, 2, 4, 3));
    assert_eq!(reserve(&site, &[&["cancel", "connection", "2"]]).code, 0);
    until("its row has gone", || {
        reserve(&site, &[&["show", "connection", "2"]]).code == 1
    });
    assert_eq!((add(&[]), add(&[])), (2, 5));

    let attach = |id: &str| reserve(&site, &[&["attach", id, TARGET]]);
    let said = attach("4");
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(plane.model().memory.presented[TARGET], Some(4));
    // Then what is recommended for it is known: once, not for each session.
    let shown = reserve(&site, &[&["show", "connection", "4", "-j"]]).json();
    assert_eq!(shown[0]["recommended_bytes"], 501_250);
    for (id, message) in [
        ("9", "buffer id 9: no connection reservation has it"),
        ("-1", "buffer id -1: no connection reservation has it"),
    ] {
        let said = attach(id);
        assert_eq!(said.code, 1);
        assert!(said.err.contains(message), "{}", said.err);
    }
    let said = reserve(&site, &[&["attach", "4", "iqn.2004-03.example:none"]]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("no such target"), "{}", said.err);
    assert_eq!(reserve(&site, &[&["detach", TARGET]]).code, 0);
    assert_eq!(plane.model().memory.presented[TARGET], None);
    assert_eq!(state(&site).targets[0].buffer_id, None);
}

#[test]
fn b15_b19_what_cannot_be_is_refused_with_the_free_size() {
    let (site, plane) = attached();
    for (args, message) in [
        (
            &["add", "pair", "198.19.0.1", "198.19.0.10", "--size", "0"][..],
            "a size of 0 KiB cannot be reserved: 7168KiB are free; give 16KiB or more, or `auto`",
        ),
        (
            &[
                "add",
                "pair",
                "198.19.0.1",
                "198.19.0.10",
                "--size",
                "-4MiB",
            ],
            "a size of -4096 KiB cannot be reserved: 7168KiB are free",
        ),
        (
            &["add", "pair", "198.19.0.1", "198.19.0.10", "--size=8MiB"],
            "out of memory: 8192KiB are asked for, and 7168KiB are free; nothing was changed. Give 7168KiB or less",
        ),
        (
            &[
                "add",
                "pair",
                "198.19.0.1",
                "198.19.0.10",
                "--size",
                "99GiB",
            ],
            "7168KiB are free",
        ),
        (
            &["add", "pair", "198.19.0.9", "198.19.0.10", "--size", "1MiB"],
            "local = 198.19.0.9: is no port's address; use one of 198.19.0.1 (7168KiB are free)",
        ),
        (
            &["add", "pair", "198.19.0.1", "198.19.0.99"],
            "remote = 198.19.0.99: is no target's address",
        ),
        (
            &["add", "port", "198.19.0.1", "198.19.0.10:80"],
            "port = 80: no target of 198.19.0.10 has this port",
        ),
        (
            &[
                "add",
                "pair",
                "198.19.0.1",
                "198.19.0.10",
                "--sessions",
                "0",
            ],
            "sessions = 0: must be 1 to",
        ),
        (
            &["add", "connection", "--connections", "2"],
            "connections = 2: is for a pair",
        ),
        (
            &["add", "connection", "10240"],
            "buffer_id = 10240: must be 1 to 10239",
        ),
        (
            &["update", "connection", "--size", "1MiB"],
            "buffer_id: is missing",
        ),
        (
            &["cancel", "connection", "7"],
            "connection 7: no such reservation",
        ),
    ] {
        let said = reserve(&site, &[args]);
        assert_eq!(said.code, 1, "{args:?}: {}", said.out);
        assert!(said.err.contains(message), "{args:?}: {}", said.err);
        let json = reserve(&site, &[args, &["-j"]]).json();
        assert_eq!(json["error"]["exit"], 1, "{args:?}");
    }
    for args in [
        &["add", "pair", "198.19.0.1"][..],
        &["add", "pair", "198.19.0.1", "here"],
        &["add", "pair", "198.19.0.1", "198.19.0.10", "--size", "big"],
        &["add", "port", "198.19.0.1", "198.19.0.10"],
        &["add", "rainbow"],
    ] {
        assert_eq!(reserve(&site, &[args]).code, 2, "{args:?}");
    }
    assert_eq!(site.ctl_told(&["reserve"], "").code, 2, "no terminal");
    assert!(plane.model().memory.reservations.is_empty());
    assert!(!site.file("lib/state.toml").exists());
}

#[test]
fn b13_an_automatic_size_that_does_not_fit_takes_what_is_free_and_says_so() {
    let (site, plane) = attached();
    plane.model().memory.free_bytes = 500_000;
    let said = reserve(&site, &[&["add"], &PAIR, &["--size", "auto"]]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out.contains("warning: 980.0 KiB would be right"),
        "{}",
        said.out
    );
    assert_eq!(kib(&plane, pair()), Some(488));
    until("its row is there", || {
        reserve(&site, &[&["show", "-j"]]).json()[0]["warning"]
            .as_str()
            .is_some_and(|warning| warning.contains("does not fit"))
    });
    // It grows when more is free, by itself.
    plane.model().memory.free_bytes = 7 << 20;
    until("it has grown", || kib(&plane, pair()) == Some(980));
}

#[test]
fn b13_a_path_that_nobody_has_measured_yet_begins_with_what_there_was() {
    let (site, plane) = attached();
    plane.model().memory.path.limit = PathLimit::Idle;
    plane.model().memory.path.bandwidth_bytes_per_s = 11_000;
    until("the row says so", || {
        site.ctl(&["path", "show", "-j"]).json()[0]["limit"] == "idle"
    });
    let said = reserve(&site, &[&["add"], &PAIR]);
    assert_eq!(said.code, 0, "{}", said.err);
    // As `wan_send_kib` has it.
    assert_eq!(kib(&plane, pair()), Some(1024));
    let shown = reserve(&site, &[&["show"]]).out;
    assert!(shown.contains("at least 884 B"), "{shown}");
}

#[test]
fn b14_an_automatic_size_follows_its_path_and_is_kept() {
    let (mut site, plane) = attached();
    assert_eq!(reserve(&site, &[&["add"], &PAIR]).code, 0);
    assert_eq!(kib(&plane, pair()), Some(980));
    plane.model().memory.path.min_rtt_us = 120_300;
    until("it has followed", || kib(&plane, pair()) == Some(2940));
    let kept = |site: &Site| {
        let sluice_config::ReservationChange::Made(kept) = state(site).reservations[0] else {
            panic!("it is made");
        };
        assert!(kept.automatic);
        kept.size_kib
    };
    until("it is kept", || kept(&site) == Some(2940));
    // A probe at the other end, and then the daemon goes: the last size is in the file.
    let report = ["path", "report", "198.19.0.1", "198.19.0.10:3260"];
    let said = site.ctl(&[&report[..], &["--bandwidth", "20MB/s", "--rtt", "120ms"]].concat());
    assert_eq!(said.code, 0, "{}", said.err);
    until("it has followed", || kib(&plane, pair()) == Some(4688));
    let mut daemon = site.daemon.take().unwrap();
    let pid = libc::pid_t::try_from(daemon.id()).unwrap();
    // SAFETY: a signal to the child just started, not yet waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    daemon.wait().unwrap();
    assert_eq!(kept(&site), Some(4688));
    assert!(state(&site).paths.is_empty(), "a report is not kept");
}

#[test]
fn b14_a_path_is_typed_in_reported_measured_and_shown() {
    let (mut site, plane) = attached();
    let path = |verb: &str, more: &[&str]| {
        let args = ["path", verb, "198.19.0.1", "198.19.0.10:3260"];
        site.ctl(&[&args[..], more].concat())
    };
    let said = path("set", &["--bandwidth", "100Mbit/s", "--rtt", "20ms"]);
    assert_eq!(said.code, 0, "{}", said.err);
    until("it is shown", || {
        let row = &site.ctl(&["path", "show", "-j"]).json()[0];
        row["typed_bytes_per_s"] == 12_500_000 && row["typed_rtt_us"] == 20_000
    });
    let shown = site.ctl(&["path", "show"]).out;
    assert!(shown.contains("11.9 MiB/s, 20.0 ms"), "{shown}");
    let json = &path("measure", &["-j"]).json()[0];
    assert_eq!(
        (&json["measured"], &json["limit"]),
        (&1.into(), &"path".into())
    );
    assert_eq!(
        (&json["changes"], &json["rtt_us"]),
        (&3.into(), &41_000.into())
    );
    assert_eq!(path("set", &[]).code, 2);
    assert_eq!(path("set", &["--rtt", "20"]).code, 2);
    let said = path("report", &[]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("nothing to report"), "{}", said.err);
    let said = site.ctl(&["path", "measure", "198.19.0.1", "198.19.0.10:80"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("there is none"), "{}", said.err);

    // Typed values come to the next data plane, and end when taken back.
    drop(plane);
    let plane = DataPlane::start(&site);
    until("the next one has it", || {
        plane.model().memory.path.typed_rtt_us == Some(20_000)
    });
    let clear = ["path", "set", "198.19.0.1", "198.19.0.10:3260", "--clear"];
    until("it is taken", || site.ctl(&clear).code == 0);
    assert_eq!(plane.model().memory.path.typed_rtt_us, None);
    assert!(state(&site).paths.is_empty());
    site.kill_daemon();
    assert_eq!(site.ctl(&clear).code, 4);
}

#[test]
fn b05_buffers_and_allocations_are_shown() {
    let (site, _plane) = attached();
    let json = site.ctl(&["buffers", "-j"]).json();
    assert_eq!(json["free_bytes"], 7 << 20);
    assert_eq!(json["pages"]["free"], 100);
    let said = site.ctl(&["buffers"]);
    assert!(
        said.out.contains("free to be reserved: 7.0 MiB"),
        "{}",
        said.out
    );
    let json = site.ctl(&["buffers", "--allocations", "-j"]).json();
    assert_eq!(json[0]["target"], TARGET);
    assert_eq!(json[0]["buffer_id"], Value::Null);
    assert_eq!(json[0]["unacknowledged_bytes"], 30_000);
    let said = site.ctl(&["buffers", "--allocations"]);
    assert!(said.out.contains("free list"), "{}", said.out);
    let said = ask(&site, "{\"do\":\"query\"}\n");
    assert!(
        said.contains("\"free_bytes\":7340032,\"cache_free_bytes\":65011712"),
        "{said}"
    );
}

fn ask(site: &Site, line: &str) -> String {
    let stream = UnixStream::connect(site.file("control.sock")).unwrap();
    (&stream).write_all(line.as_bytes()).unwrap();
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).unwrap();
    reply
}

#[test]
fn b16_a_short_cache_raises_a_typed_in_size_and_that_is_kept() {
    let (site, plane) = attached();
    let said = reserve(&site, &[&["add"], &PAIR, &["--size", "256KiB"]]);
    assert_eq!(said.code, 0, "{}", said.err);
    plane.model().memory.log_segments_free = 4;
    until("it is raised", || kib(&plane, pair()) == Some(980));
    let told = plane.model().told.clone();
    let measured = told
        .iter()
        .position(|command| matches!(command, Command::MeasurePath { .. }));
    let raised = told.len() - 1;
    assert!(measured.is_some_and(|at| at < raised), "{told:?}");
    let Command::Reserve { size, .. } = &told[raised] else {
        panic!("{told:?}");
    };
    assert!(!size.automatic);
    until("it is kept", || {
        let text = fs::read_to_string(site.file("lib/state.toml")).unwrap();
        text.contains("size_kib = 980")
    });
}

#[test]
fn b19_the_dialogue_asks_offers_refuses_and_does_it() {
    let (site, plane) = attached();
    let answers =
        "9\n1\n7\n198.19.0.1 198.19.0.99\n1\nmany\n2\n\n0\n-1\n9MiB\nbig\n2MiB\nperhaps\ny\n";
    let said = site.ctl_told(&["reserve", "edit"], answers);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    for words in [
        "1, 2 or 3",
        "  1  pair 198.19.0.1 198.19.0.10\n",
        "\"7\" is neither a number above nor LOCAL REMOTE",
        "198.19.0.1 198.19.0.99: there is no such path",
        "\"many\" is not a whole number",
        "free: 7168KiB   recommended: 980KiB",
        "0 cannot be reserved: 16KiB to 7168KiB can",
        "-1 cannot be reserved",
        "9MiB cannot be reserved: 16KiB to 7168KiB can",
        "\"big\" is not a size",
        "as one line: sluicectl reserve add pair 198.19.0.1 198.19.0.10 --size 2048KiB --sessions 2\n",
        "2.0 MiB reserved",
    ] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    assert_eq!(kib(&plane, pair()), Some(2048));

    // In JSON the questions are on standard error. What it has counts as free to it.
    let said = site.ctl_told(&["reserve", "edit", "-j"], "2\n1\n\n\n\ny\n");
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.err.contains("port 198.19.0.1 198.19.0.10:3260"),
        "{}",
        said.err
    );
    assert_eq!(said.json()["recommended_bytes"], 1_002_500);
    let said = site.ctl_told(&["reserve", "edit"], "3\n\n1MiB\ny\n");
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out.contains("connection 1: 1.0 MiB reserved"),
        "{}",
        said.out
    );
    until("its row is there", || {
        reserve(&site, &[&["show", "connection", "1"]]).code == 0
    });
    let said = site.ctl_told(&["reserve", "edit"], "3\n1\n\nn\n");
    assert_eq!(said.code, 1);
    assert!(said.out.contains("it has 1.0 MiB now"), "{}", said.out);
    assert!(said.err.contains("cancelled; nothing was changed"));
    let said = site.ctl_told(&["reserve", "edit"], "1\n");
    assert_eq!(said.code, 1, "its input has ended");
    assert_eq!(kib(&plane, connection(1)), Some(1024));
}

#[test]
fn a_new_data_plane_gets_every_reservation_again() {
    let (site, plane) = attached();
    assert_eq!(
        reserve(&site, &[&["add"], &PAIR, &["--size", "1MiB"]]).code,
        0
    );
    let add = ["add", "connection", "--size", "512KiB"];
    assert_eq!(reserve(&site, &[&add]).code, 0);
    assert_eq!(reserve(&site, &[&["attach", "1", TARGET]]).code, 0);
    let mut memory = Memory::default();
    drop(plane);
    // Presented by a command whose daemon did not live to note it.
    memory.presented.insert(TARGET.to_owned(), Some(77));
    // One that has been given up since, one of another size, one that is not there.
    let stray = ReservationSize {
        bytes: 4096 * 4,
        automatic: false,
        sessions: 0,
        connections: 0,
    };
    memory.reservations.insert(connection(77), (77, stray));
    memory.reservations.insert(pair(), (10_239, stray));
    let plane = DataPlane::start_with(&site, std::process::id(), memory);
    until("it has them", || {
        kib(&plane, pair()) == Some(1024) && kib(&plane, connection(1)) == Some(512)
    });
    assert_eq!(kib(&plane, connection(77)), None);
    until("it is presented", || {
        plane.model().memory.presented[TARGET] == Some(1)
    });
    // A look is four times a second; what is as it should be is told nothing any more.
    until("it is left alone", || {
        plane.model().told.clear();
        thread::sleep(Duration::from_millis(600));
        plane.model().told.is_empty()
    });
}

#[test]
fn a_daemon_killed_before_the_answer_leaves_what_was_answered() {
    let (mut site, plane) = attached();
    assert_eq!(
        reserve(&site, &[&["add"], &PAIR, &["--size", "1MiB"]]).code,
        0
    );
    let before = state(&site);
    for request in [
        &["add", "connection", "--size", "512KiB"][..],
        &[
            "update",
            "pair",
            "198.19.0.1",
            "198.19.0.10",
            "--size",
            "2MiB",
        ],
        &["cancel", "pair", "198.19.0.1", "198.19.0.10"],
    ] {
        plane.model().told.clear();
        plane.model().memory.mute = true;
        thread::scope(|scope| {
            let site = &site;
            let asked = scope.spawn(move || reserve(site, &[request]).code);
            let changes = |command: &Command| {
                matches!(
                    command,
                    Command::Reserve { .. } | Command::CancelReservation { .. }
                )
            };
            until("the data plane has done it", || {
                plane.model().told.iter().any(changes)
            });
            let pid = site.daemon.as_ref().unwrap().id();
            let pid = libc::pid_t::try_from(pid).unwrap();
            // SAFETY: a signal to a child that nobody has waited for.
            assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
            assert_ne!(asked.join().unwrap(), 0, "nobody has said that it is done");
        });
        site.kill_daemon();
        plane.model().memory.mute = false;
        assert_eq!(state(&site), before, "{request:?}");
        site.start_daemon();
        until("it is as it was", || {
            let model = plane.model();
            let (_, size) = match model.memory.reservations.get(&pair()) {
                Some(own) => *own,
                None => return false,
            };
            model.memory.reservations.len() == 1 && size.bytes == 1 << 20
        });
        assert_eq!(plane.model().memory.free_bytes, 6 << 20);
    }
}

#[test]
fn a_data_plane_that_dies_before_the_answer_is_told_of_and_nothing_is_kept() {
    let (site, plane) = attached();
    assert_eq!(
        reserve(&site, &[&["add"], &PAIR, &["--size", "1MiB"]]).code,
        0
    );
    let before = state(&site);
    plane.model().memory.dies = true;
    let said = reserve(&site, &[&["cancel"], &PAIR]);
    assert_eq!(said.code, 3, "{}", said.err);
    assert_eq!(state(&site), before);
    let left = plane.model().memory.clone();
    drop(plane);
    let memory = Memory {
        dies: false,
        ..left
    };
    let plane = DataPlane::start_with(&site, std::process::id(), memory);
    until("the next one has it", || kib(&plane, pair()) == Some(1024));
}

#[test]
fn the_configurations_reservations_are_made_changed_and_hidden() {
    let mut site = Site::new();
    let file = site.file("sluice.toml");
    let text = fs::read_to_string(&file).unwrap();
    let more = "[[reservation]]\nkind = \"pair\"\nlocal = \"198.19.0.1\"\nremote = \"198.19.0.10\"\nsize_kib = 512\n";
    fs::write(&file, text + more).unwrap();
    let plane = DataPlane::start(&site);
    site.start_daemon();
    until("it is made", || kib(&plane, pair()) == Some(512));
    assert!(!site.file("lib/state.toml").exists());
    assert_eq!(
        reserve(&site, &[&["update"], &PAIR, &["--size", "1MiB"]]).code,
        0
    );
    assert_eq!(reserve(&site, &[&["cancel"], &PAIR]).code, 0);
    assert_eq!(kib(&plane, pair()), None);
    site.kill_daemon();
    site.start_daemon();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(kib(&plane, pair()), None, "it stays hidden");
    assert_eq!(
        reserve(&site, &[&["add"], &PAIR, &["--size", "64KiB"]]).code,
        0
    );
    assert_eq!(kib(&plane, pair()), Some(64));
}

#[test]
fn b03_as_many_as_there_can_be_are_shown() {
    let mut memory = Memory::default();
    for buffer_id in 1..10_001 {
        let size = ReservationSize {
            bytes: 16_384,
            automatic: false,
            sessions: 0,
            connections: 0,
        };
        memory
            .reservations
            .insert(connection(buffer_id), (buffer_id, size));
    }
    let site = Site::new();
    let _plane = DataPlane::start_with(&site, std::process::id(), memory);
    until("all are there", || {
        let rows = reserve(&site, &[&["show", "-j"]]).json();
        rows.as_array().unwrap().len() == 10_000
    });
    let shown = reserve(&site, &[&["show"]]).out;
    assert!(shown.contains("\nconnection 10000 "));
}

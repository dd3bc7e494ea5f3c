//! The two programs as they are run: tables, changes of the flush policy, drains, stops.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod model;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Command as Program;
use std::thread;

use serde_json::Value;
use sluice_hugepages::tables::*;

use self::model::{DataPlane, Site, TARGET, until};

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

//! `sluicectl log`: a log's file as a data plane leaves it, and as it should not be.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use sluice_hugepages::log::{Log, RecordFlags, VolumeEntry, VolumeFlags};
use sluice_hugepages::region::{Directories, Region, RegionSpec};

const VOLUME: &str = "iqn.2004-03.example.storage:vol0/1";
const LOG_LEN: usize = 8 << 20;

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed); // A number, it orders nothing.
        let path = PathBuf::from(format!(
            "/dev/shm/sluice-logfile-{}-{unique}",
            std::process::id()
        ));
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    fn spec(&self) -> RegionSpec {
        let directories = Directories {
            hugetlbfs: None,
            tmpfs: self.0.clone(),
        };
        RegionSpec {
            directories,
            name: "log".into(),
            len: LOG_LEN,
        }
    }

    fn file(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Three writes to one volume, the second an ordering point, and one that
    /// was never committed.
    fn with_writes(self) -> Scratch {
        let (mut log, _) = Log::open(Region::open(&self.spec()).unwrap()).unwrap();
        let volume = log
            .put_volume(VolumeEntry {
                target_name: VOLUME.split('/').next().unwrap().try_into().unwrap(),
                lun: 1 << 48,
                storage: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
                block_len: 512,
                blocks: 1 << 20,
                flags: VolumeFlags::default(),
            })
            .unwrap();
        for (sequence, flags) in [
            (1, RecordFlags::NONE),
            (2, RecordFlags::ORDERING_POINT),
            (3, RecordFlags::NONE),
        ] {
            let write = log.reserve(volume, sequence * 8, 4096).unwrap();
            log.append(write, &[0x5A; 4096]);
            log.commit(write, 1 + u64::from(sequence > 2), sequence, flags);
        }
        let unfinished = log.reserve(volume, 800, 4096).unwrap();
        log.append(unfinished, &[1; 4096]);
        self
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn ctl(args: &[&str], file: &Path) -> (i32, String, String) {
    let output = Program::new(env!("CARGO_BIN_EXE_sluicectl"))
        .args(args)
        .arg(file)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn ctl_json(args: &[&str], file: &Path) -> (i32, Value) {
    let (code, out, err) = ctl(&[&["-j"], args].concat(), file);
    let json = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {err}"));
    (code, json)
}

#[test]
fn a_log_is_checked_and_listed_and_stays_as_it_is() {
    let scratch = Scratch::new().with_writes();
    let before = fs::read(scratch.file()).unwrap();

    let (code, json) = ctl_json(&["log", "check"], &scratch.file());
    assert_eq!((code, &json["ok"]), (0, &Value::Bool(true)), "{json}");
    assert_eq!(json["records"], 3);
    assert_eq!(json["dirty_bytes"], 3 * 4096);
    assert_eq!(json["volumes"][0]["volume"], VOLUME);
    assert_eq!(json["volumes"][0]["sequence_max"], 3);

    let (code, json) = ctl_json(&["log", "dump"], &scratch.file());
    let records = json["records"].as_array().unwrap();
    let sequences: Vec<_> = records
        .iter()
        .map(|record| record["sequence"].as_u64())
        .collect();
    assert_eq!((code, sequences), (0, vec![Some(1), Some(2), Some(3)]));
    assert_eq!(records[1]["ordering_point"], true);
    assert_eq!(records[2]["lba"], 24);
    assert_eq!(records[2]["blocks"], 8);

    let (code, out, _) = ctl(&["log", "dump", "--volume", VOLUME], &scratch.file());
    assert_eq!((code, out.lines().count()), (0, 4), "{out}");
    let (code, _, err) = ctl(
        &["log", "dump", "--volume", "iqn.2004-03.example:other"],
        &scratch.file(),
    );
    assert_eq!(code, 1);
    assert!(
        err.contains("has no volume") && err.contains(VOLUME),
        "{err}"
    );

    assert!(
        before == fs::read(scratch.file()).unwrap(),
        "the file was changed"
    );
}

#[test]
fn a_copy_on_another_file_system_will_do() {
    let scratch = Scratch::new().with_writes();
    let copy = std::env::temp_dir().join(format!("sluice-log-copy-{}", std::process::id()));
    fs::copy(scratch.file(), &copy).unwrap();
    let (code, json) = ctl_json(&["log", "check"], &copy);
    fs::remove_file(&copy).unwrap();
    assert_eq!((code, &json["records"]), (0, &Value::from(3)), "{json}");
}

#[test]
fn damage_is_named_and_ends_with_1() {
    let scratch = Scratch::new().with_writes();
    let mut bytes = fs::read(scratch.file()).unwrap();
    let payload = bytes
        .chunks(4096)
        .position(|page| page == [0x5A; 4096])
        .unwrap();
    bytes[payload * 4096 + 100] ^= 1;
    fs::write(scratch.file(), bytes).unwrap();
    let (code, out, _) = ctl(&["log", "check"], &scratch.file());
    assert_eq!(code, 1);
    assert!(
        out.contains("1 faults") && out.contains("4096 bytes at LBA 8"),
        "{out}"
    );
    let (code, json) = ctl_json(&["log", "dump"], &scratch.file());
    assert_eq!(
        (code, &json["records"][0]["payload_good"]),
        (0, &Value::Bool(false))
    );
    assert_eq!(json["records"][1]["payload_good"], true);
}

#[test]
fn what_is_no_log_or_not_ours_to_read_is_refused() {
    let scratch = Scratch::new().with_writes();
    let held = Region::open(&scratch.spec()).unwrap();
    let (code, _, err) = ctl(&["log", "check"], &scratch.file());
    assert_eq!(code, 1);
    assert!(err.contains("in use by another data plane"), "{err}");
    drop(held);

    let sound = fs::read(scratch.file()).unwrap();
    let mut other_version = sound.clone();
    other_version[12] = 9;
    fs::write(scratch.file(), &other_version).unwrap();
    let (code, _, err) = ctl(&["log", "check"], &scratch.file());
    assert_eq!(code, 1);
    assert!(err.contains("format version 9"), "{err}");

    fs::write(scratch.file(), &sound[..4096]).unwrap();
    let (code, _, err) = ctl(&["log", "dump"], &scratch.file());
    assert_eq!(code, 1);
    assert!(
        err.contains("4096 bytes") && err.contains("multiple of 2097152"),
        "{err}"
    );

    fs::write(scratch.file(), vec![7; LOG_LEN]).unwrap();
    let (code, _, err) = ctl(&["log", "check"], &scratch.file());
    assert_eq!(code, 1);
    assert!(err.contains("not a Sluice log"), "{err}");

    let (code, _, err) = ctl(&["log", "check"], &scratch.0.join("absent"));
    assert_eq!(code, 1);
    assert!(err.contains("absent"), "{err}");
}

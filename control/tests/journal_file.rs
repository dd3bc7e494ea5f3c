//! `sluicectl log` over a journal's file: sound, damaged, cut off, of another
//! version, foreign, in use.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Command as Program;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use sluice_hugepages::log::{VolumeEntry, VolumeFlags};
use sluice_journal::layout::{
    BLOCK_LEN, Block, Entry, HeadWriter, Header, Identity, Mark, RowTable, WriteEntry,
};

const VOLUME: &str = "iqn.2004-03.example.storage:vol0/1";
const AREA: u64 = 64;

/// A journal's file of a test's own.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn write(sequence: u64, payload: &[u8]) -> Entry {
    Entry::Write(WriteEntry {
        identity: Identity {
            volume: 0,
            sequence,
            part: 0,
        },
        parts: 1,
        flags: 0,
        epoch: 1,
        lba: sequence * 8,
        len: u32::try_from(payload.len()).unwrap(),
        payload_crc: crc32c::crc32c(payload),
        completes: false,
        damaged: false,
    })
}

impl Scratch {
    /// Three groups: the volume's row and two writes, in blocks 2 to 4; one more
    /// write, and the first one's free, in 5 and 6; a last write in 7 and 8.
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed); // A number, it orders nothing.
        let name = format!("sluice-journal-{}-{unique}", std::process::id());
        let mut blocks = vec![Block::ZERO; 2 + usize::try_from(AREA).unwrap()];
        for serial in [1, 2] {
            let begin = Mark {
                address: 0,
                group: 1,
            };
            let header = Header {
                id: 7,
                run: 1,
                serial,
                area: AREA,
                tail: begin,
                run_start: begin,
                void: false,
            };
            blocks[usize::try_from(header.place()).unwrap()] = header.encode();
        }
        let row = VolumeEntry {
            target_name: VOLUME.split('/').next().unwrap().try_into().unwrap(),
            lun: 1 << 48,
            storage: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
            block_len: 512,
            blocks: 1 << 20,
            flags: VolumeFlags::default(),
        };
        let payload = |sequence: u8| [sequence; BLOCK_LEN];
        let row = Entry::Row(RowTable::Volume, 0, Some(Box::new(row.to_row())));
        let free = Entry::Free(Identity {
            volume: 0,
            sequence: 1,
            part: 0,
        });
        let groups = [
            vec![row, write(1, &payload(1)), write(2, &payload(2))],
            vec![write(3, &payload(3)), free],
            vec![write(4, &payload(4))],
        ];
        let mut address = 0;
        for (entries, group) in groups.iter().zip(1..) {
            let mut head = Block::ZERO;
            let mut writer = HeadWriter::new(&mut head);
            for entry in entries {
                writer.push(entry);
            }
            writer.finish(7, 1, Mark { address, group });
            let mut at = 2 + usize::try_from(address).unwrap();
            blocks[at] = head;
            for entry in entries {
                if let Entry::Write(entry) = entry {
                    at += 1;
                    blocks[at].0 = payload(u8::try_from(entry.identity.sequence).unwrap());
                }
            }
            address = at as u64 - 1;
        }
        let path = std::env::temp_dir().join(name);
        let bytes: Vec<u8> = blocks.iter().flat_map(|block| block.0).collect();
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    /// With one byte of these places other than it was.
    fn damaged(places: &[usize]) -> Self {
        let scratch = Self::new();
        let mut bytes = fs::read(&scratch.0).unwrap();
        for &place in places {
            bytes[place] ^= 0xff;
        }
        fs::write(&scratch.0, bytes).unwrap();
        scratch
    }

    fn ctl(&self, args: &[&str]) -> (i32, String, String) {
        let before = fs::read(&self.0).unwrap();
        let output = Program::new(env!("CARGO_BIN_EXE_sluicectl"))
            .args(args)
            .arg(&self.0)
            .output()
            .unwrap();
        assert!(before == fs::read(&self.0).unwrap(), "it stays as it is");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }

    fn json(&self, args: &[&str]) -> (i32, Value) {
        let (code, out, err) = self.ctl(&[&["-j"], args].concat());
        let json = serde_json::from_str(&out);
        (
            code,
            json.unwrap_or_else(|error| panic!("{error}: {out} {err}")),
        )
    }
}

#[test]
fn a_journal_is_checked_and_listed_and_stays_as_it_is() {
    let scratch = Scratch::new();
    let (code, json) = scratch.json(&["log", "check"]);
    assert_eq!((code, &json["ok"]), (0, &Value::Bool(true)), "{json}");
    assert_eq!(json["kind"], "journal");
    assert_eq!((&json["groups"], &json["records"]), (&3.into(), &3.into()));
    assert_eq!(json["dirty_bytes"], 3 * 4096);
    let (code, json) = scratch.json(&["log", "dump"]);
    assert_eq!(code, 0);
    let records = json["records"].as_array().unwrap();
    let of = |key: &str| -> Vec<u64> {
        let values = records.iter().map(|record| record[key].as_u64());
        values.map(Option::unwrap).collect()
    };
    assert_eq!(of("sequence"), [2, 3, 4]);
    assert_eq!(of("offset"), [4 * 4096, 6 * 4096, 8 * 4096]);
    assert!(records.iter().all(|record| record["volume"] == VOLUME));
    let (code, out, _) = scratch.ctl(&["log", "dump", "--volume", VOLUME]);
    assert_eq!((code, out.lines().count()), (0, 4), "{out}");
}

#[test]
fn damage_in_a_journal_is_named_by_its_place() {
    let payload = Scratch::damaged(&[4 * 4096 + 100]);
    let (code, json) = payload.json(&["log", "check"]);
    assert_eq!((code, &json["ok"]), (1, &Value::Bool(false)));
    let fault = json["faults"][0].as_str().unwrap();
    assert!(fault.starts_with("byte 16384: "), "{fault}");
    assert!(
        fault.contains("sequence 2") && fault.contains(VOLUME),
        "{fault}"
    );
    let (code, out, _) = payload.ctl(&["log", "dump"]);
    assert!(code == 0 && out.contains("TORN"), "{out}");

    // A group is missing before one that is there: something acknowledged is lost.
    let head = Scratch::damaged(&[5 * 4096 + 70]);
    let (code, out, _) = head.ctl(&["log", "check"]);
    assert_eq!(code, 1);
    assert!(out.contains("byte 20480: group 2"), "{out}");

    // The last one was acknowledged by nobody if it is not whole.
    let last = Scratch::damaged(&[8 * 4096]);
    let (code, json) = last.json(&["log", "check"]);
    assert_eq!((code, &json["records"]), (0, &2.into()), "{json}");

    // One copy of the header is enough.
    let one = Scratch::damaged(&[30]);
    assert_eq!(one.ctl(&["log", "check"]).0, 0);
    let both = Scratch::damaged(&[30, 4096 + 30]);
    let (code, out, _) = both.ctl(&["log", "check"]);
    assert!(code == 1 && out.contains("byte 0: both copies"), "{out}");
}

#[test]
fn a_journal_cut_off_of_another_version_or_foreign_is_refused() {
    let cut = Scratch::new();
    let file = fs::OpenOptions::new().write(true).open(&cut.0).unwrap();
    file.set_len(20 * 4096).unwrap();
    let (code, out, _) = cut.ctl(&["log", "check"]);
    assert_eq!(code, 1);
    assert!(out.contains("byte 81920: it has 20 blocks"), "{out}");

    let other = Scratch::damaged(&[12, 4096 + 12]);
    let (code, _, err) = other.ctl(&["log", "check"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("has format version") && err.contains("sluicectl drain"),
        "{err}"
    );
    let foreign = Scratch::damaged(&[0, 4096]);
    let (code, _, err) = foreign.ctl(&["log", "check"]);
    assert!(code == 1 && !err.is_empty(), "{err}");

    let used = Scratch::new();
    let file = fs::File::open(&used.0).unwrap();
    file.try_lock().unwrap();
    let (code, _, err) = used.ctl(&["log", "check"]);
    assert!(code == 1 && err.contains("a data plane has it"), "{err}");
}

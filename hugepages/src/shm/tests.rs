//! The segment through its file: two mappings of it in one process behave as
//! two processes do (locks belong to the open file).

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::layout::{self, header};
use super::*;
use crate::fuse::Fuse;
use crate::tables::*;

/// A directory of a test's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-shm-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn segment(&self) -> PathBuf {
        self.0.join("control.seg")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// No two of its figures are alike.
fn latency(first: u64) -> Latency {
    Latency {
        count: first,
        p50_us: first + 1,
        p90_us: first + 2,
        p99_us: first + 3,
        p999_us: first + 4,
        max_us: first + 5,
        total_count: first + 6,
        total_max_us: first + 7,
    }
}

fn volume(lun: u64, dirty_bytes: u64) -> Volume {
    Volume {
        target: text("iqn.2004-03.example.storage:vol0"),
        lun,
        storage: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
        state: VolumeState::Connected,
        durability: Durability::Memory,
        load_us: 40_000,
        load_p99_us: 90_000,
        dirty_bytes,
        oldest_dirty_since_ns: (dirty_bytes > 0).then_some(17),
        block_len: 512,
        blocks: 1 << 21,
        records: 3,
        written_bytes: 1,
        flushed_bytes: 2,
        superseded_bytes: 0,
        written_bytes_per_s: 0,
        flushed_bytes_per_s: 0,
        epochs_pending: 0,
        drained_in_ms: Some(0),
        full_in_ms: None,
        room_bytes: 3,
        sessions: 1,
        flush_threshold_bytes: 1 << 20,
        flush_stop_bytes: 0,
        flush_period_ns: 1_000_000_000,
        flush_idle_ns: 0,
        flush_load_limit_us: Some(200_000),
        load_at_rest_us: 41_000,
        failed_writes: 0,
        failed_stamp: 0,
        drain: Drain::No,
        held_up: HeldUp::No,
        write_latency: latency(1),
        read_latency: latency(100),
        flush_latency: latency(u64::MAX - 7),
    }
}

fn store(path: &Path, word: usize, value: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&value.to_ne_bytes(), word as u64 * 8)
        .unwrap();
}

#[test]
fn rows_and_counters_cross_over() {
    let scratch = Scratch::new();
    let path = scratch.segment();
    let mut writer = SegmentWriter::create(&path, Birth::now()).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
    let reader = SegmentReader::open(&path).unwrap();
    assert_eq!(reader.rows::<Volume>().rows, []);

    writer.put(0, &volume(1 << 48, 0));
    writer.put(5, &volume(2 << 48, 4096));
    writer.put(SPECS[Table::Volumes as usize].rows, &volume(3, 3));
    writer.name_counter(3, "net.ttl_expired");
    writer.set_counter(3, 42);
    writer.set_counter(COUNTERS_MAX, 1);
    let rows = reader.rows::<Volume>();
    assert_eq!(
        rows.rows,
        [(0, volume(1 << 48, 0)), (5, volume(2 << 48, 4096))]
    );
    assert_eq!((rows.stale, rows.malformed), (0, 0));
    assert_eq!(
        reader.counters(),
        [Counter {
            name: "net.ttl_expired".to_owned(),
            count: 42
        }]
    );
    assert_eq!(reader.faults()[0], ("segment.rows_lost", 1));

    writer.clear_from(Table::Volumes, 1);
    assert_eq!(reader.rows::<Volume>().rows.len(), 1);
    writer.clear(Table::Volumes, 0);
    assert_eq!(reader.rows::<Volume>().rows, []);
    assert_eq!(reader.pid(), u64::from(std::process::id()));
}

#[test]
fn commands_go_over_and_are_answered() {
    let scratch = Scratch::new();
    let path = scratch.segment();
    let mut writer = SegmentWriter::create(&path, Birth::now()).unwrap();
    let mut link = ControlLink::open(&path).unwrap();
    assert!(matches!(
        ControlLink::open(&path),
        Err(SegmentError::ControlRuns { .. })
    ));
    let target: Name = text("iqn.2004-03.example.storage:vol0");
    let setting = FlushSetting {
        threshold_bytes: Some(65536),
        ..FlushSetting::default()
    };
    let commands = [
        Command::SetFlush {
            scope: Scope::All,
            setting,
        },
        Command::SetFlush {
            scope: Scope::Target(target),
            setting: FlushSetting {
                stop_bytes: Some(0),
                load_limit_percent: Some(300),
                ..FlushSetting::default()
            },
        },
        Command::FlushVolume {
            scope: Scope::Volume {
                target,
                lun: 1 << 48,
            },
        },
    ];
    for (id, command) in (10..).zip(&commands) {
        link.send(id, command).unwrap();
    }
    for (id, command) in (10..).zip(commands) {
        assert_eq!(writer.next_command(), Some((id, command)));
        let answer = Completion {
            id,
            outcome: Outcome::UnknownVolume,
            volumes: 7,
            buffers: BufferState {
                buffer_id: 3,
                free_bytes: 1 << 40,
                ..BufferState::default()
            },
        };
        writer.complete(&answer);
        assert_eq!(link.next_completion(), Some(answer));
    }
    assert_eq!(writer.next_command(), None);
    assert_eq!(link.next_completion(), None);

    // Nobody listens: the ring says so instead of waiting.
    let flush = Command::FlushVolume { scope: Scope::All };
    let sent = (0..100)
        .take_while(|&id| link.send(id, &flush).is_ok())
        .count();
    assert_eq!(sent, layout::RING.slots);
    assert_eq!(link.send(1, &flush), Err(SendError::Full));
}

#[test]
fn a_broken_command_is_refused_and_counted() {
    let scratch = Scratch::new();
    let path = scratch.segment();
    let mut writer = SegmentWriter::create(&path, Birth::now()).unwrap();
    let mut link = ControlLink::open(&path).unwrap();
    link.send(9, &Command::FlushVolume { scope: Scope::All })
        .unwrap();
    // The first slot's kind; then a tail that no producer can have reached.
    store(&path, layout::COMMANDS.start + 16 + 1, 77);
    assert_eq!(writer.next_command(), None);
    let answer = Completion::new(9, Outcome::Malformed, 0);
    assert_eq!(link.next_completion(), Some(answer));
    store(&path, layout::COMMANDS.start, u64::MAX / 2);
    assert_eq!(writer.next_command(), None);
    assert_eq!(link.faults()[1], ("segment.ring_faults", 2));
}

#[test]
fn a_killed_writer_leaves_its_last_state_and_a_torn_row_is_repaired() {
    let scratch = Scratch::new();
    let path = scratch.segment();
    let birth = Birth::now();
    let mut writer = SegmentWriter::create(&path, birth).unwrap();
    writer.put(0, &volume(1, 5));
    writer.put(1, &volume(2, 6));
    let reader = SegmentReader::open(&path).unwrap();
    let beat = birth.now_ns + 1_000;
    writer.heartbeat(beat);
    assert_eq!(reader.vitality(beat + 1), Vitality::Alive);
    let late = HEARTBEAT_STALE;
    let late_ns = beat + u64::try_from(late.as_nanos()).unwrap();
    assert_eq!(
        reader.vitality(late_ns),
        Vitality::Stuck { silent_for: late }
    );
    // As SIGKILL leaves it: the lock goes, the state word stays, a row is half-written.
    let instance = reader.instance();
    drop(writer);
    store(&path, header::STATE, 1);
    store(&path, layout::row_cells(Table::Volumes, 1).start, 3);
    assert_eq!(
        reader.vitality(late_ns),
        Vitality::Dead { silent_for: late }
    );
    let rows = reader.rows::<Volume>();
    assert_eq!((rows.rows.len(), rows.stale), (1, 1));

    let mut writer = SegmentWriter::create(&path, Birth::now()).unwrap();
    assert_eq!(writer.rows_repaired(), 1);
    assert_ne!(reader.instance(), instance);
    assert!(
        !reader.is_replaced(),
        "readers keep their mapping over a restart"
    );
    assert_eq!(reader.rows::<Volume>().rows, []);
    writer.put(1, &volume(2, 6));
    assert_eq!(reader.rows::<Volume>().rows, [(1, volume(2, 6))]);
    drop(writer);
    assert!(matches!(
        reader.vitality(monotonic_ns()),
        Vitality::Stopped { .. }
    ));
}

#[test]
fn one_data_plane_at_a_time() {
    let scratch = Scratch::new();
    let path = scratch.segment();
    let _writer = SegmentWriter::create(&path, Birth::now()).unwrap();
    let error = SegmentWriter::create(&path, Birth::now())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!(
            "in use by the data plane with pid {}",
            std::process::id()
        )),
        "{error}"
    );
}

#[test]
fn another_layout_is_refused_by_readers_and_replaced_by_the_next_writer() {
    let scratch = Scratch::new();
    let path = scratch.segment();
    drop(SegmentWriter::create(&path, Birth::now()).unwrap());
    let reader = SegmentReader::open(&path).unwrap();
    store(&path, header::VERSION, 99);
    let error = SegmentReader::open(&path).unwrap_err().to_string();
    assert!(error.contains("has layout version 99"), "{error}");
    assert!(error.contains("use the programs of one release"), "{error}");
    assert!(ControlLink::open(&path).is_err());
    let writer = SegmentWriter::create(&path, Birth::now()).unwrap();
    assert_eq!(writer.replaced().unwrap().version, 99);
    assert!(reader.is_replaced());
    SegmentReader::open(&path).unwrap();
}

#[test]
fn what_is_no_segment_is_left_alone() {
    let scratch = Scratch::new();
    let path = scratch.segment();
    assert!(matches!(
        SegmentReader::open(&path),
        Err(SegmentError::NotThere { .. })
    ));
    fs::write(&path, "").unwrap();
    assert!(matches!(
        SegmentReader::open(&path),
        Err(SegmentError::NotReady { .. })
    ));
    let letter = "Dear Sir or Madam, this is a letter and not a segment.";
    fs::write(&path, letter).unwrap();
    assert!(matches!(
        SegmentReader::open(&path),
        Err(SegmentError::Foreign { .. })
    ));
    assert!(matches!(
        SegmentWriter::create(&path, Birth::now()),
        Err(SegmentError::Foreign { .. })
    ));
    assert_eq!(fs::read_to_string(&path).unwrap(), letter);
    // Cut short after it was whole: refused before it is mapped.
    fs::remove_file(&path).unwrap();
    drop(SegmentWriter::create(&path, Birth::now()).unwrap());
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    assert!(matches!(
        SegmentReader::open(&path),
        Err(SegmentError::Version { .. })
    ));
}

/// A reader in another thread never sees a row that is part one, part the other.
#[test]
fn rows_are_whole_while_they_change() {
    let scratch = Scratch::new();
    let path = scratch.segment();
    let mut writer = SegmentWriter::create(&path, Birth::now()).unwrap();
    writer.put(0, &volume(0, 0));
    let reader = SegmentReader::open(&path).unwrap();
    let read = std::thread::spawn(move || {
        let mut last = 0;
        while last < 20_000 {
            let rows = reader.rows::<Volume>();
            assert_eq!(rows.malformed, 0);
            for (_, row) in rows.rows {
                assert_eq!(row.lun, row.dirty_bytes);
                assert!(row.lun >= last);
                last = row.lun;
            }
        }
    });
    let mut value = 0;
    while !read.is_finished() {
        value += 1;
        writer.put(0, &volume(value, value));
    }
    read.join().unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, u64),
    Clear(usize),
    ClearFrom(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..20_usize, any::<u64>()).prop_map(|(index, value)| Step::Put(index, value)),
        3 => (0..20_usize).prop_map(Step::Clear),
        1 => (0..20_usize).prop_map(Step::ClearFrom),
        1 => Just(Step::Restart),
    ]
}

/// What the reader shows: by index, and how many it could not read whole.
fn shown(reader: &SegmentReader) -> (BTreeMap<usize, Volume>, usize) {
    let rows = reader.rows::<Volume>();
    assert_eq!(rows.malformed, 0);
    (rows.rows.into_iter().collect(), rows.stale)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A data plane that dies after any store, in a row or between two, and so does the
    /// next one in its start: readers see each row as it was before the operation, as it is
    /// after it, or are told that it cannot be read.
    #[test]
    fn a_stop_after_any_store_tears_no_row(
        steps in prop::collection::vec(step(), 1..30),
        thousandth in 0..1000u64,
        stores_at_start in 0..4000u64,
    ) {
        let scratch = Scratch::new();
        let path = scratch.segment();
        let apply = |writer: &mut SegmentWriter, rows: &mut BTreeMap<usize, Volume>, step: &Step| {
            match *step {
                Step::Put(index, value) => {
                    writer.put(index, &volume(value, value));
                    rows.insert(index, volume(value, value));
                }
                Step::Clear(index) => {
                    writer.clear(Table::Volumes, index);
                    rows.remove(&index);
                }
                Step::ClearFrom(first) => {
                    writer.clear_from(Table::Volumes, first);
                    rows.retain(|&index, _| index < first);
                }
                Step::Restart => writer.heartbeat(1),
            }
        };
        // How many stores all of it takes, so that the stop is evenly spread.
        let mut writer = SegmentWriter::create(&path, Birth::now()).unwrap();
        writer.set_fuse(Fuse::after(u64::MAX - 1));
        let mut rows = BTreeMap::new();
        for step in &steps {
            apply(&mut writer, &mut rows, step);
        }
        let stores = writer.fuse().burnt(u64::MAX - 1);
        drop(writer);

        let mut writer = SegmentWriter::create(&path, Birth::now()).unwrap();
        let reader = SegmentReader::open(&path).unwrap();
        writer.set_fuse(Fuse::after(1 + stores * thousandth / 1000));
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        for step in &steps {
            before.clone_from(&after);
            apply(&mut writer, &mut after, step);
            if writer.fuse().is_blown() { break }
        }
        drop(writer);
        let (found, stale) = shown(&reader);
        prop_assert!(stale <= 1);
        let mut unseen = 0;
        for index in 0..20 {
            let row = found.get(&index);
            let is_whole = row == before.get(&index) || row == after.get(&index);
            prop_assert!(is_whole || row.is_none(), "row {} is {:?}", index, row);
            unseen += usize::from(!is_whole);
        }
        prop_assert!(unseen <= stale, "only what is torn is missing");

        // The next one dies in its start; the one after it begins with a clear table.
        let half = SegmentWriter::create_with_fuse(&path, Birth::now(), Fuse::after(stores_at_start));
        drop(half.unwrap());
        for (index, row) in shown(&reader).0 {
            prop_assert!(Some(&row) == before.get(&index) || Some(&row) == after.get(&index));
        }
        let mut writer = SegmentWriter::create(&path, Birth::now()).unwrap();
        // One of each that died.
        prop_assert!(writer.rows_repaired() <= 2);
        prop_assert_eq!(shown(&reader), (BTreeMap::new(), 0));
        let mut rows = BTreeMap::new();
        for step in &steps {
            apply(&mut writer, &mut rows, step);
        }
        prop_assert_eq!(shown(&reader), (rows, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Against a map.
    #[test]
    fn a_table_is_a_map(steps in prop::collection::vec(step(), 0..60)) {
        let scratch = Scratch::new();
        let path = scratch.segment();
        let mut writer = SegmentWriter::create(&path, Birth::now()).unwrap();
        let reader = SegmentReader::open(&path).unwrap();
        let mut oracle = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(index, value) => {
                    writer.put(index, &volume(value, value));
                    oracle.insert(index, volume(value, value));
                }
                Step::Clear(index) => {
                    writer.clear(Table::Volumes, index);
                    oracle.remove(&index);
                }
                Step::ClearFrom(first) => {
                    writer.clear_from(Table::Volumes, first);
                    oracle.retain(|&index, _| index < first);
                }
                Step::Restart => {
                    drop(writer);
                    writer = SegmentWriter::create(&path, Birth::now()).unwrap();
                    oracle.clear();
                }
            }
            let expected: Vec<_> = oracle.clone().into_iter().collect();
            prop_assert_eq!(reader.rows::<Volume>().rows, expected);
        }
    }

    /// Words from anywhere: never a panic, and what decodes is what was encoded.
    #[test]
    fn any_words_decode_or_are_refused(words in prop::collection::vec(prop_oneof![0..4_u64, any::<u64>()], ROW_WORDS_MAX)) {
        fn one<T: Row>(words: &[u64]) {
            if let Some(row) = T::decode(&words[..T::WORDS]) {
                let mut again = [0; ROW_WORDS_MAX];
                row.encode(&mut again[..T::WORDS]);
                assert!(T::decode(&again[..T::WORDS]).is_some());
            }
        }
        one::<Port>(&words);
        one::<Route>(&words);
        one::<Neighbour>(&words);
        one::<Session>(&words);
        one::<Volume>(&words);
        one::<Buffers>(&words);
        one::<Runtime>(&words);
        one::<CounterName>(&words);
        one::<crate::tables::Path>(&words);
        one::<Reservation>(&words);
        one::<Allocation>(&words);
        let message: [u64; MESSAGE_WORDS] = words[..MESSAGE_WORDS].try_into().unwrap();
        if let (id, Some(command)) = Command::decode(&message) {
            prop_assert_eq!(Command::decode(&command.encode(id)), (id, Some(command)));
        }
        let _ = Completion::decode(&message);
    }
}

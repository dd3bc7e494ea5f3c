//! A segment's file, and what somebody who may write to it does there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluice_dataplane::worker::publish::{Facts, Publisher, StartFacts};
use sluice_hugepages::shm::seqlock::CELL_HEADER;
use sluice_hugepages::shm::{Birth, ControlLink, SEGMENT_BYTES, SegmentWriter, monotonic_ns};
use sluice_hugepages::tables::{
    Allocation, Backing, Buffers, COUNTERS_MAX, Event, FailedWrite, Journal, MESSAGE_WORDS,
    Neighbour, Path as PathRow, Port, Reservation, Route, Runtime, SPECS, Session, StartKind,
    TABLES, Volume,
};
use sluice_sim::site::Site;

use crate::source::Source;

/// Words of the header, and those of them that say what the file is: one that says
/// something else is nobody's.
const HEADER_WORDS: usize = 64;
const IDENTITY_WORDS: usize = 8;
/// Words in front of a ring's first slot, and its slots.
const RING_HEAD: usize = 16;
const RING_SLOTS: usize = 64;
const RING_WORDS: usize = RING_HEAD + RING_SLOTS * MESSAGE_WORDS;
/// Rows of a table that are overwritten: the first, since most others are never used.
const ROWS: usize = 16;

const fn cell_words(table: usize) -> usize {
    (CELL_HEADER + SPECS[table].row_words).next_multiple_of(8)
}

/// First word of a table, and behind the last one that of the counters.
const fn table_at(table: usize) -> usize {
    let (mut at, mut before) = (HEADER_WORDS, 0);
    while before < table {
        at += SPECS[before].rows * cell_words(before);
        before += 1;
    }
    at
}

const COMMANDS_AT: usize = table_at(TABLES) + COUNTERS_MAX;

/// What somebody makes of a word.
pub fn word(source: &mut Source<'_>, old: u64) -> u64 {
    const EDGES: [u64; 8] = [0, 1, 2, 63, 64, 65, u64::MAX, 1 << 63];
    match source.below(4) {
        0 => EDGES[source.below(EDGES.len())],
        1 => old ^ 1 << source.below(64),
        2 => old.wrapping_add(u64::from(source.byte())).wrapping_sub(128),
        _ => u64::from_be_bytes(source.array()),
    }
}

/// Removed when dropped.
#[derive(Debug)]
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // Relaxed: a number of its own is all that is asked for.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        Self(directory.join(format!("sluice-fuzz-{}-{number}.seg", std::process::id())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A segment, and the end of it that a daemon has.
#[derive(Debug)]
pub struct Segment {
    link: Option<ControlLink>,
    file: File,
    /// Messages that the command ring has had.
    pub sent: u64,
    place: Place,
}

impl Segment {
    /// A new one, that the site's worker shows its tables in.
    pub fn of(site: &mut Site) -> Self {
        let place = Place::new();
        let writer = SegmentWriter::create(&place.0, Birth::now()).expect("memory for a segment");
        let facts = Facts {
            core: None,
            frames_backing: (Backing::Anonymous, String::new()),
            log_backing: Backing::Anonymous,
            log_bytes: 0,
            journal: None,
            ticks_per_second: 1,
            start: StartFacts {
                kind: StartKind::New,
                records: 0,
                took: Duration::ZERO,
            },
        };
        site.control = Some(Publisher::new(writer, facts));
        let file = File::options().read(true).write(true).open(&place.0);
        let mut segment = Self {
            link: None,
            file: file.expect("it was just made"),
            sent: 0,
            place,
        };
        segment.reopen();
        segment
    }

    pub fn link(&mut self) -> &mut ControlLink {
        self.link.as_mut().expect("there is a daemon")
    }

    /// Another daemon takes the place of the last, whose lock goes with it.
    pub fn reopen(&mut self) {
        self.link = None;
        self.link = Some(ControlLink::open(&self.place.0).expect("nobody else has it"));
    }

    /// Overwrites the message that was the `number`th in the ring, from 0, and is still there.
    pub fn put_message(&self, number: u64, before: &[u64], message: &[u64; MESSAGE_WORDS]) {
        let slot = usize::try_from(number % RING_SLOTS as u64).expect("64");
        let at = COMMANDS_AT + RING_HEAD + slot * MESSAGE_WORDS;
        for (word, (&value, &before)) in (at..).zip(message.iter().zip(before)) {
            assert_eq!(self.get(word), before, "the ring is where it is looked for");
            self.set(word, value);
        }
    }

    /// Changes a word of the header, of a row that may be in use, or of the counters.
    pub fn scribble_rows(&self, source: &mut Source<'_>) {
        let at = match source.below(8) {
            0 => IDENTITY_WORDS + source.below(HEADER_WORDS - IDENTITY_WORDS),
            1 => table_at(TABLES) + usize::from(source.half()) % COUNTERS_MAX,
            _ => {
                let table = source.below(TABLES);
                let row = source.below(ROWS) % SPECS[table].rows;
                let cell = cell_words(table);
                table_at(table) + row * cell + usize::from(source.half()) % cell
            }
        };
        self.set(at, word(source, self.get(at)));
    }

    /// Changes an index of a ring, or a word of a message.
    pub fn scribble_rings(&self, source: &mut Source<'_>) {
        let ring = COMMANDS_AT + source.below(2) * RING_WORDS;
        let at = match source.below(4) {
            0 => ring,
            1 => ring + RING_HEAD / 2,
            _ => ring + usize::from(source.half()) % RING_WORDS,
        };
        self.set(at, word(source, self.get(at)));
    }

    /// Everything that a reader shows.
    pub fn read(&mut self) {
        let link = self.link();
        let known = [
            link.rows::<Port>().rows.len(),
            link.rows::<Route>().rows.len(),
            link.rows::<Neighbour>().rows.len(),
            link.rows::<Session>().rows.len(),
            link.rows::<Volume>().rows.len(),
            link.rows::<Buffers>().rows.len(),
            link.rows::<Runtime>().rows.len(),
            link.rows::<FailedWrite>().rows.len(),
            link.rows::<Journal>().rows.len(),
            link.rows::<Event>().rows.len(),
            link.rows::<PathRow>().rows.len(),
            link.rows::<Reservation>().rows.len(),
            link.rows::<Allocation>().rows.len(),
        ];
        let most = SPECS.iter().map(|spec| spec.rows).max().unwrap_or(0);
        assert!(known.iter().all(|&rows| rows <= most));
        assert!(link.counters().len() <= COUNTERS_MAX);
        let _ = link.vitality(monotonic_ns());
    }

    fn get(&self, word: usize) -> u64 {
        let mut bytes = [0; 8];
        let read = self.file.read_exact_at(&mut bytes, at(word));
        read.expect("a file in memory");
        u64::from_ne_bytes(bytes)
    }

    fn set(&self, word: usize, value: u64) {
        let written = self.file.write_all_at(&value.to_ne_bytes(), at(word));
        written.expect("a file in memory");
    }
}

fn at(word: usize) -> u64 {
    let at = word * 8;
    assert!(at + 8 <= SEGMENT_BYTES, "inside the segment");
    at as u64
}

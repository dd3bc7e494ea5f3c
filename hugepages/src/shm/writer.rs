//! The data plane's side. Rows are written without allocation and without a
//! system call; only creating the file makes any.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::layout::{self, RING, header};
use super::map::{self, Cells, Mapping, Role};
use super::reader::{self, Found};
use super::{Layout, SegmentError, monotonic_ns, seqlock};
use crate::atomic::{AtomicU64, Ordering};
use crate::fuse::Fuse;
use crate::ring::{Consumer, Producer};
use crate::tables::{
    COUNTERS_MAX, Command, Completion, CounterName, FINGERPRINT, LAYOUT_VERSION, MESSAGE_WORDS,
    Outcome, ROW_WORDS_MAX, Row, SPECS, Table, text,
};

/// A data plane's writer is open.
pub(super) const STATE_OPEN: u64 = 1;
/// It was closed in good order.
pub(super) const STATE_CLOSED: u64 = 2;

/// Who a data plane is and when it started; drawn by `main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    pub pid: u32,
    /// Nanoseconds since 1970.
    pub unix_ns: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub now_ns: u64,
}

impl Birth {
    /// Of the calling process, now.
    #[must_use]
    pub fn now() -> Self {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            pid: std::process::id(),
            unix_ns: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX),
            now_ns: monotonic_ns(),
        }
    }
}

/// The one writer of a segment.
#[derive(Debug)]
pub struct SegmentWriter {
    mapping: Arc<Mapping>,
    commands: Consumer<Cells>,
    completions: Producer<Cells>,
    rows_repaired: u64,
    replaced: Option<Layout>,
    /// Of all stores but the rings', whose messages are not there before their index says so.
    fuse: Fuse,
}

impl SegmentWriter {
    /// Makes the segment's file (mode 0640), or attaches to the one that a
    /// data plane before this one left, and clears its tables. A segment of
    /// another layout is replaced, since nothing in it is of use without its
    /// writer; [`SegmentWriter::replaced`] says so.
    ///
    /// # Errors
    /// Another data plane holds it, the file is something else, or the
    /// directory or memory for it cannot be had.
    pub fn create(path: &Path, birth: Birth) -> Result<Self, SegmentError> {
        Self::create_with_fuse(path, birth, Fuse::NEVER)
    }

    /// As [`SegmentWriter::create`], by a data plane that dies when the fuse blows.
    ///
    /// # Errors
    /// As [`SegmentWriter::create`].
    pub fn create_with_fuse(path: &Path, birth: Birth, fuse: Fuse) -> Result<Self, SegmentError> {
        let fail = |action| {
            move |source| SegmentError::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(fail("make its directory"))?;
        }
        let mut replaced = None;
        // Once for an old layout, once for a file exchanged under our hands.
        for _ in 0..4 {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o640)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)
                .map_err(fail("open or make it"))?;
            if !lock_soon(&file).map_err(fail("lock it"))? {
                let pid = reader::pid_of(&file);
                return Err(SegmentError::DataPlaneRuns {
                    path: path.to_owned(),
                    pid,
                });
            }
            if !is_at(&file, path) {
                continue;
            }
            match reader::examine(&file).map_err(fail("read it"))? {
                Found::Known => {}
                Found::Empty => {
                    // Others may read it only once it is whole; see `start`.
                    map::allocate(&file).map_err(fail("give it memory"))?;
                }
                Found::Foreign => {
                    return Err(SegmentError::Foreign {
                        path: path.to_owned(),
                    });
                }
                Found::Other(layout) => {
                    replaced = Some(layout);
                    fs::remove_file(path).map_err(fail("replace it"))?;
                    continue;
                }
            }
            file.set_permissions(Permissions::from_mode(0o640))
                .map_err(fail("set its mode"))?;
            let mapping = Mapping::new(file, true).map_err(fail("map it"))?;
            let mut writer = Self::start(mapping, birth, fuse);
            writer.replaced = replaced;
            return Ok(writer);
        }
        let source = io::Error::other("it is exchanged all the time");
        Err(fail("keep it")(source))
    }

    fn start(mapping: Mapping, birth: Birth, mut fuse: Fuse) -> Self {
        let mapping = Arc::new(mapping);
        let words = mapping.words();
        let store = |fuse: &mut Fuse, word: usize, value: u64, ordering: Ordering| {
            if fuse.burn() {
                words[word].store(value, ordering);
            }
        };
        let mut rows_repaired = 0;
        for (table, spec) in TABLES_ALL.iter().zip(&SPECS) {
            for index in 0..spec.rows {
                let cell = &words[layout::row_cells(*table, index)];
                rows_repaired += u64::from(seqlock::is_torn(cell));
                // Readers of an untouched row need not be disturbed.
                let mut no_words = [];
                if seqlock::read(cell, &mut no_words) != seqlock::Read::Empty {
                    seqlock::write_fused(cell, None, &mut fuse);
                }
            }
            store(
                &mut fuse,
                header::USED + *table as usize,
                0,
                Ordering::Relaxed,
            );
        }
        for index in 0..COUNTERS_MAX {
            store(&mut fuse, layout::counter_cell(index), 0, Ordering::Relaxed);
        }
        let instance = words[header::INSTANCE].load(Ordering::Relaxed);
        for (word, value) in [
            (header::VERSION, LAYOUT_VERSION),
            (header::FINGERPRINT, FINGERPRINT),
            (header::LEN_BYTES, layout::SEGMENT_BYTES as u64),
            (header::PID, u64::from(birth.pid)),
            (header::STARTED_UNIX_NS, birth.unix_ns),
            (header::STARTED_NS, birth.now_ns),
            (header::HEARTBEAT_NS, birth.now_ns),
            (header::ROWS_REPAIRED, rows_repaired),
            (header::ROWS_LOST, 0),
            (header::RING_FAULTS, 0),
            (header::COMPLETIONS_LOST, 0),
            (header::STATE, STATE_OPEN),
        ] {
            store(&mut fuse, word, value, Ordering::Relaxed);
        }
        let commands = Consumer::attach(Cells::new(&mapping, layout::COMMANDS), RING);
        let completions = Producer::attach(Cells::new(&mapping, layout::COMPLETIONS), RING);
        // Release: pairs with the Acquire in `SegmentReader::instance`; who sees the
        // new instance sees cleared tables, and rings that are listened to.
        let next = instance.wrapping_add(1).max(birth.unix_ns);
        store(&mut fuse, header::INSTANCE, next, Ordering::Release);
        // Release: pairs with the Acquire in `examine`; a new file is whole from here on.
        store(&mut fuse, header::MAGIC, layout::MAGIC, Ordering::Release);
        Self {
            mapping,
            commands,
            completions,
            rows_repaired,
            replaced: None,
            fuse,
        }
    }

    /// Rows that were half-written when the last data plane died.
    #[must_use]
    pub const fn rows_repaired(&self) -> u64 {
        self.rows_repaired
    }

    /// The layout of the segment that stood here and was replaced.
    #[must_use]
    pub const fn replaced(&self) -> Option<Layout> {
        self.replaced
    }

    /// Shows `row` at `index` of its table. A row beyond the table is not
    /// shown, and counted as lost.
    pub fn put<T: Row>(&mut self, index: usize, row: &T) {
        if index >= SPECS[T::TABLE as usize].rows {
            self.count(header::ROWS_LOST);
            return;
        }
        let mut words = [0; ROW_WORDS_MAX];
        row.encode(&mut words[..T::WORDS]);
        let all = self.mapping.words();
        seqlock::write_fused(
            &all[layout::row_cells(T::TABLE, index)],
            Some(&words[..T::WORDS]),
            &mut self.fuse,
        );
        let used = header::USED + T::TABLE as usize;
        // A reader that misses the newest row sees it next time.
        if self.load(used) <= index as u64 {
            self.store(used, index as u64 + 1);
        }
    }

    /// Takes the row at `index` away.
    pub fn clear(&mut self, table: Table, index: usize) {
        if index < SPECS[table as usize].rows {
            let cell = &self.mapping.words()[layout::row_cells(table, index)];
            seqlock::write_fused(cell, None, &mut self.fuse);
        }
    }

    /// Takes away every row from `first` on: for tables that are shown as a list.
    pub fn clear_from(&mut self, table: Table, first: usize) {
        let rows = SPECS[table as usize].rows;
        let used = self.load(header::USED + table as usize);
        let used = usize::try_from(used).map_or(rows, |used| used.min(rows));
        for index in first..used {
            self.clear(table, index);
        }
        if first < used {
            self.store(header::USED + table as usize, first as u64);
        }
    }

    /// Gives a counter its name, at start.
    pub fn name_counter(&mut self, index: usize, name: &str) {
        self.put(index, &CounterName { name: text(name) });
    }

    /// Shows a counter's value; one beyond the segment is not shown.
    pub fn set_counter(&mut self, index: usize, value: u64) {
        if index < COUNTERS_MAX {
            self.store(layout::counter_cell(index), value);
        }
    }

    /// Shows that the worker is alive; `now_ns` as of [`monotonic_ns`].
    pub fn heartbeat(&mut self, now_ns: u64) {
        self.store(header::HEARTBEAT_NS, now_ns);
    }

    /// The next command with its id, to be answered with [`SegmentWriter::complete`].
    /// What is not a command has been refused and counted.
    pub fn next_command(&mut self) -> Option<(u64, Command)> {
        let mut message = [0; MESSAGE_WORDS];
        // A flood of nonsense ends with the ring, not before.
        for _ in 0..RING.slots {
            match self.commands.pop(&mut message) {
                Ok(false) => return None,
                Ok(true) => match Command::decode(&message) {
                    (id, Some(command)) => return Some((id, command)),
                    (id, None) => {
                        self.count(header::RING_FAULTS);
                        self.complete(&Completion::new(id, Outcome::Malformed, 0));
                    }
                },
                Err(_) => self.count(header::RING_FAULTS),
            }
        }
        None
    }

    /// Answers a command. If the daemon does not take its answers the newest are
    /// dropped and counted; it asks again.
    pub fn complete(&mut self, completion: &Completion) {
        if self.completions.push(&completion.encode()).is_err() {
            self.count(header::COMPLETIONS_LOST);
        }
    }

    fn count(&mut self, word: usize) {
        self.store(word, self.load(word).wrapping_add(1));
    }

    fn load(&self, word: usize) -> u64 {
        let cell: &AtomicU64 = &self.mapping.words()[word];
        // Relaxed: only this writer stores it.
        cell.load(Ordering::Relaxed)
    }

    /// A word that stands for itself.
    fn store(&mut self, word: usize, value: u64) {
        if self.fuse.burn() {
            // Relaxed: nothing else is to be seen with it.
            self.mapping.words()[word].store(value, Ordering::Relaxed);
        }
    }

    /// Replaces the fuse that all stores but the rings' go through.
    pub fn set_fuse(&mut self, fuse: Fuse) {
        self.fuse = fuse;
    }

    pub fn fuse(&self) -> &Fuse {
        &self.fuse
    }
}

/// A writer that goes in good order says so; one that is killed does not.
impl Drop for SegmentWriter {
    fn drop(&mut self) {
        self.store(header::STATE, STATE_CLOSED);
    }
}

const TABLES_ALL: [Table; SPECS.len()] = [
    Table::Ports,
    Table::Routes,
    Table::Neighbours,
    Table::Sessions,
    Table::Volumes,
    Table::Buffers,
    Table::Runtime,
    Table::CounterNames,
    Table::FailedWrites,
    Table::Journals,
    Table::Events,
    Table::Paths,
    Table::Reservations,
    Table::Allocations,
];

/// Takes the data plane's lock. One that was just killed may still be going:
/// its lock is waited for a little, since whoever restarts it does not know.
fn lock_soon(file: &File) -> io::Result<bool> {
    const TRIES: u32 = 30;
    for _ in 0..TRIES {
        if map::try_lock(file, Role::DataPlane)? {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(false)
}

/// Whether the open file is the one that the path names.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(own), Ok(named)) => (own.dev(), own.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

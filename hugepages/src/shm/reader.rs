//! The read-only side: tables and counters as they stand, with or without a
//! data plane alive.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::layout::{self, SEGMENT_BYTES, header};
use super::map::{self, Mapping, Role};
use super::writer::{STATE_CLOSED, is_at};
use super::{HEARTBEAT_STALE, Layout, SegmentError, seqlock};
use crate::atomic::Ordering;
use crate::tables::{
    COUNTERS_MAX, CounterName, FINGERPRINT, LAYOUT_VERSION, ROW_WORDS_MAX, Row, SPECS,
};

/// What a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Known,
    /// No bytes, or all that was written so far is nothing.
    Empty,
    Foreign,
    Other(Layout),
}

/// Looks at the first words of a file, before any of it is mapped.
pub(super) fn examine(file: &File) -> io::Result<Found> {
    let len = file.metadata()?.len();
    if len == 0 {
        return Ok(Found::Empty);
    }
    let mut bytes = [0; 32];
    if len < bytes.len() as u64 {
        return Ok(Found::Foreign);
    }
    file.read_exact_at(&mut bytes, 0)?;
    let word = |index: usize| {
        let bytes = bytes[index * 8..][..8].try_into().expect("eight bytes");
        u64::from_ne_bytes(bytes)
    };
    match word(header::MAGIC) {
        0 => {
            return Ok(if len == SEGMENT_BYTES as u64 {
                Found::Empty
            } else {
                Found::Foreign
            });
        }
        layout::MAGIC => {}
        _ => return Ok(Found::Foreign),
    }
    let layout = Layout {
        version: word(header::VERSION),
        fingerprint: word(header::FINGERPRINT),
    };
    let lengths_agree = len == SEGMENT_BYTES as u64 && word(header::LEN_BYTES) == len;
    Ok(if layout == KNOWN && lengths_agree {
        Found::Known
    } else {
        Found::Other(layout)
    })
}

const KNOWN: Layout = Layout {
    version: LAYOUT_VERSION,
    fingerprint: FINGERPRINT,
};

/// The pid in a header, for an error message; 0 if it cannot be read.
pub(super) fn pid_of(file: &File) -> u64 {
    let mut bytes = [0; 8];
    let read = file.read_exact_at(&mut bytes, header::PID as u64 * 8);
    read.map_or(0, |()| u64::from_ne_bytes(bytes))
}

/// A segment opened for reading.
#[derive(Debug)]
pub struct SegmentReader {
    pub(super) mapping: Arc<Mapping>,
    pub(super) path: PathBuf,
}

/// The rows of a table, with what could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    /// Index and row.
    pub rows: Vec<(usize, T)>,
    /// Rows that were being written at every try.
    pub stale: usize,
    /// Rows whose words mean nothing.
    pub malformed: usize,
}

/// A counter with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub name: String,
    pub count: u64,
}

/// Whether what a segment shows is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vitality {
    Alive,
    /// The process lives, its worker has not come round for this long.
    Stuck {
        silent_for: Duration,
    },
    /// Ended in good order.
    Stopped {
        silent_for: Duration,
    },
    /// Gone without a word.
    Dead {
        silent_for: Duration,
    },
}

impl SegmentReader {
    /// Opens and maps the segment read-only.
    ///
    /// # Errors
    /// Not there, not whole yet, not ours, or of another layout.
    pub fn open(path: &Path) -> Result<Self, SegmentError> {
        Self::map(path, false)
    }

    pub(super) fn map(path: &Path, writable: bool) -> Result<Self, SegmentError> {
        let fail = |action| {
            move |source| SegmentError::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        let file = match OpenOptions::new().read(true).write(writable).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SegmentError::NotThere {
                    path: path.to_owned(),
                });
            }
            Err(source) => return Err(fail("open it")(source)),
        };
        match examine(&file).map_err(fail("read it"))? {
            Found::Known => {}
            Found::Empty => {
                return Err(SegmentError::NotReady {
                    path: path.to_owned(),
                });
            }
            Found::Foreign => {
                return Err(SegmentError::Foreign {
                    path: path.to_owned(),
                });
            }
            Found::Other(found) => {
                return Err(SegmentError::Version {
                    path: path.to_owned(),
                    found,
                    known: KNOWN,
                });
            }
        }
        let mapping = Mapping::new(file, writable).map_err(fail("map it"))?;
        // Acquire: pairs with the last store of `SegmentWriter::start`; the header is whole.
        let magic = mapping.words()[header::MAGIC].load(Ordering::Acquire);
        if magic != layout::MAGIC {
            return Err(SegmentError::NotReady {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            mapping: Arc::new(mapping),
            path: path.to_owned(),
        })
    }

    /// All rows of a table.
    #[must_use]
    pub fn rows<T: Row>(&self) -> Rows<T> {
        let mut out = Rows {
            rows: Vec::new(),
            stale: 0,
            malformed: 0,
        };
        let used = self.word(header::USED + T::TABLE as usize);
        let rows = SPECS[T::TABLE as usize].rows;
        let used = usize::try_from(used).map_or(rows, |used| used.min(rows));
        let mut words = [0; ROW_WORDS_MAX];
        for index in 0..used {
            let cell = &self.mapping.words()[layout::row_cells(T::TABLE, index)];
            match seqlock::read(cell, &mut words[..T::WORDS]) {
                seqlock::Read::Empty => {}
                seqlock::Read::Stale => out.stale += 1,
                seqlock::Read::Present => match T::decode(&words[..T::WORDS]) {
                    Some(row) => out.rows.push((index, row)),
                    None => out.malformed += 1,
                },
            }
        }
        out
    }

    /// Every named counter.
    #[must_use]
    pub fn counters(&self) -> Vec<Counter> {
        let names = self.rows::<CounterName>().rows;
        let value = |index: usize| self.word(layout::counter_cell(index.min(COUNTERS_MAX - 1)));
        let counter = |(index, row): (usize, CounterName)| Counter {
            name: row.name.to_string(),
            count: value(index),
        };
        names.into_iter().map(counter).collect()
    }

    /// Another value after every start of a data plane.
    #[must_use]
    pub fn instance(&self) -> u64 {
        // Acquire: pairs with the Release in `SegmentWriter::start`.
        self.mapping.words()[header::INSTANCE].load(Ordering::Acquire)
    }

    /// Process id of the data plane.
    #[must_use]
    pub fn pid(&self) -> u64 {
        self.word(header::PID)
    }

    /// Start of the data plane, nanoseconds since 1970.
    #[must_use]
    pub fn started_unix_ns(&self) -> u64 {
        self.word(header::STARTED_UNIX_NS)
    }

    /// Start of the data plane, nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn started_ns(&self) -> u64 {
        self.word(header::STARTED_NS)
    }

    /// Last sign of life of the worker, nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn heartbeat_ns(&self) -> u64 {
        self.word(header::HEARTBEAT_NS)
    }

    /// What the writer's side counted about the segment itself: rows beyond a
    /// table, impossible messages, answers nobody took, rows repaired at attach.
    #[must_use]
    pub fn faults(&self) -> [(&'static str, u64); 4] {
        [
            ("segment.rows_lost", self.word(header::ROWS_LOST)),
            ("segment.ring_faults", self.word(header::RING_FAULTS)),
            (
                "segment.completions_lost",
                self.word(header::COMPLETIONS_LOST),
            ),
            ("segment.rows_repaired", self.word(header::ROWS_REPAIRED)),
        ]
    }

    /// Whether the tables are current; `now_ns` as of [`super::monotonic_ns`].
    #[must_use]
    pub fn vitality(&self, now_ns: u64) -> Vitality {
        let silent_for = Duration::from_nanos(now_ns.saturating_sub(self.heartbeat_ns()));
        // If the lock cannot be asked about, the heartbeat alone decides.
        let held = map::is_locked(&self.mapping.file, Role::DataPlane)
            .unwrap_or(silent_for < HEARTBEAT_STALE);
        match (held, self.word(header::STATE)) {
            (true, _) if silent_for < HEARTBEAT_STALE => Vitality::Alive,
            (true, _) => Vitality::Stuck { silent_for },
            (false, STATE_CLOSED) => Vitality::Stopped { silent_for },
            (false, _) => Vitality::Dead { silent_for },
        }
    }

    /// Whether the path names another file by now, or none.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        !is_at(&self.mapping.file, &self.path)
    }

    fn word(&self, index: usize) -> u64 {
        // Relaxed: each of these words stands for itself.
        self.mapping.words()[index].load(Ordering::Relaxed)
    }
}

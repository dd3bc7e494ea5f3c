//! A table of rows in the directory: each in two copies, updated by turns.
//!
//! What always holds: a stop in the middle of an update leaves the old row: the
//! other copy is written, and until its last store it is one of a lower
//! generation, sound or not.
//!
//! Not for: the hot path; an update is some sixty stores.

use super::layout::{ROW_BODY_LEN, ROW_COPY_LEN, high};
use super::memory::Memory;
use super::rows::Row;

/// The rows of one kind, mirrored in private memory.
#[derive(Debug)]
pub(super) struct Table<R> {
    rows: Vec<Option<R>>,
    places: Vec<Place>,
}

/// Where a row's current copy is.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: usize,
    /// 0 or 1.
    copy: usize,
    /// Of the current copy; 0 when there is none.
    generation: u64,
    damaged: bool,
}

/// A copy as it was found.
enum Copy<R> {
    Unwritten,
    Valid { generation: u64, row: Option<R> },
    Damaged { generation: u64 },
}

impl<R: Row> Table<R> {
    /// Reads all rows; a row that cannot be trusted is kept apart, neither
    /// shown nor used again.
    pub fn attach(memory: &Memory, offsets: impl Iterator<Item = usize>) -> Table<R> {
        let mut table = Table {
            rows: Vec::new(),
            places: Vec::new(),
        };
        for offset in offsets {
            let (row, place) = read_row(memory, offset);
            table.rows.push(row);
            table.places.push(place);
        }
        table
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &R)> {
        self.rows
            .iter()
            .enumerate()
            .filter_map(|(index, row)| Some((index, row.as_ref()?)))
    }

    pub fn get(&self, index: usize) -> Option<&R> {
        self.rows.get(index)?.as_ref()
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Rows that were damaged when the log was opened.
    pub fn damaged(&self) -> impl Iterator<Item = usize> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(index, place)| place.damaged.then_some(index))
    }

    /// Whether the row may be filled.
    pub fn is_vacant(&self, index: usize) -> bool {
        self.rows[index].is_none() && !self.places[index].damaged
    }

    /// Writes a row, or with `None` empties it.
    pub fn set(&mut self, memory: &mut Memory, index: usize, row: Option<R>) {
        let place = &mut self.places[index];
        place.generation += 1;
        place.copy = 1 - place.copy;
        place.damaged = false;
        let body = row.as_ref().map_or([0; ROW_BODY_LEN], Row::encode);
        write_copy(memory, place, row.is_some(), &body);
        self.rows[index] = row;
    }
}

fn read_row<R: Row>(memory: &Memory, offset: usize) -> (Option<R>, Place) {
    let copies = [0, 1].map(|copy| read_copy::<R>(memory, offset + copy * ROW_COPY_LEN));
    let generation = |copy: &Copy<R>| match *copy {
        Copy::Unwritten => 0,
        Copy::Valid { generation, .. } | Copy::Damaged { generation } => generation,
    };
    let copy = usize::from(generation(&copies[1]) > generation(&copies[0]));
    let place = Place {
        offset,
        copy,
        generation: generation(&copies[copy]),
        damaged: false,
    };
    let [first, second] = copies;
    match if copy == 0 { first } else { second } {
        Copy::Unwritten => (None, place),
        Copy::Valid { row, .. } => (row, place),
        // The older copy may lack a refusal of writes: it is not an answer.
        Copy::Damaged { .. } => (
            None,
            Place {
                damaged: true,
                ..place
            },
        ),
    }
}

fn read_copy<R: Row>(memory: &Memory, offset: usize) -> Copy<R> {
    let generation = memory.load(offset);
    if generation == 0 {
        return Copy::Unwritten;
    }
    let word = memory.load(offset + 8);
    let live = word & 0xff == 1;
    let body: &[u8; ROW_BODY_LEN] = memory
        .bytes(offset + 16, ROW_BODY_LEN)
        .try_into()
        .expect("a slice of that length");
    if word != tag(offset, generation, live, body) || generation == u64::MAX {
        return Copy::Damaged { generation };
    }
    match live.then(|| R::decode(body)) {
        None => Copy::Valid {
            generation,
            row: None,
        },
        Some(Some(row)) => Copy::Valid {
            generation,
            row: Some(row),
        },
        Some(None) => Copy::Damaged { generation },
    }
}

fn write_copy(memory: &mut Memory, place: &Place, live: bool, body: &[u8; ROW_BODY_LEN]) {
    let offset = place.offset + place.copy * ROW_COPY_LEN;
    for (index, word) in body.as_chunks::<8>().0.iter().enumerate() {
        memory.store(offset + 16 + index * 8, u64::from_le_bytes(*word));
    }
    memory.store(offset + 8, tag(offset, place.generation, live, body));
    memory.store(offset, place.generation);
}

/// Word 1 of a copy.
fn tag(offset: usize, generation: u64, live: bool, body: &[u8; ROW_BODY_LEN]) -> u64 {
    let crc = crc32c::crc32c(&(offset as u64).to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &generation.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &[u8::from(live)]);
    let crc = crc32c::crc32c_append(crc, body);
    let word = u64::from(crc) << 32 | u64::from(live);
    debug_assert_eq!(high(word), crc);
    word
}

//! A table of rows in the directory: each in two copies, written one behind the other.
//!
//! What always holds: a stop in the middle of an update leaves the old row or the new
//! one, whole in one copy at least; at rest both copies say the same, so that the one
//! stands in for the other when it rots.
//!
//! Not for: the hot path; an update is some hundred and twenty stores.

use super::layout::{ROW_BODY_LEN, ROW_COPY_LEN, high};
use super::memory::Memory;
use super::rows::Row;

/// The rows of one kind, mirrored in private memory.
#[derive(Debug)]
pub(super) struct Table<R> {
    rows: Vec<Option<R>>,
    places: Vec<Place>,
}

/// Where a row is, and how often it was written.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: usize,
    /// 0: never.
    generation: u64,
    damaged: bool,
}

/// A copy as it was found.
enum Copy<R> {
    Unwritten,
    Valid { generation: u64, row: Option<R> },
    Damaged,
}

impl<R: Row> Table<R> {
    /// Reads all rows, and makes a copy again that says less than the other; a row that
    /// cannot be trusted is kept apart, neither shown nor used again.
    pub fn attach(memory: &mut Memory, offsets: impl Iterator<Item = usize>) -> Table<R> {
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
        place.damaged = false;
        for copy in 0..2 {
            write_copy(memory, place.copy(copy), place.generation, row.as_ref());
        }
        self.rows[index] = row;
    }
}

impl Place {
    /// Offset of a copy, 0 or 1.
    fn copy(&self, copy: usize) -> usize {
        self.offset + copy * ROW_COPY_LEN
    }
}

fn read_row<R: Row>(memory: &mut Memory, offset: usize) -> (Option<R>, Place) {
    let mut place = Place {
        offset,
        generation: 0,
        damaged: false,
    };
    let copies = [0, 1].map(|copy| read_copy::<R>(memory, place.copy(copy)));
    let is_written = !copies.iter().any(|copy| matches!(copy, Copy::Unwritten));
    let generations = copies.each_ref().map(|copy| match *copy {
        Copy::Valid { generation, .. } => Some(generation),
        Copy::Unwritten | Copy::Damaged => None,
    });
    let newest = usize::from(generations[1] > generations[0]);
    let [first, second] = copies;
    match if newest == 0 { first } else { second } {
        Copy::Valid { generation, row } => {
            place.generation = generation;
            if generations[1 - newest] != Some(generation) {
                write_copy(memory, place.copy(1 - newest), generation, row.as_ref());
            }
            (row, place)
        }
        // The second copy is begun when the first one is whole: with one that was never
        // written, and the other not whole, nobody relies on either.
        Copy::Unwritten | Copy::Damaged => {
            place.damaged = is_written;
            (None, place)
        }
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
        return Copy::Damaged;
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
        Some(None) => Copy::Damaged,
    }
}

fn write_copy<R: Row>(memory: &mut Memory, offset: usize, generation: u64, row: Option<&R>) {
    let body = row.map_or([0; ROW_BODY_LEN], Row::encode);
    for (index, word) in body.as_chunks::<8>().0.iter().enumerate() {
        memory.store(offset + 16 + index * 8, u64::from_le_bytes(*word));
    }
    memory.store(offset + 8, tag(offset, generation, row.is_some(), &body));
    memory.store(offset, generation);
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

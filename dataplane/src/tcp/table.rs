//! The flow table: slots of fixed number, found by 4-tuple or by [`FlowId`].
//!
//! A slot's index is reused, its generation is not, so a `FlowId` kept too
//! long finds nothing rather than a stranger. The index from 4-tuples to
//! slots is open addressing with linear probing at most half full, under a
//! keyed hash; nothing is allocated after construction. What stands in a slot
//! is the caller's business.

use super::keyed::{FourTuple, Keyed};
use super::queue::NONE;

/// A flow, for as long as its owner has not been told that it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId {
    index: u32,
    generation: u32,
}

impl FlowId {
    /// Below the table's number of slots, and of no other live flow: an index
    /// for tables that run beside this one.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }
}

#[derive(Debug)]
struct Cell<E> {
    generation: u32,
    tuple: FourTuple,
    hash: u64,
    /// Whether `tuple` leads here.
    bound: bool,
    entry: Option<E>,
    next_free: u32,
}

#[derive(Debug)]
pub(super) struct Table<E> {
    keyed: Keyed,
    cells: Vec<Cell<E>>,
    free: u32,
    /// Slot indices by hash; its length is a power of two.
    buckets: Vec<u32>,
    /// Most segments belong to the flow of the segment before.
    last_hit: u32,
}

impl<E> Table<E> {
    pub fn new(slots: u32, keyed: Keyed) -> Self {
        let nobody = std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0);
        let cells = (0..slots)
            .map(|index| Cell {
                generation: 0,
                tuple: FourTuple {
                    local: nobody,
                    remote: nobody,
                },
                hash: 0,
                bound: false,
                entry: None,
                next_free: if index + 1 < slots { index + 1 } else { NONE },
            })
            .collect();
        let buckets = vec![NONE; (slots as usize * 2).next_power_of_two().max(2)];
        Self {
            keyed,
            cells,
            free: if slots == 0 { NONE } else { 0 },
            buckets,
            last_hit: NONE,
        }
    }

    pub fn get(&self, index: u32) -> Option<&E> {
        self.cells[index as usize].entry.as_ref()
    }

    pub fn get_mut(&mut self, index: u32) -> Option<&mut E> {
        self.cells[index as usize].entry.as_mut()
    }

    pub fn tuple(&self, index: u32) -> FourTuple {
        self.cells[index as usize].tuple
    }

    pub fn id(&self, index: u32) -> FlowId {
        FlowId {
            index,
            generation: self.cells[index as usize].generation,
        }
    }

    /// The slot of a flow that still lives.
    pub fn slot(&self, id: FlowId) -> Option<u32> {
        let cell = self.cells.get(id.index as usize)?;
        (cell.generation == id.generation && cell.entry.is_some()).then_some(id.index)
    }

    /// The slot that `tuple` leads to.
    pub fn find(&mut self, tuple: &FourTuple) -> Option<u32> {
        if let Some(cell) = self.cells.get(self.last_hit as usize)
            && cell.bound
            && cell.tuple == *tuple
        {
            return Some(self.last_hit);
        }
        let mut at = self.bucket(self.keyed.index(tuple));
        loop {
            let index = self.buckets[at];
            if index == NONE {
                return None;
            }
            if self.cells[index as usize].tuple == *tuple {
                self.last_hit = index;
                return Some(index);
            }
            at = self.after(at);
        }
    }

    /// Puts `entry` into a free slot that `tuple` leads to from now on.
    ///
    /// # Panics
    /// If `tuple` leads to a slot already, or no slot is free: the caller
    /// counts its kinds of entries and owns their sum.
    pub fn insert(&mut self, tuple: FourTuple, entry: E) -> u32 {
        assert!(self.find(&tuple).is_none(), "one slot a connection");
        let index = self.free;
        assert!(
            index != NONE,
            "the limits of the kinds of entries add up to the slots"
        );
        let hash = self.keyed.index(&tuple);
        let mut at = self.bucket(hash);
        while self.buckets[at] != NONE {
            at = self.after(at);
        }
        self.buckets[at] = index;
        let cell = &mut self.cells[index as usize];
        self.free = cell.next_free;
        (cell.tuple, cell.hash, cell.bound, cell.entry) = (tuple, hash, true, Some(entry));
        index
    }

    /// The slot that the next `insert` will take; meaningless if none is free.
    pub const fn next_index(&self) -> u32 {
        self.free
    }

    /// Replaces what stands in a slot, giving back what stood there.
    pub fn replace(&mut self, index: u32, entry: E) -> Option<E> {
        self.cells[index as usize].entry.replace(entry)
    }

    /// From now on the slot's 4-tuple leads nowhere; the slot stays.
    pub fn unbind(&mut self, index: u32) {
        let cell = &mut self.cells[index as usize];
        if !std::mem::take(&mut cell.bound) {
            return;
        }
        let hash = cell.hash;
        let mut hole = self.bucket(hash);
        while self.buckets[hole] != index {
            hole = self.after(hole);
        }
        // Backward shift: whoever probed past the hole and may stand in it moves there.
        let mut at = self.after(hole);
        while self.buckets[at] != NONE {
            let home = self.bucket(self.cells[self.buckets[at] as usize].hash);
            let mask = self.buckets.len() - 1;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.buckets[hole] = self.buckets[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.buckets[hole] = NONE;
    }

    /// Frees a slot; its `FlowId`s find nothing any more.
    pub fn remove(&mut self, index: u32) -> Option<E> {
        self.unbind(index);
        let cell = &mut self.cells[index as usize];
        let entry = cell.entry.take()?;
        cell.generation = cell.generation.wrapping_add(1);
        cell.next_free = self.free;
        self.free = index;
        Some(entry)
    }

    /// All occupied slots, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &E)> {
        (0u32..)
            .zip(&self.cells)
            .filter_map(|(index, cell)| Some((index, cell.entry.as_ref()?)))
    }

    fn bucket(&self, hash: u64) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "masked to the number of buckets"
        )]
        let hash = hash as usize;
        hash & (self.buckets.len() - 1)
    }

    fn after(&self, bucket: usize) -> usize {
        (bucket + 1) & (self.buckets.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, SocketAddrV4};

    fn tuple(port: u16) -> FourTuple {
        FourTuple {
            local: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 3260),
            remote: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), port),
        }
    }

    proptest! {
        #[test]
        fn finds_what_a_map_would(steps in proptest::collection::vec((0u8..4, 0u16..24), 0..300)) {
            let mut table = Table::new(16, Keyed::new([1; 16]));
            let mut bound: BTreeMap<u16, FlowId> = BTreeMap::new();
            let mut gone: Vec<FlowId> = Vec::new();
            let mut unbound: Vec<FlowId> = Vec::new();
            for (step, port) in steps {
                match step {
                    0 | 1 if !bound.contains_key(&port) && bound.len() + unbound.len() < 16 => {
                        let index = table.insert(tuple(port), port);
                        bound.insert(port, table.id(index));
                    }
                    2 => if let Some(id) = bound.remove(&port) {
                        prop_assert_eq!(table.remove(id.index()), Some(port));
                        gone.push(id);
                    },
                    3 => if let Some(id) = bound.remove(&port) {
                        table.unbind(id.index());
                        unbound.push(id);
                    } else if let Some(id) = unbound.pop() {
                        prop_assert!(table.remove(id.index()).is_some());
                        gone.push(id);
                    },
                    _ => {}
                }
                for port in 0..24 {
                    prop_assert_eq!(table.find(&tuple(port)).map(|i| table.id(i)), bound.get(&port).copied());
                }
                for &id in bound.values().chain(&unbound) {
                    prop_assert_eq!(table.slot(id), Some(id.index()));
                }
                for &id in &gone {
                    prop_assert_eq!(table.slot(id), None);
                }
                prop_assert_eq!(table.iter().count(), bound.len() + unbound.len());
            }
        }
    }
}

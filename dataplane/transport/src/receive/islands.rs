//! Data out of order: islands, each a chain of the parts that make it up.

use super::Part;
use crate::segment::SACK_BLOCKS_MAX;
use arrayvec::ArrayVec;
use std::collections::VecDeque;

/// Most islands at a time; every hole in a flight makes one.
const ISLANDS_MAX: usize = 4096;

/// How many islands are remembered by when they were added to.
const RECENT_MAX: usize = 2 * SACK_BLOCKS_MAX;

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node<R> {
    part: Option<Part<R>>,
    next: u32,
}

/// Parts by number; grows to the most that were held at once, and never beyond `max`.
#[derive(Debug)]
pub(super) struct Nodes<R> {
    nodes: Vec<Node<R>>,
    first_free: u32,
    used: u32,
    max: u32,
}

impl<R> Nodes<R> {
    pub fn new(max: u32) -> Self {
        Self {
            nodes: Vec::with_capacity(max.min(64) as usize),
            first_free: NONE,
            used: 0,
            max,
        }
    }

    /// Most that so many take; both lists double.
    pub const fn heap_len(max: usize) -> usize {
        let islands = if max < ISLANDS_MAX { max } else { ISLANDS_MAX };
        max.next_power_of_two() * size_of::<Node<R>>()
            + islands.next_power_of_two() * size_of::<Island>()
    }

    pub fn max(&self) -> u32 {
        self.max
    }

    pub fn free(&self) -> u32 {
        self.max - self.used
    }

    pub fn add(&mut self, part: Part<R>) -> Result<u32, Part<R>> {
        if self.used == self.max {
            return Err(part);
        }
        self.used += 1;
        let part = Some(part);
        if self.first_free == NONE {
            self.nodes.push(Node { part, next: NONE });
            return Ok(u32::try_from(self.nodes.len() - 1).expect("below max"));
        }
        let number = self.first_free;
        let node = &mut self.nodes[number as usize];
        self.first_free = node.next;
        *node = Node { part, next: NONE };
        Ok(number)
    }

    fn remove(&mut self, number: u32) -> Option<Part<R>> {
        let node = &mut self.nodes[number as usize];
        node.next = self.first_free;
        self.first_free = number;
        self.used -= 1;
        node.part.take()
    }
}

/// Parts that follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    head: u32,
    tail: u32,
}

impl Chain {
    pub const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
    };

    pub fn of(node: u32) -> Self {
        Self {
            head: node,
            tail: node,
        }
    }

    pub fn append<R>(&mut self, other: Self, nodes: &mut Nodes<R>) {
        if self.head == NONE {
            *self = other;
        } else if other.head != NONE {
            nodes.nodes[self.tail as usize].next = other.head;
            self.tail = other.tail;
        }
    }

    pub fn pop<R>(&mut self, nodes: &mut Nodes<R>) -> Option<Part<R>> {
        if self.head == NONE {
            return None;
        }
        let number = self.head;
        self.head = nodes.nodes[number as usize].next;
        nodes.remove(number)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Island {
    pub start: u64,
    pub end: u64,
    pub chain: Chain,
}

/// By offset; no two touch.
#[derive(Debug, Default)]
pub(super) struct Islands {
    islands: VecDeque<Island>,
    /// Somewhere in each of the last ones added to, newest first.
    recent: ArrayVec<u64, RECENT_MAX>,
}

impl Islands {
    pub fn is_empty(&self) -> bool {
        self.islands.is_empty()
    }

    pub fn has_room(&self) -> bool {
        self.islands.len() < ISLANDS_MAX
    }

    /// The first part of the range that is not here.
    pub fn gap(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let index = self.islands.partition_point(|island| island.end <= start);
        let Some(island) = self.islands.get(index) else {
            return Some((start, end));
        };
        if island.start > start {
            return Some((start, end.min(island.start)));
        }
        if island.end >= end {
            return None;
        }
        // Islands do not touch, so a gap follows.
        let after = self.islands.get(index + 1).map_or(end, |next| next.start);
        Some((island.end, end.min(after)))
    }

    /// Puts in a part that is a gap.
    pub fn insert<R>(&mut self, (start, end): (u64, u64), node: u32, nodes: &mut Nodes<R>) {
        let index = self.islands.partition_point(|island| island.end < start);
        let mut chain = Chain::of(node);
        match self.islands.get_mut(index) {
            Some(island) if island.end == start => {
                island.chain.append(chain, nodes);
                island.end = end;
                let (left, right) = (index, index + 1);
                if let Some(&next) = self.islands.get(right)
                    && next.start == end
                {
                    self.islands[left].chain.append(next.chain, nodes);
                    self.islands[left].end = next.end;
                    self.islands.remove(right);
                }
            }
            Some(island) if island.start == end => {
                chain.append(island.chain, nodes);
                island.chain = chain;
                island.start = start;
            }
            _ => self.islands.insert(index, Island { start, end, chain }),
        }
        self.touch(start);
    }

    /// The island at `at` has been heard of.
    pub fn touch(&mut self, at: u64) {
        let Some(island) = self.find(at) else { return };
        self.recent
            .retain(|&mut other| !(island.0 <= other && other < island.1));
        if self.recent.is_full() {
            self.recent.pop();
        }
        self.recent.insert(0, at);
    }

    /// The islands last heard of, newest first, `max` of them.
    pub fn recent(&mut self, max: usize, out: &mut ArrayVec<(u64, u64), SACK_BLOCKS_MAX>) {
        let islands = &self.islands;
        // What has become part of the stream is no island any more.
        self.recent.retain(|&mut at| find(islands, at).is_some());
        let mut left = max;
        for &at in &self.recent {
            if left == 0 {
                break;
            }
            if let Some(block) = find(islands, at)
                && !out.iter().skip(1).any(|other| *other == block)
                && out.try_push(block).is_ok()
            {
                left -= 1;
            }
        }
    }

    fn find(&self, at: u64) -> Option<(u64, u64)> {
        find(&self.islands, at)
    }

    pub fn take_first(&mut self) -> Option<Island> {
        self.islands.pop_front()
    }

    pub fn take_first_at(&mut self, start: u64) -> Option<Island> {
        self.islands.pop_front_if(|island| island.start == start)
    }
}

fn find(islands: &VecDeque<Island>, at: u64) -> Option<(u64, u64)> {
    let index = islands.partition_point(|island| island.end <= at);
    let island = islands.get(index).filter(|island| island.start <= at)?;
    Some((island.start, island.end))
}

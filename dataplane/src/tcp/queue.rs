//! A first-in first-out queue of slot indices, on fixed memory.
//!
//! Every index is in the queue at most once; joining, leaving from anywhere
//! and taking the oldest are O(1) and allocate nothing. It holds no times: a
//! queue whose members all wait equally long is in order of expiry by itself
//! (half-open handshakes, TIME-WAIT), which is why those two need no wheel.

/// No slot: the end of a chain.
pub(super) const NONE: u32 = u32::MAX;
/// In `prev` of an index that is not in the queue.
const OUT: u32 = u32::MAX - 1;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

#[derive(Debug)]
pub(super) struct Queue {
    links: Vec<Link>,
    head: u32,
    tail: u32,
    len: u32,
}

impl Queue {
    /// An empty queue for the indices below `slots`.
    pub fn new(slots: u32) -> Self {
        let out = Link {
            prev: OUT,
            next: NONE,
        };
        Self {
            links: vec![out; slots as usize],
            head: NONE,
            tail: NONE,
            len: 0,
        }
    }

    pub const fn len(&self) -> u32 {
        self.len
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn contains(&self, index: u32) -> bool {
        self.links[index as usize].prev != OUT
    }

    /// The index that has waited longest.
    pub const fn front(&self) -> Option<u32> {
        if self.head == NONE {
            None
        } else {
            Some(self.head)
        }
    }

    /// Appends `index`, unless it is in the queue already (then it keeps its place).
    pub fn push(&mut self, index: u32) {
        if self.contains(index) {
            return;
        }
        self.links[index as usize] = Link {
            prev: self.tail,
            next: NONE,
        };
        match self.tail {
            NONE => self.head = index,
            tail => self.links[tail as usize].next = index,
        }
        self.tail = index;
        self.len += 1;
    }

    /// Takes out the index that has waited longest.
    pub fn pop(&mut self) -> Option<u32> {
        let index = self.front()?;
        self.remove(index);
        Some(index)
    }

    /// Takes out `index` if it is there.
    pub fn remove(&mut self, index: u32) {
        let Link { prev, next } = self.links[index as usize];
        if prev == OUT {
            return;
        }
        match prev {
            NONE => self.head = next,
            prev => self.links[prev as usize].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => self.links[next as usize].prev = prev,
        }
        self.links[index as usize] = Link {
            prev: OUT,
            next: NONE,
        };
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn behaves_as_a_deque_without_duplicates(steps in proptest::collection::vec((0u8..3, 0u32..8), 0..200)) {
            let mut queue = Queue::new(8);
            let mut oracle: VecDeque<u32> = VecDeque::new();
            for (step, index) in steps {
                match step {
                    0 => {
                        queue.push(index);
                        if !oracle.contains(&index) {
                            oracle.push_back(index);
                        }
                    }
                    1 => {
                        queue.remove(index);
                        oracle.retain(|&other| other != index);
                    }
                    _ => prop_assert_eq!(queue.pop(), oracle.pop_front()),
                }
                prop_assert_eq!(queue.front(), oracle.front().copied());
                prop_assert_eq!(queue.len() as usize, oracle.len());
                prop_assert_eq!(queue.contains(index), oracle.contains(&index));
            }
        }
    }
}

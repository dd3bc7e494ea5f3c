//! A single-producer single-consumer ring of fixed-size messages in cells that
//! two processes share.
//!
//! ```text
//!   word 0        8          16              16 + W          …
//!   ┌───────────┬───────────┬───────────────┬───────────────┬───
//!   │ tail      │ head      │ slot 0        │ slot 1        │
//!   │ (producer)│ (consumer)│ W words       │ W words       │
//!   └───────────┴───────────┴───────────────┴───────────────┴───
//! ```
//! `tail` and `head` count messages and never wrap in practice; a slot is a
//! count modulo the number of slots. Each side stores only its own index and
//! keeps it privately too, so that the other side can never move it.
//!
//! What always holds: a message is read only after all of it was written, and
//! a slot is written only after it was read. An index of the other side that
//! cannot be (more than the ring holds ahead) is a [`RingFault`], never a read
//! or write outside the ring. Not for: several producers, or waking anyone.

use std::ops::Deref;

use crate::atomic::{AtomicU64, Ordering};

const TAIL: usize = 0;
/// On a cache line of its own: the two sides do not write the same line.
const HEAD: usize = 8;
const SLOTS: usize = 16;

/// Size of a ring: how many messages, of how many words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingShape {
    pub slots: usize,
    pub message_words: usize,
}

impl RingShape {
    /// Cells that a ring of this shape takes.
    #[must_use]
    pub const fn cells(self) -> usize {
        SLOTS + self.slots * self.message_words
    }

    fn slot(self, count: u64) -> std::ops::Range<usize> {
        let slot = usize::try_from(count % self.slots as u64).expect("less than slots, a usize");
        let start = SLOTS + slot * self.message_words;
        start..start + self.message_words
    }
}

/// The other side's index is one that it cannot have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFault;

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    Full,
    Fault(RingFault),
}

/// The side that writes messages.
#[derive(Debug)]
pub struct Producer<C> {
    cells: C,
    shape: RingShape,
    tail: u64,
    /// The consumer's index when last looked at: only ever too low, which is safe.
    head_seen: u64,
}

/// The side that reads messages.
#[derive(Debug)]
pub struct Consumer<C> {
    cells: C,
    shape: RingShape,
    head: u64,
    /// The producer's index when last looked at: only ever too low, which is safe.
    tail_seen: u64,
}

impl<C: Deref<Target = [AtomicU64]>> Producer<C> {
    /// Goes on where the last producer of these cells stopped.
    ///
    /// # Panics
    /// If the cells are not as many as the shape takes.
    #[must_use]
    pub fn attach(cells: C, shape: RingShape) -> Self {
        assert!(
            shape.slots > 0 && cells.len() == shape.cells(),
            "cells must fit the shape"
        );
        // Relaxed: our own index, stored by a producer that is no more.
        let tail = cells[TAIL].load(Ordering::Relaxed);
        // Looked at again before the first message, since it says "full".
        let head_seen = tail.wrapping_sub(shape.slots as u64);
        Self {
            cells,
            shape,
            tail,
            head_seen,
        }
    }

    /// Appends a message; missing words at its end are zero.
    ///
    /// # Errors
    /// No slot is free, or the consumer's index is impossible.
    ///
    /// # Panics
    /// If the message is longer than a slot.
    pub fn push(&mut self, message: &[u64]) -> Result<(), PushError> {
        assert!(
            message.len() <= self.shape.message_words,
            "a message fits its slot"
        );
        let slots = self.shape.slots as u64;
        if self.tail.wrapping_sub(self.head_seen) >= slots {
            // Acquire: pairs with the consumer's Release of `head`; its reads of
            // the slot come before our writes to it.
            let head = self.cells[HEAD].load(Ordering::Acquire);
            let held = self.tail.wrapping_sub(head);
            if held > slots {
                return Err(PushError::Fault(RingFault));
            }
            if held == slots {
                return Err(PushError::Full);
            }
            self.head_seen = head;
        }
        let slot = &self.cells[self.shape.slot(self.tail)];
        let zeros = std::iter::repeat(&0);
        for (cell, word) in slot.iter().zip(message.iter().chain(zeros)) {
            // Relaxed: published by the Release of `tail` below.
            cell.store(*word, Ordering::Relaxed);
        }
        self.tail = self.tail.wrapping_add(1);
        // Release: pairs with the consumer's Acquire of `tail`.
        self.cells[TAIL].store(self.tail, Ordering::Release);
        Ok(())
    }
}

impl<C: Deref<Target = [AtomicU64]>> Consumer<C> {
    /// Starts behind the last message: what was meant for the consumer before
    /// this one is dropped.
    ///
    /// # Panics
    /// If the cells are not as many as the shape takes.
    #[must_use]
    pub fn attach(cells: C, shape: RingShape) -> Self {
        assert!(
            shape.slots > 0 && cells.len() == shape.cells(),
            "cells must fit the shape"
        );
        // Acquire: pairs with the producer's Release of `tail`.
        let tail = cells[TAIL].load(Ordering::Acquire);
        // Release: pairs with the producer's Acquire of `head`.
        cells[HEAD].store(tail, Ordering::Release);
        Self {
            cells,
            shape,
            head: tail,
            tail_seen: tail,
        }
    }

    /// Takes the oldest message into `message`; `false` if there is none.
    ///
    /// # Errors
    /// The producer's index is impossible; what stands in the ring is dropped,
    /// so that the next message comes through.
    ///
    /// # Panics
    /// If `message` is not as long as a slot.
    pub fn pop(&mut self, message: &mut [u64]) -> Result<bool, RingFault> {
        assert_eq!(
            message.len(),
            self.shape.message_words,
            "a slot is copied out whole"
        );
        if self.head == self.tail_seen {
            // Acquire: pairs with the producer's Release of `tail`; the words
            // of the message are there.
            let tail = self.cells[TAIL].load(Ordering::Acquire);
            if tail == self.head {
                return Ok(false);
            }
            if tail.wrapping_sub(self.head) > self.shape.slots as u64 {
                self.head = tail;
                self.tail_seen = tail;
                // Release: as below.
                self.cells[HEAD].store(tail, Ordering::Release);
                return Err(RingFault);
            }
            self.tail_seen = tail;
        }
        let slot = &self.cells[self.shape.slot(self.head)];
        for (word, cell) in message.iter_mut().zip(slot) {
            // Relaxed: the Acquire of `tail` came before.
            *word = cell.load(Ordering::Relaxed);
        }
        self.head = self.head.wrapping_add(1);
        // Release: pairs with the producer's Acquire of `head`.
        self.cells[HEAD].store(self.head, Ordering::Release);
        Ok(true)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const SHAPE: RingShape = RingShape {
        slots: 4,
        message_words: 3,
    };

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        Pop,
        NewProducer,
        NewConsumer,
        HostileTail(u64),
        HostileHead(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => any::<u64>().prop_map(Step::Push),
            8 => Just(Step::Pop),
            1 => Just(Step::NewProducer),
            1 => Just(Step::NewConsumer),
            1 => any::<u64>().prop_map(Step::HostileTail),
            1 => any::<u64>().prop_map(Step::HostileHead),
        ]
    }

    fn cells() -> Arc<[AtomicU64]> {
        (0..SHAPE.cells()).map(|_| AtomicU64::new(0)).collect()
    }

    proptest! {
        /// Against a queue; hostile indexes may lose or repeat what stands in
        /// the ring, but after a new pair is attached it works as new.
        #[test]
        fn behaves_as_a_queue(steps in prop::collection::vec(step(), 0..200)) {
            let cells = cells();
            let mut producer = Producer::attach(cells.clone(), SHAPE);
            let mut consumer = Consumer::attach(cells.clone(), SHAPE);
            let mut oracle: VecDeque<u64> = VecDeque::new();
            let mut honest = true;
            let mut message = [0; SHAPE.message_words];
            for step in steps {
                match step {
                    Step::Push(value) => {
                        let pushed = producer.push(&[value, !value]);
                        if honest {
                            let room = oracle.len() < SHAPE.slots;
                            prop_assert_eq!(pushed, if room { Ok(()) } else { Err(PushError::Full) });
                            if room { oracle.push_back(value); }
                        }
                    }
                    Step::Pop => {
                        let popped = consumer.pop(&mut message);
                        if honest {
                            prop_assert_eq!(popped, Ok(!oracle.is_empty()));
                            if let Some(value) = oracle.pop_front() {
                                prop_assert_eq!(message, [value, !value, 0]);
                            }
                        }
                    }
                    Step::NewProducer => producer = Producer::attach(cells.clone(), SHAPE),
                    Step::NewConsumer => {
                        consumer = Consumer::attach(cells.clone(), SHAPE);
                        oracle.clear();
                    }
                    Step::HostileTail(index) => { cells[TAIL].store(index, Ordering::Relaxed); honest = false; }
                    Step::HostileHead(index) => { cells[HEAD].store(index, Ordering::Relaxed); honest = false; }
                }
            }
            let mut producer = Producer::attach(cells.clone(), SHAPE);
            let mut consumer = Consumer::attach(cells, SHAPE);
            prop_assert_eq!(producer.push(&[7]), Ok(()));
            prop_assert_eq!(consumer.pop(&mut message), Ok(true));
            prop_assert_eq!(message, [7, 0, 0]);
        }
    }

    #[test]
    fn an_impossible_index_is_a_fault_and_then_over() {
        let cells = cells();
        let mut producer = Producer::attach(cells.clone(), SHAPE);
        let mut consumer = Consumer::attach(cells.clone(), SHAPE);
        let mut message = [0; SHAPE.message_words];
        cells[TAIL].store(5, Ordering::Relaxed);
        assert_eq!(consumer.pop(&mut message), Err(RingFault));
        assert_eq!(consumer.pop(&mut message), Ok(false));
        cells[HEAD].store(99, Ordering::Relaxed);
        assert_eq!(producer.push(&[1]), Err(PushError::Fault(RingFault)));
    }
}

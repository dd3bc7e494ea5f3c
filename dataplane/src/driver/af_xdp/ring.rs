//! One end of an AF_XDP ring: a single-producer single-consumer queue in
//! memory shared with the kernel.
//!
//! ```text
//!   mapping:  producer u32 | consumer u32 | flags u32 | desc[size], size a power of two
//!             fill, tx:         we write producer, the kernel writes consumer
//!             completion, rx:   the kernel writes producer, we write consumer
//! ```
//!
//! What holds: both indexes count up and wrap at 2^32; `producer - consumer` is
//! the number of entries and never above `size`. An index from the other end
//! that breaks this is refused ([`Corrupt`]) in every build, and the ring is
//! left as it is. Each end keeps a copy of the other's index and reads the
//! shared one only when the copy says that there is nothing left, so a burst
//! costs one shared read and one shared write.
//!
//! Knows nothing of what the entries mean. Runs on plain memory, which is how
//! it is tested.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// The other end published an index that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// Where the parts of a ring are.
#[derive(Clone, Copy, Debug)]
pub struct RingParts<T> {
    pub producer: NonNull<AtomicU32>,
    pub consumer: NonNull<AtomicU32>,
    pub flags: NonNull<AtomicU32>,
    pub desc: NonNull<T>,
    /// Entries, a power of two.
    pub size: u32,
}

// SAFETY: the parts are addresses; who may use them from where is said by the one who makes an end of
// them, and the indexes are atomics. An end moves to its worker's thread and is used by that one.
unsafe impl<T: Send> Send for RingParts<T> {}

impl<T: Copy> RingParts<T> {
    fn index(&self, which: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: whoever made the ring promised that its parts are valid while it exists
        // (`Producer::new`, `Consumer::new`); both ends reach the indexes only as atomics.
        unsafe { which.as_ref() }
    }

    fn slot(&self, index: u32) -> NonNull<T> {
        // SAFETY: the masked index is below `size`, and `desc` has `size` entries.
        unsafe { self.desc.add((index & (self.size - 1)) as usize) }
    }

    /// The kernel asks for a system call before it looks at the ring (`XDP_RING_NEED_WAKEUP`).
    fn needs_wakeup(&self) -> bool {
        // Relaxed: a hint; when it is seen late, the next burst asks again.
        self.index(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The end that adds entries (fill, tx).
#[derive(Debug)]
pub struct Producer<T> {
    parts: RingParts<T>,
    /// Our index: entries below it are written; published by `submit`.
    next: u32,
    /// What of `next` the other end can see.
    published: u32,
    /// The other end's index when it was last read.
    consumer: u32,
}

impl<T: Copy> Producer<T> {
    /// # Safety
    /// The parts stay valid and are one ring until the producer is dropped, this is its only
    /// producer, and the other end writes only `consumer` and `flags`.
    pub unsafe fn new(parts: RingParts<T>) -> Self {
        assert!(
            parts.size.is_power_of_two(),
            "ring of {} entries",
            parts.size
        );
        // Relaxed: before the ring is in use nobody else writes our index.
        let next = parts.index(parts.producer).load(Ordering::Relaxed);
        let consumer = parts.index(parts.consumer).load(Ordering::Relaxed);
        Self {
            parts,
            next,
            published: next,
            consumer,
        }
    }

    /// Makes sure that `want` entries are free if there are as many; says how many are.
    ///
    /// # Errors
    /// The other end's index is impossible.
    pub fn room(&mut self, want: u32) -> Result<u32, Corrupt> {
        let free = self.parts.size - self.next.wrapping_sub(self.consumer);
        if free >= want {
            return Ok(free);
        }
        // Acquire: pairs with the other end's release of `consumer` (`Consumer::release`, in the
        // kernel `__xskq_cons_release`): it has read the entries before we overwrite them.
        let consumer = self
            .parts
            .index(self.parts.consumer)
            .load(Ordering::Acquire);
        // It moves forward, and not past what we published.
        if consumer.wrapping_sub(self.consumer) > self.published.wrapping_sub(self.consumer) {
            return Err(Corrupt);
        }
        self.consumer = consumer;
        Ok(self.parts.size - self.next.wrapping_sub(consumer))
    }

    /// Writes one entry, which the other end sees after [`Self::submit`].
    ///
    /// # Panics
    /// [`Self::room`] has not promised a free entry.
    pub fn push(&mut self, entry: T) {
        assert!(
            self.next.wrapping_sub(self.consumer) < self.parts.size,
            "push without room"
        );
        // SAFETY: the slot is in the ring (`slot`), and free: the other end does not read it before
        // the index is published.
        unsafe { self.parts.slot(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Publishes what was pushed.
    pub fn submit(&mut self) {
        if self.published != self.next {
            // Release: pairs with the acquire of `producer` at the other end (`Consumer::available`, in
            // the kernel `__xskq_cons_peek`): the entries are written before the index says so.
            self.parts
                .index(self.parts.producer)
                .store(self.next, Ordering::Release);
            self.published = self.next;
        }
    }

    /// Entries published that the other end has not taken, as far as it says.
    pub fn backlog(&self) -> u32 {
        // Relaxed: only compared, no entry is touched for it.
        let consumer = self
            .parts
            .index(self.parts.consumer)
            .load(Ordering::Relaxed);
        self.published.wrapping_sub(consumer)
    }

    pub fn needs_wakeup(&self) -> bool {
        self.parts.needs_wakeup()
    }
}

/// The end that takes entries (completion, rx).
#[derive(Debug)]
pub struct Consumer<T> {
    parts: RingParts<T>,
    /// Our index: entries below it are taken; published by `release`.
    next: u32,
    /// What of `next` the other end can see.
    published: u32,
    /// The other end's index when it was last read.
    producer: u32,
}

impl<T: Copy> Consumer<T> {
    /// # Safety
    /// The parts stay valid and are one ring until the consumer is dropped, this is its only
    /// consumer, the other end writes entries only outside of `consumer..producer`, and every bit
    /// pattern is a `T`.
    pub unsafe fn new(parts: RingParts<T>) -> Self {
        assert!(
            parts.size.is_power_of_two(),
            "ring of {} entries",
            parts.size
        );
        // Relaxed: before the ring is in use nobody else writes our index.
        let next = parts.index(parts.consumer).load(Ordering::Relaxed);
        Self {
            parts,
            next,
            published: next,
            producer: next,
        }
    }

    /// Entries that can be taken, looking again at the shared index if fewer than `want` are known.
    ///
    /// # Errors
    /// The other end's index is impossible.
    pub fn available(&mut self, want: u32) -> Result<u32, Corrupt> {
        let known = self.producer.wrapping_sub(self.next);
        if known >= want {
            return Ok(known);
        }
        // Acquire: pairs with the other end's release of `producer` (`Producer::submit`, in the
        // kernel `__xskq_prod_submit`): entries below it are written.
        let producer = self
            .parts
            .index(self.parts.producer)
            .load(Ordering::Acquire);
        // It moves forward, and not into slots that it has not got back.
        let filled = producer.wrapping_sub(self.published);
        if filled > self.parts.size || filled < self.producer.wrapping_sub(self.published) {
            return Err(Corrupt);
        }
        self.producer = producer;
        Ok(producer.wrapping_sub(self.next))
    }

    /// Takes one entry; the other end gets its slot back after [`Self::release`].
    ///
    /// # Panics
    /// [`Self::available`] has not promised an entry.
    pub fn pop(&mut self) -> T {
        assert!(self.next != self.producer, "pop without an entry");
        // SAFETY: the slot is in the ring (`slot`) and written (acquire in `available`); every bit
        // pattern is a `T` (`new`).
        let entry = unsafe { self.parts.slot(self.next).read() };
        self.next = self.next.wrapping_add(1);
        entry
    }

    /// Gives the slots of what was taken back to the other end.
    pub fn release(&mut self) {
        if self.published != self.next {
            // Release: pairs with the acquire of `consumer` at the other end (`Producer::room`, in
            // the kernel `__xskq_prod_reserve` reads it and orders the write after): the entries were
            // read before they may be overwritten.
            self.parts
                .index(self.parts.consumer)
                .store(self.next, Ordering::Release);
            self.published = self.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// A ring on plain memory; `raw` are its three indexes, as the kernel would see them.
    struct Plain {
        raw: Box<[AtomicU32; 3]>,
        _desc: Box<[std::cell::UnsafeCell<u64>]>,
        parts: RingParts<u64>,
    }

    fn plain(size: u32, start: u32) -> Plain {
        let raw = Box::new([
            AtomicU32::new(start),
            AtomicU32::new(start),
            AtomicU32::new(0),
        ]);
        let desc: Box<[_]> = (0..size)
            .map(|_| std::cell::UnsafeCell::new(0u64))
            .collect();
        let parts = RingParts {
            producer: NonNull::from(&raw[0]),
            consumer: NonNull::from(&raw[1]),
            flags: NonNull::from(&raw[2]),
            desc: NonNull::new(desc.as_ptr().cast_mut().cast::<u64>()).unwrap(),
            size,
        };
        Plain {
            raw,
            _desc: desc,
            parts,
        }
    }

    fn ends(ring: &Plain) -> (Producer<u64>, Consumer<u64>) {
        // SAFETY: `ring` outlives both ends in each test, and each end is made once.
        unsafe { (Producer::new(ring.parts), Consumer::new(ring.parts)) }
    }

    proptest! {
        /// Against a queue, with indexes that wrap.
        #[test]
        fn is_a_bounded_queue(ops in prop::collection::vec((any::<bool>(), 1u32..12), 1..200)) {
            let ring = plain(8, u32::MAX - 5);
            let (mut producer, mut consumer) = ends(&ring);
            let (mut model, mut next) = (VecDeque::new(), 0u64);
            for (add, count) in ops {
                if add {
                    let room = producer.room(count).unwrap();
                    prop_assert!(room as usize <= 8 - model.len());
                    prop_assert!(room >= count || room as usize == 8 - model.len());
                    for _ in 0..count.min(room) {
                        producer.push(next);
                        model.push_back(next);
                        next += 1;
                    }
                    producer.submit();
                    prop_assert_eq!(producer.backlog() as usize, model.len());
                } else {
                    let available = consumer.available(count).unwrap();
                    prop_assert!(available as usize <= model.len());
                    prop_assert!(available >= count || available as usize == model.len());
                    for _ in 0..count.min(available) {
                        prop_assert_eq!(Some(consumer.pop()), model.pop_front());
                    }
                    consumer.release();
                }
            }
        }

        /// Whatever the other end writes, at most `size` entries are believed.
        #[test]
        fn a_hostile_index_is_refused_or_in_bounds(index in any::<u32>(), ours in 0u32..8) {
            let ring = plain(8, 0);
            let (mut producer, mut consumer) = ends(&ring);
            for entry in 0..ours {
                producer.push(u64::from(entry));
            }
            producer.submit();
            ring.raw[1].store(index, Ordering::Relaxed);
            if let Ok(room) = producer.room(9) {
                prop_assert!(room <= 8 && index <= ours);
            }
            ring.raw[1].store(0, Ordering::Relaxed);
            ring.raw[0].store(index, Ordering::Relaxed);
            if let Ok(available) = consumer.available(9) {
                prop_assert!(available <= 8 && available == index);
            }
        }
    }

    #[test]
    fn nothing_is_seen_before_it_is_submitted() {
        let ring = plain(4, 0);
        let (mut producer, mut consumer) = ends(&ring);
        assert_eq!(producer.room(4), Ok(4));
        producer.push(1);
        assert_eq!(consumer.available(1), Ok(0));
        producer.submit();
        assert_eq!(consumer.available(1), Ok(1));
        consumer.pop();
        assert_eq!(producer.room(4), Ok(3), "a slot comes back with release");
        consumer.release();
        assert_eq!(producer.room(4), Ok(4));
        assert!(!producer.needs_wakeup());
        ring.raw[2].store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }

    #[test]
    fn a_producer_that_goes_back_is_refused() {
        let ring = plain(4, 0);
        let (mut producer, mut consumer) = ends(&ring);
        for entry in 0..3 {
            producer.push(entry);
        }
        producer.submit();
        assert_eq!(consumer.available(4), Ok(3));
        consumer.pop();
        consumer.pop();
        ring.raw[0].store(1, Ordering::Relaxed);
        assert_eq!(consumer.available(4), Err(Corrupt));
    }

    #[test]
    fn two_threads_pass_every_entry_in_order() {
        const COUNT: u64 = 20_000;
        let ring = plain(16, 0);
        let (mut producer, mut consumer) = ends(&ring);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut next = 0;
                while next < COUNT {
                    if producer.room(1).unwrap() == 0 {
                        std::thread::yield_now();
                        continue;
                    }
                    producer.push(next);
                    producer.submit();
                    next += 1;
                }
            });
            let mut expected = 0;
            while expected < COUNT {
                for _ in 0..consumer.available(1).unwrap() {
                    assert_eq!(consumer.pop(), expected);
                    expected += 1;
                }
                consumer.release();
                std::thread::yield_now();
            }
        });
    }
}

//! Frames on their way to the ports: one queue a port, of a size fixed at start.

use sluice_hugepages::pool::{BURST_LEN, Burst, Frame};

/// Frames a port's queue takes: what one step can make from a burst of each of
/// a few ports going out by the same one (8 x 64), and as much again for the
/// TCP room's answers.
pub const TX_QUEUE_LEN: usize = 16 * BURST_LEN;

/// One queue of frames a port; index is the port.
#[derive(Debug)]
pub struct TxQueues {
    queues: Vec<Vec<Frame>>,
}

impl TxQueues {
    /// Queues for `ports` ports, allocated once.
    #[must_use]
    pub fn new(ports: usize) -> Self {
        Self {
            queues: (0..ports)
                .map(|_| Vec::with_capacity(TX_QUEUE_LEN))
                .collect(),
        }
    }

    #[inline]
    pub(super) fn has_room(&self, port: u8) -> bool {
        self.queues[usize::from(port)].len() < TX_QUEUE_LEN
    }

    /// Appends a frame, after [`TxQueues::has_room`] has said so.
    #[inline]
    pub(super) fn push_within_room(&mut self, port: u8, frame: Frame) {
        self.queues[usize::from(port)].push(frame);
    }

    /// Frames waiting for a port, oldest first.
    #[must_use]
    pub fn port(&self, port: u8) -> &[Frame] {
        &self.queues[usize::from(port)]
    }

    /// The queue itself, for whoever drains it (never beyond its capacity).
    pub fn port_mut(&mut self, port: u8) -> &mut Vec<Frame> {
        &mut self.queues[usize::from(port)]
    }

    /// Moves the oldest frames of a port into `burst` until it is full.
    pub fn fill_burst(&mut self, port: u8, burst: &mut Burst) {
        let queue = &mut self.queues[usize::from(port)];
        let count = queue.len().min(burst.remaining_capacity());
        burst.extend(queue.drain(..count));
    }

    /// Puts back what a port did not take of [`TxQueues::fill_burst`], in its old place.
    ///
    /// # Panics
    /// If the queue has grown meanwhile, so that it is full.
    pub fn put_back(&mut self, port: u8, burst: &mut Burst) {
        let queue = &mut self.queues[usize::from(port)];
        assert!(
            queue.len() + burst.len() <= TX_QUEUE_LEN,
            "what was taken out has room"
        );
        queue.splice(0..0, burst.drain(..));
    }

    /// Whether nothing waits on any port.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(Vec::is_empty)
    }
}

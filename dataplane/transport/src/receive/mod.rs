//! The receiving end of the stream: reassembly by ranges, and the window.
//!
//! ```text
//!      read      next                                edge
//!       |  ready  |      island 1      island 2       |
//!       |█████████|......|██████|......|███|..........|
//! ```
//!
//! What always holds:
//! * payload stays in the frame it came in; what is kept of a frame is a part of it that
//!   nothing else covers, so every byte is handed out once and in order;
//! * `edge`, what was promised, never goes back (RFC 9293, 3.8.6);
//! * frames kept are bounded by number as well as by bytes, so one-byte segments cannot
//!   tie up more memory than full ones; some frames are never for data out of order, so
//!   the byte that everything waits for always finds room.
//!
//! Not for: when to acknowledge ([`acks`]).

pub mod acks;
mod islands;
#[cfg(test)]
mod tests;

use crate::segment::SACK_BLOCKS_MAX;
use arrayvec::ArrayVec;
use islands::{Chain, Islands, Nodes};

/// What became of a segment's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The next bytes; `filled` if something that waited behind them is now in order.
    InOrder {
        filled: bool,
    },
    OutOfOrder,
    /// Nothing of it was new.
    Duplicate,
    /// Out of order, and there is no more room for that.
    Refused,
}

/// A part of a frame that is next in the stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<R> {
    pub frame: R,
    /// Where in the payload it begins.
    pub at: u32,
    pub len: u32,
}

#[derive(Debug)]
pub struct Receive<R> {
    nodes: Nodes<R>,
    ready: Chain,
    ready_bytes: u64,
    islands: Islands,
    /// RCV.NXT.
    next: u64,
    /// RCV.NXT + RCV.WND, as last promised.
    edge: u64,
    limit: u64,
    /// What came twice, until it is reported (RFC 2883).
    duplicate: Option<(u64, u64)>,
}

/// A share of the frames that data out of order does not get.
const IN_ORDER_FRAMES_DIVISOR: u32 = 4;

impl<R> Receive<R> {
    /// `limit`: the window in bytes; `frames_max`: frames held at once.
    #[must_use]
    pub fn new(next: u64, limit: u64, frames_max: u32) -> Self {
        Self {
            nodes: Nodes::new(frames_max.max(8)),
            ready: Chain::EMPTY,
            ready_bytes: 0,
            islands: Islands::default(),
            next,
            edge: next,
            limit,
            duplicate: None,
        }
    }

    /// Most heap that so many frames take.
    #[must_use]
    pub(crate) const fn heap_len(frames: usize) -> usize {
        Nodes::<R>::heap_len(frames)
    }

    /// Takes payload that stands at `start`. A frame that is not kept is given back.
    pub fn take(&mut self, start: u64, len: u32, frame: R) -> (Taken, Option<R>) {
        let end = start + u64::from(len);
        if start < self.next {
            self.duplicate = Some((start, end.min(self.next)));
        }
        let (from, to) = (start.max(self.next), end.min(self.edge));
        if from >= to {
            return (Taken::Duplicate, Some(frame));
        }
        let Some(gap) = self.islands.gap(from, to) else {
            self.duplicate = Some((from, to));
            self.islands.touch(from);
            return (Taken::Duplicate, Some(frame));
        };
        if gap != (from, to) {
            // What overlaps it is there already.
            let known = if gap.0 > from {
                (from, gap.0)
            } else {
                (gap.1, to)
            };
            self.duplicate.get_or_insert(known);
        }
        let at = u32::try_from(gap.0 - start).unwrap_or(u32::MAX);
        let len = u32::try_from(gap.1 - gap.0).unwrap_or(u32::MAX);
        let part = Part { frame, at, len };
        if gap.0 == self.next {
            return self.take_next(part);
        }
        let reserve = self.nodes.max() / IN_ORDER_FRAMES_DIVISOR;
        if self.nodes.free() <= reserve || !self.islands.has_room() {
            return (Taken::Refused, Some(part.frame));
        }
        let node = self
            .nodes
            .add(part)
            .unwrap_or_else(|_| unreachable!("some are free"));
        self.islands.insert(gap, node, &mut self.nodes);
        (Taken::OutOfOrder, None)
    }

    /// The bytes that everything else waits for.
    fn take_next(&mut self, part: Part<R>) -> (Taken, Option<R>) {
        let len = u64::from(part.len);
        match self.nodes.add(part) {
            Err(part) => return (Taken::Refused, Some(part.frame)),
            Ok(node) => self.ready.append(Chain::of(node), &mut self.nodes),
        }
        self.next += len;
        self.ready_bytes += len;
        let mut filled = false;
        while let Some(island) = self.islands.take_first_at(self.next) {
            self.ready.append(island.chain, &mut self.nodes);
            self.ready_bytes += island.end - island.start;
            self.next = island.end;
            filled = true;
        }
        (Taken::InOrder { filled }, None)
    }

    /// The next part of the stream.
    pub fn read(&mut self) -> Option<Part<R>> {
        let part = self.ready.pop(&mut self.nodes)?;
        self.ready_bytes -= u64::from(part.len);
        Some(part)
    }

    /// Gives up what is out of order, and what was not read.
    pub fn next_discarded(&mut self) -> Option<R> {
        loop {
            if let Some(part) = self.ready.pop(&mut self.nodes) {
                return Some(part.frame);
            }
            self.ready_bytes = 0;
            self.ready = self.islands.take_first()?.chain;
        }
    }

    /// Bytes that can be read.
    #[must_use]
    pub const fn readable(&self) -> u64 {
        self.ready_bytes
    }

    /// RCV.NXT.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The end of what was promised.
    #[must_use]
    pub const fn edge(&self) -> u64 {
        self.edge
    }

    /// A FIN stands at `next` and takes a number.
    pub const fn take_fin(&mut self) {
        self.next += 1;
        if self.edge < self.next {
            self.edge = self.next;
        }
    }

    /// How far the edge could be moved now.
    fn edge_possible(&self) -> u64 {
        let window = if self.nodes.free() == 0 {
            0
        } else {
            self.limit.saturating_sub(self.ready_bytes)
        };
        (self.next + window).max(self.edge)
    }

    /// Promises what can be promised, in steps that are worth it (RFC 9293, 3.8.6.2.2),
    /// and says the window. `granularity`: what the window's scale can say.
    pub fn promise(&mut self, mss: u64, granularity: u64, field_max: u64) -> u64 {
        let possible = self.edge_possible();
        if possible - self.edge >= mss.min(self.limit / 2).max(1) {
            let window = (possible - self.next).min(field_max) / granularity * granularity;
            self.edge = self.edge.max(self.next + window);
        }
        self.edge - self.next
    }

    /// The window has opened by so much that the peer should hear of it unasked.
    #[must_use]
    pub fn is_update_due(&self, mss: u64) -> bool {
        let gain = self.edge_possible() - self.edge;
        let left = self.edge - self.next;
        gain >= self.limit / 4 || (left < 2 * mss && gain >= mss.min(self.limit / 2).max(1))
    }

    /// Changes the window's bound; what was promised stays promised.
    pub const fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Whether anything is out of order, or came twice: the acknowledgement has blocks.
    #[must_use]
    pub fn has_blocks(&self) -> bool {
        self.duplicate.is_some() || !self.islands.is_empty()
    }

    /// Something came that was here before: [`Self::blocks`] says so.
    pub fn note_duplicate(&mut self, start: u64, end: u64) {
        if start < end {
            self.duplicate = Some((start, end));
        }
    }

    /// The blocks of the next acknowledgement: a duplicate first (RFC 2883, 4), then the
    /// island that was last added to, then the others as they were (RFC 2018, 4).
    pub fn blocks(&mut self, max: usize) -> ArrayVec<(u64, u64), SACK_BLOCKS_MAX> {
        let mut blocks = ArrayVec::new();
        blocks.extend(self.duplicate.take().filter(|_| max > 0));
        self.islands.recent(max - blocks.len(), &mut blocks);
        blocks
    }

    #[cfg(test)]
    fn frames_held(&self) -> u32 {
        self.nodes.max() - self.nodes.free()
    }
}

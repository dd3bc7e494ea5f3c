//! The chain of frames that are to be sent, or kept until they are acknowledged.
//!
//! What always holds:
//! * bytes are never moved or copied here: the caller lends frames by handles of its own,
//!   and the same frames go out again when something is lost;
//! * a frame is given back once its last byte is acknowledged, in order;
//! * the limit can be lowered under what is there: then nothing is taken until enough
//!   has been acknowledged.
//!
//! Not for: what of it has been sent ([`crate::scoreboard`]).

use std::collections::VecDeque;

#[derive(Debug)]
struct Link<S> {
    frame: S,
    start: u64,
    end: u64,
}

/// A part of one frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a, S> {
    pub frame: &'a S,
    /// Where in what was lent of the frame it begins.
    pub at: u32,
    pub len: u32,
}

#[derive(Debug)]
pub struct SendBuffer<S> {
    chain: VecDeque<Link<S>>,
    /// Everything before it is acknowledged.
    una: u64,
    end: u64,
    limit: u64,
}

impl<S> SendBuffer<S> {
    /// An empty one whose first byte will be `start`. `frames`: how many links there is
    /// room for from the start.
    #[must_use]
    pub fn new(start: u64, limit: u64, frames: usize) -> Self {
        Self {
            chain: VecDeque::with_capacity(frames),
            una: start,
            end: start,
            limit,
        }
    }

    /// Of so many links.
    #[must_use]
    pub(crate) const fn heap_len(frames: usize) -> usize {
        frames * size_of::<Link<S>>()
    }

    /// The limit in bytes from now on. `frames`: links to have room for.
    pub fn set_limit(&mut self, limit: u64, frames: usize) {
        self.limit = limit;
        self.chain
            .reserve_exact(frames.saturating_sub(self.chain.len()));
    }

    /// Bytes that would be taken now.
    #[must_use]
    pub fn room(&self) -> u64 {
        if self.chain.len() == self.chain.capacity() {
            return 0;
        }
        self.limit.saturating_sub(self.end - self.una)
    }

    /// Whether its owner has given about all that it may: then it is the buffer that bounds
    /// what is under way, and not what there is to send.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.room() <= self.limit / 4
    }

    /// Takes a frame of `len` bytes, if there is room for all of it.
    ///
    /// # Errors
    /// The frame, if there is not, or it is empty.
    pub fn push(&mut self, frame: S, len: u32) -> Result<(), S> {
        if len == 0 || u64::from(len) > self.room() {
            return Err(frame);
        }
        let start = self.end;
        self.end += u64::from(len);
        self.chain.push_back(Link {
            frame,
            start,
            end: self.end,
        });
        Ok(())
    }

    /// Everything before `una` is acknowledged.
    pub fn acknowledge(&mut self, una: u64) {
        self.una = self.una.max(una.min(self.end));
    }

    /// A frame that is not needed any more.
    pub fn next_released(&mut self) -> Option<S> {
        self.chain
            .pop_front_if(|link| link.end <= self.una)
            .map(|link| link.frame)
    }

    /// Everything is given back by [`Self::next_released`] from now on.
    pub const fn release_all(&mut self) {
        self.una = self.end;
    }

    /// Where the next byte that is taken will stand.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Unacknowledged bytes, sent or not.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end - self.una
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end == self.una
    }

    /// The pieces of frames that hold the bytes from `start` to `end`.
    ///
    /// # Panics
    /// If they are not here.
    pub fn pieces(&self, start: u64, end: u64) -> Pieces<'_, S> {
        assert!(end <= self.end, "bytes that were not lent");
        let first = self.chain.partition_point(|link| link.end <= start);
        assert!(
            start >= end
                || self
                    .chain
                    .get(first)
                    .is_some_and(|link| link.start <= start)
        );
        Pieces {
            buffer: self,
            link: first,
            start,
            end,
        }
    }
}

/// The bytes of one segment, frame by frame.
#[derive(Debug)]
pub struct Pieces<'a, S> {
    buffer: &'a SendBuffer<S>,
    link: usize,
    start: u64,
    end: u64,
}

impl<S> Clone for Pieces<'_, S> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<S> Pieces<'_, S> {
    /// Bytes in all that are left.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.end.saturating_sub(self.start)).unwrap_or(u32::MAX)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a, S> Iterator for Pieces<'a, S> {
    type Item = Piece<'a, S>;

    fn next(&mut self) -> Option<Piece<'a, S>> {
        if self.start >= self.end {
            return None;
        }
        let link = &self.buffer.chain[self.link];
        let end = link.end.min(self.end);
        // A link is at most as long as the u32 that it was pushed with.
        let piece = Piece {
            frame: &link.frame,
            at: u32::try_from(self.start - link.start).unwrap_or(u32::MAX),
            len: u32::try_from(end - self.start).unwrap_or(u32::MAX),
        };
        self.start = end;
        self.link += 1;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer() -> SendBuffer<char> {
        let mut buffer = SendBuffer::new(1000, 300, 8);
        for frame in ['a', 'b', 'c'] {
            buffer.push(frame, 100).unwrap();
        }
        buffer
    }

    #[test]
    fn pieces_cross_frames() {
        let buffer = buffer();
        let pieces: Vec<_> = buffer
            .pieces(1050, 1250)
            .map(|p| (*p.frame, p.at, p.len))
            .collect();
        assert_eq!(pieces, [('a', 50, 50), ('b', 0, 100), ('c', 0, 50)]);
        assert_eq!(buffer.pieces(1050, 1250).len(), 200);
        assert!(buffer.pieces(1300, 1300).is_empty());
    }

    #[test]
    fn frames_come_back_in_order_and_the_limit_holds() {
        let mut buffer = buffer();
        assert_eq!(buffer.push('d', 1), Err('d'), "full");
        buffer.acknowledge(1199);
        assert_eq!(buffer.next_released(), Some('a'));
        assert_eq!(buffer.next_released(), None);
        assert_eq!(buffer.room(), 199);
        buffer.set_limit(50, 8);
        assert_eq!((buffer.room(), buffer.push('d', 1)), (0, Err('d')));
        buffer.set_limit(1 << 20, 16);
        assert_eq!(buffer.push('d', 4000), Ok(()));
        buffer.release_all();
        let rest: String = std::iter::from_fn(|| buffer.next_released()).collect();
        assert_eq!(rest, "bcd");
    }
}

//! Gathered packets: a header in a frame of its own, and behind it pieces of frames that a
//! connection keeps and that stay where they are (what it may have to send again).
//!
//! ```text
//! packet   head ──► list [ 7: 100.., 8: 0.., 9: ..50 ]
//! its flow keeps               7      8      9          each held by one packet
//! given back meanwhile         .      8 in use, to nobody, until the packet is released
//! ```
//!
//! What always holds: a piece lies within one 4 KiB frame that is kept, and its packet holds
//! that frame until it is released. A frame that is given back while it is held stays in use,
//! to nobody, until the last hold is gone, and goes home then: nothing else is ever in the
//! bytes of a packet that waits. Whoever keeps the frame sees to the rest: it does not write
//! what it has lent ([`Pool::is_held`]).
//!
//! A frame is shared: packets next to each other, and one that is sent again while the first
//! still waits, name the same. So the links of [`super::chain`] cannot serve; there is a fixed
//! table of lists, and a packet for which none is left is copied by its maker.
//!
//! Not for: writing. A gathered packet is written in its head alone.

use arrayvec::ArrayVec;

use super::word::{State, Word};
use super::{FRAME_LEN, Frame, Next, Pool};

/// Most pieces of a packet: the 64 KiB that IPv4 allows it, beginning within a frame.
pub const PIECES_MAX: usize = 17;
/// Most gathered packets at a time; fewer where there are fewer pages.
const LISTS_MAX: usize = 1024;

/// A part of a frame.
#[derive(Clone, Copy, Debug)]
struct Piece {
    frame: u32,
    offset: u16,
    len: u16,
}

/// What a frame is held by.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    count: u16,
    /// It was given back.
    orphan: bool,
}

// A packet can name a frame as often as it has pieces.
const _: () = assert!(LISTS_MAX * PIECES_MAX <= u16::MAX as usize);

#[derive(Debug)]
pub(super) struct Gathered {
    lists: Box<[ArrayVec<Piece, PIECES_MAX>]>,
    /// Of `lists`, those of no packet.
    unused: Vec<u16>,
    frames: Box<[Held]>,
}

impl Gathered {
    pub fn new(pages: usize, frames: usize) -> Self {
        let lists = pages.min(LISTS_MAX);
        let numbers = 0..u16::try_from(lists).expect("at most LISTS_MAX");
        Self {
            lists: vec![ArrayVec::new(); lists].into(),
            unused: numbers.rev().collect(),
            frames: vec![Held::default(); frames].into(),
        }
    }
}

impl Pool {
    /// Makes parts of frames that a connection keeps (where in the frame they begin, and their
    /// length) what follows `head`, a packet of one buffer. False, and nothing changed, if there
    /// is no list for them left.
    ///
    /// # Panics
    /// When there are more than [`PIECES_MAX`], or one is not within a frame that is kept.
    #[must_use]
    pub fn gather<'a>(
        &mut self,
        head: &mut Frame,
        parts: impl Iterator<Item = (&'a Frame, usize, usize)>,
    ) -> bool {
        assert!(head.next.is_none(), "a packet is a chain or gathered");
        let Some(list) = self.gathered.unused.pop() else {
            return false;
        };
        for (frame, at, len) in parts {
            assert!(at + len <= FRAME_LEN, "{len} bytes at {at} of a frame");
            let word = self.in_use(frame.buf);
            let kept = Word::state_of(word) == Some(State::InUse) && Word::is_kept(word);
            assert!(kept, "{:?} is kept by no connection", frame.buf);
            let held = &mut self.gathered.frames[frame.buf.0 as usize];
            held.count += 1;
            let piece = Piece {
                frame: frame.buf.0,
                offset: u16::try_from(at).expect("within a frame"),
                len: u16::try_from(len).expect("within a frame"),
            };
            self.gathered.lists[usize::from(list)].push(piece);
        }
        head.next = Some(Next::Gathered(list));
        true
    }

    /// Whether a packet names bytes of a frame: it is not to be filled again.
    #[inline]
    pub fn is_held(&self, frame: &Frame) -> bool {
        self.gathered.frames[frame.buf.0 as usize].count > 0
    }

    /// Gathered packets that were not released.
    pub fn packets_gathered(&self) -> usize {
        self.gathered.lists.len() - self.gathered.unused.len()
    }

    /// The bytes of each piece.
    pub(super) fn pieces(&self, list: Option<u16>) -> impl Iterator<Item = &[u8]> {
        let list = list.map(|list| self.gathered.lists[usize::from(list)].as_slice());
        list.unwrap_or_default()
            .iter()
            .map(|piece| self.piece(piece))
    }

    fn piece(&self, piece: &Piece) -> &[u8] {
        let frame = piece.frame as usize;
        assert_ne!(self.gathered.frames[frame].count, 0, "frame {frame}");
        let at = frame * FRAME_LEN + usize::from(piece.offset);
        // SAFETY: within a frame inside the region (`gather` has checked), which stays in use
        // while it is held, as was just checked; so nobody is given it, and who keeps it does
        // not write what it has lent.
        unsafe { std::slice::from_raw_parts(self.at(at), usize::from(piece.len)) }
    }

    pub(super) fn release_list(&mut self, list: u16) {
        let pieces = std::mem::take(&mut self.gathered.lists[usize::from(list)]);
        self.gathered.unused.push(list);
        for piece in pieces {
            let frame = piece.frame as usize;
            let held = &mut self.gathered.frames[frame];
            held.count = held.count.checked_sub(1).expect("its packet holds it");
            if held.orphan && held.count == 0 {
                held.orphan = false;
                self.free_frame(frame, self.load(frame));
            }
        }
    }

    /// A frame that a connection has kept is given back: at once, or when nothing holds it.
    ///
    /// # Panics
    /// When it was given back before.
    pub(super) fn release_kept(&mut self, frame: usize, word: u64) {
        let held = &mut self.gathered.frames[frame];
        assert!(!held.orphan, "frame {frame} was given back before");
        if held.count == 0 {
            return self.free_frame(frame, word);
        }
        held.orphan = true;
        let reservation = Word::reservation_of(word);
        self.store(frame, Word::NOBODYS.of(reservation));
    }
}

//! Gathered packets: a header in a frame of its own, and behind it pieces of leased pages
//! that stay where they are (what a flow keeps to send again).
//!
//! What always holds: a piece lies within one slot, a 4 KiB part of a leased page, and its
//! packet holds that slot until it is released. A run that is given back while slots of it are
//! held stays leased, to nobody, until the last hold is gone: nothing else is ever in the
//! bytes of a packet that waits. Whoever leases the run sees to the rest: it does not write
//! what it has lent ([`Pool::is_held`]).
//!
//! A slot is shared: packets next to each other, and one that is sent again while the first
//! still waits, name the same. So the links of [`super::chain`] cannot serve; there is a fixed
//! table of lists, and a packet for which none is left is copied by its maker.
//!
//! Not for: writing. A gathered packet is written in its head alone.

use arrayvec::ArrayVec;

use super::word::{State, Word};
use super::{FRAME_LEN, FRAMES_PER_PAGE, Frame, Next, PageRun, Pool, index};

/// Most pieces of a packet: the 64 KiB that IPv4 allows it, beginning within a slot.
pub const PIECES_MAX: usize = 17;
/// Most gathered packets at a time; fewer where there are fewer pages.
const LISTS_MAX: usize = 1024;

/// A part of a slot.
#[derive(Clone, Copy, Debug)]
struct Piece {
    slot: u32,
    offset: u16,
    len: u16,
}

/// What a leased page is held by.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    slots: [u16; FRAMES_PER_PAGE],
    /// Of all its slots.
    count: u16,
    /// Its run was given back.
    orphan: bool,
}

// A packet can name a slot as often as it has pieces.
const _: () = assert!(LISTS_MAX * PIECES_MAX <= u16::MAX as usize);

#[derive(Debug)]
pub(super) struct Gathered {
    lists: Box<[ArrayVec<Piece, PIECES_MAX>]>,
    /// Of `lists`, those of no packet.
    unused: Vec<u16>,
    pages: Box<[Held]>,
}

impl Gathered {
    pub fn new(pages: usize) -> Self {
        let lists = pages.min(LISTS_MAX);
        let numbers = 0..u16::try_from(lists).expect("at most LISTS_MAX");
        Self {
            lists: vec![ArrayVec::new(); lists].into(),
            unused: numbers.rev().collect(),
            pages: vec![Held::default(); pages].into(),
        }
    }

    /// Notes that a page's run is given back; whether it can be taken at once.
    pub fn orphan(&mut self, page: usize) -> bool {
        let held = &mut self.pages[page];
        held.orphan = held.count > 0;
        !held.orphan
    }
}

impl Pool {
    /// Makes the parts of leased runs (their offset in the run, and length) what follows
    /// `head`, a packet of one buffer; each lies within one 4 KiB slot. False, and nothing
    /// changed, if there is no list for them left.
    ///
    /// # Panics
    /// When there are more than [`PIECES_MAX`], or one is not within a slot of its run.
    #[must_use]
    pub fn gather<'a>(
        &mut self,
        head: &mut Frame,
        parts: impl Iterator<Item = (&'a PageRun, usize, usize)>,
    ) -> bool {
        assert!(head.next.is_none(), "a packet is a chain or gathered");
        let Some(list) = self.gathered.unused.pop() else {
            return false;
        };
        for (run, at, len) in parts {
            assert!(at + len <= run.len(), "{len} bytes at {at} of a run");
            let (number, offset) = (at / FRAME_LEN, at % FRAME_LEN);
            assert!(offset + len <= FRAME_LEN, "{len} bytes at {at} of a slot");
            let slot = run.first as usize * FRAMES_PER_PAGE + number;
            let (page, number) = (slot / FRAMES_PER_PAGE, slot % FRAMES_PER_PAGE);
            self.check_leased(page);
            let held = &mut self.gathered.pages[page];
            held.slots[number] += 1;
            held.count += 1;
            let piece = Piece {
                slot: index(slot),
                offset: u16::try_from(offset).expect("within a slot"),
                len: u16::try_from(len).expect("within a slot"),
            };
            self.gathered.lists[usize::from(list)].push(piece);
        }
        head.next = Some(Next::Gathered(list));
        true
    }

    /// Whether a packet names bytes of the slot at `at` of a run: it is not to be filled again.
    #[inline]
    pub fn is_held(&self, run: &PageRun, at: usize) -> bool {
        let slot = run.first as usize * FRAMES_PER_PAGE + at / FRAME_LEN;
        let held = &self.gathered.pages[slot / FRAMES_PER_PAGE];
        held.slots[slot % FRAMES_PER_PAGE] > 0
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
        let slot = piece.slot as usize;
        let held = &self.gathered.pages[slot / FRAMES_PER_PAGE];
        assert_ne!(held.slots[slot % FRAMES_PER_PAGE], 0, "slot {slot}");
        let at = slot * FRAME_LEN + usize::from(piece.offset);
        // SAFETY: within a slot of a page inside the region (`gather` has checked), which stays
        // leased while it is held, as was just checked; so it is nobody's frame, and who leases
        // it does not write what it has lent.
        unsafe { std::slice::from_raw_parts(self.at(at), usize::from(piece.len)) }
    }

    pub(super) fn release_list(&mut self, list: u16) {
        let pieces = std::mem::take(&mut self.gathered.lists[usize::from(list)]);
        self.gathered.unused.push(list);
        for piece in pieces {
            let slot = piece.slot as usize;
            let page = slot / FRAMES_PER_PAGE;
            let held = &mut self.gathered.pages[page];
            let count = &mut held.slots[slot % FRAMES_PER_PAGE];
            *count = count.checked_sub(1).expect("its packet holds it");
            held.count -= 1;
            if held.orphan && held.count == 0 {
                held.orphan = false;
                self.free_leased(page);
            }
        }
    }

    /// A leased page is anyone's again.
    pub(super) fn free_leased(&mut self, page: usize) {
        debug_assert_eq!(
            Word::state_of(self.load(page * FRAMES_PER_PAGE)),
            Some(State::PageLeased)
        );
        self.store(page * FRAMES_PER_PAGE, Word::PAGE_FREE);
        self.whole.insert(page);
        self.stats.pages_leased -= 1;
    }
}

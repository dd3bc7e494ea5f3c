//! The communication memory: 64 KiB pages, each whole or divided into sixteen
//! 4 KiB frames (Spec B's memory buffers).
//!
//! What always holds: each frame is free, on the list of one reservation
//! (`reserved.rs`), in use, or part of a whole page that is free or leased, and its
//! owner word (`word.rs`) says which; a move is one store, and data never moves for it
//! (B-1). The lists here are private, rebuilt from the words by [`Pool::attach`]. A frame
//! that packets hold (`gather.rs`) stays in use until they are released, whoever gives
//! it back. One worker owns a pool. After [`Pool::new`] nothing is allocated.
//!
//! Some of what is free is for packets on their way alone ([`Pool::set_floors`]): with
//! all else taken the worker still receives, forwards and acknowledges.
//!
//! Not for: what is in a buffer, or who may have one (reservations are made
//! by control, B-6).
//!
//! ```text
//! offset 0                       pages * 64 KiB                    end
//! +---------+---------+-- ... --+---------+------------------------+
//! | page 0  | page 1  |         | page n  | owner words, 8 B each  |
//! +---------+---------+-- ... --+---------+------------------------+
//!  BufId(0)  BufId(16)                     one a 4 KiB frame
//! ```
//! The address of a buffer in a port's frame memory (UMEM) is its offset here.

mod chain;
mod frame;
mod frames;
mod gather;
mod pages;
mod reserved;
mod whole;
mod word;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

pub use frame::{BURST_LEN, BufId, Burst, Checksum, Frame, Gso, GsoKind, HEADROOM, Next};
pub use gather::PIECES_MAX;
pub use reserved::{OutOfBuffers, Reserved};
pub use word::{Owner, Reservation};

use crate::fuse::Fuse;
use crate::region::Region;
use chain::Link;
use gather::Gathered;
use reserved::ReservedLists;
use whole::WholePages;
use word::{State, Word};

/// Bytes of an undivided page.
pub const PAGE_LEN: usize = 64 * 1024;
/// Bytes of a frame, the largest chunk an XDP frame memory takes.
pub const FRAME_LEN: usize = 4096;
/// Frames of a divided page.
pub const FRAMES_PER_PAGE: usize = PAGE_LEN / FRAME_LEN;

/// Free frames that are kept divided though their page could be whole again,
/// so that a few bursts going up and down do not divide and unite all the time.
pub const FRAMES_KEPT: usize = 4 * BURST_LEN;

/// Bytes of owner words a page.
const WORDS_LEN: usize = FRAMES_PER_PAGE * size_of::<u64>();
/// Mask of the free frames of a divided page: all of them.
const ALL_FREE: u16 = u16::MAX;
#[expect(clippy::cast_possible_truncation, reason = "64")]
const HEADROOM_OFFSET: u16 = HEADROOM as u16;
/// "Not listed" in [`Pool::place`].
const NOWHERE: u32 = u32::MAX;

/// Contiguous whole pages, leased until given back with [`Pool::release_pages`].
#[derive(Debug, PartialEq, Eq)]
pub struct PageRun {
    first: u32,
    count: u32,
}

impl PageRun {
    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub fn len(&self) -> usize {
        self.count as usize * PAGE_LEN
    }
}

/// What the pool holds and where (B-5). Pages add up to `pages`, and the frames
/// of the divided ones to theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    pub pages: usize,
    pub pages_free: usize,
    pub pages_leased: usize,
    /// Whole pages in use as one buffer.
    pub page_frames_in_use: usize,
    pub pages_divided: usize,
    pub frames_free: usize,
    pub frames_reserved: usize,
    pub frames_in_use: usize,
    /// Times that a frame was asked for and there was none.
    pub frames_refused: u64,
    /// Times that a connection asked for one to keep, and its reservation, or what may be
    /// borrowed, had none.
    pub takes_refused: u64,
    /// Times that a page or run was asked for and there was none.
    pub pages_refused: u64,
}

/// Frame memory of a size fixed at start, with a single writer.
#[derive(Debug)]
pub struct Pool {
    region: Region,
    fuse: Fuse,
    home: u8,
    whole: WholePages,
    /// A page: mask of its free frames; zero when it is not divided.
    free: Box<[u16]>,
    /// Divided pages with a free frame, the last one used first (it is in the cache).
    partial: Vec<u32>,
    /// A page: its index in `partial`.
    place: Box<[u32]>,
    links: Box<[Link]>,
    gathered: Gathered,
    lists: ReservedLists,
    transit_floor: usize,
    borrow_floor: usize,
    stats: PoolStats,
}

impl Pool {
    /// Takes the region as it stands for free memory: what an earlier life had
    /// in frames is in the log, or was never acknowledged.
    ///
    /// # Panics
    /// When the region has more frames than [`BufId`] can name (16 TiB).
    pub fn new(region: Region) -> Pool {
        let mut pool = Pool::empty(region, Fuse::NEVER);
        for page in 0..pool.stats.pages {
            pool.store(page * FRAMES_PER_PAGE, Word::PAGE_FREE);
            pool.whole.insert(page);
        }
        pool
    }

    /// A pool of `pages` pages in private memory, for tests and the simulator.
    pub fn anonymous(pages: usize) -> Pool {
        let mut pool = Pool::new(Region::anonymous(pages * (PAGE_LEN + WORDS_LEN) + PAGE_LEN));
        // The region was rounded up: what is beyond `pages` is never handed out.
        let mut whole = WholePages::new(pages);
        (0..pages).for_each(|page| whole.insert(page));
        pool.whole = whole;
        pool.stats.pages = pages;
        pool
    }

    /// Rebuilds the lists from the owner words. What was in use comes home,
    /// since its holders are gone; reservations stand. A word that no pool
    /// writes counts as free: these bytes are not trusted.
    pub fn attach(region: Region, fuse: Fuse) -> Pool {
        let mut pool = Pool::empty(region, fuse);
        for page in 0..pool.stats.pages {
            pool.attach_page(page);
        }
        pool
    }

    /// The region, for the next life after a simulated crash.
    pub fn into_region(self) -> Region {
        self.region
    }

    /// From now on, stop after as many stores as `fuse` allows.
    pub fn set_fuse(&mut self, fuse: Fuse) {
        self.fuse = fuse;
    }

    /// The fuse that every store of an owner word asks.
    pub fn fuse(&self) -> &Fuse {
        &self.fuse
    }

    /// Frames are marked as `worker`'s from now on ([`Frame::home`]).
    pub fn set_home(&mut self, worker: u8) {
        self.home = worker;
    }

    fn empty(region: Region, fuse: Fuse) -> Pool {
        let total = region.len() / PAGE_LEN;
        // A page of words serves PAGE_LEN / WORDS_LEN pages.
        let pages = total - total.div_ceil(PAGE_LEN / WORDS_LEN + 1);
        assert!(
            u32::try_from(pages * FRAMES_PER_PAGE).is_ok(),
            "{pages} pages are too many"
        );
        Pool {
            region,
            fuse,
            home: 0,
            whole: WholePages::new(pages),
            free: vec![0; pages].into(),
            partial: Vec::with_capacity(pages),
            place: vec![NOWHERE; pages].into(),
            links: vec![
                Link {
                    offset: 0,
                    len: 0,
                    next: None
                };
                pages * FRAMES_PER_PAGE
            ]
            .into(),
            gathered: Gathered::new(pages, pages * FRAMES_PER_PAGE),
            lists: ReservedLists::new(pages * FRAMES_PER_PAGE),
            transit_floor: 0,
            borrow_floor: 0,
            stats: PoolStats {
                pages,
                ..PoolStats::default()
            },
        }
    }

    fn attach_page(&mut self, page: usize) {
        let first = page * FRAMES_PER_PAGE;
        let state = Word::decode(self.load(first)).map(|word| word.state);
        if !matches!(state, Some(State::Free | State::Reserved | State::InUse)) {
            self.store(first, Word::PAGE_FREE);
            self.whole.insert(page);
            return;
        }
        self.stats.pages_divided += 1;
        for frame in first..first + FRAMES_PER_PAGE {
            let reservation = match Word::decode(self.load(frame)) {
                Some(Word {
                    state: State::Reserved | State::InUse,
                    reservation,
                    ..
                }) => reservation,
                _ => Reservation::NONE,
            };
            if ReservedLists::is_number(reservation) {
                self.attach_reserved(frame, reservation);
            } else {
                self.store(frame, Word::FREE);
                self.put_free(frame);
            }
        }
    }
}

/// Where the memory is touched.
impl Pool {
    /// The word of a buffer that is in use as a frame's.
    #[inline]
    fn in_use(&self, buf: BufId) -> u64 {
        let frame = buf.0 as usize;
        assert!(
            frame < self.stats.pages * FRAMES_PER_PAGE,
            "frame {frame} is of another pool"
        );
        let word = self.load(frame);
        match Word::state_of(word) {
            Some(State::InUse | State::PageFrame) => word,
            other => panic!("frame {frame} is used but its state is {other:?}"),
        }
    }

    #[inline]
    fn capacity_of(&self, buf: BufId) -> usize {
        if Word::state_of(self.in_use(buf)) == Some(State::PageFrame) {
            PAGE_LEN
        } else {
            FRAME_LEN
        }
    }

    #[inline]
    fn part(&self, buf: BufId, offset: usize, len: usize) -> &[u8] {
        let capacity = self.capacity_of(buf);
        assert!(
            offset + len <= capacity,
            "{len} bytes at {offset} of a {capacity}-byte buffer"
        );
        // SAFETY: the buffer is inside the region and in use as one of `capacity` bytes,
        // just checked; writing needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.at(buf.0 as usize * FRAME_LEN + offset), len) }
    }

    #[inline]
    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < self.region.len());
        self.region.ptr().wrapping_add(offset)
    }

    #[inline]
    fn cell(&self, frame: usize) -> &AtomicU64 {
        let words = self.words_offset();
        assert!(frame < self.free.len() * FRAMES_PER_PAGE);
        // SAFETY: the words begin at a page boundary behind the frames, there is one for
        // each, and they are only ever reached as atomics.
        unsafe { AtomicU64::from_ptr(self.at(words + frame * size_of::<u64>()).cast()) }
    }

    #[inline]
    fn words_offset(&self) -> usize {
        self.free.len() * PAGE_LEN
    }

    // The words have a single writer, and a reader in the next life sees all stores
    // of this one: no ordering between cells is asked for.
    #[inline]
    fn load(&self, frame: usize) -> u64 {
        self.cell(frame).load(Relaxed)
    }

    #[inline]
    fn store(&mut self, frame: usize, word: Word) {
        if self.fuse.burn() {
            self.cell(frame).store(word.encode(), Relaxed);
        }
    }
}

/// Indexes of pages and frames, which `Pool::empty` has bounded.
#[inline]
fn index(value: usize) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a pool has less than 2^32 frames"
    )]
    let index = value as u32;
    index
}

#[cfg(test)]
mod tests;

//! Frames: taken, given back, read and written; the hot path of the pool.
//!
//! What always holds: taking and giving back are one store of an owner word
//! and a few of private lists.

use super::reserved::ReservedLists;
use super::word::{State, Word};
use super::{
    BufId, Checksum, FRAME_LEN, FRAMES_KEPT, FRAMES_PER_PAGE, Frame, HEADROOM_OFFSET, NOWHERE,
    Next, Owner, PAGE_LEN, Pool, PoolStats, index,
};

use crate::prefetch::prefetch_at;

impl Pool {
    /// A 4 KiB buffer for what is on its way through; data at [`HEADROOM`](super::HEADROOM), length 0.
    #[inline]
    pub fn alloc_frame(&mut self) -> Option<Frame> {
        self.alloc_frame_for(Owner::Forward)
    }

    /// As [`Pool::alloc_frame`], with the owner for the allocation table.
    #[inline]
    pub fn alloc_frame_for(&mut self, owner: Owner) -> Option<Frame> {
        let Some(frame) = self.pop_free() else {
            self.stats.frames_refused += 1;
            return None;
        };
        self.stats.frames_in_use += 1;
        self.store(frame, Word::held(State::InUse, owner));
        Some(self.handle(frame))
    }

    /// Takes a frame off the free list, for which a page may be divided. Its word is the
    /// caller's to store.
    #[inline]
    pub(super) fn pop_free(&mut self) -> Option<usize> {
        if self.partial.is_empty() {
            self.divide()?;
        }
        let page = *self.partial.last()? as usize;
        let frame = page * FRAMES_PER_PAGE + self.free[page].trailing_zeros() as usize;
        self.free[page] &= self.free[page] - 1;
        if self.free[page] == 0 {
            self.delist(page);
        }
        self.stats.frames_free -= 1;
        Some(frame)
    }

    /// A whole 64 KiB page as one buffer (GSO frames); data at [`HEADROOM`](super::HEADROOM), length 0.
    #[inline]
    pub fn alloc_page_frame(&mut self) -> Option<Frame> {
        self.alloc_page_frame_for(Owner::Forward)
    }

    /// As [`Pool::alloc_page_frame`], with the owner for the allocation table.
    pub fn alloc_page_frame_for(&mut self, owner: Owner) -> Option<Frame> {
        let page = match self.whole.take() {
            Some(page) => page,
            None => {
                self.unite_pages(0);
                let Some(page) = self.whole.take() else {
                    self.stats.pages_refused += 1;
                    return None;
                };
                page
            }
        };
        let frame = page * FRAMES_PER_PAGE;
        self.stats.page_frames_in_use += 1;
        self.store(frame, Word::held(State::PageFrame, owner));
        Some(self.handle(frame))
    }

    /// Gives a frame and its whole chain back where it came from (B-9), and lets go of what
    /// it has gathered.
    ///
    /// # Panics
    /// When a buffer of it is not in use: it was given back before.
    #[inline]
    pub fn release(&mut self, frame: Frame) {
        self.release_buffer(frame.buf.0 as usize);
        let mut next = match frame.next {
            None => return,
            Some(Next::Gathered(list)) => return self.release_list(list),
            Some(Next::Buffer(buf)) => Some(buf),
        };
        while let Some(buf) = next {
            next = self.links[buf.0 as usize].next;
            self.release_buffer(buf.0 as usize);
        }
    }

    /// Notes a new owner, the holder's business otherwise.
    pub fn set_owner(&mut self, frame: &Frame, owner: Owner) {
        let word = self.in_use(frame.buf);
        let state = Word::state_of(word).expect("in use");
        let reservation = Word::reservation_of(word);
        let frame = frame.buf.0 as usize;
        self.store(frame, Word::held(state, owner).of(reservation));
    }

    /// Bytes of the first buffer: [`FRAME_LEN`] or [`PAGE_LEN`].
    #[inline]
    pub fn capacity(&self, frame: &Frame) -> usize {
        self.capacity_of(frame.buf)
    }

    /// The data in the first buffer.
    #[inline]
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        let (offset, len) = (frame.offset as usize, frame.len as usize);
        self.part(frame.buf, offset, len)
    }

    /// The data in the first buffer, to write.
    #[inline]
    pub fn bytes_mut(&mut self, frame: &Frame) -> &mut [u8] {
        let (offset, len) = (frame.offset as usize, frame.len as usize);
        &mut self.buffer_mut(frame)[offset..offset + len]
    }

    /// Asks for the first cache line of the data, soon to be read.
    #[inline]
    pub fn prefetch(&self, frame: &Frame) {
        prefetch_at(self.at(frame.buf.0 as usize * FRAME_LEN + frame.offset as usize));
    }

    /// The whole first buffer, head- and tailroom included.
    #[inline]
    pub fn buffer_mut(&mut self, frame: &Frame) -> &mut [u8] {
        let len = self.capacity(frame);
        // SAFETY: `capacity` has checked that the buffer is inside the region and in use as
        // one of `len` bytes; `&mut self` means that no other slice of a frame is out.
        unsafe { std::slice::from_raw_parts_mut(self.at(frame.buf.0 as usize * FRAME_LEN), len) }
    }

    /// First byte of the first buffer, for the one place that keeps it beyond a borrow: valid
    /// until the frame is released or the pool dropped.
    pub fn buffer_ptr(&self, frame: &Frame) -> *mut u8 {
        self.in_use(frame.buf);
        self.at(frame.buf.0 as usize * FRAME_LEN)
    }

    /// Says where in the first buffer the data is.
    ///
    /// # Panics
    /// When it would not fit.
    #[inline]
    pub fn set(&mut self, frame: &mut Frame, offset: usize, len: usize) {
        let capacity = self.capacity(frame);
        assert!(
            offset + len <= capacity,
            "{len} bytes at {offset} of a {capacity}-byte buffer"
        );
        frame.offset = u16::try_from(offset).expect("a buffer has at most 64 KiB");
        frame.len = u32::try_from(len).expect("a buffer has at most 64 KiB");
    }

    /// The chunk and offset of the data, as a UMEM address. A frame whose
    /// address was given to a port's rings stays in use until
    /// [`Pool::frame_from_addr`] makes it again.
    #[inline]
    pub fn addr(&self, frame: &Frame) -> u64 {
        u64::from(frame.buf.0) * FRAME_LEN as u64 + u64::from(frame.offset)
    }

    /// The 4 KiB frame that a UMEM address lies in, with `len` bytes of data
    /// there. `None` when a ring's entry names no frame in use, or data beyond
    /// its end.
    #[inline]
    pub fn frame_from_addr(&self, addr: u64, len: u32) -> Option<Frame> {
        let frame = usize::try_from(addr / FRAME_LEN as u64).ok()?;
        let offset = usize::try_from(addr % FRAME_LEN as u64).ok()?;
        let held = frame < self.stats.pages * FRAMES_PER_PAGE
            && Word::state_of(self.load(frame)) == Some(State::InUse)
            && offset + len as usize <= FRAME_LEN;
        held.then(|| {
            let offset = u16::try_from(offset).expect("less than a frame");
            Frame {
                offset,
                len,
                ..self.handle(frame)
            }
        })
    }

    /// First byte of the frame memory, for registration as UMEM.
    pub fn base(&self) -> *mut u8 {
        self.region.ptr()
    }

    /// Bytes of the frame memory, owner words not included.
    #[expect(clippy::len_without_is_empty, reason = "not a collection")]
    pub fn len(&self) -> usize {
        self.stats.pages * PAGE_LEN
    }

    /// What is where, without a walk.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            pages_free: self.whole.count(),
            ..self.stats
        }
    }

    #[inline]
    pub(super) fn handle(&self, frame: usize) -> Frame {
        Frame {
            buf: BufId(index(frame)),
            offset: HEADROOM_OFFSET,
            len: 0,
            next: None,
            home: self.home,
            checksum: Checksum::InPacket,
            gso: None,
        }
    }

    #[inline]
    fn release_buffer(&mut self, frame: usize) {
        let word = self.in_use(BufId(index(frame)));
        match Word::state_of(word) {
            Some(State::InUse) if Word::may_be_held(word) => self.release_kept(frame, word),
            Some(State::InUse) => self.free_frame(frame, word),
            _ => {
                self.store(frame, Word::PAGE_FREE);
                self.stats.page_frames_in_use -= 1;
                self.whole.insert(frame / FRAMES_PER_PAGE);
            }
        }
    }

    /// What was in use goes where it came from.
    #[inline]
    pub(super) fn free_frame(&mut self, frame: usize, word: u64) {
        self.stats.frames_in_use -= 1;
        let reservation = Word::reservation_of(word);
        if ReservedLists::is_number(reservation) {
            return self.bring_home(frame, reservation);
        }
        self.store(frame, Word::FREE);
        self.put_free(frame);
        if self.stats.frames_free >= FRAMES_KEPT + FRAMES_PER_PAGE {
            self.unite_if_free(frame / FRAMES_PER_PAGE);
        }
    }

    #[inline]
    pub(super) fn put_free(&mut self, frame: usize) {
        let page = frame / FRAMES_PER_PAGE;
        if self.free[page] == 0 {
            self.enlist(page);
        }
        self.free[page] |= 1 << (frame % FRAMES_PER_PAGE);
        self.stats.frames_free += 1;
    }

    #[inline]
    pub(super) fn enlist(&mut self, page: usize) {
        self.place[page] = index(self.partial.len());
        self.partial.push(index(page));
    }

    #[inline]
    pub(super) fn delist(&mut self, page: usize) {
        let place = self.place[page] as usize;
        self.partial.swap_remove(place);
        if let Some(&moved) = self.partial.get(place) {
            self.place[moved as usize] = index(place);
        }
        self.place[page] = NOWHERE;
    }
}

//! Whole pages: leased as runs, divided into frames, made whole again (B-2).
//!
//! Not for: a page that is one frame's buffer ([`super::frames`]).

use super::word::{State, Word};
use super::{ALL_FREE, FRAMES_PER_PAGE, Owner, PAGE_LEN, PageRun, Pool, index};

impl Pool {
    /// Leases `count` contiguous whole pages, of what packets on their way do not need.
    pub fn lease_pages(&mut self, count: usize, owner: Owner) -> Option<PageRun> {
        let found = if count * FRAMES_PER_PAGE <= self.available() {
            self.whole.take_run(count).or_else(|| {
                self.unite_pages(0);
                self.whole.take_run(count)
            })
        } else {
            None
        };
        let Some(first) = found else {
            self.stats.pages_refused += 1;
            return None;
        };
        for page in first..first + count {
            self.store(page * FRAMES_PER_PAGE, Word::held(State::PageLeased, owner));
        }
        self.stats.pages_leased += count;
        Some(PageRun {
            first: index(first),
            count: index(count),
        })
    }

    /// Gives a run back.
    pub fn release_pages(&mut self, run: PageRun) {
        let (first, count) = (run.first as usize, run.count as usize);
        for page in first..first + count {
            self.check_leased(page);
            self.store(page * FRAMES_PER_PAGE, Word::PAGE_FREE);
            self.whole.insert(page);
            self.stats.pages_leased -= 1;
        }
    }

    /// The bytes of a run.
    pub fn run_bytes(&self, run: &PageRun) -> &[u8] {
        // SAFETY: a run is made by `lease_pages` alone and not cloned, so its pages are
        // inside the region and belong to its holder; writing needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.run_ptr(run), run.len()) }
    }

    /// The bytes of a run, to write.
    pub fn run_bytes_mut(&mut self, run: &PageRun) -> &mut [u8] {
        // SAFETY: as `run_bytes`, and `&mut self` means that no other slice is out.
        unsafe { std::slice::from_raw_parts_mut(self.run_ptr(run), run.len()) }
    }

    /// First byte of a run, for the one place that keeps it beyond a borrow:
    /// valid until the run is released or the pool dropped.
    pub fn run_ptr(&self, run: &PageRun) -> *mut u8 {
        let first = run.first as usize;
        self.check_leased(first);
        assert!(
            first + run.count as usize <= self.stats.pages,
            "a run of another pool"
        );
        self.at(first * PAGE_LEN)
    }

    pub(super) fn check_leased(&self, page: usize) {
        assert!(page < self.stats.pages, "page {page} is of another pool");
        let state = Word::state_of(self.load(page * FRAMES_PER_PAGE));
        assert_eq!(state, Some(State::PageLeased), "page {page} is not leased");
    }

    /// Makes whole what can be, until no more than `keep` free frames remain.
    pub(super) fn unite_pages(&mut self, keep: usize) {
        for place in (0..self.partial.len()).rev() {
            let page = self.partial[place] as usize;
            if self.free[page] == ALL_FREE && self.stats.frames_free >= keep + FRAMES_PER_PAGE {
                self.unite(page);
            }
        }
    }

    pub(super) fn unite_if_free(&mut self, page: usize) {
        if self.free[page] == ALL_FREE {
            self.unite(page);
        }
    }

    fn unite(&mut self, page: usize) {
        self.delist(page);
        self.free[page] = 0;
        self.store(page * FRAMES_PER_PAGE, Word::PAGE_FREE);
        self.whole.insert(page);
        self.stats.pages_divided -= 1;
        self.stats.frames_free -= FRAMES_PER_PAGE;
    }

    pub(super) fn divide(&mut self) -> Option<()> {
        let page = self.whole.take()?;
        let first = page * FRAMES_PER_PAGE;
        // The first word last: it is the one that makes the page a divided one.
        for frame in (first..first + FRAMES_PER_PAGE).rev() {
            self.store(frame, Word::FREE);
        }
        self.free[page] = ALL_FREE;
        self.enlist(page);
        self.stats.pages_divided += 1;
        self.stats.frames_free += FRAMES_PER_PAGE;
        Some(())
    }
}

//! The undivided free pages: a bitmap with a summary above it.
//!
//! What always holds: bit set = page undivided and free. Single pages come from
//! the low end and runs from the high end, so that the short-lived ones do not
//! break up the memory that runs need. Not for: divided pages.

const WORD_BITS: usize = u64::BITS as usize;

#[derive(Debug)]
pub(super) struct WholePages {
    free: Box<[u64]>,
    /// Bit n set: word n of `free` is not zero.
    summary: Box<[u64]>,
    count: usize,
}

impl WholePages {
    /// No page is free yet.
    pub fn new(pages: usize) -> WholePages {
        let words = pages.div_ceil(WORD_BITS);
        WholePages {
            free: vec![0; words].into(),
            summary: vec![0; words.div_ceil(WORD_BITS)].into(),
            count: 0,
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn contains(&self, page: usize) -> bool {
        self.free[page / WORD_BITS] & bit(page) != 0
    }

    pub fn insert(&mut self, page: usize) {
        let word = page / WORD_BITS;
        debug_assert!(!self.contains(page));
        self.free[word] |= bit(page);
        self.summary[word / WORD_BITS] |= bit(word);
        self.count += 1;
    }

    /// The lowest free page.
    pub fn take(&mut self) -> Option<usize> {
        let top = self.summary.iter().position(|&word| word != 0)?;
        let word = top * WORD_BITS + lowest(self.summary[top]);
        let page = word * WORD_BITS + lowest(self.free[word]);
        self.remove(page);
        Some(page)
    }

    /// The highest run of `len` free pages, by its first.
    pub fn take_run(&mut self, len: usize) -> Option<usize> {
        if len == 0 || len > self.count {
            return None;
        }
        let mut run = 0;
        for word in (0..self.free.len()).rev() {
            // Most of a full pool is passed over 64 pages at a time.
            if self.free[word] == 0 {
                run = 0;
                continue;
            }
            for page in (word * WORD_BITS..(word + 1) * WORD_BITS).rev() {
                run = if self.contains(page) { run + 1 } else { 0 };
                if run == len {
                    (page..page + len).for_each(|page| self.remove(page));
                    return Some(page);
                }
            }
        }
        None
    }

    fn remove(&mut self, page: usize) {
        let word = page / WORD_BITS;
        self.free[word] &= !bit(page);
        if self.free[word] == 0 {
            self.summary[word / WORD_BITS] &= !bit(word);
        }
        self.count -= 1;
    }
}

const fn bit(index: usize) -> u64 {
    1 << (index % WORD_BITS)
}

const fn lowest(word: u64) -> usize {
    word.trailing_zeros() as usize
}

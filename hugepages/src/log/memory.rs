//! The one place that touches the log's bytes, through the fuse.
//!
//! What always holds: every offset is checked against the region's length;
//! words are stored one at a time and in program order, so that a process that
//! is killed leaves a prefix of its stores. (All of them are seen by the next
//! life: memory is coherent, and only the compiler could reorder them.)
//!
//! Not for: power loss; what the words mean ([`super::layout`]).

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, compiler_fence};

use super::layout::{HEADER_WORDS, PAGE_LEN};
use crate::fuse::Fuse;
use crate::region::Region;

#[derive(Debug)]
pub(super) struct Memory {
    region: Region,
    fuse: Fuse,
}

impl Memory {
    /// Over a region that is read only the fuse has blown before the first store.
    pub fn new(region: Region, fuse: Fuse) -> Memory {
        let mut memory = Memory { region, fuse };
        memory.set_fuse(fuse);
        memory
    }

    pub fn set_fuse(&mut self, fuse: Fuse) {
        let read_only = self.region.is_read_only();
        self.fuse = if read_only { Fuse::after(0) } else { fuse };
    }

    pub fn fuse(&self) -> &Fuse {
        &self.fuse
    }

    pub fn into_region(self) -> Region {
        self.region
    }

    pub fn len(&self) -> usize {
        self.region.len()
    }

    #[inline]
    pub fn load(&self, offset: usize) -> u64 {
        // Relaxed: a single writer, this process.
        self.cell(offset).load(Relaxed)
    }

    pub fn load_header(&self, offset: usize) -> [u64; HEADER_WORDS] {
        std::array::from_fn(|word| self.load(offset + word * 8))
    }

    /// One store, after all stores before it in the program.
    #[inline]
    pub fn store(&mut self, offset: usize, word: u64) {
        if self.fuse.burn() {
            // The fences pair with the end of the process: they keep the compiler from
            // moving copies of payload across a word that speaks for them.
            compiler_fence(SeqCst);
            self.cell(offset).store(word, Relaxed);
            compiler_fence(SeqCst);
        }
    }

    /// The words of a header, the first one, which makes it count, last.
    #[inline]
    pub fn store_header(&mut self, offset: usize, words: &[u64; HEADER_WORDS]) {
        for (index, &word) in words.iter().enumerate().skip(1) {
            self.store(offset + index * 8, word);
        }
        self.store(offset, words[0]);
    }

    /// Copies payload in and returns the CRC32C of it, continued from `crc`.
    #[inline]
    pub fn copy_in(&mut self, offset: usize, bytes: &[u8], mut crc: u32) -> u32 {
        for (index, piece) in bytes.chunks(PAGE_LEN).enumerate() {
            let at = offset + index * PAGE_LEN;
            if self.fuse.burn() {
                // The last store before the end stops in the middle.
                let done = if self.fuse.is_blown() {
                    piece.len() / 2
                } else {
                    piece.len()
                };
                self.bytes_mut(at, done).copy_from_slice(&piece[..done]);
            }
            crc = crc32c::crc32c_append(crc, piece);
        }
        crc
    }

    /// Copies payload to another place, which it does not overlap, and returns its CRC32C.
    pub fn copy_within(&mut self, from: usize, to: usize, len: usize) -> u32 {
        let mut page = [0; PAGE_LEN];
        let mut crc = 0;
        for done in (0..len).step_by(PAGE_LEN) {
            let piece = &mut page[..PAGE_LEN.min(len - done)];
            piece.copy_from_slice(self.bytes(from + done, piece.len()));
            crc = self.copy_in(to + done, piece, crc);
        }
        crc
    }

    #[inline]
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        self.check(offset, len);
        // SAFETY: inside the mapping, just checked; the log is private to this process
        // (locked), written only through `&mut self`, and payload is never reached as cells.
        unsafe { std::slice::from_raw_parts(self.region.ptr().add(offset), len) }
    }

    #[inline]
    fn bytes_mut(&mut self, offset: usize, len: usize) -> &mut [u8] {
        self.check(offset, len);
        // SAFETY: as in `bytes`; `&mut self` means that no other slice is out; not called
        // once the fuse has blown, which over read-only memory it has from the start.
        unsafe { std::slice::from_raw_parts_mut(self.region.ptr().add(offset), len) }
    }

    #[inline]
    fn cell(&self, offset: usize) -> &AtomicU64 {
        self.check(offset, 8);
        assert!(offset.is_multiple_of(8), "a word at {offset}");
        // SAFETY: inside the mapping and aligned, just checked; words are only ever
        // written as atomics.
        unsafe { AtomicU64::from_ptr(self.region.ptr().add(offset).cast()) }
    }

    #[inline]
    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.region.len()),
            "{len} bytes at {offset}"
        );
    }
}

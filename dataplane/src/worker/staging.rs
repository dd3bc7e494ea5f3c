//! Staging pages: where data waits that is on its way between the two sides
//! but is no record of the log: read data, the parameters of commands that
//! pass through, and the first burst of a write that found no room.
//!
//! The pages are leased from the communication memory once, at start. A page
//! is named by a [`StagePage`]; whoever holds the name gives it back.

use sluice_hugepages::pool::{Owner, PAGE_LEN, PageRun, Pool};

/// Bytes of a staging page.
pub const STAGE_LEN: usize = PAGE_LEN;

/// One staging page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagePage(u16);

impl StagePage {
    /// The page with this number, as carried in a transfer token.
    pub fn from_number(number: u16) -> Self {
        Self(number)
    }

    pub fn number(self) -> u16 {
        self.0
    }
}

#[derive(Debug)]
pub struct Staging {
    run: PageRun,
    free: Vec<StagePage>,
    total: usize,
}

impl Staging {
    /// Leases `pages` contiguous pages; `None` if the pool has no such run.
    pub fn new(pool: &mut Pool, pages: u16) -> Option<Self> {
        let run = pool.lease_pages(usize::from(pages), Owner::Staging)?;
        Some(Self {
            run,
            free: (0..pages).rev().map(StagePage).collect(),
            total: usize::from(pages),
        })
    }

    pub fn take(&mut self) -> Option<StagePage> {
        self.free.pop()
    }

    pub fn give(&mut self, page: StagePage) {
        assert!(
            self.free.len() < self.total,
            "a staging page came back twice"
        );
        self.free.push(page);
    }

    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    pub fn total_pages(&self) -> usize {
        self.total
    }

    pub fn bytes<'a>(&self, pool: &'a Pool, page: StagePage) -> &'a [u8] {
        let start = usize::from(page.0) * STAGE_LEN;
        &pool.run_bytes(&self.run)[start..start + STAGE_LEN]
    }

    pub fn bytes_mut<'a>(&self, pool: &'a mut Pool, page: StagePage) -> &'a mut [u8] {
        let start = usize::from(page.0) * STAGE_LEN;
        &mut pool.run_bytes_mut(&self.run)[start..start + STAGE_LEN]
    }
}

//! Staging pages: where data waits that is on its way between the two sides
//! but is no record of the log: read data, the parameters of commands that
//! pass through, and the first burst of a write that found no room.
//!
//! The pages are leased from the communication memory once, at start. A page
//! is named by a [`StagePage`]; whoever holds the name gives it back.
//!
//! What always holds: the commands of one computer's session hold no more than
//! its share, a quarter, so that one that takes none of its data leaves the
//! others theirs.

use sluice_hugepages::pool::{Owner, PAGE_LEN, PageRun, Pool};

use super::task::{NexusKey, PASS_PAGES_MAX};

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
    /// By page: whose command holds it; `None` if free, or the relay's own.
    owners: Vec<Option<NexusKey>>,
    /// By nexus: the pages that its commands hold.
    held: Vec<usize>,
    share: usize,
}

impl Staging {
    /// Leases `pages` contiguous pages for up to so many nexuses, of whose
    /// commands none may hold more than `share_max`; `None` if the pool has no
    /// such run.
    pub fn new(pool: &mut Pool, pages: u16, nexuses: usize, share_max: usize) -> Option<Self> {
        let run = pool.lease_pages(usize::from(pages), Owner::Staging)?;
        let total = usize::from(pages);
        Some(Self {
            owners: vec![None; total],
            held: vec![0; nexuses],
            // The longest passing command fits, as far as there are pages.
            share: (total / 4)
                .max(PASS_PAGES_MAX + 1)
                .min(total)
                .min(share_max),
            run,
            free: (0..pages).rev().map(StagePage).collect(),
            total: usize::from(pages),
        })
    }

    /// A page for a command of the relay's own.
    pub fn take(&mut self) -> Option<StagePage> {
        self.free.pop()
    }

    /// A page for a computer's command, within its share.
    pub fn take_for(&mut self, nexus: NexusKey) -> Option<StagePage> {
        if self.held[nexus.0] >= self.share {
            return None;
        }
        let page = self.free.pop()?;
        self.held[nexus.0] += 1;
        self.owners[usize::from(page.0)] = Some(nexus);
        Some(page)
    }

    /// Pages that the commands of one session may hold.
    pub fn share(&self) -> usize {
        self.share
    }

    /// A page for read data. A quarter of the session's share, and of all an
    /// eighth, is left for what passes and for writes that wait: who reads much,
    /// or takes its data slowly, turns no other command away.
    pub fn take_for_read(&mut self, nexus: NexusKey) -> Option<StagePage> {
        if self.may_read(nexus) {
            self.take_for(nexus)
        } else {
            None
        }
    }

    pub fn may_read(&self, nexus: NexusKey) -> bool {
        self.held[nexus.0] < self.share - self.share / 4 && self.has_page_for_read()
    }

    pub fn has_page_for_read(&self) -> bool {
        self.free.len() > self.total / 8
    }

    pub fn give(&mut self, page: StagePage) {
        assert!(
            self.free.len() < self.total,
            "a staging page came back twice"
        );
        if let Some(nexus) = self.owners[usize::from(page.0)].take() {
            self.held[nexus.0] -= 1;
        }
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

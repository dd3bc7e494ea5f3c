//! The worker's step allocates nothing once its sessions are up: not for a
//! write into the log and its flush to the storage, not for a read from the
//! cache or from the storage, not for a SYNCHRONIZE CACHE. What the model hosts
//! allocate is theirs: only steps are counted.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use sluice_proto::scsi::cdb;
use sluice_sim::site::Site;

/// Counts what this thread asks for while it counts.
struct Counting;

thread_local! {
    static COUNTS: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn note() {
    // At the end of a thread the cells may be gone; then nobody counts.
    let counts = COUNTS.try_with(Cell::get).unwrap_or(false);
    if counts {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const GOOD: u8 = 0;

/// Writes, reads from the cache and from the storage, and a SYNCHRONIZE CACHE.
fn work(site: &mut Site, session: &mut sluice_sim::site::Session, from: u32, count: u32) {
    for number in from..from + count {
        let lba = u64::from(number * 7 % 512);
        assert_eq!(site.write(session, lba, number), Some(GOOD));
        assert_eq!(site.read(session, lba), Some((GOOD, Some(number))));
        // Never written: the storage answers.
        assert_eq!(site.read(session, lba + 512), Some((GOOD, Some(0))));
        if number % 16 == 0 {
            let sync = Site::command(session, 0, 0, &cdb::synchronize_cache());
            site.send(session, &sync.bytes());
            assert_eq!(site.finish(session, sync.itt()).unwrap().0, GOOD);
        }
    }
}

#[test]
fn writes_reads_and_flushes_allocate_nothing_after_warm_up() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    work(&mut site, &mut session, 1, 100);
    site.around_step = [|| COUNTS.set(true), || COUNTS.set(false)];
    let flushed = site.storage.counters.writes;
    work(&mut site, &mut session, 101, 200);
    site.run(Duration::from_secs(3));
    assert!(
        site.storage.counters.writes >= flushed + 150,
        "the flush ran too"
    );
    assert_eq!(ALLOCATIONS.get(), 0, "allocations in the worker's step");
    // The counter counts: a login makes the tables of a session.
    let _ = site.login(1, 1, 1);
    assert!(ALLOCATIONS.get() > 0);
}

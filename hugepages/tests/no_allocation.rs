//! The hot paths of pool and log allocate nothing after start.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4};

use arrayvec::ArrayString;
use sluice_hugepages::log::{Log, RecordFlags, VolumeEntry, VolumeFlags};
use sluice_hugepages::pool::{Burst, Owner, Pool, Reservation};
use sluice_hugepages::region::{HUGEPAGE_LEN, Region};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// Counts a thread's allocations, so that the other tests' do not matter.
struct Counting;

// SAFETY: all calls go to the system's allocator unchanged; counting touches a
// thread-local cell without a destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations_of(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(
        allocations_of(|| drop(std::hint::black_box(Box::new(1)))),
        1
    );
}

#[test]
fn frames_and_pages_come_and_go_without_allocation() {
    let mut pool = Pool::anonymous(64);
    let mut burst = Burst::new();
    let work = || {
        for _ in 0..100 {
            burst.extend((0..60).map_while(|_| pool.alloc_frame()));
            burst.extend(pool.alloc_page_frame());
            let run = pool.lease_pages(8, Owner::Tcp(1)).expect("room");
            let mut frames = burst.drain(..);
            let mut head = frames.next().expect("a frame");
            frames.for_each(|frame| pool.link(&mut head, frame));
            pool.release(head);
            let mut head = pool.alloc_frame().expect("a frame");
            let r = Reservation(1);
            pool.reserve(r, 100).expect("room");
            let owner = Owner::Tcp(1);
            let kept: [_; 9] = std::array::from_fn(|_| pool.take(r, owner).expect("reserved"));
            assert!(pool.gather(&mut head, kept.iter().map(|frame| (frame, 0, 4096))));
            pool.release_pages(run);
            pool.cancel(r);
            kept.into_iter().for_each(|frame| pool.release(frame));
            pool.release(head);
        }
        // To the last frame and back.
        let mut all = pool.alloc_frame();
        while let (Some(head), Some(frame)) = (&mut all, pool.alloc_frame()) {
            let rest = pool.unlink(head);
            pool.link(head, frame);
            rest.into_iter().for_each(|rest| pool.link(head, rest));
        }
        all.into_iter().for_each(|head| pool.release(head));
    };
    assert_eq!(allocations_of(work), 0);
}

#[test]
fn writes_come_and_go_without_allocation() {
    let (mut log, _) = Log::open(Region::anonymous(8 * HUGEPAGE_LEN)).expect("an empty region");
    let entry = VolumeEntry {
        target_name: ArrayString::from("iqn.2004-03.example.storage:vol0").expect("short"),
        lun: 1 << 48,
        storage: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
        block_len: 512,
        blocks: 1 << 20,
        flags: VolumeFlags::default(),
    };
    let volume = log.put_volume(entry).expect("a row");
    let bytes = vec![7; 1 << 20];
    let work = || {
        for sequence in 1..200 {
            let small = log.reserve(volume, 0, 4096).expect("room");
            let long = log.reserve(volume, 8, 3 << 20).expect("room");
            log.append(small, &bytes[..4096]);
            (0..3).for_each(|_| log.append(long, &bytes));
            let parts = log.commit(long, 1, sequence * 2, RecordFlags::NONE);
            parts.iter().for_each(|&id| log.free(id));
            if sequence % 2 == 0 {
                log.abort(small);
                continue;
            }
            let parts = log.commit(small, 1, sequence * 2 + 1, RecordFlags::ORDERING_POINT);
            parts.iter().for_each(|&id| log.free(id));
        }
    };
    assert_eq!(allocations_of(work), 0);
}

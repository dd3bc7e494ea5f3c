//! The pool against an oracle: a map from each frame to who was given it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Frame,
    PageFrame,
    Release(usize),
    Lease(usize),
    ReleaseRun(usize),
    Chain(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Frame),
        1 => Just(Op::PageFrame),
        5 => any::<usize>().prop_map(Op::Release),
        1 => (1..4usize).prop_map(Op::Lease),
        1 => any::<usize>().prop_map(Op::ReleaseRun),
        1 => any::<usize>().prop_map(Op::Chain),
    ]
}

/// What the test holds, and the 4 KiB frames that it therefore owns.
struct Model {
    pool: Pool,
    frames: Vec<Frame>,
    runs: Vec<PageRun>,
    /// Frame index -> stamp written into it.
    owned: BTreeMap<usize, u8>,
    next_stamp: u8,
}

impl Model {
    fn new(pool: Pool) -> Model {
        Model {
            pool,
            frames: vec![],
            runs: vec![],
            owned: BTreeMap::new(),
            next_stamp: 1,
        }
    }

    fn own(&mut self, first: usize, count: usize) {
        self.next_stamp = self.next_stamp.wrapping_add(1);
        for frame in first..first + count {
            assert!(
                self.owned.insert(frame, self.next_stamp).is_none(),
                "{frame} given out twice"
            );
        }
    }

    fn disown(&mut self, first: usize, count: usize, bytes: &[u8]) {
        for frame in first..first + count {
            let stamp = self.owned.remove(&frame).expect("owned");
            let at = (frame - first) * FRAME_LEN;
            assert!(
                bytes[at] == stamp && bytes[at + FRAME_LEN - 1] == stamp,
                "overwritten"
            );
        }
    }

    fn take(&mut self, frame: Option<Frame>) {
        let Some(frame) = frame else { return };
        if self.pool.fuse().is_blown() {
            return; // The store that made it a frame may not have happened.
        }
        let count = self.pool.capacity(&frame) / FRAME_LEN;
        self.own(frame.buf.0 as usize, count);
        let stamp = self.next_stamp;
        self.pool.buffer_mut(&frame).fill(stamp);
        self.frames.push(frame);
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Frame => {
                let frame = self.pool.alloc_frame();
                let stats = self.pool.stats();
                assert!(frame.is_some() || (stats.frames_free == 0 && stats.pages_free == 0));
                self.take(frame);
            }
            Op::PageFrame => {
                let frame = self.pool.alloc_page_frame();
                self.take(frame);
            }
            Op::Release(at) if !self.frames.is_empty() => {
                let frame = self.frames.swap_remove(at % self.frames.len());
                self.forget_buffers(&frame);
                self.pool.release(frame);
            }
            Op::Chain(at) if self.frames.len() > 1 => {
                let tail = self.frames.swap_remove(at % self.frames.len());
                let head = at / 2 % self.frames.len();
                self.pool.link(&mut self.frames[head], tail);
            }
            Op::Lease(count) => {
                let run = self.pool.lease_pages(count, Owner::Staging);
                if let (Some(run), false) = (run, self.pool.fuse().is_blown()) {
                    assert_eq!(run.len(), count * PAGE_LEN);
                    let first = run.first as usize * FRAMES_PER_PAGE;
                    self.own(first, count * FRAMES_PER_PAGE);
                    let stamp = self.next_stamp;
                    self.pool.run_bytes_mut(&run).fill(stamp);
                    self.runs.push(run);
                }
            }
            Op::ReleaseRun(at) if !self.runs.is_empty() => {
                let run = self.runs.swap_remove(at % self.runs.len());
                let bytes = self.pool.run_bytes(&run).to_vec();
                let first = run.first as usize * FRAMES_PER_PAGE;
                self.disown(first, run.count as usize * FRAMES_PER_PAGE, &bytes);
                self.pool.release_pages(run);
            }
            _ => {}
        }
    }

    fn forget_buffers(&mut self, frame: &Frame) {
        let mut next = Some(frame.buf);
        while let Some(buf) = next {
            next = match frame.next {
                Some(Next::Buffer(second)) if buf == frame.buf => Some(second),
                _ if buf == frame.buf => None,
                _ => self.pool.links[buf.0 as usize].next,
            };
            let len = self.pool.capacity_of(buf);
            let bytes = self.pool.part(buf, 0, len).to_vec();
            self.disown(buf.0 as usize, len / FRAME_LEN, &bytes);
        }
    }

    /// The counters, the lists and the words must tell the same story.
    fn check(&self) {
        let stats = self.pool.stats();
        assert_eq!(
            stats.frames_in_use + (stats.page_frames_in_use + stats.pages_leased) * FRAMES_PER_PAGE,
            self.owned.len()
        );
        assert_eq!(
            stats.pages_free + stats.pages_leased + stats.page_frames_in_use + stats.pages_divided,
            stats.pages
        );
        assert_eq!(
            stats.frames_free + stats.frames_reserved + stats.frames_in_use,
            stats.pages_divided * FRAMES_PER_PAGE
        );
        let mut counted = PoolStats::default();
        for page in 0..stats.pages {
            let first = page * FRAMES_PER_PAGE;
            match Word::state_of(self.pool.load(first)).unwrap() {
                State::PageFree => counted.pages_free += 1,
                State::PageLeased => counted.pages_leased += 1,
                State::PageFrame => counted.page_frames_in_use += 1,
                _ => {
                    counted.pages_divided += 1;
                    for frame in first..first + FRAMES_PER_PAGE {
                        let owned = self.owned.contains_key(&frame);
                        match Word::state_of(self.pool.load(frame)).unwrap() {
                            State::Free => {
                                counted.frames_free += 1;
                                assert!(!owned)
                            }
                            State::InUse => {
                                counted.frames_in_use += 1;
                                assert!(owned)
                            }
                            other => panic!("{other:?} in a divided page"),
                        }
                    }
                }
            }
        }
        assert_eq!(
            PoolStats {
                pages: stats.pages,
                frames_refused: stats.frames_refused,
                pages_refused: stats.pages_refused,
                ..counted
            },
            stats
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_frame_has_two_owners(ops in prop::collection::vec(op(), 0..200)) {
        let mut model = Model::new(Pool::anonymous(6));
        for op in &ops {
            model.step(op);
            model.check();
        }
        for frame in std::mem::take(&mut model.frames) {
            model.pool.release(frame);
        }
        for run in std::mem::take(&mut model.runs) {
            model.pool.release_pages(run);
        }
        // All is free: the largest run there can be is to be had again.
        prop_assert!(model.pool.lease_pages(6, Owner::Staging).is_some());
    }

    /// After a stop at any store, the words give a whole pool again: everything
    /// comes home, and every frame can be handed out exactly once.
    #[test]
    fn a_pool_is_rebuilt_after_a_stop_at_any_store(ops in prop::collection::vec(op(), 0..60), stop in 1..400u64) {
        // A pool over all of its region, as production has it.
        let mut model = Model::new(Pool::new(Region::anonymous(1)));
        model.pool.set_fuse(Fuse::after(stop));
        for op in &ops {
            if model.pool.fuse().is_blown() { break }
            // What happens in the step that blows the fuse is never seen.
            model.step(op);
            if model.pool.fuse().is_blown() { break }
        }
        // And once more: what the first attach stored must be as good.
        let pool = Pool::attach(model.pool.into_region(), Fuse::NEVER);
        prop_assert_eq!(pool.stats().frames_in_use, 0);
        let mut again = Model::new(Pool::attach(pool.into_region(), Fuse::NEVER));
        let pages = again.pool.stats().pages;
        while let Some(frame) = again.pool.alloc_frame() {
            again.own(frame.buf.0 as usize, 1);
        }
        prop_assert_eq!(again.owned.len(), pages * FRAMES_PER_PAGE);
    }

    /// Owner words are hostile until checked.
    #[test]
    fn any_words_make_a_valid_pool(words in prop::collection::vec(any::<u64>(), 31 * FRAMES_PER_PAGE)) {
        let pool = Pool::new(Region::anonymous(1));
        prop_assert_eq!(pool.stats().pages, 31);
        for (frame, &word) in words.iter().enumerate() {
            // Half of them with a state that exists.
            let word = if word & 1 == 0 { word % (6 << 56) } else { word };
            pool.cell(frame).store(word, Relaxed);
        }
        let mut pool = Pool::attach(pool.into_region(), Fuse::NEVER);
        let mut taken = 0;
        while pool.alloc_frame().is_some() { taken += 1 }
        prop_assert_eq!(taken + pool.stats().frames_reserved, 31 * FRAMES_PER_PAGE);
    }

    #[test]
    fn words_survive_encoding(state in 0..6u64, kind in 0..5u64, reservation: u16, value: u32) {
        let value = match kind { 1 => value & 0xff, 2 => value, _ => 0 };
        let word = state << 56 | kind << 48 | u64::from(reservation) << 32 | u64::from(value);
        prop_assert_eq!(Word::decode(word).unwrap().encode(), word);
    }
}

#[test]
fn pages_become_whole_again_with_hysteresis() {
    let mut pool = Pool::anonymous(64);
    let frames: Vec<Frame> = std::iter::from_fn(|| pool.alloc_frame()).collect();
    assert_eq!(frames.len(), 64 * FRAMES_PER_PAGE);
    assert_eq!(pool.stats().frames_refused, 1);
    frames.into_iter().for_each(|frame| pool.release(frame));
    let stats = pool.stats();
    assert_eq!(stats.frames_free, FRAMES_KEPT);
    assert_eq!(stats.pages_free, 64 - FRAMES_KEPT / FRAMES_PER_PAGE);
    // What is kept divided does not stand in the way of a lease.
    assert!(pool.lease_pages(64, Owner::Tcp(1)).is_some());
}

#[test]
fn umem_addresses_name_frames_in_use_only() {
    let mut pool = Pool::anonymous(2);
    let mut frame = pool.alloc_frame_for(Owner::Driver(1)).unwrap();
    pool.set(&mut frame, 256, 100);
    let addr = pool.addr(&frame);
    let again = pool.frame_from_addr(addr, 100).unwrap();
    assert_eq!(again, frame);
    assert!(
        pool.frame_from_addr(addr, 3841).is_none(),
        "beyond the end of the frame"
    );
    assert!(pool.frame_from_addr(pool.len() as u64, 0).is_none());
    assert!(pool.frame_from_addr(u64::MAX, 0).is_none());
    pool.release(frame);
    assert!(pool.frame_from_addr(addr, 100).is_none());
}

#[test]
fn a_chain_is_read_in_order_and_released_whole() {
    let mut pool = Pool::anonymous(1);
    let mut made = (0..3u8)
        .map(|n| {
            let mut frame = pool.alloc_frame().unwrap();
            pool.set(&mut frame, HEADROOM, 10 + n as usize);
            pool.bytes_mut(&frame).fill(n);
            frame
        })
        .collect::<Vec<_>>()
        .into_iter();
    let (mut head, middle, tail) = (
        made.next().unwrap(),
        made.next().unwrap(),
        made.next().unwrap(),
    );
    pool.link(&mut head, middle);
    pool.link(&mut head, tail);
    let lens: Vec<_> = pool
        .parts(&head)
        .map(|part| (part.len(), part[0]))
        .collect();
    assert_eq!(lens, [(10, 0), (11, 1), (12, 2)]);
    assert_eq!(pool.packet_len(&head), 33);
    let rest = pool.unlink(&mut head).unwrap();
    assert_eq!((pool.packet_len(&head), pool.packet_len(&rest)), (10, 23));
    pool.release(rest);
    assert_eq!(pool.stats().frames_in_use, 1);
    pool.release(head);
    assert_eq!(pool.stats().frames_in_use, 0);
}

#[test]
#[should_panic(expected = "is used but its state is")]
fn a_second_release_is_a_bug() {
    let mut pool = Pool::anonymous(1);
    let frame = pool.alloc_frame().unwrap();
    let same = Frame {
        buf: frame.buf,
        ..frame
    };
    pool.release(frame);
    pool.release(same);
}

/// Two packets over the two pages of a run, the first over all but the ends of three slots.
fn gathered(pool: &mut Pool, run: &PageRun) -> [Frame; 2] {
    let slots = [
        (100, FRAME_LEN - 100),
        (FRAME_LEN, FRAME_LEN),
        (2 * FRAME_LEN, 7),
    ];
    let parts = [&slots[..], &[(PAGE_LEN - 10, 10), (PAGE_LEN, 20)]];
    parts.map(|parts| {
        let mut head = pool.alloc_frame().unwrap();
        pool.set(&mut head, HEADROOM, 40);
        pool.bytes_mut(&head).fill(9);
        let parts = parts.iter().map(|&(at, len)| (run, at, len));
        assert!(pool.gather(&mut head, parts));
        head
    })
}

#[test]
fn what_is_gathered_is_held_until_its_last_packet_is_released() {
    let mut pool = Pool::anonymous(3);
    let run = pool.lease_pages(2, Owner::Tcp(1)).unwrap();
    for (byte, slot) in (0..).zip(pool.run_bytes_mut(&run).chunks_mut(FRAME_LEN)) {
        slot.fill(byte);
    }
    let [first, second] = gathered(&mut pool, &run);
    let lens: Vec<_> = pool
        .parts(&first)
        .map(|part| (part.len(), part[0]))
        .collect();
    assert_eq!(
        lens,
        [(40, 9), (FRAME_LEN - 100, 0), (FRAME_LEN, 1), (7, 2)]
    );
    assert_eq!(pool.packet_len(&first), 40 + 2 * FRAME_LEN - 100 + 7);
    assert_eq!(pool.packet(&second).len(), 40 + 30);
    let held = |pool: &Pool| {
        (0..32)
            .filter(|slot| pool.is_held(&run, slot * FRAME_LEN))
            .collect()
    };
    let before: Vec<usize> = held(&pool);
    assert_eq!(before, [0, 1, 2, 15, 16]);
    let [again, third] = gathered(&mut pool, &run);
    pool.release(first);
    assert_eq!(held(&pool), before);
    pool.release(again);
    let after: Vec<usize> = held(&pool);
    assert_eq!(after, [15, 16]);
    pool.release(third);
    // The run is given back with one packet left, and both its pages wait for it.
    pool.release_pages(run);
    assert_eq!((pool.stats().pages_leased, pool.stats().pages_free), (2, 0));
    assert_eq!(
        pool.packet(&second)[40..],
        [[15; 10].as_slice(), &[16; 20]].concat()
    );
    pool.release(second);
    assert_eq!((pool.stats().pages_leased, pool.packets_gathered()), (0, 0));
    // And what was freed late is like any other.
    assert!(pool.lease_pages(2, Owner::Tcp(2)).is_some());
}

#[test]
fn without_a_list_nothing_is_gathered() {
    let mut pool = Pool::anonymous(8);
    let run = pool.lease_pages(1, Owner::Tcp(1)).unwrap();
    let mut heads = Vec::new();
    loop {
        let mut head = pool.alloc_frame().unwrap();
        let gathered = pool.gather(&mut head, std::iter::once((&run, 0, 5)));
        assert_eq!(head.next.is_some(), gathered);
        heads.push(head);
        if !gathered {
            break;
        }
    }
    // The region was rounded up to 31 pages, and there is a list for each.
    assert_eq!((heads.len(), pool.packets_gathered()), (32, 31));
    heads.into_iter().for_each(|head| pool.release(head));
    assert_eq!(pool.packets_gathered(), 0);
    assert!(!pool.is_held(&run, 0));
}

#[test]
#[should_panic(expected = "of a slot")]
fn a_piece_is_within_a_slot() {
    let mut pool = Pool::anonymous(2);
    let run = pool.lease_pages(1, Owner::Tcp(1)).unwrap();
    let mut head = pool.alloc_frame().unwrap();
    let _ = pool.gather(&mut head, std::iter::once((&run, 4090, 7)));
}

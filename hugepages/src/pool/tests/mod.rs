//! The pool: its lists, what packets hold of it, and its words.

mod model;
mod reserved;

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

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
        model::walk(&pool, |_, _| ());
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

/// Frames that a connection keeps, each filled with its number.
fn kept(pool: &mut Pool, reservation: Reservation, count: u8) -> Vec<Frame> {
    let kept = (0..count).map(|number| {
        let frame = pool.take(reservation, Owner::Tcp(1)).unwrap();
        pool.buffer_mut(&frame).fill(number);
        frame
    });
    kept.collect()
}

fn head(pool: &mut Pool) -> Frame {
    let mut head = pool.alloc_frame().unwrap();
    pool.set(&mut head, HEADROOM, 40);
    pool.bytes_mut(&head).fill(9);
    head
}

/// Two packets over five frames, the first over all but the ends of three of them.
fn gathered(pool: &mut Pool, kept: &[Frame]) -> [Frame; 2] {
    let first = [(0, 100, FRAME_LEN - 100), (1, 0, FRAME_LEN), (2, 0, 7)];
    let parts = [&first[..], &[(3, FRAME_LEN - 10, 10), (4, 0, 20)]];
    parts.map(|parts| {
        let mut head = head(pool);
        let parts = parts
            .iter()
            .map(|&(frame, at, len)| (&kept[frame], at, len));
        assert!(pool.gather(&mut head, parts));
        head
    })
}

#[test]
fn what_is_gathered_is_held_until_its_last_packet_is_released() {
    let mut pool = Pool::anonymous(3);
    let frames = kept(&mut pool, Reservation::NONE, 6);
    let [first, second] = gathered(&mut pool, &frames);
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
    let held = |pool: &Pool| -> Vec<usize> {
        let numbers = frames.iter().zip(0..);
        let held = numbers.filter(|(frame, _)| pool.is_held(frame));
        held.map(|(_, number)| number).collect()
    };
    assert_eq!(held(&pool), [0, 1, 2, 3, 4]);
    let [again, third] = gathered(&mut pool, &frames);
    pool.release(first);
    assert_eq!(held(&pool), [0, 1, 2, 3, 4]);
    pool.release(again);
    assert_eq!(held(&pool), [3, 4]);
    pool.release(third);
    // The frames are given back with one packet left, and two of them wait for it.
    frames.into_iter().for_each(|frame| pool.release(frame));
    assert_eq!(pool.stats().frames_in_use, 1 + 2);
    let says = [[9; 40].as_slice(), &[3; 10], &[4; 20]].concat();
    assert_eq!(pool.packet(&second), says);
    while let Some(frame) = pool.alloc_frame() {
        pool.buffer_mut(&frame).fill(0xee);
        assert_eq!(pool.packet(&second), says);
    }
    pool.release(second);
    assert_eq!((pool.stats().frames_free, pool.packets_gathered()), (3, 0));
}

#[test]
fn without_a_list_nothing_is_gathered() {
    let mut pool = Pool::anonymous(8);
    let frames = kept(&mut pool, Reservation::NONE, 1);
    let mut heads = Vec::new();
    loop {
        let mut head = head(&mut pool);
        let gathered = pool.gather(&mut head, std::iter::once((&frames[0], 0, 5)));
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
    assert!(!pool.is_held(&frames[0]));
}

#[test]
#[should_panic(expected = "of a frame")]
fn a_piece_is_within_a_frame() {
    let mut pool = Pool::anonymous(2);
    let frames = kept(&mut pool, Reservation::NONE, 1);
    let mut head = head(&mut pool);
    let _ = pool.gather(&mut head, std::iter::once((&frames[0], 4090, 7)));
}

#[test]
#[should_panic(expected = "is kept by no connection")]
fn what_is_on_its_way_is_lent_to_no_packet() {
    let mut pool = Pool::anonymous(2);
    let frame = pool.alloc_frame().unwrap();
    let mut head = head(&mut pool);
    let _ = pool.gather(&mut head, std::iter::once((&frame, 0, 7)));
}

#[test]
#[should_panic(expected = "was given back before")]
fn a_second_release_of_what_is_held_is_a_bug() {
    let mut pool = Pool::anonymous(2);
    let frames = kept(&mut pool, Reservation::NONE, 1);
    let mut head = head(&mut pool);
    assert!(pool.gather(&mut head, std::iter::once((&frames[0], 0, 7))));
    let frame = &frames[0];
    let same = [(); 2].map(|()| Frame {
        buf: frame.buf,
        ..pool.handle(0)
    });
    same.into_iter().for_each(|frame| pool.release(frame));
}

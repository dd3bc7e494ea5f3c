use super::*;
use proptest::prelude::*;

const RESERVED: [usize; 3] = [0, 5, 20];

fn pool() -> Pool {
    let mut pool = Pool::anonymous(4);
    for (at, frames) in (0u16..).zip(RESERVED).skip(1) {
        pool.reserve(Reservation(at), frames).unwrap();
    }
    pool
}

/// The first few bytes of a slot, each of which is the next of the stream.
fn fill(chain: &mut Chain, len: usize, next: &mut u8, model: &mut VecDeque<u8>) -> usize {
    chain.append(len, |out| {
        for byte in out.iter_mut() {
            *next = next.wrapping_mul(5).wrapping_add(1);
            *byte = *next;
            model.push_back(*next);
        }
        out.len()
    })
}

proptest! {
    /// Against a plain queue of bytes, with acknowledgements anywhere, and more or fewer
    /// frames from here or there at any time, which others may have.
    #[test]
    fn it_is_a_queue_of_bytes(
        steps in proptest::collection::vec((0u8..12, 1usize..9000), 1..300),
    ) {
        let mut pool = pool();
        let mut chain = Chain::take(&mut pool, 0, 8, Reservation::NONE).expect("frames");
        let mut model: VecDeque<u8> = VecDeque::new();
        let (mut next, mut acked) = (0u8, 0u64);
        // What was written under a larger limit.
        let mut most = chain.limit();
        let mut others: Vec<Frame> = Vec::new();
        for (step, len) in steps {
            match step {
                0..5 => {
                    let before = (chain.frames(), pool.available(), chain.refused());
                    let drawn = chain.draw(&mut pool);
                    prop_assert_eq!(drawn, chain.room() > 0);
                    if chain.refused() > before.2 {
                        let left = match chain.reservation() {
                            Reservation::NONE => before.1,
                            reservation => pool.reserved(reservation).map_or(0, |of| of.listed),
                        };
                        let others_have = if before.0 < KEPT { 0 } else { KEPT };
                        prop_assert!(!drawn && left <= others_have);
                    }
                    let room = chain.room();
                    let written = fill(&mut chain, len, &mut next, &mut model);
                    prop_assert_eq!(written == 0, !drawn);
                    prop_assert_eq!(chain.room(), room - written);
                }
                5..9 => {
                    let len = len.min(model.len());
                    model.drain(..len);
                    acked += len as u64;
                    chain.acknowledge(&mut pool, acked);
                }
                9 => {
                    let limit = u32::try_from(len % 30).unwrap();
                    let reservation = Reservation(u16::try_from(len / 30 % 3).unwrap());
                    chain.set_limit(&mut pool, limit, reservation);
                    prop_assert_eq!(chain.limit(), limit.max(1) as usize);
                }
                10 => others.drain(..).for_each(|frame| pool.release(frame)),
                _ => {
                    let from = Reservation(u16::try_from(len % 3).unwrap());
                    let taken = std::iter::from_fn(|| pool.take(from, Owner::Tcp(1)));
                    others.extend(taken);
                }
            }
            most = most.min(chain.frames().max(chain.limit())).max(chain.limit());
            prop_assert!((1..=most).contains(&chain.frames()), "it can always go on");
            prop_assert_eq!(pool.stats().frames_in_use, chain.frames() + others.len());
            prop_assert_eq!(chain.end(), acked + model.len() as u64);
            let mut out = vec![0; model.len()];
            chain.copy(acked, &mut out);
            prop_assert_eq!(&out, model.make_contiguous());
            out.fill(0);
            let sum = chain.copy_and_sum(acked, &mut out);
            prop_assert_eq!(sum, checksum::sum(&out));
            prop_assert_eq!(&out, model.make_contiguous());
        }
        chain.acknowledge(&mut pool, acked + model.len() as u64);
        // It keeps little, and a slot that is not full.
        prop_assert!(chain.frames() <= KEPT + 1);
        chain.release(&mut pool);
        prop_assert_eq!(pool.stats().frames_in_use, others.len());
        others.into_iter().for_each(|frame| pool.release(frame));
        for (at, frames) in (0u16..).zip(RESERVED).skip(1) {
            prop_assert_eq!(pool.reserved(Reservation(at)).unwrap().listed, frames);
        }
    }
}

/// Writes until there is no room; bytes.
fn write_all(chain: &mut Chain, pool: &mut Pool) -> usize {
    let mut written = 0;
    while chain.draw(pool) {
        written += chain.append(FRAME_LEN, |room| room.len());
    }
    written
}

#[test]
fn b08_a_chain_takes_from_its_reservation_and_from_nowhere_else() {
    let mut pool = pool();
    let free = pool.available();
    let mut chain = Chain::take(&mut pool, 0, 20, Reservation(2)).unwrap();
    assert_eq!(chain.frames(), KEPT);
    // What is left is for one that begins.
    assert_eq!(write_all(&mut chain, &mut pool), (20 - KEPT) * FRAME_LEN);
    assert_eq!((chain.refused(), pool.available()), (1, free));
    let mut other = Chain::take(&mut pool, 1, 20, Reservation(2)).unwrap();
    assert_eq!(write_all(&mut other, &mut pool), KEPT * FRAME_LEN);
    assert!(Chain::take(&mut pool, 2, 20, Reservation(2)).is_none());
    // And what the first gives back the second has.
    chain.acknowledge(&mut pool, 10 * SLOT_LEN);
    assert_eq!(chain.frames(), 6);
    assert!(write_all(&mut other, &mut pool) > 0);
    chain.release(&mut pool);
    other.release(&mut pool);
    assert_eq!(pool.reserved(Reservation(2)).unwrap().listed, 20);
}

#[test]
fn b08_a_reservation_of_a_frame_serves_a_connection() {
    let mut pool = pool();
    pool.reserve(Reservation(3), 1).unwrap();
    let mut chain = Chain::take(&mut pool, 0, 1, Reservation(3)).unwrap();
    assert!(Chain::take(&mut pool, 1, 1, Reservation(3)).is_none());
    for round in 1..10 {
        assert_eq!(write_all(&mut chain, &mut pool), FRAME_LEN);
        chain.acknowledge(&mut pool, round * SLOT_LEN);
    }
    assert_eq!((chain.frames(), chain.refused()), (1, 0));
    chain.release(&mut pool);
}

#[test]
fn b07_frames_of_an_earlier_reservation_go_home_to_it() {
    let mut pool = pool();
    let mut chain = Chain::take(&mut pool, 0, 20, Reservation(2)).unwrap();
    for _ in 0..6 {
        assert!(chain.draw(&mut pool));
        chain.append(FRAME_LEN, |room| room.len());
    }
    pool.cancel(Reservation(2));
    // Nothing is free to have instead.
    let others: Vec<_> = std::iter::from_fn(|| pool.alloc_frame()).collect();
    chain.set_limit(&mut pool, 100, Reservation::NONE);
    chain.acknowledge(&mut pool, 6 * SLOT_LEN);
    assert_eq!(chain.frames(), KEPT);
    assert_eq!(pool.reserved(Reservation(2)).unwrap().in_use, KEPT);
    // It gets along with what it has, until there is other.
    assert!(write_all(&mut chain, &mut pool) >= KEPT * FRAME_LEN);
    others.into_iter().for_each(|frame| pool.release(frame));
    chain.acknowledge(&mut pool, chain.end());
    assert!(chain.draw(&mut pool));
    assert_eq!(pool.reserved(Reservation(2)), None);
    chain.release(&mut pool);
    assert_eq!(pool.stats().frames_in_use, 0);
}

/// What it keeps cannot be written while packets name it.
#[test]
fn what_packets_still_name_is_no_room() {
    let mut pool = pool();
    pool.reserve(Reservation(3), 4).unwrap();
    let mut chain = Chain::take(&mut pool, 0, 4, Reservation(3)).unwrap();
    assert_eq!(write_all(&mut chain, &mut pool), 4 * FRAME_LEN);
    let mut head = pool.alloc_frame().unwrap();
    assert!(chain.lend(&mut pool, &mut head, 0, 4 * FRAME_LEN));
    chain.acknowledge(&mut pool, 4 * SLOT_LEN);
    assert!(!chain.draw(&mut pool) && !chain.has_spare(&pool));
    assert_eq!(chain.refused(), 0, "they are its own");
    pool.release(head);
    assert!(chain.has_spare(&pool) && chain.draw(&mut pool));
    chain.release(&mut pool);
}

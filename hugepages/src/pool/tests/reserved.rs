//! Reservations: what they take, what they give back, and what is left to others.

use super::*;

const R: Reservation = Reservation(1);
const S: Reservation = Reservation(2);

fn reserved(goal: usize, listed: usize, in_use: usize) -> Option<Reserved> {
    Some(Reserved {
        goal,
        listed,
        in_use,
    })
}

fn take(pool: &mut Pool, reservation: Reservation, count: usize) -> Vec<Frame> {
    let taken = (0..count).map_while(|_| pool.take(reservation, Owner::Tcp(1)));
    taken.collect()
}

fn release(pool: &mut Pool, frames: impl IntoIterator<Item = Frame>) {
    frames.into_iter().for_each(|frame| pool.release(frame));
}

#[test]
fn b06_a_reservation_divides_pages_for_what_is_short_and_a_cancel_makes_them_whole() {
    let mut pool = Pool::anonymous(64);
    let frame = pool.alloc_frame().unwrap();
    let before = pool.stats();
    assert_eq!((before.pages_free, before.frames_free), (63, 15));
    // The free list, and pages for the 485 that are missing.
    pool.reserve(R, 500).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.pages_free, stats.pages_divided), (63 - 31, 1 + 31));
    assert_eq!((stats.frames_reserved, stats.frames_free), (500, 11));
    assert_eq!(pool.reserved(R), reserved(500, 500, 0));
    pool.cancel(R);
    assert_eq!(pool.reserved(R), None);
    assert_eq!(pool.stats(), before, "as if it had never been");
    pool.release(frame);
}

#[test]
fn b06_what_does_not_fit_changes_nothing() {
    let mut pool = Pool::anonymous(4);
    pool.set_floors(8, 0);
    pool.reserve(R, 20).unwrap();
    let before = pool.stats();
    assert_eq!(pool.available(), 64 - 20 - 8);
    assert_eq!(pool.reserve(S, 37), Err(OutOfBuffers { free: 36 }));
    assert_eq!(pool.reserve(R, 57), Err(OutOfBuffers { free: 36 }));
    assert_eq!(pool.reserve(R, usize::MAX), Err(OutOfBuffers { free: 36 }));
    assert_eq!((pool.stats(), pool.reserved(S)), (before, None));
    // What it has counts: the same size and a smaller one always fit.
    pool.reserve(S, 36).unwrap();
    assert_eq!(pool.available(), 0);
    pool.reserve(R, 20).unwrap();
    assert_eq!(pool.reserve(R, 21), Err(OutOfBuffers { free: 0 }));
    pool.reserve(R, 19).unwrap();
    assert_eq!(pool.available(), 1);
}

#[test]
fn b07_a_smaller_reservation_gives_back_what_is_listed_at_once_and_the_rest_when_it_is_released() {
    let mut pool = Pool::anonymous(8);
    pool.reserve(R, 20).unwrap();
    let mut frames = take(&mut pool, R, 12);
    pool.reserve(R, 10).unwrap();
    assert_eq!(pool.reserved(R), reserved(10, 0, 12));
    assert!(pool.take(R, Owner::Tcp(2)).is_none());
    let released = frames.split_off(9);
    release(&mut pool, released);
    // Two were too many, and the third is what it may have.
    assert_eq!(pool.reserved(R), reserved(10, 1, 9));
    // It grows while they are in use: what is held counts.
    pool.reserve(R, 14).unwrap();
    assert_eq!(pool.reserved(R), reserved(14, 5, 9));
    release(&mut pool, frames);
    assert_eq!(pool.reserved(R), reserved(14, 14, 0));
    assert_eq!(pool.stats().frames_reserved, 14);
}

#[test]
fn b08_a_reservation_never_takes_more_than_it_has_however_much_is_free() {
    let mut pool = Pool::anonymous(8);
    pool.reserve(R, 5).unwrap();
    let frames = take(&mut pool, R, 100);
    assert_eq!(frames.len(), 5);
    assert_eq!(pool.stats().takes_refused, 1);
    assert!(pool.take(S, Owner::Tcp(1)).is_none(), "no such reservation");
    let none = Reservation(u16::MAX);
    assert!(
        pool.take(none, Owner::Tcp(1)).is_none(),
        "nor such a number"
    );
    assert_eq!(pool.reserved(none), None);
    release(&mut pool, frames);
}

#[test]
fn b09_frames_go_back_to_where_they_came_from() {
    let mut pool = Pool::anonymous(8);
    pool.reserve(R, 3).unwrap();
    pool.reserve(S, 3).unwrap();
    let of_r = take(&mut pool, R, 2);
    let of_s = take(&mut pool, S, 1);
    let borrowed = take(&mut pool, Reservation::NONE, 4);
    pool.set_owner(&of_r[0], Owner::Forward);
    let free = pool.available();
    release(&mut pool, of_r.into_iter().chain(of_s));
    assert_eq!(pool.available(), free);
    release(&mut pool, borrowed);
    assert_eq!(pool.available(), free + 4);
    assert_eq!(pool.reserved(R), reserved(3, 3, 0));
    assert_eq!(pool.reserved(S), reserved(3, 3, 0));
}

#[test]
fn b10_what_a_cancelled_reservation_has_in_use_is_free_when_it_is_released() {
    let mut pool = Pool::anonymous(64);
    pool.reserve(R, 400).unwrap();
    let mut frames = take(&mut pool, R, 300);
    pool.cancel(R);
    assert_eq!(pool.reserved(R), reserved(0, 0, 300));
    assert!(pool.take(R, Owner::Tcp(1)).is_none());
    let last = frames.pop().unwrap();
    release(&mut pool, frames);
    assert_eq!(pool.reserved(R), reserved(0, 0, 1));
    let stats = pool.stats();
    assert_eq!((stats.pages_free, stats.pages_divided), (63, 1));
    pool.release(last);
    assert_eq!(pool.reserved(R), None);
    assert_eq!(pool.stats().pages_free, 64);
}

/// A packet is on its way with what it names, whatever becomes of the connection and of its reservation.
#[test]
fn b10_packets_hold_frames_of_a_cancelled_reservation_until_they_are_sent() {
    let mut pool = Pool::anonymous(8);
    pool.reserve(R, 8).unwrap();
    let frames = kept(&mut pool, R, 6);
    let [first, second] = gathered(&mut pool, &frames);
    release(&mut pool, frames);
    assert_eq!(pool.reserved(R), reserved(8, 3, 5));
    pool.cancel(R);
    assert_eq!(pool.reserved(R), reserved(0, 0, 5));
    let says = pool.packet(&second);
    pool.release(first);
    assert_eq!(pool.reserved(R), reserved(0, 0, 2));
    assert_eq!(pool.packet(&second), says);
    // The number is another's meanwhile: what comes home is its.
    pool.reserve(R, 1).unwrap();
    assert_eq!(pool.reserved(R), reserved(1, 0, 2));
    pool.release(second);
    assert_eq!(pool.reserved(R), reserved(1, 1, 0));
    pool.cancel(R);
    assert_eq!((pool.stats().pages_free, pool.packets_gathered()), (8, 0));
}

#[test]
fn b18_what_packets_on_their_way_need_is_taken_by_nobody_else() {
    let mut pool = Pool::anonymous(16);
    pool.set_floors(40, 60);
    let borrowed = take(&mut pool, Reservation::NONE, 1000);
    assert_eq!((borrowed.len(), pool.available()), (256 - 100, 60));
    // Sessions have what borrowers leave, and the last lease is one that fits.
    let leases: Vec<_> = std::iter::from_fn(|| pool.lease_pages(1, Owner::Tcp(1))).collect();
    assert_eq!((leases.len(), pool.available()), (3, 60 - 48));
    assert!(pool.reserve(R, 13).is_err());
    pool.reserve(R, 12).unwrap();
    assert_eq!(pool.available(), 0);
    let moving: Vec<_> = std::iter::from_fn(|| pool.alloc_frame()).collect();
    assert_eq!(moving.len(), 40);
    release(&mut pool, moving);
    release(&mut pool, borrowed);
    leases.into_iter().for_each(|run| pool.release_pages(run));
    assert_eq!(pool.available(), 256 - 40 - 12);
}

/// Only a few microseconds may pass however many reservations there are: an update touches no
/// frame but those that it moves.
#[test]
fn b07_an_update_stores_one_word_a_frame() {
    let mut pool = Pool::anonymous(1024);
    for number in 1..10_240 {
        pool.reserve(Reservation(number), 1).unwrap();
    }
    pool.reserve(Reservation(5_000), 17).unwrap();
    let fuse = Fuse::after(1_000);
    pool.set_fuse(fuse);
    pool.reserve(Reservation(5_000), 33).unwrap();
    // A page was divided for them.
    assert_eq!(pool.fuse().burnt(1_000), 16 + 16);
    pool.set_fuse(fuse);
    pool.reserve(Reservation(5_000), 17).unwrap();
    assert!(pool.fuse().burnt(1_000) <= 16 + 2);
}

//! Flows that we open and the reservations that they send from.

use super::*;
use sluice_hugepages::pool::{FRAME_LEN, Owner, PAGE_LEN};
use std::cell::Cell;

const R: Reservation = Reservation(1);
const S: Reservation = Reservation(2);
const WAN: WanBuffers = WanBuffers {
    rx_pages: 1,
    tx_frames: 64,
};

fn byte(at: u64) -> u8 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[6]
}

fn lossy() -> Link {
    Link {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(3),
        loss_permille: 10,
        repeat_permille: 5,
    }
}

/// Moves so much from the first host to the second; `look` is called when the first has
/// written. False if it took more than ten minutes.
fn moves(
    world: &mut World,
    [client, server]: [FlowId; 2],
    total: u64,
    mut look: impl FnMut(&mut Host),
) -> bool {
    let (mut written, read) = (0u64, Cell::new(0u64));
    world.run(
        Duration::from_secs(600),
        |at, host| {
            if at == 1 {
                while host.tcp.recv(server, |bytes| {
                    for &got in bytes {
                        assert_eq!(got, byte(read.get()), "byte {}", read.get());
                        read.set(read.get() + 1);
                    }
                    bytes.len()
                }) > 0
                {}
                return;
            }
            while host.send(client, |room| {
                let len = room.len().min(usize::try_from(total - written).unwrap());
                for slot in &mut room[..len] {
                    *slot = byte(written);
                    written += 1;
                }
                len
            }) > 0
            {}
            look(host);
        },
        || read.get() == total,
    )
}

#[test]
fn b07_b11_limit_and_reservation_change_under_a_transfer() {
    let mut world = World::plain();
    let flows = world.connected();
    let [client, _] = flows;
    world.link = lossy();
    let pool = &mut world.hosts[0].pool;
    pool.reserve(R, 40).unwrap();
    pool.reserve(S, 9).unwrap();
    let (mut steps, mut before, mut changes) = (0u32, 0, 0);
    let done = moves(&mut world, flows, 4 << 20, |host| {
        let Host { tcp, pool } = host;
        let held = tcp.held(client).unwrap();
        // A limit that is below what it has takes effect as that is acknowledged.
        assert!(
            held.frames <= held.limit_frames.max(before),
            "{before} {held:?}"
        );
        before = held.frames;
        assert!(held.unacknowledged <= u64::from(held.frames) * FRAME_LEN as u64);
        let of = |reservation| pool.reserved(reservation).map_or(0, |of| of.in_use);
        assert!(of(R) + of(S) <= held.frames as usize);
        if steps.is_multiple_of(200) {
            let turn = steps as usize / 200 % 6;
            let (reservation, frames) = [
                (R, 40),
                (R, 12),
                (S, 9),
                (Reservation::NONE, 64),
                (R, 80),
                (R, 1),
            ][turn];
            if reservation == R {
                pool.reserve(R, frames).unwrap();
            }
            let frames = u32::try_from(frames).unwrap();
            tcp.set_send_buffer(pool, client, frames, reservation);
            before = before.max(tcp.held(client).unwrap().frames);
            changes += 1;
        }
        steps += 1;
    });
    assert!(done && changes > 6, "{steps} steps");
    world.pass(Duration::from_secs(1));
    let host = &mut world.hosts[0];
    assert!(host.tcp.held(client).unwrap().frames <= 5);
    host.pool.cancel(R);
    host.pool.cancel(S);
    host.tcp.abort(client);
    world.pass(Duration::from_secs(1));
    let host = &world.hosts[0];
    assert_eq!((host.pages_leased(), host.frames_held()), (0, 0));
    assert_eq!(host.pool.stats().frames_reserved, 0);
    assert_eq!(host.pool.reserved(R), None);
}

/// Everything is taken, but the flow has a few frames of its own and the way is free.
#[test]
fn b18_a_flow_goes_on_with_nothing_but_what_it_keeps() {
    for reservation in [Reservation::NONE, R] {
        let mut world = World::plain();
        world.hosts[0].pool.reserve(R, 6).unwrap();
        let flows = world.connected();
        let [client, _] = flows;
        let Host { tcp, pool } = &mut world.hosts[0];
        tcp.set_send_buffer(pool, client, 64, reservation);
        pool.set_floors(64, 16);
        let pinned: Vec<_> = std::iter::from_fn(|| pool.lease_pages(1, Owner::Staging)).collect();
        let borrowed = std::iter::from_fn(|| pool.take(Reservation::NONE, Owner::Tcp(99)));
        assert_eq!(borrowed.count(), 0);
        assert!(pool.available() < 16);
        let most = Cell::new(0);
        let done = moves(&mut world, flows, 1 << 20, |host| {
            let held = host.tcp.held(client).unwrap();
            most.set(most.get().max(held.frames));
        });
        assert!(done);
        let host = &mut world.hosts[0];
        let held = host.tcp.held(client).unwrap();
        assert!(held.refused > 100, "{held:?}");
        assert_eq!((most.get(), held.reservation), (4, reservation));
        // And takes what there is when there is some.
        for run in pinned {
            host.pool.release_pages(run);
        }
        if reservation == R {
            host.pool.reserve(R, 40).unwrap();
        }
        assert!(moves(&mut world, [client, flows[1]], 1 << 20, |host| {
            most.set(most.get().max(host.tcp.held(client).unwrap().frames));
        }));
        assert!(most.get() > 30, "{}", most.get());
    }
}

/// It is the buffer that bounds what is under way, and the transport is told.
#[test]
fn b11_a_flow_that_gets_no_frames_does_not_count_as_short_of_things_to_send() {
    let mut world = World::plain();
    world.hosts[0].pool.reserve(R, 8).unwrap();
    let flows = world.connected();
    let [client, server] = flows;
    world.link.delay = Duration::from_millis(20);
    let Host { tcp, pool } = &mut world.hosts[0];
    // As it would be if others had the rest.
    tcp.set_send_buffer(pool, client, 256, R);
    let mut samples = Vec::new();
    assert!(moves(&mut world, [client, server], 1 << 20, |host| {
        samples.push(host.tcp.path_sample(client).unwrap().app_limited);
    }));
    let limited = samples.iter().filter(|&&limited| limited).count();
    assert!(
        limited * 10 < samples.len(),
        "{limited} of {}",
        samples.len()
    );
}

#[test]
fn b08_connections_of_a_reservation_leave_a_few_frames_to_one_that_begins() {
    let mut world = World::plain();
    let now = world.now;
    let Host { tcp, pool } = &mut world.hosts[0];
    pool.reserve(R, 12).unwrap();
    let first = tcp.connect(now, pool, COMPUTER, STORAGE, WAN, R).unwrap();
    while tcp.draw(pool, first) && tcp.send(first, |room| room.len()) > 0 {}
    assert_eq!(tcp.held(first).unwrap().frames, 8);
    let second = tcp.connect(now, pool, COMPUTER, STORAGE, WAN, R).unwrap();
    assert_eq!(tcp.held(second).unwrap().frames, 4);
    let third = tcp.connect(now, pool, COMPUTER, STORAGE, WAN, R);
    assert_eq!(third, Err(ConnectError::Frames(R)));
    assert_eq!(
        tcp.held(first),
        Some(Held {
            reservation: R,
            frames: 8,
            limit_frames: 64,
            unacknowledged: 8 * FRAME_LEN as u64,
            refused: 1,
        })
    );
    tcp.abort(first);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.hosts[0].pool.reserved(R).unwrap().in_use, 4);
}

/// What comes beyond a few frames is not kept when only packets on their way have room; it
/// comes again when there is.
#[test]
fn b18_a_starved_pool_keeps_little_of_what_is_received() {
    let mut world = World::plain();
    let [client, server] = world.connected();
    let host = &mut world.hosts[0];
    let stats = host.pool.stats();
    let free = stats.frames_free + stats.pages_free * (PAGE_LEN / FRAME_LEN);
    host.pool.set_floors(free, 0);
    // It reads nothing.
    while world.hosts[1].send(server, |room| room.len()) > 0 {}
    world.pass(Duration::from_millis(50));
    let host = &mut world.hosts[0];
    let kept = host.pool.stats().frames_in_use - host.frames_held();
    assert!((1..=16).contains(&kept), "{kept} frames");
    assert!(host.tcp.counters().drop_no_room > 0);
    host.pool.set_floors(0, 0);
    let read = Cell::new(0);
    world.run(
        Duration::from_secs(60),
        |at, host| {
            if at == 0 {
                while host.tcp.recv(client, |bytes| {
                    read.set(read.get() + bytes.len());
                    bytes.len()
                }) > 0
                {}
            }
        },
        || read.get() == PAGE_LEN,
    );
    assert_eq!(read.get(), PAGE_LEN);
}

use std::collections::BTreeMap;

use sluice_hugepages::pool::Owner;

use super::*;

const LOCALS: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 19, 0, 1), Ipv4Addr::new(198, 18, 0, 1)];
const KIB: u64 = 1024;

fn remote(number: u32) -> SocketAddrV4 {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(198, 19, 1, 0).to_bits() + number / 2);
    // Two targets an address.
    let port = if number.is_multiple_of(2) { 3260 } else { 3261 };
    SocketAddrV4::new(address, port)
}

fn name(number: u32) -> String {
    format!("iqn.2004-03.example.storage:vol{number}")
}

fn registry(targets: u32) -> Registry {
    let names: Vec<String> = (0..targets).map(name).collect();
    let targets = names
        .iter()
        .zip(0..)
        .map(|(name, number)| (name.as_str(), LOCALS[0], remote(number)));
    let mut registry = Registry::new(targets);
    registry.add_locals(LOCALS);
    registry
}

fn size(bytes: u64) -> ReservationSize {
    ReservationSize {
        bytes,
        automatic: false,
        sessions: 0,
        connections: 0,
    }
}

fn pair(number: u32) -> ReservationTarget {
    ReservationTarget::Pair {
        local: LOCALS[0],
        remote: *remote(number).ip(),
    }
}

fn pair_port(number: u32) -> ReservationTarget {
    ReservationTarget::PairPort {
        local: LOCALS[0],
        remote: remote(number),
    }
}

fn by_id(buffer_id: u16) -> ReservationTarget {
    ReservationTarget::Connection { buffer_id }
}

fn make(
    registry: &mut Registry,
    pool: &mut Pool,
    target: ReservationTarget,
    bytes: u64,
) -> Result<u16, Outcome> {
    let made = registry.reserve(Time::from_millis(1), pool, target, size(bytes));
    made.map(|(number, _)| number)
}

fn ask(registry: &mut Registry, pool: &mut Pool, command: &Command) -> Answer {
    let now = Time::from_millis(2);
    registry
        .command(now, pool, command)
        .expect("it is about buffers")
}

#[test]
fn b04_b08_the_most_specific_reservation_is_found() {
    let (mut registry, mut pool) = (registry(2), Pool::anonymous(8));
    assert_eq!(registry.find_for(0), Reservation::NONE);
    let of_pair = make(&mut registry, &mut pool, pair(0), 64 * KIB).unwrap();
    let of_port = make(&mut registry, &mut pool, pair_port(1), 64 * KIB).unwrap();
    let of_id = make(&mut registry, &mut pool, by_id(5), 64 * KIB).unwrap();
    // Kinds with addresses have their numbers from the highest down.
    assert_eq!((of_pair, of_port, of_id), (10_239, 10_238, 5));
    let found = |presents: Option<u16>| {
        [0, 1].map(|number| registry.find(LOCALS[0], remote(number), presents).0)
    };
    assert_eq!(found(None), [of_pair, of_port]);
    assert_eq!(found(Some(5)), [5, 5]);
    // An id that is not reserved, or is another kind's number, is as none.
    assert_eq!(found(Some(6)), [of_pair, of_port]);
    assert_eq!(found(Some(of_port)), [of_pair, of_port]);
    let other = registry.find(LOCALS[1], remote(0), None);
    assert_eq!(other, Reservation::NONE);
    assert_eq!(registry.limit(Reservation(of_pair)), Some(16));

    let present = |buffer_id| Command::PresentBufferId {
        target: text(&name(1)),
        buffer_id,
    };
    let answer = ask(&mut registry, &mut pool, &present(Some(5)));
    assert_eq!(
        (answer.outcome, answer.buffers.buffer_id, answer.concerned),
        (Outcome::Done, 5, Concerned::Client(1))
    );
    assert_eq!([0, 1].map(|it| registry.find_for(it).0), [of_pair, 5]);
    // Cancelled, it leaves its connections to the next.
    assert!(registry.cancel(Time::ZERO, &mut pool, &by_id(5)));
    assert_eq!(registry.find_for(1).0, of_port);
    assert!(registry.cancel(Time::ZERO, &mut pool, &pair_port(1)));
    assert_eq!(registry.find_for(1).0, of_pair);
    make(&mut registry, &mut pool, by_id(5), 64 * KIB).unwrap();
    assert_eq!(registry.find_for(1).0, 5, "it presents the id still");
    ask(&mut registry, &mut pool, &present(None));
    assert_eq!(registry.find_for(1).0, of_pair);
}

#[test]
fn b06_b07_all_of_it_or_nothing() {
    let (mut registry, mut pool) = (registry(2), Pool::anonymous(8));
    pool.set_floors(16, 0);
    let free = pool.available();
    assert_eq!(free, 7 * 16);
    let reserve = |target, bytes| Command::Reserve {
        target,
        size: size(bytes),
    };
    // Rounded up to whole buffers.
    let answer = ask(&mut registry, &mut pool, &reserve(pair(0), 17 * KIB));
    assert_eq!(
        answer,
        Answer {
            outcome: Outcome::Done,
            buffers: BufferState {
                buffer_id: 10_239,
                free_bytes: 107 * 4 * KIB,
                cache_free_bytes: 0,
                reserved_bytes: 20 * KIB,
                allocated_bytes: 0,
            },
            concerned: Concerned::Of(pair(0)),
        }
    );
    // Given twice it changes nothing.
    let again = ask(&mut registry, &mut pool, &reserve(pair(0), 17 * KIB));
    assert_eq!(again.buffers, answer.buffers);
    assert_eq!(again.concerned, Concerned::Nobody);
    assert_eq!(registry.counts.made, 1);

    // One buffer more than there is: nothing has changed, and what is free is named.
    let too_much = 108 * 4 * KIB;
    let failed = ask(&mut registry, &mut pool, &reserve(by_id(3), too_much));
    assert_eq!(failed.outcome, Outcome::OutOfMemory);
    assert_eq!(
        failed.buffers,
        BufferState {
            free_bytes: 107 * 4 * KIB,
            ..BufferState::default()
        }
    );
    let failed = ask(
        &mut registry,
        &mut pool,
        &reserve(pair(0), too_much + 20 * KIB),
    );
    assert_eq!(failed.outcome, Outcome::OutOfMemory);
    assert_eq!(failed.buffers, answer.buffers);
    let failed = ask(&mut registry, &mut pool, &reserve(pair(0), u64::MAX));
    assert_eq!(failed.outcome, Outcome::OutOfMemory);

    // All that is free can be had, and given back.
    let all = ask(&mut registry, &mut pool, &reserve(pair(0), 112 * 4 * KIB));
    assert_eq!((all.outcome, all.buffers.free_bytes), (Outcome::Done, 0));
    let less = ask(&mut registry, &mut pool, &reserve(pair(0), 16 * KIB));
    assert_eq!(less.buffers.free_bytes, 108 * 4 * KIB);
    let notices: Vec<_> = std::iter::from_fn(|| registry.next_notice())
        .map(|(_, notice)| match notice {
            Notice::Changed { before, now, .. } => (before, now),
            Notice::Failed { wanted, free, .. } => (Some(wanted), Some(free)),
        })
        .collect();
    let of = |before: u64, now: u64| (Some(before * KIB), Some(now * KIB));
    assert_eq!(notices[0], (None, Some(20 * KIB)));
    assert_eq!(notices[1], of(432, 428));
    assert_eq!(notices[4], of(20, 448));
    assert_eq!(notices[5], of(448, 16));
    assert_eq!((registry.counts.changed, registry.counts.failed), (2, 3));
    assert_eq!(registry.counts.refused, 0);
}

#[test]
fn b09_b10_a_number_is_given_again_when_nobody_holds_of_it() {
    let (mut registry, mut pool) = (registry(2), Pool::anonymous(4));
    let number = make(&mut registry, &mut pool, pair(0), 16 * KIB).unwrap();
    make(&mut registry, &mut pool, by_id(9), 16 * KIB).unwrap();
    let free = pool.available();
    let held = [number, 9].map(|number| {
        let reservation = Reservation(number);
        pool.take(reservation, Owner::Tcp(0)).expect("it is there")
    });
    let row = registry.state(&pool, Some(9));
    assert_eq!(
        (row.reserved_bytes, row.allocated_bytes),
        (16 * KIB, 4 * KIB)
    );
    for target in [pair(0), by_id(9)] {
        let cancel = Command::CancelReservation { target };
        let answer = ask(&mut registry, &mut pool, &cancel);
        assert_eq!(
            (answer.outcome, answer.concerned),
            (Outcome::Done, Concerned::Of(target))
        );
        let again = ask(&mut registry, &mut pool, &cancel);
        assert_eq!(again.outcome, Outcome::UnknownReservation);
    }
    assert_eq!(pool.available(), free + 6);
    // A pair has another number, an id none.
    assert_eq!(
        make(&mut registry, &mut pool, pair(0), 16 * KIB),
        Ok(number - 1)
    );
    assert_eq!(
        make(&mut registry, &mut pool, by_id(9), 16 * KIB),
        Err(Outcome::NoReservationLeft)
    );
    for frame in held {
        pool.release(frame);
    }
    assert_eq!(make(&mut registry, &mut pool, by_id(9), 16 * KIB), Ok(9));
    assert_eq!(
        make(&mut registry, &mut pool, pair_port(0), 16 * KIB),
        Ok(number)
    );
}

#[test]
fn b05_what_is_free_and_what_a_target_has() {
    let (mut registry, mut pool) = (registry(2), Pool::anonymous(4));
    make(&mut registry, &mut pool, pair_port(1), 32 * KIB).unwrap();
    let query = |target| Command::QueryBuffers { target };
    let free = ask(&mut registry, &mut pool, &query(None));
    assert_eq!(
        (free.outcome, free.buffers.free_bytes),
        (Outcome::Done, 56 * 4 * KIB)
    );
    let of = ask(&mut registry, &mut pool, &query(Some(pair_port(1))));
    assert_eq!(
        (of.outcome, of.buffers.reserved_bytes, of.buffers.buffer_id),
        (Outcome::Done, 32 * KIB, 10_239)
    );
    // Its pair has none, whatever one of its ports has.
    let none = ask(&mut registry, &mut pool, &query(Some(pair(1))));
    assert_eq!(
        (none.outcome, none.buffers),
        (Outcome::UnknownReservation, free.buffers)
    );
}

#[test]
fn b06_what_makes_no_sense_is_refused_and_counted() {
    let (mut registry, mut pool) = (registry(2), Pool::anonymous(4));
    let free = pool.available();
    let elsewhere = Ipv4Addr::new(203, 0, 113, 1);
    let bad_pair = |local, remote| ReservationTarget::Pair { local, remote };
    let port = |port| ReservationTarget::PairPort {
        local: LOCALS[0],
        remote: SocketAddrV4::new(*remote(0).ip(), port),
    };
    let reserve = |target, bytes| Command::Reserve {
        target,
        size: size(bytes),
    };
    let present = |target: u32, id| Command::PresentBufferId {
        target: text(&name(target)),
        buffer_id: Some(id),
    };
    let cancel = |target| Command::CancelReservation { target };
    let cases = [
        (reserve(pair(0), 0), Outcome::OutOfRange),
        (reserve(pair(0), 12 * KIB), Outcome::OutOfRange),
        (reserve(by_id(0), 64 * KIB), Outcome::OutOfRange),
        (reserve(by_id(10_240), 64 * KIB), Outcome::OutOfRange),
        (reserve(by_id(u16::MAX), 64 * KIB), Outcome::OutOfRange),
        (
            reserve(bad_pair(elsewhere, *remote(0).ip()), 64 * KIB),
            Outcome::UnknownPath,
        ),
        (
            reserve(bad_pair(LOCALS[0], elsewhere), 64 * KIB),
            Outcome::UnknownPath,
        ),
        (reserve(port(0), 64 * KIB), Outcome::UnknownPath),
        (reserve(port(80), 64 * KIB), Outcome::UnknownPath),
        (cancel(by_id(0)), Outcome::UnknownReservation),
        (cancel(by_id(u16::MAX)), Outcome::UnknownReservation),
        (cancel(port(0)), Outcome::UnknownReservation),
        (present(0, 0), Outcome::OutOfRange),
        (present(0, u16::MAX), Outcome::OutOfRange),
        (present(0, 7), Outcome::UnknownReservation),
        (present(9, 7), Outcome::UnknownVolume),
    ];
    for (command, outcome) in &cases {
        let answer = ask(&mut registry, &mut pool, command);
        assert_eq!(answer.outcome, *outcome, "{command:?}");
        assert_eq!(answer.concerned, Concerned::Nobody);
    }
    assert_eq!(registry.counts.refused, cases.len() as u64);
    assert_eq!((pool.available(), registry.len()), (free, 0));
    let other = Command::Drain { on: true };
    assert_eq!(registry.command(Time::ZERO, &mut pool, &other), None);
}

/// Against a map: what is found, what is shown, and what the pool has.
#[test]
fn b03_rows_are_what_there_is_whatever_comes() {
    const TARGETS: u32 = 40;
    let (mut registry, mut pool) = (registry(TARGETS), Pool::anonymous(40));
    let mut model: BTreeMap<ReservationTarget, u64> = BTreeMap::new();
    let mut shown: BTreeMap<usize, tables::Reservation> = BTreeMap::new();
    let mut random = 7_u64;
    let mut draw = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    let mut failed = 0;
    for step in 0..20_000 {
        let number = u32::try_from(draw(TARGETS.into())).unwrap();
        let target = match draw(3) {
            0 => pair(number),
            1 => pair_port(number),
            _ => by_id(u16::try_from(number + 1).unwrap()),
        };
        if draw(3) > 0 {
            let frames = 4 + draw(12);
            let bytes = frames * FRAME_LEN as u64;
            match make(&mut registry, &mut pool, target, bytes) {
                Ok(_) => {
                    model.insert(target, bytes);
                }
                Err(Outcome::OutOfMemory) => failed += 1,
                Err(other) => panic!("{target:?}: {other:?}"),
            }
        } else {
            let there = registry.cancel(Time::ZERO, &mut pool, &target);
            assert_eq!(there, model.remove(&target).is_some());
        }
        let reserved: u64 = model.values().sum();
        assert_eq!(
            pool.stats().frames_reserved as u64 * FRAME_LEN as u64,
            reserved
        );
        if step % 16 == 0 {
            while let Some((place, row)) = registry.next_shown(&pool) {
                shown.insert(place, row);
            }
            shown.retain(|&place, _| place < registry.len());
            assert_eq!(shown.len(), model.len());
            for row in shown.values() {
                assert_eq!(model.get(&row.target), Some(&row.reserved_bytes));
                assert_eq!(row.held_bytes, row.reserved_bytes);
            }
            for number in 0..TARGETS {
                let id = u16::try_from(draw(TARGETS.into()) + 1).unwrap();
                let found = registry.find(LOCALS[0], remote(number), Some(id));
                let specific = [by_id(id), pair_port(number), pair(number)];
                let expected = specific.iter().find_map(|target| model.get(target));
                let found = registry.size_of(found).map(|size| size.bytes);
                assert_eq!(found, expected.copied());
            }
        }
    }
    assert!(failed > 100 && model.len() > 20, "{failed} {}", model.len());
}

#[test]
fn as_many_as_there_can_be() {
    const ADDRESSES: u32 = 5200;
    let (mut registry, mut pool) = (registry(ADDRESSES * 2), Pool::anonymous(2600));
    let targets = (0..ADDRESSES * 2).map(pair_port);
    let mut made = 0_u32;
    for target in targets {
        match make(&mut registry, &mut pool, target, 16 * KIB) {
            Ok(_) => made += 1,
            Err(outcome) => {
                assert_eq!(outcome, Outcome::NoReservationLeft);
                break;
            }
        }
    }
    assert_eq!((made, registry.len()), (10_239, 10_239));
    for number in [0, 5000, 10_238] {
        let found = registry.find(LOCALS[0], remote(number), None);
        let row = registry.row_of(found.0).expect("a reservation");
        assert_eq!(row.target, pair_port(number));
    }
    let none = registry.find(LOCALS[0], remote(10_239), None);
    assert_eq!(none, Reservation::NONE);
    // One is cancelled: its number is the next one's.
    assert!(registry.cancel(Time::ZERO, &mut pool, &pair_port(77)));
    assert!(make(&mut registry, &mut pool, pair(10_300), 16 * KIB).is_ok());
    let full = make(&mut registry, &mut pool, pair(77), 16 * KIB);
    assert_eq!(full, Err(Outcome::NoReservationLeft));
}

#[test]
fn b03_who_takes_from_what_is_counted() {
    let (mut registry, mut pool) = (registry(2), Pool::anonymous(4));
    let number = make(&mut registry, &mut pool, pair(0), 32 * KIB).unwrap();
    let reservation = Reservation(number);
    let shown = |registry: &mut Registry, counted: &[u64]| {
        registry.begin_count();
        for &refused in counted {
            registry.count(reservation, refused);
        }
        // Of none nothing is kept.
        registry.count(Reservation::NONE, 1);
        registry.count(Reservation(3), 1);
        let row = registry.next_shown(&pool);
        assert_eq!(registry.next_shown(&pool), None, "each is shown once");
        row.map(|(place, row)| (place, row.flows, row.refused))
    };
    assert_eq!(shown(&mut registry, &[2, 0]), Some((0, 2, 2)));
    assert_eq!(shown(&mut registry, &[1]), Some((0, 1, 3)));
    assert_eq!(shown(&mut registry, &[]), Some((0, 0, 3)));
    assert_eq!(shown(&mut registry, &[]), None, "nothing has changed");
    registry.show_some(10);
    assert!(registry.next_shown(&pool).is_some(), "in its turn");
}

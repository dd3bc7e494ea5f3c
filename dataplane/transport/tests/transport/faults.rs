//! A transfer both ways across links with every fault, over many seeds: every byte once
//! and in order (asserted where it is read), no live-lock, memory bounded, both closes.

use crate::ends::{End, Path};
use crate::link::{Chance, Faults, Link};
use sluice_transport::{Config, ControlKind, Ended, State};
use std::time::Duration;

fn faults(chance: &mut Chance) -> Faults {
    let mut some = |most: u64| {
        if chance.below(2) == 0 {
            0
        } else {
            chance.below(most)
        }
    };
    Faults {
        loss: some(80_000),
        burst: some(3000),
        burst_len: some(30),
        duplicate: some(30_000),
        reorder: some(100_000),
        reorder_by: Duration::from_micros(some(30_000)),
        black_hole_above: 0,
        mark_above: some(200_000),
    }
}

fn path(seed: u64) -> Path {
    let mut chance = Chance::new(seed);
    let mut end = |isn: u32, bytes: u64| {
        let config = Config {
            control: if chance.below(2) == 0 {
                ControlKind::Model
            } else {
                ControlKind::Cubic
            },
            mss_max: [536, 1460, 8960][usize::try_from(chance.below(3)).unwrap()],
            window_max: 1 << (14 + chance.below(9)),
            receive_frames_max: 64 + u32::try_from(chance.below(4000)).unwrap(),
            send_limit: 1 << (14 + chance.below(9)),
            sack: chance.below(8) != 0,
            timestamps: chance.below(4) != 0,
            ecn: chance.below(2) == 0,
            seed: chance.next(),
            timestamp_offset: u32::MAX - 3000,
            syn_attempts_max: 20,
            ..Config::default()
        };
        let mut end = End::new(config, isn);
        end.to_send = bytes;
        end.ragged = Some(Chance::new(chance.next()));
        end
    };
    let bytes = 200_000 + seed % 7 * 100_000;
    let (a, b) = (end(u32::MAX - 100_000, bytes), end(77, bytes / 3));
    let mbit = 2 + chance.below(80);
    let rtt = Duration::from_millis(2 + chance.below(150));
    let mut links = [
        Link::new(mbit, rtt, chance.next()),
        Link::new(mbit, rtt, chance.next()),
    ];
    for link in &mut links {
        link.queue_max = link.queue_max / (1 + chance.below(8)) + 20_000;
        link.faults = faults(&mut chance);
    }
    let [ab, ba] = links;
    Path::new(a, b, ab, ba)
}

/// Says how many seconds it took, of simulated time.
fn run(seed: u64) -> u64 {
    let mut path = path(seed);
    let mut chance = Chance::new(seed + 1000);
    for _ in 0..600 {
        path.run_for(Duration::from_millis(100 + chance.below(900)));
        for end in [&path.a, &path.b] {
            let unacknowledged = end
                .connection
                .as_ref()
                .map_or(0, |connection| connection.unacknowledged());
            assert!(unacknowledged <= end.config.send_limit, "seed {seed}");
        }
        if path.a.is_over() && path.b.is_over() {
            break;
        }
        // Cuts now and then, and limits that change live.
        path.ab.cut = chance.below(20) == 0;
        path.ba.cut = chance.below(20) == 0;
        if chance.below(10) == 0
            && let Some(connection) = &mut path.a.connection
        {
            let limit = 1 << (14 + chance.below(9));
            path.a.config.send_limit = path.a.config.send_limit.max(limit);
            connection.set_send_limit(limit);
        }
    }
    let told = (
        path.states(),
        path.a.connection().ended(),
        path.b.connection().ended(),
    );
    assert!(
        path.is_complete(),
        "seed {seed}: {told:?} {} of {}",
        path.b.received,
        path.a.to_send
    );
    for end in [&path.a, &path.b] {
        // The last acknowledgement of a FIN may be lost, and TIME-WAIT over: then the
        // other side times out with nothing left to say.
        let ended = end.connection().ended();
        assert!(
            matches!(ended, Some(Ended::Finished | Ended::TimedOut)),
            "seed {seed}: {told:?}"
        );
    }
    path.now.as_micros() / 1_000_000
}

#[test]
fn transfers_over_seeds() {
    let seconds: u64 = (0..40).map(run).sum();
    assert!(seconds > 400, "{seconds}");
}

#[test]
#[ignore = "minutes; cargo test -p sluice-transport --test transport -- --ignored transfers_over_many_seeds"]
fn transfers_over_many_seeds() {
    let seconds: u64 = (1000..17_000).map(run).sum();
    println!("{seconds} s");
    assert!(seconds >= 1_000_000);
}

#[test]
fn a_clean_transfer_ends_in_time_wait_and_then_finished() {
    let config = Config::default();
    let (mut a, mut b) = (End::new(config, 1), End::new(config, 2));
    (a.to_send, b.to_send) = (100_000, 50_000);
    let rtt = Duration::from_millis(40);
    let mut path = Path::new(a, b, Link::new(100, rtt, 1), Link::new(100, rtt, 2));
    path.run_for(Duration::from_secs(5));
    assert!(path.is_complete());
    let states = path.states();
    assert!(
        states == (State::TimeWait, State::Closed)
            || states == (State::TimeWait, State::TimeWait)
            || states == (State::Closed, State::TimeWait),
        "{states:?}"
    );
    path.run_for(Duration::from_secs(70));
    assert_eq!(path.states(), (State::Closed, State::Closed));
    assert_eq!(path.a.connection().ended(), Some(Ended::Finished));
    assert_eq!(
        path.a.released,
        path.a.lent.div_ceil(4096),
        "every frame came back"
    );
}

#[test]
fn a_black_hole_is_found() {
    let config = Config {
        mss_max: 8960,
        ..Config::default()
    };
    let mut path = Path::bulk(config, 100, Duration::from_millis(20), 5);
    path.ab.faults.black_hole_above = 1500;
    path.run_for(Duration::from_secs(10));
    let goodput = path.goodput_per_mille(Duration::from_secs(5));
    let counters = *path.a.connection().counters();
    println!("black hole: {goodput} {counters:?}");
    assert_eq!(counters.black_holes, 1);
    assert!(goodput > 800, "{goodput}");
}

#[test]
fn a_long_cut_is_survived_and_the_link_filled_again() {
    let mut path = Path::bulk(Config::default(), 100, Duration::from_millis(40), 5);
    path.run_for(Duration::from_secs(2));
    (path.ab.cut, path.ba.cut) = (true, true);
    path.run_for(Duration::from_secs(10));
    (path.ab.cut, path.ba.cut) = (false, false);
    path.run_for(Duration::from_secs(15));
    let goodput = path.goodput_per_mille(Duration::from_secs(3));
    assert!(goodput > 900, "{goodput}");
}

#[test]
fn a_closed_window_is_probed_until_it_opens() {
    let config = Config {
        window_max: 100_000,
        ..Config::default()
    };
    let mut path = Path::bulk(config, 100, Duration::from_millis(40), 5);
    path.b.reads = false;
    path.run_for(Duration::from_secs(200));
    assert!(path.a.connection().ended().is_none(), "the peer answers");
    assert!(path.a.connection().counters().window_probes > 3);
    assert!(path.b.connection().readable() <= 100_000);
    path.b.reads = true;
    path.poll(false);
    path.run_for(Duration::from_secs(61));
    assert!(
        path.b.received > 10_000_000,
        "{} {:?}\n{:?}",
        path.b.received,
        path.a,
        path.b
    );
}

#[test]
fn a_peer_that_is_gone_is_given_up() {
    let config = Config {
        user_timeout: Duration::from_secs(20),
        ..Config::default()
    };
    let mut path = Path::bulk(config, 100, Duration::from_millis(40), 5);
    path.run_for(Duration::from_secs(1));
    (path.ab.cut, path.ba.cut) = (true, true);
    path.run_for(Duration::from_secs(19));
    assert!(!path.a.is_over());
    path.run_for(Duration::from_secs(3));
    assert_eq!(path.a.connection().ended(), Some(Ended::TimedOut));
    assert!(path.a.released > 0);
}

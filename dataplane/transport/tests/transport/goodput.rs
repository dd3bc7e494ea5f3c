//! How much of a link one connection fills, in simulated time: the figures are the same
//! on every machine. Run with `--nocapture` to see them.

use crate::ends::Path;
use sluice_transport::{Config, ControlKind};
use std::time::Duration;

const MS40: Duration = Duration::from_millis(40);

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn config(control: ControlKind) -> Config {
    Config {
        control,
        window_max: 64 << 20,
        receive_frames_max: 60_000,
        // Four round trips of the longest cell: what is lost twice is waited for.
        send_limit: 64 << 20,
        ..Config::default()
    }
}

/// Goodput in thousandths of the link after two seconds, and the mean queue in thousandths
/// of bandwidth times round trip.
fn cell(
    control: ControlKind,
    mbit: u64,
    rtt: Duration,
    loss_ppm: u64,
    time: Duration,
) -> (u64, u64) {
    let mut path = Path::bulk(config(control), mbit, rtt, 17 + loss_ppm);
    path.ab.faults.loss = loss_ppm;
    path.run_for(s(2));
    let goodput = path.goodput_per_mille(time);
    let queue = path.ab.mean_queue() * 1000 / path.ab.queue_max;
    let counters = path.a.connection().counters();
    let resent = counters.bytes_resent * 1000 / counters.bytes_sent;
    println!(
        "{control:?} {mbit} Mbit/s {rtt:?} loss {loss_ppm} ppm: goodput {goodput}, queue {queue}, \
         resent {resent} per mille, timeouts {}, dropped {}, {:?}",
        counters.timeouts,
        path.ab.dropped,
        path.a.connection().sample(),
    );
    (goodput, queue)
}

#[test]
fn the_model_fills_100_mbit_40_ms() {
    for (loss_ppm, least) in [(0, 900), (1000, 900), (10_000, 850)] {
        let (goodput, queue) = cell(ControlKind::Model, 100, MS40, loss_ppm, s(10));
        assert!(goodput >= least, "{goodput} per mille at {loss_ppm} ppm");
        assert!(queue < 300, "the queue of its own is bounded: {queue}");
    }
}

#[test]
fn the_model_fills_100_mbit_100_ms() {
    for (loss_ppm, least) in [(0, 900), (10_000, 850)] {
        let (goodput, _) = cell(ControlKind::Model, 100, MS40 * 5 / 2, loss_ppm, s(10));
        assert!(goodput >= least, "{goodput} per mille at {loss_ppm} ppm");
    }
}

#[test]
fn the_model_fills_1_gbit_40_ms_with_1_percent_loss() {
    let (goodput, _) = cell(ControlKind::Model, 1000, MS40, 10_000, s(2));
    assert!(goodput >= 850, "{goodput} per mille");
}

#[test]
#[ignore = "a minute; cargo test --release -p sluice-transport --test transport -- --ignored --nocapture"]
fn every_cell() {
    for control in [ControlKind::Model, ControlKind::Cubic] {
        for mbit in [20, 100, 500, 1000] {
            for rtt_ms in [10, 40, 100] {
                for loss_ppm in [0, 1000, 10_000] {
                    cell(
                        control,
                        mbit,
                        Duration::from_millis(rtt_ms),
                        loss_ppm,
                        s(10),
                    );
                }
            }
        }
    }
}

#[test]
fn bursts_of_losses_are_borne() {
    let mut path = Path::bulk(config(ControlKind::Model), 100, MS40, 3);
    // About 1 % in bursts of 20.
    path.ab.faults.burst = 500;
    path.ab.faults.burst_len = 20;
    path.run_for(s(2));
    let goodput = path.goodput_per_mille(s(10));
    println!("bursts: {goodput}");
    assert!(goodput >= 800, "{goodput} per mille");
}

#[test]
fn cubic_fills_a_link_without_loss() {
    let mut path = Path::bulk(config(ControlKind::Cubic), 100, MS40, 5);
    path.run_for(s(3));
    let goodput = path.goodput_per_mille(s(15));
    println!("cubic: {goodput}, {:?}", path.a.connection().counters());
    assert!(goodput >= 900, "{goodput} per mille");
}

#[test]
fn a_rate_that_changes_is_followed() {
    let mut path = Path::bulk(config(ControlKind::Model), 100, MS40, 11);
    path.run_for(s(4));
    for (mbit, name) in [(20u64, "down"), (100, "up")] {
        path.ab.bytes_per_s = mbit * 125_000;
        let mut followed = None;
        for tenth in 1..=40 {
            let goodput = path.goodput_per_mille(Duration::from_millis(100));
            let rate =
                path.a.connection().sample().pacing_rate.bytes_per_s() * 1000 / path.ab.bytes_per_s;
            println!("{name} {tenth}: goodput {goodput}, paced {rate}");
            if goodput >= 900 && rate < 1300 {
                followed.get_or_insert(tenth);
            }
        }
        println!("rate {name}: followed after {followed:?} tenths of a second");
        assert!(
            followed.is_some_and(|tenths| tenths <= 30),
            "{name}: {followed:?}"
        );
    }
}

#[test]
fn a_round_trip_that_changes_is_followed() {
    let mut path = Path::bulk(
        config(ControlKind::Model),
        100,
        Duration::from_millis(20),
        13,
    );
    path.ab.queue_max = 500_000;
    path.run_for(s(4));
    for rtt_ms in [120, 20] {
        path.ab.delay = Duration::from_millis(rtt_ms / 2);
        path.ba.delay = Duration::from_millis(rtt_ms / 2);
        let mut followed = None;
        for tenth in 1..=40 {
            let goodput = path.goodput_per_mille(Duration::from_millis(100));
            println!(
                "{rtt_ms} ms {tenth}: {goodput} {:?}",
                path.a.connection().sample().min_rtt
            );
            if goodput >= 900 {
                followed.get_or_insert(tenth);
            }
        }
        println!("to {rtt_ms} ms: followed after {followed:?} tenths of a second");
        assert!(
            followed.is_some_and(|tenths| tenths <= 30),
            "{rtt_ms} ms: {followed:?}"
        );
        let goodput = path.goodput_per_mille(s(5));
        assert!(goodput >= 850, "and stays so: {goodput}");
    }
}

#[test]
fn marks_keep_the_queue_short() {
    for control in [ControlKind::Model, ControlKind::Cubic] {
        let config = Config {
            ecn: true,
            ..config(control)
        };
        let mut path = Path::bulk(config, 100, MS40, 23);
        path.ab.faults.mark_above = 100_000;
        path.run_for(s(3));
        let dropped = path.ab.dropped;
        let goodput = path.goodput_per_mille(s(8));
        println!(
            "{control:?} marked: {goodput}, {:?}",
            path.a.connection().counters()
        );
        assert!(goodput >= 800, "{goodput}");
        assert_eq!(path.ab.dropped, dropped, "marks come before drops");
        assert!(
            path.a.connection().counters().congestion_marks > 0 || control == ControlKind::Model
        );
    }
}

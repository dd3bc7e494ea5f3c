//! The link model in simulated time.

use super::*;

const MS: u64 = 1_000_000;

/// 100 Mbit/s, 20 ms one way, 1 BDP of 40 ms.
fn profile() -> Profile {
    Profile {
        delay_ns: 20 * MS,
        rate_bps: 100_000_000,
        queue_bytes_max: 500_000,
        reorder_hold_ns: 2 * MS,
        loss_run: 1,
        ..Profile::default()
    }
}

/// Everything that leaves up to `until_ns`, as (time, token).
fn drain(link: &mut Link<u32>, until_ns: u64) -> Vec<(u64, u32)> {
    let mut out = Vec::new();
    while let Some(due_ns) = link.next_due_ns() {
        if due_ns > until_ns {
            break;
        }
        let departure = link.take_due(due_ns).expect("next_due_ns promised one");
        for _ in 0..departure.copies {
            out.push((due_ns, departure.token));
        }
    }
    out
}

#[test]
fn one_frame_takes_serialisation_and_delay() {
    let mut link = Link::new(profile(), 1);
    link.offer(MS, 7, 1250, true).expect("room");
    // 1250 bytes at 100 Mbit/s are 100 us.
    assert_eq!(link.next_due_ns(), Some(MS + 100_000 + 20 * MS));
    assert_eq!(link.take_due(21 * MS + 99_999), None);
    let departure = link.take_due(21 * MS + 100_000).expect("due");
    assert_eq!((departure.token, departure.copies), (7, 1));
    assert_eq!(link.next_due_ns(), None);
}

#[test]
fn a_full_link_delivers_its_rate() {
    let mut link = Link::new(profile(), 1);
    // Twice the rate for a second: 1514-byte frames every 60.56 us.
    let mut sent = 0_u32;
    let mut now_ns = 0;
    let mut delivered = Vec::new();
    while now_ns < 1_000 * MS {
        let _ = link.offer(now_ns, sent, 1514, true);
        sent += 1;
        now_ns += 60_560;
        delivered.extend(drain(&mut link, now_ns));
    }
    let bytes = delivered.len() as u64 * 1514;
    // 980 ms of the second carry frames to the far end.
    assert!((12_240_000..=12_250_000).contains(&bytes), "{bytes}");
    let stats = link.stats();
    assert!(stats.dropped_queue > 7_000);
    assert!(stats.queue_bytes_peak <= 500_000 && stats.queue_bytes_peak > 498_000);
    assert!(delivered.windows(2).all(|pair| pair[0].1 < pair[1].1));
    assert_eq!(stats.received, u64::from(sent));
}

#[test]
fn one_frame_fits_however_small_the_queue() {
    let mut link = Link::new(
        Profile {
            queue_bytes_max: 0,
            ..profile()
        },
        1,
    );
    link.offer(0, 1, 1514, true).expect("one always fits");
    assert_eq!(link.offer(0, 2, 60, true), Err((2, Drop::QueueFull)));
}

#[test]
fn without_a_rate_there_is_only_delay() {
    let mut link = Link::new(
        Profile {
            rate_bps: 0,
            queue_bytes_max: 0,
            ..profile()
        },
        1,
    );
    for token in 0..1_000 {
        link.offer(5, token, 1514, true)
            .expect("no queue, no limit");
    }
    let out = drain(&mut link, u64::MAX);
    assert_eq!(out.len(), 1_000);
    assert!(out.iter().all(|&(at_ns, _)| at_ns == 5 + 20 * MS));
}

fn losses(seed: u64, percent: f64) -> Vec<u32> {
    losses_in_runs(seed, percent, 1)
}

fn losses_in_runs(seed: u64, percent: f64, loss_run: u32) -> Vec<u32> {
    let mut link = Link::new(
        Profile {
            loss: Share::from_percent(percent),
            loss_run,
            rate_bps: 0,
            ..profile()
        },
        seed,
    );
    let mut lost = Vec::new();
    for number in 0..100_000 {
        // ARP in between takes no number and is never lost.
        link.offer(u64::from(number), number, 60, false)
            .expect("not numbered");
        if let Err((token, drop)) = link.offer(u64::from(number), number, 60, true) {
            assert_eq!(drop, Drop::Lost);
            lost.push(token);
        }
    }
    lost
}

#[test]
fn runs_of_losses_are_as_long_as_asked() {
    let lost = losses_in_runs(42, 0.1, 20);
    assert!((1700..2300).contains(&lost.len()), "{}", lost.len());
    let runs = lost.chunk_by(|a, b| a + 1 == *b);
    assert!(runs.clone().all(|run| run.len() >= 20));
    assert!(runs.clone().count() > 50);
    assert_eq!(lost, losses_in_runs(42, 0.1, 20));
}

#[test]
fn loss_is_a_function_of_seed_and_number() {
    let one = losses(42, 1.0);
    assert!((900..1100).contains(&one.len()), "{}", one.len());
    assert_eq!(one, losses(42, 1.0));
    assert_ne!(one, losses(43, 1.0));
    // More loss loses the same frames, and more.
    let two = losses(42, 2.0);
    assert!(one.iter().all(|number| two.contains(number)));
    assert_eq!(losses(42, 0.0).len(), 0);
    assert_eq!(losses(42, 100.0).len(), 100_000);
}

#[test]
fn reorder_holds_back_and_duplicate_doubles() {
    let mut link = Link::new(
        Profile {
            reorder: Share::from_percent(10.0),
            duplicate: Share::from_percent(5.0),
            ..profile()
        },
        9,
    );
    for token in 0..1_000 {
        link.offer(u64::from(token) * 200_000, token, 1250, true)
            .expect("half the rate");
    }
    let out = drain(&mut link, u64::MAX);
    let stats = link.stats();
    assert!((70..140).contains(&stats.reordered), "{}", stats.reordered);
    assert!((30..75).contains(&stats.duplicated), "{}", stats.duplicated);
    assert_eq!(out.len() as u64, 1_000 + stats.duplicated);
    assert_eq!(stats.delivered, out.len() as u64);
    let late = out.windows(2).filter(|pair| pair[0].1 > pair[1].1).count() as u64;
    assert!(late > 50, "{late}");
}

#[test]
fn a_cut_loses_what_is_inside_and_what_comes() {
    let mut link = Link::new(profile(), 1);
    for token in 0..10 {
        link.offer(0, token, 1250, true).expect("room");
    }
    let mut lost = Vec::new();
    // Some are still being serialised, some are on the line.
    assert_eq!(link.take_due(500_000), None);
    link.cut(|token| lost.push(token));
    lost.sort_unstable();
    assert_eq!(lost, (0..10).collect::<Vec<_>>());
    assert_eq!(link.offer(MS, 10, 1250, true), Err((10, Drop::Cut)));
    assert_eq!(link.next_due_ns(), None);
    assert_eq!(link.stats().dropped_cut, 11);
    link.heal();
    link.offer(2 * MS, 11, 1250, true).expect("healed");
    assert_eq!(drain(&mut link, u64::MAX).len(), 1);
}

#[test]
fn a_live_change_reorders_nothing() {
    let mut link = Link::new(profile(), 1);
    for token in 0..100 {
        link.offer(0, token, 1250, true).expect("room");
    }
    // Half are on the line (due from 20.1 ms on) when delay and rate improve.
    link.set_profile(
        5 * MS,
        Profile {
            delay_ns: MS,
            rate_bps: 1_000_000_000,
            ..profile()
        },
    );
    link.offer(5 * MS, 100, 1250, true).expect("room");
    let out = drain(&mut link, u64::MAX);
    let tokens: Vec<u32> = out.iter().map(|&(_, token)| token).collect();
    assert_eq!(tokens, (0..=100).collect::<Vec<_>>());
    // The last of the old half is due at 25 ms; the others queue behind it.
    assert!(out.iter().all(|&(at_ns, _)| at_ns <= 25 * MS));
}

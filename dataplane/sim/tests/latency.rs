//! What operators see of how long commands take, in a site whose delays are known.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

mod shown;

use std::time::Duration;

use sluice_hugepages::tables::Durability;
use sluice_proto::scsi::cdb;
use sluice_sim::site::{Session, Site, Size};

use shown::Shown;

const GOOD: u8 = 0;
const RTT: Duration = Duration::from_millis(40);

/// A hundredth more is the histogram's, the rest what the hosts take beside the path.
fn is_about(us: u64, wanted: Duration) -> bool {
    let us = Duration::from_micros(us);
    us >= wanted && us <= wanted + wanted / 10 + Duration::from_millis(1)
}

fn far(name: &str, durability: Durability) -> Shown {
    let size = Size {
        durability,
        ..Size::SMALL
    };
    let mut shown = Shown::of(name, size);
    shown.site.delay_wan(RTT / 2);
    shown
}

#[test]
fn reads_over_the_wan_take_its_round_trip_and_cached_writes_do_not() {
    let mut shown = far("near-and-far", Durability::Memory);
    let site = &mut shown.site;
    let mut computer = site.login(0, 0, 1);
    for number in 1..=20 {
        assert_eq!(site.write(&mut computer, number.into(), number), Some(GOOD));
    }
    // Half of what is read is cached, half is not.
    for number in 1..=20 {
        let cached = site.read(&mut computer, number.into());
        assert_eq!(cached, Some((GOOD, Some(number))));
        let other = site.read(&mut computer, 512 + u64::from(number));
        assert_eq!(other, Some((GOOD, Some(0))));
    }
    // No write: what it takes is told nowhere but to the computer.
    assert_eq!(site.synchronize(&mut computer), Some(GOOD));
    site.run(Duration::from_secs(2));
    let row = shown.volume();
    let writes = row.write_latency;
    assert_eq!((writes.count, writes.total_count), (20, 20));
    assert!(writes.total_max_us < 1_000, "{writes:?}");
    let reads = row.read_latency;
    assert_eq!((reads.count, reads.total_count), (40, 40));
    assert!(reads.p50_us < 1_000, "{reads:?}");
    assert!(is_about(reads.p90_us, RTT), "{reads:?}");
    assert!(is_about(reads.p999_us, RTT), "{reads:?}");
    assert!(reads.max_us <= reads.total_max_us);
    // They may have been joined to fewer.
    let flushes = row.flush_latency;
    assert!((1..=20).contains(&flushes.count), "{flushes:?}");
    // Its bytes are spread by the pace of a path that is not known yet.
    let flush = Duration::from_micros(flushes.p50_us);
    assert!(flush >= RTT && flush < RTT * 2, "{flushes:?}");

    // An idle volume has none of late.
    shown.site.run(Duration::from_secs(25));
    let row = shown.volume();
    for latency in [row.write_latency, row.read_latency, row.flush_latency] {
        assert_eq!((latency.count, latency.max_us), (0, 0), "{latency:?}");
        assert!(latency.total_count > 0);
    }
}

#[test]
fn a_write_that_waits_for_the_storage_takes_its_round_trips() {
    let mut shown = far("through", Durability::Storage);
    let site = &mut shown.site;
    let mut computer = site.login(0, 0, 1);
    for number in 1..=10 {
        assert_eq!(site.write(&mut computer, number.into(), number), Some(GOOD));
    }
    site.run(Duration::from_secs(1));
    let writes = shown.volume().write_latency;
    assert_eq!(writes.count, 10);
    // The write, then the SYNCHRONIZE CACHE.
    assert!(is_about(writes.p50_us, RTT * 2), "{writes:?}");
}

#[test]
fn a_read_with_fua_and_a_write_that_passes_are_counted_too() {
    let mut shown = far("passing", Durability::Memory);
    let site = &mut shown.site;
    let mut computer = site.login(0, 0, 1);
    let mut read = cdb::read(3, 1);
    // FUA (SBC-4 5.15).
    read[1] |= 0x08;
    let read = Site::command(&mut computer, 0x40, 512, &read);
    site.send(&computer, &read.bytes());
    assert_eq!(site.finish(&computer, read.itt()).unwrap().0, GOOD);
    site.run(Duration::from_secs(1));
    let row = shown.volume();
    assert_eq!((row.read_latency.count, row.write_latency.count), (1, 0));
    assert!(is_about(row.read_latency.max_us, RTT));
}

/// 64 KiB, which may come without being asked for.
fn send_write(site: &mut Site, session: &mut Session) {
    let (blocks, len) = (128, 128 * 512);
    let lba = u64::from(session.itt % 7) * u64::from(blocks);
    let pdu = Site::command(session, 0x20, len, &cdb::write(lba, blocks));
    let mut pdu = pdu.data(&vec![7; len as usize]);
    // ORDERED: nothing after it hides it.
    pdu.header[1] = pdu.header[1] & !7 | 2;
    site.send(session, &pdu.bytes());
}

#[test]
fn a_held_write_counts_its_time_of_waiting() {
    let mut shown = Shown::new("held");
    let site = &mut shown.site;
    let mut computer = site.login(0, 0, 1);
    site.storage.hangs = true;
    let mut sent = 0;
    while site.usage().held == 0 {
        send_write(site, &mut computer);
        sent += 1;
        assert!(sent < 500, "the log never filled");
        while site.usage().tasks > 60 && site.usage().held == 0 {
            site.run(Duration::from_millis(100));
        }
    }
    let held_for = Duration::from_secs(3);
    site.run(held_for);
    assert_eq!(site.usage().held, 1);
    site.storage.hangs = false;
    site.run(Duration::from_secs(5));
    let writes = shown.volume().write_latency;
    assert_eq!(writes.total_count, sent);
    let longest = Duration::from_micros(writes.total_max_us);
    assert!(longest >= held_for && longest < held_for * 2, "{writes:?}");
    assert!(writes.p50_us < writes.max_us, "the others waited less");
}

/// Several writes are out at a time, and their answers come one behind the other: each
/// left when its bytes did, not when the answer before it came.
#[test]
fn a16_no_flushed_write_takes_less_than_the_way_there_and_back() {
    let mut shown = far("there-and-back", Durability::Memory);
    let site = &mut shown.site;
    let mut computer = site.login(0, 0, 1);
    for round in 0..5 {
        for number in 1..=30 {
            // No neighbours, so that none is joined to another.
            let lba = u64::from(number * 16 + round);
            assert_eq!(site.write(&mut computer, lba, number), Some(GOOD));
            site.run(Duration::from_millis(u64::from(number % 5)));
        }
        assert_eq!(site.synchronize(&mut computer), Some(GOOD));
    }
    site.run(Duration::from_secs(1));
    let row = shown.volume();
    assert!(row.flush_latency.count > 100, "{:?}", row.flush_latency);
    assert!(
        row.flush_latency.max_us < 100_000,
        "{:?}",
        row.flush_latency
    );
    let at_rest = Duration::from_micros(row.load_at_rest_us);
    assert!(at_rest >= RTT, "{at_rest:?}");
}

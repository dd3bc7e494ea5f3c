//! What the relay measures of its way to the storage (B-12 to B-14).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

mod shown;

use std::net::SocketAddrV4;
use std::time::Duration;

use shown::Shown;
use sluice_dataplane::worker::path::Known;
use sluice_hugepages::tables::{Event, EventKind, FlushSetting, Outcome, Path, PathLimit, Scope};
use sluice_proto::scsi::cdb;
use sluice_sim::site::{Session, Site, Size};

const GOOD: u8 = 0;
/// Blocks of a write.
const BLOCKS: u32 = 128;
const LEN: u32 = BLOCKS * 512;
const RATE: u64 = 2_000_000;

const SIZE: Size = Size {
    wan_pages: 8,
    ..Size::SMALL
};

/// Writes for so long, faster than the WAN carries.
fn write(shown: &mut Shown, session: &mut Session, seconds: u32) {
    for number in 0..seconds * 70 {
        let lba = u64::from(number % 7 * BLOCKS);
        let pdu = Site::command(session, 0x20, LEN, &cdb::write(lba, BLOCKS));
        let itt = pdu.itt();
        shown.site.send(session, &pdu.bytes());
        let data = vec![7; LEN as usize];
        let status = shown.site.finish_write(session, itt, &data);
        assert_eq!(status, Some(GOOD));
        shown.site.run(Duration::from_millis(14));
    }
}

fn path(shown: &mut Shown) -> Path {
    let rows = shown.rows::<Path>();
    assert_eq!(rows.len(), 1, "both targets are one storage's");
    rows[0].clone()
}

fn is_near(found: u64, expected: u64) -> bool {
    found.abs_diff(expected) * 100 <= expected * 15
}

#[test]
fn b14_bandwidth_and_delay_are_measured_and_followed() {
    let mut shown = Shown::of("path", SIZE);
    shown.site.delay_wan(Duration::from_millis(20));
    shown.site.limit_wan(RATE);
    assert_eq!(path(&mut shown).recommended_bytes, None, "nobody is there");
    let mut session = shown.site.login(0, 0, 1);
    let setting = FlushSetting {
        threshold_bytes: Some(4096),
        ..FlushSetting::default()
    };
    shown.site.worker.relay.set_flush(&Scope::All, &setting);
    write(&mut shown, &mut session, 5);
    let found = path(&mut shown);
    assert!(is_near(found.bandwidth_bytes_per_s, RATE), "{found:?}");
    assert!(is_near(found.min_rtt_us, 40_000), "{found:?}");
    assert_eq!(found.sessions, 1);
    let recommended = found.recommended_bytes.unwrap();
    assert!(recommended.abs_diff(80_000) < 24_000, "{found:?}");
    // A fifth of the rate, and three times as far.
    shown.site.limit_wan(RATE / 5);
    shown.site.delay_wan(Duration::from_millis(60));
    // The least of the last ten seconds.
    write(&mut shown, &mut session, 14);
    let found = path(&mut shown);
    assert!(is_near(found.bandwidth_bytes_per_s, RATE / 5), "{found:?}");
    assert!(is_near(found.min_rtt_us, 120_000), "{found:?}");
}

/// Flushed at once, over a path of 20 ms each way that carries [`RATE`].
fn flushing(name: &str) -> (Shown, Session) {
    let mut shown = Shown::of(name, SIZE);
    shown.site.delay_wan(Duration::from_millis(20));
    shown.site.limit_wan(RATE);
    let session = shown.site.login(0, 0, 1);
    let setting = FlushSetting {
        threshold_bytes: Some(4096),
        ..FlushSetting::default()
    };
    shown.site.worker.relay.set_flush(&Scope::All, &setting);
    (shown, session)
}

#[test]
fn b14_an_idle_path_is_probed_and_its_change_is_an_event() {
    let (mut shown, mut session) = flushing("path-idle");
    write(&mut shown, &mut session, 5);
    shown.site.run(Duration::from_secs(3));
    let found = path(&mut shown);
    assert_eq!((found.limit, found.probes), (PathLimit::Idle, 0));
    assert!(is_near(found.bandwidth_bytes_per_s, RATE), "{found:?}");
    // A quarter of the rate while nobody writes: probes alone can tell.
    shown.site.limit_wan(RATE / 4);
    shown.site.run(Duration::from_secs(45));
    let found = path(&mut shown);
    assert!(is_near(found.bandwidth_bytes_per_s, RATE / 4), "{found:?}");
    assert!((3..=5).contains(&found.probes), "{found:?}");
    assert_eq!(found.limit, PathLimit::Idle, "a probe is no traffic");
    assert_eq!(found.changes, 1);
    let events = shown.rows::<Event>();
    let event = events.iter().find(|event| event.kind == EventKind::Path);
    let event = event.unwrap();
    assert_eq!(event.why.as_str(), "198.19.0.1 to 198.19.0.10:3260");
    assert_eq!(found.sessions, 1, "it takes such pings");
}

#[test]
fn b14_a_path_is_measured_when_that_is_asked_for() {
    let (mut shown, mut session) = flushing("path-asked");
    write(&mut shown, &mut session, 5);
    shown.site.run(Duration::from_secs(3));
    let before = path(&mut shown);
    shown.site.limit_wan(RATE / 2);
    let now = shown.site.now;
    let (local, remote) = (before.local, before.remote);
    let relay = &mut shown.site.worker.relay;
    assert_eq!(relay.measure_path(now, local, remote), Outcome::Done);
    let other = SocketAddrV4::new(local, 3260);
    assert_eq!(relay.measure_path(now, local, other), Outcome::UnknownPath);
    shown.site.run(Duration::from_secs(3));
    let found = path(&mut shown);
    assert_eq!((found.measured, found.probes), (1, before.probes + 1));
    assert!(is_near(found.bandwidth_bytes_per_s, RATE / 2), "{found:?}");
}

#[test]
fn b12_what_is_typed_in_goes_before_what_is_measured() {
    let (mut shown, mut session) = flushing("path-typed");
    write(&mut shown, &mut session, 3);
    let before = path(&mut shown);
    let (local, remote) = (before.local, before.remote);
    let now = shown.site.now;
    let typed = Known {
        bytes_per_s: Some(1_000_000),
        round_trip: Some(Duration::from_millis(100)),
        typed: true,
    };
    let relay = &mut shown.site.worker.relay;
    assert_eq!(relay.set_path(now, local, remote, typed), Outcome::Done);
    for refused in [Some(0), Some(u64::MAX)] {
        let known = Known {
            bytes_per_s: refused,
            ..typed
        };
        let outcome = relay.set_path(now, local, remote, known);
        assert_eq!(outcome, Outcome::OutOfRange);
    }
    let found = path(&mut shown);
    assert_eq!(found.recommended_bytes, Some(100_000));
    assert!(is_near(found.bandwidth_bytes_per_s, RATE), "measured on");
    let none = Known {
        bytes_per_s: None,
        round_trip: None,
        typed: true,
    };
    let relay = &mut shown.site.worker.relay;
    assert_eq!(relay.set_path(now, local, remote, none), Outcome::Done);
    assert_ne!(path(&mut shown).recommended_bytes, Some(100_000));
}

//! What the relay measures of its way to the storage (B-12 to B-14).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

mod shown;

use std::time::Duration;

use shown::Shown;
use sluice_hugepages::tables::{FlushSetting, Path, Scope};
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

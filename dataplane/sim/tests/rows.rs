//! What operators see of a running worker: the rows that it shows in a control
//! segment, read as `sluicectl` reads them.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

mod shown;

use std::time::Duration;

use sluice_hugepages::tables::*;
use sluice_sim::site::{STORAGE, TARGETS};
use sluice_sim::storage::{LUN, PORT};

use shown::Shown;

#[test]
fn a6_the_session_rows_of_a_running_worker() {
    let mut shown = Shown::new("sessions");
    assert_eq!(shown.rows::<Session>(), []);
    let mut computer = shown.site.login(0, 0, 7);
    shown.write(&mut computer, 3);
    let rows = shown.rows::<Session>();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!(row.target.as_str(), TARGETS[0]);
    assert_eq!((*row.storage.ip(), row.storage.port()), (STORAGE, PORT));
    assert_eq!((row.lun, row.volume), (Some(LUN), Some(0)));
    assert_eq!(row.initiator.as_str(), "iqn.2004-03.example.sim:computer0");
    assert_eq!(row.computer.ip().octets(), [198, 18, 0, 10]);
    assert!(row.lan_connected && row.wan_connected);
    assert_eq!(row.lan_isid, [0x80, 0, 0, 0, 0, 7]);
    assert_ne!(row.lan_tsih, 0, "ours");
    assert_ne!(row.wan_tsih, 0, "the storage's");
    assert_ne!(row.wan_isid, row.lan_isid, "an ISID of the relay's own");
    assert_eq!(
        row.commands, 1,
        "TEST UNIT READY came before the unit was known"
    );
    assert_eq!(row.dirty_bytes, 512, "not due yet");
    let before = row.clone();

    // The storage goes: the computer's session stays, and its writes are kept.
    shown.site.storage.bars = Some("");
    shown.site.storage.cut_first();
    shown.write(&mut computer, 4);
    let row = shown.rows::<Session>().remove(0);
    assert!(row.lan_connected && !row.wan_connected);
    assert_eq!(row.dirty_bytes, 1024);
    assert_eq!(row.wan_isid, before.wan_isid);
    // It comes back under the same name (C-8).
    shown.site.storage.bars = None;
    shown.site.run(Duration::from_secs(12));
    let row = shown.rows::<Session>().remove(0);
    assert!(row.wan_connected && row.wan_tsih != 0);
    assert_eq!((row.wan_isid, row.dirty_bytes), (before.wan_isid, 0));

    // The computer goes: with nothing left to flush, so does the row.
    shown.site.abort(&computer);
    shown.site.run(Duration::from_secs(30));
    assert!(shown.rows::<Session>().iter().all(|row| !row.lan_connected));
}

#[test]
fn a7_the_volume_rows_of_a_running_worker() {
    let mut shown = Shown::new("volumes");
    let row = shown.volume();
    assert_eq!(row.state, VolumeState::Disconnected, "nobody has logged in");
    assert_eq!((row.block_len, row.blocks, row.sessions), (0, 0, 0));
    let mut computer = shown.site.login(0, 0, 1);
    shown.write(&mut computer, 3);
    let row = shown.volume();
    assert_eq!((row.state, row.sessions), (VolumeState::Connected, 1));
    assert_eq!((row.lun, row.block_len), (LUN, 512));
    assert_eq!(row.blocks, 1024);
    assert_eq!((row.dirty_bytes, row.records), (512, 1));
    assert!(row.oldest_dirty_since_ns.is_some());
    assert_eq!((row.written_bytes, row.flushed_bytes), (512, 0));
    assert!(row.room_bytes > 0);
    assert_eq!((row.drain, row.held_up), (Drain::No, HeldUp::No));
    // Flushed after its period: then it is known how quick the storage is.
    shown.site.run(Duration::from_secs(3));
    let row = shown.volume();
    assert_eq!((row.dirty_bytes, row.records), (0, 0));
    assert_eq!(row.oldest_dirty_since_ns, None);
    assert_eq!(row.flushed_bytes, 512);
    let load = Duration::from_micros(row.load_us);
    let (shortest, longest) = (Duration::from_micros(1), Duration::from_millis(20));
    assert!(load >= shortest && load <= longest, "load {load:?}");

    shown.site.storage.bars = Some("");
    shown.site.storage.cut_first();
    shown.write(&mut computer, 4);
    let row = shown.volume();
    assert_eq!(row.state, VolumeState::Disconnected);
    assert_eq!((row.dirty_bytes, row.held_up), (512, HeldUp::Storage));
    // The computer leaves first: what it left is flushed when the storage is back.
    shown.site.abort(&computer);
    shown.site.storage.stalls = Some("");
    shown.site.storage.bars = None;
    let mut rows = (0..60).map(|_| shown.volume());
    assert!(
        rows.any(|row| row.state == VolumeState::Draining && row.sessions == 0),
        "no computer, and something to flush"
    );
    drop(rows);
    shown.site.storage.stalls = None;
    shown.site.run(Duration::from_secs(70));
    let row = shown.volume();
    assert_eq!((row.dirty_bytes, row.flushed_bytes), (0, 1024));
}

#[test]
fn a_drain_is_shown() {
    let mut shown = Shown::new("drain");
    let mut computer = shown.site.login(0, 0, 1);
    shown.site.storage.hangs = true;
    shown.write(&mut computer, 3);
    let now = shown.site.now;
    let relay = &mut shown.site.worker.relay;
    relay.command_from_control(now, &Command::Drain { on: true });
    let row = shown.volume();
    assert_eq!(row.drain, Drain::Draining);
    assert_eq!(row.durability, Durability::Storage, "the one in force");
    let runtime = shown.rows::<Runtime>().remove(0);
    assert_eq!(runtime.draining_since_ns, Some(now.as_nanos()));
    shown.site.storage.hangs = false;
    shown.site.run(Duration::from_secs(1));
    let rows = shown.rows::<Volume>();
    assert!(rows.iter().all(|row| row.drain == Drain::Drained));
    let now = shown.site.now;
    let relay = &mut shown.site.worker.relay;
    relay.command_from_control(now, &Command::Drain { on: false });
    let row = shown.volume();
    assert_eq!((row.drain, row.durability), (Drain::No, Durability::Memory));
    assert_eq!(shown.rows::<Runtime>()[0].draining_since_ns, None);
}

#[test]
fn a16_load_rates_and_what_was_not_sent_are_shown() {
    let mut shown = Shown::new("load");
    let mut computer = shown.site.login(0, 0, 1);
    shown.site.storage.hangs = true;
    let begun = shown.volume();
    let load = (begun.load_us, begun.load_p99_us);
    assert!(load.0 > 0 && load.1 == 0, "the login's, none yet: {load:?}");
    assert_eq!((begun.epochs_pending, begun.superseded_bytes), (0, 0));
    assert_eq!((begun.drained_in_ms, begun.full_in_ms), (Some(0), None));
    for _ in 0..30 {
        shown.write(&mut computer, 3);
        shown.write(&mut computer, 4);
        shown.site.run(Duration::from_millis(100));
    }
    let row = shown.volume();
    assert_eq!((row.written_bytes, row.flushed_bytes), (60 * 512, 0));
    assert!(
        row.superseded_bytes >= 50 * 512,
        "each hides the one before"
    );
    assert_eq!(row.dirty_bytes, row.written_bytes - row.superseded_bytes);
    assert_eq!(row.epochs_pending, 1, "nobody asked for order");
    assert!(row.written_bytes_per_s > 0);
    assert_eq!(row.flushed_bytes_per_s, 0);
    shown.site.storage.hangs = false;
    shown.site.run(Duration::from_secs(3));
    let row = shown.volume();
    assert_eq!(row.flushed_bytes + row.superseded_bytes, row.written_bytes);
    assert_eq!((row.epochs_pending, row.drained_in_ms), (0, Some(0)));
    assert!(row.flushed_bytes_per_s > 0, "a moment ago");
    assert!(row.load_p99_us >= row.load_us, "the slow one is among them");
}

#[test]
fn each_change_of_a_volume_is_an_event() {
    let mut shown = Shown::new("events");
    assert_eq!(shown.rows::<Event>(), []);
    let mut computer = shown.site.login(0, 0, 1);
    shown.write(&mut computer, 3);
    let told = |shown: &mut Shown, known: usize| -> Vec<(EventKind, String, String)> {
        let events = shown.rows::<Event>();
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event.number, number as u64);
        }
        // What a probe finds of a path without delay wavers.
        let of_volumes = events.iter().filter(|event| event.kind != EventKind::Path);
        let events: Vec<&Event> = of_volumes.collect();
        for event in &events {
            assert_eq!(event.target.unwrap().as_str(), TARGETS[0]);
            assert_eq!(event.lun, LUN);
        }
        let said = |word: Option<&str>| word.unwrap_or_default().to_owned();
        let event = |event: &Event| {
            let before = event.before.as_ref().map(|before| before.as_str());
            (event.kind, said(before), said(Some(event.now.as_str())))
        };
        events[known..].iter().copied().map(event).collect()
    };
    let change = |kind, before: &str, now: &str| (kind, before.to_owned(), now.to_owned());
    assert_eq!(
        told(&mut shown, 0),
        [change(EventKind::Volume, "", "connected")]
    );
    shown.site.storage.bars = Some("");
    shown.site.storage.cut_first();
    shown.write(&mut computer, 4);
    assert_eq!(
        told(&mut shown, 1),
        [
            change(EventKind::Volume, "connected", "disconnected"),
            change(EventKind::HeldUp, "no", "storage-not-there"),
        ]
    );
    shown.site.storage.bars = None;
    shown.site.run(Duration::from_secs(12));
    assert_eq!(
        told(&mut shown, 3),
        [
            change(EventKind::Volume, "disconnected", "connected"),
            change(EventKind::HeldUp, "storage-not-there", "no"),
        ]
    );
}

#[test]
fn the_ring_of_events_keeps_the_newest() {
    let mut shown = Shown::new("ring");
    let _computer = shown.site.login(0, 0, 1);
    let changes = EVENTS_MAX as u64 + 40;
    for on in (0..changes).map(|change| change % 2 == 0) {
        let now = shown.site.now;
        let relay = &mut shown.site.worker.relay;
        relay.command_from_control(now, &Command::Drain { on });
        shown.site.run(Duration::from_millis(150));
    }
    let mut numbers: Vec<u64> = shown.rows::<Event>().iter().map(|row| row.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers.len(), EVENTS_MAX);
    let last = *numbers.last().unwrap();
    assert!(last >= changes, "each change was told");
    assert_eq!(numbers[0], last + 1 - EVENTS_MAX as u64, "without a gap");
}

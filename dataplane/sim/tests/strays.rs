//! What a lost session still has under way at the storage never lands on what
//! is newer (C-8): its nexus is reinstated first, or the LUN reset.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_proto::scsi::opcode;
use sluice_sim::block::{self, BLOCK_LEN};
use sluice_sim::site::{Session, Site, Size};

const BLOCK: u64 = 7;
/// The relay's own name for computer 0 ends so at the storage.
const FIRST: &str = "computer0";

/// Computers 0 and 1 on one volume; the first one's nexus carries the flush.
fn two_computers() -> (Site, Session, Session) {
    let size = Size {
        shared: true,
        ..Size::SMALL
    };
    let mut site = Site::of(size, |_| ());
    let mut first = site.login(0, 0, 1);
    let second = site.login(1, 0, 1);
    assert_eq!(site.write(&mut first, BLOCK + 1, 9), Some(0));
    site.run(Duration::from_secs(5));
    assert_eq!(site.worker.relay.dirty_bytes(), 0);
    site.storage.stalls = Some(FIRST);
    (site, first, second)
}

/// What 0 wrote as number 1 has been flushed by its nexus, and the storage takes
/// its time to carry it out.
fn with_a_write_under_way() -> Site {
    let (mut site, mut first, _) = two_computers();
    assert_eq!(site.write(&mut first, BLOCK, 1), Some(0));
    site.run(Duration::from_secs(3));
    assert_eq!(site.storage.writes_under_way(BLOCK), [1]);
    site
}

fn stored(site: &Site) -> Option<u32> {
    let number = site.storage.volumes[0].visible[usize::try_from(BLOCK).unwrap()];
    (number != 0).then_some(number)
}

fn write_number_2(site: &mut Site) {
    let mut second = site.login(1, 0, 1);
    assert_eq!(site.write(&mut second, BLOCK, 2), Some(0));
}

#[test]
fn after_a_crash_nothing_newer_is_sent_before_the_old_session_is_reinstated() {
    let mut site = with_a_write_under_way();
    site.storage.bars = Some(FIRST);
    let mut site = site.restart();
    site.run(Duration::from_secs(1));
    write_number_2(&mut site);
    // Time enough for a flush, too little for a reset.
    site.run(Duration::from_secs(4));
    assert_eq!(stored(&site), None, "sent past the stray");
    site.storage.stalls = None;
    site.storage.bars = None;
    site.run(Duration::from_secs(10));
    assert_eq!(stored(&site), Some(2));
    assert_eq!(site.worker.relay.dirty_bytes(), 0);
    assert_eq!(site.storage.counters.lun_resets, 0);
}

#[test]
fn the_lun_is_reset_for_one_that_cannot_come_back() {
    let mut site = with_a_write_under_way();
    site.storage.bars = Some(FIRST);
    let mut site = site.restart();
    site.run(Duration::from_secs(1));
    write_number_2(&mut site);
    site.run(Duration::from_secs(40));
    assert!(site.storage.counters.lun_resets > 0, "nobody reset the LUN");
    site.storage.stalls = None;
    site.run(Duration::from_secs(10));
    assert_eq!(stored(&site), Some(2));
    assert_eq!(site.worker.relay.dirty_bytes(), 0);
    assert_eq!(site.counter("lun_reset"), 1);
}

#[test]
fn a_change_that_passed_and_was_lost_holds_the_flush_of_others_back() {
    let (mut site, mut first, mut second) = two_computers();
    let mut data = [0; BLOCK_LEN];
    block::fill(&mut data, 1, BLOCK);
    // WRITE AND VERIFY (10), one block: it passes (SBC-4 5.47).
    let cdb = [opcode::WRITE_AND_VERIFY_10, 0, 0, 0, 0, 7, 0, 0, 1, 0];
    let pdu = Site::command(&mut first, 0x20, 512, &cdb).data(&data);
    site.send(&first, &pdu.bytes());
    site.run(Duration::from_millis(200));
    assert_eq!(site.storage.writes_under_way(BLOCK), [1]);
    site.storage.bars = Some(FIRST);
    site.storage.cut_first();
    site.run(Duration::from_millis(500));
    // The computer is told that nobody knows; its blocks are free again.
    assert_eq!(
        site.finish(&first, pdu.itt()).map(|answer| answer.0),
        Some(2)
    );
    assert_eq!(site.write(&mut second, BLOCK, 2), Some(0));
    site.run(Duration::from_secs(4));
    assert_eq!(stored(&site), None, "sent past the stray");
    // It is carried out at last, and what is newer comes after it.
    site.storage.stalls = None;
    site.run(Duration::from_millis(500));
    assert_eq!(stored(&site), Some(1));
    site.storage.bars = None;
    site.run(Duration::from_secs(10));
    assert_eq!(stored(&site), Some(2));
    assert_eq!(site.worker.relay.dirty_bytes(), 0);
}

#[test]
fn what_is_durable_is_not_sent_again_after_a_crash_though_a_read_holds_it() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, BLOCK, 1), Some(0));
    // Of two blocks the log has one; the storage takes its time with the other.
    site.storage.holds_reads = true;
    let cdb = sluice_proto::scsi::cdb::read(BLOCK, 2);
    let pdu = Site::command(&mut session, 0x40, 1024, &cdb);
    site.send(&session, &pdu.bytes());
    site.run(Duration::from_secs(3));
    assert_eq!(site.storage.counters.reads, 0);
    assert_eq!(site.write(&mut session, BLOCK, 2), Some(0));
    site.run(Duration::from_secs(3));
    assert_eq!(stored(&site), Some(2));
    let writes = site.storage.counters.writes;
    let mut site = site.restart();
    site.storage.holds_reads = false;
    site.run(Duration::from_secs(10));
    assert_eq!(site.storage.counters.writes, writes, "over what is newer");
    assert_eq!(stored(&site), Some(2));
}

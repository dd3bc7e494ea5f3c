//! A flush that goes by several sessions with the storage.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_proto::scsi::cdb;
use sluice_sim::block;
use sluice_sim::site::{Session, Site, Size};

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;
const SECOND: Duration = Duration::from_secs(1);
/// Blocks of a write.
const BLOCKS: u32 = 16;
const LEN: u32 = BLOCKS * 512;

const SIZE: Size = Size {
    lanes: 3,
    ..Size::SMALL
};

struct Course {
    site: Site,
    session: Session,
    /// What each block was written with last.
    expected: Vec<u32>,
    written: u32,
}

impl Course {
    fn of(size: Size) -> Self {
        let mut site = Site::of(size, |_| ());
        site.delay_wan(Duration::from_millis(10));
        let session = site.login(0, 0, 1);
        let blocks = site.storage.volumes[0].media.len();
        Self {
            site,
            session,
            expected: vec![0; blocks],
            written: 0,
        }
    }

    /// Writes of 8 KiB, none of which are neighbours.
    fn write(&mut self, count: u32) {
        for _ in 0..count {
            self.written += 1;
            let number = self.written;
            let lba = u64::from(number % 31) * 2 * u64::from(BLOCKS);
            let mut data = vec![0; LEN as usize];
            for (at, block) in (lba..).zip(data.chunks_exact_mut(512)) {
                block::fill(block, number, at);
                self.expected[usize::try_from(at).unwrap()] = number;
            }
            let pdu = Site::command(&mut self.session, 0x20, LEN, &cdb::write(lba, BLOCKS));
            let itt = pdu.itt();
            self.site.send(&self.session, &pdu.bytes());
            let status = self.site.finish_write(&self.session, itt, &data);
            assert_eq!(status, Some(GOOD));
        }
    }

    fn drain(&mut self) {
        assert_eq!(self.site.synchronize(&mut self.session), Some(GOOD));
        assert!(self.site.storage.volumes[0].media == self.expected);
        assert_eq!(self.site.worker.relay.dirty_bytes(), 0);
    }

    /// Writes until every lane has some under way, which the storage does not answer.
    fn with_writes_under_way(size: Size) -> Self {
        let mut course = Self::of(size);
        course.write(20);
        course.site.run(3 * SECOND);
        course.drain();
        course.site.storage.hangs = true;
        course.write(12);
        course.site.run(4 * SECOND);
        let under_way = course.site.storage.writes_by_session();
        assert_eq!(under_way.len(), 3);
        assert!(under_way.iter().all(|&writes| writes > 1), "{under_way:?}");
        course
    }
}

#[test]
fn a_flush_goes_by_as_many_sessions_as_are_configured() {
    let mut course = Course::with_writes_under_way(SIZE);
    course.site.storage.hangs = false;
    course.drain();
    assert!(course.site.counter("lane_write") > 8);
    assert_eq!(course.site.counter("lane_write_given_back"), 0);
}

#[test]
fn one_lane_is_the_computers_own_session() {
    let mut course = Course::of(Size {
        lanes: 1,
        ..Size::SMALL
    });
    course.write(20);
    course.drain();
    assert_eq!(course.site.storage.writes_by_session().len(), 1);
    assert_eq!(course.site.counter("lane_write"), 0);
}

#[test]
fn c8_a_lane_that_breaks_gives_its_work_back_and_is_waited_for() {
    let mut course = Course::with_writes_under_way(SIZE);
    course.site.storage.cut_last();
    // Not let in again at once: what it has under way may still be carried out.
    course.site.storage.sessions_max = 2;
    course.site.run(SECOND);
    assert!(course.site.counter("lane_write_given_back") > 1);
    course.site.storage.hangs = false;
    let writes = course.site.storage.counters.writes;
    course.site.run(2 * SECOND);
    let sent = course.site.storage.counters.writes - writes;
    assert!(sent <= 12, "{sent} writes: none is sent again");
    course.site.storage.sessions_max = usize::MAX;
    course.drain();
    assert_eq!(course.site.storage.writes_by_session().len(), 3);
    assert_eq!(course.site.counter("lun_reset"), 0);
}

#[test]
fn with_the_carrier_all_goes_again_when_the_other_lanes_have_answered() {
    let mut course = Course::with_writes_under_way(SIZE);
    course.site.storage.cut_first();
    course.site.run(3 * SECOND);
    let writes = course.site.storage.counters.writes;
    course.site.run(SECOND);
    assert_eq!(course.site.storage.counters.writes, writes);
    course.site.storage.hangs = false;
    course.drain();
    // The computer hears of its nexus' loss (SAM-5 6.3.4).
    let heard = course.site.synchronize(&mut course.session);
    assert_eq!(heard, Some(CHECK_CONDITION));
    course.write(20);
    course.drain();
}

#[test]
fn a_crash_with_lanes_under_way_reinstates_each_of_them() {
    let course = Course::with_writes_under_way(SIZE);
    let Course { site, expected, .. } = course;
    let mut site = site.restart();
    site.run(SECOND);
    site.storage.hangs = false;
    site.run(10 * SECOND);
    assert_eq!(site.worker.relay.dirty_bytes(), 0);
    assert!(site.storage.volumes[0].media == expected);
    assert!(site.storage.counters.reinstated >= 3);
    assert_eq!(site.usage().nexuses, 0, "nobody is there to flush for");
}

#[test]
fn fewer_lanes_than_before_the_start_are_reinstated_and_left() {
    let course = Course::with_writes_under_way(SIZE);
    let Course { site, expected, .. } = course;
    let mut site = site.restart_as(Size { lanes: 1, ..SIZE });
    site.storage.hangs = false;
    let session = site.login(0, 0, 1);
    site.run(10 * SECOND);
    assert_eq!(site.worker.relay.dirty_bytes(), 0);
    assert!(site.storage.volumes[0].media == expected);
    assert_eq!(site.storage.writes_by_session().len(), 1);
    assert!(site.is_open(&session));
}

#[test]
fn a_storage_that_lets_in_one_session_is_flushed_to_by_that() {
    let mut course = Course::of(SIZE);
    course.site.storage.sessions_max = 1;
    course.write(20);
    course.site.run(5 * SECOND);
    course.drain();
    let asked = course.site.counter("wan_login");
    course.write(20);
    course.drain();
    assert_eq!(course.site.counter("wan_login"), asked);
    assert_eq!(course.site.usage().nexuses, 1, "none is kept for nothing");
    // It may let them in later.
    course.site.storage.sessions_max = usize::MAX;
    course.site.run(30 * SECOND);
    course.write(20);
    course.site.run(5 * SECOND);
    assert_eq!(course.site.storage.writes_by_session().len(), 3);
    course.drain();
}

#[test]
fn c9_lanes_that_a_reservation_keeps_out_carry_nothing() {
    let mut course = Course::of(SIZE);
    course.write(20);
    course.site.run(3 * SECOND);
    course.drain();
    let by_lanes = course.site.counter("lane_write");
    assert!(by_lanes > 0);
    // RESERVE (6), SPC-2 5.5: by this computer, and so by its own session alone.
    let pdu = Site::command(&mut course.session, 0x80, 0, &[0x16, 0, 0, 0, 0, 0]);
    let itt = pdu.itt();
    course.site.send(&course.session, &pdu.bytes());
    let status = course.site.finish(&course.session, itt);
    assert_eq!(status.map(|(status, _)| status), Some(GOOD));
    course.write(40);
    course.drain();
    assert_eq!(course.site.counter("lane_write"), by_lanes);
    assert_eq!(course.site.counter("reservation_conflict"), 0);
}

#[test]
fn lanes_leave_with_the_last_computer() {
    let mut course = Course::of(SIZE);
    course.write(20);
    course.drain();
    assert_eq!(course.site.usage().nexuses, 3);
    course.site.close(&course.session);
    course.site.run(10 * SECOND);
    assert_eq!(course.site.usage().nexuses, 0);
    assert_eq!(course.site.storage.writes_by_session().len(), 0);
}

#[test]
fn lanes_that_had_no_time_to_log_in_come_with_the_next_computer() {
    let mut course = Course::of(SIZE);
    course.write(1);
    course.drain();
    course.site.close(&course.session);
    course.site.run(2 * SECOND);
    course.session = course.site.login(0, 0, 1);
    course.write(20);
    course.site.run(3 * SECOND);
    assert_eq!(course.site.storage.writes_by_session().len(), 3);
    course.drain();
}

#[test]
fn b11_lanes_come_and_go_while_the_flush_goes_on() {
    let mut course = Course::of(Size {
        lanes: 1,
        ..Size::SMALL
    });
    let target = 0;
    course.write(20);
    course.site.run(SECOND);
    assert_eq!(course.site.usage().nexuses, 1);
    for (asked, expected) in [(Some(4), 4), (Some(2), 2), (Some(100), 8), (None, 1)] {
        course.site.worker.relay.set_lanes(target, asked);
        for _ in 0..12 {
            course.write(5);
            course.site.run(SECOND / 2);
        }
        let nexuses = course.site.usage().nexuses;
        assert_eq!(nexuses, expected, "{asked:?} asked for");
        course.drain();
    }
}

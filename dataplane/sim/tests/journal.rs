//! The worker with a journal: what is acknowledged when, what a power loss
//! leaves, what passes only when the journal has let go of it, and how a
//! journal is given up (A-22, C-2).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_dataplane::worker::journal::{Health, Trouble};
use sluice_hugepages::tables::{Command, Durability, Outcome, Scope};
use sluice_proto::scsi::{ScsiStatus, cdb};
use sluice_sim::block::{self, BLOCK_LEN};
use sluice_sim::journal::Journal;
use sluice_sim::site::{Session, Site, Size};
use sluice_sim::storage::{Fault, Refusal};

const GOOD: u8 = 0;

struct Journalled {
    site: Site,
    session: Session,
}

impl Journalled {
    fn new() -> Self {
        Self::with(Durability::Journal)
    }

    fn with(durability: Durability) -> Self {
        let size = Size {
            durability,
            ..Size::SMALL
        };
        let mut site = Site::of(size, |_| ());
        let mut session = site.login(0, 0, 1);
        assert_eq!(site.synchronize(&mut session), Some(GOOD));
        Self { site, session }
    }

    fn write(&mut self, lba: u64, number: u32) -> Option<u8> {
        self.site.write(&mut self.session, lba, number)
    }

    /// Sends a write of one block, and does not wait for its answer.
    fn begin_write(&mut self, lba: u64, number: u32) -> u32 {
        let mut data = [0; BLOCK_LEN];
        block::fill(&mut data, number, lba);
        let cdb = cdb::write(lba, 1);
        let pdu = Site::command(&mut self.session, 0x20, 512, &cdb).data(&data);
        self.site.send(&self.session, &pdu.bytes());
        pdu.itt()
    }

    /// Sends WRITE SAME (16) of zeroes to one block.
    fn begin_write_same(&mut self, lba: u8) -> u32 {
        let mut cdb = [0; 16];
        (cdb[0], cdb[9], cdb[13]) = (0x93, lba, 1);
        let pdu = Site::command(&mut self.session, 0x20, 512, &cdb).data(&[0; BLOCK_LEN]);
        self.site.send(&self.session, &pdu.bytes());
        pdu.itt()
    }

    fn plain(&mut self, cdb: &[u8]) -> u32 {
        let pdu = Site::command(&mut self.session, 0, 0, cdb);
        self.site.send(&self.session, &pdu.bytes());
        pdu.itt()
    }

    fn answer(&mut self, itt: u32) -> Option<u8> {
        self.site
            .finish(&self.session, itt)
            .map(|(status, _)| status)
    }

    fn read(&mut self, lba: u64) -> Option<u32> {
        let (status, number) = self.site.read(&mut self.session, lba).unwrap();
        assert_eq!(status, GOOD);
        number
    }

    fn stall(&mut self, time: Duration) {
        self.site.journal.as_mut().unwrap().stalled_until = self.site.now + time;
    }

    /// The journal says that it is full, and its thread, which is taken out, nothing more.
    fn fill_up(&mut self) -> Option<Journal> {
        let line = self.site.worker.relay.journal_line().unwrap();
        line.progress.is_full = true;
        self.site.journal.take()
    }

    fn health(&self) -> Health {
        self.site.worker.relay.journal_health().unwrap().0
    }

    fn run(&mut self, millis: u64) {
        self.site.run(Duration::from_millis(millis));
    }

    fn again(mut self, lost: bool) -> Self {
        self.site = if lost {
            self.site.lose_power()
        } else {
            self.site.restart()
        };
        self.run(100);
        self.session = self.site.login(0, 0, 1);
        self
    }
}

#[test]
fn a22_a_write_is_answered_when_the_journal_has_it_and_not_before() {
    let mut site = Journalled::new();
    site.stall(Duration::from_millis(1500));
    let write = site.begin_write(3, 1);
    site.run(400);
    assert_eq!(site.read(3), Some(1), "it is in the log");
    assert_eq!(site.site.finish(&site.session, write), None, "not yet");
    site.run(300);
    assert_eq!(site.health(), Health::Good);
}

/// With the storage silent: neither plain writes, nor FUA, nor SYNCHRONIZE CACHE
/// wait for it, and a power loss takes nothing of them.
#[test]
fn c2_a_journal_is_stable_media_though_the_storage_is_silent() {
    let mut site = Journalled::new();
    site.write(9, 9).unwrap();
    site.run(3000);
    site.site.storage.hangs = true;
    for number in 1..=20 {
        assert_eq!(site.write(u64::from(number), number), Some(GOOD));
    }
    assert_eq!(site.site.synchronize(&mut site.session), Some(GOOD));
    let mut fua = cdb::write(30, 1);
    fua[1] |= 8;
    let mut data = [0; BLOCK_LEN];
    block::fill(&mut data, 30, 30);
    let pdu = Site::command(&mut site.session, 0x20, 512, &fua).data(&data);
    site.site.send(&site.session, &pdu.bytes());
    assert_eq!(site.answer(pdu.itt()), Some(GOOD));
    assert_eq!(
        site.site.storage.volumes[0].media[1], 0,
        "the storage has none of it"
    );

    site.site.storage.hangs = false;
    let mut site = site.again(true);
    for number in 1..=20 {
        assert_eq!(site.read(u64::from(number)), Some(number));
    }
    assert_eq!(site.read(30), Some(30));
    site.run(5000);
    assert!(site.site.worker.relay.is_drained());
    assert_eq!(
        site.site.storage.volumes[0].media[1..=20],
        (1..=20).collect::<Vec<_>>()
    );
}

/// More than the journal holds goes through it while one old record keeps its
/// place: that is written again, and found at the end.
#[test]
fn a22_a_record_that_stays_is_carried_round_the_journal() {
    let mut site = Journalled::new();
    let refused = Refusal {
        lba: 7,
        blocks: 1,
        fault: Fault::Status(ScsiStatus::BUSY),
        times: u32::MAX,
    };
    site.site.storage.refusals.push(refused);
    assert_eq!(site.write(7, 77), Some(GOOD));
    // Each in a group of its own: a head and 8 KiB.
    for round in 1..=1900_u32 {
        let mut data = vec![0; 16 * BLOCK_LEN];
        for (block, lba) in data.chunks_exact_mut(BLOCK_LEN).zip(512..) {
            block::fill(block, round, lba);
        }
        let cdb = cdb::write(512, 16);
        let pdu = Site::command(&mut site.session, 0x20, 16 * 512, &cdb).data(&data);
        site.site.send(&site.session, &pdu.bytes());
        assert_eq!(site.answer(pdu.itt()), Some(GOOD), "round {round}");
    }
    let journal = site.site.journal.as_ref().unwrap();
    assert!(journal.again > 0, "the old record was written again");
    site.site.storage.refusals.clear();
    let mut site = site.again(true);
    assert_eq!(site.read(7), Some(77));
    assert_eq!(site.read(520), Some(1900));
}

/// WRITE SAME goes past the log: it waits until no replay can put back what
/// it writes over, and after a power loss its blocks are its own.
#[test]
fn a22_what_passes_waits_until_the_journal_has_let_go() {
    let mut site = Journalled::new();
    // It reaches over the edge of what is written over, and so is flushed first.
    let mut data = [0; 2 * BLOCK_LEN];
    for (block, lba) in data.chunks_exact_mut(BLOCK_LEN).zip(5..) {
        block::fill(block, 1, lba);
    }
    let write = Site::command(&mut site.session, 0x20, 1024, &cdb::write(5, 2)).data(&data);
    site.site.send(&site.session, &write.bytes());
    assert_eq!(site.answer(write.itt()), Some(GOOD));
    // Flushed, but that is not told to the journal's device in time.
    site.stall(Duration::from_millis(1900));
    let same = site.begin_write_same(5);
    site.run(1000);
    assert_eq!(site.site.storage.volumes[0].visible[5], 1, "it waits");
    site.run(1500);
    assert_eq!(site.answer(same), Some(GOOD));
    assert_eq!(site.site.storage.volumes[0].visible[5], 0);
    let mut site = site.again(true);
    assert_eq!(site.read(5), Some(0), "nothing old has come back");
}

/// It stands behind another of its blocks when the epoch is closed: what was written in
/// that has no order with it. What is written after has: a replay must not bring the one
/// back beside the other, whatever passed meanwhile.
#[test]
fn a19_what_passes_takes_no_later_epoch_past_what_the_journal_has_not_let_go_of() {
    let mut site = Journalled::new();
    site.site.storage.hangs = true;
    assert_eq!(site.write(1, 1), Some(GOOD));
    let (first, second) = (site.begin_write_same(40), site.begin_write_same(40));
    site.run(100);
    site.plain(&cdb::synchronize_cache());
    site.run(100);
    assert_eq!(site.write(2, 2), Some(GOOD));
    site.stall(Duration::from_millis(1900));
    site.site.storage.hangs = false;
    assert_eq!(site.answer(first), Some(GOOD));
    site.run(1000);
    assert_eq!(site.site.storage.volumes[0].media[1], 1);
    assert_eq!(site.site.storage.counters.changes_passed, 2);
    assert_eq!(site.site.storage.volumes[0].visible[2], 0, "it waits");
    assert_eq!(site.answer(second), Some(GOOD));
    site.run(2500);
    assert_eq!(site.site.storage.volumes[0].media[2], 2);
}

/// Over what was never sent it goes at once, and is not answered before the
/// journal has let go of that.
#[test]
fn a22_what_is_overwritten_is_gone_from_the_journal_when_that_is_answered() {
    let mut site = Journalled::new();
    assert_eq!(site.write(5, 1), Some(GOOD));
    site.stall(Duration::from_millis(1900));
    let same = site.begin_write_same(5);
    site.run(400);
    assert_eq!(site.site.storage.volumes[0].media[5], 0);
    assert_eq!(site.site.storage.counters.writes, 0, "it was not sent");
    assert_eq!(site.site.storage.counters.changes_passed, 1);
    assert_eq!(site.read(5), Some(0), "nothing else is to be seen any more");
    assert_eq!(site.site.finish(&site.session, same), None);
    site.run(1500);
    assert_eq!(site.answer(same), Some(GOOD));
    let mut site = site.again(true);
    assert_eq!(site.read(5), Some(0), "nothing old has come back");
}

/// A record that a read still pins is durable at the storage: a power loss does
/// not bring it back over the next epoch's, which the storage has by then.
#[test]
fn a19_what_a_read_pins_does_not_come_back_from_the_journal() {
    let mut site = Journalled::new();
    assert_eq!(site.write(1, 1), Some(GOOD));
    // Of two blocks the log has one; the storage takes its time with the other.
    site.site.storage.holds_reads = true;
    let read = Site::command(&mut site.session, 0x40, 1024, &cdb::read(1, 2));
    site.site.send(&site.session, &read.bytes());
    site.run(3000);
    assert_eq!(site.site.synchronize(&mut site.session), Some(GOOD));
    assert_eq!(site.write(1, 2), Some(GOOD));
    site.run(3000);
    assert_eq!(site.site.storage.volumes[0].media[1], 2);
    let writes = site.site.storage.counters.writes;
    let mut site = site.again(true);
    site.site.storage.holds_reads = false;
    site.run(5000);
    assert!(site.site.worker.relay.is_drained());
    assert_eq!(site.site.storage.counters.writes, writes, "nothing is old");
    assert_eq!(site.site.storage.volumes[0].media[1], 2);
}

/// The next epoch waits until the journal knows that the last is durable.
#[test]
fn a19_the_next_epoch_waits_for_the_journal_to_let_go_of_the_last() {
    let mut site = Journalled::new();
    site.site.storage.hangs = true;
    assert_eq!(site.write(1, 1), Some(GOOD));
    site.run(2500);
    assert_eq!(site.site.synchronize(&mut site.session), Some(GOOD));
    assert_eq!(site.write(1, 2), Some(GOOD));
    site.stall(Duration::from_millis(1900));
    site.site.storage.hangs = false;
    site.run(1800);
    assert_eq!(site.site.storage.volumes[0].visible[1], 1, "it waits");
    let mut site = site.again(true);
    site.run(3000);
    assert_eq!(site.site.storage.volumes[0].media[1], 2);
}

#[test]
fn a22_a_journal_whose_device_fails_is_given_up_and_the_storage_takes_over() {
    let mut site = Journalled::new();
    site.site.storage.hangs = true;
    assert_eq!(site.write(1, 1), Some(GOOD));
    site.site.journal.as_mut().unwrap().disk.fails = true;
    let waits = site.begin_write(2, 2);
    site.run(500);
    assert_eq!(site.health(), Health::Failing(Trouble::Device(5)));
    assert_eq!(
        site.site.finish(&site.session, waits),
        None,
        "nobody has it"
    );
    // The header cannot be written either: nothing is acknowledged past a stale journal.
    site.site.storage.hangs = false;
    site.run(2000);
    assert_eq!(site.health(), Health::Voiding(Trouble::Device(5)));
    assert_eq!(site.site.storage.volumes[0].media[1..=2], [1, 2]);
    assert_eq!(site.site.finish(&site.session, waits), None, "still");
    site.site.journal.as_mut().unwrap().disk.fails = false;
    assert_eq!(site.answer(waits), Some(GOOD));
    assert_eq!(site.health(), Health::GivenUp(Trouble::Device(5)));
    // Contract `storage`: it is there when it is answered.
    assert_eq!(site.write(3, 3), Some(GOOD));
    assert_eq!(site.site.storage.volumes[0].media[3], 3);
    let mut site = site.again(true);
    assert_eq!(site.health(), Health::Good, "a start begins anew");
    for number in 1..=3 {
        assert_eq!(site.read(u64::from(number)), Some(number));
    }
}

/// A newer write, that nobody was told of, has hidden what the journal acknowledged: until
/// the storage has that, the journal is all there is of the old one.
#[test]
fn a22_a_journal_is_not_given_up_before_what_has_hidden_its_own_is_flushed() {
    let mut site = Journalled::new();
    site.site.storage.hangs = true;
    assert_eq!(site.write(1, 1), Some(GOOD));
    site.site.journal.as_mut().unwrap().disk.fails = true;
    site.begin_write(1, 2);
    site.run(500);
    site.site.journal.as_mut().unwrap().disk.fails = false;
    site.run(500);
    assert_eq!(site.health(), Health::Failing(Trouble::Device(5)));
    site.site.storage.hangs = false;
    let mut site = site.again(true);
    site.run(3000);
    assert_eq!(site.site.storage.volumes[0].media[1], 1);
}

#[test]
fn a22_a_journal_that_only_stalls_goes_on() {
    let mut site = Journalled::new();
    site.site.storage.hangs = true;
    site.stall(Duration::from_millis(4000));
    let waits = site.begin_write(2, 2);
    site.run(3000);
    assert_eq!(site.health(), Health::Failing(Trouble::Slow));
    site.run(1200);
    assert_eq!(site.answer(waits), Some(GOOD));
    assert_eq!(site.health(), Health::Good);
}

#[test]
fn a22_a_journal_that_stays_slow_is_given_up() {
    let mut site = Journalled::new();
    site.stall(Duration::from_secs(12));
    let waits = site.begin_write(2, 2);
    site.run(8000);
    assert_eq!(site.health(), Health::Voiding(Trouble::Slow));
    // The bound on waiting: it is in the log, and may show (C-2, C-16).
    site.run(3000);
    assert_eq!(site.answer(waits), Some(ScsiStatus::BUSY.code()));
    site.run(2000);
    assert_eq!(site.health(), Health::GivenUp(Trouble::Slow));
    assert_eq!(site.write(2, 3), Some(GOOD));
    assert_eq!(site.site.storage.volumes[0].media[2], 3);
}

/// By its size a journal has room for all of its log; one that says it has none all
/// the same, and stays so, goes the same way by its own name.
#[test]
fn a22_a_journal_without_room_is_told_by_that_name() {
    let mut site = Journalled::new();
    let thread = site.fill_up();
    let waits = site.begin_write(2, 2);
    site.run(3000);
    assert_eq!(site.health(), Health::Failing(Trouble::Full));
    assert_eq!(site.site.finish(&site.session, waits), None);
    site.site.journal = thread;
    assert_eq!(site.answer(waits), Some(GOOD), "it has room again");
    assert_eq!(site.health(), Health::Good);

    let thread = site.fill_up();
    let waits = site.begin_write(3, 3);
    site.run(8000);
    assert_eq!(site.health(), Health::Voiding(Trouble::Full));
    site.site.journal = thread;
    assert_eq!(site.answer(waits), Some(GOOD), "the storage has it");
    assert_eq!(site.health(), Health::GivenUp(Trouble::Full));
    assert_eq!(site.site.storage.volumes[0].media[3], 3);
}

/// The process dies, not the power: log and journal go on together.
#[test]
fn a22_after_a_crash_the_journal_follows_the_log() {
    let mut site = Journalled::new();
    site.site.storage.hangs = true;
    for number in 1..=10 {
        assert_eq!(site.write(u64::from(number), number), Some(GOOD));
    }
    site.site.storage.hangs = false;
    let mut site = site.again(false);
    assert_eq!(site.health(), Health::Good);
    site.site.storage.hangs = true;
    for number in 11..=15 {
        assert_eq!(site.write(u64::from(number), number), Some(GOOD));
    }
    site.site.storage.hangs = false;
    let mut site = site.again(true);
    for number in 1..=15 {
        assert_eq!(site.read(u64::from(number)), Some(number));
    }
}

/// A write whose answer nobody heard, and a SYNCHRONIZE CACHE behind it that the
/// journal has answered: the journal is not given up before the storage has it.
#[test]
fn c2_what_a_synchronize_cache_has_covered_outlives_the_journal() {
    let mut site = Journalled::new();
    let other = site.site.login(0, 0, 2);
    site.site.storage.hangs = true;
    site.stall(Duration::from_millis(1500));
    site.begin_write(2, 2);
    site.run(500);
    // The session ends before the journal has it; its computer has another.
    let old = std::mem::replace(&mut site.session, other);
    site.site.abort(&old);
    site.run(1500);
    assert_eq!(site.read(2), Some(2), "it is there to be seen");
    assert_eq!(site.site.synchronize(&mut site.session), Some(GOOD));
    site.site.journal.as_mut().unwrap().disk.fails = true;
    // Something for the device to fail at.
    site.begin_write(3, 3);
    site.run(500);
    assert_eq!(site.health(), Health::Failing(Trouble::Device(5)));
    site.site.journal.as_mut().unwrap().disk.fails = false;
    site.run(3000);
    assert_eq!(site.site.storage.volumes[0].media[2], 0);
    assert_eq!(site.health(), Health::Failing(Trouble::Device(5)), "kept");
    site.site.storage.hangs = false;
    let mut site = site.again(true);
    assert_eq!(site.read(2), Some(2));
}

/// A write that a power loss has left to the journal alone, and that cannot be
/// read there: its blocks and all durability fail, aloud, over every start.
#[test]
fn a23_a_write_that_the_journal_lost_fails_its_volume_over_every_start() {
    let mut site = Journalled::new();
    site.site.storage.hangs = true;
    for number in 1..=4 {
        assert_eq!(site.write(u64::from(number), number), Some(GOOD));
    }
    let disk = &mut site.site.journal.as_mut().unwrap().disk;
    let payload = disk.blocks.iter_mut().find(|payload| {
        let first = &payload.0[..BLOCK_LEN];
        block::number(first, 2) == Some(2)
    });
    payload.unwrap().0[100] ^= 1;
    site.site.storage.hangs = false;
    for lost in [true, false, true] {
        site = site.again(lost);
        let (status, number) = site.site.read(&mut site.session, 2).unwrap();
        assert_eq!((status, number), (ScsiStatus::CHECK_CONDITION.code(), None));
        for number in [1, 3, 4] {
            assert_eq!(site.read(u64::from(number)), Some(number));
        }
        let sync = site.plain(&cdb::synchronize_cache());
        assert_eq!(
            site.answer(sync),
            Some(ScsiStatus::CHECK_CONDITION.code()),
            "power lost: {lost}"
        );
        site.run(3000);
        assert_eq!(
            site.site.storage.volumes[0].media[2..=4],
            [0, 0, 0],
            "nothing goes past it"
        );
    }
}

/// What the log lost with a header is missing in the journal as well once the two agree;
/// a power loss takes the log, and the volume is failed all the same until the
/// operator has given up what is missing.
#[test]
fn a23_a_damaged_header_is_told_though_the_log_is_lost() {
    const LBA: u64 = 777;
    let mut site = Journalled::new();
    site.site.storage.hangs = true;
    assert_eq!(site.write(LBA, 1), Some(GOOD));
    assert_eq!(site.write(2, 2), Some(GOOD));
    site.site = site.site.restart_over(|region| {
        for at in (0..region.len()).step_by(8) {
            // SAFETY: within the region, which nobody else uses while it has no log; it
            // is mapped at a page's edge, and any bytes are a word.
            let word = unsafe { &mut *region.ptr().add(at).cast::<u64>() };
            if *word == LBA {
                *word ^= 1 << 40;
                return;
            }
        }
        panic!("no such header");
    });
    site.site.storage.hangs = false;
    for lost in [true, false, true] {
        site = site.again(lost);
        site.run(3000);
        let failed: Vec<_> = site.site.worker.relay.failed_writes().collect();
        assert_eq!(failed.len(), 1, "power lost: {lost}");
        assert_eq!((failed[0].lba, failed[0].bytes), (0, 0));
        assert_eq!(site.site.storage.volumes[0].media[2], 0, "nothing is sent");
    }
    let failed = site.site.worker.relay.failed_writes().next().unwrap();
    let scope = Scope::Volume {
        target: failed.target,
        lun: failed.lun,
    };
    let stamp = failed.stamp;
    let discard = Command::DiscardFailed { scope, stamp };
    let now = site.site.now;
    let decided = site.site.worker.relay.command_from_control(now, &discard);
    assert_eq!(decided.0, Outcome::Done);
    site.run(3000);
    assert_eq!(site.site.storage.volumes[0].media[2], 2);
    site = site.again(true);
    assert_eq!(site.site.worker.relay.failed_writes().count(), 0);
    assert_eq!(site.read(2), Some(2));
}

#[test]
fn c2_with_contract_storage_a_write_is_answered_when_the_storage_has_it() {
    let mut site = Journalled::with(Durability::Storage);
    for number in 1..=5 {
        assert_eq!(site.write(1, number), Some(GOOD));
        assert_eq!(site.site.storage.volumes[0].media[1], number);
    }
    site.site.storage.hangs = true;
    let waits = site.begin_write(2, 6);
    // The longest that anything is waited for (C-16).
    site.run(20_500);
    assert_eq!(
        site.site.finish(&site.session, waits),
        Some((ScsiStatus::BUSY.code(), vec![]))
    );
}

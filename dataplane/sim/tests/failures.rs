//! A storage that fails what it is flushed, in every way that storages do: what
//! passes is sent again, what does not fails the volume aloud, and nothing
//! acknowledged is lost or hidden (C-4, A-17, A-23).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_hugepages::region::Region;
use sluice_hugepages::tables::{Command, Durability, FailedWrite, Outcome, Scope, text};
use sluice_proto::Time;
use sluice_proto::scsi::{ScsiStatus, Sense, SenseKey, cdb, sense};
use sluice_sim::block;
use sluice_sim::site::{BLOCKS, Pdu, Session, Site, Size, TARGETS, op};
use sluice_sim::storage::{Fault, LUN, Refusal, Trouble, Troubled};

const GOOD: u8 = 0x00;
const CHECK_CONDITION: u8 = 0x02;

const ORDERED: u8 = 2;

const MEDIUM_ERROR: Sense = Sense::WRITE_ERROR;
const BLOCK: u64 = 7;
const OTHER: u64 = 40;

/// One computer with one volume, whose storage fails writes of `BLOCK`.
struct Failing {
    site: Site,
    session: Session,
}

impl Failing {
    fn new(fault: Fault, times: u32) -> Self {
        Self::with(Refusal {
            lba: BLOCK,
            blocks: 1,
            fault,
            times,
        })
    }

    fn with(refusal: Refusal) -> Self {
        Self::of(Size::SMALL, refusal)
    }

    fn of(size: Size, refusal: Refusal) -> Self {
        let mut site = Site::of(size, |_| ());
        let mut session = site.login(0, 0, 1);
        assert_eq!(site.synchronize(&mut session), Some(GOOD));
        site.storage.refusals.push(refusal);
        Self { site, session }
    }

    fn write(&mut self, lba: u64, number: u32) -> u8 {
        self.site.write(&mut self.session, lba, number).unwrap()
    }

    /// The block's number, or the sense that the read ends with.
    fn read(&mut self, lba: u64) -> Result<Option<u32>, Sense> {
        let pdu = Site::command(&mut self.session, 0x40, 512, &cdb::read(lba, 1));
        self.finish(&pdu).map(|data| block::number(&data, lba))
    }

    /// Sends a command: the data that it brings, or the sense it ends with.
    fn finish(&mut self, command: &Pdu) -> Result<Vec<u8>, Sense> {
        self.site.send(&self.session, &command.bytes());
        self.end_of(command)
    }

    /// How a command that has been sent ends.
    fn end_of(&mut self, command: &Pdu) -> Result<Vec<u8>, Sense> {
        let mut data = Vec::new();
        for _ in 0..60 {
            let Some(answer) = self.site.next_pdu(&self.session) else {
                self.run(1);
                continue;
            };
            if answer.itt() != command.itt() {
                continue;
            }
            if answer.opcode() == op::DATA_IN {
                data.extend_from_slice(&answer.data);
                if answer.header[1] & 1 == 0 {
                    continue;
                }
            }
            return match answer.status() {
                GOOD => Ok(data),
                CHECK_CONDITION => Err(current(&answer.data)),
                status => panic!("status {status:#x}"),
            };
        }
        panic!("no answer within a minute");
    }

    /// SYNCHRONIZE CACHE (10), or a write with FUA.
    fn ordered(&mut self, flags: u8, cdb: &[u8], data: &[u8]) -> Result<(), Sense> {
        let len = u32::try_from(data.len()).unwrap();
        let pdu = Site::command(&mut self.session, flags, len, cdb).data(data);
        self.finish(&pdu).map(|_| ())
    }

    fn sync(&mut self) -> Result<(), Sense> {
        self.ordered(0, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[])
    }

    fn write_fua(&mut self, lba: u64, number: u32) -> Result<(), Sense> {
        let mut data = vec![0; 512];
        block::fill(&mut data, number, lba);
        self.ordered(0x20, &cdb::write_fua(lba, 1), &data)
    }

    fn run(&mut self, seconds: u64) {
        self.site.run(Duration::from_secs(seconds));
    }

    fn drained(&self) -> bool {
        self.site.worker.relay.is_drained()
    }

    fn failed(&self) -> Vec<FailedWrite> {
        self.site.worker.relay.failed_writes().collect()
    }

    fn ask(&mut self, command: &Command) -> (Outcome, u32) {
        let now = self.site.now;
        self.site.worker.relay.command_from_control(now, command)
    }

    fn retry(&mut self) -> (Outcome, u32) {
        self.ask(&Command::RetryFailed { scope: Scope::All })
    }

    fn discard(&mut self, stamp: u64) -> (Outcome, u32) {
        let scope = Scope::Volume {
            target: text(TARGETS[0]),
            lun: LUN,
        };
        self.ask(&Command::DiscardFailed { scope, stamp })
    }

    fn stored(&self, lba: u64) -> u32 {
        self.site.storage.volumes[0].media[usize::try_from(lba).unwrap()]
    }
}

/// The sense of an answer's data segment (RFC 7143 11.4.7); it is a current one.
fn current(data: &[u8]) -> Sense {
    let received = sense::parse(&data[2..]).unwrap();
    assert!(!received.deferred, "a deferred error would be retried away");
    received.sense
}

/// What the storage will not take, whatever is tried.
const FOR_GOOD: [(Fault, Sense); 7] = [
    (Fault::Sense(MEDIUM_ERROR), MEDIUM_ERROR),
    (Fault::Sense(Sense::WRITE_PROTECTED), Sense::WRITE_PROTECTED),
    (
        Fault::Sense(Sense::SPACE_ALLOCATION_FAILED),
        Sense::SPACE_ALLOCATION_FAILED,
    ),
    (
        Fault::Sense(Sense::INTERNAL_TARGET_FAILURE),
        Sense::INTERNAL_TARGET_FAILURE,
    ),
    (
        Fault::Sense(Sense::LBA_OUT_OF_RANGE),
        Sense::LBA_OUT_OF_RANGE,
    ),
    (Fault::Short(512), Sense::INTERNAL_TARGET_FAILURE),
    (Fault::Short(1), Sense::INTERNAL_TARGET_FAILURE),
];

/// Neighbours go as one write; when the storage refuses that, each goes by
/// itself, and only the one to blame fails (C-4).
#[test]
fn a16_of_joined_writes_only_the_one_to_blame_fails() {
    let mut failing = Failing::new(Fault::Sense(MEDIUM_ERROR), u32::MAX);
    failing.site.storage.hangs = true;
    let writes = failing.site.storage.counters.writes;
    assert_eq!(failing.write(OTHER, 9), GOOD);
    for lba in [BLOCK, BLOCK + 2, BLOCK - 1, BLOCK + 1, BLOCK - 2] {
        assert_eq!(failing.write(lba, 2), GOOD);
    }
    failing.site.storage.hangs = false;
    failing.run(3);
    let failed = failing.failed();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((failed[0].lba, failed[0].blocks), (BLOCK, 1));
    assert_eq!(failing.stored(BLOCK), 0);
    assert_eq!(failing.site.counter("write_taken_apart"), 1);
    // The storage takes it: the rest is sent.
    failing.site.storage.refusals.clear();
    failing.retry();
    failing.run(3);
    assert!(failing.drained());
    for lba in BLOCK - 2..=BLOCK + 2 {
        assert_eq!(failing.stored(lba), 2, "{lba}");
    }
    assert_eq!(failing.stored(OTHER), 9);
    let sent = failing.site.storage.counters.writes - writes;
    assert!(sent <= 7, "{sent} writes for 6 records, one of them twice");
}

#[test]
fn a16_what_was_written_in_order_goes_as_few_long_writes() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    site.storage.hangs = true;
    for lba in 0..100 {
        assert_eq!(site.write(&mut session, lba, 5), Some(GOOD));
    }
    let writes = site.storage.counters.writes;
    site.storage.hangs = false;
    site.run(Duration::from_secs(3));
    assert!(site.worker.relay.is_drained());
    assert_eq!(site.storage.volumes[0].media[..100], [5; 100]);
    let sent = site.storage.counters.writes - writes;
    // What was sent before it hung, and the rest by 64 KiB, which is 128 blocks.
    assert!(sent <= 3, "{sent} writes of 100 records");
    assert!(site.counter("record_joined") >= 90);
}

/// A doubt whether the storage still takes writes holds them until it is asked; when
/// it goes away first, that is an outage, and does not stop a write.
#[test]
fn a_doubt_does_not_make_an_outage_stop_writes() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    assert_eq!(site.write(&mut session, 1, 1), Some(GOOD));
    site.storage.latency_max = Duration::from_millis(100);
    let kept = site.counter("unit_attention_kept");
    site.storage.announce(Sense::MODE_PARAMETERS_CHANGED);
    while site.counter("unit_attention_kept") == kept {
        site.run(Duration::from_millis(1));
    }
    site.storage.hangs = true;
    let told = Site::command(&mut session, 0, 0, &[0; 6]);
    site.send(&session, &told.bytes());
    let told = site.finish(&session, told.itt()).unwrap().0;
    assert_eq!(told, CHECK_CONDITION, "the unit attention");
    let mut data = [0; block::BLOCK_LEN];
    block::fill(&mut data, 2, 2);
    let held = Site::command(&mut session, 0x20, 512, &cdb::write(2, 1)).data(&data);
    site.send(&session, &held.bytes());
    assert!(site.next_pdu(&session).is_none(), "in doubt");
    site.storage.bars = Some("computer0");
    site.storage.cut_first();
    let lost = site.now;
    let answered = site.finish(&session, held.itt()).unwrap().0;
    assert_eq!(answered, GOOD);
    let waited = site.now.since(lost);
    assert!(
        waited < Duration::from_millis(50),
        "{waited:?}, not until a login has failed"
    );
    assert_eq!(site.write(&mut session, 3, 3), Some(GOOD));
    (site.storage.hangs, site.storage.bars) = (false, None);
    site.run(Duration::from_secs(15));
    assert!(site.worker.relay.is_drained());
    assert_eq!(site.storage.volumes[0].media[1..4], [1, 2, 3]);
    // What the storage has to say of its new session comes first.
    let answers: Vec<_> = (0..3).map(|_| site.write(&mut session, 4, 4)).collect();
    assert_eq!(answers[0], Some(CHECK_CONDITION));
    assert_eq!(answers[2], Some(GOOD));
}

#[test]
fn a_write_refused_for_good_fails_the_volume_until_it_is_taken() {
    for (fault, sense) in FOR_GOOD {
        let mut failing = Failing::new(fault, 2);
        assert_eq!(failing.write(OTHER, 1), GOOD);
        assert_eq!(failing.write(BLOCK, 2), GOOD);
        failing.run(3);
        let failed = failing.failed();
        assert_eq!(failed.len(), 1, "{fault:?}");
        assert_eq!(
            (failed[0].lba, failed[0].blocks, failed[0].bytes),
            (BLOCK, 1, 512)
        );
        assert_eq!(failed[0].sense_key, sense.key.code());
        assert_eq!((failed[0].asc, failed[0].ascq), (sense.asc, sense.ascq));
        // Every command of the block, and every ordering point, hears of it each time.
        for _ in 0..2 {
            assert_eq!(failing.read(BLOCK), Err(sense));
            assert_eq!(failing.write(BLOCK, 3), CHECK_CONDITION);
            assert_eq!(failing.sync(), Err(sense));
            assert_eq!(failing.write_fua(OTHER + 1, 4), Err(sense));
        }
        // Other blocks are served.
        assert_eq!(failing.write(OTHER, 5), GOOD);
        assert_eq!(failing.read(OTHER), Ok(Some(5)));
        failing.run(3);
        assert!(!failing.drained(), "nothing is flushed past it");
        // A retry that is refused again ends as the first try.
        assert_eq!(failing.retry(), (Outcome::Done, 1));
        failing.run(3);
        assert_eq!(failing.failed().len(), 1, "{fault:?}");
        assert_eq!(failing.sync(), Err(sense));
        assert_eq!(failing.retry(), (Outcome::Done, 1));
        failing.run(3);
        assert!(failing.drained(), "{fault:?}");
        assert_eq!((failing.stored(BLOCK), failing.stored(OTHER)), (2, 5));
        assert_eq!(failing.read(BLOCK), Ok(Some(2)));
        assert_eq!(failing.sync(), Ok(()));
        assert_eq!(failing.retry(), (Outcome::Done, 0), "nothing has failed");
    }
}

#[test]
fn what_passes_is_sent_again_and_nobody_hears_of_it() {
    let transient = [
        Fault::Sense(Sense::BECOMING_READY),
        Fault::Sense(Sense::POWER_ON_OR_RESET),
        Fault::Sense(Sense::COMMANDS_CLEARED),
        Fault::Sense(Sense::new(SenseKey::ABORTED_COMMAND, 0x4B, 0x00)),
        Fault::Status(ScsiStatus::BUSY),
        Fault::Status(ScsiStatus::TASK_SET_FULL),
        Fault::Silence,
        Fault::Disconnect,
        Fault::Deferred(MEDIUM_ERROR),
    ];
    for fault in transient {
        for times in [1, 2] {
            let mut failing = Failing::new(fault, times);
            assert_eq!(failing.write(OTHER, 1), GOOD);
            assert_eq!(failing.write(BLOCK, 2), GOOD);
            failing.run(140);
            assert_eq!(failing.failed(), [], "{fault:?}");
            assert!(failing.drained(), "{fault:?} x {times}");
            assert_eq!((failing.stored(BLOCK), failing.stored(OTHER)), (2, 1));
            assert!(failing.site.storage.counters.refused >= 1);
        }
    }
}

/// The first conflict has the relay ask who holds the volume.
#[test]
fn a_conflict_that_is_over_when_it_is_looked_at_is_none() {
    let mut failing = Failing::new(Fault::Status(ScsiStatus::RESERVATION_CONFLICT), 1);
    assert_eq!(failing.write(BLOCK, 1), GOOD);
    failing.run(5);
    assert_eq!(failing.failed(), []);
    assert_eq!(failing.stored(BLOCK), 1);
}

/// The storage said GOOD, and says later that it was not so.
#[test]
fn a_deferred_error_sends_what_was_good_and_not_synced_again() {
    let mut failing = Failing::with(Refusal {
        lba: OTHER,
        blocks: 1,
        fault: Fault::Deferred(MEDIUM_ERROR),
        times: 1,
    });
    // `OTHER` is lost when it is written the second time.
    assert_eq!(failing.write(OTHER, 1), GOOD);
    assert_eq!(failing.write(BLOCK, 2), GOOD);
    failing.run(3);
    assert!(failing.drained());
    assert_eq!((failing.stored(OTHER), failing.stored(BLOCK)), (1, 2));
}

/// The same, told to a read: whatever command of the nexus comes next carries it.
#[test]
fn a_deferred_error_that_a_read_meets_is_heeded() {
    let mut failing = Failing::with(Refusal {
        lba: 0,
        blocks: 0,
        fault: Fault::Status(ScsiStatus::BUSY),
        times: 6,
    });
    let other = usize::try_from(OTHER).unwrap();
    assert_eq!(failing.write(OTHER, 1), GOOD);
    while failing.site.storage.volumes[0].visible[other] == 0 {
        failing.site.run(Duration::from_millis(10));
    }
    assert_eq!(failing.stored(OTHER), 0, "not synchronized");
    failing.site.storage.troubles.push(Trouble {
        volume: 0,
        of: Troubled::Reads,
        fault: Fault::Deferred(MEDIUM_ERROR),
        until: Time::FAR,
        times: 1,
    });
    let read = Site::command(&mut failing.session, 0x40, 512, &cdb::read(BLOCK, 1));
    failing.site.send(&failing.session, &read.bytes());
    let (status, _) = failing.site.finish(&failing.session, read.itt()).unwrap();
    assert_eq!(status, CHECK_CONDITION);
    failing.run(10);
    assert!(failing.drained());
    assert_eq!(failing.stored(OTHER), 1);
}

#[test]
fn deferred_errors_without_end_fail_the_volume() {
    let mut failing = Failing::new(Fault::Deferred(MEDIUM_ERROR), u32::MAX);
    assert_eq!(failing.write(OTHER, 1), GOOD);
    assert_eq!(failing.write(BLOCK, 2), GOOD);
    failing.run(20);
    assert_eq!(failing.sync(), Err(MEDIUM_ERROR));
    failing.site.storage.refusals.clear();
    assert_eq!(failing.retry(), (Outcome::Done, 1));
    failing.run(3);
    assert_eq!((failing.stored(OTHER), failing.stored(BLOCK)), (1, 2));
    assert_eq!(failing.sync(), Ok(()));
}

#[test]
fn a_sync_refused_for_good_fails_what_it_should_have_covered() {
    let mut failing = Failing::with(Refusal {
        lba: 0,
        blocks: 0,
        fault: Fault::Sense(MEDIUM_ERROR),
        times: 1,
    });
    assert_eq!(failing.write(OTHER, 1), GOOD);
    assert_eq!(failing.write(BLOCK, 2), GOOD);
    // It was waiting, and is told.
    assert_eq!(failing.sync(), Err(MEDIUM_ERROR));
    let mut failed: Vec<u64> = failing.failed().iter().map(|failed| failed.lba).collect();
    failed.sort_unstable();
    assert_eq!(failed, [BLOCK, OTHER]);
    assert_eq!(failing.read(OTHER), Err(MEDIUM_ERROR));
    failing.run(5);
    assert!(!failing.drained());
    assert_eq!(failing.retry(), (Outcome::Done, 1));
    failing.run(3);
    assert!(failing.drained());
    assert_eq!((failing.stored(OTHER), failing.stored(BLOCK)), (1, 2));
}

#[test]
fn an_ordering_point_that_waits_is_told_at_once() {
    let mut failing = Failing::new(Fault::Sense(MEDIUM_ERROR), u32::MAX);
    assert_eq!(failing.write_fua(BLOCK, 1), Err(MEDIUM_ERROR));
    assert_eq!(failing.sync(), Err(MEDIUM_ERROR));
    // A command that passes would wait for the flush.
    let compare = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0];
    let mut data = vec![0; 512];
    block::fill(&mut data, 9, BLOCK);
    assert_eq!(failing.ordered(0x20, &compare, &data), Err(MEDIUM_ERROR));
}

#[test]
fn later_epochs_wait_and_the_order_holds_after_a_retry() {
    let mut failing = Failing::new(Fault::Sense(MEDIUM_ERROR), 1);
    assert_eq!(failing.write(BLOCK, 1), GOOD);
    failing.run(3);
    assert_eq!(failing.failed().len(), 1);
    // An ordered write closes the epoch behind what was refused.
    assert_eq!(failing.sync(), Err(MEDIUM_ERROR));
    assert_eq!(failing.write(OTHER, 2), GOOD);
    failing.run(5);
    assert_eq!(failing.stored(OTHER), 0);
    failing.retry();
    failing.run(3);
    assert_eq!((failing.stored(BLOCK), failing.stored(OTHER)), (1, 2));
}

#[test]
fn a_discard_throws_away_what_was_named_and_nothing_else() {
    let mut failing = Failing::new(Fault::Sense(MEDIUM_ERROR), 0);
    assert_eq!(failing.write(BLOCK, 1), GOOD);
    failing.run(3);
    assert!(failing.drained());
    failing.site.storage.refusals[0].times = u32::MAX;
    assert_eq!(failing.write(BLOCK, 2), GOOD);
    failing.run(3);
    let seen = failing.failed();
    assert_eq!(seen.len(), 1);
    assert_eq!(failing.write(OTHER, 3), GOOD);
    // Not what the operator has seen.
    assert_eq!(failing.discard(seen[0].stamp + 1), (Outcome::Changed, 0));
    assert_eq!(failing.failed(), seen);
    assert_eq!(failing.discard(seen[0].stamp), (Outcome::Done, 1));
    failing.run(3);
    assert!(failing.drained());
    assert_eq!(failing.failed(), []);
    // The block is as the storage has it; the rest came through.
    assert_eq!(failing.read(BLOCK), Ok(Some(1)));
    assert_eq!((failing.stored(BLOCK), failing.stored(OTHER)), (1, 3));
    assert_eq!(failing.sync(), Ok(()));
    assert_eq!(failing.discard(seen[0].stamp), (Outcome::Changed, 0));
}

#[test]
fn a_start_tries_again_and_says_so_again() {
    let mut failing = Failing::new(Fault::Sense(MEDIUM_ERROR), u32::MAX);
    assert_eq!(failing.write(BLOCK, 1), GOOD);
    failing.run(3);
    assert_eq!(failing.failed().len(), 1);
    failing.site = failing.site.restart();
    failing.run(5);
    assert_eq!(failing.failed().len(), 1);
    failing.session = failing.site.login(0, 0, 1);
    assert_eq!(failing.read(BLOCK), Err(MEDIUM_ERROR));
    failing.site.storage.refusals.clear();
    failing.site = failing.site.restart();
    failing.run(5);
    assert!(failing.drained());
    assert_eq!(failing.stored(BLOCK), 1);
}

/// Changes the first 64-bit word of the log that `is` holds for, at or after a place.
fn damage(region: &mut Region, from: usize, is: impl Fn(u64) -> bool) {
    for at in (from..region.len()).step_by(8) {
        // SAFETY: within the region, which nobody else uses while it has no log; it is
        // mapped at a page's edge, and any bytes are a word.
        let word = unsafe { &mut *region.ptr().add(at).cast::<u64>() };
        if is(*word) {
            *word ^= 1 << 40;
            return;
        }
    }
    panic!("no such word");
}

/// Payload that fails its checksum is found before it is used: it is never sent,
/// and what it was of is known.
#[test]
fn a23_a_torn_record_fails_its_volume_by_its_blocks() {
    let mut failing = Failing::new(Fault::Silence, 0);
    failing.site.storage.hangs = true;
    assert_eq!(failing.write(OTHER, 1), GOOD);
    assert_eq!(failing.write(BLOCK, 2), GOOD);
    let mut data = vec![0; 512];
    block::fill(&mut data, 2, BLOCK);
    let payload = u64::from_le_bytes(*data[64..].first_chunk().unwrap());
    failing.site = failing
        .site
        .restart_over(|region| damage(region, 0, |word| word == payload));
    failing.site.storage.hangs = false;
    failing.run(3);
    failing.session = failing.site.login(0, 0, 1);
    let failed = failing.failed();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].lba, failed[0].bytes), (BLOCK, 512));
    assert_eq!(failing.read(BLOCK), Err(Sense::UNRECOVERED_READ_ERROR));
    assert_eq!(failing.read(OTHER), Ok(Some(1)));
    // Sending it again is no way out; giving it up is.
    failing.retry();
    failing.run(3);
    let seen = failing.failed();
    assert_eq!(seen.len(), 1);
    assert_eq!(failing.stored(BLOCK), 0);
    assert_eq!(failing.discard(seen[0].stamp), (Outcome::Done, 1));
    failing.run(3);
    assert!(failing.drained());
    assert_eq!((failing.stored(OTHER), failing.stored(BLOCK)), (1, 0));
}

/// With its header gone nobody knows which blocks, or in which epoch.
#[test]
fn a23_a_damaged_header_fails_its_whole_volume() {
    const LBA: u64 = 777;
    let mut failing = Failing::new(Fault::Silence, 0);
    failing.site.storage.hangs = true;
    assert_eq!(failing.write(LBA, 1), GOOD);
    assert_eq!(failing.write(OTHER, 2), GOOD);
    failing.site = failing
        .site
        .restart_over(|region| damage(region, 0, |word| word == LBA));
    failing.site.storage.hangs = false;
    failing.run(4);
    failing.session = failing.site.login(0, 0, 1);
    let failed = failing.failed();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].lba, failed[0].blocks), (0, BLOCKS as u64));
    assert_eq!(failing.read(OTHER), Err(Sense::UNRECOVERED_READ_ERROR));
    assert_eq!(failing.write(OTHER, 3), CHECK_CONDITION);
    assert_eq!(failing.sync(), Err(Sense::UNRECOVERED_READ_ERROR));
    failing.retry();
    failing.run(3);
    assert_eq!(failing.stored(OTHER), 0, "nothing is sent past it");
    let seen = failing.failed();
    assert_eq!(failing.discard(seen[0].stamp), (Outcome::Done, 1));
    failing.run(3);
    assert!(failing.drained());
    assert_eq!((failing.stored(LBA), failing.stored(OTHER)), (0, 2));
    failing.site = failing.site.restart();
    assert_eq!(
        failing.failed(),
        [],
        "the next start does not find it again"
    );
}

/// RESERVATION CONFLICT to the end: nobody of ours may write any more.
#[test]
fn a_conflict_that_no_nexus_gets_past_fails_the_volume() {
    let mut failing = Failing::new(Fault::Status(ScsiStatus::RESERVATION_CONFLICT), u32::MAX);
    assert_eq!(failing.write(BLOCK, 1), GOOD);
    failing.run(20);
    assert_eq!(failing.failed().len(), 1);
    assert_eq!(failing.read(BLOCK), Err(Sense::WRITE_PROTECTED));
    failing.site.storage.refusals.clear();
    failing.retry();
    failing.run(5);
    assert!(failing.drained());
    assert_eq!(failing.stored(BLOCK), 1);
}

/// Space runs out: nothing more is acknowledged that might find no room.
#[test]
fn a_thin_volume_turns_to_write_through_before_it_is_full() {
    let mut failing = Failing::new(Fault::Sense(Sense::SPACE_ALLOCATION_FAILED), 0);
    failing.site.storage.announce(Sense::THIN_THRESHOLD_REACHED);
    // Met by the relay's own poll, and told to the computer.
    assert_eq!(failing.write(OTHER, 1), GOOD);
    failing.run(3);
    assert_eq!(failing.read(OTHER), Err(Sense::THIN_THRESHOLD_REACHED));
    assert_eq!(failing.site.counter("volume_turned_write_through"), 1);
    let passed = failing.site.counter("command_passed");
    assert_eq!(failing.write(OTHER, 2), GOOD);
    assert_eq!(failing.site.counter("command_passed"), passed + 1);
    // The computer hears what the storage says, and nothing is kept.
    failing.site.storage.refusals[0].times = 1;
    assert_eq!(failing.write(BLOCK, 3), CHECK_CONDITION);
    assert_eq!(
        (failing.failed(), failing.site.worker.relay.dirty_bytes()),
        (vec![], 0)
    );
    // It outlives a start, and ends with the operator's word.
    failing.site = failing.site.restart();
    failing.run(3);
    failing.session = failing.site.login(0, 0, 1);
    // Its new session hears the warning too, and nothing is turned by it.
    assert_eq!(failing.read(OTHER), Err(Sense::THIN_THRESHOLD_REACHED));
    assert_eq!(failing.site.counter("volume_turned_write_through"), 0);
    let passed = failing.site.counter("command_passed");
    assert_eq!(failing.write(OTHER, 4), GOOD);
    assert_eq!(failing.site.counter("command_passed"), passed + 1);
    assert_eq!(failing.retry(), (Outcome::Done, 1));
    assert_eq!(failing.write(OTHER, 5), GOOD);
    assert_eq!(failing.site.counter("command_passed"), passed + 1);
}

/// Where the storage acknowledges, a write of a failed volume would wait for what
/// never comes: it is told why, and takes no room.
#[test]
fn a_write_that_the_storage_is_to_acknowledge_hears_of_the_fault() {
    let size = Size {
        durability: Durability::Storage,
        ..Size::SMALL
    };
    let refusal = Refusal {
        lba: BLOCK,
        blocks: 1,
        fault: Fault::Sense(MEDIUM_ERROR),
        times: u32::MAX,
    };
    let mut failing = Failing::of(size, refusal);
    assert_eq!(failing.write(OTHER, 1), GOOD);
    assert_eq!(failing.write(BLOCK, 2), CHECK_CONDITION);
    let kept = failing.site.worker.relay.dirty_bytes();
    assert_eq!(failing.write(OTHER, 3), CHECK_CONDITION);
    assert_eq!(failing.site.worker.relay.dirty_bytes(), kept);
}

/// What passes keeps the contract, too: GOOD of a volatile cache is not enough (C-2).
#[test]
fn c2_a_write_that_passes_is_answered_when_the_contract_says() {
    for durability in [Durability::Storage, Durability::Journal] {
        let size = Size {
            durability,
            ..Size::SMALL
        };
        let never = Refusal {
            lba: BLOCK,
            blocks: 1,
            fault: Fault::Silence,
            times: 0,
        };
        let mut failing = Failing::of(size, never);
        failing.site.storage.announce(Sense::THIN_THRESHOLD_REACHED);
        assert_eq!(failing.write(OTHER, 1), GOOD);
        failing.run(3);
        assert_eq!(failing.read(OTHER), Err(Sense::THIN_THRESHOLD_REACHED));
        let passed = failing.site.counter("command_passed");
        assert_eq!(failing.write(OTHER, 2), GOOD);
        assert_eq!(failing.site.counter("command_passed"), passed + 1);
        assert_eq!(failing.stored(OTHER), 2, "{durability:?}");
    }
}

/// GOOD comes late, of a write that passed: its storage has been reset since, and has lost
/// what it had done. No sync makes that good, so GOOD is not what the computer hears (C-2).
#[test]
fn c2_a_good_from_before_the_storage_lost_its_cache_is_none() {
    let fua = cdb::write_fua(OTHER, 1);
    for (durability, written) in [
        (Durability::Storage, cdb::write(OTHER, 1)),
        (Durability::Journal, cdb::write(OTHER, 1)),
        (Durability::Memory, fua),
    ] {
        let size = Size {
            durability,
            ..Size::SMALL
        };
        let never = Refusal {
            lba: BLOCK,
            blocks: 1,
            fault: Fault::Silence,
            times: 0,
        };
        let mut failing = Failing::of(size, never);
        failing.site.storage.announce(Sense::THIN_THRESHOLD_REACHED);
        assert_eq!(failing.write(OTHER, 1), GOOD);
        failing.run(3);
        assert_eq!(failing.read(OTHER), Err(Sense::THIN_THRESHOLD_REACHED));
        let mut data = vec![0; 512];
        block::fill(&mut data, 2, OTHER);
        let pdu = Site::command(&mut failing.session, 0x20, 512, &written).data(&data);
        failing.site.storage.holds_answer_to = Some(written[0]);
        failing.site.send(&failing.session, &pdu.bytes());
        failing.site.run(Duration::from_millis(50));
        assert_eq!(failing.site.storage.holds_answer_to, None, "it was done");
        failing.site.storage.lose_cache();
        // The relay's own question may meet it, beside the first read.
        let heard = [failing.read(BLOCK), failing.read(BLOCK)];
        assert!(heard.contains(&Err(Sense::POWER_ON_OR_RESET)), "{heard:?}");
        failing.site.storage.let_go();
        assert_eq!(
            failing.end_of(&pdu).map(|_| ()),
            Err(Sense::COMMUNICATION_FAILURE),
            "{durability:?}"
        );
        assert_eq!(failing.stored(OTHER), 1, "{durability:?}");
        // Sent again, it is there.
        assert_eq!(failing.ordered(0x20, &written, &data), Ok(()));
        assert_eq!(failing.stored(OTHER), 2, "{durability:?}");
    }
}

/// A failed volume gives nothing back: it may not fill the log for the others.
#[test]
fn a_failed_volume_leaves_room_for_others() {
    let mut failing = Failing::new(Fault::Sense(MEDIUM_ERROR), u32::MAX);
    assert_eq!(failing.write(BLOCK, 1), GOOD);
    failing.run(3);
    // ORDERED, so that none takes the place of the one before.
    let mut data = vec![0; 512];
    let mut written = 0;
    let refused = loop {
        written += 1;
        block::fill(&mut data, written, OTHER);
        let ordered = Site::command(&mut failing.session, 0, 512, &cdb::write(OTHER, 1))
            .at(1, &[0xA0 | ORDERED])
            .data(&data);
        match failing.finish(&ordered).map(|_| ()) {
            Ok(()) => assert!(written < 10_000, "the log never fills"),
            Err(sense) => break sense,
        }
    };
    assert_eq!(refused, MEDIUM_ERROR);
    let usage = failing.site.usage();
    assert!(usage.segments > 0 && usage.held == 0);
}

//! A log that fills, and computers that take more than their share of it or of
//! the pages between: slowed down smoothly, refused in time, and nobody else is
//! disturbed (A-12, A-13, C-16, C-17).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_hugepages::tables::{FlushSetting, Scope};
use sluice_proto::scsi::cdb;
use sluice_sim::block;
use sluice_sim::random::Random;
use sluice_sim::site::{Pdu, Session, Site, Size, op};

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;
const BUSY: u8 = 8;

/// Blocks of a 64 KiB write: what may come without being asked for.
const BLOCKS: u32 = 128;
const LEN: u32 = BLOCKS * 512;

/// A write of 64 KiB that nothing after it hides: each is an epoch of its own.
fn send_write(site: &mut Site, session: &mut Session) -> u32 {
    let lba = u64::from(session.itt % 7) * u64::from(BLOCKS);
    let pdu = Site::command(session, 0x20, LEN, &cdb::write(lba, BLOCKS));
    let mut pdu = pdu.data(&vec![7; LEN as usize]);
    pdu.header[1] = pdu.header[1] & !7 | 2;
    site.send(session, &pdu.bytes());
    pdu.itt()
}

fn word(pdu: &Pdu, at: usize) -> u32 {
    u32::from_be_bytes(pdu.header[at..at + 4].try_into().unwrap())
}

/// The command window that an answer offers.
fn window(pdu: &Pdu) -> u32 {
    word(pdu, 32).wrapping_sub(word(pdu, 28)).wrapping_add(1)
}

/// The next answer, waiting for it as long as it takes.
fn answer(site: &mut Site, session: &Session) -> Pdu {
    for _ in 0..30 {
        if let Some(pdu) = site.next_pdu(session) {
            return pdu;
        }
    }
    panic!("no answer in 30 s");
}

fn ping(site: &mut Site, session: &Session) -> Duration {
    let ping = Pdu::new(op::NOP_OUT | op::IMMEDIATE, 0x80, 0x7000)
        .word(20, u32::MAX)
        .word(24, session.cmd_sn)
        .data(b"ping");
    let begun = site.now;
    site.send(session, &ping.bytes());
    loop {
        let pdu = site.next_pdu(session).expect("within a second");
        if (pdu.opcode(), pdu.itt()) == (0x20, 0x7000) {
            return site.now.since(begun);
        }
    }
}

/// Slower and slower, with a narrower and narrower window, and then BUSY: all of it in time.
#[test]
fn a_log_that_fills_slows_its_writer_down() {
    let size = Size {
        log_len: 16 * 1024 * 1024,
        ..Size::SMALL
    };
    let mut site = Site::of(size, |_| ());
    let mut session = site.login(0, 0, 1);
    site.storage.hangs = true;
    let (mut delays, mut windows) = (Vec::new(), Vec::new());
    let waited = loop {
        let begun = site.now;
        let itt = send_write(&mut site, &mut session);
        let pdu = loop {
            let pdu = answer(&mut site, &session);
            if pdu.itt() == itt && pdu.opcode() == op::RESPONSE {
                break pdu;
            }
        };
        let waited = site.now.since(begun);
        if pdu.status() == BUSY {
            break waited;
        }
        assert_eq!(pdu.status(), GOOD);
        delays.push(waited);
        windows.push(window(&pdu));
    };
    let count = delays.len();
    assert!(count > 120, "{count} writes of 64 KiB in a log of 16 MiB");
    assert!(delays[count / 4] < Duration::from_millis(30));
    assert!(delays[count * 3 / 4] > Duration::from_millis(200));
    assert!(delays.iter().max().unwrap() < &Duration::from_millis(1200));
    assert!(delays[count - 1] > Duration::from_millis(700));
    assert!(windows[0] > 100 && windows[count - 1] < 80, "{windows:?}");
    assert!(windows.is_sorted_by(|a, b| a >= b), "{windows:?}");
    assert!(waited < Duration::from_secs(12), "BUSY after {waited:?}");
    assert_eq!(site.counter("busy_no_room"), 1);
    assert!(site.counter("write_delayed") > 50);
    // And back: what it is slowed down by goes with what was in the log.
    site.storage.hangs = false;
    site.run(Duration::from_secs(4));
    for _ in 0..2 {
        let begun = site.now;
        send_write(&mut site, &mut session);
        let pdu = loop {
            let pdu = answer(&mut site, &session);
            if pdu.opcode() == op::RESPONSE {
                break pdu;
            }
        };
        assert_eq!(pdu.status(), GOOD);
        assert!(site.now.since(begun) < Duration::from_millis(30));
    }
    assert_eq!(site.usage().tasks, 0);
}

/// Pings go beside writes that are held, answers that are held back, and a full window.
#[test]
fn pings_are_answered_while_the_log_is_full() {
    let mut site = Site::small();
    let mut session = site.login(0, 0, 1);
    site.storage.hangs = true;
    for _ in 0..340 {
        send_write(&mut site, &mut session);
        if site.usage().held > 0 {
            break;
        }
        while site.usage().tasks > 60 {
            site.run(Duration::from_millis(100));
        }
    }
    assert!(site.usage().held > 0, "{:?}", site.usage());
    for _ in 0..5 {
        assert!(ping(&mut site, &session) < Duration::from_millis(100));
    }
}

/// Room asked for and never filled: a share of the log at most, and not for long.
#[test]
fn writes_that_never_send_their_data() {
    let mut site = Site::small();
    let mut bystander = site.login(1, 1, 1);
    let mut session = site.login(0, 0, 1);
    let mut sent = 0;
    for _ in 0..120 {
        let write = Site::command(&mut session, 0x20, 1024 * 512, &cdb::write(0, 1024));
        site.send(&session, &write.bytes());
        sent += 1;
    }
    // Twelve segments, and four of them would be more than a share.
    assert!(site.usage().segments < 5, "{:?}", site.usage());
    for lba in 0..20 {
        let begun = site.now;
        assert_eq!(site.write(&mut bystander, lba, 5), Some(GOOD));
        assert!(site.now.since(begun) < Duration::from_millis(30));
    }
    let mut busy = 0;
    while busy < sent {
        let pdu = answer(&mut site, &session);
        if pdu.opcode() == op::RESPONSE {
            assert_eq!(pdu.status(), BUSY);
            busy += 1;
        }
        assert_eq!(site.write(&mut bystander, 3, 6), Some(GOOD));
    }
    assert!(site.counter("busy_no_data") >= 4);
    assert_eq!(site.write(&mut session, 3, 7), Some(GOOD));
    assert_eq!(site.usage().tasks, 0);
}

/// A computer that asks for much and takes nothing: a share of the pages at
/// most. What finds no page ends BUSY, and never GOOD without its data.
#[test]
fn a_computer_that_takes_none_of_its_data() {
    let mut site = Site::small();
    let mut bystander = site.login(1, 1, 1);
    let mut session = site.login(0, 0, 1);
    let mut wanted = Vec::new();
    site.set_reading(&session, false);
    for _ in 0..60 {
        let read = Site::command(&mut session, 0x40, LEN, &cdb::read(0, BLOCKS));
        site.send(&session, &read.bytes());
        wanted.push((read.itt(), LEN));
    }
    for _ in 0..20 {
        let inquiry = Site::command(&mut session, 0x40, 36, &[0x12, 0, 0, 0, 36]);
        site.send(&session, &inquiry.bytes());
        wanted.push((inquiry.itt(), 36));
    }
    site.run(Duration::from_millis(200));
    let usage = site.usage();
    assert!((16..=24).contains(&usage.staging_pages), "{usage:?}");
    for lba in 0..20 {
        let begun = site.now;
        assert_eq!(site.write(&mut bystander, lba, 5), Some(GOOD));
        let read = site.read(&mut bystander, lba);
        assert_eq!(read, Some((GOOD, Some(5))));
        assert_eq!(
            site.read(&mut bystander, 500).map(|(status, _)| status),
            Some(GOOD)
        );
        assert!(site.now.since(begun) < Duration::from_millis(50));
    }
    site.set_reading(&session, true);
    let mut lens = std::collections::BTreeMap::new();
    let (mut good, mut busy) = (0, 0);
    while good + busy < wanted.len() {
        let pdu = answer(&mut site, &session);
        *lens.entry(pdu.itt()).or_insert(0) += u32::try_from(pdu.data.len()).unwrap();
        let ended =
            pdu.opcode() == op::RESPONSE || pdu.opcode() == op::DATA_IN && pdu.header[1] & 1 != 0;
        if !ended {
            continue;
        }
        if pdu.status() == GOOD {
            let (_, len) = wanted.iter().find(|(itt, _)| *itt == pdu.itt()).unwrap();
            assert_eq!(lens[&pdu.itt()], *len, "GOOD with all of its data");
            good += 1;
        } else {
            assert_eq!(pdu.status(), BUSY);
            busy += 1;
        }
    }
    assert!(good >= 60 && busy > 0, "{good} and {busy}");
    site.run(Duration::from_secs(1));
    let usage = site.usage();
    assert_eq!((usage.tasks, usage.staging_pages, usage.held), (0, 0, 0));
}

/// A write that the log could never hold is refused at once, and the computer
/// is told beforehand how long one may be.
#[test]
fn a_write_that_the_log_could_never_hold() {
    let size = Size {
        log_len: 8 * 1024 * 1024,
        ..Size::SMALL
    };
    let mut site = Site::of(size, |storage| storage.resize(64 * 1024));
    let mut session = site.login(0, 0, 1);
    let begun = site.now;
    let blocks = 8 * 1024 * 1024 / 512;
    let write = Site::command(&mut session, 0x20, blocks * 512, &cdb::write(0, blocks));
    site.send(&session, &write.bytes());
    let pdu = site.next_pdu(&session).expect("an answer");
    assert_eq!((pdu.itt(), pdu.status()), (write.itt(), CHECK_CONDITION));
    assert!(site.now.since(begun) < Duration::from_millis(30));
    let blocks = 3 * 1024 * 1024 / 512;
    let write = Site::command(&mut session, 0x20, blocks * 512, &cdb::write(0, blocks));
    site.send(&session, &write.bytes());
    let pdu = site.next_pdu(&session).expect("an R2T");
    assert_eq!((pdu.opcode(), pdu.itt()), (0x31, write.itt()));
}

/// What waits for a flush that goes on is not sent away in the middle of it, and
/// not kept for longer than a computer has patience, either (C-16).
#[test]
fn what_moves_is_waited_for_longer() {
    for (writes, expected) in [(16, GOOD), (90, BUSY)] {
        let mut site = Site::small();
        let mut session = site.login(0, 0, 1);
        site.storage.latency_max = Duration::from_secs(1);
        // Each is an epoch: a write and a SYNCHRONIZE CACHE, one after the other.
        for _ in 0..writes {
            send_write(&mut site, &mut session);
        }
        for _ in 0..writes {
            assert_eq!(answer(&mut site, &session).status(), GOOD);
        }
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x93, 1);
        let begun = site.now;
        let same = Site::command(&mut session, 0x20, 512, &cdb).data(&[0; 512]);
        site.send(&session, &same.bytes());
        let pdu = answer(&mut site, &session);
        let waited = site.now.since(begun);
        let ended = (pdu.itt(), pdu.status());
        assert_eq!(ended, (same.itt(), expected), "{waited:?}");
        assert!(waited > Duration::from_secs(10), "{waited:?}");
        assert!(waited < Duration::from_secs(21), "{waited:?}");
    }
}

/// Overwriting at random while the storage does not answer leaves segments of which most
/// is hidden. What lives in them moves together: the log is full of live bytes when the
/// first write has to wait, and all of them are what the storage gets.
#[test]
fn a12_half_dead_segments_do_not_fill_the_log() {
    const LOG_LEN: usize = 64 << 20;
    const SPAN_BLOCKS: usize = 60 << 11;
    let size = Size {
        log_len: LOG_LEN,
        ..Size::SMALL
    };
    let mut site = Site::of(size, |storage| storage.resize(SPAN_BLOCKS));
    let mut session = site.login(0, 0, 1);
    site.storage.hangs = true;
    let mut random = Random::new(7);
    let mut expected = vec![0; SPAN_BLOCKS];
    let (mut under_way, mut room) = (0, 16);
    for number in 1.. {
        // 4 to 64 KiB, and so that some cover others in part.
        let blocks = 8 * (1 + random.below(16));
        let lba = 8 * random.below((SPAN_BLOCKS - blocks) / 8);
        let mut data = vec![0; blocks * 512];
        for (block, at) in data.chunks_mut(512).zip(lba..) {
            block::fill(block, number, at as u64);
            expected[at] = number;
        }
        let (len, blocks) = (
            u32::try_from(data.len()).unwrap(),
            u32::try_from(blocks).unwrap(),
        );
        let cdb = cdb::write(lba as u64, blocks);
        let pdu = Site::command(&mut session, 0x20, len, &cdb).data(&data);
        site.send(&session, &pdu.bytes());
        under_way += 1;
        while under_way >= room && site.usage().held == 0 {
            let pdu = answer(&mut site, &session);
            room = window(&pdu).min(16);
            under_way -= u32::from(pdu.opcode() == op::RESPONSE);
        }
        if site.usage().held > 0 {
            break;
        }
    }
    let live = site.worker.relay.dirty_bytes();
    assert!(
        live >= LOG_LEN as u64 / 10 * 8,
        "{live} of {LOG_LEN} bytes are live"
    );
    assert!(site.counter("record_moved") > 100);
    site.storage.hangs = false;
    while under_way > 0 {
        let pdu = answer(&mut site, &session);
        if pdu.opcode() == op::RESPONSE {
            assert_eq!(pdu.status(), GOOD);
            under_way -= 1;
        }
    }
    assert_eq!(site.synchronize(&mut session), Some(GOOD));
    assert!(site.storage.volumes[0].media[..SPAN_BLOCKS] == expected);
}

/// Writes that come one by one, so that some are always on their way to the storage: what
/// it has answered is durable, and out of the log, a second later all the same.
#[test]
fn a17_a_trickle_becomes_durable_while_it_goes_on() {
    let mut site = Site::small();
    site.delay_wan(Duration::from_millis(40));
    let mut session = site.login(0, 0, 1);
    let media = |site: &Site, lba: usize| site.storage.volumes[0].media[lba];
    let mut oldest = 0;
    for number in 1..=600 {
        let lba = u64::from(number) % 200;
        assert_eq!(site.write(&mut session, lba, number), Some(GOOD));
        site.run(Duration::from_millis(10));
        // What was written so long ago that the period of the policy is over, too.
        if number > 400 {
            let before = number - 350;
            let held = media(&site, usize::try_from(before % 200).unwrap());
            oldest = oldest.max(u32::from(held < before) * before);
        }
    }
    assert_eq!(oldest, 0, "still not durable after 3.5 s");
    assert!(
        site.worker.relay.dirty_bytes() > 0,
        "the rest is on its way"
    );
}

/// Blocks that are written over and over, with a storage that takes them faster than they
/// are written: a flush by period ends all the same, so each is sent about once a period.
#[test]
fn a15_hot_blocks_are_sent_once_a_period() {
    const BLOCKS: u32 = 16;
    const WRITES: u32 = 1600;
    let mut site = Site::small();
    site.delay_wan(Duration::from_millis(20));
    let setting = FlushSetting {
        period_ms: Some(1000),
        ..FlushSetting::default()
    };
    site.worker.relay.set_flush(&Scope::All, &setting);
    let mut session = site.login(0, 0, 1);
    let mut oldest = 0;
    for number in 1..=WRITES {
        // Not neighbours: each is a write by itself.
        let lba = u64::from(number % BLOCKS) * 2;
        assert_eq!(site.write(&mut session, lba, number), Some(GOOD));
        site.run(Duration::from_millis(5));
        let held = site.storage.volumes[0].media[usize::try_from(lba).unwrap()];
        oldest = oldest.max(number - held);
    }
    // 8 s: not 1600 writes, and not one a block either.
    let sent = site.storage.counters.writes;
    let periods = u64::from(WRITES / 200);
    let blocks = u64::from(BLOCKS);
    assert!(
        (periods / 2 * blocks..=periods * blocks).contains(&sent),
        "{sent} writes in {periods} periods"
    );
    assert!(oldest < 500, "{oldest} writes of 5 ms behind");
}

/// A flush by threshold goes on to the stop mark, and no further. Every write is an epoch,
/// so that not more than one is under way.
#[test]
fn a15_a_flush_by_threshold_ends_at_the_stop_mark() {
    const KIB: u64 = 1024;
    const WRITES: usize = 17;
    for (stop_kib, left_kib) in [
        (Some(0), 0),
        (Some(700), 640),
        (Some(960), 960),
        // Above the threshold it counts as that; not set, it is half of it.
        (Some(4096), 1024),
        (None, 512),
    ] {
        let mut site = Site::small();
        let setting = FlushSetting {
            threshold_bytes: Some(1024 * KIB),
            stop_bytes: stop_kib.map(|kib| kib * KIB),
            period_ms: Some(3_600_000),
            ..FlushSetting::default()
        };
        site.worker.relay.set_flush(&Scope::All, &setting);
        let mut session = site.login(0, 0, 1);
        for number in 0..WRITES {
            let left = site.worker.relay.dirty_bytes();
            assert_eq!(left, number as u64 * u64::from(LEN), "not above it yet");
            send_write(&mut site, &mut session);
            assert_eq!(answer(&mut site, &session).status(), GOOD);
        }
        site.run(Duration::from_secs(3));
        let left = site.worker.relay.dirty_bytes();
        assert_eq!(left, left_kib * KIB, "with a stop mark of {stop_kib:?} KiB");
    }
}

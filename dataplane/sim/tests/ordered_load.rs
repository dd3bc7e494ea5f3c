//! Computers that order every write, by a SYNCHRONIZE CACHE behind it, over a long WAN:
//! what passes beside them waits for what came before it, and not for what comes after.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_hugepages::tables::Durability;
use sluice_proto::Time;
use sluice_proto::scsi::cdb;
use sluice_sim::block::{self, BLOCK_LEN};
use sluice_sim::site::{Session, Site, Size, op};

const GOOD: u8 = 0;
const BUSY: u8 = 8;

/// Writes a block, synchronizes, pauses, over and over.
struct Writer {
    session: Session,
    lba: u64,
    number: u32,
    out: Option<(u32, bool)>,
    next_at: Time,
    pause: Duration,
    rounds: u32,
    refused: u32,
}

impl Writer {
    fn step(&mut self, site: &mut Site) {
        while let Some(pdu) = site.take_pdu(&self.session) {
            let Some((itt, is_sync)) = self.out else {
                continue;
            };
            if pdu.opcode() != op::RESPONSE || pdu.itt() != itt {
                continue;
            }
            self.out = None;
            if is_sync {
                self.refused += u32::from(pdu.status() != GOOD);
                self.rounds += 1;
                self.next_at = site.now + self.pause;
            } else if pdu.status() == GOOD {
                let sync = cdb::synchronize_cache();
                let pdu = Site::command(&mut self.session, 0, 0, &sync);
                site.send(&self.session, &pdu.bytes());
                self.out = Some((pdu.itt(), true));
            } else {
                self.refused += 1;
                self.next_at = site.now + self.pause;
            }
        }
        if self.out.is_none() && site.now >= self.next_at {
            self.number += 1;
            let lba = self.lba + u64::from(self.number % 16);
            let mut data = [0; BLOCK_LEN];
            block::fill(&mut data, self.number, lba);
            let pdu = Site::command(&mut self.session, 0x20, 512, &cdb::write(lba, 1)).data(&data);
            site.send(&self.session, &pdu.bytes());
            self.out = Some((pdu.itt(), false));
        }
    }
}

/// How long COMPARE AND WRITEs of an untouched block took, one after the other for so
/// long, and how many ended BUSY, beside so many writers.
fn beats(
    durability: Durability,
    delay: u64,
    writers: u16,
    pause: u64,
    lasts: u64,
) -> (Vec<(u8, Duration)>, u32, u32) {
    let size = Size {
        durability,
        shared: true,
        ..Size::SMALL
    };
    let mut site = Site::of(size, |_| ());
    let mut session = site.login(1, 0, 1);
    let mut load: Vec<Writer> = (0..writers)
        .map(|at| Writer {
            session: site.login(0, 0, 1 + at),
            lba: u64::from(at) * 100,
            number: 0,
            out: None,
            next_at: site.now + Duration::from_millis(u64::from(at) * delay),
            pause: Duration::from_millis(pause),
            rounds: 0,
            refused: 0,
        })
        .collect();
    assert_eq!(site.synchronize(&mut session), Some(GOOD));
    site.delay_wan(Duration::from_millis(delay));
    let end = site.now + Duration::from_secs(lasts);
    let warm = site.now + Duration::from_secs(2);
    let (mut number, mut took) = (0, Vec::new());
    while site.now < warm {
        load.iter_mut().for_each(|writer| writer.step(&mut site));
        site.run(Duration::from_millis(1));
    }
    while site.now < end {
        let begun = site.now;
        let mut compare = [0; 16];
        (compare[0], compare[8], compare[9], compare[13]) = (0x89, 3, 0x84, 1);
        let mut both = [0; 2 * BLOCK_LEN];
        block::fill(&mut both[..BLOCK_LEN], number, 0x384);
        block::fill(&mut both[BLOCK_LEN..], number + 1, 0x384);
        let pdu = Site::command(&mut session, 0x20, 1024, &compare).data(&both);
        site.send(&session, &pdu.bytes());
        let status = 'answered: loop {
            while let Some(answer) = site.take_pdu(&session) {
                if answer.opcode() == op::RESPONSE && answer.itt() == pdu.itt() {
                    break 'answered answer.status();
                }
            }
            load.iter_mut().for_each(|writer| writer.step(&mut site));
            site.run(Duration::from_millis(1));
        };
        number += u32::from(status == GOOD);
        took.push((status, site.now.since(begun)));
        assert!(status == GOOD || status == BUSY, "status {status:#x}");
        // A beat every 300 ms.
        let pause = site.now + Duration::from_millis(300);
        while site.now < pause {
            load.iter_mut().for_each(|writer| writer.step(&mut site));
            site.run(Duration::from_millis(1));
        }
    }
    (
        took,
        load.iter().map(|writer| writer.rounds).sum(),
        load.iter().map(|writer| writer.refused).sum(),
    )
}

/// Two writers whose epochs follow each other without a gap: there is always a closed one
/// that is not durable, and it is not always one that the command has to wait for.
#[test]
fn a19_what_passes_does_not_wait_for_ordering_points_after_it() {
    let (took, rounds, refused) = beats(Durability::Memory, 50, 2, 0, 20);
    assert!(rounds > 60 && refused == 0, "{rounds} rounds");
    let longest = took.iter().map(|(_, time)| *time).max().unwrap();
    assert!(took.iter().all(|(status, _)| *status == GOOD), "{took:?}");
    assert!(longest < Duration::from_millis(600), "{longest:?}");
}

/// With a journal writers are ahead of the WAN; it waits for what was ahead when it came.
#[test]
fn a19_what_passes_waits_for_the_epochs_before_it_alone() {
    let (took, rounds, refused) = beats(Durability::Journal, 20, 2, 150, 20);
    assert!(rounds > 150 && refused == 0, "{rounds} rounds");
    let longest = took.iter().map(|(_, time)| *time).max().unwrap();
    assert!(took.iter().all(|(status, _)| *status == GOOD), "{took:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

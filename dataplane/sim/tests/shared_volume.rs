//! Two computers write and read one volume through the relay, in any order and
//! at once: after an acknowledged write of the one, a read of the other sees it,
//! whatever is being flushed, reserved or begun anew (C-7, C-9).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_proto::scsi::{cdb, opcode};
use sluice_sim::block::{self, BLOCK_LEN};
use sluice_sim::random::Random;
use sluice_sim::site::{Session, Site, Size, op};

const GOOD: u8 = 0x00;
const BLOCKS: u64 = 48;
const ROUNDS: u32 = 400;

/// What a read of each block may give: the last that was acknowledged, and
/// those whose end nobody knows.
type Allowed = Vec<Vec<u32>>;

fn write(session: &mut Session, lba: u64, number: u32) -> (u32, Vec<u8>) {
    let mut data = [0; BLOCK_LEN];
    block::fill(&mut data, number, lba);
    let len = u32::try_from(BLOCK_LEN).unwrap();
    let pdu = Site::command(session, 0x20, len, &cdb::write(lba, 1)).data(&data);
    (pdu.itt(), pdu.bytes())
}

fn read(session: &mut Session, lba: u64) -> (u32, Vec<u8>) {
    let len = u32::try_from(BLOCK_LEN).unwrap();
    let pdu = Site::command(session, 0x40, len, &cdb::read(lba, 1));
    (pdu.itt(), pdu.bytes())
}

/// How many commands of one session ended, in whatever order they do.
fn collect(site: &mut Site, session: &Session, count: usize) -> BTreeMap<u32, (u8, Vec<u8>)> {
    let mut ends = BTreeMap::new();
    let mut data = BTreeMap::<u32, Vec<u8>>::new();
    while ends.len() < count {
        let pdu = (0..30)
            .find_map(|_| site.next_pdu(session))
            .expect("an answer, though the storage be away");
        let (itt, is_data) = (pdu.itt(), pdu.opcode() == op::DATA_IN);
        let status = pdu.status();
        if is_data {
            data.entry(itt).or_default().extend(&pdu.data);
        }
        if pdu.opcode() == op::RESPONSE || is_data && pdu.header[1] & 1 != 0 {
            ends.insert(itt, (status, data.remove(&itt).unwrap_or_default()));
        }
    }
    ends
}

/// A round: one writes several blocks at once while the other reads them; then
/// the other reads them all again.
/// Adds up what was GOOD.
fn round(
    site: &mut Site,
    random: &mut Random,
    pair: &mut [Session; 2],
    allowed: &mut Allowed,
    number: u32,
    good: &mut u32,
) {
    let writer = usize::from(random.chance(50));
    let first = random.of(BLOCKS - 8);
    let count = 1 + random.of(8);
    let mut writes = Vec::new();
    let mut reads = Vec::new();
    for lba in first..first + count {
        let at = usize::try_from(lba).unwrap();
        allowed[at].push(number);
        let (itt, bytes) = write(&mut pair[writer], lba, number);
        site.send(&pair[writer], &bytes);
        writes.push((lba, itt));
        let (itt, bytes) = read(&mut pair[1 - writer], lba);
        site.send(&pair[1 - writer], &bytes);
        reads.push((lba, itt));
    }
    let ends = collect(site, &pair[1 - writer], reads.len());
    for (lba, itt) in reads {
        let (status, data) = &ends[&itt];
        // BUSY, a conflict, a unit attention: not done, and no harm.
        let seen = (*status == GOOD).then(|| block::number(data, lba).expect("a whole block"));
        let may = &allowed[usize::try_from(lba).unwrap()];
        assert!(
            seen.is_none_or(|seen| may.contains(&seen)),
            "{seen:?} of {may:?}"
        );
    }
    let written = collect(site, &pair[writer], writes.len());
    for (lba, itt) in writes {
        let (status, _) = written[&itt];
        let may = &mut allowed[usize::try_from(lba).unwrap()];
        if status == GOOD {
            *may = vec![number];
            *good += 1;
        } else {
            // Refused as a whole, before anything was done.
            may.retain(|&known| known != number);
        }
    }
    for lba in first..first + count {
        let may = &allowed[usize::try_from(lba).unwrap()];
        for session in pair.iter_mut() {
            let (itt, bytes) = read(session, lba);
            site.send(session, &bytes);
            let (status, data) = &collect(site, session, 1)[&itt];
            let seen = (*status == GOOD).then(|| block::number(data, lba).unwrap());
            assert!(
                seen.is_none_or(|seen| may.contains(&seen)),
                "{lba}: {seen:?} of {may:?}"
            );
        }
    }
}

/// Two computers on one volume until `ends` says so of the round and the time.
fn live(seed: u64, ends: impl Fn(u32, Duration) -> bool) {
    let mut random = Random::new(seed);
    let size = Size {
        shared: true,
        ..Size::SMALL
    };
    let mut site = Site::of(size, |storage| {
        storage.latency_max = Duration::from_millis(3);
        storage.volumes[0].write_through = seed.is_multiple_of(2);
    });
    let begun = site.now;
    let mut pair = [site.login(0, 0, 1), site.login(1, 0, 1)];
    let mut allowed: Allowed = vec![vec![0]; usize::try_from(BLOCKS).unwrap()];
    let mut reserved = None;
    let (mut good, mut number) = (0, 0);
    while !ends(number, site.now.since(begun)) {
        number += 1;
        round(
            &mut site,
            &mut random,
            &mut pair,
            &mut allowed,
            number,
            &mut good,
        );
        match random.of(60) {
            // Reserved by one for some rounds: the other is refused, never wrong.
            0..=3 => {
                let who = reserved.take();
                let at = who.unwrap_or_else(|| usize::from(random.chance(50)));
                let code = if who.is_some() {
                    opcode::RELEASE_6
                } else {
                    opcode::RESERVE_6
                };
                ask(&mut site, &mut pair[at], code);
                reserved = who.is_none().then_some(at);
            }
            4 if reserved.is_none() => {
                site = site.restart();
                pair = [site.login(0, 0, 1), site.login(1, 0, 1)];
            }
            // What was GOOD and not synced is lost, and every session hears of it.
            5 if reserved.is_none() => site.storage.lose_cache(),
            6 if reserved.is_none() => site.storage.cut_first(),
            7 => site.storage.busy_percent = random.of(2) * 20,
            8..=20 => site.run(Duration::from_millis(random.of(3000))),
            _ => {}
        }
    }
    if let Some(at) = reserved {
        ask(&mut site, &mut pair[at], opcode::RELEASE_6);
    }
    assert!(good > number, "most are not refused: {good} in {number}");
    site.storage.busy_percent = 0;
    site.run(Duration::from_secs(20));
    for (may, stable) in allowed.iter().zip(&site.storage.volumes[0].media) {
        assert_eq!(may, &[*stable], "drained, the storage has it");
    }
}

/// RESERVE or RELEASE, until the storage takes it.
fn ask(site: &mut Site, session: &mut Session, code: u8) {
    for _ in 0..100 {
        let pdu = Site::command(session, 0, 0, &[code, 0, 0, 0, 0, 0]);
        site.send(session, &pdu.bytes());
        if collect(site, session, 1)[&pdu.itt()].0 == GOOD {
            return;
        }
        site.run(Duration::from_millis(20));
    }
    panic!("never taken");
}

#[test]
fn c7_what_one_computer_wrote_the_other_reads() {
    for seed in 0..4 {
        live(seed, |round, _| round == ROUNDS);
    }
}

#[test]
#[ignore = "an hour of simulated time: minutes"]
fn c7_the_same_for_an_hour() {
    live(5, |_, time| time >= Duration::from_secs(3600));
}

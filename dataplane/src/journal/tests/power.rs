//! Power loss at any moment, many times over one journal.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::*;
use crate::journal::replay::Payloads;
use crate::journal::restore::complete;

/// What a journal must hold: records by name with their bytes' checksum, rows.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    records: BTreeMap<Identity, u32>,
    /// Writes all of whose parts have been asked for.
    whole: BTreeSet<(u16, u64)>,
    by_record: BTreeMap<u32, Identity>,
    rows: BTreeMap<(RowTable, u16), u8>,
}

impl State {
    fn apply(&mut self, request: &Request) {
        match request {
            Request::Write { record, entry, .. } => {
                let name = entry.identity;
                self.records.insert(name, entry.payload_crc);
                self.by_record.insert(*record, name);
                if entry.completes || name.part + 1 == entry.parts {
                    self.whole.insert((name.volume, name.sequence));
                }
            }
            Request::Free { record } => {
                if let Some(name) = self.by_record.remove(record) {
                    self.records.remove(&name);
                }
            }
            Request::Forget(name) => {
                self.records.remove(name);
            }
            Request::Row(table, row, Some(body)) => {
                self.rows.insert((*table, *row), body[0]);
            }
            Request::Row(table, row, None) => {
                self.rows.remove(&(*table, *row));
            }
            Request::Void => *self = State::default(),
        }
    }

    fn is(&self, replay: &Replay) -> bool {
        let records = self.records.iter();
        let records =
            records.filter(|(name, _)| self.whole.contains(&(name.volume, name.sequence)));
        let rows = self.rows.iter().map(|(&name, &fill)| (name, fill));
        records.map(|(&name, &crc)| (name, crc)).eq(replay
            .records
            .iter()
            .map(|(&name, kept)| (name, kept.entry.payload_crc)))
            && rows.eq(replay.rows.iter().map(|(&name, kept)| (name, kept.body[0])))
    }
}

/// The log's side: what was asked, in order, and which record has which name.
struct World {
    random: Random,
    log: Vec<u8>,
    disk: ModelDisk,
    core: Core,
    /// What is true at the beginning of `asked`.
    base: State,
    asked: Vec<Request>,
    durable: usize,
    /// By record: its entry and where its bytes are.
    live: BTreeMap<u32, (WriteEntry, u64)>,
    /// A record's bytes may not change while a request for it is not durable.
    pins: BTreeMap<u32, usize>,
    sequence: u64,
}

const RECORDS: usize = 400;
/// Log bytes of each record: 40 KiB, or for one in forty 1 MiB.
const SMALL_LEN: usize = 40 * 1024;
const LARGE_LEN: usize = 1 << 20;
const LARGE: usize = 8;

/// Blocks that may count at a time: a log is smaller than its journal.
const LIVE_BLOCKS_MAX: u64 = 1200;

fn place(record: u32) -> (usize, usize) {
    let record = record as usize;
    if record < LARGE {
        return (record * LARGE_LEN, LARGE_LEN);
    }
    (LARGE * LARGE_LEN + (record - LARGE) * SMALL_LEN, SMALL_LEN)
}

impl World {
    fn new(seed: u64) -> World {
        let mut disk = ModelDisk::new(blocks());
        let log = vec![0; LARGE * LARGE_LEN + RECORDS * SMALL_LEN];
        let mut core = Core::format(7, blocks(), RECORDS);
        settle(&mut core, &mut disk, &log);
        World {
            random: Random(seed),
            log,
            disk,
            core,
            base: State::default(),
            asked: Vec::new(),
            durable: 0,
            live: BTreeMap::new(),
            pins: BTreeMap::new(),
            sequence: 1,
        }
    }

    fn ask(&mut self, request: Request) {
        self.asked.push(request.clone());
        self.core.request(request);
    }

    fn write(&mut self) {
        let blocks: u64 = self
            .live
            .values()
            .map(|(entry, _)| entry.blocks() + 1)
            .sum();
        if blocks > LIVE_BLOCKS_MAX {
            return;
        }
        let parts = 1 + u8::try_from(self.random.below(3)).expect("small");
        let sequence = self.sequence;
        let free: Vec<u32> = (0..u32::try_from(RECORDS).expect("small"))
            .filter(|record| !self.live.contains_key(record) && !self.pins.contains_key(record))
            .collect();
        if free.len() < usize::from(parts) {
            return;
        }
        self.sequence += 1;
        let volume = u16::try_from(self.random.below(3)).expect("small");
        let mut free = free;
        for part in 0..parts {
            let record = free.swap_remove(self.random.below(free.len()));
            let (offset, max) = place(record);
            let len = (1 + self.random.below(max / 512)) * 512;
            let bytes = &mut self.log[offset..offset + len];
            let fill = self.random.next().to_le_bytes();
            bytes
                .chunks_exact_mut(8)
                .for_each(|word| word.copy_from_slice(&fill));
            let entry = WriteEntry {
                identity: Identity {
                    volume,
                    sequence,
                    part,
                },
                parts,
                flags: part,
                epoch: sequence / 4,
                lba: sequence,
                len: u32::try_from(len).expect("small"),
                payload_crc: crc32c::crc32c(bytes),
                completes: false,
                damaged: false,
            };
            let offset = offset as u64;
            self.live.insert(record, (entry, offset));
            self.pins.insert(record, self.asked.len() + 1);
            self.ask(Request::Write {
                record,
                entry,
                offset,
                again: false,
            });
        }
    }

    fn free(&mut self) {
        let durable: Vec<u32> = self
            .live
            .keys()
            .copied()
            .filter(|record| !self.pins.contains_key(record))
            .collect();
        if !durable.is_empty() {
            let record = durable[self.random.below(durable.len())];
            self.live.remove(&record);
            self.ask(Request::Free { record });
        }
    }

    fn row(&mut self) {
        let table = [RowTable::Volume, RowTable::Nexus][self.random.below(2)];
        let row = u16::try_from(self.random.below(5)).expect("small");
        let body = (!self.random.one_in(4)).then(|| {
            let fill = u8::try_from(self.random.below(256)).expect("a byte");
            Box::new([fill; sluice_hugepages::log::ROW_BODY_LEN])
        });
        self.ask(Request::Row(table, row, body));
    }

    /// What the worker does with what it hears.
    fn hear(&mut self) {
        self.durable = usize::try_from(self.core.progress().durable).expect("small");
        let durable = self.durable;
        self.pins.retain(|_, &mut ticket| ticket > durable);
        while let Some((record, identity)) = self.core.wanted() {
            if let Some(&(entry, offset)) = self.live.get(&record)
                && entry.identity == identity
            {
                let entry = WriteEntry {
                    completes: true,
                    ..entry
                };
                self.core.request(Request::Write {
                    record,
                    entry,
                    offset,
                    again: true,
                });
            }
        }
    }

    /// One write of the core; at `crash` it is torn, and power is gone.
    fn step(&mut self, crash: bool) -> bool {
        let (mut head, mut spans) = (Block::ZERO, Vec::new());
        if self.core.can_be_sealed() && self.random.one_in(2) {
            self.core.seal();
        }
        let Some(op) = self.core.next(&mut head, &mut spans) else {
            return false;
        };
        if crash {
            // Often nearly all of it is there, which is the harder case.
            let one_lost_in = [2, 3, 50, 10_000][self.random.below(4)];
            let pieces = of_log(op, &head, &spans, &self.log);
            self.disk.tear(&pieces, || self.random.one_in(one_lost_in));
        } else {
            let pieces = of_log(op, &head, &spans, &self.log);
            assert!(self.disk.write_pieces(pieces));
            self.core.done(true);
            self.hear();
        }
        true
    }

    /// Power is gone: what the journal holds is all that was durable, and some
    /// of what was asked behind it, in order. The log is made from it again, or
    /// has outlived it (`log_lost`).
    fn restart(&mut self, log_lost: bool) {
        let replay = found(&mut self.disk);
        let mut state = self.base.clone();
        for request in &self.asked[..self.durable] {
            state.apply(request);
        }
        let mut is_one = state.is(&replay);
        for request in &self.asked[self.durable..] {
            if is_one {
                break;
            }
            state.apply(request);
            is_one = state.is(&replay);
        }
        assert!(
            is_one,
            "after {} durable of {} the journal holds {} records and {} rows",
            self.durable,
            self.asked.len(),
            replay.records.len(),
            replay.rows.len()
        );
        let mut bytes = Vec::new();
        for kept in replay.records.values() {
            let mut payloads = Payloads::new(&mut self.disk, replay.header.area);
            let agrees = payloads.read(kept, &mut bytes);
            assert!(agrees.expect("a model reads"), "torn: {kept:?}");
        }
        if log_lost {
            self.refill(&replay);
        }
        let held: Vec<(u32, Identity)> = self
            .live
            .iter()
            .filter(|(_, (entry, _))| {
                let kept = replay.records.get(&entry.identity);
                kept.is_some_and(|kept| kept.entry.payload_crc == entry.payload_crc)
            })
            .map(|(&record, (entry, _))| (record, entry.identity))
            .collect();
        self.core = Core::resume(&replay, RECORDS, held.iter().copied());
        let names: BTreeSet<Identity> = held.iter().map(|&(_, name)| name).collect();
        self.base = State::default();
        for kept in replay.records.values() {
            let name = kept.entry.identity;
            self.base.records.insert(name, kept.entry.payload_crc);
            self.base.whole.insert((name.volume, name.sequence));
        }
        self.base.by_record.extend(held);
        let rows = replay.rows.iter();
        self.base.rows = rows.map(|(&name, kept)| (name, kept.body[0])).collect();
        (self.asked, self.durable) = (Vec::new(), 0);
        self.pins.clear();
        for &name in replay.records.keys().filter(|name| !names.contains(name)) {
            self.ask(Request::Forget(name));
        }
        for &name in &replay.incomplete {
            self.ask(Request::Forget(name));
        }
        let missing: Vec<_> = self
            .live
            .iter()
            .filter(|(_, (entry, _))| !names.contains(&entry.identity))
            .map(|(&record, &(entry, offset))| ((record, offset), entry))
            .collect();
        let mut missing = missing;
        missing.sort_unstable_by_key(|(_, entry)| entry.identity);
        complete(&mut missing);
        for ((record, offset), entry) in missing {
            self.pins.insert(record, self.asked.len() + 1);
            self.ask(Request::Write {
                record,
                entry,
                offset,
                again: false,
            });
        }
    }

    /// The log's region is gone: what the journal holds is put anywhere.
    fn refill(&mut self, replay: &Replay) {
        self.live.clear();
        self.log.fill(0xee);
        let mut free: Vec<u32> = (0..u32::try_from(RECORDS).expect("small")).collect();
        let mut bytes = Vec::new();
        // The largest first: they do not fit everywhere.
        let mut kept: Vec<_> = replay.records.values().collect();
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.entry.len));
        for kept in kept {
            let mut payloads = Payloads::new(&mut self.disk, replay.header.area);
            payloads.read(kept, &mut bytes).expect("a model reads");
            let at = free
                .iter()
                .position(|&record| place(record).1 >= bytes.len())
                .expect("no more than there were");
            let record = free.remove(at);
            let offset = place(record).0;
            self.log[offset..offset + bytes.len()].copy_from_slice(&bytes);
            let entry = WriteEntry {
                completes: false,
                damaged: false,
                ..kept.entry
            };
            self.live.insert(record, (entry, offset as u64));
        }
    }
}

/// One journal through many lives. What it counted shows that the hard cases
/// were met at all.
fn live_many_lives(seed: u64, lives: usize) -> (u64, u64) {
    let mut world = World::new(seed);
    let (mut again, mut rounds) = (0, 0);
    for _ in 0..lives {
        let steps = 1 + world.random.below(150);
        for _ in 0..steps {
            for _ in 0..1 + world.random.below(6) {
                match world.random.below(10) {
                    0..=4 => world.write(),
                    5..=8 => world.free(),
                    _ => world.row(),
                }
            }
            for _ in 0..world.random.below(3) {
                world.step(false);
            }
        }
        if world.random.one_in(2) {
            // Everything gets through: a journal larger than its log never stands still.
            while world.step(false) {}
            assert!(
                world.core.is_idle(),
                "seed {seed}: {:?}",
                world.core.progress()
            );
            assert_eq!(world.durable, world.asked.len());
            // All of the log is there, whatever of its writes is gone.
            let live: BTreeSet<_> = { world.live.values() }
                .map(|(entry, _)| entry.identity)
                .collect();
            assert!(
                found(&mut world.disk).records.keys().eq(&live),
                "seed {seed}"
            );
        }
        again += world.core.progress().again;
        world.step(true);
        rounds = world.core.next_address() / AREA_BLOCKS_MIN;
        let log_lost = world.random.one_in(2);
        world.restart(log_lost);
    }
    (again, rounds)
}

#[test]
fn a22_what_was_durable_is_found_after_any_power_loss() {
    many_journals(0..4, 12);
}

#[test]
#[ignore = "half a minute: the same, at length"]
fn a22_what_was_durable_is_found_after_very_many_power_losses() {
    many_journals(100..124, 25);
}

fn many_journals(seeds: Range<u64>, lives: usize) {
    let count = seeds.end - seeds.start;
    let (mut again, mut rounds) = (0, 0);
    for seed in seeds {
        let met = live_many_lives(seed, lives);
        (again, rounds) = (again + met.0, rounds + met.1);
    }
    assert!(again > count, "records were written again {again} times");
    assert!(rounds > count, "the area was gone round {rounds} times");
}

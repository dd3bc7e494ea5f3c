//! The queue and the index against a storage that keeps the worst promises it
//! may: writes land at any moment between sending and GOOD, its cache loses any
//! blocks it likes, a sync covers what had landed when it was sent, and nothing
//! else.
//!
//! After every step: the storage, and whatever a power loss could make of it,
//! is a state that the computer could have left behind; no two writes in
//! flight overlap (C-6); what was freed is on the medium; and a read
//! finds the newest copy of every block (C-7).

use super::*;
use crate::cache::index::{Index, IndexCapacity};
use crate::scsi::Access;
use proptest::prelude::*;

const BLOCKS: usize = 24;
/// The token of the one change that passes at a time.
const TOKEN: u32 = 1;
const RECORDS: u32 = 48;

/// Which write a block was last written by; 0: none.
type Version = usize;

/// A write as the computer sent it.
#[derive(Clone, Copy)]
struct Write {
    /// [`NONE`]: a change that passes through.
    record: u32,
    /// Its blocks, a bit each.
    blocks: u32,
    /// What is of a later one is ordered behind it.
    epoch: u64,
    /// What is of an earlier one it is ordered behind. A change that passes has begun in
    /// this, and is of the epoch that is open when it ends.
    since: u64,
}

impl Write {
    fn blocks(&self) -> impl Iterator<Item = usize> + use<> {
        let blocks = self.blocks;
        (0..BLOCKS).filter(move |at| blocks >> at & 1 == 1)
    }
}

fn bits(lba: usize, blocks: usize) -> u32 {
    (u32::MAX >> (32 - blocks)) << lba
}

/// One block of the storage: what is on the medium, then what its cache got since.
#[derive(Clone, Default)]
struct Block {
    medium: Version,
    cached: Vec<Version>,
}

impl Block {
    fn visible(&self) -> Version {
        self.cached.last().copied().unwrap_or(self.medium)
    }
}

struct Model {
    queue: FlushQueue,
    index: Index,
    /// By version; 0 is the volume as it was before.
    writes: Vec<Write>,
    epoch: u64,
    /// Live records and their versions.
    live: Vec<(u32, Version)>,
    storage: Vec<Block>,
    /// Sent, not answered: the records of each write, and whether each has landed.
    in_flight: Vec<Vec<(u32, bool)>>,
    /// When the change that waits to pass began to.
    began: Option<u64>,
    /// The change at the storage, and whether it has landed.
    passing: Option<(Version, bool)>,
    /// One that has overwritten what it held back, and the mark that a sync has to pass.
    settling: Option<(Version, u64)>,
    /// Cached versions a block had when the sync in flight was sent.
    syncing: Option<Vec<usize>>,
    wce: bool,
    limits: FlushLimits,
}

#[derive(Clone, Debug)]
enum Op {
    Push {
        lba: usize,
        blocks: usize,
    },
    /// A command that changes blocks and passes through, if it may.
    Change {
        lba: usize,
        blocks: usize,
    },
    /// The same for one that writes every block of its range.
    Overwrite {
        lba: usize,
        blocks: usize,
    },
    /// The next change begins to wait.
    ChangeBegins,
    ChangeLands,
    ChangeDone,
    /// Nobody knows whether it was done: what it held back is sent as ever.
    OverwriteFails,
    Settle,
    OrderingPoint,
    Next,
    Land {
        nth: usize,
    },
    Done {
        nth: usize,
        outcome: Outcome,
    },
    SyncDone {
        good: bool,
    },
    /// Which in-flight writes landed, and which cached versions a power loss kept.
    SessionLost {
        landed: u64,
        power: Option<u64>,
    },
    Free,
    SetWce(bool),
    Await,
    /// What comes later is not sent for now, or is again.
    Until,
}

fn op() -> impl Strategy<Value = Op> {
    let outcome = prop_oneof![
        6 => Just(Outcome::Good),
        1 => Just(Outcome::Retry),
        1 => Just(Outcome::Apart),
    ];
    prop_oneof![
        6 => (0..BLOCKS - 1, 1..6usize).prop_map(|(lba, blocks)| Op::Push { lba, blocks }),
        2 => (0..BLOCKS - 1, 1..6usize).prop_map(|(lba, blocks)| Op::Change { lba, blocks }),
        3 => (0..BLOCKS - 1, 1..9usize).prop_map(|(lba, blocks)| Op::Overwrite { lba, blocks }),
        1 => Just(Op::OverwriteFails),
        2 => Just(Op::Settle),
        2 => Just(Op::ChangeBegins),
        1 => Just(Op::ChangeLands),
        2 => Just(Op::ChangeDone),
        2 => Just(Op::OrderingPoint),
        8 => Just(Op::Next),
        3 => (0..8usize).prop_map(|nth| Op::Land { nth }),
        6 => (0..8usize, outcome).prop_map(|(nth, outcome)| Op::Done { nth, outcome }),
        4 => prop::bool::weighted(0.8).prop_map(|good| Op::SyncDone { good }),
        1 => (any::<u64>(), any::<Option<u64>>())
            .prop_map(|(landed, power)| Op::SessionLost { landed, power }),
        3 => Just(Op::Free),
        2 => prop::bool::weighted(0.6).prop_map(Op::SetWce),
        1 => Just(Op::Await),
        1 => Just(Op::Until),
    ]
}

impl Model {
    fn new(limits: FlushLimits) -> Self {
        let capacity = IndexCapacity {
            volumes_max: 1,
            records_max: RECORDS,
            payload_pages: 4 * RECORDS,
        };
        let mut index = Index::new(capacity, 7);
        index.set_block_len(0, 1024);
        Self {
            queue: FlushQueue::new(RECORDS, 1),
            index,
            writes: vec![Write {
                record: NONE,
                blocks: bits(0, BLOCKS),
                epoch: 0,
                since: 0,
            }],
            epoch: 1,
            live: Vec::new(),
            storage: vec![Block::default(); BLOCKS],
            in_flight: Vec::new(),
            began: None,
            passing: None,
            settling: None,
            syncing: None,
            wce: true,
            limits,
        }
    }

    fn version(&self, record: u32) -> Version {
        self.live.iter().find(|live| live.0 == record).unwrap().1
    }

    fn push(&mut self, lba: usize, blocks: usize) {
        let free = (0..RECORDS).find(|record| self.live.iter().all(|live| live.0 != *record));
        let Some(record) = free else { return };
        let (blocks, version) = (blocks.min(BLOCKS - lba), self.writes.len());
        self.writes.push(Write {
            record,
            blocks: bits(lba, blocks),
            epoch: self.epoch,
            since: self.epoch,
        });
        self.live.push((record, version));
        let blocks = u32::try_from(blocks).unwrap();
        let entry = Entry {
            record,
            lba: lba as u64,
            blocks,
            epoch: self.epoch,
            sequence: version as u64,
            bytes: blocks * 1024,
            arrived: Time::ZERO,
            maybe_sent: false,
        };
        let mut hidden = Vec::new();
        let overlaps = self
            .index
            .insert_with(0, lba as u64, blocks, record, |old| hidden.push(old));
        self.queue.push(0, entry, overlaps);
        for old in hidden {
            if self.queue.supersede(old, record) {
                self.drop_record(old);
            }
        }
    }

    fn drop_record(&mut self, record: u32) {
        self.index.remove(record);
        self.live.retain(|live| live.0 != record);
    }

    fn next(&mut self) -> bool {
        let newest = |lba| self.index.newest(0, lba);
        match self.queue.next(0, &self.limits, self.wce, newest) {
            None => return false,
            Some(FlushAction::Sync) => {
                assert!(self.syncing.is_none(), "one sync at a time");
                self.syncing = Some(
                    self.storage
                        .iter()
                        .map(|block| block.cached.len())
                        .collect(),
                );
            }
            Some(FlushAction::Write { record }) => {
                let records: Vec<u32> = self.queue.joined(record).collect();
                let mut end = None;
                for &record in &records {
                    let version = self.version(record);
                    self.check_guard(version);
                    self.check_joined(version);
                    let blocks = self.writes[version].blocks;
                    let begin = blocks.trailing_zeros();
                    assert!(end.is_none_or(|end| end == begin), "A-16: neighbours");
                    end = Some(32 - blocks.leading_zeros());
                }
                self.in_flight
                    .push(records.into_iter().map(|record| (record, false)).collect());
            }
        }
        true
    }

    /// C-6: what goes before its turn goes before nothing that is under it.
    fn check_joined(&self, new: Version) {
        for &(_, older) in self.live.iter().filter(|live| live.1 < new) {
            let under = self.writes[older].blocks & self.writes[new].blocks != 0;
            assert!(!under || self.was_good(older), "C-6: before its turn");
        }
    }

    /// Whether the storage has a write, as far as can be seen.
    fn was_good(&self, version: Version) -> bool {
        let mut blocks = self.writes[version].blocks();
        blocks.all(|at| self.storage[at].visible() >= version)
    }

    /// C-6: nothing that is on its way touches a block of the new one.
    fn check_guard(&self, new: Version) {
        let sent = self.in_flight.iter().flatten();
        let sent = sent.map(|(record, _)| self.version(*record));
        for other in sent.chain(self.passing.map(|passing| passing.0)) {
            assert!(
                self.writes[new].blocks & self.writes[other].blocks == 0,
                "C-6"
            );
        }
    }

    fn change(&mut self, lba: usize, blocks: usize, overwrites: bool) {
        if self.passing.is_some() || self.settling.is_some() {
            return;
        }
        let blocks = blocks.min(BLOCKS - lba);
        let access = Access::Range {
            lba: lba as u64,
            blocks: blocks as u64,
            changes: true,
        };
        let holds = overwrites && self.queue.hold(0, TOKEN, access, self.epoch);
        let since = match self.began {
            // No write to its blocks is taken while it waits: what it holds was there before.
            Some(began) if !holds => began,
            _ => self.epoch,
        };
        let open = self.epoch;
        let passes = self.queue.pass(0, TOKEN, access, Epochs { since, open });
        if passes.is_err() {
            // It does not wait here: another may.
            self.queue.release_hold(0, TOKEN);
        } else {
            let version = self.writes.len();
            let blocks = bits(lba, blocks);
            self.writes.push(Write {
                record: NONE,
                blocks,
                epoch: u64::MAX,
                since,
            });
            self.began = None;
            self.check_guard(version);
            self.passing = Some((version, false));
        }
    }

    fn change_lands(&mut self) {
        if let Some((version, landed @ false)) = &mut self.passing {
            *landed = true;
            let version = *version;
            self.store(version);
        }
    }

    fn change_done(&mut self) {
        self.change_lands();
        if let Some((version, _)) = self.passing.take() {
            self.queue.passed(0, TOKEN);
            self.writes[version].epoch = self.epoch;
            if self.queue.is_holding(0, TOKEN) {
                self.settling = Some((version, self.queue.sync_mark(0)));
            }
        }
    }

    fn settle(&mut self) {
        let Some((version, mark)) = self.settling else {
            return;
        };
        if !self.queue.is_synced_since(0, mark) {
            return;
        }
        assert!(
            self.on_medium(version),
            "A-17: given up before it is durable"
        );
        while let Some(record) = self.queue.next_overwritten(0, TOKEN) {
            assert!(self.version(record) < version, "nothing younger goes");
            let within = self.writes[self.version(record)].blocks & !self.writes[version].blocks;
            assert_eq!(within, 0, "what it did not write stays");
            self.drop_record(record);
        }
        self.settling = None;
    }

    fn overwrite_fails(&mut self) {
        if !self.queue.is_holding(0, TOKEN) {
            return;
        }
        let (version, landed) = match (self.passing.take(), self.settling.take()) {
            (Some(passing), _) => {
                self.queue.passed(0, TOKEN);
                self.writes[passing.0].epoch = self.epoch;
                passing
            }
            (None, settling) => (settling.expect("what holds is under way").0, true),
        };
        self.queue.release_hold(0, TOKEN);
        if !landed {
            self.writes[version].blocks = 0;
        }
        // What it held back is to be written over it again, as if it had never been.
        for &(_, older) in &self.live {
            if older < version {
                let again = self.writes[older].blocks;
                self.writes[version].blocks &= !again;
            }
        }
    }

    /// A block range is no atom to a storage: the records of a write land one by one.
    fn land(&mut self, nth: usize) -> bool {
        let mut records = self.in_flight.iter_mut().flatten();
        let Some((record, landed @ false)) = records.nth(nth) else {
            return false;
        };
        *landed = true;
        let record = *record;
        self.store(self.version(record));
        true
    }

    fn store(&mut self, version: Version) {
        for at in self.writes[version].blocks() {
            let block = &mut self.storage[at];
            if self.wce {
                block.cached.push(version);
            } else {
                (block.medium, block.cached) = (version, Vec::new());
                if let Some(syncing) = &mut self.syncing {
                    syncing[at] = 0;
                }
            }
        }
    }

    fn done(&mut self, nth: usize, outcome: Outcome) {
        if nth < self.in_flight.len() {
            let before: usize = self.in_flight[..nth].iter().map(Vec::len).sum();
            if outcome == Outcome::Good {
                for at in 0..self.in_flight[nth].len() {
                    self.land(before + at);
                }
            }
            let records = self.in_flight.remove(nth);
            self.queue.write_done(0, records[0].0, outcome);
        }
    }

    fn sync_done(&mut self, good: bool) {
        let Some(covered) = self.syncing.take() else {
            return;
        };
        if good {
            for (block, covered) in self.storage.iter_mut().zip(covered) {
                if let Some(newest) = block.cached.drain(..covered).next_back() {
                    block.medium = newest;
                }
            }
        }
        self.queue.sync_done(0, good);
    }

    /// With `power`, each block keeps any one of the versions it had.
    fn session_lost(&mut self, landed: u64, power: Option<u64>) {
        for nth in 0..self.in_flight.iter().flatten().count() {
            if landed >> (nth % 64) & 1 == 1 {
                self.land(nth);
            }
        }
        self.overwrite_fails();
        if let Some((version, landed)) = self.passing.take() {
            // It is not sent again: either it was done, or it never was.
            if !landed {
                self.writes[version].blocks = 0;
            }
            self.queue.passed(0, TOKEN);
        }
        if let Some(luck) = power {
            self.storage = self.after_power_loss(luck);
            self.forget_lost_changes();
        }
        self.in_flight.clear();
        self.syncing = None;
        self.queue.session_lost(0);
    }

    /// A change that passed and was not synced may go with the power.
    fn forget_lost_changes(&mut self) {
        for (version, write) in self.writes.iter_mut().enumerate() {
            if write.record == NONE {
                let lost = write
                    .blocks()
                    .filter(|at| self.storage[*at].medium < version);
                write.blocks &= !lost.fold(0, |lost, at| lost | 1 << at);
            }
        }
    }

    fn after_power_loss(&self, mut luck: u64) -> Vec<Block> {
        let lose = |block: &Block| {
            luck = luck
                .wrapping_mul(0x5851_F42D_4C95_7F2D)
                .wrapping_add(0x1405_7B7E_F767_814F);
            let choices = block.cached.len() + 1;
            let chosen = usize::try_from(luck >> 33).unwrap() % choices;
            let medium = if chosen == 0 {
                block.medium
            } else {
                block.cached[chosen - 1]
            };
            Block {
                medium,
                cached: Vec::new(),
            }
        };
        self.storage.iter().map(lose).collect()
    }

    fn free(&mut self) {
        while let Some(record) = self.queue.next_durable(0) {
            let version = self.version(record);
            assert!(
                self.on_medium(version),
                "A-17: freed, but not on the medium"
            );
            self.drop_record(record);
        }
    }

    /// The newest write of the block with an epoch below `epoch`.
    fn newest_before(&self, block: usize, epoch: u64) -> Version {
        let wrote = |write: &Write| write.blocks >> block & 1 == 1 && write.epoch < epoch;
        self.writes.iter().rposition(wrote).unwrap_or(0)
    }

    /// What a read of the block has to find: a change on its way may be done or not.
    fn newest(&self, block: usize) -> Version {
        self.newest_without(
            block,
            self.passing
                .filter(|passing| !passing.1)
                .map(|passing| passing.0),
        )
    }

    fn newest_without(&self, block: usize, unlanded: Option<Version>) -> Version {
        let wrote = |(version, write): (Version, &Write)| {
            write.blocks >> block & 1 == 1 && Some(version) != unlanded
        };
        let versions = self.writes.iter().enumerate();
        versions
            .filter(|entry| wrote(*entry))
            .map(|entry| entry.0)
            .max()
            .unwrap_or(0)
    }

    fn on_medium(&self, version: Version) -> bool {
        self.writes[version]
            .blocks()
            .all(|at| self.storage[at].medium >= version)
    }

    /// nothing of an epoch is there before all of the earlier ones is.
    fn check_order(&self, storage: &[Block]) {
        let newest_epoch = storage
            .iter()
            .map(|block| self.writes[block.visible()].since)
            .max()
            .unwrap();
        for (at, block) in storage.iter().enumerate() {
            assert!(
                block.visible() >= self.newest_before(at, newest_epoch),
                "A-19: block {at} is of an epoch before the ordering point of another"
            );
        }
    }

    fn check(&self) {
        self.check_order(&self.storage);
        for luck in 0..3 {
            self.check_order(&self.after_power_loss(luck));
        }
        // C-7, A-20: cache first, then storage, is the newest.
        self.index
            .lookup(0, 0, u32::try_from(BLOCKS).unwrap(), |extent| {
                for block in extent.lba..extent.lba + u64::from(extent.blocks) {
                    let block = usize::try_from(block).unwrap();
                    let found = match extent.source {
                        Some(source) => self.version(source.record),
                        None => self.storage[block].visible(),
                    };
                    // One that is not answered may be seen, or what it is to overwrite.
                    let unanswered = self.settling.map(|settling| settling.0);
                    let unanswered = unanswered.or(self.passing.map(|passing| passing.0));
                    assert!(
                        found == self.newest(block)
                            || found == self.newest_without(block, unanswered)
                                && self.queue.is_holding(0, TOKEN),
                        "C-7: block {block}"
                    );
                }
            });
        let dirty = self.queue.records(0);
        assert!(dirty <= self.live.len());
        assert_eq!(dirty == 0, self.queue.oldest_dirty(0).is_none());
        assert_eq!(dirty == 0, self.queue.dirty_bytes(0) == 0);
        for (record, version) in &self.live {
            // C-2: what a SYNCHRONIZE CACHE may rely on.
            if self.queue.durable_through(0, *version as u64) {
                let stable = self.on_medium(*version);
                assert!(stable, "C-2: record {record} is said to be durable");
            }
        }
        if self.queue.durable_through(0, 0) {
            let passing = self.passing.map(|passing| passing.0);
            for version in 1..self.writes.len() {
                let done = self.writes[version].record == NONE && passing != Some(version);
                assert!(
                    !done || self.on_medium(version),
                    "C-2: a change that passed"
                );
            }
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Push { lba, blocks } => self.push(lba, blocks),
            Op::Change { lba, blocks } => self.change(lba, blocks, false),
            Op::Overwrite { lba, blocks } => self.change(lba, blocks, true),
            Op::OverwriteFails => self.overwrite_fails(),
            Op::Settle => self.settle(),
            Op::ChangeBegins => _ = self.began.get_or_insert(self.epoch),
            Op::ChangeLands => self.change_lands(),
            Op::ChangeDone => self.change_done(),
            Op::OrderingPoint => self.epoch += 1,
            Op::Next => _ = self.next(),
            Op::Land { nth } => _ = self.land(nth),
            Op::Done { nth, outcome } => self.done(nth, outcome),
            Op::SyncDone { good } => self.sync_done(good),
            Op::SessionLost { landed, power } => self.session_lost(landed, power),
            Op::Free => self.free(),
            // Mid-flight a storage may report either, and means it from the next write on.
            Op::SetWce(wce) if self.in_flight.is_empty() => self.wce = wce,
            Op::SetWce(_) => {}
            Op::Until if self.limits.sequence_max == u64::MAX => {
                self.limits.sequence_max = self.writes.len() as u64;
            }
            Op::Until => self.limits.sequence_max = u64::MAX,
            Op::Await => self.limits.awaited = Some(self.writes.len() as u64),
        }
        self.check();
    }

    /// With a storage that answers, everything drains in bounded steps.
    fn drain(&mut self) {
        self.limits.sequence_max = u64::MAX;
        for _ in 0..100_000 {
            let sent = self.next();
            let idle =
                self.in_flight.is_empty() && self.passing.is_none() && self.settling.is_none();
            if !sent && idle && self.syncing.is_none() {
                break;
            }
            if !sent {
                self.change_done();
                self.done(0, Outcome::Good);
                self.sync_done(true);
                self.settle();
                self.free();
            }
            self.check();
        }
        self.free();
        assert!(
            self.queue.is_drained(0) && self.live.is_empty(),
            "everything drains"
        );
        assert_eq!(self.index.usage().0, 0);
        for (at, block) in self.storage.iter().enumerate() {
            assert_eq!(block.medium, self.newest(at), "nothing is lost");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a19_the_storage_is_always_as_the_computer_could_have_left_it(
        writes_in_flight_max in 1..6usize,
        bytes_in_flight_max in 1..16u64,
        joined_bytes_max in prop_oneof![Just(0), 1..16u32],
        unsynced_bytes_max in 0..24u64,
        ops in proptest::collection::vec(op(), 1..160),
    ) {
        let mut model = Model::new(FlushLimits {
            writes_in_flight_max,
            bytes_in_flight_max: bytes_in_flight_max * 1024,
            joined_bytes_max: joined_bytes_max * 1024,
            unsynced_bytes_max: unsynced_bytes_max * 1024,
            awaited: None,
            epoch_max: u64::MAX,
            sequence_max: u64::MAX,
        });
        ops.iter().for_each(|op| model.step(op));
        model.drain();
    }
}

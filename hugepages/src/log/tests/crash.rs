//! A log stopped after any store is, when opened again, as it was before the
//! operation that was going on or as it is after it: nothing between, nothing
//! damaged, nothing leaked.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Reserve {
        volume: usize,
        lba: u64,
        len: u32,
    },
    /// Appends a share of what is missing.
    Append {
        at: usize,
        eighths: u32,
    },
    Commit {
        at: usize,
    },
    Abort {
        at: usize,
    },
    Free {
        at: usize,
    },
    /// Moves records out of the sparsest segment, so many at most.
    Empty {
        records: usize,
    },
    Nexus {
        at: usize,
        isid: u8,
    },
    Refuse {
        volume: usize,
        flags: u32,
    },
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![
        6 => 1..40u32,
        2 => 100..3000u32,
        1 => 5000..11000u32, // Several records, over segments.
    ];
    prop_oneof![
        8 => (0..2usize, 0..1000u64, len)
            .prop_map(|(volume, lba, blocks)| Op::Reserve { volume, lba, len: blocks * BLOCK_LEN }),
        8 => (any::<usize>(), 1..9u32).prop_map(|(at, eighths)| Op::Append { at, eighths }),
        8 => any::<usize>().prop_map(|at| Op::Commit { at }),
        1 => any::<usize>().prop_map(|at| Op::Abort { at }),
        6 => any::<usize>().prop_map(|at| Op::Free { at }),
        3 => (1..20usize).prop_map(|records| Op::Empty { records }),
        1 => (0..3usize, any::<u8>()).prop_map(|(at, isid)| Op::Nexus { at, isid }),
        1 => (0..2usize, 0..4u32).prop_map(|(volume, flags)| Op::Refuse { volume, flags }),
        1 => Just(Op::Reopen),
    ]
}

/// What a reader of the log may see.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    records: Seen,
    volumes: Vec<(VolumeId, VolumeEntry)>,
    nexuses: Vec<(NexusId, NexusEntry)>,
}

fn state_of(log: &mut Log) -> State {
    State {
        records: seen(log),
        volumes: log
            .volumes()
            .map(|(id, entry)| (id, entry.clone()))
            .collect(),
        nexuses: log
            .nexuses()
            .map(|(id, entry)| (id, entry.clone()))
            .collect(),
    }
}

struct Receiving {
    id: WriteId,
    volume: VolumeId,
    lba: u64,
    len: u32,
    stamp: u64,
}

struct Model {
    log: Option<Log>,
    expected: State,
    receiving: Vec<Receiving>,
    live: Vec<(RecordId, (VolumeId, u64, u8))>,
    sequence: u64,
}

impl Model {
    fn new(segments: usize) -> Model {
        let (mut log, _) = open(region(segments));
        for lun in 0..2 {
            log.put_volume(volume_entry(lun)).unwrap();
        }
        let expected = state_of(&mut log);
        Model {
            log: Some(log),
            expected,
            receiving: vec![],
            live: vec![],
            sequence: 0,
        }
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().expect("open")
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Reserve { volume, lba, len } => {
                let volume = VolumeId(u16::try_from(volume).unwrap());
                let fits = self.log().fits(volume, len);
                let write = self.log().reserve(volume, lba, len);
                assert_eq!(write.is_ok(), fits);
                self.sequence += 1;
                let stamp = self.sequence;
                self.receiving.extend(write.ok().map(|id| Receiving {
                    id,
                    volume,
                    lba,
                    len,
                    stamp,
                }));
            }
            Op::Append { at, eighths } if !self.receiving.is_empty() => {
                let at = at % self.receiving.len();
                let Receiving { id, len, stamp, .. } = self.receiving[at];
                let from = self.log().received(id);
                let to = from + (len - from).div_ceil(8) * eighths;
                let bytes = &pattern(stamp, len)[from as usize..to.min(len) as usize];
                self.log().append(id, bytes);
            }
            Op::Commit { at } if !self.receiving.is_empty() => {
                let at = at % self.receiving.len();
                let write = self.receiving.swap_remove(at);
                self.commit(&write);
            }
            Op::Abort { at } if !self.receiving.is_empty() => {
                let at = at % self.receiving.len();
                let id = self.receiving.swap_remove(at).id;
                self.log().abort(id);
            }
            Op::Free { at } if !self.live.is_empty() => {
                let at = at % self.live.len();
                let (id, key) = self.live.swap_remove(at);
                self.expected.records.remove(&key);
                self.log().free(id);
            }
            Op::Empty { records } => {
                let Some(mut emptying) = self.log().sparsest_segment() else {
                    return;
                };
                for _ in 0..records {
                    let Some(id) = self.log().next_to_move(&mut emptying) else {
                        return;
                    };
                    let before = self.log().room().dirty_bytes;
                    let moved = self.log().move_record(id);
                    assert_ne!(moved, Moved::Unsound);
                    assert_eq!(self.log().room().dirty_bytes, before);
                    if moved == Moved::NoRoom {
                        return;
                    }
                }
            }
            Op::Nexus { at, isid } => self.change_nexus(at, isid),
            Op::Refuse { volume, flags } => {
                let (id, entry) = &mut self.expected.volumes[volume];
                entry.flags = VolumeFlags(flags);
                let (id, entry) = (*id, entry.clone());
                self.log().update_volume(id, entry).unwrap();
            }
            Op::Reopen => self.reopen(Fuse::NEVER),
            _ => {}
        }
    }

    fn commit(&mut self, write: &Receiving) {
        let Receiving {
            id,
            volume,
            lba,
            len,
            stamp,
        } = *write;
        let bytes = pattern(stamp, len);
        let from = self.log().received(id) as usize;
        self.log().append(id, &bytes[from..]);
        self.sequence += 1;
        let sequence = self.sequence;
        let flags = RecordFlags((sequence % 2) as u8);
        let ids = self.log().commit(id, sequence / 4, sequence, flags);
        let (mut done, parts) = (0, u8::try_from(ids.len()).unwrap());
        for (part, id) in (0..).zip(ids) {
            let record = *self.log().record(id);
            let lba = lba + done as u64 / 512;
            let len = record.len;
            let epoch = sequence / 4;
            assert_eq!(
                record,
                Record {
                    volume,
                    epoch,
                    sequence,
                    lba,
                    len,
                    flags,
                    part,
                    parts
                }
            );
            let payload = bytes[done..done + len as usize].to_vec();
            done += len as usize;
            self.live.push((id, (volume, sequence, part)));
            self.expected
                .records
                .insert((volume, sequence, part), (record, payload));
        }
        assert_eq!(done, bytes.len());
    }

    /// Puts, updates or removes the row.
    fn change_nexus(&mut self, at: usize, isid: u8) {
        let nexuses = &mut self.expected.nexuses;
        match nexuses.get(at).map(|row| row.0) {
            None => {
                let id = self.log().put_nexus(nexus_entry(isid)).unwrap();
                self.expected.nexuses.push((id, nexus_entry(isid)));
                self.expected.nexuses.sort_by_key(|row| row.0);
            }
            Some(id) if isid.is_multiple_of(2) => {
                nexuses[at].1 = nexus_entry(isid);
                self.log().update_nexus(id, nexus_entry(isid)).unwrap();
            }
            Some(id) => {
                nexuses.remove(at);
                self.log().remove_nexus(id).unwrap();
            }
        }
    }

    /// The next life; with a fuse, one that ends while it is coming up.
    fn reopen(&mut self, fuse: Fuse) {
        let region = self.log.take().expect("open").into_region();
        let (log, _) = Log::open_with_fuse(region, fuse).unwrap();
        let (log, recovery) = open(log.into_region());
        assert_eq!(recovery.damaged, [], "a stop damages nothing");
        assert_eq!(
            (
                recovery.damaged_volume_rows.len(),
                recovery.damaged_nexus_rows
            ),
            (0, 0)
        );
        self.receiving.clear();
        self.live = recovery
            .records
            .iter()
            .map(|&id| {
                let record = log.record(id);
                (id, (record.volume, record.sequence, record.part))
            })
            .collect();
        let order: Vec<_> = self.live.iter().map(|live| live.1).collect();
        assert!(order.is_sorted(), "records come in order of arrival");
        for found in &recovery.volumes {
            let of_volume = log
                .records()
                .map(|id| *log.record(id))
                .filter(|r| r.volume == found.volume);
            let records: Vec<_> = of_volume.collect();
            assert_eq!(found.records as usize, records.len());
            assert_eq!(
                found.dirty_bytes,
                records.iter().map(|r| u64::from(r.len)).sum::<u64>()
            );
            assert!(
                records
                    .iter()
                    .all(|r| r.sequence <= found.sequence_max && r.epoch <= found.epoch_max)
            );
        }
        self.log = Some(log);
    }

    fn check(&mut self) {
        let expected = std::mem::take(&mut self.expected);
        assert!(state_of(self.log()) == expected);
        self.expected = expected;
        let dirty: usize = self
            .expected
            .records
            .values()
            .map(|(_, payload)| payload.len())
            .sum();
        assert_eq!(self.log().room().dirty_bytes, dirty as u64);
    }

    /// All comes back: no segment is left to anyone.
    fn drain(&mut self) {
        for write in std::mem::take(&mut self.receiving) {
            self.log().abort(write.id);
        }
        for (id, _) in std::mem::take(&mut self.live) {
            self.log().free(id);
        }
        let room = self.log().room();
        assert_eq!(
            (room.segments_free, room.dirty_bytes),
            (room.segments_total, 0)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_log_does_what_the_oracle_does(ops in prop::collection::vec(op(), 0..80)) {
        let mut model = Model::new(6);
        for op in &ops {
            model.step(op);
        }
        model.check();
        model.reopen(Fuse::NEVER);
        model.check();
        model.drain();
        model.reopen(Fuse::NEVER);
        model.drain();
    }

    #[test]
    fn a_stop_after_any_store_is_before_or_after_the_operation(
        ops in prop::collection::vec(op(), 1..60),
        thousandth in 0..1000u64,
        stores_at_open in 0..40u64,
        more in prop::collection::vec(op(), 0..20),
    ) {
        // How many stores all of it takes, so that the stop is evenly spread.
        let mut model = Model::new(6);
        model.log().set_fuse(Fuse::after(u64::MAX - 1));
        for op in ops.iter().filter(|op| !matches!(op, Op::Reopen)) {
            model.step(op);
        }
        let stores = model.log().fuse().burnt(u64::MAX - 1);
        let stop = 1 + stores * thousandth / 1000;

        let mut model = Model::new(6);
        model.log().set_fuse(Fuse::after(stop));
        let mut before = model.expected.clone();
        for op in ops.iter().filter(|op| !matches!(op, Op::Reopen)) {
            before.clone_from(&model.expected);
            model.step(op);
            if model.log().fuse().is_blown() { break }
        }
        model.reopen(Fuse::after(stores_at_open));
        let found = state_of(model.log());
        prop_assert!(found == before || found == model.expected);
        model.expected = found;
        // And it is a log like any other.
        for op in &more {
            model.step(op);
        }
        model.reopen(Fuse::NEVER);
        model.check();
        model.drain();
    }
}

/// Every single store of a write of several records, over segments, and of its frees.
#[test]
fn a_long_write_is_committed_whole_at_every_stop() {
    let len = 3 << 20;
    let (mut commits, mut stop) = (0, 1);
    loop {
        let (mut log, _) = open(region(1 + 3));
        let volume = log.put_volume(volume_entry(1)).unwrap();
        let id = log.reserve(volume, 0, len).unwrap();
        log.append(id, &pattern(1, len));
        log.set_fuse(Fuse::after(stop));
        let parts = log.commit(id, 1, 1, RecordFlags::NONE);
        parts.iter().for_each(|&id| log.free(id));
        let done = !log.fuse().is_blown();
        let (mut log, recovery) = open(log.into_region());
        assert_eq!(recovery.damaged, []);
        let found: u32 = seen(&mut log).values().map(|(record, _)| record.len).sum();
        let whole = found == len;
        commits += u32::from(whole);
        assert!(whole || recovery.records.len() < parts.len());
        // Before the commit nothing, then all, then fewer with each free.
        assert!(
            commits > 0 || found == 0,
            "a part of a write at stop {stop}"
        );
        stop += 1;
        if done {
            assert_eq!(found, 0);
            break;
        }
    }
    assert!(
        commits >= 4,
        "the last part's commit, the others raised, the first free not done"
    );
}

#[test]
fn a_format_that_was_interrupted_is_done_again() {
    for stop in 0..10 {
        let (log, recovery) = Log::open_with_fuse(region(2), Fuse::after(stop)).unwrap();
        assert!(recovery.formatted);
        let (log, recovery) = open(log.into_region());
        assert_eq!(recovery.formatted, stop < 8, "stop {stop}");
        assert_eq!(log.room().segments_free, 1);
    }
}

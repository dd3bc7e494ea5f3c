//! The rules, and a record against them.
//!
//! Of a trace: the computer knows that a write comes before a SYNCHRONIZE CACHE when it
//! was answered before that was issued, and that it comes after when it was issued after
//! the answer. A write beside the sync is on either side. Each sync has a *floor*: of each
//! block the newest generation that comes before it. The disk has *passed* a sync when
//! something that comes after it has been written. What must hold, at every prefix of
//! the record:
//!
//! * when a sync is passed, each block is at its floor or newer, and so much has
//!   been on stable media since before: an fsync that was asked for after it was written
//!   has been answered. (So it is for a storage with a volatile cache. One without needs
//!   no fsync, and cannot be judged here.)
//! * what a lost session left unsynced is sent again, so a block may go back to a
//!   generation that the disk has met before. Not to one at the floor of a sync that is
//!   passed, or below: that was durable, and out of the log, before anything that comes
//!   after it was sent. An fsync on the disk does not forbid it: the relay may have
//!   lost its answer with the session, and must then send again what that covered,
//!   of two writes to a block the older first. What went back is as if it had never been
//!   synced, until it is again.
//! * (C-6) a generation that the disk never met does not come after a newer one. It may be
//!   missing for ever, if the newer one is of the same epoch.
//! * all that is written is what the load wrote; in the end each block is at its newest.
//!
//! Not for: the image's bytes behind the first word of each block (`cmp`).

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::record::Entry;
use super::trace::Event;
use crate::load::stamp;
use crate::load::workload::STAMP_LEN;

type Block = u64;
type Generation = u32;
/// By block; one that is not there is of generation 0, as before the first write.
type State = HashMap<Block, Generation>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Writes that the disk met: as many prefixes end with one.
    pub writes: u64,
    pub blocks: u64,
    pub syncs: u64,
    /// Entries of the record: after each the rules held.
    pub prefixes: u64,
    /// Syncs of the computer, and times that the disk passed one or more.
    pub ordering_points: u64,
    pub points_passed: u64,
    /// Block generations that the computer overwrote before they were sent.
    pub superseded: u64,
    /// Block writes over an older generation of the load's.
    pub overwritten: u64,
    /// Block writes of a generation that the disk had met: sent again.
    pub repeated: u64,
    /// Of those, over a newer one.
    pub went_back: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    #[error("the trace is not one of a load that ran to its end: {0}")]
    Trace(&'static str),
    #[error("entry {entry}: a write that is no whole blocks of 4096 bytes")]
    Torn { entry: usize },
    #[error("entry {entry}: block {block} is nothing that the load wrote there")]
    Foreign { entry: usize, block: Block },
    #[error(
        "entry {entry}: block {by} comes after sync {sync}, but block {block} should be of \
         generation {floor} by then and is of {held}, on stable media of {durable} (A-19)"
    )]
    Early {
        entry: usize,
        by: Block,
        sync: usize,
        block: Block,
        floor: Generation,
        held: Generation,
        durable: Generation,
    },
    #[error(
        "entry {entry}: block {block} is written with generation {generation}, though sync {sync} \
         is passed, before which it was of {floor} (A-17)"
    )]
    Back {
        entry: usize,
        block: Block,
        generation: Generation,
        sync: usize,
        floor: Generation,
    },
    #[error(
        "entry {entry}: block {block} is of generation {generation} for the first time, after \
         {newest} (C-6)"
    )]
    Overtaken {
        entry: usize,
        block: Block,
        generation: Generation,
        newest: Generation,
    },
    #[error("entry {entry}: block {block} is sent again, though no session was lost yet")]
    Repeated { entry: usize, block: Block },
    #[error("in the end block {block} is of generation {held}, not {newest}")]
    Missing {
        block: Block,
        held: Generation,
        newest: Generation,
    },
}

fn of(state: &State, block: Block) -> Generation {
    state.get(&block).copied().unwrap_or(0)
}

/// A trace, as far as the rules ask for it.
#[derive(Debug, Default)]
struct Load {
    skip_bytes: u64,
    /// By block and first word: the generation, and the newest sync that it comes after.
    stamps: HashMap<(Block, u64), (Generation, usize)>,
    /// Of each sync in the order of issue, which is the order of their floors, too; the
    /// first is of none.
    floors: Vec<State>,
    newest: State,
}

impl Load {
    fn of(trace: &[Event]) -> Result<Self, Breach> {
        let Some(&Event::Begun { seed, skip_bytes }) = trace.first() else {
            return Err(Breach::Trace("it does not begin"));
        };
        let mut load = Self {
            skip_bytes,
            floors: vec![State::new()],
            ..Self::default()
        };
        // With the number of syncs issued by then: a sync's own place in that order.
        let mut under_way = HashMap::new();
        let mut answered = 0;
        for event in &trace[1..] {
            match event {
                Event::Begun { .. } => return Err(Breach::Trace("it begins twice")),
                Event::Write {
                    number,
                    block,
                    generations,
                } => {
                    under_way.insert(number, (event, 0));
                    for (at, &generation) in (*block..).zip(generations) {
                        let word = stamp::first_word(at, generation, seed);
                        let stamp = (generation, answered);
                        if load.stamps.insert((at, word), stamp).is_some() {
                            return Err(Breach::Trace("a generation is written twice"));
                        }
                    }
                }
                Event::Sync { number } => {
                    under_way.insert(number, (event, load.floors.len()));
                    load.floors.push(load.newest.clone());
                }
                Event::Good { number } => match under_way.remove(number) {
                    Some((
                        Event::Write {
                            block, generations, ..
                        },
                        _,
                    )) => load
                        .newest
                        .extend((*block..).zip(generations.iter().copied())),
                    Some((_, sync)) => answered = answered.max(sync),
                    None => return Err(Breach::Trace("an answer without a request")),
                },
            }
        }
        if under_way.is_empty() {
            Ok(load)
        } else {
            Err(Breach::Trace("a request without an answer"))
        }
    }
}

/// What the disk holds, and how it came to that.
#[derive(Debug, Default)]
struct Disk {
    held: State,
    /// What no loss of power takes.
    durable: State,
    /// What a sync under way was asked to make durable.
    asked: BTreeMap<u64, State>,
    met: HashSet<(Block, Generation)>,
    newest: State,
    /// The newest sync that is passed.
    passed: usize,
}

/// Checks the record of one file; before its entry `undisturbed` no session was lost.
///
/// # Errors
/// A rule is broken.
pub fn check<'a>(
    trace: &[Event],
    record: impl IntoIterator<Item = &'a Entry>,
    undisturbed: usize,
) -> Result<Figures, Breach> {
    let load = Load::of(trace)?;
    let mut disk = Disk::default();
    let mut figures = Figures {
        ordering_points: load.floors.len() as u64 - 1,
        ..Figures::default()
    };
    for (at, entry) in record.into_iter().enumerate() {
        match entry {
            Entry::Write {
                offset, len, words, ..
            } => {
                let stamp_len = u64::from(STAMP_LEN);
                let offset = offset
                    .checked_sub(load.skip_bytes)
                    .filter(|offset| offset.is_multiple_of(stamp_len))
                    .filter(|_| *len == words.len() as u64 * stamp_len)
                    .ok_or(Breach::Torn { entry: at })?;
                for (block, &word) in (offset / stamp_len..).zip(words) {
                    let before = figures.repeated;
                    disk.write(&load, at, (block, word), &mut figures)?;
                    if at < undisturbed && figures.repeated > before {
                        return Err(Breach::Repeated { entry: at, block });
                    }
                }
                figures.writes += 1;
            }
            Entry::SyncAsked { number, .. } => {
                disk.asked.insert(*number, disk.held.clone());
            }
            Entry::Synced { number, .. } => {
                for (block, generation) in disk.asked.remove(number).unwrap_or_default() {
                    let durable = disk.durable.entry(block).or_default();
                    *durable = generation.max(*durable);
                }
                figures.syncs += 1;
            }
        }
        figures.prefixes += 1;
    }
    for (&block, &newest) in &load.newest {
        let held = of(&disk.held, block);
        if held != newest {
            return Err(Breach::Missing {
                block,
                held,
                newest,
            });
        }
    }
    figures.superseded = (load.stamps.len() - disk.met.len()) as u64;
    Ok(figures)
}

impl Disk {
    fn write(
        &mut self,
        load: &Load,
        entry: usize,
        (block, word): (Block, u64),
        figures: &mut Figures,
    ) -> Result<(), Breach> {
        let stamp = load.stamps.get(&(block, word));
        let &(generation, after) = stamp.ok_or(Breach::Foreign { entry, block })?;
        if after > self.passed {
            self.pass(&load.floors[after], (entry, block, after))?;
            figures.points_passed += 1;
        }
        let newest = of(&self.newest, block);
        let is_repeated = !self.met.insert((block, generation));
        if generation < newest && !is_repeated {
            return Err(Breach::Overtaken {
                entry,
                block,
                generation,
                newest,
            });
        }
        let (sync, floor) = (self.passed, of(&load.floors[self.passed], block));
        if generation <= floor {
            return Err(Breach::Back {
                entry,
                block,
                generation,
                sync,
                floor,
            });
        }
        let held = self.held.insert(block, generation).unwrap_or(0);
        self.newest.insert(block, newest.max(generation));
        if generation < held {
            for state in self.asked.values_mut().chain([&mut self.durable]) {
                let durable = state.entry(block).or_default();
                *durable = generation.min(*durable);
            }
            figures.went_back += 1;
        }
        figures.blocks += 1;
        figures.repeated += u64::from(is_repeated);
        figures.overwritten += u64::from(held > 0 && !is_repeated);
        Ok(())
    }

    /// The disk is about to be written what comes after a sync.
    fn pass(
        &mut self,
        floor: &State,
        (entry, by, sync): (usize, Block, usize),
    ) -> Result<(), Breach> {
        for (&block, &floor) in floor {
            let (held, durable) = (of(&self.held, block), of(&self.durable, block));
            if held.min(durable) < floor {
                return Err(Breach::Early {
                    entry,
                    by,
                    sync,
                    block,
                    floor,
                    held,
                    durable,
                });
            }
        }
        self.passed = sync;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 3;

    fn stamps(block: Block, generation: Generation) -> Entry {
        Entry::Write {
            file: String::new(),
            offset: block * u64::from(STAMP_LEN),
            len: u64::from(STAMP_LEN),
            words: vec![stamp::first_word(block, generation, SEED)],
        }
    }

    fn sync(number: u64) -> [Entry; 2] {
        let file = String::new();
        [
            Entry::SyncAsked {
                file: file.clone(),
                number,
            },
            Entry::Synced { file, number },
        ]
    }

    /// Blocks with their generations, each written and answered; 0 is a sync.
    fn trace(parts: &[&[(Block, Generation)]]) -> Vec<Event> {
        let mut events = vec![Event::Begun {
            seed: SEED,
            skip_bytes: 0,
        }];
        let mut number = 0;
        let mut done = |event: fn(u64, Block, Generation) -> Event, block, generation| {
            number += 1;
            [event(number, block, generation), Event::Good { number }]
        };
        for (at, part) in parts.iter().enumerate() {
            if at > 0 {
                events.extend(done(|number, _, _| Event::Sync { number }, 0, 0));
            }
            for &(block, generation) in *part {
                events.extend(done(
                    |number, block, generation| Event::Write {
                        number,
                        block,
                        generations: vec![generation],
                    },
                    block,
                    generation,
                ));
            }
        }
        events
    }

    fn record(parts: &[&[(Block, Generation)]]) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            if at > 0 {
                entries.extend(sync(at as u64));
            }
            entries.extend(
                part.iter()
                    .map(|&(block, generation)| stamps(block, generation)),
            );
        }
        entries
    }

    const PARTS: [&[(Block, Generation)]; 3] = [
        &[(0, 1), (1, 1), (2, 1)],
        &[(1, 2), (3, 1)],
        &[(0, 2), (3, 2), (3, 3)],
    ];

    #[test]
    fn what_is_in_order_is_counted() {
        let figures = check(&trace(&PARTS), &record(&PARTS), usize::MAX).unwrap();
        let seen = (figures.writes, figures.syncs, figures.prefixes);
        assert_eq!(seen, (8, 2, 12));
        assert_eq!((figures.ordering_points, figures.points_passed), (2, 2));
        assert_eq!((figures.overwritten, figures.superseded), (4, 0));
        // Within an epoch any order will do, and what is overwritten need not be sent.
        let other = record(&[
            &[(2, 1), (0, 1), (1, 1)],
            &[(3, 1), (1, 2)],
            &[(3, 3), (0, 2)],
        ]);
        let figures = check(&trace(&PARTS), &other, usize::MAX).unwrap();
        assert_eq!(figures.superseded, 1);
    }

    #[test]
    fn each_swap_across_a_sync_and_each_entry_left_out_is_found() {
        let (trace, good) = (trace(&PARTS), record(&PARTS));
        let epoch = |at: usize| {
            good[..at]
                .iter()
                .filter(|e| matches!(e, Entry::Synced { .. }))
                .count()
        };
        let is_write = |at: usize| matches!(good[at], Entry::Write { .. });
        for first in 0..good.len() {
            let mut less = good.clone();
            less.remove(first);
            // The write of (3, 2), which (3, 3) of the same epoch hides.
            let hidden = good[first] == stamps(3, 2);
            assert_eq!(check(&trace, &less, 0).is_ok(), hidden, "without {first}");
            for second in first + 1..good.len() {
                if is_write(first) && is_write(second) && epoch(first) != epoch(second) {
                    let mut swapped = good.clone();
                    swapped.swap(first, second);
                    let breach = check(&trace, &swapped, 0).unwrap_err();
                    let early = matches!(breach, Breach::Early { .. });
                    assert!(early, "{first} and {second}: {breach}");
                }
            }
        }
    }

    #[test]
    fn a_sync_counts_when_it_is_answered_and_for_what_came_before_it() {
        let trace = trace(&[&[(0, 1), (1, 1)], &[(2, 1)]]);
        let [asked, synced] = sync(1);
        let [a, b, c] = [stamps(0, 1), stamps(1, 1), stamps(2, 1)];
        let late = [&a, &b, &asked, &c, &synced];
        let early = [&a, &asked, &b, &synced, &c];
        for record in [late, early] {
            let breach = check(&trace, record, 0).unwrap_err();
            assert!(
                matches!(breach, Breach::Early { sync: 1, by: 2, .. }),
                "{breach}"
            );
        }
        assert!(check(&trace, [&a, &b, &asked, &synced, &c], 0).is_ok());
    }

    #[test]
    fn what_is_beside_a_sync_is_on_either_side() {
        let write = |number, block| Event::Write {
            number,
            block,
            generations: vec![1],
        };
        let good = |number| Event::Good { number };
        let trace = [
            Event::Begun {
                seed: SEED,
                skip_bytes: 0,
            },
            write(1, 0),
            Event::Sync { number: 2 },
            write(3, 1),
            good(1),
            good(3),
            good(2),
            write(4, 2),
            good(4),
        ];
        let [a, b, c] = [stamps(0, 1), stamps(1, 1), stamps(2, 1)];
        assert!(check(&trace, [&c, &a, &b], 0).is_ok());
        let breach = check(&trace[..8], [&c, &a, &b], 0).unwrap_err();
        assert!(matches!(breach, Breach::Trace(_)), "{breach}");
    }

    #[test]
    fn a_lost_session_sends_again_from_the_oldest_and_not_past_what_is_passed() {
        let trace = trace(&PARTS);
        let good = record(&PARTS);
        let [asked, synced] = sync(9);
        // The last epoch once more, its sync done but not heard of.
        let mut again = good.clone();
        again.extend([asked, synced]);
        again.extend(good[9..].iter().cloned());
        let figures = check(&trace, &again, good.len()).unwrap();
        assert_eq!((figures.repeated, figures.went_back), (3, 1));
        let breach = check(&trace, &again, usize::MAX).unwrap_err();
        assert_eq!(
            breach,
            Breach::Repeated {
                entry: 14,
                block: 0
            }
        );
        // What an earlier one left, after something of this one: even though it is at
        // once as it was.
        let mut back = good.clone();
        back.splice(10..10, [stamps(0, 1), stamps(0, 2)]);
        let breach = check(&trace, &back, 0).unwrap_err();
        let (entry, block, generation) = (10, 0, 1);
        let expected = Breach::Back {
            entry,
            block,
            generation,
            sync: 2,
            floor: 1,
        };
        assert_eq!(breach, expected);
    }

    #[test]
    fn what_went_back_is_synced_again_before_the_next_sync_is_passed() {
        let parts: [&[(Block, Generation)]; 2] = [&[(0, 1), (0, 2)], &[(1, 1)]];
        let (trace, [first, second]) = (trace(&parts), [sync(1), sync(2)]);
        let [old, new, next] = [stamps(0, 1), stamps(0, 2), stamps(1, 1)];
        let mut record = vec![old.clone(), new.clone()];
        record.extend(first);
        record.extend([old, new]);
        let mut unsynced = record.clone();
        unsynced.push(next.clone());
        let breach = check(&trace, &unsynced, 0).unwrap_err();
        assert!(
            matches!(
                breach,
                Breach::Early {
                    held: 2,
                    durable: 1,
                    ..
                }
            ),
            "{breach}"
        );
        record.extend(second);
        record.push(next);
        assert!(check(&trace, &record, 0).is_ok());
    }

    #[test]
    fn an_older_generation_comes_late_only_if_it_came_before() {
        let trace = trace(&[&[(0, 1), (0, 2)]]);
        let [old, new] = [stamps(0, 1), stamps(0, 2)];
        let breach = check(&trace, [&new, &old, &new], 0).unwrap_err();
        assert!(
            matches!(breach, Breach::Overtaken { entry: 1, .. }),
            "{breach}"
        );
        assert!(check(&trace, [&old, &new, &old, &new], 0).is_ok());
        let breach = check(&trace, [&old, &new, &old], 0).unwrap_err();
        assert!(
            matches!(
                breach,
                Breach::Missing {
                    held: 1,
                    newest: 2,
                    ..
                }
            ),
            "{breach}"
        );
    }

    #[test]
    fn what_the_load_never_wrote_is_found() {
        let trace = trace(&[&[(0, 1)]]);
        let breach = check(&trace, [&stamps(0, 2)], 0).unwrap_err();
        assert_eq!(breach, Breach::Foreign { entry: 0, block: 0 });
        let torn = Entry::write("", 512, &[0; 4096]);
        assert_eq!(check(&trace, [&torn], 0), Err(Breach::Torn { entry: 0 }));
    }
}

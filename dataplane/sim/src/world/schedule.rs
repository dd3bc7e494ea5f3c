//! What goes wrong in a run, and when: a list made before the run begins, from
//! chance of its own.
//!
//! What always holds: an event is the same whatever came before it, and
//! switching one off by its number changes no other. So a failing run can be
//! made shorter ([`crate::minimise`]).

use std::time::Duration;

use sluice_proto::Time;
use sluice_proto::scsi::{ScsiStatus, Sense};

pub use super::rot::JournalPart;
use crate::fault::FaultKind;
use crate::random::Random;
use crate::storage::{Fault, Troubled};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing passes on the WAN.
    Cut {
        lasts: Duration,
    },
    /// The same, one way only: towards the storage, or from it.
    HalfCut {
        lasts: Duration,
        outward: bool,
    },
    /// The data plane dies between two steps. With `lingers` the storage is slow to
    /// do what it has under way.
    Crash {
        lingers: bool,
    },
    /// It dies after so many stores to its log.
    CrashInStep {
        stores: u64,
    },
    /// It does nothing for a while, and time has leapt when it goes on.
    Pause {
        lasts: Duration,
    },
    /// Its clock leaps ahead, while it goes on.
    Leap {
        by: Duration,
    },
    /// It dies, and the log's file is gone.
    LogLost,
    /// It dies, and bits of so many of its records turn over before the next start.
    RotInLog {
        records: u64,
    },
    /// The relay's power fails, and a bit of its journal turns over.
    RotInJournal {
        part: JournalPart,
    },
    /// The relay's power fails.
    PowerLoss,
    /// The same, or with `keeps_log` the data plane dies; and in the start behind that
    /// the power fails, after so many of its writes to the journal.
    PowerLossInStart {
        keeps_log: bool,
        writes: u64,
    },
    /// The same, right after a journal write that does not hold all that was asked for.
    PowerLossBehindGroup,
    JournalStall {
        lasts: Duration,
    },
    JournalFault,
    /// The storage loses its cache, and says so.
    StorageReset,
    /// The storage loses its power.
    StoragePower,
    /// A connection of the storage breaks while it has writes under way, or any;
    /// it is slow to do them. Its initiator port cannot log in again for so long.
    BrokenConnection {
        shut_out: Duration,
    },
    /// It answers pings alone.
    Hang {
        lasts: Duration,
    },
    /// Commands of one of its volumes fail: so many, or all for a while, which only
    /// somebody who looks after it can end.
    Trouble {
        /// Modulo those there are.
        volume: usize,
        of: Troubled,
        fault: Fault,
        times: u32,
        lasts: Duration,
    },
}

impl Event {
    pub const fn kind(self) -> FaultKind {
        match self {
            Self::Cut { .. } => FaultKind::Cut,
            Self::HalfCut { .. } => FaultKind::HalfCut,
            Self::Crash { .. } => FaultKind::Crash,
            Self::CrashInStep { .. } => FaultKind::CrashInStep,
            Self::Pause { .. } => FaultKind::Pause,
            Self::Leap { .. } => FaultKind::Leap,
            Self::LogLost => FaultKind::LogLost,
            Self::RotInLog { .. } | Self::RotInJournal { .. } => FaultKind::Rot,
            Self::PowerLoss | Self::PowerLossInStart { .. } | Self::PowerLossBehindGroup => {
                FaultKind::PowerLoss
            }
            Self::JournalStall { .. } => FaultKind::JournalStall,
            Self::JournalFault => FaultKind::JournalFault,
            Self::StorageReset => FaultKind::Reset,
            Self::StoragePower => FaultKind::PowerFailure,
            Self::BrokenConnection { .. } => FaultKind::BrokenConnection,
            Self::Hang { .. } => FaultKind::Slow,
            Self::Trouble {
                times: u32::MAX, ..
            } => FaultKind::Refusing,
            Self::Trouble { .. } => FaultKind::Failing,
        }
    }
}

/// An event, and its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    pub at: Time,
    pub event: Event,
}

/// The events of a seed up to `until`, in order of time; longer lists begin as shorter ones.
pub(super) fn draw(random: &mut Random, until: Time, has_journal: bool) -> Vec<Scheduled> {
    let mut events = Vec::new();
    let mut at = Time::from_millis(500 + random.of(3000));
    while at < until {
        if has_journal && random.chance(60) {
            of_journal(random, at, &mut events);
        } else {
            let event = of_site(random, has_journal);
            events.push(Scheduled { at, event });
        }
        at += Duration::from_millis(300 + random.of(6000));
    }
    events.sort_by_key(|scheduled| scheduled.at);
    events
}

fn of_site(random: &mut Random, has_journal: bool) -> Event {
    let lasts = Duration::from_millis(random.of(4000));
    match random.of(15) {
        0 => Event::Cut { lasts },
        1 => Event::HalfCut {
            lasts,
            outward: random.chance(50),
        },
        2 => Event::Crash {
            lingers: random.chance(50),
        },
        3 => {
            // In the middle of a step, soon: a write makes some ten stores.
            let most = 1 << (2 + random.of(8));
            Event::CrashInStep {
                stores: 1 + random.of(most),
            }
        }
        4 => Event::StorageReset,
        5 => Event::StoragePower,
        6 if random.chance(50) && !has_journal => Event::LogLost,
        6 => Event::Pause { lasts },
        7 => Event::RotInLog {
            records: 1 + random.of(4),
        },
        8 => Event::Leap {
            // From a hiccup to some minutes.
            by: Duration::from_millis(1 << random.of(19)),
        },
        // Half of them longer than a task management function waits for the storage's.
        9 => Event::Hang {
            lasts: Duration::from_millis(random.of(4000) + 12_000 * random.of(2)),
        },
        10..=11 => of_storage(random),
        // Half of them at once, the others before or after somebody else resets the LUN.
        _ => Event::BrokenConnection {
            shut_out: if lasts.as_millis().is_multiple_of(2) {
                lasts * 3
            } else {
                Duration::ZERO
            },
        },
    }
}

/// Commands that fail, in each of the ways that storages have.
fn of_storage(random: &mut Random) -> Event {
    let of = [
        Troubled::Writes,
        Troubled::Writes,
        Troubled::Syncs,
        Troubled::Changes,
        Troubled::Reads,
    ][random.below(5)];
    // Where a computer waits for the answer it is for the computer to give up; and what
    // passes is GOOD in full, or not GOOD.
    let of_flush = matches!(of, Troubled::Writes | Troubled::Syncs);
    let fault = match random.of(if of_flush { 14 } else { 10 }) {
        0 => Fault::Sense(Sense::WRITE_ERROR),
        1 => Fault::Sense(Sense::WRITE_PROTECTED),
        2 => Fault::Sense(Sense::SPACE_ALLOCATION_FAILED),
        3 => Fault::Sense(Sense::INTERNAL_TARGET_FAILURE),
        4 => Fault::Sense(Sense::LBA_OUT_OF_RANGE),
        5 => Fault::Sense(Sense::BECOMING_READY),
        6 => Fault::Status(ScsiStatus::RESERVATION_CONFLICT),
        7 => Fault::Deferred(Sense::WRITE_ERROR),
        8 => Fault::Status(ScsiStatus::TASK_SET_FULL),
        9 => Fault::Disconnect,
        10 if of == Troubled::Writes => Fault::Short(512),
        11 if of == Troubled::Writes => Fault::Short(1),
        10..=12 if of == Troubled::Syncs => Fault::Dropped(Sense::WRITE_ERROR),
        _ => Fault::Silence,
    };
    let lasting = random.chance(40);
    Event::Trouble {
        volume: random.below(6),
        of,
        fault,
        times: if lasting {
            u32::MAX
        } else {
            1 + u32::try_from(random.of(3)).expect("small")
        },
        lasts: Duration::from_millis(1000 + random.of(7000)),
    }
}

fn of_journal(random: &mut Random, at: Time, events: &mut Vec<Scheduled>) {
    let lasts = Duration::from_millis(random.of(12_000));
    let mut push = |at: Time, event: Event| events.push(Scheduled { at, event });
    match random.of(24) {
        0..=4 => push(at, Event::PowerLoss),
        5..=8 => {
            let keeps_log = random.chance(50);
            // A start makes a handful, or as many as there are records.
            let most = 1 << random.of(7);
            let writes = random.of(most);
            push(at, Event::PowerLossInStart { keeps_log, writes });
        }
        20..=21 => push(
            at,
            Event::RotInJournal {
                part: JournalPart::Payload,
            },
        ),
        22 => push(
            at,
            Event::RotInJournal {
                part: JournalPart::Head,
            },
        ),
        23 => push(
            at,
            Event::RotInJournal {
                part: JournalPart::Header,
            },
        ),
        9..=13 => push(at, Event::PowerLossBehindGroup),
        14 | 15 => push(at, Event::JournalStall { lasts }),
        16 | 17 => {
            // It is given up while nothing can be flushed, and then power fails.
            let stall = Duration::from_millis(7500 + random.of(2000));
            let lasts = stall + Duration::from_millis(500);
            push(at, Event::JournalStall { lasts: stall });
            push(at, Event::Cut { lasts });
            let after = stall + Duration::from_millis(100 + random.of(400));
            push(at + after, Event::PowerLoss);
        }
        _ => push(at, Event::JournalFault),
    }
}

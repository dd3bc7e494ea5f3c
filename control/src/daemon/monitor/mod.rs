//! Sizes that follow what is measured (B-13 to B-16): what to do about the reservations, from
//! the rows of the data plane and the time.
//!
//! A size grows as soon as more than a tenth is missing, and shrinks when less than six tenths
//! were enough for ten seconds: measurements waver, and memory taken too early costs less than
//! a path that is not filled. Where the buffers bound the connections nobody knows what the
//! path carries; the size then grows by a half at a time until the path bounds them. A half
//! more than enough is above the six tenths, so what is found that way stays.
//!
//! Not for: commands, the state file ([`super::follow`]); the write cache ([`shortage`]).

mod shortage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use sluice_hugepages::tables::{
    Buffers, Event, Path, Reservation, ReservationSize, ReservationTarget, Volume,
};

use self::shortage::Shortage;
use crate::amount;
use crate::sizing::{Advice, BUFFER_BYTES, Paths, shown, whole_buffers};

const SECOND: u64 = 1_000_000_000;
/// After a change the connections need a few round trips until they are measured with it.
const SETTLE_ROUND_TRIPS: u64 = 3;
const SETTLE_NS: u64 = SECOND / 2;
/// So long less was enough before a size shrinks; and where the path has been found to be
/// another one than it is of.
const SHRINK_AFTER_NS: u64 = 10 * SECOND;
const SHRINK_AFTER_CHANGE_NS: u64 = 2 * SECOND;
/// Halves that bring nothing: then the buffers are not what bounds the path.
const FUTILE_MAX: u8 = 4;
/// What each connection keeps, whatever it sends.
const CONNECTION_MIN_BYTES: u64 = 4 * BUFFER_BYTES;

/// What the data plane shows.
pub(super) struct View<'a> {
    pub paths: &'a [Path],
    pub reservations: &'a [Reservation],
    pub volumes: &'a [Volume],
    pub events: &'a [Event],
    pub buffers: Option<&'a Buffers>,
    pub presented: &'a [(u16, SocketAddrV4)],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Measure {
        local: Ipv4Addr,
        remote: SocketAddrV4,
    },
    Reserve {
        target: ReservationTarget,
        from_bytes: u64,
        size: ReservationSize,
        why: Why,
    },
    Warn(String),
    Tell(String),
}

/// Why a size changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Recommended,
    BoundByBuffers,
    CacheShort,
}

impl Why {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recommended => "the path calls for it",
            Self::BoundByBuffers => "its connections are bounded by their buffers",
            Self::CacheShort => "the write cache runs short of room",
        }
    }
}

/// What is remembered of a reservation.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Until its last change shows in what is measured.
    quiet_until_ns: u64,
    less: Option<Less>,
    /// Changes of the path that its size knows of.
    changes: Option<u64>,
    /// It has been said that it does not fit.
    warned: bool,
    refused: u64,
    probe: Probe,
}

/// Less than it has is enough.
#[derive(Clone, Copy, Debug)]
struct Less {
    since_ns: u64,
    /// The most of it that was wanted: a moment's measure takes nothing away.
    most: Wanted,
}

/// Growth by halves, and what it brought.
#[derive(Clone, Copy, Debug, Default)]
struct Probe {
    /// What was recommended when it last brought something.
    base_bytes: u64,
    changes: u64,
    futile: u8,
}

impl Probe {
    /// Whether another half may bring something.
    fn look(&mut self, advice: &Advice) -> bool {
        let now = advice.recommended.unwrap_or(0);
        let more = now > self.base_bytes.saturating_add(self.base_bytes / 10);
        let less = now < tenths(self.base_bytes, 6);
        if more || less || advice.changes != self.changes {
            *self = Self {
                base_bytes: now,
                changes: advice.changes,
                futile: 0,
            };
        }
        self.futile < FUTILE_MAX
    }
}

#[derive(Debug)]
pub(super) struct Monitor {
    known: BTreeMap<ReservationTarget, Known>,
    shortage: Shortage,
}

/// What one reservation should have.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    bytes: u64,
    why: Why,
}

impl Monitor {
    pub fn new(cache_warning_percent: u8) -> Self {
        Self {
            known: BTreeMap::new(),
            shortage: Shortage::new(cache_warning_percent),
        }
    }

    /// What is to be done now.
    pub fn look(&mut self, view: &View<'_>, now_ns: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        let paths = Paths::new(view.paths.iter(), view.presented);
        let raise = self.shortage.look(view, &paths, now_ns, &mut actions);
        let mut free = view.buffers.map_or(0, |buffers| buffers.free_bytes);
        let mut before = std::mem::take(&mut self.known);
        for row in view.reservations {
            let raised = raise.covers(paths.of(row.target));
            let known = before.remove(&row.target);
            if !row.automatic && !raised {
                // Of what is manual only what was said when it was raised.
                self.known.extend(known.map(|known| (row.target, known)));
                continue;
            }
            let mut known = known.unwrap_or_default();
            let advice = paths.advice(row.target, row.sessions, row.connections);
            let look = Look {
                row,
                advice: &advice,
                free,
                now_ns,
                raised,
                may_shrink: row.automatic && !advice.at_least && !self.shortage.is_short(),
            };
            if let Some(to) = look.decide(&mut known, &mut actions) {
                free = free.saturating_sub(to.bytes.saturating_sub(row.reserved_bytes));
                actions.push(Action::Reserve {
                    target: row.target,
                    from_bytes: row.reserved_bytes,
                    size: ReservationSize {
                        bytes: to.bytes,
                        automatic: row.automatic,
                        sessions: row.sessions,
                        connections: row.connections,
                    },
                    why: to.why,
                });
            }
            known.refused = row.refused;
            self.known.insert(row.target, known);
        }
        actions
    }

    /// The data plane had less than its row said; it is not asked again at once.
    pub fn refused(&mut self, target: ReservationTarget, now_ns: u64) {
        if let Some(known) = self.known.get_mut(&target) {
            known.quiet_until_ns = now_ns + SECOND;
        }
    }
}

struct Look<'a> {
    row: &'a Reservation,
    advice: &'a Advice,
    free: u64,
    now_ns: u64,
    /// The cache is short, and this is what drains it: it grows if it helps at all.
    raised: bool,
    may_shrink: bool,
}

impl Look<'_> {
    fn decide(&self, known: &mut Known, actions: &mut Vec<Action>) -> Option<Wanted> {
        let changes = *known.changes.get_or_insert(self.advice.changes);
        if self.now_ns < known.quiet_until_ns && !self.raised {
            return None;
        }
        let size = self.row.reserved_bytes;
        let wanted = self.wanted(known)?;
        let enough = if self.raised { size } else { tenths(size, 11) };
        if wanted.bytes > enough {
            known.less = None;
            return self.grow(wanted, known, actions);
        }
        if known.warned {
            known.warned = false;
            let target = shown(self.row.target);
            actions.push(Action::Tell(format!("reservation {target} fits again")));
        }
        if !self.may_shrink || wanted.bytes >= tenths(size, 6) {
            known.less = None;
            return None;
        }
        let less = known.less.get_or_insert(Less {
            since_ns: self.now_ns,
            most: wanted,
        });
        if wanted.bytes > less.most.bytes {
            less.most = wanted;
        }
        let Less { since_ns, most } = *less;
        let after_ns = if changes == self.advice.changes {
            SHRINK_AFTER_NS
        } else {
            SHRINK_AFTER_CHANGE_NS
        };
        if self.now_ns.saturating_sub(since_ns) < after_ns {
            return None;
        }
        // From what is exactly enough one half more is tried, if the buffers then bound it.
        known.probe.futile = FUTILE_MAX - 1;
        self.changed(known);
        Some(most)
    }

    fn wanted(&self, known: &mut Known) -> Option<Wanted> {
        let size = self.row.reserved_bytes;
        let recommended = self.advice.recommended.map(|bytes| Wanted {
            bytes: whole_buffers(bytes).max(self.least()),
            why: Why::Recommended,
        });
        // Those that a more specific reservation holds are bounded by that one's buffers.
        let is_used = self.row.flows > 0
            && (self.row.allocated_bytes >= size / 2 || self.row.refused > known.refused);
        if !(self.advice.bound_by_buffers && is_used && known.probe.look(self.advice)) {
            return recommended;
        }
        let half_more = Wanted {
            bytes: whole_buffers(size.saturating_add((size / 2).max(CONNECTION_MIN_BYTES))),
            why: Why::BoundByBuffers,
        };
        match recommended {
            Some(more) if more.bytes > half_more.bytes => Some(more),
            _ => Some(half_more),
        }
    }

    fn grow(&self, wanted: Wanted, known: &mut Known, actions: &mut Vec<Action>) -> Option<Wanted> {
        let size = self.row.reserved_bytes;
        let room = size.saturating_add(self.free) / BUFFER_BYTES * BUFFER_BYTES;
        let fits = wanted.bytes <= room;
        let to = wanted.bytes.min(room);
        // What comes free bit by bit is not taken bit by bit.
        let worth = fits || to >= size + (size / 20).max(BUFFER_BYTES);
        if !fits && !known.warned {
            known.warned = true;
            let target = shown(self.row.target);
            let taken = if worth {
                format!("takes {}, all that is free", amount::bytes(to))
            } else {
                format!("stays at {}, nothing more is free", amount::bytes(size))
            };
            actions.push(Action::Warn(format!(
                "reservation {target} does not fit: {} would be right, because {}; it {taken}. Cancel or shrink another, or raise frames_mib",
                amount::bytes(wanted.bytes),
                wanted.why.as_str(),
            )));
        }
        if !worth {
            return None;
        }
        if wanted.why == Why::BoundByBuffers {
            known.probe.futile = known.probe.futile.saturating_add(1);
        }
        self.changed(known);
        let why = if self.raised {
            Why::CacheShort
        } else {
            wanted.why
        };
        Some(Wanted { bytes: to, why })
    }

    fn changed(&self, known: &mut Known) {
        let round_trips =
            SETTLE_ROUND_TRIPS.saturating_mul(self.advice.rtt_us.saturating_mul(1000));
        known.quiet_until_ns = self
            .now_ns
            .saturating_add(round_trips.clamp(SETTLE_NS, 5 * SECOND));
        known.less = None;
        known.changes = Some(self.advice.changes);
    }

    fn least(&self) -> u64 {
        CONNECTION_MIN_BYTES * u64::from(self.row.flows.max(1))
    }
}

fn tenths(bytes: u64, count: u64) -> u64 {
    bytes / 10 * count + bytes % 10 * count / 10
}

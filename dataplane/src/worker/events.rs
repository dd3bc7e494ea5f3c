//! What has happened, for operators: each change of a volume's row or of the
//! journal's state that one should hear of, in a ring of the control segment.
//!
//! Changes are found by comparing with what was published last, so nothing on
//! the way of a packet or write knows of events; one that comes and goes
//! between two rounds of publishing is not seen. The ring starts empty with
//! each data plane.

use std::fmt::Write;

use arrayvec::ArrayString;
use sluice_hugepages::shm::SegmentWriter;
use sluice_hugepages::tables::{
    Drain, Durability, EVENTS_MAX, Event, EventKind, HeldUp, JournalState, Name, ReservationTarget,
    SPECS, Table, Volume, VolumeState, Why, text,
};
use sluice_proto::Time;

use super::path::{Measure, Path};
use super::relay::VOLUMES_MAX;
use super::task::VolumeKey;

/// What was published of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    state: VolumeState,
    held_up: HeldUp,
    durability: Durability,
    drain: Drain,
    failed_writes: u64,
}

impl Seen {
    fn of(row: &Volume) -> Self {
        Self {
            state: row.state,
            held_up: row.held_up,
            durability: row.durability,
            drain: row.drain,
            failed_writes: row.failed_writes,
        }
    }
}

#[derive(Debug)]
pub(super) struct Events {
    volumes: [Option<Seen>; VOLUMES_MAX],
    /// By path, its changes that were told.
    paths: Vec<u64>,
    /// Number of the next one.
    next: u64,
}

impl Events {
    pub fn new() -> Self {
        Self {
            volumes: [None; VOLUMES_MAX],
            paths: vec![0; SPECS[Table::Paths as usize].rows],
            next: 0,
        }
    }

    /// The row of a volume that the relay has, as it is published.
    pub fn volume(&mut self, segment: &mut SegmentWriter, now: Time, key: VolumeKey, row: &Volume) {
        let seen = Seen::of(row);
        let before = self.volumes[usize::from(key.0)].replace(seen);
        if before == Some(seen) {
            return;
        }
        // Of one that is new, only what is not as always.
        let known = before.unwrap_or(Seen {
            held_up: HeldUp::No,
            drain: Drain::No,
            failed_writes: 0,
            ..seen
        });
        let mut tell = |kind, before: Option<&str>, is: &str| {
            self.put(segment, now, kind, Some(row), before, is, "");
        };
        if before.is_none() || known.state != seen.state {
            let was = before.map(|before| before.state.as_str());
            tell(EventKind::Volume, was, seen.state.as_str());
        }
        if known.held_up != seen.held_up {
            let was = known.held_up.as_str();
            tell(EventKind::HeldUp, Some(was), seen.held_up.as_str());
        }
        if known.durability != seen.durability {
            let was = known.durability.as_str();
            tell(EventKind::Durability, Some(was), seen.durability.as_str());
        }
        if known.drain != seen.drain {
            let was = known.drain.as_str();
            tell(EventKind::Drain, Some(was), seen.drain.as_str());
        }
        if known.failed_writes != seen.failed_writes {
            let (was, is) = (number(known.failed_writes), number(seen.failed_writes));
            tell(EventKind::Failed, Some(&was), &is);
        }
    }

    /// The journal's state has changed.
    pub fn journal(
        &mut self,
        segment: &mut SegmentWriter,
        now: Time,
        (before, is): (JournalState, JournalState),
        why: &str,
    ) {
        let before = Some(before.as_str());
        self.put(
            segment,
            now,
            EventKind::Journal,
            None,
            before,
            is.as_str(),
            why,
        );
    }

    /// A reservation was made, changed or cancelled: what it had, and has, in bytes.
    pub fn reservation(
        &mut self,
        segment: &mut SegmentWriter,
        now: Time,
        target: &ReservationTarget,
        before: Option<u64>,
        is: Option<u64>,
    ) {
        let kind = EventKind::Reservation;
        let before = before.map(number);
        let is = is.map_or_else(|| text("cancelled"), number);
        let why = named(target);
        self.put(segment, now, kind, None, before.as_deref(), &is, &why);
    }

    /// One could not be made or made larger: it has what it had, and wants what there is not.
    pub fn reservation_failed(
        &mut self,
        segment: &mut SegmentWriter,
        now: Time,
        target: &ReservationTarget,
        before: Option<u64>,
        (wanted, free): (u64, u64),
    ) {
        let kind = EventKind::ReservationFailed;
        let before = before.map(number);
        let mut why = named(target);
        let _ = write!(why, ": {free} bytes are free");
        let is = number(wanted);
        self.put(segment, now, kind, None, before.as_deref(), &is, &why);
    }

    /// Buffers were asked for in vain, so many times since this was told the last time.
    pub fn memory_short(
        &mut self,
        segment: &mut SegmentWriter,
        now: Time,
        refused: u64,
        free: u64,
    ) {
        let kind = EventKind::MemoryShort;
        let mut why = Why::new();
        let _ = write!(why, "asked for in vain; {free} bytes are free");
        self.put(segment, now, kind, None, None, &number(refused), &why);
    }

    /// The write cache is as full as the threshold; of the volume that has most in it.
    pub fn cache_short(
        &mut self,
        segment: &mut SegmentWriter,
        now: Time,
        fullest: Option<(Name, u64)>,
        (used_percent, warning_percent): (u64, u8),
    ) {
        let (mut before, mut is) = (ArrayString::new(), ArrayString::new());
        let _ = write!(before, "{warning_percent} %");
        let _ = write!(is, "{used_percent} %");
        let event = Event {
            number: self.next,
            at_ns: now.as_nanos(),
            kind: EventKind::CacheShort,
            target: fullest.map(|(target, _)| target),
            lun: fullest.map_or(0, |(_, lun)| lun),
            before: Some(before),
            now: is,
            why: text("of the write cache is used; before: the threshold"),
        };
        self.enter(segment, &event);
    }

    /// A path, as it is published.
    pub fn path(&mut self, segment: &mut SegmentWriter, now: Time, row: usize, path: &Path) {
        let Some((before, is)) = path.change.filter(|_| self.paths[row] != path.changes) else {
            return;
        };
        self.paths[row] = path.changes;
        let mut of: ArrayString<160> = ArrayString::new();
        let (local, remote) = (path.local, path.remote);
        write!(of, "{local} to {remote}").expect("two addresses are shorter");
        let (before, is) = (measure(before), measure(is));
        let kind = EventKind::Path;
        self.put(segment, now, kind, None, Some(&before), &is, &of);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of an event")]
    fn put(
        &mut self,
        segment: &mut SegmentWriter,
        now: Time,
        kind: EventKind,
        of: Option<&Volume>,
        before: Option<&str>,
        is: &str,
        why: &str,
    ) {
        let event = Event {
            number: self.next,
            at_ns: now.as_nanos(),
            kind,
            target: of.map(|row| row.target),
            lun: of.map_or(0, |row| row.lun),
            before: before.map(text),
            now: text(is),
            why: text(why),
        };
        self.enter(segment, &event);
    }

    fn enter(&mut self, segment: &mut SegmentWriter, event: &Event) {
        let ring = EVENTS_MAX as u64;
        let row = usize::try_from(self.next % ring).expect("below EVENTS_MAX");
        segment.put(row, event);
        self.next += 1;
    }
}

/// As `100.0 Mbit/s 40.0 ms`, cut to what an event has room for.
fn measure(measure: Measure) -> ArrayString<32> {
    let rate = measure.bytes_per_s as f64 * 8.0 / 1e6;
    let round_trip = measure.round_trip.as_secs_f64() * 1e3;
    let mut out = ArrayString::new();
    // One that is longer than any path's is cut.
    let _ = write!(out, "{rate:.1} Mbit/s {round_trip:.1} ms");
    out
}

fn number(number: u64) -> ArrayString<32> {
    let mut digits = ArrayString::new();
    write!(digits, "{number}").expect("no number of 64 bits is longer");
    digits
}

/// As operators name it.
fn named(target: &ReservationTarget) -> Why {
    let mut name = Why::new();
    let written = match target {
        ReservationTarget::Pair { local, remote } => write!(name, "pair {local} to {remote}"),
        ReservationTarget::PairPort { local, remote } => {
            write!(name, "pair-port {local} to {remote}")
        }
        ReservationTarget::Connection { buffer_id } => write!(name, "connection {buffer_id}"),
    };
    written.expect("two addresses fit");
    name
}

//! The monitor against rows and a clock of the tests' own: what it asks for is in the rows of
//! the next look.

use sluice_hugepages::tables::{
    Backing, Drain, Durability, EventKind, HeldUp, PathLimit, VolumeState, text,
};

use super::*;
use crate::sizing::tests::{LOCAL, REMOTE, path};

const MS: u64 = 1_000_000;
const LOOK: u64 = 250 * MS;
const MIB: u64 = 1 << 20;
const TARGET: &str = "iqn.2004-03.example.storage:vol0";

fn pair() -> ReservationTarget {
    ReservationTarget::Pair {
        local: LOCAL,
        remote: *REMOTE.ip(),
    }
}

/// A data plane of a few rows.
struct Plane {
    monitor: Monitor,
    now_ns: u64,
    paths: Vec<Path>,
    reservations: Vec<Reservation>,
    volumes: Vec<Volume>,
    events: Vec<Event>,
    buffers: Buffers,
    /// Warnings, and what else was told.
    said: Vec<String>,
    /// When a size changed, to what and why.
    resized: Vec<(u64, u64, Why)>,
    measures: Vec<u64>,
}

impl Plane {
    fn new(size: u64, automatic: bool) -> Self {
        let reservation = Reservation {
            target: pair(),
            buffer_id: 10_239,
            reserved_bytes: size,
            held_bytes: size,
            allocated_bytes: size,
            automatic,
            sessions: 0,
            connections: 0,
            flows: 1,
            refused: 0,
            since_ns: 0,
        };
        Self {
            monitor: Monitor::new(75),
            now_ns: SECOND,
            paths: vec![path(REMOTE, 1000, 1000)],
            reservations: vec![reservation],
            volumes: vec![volume(1)],
            events: Vec::new(),
            buffers: buffers(64 * MIB),
            said: Vec::new(),
            resized: Vec::new(),
            measures: Vec::new(),
        }
    }

    fn size(&self) -> u64 {
        self.reservations[0].reserved_bytes
    }

    /// Bytes of bandwidth x delay: what is measured with a round trip of a second.
    fn carries(&mut self, bytes: u64) {
        self.paths[0].bandwidth_bytes_per_s = bytes;
    }

    fn look(&mut self) {
        self.now_ns += LOOK;
        let view = View {
            paths: &self.paths,
            reservations: &self.reservations,
            volumes: &self.volumes,
            events: &self.events,
            buffers: Some(&self.buffers),
            presented: &[],
        };
        for action in self.monitor.look(&view, self.now_ns) {
            match action {
                Action::Warn(text) | Action::Tell(text) => self.said.push(text),
                Action::Measure { local, remote } => {
                    assert_eq!((local, remote), (LOCAL, REMOTE));
                    self.measures.push(self.now_ns);
                }
                Action::Reserve {
                    target,
                    from_bytes,
                    size,
                    why,
                } => {
                    let row = &mut self.reservations[0];
                    assert_eq!((target, from_bytes), (row.target, row.reserved_bytes));
                    assert_eq!(size.automatic, row.automatic, "B-15");
                    assert_eq!(size.bytes % BUFFER_BYTES, 0);
                    let more = size.bytes.saturating_sub(from_bytes);
                    assert!(more <= self.buffers.free_bytes, "not more than there is");
                    self.buffers.free_bytes = self.buffers.free_bytes + from_bytes - size.bytes;
                    row.reserved_bytes = size.bytes;
                    row.allocated_bytes = size.bytes;
                    self.resized.push((self.now_ns, size.bytes, why));
                }
            }
        }
    }

    fn run(&mut self, ms: u64) {
        let end = self.now_ns + ms * MS;
        while self.now_ns < end {
            self.look();
        }
    }

    fn events_say(&mut self, number: u64, kind: EventKind) {
        self.events.push(Event {
            number,
            at_ns: self.now_ns,
            kind,
            target: Some(text(TARGET)),
            lun: 0,
            before: None,
            now: text("short"),
            why: text(""),
        });
    }
}

fn buffers(free_bytes: u64) -> Buffers {
    Buffers {
        backing: Backing::Anonymous,
        why: text(""),
        pages_free: 0,
        pages_leased: 0,
        pages_divided: 0,
        frames_free: 0,
        frames_reserved: 0,
        frames_in_use: 0,
        free_bytes,
        log_backing: Backing::Anonymous,
        log_segments: 100,
        log_segments_free: 90,
        log_bytes: 0,
        log_live_bytes: 0,
    }
}

fn volume(dirty_bytes: u64) -> Volume {
    Volume {
        target: text(TARGET),
        lun: 1 << 48,
        storage: REMOTE,
        state: VolumeState::Connected,
        durability: Durability::Memory,
        load_us: 0,
        load_p99_us: 0,
        dirty_bytes,
        oldest_dirty_since_ns: None,
        block_len: 512,
        blocks: 1,
        records: 0,
        written_bytes: 0,
        flushed_bytes: 0,
        superseded_bytes: 0,
        written_bytes_per_s: 0,
        flushed_bytes_per_s: 0,
        epochs_pending: 0,
        drained_in_ms: None,
        full_in_ms: None,
        room_bytes: 0,
        sessions: 1,
        flush_threshold_bytes: 0,
        flush_stop_bytes: 0,
        flush_period_ns: 0,
        flush_idle_ns: 0,
        flush_load_limit_us: None,
        load_at_rest_us: 0,
        failed_writes: 0,
        failed_stamp: 0,
        drain: Drain::No,
        held_up: HeldUp::No,
        write_latency: Default::default(),
        read_latency: Default::default(),
        flush_latency: Default::default(),
    }
}

#[test]
fn b14_a_size_follows_its_path_within_five_seconds() {
    let mut plane = Plane::new(MIB, true);
    plane.carries(MIB);
    plane.run(3000);
    assert_eq!(plane.resized, [], "it is right");
    let changed = plane.now_ns;
    plane.carries(6 * MIB);
    plane.run(5000);
    assert_eq!(plane.resized, [(changed + LOOK, 6 * MIB, Why::Recommended)]);
    // Slower: not at once, which would be another's turn of bad luck.
    let changed = plane.now_ns;
    plane.carries(MIB);
    plane.run(9000);
    assert_eq!(plane.size(), 6 * MIB);
    plane.run(3000);
    assert_eq!(plane.size(), MIB, "B-15: what is recommended");
    assert!(plane.resized[1].0 >= changed + 10 * SECOND);
    assert_eq!(plane.said, Vec::<String>::new());
}

#[test]
fn b14_a_size_follows_a_path_that_has_become_another_within_five_seconds_down_too() {
    let mut plane = Plane::new(6 * MIB, true);
    plane.carries(6 * MIB);
    plane.run(3000);
    let changed = plane.now_ns;
    plane.carries(MIB);
    // The data plane has made sure.
    plane.run(1500);
    plane.paths[0].changes += 1;
    plane.run(3000);
    assert_eq!((plane.resized.len(), plane.size()), (1, MIB));
    assert!((2 * SECOND..5 * SECOND).contains(&(plane.resized[0].0 - changed)));
    // It is the same path from then on.
    plane.carries(MIB / 2);
    plane.run(9000);
    assert_eq!(plane.size(), MIB);
}

#[test]
fn b14_a_moment_in_which_little_was_measured_makes_no_size() {
    let mut plane = Plane::new(6 * MIB, true);
    for round in 0..100 {
        plane.carries(if round % 9 == 0 { MIB / 4 } else { MIB });
        plane.look();
        assert!(plane.size() >= MIB, "{round}");
    }
    assert_eq!(plane.size(), MIB);
}

#[test]
fn b14_what_wavers_moves_nothing() {
    let mut plane = Plane::new(MIB, true);
    for round in 0..400 {
        let percent = [100, 108, 62, 90][round % 4];
        plane.carries(MIB / 100 * percent);
        plane.look();
    }
    // Less than enough, but never for ten seconds.
    for round in 0..400 {
        plane.carries(if round % 30 == 0 { MIB } else { MIB / 2 });
        plane.look();
    }
    assert_eq!(plane.resized, []);
}

#[test]
fn b14_what_a_trickle_shows_makes_nothing_smaller() {
    let mut plane = Plane::new(MIB, true);
    plane.carries(1000);
    plane.paths[0].limit = PathLimit::Application;
    plane.run(30_000);
    assert_eq!(plane.resized, []);
    plane.carries(3 * MIB);
    plane.look();
    assert_eq!(plane.size(), 3 * MIB, "it is at least that");
    plane.carries(MIB);
    plane.paths[0].probes = 1;
    plane.run(15_000);
    assert_eq!(plane.size(), MIB, "so it is no more");
}

#[test]
fn b15_a_manual_size_stays() {
    let mut plane = Plane::new(MIB, false);
    plane.carries(60 * MIB);
    plane.paths[0].limit = PathLimit::Buffers;
    plane.run(30_000);
    plane.carries(1);
    plane.run(30_000);
    assert_eq!((plane.resized, plane.said), (vec![], vec![]));
}

#[test]
fn b14_while_the_buffers_bound_it_it_grows_until_the_path_does() {
    let mut plane = Plane::new(MIB / 4, true);
    let path = 2 * MIB;
    for _ in 0..40 {
        // What a connection gets with its buffers.
        plane.carries(plane.size().min(path));
        plane.paths[0].limit = if plane.size() < path {
            PathLimit::Buffers
        } else {
            PathLimit::Path
        };
        plane.paths[0].rtt_us = 120_000;
        plane.look();
    }
    let (at, size, why) = *plane.resized.last().unwrap();
    assert!((path..path * 3 / 2).contains(&size), "{size}");
    assert_eq!(why, Why::BoundByBuffers);
    assert!(at <= SECOND + 5 * SECOND, "{at}");
    // And stays there.
    plane.run(60_000);
    assert_eq!(plane.size(), size);
}

#[test]
fn b14_growth_that_brings_nothing_ends() {
    let mut plane = Plane::new(MIB, true);
    plane.carries(MIB);
    plane.paths[0].limit = PathLimit::Buffers;
    plane.run(120_000);
    let most = plane.resized.iter().map(|(_, size, _)| *size).max();
    assert!(most < Some(6 * MIB), "{most:?}");
    let changes = plane.resized.len();
    plane.run(120_000);
    assert_eq!(plane.resized.len(), changes, "it has come to rest");
    assert!(plane.size() <= 2 * MIB, "{}", plane.size());
    // Another path: all is open again.
    plane.paths[0].changes += 1;
    plane.run(1000);
    assert!(plane.resized.len() > changes);
}

#[test]
fn b14_buffers_that_another_reservation_is_short_of_are_not_this_ones() {
    let mut plane = Plane::new(MIB, true);
    plane.carries(MIB);
    plane.paths[0].limit = PathLimit::Buffers;
    plane.reservations[0].allocated_bytes = 4096;
    plane.run(10_000);
    assert_eq!(plane.resized, []);
    plane.reservations[0].refused += 1;
    plane.look();
    assert_eq!(plane.resized.len(), 1);
}

#[test]
fn b13_what_does_not_fit_takes_what_is_free_and_says_so_once() {
    let mut plane = Plane::new(MIB, true);
    plane.buffers.free_bytes = 2 * MIB + 1000;
    plane.carries(8 * MIB);
    plane.run(10_000);
    assert_eq!(plane.resized.len(), 1);
    assert_eq!(plane.size(), 3 * MIB);
    assert_eq!(plane.said.len(), 1, "{:?}", plane.said);
    assert!(plane.said[0].contains("does not fit"), "{:?}", plane.said);
    assert!(plane.said[0].contains("8.0 MiB would be right"));
    // Bit by bit is not taken; a part worth it is, and then all.
    plane.buffers.free_bytes = 8192;
    plane.run(2000);
    assert_eq!(plane.size(), 3 * MIB);
    plane.buffers.free_bytes = 64 * MIB;
    plane.run(5000);
    assert_eq!(plane.size(), 8 * MIB);
    assert_eq!(plane.said.len(), 2, "{:?}", plane.said);
    assert!(plane.said[1].contains("fits again"));
    // Refused, though its row said otherwise: not again at once.
    plane.carries(32 * MIB);
    plane.monitor.refused(pair(), plane.now_ns);
    plane.run(500);
    assert_eq!(plane.size(), 8 * MIB);
    plane.run(1000);
    assert_eq!(plane.size(), 32 * MIB);
}

#[test]
fn b16_a_short_cache_has_its_path_measured_and_overrides_what_was_typed_in() {
    let mut plane = Plane::new(MIB, false);
    plane.carries(4 * MIB);
    plane.run(1000);
    assert_eq!(plane.measures.len(), 0);
    plane.buffers.log_segments_free = 25;
    plane.look();
    assert_eq!(plane.measures.len(), 1, "75 % are used");
    assert!(plane.said[0].contains("75 % of it are used"));
    plane.run(1000);
    assert_eq!(plane.resized, [], "it is not measured yet");
    plane.carries(5 * MIB);
    plane.paths[0].measured += 1;
    plane.look();
    let now = plane.now_ns;
    assert_eq!(plane.resized, [(now, 5 * MIB, Why::CacheShort)]);
    // Again while it lasts, and it never shrinks.
    plane.carries(MIB);
    plane.run(4000);
    assert_eq!(plane.measures.len(), 1);
    plane.run(2000);
    assert_eq!(plane.measures.len(), 2);
    plane.paths[0].measured += 1;
    plane.run(60_000);
    assert_eq!(plane.size(), 5 * MIB);
    // It is over with room to spare, and said once.
    plane.buffers.log_segments_free = 30;
    plane.run(1000);
    assert!(!plane.said.iter().any(|said| said.contains("room again")));
    plane.buffers.log_segments_free = 50;
    plane.run(10_000);
    let measures = plane.measures.len();
    assert!(plane.said.last().unwrap().contains("room again"));
    plane.run(10_000);
    assert_eq!((plane.measures.len(), plane.said.len()), (measures, 2));
}

#[test]
fn b16_an_event_is_enough_and_a_measurement_is_not_waited_for_forever() {
    let mut plane = Plane::new(MIB, true);
    plane.carries(MIB);
    plane.events_say(7, EventKind::CacheShort);
    plane.run(2000);
    assert_eq!(plane.measures.len(), 0, "from before its time");
    plane.events_say(8, EventKind::Path);
    plane.events_say(9, EventKind::CacheShort);
    let told = plane.now_ns;
    plane.look();
    assert_eq!(plane.measures, [told + LOOK]);
    // What an automatic size would not have grown by.
    plane.carries(MIB + MIB / 20);
    plane.run(2500);
    assert_eq!(plane.resized, []);
    plane.run(1000);
    assert_eq!(plane.resized.len(), 1);
    assert_eq!(plane.resized[0].2, Why::CacheShort);
    assert_eq!(plane.size(), whole_buffers(MIB + MIB / 20));
    // No volume of another storage is meant.
    plane
        .paths
        .push(path(SocketAddrV4::new([198, 19, 0, 77].into(), 3260), 1, 1));
    plane.events_say(10, EventKind::CacheShort);
    plane.run(10_000);
    assert_eq!(plane.measures.len(), 2);
}

#[test]
fn b16_without_a_reservation_there_is_nothing_to_measure_for() {
    let mut plane = Plane::new(MIB, true);
    plane.reservations.clear();
    plane.buffers.log_segments_free = 0;
    plane.run(20_000);
    assert_eq!(plane.measures.len(), 0);
    assert_eq!(plane.said.len(), 1);
    assert!(plane.said[0].contains("nothing is reserved"));
}

#[test]
fn b07_no_connection_loses_its_least() {
    let mut plane = Plane::new(MIB, true);
    plane.reservations[0].flows = 8;
    plane.carries(5);
    plane.run(20_000);
    assert_eq!(plane.size(), 8 * CONNECTION_MIN_BYTES);
}

//! Memory that is reserved for a path (Spec B): a flush that goes on while computers hold every
//! other buffer, reservations that come, change and go under it, and what is shown of them.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

mod shown;

use std::time::Duration;

use shown::Shown;
use sluice_config::{Config, State};
use sluice_dataplane::start::{self, StartError};
use sluice_hugepages::pool::{FRAME_LEN, Frame};
use sluice_hugepages::tables::{
    self, Allocation, BufferState, Buffers, Command, Event, EventKind, FlushSetting, Outcome,
    ReservationSize, ReservationTarget, Scope, text,
};
use sluice_proto::scsi::cdb;
use sluice_sim::site::{ELSEWHERE, RELAY_WAN, STORAGE, Session, Site, Size, TARGETS};
use sluice_sim::storage::{PORT, Storage};

const GOOD: u8 = 0;
const KIB: u64 = 1024;
/// Blocks of a write.
const BLOCKS: u32 = 128;
const LEN: u32 = BLOCKS * 512;
/// Of the WAN, and what a round trip takes: 60 KB are under way when it is full.
const RATE: u64 = 1_500_000;
const DELAY: Duration = Duration::from_millis(20);
/// Little beside the staging pages, and so soon gone.
const SIZE: Size = Size {
    sessions_max: 40,
    pool_pages: 160,
    wan_pages: 16,
    shared: true,
    apart: true,
    portal: true,
    ..Size::SMALL
};
const TRANSIT: usize = 64;
const BORROW: usize = 64;

const PAIR: ReservationTarget = ReservationTarget::Pair {
    local: RELAY_WAN,
    remote: STORAGE,
};
const PAIR_PORT: ReservationTarget = ReservationTarget::PairPort {
    local: RELAY_WAN,
    remote: std::net::SocketAddrV4::new(STORAGE, PORT),
};
const BY_ID: ReservationTarget = ReservationTarget::Connection { buffer_id: 7 };

struct Course {
    shown: Shown,
    session: Session,
    writes: u32,
    pinned: Vec<Frame>,
}

impl Course {
    fn of(name: &str) -> Self {
        let mut shown = Shown::of(name, SIZE);
        shown.site.worker.pool.set_floors(TRANSIT, BORROW);
        shown.site.delay_wan(DELAY);
        shown.site.limit_wan(RATE);
        let mut elsewhere = Storage::new(ELSEWHERE, RELAY_WAN, BLOCKS as usize, 5);
        elsewhere.latency_max = Duration::from_micros(100);
        shown.site.elsewhere = Some(elsewhere);
        let setting = FlushSetting {
            threshold_bytes: Some(4096),
            ..FlushSetting::default()
        };
        shown.site.worker.relay.set_flush(&Scope::All, &setting);
        let session = shown.site.login(0, 0, 1);
        Self {
            shown,
            session,
            writes: 0,
            pinned: Vec::new(),
        }
    }

    fn site(&mut self) -> &mut Site {
        &mut self.shown.site
    }

    fn ask(&mut self, command: &Command) -> (Outcome, BufferState) {
        let now = self.site().now;
        let (outcome, _, buffers) = self.site().worker.command_from_control(now, command);
        (outcome, buffers)
    }

    fn reserve(&mut self, target: ReservationTarget, bytes: u64) -> Outcome {
        let size = ReservationSize {
            bytes,
            automatic: false,
            sessions: 0,
            connections: 0,
        };
        self.ask(&Command::Reserve { target, size }).0
    }

    fn present(&mut self, buffer_id: Option<u16>) -> Outcome {
        let target = text(TARGETS[0]);
        self.ask(&Command::PresentBufferId { target, buffer_id }).0
    }

    /// A write more than the WAN carries meanwhile.
    fn write(&mut self) {
        let lba = u64::from(self.writes % 7 * BLOCKS);
        self.writes += 1;
        let pdu = Site::command(&mut self.session, 0x20, LEN, &cdb::write(lba, BLOCKS));
        let itt = pdu.itt();
        let Self { shown, session, .. } = self;
        shown.site.send(session, &pdu.bytes());
        let data = vec![7; LEN as usize];
        let status = shown.site.finish_write(session, itt, &data);
        assert_eq!(status, Some(GOOD));
        self.site().run(Duration::from_millis(30));
        self.judge();
    }

    /// Nobody has more than he may, nor more under way than he has buffers (B-11).
    fn judge(&mut self) {
        let worker = &self.site().worker;
        for row in worker.relay.allocations(&worker.tcp) {
            assert!(row.unacknowledged_bytes <= row.allocated_bytes, "{row:?}");
        }
    }

    fn flushed(&mut self) -> u64 {
        self.shown.volume().flushed_bytes
    }

    /// Bytes a second that are flushed in so many writes.
    fn rate(&mut self, writes: u32) -> f64 {
        let (begun, flushed) = (self.site().now, self.flushed());
        for _ in 0..writes {
            self.write();
        }
        let flushed = self.flushed() - flushed;
        flushed as f64 / self.site().now.since(begun).as_secs_f64()
    }

    /// Sessions of another computer with another storage hold every page that can be leased,
    /// and what is left of divided ones is in packets that wait.
    fn pin_all(&mut self) {
        for isid in 100.. {
            // Those who borrow leave to sessions what they must have: two pages, four frames.
            let pool = &self.site().worker.pool;
            if pool.stats().pages_free < 2 || pool.available() < 2 * 16 + 4 {
                break;
            }
            self.site().login(1, 1, isid);
        }
        let Self { shown, pinned, .. } = self;
        let pool = &mut shown.site.worker.pool;
        while pool.available() > 0 {
            pinned.extend(pool.alloc_frame());
        }
        // One more finds nothing.
        let refused = |site: &Site| site.worker.pool.stats().pages_refused;
        let before = refused(self.site());
        self.site().connect(1);
        assert!(refused(self.site()) > before);
    }

    fn unpin(&mut self) {
        let Self { shown, pinned, .. } = self;
        for frame in pinned.drain(..) {
            shown.site.worker.pool.release(frame);
        }
    }

    fn drain(&mut self) {
        let Self { shown, session, .. } = self;
        assert_eq!(shown.site.synchronize(session), Some(GOOD));
        assert_eq!(shown.site.counter("wan_session_lost"), 0);
        assert_eq!(shown.site.counter("flush_failed"), 0);
    }

    /// What is flushed with all buffers held by others, of what is flushed before.
    fn ratio(&mut self) -> f64 {
        self.rate(30);
        let alone = self.rate(60);
        self.pin_all();
        self.rate(10);
        let beside = self.rate(60);
        self.unpin();
        self.site().run(Duration::from_secs(5));
        self.drain();
        beside / alone
    }
}

#[test]
fn b18_a_reserved_flush_goes_on_while_every_other_buffer_is_held() {
    for (kind, target) in [("pair", PAIR), ("port", PAIR_PORT), ("id", BY_ID)] {
        let mut course = Course::of(&format!("reserved-{kind}"));
        assert_eq!(course.reserve(target, 512 * KIB), Outcome::Done);
        if target == BY_ID {
            assert_eq!(course.present(Some(7)), Outcome::Done);
        }
        let ratio = course.ratio();
        assert!(ratio >= 0.95, "{kind}: {ratio}");
    }
}

#[test]
fn b18_without_a_reservation_it_falls() {
    let ratio = Course::of("unreserved").ratio();
    assert!(ratio <= 0.5, "{ratio}");
}

#[test]
fn b07_b10_b11_a_reservation_changes_under_a_flush_without_a_gap() {
    let mut course = Course::of("changes");
    let allocation = |course: &mut Course| {
        let rows = course.shown.rows::<Allocation>();
        assert_eq!(rows.len(), 1);
        rows[0].clone()
    };
    course.rate(20);
    let borrowed = allocation(&mut course);
    assert_eq!((borrowed.buffer_id, borrowed.limit_bytes), (0, 1024 * KIB));
    // Made, while it sends: from now on it takes from there alone.
    assert_eq!(course.reserve(PAIR, 256 * KIB), Outcome::Done);
    course.rate(10);
    let made = allocation(&mut course);
    assert_eq!((made.buffer_id, made.limit_bytes), (10_239, 256 * KIB));
    assert!(made.allocated_bytes <= 256 * KIB, "{made:?}");
    let alone = course.rate(40);
    // A more specific one comes and goes.
    assert_eq!(course.reserve(PAIR_PORT, 512 * KIB), Outcome::Done);
    course.rate(10);
    let specific = allocation(&mut course);
    assert_eq!(
        (specific.buffer_id, specific.limit_bytes),
        (10_238, 512 * KIB)
    );
    let cancel = Command::CancelReservation { target: PAIR_PORT };
    assert_eq!(course.ask(&cancel).0, Outcome::Done);
    course.rate(10);
    assert_eq!(allocation(&mut course).buffer_id, 10_239);
    // Smaller than what is under way, it gives back as that is acknowledged.
    assert_eq!(course.reserve(PAIR, 16 * KIB), Outcome::Done);
    course.rate(10);
    let small = allocation(&mut course);
    assert_eq!(small.limit_bytes, 16 * KIB);
    assert!(small.allocated_bytes <= 16 * KIB, "{small:?}");
    let slow = course.rate(20);
    assert!(slow < alone / 2.0, "16 KiB a round trip: {slow} {alone}");
    assert_eq!(course.reserve(PAIR, 256 * KIB), Outcome::Done);
    course.rate(20);
    let again = course.rate(40);
    assert!(again > alone * 0.95, "{again} {alone}");
    let cancel = Command::CancelReservation { target: PAIR };
    assert_eq!(course.ask(&cancel).0, Outcome::Done);
    course.rate(10);
    assert_eq!(allocation(&mut course).buffer_id, 0);
    course.drain();
    // All of it has come back: of the pool nothing is reserved, and pages are whole again.
    let pool = course.site().worker.pool.stats();
    assert_eq!(pool.frames_reserved, 0);
    assert_eq!(course.shown.rows::<tables::Reservation>(), []);
}

#[test]
fn b03_b05_b20_what_is_shown_and_told() {
    let mut course = Course::of("tables");
    assert_eq!(course.reserve(PAIR, 100 * KIB), Outcome::Done);
    assert_eq!(course.reserve(BY_ID, 64 * KIB), Outcome::Done);
    assert_eq!(course.reserve(PAIR, 200 * KIB), Outcome::Done);
    let (outcome, failed) = course.ask(&Command::Reserve {
        target: BY_ID,
        size: ReservationSize {
            bytes: 1 << 40,
            automatic: true,
            sessions: 1,
            connections: 1,
        },
    });
    assert_eq!(outcome, Outcome::OutOfMemory);
    assert_eq!((failed.buffer_id, failed.reserved_bytes), (7, 64 * KIB));
    let room = course.site().worker.relay.log().room();
    assert!(failed.cache_free_bytes > 0 && failed.cache_free_bytes < room.bytes_total);
    course.rate(20);
    let free = course.shown.rows::<Buffers>()[0].free_bytes;
    let pool = &course.site().worker.pool;
    assert!(free.abs_diff((pool.available() * FRAME_LEN) as u64) < 512 * KIB);

    let rows = course.shown.rows::<tables::Reservation>();
    let brief: Vec<_> = rows
        .iter()
        .map(|row| (row.target, row.buffer_id, row.reserved_bytes, row.flows))
        .collect();
    assert_eq!(
        brief,
        [(PAIR, 10_239, 200 * KIB, 1), (BY_ID, 7, 64 * KIB, 0)]
    );
    assert_eq!(rows[0].held_bytes, 200 * KIB);
    assert!(rows[0].allocated_bytes >= 16 * KIB);
    assert!(rows[0].since_ns > 0 && !rows[0].automatic);
    let allocations = course.shown.rows::<Allocation>();
    assert_eq!(allocations.len(), 1);
    assert_eq!(allocations[0].target.as_str(), TARGETS[0]);
    assert_eq!(*allocations[0].remote.ip(), STORAGE);

    let cancel = Command::CancelReservation { target: PAIR };
    assert_eq!(course.ask(&cancel).0, Outcome::Done);
    let rows = course.shown.rows::<tables::Reservation>();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].target, BY_ID);

    course.pin_all();
    let events = course.shown.rows::<Event>();
    let of = |kind: EventKind| -> Vec<(Option<String>, String)> {
        events
            .iter()
            .filter(|event| event.kind == kind)
            .map(|event| {
                let before = event.before.map(|before| before.to_string());
                (before, event.now.to_string())
            })
            .collect()
    };
    let event = |before: Option<u64>, now: &str| {
        (before.map(|kib| (kib * KIB).to_string()), now.to_owned())
    };
    assert_eq!(
        of(EventKind::Reservation),
        [
            event(None, "102400"),
            event(None, "65536"),
            event(Some(100), "204800"),
            event(Some(200), "cancelled"),
        ]
    );
    assert_eq!(
        of(EventKind::ReservationFailed),
        [event(Some(64), "1099511627776")]
    );
    let short = of(EventKind::MemoryShort);
    assert!(!short.is_empty());
    assert_eq!(course.site().counter("memory_short"), short.len() as u64);
}

#[test]
fn b16_the_cache_runs_short() {
    let mut course = Course::of("cache");
    course.site().storage.hangs = true;
    let short = |course: &mut Course| course.site().counter("cache_short");
    for _ in 0..400 {
        if short(&mut course) > 0 {
            break;
        }
        course.write();
        // What was written stays, though it is written over: it is of an epoch of its own.
        let mut cdb = cdb::synchronize_cache();
        cdb[1] |= 2;
        let Course { shown, session, .. } = &mut course;
        let closes = Site::command(session, 0, 0, &cdb);
        shown.site.send(session, &closes.bytes());
        let (status, _) = shown.site.finish(session, closes.itt()).unwrap();
        assert_eq!(status, GOOD);
    }
    assert_eq!(short(&mut course), 1);
    let events = course.shown.rows::<Event>();
    let event = events
        .iter()
        .find(|event| event.kind == EventKind::CacheShort)
        .unwrap();
    assert_eq!(event.target.unwrap().as_str(), TARGETS[0]);
    assert_eq!(event.before.unwrap().as_str(), "75 %");
    let room = course.site().worker.relay.log().room();
    let used = 100 * (room.segments_total - room.segments_free) / room.segments_total;
    assert!((70..=90).contains(&used), "{used}");
}

const CONFIG: &str = r#"[[port]]
name = "lan"
device = "lan0"
address = "198.18.0.1/24"
[[port]]
name = "wan"
device = "wan0"
address = "198.19.0.1/24"
[dataplane]
frames_mib = 32
[iscsi]
sessions_max = 1
wan_send_kib = 256
[[target]]
name = "iqn.2004-03.example.sim:vol0"
address = "198.19.0.10:3260"
initiators = ["*"]
buffer_id = 7
[[reservation]]
kind = "pair"
local = "198.19.0.1"
remote = "198.19.0.10"
size = "automatic"
[[reservation]]
kind = "connection"
buffer_id = 7
size_kib = 512
"#;

/// As a start does it, on a site's worker in place of one with real ports.
fn start_with(state: &State) -> (Site, Result<(), StartError>) {
    let config = Config::parse(CONFIG).expect("a good file");
    let size = Size {
        pool_pages: 400,
        ..SIZE
    };
    let mut site = Site::of(size, |_| ());
    let now = site.now;
    let made = start::reserve(&mut site.worker, &config, state, now);
    (site, made)
}

#[test]
fn b06_reservations_are_made_at_start_or_it_is_refused() {
    let config = Config::parse(CONFIG).expect("a good file");
    let (site, made) = start_with(&State::default());
    made.unwrap();
    let registry = &site.worker.relay.reservations;
    // What nothing is known of begins with what a connection has without.
    let sizes = [10_239, 7].map(|number| {
        let reservation = sluice_hugepages::pool::Reservation(number);
        let size = registry.size_of(reservation).unwrap();
        (size.bytes, size.automatic)
    });
    assert_eq!(sizes, [(256 * KIB, true), (512 * KIB, false)]);
    assert_eq!(registry.find_for(0).0, 7, "it presents the id");

    // As it was changed live: sized anew, cancelled, presenting nothing.
    let mut state = State::default();
    let pair = config.reservations[0];
    state.reserve(sluice_config::Reservation {
        size_kib: Some(768),
        ..pair
    });
    state.cancel_reservation(config.reservations[1].target, &config);
    let (site, made) = start_with(&state);
    made.unwrap();
    let registry = &site.worker.relay.reservations;
    assert_eq!(registry.len(), 1);
    let found = registry.find_for(0);
    assert_eq!(registry.limit(found), Some(192));

    // More than there is: which, what it wants, what is free, and by how much too little.
    state.reserve(sluice_config::Reservation {
        size_kib: Some(1 << 20),
        ..pair
    });
    let (site, made) = start_with(&state);
    let free_kib = site.worker.pool.available() as u64 * 4;
    let message = made.unwrap_err().to_string();
    let expected = format!(
        "reservation pair 198.19.0.1 to 198.19.0.10: it wants 1048576 KiB and {free_kib} KiB are free, {} KiB too few",
        (1 << 20) - free_kib
    );
    assert!(message.starts_with(&expected), "{message}");
}

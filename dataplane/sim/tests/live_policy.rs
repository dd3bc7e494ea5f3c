//! Every parameter of the flush policy, changed while a computer writes: what the
//! volume does by it shows within 100 ms.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

mod shown;

use std::time::Duration;

use sluice_dataplane::worker::task::VolumeKey;
use sluice_hugepages::tables::{
    Command, Durability, FlushSetting, HeldUp, Outcome, Scope, Volume, text,
};
use sluice_sim::site::{Session, Site, TARGETS};
use sluice_sim::storage::LUN;

use shown::Shown;

const GOOD: u8 = 0;
const VOLUME: VolumeKey = VolumeKey(0);
const WITHIN: Duration = Duration::from_millis(100);
const ONE_WAY: Duration = Duration::from_millis(5);
const NEVER_MS: u64 = 3_600_000;
const MUCH_BYTES: u64 = 8 << 20;

/// Nothing is flushed but by request, and nothing is skipped.
const QUIET: FlushSetting = FlushSetting {
    threshold_bytes: Some(MUCH_BYTES),
    stop_bytes: None,
    period_ms: Some(NEVER_MS),
    idle_ms: Some(0),
    load_limit_ms: Some(0),
    load_limit_percent: Some(0),
};
const NONE: FlushSetting = FlushSetting {
    threshold_bytes: None,
    stop_bytes: None,
    period_ms: None,
    idle_ms: None,
    load_limit_ms: None,
    load_limit_percent: None,
};

struct Course {
    site: Site,
    session: Session,
    scope: Scope,
    written: u32,
}

impl Course {
    fn new(scope: &Scope) -> Self {
        let mut site = Site::small();
        site.delay_wan(ONE_WAY);
        let session = site.login(0, 0, 1);
        let mut course = Self {
            site,
            session,
            scope: scope.clone(),
            written: 0,
        };
        course.set(QUIET);
        course
    }

    fn set(&mut self, setting: FlushSetting) {
        let scope = self.scope.clone();
        let command = Command::SetFlush { scope, setting };
        let relay = &mut self.site.worker.relay;
        let (outcome, volumes) = relay.command_from_control(self.site.now, &command);
        assert_eq!((outcome, volumes > 0), (Outcome::Done, true));
    }

    /// The computer writes a block a millisecond, and sees nothing of it.
    fn write_for(&mut self, time: Duration) {
        let end = self.site.now + time;
        while self.site.now < end {
            self.written += 1;
            let lba = u64::from(self.written % 1024);
            let begun = self.site.now;
            let status = self.site.write(&mut self.session, lba, self.written);
            assert_eq!(status, Some(GOOD), "the session goes on");
            assert!(self.site.now.since(begun) < Duration::from_millis(5));
            self.site.run(Duration::from_millis(1));
        }
    }

    fn flushed(&self) -> u64 {
        self.site.storage.counters.writes
    }

    fn is_skipped(&self) -> bool {
        self.site.worker.relay.held_up(VOLUME) == HeldUp::Loaded
    }

    /// Flushes all the time, to a storage that takes some 50 ms.
    fn flush_to_a_loaded_storage(&mut self) {
        self.set(FlushSetting {
            period_ms: Some(10),
            ..NONE
        });
        self.write_for(Duration::from_millis(500));
        self.site.storage.latency_max = Duration::from_millis(100);
        self.write_for(Duration::from_secs(2));
        assert!(!self.is_skipped());
    }
}

fn scopes() -> [Scope; 3] {
    let target = text(TARGETS[0]);
    [
        Scope::All,
        Scope::Target(target),
        Scope::Volume { target, lun: LUN },
    ]
}

#[test]
fn a15_a_threshold_or_a_period_changed_live_is_kept_to_within_100_ms() {
    let threshold = FlushSetting {
        threshold_bytes: Some(4096),
        ..NONE
    };
    let period = FlushSetting {
        period_ms: Some(10),
        ..NONE
    };
    for scope in scopes() {
        for setting in [threshold, period] {
            let mut course = Course::new(&scope);
            course.write_for(Duration::from_secs(1));
            assert_eq!(course.flushed(), 0, "nothing is due");
            course.set(setting);
            course.write_for(WITHIN);
            assert!(course.flushed() > 0, "{scope:?} {setting:?}");
        }
    }
}

/// Idle time counts from the last write; one that is set late is over at once.
#[test]
fn a15_a_volume_that_has_been_idle_is_flushed_and_not_before() {
    let idle = |ms| FlushSetting {
        idle_ms: Some(ms),
        ..NONE
    };
    for scope in scopes() {
        let mut course = Course::new(&scope);
        course.set(idle(500));
        course.write_for(Duration::from_secs(1));
        course.site.run(Duration::from_millis(480));
        assert_eq!(course.flushed(), 0, "{scope:?}: not idle for so long");
        course.site.run(WITHIN);
        assert!(course.flushed() > 0, "{scope:?}");
        course.site.run(Duration::from_secs(1));
        assert_eq!(course.site.worker.relay.dirty_bytes(), 0, "all of it");

        course.set(idle(0));
        let before = course.flushed();
        course.write_for(Duration::from_millis(200));
        course.site.run(Duration::from_secs(10));
        assert_eq!(course.flushed(), before, "{scope:?}: never");
        course.set(idle(10));
        course.site.run(WITHIN);
        assert!(course.flushed() > before, "{scope:?}");
    }
}

#[test]
fn a18_a_load_limit_changed_live_is_kept_to_within_100_ms() {
    let by_time = FlushSetting {
        load_limit_ms: Some(20),
        ..NONE
    };
    let by_share = FlushSetting {
        load_limit_percent: Some(150),
        ..NONE
    };
    for scope in scopes() {
        for setting in [by_time, by_share] {
            let mut course = Course::new(&scope);
            course.flush_to_a_loaded_storage();
            course.set(setting);
            course.write_for(WITHIN);
            assert!(course.is_skipped(), "{scope:?} {setting:?}");
            // What was under way has ended.
            course.write_for(Duration::from_millis(300));
            assert!(course.is_skipped());
            // The storage counts writes when it has done them; that it is quick again nobody
            // knows yet.
            course.site.storage.latency_max = Duration::from_millis(1);
            let before = course.flushed();
            course.set(FlushSetting {
                load_limit_ms: Some(0),
                load_limit_percent: Some(0),
                ..NONE
            });
            course.write_for(WITHIN);
            assert!(!course.is_skipped(), "{scope:?} {setting:?}");
            assert!(course.flushed() > before, "{scope:?} {setting:?}");
        }
    }
}

/// The row of a unit that nobody has logged in to is not the default's.
#[test]
fn a7_what_is_set_for_a_volume_is_shown_before_it_is_seen() {
    let mut shown = Shown::new("unseen");
    let row = |shown: &mut Shown| {
        let mut rows = shown.rows::<Volume>();
        let at = rows
            .iter()
            .position(|row| row.target.as_str() == TARGETS[1]);
        rows.swap_remove(at.unwrap())
    };
    let default = row(&mut shown);
    let now = shown.site.now;
    let command = |setting| Command::SetFlush {
        scope: Scope::Target(text(TARGETS[1])),
        setting,
    };
    let setting = FlushSetting {
        threshold_bytes: Some(64 << 10),
        stop_bytes: Some(1 << 30),
        period_ms: Some(70),
        idle_ms: Some(20),
        load_limit_ms: Some(300),
        load_limit_percent: None,
    };
    let relay = &mut shown.site.worker.relay;
    relay.command_from_control(now, &command(setting));
    relay.command_from_control(now, &Command::Drain { on: true });
    let set = row(&mut shown);
    assert_eq!(set.blocks, 0, "unseen");
    assert_eq!(
        (set.flush_threshold_bytes, set.flush_period_ns),
        (64 << 10, 70_000_000)
    );
    assert_eq!(set.flush_load_limit_us, Some(300_000));
    assert_eq!(
        (set.flush_stop_bytes, set.flush_idle_ns),
        (64 << 10, 20_000_000),
        "as they are in force"
    );
    assert_eq!(default.flush_stop_bytes, default.flush_threshold_bytes / 2);
    assert_eq!(set.durability, Durability::Storage, "the one in force");
    assert_ne!(default.flush_period_ns, set.flush_period_ns);
    let first = shown.volume();
    assert_eq!(first.flush_period_ns, default.flush_period_ns);
}

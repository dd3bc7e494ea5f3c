//! A storage that takes long to answer is left alone until it recovers.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_dataplane::worker::task::VolumeKey;
use sluice_hugepages::tables::{FlushSetting, HeldUp, Scope};
use sluice_sim::site::{Session, Site};

const GOOD: u8 = 0;
const VOLUME: VolumeKey = VolumeKey(0);
/// Written in steps of so long, a block each.
const STEP: Duration = Duration::from_millis(25);

struct Course {
    site: Site,
    session: Session,
    written: u32,
}

/// What happened in a while.
struct Seen {
    /// Blocks on the storage's medium more than before, of those that were written.
    flushed: usize,
    written: u32,
    /// Times that the volume began or ended to be skipped.
    turns: u32,
    skipped: bool,
}

impl Course {
    fn new(setting: FlushSetting) -> Self {
        let mut site = Site::small();
        site.delay_wan(Duration::from_millis(10));
        let session = site.login(0, 0, 1);
        let setting = FlushSetting {
            threshold_bytes: Some(16 << 10),
            period_ms: Some(100),
            ..setting
        };
        site.worker.relay.set_flush(&Scope::All, &setting);
        Self {
            site,
            session,
            written: 0,
        }
    }

    fn on_media(&self) -> usize {
        let media = &self.site.storage.volumes[0].media;
        media.iter().filter(|&&number| number != 0).count()
    }

    fn skipped(&self) -> bool {
        self.site.worker.relay.held_up(VOLUME) == HeldUp::Loaded
    }

    fn run(&mut self, time: Duration) -> Seen {
        let before = self.on_media();
        let steps = u32::try_from(time.as_nanos() / STEP.as_nanos()).unwrap();
        let (mut turns, mut skipped) = (0, self.skipped());
        for _ in 0..steps {
            let lba = u64::from(self.written);
            self.written += 1;
            let status = self.site.write(&mut self.session, lba, self.written);
            assert_eq!(status, Some(GOOD));
            self.site.run(STEP);
            if self.skipped() != skipped {
                skipped = !skipped;
                turns += 1;
            }
        }
        Seen {
            flushed: self.on_media() - before,
            written: steps,
            turns,
            skipped,
        }
    }

    fn slow_down(&mut self, latency_max: Duration) {
        self.site.storage.latency_max = latency_max;
    }
}

fn left_alone_and_taken_up_again(setting: FlushSetting) {
    let mut course = Course::new(setting);
    let well = course.run(Duration::from_secs(3));
    assert!(!well.skipped && well.turns == 0);
    assert!(
        well.flushed * 10 >= well.written as usize * 8,
        "it keeps up"
    );
    course.slow_down(Duration::from_millis(900));
    let noticed = course.run(Duration::from_secs(2));
    assert!(noticed.skipped && noticed.turns == 1);
    let alone = course.run(Duration::from_secs(6));
    assert!(alone.skipped && alone.turns == 0);
    assert!(
        alone.flushed * 20 <= alone.written as usize,
        "{} of {} while it is loaded",
        alone.flushed,
        alone.written
    );
    course.slow_down(Duration::from_micros(100));
    let again = course.run(Duration::from_secs(8));
    assert!(!again.skipped && again.turns == 1, "{} turns", again.turns);
    assert!(
        again.flushed > again.written as usize,
        "what was left to do is done, too"
    );
}

#[test]
fn a18_a_limit_in_milliseconds() {
    left_alone_and_taken_up_again(FlushSetting {
        load_limit_ms: Some(200),
        ..FlushSetting::default()
    });
}

#[test]
fn a18_a_limit_by_the_response_time_at_rest() {
    left_alone_and_taken_up_again(FlushSetting {
        load_limit_percent: Some(600),
        ..FlushSetting::default()
    });
}

/// What is asked for is flushed whatever the load, and without a limit nothing is skipped.
#[test]
fn a18_without_a_limit_and_by_request() {
    let mut course = Course::new(FlushSetting::default());
    course.run(Duration::from_secs(1));
    course.slow_down(Duration::from_millis(350));
    let seen = course.run(Duration::from_secs(5));
    assert!(!seen.skipped && seen.flushed * 2 > seen.written as usize);
    let limit = FlushSetting {
        load_limit_ms: Some(100),
        ..FlushSetting::default()
    };
    course.site.worker.relay.set_flush(&Scope::All, &limit);
    assert!(course.run(Duration::from_secs(3)).skipped);
    let sync = course.site.synchronize(&mut course.session);
    assert_eq!(sync, Some(GOOD));
    assert_eq!(course.on_media(), course.written as usize);
}

//! The write cache runs short of room (B-16): the paths that drain it are measured again, and
//! what is reserved for them grows if they call for more, before the cache is full.

use std::net::{Ipv4Addr, SocketAddrV4};

use sluice_hugepages::tables::{Buffers, Event, EventKind, Path, Volume};

use super::{Action, SECOND, View};
use crate::sizing::Paths;

/// A measurement that has not ended by then is not waited for.
const MEASURE_MAX_NS: u64 = 3 * SECOND;
/// While it lasts, between two evaluations.
const AGAIN_NS: u64 = 5 * SECOND;
/// It is over when so much less is used than the warning threshold.
const OVER_PERCENT: u64 = 10;

#[derive(Debug)]
pub(super) struct Shortage {
    warning_percent: u8,
    /// The first event not yet seen; none before the first look: what is long over by then
    /// is none of our business, and what lasts is seen in the rows.
    next_event: Option<u64>,
    short: bool,
    again_at_ns: u64,
    measuring: Option<Measuring>,
}

#[derive(Debug)]
struct Measuring {
    /// With how many measurements had ended before.
    paths: Vec<(Ipv4Addr, SocketAddrV4, u64)>,
    until_ns: u64,
}

/// Paths whose reservations are to be raised now.
#[derive(Debug, Default)]
pub(super) struct Raise(Vec<(Ipv4Addr, SocketAddrV4)>);

impl Raise {
    pub fn covers<'a>(&self, mut paths: impl Iterator<Item = &'a Path>) -> bool {
        !self.0.is_empty() && paths.any(|path| self.0.contains(&(path.local, path.remote)))
    }
}

impl Shortage {
    pub fn new(warning_percent: u8) -> Self {
        Self {
            warning_percent,
            next_event: None,
            short: false,
            again_at_ns: 0,
            measuring: None,
        }
    }

    pub fn is_short(&self) -> bool {
        self.short || self.measuring.is_some()
    }

    pub fn look(
        &mut self,
        view: &View<'_>,
        paths: &Paths<'_>,
        now_ns: u64,
        actions: &mut Vec<Action>,
    ) -> Raise {
        let told = self.new_events(view.events);
        let used = view.buffers.and_then(used_percent);
        let warning = u64::from(self.warning_percent);
        if self.short && used.is_some_and(|used| used + OVER_PERCENT < warning) {
            self.short = false;
            actions.push(Action::Tell("the write cache has room again".to_owned()));
        }
        let is_short = used.is_some_and(|used| used >= warning);
        let due = (is_short || self.short) && now_ns >= self.again_at_ns;
        if self.measuring.is_none() && (due || !told.is_empty()) {
            self.begin(view, paths, &told, used, now_ns, actions);
        }
        self.end(view, now_ns)
    }

    /// What the data plane tells of, and nobody has looked at.
    fn new_events<'a>(&mut self, events: &'a [Event]) -> Vec<&'a Event> {
        let behind = events.iter().map(|event| event.number + 1).max();
        let first = self.next_event.or(behind).unwrap_or(0);
        self.next_event = Some(behind.unwrap_or(0).max(first));
        let is_news = |event: &&Event| event.kind == EventKind::CacheShort && event.number >= first;
        events.iter().filter(is_news).collect()
    }

    fn begin(
        &mut self,
        view: &View<'_>,
        paths: &Paths<'_>,
        told: &[&Event],
        used: Option<u64>,
        now_ns: u64,
        actions: &mut Vec<Action>,
    ) {
        self.again_at_ns = now_ns + AGAIN_NS;
        let storages = drained_to(view.volumes, told);
        let is_meant = |path: &&Path| storages.is_empty() || storages.contains(&path.remote);
        let mut meant: Vec<&Path> = Vec::new();
        for row in view.reservations {
            for path in paths.of(row.target).filter(is_meant) {
                if !meant.contains(&path) {
                    meant.push(path);
                }
            }
        }
        if !self.short {
            self.short = true;
            let used = used.map_or(String::new(), |used| format!(": {used} % of it are used"));
            let next = if meant.is_empty() {
                "nothing is reserved for the path that drains it; see `sluicectl reserve`"
            } else {
                "the paths that drain it are measured again"
            };
            actions.push(Action::Warn(format!(
                "the write cache runs short of room{used}; {next}"
            )));
        }
        if meant.is_empty() {
            return;
        }
        actions.extend(meant.iter().map(|path| Action::Measure {
            local: path.local,
            remote: path.remote,
        }));
        let with_count = |path: &&Path| (path.local, path.remote, path.measured);
        self.measuring = Some(Measuring {
            paths: meant.iter().map(with_count).collect(),
            until_ns: now_ns + MEASURE_MAX_NS,
        });
    }

    fn end(&mut self, view: &View<'_>, now_ns: u64) -> Raise {
        let Some(measuring) = &self.measuring else {
            return Raise::default();
        };
        let is_fresh = |(local, remote, before): &(Ipv4Addr, SocketAddrV4, u64)| {
            let row = view
                .paths
                .iter()
                .find(|path| (path.local, path.remote) == (*local, *remote));
            row.is_none_or(|path| path.measured != *before)
        };
        if now_ns < measuring.until_ns && !measuring.paths.iter().all(is_fresh) {
            return Raise::default();
        }
        let paths = measuring.paths.iter();
        let raise = paths.map(|(local, remote, _)| (*local, *remote)).collect();
        self.measuring = None;
        self.again_at_ns = now_ns + AGAIN_NS;
        Raise(raise)
    }
}

fn used_percent(buffers: &Buffers) -> Option<u64> {
    let used = buffers
        .log_segments
        .saturating_sub(buffers.log_segments_free);
    used.checked_mul(100)?.checked_div(buffers.log_segments)
}

/// The storages that what is cached goes to: those of the targets told of, else of all that
/// have something.
fn drained_to(volumes: &[Volume], told: &[&Event]) -> Vec<SocketAddrV4> {
    let is_told = |volume: &Volume| {
        told.iter()
            .any(|event| event.target.as_ref() == Some(&volume.target))
    };
    let of = |meant: &dyn Fn(&Volume) -> bool| -> Vec<SocketAddrV4> {
        let volumes = volumes.iter().filter(|volume| meant(volume));
        volumes.map(|volume| volume.storage).collect()
    };
    let named = of(&is_told);
    if named.is_empty() {
        of(&|volume| volume.dirty_bytes > 0)
    } else {
        named
    }
}

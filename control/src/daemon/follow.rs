//! Looks at the rows of the data plane four times a second and does what the [`monitor`]
//! says; and brings a data plane that is there to what it is to have ([`reconcile`]).
//!
//! [`monitor`]: super::monitor
//! [`reconcile`]: super::reconcile

use std::time::{Duration, Instant};

use sluice_config::Reservation;
use sluice_hugepages::shm::{SegmentReader, monotonic_ns};
use sluice_hugepages::tables::{self, Command, Outcome, ReservationSize, ReservationTarget, Row};
use sluice_hugepages::tables::{Buffers, Event, Path, Volume, text};

use super::monitor::{Action, Monitor, View, Why};
use super::plane::PlaneError;
use super::policy::Policy;
use super::reconcile;
use crate::amount;
use crate::sizing::{self, BUFFER_BYTES, shown, wire};

/// Between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
/// Sizes that followed are in the state file by then.
const SAVE_PERIOD: Duration = Duration::from_secs(1);
/// A data plane that has just started has not shown all its rows.
const SETTLE: Duration = Duration::from_secs(1);
/// What did not fit is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Commands before somebody else's request is answered.
const AT_ONCE: usize = 64;

/// How far the data plane that is there has been brought.
#[derive(Debug)]
pub(super) struct Follow {
    monitor: Monitor,
    looked: Option<Instant>,
    attached: Instant,
    /// When the rows are held against what is wanted again; `None`: they are as they should be.
    reconcile_at: Option<Instant>,
    /// Refused last time, so that it is said once.
    said: Vec<String>,
    /// The first time sizes that followed a path are taken over.
    first: bool,
    /// Targets that have been told what to present; no row shows that.
    presented: usize,
    unsaved: bool,
    saved: Option<Instant>,
}

impl Follow {
    /// For a data plane that has just been attached to.
    pub fn new(cache_warning_percent: u8) -> Self {
        Self {
            monitor: Monitor::new(cache_warning_percent),
            looked: None,
            attached: Instant::now(),
            reconcile_at: Some(Instant::now()),
            said: Vec::new(),
            first: true,
            presented: 0,
            unsaved: false,
            saved: None,
        }
    }
}

fn rows<T: Row>(reader: &SegmentReader) -> Vec<T> {
    // One that cannot be read now can be the next time.
    let rows = reader.rows::<T>().rows;
    rows.into_iter().map(|(_, row)| row).collect()
}

impl Policy {
    /// Called all the time; acts when it is time to. The data plane has the rest of the state.
    pub(super) fn follow(&mut self) {
        let now = Instant::now();
        let is_due = |at: Instant| at <= now;
        if self.follow.looked.is_some_and(|at| at + LOOK_PERIOD > now) {
            return;
        }
        self.follow.looked = Some(now);
        let done = if self.follow.reconcile_at.is_some_and(is_due) {
            self.reconcile()
        } else {
            self.act(monotonic_ns())
        };
        if let Err(error) = done {
            // The next attach begins again.
            log::warn!("reservations are not looked after: {error}");
        }
        self.save_sizes(false);
    }

    /// Keeps the sizes that have followed their paths; at the end of the daemon, at once.
    pub(super) fn save_sizes(&mut self, at_once: bool) {
        let recent = |at: Instant| at.elapsed() < SAVE_PERIOD;
        if !self.follow.unsaved || !at_once && self.follow.saved.is_some_and(recent) {
            return;
        }
        self.follow.saved = Some(Instant::now());
        match self.state.save(&self.config.control.state) {
            Ok(()) => self.follow.unsaved = false,
            Err(error) => log::error!("{error}"),
        }
    }

    fn reconcile(&mut self) -> Result<(), PlaneError> {
        let Some(reader) = self.plane.reader() else {
            return Ok(());
        };
        let has = rows::<tables::Reservation>(reader);
        let paths = rows::<Path>(reader);
        let otherwise = u64::from(self.config.iscsi.wan_send_bytes);
        let wanted = self.state.effective_reservations(&self.config);
        if std::mem::take(&mut self.follow.first) {
            self.take_over(&wanted, &has, otherwise);
        }
        let mut commands = reconcile::commands(&wanted, otherwise, &has);
        commands.extend(reconcile::path_commands(&self.state.paths, &paths));
        let mut targets = wanted.iter().map(|own| wire(own.target));
        let by_id = |target| matches!(target, ReservationTarget::Connection { .. });
        if targets.any(by_id) || has.iter().any(|row| by_id(row.target)) {
            commands.extend(self.presents(AT_ONCE.saturating_sub(commands.len())));
        } else {
            self.follow.presented = self.config.targets.len();
        }
        let is_all =
            commands.len() <= AT_ONCE && self.follow.presented == self.config.targets.len();
        let mut refused = Vec::new();
        for command in commands.into_iter().take(AT_ONCE) {
            if let Some(why) = self.bring(&command)? {
                refused.push(why);
            }
        }
        for why in refused.iter().filter(|why| !self.follow.said.contains(why)) {
            log::warn!("{why}");
        }
        let now = Instant::now();
        self.follow.reconcile_at = if !is_all || now < self.follow.attached + SETTLE {
            Some(now)
        } else if refused.is_empty() {
            None
        } else {
            // What was not there may be by then, and be presented.
            self.follow.presented = 0;
            Some(now + TRY_AGAIN)
        };
        self.follow.said = refused;
        Ok(())
    }

    /// What the next targets present, as commands.
    fn presents(&mut self, at_most: usize) -> Vec<Command> {
        let targets = self.config.targets.iter();
        let next = targets.skip(self.follow.presented).take(at_most);
        let commands: Vec<Command> = next
            .map(|target| Command::PresentBufferId {
                target: text(&target.name),
                buffer_id: self.state.buffer_id(target),
            })
            .collect();
        self.follow.presented += commands.len();
        commands
    }

    /// Sizes that the data plane has and the state does not: a daemon ended between the two.
    fn take_over(&mut self, wanted: &[Reservation], has: &[tables::Reservation], otherwise: u64) {
        for row in has {
            let target = reconcile::configured(row.target);
            // In order of target, as the state gives them.
            let Ok(at) = wanted.binary_search_by_key(&target, |own| own.target) else {
                continue;
            };
            let size = reconcile::size_of(&wanted[at], otherwise);
            if reconcile::follows(row, &size) && row.reserved_bytes != size.bytes {
                self.state.reserve(Reservation {
                    size_kib: Some(row.reserved_bytes / 1024),
                    ..wanted[at]
                });
                self.follow.unsaved = true;
            }
        }
    }

    /// Says why, if the data plane does not take it.
    fn bring(&mut self, command: &Command) -> Result<Option<String>, PlaneError> {
        let completion = self.plane.command(command)?;
        let outcome = completion.outcome;
        if outcome == Outcome::Done {
            return Ok(None);
        }
        Ok(match command {
            // It has gone meanwhile.
            Command::CancelReservation { .. } => None,
            Command::Reserve { target, size } => {
                let (name, free) = (shown(*target), completion.buffers.free_bytes);
                let fits = completion.buffers.reserved_bytes.saturating_add(free) / BUFFER_BYTES
                    * BUFFER_BYTES;
                if outcome == Outcome::OutOfMemory && size.automatic && fits > 0 {
                    // All that is free; it grows when more is.
                    let size = ReservationSize {
                        bytes: fits,
                        ..*size
                    };
                    let target = *target;
                    self.plane.command(&Command::Reserve { target, size })?;
                }
                Some(format!(
                    "reservation {name} of {} cannot be had ({outcome:?}, {} are free); cancel or shrink another, or raise frames_mib",
                    amount::bytes(size.bytes),
                    amount::bytes(free)
                ))
            }
            Command::PresentBufferId { target, .. } => Some(format!(
                "what connections of {target} present was not taken: {outcome:?}"
            )),
            _ => Some(format!("{command:?} was not taken: {outcome:?}")),
        })
    }

    fn act(&mut self, now_ns: u64) -> Result<(), PlaneError> {
        let Some(reader) = self.plane.reader() else {
            return Ok(());
        };
        let reservations = rows::<tables::Reservation>(reader);
        let (paths, volumes) = (rows::<Path>(reader), rows::<Volume>(reader));
        let events = rows::<Event>(reader);
        let buffers = rows::<Buffers>(reader).into_iter().next();
        let presented = sizing::presented(&self.config, &self.state);
        let view = View {
            paths: &paths,
            reservations: &reservations,
            volumes: &volumes,
            events: &events,
            buffers: buffers.as_ref(),
            presented: &presented,
        };
        for action in self.follow.monitor.look(&view, now_ns) {
            match action {
                Action::Tell(text) => log::info!("{text}"),
                Action::Warn(text) => log::warn!("{text}"),
                Action::Measure { local, remote } => {
                    let command = Command::MeasurePath { local, remote };
                    let outcome = self.plane.command(&command)?.outcome;
                    if outcome != Outcome::Done {
                        log::warn!("path {local} {remote} is not measured: {outcome:?}");
                    }
                }
                Action::Reserve {
                    target,
                    from_bytes,
                    size,
                    why,
                } => self.resize(target, from_bytes, size, why, now_ns)?,
            }
        }
        Ok(())
    }

    fn resize(
        &mut self,
        target: ReservationTarget,
        from_bytes: u64,
        size: ReservationSize,
        why: Why,
        now_ns: u64,
    ) -> Result<(), PlaneError> {
        let outcome = self
            .plane
            .command(&Command::Reserve { target, size })?
            .outcome;
        let name = shown(target);
        let to = amount::bytes(size.bytes);
        if outcome != Outcome::Done {
            log::warn!("reservation {name} was not brought to {to}: {outcome:?}");
            self.follow.monitor.refused(target, now_ns);
            return Ok(());
        }
        let counts = |count: u16| (count > 0).then_some(count);
        self.state.reserve(Reservation {
            target: reconcile::configured(target),
            automatic: size.automatic,
            size_kib: Some(size.bytes / 1024),
            sessions: counts(size.sessions),
            connections: counts(size.connections),
        });
        self.follow.unsaved = true;
        let (from, why) = (amount::bytes(from_bytes), why.as_str());
        if size.automatic {
            log::info!("reservation {name}: {from} -> {to}, because {why}");
        } else {
            log::warn!(
                "reservation {name}: {from} -> {to}, though its size was typed in, because {why}; it stays so until it is set again"
            );
        }
        Ok(())
    }
}

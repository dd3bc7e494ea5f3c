//! What is in force: the configuration, the live changes over it, and which
//! data plane has them.

use sluice_config::{Config, FlushParameter, FlushSet, State, StateError, VolumeName};
use sluice_hugepages::tables::{Command, FlushSetting, Name, Outcome, Scope, text};

use super::follow::Follow;
use super::plane::{Plane, PlaneError};
use crate::protocol::{FailureKind, Reply, Request};

#[derive(Debug)]
pub(super) struct Policy {
    pub(super) config: Config,
    pub(super) state: State,
    pub(super) plane: Plane,
    pub(super) follow: Follow,
    /// The start of the data plane that has all of `state`, or is being brought there by
    /// [`Policy::follow`].
    applied: Option<u64>,
}

impl Policy {
    pub fn load(config: Config) -> Result<Self, StateError> {
        let state = State::load(&config.control.state)?;
        state.check(&config, &config.control.state)?;
        for (_, why) in state.stray_reservations(&config) {
            log::warn!("a reservation of the state file is left out: {why}");
        }
        let plane = Plane::new(&config.dataplane.segment);
        Ok(Self {
            follow: Follow::new(config.control.cache_warning_percent),
            config,
            state,
            plane,
            applied: None,
        })
    }

    /// Looks after the data plane: one that has started gets every change again.
    pub fn watch(&mut self) {
        match self.plane.attach() {
            Ok(instance) if self.applied == Some(instance) => self.follow(),
            Ok(instance) => match self.apply_all() {
                Ok(()) => {
                    self.applied = Some(instance);
                    self.save_sizes(true);
                    self.follow = Follow::new(self.config.control.cache_warning_percent);
                }
                Err(error) => log::warn!("live changes are not all in force yet: {error}"),
            },
            Err(_) => self.applied = None,
        }
    }

    fn apply_all(&mut self) -> Result<(), PlaneError> {
        let default = (None, self.state.flush);
        let volumes = self
            .state
            .volumes
            .iter()
            .map(|volume| (Some(&volume.name), volume.flush));
        for (name, change) in std::iter::once(default).chain(volumes) {
            if change.is_empty() {
                continue;
            }
            let command = set_flush(name, change);
            let completion = self.plane.command(&command)?;
            if completion.outcome != Outcome::Done {
                let name = name.map_or("default".to_owned(), ToString::to_string);
                log::warn!(
                    "live change for {name} was not taken: {:?}",
                    completion.outcome
                );
            }
        }
        Ok(())
    }

    pub fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Ping => Reply::Pong,
            Request::Version => Reply::Version {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                attached: self.plane.attach().is_ok(),
            },
            Request::SetFlush { volume, set } => either(self.set_flush(volume, set)),
            Request::Flush { volume } => {
                let command = |scope| Command::FlushVolume { scope };
                either(self.scoped(&volume, command))
            }
            Request::RetryFailed { volume } => {
                let command = |scope| Command::RetryFailed { scope };
                let reply = self.scoped(&volume, command);
                if let Ok(Reply::Done { volumes }) = reply {
                    log::warn!("refused writes of {volume} are sent again ({volumes} volumes)");
                }
                either(reply)
            }
            Request::DiscardFailed { volume, stamp } => either(self.discard(&volume, stamp)),
            Request::Drain { on } => {
                let reply = self.command(&Command::Drain { on }, None);
                match &reply {
                    Ok(left) if on => log::warn!(
                        "draining: nothing is acknowledged from the cache any more; {left} volumes are to be flushed"
                    ),
                    Ok(_) => log::warn!("no drain: writes are cached again"),
                    Err(_) => {}
                }
                reply.map_or_else(|failed| failed, |volumes| Reply::Done { volumes })
            }
            Request::Reserve {
                reservation,
                update,
            } => either(self.reserve(reservation, update)),
            Request::Cancel { reservation } => either(self.cancel(&reservation)),
            Request::Query { reservation } => either(self.query_reservation(reservation)),
            Request::Present { target, buffer_id } => either(self.present(&target, buffer_id)),
            Request::SetPath(values) => either(self.set_path(values, true)),
            Request::ReportPath(values) => either(self.set_path(values, false)),
            Request::MeasurePath { local, remote } => {
                either(self.path_command(&Command::MeasurePath { local, remote }))
            }
        }
    }

    fn set_flush(&mut self, volume: Option<String>, asked: FlushSet<i64>) -> Result<Reply, Reply> {
        let name: Option<VolumeName> = volume
            .map(|name| name.parse())
            .transpose()
            .map_err(bad_request)?;
        let log_bytes = self.config.dataplane.log_bytes;
        let change = asked.check(log_bytes).map_err(bad_request)?;
        if change.is_empty() {
            return Err(bad_request(
                "nothing to set; give a threshold, a period, a load limit or several of them",
            ));
        }
        let volumes = self.command(&set_flush(name.as_ref(), change), name.as_ref())?;
        self.state.set(name.as_ref(), change);
        self.keep()?;
        log::info!("flush policy of {} set: {change}", shown(name.as_ref()));
        Ok(Reply::Done { volumes })
    }

    /// What the data plane has is in the state file, too.
    pub(super) fn keep(&self) -> Result<(), Reply> {
        self.state
            .save(&self.config.control.state)
            .map_err(|error| {
                log::error!("{error}");
                Reply::Failed {
                    kind: FailureKind::NotKept,
                    message: format!("in force, but it will not outlive a restart: {error}"),
                }
            })
    }

    fn scoped(
        &mut self,
        volume: &str,
        command: impl FnOnce(Scope) -> Command,
    ) -> Result<Reply, Reply> {
        let name: Option<VolumeName> = match volume {
            "all" => None,
            name => Some(name.parse().map_err(bad_request)?),
        };
        let volumes = self.command(&command(scope(name.as_ref())), name.as_ref())?;
        Ok(Reply::Done { volumes })
    }

    fn discard(&mut self, volume: &str, stamp: u64) -> Result<Reply, Reply> {
        let name: VolumeName = volume.parse().map_err(bad_request)?;
        if name.lun.is_none() {
            return Err(bad_request(format!(
                "{volume}: names every LUN of a target; a discard is of one volume, TARGET/LUN"
            )));
        }
        let command = Command::DiscardFailed {
            scope: scope(Some(&name)),
            stamp,
        };
        let volumes = self.command(&command, Some(&name))?;
        log::warn!("{volumes} refused writes of volume {name} were discarded");
        Ok(Reply::Done { volumes })
    }

    /// How many volumes it was about.
    fn command(&mut self, command: &Command, name: Option<&VolumeName>) -> Result<u32, Reply> {
        let completion = self.plane_command(command)?;
        let name = shown(name);
        match completion.outcome {
            Outcome::Done => Ok(completion.volumes),
            Outcome::UnknownVolume => Err(Reply::Failed {
                kind: FailureKind::UnknownVolume,
                message: format!("{name}: no such volume; `sluicectl show volumes` lists them"),
            }),
            Outcome::Changed => Err(Reply::Failed {
                kind: FailureKind::Changed,
                message: format!(
                    "{name}: other writes are refused now than were listed, or one is on its way still; nothing was changed. Look again with `sluicectl volume failed`"
                ),
            }),
            Outcome::OutOfRange
            | Outcome::OutOfMemory
            | Outcome::UnknownReservation
            | Outcome::UnknownPath
            | Outcome::NoReservationLeft => Err(bad_request(format!(
                "{name}: the data plane refused the value"
            ))),
            Outcome::Malformed => Err(bad_request(
                "the data plane does not know this command; use the programs of one release",
            )),
        }
    }
}

fn either(answer: Result<Reply, Reply>) -> Reply {
    answer.unwrap_or_else(|failed| failed)
}

pub(super) fn no_data_plane(error: &PlaneError) -> Reply {
    Reply::Failed {
        kind: FailureKind::NoDataPlane,
        message: error.to_string(),
    }
}

pub(super) fn bad_request(message: impl ToString) -> Reply {
    Reply::Failed {
        kind: FailureKind::BadRequest,
        message: message.to_string(),
    }
}

fn shown(name: Option<&VolumeName>) -> String {
    name.map_or("all volumes".to_owned(), |name| format!("volume {name}"))
}

fn scope(name: Option<&VolumeName>) -> Scope {
    // A checked iSCSI name has at most 223 bytes, so nothing is cut here.
    let cut = |name: &VolumeName| -> Name { text(&name.target) };
    match name.map(|name| (cut(name), name.lun)) {
        None => Scope::All,
        Some((target, None)) => Scope::Target(target),
        Some((target, Some(lun))) => Scope::Volume { target, lun },
    }
}

fn set_flush(name: Option<&VolumeName>, change: FlushSet) -> Command {
    use FlushParameter::{IdleMs, LoadLimitMs, LoadLimitPercent, PeriodMs, StopKib, ThresholdKib};
    let bytes = |kib: u64| kib.saturating_mul(1024);
    Command::SetFlush {
        scope: scope(name),
        setting: FlushSetting {
            threshold_bytes: change.get(ThresholdKib).map(bytes),
            stop_bytes: change.get(StopKib).map(bytes),
            period_ms: change.get(PeriodMs),
            idle_ms: change.get(IdleMs),
            load_limit_ms: change.get(LoadLimitMs),
            load_limit_percent: change.get(LoadLimitPercent),
        },
    }
}

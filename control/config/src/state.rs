//! Live changes that outlive a restart: written by `sluice-control` alone,
//! read by it and by the data plane at start.
//!
//! The file is replaced as a whole (a new file, synced, then renamed), so a
//! reader sees the old or the new state, never a part.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::iscsi_name::check_iscsi_name;
use crate::{
    Config, FlushSet, PolicyError, RESERVATIONS_MAX, Reservation, ReservationEntry,
    ReservationError, ReservationTarget, Target, VolumeName,
};

/// Version of the state file's shape.
const VERSION: u32 = 1;

/// Every live change in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Of the default policy.
    pub flush: FlushSet,
    /// Of single volumes, or of all of a target; in order of name, each name once.
    pub volumes: Vec<VolumeChange>,
    /// Reservations of buffers; in order of target, each once.
    pub reservations: Vec<ReservationChange>,
    /// What was typed in of paths; in order, each path once.
    pub paths: Vec<PathChange>,
    /// What targets present; in order of name, each once.
    pub targets: Vec<TargetChange>,
}

/// A live change of a reservation; it goes before what the configuration has for its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationChange {
    Made(Reservation),
    /// There is none, though the configuration has one.
    Cancelled(ReservationTarget),
}

impl ReservationChange {
    #[must_use]
    pub const fn target(&self) -> ReservationTarget {
        match self {
            Self::Made(reservation) => reservation.target,
            Self::Cancelled(target) => *target,
        }
    }
}

/// What was typed in of a path, and goes before what is measured of it (B-14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PathFile", into = "PathFile")]
pub struct PathChange {
    pub local: Ipv4Addr,
    pub remote: SocketAddrV4,
    /// Of one connection.
    pub bytes_per_s: Option<u64>,
    pub min_rtt_us: Option<u64>,
}

/// The buffer id that a target's connections present, whatever the configuration says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetChange {
    /// iSCSI name in lower case.
    pub name: String,
    /// None: they present none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer_id: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeChange {
    pub name: VolumeName,
    pub flush: FlushSet,
}

#[derive(Debug, Error)]
pub enum StateError {
    #[error("state file {}: cannot {action} ({source})", file.display())]
    Io {
        file: PathBuf,
        action: &'static str,
        source: std::io::Error,
    },
    #[error("state file {}: {why}; repair it, or remove it to go back to the configuration", file.display())]
    Invalid { file: PathBuf, why: String },
    #[error("state file {}: {why}; set it again within the range, or remove the file", file.display())]
    Policy { file: PathBuf, why: PolicyError },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    #[serde(default)]
    flush: FlushSet,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    volume: Vec<VolumeFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reservation: Vec<ReservationEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    path: Vec<PathChange>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    target: Vec<TargetChange>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PathFile {
    local: Ipv4Addr,
    remote: Ipv4Addr,
    port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes_per_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_rtt_us: Option<u64>,
}

impl From<PathFile> for PathChange {
    fn from(file: PathFile) -> Self {
        Self {
            local: file.local,
            remote: SocketAddrV4::new(file.remote, file.port),
            bytes_per_s: file.bytes_per_s,
            min_rtt_us: file.min_rtt_us,
        }
    }
}

impl From<PathChange> for PathFile {
    fn from(path: PathChange) -> Self {
        Self {
            local: path.local,
            remote: *path.remote.ip(),
            port: path.remote.port(),
            bytes_per_s: path.bytes_per_s,
            min_rtt_us: path.min_rtt_us,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeFile {
    name: String,
    #[serde(flatten)]
    flush: FlushSet,
}

impl State {
    /// Reads the file; a file that is not there is an empty state.
    ///
    /// # Errors
    /// It cannot be read, or is not a state file of this version.
    pub fn load(path: &Path) -> Result<Self, StateError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => return Err(io(path, "be read", source)),
        };
        let invalid = |why: String| StateError::Invalid {
            file: path.to_owned(),
            why,
        };
        let file: StateFile = toml::from_str(&text)
            .map_err(|error| invalid(error.to_string().trim().replace('\n', " ")))?;
        if file.version != VERSION {
            return Err(invalid(format!(
                "version {} is not {VERSION}, the one known here",
                file.version
            )));
        }
        let mut state = Self {
            flush: file.flush,
            ..Self::default()
        };
        for volume in file.volume {
            let name = volume
                .name
                .parse()
                .map_err(|error| invalid(format!("{error}")))?;
            state.set(Some(&name), volume.flush);
        }
        // In one go, and of those for one target the last: there may be thousands.
        let mut changes = BTreeMap::new();
        for entry in file.reservation {
            let change =
                change_of(&entry).map_err(|error| invalid(format!("[[reservation]] {error}")))?;
            changes.insert(change.target(), change);
        }
        state.reservations = changes.into_values().collect();
        for path in file.path {
            state.set_path(path);
        }
        for target in file.target {
            check_iscsi_name(&target.name).map_err(|error| invalid(error.to_string()))?;
            if let Some(id) = target.buffer_id
                && !(1..RESERVATIONS_MAX).contains(&id)
            {
                let max = RESERVATIONS_MAX - 1;
                return Err(invalid(format!("buffer_id = {id}: must be 1 to {max}")));
            }
            state.present(&target.name, target.buffer_id);
        }
        Ok(state)
    }

    /// Replaces the file as a whole, and makes the change durable.
    ///
    /// # Errors
    /// The directory or file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), StateError> {
        let volume = |change: &VolumeChange| VolumeFile {
            name: change.name.to_string(),
            flush: change.flush,
        };
        let file = StateFile {
            version: VERSION,
            flush: self.flush,
            volume: self.volumes.iter().map(volume).collect(),
            reservation: self.reservations.iter().map(entry_of).collect(),
            path: self.paths.clone(),
            target: self.targets.clone(),
        };
        let text = toml::to_string(&file).expect("numbers and names can be written as TOML");
        let text =
            format!("# Live changes, kept by sluice-control. Do not edit while it runs.\n{text}");

        let directory = path.parent().unwrap_or(Path::new("/"));
        let new = path.with_extension("toml.new");
        fs::create_dir_all(directory).map_err(|source| io(path, "make its directory", source))?;
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|source| io(path, "be written", source))
    }

    /// Notes a change of the default (`None`) or of what `name` says.
    pub fn set(&mut self, name: Option<&VolumeName>, change: FlushSet) {
        let Some(name) = name else {
            self.flush.merge(change);
            return;
        };
        match self
            .volumes
            .binary_search_by(|volume| volume.name.cmp(name))
        {
            Ok(index) => self.volumes[index].flush.merge(change),
            Err(index) => {
                let volume = VolumeChange {
                    name: name.clone(),
                    flush: change,
                };
                self.volumes.insert(index, volume);
            }
        }
    }

    /// Notes a reservation that is made, or has another size.
    pub fn reserve(&mut self, reservation: Reservation) {
        self.change_reservation(ReservationChange::Made(reservation));
    }

    /// Notes that a reservation is cancelled: one of `config` is hidden, another forgotten.
    pub fn cancel_reservation(&mut self, target: ReservationTarget, config: &Config) {
        let mut configured = config.reservations.iter();
        if configured.any(|reservation| reservation.target == target) {
            self.change_reservation(ReservationChange::Cancelled(target));
        } else {
            self.reservations.retain(|change| change.target() != target);
        }
    }

    fn change_reservation(&mut self, change: ReservationChange) {
        let target = change.target();
        let known = self
            .reservations
            .binary_search_by_key(&target, ReservationChange::target);
        match known {
            Ok(index) => self.reservations[index] = change,
            Err(index) => self.reservations.insert(index, change),
        }
    }

    /// The reservations in force, in order of target: those of `config`, and the live changes
    /// over them. Those for what `config` has no more ([`State::stray_reservations`]) are left
    /// out.
    #[must_use]
    pub fn effective_reservations(&self, config: &Config) -> Vec<Reservation> {
        let mut all: BTreeMap<ReservationTarget, Reservation> = config
            .reservations
            .iter()
            .map(|reservation| (reservation.target, *reservation))
            .collect();
        for change in &self.reservations {
            match change {
                ReservationChange::Made(reservation) => {
                    all.insert(reservation.target, *reservation);
                }
                ReservationChange::Cancelled(target) => {
                    all.remove(target);
                }
            }
        }
        all.into_values()
            .filter(|reservation| reservation.target.check(config).is_ok())
            .collect()
    }

    /// Live reservations for ports or targets that `config` has no more, with what is missing.
    #[must_use]
    pub fn stray_reservations(
        &self,
        config: &Config,
    ) -> Vec<(ReservationTarget, ReservationError)> {
        self.reservations
            .iter()
            .filter_map(|change| match change {
                ReservationChange::Made(reservation) => {
                    let error = reservation.target.check(config).err()?;
                    Some((reservation.target, error))
                }
                ReservationChange::Cancelled(_) => None,
            })
            .collect()
    }

    /// Notes what was typed in of a path, both values; without any it is forgotten.
    pub fn set_path(&mut self, change: PathChange) {
        let known = self
            .paths
            .binary_search_by_key(&(change.local, change.remote), |path| {
                (path.local, path.remote)
            });
        let empty = change.bytes_per_s.is_none() && change.min_rtt_us.is_none();
        match (known, empty) {
            (Ok(index), true) => {
                self.paths.remove(index);
            }
            (Ok(index), false) => self.paths[index] = change,
            (Err(_), true) => {}
            (Err(index), false) => self.paths.insert(index, change),
        }
    }

    /// Notes what the connections of a target present from now on.
    pub fn present(&mut self, target: &str, buffer_id: Option<u16>) {
        let known = self
            .targets
            .binary_search_by(|change| change.name.as_str().cmp(target));
        match known {
            Ok(index) => self.targets[index].buffer_id = buffer_id,
            Err(index) => {
                let name = target.to_owned();
                self.targets.insert(index, TargetChange { name, buffer_id });
            }
        }
    }

    /// The buffer id that the connections of this target present.
    #[must_use]
    pub fn buffer_id(&self, target: &Target) -> Option<u16> {
        match self
            .targets
            .binary_search_by(|change| change.name.cmp(&target.name))
        {
            Ok(index) => self.targets[index].buffer_id,
            Err(_) => target.buffer_id,
        }
    }

    /// Whether every value is in the range that `config` gives it.
    ///
    /// # Errors
    /// The first that is not; `path` is named in the message.
    pub fn check(&self, config: &Config, path: &Path) -> Result<(), StateError> {
        let log_bytes = config.dataplane.log_bytes;
        let changes =
            std::iter::once(&self.flush).chain(self.volumes.iter().map(|volume| &volume.flush));
        for change in changes {
            for (parameter, value) in change.iter() {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                parameter
                    .check(value, log_bytes)
                    .map_err(|why| StateError::Policy {
                        file: path.to_owned(),
                        why,
                    })?;
            }
        }
        Ok(())
    }
}

fn change_of(entry: &ReservationEntry) -> Result<ReservationChange, ReservationError> {
    if entry.cancelled {
        return entry.target().map(ReservationChange::Cancelled);
    }
    entry.read().map(ReservationChange::Made)
}

fn entry_of(change: &ReservationChange) -> ReservationEntry {
    match change {
        ReservationChange::Made(reservation) => reservation.entry(),
        ReservationChange::Cancelled(target) => ReservationEntry {
            cancelled: true,
            ..target.entry()
        },
    }
}

fn io(file: &Path, action: &'static str, source: std::io::Error) -> StateError {
    StateError::Io {
        file: file.to_owned(),
        action,
        source,
    }
}

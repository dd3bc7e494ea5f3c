//! Live changes that outlive a restart: written by `sluice-control` alone,
//! read by it and by the data plane at start.
//!
//! The file is replaced as a whole (a new file, synced, then renamed), so a
//! reader sees the old or the new state, never a part.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Config, FlushSet, PolicyError, VolumeName};

/// Version of the state file's shape.
const VERSION: u32 = 1;

/// Every live change in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Of the default policy.
    pub flush: FlushSet,
    /// Of single volumes, or of all of a target; in order of name, each name once.
    pub volumes: Vec<VolumeChange>,
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
            volumes: Vec::new(),
        };
        for volume in file.volume {
            let name = volume
                .name
                .parse()
                .map_err(|error| invalid(format!("{error}")))?;
            state.set(Some(&name), volume.flush);
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

fn io(file: &Path, action: &'static str, source: std::io::Error) -> StateError {
    StateError::Io {
        file: file.to_owned(),
        action,
        source,
    }
}

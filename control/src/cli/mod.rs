//! `sluicectl`: object and verb, a table for people or JSON for scripts, and
//! an exit code that says how it ended.
//!
//! What always holds: `show` reads the segment alone, so it works whether the
//! daemon or the data plane live or not, and says on standard error when what
//! it shows is not current. Standard output has the answer and nothing else.

mod args;
mod dataplane;
mod drain;
mod events;
pub mod exit;
mod flush;
mod inspect;
mod journal_file;
mod path;
mod reserve;
mod show;
mod table;
mod top;
mod volume;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluice_config::{Config, ConfigError, MemoryBudget, Secrets};
use sluice_hugepages::shm::{SegmentError, SegmentReader, Vitality, monotonic_ns};
use thiserror::Error;

pub use self::args::Args;
use self::args::{
    Action, ConfigAction, DataplaneAction, LogAction, SetAction, Shown, VolumeAction,
};
use crate::client::{self, ClientError};
use crate::load_config;
use crate::protocol::{FailureKind, Reply, Request};

/// How an action failed.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{message}")]
    Refused { kind: FailureKind, message: String },
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    DataPlane(String),
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    fn other_answer() -> Self {
        Self::Failed(
            "sluice-control answered another question; use the programs of one release".to_owned(),
        )
    }

    fn exit(&self) -> u8 {
        match self {
            Self::Config(_) => exit::CONFIG,
            Self::Segment(_) | Self::DataPlane(_) => exit::DATA_PLANE,
            Self::Refused {
                kind: FailureKind::NoDataPlane,
                ..
            } => exit::DATA_PLANE,
            Self::Client(_) => exit::DAEMON,
            Self::Usage(_) => exit::USAGE,
            Self::Refused { .. } | Self::Failed(_) => exit::FAILED,
        }
    }
}

/// What an action has to say: for scripts and for people.
pub(crate) struct Answer {
    pub json: Value,
    pub text: String,
    /// Not `DONE` where what was found is the failure.
    pub exit: u8,
}

impl Answer {
    fn done(json: Value, text: String) -> Answer {
        let exit = exit::DONE;
        Answer { json, text, exit }
    }

    /// Everything has been written already.
    fn told() -> Answer {
        Answer::done(Value::Null, String::new())
    }

    fn is_told(&self) -> bool {
        self.json.is_null()
    }
}

/// Does what the arguments say; answers the exit code.
pub fn run(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let answer = match &args.action {
        // These write as they go.
        Action::Top { count, interval } => top::top(*count, *interval, args, out, err),
        Action::Events { follow, count } => events::events(*follow, *count, args, out, err),
        // This one asks.
        Action::Reserve { what } => reserve::reserve(what.as_ref(), args, out, err),
        _ => act(args, err),
    };
    let code = match &answer {
        Ok(answer) => answer.exit,
        Err(error) => error.exit(),
    };
    let shown = match answer {
        Ok(answer) if answer.is_told() => Ok(()),
        // In one piece: a terminal's writer would go out with each of its lines.
        Ok(answer) if args.json => out.write_all(format!("{:#}\n", answer.json).as_bytes()),
        Ok(answer) if answer.text.is_empty() => Ok(()),
        Ok(answer) => writeln!(out, "{}", answer.text.trim_end()),
        Err(error) => {
            let told = if args.json {
                writeln!(out, "{:#}", failure(&error))
            } else {
                Ok(())
            };
            told.and(writeln!(err, "sluicectl: {error}"))
        }
    };
    // A reader that has gone (a closed pipe) is no failure of the action.
    let _ = shown.and_then(|()| out.flush());
    code
}

fn failure(error: &CliError) -> Value {
    let mut own = json!({ "message": error.to_string(), "exit": error.exit() });
    if let CliError::Config(ConfigError::Invalid { faults, .. }) = error {
        let fault =
            |fault: &sluice_config::Fault| json!({ "line": fault.line, "message": fault.message });
        own["faults"] = faults.iter().map(fault).collect();
    }
    json!({ "ok": false, "error": own })
}

fn act(args: &Args, err: &mut dyn Write) -> Result<Answer, CliError> {
    match &args.action {
        Action::Top { .. } | Action::Events { .. } | Action::Reserve { .. } => {
            unreachable!("they write as they go")
        }
        Action::Show { table } => show::show(*table, args, err),
        Action::Path { what } => path::path(what, args, err),
        Action::Buffers { allocations: false } => show::show(Shown::Buffers, args, err),
        Action::Buffers { allocations: true } => show::allocations(args, err),
        Action::Set {
            what: SetAction::Flush { volume, set },
        } => {
            let request = Request::SetFlush {
                volume: volume.clone(),
                set: set.0,
            };
            let volumes = done(client::ask(&args.socket()?, &request)?)?;
            let of = volume.as_deref().unwrap_or("the default");
            let json = json!({ "ok": true, "volumes": volumes });
            let text = format!("flush policy of {of} set ({volumes} volumes)");
            Ok(Answer::done(json, text))
        }
        Action::Flush { volume, timeout } => flush::flush(volume, *timeout, args),
        Action::Drain { cancel: true, .. } => drain::cancel(args),
        Action::Drain { timeout, .. } => drain::drain(*timeout, args, err),
        Action::Dataplane {
            what: DataplaneAction::Stop { drain, timeout },
        } => dataplane::stop(*drain, *timeout, args, err),
        Action::Volume { what } => match what {
            VolumeAction::Failed { volume } => volume::failed(volume.as_deref(), args, err),
            VolumeAction::Retry { volume } => volume::retry(volume, args),
            VolumeAction::Discard { volume, yes } => volume::discard(volume, *yes, args, err),
        },
        Action::Config {
            what: ConfigAction::Check { file },
        } => check(file),
        Action::Log { what } => match what {
            LogAction::Check { file } if journal_file::is_journal(file) => {
                journal_file::check(file)
            }
            LogAction::Dump { file, volume } if journal_file::is_journal(file) => {
                journal_file::dump(file, volume.as_deref())
            }
            LogAction::Check { file } => inspect::check(file),
            LogAction::Dump { file, volume } => inspect::dump(file, volume.as_deref()),
        },
    }
}

/// The number of volumes in a reply that says done.
fn done(reply: Reply) -> Result<u32, CliError> {
    match reply {
        Reply::Done { volumes } => Ok(volumes),
        Reply::Failed { kind, message } => Err(CliError::Refused { kind, message }),
        Reply::Pong | Reply::Version { .. } | Reply::Buffers(_) => Err(CliError::other_answer()),
    }
}

fn check(file: &Path) -> Result<Answer, CliError> {
    let config = Config::load(file)?;
    let secrets = Secrets::load(&config)?;
    let budget = MemoryBudget::of(&config);
    let memory = json!({
        "frames_bytes": budget.frames_bytes,
        "ports_bytes": budget.ports_bytes,
        "staging_bytes": budget.staging_bytes,
        "flows_bytes": budget.flows_bytes,
        "flows_least_bytes": budget.flows_least_bytes,
        "reservations_bytes": budget.reservations_bytes,
        "log_bytes": budget.log_bytes,
        "index_bytes": budget.index_bytes,
        "tables_bytes": budget.tables_bytes,
        "segment_bytes": budget.segment_bytes,
        "total_bytes": budget.total_bytes(),
    });
    let reserved = match config.reservations.len() {
        0 => "no reservation".to_owned(),
        count => format!(
            "{count} reservations of {}",
            table::bytes(budget.reservations_bytes)
        ),
    };
    let borrows = if budget.borrows() {
        "; WAN send buffers, all full, are more than frames_mib: without a reservation they are borrowed"
    } else {
        ""
    };
    let text = format!(
        "{}: valid; {} ports, {} routes, {} targets, mode {}, at most {} sessions, {reserved}, CHAP of {} computers and to {} storages, {} of memory{borrows}",
        file.display(),
        config.ports.len(),
        config.routes.len(),
        config.targets.len(),
        config.iscsi.mode,
        config.iscsi.sessions_max,
        secrets.computers.len(),
        secrets.storages.len(),
        table::bytes(budget.total_bytes()),
    );
    let json = json!({
        "ok": true,
        "ports": config.ports.len(),
        "routes": config.routes.len(),
        "targets": config.targets.len(),
        "mode": config.iscsi.mode.as_str(),
        "sessions_max": config.iscsi.sessions_max,
        "reservations": config.reservations.len(),
        "borrows_wan_buffers": budget.borrows(),
        "chap_computers": secrets.computers.len(),
        "chap_storages": secrets.storages.len(),
        "memory": memory,
    });
    Ok(Answer::done(json, text))
}

impl Args {
    /// The configuration, or the defaults if none is named and none is there.
    fn paths(&self) -> Result<Paths, ConfigError> {
        let config = load_config(self.config.as_ref())?;
        Ok(config.map_or_else(Paths::default, |config| Paths {
            segment: config.dataplane.segment,
            socket: config.control.socket,
        }))
    }

    fn segment(&self) -> Result<PathBuf, ConfigError> {
        self.segment
            .clone()
            .map_or_else(|| self.paths().map(|paths| paths.segment), Ok)
    }

    fn socket(&self) -> Result<PathBuf, ConfigError> {
        self.socket
            .clone()
            .map_or_else(|| self.paths().map(|paths| paths.socket), Ok)
    }

    /// Opens the segment; says so if what stands in it is not current.
    fn reader(&self, err: &mut dyn Write) -> Result<SegmentReader, CliError> {
        let reader = SegmentReader::open(&self.segment()?)?;
        let (how, silent_for) = match reader.vitality(monotonic_ns()) {
            Vitality::Alive => return Ok(reader),
            Vitality::Stuck { silent_for } => ("is stuck", silent_for),
            Vitality::Stopped { silent_for } => ("was stopped", silent_for),
            Vitality::Dead { silent_for } => ("is dead", silent_for),
        };
        let ago = table::seconds(silent_for.as_secs_f64());
        // If standard error is closed, the answer is still right.
        let _ = writeln!(
            err,
            "sluicectl: the data plane (pid {}) {how}: stale heartbeat, {ago} old; this is its last state",
            reader.pid()
        );
        Ok(reader)
    }
}

struct Paths {
    segment: PathBuf,
    socket: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            segment: PathBuf::from(sluice_config::DEFAULT_SEGMENT),
            socket: PathBuf::from(sluice_config::DEFAULT_SOCKET),
        }
    }
}

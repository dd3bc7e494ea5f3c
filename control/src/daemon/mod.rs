//! The daemon: policy, kept and brought to the data plane.
//!
//! What always holds: a change is answered `done` only when it is in force at
//! the data plane and on disk; killed at any point, the daemon comes back with
//! every change that it answered. Each start of a data plane gets all changes
//! again (it has read them from the state file too; the second time changes
//! nothing). Every wait has a bound.

mod alarm;
mod follow;
mod monitor;
mod plane;
mod policy;
mod reconcile;
mod reserve;
mod server;
mod signals;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_config::{Config, ConfigError, StateError};
use thiserror::Error;

pub use plane::{COMPLETION_BOUND, PlaneError};

use self::alarm::Alarms;
use self::policy::Policy;
use self::server::Server;

/// How often the daemon looks whether a data plane came, went or was exchanged.
const WATCH_PERIOD: Duration = Duration::from_millis(100);

/// Why the daemon cannot start.
#[derive(Debug, Error)]
pub enum DaemonError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("another sluice-control answers on {}; stop it first, or name another socket under [control]", socket.display())]
    AlreadyRuns { socket: PathBuf },
    #[error("control socket {}: cannot {action} ({source})", socket.display())]
    Socket {
        socket: PathBuf,
        action: &'static str,
        source: std::io::Error,
    },
    #[error("cannot wait for signals ({0})")]
    Signals(std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start. Once it runs it goes on: without a data plane, and with a
/// state file that cannot be written.
pub fn run(config: Config) -> Result<(), DaemonError> {
    // Before any thread is made, so that all of them have the mask.
    let signals = signals::Signals::block().map_err(DaemonError::Signals)?;
    let socket = config.control.socket.clone();
    let segment = config.dataplane.segment.clone();
    let policy = Arc::new(Mutex::new(Policy::load(config)?));
    let server = Server::bind(&socket)?;
    log::info!(
        "sluice-control {} listens on {}",
        env!("CARGO_PKG_VERSION"),
        socket.display()
    );
    server.serve(Arc::clone(&policy));
    let mut alarms = Alarms::new(&segment);
    loop {
        lock(&policy).watch();
        alarms.look();
        match signals.wait(WATCH_PERIOD).map_err(DaemonError::Signals)? {
            None => {}
            Some(name) => {
                log::info!("{name}: goes");
                // Nobody is in the middle of a change when this is held.
                let mut last = lock(&policy);
                last.save_sizes(true);
                server::remove(&socket);
                return Ok(());
            }
        }
    }
}

/// A thread that panicked while it held the policy has left nothing half done
/// that a later request would trip over: disk and data plane are each changed
/// in one step.
fn lock(policy: &Mutex<Policy>) -> std::sync::MutexGuard<'_, Policy> {
    policy
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

//! The control daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sluice_control::cli::exit;
use sluice_control::daemon::{self, DaemonError};
use sluice_control::{CONFIG_VARIABLE, load_config};

/// Owns policy and live changes, and brings them to the data plane
#[derive(Debug, Parser)]
#[command(name = "sluice-control", version, after_help = AFTER_HELP)]
struct Args {
    /// Configuration file [default: /etc/sluice/sluice.toml]
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Runs in the foreground until SIGTERM or SIGINT; RUST_LOG sets what is logged (default info).

Exit codes:
  0  asked to stop
  1  cannot start (socket in use, state file not valid)
  2  usage
  5  configuration not valid";

fn main() -> ExitCode {
    let args = Args::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let started = load_config(args.config.as_ref())
        .map_err(DaemonError::Config)
        .and_then(|config| {
            let Some(config) = config else {
                let file = PathBuf::from(sluice_config::DEFAULT_PATH);
                let source = std::io::Error::from(std::io::ErrorKind::NotFound);
                return Err(DaemonError::Config(sluice_config::ConfigError::Read {
                    file,
                    source,
                }));
            };
            daemon::run(config)
        });
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::from(match error {
                DaemonError::Config(_) => exit::CONFIG,
                _ => exit::FAILED,
            })
        }
    }
}

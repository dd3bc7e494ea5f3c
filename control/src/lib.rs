//! The control plane: the daemon `sluice-control` and the CLI `sluicectl`.
//!
//! - [`daemon`] owns policy: it takes changes on a Unix socket, sends them to
//!   the data plane over the control segment, and keeps them in a state file.
//! - [`cli`] reads tables straight from the segment, and asks the daemon for
//!   changes.
//! - [`protocol`] is what the two say to each other, one JSON object a line;
//!   [`sizing`] what both have of a reservation's right size, [`amount`] how people write one.
//!
//! What always holds: nothing here is on the way of a packet or a write; the
//! data plane goes on whether these processes live or not. Neither links a
//! driver.

pub mod amount;
pub mod cli;
pub mod client;
pub mod daemon;
pub mod protocol;
pub mod sizing;

use std::path::PathBuf;

use sluice_config::{Config, ConfigError, DEFAULT_PATH};

/// The environment variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "SLUICE_CONFIG";

/// Loads the named configuration, or the default one if it is there. `None`:
/// none was named and the default file does not exist.
///
/// # Errors
/// The file cannot be read or is not a valid configuration.
pub fn load_config(named: Option<&PathBuf>) -> Result<Option<Config>, ConfigError> {
    match named {
        Some(path) => Config::load(path).map(Some),
        None => match Config::load(DEFAULT_PATH.as_ref()) {
            Err(ConfigError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            other => other.map(Some),
        },
    }
}

#[cfg(test)]
mod tests {
    use sluice_config::{Config, MemoryBudget, PORTS_MAX, ROUTES_MAX, SESSIONS_MAX, TARGETS_MAX};
    use sluice_hugepages::shm::SEGMENT_BYTES;
    use sluice_hugepages::tables::{SPECS, Table};

    /// The configuration crate knows no segment; its limits must agree all the same.
    #[test]
    fn the_segment_has_a_row_for_all_that_can_be_configured() {
        let rows = |table: Table| SPECS[table as usize].rows;
        assert!(rows(Table::Ports) >= PORTS_MAX);
        assert!(rows(Table::Routes) >= PORTS_MAX + ROUTES_MAX);
        assert!(rows(Table::Sessions) >= usize::try_from(SESSIONS_MAX).unwrap());
        assert!(rows(Table::Volumes) >= TARGETS_MAX);
        let text = "[[port]]\nname = \"lan\"\ndevice = \"lan0\"\naddress = \"198.18.0.1/24\"\n";
        let budget = MemoryBudget::of(&Config::parse(text).unwrap());
        assert!(budget.segment_bytes >= SEGMENT_BYTES as u64);
    }
}

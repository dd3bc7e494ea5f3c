//! What can be wrong with a configuration file.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// One thing that is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line in the file, from 1.
    pub line: usize,
    /// Names the value and what to write instead.
    pub message: String,
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{}: cannot be read ({source}); name another with --config FILE or SLUICE_CONFIG", file.display())]
    Read {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: the secrets cannot be read ({source}); let the data plane's user own the file, or name another in iscsi.secrets", file.display())]
    Secrets {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: mode {mode:04o} lets others at the secrets in it; run: chmod 600 {}", file.display(), file.display())]
    SecretsMode { file: PathBuf, mode: u32 },
    #[error("{}", Listed { file, faults })]
    Invalid {
        file: PathBuf,
        /// At least one, in the order of their lines.
        faults: Vec<Fault>,
    },
}

/// One `file:line: message` a line.
struct Listed<'a> {
    file: &'a PathBuf,
    faults: &'a [Fault],
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let end = if index + 1 < self.faults.len() {
                "\n"
            } else {
                ""
            };
            let (file, line) = (self.file.display(), fault.line);
            write!(f, "{file}:{line}: {}{end}", fault.message)?;
        }
        Ok(())
    }
}

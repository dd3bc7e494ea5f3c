//! What a load did to a volume, as it saw it: the order of its issues and answers.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A request's number is its own in the whole trace. One that is sent again, after a
/// lost session or BUSY, was issued the first time and answered the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Comes first: what stamps are drawn from, and where on the volume block 0 is.
    Begun {
        seed: u64,
        skip_bytes: u64,
    },
    /// Stamp blocks from `block` on, each in its generation.
    Write {
        number: u64,
        block: u64,
        generations: Vec<u32>,
    },
    Sync {
        number: u64,
    },
    /// GOOD, of a write or a sync.
    Good {
        number: u64,
    },
}

#[derive(Debug)]
pub struct Trace {
    file: BufWriter<File>,
    /// The first trouble with the file: told at the end, since the load goes on.
    trouble: Option<io::Error>,
}

impl Trace {
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::new(File::create(path)?),
            trouble: None,
        })
    }

    pub fn note(&mut self, event: &Event) {
        let line = serde_json::to_string(event).expect("plain numbers");
        if let Err(error) = writeln!(self.file, "{line}") {
            self.trouble.get_or_insert(error);
        }
    }

    /// # Errors
    /// Not all of it could be written.
    pub fn close(mut self) -> io::Result<()> {
        self.trouble.take().map_or_else(|| self.file.flush(), Err)
    }
}

//! Whether what reached a storage's disk, in its order, is at every moment a state that
//! the computer could have left behind: what a load did ([`trace`]) against
//! what the disk met ([`record`]), by the rules of [`check`].

pub mod check;
pub mod record;
pub mod trace;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::de::DeserializeOwned;

/// A file of one JSON value a line.
///
/// # Errors
/// It cannot be read, or a line is something else.
pub fn lines<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let lines = BufReader::new(File::open(path)?).lines();
    lines
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect()
}

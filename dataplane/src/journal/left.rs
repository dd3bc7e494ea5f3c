//! Journals that were left behind: the data plane was started without them, or
//! with another one, and went on. What they hold is older than what has been
//! acknowledged since, and must never be replayed over it. So their
//! numbers stand in a small file, which outlives a power loss as they do.
//!
//! What always holds: a number stands there, durably, before anything is
//! acknowledged that the journal does not have; a journal that goes with the log
//! that is found is not left behind, whatever stands there.
//!
//! Not for: what is in a journal ([`super::begin`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sluice_hugepages::log::Pairing;

use super::layout::{Block, HEADER_BLOCKS, Header};
use super::replay::Blocks;

/// The file, a number a line, in hexadecimal.
#[derive(Clone, Debug)]
pub struct Left {
    path: PathBuf,
}

/// What a start is to do about the journal that it has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Usable,
    /// It was left behind: nothing of it may be replayed.
    LeftBehind,
}

impl Left {
    /// Beside the state file of `sluice-control`.
    pub fn beside(state: &Path) -> Left {
        Left {
            path: state.with_file_name("left-journals"),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a start that has found a log with this pairing may use the journal
    /// of this number.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn judge(&self, pairing: Pairing, journal: u32) -> io::Result<Verdict> {
        let is_left = pairing != Pairing::With(journal) && self.read()?.contains(&journal);
        Ok(if is_left {
            Verdict::LeftBehind
        } else {
            Verdict::Usable
        })
    }

    /// The log, which had this pairing, goes on with the journal of this number, or
    /// with none: before anything is acknowledged.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn goes_on(&self, pairing: Pairing, journal: Option<u32>) -> io::Result<()> {
        let known = self.read()?;
        let mut left = known.clone();
        left.retain(|&id| Some(id) != journal);
        if let Pairing::With(with) = pairing
            && Some(with) != journal
            && !left.contains(&with)
        {
            left.push(with);
        }
        if left == known {
            return Ok(());
        }
        self.write(&left)
    }

    fn read(&self) -> io::Result<Vec<u32>> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let number = |line: &str| {
            u32::from_str_radix(line, 16)
                .map_err(|_| io::Error::other(format!("{line:?} is not a journal's number")))
        };
        text.lines().map(number).collect()
    }

    /// As a whole: before or after, whatever happens meanwhile.
    fn write(&self, left: &[u32]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        for id in left {
            writeln!(file, "{id:08x}")?;
        }
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let parent = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// The journal's number, by either copy of its header. Whatever is wrong with them
/// is for [`super::begin`] to say.
pub fn number_of(disk: &mut impl Blocks) -> Option<u32> {
    (0..HEADER_BLOCKS.min(disk.blocks())).find_map(|at| {
        let mut block = [Block::ZERO];
        disk.read(at, &mut block).ok()?;
        Header::decode(&block[0]).ok().map(|header| header.id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes with the test.
    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a22_a_journal_that_was_left_behind_is_not_used_again() {
        let name = format!("sluice-left-journals-{}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        fs::create_dir_all(&scratch.0).expect("a directory can be made");
        let left = Left::beside(&scratch.0.join("state.toml"));
        // A start that finds such a log and such a journal, and goes on if it may.
        let start = |pairing, journal| {
            let verdict = left.judge(pairing, journal).expect("a working disk");
            if verdict == Verdict::Usable {
                left.goes_on(pairing, Some(journal))
                    .expect("a working disk");
            }
            verdict
        };
        let start_without = |pairing| left.goes_on(pairing, None).expect("a working disk");
        assert_eq!(start(Pairing::None, 7), Verdict::Usable, "a new log");
        assert_eq!(start(Pairing::With(7), 7), Verdict::Usable);
        assert!(!left.path().exists(), "nothing is to be kept");
        // A start without [journal] that is killed before its log says so.
        start_without(Pairing::With(7));
        assert_eq!(start(Pairing::With(7), 7), Verdict::Usable);
        assert_eq!(start(Pairing::None, 7), Verdict::Usable, "the log is lost");
        // One that serves: its log says nothing any more, and may be lost, too.
        start_without(Pairing::With(7));
        start_without(Pairing::None);
        assert_eq!(start(Pairing::None, 7), Verdict::LeftBehind);
        assert_eq!(start(Pairing::None, 7), Verdict::LeftBehind, "again");
        // Another one, and one after that: what was refused changes nothing.
        assert_eq!(start(Pairing::None, 8), Verdict::Usable);
        assert_eq!(start(Pairing::With(8), 7), Verdict::LeftBehind);
        assert_eq!(start(Pairing::None, 8), Verdict::Usable);
        assert_eq!(start(Pairing::With(8), 9), Verdict::Usable);
        assert_eq!(start(Pairing::None, 8), Verdict::LeftBehind);
        fs::write(left.path(), "not a number\n").expect("ours");
        assert!(left.judge(Pairing::None, 7).is_err());
    }
}

//! The account of journals: which one is in use, and which were left behind. It
//! outlives a power loss as they do, where the log, which says whom it goes with,
//! does not.
//!
//! * One *in use* may hold, alone, what was acknowledged. Where neither it nor the
//!   log that goes with it is found, a start would serve without that, and whatever
//!   came back later would bring old data over new: it is refused.
//! * One that was *left behind* is older than what has been acknowledged since the
//!   data plane was started without it: nothing of it may be replayed.
//!
//! What always holds: what has changed stands there, durably, before anything is
//! acknowledged that relies on it; a journal that goes with the log that is found is
//! not left behind, whatever stands there.
//!
//! Not for: what is in a journal ([`super::begin`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sluice_hugepages::log::Pairing;

use super::layout::{Block, HEADER_BLOCKS, Header};
use super::replay::Blocks;

/// The words before a number, in hexadecimal; a line a journal.
const USED: &str = "used";
const LEFT: &str = "left";

/// The file.
#[derive(Clone, Debug)]
pub struct Account {
    path: PathBuf,
}

/// What stands in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Journals {
    used: Option<u32>,
    left: Vec<u32>,
}

/// What a start is to do about the journal that it has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Usable,
    /// It was left behind: nothing of it may be replayed.
    LeftBehind,
    /// Another was in use, by this number, and its log is not there either.
    Missing(u32),
}

impl Account {
    /// Beside the state file of `sluice-control`.
    pub fn beside(state: &Path) -> Account {
        Account {
            path: state.with_file_name("journals"),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the journal in use.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn used(&self) -> io::Result<Option<u32>> {
        Ok(self.read()?.used)
    }

    /// Whether a start that has found a log with this pairing may go on with the
    /// journal of this number, or with `None` with a new one, or with none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn judge(&self, pairing: Pairing, journal: Option<u32>) -> io::Result<Verdict> {
        let Journals { used, left } = self.read()?;
        let is_left = journal
            .is_some_and(|journal| pairing != Pairing::With(journal) && left.contains(&journal));
        // A log that goes with a journal, or is on its way into one, has it all.
        let is_lost = pairing == Pairing::None && used != journal;
        Ok(match used {
            _ if is_left => Verdict::LeftBehind,
            Some(used) if is_lost => Verdict::Missing(used),
            _ => Verdict::Usable,
        })
    }

    /// The log, which had this pairing, goes on with the journal of this number, or
    /// with none: before anything is acknowledged.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn goes_on(&self, pairing: Pairing, journal: Option<u32>) -> io::Result<()> {
        let known = self.read()?;
        let with = match pairing {
            Pairing::None | Pairing::Restoring(_) => None,
            Pairing::With(with) | Pairing::Into(with) => Some(with),
        };
        let mut left = known.left.clone();
        left.extend(known.used.into_iter().chain(with));
        left.retain(|&id| Some(id) != journal);
        left.sort_unstable();
        left.dedup();
        let used = journal;
        let now = Journals { used, left };
        if now == known {
            return Ok(());
        }
        self.write(&now)
    }

    fn read(&self) -> io::Result<Journals> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Journals::default()),
            text => text?,
        };
        let mut journals = Journals::default();
        for line in text.lines() {
            let number = |digits| u32::from_str_radix(digits, 16).ok();
            match line
                .split_once(' ')
                .map(|(word, digits)| (word, number(digits)))
            {
                Some((USED, Some(id))) if journals.used.is_none() => journals.used = Some(id),
                Some((LEFT, Some(id))) => journals.left.push(id),
                _ => {
                    let wanted = format!("one line `{USED} NUMBER`, others `{LEFT} NUMBER`");
                    return Err(io::Error::other(format!("{line:?} is not {wanted}")));
                }
            }
        }
        Ok(journals)
    }

    /// As a whole: before or after, whatever happens meanwhile.
    fn write(&self, journals: &Journals) -> io::Result<()> {
        let parent = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        if let Some(id) = journals.used {
            writeln!(file, "{USED} {id:08x}")?;
        }
        for id in &journals.left {
            writeln!(file, "{LEFT} {id:08x}")?;
        }
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(parent)?.sync_all()
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

    impl Scratch {
        fn new(name: &str) -> (Scratch, Account) {
            let name = format!("sluice-journals-{name}-{}", std::process::id());
            let scratch = Scratch(std::env::temp_dir().join(name));
            fs::create_dir_all(&scratch.0).expect("a directory can be made");
            let account = Account::beside(&scratch.0.join("state.toml"));
            (scratch, account)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A start that finds such a log and such a journal, blank if it is none, and goes
    /// on as `goes_on` if it may.
    fn start(account: &Account, pairing: Pairing, found: Option<u32>, goes_on: u32) -> Verdict {
        let verdict = account.judge(pairing, found).expect("a working disk");
        if verdict == Verdict::Usable {
            account
                .goes_on(pairing, Some(goes_on))
                .expect("a working disk");
        }
        verdict
    }

    #[test]
    fn a22_a_journal_that_was_left_behind_is_not_used_again() {
        let (_scratch, account) = Scratch::new("left");
        let start = |pairing, journal| start(&account, pairing, Some(journal), journal);
        let start_without = |pairing| account.goes_on(pairing, None).expect("a working disk");
        assert_eq!(start(Pairing::None, 7), Verdict::Usable, "a new log");
        assert_eq!(start(Pairing::With(7), 7), Verdict::Usable);
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
        fs::write(account.path(), "left seven\n").expect("ours");
        assert!(account.judge(Pairing::None, Some(7)).is_err());
    }

    /// The power was lost, and the log with it; the file system that the journal is on
    /// is not there, or [journal] is not: what is acknowledged next would be of a state
    /// without what that holds, and what that holds would come back over it later.
    #[test]
    fn a22_a_journal_in_use_that_is_missing_with_its_log_is_asked_for() {
        let (_scratch, account) = Scratch::new("used");
        let start = |pairing, found, goes_on| start(&account, pairing, found, goes_on);
        assert_eq!(start(Pairing::None, None, 7), Verdict::Usable, "new");
        assert_eq!(start(Pairing::None, None, 8), Verdict::Missing(7), "blank");
        assert_eq!(start(Pairing::None, Some(9), 9), Verdict::Missing(7));
        let without = account.judge(Pairing::None, None).expect("a working disk");
        assert_eq!(without, Verdict::Missing(7));
        assert_eq!(account.used().expect("a working disk"), Some(7));
        assert_eq!(start(Pairing::None, Some(7), 7), Verdict::Usable, "back");
        // The log is there, and has it all: another may be made from it.
        let verdict = |pairing, found| account.judge(pairing, found).expect("a working disk");
        assert_eq!(verdict(Pairing::With(7), None), Verdict::Usable);
        // That start is killed, or its power lost, before the other has it all.
        assert_eq!(verdict(Pairing::Into(8), Some(8)), Verdict::Usable);
        assert_eq!(verdict(Pairing::Into(8), Some(7)), Verdict::Usable);
        assert_eq!(verdict(Pairing::None, Some(8)), Verdict::Missing(7));
        assert_eq!(verdict(Pairing::None, Some(7)), Verdict::Usable);
        assert_eq!(start(Pairing::Into(8), Some(8), 8), Verdict::Usable);
        assert_eq!(verdict(Pairing::None, Some(7)), Verdict::LeftBehind);
        assert_eq!(verdict(Pairing::None, Some(8)), Verdict::Usable);
        // What was given up is given up by taking its line away.
        fs::write(account.path(), "left 00000007\n").expect("ours");
        assert_eq!(start(Pairing::None, None, 9), Verdict::Usable);
    }
}

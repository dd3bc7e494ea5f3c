//! The journal's part of the alarms: it fails or is slow, it is given up, it is
//! nearly full.
//!
//! What always holds: each is said when it begins, again when it is another
//! trouble, and once more when it is over.

use sluice_hugepages::tables::{Journal, JournalState};
use sluice_journal::GROUP_BLOCKS_MAX;
use sluice_journal::layout::BLOCK_LEN;

use super::News;

/// New writes leave two groups free; with half a group more they are about to wait.
const LEFT_MIN_BYTES: u64 = 5 * GROUP_BLOCKS_MAX * BLOCK_LEN as u64 / 2;
/// So many looks must find it nearly full: one old write that keeps the tail makes
/// it so for a moment, until it is written again.
const FULL_LOOKS: u8 = 3;

/// What was said last.
#[derive(Debug, Default)]
pub(super) struct JournalAlarms {
    path: String,
    /// Of a state that is not good, with why.
    trouble: Option<(JournalState, String)>,
    /// Looks in a row that found little room.
    full_looks: u8,
    nearly_full: bool,
}

impl JournalAlarms {
    /// What is to be said of the journal; `None` where there is none.
    pub fn news(&mut self, journal: Option<&Journal>) -> Vec<News> {
        let Some(journal) = journal else {
            let before = std::mem::take(self);
            if before.trouble.is_none() && !before.nearly_full {
                return Vec::new();
            }
            let line = format!("journal {} is not used any more", before.path);
            return vec![News::Over(line)];
        };
        let mut news = Vec::new();
        let path = journal.path.as_str();
        if self.path != path {
            path.clone_into(&mut self.path);
            (self.trouble, self.nearly_full, self.full_looks) = (None, false, 0);
        }
        let why = journal.why.as_str();
        let trouble = match journal.state {
            JournalState::Failing | JournalState::GivenUp => Some((journal.state, why.to_owned())),
            JournalState::None | JournalState::Good => None,
        };
        if trouble != self.trouble {
            news.push(match journal.state {
                JournalState::Failing => News::Alarm(format!(
                    "journal {path}: {why}; what it keeps is being flushed, and its volumes' writes wait for it; if it does not recover it is given up"
                )),
                JournalState::GivenUp => News::Alarm(format!(
                    "journal {path} is given up: {why}; all it kept is at the storage, and its volumes' writes are acknowledged when the storage has them, until the data plane is started again: mend or replace the disk, then `sluicectl dataplane stop` and start it"
                )),
                JournalState::None | JournalState::Good => {
                    News::Over(format!("journal {path} is as it should be again"))
                }
            });
            self.trouble = trouble;
        }
        // One that is given up holds nothing any more.
        let counts = journal.state != JournalState::GivenUp;
        let left = journal.size_bytes.saturating_sub(journal.used_bytes);
        let little = (journal.size_bytes / 16).max(LEFT_MIN_BYTES);
        let enough = if self.nearly_full {
            // Not said again and again for what comes and goes at the limit.
            little + little / 2
        } else {
            little
        };
        let has_little = counts && left < enough;
        self.full_looks = if has_little {
            self.full_looks.saturating_add(1)
        } else {
            0
        };
        let nearly_full = has_little && (self.nearly_full || self.full_looks >= FULL_LOOKS);
        if nearly_full != self.nearly_full {
            self.nearly_full = nearly_full;
            if nearly_full {
                news.push(News::Alarm(format!(
                    "journal {path} is nearly full: {} of {} MiB hold writes that are not at the storage yet; when it is full its volumes' writes wait: see `sluicectl show volumes` for what holds up their flush",
                    journal.used_bytes >> 20,
                    journal.size_bytes >> 20
                )));
            } else if counts {
                news.push(News::Over(format!(
                    "journal {path} has room again: {} of {} MiB",
                    left >> 20,
                    journal.size_bytes >> 20
                )));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use sluice_hugepages::tables::text;

    use super::*;

    const SIZE: u64 = 256 << 20;

    fn journal(state: JournalState, why: &str, used_bytes: u64) -> Journal {
        Journal {
            path: text("/var/lib/sluice/journal"),
            state,
            why: text(why),
            size_bytes: SIZE,
            used_bytes,
            groups: 0,
            durable: 0,
            made: 0,
        }
    }

    /// The kinds of news, and whether the words are in them.
    fn kinds(news: &[News], words: &str) -> Vec<(char, bool)> {
        let named = |line: &str| line.contains("/var/lib/sluice/journal") && line.contains(words);
        news.iter()
            .map(|news| match news {
                News::Alarm(line) => ('!', named(line)),
                News::Over(line) => ('.', named(line)),
            })
            .collect()
    }

    #[test]
    fn a_journals_trouble_is_said_once_and_its_end_too() {
        let mut alarms = JournalAlarms::default();
        let mut said = |state, why: &str, words: &str| {
            let row = journal(state, why, 0);
            let news = alarms.news(Some(&row));
            assert_eq!(alarms.news(Some(&row)), [], "once");
            kinds(&news, words)
        };
        assert_eq!(said(JournalState::Good, "", ""), []);
        let slow = "its device has made nothing durable for 2 s";
        assert_eq!(said(JournalState::Failing, slow, slow), [('!', true)]);
        assert_eq!(said(JournalState::Good, "", "again"), [('.', true)]);
        let broken = "its device fails: Input/output error (os error 5)";
        assert_eq!(said(JournalState::Failing, slow, slow), [('!', true)]);
        assert_eq!(said(JournalState::Failing, broken, broken), [('!', true)]);
        let given_up = said(JournalState::GivenUp, broken, "is given up");
        assert_eq!(given_up, [('!', true)]);
        // The data plane was started again.
        assert_eq!(said(JournalState::Good, "", "again"), [('.', true)]);
    }

    #[test]
    fn a_journal_that_fills_is_said_once_and_when_it_has_room() {
        let mut alarms = JournalAlarms::default();
        let mut said = |used: u64, words: &str| {
            let news = alarms.news(Some(&journal(JournalState::Good, "", used)));
            kinds(&news, words)
        };
        let little = SIZE / 16;
        assert_eq!(said(SIZE / 8 * 7, ""), []);
        let used = SIZE - little + 1;
        assert_eq!(said(used, ""), [], "for a moment");
        assert_eq!(said(SIZE / 2, ""), []);
        assert_eq!(said(used, ""), []);
        assert_eq!(said(used, ""), []);
        assert_eq!(said(used, "nearly full"), [('!', true)]);
        assert_eq!(said(SIZE, ""), []);
        assert_eq!(said(SIZE - little - 1, ""), [], "not at the limit itself");
        assert_eq!(said(SIZE - 2 * little, "room again"), [('.', true)]);
        assert_eq!(said(SIZE - 2 * little, ""), []);
    }

    #[test]
    fn the_end_of_a_journal_is_the_end_of_its_alarms() {
        let mut alarms = JournalAlarms::default();
        assert_eq!(alarms.news(None), []);
        let row = journal(JournalState::GivenUp, "its device fails", SIZE);
        assert_eq!(kinds(&alarms.news(Some(&row)), "given up"), [('!', true)]);
        let over = alarms.news(None);
        assert_eq!(kinds(&over, "not used any more"), [('.', true)]);
        assert_eq!(alarms.news(None), []);
    }
}

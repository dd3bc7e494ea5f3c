//! What an operator must hear of without asking: volumes that have failed, or
//! write through because their storage runs out of space (C-4), and a journal in
//! trouble ([`journal`]). Said once each time it changes, in the daemon's log.

mod journal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sluice_hugepages::shm::{SegmentReader, Vitality, monotonic_ns};
use sluice_hugepages::tables::{Journal, Volume, VolumeState};

use self::journal::JournalAlarms;

/// Between two looks at the tables.
const PERIOD: Duration = Duration::from_secs(1);

/// What was said last of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Failed { stamp: u64 },
    WriteThrough,
}

#[derive(Debug)]
pub(super) struct Alarms {
    segment: PathBuf,
    looked: Option<Instant>,
    said: BTreeMap<(String, u64), Said>,
    journal: JournalAlarms,
}

impl Alarms {
    pub fn new(segment: &Path) -> Self {
        Self {
            segment: segment.to_owned(),
            looked: None,
            said: BTreeMap::new(),
            journal: JournalAlarms::default(),
        }
    }

    /// Looks at the tables of a data plane that lives, if it is time to.
    pub fn look(&mut self) {
        if self.looked.is_some_and(|at| at.elapsed() < PERIOD) {
            return;
        }
        self.looked = Some(Instant::now());
        let Ok(reader) = SegmentReader::open(&self.segment) else {
            return;
        };
        let table = reader.rows::<Volume>();
        // A row that cannot be read now can be in a second.
        if reader.vitality(monotonic_ns()) != Vitality::Alive || table.stale + table.malformed > 0 {
            return;
        }
        let mut news = self.news(table.rows.iter().map(|(_, volume)| volume));
        let table = reader.rows::<Journal>();
        if table.stale + table.malformed == 0 {
            let row = table.rows.first().map(|(_, row)| row);
            news.extend(self.journal.news(row));
        }
        for line in news {
            match line {
                News::Alarm(line) => log::error!("{line}"),
                News::Over(line) => log::warn!("{line}"),
            }
        }
    }

    /// What is to be said of these volumes, which are all there are.
    fn news<'a>(&mut self, volumes: impl Iterator<Item = &'a Volume>) -> Vec<News> {
        let mut news = Vec::new();
        let before = std::mem::take(&mut self.said);
        for volume in volumes {
            let key = (volume.target.to_string(), volume.lun);
            let name = sluice_config::VolumeName {
                target: key.0.clone(),
                lun: Some(key.1),
            };
            let now = if volume.failed_writes > 0 {
                Some(Said::Failed {
                    stamp: volume.failed_stamp,
                })
            } else if volume.state == VolumeState::WriteThrough {
                Some(Said::WriteThrough)
            } else {
                None
            };
            if now != before.get(&key).copied() {
                news.push(match now {
                    Some(Said::Failed { .. }) => News::Alarm(format!(
                        "volume {name} has failed: its storage refused {} acknowledged writes for good; they are kept, and nothing is flushed past them until `sluicectl volume retry` or `discard`",
                        volume.failed_writes
                    )),
                    Some(Said::WriteThrough) => News::Alarm(format!(
                        "volume {name}: its storage runs out of space; writes are acknowledged when it has them, until `sluicectl volume retry`"
                    )),
                    None => News::Over(format!("volume {name} is as it should be again")),
                });
            }
            if let Some(now) = now {
                self.said.insert(key, now);
            }
        }
        news
    }
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Alarm(String),
    Over(String),
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use sluice_hugepages::tables::{Drain, Durability, HeldUp, text};

    use super::*;

    fn volume(failed_writes: u64, failed_stamp: u64, state: VolumeState) -> Volume {
        Volume {
            target: text("iqn.2004-03.example.storage:vol0"),
            lun: 1 << 48,
            storage: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
            state,
            durability: Durability::Memory,
            load_us: 0,
            load_p99_us: 0,
            dirty_bytes: 0,
            oldest_dirty_since_ns: None,
            block_len: 512,
            blocks: 1,
            records: 0,
            written_bytes: 0,
            flushed_bytes: 0,
            superseded_bytes: 0,
            written_bytes_per_s: 0,
            flushed_bytes_per_s: 0,
            epochs_pending: 0,
            drained_in_ms: Some(0),
            full_in_ms: None,
            room_bytes: 0,
            sessions: 0,
            flush_threshold_bytes: 0,
            flush_stop_bytes: 0,
            flush_period_ns: 0,
            flush_idle_ns: 0,
            flush_load_limit_us: None,
            load_at_rest_us: 0,
            failed_writes,
            failed_stamp,
            drain: Drain::No,
            held_up: HeldUp::No,
            write_latency: Default::default(),
            read_latency: Default::default(),
            flush_latency: Default::default(),
        }
    }

    #[test]
    fn each_change_is_said_once() {
        let mut alarms = Alarms::new(Path::new("unused"));
        let mut said = |volume: Volume| {
            let news = alarms.news(std::iter::once(&volume));
            news.iter()
                .map(|news| match news {
                    News::Alarm(line) => ('!', line.contains("vol0/1")),
                    News::Over(line) => ('.', line.contains("vol0/1")),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(said(volume(0, 0, VolumeState::Connected)), []);
        assert_eq!(said(volume(1, 1, VolumeState::Failed)), [('!', true)]);
        assert_eq!(said(volume(1, 1, VolumeState::Failed)), []);
        assert_eq!(said(volume(2, 2, VolumeState::Failed)), [('!', true)]);
        assert_eq!(said(volume(0, 3, VolumeState::WriteThrough)), [('!', true)]);
        assert_eq!(said(volume(0, 3, VolumeState::Connected)), [('.', true)]);
        assert_eq!(said(volume(0, 3, VolumeState::Connected)), []);
    }
}

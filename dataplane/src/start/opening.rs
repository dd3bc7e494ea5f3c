//! The log of before, and the journal that goes with it: finds both, sees that they
//! belong together, and makes the one from the other where that is lost.
//!
//! Not for: how that is done ([`crate::journal::begin`]).

use std::cell::RefCell;
use std::io;
use std::path::Path;

use log::{error, info, warn};
use sluice_config::{Config, Durability};
use sluice_hugepages::log::{Log, LogError, Pairing, Recovery, VolumeEntry};
use sluice_hugepages::region::{Backing, Region, RegionError};

use super::{StartError, Waiting, region, share};
use crate::journal::account::{Account, Verdict, number_of};
use crate::journal::begin::{Disk, begin};
use crate::journal::layout::{BLOCK_LEN, Block, Identity};
use crate::journal::replay::Blocks;
use crate::journal::{self, Device, JournalError, Op};

pub(super) struct OpenedLog {
    pub log: Log,
    pub recovery: Recovery,
    pub backing: Backing,
    /// It was there, with what it held.
    pub found: bool,
    pub journal: Option<OpenedJournal>,
}

pub(super) struct OpenedJournal {
    pub core: journal::Core,
    pub device: Device,
    /// Writes that it held, and that cannot be read any more.
    pub torn: Vec<Identity>,
    /// The log was lost, and this is what it was made from.
    pub restored: bool,
}

/// What [`open_log`] meets on its way.
enum LogFault {
    Region(RegionError),
    Log(LogError),
    Journal(JournalError),
    /// Nothing of the journal may be replayed.
    LeftBehind,
    /// The journal in use, by this number, is not there, and its log is not either.
    Missing(u32),
    Account(io::Error),
}

impl From<LogError> for LogFault {
    fn from(fault: LogError) -> Self {
        Self::Log(fault)
    }
}

impl From<JournalError> for LogFault {
    fn from(fault: JournalError) -> Self {
        Self::Journal(fault)
    }
}

/// Opens the log, and the journal that goes with it: where one of the two is
/// lost, it is made from the other.
pub(super) fn open_log(
    config: &Config,
    seed: u64,
    waiting: &mut Waiting<'_>,
) -> Result<OpenedLog, StartError> {
    let waiting = RefCell::new(waiting);
    let spec = region(config, "log", config.dataplane.log_bytes);
    let mut opened = None;
    let mut open = |anew: bool| {
        if anew {
            warn!(
                "log: it was being made from the journal when the data plane stopped: begun again"
            );
            Region::discard(&spec).map_err(LogFault::Region)?;
        }
        let region = Region::open(&spec).map_err(LogFault::Region)?;
        let (backing, found) = (region.backing().clone(), region.reattached());
        info!(
            "log: {} MiB on {backing}{}",
            spec.len >> 20,
            if found { ", found" } else { "" }
        );
        opened = Some((backing, found));
        let (log, recovery) = Log::open_with_progress(region, &mut |at| {
            let done = share(at.segments_done, at.segments);
            waiting.borrow_mut().tell(done, at.records);
        })?;
        recovery.has_all_volumes()?;
        Ok::<_, LogFault>((log, recovery))
    };
    let account = Account::beside(&config.control.state);
    let unkept = |source| StartError::Account {
        path: account.path().to_owned(),
        source,
    };
    // Whether the log that was found may go on with the journal that was found.
    let judge = |pairing, journal| match account.judge(pairing, journal) {
        Ok(Verdict::Usable) => Ok(()),
        Ok(Verdict::LeftBehind) => Err(LogFault::LeftBehind),
        Ok(Verdict::Missing(used)) => Err(LogFault::Missing(used)),
        Err(source) => Err(LogFault::Account(source)),
    };
    let told = |path: &Path, fault| match fault {
        LogFault::LeftBehind => StartError::LeftBehind {
            path: path.to_owned(),
        },
        LogFault::Missing(used) => StartError::JournalMissing {
            used,
            account: account.path().to_owned(),
        },
        LogFault::Account(source) => unkept(source),
        LogFault::Region(source) => StartError::Region(source),
        LogFault::Log(source) => StartError::Log(source),
        LogFault::Journal(source) => StartError::Journal {
            path: path.to_owned(),
            source,
        },
    };
    let (log, recovery, journal) = match &config.journal {
        None => {
            let told = |fault| told(Path::new(""), fault);
            let (mut log, recovery) = open(false).map_err(told)?;
            judge(log.pairing(), None).map_err(told)?;
            match log.pairing() {
                Pairing::None => {}
                Pairing::Restoring(_) => return Err(StartError::HalfRestored),
                Pairing::With(_) | Pairing::Into(_) => {
                    account.goes_on(log.pairing(), None).map_err(unkept)?;
                    warn!(
                        "log: it went with a journal, and none is configured: that one is left behind, and is \
                         refused when it is configured again; remove its file"
                    );
                    log.pair(Pairing::None);
                }
            }
            (log, recovery, None)
        }
        Some(journal) => {
            let path = &journal.path;
            let told = |fault| told(path, fault);
            let mut device = Device::open(path, journal.size_bytes / BLOCK_LEN as u64)
                .map_err(|fault| told(fault.into()))?;
            // It tells journals apart, and is no secret.
            let id = (seed >> 32) as u32;
            match device.is_memory() {
                Ok(true) => warn!(
                    "journal {path:?}: it is in memory, and lost with the power: name a file on a disk"
                ),
                Ok(false) => {}
                Err(source) => warn!("journal {path:?}: cannot tell its file system: {source}"),
            }
            let found = number_of(&mut device);
            let used = account.used().map_err(unkept)?;
            let mut pairing = Pairing::None;
            let mut open = |anew: bool| {
                let (log, recovery) = open(anew)?;
                pairing = log.pairing();
                judge(pairing, found)?;
                Ok((log, recovery))
            };
            let mut watched = Watched {
                device: &mut device,
                waiting: &waiting,
            };
            let begun = begin(&mut watched, id, used, &mut open, |entry| {
                is_journalled(config, entry)
            });
            if let Err(LogFault::Missing(_)) = &begun
                && device.is_new()
            {
                // This start made it, perhaps where the file system of the one in use is
                // to be: nothing of it may stay.
                std::fs::remove_file(path).map_err(|source| told(remains(path, source).into()))?;
            }
            if let Err(LogFault::Journal(JournalError::NoRoom { .. })) = &begun {
                // A part of what the journal holds, and of the wrong length for the next start.
                Region::discard(&spec)?;
            }
            let mut begun = begun.map_err(told)?;
            account
                .goes_on(pairing, Some(begun.core.id()))
                .map_err(unkept)?;
            begun.pair();
            info!(
                "journal {path:?}: {} MiB",
                (device.blocks() * BLOCK_LEN as u64) >> 20
            );
            let was_lost = begun.restored.is_some();
            let restored = begun.restored.unwrap_or_default();
            if restored.records > 0 {
                warn!(
                    "log: it was lost; {} writes ({} bytes) were put back from the journal",
                    restored.records, restored.bytes
                );
            }
            for name in &restored.torn {
                error!(
                    "journal {path:?}: write {} of volume {} cannot be read: it is lost, and its volume fails",
                    name.sequence, name.volume
                );
            }
            let journal = OpenedJournal {
                core: begun.core,
                device,
                torn: restored.torn,
                restored: was_lost,
            };
            (begun.log, begun.recovery, Some(journal))
        }
    };
    let (backing, found) = opened.expect("it was opened");
    Ok(OpenedLog {
        log,
        recovery,
        backing,
        found,
        journal,
    })
}

/// The journal's device at a start, which tells how far it is: a large journal, or one
/// that the log is made from, is long to go through.
struct Watched<'a, 'segment> {
    device: &'a mut Device,
    waiting: &'a RefCell<&'a mut Waiting<'segment>>,
}

impl Watched<'_, '_> {
    fn tell(&self, block: u64) {
        let [at, all] = [block, self.device.blocks()]
            .map(|blocks| usize::try_from(blocks).expect("a 64-bit machine"));
        self.waiting.borrow_mut().tell(share(at, all), 0);
    }
}

impl Blocks for Watched<'_, '_> {
    fn blocks(&self) -> u64 {
        self.device.blocks()
    }

    fn read(&mut self, first: u64, into: &mut [Block]) -> io::Result<()> {
        self.tell(first);
        self.device.read(first, into)
    }
}

impl Disk for Watched<'_, '_> {
    fn write(&mut self, op: Op, staged: &[Block]) -> io::Result<()> {
        let (Op::Group { first, .. } | Op::Header { block: first }) = op;
        self.tell(first);
        self.device.write(op, staged)
    }
}

/// A file that was made for nothing, and cannot be removed.
fn remains(path: &Path, source: io::Error) -> JournalError {
    JournalError::Os {
        what: "remove",
        path: path.to_owned(),
        source,
    }
}

/// What no target is configured for keeps what it had.
fn is_journalled(config: &Config, entry: &VolumeEntry) -> bool {
    let target = config.targets.iter().find(|target| {
        target.name == entry.target_name.as_str() && target.address == entry.storage
    });
    target.is_none_or(|target| target.durability == Durability::Journal)
}

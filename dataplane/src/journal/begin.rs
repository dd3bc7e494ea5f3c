//! A start: what was found of log and journal is made to agree, before anything
//! is served.
//!
//! What always holds: a log that is there is the newer, and the journal follows
//! it, wholly, before anyone counts on it; a log that is not there is made from
//! the journal again; where neither may be, the start is refused and
//! nothing is changed. A crash in here, or a power loss, is a start that begins again.
//!
//! Not for: the thread ([`super::thread`]), what operators are told.

use std::io;

use sluice_hugepages::log::{Log, LogError, Pairing, RecordId, Recovery, VolumeEntry};

use super::core::{AREA_BLOCKS_MIN, Core, Op, Span};
use super::error::JournalError;
use super::layout::{BLOCK_LEN, Block, HEADER_BLOCKS};
use super::replay::{Blocks, Found, replay};
use super::restore::{self, Plan, Restored};

/// What a start writes to, waiting for each write.
pub trait Disk: Blocks {
    /// Writes the blocks where `op` says; durable when this returns.
    ///
    /// # Errors
    /// The device's.
    fn write(&mut self, op: Op, staged: &[Block]) -> io::Result<()>;
}

/// A journal and its log that agree, and do not say so yet: see [`Begun::pair`].
#[derive(Debug)]
pub struct Begun {
    pub core: Core,
    pub log: Log,
    pub recovery: Recovery,
    /// The log was not there, and was made from the journal.
    pub restored: Option<Restored>,
}

impl Begun {
    /// The two go together from here on. To be said when it is on record that this
    /// journal is the one in use ([`super::account`]), and before anything is served.
    pub fn pair(&mut self) {
        self.log.pair(Pairing::With(self.core.id()));
    }
}

/// Begins over what is found. `open` opens the log's region, after discarding
/// what is in it if it is told to; `id` names the journal if it is a new one;
/// `used` is the number of the one that was in use, as far as is on record;
/// `journalled` says of which volumes it keeps the records.
///
/// # Errors
/// The log's, the device's, or what stands on it: see [`JournalError`].
pub fn begin<E: From<JournalError> + From<LogError>>(
    disk: &mut impl Disk,
    id: u32,
    used: Option<u32>,
    mut open: impl FnMut(bool) -> Result<(Log, Recovery), E>,
    journalled: impl Fn(&VolumeEntry) -> bool,
) -> Result<Begun, E> {
    // The journal first: one that is refused, for its version or for damage, is to leave
    // the log as it is, for the release or the disk that it goes with.
    let found = replay(disk)?;
    let (mut log, mut recovery) = open(false)?;
    let found = match found {
        Found::Journal(found) => found,
        Found::Blank => {
            let (blocks, wanted) = (disk.blocks(), AREA_BLOCKS_MIN + HEADER_BLOCKS);
            if blocks < wanted {
                let mib = |blocks: u64| (blocks * BLOCK_LEN as u64).div_ceil(1 << 20);
                Err(JournalError::Small {
                    found_mib: mib(blocks),
                    wanted_mib: mib(wanted),
                })?;
            }
            let mut core = Core::format(id, blocks, log.records_max());
            settle(disk, &mut core, |_| &[])?;
            match replay(disk)? {
                Found::Journal(found) => found,
                Found::Blank => Err(JournalError::Headers)?,
            }
        }
    };
    let restored = match restore::plan(&log, &found, used)? {
        Plan::Reconcile => {
            if log.pairing() != Pairing::With(found.header.id) {
                // Until it has all of the log, this one is not worth what was before it.
                log.pair(Pairing::Into(found.header.id));
            }
            None
        }
        plan => {
            if plan == Plan::RefillAnew {
                drop(log);
                (log, _) = open(true)?;
            }
            let restored = restore::refill(&mut log, disk, &found)?;
            (log, recovery) = Log::open(log.into_region())?;
            Some(restored)
        }
    };
    restore::mark_damaged(&mut log);
    let mut core = restore::reconcile(&log, &found, |id| log.volume(id).is_some_and(&journalled));
    // Requests that are durable, and how far the journal had come by then.
    let mut moved = (0, core.next_address());
    loop {
        settle(disk, &mut core, |span| {
            log.pages(
                usize::try_from(span.offset).expect("inside the region"),
                usize::try_from(span.blocks).expect("a record is small"),
            )
        })?;
        if core.is_idle() {
            break;
        }
        // What keeps the tail has to make room first, as it has while serving.
        let wanted: Vec<_> = std::iter::from_fn(|| core.wanted()).collect();
        let durable = core.progress().durable;
        if durable > moved.0 {
            moved = (durable, core.next_address());
        }
        let is_stuck = wanted.is_empty() || core.next_address() - moved.1 > 2 * disk.blocks();
        if is_stuck && !core.forget_first() {
            // Served like this, a write to come would be told durable for one of these.
            Err(JournalError::Crowded)?;
        }
        for (record, _) in wanted {
            core.request(restore::again_request(&log, RecordId(record)));
        }
    }
    Ok(Begun {
        core,
        log,
        recovery,
        restored,
    })
}

/// Writes what is due, each write durable before the next, until nothing is.
/// `bytes` gives a span's bytes.
///
/// # Errors
/// The device's.
pub fn settle<'a>(
    disk: &mut impl Disk,
    core: &mut Core,
    bytes: impl Fn(Span) -> &'a [u8],
) -> Result<(), JournalError> {
    let (mut head, mut spans) = (Block::ZERO, Vec::new());
    let mut staged: Vec<Block> = Vec::new();
    while let Some(op) = core.next(&mut head, &mut spans) {
        staged.clear();
        staged.push(head.clone());
        for &span in &spans {
            staged.extend(
                bytes(span)
                    .chunks_exact(BLOCK_LEN)
                    .map(|chunk| Block(*chunk.first_chunk().expect("a chunk is a block"))),
            );
        }
        let written = disk.write(op, &staged);
        core.done(written.is_ok());
        written.map_err(|source| JournalError::Write { source })?;
    }
    Ok(())
}

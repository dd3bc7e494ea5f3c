//! A write log from a journal, and a journal that agrees with its log.
//!
//! What always holds: a log made from a journal is marked as unfinished until
//! every row and record is in it, so that a crash in the middle starts it again
//! and never takes the half for the whole. Where both are there, the log is
//! newer: it says what counts, and the journal is made to agree before anything
//! is served. A log and a journal that were not used together are not mixed.
//!
//! Not for: finding the records ([`super::replay`]).

use std::collections::{BTreeMap, BTreeSet};

use sluice_hugepages::log::{
    Log, NexusEntry, NexusId, Pairing, Record, RecordFlags, RecordId, VolumeEntry, VolumeFlags,
    VolumeId,
};

use super::core::{Core, Request};
use super::error::JournalError;
use super::layout::{Identity, RowTable, WriteEntry};
use super::replay::{Blocks, Payloads, Replay};

/// What a restored log holds, for an announcement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    pub records: usize,
    pub bytes: u64,
    /// Whose payloads are not what their checksums say. They stand in the log as
    /// they were read, under the checksum that they should have: every start finds
    /// them unsound, until the operator gives them up.
    pub torn: Vec<Identity>,
}

/// What is to be done with a log and a journal that were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The log is the newer: [`reconcile`].
    Reconcile,
    /// The log was never used: [`refill`] it.
    Refill,
    /// A refill was interrupted: discard the log's region, make a new one, [`refill`] it.
    RefillAnew,
}

/// Compares what was found. `used`: the journal in use, as far as is on record.
///
/// # Errors
/// [`JournalError::OtherLog`]: the journal holds writes of another log.
/// [`JournalError::HalfFilled`]: what the log lacks is in another journal.
/// [`JournalError::Group`], [`JournalError::Row`]: a log cannot be made from it.
pub fn plan(log: &Log, replay: &Replay, used: Option<u32>) -> Result<Plan, JournalError> {
    let id = replay.header.id;
    let journal_holds = !replay.records.is_empty() || !replay.rows.is_empty();
    match log.pairing() {
        Pairing::Restoring(from) if from == id => check(replay).map(|()| Plan::RefillAnew),
        Pairing::Restoring(_) => Err(JournalError::HalfFilled),
        Pairing::With(with) if with == id => Ok(Plan::Reconcile),
        // The log is whole: what it was put into may have less, and so may the one in
        // use until then.
        Pairing::Into(into) if into == id || used == Some(id) => Ok(Plan::Reconcile),
        // Just formatted, by this start or by one that was killed behind it.
        Pairing::None if journal_holds && log.is_unused() => check(replay).map(|()| Plan::Refill),
        _ if replay.records.is_empty() => Ok(Plan::Reconcile),
        _ => Err(JournalError::OtherLog {
            records: replay.records.len(),
            bytes: replay.bytes(),
        }),
    }
}

/// A journal's rows can be read, and its records are of volumes that have one and lie in
/// them: checksums say who wrote them, not what.
fn check(replay: &Replay) -> Result<(), JournalError> {
    let mut volumes = BTreeMap::new();
    for (&(table, row), kept) in &replay.rows {
        match table {
            RowTable::Volume => {
                let entry = VolumeEntry::from_row(&kept.body).ok_or(JournalError::Row)?;
                volumes.insert(row, entry);
            }
            RowTable::Nexus => {
                NexusEntry::from_row(&kept.body).ok_or(JournalError::Row)?;
            }
        }
    }
    for kept in replay.records.values() {
        let WriteEntry {
            identity, lba, len, ..
        } = kept.entry;
        let volume = volumes.get(&identity.volume);
        if !volume.is_some_and(|volume| volume.holds(lba, len.into())) {
            return Err(JournalError::Group {
                block: replay.block_of_group(kept.group),
                group: kept.group,
            });
        }
    }
    Ok(())
}

/// Puts rows and records of a journal into an empty log, in order of arrival.
///
/// # Errors
/// The device's, or the log is too small. The log is then marked as unfinished.
pub fn refill(
    log: &mut Log,
    disk: &mut impl Blocks,
    replay: &Replay,
) -> Result<Restored, JournalError> {
    let id = replay.header.id;
    log.pair(Pairing::Restoring(id));
    for (&(table, row), kept) in &replay.rows {
        match table {
            RowTable::Volume => {
                let entry = VolumeEntry::from_row(&kept.body).ok_or(JournalError::Row)?;
                log.restore_volume(VolumeId(row), entry)
            }
            RowTable::Nexus => {
                let entry = NexusEntry::from_row(&kept.body).ok_or(JournalError::Row)?;
                log.restore_nexus(NexusId(row), entry)
            }
        }
        .map_err(|_| JournalError::Row)?;
    }
    let no_room = || JournalError::NoRoom {
        records: replay.records.len(),
        bytes: replay.bytes(),
    };
    let (mut restored, mut bytes) = (Restored::default(), Vec::new());
    let mut payloads = Payloads::new(disk, replay.header.area);
    for kept in replay.records.values() {
        let is_sound = payloads.read(kept, &mut bytes)?;
        let record = record_of(&kept.entry);
        log.restore_record(&record, &bytes, kept.entry.payload_crc)
            .map_err(|_| no_room())?;
        if !is_sound {
            restored.torn.push(kept.entry.identity);
            continue;
        }
        restored.records += 1;
        restored.bytes += u64::from(record.len);
    }
    log.pair(Pairing::With(id));
    Ok(restored)
}

/// What the log has lost of a volume the journal is made to forget, so the volume's row,
/// which the journal keeps, says that something is missing, until the operator has given
/// it up.
pub fn mark_damaged(log: &mut Log) {
    let is_missing = |id: VolumeId| {
        let mut damaged = log.damaged().iter();
        damaged.any(|damage| damage.volume.is_none_or(|of| of == id))
    };
    let marked: Vec<_> = log
        .volumes()
        .filter(|&(id, row)| is_missing(id) && !row.flags.contains(VolumeFlags::DAMAGED))
        .map(|(id, row)| (id, row.clone()))
        .collect();
    for (id, mut row) in marked {
        row.flags = row.flags.with(VolumeFlags::DAMAGED);
        log.update_volume(id, row).expect("a row of the same size");
    }
}

/// A core over what a replay found, with the requests that make the journal
/// agree with the log. `journalled` says which volumes' records it keeps from now on. What
/// it has of others was promised by it: that stays until it is flushed, and all that the
/// log has of them is written, for it may have hidden it. (Nothing newer can: each start
/// begins an epoch.)
///
/// What the log has no more is forgotten when all that it has is durable: it may be
/// what has hidden it. Only what has a name that is used again goes first.
pub fn reconcile(log: &Log, replay: &Replay, journalled: impl Fn(VolumeId) -> bool) -> Core {
    let known: BTreeSet<u16> = replay.records.keys().map(|name| name.volume).collect();
    let mut held = Vec::new();
    let mut missing = Vec::new();
    for id in log.records() {
        let entry = entry_of(log, id);
        let kept = replay.records.get(&entry.identity);
        // By its bytes too: a name may have been used before.
        if kept.is_some_and(|kept| {
            kept.entry
                == WriteEntry {
                    completes: kept.entry.completes,
                    damaged: kept.entry.damaged,
                    ..entry
                }
        }) {
            held.push((id.0, entry.identity));
        } else if known.contains(&entry.identity.volume) || journalled(log.record(id).volume) {
            missing.push((id, entry));
        }
    }
    held.sort_unstable_by_key(|&(_, identity)| identity);
    missing.sort_unstable_by_key(|(_, entry)| entry.identity);
    complete(&mut missing);
    let mut core = Core::resume(replay, log.records_max(), held.iter().copied());
    request_rows(log, replay, &mut core);
    let is_held = |name: &Identity| {
        let found = held.binary_search_by_key(name, |&(_, identity)| identity);
        found.is_ok()
    };
    let gone = replay.records.keys().filter(|name| !is_held(name));
    let gone = gone.chain(&replay.incomplete).copied();
    let is_used_again = |name: &Identity| {
        let name = (name.volume, name.sequence);
        let found = missing.binary_search_by_key(&name, |(_, entry)| {
            (entry.identity.volume, entry.identity.sequence)
        });
        found.is_ok()
    };
    let (first, last): (Vec<_>, Vec<_>) = gone.partition(is_used_again);
    for name in first {
        core.request(Request::Forget(name));
    }
    for &(id, entry) in &missing {
        core.request(write_request(log, id, entry));
    }
    for name in last {
        core.request(Request::Forget(name));
    }
    core
}

/// Has the last of the parts that are written of each write say that there are no more: the
/// others are in the journal, or the log has none any more. Until it is there the write is
/// not whole, as any that is new. In the order of their names.
pub fn complete<T>(missing: &mut [(T, WriteEntry)]) {
    let name = |entry: &WriteEntry| (entry.identity.volume, entry.identity.sequence);
    for at in 0..missing.len() {
        let next = missing.get(at + 1).map(|(_, next)| name(next));
        let entry = &mut missing[at].1;
        entry.completes = next != Some(name(entry)) && entry.identity.part + 1 < entry.parts;
    }
}

/// All rows of the log's directory, and the end of those that it has no more.
pub fn request_rows(log: &Log, replay: &Replay, core: &mut Core) {
    for &(table, row) in replay.rows.keys() {
        let is_there = match table {
            RowTable::Volume => log.volume(VolumeId(row)).is_some(),
            RowTable::Nexus => log.nexus(NexusId(row)).is_some(),
        };
        if !is_there {
            core.request(Request::Row(table, row, None));
        }
    }
    let volumes = log
        .volumes()
        .map(|(id, entry)| (RowTable::Volume, id.0, entry.to_row()));
    let nexuses = log
        .nexuses()
        .map(|(id, entry)| (RowTable::Nexus, id.0, entry.to_row()));
    for (table, row, body) in volumes.chain(nexuses) {
        let kept = replay.rows.get(&(table, row));
        if kept.is_none_or(|kept| *kept.body != body) {
            core.request(Request::Row(table, row, Some(Box::new(body))));
        }
    }
}

/// The request that makes a record durable once more, so that the tail can move.
pub fn again_request(log: &Log, id: RecordId) -> Request {
    let entry = WriteEntry {
        completes: true,
        ..entry_of(log, id)
    };
    request(log, id, entry, true)
}

/// The request that makes a record of the log durable, damaged though it may be: the
/// others of its group are to be replayed all the same.
pub fn write_request(log: &Log, id: RecordId, entry: WriteEntry) -> Request {
    request(log, id, entry, false)
}

fn request(log: &Log, id: RecordId, entry: WriteEntry, again: bool) -> Request {
    Request::Write {
        record: id.0,
        entry: WriteEntry {
            damaged: !log.is_sound(id),
            ..entry
        },
        offset: log.payload_offset(id) as u64,
        again,
    }
}

/// A record of the log as the journal names it.
pub fn entry_of(log: &Log, id: RecordId) -> WriteEntry {
    let record = log.record(id);
    WriteEntry {
        identity: Identity {
            volume: record.volume.0,
            sequence: record.sequence,
            part: record.part,
        },
        parts: record.parts,
        flags: record.flags.0,
        epoch: record.epoch,
        lba: record.lba,
        len: record.len,
        payload_crc: log.payload_crc(id),
        completes: false,
        damaged: false,
    }
}

/// A record of the journal as the log has it.
pub fn record_of(entry: &WriteEntry) -> Record {
    Record {
        volume: VolumeId(entry.identity.volume),
        epoch: entry.epoch,
        sequence: entry.identity.sequence,
        lba: entry.lba,
        len: entry.len,
        flags: RecordFlags(entry.flags),
        part: entry.identity.part,
        parts: entry.parts,
    }
}

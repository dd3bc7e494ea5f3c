//! Bit rot: while the data plane is down, bits turn over of what its next start will
//! find, in the log's memory or on the journal's disk.
//!
//! What must come of it: the damage is found before its first use, by a checksum; the
//! volume fails by the name of what is damaged; all else is kept. What is said here
//! to be damaged is all that the oracle excuses, and only when the operator has given
//! it up ([`super::operator`]).
//!
//! A row of the directory rots in one of its copies, and nothing may come of it.
//!
//! What is not turned over, since nobody can tell it from what may be there in good
//! order: the last group of a journal that was not sealed since, which looks like one
//! that a power loss has torn.

use sluice_dataplane::journal::JournalError;
use sluice_dataplane::journal::layout::{BLOCK_LEN, HEADER_BLOCKS, Identity, RowTable};
use sluice_dataplane::journal::replay::{Found, Replay, block_of, replay};
use sluice_dataplane::journal::restore::record_of;
use sluice_hugepages::log::{Log, Record, RecordId, VolumeEntry};
use sluice_hugepages::region::Region;
use sluice_hugepages::tables::FailedWrite;

use super::{World, journalled, opener};
use crate::block;
use crate::journal::Fault;
use crate::oracle::Damage;

/// Bytes of a record's header in the log.
const HEADER_LEN: usize = 64;
/// Bytes of a journal's header that say something, less what is zero behind its checksum.
const JOURNAL_HEADER_LEN: usize = 72;
/// Of them, the version.
const HEADER_VERSION: std::ops::Range<usize> = 12..16;

/// A record of which something has turned over.
#[derive(Clone, Debug)]
pub(super) struct Rotten {
    /// The oracle that judges it.
    pub(super) volume: usize,
    /// The row of its volume in the log's directory.
    row: u16,
    record: Record,
    blocks: u64,
    /// It is its header: nobody can tell which blocks it was of.
    pub(super) header: bool,
    /// What the oracle excuses when it is given up.
    pub(super) damage: Damage,
}

impl Rotten {
    /// Whether a failed write that is listed for this volume is this record.
    pub(super) fn is_listed_as(&self, failed: &FailedWrite) -> bool {
        if failed.bytes == 0 {
            return self.header;
        }
        let name = (failed.sequence, failed.lba, failed.blocks);
        !self.header && name == (self.record.sequence, self.record.lba, self.blocks)
    }

    fn is(&self, identity: &Identity) -> bool {
        let Record { sequence, part, .. } = self.record;
        (self.row, sequence, part) == (identity.volume, identity.sequence, identity.part)
    }
}

/// Where bits turn over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rot {
    /// In so many records of the log.
    Log {
        records: u64,
    },
    Journal {
        part: JournalPart,
    },
}

/// What of a journal turns over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalPart {
    /// The bytes of a record.
    Payload,
    /// The list at the beginning of a group.
    Head,
    /// One of the two copies of the header.
    Header,
}

impl World {
    /// Turns over bits of so many records that the next start will find in the log.
    pub(super) fn rot_log(&mut self, region: Region, records: u64) -> Region {
        let (log, recovery) = Log::open(region).expect("a log of our own making");
        let mut places = Vec::new();
        for _ in 0..records.min(recovery.records.len() as u64) {
            let at = self.journal_random.below(recovery.records.len());
            let id = recovery.records[at];
            let header = self.journal_random.chance(20);
            let Some(rotten) = self.rotten_in_log(&log, &recovery.records, id, header) else {
                continue;
            };
            let place = if header {
                log.header_offset(id) + self.journal_random.below(HEADER_LEN)
            } else {
                let len = u64::from(log.record(id).len);
                log.payload_offset(id) + self.journal_random.below(len.try_into().expect("small"))
            };
            places.push(place);
            if header {
                self.met.headers_rotted += 1;
            } else {
                self.met.payloads_rotted += 1;
            }
            self.rotten.push(rotten);
        }
        for (id, _) in log.volumes() {
            if self.journal_random.chance(30) {
                let row = log.volume_row_place(id);
                places.push(row.start + self.journal_random.below(row.len()));
                self.met.rows_rotted += 1;
            }
        }
        let region = log.into_region();
        for place in places {
            let bit = 1 << self.journal_random.of(8);
            assert!(place < region.len());
            // SAFETY: inside the region, which nobody else uses while it has no log.
            unsafe { *region.ptr().add(place) ^= bit };
        }
        region
    }

    /// A record as it is before it is damaged; `None` if it already was.
    fn rotten_in_log(
        &self,
        log: &Log,
        all: &[RecordId],
        id: RecordId,
        header: bool,
    ) -> Option<Rotten> {
        let record = *log.record(id);
        let row = log.volume(record.volume)?;
        let bytes = |id: RecordId, len: u32| {
            let pages = (len as usize).div_ceil(BLOCK_LEN);
            &log.pages(log.payload_offset(id), pages)[..len as usize]
        };
        let over = all.iter().map(|&other| (other, *log.record(other)));
        let over = over
            .filter(|(_, other)| other.volume == record.volume && other.sequence > record.sequence)
            .map(|(other, found)| (found, bytes(other, found.len)));
        self.rotten(record, row, bytes(id, record.len), over, header)
    }

    fn rotten<'a>(
        &self,
        record: Record,
        row: &VolumeEntry,
        bytes: &[u8],
        over: impl Iterator<Item = (Record, &'a [u8])>,
        header: bool,
    ) -> Option<Rotten> {
        let mut volumes = self.storage.volumes.iter();
        let volume = volumes.position(|volume| volume.is_at(&row.target_name, row.lun))?;
        let block_len = row.block_len as usize;
        let number = |bytes: &[u8], lba: u64| block::number(bytes, block::tag(volume) | lba);
        let mut numbers = bytes.chunks(block_len).zip(record.lba..);
        let number_of = number(&bytes[..block_len], record.lba)?;
        if !numbers.all(|(bytes, lba)| number(bytes, lba) == Some(number_of)) {
            return None;
        }
        let blocks = u64::from(record.len) / block_len as u64;
        let mut damage = self.oracles[volume].damage(number_of, record.lba, blocks);
        for (other, bytes) in over {
            for (bytes, lba) in bytes.chunks(block_len).zip(other.lba..) {
                if let Some(number) = number(bytes, lba) {
                    damage.stays(lba, number);
                }
            }
        }
        Some(Rotten {
            volume,
            row: record.volume.0,
            record,
            blocks,
            header,
            damage,
        })
    }

    /// Turns over a bit of the journal, whose log is gone.
    pub(super) fn rot_journal(&mut self, part: JournalPart) {
        let journal = self.journal.as_mut().expect("a journal's fault");
        let Ok(Found::Journal(found)) = replay(&mut journal.disk) else {
            return;
        };
        let bit = 1 << self.journal_random.of(8);
        match part {
            JournalPart::Payload => {
                if let Some((block, byte)) = self.rotten_in_journal(&found) {
                    self.met.journal_payloads_rotted += 1;
                    self.turn_over(block, byte, bit);
                }
            }
            JournalPart::Head => {
                let groups = judged(&found);
                if groups > 0 {
                    let group = self.journal_random.below(groups);
                    let block = block_of(found.groups[group].0, found.header.area);
                    let byte = self.journal_random.below(BLOCK_LEN);
                    self.met.journal_heads_rotted += 1;
                    self.start_is_refused(block, byte, bit);
                }
            }
            JournalPart::Header => {
                // One of the copies; what its checksum covers, and the checksum.
                let block = self.journal_random.of(HEADER_BLOCKS);
                let byte = self.journal_random.below(JOURNAL_HEADER_LEN);
                self.met.journal_headers_rotted += 1;
                if HEADER_VERSION.contains(&byte) {
                    self.start_is_refused(block, byte, bit);
                } else {
                    self.turn_over(block, byte, bit);
                }
            }
        }
    }

    /// Without a head nothing behind it can be replayed, and a header of another version
    /// is not to be touched: the start is refused, and changes nothing. The bit turns back then, as if the block came good when it was
    /// read once more.
    fn start_is_refused(&mut self, block: u64, byte: usize, bit: u8) {
        self.turn_over(block, byte, bit);
        let open = opener(None, self.log_len);
        let journal = self.journal.as_mut().expect("a journal's fault");
        let before = journal.disk.blocks.clone();
        let begun = journal.try_begin(open, journalled(&self.config));
        let unchanged = journal.disk.blocks.iter().zip(&before);
        let unchanged = { unchanged }.all(|(is, was)| is.0 == was.0);
        journal.disk.blocks = before;
        match begun {
            Err(Fault::Journal(
                JournalError::Hole { .. }
                | JournalError::Group { .. }
                | JournalError::Version { .. },
            )) if unchanged => {}
            Err(fault) => {
                let detail = format!("{fault:?}, journal unchanged: {unchanged}");
                self.report("a damaged journal is refused by name", detail);
            }
            Ok(_) => {
                let detail = format!("block {block} was damaged, and the start went on");
                self.report("a damaged journal is refused by name", detail);
            }
        }
        self.turn_over(block, byte, bit);
    }

    /// A byte of a record that a replay would bring back.
    fn rotten_in_journal(&mut self, found: &Replay) -> Option<(u64, usize)> {
        let end = found.header.tail.group + judged(found) as u64;
        let mut kept: Vec<_> = found.records.values().collect();
        kept.retain(|kept| kept.group < end);
        if kept.is_empty() {
            return None;
        }
        let chosen = kept[self.journal_random.below(kept.len())];
        let record = record_of(&chosen.entry);
        let row = found.rows.get(&(RowTable::Volume, record.volume.0))?;
        let row = VolumeEntry::from_row(&row.body)?;
        let journal = self.journal.as_ref().expect("a journal's fault");
        let area = found.header.area;
        let bytes = |payload: u64, len: u32| -> Vec<u8> {
            let blocks = u64::from(len).div_ceil(BLOCK_LEN as u64);
            let mut bytes = Vec::new();
            for address in payload..payload + blocks {
                let block = usize::try_from(block_of(address, area)).expect("small");
                bytes.extend_from_slice(&journal.disk.blocks[block].0);
            }
            bytes.truncate(len as usize);
            bytes
        };
        let over: Vec<_> = found
            .records
            .values()
            .map(|other| (record_of(&other.entry), other))
            .filter(|(other, _)| other.volume == record.volume && other.sequence > record.sequence)
            .map(|(other, kept)| (other, bytes(kept.payload, other.len)))
            .collect();
        let over = over.iter().map(|(other, bytes)| (*other, &bytes[..]));
        let own = bytes(chosen.payload, record.len);
        let rotten = self.rotten(record, &row, &own, over, false)?;
        self.rotten.push(rotten);
        let byte = self.journal_random.below(record.len as usize);
        let block = block_of(chosen.payload + (byte / BLOCK_LEN) as u64, area);
        Some((block, byte % BLOCK_LEN))
    }

    fn turn_over(&mut self, block: u64, byte: usize, bit: u8) {
        let journal = self.journal.as_mut().expect("a journal's fault");
        let block = usize::try_from(block).expect("a small disk");
        journal.disk.blocks[block].0[byte] ^= bit;
    }

    /// A start could not read these records in the journal: they must be what was damaged.
    pub(super) fn judge_torn(&mut self, torn: &[Identity]) {
        for identity in torn {
            if self.rotten.iter().any(|rotten| rotten.is(identity)) {
                self.met.torn_restored += 1;
            } else {
                self.report("no torn record in the journal", format!("{identity:?}"));
            }
        }
    }
}

/// The groups of a journal that cannot be taken for torn: all but the last, and that one
/// too when it is sealed.
fn judged(found: &Replay) -> usize {
    let is_sealed = found.header.run_start == found.next;
    found.groups.len().saturating_sub(usize::from(!is_sealed))
}

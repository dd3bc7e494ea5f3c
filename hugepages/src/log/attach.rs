//! Opening a log: formatting an empty region, or finding what is in one.
//!
//! What always holds: nothing found is trusted before it is checked; what is
//! stored here (states raised, unfinished records dropped, segments freed) can
//! be interrupted anywhere and done again.

use super::directory::Table;
use super::layout::{
    COMMITTED, END_CLEAN, END_OFFSET, FREED, Geometry, HEADER_LEN, Life, MAGIC, PREPARED,
    RecordHeader, SEGMENT_CLAIMED, SEGMENT_FREE, SEGMENT_LEN, SEGMENT_PAGES, SLOTS, SegmentHeader,
    VERSION, slot_offset, superblock_crc, superblock_segments, superblock_version,
};
use super::memory::Memory;
use super::records::{Entry, Phase, Slab, index};
use super::segments::Segments;
use super::{
    Damage, DamageKind, Log, LogError, Progress, Record, RecordId, Recovery, VolumeId,
    VolumeRecovery, VolumeUse, row_id,
};

/// Segments gone through between two words of progress: 2 MiB of headers, a
/// thousandth of a second or so.
const PROGRESS_SEGMENTS: usize = 64;

pub(super) fn open(
    mut memory: Memory,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Log, Recovery), LogError> {
    let Some(geometry) = Geometry::of(memory.len()) else {
        return Err(LogError::TooSmall { len: memory.len() });
    };
    let expected = geometry.superblock();
    let found = memory.load_header(0);
    let formatted = found[0] == 0;
    if formatted {
        check_empty(&memory, &geometry, &found)?;
        memory.store_header(0, &expected);
    } else if found[0] != MAGIC {
        return Err(LogError::Foreign {
            begins: found[0].swap_bytes(),
        });
    } else if superblock_version(&found) != VERSION {
        // Before the checksum: another version may have another one.
        let (found, known) = (superblock_version(&found), VERSION);
        return Err(LogError::Version { found, known });
    } else if found[7] != superblock_crc(&found) {
        return Err(LogError::Superblock);
    } else if superblock_segments(&found) != geometry.segments {
        let (found, wanted) = (superblock_segments(&found), geometry.segments);
        return Err(LogError::Segments { found, wanted });
    } else if found != expected {
        return Err(LogError::Superblock);
    }
    let mut log = empty_log(memory, geometry);
    let mut recovery = Search::new(&log).run(&mut log, progress);
    recovery.formatted = formatted;
    recovery.clean = log.memory.load(END_OFFSET) == END_CLEAN;
    Ok((log, recovery))
}

/// Empty but for a format that was interrupted.
fn check_empty(memory: &Memory, geometry: &Geometry, found: &[u64; 8]) -> Result<(), LogError> {
    let mut words = found.iter().zip(geometry.superblock());
    let superblock = words.all(|(&found, expected)| found == 0 || found == expected);
    let directory_len = geometry.directory_segments * SEGMENT_LEN;
    let (_, directory) = memory.bytes(0, directory_len).split_at(HEADER_LEN);
    let segments = geometry.directory_segments..geometry.segments;
    if superblock
        && directory
            .chunks(HEADER_LEN)
            .all(|bytes| bytes == [0; HEADER_LEN])
        && segments
            .map(|segment| memory.load(slot_offset(segment, 0)))
            .all(|word| word == 0)
    {
        return Ok(());
    }
    Err(LogError::Foreign { begins: 0 })
}

fn empty_log(mut memory: Memory, geometry: Geometry) -> Log {
    let volumes = (0..geometry.volume_rows).map(|row| geometry.volume_row(row));
    let nexuses = (0..geometry.nexus_rows).map(|row| geometry.nexus_row(row));
    Log {
        worker: 0,
        volume_rows: Table::attach(&mut memory, volumes),
        nexus_rows: Table::attach(&mut memory, nexuses),
        uses: vec![VolumeUse::default(); geometry.volume_rows].into(),
        segments: Segments::new(&geometry),
        slab: Slab::new(&geometry),
        damaged: Vec::new(),
        memory,
        geometry,
    }
}

/// A sound header of this life, prepared or committed.
struct Found {
    header: RecordHeader,
    segment: u32,
    slot: u16,
    committed: bool,
}

impl Found {
    /// Order of arrival within a volume.
    fn key(&self) -> (VolumeId, u64, u64, u8) {
        let header = &self.header;
        (header.volume, header.sequence, header.epoch, header.part)
    }

    fn is_same_write(&self, other: &Found) -> bool {
        let ((volume, sequence, epoch, _), other) = (self.key(), other.key());
        (volume, sequence, epoch) == (other.0, other.1, other.2)
    }

    fn has_same_contents(&self, other: &Found) -> bool {
        RecordHeader {
            first_page: other.header.first_page,
            ..self.header
        } == other.header
    }
}

struct Search {
    found: Vec<Found>,
    damaged: Vec<Damage>,
    /// By `VolumeId`.
    volumes: Vec<VolumeRecovery>,
    incomplete_records: usize,
}

impl Search {
    fn new(log: &Log) -> Search {
        let volumes = (0..log.volume_rows.len()).map(|row| VolumeRecovery {
            volume: VolumeId(row_id(row)),
            records: 0,
            dirty_bytes: 0,
            epoch_max: 0,
            sequence_max: 0,
        });
        Search {
            found: Vec::new(),
            damaged: Vec::new(),
            volumes: volumes.collect(),
            incomplete_records: 0,
        }
    }

    fn run(mut self, log: &mut Log, progress: &mut dyn FnMut(Progress)) -> Recovery {
        let segments = log.geometry.segments;
        for segment in log.geometry.directory_segments..segments {
            self.search_segment(log, segment);
            if segment.is_multiple_of(PROGRESS_SEGMENTS) {
                progress(Progress {
                    segments_done: segment,
                    segments,
                    records: self.found.len(),
                });
            }
        }
        self.found.sort_unstable_by_key(Found::key);
        let records = self.settle_writes(log);
        for segment in log.geometry.directory_segments..log.geometry.segments {
            reopen_or_recycle(log, index(segment));
        }
        for volume in &mut self.volumes {
            let used = log.volume_use(volume.volume);
            (volume.records, volume.dirty_bytes) = (used.records, used.dirty_bytes);
        }
        self.volumes
            .retain(|volume| log.volume(volume.volume).is_some());
        log.damaged.clone_from(&self.damaged);
        Recovery {
            formatted: false,
            clean: false,
            records,
            volumes: self.volumes,
            damaged: self.damaged,
            damaged_volume_rows: log
                .volume_rows
                .damaged()
                .map(|row| VolumeId(row_id(row)))
                .collect(),
            damaged_nexus_rows: log.nexus_rows.damaged().count(),
            incomplete_records: self.incomplete_records,
        }
    }

    fn search_segment(&mut self, log: &mut Log, segment: usize) {
        let words = log.memory.load_header(slot_offset(segment, 0));
        let life = Life::decode(words[0]);
        if let Some(life) = life.filter(|life| life.state == SEGMENT_FREE || *life == Life::NONE) {
            log.segments.put_free(index(segment), life.generation);
            return;
        }
        let claimed = life.filter(|life| life.state == SEGMENT_CLAIMED);
        let header = claimed
            .and_then(|life| SegmentHeader::decode(&words, segment, life.generation))
            .filter(|header| usize::from(header.volume.0) < log.uses.len());
        let info = log.segments.get_mut(index(segment));
        info.generation = life.unwrap_or(Life::NONE).generation;
        info.is_claimed = true;
        let Some(SegmentHeader { volume, .. }) = header else {
            info.damaged = 1;
            let kind = match life {
                Some(_) => DamageKind::SegmentHeader,
                None => DamageKind::Life,
            };
            self.damaged.push(Damage {
                kind,
                segment,
                slot: None,
                volume: None,
                epoch: 0,
                sequence: 0,
                lba: 0,
                len: 0,
            });
            return;
        };
        info.volume = volume;
        log.uses[usize::from(volume.0)].segments += 1;
        let mut pages = [false; SEGMENT_PAGES];
        for slot in 1..SLOTS {
            self.search_slot(log, segment, slot, &mut pages);
        }
    }

    fn search_slot(
        &mut self,
        log: &mut Log,
        segment: usize,
        slot: usize,
        pages: &mut [bool; SEGMENT_PAGES],
    ) {
        let offset = slot_offset(segment, slot);
        let info = log.segments.get_mut(index(segment));
        let (volume, generation) = (info.volume, info.generation);
        let life = Life::decode(log.memory.load(offset));
        if life.is_some_and(|life| life == Life::NONE || life.generation != generation) {
            return; // Never written in this life of the segment.
        }
        let state = life.map(|life| life.state);
        // Filled on behind all that is seen.
        info.next_slot = slot_number(slot) + 1;
        let words = log.memory.load_header(offset);
        let checked = RecordHeader::decode(&words, segment, slot, generation).and_then(|header| {
            let fault = match log.volume_rows.get(usize::from(volume.0)) {
                _ if !matches!(state, Some(PREPARED | COMMITTED | FREED)) => {
                    Some(DamageKind::State)
                }
                _ if header.volume != volume => Some(DamageKind::Volume),
                None => Some(DamageKind::UnknownVolume),
                Some(entry) if !entry.holds(header.lba, header.len.into()) => {
                    Some(DamageKind::Blocks)
                }
                Some(_) => None,
            };
            fault.map_or(Ok(header), |kind| Err(header.damage(kind, segment, slot)))
        });
        let info = log.segments.get_mut(index(segment));
        match checked {
            Ok(header) => {
                info.next_page = info.next_page.max(slot_number(header.end_page()));
                let seen = &mut self.volumes[usize::from(volume.0)];
                seen.epoch_max = seen.epoch_max.max(header.epoch);
                seen.sequence_max = seen.sequence_max.max(header.sequence);
                if state == Some(FREED) {
                    return;
                }
                let taken = &mut pages[usize::from(header.first_page)..header.end_page()];
                if taken.contains(&true) {
                    self.damage(log, header.damage(DamageKind::Overlap, segment, slot));
                    return;
                }
                taken.fill(true);
                let committed = state == Some(COMMITTED);
                let (segment, slot) = (index(segment), slot_number(slot));
                self.found.push(Found {
                    header,
                    segment,
                    slot,
                    committed,
                });
            }
            Err(damage) => {
                // Where its payload is cannot be trusted: nothing more goes in here.
                info.next_page = slot_number(SEGMENT_PAGES);
                if state != Some(FREED) {
                    self.damage(
                        log,
                        Damage {
                            volume: Some(volume),
                            ..damage
                        },
                    );
                }
            }
        }
    }

    fn damage(&mut self, log: &mut Log, damage: Damage) {
        log.segments.get_mut(index(damage.segment)).damaged += 1;
        self.damaged.push(damage);
    }

    /// Decides write by write: committed if any part is, since the last part's
    /// commit came before any other's was raised.
    fn settle_writes(&mut self, log: &mut Log) -> Vec<RecordId> {
        let found = std::mem::take(&mut self.found);
        let mut records = Vec::with_capacity(found.len());
        for write in found.chunk_by(Found::is_same_write) {
            let committed = write.iter().any(|part| part.committed);
            let mut before: Option<&Found> = None;
            for part in write {
                let twin = before.filter(|before| before.header.part == part.header.part);
                if !committed {
                    self.incomplete_records += 1;
                    drop_found(log, part);
                } else if twin.is_none() {
                    records.push(take_found(log, part));
                    before = Some(part);
                } else if twin.is_some_and(|twin| twin.has_same_contents(part)) {
                    drop_found(log, part); // Moved, and stopped before the old one was freed.
                } else {
                    let (segment, slot) = (part.segment as usize, usize::from(part.slot));
                    self.damage(
                        log,
                        part.header.damage(DamageKind::Duplicate, segment, slot),
                    );
                }
            }
        }
        records
    }
}

fn take_found(log: &mut Log, part: &Found) -> RecordId {
    let RecordHeader {
        volume,
        lba,
        epoch,
        sequence,
        len,
        flags,
        ..
    } = part.header;
    let RecordHeader {
        part: number,
        parts,
        first_page,
        payload_crc,
        ..
    } = part.header;
    let record = Record {
        volume,
        epoch,
        sequence,
        lba,
        len,
        flags,
        part: number,
        parts,
    };
    let phase = Phase::FOUND;
    let (segment, slot) = (part.segment, part.slot);
    let entry = Entry {
        record,
        segment,
        slot,
        first_page,
        payload_crc,
        phase,
    };
    let info = log.segments.get_mut(segment);
    info.live_records += 1;
    info.live_pages += super::write::page_count(len);
    let used = &mut log.uses[usize::from(volume.0)];
    used.records += 1;
    used.dirty_bytes += u64::from(len);
    if !part.committed {
        log.memory.store(
            entry.slot_offset(),
            Life::new(COMMITTED, info.generation).encode(),
        );
    }
    RecordId(log.slab.insert(entry))
}

fn drop_found(log: &mut Log, part: &Found) {
    let generation = log.segments.get(part.segment).generation;
    let offset = slot_offset(part.segment as usize, usize::from(part.slot));
    log.memory
        .store(offset, Life::new(FREED, generation).encode());
}

/// What holds nothing is free; a volume goes on in its segment with the most room.
fn reopen_or_recycle(log: &mut Log, segment: u32) {
    let used = &mut log.uses[usize::from(log.segments.get(segment).volume.0)];
    log.segments.recycle(&mut log.memory, used, segment);
    let info = log.segments.get(segment);
    let best = used
        .open
        .map_or(0, |open| log.segments.get(open).pages_left());
    if info.is_claimed && info.damaged == 0 && info.pages_left() > best {
        used.open = Some(segment);
    }
}

/// Slots and pages of a segment are at most 512.
fn slot_number(value: usize) -> u16 {
    u16::try_from(value).expect("a segment has 512 slots and 512 pages")
}

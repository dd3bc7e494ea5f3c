//! A write log whose bytes were damaged while nobody had it open: headers with
//! any contents, their checksums made right again or not, stale and misplaced
//! ones, foreign payload. `sluicectl log` and the next data plane both begin so.
//!
//! It is refused, or what it says is consistent: no two records share a page, and
//! the log goes on working around the damage without touching what was there.

use std::net::{Ipv4Addr, SocketAddrV4};

use sluice_hugepages::log::{Log, RecordFlags, RecordId, VolumeEntry, VolumeFlags, VolumeId};
use sluice_hugepages::region::{HUGEPAGE_LEN, Region};

use crate::source::Source;

/// One for the directory and three for records.
const SEGMENTS: usize = 4;
const HEADER_LEN: usize = 64;
const SLOTS: usize = 512;
const BLOCK: u32 = 512;
/// More would only be slower.
const DAMAGES_MAX: usize = 24;

pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let mut region = sample().into_region();
    let mut forged = false;
    for _ in 0..DAMAGES_MAX {
        if source.is_empty() {
            break;
        }
        forged |= damage(&mut source, &mut region);
    }
    let Ok((mut log, recovery)) = Log::open(region) else {
        return;
    };
    let mut sound = Vec::new();
    for &id in &recovery.records {
        let record = *log.record(id);
        assert!(record.part < record.parts && record.len > 0);
        if log.verify(id).is_ok() {
            assert_eq!(log.payload(id).len(), record.len as usize);
            sound.push((id, crc32c::crc32c(log.payload(id))));
        }
    }
    apart(&log, &sound);
    goes_on(&mut log, &sound);
    let before: Vec<_> = recovery.records.iter().map(|&id| key(&log, id)).collect();
    let damaged = log.damaged().len();
    reopens(log, &before, damaged, forged);
}

/// Two volumes with a few records each, some freed, one of several parts, one
/// that was never committed.
fn sample() -> Log {
    let (mut log, _) = Log::open(Region::anonymous(SEGMENTS * HUGEPAGE_LEN)).expect("empty");
    for lun in 0..2 {
        let volume = log.put_volume(VolumeEntry {
            target_name: "iqn.2004-03.example.storage:vol0"
                .try_into()
                .expect("short"),
            lun,
            storage: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
            block_len: BLOCK,
            blocks: 1 << 20,
            flags: VolumeFlags::default(),
        });
        let volume = volume.expect("room for a row");
        for sequence in 1..7 {
            // The fifth of the second volume is longer than a record may be.
            let len = if (lun, sequence) == (1, 5) {
                (1 << 20) + BLOCK
            } else {
                u32::try_from(sequence).expect("small") * 1536
            };
            let write = log.reserve(volume, sequence * 100, len).expect("room");
            log.append(write, &vec![0x5a; len as usize]);
            if sequence < 6 {
                let parts = log.commit(write, 1, sequence, RecordFlags::NONE);
                if sequence == 3 {
                    parts.iter().for_each(|&id| log.free(id));
                }
            }
        }
    }
    log
}

fn word(region: &Region, offset: usize) -> u64 {
    assert!(offset.is_multiple_of(8) && offset + 8 <= region.len());
    // SAFETY: the mapping is at least `offset + 8` bytes long, aligned to pages, and this
    // function's caller alone has it.
    unsafe { region.ptr().add(offset).cast::<u64>().read() }
}

fn set_word(region: &mut Region, offset: usize, value: u64) {
    assert!(offset.is_multiple_of(8) && offset + 8 <= region.len());
    // SAFETY: as in `word`, and the region is borrowed for writing.
    unsafe { region.ptr().add(offset).cast::<u64>().write(value) }
}

/// A header that is there, more often than one that is not.
fn slot(source: &mut Source<'_>) -> (usize, usize) {
    let [segment, slot] = source.array();
    let segment = 1 + usize::from(segment) % (SEGMENTS - 1);
    let slot = if slot < 0xf0 {
        usize::from(slot & 15)
    } else {
        usize::from(source.half()) % SLOTS
    };
    (segment, slot)
}

const fn offset((segment, slot): (usize, usize)) -> usize {
    segment * HUGEPAGE_LEN + slot * HEADER_LEN
}

/// Whether a checksum was made right again.
fn damage(source: &mut Source<'_>, region: &mut Region) -> bool {
    let mut forged = false;
    match source.below(8) {
        0 => {
            // Anywhere in the directory.
            let at = usize::from(source.half()) % 8192 * 8;
            let value = word(region, at) ^ u64::from(source.word()) << source.below(33);
            set_word(region, at, value);
        }
        1 => {
            let at = offset(slot(source)) + source.below(8) * 8;
            set_word(region, at, u64::from_be_bytes(source.array()));
        }
        2 | 3 => {
            let place = slot(source);
            let at = offset(place) + source.below(7) * 8;
            let value = word(region, at) ^ u64::from(source.byte()) << (source.below(8) * 8);
            set_word(region, at, value);
            reseal(region, place);
            forged = true;
        }
        4 | 5 => {
            // Another's header, in its place or as it was.
            let (from, to) = (slot(source), slot(source));
            for at in (0..HEADER_LEN).step_by(8) {
                let value = word(region, offset(from) + at);
                set_word(region, offset(to) + at, value);
            }
            // As it was, or as if it had been written there, of a later write or not.
            let how = source.byte();
            if how & 2 == 0 {
                let sequence = word(region, offset(to) + 24) + u64::from(how >> 2);
                set_word(region, offset(to) + 24, sequence);
            }
            if how & 1 == 0 {
                reseal(region, to);
                forged = true;
            }
        }
        6 => {
            // States and generations.
            let place = slot(source);
            let at = offset(place);
            let generation = word(region, at) & !(0xff << 56);
            let state = u64::from(source.byte() & 7);
            set_word(region, at, state << 56 | generation);
        }
        _ => {
            let page = 8 + usize::from(source.half()) % 504;
            let at = (1 + source.below(SEGMENTS - 1)) * HUGEPAGE_LEN + page * 4096;
            set_word(region, at, u64::from(source.word()));
        }
    }
    forged
}

/// Makes a header's checksum right for where it stands.
fn reseal(region: &mut Region, (segment, slot): (usize, usize)) {
    let at = offset((segment, slot));
    let generation = word(region, at) & !(0xff << 56);
    let mut bytes = ((segment as u64) << 32 | slot as u64)
        .to_le_bytes()
        .to_vec();
    bytes.extend_from_slice(&generation.to_le_bytes());
    for index in 1..7 {
        bytes.extend_from_slice(&word(region, at + index * 8).to_le_bytes());
    }
    set_word(region, at + 56, u64::from(crc32c::crc32c(&bytes)) << 32);
}

fn apart(log: &Log, sound: &[(RecordId, u32)]) {
    let mut places: Vec<_> = sound
        .iter()
        .map(|&(id, _)| {
            let payload = log.payload(id).as_ptr_range();
            (payload.start, payload.end)
        })
        .collect();
    places.sort_unstable();
    for pair in places.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two records share bytes");
    }
}

/// New writes and frees beside the damage; what was sound stays as it was.
fn goes_on(log: &mut Log, sound: &[(RecordId, u32)]) {
    let volumes: Vec<VolumeId> = log.volumes().map(|(id, _)| id).collect();
    for volume in volumes {
        for sequence in 0..4 {
            let Ok(write) = log.reserve(volume, sequence * 8, 4096) else {
                break;
            };
            log.append(write, &[0xa5; 4096]);
            let parts = log.commit(write, 1 << 40, (1 << 40) + sequence, RecordFlags::NONE);
            for &id in &parts {
                assert_eq!(log.payload(id), [0xa5; 4096]);
                log.free(id);
            }
        }
    }
    for &(id, crc) in sound {
        assert_eq!(
            crc32c::crc32c(log.payload(id)),
            crc,
            "payload that was sound"
        );
    }
    let room = log.room();
    assert!(room.segments_free + room.segments_damaged <= room.segments_total);
}

type Key = (VolumeId, u64, u64, u64, u32, u8);

fn key(log: &Log, id: RecordId) -> Key {
    let record = log.record(id);
    (
        record.volume,
        record.epoch,
        record.sequence,
        record.lba,
        record.len,
        record.part,
    )
}

/// The next start finds the same, and when all is given up there is room again.
/// Headers that are sound and contradict each other may be settled one after the
/// other, a start each; nothing that was a record before is lost by it.
fn reopens(log: Log, before: &[Key], damaged: usize, forged: bool) {
    let (mut log, recovery) = Log::open(log.into_region()).expect("opened before");
    let after: Vec<_> = recovery.records.iter().map(|&id| key(&log, id)).collect();
    if forged {
        assert!(before.iter().all(|record| after.contains(record)));
        assert!(recovery.damaged.len() <= damaged, "no new damage");
    } else {
        assert_eq!(before, after, "the same records at the next start");
        assert_eq!(damaged, recovery.damaged.len(), "and the same damage");
    }
    for id in recovery.records {
        log.free(id);
    }
    let named: Vec<_> = log.damaged().iter().map(|damage| damage.volume).collect();
    for volume in named {
        log.discard_damaged(volume);
    }
    assert_eq!(log.damaged(), []);
    let room = log.room();
    assert_eq!(
        (room.segments_free, room.segments_damaged),
        (room.segments_total, 0),
        "all of it is free again"
    );
}

//! `log check` and `log dump` of a journal's file, while no data plane has it.
//!
//! What always holds: the file is opened to be read, and one that a data plane
//! has locked is refused; what is told is what the next start would find in it
//! every payload's checksum besides.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::json;
use sluice_config::VolumeName;
use sluice_hugepages::log::VolumeEntry;
use sluice_journal::JournalError;
use sluice_journal::layout::{BLOCK_LEN, Block, HEADER_BLOCKS, Header, HeaderFault, RowTable};
use sluice_journal::replay::{Blocks, Found, Kept, Payloads, Replay, block_of, replay};

use super::table::{self, TextTable, pairs};
use super::{Answer, CliError, exit};

/// Whether a journal has ever been there: one of its two headers says so,
/// damaged or of another version as it may be.
pub(super) fn is_journal(file: &Path) -> bool {
    let Ok(opened) = File::open(file) else {
        return false;
    };
    let claims = |at: u64| {
        let mut block = Block::ZERO;
        opened
            .read_exact_at(&mut block.0, at * BLOCK_LEN as u64)
            .is_ok()
            && !matches!(
                Header::decode(&block),
                Err(HeaderFault::Blank | HeaderFault::Foreign { .. })
            )
    };
    (0..HEADER_BLOCKS).any(claims)
}

/// Sums and faults; fails when something that was acknowledged cannot be used.
pub(super) fn check(file: &Path) -> Result<Answer, CliError> {
    let mut disk = JournalFile::open(file)?;
    let named = |error: &JournalError| format!("{}: {error}", file.display());
    let (found, mut faults) = match replay(&mut disk) {
        Ok(Found::Journal(found)) => (Some(found), Vec::new()),
        Ok(Found::Blank) => (None, Vec::new()),
        Err(error) => match offset_of(&error) {
            Some(offset) => (None, vec![format!("byte {offset}: {error}")]),
            None => return Err(CliError::Failed(named(&error))),
        },
    };
    if let Some(found) = &found {
        let area = found.header.area;
        for (at, kept) in found.records.values().enumerate() {
            let good = read(&mut disk, area, kept).map_err(|e| CliError::Failed(named(&e)))?;
            if !good {
                faults.push(format!(
                    "byte {}: record {at}, sequence {} of volume {}, {} bytes at LBA {}: its payload fails its checksum",
                    payload_offset(area, kept),
                    kept.entry.identity.sequence,
                    volume_name(found, kept.entry.identity.volume),
                    kept.entry.len,
                    kept.entry.lba
                ));
            }
        }
    }
    let sound = faults.is_empty();
    let mut json = json!({
        "ok": sound,
        "file": file.display().to_string(),
        "kind": "journal",
        "blocks": disk.blocks,
        "faults": faults,
    });
    let mut shown = vec![
        ("file", file.display().to_string()),
        ("blocks", format!("{} of 4 KiB", disk.blocks)),
    ];
    if let Some(found) = &found {
        let header = &found.header;
        let used: u64 = found.groups.iter().map(|&(_, blocks)| blocks).sum();
        json["id"] = header.id.into();
        json["run"] = header.run.into();
        json["serial"] = header.serial.into();
        json["void"] = header.void.into();
        json["groups"] = found.groups.len().into();
        json["used_bytes"] = (used * BLOCK_LEN as u64).into();
        json["records"] = found.records.len().into();
        json["dirty_bytes"] = found.bytes().into();
        json["incomplete_records"] = found.incomplete.len().into();
        json["rows"] = found.rows.len().into();
        shown.extend([
            (
                "journal",
                format!("id {:08x}, start {}", header.id, header.run),
            ),
            (
                "groups",
                format!(
                    "{} ({}), from byte {}",
                    found.groups.len(),
                    table::bytes(used * BLOCK_LEN as u64),
                    block_of(header.tail.address, header.area) * BLOCK_LEN as u64
                ),
            ),
            ("records", found.records.len().to_string()),
            ("dirty", table::bytes(found.bytes())),
            (
                "never acknowledged",
                format!("{} records", found.incomplete.len()),
            ),
            ("rows", found.rows.len().to_string()),
        ]);
    }
    let verdict = match (sound, &found) {
        (false, _) => format!("{} faults:\n  {}", faults.len(), faults.join("\n  ")),
        (true, None) => "sound: empty, no data plane has used it yet".to_owned(),
        (true, Some(found)) if found.header.void => {
            "sound: void, it was given up and nothing of it counts".to_owned()
        }
        (true, Some(_)) => {
            "sound: every group and every payload agrees with its checksum".to_owned()
        }
    };
    let text = format!("{}\n{verdict}\n", pairs(&shown));
    let exit = if sound { exit::DONE } else { exit::FAILED };
    Ok(Answer { json, text, exit })
}

/// Every record that a start would put back, volume by volume in order of arrival.
pub(super) fn dump(file: &Path, volume: Option<&str>) -> Result<Answer, CliError> {
    let named = |error: JournalError| CliError::Failed(format!("{}: {error}", file.display()));
    let mut disk = JournalFile::open(file)?;
    let name = volume.map(str::parse::<VolumeName>).transpose();
    let name = name.map_err(|error| CliError::Failed(error.to_string()))?;
    let found = match replay(&mut disk).map_err(named)? {
        Found::Journal(found) => found,
        Found::Blank => {
            let json = json!({ "ok": true, "records": [] });
            return Ok(Answer::done(json, "(none)".to_owned()));
        }
    };
    let area = found.header.area;
    let mut records = Vec::new();
    let mut rows = TextTable::new(&[
        "volume",
        ">epoch",
        ">sequence",
        ">part",
        ">LBA",
        ">bytes",
        ">at byte",
        "payload",
    ]);
    for kept in found.records.values() {
        let entry = kept.entry;
        let meant = match (&name, volume_of(&found, entry.identity.volume)) {
            (None, _) => true,
            (Some(name), Some(row)) => name.covers(&row.target_name, row.lun),
            (Some(_), None) => false,
        };
        if !meant {
            continue;
        }
        let good = read(&mut disk, area, kept).map_err(named)?;
        let volume = volume_name(&found, entry.identity.volume);
        let offset = payload_offset(area, kept);
        records.push(json!({
            "volume": volume,
            "epoch": entry.epoch,
            "sequence": entry.identity.sequence,
            "part": entry.identity.part,
            "parts": entry.parts,
            "lba": entry.lba,
            "bytes": entry.len,
            "offset": offset,
            "payload_good": good,
        }));
        rows.row([
            volume,
            entry.epoch.to_string(),
            entry.identity.sequence.to_string(),
            format!("{}/{}", entry.identity.part + 1, entry.parts),
            entry.lba.to_string(),
            entry.len.to_string(),
            offset.to_string(),
            if good { "good" } else { "TORN" }.to_owned(),
        ]);
    }
    let json = json!({ "ok": true, "records": records });
    Ok(Answer::done(json, rows.render()))
}

/// Where damage is, if the fault is damage and not another file.
fn offset_of(error: &JournalError) -> Option<u64> {
    match error {
        JournalError::Hole { block, .. } | JournalError::Group { block, .. } => {
            Some(block * BLOCK_LEN as u64)
        }
        JournalError::Truncated { found, .. } => Some(found * BLOCK_LEN as u64),
        JournalError::Headers => Some(0),
        _ => None,
    }
}

fn read(disk: &mut JournalFile, area: u64, kept: &Kept) -> Result<bool, JournalError> {
    let mut bytes = Vec::new();
    Payloads::new(disk, area).read(kept, &mut bytes)
}

fn payload_offset(area: u64, kept: &Kept) -> u64 {
    block_of(kept.payload, area) * BLOCK_LEN as u64
}

fn volume_of(found: &Replay, volume: u16) -> Option<VolumeEntry> {
    let row = found.rows.get(&(RowTable::Volume, volume))?;
    VolumeEntry::from_row(&row.body)
}

fn volume_name(found: &Replay, volume: u16) -> String {
    volume_of(found, volume).map_or_else(
        || format!("row {volume}"),
        |entry| {
            let (target, lun) = (entry.target_name.to_string(), Some(entry.lun));
            VolumeName { target, lun }.to_string()
        },
    )
}

/// A file or device that is read, and nothing else.
struct JournalFile {
    file: File,
    blocks: u64,
}

impl JournalFile {
    fn open(path: &Path) -> Result<Self, CliError> {
        let failed = |what: &str, why: &dyn std::fmt::Display| {
            CliError::Failed(format!("cannot {what} {}: {why}", path.display()))
        };
        let file = OpenOptions::new().read(true).open(path);
        let mut file = file.map_err(|error| failed("open", &error))?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(failed("use", &"a data plane has it; stop that first"));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &error)),
        }
        let len = file.seek(SeekFrom::End(0));
        let len = len.map_err(|error| failed("find the size of", &error))?;
        let blocks = len / BLOCK_LEN as u64;
        Ok(Self { file, blocks })
    }
}

impl Blocks for JournalFile {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, first: u64, into: &mut [Block]) -> io::Result<()> {
        for (block, at) in into.iter_mut().zip(first..) {
            self.file
                .read_exact_at(&mut block.0, at * BLOCK_LEN as u64)?;
        }
        Ok(())
    }
}

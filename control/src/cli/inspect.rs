//! `log check` and `log dump`: a write log's file, looked at offline.
//!
//! What always holds: the file is mapped read-only and no byte of it changes;
//! what is told is what the next data plane would find, and each
//! payload's checksum besides. A file that a data plane uses is refused.

use std::path::Path;

use serde_json::{Value, json};
use sluice_config::VolumeName;
use sluice_hugepages::log::{Damage, Log, Record, RecordFlags, RecordId, Recovery, VolumeId};
use sluice_hugepages::region::Region;

use super::table::{self, TextTable, pairs};
use super::{Answer, CliError, exit};

/// Sums and faults; fails when something that was acknowledged cannot be used.
pub(super) fn check(file: &Path) -> Result<Answer, CliError> {
    let mut found = Found::read(file)?;
    let torn = found.torn();
    let room = found.log.room();
    let faults: Vec<String> = found
        .recovery
        .damaged
        .iter()
        .map(|damage| found.damage_text(damage))
        .chain(torn.iter().map(ToString::to_string))
        .chain(found.recovery.damaged_volume_rows.iter().map(|row| {
            format!(
                "volume row {} fails its checksum; its records have no volume",
                row.0
            )
        }))
        .collect();
    let sound = faults.is_empty();
    let volumes = found.recovery.volumes.iter().map(|volume| {
        json!({
            "volume": found.volume_name(volume.volume),
            "records": volume.records,
            "dirty_bytes": volume.dirty_bytes,
            "epoch_max": volume.epoch_max,
            "sequence_max": volume.sequence_max,
        })
    });
    let json = json!({
        "ok": sound,
        "file": file.display().to_string(),
        "empty": found.recovery.formatted,
        "segments": room.segments_total,
        "segments_free": room.segments_free,
        "segments_damaged": room.segments_damaged,
        "records": found.recovery.records.len(),
        "dirty_bytes": room.dirty_bytes,
        "incomplete_records": found.recovery.incomplete_records,
        "nexuses": found.log.nexuses().count(),
        "damaged_nexus_rows": found.recovery.damaged_nexus_rows,
        "volumes": volumes.collect::<Vec<_>>(),
        "faults": faults,
    });
    let mut text = pairs(&[
        ("file", file.display().to_string()),
        (
            "segments",
            format!(
                "{} of 2 MiB, {} free",
                room.segments_total, room.segments_free
            ),
        ),
        ("records", found.recovery.records.len().to_string()),
        ("dirty", table::bytes(room.dirty_bytes)),
        (
            "never acknowledged",
            format!(
                "{} records, dropped at the next start",
                found.recovery.incomplete_records
            ),
        ),
        ("nexuses", found.log.nexuses().count().to_string()),
    ]);
    let mut rows = TextTable::new(&["volume", ">records", ">dirty", ">last epoch"]);
    for volume in &found.recovery.volumes {
        rows.row([
            found.volume_name(volume.volume),
            volume.records.to_string(),
            table::bytes(volume.dirty_bytes),
            volume.epoch_max.to_string(),
        ]);
    }
    text.push('\n');
    text.push_str(&rows.render());
    let verdict = match (sound, found.recovery.formatted) {
        (true, true) => "sound: empty, no data plane has used it yet".to_owned(),
        (true, false) => {
            "sound: every record and every payload agrees with its checksum".to_owned()
        }
        (false, _) => format!("{} faults:\n  {}", faults.len(), faults.join("\n  ")),
    };
    text.push_str(&format!("\n{verdict}\n"));
    let exit = if sound { exit::DONE } else { exit::FAILED };
    Ok(Answer { json, text, exit })
}

/// Every record in its order of arrival, volume by volume, and what is damaged.
pub(super) fn dump(file: &Path, volume: Option<&str>) -> Result<Answer, CliError> {
    let mut found = Found::read(file)?;
    let name = volume.map(str::parse::<VolumeName>).transpose();
    let name = name.map_err(|error| CliError::Failed(error.to_string()))?;
    let meant = |id: VolumeId, log: &Log| match (&name, log.volume(id)) {
        (None, _) => true,
        (Some(name), Some(entry)) => name.covers(&entry.target_name, entry.lun),
        (Some(_), None) => false,
    };
    if let Some(name) = &name
        && !found.log.volumes().any(|(id, _)| meant(id, &found.log))
    {
        let all: Vec<String> = found
            .log
            .volumes()
            .map(|(id, _)| found.volume_name(id))
            .collect();
        return Err(CliError::Failed(format!(
            "the log has no volume {name}; it has: {}",
            if all.is_empty() {
                "none".to_owned()
            } else {
                all.join(", ")
            }
        )));
    }
    let ids = std::mem::take(&mut found.recovery.records);
    let (mut array, mut rows) = (
        Vec::new(),
        TextTable::new(&[
            "volume",
            ">epoch",
            ">sequence",
            ">part",
            ">LBA",
            ">blocks",
            ">bytes",
            "flags",
            "payload",
        ]),
    );
    for id in ids {
        let record = *found.log.record(id);
        if !meant(record.volume, &found.log) {
            continue;
        }
        let row = found.record_row(id, &record);
        array.push(row.json);
        rows.row(row.cells);
    }
    let damaged: Vec<String> = found
        .recovery
        .damaged
        .iter()
        .filter(|damage| name.is_none() || damage.volume.is_some_and(|id| meant(id, &found.log)))
        .map(|damage| found.damage_text(damage))
        .collect();
    let mut text = rows.render();
    for damage in &damaged {
        text.push_str(&format!("damaged: {damage}\n"));
    }
    let json = json!({ "ok": true, "records": array, "damaged": damaged });
    Ok(Answer::done(json, text))
}

struct RecordRow {
    json: Value,
    cells: [String; 9],
}

struct Found {
    log: Log,
    recovery: Recovery,
}

impl Found {
    fn read(file: &Path) -> Result<Found, CliError> {
        let failed = |error: &dyn std::error::Error| CliError::Failed(error.to_string());
        let region = Region::open_read_only(file).map_err(|error| failed(&error))?;
        let (log, recovery) = Log::open(region)
            .map_err(|error| CliError::Failed(format!("{}: {error}", file.display())))?;
        Ok(Found { log, recovery })
    }

    /// Payloads that are not what their checksum says.
    fn torn(&mut self) -> Vec<String> {
        let Found { log, recovery } = self;
        let torn = recovery
            .records
            .iter()
            .filter_map(|&id| log.verify(id).err());
        torn.map(|torn| torn.to_string()).collect()
    }

    fn volume_name(&self, id: VolumeId) -> String {
        self.log.volume(id).map_or_else(
            || format!("row {}", id.0),
            |entry| {
                VolumeName {
                    target: entry.target_name.to_string(),
                    lun: Some(entry.lun),
                }
                .to_string()
            },
        )
    }

    fn damage_text(&self, damage: &Damage) -> String {
        let volume = damage
            .volume
            .map_or("no volume".to_owned(), |id| self.volume_name(id));
        format!("{volume}: {damage}")
    }

    fn record_row(&mut self, id: RecordId, record: &Record) -> RecordRow {
        let payload_good = self.log.verify(id).is_ok();
        let volume = self.volume_name(record.volume);
        let block_len = self
            .log
            .volume(record.volume)
            .map_or(512, |entry| entry.block_len);
        let blocks = record.len / block_len;
        let ordering = record.flags.contains(RecordFlags::ORDERING_POINT);
        let json = json!({
            "volume": volume,
            "epoch": record.epoch,
            "sequence": record.sequence,
            "part": record.part,
            "parts": record.parts,
            "lba": record.lba,
            "blocks": blocks,
            "bytes": record.len,
            "ordering_point": ordering,
            "payload_good": payload_good,
        });
        let cells = [
            volume,
            record.epoch.to_string(),
            record.sequence.to_string(),
            format!("{}/{}", record.part + 1, record.parts),
            record.lba.to_string(),
            blocks.to_string(),
            record.len.to_string(),
            if ordering { "ordering point" } else { "-" }.to_owned(),
            if payload_good { "good" } else { "TORN" }.to_owned(),
        ];
        RecordRow { json, cells }
    }
}

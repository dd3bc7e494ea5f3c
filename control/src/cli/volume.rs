//! `volume`: what the storage has refused for good of what was acknowledged, and
//! the operator's two ways out (C-4): send it again, or throw it away by name.

use std::io::Write;

use serde_json::{Value, json};
use sluice_config::VolumeName;
use sluice_hugepages::shm::SegmentReader;
use sluice_hugepages::tables::{FailedWrite, Volume};
use sluice_proto::scsi::{Sense, SenseKey};

use super::table::TextTable;
use super::{Answer, Args, CliError, done, exit, show, table};
use crate::client;
use crate::protocol::Request;

/// Reads of the two tables until they tell the same.
const READS_MAX: usize = 50;
/// The data plane writes both in one go.
const READ_AGAIN: std::time::Duration = std::time::Duration::from_millis(20);

/// A volume with what is listed of its refused writes.
struct Failed {
    volume: Volume,
    writes: Vec<FailedWrite>,
}

pub(super) fn failed(
    name: Option<&str>,
    args: &Args,
    err: &mut dyn Write,
) -> Result<Answer, CliError> {
    let name = name.map(parse).transpose()?;
    let found = read(name.as_ref(), args, err)?;
    let json = found.iter().flat_map(writes_json).collect();
    Ok(Answer::done(Value::Array(json), listing(&found)))
}

pub(super) fn retry(name: &str, args: &Args) -> Result<Answer, CliError> {
    let request = Request::RetryFailed {
        volume: name.to_owned(),
    };
    let volumes = done(client::ask(&args.socket()?, &request)?)?;
    let json = json!({ "ok": true, "volumes": volumes });
    let text = if volumes == 0 {
        format!("{name}: no volume has failed")
    } else {
        format!(
            "{volumes} volumes: what was refused is sent again; `sluicectl show volumes` tells how that ends"
        )
    };
    Ok(Answer::done(json, text))
}

pub(super) fn discard(
    name: &str,
    yes: bool,
    args: &Args,
    err: &mut dyn Write,
) -> Result<Answer, CliError> {
    let parsed = parse(name)?;
    let found = read(Some(&parsed), args, err)?;
    let [failed] = found.as_slice() else {
        let message = match found.len() {
            0 => format!("{name}: has no refused writes; nothing was discarded"),
            more => format!("{name}: {more} volumes have refused writes; name one as TARGET/LUN"),
        };
        return Err(CliError::Failed(message));
    };
    let volume = show::volume_name(&failed.volume);
    let list = listing(&found);
    if !yes {
        let json = json!({ "ok": false, "discarded": 0, "writes": writes_json(failed).collect::<Vec<_>>() });
        let text = format!(
            "{list}\nnothing was discarded; `sluicectl volume discard {volume} --yes` throws these {} away",
            failed.writes.len()
        );
        return Ok(Answer {
            json,
            text,
            exit: exit::FAILED,
        });
    }
    let request = Request::DiscardFailed {
        volume: volume.clone(),
        stamp: failed.volume.failed_stamp,
    };
    let discarded = done(client::ask(&args.socket()?, &request)?)?;
    let left = failed
        .volume
        .failed_writes
        .saturating_sub(u64::from(discarded));
    let json = json!({
        "ok": true,
        "discarded": discarded,
        "left": left,
        "writes": writes_json(failed).collect::<Vec<_>>(),
    });
    let more = if left == 0 {
        String::new()
    } else {
        format!("; {left} more are refused, which the list had no room for: look again")
    };
    let text = format!("{list}\ndiscarded: these {discarded} writes of {volume}{more}");
    Ok(Answer::done(json, text))
}

fn parse(name: &str) -> Result<VolumeName, CliError> {
    name.parse()
        .map_err(|error| CliError::Failed(format!("{error}")))
}

/// The volumes meant that have refused writes.
fn read(
    name: Option<&VolumeName>,
    args: &Args,
    err: &mut dyn Write,
) -> Result<Vec<Failed>, CliError> {
    let reader = args.reader(err)?;
    for _ in 0..READS_MAX {
        if let Some(found) = consistent(&reader, name) {
            if let Some(name) = name
                && !reader
                    .rows::<Volume>()
                    .rows
                    .iter()
                    .any(|(_, volume)| name.covers(&volume.target, volume.lun))
            {
                return Err(CliError::Failed(format!(
                    "volume {name}: no such volume; `sluicectl show volumes` lists them"
                )));
            }
            return Ok(found);
        }
        std::thread::sleep(READ_AGAIN);
    }
    Err(CliError::DataPlane(
        "the table of refused writes changes faster than it can be read, or its data plane stopped in the middle of writing it; try again".to_owned(),
    ))
}

/// Both tables, if the one is of the other's moment.
fn consistent(reader: &SegmentReader, name: Option<&VolumeName>) -> Option<Vec<Failed>> {
    let writes = reader.rows::<FailedWrite>();
    let volumes = reader.rows::<Volume>();
    if writes.stale + writes.malformed + volumes.stale + volumes.malformed > 0 {
        return None;
    }
    let meant = |volume: &Volume| {
        volume.failed_writes > 0 && name.is_none_or(|name| name.covers(&volume.target, volume.lun))
    };
    let volumes = volumes.rows.into_iter().map(|(_, volume)| volume);
    volumes
        .filter(meant)
        .map(|volume| {
            let own =
                |write: &&FailedWrite| (write.target, write.lun) == (volume.target, volume.lun);
            let listed: Vec<_> = writes
                .rows
                .iter()
                .map(|(_, write)| write)
                .filter(own)
                .cloned()
                .collect();
            let same = listed
                .iter()
                .all(|write| write.stamp == volume.failed_stamp);
            (same && !listed.is_empty()).then_some(Failed {
                volume,
                writes: listed,
            })
        })
        .collect()
}

/// As the field writes it: key, additional code and qualifier.
fn sense(write: &FailedWrite) -> Sense {
    Sense::new(SenseKey::from_code(write.sense_key), write.asc, write.ascq)
}

fn writes_json(failed: &Failed) -> impl Iterator<Item = Value> + '_ {
    failed.writes.iter().map(|write| {
        json!({
            "target": write.target.as_str(),
            "lun": show::lun_json(write.lun),
            "lba": write.lba,
            "blocks": write.blocks,
            "bytes": write.bytes,
            "sense": sense(write).to_string(),
            "sequence": write.sequence,
        })
    })
}

fn listing(found: &[Failed]) -> String {
    if found.is_empty() {
        return "no volume has refused writes".to_owned();
    }
    let mut text = TextTable::new(&["volume", ">lba", ">last", ">size", "why"]);
    let mut unlisted = 0;
    for Failed { volume, writes } in found {
        for write in writes {
            text.row([
                show::volume_name(volume),
                write.lba.to_string(),
                (write.lba + write.blocks.saturating_sub(1)).to_string(),
                table::bytes(write.bytes),
                sense(write).to_string(),
            ]);
        }
        unlisted += volume.failed_writes.saturating_sub(writes.len() as u64);
    }
    let mut text = text.render();
    if unlisted > 0 {
        text.push_str(&format!(
            "\nand {unlisted} more, which the list has no room for"
        ));
    }
    text
}

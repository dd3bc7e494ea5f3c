//! Sessions and volumes.

use std::io::Write;

use serde_json::{Value, json};
use sluice_config::{VolumeName, lun_number};
use sluice_hugepages::tables::{Drain, HeldUp, Latency, Session, Volume};

use super::super::Answer;
use super::super::table::{self, TextTable};
use super::{Source, hex, list};

/// As operators write it.
pub(in super::super) fn volume_name(volume: &Volume) -> String {
    name(&volume.target, Some(volume.lun))
}

fn name(target: &str, lun: Option<u64>) -> String {
    VolumeName {
        target: target.to_owned(),
        lun,
    }
    .to_string()
}

/// A small number, or the whole field in hexadecimal.
pub(in super::super) fn lun_json(lun: u64) -> Value {
    lun_number(lun).map_or_else(|| json!(format!("{lun:#018x}")), |number| json!(number))
}

pub(super) fn sessions(source: &Source, err: &mut dyn Write) -> Answer {
    let mut text = TextTable::new(&[
        "initiator",
        "computer",
        "volume",
        "storage",
        "lan",
        "wan",
        ">commands",
        ">unflushed",
        ">age",
    ]);
    let state = |connected: bool| {
        if connected {
            "connected"
        } else {
            "disconnected"
        }
    };
    let mut json = Vec::new();
    for (index, session) in source.rows::<Session>(err) {
        let age_s = source.age_s(session.since_ns);
        // One that carries a flush beside a computer's is of none.
        let is_lane = session.computer.ip().is_unspecified();
        json.push(json!({
            "index": index,
            "lane": is_lane,
            "target": session.target.as_str(),
            "storage": session.storage.to_string(),
            "lun": session.lun.map(lun_json),
            "volume": session.volume,
            "initiator": session.initiator.as_str(),
            "computer": (!is_lane).then(|| session.computer.to_string()),
            "state": state(session.lan_connected),
            "lan": { "isid": hex(&session.lan_isid, ""), "tsih": session.lan_tsih, "state": state(session.lan_connected) },
            "wan": { "isid": hex(&session.wan_isid, ""), "tsih": session.wan_tsih, "state": state(session.wan_connected) },
            "dirty_bytes": session.dirty_bytes,
            "commands": session.commands,
            "age_s": age_s,
        }));
        text.row([
            session.initiator.to_string(),
            if is_lane {
                "(lane)".to_owned()
            } else {
                session.computer.to_string()
            },
            name(&session.target, session.lun),
            session.storage.to_string(),
            state(session.lan_connected).to_owned(),
            state(session.wan_connected).to_owned(),
            session.commands.to_string(),
            table::bytes(session.dirty_bytes),
            table::seconds(age_s),
        ]);
    }
    list(json, &text)
}

/// The state, how far a drain is, and what holds the flush up.
pub(in super::super) fn state(volume: &Volume) -> String {
    let mut state = volume.state.as_str().to_owned();
    if volume.drain != Drain::No {
        state = format!("{state}, {}", volume.drain.as_str());
    }
    if volume.held_up != HeldUp::No {
        state = format!("{state} ({})", volume.held_up.as_str());
    }
    state
}

/// Bytes that left the cache for each byte that the storage was sent; 1 while
/// nothing was.
#[expect(clippy::cast_precision_loss, reason = "a ratio")]
pub(in super::super) fn coalescing_ratio(volume: &Volume) -> f64 {
    if volume.flushed_bytes == 0 {
        return 1.0;
    }
    1.0 + volume.superseded_bytes as f64 / volume.flushed_bytes as f64
}

/// An estimate; `-` is never, as things go now.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(in super::super) fn until(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| table::seconds(ms as f64 / 1e3))
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(super) fn volumes(source: &Source, err: &mut dyn Write) -> Answer {
    let mut text = TextTable::new(&[
        "volume",
        "state",
        "durability",
        ">size",
        ">unflushed",
        ">oldest",
        ">load",
        ">p99",
        ">written",
        ">flushed",
        ">threshold",
        ">period",
        ">drained in",
        ">full in",
    ]);
    let mut json = Vec::new();
    for (index, volume) in source.rows::<Volume>(err) {
        if volume.failed_writes > 0 {
            // If standard error is closed, the table says it too.
            let _ = writeln!(
                err,
                "sluicectl: {} has failed: the storage refused {} acknowledged writes for good; see `sluicectl volume failed`",
                volume_name(&volume),
                volume.failed_writes
            );
        }
        let oldest_dirty_s = volume
            .oldest_dirty_since_ns
            .map(|since| source.age_s(since));
        let size_bytes = u64::from(volume.block_len).saturating_mul(volume.blocks);
        let period_s = volume.flush_period_ns as f64 / 1e9;
        json.push(json!({
            "index": index,
            "target": volume.target.as_str(),
            "lun": lun_json(volume.lun),
            "storage": volume.storage.to_string(),
            "state": volume.state.as_str(),
            "durability": volume.durability.as_str(),
            "dirty_bytes": volume.dirty_bytes,
            // Nothing unflushed is no lag.
            "oldest_dirty_s": oldest_dirty_s.unwrap_or(0.0),
            "load_us": volume.load_us,
            "load_p99_us": volume.load_p99_us,
            "load_at_rest_us": volume.load_at_rest_us,
            "records": volume.records,
            "written_bytes": volume.written_bytes,
            "flushed_bytes": volume.flushed_bytes,
            "superseded_bytes": volume.superseded_bytes,
            "coalescing_ratio": coalescing_ratio(&volume),
            "written_bytes_per_s": volume.written_bytes_per_s,
            "flushed_bytes_per_s": volume.flushed_bytes_per_s,
            "epochs_pending": volume.epochs_pending,
            "drained_in_s": volume.drained_in_ms.map(|ms| ms as f64 / 1e3),
            "full_in_s": volume.full_in_ms.map(|ms| ms as f64 / 1e3),
            "room_bytes": volume.room_bytes,
            "sessions": volume.sessions,
            "block_len": volume.block_len,
            "blocks": volume.blocks,
            "size_bytes": size_bytes,
            "failed_writes": volume.failed_writes,
            "drain": volume.drain.as_str(),
            "held_up": volume.held_up.as_str(),
            "latency": latencies(&volume).map(|(kind, latency)| (kind.to_owned(), latency_json(&latency))).into_iter().collect::<Value>(),
            "flush": {
                "threshold_bytes": volume.flush_threshold_bytes,
                "stop_bytes": volume.flush_stop_bytes,
                "period_ms": volume.flush_period_ns / 1_000_000,
                "idle_ms": volume.flush_idle_ns / 1_000_000,
                "load_limit_us": volume.flush_load_limit_us,
            },
        }));
        text.row([
            volume_name(&volume),
            state(&volume),
            volume.durability.as_str().to_owned(),
            table::bytes(size_bytes),
            table::bytes(volume.dirty_bytes),
            oldest_dirty_s.map_or_else(|| "-".to_owned(), table::seconds),
            table::seconds(volume.load_us as f64 / 1e6),
            table::seconds(volume.load_p99_us as f64 / 1e6),
            table::bytes(volume.written_bytes),
            table::bytes(volume.flushed_bytes),
            table::bytes(volume.flush_threshold_bytes),
            table::seconds(period_s),
            until(volume.drained_in_ms),
            until(volume.full_in_ms),
        ]);
    }
    list(json, &text)
}

fn latencies(volume: &Volume) -> [(&'static str, Latency); 3] {
    [
        ("write", volume.write_latency),
        ("read", volume.read_latency),
        ("flush", volume.flush_latency),
    ]
}

/// A percentile; none if nothing has come of late.
pub(in super::super) fn percentile(latency: &Latency, us: u64) -> Option<u64> {
    (latency.count > 0).then_some(us)
}

fn latency_json(latency: &Latency) -> Value {
    let percentile = |us| percentile(latency, us);
    json!({
        "count": latency.count,
        "p50_us": percentile(latency.p50_us),
        "p90_us": percentile(latency.p90_us),
        "p99_us": percentile(latency.p99_us),
        "p999_us": percentile(latency.p999_us),
        "max_us": percentile(latency.max_us),
        "total_count": latency.total_count,
        "total_max_us": latency.total_max_us,
    })
}

/// A row a volume and kind.
pub(super) fn latency(source: &Source, err: &mut dyn Write) -> Answer {
    let mut text = TextTable::new(&[
        "volume",
        "of",
        ">count",
        ">p50",
        ">p90",
        ">p99",
        ">p99.9",
        ">longest",
        ">count in all",
        ">longest of all",
    ]);
    let mut json = Vec::new();
    for (_, volume) in source.rows::<Volume>(err) {
        for (kind, latency) in latencies(&volume) {
            let mut row = latency_json(&latency);
            row["target"] = json!(volume.target.as_str());
            row["lun"] = lun_json(volume.lun);
            row["kind"] = json!(kind);
            json.push(row);
            let cell = |us| latency_text(percentile(&latency, us));
            text.row([
                volume_name(&volume),
                kind.to_owned(),
                latency.count.to_string(),
                cell(latency.p50_us),
                cell(latency.p90_us),
                cell(latency.p99_us),
                cell(latency.p999_us),
                cell(latency.max_us),
                latency.total_count.to_string(),
                latency_text((latency.total_count > 0).then_some(latency.total_max_us)),
            ]);
        }
    }
    list(json, &text)
}

/// `-` where nothing has come.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(in super::super) fn latency_text(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), |us| table::seconds(us as f64 / 1e6))
}

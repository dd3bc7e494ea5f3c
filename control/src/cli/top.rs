//! `top`: what moves, refreshed. It reads the segment alone, as `show` does.
//!
//! On a terminal each refresh takes the place of the last; anywhere else, and
//! with `--count`, one follows the other. JSON is one object a line.

use std::cmp::Reverse;
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_hugepages::shm::{SegmentReader, monotonic_ns};
use sluice_hugepages::tables::{Buffers, Runtime, Volume};

use super::show::{
    coalescing_ratio, latency_text, lun_json, percentile, state, until, volume_name,
};
use super::table::{self, TextTable};
use super::{Answer, Args, CliError};

/// Moves the cursor home and clears what is below (ECMA-48 CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[J";

pub(super) fn top(
    count: Option<u64>,
    interval: Duration,
    args: &Args,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<Answer, CliError> {
    let in_place = count.is_none() && !args.json && stdout().is_terminal();
    let mut shown = 0;
    loop {
        // Anew each time: a data plane that has started since may have made a new file.
        let reader = args.reader(err)?;
        let screen = if args.json {
            format!("{}\n", as_json(&reader))
        } else {
            as_text(&reader)
        };
        let clear = if in_place { CLEAR } else { "" };
        let between = if shown > 0 && !in_place && !args.json {
            "\n"
        } else {
            ""
        };
        let told = write!(out, "{clear}{between}{screen}").and_then(|()| out.flush());
        shown += 1;
        // A reader that has gone wants no more.
        if told.is_err() || count.is_some_and(|count| shown >= count) {
            return Ok(Answer::told());
        }
        std::thread::sleep(interval);
    }
}

/// The volumes, those that move most first.
fn volumes(reader: &SegmentReader) -> Vec<Volume> {
    let rows = reader.rows::<Volume>().rows.into_iter();
    let mut volumes: Vec<Volume> = rows.map(|(_, volume)| volume).collect();
    volumes.sort_by_key(|volume| {
        let moved = volume.written_bytes_per_s + volume.flushed_bytes_per_s;
        Reverse((moved, volume.dirty_bytes))
    });
    volumes
}

fn write_p99_us(volume: &Volume) -> Option<u64> {
    percentile(&volume.write_latency, volume.write_latency.p99_us)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds of years are exact to a microsecond"
)]
fn age_s(since_ns: u64) -> f64 {
    monotonic_ns().saturating_sub(since_ns) as f64 / 1e9
}

fn as_json(reader: &SegmentReader) -> Value {
    let workers: Vec<Value> = reader
        .rows::<Runtime>()
        .rows
        .iter()
        .map(|(index, row)| json!({ "worker": index, "idle_permille": row.idle_permille }))
        .collect();
    let volumes: Vec<Value> = volumes(reader)
        .iter()
        .map(|volume| {
            json!({
                "target": volume.target.as_str(),
                "lun": lun_json(volume.lun),
                "state": volume.state.as_str(),
                "held_up": volume.held_up.as_str(),
                "written_bytes_per_s": volume.written_bytes_per_s,
                "flushed_bytes_per_s": volume.flushed_bytes_per_s,
                "dirty_bytes": volume.dirty_bytes,
                "oldest_dirty_s": volume.oldest_dirty_since_ns.map_or(0.0, age_s),
                "epochs_pending": volume.epochs_pending,
                "load_us": volume.load_us,
                "load_p99_us": volume.load_p99_us,
                "write_p99_us": write_p99_us(volume),
                "coalescing_ratio": coalescing_ratio(volume),
                "drained_in_ms": volume.drained_in_ms,
                "full_in_ms": volume.full_in_ms,
            })
        })
        .collect();
    json!({ "workers": workers, "volumes": volumes })
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn as_text(reader: &SegmentReader) -> String {
    let mut head = Vec::new();
    for (index, row) in reader.rows::<Runtime>().rows {
        let idle = f64::from(row.idle_permille) / 10.0;
        head.push(format!("worker {index}: {idle:.1} % idle"));
    }
    for (_, row) in reader.rows::<Buffers>().rows {
        head.push(format!(
            "log: {} of {} unflushed",
            table::bytes(row.log_live_bytes),
            table::bytes(row.log_bytes)
        ));
    }
    let mut text = TextTable::new(&[
        "volume",
        "state",
        ">in/s",
        ">out/s",
        ">unflushed",
        ">oldest",
        ">epochs",
        ">load",
        ">p99",
        ">write p99",
        ">coalesced",
        ">drained in",
        ">full in",
    ]);
    for volume in volumes(reader) {
        let oldest = volume.oldest_dirty_since_ns.map(age_s);
        text.row([
            volume_name(&volume),
            state(&volume),
            table::bytes(volume.written_bytes_per_s),
            table::bytes(volume.flushed_bytes_per_s),
            table::bytes(volume.dirty_bytes),
            oldest.map_or_else(|| "-".to_owned(), table::seconds),
            volume.epochs_pending.to_string(),
            table::seconds(volume.load_us as f64 / 1e6),
            table::seconds(volume.load_p99_us as f64 / 1e6),
            latency_text(write_p99_us(&volume)),
            format!("{:.2}", coalescing_ratio(&volume)),
            until(volume.drained_in_ms),
            until(volume.full_in_ms),
        ]);
    }
    format!("{}\n{}", head.join(", "), text.render())
}

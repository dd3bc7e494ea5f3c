//! `drain`: the daemon has it begun, the volume table shows how far it is.
//!
//! The data plane drains by itself from then on: neither the daemon nor this
//! process is needed for it, and giving up waiting ends nothing.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_hugepages::shm::{SegmentReader, Vitality, monotonic_ns};
use sluice_hugepages::tables::{Drain, HeldUp, Volume};

use super::{Answer, Args, CliError, done, exit, show, table};
use crate::client;
use crate::protocol::Request;

const POLL_PERIOD: Duration = Duration::from_millis(10);
/// Between two lines of progress on standard error.
const TELL_PERIOD: Duration = Duration::from_secs(1);

pub(super) fn drain(
    timeout: Duration,
    args: &Args,
    err: &mut dyn Write,
) -> Result<Answer, CliError> {
    let begun = Instant::now();
    let begin = Request::Drain { on: true };
    done(client::ask(&args.socket()?, &begin)?)?;
    let reader = SegmentReader::open(&args.segment()?)?;
    let mut told = Instant::now();
    loop {
        let waited = begun.elapsed();
        match look(&reader) {
            Look::Unreadable if waited < timeout => {}
            Look::Unreadable => {
                return Err(CliError::DataPlane(
                    "a row of the volume table cannot be read; see `sluicectl show runtime`"
                        .to_owned(),
                ));
            }
            Look::Over => {
                return Err(CliError::Failed(
                    "somebody has ended the drain (`sluicectl drain --cancel`), or another data plane has started"
                        .to_owned(),
                ));
            }
            Look::Rows(rows) => {
                let left: Vec<&Volume> = rows
                    .iter()
                    .filter(|row| row.drain == Drain::Draining)
                    .collect();
                if left.is_empty() {
                    return Ok(drained(rows.len(), waited));
                }
                // Only an operator's decision moves these.
                let stuck = left.iter().all(|row| is_for_good(row.held_up));
                if stuck || waited >= timeout {
                    return Ok(not_drained(&left, waited, stuck));
                }
                if !args.json && told.elapsed() >= TELL_PERIOD {
                    told = Instant::now();
                    let bytes = left.iter().map(|row| row.dirty_bytes).sum();
                    // If standard error is closed, the end is still told.
                    let _ = writeln!(
                        err,
                        "draining: {} of {} volumes left, {}",
                        left.len(),
                        rows.len(),
                        table::bytes(bytes)
                    );
                }
            }
        }
        if let Vitality::Stopped { .. } | Vitality::Dead { .. } = reader.vitality(monotonic_ns()) {
            return Err(CliError::DataPlane(
                "the data plane ended before all was drained; what was cached is in its log, and its next start does not drain"
                    .to_owned(),
            ));
        }
        std::thread::sleep(POLL_PERIOD.min(timeout.max(Duration::from_millis(1))));
    }
}

pub(super) fn cancel(args: &Args) -> Result<Answer, CliError> {
    done(client::ask(&args.socket()?, &Request::Drain { on: false })?)?;
    let json = json!({ "ok": true, "drained": false });
    let text = "no drain: writes are acknowledged as each volume's durability says";
    Ok(Answer::done(json, text.to_owned()))
}

enum Look {
    Rows(Vec<Volume>),
    /// The data plane that is there does not drain.
    Over,
    Unreadable,
}

fn look(reader: &SegmentReader) -> Look {
    let table = reader.rows::<Volume>();
    if table.stale > 0 || table.malformed > 0 {
        return Look::Unreadable;
    }
    let rows: Vec<Volume> = table.rows.into_iter().map(|(_, row)| row).collect();
    // The rows were brought up to date before the answer: they say it, or it is over.
    if rows.iter().any(|row| row.drain == Drain::No) {
        return Look::Over;
    }
    Look::Rows(rows)
}

/// Waiting does not help.
fn is_for_good(why: HeldUp) -> bool {
    matches!(why, HeldUp::Failed | HeldUp::Unconfigured | HeldUp::Misfit)
}

/// What it means and what to do.
fn advice(why: HeldUp) -> &'static str {
    match why {
        HeldUp::No => "is being flushed",
        HeldUp::Storage => "its storage is not there",
        HeldUp::Failed => "has failed: see `sluicectl volume failed`",
        HeldUp::Reserved => "is reserved by another initiator",
        HeldUp::Refused => "its storage takes no writes",
        HeldUp::Fenced => "waits until a lost session to its storage is over",
        HeldUp::Unconfigured => "its target is not in the configuration",
        HeldUp::Loaded => "its storage is loaded: see `sluicectl set flush --load-limit-ms`",
        HeldUp::Misfit => "its blocks have another length at the storage than in the log",
        HeldUp::Journal => {
            "is at the storage; the journal does not know yet, see `sluicectl show journal`"
        }
    }
}

fn drained(volumes: usize, took: Duration) -> Answer {
    let seconds = took.as_secs_f64();
    let json = json!({ "ok": true, "drained": true, "volumes": volumes, "seconds": seconds });
    let text = format!(
        "drained: safe to stop ({volumes} volumes in {}); `sluicectl drain --cancel` caches again",
        table::seconds(seconds)
    );
    Answer::done(json, text)
}

fn not_drained(left: &[&Volume], waited: Duration, stuck: bool) -> Answer {
    let volumes = left.iter().map(|row| {
        json!({
            "volume": show::volume_name(row),
            "dirty_bytes": row.dirty_bytes,
            "state": row.state.as_str(),
            "held_up": row.held_up.as_str(),
        })
    });
    let seconds = waited.as_secs_f64();
    let json = json!({
        "ok": false,
        "drained": false,
        "seconds": seconds,
        "volumes": volumes.collect::<Vec<Value>>(),
    });
    let mut text = if stuck {
        "not drained, and waiting does not help:\n".to_owned()
    } else {
        format!("not drained within {}:\n", table::seconds(seconds))
    };
    for row in left {
        let name = show::volume_name(row);
        let dirty = table::bytes(row.dirty_bytes);
        text.push_str(&format!("  {name} has {dirty}: {}\n", advice(row.held_up)));
    }
    text.push_str(
        "it goes on draining: `sluicectl drain` waits again, `sluicectl drain --cancel` ends it",
    );
    Answer {
        json,
        text,
        exit: exit::FAILED,
    }
}

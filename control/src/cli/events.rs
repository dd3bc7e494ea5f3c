//! `events`: the newest of what has happened, from the segment's ring.
//!
//! Events have numbers without gaps, so one that was overwritten before it was
//! read is told of. Following, they are one JSON object a line.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_config::VolumeName;
use sluice_hugepages::shm::{SegmentReader, monotonic_ns};
use sluice_hugepages::tables::Event;

use super::show::lun_json;
use super::{Answer, Args, CliError, table};

/// As often as the data plane writes its rows.
const POLL_PERIOD: Duration = Duration::from_millis(100);

pub(super) fn events(
    follow: bool,
    count: Option<u64>,
    args: &Args,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<Answer, CliError> {
    let mut reader = args.reader(err)?;
    let mut instance = reader.instance();
    let mut next = 0;
    let mut left = count.unwrap_or(u64::MAX);
    let mut list = Vec::new();
    loop {
        for event in newer(&reader, next) {
            if left == 0 {
                break;
            }
            if next > 0 && event.number > next {
                // If standard error is closed, the numbers say it too.
                let _ = writeln!(
                    err,
                    "sluicectl: {} events were overwritten before they could be read",
                    event.number - next
                );
            }
            next = event.number + 1;
            left -= 1;
            let line = match (args.json, follow) {
                (true, false) => {
                    list.push(as_json(&event));
                    continue;
                }
                (true, true) => as_json(&event).to_string(),
                (false, _) => as_text(&event),
            };
            // A reader that has gone wants no more.
            if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                return Ok(Answer::told());
            }
        }
        if !follow || left == 0 {
            break;
        }
        std::thread::sleep(POLL_PERIOD);
        if reader.is_replaced()
            && let Ok(new) = SegmentReader::open(&args.segment()?)
        {
            reader = new;
        }
        if reader.instance() != instance {
            instance = reader.instance();
            next = 0;
        }
    }
    if args.json && !follow {
        return Ok(Answer::done(Value::Array(list), String::new()));
    }
    Ok(Answer::told())
}

/// The events from number `next` on, in their order.
fn newer(reader: &SegmentReader, next: u64) -> Vec<Event> {
    let rows = reader.rows::<Event>().rows.into_iter();
    let mut events: Vec<Event> = rows
        .map(|(_, event)| event)
        .filter(|event| event.number >= next)
        .collect();
    events.sort_by_key(|event| event.number);
    events
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds of years are exact to a microsecond"
)]
fn age_s(event: &Event) -> f64 {
    monotonic_ns().saturating_sub(event.at_ns) as f64 / 1e9
}

fn as_json(event: &Event) -> Value {
    json!({
        "number": event.number,
        "at_ns": event.at_ns,
        "age_s": age_s(event),
        "kind": event.kind.as_str(),
        "target": event.target.as_ref().map(|target| target.as_str()),
        "lun": event.target.as_ref().map(|_| lun_json(event.lun)),
        "before": event.before.as_ref().map(|before| before.as_str()),
        "now": event.now.as_str(),
        "why": event.why.as_str(),
    })
}

/// `#3  12.0 s ago  volume TARGET/LUN: connected -> disconnected`.
fn as_text(event: &Event) -> String {
    let of = event.target.as_ref().map_or_else(String::new, |target| {
        let lun = Some(event.lun);
        let target = target.to_string();
        format!(" {}", VolumeName { target, lun })
    });
    let before = event
        .before
        .map_or_else(String::new, |before| format!("{before} -> "));
    let why = match event.why.as_str() {
        "" => String::new(),
        why => format!(" ({why})"),
    };
    format!(
        "#{}  {} ago  {}{of}: {before}{}{why}",
        event.number,
        table::seconds(age_s(event)),
        event.kind.as_str(),
        event.now,
    )
}

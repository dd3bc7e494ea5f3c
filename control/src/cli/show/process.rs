//! Version, buffers, drops, runtime.

use std::io::Write;

use serde_json::json;
use sluice_hugepages::shm::{SegmentReader, Vitality};
use sluice_hugepages::tables::{
    Buffers, Drain, Journal, JournalState, LAYOUT_VERSION, Runtime, Volume,
};

use super::super::table::{self, TextTable};
use super::super::{Answer, Args};
use super::{Source, list};
use crate::client;
use crate::protocol::{Reply, Request};

/// Answers with whatever is there: it is asked when something is wrong.
pub(super) fn version(args: &Args) -> Answer {
    let own = env!("CARGO_PKG_VERSION");
    let segment = args.segment().map_err(|error| error.to_string());
    let dataplane = segment
        .and_then(|path| SegmentReader::open(&path).map_err(|error| error.to_string()))
        .map(|reader| {
            let worker = reader.rows::<Runtime>().rows.into_iter().next();
            worker.map_or_else(
                || "not told".to_owned(),
                |(_, worker)| worker.version.to_string(),
            )
        });
    let control = args
        .socket()
        .map_err(|error| error.to_string())
        .and_then(|socket| {
            client::ask(&socket, &Request::Version).map_err(|error| error.to_string())
        })
        .and_then(|reply| match reply {
            Reply::Version { version, .. } => Ok(version),
            _ => Err("answered another question".to_owned()),
        });
    let shown = |version: &Result<String, String>| match version {
        Ok(version) => version.clone(),
        Err(why) => format!("- ({why})"),
    };
    let text = table::pairs(&[
        ("sluicectl", own.to_owned()),
        ("sluice-control", shown(&control)),
        ("sluice-dataplane", shown(&dataplane)),
        ("segment layout", LAYOUT_VERSION.to_string()),
    ]);
    let json = json!({
        "sluicectl": own,
        "control": control.ok(),
        "dataplane": dataplane.ok(),
        "segment_layout": LAYOUT_VERSION,
    });
    Answer::done(json, text)
}

pub(super) fn journal(source: &Source, err: &mut dyn Write) -> Answer {
    let Some((_, journal)) = source.rows::<Journal>(err).into_iter().next() else {
        return Answer::done(
            json!({ "state": JournalState::None.as_str() }),
            "no journal is configured".to_owned(),
        );
    };
    let json = json!({
        "path": journal.path.as_str(),
        "state": journal.state.as_str(),
        "why": journal.why.as_str(),
        "size_bytes": journal.size_bytes,
        "used_bytes": journal.used_bytes,
        "groups": journal.groups,
        "durable": journal.durable,
        "made": journal.made,
    });
    let mut pairs = vec![
        ("journal", journal.path.to_string()),
        ("state", journal.state.as_str().to_owned()),
    ];
    if !journal.why.is_empty() {
        pairs.push(("why", journal.why.to_string()));
    }
    pairs.extend([
        ("size", table::bytes(journal.size_bytes)),
        ("used", table::bytes(journal.used_bytes)),
        ("writes of the device", journal.groups.to_string()),
        (
            "requests durable",
            format!("{} of {}", journal.durable, journal.made),
        ),
    ]);
    Answer::done(json, table::pairs(&pairs))
}

pub(super) fn buffers(source: &Source, err: &mut dyn Write) -> Answer {
    let Some((_, buffers)) = source.rows::<Buffers>(err).into_iter().next() else {
        return Answer::done(json!({}), "(none)".to_owned());
    };
    let json = json!({
        "backing": buffers.backing.as_str(),
        "why": buffers.why.as_str(),
        "pages": {
            "free": buffers.pages_free,
            "leased": buffers.pages_leased,
            "divided": buffers.pages_divided,
        },
        "frames": {
            "free": buffers.frames_free,
            "reserved": buffers.frames_reserved,
            "in_use": buffers.frames_in_use,
        },
        "free_bytes": buffers.free_bytes,
        "log": {
            "backing": buffers.log_backing.as_str(),
            "segments": buffers.log_segments,
            "segments_free": buffers.log_segments_free,
            "bytes": buffers.log_bytes,
            "live_bytes": buffers.log_live_bytes,
        },
    });
    let mut text = TextTable::new(&[
        "memory",
        "made of",
        ">total",
        ">free",
        ">reserved",
        ">in use",
        ">divided",
    ]);
    let none = || "-".to_owned();
    let pages = buffers.pages_free + buffers.pages_leased + buffers.pages_divided;
    text.row([
        "pages (64 KiB)".to_owned(),
        buffers.backing.as_str().to_owned(),
        pages.to_string(),
        buffers.pages_free.to_string(),
        none(),
        buffers.pages_leased.to_string(),
        buffers.pages_divided.to_string(),
    ]);
    let frames = buffers.frames_free + buffers.frames_reserved + buffers.frames_in_use;
    text.row([
        "frames (4 KiB)".to_owned(),
        "divided pages".to_owned(),
        frames.to_string(),
        buffers.frames_free.to_string(),
        buffers.frames_reserved.to_string(),
        buffers.frames_in_use.to_string(),
        none(),
    ]);
    text.row([
        "log segments (2 MiB)".to_owned(),
        buffers.log_backing.as_str().to_owned(),
        buffers.log_segments.to_string(),
        buffers.log_segments_free.to_string(),
        none(),
        buffers
            .log_segments
            .saturating_sub(buffers.log_segments_free)
            .to_string(),
        none(),
    ]);
    let mut text = text.render();
    text.push_str(&format!(
        "\nfree to be reserved: {}\nunflushed in the log: {} of {}\n",
        table::bytes(buffers.free_bytes),
        table::bytes(buffers.log_live_bytes),
        table::bytes(buffers.log_bytes),
    ));
    if !buffers.why.is_empty() {
        text.push_str(&format!("{}\n", buffers.why));
    }
    Answer::done(json, text)
}

/// All counters in JSON; those that ever counted in the table.
pub(super) fn drops(source: &Source) -> Answer {
    let mut text = TextTable::new(&["reason", ">count"]);
    let named = source
        .reader
        .counters()
        .into_iter()
        .map(|counter| (counter.name, counter.count));
    let own = source
        .reader
        .faults()
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count));
    let mut json = Vec::new();
    for (name, count) in named.chain(own) {
        json.push(json!({ "name": name, "count": count }));
        if count > 0 {
            text.row([name, count.to_string()]);
        }
    }
    list(json, &text)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn seconds_of(us: u64) -> f64 {
    us as f64 / 1e6
}

pub(super) fn runtime(source: &Source, err: &mut dyn Write) -> Answer {
    let reader = &source.reader;
    let state = match reader.vitality(source.now_ns) {
        Vitality::Alive => "alive",
        Vitality::Stuck { .. } => "stuck",
        Vitality::Stopped { .. } => "stopped",
        Vitality::Dead { .. } => "dead",
    };
    let heartbeat_s = source.age_s(reader.heartbeat_ns());
    let uptime_s = source.age_s(reader.started_ns());
    let mut text = TextTable::new(&[
        "worker",
        "core",
        ">steps",
        ">idle",
        ">sleeps",
        ">rx packets",
        ">tx packets",
        ">ticks/packet",
    ]);
    let mut workers = Vec::new();
    let mut mode = None;
    let mut version = None;
    let mut draining_s: Option<f64> = None;
    let mut start = None;
    let mut recovering = None;
    for (index, worker) in source.rows::<Runtime>(err) {
        let packets = worker.rx_packets;
        let ticks_per_packet = worker.busy_ticks.checked_div(packets);
        workers.push(json!({
            "index": index,
            "core": worker.core,
            "steps": worker.steps,
            "idle_steps": worker.idle_steps,
            "sleeps": worker.sleeps,
            "rx_packets": worker.rx_packets,
            "tx_packets": worker.tx_packets,
            "busy_ticks": worker.busy_ticks,
            "total_ticks": worker.total_ticks,
            "ticks_per_second": worker.ticks_per_second,
            "ticks_per_packet": ticks_per_packet,
            "idle_permille": worker.idle_permille,
        }));
        text.row([
            index.to_string(),
            worker
                .core
                .map_or_else(|| "any".to_owned(), |core| core.to_string()),
            worker.steps.to_string(),
            format!(
                "{}.{} %",
                worker.idle_permille / 10,
                worker.idle_permille % 10
            ),
            worker.sleeps.to_string(),
            worker.rx_packets.to_string(),
            worker.tx_packets.to_string(),
            ticks_per_packet.map_or_else(|| "-".to_owned(), |ticks| ticks.to_string()),
        ]);
        mode = mode.or(Some(worker.mode.to_string()));
        version = version.or(Some(worker.version.to_string()));
        start = start.or(Some((worker.start, worker.start_records, worker.start_us)));
        recovering = recovering.or(worker.recovering_permille);
        draining_s = draining_s.or(worker.draining_since_ns.map(|since| source.age_s(since)));
    }
    let volumes = source.rows::<Volume>(err);
    let drain = match draining_s {
        None => Drain::No,
        Some(_) if volumes.iter().any(|(_, row)| row.drain != Drain::Drained) => Drain::Draining,
        Some(_) => Drain::Drained,
    };
    let json = json!({
        "state": state,
        "pid": reader.pid(),
        "version": version,
        "mode": mode,
        "uptime_s": uptime_s,
        "heartbeat_s": heartbeat_s,
        "started_unix_ns": reader.started_unix_ns(),
        "start": start.map(|(kind, records, us)| json!({
            "kind": kind.as_str(),
            "records": records,
            "seconds": seconds_of(us),
        })),
        "recovering_permille": recovering,
        "drain": drain.as_str(),
        "draining_s": draining_s,
        "workers": workers,
    });
    let mut head = vec![
        ("data plane", format!("{state}, pid {}", reader.pid())),
        ("version", version.unwrap_or_else(|| "-".to_owned())),
        ("mode", mode.unwrap_or_else(|| "-".to_owned())),
        ("up", table::seconds(uptime_s)),
        ("heartbeat", format!("{} ago", table::seconds(heartbeat_s))),
    ];
    if let Some(permille) = recovering {
        let done = format!("recovering {}.{} %", permille / 10, permille % 10);
        head.push(("start", done));
    } else if let Some((kind, records, us)) = start {
        let took = table::seconds(seconds_of(us));
        head.push((
            "start",
            format!("{}: {records} records found, in {took}", kind.as_str()),
        ));
    }
    if let Some(draining_s) = draining_s {
        let said = match drain {
            Drain::Drained => "drained: safe to stop",
            _ => "draining",
        };
        head.push((
            "drain",
            format!("{said}, for {}", table::seconds(draining_s)),
        ));
    }
    let head = table::pairs(&head);
    Answer::done(json, format!("{head}\n{}", text.render()))
}

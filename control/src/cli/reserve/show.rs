//! `reserve show`: the reservation table, with what is recommended beside it.

use std::io::Write;

use serde_json::{Value, json};
use sluice_config::{ReservationEntry, State};
use sluice_hugepages::shm::{SegmentReader, monotonic_ns};
use sluice_hugepages::tables::{Buffers, Path, Reservation, ReservationTarget};

use super::super::show::Source;
use super::super::table::{self, TextTable};
use super::super::{Answer, Args, CliError};
use crate::load_config;
use crate::sizing::{self, Advice, Paths, Presented, shown};

/// What sizes are judged by.
pub(super) struct Sizes {
    pub free_bytes: u64,
    pub paths: Vec<Path>,
    presented: Presented,
}

impl Sizes {
    pub fn read(reader: &SegmentReader, args: &Args) -> Self {
        let buffers = reader.rows::<Buffers>().rows.into_iter().next();
        let paths = reader.rows::<Path>().rows.into_iter();
        Self {
            free_bytes: buffers.map_or(0, |(_, row)| row.free_bytes),
            paths: paths.map(|(_, row)| row).collect(),
            presented: presented(args),
        }
    }

    pub fn paths(&self) -> Paths<'_> {
        Paths::new(self.paths.iter(), &self.presented)
    }
}

/// Without a configuration nothing is known to be presented: then nothing is recommended for
/// that kind.
fn presented(args: &Args) -> Presented {
    let config = load_config(args.config.as_ref()).ok().flatten();
    config.map_or_else(Vec::new, |config| {
        let state = State::load(&config.control.state).unwrap_or_default();
        sizing::presented(&config, &state)
    })
}

pub(in super::super) fn show(
    only: Option<&ReservationEntry>,
    args: &Args,
    err: &mut dyn Write,
) -> Result<Answer, CliError> {
    let source = Source {
        reader: args.reader(err)?,
        now_ns: monotonic_ns(),
    };
    let rows = source.rows::<Reservation>(err);
    let sizes = Sizes::read(&source.reader, args);
    let paths = sizes.paths();
    let mut text = TextTable::new(&[
        "reservation",
        ">id",
        ">size",
        ">held",
        ">in use",
        "size is",
        ">sessions",
        ">connections",
        ">flows",
        ">refused",
        ">recommended",
    ]);
    let mut json = Vec::new();
    let mut found = 0;
    let mut warnings = String::new();
    for (_, row) in rows {
        if only.is_some_and(|only| !is_meant(only, row.target)) {
            continue;
        }
        let advice = paths.advice(row.target, row.sessions, row.connections);
        let Advice {
            recommended,
            at_least,
            ..
        } = advice;
        let name = shown(row.target);
        let warning = recommended.and_then(|bytes| does_not_fit(bytes, &row, sizes.free_bytes));
        if let Some(warning) = &warning {
            warnings.push_str(&format!("{name}: {warning}\n"));
        }
        found += 1;
        // Of ten thousand one of the two is enough.
        if args.json {
            json.push(as_json(&source, &row, recommended, warning));
            continue;
        }
        let as_there_are = |count: u16| match count {
            0 => "all".to_owned(),
            count => count.to_string(),
        };
        text.row([
            name,
            row.buffer_id.to_string(),
            table::bytes(row.reserved_bytes),
            table::bytes(row.held_bytes),
            table::bytes(row.allocated_bytes),
            mode(row.automatic).to_owned(),
            as_there_are(row.sessions),
            as_there_are(row.connections),
            row.flows.to_string(),
            row.refused.to_string(),
            match recommended {
                None => "not known".to_owned(),
                Some(bytes) if at_least => format!("at least {}", table::bytes(bytes)),
                Some(bytes) => table::bytes(bytes),
            },
        ]);
    }
    if only.is_some() && found == 0 {
        return Err(CliError::Failed(
            "no such reservation; `sluicectl reserve show` lists them".to_owned(),
        ));
    }
    let mut text = text.render();
    text.push_str(&format!(
        "\nfree: {}\n{warnings}",
        table::bytes(sizes.free_bytes)
    ));
    Ok(Answer::done(Value::Array(json), text))
}

fn as_json(
    source: &Source,
    row: &Reservation,
    recommended: Option<u64>,
    warning: Option<String>,
) -> Value {
    let (kind, local, remote, port) = match row.target {
        ReservationTarget::Pair { local, remote } => ("pair", Some(local), Some(remote), None),
        ReservationTarget::PairPort { local, remote } => (
            "pair-port",
            Some(local),
            Some(*remote.ip()),
            Some(remote.port()),
        ),
        ReservationTarget::Connection { .. } => ("connection", None, None, None),
    };
    json!({
        "kind": kind,
        "local": local.map(|address| address.to_string()),
        "remote": remote.map(|address| address.to_string()),
        "port": port,
        "buffer_id": row.buffer_id,
        "size": mode(row.automatic),
        "reserved_bytes": row.reserved_bytes,
        "held_bytes": row.held_bytes,
        "allocated_bytes": row.allocated_bytes,
        "sessions": row.sessions,
        "connections": row.connections,
        "flows": row.flows,
        "refused": row.refused,
        "age_s": source.age_s(row.since_ns),
        "recommended_bytes": recommended,
        "warning": warning,
    })
}

fn mode(automatic: bool) -> &'static str {
    if automatic { "automatic" } else { "manual" }
}

/// B-13: what is recommended beyond what it has, against what is free.
fn does_not_fit(recommended: u64, row: &Reservation, free: u64) -> Option<String> {
    (recommended > row.reserved_bytes.saturating_add(free)).then(|| {
        format!(
            "{} is recommended and does not fit: it has {}, and {} are free",
            table::bytes(recommended),
            table::bytes(row.reserved_bytes),
            table::bytes(free)
        )
    })
}

/// Without an id, every connection.
fn is_meant(only: &ReservationEntry, target: ReservationTarget) -> bool {
    match target {
        ReservationTarget::Connection { buffer_id } if only.kind == "connection" => {
            only.buffer_id.is_none_or(|id| id == i64::from(buffer_id))
        }
        _ => super::named(only) == shown(target),
    }
}

//! `path`: what is known of the ways to storages, typed in, reported, measured.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_hugepages::shm::SegmentReader;
use sluice_hugepages::tables::Path;

use super::args::{PathAction, PathArgs, PathName};
use super::{Answer, Args, CliError, done, show, table};
use crate::client;
use crate::protocol::{PathValues, Request};

const POLL_PERIOD: Duration = Duration::from_millis(20);

pub(super) fn path(
    what: &PathAction,
    args: &Args,
    err: &mut dyn Write,
) -> Result<Answer, CliError> {
    match what {
        PathAction::Show => show::paths(None, args, err),
        PathAction::Set {
            path,
            values,
            clear,
        } => {
            if !clear && values.bandwidth.is_none() && values.rtt.is_none() {
                return Err(CliError::Usage(
                    "path set: give --bandwidth, --rtt or both; or --clear, to have it measured"
                        .to_owned(),
                ));
            }
            done(client::ask(
                &args.socket()?,
                &Request::SetPath(of(path, values)),
            )?)?;
            let how = if *clear { "is measured again" } else { "set" };
            Ok(told(path, how))
        }
        PathAction::Report { path, values } => {
            done(client::ask(
                &args.socket()?,
                &Request::ReportPath(of(path, values)),
            )?)?;
            Ok(told(path, "reported, until it is measured the next time"))
        }
        PathAction::Measure { path, timeout } => measure(path, *timeout, args, err),
    }
}

fn of(path: &PathName, values: &PathArgs) -> PathValues {
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    PathValues {
        local: path.local,
        remote: path.remote,
        bytes_per_s: values.bandwidth,
        min_rtt_us: values.rtt.map(us),
    }
}

fn told(path: &PathName, how: &str) -> Answer {
    let PathName { local, remote } = path;
    let json = json!({ "ok": true, "local": local.to_string(), "remote": remote.to_string() });
    Answer::done(json, format!("path {local} {remote}: {how}"))
}

fn measure(
    path: &PathName,
    timeout: Duration,
    args: &Args,
    err: &mut dyn Write,
) -> Result<Answer, CliError> {
    let reader = args.reader(err)?;
    let before = measured(&reader, path);
    let request = Request::MeasurePath {
        local: path.local,
        remote: path.remote,
    };
    done(client::ask(&args.socket()?, &request)?)?;
    let asked = Instant::now();
    while !timeout.is_zero() {
        if measured(&reader, path) != before {
            return show::paths(Some(path), args, err);
        }
        if asked.elapsed() >= timeout {
            return Err(CliError::Failed(format!(
                "path {} {}: not measured within {}; is its storage there? `sluicectl path show` has what is known",
                path.local,
                path.remote,
                table::seconds(timeout.as_secs_f64())
            )));
        }
        std::thread::sleep(POLL_PERIOD.min(timeout));
    }
    Ok(told(path, "is being measured"))
}

fn measured(reader: &SegmentReader, path: &PathName) -> Option<u64> {
    let rows = reader.rows::<Path>().rows;
    let own = |row: &Path| (row.local, row.remote) == (path.local, path.remote);
    rows.into_iter()
        .find(|(_, row)| own(row))
        .map(|(_, row)| row.measured)
}

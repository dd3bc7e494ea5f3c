//! `flush`: the daemon has it begun, the volume table shows when it is done.

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_config::VolumeName;
use sluice_hugepages::shm::{SegmentReader, Vitality, monotonic_ns};
use sluice_hugepages::tables::{Volume, VolumeState};

use super::{Answer, Args, CliError, done, show, table};
use crate::client;
use crate::protocol::Request;

const POLL_PERIOD: Duration = Duration::from_millis(10);

pub(super) fn flush(volume: &str, timeout: Duration, args: &Args) -> Result<Answer, CliError> {
    let request = Request::Flush {
        volume: volume.to_owned(),
    };
    let began = Instant::now();
    // What was acknowledged before this moment is what is to be flushed. The
    // data plane brings its rows up to date before it answers, so they show it.
    let asked_ns = monotonic_ns();
    let volumes = done(client::ask(&args.socket()?, &request)?)?;
    if timeout.is_zero() {
        let json = json!({ "ok": true, "volumes": volumes, "drained": false });
        let text = format!("flush of {volumes} volumes begun");
        return Ok(Answer::done(json, text));
    }
    let name: Option<VolumeName> = match volume {
        "all" => None,
        name => Some(
            name.parse()
                .map_err(|error| CliError::Failed(format!("{error}")))?,
        ),
    };
    let meant = |volume: &Volume| {
        name.as_ref()
            .is_none_or(|name| name.covers(&volume.target, volume.lun))
    };
    let reader = SegmentReader::open(&args.segment()?)?;
    loop {
        let pending = pending(&reader, asked_ns, meant);
        if let Pending::None = pending {
            let took = began.elapsed().as_secs_f64();
            let json = json!({ "ok": true, "volumes": volumes, "drained": true, "seconds": took });
            let text = format!("{volumes} volumes drained in {}", table::seconds(took));
            return Ok(Answer::done(json, text));
        }
        if let Pending::Failed(message) = pending {
            return Err(CliError::Failed(message));
        }
        if let Vitality::Stopped { .. } | Vitality::Dead { .. } = reader.vitality(monotonic_ns()) {
            let message =
                "the data plane ended before all was drained; what was cached is in its log";
            return Err(CliError::DataPlane(message.to_owned()));
        }
        if let Pending::Some(list) = pending
            && began.elapsed() >= timeout
        {
            let waited = table::seconds(timeout.as_secs_f64());
            return Err(CliError::Failed(format!(
                "not drained within {waited}: {list}"
            )));
        }
        std::thread::sleep(POLL_PERIOD.min(timeout));
    }
}

enum Pending {
    None,
    /// Which volumes, and how much they hold.
    Some(String),
    /// One cannot be drained until the operator decides.
    Failed(String),
}

fn pending(reader: &SegmentReader, asked_ns: u64, meant: impl Fn(&Volume) -> bool) -> Pending {
    let table = reader.rows::<Volume>();
    if table.stale > 0 || table.malformed > 0 {
        return Pending::Some("a row of the volume table cannot be read".to_owned());
    }
    let mut list = Vec::new();
    for (_, volume) in table.rows.iter().filter(|(_, volume)| meant(volume)) {
        if volume
            .oldest_dirty_since_ns
            .is_none_or(|since| since > asked_ns)
        {
            continue;
        }
        let name = show::volume_name(volume);
        if volume.state == VolumeState::Failed {
            let message = format!(
                "{name} has failed: the storage refused a write for good, and nothing is flushed past it; see `sluicectl volume failed`"
            );
            return Pending::Failed(message);
        }
        let dirty = table::bytes(volume.dirty_bytes);
        list.push(format!("{name} ({}) has {dirty}", volume.state.as_str()));
    }
    if list.is_empty() {
        Pending::None
    } else {
        Pending::Some(list.join(", "))
    }
}

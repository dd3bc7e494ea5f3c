//! `show`: each table as JSON (every field, raw numbers, units in the names)
//! and as text (what fits a line). Lists are JSON arrays.

mod net;
mod process;
mod storage;

use std::io::Write;

use serde_json::Value;
use sluice_hugepages::shm::{Rows, SegmentReader, monotonic_ns};
use sluice_hugepages::tables::Row;

pub(super) use self::storage::{
    coalescing_ratio, latency_text, lun_json, percentile, state, until, volume_name,
};
use super::args::{Args, PathName, Shown};
use super::table::TextTable;
use super::{Answer, CliError};

pub(super) fn show(table: Shown, args: &Args, err: &mut dyn Write) -> Result<Answer, CliError> {
    if table == Shown::Version {
        return Ok(process::version(args));
    }
    let source = Source {
        reader: args.reader(err)?,
        now_ns: monotonic_ns(),
    };
    Ok(match table {
        Shown::Version => unreachable!("answered above"),
        Shown::Ports => net::ports(&source, err),
        Shown::Routes => net::routes(&source, err),
        Shown::Neighbours => net::neighbours(&source, err),
        Shown::Sessions => storage::sessions(&source, err),
        Shown::Volumes => storage::volumes(&source, err),
        Shown::Latency => storage::latency(&source, err),
        Shown::Buffers => process::buffers(&source, err),
        Shown::Journal => process::journal(&source, err),
        Shown::Drops => process::drops(&source),
        Shown::Runtime => process::runtime(&source, err),
    })
}

/// All paths, or one.
pub(super) fn paths(
    only: Option<&PathName>,
    args: &Args,
    err: &mut dyn Write,
) -> Result<Answer, CliError> {
    let source = Source {
        reader: args.reader(err)?,
        now_ns: monotonic_ns(),
    };
    Ok(net::paths(only, &source, err))
}

pub(super) fn allocations(args: &Args, err: &mut dyn Write) -> Result<Answer, CliError> {
    let source = Source {
        reader: args.reader(err)?,
        now_ns: monotonic_ns(),
    };
    Ok(net::allocations(&source, err))
}

/// The segment and the moment at which it is read.
pub(super) struct Source {
    pub reader: SegmentReader,
    pub now_ns: u64,
}

impl Source {
    /// The rows of a table; says if some could not be read.
    pub fn rows<T: Row>(&self, err: &mut dyn Write) -> Vec<(usize, T)> {
        let Rows {
            rows,
            stale,
            malformed,
        } = self.reader.rows();
        if stale + malformed > 0 {
            // If standard error is closed, the rows are still right.
            let _ = writeln!(
                err,
                "sluicectl: {stale} rows half-written and {malformed} not valid are not shown"
            );
        }
        rows
    }

    /// Seconds since a moment of the segment's clock.
    #[expect(
        clippy::cast_precision_loss,
        reason = "nanoseconds of years are exact to a microsecond"
    )]
    pub fn age_s(&self, since_ns: u64) -> f64 {
        self.now_ns.saturating_sub(since_ns) as f64 / 1e9
    }
}

/// A list: an array, and a table.
fn list(json: Vec<Value>, table: &TextTable) -> Answer {
    Answer::done(Value::Array(json), table.render())
}

fn hex(bytes: &[u8], between: &str) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(between)
}

//! `dataplane stop`: the first half of a planned restart. Whoever looks after the
//! process (a service manager, an operator) starts the next one.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_hugepages::shm::{SegmentReader, Vitality, monotonic_ns};

use super::{Answer, Args, CliError, drain, exit, table};

const POLL_PERIOD: Duration = Duration::from_millis(10);

pub(super) fn stop(
    drained_first: bool,
    timeout: Duration,
    args: &Args,
    err: &mut dyn Write,
) -> Result<Answer, CliError> {
    let reader = SegmentReader::open(&args.segment()?)?;
    let pid = reader.pid();
    if has_ended(&reader) {
        let message = format!("no data plane runs (the last one was pid {pid})");
        return Err(CliError::DataPlane(message));
    }
    if drained_first {
        let mut answer = drain::drain(timeout, args, err)?;
        if answer.exit != exit::DONE {
            answer.text.push_str("\nthe data plane was not stopped");
            return Ok(answer);
        }
    }
    terminate(pid)?;
    let asked = Instant::now();
    while !has_ended(&reader) {
        if asked.elapsed() >= timeout {
            let waited = table::seconds(timeout.as_secs_f64());
            return Err(CliError::Failed(format!(
                "the data plane (pid {pid}) was asked to stop, and has not within {waited}; see its log"
            )));
        }
        std::thread::sleep(POLL_PERIOD);
    }
    let took = asked.elapsed().as_secs_f64();
    let json = json!({ "ok": true, "pid": pid, "drained": drained_first, "seconds": took });
    let text = format!("stopped (pid {pid}) in {}", table::seconds(took));
    Ok(Answer::done(json, text))
}

/// By its lock: a process that ends holds it to the last.
fn has_ended(reader: &SegmentReader) -> bool {
    matches!(
        reader.vitality(monotonic_ns()),
        Vitality::Stopped { .. } | Vitality::Dead { .. }
    )
}

/// SIGTERM to a process that is known to live: it holds the segment's lock.
fn terminate(pid: u64) -> Result<(), CliError> {
    let fail = |why: String| {
        CliError::Failed(format!(
            "cannot signal the data plane (pid {pid}): {why}; stop it where it was started"
        ))
    };
    let own = libc::pid_t::try_from(pid).ok().filter(|&pid| pid > 1);
    let own = own.ok_or_else(|| fail("no such number".to_owned()))?;
    // SAFETY: a signal to one process, by its number; no memory is involved.
    if unsafe { libc::kill(own, libc::SIGTERM) } == 0 {
        Ok(())
    } else {
        Err(fail(io::Error::last_os_error().to_string()))
    }
}

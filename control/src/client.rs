//! One request to the daemon, one reply.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::protocol::{Reply, Request};

/// Longer than the daemon waits for the data plane.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const REPLY_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("sluice-control does not answer on {} ({source}); is it running, and is this its socket?", socket.display())]
    NotThere { socket: PathBuf, source: io::Error },
    #[error("sluice-control on {} answered something else ({source}); use the programs of one release", socket.display())]
    Reply {
        socket: PathBuf,
        source: serde_json::Error,
    },
}

/// Asks the daemon.
///
/// # Errors
/// It is not there, or its answer is none. A failure that the daemon reports
/// is a [`Reply::Failed`].
pub fn ask(socket: &Path, request: &Request) -> Result<Reply, ClientError> {
    let line = exchange(socket, request).map_err(|source| ClientError::NotThere {
        socket: socket.to_owned(),
        source,
    })?;
    serde_json::from_str(&line).map_err(|source| ClientError::Reply {
        socket: socket.to_owned(),
        source,
    })
}

fn exchange(socket: &Path, request: &Request) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut reply = String::new();
    BufReader::new(stream.take(REPLY_BYTES_MAX)).read_line(&mut reply)?;
    if reply.is_empty() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    Ok(reply)
}

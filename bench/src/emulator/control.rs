//! The control socket: one JSON object a line each way over a Unix stream.
//!
//! A request names its `command` (`status`, `set`, `cut`, `heal`); a reply is
//! `{"ok":true,"status":{…}}` or `{"ok":false,"error":"…"}`. Always holds: a
//! client can neither block the emulator nor make it hold more than
//! [`LINE_BYTES_MAX`] of its bytes.

use crate::link::LinkStats;
use crate::settings::{Change, Settings};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

const LINE_BYTES_MAX: usize = 4096;
const CLIENTS_MAX: usize = 16;

/// Which way a cut works; `a` is the first device of the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    #[default]
    Both,
    AToB,
    BToA,
}

impl Direction {
    /// Whether direction 0 (a to b) or 1 (b to a) is meant.
    pub fn covers(self, index: usize) -> bool {
        match self {
            Direction::Both => true,
            Direction::AToB => index == 0,
            Direction::BToA => index == 1,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    Status,
    Set(Change),
    Cut {
        #[serde(default)]
        direction: Direction,
    },
    Heal {
        #[serde(default)]
        direction: Direction,
    },
}

/// One direction in a status.
#[derive(Clone, Debug, Serialize)]
pub struct DirectionStatus {
    pub device: String,
    pub cut: bool,
    #[serde(flatten)]
    pub link: LinkStats,
    /// Larger than a slot: offloads are on somewhere they must not be.
    pub dropped_oversize: u64,
    /// Lost before the emulator saw them: it was too slow.
    pub dropped_socket: u64,
    /// Refused by the device at the far end.
    pub dropped_send: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Status {
    #[serde(flatten)]
    pub settings: Settings,
    /// Either direction is cut.
    pub cut: bool,
    pub a_to_b: DirectionStatus,
    pub b_to_a: DirectionStatus,
    /// The longest that a frame left after it was due.
    pub late_us_max: u64,
    /// Frames that left more than a millisecond late.
    pub late_frames: u64,
    pub up_s: f64,
    pub cpu_s: f64,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    line: Vec<u8>,
}

/// The listening socket and its clients.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    clients: Vec<Client>,
}

impl ControlSocket {
    /// Listens at `path`; a socket left there by a dead process is replaced.
    pub fn listen(path: &Path) -> io::Result<ControlSocket> {
        if path.exists() && UnixStream::connect(path).is_err() {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(ControlSocket {
            listener,
            clients: Vec::new(),
        })
    }

    /// What to wait on: the listener, then every client.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        let clients = self.clients.iter().map(|client| client.stream.as_raw_fd());
        std::iter::once(self.listener.as_raw_fd()).chain(clients)
    }

    /// Accepts, reads and answers all there is, without waiting.
    pub fn serve(&mut self, mut answer: impl FnMut(Request) -> Result<Status, String>) {
        self.clients
            .retain_mut(|client| client.serve(&mut answer).is_ok());
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < CLIENTS_MAX && stream.set_nonblocking(true).is_ok() {
                let mut client = Client {
                    stream,
                    line: Vec::new(),
                };
                if client.serve(&mut answer).is_ok() {
                    self.clients.push(client);
                }
            }
        }
    }
}

impl Client {
    /// An error means that the client is gone or shall be.
    fn serve(
        &mut self,
        answer: &mut impl FnMut(Request) -> Result<Status, String>,
    ) -> io::Result<()> {
        let mut bytes = [0; 1024];
        loop {
            let count = match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            for &byte in &bytes[..count] {
                if byte == b'\n' {
                    let result = serde_json::from_slice(&self.line)
                        .map_err(|error| error.to_string())
                        .and_then(&mut *answer);
                    self.line.clear();
                    self.stream.write_all(reply(result).as_bytes())?;
                } else if self.line.len() == LINE_BYTES_MAX {
                    return Err(io::ErrorKind::InvalidData.into());
                } else {
                    self.line.push(byte);
                }
            }
        }
    }
}

fn reply(result: Result<Status, String>) -> String {
    let reply = match result {
        Ok(status) => serde_json::json!({ "ok": true, "status": status }),
        Err(error) => serde_json::json!({ "ok": false, "error": error }),
    };
    format!("{reply}\n")
}

/// The client's side: sends one request and returns the status.
pub fn ask(path: &Path, request: &Request) -> Result<serde_json::Value, String> {
    let exchange = || -> io::Result<serde_json::Value> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    let mut reply = exchange()
        .map_err(|error| format!("no answer from an emulator at {}: {error}", path.display()))?;
    match reply["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(reply["status"].take()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, serde_json::Error> {
        serde_json::from_str(line)
    }

    #[test]
    fn requests_are_tagged_objects() {
        assert_eq!(
            parse(r#"{"command":"status"}"#).expect("valid"),
            Request::Status
        );
        assert_eq!(
            parse(r#"{"command":"cut"}"#).expect("valid"),
            Request::Cut {
                direction: Direction::Both
            }
        );
        let set = parse(r#"{"command":"set","loss_pct":2}"#).expect("valid");
        assert_eq!(
            set,
            Request::Set(Change {
                loss_pct: Some(2.0),
                ..Change::default()
            })
        );
        for bad in [
            "{}",
            r#"{"command":"set","los":1}"#,
            "x",
            r#"{"command":"explode"}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let round = serde_json::to_string(&set).expect("serialises");
        assert_eq!(parse(&round).expect("valid"), set);
    }
}

//! The Unix socket: a thread a client, a bound on each of its lines and on how
//! many there are.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::policy::Policy;
use super::{DaemonError, lock};
use crate::protocol::{FailureKind, REQUEST_BYTES_MAX, Reply, Request};

/// An operator, a few scripts and a metrics reader, several times over.
const CLIENTS_MAX: usize = 32;
/// A client that says nothing for this long is let go.
const IDLE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Server {
    listener: UnixListener,
}

impl Server {
    /// Binds the socket (mode 0660); one that a killed daemon left is removed.
    pub fn bind(socket: &Path) -> Result<Self, DaemonError> {
        let fail = |action| {
            move |source| DaemonError::Socket {
                socket: socket.to_owned(),
                action,
                source,
            }
        };
        if let Some(directory) = socket.parent() {
            fs::create_dir_all(directory).map_err(fail("make its directory"))?;
        }
        match fs::symlink_metadata(socket) {
            Ok(found) if !found.file_type().is_socket() => {
                let source = io::Error::other(
                    "something else has this name; remove it, or name another socket",
                );
                return Err(fail("bind it")(source));
            }
            Ok(_) if UnixStream::connect(socket).is_ok() => {
                return Err(DaemonError::AlreadyRuns {
                    socket: PathBuf::from(socket),
                });
            }
            Ok(_) => fs::remove_file(socket).map_err(fail("remove the one left behind"))?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(socket).map_err(fail("bind it"))?;
        fs::set_permissions(socket, Permissions::from_mode(0o660)).map_err(fail("set its mode"))?;
        Ok(Self { listener })
    }

    /// Serves in threads of its own until the process ends.
    pub fn serve(self, policy: Arc<Mutex<Policy>>) {
        let clients = Arc::new(AtomicUsize::new(0));
        thread::spawn(move || {
            for stream in self.listener.incoming() {
                let Ok(stream) = stream else {
                    // Out of descriptors, say: the next one may come through.
                    thread::sleep(Duration::from_millis(100));
                    continue;
                };
                // Relaxed: a count, and only this thread adds to it.
                if clients.load(Ordering::Relaxed) >= CLIENTS_MAX {
                    log::warn!("{CLIENTS_MAX} clients are connected; another one was refused");
                    continue;
                }
                clients.fetch_add(1, Ordering::Relaxed);
                let (policy, clients) = (Arc::clone(&policy), Arc::clone(&clients));
                thread::spawn(move || {
                    let _gone = Leaving(clients);
                    if let Err(error) = client(stream, &policy) {
                        log::debug!("client: {error}");
                    }
                });
            }
        });
    }
}

/// Counts a client out, also when its thread panics.
struct Leaving(Arc<AtomicUsize>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Removes the socket at the end.
pub(super) fn remove(socket: &Path) {
    if let Err(error) = fs::remove_file(socket) {
        log::warn!(
            "control socket {}: cannot remove it ({error})",
            socket.display()
        );
    }
}

fn client(stream: UnixStream, policy: &Mutex<Policy>) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let bytes = lines
            .by_ref()
            .take(REQUEST_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        if bytes == 0 {
            return Ok(());
        }
        let too_long = bytes as u64 == REQUEST_BYTES_MAX && !line.ends_with(b"\n");
        let reply = if too_long {
            refused(&format!("a request has at most {REQUEST_BYTES_MAX} bytes"))
        } else {
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => lock(policy).answer(request),
                Err(error) => refused(&format!("not a request: {error}")),
            }
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        out.write_all(&text)?;
        if too_long {
            return Ok(());
        }
    }
}

fn refused(message: &str) -> Reply {
    Reply::Failed {
        kind: FailureKind::BadRequest,
        message: message.to_owned(),
    }
}

//! One initiator session over a kernel TCP socket: the sockets' bytes go
//! through the project's own initiator side.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use sluice_proto::iscsi::chap::{Algorithms, Challenges, ChapLogin, Credential};
use sluice_proto::iscsi::{
    Command, DigestPolicy, InitiatorConfig, InitiatorConn, InitiatorEvent, IscsiName, Offers,
};
use sluice_proto::scsi::ScsiStatus;

/// Bytes read from and written to the socket at a time.
const SOCKET_LEN: usize = 256 * 1024;

/// Commands outstanding at a time, whatever the target's window allows.
const TASKS_MAX: u16 = 256;

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("{0:?} is longer than the 223 bytes of an iSCSI name")]
    Name(String),
    #[error("cannot connect to {address}: {source}")]
    Connect {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("the connection to {address} broke: {source}")]
    Broken {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("{address} closed the connection")]
    Closed { address: SocketAddr },
    #[error("{address} refused the login: status class {class}, detail {detail}")]
    Refused {
        address: SocketAddr,
        class: u8,
        detail: u8,
    },
    #[error("{address} broke the protocol: {violation}")]
    Violation {
        address: SocketAddr,
        violation: String,
    },
    #[error("{address} said nothing for {seconds} s")]
    Silent { address: SocketAddr, seconds: u64 },
}

/// What a session tells its user.
#[derive(Debug)]
pub enum Happened<'a> {
    Data {
        token: u64,
        offset: u32,
        bytes: &'a [u8],
    },
    Done {
        token: u64,
        status: ScsiStatus,
        sense: &'a [u8],
    },
    /// The answer to a ping.
    Pong,
}

const fn digest(insisted: bool) -> DigestPolicy {
    if insisted {
        DigestPolicy::Required
    } else {
        DigestPolicy::Allowed
    }
}

/// A load is no guard of its secrets: the clock will do for challenges.
fn chap((initiator, target): (Credential, Option<Credential>)) -> ChapLogin {
    let now = std::time::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
        .as_nanos();
    let mut key = [0; 32];
    key[..16].copy_from_slice(&now.to_be_bytes());
    ChapLogin {
        algorithms: Algorithms::default(),
        initiator,
        target,
        challenge: Challenges::new(key).draw(),
    }
}

/// Whom to log in to, and as whom.
#[derive(Clone, Debug)]
pub struct Login {
    pub address: SocketAddr,
    pub initiator: String,
    pub target: String,
    pub isid: [u8; 6],
    /// What is proved with CHAP, and what the target must prove.
    pub chap: Option<(Credential, Option<Credential>)>,
    /// CRC32C digests are insisted on.
    pub header_digest: bool,
    pub data_digest: bool,
    /// How long to wait for a connection, and for the login over it.
    pub patience: Duration,
}

#[derive(Debug)]
pub struct Session {
    address: SocketAddr,
    socket: TcpStream,
    conn: InitiatorConn,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` still to be written.
    pending: std::ops::Range<usize>,
    logged_in: bool,
}

impl Session {
    /// Connects and logs in.
    ///
    /// # Errors
    /// The address is not reached, the login is refused, or nothing is said for `patience`.
    pub fn login(login: &Login) -> Result<Self, SessionError> {
        let (address, patience) = (login.address, login.patience);
        let socket = TcpStream::connect_timeout(&address, patience)
            .map_err(|source| SessionError::Connect { address, source })?;
        Self::login_over(socket, login)
    }

    /// Logs in over a connection that is there already.
    ///
    /// # Errors
    /// The login is refused, or nothing is said for `patience`.
    pub fn login_over(socket: TcpStream, login: &Login) -> Result<Self, SessionError> {
        let Login {
            address, patience, ..
        } = *login;
        socket
            .set_nodelay(true)
            .and_then(|()| socket.set_nonblocking(true))
            .map_err(|source| SessionError::Connect { address, source })?;
        let conn = InitiatorConn::new(InitiatorConfig {
            initiator_name: name(&login.initiator)?,
            target_name: Some(name(&login.target)?),
            isid: login.isid,
            offers: Offers {
                header_digest: digest(login.header_digest),
                data_digest: digest(login.data_digest),
                ..Offers::lan()
            },
            chap: login.chap.clone().map(chap),
            max_tasks: TASKS_MAX,
        });
        let mut session = Self {
            address,
            socket,
            conn,
            input: vec![0; SOCKET_LEN],
            output: vec![0; SOCKET_LEN],
            pending: 0..0,
            logged_in: false,
        };
        let begun = Instant::now();
        while !session.logged_in {
            session.turn(|_, _, _| {}, |_| {})?;
            if begun.elapsed() > patience {
                return Err(SessionError::Silent {
                    address,
                    seconds: patience.as_secs(),
                });
            }
            if !session.logged_in {
                session.wait(Duration::from_millis(10));
            }
        }
        Ok(session)
    }

    pub fn window(&self) -> usize {
        self.conn.window()
    }

    /// Gives a command to the session; the caller has looked at [`Session::window`].
    pub fn submit(&mut self, command: Command) {
        self.conn
            .submit(command)
            .expect("the caller has looked at the window");
    }

    /// Asks the target for a sign of life. A restarted peer does not know the
    /// connection, and says so only when something is sent on it.
    pub fn ping(&mut self) {
        self.conn.ping();
    }

    /// Writes what is queued, as far as the socket takes it; true if anything went.
    fn write(&mut self, mut fetch: impl FnMut(u64, u32, &mut [u8])) -> Result<bool, SessionError> {
        let address = self.address;
        let mut moved = false;
        loop {
            if self.pending.is_empty() {
                if !self.conn.has_output() {
                    return Ok(moved);
                }
                let len = self.conn.transmit(&mut self.output, &mut fetch);
                if len == 0 {
                    return Ok(moved);
                }
                self.pending = 0..len;
            }
            match self.socket.write(&self.output[self.pending.clone()]) {
                Ok(len) => {
                    self.pending.start += len;
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                Err(source) => return Err(SessionError::Broken { address, source }),
            }
        }
    }

    /// Writes what is queued, and reads nothing from here on: the socket, for whoever keeps it.
    ///
    /// # Errors
    /// The connection broke.
    pub fn stop_reading(mut self) -> Result<TcpStream, SessionError> {
        self.write(|_, _, _| {})?;
        Ok(self.socket)
    }

    /// Writes what is queued and reads what is there; true if anything moved.
    ///
    /// # Errors
    /// The connection broke, was closed, or what came is not iSCSI.
    pub fn turn(
        &mut self,
        fetch: impl FnMut(u64, u32, &mut [u8]),
        mut happened: impl FnMut(Happened<'_>),
    ) -> Result<bool, SessionError> {
        let address = self.address;
        let moved = self.write(fetch)?;
        let len = match self.socket.read(&mut self.input) {
            Ok(0) => return Err(SessionError::Closed { address }),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
            Err(source) => return Err(SessionError::Broken { address, source }),
        };
        let mut rest = &self.input[..len];
        loop {
            let (used, event) = self.conn.receive(rest);
            rest = &rest[used..];
            match event {
                None if used == 0 || rest.is_empty() => break,
                None => {}
                Some(InitiatorEvent::LoggedIn) => self.logged_in = true,
                Some(InitiatorEvent::LoginFailed(failure)) => {
                    let (class, detail) = (failure.class, failure.detail);
                    return Err(SessionError::Refused {
                        address,
                        class,
                        detail,
                    });
                }
                Some(InitiatorEvent::DataIn {
                    token,
                    offset,
                    bytes,
                }) => {
                    happened(Happened::Data {
                        token,
                        offset,
                        bytes,
                    });
                }
                Some(InitiatorEvent::Response { token, status, .. }) => {
                    happened(Happened::Done {
                        token,
                        status,
                        sense: self.conn.sense(),
                    });
                }
                Some(InitiatorEvent::Violation(violation)) => {
                    return Err(SessionError::Violation {
                        address,
                        violation: format!("{violation:?}"),
                    });
                }
                Some(InitiatorEvent::Pong) => happened(Happened::Pong),
                Some(InitiatorEvent::LoggedOut { .. }) => {
                    return Err(SessionError::Closed { address });
                }
                Some(_) => {}
            }
        }
        Ok(true)
    }

    /// The error for a target that has stopped answering.
    pub fn silent(&self, patience: Duration) -> SessionError {
        SessionError::Silent {
            address: self.address,
            seconds: patience.as_secs(),
        }
    }

    /// Sleeps until the socket has something, or `limit` has passed.
    pub fn wait(&self, limit: Duration) {
        let events = libc::POLLIN
            | if self.pending.is_empty() {
                0
            } else {
                libc::POLLOUT
            };
        let mut poll = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events,
            revents: 0,
        };
        let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, that lives across the call.
        unsafe { libc::poll(&raw mut poll, 1, millis) };
    }
}

fn name(text: &str) -> Result<IscsiName, SessionError> {
    IscsiName::from(text).map_err(|_| SessionError::Name(text.to_owned()))
}

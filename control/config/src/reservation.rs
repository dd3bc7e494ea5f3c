//! Reservations of memory buffers (Spec B), as the configuration has them and as live
//! changes do: what one is for, how large, and what cannot be.
//!
//! Both files, and whoever types one in, give an [`Entry`]; [`Entry::read`] looks at the
//! values, [`Reservation::check`] holds them against a configuration. The data plane's own
//! types of the same things are made from these where both are known.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::{Config, LANES_MAX, SESSIONS_MAX};

/// Most reservations at a time (the data plane's table has so many rows); a buffer id is below.
pub const RESERVATIONS_MAX: u16 = 10_240;
/// What one connection keeps of a reservation, whatever it sends: four memory buffers.
pub const RESERVATION_KIB_MIN: u64 = 16;
/// 4 TiB is no limit to anyone; what the configuration's frames hold is one.
const RESERVATION_KIB_MAX: u64 = 1 << 32;
/// Of a memory buffer.
const BUFFER_BYTES: u64 = 4096;

/// What a reservation is for (B-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReservationTarget {
    /// All connections between the two addresses.
    Pair { local: Ipv4Addr, remote: Ipv4Addr },
    /// Those to one port.
    PairPort {
        local: Ipv4Addr,
        remote: SocketAddrV4,
    },
    /// Those that present the id, from 1.
    Connection { buffer_id: u16 },
}

/// A reservation that is to be (B-13, B-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub target: ReservationTarget,
    /// Its size follows what is recommended.
    pub automatic: bool,
    /// As typed in; of an automatic one what was recommended last, none if that is not known.
    pub size_kib: Option<u64>,
    /// What it is for; none: as many as there are.
    pub sessions: Option<u16>,
    /// Of each session.
    pub connections: Option<u16>,
}

/// A reservation as it is written down: `[[reservation]]` of either file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `pair`, `pair-port` or `connection`.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer_id: Option<i64>,
    /// `automatic` or `manual`; without it, automatic if there is no `size_kib`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_kib: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<i64>,
    /// Of the state file: there is none, whatever the configuration says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
}

/// A value that a reservation cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationError {
    /// The key of [`Entry`].
    pub key: &'static str,
    /// As it was given; none if it was not.
    pub value: Option<String>,
    /// What is wrong, and what to do.
    pub hint: String,
}

impl std::error::Error for ReservationError {}

impl fmt::Display for ReservationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = {value}: {}", self.key, self.hint),
            None => write!(f, "{}: {}", self.key, self.hint),
        }
    }
}

fn bad(key: &'static str, value: impl fmt::Display, hint: impl Into<String>) -> ReservationError {
    ReservationError {
        key,
        value: Some(value.to_string()),
        hint: hint.into(),
    }
}

impl ReservationTarget {
    /// The word in the file.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Pair { .. } => "pair",
            Self::PairPort { .. } => "pair-port",
            Self::Connection { .. } => "connection",
        }
    }

    /// Whether there can be such a target: `local` is a port's address, `remote` a target's.
    ///
    /// # Errors
    /// What is not there, and what is.
    pub fn check(&self, config: &Config) -> Result<(), ReservationError> {
        let (local, remote, port) = match *self {
            Self::Pair { local, remote } => (local, remote, None),
            Self::PairPort { local, remote } => (local, *remote.ip(), Some(remote.port())),
            Self::Connection { buffer_id } => {
                return if (1..RESERVATIONS_MAX).contains(&buffer_id) {
                    Ok(())
                } else {
                    Err(bad("buffer_id", buffer_id, buffer_id_hint()))
                };
            }
        };
        let ports = config.ports.iter().map(|port| port.address.address());
        if !ports.clone().any(|address| address == local) {
            let known = listed(ports);
            let hint = format!("is no port's address; use one of {known}");
            return Err(bad("local", local, hint));
        }
        let targets = || config.targets.iter().map(|target| target.address);
        if !targets().any(|address| *address.ip() == remote) {
            let hint = match config.targets.is_empty() {
                true => "no [[target]] is configured".to_owned(),
                false => {
                    let known = listed(targets().map(|address| *address.ip()));
                    format!("is no target's address; use one of {known}")
                }
            };
            return Err(bad("remote", remote, hint));
        }
        let here = || targets().filter(|address| *address.ip() == remote);
        if let Some(port) = port
            && !here().any(|address| address.port() == port)
        {
            let known = listed(here().map(|address| address.port()));
            let hint = format!("no target of {remote} has this port; use one of {known}");
            return Err(bad("port", port, hint));
        }
        Ok(())
    }
}

/// Each once, as `a, b`; not more than a message has room for.
fn listed<T: fmt::Display + PartialEq>(all: impl Iterator<Item = T>) -> String {
    const SHOWN_MAX: usize = 8;
    let mut each: Vec<T> = Vec::new();
    for one in all {
        if !each.contains(&one) {
            each.push(one);
        }
    }
    let more = if each.len() > SHOWN_MAX { ", …" } else { "" };
    let shown: Vec<String> = each.iter().take(SHOWN_MAX).map(T::to_string).collect();
    shown.join(", ") + more
}

fn buffer_id_hint() -> String {
    format!("must be 1 to {}", RESERVATIONS_MAX - 1)
}

impl fmt::Display for ReservationTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pair { local, remote } => write!(f, "pair {local} to {remote}"),
            Self::PairPort { local, remote } => write!(f, "pair-port {local} to {remote}"),
            Self::Connection { buffer_id } => write!(f, "connection {buffer_id}"),
        }
    }
}

impl Reservation {
    /// What it begins with: as typed in or recommended last, else `otherwise`, which is what
    /// a connection has without a reservation; in whole memory buffers.
    #[must_use]
    pub fn bytes(&self, otherwise: u64) -> u64 {
        let bytes = self.size_kib.map_or(otherwise, |kib| kib * 1024);
        bytes.next_multiple_of(BUFFER_BYTES)
    }

    /// Whether it can be under this configuration.
    ///
    /// # Errors
    /// What cannot, and what to do.
    pub fn check(&self, config: &Config) -> Result<(), ReservationError> {
        self.target.check(config)?;
        let frames_kib = config.dataplane.frames_bytes / 1024;
        match self.size_kib {
            Some(kib) if !self.automatic && kib > frames_kib => {
                let hint = format!(
                    "must be at most {frames_kib}, all of frames_mib = {}; raise that, or ask for less",
                    frames_kib / 1024
                );
                Err(bad("size_kib", kib, hint))
            }
            _ => Ok(()),
        }
    }

    /// As it is written down.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry {
            size: self.automatic.then(|| "automatic".to_owned()),
            size_kib: self.size_kib.and_then(|kib| i64::try_from(kib).ok()),
            sessions: self.sessions.map(i64::from),
            connections: self.connections.map(i64::from),
            ..self.target.entry()
        }
    }
}

impl ReservationTarget {
    /// The entry that names it and no size.
    #[must_use]
    pub fn entry(&self) -> Entry {
        let kind = self.kind().to_owned();
        match self {
            Self::Pair { local, remote } => Entry {
                kind,
                local: Some(local.to_string()),
                remote: Some(remote.to_string()),
                ..Entry::default()
            },
            Self::PairPort { local, remote } => Entry {
                kind,
                local: Some(local.to_string()),
                remote: Some(remote.ip().to_string()),
                port: Some(remote.port().into()),
                ..Entry::default()
            },
            Self::Connection { buffer_id } => Entry {
                kind,
                buffer_id: Some((*buffer_id).into()),
                ..Entry::default()
            },
        }
    }
}

impl Entry {
    /// What it is for.
    ///
    /// # Errors
    /// The first key that is missing, not wanted, or has no such value.
    pub fn target(&self) -> Result<ReservationTarget, ReservationError> {
        let kind = self.kind.as_str();
        let (pair, with_port, with_id) = match kind {
            "pair" => (true, false, false),
            "pair-port" => (true, true, false),
            "connection" => (false, false, true),
            _ => {
                let hint = "must be \"pair\", \"pair-port\" or \"connection\"";
                return Err(bad("kind", format_args!("{kind:?}"), hint));
            }
        };
        wanted(kind, "local", self.local.as_ref(), pair)?;
        wanted(kind, "remote", self.remote.as_ref(), pair)?;
        wanted(kind, "port", self.port.as_ref(), with_port)?;
        wanted(kind, "buffer_id", self.buffer_id.as_ref(), with_id)?;
        if let Some(id) = self.buffer_id {
            return match u16::try_from(id) {
                Ok(buffer_id) if (1..RESERVATIONS_MAX).contains(&buffer_id) => {
                    Ok(ReservationTarget::Connection { buffer_id })
                }
                _ => Err(bad("buffer_id", id, buffer_id_hint())),
            };
        }
        let local = address("local", self.local.as_deref().unwrap_or_default())?;
        let remote = address("remote", self.remote.as_deref().unwrap_or_default())?;
        let Some(port) = self.port else {
            return Ok(ReservationTarget::Pair { local, remote });
        };
        match u16::try_from(port) {
            Ok(port) if port > 0 => Ok(ReservationTarget::PairPort {
                local,
                remote: SocketAddrV4::new(remote, port),
            }),
            _ => Err(bad("port", port, "must be 1 to 65535")),
        }
    }

    /// The whole of it.
    ///
    /// # Errors
    /// As [`Entry::target`].
    pub fn read(&self) -> Result<Reservation, ReservationError> {
        let target = self.target()?;
        let automatic = match self.size.as_deref() {
            None => self.size_kib.is_none(),
            Some("automatic") => true,
            Some("manual") => false,
            Some(other) => {
                let hint = "must be \"automatic\" or \"manual\"; a size goes into size_kib";
                return Err(bad("size", format_args!("{other:?}"), hint));
            }
        };
        if !automatic && self.size_kib.is_none() {
            return Err(ReservationError {
                key: "size_kib",
                value: None,
                hint: "is missing: a manual size is typed in".to_owned(),
            });
        }
        let kib = |kib: i64| match u64::try_from(kib) {
            Ok(kib) if (RESERVATION_KIB_MIN..=RESERVATION_KIB_MAX).contains(&kib) => Ok(kib),
            _ => {
                let hint = format!(
                    "must be {RESERVATION_KIB_MIN} to {RESERVATION_KIB_MAX}; one connection keeps {RESERVATION_KIB_MIN}"
                );
                Err(bad("size_kib", kib, hint))
            }
        };
        let by_id = matches!(target, ReservationTarget::Connection { .. });
        let count = |key, value: Option<i64>, max: u32| match value {
            None => Ok(None),
            Some(value) if by_id => {
                let hint = "is for a pair; the connections that present a buffer id share one size";
                Err(bad(key, value, hint))
            }
            Some(value) => match u16::try_from(value) {
                Ok(count) if (1..=max).contains(&u32::from(count)) => Ok(Some(count)),
                _ => Err(bad(key, value, format!("must be 1 to {max}"))),
            },
        };
        Ok(Reservation {
            target,
            automatic,
            size_kib: self.size_kib.map(kib).transpose()?,
            sessions: count("sessions", self.sessions, SESSIONS_MAX)?,
            connections: count("connections", self.connections, LANES_MAX)?,
        })
    }
}

/// A key that its kind needs is there, and one that it has not is not.
fn wanted<T: fmt::Debug>(
    kind: &str,
    key: &'static str,
    value: Option<&T>,
    wanted: bool,
) -> Result<(), ReservationError> {
    let hint = match (value, wanted) {
        (Some(_), true) | (None, false) => return Ok(()),
        (None, true) => format!("is missing: a reservation of kind \"{kind}\" needs it"),
        (Some(_), false) => format!("a reservation of kind \"{kind}\" has none; leave it out"),
    };
    let value = value.map(|value| format!("{value:?}"));
    Err(ReservationError { key, value, hint })
}

fn address(key: &'static str, text: &str) -> Result<Ipv4Addr, ReservationError> {
    text.parse().map_err(|_| {
        let hint = "must be an IPv4 address, as in 198.19.0.1";
        bad(key, format_args!("{text:?}"), hint)
    })
}

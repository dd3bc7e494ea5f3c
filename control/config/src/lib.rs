//! The static configuration (one TOML file) and the live changes kept beside
//! it, as plain types that both processes read.
//!
//! What always holds: a [`Config`] that exists has been checked as a whole
//! (addresses, names, ranges, memory), so its readers need not check again.
//! All faults of a file are reported at once, each with its line, the value
//! and what to do. Not for: anything that opens a device or a socket.
#![forbid(unsafe_code)]

mod budget;
mod check;
mod cidr;
mod error;
mod flush;
mod iscsi_name;
mod raw;
mod reservation;
mod secrets;
mod state;
mod volume;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use budget::{BudgetError, MemoryBudget, sessions_in_directory};
pub use cidr::{Cidr, CidrError};
pub use error::{ConfigError, Fault};
pub use flush::{FlushParameter, FlushSet, PolicyError};
pub use iscsi_name::{ISCSI_NAME_LEN_MAX, IscsiNameError, check_iscsi_name};
pub use reservation::{
    Entry as ReservationEntry, RESERVATION_KIB_MIN, RESERVATIONS_MAX, Reservation,
    ReservationError, ReservationTarget,
};
pub use secrets::{Account, ChapAlgorithm, ComputerChap, Secret, Secrets, StorageChap};
pub use state::{PathChange, ReservationChange, State, StateError, TargetChange, VolumeChange};
pub use volume::{VolumeName, VolumeNameError, lun_from_number, lun_number};

/// Where the programs look when neither `--config` nor `SLUICE_CONFIG` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/sluice/sluice.toml";
/// The control segment's file, unless the configuration names another.
pub const DEFAULT_SEGMENT: &str = "/run/sluice/control.seg";
/// The daemon's socket, unless the configuration names another.
pub const DEFAULT_SOCKET: &str = "/run/sluice/control.sock";
/// Most ports of one data plane (an index fits the owner word of a frame).
pub const PORTS_MAX: usize = 8;
/// Most static routes (rows of the segment's route table less the connected ones).
pub const ROUTES_MAX: usize = 1024 - PORTS_MAX;
/// Most configured targets.
pub const TARGETS_MAX: usize = 256;
/// Most iSCSI sessions from computers (rows of the segment's session table).
pub const SESSIONS_MAX: u32 = 8192;
/// Sessions with a storage that carry the flush of one target, at most.
pub const LANES_MAX: u32 = 8;
/// Of those that a live reservation asks for beyond the configured ones, there is room for so
/// many, of all targets together.
pub const LANES_SPARE: u32 = LANES_MAX - 1;

/// Everything the configuration file says, defaults filled in, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub dataplane: DataPlane,
    pub control: Control,
    /// Name of the TUN device that gives the box itself the ports' addresses.
    pub kernel_device: Option<String>,
    /// One to [`PORTS_MAX`], in the order of the file: a port's index is its place here.
    pub ports: Vec<Port>,
    /// Static routes only; connected ones follow from the ports' addresses.
    pub routes: Vec<Route>,
    pub iscsi: Iscsi,
    pub flush: Flush,
    /// There is one if a target's durability is [`Durability::Journal`]; there may be one without.
    pub journal: Option<Journal>,
    pub targets: Vec<Target>,
    /// In the order of the file, each target of one once; live changes are in [`State`].
    pub reservations: Vec<Reservation>,
}

/// The poll-mode process and its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataPlane {
    /// For every port that does not name its own.
    pub driver: Driver,
    /// Communication memory in bytes, a multiple of 2 MiB.
    pub frames_bytes: u64,
    /// Write cache in bytes, a multiple of 2 MiB.
    pub log_bytes: u64,
    /// A directory on hugetlbfs.
    pub directory: PathBuf,
    /// A directory on tmpfs, used (and said aloud) when hugepages cannot be had.
    pub fallback_directory: PathBuf,
    /// The control segment's file.
    pub segment: PathBuf,
    /// How long a worker without work polls before it sleeps.
    pub spin: Duration,
    /// Never sleep.
    pub busy_poll: bool,
    /// Core to pin the worker to.
    pub cpu: Option<usize>,
}

impl DataPlane {
    /// Pages of the communication memory for data that waits between the two sides of a session.
    #[must_use]
    pub fn staging_pages(&self) -> u16 {
        budget::staging_pages(self.frames_bytes)
    }
}

/// The control daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Unix socket that `sluicectl` sends its changes to.
    pub socket: PathBuf,
    /// Live changes ([`State`]); read by the data plane at start too.
    pub state: PathBuf,
    /// The write cache is short of room when so much of the log is used (B-16).
    pub cache_warning_percent: u8,
}

/// One router port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// The network device, at most 15 bytes (IFNAMSIZ).
    pub device: String,
    /// The port's own address with its connected net.
    pub address: Cidr,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    pub driver: Driver,
}

/// One static route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub prefix: Cidr,
    /// Next hop, on the connected net of `port`.
    pub via: Ipv4Addr,
    /// Index into [`Config::ports`].
    pub port: usize,
}

/// How sessions reach the relay, and what bounds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iscsi {
    pub mode: Mode,
    /// The relay's own portal, on one of the ports' addresses. Always there in portal mode.
    pub portal: Option<SocketAddrV4>,
    /// Most sessions from computers at a time.
    pub sessions_max: u32,
    /// The file with CHAP's secrets ([`Secrets`]); without one nobody proves anything.
    pub secrets: Option<PathBuf>,
    /// Digests towards computers and towards storage, each its own.
    pub lan_digests: Digests,
    pub wan_digests: Digests,
    /// Send buffer of one connection to the storage in bytes, whole 64 KiB pages.
    pub wan_send_bytes: u32,
    /// Receive buffer of one connection to the storage in bytes, whole 64 KiB pages.
    pub wan_receive_bytes: u32,
    /// Of all targets: lanes beyond each one's first.
    pub lanes_beside: u32,
    /// Connections to the storage ask for explicit congestion notification (RFC 3168).
    pub wan_ecn: bool,
}

/// Whether CRC32C digests are used (C-13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    pub header: Digest,
    pub data: Digest,
}

/// Whether one kind of digest is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Digest {
    Never,
    /// As the other side likes it better.
    #[default]
    Allowed,
    /// If the other side can.
    Preferred,
    /// Or there is no session.
    Required,
}

/// Flushing, as the file has it; live changes are in [`State`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flush {
    /// A parameter that the file does not have has its default.
    pub set: FlushSet,
    /// A write that finds no room for this long is answered BUSY (C-16).
    pub held_write_max: Duration,
}

/// The local journal: acknowledged writes outlive a power loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// A file that is made if it is not there, or a block device.
    pub path: PathBuf,
    /// Bytes of the file; a block device has its own size.
    pub size_bytes: u64,
}

/// One storage target whose sessions are relayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// iSCSI name, normalised to lower case (RFC 7143 4.2.7).
    pub name: String,
    /// Portal of the storage.
    pub address: SocketAddrV4,
    pub initiators: Initiators,
    /// More than one computer may be logged in at a time.
    pub shared: bool,
    pub durability: Durability,
    pub identity: IdentityPolicy,
    /// Computers must prove who they are; none leaves it to [`Secrets::demanded_by`].
    pub chap: Option<bool>,
    /// LUNs (8-byte field as a big-endian number) that are shown before a login
    /// has told which there are; LUN 1 unless the file says otherwise.
    pub luns: Vec<u64>,
    /// Sessions with the storage that its flush goes by, 1 to [`LANES_MAX`].
    pub lanes: u32,
    /// What its connections present, to take from a reservation of theirs (B-4).
    pub buffer_id: Option<u16>,
}

/// What computers are told a target's units are (C-15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentityPolicy {
    /// What the storage says they are.
    #[default]
    Pass,
    /// Units of the relay's own, which multipath does not take for the storage's.
    Own,
}

/// Who may log in to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initiators {
    Any,
    /// Initiator names in lower case.
    Named(Vec<String>),
}

impl Initiators {
    /// Whether the initiator of this (normalised) name is admitted.
    #[must_use]
    pub fn admits(&self, initiator_name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(names) => names.iter().any(|name| name == initiator_name),
        }
    }
}

/// Which driver a port is asked to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// AF_XDP where the NIC has zero-copy, else AF_PACKET.
    #[default]
    Auto,
    AfXdp,
    AfPacket,
}

impl Driver {
    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::AfXdp => "af_xdp",
            Self::AfPacket => "af_packet",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a computer's session comes to the relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The computer dials the storage's own address; the relay answers for it.
    #[default]
    Transparent,
    /// The computer dials the relay's portal.
    Portal,
}

impl Mode {
    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transparent => "transparent",
            Self::Portal => "portal",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a plain write is when it is acknowledged (the durability contract, C-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// In the hugepage log.
    #[default]
    Memory,
    /// On the local journal.
    Journal,
    /// On the storage's stable media.
    Storage,
}

impl Durability {
    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Journal => "journal",
            Self::Storage => "storage",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML of this shape, or says something
    /// that cannot work; every fault of the last kind is listed.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            file: path.to_owned(),
            source,
        })?;
        check::config(&text).map_err(|faults| ConfigError::Invalid {
            file: path.to_owned(),
            faults,
        })
    }

    /// Checks a text that comes from no file (messages then name `config`).
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        check::config(text).map_err(|faults| ConfigError::Invalid {
            file: PathBuf::from("config"),
            faults,
        })
    }

    /// The port whose connected net holds `address`.
    #[must_use]
    pub fn connected_port(&self, address: Ipv4Addr) -> Option<usize> {
        self.ports
            .iter()
            .position(|port| port.address.contains(address))
    }

    /// The port on the way to `address`: connected net, else longest static prefix.
    #[must_use]
    pub fn route_port(&self, address: Ipv4Addr) -> Option<usize> {
        self.connected_port(address).or_else(|| {
            self.routes
                .iter()
                .filter(|route| route.prefix.contains(address))
                .max_by_key(|route| route.prefix.prefix_len())
                .map(|route| route.port)
        })
    }
}

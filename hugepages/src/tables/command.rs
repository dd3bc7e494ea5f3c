//! What control asks of the data plane, and what it answers.
//!
//! A message is one word of id, one of kind, then fixed fields. Whoever reads
//! it checks every field; what cannot be decoded is refused as
//! [`Outcome::Malformed`].

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{BufferState, Field, Name, ReservationSize, ReservationTarget};

/// Words of every message: id, kind, and the longest command: scope kind,
/// target name (1 + 28), LUN, and what may be set of the flush policy (2 each);
/// rounded to whole cache lines.
pub const MESSAGE_WORDS: usize = 48;

/// Which volumes a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every volume; of a setting, the default.
    All,
    /// Every volume of this target.
    Target(Name),
    Volume {
        target: Name,
        /// The 8-byte LUN field as a big-endian number.
        lun: u64,
    },
}

macro_rules! setting {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: Option<u64>,)*
        }

        impl $name {
            /// Lays `newer` over this one.
            pub fn merge(&mut self, newer: &Self) {
                $(self.$field = newer.$field.or(self.$field);)*
            }
        }

        impl Field for $name {
            const WORDS: usize = [$(stringify!($field)),*].len() * <Option<u64> as Field>::WORDS;

            fn store(&self, words: &mut [u64]) {
                let values = [$(self.$field),*];
                for (own, value) in words.chunks_mut(<Option<u64> as Field>::WORDS).zip(values) {
                    value.store(own);
                }
            }

            fn load(words: &[u64]) -> Option<Self> {
                let mut values = words.chunks(<Option<u64> as Field>::WORDS).map(Field::load);
                Some(Self { $($field: values.next()??,)* })
            }
        }
    };
}

setting!(
    /// A change of the flush policy; `None` leaves a value as it is.
    FlushSetting {
        threshold_bytes,
        stop_bytes,
        period_ms,
        /// 0: never.
        idle_ms,
        /// 0: none.
        load_limit_ms,
        /// Of the response time at rest; 0: none.
        load_limit_percent,
    }
);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A volume's own setting goes before its target's, that before the default.
    SetFlush { scope: Scope, setting: FlushSetting },
    /// Flush what is cached now. The data plane answers as soon as it has begun,
    /// and has by then brought the volume rows up to date: what was cached when the
    /// command was sent is flushed when a row's `oldest_dirty_since_ns` is none, or
    /// later than the sending.
    FlushVolume { scope: Scope },
    /// Send again what the storage refused for good; volumes that have not
    /// failed are left as they are (C-4).
    RetryFailed { scope: Scope },
    /// Throw away the refused writes of one volume that its rows list, if they
    /// are still those of `stamp` ([`super::Volume::failed_stamp`]).
    DiscardFailed { scope: Scope, stamp: u64 },
    /// Acknowledge nothing from the cache any more, and flush all that was; or,
    /// if not `on`, cache again. Given twice it changes nothing. It is answered
    /// when begun, with the volumes that are not drained yet, and ends with the
    /// data plane's process. The volume rows tell how far it is, and have been
    /// brought up to date by the answer.
    Drain { on: bool },
    /// Makes a reservation, or changes its size (B-6, B-7): all of it or nothing. Given
    /// twice it changes nothing.
    Reserve {
        target: ReservationTarget,
        size: ReservationSize,
    },
    /// Ends a reservation (B-10). What connections hold of it is free when they give it back.
    CancelReservation { target: ReservationTarget },
    /// What is free, and how a reservation is (B-5).
    QueryBuffers { target: Option<ReservationTarget> },
    /// The connections of this target present a buffer id from now on, or none (B-4).
    PresentBufferId {
        target: Name,
        buffer_id: Option<u16>,
    },
    /// What is known of a path from elsewhere (B-14); what is `None` is measured again.
    SetPath {
        local: Ipv4Addr,
        remote: SocketAddrV4,
        bytes_per_s: Option<u64>,
        min_rtt_us: Option<u64>,
        /// It holds until it is taken back; else until the path is measured the next time.
        typed: bool,
    },
    /// Measure a path now, with probes where it is idle.
    MeasurePath {
        local: Ipv4Addr,
        remote: SocketAddrV4,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// No such volume or target.
    UnknownVolume,
    /// A value that the data plane does not take.
    OutOfRange,
    /// A message that could not be decoded.
    Malformed,
    /// It is not any more as it was when the command was given.
    Changed,
    /// There are not so many free buffers; nothing was changed (B-6).
    OutOfMemory,
    UnknownReservation,
    /// No port has the local address, or no target the remote one.
    UnknownPath,
    /// As many reservations as there can be, or connections still hold buffers of one that
    /// had this id.
    NoReservationLeft,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The command's.
    pub id: u64,
    pub outcome: Outcome,
    /// Volumes that the command was about; of a discard, writes.
    pub volumes: u32,
    /// Of commands about reservations.
    pub buffers: BufferState,
}

const SET_FLUSH: u64 = 1;
const FLUSH_VOLUME: u64 = 2;
const RETRY_FAILED: u64 = 3;
const DISCARD_FAILED: u64 = 4;
const DRAIN: u64 = 5;
const RESERVE: u64 = 6;
const CANCEL_RESERVATION: u64 = 7;
const QUERY_BUFFERS: u64 = 8;
const PRESENT_BUFFER_ID: u64 = 9;
const SET_PATH: u64 = 10;
const MEASURE_PATH: u64 = 11;

const NAME_WORDS: usize = <Name as Field>::WORDS;
// Places in a message.
const ID: usize = 0;
const KIND: usize = 1;
const SCOPE: usize = 2;
const TARGET: usize = 3;
const LUN: usize = TARGET + NAME_WORDS;
const SETTING: usize = LUN + 1;
const STAMP: usize = LUN + 1;
const ON: usize = LUN + 1;
const SETTING_END: usize = SETTING + FlushSetting::WORDS;
const _: () = assert!(SETTING_END <= MESSAGE_WORDS, "the longest command fits");
// Of commands that have no scope.
const FIELDS: usize = SCOPE;

impl Scope {
    fn store(&self, message: &mut [u64; MESSAGE_WORDS]) {
        let (kind, target, lun) = match self {
            Self::All => (0, None, 0),
            Self::Target(target) => (1, Some(target), 0),
            Self::Volume { target, lun } => (2, Some(target), *lun),
        };
        message[SCOPE] = kind;
        message[LUN] = lun;
        if let Some(target) = target {
            target.store(&mut message[TARGET..LUN]);
        }
    }

    fn load(message: &[u64; MESSAGE_WORDS]) -> Option<Self> {
        let target = || Name::load(&message[TARGET..LUN]);
        match message[SCOPE] {
            0 => Some(Self::All),
            1 => target().map(Self::Target),
            2 => target().map(|target| Self::Volume {
                target,
                lun: message[LUN],
            }),
            _ => None,
        }
    }

    /// Whether the volume is meant.
    #[must_use]
    pub fn covers(&self, target: &str, lun: u64) -> bool {
        match self {
            Self::All => true,
            Self::Target(own) => own == target,
            Self::Volume {
                target: own,
                lun: own_lun,
            } => own == target && *own_lun == lun,
        }
    }
}

impl Command {
    #[must_use]
    pub fn encode(&self, id: u64) -> [u64; MESSAGE_WORDS] {
        let mut message = [0; MESSAGE_WORDS];
        message[ID] = id;
        match self {
            Self::SetFlush { scope, setting } => {
                message[KIND] = SET_FLUSH;
                scope.store(&mut message);
                setting.store(&mut message[SETTING..SETTING_END]);
            }
            Self::FlushVolume { scope } => {
                message[KIND] = FLUSH_VOLUME;
                scope.store(&mut message);
            }
            Self::RetryFailed { scope } => {
                message[KIND] = RETRY_FAILED;
                scope.store(&mut message);
            }
            Self::DiscardFailed { scope, stamp } => {
                message[KIND] = DISCARD_FAILED;
                scope.store(&mut message);
                message[STAMP] = *stamp;
            }
            Self::Drain { on } => {
                message[KIND] = DRAIN;
                on.store(&mut message[ON..=ON]);
            }
            Self::Reserve { target, size } => {
                message[KIND] = RESERVE;
                Out(&mut message[FIELDS..]).put(target).put(size);
            }
            Self::CancelReservation { target } => {
                message[KIND] = CANCEL_RESERVATION;
                Out(&mut message[FIELDS..]).put(target);
            }
            Self::QueryBuffers { target } => {
                message[KIND] = QUERY_BUFFERS;
                Out(&mut message[FIELDS..]).put(target);
            }
            Self::PresentBufferId { target, buffer_id } => {
                message[KIND] = PRESENT_BUFFER_ID;
                Out(&mut message[FIELDS..]).put(target).put(buffer_id);
            }
            Self::SetPath {
                local,
                remote,
                bytes_per_s,
                min_rtt_us,
                typed,
            } => {
                message[KIND] = SET_PATH;
                Out(&mut message[FIELDS..])
                    .put(local)
                    .put(remote)
                    .put(bytes_per_s)
                    .put(min_rtt_us)
                    .put(typed);
            }
            Self::MeasurePath { local, remote } => {
                message[KIND] = MEASURE_PATH;
                Out(&mut message[FIELDS..]).put(local).put(remote);
            }
        }
        message
    }

    /// The id, and the command if it is one.
    #[must_use]
    pub fn decode(message: &[u64; MESSAGE_WORDS]) -> (u64, Option<Self>) {
        let command = || {
            let scope = || Scope::load(message);
            let mut fields = In(&message[FIELDS..]);
            match message[KIND] {
                SET_FLUSH => Some(Self::SetFlush {
                    scope: scope()?,
                    setting: Field::load(&message[SETTING..SETTING_END])?,
                }),
                FLUSH_VOLUME => Some(Self::FlushVolume { scope: scope()? }),
                RETRY_FAILED => Some(Self::RetryFailed { scope: scope()? }),
                DISCARD_FAILED => Some(Self::DiscardFailed {
                    scope: scope()?,
                    stamp: message[STAMP],
                }),
                DRAIN => Some(Self::Drain {
                    on: Field::load(&message[ON..=ON])?,
                }),
                RESERVE => Some(Self::Reserve {
                    target: fields.take()?,
                    size: fields.take()?,
                }),
                CANCEL_RESERVATION => Some(Self::CancelReservation {
                    target: fields.take()?,
                }),
                QUERY_BUFFERS => Some(Self::QueryBuffers {
                    target: fields.take()?,
                }),
                PRESENT_BUFFER_ID => Some(Self::PresentBufferId {
                    target: fields.take()?,
                    buffer_id: fields.take()?,
                }),
                SET_PATH => Some(Self::SetPath {
                    local: fields.take()?,
                    remote: fields.take()?,
                    bytes_per_s: fields.take()?,
                    min_rtt_us: fields.take()?,
                    typed: fields.take()?,
                }),
                MEASURE_PATH => Some(Self::MeasurePath {
                    local: fields.take()?,
                    remote: fields.take()?,
                }),
                _ => None,
            }
        };
        (message[ID], command())
    }
}

/// Stores fields one behind the other.
struct Out<'a>(&'a mut [u64]);

impl Out<'_> {
    fn put<T: Field>(mut self, value: &T) -> Self {
        let (own, rest) = self.0.split_at_mut(T::WORDS);
        value.store(own);
        self.0 = rest;
        self
    }
}

/// Takes them back.
struct In<'a>(&'a [u64]);

impl In<'_> {
    fn take<T: Field>(&mut self) -> Option<T> {
        let (own, rest) = self.0.split_at_checked(T::WORDS)?;
        self.0 = rest;
        T::load(own)
    }
}

impl Field for Outcome {
    const WORDS: usize = 1;

    fn store(&self, words: &mut [u64]) {
        words[0] = match self {
            Self::Done => 0,
            Self::UnknownVolume => 1,
            Self::OutOfRange => 2,
            Self::Malformed => 3,
            Self::Changed => 4,
            Self::OutOfMemory => 5,
            Self::UnknownReservation => 6,
            Self::UnknownPath => 7,
            Self::NoReservationLeft => 8,
        };
    }

    fn load(words: &[u64]) -> Option<Self> {
        Some(match words[0] {
            0 => Self::Done,
            1 => Self::UnknownVolume,
            2 => Self::OutOfRange,
            3 => Self::Malformed,
            4 => Self::Changed,
            5 => Self::OutOfMemory,
            6 => Self::UnknownReservation,
            7 => Self::UnknownPath,
            8 => Self::NoReservationLeft,
            _ => return None,
        })
    }
}

impl Completion {
    /// Words of a completion: id, outcome, volumes, buffers.
    pub const WORDS: usize = 3 + BufferState::WORDS;

    /// The answer to a command that is not about buffers.
    #[must_use]
    pub fn new(id: u64, outcome: Outcome, volumes: u32) -> Self {
        Self {
            id,
            outcome,
            volumes,
            buffers: BufferState::default(),
        }
    }

    #[must_use]
    pub fn encode(&self) -> [u64; Self::WORDS] {
        let mut message = [0; Self::WORDS];
        Out(&mut message)
            .put(&self.id)
            .put(&self.outcome)
            .put(&self.volumes)
            .put(&self.buffers);
        message
    }

    /// `None` if no data plane stored this.
    #[must_use]
    pub fn decode(message: &[u64]) -> Option<Self> {
        let mut fields = In(message);
        Some(Self {
            id: fields.take()?,
            outcome: fields.take()?,
            volumes: fields.take()?,
            buffers: fields.take()?,
        })
    }
}

//! What control asks of the data plane, and what it answers.
//!
//! A message is one word of id, one of kind, then fixed fields. Whoever reads
//! it checks every field; what cannot be decoded is refused as
//! [`Outcome::Malformed`].

use super::{Field, Name};

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The command's.
    pub id: u64,
    pub outcome: Outcome,
    /// Volumes that the command was about; of a discard, writes.
    pub volumes: u32,
}

const SET_FLUSH: u64 = 1;
const FLUSH_VOLUME: u64 = 2;
const RETRY_FAILED: u64 = 3;
const DISCARD_FAILED: u64 = 4;
const DRAIN: u64 = 5;

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
        }
        message
    }

    /// The id, and the command if it is one.
    #[must_use]
    pub fn decode(message: &[u64; MESSAGE_WORDS]) -> (u64, Option<Self>) {
        let command = || {
            let scope = Scope::load(message)?;
            match message[KIND] {
                SET_FLUSH => Some(Self::SetFlush {
                    scope,
                    setting: Field::load(&message[SETTING..SETTING_END])?,
                }),
                FLUSH_VOLUME => Some(Self::FlushVolume { scope }),
                RETRY_FAILED => Some(Self::RetryFailed { scope }),
                DISCARD_FAILED => Some(Self::DiscardFailed {
                    scope,
                    stamp: message[STAMP],
                }),
                DRAIN => Some(Self::Drain {
                    on: Field::load(&message[ON..=ON])?,
                }),
                _ => None,
            }
        };
        (message[ID], command())
    }
}

impl Completion {
    #[must_use]
    pub fn encode(&self) -> [u64; 3] {
        let outcome = match self.outcome {
            Outcome::Done => 0,
            Outcome::UnknownVolume => 1,
            Outcome::OutOfRange => 2,
            Outcome::Malformed => 3,
            Outcome::Changed => 4,
        };
        [self.id, outcome, u64::from(self.volumes)]
    }

    /// `None` if no data plane stored this.
    #[must_use]
    pub fn decode(message: &[u64; MESSAGE_WORDS]) -> Option<Self> {
        let outcome = match message[1] {
            0 => Outcome::Done,
            1 => Outcome::UnknownVolume,
            2 => Outcome::OutOfRange,
            3 => Outcome::Malformed,
            4 => Outcome::Changed,
            _ => return None,
        };
        let volumes = u32::try_from(message[2]).ok()?;
        Some(Self {
            id: message[0],
            outcome,
            volumes,
        })
    }
}

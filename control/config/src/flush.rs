//! The parameters by which a volume is flushed: a table of them, and sets of their
//! values as the configuration, the state file and requests have them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// A parameter of the flush policy; what it is for stands in `docs/operations.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum FlushParameter {
    ThresholdKib,
    StopKib,
    PeriodMs,
    IdleMs,
    LoadLimitMs,
    LoadLimitPercent,
}

/// What is to be said of a parameter.
struct Entry {
    parameter: FlushParameter,
    key: &'static str,
    /// Of the value, in a message.
    name: &'static str,
    unit: &'static str,
    /// What the unit is a share of.
    of: &'static str,
    min: u64,
    /// None: the size of the write cache.
    max: Option<u64>,
    /// What 0 says, if it is no number like the others.
    zero: Option<&'static str>,
    /// None: it follows from the others.
    default: Option<u64>,
}

const HOUR_MS: u64 = 3_600_000;
const COUNT: usize = 6;

/// In the order of [`FlushParameter`].
const TABLE: [Entry; COUNT] = [
    Entry {
        parameter: FlushParameter::ThresholdKib,
        key: "threshold_kib",
        name: "threshold",
        unit: "KiB",
        of: "",
        // One granule of the cache index.
        min: 4,
        max: None,
        zero: None,
        default: Some(1024),
    },
    Entry {
        parameter: FlushParameter::StopKib,
        key: "stop_kib",
        name: "stop mark",
        unit: "KiB",
        of: "",
        min: 0,
        max: None,
        zero: None,
        default: None,
    },
    Entry {
        parameter: FlushParameter::PeriodMs,
        key: "period_ms",
        name: "period",
        unit: "ms",
        of: "",
        min: 10,
        max: Some(HOUR_MS),
        zero: None,
        default: Some(1000),
    },
    Entry {
        parameter: FlushParameter::IdleMs,
        key: "idle_ms",
        name: "idle time",
        unit: "ms",
        of: "",
        min: 10,
        max: Some(HOUR_MS),
        zero: Some("never"),
        default: Some(0),
    },
    Entry {
        parameter: FlushParameter::LoadLimitMs,
        key: "load_limit_ms",
        name: "load limit",
        unit: "ms",
        of: "",
        min: 1,
        max: Some(60_000),
        zero: Some("none"),
        default: Some(0),
    },
    Entry {
        parameter: FlushParameter::LoadLimitPercent,
        key: "load_limit_percent",
        name: "load limit",
        unit: "%",
        of: " of the response time at rest",
        // Less would be reached by chance.
        min: 120,
        max: Some(10_000),
        zero: Some("none"),
        default: Some(0),
    },
];

const KEYS: [&str; COUNT] = {
    let mut keys = [""; COUNT];
    let mut at = 0;
    while at < COUNT {
        assert!(TABLE[at].parameter as usize == at, "in order");
        keys[at] = TABLE[at].key;
        at += 1;
    }
    keys
};

/// A value outside its range, which the message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyError {
    parameter: FlushParameter,
    value: i64,
    max: u64,
}

/// Values of parameters. One that is not there leaves what stands one level below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushSet<T = u64>([Option<T>; COUNT]);

impl FlushParameter {
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|entry| entry.parameter)
    }

    const fn entry(self) -> &'static Entry {
        &TABLE[self as usize]
    }

    /// Its key in the configuration, the state file and requests.
    #[must_use]
    pub const fn key(self) -> &'static str {
        self.entry().key
    }

    #[must_use]
    pub fn of_key(key: &str) -> Option<Self> {
        Self::all().find(|parameter| parameter.key() == key)
    }

    /// # Errors
    /// Out of range, which for some is the size of the write cache's to say.
    pub fn check(self, value: i64, log_bytes: u64) -> Result<u64, PolicyError> {
        let entry = self.entry();
        let max = entry.max.unwrap_or(log_bytes / 1024);
        match u64::try_from(value) {
            Ok(value)
                if (entry.min..=max).contains(&value) || value == 0 && entry.zero.is_some() =>
            {
                Ok(value)
            }
            _ => Err(PolicyError {
                parameter: self,
                value,
                max,
            }),
        }
    }

    /// Its range in words, for one that does not know the size of the write cache.
    #[must_use]
    pub fn range(self) -> String {
        let end = self.entry().max;
        self.range_to(end.map_or("the size of the write cache".to_owned(), |max| {
            max.to_string()
        }))
    }

    fn range_to(self, end: impl fmt::Display) -> String {
        let Entry { min, zero, .. } = self.entry();
        let zero = zero.map_or(String::new(), |zero| format!(", or 0 for {zero}"));
        format!("{min} to {end}{zero}")
    }
}

impl TryFrom<String> for FlushParameter {
    type Error = String;

    fn try_from(key: String) -> Result<Self, String> {
        Self::of_key(&key).ok_or_else(|| unknown_key(&key, &[]))
    }
}

/// As serde has it. `beside`: what else may stand there.
pub(crate) fn unknown_key(key: &str, beside: &[&str]) -> String {
    let keys = KEYS.iter().chain(beside);
    let keys: Vec<_> = keys.map(|key| format!("`{key}`")).collect();
    format!("unknown field `{key}`, expected one of {}", keys.join(", "))
}

impl PolicyError {
    /// The range in words, as a configuration's fault has it.
    pub(crate) fn range(&self) -> String {
        let key = match self.parameter.entry().max {
            Some(_) => "",
            None => " (log_mib)",
        };
        self.parameter.range_to(format_args!("{}{key}", self.max))
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            parameter,
            value,
            max: end,
        } = self;
        let Entry {
            name,
            unit,
            of,
            max,
            ..
        } = parameter.entry();
        let cache = match max {
            Some(_) => "",
            None => " (the size of the write cache)",
        };
        let range = parameter.range_to(format_args!("{end} {unit}{of}{cache}"));
        write!(f, "{name} of {value} {unit}: must be {range}")
    }
}

impl std::error::Error for PolicyError {}

impl<T: Copy> FlushSet<T> {
    #[must_use]
    pub const fn get(&self, parameter: FlushParameter) -> Option<T> {
        self.0[parameter as usize]
    }

    pub const fn set(&mut self, parameter: FlushParameter, value: T) {
        self.0[parameter as usize] = Some(value);
    }

    pub fn iter(&self) -> impl Iterator<Item = (FlushParameter, T)> + '_ {
        let value = |parameter| Some((parameter, self.get(parameter)?));
        FlushParameter::all().filter_map(value)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Lays `newer` over this one.
    pub fn merge(&mut self, newer: Self) {
        for (parameter, value) in newer.iter() {
            self.set(parameter, value);
        }
    }
}

impl FlushSet {
    /// What holds where nothing is set.
    #[must_use]
    pub fn defaults(log_bytes: u64) -> Self {
        let value = |entry: &Entry| {
            let max = entry.max.unwrap_or(log_bytes / 1024);
            Some((entry.parameter, entry.default?.min(max)))
        };
        TABLE.iter().filter_map(value).collect()
    }
}

impl FlushSet<i64> {
    /// # Errors
    /// The first that is out of its range.
    pub fn check(&self, log_bytes: u64) -> Result<FlushSet, PolicyError> {
        self.iter()
            .map(|(parameter, value)| Ok((parameter, parameter.check(value, log_bytes)?)))
            .collect()
    }
}

impl<T> Default for FlushSet<T> {
    fn default() -> Self {
        Self([const { None }; COUNT])
    }
}

impl<T: Copy> FromIterator<(FlushParameter, T)> for FlushSet<T> {
    fn from_iter<I: IntoIterator<Item = (FlushParameter, T)>>(values: I) -> Self {
        let mut set = Self::default();
        for (parameter, value) in values {
            set.set(parameter, value);
        }
        set
    }
}

impl<T: Copy + fmt::Display> fmt::Display for FlushSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (parameter, value)) in self.iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}{} = {value}", parameter.key())?;
        }
        Ok(())
    }
}

impl<T: Copy + Serialize> Serialize for FlushSet<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.iter()
                .map(|(parameter, value)| (parameter.key(), value)),
        )
    }
}

impl<'de, T: Copy + Deserialize<'de>> Deserialize<'de> for FlushSet<T> {
    /// A struct with these fields to serde: what it is flattened into goes on refusing
    /// fields that neither knows.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("FlushSet", &KEYS, SetVisitor(PhantomData))
    }
}

struct SetVisitor<T>(PhantomData<T>);

impl<'de, T: Copy + Deserialize<'de>> Visitor<'de> for SetVisitor<T> {
    type Value = FlushSet<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("parameters of the flush policy")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut set = FlushSet::default();
        while let Some(parameter) = map.next_key::<FlushParameter>()? {
            if set.get(parameter).is_some() {
                return Err(A::Error::duplicate_field(parameter.key()));
            }
            set.0[parameter as usize] = map.next_value()?;
        }
        Ok(set)
    }
}

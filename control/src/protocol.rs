//! Requests to the daemon and its replies: one JSON object a line, one reply a
//! request, in order. A line that is no request gets a reply that says so, and
//! the connection goes on.
//!
//! ```text
//! → {"do":"set_flush","volume":"iqn.2004-03.example.storage:vol0/1","threshold_kib":4096}
//! ← {"reply":"done","volumes":1}
//! → {"do":"flush","volume":"all"}
//! ← {"reply":"failed","kind":"no_data_plane","message":"…"}
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};
use sluice_config::{FlushSet, ReservationEntry};

/// Longest request line in bytes: a volume's name and a few numbers.
pub const REQUEST_BYTES_MAX: u64 = 4096;

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Answered at once if the daemon lives, whether or not a data plane does.
    Ping,
    Version,
    /// Changes the flush policy, live and for good.
    SetFlush {
        /// `TARGET/LUN` or `TARGET`; without it the default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        volume: Option<String>,
        /// Signed, so that a negative number is answered with the range.
        #[serde(flatten)]
        set: FlushSet<i64>,
    },
    /// Begins to flush what is cached now; done when begun.
    Flush {
        /// `TARGET/LUN`, `TARGET` or `all`.
        volume: String,
    },
    /// Sends again what the storage refused for good; done when begun.
    RetryFailed {
        /// `TARGET/LUN`, `TARGET` or `all`.
        volume: String,
    },
    /// Throws away the refused writes of one volume that the segment lists
    /// under this stamp; refused if others are listed meanwhile.
    DiscardFailed {
        /// `TARGET/LUN`.
        volume: String,
        stamp: u64,
    },
    /// Has nothing acknowledged from the cache any more and all that was flushed,
    /// or ends that; done when begun.
    Drain {
        on: bool,
    },
    /// Makes a reservation of memory buffers, or changes one (B-6, B-7).
    Reserve {
        /// Without a `buffer_id` the kind `connection` gets the lowest that is free.
        reservation: ReservationEntry,
        /// What the entry does not say stays as it is; else it is as without one.
        #[serde(default)]
        update: bool,
    },
    /// Ends a reservation (B-10).
    Cancel {
        /// Only what it is for.
        reservation: ReservationEntry,
    },
    /// What is free, and how a reservation is (B-5).
    Query {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reservation: Option<ReservationEntry>,
    },
    /// The connections of a target present a buffer id from now on, or none (B-4).
    Present {
        target: String,
        #[serde(default)]
        buffer_id: Option<i64>,
    },
    /// What a path carries, typed in: it holds until it is set without values (B-14).
    SetPath(PathValues),
    /// What a probe at either site has measured; it holds until the path is measured again.
    ReportPath(PathValues),
    /// Measure a path now; done when begun. The row's `measured` tells when it has ended.
    MeasurePath {
        local: Ipv4Addr,
        remote: SocketAddrV4,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathValues {
    pub local: Ipv4Addr,
    pub remote: SocketAddrV4,
    /// Of one connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_rtt_us: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Pong,
    Version {
        version: String,
        /// Whether a data plane is there.
        attached: bool,
    },
    Done {
        /// Volumes that it was about; of a discard, writes; of a drain, those not drained yet.
        volumes: u32,
    },
    /// Of requests about reservations: how it is now.
    Buffers(BuffersReply),
    Failed {
        kind: FailureKind,
        /// Names the value and what to do.
        message: String,
    },
}

/// What is free, and how a reservation is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuffersReply {
    /// Of the reservation; 0 without one.
    pub buffer_id: u16,
    /// What it is to have, and what connections hold of it.
    pub reserved_bytes: u64,
    pub allocated_bytes: u64,
    /// What a reservation could have beyond what it has.
    pub free_bytes: u64,
    /// What the write cache has room for.
    pub cache_free_bytes: u64,
    /// Bandwidth x delay x sessions x connections; none while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommended_bytes: Option<u64>,
    /// It is not all that was asked for, or recommended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Kinds of failure that a script may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Not a request, or a value out of its range.
    BadRequest,
    UnknownVolume,
    /// Too few memory buffers are free; nothing was changed (B-6).
    OutOfMemory,
    UnknownReservation,
    /// No port has the local address, or no target the remote one.
    UnknownPath,
    /// As many reservations as there can be.
    NoReservationLeft,
    /// It is not any more as it was when the request was made.
    Changed,
    /// No data plane is there, or it did not answer in time.
    NoDataPlane,
    /// In force, but could not be written to the state file.
    NotKept,
}

#[cfg(test)]
mod tests {
    use sluice_config::FlushParameter;

    use super::*;

    #[test]
    fn set_flush_has_its_values_beside_its_volume_and_no_others() {
        let set: FlushSet<i64> = FlushParameter::all().zip(-2..).collect();
        let volume = Some("vol0/1".to_owned());
        let all = Request::SetFlush { volume, set };
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), all);

        let read = |text: &str| serde_json::from_str::<Request>(text);
        let default = read(r#"{"do":"set_flush","period_ms":20,"load_limit_ms":null}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&default).unwrap(),
            r#"{"do":"set_flush","period_ms":20}"#
        );
        for (text, why) in [
            (r#""perod_ms":20"#, "unknown field `perod_ms`"),
            (r#""period_ms":1.5"#, "expected i64"),
            (
                r#""period_ms":20,"period_ms":30"#,
                "duplicate field `period_ms`",
            ),
        ] {
            let error = read(&format!(r#"{{"do":"set_flush",{text}}}"#)).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}

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

use serde::{Deserialize, Serialize};
use sluice_config::FlushSet;

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
    Failed {
        kind: FailureKind,
        /// Names the value and what to do.
        message: String,
    },
}

/// Kinds of failure that a script may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Not a request, or a value out of its range.
    BadRequest,
    UnknownVolume,
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

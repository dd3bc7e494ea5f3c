//! iSCSI (RFC 7143) as two state machines over byte streams: [`TargetConn`]
//! towards computers, [`InitiatorConn`] towards storage.
//!
//! ```text
//! stream bytes -> inbound (PDUs) -> target | initiator -> events to the caller
//! stream bytes <- outbound       <- queues, in the order StatSN and CmdSN ask
//! ```
//!
//! What always holds: one connection is one session, at error recovery level 0;
//! every byte from the peer is checked before it is believed, and a breach
//! ends that connection only; in full feature phase nothing is allocated; no
//! data is copied here, it goes from the caller's `input` to the caller and
//! from the caller's `fetch` to `out`. Not for: sockets, time-outs, which
//! targets exist, or what a SCSI command means.

pub mod chap;
mod inbound;
mod initiator;
mod negotiate;
mod outbound;
mod serial;
mod target;
#[cfg(test)]
mod tests;
mod text;
mod violation;
pub mod wire;

pub use initiator::{
    Command, Direction, InitiatorConfig, InitiatorConn, InitiatorEvent, LoginFailure, WindowFull,
};
pub use negotiate::{DigestPolicy, Offers, Parameters};
pub use target::{
    CommandEvent, DataQueueFull, LoginRequest, SendTargetsScope, TargetConfig, TargetConn,
    TargetEvent, TaskId,
};
pub use violation::{Counters, Violation};
pub use wire::{Residual, TaskAttribute, TaskFunction, TaskFunctionResponse};

use arrayvec::ArrayString;

/// Longest sense data that is kept with a response, in bytes. Initiators keep
/// no more (Linux: SCSI_SENSE_BUFFERSIZE is 96), and SPC lets sense data be
/// cut at any length.
pub const SENSE_LEN_MAX: usize = 96;

/// An iSCSI name (RFC 7143 4.2.7.1: at most 223 bytes).
pub type IscsiName = ArrayString<224>;

/// Reads a name that a peer sent.
fn name(value: &str) -> Option<IscsiName> {
    let printable = value.bytes().all(|byte| byte.is_ascii_graphic());
    if value.is_empty() || value.len() > 223 || !printable {
        return None;
    }
    IscsiName::from(value).ok()
}

/// Status class and detail of a Login Response (RFC 7143 11.13.5).
pub mod login_status {
    /// (class, detail)
    pub type Status = (u8, u8);
    pub const SUCCESS: Status = (0, 0);
    pub const TARGET_MOVED_TEMPORARILY: Status = (1, 1);
    pub const INITIATOR_ERROR: Status = (2, 0);
    pub const AUTHENTICATION_FAILURE: Status = (2, 1);
    pub const AUTHORIZATION_FAILURE: Status = (2, 2);
    pub const NOT_FOUND: Status = (2, 3);
    pub const TARGET_REMOVED: Status = (2, 4);
    pub const UNSUPPORTED_VERSION: Status = (2, 5);
    pub const TOO_MANY_CONNECTIONS: Status = (2, 6);
    pub const MISSING_PARAMETER: Status = (2, 7);
    pub const CANNOT_INCLUDE_IN_SESSION: Status = (2, 8);
    pub const SESSION_TYPE_NOT_SUPPORTED: Status = (2, 9);
    pub const SESSION_DOES_NOT_EXIST: Status = (2, 0x0a);
    pub const INVALID_DURING_LOGIN: Status = (2, 0x0b);
    pub const TARGET_ERROR: Status = (3, 0);
    pub const SERVICE_UNAVAILABLE: Status = (3, 1);
    pub const OUT_OF_RESOURCES: Status = (3, 2);
}

//! TCP for the WAN: a sender that fills long lossy paths, and a receiver for windows of
//! 64 MiB, without I/O.
//!
//! A [`Connection`] is a function of segments, times and what the caller asks for; what
//! it sends goes to an [`Emit`] of the caller. Frames are lent to it by handles: it never
//! copies a byte of payload, in either direction.
//!
//! ```text
//!  send ──► send_buffer ──► connection::transmit ──► Emit        wire: headers to bytes
//!                │               │     ▲
//!                ▼               ▼     │ window, rate
//!            scoreboard ◄── recovery  control, pacing
//!                ▲               ▲     ▲
//!  on_segment ──►└─ rtt, rate ───┴─────┘
//!       └──────► receive ──► read
//! ```
//!
//! What always holds:
//! * the same calls give the same segments: no clock, no chance, no environment but what
//!   is an argument;
//! * every byte is delivered once and in order, or the connection ends with a reason;
//! * whatever a peer sends, memory is bounded by the limits of [`Config`].
//!
//! Not for: whose segment it is (the flow table), checksums (one pass with the copy, or
//! the port), fragments, urgent data (RFC 9293, 3.8.5: new applications do not use it).
#![forbid(unsafe_code)]

pub mod connection;
pub mod control;
pub mod counters;
pub mod mtu;
pub mod pacing;
pub mod rate;
pub mod receive;
pub mod recovery;
pub mod rtt;
pub mod scoreboard;
pub mod segment;
pub mod send_buffer;
pub mod seq;
pub mod train;
pub mod wire;

pub use connection::{Config, Connection, Emit, Ended, KeepAlive, PathSample, State, refuse};
pub use control::ControlKind;
pub use counters::{Counters, Violation};
pub use mtu::TooBig;
pub use segment::{Flags, IpEcn, Options, Segment, Timestamp};
pub use seq::Seq;
pub use sluice_proto::Time;

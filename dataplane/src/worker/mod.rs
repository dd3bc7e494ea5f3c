//! The worker: one core's run-to-completion step, and the relay it drives.
//!
//! The way of a write, top to bottom: [`step`] takes frames and hands TCP
//! segments to their flow; [`admit`] turns a computer's stream into commands
//! and puts data in its place; [`mod@write`] gives it room, an order and an answer;
//! [`flush`] carries it to the storage and frees it when it is durable there.
//! [`read`] and [`pass`] are the ways of the other commands, [`login`] and
//! [`wan`] the lives of the two sides' sessions, `probe` what the storage is asked
//! first, `send` what goes out to it and `loss` what comes back undone,
//! [`journal`] what is asked of the journal and when that is answered,
//! [`drain`] how it is emptied, [`upkeep`] what time brings, [`recovery`] what a start finds, [`publish`] what operators see, [`latency`] how long commands take,
//! [`writable`] whether the storage takes writes at all, [`failure`] what follows
//! when it does not take one that was acknowledged, [`reservation`] from
//! whom, [`attention`] what it has to say of itself, [`buffers`] what memory its connections take, and [`security`] who must
//! prove what.
//!
//! Not for: anything that reads a clock, or a byte of a protocol (that is
//! `sluice_proto`'s).

pub mod admit;
pub mod attention;
pub mod buffers;
mod compact;
pub mod drain;
mod events;
pub mod failure;
pub mod fence;
mod flight;
mod flush;
pub mod holding;
pub mod inquiry;
pub mod journal;
pub mod lan;
pub mod lanes;
pub mod latency;
pub mod line;
mod load;
pub mod login;
mod loss;
pub mod management;
pub mod nexus;
mod overwrite;
pub mod pass;
pub mod path;
mod probe;
pub mod publish;
pub mod read;
pub mod recovery;
pub mod relay;
pub mod reservation;
pub mod security;
mod send;
pub mod staging;
pub mod step;
pub mod task;
pub mod upkeep;
pub mod volume;
pub mod wan;
pub mod writable;
pub mod write;

pub use relay::{Digests, Mode, Relay, RelayConfig, Target, Usage};
pub use step::{Io, Next, Worker};

use sluice_hugepages::log::VolumeId;

/// The log's name for a volume.
fn log_volume(key: task::VolumeKey) -> VolumeId {
    VolumeId(key.0)
}

//! The poll-mode data plane: frames in, frames out, one worker a core.

pub mod checksum;
pub mod driver;
pub mod journal;
pub mod net;
pub mod start;
pub mod tcp;
pub mod wheel;
pub mod worker;

//! What the benches share.

pub mod flight;
pub mod host;
pub mod load;
pub mod order;
pub mod packets;
pub mod random;
pub mod tsc;

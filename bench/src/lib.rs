//! What the benches share.

pub mod random;
pub mod tsc;

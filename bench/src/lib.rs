//! What the benches share.

pub mod load;
pub mod random;
pub mod tsc;

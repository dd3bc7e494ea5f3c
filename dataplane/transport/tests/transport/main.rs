//! Two connections across a link made up in simulated time: everything follows from seeds.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what a test is made of"
)]

mod cost;
mod crowd;
mod ends;
mod faults;
mod goodput;
mod hostile;
mod link;

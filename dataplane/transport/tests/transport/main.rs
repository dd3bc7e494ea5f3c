//! Two connections across a link made up in simulated time: everything follows from seeds.

mod ends;
mod faults;
mod goodput;
mod hostile;
mod link;

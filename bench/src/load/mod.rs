//! An iSCSI load generator: stock clients are the bottleneck where a relay
//! answers in microseconds, and none checks block stamps at depth.

pub mod image;
pub mod ledger;
pub mod report;
pub mod session;
pub mod stall;
pub mod stamp;
pub mod workload;

//! The seeded simulator: the data plane's worker between a model computer and
//! a model storage, in one thread and in simulated time.
//!
//! What always holds: the same seed gives the same run. Rooms: [`world`] holds
//! everything and moves time; [`client`] and [`storage`] are the two ends on
//! their [`host`]s; [`link`] loses, doubles, delays and marks, [`ecn`] knows of marks,
//! [`narrow`] takes no long packets; [`oracle`] judges, and
//! sees only what the computer and the storage saw; [`campaign`] runs many
//! seeds and says what none of them met; [`minimise`] shortens a run that failed;
//! `self_test` plants faults in the worker and sees that they are found;
//! [`command`] is the command line. [`site`] is the same worker and storage
//! for tests that speak byte by byte.

pub mod block;
pub mod campaign;
pub mod client;
pub mod command;
pub mod ecn;
pub mod fault;
pub mod host;
pub mod journal;
pub mod link;
pub mod minimise;
pub mod narrow;
pub mod oracle;
pub mod proof;
pub mod random;
pub mod reservation;
#[cfg(feature = "mutations")]
pub mod self_test;
pub mod site;
pub mod storage;
pub mod world;

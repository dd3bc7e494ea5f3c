//! SCSI as the relay needs it: what a command touches, what the relay answers
//! by itself, and what it reads from or changes in answers that pass through.
//!
//! Nothing here knows iSCSI or the cache. Bytes come from the network, so every
//! length is checked before use, and nothing panics on any input.

pub mod status;

pub use status::ScsiStatus;

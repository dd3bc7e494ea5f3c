//! SCSI as the relay needs it: what a command touches, what the relay answers
//! by itself, and what it reads from or changes in answers that pass through.
//!
//! * [`command`]: the one table of what reads, writes, orders or touches which
//!   blocks, and [`classify`] over it;
//! * [`status`], [`sense`]: how a command ends;
//! * [`capacity`], [`mode`], [`vpd`]: the storage's answers about itself;
//! * [`reservation`]: who may do what while somebody holds the volume;
//! * [`lun`]: which LUNs name one unit;
//! * [`cdb`]: the commands that the relay itself sends.
//!
//! Nothing here knows iSCSI or the cache. Bytes come from the network, so every
//! length is checked before use, and nothing panics on any input. Standards are
//! cited by the title of their clause (SPC-5, SBC-4), since clause numbers
//! differ from revision to revision.

pub mod capacity;
pub mod cdb;
pub mod command;
pub mod identity;
pub mod lun;
pub mod mode;
pub mod opcode;
pub mod reservation;
pub mod sense;
pub mod status;
pub mod vpd;

pub use capacity::Capacity;
pub use command::{Access, asks_fua, classify, fua_byte, overwrites_with};
pub use lun::{lun_number, same_lun};
pub use sense::{Sense, SenseKey};
pub use status::ScsiStatus;

/// The big-endian word at `at`; `None` when the bytes end before it does.
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

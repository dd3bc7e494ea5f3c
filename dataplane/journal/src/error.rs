//! Why a journal cannot be used. Each says what to do; nothing on it was changed.

use std::io;
use std::path::PathBuf;

use super::layout::VERSION;

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot {what} {path:?}: {source}{}", advice(.source))]
    Os {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path:?} is in use by another data plane")]
    Busy { path: PathBuf },
    #[error("{path:?} is neither a file nor a block device")]
    Kind { path: PathBuf },
    #[error(
        "{path:?} has {found_mib} MiB and journal.size_mib says {wanted_mib}: set it to {found_mib}, or \
         drain all volumes and remove the file"
    )]
    Size {
        path: PathBuf,
        found_mib: u64,
        wanted_mib: u64,
    },
    #[error(
        "it has {found_mib} MiB, and the smallest journal {wanted_mib}: name a larger device or raise \
         journal.size_mib"
    )]
    Small { found_mib: u64, wanted_mib: u64 },
    #[error("cannot read it: {source}{what_to_do}", source = .0, what_to_do = advice(.0))]
    Read(io::Error),
    #[error("cannot write it: {source}{}", advice(.source))]
    Write { source: io::Error },
    #[error(
        "it holds something that is not a Sluice journal (it begins {begins:#018x}); nothing was \
         changed: name another file, or remove this one if it is not wanted"
    )]
    Foreign { begins: u64 },
    #[error(
        "it has format version {found}, this program knows {VERSION}; nothing was changed: start the \
         release that wrote it, drain all volumes (`sluicectl drain`), stop it and remove the file, \
         then start this one"
    )]
    Version { found: u32 },
    #[error(
        "it has {found} blocks of 4 KiB and its header says {expected}: it was cut off; nothing was \
         changed: put the whole file back, or, if what it held is given up, remove it"
    )]
    Truncated { found: u64, expected: u64 },
    #[error(
        "both copies of its header are damaged; nothing was changed: keep it for recovery and name \
         another file"
    )]
    Headers,
    #[error(
        "group {group} at block {block} is damaged and group {later} behind it is there: writes that \
         were acknowledged are lost; nothing was changed: keep it for recovery and name another file"
    )]
    Hole { block: u64, group: u64, later: u64 },
    #[error(
        "group {group} at block {block} says what no release writes; nothing was changed: keep it for \
         recovery and name another file"
    )]
    Group { block: u64, group: u64 },
    #[error(
        "it holds {records} writes ({bytes} bytes) that were acknowledged for another write log than \
         the one found; nothing was changed: to restore them, move the log's file away and start again; \
         to give them up, remove the journal"
    )]
    OtherLog { records: usize, bytes: u64 },
    #[error(
        "the log found was being made from another journal when the data plane stopped, and is a \
         part of what that held; nothing was changed: configure that journal again, or, if it is \
         lost or given up, remove the log's file"
    )]
    HalfFilled,
    #[error(
        "it is too small for what the log holds beside it; nothing of that is lost: name a larger \
         one, which begins anew from the log"
    )]
    Crowded,
    #[error(
        "its {records} writes ({bytes} bytes) do not fit the new write log; nothing on it was changed: \
         raise dataplane.log_mib and start again"
    )]
    NoRoom { records: usize, bytes: u64 },
    #[error("a row of its directory cannot be read; keep it for recovery and name another file")]
    Row,
}

fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOSPC) => "; make room there, or lower journal.size_mib",
        Some(libc::EROFS | libc::EACCES | libc::EPERM) => {
            "; the data plane must be able to write it"
        }
        Some(libc::EIO) => {
            "; its device fails: mend or replace it. As long as the write log's file is there, nothing \
             acknowledged is lost by a start without [journal]"
        }
        Some(libc::EINVAL) => "; the file system must take O_DIRECT (tmpfs does not)",
        _ => "",
    }
}

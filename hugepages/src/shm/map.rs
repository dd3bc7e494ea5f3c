//! The segment's file, its mapping and its locks: the only place here that is
//! unsafe. The mapping is seen as atomic words and never as anything else,
//! since another process may store into it at any time.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use super::layout::{SEGMENT_BYTES, WORDS};
use crate::atomic::AtomicU64;

/// Which byte of the file stands for whom (open file description locks: they
/// go with the process, however it ends).
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    DataPlane = 0,
    Control = 1,
}

/// A mapped segment; unmapped, and its lock released, when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    raw: MmapRaw,
    pub file: File,
}

impl Mapping {
    /// Maps the whole segment. The file must be at least [`SEGMENT_BYTES`] long
    /// (the caller has checked), or an access would be a SIGBUS.
    pub fn new(file: File, writable: bool) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(SEGMENT_BYTES);
        let raw = if writable {
            options.populate().map_raw(&file)?
        } else {
            options.map_raw_read_only(&file)?
        };
        Ok(Self { raw, file })
    }

    /// All words. Of a mapping that is not writable they may only be loaded.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, WORDS * 8 bytes long and lives as
        // long as `self`; every bit pattern is an AtomicU64; what other processes
        // store is seen through atomics only.
        unsafe { std::slice::from_raw_parts(self.raw.as_mut_ptr().cast::<AtomicU64>(), WORDS) }
    }
}

/// A part of a mapping that keeps it alive.
#[derive(Clone, Debug)]
pub(super) struct Cells {
    mapping: Arc<Mapping>,
    range: Range<usize>,
}

impl Cells {
    pub fn new(mapping: &Arc<Mapping>, range: Range<usize>) -> Self {
        assert!(
            range.end <= WORDS && range.start <= range.end,
            "inside the segment"
        );
        Self {
            mapping: Arc::clone(mapping),
            range,
        }
    }
}

impl Deref for Cells {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.mapping.words()[self.range.clone()]
    }
}

/// Takes the role's lock; `false` if someone else has it.
pub(super) fn try_lock(file: &File, role: Role) -> io::Result<bool> {
    let mut lock = lock_of(role);
    // SAFETY: the descriptor is open, and `lock` is a valid flock for the call.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
    if answer == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Whether someone else holds the role's lock.
pub(super) fn is_locked(file: &File, role: Role) -> io::Result<bool> {
    let mut lock = lock_of(role);
    // SAFETY: as in `try_lock`.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(lock.l_type != UNLOCKED)
}

#[expect(clippy::cast_possible_truncation, reason = "constants of a few bits")]
const UNLOCKED: libc::c_short = libc::F_UNLCK as libc::c_short;

#[expect(clippy::cast_possible_truncation, reason = "constants of a few bits")]
fn lock_of(role: Role) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: role as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

/// Gives the file all its memory now, so that a full tmpfs is an error here
/// and not a SIGBUS later.
pub(super) fn allocate(file: &File) -> io::Result<()> {
    let len = libc::off_t::try_from(SEGMENT_BYTES).expect("a few MiB");
    // SAFETY: the descriptor is open.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Now, in nanoseconds of `CLOCK_MONOTONIC`: the clock of every `_ns` in the
/// segment, the same for all processes of a machine. For `main` only.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid timespec for the call.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    assert_eq!(answer, 0, "every Linux has CLOCK_MONOTONIC");
    let seconds = u64::try_from(now.tv_sec).expect("not before boot");
    let nanos = u64::try_from(now.tv_nsec).expect("0 to 999999999");
    seconds * 1_000_000_000 + nanos
}

//! Maps memory that outlives the process: a file on hugetlbfs, else on tmpfs.
//!
//! What always holds: a region is locked against a second data plane, has
//! exactly the length that was asked for, and every byte of it is backed
//! before it is handed out, so that an undersized hugepage pool is an error at
//! start and never a SIGBUS later. A file found from an earlier life is used
//! where it stands, even when the other place would be preferred today:
//! it may hold acknowledged writes.
//!
//! Not for: what is in the memory ([`crate::pool`], [`crate::log`]), or the
//! segment that control maps too ([`crate::shm`]).

mod outcome;

use std::ffi::CString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

pub use outcome::{Backing, RegionError, StepDown};

/// Every region is a whole number of these, whatever backs it.
pub const HUGEPAGE_LEN: usize = 2 * 1024 * 1024;

/// Tries at opening a file that is being replaced by someone else meanwhile.
const OPEN_TRIES: usize = 8;

/// Where region files live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// A hugetlbfs mount; `None` goes to tmpfs at once.
    pub hugetlbfs: Option<PathBuf>,
    /// The announced fallback.
    pub tmpfs: PathBuf,
}

/// Which region to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    pub directories: Directories,
    /// File name in either directory.
    pub name: String,
    /// Bytes, a multiple of [`HUGEPAGE_LEN`].
    pub len: usize,
}

/// Mapped memory of fixed length.
#[derive(Debug)]
pub struct Region {
    map: MmapRaw,
    /// Holds the lock for as long as the memory is mapped.
    file: Option<File>,
    backing: Backing,
    reattached: bool,
    read_only: bool,
}

impl Region {
    /// Maps the file that `spec` names, or makes it.
    ///
    /// # Errors
    /// See [`RegionError`]. A missing or small hugepage pool is not one: the
    /// region then stands on tmpfs and [`Region::backing`] says why.
    pub fn open(spec: &RegionSpec) -> Result<Region, RegionError> {
        spec.check()?;
        let tmpfs = spec.directories.tmpfs.join(&spec.name);
        let hugetlbfs = spec
            .directories
            .hugetlbfs
            .as_ref()
            .map(|dir| dir.join(&spec.name));
        let in_tmpfs = holds_something(&tmpfs);
        match hugetlbfs {
            Some(path) if holds_something(&path) => {
                if in_tmpfs {
                    return Err(RegionError::Two {
                        hugetlbfs: path,
                        tmpfs,
                    });
                }
                Region::map_file(&path, spec.len, Backing::Hugetlbfs)
            }
            _ if in_tmpfs => {
                let why = StepDown::FoundThere {
                    path: tmpfs.clone(),
                };
                Region::map_file(&tmpfs, spec.len, Backing::Tmpfs(why))
            }
            _ => match Region::make_on_hugetlbfs(spec)? {
                Ok(region) => Ok(region),
                Err(why) => Region::make_on_tmpfs(spec, why),
            },
        }
    }

    /// Drops what an earlier start left under this name, in both places.
    ///
    /// # Errors
    /// [`RegionError::Busy`] when a living data plane uses it.
    pub fn discard(spec: &RegionSpec) -> Result<(), RegionError> {
        spec.check()?;
        let directories = spec
            .directories
            .hugetlbfs
            .iter()
            .chain([&spec.directories.tmpfs]);
        for path in directories.map(|dir| dir.join(&spec.name)) {
            let file = match OpenOptions::new().read(true).write(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => {
                    return Err(RegionError::Io {
                        what: "open",
                        path,
                        source,
                    });
                }
            };
            lock(&file, &path)?;
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    /// Maps a region's file, or a copy of one anywhere, to be looked at: not
    /// one byte of it can change.
    ///
    /// # Errors
    /// [`RegionError::Busy`] when a living data plane uses it: what it holds
    /// changes under the reader. [`RegionError::NotRegion`] when its length is
    /// none that a region has.
    pub fn open_read_only(path: &Path) -> Result<Region, RegionError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        locked(file.try_lock_shared(), path)?;
        let found = file.metadata().map_err(io_error("look at", path))?.len();
        let len = usize::try_from(found).ok();
        let len = len.filter(|&len| len != 0 && len.is_multiple_of(HUGEPAGE_LEN));
        let Some(len) = len else {
            let path = path.to_path_buf();
            return Err(RegionError::NotRegion { path, found });
        };
        let map = MmapOptions::new()
            .len(len)
            .map_raw_read_only(&file)
            .map_err(io_error("map", path))?;
        Ok(Region {
            map,
            file: Some(file),
            backing: Backing::ReadOnly,
            reattached: true,
            read_only: true,
        })
    }

    /// Zeroed private memory of `len` bytes, rounded up to [`HUGEPAGE_LEN`].
    ///
    /// # Panics
    /// When the machine has no such memory.
    pub fn anonymous(len: usize) -> Region {
        let map = MmapMut::map_anon(len.max(1).next_multiple_of(HUGEPAGE_LEN))
            .expect("private memory for a test or a simulation");
        Region {
            map: map.into(),
            file: None,
            backing: Backing::Anonymous,
            reattached: false,
            read_only: false,
        }
    }

    /// First byte; aligned to 4 KiB at least.
    pub fn ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// What backs it, and why nothing better, for an announcement.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Whether the bytes are from an earlier life of the process.
    pub fn reattached(&self) -> bool {
        self.reattached
    }

    /// Whether a store to it would end the process.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether another process that names the file would find it locked.
    pub fn is_locked(&self) -> bool {
        self.file.is_some()
    }

    /// The inner error is a reason to step down, the outer one final.
    fn make_on_hugetlbfs(spec: &RegionSpec) -> Result<Result<Region, StepDown>, RegionError> {
        let Some(directory) = &spec.directories.hugetlbfs else {
            return Ok(Err(StepDown::NotConfigured));
        };
        let facts = match FsFacts::of(directory) {
            Ok(facts) if facts.is(libc::HUGETLBFS_MAGIC) => facts,
            _ => {
                return Ok(Err(StepDown::NotHugetlbfs {
                    directory: directory.clone(),
                }));
            }
        };
        if facts.block_len == 0 || !spec.len.is_multiple_of(facts.block_len) {
            let (directory, page_len) = (directory.clone(), facts.block_len);
            return Ok(Err(StepDown::PageLen {
                directory,
                page_len,
            }));
        }
        let path = directory.join(&spec.name);
        match Region::map_file(&path, spec.len, Backing::Hugetlbfs) {
            Ok(region) => Ok(Ok(region)),
            Err(RegionError::Io { what, source, .. }) => {
                remove_leftover(&path);
                let pages = spec.len / facts.block_len;
                let what = format!("{what} of {pages} hugepages: {source}");
                Ok(Err(StepDown::Failed { path, what }))
            }
            Err(other) => Err(other),
        }
    }

    fn make_on_tmpfs(spec: &RegionSpec, why: StepDown) -> Result<Region, RegionError> {
        let directory = &spec.directories.tmpfs;
        let facts = FsFacts::of(directory).map_err(io_error("look at", directory))?;
        if !facts.is(libc::TMPFS_MAGIC) {
            return Err(RegionError::NotTmpfs {
                directory: directory.clone(),
            });
        }
        // Asked first: populating would take all that is there before it fails.
        if facts.free < spec.len as u64 {
            return Err(RegionError::Full {
                directory: directory.clone(),
                name: spec.name.clone(),
                free: facts.free,
                wanted: spec.len,
            });
        }
        let path = directory.join(&spec.name);
        let region = Region::map_file(&path, spec.len, Backing::Tmpfs(why));
        if matches!(region, Err(RegionError::Io { .. })) {
            remove_leftover(&path);
        }
        region
    }

    fn map_file(path: &Path, len: usize, backing: Backing) -> Result<Region, RegionError> {
        let file = open_locked(path)?;
        let found = file.metadata().map_err(io_error("look at", path))?.len();
        let reattached = found == len as u64;
        if found == 0 {
            // The length changes in one step: a crash here leaves an empty
            // file, which is as good as none, or a zeroed one.
            file.set_len(len as u64)
                .map_err(io_error("set the length of", path))?;
        } else if !reattached {
            return Err(RegionError::LenDiffers {
                path: path.to_path_buf(),
                found,
                wanted: len,
            });
        }
        // On hugetlbfs this reserves the pages, all or none.
        let map = MmapOptions::new()
            .len(len)
            .map_raw(&file)
            .map_err(io_error("map", path))?;
        map.advise(Advice::PopulateWrite)
            .map_err(io_error("populate", path))?;
        Ok(Region {
            map,
            file: Some(file),
            backing,
            reattached,
            read_only: false,
        })
    }
}

impl RegionSpec {
    fn check(&self) -> Result<(), RegionError> {
        if self.len == 0 || !self.len.is_multiple_of(HUGEPAGE_LEN) {
            return Err(RegionError::Len {
                name: self.name.clone(),
                len: self.len,
            });
        }
        if self.name.is_empty() || self.name.starts_with('.') || self.name.contains('/') {
            return Err(RegionError::Name {
                name: self.name.clone(),
            });
        }
        Ok(())
    }
}

/// Opens or makes the file and locks it, sure that it is the one that the
/// path names (it may have been discarded between open and lock).
fn open_locked(path: &Path) -> Result<File, RegionError> {
    for _ in 0..OPEN_TRIES {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(io_error("open", path))?;
        lock(&file, path)?;
        let locked = file.metadata().map_err(io_error("look at", path))?;
        match std::fs::symlink_metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => {
                return Ok(file);
            }
            _ => {}
        }
    }
    Err(RegionError::Busy {
        path: path.to_path_buf(),
    })
}

fn lock(file: &File, path: &Path) -> Result<(), RegionError> {
    locked(file.try_lock(), path)
}

fn locked(outcome: Result<(), TryLockError>, path: &Path) -> Result<(), RegionError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(RegionError::Busy {
            path: path.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(RegionError::Io {
            what: "lock",
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// An empty file is what a crash right after its making leaves: nothing.
fn holds_something(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.len() != 0)
}

/// Only ever a file that this call made and could not back with memory.
fn remove_leftover(path: &Path) {
    // Its absence is what is wanted, so a failure changes nothing.
    let _ = std::fs::remove_file(path);
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegionError {
    let path = path.to_path_buf();
    move |source| RegionError::Io { what, path, source }
}

struct FsFacts {
    kind: i64,
    block_len: usize,
    free: u64,
}

impl FsFacts {
    fn of(directory: &Path) -> io::Result<FsFacts> {
        let path = CString::new(directory.as_os_str().as_bytes())?;
        // SAFETY: all zero bytes are a valid `statfs`, a struct of integers.
        let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: `path` is NUL-terminated and `facts` is writable; both live through the call.
        if unsafe { libc::statfs(path.as_ptr(), &raw mut facts) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let block_len = usize::try_from(facts.f_bsize).unwrap_or(0);
        Ok(FsFacts {
            kind: facts.f_type,
            block_len,
            free: facts.f_bavail.saturating_mul(block_len as u64),
        })
    }

    fn is(&self, magic: i64) -> bool {
        self.kind == magic
    }
}

#[cfg(test)]
mod tests;

//! What came of opening a region: what backs it, or why it cannot be had.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::HUGEPAGE_LEN;

/// What backs a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    Hugetlbfs,
    Tmpfs(StepDown),
    /// Private memory, gone with the process: tests and the simulator.
    Anonymous,
    /// A file that is only looked at.
    ReadOnly,
}

/// Why a region is not on hugetlbfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepDown {
    NotConfigured,
    NotHugetlbfs { directory: PathBuf },
    PageLen { directory: PathBuf, page_len: usize },
    Failed { path: PathBuf, what: String },
    FoundThere { path: PathBuf },
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backing::Hugetlbfs => write!(f, "hugepages"),
            Backing::Tmpfs(why) => write!(f, "tmpfs in 4 KiB pages, slower ({why})"),
            Backing::Anonymous => write!(f, "private memory, lost with the process"),
            Backing::ReadOnly => write!(f, "a file that is only read"),
        }
    }
}

impl fmt::Display for StepDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepDown::NotConfigured => write!(f, "no hugetlbfs directory is configured"),
            StepDown::NotHugetlbfs { directory } => write!(
                f,
                "{} is not a hugetlbfs mount; `mount -t hugetlbfs none {}`",
                directory.display(),
                directory.display()
            ),
            StepDown::PageLen {
                directory,
                page_len,
            } => write!(
                f,
                "the hugepages of {} are {page_len} bytes, which does not divide the region",
                directory.display()
            ),
            StepDown::Failed { path, what } => write!(
                f,
                "{}: {what}; raise vm.nr_hugepages to have hugepages",
                path.display()
            ),
            StepDown::FoundThere { path } => {
                write!(f, "{} stands there from an earlier start", path.display())
            }
        }
    }
}

/// Why a region cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    #[error("region `{name}`: the length {len} is not a multiple of {HUGEPAGE_LEN} above zero")]
    Len { name: String, len: usize },
    #[error("region name `{name}` is not a plain file name")]
    Name { name: String },
    #[error("{} is in use by another data plane; stop it first", path.display())]
    Busy { path: PathBuf },
    #[error(
        "{} has {found} bytes; a region is a multiple of {HUGEPAGE_LEN} above zero: name the file \
         of a log, or a whole copy of one", path.display()
    )]
    NotRegion { path: PathBuf, found: u64 },
    #[error(
        "{} has {found} bytes from an earlier start, {wanted} are configured; configure {found} \
         bytes, or flush what is in it and remove the file", path.display()
    )]
    LenDiffers {
        path: PathBuf,
        found: u64,
        wanted: usize,
    },
    #[error(
        "both {} and {} exist; only one can be the region's memory: remove the one that is not",
        hugetlbfs.display(), tmpfs.display()
    )]
    Two { hugetlbfs: PathBuf, tmpfs: PathBuf },
    #[error(
        "{} is not a tmpfs; a region on a disk would be written back at the disk's speed: \
         configure a tmpfs directory such as /dev/shm", directory.display()
    )]
    NotTmpfs { directory: PathBuf },
    #[error(
        "{} has {free} bytes free, the region `{name}` needs {wanted}; configure less or enlarge it",
        directory.display()
    )]
    Full {
        directory: PathBuf,
        name: String,
        free: u64,
        wanted: usize,
    },
    #[error("{what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

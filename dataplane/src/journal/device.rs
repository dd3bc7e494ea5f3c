//! The file or block device under a journal, opened past the page cache.
//!
//! What always holds: the device is locked against a second data plane; a file
//! has all its blocks written before it is used, so that a later write changes
//! no metadata and cannot meet a full file system; something foreign is never
//! written over.
//!
//! Not for: writes while serving ([`super::thread`]).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::begin::Disk;
use super::core::Op;
use super::error::JournalError;
use super::layout::{BLOCK_LEN, Block, HEADER_BLOCKS};
use super::replay::Blocks;

/// Blocks zeroed at a time while a file is made.
const FILL_BLOCKS: usize = 256;
/// 16 MiB: how much of either end of a block device is to be zero before it is taken.
const ENDS_BLOCKS: u64 = 16 * 256;

/// `linux/magic.h`; libc has it not.
const RAMFS_MAGIC: libc::__fsword_t = 0x8584_58f6;

#[derive(Debug)]
pub struct Device {
    file: File,
    path: PathBuf,
    blocks: u64,
    is_new: bool,
}

impl Device {
    /// Opens the journal at `path`, a file of `blocks` blocks that is made if it
    /// is not there, or a block device of any size.
    ///
    /// # Errors
    /// It cannot be made or opened, someone else has it, or it has another size
    /// and something in it.
    pub fn open(path: &Path, blocks: u64) -> Result<Device, JournalError> {
        let failed = |what: &'static str| {
            let path = path.to_path_buf();
            move |source: io::Error| JournalError::Os { what, path, source }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .map_err(failed("open"))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::Busy {
                path: path.to_path_buf(),
            },
            TryLockError::Error(source) => failed("lock")(source),
        })?;
        let kind = file.metadata().map_err(failed("look at"))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let path = path.to_path_buf();
            return Err(JournalError::Kind { path });
        }
        let len = (&file)
            .seek(SeekFrom::End(0))
            .map_err(failed("find the size of"))?;
        let mut device = Device {
            file,
            path: path.to_path_buf(),
            blocks: len / BLOCK_LEN as u64,
            is_new: kind.is_file() && len == 0,
        };
        if kind.is_file() && len == 0 {
            device.fill(blocks).map_err(failed("fill"))?;
        } else if kind.is_file() && len != blocks * BLOCK_LEN as u64 {
            return device.of_another_size(len, blocks);
        } else if device.is_blank().map_err(failed("read"))? {
            device.check_zero(kind.is_file())?;
            if kind.is_file() {
                // A fill that was interrupted: not all of it has its place on the disk.
                device.fill(blocks).map_err(failed("fill"))?;
            }
        }
        Ok(device)
    }

    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The file was not there before, or empty.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a file in memory: newer kernels let tmpfs take O_DIRECT.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_memory(&self) -> io::Result<bool> {
        // SAFETY: all zero bytes are a valid `statfs`, a struct of integers.
        let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is ours, and `facts` is writable through the call.
        if unsafe { libc::fstatfs(self.fd(), &raw mut facts) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let is_file = self.file.metadata()?.file_type().is_file();
        Ok(is_file && [libc::TMPFS_MAGIC, RAMFS_MAGIC].contains(&facts.f_type))
    }

    /// Writes all the pieces from block `first` on; durable when this returns.
    ///
    /// # Errors
    /// The device's. A write that is cut short is one of a device that has no room
    /// or no will.
    ///
    /// # Safety
    /// Each piece is memory that may be read meanwhile.
    pub unsafe fn write_vectored(&self, pieces: &[libc::iovec], first: u64) -> io::Result<()> {
        let wanted: usize = pieces.iter().map(|piece| piece.iov_len).sum();
        let count = libc::c_int::try_from(pieces.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let at = libc::off_t::try_from(first * BLOCK_LEN as u64)
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        loop {
            // SAFETY: the caller's.
            let written =
                unsafe { libc::pwritev2(self.fd(), pieces.as_ptr(), count, at, libc::RWF_DSYNC) };
            match usize::try_from(written) {
                Ok(written) if written == wanted => return Ok(()),
                Ok(_) => return Err(io::Error::from_raw_os_error(libc::EIO)),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }

    /// Both headers were never written, so that no one has used it.
    fn is_blank(&mut self) -> io::Result<bool> {
        let held = usize::try_from(self.blocks.min(HEADER_BLOCKS)).expect("at most 2");
        let mut headers = [Block::ZERO, Block::ZERO];
        self.read(0, &mut headers[..held])?;
        let zero = |block: &Block| block.0.iter().all(|&byte| byte == 0);
        Ok(headers.iter().all(zero))
    }

    /// No header is there: is anything else? A file is looked at whole, a device
    /// at both ends, where file systems, partitions and arrays have their marks.
    fn check_zero(&mut self, whole: bool) -> Result<(), JournalError> {
        let mut held = vec![Block::ZERO; FILL_BLOCKS];
        let mut at = 0;
        while at < self.blocks {
            let now = (self.blocks - at).min(FILL_BLOCKS as u64);
            let held = &mut held[..usize::try_from(now).expect("at most FILL_BLOCKS")];
            self.read(at, held).map_err(JournalError::Read)?;
            if let Some(byte) = block_bytes(held).iter().position(|&byte| byte != 0) {
                let word = byte / 8 * 8;
                let begins = block_bytes(held)[word..].first_chunk();
                let begins = u64::from_be_bytes(*begins.expect("words fill a block"));
                return Err(JournalError::Foreign { begins });
            }
            at += now;
            if !whole && at >= ENDS_BLOCKS {
                at = at.max(self.blocks.saturating_sub(ENDS_BLOCKS));
            }
        }
        Ok(())
    }

    /// A replay can say more exactly what is wrong with a file that is too short.
    fn of_another_size(mut self, len: u64, wanted: u64) -> Result<Device, JournalError> {
        if self.blocks <= HEADER_BLOCKS {
            // Too short for a journal that was ever used, and not ours to write over.
            let begins = self.first_word(len)?;
            return Err(JournalError::Foreign { begins });
        }
        super::replay::replay(&mut self)?;
        let mib = |blocks: u64| (blocks * BLOCK_LEN as u64) >> 20;
        Err(JournalError::Size {
            path: self.path,
            found_mib: mib(self.blocks),
            wanted_mib: mib(wanted),
        })
    }

    /// The first bytes of a short file, which O_DIRECT reads as far as they go.
    fn first_word(&self, len: u64) -> Result<u64, JournalError> {
        let mut block = [Block::ZERO];
        let read = self.file.read_at(block_bytes_mut(&mut block), 0);
        let read = read
            .map_err(JournalError::Read)?
            .min(usize::try_from(len).unwrap_or(usize::MAX));
        block[0].0[read..].fill(0);
        let word = block[0].0.first_chunk().expect("a block is longer");
        Ok(u64::from_be_bytes(*word))
    }

    fn fill(&mut self, blocks: u64) -> io::Result<()> {
        self.file.set_len(blocks * BLOCK_LEN as u64)?;
        let zeroes = vec![Block::ZERO; FILL_BLOCKS];
        let mut at = 0;
        while at < blocks {
            let now = (blocks - at).min(FILL_BLOCKS as u64);
            let now_len = usize::try_from(now).expect("at most FILL_BLOCKS");
            let bytes = block_bytes(&zeroes[..now_len]);
            self.file.write_all_at(bytes, at * BLOCK_LEN as u64)?;
            at += now;
        }
        self.blocks = blocks;
        self.file.sync_all()?;
        // The name too is to outlive a power loss.
        let parent = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Blocks for Device {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, first: u64, into: &mut [Block]) -> io::Result<()> {
        self.file
            .read_exact_at(block_bytes_mut(into), first * BLOCK_LEN as u64)
    }
}

impl Disk for Device {
    fn write(&mut self, op: Op, staged: &[Block]) -> io::Result<()> {
        let (first, end) = match op {
            Op::Header { block } => (block, block + 1),
            Op::Group { first, end, .. } => (first, end),
        };
        let before_end = usize::try_from(end - first).unwrap_or(usize::MAX);
        let (here, round) = staged.split_at(staged.len().min(before_end));
        let at = |block: u64| block * BLOCK_LEN as u64;
        self.file.write_all_at(block_bytes(here), at(first))?;
        if !round.is_empty() {
            self.file
                .write_all_at(block_bytes(round), at(HEADER_BLOCKS))?;
        }
        self.file.sync_data()
    }
}

/// Blocks as the bytes they are.
pub fn block_bytes(blocks: &[Block]) -> &[u8] {
    // SAFETY: a `Block` is 4096 bytes without padding, and a slice of them is contiguous.
    unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast(), size_of_val(blocks)) }
}

fn block_bytes_mut(blocks: &mut [Block]) -> &mut [u8] {
    // SAFETY: as in `block_bytes`; every byte is a valid one, and the borrow is unique.
    unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast(), size_of_val(blocks)) }
}

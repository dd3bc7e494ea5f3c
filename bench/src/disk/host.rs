//! The kernel's side: one flat directory over FUSE, every file without the page
//! cache, and the clock by which writes settle.
//!
//! What always holds: an O_DSYNC write and an fsync are answered after they have
//! settled, never before; without power nothing is answered until it is back.
//!
//! Not for: what a power loss leaves ([`super::volatile`]).

use crate::volatile::{Disk, Loss, Ticket};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use serde::Serialize;
use sluice_bench::order::record::Entry;
use sluice_bench::random::Random;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const CONTROL: &str = "control";
const CONTROL_INO: u64 = 2;
const FIRST_FILE_INO: u64 = 3;
/// The kernel is to ask each time: lengths change under its feet.
const TTL: Duration = Duration::ZERO;
const BLOCK_LEN: u32 = 4096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Fault {
    #[default]
    None,
    Eio,
    Enospc,
    EioRead,
}

/// What `control` says.
#[derive(Clone, Debug, Default, Serialize)]
struct Status {
    has_power: bool,
    fault: Fault,
    latency_us: u64,
    capacity_mib: u64,
    /// Writes that were to be durable when answered.
    dsync_writes: u64,
    /// Writes that were left to the cache.
    cached_writes: u64,
    syncs: u64,
    refused: u64,
    power_losses: u64,
    /// Of all power losses together.
    writes_kept: u64,
    writes_torn: u64,
    writes_lost: u64,
}

#[derive(Debug)]
enum Ending {
    Write(ReplyWrite, Ticket, u32),
    /// With its number among all of them.
    Sync(ReplyEmpty, Ticket, u64),
}

/// What is answered when it has settled.
#[derive(Debug)]
struct UnderWay {
    due: Instant,
    ino: u64,
    ending: Ending,
}

#[derive(Debug, Default)]
struct State {
    status: Status,
    names: BTreeMap<String, u64>,
    disks: BTreeMap<u64, Disk>,
    next_ino: u64,
    under_way: VecDeque<UnderWay>,
    record: Option<File>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere has been told already; the bytes are what they are.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers what is due, in the order of its coming, for ever.
    fn settle(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let wait = match state.under_way.front() {
                Some(first) if state.status.has_power => first.due.saturating_duration_since(now),
                _ => Duration::MAX,
            };
            if !wait.is_zero() {
                // `Duration::MAX` is beyond the clock of some waits.
                let wait = wait.min(Duration::from_secs(3600));
                let woken = self.changed.wait_timeout(state, wait);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let Some(ended) = state.under_way.pop_front() else {
                continue;
            };
            if let Ending::Sync(_, _, number) = ended.ending {
                state.note(ended.ino, |file| Entry::Synced { file, number });
            }
            let disk = state.disks.get_mut(&ended.ino);
            match ended.ending {
                Ending::Write(reply, ticket, len) => {
                    if let Some(disk) = disk {
                        disk.settle(ticket);
                    }
                    reply.written(len);
                }
                Ending::Sync(reply, newest, _) => {
                    if let Some(disk) = disk {
                        disk.settle_before(newest);
                    }
                    reply.ok();
                }
            }
        }
    }
}

impl State {
    fn attributes(&self, ino: u64) -> Option<FileAttr> {
        let len = match ino {
            1 => 0,
            CONTROL_INO => self.told().len() as u64,
            _ => self.disks.get(&ino)?.len() as u64,
        };
        Some(FileAttr {
            ino: INodeNo(ino),
            size: len,
            blocks: len.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if ino == 1 {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if ino == 1 { 0o755 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_LEN,
            flags: 0,
        })
    }

    /// A record with something missing would show an order that never was: when it cannot
    /// be written, the disk fails.
    fn note(&mut self, ino: u64, entry: impl FnOnce(String) -> Entry) {
        let Some(record) = &mut self.record else {
            return;
        };
        let name = self.names.iter().find(|(_, at)| **at == ino);
        let entry = entry(name.map_or_else(String::new, |(name, _)| name.clone()));
        let mut line = serde_json::to_vec(&entry).expect("plain numbers and a name");
        line.push(b'\n');
        if let Err(error) = record.write_all(&line) {
            let _ = writeln!(io::stderr(), "failing-disk: the record: {error}");
            self.record = None;
            self.status.fault = Fault::Eio;
        }
    }

    fn told(&self) -> String {
        let mut told = serde_json::to_string(&self.status).expect("plain numbers and words");
        told.push('\n');
        told
    }

    fn command(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match word {
            "power-loss" => self.lose_power(rest.parse().ok()?),
            "power-on" => {
                self.status.has_power = true;
                for ended in self.under_way.drain(..) {
                    match ended.ending {
                        Ending::Write(reply, ..) => reply.error(Errno::EIO),
                        Ending::Sync(reply, ..) => reply.error(Errno::EIO),
                    }
                }
            }
            "fault" => {
                self.status.fault = match rest {
                    "none" => Fault::None,
                    "eio" => Fault::Eio,
                    "enospc" => Fault::Enospc,
                    "eio-read" => Fault::EioRead,
                    _ => return None,
                }
            }
            "latency-us" => self.status.latency_us = rest.parse().ok()?,
            "capacity-mib" => self.status.capacity_mib = rest.parse().ok()?,
            _ => return None,
        }
        Some(())
    }

    fn lose_power(&mut self, seed: u64) {
        self.status.has_power = false;
        self.status.power_losses += 1;
        let mut random = Random::new(seed);
        for disk in self.disks.values_mut() {
            let Loss { kept, torn, lost } = disk.lose_power(&mut random);
            self.status.writes_kept += kept;
            self.status.writes_torn += torn;
            self.status.writes_lost += lost;
        }
    }

    /// Why a write up to `end` is not taken.
    fn refusal(&self, end: u64) -> Option<Errno> {
        match self.status.fault {
            Fault::Eio => Some(Errno::EIO),
            Fault::Enospc => Some(Errno::ENOSPC),
            Fault::None | Fault::EioRead => {
                (end > self.status.capacity_mib << 20).then_some(Errno::ENOSPC)
            }
        }
    }

    fn due(&self) -> Instant {
        Instant::now() + Duration::from_micros(self.status.latency_us)
    }
}

#[derive(Debug)]
struct Host(Arc<Shared>);

/// Mounts, and serves until it is unmounted; a record begins anew.
///
/// # Errors
/// It cannot be mounted there, or the record not made.
pub fn serve(
    mountpoint: &Path,
    latency_us: u64,
    capacity_mib: u64,
    record: Option<&Path>,
) -> io::Result<()> {
    let shared = Arc::new(Shared::default());
    let mut state = shared.lock();
    state.next_ino = FIRST_FILE_INO;
    state.record = record.map(File::create).transpose()?;
    state.status = Status {
        has_power: true,
        latency_us,
        capacity_mib,
        ..Status::default()
    };
    drop(state);
    let settling = Arc::clone(&shared);
    std::thread::Builder::new()
        .name("settle".to_owned())
        .spawn(move || settling.settle())?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("failing-disk".to_owned()),
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    fuser::mount(Host(shared), mountpoint, &config)
}

fn usize_of(value: u64) -> usize {
    usize::try_from(value).expect("a 64-bit machine")
}

impl Filesystem for Host {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without these the kernel cuts writes at 128 KiB, or may hold them back.
        let _ = config.add_capabilities(InitFlags::FUSE_BIG_WRITES);
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.0.lock();
        let ino = match name.to_str() {
            Some(CONTROL) => Some(CONTROL_INO),
            Some(name) => state.names.get(name).copied(),
            None => None,
        };
        match ino.and_then(|ino| state.attributes(ino)) {
            Some(attributes) if parent == INodeNo::ROOT => {
                reply.entry(&TTL, &attributes, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.lock().attributes(ino.0) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.0.lock();
        // `control` is opened with O_TRUNC by a shell's redirection.
        if let (Some(size), true) = (size, ino.0 >= FIRST_FILE_INO) {
            if let Some(errno) = state.refusal(size) {
                state.status.refused += 1;
                return reply.error(errno);
            }
            if let Some(disk) = state.disks.get_mut(&ino.0) {
                disk.resize(usize_of(size));
            }
        }
        match state.attributes(ino.0) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let Some(name) = name.to_str().filter(|_| parent == INodeNo::ROOT) else {
            return reply.error(Errno::EINVAL);
        };
        let mut state = self.0.lock();
        let ino = state.next_ino;
        state.next_ino += 1;
        state.names.insert(name.to_owned(), ino);
        state.disks.insert(ino, Disk::default());
        let attributes = state.attributes(ino).expect("just made");
        let flags = FopenFlags::FOPEN_DIRECT_IO;
        reply.created(&TTL, &attributes, Generation(0), FileHandle(0), flags);
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.0.lock();
        match name.to_str().and_then(|name| state.names.remove(name)) {
            Some(ino) => {
                state.disks.remove(&ino);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.0.lock();
        if ino.0 == CONTROL_INO {
            let told = state.told();
            let from = usize_of(offset).min(told.len());
            return reply.data(&told.as_bytes()[from..]);
        }
        match state.disks.get(&ino.0) {
            _ if state.status.fault == Fault::EioRead => reply.error(Errno::EIO),
            Some(disk) => reply.data(disk.read(usize_of(offset), size as usize)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let len = u32::try_from(data.len()).expect("within max_write");
        let mut state = self.0.lock();
        if ino.0 == CONTROL_INO {
            let known = std::str::from_utf8(data)
                .ok()
                .and_then(|line| state.command(line));
            drop(state);
            self.0.changed.notify_all();
            return match known {
                Some(()) => reply.written(len),
                None => reply.error(Errno::EINVAL),
            };
        }
        if let Some(errno) = state.refusal(offset + u64::from(len)) {
            state.status.refused += 1;
            return reply.error(errno);
        }
        let (due, has_power) = (state.due(), state.status.has_power);
        let Some(disk) = state.disks.get_mut(&ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        if !has_power {
            // Never reaches the media.
            let (ino, ending) = (ino.0, Ending::Write(reply, disk.newest(), len));
            state.under_way.push_back(UnderWay { due, ino, ending });
            return;
        }
        let ticket = disk.write(usize_of(offset), data);
        state.note(ino.0, |file| Entry::write(&file, offset, data));
        // Linux hands the flags of the write over, RWF_DSYNC as O_DSYNC.
        if flags.0 & (libc::O_DSYNC | libc::O_SYNC) == 0 {
            state.status.cached_writes += 1;
            return reply.written(len);
        }
        state.status.dsync_writes += 1;
        let (ino, ending) = (ino.0, Ending::Write(reply, ticket, len));
        state.under_way.push_back(UnderWay { due, ino, ending });
        drop(state);
        self.0.changed.notify_all();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.0.lock();
        if let Some(errno) = state.refusal(0) {
            state.status.refused += 1;
            return reply.error(errno);
        }
        let due = state.due();
        let Some(newest) = state.disks.get(&ino.0).map(Disk::newest) else {
            return reply.ok();
        };
        state.status.syncs += 1;
        let number = state.status.syncs;
        state.note(ino.0, |file| Entry::SyncAsked { file, number });
        let (ino, ending) = (ino.0, Ending::Sync(reply, newest, number));
        state.under_way.push_back(UnderWay { due, ino, ending });
        drop(state);
        self.0.changed.notify_all();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.0.lock();
        let files = state.names.iter().map(|(name, ino)| (*ino, name.as_str()));
        let all = [(1, "."), (1, ".."), (CONTROL_INO, CONTROL)]
            .into_iter()
            .chain(files);
        for (next, (ino, name)) in (1_u64..).zip(all).skip(usize_of(offset)) {
            let kind = if ino == 1 {
                FileType::Directory
            } else {
                FileType::RegularFile
            };
            if reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

//! A plain writer with group commit: a thread that writes what waits, all
//! together, durably, and then says how many it has written. It goes before what
//! else runs on its core, as the journal's thread does. What its callers
//! have handed over is copied, as it would be anywhere; there is no name,
//! checksum or order in what it writes, so that nothing plain is faster.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sluice_dataplane::journal::GROUP_BLOCKS_MAX;
use sluice_dataplane::journal::device::block_bytes;
use sluice_dataplane::journal::layout::Block;

use super::WRITE_LEN;
use super::relay::Relay;

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    some: Condvar,
    /// Of all times.
    durable: AtomicUsize,
    groups: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    writes: Vec<Block>,
    /// Writes to be made one after the other, each timed here.
    singles: usize,
    times: Vec<Duration>,
    stop: bool,
}

#[derive(Debug)]
pub struct Plain {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A file that is written round and round.
#[derive(Debug)]
struct Places {
    file: File,
    len: u64,
    at: u64,
}

impl Places {
    fn write(&mut self, blocks: &[Block]) {
        let bytes = block_bytes(blocks);
        if self.at + bytes.len() as u64 > self.len {
            self.at = 0;
        }
        self.file
            .write_all_at(bytes, self.at)
            .expect("a working disk");
        self.at += bytes.len() as u64;
    }
}

impl Plain {
    /// Over a file that is there, whose bytes nobody needs; the thread keeps off
    /// that core.
    pub fn open(path: &Path, off: Option<usize>) -> io::Result<Plain> {
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
            .open(path)?;
        let len = file.metadata()?.len();
        let places = Places { file, len, at: 0 };
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            some: Condvar::new(),
            durable: AtomicUsize::new(0),
            groups: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("plain".to_owned())
            .spawn(move || {
                if let Some(off) = off {
                    super::set_cores(|core| core != off);
                }
                sluice_dataplane::journal::thread::go_first();
                run(&theirs, places);
            })?;
        Ok(Plain {
            shared,
            thread: Some(thread),
        })
    }

    pub fn groups(&self) -> u64 {
        self.shared.groups.load(Ordering::Acquire)
    }

    /// Writes `count` blocks, `depth` waiting at a time: for each that is durable
    /// its writer has the next.
    pub fn write(&mut self, count: usize, depth: usize) {
        let begun = self.shared.durable.load(Ordering::Acquire);
        let block = Block([0x5A; WRITE_LEN]);
        let mut made = 0;
        loop {
            // Acquire pairs with the thread's Release: it has written so many.
            let durable = self.shared.durable.load(Ordering::Acquire) - begun;
            if durable == count {
                return;
            }
            let more = (durable + depth).min(count) - made;
            if more > 0 {
                let mut waiting = lock(&self.shared);
                waiting
                    .writes
                    .extend(std::iter::repeat_n(&block, more).cloned());
                drop(waiting);
                self.shared.some.notify_one();
                made += more;
            }
            // The relay's worker polls, too.
            std::hint::spin_loop();
        }
    }

    /// Writes `count` blocks as a relay whose journal is this writer would: a computer
    /// has `depth` under way at a time, `relay` takes each with contract memory, and it
    /// counts as answered, so that the next one comes, when it is durable here.
    pub fn write_behind(&mut self, relay: &mut Relay, count: usize, depth: usize) {
        let begun = self.shared.durable.load(Ordering::Acquire);
        let block = Block([0x5A; WRITE_LEN]);
        let mut sender = relay.sender();
        loop {
            // Acquire pairs with the thread's Release: it has written so many.
            let durable = self.shared.durable.load(Ordering::Acquire) - begun;
            if durable == count {
                return;
            }
            let taken = sender.turn(count.min(durable + depth));
            if taken > 0 {
                let mut waiting = lock(&self.shared);
                waiting
                    .writes
                    .extend(std::iter::repeat_n(&block, taken).cloned());
                drop(waiting);
                self.shared.some.notify_one();
            }
        }
    }

    /// One bare write after the other, each durable, in the thread; adds the time of
    /// each.
    pub fn write_singly(&mut self, count: usize, times: &mut Vec<Duration>) {
        lock(&self.shared).singles = count;
        self.shared.some.notify_one();
        loop {
            let mut waiting = lock(&self.shared);
            if waiting.times.len() == count {
                times.append(&mut waiting.times);
                return;
            }
            drop(waiting);
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        lock(&self.shared).stop = true;
        self.shared.some.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has been told already.
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Waiting> {
    shared
        .waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

fn run(shared: &Shared, mut places: Places) {
    // As many blocks as a group of the journal has.
    let group_max = usize::try_from(GROUP_BLOCKS_MAX).expect("some thousand");
    let mut group = Vec::with_capacity(group_max);
    loop {
        group.clear();
        let mut waiting = lock(shared);
        while waiting.writes.is_empty() && waiting.singles == 0 && !waiting.stop {
            waiting = shared
                .some
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.stop {
            return;
        }
        let singles = std::mem::take(&mut waiting.singles);
        if singles > 0 {
            drop(waiting);
            let block = [Block([0x5A; WRITE_LEN])];
            let times = (0..singles).map(|_| {
                let begun = Instant::now();
                places.write(&block);
                begun.elapsed()
            });
            let times = times.collect();
            lock(shared).times = times;
            continue;
        }
        let taken = waiting.writes.len().min(group_max);
        group.extend(waiting.writes.drain(..taken));
        drop(waiting);
        places.write(&group);
        shared.groups.fetch_add(1, Ordering::Release);
        shared.durable.fetch_add(taken, Ordering::Release);
    }
}

//! The thread between the worker's rings and the device.
//!
//! What always holds: one write is under way at a time, from the log's own
//! pages (`RWF_DSYNC`, O_DIRECT, no copy); what arrives meanwhile is the next
//! group, and what is about to arrive may be ([`super::gather`]). The worker never
//! waits: it pushes, and looks at two counts. A fault
//! of the device ends writing, is told by its error number, and leaves the
//! journal ready to be voided.
//!
//! Not for: deciding anything ([`super::core`]).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use super::core::{Core, Op, Progress, Request, Span, Waiting};
use super::device::Device;
use super::gather::Gather;
use super::layout::{BLOCK_LEN, Block, HEAD_WRITES_MAX, HEADER_BLOCKS, Identity};

/// Of nothing to write, after which the last group is made to count for certain: two
/// small writes, often enough that little is ever in doubt, seldom enough to cost nothing.
const SEAL_AFTER: Duration = Duration::from_secs(1);

/// Before it sleeps the thread looks for more itself: what a computer writes next, one
/// at a time, comes within this, and being woken takes as long again.
const AWAKE: Duration = Duration::from_micros(50);

/// A head, as many payloads as it has room to name, and one cut in two.
const PIECES_MAX: usize = 1 + HEAD_WRITES_MAX + 1;

/// What the two threads share.
#[derive(Debug)]
struct Shared {
    /// From the worker; one producer, one consumer.
    requests: ArrayQueue<Request>,
    /// To the worker: records to be written again.
    wanted: ArrayQueue<(u32, Identity)>,
    durable: CachePadded<AtomicU64>,
    again: AtomicU64,
    used_blocks: AtomicU64,
    groups: AtomicU64,
    /// The device's error number, 0 while there is none.
    fault: AtomicI32,
    is_void: AtomicBool,
    is_full: AtomicBool,
    asleep: AtomicBool,
    stop: AtomicBool,
    to_thread: Event,
    to_worker: Event,
}

/// The worker's end.
#[derive(Debug)]
pub struct JournalPort {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Where the log's bytes stand, for as long as the thread runs.
#[derive(Clone, Copy, Debug)]
pub struct LogBase {
    pub base: *const u8,
    pub len: usize,
}

// SAFETY: a plain address; what may be read there is `JournalPort::start`'s contract.
unsafe impl Send for LogBase {}

impl JournalPort {
    /// Runs `core` over `device`. `requests` is how many may wait. The thread
    /// keeps off the worker's core, which that spins on.
    ///
    /// # Errors
    /// No thread can be made, or no file descriptors are left.
    ///
    /// # Safety
    /// `log` stays mapped until this is dropped, and the bytes of a
    /// [`Request::Write`] do not change until it is durable.
    pub unsafe fn start(
        core: Core,
        device: Device,
        log: LogBase,
        requests: usize,
        worker_cpu: Option<usize>,
    ) -> io::Result<JournalPort> {
        let shared = Arc::new(Shared {
            requests: ArrayQueue::new(requests),
            wanted: ArrayQueue::new(requests),
            durable: CachePadded::new(AtomicU64::new(core.progress().durable)),
            again: AtomicU64::new(core.progress().again),
            used_blocks: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            fault: AtomicI32::new(0),
            is_void: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            to_thread: Event::new()?,
            to_worker: Event::new()?,
        });
        let mut driver = Driver {
            published: core.progress(),
            core,
            device,
            log,
            shared: Arc::clone(&shared),
            head: Box::new(Block::ZERO),
            spans: Vec::new(),
            gather: Gather::default(),
            begun: Instant::now(),
            has_own_core: false,
        };
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                driver.has_own_core = worker_cpu.is_some_and(keep_off);
                go_first();
                driver.run();
                driver.end();
            })?;
        Ok(JournalPort {
            shared,
            thread: Some(thread),
        })
    }

    /// Hands a request over; it comes back when no more may wait.
    ///
    /// # Errors
    /// The request itself: the ring is full.
    pub fn push(&self, request: Request) -> Result<(), Request> {
        self.shared.requests.push(request)
    }

    /// Wakes the thread if it sleeps; once after a burst of pushes.
    pub fn kick(&self) {
        // SeqCst pairs with the thread's store of `asleep` and its look at the ring
        // behind it: one of the two sees what the other did.
        if self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.shared.to_thread.signal();
        }
    }

    /// A record that is to be written again, if the log still has it.
    pub fn wanted(&self) -> Option<(u32, Identity)> {
        self.shared.wanted.pop()
    }

    pub fn progress(&self) -> Progress {
        let shared = &*self.shared;
        // Acquire pairs with the Release in `publish`: the bytes are durable.
        Progress {
            durable: shared.durable.load(Ordering::Acquire),
            again: shared.again.load(Ordering::Acquire),
            used_blocks: shared.used_blocks.load(Ordering::Relaxed),
            groups: shared.groups.load(Ordering::Relaxed),
            is_void: shared.is_void.load(Ordering::Acquire),
            is_full: shared.is_full.load(Ordering::Relaxed),
        }
    }

    /// The fault that ended writing.
    pub fn fault(&self) -> Option<io::Error> {
        // Acquire pairs with the Release where it is stored.
        let number = self.shared.fault.load(Ordering::Acquire);
        (number != 0).then(|| io::Error::from_raw_os_error(number))
    }

    /// Readable when something has become durable since [`JournalPort::heard`].
    pub fn fd(&self) -> RawFd {
        self.shared.to_worker.fd.as_raw_fd()
    }

    pub fn heard(&self) {
        self.shared.to_worker.clear();
    }
}

impl Drop for JournalPort {
    /// Waits for the write under way: the kernel reads the log's pages until then.
    fn drop(&mut self) {
        // SeqCst as in `kick`.
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.to_thread.signal();
        if let Some(thread) = self.thread.take() {
            // A panic there has been told already.
            let _ = thread.join();
        }
    }
}

struct Driver {
    core: Core,
    device: Device,
    log: LogBase,
    shared: Arc<Shared>,
    head: Box<Block>,
    spans: Vec<Span>,
    gather: Gather,
    /// Where its times begin.
    begun: Instant,
    /// Looking for more takes nothing from the worker.
    has_own_core: bool,
    /// What the worker was last told.
    published: Progress,
}

impl Driver {
    fn run(&mut self) {
        let mut pieces = Vec::with_capacity(PIECES_MAX);
        loop {
            self.take_requests();
            let waiting = self.core.waiting();
            if !self.core.is_idle()
                && let Some(more) = self.gather.wait(self.begun.elapsed(), waiting)
            {
                if !self.sleep(Some(more)) {
                    return;
                }
                continue;
            }
            if let Some(op) = self.core.next(&mut self.head, &mut self.spans) {
                let left = self.core.waiting();
                let group = Waiting {
                    writes: waiting.writes - left.writes,
                    blocks: waiting.blocks - left.blocks,
                };
                let begun = self.begun.elapsed();
                self.carry_out(op, &mut pieces);
                if group.writes > 0 {
                    self.take_requests();
                    let (now, waiting) = (self.begun.elapsed(), self.core.waiting());
                    self.gather.ended(now, group, waiting, now - begun);
                }
                continue;
            }
            self.publish();
            if !self.sleep(self.core.can_be_sealed().then_some(SEAL_AFTER)) {
                return;
            }
            if self.shared.requests.is_empty() {
                self.core.seal();
            }
        }
    }

    /// Says on the device that all is there, if it is: what still waits was given its time.
    fn end(&mut self) {
        self.take_requests();
        if !self.core.can_be_sealed() {
            return;
        }
        self.core.seal();
        let mut pieces = Vec::new();
        while let Some(op) = self.core.next(&mut self.head, &mut self.spans) {
            self.carry_out(op, &mut pieces);
        }
    }

    /// Writes, and tells the worker.
    fn carry_out(&mut self, op: Op, pieces: &mut Vec<libc::iovec>) {
        let written = self.write(op, pieces);
        if let Err(error) = &written {
            log::error!("journal {:?}: {error}", self.device.path());
            let number = error.raw_os_error().unwrap_or(libc::EIO);
            // Release pairs with the Acquire in `fault`.
            self.shared.fault.store(number, Ordering::Release);
        }
        self.core.done(written.is_ok());
        self.publish();
    }

    fn take_requests(&mut self) {
        while let Some(request) = self.shared.requests.pop() {
            self.core.request(request);
        }
    }

    fn publish(&mut self) {
        let mut wants = false;
        while !self.shared.wanted.is_full()
            && let Some(wanted) = self.core.wanted()
        {
            // One producer: the room that was seen is still there.
            let _ = self.shared.wanted.push(wanted);
            wants = true;
        }
        let (progress, shared) = (self.core.progress(), &*self.shared);
        let is_known = progress == std::mem::replace(&mut self.published, progress);
        if is_known && !wants && !self.core.has_failed() {
            return;
        }
        shared.durable.store(progress.durable, Ordering::Release);
        shared.again.store(progress.again, Ordering::Release);
        shared
            .used_blocks
            .store(progress.used_blocks, Ordering::Relaxed);
        shared.groups.store(progress.groups, Ordering::Relaxed);
        shared.is_void.store(progress.is_void, Ordering::Release);
        shared.is_full.store(progress.is_full, Ordering::Relaxed);
        shared.to_worker.signal();
    }

    /// Until there is something to do, or so much time is over; `false` when it is to end.
    fn sleep(&self, time_max: Option<Duration>) -> bool {
        let shared = &*self.shared;
        let until = Instant::now() + time_max.map_or(AWAKE, |time_max| time_max.min(AWAKE));
        while self.has_own_core && shared.requests.is_empty() && Instant::now() < until {
            std::hint::spin_loop();
        }
        // SeqCst pairs with `kick` and `drop`: either this sees what they left, or they
        // see that it sleeps.
        shared.asleep.store(true, Ordering::SeqCst);
        if shared.requests.is_empty() && !shared.stop.load(Ordering::SeqCst) {
            shared.to_thread.wait(time_max);
        }
        shared.asleep.store(false, Ordering::SeqCst);
        !shared.stop.load(Ordering::SeqCst)
    }

    fn write(&mut self, op: Op, pieces: &mut Vec<libc::iovec>) -> io::Result<()> {
        pieces.clear();
        pieces.push(libc::iovec {
            iov_base: self.head.0.as_mut_ptr().cast(),
            iov_len: BLOCK_LEN,
        });
        for span in &self.spans {
            let (offset, len) = (usize_of(span.offset), usize_of(span.blocks) * BLOCK_LEN);
            assert!(
                offset
                    .checked_add(len)
                    .is_some_and(|end| end <= self.log.len),
                "a span inside the log"
            );
            let base = self.log.base.wrapping_add(offset).cast_mut();
            // Writes that came one behind the other mostly stand so in the log.
            match pieces.last_mut() {
                Some(last) if ends_at(last, base) => last.iov_len += len,
                _ => pieces.push(libc::iovec {
                    iov_base: base.cast(),
                    iov_len: len,
                }),
            }
        }
        let (first, round) = match op {
            Op::Header { block } => (block, pieces.len()),
            Op::Group { first, end, .. } => {
                (first, split(pieces, usize_of(end - first) * BLOCK_LEN))
            }
        };
        let (here, rest) = pieces.split_at(round);
        for (pieces, block) in [(here, first), (rest, HEADER_BLOCKS)] {
            if !pieces.is_empty() {
                // SAFETY: the head is ours, and the log's pages stay as they are until the
                // worker hears that this is durable, or dropped the port, which waits.
                unsafe { self.device.write_vectored(pieces, block) }?;
            }
        }
        Ok(())
    }
}

fn ends_at(piece: &libc::iovec, base: *mut u8) -> bool {
    piece.iov_base.cast::<u8>().wrapping_add(piece.iov_len) == base
}

/// Cuts the list at `len` bytes; the index of the first piece behind.
fn split(pieces: &mut Vec<libc::iovec>, len: usize) -> usize {
    let mut before = 0;
    for index in 0..pieces.len() {
        let piece = pieces[index];
        if before + piece.iov_len > len {
            let kept = len - before;
            if kept == 0 {
                return index;
            }
            pieces[index].iov_len = kept;
            pieces.insert(
                index + 1,
                libc::iovec {
                    iov_base: piece.iov_base.cast::<u8>().wrapping_add(kept).cast(),
                    iov_len: piece.iov_len - kept,
                },
            );
            return index + 1;
        }
        before += piece.iov_len;
    }
    pieces.len()
}

/// Every answer with contract `journal` waits for this thread, which itself only
/// waits for the device: it goes before what else may run on its core. Where the
/// process may not ask for that, it takes its turn.
pub fn go_first() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the calling thread's own policy, with a priority that every kernel has.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority);
    }
}

/// The thread has inherited the worker's one core: from here on it may run on
/// every other that the process may use. Where there is no other, it stays; whether
/// it has one.
fn keep_off(cpu: usize) -> bool {
    // SAFETY: a cpu_set_t of zeroes is an empty set, and CPU_SET is within CPU_SETSIZE.
    // A set without a usable core is refused, which changes nothing.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for other in (0..libc::CPU_SETSIZE as usize).filter(|&other| other != cpu) {
            libc::CPU_SET(other, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) == 0
    }
}

fn usize_of(value: u64) -> usize {
    usize::try_from(value).expect("a 64-bit machine")
}

/// An eventfd.
#[derive(Debug)]
struct Event {
    fd: OwnedFd,
}

impl Event {
    fn new() -> io::Result<Event> {
        // SAFETY: makes a descriptor, or fails.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and no one else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Event { fd })
    }

    fn signal(&self) {
        let one = 1_u64;
        // SAFETY: eight bytes are read. It fails only when the count is at its top: signalled.
        unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    fn clear(&self) {
        let mut count = 0_u64;
        // SAFETY: eight bytes are written. It fails only when there is nothing to clear.
        unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    /// Until it is signalled, or so much time is over.
    fn wait(&self, time_max: Option<Duration>) {
        let time_max = time_max.map(|time| libc::timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let time_max = time_max
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        let mut poll = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry and one time, ours; no time is for ever. A signal ends it
        // early, and the caller looks again.
        unsafe { libc::ppoll(&raw mut poll, 1, time_max, std::ptr::null()) };
        self.clear();
    }
}

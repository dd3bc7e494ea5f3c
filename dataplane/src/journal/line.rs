//! The worker's line to the journal: the thread's rings, or memory that a
//! simulator reads and fills.
//!
//! What always holds: the worker sees no difference; what it pushes is taken in
//! order, and what it hears of has happened.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use super::core::{Progress, Request};
use super::layout::Identity;
use super::thread::JournalPort;

/// The worker's end.
#[derive(Debug)]
pub enum Line {
    Thread(JournalPort),
    Memory(MemoryLine),
}

/// For whoever plays the journal in the worker's own thread.
#[derive(Debug, Default)]
pub struct MemoryLine {
    /// What the worker has asked for and nobody has taken yet.
    pub requests: VecDeque<Request>,
    /// Records that the worker is to write again.
    pub wanted: VecDeque<(u32, Identity)>,
    pub progress: Progress,
    /// The device's error number.
    pub fault: Option<i32>,
}

impl Line {
    /// Hands a request over.
    ///
    /// # Errors
    /// The request itself: no more may wait.
    pub fn push(&mut self, request: Request) -> Result<(), Request> {
        match self {
            Self::Thread(port) => port.push(request),
            Self::Memory(line) => {
                line.requests.push_back(request);
                Ok(())
            }
        }
    }

    /// Once after a burst of pushes.
    pub fn kick(&self) {
        if let Self::Thread(port) = self {
            port.kick();
        }
    }

    pub fn wanted(&mut self) -> Option<(u32, Identity)> {
        match self {
            Self::Thread(port) => port.wanted(),
            Self::Memory(line) => line.wanted.pop_front(),
        }
    }

    pub fn progress(&self) -> Progress {
        match self {
            Self::Thread(port) => port.progress(),
            Self::Memory(line) => line.progress,
        }
    }

    /// The fault that ended writing.
    pub fn fault(&self) -> Option<io::Error> {
        match self {
            Self::Thread(port) => port.fault(),
            Self::Memory(line) => line.fault.map(io::Error::from_raw_os_error),
        }
    }

    /// Readable when there is progress; see [`Line::heard`].
    pub fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Thread(port) => Some(port.fd()),
            Self::Memory(_) => None,
        }
    }

    /// The worker is awake: what comes later is to wake it again.
    pub fn heard(&self) {
        if let Self::Thread(port) = self {
            port.heard();
        }
    }
}

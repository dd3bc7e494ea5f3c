//! SIGTERM and SIGINT taken by waiting for them, not by a handler.

use std::io;
use std::time::Duration;

/// The two signals, blocked in the calling thread and in all it makes.
#[derive(Debug)]
pub(super) struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    pub fn block() -> io::Result<Self> {
        // SAFETY: a sigset_t is plain memory, for which all zeros is a value.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is valid for each of the calls; a null old set is allowed.
        let answer = unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
        };
        if answer != 0 {
            return Err(io::Error::from_raw_os_error(answer));
        }
        Ok(Self { set })
    }

    /// Waits at most this long; the signal's name if one came.
    pub fn wait(&self, bound: Duration) -> io::Result<Option<&'static str>> {
        let bound = libc::timespec {
            tv_sec: libc::time_t::try_from(bound.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(bound.subsec_nanos().cast_signed()),
        };
        // SAFETY: set and bound are valid for the call; no siginfo is asked for.
        match unsafe {
            libc::sigtimedwait(&raw const self.set, std::ptr::null_mut(), &raw const bound)
        } {
            libc::SIGTERM => Ok(Some("SIGTERM")),
            libc::SIGINT => Ok(Some("SIGINT")),
            _ => match io::Error::last_os_error() {
                error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {
                    Ok(None)
                }
                error => Err(error),
            },
        }
    }
}

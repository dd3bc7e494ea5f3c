//! What a worker does between two steps: spin, then sleep until a frame or the
//! deadline.
//!
//! Lives outside the step, so the step stays a function of its arguments. It
//! is the only place of the worker's loop that may sleep. Time comes from the
//! caller, who reads the clock again after [`Idle::wait`].
//!
//! A frame that arrives between the last receive and the sleep is not missed:
//! `ppoll` looks at the queues before it sleeps.

use std::os::fd::RawFd;
use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_proto::Time;

/// Most file descriptors to wait on: 8 ports and the wakers of control and journal.
pub const IDLE_FDS: usize = 16;

/// When to spin and when to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdlePolicy {
    /// Spin this long after the last work before sleeping.
    pub spin: Duration,
    /// Never sleep: a core of its own is given to the worker.
    pub busy: bool,
    /// Longest sleep, so that a heartbeat is written and rings without a file descriptor are looked at.
    pub sleep_max: Duration,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        Self {
            spin: Duration::from_micros(50),
            busy: false,
            sleep_max: Duration::from_millis(10),
        }
    }
}

/// Why [`Idle::wait`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// There was work, or the policy is still spinning: it did not sleep.
    Spin,
    /// A file descriptor has something (or a signal came).
    Ready,
    /// The deadline, or the longest sleep, has passed.
    Deadline,
}

/// A file descriptor to wait on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub fd: RawFd,
    /// Wake also when it takes frames again; set while frames wait for it.
    pub writable: bool,
}

impl Source {
    #[must_use]
    pub const fn readable(fd: RawFd) -> Self {
        Self {
            fd,
            writable: false,
        }
    }
}

/// The idle policy of one worker.
#[derive(Debug)]
pub struct Idle {
    policy: IdlePolicy,
    last_work: Time,
    sleeps: u64,
}

impl Idle {
    #[must_use]
    pub const fn new(policy: IdlePolicy) -> Self {
        Self {
            policy,
            last_work: Time::ZERO,
            sleeps: 0,
        }
    }

    /// Times it slept.
    #[must_use]
    pub const fn sleeps(&self) -> u64 {
        self.sleeps
    }

    /// Returns at once if there was work or the policy says to spin; otherwise
    /// sleeps until one of `sources` has something, or `deadline`, or the
    /// policy's longest sleep. `did_work` must be true while a port still holds
    /// frames to be kicked out ([`Port::tx_pending`](super::Port::tx_pending)).
    ///
    /// # Panics
    /// More than [`IDLE_FDS`] sources.
    pub fn wait(&mut self, sources: &[Source], now: Time, deadline: Time, did_work: bool) -> Wake {
        assert!(
            sources.len() <= IDLE_FDS,
            "{} sources, room for {IDLE_FDS}",
            sources.len()
        );
        if did_work {
            self.last_work = now;
            return Wake::Spin;
        }
        if self.policy.busy || now.since(self.last_work) < self.policy.spin {
            std::hint::spin_loop();
            return Wake::Spin;
        }
        let sleep = deadline.since(now).min(self.policy.sleep_max);
        if sleep.is_zero() {
            return Wake::Deadline;
        }
        self.sleeps += 1;
        let mut polled: ArrayVec<libc::pollfd, IDLE_FDS> = sources
            .iter()
            .map(|source| libc::pollfd {
                fd: source.fd,
                events: if source.writable {
                    libc::POLLIN | libc::POLLOUT
                } else {
                    libc::POLLIN
                },
                revents: 0,
            })
            .collect();
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(sleep.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(sleep.subsec_nanos()),
        };
        let count = libc::nfds_t::try_from(polled.len()).expect("at most IDLE_FDS");
        // SAFETY: `polled` has `count` entries and `timeout` is a valid time; both outlive the call.
        let ready = unsafe {
            libc::ppoll(
                polled.as_mut_ptr(),
                count,
                &raw const timeout,
                std::ptr::null(),
            )
        };
        // An error is a signal: the caller looks at everything, which is always right.
        if ready == 0 {
            Wake::Deadline
        } else {
            Wake::Ready
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    fn idle() -> Idle {
        Idle::new(IdlePolicy {
            spin: Duration::from_micros(20),
            busy: false,
            sleep_max: Duration::from_secs(5),
        })
    }

    #[test]
    fn spins_after_work_then_sleeps_until_the_deadline() {
        let mut idle = idle();
        let start = Time::from_millis(7);
        assert_eq!(idle.wait(&[], start, Time::FAR, true), Wake::Spin);
        assert_eq!(
            idle.wait(&[], start + Duration::from_micros(19), Time::FAR, false),
            Wake::Spin
        );
        let (began, now) = (Instant::now(), start + Duration::from_micros(20));
        assert_eq!(
            idle.wait(&[], now, now + Duration::from_millis(3), false),
            Wake::Deadline
        );
        assert!(began.elapsed() >= Duration::from_millis(3));
        assert_eq!(
            idle.wait(&[], now, now, false),
            Wake::Deadline,
            "a deadline now does not sleep"
        );
        assert_eq!(idle.sleeps(), 1);
    }

    #[test]
    fn a_frame_before_the_sleep_is_not_missed() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        let source = Source::readable(ours.as_raw_fd());
        assert_eq!(
            idle().wait(&[source], Time::from_millis(1), Time::FAR, false),
            Wake::Ready
        );
        let source = Source {
            fd: theirs.as_raw_fd(),
            writable: true,
        };
        assert_eq!(
            idle().wait(&[source], Time::from_millis(1), Time::FAR, false),
            Wake::Ready
        );
    }

    #[test]
    fn busy_polling_never_sleeps() {
        let mut idle = Idle::new(IdlePolicy {
            busy: true,
            ..IdlePolicy::default()
        });
        assert_eq!(
            idle.wait(&[], Time::from_millis(999), Time::FAR, false),
            Wake::Spin
        );
        assert_eq!(idle.sleeps(), 0);
    }
}

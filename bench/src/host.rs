//! What a bench asks of its host besides packets: the clock, waiting, the
//! right to run when it must, and when to stop.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_: libc::c_int) {
    // Relaxed: nothing else comes with it.
    STOP.store(true, Ordering::Relaxed);
}

/// What is set when one of these signals comes, which then does not end the process.
pub fn stop_on(signals: &[libc::c_int]) -> &'static AtomicBool {
    let handler: extern "C" fn(libc::c_int) = interrupted;
    for &signal in signals {
        // SAFETY: the handler does one atomic store, which is safe at any time.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
    &STOP
}

/// Waits until one of `fds` is readable or `timeout` has passed; which are
/// readable. A negative descriptor is never readable.
pub fn wait_readable(fds: &[RawFd], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    });
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `polled` has as many entries as said; `timeout` is null or a
    // timespec that outlives the call.
    let ready = unsafe {
        libc::ppoll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            timeout,
            std::ptr::null(),
        )
    };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(polled
        .iter()
        .map(|entry| ready > 0 && entry.revents != 0)
        .collect())
}

/// A connection from an address of one's choice, whose socket keeps about `receive_bytes`
/// of what nobody reads; it must be there within `patience`.
///
/// # Errors
/// The address is not this host's, or nobody answers at the other.
pub fn connect_from(
    from: Ipv4Addr,
    to: SocketAddrV4,
    receive_bytes: u32,
    patience: Duration,
) -> io::Result<TcpStream> {
    let checked = |result: libc::c_int| match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    let fd = checked(fd)?;
    // SAFETY: just opened and owned by nobody else.
    let socket = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let option = |name: libc::c_int, value: *const libc::c_void, length: usize| {
        let length = libc::socklen_t::try_from(length).expect("a few bytes");
        // SAFETY: the callers give a live value and its length.
        checked(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, value, length) })
    };
    let size = receive_bytes.cast_signed();
    option(
        libc::SO_RCVBUF,
        (&raw const size).cast(),
        size_of_val(&size),
    )?;
    // It bounds a connect that blocks, too.
    let limit = libc::timeval {
        tv_sec: libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: libc::suseconds_t::from(patience.subsec_micros()),
    };
    option(
        libc::SO_SNDTIMEO,
        (&raw const limit).cast(),
        size_of_val(&limit),
    )?;
    let name = |address: SocketAddrV4| libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).expect("2"),
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*address.ip()).to_be(),
        },
        sin_zero: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).expect("16");
    let (own, other) = (name(SocketAddrV4::new(from, 0)), name(to));
    // SAFETY: `own` is a sockaddr_in of the length given.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const own).cast(), length) })?;
    // SAFETY: `other` is a sockaddr_in of the length given.
    checked(unsafe { libc::connect(socket.as_raw_fd(), (&raw const other).cast(), length) })?;
    Ok(socket)
}

/// Processor time that this process has used.
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec to be filled in.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Wakes at the time asked for, not up to 50 us later.
pub fn precise_timers() {
    // SAFETY: no pointers; the slack of the calling thread becomes 1 ns.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
}

/// Runs before all ordinary processes (`SCHED_FIFO`), so that load on the
/// machine does not show up as jitter of the WAN.
pub fn run_realtime(priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: `parameters` outlives the call; pid 0 is this process.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

//! `sluice-dataplane`: reads the configuration, pins itself, and steps its
//! worker until it is told to stop. Clock, randomness and signals are here.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::Parser;
use log::{error, info, warn};
use sluice_config::{Config, MemoryBudget, Secrets, State};
use sluice_dataplane::driver::{Idle, IdlePolicy, Source, Wake};
use sluice_dataplane::start::{self, Seeds, Started};
use sluice_dataplane::worker::publish::LoopCounters;
use sluice_dataplane::worker::{Io, Worker};
use sluice_hugepages::shm::monotonic_ns;
use sluice_proto::Time;

/// Exit codes: 0 stopped by SIGTERM or SIGINT, 2 usage, 5 configuration refused, 6 cannot start.
#[derive(Debug, Parser)]
#[command(
    name = "sluice-dataplane",
    version,
    about = "The poll-mode data plane of Sluice"
)]
struct Arguments {
    /// Configuration file.
    #[arg(long, default_value = sluice_config::DEFAULT_PATH)]
    config: PathBuf,
}

const EXIT_CONFIG: u8 = 5;
const EXIT_START: u8 = 6;

/// How often it was asked to stop.
static STOPS: AtomicU32 = AtomicU32::new(0);

/// So long may computers take to log out before a stop.
const LOGOUT_SECONDS: u16 = 5;
/// What was said last still goes out.
const LINGER: Duration = Duration::from_millis(200);
/// So long may the journal take for what is committed, and the flush of a relay
/// that drains for what its last computers wrote.
const SETTLE_MAX: Duration = Duration::from_secs(5);

extern "C" fn stop(_: libc::c_int) {
    // Relaxed: the count stands for itself.
    STOPS.fetch_add(1, Ordering::Relaxed);
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .init();
    let arguments = Arguments::parse();
    let (config, state, secrets) = match load(&arguments) {
        Ok(loaded) => loaded,
        Err(message) => {
            error!("{message}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let handler = stop as extern "C" fn(libc::c_int);
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
    if let Some(cpu) = config.dataplane.cpu
        && let Err(source) = pin(cpu)
    {
        error!(
            "cannot pin to core {cpu} (dataplane.cpu): {source}; name a core this process may use"
        );
        return ExitCode::from(EXIT_START);
    }
    let ticks_per_second = measure_ticks();
    let seeds = match seeds() {
        Ok(seeds) => seeds,
        Err(source) => {
            error!("no random numbers from the kernel: {source}");
            return ExitCode::from(EXIT_START);
        }
    };
    match start::start(&config, &state, &secrets, seeds, now(), ticks_per_second) {
        Ok(started) => {
            run(&config, started);
            ExitCode::SUCCESS
        }
        Err(cause) => {
            error!("{cause}");
            ExitCode::from(EXIT_START)
        }
    }
}

fn load(arguments: &Arguments) -> Result<(Config, State, Secrets), String> {
    let config = Config::load(&arguments.config).map_err(|error| error.to_string())?;
    let secrets = Secrets::load(&config).map_err(|error| error.to_string())?;
    let state = State::load(&config.control.state).map_err(|error| error.to_string())?;
    MemoryBudget::of(&config)
        .check(memory_available())
        .map_err(|error| error.to_string())?;
    Ok((config, state, secrets))
}

/// Steps until told to stop, sleeping as the idle policy says.
fn run(config: &Config, started: Started) {
    let Started {
        mut worker,
        mut ports,
        mut publisher,
    } = started;
    let mut idle = Idle::new(IdlePolicy {
        spin: config.dataplane.spin,
        busy: config.dataplane.busy_poll,
        ..IdlePolicy::default()
    });
    let mut counters = LoopCounters::default();
    let mut sources: Vec<Source> = Vec::with_capacity(ports.len() + 1);
    let mut share = IdleShare::new(now());
    info!("serving");
    let mut stopping = Stopping::No;
    while stopping.go_on(&mut worker, now()) {
        let begun = ticks();
        publisher.loop_counters = counters;
        let next = worker.step(
            now(),
            &mut Io {
                ports: &mut ports,
                control: Some(&mut publisher),
            },
        );
        if next.did_work {
            counters.busy_ticks += ticks().wrapping_sub(begun);
        }
        sources.clear();
        sources.extend(ports.iter().zip(0..).filter_map(|(port, index)| {
            let fd: RawFd = port.fd()?;
            let writable = port.tx_pending() || worker.tx_waiting(index);
            Some(Source { fd, writable })
        }));
        let journal = worker.relay.journal_thread();
        sources.extend(journal.and_then(|line| line.fd()).map(Source::readable));
        let wake = idle.wait(&sources, now(), next.deadline, next.did_work);
        if let (Wake::Ready, Some(journal)) = (wake, journal) {
            journal.heard();
        }
        counters.sleeps = idle.sleeps();
        counters.total_ticks += ticks().wrapping_sub(begun);
        counters.idle_permille = share.sample(now(), &counters);
    }
    let left = worker.relay.dirty_bytes();
    if stopping.is_in_good_order() {
        worker.relay.close_log();
        info!("stopped in good order; {left} bytes in the log are for the next start to flush");
    } else {
        info!("stopped at once, without a mark in the log; {left} bytes are in it");
    }
    // A flow's buffers are the pool's: the worker drops its rooms in that order.
    for port in ports {
        port.close(&mut worker.pool);
    }
}

/// The way to a stop: computers are asked to log out, those that do not are cut
/// off, what was said last goes out, and the journal has what is committed. Asked
/// again, it stops at once.
enum Stopping {
    No,
    Asked { until: Time },
    Lingering { until: Time, give_up: Time },
    Stopped,
}

impl Stopping {
    fn go_on(&mut self, worker: &mut Worker, now: Time) -> bool {
        // Relaxed: the count stands for itself.
        match (STOPS.load(Ordering::Relaxed), &*self) {
            (0, _) => {}
            (1, Self::No) => {
                info!("asked to stop: computers have {LOGOUT_SECONDS} s to log out");
                worker.begin_stop(LOGOUT_SECONDS);
                *self = Self::Asked {
                    until: now + Duration::from_secs(LOGOUT_SECONDS.into()),
                };
            }
            (1, Self::Asked { until }) => {
                if worker.relay.is_left() || now >= *until {
                    worker.cut_off();
                    *self = Self::Lingering {
                        until: now + LINGER,
                        give_up: now + SETTLE_MAX,
                    };
                }
            }
            (1, Self::Lingering { until, give_up }) => {
                let settled = worker.relay.is_settled();
                if now >= *until && (settled || now >= *give_up) {
                    if !settled {
                        warn!(
                            "not all is settled after {} s: the next start goes on with it",
                            SETTLE_MAX.as_secs()
                        );
                    }
                    *self = Self::Stopped;
                    return false;
                }
            }
            _ => return false,
        }
        true
    }

    /// Nobody asked twice.
    const fn is_in_good_order(&self) -> bool {
        matches!(self, Self::Stopped)
    }
}

/// The idle share of the last second.
struct IdleShare {
    since: Time,
    busy: u64,
    total: u64,
    permille: u16,
}

impl IdleShare {
    fn new(now: Time) -> Self {
        Self {
            since: now,
            busy: 0,
            total: 0,
            permille: 0,
        }
    }

    fn sample(&mut self, now: Time, counters: &LoopCounters) -> u16 {
        if now.since(self.since).as_secs() >= 1 {
            let busy = counters.busy_ticks - self.busy;
            let total = (counters.total_ticks - self.total).max(1);
            self.permille = 1000 - u16::try_from(busy * 1000 / total).unwrap_or(1000).min(1000);
            (self.since, self.busy, self.total) = (now, counters.busy_ticks, counters.total_ticks);
        }
        self.permille
    }
}

fn now() -> Time {
    Time::from_nanos(monotonic_ns())
}

fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC reads a counter and has no other effect.
    let ticks = unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    let ticks = monotonic_ns();
    ticks
}

/// Ticks of the time stamp counter in a second, from a twentieth of one.
fn measure_ticks() -> u64 {
    let (begun, ticks_begun) = (monotonic_ns(), ticks());
    std::thread::sleep(Duration::from_millis(50));
    let (ns, passed) = (monotonic_ns() - begun, ticks() - ticks_begun);
    u64::try_from(u128::from(passed) * 1_000_000_000 / u128::from(ns.max(1))).unwrap_or(u64::MAX)
}

fn seeds() -> std::io::Result<Seeds> {
    let mut bytes = [0_u8; 56];
    // SAFETY: the buffer is as long as is said.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got) != Ok(bytes.len()) {
        return Err(std::io::Error::last_os_error());
    }
    let (key, rest) = bytes.split_first_chunk().expect("56 bytes hold 16");
    let (challenge_key, rest) = rest.split_first_chunk().expect("and 32");
    Ok(Seeds {
        isn_key: *key,
        challenge_key: *challenge_key,
        relay: u64::from_le_bytes(*rest.first_chunk().expect("and 8 more")),
    })
}

fn pin(cpu: usize) -> std::io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a cpu_set_t of zeroes is an empty set; CPU_SET is within CPU_SETSIZE as checked.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Bytes of memory that this machine can give (MemAvailable, and hugepages that are free).
fn memory_available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .split_whitespace()
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .unwrap_or(0)
    };
    field("MemAvailable:") * 1024 + field("HugePages_Free:") * field("Hugepagesize:") * 1024
}

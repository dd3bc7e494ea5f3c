//! A WAN in user space between two network devices: delay, rate, a
//! byte-bounded queue, seeded loss, reordering and duplication, and a cut, all
//! changeable while it runs. Built because kernels without netem exist, and
//! because losses drawn from a seed can be had again.
//!
//! The way of a frame: [`packets`] receives it into a slot, [`link`] decides
//! when (and whether) it arrives, [`packets`] sends the slot from the other
//! device. [`settings`] and [`control`] are the operator's side. One thread
//! does it all and sleeps until the next frame or due time.
//!
//! Under load the sockets are looked at once a *tick* instead of once a
//! frame, which is what makes 500 Mbit/s affordable; a frame is late by at
//! most a tick at each end, and a tick is a small part of the delay.

mod control;
mod link;
mod settings;

use clap::{Parser, Subcommand};
use control::{ControlSocket, Direction, DirectionStatus, Request, Status, ask};
use link::Link;
use settings::{Change, Settings};
use sluice_bench::host;
use sluice_bench::packets::{BATCH, PacketPort, Store, Stored};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Debug, Parser)]
#[command(
    name = "wan-emulator",
    version,
    about = "A WAN between two network devices"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Emulate until terminated
    Run(Run),
    /// Show settings and counters of a running emulator, as JSON
    Status(At),
    /// Change settings of a running emulator
    Set {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        change: Change,
    },
    /// Cut the link; what is inside is lost
    Cut {
        #[command(flatten)]
        at: At,
        #[arg(long, value_enum, default_value_t)]
        direction: Direction,
    },
    /// Mend the link
    Heal {
        #[command(flatten)]
        at: At,
        #[arg(long, value_enum, default_value_t)]
        direction: Direction,
    },
}

#[derive(Debug, clap::Args)]
struct At {
    /// Control socket of the emulator
    #[arg(long)]
    socket: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// One end: a network device of this namespace, offloads and GRO off
    #[arg(long)]
    a: String,
    /// The other end
    #[arg(long)]
    b: String,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    settings: Settings,
    /// Largest frame in bytes, Ethernet header included
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..=65536))]
    frame_bytes_max: u32,
    /// Memory for frames inside, in MiB
    #[arg(long, default_value_t = 512)]
    memory_mib: u64,
    /// Microseconds between looks at the devices under load; by default a
    /// two-hundredth of the round trip, at most 200
    #[arg(long)]
    tick_us: Option<u64>,
    /// Run before ordinary processes (SCHED_FIFO)
    #[arg(long)]
    realtime: bool,
}

/// The longest tick chosen without being asked for.
const TICK_NS_MAX: u64 = 200_000;

/// A frame that leaves later than this after it was due counts as late: the
/// emulator was not given the processor in time.
const LATE_NS: u64 = 1_000_000;

/// Batches received from one port before the other gets its turn.
const BATCHES_A_TURN: usize = 4;

struct Emulator {
    settings: Settings,
    devices: [String; 2],
    ports: [PacketPort; 2],
    /// `links[i]` carries what arrives at `ports[i]` to `ports[1 - i]`.
    links: [Link<Stored>; 2],
    store: Store,
    tick_us: Option<u64>,
    started: Instant,
    socket_drops: [u64; 2],
    late_ns_max: u64,
    late_frames: u64,
    received: Vec<Stored>,
    outgoing: Vec<Stored>,
}

impl Emulator {
    fn new(run: &Run) -> Result<Emulator, String> {
        run.settings.check().map_err(|error| error.to_string())?;
        let open = |device: &str| {
            PacketPort::open(device)
                .map_err(|error| format!("cannot open device {device}: {error}"))
        };
        let profile = run.settings.profile();
        Ok(Emulator {
            settings: run.settings.clone(),
            devices: [run.a.clone(), run.b.clone()],
            ports: [open(&run.a)?, open(&run.b)?],
            links: [0, 1].map(|index| Link::new(profile, direction_seed(&run.settings, index))),
            store: Store::new(run.frame_bytes_max, run.memory_mib << 20),
            tick_us: run.tick_us,
            started: Instant::now(),
            socket_drops: [0; 2],
            late_ns_max: 0,
            late_frames: 0,
            received: Vec::with_capacity(BATCH),
            outgoing: Vec::with_capacity(BATCH),
        })
    }

    fn now_ns(&self) -> u64 {
        // 64 bits of nanoseconds are 584 years.
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn tick_ns(&self) -> u64 {
        match self.tick_us {
            Some(tick_us) => tick_us * 1_000,
            None => (self.settings.profile().delay_ns / 100).min(TICK_NS_MAX),
        }
    }

    /// Takes in what has arrived at one end; whether anything had.
    fn receive(&mut self, index: usize) -> io::Result<bool> {
        let mut any = false;
        for _ in 0..BATCHES_A_TURN {
            self.ports[index].receive(&mut self.store, &mut self.received)?;
            let count = self.received.len();
            let now_ns = self.now_ns();
            for frame in self.received.drain(..) {
                let numbered = is_ip(self.store.bytes(frame));
                let offered = self.links[index].offer(now_ns, frame, frame.bytes, numbered);
                if let Err((frame, _)) = offered {
                    self.store.release(frame.slot);
                }
            }
            any |= count > 0;
            if count < BATCH {
                break;
            }
        }
        Ok(any)
    }

    /// Sends all that is due in one direction.
    fn send_due(&mut self, index: usize) -> io::Result<()> {
        let now_ns = self.now_ns();
        loop {
            while self.outgoing.len() < BATCH - 1 {
                let Some(departure) = self.links[index].take_due(now_ns) else {
                    break;
                };
                let late_ns = now_ns - departure.due_ns;
                self.late_ns_max = self.late_ns_max.max(late_ns);
                self.late_frames += u64::from(late_ns > LATE_NS);
                for _ in 0..departure.copies {
                    self.outgoing.push(departure.token);
                }
            }
            if self.outgoing.is_empty() {
                return Ok(());
            }
            self.ports[1 - index].send(&mut self.store, &self.outgoing)?;
            // The copies of a duplicated frame are neighbours in one slot.
            self.outgoing.dedup_by_key(|frame| frame.slot);
            for frame in self.outgoing.drain(..) {
                self.store.release(frame.slot);
            }
        }
    }

    fn answer(&mut self, request: Request) -> Result<Status, String> {
        let now_ns = self.now_ns();
        match request {
            Request::Status => {}
            Request::Set(change) => {
                self.settings = self
                    .settings
                    .changed(&change)
                    .map_err(|error| error.to_string())?;
                for (index, link) in self.links.iter_mut().enumerate() {
                    link.set_profile(now_ns, self.settings.profile());
                    if change.seed.is_some() {
                        link.set_seed(direction_seed(&self.settings, index));
                    }
                }
            }
            Request::Cut { direction } => {
                for (index, link) in self.links.iter_mut().enumerate() {
                    if direction.covers(index) {
                        link.cut(|frame| self.store.release(frame.slot));
                    }
                }
            }
            Request::Heal { direction } => {
                for (index, link) in self.links.iter_mut().enumerate() {
                    if direction.covers(index) {
                        link.heal();
                    }
                }
            }
        }
        self.status()
            .map_err(|error| format!("cannot read the counters: {error}"))
    }

    fn status(&mut self) -> io::Result<Status> {
        for (total, port) in self.socket_drops.iter_mut().zip(&self.ports) {
            *total += port.socket_drops()?;
        }
        let direction = |index: usize| DirectionStatus {
            device: self.devices[index].clone(),
            cut: self.links[index].is_cut(),
            link: self.links[index].stats(),
            dropped_oversize: self.ports[index].oversize,
            dropped_socket: self.socket_drops[index],
            dropped_send: self.ports[1 - index].send_failed,
        };
        Ok(Status {
            settings: self.settings.clone(),
            cut: self.links.iter().any(Link::is_cut),
            a_to_b: direction(0),
            b_to_a: direction(1),
            late_us_max: self.late_ns_max / 1_000,
            late_frames: self.late_frames,
            up_s: self.started.elapsed().as_secs_f64(),
            cpu_s: host::cpu_time().as_secs_f64(),
        })
    }

    fn run(&mut self, control: &mut ControlSocket) -> io::Result<()> {
        loop {
            let mut busy = false;
            for index in 0..2 {
                busy |= self.receive(index)?;
                self.send_due(index)?;
            }
            let tick_ns = self.tick_ns();
            // Frames that come while others flow wait for the next tick; an
            // idle link wakes for the first one.
            let resting = busy && tick_ns > 0;
            let next_due_ns = self.links.iter().filter_map(Link::next_due_ns).min();
            let wait_ns =
                next_due_ns.map(|due_ns| due_ns.saturating_sub(self.now_ns()).max(tick_ns));
            let wait_ns = if resting { Some(tick_ns) } else { wait_ns };
            let mut fds: Vec<_> = control.fds().collect();
            if !resting {
                fds.extend(self.ports.iter().map(PacketPort::fd));
            }
            let control_fds = control.fds().count();
            let readable = host::wait_readable(&fds, wait_ns.map(Duration::from_nanos))?;
            if readable[..control_fds].contains(&true) {
                control.serve(|request| self.answer(request));
            }
        }
    }
}

/// The two directions draw independently.
fn direction_seed(settings: &Settings, index: usize) -> u64 {
    settings.seed.rotate_left(if index == 0 { 0 } else { 32 }) ^ index as u64
}

/// IPv4 and IPv6 by Ethertype.
fn is_ip(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]))
}

fn emulate(run: &Run) -> Result<(), String> {
    let mut emulator = Emulator::new(run)?;
    let mut control = ControlSocket::listen(&run.at.socket)
        .map_err(|error| format!("cannot listen at {}: {error}", run.at.socket.display()))?;
    host::precise_timers();
    if run.realtime
        && let Err(error) = host::run_realtime(10)
    {
        complain(&format!(
            "no real-time priority ({error}): timing will follow the load"
        ));
    }
    emulator
        .run(&mut control)
        .map_err(|error| format!("stopped: {error}"))
}

fn complain(message: &str) {
    // If standard error is gone there is nobody to tell.
    let _ = writeln!(io::stderr(), "wan-emulator: {message}");
}

fn main() -> ExitCode {
    let (at, request) = match Cli::parse().command {
        Command::Run(run) => {
            return match emulate(&run) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    complain(&error);
                    ExitCode::FAILURE
                }
            };
        }
        Command::Status(at) => (at, Request::Status),
        Command::Set { at, change } => (at, Request::Set(change)),
        Command::Cut { at, direction } => (at, Request::Cut { direction }),
        Command::Heal { at, direction } => (at, Request::Heal { direction }),
    };
    match ask(&at.socket, &request) {
        Ok(status) => match writeln!(io::stdout(), "{status}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

//! Computers that take nothing of what they asked for: each logs in, asks for more than the
//! relay has buffers for, and reads no byte from there on. What the relay has for them stays
//! where it is, in their sockets' pages and in staging, for as long as they stay.
//!
//! They are no dead computers: a word that wants no answer comes from each of them now and
//! then, so that the relay has no reason to end their sessions.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sluice_proto::iscsi::wire::{NopOut, RESERVED_TAG};
use sluice_proto::iscsi::{Command, Direction, TaskAttribute};
use sluice_proto::scsi::cdb;

use super::session::{Login, Session, SessionError};
use crate::host;

/// Well below the time after which the relay asks a silent computer for a sign of life.
const WORD_PERIOD: Duration = Duration::from_secs(4);
/// What the kernel may keep for a computer: as little as it lets.
const RECEIVE_BYTES: u32 = 4096;
/// Addresses whose computers log in one after the other, each on a thread of its own.
const THREADS_MAX: u32 = 160;
/// So little is asked again, so that a run ends soon after it is told to.
const TURN: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Plan {
    pub to: SocketAddrV4,
    pub lun: u64,
    pub block_len: u32,
    pub sessions: u32,
    /// Logins a second, evenly.
    pub per_second: f64,
    /// The computers' addresses: so many from the first on.
    pub first: Ipv4Addr,
    pub addresses: u32,
    /// READs that each asks for, of so many bytes.
    pub reads: u32,
    pub read_len: u32,
}

/// What became of those that were to stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    pub standing: u64,
    pub failed: u64,
}

/// Sessions that read nothing.
#[derive(Debug)]
pub struct Stall {
    sockets: Vec<TcpStream>,
    next_word: Instant,
    ended: u64,
}

impl Stall {
    /// Logs them in; `complain` hears of each that did not get in. Ends early when `stop` is set.
    pub fn begin(
        plan: &Plan,
        login: &Login,
        stop: &AtomicBool,
        complain: impl Fn(&SessionError) + Sync,
    ) -> (Self, Standing) {
        let begun = Instant::now();
        let stall = Mutex::new(Self {
            sockets: Vec::new(),
            next_word: begun,
            ended: 0,
        });
        let locked = || stall.lock().expect("nobody panics with it");
        let (failed, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let threads = plan.addresses.clamp(1, THREADS_MAX);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads)
                .map(|thread| {
                    let (locked, failed, complain) = (&locked, &failed, &complain);
                    scope.spawn(move || {
                        for number in (thread..plan.sessions).step_by(threads as usize) {
                            let due = Duration::from_secs_f64(f64::from(number) / plan.per_second);
                            std::thread::sleep(due.saturating_sub(begun.elapsed()));
                            if stop.load(Relaxed) {
                                return;
                            }
                            match stalled(plan, login, number) {
                                Ok(socket) => locked().sockets.push(socket),
                                Err(error) => {
                                    failed.fetch_add(1, Relaxed);
                                    complain(&error);
                                }
                            }
                        }
                    })
                })
                .collect();
            // The first have long been silent when the last have logged in.
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    locked().speak_if_due();
                    std::thread::sleep(TURN);
                }
            });
            for thread in all {
                thread.join().expect("a login does not panic");
            }
            over.store(true, Relaxed);
        });
        let stall = stall.into_inner().expect("nobody panics with it");
        let standing = Standing {
            failed: failed.into_inner(),
            ..stall.standing()
        };
        (stall, standing)
    }

    /// Keeps them for so long, or until `stop` is set.
    pub fn stay(&mut self, time_max: Duration, stop: &AtomicBool) {
        let until = Instant::now() + time_max;
        while Instant::now() < until && !stop.load(Relaxed) {
            self.speak_if_due();
            std::thread::sleep(TURN);
        }
    }

    /// What is left of them, and what the relay has ended.
    pub fn standing(&self) -> Standing {
        Standing {
            standing: self.sockets.len() as u64,
            failed: self.ended,
        }
    }

    /// A NOP-Out that is not answered, from each (RFC 7143 11.18).
    fn speak_if_due(&mut self) {
        if Instant::now() < self.next_word {
            return;
        }
        self.next_word += WORD_PERIOD;
        let word = NopOut {
            immediate: true,
            lun: 0,
            itt: RESERVED_TAG,
            ttt: RESERVED_TAG,
            cmd_sn: 0,
            exp_stat_sn: 0,
        };
        let word = word.emit().0;
        let before = self.sockets.len();
        // A connection that was ended takes no more; what it takes only in part is over, too.
        self.sockets
            .retain_mut(|socket| matches!(socket.write(&word), Ok(len) if len == word.len()));
        self.ended += (before - self.sockets.len()) as u64;
    }
}

/// The computer of this number, logged in, its commands sent.
fn stalled(plan: &Plan, login: &Login, number: u32) -> Result<TcpStream, SessionError> {
    let address = Ipv4Addr::from(u32::from(plan.first) + number % plan.addresses);
    let socket = host::connect_from(address, plan.to, RECEIVE_BYTES, login.patience);
    let socket = socket.map_err(|source| SessionError::Connect {
        address: login.address,
        source,
    })?;
    let [_, _, high, low] = number.to_be_bytes();
    let login = Login {
        initiator: format!("{}-{number}", login.initiator),
        isid: [0x80, 0x57, 0xa1, 0, high, low],
        ..login.clone()
    };
    let mut session = Session::login_over(socket, &login)?;
    let blocks = plan.read_len / plan.block_len;
    for read in 0..plan
        .reads
        .min(u32::try_from(session.window()).unwrap_or(u32::MAX))
    {
        let lba = u64::from(number * plan.reads + read) * u64::from(blocks);
        session.submit(Command {
            token: u64::from(read),
            lun: plan.lun,
            cdb: cdb::read(lba, blocks),
            cdb_rest: None,
            attribute: TaskAttribute::Simple,
            data: Direction::In(plan.read_len),
        });
    }
    session.stop_reading()
}

//! Memory buffers (Spec B) while everything else goes wrong: somebody makes, changes and cancels
//! reservations of every kind, and has targets present buffer ids; a relay that starts
//! makes them again. They are held against a map of what there should be, and connections
//! against what they may have.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use sluice_dataplane::worker::Target;
use sluice_hugepages::pool::{FRAME_LEN, Reservation};
use sluice_hugepages::tables::{Command, Outcome, ReservationSize, ReservationTarget, text};
use sluice_proto::Time;

use super::World;
use crate::random::Random;

/// Between two commands.
const WITHIN_MS: u64 = 1500;
/// Of what every connection may have a part, however many there are: a reservation that is
/// smaller may keep some out, and so does not stay when all is to be drained.
const ENOUGH_BYTES: u64 = 1 << 20;
/// Frames that only packets on their way take, and that borrowers leave.
pub(super) const FLOORS: (usize, usize) = (256, 128);

/// Of one run.
#[derive(Debug)]
pub(super) struct Reserver {
    random: Random,
    pub next: Time,
    /// What there should be.
    made: BTreeMap<ReservationTarget, ReservationSize>,
    /// By target.
    presented: Vec<Option<u16>>,
    /// What each connection had when it was last looked at, by its own end.
    had: BTreeMap<SocketAddrV4, u64>,
    pub met: Met,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    pub made: u64,
    pub changed: u64,
    pub cancelled: u64,
    pub out_of_memory: u64,
    pub still_held: u64,
    pub presented: u64,
    pub made_again: u64,
    /// Looks at connections that took from a reservation, and that had all they may.
    pub taken: u64,
    pub full: u64,
    pub more_than_limit: u64,
}

impl Reserver {
    pub fn new(random: Random, targets: usize, without: bool) -> Self {
        Self {
            random,
            next: if without { Time::FAR } else { Time::ZERO },
            made: BTreeMap::new(),
            presented: vec![None; targets],
            had: BTreeMap::new(),
            met: Met::default(),
        }
    }

    fn target(&mut self, targets: &[Target]) -> ReservationTarget {
        let target = &targets[self.random.below(targets.len())];
        match self.random.of(3) {
            0 => ReservationTarget::Pair {
                local: target.wan_address,
                remote: *target.address.ip(),
            },
            1 => ReservationTarget::PairPort {
                local: target.wan_address,
                remote: target.address,
            },
            _ => ReservationTarget::Connection {
                buffer_id: 1 + u16::try_from(self.random.of(3)).expect("small"),
            },
        }
    }

    fn size(&mut self) -> ReservationSize {
        let frames = match self.random.of(8) {
            // More than there may be.
            0 => 4096 + self.random.of(8192),
            1..=3 => 4 + self.random.of(60),
            _ => 64 + self.random.of(1024),
        };
        ReservationSize {
            bytes: frames * FRAME_LEN as u64 - self.random.of(FRAME_LEN as u64),
            automatic: self.random.chance(50),
            sessions: 0,
            connections: 0,
        }
    }

    fn command(&mut self, targets: &[Target]) -> Command {
        match self.random.of(10) {
            0..=5 => Command::Reserve {
                target: self.target(targets),
                size: self.size(),
            },
            6 | 7 => Command::CancelReservation {
                target: self.target(targets),
            },
            8 => {
                let target = self.random.below(targets.len());
                let by_id = |target: &ReservationTarget| match *target {
                    ReservationTarget::Connection { buffer_id } => Some(buffer_id),
                    _ => None,
                };
                let mut ids = self.made.keys().filter_map(by_id);
                let buffer_id = ids.next().filter(|_| self.random.chance(75));
                Command::PresentBufferId {
                    target: text(&targets[target].name),
                    buffer_id,
                }
            }
            _ => Command::QueryBuffers {
                target: Some(self.target(targets)),
            },
        }
    }
}

impl World {
    /// Somebody gives a command about buffers, now and then.
    pub(super) fn reserve(&mut self) {
        let now = self.now;
        if now < self.reserver.next || self.paused_until != Time::FAR {
            return;
        }
        if now >= self.faults_over {
            self.reserver.next = Time::FAR;
            return self.settle();
        }
        let reserver = &mut self.reserver;
        reserver.next = now + Duration::from_millis(1 + reserver.random.of(WITHIN_MS));
        reserver.next = reserver.next.min(self.faults_over);
        let command = reserver.command(&self.config.targets);
        self.ask(&command);
    }

    /// What may keep a connection out ends, so that all can be drained.
    fn settle(&mut self) {
        let small = |(target, size): (&ReservationTarget, &ReservationSize)| {
            (size.bytes < ENOUGH_BYTES).then_some(*target)
        };
        let small: Vec<_> = self.reserver.made.iter().filter_map(small).collect();
        for target in small {
            self.ask(&Command::CancelReservation { target });
        }
    }

    fn ask(&mut self, command: &Command) {
        let relay_now = self.relay_now();
        let (outcome, _, buffers) = self.worker().command_from_control(relay_now, command);
        let whole = |size: &ReservationSize| size.bytes.next_multiple_of(FRAME_LEN as u64);
        let Reserver {
            made,
            met,
            presented,
            ..
        } = &mut self.reserver;
        let expected = match command {
            Command::Reserve { target, size } => {
                let before = made.get(target).copied();
                match outcome {
                    Outcome::Done => {
                        met.made += u64::from(before.is_none());
                        met.changed += u64::from(before.is_some());
                        made.insert(*target, *size);
                        buffers.buffer_id != 0 && buffers.reserved_bytes == whole(size)
                    }
                    Outcome::OutOfMemory => {
                        met.out_of_memory += 1;
                        let had = before.as_ref().map_or(0, whole);
                        whole(size) > had + buffers.free_bytes && buffers.reserved_bytes == had
                    }
                    Outcome::NoReservationLeft => {
                        met.still_held += 1;
                        before.is_none()
                    }
                    _ => false,
                }
            }
            Command::CancelReservation { target } => {
                met.cancelled += u64::from(outcome == Outcome::Done);
                made.remove(target).is_some() == (outcome == Outcome::Done)
            }
            Command::QueryBuffers {
                target: Some(target),
            } => buffers.reserved_bytes == made.get(target).map_or(0, whole),
            Command::PresentBufferId { target, buffer_id } => {
                met.presented += u64::from(buffer_id.is_some());
                let mut targets = self.config.targets.iter();
                let at = targets.position(|own| own.name == target.as_str());
                presented[at.expect("a target")] = *buffer_id;
                outcome == Outcome::Done
            }
            _ => true,
        };
        if !expected {
            let detail = format!("{command:?}: {outcome:?}, {buffers:?}");
            self.report("reservations are as they were asked for", detail);
        }
    }

    /// A relay that starts makes all of them again, before any packet is taken.
    pub(super) fn reserve_again(&mut self) {
        self.reserver.had.clear();
        let relay_now = self.relay_now();
        let made = self.reserver.made.clone();
        let presented = self.reserver.presented.clone();
        let (transit, borrow) = FLOORS;
        let worker = self.worker();
        worker.pool.set_floors(transit, borrow);
        let reservations = &mut worker.relay.reservations;
        for (client, id) in presented.into_iter().enumerate() {
            reservations.present(client, id);
        }
        let by_id =
            |target: &ReservationTarget| matches!(target, ReservationTarget::Connection { .. });
        let mut all: Vec<_> = made.into_iter().collect();
        all.sort_by_key(|(target, _)| !by_id(target));
        let mut lost = None;
        let count = all.len() as u64;
        for (target, size) in all {
            let made = reservations.reserve(relay_now, &mut worker.pool, target, size);
            lost = lost.or(made.err().map(|outcome| (target, outcome)));
        }
        self.reserver.met.made_again += count;
        if let Some(lost) = lost {
            self.report("reservations are made again", format!("{lost:?}"));
        }
    }

    /// Nobody has more than he may, or has more under way than he has buffers (B-11).
    pub(super) fn judge_buffers(&mut self) {
        let Some(worker) = &self.worker else {
            return;
        };
        let Reserver { had, met, .. } = &mut self.reserver;
        let mut broken = None;
        for row in worker.relay.allocations(&worker.tcp) {
            let before = had.insert(row.local, row.allocated_bytes).unwrap_or(0);
            met.taken += u64::from(row.buffer_id != 0);
            met.full += u64::from(row.allocated_bytes == row.limit_bytes);
            met.more_than_limit += u64::from(row.allocated_bytes > row.limit_bytes);
            let number = Reservation(row.buffer_id);
            let is_there =
                number == Reservation::NONE || worker.relay.reservations.limit(number).is_some();
            let holds = row.unacknowledged_bytes <= row.allocated_bytes
                && row.allocated_bytes <= row.limit_bytes.max(before);
            if !holds || !is_there {
                broken = Some((row, before));
            }
        }
        if let Some((row, before)) = broken {
            let detail = format!("{row:?}, it had {before}");
            self.report("no more under way than there are buffers", detail);
        }
    }

    /// What reservations have, listed and in use, is what they are to have in the end. (The
    /// nexus of a computer that may be registered stays, with what it keeps.)
    pub(super) fn judge_reservations(&mut self) {
        let now = self.relay_now();
        let targets: Vec<_> = self.reserver.made.keys().copied().collect();
        let worker = self.worker();
        let (mut reserved, mut in_use) = (0, 0);
        for target in targets {
            let query = Command::QueryBuffers {
                target: Some(target),
            };
            let (_, _, buffers) = worker.command_from_control(now, &query);
            reserved += buffers.reserved_bytes;
            in_use += buffers.allocated_bytes;
        }
        let pool = worker.pool.stats();
        let listed = (pool.frames_reserved * FRAME_LEN) as u64;
        if reserved != listed + in_use {
            let detail = format!("{reserved} bytes, {in_use} in use, {pool:?}");
            self.report("reserved lists are whole", detail);
        }
    }
}

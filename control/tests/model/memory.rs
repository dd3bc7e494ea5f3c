//! Memory buffers of the stand-in: a count of what is free, reservations, one path.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use sluice_hugepages::shm::SegmentWriter;
use sluice_hugepages::tables::*;

pub const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
pub const REMOTE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260);

#[derive(Clone, Debug)]
pub struct Memory {
    pub free_bytes: u64,
    /// With their buffer ids.
    pub reservations: BTreeMap<ReservationTarget, (u16, ReservationSize)>,
    pub presented: BTreeMap<String, Option<u16>>,
    pub path: Path,
    pub log_segments_free: u64,
    /// Its thread ends when it has changed a reservation, without an answer.
    pub dies: bool,
    /// It changes reservations and answers nothing.
    pub mute: bool,
    /// Rows are as they were when a command is answered.
    pub lags: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            free_bytes: 7 << 20,
            reservations: BTreeMap::new(),
            presented: BTreeMap::new(),
            path: Path {
                local: LOCAL,
                remote: REMOTE,
                sessions: 2,
                bandwidth_bytes_per_s: 12_500_000,
                bandwidth_at_ns: Some(1),
                min_rtt_us: 40_100,
                min_rtt_at_ns: Some(1),
                limit: PathLimit::Path,
                rtt_us: 41_000,
                typed_bytes_per_s: None,
                typed_rtt_us: None,
                changes: 3,
                changed_at_ns: None,
                probes: 0,
                measured: 0,
                recommended_bytes: Some(1_002_500),
            },
            log_segments_free: 31,
            dies: false,
            mute: false,
            lags: false,
        }
    }
}

impl Memory {
    /// How a command about buffers or paths ends; `None` for another one.
    pub fn take(&mut self, command: &Command) -> Option<(Outcome, BufferState)> {
        let (target, outcome) = match command {
            Command::Reserve { target, size } => (Some(*target), self.reserve(*target, *size)),
            Command::CancelReservation { target } => {
                let outcome = match self.reservations.remove(target) {
                    Some((_, size)) => {
                        self.free_bytes += size.bytes;
                        Outcome::Done
                    }
                    None => Outcome::UnknownReservation,
                };
                (Some(*target), outcome)
            }
            Command::QueryBuffers { target } => (*target, Outcome::Done),
            Command::PresentBufferId { target, buffer_id } => {
                self.presented.insert(target.to_string(), *buffer_id);
                (None, Outcome::Done)
            }
            Command::SetPath {
                local,
                remote,
                bytes_per_s,
                min_rtt_us,
                typed,
            } => {
                let own = (self.path.local, self.path.remote) == (*local, *remote);
                match (own, typed) {
                    (false, _) => (None, Outcome::UnknownPath),
                    (true, true) => {
                        self.path.typed_bytes_per_s = *bytes_per_s;
                        self.path.typed_rtt_us = *min_rtt_us;
                        (None, Outcome::Done)
                    }
                    (true, false) => {
                        let path = &mut self.path;
                        path.bandwidth_bytes_per_s =
                            bytes_per_s.unwrap_or(path.bandwidth_bytes_per_s);
                        path.min_rtt_us = min_rtt_us.unwrap_or(path.min_rtt_us);
                        (None, Outcome::Done)
                    }
                }
            }
            Command::MeasurePath { local, remote } => {
                if (self.path.local, self.path.remote) == (*local, *remote) {
                    self.path.measured += 1;
                    (None, Outcome::Done)
                } else {
                    (None, Outcome::UnknownPath)
                }
            }
            _ => return None,
        };
        let own = target.and_then(|target| self.reservations.get(&target));
        let state = BufferState {
            buffer_id: own.map_or(0, |(id, _)| *id),
            free_bytes: self.free_bytes,
            cache_free_bytes: 62 << 20,
            reserved_bytes: own.map_or(0, |(_, size)| size.bytes),
            allocated_bytes: 0,
        };
        Some((outcome, state))
    }

    fn reserve(&mut self, target: ReservationTarget, size: ReservationSize) -> Outcome {
        let known = self.reservations.get(&target).copied();
        let own = known.map_or(0, |(_, size)| size.bytes);
        if size.bytes > own + self.free_bytes {
            return Outcome::OutOfMemory;
        }
        let used = |id: u16| self.reservations.values().any(|(own, _)| *own == id);
        let id = match (known, target) {
            (Some((id, _)), _) => id,
            (None, ReservationTarget::Connection { buffer_id }) => buffer_id,
            (None, _) => (1..10_240).rev().find(|id| !used(*id)).unwrap(),
        };
        self.free_bytes = self.free_bytes + own - size.bytes;
        self.reservations.insert(target, (id, size));
        Outcome::Done
    }

    pub fn show(&self, writer: &mut SegmentWriter) {
        writer.put(0, &self.path);
        for (index, (target, (buffer_id, size))) in self.reservations.iter().enumerate() {
            let row = Reservation {
                target: *target,
                buffer_id: *buffer_id,
                reserved_bytes: size.bytes,
                held_bytes: size.bytes,
                allocated_bytes: 0,
                automatic: size.automatic,
                sessions: size.sessions,
                connections: size.connections,
                flows: 0,
                refused: 0,
                since_ns: 1,
            };
            writer.put(index, &row);
        }
        writer.clear_from(Table::Reservations, self.reservations.len());
        let allocation = Allocation {
            local: SocketAddrV4::new(LOCAL, 50_000),
            remote: REMOTE,
            target: text(super::TARGET),
            buffer_id: 0,
            allocated_bytes: 65_536,
            limit_bytes: 1 << 20,
            unacknowledged_bytes: 30_000,
            refused: 5,
        };
        writer.put(0, &allocation);
        writer.put(
            0,
            &Buffers {
                backing: Backing::Tmpfs,
                why: text("no hugepages are free"),
                pages_free: 100,
                pages_leased: 20,
                pages_divided: 8,
                frames_free: 120,
                frames_reserved: 0,
                frames_in_use: 8,
                free_bytes: self.free_bytes,
                log_backing: Backing::Hugepages,
                log_segments: 32,
                log_segments_free: self.log_segments_free,
                log_bytes: 64 << 20,
                log_live_bytes: 4096,
            },
        );
    }
}

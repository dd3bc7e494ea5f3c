//! Reservations of memory buffers as control and data plane speak of them (Spec B): what one is
//! for, how large, and what is left.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::Field;

/// Most reservations at a time; a buffer id is below.
pub const RESERVATIONS_MAX: usize = 10_240;

/// What a reservation is for (B-4). A connection takes from the most specific one: that of the
/// buffer id that it presents, of its port pair and remote port, of its port pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReservationTarget {
    /// All connections between the two addresses.
    Pair { local: Ipv4Addr, remote: Ipv4Addr },
    /// Those to one port.
    PairPort {
        local: Ipv4Addr,
        remote: SocketAddrV4,
    },
    /// Those that present the id.
    Connection { buffer_id: u16 },
}

impl Field for ReservationTarget {
    const WORDS: usize = 3;

    fn store(&self, words: &mut [u64]) {
        words.fill(0);
        match self {
            Self::Pair { local, remote } => {
                words[0] = 1;
                local.store(&mut words[1..2]);
                remote.store(&mut words[2..3]);
            }
            Self::PairPort { local, remote } => {
                words[0] = 2;
                local.store(&mut words[1..2]);
                remote.store(&mut words[2..3]);
            }
            Self::Connection { buffer_id } => {
                words[0] = 3;
                buffer_id.store(&mut words[1..2]);
            }
        }
    }

    fn load(words: &[u64]) -> Option<Self> {
        let local = || Ipv4Addr::load(&words[1..2]);
        match words[0] {
            1 => Some(Self::Pair {
                local: local()?,
                remote: Field::load(&words[2..3])?,
            }),
            2 => Some(Self::PairPort {
                local: local()?,
                remote: Field::load(&words[2..3])?,
            }),
            3 => Some(Self::Connection {
                buffer_id: Field::load(&words[1..2])?,
            }),
            _ => None,
        }
    }
}

/// How large a reservation is to be, and by what (B-13, B-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservationSize {
    /// Rounded up to whole buffers.
    pub bytes: u64,
    /// It follows what is recommended; else the operator has typed it in.
    pub automatic: bool,
    /// Sessions that it is for, and connections of each; the flush of a target whose
    /// connections take from it goes by as many. 0: as many as there are.
    pub sessions: u16,
    pub connections: u16,
}

impl Field for ReservationSize {
    const WORDS: usize = 4;

    fn store(&self, words: &mut [u64]) {
        self.bytes.store(&mut words[0..1]);
        self.automatic.store(&mut words[1..2]);
        self.sessions.store(&mut words[2..3]);
        self.connections.store(&mut words[3..4]);
    }

    fn load(words: &[u64]) -> Option<Self> {
        Some(Self {
            bytes: Field::load(&words[0..1])?,
            automatic: Field::load(&words[1..2])?,
            sessions: Field::load(&words[2..3])?,
            connections: Field::load(&words[3..4])?,
        })
    }
}

/// What there is, as an answer says it (B-5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferState {
    /// Of the reservation asked for; 0: there is none.
    pub buffer_id: u16,
    /// What a reservation could have beyond what it has: free buffers and undivided pages,
    /// less what packets on their way need.
    pub free_bytes: u64,
    /// What the write cache has room for.
    pub cache_free_bytes: u64,
    /// Its goal, and what connections hold of it.
    pub reserved_bytes: u64,
    pub allocated_bytes: u64,
}

impl Field for BufferState {
    const WORDS: usize = 5;

    fn store(&self, words: &mut [u64]) {
        words.copy_from_slice(&[
            u64::from(self.buffer_id),
            self.free_bytes,
            self.cache_free_bytes,
            self.reserved_bytes,
            self.allocated_bytes,
        ]);
    }

    fn load(words: &[u64]) -> Option<Self> {
        Some(Self {
            buffer_id: Field::load(&words[0..1])?,
            free_bytes: words[1],
            cache_free_bytes: words[2],
            reserved_bytes: words[3],
            allocated_bytes: words[4],
        })
    }
}

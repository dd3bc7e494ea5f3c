//! Reservations of memory buffers (Spec B): who has one, how large, and which of them a
//! connection takes from. Control asks for them ([`Registry::command`]), the pool keeps
//! their frames, a nexus asks when it connects ([`Registry::find`]).
//!
//! What always holds: every reservation of the pool has a row here and every row one there,
//! of the same size; a number is given again only when no connection holds a frame of it.
//! A command that cannot be done as a whole changes nothing, and one given twice changes
//! nothing the second time. What a command says is not trusted.
//!
//! Rows lie close together, so that they are shown as a list; a number is the pool's, and
//! the buffer id that control knows a reservation by. Kind *connection* has the number that
//! control chooses, the others have theirs from the highest down.
//!
//! Not for: how large one should be (control's), frames (the pool's), flows
//! ([`flows`]).

mod flows;
mod pairs;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};

use sluice_hugepages::pool::{FRAME_LEN, Pool, Reservation};
use sluice_hugepages::tables::{
    self, BufferState, Command, Name, Outcome, RESERVATIONS_MAX, ReservationSize,
    ReservationTarget, text,
};
use sluice_proto::Time;

use pairs::Pairs;

/// What one connection keeps of a reservation, whatever it sends.
pub const FRAMES_MIN: u64 = 4;
/// Changes that wait to be told; older ones are, one that finds no room is not.
const NOTICES_MAX: usize = 256;

/// A storage's connections: where they go, and what they present.
#[derive(Clone, Debug)]
struct Client {
    name: Name,
    local: Ipv4Addr,
    remote: SocketAddrV4,
    presents: Option<u16>,
}

#[derive(Clone, Debug)]
struct Row {
    target: ReservationTarget,
    number: u16,
    /// In whole frames.
    size: ReservationSize,
    since: Time,
    /// Connections that take from it, when they were last counted.
    flows: u32,
    refused: u64,
}

/// Something that operators hear of (B-20). Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Made (from none), changed, cancelled (to none).
    Changed {
        target: ReservationTarget,
        before: Option<u64>,
        now: Option<u64>,
    },
    /// Too little was free.
    Failed {
        target: ReservationTarget,
        before: Option<u64>,
        wanted: u64,
        free: u64,
    },
}

/// Whose connections may take from another reservation than before, or have another limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concerned {
    Nobody,
    /// Those that the reservation is for.
    Of(ReservationTarget),
    /// Those of the target with this index.
    Client(usize),
}

/// How a command about buffers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub outcome: Outcome,
    /// What the write cache has room for is the caller's to fill in.
    pub buffers: BufferState,
    pub concerned: Concerned,
}

/// What has been done, for the relay's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub made: u64,
    pub changed: u64,
    pub cancelled: u64,
    /// Too little was free, or no number.
    pub failed: u64,
    /// Commands that make no sense here: a size, an id, a path or a target that there is not.
    pub refused: u64,
}

impl Counts {
    pub fn rows(&self) -> [(&'static str, u64); 5] {
        [
            ("reservation_made", self.made),
            ("reservation_changed", self.changed),
            ("reservation_cancelled", self.cancelled),
            ("reservation_failed", self.failed),
            ("command_refused", self.refused),
        ]
    }
}

#[derive(Debug)]
pub struct Registry {
    /// Of our ports.
    locals: Vec<Ipv4Addr>,
    /// By the index of the configuration's target.
    clients: Vec<Client>,
    rows: Vec<Row>,
    /// By number, its row and 1; 0: none.
    places: Box<[u16]>,
    pairs: Pairs,
    /// No number above is free.
    highest: u16,
    notices: VecDeque<(Time, Notice)>,
    /// Rows to be shown, each once, and the one at which the next turn begins.
    to_show: VecDeque<u16>,
    queued: Vec<bool>,
    turn: usize,
    counted: Vec<u16>,
    pub counts: Counts,
}

#[expect(clippy::cast_possible_truncation, reason = "10,240")]
const NUMBER_MAX: u16 = RESERVATIONS_MAX as u16 - 1;

fn bytes_of(frames: usize) -> u64 {
    (frames * FRAME_LEN) as u64
}

impl Registry {
    /// For connections to these storages: name, own address, and theirs.
    pub fn new<'a>(targets: impl IntoIterator<Item = (&'a str, Ipv4Addr, SocketAddrV4)>) -> Self {
        let clients: Vec<_> = targets
            .into_iter()
            .map(|(name, local, remote)| Client {
                name: text(name),
                local,
                remote,
                presents: None,
            })
            .collect();
        Self {
            locals: clients.iter().map(|client| client.local).collect(),
            clients,
            rows: Vec::new(),
            places: vec![0; RESERVATIONS_MAX].into(),
            pairs: Pairs::default(),
            highest: NUMBER_MAX,
            notices: VecDeque::new(),
            to_show: VecDeque::new(),
            queued: Vec::new(),
            turn: 0,
            counted: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Addresses of ports, beside those that storages are reached from.
    pub fn add_locals(&mut self, locals: impl IntoIterator<Item = Ipv4Addr>) {
        self.locals.extend(locals);
    }

    /// What a connection takes from, the most specific first (B-8).
    #[inline]
    pub fn find(
        &self,
        local: Ipv4Addr,
        remote: SocketAddrV4,
        presents: Option<u16>,
    ) -> Reservation {
        let by_id = presents.filter(|&id| self.is_by_id(id));
        let found = by_id.or_else(|| self.pairs.find(local, remote));
        found.map_or(Reservation::NONE, Reservation)
    }

    /// The same for the connections of the target with this index.
    pub fn find_for(&self, client: usize) -> Reservation {
        let Client {
            local,
            remote,
            presents,
            ..
        } = self.clients[client];
        self.find(local, remote, presents)
    }

    fn is_by_id(&self, id: u16) -> bool {
        let row = self.row_of(id);
        row.is_some_and(|row| matches!(row.target, ReservationTarget::Connection { .. }))
    }

    fn row_of(&self, number: u16) -> Option<&Row> {
        let place = *self.places.get(usize::from(number))?;
        self.rows.get(usize::from(place).checked_sub(1)?)
    }

    fn number_of(&self, target: &ReservationTarget) -> Option<u16> {
        match *target {
            ReservationTarget::Pair { local, remote } => self.pairs.number_of(local, remote, 0),
            ReservationTarget::PairPort { local, remote } => {
                self.pairs.number_of(local, *remote.ip(), remote.port())
            }
            ReservationTarget::Connection { buffer_id } => {
                Some(buffer_id).filter(|&id| self.is_by_id(id))
            }
        }
    }

    /// How a reservation is to be, and by what.
    pub fn size_of(&self, reservation: Reservation) -> Option<&ReservationSize> {
        self.row_of(reservation.0).map(|row| &row.size)
    }

    /// Frames that one connection may have of it: all.
    pub fn limit(&self, reservation: Reservation) -> Option<u32> {
        let size = self.size_of(reservation)?;
        Some(u32::try_from(size.bytes / FRAME_LEN as u64).unwrap_or(u32::MAX))
    }

    /// Whether the connections of the target with this index may have to look again.
    pub fn concerns(&self, concerned: Concerned, client: usize) -> bool {
        let Client {
            local,
            remote,
            presents,
            ..
        } = &self.clients[client];
        match concerned {
            Concerned::Nobody => false,
            Concerned::Client(index) => index == client,
            Concerned::Of(ReservationTarget::Pair {
                local: own,
                remote: theirs,
            }) => own == *local && theirs == *remote.ip(),
            Concerned::Of(ReservationTarget::PairPort {
                local: own,
                remote: theirs,
            }) => own == *local && theirs == *remote,
            Concerned::Of(ReservationTarget::Connection { buffer_id }) => {
                *presents == Some(buffer_id)
            }
        }
    }

    /// What of Spec B's commands is done here; `None` for any other.
    pub fn command(&mut self, now: Time, pool: &mut Pool, command: &Command) -> Option<Answer> {
        let (outcome, number, concerned) = match command {
            Command::Reserve { target, size } => match self.reserve(now, pool, *target, *size) {
                Ok((number, concerned)) => (Outcome::Done, Some(number), concerned),
                Err(outcome) => (outcome, self.number_of(target), Concerned::Nobody),
            },
            Command::CancelReservation { target } => match self.cancel(now, pool, target) {
                true => (Outcome::Done, None, Concerned::Of(*target)),
                false => (Outcome::UnknownReservation, None, Concerned::Nobody),
            },
            Command::QueryBuffers { target: None } => (Outcome::Done, None, Concerned::Nobody),
            Command::QueryBuffers {
                target: Some(target),
            } => match self.number_of(target) {
                Some(number) => (Outcome::Done, Some(number), Concerned::Nobody),
                None => (Outcome::UnknownReservation, None, Concerned::Nobody),
            },
            Command::PresentBufferId { target, buffer_id } => {
                match self.present_known(target, *buffer_id) {
                    Ok(client) => (Outcome::Done, *buffer_id, Concerned::Client(client)),
                    Err(outcome) => (outcome, None, Concerned::Nobody),
                }
            }
            _ => return None,
        };
        if !matches!(
            outcome,
            Outcome::Done | Outcome::OutOfMemory | Outcome::NoReservationLeft
        ) {
            self.counts.refused += 1;
        }
        Some(Answer {
            outcome,
            buffers: self.state(pool, number),
            concerned,
        })
    }

    /// What is free, and how this reservation is (B-5).
    pub fn state(&self, pool: &Pool, number: Option<u16>) -> BufferState {
        let known = number.and_then(|number| Some((number, self.row_of(number)?)));
        let held = known.and_then(|(number, _)| pool.reserved(Reservation(number)));
        BufferState {
            buffer_id: known.map_or(0, |(number, _)| number),
            free_bytes: bytes_of(pool.available()),
            cache_free_bytes: 0,
            reserved_bytes: known.map_or(0, |(_, row)| row.size.bytes),
            allocated_bytes: held.map_or(0, |held| bytes_of(held.in_use)),
        }
    }

    /// Makes a reservation, or gives it another size, while connections hold of it (B-6, B-7).
    ///
    /// # Errors
    /// It cannot be, and nothing has changed.
    pub fn reserve(
        &mut self,
        now: Time,
        pool: &mut Pool,
        target: ReservationTarget,
        size: ReservationSize,
    ) -> Result<(u16, Concerned), Outcome> {
        let frames = size.bytes.div_ceil(FRAME_LEN as u64);
        if frames < FRAMES_MIN {
            return Err(Outcome::OutOfRange);
        }
        self.check(&target)?;
        let known = self.number_of(&target);
        let before = known.and_then(|number| self.row_of(number)).cloned();
        let before_bytes = before.as_ref().map(|row| row.size.bytes);
        let Some(number) = known.or_else(|| self.free_number(pool, &target)) else {
            self.counts.failed += 1;
            return Err(Outcome::NoReservationLeft);
        };
        // What no machine has is more than is free.
        let frames = usize::try_from(frames).map_or(usize::MAX / FRAME_LEN, |frames| {
            frames.min(usize::MAX / FRAME_LEN)
        });
        let size = ReservationSize {
            bytes: bytes_of(frames),
            ..size
        };
        if before_bytes != Some(size.bytes)
            && let Err(short) = pool.reserve(Reservation(number), frames)
        {
            self.counts.failed += 1;
            let notice = Notice::Failed {
                target,
                before: before_bytes,
                wanted: size.bytes,
                free: bytes_of(short.free),
            };
            self.tell(now, notice);
            return Err(Outcome::OutOfMemory);
        }
        match before {
            None => {
                self.insert(now, number, target, size);
                self.counts.made += 1;
            }
            Some(row) if row.size == size => return Ok((number, Concerned::Nobody)),
            Some(_) => {
                let place = usize::from(self.places[usize::from(number)]) - 1;
                self.rows[place].size = size;
                self.show(place);
            }
        }
        if before_bytes == Some(size.bytes) {
            // It is for another number of sessions.
            return Ok((number, Concerned::Of(target)));
        }
        self.counts.changed += u64::from(before_bytes.is_some());
        let notice = Notice::Changed {
            target,
            before: before_bytes,
            now: Some(size.bytes),
        };
        self.tell(now, notice);
        Ok((number, Concerned::Of(target)))
    }

    /// Ends a reservation; false: there is none (B-10).
    pub fn cancel(&mut self, now: Time, pool: &mut Pool, target: &ReservationTarget) -> bool {
        let Some(number) = self.number_of(target) else {
            return false;
        };
        pool.cancel(Reservation(number));
        let row = self.remove(number);
        self.counts.cancelled += 1;
        let notice = Notice::Changed {
            target: *target,
            before: Some(row.size.bytes),
            now: None,
        };
        self.tell(now, notice);
        true
    }

    /// The connections of the target with this index present the id from now on; if there is
    /// no such reservation, it is as if they did not until there is.
    pub fn present(&mut self, client: usize, buffer_id: Option<u16>) {
        self.clients[client].presents = buffer_id;
    }

    fn present_known(&mut self, target: &Name, id: Option<u16>) -> Result<usize, Outcome> {
        let mut clients = self.clients.iter();
        let client = clients
            .position(|client| client.name == *target)
            .ok_or(Outcome::UnknownVolume)?;
        match id {
            Some(id) if !(1..=NUMBER_MAX).contains(&id) => Err(Outcome::OutOfRange),
            Some(id) if !self.is_by_id(id) => Err(Outcome::UnknownReservation),
            _ => {
                self.present(client, id);
                Ok(client)
            }
        }
    }

    /// Whether a reservation can be for this.
    fn check(&self, target: &ReservationTarget) -> Result<(), Outcome> {
        let mut clients = self.clients.iter();
        let (local, leads) = match *target {
            ReservationTarget::Pair { local, remote } => {
                (local, clients.any(|client| *client.remote.ip() == remote))
            }
            ReservationTarget::PairPort { local, remote } => {
                (local, clients.any(|client| client.remote == remote))
            }
            ReservationTarget::Connection { buffer_id } => {
                let is_id = (1..=NUMBER_MAX).contains(&buffer_id);
                return if is_id {
                    Ok(())
                } else {
                    Err(Outcome::OutOfRange)
                };
            }
        };
        if leads && self.locals.contains(&local) {
            Ok(())
        } else {
            Err(Outcome::UnknownPath)
        }
    }

    /// A number that nobody has, nor holds frames of.
    fn free_number(&mut self, pool: &Pool, target: &ReservationTarget) -> Option<u16> {
        let is_free = |places: &[u16], number: u16| {
            places[usize::from(number)] == 0 && pool.reserved(Reservation(number)).is_none()
        };
        if let ReservationTarget::Connection { buffer_id } = *target {
            return Some(buffer_id).filter(|&id| is_free(&self.places, id));
        }
        while self.highest > 1 && self.places[usize::from(self.highest)] != 0 {
            self.highest -= 1;
        }
        let mut numbers = (1..=self.highest).rev();
        numbers.find(|&number| is_free(&self.places, number))
    }

    fn insert(&mut self, now: Time, number: u16, target: ReservationTarget, size: ReservationSize) {
        match target {
            ReservationTarget::Pair { local, remote } => {
                self.pairs.insert(local, remote, 0, number);
            }
            ReservationTarget::PairPort { local, remote } => {
                self.pairs
                    .insert(local, *remote.ip(), remote.port(), number);
            }
            ReservationTarget::Connection { .. } => {}
        }
        self.rows.push(Row {
            target,
            number,
            size,
            since: now,
            flows: 0,
            refused: 0,
        });
        let place = self.rows.len();
        self.places[usize::from(number)] = u16::try_from(place).expect("RESERVATIONS_MAX");
        self.show(place - 1);
    }

    fn remove(&mut self, number: u16) -> Row {
        let place = usize::from(std::mem::take(&mut self.places[usize::from(number)])) - 1;
        let row = self.rows.swap_remove(place);
        match row.target {
            ReservationTarget::Pair { local, remote } => self.pairs.remove(local, remote, 0),
            ReservationTarget::PairPort { local, remote } => {
                self.pairs.remove(local, *remote.ip(), remote.port());
            }
            ReservationTarget::Connection { .. } => {}
        }
        self.highest = self.highest.max(number);
        if let Some(moved) = self.rows.get(place) {
            self.places[usize::from(moved.number)] =
                u16::try_from(place + 1).expect("RESERVATIONS_MAX");
            self.show(place);
        }
        row
    }

    fn tell(&mut self, now: Time, notice: Notice) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push_back((now, notice));
        }
    }

    /// The next that operators are to hear of.
    pub fn next_notice(&mut self) -> Option<(Time, Notice)> {
        self.notices.pop_front()
    }
}

/// What is shown of it (B-3).
impl Registry {
    /// Reservations; their rows are 0 to one less.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row is to be shown.
    fn show(&mut self, place: usize) {
        self.queued.resize(self.queued.len().max(place + 1), false);
        if !std::mem::replace(&mut self.queued[place], true) {
            let place = u16::try_from(place).expect("RESERVATIONS_MAX");
            self.to_show.push_back(place);
        }
    }

    /// Begins to count anew who takes from what.
    pub fn begin_count(&mut self) {
        while let Some(number) = self.counted.pop() {
            if let Some(place) = self.place_of(number) {
                self.rows[place].flows = 0;
                self.show(place);
            }
        }
    }

    /// A connection takes from it, and has wanted more than there was so many times more.
    pub fn count(&mut self, reservation: Reservation, refused: u64) {
        if let Some(place) = self.place_of(reservation.0) {
            let row = &mut self.rows[place];
            if row.flows == 0 {
                self.counted.push(reservation.0);
            }
            row.flows += 1;
            row.refused += refused;
            self.show(place);
        }
    }

    fn place_of(&self, number: u16) -> Option<usize> {
        usize::from(*self.places.get(usize::from(number))?).checked_sub(1)
    }

    /// So many more rows are to be shown, each in its turn, whether they have changed or not.
    pub fn show_some(&mut self, rows: usize) {
        for _ in 0..rows.min(self.rows.len()) {
            self.turn = (self.turn + 1) % self.rows.len();
            self.show(self.turn);
        }
    }

    /// The next row to be shown, and its place.
    pub fn next_shown(&mut self, pool: &Pool) -> Option<(usize, tables::Reservation)> {
        loop {
            let place = usize::from(self.to_show.pop_front()?);
            self.queued[place] = false;
            // One that was taken away since leaves its place here.
            let Some(row) = self.rows.get(place) else {
                continue;
            };
            let held = pool.reserved(Reservation(row.number));
            let (listed, in_use) = held.map_or((0, 0), |held| (held.listed, held.in_use));
            return Some((
                place,
                tables::Reservation {
                    target: row.target,
                    buffer_id: row.number,
                    reserved_bytes: row.size.bytes,
                    held_bytes: bytes_of(listed + in_use),
                    allocated_bytes: bytes_of(in_use),
                    automatic: row.size.automatic,
                    sessions: row.size.sessions,
                    connections: row.size.connections,
                    flows: row.flows,
                    refused: row.refused,
                    since_ns: row.since.as_nanos(),
                },
            ));
        }
    }
}

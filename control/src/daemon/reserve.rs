//! Requests about reservations and paths: looked at, brought to the data plane, kept.

use sluice_config::{
    PathChange, RESERVATION_KIB_MIN, RESERVATIONS_MAX, Reservation, ReservationChange,
    ReservationEntry, ReservationError, ReservationTarget,
};
use sluice_hugepages::tables::{self, BufferState, Command, Completion, Outcome, Path, text};

use super::policy::{Policy, bad_request, no_data_plane};
use super::reconcile::size_of;
use crate::amount;
use crate::protocol::{BuffersReply, FailureKind, PathValues, Reply};
use crate::sizing::{self, Advice, BUFFER_BYTES, Paths, shown, whole_buffers, wire};

impl Policy {
    pub(super) fn reserve(
        &mut self,
        mut entry: ReservationEntry,
        update: bool,
    ) -> Result<Reply, Reply> {
        // What is free stands in every refusal, and without a data plane there is none.
        let free = self.query(None)?.buffers.free_bytes;
        let chosen = entry.kind == "connection" && entry.buffer_id.is_none() && !update;
        if chosen {
            entry.buffer_id = Some(self.free_buffer_id()?.into());
        }
        let target = entry.target().map_err(|error| refused(&error, free))?;
        let mut effective = self.state.effective_reservations(&self.config).into_iter();
        let known = effective.find(|own| own.target == target);
        if update && let Some(known) = &known {
            keep(&mut entry, known);
        }
        check_size(&entry, free)?;
        let mut wanted = entry.read().map_err(|error| refused(&error, free))?;
        wanted
            .check(&self.config)
            .map_err(|error| refused(&error, free))?;
        let before = self.query(Some(target))?.buffers;
        let advice = self.advice(&wanted);
        let recommended = advice.recommended;
        let mut warning = None;
        if wanted.automatic {
            let last = known.and_then(|known| known.size_kib).map(|kib| kib * 1024);
            let otherwise = u64::from(self.config.iscsi.wan_send_bytes);
            let before_that = last.unwrap_or(otherwise);
            let asked = whole_buffers(match recommended {
                Some(bytes) if advice.at_least => bytes.max(before_that),
                known => known.unwrap_or(before_that),
            });
            let room = before.reserved_bytes.saturating_add(before.free_bytes);
            let given = asked
                .min(room / BUFFER_BYTES * BUFFER_BYTES)
                .max(RESERVATION_KIB_MIN * 1024);
            if given < asked {
                warning = Some(format!(
                    "{} would be right, and does not fit: it has {}, all that is free, and grows when more is. Cancel or shrink another, or raise frames_mib",
                    amount::bytes(asked),
                    amount::bytes(given)
                ));
            }
            wanted.size_kib = Some(given / 1024);
        } else if let Some(recommended) = recommended
            && recommended > wanted.bytes(0)
        {
            warning = Some(format!("{} is recommended", amount::bytes(recommended)));
        }
        let (wanted, completion) = self.make(wanted, chosen)?;
        let size = size_of(&wanted, 0);
        self.state.reserve(wanted);
        self.keep()?;
        let name = shown(wire(wanted.target));
        let how = if wanted.automatic {
            "automatic"
        } else {
            "manual"
        };
        log::info!("reservation {name}: {}, {how}", amount::bytes(size.bytes));
        if let Some(warning) = &warning {
            log::warn!("reservation {name}: {warning}");
        }
        Ok(Reply::Buffers(BuffersReply {
            recommended_bytes: recommended,
            warning,
            ..reply(&completion.buffers)
        }))
    }

    /// Has the data plane make it; of a buffer id that was chosen the next free one, while
    /// connections still hold buffers of one that had it.
    fn make(
        &mut self,
        mut wanted: Reservation,
        chosen: bool,
    ) -> Result<(Reservation, Completion), Reply> {
        const TRIES: usize = 16;
        let mut tries = 0;
        loop {
            let command = Command::Reserve {
                target: wire(wanted.target),
                size: size_of(&wanted, 0),
            };
            let completion = self.plane_command(&command)?;
            tries += 1;
            match (completion.outcome, wanted.target) {
                (Outcome::NoReservationLeft, ReservationTarget::Connection { buffer_id })
                    if chosen && tries < TRIES =>
                {
                    let buffer_id = self.free_buffer_id_above(buffer_id)?;
                    wanted.target = ReservationTarget::Connection { buffer_id };
                }
                (Outcome::Done, _) => return Ok((wanted, completion)),
                _ => {
                    let bytes = size_of(&wanted, 0).bytes;
                    return Err(failed(wanted.target, bytes, &completion));
                }
            }
        }
    }

    pub(super) fn cancel(&mut self, entry: &ReservationEntry) -> Result<Reply, Reply> {
        let target = entry.target().map_err(bad_request)?;
        let mut effective = self.state.effective_reservations(&self.config).into_iter();
        // One that the configuration has no ports for any more is in the state alone.
        let kept = |change: &ReservationChange| matches!(change, ReservationChange::Made(own) if own.target == target);
        let known =
            effective.any(|own| own.target == target) || self.state.reservations.iter().any(kept);
        let target_of = wire(target);
        let command = Command::CancelReservation { target: target_of };
        let completion = self.plane_command(&command)?;
        match completion.outcome {
            Outcome::Done => {}
            // One that did not fit when the data plane started is no more than wanted.
            Outcome::UnknownReservation if known => {}
            _ => return Err(failed(target, 0, &completion)),
        }
        self.state.cancel_reservation(target, &self.config);
        self.keep()?;
        log::info!("reservation {} cancelled", shown(target_of));
        Ok(Reply::Buffers(reply(&completion.buffers)))
    }

    pub(super) fn query_reservation(
        &mut self,
        entry: Option<ReservationEntry>,
    ) -> Result<Reply, Reply> {
        let target = entry.map(|entry| entry.target()).transpose();
        let target = target.map_err(bad_request)?;
        let buffers = self.query(target)?.buffers;
        let mut effective = self.state.effective_reservations(&self.config).into_iter();
        let known = target.and_then(|target| effective.find(|own| own.target == target));
        Ok(Reply::Buffers(BuffersReply {
            recommended_bytes: known.and_then(|known| self.advice(&known).recommended),
            ..reply(&buffers)
        }))
    }

    /// The state of the buffers, and of the reservation if there is one.
    fn query(&mut self, target: Option<ReservationTarget>) -> Result<Completion, Reply> {
        let command = Command::QueryBuffers {
            target: target.map(wire),
        };
        let completion = self.plane_command(&command)?;
        match (completion.outcome, target) {
            (Outcome::Done | Outcome::UnknownReservation, _) => Ok(completion),
            (_, Some(target)) => Err(failed(target, 0, &completion)),
            (outcome, None) => Err(bad_request(format!("the data plane answered {outcome:?}"))),
        }
    }

    pub(super) fn present(&mut self, target: &str, buffer_id: Option<i64>) -> Result<Reply, Reply> {
        let name = target.to_lowercase();
        if !self.config.targets.iter().any(|own| own.name == name) {
            return Err(Reply::Failed {
                kind: FailureKind::UnknownVolume,
                message: format!("{name}: no such target is configured"),
            });
        }
        let buffer_id = match buffer_id {
            None => None,
            Some(id) => {
                let mut effective = self.state.effective_reservations(&self.config).into_iter();
                let is_meant = |own: &Reservation| match own.target {
                    ReservationTarget::Connection { buffer_id } => i64::from(buffer_id) == id,
                    _ => false,
                };
                if !effective.any(|own| is_meant(&own)) {
                    return Err(Reply::Failed {
                        kind: FailureKind::UnknownReservation,
                        message: format!(
                            "buffer id {id}: no connection reservation has it; `sluicectl reserve show` lists them, `sluicectl reserve add connection` makes one"
                        ),
                    });
                }
                u16::try_from(id).ok()
            }
        };
        let command = Command::PresentBufferId {
            target: text(&name),
            buffer_id,
        };
        let completion = self.plane_command(&command)?;
        let (kind, what) = match completion.outcome {
            Outcome::Done => (None, ""),
            Outcome::UnknownReservation => (
                Some(FailureKind::UnknownReservation),
                "reservation of this id",
            ),
            _ => (Some(FailureKind::UnknownVolume), "such target"),
        };
        if let Some(kind) = kind {
            let message = format!(
                "{name}: the data plane has no {what}; its log, and that of sluice-control, say why"
            );
            return Err(Reply::Failed { kind, message });
        }
        self.state.present(&name, buffer_id);
        self.keep()?;
        match buffer_id {
            Some(id) => log::info!("connections of {name} present buffer id {id}"),
            None => log::info!("connections of {name} present no buffer id"),
        }
        Ok(Reply::Buffers(reply(&completion.buffers)))
    }

    pub(super) fn set_path(&mut self, values: PathValues, typed: bool) -> Result<Reply, Reply> {
        let PathValues {
            local,
            remote,
            bytes_per_s,
            min_rtt_us,
        } = values;
        if bytes_per_s == Some(0) || min_rtt_us == Some(0) {
            return Err(bad_request(
                "a bandwidth or delay of 0 says nothing of a path; leave it out to have it measured",
            ));
        }
        if !typed && bytes_per_s.is_none() && min_rtt_us.is_none() {
            return Err(bad_request(
                "nothing to report; give a bandwidth, a delay or both",
            ));
        }
        self.path_command(&Command::SetPath {
            local,
            remote,
            bytes_per_s,
            min_rtt_us,
            typed,
        })?;
        if typed {
            self.state.set_path(PathChange {
                local,
                remote,
                bytes_per_s,
                min_rtt_us,
            });
            self.keep()?;
        }
        let said = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        log::info!(
            "path {local} {remote} {}: {} B/s, {} us",
            if typed { "typed in" } else { "reported" },
            said(bytes_per_s),
            said(min_rtt_us)
        );
        Ok(Reply::Done { volumes: 0 })
    }

    /// A command about a path.
    pub(super) fn path_command(&mut self, command: &Command) -> Result<Reply, Reply> {
        let (Command::SetPath { local, remote, .. } | Command::MeasurePath { local, remote }) =
            command
        else {
            unreachable!("it is about a path");
        };
        let completion = self.plane_command(command)?;
        match completion.outcome {
            Outcome::Done => Ok(Reply::Done { volumes: 0 }),
            Outcome::UnknownPath => Err(Reply::Failed {
                kind: FailureKind::UnknownPath,
                message: format!(
                    "path {local} {remote}: there is none; `sluicectl path show` lists them"
                ),
            }),
            outcome => Err(bad_request(format!(
                "path {local} {remote}: the data plane refused the values ({outcome:?})"
            ))),
        }
    }

    pub(super) fn plane_command(&mut self, command: &Command) -> Result<Completion, Reply> {
        self.plane
            .command(command)
            .map_err(|error| no_data_plane(&error))
    }

    /// By the paths as they are measured now (B-13).
    fn advice(&self, of: &Reservation) -> Advice {
        let Some(reader) = self.plane.reader() else {
            return Advice::default();
        };
        let rows = reader.rows::<Path>().rows;
        let presented = sizing::presented(&self.config, &self.state);
        let paths = Paths::new(rows.iter().map(|(_, row)| row), &presented);
        let (sessions, connections) = (of.sessions.unwrap_or(0), of.connections.unwrap_or(0));
        paths.advice(wire(of.target), sessions, connections)
    }

    fn free_buffer_id(&self) -> Result<u16, Reply> {
        self.free_buffer_id_above(0)
    }

    /// The lowest that nothing has: neither the data plane's rows, which may be a moment old,
    /// nor what is wanted.
    fn free_buffer_id_above(&self, above: u16) -> Result<u16, Reply> {
        let mut taken = vec![false; usize::from(RESERVATIONS_MAX)];
        let mut take = |id: u16| {
            if let Some(taken) = taken.get_mut(usize::from(id)) {
                *taken = true;
            }
        };
        if let Some(reader) = self.plane.reader() {
            let rows = reader.rows::<tables::Reservation>().rows;
            rows.iter().for_each(|(_, row)| take(row.buffer_id));
        }
        for own in self.state.effective_reservations(&self.config) {
            if let ReservationTarget::Connection { buffer_id } = own.target {
                take(buffer_id);
            }
        }
        (above + 1..RESERVATIONS_MAX)
            .find(|&id| !taken[usize::from(id)])
            .ok_or_else(|| none_left(RESERVATIONS_MAX - 1))
    }
}

/// What an update does not say stays as it is.
fn keep(entry: &mut ReservationEntry, known: &Reservation) {
    let before = known.entry();
    if entry.size.is_none() && entry.size_kib.is_none() {
        (entry.size, entry.size_kib) = (before.size, before.size_kib);
    }
    entry.sessions = entry.sessions.or(before.sessions);
    entry.connections = entry.connections.or(before.connections);
}

/// A size that can be none is refused before anything else is looked at.
fn check_size(entry: &ReservationEntry, free: u64) -> Result<(), Reply> {
    match entry.size_kib {
        Some(kib) if kib < RESERVATION_KIB_MIN.cast_signed() => Err(bad_request(format!(
            "a size of {kib} KiB cannot be reserved: {} are free; give {RESERVATION_KIB_MIN}KiB or more, or `auto`",
            amount::kib(free)
        ))),
        _ => Ok(()),
    }
}

fn refused(error: &ReservationError, free: u64) -> Reply {
    let kind = match error.key {
        "local" | "remote" | "port" => FailureKind::UnknownPath,
        _ => FailureKind::BadRequest,
    };
    let free = amount::kib(free);
    Reply::Failed {
        kind,
        message: format!("{error} ({free} are free)"),
    }
}

fn none_left(most: u16) -> Reply {
    Reply::Failed {
        kind: FailureKind::NoReservationLeft,
        message: format!("there are {most} reservations, the most there can be; cancel one"),
    }
}

/// Why the data plane did not do it.
fn failed(target: ReservationTarget, bytes: u64, completion: &Completion) -> Reply {
    let name = shown(wire(target));
    let free = completion.buffers.free_bytes;
    let (kind, message) = match completion.outcome {
        Outcome::OutOfMemory => {
            let most = completion.buffers.reserved_bytes.saturating_add(free);
            let (asked, free, most) = (amount::kib(bytes), amount::kib(free), amount::kib(most));
            (
                FailureKind::OutOfMemory,
                format!(
                    "{name}: out of memory: {asked} are asked for, and {free} are free; nothing was changed. Give {most} or less, cancel or shrink another, or raise frames_mib"
                ),
            )
        }
        Outcome::UnknownReservation => (
            FailureKind::UnknownReservation,
            format!("{name}: no such reservation; `sluicectl reserve show` lists them"),
        ),
        Outcome::UnknownPath => (
            FailureKind::UnknownPath,
            format!(
                "{name}: no port has this local address, or no target the remote one ({} are free); `sluicectl path show` lists the paths",
                amount::kib(free)
            ),
        ),
        Outcome::NoReservationLeft => match target {
            ReservationTarget::Connection { buffer_id } => (
                FailureKind::NoReservationLeft,
                format!(
                    "{name}: connections still hold buffers of one that had id {buffer_id}; take another, or none to have one chosen"
                ),
            ),
            _ => return none_left(RESERVATIONS_MAX - 1),
        },
        outcome => (
            FailureKind::BadRequest,
            format!(
                "{name}: the data plane refused it ({outcome:?}); use the programs of one release"
            ),
        ),
    };
    Reply::Failed { kind, message }
}

fn reply(buffers: &BufferState) -> BuffersReply {
    BuffersReply {
        buffer_id: buffers.buffer_id,
        reserved_bytes: buffers.reserved_bytes,
        allocated_bytes: buffers.allocated_bytes,
        free_bytes: buffers.free_bytes,
        cache_free_bytes: buffers.cache_free_bytes,
        recommended_bytes: None,
        warning: None,
    }
}

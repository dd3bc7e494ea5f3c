//! Reservations: each on its own, then against ports and targets, and against each other.

use std::collections::HashSet;
use std::ops::Range;

use super::Checker;
use crate::raw;
use crate::{Config, RESERVATIONS_MAX, Reservation, ReservationEntry, ReservationTarget};

impl Checker<'_> {
    pub(super) fn reservations(&mut self, raw: &raw::File, config: &Config) -> Vec<Reservation> {
        let at_most = usize::from(RESERVATIONS_MAX) - 1;
        if let Some(extra) = raw.reservation.get(at_most) {
            let message = format!("more than {at_most} reservations; remove some");
            self.fault(extra.span(), message);
        }
        let mut reservations: Vec<Reservation> = Vec::new();
        let mut targets = HashSet::new();
        for raw in &raw.reservation {
            let (at, raw) = (raw.span(), raw.get_ref());
            let checked = entry(raw).read().and_then(|reservation| {
                // What only follows from faults of ports and routes is not shown.
                let known = self.nets_known && self.faults.is_empty();
                let checked = if known {
                    reservation.check(config)
                } else {
                    Ok(())
                };
                checked.map(|()| reservation)
            });
            match checked {
                Ok(reservation) => {
                    let target = reservation.target;
                    if !targets.insert(target) {
                        let message =
                            format!("another [[reservation]] is for {target} too; keep one");
                        self.fault(at, message);
                    }
                    reservations.push(reservation);
                }
                Err(error) => match place(raw, error.key) {
                    Some((at, value)) => {
                        self.fault(at, format!("{} = {value}: {}", error.key, error.hint));
                    }
                    None => self.fault(at, error.to_string()),
                },
            }
        }
        self.presented(raw, &targets);
        reservations
    }

    /// What the reservations begin with, all together, as far as they can be read.
    pub(super) fn reserved_bytes(&self, raw: &raw::File, wan_send_bytes: u32) -> u64 {
        let sizes = raw
            .reservation
            .iter()
            .map(|raw| begins_with(raw.get_ref(), wan_send_bytes));
        sizes.fold(0, u64::saturating_add)
    }

    /// They are no more than this; said of the first that is too much.
    pub(super) fn reservations_fit(
        &mut self,
        raw: &raw::File,
        wan_send_bytes: u32,
        (room, frames_bytes): (u64, u64),
    ) {
        let mut left = room;
        for raw in &raw.reservation {
            let (at, raw) = (raw.span(), raw.get_ref());
            let bytes = begins_with(raw, wan_send_bytes);
            if let Some(rest) = left.checked_sub(bytes) {
                left = rest;
                continue;
            }
            let (at, key) = match place(raw, "size_kib") {
                Some((at, value)) => (at, format!("size_kib = {value}")),
                None => (
                    at,
                    format!("size = \"automatic\", {} KiB at first", bytes / 1024),
                ),
            };
            let (left, frames) = (left / 1024, frames_bytes >> 20);
            let message = format!(
                "{key}: {left} KiB are left for it of frames_mib = {frames}; reserve less, or raise frames_mib"
            );
            return self.fault(at, message);
        }
    }

    /// Every buffer id that a target presents is reserved.
    fn presented(&mut self, raw: &raw::File, targets: &HashSet<ReservationTarget>) {
        for at in raw
            .target
            .iter()
            .filter_map(|target| target.get_ref().buffer_id.as_ref())
        {
            let id = u16::try_from(*at.get_ref());
            let is_reserved = id.is_ok_and(|buffer_id| {
                targets.contains(&ReservationTarget::Connection { buffer_id })
            });
            if !is_reserved && self.faults.is_empty() {
                let hint = format!(
                    "is not reserved; add a [[reservation]] with kind = \"connection\" and buffer_id = {}",
                    at.get_ref()
                );
                self.bad("buffer_id", at, &hint);
            }
        }
    }
}

/// 0 of one that makes no sense, which is said elsewhere.
fn begins_with(raw: &raw::Reservation, wan_send_bytes: u32) -> u64 {
    let read = entry(raw).read();
    read.map_or(0, |reservation| reservation.bytes(wan_send_bytes.into()))
}

fn entry(raw: &raw::Reservation) -> ReservationEntry {
    let text = |at: &Option<raw::Text>| at.as_ref().map(|at| at.get_ref().clone());
    let number = |at: &Option<raw::Number>| at.as_ref().map(|at| *at.get_ref());
    ReservationEntry {
        kind: raw.kind.get_ref().clone(),
        local: text(&raw.local),
        remote: text(&raw.remote),
        port: number(&raw.port),
        buffer_id: number(&raw.buffer_id),
        size: text(&raw.size),
        size_kib: number(&raw.size_kib),
        sessions: number(&raw.sessions),
        connections: number(&raw.connections),
        cancelled: false,
    }
}

/// Where the value of a key stands, and what it is.
fn place(raw: &raw::Reservation, key: &str) -> Option<(Range<usize>, String)> {
    let text = |at: &raw::Text| (at.span(), format!("{:?}", at.get_ref()));
    let number = |at: &raw::Number| (at.span(), at.get_ref().to_string());
    match key {
        "kind" => Some(text(&raw.kind)),
        "local" => raw.local.as_ref().map(text),
        "remote" => raw.remote.as_ref().map(text),
        "port" => raw.port.as_ref().map(number),
        "buffer_id" => raw.buffer_id.as_ref().map(number),
        "size" => raw.size.as_ref().map(text),
        "size_kib" => raw.size_kib.as_ref().map(number),
        "sessions" => raw.sessions.as_ref().map(number),
        "connections" => raw.connections.as_ref().map(number),
        _ => None,
    }
}

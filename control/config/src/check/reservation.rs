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

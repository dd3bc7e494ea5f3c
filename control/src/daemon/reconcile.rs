//! What a data plane has of reservations and typed paths against what it is to have, as the
//! commands that bring it there. A data plane that is as it should be gets none.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use sluice_config::{PathChange, Reservation, ReservationTarget as Configured};
use sluice_hugepages::tables::{self, Command, Path, ReservationSize, ReservationTarget};

use crate::sizing::{whole_buffers, wire};

pub(super) fn configured(target: ReservationTarget) -> Configured {
    match target {
        ReservationTarget::Pair { local, remote } => Configured::Pair { local, remote },
        ReservationTarget::PairPort { local, remote } => Configured::PairPort { local, remote },
        ReservationTarget::Connection { buffer_id } => Configured::Connection { buffer_id },
    }
}

/// `otherwise`: bytes of an automatic one that nothing was ever recommended for.
pub(super) fn size_of(reservation: &Reservation, otherwise: u64) -> ReservationSize {
    ReservationSize {
        bytes: whole_buffers(reservation.bytes(otherwise)),
        automatic: reservation.automatic,
        sessions: reservation.sessions.unwrap_or(0),
        connections: reservation.connections.unwrap_or(0),
    }
}

/// Whether the row is of this reservation, and automatic as it is: then the size is the row's
/// to say, which is the newer one where a daemon ended before it was in the state file.
pub(super) fn follows(row: &tables::Reservation, wanted: &ReservationSize) -> bool {
    let counts = (row.sessions, row.connections);
    row.automatic && wanted.automatic && counts == (wanted.sessions, wanted.connections)
}

/// First what gives memory back, then what takes it.
pub(super) fn commands(
    wanted: &[Reservation],
    otherwise: u64,
    rows: &[tables::Reservation],
) -> Vec<Command> {
    let mut missing: BTreeMap<ReservationTarget, ReservationSize> = wanted
        .iter()
        .map(|reservation| (wire(reservation.target), size_of(reservation, otherwise)))
        .collect();
    let mut giving = Vec::new();
    let mut taking = Vec::new();
    for row in rows {
        let target = row.target;
        let Some(size) = missing.remove(&target) else {
            giving.push(Command::CancelReservation { target });
            continue;
        };
        let has = ReservationSize {
            bytes: row.reserved_bytes,
            automatic: row.automatic,
            sessions: row.sessions,
            connections: row.connections,
        };
        if has == size || follows(row, &size) {
            continue;
        }
        let list = if size.bytes < has.bytes {
            &mut giving
        } else {
            &mut taking
        };
        list.push(Command::Reserve { target, size });
    }
    let made = missing.into_iter();
    taking.extend(made.map(|(target, size)| Command::Reserve { target, size }));
    giving.append(&mut taking);
    giving
}

/// Typed values that the rows have otherwise.
pub(super) fn path_commands(typed: &[PathChange], rows: &[Path]) -> Vec<Command> {
    let wanted = |local, remote: SocketAddrV4| {
        let own = typed
            .iter()
            .find(|path| (path.local, path.remote) == (local, remote));
        own.map_or((None, None), |path| (path.bytes_per_s, path.min_rtt_us))
    };
    rows.iter()
        .filter_map(|row| {
            let (bytes_per_s, min_rtt_us) = wanted(row.local, row.remote);
            let differs = (row.typed_bytes_per_s, row.typed_rtt_us) != (bytes_per_s, min_rtt_us);
            differs.then_some(Command::SetPath {
                local: row.local,
                remote: row.remote,
                bytes_per_s,
                min_rtt_us,
                typed: true,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizing::tests::{LOCAL, REMOTE, path};

    pub fn row(target: ReservationTarget, bytes: u64, automatic: bool) -> tables::Reservation {
        tables::Reservation {
            target,
            buffer_id: 1,
            reserved_bytes: bytes,
            held_bytes: bytes,
            allocated_bytes: 0,
            automatic,
            sessions: 0,
            connections: 0,
            flows: 0,
            refused: 0,
            since_ns: 0,
        }
    }

    fn made(buffer_id: u16, kib: u64, automatic: bool) -> Reservation {
        Reservation {
            target: Configured::Connection { buffer_id },
            automatic,
            size_kib: Some(kib),
            sessions: None,
            connections: None,
        }
    }

    fn bytes_of(commands: &[Command]) -> Vec<(u16, Option<u64>)> {
        let of = |command: &Command| match command {
            Command::Reserve {
                target: ReservationTarget::Connection { buffer_id },
                size,
            } => (*buffer_id, Some(size.bytes / 1024)),
            Command::CancelReservation {
                target: ReservationTarget::Connection { buffer_id },
            } => (*buffer_id, None),
            other => panic!("{other:?}"),
        };
        commands.iter().map(of).collect()
    }

    #[test]
    fn b07_a_data_plane_gets_what_it_has_not_and_loses_what_it_should_not_have() {
        let connection = |buffer_id| ReservationTarget::Connection { buffer_id };
        let wanted = [
            made(1, 64, false),
            made(2, 64, false),
            made(3, 64, false),
            made(4, 64, true),
            made(5, 64, true),
        ];
        let rows = [
            row(connection(1), 64 << 10, false),
            row(connection(2), 32 << 10, false),
            row(connection(3), 128 << 10, false),
            // It has followed the path since the state was written.
            row(connection(4), 96 << 10, true),
            row(connection(5), 96 << 10, false),
            row(connection(9), 64 << 10, false),
        ];
        let difference = commands(&wanted, 0, &rows);
        assert_eq!(
            bytes_of(&difference),
            [(3, Some(64)), (5, Some(64)), (9, None), (2, Some(64))]
        );
        let none = commands(&wanted[..1], 0, &rows[..1]);
        assert!(none.is_empty(), "{none:?}");
        assert_eq!(bytes_of(&commands(&wanted[..1], 0, &[])), [(1, Some(64))]);
    }

    #[test]
    fn b14_typed_paths_are_set_again_and_taken_back() {
        let mut row = path(REMOTE, 10, 10);
        let typed = [PathChange {
            local: LOCAL,
            remote: REMOTE,
            bytes_per_s: Some(7),
            min_rtt_us: None,
        }];
        let set = |bytes_per_s| Command::SetPath {
            local: LOCAL,
            remote: REMOTE,
            bytes_per_s,
            min_rtt_us: None,
            typed: true,
        };
        let rows = |row: &Path| vec![row.clone()];
        assert_eq!(path_commands(&typed, &rows(&row)), [set(Some(7))]);
        row.typed_bytes_per_s = Some(7);
        assert_eq!(path_commands(&typed, &rows(&row)), []);
        assert_eq!(path_commands(&[], &rows(&row)), [set(None)]);
    }
}

//! Well-formed commands with any values, on the edges more often than not.

use std::net::{Ipv4Addr, SocketAddrV4};

use sluice_hugepages::tables::{
    Command, FlushSetting, Name, RESERVATIONS_MAX, ReservationSize, ReservationTarget, Scope, text,
};
use sluice_sim::site::{RELAY_LAN, STORAGE, TARGETS};
use sluice_sim::storage::PORT;

use crate::source::Source;

/// The relay's own address towards the storages.
const RELAY_WAN: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

/// One of any kind; `free_bytes` is what there is to have.
pub fn any(source: &mut Source<'_>, free_bytes: u64) -> Command {
    match source.below(16) {
        0..=6 => Command::Reserve {
            target: target(source),
            size: ReservationSize {
                bytes: bytes(source, free_bytes),
                automatic: source.byte() & 1 != 0,
                sessions: count(source),
                connections: count(source),
            },
        },
        7 | 8 => Command::CancelReservation {
            target: target(source),
        },
        9 => Command::QueryBuffers {
            target: (source.byte() & 1 != 0).then(|| target(source)),
        },
        10 | 11 => Command::PresentBufferId {
            target: name(source),
            buffer_id: (source.byte() & 3 != 0).then(|| buffer_id(source)),
        },
        12 => Command::SetPath {
            local: local(source),
            remote: SocketAddrV4::new(remote(source), port(source)),
            bytes_per_s: (source.byte() & 3 != 0).then(|| large(source)),
            min_rtt_us: (source.byte() & 3 != 0).then(|| large(source)),
            typed: source.byte() & 1 != 0,
        },
        13 => Command::MeasurePath {
            local: local(source),
            remote: SocketAddrV4::new(remote(source), port(source)),
        },
        14 => Command::SetFlush {
            scope: match source.below(3) {
                0 => Scope::All,
                1 => Scope::Target(name(source)),
                _ => Scope::Volume {
                    target: name(source),
                    lun: large(source),
                },
            },
            setting: FlushSetting {
                threshold_bytes: Some(large(source)),
                period_ms: Some(large(source)),
                ..FlushSetting::default()
            },
        },
        _ => Command::Drain {
            on: source.byte() & 1 != 0,
        },
    }
}

fn target(source: &mut Source<'_>) -> ReservationTarget {
    match source.below(4) {
        0 | 1 => ReservationTarget::Pair {
            local: local(source),
            remote: remote(source),
        },
        2 => ReservationTarget::PairPort {
            local: local(source),
            remote: SocketAddrV4::new(remote(source), port(source)),
        },
        _ => ReservationTarget::Connection {
            buffer_id: buffer_id(source),
        },
    }
}

fn local(source: &mut Source<'_>) -> Ipv4Addr {
    match source.below(8) {
        0..=5 => RELAY_WAN,
        6 => RELAY_LAN,
        _ => Ipv4Addr::from(source.word()),
    }
}

fn remote(source: &mut Source<'_>) -> Ipv4Addr {
    match source.below(8) {
        0..=6 => STORAGE,
        _ => Ipv4Addr::from(source.word()),
    }
}

fn port(source: &mut Source<'_>) -> u16 {
    match source.below(8) {
        0..=6 => PORT,
        _ => source.half(),
    }
}

fn buffer_id(source: &mut Source<'_>) -> u16 {
    let most = u16::try_from(RESERVATIONS_MAX).expect("16 bits");
    match source.below(8) {
        low @ 0..=3 => u16::try_from(low).expect("small"),
        4 => most - 1,
        5 => most,
        6 => u16::MAX,
        _ => source.half(),
    }
}

fn name(source: &mut Source<'_>) -> Name {
    match source.below(8) {
        0..=5 => text(TARGETS[0]),
        6 => text(""),
        _ => text("iqn.2004-03.example.sim:nobody"),
    }
}

fn count(source: &mut Source<'_>) -> u16 {
    match source.below(4) {
        low @ 0..=2 => u16::try_from(low).expect("small"),
        _ => source.half(),
    }
}

/// Bytes of a reservation: few, what there is, more, and what nobody has.
fn bytes(source: &mut Source<'_>, free_bytes: u64) -> u64 {
    let near = u64::from(source.byte());
    match source.below(10) {
        0 => 0,
        1 => near,
        2 => near * 256,
        3..=5 => near * 4096,
        6 => (near + 1) * 65_536,
        7 => free_bytes.saturating_sub(near * 4096),
        8 => free_bytes + near,
        _ => large(source),
    }
}

fn large(source: &mut Source<'_>) -> u64 {
    const EDGES: [u64; 8] = [
        0,
        1,
        1 << 20,
        u32::MAX as u64,
        1 << 40,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    match source.byte() {
        at @ 0..=127 => EDGES[usize::from(at) % EDGES.len()],
        _ => u64::from(source.word()) << source.below(33),
    }
}

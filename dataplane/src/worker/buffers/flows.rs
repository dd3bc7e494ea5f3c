//! Connections to storages and the reservations that they take from (B-8): which one when it
//! connects, another when a reservation comes, goes or changes, and what is shown of them.

use sluice_hugepages::pool::{FRAME_LEN, Pool, Reservation};
use sluice_hugepages::tables::{self, BufferState, Command, Outcome, text};
use sluice_proto::Time;

use super::Concerned;
use crate::tcp::{Tcp, WanBuffers};
use crate::worker::nexus::Nexus;
use crate::worker::relay::{Net, Relay};

/// Rows of reservations that nothing has happened to, and are shown all the same in a round.
const ROWS_A_ROUND: usize = 256;

impl Relay {
    /// What a connection to the target takes from, and the most that it may have.
    pub(in crate::worker) fn buffers_for(&self, target: usize) -> (WanBuffers, Reservation) {
        let reservation = self.reservations.find_for(target);
        let buffers = WanBuffers {
            tx_frames: self
                .reservations
                .limit(reservation)
                .unwrap_or(self.config.wan_buffers.tx_frames),
            ..self.config.wan_buffers
        };
        (buffers, reservation)
    }

    /// Carries out a command about buffers; `None`: it is none.
    pub fn command_about_buffers(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        command: &Command,
    ) -> Option<(Outcome, BufferState)> {
        let answer = self.reservations.command(now, net.pool, command)?;
        self.look_again(net, answer.concerned);
        let room = self.log.room();
        let segment_len = room.bytes_total / room.segments_total.max(1) as u64;
        let free = room.segments_free.saturating_sub(self.margin_segments);
        let buffers = BufferState {
            cache_free_bytes: free as u64 * segment_len,
            ..answer.buffers
        };
        Some((answer.outcome, buffers))
    }

    /// Connections that a change concerns take from what is theirs now; what they hold of
    /// another they give back to that as it is acknowledged.
    pub(in crate::worker) fn look_again(&mut self, net: &mut Net<'_>, concerned: Concerned) {
        if concerned == Concerned::Nobody {
            return;
        }
        for (_, nexus) in &self.nexuses {
            let Nexus { target, flow, .. } = *nexus;
            if let Some(flow) = flow
                && self.reservations.concerns(concerned, target)
            {
                let (buffers, reservation) = self.buffers_for(target);
                net.tcp
                    .set_send_buffer(net.pool, flow, buffers.tx_frames, reservation);
            }
        }
        for target in 0..self.config.targets.len() {
            if self.reservations.concerns(concerned, target) {
                self.lanes_follow(target);
            }
        }
    }

    /// The flush of the target goes by as many sessions as the reservation is for that its
    /// connections take from, if that says so (B-13).
    pub(crate) fn lanes_follow(&mut self, target: usize) {
        let reservation = self.reservations.find_for(target);
        let size = self.reservations.size_of(reservation);
        let lanes = size.and_then(|size| {
            let connections = size.connections.max(1);
            (size.sessions > 0).then(|| usize::from(size.sessions) * usize::from(connections))
        });
        self.set_lanes(target, lanes);
    }

    /// Counts who takes from which reservation.
    pub(in crate::worker) fn count_flows(&mut self, tcp: &Tcp) {
        let Self {
            nexuses,
            reservations,
            ..
        } = self;
        reservations.begin_count();
        for (_, nexus) in nexuses.iter_mut() {
            if let Some(held) = nexus.flow.and_then(|flow| tcp.held(flow)) {
                let refused = held.refused.saturating_sub(nexus.draws_refused);
                nexus.draws_refused = held.refused;
                reservations.count(held.reservation, refused);
            }
        }
    }

    /// The connections to storages with what they hold (B-3).
    pub fn allocations<'a>(
        &'a self,
        tcp: &'a Tcp,
    ) -> impl Iterator<Item = tables::Allocation> + 'a {
        let bytes = |frames: u32| u64::from(frames) * FRAME_LEN as u64;
        self.nexuses.iter().filter_map(move |(_, nexus)| {
            let flow = nexus.flow?;
            let (held, ends) = (tcp.held(flow)?, tcp.ends(flow)?);
            Some(tables::Allocation {
                local: ends.local,
                remote: ends.remote,
                target: text(&self.config.targets[nexus.target].name),
                buffer_id: held.reservation.0,
                allocated_bytes: bytes(held.frames),
                limit_bytes: bytes(held.limit_frames),
                unacknowledged_bytes: held.unacknowledged,
                refused: held.refused,
            })
        })
    }

    /// Rows of reservations by their places: those that have changed since they were shown,
    /// that somebody takes from, and some of the others in their turn.
    pub(in crate::worker) fn show_reservations(
        &mut self,
        pool: &Pool,
        mut show: impl FnMut(usize, tables::Reservation),
    ) {
        self.reservations.show_some(ROWS_A_ROUND);
        while let Some((place, row)) = self.reservations.next_shown(pool) {
            show(place, row);
        }
    }
}

//! The lanes of a flush: sessions that carry the writes of a target's volumes side by
//! side, where one is too little for its path or its storage.
//!
//! The first lane is the session of the nexus that carries the flush; the others are
//! nexuses under the same initiator name that are no computer's. As every nexus they are
//! persisted before their first login, and reinstated (C-8).
//!
//! There are as many as the target is configured to have, or as a reservation of buffers that
//! its connections take from says (B-13), which changes while they run.
//!
//! What always holds:
//! * writes alone go by the other lanes: every sync goes by the carrier, which hears of
//!   a reset before its sync is done (C-2);
//! * what a lane that is lost had under way goes back to the queue, and nothing changes
//!   at the target until that lane is reinstated ([`super::fence`]);
//! * with the carrier all that is unsynced is lost, and what the others have under way
//!   is waited for before anything is sent again;
//! * a lane that a reservation keeps out carries nothing.
//!
//! Not for: what may be sent (the flush queue), and how much (`super::flight`).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_proto::Time;

use super::fence::ATTEMPTS_BEFORE_RESET;
use super::nexus::{Nexus, WanState};
use super::relay::Relay;
use super::task::{NexusKey, VolumeKey};

/// Sessions that flush to one target, at most.
pub const LANES_MAX: usize = sluice_config::LANES_MAX as usize;
/// Lanes beyond those that are configured that there is room for, of all targets together.
pub(super) const LANES_SPARE: usize = sluice_config::LANES_SPARE as usize;
/// Stands for the computer of a lane, which has none, also in the log's directory.
pub(super) const NO_COMPUTER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
/// Logins of a new lane in vain: the storage may let in no more than one.
const ATTEMPTS_OF_NEW: u32 = 2;
/// Until another try to open lanes, or to use them after a RESERVATION CONFLICT.
const PAUSE: Duration = Duration::from_secs(30);

/// Of one target.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    keys: ArrayVec<NexusKey, LANES_MAX>,
    /// Nexuses that are computers'.
    computers: usize,
    /// None are opened before.
    opens_at: Time,
    /// What a reservation says, the carrier among them; else the configuration does.
    asked: Option<usize>,
}

impl Nexus {
    /// Whether it is a lane, and no computer's.
    pub(super) fn is_lane(&self) -> bool {
        self.computer.ip().is_unspecified()
    }
}

impl Relay {
    pub(super) fn lane_entered(&mut self, key: NexusKey) {
        let nexus = &self.nexuses[key.0];
        let lanes = &mut self.lanes[nexus.target];
        if nexus.is_lane() {
            // One too many is of a start before: it is reinstated, and left.
            let _ = lanes.keys.try_push(key);
        } else {
            lanes.computers += 1;
        }
    }

    pub(super) fn lane_left(&mut self, key: NexusKey, nexus: &Nexus) {
        let lanes = &mut self.lanes[nexus.target];
        lanes.computers -= usize::from(!nexus.is_lane());
        lanes.keys.retain(|lane| *lane != key);
    }

    /// Whether a lane is to stay: there is somebody to flush for, and the storage takes it.
    pub(super) fn is_lane_needed(&self, key: NexusKey) -> bool {
        let nexus = &self.nexuses[key.0];
        let lanes = &self.lanes[nexus.target];
        let wanted = self.lanes_wanted(nexus.target) - 1;
        let is_one = lanes.keys.iter().take(wanted).any(|lane| *lane == key);
        let attempts_max = match nexus.established {
            true => ATTEMPTS_BEFORE_RESET,
            false => ATTEMPTS_OF_NEW,
        };
        let may_come = nexus.attempts < attempts_max;
        let leaves = matches!(nexus.state, WanState::LoggingOut | WanState::Gone);
        nexus.out_bytes > 0 || !leaves && is_one && may_come && lanes.computers > 0
    }

    /// A lane that is not needed any more is about to go: if the storage did not let it
    /// in, the next one has time.
    pub(super) fn lane_given_up(&mut self, now: Time, key: NexusKey) {
        let nexus = &self.nexuses[key.0];
        if nexus.is_lane() && !nexus.established && nexus.attempts >= ATTEMPTS_OF_NEW {
            self.lanes[nexus.target].opens_at = now + PAUSE;
        }
    }

    /// Sessions that are to flush to a target, the carrier's among them.
    fn lanes_wanted(&self, target: usize) -> usize {
        let asked = self.lanes[target].asked;
        asked.unwrap_or(self.config.targets[target].lanes)
    }

    /// Has a target's flush go by so many sessions, at most [`LANES_MAX`] and as many as there is
    /// room for; or by as many as it is configured to have. Those that are too many end when
    /// what they have under way does.
    pub fn set_lanes(&mut self, target: usize, lanes: Option<usize>) {
        let lanes = lanes.map(|lanes| lanes.clamp(1, LANES_MAX));
        let of = &mut self.lanes[target];
        if of.asked == lanes {
            return;
        }
        (of.asked, of.opens_at) = (lanes, Time::ZERO);
        for lane in of.keys.clone() {
            self.look_at_nexus(lane);
        }
    }

    /// Opens the lanes that the target is to have, as the carrier's initiator.
    pub(super) fn open_lanes(&mut self, now: Time, carrier: NexusKey) {
        let nexus = &self.nexuses[carrier.0];
        let (target, initiator_name) = (nexus.target, nexus.initiator_name);
        let wanted = self.lanes_wanted(target) - 1;
        while self.lanes[target].keys.len() < wanted && now >= self.lanes[target].opens_at {
            if self
                .new_nexus(target, initiator_name, [0; 6], NO_COMPUTER)
                .is_none()
            {
                self.lanes[target].opens_at = now + PAUSE;
            }
        }
    }

    /// The lane with the least under way, of those that may take one more write.
    pub(super) fn lane_for(
        &self,
        now: Time,
        key: VolumeKey,
        carrier: NexusKey,
    ) -> Option<NexusKey> {
        let first = Some(carrier).filter(|_| self.has_window_to_flush(carrier, key));
        let lanes = &self.lanes[self.nexuses[carrier.0].target].keys;
        if lanes.is_empty() || now < self.volume(key).lanes_from {
            return first;
        }
        let others = lanes.iter().copied().filter(|&lane| {
            let nexus = &self.nexuses[lane.0];
            lane != carrier && nexus.is_ready() && nexus.window() > 0 && self.is_let_in(key, lane)
        });
        let all = first.into_iter().chain(others);
        all.min_by_key(|lane| self.nexuses[lane.0].out_bytes)
    }

    /// The storage keeps a lane out by a reservation: for a while the carrier goes alone.
    pub(super) fn leave_lanes(&mut self, now: Time, key: VolumeKey) {
        self.volume_mut(key).lanes_from = now + PAUSE;
    }

    /// Whether what the session of this nexus has to say is a matter of the volume's flush.
    pub(super) fn serves_flush(&self, key: VolumeKey, nexus: NexusKey) -> bool {
        let volume = self.volume(key);
        volume.flush_nexus == Some(nexus)
            || self
                .nexuses
                .get(nexus.0)
                .is_some_and(|nexus| nexus.is_lane() && volume.target == Some(nexus.target))
    }
}

//! The sessions towards the storage: one nexus a computer and target, under
//! the computer's own initiator name, kept alive through outages.
//!
//! A nexus outlives the computer's session while it has records to flush, and
//! the data plane itself: its identity is persisted before its first login, so
//! that after a crash the same session is reinstated (C-8).

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;

use arrayvec::{ArrayString, ArrayVec};
use sluice_hugepages::log::NexusId;
use sluice_proto::Time;
use sluice_proto::iscsi::InitiatorConn;

use super::task::{LanKey, NexusKey, ProbeStep, TaskKey};
use crate::tcp::FlowId;

/// LUNs that one target may have.
pub const TARGET_LUNS_MAX: usize = 16;
/// Bytes of the sense data kept: fixed format to the sense-key specific field (SPC-5 4.4.3).
pub const SENSE_LEN: usize = 18;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Two retransmissions fit, at 1 and 3 s. Waiting longer, a timeout that TCP
/// doubles each time would outlast an outage; a new connection begins afresh.
const STALL_MAX: Duration = Duration::from_secs(6);
/// After an outage this is what the first flush waits for.
const BACKOFF_LAST: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WanState {
    /// TCP handshake under way.
    Connecting,
    LoggingIn,
    /// Asking for LUNs, capacity and caching mode.
    Probing,
    Ready,
    /// Not before this time.
    Backoff(Time),
    LoggingOut,
    /// Logged out, or refused for good: to be removed.
    Gone,
}

/// Questions after a login: REPORT LUNS, then for each LUN its capacity and caching mode.
#[derive(Debug, Default)]
pub struct Probe {
    pub luns: ArrayVec<u64, TARGET_LUNS_MAX>,
    /// Index into `luns` of the one being asked.
    pub at: usize,
    pub step: Option<ProbeStep>,
    /// Unit attentions and busy answers met at this step.
    pub tries: u32,
    /// The question is out. If not, it waits for a window or a staging page.
    pub asked: bool,
    /// The storage has changed meanwhile: to be asked from the beginning.
    pub again: bool,
}

#[derive(Debug)]
pub struct Nexus {
    pub initiator_name: ArrayString<224>,
    pub lan_isid: [u8; 6],
    /// Ours towards the storage, persisted.
    pub wan_isid: [u8; 6],
    /// Index of the configured target.
    pub target: usize,
    pub computer: SocketAddrV4,
    pub log_id: NexusId,
    pub lan: Option<LanKey>,
    pub flow: Option<FlowId>,
    pub conn: Option<Box<InitiatorConn>>,
    pub state: WanState,
    pub state_deadline: Time,
    pub attempts: u32,
    /// A login has succeeded at some time: a returning computer is let in at once.
    pub established: bool,
    pub probe: Probe,
    /// Unit attentions met by the relay's own commands, kept for the computer (C-14).
    pub unit_attentions: ArrayVec<(u64, [u8; SENSE_LEN]), TARGET_LUNS_MAX>,
    /// When it logged in, in the relay's sequence ([`super::reservation`]); 0 when it is not.
    pub entered: u64,
    pub entered_at: Time,
    /// By bit, volumes of which the cache alone has answered its computer since
    /// it was last asked for unit attentions; and when that was.
    pub unasked: u64,
    pub polled_at: Time,
    /// The storage has asked to be left by then: nothing new is sent, and it is
    /// left as soon as nothing is out; [`Time::FAR`] when that was said.
    pub leave_by: Option<Time>,
    /// Tasks that name this nexus.
    pub tasks: usize,
    /// Reads with chunks to ask for, and commands to forward, in order.
    pub wanted: VecDeque<TaskKey>,
    /// Reads that found no staging page, in order of arrival.
    pub starved: VecDeque<TaskKey>,
    /// In the relay's list of nexuses with such reads.
    pub starving: bool,
    /// Bytes of the log that its computer's writes have reserved and not filled.
    pub unfinished: u64,
    /// In the worker's list of connections to serve.
    pub queued: bool,
    pub last_heard: Time,
    /// Bytes given to the connection's stream, and those that its peer is known to have.
    pub sent: u64,
    pub acknowledged: u64,
    /// When bytes were last acknowledged, or none were outstanding.
    pub progressed: Time,
    /// Commands of an earlier session may still be under way at the storage.
    pub astray: bool,
    /// The nexus that resets what this one may have under way.
    pub fenced_by: Option<NexusKey>,
    /// LUNs that this nexus is to reset, the last one now.
    pub resets: ArrayVec<u64, TARGET_LUNS_MAX>,
    /// Bytes are, or may be, outstanding: it is looked at often enough to see a stall.
    pub watched: bool,
    pub pinged: Option<Time>,
    pub logins: u64,
    pub commands: u64,
    /// When the computer's session began.
    pub since: Time,
}

impl Nexus {
    pub fn is_ready(&self) -> bool {
        self.state == WanState::Ready
    }

    /// Looks at how far the peer's TCP is; true if it has been given bytes and
    /// has acknowledged none for [`STALL_MAX`]. A storage that is merely slow
    /// acknowledges all the same.
    pub fn is_stalled(&mut self, now: Time, unacknowledged: usize) -> bool {
        let acknowledged = self.sent.saturating_sub(unacknowledged as u64);
        if unacknowledged == 0 || acknowledged > self.acknowledged {
            self.acknowledged = acknowledged;
            self.progressed = now;
        }
        now.since(self.progressed) >= STALL_MAX
    }

    /// Something is to be asked of the storage, or may be soon.
    pub fn has_to_ask(&self) -> bool {
        self.probe.step.is_some() || self.unasked != 0 || self.entered != 0
    }

    /// Commands that the storage's window still takes.
    pub fn window(&self) -> usize {
        let conn = self.conn.as_ref().filter(|_| self.leave_by.is_none());
        conn.map_or(0, |conn| conn.window())
    }

    /// The pause before the next login, doubled each time, with up to a
    /// quarter of jitter from `random` so that many nexuses do not return at once.
    pub fn backoff(&self, random: u64) -> Duration {
        let doubled = BACKOFF_FIRST.saturating_mul(1 << self.attempts.min(10));
        let pause = doubled.min(BACKOFF_LAST);
        pause + pause.mul_f64((random % 1024) as f64 / 4096.0)
    }
}

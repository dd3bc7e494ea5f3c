//! The sessions towards the storage: one nexus a computer and target, under
//! the computer's own initiator name, kept alive through outages; and those that only
//! carry a flush beside it ([`super::lanes`]).
//!
//! A nexus outlives the computer's session while it has records to flush, and
//! the data plane itself: its identity is persisted before its first login, so
//! that after a crash the same session is reinstated (C-8).

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;

use arrayvec::{ArrayString, ArrayVec};
use sluice_hugepages::log::{NexusEntry, NexusId};
use sluice_proto::Time;
use sluice_proto::iscsi::InitiatorConn;

use super::lan::SESSION_TASKS_MAX;
use super::relay::{Net, Relay};
use super::task::{LanKey, NexusKey, ProbeStep, TaskKey};
use super::upkeep::nexus_slot;
use super::wan::WAN_TASKS_MAX;
use crate::journal::layout::RowTable;
use crate::tcp::FlowId;

/// LUNs that one target may have.
pub const TARGET_LUNS_MAX: usize = 16;
/// Bytes of the sense data kept: fixed format to the sense-key specific field (SPC-5 4.4.3).
pub const SENSE_LEN: usize = 18;

/// A storage that does not answer a logout for so long is left without.
const LOGOUT_MAX: Duration = Duration::from_secs(15);
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
    /// The journal's request for that row; it logs in when that is durable.
    pub persisted: u64,
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
    /// When its newest login began, and how long the newest that succeeded took.
    pub login_begun: Time,
    pub login_response: Duration,
    /// Bytes given to the connection's stream, and those that its peer is known to have.
    pub sent: u64,
    pub acknowledged: u64,
    /// Commands whose last data is in the stream and has not left for the storage: where
    /// it ends there, and when the command was given.
    pub leaving: VecDeque<(u64, usize, Time)>,
    /// In the relay's list of those that have such.
    pub departs: bool,
    /// When bytes were last acknowledged, or none were outstanding.
    pub progressed: Time,
    /// Commands of an earlier session may still be under way at the storage.
    pub astray: bool,
    /// The nexus that resets what this one may have under way.
    pub fenced_by: Option<NexusKey>,
    /// LUNs that this nexus is to reset, the last one now.
    pub resets: ArrayVec<u64, TARGET_LUNS_MAX>,
    /// Data-out of the commands that are out.
    pub out_bytes: u64,
    /// Times that its connection wanted a buffer in vain, when that was last looked at.
    pub draws_refused: u64,
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

impl Relay {
    /// A nexus of a computer's, with a name of its own that is persisted. `None`:
    /// there is no row for it.
    pub(super) fn new_nexus(
        &mut self,
        target: usize,
        initiator_name: ArrayString<224>,
        lan_isid: [u8; 6],
        computer: SocketAddrV4,
    ) -> Option<NexusKey> {
        if self.nexuses.len() == self.nexuses.capacity() {
            return None;
        }
        let wan_isid = self.new_isid();
        let policy = &self.config.targets[target];
        // Persisted before the first login under it (C-8).
        let log_id = self
            .log
            .put_nexus(NexusEntry {
                initiator_name,
                target_name: ArrayString::from(&policy.name).ok()?,
                storage: policy.address,
                computer,
                lan_isid,
                wan_isid,
            })
            .ok()?;
        let persisted = self.journal_row(RowTable::Nexus, log_id.0);
        let key = self.insert_nexus(target, initiator_name, lan_isid, wan_isid, computer, log_id);
        self.nexuses[key.0].persisted = persisted;
        Some(key)
    }

    pub(super) fn insert_nexus(
        &mut self,
        target: usize,
        initiator_name: ArrayString<224>,
        lan_isid: [u8; 6],
        wan_isid: [u8; 6],
        computer: SocketAddrV4,
        log_id: NexusId,
    ) -> NexusKey {
        let key = NexusKey(self.nexuses.insert(Nexus {
            initiator_name,
            lan_isid,
            wan_isid,
            target,
            computer,
            log_id,
            persisted: 0,
            lan: None,
            flow: None,
            conn: None,
            state: WanState::Backoff(Time::ZERO),
            state_deadline: Time::FAR,
            attempts: 0,
            established: false,
            probe: Probe::default(),
            leave_by: None,
            unit_attentions: ArrayVec::new(),
            entered: 0,
            entered_at: Time::ZERO,
            unasked: 0,
            polled_at: Time::ZERO,
            tasks: 0,
            wanted: VecDeque::with_capacity(SESSION_TASKS_MAX * 2),
            starved: VecDeque::with_capacity(SESSION_TASKS_MAX),
            starving: false,
            unfinished: 0,
            queued: false,
            last_heard: Time::ZERO,
            login_begun: Time::ZERO,
            login_response: Duration::ZERO,
            sent: 0,
            leaving: VecDeque::with_capacity(usize::from(WAN_TASKS_MAX)),
            departs: false,
            acknowledged: 0,
            progressed: Time::ZERO,
            out_bytes: 0,
            draws_refused: 0,
            watched: false,
            astray: false,
            fenced_by: None,
            resets: ArrayVec::new(),
            pinged: None,
            logins: 0,
            commands: 0,
            since: Time::ZERO,
        }));
        self.lane_entered(key);
        self.look_at_nexus(key);
        key
    }

    /// RFC 7143 11.12.5, type 10b (random): 24 random bits, and a qualifier
    /// that no nexus of ours has, the persisted ones included.
    fn new_isid(&mut self) -> [u8; 6] {
        loop {
            let [_, _, a, b, c, d, e, _] = self.draw().to_be_bytes();
            let isid = [0x80, a, b, c, d, e];
            if !self.nexuses.iter().any(|(_, nexus)| nexus.wan_isid == isid) {
                return isid;
            }
        }
    }

    /// Logs a nexus out that nobody needs: no computer, no task, nothing to
    /// flush by it. One that is logged out already is forgotten.
    pub(super) fn retire_nexus(&mut self, net: &mut Net<'_>, now: Time, key: NexusKey) {
        let nexus = &self.nexuses[key.0];
        if nexus.lan.is_some()
            || nexus.tasks > 0
            || self.carries_flush(key)
            || self.may_be_registered(key)
            || nexus.astray
            || nexus.is_lane() && self.is_lane_needed(key)
        {
            return;
        }
        self.lane_given_up(now, key);
        match self.nexuses[key.0].state {
            WanState::Ready => {
                let nexus = &mut self.nexuses[key.0];
                nexus.state = WanState::LoggingOut;
                nexus.state_deadline = now + LOGOUT_MAX;
                if let Some(conn) = nexus.conn.as_mut() {
                    conn.logout();
                }
                self.touch_nexus(key);
            }
            WanState::LoggingOut if now < self.nexuses[key.0].state_deadline => {}
            WanState::LoggingOut => self.lose_wan(net, now, key),
            WanState::Gone | WanState::Backoff(_) => self.remove_nexus(key),
            WanState::Connecting | WanState::LoggingIn | WanState::Probing => {}
        }
    }

    /// The nexus carries a volume's flush, or is the only one left to do so.
    pub(super) fn carries_flush(&self, key: NexusKey) -> bool {
        let target = self.nexuses[key.0].target;
        self.volume_keys().any(|volume_key| {
            let volume = self.volume(volume_key);
            // A sync under way is work too, though there is no record left.
            let busy = !self.flush.is_drained(volume_key.0) || !volume.durable.is_empty();
            busy && volume.target == Some(target)
                && match volume
                    .flush_nexus
                    .filter(|flush| self.nexuses.contains(flush.0))
                {
                    Some(flush) => flush == key,
                    None => true,
                }
        })
    }

    pub(super) fn remove_nexus(&mut self, key: NexusKey) {
        let nexus = self.nexuses.remove(key.0);
        self.lane_left(key, &nexus);
        self.nexus_timers.disarm(nexus_slot(key));
        self.log
            .remove_nexus(nexus.log_id)
            .expect("the row of a nexus of ours");
        self.journal_row(RowTable::Nexus, nexus.log_id.0);
        self.nexuses_queued.retain(|&queued| queued != key);
        self.departing.retain(|&departing| departing != key);
        self.starving.retain(|&starving| starving != key);
        self.forget_registrations(key);
        for volume in self.volumes.iter_mut().flatten() {
            if volume.flush_nexus == Some(key) {
                volume.flush_nexus = None;
            }
        }
    }
}

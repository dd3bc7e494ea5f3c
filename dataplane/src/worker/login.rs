//! Who is let in, and the life of a session: login, reinstatement, logout,
//! loss, and what stays behind.

use std::collections::VecDeque;
use std::net::SocketAddr;

use arrayvec::{ArrayString, ArrayVec};
use sluice_hugepages::log::{NexusEntry, NexusId, VolumeEntry, VolumeFlags};
use sluice_proto::Time;
use sluice_proto::iscsi::SendTargetsScope;
use sluice_proto::iscsi::login_status::{self, Status};
use sluice_proto::iscsi::{Offers, TargetConfig, TargetConn};

use super::lan::{Lan, LanState, SESSION_TASKS_MAX};
use super::nexus::{Nexus, Probe, WanState};
use super::publish::apply;
use super::relay::{Mode, Net, Relay, Side, VOLUMES_MAX};
use super::staging::STAGE_LEN;
use super::task::{LanKey, NexusKey, VolumeKey};
use super::upkeep::{lan_slot, nexus_slot};
use super::volume::{Geometry, Volume};
use crate::tcp::{FlowEvent, FlowId};
use sluice_proto::cache::flush::policy::FlushPolicy;
use sluice_proto::scsi::Sense;

/// A login that is not through after this long is closed (half of the 30 s
/// that common initiators wait).
const LOGIN_MAX: std::time::Duration = std::time::Duration::from_secs(15);

/// What the relay offers computers.
pub(super) fn target_config() -> TargetConfig {
    TargetConfig {
        // A held write's unsolicited data is one staging page.
        offers: Offers {
            first_burst_length: u32::try_from(STAGE_LEN).expect("64 KiB"),
            ..Offers::lan()
        },
        max_tasks: u16::try_from(SESSION_TASKS_MAX).expect("a small number"),
        authenticates: true,
        ..TargetConfig::default()
    }
}

/// Connections of one address that have not logged in: more than one computer
/// begins at once, as long as there are sessions for it.
const LOGINS_PER_ADDRESS_MAX: usize = 16;
/// Of all addresses: each new one looks through them.
const LOGINS_MAX: usize = 256;

impl Relay {
    /// What TCP has to say of a connection.
    pub fn flow_event(&mut self, net: &mut Net<'_>, now: Time, flow: FlowId, event: FlowEvent) {
        match (self.side(flow), event) {
            (None, FlowEvent::Accepted { local, remote }) => {
                self.accept(net, now, flow, local, remote)
            }
            (Some(Side::Wan(key)), FlowEvent::Connected) => self.wan_connected(now, key),
            (Some(Side::Lan(key)), FlowEvent::Ready) => self.touch_lan(key),
            (Some(Side::Wan(key)), FlowEvent::Ready) => self.touch_nexus(key),
            (Some(Side::Lan(key)), FlowEvent::Finished) => {
                self.lans[key.0].finished = true;
                self.look_at_lan(key);
                self.touch_lan(key);
            }
            (Some(Side::Lan(key)), FlowEvent::Closed(_)) => self.lose_lan(net, key),
            (Some(Side::Wan(key)), FlowEvent::Closed(_) | FlowEvent::Finished) => {
                // A last response may stand before the FIN.
                self.serve_nexus(net, now, key);
                if self.side(flow).is_none() {
                    return;
                }
                let login_waits = !self.nexuses[key.0].established;
                self.lose_wan(net, now, key);
                if login_waits {
                    self.refuse_waiting_login(net, now, key, login_status::SERVICE_UNAVAILABLE);
                }
            }
            (
                None,
                FlowEvent::Ready
                | FlowEvent::Connected
                | FlowEvent::Finished
                | FlowEvent::Closed(_),
            )
            | (Some(_), FlowEvent::Accepted { .. })
            | (Some(Side::Lan(_)), FlowEvent::Connected) => {}
        }
    }

    fn accept(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        flow: FlowId,
        local: std::net::SocketAddrV4,
        computer: std::net::SocketAddrV4,
    ) {
        if !self.accepting || !self.make_room_for_login(net, computer) {
            self.counters.logins_refused += 1;
            net.tcp.abort(flow);
            return;
        }
        let mut config = target_config();
        config.offers = self.config.lan_digests.over(config.offers);
        let slots = config.slots();
        let conn = TargetConn::new(config);
        let key = LanKey(self.lans.insert(Lan {
            flow,
            conn: Box::new(conn),
            state: LanState::Login,
            local,
            computer,
            nexus: None,
            tasks: vec![None; slots].into_boxed_slice(),
            line: VecDeque::with_capacity(slots),
            line_moved: false,
            slowed: None,
            last_heard: now,
            pinged: None,
            pages_out: Vec::with_capacity(self.staging.total_pages()),
            queued: false,
            finished: false,
            tsih: 0,
            login_deadline: now + LOGIN_MAX,
        }));
        self.logins.push(key);
        self.bind(flow, Side::Lan(key));
        self.look_at_lan(key);
        self.touch_lan(key);
    }

    /// Whether one more connection may log in: of those that have not, an
    /// address has its limit, and so have all. The oldest that has not said who
    /// it is goes first, so that connections left half open keep nobody out (C-17).
    fn make_room_for_login(&mut self, net: &mut Net<'_>, computer: std::net::SocketAddrV4) -> bool {
        let Self { lans, logins, .. } = self;
        let from_there = |key: &LanKey| lans[key.0].computer.ip() == computer.ip();
        let sessions = lans.capacity();
        let address_full = logins.iter().filter(|key| from_there(key)).count()
            >= (sessions / 4).clamp(2, LOGINS_PER_ADDRESS_MAX);
        if !address_full && logins.len() < LOGINS_MAX && lans.len() < sessions {
            return true;
        }
        let silent = logins
            .iter()
            .find(|key| lans[key.0].nexus.is_none() && (!address_full || from_there(key)))
            .copied();
        if let Some(silent) = silent {
            self.counters.logins_dropped += 1;
            self.lose_lan(net, silent);
        }
        silent.is_some()
    }

    /// A login request waits for an answer.
    pub(super) fn login(&mut self, net: &mut Net<'_>, now: Time, key: LanKey) {
        let lan = &self.lans[key.0];
        let request = lan.conn.login_request();
        if request.tsih != 0 {
            // 11.13.5: a session has one connection, and cannot get a second one.
            let (tsih, isid) = (request.tsih, request.isid);
            let initiator = request.initiator_name;
            let known = self.lans.iter().any(|(at, other)| {
                let own = other.conn.login_request();
                at != key.0
                    && other.tsih == tsih
                    && (own.isid, own.initiator_name) == (isid, initiator)
            });
            let status = if known {
                login_status::TOO_MANY_CONNECTIONS
            } else {
                login_status::SESSION_DOES_NOT_EXIST
            };
            return self.reject_login(key, status);
        }
        if request.discovery {
            return self.accept_login(key);
        }
        let wanted = request.target_name.as_deref().unwrap_or_default();
        let target = self.config.targets.iter().position(|target| {
            target.name == wanted
                && (self.config.mode == Mode::Portal || target.address == lan.local)
        });
        let Some(target) = target else {
            return self.reject_login(key, login_status::NOT_FOUND);
        };
        let policy = &self.config.targets[target];
        let initiator = request.initiator_name;
        if !policy.initiators.is_empty()
            && !policy
                .initiators
                .iter()
                .any(|name| name == initiator.as_str())
        {
            return self.reject_login(key, login_status::AUTHORIZATION_FAILURE);
        }
        let isid = request.isid;
        let same = |nexus: &Nexus| {
            nexus.target == target
                && nexus.initiator_name == initiator
                && nexus.lan_isid == isid
                // One that leaves is no more to be had.
                && !matches!(nexus.state, WanState::LoggingOut | WanState::Gone)
        };
        let shared = policy.shared;
        // a computer is a name and an address. Its own session is
        // reinstated by name and ISID, wherever it comes from.
        let computer = self.lans[key.0].computer;
        let taken = self.nexuses.iter().any(|(_, nexus)| {
            let own = (nexus.initiator_name, nexus.computer.ip()) == (initiator, computer.ip());
            nexus.target == target && nexus.lan.is_some() && !own && !same(nexus)
        });
        if !shared && taken {
            return self.reject_login(key, login_status::AUTHORIZATION_FAILURE);
        }
        let found = self
            .nexuses
            .iter()
            .find(|(_, nexus)| same(nexus))
            .map(|(at, _)| NexusKey(at));
        if let Some(old) = found.and_then(|nexus| self.nexuses[nexus.0].lan) {
            // RFC 7143 6.3.5: the same ISID reinstates; the old session ends without a word.
            self.counters.sessions_reinstated += 1;
            self.lose_lan(net, old);
        }
        let found = found.filter(|nexus| {
            !matches!(
                self.nexuses[nexus.0].state,
                WanState::LoggingOut | WanState::Gone
            )
        });
        let nexus = match found {
            Some(nexus) => nexus,
            None => match self.new_nexus(target, initiator, isid, computer) {
                Some(nexus) => nexus,
                None => return self.reject_login(key, login_status::OUT_OF_RESOURCES),
            },
        };
        self.nexuses[nexus.0].lan = Some(key);
        self.nexuses[nexus.0].computer = computer;
        self.nexuses[nexus.0].since = now;
        self.lans[key.0].nexus = Some(nexus);
        if self.nexuses[nexus.0].is_ready() || self.nexuses[nexus.0].established {
            self.accept_login(key);
        } else if self.nexuses[nexus.0].flow.is_none() {
            self.connect(net, now, nexus);
        }
    }

    fn new_nexus(
        &mut self,
        target: usize,
        initiator_name: ArrayString<224>,
        lan_isid: [u8; 6],
        computer: std::net::SocketAddrV4,
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
        Some(self.insert_nexus(target, initiator_name, lan_isid, wan_isid, computer, log_id))
    }

    pub(super) fn insert_nexus(
        &mut self,
        target: usize,
        initiator_name: ArrayString<224>,
        lan_isid: [u8; 6],
        wan_isid: [u8; 6],
        computer: std::net::SocketAddrV4,
        log_id: NexusId,
    ) -> NexusKey {
        let key = NexusKey(self.nexuses.insert(Nexus {
            initiator_name,
            lan_isid,
            wan_isid,
            target,
            computer,
            log_id,
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
            sent: 0,
            acknowledged: 0,
            progressed: Time::ZERO,
            watched: false,
            astray: false,
            fenced_by: None,
            resets: ArrayVec::new(),
            pinged: None,
            logins: 0,
            commands: 0,
            since: Time::ZERO,
        }));
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

    /// It has logged in, or gone.
    pub(super) fn end_of_login(&mut self, key: LanKey) {
        self.logins.retain(|&login| login != key);
    }

    /// Asks every computer to log out within some seconds, and lets none in
    /// (RFC 7143 11.9.1, event 1): the relay is about to stop.
    pub fn begin_stop(&mut self, net: &mut Net<'_>, within_s: u16) {
        self.accepting = false;
        for at in 0..self.lans.capacity() {
            let Some(lan) = self.lans.get_mut(at) else {
                continue;
            };
            if lan.state == LanState::FullFeature {
                lan.conn.request_logout(within_s);
                self.touch_lan(LanKey(at));
            } else if lan.state == LanState::Login {
                self.lose_lan(net, LanKey(at));
            }
        }
    }

    /// No computer is connected.
    pub fn is_left(&self) -> bool {
        self.lans.is_empty()
    }

    /// Ends the sessions that are left: their computers need not find out by silence.
    pub fn cut_off(&mut self, net: &mut Net<'_>) {
        for at in 0..self.lans.capacity() {
            if self.lans.contains(at) {
                self.lose_lan(net, LanKey(at));
            }
        }
    }

    fn accept_login(&mut self, key: LanKey) {
        let tsih = self.next_tsih;
        self.next_tsih = self.next_tsih.checked_add(1).unwrap_or(1);
        self.counters.logins += 1;
        self.lans[key.0].tsih = tsih;
        self.lans[key.0].conn.accept_login(tsih);
        self.touch_lan(key);
    }

    fn reject_login(&mut self, key: LanKey, status: Status) {
        self.counters.logins_refused += 1;
        let lan = &mut self.lans[key.0];
        lan.conn.reject_login(status.0, status.1);
        lan.state = LanState::Closing;
        self.touch_lan(key);
    }

    /// The storage has let us in and told us what it is: now the computer may come in.
    pub(super) fn wan_ready(&mut self, now: Time, key: NexusKey) {
        let nexus = &mut self.nexuses[key.0];
        nexus.state = WanState::Ready;
        nexus.state_deadline = Time::FAR;
        nexus.attempts = 0;
        let first = !nexus.established;
        nexus.established = true;
        if let Some(lan) = nexus.lan
            && first
            && self.lans[lan.0].state == LanState::Login
        {
            self.accept_login(lan);
        }
        for volume in self.volume_keys() {
            if self.volume(volume).target == Some(self.nexuses[key.0].target) {
                self.flush_volume(now, volume);
            }
        }
        self.touch_nexus(key);
    }

    /// A failed login at the storage is passed on.
    pub(super) fn wan_refused(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        key: NexusKey,
        status: Status,
    ) {
        let unproved = status == login_status::AUTHENTICATION_FAILURE;
        self.counters.wan_unproved += u64::from(unproved);
        // With credentials of ours it is ours to mend: the computer has proved what it must.
        let status = if unproved && self.proves_to_storage(&self.nexuses[key.0]) {
            login_status::SERVICE_UNAVAILABLE
        } else {
            status
        };
        // A redirection is for us: the computer must not follow it around the cache.
        let status = if matches!(status.0, 2 | 3) {
            status
        } else {
            login_status::SERVICE_UNAVAILABLE
        };
        let passed_on = self.refuse_waiting_login(net, now, key, status);
        if !passed_on {
            self.lose_wan(net, now, key);
        }
    }

    /// Refuses the computer whose login waits for this nexus; the nexus goes with it.
    pub(super) fn refuse_waiting_login(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        key: NexusKey,
        status: Status,
    ) -> bool {
        let Some(nexus) = self.nexuses.get_mut(key.0) else {
            return false;
        };
        if nexus.established {
            return false;
        }
        let Some(lan) = nexus.lan.take() else {
            return false;
        };
        self.lans[lan.0].nexus = None;
        self.reject_login(lan, status);
        self.nexuses[key.0].state = WanState::LoggingOut;
        self.lose_wan(net, now, key);
        true
    }

    pub(super) fn wan_logged_out(&mut self, net: &mut Net<'_>, now: Time, key: NexusKey) {
        self.lose_wan(net, now, key);
    }

    /// A LUN that is a disk: its volume is known by the log's directory from here on.
    pub(super) fn learn_volume(&mut self, now: Time, key: NexusKey, lun: u64, geometry: Geometry) {
        let target = self.nexuses[key.0].target;
        if let Some(volume) = self.find_volume(target, lun) {
            return self.fit_volume(volume, geometry);
        }
        let policy = &self.config.targets[target];
        let Ok(target_name) = ArrayString::from(&policy.name) else {
            return;
        };
        let entry = VolumeEntry {
            target_name,
            lun,
            storage: policy.address,
            block_len: geometry.block_len,
            blocks: geometry.blocks,
            flags: VolumeFlags::default(),
        };
        // With the directory full the LUN stays uncached: its commands pass.
        if self.volume_keys().count() == VOLUMES_MAX {
            return;
        }
        let Ok(id) = self.log.put_volume(entry) else {
            return;
        };
        assert!(
            usize::from(id.0) < VOLUMES_MAX,
            "the directory gives its lowest free row"
        );
        let policy = self.policy_of(&target_name, lun);
        let storage = self.config.targets[target].address;
        let mut volume = Volume::new(
            target_name,
            storage,
            lun,
            policy,
            self.log.records_max(),
            now,
        );
        volume.target = Some(target);
        volume.geometry = Some(geometry);
        self.index.set_block_len(id.0, geometry.block_len);
        self.volumes[usize::from(id.0)] = Some(volume);
        let volume = VolumeKey(id.0);
        self.ask_holding(now, volume);
        // Uncached till now, it showed the storage's own WCE (C-1).
        self.raise_attention(volume, Sense::MODE_PARAMETERS_CHANGED);
    }

    /// A volume that is known may have another form now. The log's row says what
    /// a record may cover, and keeps to it while there are records.
    fn fit_volume(&mut self, key: VolumeKey, geometry: Geometry) {
        let id = super::log_volume(key);
        let row = self
            .log
            .volume(id)
            .expect("a volume is a row of the directory")
            .clone();
        if row.block_len != geometry.block_len {
            // The unit of every record and of the index: nothing goes either way.
            self.counters.volumes_misfit += u64::from(!self.volume(key).misfit);
            self.volume_mut(key).misfit = true;
            return;
        }
        let (block_len, kept) = (row.block_len, row.blocks);
        let updated = geometry.blocks == kept
            || self
                .log
                .update_volume(
                    id,
                    VolumeEntry {
                        blocks: geometry.blocks,
                        ..row
                    },
                )
                .is_ok();
        let blocks = if updated {
            geometry.blocks
        } else {
            // It grows when a login finds the log empty; what shrank is refused at once.
            geometry.blocks.min(kept)
        };
        let volume = self.volume_mut(key);
        volume.misfit = false;
        volume.geometry = Some(Geometry { block_len, blocks });
    }

    /// The flush policy of a volume: the default, what is set for its target,
    /// then what is set for itself.
    pub(super) fn policy_of(&self, target: &str, lun: u64) -> FlushPolicy {
        let mut policy = self.config.flush;
        for (scope, setting) in &self.overrides {
            if scope.covers(target, lun) {
                apply(&mut policy, setting);
            }
        }
        policy
    }

    pub(super) fn send_targets(&mut self, key: LanKey) {
        let Self { lans, config, .. } = self;
        let lan = &mut lans[key.0];
        let (mode, local) = (config.mode, lan.local);
        // 13.3: all, one by name, or the one this session is logged in to.
        let scope = lan.conn.send_targets_scope().clone();
        let own = lan.conn.login_request().target_name;
        let offered = Self::offered(mode, &config.targets, local)
            .filter(|target| match &scope {
                SendTargetsScope::All => true,
                SendTargetsScope::Named(name) => target.name == **name,
                SendTargetsScope::Session => own.is_some_and(|own| target.name == *own),
            })
            // What was dialled is what this computer can reach (C-11).
            .map(|target| (target.name.as_str(), SocketAddr::V4(local), 1));
        lan.conn.send_targets(offered);
        self.touch_lan(key);
    }

    /// The computer's connection is gone, with or without a logout.
    pub(super) fn lose_lan(&mut self, net: &mut Net<'_>, key: LanKey) {
        net.tcp.abort(self.lans[key.0].flow);
        self.detach_lan(key);
    }

    /// Forgets a session towards a computer. Commands in the log stay (C-3);
    /// the nexus stays while it has something to flush.
    pub(super) fn detach_lan(&mut self, key: LanKey) {
        let flow = self.lans[key.0].flow;
        self.unbind(flow);
        for number in 0..self.lans[key.0].tasks.len() {
            if let Some(task) = self.lans[key.0].tasks[number].take() {
                self.abandon(task);
            }
        }
        self.forget_functions(key);
        self.end_of_login(key);
        let lan = self.lans.remove(key.0);
        self.lan_timers.disarm(lan_slot(key));
        for page in lan.pages_out {
            self.staging.give(page);
        }
        self.lans_queued.retain(|&queued| queued != key);
        if let Some(nexus) = lan.nexus {
            self.nexuses[nexus.0].lan = None;
            self.release_reserved(nexus);
            self.look_at_nexus(nexus);
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
        {
            return;
        }
        match self.nexuses[key.0].state {
            WanState::Ready => {
                let nexus = &mut self.nexuses[key.0];
                nexus.state = WanState::LoggingOut;
                nexus.state_deadline = now + LOGIN_MAX;
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

    fn remove_nexus(&mut self, key: NexusKey) {
        let nexus = self.nexuses.remove(key.0);
        self.nexus_timers.disarm(nexus_slot(key));
        self.log
            .remove_nexus(nexus.log_id)
            .expect("the row of a nexus of ours");
        self.nexuses_queued.retain(|&queued| queued != key);
        self.starving.retain(|&starving| starving != key);
        self.forget_registrations(key);
        for volume in self.volumes.iter_mut().flatten() {
            if volume.flush_nexus == Some(key) {
                volume.flush_nexus = None;
            }
        }
    }

    pub(super) fn bind(&mut self, flow: FlowId, side: Side) {
        let at = flow.index() as usize;
        if self.flows.len() <= at {
            self.flows.resize(at + 1, None);
        }
        self.flows[at] = Some((flow, side));
    }

    pub(super) fn unbind(&mut self, flow: FlowId) {
        if self.side(flow).is_some() {
            self.flows[flow.index() as usize] = None;
        }
    }

    fn side(&self, flow: FlowId) -> Option<Side> {
        self.flows
            .get(flow.index() as usize)
            .copied()
            .flatten()
            .filter(|(id, _)| *id == flow)
            .map(|(_, side)| side)
    }
}

//! Who is let in, and the life of a session: login, reinstatement, logout,
//! loss, and what stays behind.

use std::collections::VecDeque;
use std::net::SocketAddr;

use sluice_proto::Time;
use sluice_proto::iscsi::SendTargetsScope;
use sluice_proto::iscsi::login_status::{self, Status};
use sluice_proto::iscsi::{LoginRequest, Offers, TargetConfig, TargetConn};

use super::lan::{Lan, LanState, SESSION_TASKS_MAX};
use super::nexus::{Nexus, WanState};
use super::relay::{Mode, Net, Relay, Side};
use super::staging::STAGE_LEN;
use super::task::{LanKey, NexusKey};
use super::upkeep::lan_slot;
use crate::tcp::{FlowEvent, FlowId};

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

/// Connections of one address that have not logged in, and half of the sessions at most:
/// more than one computer begins at once.
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
            >= (sessions / 2).clamp(2, LOGINS_PER_ADDRESS_MAX);
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
            let of_session = |own: &LoginRequest| {
                (own.isid, own.initiator_name, own.target_name)
                    == (request.isid, request.initiator_name, request.target_name)
            };
            let (tsih, cid) = (request.tsih, request.cid);
            let known = self.lans.iter().find(|&(at, other)| {
                at != key.0 && other.tsih == tsih && of_session(other.conn.login_request())
            });
            match known.map(|(_, other)| other.conn.login_request().cid == cid) {
                // RFC 7143 6.3.4: the session goes on with this connection in the
                // place of the one of the same CID, whose tasks have ended.
                Some(true) => self.lans[key.0].tsih = tsih,
                // 11.13.5: it has one connection, and cannot get a second one.
                Some(false) => return self.reject_login(key, login_status::TOO_MANY_CONNECTIONS),
                None => return self.reject_login(key, login_status::SESSION_DOES_NOT_EXIST),
            }
        }
        let lan = &self.lans[key.0];
        let request = lan.conn.login_request();
        if request.discovery {
            // RFC 7143 7.4: the initiator port's earlier discovery session, of this
            // target or of none, at this portal, is reinstated.
            let of_port = |of: &LoginRequest| (of.isid, of.initiator_name, of.target_name);
            let (port, local) = (of_port(request), lan.local);
            let old = self.lans.iter().find(|&(at, other)| {
                let of = other.conn.login_request();
                at != key.0
                    && other.state == LanState::FullFeature
                    && (of.discovery, of_port(of), other.local) == (true, port, local)
            });
            if let Some(old) = old.map(|(at, _)| LanKey(at)) {
                self.counters.sessions_reinstated += 1;
                self.lose_lan(net, old);
            }
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
                .any(|name| name.eq_ignore_ascii_case(initiator.as_str()))
        {
            return self.reject_login(key, login_status::AUTHORIZATION_FAILURE);
        }
        // An I_T nexus is the initiator's name and ISID, and the target (RFC 7143 4.4.3).
        let isid = request.isid;
        let same = |nexus: &Nexus| {
            nexus.target == target
                && !nexus.is_lane()
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
        let tsih = match self.lans[key.0].tsih {
            0 => self.new_tsih(),
            reinstated => reinstated,
        };
        self.counters.logins += 1;
        self.lans[key.0].tsih = tsih;
        self.lans[key.0].conn.accept_login(tsih);
        self.touch_lan(key);
    }

    /// One that no session has; 0 is none.
    fn new_tsih(&mut self) -> u16 {
        loop {
            let tsih = self.next_tsih;
            self.next_tsih = self.next_tsih.checked_add(1).unwrap_or(1);
            if !self.lans.iter().any(|(_, lan)| lan.tsih == tsih) {
                return tsih;
            }
        }
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
        let login_response = nexus.login_response;
        if let Some(lan) = nexus.lan
            && first
            && self.lans[lan.0].state == LanState::Login
        {
            self.accept_login(lan);
        }
        self.wake_doubts(now, self.nexuses[key.0].target);
        for volume in self.volume_keys() {
            if self.volume(volume).target == Some(self.nexuses[key.0].target) {
                if !self.nexuses[key.0].is_lane() {
                    self.volume_mut(volume).load.begin(login_response);
                }
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

    /// Forgets a session towards a computer, which ends with its connection (RFC 7143 7.14).
    /// Commands in the log stay (C-3);
    /// the nexus stays while it has something to flush.
    pub(super) fn detach_lan(&mut self, key: LanKey) {
        let flow = self.lans[key.0].flow;
        self.unbind(flow);
        for number in 0..self.lans[key.0].tasks.len() {
            if let Some(task) = self.lans[key.0].tasks[number].take() {
                self.tell_of_end(key, task);
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

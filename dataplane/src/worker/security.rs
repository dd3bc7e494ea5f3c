//! Who must prove what: towards computers, and towards storage (C-10). Which
//! credentials belong to whom is decided here, and nowhere else.
//!
//! What always holds: a computer that must prove who it is learns nothing of
//! which targets or names there are before it has; the two sides have
//! credentials of their own. Not for: CHAP itself (`sluice_proto`'s).

use sluice_proto::iscsi::chap::{
    Algorithms, Challenges, ChapDemand, ChapLogin, Credential, Demand,
};

use sluice_proto::iscsi::TargetEvent;

use super::nexus::Nexus;
use super::relay::{Mode, Relay, Target};
use super::task::LanKey;

/// What a computer proves to us.
#[derive(Clone, Debug)]
pub struct ComputerChap {
    /// None: any initiator that has no entry of its own.
    pub initiator: Option<String>,
    pub computer: Credential,
    /// What we prove if it asks.
    pub relay: Option<Credential>,
    pub algorithms: Algorithms,
}

/// What we prove to a storage.
#[derive(Clone, Debug)]
pub struct StorageChap {
    pub target: String,
    /// None: sessions of any computer that has no entry of its own.
    pub initiator: Option<String>,
    pub relay: Credential,
    /// What it must prove.
    pub storage: Option<Credential>,
    pub algorithms: Algorithms,
}

/// All credentials.
#[derive(Clone, Debug, Default)]
pub struct Security {
    pub computers: Vec<ComputerChap>,
    pub storages: Vec<StorageChap>,
}

/// The entry of this initiator's own, else the one for any.
fn entry<'a, T>(
    entries: impl Iterator<Item = &'a T> + Clone,
    of: impl Fn(&T) -> Option<&str>,
    initiator: &str,
) -> Option<&'a T> {
    let own = entries.clone().find(|one| of(one) == Some(initiator));
    let mut rest = entries;
    own.or_else(|| rest.find(|one| of(one).is_none()))
}

impl Security {
    fn storage(&self, target: &str, initiator: &str) -> Option<&StorageChap> {
        let storages = self.storages.iter().filter(|one| one.target == target);
        entry(storages, |one| one.initiator.as_deref(), initiator)
    }

    /// What our login at a storage takes.
    pub(super) fn login(
        &self,
        target: &str,
        initiator: &str,
        challenges: &mut Challenges,
    ) -> Option<ChapLogin> {
        let chap = self.storage(target, initiator)?;
        Some(ChapLogin {
            algorithms: chap.algorithms.clone(),
            initiator: chap.relay.clone(),
            target: chap.storage.clone(),
            challenge: challenges.draw(),
        })
    }
}

impl Relay {
    /// Targets that a computer which dialled `local` may see or log in to.
    pub(super) fn offered(
        mode: Mode,
        targets: &[Target],
        local: std::net::SocketAddrV4,
    ) -> impl Iterator<Item = &Target> {
        targets
            .iter()
            .filter(move |target| mode == Mode::Portal || target.address == local)
    }

    /// Says what the computer of this login must prove: what its target asks
    /// for; where it names none that is here, or no one, what any of them does.
    pub(super) fn authenticate(&mut self, key: LanKey) -> Option<TargetEvent<'static>> {
        let lan = &mut self.lans[key.0];
        let request = lan.conn.login_request();
        let wanted = request.target_name;
        let named = |target: &&Target| wanted.is_some_and(|name| target.name == *name);
        let offered = || Self::offered(self.config.mode, &self.config.targets, lan.local);
        let demanded = match offered().find(named) {
            Some(target) => target.chap,
            None => offered().any(|target| target.chap),
        };
        let initiator = request.initiator_name;
        let demand = if demanded {
            let computers = self.config.security.computers.iter();
            let chap = entry(computers, |one| one.initiator.as_deref(), &initiator);
            Demand::Chap(ChapDemand {
                algorithms: chap.map_or_else(Algorithms::default, |one| one.algorithms.clone()),
                challenge: self.challenges.draw(),
                initiator: chap.map(|one| one.computer.clone()),
                target: chap.and_then(|one| one.relay.clone()),
            })
        } else {
            Demand::Nothing
        };
        let event = lan.conn.authenticate(demand);
        self.touch_lan(key);
        event
    }

    /// Whether a storage's refusal of our proof is what stands behind this
    /// failure: it is ours to mend, and says nothing of the computer.
    pub(super) fn proves_to_storage(&self, nexus: &Nexus) -> bool {
        let target = &self.config.targets[nexus.target].name;
        let security = &self.config.security;
        security.storage(target, &nexus.initiator_name).is_some()
    }
}

//! CHAP as the model hosts do it: who proves what, on either side of the relay (C-10).

use sluice_dataplane::worker::security::{ComputerChap, StorageChap};
use sluice_proto::iscsi::chap::{
    Algorithms, Challenges, ChapDemand, ChapLogin, ChapName, Credential, Demand, Secret,
};

/// The names and secrets of one side: the initiator's, and the target's.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    initiator: (&'static str, &'static [u8]),
    target: (&'static str, &'static [u8]),
}

fn credential((name, secret): (&str, &[u8])) -> Credential {
    Credential {
        name: ChapName::from(name).expect("a short name"),
        secret: Secret::new(secret).expect("96 bits at least"),
    }
}

impl Names {
    /// What every computer proves to the relay, and the relay to it.
    pub const LAN: Self = Self {
        initiator: ("computer", b"the computers' secret"),
        target: ("relay", b"the relay's secret"),
    };
    /// What the relay proves to the storage, and the storage to it.
    pub const WAN: Self = Self {
        initiator: ("relay at the WAN", b"the relay's other secret"),
        target: ("storage", b"the storage's secret"),
    };

    /// Mutual CHAP, as an initiator does it.
    pub fn login(&self) -> ChapLogin {
        self.login_with(Challenges::new([9; 32]).draw())
    }

    fn login_with(&self, challenge: sluice_proto::iscsi::chap::Challenge) -> ChapLogin {
        ChapLogin {
            algorithms: Algorithms::default(),
            initiator: credential(self.initiator),
            target: Some(credential(self.target)),
            challenge,
        }
    }

    /// The relay's entry for computers.
    pub fn of_computers(&self) -> ComputerChap {
        ComputerChap {
            initiator: None,
            computer: credential(self.initiator),
            relay: Some(credential(self.target)),
            algorithms: Algorithms::default(),
        }
    }

    /// The relay's entry for a target at the storage.
    pub fn of_storage(&self, target: &str) -> StorageChap {
        StorageChap {
            target: target.to_owned(),
            initiator: None,
            relay: credential(self.initiator),
            storage: Some(credential(self.target)),
            algorithms: Algorithms::default(),
        }
    }
}

/// One host's part: names, and challenges of its own.
#[derive(Debug)]
pub struct Proof {
    names: Names,
    challenges: Challenges,
}

impl Proof {
    pub fn new(names: Names, key: [u8; 32]) -> Self {
        Self {
            names,
            challenges: Challenges::new(key),
        }
    }

    /// As an initiator.
    pub fn login(&mut self) -> ChapLogin {
        self.names.login_with(self.challenges.draw())
    }

    /// As a target.
    pub fn demand(&mut self) -> Demand {
        Demand::Chap(ChapDemand {
            algorithms: Algorithms::default(),
            challenge: self.challenges.draw(),
            initiator: Some(credential(self.names.initiator)),
            target: Some(credential(self.names.target)),
        })
    }
}

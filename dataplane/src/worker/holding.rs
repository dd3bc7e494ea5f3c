//! What is known of a volume's reservations, and what follows for each nexus
//! (C-9; SPC-4 5.12.1, tables of allowed commands).
//!
//! Pure bookkeeping: what the storage said and which commands passed come in,
//! a [`Standing`] comes out. Asking is [`super::inquiry`]'s.

use arrayvec::ArrayVec;
use sluice_proto::Time;
use sluice_proto::scsi::reservation::Held;

use super::task::NexusKey;

/// Computers of one volume whose registrations are known; further ones are
/// judged by the storage.
const REGISTRANTS_MAX: usize = 64;
/// Nexuses that one flush tries before the conflict is for good.
const TRIED_MAX: usize = 8;
/// What a nexus wants to do without asking the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Write,
    Read,
}

/// Whether it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Free,
    /// The storage would answer RESERVATION CONFLICT.
    Barred,
    /// Somebody holds the volume, and whether that is this nexus is not certain.
    Unclear,
    /// It is being asked.
    Unread,
}

/// A registered nexus of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registrant {
    pub nexus: NexusKey,
    pub key: u64,
    pub holds: bool,
}

/// The holder of a reservation by RESERVE (SPC-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Legacy {
    None,
    Ours(NexusKey),
    /// Inferred: a conflict, and no persistent reservation.
    Other,
}

/// What is known of a volume's reservations. The numbers are places in the one
/// sequence of questions, logins and doubts ([`Relay::next_stamp`]).
#[derive(Debug)]
pub struct Holding {
    /// When the question that was answered last was asked.
    pub(super) read: u64,
    /// What was read before this does not count.
    pub(super) doubted: u64,
    /// To be asked after this.
    pub(super) wanted: u64,
    pub(super) asked: Option<u64>,
    pub(super) asked_at: Time,
    /// Who asks, if it can.
    pub(super) asks: Option<NexusKey>,
    /// The storage answers READ FULL STATUS as we understand it.
    pub(super) full_status: bool,
    pub(super) held: Option<Held>,
    pub(super) legacy: Legacy,
    pub(super) registrants: ArrayVec<Registrant, REGISTRANTS_MAX>,
    /// Nobody of ours is registered, or holds, but those listed so.
    pub(super) sure: bool,
    /// A conflict that what was known does not explain.
    pub(super) conflict: bool,
    /// Nexuses whose flush met a conflict since the last that did not.
    pub(super) tried: ArrayVec<NexusKey, TRIED_MAX>,
}

impl Holding {
    /// `known`: at the last that was heard nobody held it. `sure`: no nexus of
    /// ours has been registered.
    pub fn new(known: bool, sure: bool) -> Self {
        let doubted = u64::from(!known);
        Self {
            read: 0,
            doubted,
            wanted: doubted,
            asked: None,
            asked_at: Time::ZERO,
            asks: None,
            full_status: true,
            held: None,
            legacy: Legacy::None,
            registrants: ArrayVec::new(),
            sure,
            conflict: false,
            tried: ArrayVec::new(),
        }
    }

    pub fn is_held(&self) -> bool {
        self.held.is_some() || self.legacy != Legacy::None
    }

    /// After a conflict the flush waits until it is known who holds the volume.
    pub fn is_asked_after_conflict(&self) -> bool {
        self.conflict && self.read < self.doubted
    }

    pub(super) fn registrant(&self, nexus: NexusKey) -> Option<&Registrant> {
        self.registrants.iter().find(|known| known.nexus == nexus)
    }

    /// By what was read last, be it out of date.
    pub(super) fn standing(&self, nexus: NexusKey, deed: Deed) -> Standing {
        match self.legacy {
            Legacy::Ours(holder) if holder == nexus => return Standing::Free,
            Legacy::Ours(_) => return Standing::Barred,
            Legacy::Other => return Standing::Unclear,
            Legacy::None => {}
        }
        let Some(Held { kind, .. }) = self.held else {
            return Standing::Free;
        };
        if deed == Deed::Read && !kind.forbids_reads() {
            return Standing::Free;
        }
        match self.registrant(nexus) {
            Some(known) if kind.admits_registrants() || known.holds => Standing::Free,
            _ if self.sure => Standing::Barred,
            _ => Standing::Unclear,
        }
    }

    /// A nexus was registered with this key by a command that passed.
    pub(super) fn register(&mut self, nexus: NexusKey, key: u64) {
        self.registrants.retain(|known| known.nexus != nexus);
        let registrant = Registrant {
            nexus,
            key,
            holds: false,
        };
        if key != 0 && self.registrants.try_push(registrant).is_err() {
            self.sure = false;
        }
    }

    /// What READ KEYS leaves of the registrations that passed here, and who holds.
    pub(super) fn match_keys(&mut self, keys: impl Iterator<Item = u64> + Clone) {
        let listed = |key| keys.clone().filter(|&listed| listed == key).count();
        let Self {
            registrants,
            held,
            sure,
            ..
        } = self;
        let ours = registrants.clone();
        let tracked = |key| ours.iter().filter(|known| known.key == key).count();
        // Every registration there is has passed here.
        *sure |= keys.clone().all(|key| listed(key) <= tracked(key));
        registrants.retain(|known| {
            let sharing = tracked(known.key);
            let listed = listed(known.key);
            // Fewer than we know of: some were preempted, and nobody says which.
            *sure &= listed == 0 || listed >= sharing;
            listed >= sharing
        });
        for known in registrants {
            let same_key = held.is_some_and(|held| held.key == known.key);
            known.holds = held.is_some_and(|held| held.kind.is_held_by_all())
                || same_key && listed(known.key) == 1;
            // Of several with one key one holds.
            *sure &= !same_key || known.holds;
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_proto::scsi::reservation::Kind;

    use super::*;

    const A: NexusKey = NexusKey(0);
    const B: NexusKey = NexusKey(1);

    fn holding(kind: Kind, key: u64, keys: &[u64]) -> Holding {
        let mut holding = Holding::new(true, true);
        holding.register(A, 0xA);
        holding.held = Some(Held { key, kind });
        holding.match_keys(keys.iter().copied());
        holding
    }

    fn standings(holding: &Holding) -> [Standing; 4] {
        [
            (A, Deed::Write),
            (A, Deed::Read),
            (B, Deed::Write),
            (B, Deed::Read),
        ]
        .map(|(nexus, deed)| holding.standing(nexus, deed))
    }

    #[test]
    fn c9_who_may_write_and_read_under_each_kind() {
        use Standing::{Barred, Free};
        for (kind, others_read) in [
            (Kind::WriteExclusive, Free),
            (Kind::WriteExclusiveRegistrants, Free),
            (Kind::WriteExclusiveAll, Free),
            (Kind::ExclusiveAccess, Barred),
            (Kind::ExclusiveAccessRegistrants, Barred),
            (Kind::ExclusiveAccessAll, Barred),
        ] {
            let key = if kind.is_held_by_all() { 0 } else { 0xA };
            let held = holding(kind, key, &[0xA, 0xC]);
            assert_eq!(
                standings(&held),
                [Free, Free, Barred, others_read],
                "{kind:?}"
            );
        }
        // Registered, and another holds it.
        let held = holding(Kind::ExclusiveAccess, 0xC, &[0xA, 0xC]);
        assert_eq!(standings(&held), [Barred; 4]);
        let held = holding(Kind::ExclusiveAccessRegistrants, 0xC, &[0xA, 0xC]);
        assert_eq!(standings(&held), [Free, Free, Barred, Barred]);
    }

    #[test]
    fn c9_what_the_keys_do_not_prove_is_for_the_storage() {
        // Two nexuses have the key: which of them holds it nobody says.
        let held = holding(Kind::WriteExclusive, 0xA, &[0xA, 0xA]);
        assert_eq!(held.standing(A, Deed::Write), Standing::Unclear);
        // Preempted by somebody.
        let held = holding(Kind::WriteExclusiveRegistrants, 0xC, &[0xC]);
        assert_eq!(held.standing(A, Deed::Write), Standing::Barred);
        // After a start without memory of who registered.
        let mut held = Holding::new(false, false);
        held.held = Some(Held {
            key: 0xA,
            kind: Kind::WriteExclusive,
        });
        held.match_keys([0xA].into_iter());
        assert_eq!(held.standing(A, Deed::Write), Standing::Unclear);
        assert_eq!(held.standing(A, Deed::Read), Standing::Free);
    }

    #[test]
    fn c9_reserve_admits_its_holder_alone() {
        let mut held = Holding::new(true, true);
        held.legacy = Legacy::Ours(A);
        assert_eq!(held.standing(A, Deed::Write), Standing::Free);
        assert_eq!(held.standing(B, Deed::Read), Standing::Barred);
        held.legacy = Legacy::Other;
        assert_eq!(standings(&held), [Standing::Unclear; 4]);
    }
}

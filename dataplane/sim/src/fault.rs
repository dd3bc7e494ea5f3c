//! Kinds of things that go wrong in a run, each of which may be left out: to see
//! whether a finding needs it.

use std::fmt;

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Frames lost, doubled, or late.
    Loss,
    Duplicate,
    Reorder,
    /// Frames marked, and SYNs lost that ask for that (RFC 3168).
    Ecn,
    /// Long frames dropped by a router that says so, or does not.
    Narrow,
    /// Nothing passes on the WAN for a while.
    Cut,
    /// The same, one way only.
    HalfCut,
    /// The data plane stands still, and time leaps.
    Pause,
    /// The data plane's clock leaps ahead of everybody's.
    Leap,
    /// The log's file is lost with the process.
    LogLost,
    /// Bits turn over while the data plane is down.
    Rot,
    /// The data plane dies, between two steps or in one.
    Crash,
    CrashInStep,
    /// The relay's power fails: only its journal stays.
    PowerLoss,
    /// The journal's device does nothing for a while, or fails.
    JournalStall,
    JournalFault,
    /// The storage loses its cache: alone, or with its power.
    Reset,
    PowerFailure,
    /// A connection of the storage breaks; it goes on with what it has.
    BrokenConnection,
    Busy,
    /// Commands fail at the storage, for now, or until somebody looks after it.
    Failing,
    Refusing,
    /// The storage takes long.
    Slow,
    /// A computer leaves, or drops dead.
    Departure,
    /// A computer ends its own commands, or everybody's.
    Management,
    /// A computer takes a volume for itself.
    Reservations,
    /// Memory buffers are reserved, more or fewer, and not any more.
    Buffers,
}

/// All kinds, with the names that `sim --without` takes.
pub const KINDS: [(FaultKind, &str); 27] = [
    (FaultKind::Loss, "loss"),
    (FaultKind::Duplicate, "duplicate"),
    (FaultKind::Reorder, "reorder"),
    (FaultKind::Ecn, "ecn"),
    (FaultKind::Narrow, "narrow"),
    (FaultKind::Cut, "cut"),
    (FaultKind::HalfCut, "half-cut"),
    (FaultKind::Pause, "pause"),
    (FaultKind::Leap, "leap"),
    (FaultKind::LogLost, "log-lost"),
    (FaultKind::Rot, "rot"),
    (FaultKind::Crash, "crash"),
    (FaultKind::CrashInStep, "crash-in-step"),
    (FaultKind::PowerLoss, "power-loss"),
    (FaultKind::JournalStall, "journal-stall"),
    (FaultKind::JournalFault, "journal-fault"),
    (FaultKind::Reset, "reset"),
    (FaultKind::PowerFailure, "power-failure"),
    (FaultKind::BrokenConnection, "broken-connection"),
    (FaultKind::Busy, "busy"),
    (FaultKind::Failing, "failing"),
    (FaultKind::Refusing, "refusing"),
    (FaultKind::Slow, "slow"),
    (FaultKind::Departure, "departure"),
    (FaultKind::Management, "management"),
    (FaultKind::Reservations, "reservations"),
    (FaultKind::Buffers, "buffers"),
];

/// Kinds that are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without(u32);

impl Without {
    pub const NOTHING: Self = Self(0);

    #[must_use]
    pub const fn and(self, kind: FaultKind) -> Self {
        Self(self.0 | 1 << kind as u16)
    }

    pub const fn has(self, kind: FaultKind) -> bool {
        self.0 & 1 << kind as u16 != 0
    }

    /// Reads names, with commas between them.
    ///
    /// # Errors
    /// A name that is none, and those there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut names = text.split(',').filter(|name| !name.is_empty());
        names.try_fold(Self::NOTHING, |without, name| {
            let known = KINDS.iter().find(|(_, known)| *known == name);
            let (kind, _) = known.ok_or_else(|| {
                let names: Vec<_> = KINDS.iter().map(|(_, name)| *name).collect();
                format!(
                    "{name:?} is no kind of fault; there are {}",
                    names.join(", ")
                )
            })?;
            Ok(without.and(*kind))
        })
    }
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (_, name) in KINDS.iter().filter(|(kind, _)| self.has(*kind)) {
            write!(f, "{comma}{name}")?;
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (kind, name) in KINDS {
            assert_eq!(Without::parse(name), Ok(Without::NOTHING.and(kind)));
        }
        let without = Without::NOTHING.and(FaultKind::Cut).and(FaultKind::Busy);
        assert_eq!(without.to_string(), "cut,busy");
        assert_eq!(Without::parse("cut,busy"), Ok(without));
        assert!(Without::parse("cut,rain").is_err());
    }
}

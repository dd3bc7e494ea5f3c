//! Faults planted on purpose, to see that the simulator finds them: a check that
//! has never failed proves nothing.
//!
//! Each is one condition at the place that it spoils. Without the feature
//! `mutations`, which nothing but the simulator's own build turns on,
//! [`planted`] is the constant `false`, and the compiler leaves nothing of them.

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutation {
    /// A start believes payloads of the journal whatever their checksums say.
    SkipChecksum = 1,
    /// A write is answered before the journal has it (C-2).
    AckBeforeJournal,
    /// A record leaves the log when it is sent, not when it is durable.
    FreeBeforeGood,
    /// Overlapping writes are in flight together (C-6).
    NoOverlapGuard,
    /// What a lost session had under way is sent again before that session is ended (C-8).
    ResendBeforeReinstatement,
    /// A GOOD alone counts as durable.
    DurableUnsynced,
    /// Records of a later epoch do not wait for the earlier ones.
    EpochsMixed,
    /// The storage says that it was reset, and nothing is sent again.
    ResetUnheeded,
    /// SYNCHRONIZE CACHE is answered at once (C-2).
    SyncUnawaited,
    /// What a read under way may miss at the storage is let go.
    FreeUnderRead,
    /// The journal is made void before what it keeps is at the storage.
    VoidUnflushed,
    /// The journal hears of a hidden record's end before the write that hides it.
    FreeBeforeHidingWrite,
    /// What a start found in the log is used whatever its checksum says.
    SkipLogChecksum,
    /// A record that fails its checksum counts as flushed.
    UnsoundAsDurable,
}

impl Mutation {
    /// All of them, with the names that the simulator's command line takes.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::SkipChecksum, "skip-checksum"),
        (Self::AckBeforeJournal, "ack-before-journal"),
        (Self::FreeBeforeGood, "free-before-good"),
        (Self::NoOverlapGuard, "no-overlap-guard"),
        (
            Self::ResendBeforeReinstatement,
            "resend-before-reinstatement",
        ),
        (Self::DurableUnsynced, "durable-unsynced"),
        (Self::EpochsMixed, "epochs-mixed"),
        (Self::ResetUnheeded, "reset-unheeded"),
        (Self::SyncUnawaited, "sync-unawaited"),
        (Self::FreeUnderRead, "free-under-read"),
        (Self::VoidUnflushed, "void-unflushed"),
        (Self::FreeBeforeHidingWrite, "free-before-hiding-write"),
        (Self::SkipLogChecksum, "skip-log-checksum"),
        (Self::UnsoundAsDurable, "unsound-as-durable"),
    ];
}

/// Whether this fault is planted.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn planted(_: Mutation) -> bool {
    false
}

#[cfg(feature = "mutations")]
pub use selected::{plant, planted};

#[cfg(feature = "mutations")]
mod selected {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Mutation;

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// As the constant of the same name, for the one that was planted last.
    pub fn planted(mutation: Mutation) -> bool {
        // Relaxed: a number is all that is shared.
        PLANTED.load(Ordering::Relaxed) == mutation as u8
    }

    /// Plants one fault, or none, for every thread; not while a run is under way.
    pub fn plant(mutation: Option<Mutation>) {
        let number = mutation.map_or(0, |mutation| mutation as u8);
        // Relaxed: see `planted`.
        PLANTED.store(number, Ordering::Relaxed);
    }
}

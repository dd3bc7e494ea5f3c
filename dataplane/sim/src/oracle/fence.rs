//! Fencing (C-9): while one computer holds a volume for itself, no write of another is
//! acknowledged, and with exclusive access no read of another answered.
//!
//! What holds the volume is known only while no command that may change it is under way
//! and none was lost on its way; at other times nothing is asked here.

use sluice_proto::scsi::reservation::Kind;

use super::{Oracle, ReadTicket, WriteNumber};

/// Which computer; as the world numbers them.
pub type Computer = u8;

/// What a PERSISTENT RESERVE OUT is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserving {
    Register,
    Unregister,
    Reserve(Kind),
    Release(Kind),
    Clear,
    Preempt(Kind),
}

impl Reserving {
    const fn takes(self) -> Option<Kind> {
        match self {
            Self::Reserve(kind) | Self::Preempt(kind) => Some(kind),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    by: Computer,
    forbids_reads: bool,
    since: u64,
}

/// What is known of a volume's holder.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fence {
    hold: Option<Hold>,
    /// Somebody may hold it: then some writes pass the cache by.
    taken: bool,
    /// The storage answers RESERVATION CONFLICT for no reason that is known here: the
    /// relay must take it that somebody from outside holds the volume by RESERVE.
    conflict: bool,
    under_way: u32,
    /// Of the newest command.
    stamp: u64,
    /// Were lost, and may still take effect.
    lost: u32,
}

/// A PERSISTENT RESERVE OUT under way.
#[derive(Clone, Copy, Debug)]
pub struct ReserveTicket {
    by: Computer,
    what: Reserving,
    stamp: u64,
}

impl Fence {
    /// Whether a plain write may pass the cache by.
    pub(super) const fn lets_pass(&self) -> bool {
        self.taken || self.conflict
    }
}

impl Oracle {
    /// From here on the storage may answer RESERVATION CONFLICT though nobody reserved.
    pub fn conflict_begins(&mut self) {
        self.fence.conflict = true;
    }

    pub fn reserve_issued(&mut self, by: Computer, what: Reserving) -> ReserveTicket {
        let fence = &mut self.fence;
        fence.hold = None;
        fence.taken |= what.takes().is_some();
        fence.under_way += 1;
        fence.stamp += 1;
        let stamp = fence.stamp;
        ReserveTicket { by, what, stamp }
    }

    /// It was answered: GOOD, or so that nothing was done.
    pub fn reserve_answered(&mut self, ticket: ReserveTicket, good: bool) {
        let since = self.now();
        let fence = &mut self.fence;
        fence.under_way -= 1;
        let alone = fence.under_way == 0 && fence.stamp == ticket.stamp && fence.lost == 0;
        if !good || !alone {
            return;
        }
        if ticket.what == Reserving::Clear {
            fence.taken = false;
        }
        // (A PREEMPT that is GOOD may have taken registrations alone.)
        if let Reserving::Reserve(kind @ (Kind::WriteExclusive | Kind::ExclusiveAccess)) =
            ticket.what
        {
            self.fences += 1;
            fence.hold = Some(Hold {
                by: ticket.by,
                forbids_reads: kind == Kind::ExclusiveAccess,
                since,
            });
        }
    }

    /// Nobody knows whether it was done, or will be.
    pub fn reserve_lost(&mut self) {
        self.fence.under_way -= 1;
        self.fence.lost += 1;
    }

    /// The session that one was lost with is reinstated: it can take effect no more.
    pub fn reserve_ended(&mut self) {
        self.fence.lost -= 1;
    }

    /// The storage has forgotten who holds the volume.
    pub fn fence_forgotten(&mut self) {
        self.fence.hold = None;
        // Nor does it know of what it answers at this moment.
        self.fence.stamp += 1;
    }

    fn is_fenced_off(&self, computer: Computer, issued: u64) -> Option<&Hold> {
        let hold = self.fence.hold.as_ref();
        hold.filter(|hold| hold.by != computer && hold.since < issued)
    }

    pub(super) fn check_write_fenced(&mut self, number: WriteNumber) {
        let write = *self.write(number);
        if let Some(hold) = write.by.and_then(|by| self.is_fenced_off(by, write.issued)) {
            let detail = format!("{}, while {hold:?}", self.tell(number));
            self.report("nothing acknowledged past a fence", detail);
        }
    }

    pub(super) fn check_read_fenced(&mut self, ticket: ReadTicket) {
        let hold = ticket
            .by
            .and_then(|by| self.is_fenced_off(by, ticket.issued))
            .filter(|hold| hold.forbids_reads);
        if let Some(hold) = hold {
            let detail = format!("a read issued at {}, while {hold:?}", ticket.issued);
            self.report("nothing read past a fence", detail);
        }
    }
}

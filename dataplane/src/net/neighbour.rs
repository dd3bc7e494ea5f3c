//! Who is behind an address on a link: the neighbour table and its states.
//!
//! The states are those of RFC 4861 7.3.2 in a simple form, with ARP as the
//! protocol. An entry has a link header exactly when packets may be sent with
//! it. Gateways are pinned at start and keep their slot, so a route leads to
//! its neighbour by index. Bounded in every way (RFC 1122 2.3.2.1): entries,
//! entries that wait for an answer, requests for one address.
//!
//! Not for packets: the router keeps those that wait, and sends the requests
//! that are asked of it here.

use std::net::Ipv4Addr;
use std::time::Duration;

use sluice_proto::Time;

use super::config::{Mac, NeighbourLimits};
use super::ethernet::{self, ETHERNET_LEN, ETHERTYPE_IPV4};

/// Index of a neighbour in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub u16);

const NO_SLOT: u16 = u16::MAX;

/// Where a neighbour stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// A gateway nobody has asked for yet, or one asked for in vain some time ago.
    Unresolved,
    /// Asked for; packets wait.
    Incomplete,
    /// Answered lately.
    Reachable,
    /// Known, but not lately confirmed; the next packet asks again.
    Stale,
    /// Known, in use, and asked again.
    Probe,
    /// Did not answer; not asked for again for a while.
    Failed,
}

impl NeighbourState {
    /// The name operators see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Probe => "probe",
            Self::Failed => "failed",
        }
    }
}

/// One neighbour.
#[derive(Clone, Debug)]
pub(super) struct Neighbour {
    pub address: Ipv4Addr,
    pub port: u8,
    pub state: NeighbourState,
    /// The Ethernet header of IPv4 frames to it; means something where the state has one.
    pub link: [u8; ETHERNET_LEN],
    pub pending: u8,
    attempts: u8,
    pinned: bool,
    used: bool,
    /// Next in the hash chain or on the free list.
    next: u16,
    /// When the state ends.
    deadline: Time,
    /// When it last answered; zero if it never did.
    pub confirmed: Time,
}

impl Neighbour {
    /// Whether packets may be sent at once and nothing needs to be asked: the fast path.
    #[inline]
    pub const fn ready(&self) -> bool {
        matches!(
            self.state,
            NeighbourState::Reachable | NeighbourState::Probe
        )
    }

    pub const fn resolved(&self) -> bool {
        matches!(
            self.state,
            NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Probe
        )
    }

    pub fn mac(&self) -> Mac {
        let [mac @ .., _, _, _, _, _, _, _, _] = self.link;
        mac
    }
}

/// What to do with a packet for a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Send,
    /// Send it, and a request to the neighbour itself.
    SendAndProbe,
    /// Keep it; an answer is awaited.
    Wait,
    /// Keep it, and broadcast a request.
    WaitAndAsk,
    /// Nobody answers there.
    Unreachable,
}

/// What time brought about for one neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// Broadcast a request.
    Ask(Slot),
    /// Send a request to the neighbour itself.
    Probe(Slot),
    /// What waits for it waits in vain.
    Unreachable(Slot),
}

/// No room for another neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableFull;

/// Slots looked at for one to reclaim when the table is full: bounds what one
/// packet to a new address can cost.
const RECLAIM_SLOTS: usize = 32;

#[derive(Debug)]
pub(super) struct Neighbours {
    limits: NeighbourLimits,
    entries: Vec<Neighbour>,
    heads: Box<[u16]>,
    shift: u32,
    free: u16,
    incomplete: usize,
    reclaim_at: usize,
    next_deadline: Time,
}

impl Neighbours {
    pub fn new(limits: NeighbourLimits) -> Self {
        let count = limits.entries_max;
        let entries = (0..count)
            .map(|index| Neighbour {
                address: Ipv4Addr::UNSPECIFIED,
                port: 0,
                state: NeighbourState::Unresolved,
                link: [0; ETHERNET_LEN],
                pending: 0,
                attempts: 0,
                pinned: false,
                used: false,
                confirmed: Time::ZERO,
                next: if index + 1 < count {
                    index + 1
                } else {
                    NO_SLOT
                },
                deadline: Time::FAR,
            })
            .collect();
        let heads = (usize::from(count) * 2).next_power_of_two().max(64);
        Self {
            limits,
            entries,
            heads: vec![NO_SLOT; heads].into_boxed_slice(),
            shift: 64 - heads.ilog2(),
            free: if count == 0 { NO_SLOT } else { 0 },
            incomplete: 0,
            reclaim_at: 0,
            next_deadline: Time::FAR,
        }
    }

    #[inline]
    pub fn get(&self, slot: Slot) -> &Neighbour {
        &self.entries[usize::from(slot.0)]
    }

    pub fn get_mut(&mut self, slot: Slot) -> &mut Neighbour {
        &mut self.entries[usize::from(slot.0)]
    }

    fn head(&self, port: u8, address: Ipv4Addr) -> usize {
        let key = u64::from(address.to_bits()) << 8 | u64::from(port);
        // Truncation cannot happen: `shift` leaves as many bits as there are heads.
        usize::try_from(key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift)
            .expect("fewer bits than a usize")
    }

    #[inline]
    pub fn find(&self, port: u8, address: Ipv4Addr) -> Option<Slot> {
        let mut at = self.heads[self.head(port, address)];
        while at != NO_SLOT {
            let entry = &self.entries[usize::from(at)];
            if entry.address == address && entry.port == port {
                return Some(Slot(at));
            }
            at = entry.next;
        }
        None
    }

    /// The neighbour's slot, a new one if need be.
    pub fn find_or_insert(&mut self, port: u8, address: Ipv4Addr) -> Result<Slot, TableFull> {
        if let Some(slot) = self.find(port, address) {
            return Ok(slot);
        }
        if self.free == NO_SLOT {
            self.reclaim();
        }
        if self.free == NO_SLOT {
            return Err(TableFull);
        }
        let slot = Slot(self.free);
        let head = self.head(port, address);
        let next = self.heads[head];
        let entry = &mut self.entries[usize::from(slot.0)];
        self.free = entry.next;
        *entry = Neighbour {
            address,
            port,
            state: NeighbourState::Unresolved,
            link: [0; ETHERNET_LEN],
            pending: 0,
            attempts: 0,
            pinned: false,
            used: true,
            next,
            deadline: Time::FAR,
            confirmed: Time::ZERO,
        };
        self.heads[head] = slot.0;
        Ok(slot)
    }

    /// Keeps a gateway's slot for good.
    pub fn pin(&mut self, port: u8, address: Ipv4Addr) -> Result<Slot, TableFull> {
        let slot = self.find_or_insert(port, address)?;
        self.get_mut(slot).pinned = true;
        Ok(slot)
    }

    fn remove(&mut self, slot: Slot) {
        let (port, address) = (self.get(slot).port, self.get(slot).address);
        assert_eq!(
            self.get(slot).pending,
            0,
            "packets that wait are dealt with before their neighbour goes"
        );
        let next = self.get(slot).next;
        let head = self.head(port, address);
        if self.heads[head] == slot.0 {
            self.heads[head] = next;
        } else {
            let mut at = self.heads[head];
            while self.entries[usize::from(at)].next != slot.0 {
                at = self.entries[usize::from(at)].next;
            }
            self.entries[usize::from(at)].next = next;
        }
        let free = self.free;
        let entry = self.get_mut(slot);
        entry.used = false;
        entry.deadline = Time::FAR;
        entry.next = free;
        self.free = slot.0;
    }

    /// Frees an entry that nobody needs, looking at a bounded number of them.
    fn reclaim(&mut self) {
        for _ in 0..RECLAIM_SLOTS.min(self.entries.len()) {
            let at = self.reclaim_at;
            self.reclaim_at = (at + 1) % self.entries.len();
            let entry = &self.entries[at];
            let idle = matches!(
                entry.state,
                NeighbourState::Stale | NeighbourState::Failed | NeighbourState::Unresolved
            );
            if entry.used && !entry.pinned && idle {
                self.remove(Slot(u16::try_from(at).expect("entries_max is a u16")));
                return;
            }
        }
    }

    fn set_state(&mut self, slot: Slot, state: NeighbourState, now: Time, length: Duration) {
        let deadline = now + length;
        let entry = self.get_mut(slot);
        let was = entry.state;
        entry.state = state;
        entry.deadline = deadline;
        if state == NeighbourState::Reachable {
            entry.confirmed = now;
        }
        self.next_deadline = self.next_deadline.min(deadline);
        self.incomplete -= usize::from(was == NeighbourState::Incomplete);
        self.incomplete += usize::from(state == NeighbourState::Incomplete);
    }

    /// A packet wants to go there.
    pub fn use_slot(&mut self, slot: Slot, now: Time) -> Result<Use, TableFull> {
        let retry = self.limits.retry;
        match self.get(slot).state {
            NeighbourState::Reachable | NeighbourState::Probe => Ok(Use::Send),
            NeighbourState::Incomplete => Ok(Use::Wait),
            NeighbourState::Failed => Ok(Use::Unreachable),
            NeighbourState::Stale => {
                self.set_state(slot, NeighbourState::Probe, now, retry);
                self.get_mut(slot).attempts = 1;
                Ok(Use::SendAndProbe)
            }
            NeighbourState::Unresolved => {
                // A scan of a subnet must not crowd out those who are there:
                // at most a quarter of the table waits for answers. Gateways always may.
                if self.incomplete >= usize::from(self.limits.entries_max / 4).max(1)
                    && !self.get(slot).pinned
                {
                    self.remove(slot);
                    return Err(TableFull);
                }
                self.set_state(slot, NeighbourState::Incomplete, now, retry);
                self.get_mut(slot).attempts = 1;
                Ok(Use::WaitAndAsk)
            }
        }
    }

    /// The neighbour's address was heard: in an answer to the relay (`solicited`), or otherwise.
    pub fn confirm(&mut self, slot: Slot, mac: Mac, own_mac: Mac, solicited: bool, now: Time) {
        let link = ethernet::header(mac, own_mac, ETHERTYPE_IPV4);
        let entry = self.get_mut(slot);
        let known = entry.resolved() && entry.link == link;
        entry.link = link;
        if solicited {
            self.set_state(slot, NeighbourState::Reachable, now, self.limits.reachable);
        } else if !known {
            self.set_state(slot, NeighbourState::Stale, now, self.limits.stale);
        }
    }

    /// When [`Neighbours::expire`] has something to do.
    pub const fn deadline(&self) -> Time {
        self.next_deadline
    }

    /// Does what is due at `from` or in later slots; the next call goes on
    /// where `cursor` stands. `None`: nothing more is due.
    pub fn expire(&mut self, now: Time, cursor: &mut usize) -> Option<Expiry> {
        if *cursor == 0 {
            if now < self.next_deadline {
                return None;
            }
            self.next_deadline = Time::FAR;
        }
        while *cursor < self.entries.len() {
            let slot = Slot(u16::try_from(*cursor).expect("entries_max is a u16"));
            *cursor += 1;
            let entry = self.get(slot);
            if entry.deadline > now {
                self.next_deadline = self.next_deadline.min(entry.deadline);
                continue;
            }
            if let Some(expiry) = self.expire_slot(slot, now) {
                return Some(expiry);
            }
        }
        None
    }

    fn expire_slot(&mut self, slot: Slot, now: Time) -> Option<Expiry> {
        let NeighbourLimits {
            attempts_max,
            retry,
            stale,
            hold_down,
            ..
        } = self.limits;
        let entry = self.get_mut(slot);
        let again = entry.attempts < attempts_max;
        match entry.state {
            NeighbourState::Incomplete if again => {
                entry.attempts += 1;
                self.set_state(slot, NeighbourState::Incomplete, now, retry);
                Some(Expiry::Ask(slot))
            }
            NeighbourState::Incomplete => {
                self.set_state(slot, NeighbourState::Failed, now, hold_down);
                Some(Expiry::Unreachable(slot))
            }
            NeighbourState::Probe if again => {
                entry.attempts += 1;
                self.set_state(slot, NeighbourState::Probe, now, retry);
                Some(Expiry::Probe(slot))
            }
            NeighbourState::Probe => {
                // It may have another MAC address by now: ask everybody.
                entry.attempts = 1;
                self.set_state(slot, NeighbourState::Incomplete, now, retry);
                Some(Expiry::Ask(slot))
            }
            NeighbourState::Reachable => {
                self.set_state(slot, NeighbourState::Stale, now, stale);
                None
            }
            NeighbourState::Stale | NeighbourState::Failed | NeighbourState::Unresolved => {
                if entry.pinned {
                    entry.state = NeighbourState::Unresolved;
                    entry.deadline = Time::FAR;
                } else {
                    self.remove(slot);
                }
                None
            }
        }
    }

    /// The entries in use.
    pub fn iter(&self) -> impl Iterator<Item = &Neighbour> {
        self.entries.iter().filter(|entry| entry.used)
    }
}

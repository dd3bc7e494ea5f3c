//! Numbers of reservations by address pair and port: a hash table with open addressing,
//! at most half full, so that a connection's look-up is a line of memory or two.
//!
//! Its keys are an operator's, never a packet's: the hash has no secret.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Of a pair without a port the port is 0. A slot with number 0 is empty.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    pair: u64,
    port: u16,
    number: u16,
}

#[derive(Debug, Default)]
pub(super) struct Pairs {
    /// A power of two of them, or none.
    slots: Vec<Slot>,
    used: usize,
}

const SLOTS_MIN: usize = 64;

fn pair_of(local: Ipv4Addr, remote: Ipv4Addr) -> u64 {
    u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits())
}

/// Multiplied and folded: every bit of the key reaches the low ones.
fn hash(pair: u64, port: u16) -> usize {
    let mixed = u128::from(pair ^ u64::from(port).rotate_left(24)) * 0x9E37_79B9_7F4A_7C15;
    #[expect(clippy::cast_possible_truncation, reason = "folded")]
    let folded = (mixed >> 64) as u64 ^ mixed as u64;
    #[expect(clippy::cast_possible_truncation, reason = "masked by who asks")]
    let hash = (folded ^ folded >> 32) as usize;
    hash
}

impl Pairs {
    /// That of the pair and port, else that of the pair.
    #[inline]
    pub fn find(&self, local: Ipv4Addr, remote: SocketAddrV4) -> Option<u16> {
        let with_port = self.number_of(local, *remote.ip(), remote.port());
        with_port.or_else(|| self.number_of(local, *remote.ip(), 0))
    }

    #[inline]
    pub fn number_of(&self, local: Ipv4Addr, remote: Ipv4Addr, port: u16) -> Option<u16> {
        let at = self.place(pair_of(local, remote), port)?;
        Some(self.slots[at].number).filter(|&number| number != 0)
    }

    /// Where the key is, or would be put.
    fn place(&self, pair: u64, port: u16) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = hash(pair, port) & mask;
        loop {
            let slot = &self.slots[at];
            if slot.number == 0 || slot.pair == pair && slot.port == port {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// The key is new, the number not 0.
    pub fn insert(&mut self, local: Ipv4Addr, remote: Ipv4Addr, port: u16, number: u16) {
        if self.used * 2 >= self.slots.len() {
            let len = (self.slots.len() * 2).max(SLOTS_MIN);
            for slot in std::mem::replace(&mut self.slots, vec![Slot::default(); len]) {
                if slot.number != 0 {
                    self.put(slot);
                }
            }
        }
        self.used += 1;
        self.put(Slot {
            pair: pair_of(local, remote),
            port,
            number,
        });
    }

    fn put(&mut self, slot: Slot) {
        let at = self.place(slot.pair, slot.port);
        self.slots[at.expect("a table that is half empty")] = slot;
    }

    /// Those behind it that would not be found any more move up.
    pub fn remove(&mut self, local: Ipv4Addr, remote: Ipv4Addr, port: u16) {
        let Some(mut hole) = self.place(pair_of(local, remote), port) else {
            return;
        };
        if self.slots[hole].number == 0 {
            return;
        }
        self.used -= 1;
        let mask = self.slots.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.number == 0 {
                break;
            }
            let home = hash(slot.pair, slot.port) & mask;
            // From its home the hole is met before it is.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = Slot::default();
    }
}

//! The IPv4 forwarding table: longest prefix match in one or two cache misses.
//!
//! ```text
//!  dst >> 8 -> direct[2^24]: u32     leaf:  depth | next hop       (prefixes up to /24)
//!                                    group: index of a Group       (a /24 that holds longer ones)
//!  dst & 255 -> Group, one cache line: starts of up to 12 runs of equal leaves, and the leaves
//!               a Group of more runs points to 256 leaves, one an address
//! ```
//!
//! Memory: 64 MiB of address space for the direct table, of which only the
//! pages that routes touch are ever backed; 64 B for each /24 that holds
//! longer prefixes, 1 KiB more where it is cut in more than 12 runs; the ordered
//! list of routes (some 20 B a route) that the CLI shows and removal needs.
//! The route of length 0 stands outside the table, so that a default route
//! does not touch all of it.
//!
//! Not for IPv6, which gets a table of another shape beside this one; the
//! [`NextHopId`]s are common to both.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use memmap2::{Advice, MmapMut};
use sluice_hugepages::prefetch::prefetch;
use zerocopy::FromBytes;

/// Index in the table of next hops; [`NextHopId::NONE`] is no route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHopId(pub u16);

impl NextHopId {
    /// No route.
    pub const NONE: Self = Self(0);
}

const DIRECT_BITS: u8 = 24;
const DIRECT_LEN: usize = 1 << DIRECT_BITS;
/// Runs of equal leaves in a group's cache line: 12 x (4 + 1) bytes and the count.
const RUNS_MAX: usize = 12;

/// A leaf (`depth << 16 | next hop`, depth 1 to 32), nothing (0), or a group (top bit and index).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry(u32);

impl Entry {
    const NOTHING: Self = Self(0);
    const GROUP: u32 = 1 << 31;

    fn leaf(depth: u8, next_hop: NextHopId) -> Self {
        Self(u32::from(depth) << 16 | u32::from(next_hop.0))
    }

    fn group(index: usize) -> Self {
        Self(Self::GROUP | u32::try_from(index).expect("at most 2^24 groups: one a direct entry"))
    }

    const fn as_group(self) -> Option<usize> {
        if self.0 & Self::GROUP == 0 {
            None
        } else {
            Some((self.0 & !Self::GROUP) as usize)
        }
    }

    const fn depth(self) -> u32 {
        self.0 >> 16
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half is the next hop"
    )]
    const fn next_hop(self) -> NextHopId {
        NextHopId(self.0 as u16)
    }
}

/// Routes from which on the direct table asks for hugepages: a large table is
/// looked up all over, and each lookup would miss the TLB too; a small one
/// would only have more memory cleared than it touches.
const HUGEPAGES_FROM: usize = 1024;

/// What one /24 that holds longer prefixes is cut into.
#[derive(Clone)]
#[repr(C, align(64))]
struct Group {
    /// Leaves of the runs; with `runs` 0 the first is an index into `Fib::spills`.
    leaves: [u32; RUNS_MAX],
    /// First address of each run, ascending from 0.
    starts: [u8; RUNS_MAX],
    runs: u8,
}

const _: () = assert!(size_of::<Group>() == 64);

type Spill = [u32; 256];

/// The table.
pub struct Fib {
    /// [`DIRECT_LEN`] entries, zeros at first; a mapping of its own, so that it can be of hugepages.
    direct: MmapMut,
    groups: Vec<Group>,
    groups_free: Vec<usize>,
    spills: Vec<Spill>,
    spills_free: Vec<usize>,
    /// The next hop of 0.0.0.0/0.
    default: NextHopId,
    /// All routes, by prefix and length.
    routes: BTreeMap<(u32, u8), NextHopId>,
}

impl fmt::Debug for Fib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fib")
            .field("routes", &self.routes.len())
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}

/// The bits of a prefix of this length.
pub(super) const fn mask(len: u8) -> u32 {
    if len == 0 { 0 } else { u32::MAX << (32 - len) }
}

impl Fib {
    /// An empty table, soon to hold about so many routes.
    ///
    /// # Panics
    /// If 64 MiB of address space cannot be had.
    #[must_use]
    pub fn new(routes: usize) -> Self {
        let direct = MmapMut::map_anon(DIRECT_LEN * size_of::<u32>())
            .expect("64 MiB of address space for the forwarding table");
        if routes >= HUGEPAGES_FROM {
            // Where the kernel does not want to, the table is only slower.
            let _ = direct.advise(Advice::HugePage);
        }
        Self {
            direct,
            groups: Vec::new(),
            groups_free: Vec::new(),
            spills: Vec::new(),
            spills_free: Vec::new(),
            default: NextHopId::NONE,
            routes: BTreeMap::new(),
        }
    }

    #[inline]
    fn direct(&self) -> &[u32; DIRECT_LEN] {
        <[u32; DIRECT_LEN]>::ref_from_bytes(&self.direct)
            .expect("mapped with that length, aligned to a page")
    }

    #[inline]
    fn direct_mut(&mut self) -> &mut [u32; DIRECT_LEN] {
        <[u32; DIRECT_LEN]>::mut_from_bytes(&mut self.direct)
            .expect("mapped with that length, aligned to a page")
    }

    /// Asks for the entry that [`Fib::lookup`] will read first.
    #[inline]
    pub fn prefetch(&self, dst: u32) {
        prefetch(&self.direct()[(dst >> 8) as usize]);
    }

    /// The next hop of the longest prefix that holds `dst`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, dst: u32) -> NextHopId {
        let mut entry = Entry(self.direct()[(dst >> 8) as usize]);
        if let Some(group) = entry.as_group() {
            entry = self.leaf_in_group(&self.groups[group], dst);
        }
        if entry == Entry::NOTHING {
            self.default
        } else {
            entry.next_hop()
        }
    }

    #[inline]
    fn leaf_in_group(&self, group: &Group, dst: u32) -> Entry {
        let [low, ..] = dst.to_le_bytes();
        if group.runs == 0 {
            return Entry(self.spills[group.leaves[0] as usize][usize::from(low)]);
        }
        // Comparing all starts costs less than a branch for each; those past
        // the last run do not count.
        let starts_before = group
            .starts
            .iter()
            .map(|&start| u8::from(start <= low))
            .sum::<u8>();
        Entry(group.leaves[usize::from(starts_before.min(group.runs)) - 1])
    }

    /// Adds a route, or gives an existing one another next hop.
    ///
    /// # Panics
    /// If `len` is above 32, `prefix` has bits set after `len`, or `next_hop`
    /// is [`NextHopId::NONE`]: the configuration was checked before.
    pub fn insert(&mut self, prefix: u32, len: u8, next_hop: NextHopId) {
        assert!(
            len <= 32 && prefix & !mask(len) == 0,
            "prefix {prefix:#x}/{len} has bits after its length"
        );
        assert_ne!(next_hop, NextHopId::NONE, "a route needs a next hop");
        self.routes.insert((prefix, len), next_hop);
        if len == 0 {
            self.default = next_hop;
            return;
        }
        let new = Entry::leaf(len, next_hop);
        self.rewrite(prefix, len, |entry| {
            if entry.depth() <= u32::from(len) {
                new
            } else {
                entry
            }
        });
    }

    /// Removes a route; its addresses fall to the next shorter prefix. False if there was none.
    pub fn remove(&mut self, prefix: u32, len: u8) -> bool {
        if self.routes.remove(&(prefix, len)).is_none() {
            return false;
        }
        if len == 0 {
            self.default = NextHopId::NONE;
            return true;
        }
        let cover = (1..len)
            .rev()
            .find_map(|shorter| {
                self.routes
                    .get(&(prefix & mask(shorter), shorter))
                    .map(|&hop| Entry::leaf(shorter, hop))
            })
            .unwrap_or(Entry::NOTHING);
        self.rewrite(prefix, len, |entry| {
            if entry.depth() == u32::from(len) {
                cover
            } else {
                entry
            }
        });
        true
    }

    /// Applies `change` to every leaf under a prefix.
    fn rewrite(&mut self, prefix: u32, len: u8, change: impl Fn(Entry) -> Entry) {
        let first = (prefix >> 8) as usize;
        if len > DIRECT_BITS {
            let low = (prefix & 0xff) as usize;
            self.rewrite_group(first, low..low + (1 << (32 - len)), change);
            return;
        }
        for index in first..first + (1 << (DIRECT_BITS - len)) {
            let entry = Entry(self.direct()[index]);
            if entry.as_group().is_some() {
                self.rewrite_group(index, 0..256, &change);
            } else {
                self.direct_mut()[index] = change(entry).0;
            }
        }
    }

    /// Applies `change` to leaves of one /24, which becomes a group where it
    /// must and a direct leaf again where it can.
    fn rewrite_group(
        &mut self,
        index: usize,
        range: std::ops::Range<usize>,
        change: impl Fn(Entry) -> Entry,
    ) {
        let entry = Entry(self.direct()[index]);
        let mut leaves: Spill = [entry.0; 256];
        if let Some(group) = entry.as_group() {
            self.take_group(group, &mut leaves);
        }
        for leaf in &mut leaves[range] {
            *leaf = change(Entry(*leaf)).0;
        }
        let uniform = leaves.iter().all(|leaf| *leaf == leaves[0]);
        self.direct_mut()[index] = if uniform && Entry(leaves[0]).depth() <= u32::from(DIRECT_BITS)
        {
            leaves[0]
        } else {
            Entry::group(self.put_group(&leaves)).0
        };
    }

    /// Writes a group out as 256 leaves and frees its place.
    fn take_group(&mut self, index: usize, leaves: &mut Spill) {
        let group = &self.groups[index];
        if group.runs == 0 {
            let spill = group.leaves[0] as usize;
            *leaves = self.spills[spill];
            self.spills_free.push(spill);
        } else {
            let runs = usize::from(group.runs);
            for run in 0..runs {
                let end = if run + 1 < runs {
                    usize::from(group.starts[run + 1])
                } else {
                    256
                };
                leaves[usize::from(group.starts[run])..end].fill(group.leaves[run]);
            }
        }
        self.groups_free.push(index);
    }

    fn put_group(&mut self, leaves: &Spill) -> usize {
        let mut group = Group {
            leaves: [0; RUNS_MAX],
            starts: [u8::MAX; RUNS_MAX],
            runs: 0,
        };
        let mut runs = 0;
        for (low, leaf) in (0..=u8::MAX).zip(leaves) {
            if low == 0 || leaves[usize::from(low) - 1] != *leaf {
                if runs < RUNS_MAX {
                    group.starts[runs] = low;
                    group.leaves[runs] = *leaf;
                }
                runs += 1;
            }
        }
        if runs <= RUNS_MAX {
            group.runs = u8::try_from(runs).expect("at most 12");
        } else {
            let spill = self.spills_free.pop().unwrap_or_else(|| {
                self.spills.push([0; 256]);
                self.spills.len() - 1
            });
            self.spills[spill] = *leaves;
            group.leaves[0] = u32::try_from(spill).expect("at most one a /24");
        }
        if let Some(index) = self.groups_free.pop() {
            self.groups[index] = group;
            return index;
        }
        self.groups.push(group);
        self.groups.len() - 1
    }

    /// All routes in the order of their prefixes.
    pub fn routes(&self) -> impl Iterator<Item = (Ipv4Addr, u8, NextHopId)> + '_ {
        self.routes
            .iter()
            .map(|(&(prefix, len), &hop)| (Ipv4Addr::from_bits(prefix), len, hop))
    }

    /// The next hop of exactly this route.
    #[must_use]
    pub fn route(&self, prefix: u32, len: u8) -> Option<NextHopId> {
        self.routes.get(&(prefix, len)).copied()
    }

    /// Bytes of the second level, used or kept for use (the direct table's 64 MiB come on top).
    #[must_use]
    pub fn group_bytes(&self) -> usize {
        self.groups.len() * size_of::<Group>() + self.spills.len() * size_of::<Spill>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The oracle: every route looked at, the longest that matches wins.
    #[derive(Default)]
    struct Naive(Vec<(u32, u8, NextHopId)>);

    impl Naive {
        fn insert(&mut self, prefix: u32, len: u8, hop: NextHopId) {
            self.remove(prefix, len);
            self.0.push((prefix, len, hop));
        }

        fn remove(&mut self, prefix: u32, len: u8) -> bool {
            let before = self.0.len();
            self.0.retain(|route| (route.0, route.1) != (prefix, len));
            self.0.len() != before
        }

        fn lookup(&self, dst: u32) -> NextHopId {
            self.0
                .iter()
                .filter(|(prefix, len, _)| dst & mask(*len) == *prefix)
                .max_by_key(|(_, len, _)| *len)
                .map_or(NextHopId::NONE, |route| route.2)
        }
    }

    /// Prefixes that crowd a few /24s, so that they nest, cover and split each other.
    fn prefix() -> impl Strategy<Value = (u32, u8)> {
        let crowded = (0u32..1024, 22u8..=32).prop_map(|(low, len)| (0x0a01_0000 | low, len));
        let wide = (any::<u32>(), 7u8..=24)
            .prop_map(|(address, len)| (0x0a00_0000 | address & 0x01ff_ffff, len));
        prop_oneof![6 => crowded, 2 => wide, 1 => Just((0, 0))]
            .prop_map(|(address, len)| (address & mask(len), len))
    }

    fn address() -> impl Strategy<Value = u32> {
        prop_oneof![4 => (0u32..1024).prop_map(|low| 0x0a01_0000 | low), 1 => any::<u32>().prop_map(|a| 0x0a00_0000 | a & 0x01ff_ffff), 1 => any::<u32>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn lookup_is_the_longest_match(
            changes in proptest::collection::vec((prefix(), 0u16..9), 1..80),
            probes in proptest::collection::vec(address(), 64),
        ) {
            let mut fib = Fib::new(0);
            let mut naive = Naive::default();
            for ((prefix, len), hop) in changes {
                if hop == 0 {
                    // Mostly prefixes that are there, so that removal means something.
                    let at = naive.0.get(prefix as usize % 7).map_or((prefix, len), |route| (route.0, route.1));
                    prop_assert_eq!(fib.remove(at.0, at.1), naive.remove(at.0, at.1));
                } else {
                    fib.insert(prefix, len, NextHopId(hop));
                    naive.insert(prefix, len, NextHopId(hop));
                }
            }
            let edges: Vec<u32> = naive.0.iter().flat_map(|(prefix, len, _)| {
                let last = prefix | !mask(*len);
                [*prefix, last, prefix.wrapping_sub(1), last.wrapping_add(1)]
            }).collect();
            for dst in probes.into_iter().chain(edges) {
                prop_assert_eq!(fib.lookup(dst), naive.lookup(dst), "{}", Ipv4Addr::from_bits(dst));
            }
            prop_assert_eq!(fib.routes().count(), naive.0.len());
        }
    }

    #[test]
    fn a_group_spills_and_comes_back() {
        let mut fib = Fib::new(0);
        fib.insert(0xc000_0200, 24, NextHopId(1));
        for low in (0..=254).step_by(2) {
            fib.insert(0xc000_0200 | low, 32, NextHopId(2));
        }
        for low in 0..=255 {
            assert_eq!(
                fib.lookup(0xc000_0200 | low),
                NextHopId(if low % 2 == 0 { 2 } else { 1 })
            );
        }
        assert_eq!(fib.group_bytes(), 64 + 1024);
        for low in (0..=254).step_by(2) {
            assert!(fib.remove(0xc000_0200 | low, 32));
        }
        assert_eq!(
            Entry(fib.direct()[0x00c0_0002]).as_group(),
            None,
            "a /24 that is one leaf is direct again"
        );
        assert_eq!(fib.groups_free.len(), 1);
        assert_eq!(fib.spills_free.len(), 1);
    }

    #[test]
    fn a_default_route_touches_no_table() {
        let mut fib = Fib::new(0);
        fib.insert(0, 0, NextHopId(3));
        assert_eq!(fib.lookup(0x0808_0808), NextHopId(3));
        assert_eq!(fib.direct()[0x0008_0808], 0);
        assert!(fib.remove(0, 0));
        assert_eq!(fib.lookup(0x0808_0808), NextHopId::NONE);
    }
}

//! One timer a slot, on a hierarchical timing wheel.
//!
//! Eight levels of 64 slots cover every [`Time`] there is: a timer stands at
//! the level of the highest six-bit group in which its tick differs from the
//! current one, and moves down a level each time the wheel reaches its slot.
//! So arming, disarming and expiring are O(1) (a timer moves at most seven
//! times in its life), and idle timers cost nothing. A timer never fires
//! early and at most one [tick](TICK_NANOS) late; timers of one tick fire in
//! no particular, but always the same, order.
//!
//! Used for flows and for sessions; it knows nothing of either, and keeps no
//! time of its own.

use sluice_proto::Time;

const TICK_SHIFT: u32 = 16;
/// Resolution, ns (65.5 us): fine against the shortest timer there is, the
/// 250 us that a flow waits after finding the pool exhausted.
pub const TICK_NANOS: u64 = 1 << TICK_SHIFT;

const GROUP_BITS: u32 = 6;
const SLOTS: usize = 1 << GROUP_BITS;
const LEVELS: usize = (u64::BITS - TICK_SHIFT).div_ceil(GROUP_BITS) as usize;
const LAST_TICK: u64 = u64::MAX >> TICK_SHIFT;
/// "No timer" in a list.
const NONE: u32 = u32::MAX;
/// `place` of a timer that is not armed.
const DISARMED: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
struct Timer {
    due: u64,
    prev: u32,
    next: u32,
    /// Level times 64 plus slot, or [`DISARMED`].
    place: u16,
}

/// Timers for the slot indices below a number fixed at construction.
#[derive(Debug)]
pub struct Wheel {
    /// Ticks that have passed. Every armed timer is due at or after it.
    elapsed: u64,
    /// A bit a slot that holds a timer.
    occupied: [u64; LEVELS],
    heads: [[u32; SLOTS]; LEVELS],
    timers: Vec<Timer>,
}

impl Wheel {
    /// A wheel on which nothing is armed.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        let disarmed = Timer {
            due: 0,
            prev: NONE,
            next: NONE,
            place: DISARMED,
        };
        Self {
            elapsed: 0,
            occupied: [0; LEVELS],
            heads: [[NONE; SLOTS]; LEVELS],
            timers: vec![disarmed; slots as usize],
        }
    }

    /// Arms the timer of `index` for `at`, in place of what it was armed for.
    pub fn arm(&mut self, index: u32, at: Time) {
        // Rounded up, so that it never fires early; a moment already past
        // fires at the next expiry.
        let due = at
            .as_nanos()
            .div_ceil(TICK_NANOS)
            .clamp(self.elapsed, LAST_TICK);
        let timer = self.timers[index as usize];
        if timer.place != DISARMED {
            if timer.due == due {
                return;
            }
            self.unlink(index);
        }
        self.timers[index as usize].due = due;
        self.link(index);
    }

    /// Disarms the timer of `index` if it is armed.
    pub fn disarm(&mut self, index: u32) {
        if self.timers[index as usize].place != DISARMED {
            self.unlink(index);
        }
    }

    /// Takes one timer that is due at `now`; call until `None`.
    pub fn expire(&mut self, now: Time) -> Option<u32> {
        let now = now.as_nanos() >> TICK_SHIFT;
        while let Some((level, slot, start)) = self.first()
            && start <= now
        {
            let mut index = self.heads[level][slot];
            if level == 0 {
                self.unlink(index);
                return Some(index);
            }
            // The slot begins: its timers move to the levels below.
            self.elapsed = start;
            self.heads[level][slot] = NONE;
            self.occupied[level] &= !(1 << slot);
            while index != NONE {
                let next = self.timers[index as usize].next;
                self.link(index);
                index = next;
            }
        }
        self.elapsed = self.elapsed.max(now);
        None
    }

    /// When [`expire`](Self::expire) has something to do next: the moment of
    /// the first timer if it is within 4 ms, else a moment before it.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        self.first()
            .map(|(_, _, start)| Time::from_nanos(start << TICK_SHIFT))
    }

    /// Level, slot and first tick of the first occupied slot. What is on a
    /// lower level is always due before what is on a higher one.
    fn first(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = GROUP_BITS * u32::try_from(level).expect("eight levels");
        let above = self.elapsed >> shift >> GROUP_BITS << GROUP_BITS;
        Some((level, slot as usize, (above | u64::from(slot)) << shift))
    }

    fn link(&mut self, index: u32) {
        let due = self.timers[index as usize].due;
        let differing = (due ^ self.elapsed) | 1;
        let level = (differing.ilog2() / GROUP_BITS) as usize;
        #[expect(clippy::cast_possible_truncation, reason = "masked to six bits")]
        let slot = (due >> (GROUP_BITS as usize * level)) as usize & (SLOTS - 1);
        let head = self.heads[level][slot];
        let place = u16::try_from(level * SLOTS + slot).expect("512 places");
        let timer = &mut self.timers[index as usize];
        (timer.prev, timer.next, timer.place) = (NONE, head, place);
        if head != NONE {
            self.timers[head as usize].prev = index;
        }
        self.heads[level][slot] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let Timer {
            prev, next, place, ..
        } = self.timers[index as usize];
        let (level, slot) = (usize::from(place) / SLOTS, usize::from(place) % SLOTS);
        match prev {
            NONE => self.heads[level][slot] = next,
            prev => self.timers[prev as usize].next = next,
        }
        if next != NONE {
            self.timers[next as usize].prev = prev;
        }
        if self.heads[level][slot] == NONE {
            self.occupied[level] &= !(1 << slot);
        }
        self.timers[index as usize].place = DISARMED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u32, u64),
        Disarm(u32),
        Pass(u64),
    }

    fn nanos() -> impl Strategy<Value = u64> {
        // Every magnitude from a tick to years.
        (0u32..58, any::<u64>()).prop_map(|(bits, word)| word & ((1 << bits) - 1))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u32..16, nanos()).prop_map(|(index, after)| Step::Arm(index, after)),
            1 => (0u32..16).prop_map(Step::Disarm),
            3 => nanos().prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn fires_what_an_ordered_map_would(steps in proptest::collection::vec(step(), 0..120)) {
            let mut wheel = Wheel::new(16);
            let mut armed: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = 0u64;
            for step in steps {
                match step {
                    Step::Arm(index, after) => {
                        wheel.arm(index, Time::from_nanos(now + after));
                        armed.insert(index, now + after);
                    }
                    Step::Disarm(index) => {
                        wheel.disarm(index);
                        armed.remove(&index);
                    }
                    Step::Pass(length) => {
                        now += length;
                        while let Some(index) = wheel.expire(Time::from_nanos(now)) {
                            let at = armed.remove(&index);
                            prop_assert!(at.is_some_and(|at| at <= now), "early, or not armed");
                        }
                        for &at in armed.values() {
                            prop_assert!(at + TICK_NANOS > now, "late");
                        }
                    }
                }
                let first = armed.values().min();
                prop_assert_eq!(wheel.next().is_some(), first.is_some());
                if let (Some(next), Some(&first)) = (wheel.next(), first) {
                    prop_assert!(next.as_nanos() < first.max(now) + TICK_NANOS, "sleeps past a timer");
                }
            }
        }
    }

    #[test]
    fn sleeping_from_deadline_to_deadline_reaches_a_far_timer_in_few_steps() {
        let mut wheel = Wheel::new(1);
        let at = Time::from_millis(86_400_000);
        wheel.arm(0, at);
        let mut wakes = 0;
        let fired = loop {
            let now = wheel.next().expect("armed");
            wakes += 1;
            if wheel.expire(now).is_some() {
                break now;
            }
        };
        assert!(fired >= at && fired.since(at).as_nanos() < u128::from(TICK_NANOS));
        assert!(wakes <= LEVELS, "{wakes} wakes");
    }
}

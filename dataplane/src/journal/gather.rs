//! How long a group waits for those that are about to join it.
//!
//! What a group has answered comes again at once where computers keep so many
//! writes under way. Without a wait the first to come back begins a group of its
//! own, the others wait for that, and from then on two halves take turns: twice the
//! writes of the device for the same. So a group waits until as many are there as
//! have been under way together, but never longer than what one write less of the
//! device saves: its cost whatever its length ([`WriteCost`]). On a disk where that is
//! little two halves are the faster way, since the worker has one while the device
//! writes the other. Where they do not come in that time, the next groups do not wait:
//! more of them each time, so that what comes in any other way is held up next to never.
//!
//! What always holds: one writer at a time never waits, and nobody waits for
//! longer than [`PATIENCE_MAX`].
//!
//! Not for: what goes into a group ([`super::core`]); it is asked with the
//! time, and has no clock.

use std::time::Duration;

use super::GROUP_BLOCKS_MAX;
use super::core::Waiting;
use super::layout::HEAD_WRITES_MAX;

const PATIENCE_MAX: Duration = Duration::from_millis(1);
/// Groups that do not wait, after many in vain.
const UNHELD_MAX: u32 = 64;
/// Groups of one kind, until one goes the other way.
const TRIED_AFTER: u32 = 64;

/// Whether the next group is to wait. Times are since any moment.
#[derive(Debug, Default)]
pub struct Gather {
    /// Writes that were under way or waited when the last group ended.
    together: usize,
    /// When the next group waits no longer.
    until: Duration,
    cost: WriteCost,
    /// Groups that are still not to wait, and how many the next time.
    unheld: u32,
    unheld_next: u32,
    held: bool,
    /// When the last group ended, and how many waited by then.
    ended: Duration,
    waiting: usize,
    /// From a group's end to each that comes again, smoothed.
    comes_after: Duration,
    /// Whether a wait was worth it by the last group, and how many groups have said so.
    was_worth: bool,
    alike: u32,
}

impl Gather {
    /// A group of so many new writes and blocks has taken `write_time`, and is
    /// answered now.
    pub fn ended(&mut self, now: Duration, group: Waiting, waiting: Waiting, write_time: Duration) {
        self.cost.sample(group.blocks, write_time);
        self.together = (group.writes + waiting.writes).min(HEAD_WRITES_MAX);
        (self.ended, self.waiting) = (now, waiting.writes);
        self.until = now + self.patience().min(PATIENCE_MAX);
    }

    /// As long as what one write less saves; nothing where all of them take longer to
    /// come again, or while nothing is known. After so many of one kind one goes the
    /// other way: both are learned from groups of unlike length.
    fn patience(&mut self) -> Duration {
        let Some(fixed) = self.cost.fixed else {
            return Duration::ZERO;
        };
        let together = u32::try_from(self.together).expect("a head's writes");
        let is_worth = fixed > self.comes_after * together;
        self.alike = if is_worth == self.was_worth {
            self.alike + 1
        } else {
            0
        };
        self.was_worth = is_worth;
        if self.alike < TRIED_AFTER {
            return if is_worth { fixed } else { Duration::ZERO };
        }
        self.alike = 0;
        if is_worth {
            Duration::ZERO
        } else {
            self.cost.long.time / 2
        }
    }

    /// How long the next group is to wait for more, from now on; `None` if it is
    /// to begin.
    pub fn wait(&mut self, now: Duration, waiting: Waiting) -> Option<Duration> {
        let missed = waiting.writes < self.together && waiting.blocks < GROUP_BLOCKS_MAX / 2;
        if missed && self.unheld == 0 && now < self.until {
            self.held = true;
            return Some(self.until - now);
        }
        // From here on nobody waits, until a group has ended again.
        self.together = 0;
        if self.held {
            let come = waiting.writes.saturating_sub(self.waiting).max(1);
            let each = (now - self.ended) / u32::try_from(come).unwrap_or(u32::MAX);
            self.comes_after = (self.comes_after * 7 + each) / 8;
        }
        if self.unheld > 0 {
            self.unheld -= 1;
        } else if self.held && missed {
            self.unheld_next = (self.unheld_next * 2).clamp(1, UNHELD_MAX);
            self.unheld = self.unheld_next;
        } else if self.held {
            self.unheld_next = 0;
        }
        self.held = false;
        None
    }
}

/// What a write of the device costs whatever its length, from the shorter and the
/// longer ones of late.
#[derive(Clone, Copy, Debug, Default)]
struct WriteCost {
    short: Writes,
    long: Writes,
    /// Of the last time that the two were unlike enough to tell.
    fixed: Option<Duration>,
}

/// Length and time of writes, smoothed.
#[derive(Clone, Copy, Debug, Default)]
struct Writes {
    /// In thousandths of a block.
    milliblocks: u64,
    time: Duration,
    /// How many, of the last 15.
    seen: u32,
}

impl Writes {
    const SEEN_MAX: u32 = 15;

    fn sample(&mut self, milliblocks: u64, time: Duration) {
        // What a disk does now and then is not what a write costs.
        let time = if self.seen == 0 {
            time
        } else {
            time.min(self.time * 2)
        };
        let (seen, count) = (self.seen, self.seen + 1);
        self.milliblocks = (self.milliblocks * u64::from(seen) + milliblocks) / u64::from(count);
        self.time = (self.time * seen + time) / count;
        self.seen = count.min(Self::SEEN_MAX);
    }
}

impl WriteCost {
    fn sample(&mut self, blocks: u64, time: Duration) {
        let milliblocks = blocks * 1000;
        if self.long.seen == 0 {
            self.short.sample(milliblocks, time);
            self.long.sample(milliblocks, time);
            return;
        }
        if milliblocks < self.milliblocks_mean() {
            self.short.sample(milliblocks, time);
        } else {
            self.long.sample(milliblocks, time);
        }
        let (short, long) = (self.short, self.long);
        if long.milliblocks >= short.milliblocks * 3 / 2 {
            let a_block_more = long.time.saturating_sub(short.time).as_nanos()
                / u128::from(long.milliblocks - short.milliblocks);
            let of_length = a_block_more * u128::from(short.milliblocks);
            let of_length = Duration::from_nanos(u64::try_from(of_length).unwrap_or(u64::MAX));
            self.fixed = Some(short.time.saturating_sub(of_length));
        }
    }

    fn milliblocks_mean(&self) -> u64 {
        u64::midpoint(self.short.milliblocks, self.long.milliblocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Duration = Duration::from_micros(400);

    fn of(writes: usize) -> Waiting {
        Waiting {
            writes,
            blocks: writes as u64,
        }
    }

    /// A disk on which a write costs `fixed` and so much a block.
    fn write_time(fixed: Duration, a_block: Duration, blocks: u64) -> Duration {
        fixed + a_block * u32::try_from(blocks).expect("few")
    }

    /// Writes a second of 32 at a time, on a disk and with a worker that takes so long to
    /// answer one and have the next.
    fn per_second(fixed: Duration, a_block: Duration, a_write: Duration) -> f64 {
        let mut gather = Gather::default();
        // When each write that is under way comes, in order.
        let mut coming: std::collections::VecDeque<Duration> = vec![us(0); 32].into();
        let (mut now, mut written, mut worker_free) = (us(0), 0, us(0));
        while now < Duration::from_secs(2) {
            let there = |now| of(coming.iter().filter(|&&at| at <= now).count());
            if there(now).writes == 0 {
                now = coming[0];
                continue;
            }
            if let Some(more) = gather.wait(now, there(now)) {
                // It is woken by each that comes.
                let next = coming.iter().copied().find(|&at| at > now);
                now = next.unwrap_or(now + more).min(now + more);
                continue;
            }
            let group = there(now);
            let time = write_time(fixed, a_block, group.blocks);
            coming.drain(..group.writes);
            now += time;
            for _ in 0..group.writes {
                worker_free = worker_free.max(now) + a_write;
                coming.push_back(worker_free);
            }
            written += group.writes;
            gather.ended(
                now,
                group,
                of(coming.iter().filter(|&&at| at <= now).count()),
                time,
            );
        }
        written as f64 / now.as_secs_f64()
    }

    #[test]
    fn the_faster_way_is_found_on_either_disk() {
        // One long write, of 400 us + 177 us of waiting for the worker, against two halves.
        let whole = |fixed: f64, a_block: f64| 32.0 / (fixed + 32.0 * a_block + 32.0 * 5.5) * 1e6;
        let halves = |fixed: f64, a_block: f64| 16.0 / (fixed + 16.0 * a_block) * 1e6;
        for (fixed, a_block) in [(400, 0), (400, 2), (300, 5), (120, 10), (60, 10), (90, 20)] {
            let rate = per_second(us(fixed), us(a_block), Duration::from_nanos(5500));
            let (fixed, a_block) = (fixed as f64, a_block as f64);
            let best = whole(fixed, a_block).max(halves(fixed, a_block));
            assert!(
                rate >= 0.93 * best,
                "{fixed} us + {a_block} us a block: {rate} of {best}"
            );
        }
    }

    #[test]
    fn a_disk_that_stalls_does_not_change_what_a_write_costs() {
        let mut cost = WriteCost::default();
        for round in 0..200 {
            cost.sample(8, us(200));
            cost.sample(24, if round % 20 == 0 { us(50_000) } else { us(360) });
        }
        let fixed = cost.fixed.expect("unlike lengths");
        assert!(fixed > us(60) && fixed < us(130), "{fixed:?}");
    }

    /// Of a disk where a write costs [`WRITE`], however long.
    fn learned() -> Gather {
        let mut gather = Gather::default();
        gather.cost.sample(8, WRITE);
        gather.cost.sample(8, WRITE);
        gather.cost.sample(32, WRITE);
        gather.cost.sample(32, WRITE);
        gather
    }

    fn us(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    #[test]
    fn one_at_a_time_never_waits() {
        let mut gather = learned();
        assert_eq!(gather.wait(us(0), of(1)), None);
        for at in 1..100 {
            gather.ended(us(at * 1000), of(1), of(0), WRITE);
            assert_eq!(gather.wait(us(at * 1000 + 20), of(1)), None);
        }
    }

    #[test]
    fn halves_that_take_turns_become_one() {
        let mut gather = learned();
        gather.ended(us(0), of(16), of(16), WRITE);
        assert_eq!(gather.wait(us(1), of(16)), Some(us(399)));
        assert_eq!(gather.wait(us(40), of(31)), Some(us(360)));
        assert_eq!(gather.wait(us(50), of(32)), None, "all are there");
        gather.ended(us(450), of(32), of(0), WRITE);
        assert_eq!(gather.wait(us(460), of(5)), Some(us(390)));
        assert_eq!(gather.wait(us(490), of(32)), None);
    }

    #[test]
    fn who_does_not_come_is_waited_for_less_and_less() {
        let mut gather = learned();
        let (mut now, mut waited) = (us(0), 0);
        for _ in 0..1000 {
            gather.ended(now, of(16), of(16), WRITE);
            if let Some(more) = gather.wait(now, of(16)) {
                waited += 1;
                now += more;
                assert_eq!(gather.wait(now, of(20)), None, "it is over");
            }
            now += WRITE;
        }
        assert!((7..25).contains(&waited), "{waited} of 1000 groups waited");
    }

    #[test]
    fn a_full_group_and_a_slow_disk_wait_for_nobody_long() {
        let mut gather = learned();
        gather.cost = WriteCost::default();
        for blocks in [4, 20] {
            gather.cost.sample(blocks, Duration::from_secs(3));
        }
        gather.ended(us(0), of(4), Waiting::default(), Duration::from_secs(3));
        assert_eq!(gather.wait(us(0), of(1)), Some(PATIENCE_MAX));
        let large = Waiting {
            writes: 3,
            blocks: GROUP_BLOCKS_MAX / 2,
        };
        assert_eq!(gather.wait(us(0), large), None);
    }
}

//! How long a group waits for those that are about to join it.
//!
//! What a group has answered comes again at once where computers keep so many
//! writes under way. Without a wait the first to come back begins a group of its
//! own, the others wait for that, and from then on two halves take turns: twice the
//! writes of the device for the same. So a group waits until as many are there as
//! have been under way together, for a part of the time that a write of the device
//! takes. Where they do not come in that time, the next groups do not wait: more of
//! them each time, so that what comes in any other way is held up next to never.
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

/// The part of a write's time that a group waits at most.
const PATIENCE_PART: u32 = 2;
const PATIENCE_MAX: Duration = Duration::from_millis(1);
/// Groups that do not wait, after many in vain.
const UNHELD_MAX: u32 = 64;

/// Whether the next group is to wait. Times are since any moment.
#[derive(Debug, Default)]
pub struct Gather {
    /// Writes that were under way or waited when the last group ended.
    together: usize,
    /// When the next group waits no longer.
    until: Duration,
    /// A write of the device, smoothed.
    write_time: Duration,
    /// Groups that are still not to wait, and how many the next time.
    unheld: u32,
    unheld_next: u32,
    held: bool,
}

impl Gather {
    /// A group of so many new writes has taken `write_time`, and is answered now.
    pub fn ended(&mut self, now: Duration, writes: usize, waiting: Waiting, write_time: Duration) {
        self.write_time = if self.write_time.is_zero() {
            write_time
        } else {
            (self.write_time * 7 + write_time) / 8
        };
        self.together = (writes + waiting.writes).min(HEAD_WRITES_MAX);
        self.until = now + (self.write_time / PATIENCE_PART).min(PATIENCE_MAX);
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

    fn us(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    #[test]
    fn one_at_a_time_never_waits() {
        let mut gather = Gather::default();
        assert_eq!(gather.wait(us(0), of(1)), None);
        for at in 1..100 {
            gather.ended(us(at * 1000), 1, of(0), WRITE);
            assert_eq!(gather.wait(us(at * 1000 + 20), of(1)), None);
        }
    }

    #[test]
    fn halves_that_take_turns_become_one() {
        let mut gather = Gather::default();
        gather.ended(us(0), 16, of(16), WRITE);
        assert_eq!(gather.wait(us(1), of(16)), Some(us(199)));
        assert_eq!(gather.wait(us(40), of(31)), Some(us(160)));
        assert_eq!(gather.wait(us(50), of(32)), None, "all are there");
        gather.ended(us(450), 32, of(0), WRITE);
        assert_eq!(gather.wait(us(460), of(5)), Some(us(190)));
        assert_eq!(gather.wait(us(490), of(32)), None);
    }

    #[test]
    fn who_does_not_come_is_waited_for_less_and_less() {
        let mut gather = Gather::default();
        let (mut now, mut waited) = (us(0), 0);
        for _ in 0..1000 {
            gather.ended(now, 16, of(16), WRITE);
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
        let mut gather = Gather::default();
        gather.ended(us(0), 4, Waiting::default(), Duration::from_secs(3));
        assert_eq!(gather.wait(us(0), of(1)), Some(PATIENCE_MAX));
        let large = Waiting {
            writes: 3,
            blocks: GROUP_BLOCKS_MAX / 2,
        };
        assert_eq!(gather.wait(us(0), large), None);
    }
}

//! The model of one direction of a WAN: a byte-bounded drop-tail queue in
//! front of a serialiser of fixed rate, then a line of fixed delay.
//!
//! Always holds: no I/O and no clock here (the time, in nanoseconds, is an
//! argument); frames that are not lost leave in the order they came, but for
//! those chosen to be held back; whether frame number *n* is lost, doubled or
//! held back depends on the seed and *n* alone, so a run with the same
//! numbering of frames meets the same losses.
//!
//! Not for: bytes. A frame is a length and a token of the caller's.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// A probability as a threshold on a uniform 64-bit number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// From per cent; what lies outside 0 to 100 is clamped.
    pub fn from_percent(percent: f64) -> Share {
        if percent >= 100.0 {
            return Share(u64::MAX);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "below 2^64 after the branch above; negatives saturate to 0"
        )]
        Share((percent / 100.0 * 18_446_744_073_709_551_616.0) as u64)
    }

    fn holds(self, draw: u64) -> bool {
        draw < self.0 || self.0 == u64::MAX
    }
}

/// What the link does to frames. May change while frames are inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Time on the line after the last bit was serialised.
    pub delay_ns: u64,
    /// Bits a second, of whole Ethernet frames without preamble and FCS;
    /// 0 means no limit (and then no queue either).
    pub rate_bps: u64,
    /// Room for frames waiting or being serialised. One frame always fits.
    pub queue_bytes_max: u64,
    /// Of the runs of lost frames, by where they begin: each takes `loss_run` numbers.
    pub loss: Share,
    pub loss_run: u32,
    pub duplicate: Share,
    pub reorder: Share,
    /// How much longer than the others a reordered frame stays on the line.
    pub reorder_hold_ns: u64,
}

/// Why a frame never arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// The link is cut.
    Cut,
    /// Drawn by the seed.
    Lost,
    /// The queue was full.
    QueueFull,
}

/// What one direction has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LinkStats {
    pub received: u64,
    pub received_bytes: u64,
    pub delivered: u64,
    pub delivered_bytes: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub dropped_cut: u64,
    pub dropped_loss: u64,
    pub dropped_queue: u64,
    /// The most bytes that ever waited for the serialiser.
    pub queue_bytes_peak: u64,
}

/// A frame whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure<T> {
    pub token: T,
    /// 2 for a duplicated frame, else 1.
    pub copies: u8,
    /// When it was due; the caller's lateness is now less this.
    pub due_ns: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    token: T,
    bytes: u32,
    arrived_ns: u64,
    copies: u8,
    hold_ns: u64,
}

#[derive(Debug)]
struct Flying<T> {
    due_ns: u64,
    /// Ties leave in the order of entry.
    order: u64,
    token: T,
    bytes: u32,
    copies: u8,
}

impl<T> PartialEq for Flying<T> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl<T> Eq for Flying<T> {}
impl<T> PartialOrd for Flying<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Flying<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due_ns, self.order).cmp(&(other.due_ns, other.order))
    }
}

/// One direction of the WAN.
#[derive(Debug)]
pub struct Link<T> {
    profile: Profile,
    seed: u64,
    /// Number of the next numbered frame.
    number: u64,
    cut: bool,
    waiting: VecDeque<Waiting<T>>,
    waiting_bytes: u64,
    /// When the serialiser has finished (or finished) its last frame.
    idle_from_ns: u64,
    flying: BinaryHeap<Reverse<Flying<T>>>,
    order: u64,
    /// The latest due time given to a frame not held back.
    last_due_ns: u64,
    stats: LinkStats,
}

impl<T> Link<T> {
    pub fn new(profile: Profile, seed: u64) -> Link<T> {
        Link {
            profile,
            seed,
            number: 0,
            cut: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            idle_from_ns: 0,
            flying: BinaryHeap::new(),
            order: 0,
            last_due_ns: 0,
            stats: LinkStats::default(),
        }
    }

    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Changes the link under the frames inside: those on the line keep their
    /// times, those still waiting meet the new rate and delay.
    pub fn set_profile(&mut self, now_ns: u64, profile: Profile) {
        self.settle(now_ns);
        self.profile = profile;
    }

    /// Draws from `seed`, from frame number 0 again.
    pub fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
        self.number = 0;
    }

    /// Whether the frame of this number is one of a run of lost ones.
    fn is_lost(&self, number: u64) -> bool {
        let run = u64::from(self.profile.loss_run.max(1));
        (number.saturating_sub(run - 1)..=number)
            .any(|first| self.profile.loss.holds(draw(self.seed, Draw::Loss, first)))
    }

    /// Cuts the link. What is inside is lost with it and given back.
    pub fn cut(&mut self, mut lost: impl FnMut(T)) {
        self.cut = true;
        let waiting = self.waiting.drain(..).map(|frame| frame.token);
        let flying = self.flying.drain().map(|Reverse(frame)| frame.token);
        for token in waiting.chain(flying) {
            self.stats.dropped_cut += 1;
            lost(token);
        }
        self.waiting_bytes = 0;
    }

    pub fn heal(&mut self) {
        self.cut = false;
    }

    /// Takes in a frame of `bytes`. `numbered` frames (IP) are those that the
    /// seed may choose; others (ARP), which a WAN would not carry end to end,
    /// take no number, so that their timing does not move the draws.
    pub fn offer(
        &mut self,
        now_ns: u64,
        token: T,
        bytes: u32,
        numbered: bool,
    ) -> Result<(), (T, Drop)> {
        self.settle(now_ns);
        self.stats.received += 1;
        self.stats.received_bytes += u64::from(bytes);
        if self.cut {
            self.stats.dropped_cut += 1;
            return Err((token, Drop::Cut));
        }
        let mut copies = 1;
        let mut hold_ns = 0;
        if numbered {
            let number = self.number;
            self.number += 1;
            if self.is_lost(number) {
                self.stats.dropped_loss += 1;
                return Err((token, Drop::Lost));
            }
            if self
                .profile
                .duplicate
                .holds(draw(self.seed, Draw::Duplicate, number))
            {
                copies = 2;
            }
            if self
                .profile
                .reorder
                .holds(draw(self.seed, Draw::Reorder, number))
            {
                hold_ns = self.profile.reorder_hold_ns;
            }
        }
        let queued_bytes = self.waiting_bytes + u64::from(bytes);
        if queued_bytes > self.profile.queue_bytes_max
            && !self.waiting.is_empty()
            && self.profile.rate_bps > 0
        {
            self.stats.dropped_queue += 1;
            return Err((token, Drop::QueueFull));
        }
        self.waiting_bytes = queued_bytes;
        self.stats.queue_bytes_peak = self.stats.queue_bytes_peak.max(queued_bytes);
        self.stats.duplicated += u64::from(copies - 1);
        self.stats.reordered += u64::from(hold_ns > 0);
        self.waiting.push_back(Waiting {
            token,
            bytes,
            arrived_ns: now_ns,
            copies,
            hold_ns,
        });
        self.settle(now_ns);
        Ok(())
    }

    /// The next frame due at `now_ns` or before, earliest first.
    pub fn take_due(&mut self, now_ns: u64) -> Option<Departure<T>> {
        self.settle(now_ns);
        if self.flying.peek()?.0.due_ns > now_ns {
            return None;
        }
        let Reverse(frame) = self.flying.pop()?;
        self.stats.delivered += u64::from(frame.copies);
        self.stats.delivered_bytes += u64::from(frame.copies) * u64::from(frame.bytes);
        Some(Departure {
            token: frame.token,
            copies: frame.copies,
            due_ns: frame.due_ns,
        })
    }

    /// When `take_due` will next have something, if no frame comes.
    pub fn next_due_ns(&self) -> Option<u64> {
        let waiting = self.waiting.front().map(|frame| {
            let due_ns = self.serialised_ns(frame) + self.profile.delay_ns;
            due_ns.max(self.last_due_ns) + frame.hold_ns
        });
        let flying = self.flying.peek().map(|Reverse(frame)| frame.due_ns);
        match (waiting, flying) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Moves what has been serialised by `now_ns` from the queue to the line.
    fn settle(&mut self, now_ns: u64) {
        while let Some(front) = self.waiting.front() {
            let serialised_ns = self.serialised_ns(front);
            if serialised_ns > now_ns {
                return;
            }
            let Some(frame) = self.waiting.pop_front() else {
                return;
            };
            self.waiting_bytes -= u64::from(frame.bytes);
            self.idle_from_ns = serialised_ns;
            // A delay made shorter meanwhile must not let frames overtake.
            let in_order_ns = (serialised_ns + self.profile.delay_ns).max(self.last_due_ns);
            self.last_due_ns = in_order_ns;
            self.order += 1;
            self.flying.push(Reverse(Flying {
                due_ns: in_order_ns + frame.hold_ns,
                order: self.order,
                token: frame.token,
                bytes: frame.bytes,
                copies: frame.copies,
            }));
        }
    }

    /// When the last bit of the frame at the head of the queue is out.
    fn serialised_ns(&self, head: &Waiting<T>) -> u64 {
        let start_ns = head.arrived_ns.max(self.idle_from_ns);
        match self.profile.rate_bps {
            0 => start_ns,
            rate_bps => start_ns + (u64::from(head.bytes) * 8_000_000_000).div_ceil(rate_bps),
        }
    }
}

/// The kinds of draw, so that one frame's draws are independent.
#[derive(Clone, Copy, Debug)]
enum Draw {
    Loss = 1,
    Duplicate = 2,
    Reorder = 3,
}

/// A uniform 64-bit number from seed, kind and frame number: two rounds of
/// splitmix64's finaliser.
fn draw(seed: u64, kind: Draw, number: u64) -> u64 {
    let mixed = mix(seed ^ (kind as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mix(mixed ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03))
}

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;

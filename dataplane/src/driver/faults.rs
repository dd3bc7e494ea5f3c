//! A port that wraps another and makes faults: drops, duplicates, reorders and
//! corrupts frames, each way, from a seed.
//!
//! The same seed and the same calls give the same faults. Not for delays,
//! rates or outages: those are links, and the simulator's.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use sluice_hugepages::pool::{BURST_LEN, Burst, Frame, Pool};
use sluice_proto::Time;

use super::Port;
use super::parts;

/// Of a million frames, how many meet each fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    pub drop_ppm: u32,
    pub duplicate_ppm: u32,
    /// Held back until 1 to [`HELD_FRAMES_MAX`] later frames have passed, or none come.
    pub reorder_ppm: u32,
    /// One bit of one byte flipped.
    pub corrupt_ppm: u32,
}

/// Faults of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    pub seed: u64,
    pub rx: FaultRates,
    pub tx: FaultRates,
}

/// What was done, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultStats {
    pub dropped: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupted: u64,
}

/// Frames held back at once, and how many may overtake one.
pub const HELD_FRAMES_MAX: usize = 8;

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough to choose faults.
#[derive(Clone, Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// Always draws, so that one rate does not shift another's luck.
    fn one_in_a_million(&mut self, ppm: u32) -> bool {
        self.next() % 1_000_000 < u64::from(ppm)
    }
}

/// One direction.
#[derive(Debug)]
struct Lane {
    chance: Chance,
    rates: FaultRates,
    stats: FaultStats,
    /// Frames held back, and how many are still to overtake each.
    held: ArrayVec<(Frame, usize), HELD_FRAMES_MAX>,
    /// Frames that have been through. At most a burst less one from before, a burst with its
    /// duplicates, and those held.
    ready: VecDeque<Frame>,
}

const READY_MAX: usize = (BURST_LEN - 1) + 2 * BURST_LEN + HELD_FRAMES_MAX;

impl Lane {
    fn new(seed: u64, rates: FaultRates) -> Self {
        Self {
            chance: Chance(seed),
            rates,
            stats: FaultStats::default(),
            held: ArrayVec::new(),
            ready: VecDeque::with_capacity(READY_MAX),
        }
    }

    fn has_room(&self) -> bool {
        self.ready.len() < BURST_LEN
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.held.is_empty()
    }

    fn pass(&mut self, pool: &mut Pool, mut frame: Frame) {
        let drop = self.chance.one_in_a_million(self.rates.drop_ppm);
        let corrupt = self.chance.one_in_a_million(self.rates.corrupt_ppm);
        let duplicate = self.chance.one_in_a_million(self.rates.duplicate_ppm);
        let reorder = self.chance.one_in_a_million(self.rates.reorder_ppm);
        if drop {
            self.stats.dropped += 1;
            pool.release(frame);
            return;
        }
        // What is behind the first buffer may be shared with other packets, so a copy is spoilt.
        if corrupt
            && frame.next.is_some()
            && let Some(copy) = parts::duplicate(pool, &frame)
        {
            pool.release(std::mem::replace(&mut frame, copy));
        }
        if corrupt {
            let bytes = pool.bytes_mut(&frame);
            if !bytes.is_empty() {
                let at = self.chance.below(bytes.len());
                bytes[at] ^= 1 << self.chance.below(8);
                self.stats.corrupted += 1;
            }
        }
        // Without a buffer there is no duplicate: a fault must not be dearer than the network.
        let copy = if duplicate {
            parts::duplicate(pool, &frame)
        } else {
            None
        };
        if let Some(copy) = copy {
            self.stats.duplicated += 1;
            self.ready.push_back(copy);
        }
        if reorder && !self.held.is_full() {
            self.stats.reordered += 1;
            let overtaken_by = 1 + self.chance.below(HELD_FRAMES_MAX);
            self.held.push((frame, overtaken_by));
            return;
        }
        self.ready.push_back(frame);
        let mut at = 0;
        while at < self.held.len() {
            self.held[at].1 -= 1;
            if self.held[at].1 == 0 {
                self.ready.push_back(self.held.remove(at).0);
            } else {
                at += 1;
            }
        }
    }

    /// No more frames come for now: what is held back goes on.
    fn quiet(&mut self) {
        self.ready
            .extend(self.held.drain(..).map(|(frame, _)| frame));
    }

    fn release(&mut self, pool: &mut Pool) {
        self.quiet();
        for frame in self.ready.drain(..) {
            pool.release(frame);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct FaultyPort {
    inner: Port,
    rx: Lane,
    tx: Lane,
}

impl FaultyPort {
    pub(super) fn new(inner: Port, plan: &FaultPlan) -> Self {
        Self {
            inner,
            rx: Lane::new(plan.seed, plan.rx),
            tx: Lane::new(!plan.seed, plan.tx),
        }
    }

    pub(super) fn inner(&self) -> &Port {
        &self.inner
    }

    pub(super) fn inner_mut(&mut self) -> &mut Port {
        &mut self.inner
    }

    pub(super) fn fault_stats(&self) -> FaultStats {
        let (rx, tx) = (&self.rx.stats, &self.tx.stats);
        FaultStats {
            dropped: rx.dropped + tx.dropped,
            duplicated: rx.duplicated + tx.duplicated,
            reordered: rx.reordered + tx.reordered,
            corrupted: rx.corrupted + tx.corrupted,
        }
    }

    pub(super) fn rx(&mut self, now: Time, pool: &mut Pool, out: &mut Burst) -> usize {
        self.send_on(now, pool);
        if self.rx.has_room() {
            let mut received = Burst::new();
            if self.inner.rx(now, pool, &mut received) == 0 {
                self.rx.quiet();
            }
            for frame in received {
                self.rx.pass(pool, frame);
            }
        }
        let count = self.rx.ready.len().min(out.remaining_capacity());
        out.extend(self.rx.ready.drain(..count));
        count
    }

    pub(super) fn tx(&mut self, now: Time, pool: &mut Pool, burst: &mut Burst) {
        if burst.is_empty() {
            self.tx.quiet();
        } else if self.tx.has_room() {
            for frame in burst.drain(..) {
                self.tx.pass(pool, frame);
            }
        }
        self.send_on(now, pool);
    }

    fn send_on(&mut self, now: Time, pool: &mut Pool) {
        let count = self.tx.ready.len().min(BURST_LEN);
        if count == 0 && !self.inner.tx_pending() {
            return;
        }
        let mut burst: Burst = self.tx.ready.drain(..count).collect();
        self.inner.tx(now, pool, &mut burst);
        for frame in burst.drain(..).rev() {
            self.tx.ready.push_front(frame);
        }
    }

    pub(super) fn tx_pending(&self) -> bool {
        // What is held back in `rx` comes out when the next `rx` finds nothing, so that counts too.
        !self.tx.is_empty() || !self.rx.is_empty() || self.inner.tx_pending()
    }

    pub(super) fn close(mut self, pool: &mut Pool) {
        self.rx.release(pool);
        self.tx.release(pool);
        self.inner.close(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::memory::MemorySpec;
    use sluice_hugepages::pool::{Owner, Reservation};

    const COUNT: u32 = 2000;

    /// What 2000 numbered frames look like behind a port with these faults, received and sent.
    fn run(plan: &FaultPlan) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, FaultStats) {
        let mut pool = Pool::anonymous(64);
        let spec = MemorySpec {
            queue_frames: 1024,
            ..MemorySpec::default()
        };
        let mut port = Port::memory(&spec).with_faults(plan);
        let (mut received, mut sent) = (Vec::new(), Vec::new());
        let mut next = 0;
        let mut bytes = Vec::new();
        let mut idle = 0;
        while idle < 3 {
            let end = COUNT.min(next + 50);
            for number in next..end {
                let frame = [number.to_be_bytes().as_slice(), &[0x55; 60]].concat();
                port.memory_mut()
                    .unwrap()
                    .inject(&mut pool, &frame)
                    .unwrap();
            }
            next = end;
            let mut burst = Burst::new();
            port.rx(Time::ZERO, &mut pool, &mut burst);
            received.extend(burst.iter().map(|frame| pool.bytes(frame).to_vec()));
            idle = if burst.is_empty() { idle + 1 } else { 0 };
            port.tx(Time::ZERO, &mut pool, &mut burst);
            assert!(burst.is_empty());
            while port.memory_mut().unwrap().take(&mut pool, &mut bytes) {
                sent.push(bytes.clone());
            }
        }
        assert!(!port.tx_pending(), "nothing is held back for ever");
        let stats = port.fault_stats().unwrap();
        port.close(&mut pool);
        assert_eq!(pool.stats().frames_in_use, 0, "buffers leaked");
        (received, sent, stats)
    }

    fn number(frame: &[u8]) -> u32 {
        u32::from_be_bytes(frame[..4].try_into().unwrap())
    }

    fn rates(drop_ppm: u32, duplicate_ppm: u32, reorder_ppm: u32, corrupt_ppm: u32) -> FaultRates {
        FaultRates {
            drop_ppm,
            duplicate_ppm,
            reorder_ppm,
            corrupt_ppm,
        }
    }

    #[test]
    fn without_rates_nothing_happens() {
        let (received, sent, stats) = run(&FaultPlan {
            seed: 1,
            ..FaultPlan::default()
        });
        assert!(received.iter().map(|frame| number(frame)).eq(0..COUNT));
        assert_eq!((sent, stats), (received, FaultStats::default()));
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let with = |rx| {
            run(&FaultPlan {
                seed: 7,
                rx,
                tx: FaultRates::default(),
            })
        };
        let (received, sent, stats) = with(rates(100_000, 0, 0, 0));
        assert_eq!(received.len() as u64, u64::from(COUNT) - stats.dropped);
        assert!((150..250).contains(&stats.dropped), "{stats:?}");
        assert!(received.is_sorted() && sent == received);

        let (received, _, stats) = with(rates(0, 100_000, 0, 0));
        assert_eq!(received.len() as u64, u64::from(COUNT) + stats.duplicated);
        assert!(stats.duplicated > 150 && received.is_sorted());

        let (received, _, stats) = with(rates(0, 0, 100_000, 0));
        assert!(stats.reordered > 150);
        assert!(!received.is_sorted());
        let mut numbers: Vec<u32> = received.iter().map(|frame| number(frame)).collect();
        for (at, number) in (0u32..).zip(&numbers) {
            assert!(at.abs_diff(*number) <= 2 * u32::try_from(HELD_FRAMES_MAX).unwrap());
        }
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..COUNT), "none lost");

        let (received, _, stats) = with(rates(0, 0, 0, 100_000));
        let flipped = |(at, frame): (u32, &Vec<u8>)| {
            let whole = [at.to_be_bytes().as_slice(), &[0x55; 60]].concat();
            whole
                .iter()
                .zip(frame)
                .map(|(a, b)| u64::from((a ^ b).count_ones()))
                .sum::<u64>()
        };
        assert_eq!(
            (0u32..).zip(&received).map(flipped).sum::<u64>(),
            stats.corrupted
        );
    }

    #[test]
    fn what_a_gathered_packet_shares_is_never_spoilt() {
        let mut pool = Pool::anonymous(8);
        let kept = [(); 2].map(|()| {
            let frame = pool.take(Reservation::NONE, Owner::Tcp(0)).unwrap();
            pool.buffer_mut(&frame).fill(0x55);
            frame
        });
        let plan = FaultPlan {
            seed: 3,
            tx: rates(0, 1_000_000, 0, 1_000_000),
            ..FaultPlan::default()
        };
        let mut port = Port::memory(&MemorySpec::default()).with_faults(&plan);
        let mut whole = vec![0x66; 20];
        whole.resize(20 + 900, 0x55);
        let mut spoilt_behind = 0;
        for _ in 0..50 {
            let mut head = pool.alloc_frame().unwrap();
            parts::write(&mut pool, &mut head, &[0x66; 20]);
            let parts = kept.iter().zip([400, 500]);
            let parts = parts.map(|(frame, len)| (frame, 0, len));
            assert!(pool.gather(&mut head, parts));
            port.tx(Time::ZERO, &mut pool, &mut Burst::from_iter([head]));
            let mut bytes = Vec::new();
            // It and its duplicate, which are spoilt alike.
            for _ in 0..2 {
                assert!(port.memory_mut().unwrap().take(&mut pool, &mut bytes));
                let flips: Vec<usize> = (0..bytes.len())
                    .filter(|&at| bytes[at] != whole[at])
                    .collect();
                assert_eq!((bytes.len(), flips.len()), (whole.len(), 1));
                spoilt_behind += usize::from(flips[0] >= 20);
            }
            for frame in &kept {
                assert!(pool.buffer_mut(frame).iter().all(|&byte| byte == 0x55));
            }
        }
        assert!(spoilt_behind > 50);
        assert_eq!(
            (pool.packets_gathered(), pool.stats().frames_in_use),
            (0, kept.len())
        );
    }

    #[test]
    fn a_seed_replays() {
        let all = rates(20_000, 20_000, 20_000, 20_000);
        let plan = |seed| FaultPlan {
            seed,
            rx: all,
            tx: all,
        };
        assert_eq!(run(&plan(3)), run(&plan(3)));
        assert_ne!(run(&plan(3)).1, run(&plan(4)).1);
        let (received, sent, _) = run(&plan(5));
        assert_ne!(received, sent, "each way has its own luck");
    }
}

//! One direction of a path: a bottleneck with a drop-tail queue, a delay, and faults that
//! are drawn from a seed.

use sluice_transport::{IpEcn, Segment, Time};
use std::time::Duration;

/// IPv4 and TCP headers without options.
const HEADERS: u64 = 40;

/// A segment on its way. The payload is not bytes but where in the stream they stand: so
/// a byte that arrives says which one it is.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub segment: Segment,
    pub ecn: IpEcn,
    /// The stream's offset of the payload's first byte.
    pub at: u64,
    pub len: u32,
}

impl Packet {
    pub fn size(&self) -> u64 {
        HEADERS + u64::try_from(self.segment.options.len()).unwrap() + u64::from(self.len)
    }
}

/// xorshift64*, seeded.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn per_million(&mut self, ppm: u64) -> bool {
        ppm > 0 && self.below(1_000_000) < ppm
    }
}

/// What goes wrong, in parts per million of packets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub loss: u64,
    /// A burst of losses begins; it ends with one packet in `burst_len` on average.
    pub burst: u64,
    pub burst_len: u64,
    pub duplicate: u64,
    pub reorder: u64,
    /// A reordered packet is late by up to so much.
    pub reorder_by: Duration,
    /// Packets larger than this vanish; 0: none.
    pub black_hole_above: u64,
    /// The bottleneck marks packets that find more than so many bytes queued; 0: none.
    pub mark_above: u64,
}

#[derive(Debug)]
pub struct Link {
    pub bytes_per_s: u64,
    pub delay: Duration,
    pub queue_max: u64,
    pub faults: Faults,
    pub cut: bool,
    pub chance: Chance,
    in_burst: Option<Time>,
    busy_until: Time,
    pub dropped: u64,
    pub lost: u64,
    pub carried: u64,
    /// Bytes queued as each packet found it: sum, number, and the most.
    pub queued: (u64, u64, u64),
}

impl Link {
    /// `mbit`: of IP packets. The queue is one bandwidth times round trip.
    pub fn new(mbit: u64, rtt: Duration, seed: u64) -> Self {
        let bytes_per_s = mbit * 125_000;
        let queue_max = bytes_per_s * u64::try_from(rtt.as_micros()).unwrap() / 1_000_000;
        Self {
            bytes_per_s,
            delay: rtt / 2,
            queue_max,
            faults: Faults::default(),
            cut: false,
            chance: Chance::new(seed),
            in_burst: None,
            busy_until: Time::ZERO,
            dropped: 0,
            lost: 0,
            carried: 0,
            queued: (0, 0, 0),
        }
    }

    pub fn forget_queue(&mut self) {
        self.queued = (0, 0, 0);
    }

    pub fn mean_queue(&self) -> u64 {
        self.queued.0 / self.queued.1.max(1)
    }

    /// When and how often a packet arrives.
    pub fn carry(&mut self, now: Time, packet: &mut Packet, mut arrive: impl FnMut(Time, Packet)) {
        let size = packet.size();
        let backlog = self.busy_until.since(now);
        let queued =
            u64::try_from(backlog.as_nanos()).unwrap() * (self.bytes_per_s / 1000) / 1_000_000;
        self.queued = (
            self.queued.0 + queued,
            self.queued.1 + 1,
            self.queued.2.max(queued),
        );
        if queued + size > self.queue_max.max(3000) {
            self.dropped += 1;
            return;
        }
        if self.faults.mark_above > 0
            && queued > self.faults.mark_above
            && packet.ecn == IpEcn::Capable
        {
            packet.ecn = IpEcn::Congested;
        }
        let takes = Duration::from_nanos(size * 1_000_000_000 / self.bytes_per_s);
        self.busy_until = self.busy_until.max(now) + takes;
        self.carried += size;
        if self.is_lost(now, size) {
            self.lost += 1;
            return;
        }
        let mut at = self.busy_until + self.delay;
        if self.chance.per_million(self.faults.reorder) {
            let by = u64::try_from(self.faults.reorder_by.as_micros()).unwrap();
            at += Duration::from_micros(self.chance.below(by + 1));
        }
        arrive(at, *packet);
        if self.chance.per_million(self.faults.duplicate) {
            let later = Duration::from_micros(self.chance.below(5000));
            arrive(at + later, *packet);
        }
    }

    fn is_lost(&mut self, now: Time, size: u64) -> bool {
        // A burst ends by packets, or after a while when hardly any come.
        self.in_burst = match self.in_burst {
            Some(until) if now < until && self.chance.below(self.faults.burst_len.max(1)) != 0 => {
                Some(until)
            }
            Some(_) => None,
            None => self
                .chance
                .per_million(self.faults.burst)
                .then(|| now + Duration::from_millis(100)),
        };
        let hole = self.faults.black_hole_above;
        self.cut
            || self.in_burst.is_some()
            || self.chance.per_million(self.faults.loss)
            || hole > 0 && size > hole
    }
}

//! Transcripts: what goes out for what comes in, segment by segment.

mod closing;
mod hostile;
mod opening;
mod recovering;
mod waiting;

use super::*;
use crate::segment::{Flags, IpEcn, Options, SackBlocks, Segment, Timestamp};
use crate::send_buffer::Pieces;
use crate::seq::Seq;

const ISN: u32 = 1000;
const PEER_ISN: u32 = 9000;

/// What went out, with numbers relative to the initial ones: so 1 is the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Out {
    seq: u32,
    ack: u32,
    len: u32,
    flags: Flags,
}

#[derive(Default)]
struct Wire(Vec<(Segment, IpEcn, u32)>);

impl Emit<u32> for Wire {
    fn emit(&mut self, segment: &Segment, ecn: IpEcn, size: Option<u16>, payload: Pieces<'_, u32>) {
        let size = size.map_or(u32::MAX, u32::from);
        let mut left = payload.len();
        let mut segment = *segment;
        while left > size {
            self.0.push((segment, ecn, size));
            segment.seq = segment.seq.plus(size);
            left -= size;
        }
        self.0.push((segment, ecn, left));
    }
}

/// One connection and whoever writes its peer's segments.
struct Script {
    connection: Connection<u32, u32>,
    now_ms: u64,
    wire: Wire,
    /// The peer's timestamp clock, if it has one.
    peer_clock: Option<u32>,
    frames: u32,
}

fn config() -> Config {
    Config {
        mss_max: 1000,
        window_max: 60_000,
        timestamps: false,
        ..Config::default()
    }
}

/// From the peer: relative numbers.
fn from_peer(seq: u32, ack: u32, flags: Flags) -> Segment {
    Segment {
        seq: Seq(PEER_ISN).plus(seq),
        ack: Seq(ISN).plus(ack),
        flags,
        window: 60_000,
        ..Segment::default()
    }
}

const ACK: Flags = Flags::ACK;
const fn ms(ms: u64) -> Time {
    Time::from_millis(ms)
}

impl Script {
    fn connect(config: Config) -> Self {
        Self {
            connection: Connection::connect(config, Seq(ISN), ms(1000)),
            now_ms: 1000,
            wire: Wire::default(),
            peer_clock: None,
            frames: 0,
        }
    }

    /// Through the handshake, in 100 ms.
    fn established(config: Config) -> Self {
        let mut script = Self::connect(config);
        script.sends(&[(0, 0, 0, Flags::SYN)]);
        script.pass(100);
        let mut syn = from_peer(0, 1, Flags::SYN | ACK);
        syn.options = Options {
            mss: Some(1000),
            sack_permitted: true,
            ..Options::default()
        };
        if config.timestamps {
            script.peer_clock = Some(500);
            syn.options.timestamp = Some(Timestamp {
                value: 500,
                echo: 0,
            });
        }
        script.peer(syn);
        assert_eq!(script.connection.state(), State::Established);
        script.poll();
        assert_eq!(script.wire.0.len(), 1);
        script.wire.0.clear();
        script
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    fn now(&self) -> Time {
        ms(self.now_ms)
    }

    fn peer_with(&mut self, mut segment: Segment, len: u32, ecn: IpEcn) {
        if let (Some(value), None) = (self.peer_clock, segment.options.timestamp) {
            segment.options.timestamp = Some(Timestamp { value, echo: 0 });
        }
        let now = self.now();
        self.frames += 1;
        self.connection
            .on_segment(now, &segment, ecn, len, self.frames);
    }

    fn peer(&mut self, segment: Segment) {
        self.peer_with(segment, 0, IpEcn::NotCapable);
    }

    fn peer_data(&mut self, seq: u32, ack: u32, len: u32) {
        self.peer_with(from_peer(seq, ack, ACK), len, IpEcn::NotCapable);
    }

    /// An acknowledgement with SACK blocks.
    fn peer_sacks(&mut self, ack: u32, blocks: &[(u32, u32)]) {
        let mut segment = from_peer(1, ack, ACK);
        let mut sack = SackBlocks::default();
        for &(left, right) in blocks {
            sack.push(Seq(ISN).plus(left), Seq(ISN).plus(right));
        }
        segment.options.sack = sack;
        self.peer(segment);
    }

    fn lend(&mut self, len: u32) {
        self.connection.send(7, len).expect("room");
    }

    fn poll(&mut self) {
        let now = self.now();
        self.connection.poll_transmit(now, 64, &mut self.wire);
    }

    /// Everything that goes out now, and as soon as the pacer lets it.
    fn out(&mut self) -> Vec<Out> {
        self.poll();
        while self.connection.timers.paced_until.is_some() {
            self.next_deadline();
            self.poll();
        }
        let (isn, peer) = (Seq(ISN), Seq(PEER_ISN));
        self.wire
            .0
            .drain(..)
            .map(|(segment, _, len)| Out {
                seq: segment.seq.0.wrapping_sub(isn.0),
                ack: if segment.ack == Seq(0) {
                    0
                } else {
                    segment.ack.0.wrapping_sub(peer.0)
                },
                len,
                flags: segment.flags.without(Flags::PSH),
            })
            .collect()
    }

    /// Asserts what goes out now: number, acknowledgement, length, flags but PSH.
    #[track_caller]
    fn sends(&mut self, expected: &[(u32, u32, u32, Flags)]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|&(seq, ack, len, flags)| Out {
                seq,
                ack,
                len,
                flags,
            })
            .collect();
        assert_eq!(self.out(), expected, "at {} ms", self.now_ms);
    }

    #[track_caller]
    fn sends_nothing(&mut self) {
        self.sends(&[]);
    }

    /// Runs to the next deadline, and says how many milliseconds that was.
    fn next_deadline(&mut self) -> u64 {
        let before = self.now_ms;
        let at = self
            .connection
            .next_deadline()
            .expect("something is due")
            .as_nanos();
        self.now_ms = self.now_ms.max(at.div_ceil(1_000_000));
        self.now_ms - before
    }

    fn violations(&self, violation: crate::Violation) -> u64 {
        self.connection.counters().violations(violation)
    }
}

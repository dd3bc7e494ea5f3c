//! Someone on the path who sees every segment and adds some of his own: lies about what
//! arrived, acknowledgements of what was never sent, windows, resets, SYNs, timestamps,
//! one-byte segments.
//!
//! What can be shown: nothing panics, memory stays bounded, what is read is right as far
//! as it goes, and the transfer ends: all of it, or with an error on each side. (Payload
//! is never forged: TCP cannot know.)

use crate::ends::{End, Path};
use crate::link::{Chance, Link, Packet};
use proptest::prelude::*;
use sluice_transport::segment::SackBlocks;
use sluice_transport::{Config, Flags, KeepAlive, Seq, Timestamp};
use std::time::Duration;

const BYTES: u64 = 300_000;
const ISN_A: u32 = 5000;
const ISN_B: u32 = 4_294_960_000;

/// What the forger does, each with its share.
#[derive(Clone, Copy, Debug)]
enum Forgery {
    Sack,
    Ack,
    Window,
    Reset,
    Syn,
    Timestamp,
    Tiny,
    Flags,
    Replay,
}

const ALL: [Forgery; 9] = [
    Forgery::Sack,
    Forgery::Ack,
    Forgery::Window,
    Forgery::Reset,
    Forgery::Syn,
    Forgery::Timestamp,
    Forgery::Tiny,
    Forgery::Flags,
    Forgery::Replay,
];

fn near(chance: &mut Chance, seq: Seq) -> Seq {
    let by = match chance.below(5) {
        0 => 0,
        1 => u32::try_from(chance.below(3000)).unwrap(),
        2 => u32::try_from(chance.below(3000)).unwrap().wrapping_neg(),
        3 => u32::try_from(chance.below(1 << 22)).unwrap(),
        _ => u32::try_from(chance.below(1 << 32)).unwrap(),
    };
    seq.plus(by)
}

fn forge(chance: &mut Chance, what: Forgery, from_a: bool, seen: &Packet) -> (bool, Packet) {
    let mut packet = *seen;
    packet.len = 0;
    let segment = &mut packet.segment;
    segment.flags = segment.flags.without(Flags::SYN | Flags::FIN | Flags::RST);
    match what {
        Forgery::Sack => {
            segment.options.sack = SackBlocks::default();
            for _ in 0..1 + chance.below(3) {
                let (left, right) = (near(chance, segment.ack), near(chance, segment.ack));
                segment.options.sack.push(left, right);
            }
        }
        Forgery::Ack => segment.ack = near(chance, segment.ack),
        Forgery::Window => {
            segment.window = [0, 1, 2, 65_535][usize::try_from(chance.below(4)).unwrap()];
        }
        Forgery::Reset => {
            segment.flags = segment.flags | Flags::RST;
            segment.seq = near(chance, segment.seq.plus(1));
        }
        Forgery::Syn => {
            segment.flags = if chance.below(2) == 0 {
                Flags::SYN
            } else {
                Flags::SYN | Flags::ACK
            };
            segment.seq = near(chance, segment.seq);
            segment.options.mss = Some(u16::try_from(chance.below(65_536)).unwrap());
            segment.options.window_scale = Some(u8::try_from(chance.below(256)).unwrap().min(14));
            segment.options.sack = SackBlocks::default();
        }
        Forgery::Timestamp => {
            let value = u32::try_from(chance.below(1 << 32)).unwrap();
            let echo = u32::try_from(chance.below(1 << 32)).unwrap();
            segment.seq = near(chance, segment.seq);
            segment.options.timestamp =
                Some(Timestamp { value, echo }).filter(|_| chance.below(4) != 0);
        }
        Forgery::Tiny => {
            // A piece of the true stream, ahead of what was sent.
            segment.seq = segment
                .seq
                .plus(u32::try_from(chance.below(60_000)).unwrap());
            let isn = if from_a { ISN_A } else { ISN_B };
            packet.at = u64::from(segment.seq.0.wrapping_sub(isn).wrapping_sub(1));
            if packet.at < BYTES {
                packet.len = u32::try_from((1 + chance.below(3)).min(BYTES - packet.at)).unwrap();
            }
        }
        Forgery::Flags => {
            for flag in [Flags::PSH, Flags::ECE, Flags::CWR] {
                if chance.below(2) == 0 {
                    segment.flags = segment.flags | flag;
                }
            }
            if chance.below(4) == 0 {
                segment.flags = segment.flags.without(Flags::ACK);
            }
            segment.seq = near(chance, segment.seq);
        }
        Forgery::Replay => packet = *seen,
    }
    // Also as if it came from the other side, but then without payload.
    let direction = if packet.len == 0 && chance.below(8) == 0 {
        !from_a
    } else {
        from_a
    };
    (direction, packet)
}

/// Whether all of it arrived; if not, both sides know.
fn attack(seed: u64, kinds: &[Forgery], one_in: u64) -> bool {
    let config = Config {
        ecn: seed.is_multiple_of(2),
        window_max: 1 << 18,
        receive_frames_max: 256,
        send_limit: 1 << 18,
        user_timeout: Duration::from_secs(60),
        keep_alive: Some(KeepAlive {
            idle: Duration::from_secs(10),
            interval: Duration::from_secs(5),
            probes_max: 3,
        }),
        ..Config::default()
    };
    let (mut a, mut b) = (End::new(config, ISN_A), End::new(config, ISN_B));
    (a.to_send, b.to_send) = (BYTES, BYTES / 2);
    let rtt = Duration::from_millis(30);
    let mut path = Path::new(a, b, Link::new(50, rtt, seed), Link::new(50, rtt, seed + 1));
    path.ab.faults.loss = 5000;
    let mut chance = Chance::new(seed);
    let kinds = kinds.to_vec();
    let mut left = 20_000u32;
    path.tap = Some(Box::new(move |_, from_a, packet, out| {
        if left > 0 && chance.below(one_in) == 0 && !packet.segment.flags.has(Flags::SYN) {
            left -= 1;
            let what = kinds[usize::try_from(chance.below(kinds.len() as u64)).unwrap()];
            out.push(forge(&mut chance, what, from_a, packet));
        }
    }));
    for _ in 0..600 {
        path.run_for(Duration::from_secs(1));
        if path.a.is_over() && path.b.is_over() {
            break;
        }
    }
    let told = (path.states(), path.a.received, path.b.received);
    let complete = path.is_complete();
    let over = path.a.is_over() && path.b.is_over();
    assert!(complete || over, "seed {seed}: {told:?}");
    complete
}

/// What cannot end a connection must not keep it from finishing either.
#[test]
fn lies_that_prove_nothing_change_nothing() {
    for (seed, kind) in [
        (1, Forgery::Syn),
        (2, Forgery::Tiny),
        (3, Forgery::Replay),
        (4, Forgery::Window),
    ] {
        for seed in [seed, seed + 100, seed + 200] {
            let kinds = [kind];
            assert!(attack(seed, &kinds, 3), "seed {seed}, {kind:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]
    #[test]
    fn any_mixture_ends(seed in 0u64..1_000_000, mask in 1u32..512, one_in in 1u64..20) {
        let kinds: Vec<_> = ALL.iter().enumerate().filter(|(n, _)| mask >> n & 1 != 0).map(|(_, kind)| *kind).collect();
        let _complete = attack(seed, &kinds, one_in);
    }
}

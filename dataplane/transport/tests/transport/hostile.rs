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
use sluice_transport::send_buffer::Pieces;
use sluice_transport::{
    Config, Connection, ControlKind, Emit, Flags, IpEcn, KeepAlive, Options, Segment, Seq, Time,
    Timestamp,
};
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
    Ahead,
    Flags,
    Replay,
}

const ALL: [Forgery; 10] = [
    Forgery::Sack,
    Forgery::Ack,
    Forgery::Window,
    Forgery::Reset,
    Forgery::Syn,
    Forgery::Timestamp,
    Forgery::Tiny,
    Forgery::Ahead,
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
        Forgery::Tiny | Forgery::Ahead => {
            // A piece of the true stream: that was sent, or that was not yet.
            let by = u32::try_from(chance.below(60_000)).unwrap();
            let ahead = matches!(what, Forgery::Ahead);
            segment.seq = segment.seq.plus(if ahead { by } else { by.wrapping_neg() });
            let isn = if from_a { ISN_A } else { ISN_B };
            packet.at = u64::from(segment.seq.0.wrapping_sub(isn).wrapping_sub(1));
            if packet.at < BYTES {
                let len = (1 + chance.below(3)).min(BYTES - packet.at);
                packet.len = u32::try_from(len).unwrap();
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
        for end in [&path.a, &path.b] {
            if let Some(connection) = &end.connection {
                assert!(connection.unacknowledged() <= config.send_limit);
                assert!(connection.readable() <= config.window_max);
            }
        }
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

fn segment(chance: &mut Chance) -> Segment {
    let mut word = || u32::try_from(chance.below(1 << 32)).unwrap();
    let small = |word: u32| word % 20_000;
    let bits = word();
    let mut flags = Flags::NONE;
    for (bit, flag) in [
        Flags::ACK,
        Flags::ACK,
        Flags::SYN,
        Flags::FIN,
        Flags::RST,
        Flags::ECE,
        Flags::CWR,
    ]
    .into_iter()
    .enumerate()
    {
        // Mostly acknowledgements, the others one in four each.
        if bits >> (2 * bit) & 3 == 0 || bit == 0 && bits & 1 == 0 {
            flags = flags | flag;
        }
    }
    let near = |word: u32, isn: u32| {
        if word & 0x10_0000 == 0 {
            isn.wrapping_add(small(word))
        } else {
            word
        }
    };
    let mut options = Options::default();
    if bits & 0x10_0000 == 0 {
        for _ in 0..word() % 5 {
            options
                .sack
                .push(Seq(near(word(), ISN_A)), Seq(near(word(), ISN_A)));
        }
    }
    options.timestamp = (bits & 0x20_0000 == 0).then(|| Timestamp {
        value: word(),
        echo: word(),
    });
    options.mss = (bits & 0x40_0000 == 0).then(|| u16::try_from(word() >> 16).unwrap());
    options.window_scale = (bits & 0x80_0000 == 0).then(|| u8::try_from(word() % 15).unwrap());
    options.sack_permitted = bits & 0x100_0000 == 0;
    options.user_timeout_s = (bits & 0x200_0000 == 0).then_some(bits);
    Segment {
        seq: Seq(near(word(), ISN_B)),
        ack: Seq(near(word(), ISN_A)),
        flags,
        window: u16::try_from(word() & 0xffff).unwrap(),
        options,
    }
}

struct Nowhere;

impl Emit<u64> for Nowhere {
    fn emit(&mut self, _: &Segment, _: IpEcn, _: Option<u16>, payload: Pieces<'_, u64>) {
        let len = payload.len();
        assert_eq!(payload.map(|piece| piece.len).sum::<u32>(), len);
    }
}

/// Segments of any kind at any time into a connection that a caller uses as it likes.
fn anything(seed: u64, timestamps: bool) {
    let mut chance = Chance::new(seed);
    let mut now = Time::from_millis(1000);
    let config = Config {
        timestamps,
        ecn: true,
        user_timeout_option: true,
        window_max: 1 << 17,
        receive_frames_max: 64,
        send_limit: 1 << 16,
        control: if seed.is_multiple_of(2) {
            ControlKind::Model
        } else {
            ControlKind::Cubic
        },
        ..Config::default()
    };
    let mut connection = Connection::connect(config, Seq(ISN_A), now);
    connection.poll_transmit(now, 8, &mut Nowhere);
    let answer = Segment {
        seq: Seq(ISN_B),
        ack: Seq(ISN_A).plus(1),
        flags: Flags::SYN | Flags::ACK,
        window: 60_000,
        options: Options {
            sack_permitted: true,
            timestamp: timestamps.then_some(Timestamp { value: 5, echo: 0 }),
            ..Options::default()
        },
    };
    connection.on_segment(now, &answer, IpEcn::NotCapable, 0, 0);
    for n in 0..400u64 {
        now += Duration::from_micros(chance.below(100_000));
        match chance.below(12) {
            0 => {
                let len = u32::try_from(chance.below(5000)).unwrap();
                let _ = connection.send(n, len);
            }
            1 => connection.set_send_limit(chance.below(1 << 17)),
            2 if n > 300 => connection.close(),
            3 => {
                connection.read();
            }
            4 => {
                connection.on_packet_too_big(
                    now,
                    Seq(ISN_A).plus(1),
                    u16::try_from(chance.below(1500)).unwrap(),
                );
            }
            _ => {
                let mut segment = segment(&mut chance);
                if chance.below(3) != 0 {
                    // Something that gets past the first checks.
                    segment.flags = segment.flags.without(Flags::RST | Flags::SYN);
                    if timestamps {
                        let value = 5 + u32::try_from(n).unwrap();
                        segment.options.timestamp = Some(Timestamp { value, echo: value });
                    }
                }
                let len = u32::try_from(chance.below(3000)).unwrap();
                connection.on_segment(now, &segment, IpEcn::Congested, len, n);
            }
        }
        connection.poll_transmit(now, 8, &mut Nowhere);
        assert!(connection.readable() <= 1 << 17);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]
    #[test]
    fn any_mixture_ends(seed in 0u64..1_000_000, mask in 1u32..1024, one_in in 1u64..20) {
        let kinds: Vec<_> = ALL.iter().enumerate().filter(|(n, _)| mask >> n & 1 != 0).map(|(_, kind)| *kind).collect();
        let _complete = attack(seed, &kinds, one_in);
    }

    #[test]
    fn any_segments_at_all(seed in 0u64..1_000_000_000, timestamps: bool) {
        anything(seed, timestamps);
    }
}

#[test]
#[ignore = "minutes; cargo test -p sluice-transport --test transport -- --ignored hostile"]
fn many_mixtures_end() {
    for seed in 0..4000u64 {
        let mut chance = Chance::new(seed);
        let mask = 1 + chance.below(1023);
        let among = |(n, _): &(usize, &Forgery)| mask >> n & 1 != 0;
        let kinds = ALL.iter().enumerate().filter(among);
        let kinds: Vec<_> = kinds.map(|(_, kind)| *kind).collect();
        let _complete = attack(seed, &kinds, 1 + chance.below(20));
        for part in 0..10 {
            anything(seed * 10 + part, part % 2 == 0);
        }
    }
}

//! What a segment costs its sender, in time of this machine: a figure to look at, not a
//! test of anything.

use sluice_transport::send_buffer::Pieces;
use sluice_transport::{Config, Connection, Emit, Flags, IpEcn, Segment, Seq, Time};
use std::time::{Duration, Instant};

/// Takes bursts whole, as a port with segmentation offload does.
#[derive(Default)]
struct Wire(Vec<(Segment, u32, u16)>);

impl Emit<u64> for Wire {
    fn emit(&mut self, segment: &Segment, _: IpEcn, size: Option<u16>, payload: Pieces<'_, u64>) {
        let len = payload.len();
        // A port gathers the pieces.
        assert_eq!(payload.map(|piece| piece.len).sum::<u32>(), len);
        self.0.push((*segment, len, size.unwrap_or(u16::MAX)));
    }
}

#[test]
#[ignore = "measures; cargo test --release -p sluice-transport --test transport -- --ignored --nocapture cost"]
fn cost_of_a_segment() {
    let config = Config {
        send_limit: 16 << 20,
        window_max: 16 << 20,
        receive_frames_max: 20_000,
        ..Config::default()
    };
    let mut now = Time::from_millis(1000);
    let mut wire = Wire::default();
    let mut a = Connection::<u64, u64>::connect(config, Seq(1), now);
    a.poll_transmit(now, 64, &mut wire);
    let syn = wire.0.remove(0).0;
    let mut b = Connection::<u64, u64>::accept(config, Seq(2), now, &syn).expect("a SYN");
    let mut answers = Wire::default();
    let (mut sending, mut hearing) = (Duration::ZERO, Duration::ZERO);
    let (mut sent, mut heard) = (0u64, 0u64);
    // A round trip of 10 ms, in steps of 1 ms; 1 % of the segments are lost.
    let mut line = std::collections::VecDeque::new();
    for step in 0..20_000u64 {
        now += Duration::from_millis(1);
        while a.next_released().is_some() {}
        while a.send(0, 4096).is_ok() {}
        let began = Instant::now();
        a.poll_transmit(now, 4096, &mut wire);
        sending += began.elapsed();
        for (segment, len, size) in wire.0.drain(..) {
            let mut done = 0;
            loop {
                let part = u32::from(size).min(len - done);
                let mut segment = segment;
                segment.seq = segment.seq.plus(done);
                sent += u64::from(part > 0);
                if sent % 100 != 7 || part == 0 {
                    line.push_back((step + 10, segment, part));
                }
                done += part;
                if done == len {
                    break;
                }
            }
        }
        while line.front().is_some_and(|(at, ..)| *at <= step) {
            let (_, segment, len) = line.pop_front().expect("looked");
            b.on_segment(now, &segment, IpEcn::NotCapable, len, 0);
            while b.read().is_some() {}
            b.poll_transmit(now, 64, &mut answers);
        }
        for (segment, ..) in answers.0.drain(..) {
            heard += u64::from(segment.flags.has(Flags::ACK));
            let began = Instant::now();
            a.on_segment(now, &segment, IpEcn::NotCapable, 0, 0);
            hearing += began.elapsed();
        }
    }
    let each = |time: Duration, count: u64| time.as_nanos() / u128::from(count.max(1));
    println!(
        "{sent} segments, {} ns each; {heard} acknowledgements, {} ns each; {:?}",
        each(sending, sent),
        each(hearing, heard),
        a.counters(),
    );
}

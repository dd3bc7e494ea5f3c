//! The model against made-up acknowledgements: what the simulator shows as a whole is
//! shown here one decision at a time.

use super::*;
use crate::rate::RateSample;

const MSS: u64 = 1448;
const RTT: Duration = Duration::from_millis(40);

struct Path {
    bbr: Bbr,
    now: Time,
    delivered: u64,
}

impl Path {
    fn new() -> Self {
        let mut bbr = Bbr::new(MSS, 7);
        bbr.on_connected(Time::ZERO, Some(RTT));
        Self {
            bbr,
            now: Time::ZERO,
            delivered: 0,
        }
    }

    /// One round trip as one acknowledgement; the flight stays below what is modelled.
    fn round(&mut self, bytes_per_s: u64, rtt: Duration, lost: u64) {
        let bytes = Rate::from_bytes_per_s(bytes_per_s).bytes_in(rtt);
        let prior_delivered = self.delivered;
        self.now += rtt;
        self.delivered += bytes;
        self.bbr.on_ack(&Ack {
            now: self.now,
            delivered: bytes,
            total_delivered: self.delivered,
            lost,
            in_flight: (bytes / 2).min(self.bbr.window()),
            prior_in_flight: bytes,
            rtt: Some(rtt),
            srtt: rtt,
            rate: Some(RateSample {
                rate: Rate::from_bytes_per_s(bytes_per_s),
                prior_delivered,
                delivered: bytes,
                app_limited: false,
            }),
            marked: false,
            recovering: lost > 0,
            window_limited: true,
            mss: MSS,
        });
    }

    fn filled() -> Self {
        let mut path = Self::new();
        for _ in 0..8 {
            path.round(12_500_000, RTT, 0);
        }
        assert!(
            path.bbr.filled && path.bbr.mode == Mode::Cruise,
            "{:?}",
            path.bbr.mode
        );
        path
    }
}

#[test]
fn startup_ends_when_bandwidth_stops_growing() {
    let mut path = Path::new();
    for bytes_per_s in [1_000_000, 2_000_000, 4_000_000, 8_000_000] {
        path.round(bytes_per_s, RTT, 0);
        assert_eq!(path.bbr.mode, Mode::Startup);
    }
    path.filled_by(4);
    assert!(path.bbr.filled);
}

impl Path {
    fn filled_by(&mut self, rounds: u32) {
        for _ in 0..rounds {
            self.round(8_500_000, RTT, 0);
        }
    }
}

#[test]
fn rate_and_window_follow_the_model() {
    let path = Path::filled();
    let flight = 12_500_000 / 25;
    assert_eq!(path.bbr.pacing_rate().bytes_per_s(), 12_375_000);
    let window = path.bbr.window();
    assert!(
        (flight * 3 / 2..flight * 3 / 2 + 64_000).contains(&window),
        "{window}"
    );
}

#[test]
fn losses_of_the_path_change_nothing_and_those_of_a_queue_do() {
    let mut path = Path::filled();
    path.round(12_500_000, RTT, 5 * MSS);
    path.round(12_500_000, RTT, 0);
    assert_eq!(path.bbr.bandwidth_low, None);
    path.round(9_000_000, RTT, 40 * MSS);
    path.round(9_000_000, RTT, 0);
    assert_eq!(
        path.bbr.bandwidth_low,
        Some(Rate::from_bytes_per_s(9_000_000))
    );
    // Never below what was delivered, however long it goes on.
    for _ in 0..3 {
        path.round(9_000_000, RTT, 40 * MSS);
    }
    assert!(path.bbr.bandwidth().bytes_per_s() >= 8_750_000);
}

#[test]
fn a_probe_comes_within_ten_rounds_and_another_when_it_found_more() {
    let mut path = Path::filled();
    let mut modes = Vec::new();
    for _ in 0..12 {
        path.round(12_500_000, RTT, 0);
        modes.push(path.bbr.mode);
    }
    assert!(modes.contains(&Mode::Up), "{modes:?}");
    while path.bbr.mode != Mode::Cruise {
        path.round(12_500_000, RTT, 0);
    }
    path.round(15_600_000, RTT, 0);
    path.round(15_600_000, RTT, 0);
    assert_eq!(path.bbr.mode, Mode::Up, "at once");
}

#[test]
fn a_longer_path_is_believed_and_a_queue_is_not() {
    let mut path = Path::filled();
    let mut rounds = 0;
    while path.bbr.min_rtt() == Some(RTT) {
        path.round(12_500_000, RTT * 3, 0);
        rounds += 1;
        assert!(rounds < 10, "{:?}", path.bbr.min_rtt);
    }
    assert_eq!(path.bbr.min_rtt(), Some(RTT * 3));
    let mut path = Path::filled();
    for _ in 0..10 {
        // A queue gets shorter when the flight does.
        let rtt = if path.bbr.mode == Mode::ProbeRtt {
            RTT * 2
        } else {
            RTT * 3
        };
        path.round(12_500_000, rtt, 0);
    }
    assert_eq!(path.bbr.min_rtt(), Some(RTT));
}

#[test]
fn marks_lower_rate_and_window() {
    let mut path = Path::filled();
    let before = path.bbr.bandwidth();
    path.bbr.on_congestion(false);
    assert_eq!(path.bbr.bandwidth(), before.scaled(MARK_BETA));
}

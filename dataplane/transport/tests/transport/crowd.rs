//! Several connections through one bottleneck: who gets what.

use crate::ends::{BUDGET, End, Wire};
use crate::link::{Link, Packet};
use sluice_transport::{Config, Connection, ControlKind, Time};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

struct Crowd {
    now: Time,
    /// Senders, each with its receiver behind it.
    ends: Vec<End>,
    links: [Link; 2],
    /// When, a number, and to whom; the packets by number.
    arrivals: BinaryHeap<Reverse<(Time, usize, usize)>>,
    packets: Vec<Packet>,
}

impl Crowd {
    fn new(kinds: &[ControlKind], mbit: u64, rtt: Duration) -> Self {
        let mut links = [Link::new(mbit, rtt, 1), Link::new(mbit, rtt, 2)];
        links[1].queue_max = 1 << 30;
        let mut ends = Vec::new();
        for (n, &control) in (0u64..).zip(kinds) {
            let config = Config {
                control,
                seed: 1000 + 77 * n,
                window_max: 16 << 20,
                receive_frames_max: 20_000,
                send_limit: 16 << 20,
                ..Config::default()
            };
            let mut sender = End::new(config, 1);
            sender.to_send = 1 << 40;
            let mut receiver = End::new(config, 2);
            receiver.close_when_sent = false;
            ends.extend([sender, receiver]);
        }
        Self {
            now: Time::from_millis(1000),
            ends,
            links,
            arrivals: BinaryHeap::new(),
            packets: Vec::new(),
        }
    }

    fn poll(&mut self, n: usize) {
        let end = &mut self.ends[n];
        end.pump();
        let mut out = Vec::new();
        if let Some(connection) = &mut end.connection {
            connection.poll_transmit(self.now, BUDGET, &mut Wire { out: &mut out });
        }
        end.pump();
        let (arrivals, packets) = (&mut self.arrivals, &mut self.packets);
        for mut packet in out {
            self.links[n % 2].carry(self.now, &mut packet, |at, packet| {
                arrivals.push(Reverse((at, packets.len(), n ^ 1)));
                packets.push(packet);
            });
        }
    }

    fn start(&mut self, n: usize) {
        let end = &mut self.ends[2 * n];
        end.connection = Some(Connection::connect(end.config, end.isn, self.now));
        self.poll(2 * n);
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let of = |end: &End| end.connection.as_ref().and_then(Connection::next_deadline);
            let deadline = self.ends.iter().filter_map(of).min();
            let arrival = self.arrivals.peek().map(|Reverse((at, ..))| *at);
            let next = deadline.into_iter().chain(arrival).min().unwrap_or(until);
            if next > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(next);
            if let Some(&Reverse((at, number, to))) = self.arrivals.peek()
                && at <= self.now
            {
                self.arrivals.pop();
                let packet = self.packets[number];
                let end = &mut self.ends[to];
                match &mut end.connection {
                    Some(connection) => {
                        connection.on_segment(
                            self.now,
                            &packet.segment,
                            packet.ecn,
                            packet.len,
                            packet.at,
                        );
                    }
                    None => {
                        end.connection =
                            Connection::accept(end.config, end.isn, self.now, &packet.segment);
                    }
                }
                self.poll(to);
                continue;
            }
            for n in 0..self.ends.len() {
                if of(&self.ends[n]).is_some_and(|at| at <= self.now) {
                    self.poll(n);
                }
            }
        }
    }

    /// What each gets of the link in so long, in thousandths.
    fn shares(&mut self, time: Duration) -> Vec<u64> {
        let received = |crowd: &Self| -> Vec<u64> {
            crowd
                .ends
                .iter()
                .skip(1)
                .step_by(2)
                .map(|end| end.received)
                .collect()
        };
        let before = received(self);
        self.links[0].forget_queue();
        self.run_for(time);
        let could = self.links[0].bytes_per_s * u64::try_from(time.as_millis()).unwrap() / 1000;
        let after = received(self);
        let shares = before
            .iter()
            .zip(after)
            .map(|(before, after)| (after - before) * 1000 / could);
        shares.collect()
    }
}

fn shares(kinds: &[ControlKind], mbit: u64, rtt: Duration) -> (Vec<u64>, u64) {
    let mut crowd = Crowd::new(kinds, mbit, rtt);
    for n in 0..kinds.len() {
        crowd.start(n);
        crowd.run_for(Duration::from_millis(500));
    }
    crowd.run_for(Duration::from_secs(10));
    let shares = crowd.shares(Duration::from_secs(30));
    let queue = crowd.links[0].mean_queue() * 1000 / crowd.links[0].queue_max;
    println!("{kinds:?} {mbit} Mbit/s {rtt:?}: {shares:?}, queue {queue}");
    for n in 0..kinds.len() {
        let connection = crowd.ends[2 * n].connection();
        let counters = connection.counters();
        println!(
            "  resent {} of {}, {:?}",
            counters.bytes_resent / 1448,
            counters.bytes_sent / 1448,
            connection.sample()
        );
    }
    (shares, queue)
}

const MS40: Duration = Duration::from_millis(40);

#[test]
fn four_of_our_own_share_alike() {
    let (shares, queue) = shares(&[ControlKind::Model; 4], 100, MS40);
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(shares.iter().sum::<u64>() >= 900);
    assert!(most * 10 <= least * 14, "{shares:?}");
    assert!(queue < 700, "{queue}");
}

#[test]
fn the_model_and_cubic_leave_each_other_a_share() {
    let (shares, _) = shares(&[ControlKind::Model, ControlKind::Cubic], 100, MS40);
    assert!(shares.iter().sum::<u64>() >= 900);
    assert!(
        shares.iter().all(|share| (240..=720).contains(share)),
        "{shares:?}"
    );
}

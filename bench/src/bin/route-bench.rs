//! What it costs to route one IPv4 packet with a full table: TSC ticks, and
//! the ratio to a loop that only touches the same frames.
//!
//! Random routes in the lengths of an Internet table, random destinations in
//! them, frames of 60 bytes handed to the router in bursts. The frames of a
//! round are more than the first-level cache holds, as they would be behind a
//! NIC's ring. Preparing the packets and taking them back is not timed.
#![expect(clippy::print_stdout, reason = "the result is what it prints")]

use std::net::Ipv4Addr;
use std::time::Instant;

use arrayvec::ArrayVec;
use clap::Parser;
use serde::Serialize;
use sluice_bench::random::Random;
use sluice_bench::tsc;
use sluice_dataplane::net::{
    Mac, NeighbourLimits, PortConfig, RouteConfig, Router, RouterConfig, TxQueues,
};
use sluice_hugepages::pool::{BURST_LEN, Burst, Frame, Pool};
use sluice_proto::Time;

/// DESIGN's budget for one IPv4 packet.
const BUDGET_TICKS: u64 = 200;
const LAN_MAC: Mac = [2, 0, 0, 0, 0, 1];
const WAN_MAC: Mac = [2, 0, 0, 0, 0, 2];
const FRAME_BYTES: usize = 60;
const GATEWAYS: u8 = 16;

/// Measures the cost of routing a packet.
#[derive(Parser, Debug)]
struct Args {
    /// Routes in the table.
    #[arg(long, default_value_t = 1_000_000)]
    routes: usize,
    /// Frames of a round, rounded up to whole bursts.
    #[arg(long, default_value_t = 1024)]
    frames: usize,
    /// Rounds, of which the median is taken.
    #[arg(long, default_value_t = 400)]
    rounds: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize, Debug)]
struct Report {
    bench: &'static str,
    routes: usize,
    frames: usize,
    rounds: usize,
    build_s: f64,
    fib_second_level_bytes: usize,
    ticks_per_packet: f64,
    ticks_per_packet_p05: f64,
    ticks_per_packet_p95: f64,
    touch_ticks_per_packet: f64,
    ratio_to_touch: f64,
    budget_ticks: u64,
    within_budget: bool,
}

fn main() {
    let args = Args::parse();
    let report = run(&args);
    if args.json {
        println!("{}", serde_json::to_string(&report).expect("plain numbers"));
    } else {
        println!(
            "{} routes: {:.1} ticks a packet (p5 {:.1}, p95 {:.1}, budget {}), {:.2} x touching it ({:.1})",
            report.routes,
            report.ticks_per_packet,
            report.ticks_per_packet_p05,
            report.ticks_per_packet_p95,
            report.budget_ticks,
            report.ratio_to_touch,
            report.touch_ticks_per_packet
        );
    }
}

fn run(args: &Args) -> Report {
    let bursts = args.frames.div_ceil(BURST_LEN).max(1);
    let mut random = Random::new(args.seed);
    let routes = random_routes(&mut random, args.routes);
    let destinations: Vec<Ipv4Addr> = (0..1 << 20)
        .map(|_| destination(&mut random, &routes))
        .collect();
    let started = Instant::now();
    let mut router = router(&routes);
    let build_s = started.elapsed().as_secs_f64();

    let mut bench = Bench {
        pool: Pool::anonymous(bursts * BURST_LEN / 8 + 16),
        tx: TxQueues::new(2),
        locals: ArrayVec::new(),
        bursts: Vec::new(),
    };
    bench.meet_gateways(&mut router);
    for _ in 0..bursts {
        let burst = (0..BURST_LEN)
            .map(|_| {
                bench
                    .pool
                    .alloc_frame()
                    .expect("the pool was made for them")
            })
            .collect();
        bench.bursts.push(burst);
    }
    let mut routed = Vec::new();
    let mut touched = Vec::new();
    let mut next = destinations.iter().cycle();
    // Both loops in the same rounds, so that what else the machine does hits both.
    for _ in 0..args.rounds {
        bench.prepare(&mut next);
        routed.push(bench.round(|pool, tx, locals, burst| {
            router.input_burst(Time::from_millis(2), pool, 0, burst, tx, locals);
        }));
        bench.prepare(&mut next);
        touched.push(bench.round(|pool, tx, _, burst| touch(pool, tx, burst)));
    }
    assert_eq!(
        router.drops().total(),
        0,
        "every packet of the bench has a route: {:?}",
        router.drops()
    );
    let packets = bursts * BURST_LEN;
    let median = percentile(&mut routed, 50, packets);
    let touch_median = percentile(&mut touched, 50, packets);
    Report {
        bench: "route",
        routes: args.routes,
        frames: packets,
        rounds: args.rounds,
        build_s,
        fib_second_level_bytes: router.fib_group_bytes(),
        ticks_per_packet: median,
        ticks_per_packet_p05: percentile(&mut routed, 5, packets),
        ticks_per_packet_p95: percentile(&mut routed, 95, packets),
        touch_ticks_per_packet: touch_median,
        ratio_to_touch: median / touch_median,
        budget_ticks: BUDGET_TICKS,
        within_budget: median <= BUDGET_TICKS as f64,
    }
}

struct Bench {
    pool: Pool,
    tx: TxQueues,
    locals: ArrayVec<sluice_dataplane::net::Local, BURST_LEN>,
    bursts: Vec<Burst>,
}

impl Bench {
    /// Gateways answer before the clock starts.
    fn meet_gateways(&mut self, router: &mut Router) {
        for host in 0..GATEWAYS {
            let mut arp = [0u8; FRAME_BYTES];
            arp[..6].copy_from_slice(&WAN_MAC);
            arp[6..14].copy_from_slice(&[2, 0, 0, 0, 9, host, 8, 6]);
            arp[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
            arp[22..32].copy_from_slice(&[2, 0, 0, 0, 9, host, 198, 19, 0, 10 + host]);
            arp[32..38].copy_from_slice(&WAN_MAC);
            arp[38..42].copy_from_slice(&[198, 19, 0, 1]);
            let mut frame = self.pool.alloc_frame().expect("a fresh pool");
            write(&mut self.pool, &mut frame, &arp);
            let local = router.input(Time::from_millis(1), &mut self.pool, 1, frame, &mut self.tx);
            assert!(local.is_none());
        }
    }

    /// Writes fresh packets in all frames.
    fn prepare<'a>(&mut self, destinations: &mut impl Iterator<Item = &'a Ipv4Addr>) {
        let mut packet = [0u8; FRAME_BYTES];
        packet[..6].copy_from_slice(&LAN_MAC);
        packet[6..14].copy_from_slice(&[2, 0, 0, 0, 1, 10, 8, 0]);
        packet[14..30]
            .copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 198, 18, 0, 10]);
        for frame in self.bursts.iter_mut().flatten() {
            let destination = destinations.next().expect("an endless circle");
            packet[30..34].copy_from_slice(&destination.octets());
            packet[24..26].copy_from_slice(&[0, 0]);
            let sum = !sluice_dataplane::checksum::sum(&packet[14..34]);
            packet[24..26].copy_from_slice(&sum.to_be_bytes());
            write(&mut self.pool, frame, &packet);
        }
    }

    /// Ticks that one pass over all bursts takes.
    fn round(
        &mut self,
        mut pass: impl FnMut(
            &mut Pool,
            &mut TxQueues,
            &mut ArrayVec<sluice_dataplane::net::Local, BURST_LEN>,
            &mut Burst,
        ),
    ) -> u64 {
        let mut ticks = 0;
        for burst in &mut self.bursts {
            let before = tsc::now();
            pass(&mut self.pool, &mut self.tx, &mut self.locals, burst);
            ticks += tsc::now() - before;
            self.tx.fill_burst(1, burst);
            assert_eq!(
                burst.len(),
                BURST_LEN,
                "every frame went out by the WAN port"
            );
        }
        ticks
    }
}

/// The naive baseline: reads and rewrites the headers of each frame and moves
/// it on, without looking anything up.
fn touch(pool: &mut Pool, tx: &mut TxQueues, burst: &mut Burst) {
    for frame in burst.drain(..) {
        let bytes = pool.bytes_mut(&frame);
        let mut head = [0; 34];
        head.copy_from_slice(&bytes[..34]);
        head[22] -= 1;
        bytes[..34].copy_from_slice(&head);
        tx.port_mut(1).push(frame);
    }
}

fn write(pool: &mut Pool, frame: &mut Frame, bytes: &[u8]) {
    frame.len = u32::try_from(bytes.len()).expect("a short packet");
    pool.bytes_mut(frame).copy_from_slice(bytes);
}

fn percentile(ticks: &mut [u64], percent: usize, packets: usize) -> f64 {
    ticks.sort_unstable();
    ticks[(ticks.len() * percent / 100).min(ticks.len() - 1)] as f64 / packets as f64
}

/// Prefix lengths as in a table of the Internet, and 3 % longer than /24 on top.
fn random_routes(random: &mut Random, count: usize) -> Vec<RouteConfig> {
    let mut seen = std::collections::HashSet::with_capacity(count);
    let mut routes = Vec::with_capacity(count);
    while routes.len() < count {
        let prefix_len = match random.below(100) {
            0..3 => 25 + random.below(8),
            3..60 => 24,
            60..85 => 20 + random.below(4),
            85..99 => 16 + random.below(4),
            _ => 9 + random.below(7),
        };
        let prefix_len = u8::try_from(prefix_len).expect("at most 32");
        let prefix = random.bits() & (u32::MAX << (32 - prefix_len));
        if routable(prefix) && seen.insert((prefix, prefix_len)) {
            let via = Ipv4Addr::new(
                198,
                19,
                0,
                10 + u8::try_from(random.below(u64::from(GATEWAYS))).expect("below 16"),
            );
            routes.push(RouteConfig {
                prefix: prefix.into(),
                prefix_len,
                via,
            });
        }
    }
    routes
}

/// A random host of a random route.
fn destination(random: &mut Random, routes: &[RouteConfig]) -> Ipv4Addr {
    loop {
        let at = usize::try_from(random.below(routes.len() as u64)).expect("an index");
        let route = routes[at];
        let host = random
            .bits()
            .checked_shr(u32::from(route.prefix_len))
            .unwrap_or(0);
        let address = route.prefix.to_bits() | host;
        if routable(address) {
            return address.into();
        }
    }
}

/// Neither martian nor on the bench's own links.
fn routable(address: u32) -> bool {
    let top = address >> 24;
    top != 0 && top != 127 && top < 224 && address >> 16 != 0xa9fe && top != 198
}

fn router(routes: &[RouteConfig]) -> Router {
    let port = |name: &str, mac, address| PortConfig {
        name: name.into(),
        mac,
        address,
        prefix_len: 24,
        mtu: 1500,
    };
    Router::new(RouterConfig {
        ports: vec![
            port("lan", LAN_MAC, Ipv4Addr::new(198, 18, 0, 1)),
            port("wan", WAN_MAC, Ipv4Addr::new(198, 19, 0, 1)),
        ],
        routes: routes.to_vec(),
        intercepts: vec![(Ipv4Addr::new(198, 19, 0, 200), 3260)],
        portal: None,
        kernel: false,
        neighbours: NeighbourLimits::default(),
    })
    .expect("a configuration that makes sense")
}

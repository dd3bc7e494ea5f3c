//! The TCP room against the kernel's, over a veth with the kernel's offloads
//! on: driver, router and room as a worker would run them. Streams come back
//! as they were sent, both ways, with GSO and without; what nobody listens to
//! is refused.
//!
//! Needs root (network namespaces, raw sockets).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's way to fail and to tell"
)]

mod wire;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sluice_dataplane::driver::idle::{Idle, IdlePolicy, Source};
use sluice_dataplane::driver::{Driver, PortSpec, open};
use sluice_dataplane::net::{
    Local, LocalKind, PortConfig, RouteConfig, Router, RouterConfig, TxQueues,
};
use sluice_dataplane::tcp::{Counters, FlowEvent, FlowId, FourTuple, Tcp, TcpConfig, WanBuffers};
use sluice_hugepages::pool::{BURST_LEN, Burst, Pool, Reservation};
use sluice_proto::Time;
use wire::{Namespaces, run, within};

const RELAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
/// A router, and a host behind it.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const COMPUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const POOL_PAGES: usize = 512;

/// Echoes what flows bring, until told to stop.
fn echo_worker(namespace: &str, gso: bool, dial: Option<SocketAddrV4>, done: &AtomicBool) -> Tcp {
    let mut pool = Pool::anonymous(POOL_PAGES);
    let spec = PortSpec {
        device: "left".to_owned(),
        driver: Driver::AfPacket,
        index: 0,
    };
    let mut port = within(namespace, || open(&spec, &mut pool, &[])).unwrap();
    let mut router = Router::new(RouterConfig {
        ports: vec![PortConfig {
            name: "left".to_owned(),
            mac: port.info().mac,
            address: RELAY,
            prefix_len: 24,
            mtu: 1500,
        }],
        routes: vec![RouteConfig {
            prefix: Ipv4Addr::new(10, 1, 0, 0),
            prefix_len: 24,
            via: NEAR,
        }],
        ..RouterConfig::default()
    })
    .unwrap();
    let mut config = TcpConfig::new(16, 1500, [9; 16]);
    (config.accept.gso, config.connect.gso) = (gso, gso);
    let mut tcp = Tcp::new(config);
    tcp.listen(SocketAddrV4::new(RELAY, 3260));
    let start = Instant::now();
    let mut flows: Vec<FlowId> = Vec::new();
    if let Some(remote) = dial {
        let buffers = WanBuffers {
            rx_pages: 8,
            tx_frames: 128,
        };
        tcp.connect(
            Time::ZERO,
            &mut pool,
            RELAY,
            remote,
            buffers,
            Reservation::NONE,
        )
        .unwrap();
    }
    let mut idle = Idle::new(IdlePolicy::default());
    let sources = [Source::readable(port.fd().unwrap())];
    let (mut rx, mut tx, mut out) = (Burst::new(), TxQueues::new(1), Vec::new());
    let mut going = Burst::new();
    let mut scratch = vec![0; 1 << 16];
    // Relaxed: only tells to stop.
    while !done.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(60) {
        let now = Time::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap());
        port.rx(now, &mut pool, &mut rx);
        let mut did_work = !rx.is_empty();
        for frame in rx.drain(..) {
            let Some(Local { frame, kind, .. }) = router.input(now, &mut pool, 0, frame, &mut tx)
            else {
                continue;
            };
            match kind {
                LocalKind::Segment(_) => {
                    assert!(tcp.input(now, &mut pool, frame, &mut out).is_none());
                }
                LocalKind::PacketTooBig(told) => {
                    let tuple = FourTuple {
                        local: told.source,
                        remote: told.destination,
                    };
                    tcp.packet_too_big(now, &tuple, told.seq, told.mtu);
                    pool.release(frame);
                }
            }
        }
        while let Some((flow, event)) = tcp.next_event() {
            match event {
                FlowEvent::Accepted { .. } | FlowEvent::Connected => flows.push(flow),
                FlowEvent::Closed(_) => flows.retain(|&other| other != flow),
                FlowEvent::Finished | FlowEvent::Ready => {}
            }
        }
        for &flow in &flows {
            loop {
                tcp.draw(&mut pool, flow);
                let room = tcp.send_room(flow).min(scratch.len());
                let taken = tcp.recv(flow, |bytes| {
                    let len = bytes.len().min(room);
                    scratch[..len].copy_from_slice(&bytes[..len]);
                    len
                });
                if taken == 0 {
                    break;
                }
                let mut sent = 0;
                while sent < taken {
                    sent += tcp.send(flow, |space| {
                        let len = space.len().min(taken - sent);
                        space[..len].copy_from_slice(&scratch[sent..sent + len]);
                        len
                    });
                }
            }
            if tcp.finished(flow) && tcp.recv_available(flow) == 0 {
                tcp.close(flow);
            }
        }
        tcp.poll(now, &mut pool, &mut out);
        for frame in out.drain(..) {
            router.output(now, &mut pool, frame, &mut tx);
        }
        router.poll(now, &mut pool, &mut tx);
        tx.fill_burst(0, &mut going);
        did_work |= !going.is_empty();
        port.tx(now, &mut pool, &mut going);
        assert!(going.len() <= BURST_LEN);
        idle.wait(
            &sources,
            now,
            tcp.deadline().min(now + Duration::from_millis(1)),
            did_work,
        );
    }
    port.close(&mut pool);
    tcp
}

/// Sends `total` bytes and reads them back.
fn exchange(mut stream: TcpStream, total: usize) -> f64 {
    stream.set_nodelay(true).unwrap();
    let pattern: Vec<u8> = (0..65_521u32)
        .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        let pattern = &pattern;
        scope.spawn(move || {
            let mut sent = 0;
            while sent < total {
                let len = pattern.len().min(total - sent);
                writer.write_all(&pattern[..len]).unwrap();
                sent += len;
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut buffer = vec![0; pattern.len()];
        let mut received = 0;
        while received < total {
            let len = pattern.len().min(total - received);
            stream.read_exact(&mut buffer[..len]).unwrap();
            assert!(buffer[..len] == pattern[..len], "after {received}");
            received += len;
        }
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "and then the end");
    });
    start.elapsed().as_secs_f64()
}

/// Median round trip of 4 KiB there and back, us.
fn round_trip(stream: &mut TcpStream, rounds: usize) -> f64 {
    stream.set_nodelay(true).unwrap();
    let mut block = [7; 4096];
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            stream.write_all(&block).unwrap();
            stream.read_exact(&mut block).unwrap();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

fn with_kernel(gso: bool, total: usize, rounds: usize) {
    let namespaces = Namespaces::new(2);
    namespaces.link((0, "left"), (1, "host"));
    run(&format!(
        "ip -n {} address add {COMPUTER}/24 dev host",
        namespaces.0[1]
    ));
    let listener = within(&namespaces.0[1], || {
        TcpListener::bind((COMPUTER, 9000)).unwrap()
    });
    let done = AtomicBool::new(false);
    let dial = Some(SocketAddrV4::new(COMPUTER, 9000));
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| echo_worker(&namespaces.0[0], gso, dial, &done));
        let (dialled, _) = listener.accept().unwrap();
        let accepted = || {
            within(&namespaces.0[1], || {
                TcpStream::connect((RELAY, 3260)).unwrap()
            })
        };
        let seconds = exchange(accepted(), total);
        let gbit = total as f64 * 8e-9;
        let back = exchange(dialled, total);
        let latency = round_trip(&mut accepted(), rounds);
        println!(
            "gso {gso}: echo of {} MiB {:.2} Gbit/s each way (dialled {:.2}), 4 KiB round trip {latency:.1} us",
            total >> 20,
            gbit / seconds,
            gbit / back
        );
        let refused = within(&namespaces.0[1], || {
            TcpStream::connect((RELAY, 81)).unwrap_err()
        });
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        done.store(true, Ordering::Relaxed);
        let tcp = worker.join().unwrap();
        let counters = tcp.counters();
        assert_eq!(
            (counters.accepted, counters.connected, counters.resets_out),
            (2, 1, 1),
            "{counters:?}"
        );
        assert_eq!(
            counters.drop_checksum + counters.drop_malformed + counters.drop_chained,
            0,
            "{counters:?}"
        );
    });
}

#[test]
fn echo_with_offloads() {
    with_kernel(true, 16 << 20, 200);
}

#[test]
fn echo_without_offloads() {
    with_kernel(false, 8 << 20, 200);
}

/// What a path does with ECN, by rules of nftables at the kernel's end: `input` for what
/// comes from the room, `output` for what goes to it.
fn over_a_path(name: &str, input: &str, output: &str) -> (Counters, Counts) {
    let namespaces = Namespaces::new(2);
    namespaces.link((0, "left"), (1, "host"));
    let host = namespaces.0[1].as_str();
    run(&format!("ip -n {host} address add {COMPUTER}/24 dev host"));
    run(&format!(
        "ip netns exec {host} sysctl -qw net.ipv4.tcp_ecn=1"
    ));
    let nft = |line: &str| {
        if !line.is_empty() {
            run(&format!("ip netns exec {host} nft {line}"));
        }
    };
    nft("add table ip path");
    nft("add chain ip path input { type filter hook prerouting priority 0 ; }");
    nft("add chain ip path output { type filter hook postrouting priority 0 ; }");
    for (chain, rule) in [("input", input), ("output", output)] {
        if !rule.is_empty() {
            nft(&format!("add rule ip path {chain} tcp dport != 0 {rule}"));
        }
    }
    let listener = within(host, || TcpListener::bind((COMPUTER, 9000)).unwrap());
    let before = Counts::read(host);
    let done = AtomicBool::new(false);
    let dial = Some(SocketAddrV4::new(COMPUTER, 9000));
    let counters = std::thread::scope(|scope| {
        let worker = scope.spawn(|| echo_worker(&namespaces.0[0], true, dial, &done));
        let (dialled, _) = listener.accept().unwrap();
        exchange(dialled, 8 << 20);
        done.store(true, Ordering::Relaxed);
        *worker.join().unwrap().counters()
    });
    let after = Counts::read(host);
    let counts = Counts {
        capable: after.capable - before.capable,
        marked: after.marked - before.marked,
        delivered_marked: after.delivered_marked - before.delivered_marked,
    };
    println!(
        "{name}: {counts:?} at the kernel, {} echoed by it, {} marked to the room",
        counters.wan_marks_echoed, counters.wan_marks_received
    );
    (counters, counts)
}

/// What a namespace's kernel has counted.
#[derive(Clone, Copy, Debug)]
struct Counts {
    /// Packets that came with ECT(0), and with CE.
    capable: u64,
    marked: u64,
    /// Segments that it has sent and whose marks it was told of.
    delivered_marked: u64,
}

impl Counts {
    fn read(namespace: &str) -> Self {
        let text = within(namespace, || {
            std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap()
        });
        let count = |name: &str| {
            let mut lines = text.lines();
            while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
                let at = names.split(' ').position(|word| word == name);
                if let Some(at) = at {
                    return values.split(' ').nth(at).unwrap().parse().unwrap();
                }
            }
            panic!("the kernel counts no {name}")
        };
        Self {
            capable: count("InECT0Pkts"),
            marked: count("InCEPkts"),
            delivered_marked: count("TCPDeliveredCE"),
        }
    }
}

#[test]
fn ecn_is_agreed_on_with_the_kernel_and_marks_are_answered_both_ways() {
    let mark = "ip ecn ect0 numgen inc mod 20 == 7 ip ecn set ce";
    let (counters, counts) = over_a_path("marks", mark, mark);
    assert!(counts.capable > 20, "the room's data can be marked");
    assert!(counters.wan_marks_echoed > 0, "{counters:?}");
    assert!(counters.wan_marks_received > 0, "{counters:?}");
    assert!(counts.delivered_marked > 0, "the room has echoed");
    assert_eq!(counters.connected, 1);
}

#[test]
fn a_path_that_clears_ecn_or_drops_who_asks_is_no_obstacle_to_the_kernel() {
    let clear = "ip ecn != not-ect ip ecn set not-ect";
    let (counters, counts) = over_a_path("cleared", clear, clear);
    assert_eq!((counters.wan_marks_echoed, counters.wan_timeouts), (0, 0));
    assert_eq!(counters.connected, 1);
    let drop = "tcp flags & (syn | ecn | cwr) == (syn | ecn | cwr) drop";
    let (counters, dropped) = over_a_path("dropped", drop, "");
    // Counted before the rules.
    assert!(counts.capable > 20 && dropped.capable == 0);
    assert_eq!((counters.connected, counters.wan_marks_echoed), (1, 0));
    let refuse = "tcp flags & (syn | ecn | cwr) == (syn | ecn | cwr) reject with tcp reset";
    let (counters, refused) = over_a_path("refused", refuse, "");
    assert_eq!((counters.connected, refused.capable), (1, 0));
}

/// To a host behind the kernel as a router whose second link is narrower, which the host
/// does not know of.
#[test]
fn the_kernels_word_that_packets_are_too_big_is_believed() {
    for gso in [true, false] {
        let namespaces = Namespaces::new(3);
        namespaces.link((0, "left"), (1, "near"));
        namespaces.link((1, "far"), (2, "host"));
        let [_, router, host] = &namespaces.0[..] else {
            unreachable!("three were made")
        };
        run(&format!("ip -n {router} address add {NEAR}/24 dev near"));
        run(&format!("ip -n {router} address add 10.1.0.254/24 dev far"));
        run(&format!("ip -n {router} link set far mtu 1400"));
        run(&format!(
            "ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1"
        ));
        run(&format!("ip -n {host} address add {FAR}/24 dev host"));
        run(&format!("ip -n {host} route add default via 10.1.0.254"));
        let listener = within(host, || TcpListener::bind((FAR, 9000)).unwrap());
        let done = AtomicBool::new(false);
        let dial = Some(SocketAddrV4::new(FAR, 9000));
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| echo_worker(&namespaces.0[0], gso, dial, &done));
            let (dialled, _) = listener.accept().unwrap();
            // The host's own segments fit, by this or by what the router tells it.
            let seconds = exchange(dialled, 4 << 20);
            done.store(true, Ordering::Relaxed);
            let counters = *worker.join().unwrap().counters();
            println!(
                "gso {gso}: {seconds:.2} s, told {} times, {} of them not believed",
                counters.wan_too_big + counters.wan_too_big_refused,
                counters.wan_too_big_refused
            );
            assert!(counters.wan_too_big > 0, "{counters:?}");
            assert_eq!(counters.wan_black_holes, 0, "{counters:?}");
            assert!(seconds < 5.0);
        });
    }
}

/// Printed: `cargo test --release -p sluice-dataplane --test tcp_kernel -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    for gso in [true, false] {
        with_kernel(gso, 1 << 30, 20_000);
    }
}

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
use sluice_dataplane::net::{PortConfig, Router, RouterConfig, TxQueues};
use sluice_dataplane::tcp::{Buffers, FlowEvent, FlowId, Tcp, TcpConfig};
use sluice_hugepages::pool::{BURST_LEN, Burst, Pool};
use sluice_proto::Time;
use wire::{Namespaces, run, within};

const RELAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
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
        let buffers = Buffers {
            rx_pages: 8,
            tx_pages: 8,
        };
        tcp.connect(Time::ZERO, &mut pool, RELAY, remote, buffers)
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
            if let Some(local) = router.input(now, &mut pool, 0, frame, &mut tx) {
                assert!(tcp.input(now, &mut pool, local.frame, &mut out).is_none());
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

/// Printed: `cargo test --release -p sluice-dataplane --test tcp_kernel -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    for gso in [true, false] {
        with_kernel(gso, 1 << 30, 20_000);
    }
}

//! Two ports with kernel TCP at both far ends, forwarding frame for frame:
//! GSO frames and partial checksums pass whole (af_packet), one frame memory
//! serves both ports (af_xdp), and a predecessor that was killed is waited for.
//!
//! Needs root (network namespaces, raw sockets, XDP).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's way to fail and to tell"
)]

mod wire;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sluice_dataplane::driver::idle::{Idle, IdlePolicy, Source};
use sluice_dataplane::driver::{Driver, Port, PortSpec, PortStats, open};
use sluice_hugepages::pool::{Burst, PAGE_LEN, Pool};
use sluice_hugepages::region::{Directories, Region, RegionSpec};
use sluice_proto::Time;
use wire::{Namespaces, run, within};

const POOL_PAGES: usize = 512;
/// Of the pattern that is sent: prime, so that a lost or repeated piece shows.
const BLOCK_LEN: usize = 65521;

fn spec(device: &str, driver: Driver, index: u8) -> PortSpec {
    PortSpec {
        device: device.to_owned(),
        driver,
        index,
    }
}

/// host 10.0.0.1 -- left | right -- 10.0.0.2 host
fn two_hosts() -> Namespaces {
    let namespaces = Namespaces::new(3);
    namespaces.link((0, "left"), (1, "host"));
    namespaces.link((0, "right"), (2, "host"));
    run(&format!(
        "ip -n {} address add 10.0.0.1/24 dev host",
        namespaces.0[1]
    ));
    run(&format!(
        "ip -n {} address add 10.0.0.2/24 dev host",
        namespaces.0[2]
    ));
    namespaces
}

struct Forwarded {
    stats: [PortStats; 2],
    gso_frames: u64,
    seconds: f64,
}

/// Sends `bytes` from one host to the other through two ports, and checks them.
fn transfer(driver: Driver, mut pool: Pool, bytes: usize) -> Forwarded {
    let namespaces = two_hosts();
    if driver == Driver::AfXdp {
        // What a local peer leaves partial cannot be seen through XDP.
        for host in &namespaces.0[1..] {
            run(&format!(
                "ip netns exec {host} ethtool -K host tx off tso off gso off gro off"
            ));
        }
    }
    let in_use = |pool: &Pool| {
        let stats = pool.stats();
        (stats.frames_in_use, stats.page_frames_in_use)
    };
    let mut ports: Vec<Port> = Vec::new();
    for (index, device) in (0u8..).zip(["left", "right"]) {
        // Ports move between threads, but are not shared by them.
        let siblings = &mut ports;
        let port = within(&namespaces.0[0], || {
            open(
                &spec(device, driver, index),
                &mut pool,
                siblings.as_mut_slice(),
            )
        })
        .unwrap();
        assert_eq!((port.info().driver, port.info().index), (driver, index));
        ports.push(port);
    }
    let pattern: Vec<u8> = (0..)
        .map(|at: u32| at.to_le_bytes()[0])
        .take(BLOCK_LEN)
        .collect();
    let done = AtomicBool::new(false);
    let listener = within(&namespaces.0[2], || {
        TcpListener::bind("10.0.0.2:9000").unwrap()
    });
    let (mut gso_frames, mut seconds) = (0, 0.0);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut stream = within(&namespaces.0[1], || {
                TcpStream::connect("10.0.0.2:9000").unwrap()
            });
            let start = Instant::now();
            let mut sent = 0;
            while sent < bytes {
                let len = pattern.len().min(bytes - sent);
                stream.write_all(&pattern[..len]).unwrap();
                sent += len;
            }
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // The other end closes when it has all.
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            start.elapsed().as_secs_f64()
        });
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 1 << 18];
            let mut received = 0;
            loop {
                let len = stream.read(&mut buffer).unwrap();
                if len == 0 {
                    break;
                }
                // In pieces that do not wrap around the pattern.
                let mut checked = 0;
                while checked < len {
                    let at = (received + checked) % BLOCK_LEN;
                    let piece = (BLOCK_LEN - at).min(len - checked);
                    assert!(
                        buffer[checked..checked + piece] == pattern[at..at + piece],
                        "after {received}"
                    );
                    checked += piece;
                }
                received += len;
            }
            assert_eq!(received, bytes);
        });
        scope.spawn(|| {
            let start = Instant::now();
            let mut idle = Idle::new(IdlePolicy::default());
            let sources: Vec<Source> = ports
                .iter()
                .map(|port| Source::readable(port.fd().unwrap()))
                .collect();
            let mut queued = [Burst::new(), Burst::new()];
            while !done.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(20) {
                let now = Time::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap());
                let mut did_work = false;
                for from in 0..2 {
                    let burst = &mut queued[1 - from];
                    let before = burst.len();
                    ports[from].rx(now, &mut pool, burst);
                    gso_frames += burst[before..]
                        .iter()
                        .filter(|frame| frame.gso.is_some())
                        .count() as u64;
                    did_work |= !burst.is_empty();
                    ports[1 - from].tx(now, &mut pool, burst);
                    did_work |= ports[from].tx_pending();
                }
                idle.wait(&sources, now, now + Duration::from_millis(1), did_work);
            }
            queued
                .iter_mut()
                .flat_map(|burst| burst.drain(..))
                .for_each(|frame| pool.release(frame));
        });
        seconds = sender.join().unwrap();
        // Relaxed: only tells the forwarder to stop; the join orders the rest.
        done.store(true, Ordering::Relaxed);
    });
    let stats = [ports[0].stats(), ports[1].stats()];
    ports.into_iter().for_each(|port| port.close(&mut pool));
    assert_eq!(in_use(&pool), (0, 0), "buffers leaked");
    println!(
        "{driver}: {:.2} Gbit/s of TCP through two ports, {} frames, {gso_frames} of them GSO",
        bytes as f64 * 8e-9 / seconds,
        stats[0].rx_frames,
    );
    Forwarded {
        stats,
        gso_frames,
        seconds,
    }
}

#[test]
fn gso_frames_and_partial_checksums_pass_whole() {
    let forwarded = transfer(Driver::AfPacket, Pool::anonymous(POOL_PAGES), 64 << 20);
    assert!(
        forwarded.gso_frames > 500,
        "{} GSO frames",
        forwarded.gso_frames
    );
    // So whole that frames carry far more than an MTU.
    let stats = &forwarded.stats[0];
    assert!(stats.rx_bytes / stats.rx_frames > 4000, "{stats:?}");
    assert_eq!(
        (stats.rx_truncated, stats.rx_bad_header, stats.tx_refused),
        (0, 0, 0),
        "{stats:?}"
    );
    assert!(forwarded.seconds < 10.0);
}

/// As in production: the frame memory is a file that outlives the process, on hugetlbfs where that
/// is mounted and has pages.
#[test]
fn two_xdp_ports_share_one_frame_memory() {
    let spec = RegionSpec {
        directories: Directories {
            hugetlbfs: Some("/dev/hugepages".into()),
            tmpfs: "/dev/shm".into(),
        },
        name: format!("sluice-drv-test-{}", std::process::id()),
        len: POOL_PAGES * PAGE_LEN,
    };
    let region = Region::open(&spec).unwrap();
    println!("frame memory: {:?}", region.backing());
    let forwarded = transfer(Driver::AfXdp, Pool::new(region), 16 << 20);
    Region::discard(&spec).unwrap();
    for stats in &forwarded.stats {
        assert_eq!(
            (
                stats.rx_bad_descriptor,
                stats.ring_fault,
                stats.syscall_errors
            ),
            (0, 0, 0),
            "{stats:?}"
        );
    }
    assert_eq!(forwarded.gso_frames, 0);
}

#[test]
fn says_what_it_took_and_why() {
    let namespaces = two_hosts();
    let mut pool = Pool::anonymous(POOL_PAGES);
    let mut info = |driver| {
        let port = within(&namespaces.0[0], || {
            open(&spec("left", driver, 3), &mut pool, &[])
        })
        .unwrap();
        let info = port.info().clone();
        port.close(&mut pool);
        info
    };
    let auto = info(Driver::Auto);
    assert_eq!(
        (auto.driver, auto.zero_copy, auto.gso, auto.mtu),
        (Driver::AfPacket, false, true, 1500)
    );
    assert!(
        auto.why.contains("no zero-copy") && auto.why.contains("veth"),
        "{}",
        auto.why
    );
    let forced = info(Driver::AfXdp);
    assert_eq!(
        (forced.driver, forced.zero_copy, forced.gso),
        (Driver::AfXdp, false, false)
    );
    assert!(
        forced
            .why
            .contains("copy mode, since zero-copy was refused"),
        "{}",
        forced.why
    );
    assert_eq!(
        (forced.mac, forced.index, forced.device.as_str()),
        (auto.mac, 3, "left")
    );
    assert_ne!(auto.mac, [0; 6]);
    println!("auto: {}\naf_xdp: {}", auto.why, forced.why);
    let error = within(&namespaces.0[0], || {
        open(&spec("nowhere", Driver::Auto, 0), &mut pool, &[])
    })
    .unwrap_err();
    assert!(
        error.to_string().contains("no device \"nowhere\""),
        "{error}"
    );
    let error = within(&namespaces.0[0], || {
        open(&spec("lo", Driver::Auto, 0), &mut pool, &[])
    })
    .unwrap_err();
    assert!(error.to_string().contains("not an Ethernet"), "{error}");
    run(&format!("ip -n {} link set left mtu 9000", namespaces.0[0]));
    let error = within(&namespaces.0[0], || {
        open(&spec("left", Driver::AfXdp, 0), &mut pool, &[])
    })
    .unwrap_err();
    assert!(error.to_string().contains("MTU of 9000"), "{error}");
}

const NAMESPACE: &str = "SLUICE_TEST_NAMESPACE";
const DRIVER: &str = "SLUICE_TEST_DRIVER";

/// The predecessor of the next test, in a process of its own.
#[test]
#[ignore = "runs as a process that a_killed_predecessor_is_waited_for starts and kills"]
fn predecessor() {
    let namespace = std::env::var(NAMESPACE).unwrap();
    let driver = if std::env::var(DRIVER).unwrap() == "af_xdp" {
        Driver::AfXdp
    } else {
        Driver::AfPacket
    };
    let mut pool = Pool::anonymous(POOL_PAGES);
    let _port = within(&namespace, || {
        open(&spec("left", driver, 0), &mut pool, &[])
    })
    .unwrap();
    println!("opened");
    std::thread::sleep(Duration::from_secs(60));
}

/// Frames of 60 bytes from a port of the driver to an af_packet port, and back.
fn small_packets(driver: Driver) {
    let namespaces = two_hosts();
    let run = |sender: (&str, &str, Driver), receiver: (&str, &str, Driver)| {
        let done = AtomicBool::new(false);
        let start = Instant::now();
        let (sent, received) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut pool = Pool::anonymous(POOL_PAGES);
                let mut port = within(sender.0, || {
                    open(&spec(sender.1, sender.2, 0), &mut pool, &[])
                })
                .unwrap();
                let mut burst = Burst::new();
                while start.elapsed() < Duration::from_secs(1) {
                    while !burst.is_full() {
                        let Some(mut frame) = pool.alloc_frame() else {
                            break;
                        };
                        pool.set(&mut frame, 64, 60);
                        pool.bytes_mut(&frame)[..14]
                            .copy_from_slice(b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x09\x88\xb5");
                        burst.push(frame);
                    }
                    port.tx(Time::ZERO, &mut pool, &mut burst);
                }
                done.store(true, Ordering::Relaxed);
                port.stats().tx_frames
            });
            let mut pool = Pool::anonymous(POOL_PAGES);
            let mut port = within(receiver.0, || {
                open(&spec(receiver.1, receiver.2, 0), &mut pool, &[])
            })
            .unwrap();
            let mut burst = Burst::new();
            // Relaxed: only tells to stop.
            while !done.load(Ordering::Relaxed) {
                port.rx(Time::ZERO, &mut pool, &mut burst);
                burst.drain(..).for_each(|frame| pool.release(frame));
            }
            (sender.join().unwrap(), port.stats().rx_frames)
        });
        let seconds = start.elapsed().as_secs_f64() * 1e6;
        (sent as f64 / seconds, received as f64 / seconds)
    };
    let relay = namespaces.0[0].as_str();
    let host = namespaces.0[1].as_str();
    let sent = run((relay, "left", driver), (host, "host", Driver::AfPacket));
    let received = run((host, "host", Driver::AfPacket), (relay, "left", driver));
    println!(
        "{driver}: 60-byte frames: sends {:.2} M/s; receives {:.2} M/s of {:.2} sent by af_packet",
        sent.0, received.1, received.0
    );
}

/// A measurement, printed: `cargo test --release -p sluice-dataplane --test kernel_tcp -- --ignored throughput --nocapture`.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    for _ in 0..3 {
        transfer(Driver::AfPacket, Pool::anonymous(POOL_PAGES), 4 << 30);
        transfer(Driver::AfXdp, Pool::anonymous(POOL_PAGES), 512 << 20);
        small_packets(Driver::AfPacket);
        small_packets(Driver::AfXdp);
    }
}

fn a_killed_predecessor(driver: Driver) {
    let namespaces = two_hosts();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "predecessor", "--nocapture"])
        .env(NAMESPACE, &namespaces.0[0])
        .env(DRIVER, driver.to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut byte = [0];
    while !said.contains("opened") {
        assert_eq!(
            child.stdout.as_mut().unwrap().read(&mut byte).unwrap(),
            1,
            "predecessor said only {said:?}"
        );
        said.push(char::from(byte[0]));
    }
    let mut pool = Pool::anonymous(POOL_PAGES);
    child.kill().unwrap();
    // Not reaped yet: the queue may still be its own.
    let start = Instant::now();
    let port = within(&namespaces.0[0], || {
        open(&spec("left", driver, 0), &mut pool, &[])
    })
    .unwrap();
    println!(
        "{driver}: opened {} ms after the kill",
        start.elapsed().as_millis()
    );
    child.wait().unwrap();
    port.close(&mut pool);
}

#[test]
fn a_killed_predecessor_is_waited_for() {
    a_killed_predecessor(Driver::AfXdp);
    a_killed_predecessor(Driver::AfPacket);
}

#[test]
fn a_living_predecessor_is_named() {
    let namespaces = two_hosts();
    let mut pool = Pool::anonymous(POOL_PAGES);
    let port = within(&namespaces.0[0], || {
        open(&spec("left", Driver::AfXdp, 0), &mut pool, &[])
    })
    .unwrap();
    let mut other = Pool::anonymous(POOL_PAGES);
    let error = within(&namespaces.0[0], || {
        open(&spec("left", Driver::AfXdp, 0), &mut other, &[])
    })
    .unwrap_err();
    assert!(
        error.to_string().contains("another process has the queue"),
        "{error}"
    );
    port.close(&mut pool);
}

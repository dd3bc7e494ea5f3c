//! Transcripts of the router: bytes in, bytes out.

mod arp;
mod drops;
mod fail_closed;
mod forward;
mod fragment;
mod hostile;
mod kernel;
mod local;
mod output;

use std::net::Ipv4Addr;
use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_hugepages::pool::{Burst, Checksum, Frame, Gso, Pool};
use sluice_proto::Time;

use super::*;
use crate::checksum;

pub(super) const LAN: u8 = 0;
pub(super) const WAN: u8 = 1;

pub(super) const LAN_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub(super) const WAN_MAC: Mac = [2, 0, 0, 0, 0, 2];
pub(super) const COMPUTER_MAC: Mac = [2, 0, 0, 0, 1, 10];
pub(super) const STORAGE_MAC: Mac = [2, 0, 0, 0, 2, 10];
pub(super) const GATEWAY_MAC: Mac = [2, 0, 0, 0, 2, 254];

pub(super) const RELAY_LAN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub(super) const RELAY_WAN: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
pub(super) const COMPUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);
pub(super) const STORAGE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 10);
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 254);
/// A host behind the WAN's gateway.
pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

pub(super) fn config() -> RouterConfig {
    let port = |name: &str, mac, address, mtu| PortConfig {
        name: name.into(),
        mac,
        address,
        prefix_len: 24,
        mtu,
    };
    RouterConfig {
        ports: vec![
            port("lan", LAN_MAC, RELAY_LAN, 1500),
            port("wan", WAN_MAC, RELAY_WAN, 1400),
        ],
        routes: vec![RouteConfig {
            prefix: Ipv4Addr::new(203, 0, 113, 0),
            prefix_len: 24,
            via: GATEWAY,
        }],
        intercepts: vec![(STORAGE, 3260)],
        portal: None,
        kernel: false,
        neighbours: NeighbourLimits {
            pending_max: 2,
            pending_total_max: 4,
            entries_max: 16,
            ..NeighbourLimits::default()
        },
    }
}

/// A router with a pool, queues and a clock, and a check that no frame is lost.
pub(super) struct Lab {
    pub router: Router,
    pub pool: Pool,
    pub tx: TxQueues,
    pub now: Time,
    in_use_at_start: usize,
}

/// A frame as it came out.
#[derive(Debug)]
pub(super) struct Sent {
    pub port: u8,
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub gso: Option<Gso>,
}

impl Sent {
    pub fn ipv4(&self) -> &[u8] {
        assert_eq!(self.bytes[12..14], [8, 0], "an IPv4 frame");
        &self.bytes[14..]
    }
}

impl Lab {
    /// Nobody on the links is known yet.
    pub fn cold(config: RouterConfig) -> Self {
        let pool = Pool::anonymous(8);
        let ports = config.ports.len() + usize::from(config.kernel);
        let in_use_at_start = in_use(&pool);
        Self {
            router: Router::new(config).unwrap(),
            pool,
            tx: TxQueues::new(ports),
            now: Time::from_millis(1),
            in_use_at_start,
        }
    }

    pub fn with(config: RouterConfig) -> Self {
        let mut lab = Self::cold(config);
        for (port, address, mac) in [
            (LAN, COMPUTER, COMPUTER_MAC),
            (WAN, STORAGE, STORAGE_MAC),
            (WAN, GATEWAY, GATEWAY_MAC),
        ] {
            lab.arp_reply(port, address, mac);
        }
        lab
    }

    /// The computer, the storage and the gateway are known.
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn arp_reply(&mut self, port: u8, sender: Ipv4Addr, mac: Mac) -> Vec<Sent> {
        let own = self
            .router
            .ports()
            .nth(usize::from(port))
            .map(|row| (row.mac, row.address))
            .unwrap();
        let reply = ethernet::Arp {
            operation: ethernet::ArpOperation::Reply,
            sender_mac: mac,
            sender,
            target_mac: own.0,
            target: own.1,
        };
        self.input(port, &reply.frame(own.0)).0
    }

    pub fn frame(&mut self, bytes: &[u8]) -> Frame {
        let mut frame = if bytes.len() > 4000 {
            self.pool.alloc_page_frame()
        } else {
            self.pool.alloc_frame()
        }
        .unwrap();
        frame::set_len(&mut frame, bytes.len());
        self.pool.bytes_mut(&frame).copy_from_slice(bytes);
        frame
    }

    pub fn input(&mut self, port: u8, bytes: &[u8]) -> (Vec<Sent>, Option<Local>) {
        let frame = self.frame(bytes);
        self.input_frame(port, frame)
    }

    pub fn input_frame(&mut self, port: u8, frame: Frame) -> (Vec<Sent>, Option<Local>) {
        let local = self
            .router
            .input(self.now, &mut self.pool, port, frame, &mut self.tx);
        (self.sent(), local)
    }

    /// An IPv4 packet with the right link header from a station of that port.
    pub fn packet(&mut self, port: u8, packet: &[u8]) -> (Vec<Sent>, Option<Local>) {
        self.input(port, &link(port, packet))
    }

    /// Nothing may come out, neither to a port nor to the TCP room.
    pub fn dropped(&mut self, port: u8, frame: &[u8], drop: Drop) {
        let before = self.router.drops().get(drop);
        let (sent, local) = self.input(port, frame);
        assert!(sent.is_empty() && local.is_none(), "{sent:?} {local:?}");
        assert_eq!(self.router.drops().get(drop), before + 1, "{drop}");
    }

    pub fn output(&mut self, packet: &[u8]) -> Vec<Sent> {
        let frame = self.frame(packet);
        self.router
            .output(self.now, &mut self.pool, frame, &mut self.tx);
        self.sent()
    }

    pub fn poll_after(&mut self, length: Duration) -> Vec<Sent> {
        self.now += length;
        self.router.poll(self.now, &mut self.pool, &mut self.tx);
        self.sent()
    }

    pub fn sent(&mut self) -> Vec<Sent> {
        let mut out = Vec::new();
        for port in [LAN, WAN] {
            let mut burst = Burst::new();
            self.tx.fill_burst(port, &mut burst);
            for frame in burst {
                out.push(Sent {
                    port,
                    bytes: self.pool.bytes(&frame).to_vec(),
                    checksum: frame.checksum,
                    gso: frame.gso,
                });
                self.pool.release(frame);
            }
        }
        out
    }

    pub fn take(&mut self, local: Local) -> Vec<u8> {
        let bytes = self.pool.bytes(&local.frame).to_vec();
        self.pool.release(local.frame);
        bytes
    }

    /// Every frame was sent, dropped or waits.
    pub fn check_frames(&self) {
        let pending: usize = self
            .router
            .neighbours()
            .map(|row| usize::from(row.pending))
            .sum();
        assert_eq!(
            in_use(&self.pool) - self.in_use_at_start,
            pending,
            "frames lost"
        );
    }
}

impl Local {
    pub fn header(&self) -> TcpHeader {
        match self.kind {
            LocalKind::Segment(header) => header,
            LocalKind::PacketTooBig(told) => panic!("{told:?}"),
        }
    }
}

fn in_use(pool: &Pool) -> usize {
    let stats = pool.stats();
    stats.frames_in_use + stats.page_frames_in_use
}

/// An Ethernet frame from the station that speaks on this port.
pub(super) fn link(port: u8, packet: &[u8]) -> Vec<u8> {
    let header = match port {
        LAN => ethernet::header(LAN_MAC, COMPUTER_MAC, 0x0800),
        _ => ethernet::header(WAN_MAC, STORAGE_MAC, 0x0800),
    };
    [&header, packet].concat()
}

/// An IPv4 packet, to be changed before it is sealed.
#[derive(Clone, Debug)]
pub(super) struct Ip {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub ttl: u8,
    pub fragment: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Ip {
    pub fn udp(source: Ipv4Addr, destination: Ipv4Addr, len: usize) -> Self {
        let mut payload: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        payload[..4].copy_from_slice(&[0x30, 0x39, 0, 9]);
        payload[4..6].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        payload[6..8].copy_from_slice(&[0, 0]);
        Self {
            source,
            destination,
            protocol: 17,
            ttl: 64,
            fragment: 0x4000,
            options: vec![],
            payload,
        }
    }

    pub fn tcp(
        source: (Ipv4Addr, u16),
        destination: (Ipv4Addr, u16),
        flags: u8,
        data: &[u8],
    ) -> Self {
        let mut payload = vec![0; 20];
        payload[..2].copy_from_slice(&source.1.to_be_bytes());
        payload[2..4].copy_from_slice(&destination.1.to_be_bytes());
        payload[4..8].copy_from_slice(&0x0102_0304u32.to_be_bytes());
        payload[8..12].copy_from_slice(&0x0506_0708u32.to_be_bytes());
        payload[12..16].copy_from_slice(&[0x50, flags, 0x10, 0x00]);
        payload.extend_from_slice(data);
        Self {
            source: source.0,
            destination: destination.0,
            protocol: 6,
            ttl: 64,
            fragment: 0x4000,
            options: vec![],
            payload,
        }
    }

    pub fn echo(source: Ipv4Addr, destination: Ipv4Addr, data: &[u8]) -> Self {
        let mut payload = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
        payload.extend_from_slice(data);
        let sum = !checksum::sum(&payload);
        payload[2..4].copy_from_slice(&sum.to_be_bytes());
        Self {
            source,
            destination,
            protocol: 1,
            ttl: 64,
            fragment: 0,
            options: vec![],
            payload,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut out = vec![0; header_len];
        out[0] = 0x40 | u8::try_from(header_len / 4).unwrap();
        out[2..4].copy_from_slice(
            &u16::try_from(header_len + self.payload.len())
                .unwrap()
                .to_be_bytes(),
        );
        out[4..6].copy_from_slice(&[0xab, 0xcd]);
        out[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        out[8..10].copy_from_slice(&[self.ttl, self.protocol]);
        out[12..16].copy_from_slice(&self.source.octets());
        out[16..20].copy_from_slice(&self.destination.octets());
        out[20..].copy_from_slice(&self.options);
        checksum::fill_ipv4(&mut out);
        out.extend_from_slice(&self.payload);
        out
    }
}

/// Checks an ICMP error with the wire formats of smoltcp: type and code as one
/// word, the MTU field, where from and to, and what it quotes.
#[track_caller]
pub(super) fn assert_icmp_error(
    sent: &Sent,
    kind_code: (u8, u8),
    mtu: u16,
    from: Ipv4Addr,
    to: Ipv4Addr,
    quoted: &[u8],
) {
    use smoltcp::wire::{Icmpv4Packet, Ipv4Packet};
    let ipv4 = Ipv4Packet::new_checked(sent.ipv4()).unwrap();
    assert!(ipv4.verify_checksum());
    assert_eq!(
        (ipv4.src_addr(), ipv4.dst_addr(), ipv4.hop_limit()),
        (from, to, 64)
    );
    assert_eq!(usize::from(ipv4.total_len()), sent.ipv4().len());
    assert!(ipv4.total_len() <= 576);
    let icmp = Icmpv4Packet::new_checked(ipv4.payload()).unwrap();
    assert!(icmp.verify_checksum());
    assert_eq!((u8::from(icmp.msg_type()), icmp.msg_code()), kind_code);
    assert_eq!(ipv4.payload()[4..6], [0, 0]);
    assert_eq!(ipv4.payload()[6..8], mtu.to_be_bytes());
    assert_eq!(&ipv4.payload()[8..], &quoted[..quoted.len().min(548)]);
}

#[test]
fn a_burst_is_as_its_frames_one_by_one() {
    let packets = [
        Ip::udp(COMPUTER, FAR, 40).bytes(),
        Ip::tcp((COMPUTER, 5000), (STORAGE, 3260), TcpFlags::SYN, &[]).bytes(),
        Ip {
            ttl: 1,
            ..Ip::udp(COMPUTER, FAR, 40)
        }
        .bytes(),
        Ip::echo(COMPUTER, RELAY_LAN, b"hello").bytes(),
        Ip::udp(COMPUTER, FAR, 41).bytes(),
    ];
    let mut singly = Lab::new();
    let mut sent = (vec![], vec![]);
    for packet in &packets {
        let (out, local) = singly.packet(LAN, packet);
        for one in out {
            if one.port == LAN {
                sent.0.push(one.bytes)
            } else {
                sent.1.push(one.bytes)
            }
        }
        assert_eq!(local.is_some(), packet == &packets[1]);
        if let Some(local) = local {
            singly.take(local);
        }
    }
    let mut lab = Lab::new();
    let mut burst: Burst = packets
        .iter()
        .map(|packet| lab.frame(&link(LAN, packet)))
        .collect();
    let mut locals = ArrayVec::new();
    lab.router.input_burst(
        lab.now,
        &mut lab.pool,
        LAN,
        &mut burst,
        &mut lab.tx,
        &mut locals,
    );
    assert!(burst.is_empty());
    assert_eq!(locals.len(), 1);
    for local in locals {
        assert_eq!(lab.take(local), packets[1]);
    }
    let all = [sent.0, sent.1].concat();
    assert_eq!(
        lab.sent()
            .into_iter()
            .map(|one| one.bytes)
            .collect::<Vec<_>>(),
        all
    );
    assert_eq!(singly.router.counters(), lab.router.counters());
    assert_eq!(
        lab.router.ports().next().unwrap().counters,
        singly.router.ports().next().unwrap().counters
    );
    lab.check_frames();
    singly.check_frames();
}

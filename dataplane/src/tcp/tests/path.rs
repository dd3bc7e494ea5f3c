//! A flow that the room opens, over a path with a router in it that a test writes, to a
//! peer that is one of the transport's connections: it speaks ECN, which smoltcp does not.

use super::*;
use crate::net::PacketTooBig;
use sluice_transport::send_buffer::Pieces;
use sluice_transport::{Config, Connection, Emit, IpEcn, Seq, wire};

const DELAY: Duration = Duration::from_millis(20);
pub(super) const BUFFERS: WanBuffers = WanBuffers {
    rx_pages: 4,
    tx_frames: 64,
};
const PEER_ISN: Seq = Seq(77_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    ToStorage,
    ToRelay,
}

/// What a packet says, for a test to go by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub ecn: u8,
    pub seq: u32,
    /// As on the wire: 0x80 CWR, 0x40 ECE, 0x10 ACK, 0x04 RST, 0x02 SYN, 0x01 FIN.
    pub flags: u8,
    /// Of the IPv4 packet.
    pub len: usize,
    pub payload_len: usize,
}

fn heard(packet: &[u8]) -> Heard {
    let (_, payload_at) = wire::parse(&packet[20..]).expect("a segment");
    Heard {
        ecn: packet[1] & 3,
        seq: u32::from_be_bytes(packet[24..28].try_into().unwrap()),
        flags: packet[33],
        len: packet.len(),
        payload_len: packet.len() - 20 - payload_at,
    }
}

/// Changes the ECN field as routers do, the checksum with it.
pub(super) fn mark(packet: &mut [u8], ecn: u8) {
    packet[1] = packet[1] & !3 | ecn;
    crate::checksum::fill_ipv4(&mut packet[..20]);
}

/// The segments of a packet, as a port cuts them.
fn cut(packet: &Packet) -> Vec<Vec<u8>> {
    let Some(gso) = packet.gso else {
        let mut bytes = packet.bytes.clone();
        segment::fill_checksum(&mut bytes);
        return vec![bytes];
    };
    let (header, payload) = packet.bytes.split_at(usize::from(gso.header_len));
    let size = usize::from(gso.size);
    let count = payload.len().div_ceil(size);
    let parts = payload.chunks(size).enumerate().map(|(number, part)| {
        let mut bytes = [header, part].concat();
        let len = u16::try_from(bytes.len()).unwrap();
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        let seq = u32::from_be_bytes(bytes[24..28].try_into().unwrap());
        let seq = seq.wrapping_add(u32::try_from(number * size).unwrap());
        bytes[24..28].copy_from_slice(&seq.to_be_bytes());
        // CWR on the first only, FIN and PSH on the last.
        bytes[33] &= if number > 0 { 0x7f } else { 0xff };
        bytes[33] &= if number + 1 < count { 0xf6 } else { 0xff };
        crate::checksum::fill_ipv4(&mut bytes[..20]);
        segment::fill_checksum(&mut bytes);
        bytes
    });
    parts.collect()
}

/// The storage's end.
struct Peer {
    config: Config,
    connection: Option<Connection<u64, Vec<u8>>>,
    read: u64,
    written: u64,
}

struct Wire {
    tuple: FourTuple,
    packets: Vec<Vec<u8>>,
}

impl Emit<u64> for Wire {
    fn emit(
        &mut self,
        segment: &sluice_transport::Segment,
        ecn: IpEcn,
        segment_size: Option<u16>,
        payload: Pieces<'_, u64>,
    ) {
        let total = payload.len() as usize;
        let size = segment_size.map_or(total.max(1), usize::from);
        let mut done = 0;
        loop {
            let len = size.min(total - done);
            let segment = segment.of_burst(u32::try_from(done).unwrap(), done + len >= total);
            let mut packet = vec![0; 40 + segment.options.len() + len];
            let packet_len = u16::try_from(packet.len()).unwrap();
            wire::write(
                &segment,
                self.tuple.local.port(),
                self.tuple.remote.port(),
                &mut packet[20..],
            );
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&packet_len.to_be_bytes());
            packet[8..10].copy_from_slice(&[64, 6]);
            packet[12..16].copy_from_slice(&self.tuple.local.ip().octets());
            packet[16..20].copy_from_slice(&self.tuple.remote.ip().octets());
            mark(&mut packet, if ecn == IpEcn::Capable { 2 } else { 0 });
            segment::fill_checksum(&mut packet);
            self.packets.push(packet);
            done += len;
            if done >= total {
                return;
            }
        }
    }
}

impl Peer {
    fn hears(&mut self, now: Time, packet: &[u8]) {
        let (segment, at) = wire::parse(&packet[20..]).expect("a segment");
        let Some(connection) = &mut self.connection else {
            self.connection = Connection::accept(self.config, PEER_ISN, now, &segment);
            return;
        };
        let ecn = match packet[1] & 3 {
            0 => IpEcn::NotCapable,
            3 => IpEcn::Congested,
            _ => IpEcn::Capable,
        };
        let payload = packet[20 + at..].to_vec();
        let len = u32::try_from(payload.len()).unwrap();
        connection.on_segment(now, &segment, ecn, len, payload);
        while let Some(part) = connection.read() {
            self.read += u64::from(part.len);
        }
        while connection.next_released().is_some() {}
    }

    fn writes(&mut self, total: u64) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        while self.written < total {
            let len = (total - self.written).min(4096).min(connection.send_room());
            if len == 0
                || connection
                    .send(self.written, u32::try_from(len).unwrap())
                    .is_err()
            {
                return;
            }
            self.written += len;
        }
    }
}

pub(super) struct Path<R> {
    pub now: Time,
    pub host: Host,
    pub flow: FlowId,
    pub events: Vec<FlowEvent>,
    /// What the room has sent, before any router.
    pub sent: Vec<Heard>,
    peer: Peer,
    router: R,
    flying: BTreeMap<(Time, u64), (Way, Vec<u8>)>,
    count: u64,
    read: u64,
    written: u64,
}

/// `router` is given every packet, and gives what goes on of it, and where to.
impl<R: FnMut(Time, Way, Vec<u8>) -> Vec<(Way, Vec<u8>)>> Path<R> {
    pub fn new(config: TcpConfig, peer_ecn: bool, router: R) -> Self {
        let now = Time::from_millis(1_000);
        let mut host = Host::new(config, 64);
        let flow = host
            .tcp
            .connect(
                now,
                &mut host.pool,
                COMPUTER,
                STORAGE,
                BUFFERS,
                Reservation::NONE,
            )
            .expect("connects");
        let peer = Peer {
            config: Config {
                ecn: peer_ecn,
                ..Config::default()
            },
            connection: None,
            read: 0,
            written: 0,
        };
        Self {
            now,
            host,
            flow,
            events: Vec::new(),
            sent: Vec::new(),
            peer,
            router,
            flying: BTreeMap::new(),
            count: 0,
            read: 0,
            written: 0,
        }
    }

    fn launch(&mut self, way: Way, packet: Vec<u8>) {
        for (way, packet) in (self.router)(self.now, way, packet) {
            self.count += 1;
            self.flying
                .insert((self.now + DELAY, self.count), (way, packet));
        }
    }

    fn arrive(&mut self) {
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let (way, packet) = entry.remove();
            match way {
                Way::ToStorage => self.peer.hears(self.now, &packet),
                Way::ToRelay if packet[9] == 1 => {
                    let told = PacketTooBig::read(&packet[20..]).expect("it is sound");
                    let tuple = FourTuple {
                        local: told.source,
                        remote: told.destination,
                    };
                    self.host
                        .tcp
                        .packet_too_big(self.now, &tuple, told.seq, told.mtu);
                }
                Way::ToRelay => {
                    let answers = self.host.input(self.now, &Packet::complete(packet));
                    assert!(answers.is_empty(), "a flow answers when it is polled");
                }
            }
        }
    }

    /// Until so much has come each way, and been acknowledged; false if that took longer
    /// than `limit`.
    pub fn exchange(&mut self, to_storage: u64, to_relay: u64, limit: Duration) -> bool {
        let end = self.now + limit;
        let (to_storage, to_relay) = (self.written + to_storage, self.peer.written + to_relay);
        loop {
            self.arrive();
            while let Some((_, event)) = self.host.tcp.next_event() {
                self.events.push(event);
            }
            let Host { tcp, pool } = &mut self.host;
            while self.written < to_storage {
                let most = usize::try_from(to_storage - self.written).unwrap();
                tcp.draw(pool, self.flow);
                let written = tcp.send(self.flow, |room| room.len().min(most));
                if written == 0 {
                    break;
                }
                self.written += written as u64;
            }
            loop {
                let taken = tcp.recv(self.flow, <[u8]>::len);
                if taken == 0 {
                    break;
                }
                self.read += taken as u64;
            }
            self.peer.writes(to_relay);
            for packet in self.host.poll(self.now).iter().flat_map(cut) {
                self.sent.push(heard(&packet));
                self.launch(Way::ToStorage, packet);
            }
            let mut due = self.host.deadline();
            if let Some(connection) = &mut self.peer.connection {
                let FourTuple { local, remote } =
                    self.host.tcp.ends(self.flow).unwrap_or(FourTuple {
                        local: STORAGE,
                        remote: STORAGE,
                    });
                let mut wire = Wire {
                    tuple: FourTuple {
                        local: remote,
                        remote: local,
                    },
                    packets: Vec::new(),
                };
                connection.poll_transmit(self.now, 64, &mut wire);
                due = due.min(connection.next_deadline().unwrap_or(Time::FAR));
                for packet in wire.packets {
                    self.launch(Way::ToRelay, packet);
                }
            }
            let all = self.peer.read == to_storage
                && self.read == to_relay
                && self.host.tcp.unacknowledged(self.flow) == 0;
            let over = self
                .events
                .iter()
                .any(|event| matches!(event, FlowEvent::Closed(_)));
            if all && self.events.contains(&FlowEvent::Connected) || over {
                return all;
            }
            let flying = self.flying.keys().next().map_or(Time::FAR, |key| key.0);
            self.now = self.now.max(due.min(flying));
            if self.now > end {
                return false;
            }
        }
    }

    /// Congestion events that the peer was told of.
    pub fn peer_slowed(&self) -> u64 {
        let connection = self.peer.connection.as_ref().expect("it is connected");
        connection.counters().congestion_marks
    }

    /// Of what the room has sent, what has payload and was not sent before.
    pub fn first_sent(&self) -> Vec<Heard> {
        let mut next = None;
        let mut first = Vec::new();
        for segment in self.sent.iter().filter(|segment| segment.payload_len > 0) {
            let end = segment
                .seq
                .wrapping_add(u32::try_from(segment.payload_len).unwrap());
            if next.is_none_or(|next| segment::after(end, next)) {
                next = Some(end);
                first.push(*segment);
            }
        }
        first
    }
}

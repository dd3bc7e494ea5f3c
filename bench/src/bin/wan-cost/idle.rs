//! A room with flows that nobody touches and one that is busy, against a peer that is
//! made by hand and keeps no time.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_bench::tsc;
use sluice_dataplane::tcp::{FlowEvent, FlowId, Tcp, TcpConfig, WanBuffers};
use sluice_hugepages::pool::{Checksum, Frame, HEADROOM, Pool, Reservation};
use sluice_proto::Time;

const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
const STORAGE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260);
const BUFFERS: WanBuffers = WanBuffers {
    rx_pages: 1,
    tx_frames: 16,
};
/// What a peer takes that offers no MSS (RFC 9293 3.7.1).
const SEGMENT_LEN: usize = 536;
const POLLS: u32 = 5_000;
const SEGMENTS: u32 = 2_000;
const STEP: Duration = Duration::from_micros(20);
/// Longer than the sender may pace a segment that follows another.
const ROUND_TRIP: Duration = Duration::from_millis(1);
const ISN: u32 = 1_000;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

pub struct Idle {
    now: Time,
    tcp: Tcp,
    pool: Pool,
    busy: FlowId,
    out: Vec<Frame>,
}

impl Idle {
    /// `idle` flows and a busy one, in tables and memory for `flows`.
    pub fn new(idle: u16, flows: u16) -> Self {
        let mut config = TcpConfig::new(u32::from(flows) + 1, 1500, [5; 16]);
        // Silent: what asks for a sign of life each 15 s is no idle flow.
        (config.connect.keep_alive, config.connect.timeout) = (None, None);
        let mut tcp = Tcp::new(config);
        let mut pool = Pool::anonymous(usize::from(flows) + 64);
        let now = Time::from_millis(1_000);
        for _ in 0..idle {
            open(now, &mut tcp, &mut pool);
        }
        let busy = open(now, &mut tcp, &mut pool);
        Self {
            now,
            tcp,
            pool,
            busy,
            out: Vec::new(),
        }
    }

    /// Ticks of a poll with nothing to do.
    pub fn poll(&mut self) -> f64 {
        // Whatever was still to be said.
        self.now += Duration::from_secs(1);
        self.tcp.poll(self.now, &mut self.pool, &mut self.out);
        let polls = self.tcp.counters().flow_polls;
        let begin = tsc::now();
        for _ in 0..POLLS {
            self.now += STEP;
            self.tcp.poll(self.now, &mut self.pool, &mut self.out);
        }
        let ticks = tsc::now() - begin;
        assert_eq!(
            self.tcp.counters().flow_polls,
            polls,
            "there is nothing to do"
        );
        self.release();
        ticks as f64 / f64::from(POLLS)
    }

    /// Ticks of a segment that the busy flow sends, and of its acknowledgement.
    pub fn segment(&mut self) -> f64 {
        let mut ticks = 0;
        for _ in 0..SEGMENTS {
            self.now += ROUND_TRIP;
            let begin = tsc::now();
            self.tcp.draw(&mut self.pool, self.busy);
            let written = self.tcp.send(self.busy, |room| {
                let len = room.len().min(SEGMENT_LEN);
                room[..len].fill(0x5a);
                len
            });
            self.tcp.poll(self.now, &mut self.pool, &mut self.out);
            ticks += tsc::now() - begin;
            assert!(written > 0 && self.out.len() == 1, "one segment goes out");
            self.now += ROUND_TRIP;
            let ack = answer(&mut self.pool, &self.out[0], ACK);
            self.release();
            let begin = tsc::now();
            self.tcp.input(self.now, &mut self.pool, ack, &mut self.out);
            while self.tcp.next_event().is_some() {}
            self.tcp.poll(self.now, &mut self.pool, &mut self.out);
            ticks += tsc::now() - begin;
            assert!(self.out.is_empty() && self.tcp.unacknowledged(self.busy) == 0);
        }
        ticks as f64 / f64::from(SEGMENTS)
    }

    fn release(&mut self) {
        for frame in self.out.drain(..) {
            self.pool.release(frame);
        }
    }
}

fn open(now: Time, tcp: &mut Tcp, pool: &mut Pool) -> FlowId {
    let flow = tcp.connect(now, pool, LOCAL, STORAGE, BUFFERS, Reservation::NONE);
    let flow = flow.expect("room for as many as there are");
    let mut out = Vec::new();
    tcp.poll(now, pool, &mut out);
    let syn_ack = answer(pool, &out[0], SYN_ACK);
    tcp.input(now, pool, syn_ack, &mut out);
    assert_eq!(tcp.next_event(), Some((flow, FlowEvent::Connected)));
    tcp.poll(now, pool, &mut out);
    assert_eq!(out.len(), 2, "a SYN, and what ends the handshake");
    for frame in out {
        pool.release(frame);
    }
    flow
}

/// What the storage says to a segment: a header without options, so that no timestamps
/// and no scale are agreed on.
fn answer(pool: &mut Pool, heard: &Frame, flags: u8) -> Frame {
    let heard = pool.bytes(heard);
    let header_len = 20 + usize::from(heard[32] >> 4) * 4;
    let seq = u32::from_be_bytes(heard[24..28].try_into().expect("four bytes"));
    let syn = u32::from(flags == SYN_ACK);
    let payload_len = u32::try_from(heard.len() - header_len).expect("a packet");
    let ack = seq.wrapping_add(payload_len + syn);
    let mut packet = [0; 40];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 40]);
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..16].copy_from_slice(&heard[16..20]);
    packet[16..20].copy_from_slice(&heard[12..16]);
    packet[20..22].copy_from_slice(&heard[22..24]);
    packet[22..24].copy_from_slice(&heard[20..22]);
    packet[24..28].copy_from_slice(&(ISN + 1 - syn).to_be_bytes());
    packet[28..32].copy_from_slice(&ack.to_be_bytes());
    packet[32..34].copy_from_slice(&[0x50, flags]);
    packet[34..36].copy_from_slice(&u16::MAX.to_be_bytes());
    let mut frame = pool.alloc_frame().expect("frames enough");
    pool.set(&mut frame, HEADROOM, packet.len());
    pool.bytes_mut(&frame).copy_from_slice(&packet);
    frame.checksum = Checksum::Verified;
    frame
}

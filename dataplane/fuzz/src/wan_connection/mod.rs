//! A connection to the storage in the TCP room, whose peer knows all its numbers and says
//! what the input chooses: sound segments, lies about what it has or wants, and bytes.
//!
//! What goes out is sound, within the window that was granted and the bytes that were
//! written; what is read is what the peer has sent, in order; what is kept is bounded by
//! the buffers; only an exact RST resets; a peer that lied no worse than by SACK, window
//! and acknowledgement, and then is honest, gets all of the stream and gives all of its
//! own; and in the end everything is back in the pool.

mod ending;
mod peer;
mod ranges;
mod steps;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_dataplane::tcp::{CloseReason, FlowEvent, FlowId, Tcp, TcpConfig, WanBuffers};
use sluice_hugepages::pool::{
    Checksum, FRAME_LEN, FRAMES_PER_PAGE, Frame, HEADROOM, PAGE_LEN, Pool, Reservation,
};
use sluice_proto::Time;

use crate::source::Source;
use crate::tcp::{self, ACK, CWR, ECE, Header, Options, SYN};
use peer::{MTU, Peer, View, byte};

const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// Numbers of reservations that come and go, from 1 on.
const RESERVATIONS: u16 = 2;
const STORAGE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260);
/// Enough for the buffers, for what waits in them, and for a burst.
const POOL_PAGES: usize = 48;
const BUFFER_PAGES_MAX: u32 = 3;
const STEPS_MAX: usize = 160;
/// What a received frame is worth of the window, the least number that is kept, and what a
/// port takes for a link header.
const WINDOW_PER_FRAME: usize = 1024;
const FRAMES_MIN: usize = 16;
const LINK_LEN: usize = 14;
/// Nothing is given up sooner, a SYN as little as a peer that was heard.
const TIMEOUT_MIN: Duration = Duration::from_secs(3);

pub fn run(input: &[u8]) {
    let mut play = Play::new(Source::new(input));
    for _ in 0..STEPS_MAX {
        if play.source.is_empty() || play.over {
            break;
        }
        let polls = play.step();
        if polls {
            play.poll();
        }
    }
    play.finish();
}

struct Play<'a> {
    source: Source<'a>,
    now: Time,
    began: Time,
    tcp: Tcp,
    pool: Pool,
    /// Frames that others have.
    hogs: Vec<Frame>,
    flow: FlowId,
    local: SocketAddrV4,
    buffers: WanBuffers,
    /// The most frames that it was ever allowed to send from, and those that it had when it
    /// was last looked at.
    limit_most: u32,
    held_before: u32,
    gso: bool,
    peer: Peer,
    read: i64,
    written: i64,
    closed: bool,
    closed_at: Option<Time>,
    connected: bool,
    /// Both sides were told that all was said.
    finished: bool,
    /// The flow's end was told, or its owner has let go of it.
    over: bool,
    /// Since when nothing was acknowledged, and the longest of that.
    progress_at: Time,
    stalled: Duration,
}

impl<'a> Play<'a> {
    fn new(mut source: Source<'a>) -> Self {
        let [how, pages, isn, more] = source.array();
        let gso = how & 1 != 0;
        let mut config = TcpConfig::new(2, u16::try_from(MTU).expect("1500"), [how; 16]);
        (config.half_open_max, config.time_wait_max) = (2, 2);
        config.connect.gso = gso;
        let buffers = WanBuffers {
            rx_pages: 1 + u32::from(pages & 15) % BUFFER_PAGES_MAX,
            tx_frames: (1 + u32::from(pages >> 4) % BUFFER_PAGES_MAX) * 16,
        };
        let now = Time::from_millis(5_000);
        let mut tcp = Tcp::new(config);
        let mut pool = Pool::anonymous(POOL_PAGES);
        let flow = tcp.connect(now, &mut pool, LOCAL, STORAGE, buffers, Reservation::NONE);
        let flow = flow.expect("there is room for one");
        let local = tcp.ends(flow).expect("it was just made").local;
        let mut peer = Peer {
            window: u16::MAX,
            clock_ahead: u32::from(isn) << 24,
            ..Peer::default()
        };
        peer.theirs.isn = [0, u32::MAX - 100, 1 << 31, u32::from(isn) << 16][usize::from(isn & 3)];
        let mut play = Self {
            source,
            now,
            began: now,
            tcp,
            pool,
            hogs: Vec::new(),
            flow,
            local,
            buffers,
            limit_most: buffers.tx_frames,
            held_before: buffers.tx_frames,
            gso,
            peer,
            read: 0,
            written: 0,
            closed: false,
            closed_at: None,
            connected: false,
            finished: false,
            over: false,
            progress_at: now,
            stalled: Duration::ZERO,
        };
        play.first_syn();
        // One of eight programs begins before the handshake.
        if how & 0xe0 != 0xe0 {
            play.handshake(how >> 1, more);
            play.poll();
        }
        play
    }

    fn first_syn(&mut self) {
        let mut out = Vec::new();
        self.tcp.poll(self.now, &mut self.pool, &mut out);
        let [syn] = &out[..] else {
            panic!("a SYN, not {out:?}")
        };
        let seq = self.pool.bytes(syn)[24..28].try_into().expect("a header");
        self.peer.ours.isn = u32::from_be_bytes(seq);
        self.hear(out, &View::default());
    }

    /// The peer's SYN, which says what the peer can.
    fn handshake(&mut self, how: u8, more: u8) {
        const MSS: [Option<u16>; 8] = [
            Some(1460),
            Some(1460),
            Some(536),
            Some(9000),
            Some(88),
            Some(0),
            Some(u16::MAX),
            None,
        ];
        const SCALES: [Option<u8>; 4] = [Some(7), Some(0), Some(14), None];
        let now = self.timestamp();
        let terms = Options {
            mss: MSS[usize::from(more & 7)],
            scale: SCALES[usize::from(more >> 3 & 3)],
            sack_permitted: how & 1 == 0,
            timestamp: (how & 2 == 0).then_some((now, self.peer.echo)),
            sack: Vec::new(),
        };
        // Both at once, one of eight times.
        let answers = more >> 5 != 7;
        // ECN, agreed to where it was asked for; said with both bits it means the opposite.
        let ecn = [0, ECE, ECE | CWR, 0][usize::from(how >> 2 & 3)];
        let header = Header {
            seq: self.peer.theirs.isn,
            ack: if answers { self.peer.ours.wire(0) } else { 0 },
            flags: ecn | if answers { SYN | ACK } else { SYN },
            window: self.peer.window,
            options: terms.bytes(),
        };
        if self.peer.synced {
            self.say(header, 0);
        } else {
            let before = self.peer.clone();
            self.peer.says_syn(&header, terms);
            if !self.deliver(&header.bytes(STORAGE.port(), self.local.port()), 0) {
                self.peer = before;
            }
        }
    }

    /// What the peer's clock shows.
    fn timestamp(&self) -> u32 {
        let ms = u32::try_from(self.now.as_micros() / 1000 % (1 << 32)).expect("below 2^32");
        ms.wrapping_add(self.peer.clock_ahead)
    }

    fn view(&self) -> View {
        let available = self.tcp.recv_available(self.flow);
        let unacknowledged = self.tcp.unacknowledged(self.flow);
        let bytes = |len: usize| i64::try_from(len).expect("within a buffer");
        View {
            alive: self.tcp.ends(self.flow).is_some(),
            next: self.read + bytes(available) + i64::from(self.tcp.finished(self.flow)),
            una: self.written - bytes(unacknowledged),
            written: self.written,
            closed: self.closed,
        }
    }

    /// A sound header where the peer stands.
    fn header(&self, flags: u8) -> Header {
        let view = self.view();
        let options = Options {
            timestamp: self
                .peer
                .terms
                .timestamp
                .map(|_| (self.timestamp(), self.peer.echo)),
            ..Options::default()
        };
        Header {
            seq: self.peer.theirs.wire(view.next),
            ack: self.peer.ours.wire(self.peer.acked.max(view.una)),
            flags,
            window: self.peer.window,
            options: options.bytes(),
        }
    }

    /// The peer sends a segment.
    fn say(&mut self, header: Header, payload_len: usize) {
        let mut tcp = header.bytes(STORAGE.port(), self.local.port());
        tcp.resize(tcp.len() + payload_len, 0);
        self.say_bytes(tcp, 0);
    }

    /// The peer sends what may be a segment; its payload is what belongs where it stands.
    fn say_bytes(&mut self, mut tcp: Vec<u8>, ecn: u8) {
        let view = self.view();
        let read = Header::read(&tcp).filter(|_| view.alive);
        if let Some((header, at)) = &read {
            let start = self.peer.theirs.place(view.next, header.seq);
            for (place, is) in (start..).zip(&mut tcp[*at..]) {
                *is = byte(self.peer.theirs, place);
            }
        }
        if let Some((header, at)) = &read {
            self.peer.says(header, tcp.len() - at, &view);
        }
        if !self.deliver(&tcp, ecn) {
            return;
        }
        let Some((header, _)) = read else { return };
        let after = self.view();
        if after.alive && after.una > view.una {
            self.stalled = self.stalled.max(self.now.since(self.progress_at));
            self.progress_at = self.now;
            if self.peer.ours.place(view.una, header.ack) >= after.una {
                // RFC 9293 3.10.7.4: what acknowledges something new also says the window.
                self.peer.grant = self.peer.granted(&header, view.una);
            }
        }
        self.keeps_its_word(&after);
    }

    /// Puts a packet into the room; false if there is no frame for it.
    fn deliver(&mut self, tcp: &[u8], ecn: u8) -> bool {
        self.peer.marked |= ecn & 3 == 3;
        let packet = tcp::packet(STORAGE, self.local, ecn, tcp.to_vec());
        let offset = HEADROOM + LINK_LEN;
        let frame = if packet.len() > FRAME_LEN - offset {
            self.pool.alloc_page_frame()
        } else {
            self.pool.alloc_frame()
        };
        let Some(mut frame) = frame else {
            return false;
        };
        self.pool.set(&mut frame, offset, packet.len());
        self.pool.bytes_mut(&frame).copy_from_slice(&packet);
        let mut out = Vec::new();
        let alive = self.view().alive;
        let elsewhere = self.tcp.input(self.now, &mut self.pool, frame, &mut out);
        assert!(elsewhere.is_none(), "there is one worker");
        assert!(!alive || out.is_empty(), "a flow answers when it is polled");
        for frame in out {
            self.pool.release(frame);
        }
        self.take_events();
        true
    }

    /// What goes out, and the payload of it: ranges of places.
    fn poll(&mut self) -> Vec<(i64, i64)> {
        let view = self.view();
        let mut out = Vec::new();
        self.tcp.poll(self.now, &mut self.pool, &mut out);
        self.peer.blind |= self.tcp.counters().lost_no_frame > 0;
        let heard = self.hear(out, &view);
        self.take_events();
        self.is_bounded();
        heard
    }

    fn hear(&mut self, out: Vec<Frame>, view: &View) -> Vec<(i64, i64)> {
        let mut heard = Vec::new();
        for frame in out {
            assert!(
                usize::from(frame.offset) >= LINK_LEN,
                "room for a link header"
            );
            let partial = match frame.checksum {
                Checksum::InPacket => false,
                Checksum::Partial { start, offset } => {
                    assert!(self.gso && (start, offset) == (20, 16));
                    true
                }
                other => panic!("a checksum that is {other:?}"),
            };
            let packet = &self.pool.packet(&frame)[..];
            assert!(packet.len() <= MTU || frame.gso.is_some_and(|_| self.gso));
            let tcp = tcp::unpack(self.local, STORAGE, packet, partial);
            let (start, end) = self.peer.hears(tcp, packet[1] & 3, frame.gso, view);
            if start < end {
                heard.push((start, end));
            }
            self.pool.release(frame);
        }
        let read = i64::from(self.buffers.rx_pages) * PAGE_LEN as i64 + self.read;
        // A part that is being read counts no more.
        assert!(
            self.peer.edge <= read + PAGE_LEN as i64,
            "the window is within the buffer"
        );
        heard
    }

    /// Whatever the peer says, no byte is acknowledged that was not sent, none is there
    /// that did not come.
    fn keeps_its_word(&self, view: &View) {
        if !view.alive {
            return;
        }
        let unacknowledged = view.written - view.una;
        assert!(unacknowledged <= i64::from(self.limit_most) * FRAME_LEN as i64);
        assert!(
            self.peer.blind || view.una <= self.peer.acked,
            "{view:?}, of which {} were acknowledged",
            self.peer.acked
        );
        let finished = self.tcp.finished(self.flow);
        let bytes = view.next - i64::from(finished);
        assert!(
            bytes <= self.peer.data.prefix(),
            "{view:?} of {:?}",
            self.peer.data
        );
        assert!(!finished || self.peer.fins.contains(&bytes), "{view:?}");
    }

    /// Most frames that may be kept, a page counted as all that it could be.
    fn frames_max(&self) -> usize {
        let window = self.buffers.rx_pages as usize * PAGE_LEN;
        (window / WINDOW_PER_FRAME).max(FRAMES_MIN)
    }

    fn frames_in_use(&self) -> usize {
        let stats = self.pool.stats();
        let frames = stats.frames_in_use + stats.page_frames_in_use * FRAMES_PER_PAGE;
        let held = self.tcp.held(self.flow).map_or(0, |held| held.frames);
        frames - self.hogs.len() - held as usize
    }

    fn is_bounded(&mut self) {
        let (kept, most) = (self.frames_in_use(), self.frames_max());
        // One that everything waits for is taken even where enough is kept, and one is
        // being read.
        let pages = 2 * FRAMES_PER_PAGE;
        assert!(
            kept <= most + pages,
            "{kept} frames kept where {most} may be"
        );
        let Some(held) = self.tcp.held(self.flow) else {
            return;
        };
        // What was drawn under a larger limit goes as it is acknowledged.
        assert!(
            held.frames <= self.held_before.max(held.limit_frames),
            "{held:?}, which had {}",
            self.held_before
        );
        self.held_before = held.frames;
        assert!(held.unacknowledged <= u64::from(held.frames) * FRAME_LEN as u64);
        let mut in_use = 0;
        for number in 1..=RESERVATIONS {
            let of = self.pool.reserved(Reservation(number)).unwrap_or_default();
            assert_eq!(of.listed, of.goal.saturating_sub(of.in_use), "{of:?}");
            in_use += of.in_use;
        }
        assert!(in_use <= held.frames as usize);
    }

    fn take_events(&mut self) {
        while let Some((flow, event)) = self.tcp.next_event() {
            assert!(flow == self.flow && !self.over, "{event:?}");
            match event {
                FlowEvent::Connected => {
                    assert!(self.peer.synced && !self.connected);
                    self.connected = true;
                }
                FlowEvent::Ready => assert!(self.connected),
                FlowEvent::Finished => {}
                FlowEvent::Accepted { .. } => panic!("nobody listens"),
                FlowEvent::Closed(reason) => self.is_closed(reason),
            }
        }
    }

    fn is_closed(&mut self, reason: CloseReason) {
        self.over = true;
        match reason {
            CloseReason::Finished => {
                let all = self.peer.blind || self.peer.acked > self.written;
                assert!(self.closed && (all || self.peer.reset || !self.connected));
                self.finished = true;
            }
            CloseReason::Reset => assert!(self.peer.reset_exact),
            CloseReason::Refused => assert!(self.peer.reset && !self.connected),
            CloseReason::TimedOut => assert!(self.now.since(self.began) >= TIMEOUT_MIN),
        }
        self.nothing_is_left();
    }

    fn nothing_is_left(&mut self) {
        for frame in self.hogs.drain(..) {
            self.pool.release(frame);
        }
        for number in 1..=RESERVATIONS {
            self.pool.cancel(Reservation(number));
        }
        let stats = self.pool.stats();
        let left = (
            stats.frames_in_use,
            stats.page_frames_in_use,
            stats.frames_reserved,
        );
        assert_eq!(left, (0, 0, 0), "everything is back in the pool");
        assert_eq!(stats.pages_free + stats.pages_divided, stats.pages);
    }
}

//! The peer as it must be known to judge the connection: what it has said, what it may be
//! told, and whether what it hears is sound.
//!
//! Places count bytes of a stream from 0; its SYN stands at -1, its FIN after the last.

use sluice_hugepages::pool::{Gso, GsoKind};

use super::ranges::Ranges;
use crate::tcp::{ACK, CWR, ECE, FIN, Header, Options, PSH, RST, SYN};

/// The most that the room is told to send.
pub const MTU: usize = 1500;
const IPV4_LEN: usize = 20;
/// What a SYN without the option stands for, and the least that is heeded.
const MSS_DEFAULT: u16 = 536;
const MSS_LEAST: u16 = 88;

/// The sequence numbers of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Space {
    pub isn: u32,
}

impl Space {
    pub fn wire(self, place: i64) -> u32 {
        let distance = u32::try_from((place + 1).rem_euclid(1 << 32)).expect("below 2^32");
        self.isn.wrapping_add(distance)
    }

    /// The place of `seq` that is nearest to `near`.
    pub fn place(self, near: i64, seq: u32) -> i64 {
        let distance = seq.wrapping_sub(self.wire(near)).cast_signed();
        near + i64::from(distance)
    }
}

/// The payload at a place, so that no overlap and no repetition can say anything else.
pub fn byte(space: Space, place: i64) -> u8 {
    let mixed =
        (place.cast_unsigned() ^ u64::from(space.isn) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40).to_be_bytes()[7]
}

/// The connection as its owner sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    pub alive: bool,
    /// What comes next of the peer's stream.
    pub next: i64,
    /// The first that is not acknowledged of ours.
    pub una: i64,
    pub written: i64,
    pub closed: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Peer {
    pub theirs: Space,
    pub ours: Space,
    /// A SYN of ours has asked for ECN, the last one did; and what came of it: the peer
    /// may mark, and we may be marked.
    pub asked: bool,
    pub asks: bool,
    pub may_mark: bool,
    pub capable: bool,
    /// It was sent data with a mark.
    pub marked: bool,
    /// Its SYN was taken, with these options.
    pub synced: bool,
    pub terms: Options,
    /// The window that its next segments say, unscaled.
    pub window: u16,
    /// Its clock of timestamps is so far ahead of its time in milliseconds.
    pub clock_ahead: u32,
    /// Where it has sent payload; the same with FINs.
    pub data: Ranges,
    pub spoken: Ranges,
    pub fins: Vec<i64>,
    pub reset: bool,
    pub reset_exact: bool,
    /// It has lied in a way that may keep it from being understood later.
    pub forged: bool,
    /// The end of what it was sent, the FIN included.
    pub sent: i64,
    /// The most that it has acknowledged, of what it was sent.
    pub acked: i64,
    /// The most that its window allows, or has allowed since something was acknowledged.
    pub grant: i64,
    /// The last timestamp that it was sent.
    pub echo: u32,
    /// Our window scale, and the end of our window.
    pub scale: u8,
    pub edge: i64,
    /// Something was not seen that was sent.
    pub blind: bool,
}

impl Peer {
    fn window_bytes(&self, field: u16, syn: bool) -> i64 {
        let scale = self.terms.scale.filter(|_| !syn).unwrap_or(0).min(14);
        i64::from(field) << scale
    }

    /// The end of the window that this acknowledgement grants.
    pub fn granted(&self, header: &Header, una: i64) -> i64 {
        self.ours.place(una, header.ack) + self.window_bytes(header.window, header.has(SYN))
    }

    /// A sound segment is on its way to the connection.
    pub fn says(&mut self, header: &Header, payload_len: usize, view: &View) {
        if header.has(RST) {
            self.reset = true;
            self.reset_exact |= self.synced && header.seq == self.theirs.wire(view.next);
            return;
        }
        if header.has(SYN) {
            return;
        }
        let start = self.theirs.place(view.next, header.seq);
        let end = start + i64::try_from(payload_len).expect("a packet's");
        self.data.insert(start, end);
        self.spoken.insert(start, end);
        if header.has(FIN) {
            self.fins.push(end);
            self.spoken.insert(end, end + 1);
        }
        let first_fin = self.fins.iter().min().copied().unwrap_or(i64::MAX);
        self.forged |= self.spoken.end() > first_fin.saturating_add(1) || start > self.spoken.end();
        let ack = self.ours.place(view.una, header.ack);
        if header.has(ACK) && ack <= self.sent {
            self.acked = self.acked.max(ack);
            self.grant = self.grant.max(self.granted(header, view.una));
        }
    }

    /// Its SYN is on its way to a connection that has none yet.
    pub fn says_syn(&mut self, header: &Header, terms: Options) {
        self.theirs.isn = header.seq;
        self.terms = terms;
        self.synced = true;
        let (ece, cwr) = (header.has(ECE), header.has(CWR));
        let agrees = ece && cwr != header.has(ACK);
        self.may_mark = agrees && self.asked;
        self.capable = agrees && self.asks;
        (self.data, self.spoken) = (Ranges::default(), Ranges::default());
        self.fins.clear();
        self.grant = i64::from(header.window);
    }

    /// Hears a segment of the connection, which was as in `view` when it was sent. The
    /// places of the payload.
    ///
    /// # Panics
    /// If it is not sound.
    pub fn hears(&mut self, tcp: &[u8], ecn: u8, gso: Option<Gso>, view: &View) -> (i64, i64) {
        let (header, at) = Header::read(tcp).expect("a whole header");
        let options = Options::read(&header.options);
        let payload = &tcp[at..];
        if header.has(RST) {
            assert!(payload.is_empty() && gso.is_none(), "a reset is bare");
            assert_eq!((header.flags & !(RST | ACK), ecn), (0, 0));
            return (0, 0);
        }
        if let Some((value, _)) = options.timestamp {
            self.echo = value;
        }
        if header.has(SYN) {
            assert_eq!(ecn, 0, "a SYN is not to be marked");
            self.hears_syn(&header, &options, payload);
            return (0, 0);
        }
        assert!(self.synced, "the peer was not heard yet: {header:?}");
        assert!(header.has(ACK) && header.flags & !(ACK | PSH | FIN | ECE | CWR) == 0);
        self.hears_ecn(&header, ecn, payload, view);
        self.hears_options(&options, payload, view);
        self.hears_window(&header, view);
        self.hears_size(at, payload.len(), gso);
        self.hears_payload(&header, payload, view)
    }

    fn hears_syn(&mut self, header: &Header, options: &Options, payload: &[u8]) {
        assert!(payload.is_empty() && header.flags & !(SYN | ACK | ECE | CWR) == 0);
        let (ece, cwr) = (header.has(ECE), header.has(CWR));
        if header.has(ACK) {
            assert!(!cwr && ece == self.may_mark, "it agrees to what was asked");
        } else {
            assert_eq!(ece, cwr, "a SYN asks with both");
            assert!(!ece || !self.synced);
            self.asked |= ece;
            self.asks = ece;
        }
        assert_eq!(header.seq, self.ours.isn);
        assert_eq!(options.mss.map(usize::from), Some(MTU - 40));
        assert!(options.sack.is_empty());
        if header.has(ACK) {
            assert_eq!(header.ack, self.theirs.wire(0), "it answers the peer's SYN");
        } else {
            self.scale = options.scale.expect("it offers a scale");
        }
        self.edge = self.edge.max(i64::from(header.window));
    }

    /// RFC 3168 6.1: only new data can be marked, and says that marks were heard of; marks
    /// are echoed where there were any.
    fn hears_ecn(&self, header: &Header, ecn: u8, payload: &[u8], view: &View) {
        let start = self.ours.place(view.una, header.seq);
        let is_new = !payload.is_empty() && (self.blind || start >= self.sent);
        match ecn {
            0 => {}
            2 => assert!(self.capable && is_new, "{header:?}"),
            _ => panic!("a codepoint that is {ecn}"),
        }
        assert!(!header.has(CWR) || self.capable && is_new, "{header:?}");
        assert!(
            !header.has(ECE) || self.may_mark && self.marked,
            "{header:?}"
        );
    }

    fn hears_options(&self, options: &Options, payload: &[u8], view: &View) {
        assert_eq!((options.mss, options.scale), (None, None));
        assert_eq!(
            options.timestamp.is_some(),
            self.terms.timestamp.is_some(),
            "timestamps as agreed"
        );
        assert!(options.sack.is_empty() || self.terms.sack_permitted && payload.is_empty());
        for &(left, right) in &options.sack {
            let (left, right) = (
                self.theirs.place(view.next, left),
                self.theirs.place(view.next, right),
            );
            assert!(
                left < right && self.spoken.covers(left, right),
                "a block from {left} to {right}, {:?} was sent",
                self.spoken
            );
        }
    }

    fn hears_window(&mut self, header: &Header, view: &View) {
        let next = self.theirs.place(view.next, header.ack);
        assert_eq!(next, view.next, "everything in order is acknowledged");
        let scale = self.terms.scale.map_or(0, |_| self.scale);
        let edge = next + (i64::from(header.window) << scale);
        let slack = (1 << scale) - 1;
        assert!(
            edge + slack >= self.edge,
            "the window goes back from {} to {edge}",
            self.edge
        );
        self.edge = self.edge.max(edge);
    }

    /// The most payload of a segment.
    fn payload_max(&self) -> usize {
        let asked = self.terms.mss.unwrap_or(MSS_DEFAULT).max(MSS_LEAST);
        let options = if self.terms.timestamp.is_some() {
            12
        } else {
            0
        };
        usize::from(asked).min(MTU - 40) - options
    }

    fn hears_size(&self, header_len: usize, len: usize, gso: Option<Gso>) {
        let most = self.payload_max();
        match gso {
            None => assert!(len <= most, "{len} bytes where {most} may be"),
            Some(gso) => {
                assert!(gso.kind == GsoKind::TcpV4 && gso.size > 0);
                assert_eq!(usize::from(gso.header_len), IPV4_LEN + header_len);
                let size = usize::from(gso.size);
                assert!(size <= most && size < len, "cut into {size} of {len} bytes");
            }
        }
    }

    fn hears_payload(&mut self, header: &Header, payload: &[u8], view: &View) -> (i64, i64) {
        let start = self.ours.place(view.una, header.seq);
        let end = start + i64::try_from(payload.len()).expect("a packet's");
        let fin = header.has(FIN);
        if payload.is_empty() && !fin {
            let known = view.una - 1..=self.sent;
            assert!(self.blind || known.contains(&start), "{start} of {known:?}");
            return (0, 0);
        }
        assert!(
            start >= view.una && end <= view.written,
            "from {start} to {end} of {view:?}"
        );
        assert!(
            self.blind || start <= self.sent,
            "{start} comes before {}",
            self.sent
        );
        assert!(
            end <= self.sent.max(self.grant),
            "{end} is beyond the window's {}",
            self.grant
        );
        assert!(!fin || view.closed && end == view.written, "a FIN at {end}");
        let ours = self.ours;
        let sound = (start..)
            .zip(payload)
            .all(|(place, &is)| is == byte(ours, place));
        assert!(sound, "what was written is what goes out");
        self.sent = self.sent.max(end + i64::from(fin));
        (start, end)
    }
}

//! What a program does, an instruction at a time.

use std::net::SocketAddrV4;
use std::time::Duration;

use sluice_dataplane::tcp::FourTuple;
use sluice_hugepages::pool::{FRAME_LEN, PAGE_LEN, Reservation};
use sluice_proto::Time;

use super::Play;
use super::peer::byte;
use crate::tcp::{ACK, CWR, ECE, FIN, Header, Options, PSH, RST, SYN};

/// The longest payload of one packet.
const PAYLOAD_MAX: i64 = 60_000;
/// Polls at one moment after which all that may go out then is out.
const POLLS_MAX: usize = 400;

impl Play<'_> {
    /// One instruction; false if what came next comes before the connection says anything.
    pub(super) fn step(&mut self) -> bool {
        let instruction = self.source.byte();
        match instruction & 0x1f {
            0 | 1 => self.acknowledge(),
            2 => self.sack_true(),
            3 => self.sack_lying(),
            4 => self.acknowledge_unsent(),
            5 => self.window(),
            6 => self.flags(),
            7 => self.timestamps(),
            8 | 9 => self.data_in_order(),
            10 | 11 => self.data_anywhere(),
            12 => self.raw(),
            13 | 14 => self.time(),
            15 | 16 => self.owner_sends(),
            17 | 18 => self.owner_reads(),
            19 => self.owner_closes(),
            20 => self.owner_aborts(),
            21 => self.too_big(),
            22 => self.hog(),
            23 => {
                let [how, more] = self.source.array();
                self.handshake(how, more);
            }
            24 => self.rounds(),
            25 => self.congestion(),
            26 => self.tiny(),
            27 => self.router(),
            28 => self.memory(),
            _ => {
                self.until_deadline();
            }
        }
        instruction & 0x80 == 0
    }

    /// Between what was acknowledged and what was sent, in 255ths.
    fn outstanding(&mut self) -> i64 {
        let una = self.view().una;
        let share = i64::from(self.source.byte());
        una + (self.peer.sent - una).max(0) * share / 255
    }

    fn acknowledge(&mut self) {
        let header = Header {
            ack: {
                let place = self.outstanding();
                self.peer.ours.wire(place)
            },
            ..self.header(ACK)
        };
        self.say(header, 0);
    }

    fn say_sack(&mut self, sack: Vec<(u32, u32)>) {
        let mut header = self.header(ACK);
        let blocks = Options {
            sack,
            ..Options::default()
        };
        header.options.extend(blocks.bytes());
        self.say(header, 0);
    }

    /// Blocks of what is outstanding.
    fn sack_true(&mut self) {
        let blocks = (0..=self.source.below(3)).map(|_| {
            let (a, b) = (self.outstanding(), self.outstanding());
            let (left, right) = (a.min(b), a.max(b));
            (self.peer.ours.wire(left), self.peer.ours.wire(right))
        });
        let blocks = blocks.collect();
        self.say_sack(blocks);
    }

    /// Blocks of what was never sent, of what is long acknowledged, the wrong way round.
    fn sack_lying(&mut self) {
        let una = self.view().una;
        let blocks = (0..=self.source.below(4)).map(|_| {
            let [from, how] = self.source.array();
            let len = i64::from(self.source.len());
            let left = match from & 3 {
                0 => una - i64::from(from) * 16,
                1 => self.peer.sent - i64::from(from),
                2 => self.peer.sent + i64::from(from),
                _ => una + i64::from(from) * 64,
            };
            let (left, right) = match how & 3 {
                0 => (left, left + len),
                1 => (left + len, left),
                2 => (left, self.peer.sent),
                _ => (left, left + (i64::from(how) << 24)),
            };
            (self.peer.ours.wire(left), self.peer.ours.wire(right))
        });
        let blocks = blocks.collect();
        self.say_sack(blocks);
    }

    fn acknowledge_unsent(&mut self) {
        let [from] = self.source.array();
        let len = i64::from(self.source.len());
        let place = match from & 3 {
            0 => self.peer.sent + 1 + len,
            1 => self.view().una - 1 - len,
            2 => self.peer.sent + 1 + (i64::from(from) << 22),
            _ => self.view().una - (i64::from(from) << 22),
        };
        let header = Header {
            ack: self.peer.ours.wire(place),
            ..self.header(ACK)
        };
        self.say(header, if from & 0x80 == 0 { 0 } else { 100 });
    }

    fn window(&mut self) {
        let byte = self.source.byte();
        let window = self.peer.window;
        self.peer.window = match byte & 7 {
            0 => 0,
            1 => 1,
            2 => window / 2,
            3 => window.saturating_add(u16::from(byte)),
            4 => u16::MAX,
            5 => u16::from(byte),
            6 => self.source.half(),
            _ => window.saturating_sub(u16::from(byte)),
        };
        if byte & 0x80 == 0 {
            let header = self.header(ACK);
            self.say(header, 0);
        }
    }

    /// A place in or about the connection's window.
    fn place(&mut self) -> i64 {
        let next = self.view().next;
        let byte = self.source.byte();
        let edge = self.peer.edge;
        match byte & 7 {
            0 | 1 => next,
            2 => next + 1,
            3 => next - 1,
            4 => edge - i64::from(byte >> 7),
            5 => edge + 1 + i64::from(byte),
            6 => next + (edge - next) * i64::from(byte) / 255,
            _ => next + ((i64::from(self.source.byte()) - 128) << 24),
        }
    }

    fn flags(&mut self) {
        let bits = self.source.byte();
        let flags = match bits & 7 {
            0 | 1 => RST,
            2 => RST | ACK,
            3 => SYN,
            4 => SYN | ACK,
            _ => FIN | ACK,
        };
        let place = self.place();
        if flags & SYN != 0 && !self.peer.synced {
            return self.handshake(bits >> 3, self.peer.clock_ahead.to_be_bytes()[0]);
        }
        let mut header = Header {
            seq: self.peer.theirs.wire(place),
            ..self.header(flags)
        };
        if bits & 0x80 != 0 {
            let unsent = self.peer.sent + i64::from(bits);
            header.ack = self.peer.ours.wire(unsent);
        }
        // A FIN elsewhere than after the last byte that was said is one that will not fit.
        self.peer.forged |= flags & FIN != 0 && place != self.peer.spoken.end();
        self.say(header, usize::from(bits >> 3 & 1) * 10);
    }

    fn timestamps(&mut self) {
        let [how, len] = self.source.array();
        let now = self.timestamp();
        let word = self.source.word();
        let timestamp = match how & 7 {
            0 => None,
            1 => Some((now.wrapping_sub(word & 0xff_ffff), self.peer.echo)),
            2 => {
                // Its clock has jumped.
                self.peer.clock_ahead = self.peer.clock_ahead.wrapping_add(word >> 10);
                Some((self.timestamp(), self.peer.echo))
            }
            3 => Some((now, self.peer.echo.wrapping_add(word))),
            4 => Some((now, self.peer.echo.wrapping_sub(word & 0xffff))),
            5 => Some((now, 0)),
            6 => {
                self.peer.forged = true;
                Some((word, self.peer.echo))
            }
            _ => Some((now, self.peer.echo)),
        };
        // A lie about when makes the connection slow.
        self.stalled += Duration::from_secs(if matches!(how & 7, 3..=5) { 60 } else { 0 });
        let header = Header {
            options: Options {
                timestamp,
                ..Options::default()
            }
            .bytes(),
            ack: {
                let place = self.outstanding();
                self.peer.ours.wire(place)
            },
            ..self.header(ACK)
        };
        self.say(header, usize::from(len));
    }

    /// The next bytes: where none waits to be read, some of them find room.
    fn data_in_order(&mut self) {
        let len = i64::from(self.source.len()).min(1460);
        self.next_bytes(len);
    }

    pub(super) fn next_bytes(&mut self, len: i64) {
        let before = self.view();
        let header = self.header(ACK | PSH);
        let free = self.pool.stats();
        let awaited = self.connected
            && before.alive
            && !self.tcp.finished(self.flow)
            && !(self.peer.forged || self.peer.blind)
            && self.tcp.recv_available(self.flow) == 0
            && free.frames_free + free.pages_free > 0
            && self.peer.acked <= self.peer.sent;
        self.say(header, usize::try_from(len).expect("a length"));
        let after = self.view();
        let room = (self.peer.edge - before.next).min(len);
        assert!(
            !awaited || !after.alive || room <= 0 || after.next > before.next,
            "nothing of {room} bytes that all waits for is taken: {before:?}, {after:?}"
        );
    }

    /// Ahead, behind, over one another.
    fn data_anywhere(&mut self) {
        let [how, far] = self.source.array();
        let len = usize::from(self.source.byte()) * if how & 0x80 == 0 { 1 } else { 5 };
        let far = i64::from(far);
        let next = self.view().next;
        let place = match how & 7 {
            0 | 1 => next + far * 8,
            2 => next + far * 256,
            3 => next - far,
            4 => self.peer.spoken.end() - far,
            5 => self.peer.edge - far,
            6 => self.place(),
            _ => next + far * 1000,
        };
        // A sound peer says nothing where it has no byte.
        self.peer.forged |= len == 0 && place != next;
        let header = Header {
            seq: self.peer.theirs.wire(place),
            ..self.header(ACK)
        };
        self.say(header, len);
    }

    /// Bytes for a header, about numbers that fit or not.
    fn raw(&mut self) {
        self.peer.forged = true;
        let [how, len] = self.source.array();
        let mut tcp = self
            .header(ACK)
            .bytes(super::STORAGE.port(), self.local.port());
        let bytes = self.source.bytes(usize::from(len & 63));
        let from = [12, 4, 8, 20][usize::from(how & 3)];
        tcp.truncate(from);
        tcp.extend(bytes);
        tcp.resize(tcp.len().max(20) + usize::from(how >> 2), 0);
        if !self.peer.synced {
            tcp[13] &= !SYN;
        }
        self.say_bytes(tcp, how & 3);
    }

    fn time(&mut self) {
        let byte = self.source.byte();
        let length = match byte {
            0..=63 => Duration::from_micros(u64::from(byte) * 20),
            64..=191 => Duration::from_millis(u64::from(byte - 63)),
            192..=247 => Duration::from_millis(u64::from(byte - 191) * 50),
            _ => Duration::from_secs(u64::from(byte - 240)),
        };
        let end = self.now + length;
        while !self.over && self.tcp.deadline() < end {
            self.until_deadline();
        }
        self.now = end;
    }

    /// Polls until only time can change something, and goes there.
    pub(super) fn until_deadline(&mut self) -> Vec<(i64, i64)> {
        let mut heard = Vec::new();
        for _ in 0..POLLS_MAX {
            heard.extend(self.poll());
            let deadline = self.tcp.deadline();
            if self.over || deadline == Time::FAR {
                return heard;
            }
            if deadline > self.now {
                self.now = deadline;
                return heard;
            }
        }
        panic!("it wants to be polled again and again at one moment");
    }

    pub(super) fn owner_writes(&mut self, mut len: usize) {
        while len > 0 {
            let (start, ours) = (self.written, self.peer.ours);
            self.tcp.draw(&mut self.pool, self.flow);
            let written = self.tcp.send(self.flow, |room| {
                let take = room.len().min(len);
                for (place, is) in (start..).zip(&mut room[..take]) {
                    *is = byte(ours, place);
                }
                take
            });
            assert!(
                written == 0 || !self.closed,
                "nothing is taken after the end"
            );
            if written == 0 {
                return;
            }
            self.written += i64::try_from(written).expect("within a buffer");
            len -= written;
        }
    }

    fn owner_sends(&mut self) {
        let len = self.source.len() as usize;
        self.owner_writes(len);
    }

    fn owner_reads(&mut self) {
        let len = self.source.len() as usize;
        self.owner_takes(len);
    }

    pub(super) fn owner_takes(&mut self, mut len: usize) {
        while len > 0 {
            let (start, theirs) = (self.read, self.peer.theirs);
            let taken = self.tcp.recv(self.flow, |bytes| {
                let take = bytes.len().min(len);
                let sound = (start..)
                    .zip(&bytes[..take])
                    .all(|(place, &is)| is == byte(theirs, place));
                assert!(
                    sound,
                    "what is read is what the peer has sent, from {start} on"
                );
                take
            });
            if taken == 0 {
                return;
            }
            self.read += i64::try_from(taken).expect("within a buffer");
            len -= taken;
        }
    }

    /// One time of four; it is the end of the most of a program.
    fn owner_closes(&mut self) {
        if self.source.byte() & 3 == 0 {
            self.tcp.close(self.flow);
            self.closed = true;
            self.closed_at.get_or_insert(self.now);
        }
    }

    fn owner_aborts(&mut self) {
        if self.source.byte() & 7 == 0 {
            self.abort();
        }
    }

    /// Packets that no path of this MTU carries.
    fn too_big(&mut self) {
        let [how, len] = self.source.array();
        let len = (2_000 + i64::from(len) * 250).min(PAYLOAD_MAX);
        let next = self.view().next;
        let place = match how & 3 {
            0 | 1 => next,
            // All but a little of it is known.
            2 => next - len + 1 + i64::from(how >> 2),
            _ => next + i64::from(how) * 16,
        };
        let header = Header {
            seq: self.peer.theirs.wire(place),
            ..self.header(ACK)
        };
        self.say(header, usize::try_from(len).expect("positive"));
    }

    /// Others take frames, all but a few, or give them back.
    fn hog(&mut self) {
        let left = usize::from(self.source.byte());
        for frame in self.hogs.drain(..) {
            self.pool.release(frame);
        }
        if left >= 64 {
            return;
        }
        let stats = self.pool.stats();
        let free = stats.frames_free + stats.pages_free * (PAGE_LEN / FRAME_LEN);
        for _ in left..free {
            self.hogs.extend(self.pool.alloc_frame());
        }
    }

    /// Reservations come, change and go, and what the flow may have, and of which.
    fn memory(&mut self) {
        let [how, frames] = self.source.array();
        let reservation = Reservation(u16::from(how & 7) % (super::RESERVATIONS + 1));
        if reservation != Reservation::NONE {
            match how >> 3 & 3 {
                0 => self.pool.cancel(reservation),
                // It may be more than there is.
                1 => drop(self.pool.reserve(reservation, usize::from(frames) * 4)),
                _ => drop(self.pool.reserve(reservation, usize::from(frames))),
            }
        }
        if how & 0x20 != 0 {
            let limit = u32::from(frames).max(1);
            self.limit_most = self.limit_most.max(limit);
            self.tcp
                .set_send_buffer(&mut self.pool, self.flow, limit, reservation);
            let held = self.tcp.held(self.flow).map_or(0, |held| held.frames);
            self.held_before = self.held_before.max(held);
        }
        if how & 0x40 != 0 {
            self.pool.set_floors(usize::from(frames), usize::from(how));
        }
    }

    /// Round trips with a peer that takes everything and an owner that has much to send.
    fn rounds(&mut self) {
        let [count, rtt] = self.source.array();
        for _ in 0..=count & 15 {
            if self.over {
                return;
            }
            self.owner_writes(1 << 16);
            self.poll();
            self.now += Duration::from_micros(1 + u64::from(rtt) * 200);
            let header = Header {
                ack: self.peer.ours.wire(self.peer.sent),
                ..self.header(ACK)
            };
            self.say(header, 0);
        }
    }

    /// Data in a packet that a router has marked, or with the bits that answer it.
    fn congestion(&mut self) {
        let [ecn, flags] = self.source.array();
        let header = self.header(ACK | flags & (ECE | CWR));
        let mut tcp = header.bytes(super::STORAGE.port(), self.local.port());
        tcp.resize(tcp.len() + usize::from(ecn >> 4), 0);
        self.say_bytes(tcp, ecn);
    }

    /// A router, or who says to be one, tells that a packet was too big.
    fn router(&mut self) {
        let [how, share] = self.source.array();
        let mtu = self.source.half();
        let view = self.view();
        let place = match how & 3 {
            0 | 1 => view.una + (self.peer.sent - view.una).max(0) * i64::from(share) / 256,
            2 => view.una - 1 - i64::from(share),
            _ => self.peer.sent + i64::from(share),
        };
        let mtu = match how >> 2 & 3 {
            0 => mtu,
            1 => 576 + mtu % 1000,
            2 => mtu % 600,
            _ => 1400,
        };
        let port = self.local.port() ^ u16::from(how >> 7);
        let tuple = FourTuple {
            local: SocketAddrV4::new(super::LOCAL, port),
            remote: super::STORAGE,
        };
        let before = *self.tcp.counters();
        let seq = self.peer.ours.wire(place);
        self.tcp.packet_too_big(self.now, &tuple, seq, mtu);
        let after = self.tcp.counters();
        let believed = after.wan_too_big > before.wan_too_big;
        let refused = after.wan_too_big_refused > before.wan_too_big_refused;
        assert!(believed != refused);
        let under_way = (view.una..self.peer.sent).contains(&place);
        assert!(
            refused
                || view.alive
                    && how < 0x80
                    && (under_way || self.peer.blind)
                    && (576..1500).contains(&mtu),
            "{mtu} at {place} is believed: {view:?}"
        );
    }

    /// A run of segments of a byte or so each, some of them with gaps between.
    fn tiny(&mut self) {
        let [count, how] = self.source.array();
        let next = self.view().next;
        for number in 0..i64::from(count) {
            if self.over {
                return;
            }
            let step = 1 + i64::from(how & 1);
            let first = i64::from(how >> 1 & 1);
            let header = Header {
                seq: self.peer.theirs.wire(next + first + number * step),
                ..self.header(ACK)
            };
            self.say(header, 1);
            if how & 4 != 0 && number % 32 == 31 {
                self.poll();
            }
            if how & 8 != 0 {
                self.owner_takes(1);
            }
        }
    }
}

//! The stream of one connection into the initiator side, from a storage that
//! lets it log in and then answers what the input says: soundly, with damage, or
//! with plain bytes, while the caller submits, aborts and asks.
//!
//! Each input runs twice, its stream cut differently: the caller must hear the
//! same both times.

use std::collections::BTreeMap;

use sluice_proto::iscsi::{
    Command, Direction, InitiatorConfig, InitiatorConn, InitiatorEvent, IscsiName, Offers,
    TaskAttribute,
};
use sluice_sim::site::{Pdu, op};

use crate::source::Source;
use crate::wire::{self, Framer, RESERVED_TAG, seal, word};

const LUN: u64 = 1 << 48;
const MAX_TASKS: u16 = 6;
const FILL_MAX: u32 = 70_000;
const OUT_LEN: usize = 4096;

pub fn run(input: &[u8]) {
    let cut = 1 + usize::from(input.first().copied().unwrap_or(0));
    let whole = Storage::new(input, usize::MAX).run();
    let pieces = Storage::new(input, cut).run();
    assert_eq!(whole, pieces, "the same stream, in pieces of {cut} bytes");
}

/// A command that the caller waits for.
#[derive(Debug)]
struct Live {
    out_len: u32,
    in_len: u32,
    received: u32,
}

/// A command as the storage has it.
#[derive(Debug)]
struct Seen {
    itt: u32,
    out_len: u32,
    in_len: u32,
    data_sn: u32,
    sent: u32,
    r2t_sn: u32,
    asked: u32,
}

/// Both ends: the peer's program, and the caller of the code under test.
struct Storage<'a> {
    source: Source<'a>,
    cut: usize,
    conn: InitiatorConn,
    discovery: bool,
    out: Framer,
    heard: Vec<String>,
    live: BTreeMap<u64, Live>,
    next_token: u64,
    over: bool,
    stat_sn: u32,
    exp_cmd_sn: u32,
    seen: Vec<Seen>,
    /// (tag, opcode) of other requests that have not been answered.
    requests: Vec<(u32, u8)>,
    /// The stages of the login request that waits.
    login: Option<Pdu>,
}

impl<'a> Storage<'a> {
    fn new(input: &'a [u8], cut: usize) -> Self {
        let mut source = Source::new(input);
        // The first byte is the cut.
        let [_, flags] = source.array();
        let discovery = flags & 1 != 0;
        let mut offers = if flags & 2 == 0 {
            Offers::lan()
        } else {
            Offers::long_fat_pipe()
        };
        offers.initial_r2t = flags & 4 != 0;
        let name = |name| IscsiName::from(name).expect("a short name");
        let config = InitiatorConfig {
            initiator_name: name("iqn.2004-03.example.computer:a"),
            target_name: (!discovery).then(|| name("iqn.2004-03.example.storage:vol0")),
            isid: [0x80, 1, 2, 3, 4, 5],
            offers,
            chap: None,
            max_tasks: MAX_TASKS,
        };
        Self {
            source,
            cut,
            conn: InitiatorConn::new(config),
            discovery,
            out: Framer::default(),
            heard: Vec::new(),
            live: BTreeMap::new(),
            next_token: 0,
            over: false,
            stat_sn: 1,
            exp_cmd_sn: 1,
            seen: Vec::new(),
            requests: Vec::new(),
            login: None,
        }
    }

    fn run(mut self) -> Vec<String> {
        self.drain();
        while !self.source.is_empty() {
            match self.source.below(16) {
                0 => {
                    let len = usize::from(self.source.byte());
                    let bytes = self.source.bytes(len);
                    self.feed(bytes);
                }
                1 => self.login(),
                2..=4 => self.submit(),
                5 | 6 => self.data_in(),
                7 | 8 => self.r2t(),
                9 | 10 => self.response(),
                11 => self.answer_request(),
                12 => self.unasked(),
                13 => self.ask(),
                14 => {
                    let len = usize::from(self.source.byte());
                    self.transmit(len);
                }
                _ => self.drain(),
            }
        }
        self.drain();
        assert!(
            self.conn.is_finished() || self.out.is_empty(),
            "ends between PDUs"
        );
        self.heard
    }

    // What the peer sends.

    /// With the numbers of the moment; the StatSN counts if `advances`.
    fn send(&mut self, pdu: Pdu, advances: bool) {
        let window = u32::from(self.source.byte() & 7);
        let mut pdu = pdu
            .word(24, self.stat_sn)
            .word(28, self.exp_cmd_sn)
            .word(32, self.exp_cmd_sn.wrapping_add(window));
        self.stat_sn = self.stat_sn.wrapping_add(u32::from(advances));
        wire::damage_header(&mut self.source, &mut pdu);
        let digests = if self.conn.is_logged_in() {
            self.out.digests
        } else {
            (false, false)
        };
        let mut bytes = seal(&pdu, digests);
        if self.source.byte() == 0xff {
            let at = usize::from(self.source.half()) % bytes.len();
            bytes[at] ^= 1 << self.source.below(8);
        }
        self.feed(&bytes);
    }

    fn login(&mut self) {
        let [flags, keys] = self.source.array();
        let Some(request) = self.login.take() else {
            let pdu = Pdu::new(0x23, 0x87, 0x8000_0003).at(8, &[0x80, 1, 2, 3, 4, 5, 0, 7]);
            return self.send(pdu, true);
        };
        let digest = if keys & 3 == 3 { "CRC32C" } else { "None" };
        let mut text = format!("HeaderDigest={digest}\0DataDigest={digest}\0");
        for (bit, pair) in [
            (4, "InitialR2T=No\0ImmediateData=Yes\0"),
            (8, "MaxBurstLength=1024\0FirstBurstLength=600\0"),
            (16, "MaxRecvDataSegmentLength=512\0"),
            (32, "MaxOutstandingR2T=2\0"),
            (64, "TargetPortalGroupTag=1\0"),
        ] {
            if keys & bit != 0 {
                text.push_str(pair);
            }
        }
        // A stage at a time, or all of it.
        let stages = request.header[1] & if flags & 7 == 7 { 0x0c } else { 0x8f };
        let status = if flags & 0xf0 == 0xf0 { 2 } else { 0 };
        let pdu = Pdu::new(0x23, stages, request.itt())
            .at(8, &request.header[8..14])
            .at(14, &[0, 7])
            .at(36, &[status, flags & 15])
            .data(if flags & 8 == 0 { text.as_bytes() } else { b"" });
        self.send(pdu, true);
    }

    fn pick(&mut self) -> Option<usize> {
        let at = usize::from(self.source.byte());
        (!self.seen.is_empty()).then(|| at % self.seen.len())
    }

    fn data_in(&mut self) {
        let [flags] = self.source.array();
        let len = self.source.len();
        let Some(at) = self.pick() else { return };
        let segment_max = self.conn.parameters().max_recv_data_segment_length;
        let seen = &mut self.seen[at];
        let len = len
            .min(seen.in_len - seen.sent)
            .min(segment_max)
            .min(FILL_MAX);
        let with_status = flags & 7 == 7;
        let pdu = Pdu::new(
            op::DATA_IN,
            (flags & 0x80) | if with_status { 0x81 } else { 0 },
            seen.itt,
        )
        .at(8, &LUN.to_be_bytes())
        .word(20, RESERVED_TAG)
        .word(36, seen.data_sn)
        .word(40, seen.sent)
        .data(&vec![0xda; len as usize]);
        seen.data_sn += 1;
        seen.sent += len;
        if with_status {
            self.seen.remove(at);
        }
        self.send(pdu, with_status);
    }

    fn r2t(&mut self) {
        let len = self.source.len();
        let Some(at) = self.pick() else { return };
        let seen = &mut self.seen[at];
        let len = len.min(seen.out_len.saturating_sub(seen.asked));
        let pdu = Pdu::new(0x31, 0x80, seen.itt)
            .at(8, &LUN.to_be_bytes())
            .word(20, seen.r2t_sn | 0x100)
            .word(36, seen.r2t_sn)
            .word(40, seen.asked)
            .word(44, len);
        seen.r2t_sn += 1;
        seen.asked += len;
        self.send(pdu, false);
    }

    fn response(&mut self) {
        let [flags, status] = self.source.array();
        let Some(at) = self.pick() else { return };
        let seen = self.seen.remove(at);
        let sense = [
            0, 18, 0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0,
        ];
        let mut pdu = Pdu::new(op::RESPONSE, 0x80 | (flags & 0x1e), seen.itt)
            .at(3, &[if status & 1 == 0 { 0 } else { status }])
            .word(36, seen.data_sn + seen.r2t_sn);
        if status & 2 != 0 {
            pdu = pdu.data(&sense[..usize::from(status >> 2) % (sense.len() + 1)]);
        }
        self.send(pdu, true);
    }

    fn answer_request(&mut self) {
        let [choice, flags] = self.source.array();
        if self.requests.is_empty() {
            return;
        }
        let (tag, opcode) = self
            .requests
            .remove(usize::from(choice) % self.requests.len());
        let pdu = match opcode {
            op::NOP_OUT => Pdu::new(0x20, 0x80, tag)
                .word(20, RESERVED_TAG)
                .data(b"pong"),
            op::TASK_MANAGEMENT => Pdu::new(0x22, 0x80, tag).at(2, &[flags & 7]),
            op::TEXT => {
                let last = flags & 1 == 0;
                let ttt = if last { RESERVED_TAG } else { 9 };
                Pdu::new(0x24, if last { 0x80 } else { 0x40 }, tag)
                    .word(20, ttt)
                    .data(b"TargetName=iqn.a\0TargetAddress=198.19.0.10:3260,1\0")
            }
            _ => Pdu::new(0x26, 0x80, tag).at(2, &[flags & 3]),
        };
        self.send(pdu, true);
    }

    fn unasked(&mut self) {
        let [kind, flags] = self.source.array();
        match kind % 8 {
            0..=3 => {
                let pdu = Pdu::new(0x20, 0x80, RESERVED_TAG).word(20, u32::from(flags));
                self.send(pdu, false);
            }
            4 | 5 => {
                let sense = [0, 4, 0x70, 0, 6, 0];
                let pdu = Pdu::new(0x32, 0x80, RESERVED_TAG)
                    .at(36, &[flags & 7])
                    .data(if flags & 8 == 0 { &sense } else { &[] });
                self.send(pdu, true);
            }
            6 => {
                let pdu = Pdu::new(0x3f, 0x80, RESERVED_TAG)
                    .at(2, &[flags & 15])
                    .data(&[0; 48]);
                self.send(pdu, true);
            }
            _ => {
                let tag = u32::from(flags);
                self.send(Pdu::new(op::RESPONSE, 0x80, tag), true);
            }
        }
    }

    // What the caller does.

    fn submit(&mut self) {
        let [flags, long] = self.source.array();
        let (out_len, in_len) = (self.source.len(), self.source.len());
        let data = match flags & 3 {
            0 => Direction::None,
            1 => Direction::In(in_len),
            2 => Direction::Out(out_len),
            _ => Direction::Both { out_len, in_len },
        };
        let token = self.next_token;
        let lun = if flags & 4 == 0 { LUN } else { 0 };
        let window = self.conn.window();
        assert!(window <= usize::from(MAX_TASKS) && (window == 0 || !self.discovery));
        let submitted = self.conn.submit(Command {
            token,
            lun,
            cdb: [0; 16],
            cdb_rest: (long & 7 == 7).then_some([1; 16]),
            attribute: TaskAttribute::Simple,
            data,
        });
        assert_eq!(submitted.is_ok(), window > 0);
        if submitted.is_ok() {
            self.next_token += 1;
            let live = Live {
                out_len: data.out_len(),
                in_len: data.in_len().unwrap_or(0),
                received: 0,
            };
            self.live.insert(token, live);
        }
    }

    fn ask(&mut self) {
        let [choice, which] = self.source.array();
        match choice % 5 {
            0 => self.conn.ping(),
            1 if choice >= 250 => self.conn.logout(),
            1 => {
                let _ = self.conn.reset_lun(LUN);
            }
            2 if self.discovery => self.conn.send_targets(),
            _ => {
                let token = self
                    .live
                    .keys()
                    .nth(usize::from(which) % self.live.len().max(1));
                if let Some(&token) = token {
                    let _ = self.conn.abort_task(token);
                }
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.cut) {
            let mut used = self.take(piece);
            while used < piece.len() {
                // Answers to pings, or the data of a task that ends, must go out first.
                self.drain();
                let more = self.take(&piece[used..]);
                assert!(more > 0, "input waits for nothing");
                used += more;
            }
        }
        // The same for the last PDU, which may be whole and held.
        self.drain();
        self.take(&[]);
    }

    fn take(&mut self, input: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let (taken, event) = self.conn.receive(&input[used..]);
            used += taken;
            match event {
                Some(event) => self.hear(event),
                None if taken == 0 => return used,
                None => {}
            }
        }
    }

    fn hear(&mut self, event: InitiatorEvent<'_>) {
        assert!(!self.over, "nothing after the end: {event:?}");
        if let InitiatorEvent::DataIn {
            token,
            offset,
            bytes,
        } = event
        {
            let live = self.live.get_mut(&token).expect("data of a live command");
            assert_eq!(offset, live.received, "in order, once");
            live.received += u32::try_from(bytes.len()).expect("a segment");
            assert!(
                live.received <= live.in_len,
                "no more than there is room for"
            );
            return;
        }
        assert!(self.conn.sense().len() <= 96);
        self.heard.push(format!("{event:?}"));
        match event {
            InitiatorEvent::DataIn { .. } => unreachable!("above"),
            InitiatorEvent::LoggedIn => {
                let parameters = self.conn.parameters();
                self.out.digests = (parameters.header_digest, parameters.data_digest);
                assert!(parameters.first_burst_length <= parameters.max_burst_length);
            }
            InitiatorEvent::Response { token, .. } => {
                self.live.remove(&token).expect("one response");
            }
            // After a reset some get no response any more; which, only the connection knows.
            InitiatorEvent::TaskManagementResponse { token, .. } => {
                if let Some(token) = token {
                    self.live.remove(&token).expect("it was outstanding");
                }
            }
            InitiatorEvent::Async { .. } | InitiatorEvent::Pong => {}
            InitiatorEvent::SendTargets => {
                assert!(
                    self.conn
                        .targets()
                        .all(|(_, address)| address.len() < 1 << 18)
                );
            }
            InitiatorEvent::LoginFailed(_)
            | InitiatorEvent::LoggedOut { .. }
            | InitiatorEvent::Violation(_) => self.over = true,
        }
    }

    fn transmit(&mut self, len: usize) -> usize {
        let mut out = vec![0; len];
        let live = &self.live;
        let written = self.conn.transmit(&mut out, |token, offset, slot| {
            let live = live
                .get(&token)
                .expect("no data is asked for after the response");
            assert!(offset as usize + slot.len() <= live.out_len as usize);
            slot.fill(0xab);
        });
        self.out.push(&out[..written]);
        self.read_sent();
        written
    }

    fn drain(&mut self) {
        while self.transmit(OUT_LEN) > 0 {}
    }

    /// What a sound target makes of the requests.
    fn read_sent(&mut self) {
        while let Some(pdu) = self.out.next() {
            let immediate = pdu.header[0] & op::IMMEDIATE != 0;
            let parameters = self.conn.parameters();
            let segment_max = parameters.peer_max_recv_data_segment_length;
            assert!(
                pdu.data.len() <= segment_max.max(8192) as usize,
                "{pdu:02x?}"
            );
            match pdu.opcode() {
                op::LOGIN => {
                    self.exp_cmd_sn = word(&pdu, 24);
                    self.login = Some(pdu);
                    continue;
                }
                op::DATA_OUT => continue,
                op::COMMAND => {
                    let len = word(&pdu, 20);
                    let (reads, writes) = (pdu.header[1] & 0x40 != 0, pdu.header[1] & 0x20 != 0);
                    // The last four bytes of the last additional header segment.
                    let second = pdu
                        .ahs
                        .last_chunk()
                        .map_or(0, |len| u32::from_be_bytes(*len));
                    self.seen.push(Seen {
                        itt: pdu.itt(),
                        out_len: if writes { len } else { 0 },
                        in_len: match (reads, writes) {
                            (true, false) => len,
                            (true, true) => second,
                            _ => 0,
                        },
                        data_sn: 0,
                        sent: 0,
                        r2t_sn: 0,
                        asked: u32::try_from(pdu.data.len()).expect("a segment"),
                    });
                }
                op::NOP_OUT if pdu.itt() == RESERVED_TAG => continue,
                opcode @ (op::NOP_OUT | op::TASK_MANAGEMENT | op::TEXT | op::LOGOUT) => {
                    self.requests.push((pdu.itt(), opcode));
                }
                opcode => panic!("no initiator sends opcode {opcode:#x}"),
            }
            assert_eq!(word(&pdu, 24), self.exp_cmd_sn, "CmdSN in order");
            self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(u32::from(!immediate));
        }
    }
}

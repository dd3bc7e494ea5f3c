//! The stream of one connection into the target side, from an initiator that
//! logs in as it should and then sends what the input says: sound PDUs, damaged
//! ones and plain bytes, while the caller answers early, late or not at all.
//!
//! Each input runs twice, its stream cut differently: the caller must hear the
//! same both times.

use std::collections::BTreeMap;

use sluice_proto::iscsi::chap::{Algorithms, Challenges, ChapDemand, Demand};
use sluice_proto::iscsi::{
    DigestPolicy, Offers, SendTargetsScope, TargetConfig, TargetConn, TargetEvent,
    TaskFunctionResponse, TaskId,
};
use sluice_proto::scsi::{ScsiStatus, Sense};
use sluice_sim::site::{Pdu, op};

use crate::source::Source;
use crate::wire::{self, Framer, RESERVED_TAG, after, seal, word};

const LUN: u64 = 1 << 48;
/// Longest data segment that is made up rather than taken from the input.
const FILL_MAX: u32 = 70_000;
/// Pings go no further: what the caller hears is compared, not timed.
const OUT_LEN: usize = 4096;

pub fn run(input: &[u8]) {
    let cut = 1 + usize::from(input.first().copied().unwrap_or(0));
    let whole = Initiator::new(input, usize::MAX).run();
    let pieces = Initiator::new(input, cut).run();
    assert_eq!(whole, pieces, "the same stream, in pieces of {cut} bytes");
}

/// A command that the caller has not answered yet.
#[derive(Debug)]
struct Live {
    writes: bool,
    expected_len: u32,
    read_len: u32,
    received: u32,
    data_in: u32,
    complete: bool,
}

#[derive(Debug)]
struct R2t {
    itt: u32,
    ttt: u32,
    offset: u32,
    len: u32,
    data_sn: u32,
}

/// Both ends: the peer's program, and the caller of the code under test.
struct Initiator<'a> {
    source: Source<'a>,
    cut: usize,
    conn: TargetConn,
    slots: usize,
    out: Framer,
    heard: Vec<String>,
    live: BTreeMap<TaskId, Live>,
    functions: Vec<u32>,
    /// Read data handed over: how many bytes each token has.
    tokens: BTreeMap<u64, u32>,
    next_token: u64,
    authenticates: bool,
    asked_for_targets: bool,
    /// The caller grants as soon as a write comes.
    grants: bool,
    over: bool,
    cmd_sn: u32,
    itt: u32,
    stat_sn: Option<u32>,
    max_cmd_sn: Option<u32>,
    r2ts: Vec<R2t>,
    /// A write that goes on without being asked: (tag, bytes sent, next DataSN).
    unsolicited: Option<(u32, u32, u32)>,
}

impl<'a> Initiator<'a> {
    fn new(input: &'a [u8], cut: usize) -> Self {
        let mut source = Source::new(input);
        // The first byte is the cut.
        let [_, digests, sizes] = source.array();
        let policy = |bits: u8| match bits & 3 {
            0 => DigestPolicy::Never,
            1 => DigestPolicy::Allowed,
            2 => DigestPolicy::Preferred,
            _ => DigestPolicy::Required,
        };
        let mut offers = Offers::lan();
        offers.header_digest = policy(digests);
        offers.data_digest = policy(digests >> 2);
        offers.initial_r2t = sizes & 1 != 0;
        offers.immediate_data = sizes & 2 == 0;
        if sizes & 4 != 0 {
            offers.max_recv_data_segment_length = 512;
            offers.max_burst_length = 1024;
            offers.first_burst_length = 600;
            offers.max_outstanding_r2t = 3;
        }
        let config = TargetConfig {
            offers,
            max_tasks: 1 + u16::from(sizes >> 5),
            max_data_items: 4,
            target_portal_group_tag: 1,
            authenticates: sizes & 8 != 0,
        };
        Self {
            source,
            cut,
            conn: TargetConn::new(config),
            slots: config.slots(),
            out: Framer::default(),
            heard: Vec::new(),
            live: BTreeMap::new(),
            functions: Vec::new(),
            tokens: BTreeMap::new(),
            next_token: 0,
            authenticates: config.authenticates,
            asked_for_targets: false,
            grants: sizes & 16 != 0,
            over: false,
            cmd_sn: 1,
            itt: 0,
            stat_sn: None,
            max_cmd_sn: None,
            r2ts: Vec::new(),
            unsolicited: None,
        }
    }

    fn run(mut self) -> Vec<String> {
        while !self.source.is_empty() {
            match self.source.below(16) {
                0 => {
                    let len = usize::from(self.source.byte());
                    let bytes = self.source.bytes(len);
                    self.feed(bytes);
                }
                1 => self.login(),
                2..=5 => self.command(),
                6 | 7 => self.data_out(),
                8 => self.other_pdu(),
                9..=12 => self.answer(),
                13 => self.unasked(),
                14 => {
                    let len = usize::from(self.source.byte());
                    self.transmit(len);
                }
                _ => self.drain(),
            }
        }
        self.end()
    }

    // What the peer sends.

    fn send(&mut self, mut pdu: Pdu) {
        wire::damage_header(&mut self.source, &mut pdu);
        let digests = if self.conn.is_logged_in() {
            let parameters = self.conn.parameters();
            (parameters.header_digest, parameters.data_digest)
        } else {
            (false, false)
        };
        let mut bytes = seal(&pdu, digests);
        // One bit of it, digests included.
        if self.source.byte() == 0xff {
            let at = usize::from(self.source.half()) % bytes.len();
            bytes[at] ^= 1 << self.source.below(8);
        }
        self.feed(&bytes);
    }

    fn fresh_tag(&mut self) -> u32 {
        self.itt = self.itt.wrapping_add(1);
        self.itt
    }

    fn login(&mut self) {
        let [flags, keys] = self.source.array();
        let target = if flags & 1 == 0 {
            "SessionType=Normal\0TargetName=iqn.2004-03.example.storage:vol0\0"
        } else {
            "SessionType=Discovery\0"
        };
        let digest =
            |bits: u8| ["None", "CRC32C", "CRC32C,None", "None,CRC32C"][usize::from(bits & 3)];
        let text = format!(
            "InitiatorName=iqn.2004-03.example.computer:a\0{target}HeaderDigest={}\0DataDigest={}\0\
             InitialR2T={}\0ImmediateData=Yes\0MaxRecvDataSegmentLength={}\0",
            digest(keys),
            digest(keys >> 2),
            if keys & 16 == 0 { "Yes" } else { "No" },
            if keys & 32 == 0 { 8192 } else { 512 },
        );
        let stages = if flags & 2 == 0 { 0x87 } else { 0x81 };
        let pdu = Pdu::new(op::LOGIN | op::IMMEDIATE, stages, 0)
            .at(8, &[0x80, 0, 0, 0, 0, 1])
            .word(24, self.cmd_sn)
            .data(text.as_bytes());
        self.send(pdu);
    }

    /// Bytes of a data segment: the same at each place, so that they need not be kept.
    fn fill(len: u32) -> Vec<u8> {
        vec![0xda; len.min(FILL_MAX) as usize]
    }

    fn command(&mut self) {
        let [flags, opcode] = self.source.array();
        let (expected_len, immediate_len) = (self.source.len(), self.source.len());
        let itt = match self.source.byte() {
            // A tag again, or the one that no task may have.
            0xfe => self.itt,
            0xff => RESERVED_TAG,
            _ => self.fresh_tag(),
        };
        let immediate = flags & 8 != 0;
        let mut pdu = Pdu::new(
            op::COMMAND | if immediate { op::IMMEDIATE } else { 0 },
            flags & 0xe7,
            itt,
        )
        .at(8, &LUN.to_be_bytes())
        .word(20, expected_len)
        .word(24, self.cmd_sn)
        .at(32, &[opcode]);
        if opcode & 0xf0 == 0xf0 {
            let segments: [u8; 24] = self.source.array();
            pdu = pdu.ahs(&segments[..4 * (1 + self.source.below(6))]);
        }
        if immediate_len > 0 && opcode & 1 == 0 {
            pdu = pdu.data(&Self::fill(immediate_len.min(expected_len)));
        }
        if flags & 0xa0 == 0x20 {
            let sent = u32::try_from(pdu.data.len()).expect("a segment");
            self.unsolicited = Some((itt, sent, 0));
        }
        self.cmd_sn = self.cmd_sn.wrapping_add(u32::from(!immediate));
        self.send(pdu);
    }

    /// What an R2T asked for, whole or in parts; or data that nobody asked for.
    fn data_out(&mut self) {
        let flags = self.source.byte();
        if let Some((itt, offset, data_sn)) = self.unsolicited
            && flags & 0x10 == 0
        {
            let len = self.source.len().min(FILL_MAX);
            let is_final = flags & 0x20;
            let pdu = Pdu::new(op::DATA_OUT, is_final << 2, itt)
                .word(20, RESERVED_TAG)
                .word(36, data_sn)
                .word(40, offset)
                .data(&Self::fill(len));
            self.unsolicited = (is_final == 0).then_some((itt, offset + len, data_sn + 1));
            return self.send(pdu);
        }
        if self.r2ts.is_empty() || flags & 0xc0 == 0xc0 {
            let pdu = Pdu::new(op::DATA_OUT, flags & 0x80, self.itt)
                .word(20, RESERVED_TAG)
                .word(36, self.source.len())
                .word(40, self.source.len())
                .data(&Self::fill(u32::from(flags)));
            return self.send(pdu);
        }
        let at = usize::from(flags & 7) % self.r2ts.len();
        let part = if flags & 8 == 0 {
            u32::MAX
        } else {
            self.source.len().max(1)
        };
        let segment_max = self.conn.parameters().max_recv_data_segment_length;
        let r2t = &mut self.r2ts[at];
        let len = r2t.len.min(part).min(segment_max).min(FILL_MAX);
        let is_final = len == r2t.len;
        let pdu = Pdu::new(op::DATA_OUT, if is_final { 0x80 } else { 0 }, r2t.itt)
            .at(8, &LUN.to_be_bytes())
            .word(20, r2t.ttt)
            .word(36, r2t.data_sn)
            .word(40, r2t.offset)
            .data(&Self::fill(len));
        r2t.data_sn += 1;
        r2t.offset += len;
        r2t.len -= len;
        if is_final {
            self.r2ts.remove(at);
        }
        self.send(pdu);
    }

    fn other_pdu(&mut self) {
        let [kind, flags] = self.source.array();
        let immediate = if flags & 1 == 0 { op::IMMEDIATE } else { 0 };
        let tag = self.fresh_tag();
        let mut pdu = match kind % 6 {
            0 => {
                let answers = flags & 2 != 0;
                let (itt, ttt) = if answers {
                    (RESERVED_TAG, 1)
                } else {
                    (tag, RESERVED_TAG)
                };
                let data = Self::fill(u32::from(flags >> 2));
                Pdu::new(op::NOP_OUT, 0x80, itt).word(20, ttt).data(&data)
            }
            1 | 2 => {
                let function = 0x80 | flags >> 1 & 0xf;
                let referenced = tag.wrapping_sub(u32::from(flags >> 5));
                Pdu::new(op::TASK_MANAGEMENT, function, tag)
                    .at(8, &LUN.to_be_bytes())
                    .word(20, referenced)
            }
            3 => {
                let text = [
                    "SendTargets=All\0",
                    "SendTargets=\0",
                    "MaxBurstLength=512\0",
                    "",
                ][usize::from(flags >> 1 & 3)];
                let ttt = if flags & 8 == 0 {
                    RESERVED_TAG
                } else {
                    self.source.word()
                };
                let bits = if flags & 16 == 0 { 0x80 } else { 0x40 };
                Pdu::new(op::TEXT, bits, tag)
                    .word(20, ttt)
                    .data(text.as_bytes())
            }
            4 => Pdu::new(op::LOGOUT, 0x80 | flags >> 1 & 3, tag),
            // SNACK: a status or data again.
            _ => Pdu::new(0x10, 0x80 | flags >> 1 & 0xf, tag),
        };
        pdu.header[0] |= immediate;
        let pdu = pdu.word(24, self.cmd_sn);
        self.cmd_sn = self.cmd_sn.wrapping_add(u32::from(immediate == 0));
        self.send(pdu);
    }

    // What the caller does.

    fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.cut) {
            let mut used = self.take(piece);
            while used < piece.len() {
                // Earlier answers must go out first.
                self.drain();
                let more = self.take(&piece[used..]);
                assert!(more > 0, "input waits for nothing");
                used += more;
            }
        }
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

    fn hear(&mut self, event: TargetEvent<'_>) {
        assert!(!self.over, "nothing after the end: {event:?}");
        if let TargetEvent::Data {
            task,
            offset,
            bytes,
        } = event
        {
            let live = self.live.get_mut(&task).expect("data of a live command");
            assert!(live.writes && !live.complete && !bytes.is_empty());
            assert_eq!(offset, live.received, "in order, once");
            live.received += u32::try_from(bytes.len()).expect("a segment");
            assert!(live.received <= live.expected_len, "no more than announced");
            return;
        }
        self.heard.push(format!("{event:?}"));
        match event {
            TargetEvent::Data { .. } => unreachable!("above"),
            TargetEvent::Authenticate => {
                assert!(self.authenticates);
                self.authenticates = false;
                let demand = if self.conn.login_request().isid[5] & 1 == 1 {
                    Demand::Nothing
                } else {
                    Demand::Chap(ChapDemand {
                        algorithms: Algorithms::default(),
                        challenge: Challenges::new([3; 32]).draw(),
                        initiator: None,
                        target: None,
                    })
                };
                if let Some(event) = self.conn.authenticate(demand) {
                    // Its life is the connection's, not the input's.
                    self.hear(event);
                }
            }
            TargetEvent::Login => {
                assert!(!self.conn.login_request().initiator_name.is_empty());
                if self.conn.login_request().tsih == 0 {
                    self.conn.accept_login(7);
                } else {
                    self.conn.reject_login(2, 0x0a);
                }
            }
            TargetEvent::LoggedIn | TargetEvent::Pong => {}
            TargetEvent::Command(command) => {
                assert!(usize::from(command.task.0) < self.slots);
                let _ = self.conn.extended_cdb();
                let read_len = match (command.write, command.read) {
                    (true, _) => command.bidirectional_read_len,
                    (false, true) => command.expected_len,
                    (false, false) => 0,
                };
                let live = Live {
                    writes: command.write,
                    expected_len: command.expected_len,
                    read_len,
                    received: 0,
                    data_in: 0,
                    complete: false,
                };
                let before = self.live.insert(command.task, live);
                assert!(before.is_none(), "a task number in use: {:?}", command.task);
                if command.write && self.grants {
                    self.conn.grant(command.task);
                }
            }
            TargetEvent::WriteComplete { task } => {
                let live = self.live.get_mut(&task).expect("a live command");
                assert!(live.writes && !live.complete);
                assert_eq!(live.received, live.expected_len, "all of it");
                live.complete = true;
            }
            TargetEvent::DataFault { task } => {
                let live = self.live.get_mut(&task).expect("a live command");
                assert!(live.writes && !live.complete);
                live.complete = true;
            }
            TargetEvent::TaskManagement { tag, ref_task, .. } => {
                assert!(ref_task.is_none_or(|task| self.live.contains_key(&task)));
                assert!(!self.functions.contains(&tag));
                self.functions.push(tag);
            }
            TargetEvent::SendTargets => {
                let name = match self.conn.send_targets_scope() {
                    SendTargetsScope::All | SendTargetsScope::Session => "iqn.2004-03.example:a",
                    SendTargetsScope::Named(name) => &name.clone(),
                };
                let address = "198.18.0.1:3260".parse().expect("an address");
                self.conn
                    .send_targets(std::iter::repeat_n((name, address, 1), 300));
                self.asked_for_targets = true;
            }
            TargetEvent::Logout { .. } | TargetEvent::Violation(_) => self.over = true,
        }
    }

    /// Answers one command or function, or moves some of its data.
    fn answer(&mut self) {
        let [choice, how] = self.source.array();
        if choice & 0xf0 == 0xf0 && !self.functions.is_empty() {
            let tag = self.functions.remove(0);
            let response = TaskFunctionResponse::Complete;
            return self.conn.answer_task_management(tag, response);
        }
        let Some(&task) = self
            .live
            .keys()
            .nth(usize::from(choice) % self.live.len().max(1))
        else {
            return;
        };
        match how % 8 {
            0 => {
                self.conn.abort(task);
                self.live.remove(&task);
            }
            1 => {
                let status = ScsiStatus::CHECK_CONDITION;
                let sense = Sense::WRITE_ERROR.fixed();
                self.conn.respond(task, status, &sense, 0);
                self.live.remove(&task);
            }
            2..=4 => self.read_data(task, u32::from(how >> 3) * 700),
            5 => self.conn.grant(task),
            _ => {
                let transferred = self.source.len();
                self.conn.respond(task, ScsiStatus::GOOD, &[], transferred);
                self.live.remove(&task);
            }
        }
    }

    fn read_data(&mut self, task: TaskId, len: u32) {
        let live = self.live.get_mut(&task).expect("chosen among them");
        let len = len.min(live.read_len - live.data_in);
        let token = self.next_token;
        let room = self.conn.data_in_room();
        let given = self.conn.data_in(task, token, 5, live.data_in, len);
        assert_eq!(given.is_ok(), room > 0);
        if given.is_ok() {
            live.data_in += len;
            self.tokens.insert(token, len);
            self.next_token += 1;
        }
    }

    fn unasked(&mut self) {
        match self.source.byte() {
            0..=127 => self.conn.ping(),
            at @ 128..=250 => self.conn.set_command_window(u16::from(at & 7)),
            251..=253 => self.conn.request_logout(3),
            _ => {
                self.conn.close();
                self.over = true;
            }
        }
    }

    fn transmit(&mut self, len: usize) -> usize {
        let mut out = vec![0; len];
        let tokens = &self.tokens;
        let written = self.conn.transmit(&mut out, |token, offset, slot| {
            let len = tokens.get(&token).expect("not given back yet");
            let end = offset as usize + slot.len();
            assert!(offset >= 5 && end <= 5 + *len as usize, "within its token");
            slot.fill(0xab);
        });
        self.out.push(&out[..written]);
        while let Some(token) = self.conn.next_released() {
            assert!(self.tokens.remove(&token).is_some(), "given back once");
        }
        self.read_sent();
        written
    }

    fn drain(&mut self) {
        while self.transmit(OUT_LEN) > 0 {}
        assert!(!self.conn.has_output(), "nothing comes of what is due");
    }

    /// What a sound initiator makes of the answers.
    fn read_sent(&mut self) {
        while let Some(pdu) = self.out.next() {
            let opcode = pdu.opcode();
            let segment_max = self.conn.parameters().peer_max_recv_data_segment_length;
            assert!(
                pdu.data.len() <= segment_max.max(8192) as usize,
                "{pdu:02x?}"
            );
            let counted = match opcode {
                // Ends the login when its stages do so: digests follow.
                0x23 => {
                    if pdu.header[36] == 0 && pdu.header[1] & 0x83 == 0x83 {
                        let parameters = self.conn.parameters();
                        self.out.digests = (parameters.header_digest, parameters.data_digest);
                    }
                    true
                }
                0x20 => pdu.itt() != RESERVED_TAG,
                0x25 => pdu.header[1] & 1 != 0,
                0x31 => {
                    self.r2ts.push(R2t {
                        itt: pdu.itt(),
                        ttt: word(&pdu, 20),
                        offset: word(&pdu, 40),
                        len: word(&pdu, 44),
                        data_sn: 0,
                    });
                    false
                }
                0x21 | 0x22 | 0x24 | 0x26 | 0x32 | 0x3f => true,
                _ => panic!("no target sends opcode {opcode:#x}"),
            };
            // A Data-In PDU without status has no StatSN, 0.
            if opcode == 0x25 && !counted {
                continue;
            }
            let stat_sn = word(&pdu, 24);
            let due = self
                .stat_sn
                .replace(stat_sn.wrapping_add(u32::from(counted)));
            assert!(
                due.is_none_or(|due| due == stat_sn),
                "StatSN goes up by one"
            );
            let max_cmd_sn = word(&pdu, 32);
            let before = self.max_cmd_sn.replace(max_cmd_sn);
            assert!(
                before.is_none_or(|before| !after(before, max_cmd_sn)),
                "MaxCmdSN never goes back"
            );
        }
    }

    /// Nothing is left when all is answered and the stream has ended.
    fn end(mut self) -> Vec<String> {
        self.drain();
        for tag in std::mem::take(&mut self.functions) {
            let response = TaskFunctionResponse::Rejected;
            self.conn.answer_task_management(tag, response);
        }
        for task in std::mem::take(&mut self.live).into_keys() {
            self.conn.respond(task, ScsiStatus::BUSY, &[], 0);
        }
        self.drain();
        self.conn.close();
        self.drain();
        assert!(self.tokens.is_empty(), "all read data was given back");
        assert!(self.out.is_empty(), "the stream ends between PDUs");
        assert!(self.conn.is_finished());
        self.heard
    }
}

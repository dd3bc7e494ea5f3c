//! Whole sessions into the whole worker, in the simulator's site: a computer
//! that logs in as it should and then does what the input says, with its PDUs
//! and its connections, to a storage that is not always well either.
//!
//! A bystander on another target is served all the time and reads what it
//! wrote; what is in use stays within its bounds; and when the computer has
//! gone, nothing of it is left.

use std::collections::VecDeque;
use std::time::Duration;

use sluice_dataplane::worker::Usage;
use sluice_proto::scsi::Sense;
use sluice_sim::site::{BLOCKS, ELSEWHERE, Pdu, Session, Site, Size, TARGETS, op};
use sluice_sim::storage::{LUN, Storage};

use crate::source::Source;
use crate::wire::{self, Digests, Framer, RESERVED_TAG, seal, word};

const GOOD: u8 = 0;
/// Bytes of a block of the site's volumes.
const BLOCK: u32 = 512;
/// The hostile computer, and the bystander's.
const HOSTILE: usize = 0;
const BYSTANDER: usize = 1;
const SIZE: Size = Size {
    sessions_max: 6,
    pool_pages: 256,
    log_len: 16 * 1024 * 1024,
    apart: true,
    portal: true,
    ..Size::SMALL
};
/// The staging pages that every site has, and commands a session may have.
const STAGING_PAGES: usize = 96;
const TASKS_MAX: usize = SIZE.sessions_max * 140;
/// Connections of the hostile computer at a time.
const PEERS_MAX: usize = 5;
/// Bytes that wait for a connection which takes none.
const UNSENT_MAX: usize = 256 * 1024;
/// Steps of a program; more would only be slower.
const STEPS_MAX: usize = 60;
/// A session says something before it is asked for a sign of life.
const TALK: Duration = Duration::from_secs(3);
/// All traces of a vanished computer go within so many times of it: logins that
/// do not end, data that does not come, aborts at the storage, the flush.
const LEAVING: u32 = 20;

pub fn run(input: &[u8]) {
    let mut play = Play::new(Source::new(input));
    for step in 0..STEPS_MAX {
        if play.source.is_empty() {
            break;
        }
        play.step();
        play.is_bounded();
        if step % 4 == 3 {
            play.bystander_is_served();
        }
    }
    play.leaves_nothing();
}

/// A connection of the hostile computer.
struct Peer {
    session: Session,
    digests: Digests,
    unsent: VecDeque<u8>,
    framer: Framer,
    /// (tag, transfer tag, offset, length) of R2Ts.
    r2ts: Vec<(u32, u32, u32, u32)>,
}

struct Play<'a> {
    source: Source<'a>,
    site: Site,
    peers: Vec<Peer>,
    bystander: Session,
    writes: u32,
    /// A PERSISTENT RESERVE OUT was sent: who may be registered keeps its nexus, since
    /// its computer must find the registration under the same ISID.
    registers: bool,
}

impl<'a> Play<'a> {
    fn new(source: Source<'a>) -> Self {
        let mut site = Site::of(SIZE, |_| ());
        let gateway = std::net::Ipv4Addr::new(198, 19, 0, 1);
        let mut elsewhere = Storage::new(ELSEWHERE, gateway, BLOCKS, 5);
        elsewhere.latency_max = Duration::from_micros(100);
        site.elsewhere = Some(elsewhere);
        let bystander = site.login(BYSTANDER, 1, 1);
        let mut play = Self {
            source,
            site,
            peers: Vec::new(),
            bystander,
            writes: 0,
            registers: false,
        };
        play.bystander_is_served();
        play
    }

    fn step(&mut self) {
        match self.source.below(16) {
            0 | 1 => self.login(),
            2..=6 => self.command(),
            7 | 8 => self.data_out(),
            9 => self.other_pdu(),
            10 => {
                let len = usize::from(self.source.byte());
                let bytes = self.source.bytes(len).to_vec();
                self.send_bytes(&bytes);
            }
            11 | 12 => self.time(),
            13 => self.storage(),
            14 => self.connection(),
            _ => self.read_answers(),
        }
        self.site.run(Duration::from_micros(500));
    }

    // The bystander, and what must hold.

    fn bystander_is_served(&mut self) {
        self.writes += 1;
        let lba = u64::from(self.writes % 50);
        let written = self.site.write(&mut self.bystander, lba, self.writes);
        assert_eq!(written, Some(GOOD), "the bystander's write");
        let read = self.site.read(&mut self.bystander, lba);
        assert_eq!(read, Some((GOOD, Some(self.writes))), "what it wrote");
    }

    fn is_bounded(&self) {
        let usage = self.site.usage();
        let bounded = usage.sessions <= SIZE.sessions_max
            && usage.nexuses <= 2 * SIZE.sessions_max
            && usage.tasks <= TASKS_MAX
            && usage.wan_tasks <= 2 * TASKS_MAX
            && usage.staging_pages <= STAGING_PAGES
            && usage.held <= usage.tasks;
        assert!(bounded, "{usage:?}");
    }

    fn leaves_nothing(mut self) {
        let storage = &mut self.site.storage;
        (storage.hangs, storage.deaf, storage.busy_percent) = (false, false, 0);
        for peer in self.peers.drain(..) {
            self.site.abort(&peer.session);
        }
        let registers = self.registers;
        let gone = |usage: &Usage| {
            let left = (
                usage.tasks,
                usage.wan_tasks,
                usage.staging_pages,
                usage.held,
            );
            usage.sessions == 1 && (usage.nexuses == 1 || registers) && left == (0, 0, 0, 0)
        };
        for _ in 0..LEAVING {
            // The bystander's own writes are flushed in its silence.
            self.site.run(TALK);
            if gone(&self.site.usage()) {
                break;
            }
            self.bystander_is_served();
        }
        let usage = self.site.usage();
        assert!(gone(&usage), "left behind: {usage:?}");
        self.bystander_is_served();
        let pool = self.site.worker.pool.stats();
        let whole = pool.pages_free + pool.pages_leased + pool.pages_divided;
        assert_eq!(
            whole + pool.page_frames_in_use,
            pool.pages,
            "every page is somewhere: {pool:?}"
        );
    }

    // What the hostile computer does.

    fn peer(&mut self) -> Option<usize> {
        let at = usize::from(self.source.byte());
        (!self.peers.is_empty()).then(|| at % self.peers.len())
    }

    fn login(&mut self) {
        let [how, isid, keys] = self.source.array();
        if self.peers.len() == PEERS_MAX {
            let oldest = self.peers.remove(0);
            self.site.abort(&oldest.session);
        }
        let session = self.site.connect(HOSTILE);
        let mut peer = Peer {
            session,
            digests: (false, false),
            unsent: VecDeque::new(),
            framer: Framer::default(),
            r2ts: Vec::new(),
        };
        let target = TARGETS[usize::from(how & 0xf == 0xf)];
        let session_type = match how >> 4 {
            0xf => "SessionType=Discovery\0".to_owned(),
            _ => format!("SessionType=Normal\0TargetName={target}\0"),
        };
        let digest = |bits: u8| if bits & 3 == 3 { "CRC32C" } else { "None" };
        let yes = |bit: u8| if keys & bit == 0 { "Yes" } else { "No" };
        let text = format!(
            "InitiatorName=iqn.2004-03.example.sim:computer0\0{session_type}HeaderDigest={}\0\
             DataDigest={}\0InitialR2T={}\0ImmediateData={}\0MaxRecvDataSegmentLength={}\0",
            digest(keys),
            digest(keys >> 2),
            yes(16),
            yes(32),
            if keys & 64 == 0 { 262_144 } else { 512 },
        );
        let pdu = Pdu::new(op::LOGIN | op::IMMEDIATE, 0x87, 0)
            .at(8, &[0x80, 0, 0, 0])
            .at(12, &[0, isid & 3])
            .word(24, 1)
            .data(text.as_bytes());
        if keys & 0x80 == 0 {
            peer.digests = (keys & 3 == 3, keys >> 2 & 3 == 3);
        }
        let mut pdu = pdu;
        wire::damage_header(&mut self.source, &mut pdu);
        peer.unsent.extend(seal(&pdu, (false, false)));
        self.peers.push(peer);
        let last = self.peers.len() - 1;
        self.push_unsent(last);
        self.site.run(Duration::from_millis(10));
        self.read_peer(last);
    }

    fn send(&mut self, at: usize, mut pdu: Pdu) {
        wire::damage_header(&mut self.source, &mut pdu);
        self.registers |= pdu.opcode() == op::COMMAND && pdu.header[32] == 0x5f;
        let peer = &mut self.peers[at];
        peer.unsent.extend(seal(&pdu, peer.digests));
        self.push_unsent(at);
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        let Some(at) = self.peer() else { return };
        self.peers[at].unsent.extend(bytes);
        self.push_unsent(at);
    }

    fn push_unsent(&mut self, at: usize) {
        let Self { site, peers, .. } = self;
        let peer = &mut peers[at];
        for _ in 0..8 {
            let sent = site.offer(&peer.session, peer.unsent.make_contiguous());
            peer.unsent.drain(..sent);
            if peer.unsent.is_empty() {
                break;
            }
            site.run(Duration::from_micros(300));
        }
        peer.unsent.truncate(UNSENT_MAX);
    }

    fn command(&mut self) {
        let Some(at) = self.peer() else { return };
        let [which, flags, place] = self.source.array();
        let lba = match place {
            0..=199 => u64::from(place) * 5,
            200..=219 => BLOCKS as u64 - u64::from(place & 7),
            220..=229 => u64::from(u32::MAX) - u64::from(place & 3),
            230..=239 => 1 << (place & 63),
            _ => u64::MAX - u64::from(place & 3),
        };
        let blocks = match self.source.byte() {
            few @ 0..=127 => u32::from(few & 15),
            some @ 128..=191 => u32::from(some & 127) * 2,
            192..=230 => 128,
            many @ 231..=250 => u32::from(many) * 8,
            _ => u32::MAX,
        };
        let command = self.cdb(which, lba, blocks);
        let expected_len = match self.source.byte() {
            0..=220 => command.len,
            221..=235 => command.len / 2,
            _ => self.source.len(),
        };
        // Longer writes are asked for by R2T, or never sent.
        let data_len = match flags & 3 {
            0 | 1 => expected_len.min(65_536),
            2 => 0,
            _ => self.source.len().min(65_536),
        };
        let [tag, attribute] = self.source.array();
        let peer = &mut self.peers[at];
        let session = &mut peer.session;
        let bits = if command.writes {
            0x20
        } else if expected_len > 0 {
            0x40
        } else {
            0
        };
        let mut bits = bits | 0x80 | if attribute >= 0xc0 { attribute & 7 } else { 1 };
        if flags & 0xe0 == 0xe0 {
            bits ^= 0x60;
        }
        let lun = if flags & 0x1c == 0x1c {
            u64::from(tag) << 48
        } else {
            LUN
        };
        let mut pdu = Site::command_to(lun, session, 0, expected_len, &command.cdb[..16]);
        pdu.header[1] = bits;
        if command.cdb.len() > 16 {
            // Extended CDB (RFC 7143 11.2.2.3).
            let mut segment = vec![0, 17, 1, 0];
            segment.extend_from_slice(&command.cdb[16..]);
            pdu = pdu.ahs(&segment);
        }
        if tag >= 0xf8 {
            // An immediate one: its number is not its own.
            pdu.header[0] |= op::IMMEDIATE;
            session.cmd_sn -= 1;
        }
        if command.writes && data_len > 0 {
            pdu = pdu.data(&command.parameters(data_len));
        }
        self.send(at, pdu);
    }

    /// What moves blocks, what changes them otherwise, and what asks.
    fn cdb(&mut self, which: u8, lba: u64, blocks: u32) -> Made {
        let (lba_10, blocks_16) = (lba.to_be_bytes(), blocks.to_be_bytes());
        let bytes = blocks.saturating_mul(BLOCK);
        let flags = if which & 0x80 == 0 {
            0
        } else {
            self.source.byte()
        };
        let ten = |code: u8| {
            let mut cdb = vec![code, flags, 0, 0, 0, 0, 0, 0, 0, 0];
            cdb[2..6].copy_from_slice(&lba_10[4..]);
            cdb[7..9].copy_from_slice(&blocks_16[2..]);
            cdb
        };
        let sixteen = |code: u8| {
            let mut cdb = vec![code, flags];
            cdb.extend_from_slice(&lba_10);
            cdb.extend_from_slice(&blocks_16);
            cdb
        };
        let (cdb, writes, len) = match which & 0x1f {
            0..=3 => (sixteen(0x8a), true, bytes),
            4 | 5 => (sixteen(0x88), false, bytes),
            6 => (ten(0x2a), true, (blocks & 0xffff) * BLOCK),
            7 => (ten(0x28), false, (blocks & 0xffff) * BLOCK),
            8 => (sixteen(0x91), false, 0),
            9 => (ten(0x35), false, 0),
            10 => (sixteen(0x93), true, BLOCK),
            11 => (ten(0x2e), true, (blocks & 0xffff) * BLOCK),
            12 => (sixteen(0x89), true, 2 * BLOCK),
            13 => (vec![0x42, flags, 0, 0, 0, 0, 0, 0, 24], true, 24),
            14 => (vec![0x5e, flags & 3, 0, 0, 0, 0, 0, 0, 64], false, 64),
            15 => (
                vec![0x5f, flags & 7, flags >> 4, 0, 0, 0, 0, 0, 24],
                true,
                24,
            ),
            16 => (vec![0x16], false, 0),
            17 => (vec![0x17], false, 0),
            18 => (vec![0x12, flags & 1, flags, 0, 64], false, 64),
            19 => (vec![0x1a, 0, 8 | flags & 0xc0, 0, 64], false, 64),
            20 => (vec![0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64], false, 64),
            21 => (
                vec![0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32],
                false,
                32,
            ),
            22 => (vec![0], false, 0),
            23 => (ten(0x53), true, (blocks & 0xffff) * BLOCK),
            24 => (sixteen(0x8f), false, 0),
            25 | 26 => {
                // READ (32) and WRITE (32).
                let action = if which & 1 == 0 { 0x09 } else { 0x0b };
                let mut cdb = vec![0x7f, 0, 0, 0, 0, 0, 0, 24, 0, action, flags, 0];
                cdb.extend_from_slice(&lba_10);
                cdb.extend_from_slice(&[0; 8]);
                cdb.extend_from_slice(&blocks_16);
                (cdb, action == 0x0b, bytes)
            }
            _ => {
                let cdb: [u8; 16] = self.source.array();
                (cdb.to_vec(), which & 0x20 != 0, bytes.min(4096))
            }
        };
        let mut cdb = cdb;
        cdb.resize(cdb.len().max(16), 0);
        Made { cdb, writes, len }
    }

    fn data_out(&mut self) {
        let Some(at) = self.peer() else { return };
        self.read_peer(at);
        let [how, which] = self.source.array();
        let peer = &mut self.peers[at];
        if peer.r2ts.is_empty() {
            let pdu = Pdu::new(op::DATA_OUT, 0x80, peer.session.itt.wrapping_sub(1))
                .word(
                    20,
                    if how & 1 == 0 {
                        RESERVED_TAG
                    } else {
                        u32::from(which)
                    },
                )
                .word(40, u32::from(which) * 512)
                .data(&vec![0x5a; usize::from(how) * 4]);
            return self.send(at, pdu);
        }
        let chosen = usize::from(which) % peer.r2ts.len();
        let (tag, transfer_tag, offset, len) = peer.r2ts.remove(chosen);
        let len = if how >= 0xf0 { len / 2 } else { len };
        let mut sent = 0;
        // Segments of 8 KiB, which every target takes.
        for (data_sn, piece) in (0..).zip((0..len).step_by(8192)) {
            let piece_len = (len - piece).min(8192);
            sent += piece_len;
            let last = if sent == len { 0x80 } else { 0 };
            let pdu = Pdu::new(op::DATA_OUT, last, tag)
                .at(8, &LUN.to_be_bytes())
                .word(20, transfer_tag)
                .word(36, data_sn)
                .word(40, offset + piece)
                .data(&vec![0x5a; piece_len as usize]);
            let peer = &mut self.peers[at];
            peer.unsent.extend(seal(&pdu, peer.digests));
            self.push_unsent(at);
            if how & 0x0f == 0x0f {
                break;
            }
        }
    }

    fn other_pdu(&mut self) {
        let Some(at) = self.peer() else { return };
        let [kind, flags] = self.source.array();
        let session = &mut self.peers[at].session;
        let tag = session.itt;
        session.itt += 1;
        let immediate = if flags & 1 == 0 { op::IMMEDIATE } else { 0 };
        let pdu = match kind % 8 {
            0 => Pdu::new(op::NOP_OUT, 0x80, tag)
                .word(20, RESERVED_TAG)
                .data(&vec![7; usize::from(flags)]),
            1..=3 => {
                let lun = if flags & 0x80 == 0 { LUN } else { 0 };
                Pdu::new(op::TASK_MANAGEMENT, 0x80 | flags >> 1 & 0xf, tag)
                    .at(8, &lun.to_be_bytes())
                    .word(20, tag.wrapping_sub(1 + u32::from(flags >> 5 & 3)))
                    .word(32, session.cmd_sn.wrapping_sub(1))
            }
            4 => Pdu::new(op::TEXT, 0x80, tag)
                .word(20, RESERVED_TAG)
                .data(if flags & 2 == 0 {
                    b"SendTargets=All\0"
                } else {
                    b"SendTargets=\0"
                }),
            5 => Pdu::new(op::LOGOUT, 0x80 | flags >> 1 & 3, tag),
            6 => Pdu::new(0x10, 0x80, tag),
            _ => Site::login_pdu(HOSTILE, usize::from(flags >> 7), u16::from(flags & 3)),
        };
        let mut pdu = pdu.word(24, session.cmd_sn);
        pdu.header[0] |= immediate;
        session.cmd_sn += u32::from(immediate == 0);
        self.send(at, pdu);
    }

    fn time(&mut self) {
        match self.source.byte() {
            short @ 0..=200 => self.site.run(Duration::from_millis(u64::from(short) / 4)),
            long => {
                self.site
                    .run(Duration::from_millis(u64::from(long - 200) * 50));
                self.bystander_is_served();
            }
        }
    }

    /// The storage of the hostile computer's target, which has moods.
    fn storage(&mut self) {
        let [mood, more] = self.source.array();
        let storage = &mut self.site.storage;
        match mood % 12 {
            0 => storage.hangs = !storage.hangs,
            1 => storage.deaf = !storage.deaf,
            2 => storage.busy_percent = u64::from(more % 80),
            3 => storage.fail_power(),
            4 => storage.reset(),
            5 => storage.lose_cache(),
            6 => storage.announce(Sense::CAPACITY_DATA_CHANGED),
            7 => storage.finishes_aborted = !storage.finishes_aborted,
            8 => storage.ask_to_leave(u16::from(more & 3)),
            9 => {
                let bytes = self.source.bytes(usize::from(more));
                storage.babble(bytes);
            }
            10 => {
                let itt = u32::from(more);
                let opcode = 0x20 | self.source.byte() & 0x1f;
                let mut pdu = Pdu::new(opcode, 0x80, itt).word(24, self.source.word());
                wire::damage_header(&mut self.source, &mut pdu);
                self.site.storage.babble(&pdu.bytes());
            }
            _ => storage.unmaps = !storage.unmaps,
        }
    }

    fn connection(&mut self) {
        let Some(at) = self.peer() else { return };
        let session = self.peers[at].session;
        match self.source.below(6) {
            0 => self.site.close(&session),
            1 => {
                self.site.abort(&session);
                self.peers.remove(at);
            }
            2 | 3 => self.site.set_reading(&session, false),
            _ => self.site.set_reading(&session, true),
        }
    }

    fn read_answers(&mut self) {
        for at in 0..self.peers.len() {
            self.push_unsent(at);
            self.read_peer(at);
        }
    }

    /// Whatever the relay sends is sound, to whomever.
    fn read_peer(&mut self, at: usize) {
        let Self { site, peers, .. } = self;
        let peer = &mut peers[at];
        peer.framer.push(&site.take_received(&peer.session));
        while let Some(pdu) = peer.framer.next() {
            match pdu.opcode() {
                0x23 => {
                    let granted = pdu.header[36] == 0 && pdu.header[1] & 0x83 == 0x83;
                    if granted {
                        // What was agreed on stands in the text.
                        let text = String::from_utf8_lossy(&pdu.data).into_owned();
                        let agreed = |key| text.contains(&format!("{key}=CRC32C"));
                        let digests = (agreed("HeaderDigest"), agreed("DataDigest"));
                        peer.framer.digests = digests;
                        peer.digests = digests;
                    }
                }
                0x31 => {
                    let numbers = (word(&pdu, 20), word(&pdu, 40), word(&pdu, 44));
                    peer.r2ts.push((pdu.itt(), numbers.0, numbers.1, numbers.2));
                }
                0x20 | 0x21 | 0x22 | 0x24 | 0x25 | 0x26 | 0x32 | 0x3f => {}
                opcode => panic!("no target sends opcode {opcode:#x}"),
            }
        }
    }
}

/// A command that was made.
struct Made {
    cdb: Vec<u8>,
    writes: bool,
    /// Bytes of data that it speaks of.
    len: u32,
}

impl Made {
    /// Parameter data of UNMAP and PERSISTENT RESERVE OUT have their lengths in
    /// them; blocks are all one byte.
    fn parameters(&self, len: u32) -> Vec<u8> {
        let mut data = vec![0x5a; len as usize];
        let head: &[u8] = match self.cdb[0] {
            0x42 => &[0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 3],
            0x5f => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
            _ => &[],
        };
        let common = head.len().min(data.len());
        data[..common].copy_from_slice(&head[..common]);
        data
    }
}

//! The control segment of a worker that serves computers, whose other side is anybody:
//! commands about reservations and paths with any values, messages with words of their own
//! changed, rows, rings and their indexes overwritten, daemons that come and go.
//!
//! What can be decoded is done or refused, what cannot is answered as such and counted; each
//! buffer stays in one place; a bystander whose storage nobody reserves for is served; a
//! reader takes what could have been written. In the end a daemon of good faith cancels all
//! that there is, and no buffer is missing.

mod commands;
mod segment;

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_hugepages::pool::{
    FRAME_LEN, FRAMES_PER_PAGE, PoolStats, Reservation as Number, Reserved,
};
use sluice_hugepages::shm::SendError;
use sluice_hugepages::tables::{
    Allocation, Command, MESSAGE_WORDS, Outcome, RESERVATIONS_MAX, Reservation, text,
};
use sluice_sim::site::{ELSEWHERE, Session, Site, Size, TARGETS};
use sluice_sim::storage::Storage;

use crate::source::Source;
use segment::Segment;

const GOOD: u8 = 0;
const STEPS_MAX: usize = 120;
const SIZE: Size = Size {
    sessions_max: 6,
    pool_pages: 256,
    log_len: 8 * 1024 * 1024,
    portal: true,
    apart: true,
    ..Size::SMALL
};
/// Both computers: the bystander's, and that of the sessions that come and go.
const BYSTANDER: usize = 1;
const OTHER: usize = 0;
const SESSIONS_MAX: usize = 3;
/// The data plane looks at the ring, and shows all tables, more often than this.
const LOOK: Duration = Duration::from_millis(50);
const ROUND: Duration = Duration::from_millis(150);
/// Sessions end, and what is left of them is flushed, in less.
const END: Duration = Duration::from_secs(40);

pub fn run(input: &[u8]) {
    let mut play = Play::new(Source::new(input));
    for _ in 0..STEPS_MAX {
        if play.source.is_empty() {
            break;
        }
        play.step();
    }
    play.finish();
}

/// A command that is to be answered.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u64,
    well_formed: bool,
}

struct Play<'a> {
    source: Source<'a>,
    site: Site,
    segment: Segment,
    bystander: Session,
    writes: u32,
    /// Nobody asked for anything that concerns the bystander's storage.
    untouched: bool,
    others: Vec<Session>,
    isid: u16,
    ids: u64,
    asked: Vec<Asked>,
    /// The rings are as the two sides have left them.
    sound: bool,
    malformed: u64,
}

impl<'a> Play<'a> {
    fn new(source: Source<'a>) -> Self {
        let mut site = Site::of(SIZE, |_| ());
        site.elsewhere = Some(Storage::new(
            ELSEWHERE,
            std::net::Ipv4Addr::new(198, 19, 0, 1),
            sluice_sim::site::BLOCKS,
            3,
        ));
        let segment = Segment::of(&mut site);
        let bystander = site.login(BYSTANDER, 1, 1);
        let mut play = Self {
            source,
            site,
            segment,
            bystander,
            writes: 0,
            untouched: true,
            others: Vec::new(),
            isid: 1,
            ids: 0,
            asked: Vec::new(),
            sound: true,
            malformed: 0,
        };
        play.serve();
        play
    }

    fn step(&mut self) {
        match self.source.below(16) {
            0..=5 => self.ask(false),
            6 | 7 => self.ask(true),
            8 | 9 => {
                let time = Duration::from_millis(4 << self.source.below(9));
                self.pass(time);
            }
            10 => self.serve(),
            11 => self.come_or_go(),
            12 => self.segment.scribble_rows(&mut self.source),
            13 => {
                self.sound = false;
                self.untouched = false;
                self.segment.scribble_rings(&mut self.source);
            }
            14 => self.new_daemon(),
            _ => self.segment.read(),
        }
    }

    /// Sends a command, as it is or with some words of the message changed.
    fn ask(&mut self, damaged: bool) {
        let free_bytes = self.free_bytes();
        let command = commands::any(&mut self.source, free_bytes);
        self.ids += 1;
        let id = self.ids;
        let at = self.segment.sent;
        match self.segment.link().send(id, &command) {
            Ok(()) => self.segment.sent += 1,
            // It is the other side's turn; or an index says what cannot be.
            Err(SendError::Full | SendError::Fault) => return self.pass(ROUND),
        }
        let whole = command.encode(id);
        let mut message = whole;
        if damaged && self.sound {
            for _ in 0..=self.source.below(3) {
                let word = 1 + self.source.below(MESSAGE_WORDS - 1);
                message[word] = segment::word(&mut self.source, message[word]);
            }
            self.segment.put_message(at, &whole, &message);
        }
        let decoded = Command::decode(&message).1;
        let concerns = decoded.as_ref().is_some_and(concerns_bystander);
        self.untouched &= !concerns;
        self.malformed += u64::from(decoded.is_none());
        self.asked.push(Asked {
            id,
            well_formed: decoded.is_some(),
        });
    }

    /// Time passes, and what was asked is answered.
    fn pass(&mut self, time: Duration) {
        self.site.run(time.max(LOOK));
        let mut answers = Vec::new();
        while let Some(completion) = self.segment.link().next_completion() {
            answers.push(completion);
            if answers.len() > 128 {
                assert!(!self.sound, "answers that nobody asked for");
                break;
            }
        }
        if self.sound {
            assert_eq!(answers.len(), self.asked.len(), "one answer each");
            for (answer, asked) in answers.iter().zip(&self.asked) {
                assert_eq!(answer.id, asked.id, "in their order");
                assert_eq!(answer.outcome != Outcome::Malformed, asked.well_formed);
            }
            let faults = self.segment.link().faults().into_iter();
            let faults = faults.filter(|(name, _)| *name == "segment.ring_faults");
            assert_eq!(
                faults.map(|(_, count)| count).sum::<u64>(),
                self.malformed,
                "counted"
            );
        }
        self.asked.clear();
        self.conserved();
    }

    /// Each buffer in one place (B-1).
    fn conserved(&self) {
        let PoolStats {
            pages,
            pages_free,
            pages_leased,
            page_frames_in_use,
            pages_divided,
            frames_free,
            frames_reserved,
            frames_in_use,
            ..
        } = self.site.worker.pool.stats();
        assert_eq!(
            pages_free + pages_leased + page_frames_in_use + pages_divided,
            pages
        );
        assert_eq!(
            frames_free + frames_reserved + frames_in_use,
            pages_divided * FRAMES_PER_PAGE
        );
        let (listed, in_use) = self
            .reserved()
            .fold((0, 0), |(listed, in_use), (_, reserved)| {
                (listed + reserved.listed, in_use + reserved.in_use)
            });
        assert_eq!(listed, frames_reserved, "on the lists of reservations");
        assert!(in_use <= frames_in_use);
    }

    /// What the pool has, by number.
    fn reserved(&self) -> impl Iterator<Item = (u16, Reserved)> {
        let pool = &self.site.worker.pool;
        let numbers = (0..RESERVATIONS_MAX).map(|number| u16::try_from(number).expect("16 bits"));
        numbers.filter_map(|number| Some((number, pool.reserved(Number(number))?)))
    }

    /// The tables say what the lists are (B-3), when nothing moves.
    fn tables_agree(&mut self) {
        let bytes = |frames: usize| frames as u64 * FRAME_LEN as u64;
        let rows = self.segment.link().rows::<Reservation>();
        assert_eq!((rows.stale, rows.malformed), (0, 0), "of a new segment");
        let mut shown: Vec<_> = rows
            .rows
            .into_iter()
            .map(|(_, row)| {
                let held = (row.reserved_bytes, row.held_bytes, row.allocated_bytes);
                (row.buffer_id, held)
            })
            .collect();
        shown.sort_unstable();
        let kept: Vec<_> = self
            .reserved()
            .filter(|(_, reserved)| reserved.goal > 0)
            .map(|(number, reserved)| {
                let Reserved { goal, in_use, .. } = reserved;
                let held = (bytes(goal), bytes(reserved.held()), bytes(in_use));
                (number, held)
            })
            .collect();
        assert_eq!(shown, kept);
        let mut by_owner = BTreeMap::new();
        for (_, row) in self.segment.link().rows::<Allocation>().rows {
            *by_owner.entry(row.buffer_id).or_insert(0) += row.allocated_bytes;
        }
        for (number, reserved) in self.reserved() {
            let allocated = by_owner.get(&number).copied().unwrap_or(0);
            // A connection that was given another reservation holds of both for a while.
            assert!(allocated >= bytes(reserved.in_use) || reserved.goal == 0);
        }
    }

    fn free_bytes(&self) -> u64 {
        let stats = self.site.worker.pool.stats();
        ((stats.pages_free * FRAMES_PER_PAGE + stats.frames_free) * 4096) as u64
    }

    /// The bystander writes, and reads what it wrote.
    fn serve(&mut self) {
        if !self.untouched {
            return;
        }
        self.writes += 1;
        let lba = u64::from(self.writes % 50);
        let status = self.site.write(&mut self.bystander, lba, self.writes);
        assert_eq!(status, Some(GOOD));
        let read = self.site.read(&mut self.bystander, lba);
        assert_eq!(read, Some((GOOD, Some(self.writes))));
    }

    /// A computer of the other target logs in, or one leaves without a word. It may find no
    /// buffers.
    fn come_or_go(&mut self) {
        if self.source.byte() & 1 == 0 && self.others.len() < SESSIONS_MAX {
            self.isid += 1;
            let session = self.site.connect(OTHER);
            let login = Site::login_pdu(OTHER, 0, self.isid);
            self.site.offer(&session, &login.bytes());
            self.others.push(session);
        } else if !self.others.is_empty() {
            let at = self.source.below(self.others.len());
            let session = self.others.swap_remove(at);
            self.site.abort(&session);
        }
        self.pass(ROUND);
    }

    /// The daemon is another: answers to the last are nobody's.
    fn new_daemon(&mut self) {
        self.pass(ROUND);
        self.segment.reopen();
    }

    /// A daemon of good faith, with rings that nobody has touched, clears all up.
    fn finish(mut self) {
        self.pass(ROUND);
        for session in std::mem::take(&mut self.others) {
            self.site.abort(&session);
        }
        self.segment = Segment::of(&mut self.site);
        (self.sound, self.malformed) = (true, 0);
        for target in TARGETS {
            self.send(&Command::PresentBufferId {
                target: text(target),
                buffer_id: None,
            });
        }
        self.send(&Command::Drain { on: false });
        self.site.run(END);
        self.pass(ROUND);
        self.tables_agree();
        loop {
            let rows = self.segment.link().rows::<Reservation>();
            assert_eq!(
                (rows.stale, rows.malformed),
                (0, 0),
                "rows of a new segment"
            );
            if rows.rows.is_empty() {
                break;
            }
            for (_, row) in rows.rows.iter().take(32) {
                self.send(&Command::CancelReservation { target: row.target });
            }
            self.pass(ROUND);
        }
        self.site.run(END);
        self.conserved();
        assert_eq!(self.site.worker.pool.stats().frames_reserved, 0);
        self.untouched = true;
        self.serve();
    }

    fn send(&mut self, command: &Command) {
        self.ids += 1;
        self.segment
            .link()
            .send(self.ids, command)
            .expect("room for a few");
        self.asked.push(Asked {
            id: self.ids,
            well_formed: true,
        });
    }
}

/// Whether a command may take something from the bystander: it reserves for its storage's
/// connections, or says that they present an id.
fn concerns_bystander(command: &Command) -> bool {
    use sluice_hugepages::tables::ReservationTarget as To;
    match command {
        Command::Reserve { target, .. } => match target {
            To::Pair { remote, .. } => *remote == ELSEWHERE,
            To::PairPort { remote, .. } => *remote.ip() == ELSEWHERE,
            To::Connection { .. } => false,
        },
        Command::PresentBufferId { target, .. } => target.as_str() == TARGETS[1],
        _ => false,
    }
}

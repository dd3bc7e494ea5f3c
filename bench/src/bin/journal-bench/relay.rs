//! The real worker on memory ports, one computer, and the real journal: its
//! thread, its ring and its file. Time is the machine's.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use sluice_bench::random::Random;
use sluice_dataplane::journal::layout::BLOCK_LEN as JOURNAL_BLOCK_LEN;
use sluice_dataplane::journal::thread::{JournalPort, LogBase};
use sluice_dataplane::journal::{Core, Device, JournalError, Line};
use sluice_hugepages::tables::{Durability, FlushSetting, Scope};
use sluice_proto::Time;
use sluice_sim::site::{Session, Site, Size, op};

use super::WRITE_LEN;

const BLOCK_LEN: usize = 512;
const BLOCKS_PER_WRITE: usize = WRITE_LEN / BLOCK_LEN;
/// Places that are written once before any is written again: more than a round's
/// writes, so that none hides another.
const PLACES: usize = 12 * 1024;
const LOG_LEN: usize = 64 << 20;
const JOURNAL_LEN: usize = 128 << 20;
/// As many as the data plane's ring has.
const REQUESTS: usize = 4096;
const HEADER_LEN: usize = 48;

#[derive(Debug)]
pub struct Relay {
    site: Site,
    session: Session,
    /// The site's time when the machine's was that.
    begun: (Time, Instant),
    received: Vec<u8>,
    /// Of all answers since the login: 0, GOOD, or the bench is none.
    statuses: u8,
    next_place: usize,
}

impl Relay {
    /// With its journal in a new file, or without one; the journal's thread keeps off
    /// that core.
    pub fn start(
        durability: Durability,
        journal: Option<&Path>,
        off: Option<usize>,
    ) -> Result<Relay, JournalError> {
        let size = Size {
            log_len: LOG_LEN,
            durability,
            // While the others have their turn, nobody is here to say a word.
            silence_max: Duration::from_secs(3600),
            asks_idle: false,
            ..Size::SMALL
        };
        let mut site = Site::of(size, |storage| storage.resize(PLACES * BLOCKS_PER_WRITE));
        if let Some(path) = journal {
            let line = start_journal(&site, path, off)?;
            site.journal = None;
            site.worker.relay.set_journal(line, site.now);
        }
        let session = site.connect(0);
        let mut relay = Relay {
            begun: (site.now, Instant::now()),
            site,
            session,
            received: Vec::new(),
            statuses: 0,
            next_place: 0,
        };
        // By the machine's clock, since the journal has no other.
        relay.say(&Site::login_pdu(0, 0, 0).bytes());
        // Takes the unit attention that every new session is met with.
        let ready = Site::command(&mut relay.session, 0, 0, &[0; 6]);
        relay.say(&ready.bytes());
        relay.statuses = 0;
        relay.flush_policy(u64::MAX, Duration::from_secs(3600));
        Ok(relay)
    }

    /// Writes of the journal's device.
    pub fn groups(&self) -> u64 {
        self.site
            .worker
            .relay
            .journal_health()
            .map_or(0, |(_, progress, _)| progress.groups)
    }

    /// Writes so many places, `depth` at a time.
    pub fn write(&mut self, count: usize, depth: usize) {
        let mut sender = self.sender();
        let mut answered = 0;
        while answered < count {
            answered += sender.turn(count.min(answered + depth));
        }
    }

    /// A computer that is about to write.
    pub fn sender(&mut self) -> Sender<'_> {
        Sender {
            relay: self,
            made: 0,
            unsent: Vec::new(),
        }
    }

    /// One write after the other; adds the time of each, to its answer.
    pub fn write_singly(&mut self, count: usize, times: &mut Vec<Duration>) {
        for _ in 0..count {
            let command = self.command();
            let begun = Instant::now();
            self.say(&command);
            times.push(begun.elapsed());
        }
    }

    /// Flushes everything: the next round has the whole log. Not measured.
    pub fn drain(&mut self) {
        self.flush_policy(0, Duration::from_millis(10));
        while !self.site.worker.relay.is_drained() {
            self.turn();
        }
        assert_eq!(self.statuses, 0, "every write is GOOD");
        self.flush_policy(u64::MAX, Duration::from_secs(3600));
    }

    /// Sends a PDU and waits for its answer, whatever that is.
    fn say(&mut self, pdu: &[u8]) {
        let sent = self.site.offer(&self.session, pdu);
        assert_eq!(sent, pdu.len(), "the computer's socket is empty");
        while self.turn() == 0 {}
    }

    /// Everybody does once what is due now. The answers that have come.
    fn turn(&mut self) -> usize {
        let (then, begun) = self.begun;
        self.site.now = self.site.now.max(then + begun.elapsed());
        self.site.run(Duration::from_nanos(1));
        let new = self.site.take_received(&self.session);
        self.received.extend_from_slice(&new);
        let mut answers = 0;
        let mut at = 0;
        while let Some(header) = self.received[at..].first_chunk::<HEADER_LEN>() {
            let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
            let end = at + (HEADER_LEN + len).next_multiple_of(4);
            if self.received.len() < end {
                break;
            }
            if let op::RESPONSE | op::LOGIN_RESPONSE = header[0] & 0x3f {
                answers += 1;
                self.statuses |= header[3];
            }
            at = end;
        }
        self.received.drain(..at);
        answers
    }

    fn command(&mut self) -> Vec<u8> {
        let lba = (self.next_place * BLOCKS_PER_WRITE) as u64;
        self.next_place = (self.next_place + 1) % PLACES;
        let blocks = u32::try_from(BLOCKS_PER_WRITE).expect("a few");
        let cdb = sluice_proto::scsi::cdb::write(lba, blocks);
        let len = u32::try_from(WRITE_LEN).expect("4096");
        // F and W: immediate data, all of it (RFC 7143 11.3.1).
        Site::command(&mut self.session, 0x20, len, &cdb)
            .data(&[0x5A; WRITE_LEN])
            .bytes()
    }

    fn flush_policy(&mut self, threshold_bytes: u64, period: Duration) {
        let setting = FlushSetting {
            threshold_bytes: Some(threshold_bytes),
            period_ms: u64::try_from(period.as_millis()).ok(),
            ..FlushSetting::default()
        };
        self.site.worker.relay.set_flush(&Scope::All, &setting);
    }
}

/// A computer that writes, some at a time.
#[derive(Debug)]
pub struct Sender<'a> {
    relay: &'a mut Relay,
    made: usize,
    /// What the computer's socket had no room for.
    unsent: Vec<u8>,
}

impl Sender<'_> {
    /// Everybody does once what is due now, the computer as many more writes as make
    /// `made` of them. The answers that have come.
    pub fn turn(&mut self, made: usize) -> usize {
        while self.made < made {
            self.unsent.extend(self.relay.command());
            self.made += 1;
        }
        if !self.unsent.is_empty() {
            let sent = self.relay.site.offer(&self.relay.session, &self.unsent);
            self.unsent.drain(..sent);
        }
        self.relay.turn()
    }
}

fn start_journal(site: &Site, path: &Path, off: Option<usize>) -> Result<Line, JournalError> {
    let blocks = (JOURNAL_LEN / JOURNAL_BLOCK_LEN) as u64;
    let device = Device::open(path, blocks)?;
    let failed = |what, source| JournalError::Os {
        what,
        path: path.to_owned(),
        source,
    };
    // What is in memory syncs nothing: that would be no measure.
    if device
        .is_memory()
        .map_err(|source| failed("look at", source))?
    {
        let source = io::Error::other("it is in memory, and this measures a disk");
        return Err(failed("use", source));
    }
    let log = site.worker.relay.log();
    let id = Random::new(u64::from(std::process::id())).bits();
    let core = Core::format(id, blocks, log.records_max());
    let base = LogBase {
        base: log.base(),
        len: log.region_len(),
    };
    // SAFETY: the relay owns both, and drops the port before the log; it frees no
    // record before the journal has what it was asked for.
    let port = unsafe { JournalPort::start(core, device, base, REQUESTS, off) };
    let port = port.map_err(|source| failed("run the thread of", source))?;
    Ok(Line::Thread(port))
}

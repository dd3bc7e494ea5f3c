//! What a run does: which blocks, reads or writes, at what depth and rate; and
//! what it saw: latencies, statuses, blocks that were not what was written.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sluice_proto::iscsi::{Command, Direction, TaskAttribute};
use sluice_proto::scsi::{ScsiStatus, SenseKey, cdb, sense};

use super::image::{Image, ImageError};
use super::ledger::{Ledger, Seen};
use super::report::{Latency, Report};
use super::session::{Happened, Login, Session, SessionError};
use super::stamp;
use crate::order::trace::{Event, Trace};

/// The block of a stamp; requests are multiples of it.
pub const STAMP_LEN: u32 = 4096;
/// Attempts at a command that the target answers BUSY or TASK SET FULL.
const RETRIES_MAX: u32 = 64;
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// So long without an answer, and the target is pinged, if it is not anyway.
const PING_AFTER: Duration = Duration::from_secs(1);
/// Between two attempts to log in again.
pub const LOGIN_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("cannot write the trace: {0}")]
    Trace(std::io::Error),
}

/// A part of the volume that most requests go to.
#[derive(Clone, Copy, Debug)]
pub struct Hot {
    /// Of the requests: 0 to 100.
    pub percent: u32,
    /// Of the span, at its beginning: 1 to 100.
    pub span_percent: u32,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub lun: u64,
    /// Bytes of the volume before those that are used; a multiple of [`STAMP_LEN`].
    pub skip_bytes: u64,
    /// Bytes of the volume that are used, and that an image holds.
    pub span_bytes: u64,
    pub request_len: u32,
    pub depth: usize,
    /// Requests to issue; the run ends earlier after `time_max`.
    pub count: u64,
    pub time_max: Duration,
    /// Or when this is set.
    pub stop: &'static AtomicBool,
    /// 0 to 100.
    pub read_percent: u32,
    /// Of the writes, with FUA: 0 to 100.
    pub fua_percent: u32,
    /// After so many requests the volume's cache is synchronized.
    pub sync_every: Option<u64>,
    /// The target may lose what is not synchronized: the image keeps what is durable,
    /// and in the end, all being synchronized, what the volume was found to hold.
    pub may_lose_unsynced: bool,
    pub sequential: bool,
    /// Where requests go that are not sequential.
    pub hot: Option<Hot>,
    /// Between two pings, each after the answer to the last, to see how late they are.
    pub ping_period: Option<Duration>,
    /// Requests a second; none for as fast as the depth lets.
    pub rate: Option<f64>,
    pub verify: bool,
    pub seed: u64,
    /// How long to try to log in again when the session breaks; commands
    /// without an answer are then sent once more, as a computer does.
    pub reconnect_max: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write { fua: bool },
    Sync,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    /// Its own in the whole run.
    number: u64,
    kind: Kind,
    /// The first of its stamp blocks, of which a synchronization has none.
    block: u64,
    begun: Instant,
    retries: u32,
    /// Given to the session there is now.
    sent: bool,
}

/// The run's state: a request a slot; the slot's number is the token.
#[derive(Debug)]
pub struct Workload {
    plan: Plan,
    block_len: u32,
    image: Option<Image>,
    trace: Option<Trace>,
    /// Where the target may lose what is not synchronized.
    ledger: Option<Ledger>,
    slots: Vec<Option<Request>>,
    buffers: Vec<Vec<u8>>,
    /// Generation of each stamp block as last acknowledged.
    generations: Vec<u32>,
    /// Blocks of requests under way: two never overlap, so that a read has one right answer.
    busy: Vec<bool>,
    random: u64,
    next_sequential: u64,
    issued: u64,
    /// Requests begun, synchronizations among them.
    begun: u64,
    /// Requests at the last synchronization.
    synced_at: u64,
    /// The plan is done: all is synchronized, and what may have been lost is read.
    settled: Option<usize>,
    write_histogram: Histogram<u64>,
    read_histogram: Histogram<u64>,
    ping_histogram: Histogram<u64>,
    /// When the last ping went, and whether its answer is still to come.
    pinged: (Instant, bool),
    report: Report,
}

impl Workload {
    /// With an `image`, that is what reads are compared with, and what
    /// acknowledged writes are noted in.
    pub fn new(plan: Plan, block_len: u32, image: Option<Image>) -> Self {
        let stamps = usize::try_from(plan.span_bytes / u64::from(STAMP_LEN))
            .expect("a volume that fits memory");
        let histogram =
            || Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("fixed bounds");
        Self {
            slots: vec![None; plan.depth],
            buffers: vec![vec![0; plan.request_len as usize]; plan.depth],
            generations: vec![0; stamps],
            busy: vec![false; stamps],
            random: plan.seed | 1,
            next_sequential: 0,
            issued: 0,
            begun: 0,
            synced_at: 0,
            settled: None,
            ledger: plan.may_lose_unsynced.then(|| Ledger::new(stamps)),
            write_histogram: histogram(),
            read_histogram: histogram(),
            ping_histogram: histogram(),
            pinged: (Instant::now(), false),
            report: Report::default(),
            block_len,
            image,
            trace: None,
            plan,
        }
    }

    /// Notes what is written and synchronized, and when that is answered.
    #[must_use]
    pub fn traced(mut self, mut trace: Trace) -> Self {
        trace.note(&Event::Begun {
            seed: self.plan.seed,
            skip_bytes: self.plan.skip_bytes,
        });
        self.trace = Some(trace);
        self
    }

    fn stamps_per_request(&self) -> u64 {
        u64::from(self.plan.request_len / STAMP_LEN)
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// The next request's first stamp block, not under way by another.
    fn pick(&mut self) -> Option<u64> {
        let per_request = self.stamps_per_request();
        let places = self.generations.len() as u64 / per_request;
        for _ in 0..self.plan.depth * 4 {
            let hot = self.plan.hot;
            let place = if self.plan.sequential {
                self.next_sequential += 1;
                (self.next_sequential - 1) % places
            } else {
                let places = match hot {
                    Some(hot) if self.draw() % 100 < u64::from(hot.percent) => {
                        (places * u64::from(hot.span_percent) / 100).max(1)
                    }
                    _ => places,
                };
                self.draw() % places
            };
            let block = place * per_request;
            if !self.range(block).any(|at| self.busy[at]) {
                return Some(block);
            }
        }
        None
    }

    fn range(&self, block: u64) -> std::ops::Range<usize> {
        let start = usize::try_from(block).expect("a volume that fits memory");
        start..start + usize::try_from(self.stamps_per_request()).expect("a request fits memory")
    }

    /// Issues, answers and measures until the plan is done.
    ///
    /// # Errors
    /// The session broke and was not to be had again, or the image cannot be
    /// kept; an answer that is an error is counted, not returned.
    pub fn run(mut self, mut session: Session, login: &Login) -> Result<Report, RunError> {
        let begun = Instant::now();
        let (mut last_done, mut answered) = (begun, begun);
        loop {
            // Relaxed: nothing else comes with it.
            let stop = self.issued >= self.plan.count
                || begun.elapsed() >= self.plan.time_max
                || self.plan.stop.load(Ordering::Relaxed);
            self.resubmit(&mut session);
            if !stop {
                self.issue(&mut session, begun);
            } else if self.is_idle() {
                self.settle(&mut session);
            }
            let under_way = !self.is_idle();
            if stop && !under_way {
                break;
            }
            let before = self.report.answered();
            let mut turned = self.turn(&mut session);
            let now = Instant::now();
            if self.report.answered() > before {
                self.report.gap_max_ms = self
                    .report
                    .gap_max_ms
                    .max((now - last_done).as_secs_f64() * 1e3);
                self.report.pause_max_ms = self
                    .report
                    .pause_max_ms
                    .max((now - answered).as_secs_f64() * 1e3);
                (last_done, answered) = (now, now);
            } else if under_way && now - last_done > SILENCE_MAX {
                turned = Err(session.silent(SILENCE_MAX).into());
            }
            self.ping(&mut session, now, last_done);
            match turned {
                Ok(true) => {}
                Ok(false) => session.wait(Duration::from_millis(1)),
                Err(RunError::Session(error)) => {
                    session = self.log_in_again(login, error)?;
                    self.pinged.1 = false;
                    last_done = Instant::now();
                }
                Err(error) => return Err(error),
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        if let Some(trace) = self.trace {
            trace.close().map_err(RunError::Trace)?;
        }
        let mut report = self.report;
        report.seconds = seconds;
        report.iops = (report.writes + report.reads) as f64 / seconds;
        report.write = Latency::of(&self.write_histogram);
        report.read = Latency::of(&self.read_histogram);
        report.ping = Latency::of(&self.ping_histogram);
        Ok(report)
    }

    /// Pings where the plan wants it, or where the target has said nothing for long.
    fn ping(&mut self, session: &mut Session, now: Instant, last_done: Instant) {
        let (at, waits) = self.pinged;
        let due = match self.plan.ping_period {
            Some(period) => !waits && now - at >= period,
            None => now - last_done.max(at) > PING_AFTER,
        };
        if due {
            session.ping();
            self.pinged = (now, true);
        }
    }

    /// One turn of the session, and what its answers mean.
    fn turn(&mut self, session: &mut Session) -> Result<bool, RunError> {
        let mut done = Vec::new();
        let mut ponged = false;
        let moved = {
            // Fetching and filling take turns inside one call.
            let buffers = RefCell::new(&mut self.buffers);
            session.turn(
                |token, offset, into| {
                    let from = offset as usize;
                    into.copy_from_slice(
                        &buffers.borrow()[slot_of(token)][from..from + into.len()],
                    );
                },
                |happened| match happened {
                    Happened::Data {
                        token,
                        offset,
                        bytes,
                    } => {
                        let at = offset as usize;
                        buffers.borrow_mut()[slot_of(token)][at..at + bytes.len()]
                            .copy_from_slice(bytes);
                    }
                    Happened::Done {
                        token,
                        status,
                        sense,
                    } => {
                        done.push((slot_of(token), status, is_attention(sense)));
                    }
                    Happened::Pong => ponged = true,
                },
            )
        };
        if let (true, (at, true)) = (ponged, self.pinged) {
            let nanos = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.ping_histogram.saturating_record(nanos);
            self.pinged.1 = false;
        }
        // What was answered before the session broke was answered.
        for (slot, status, attention) in done {
            self.finish(session, slot, status, attention)?;
        }
        Ok(moved?)
    }

    fn log_in_again(&mut self, login: &Login, error: SessionError) -> Result<Session, RunError> {
        let Some(limit) = self.plan.reconnect_max else {
            return Err(error.into());
        };
        let begun = Instant::now();
        for request in self.slots.iter_mut().flatten() {
            request.sent = false;
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.may_be_lost();
        }
        loop {
            match Session::login(login) {
                Ok(session) => {
                    self.report.reconnects += 1;
                    return Ok(session);
                }
                Err(error) if begun.elapsed() >= limit => return Err(error.into()),
                Err(_) => std::thread::sleep(LOGIN_PAUSE),
            }
        }
    }

    /// What the last session left without an answer goes first.
    fn resubmit(&mut self, session: &mut Session) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some_and(|request| !request.sent) && session.window() > 0 {
                self.report.retries += 1;
                self.submit(session, slot);
            }
        }
    }

    fn issue(&mut self, session: &mut Session, begun: Instant) {
        while session.window() > 0 && self.issued < self.plan.count {
            if let Some(rate) = self.plan.rate
                && self.issued as f64 > begun.elapsed().as_secs_f64() * rate
            {
                return;
            }
            let Some(slot) = self.slots.iter().position(Option::is_none) else {
                return;
            };
            if self.is_sync_due() {
                self.synced_at = self.issued;
                self.begin(session, slot, Kind::Sync, 0);
                continue;
            }
            let read = self.draw() % 100 < u64::from(self.plan.read_percent);
            let Some(block) = self.pick() else { return };
            let kind = if read {
                Kind::Read
            } else {
                let fua = self.plan.fua_percent > 0
                    && self.draw() % 100 < u64::from(self.plan.fua_percent);
                Kind::Write { fua }
            };
            let judged = self.plan.verify || self.image.is_some() || self.trace.is_some();
            if !read && judged {
                for (at, piece) in self
                    .range(block)
                    .zip(self.buffers[slot].chunks_mut(STAMP_LEN as usize))
                {
                    stamp::fill(piece, at as u64, self.generations[at] + 1, self.plan.seed);
                }
            }
            self.issued += 1;
            self.begin(session, slot, kind, block);
        }
    }

    /// One at a time where there is a ledger, which knows what the last covers.
    fn is_sync_due(&self) -> bool {
        let is_sync = |request: &Request| request.kind == Kind::Sync;
        let waits = self.ledger.is_some() && self.slots.iter().flatten().any(is_sync);
        let due = |every| self.issued - self.synced_at >= every;
        self.plan.sync_every.is_some_and(due) && !waits
    }

    fn is_idle(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// What is left when the plan is done and the target may have lost something: all is
    /// synchronized, and each block looked at of which it is not known what it holds.
    fn settle(&mut self, session: &mut Session) {
        let Some(ledger) = &self.ledger else { return };
        if session.window() == 0 {
            return;
        }
        let Some(from) = self.settled else {
            self.settled = Some(0);
            return self.begin(session, 0, Kind::Sync, 0);
        };
        let Some(at) = ledger.unknown_from(from) else {
            return;
        };
        let per_request = self.stamps_per_request();
        let block = at as u64 / per_request * per_request;
        self.settled = Some(at);
        self.begin(session, 0, Kind::Read, block);
    }

    fn begin(&mut self, session: &mut Session, slot: usize, kind: Kind, block: u64) {
        if kind != Kind::Sync {
            for at in self.range(block) {
                self.busy[at] = true;
            }
        }
        let number = self.begun;
        self.begun += 1;
        let range = self.range(block);
        let event = match kind {
            Kind::Read => None,
            Kind::Sync => Some(Event::Sync { number }),
            Kind::Write { .. } => Some(Event::Write {
                number,
                block,
                generations: range.map(|at| self.generations[at] + 1).collect(),
            }),
        };
        if let (Some(trace), Some(event)) = (&mut self.trace, &event) {
            trace.note(event);
        }
        self.slots[slot] = Some(Request {
            number,
            kind,
            block,
            begun: Instant::now(),
            retries: 0,
            sent: false,
        });
        self.submit(session, slot);
    }

    fn submit(&mut self, session: &mut Session, slot: usize) {
        let request = self.slots[slot].as_mut().expect("a slot in use");
        request.sent = true;
        let skipped = self.plan.skip_bytes / u64::from(STAMP_LEN);
        let lba = (skipped + request.block) * u64::from(STAMP_LEN / self.block_len);
        let (len, blocks) = (
            self.plan.request_len,
            self.plan.request_len / self.block_len,
        );
        let (cdb, data) = match request.kind {
            Kind::Read => (cdb::read(lba, blocks), Direction::In(len)),
            Kind::Write { fua: false } => (cdb::write(lba, blocks), Direction::Out(len)),
            Kind::Write { fua: true } => (cdb::write_fua(lba, blocks), Direction::Out(len)),
            Kind::Sync => (cdb::synchronize_cache(), Direction::None),
        };
        if let (Kind::Sync, Some(ledger)) = (request.kind, &mut self.ledger) {
            ledger.sync_asked();
        }
        session.submit(Command {
            token: slot as u64,
            lun: self.plan.lun,
            cdb,
            cdb_rest: None,
            attribute: TaskAttribute::Simple,
            data,
        });
    }

    fn finish(
        &mut self,
        session: &mut Session,
        slot: usize,
        status: ScsiStatus,
        attention: bool,
    ) -> Result<(), ImageError> {
        let request = self.slots[slot].as_mut().expect("an answer to a request");
        // A unit attention says something of the target, and nothing was done (SAM-5 5.14).
        let retry = attention || matches!(status, ScsiStatus::BUSY | ScsiStatus::TASK_SET_FULL);
        if retry && request.retries < RETRIES_MAX && session.window() > 0 {
            request.retries += 1;
            self.report.retries += 1;
            self.submit(session, slot);
            return Ok(());
        }
        let request = self.slots[slot].take().expect("an answer to a request");
        if request.kind != Kind::Sync {
            for at in self.range(request.block) {
                self.busy[at] = false;
            }
        }
        if status != ScsiStatus::GOOD {
            self.report.errors += 1;
            return Ok(());
        }
        if let (Some(trace), true) = (&mut self.trace, request.kind != Kind::Read) {
            let number = request.number;
            trace.note(&Event::Good { number });
        }
        let nanos = u64::try_from(request.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match request.kind {
            Kind::Read => {
                self.report.reads += 1;
                self.report.bytes_read += u64::from(self.plan.request_len);
                self.read_histogram.saturating_record(nanos);
                if self.plan.verify {
                    self.judge(request.block, slot)?;
                }
            }
            Kind::Write { fua } => {
                self.report.writes += 1;
                self.report.fua_writes += u64::from(fua);
                self.report.bytes_written += u64::from(self.plan.request_len);
                self.write_histogram.saturating_record(nanos);
                for at in self.range(request.block) {
                    self.generations[at] += 1;
                    if let Some(ledger) = &mut self.ledger {
                        ledger.acknowledged(at, self.generations[at], fua);
                    }
                }
                if let Some(image) = &mut self.image
                    && (fua || self.ledger.is_none())
                {
                    image.acknowledged(request.block, &self.buffers[slot])?;
                }
            }
            Kind::Sync => {
                self.report.syncs += 1;
                let newly = self.ledger.as_mut().map(Ledger::synced);
                for (at, state) in newly.into_iter().flatten() {
                    let mut bytes = [0; STAMP_LEN as usize];
                    stamp::fill(&mut bytes, at as u64, state, self.plan.seed);
                    if let Some(image) = &mut self.image {
                        image.acknowledged(at as u64, &bytes)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares what was read with what may be there.
    fn judge(&mut self, block: u64, slot: usize) -> Result<(), ImageError> {
        let pieces = self.range(block);
        for (at, piece) in pieces.zip(self.buffers[slot].chunks(STAMP_LEN as usize)) {
            let (seed, number) = (self.plan.seed, at as u64);
            let wrong = match (&mut self.ledger, &mut self.image) {
                (None, Some(image)) => image.wrong(number, piece)? > 0,
                (None, None) => !stamp::matches(piece, number, self.generations[at], seed),
                (Some(ledger), image) => {
                    let durable = ledger.durable(at);
                    let is_durable = match image {
                        Some(image) => image.wrong(number, piece)? == 0,
                        None => stamp::matches(piece, number, durable, seed),
                    };
                    let seen = ledger.read(at, |state| match state {
                        _ if state == durable => is_durable,
                        _ => stamp::matches(piece, number, state, seed),
                    });
                    self.report.blocks_lost += u64::from(seen == Seen::Older);
                    // In the end this is what stays.
                    if let (Some(image), Some(_)) = (image, self.settled) {
                        image.acknowledged(number, piece)?;
                    }
                    seen == Seen::Wrong
                }
            };
            self.report.blocks_wrong += u64::from(wrong);
        }
        Ok(())
    }
}

fn is_attention(bytes: &[u8]) -> bool {
    sense::parse(bytes).is_some_and(|received| received.sense.key == SenseKey::UNIT_ATTENTION)
}

fn slot_of(token: u64) -> usize {
    usize::try_from(token).expect("tokens are slot numbers")
}

//! What a run does: which blocks, reads or writes, at what depth and rate; and
//! what it saw: latencies, statuses, blocks that were not what was written.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sluice_proto::iscsi::{Command, Direction, TaskAttribute};
use sluice_proto::scsi::{ScsiStatus, SenseKey, cdb, sense};

use super::image::{Image, ImageError};
use super::report::{Latency, Report};
use super::session::{Happened, Login, Session, SessionError};
use super::stamp;

/// The block of a stamp; requests are multiples of it.
pub const STAMP_LEN: u32 = 4096;
/// Attempts at a command that the target answers BUSY or TASK SET FULL.
const RETRIES_MAX: u32 = 64;
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// So long without an answer, and the target is pinged.
const PING_AFTER: Duration = Duration::from_secs(1);
/// Between two attempts to log in again.
const LOGIN_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Image(#[from] ImageError),
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
    /// 0 to 100.
    pub read_percent: u32,
    pub sequential: bool,
    /// Requests a second; none for as fast as the depth lets.
    pub rate: Option<f64>,
    pub verify: bool,
    pub seed: u64,
    /// How long to try to log in again when the session breaks; commands
    /// without an answer are then sent once more, as a computer does.
    pub reconnect_max: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    read: bool,
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
    slots: Vec<Option<Request>>,
    buffers: Vec<Vec<u8>>,
    /// Generation of each stamp block as last acknowledged.
    generations: Vec<u32>,
    /// Blocks of requests under way: two never overlap, so that a read has one right answer.
    busy: Vec<bool>,
    random: u64,
    next_sequential: u64,
    issued: u64,
    write_histogram: Histogram<u64>,
    read_histogram: Histogram<u64>,
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
            write_histogram: histogram(),
            read_histogram: histogram(),
            report: Report::default(),
            block_len,
            image,
            plan,
        }
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
            let place = if self.plan.sequential {
                self.next_sequential += 1;
                (self.next_sequential - 1) % places
            } else {
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
        let mut last_ping = begun;
        loop {
            let stop = self.issued >= self.plan.count || begun.elapsed() >= self.plan.time_max;
            self.resubmit(&mut session);
            if !stop {
                self.issue(&mut session, begun);
            }
            let under_way = self.slots.iter().any(Option::is_some);
            if stop && !under_way {
                break;
            }
            let before = self.report.writes + self.report.reads + self.report.errors;
            let mut turned = self.turn(&mut session);
            let now = Instant::now();
            if self.report.writes + self.report.reads + self.report.errors > before {
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
            } else if now - last_done.max(last_ping) > PING_AFTER {
                session.ping();
                last_ping = now;
            }
            match turned {
                Ok(true) => {}
                Ok(false) => session.wait(Duration::from_millis(1)),
                Err(RunError::Session(error)) => {
                    session = self.log_in_again(login, error)?;
                    last_done = Instant::now();
                }
                Err(error) => return Err(error),
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let mut report = self.report;
        report.seconds = seconds;
        report.iops = (report.writes + report.reads) as f64 / seconds;
        report.write = Latency::of(&self.write_histogram);
        report.read = Latency::of(&self.read_histogram);
        Ok(report)
    }

    /// One turn of the session, and what its answers mean.
    fn turn(&mut self, session: &mut Session) -> Result<bool, RunError> {
        let mut done = Vec::new();
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
                },
            )
        };
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
            let read = self.draw() % 100 < u64::from(self.plan.read_percent);
            let Some(block) = self.pick() else { return };
            for at in self.range(block) {
                self.busy[at] = true;
            }
            if !read && (self.plan.verify || self.image.is_some()) {
                for (at, piece) in self
                    .range(block)
                    .zip(self.buffers[slot].chunks_mut(STAMP_LEN as usize))
                {
                    stamp::fill(piece, at as u64, self.generations[at] + 1, self.plan.seed);
                }
            }
            self.issued += 1;
            self.slots[slot] = Some(Request {
                read,
                block,
                begun: Instant::now(),
                retries: 0,
                sent: false,
            });
            self.submit(session, slot);
        }
    }

    fn submit(&mut self, session: &mut Session, slot: usize) {
        let request = self.slots[slot].as_mut().expect("a slot in use");
        request.sent = true;
        let skipped = self.plan.skip_bytes / u64::from(STAMP_LEN);
        let lba = (skipped + request.block) * u64::from(STAMP_LEN / self.block_len);
        let blocks = self.plan.request_len / self.block_len;
        let (cdb, data) = if request.read {
            (cdb::read(lba, blocks), Direction::In(self.plan.request_len))
        } else {
            (
                cdb::write(lba, blocks),
                Direction::Out(self.plan.request_len),
            )
        };
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
        for at in self.range(request.block) {
            self.busy[at] = false;
        }
        if status != ScsiStatus::GOOD {
            self.report.errors += 1;
            return Ok(());
        }
        let nanos = u64::try_from(request.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if request.read {
            self.report.reads += 1;
            self.report.bytes_read += u64::from(self.plan.request_len);
            self.read_histogram.saturating_record(nanos);
            if self.plan.verify {
                self.report.blocks_wrong += match &mut self.image {
                    Some(image) => image.wrong(request.block, &self.buffers[slot])?,
                    None => self.wrong_stamps(request.block, slot),
                };
            }
        } else {
            self.report.writes += 1;
            self.report.bytes_written += u64::from(self.plan.request_len);
            self.write_histogram.saturating_record(nanos);
            for at in self.range(request.block) {
                self.generations[at] += 1;
            }
            if let Some(image) = &mut self.image {
                image.acknowledged(request.block, &self.buffers[slot])?;
            }
        }
        Ok(())
    }

    fn wrong_stamps(&self, block: u64, slot: usize) -> u64 {
        self.range(block)
            .zip(self.buffers[slot].chunks(STAMP_LEN as usize))
            .filter(|(at, piece)| {
                !stamp::matches(piece, *at as u64, self.generations[*at], self.plan.seed)
            })
            .count() as u64
    }
}

fn is_attention(bytes: &[u8]) -> bool {
    sense::parse(bytes).is_some_and(|received| received.sense.key == SenseKey::UNIT_ATTENTION)
}

fn slot_of(token: u64) -> usize {
    usize::try_from(token).expect("tokens are slot numbers")
}

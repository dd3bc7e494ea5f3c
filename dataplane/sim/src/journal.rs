//! The journal's thread and device, played in simulated time: the journal's
//! own core over a model disk, one write under way at a time.
//!
//! A write's payload is read from the log when the write ends, as late as a
//! device may read it. When the process or the power goes, what is under way
//! is torn, sector by sector; what the worker had asked for and nobody had
//! taken is gone.

use std::io;
use std::time::Duration;

use sluice_dataplane::journal::begin::{Disk, begin};
use sluice_dataplane::journal::layout::Block;
use sluice_dataplane::journal::line::MemoryLine;
use sluice_dataplane::journal::model::{ModelDisk, Pieces, pieces, placed};
use sluice_dataplane::journal::replay::Blocks;
use sluice_dataplane::journal::restore::Restored;
use sluice_dataplane::journal::{Core, JournalError, Line, Op, Request, Span};
use sluice_dataplane::worker::Relay;
use sluice_hugepages::log::{Log, LogError, Recovery, VolumeEntry};
use sluice_proto::Time;

use crate::random::Random;

/// The device's error number when it fails.
const EIO: i32 = 5;

#[derive(Debug)]
struct UnderWay {
    op: Op,
    head: Block,
    spans: Vec<Span>,
    ends: Time,
    /// More had been asked for when it was made.
    is_part: bool,
}

/// A journal's device, and what drives it while the process lives.
#[derive(Debug)]
pub struct Journal {
    pub disk: ModelDisk,
    core: Option<Core>,
    under_way: Option<UnderWay>,
    /// Longest that a write takes.
    pub latency_max: Duration,
    /// Nothing ends before this.
    pub stalled_until: Time,
    /// Power is to be lost right after a write that leaves out what was asked for
    /// after some free; `true` when that has happened.
    pub behind_group: Option<bool>,
    pub writes: u64,
    /// Records written again so that the tail could move.
    pub again: u64,
}

/// Why a start cannot be made; the model's log and journal are its own.
#[derive(Debug)]
pub enum Fault {
    Journal(JournalError),
    Log(LogError),
}

impl From<JournalError> for Fault {
    fn from(fault: JournalError) -> Self {
        Self::Journal(fault)
    }
}

impl From<LogError> for Fault {
    fn from(fault: LogError) -> Self {
        Self::Log(fault)
    }
}

/// What a start gives the worker.
#[derive(Debug)]
pub struct Begun {
    pub log: Log,
    pub recovery: Recovery,
    pub line: Line,
    pub restored: Option<Restored>,
}

impl Journal {
    pub fn new(blocks: u64) -> Self {
        Self {
            disk: ModelDisk::new(blocks),
            core: None,
            under_way: None,
            latency_max: Duration::from_micros(200),
            stalled_until: Time::ZERO,
            behind_group: None,
            writes: 0,
            again: 0,
        }
    }

    /// A start over what is on the disk.
    ///
    /// # Panics
    /// When a start is refused: nothing here may do that.
    pub fn begin(
        &mut self,
        open: impl FnMut(bool) -> Result<(Log, Recovery), Fault>,
        journalled: impl Fn(&VolumeEntry) -> bool,
    ) -> Begun {
        self.try_begin(open, journalled)
            .expect("a journal of our own making")
    }

    /// The same over what may be damaged.
    ///
    /// # Errors
    /// Why the start is refused.
    pub fn try_begin(
        &mut self,
        open: impl FnMut(bool) -> Result<(Log, Recovery), Fault>,
        journalled: impl Fn(&VolumeEntry) -> bool,
    ) -> Result<Begun, Fault> {
        let mut begun = begin(&mut self.disk, 7, None, open, journalled)?;
        begun.pair();
        let line = MemoryLine {
            progress: begun.core.progress(),
            ..MemoryLine::default()
        };
        self.core = Some(begun.core);
        Ok(Begun {
            log: begun.log,
            recovery: begun.recovery,
            line: Line::Memory(line),
            restored: begun.restored,
        })
    }

    /// A start in which the power fails: after so many writes, or at its end if it makes
    /// no more than those. Of the write under way a part is there; the log is gone.
    pub fn begin_and_lose_power(
        &mut self,
        writes: u64,
        open: impl FnMut(bool) -> Result<(Log, Recovery), Fault>,
        journalled: impl Fn(&VolumeEntry) -> bool,
        random: &mut Random,
    ) {
        let mut disk = Powered {
            disk: &mut self.disk,
            writes,
            random,
        };
        // An error is the power's; what else it may be, the next start has as well.
        let _ = begin(&mut disk, 7, None, open, journalled);
    }

    /// Does what is due at this moment. Whether the worker may have something to hear.
    pub fn step(&mut self, now: Time, relay: &mut Relay, random: &mut Random) -> bool {
        let Some(core) = &mut self.core else {
            return false;
        };
        let Some(line) = relay.journal_line() else {
            return false;
        };
        // The thread runs beside the worker: a group may end between any two requests.
        let asked = line.requests.len();
        let free = |request: &Request| matches!(request, Request::Free { .. });
        let last_free = line.requests.iter().rposition(free);
        let taken = match (self.behind_group, last_free, random.of(3)) {
            (Some(false), Some(at), _) => at + 1,
            (_, _, 0) => usize::try_from(random.of(asked as u64 + 1)).expect("below a usize"),
            _ => asked,
        };
        let is_part = taken < asked;
        for request in line.requests.drain(..taken) {
            core.request(request);
        }
        let mut moved = is_part;
        loop {
            if let Some(done) = self
                .under_way
                .take_if(|write| write.ends.max(self.stalled_until) <= now)
            {
                let pieces = of_log(&done, relay.log());
                let good = self.disk.write_pieces(pieces);
                core.done(good);
                self.writes += 1;
                moved = true;
                if done.is_part && good && self.behind_group == Some(false) {
                    self.behind_group = Some(true);
                    return true;
                }
                let line = relay.journal_line().expect("just seen");
                if !good {
                    line.fault = Some(EIO);
                }
            }
            let (mut head, mut spans) = (Block::ZERO, Vec::new());
            if self.under_way.is_some() {
                break;
            }
            let mut op = core.next(&mut head, &mut spans);
            if op.is_none() && core.can_be_sealed() && random.of(8) == 0 {
                core.seal();
                op = core.next(&mut head, &mut spans);
            }
            let Some(op) = op else {
                break;
            };
            let most = u64::try_from(self.latency_max.as_nanos()).expect("short");
            self.under_way = Some(UnderWay {
                op,
                head,
                spans,
                ends: now + Duration::from_nanos(1 + random.of(most.max(1))),
                is_part,
            });
        }
        self.again = self.again.max(core.progress().again);
        let line = relay.journal_line().expect("just seen");
        while let Some(wanted) = core.wanted() {
            line.wanted.push_back(wanted);
            moved = true;
        }
        moved |= line.progress != core.progress();
        line.progress = core.progress();
        moved
    }

    /// When the next write ends.
    pub fn deadline(&self) -> Time {
        self.under_way
            .as_ref()
            .map_or(Time::FAR, |write| write.ends.max(self.stalled_until))
    }

    /// The process, or the power, goes.
    pub fn stop(&mut self, log: &Log, random: &mut Random) {
        self.core = None;
        self.behind_group = None;
        let Some(write) = self.under_way.take() else {
            return;
        };
        if self.disk.fails {
            return;
        }
        tear(&mut self.disk, &of_log(&write, log), random);
    }
}

/// A disk whose power fails after so many more writes.
struct Powered<'a> {
    disk: &'a mut ModelDisk,
    writes: u64,
    random: &'a mut Random,
}

impl Blocks for Powered<'_> {
    fn blocks(&self) -> u64 {
        self.disk.blocks()
    }

    fn read(&mut self, first: u64, into: &mut [Block]) -> io::Result<()> {
        self.disk.read(first, into)
    }
}

impl Disk for Powered<'_> {
    fn write(&mut self, op: Op, staged: &[Block]) -> io::Result<()> {
        let Some(left) = self.writes.checked_sub(1) else {
            tear(self.disk, &placed(op, staged.to_vec()), self.random);
            return Err(io::Error::from_raw_os_error(EIO));
        };
        self.writes = left;
        self.disk.write(op, staged)
    }
}

fn tear(disk: &mut ModelDisk, write: &Pieces, random: &mut Random) {
    // Often nearly all of it is there, which is the harder case.
    let one_lost_in = [1, 2, 50, 10_000][usize::try_from(random.of(4)).expect("small")];
    disk.tear(write, || random.of(one_lost_in) == 0);
}

fn of_log(write: &UnderWay, log: &Log) -> Pieces {
    pieces(write.op, &write.head, &write.spans, |span| {
        log.pages(
            usize::try_from(span.offset).expect("inside the region"),
            usize::try_from(span.blocks).expect("a record is small"),
        )
    })
}

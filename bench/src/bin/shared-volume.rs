//! Two initiators on one volume: what the one has written and had acknowledged,
//! the other reads, at once and always (C-7). Blocks carry stamps of their place
//! and generation; the first block that is older than it may be ends the run.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use sluice_bench::load::session::{Happened, Login, Session, SessionError};
use sluice_bench::load::stamp;
use sluice_bench::random::Random;
use sluice_proto::iscsi::{Command, Direction, TaskAttribute};
use sluice_proto::scsi::{ScsiStatus, cdb};

/// Bytes of a stamp.
const STAMP_LEN: usize = 4096;
/// Stamps written at once, and read by the other meanwhile.
const BATCH: u64 = 16;
/// Nothing the relay holds back is held back longer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 no read was old, 1 one was or a command failed, 2 usage, 3 no session"
)]
struct Arguments {
    #[arg(long)]
    portal: SocketAddr,
    #[arg(long)]
    target: String,
    #[arg(long, default_value_t = 1)]
    lun: u8,
    /// Stamps of 4 KiB, from the start of the volume.
    #[arg(long, default_value_t = 1024)]
    stamps: u64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes a block of the volume.
    #[arg(long, default_value_t = 512)]
    block_len: u32,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    rounds: u64,
    writes: u64,
    reads: u64,
    /// Not GOOD: unit attentions after a login, BUSY.
    refused: u64,
    blocks_wrong: u64,
}

/// A command of a batch, and how it ended.
#[derive(Debug)]
struct Transfer {
    stamp: u64,
    bytes: Vec<u8>,
    status: Option<ScsiStatus>,
}

struct Volume {
    lun: u64,
    blocks_a_stamp: u32,
    seed: u64,
    /// Last acknowledged, by stamp.
    known: Vec<u32>,
}

impl Volume {
    fn submit(&self, session: &mut Session, batch: &[Transfer], writes: bool) {
        for (token, transfer) in (0..).zip(batch) {
            let lba = transfer.stamp * u64::from(self.blocks_a_stamp);
            let len = u32::try_from(STAMP_LEN).expect("4 KiB");
            let (cdb, data) = if writes {
                (cdb::write(lba, self.blocks_a_stamp), Direction::Out(len))
            } else {
                (cdb::read(lba, self.blocks_a_stamp), Direction::In(len))
            };
            session.submit(Command {
                token,
                lun: self.lun,
                cdb,
                cdb_rest: None,
                attribute: TaskAttribute::Simple,
                data,
            });
        }
    }

    fn batch(&self, first: u64, count: u64, generation: Option<u32>) -> Vec<Transfer> {
        (first..first + count)
            .map(|stamp| {
                let mut bytes = vec![0; STAMP_LEN];
                if let Some(generation) = generation {
                    stamp::fill(&mut bytes, stamp, generation, self.seed);
                }
                Transfer {
                    stamp,
                    bytes,
                    status: None,
                }
            })
            .collect()
    }

    /// Whether what was read is one of the generations that it may be.
    fn is_right(&self, transfer: &Transfer, also: Option<u32>) -> bool {
        let at = usize::try_from(transfer.stamp).expect("stamps fit memory");
        [Some(self.known[at]), also]
            .into_iter()
            .flatten()
            .any(|generation| {
                stamp::matches(&transfer.bytes, transfer.stamp, generation, self.seed)
            })
    }
}

/// Turns both sessions until all of both batches has ended.
fn finish(
    sessions: &mut [Session; 2],
    batches: &mut [Vec<Transfer>; 2],
) -> Result<(), SessionError> {
    let begun = Instant::now();
    while batches
        .iter()
        .flatten()
        .any(|transfer| transfer.status.is_none())
    {
        let mut moved = false;
        for (session, batch) in sessions.iter_mut().zip(&mut *batches) {
            let batch = std::cell::RefCell::new(batch);
            moved |= session.turn(
                |token, offset, into| {
                    let from = offset as usize;
                    let bytes = &batch.borrow()[place(token)].bytes;
                    into.copy_from_slice(&bytes[from..from + into.len()]);
                },
                |happened| {
                    let mut batch = batch.borrow_mut();
                    match happened {
                        Happened::Data {
                            token,
                            offset,
                            bytes,
                        } => {
                            let from = offset as usize;
                            batch[place(token)].bytes[from..from + bytes.len()]
                                .copy_from_slice(bytes);
                        }
                        Happened::Done { token, status, .. } => {
                            batch[place(token)].status = Some(status);
                        }
                        Happened::Pong => {}
                    }
                },
            )?;
        }
        if begun.elapsed() > PATIENCE {
            return Err(sessions[0].silent(PATIENCE));
        }
        if !moved {
            sessions[0].wait(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn place(token: u64) -> usize {
    usize::try_from(token).expect("a small number")
}

/// One writes a batch while the other reads it; then both read it again.
fn round(
    volume: &mut Volume,
    random: &mut Random,
    sessions: &mut [Session; 2],
    generation: u32,
    report: &mut Report,
) -> Result<(), SessionError> {
    let stamps = volume.known.len() as u64;
    let writer = usize::from(random.bits() & 1 == 1);
    let count = (1 + random.below(BATCH)).min(stamps);
    let first = random.below(stamps - count + 1);
    let mut batches = [
        volume.batch(first, count, (writer == 0).then_some(generation)),
        volume.batch(first, count, (writer == 1).then_some(generation)),
    ];
    for (at, session) in sessions.iter_mut().enumerate() {
        volume.submit(session, &batches[at], at == writer);
    }
    finish(sessions, &mut batches)?;
    let good = |transfer: &&Transfer| transfer.status == Some(ScsiStatus::GOOD);
    for read in batches[1 - writer].iter().filter(good) {
        report.reads += 1;
        report.blocks_wrong += u64::from(!volume.is_right(read, Some(generation)));
    }
    let mut unknown = Vec::new();
    for write in &batches[writer] {
        if write.status == Some(ScsiStatus::GOOD) {
            report.writes += 1;
            volume.known[place(write.stamp)] = generation;
        } else {
            report.refused += 1;
            unknown.push(write.stamp);
        }
    }
    let mut batches = [
        volume.batch(first, count, None),
        volume.batch(first, count, None),
    ];
    for (at, session) in sessions.iter_mut().enumerate() {
        volume.submit(session, &batches[at], false);
    }
    finish(sessions, &mut batches)?;
    for read in batches.iter().flatten().filter(good) {
        report.reads += 1;
        // A write that ended otherwise than GOOD may have been done all the same.
        let also = unknown.contains(&read.stamp).then_some(generation);
        report.blocks_wrong += u64::from(!volume.is_right(read, also));
    }
    report.rounds += 1;
    Ok(())
}

fn run(arguments: &Arguments) -> Result<Report, SessionError> {
    let [_, _, a, b] = std::process::id().to_be_bytes();
    let login = |at: u8| {
        Session::login(&Login {
            address: arguments.portal,
            initiator: format!("iqn.2004-03.example.bench:pair{at}"),
            target: arguments.target.clone(),
            chap: None,
            header_digest: false,
            data_digest: false,
            isid: [0x80, a, b, 0, 0, at],
            patience: Duration::from_secs(15),
        })
    };
    let mut sessions = [login(0)?, login(1)?];
    let mut volume = Volume {
        lun: u64::from(arguments.lun) << 48,
        blocks_a_stamp: u32::try_from(STAMP_LEN).expect("4 KiB") / arguments.block_len,
        seed: arguments.seed,
        known: vec![0; place(arguments.stamps)],
    };
    let mut report = Report::default();
    // The unit attention of a new session: TEST UNIT READY takes it.
    for _ in 0..4 {
        for session in &mut sessions {
            session.submit(Command {
                token: 0,
                lun: volume.lun,
                cdb: [0; 16],
                cdb_rest: None,
                attribute: TaskAttribute::Simple,
                data: Direction::None,
            });
        }
        let mut batches = [volume.batch(0, 1, None), volume.batch(0, 1, None)];
        finish(&mut sessions, &mut batches)?;
    }
    let mut random = Random::new(arguments.seed);
    let begun = Instant::now();
    // The first generations cover every stamp, whatever the volume held.
    for first in (0..arguments.stamps).step_by(place(BATCH)) {
        let count = BATCH.min(arguments.stamps - first);
        let mut batches = [volume.batch(first, count, Some(1)), Vec::new()];
        volume.submit(&mut sessions[0], &batches[0], true);
        finish(&mut sessions, &mut batches)?;
        for write in &batches[0] {
            let good = write.status == Some(ScsiStatus::GOOD);
            report.refused += u64::from(!good);
            volume.known[place(write.stamp)] = 1;
        }
    }
    for generation in 2.. {
        if begun.elapsed() >= Duration::from_secs(arguments.seconds) || report.blocks_wrong > 0 {
            break;
        }
        round(
            &mut volume,
            &mut random,
            &mut sessions,
            generation,
            &mut report,
        )?;
    }
    Ok(report)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let fits = [512, 1024, 2048, 4096].contains(&arguments.block_len);
    if !fits || arguments.stamps == 0 || arguments.stamps > u64::from(u32::MAX) {
        eprintln!("shared-volume: --block-len is 512 to 4096, --stamps at least 1");
        return ExitCode::from(2);
    }
    match run(&arguments) {
        Ok(report) => {
            println!(
                "{}",
                serde_json::to_string(&report).expect("a report is plain data")
            );
            let idle = report.writes == 0 || report.reads == 0;
            ExitCode::from(u8::from(
                report.blocks_wrong > 0 || report.refused > 0 || idle,
            ))
        }
        Err(error) => {
            eprintln!("shared-volume: {error}");
            ExitCode::from(3)
        }
    }
}

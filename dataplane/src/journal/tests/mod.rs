//! The journal against a disk that tears sectors, loses what was not synced,
//! and fails; and against an oracle that knows every request.

mod begin;
mod file;
mod full;
mod hostile;
mod power;

use arrayvec::ArrayString;
use sluice_hugepages::log::{VolumeEntry, VolumeFlags};

use super::core::{AREA_BLOCKS_MIN, Core, Op, Request, Span};
use super::layout::{BLOCK_LEN, Block, HEADER_BLOCKS, Identity, RowTable, WriteEntry};
use super::model::{ModelDisk, Pieces, pieces};
use super::replay::{Found, Replay, replay};

fn volume() -> VolumeEntry {
    VolumeEntry {
        target_name: ArrayString::from("iqn.2004-03.example.storage:vol0").expect("short"),
        lun: 1 << 48,
        storage: "198.19.0.10:3260".parse().expect("an address"),
        block_len: 512,
        blocks: 1 << 20,
        flags: VolumeFlags::default(),
    }
}

/// Bytes that stand for the log's region.
const LOG_LEN: usize = 16 << 20;

/// A small generator (splitmix64): a failure replays from its seed.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// A write whose payload is in `log`.
fn of_log(op: Op, head: &Block, spans: &[Span], log: &[u8]) -> Pieces {
    pieces(op, head, spans, |span| {
        let offset = usize::try_from(span.offset).expect("inside the log");
        let len = usize::try_from(span.blocks).expect("small") * BLOCK_LEN;
        &log[offset..offset + len]
    })
}

fn found(disk: &mut ModelDisk) -> Replay {
    match replay(disk).expect("a sound journal") {
        Found::Journal(replay) => *replay,
        Found::Blank => panic!("a journal was there"),
    }
}

/// Writes everything that is due.
fn settle(core: &mut Core, disk: &mut ModelDisk, log: &[u8]) {
    let (mut head, mut spans) = (Block::ZERO, Vec::new());
    while let Some(op) = core.next(&mut head, &mut spans) {
        let good = disk.write_pieces(of_log(op, &head, &spans, log));
        core.done(good);
    }
}

/// A record of `len` bytes whose payload stands at `offset` of the log.
fn write(record: u32, sequence: u64, log: &[u8], offset: usize, len: usize) -> Request {
    Request::Write {
        record,
        entry: WriteEntry {
            identity: Identity {
                volume: 1,
                sequence,
                part: 0,
            },
            parts: 1,
            flags: 0,
            epoch: 1,
            lba: sequence * 8,
            len: u32::try_from(len).expect("small"),
            payload_crc: crc32c::crc32c(&log[offset..offset + len]),
            completes: false,
            damaged: false,
        },
        offset: offset as u64,
        again: false,
    }
}

fn blocks() -> u64 {
    AREA_BLOCKS_MIN + HEADER_BLOCKS
}

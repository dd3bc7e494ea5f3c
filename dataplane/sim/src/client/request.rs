//! What the computer asks: one command at random, told to the oracle as it is issued.

use sluice_proto::Time;
use sluice_proto::iscsi::{Command, Direction, TaskAttribute};
use sluice_proto::scsi::reservation::Kind as Reserved;
use sluice_proto::scsi::{cdb, opcode};

use super::{Client, Unit};
use crate::block;
use crate::oracle::{
    Computer, Oracle, ReadTicket, ReserveTicket, Reserving, SyncTicket, WriteKind, WriteNumber,
};
use crate::random::Random;

/// Longest request, in bytes: some slow links carry little more in a second.
const REQUEST_LEN_MAX: u64 = 128 * 1024;
/// Of a read that looks whether all is there.
pub(super) const LOOK_BLOCKS: usize = 32;

#[derive(Debug)]
pub(super) enum Kind {
    Write {
        number: WriteNumber,
        kind: WriteKind,
    },
    /// COMPARE AND WRITE: a read of what is expected, and a write.
    Compare {
        number: WriteNumber,
        ticket: ReadTicket,
        lba: u64,
        expected: Vec<WriteNumber>,
    },
    Verify,
    Unmap,
    Read {
        ticket: ReadTicket,
        lba: u64,
        data: Vec<u8>,
    },
    Sync {
        ticket: SyncTicket,
    },
    /// PERSISTENT RESERVE OUT.
    Reserve {
        ticket: ReserveTicket,
    },
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) token: u64,
    pub(super) issued: Time,
    pub(super) unit: Unit,
    pub(super) kind: Kind,
    /// What a write carries.
    pub(super) payload: Vec<u8>,
}

impl Kind {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Write { kind, .. } => match kind {
                WriteKind::Plain => "a write",
                WriteKind::Ordered => "an ORDERED write",
                WriteKind::Fua => "a FUA write",
                WriteKind::Passed => "a write that passes",
            },
            Self::Compare { .. } => "a COMPARE AND WRITE",
            Self::Verify => "a VERIFY",
            Self::Unmap => "an UNMAP",
            Self::Read { .. } => "a read",
            Self::Sync { .. } => "a SYNCHRONIZE CACHE",
            Self::Reserve { .. } => "a PERSISTENT RESERVE OUT",
        }
    }

    /// The write that it is, or has in it.
    pub(super) const fn write(&self) -> Option<WriteNumber> {
        match self {
            Self::Write { number, .. } | Self::Compare { number, .. } => Some(*number),
            _ => None,
        }
    }
}

impl Client {
    /// Issues one command.
    pub(super) fn ask(&mut self, now: Time, random: &mut Random, oracles: &mut [Oracle]) {
        if let Some((unit, lba)) = self.to_look_at.pop_front() {
            return self.look_at(now, unit, lba, oracles);
        }
        let at = usize::try_from(random.of(self.units.len() as u64)).expect("few units");
        let unit = self.units[at];
        if self.workload.leaves_alone & 1 << unit.volume != 0 {
            return;
        }
        let oracle = &mut oracles[unit.volume];
        let most = REQUEST_LEN_MAX / unit.block_len as u64;
        let blocks = 1 + random.of(self.workload.request_blocks_max.min(most));
        let lba = random.of(unit.blocks - blocks + 1);
        let count = u32::try_from(blocks).expect("small");
        let len = count * u32::try_from(unit.block_len).expect("512 or 4096");
        let mut payload = Vec::new();
        let mut attribute = TaskAttribute::Simple;
        let by = self.identity.number;
        let one_in = self.workload.reserve_one_in;
        let (kind, cdb, data) = if one_in > 0 && random.of(one_in) == 0 {
            let computers = u64::from(self.workload.computers);
            let standing = self.standing.entry(unit.volume).or_default();
            reserving((by, standing), computers, &mut payload, random, oracle)
        } else if random.chance(self.workload.pass_percent) {
            // Often a long one, over whole writes that may still be in the log.
            let longest = self.workload.request_blocks_max.min(most);
            let (lba, count) = if random.chance(30) {
                let lba = lba.min(unit.blocks - longest);
                (lba, u32::try_from(longest).expect("small"))
            } else {
                (lba, count)
            };
            passing(by, unit, lba, count, &mut payload, random, oracle)
        } else if random.chance(self.workload.sync_percent) {
            (
                Kind::Sync {
                    ticket: oracle.sync_issued(),
                },
                cdb::synchronize_cache(),
                Direction::None,
            )
        } else if random.chance(self.workload.write_percent) {
            let kind = if random.chance(self.workload.fua_percent) {
                WriteKind::Fua
            } else if random.chance(self.workload.ordered_percent) {
                attribute = TaskAttribute::Ordered;
                WriteKind::Ordered
            } else {
                WriteKind::Plain
            };
            let number = oracle.write_issued_by(by, lba, count, kind);
            stamp(unit, &mut payload, number, lba, count);
            let cdb = if kind == WriteKind::Fua {
                cdb::write_fua(lba, count)
            } else {
                cdb::write(lba, count)
            };
            (Kind::Write { number, kind }, cdb, Direction::Out(len))
        } else {
            reading(by, lba, count, len, oracle)
        };
        self.issue(now, unit, (kind, cdb, data), payload, attribute);
    }

    /// Reads some of a volume, to see whether all is there.
    fn look_at(&mut self, now: Time, unit: Unit, lba: u64, oracles: &mut [Oracle]) {
        if self.workload.leaves_alone & 1 << unit.volume != 0 {
            return;
        }
        let count = u32::try_from(LOOK_BLOCKS).expect("small");
        let len = count * u32::try_from(unit.block_len).expect("512 or 4096");
        let by = self.identity.number;
        let read = reading(by, lba, count, len, &mut oracles[unit.volume]);
        self.issue(now, unit, read, Vec::new(), TaskAttribute::Simple);
    }

    fn issue(
        &mut self,
        now: Time,
        unit: Unit,
        (kind, cdb, data): Asked,
        payload: Vec<u8>,
        attribute: TaskAttribute,
    ) {
        self.issued += 1;
        let token = self.next_token;
        self.next_token += 1;
        self.requests.push(Request {
            token,
            issued: now,
            unit,
            kind,
            payload,
        });
        let conn = self
            .conn
            .as_mut()
            .expect("a ready session has a connection");
        conn.submit(Command {
            token,
            lun: unit.lun,
            cdb,
            cdb_rest: None,
            attribute,
            data,
        })
        .expect("the window was open");
    }
}

/// A command: what it is to the oracle, its CDB, and which way its data goes.
type Asked = (Kind, [u8; 16], Direction);

fn reading(by: Computer, lba: u64, blocks: u32, len: u32, oracle: &mut Oracle) -> Asked {
    let read = Kind::Read {
        ticket: oracle.read_issued_by(by),
        lba,
        data: vec![0; len as usize],
    };
    (read, cdb::read(lba, blocks), Direction::In(len))
}

/// Appends what a write of these blocks carries.
fn stamp(unit: Unit, payload: &mut Vec<u8>, number: WriteNumber, lba: u64, blocks: u32) {
    for lba in lba..lba + u64::from(blocks) {
        let from = payload.len();
        payload.resize(from + unit.block_len, 0);
        block::fill(&mut payload[from..], number, block::tag(unit.volume) | lba);
    }
}

/// A command that the relay passes on: WRITE AND VERIFY, WRITE SAME of a
/// block, COMPARE AND WRITE, VERIFY, or an UNMAP, which the storage may take for a hint.
fn passing(
    by: Computer,
    unit: Unit,
    lba: u64,
    blocks: u32,
    payload: &mut Vec<u8>,
    random: &mut Random,
    oracle: &mut Oracle,
) -> Asked {
    let mut cdb = [0; 16];
    let sixteen = |cdb: &mut [u8; 16], blocks: u32| {
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    };
    let kind = match random.of(10) {
        0..4 => {
            cdb = cdb::write(lba, blocks);
            cdb[0] = opcode::WRITE_AND_VERIFY_10;
            let number = oracle.write_issued_by(by, lba, blocks, WriteKind::Passed);
            stamp(unit, payload, number, lba, blocks);
            Kind::Write {
                number,
                kind: WriteKind::Passed,
            }
        }
        4..6 => {
            cdb[0] = opcode::WRITE_SAME_16;
            sixteen(&mut cdb, 1);
            let number = oracle.write_issued_by(by, lba, 1, WriteKind::Passed);
            stamp(unit, payload, number, lba, 1);
            Kind::Write {
                number,
                kind: WriteKind::Passed,
            }
        }
        6..8 => {
            let blocks = blocks.min(4);
            cdb[0] = opcode::COMPARE_AND_WRITE;
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[13] = u8::try_from(blocks).expect("at most 4");
            let ticket = oracle.read_issued_by(by);
            let expected: Vec<_> = (lba..lba + u64::from(blocks))
                .map(|block| oracle.expected(block))
                .collect();
            for (&number, lba) in expected.iter().zip(lba..) {
                stamp(unit, payload, number, lba, 1);
            }
            let number = oracle.write_issued_by(by, lba, blocks, WriteKind::Passed);
            stamp(unit, payload, number, lba, blocks);
            Kind::Compare {
                number,
                ticket,
                lba,
                expected,
            }
        }
        8 => {
            cdb = cdb::read(lba, blocks);
            cdb[0] = opcode::VERIFY_10;
            return (Kind::Verify, cdb, Direction::None);
        }
        _ => {
            cdb[0] = opcode::UNMAP;
            cdb[8] = 24;
            payload.resize(24, 0);
            payload[1] = 22;
            payload[3] = 16;
            payload[8..16].copy_from_slice(&lba.to_be_bytes());
            payload[16..20].copy_from_slice(&blocks.to_be_bytes());
            Kind::Unmap
        }
    };
    let len = u32::try_from(payload.len()).expect("a short request");
    (kind, cdb, Direction::Out(len))
}

/// A computer's key: its number, told from no key.
const fn key(computer: u64) -> u64 {
    0xA100 + computer
}

/// What a computer takes itself for, of a volume.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Standing {
    #[default]
    Nothing,
    Registered,
    Holder(Reserved),
}

/// Registers, takes the volume for itself or gives it back, or drives another out.
fn reserving(
    (by, standing): (Computer, &mut Standing),
    computers: u64,
    payload: &mut Vec<u8>,
    random: &mut Random,
    oracle: &mut Oracle,
) -> Asked {
    let kind = [
        Reserved::WriteExclusive,
        Reserved::WriteExclusive,
        Reserved::ExclusiveAccess,
        Reserved::WriteExclusiveRegistrants,
        Reserved::ExclusiveAccessRegistrants,
        Reserved::WriteExclusiveAll,
    ][random.below(6)];
    let what = match (*standing, random.of(10)) {
        (Standing::Nothing, 0..8) | (_, 0) => Reserving::Register,
        (Standing::Holder(held), 1..5) => Reserving::Release(held),
        (Standing::Registered, 1..4) => Reserving::Reserve(kind),
        (_, 8) => Reserving::Clear,
        (_, 9) => Reserving::Unregister,
        _ => Reserving::Preempt(kind),
    };
    let own = key(u64::from(by));
    // Service action, key, key that it is about, TYPE.
    let (action, registered, about, held, then) = match what {
        Reserving::Register => (6, 0, own, None, Standing::Registered),
        Reserving::Unregister => (6, 0, 0, None, Standing::Nothing),
        Reserving::Reserve(kind) => (1, own, 0, Some(kind), Standing::Holder(kind)),
        Reserving::Release(kind) => (2, own, 0, Some(kind), Standing::Registered),
        Reserving::Clear => (3, own, 0, None, Standing::Nothing),
        Reserving::Preempt(kind) => {
            let other = key(random.of(computers));
            (4, own, other, Some(kind), Standing::Holder(kind))
        }
    };
    *standing = then;
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode::PERSISTENT_RESERVE_OUT, action);
    cdb[2] = held.map_or(0, Reserved::code);
    cdb[8] = 24;
    payload.extend(registered.to_be_bytes());
    payload.extend(about.to_be_bytes());
    payload.resize(24, 0);
    let ticket = oracle.reserve_issued(by, what);
    (Kind::Reserve { ticket }, cdb, Direction::Out(24))
}

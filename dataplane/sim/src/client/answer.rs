//! What the end of a command means to the oracle.

use sluice_proto::iscsi::Residual;
use sluice_proto::scsi::{ScsiStatus, SenseKey, sense};

use super::ClientCounters;
use super::request::{Kind, Request};
use crate::block;
use crate::oracle::{Oracle, WriteKind, WriteNumber};

/// A command was answered with this status, residual and sense data.
pub(super) fn answered(
    request: &Request,
    (status, residual): (ScsiStatus, Residual),
    bytes: &[u8],
    counters: &mut ClientCounters,
    oracle: &mut Oracle,
) {
    let Request { unit, kind, .. } = request;
    // GOOD of a part of the data is no GOOD: of which part nobody says (RFC 7143 11.4.5).
    let short = status == ScsiStatus::GOOD && residual != Residual::None;
    let good = status == ScsiStatus::GOOD && !short;
    let key = (status == ScsiStatus::CHECK_CONDITION)
        .then(|| sense::parse(bytes))
        .flatten()
        .map(|received| received.sense.key);
    let attention = key == Some(SenseKey::UNIT_ATTENTION);
    if !good {
        match status {
            ScsiStatus::BUSY | ScsiStatus::TASK_SET_FULL => counters.busy += 1,
            ScsiStatus::TASK_ABORTED => counters.task_aborted += 1,
            ScsiStatus::RESERVATION_CONFLICT => counters.conflicts += 1,
            ScsiStatus::CHECK_CONDITION if attention => counters.attentions += 1,
            ScsiStatus::CHECK_CONDITION if key == Some(SenseKey::MISCOMPARE) => {
                counters.compares_failed += 1;
            }
            _ => counters.errors += 1,
        }
    }
    match kind {
        Kind::Write { number, kind } if good => {
            oracle.write_acknowledged(*number);
            match kind {
                WriteKind::Plain => counters.writes_good += 1,
                WriteKind::Ordered => counters.ordered_good += 1,
                WriteKind::Fua => counters.fua_good += 1,
                WriteKind::Passed => counters.passed_writes_good += 1,
            }
        }
        Kind::Compare {
            number,
            ticket,
            lba,
            expected,
        } if good => {
            counters.compares_good += 1;
            oracle.read_answered(*ticket, *lba, expected);
            oracle.write_acknowledged(*number);
        }
        // Another computer's reset has ended it (SAM-5 5.3.1).
        Kind::Write { number, .. } | Kind::Compare { number, .. }
            if status == ScsiStatus::TASK_ABORTED =>
        {
            oracle.write_ended(*number);
        }
        Kind::Write { number, .. } | Kind::Compare { number, .. } if short => {
            oracle.write_unknown(*number);
        }
        Kind::Write { number, .. } | Kind::Compare { number, .. }
            if key.is_some_and(leaves_open) && oracle.may_have_passed(*number) =>
        {
            oracle.write_unknown(*number);
        }
        Kind::Write { number, .. } | Kind::Compare { number, .. } => {
            oracle.write_refused(*number);
        }
        Kind::Read { ticket, lba, data } if good => {
            counters.reads_good += 1;
            let numbers: Vec<WriteNumber> = data
                .chunks(unit.block_len)
                .zip(*lba..)
                .map(|(piece, lba)| {
                    block::number(piece, block::tag(unit.volume) | lba).unwrap_or(WriteNumber::MAX)
                })
                .collect();
            oracle.read_answered(*ticket, *lba, &numbers);
        }
        Kind::Sync { ticket } if good => {
            counters.syncs_good += 1;
            oracle.sync_acknowledged(*ticket);
        }
        Kind::Verify => counters.verifies_good += u64::from(good),
        Kind::Unmap => counters.unmaps_good += u64::from(good),
        Kind::Reserve { .. } if short || key == Some(SenseKey::ABORTED_COMMAND) => {
            counters.reserves_unclear += 1;
            oracle.reserve_lost();
        }
        Kind::Reserve { ticket } => {
            counters.reserves_good += u64::from(good);
            // Another computer's reset has ended it; it may have been done before.
            counters.reserves_unclear += u64::from(status == ScsiStatus::TASK_ABORTED);
            oracle.reserve_answered(*ticket, good);
        }
        Kind::Read { .. } | Kind::Sync { .. } => {}
    }
}

/// Whether the storage may have done a command that passed and was answered so: its own
/// answer may be lost, or be GOOD, and what the command was to outlive (a failed flush or
/// sync of the volume, with whatever sense the storage gave to that) be told instead (C-2).
fn leaves_open(key: SenseKey) -> bool {
    !matches!(key, SenseKey::UNIT_ATTENTION | SenseKey::MISCOMPARE)
}

#[cfg(test)]
mod tests {
    use sluice_proto::Time;
    use sluice_proto::scsi::Sense;

    use super::super::Unit;
    use super::*;
    use crate::oracle::Violation;

    /// What the oracle says of a storage that holds a write which was answered so.
    fn shows_after(kind: WriteKind, status: ScsiStatus, sense: &[u8]) -> Vec<Violation> {
        let mut oracle = Oracle::new(1);
        let number = oracle.write_issued(0, 1, kind);
        let request = Request {
            token: 1,
            issued: Time::default(),
            unit: Unit {
                lun: 0,
                volume: 0,
                block_len: 512,
                blocks: 1,
            },
            kind: Kind::Write { number, kind },
            payload: Vec::new(),
        };
        let ended = (status, Residual::None);
        let mut counters = ClientCounters::default();
        answered(&request, ended, sense, &mut counters, &mut oracle);
        oracle.storage_changed(&[number], &[number]);
        oracle.violations
    }

    /// The volume's failure ends what the storage has taken and nobody could make durable.
    #[test]
    fn what_passed_and_ended_in_the_volumes_failure_may_show() {
        let told = |sense: Sense| (ScsiStatus::CHECK_CONDITION, sense.fixed().to_vec());
        let failures = [
            told(Sense::INTERNAL_TARGET_FAILURE),
            told(Sense::WRITE_PROTECTED),
            told(Sense::LBA_OUT_OF_RANGE),
            told(Sense::COMMUNICATION_FAILURE),
        ];
        for (status, sense) in &failures {
            assert_eq!(
                shows_after(WriteKind::Passed, *status, sense),
                [],
                "{sense:x?}"
            );
            assert_ne!(
                shows_after(WriteKind::Plain, *status, sense),
                [],
                "{sense:x?}"
            );
        }
        for (status, sense) in [
            (ScsiStatus::BUSY, Vec::new()),
            told(Sense::POWER_ON_OR_RESET),
        ] {
            assert_ne!(
                shows_after(WriteKind::Passed, status, &sense),
                [],
                "{status:?}"
            );
        }
    }
}

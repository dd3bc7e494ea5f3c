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
        // The storage may have done it, and the answer be lost.
        Kind::Write { number, .. } | Kind::Compare { number, .. }
            if key == Some(SenseKey::ABORTED_COMMAND) && oracle.may_have_passed(*number) =>
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

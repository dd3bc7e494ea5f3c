//! Live records are moved together while the log is short of room, so that what
//! newer writes have hidden does not fill it: in an outage nothing else would free
//! half-dead segments.
//!
//! What always holds: a step moves [`PAGES_A_STEP`] at most; a record whose bytes the
//! journal may be reading where they stand stays until it does not.
//!
//! Not for: how a record moves ([`sluice_hugepages::log`]).

use std::time::Duration;

use sluice_hugepages::log::{Emptying, Moved};
use sluice_proto::Time;

use super::relay::Relay;

/// Copied and checksummed in some 10 µs.
const PAGES_A_STEP: u16 = 16;
/// Between two looks at all segments when none was worth emptying.
const SEARCH_PAUSE: Duration = Duration::from_millis(10);

/// What is being emptied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Compaction {
    emptying: Option<Emptying>,
    search_at: Time,
}

impl Relay {
    /// Moves what may be moved, if room is short. Whether there is more to do.
    pub(super) fn compact(&mut self, now: Time) -> bool {
        let mut pages_left = PAGES_A_STEP;
        while pages_left > 0 && self.is_short_of_room() {
            let Some(mut emptying) = self.segment_to_empty(now) else {
                return false;
            };
            let Some(record) = self.log.next_to_move(&mut emptying) else {
                self.compaction.emptying = None;
                continue;
            };
            if self.journal_reads(record.0) {
                self.compaction.emptying = Some(emptying);
                return false;
            }
            let free = self.log.room().segments_free;
            match self.log.move_record(record) {
                Moved::Pages(pages) => {
                    self.counters.records_moved += 1;
                    pages_left = pages_left.saturating_sub(pages);
                }
                // Its volume fails when it is flushed or read.
                Moved::Unsound => self.log.pass_over(&mut emptying),
                Moved::NoRoom => {
                    self.compaction = Compaction {
                        emptying: Some(emptying),
                        search_at: now + SEARCH_PAUSE,
                    };
                    return false;
                }
            }
            self.compaction.emptying = Some(emptying);
            let freed = self.log.room().segments_free > free;
            self.room_moved |= freed && !self.held.is_empty();
        }
        pages_left == 0
    }

    /// Begun before writes have to wait, so that they need not where it helps.
    fn is_short_of_room(&self) -> bool {
        let room = self.log.room();
        room.segments_free <= self.margin_segments + (room.segments_total / 16).max(1)
    }

    fn segment_to_empty(&mut self, now: Time) -> Option<Emptying> {
        let Compaction {
            emptying,
            search_at,
        } = &mut self.compaction;
        if now < *search_at {
            return None;
        }
        if emptying.is_none() {
            *emptying = self.log.sparsest_segment();
            if emptying.is_none() {
                *search_at = now + SEARCH_PAUSE;
            }
        }
        *emptying
    }
}

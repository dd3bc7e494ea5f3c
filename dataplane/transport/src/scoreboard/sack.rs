//! SACK blocks onto the board (RFC 2018, 5), each part of a block once.

use super::{Delivered, Scoreboard, State};
use crate::segment::SACK_BLOCKS_MAX;

/// Blocks remembered from the last acknowledgement.
pub(super) const KNOWN_MAX: usize = SACK_BLOCKS_MAX;

impl Scoreboard {
    /// Takes the blocks of one acknowledgement, each within what is outstanding.
    /// `delivered` hears of what was not sacked before.
    pub fn sack(&mut self, blocks: &[(u64, u64)], mut delivered: impl FnMut(Delivered)) {
        for &block in blocks {
            if let Some(part) = self.unknown_part(block) {
                self.sack_part(block, part, &mut delivered);
            }
        }
        self.known = [(0, 0); KNOWN_MAX];
        for (known, &block) in self.known.iter_mut().zip(blocks) {
            *known = block;
        }
    }

    /// What of a block the last acknowledgement did not say. A block of thousands of
    /// segments comes again with every acknowledgement, grown by one or two.
    fn unknown_part(&self, (left, right): (u64, u64)) -> Option<(u64, u64)> {
        let (mut from, mut to) = (left, right);
        for &(known_left, known_right) in &self.known {
            if known_left <= from && from < known_right {
                from = known_right;
            }
            if known_left < to && to <= known_right {
                to = known_left;
            }
        }
        (from < to).then_some((from, to))
    }

    /// Sacks what lies wholly within `block` and at least partly in `part` of it.
    fn sack_part(
        &mut self,
        block: (u64, u64),
        part: (u64, u64),
        delivered: &mut impl FnMut(Delivered),
    ) {
        let first = self.ring.partition_point(|sent| sent.end <= part.0);
        for index in first..self.ring.len() {
            let sent = self.ring[index];
            if sent.start >= part.1 {
                break;
            }
            let within = block.0 <= sent.start && sent.end <= block.1;
            if !within || sent.state == State::Sacked {
                continue;
            }
            let id = self.id_at(index);
            self.leave(id);
            self[id].state = State::Sacked;
            self.sacked_segments += 1;
            self.highest_sacked = self.highest_sacked.max(sent.end);
            delivered(Delivered::of(&sent, sent.bytes(), sent.end));
        }
    }
}

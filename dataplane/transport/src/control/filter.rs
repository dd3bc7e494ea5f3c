//! The greatest of the last rounds.

use crate::rate::Rate;

/// Rounds that the filter spans: a cycle of probing and some.
pub(super) const ROUNDS: usize = 10;

/// The greatest rate of the last [`ROUNDS`] rounds, kept round by round.
#[derive(Clone, Debug, Default)]
pub(super) struct MaxFilter {
    rounds: [Rate; ROUNDS],
    at: usize,
    max: Rate,
}

impl MaxFilter {
    pub fn push(&mut self, rate: Rate) {
        let slot = &mut self.rounds[self.at];
        *slot = rate.max(*slot);
        self.max = self.max.max(rate);
    }

    /// A round is over, and the oldest is forgotten, unless nothing else is known.
    pub fn advance(&mut self) {
        self.at = (self.at + 1) % ROUNDS;
        let forgotten = std::mem::take(&mut self.rounds[self.at]);
        let max = self.rounds.iter().copied().max().unwrap_or_default();
        if max == Rate::ZERO {
            self.rounds[self.at] = forgotten;
            return;
        }
        self.max = max;
    }

    /// The greatest counts as of now.
    pub fn refresh(&mut self) {
        self.push(self.max);
    }

    pub const fn max(&self) -> Rate {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_lasts_ten_rounds() {
        let rate = Rate::from_bytes_per_s;
        let mut filter = MaxFilter::default();
        filter.push(rate(100));
        for _ in 0..9 {
            filter.advance();
            filter.push(rate(20));
            assert_eq!(filter.max(), rate(100));
        }
        filter.refresh();
        filter.advance();
        assert_eq!(filter.max(), rate(100), "refreshed in its last round");
        for _ in 0..9 {
            filter.advance();
            filter.push(rate(20));
        }
        assert_eq!(filter.max(), rate(20));
        for _ in 0..50 {
            filter.advance();
        }
        assert_eq!(filter.max(), rate(20), "the last thing known");
    }
}

//! Places of a stream that were spoken of.

/// Ranges in order, none touching another.
#[derive(Clone, Debug, Default)]
pub struct Ranges(Vec<(i64, i64)>);

impl Ranges {
    pub fn insert(&mut self, mut start: i64, mut end: i64) {
        if start >= end {
            return;
        }
        self.0.retain(|&(left, right)| {
            let apart = right < start || end < left;
            if !apart {
                (start, end) = (start.min(left), end.max(right));
            }
            apart
        });
        let at = self.0.partition_point(|&(left, _)| left < start);
        self.0.insert(at, (start, end));
    }

    /// Whether all of it is there.
    pub fn covers(&self, start: i64, end: i64) -> bool {
        let mut ranges = self.0.iter();
        ranges.any(|&(left, right)| left <= start && end <= right)
    }

    /// Where what begins at or before the first byte ends.
    pub fn prefix(&self) -> i64 {
        let first = self.0.iter().find(|&&(left, right)| left <= 0 && right > 0);
        first.map_or(0, |&(_, right)| right)
    }

    pub fn end(&self) -> i64 {
        self.0.last().map_or(0, |&(_, right)| right)
    }
}

//! Order (A-19, C-5): what the storage shows is never past an ordering point
//! that it does not show whole.

use super::{Fate, Oracle, WriteKind, WriteNumber, blocks_of};

impl Oracle {
    pub(super) fn check_order(&mut self, image: &[WriteNumber], rule: &'static str) {
        for (block, &number) in image.iter().enumerate() {
            if let Some(why) = self.impossible(number, block as u64) {
                return self.report(rule, format!("block {block} holds {why}"));
            }
        }
        // The newest ordering point that some visible write was issued after.
        let newest = image
            .iter()
            .filter(|&&number| number != 0)
            .map(|&number| self.write(number).issued)
            .max();
        let Some(newest) = newest else { return };
        let issued = self
            .points
            .iter()
            .filter(|point| point.acknowledged < newest)
            .map(|point| point.issued)
            .max();
        let Some(issued) = issued else { return };
        for (block, &is) in image.iter().enumerate() {
            if let Some(number) = self.newest_before(block, issued)
                && self.is_before(is, number)
            {
                let (is, number) = (self.tell(is), self.tell(number));
                return self.report(rule, format!(
                    "a write issued at {newest}, after an ordering point issued at {issued}, shows; yet block {block} holds {is} and not {number}"
                ));
            }
        }
        self.check_points_show(image, newest, rule);
    }

    /// A write that is itself an ordering point shows before any later one (C-5).
    fn check_points_show(&mut self, image: &[WriteNumber], newest: u64, rule: &'static str) {
        let point = self.writes.iter().enumerate().rev().find(|(_, write)| {
            matches!(write.kind, WriteKind::Ordered | WriteKind::Fua)
                && matches!(write.fate, Fate::Acknowledged(at) if at < newest)
        });
        let Some((at, &write)) = point else { return };
        let number = WriteNumber::try_from(at + 1).expect("a trace is short");
        let is_missing = |&block: &usize| {
            self.is_before(image[block], number) && !self.is_excused(block, number)
        };
        if let Some(block) = blocks_of(&write).find(is_missing) {
            let (is, number) = (self.tell(image[block]), self.tell(number));
            self.report(
                rule,
                format!(
                    "a write issued at {newest} shows, after {number}; yet block {block} holds {is}"
                ),
            );
        }
    }
}

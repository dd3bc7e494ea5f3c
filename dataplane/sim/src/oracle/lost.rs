//! Nothing lost, when all is drained and quiet.

use super::{Fate, Oracle, WriteNumber, blocks_of};

impl Oracle {
    /// Everything is drained and quiet.
    pub fn finish(&mut self, visible: &[WriteNumber]) {
        for number in 1..=WriteNumber::try_from(self.writes.len()).expect("a trace is short") {
            let write = *self.write(number);
            if !matches!(write.fate, Fate::Acknowledged(_)) {
                continue;
            }
            for block in blocks_of(&write)
                .filter(|&block| !self.excused.contains(&(block, number)))
                .collect::<Vec<_>>()
            {
                let images = [
                    ("answers", visible[block], true),
                    ("media", self.media[block], !write.forgotten),
                ];
                for (image, holds, is_owed) in images {
                    if is_owed && self.is_before(holds, number) {
                        let (number, holds) = (self.tell(number), self.tell(holds));
                        self.report(
                            "nothing lost",
                            format!("{number}; at the end block {block} ({image}) holds {holds}"),
                        );
                    }
                }
            }
        }
    }
}

//! Fresh reads (A-20, C-7, C-9): a block read is never from before a write
//! that was acknowledged, to whichever computer, when the read was issued.

use super::{Oracle, ReadTicket, WriteNumber};

impl Oracle {
    /// A read was answered GOOD with these write numbers, a block each from `lba`.
    pub fn read_answered(&mut self, ticket: ReadTicket, lba: u64, numbers: &[WriteNumber]) {
        self.now();
        self.reads_checked += 1;
        self.check_read_fenced(ticket);
        for (&number, block) in numbers.iter().zip(lba..) {
            if let Some(why) = self.impossible(number, block) {
                self.report(
                    "a read of what was written",
                    format!("block {block} holds {why}"),
                );
                continue;
            }
            let at = usize::try_from(block).expect("a small volume");
            let newer = self
                .newest_before(at, ticket.issued)
                .filter(|&newer| self.is_before(number, newer));
            if let Some(newer) = newer {
                let (number, newer) = (self.tell(number), self.tell(newer));
                self.report(
                    "fresh reads",
                    format!("block {block} was read as {number}; newer was {newer}"),
                );
            }
        }
    }
}

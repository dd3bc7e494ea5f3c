//! Proportional Rate Reduction (RFC 6937): while in recovery the window goes down to the
//! new threshold in step with what is delivered, neither at once nor in a burst.

#[derive(Clone, Copy, Debug, Default)]
pub struct Prr {
    delivered: u64,
    out: u64,
    /// RecoverFS: what was outstanding when the recovery began.
    flight: u64,
    threshold: u64,
}

impl Prr {
    /// RFC 6937, 3: a recovery begins.
    pub fn begin(&mut self, flight: u64, threshold: u64) {
        *self = Self {
            delivered: 0,
            out: 0,
            flight: flight.max(1),
            threshold,
        };
    }

    /// An acknowledgement delivered so much; `pipe` is left in flight. Says the window.
    pub fn on_ack(&mut self, delivered: u64, pipe: u64, mss: u64) -> u64 {
        self.delivered += delivered;
        let count = if pipe > self.threshold {
            // Proportional: CEIL(prr_delivered * ssthresh / RecoverFS) - prr_out.
            let share = u128::from(self.delivered) * u128::from(self.threshold);
            let share = share.div_ceil(u128::from(self.flight));
            u64::try_from(share)
                .unwrap_or(u64::MAX)
                .saturating_sub(self.out)
        } else {
            // PRR-SSRB: grow back to the threshold by a segment more than was delivered.
            let limit = self.delivered.saturating_sub(self.out).max(delivered) + mss;
            (self.threshold - pipe).min(limit)
        };
        // The first retransmission goes out in any case.
        let count = if self.out == 0 { count.max(mss) } else { count };
        pipe + count
    }

    pub const fn on_send(&mut self, bytes: u64) {
        self.out += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6937, 4, first example: a window of 20 segments, one lost, halved to 10.
    /// "ack#  X 1 2 3 4 5 ...": one segment out for every two acknowledgements, and in
    /// the end the window is the threshold.
    #[test]
    fn rfc_6937_section_4_one_loss_of_twenty() {
        let mut prr = Prr::default();
        prr.begin(20, 10);
        let (mut pipe, mut sent) = (19, Vec::new());
        for ack in 1..=19u64 {
            pipe -= 1;
            // The third duplicate began it; each acknowledgement delivers one.
            let window = prr.on_ack(1, pipe, 1);
            let now = window - pipe;
            prr.on_send(now);
            pipe += now;
            if now > 0 {
                sent.push(ack);
            }
        }
        assert_eq!(sent[..8], [1, 3, 5, 7, 9, 11, 13, 15]);
        assert_eq!(pipe, 10);
    }

    /// RFC 6937, 4, second example: 15 of 20 are lost. What is delivered may be sent, and
    /// one more, so that the window grows back towards the threshold.
    #[test]
    fn rfc_6937_section_4_a_burst_of_losses() {
        let mut prr = Prr::default();
        prr.begin(20, 10);
        let mut pipe = 4;
        for _ in 0..4 {
            pipe -= 1;
            let now = prr.on_ack(1, pipe, 1) - pipe;
            assert_eq!(now, 2, "one for what was delivered and one more");
            prr.on_send(now);
            pipe += now;
        }
        assert_eq!(pipe, 8);
        for _ in 0..4 {
            pipe -= 1;
            let now = prr.on_ack(1, pipe, 1) - pipe;
            prr.on_send(now);
            pipe += now;
        }
        assert_eq!(pipe, 10, "and no further");
    }
}

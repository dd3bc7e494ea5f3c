//! Tail loss probes (RFC 8985, 7): when nothing is heard for two round trips, one segment
//! goes out, so that an acknowledgement comes and [`super::Rack`] sees what is missing,
//! long before the timeout.

use std::time::Duration;

/// What a receiver may hold an acknowledgement back for (TLP.max_ack_delay), where only
/// one segment is out.
const ACK_DELAY_MAX: Duration = Duration::from_millis(200);

/// Before there is a round trip.
const WITHOUT_RTT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default)]
pub struct Tlp {
    /// TLP.end_seq and TLP.is_retrans, from a probe until it is answered.
    probe: Option<(u64, bool)>,
}

/// What an acknowledgement says of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// Nothing yet, or nothing was lost.
    Nothing,
    /// The probe repaired a loss: congestion control is to hear of it.
    Repaired,
}

impl Tlp {
    /// TLP_calc_PTO, 7.2.
    #[must_use]
    pub fn timeout(srtt: Option<Duration>, segments: usize) -> Duration {
        let Some(srtt) = srtt else {
            return WITHOUT_RTT;
        };
        let delay = if segments == 1 {
            ACK_DELAY_MAX
        } else {
            Duration::ZERO
        };
        srtt * 2 + delay
    }

    /// 7.3: one probe at a time.
    #[must_use]
    pub const fn may_probe(&self) -> bool {
        self.probe.is_none()
    }

    pub const fn on_probe(&mut self, end: u64, resent: bool) {
        self.probe = Some((end, resent));
    }

    /// TLP_process_ack, 7.4.2. `duplicate`: a D-SACK whose right edge is the probe's end.
    pub fn on_ack(&mut self, una: u64, duplicate: Option<u64>) -> ProbeOutcome {
        let Some((end, resent)) = self.probe else {
            return ProbeOutcome::Nothing;
        };
        if una < end {
            return ProbeOutcome::Nothing;
        }
        if !resent || duplicate.is_some_and(|right| right >= end) {
            self.probe = None;
            return ProbeOutcome::Nothing;
        }
        if una > end {
            // All that came after the probe is there, and no word of a duplicate.
            self.probe = None;
            return ProbeOutcome::Repaired;
        }
        // The original's or the probe's acknowledgement: the next one tells.
        ProbeOutcome::Nothing
    }

    pub const fn reset(&mut self) {
        self.probe = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    #[test]
    fn rfc_8985_section_7_2_timeout() {
        assert_eq!(Tlp::timeout(None, 3), Duration::from_secs(1));
        assert_eq!(Tlp::timeout(Some(RTT), 3), RTT * 2);
        assert_eq!(Tlp::timeout(Some(RTT), 1), RTT * 2 + ACK_DELAY_MAX);
    }

    #[test]
    fn rfc_8985_section_7_4_loss_or_none() {
        let mut tlp = Tlp::default();
        tlp.on_probe(900, true);
        assert!(!tlp.may_probe());
        assert_eq!(tlp.on_ack(900, None), ProbeOutcome::Nothing);
        assert_eq!(tlp.on_ack(901, None), ProbeOutcome::Repaired);
        assert!(tlp.may_probe());
        tlp.on_probe(900, true);
        assert_eq!(
            tlp.on_ack(900, Some(900)),
            ProbeOutcome::Nothing,
            "a duplicate"
        );
        assert!(tlp.may_probe());
        tlp.on_probe(900, false);
        assert_eq!(tlp.on_ack(900, None), ProbeOutcome::Nothing, "new data");
        assert!(tlp.may_probe());
    }
}

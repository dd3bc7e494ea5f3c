//! The offering side of a negotiation: what it offers, and which answers it takes.
//! A target that grants more than was asked breaks the negotiation.

use super::key::{Key, LEN_MIN, boolean, number, number_u16, yes_no};
use super::{Answers, DigestPolicy, Failed, Offers, Parameters};
use crate::iscsi::text;

/// The side that offers first: an initiator.
#[derive(Debug)]
pub(in crate::iscsi) struct Proposal {
    offers: Offers,
    /// Offered, and of these not yet answered.
    offered: u32,
    pub(super) open: u32,
    /// Keys that only the target brought up.
    answers: Answers,
    parameters: Parameters,
}

impl Proposal {
    pub(in crate::iscsi) fn new(offers: Offers, discovery: bool) -> Self {
        Self {
            offers,
            offered: 0,
            open: 0,
            answers: Answers::new(offers, discovery),
            parameters: Parameters {
                max_recv_data_segment_length: offers.max_recv_data_segment_length,
                ..Parameters::default()
            },
        }
    }

    /// Appends all offers.
    pub(in crate::iscsi) fn offer(&mut self, request: &mut Vec<u8>) {
        let offers = self.offers;
        let discovery = self.answers.discovery;
        for (name, key) in Key::ALL {
            if discovery && key.only_normal() {
                continue;
            }
            match key {
                Key::HeaderDigest => text::push(request, name, offers.header_digest.offer()),
                Key::DataDigest => text::push(request, name, offers.data_digest.offer()),
                Key::MaxConnections => text::push(request, name, 1),
                Key::InitialR2t => text::push(request, name, yes_no(offers.initial_r2t)),
                Key::ImmediateData => text::push(request, name, yes_no(offers.immediate_data)),
                Key::MaxRecvDataSegmentLength => {
                    text::push(request, name, offers.max_recv_data_segment_length);
                }
                Key::MaxBurstLength => text::push(request, name, offers.max_burst_length),
                Key::FirstBurstLength => text::push(request, name, offers.first_burst_length),
                Key::DefaultTime2Wait => text::push(request, name, offers.default_time2wait_s),
                Key::DefaultTime2Retain => text::push(request, name, offers.default_time2retain_s),
                Key::MaxOutstandingR2t => text::push(request, name, offers.max_outstanding_r2t),
                Key::DataPduInOrder | Key::DataSequenceInOrder => text::push(request, name, "Yes"),
                Key::ErrorRecoveryLevel => text::push(request, name, 0),
                // Asking for these gains nothing: their defaults are ours.
                Key::ProtocolLevel
                | Key::TaskReporting
                | Key::IfMarker
                | Key::OfMarker
                | Key::IfMarkInt
                | Key::OfMarkInt => continue,
            }
            if key != Key::MaxRecvDataSegmentLength {
                self.offered |= 1 << key as u32;
                self.open |= 1 << key as u32;
            }
        }
    }

    /// Takes one key of a login response; what the target brought up itself is
    /// answered into `request`.
    pub(in crate::iscsi) fn take(
        &mut self,
        name: &str,
        value: &str,
        request: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let key = Key::from_name(name).filter(|key| self.offered & (1 << *key as u32) != 0);
        let Some(key) = key else {
            return self.answers.answer(name, value, request);
        };
        if self.open & (1 << key as u32) == 0 {
            // 6.3: one answer to an offer.
            return Err(Failed);
        }
        self.open &= !(1 << key as u32);
        if matches!(value, "NotUnderstood" | "Irrelevant" | "Reject") {
            // The default stays (6.2); a required digest fails in `settled`.
            return Ok(());
        }
        // 6.2.2: a result lies within what was offered.
        let offers = self.offers;
        let ours = &mut self.parameters;
        let digest = |policy: DigestPolicy| match value {
            "None" if policy.admits(false) => Ok(false),
            "CRC32C" if policy.admits(true) => Ok(true),
            _ => Err(Failed),
        };
        match key {
            Key::HeaderDigest => ours.header_digest = digest(offers.header_digest)?,
            Key::DataDigest => ours.data_digest = digest(offers.data_digest)?,
            Key::MaxConnections => {
                number(value, 1, 1)?;
            }
            Key::InitialR2t => {
                ours.initial_r2t = boolean(value)?;
                if offers.initial_r2t && !ours.initial_r2t {
                    return Err(Failed);
                }
            }
            Key::ImmediateData => {
                ours.immediate_data = boolean(value)?;
                if ours.immediate_data && !offers.immediate_data {
                    return Err(Failed);
                }
            }
            Key::MaxBurstLength => {
                ours.max_burst_length = number(value, LEN_MIN, offers.max_burst_length)?;
            }
            Key::FirstBurstLength => {
                ours.first_burst_length = number(value, LEN_MIN, offers.first_burst_length)?;
            }
            Key::DefaultTime2Wait => {
                ours.default_time2wait_s = number_u16(value, offers.default_time2wait_s, 3600)?;
            }
            Key::DefaultTime2Retain => {
                ours.default_time2retain_s = number_u16(value, 0, offers.default_time2retain_s)?;
            }
            Key::MaxOutstandingR2t => {
                ours.max_outstanding_r2t = number_u16(value, 1, offers.max_outstanding_r2t)?;
            }
            Key::DataPduInOrder | Key::DataSequenceInOrder => {
                if !boolean(value)? {
                    return Err(Failed);
                }
            }
            Key::ErrorRecoveryLevel => {
                number(value, 0, 0)?;
            }
            Key::MaxRecvDataSegmentLength
            | Key::ProtocolLevel
            | Key::TaskReporting
            | Key::IfMarker
            | Key::OfMarker
            | Key::IfMarkInt
            | Key::OfMarkInt => unreachable!("never open: not offered, or declarative"),
        }
        Ok(())
    }

    /// The result, once both sides went to full feature phase.
    pub(in crate::iscsi) fn settled(&self) -> Result<Parameters, Failed> {
        let mut parameters = self.parameters;
        parameters.peer_max_recv_data_segment_length =
            self.answers.parameters.peer_max_recv_data_segment_length;
        // 6.2.2: an AND that was offered No is No though the answer is left out.
        if self.open & (1 << Key::ImmediateData as u32) != 0 {
            parameters.immediate_data &= self.offers.immediate_data;
        }
        parameters.settle();
        let admitted = self.offers.header_digest.admits(parameters.header_digest)
            && self.offers.data_digest.admits(parameters.data_digest);
        if admitted {
            Ok(parameters)
        } else {
            Err(Failed)
        }
    }
}

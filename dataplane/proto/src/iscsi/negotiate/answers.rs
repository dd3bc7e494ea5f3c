//! The answering side of a negotiation. Not for: keys that are not operational.

use super::key::{Key, LEN_MAX, LEN_MIN, boolean, number, number_u16, yes_no};
use super::{Failed, Offers, Parameters};
use crate::iscsi::text;

/// The side that answers a list of offers: a target, and an initiator for
/// keys that only the target brought up.
#[derive(Debug)]
pub(in crate::iscsi) struct Answers {
    offers: Offers,
    pub(super) discovery: bool,
    /// Keys that were negotiated; a second time is an error (6.3).
    seen: u32,
    /// FirstBurstLength waits for its answer.
    first_burst_due: bool,
    pub(in crate::iscsi) parameters: Parameters,
}

impl Answers {
    pub(in crate::iscsi) fn new(offers: Offers, discovery: bool) -> Self {
        Self {
            offers,
            discovery,
            seen: 0,
            first_burst_due: false,
            parameters: Parameters {
                max_recv_data_segment_length: offers.max_recv_data_segment_length,
                ..Parameters::default()
            },
        }
    }

    /// Takes one key and appends its answer to `reply`; some stand there when
    /// [`Answers::finish`] has seen the end of the text.
    pub(in crate::iscsi) fn answer(
        &mut self,
        name: &str,
        value: &str,
        reply: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let Some(key) = Key::from_name(name) else {
            // 6.2: a key that is not known is answered, not ignored.
            text::push(reply, name, "NotUnderstood");
            return Ok(());
        };
        let bit = 1 << key as u32;
        if self.seen & bit != 0 {
            return Err(Failed);
        }
        self.seen |= bit;
        if self.discovery && key.only_normal() {
            text::push(reply, name, "Irrelevant");
            return Ok(());
        }
        let offers = self.offers;
        let ours = &mut self.parameters;
        match key {
            Key::HeaderDigest | Key::DataDigest => {
                let (policy, digest) = if key == Key::HeaderDigest {
                    (offers.header_digest, &mut ours.header_digest)
                } else {
                    (offers.data_digest, &mut ours.data_digest)
                };
                match policy.choose(value) {
                    Some(chosen) => {
                        *digest = chosen;
                        text::push(reply, name, if chosen { "CRC32C" } else { "None" });
                    }
                    None => text::push(reply, name, "Reject"),
                }
            }
            Key::MaxConnections => {
                // Minimum (13.2), and ours is 1.
                number(value, 1, 65_535)?;
                text::push(reply, name, 1);
            }
            Key::InitialR2t => {
                // OR (13.10).
                ours.initial_r2t = boolean(value)? || offers.initial_r2t;
                text::push(reply, name, yes_no(ours.initial_r2t));
            }
            Key::ImmediateData => {
                // AND (13.11).
                ours.immediate_data = boolean(value)? && offers.immediate_data;
                text::push(reply, name, yes_no(ours.immediate_data));
            }
            Key::MaxRecvDataSegmentLength => {
                // Declarative: no answer (13.12).
                ours.peer_max_recv_data_segment_length = number(value, LEN_MIN, LEN_MAX)?;
            }
            Key::MaxBurstLength => {
                // Minimum (13.13), as the next (13.14).
                ours.max_burst_length =
                    number(value, LEN_MIN, LEN_MAX)?.min(offers.max_burst_length);
                text::push(reply, name, ours.max_burst_length);
            }
            Key::FirstBurstLength => {
                ours.first_burst_length =
                    number(value, LEN_MIN, LEN_MAX)?.min(offers.first_burst_length);
                self.first_burst_due = true;
            }
            Key::DefaultTime2Wait => {
                // Maximum (13.15).
                ours.default_time2wait_s =
                    number_u16(value, 0, 3600)?.max(offers.default_time2wait_s);
                text::push(reply, name, ours.default_time2wait_s);
            }
            Key::DefaultTime2Retain => {
                // Minimum (13.16).
                ours.default_time2retain_s =
                    number_u16(value, 0, 3600)?.min(offers.default_time2retain_s);
                text::push(reply, name, ours.default_time2retain_s);
            }
            Key::MaxOutstandingR2t => {
                // Minimum (13.17).
                ours.max_outstanding_r2t =
                    number_u16(value, 1, u16::MAX)?.min(offers.max_outstanding_r2t);
                text::push(reply, name, ours.max_outstanding_r2t);
            }
            Key::DataPduInOrder | Key::DataSequenceInOrder => {
                // OR function (13.18, 13.19), and we always say Yes.
                boolean(value)?;
                text::push(reply, name, "Yes");
            }
            Key::ErrorRecoveryLevel => {
                // Minimum (13.20), and ours is 0.
                number(value, 0, 2)?;
                text::push(reply, name, 0);
            }
            Key::ProtocolLevel => {
                // 1 is RFC 7143; the lower one holds (13.24).
                let level = number(value, 0, 31)?.min(1);
                text::push(reply, name, level);
            }
            Key::TaskReporting => {
                // 13.23: RFC3720 semantics, all answers before a TMF response.
                let known = value.split(',').any(|value| value == "RFC3720");
                text::push(reply, name, if known { "RFC3720" } else { "Reject" });
            }
            // Dropped (13.25): a responder may decline them in the old words.
            Key::IfMarker | Key::OfMarker => {
                boolean(value)?;
                text::push(reply, name, "No");
            }
            Key::IfMarkInt | Key::OfMarkInt => text::push(reply, name, "Reject"),
        }
        Ok(())
    }

    /// Appends the answers that depend on the rest of the text: FirstBurstLength is not
    /// above MaxBurstLength (13.14), which may stand behind it.
    pub(in crate::iscsi) fn finish(&mut self, reply: &mut Vec<u8>) {
        if std::mem::take(&mut self.first_burst_due) {
            self.parameters.settle();
            text::push(
                reply,
                "FirstBurstLength",
                self.parameters.first_burst_length,
            );
        }
    }

    /// The result, once the peer has nothing more to say (6.3.3).
    pub(in crate::iscsi) fn settled(&self) -> Result<Parameters, Failed> {
        let mut parameters = self.parameters;
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

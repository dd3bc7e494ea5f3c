//! Text negotiation in full feature phase (RFC 7143 6.4, 11.10, 11.11,
//! Appendix C): SendTargets, and keys an initiator may still declare.
//!
//! What always holds: one exchange at a time; a request's text is bounded; a
//! long reply goes out in pieces, each asked for by the initiator.

use super::transmit::Control;
use super::{SendTargetsScope, TargetConn, TargetEvent};
use crate::iscsi::wire::{RESERVED_TAG, TextRequest, TextResponse};
use crate::iscsi::{Violation, name, negotiate, text};
use std::net::SocketAddr;

/// The transfer tag while the initiator is to go on; one exchange at a time
/// needs one value.
const GO_ON_TAG: u32 = 1;

#[derive(Debug, Default)]
pub(super) struct TextExchange {
    pub(super) scope: SendTargetsScope,
    request: Vec<u8>,
    reply: Vec<u8>,
    /// Bytes of `reply` that are out.
    sent: usize,
    itt: u32,
    lun: u64,
    /// The last request had the F bit.
    ends: bool,
    /// We gave a transfer tag that the initiator has not used.
    open: bool,
    awaiting_caller: bool,
    queued: bool,
    /// The initiator's new MaxRecvDataSegmentLength, which holds when the exchange is over.
    pub(super) data_segment_len_max: Option<u32>,
}

impl TextExchange {
    pub(super) const fn waits(&self) -> bool {
        self.awaiting_caller || self.queued
    }

    pub(super) fn begin(&mut self, pdu: &TextRequest) -> Result<(), Violation> {
        if pdu.ttt == RESERVED_TAG {
            // 11.10.4: a new exchange; what was open is forgotten.
            self.request.clear();
            self.reply.clear();
            self.sent = 0;
            self.data_segment_len_max = None;
        } else if !self.open || pdu.ttt != GO_ON_TAG || pdu.itt != self.itt {
            return Err(Violation::TransferTag);
        }
        self.open = false;
        self.itt = pdu.itt;
        self.lun = pdu.lun;
        self.ends = pdu.is_final;
        Ok(())
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        text::append(&mut self.request, bytes).map_err(|_| Violation::Text)
    }

    /// The header of the next response, and its text into `out`.
    pub(super) fn next_chunk(&mut self, len_max: usize, out: &mut Vec<u8>) -> TextResponse {
        self.queued = false;
        let rest = &self.reply[self.sent..];
        let chunk = &rest[..rest.len().min(len_max)];
        out.extend_from_slice(chunk);
        let continues = chunk.len() < rest.len();
        self.sent += chunk.len();
        let is_final = self.ends && !continues;
        self.open = !is_final;
        TextResponse {
            is_final,
            continues,
            lun: self.lun,
            itt: self.itt,
            ttt: if is_final { RESERVED_TAG } else { GO_ON_TAG },
        }
    }
}

impl TargetConn {
    pub(super) fn text_arrived(
        &mut self,
        pdu: &TextRequest,
    ) -> Result<Option<TargetEvent<'static>>, Violation> {
        let exchange = &mut self.text;
        if exchange.sent < exchange.reply.len() || pdu.continues {
            // The initiator asks for the rest of the reply, or has more to say.
            self.queue_text();
            return Ok(None);
        }
        exchange.reply.clear();
        exchange.sent = 0;
        let mut scope = None;
        let request = std::mem::take(&mut exchange.request);
        for (count, pair) in text::pairs(&request).enumerate() {
            let (key, value) = pair.map_err(|_| Violation::Text)?;
            if count == text::PAIRS_MAX {
                return Err(Violation::Text);
            }
            let discovery = self.login.request.discovery;
            let reply = &mut self.text.reply;
            match key {
                "SendTargets" => match value {
                    // Appendix C: All belongs to discovery sessions, the empty
                    // value to normal ones.
                    "All" if discovery => scope = Some(SendTargetsScope::All),
                    "" if !discovery => scope = Some(SendTargetsScope::Session),
                    "All" | "" => text::push(reply, key, "Reject"),
                    _ => {
                        let name = name(value).ok_or(Violation::Text)?;
                        scope = Some(SendTargetsScope::Named(name));
                    }
                },
                "MaxRecvDataSegmentLength" => {
                    // 13.12: may be declared anew at any time.
                    let len_max = negotiate::data_segment_length(value);
                    self.text.data_segment_len_max = Some(len_max.ok_or(Violation::Negotiation)?);
                }
                // Declared (13.7).
                "InitiatorAlias" => {}
                _ if negotiate::is_known(key) => text::push(reply, key, "Reject"),
                _ => text::push(reply, key, "NotUnderstood"),
            }
        }
        if let Some(scope) = scope {
            self.text.scope = scope;
            self.text.awaiting_caller = true;
            return Ok(Some(TargetEvent::SendTargets));
        }
        self.queue_text();
        Ok(None)
    }

    fn queue_text(&mut self) {
        self.text.queued = true;
        self.queue_untasked(Control::Text);
    }

    /// Answers `SendTargets` with (name, portal, portal group tag) of each
    /// target; portals of one target follow each other.
    ///
    /// # Panics
    /// If no `SendTargets` event waits for an answer.
    pub fn send_targets<'n>(
        &mut self,
        targets: impl IntoIterator<Item = (&'n str, SocketAddr, u16)>,
    ) {
        if self.phase == super::Phase::Closing {
            return;
        }
        assert!(self.text.awaiting_caller, "answers SendTargets, once");
        self.text.awaiting_caller = false;
        let mut last = None;
        for (name, address, group_tag) in targets {
            if last != Some(name) {
                text::push(&mut self.text.reply, "TargetName", name);
                last = Some(name);
            }
            let portal = format_args!("{address},{group_tag}");
            text::push(&mut self.text.reply, "TargetAddress", portal);
        }
        self.queue_text();
    }
}

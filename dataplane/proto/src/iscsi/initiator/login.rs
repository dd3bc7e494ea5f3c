//! Login at the initiator (RFC 7143 6.3). Without CHAP it is one request with
//! everything in it, straight in the operational stage, so that a login costs
//! one round trip; with CHAP it starts in the security stage.
//!
//! What always holds: the number of rounds is bounded; whatever the storage
//! grants lies within what was offered; nothing but names and proofs is said
//! before a storage that must prove itself has done so. Not for: CHAP itself,
//! see `chap`.

use super::receive::Step;
use super::{InitiatorConfig, InitiatorConn, InitiatorEvent, LoginFailure, Phase};
use crate::iscsi::chap::{Keys, Prover};
use crate::iscsi::negotiate::Proposal;
use crate::iscsi::outbound::Payload;
use crate::iscsi::wire::{LoginRequestPdu, LoginResponsePdu, Stage};
use crate::iscsi::{Violation, text};

/// Most requests of one login. Two do with any target of sound mind: one
/// with our keys, one that answers keys of its own.
const ROUNDS_MAX: u32 = 16;
/// The stage that ends with a request, if it does.
type Next = Option<Stage>;

#[derive(Debug)]
pub(super) struct Login {
    proposal: Proposal,
    prover: Option<Prover>,
    stage: Stage,
    next: Next,
    pub(super) text: Vec<u8>,
    request: Vec<u8>,
    /// The request waits to be sent.
    pub(super) ready: bool,
    /// It only asks for the rest of a response.
    asks_rest: bool,
    rounds: u32,
    pub(super) tsih: u16,
}

impl Login {
    /// Takes the secrets out of `config`: they are dropped with the login.
    pub(super) fn new(config: &mut InitiatorConfig) -> Self {
        let discovery = config.target_name.is_none();
        let mut proposal = Proposal::new(config.offers, discovery);
        let prover = config.chap.take().map(Prover::new);
        let mut request = Vec::new();
        text::push(&mut request, "InitiatorName", config.initiator_name);
        let session_type = if discovery { "Discovery" } else { "Normal" };
        text::push(&mut request, "SessionType", session_type);
        if let Some(target_name) = &config.target_name {
            text::push(&mut request, "TargetName", target_name);
        }
        let (stage, next) = if let Some(prover) = &prover {
            prover.offer(&mut request);
            (Stage::Security, None)
        } else {
            proposal.offer(&mut request);
            (Stage::Operational, Some(Stage::FullFeature))
        };
        Self {
            proposal,
            prover,
            stage,
            next,
            text: Vec::new(),
            request,
            ready: true,
            asks_rest: false,
            rounds: 0,
            tsih: 0,
        }
    }

    /// Reads a whole response; `request` gets what is to be said next.
    fn read_keys(&mut self) -> Result<(), Violation> {
        self.request.clear();
        let security = self.stage == Stage::Security;
        let (mut method, mut chap) = (None, Keys::default());
        for (count, pair) in text::pairs(&self.text).enumerate() {
            let (key, value) = pair.map_err(|_| Violation::Text)?;
            if count == text::PAIRS_MAX {
                return Err(Violation::Text);
            }
            match key {
                // Declared by the target; nothing to answer (13.6, 13.8, 13.9, 13.26).
                "TargetPortalGroupTag" | "TargetAlias" | "TargetAddress" | "X#NodeArchitecture" => {
                }
                "AuthMethod" if security => {
                    if method.replace(value).is_some() {
                        return Err(Violation::Authentication);
                    }
                }
                // Said unasked, after a login that began without security.
                "AuthMethod" => {}
                _ if security
                    && chap
                        .take(key, value)
                        .map_err(|_| Violation::Authentication)? => {}
                _ => self
                    .proposal
                    .take(key, value, &mut self.request)
                    .map_err(|_| Violation::Negotiation)?,
            }
        }
        if security && let Some(prover) = &mut self.prover {
            prover
                .take(method, &chap, &mut self.request)
                .map_err(|_| Violation::Authentication)?;
            self.next = prover.may_end().then_some(Stage::Operational);
        }
        self.text.clear();
        Ok(())
    }

    /// The storage let the security stage end: now the operational keys.
    fn enter_operational(&mut self) {
        self.prover = None;
        self.stage = Stage::Operational;
        self.next = Some(Stage::FullFeature);
        self.proposal.offer(&mut self.request);
    }
}

impl InitiatorConn {
    pub(super) fn begin_login_request(&mut self) {
        let login = &mut self.login;
        login.ready = false;
        let asks_rest = std::mem::take(&mut login.asks_rest);
        let request = LoginRequestPdu {
            stage: login.stage,
            next: login.next.filter(|_| !asks_rest),
            continues: false,
            version_max: 0,
            version_min: 0,
            // Keys of the whole session go with this, its leading connection (13).
            isid: self.config.isid,
            tsih: 0,
            itt: super::transmit::LOGIN_TAG,
            cid: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        let inline = &mut self.outbound.inline;
        inline.clear();
        if !asks_rest {
            inline.extend_from_slice(&login.request);
        }
        self.outbound.begin(request.emit(), Payload::Inline);
    }

    pub(super) fn login_arrived(&mut self, pdu: &LoginResponsePdu) -> Step<'static> {
        if pdu.status_class != 0 {
            self.phase = Phase::Closed;
            return Ok(Some(InitiatorEvent::LoginFailed(LoginFailure {
                class: pdu.status_class,
                detail: pdu.status_detail,
            })));
        }
        if pdu.itt != super::transmit::LOGIN_TAG
            || pdu.isid != self.config.isid
            || pdu.stage != self.login.stage
            || !(pdu.next.is_none() || pdu.next == self.login.next)
        {
            return Err(Violation::Field);
        }
        let login = &mut self.login;
        login.rounds += 1;
        if login.rounds == ROUNDS_MAX {
            return Err(Violation::Negotiation);
        }
        if pdu.continues {
            login.asks_rest = true;
            login.ready = true;
            return Ok(None);
        }
        login.read_keys()?;
        if pdu.next != Some(Stage::FullFeature) {
            if pdu.next == Some(Stage::Operational) {
                login.enter_operational();
            }
            login.ready = true;
            return Ok(None);
        }
        self.parameters = login
            .proposal
            .settled()
            .map_err(|_| Violation::Negotiation)?;
        login.tsih = pdu.tsih;
        login.request = Vec::new();
        login.text = Vec::new();
        // Digests start after the PDU that ends login (13.1).
        let digests = self.parameters.digests();
        self.inbound
            .enter_full_feature(digests, self.parameters.max_recv_data_segment_length);
        self.outbound.set_digests(digests);
        self.phase = Phase::FullFeature;
        Ok(Some(InitiatorEvent::LoggedIn))
    }
}

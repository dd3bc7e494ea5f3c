//! Login at the target (RFC 7143 6.3): names, stages, keys, status.
//!
//! What always holds: the caller is asked what the initiator must prove as
//! soon as names are known, and whether it may come in once it has proved it;
//! nothing is granted before; a refusal is a Login Response with the precise
//! status of 11.13.5, after which the connection ends. Not for: CHAP itself,
//! see `chap`.

use super::transmit::Control;
use super::{Phase, TargetConn, TargetEvent};
use crate::iscsi::chap::{Demand, Keys, Verifier};
use crate::iscsi::login_status::{self, Status};
use crate::iscsi::negotiate::{Answers, Offers, Parameters};
use crate::iscsi::outbound::Payload;
use crate::iscsi::wire::{Bhs, LoginRequestPdu, LoginResponsePdu, Stage};
use crate::iscsi::{IscsiName, Violation, name, text};

/// Who wants to log in, and to what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoginRequest {
    pub initiator_name: IscsiName,
    /// None in a discovery session, which names no target.
    pub target_name: Option<IscsiName>,
    pub isid: [u8; 6],
    /// 0 for a new session (or reinstatement of the one with the same ISID);
    /// any other asks for a connection in that session.
    pub tsih: u16,
    pub cid: u16,
    pub discovery: bool,
}

#[derive(Debug)]
pub(super) struct Login {
    pub(super) request: LoginRequest,
    offers: Offers,
    answers: Answers,
    /// The request that is answered next.
    pdu: Option<LoginRequestPdu>,
    stage: Stage,
    text: Vec<u8>,
    reply: Vec<u8>,
    tsih: u16,
    status: Status,
    /// The leading request's names were read.
    named: bool,
    /// Its other keys were not.
    leading: bool,
    /// `AuthMethod` was answered.
    method_chosen: bool,
    /// What the initiator has to prove, if anything.
    verifier: Option<Verifier>,
    /// The caller was asked whether the initiator may come in.
    announced: bool,
    awaiting_caller: bool,
    pub(super) response_queued: bool,
    group_tag_sent: bool,
    /// Our MaxRecvDataSegmentLength was declared.
    declared: bool,
}

impl Login {
    pub(super) fn new(offers: Offers) -> Self {
        Self {
            request: LoginRequest::default(),
            offers,
            answers: Answers::new(offers, false),
            pdu: None,
            stage: Stage::Security,
            text: Vec::new(),
            reply: Vec::new(),
            tsih: 0,
            status: login_status::SUCCESS,
            named: false,
            leading: true,
            method_chosen: false,
            verifier: None,
            announced: false,
            awaiting_caller: false,
            response_queued: false,
            group_tag_sent: false,
            declared: false,
        }
    }

    pub(super) const fn waits(&self) -> bool {
        self.awaiting_caller || self.response_queued
    }

    /// Reads the keys of a whole request; `reply` gets the answers.
    fn read_keys(&mut self, pdu: &LoginRequestPdu) -> Result<(), Status> {
        let security = pdu.stage == Stage::Security;
        let unproved = login_status::AUTHENTICATION_FAILURE;
        // An initiator that must prove itself starts in the security stage (6.3.2).
        if self.must_prove() && !security {
            return Err(unproved);
        }
        let mut chap = Keys::default();
        for pair in text::pairs(&self.text) {
            let (key, value) = pair.map_err(|_| login_status::INITIATOR_ERROR)?;
            match key {
                // Leading keys lead, once (13.4, 13.5, 13.21).
                "InitiatorName" | "TargetName" | "SessionType" if self.leading => {}
                "InitiatorName" | "TargetName" | "SessionType" => {
                    return Err(login_status::INITIATOR_ERROR);
                }
                // Declared; there is nothing to answer (13.7, 13.26).
                "InitiatorAlias" | "X#NodeArchitecture" => {}
                // A target's to say, or full feature phase's (13.3, 13.6, 13.8, 13.9).
                "TargetAlias" | "TargetAddress" | "TargetPortalGroupTag" | "SendTargets" => {
                    return Err(login_status::INITIATOR_ERROR);
                }
                // 12.1: the first key of the security stage, once.
                "AuthMethod" if !security || self.method_chosen => {
                    return Err(login_status::INITIATOR_ERROR);
                }
                "AuthMethod" => {
                    self.method_chosen = true;
                    match &mut self.verifier {
                        Some(verifier) => verifier
                            .method(value, &mut self.reply)
                            .map_err(|_| unproved)?,
                        None if value.split(',').any(|method| method == "None") => {
                            text::push(&mut self.reply, key, "None");
                        }
                        None => return Err(unproved),
                    }
                }
                // 9.2: keys out of their step are the initiator's error.
                _ if chap
                    .take(key, value)
                    .map_err(|_| login_status::INITIATOR_ERROR)? =>
                {
                    if !security {
                        return Err(login_status::INITIATOR_ERROR);
                    }
                }
                _ => self
                    .answers
                    .answer(key, value, &mut self.reply)
                    .map_err(|_| login_status::INITIATOR_ERROR)?,
            }
        }
        self.answers.finish(&mut self.reply);
        match &mut self.verifier {
            Some(verifier) => verifier.take(&chap, &mut self.reply)?,
            None if chap.is_empty() => {}
            None => return Err(login_status::INITIATOR_ERROR),
        }
        // 6.3.2: who wants to leave without a word of CHAP is not waited for.
        if self.must_prove() && pdu.next.is_some() && !self.method_chosen {
            return Err(unproved);
        }
        self.leading = false;
        self.text.clear();
        Ok(())
    }

    /// The stage that this response goes on to. An initiator may say with every
    /// request that it is ready (libiscsi does); it stays until it has proved
    /// what it must.
    fn granted(&self) -> Option<Stage> {
        let pdu = self.pdu.expect("a request is answered");
        pdu.next.filter(|_| {
            !pdu.continues && !self.must_prove() && self.status == login_status::SUCCESS
        })
    }

    /// Whether the initiator still has something to prove.
    fn must_prove(&self) -> bool {
        self.verifier
            .as_ref()
            .is_some_and(|verifier| !verifier.passed())
    }

    /// 6.3.1: who, to what, and for which kind of session.
    fn read_names(&mut self) -> Result<(), Status> {
        if text::pairs(&self.text).take(text::PAIRS_MAX + 1).count() > text::PAIRS_MAX {
            return Err(login_status::INITIATOR_ERROR);
        }
        let (mut initiator, mut target, mut session_type) = (None, None, None);
        for pair in text::pairs(&self.text) {
            let (key, value) = pair.map_err(|_| login_status::INITIATOR_ERROR)?;
            let slot = match key {
                "InitiatorName" => &mut initiator,
                "TargetName" => &mut target,
                "SessionType" => &mut session_type,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(login_status::INITIATOR_ERROR);
            }
        }
        self.request.discovery = match session_type {
            None | Some("Normal") => false,
            Some("Discovery") => true,
            Some(_) => return Err(login_status::SESSION_TYPE_NOT_SUPPORTED),
        };
        let initiator = initiator.ok_or(login_status::MISSING_PARAMETER)?;
        self.request.initiator_name = name(initiator).ok_or(login_status::INITIATOR_ERROR)?;
        self.request.target_name = match target {
            _ if self.request.discovery => None,
            Some(target) => Some(name(target).ok_or(login_status::NOT_FOUND)?),
            None => return Err(login_status::MISSING_PARAMETER),
        };
        Ok(())
    }
}

impl TargetConn {
    pub(super) fn login_header(&mut self, bhs: &Bhs) -> Result<Option<LoginRequestPdu>, Violation> {
        let Ok(pdu) = LoginRequestPdu::parse(bhs) else {
            return Err(Violation::Field);
        };
        let first = self.login.pdu.replace(pdu);
        let Some(first) = first else {
            // The leading request starts all counts (4.2.2).
            self.exp_cmd_sn = pdu.cmd_sn;
            self.max_cmd_sn = pdu.cmd_sn.wrapping_sub(1);
            self.stat_sn = pdu.exp_stat_sn;
            self.login.stage = pdu.stage;
            self.login.request.isid = pdu.isid;
            self.login.request.tsih = pdu.tsih;
            self.login.request.cid = pdu.cid;
            if pdu.version_min > 0 {
                self.refuse_login(login_status::UNSUPPORTED_VERSION);
                return Ok(None);
            }
            return Ok(Some(pdu));
        };
        let same = pdu.itt == first.itt
            && pdu.isid == first.isid
            && pdu.tsih == first.tsih
            && pdu.cid == first.cid
            && pdu.stage == self.login.stage;
        if !same {
            self.refuse_login(login_status::INVALID_DURING_LOGIN);
            return Ok(None);
        }
        Ok(Some(pdu))
    }

    pub(super) fn login_data(&mut self, bytes: &[u8]) -> Option<TargetEvent<'static>> {
        if text::append(&mut self.login.text, bytes).is_ok() {
            return None;
        }
        self.refuse_login(login_status::INITIATOR_ERROR);
        Some(TargetEvent::Violation(Violation::Text))
    }

    pub(super) fn login_arrived(&mut self, pdu: LoginRequestPdu) -> Option<TargetEvent<'static>> {
        self.login.reply.clear();
        if pdu.continues {
            // 6.2: an empty response asks for the rest.
            self.login.response_queued = true;
            self.queue_untasked(Control::Login);
            return None;
        }
        if !self.login.named {
            if let Err(status) = self.login.read_names() {
                return Some(self.break_off(status));
            }
            let login = &mut self.login;
            login.named = true;
            login.answers = Answers::new(login.offers, login.request.discovery);
            if self.config.authenticates {
                login.awaiting_caller = true;
                return Some(TargetEvent::Authenticate);
            }
        }
        self.login_go_on()
    }

    /// Says what the initiator must prove before it is let in, and goes on with
    /// the request that is here: `Login` or `Violation`, or nothing yet.
    ///
    /// # Panics
    /// If no `Authenticate` event waits for an answer.
    pub fn authenticate(&mut self, demand: Demand) -> Option<TargetEvent<'static>> {
        if self.phase == Phase::Closing {
            return None;
        }
        let login = &mut self.login;
        assert!(
            login.awaiting_caller && login.leading && !login.announced,
            "answers an Authenticate event, once"
        );
        login.awaiting_caller = false;
        login.verifier = match demand {
            Demand::Nothing => None,
            Demand::Chap(demand) => Some(Verifier::new(demand)),
        };
        self.login_go_on()
    }

    /// Answers the request that is here, its names known.
    fn login_go_on(&mut self) -> Option<TargetEvent<'static>> {
        let login = &mut self.login;
        let pdu = login.pdu.expect("a request is answered");
        if let Err(status) = login.read_keys(&pdu) {
            return Some(self.break_off(status));
        }
        if !login.announced && !login.must_prove() {
            login.announced = true;
            login.awaiting_caller = true;
            return Some(TargetEvent::Login);
        }
        self.answer_login();
        std::mem::take(&mut self.logged_in_pending).then_some(TargetEvent::LoggedIn)
    }

    /// Refuses what breaks the protocol, or proves nothing: a negotiation that fails ends the
    /// login (7.12).
    fn break_off(&mut self, status: Status) -> TargetEvent<'static> {
        self.refuse_login(status);
        TargetEvent::Violation(if status == login_status::AUTHENTICATION_FAILURE {
            Violation::Authentication
        } else {
            Violation::Negotiation
        })
    }

    /// Lets the initiator in. `tsih` names the session and is not 0.
    ///
    /// # Panics
    /// If no `Login` event waits for an answer, or `tsih` is 0.
    pub fn accept_login(&mut self, tsih: u16) {
        assert_ne!(tsih, 0, "0 means no session (RFC 7143 11.12.6)");
        if self.phase == Phase::Closing {
            return;
        }
        assert!(
            self.login.awaiting_caller && self.login.announced,
            "answers a Login event, once"
        );
        self.login.awaiting_caller = false;
        self.login.tsih = tsih;
        self.answer_login();
    }

    /// Refuses the initiator with a status of RFC 7143 11.13.5, see
    /// [`login_status`].
    ///
    /// # Panics
    /// If no `Login` event waits for an answer, or the class is 0 (success).
    pub fn reject_login(&mut self, class: u8, detail: u8) {
        assert_ne!(class, 0, "a refusal is not a success");
        if self.phase == Phase::Closing {
            return;
        }
        assert!(self.login.awaiting_caller, "answers a Login event, once");
        self.refuse_login((class, detail));
    }

    /// Something else came than the Login Request that was due, or one that is malformed.
    pub(super) fn break_login(&mut self, violation: Violation) {
        match (self.login.pdu, violation) {
            (None, _) => self.close(),
            (Some(_), Violation::Phase | Violation::Opcode) => {
                self.refuse_login(login_status::INVALID_DURING_LOGIN);
            }
            (Some(_), _) => self.refuse_login(login_status::INITIATOR_ERROR),
        }
    }

    fn refuse_login(&mut self, status: Status) {
        self.close();
        self.login.awaiting_caller = false;
        self.login.reply.clear();
        self.login.status = status;
        self.queue_untasked(Control::Login);
    }

    fn answer_login(&mut self) {
        let group_tag = self.config.target_portal_group_tag;
        let login = &mut self.login;
        let pdu = login.pdu.expect("a request is answered");
        if !login.request.discovery && !login.group_tag_sent {
            // 13.9: with the first response of a session that names a target.
            text::push(&mut login.reply, "TargetPortalGroupTag", group_tag);
        }
        login.group_tag_sent = true;
        if pdu.stage == Stage::Operational && !login.declared {
            let len = login.offers.max_recv_data_segment_length;
            text::push(&mut login.reply, "MaxRecvDataSegmentLength", len);
            login.declared = true;
        }
        // Only garbage keys make it longer than a login PDU may be.
        let reply_len_max = Parameters::default().peer_max_recv_data_segment_length;
        if login.reply.len() > reply_len_max as usize {
            self.refuse_login(login_status::INITIATOR_ERROR);
            return;
        }
        if login.granted() == Some(Stage::FullFeature) {
            let Ok(mut parameters) = login.answers.settled() else {
                self.refuse_login(login_status::INITIATOR_ERROR);
                return;
            };
            if !login.declared {
                parameters.max_recv_data_segment_length =
                    Parameters::default().max_recv_data_segment_length;
            }
            self.parameters = parameters;
            self.inbound.enter_full_feature(
                parameters.digests(),
                parameters.max_recv_data_segment_length,
            );
            self.phase = Phase::FullFeature;
            self.logged_in_pending = true;
        }
        self.login.response_queued = true;
        self.queue_untasked(Control::Login);
    }

    pub(super) fn begin_login_response(&mut self) {
        let login = &mut self.login;
        login.response_queued = false;
        let pdu = login.pdu.expect("a request is answered");
        let next = login.granted();
        login.stage = next.unwrap_or(pdu.stage);
        let last = next == Some(Stage::FullFeature);
        let response = LoginResponsePdu {
            stage: pdu.stage,
            next,
            continues: false,
            version_max: 0,
            version_active: 0,
            isid: pdu.isid,
            tsih: if last { login.tsih } else { pdu.tsih },
            itt: pdu.itt,
            status_class: login.status.0,
            status_detail: login.status.1,
        };
        self.outbound.inline.clear();
        self.outbound.inline.extend_from_slice(&login.reply);
        // 11.13: StatSN of a refusal is not counted, and nobody will miss it.
        self.begin(response.emit(), true, Payload::Inline);
        if last {
            // Digests start after the PDU that ends login (13.1).
            self.outbound.set_digests(self.parameters.digests());
            self.login.text = Vec::new();
            self.login.reply = Vec::new();
            self.login.verifier = None;
        }
    }
}

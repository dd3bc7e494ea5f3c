//! Operational keys and how two sides agree on them (RFC 7143 6.2 and 13).
//!
//! [`Offers`] is what one side wants, [`Parameters`] what both ended with. The
//! responder ([`Answers`]) and the proposer ([`Proposal`]) apply the same rule
//! a key, so two of our own connections always agree. Not for: names, session
//! type and authentication, which the login rooms handle.

use super::text;

/// Smallest burst or data segment length that may be negotiated (13.12).
const LEN_MIN: u32 = 512;
/// Largest (13.12): 2^24 - 1.
const LEN_MAX: u32 = (1 << 24) - 1;

/// Whether a CRC32C digest is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestPolicy {
    /// Never, not even if the peer insists.
    Never,
    /// As the peer likes it better.
    #[default]
    Allowed,
    /// If the peer can.
    Preferred,
    /// Or there is no session.
    Required,
}

impl DigestPolicy {
    const fn offer(self) -> &'static str {
        match self {
            Self::Never => "None",
            Self::Allowed => "None,CRC32C",
            Self::Preferred => "CRC32C,None",
            Self::Required => "CRC32C",
        }
    }

    /// The answer to a list of the peer's (6.2.1): whether a digest is used.
    fn choose(self, list: &str) -> Option<bool> {
        let has = |name| list.split(',').any(|value| value == name);
        match self {
            Self::Never => has("None").then_some(false),
            Self::Required => has("CRC32C").then_some(true),
            Self::Preferred if has("CRC32C") => Some(true),
            Self::Preferred | Self::Allowed => list.split(',').find_map(|value| match value {
                "None" => Some(false),
                "CRC32C" => Some(true),
                _ => None,
            }),
        }
    }

    /// Whether what was agreed is acceptable.
    const fn admits(self, digest: bool) -> bool {
        match self {
            Self::Never => !digest,
            Self::Allowed | Self::Preferred => true,
            Self::Required => digest,
        }
    }
}

/// What one side wants of a session. Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    pub header_digest: DigestPolicy,
    pub data_digest: DigestPolicy,
    /// Longest data segment that we take (declared, not negotiated).
    pub max_recv_data_segment_length: u32,
    pub max_burst_length: u32,
    pub first_burst_length: u32,
    pub immediate_data: bool,
    pub initial_r2t: bool,
    pub max_outstanding_r2t: u16,
    pub default_time2wait_s: u16,
    pub default_time2retain_s: u16,
}

impl Offers {
    /// For a LAN: RFC 7143's defaults, but data segments as long as a burst, so
    /// that a write of 256 KiB is one R2T and one PDU.
    #[must_use]
    pub const fn lan() -> Self {
        Self {
            header_digest: DigestPolicy::Allowed,
            data_digest: DigestPolicy::Allowed,
            max_recv_data_segment_length: 262_144,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            immediate_data: true,
            initial_r2t: false,
            max_outstanding_r2t: 1,
            default_time2wait_s: 2,
            default_time2retain_s: 20,
        }
    }

    /// For a long fat pipe: every round trip that may be saved is. Writes of up
    /// to 1 MiB (the longest record) go out at once, and longer ones keep
    /// several R2Ts in flight.
    #[must_use]
    pub const fn long_fat_pipe() -> Self {
        Self {
            max_burst_length: 1 << 20,
            first_burst_length: 1 << 20,
            max_outstanding_r2t: 8,
            ..Self::lan()
        }
    }

    /// Asserts what the RFC demands of the values, once, at start.
    pub(super) fn check(&self) {
        for len in [
            self.max_recv_data_segment_length,
            self.max_burst_length,
            self.first_burst_length,
        ] {
            assert!(
                (LEN_MIN..=LEN_MAX).contains(&len),
                "length {len} is outside {LEN_MIN}..={LEN_MAX} (RFC 7143 13.12 to 13.14)"
            );
        }
        assert!(self.first_burst_length <= self.max_burst_length, "13.14");
        assert!(self.max_outstanding_r2t >= 1, "13.17");
    }
}

/// What a session runs with. Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    pub header_digest: bool,
    pub data_digest: bool,
    /// Longest data segment that we take.
    pub max_recv_data_segment_length: u32,
    /// Longest data segment that the peer takes.
    pub peer_max_recv_data_segment_length: u32,
    pub max_burst_length: u32,
    pub first_burst_length: u32,
    pub immediate_data: bool,
    pub initial_r2t: bool,
    pub max_outstanding_r2t: u16,
    pub default_time2wait_s: u16,
    pub default_time2retain_s: u16,
}

impl Default for Parameters {
    /// What holds where nothing is negotiated (RFC 7143 13).
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            max_recv_data_segment_length: 8192,
            peer_max_recv_data_segment_length: 8192,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            immediate_data: true,
            initial_r2t: true,
            max_outstanding_r2t: 1,
            default_time2wait_s: 2,
            default_time2retain_s: 20,
        }
    }
}

impl Parameters {
    pub(super) const fn digests(&self) -> (bool, bool) {
        (self.header_digest, self.data_digest)
    }

    fn settle(&mut self) {
        // 13.14: FirstBurstLength MUST NOT exceed MaxBurstLength.
        self.first_burst_length = self.first_burst_length.min(self.max_burst_length);
    }
}

/// The operational keys of RFC 7143 13, those with a rule of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Key {
    HeaderDigest,
    DataDigest,
    MaxConnections,
    InitialR2t,
    ImmediateData,
    MaxRecvDataSegmentLength,
    MaxBurstLength,
    FirstBurstLength,
    DefaultTime2Wait,
    DefaultTime2Retain,
    MaxOutstandingR2t,
    DataPduInOrder,
    DataSequenceInOrder,
    ErrorRecoveryLevel,
    ProtocolLevel,
    TaskReporting,
    /// Markers, which RFC 7143 dropped: some initiators still ask.
    IfMarker,
    OfMarker,
    IfMarkInt,
    OfMarkInt,
}

impl Key {
    const ALL: [(&'static str, Self); 20] = [
        ("HeaderDigest", Self::HeaderDigest),
        ("DataDigest", Self::DataDigest),
        ("MaxConnections", Self::MaxConnections),
        ("InitialR2T", Self::InitialR2t),
        ("ImmediateData", Self::ImmediateData),
        ("MaxRecvDataSegmentLength", Self::MaxRecvDataSegmentLength),
        ("MaxBurstLength", Self::MaxBurstLength),
        ("FirstBurstLength", Self::FirstBurstLength),
        ("DefaultTime2Wait", Self::DefaultTime2Wait),
        ("DefaultTime2Retain", Self::DefaultTime2Retain),
        ("MaxOutstandingR2T", Self::MaxOutstandingR2t),
        ("DataPDUInOrder", Self::DataPduInOrder),
        ("DataSequenceInOrder", Self::DataSequenceInOrder),
        ("ErrorRecoveryLevel", Self::ErrorRecoveryLevel),
        ("iSCSIProtocolLevel", Self::ProtocolLevel),
        ("TaskReporting", Self::TaskReporting),
        ("IFMarker", Self::IfMarker),
        ("OFMarker", Self::OfMarker),
        ("IFMarkInt", Self::IfMarkInt),
        ("OFMarkInt", Self::OfMarkInt),
    ];

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find_map(|(key, value)| (*key == name).then_some(*value))
    }

    /// Whether the key means nothing in a discovery session (13, "Irrelevant
    /// when: SessionType=Discovery").
    const fn only_normal(self) -> bool {
        matches!(
            self,
            Self::MaxConnections
                | Self::InitialR2t
                | Self::ImmediateData
                | Self::MaxBurstLength
                | Self::FirstBurstLength
                | Self::MaxOutstandingR2t
                | Self::DataPduInOrder
                | Self::DataSequenceInOrder
                | Self::ProtocolLevel
                | Self::TaskReporting
        )
    }
}

/// A negotiation that cannot go on (RFC 7143 6.2): the login fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

fn number(value: &str, min: u32, max: u32) -> Result<u32, Failed> {
    text::number(value)
        .filter(|number| (min..=max).contains(number))
        .ok_or(Failed)
}

fn number_u16(value: &str, min: u16, max: u16) -> Result<u16, Failed> {
    let number = number(value, u32::from(min), u32::from(max))?;
    u16::try_from(number).map_err(|_| Failed)
}

fn boolean(value: &str) -> Result<bool, Failed> {
    match value {
        "Yes" => Ok(true),
        "No" => Ok(false),
        _ => Err(Failed),
    }
}

/// Whether RFC 7143 knows this operational key.
pub(super) fn is_known(name: &str) -> bool {
    Key::from_name(name).is_some()
}

/// The value of a MaxRecvDataSegmentLength, if it is a legal one.
pub(super) fn data_segment_length(value: &str) -> Option<u32> {
    number(value, LEN_MIN, LEN_MAX).ok()
}

const fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

/// The side that answers a list of offers: a target, and an initiator for
/// keys that only the target brought up.
#[derive(Debug)]
pub(super) struct Answers {
    offers: Offers,
    discovery: bool,
    /// Keys that were negotiated; a second time is an error (6.3).
    seen: u32,
    pub(super) parameters: Parameters,
}

impl Answers {
    pub(super) fn new(offers: Offers, discovery: bool) -> Self {
        Self {
            offers,
            discovery,
            seen: 0,
            parameters: Parameters {
                max_recv_data_segment_length: offers.max_recv_data_segment_length,
                ..Parameters::default()
            },
        }
    }

    /// Takes one key and appends its answer to `reply`.
    pub(super) fn answer(
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
                number(value, 1, 65_535)?;
                text::push(reply, name, 1);
            }
            Key::InitialR2t => {
                ours.initial_r2t = boolean(value)? || offers.initial_r2t;
                text::push(reply, name, yes_no(ours.initial_r2t));
            }
            Key::ImmediateData => {
                ours.immediate_data = boolean(value)? && offers.immediate_data;
                text::push(reply, name, yes_no(ours.immediate_data));
            }
            Key::MaxRecvDataSegmentLength => {
                // Declarative: no answer (13.12).
                ours.peer_max_recv_data_segment_length = number(value, LEN_MIN, LEN_MAX)?;
            }
            Key::MaxBurstLength => {
                ours.max_burst_length =
                    number(value, LEN_MIN, LEN_MAX)?.min(offers.max_burst_length);
                text::push(reply, name, ours.max_burst_length);
            }
            Key::FirstBurstLength => {
                ours.first_burst_length =
                    number(value, LEN_MIN, LEN_MAX)?.min(offers.first_burst_length);
                text::push(reply, name, ours.first_burst_length);
            }
            Key::DefaultTime2Wait => {
                ours.default_time2wait_s =
                    number_u16(value, 0, 3600)?.max(offers.default_time2wait_s);
                text::push(reply, name, ours.default_time2wait_s);
            }
            Key::DefaultTime2Retain => {
                ours.default_time2retain_s =
                    number_u16(value, 0, 3600)?.min(offers.default_time2retain_s);
                text::push(reply, name, ours.default_time2retain_s);
            }
            Key::MaxOutstandingR2t => {
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
                number(value, 0, 2)?;
                text::push(reply, name, 0);
            }
            Key::ProtocolLevel => {
                // 1 is RFC 7143; the lower one holds.
                let level = number(value, 0, 31)?.min(1);
                text::push(reply, name, level);
            }
            Key::TaskReporting => {
                // RFC3720 semantics: all answers before a TMF response (13.23).
                let known = value.split(',').any(|value| value == "RFC3720");
                text::push(reply, name, if known { "RFC3720" } else { "Reject" });
            }
            Key::IfMarker | Key::OfMarker => {
                boolean(value)?;
                text::push(reply, name, "No");
            }
            Key::IfMarkInt | Key::OfMarkInt => text::push(reply, name, "Irrelevant"),
        }
        Ok(())
    }

    /// The result, once the peer has nothing more to say.
    pub(super) fn settled(&self) -> Result<Parameters, Failed> {
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

/// The side that offers first: an initiator.
#[derive(Debug)]
pub(super) struct Proposal {
    offers: Offers,
    /// Offered and not yet answered.
    open: u32,
    /// Keys that only the target brought up.
    answers: Answers,
    parameters: Parameters,
}

impl Proposal {
    pub(super) fn new(offers: Offers, discovery: bool) -> Self {
        Self {
            offers,
            open: 0,
            answers: Answers::new(offers, discovery),
            parameters: Parameters {
                max_recv_data_segment_length: offers.max_recv_data_segment_length,
                ..Parameters::default()
            },
        }
    }

    /// Appends all offers.
    pub(super) fn offer(&mut self, request: &mut Vec<u8>) {
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
                self.open |= 1 << key as u32;
            }
        }
    }

    /// Takes one key of a login response; what the target brought up itself is
    /// answered into `request`.
    pub(super) fn take(
        &mut self,
        name: &str,
        value: &str,
        request: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let key = Key::from_name(name).filter(|key| self.open & (1 << *key as u32) != 0);
        let Some(key) = key else {
            return self.answers.answer(name, value, request);
        };
        self.open &= !(1 << key as u32);
        if matches!(value, "NotUnderstood" | "Irrelevant" | "Reject") {
            // The default stays (6.2); a required digest fails in `settled`.
            return Ok(());
        }
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
    pub(super) fn settled(&self) -> Result<Parameters, Failed> {
        let mut parameters = self.parameters;
        parameters.peer_max_recv_data_segment_length =
            self.answers.parameters.peer_max_recv_data_segment_length;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn agree(initiator: Offers, target: Offers) -> (Parameters, Parameters) {
        let mut proposal = Proposal::new(initiator, false);
        let mut answers = Answers::new(target, false);
        let (mut request, mut reply, mut more) = (Vec::new(), Vec::new(), Vec::new());
        proposal.offer(&mut request);
        for pair in text::pairs(&request) {
            let (name, value) = pair.unwrap();
            answers.answer(name, value, &mut reply).unwrap();
        }
        text::push(
            &mut reply,
            "MaxRecvDataSegmentLength",
            target.max_recv_data_segment_length,
        );
        for pair in text::pairs(&reply) {
            let (name, value) = pair.unwrap();
            proposal.take(name, value, &mut more).unwrap();
        }
        assert_eq!(proposal.open, 0, "every offer was answered");
        assert!(more.is_empty(), "nothing is left to say");
        (proposal.settled().unwrap(), answers.settled().unwrap())
    }

    #[test]
    fn both_sides_end_with_the_same() {
        let digests = [
            DigestPolicy::Never,
            DigestPolicy::Allowed,
            DigestPolicy::Preferred,
            DigestPolicy::Required,
        ];
        for header_digest in digests {
            for data_digest in digests {
                let initiator = Offers {
                    header_digest,
                    immediate_data: false,
                    ..Offers::long_fat_pipe()
                };
                let target = Offers {
                    data_digest,
                    first_burst_length: 4096,
                    max_burst_length: 8192,
                    ..Offers::lan()
                };
                let (a, b) = agree(initiator, target);
                let swapped = Parameters {
                    max_recv_data_segment_length: b.peer_max_recv_data_segment_length,
                    peer_max_recv_data_segment_length: b.max_recv_data_segment_length,
                    ..b
                };
                assert_eq!(a, swapped);
                assert_eq!((a.first_burst_length, a.max_burst_length), (4096, 8192));
                assert!(!a.immediate_data && !a.initial_r2t);
                assert_eq!(
                    a.header_digest,
                    matches!(
                        header_digest,
                        DigestPolicy::Preferred | DigestPolicy::Required
                    )
                );
            }
        }
    }

    #[test]
    fn first_burst_is_cut_to_max_burst() {
        let mut answers = Answers::new(Offers::lan(), false);
        let mut reply = Vec::new();
        answers
            .answer("MaxBurstLength", "1024", &mut reply)
            .unwrap();
        assert_eq!(answers.settled().unwrap().first_burst_length, 1024);
    }

    #[test]
    fn a_key_twice_or_out_of_range_fails() {
        let mut reply = Vec::new();
        for (name, value) in [
            ("MaxBurstLength", "511"),
            ("MaxBurstLength", "16777216"),
            ("ImmediateData", "yes"),
            ("DefaultTime2Wait", "3601"),
            ("MaxConnections", "0"),
            ("ErrorRecoveryLevel", "3"),
            ("MaxRecvDataSegmentLength", "many"),
        ] {
            let mut answers = Answers::new(Offers::lan(), false);
            assert_eq!(
                answers.answer(name, value, &mut reply),
                Err(Failed),
                "{name}={value}"
            );
        }
        let mut answers = Answers::new(Offers::lan(), false);
        answers.answer("InitialR2T", "No", &mut reply).unwrap();
        assert_eq!(answers.answer("InitialR2T", "No", &mut reply), Err(Failed));
    }

    #[test]
    fn unknown_irrelevant_and_impossible_keys_are_answered() {
        let mut reply = Vec::new();
        let target = Offers {
            header_digest: DigestPolicy::Never,
            ..Offers::lan()
        };
        let mut answers = Answers::new(target, true);
        for (name, value) in [
            ("X-com.example.key", "1"),
            ("MaxBurstLength", "1024"),
            ("HeaderDigest", "CRC32C"),
            ("IFMarker", "Yes"),
        ] {
            answers.answer(name, value, &mut reply).unwrap();
        }
        assert_eq!(
            reply,
            b"X-com.example.key=NotUnderstood\0MaxBurstLength=Irrelevant\0HeaderDigest=Reject\0IFMarker=No\0"
        );
    }

    #[test]
    fn a_target_that_grants_more_than_was_asked_is_refused() {
        for (name, value) in [
            ("MaxBurstLength", "16776192"),
            ("HeaderDigest", "CRC32C"),
            ("ErrorRecoveryLevel", "1"),
            ("ImmediateData", "Maybe"),
            ("DataPDUInOrder", "No"),
        ] {
            let offers = Offers {
                header_digest: DigestPolicy::Never,
                ..Offers::lan()
            };
            let mut proposal = Proposal::new(offers, false);
            let mut request = Vec::new();
            proposal.offer(&mut request);
            assert_eq!(
                proposal.take(name, value, &mut request),
                Err(Failed),
                "{name}={value}"
            );
        }
    }
}

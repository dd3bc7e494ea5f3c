//! The initiator's half: it offers algorithms, answers the target's challenge,
//! and asks one of its own if the target is to prove itself.

use super::binary::Hex;
use super::{Algorithm, ChapLogin, Failed, Keys, proves, response};
use crate::iscsi::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `AuthMethod` is on its way.
    Method,
    /// The target's choice and challenge are due.
    Challenge,
    /// Our answer is out, and the target's is due if we asked.
    Answered(Algorithm),
    /// Nothing more is due.
    Done,
}

/// The state of one authentication.
#[derive(Debug)]
pub(in crate::iscsi) struct Prover {
    login: ChapLogin,
    pub(super) step: Step,
}

impl Prover {
    pub(in crate::iscsi) const fn new(login: ChapLogin) -> Self {
        Self {
            login,
            step: Step::Method,
        }
    }

    /// Appends the methods on offer. A target that need not prove itself may
    /// do without CHAP.
    pub(in crate::iscsi) fn offer(&self, request: &mut Vec<u8>) {
        text::push(request, "AuthMethod", self.methods());
    }

    const fn methods(&self) -> &'static str {
        if self.login.target.is_some() {
            "CHAP"
        } else {
            "CHAP,None"
        }
    }

    /// Whether the security stage may end with the request that is next.
    pub(in crate::iscsi) const fn may_end(&self) -> bool {
        matches!(self.step, Step::Answered(_) | Step::Done)
    }

    /// Takes a response of the security stage: the target's choice of method
    /// and its CHAP keys; `request` gets what is to be said next.
    pub(in crate::iscsi) fn take(
        &mut self,
        method: Option<&str>,
        keys: &Keys<'_>,
        request: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        match (self.step, method) {
            (Step::Method, Some("CHAP")) if keys.is_empty() => {
                text::push(request, "CHAP_A", &self.login.algorithms);
                self.step = Step::Challenge;
            }
            (Step::Method, Some("None")) if self.login.target.is_none() && keys.is_empty() => {
                self.step = Step::Done;
            }
            // It asks for patience, or has keys of another kind.
            (Step::Method | Step::Challenge | Step::Done, None) if keys.is_empty() => {}
            (Step::Challenge, None) => self.answer(keys, request)?,
            (Step::Answered(algorithm), None) => self.check(algorithm, keys)?,
            _ => return Err(Failed),
        }
        Ok(())
    }

    fn answer(&mut self, keys: &Keys<'_>, request: &mut Vec<u8>) -> Result<(), Failed> {
        let ChapLogin {
            algorithms,
            initiator,
            target,
            challenge,
        } = &self.login;
        let chosen = keys.a.filter(|choice| !choice.contains(','));
        let algorithm = algorithms.choose(chosen.ok_or(Failed)?).ok_or(Failed)?;
        let (identifier, theirs) = keys.question()?.ok_or(Failed)?;
        if keys.answer()?.is_some() {
            return Err(Failed);
        }
        let answer = response(algorithm, identifier, &initiator.secret.0, &theirs);
        text::push(request, "CHAP_N", initiator.name);
        text::push(request, "CHAP_R", Hex(&answer));
        if target.is_some() {
            // 12.1.3: the two challenges must differ. A target cannot know
            // ours yet; if it does, it is no target.
            if theirs[..] == challenge.bytes {
                return Err(Failed);
            }
            text::push(request, "CHAP_I", challenge.identifier);
            text::push(request, "CHAP_C", Hex(&challenge.bytes));
        }
        self.step = Step::Answered(algorithm);
        Ok(())
    }

    fn check(&mut self, algorithm: Algorithm, keys: &Keys<'_>) -> Result<(), Failed> {
        let ChapLogin {
            target, challenge, ..
        } = &self.login;
        if keys.a.is_some() || keys.question()?.is_some() {
            return Err(Failed);
        }
        match (target, keys.answer()?) {
            (None, None) => {}
            (Some(expected), Some((name, answer)))
                if proves(Some(expected), algorithm, challenge, name, &answer) => {}
            _ => return Err(Failed),
        }
        self.step = Step::Done;
        Ok(())
    }
}

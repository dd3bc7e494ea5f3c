//! The target's half: it chooses the algorithm, asks, checks the answer, and
//! proves itself if it is asked to.

use super::binary::Hex;
use super::{Algorithm, ChapDemand, Failed, Keys, proves, response};
use crate::iscsi::login_status::{self, Status};
use crate::iscsi::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// `AuthMethod` has not been agreed.
    Method,
    /// The initiator's CHAP_A list is due.
    Algorithm,
    /// Its answer is due.
    Answer(Algorithm),
    Passed,
}

/// The state of one authentication.
#[derive(Debug)]
pub(in crate::iscsi) struct Verifier {
    demand: ChapDemand,
    step: Step,
}

impl Verifier {
    pub(in crate::iscsi) const fn new(demand: ChapDemand) -> Self {
        Self {
            demand,
            step: Step::Method,
        }
    }

    pub(in crate::iscsi) const fn passed(&self) -> bool {
        matches!(self.step, Step::Passed)
    }

    /// Takes the initiator's `AuthMethod` list.
    pub(in crate::iscsi) fn method(
        &mut self,
        list: &str,
        reply: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        if self.step != Step::Method || !list.split(',').any(|method| method == "CHAP") {
            return Err(Failed);
        }
        text::push(reply, "AuthMethod", "CHAP");
        self.step = Step::Algorithm;
        Ok(())
    }

    /// Takes the CHAP keys of one request; a request without any says nothing.
    ///
    /// # Errors
    /// The status of the refusal (9.2): of keys that are missing or out of their step its
    /// own, and of a wrong proof, or none that could be agreed on, another.
    pub(in crate::iscsi) fn take(
        &mut self,
        keys: &Keys<'_>,
        reply: &mut Vec<u8>,
    ) -> Result<(), Status> {
        let out_of_step = login_status::INITIATOR_ERROR;
        let missing = login_status::MISSING_PARAMETER;
        let unproved = login_status::AUTHENTICATION_FAILURE;
        if keys.is_empty() {
            return Ok(());
        }
        let ChapDemand {
            algorithms,
            challenge,
            initiator,
            target,
        } = &self.demand;
        match self.step {
            Step::Algorithm => {
                if !keys.is_list_alone() {
                    return Err(out_of_step);
                }
                let list = keys.a.ok_or(missing)?;
                let algorithm = algorithms.choose(list).ok_or(unproved)?;
                text::push(reply, "CHAP_A", algorithm as u8);
                text::push(reply, "CHAP_I", challenge.identifier);
                text::push(reply, "CHAP_C", Hex(&challenge.bytes));
                self.step = Step::Answer(algorithm);
            }
            Step::Answer(algorithm) if keys.a.is_none() => {
                if !keys.has_answer() {
                    return Err(missing);
                }
                let (name, answer) = keys.answer().ok().flatten().ok_or(out_of_step)?;
                let question = keys.question().map_err(|_| out_of_step)?;
                if !proves(initiator.as_ref(), algorithm, challenge, name, &answer) {
                    return Err(unproved);
                }
                if let Some((identifier, theirs)) = question {
                    // 12.1.3: our own challenge, sent back, would have us answer for the initiator.
                    if theirs[..] == challenge.bytes {
                        return Err(unproved);
                    }
                    let ours = target.as_ref().ok_or(unproved)?;
                    let answer = response(algorithm, identifier, &ours.secret.0, &theirs);
                    text::push(reply, "CHAP_N", ours.name);
                    text::push(reply, "CHAP_R", Hex(&answer));
                }
                self.step = Step::Passed;
            }
            Step::Method | Step::Answer(_) | Step::Passed => return Err(out_of_step),
        }
        Ok(())
    }
}

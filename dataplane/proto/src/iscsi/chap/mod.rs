//! CHAP (RFC 1994 over RFC 7143 12.1.3): who proves what to whom, one-way and
//! mutual, with MD5, SHA-1 and SHA-256.
//!
//! What always holds: a secret is never printed, not by `Debug` either; a
//! response is compared in constant time; a name that nobody has costs the
//! same hash and gets the same answer as a wrong secret; a challenge that is
//! our own, reflected, ends the login. Challenges and identifiers come in as
//! arguments. Not for: which secret belongs to whom (the caller's), stages and
//! status (the login rooms').

mod binary;
mod challenge;
mod prove;
#[cfg(test)]
mod tests;
mod verify;

pub use challenge::{Challenge, Challenges};
pub(super) use prove::Prover;
pub(super) use verify::Verifier;

use arrayvec::{ArrayString, ArrayVec};
use md5::Md5;
use sha1::Sha1;
use sha2::Sha256;
use std::fmt;
use subtle::{Choice, ConstantTimeEq as _};

/// Shortest secret in bytes: 96 bits, below which RFC 7143 9.2.1 demands IPsec.
pub const SECRET_LEN_MIN: usize = 12;
/// Longest secret in bytes that is kept; 12.1.3 asks for 16 at least.
pub const SECRET_LEN_MAX: usize = 255;
/// Longest challenge of a peer, in bytes (12.1.3).
const CHALLENGE_LEN_MAX: usize = 1024;
/// Longest CHAP_N, in bytes: the bound of a simple value (6.1).
const NAME_LEN_MAX: usize = 255;
/// Longest response: SHA-256's.
const RESPONSE_LEN_MAX: usize = 32;

/// A CHAP_N value.
pub type ChapName = ArrayString<NAME_LEN_MAX>;
type Response = ArrayVec<u8, RESPONSE_LEN_MAX>;

/// A shared secret. It cannot be printed.
#[derive(Clone)]
pub struct Secret(ArrayVec<u8, SECRET_LEN_MAX>);

impl Secret {
    /// None if it is shorter than [`SECRET_LEN_MIN`] or longer than [`SECRET_LEN_MAX`].
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let secret = ArrayVec::try_from(bytes).ok()?;
        (bytes.len() >= SECRET_LEN_MIN).then_some(Self(secret))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What one side proves itself with: CHAP_N, and the secret behind CHAP_R.
#[derive(Clone, Debug)]
pub struct Credential {
    pub name: ChapName,
    pub secret: Secret,
}

/// A hash, by its number in IANA's registry of PPP authentication algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    Md5 = 5,
    Sha1 = 6,
    Sha256 = 7,
}

impl Algorithm {
    fn from_number(number: u32) -> Option<Self> {
        match number {
            5 => Some(Self::Md5),
            6 => Some(Self::Sha1),
            7 => Some(Self::Sha256),
            _ => None,
        }
    }
}

/// The algorithms that one side takes, the one it likes best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithms(ArrayVec<Algorithm, 3>);

impl Algorithms {
    /// Of more than three, or one that comes twice, the first stays.
    #[must_use]
    pub fn new(preferred_first: impl IntoIterator<Item = Algorithm>) -> Self {
        let mut algorithms = ArrayVec::new();
        for algorithm in preferred_first {
            if !algorithms.contains(&algorithm) {
                algorithms.push(algorithm);
            }
        }
        Self(algorithms)
    }

    /// The first of a CHAP_A list that is ours too: the responder follows the
    /// offerer's preference (6.2.1).
    fn choose(&self, list: &str) -> Option<Algorithm> {
        list.split(',')
            .filter_map(|value| Algorithm::from_number(super::text::number(value)?))
            .find(|algorithm| self.0.contains(algorithm))
    }
}

impl Default for Algorithms {
    fn default() -> Self {
        Self::new([Algorithm::Sha256, Algorithm::Sha1, Algorithm::Md5])
    }
}

impl fmt::Display for Algorithms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, algorithm) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}", *algorithm as u8)?;
        }
        Ok(())
    }
}

/// What a target asks of an initiator before anything is granted.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a login, moved once")]
pub enum Demand {
    /// `AuthMethod=None` will do.
    Nothing,
    Chap(ChapDemand),
}

/// CHAP as a target asks for it.
#[derive(Clone, Debug)]
pub struct ChapDemand {
    pub algorithms: Algorithms,
    /// Fresh for this login.
    pub challenge: Challenge,
    /// What this initiator must prove; none if nobody is known by its name,
    /// which it learns at the end only, as one with a wrong secret does.
    pub initiator: Option<Credential>,
    /// What we prove if it asks; none refuses to.
    pub target: Option<Credential>,
}

/// CHAP as an initiator does it.
#[derive(Clone, Debug)]
pub struct ChapLogin {
    pub algorithms: Algorithms,
    /// What we prove.
    pub initiator: Credential,
    /// What the target must prove; none is one-way CHAP.
    pub target: Option<Credential>,
    /// For the target; fresh for this login.
    pub challenge: Challenge,
}

/// The exchange cannot go on, or somebody is not who he says. Why is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

/// The CHAP keys of one text, as they stand there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keys<'a> {
    a: Option<&'a str>,
    i: Option<&'a str>,
    c: Option<&'a str>,
    n: Option<&'a str>,
    r: Option<&'a str>,
}

impl<'a> Keys<'a> {
    /// Takes a pair; false if it is no CHAP key.
    pub(super) fn take(&mut self, key: &str, value: &'a str) -> Result<bool, Failed> {
        let slot = match key {
            "CHAP_A" => &mut self.a,
            "CHAP_I" => &mut self.i,
            "CHAP_C" => &mut self.c,
            "CHAP_N" => &mut self.n,
            "CHAP_R" => &mut self.r,
            _ => return Ok(false),
        };
        match slot.replace(value) {
            None => Ok(true),
            Some(_) => Err(Failed),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        matches!(
            (self.a, self.i, self.c, self.n, self.r),
            (None, None, None, None, None)
        )
    }

    const fn is_list_alone(&self) -> bool {
        matches!((self.i, self.c, self.n, self.r), (None, None, None, None))
    }

    const fn has_answer(&self) -> bool {
        self.n.is_some() && self.r.is_some()
    }

    /// CHAP_N and CHAP_R, both or neither.
    fn answer(&self) -> Result<Option<(&'a str, Response)>, Failed> {
        match (self.n, self.r) {
            (None, None) => Ok(None),
            (Some(name), Some(response)) if name.len() <= NAME_LEN_MAX => {
                Ok(Some((name, binary::decode(response).ok_or(Failed)?)))
            }
            _ => Err(Failed),
        }
    }

    /// CHAP_I and CHAP_C, both or neither.
    fn question(&self) -> Result<Option<(u8, Question)>, Failed> {
        match (self.i, self.c) {
            (None, None) => Ok(None),
            (Some(identifier), Some(challenge)) => {
                let identifier = super::text::number(identifier).and_then(|i| u8::try_from(i).ok());
                let challenge: Question = binary::decode(challenge).ok_or(Failed)?;
                Ok(Some((identifier.ok_or(Failed)?, challenge)))
            }
            _ => Err(Failed),
        }
    }
}

/// A peer's challenge.
type Question = ArrayVec<u8, CHALLENGE_LEN_MAX>;

/// RFC 1994 4.1: the hash over identifier, secret and challenge.
fn response(algorithm: Algorithm, identifier: u8, secret: &[u8], challenge: &[u8]) -> Response {
    fn hash<D: md5::Digest>(identifier: u8, secret: &[u8], challenge: &[u8]) -> Response {
        let digest = D::new()
            .chain_update([identifier])
            .chain_update(secret)
            .chain_update(challenge)
            .finalize();
        digest.as_slice().iter().copied().collect()
    }
    match algorithm {
        Algorithm::Md5 => hash::<Md5>(identifier, secret, challenge),
        Algorithm::Sha1 => hash::<Sha1>(identifier, secret, challenge),
        Algorithm::Sha256 => hash::<Sha256>(identifier, secret, challenge),
    }
}

/// Whether name and response are those of `expected`. Takes as long for no
/// credential as for a wrong one.
fn proves(
    expected: Option<&Credential>,
    algorithm: Algorithm,
    challenge: &Challenge,
    name: &str,
    answer: &[u8],
) -> bool {
    const NOBODYS: [u8; 16] = [0; 16];
    let (known, expected_name, secret) = match expected {
        Some(credential) => (1, credential.name.as_bytes(), &credential.secret.0[..]),
        None => (0, &b""[..], &NOBODYS[..]),
    };
    let right = response(algorithm, challenge.identifier, secret, &challenge.bytes);
    let same =
        Choice::from(known) & expected_name.ct_eq(name.as_bytes()) & right.as_slice().ct_eq(answer);
    same.into()
}

//! The secrets file: what computers prove to the relay, what the relay proves
//! to them and to storage, and what storage proves to it (CHAP, RFC 7143 12.1.3).
//!
//! What always holds: only its owner may read the file; no secret is in a
//! message or in `Debug`; nothing that the relay proves itself with is also
//! what another proves itself with, on either side, or a challenge could be
//! passed round for the answer. Read by the data plane alone.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::iscsi_name::check_iscsi_name;
use crate::{Config, ConfigError, Fault};

/// Shortest secret in bytes (RFC 7143 9.2.1: 96 bits).
const SECRET_LEN_MIN: usize = 12;
/// Longest secret, and longest user name, in bytes.
const LEN_MAX: usize = 255;

/// A secret. It cannot be printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A CHAP name and the secret that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub user: String,
    pub secret: Secret,
}

/// A hash of CHAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChapAlgorithm {
    Md5,
    Sha1,
    Sha256,
}

/// What a computer proves to the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputerChap {
    /// Initiator name in lower case; none is any that has no entry of its own.
    pub initiator: Option<String>,
    pub computer: Account,
    /// What the relay proves if the computer asks (mutual CHAP).
    pub relay: Option<Account>,
    /// The best first.
    pub algorithms: Vec<ChapAlgorithm>,
}

/// What the relay proves to a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageChap {
    pub target: String,
    /// Only for sessions of this computer; none is any that has no entry of its own.
    pub initiator: Option<String>,
    pub relay: Account,
    /// What the storage must prove (mutual CHAP).
    pub storage: Option<Account>,
    /// The best first.
    pub algorithms: Vec<ChapAlgorithm>,
}

/// All of the file, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    pub computers: Vec<ComputerChap>,
    pub storages: Vec<StorageChap>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    computer: Vec<Spanned<RawComputer>>,
    #[serde(default)]
    storage: Vec<Spanned<RawStorage>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawComputer {
    initiator: String,
    user: String,
    secret: Secret,
    relay_user: Option<String>,
    relay_secret: Option<Secret>,
    algorithms: Option<Vec<ChapAlgorithm>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStorage {
    target: String,
    initiator: Option<String>,
    user: String,
    secret: Secret,
    storage_user: Option<String>,
    storage_secret: Option<Secret>,
    algorithms: Option<Vec<ChapAlgorithm>>,
}

impl Secrets {
    /// Reads and checks the file that the configuration names; without one
    /// there are no secrets.
    ///
    /// # Errors
    /// The file cannot be read, others may read it, or it says something that
    /// cannot work; every fault of the last kind is listed.
    pub fn load(config: &Config) -> Result<Self, ConfigError> {
        let Some(path) = &config.iscsi.secrets else {
            return Self::parse(config, "").map_err(|faults| ConfigError::Invalid {
                file: "secrets".into(),
                faults,
            });
        };
        let text = read(path)?;
        Self::parse(config, &text).map_err(|faults| ConfigError::Invalid {
            file: path.clone(),
            faults,
        })
    }

    /// Whether this target's computers must prove who they are: what the
    /// configuration says, else whether there are computers with secrets.
    #[must_use]
    pub fn demanded_by(&self, target: &crate::Target) -> bool {
        target.chap.unwrap_or(!self.computers.is_empty())
    }

    fn parse(config: &Config, text: &str) -> Result<Self, Vec<Fault>> {
        let line = |at: usize| 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count();
        let raw: File = toml::from_str(text).map_err(|error| {
            // Other messages quote what stands there.
            let what = error.message();
            let harmless = ["missing field", "unknown field", "unknown variant"];
            let message = if harmless.iter().any(|start| what.starts_with(start)) {
                what.replace('\n', "; ")
            } else {
                "is not TOML of the shape that docs/operations.md shows (not quoted, since it may be a secret)"
                    .to_owned()
            };
            vec![Fault {
                line: line(error.span().map_or(0, |span| span.start)),
                message,
            }]
        })?;
        let mut checker = Checker { faults: Vec::new() };
        let mut secrets = Self::default();
        for raw in raw.computer {
            let at = line(raw.span().start);
            let computer = checker.computer(at, raw.into_inner());
            if secrets
                .computers
                .iter()
                .any(|other| other.initiator == computer.initiator)
            {
                checker.bad(at, "another [[computer]] has this initiator; keep one");
            }
            secrets.computers.push(computer);
        }
        for raw in raw.storage {
            let at = line(raw.span().start);
            let storage = checker.storage(at, raw.into_inner());
            if !config
                .targets
                .iter()
                .any(|target| target.name == storage.target)
            {
                let hint = format!(
                    "target = {:?}: no [[target]] of the configuration has this name",
                    storage.target
                );
                checker.bad(at, &hint);
            }
            if secrets.storages.iter().any(|other| {
                (&other.target, &other.initiator) == (&storage.target, &storage.initiator)
            }) {
                checker.bad(
                    at,
                    "another [[storage]] has this target and initiator; keep one",
                );
            }
            secrets.storages.push(storage);
        }
        checker.directions(&secrets);
        if secrets.computers.is_empty()
            && let Some(target) = config
                .targets
                .iter()
                .find(|target| target.chap == Some(true))
        {
            let hint = format!(
                "target {} has chap = true, and there is no [[computer]]: nobody could log in; add one (iscsi.secrets names the file)",
                target.name
            );
            checker.bad(1, &hint);
        }
        if checker.faults.is_empty() {
            Ok(secrets)
        } else {
            checker.faults.sort_by_key(|fault| fault.line);
            Err(checker.faults)
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    use std::io::Read as _;
    let failed = |source| ConfigError::Secrets {
        file: path.to_owned(),
        source,
    };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    // Of what was opened, not of what the name may stand for by now.
    let mode = file.metadata().map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        return Err(ConfigError::SecretsMode {
            file: path.to_owned(),
            mode: mode & 0o7777,
        });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

struct Checker {
    faults: Vec<Fault>,
}

impl Checker {
    fn bad(&mut self, line: usize, message: &str) {
        self.faults.push(Fault {
            line,
            message: message.to_owned(),
        });
    }

    fn computer(&mut self, line: usize, raw: RawComputer) -> ComputerChap {
        let initiator =
            (raw.initiator != "*").then(|| self.name(line, "initiator", &raw.initiator));
        ComputerChap {
            initiator,
            computer: self.account(line, "user", "secret", raw.user, raw.secret),
            relay: self.second(line, "relay", raw.relay_user, raw.relay_secret),
            algorithms: self.algorithms(line, raw.algorithms),
        }
    }

    fn storage(&mut self, line: usize, raw: RawStorage) -> StorageChap {
        StorageChap {
            target: self.name(line, "target", &raw.target),
            initiator: raw
                .initiator
                .filter(|name| name != "*")
                .map(|name| self.name(line, "initiator", &name)),
            relay: self.account(line, "user", "secret", raw.user, raw.secret),
            storage: self.second(line, "storage", raw.storage_user, raw.storage_secret),
            algorithms: self.algorithms(line, raw.algorithms),
        }
    }

    fn name(&mut self, line: usize, key: &str, name: &str) -> String {
        let lower = name.to_lowercase();
        if let Err(error) = check_iscsi_name(&lower) {
            self.bad(line, &format!("{key} = {name:?}: {error}"));
        }
        lower
    }

    fn account(
        &mut self,
        line: usize,
        user_key: &str,
        secret_key: &str,
        user: String,
        secret: Secret,
    ) -> Account {
        let printable = user
            .bytes()
            .all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if user.is_empty() || user.len() > LEN_MAX || !printable {
            self.bad(
                line,
                &format!(
                    "{user_key} = {user:?}: must be 1 to {LEN_MAX} printable ASCII characters"
                ),
            );
        }
        if !(SECRET_LEN_MIN..=LEN_MAX).contains(&secret.0.len()) {
            self.bad(
                line,
                &format!(
                    "{secret_key} has {} bytes: must be {SECRET_LEN_MIN} to {LEN_MAX} (96 bits at least); draw one with `openssl rand -hex 16`",
                    secret.0.len()
                ),
            );
        }
        Account { user, secret }
    }

    fn second(
        &mut self,
        line: usize,
        who: &str,
        user: Option<String>,
        secret: Option<Secret>,
    ) -> Option<Account> {
        let (user_key, secret_key) = (format!("{who}_user"), format!("{who}_secret"));
        match (user, secret) {
            (None, None) => None,
            (Some(user), Some(secret)) => {
                Some(self.account(line, &user_key, &secret_key, user, secret))
            }
            _ => {
                self.bad(
                    line,
                    &format!("{user_key} and {secret_key} go together; write both for mutual CHAP, or neither"),
                );
                None
            }
        }
    }

    fn algorithms(&mut self, line: usize, raw: Option<Vec<ChapAlgorithm>>) -> Vec<ChapAlgorithm> {
        let all = [
            ChapAlgorithm::Sha256,
            ChapAlgorithm::Sha1,
            ChapAlgorithm::Md5,
        ];
        let list = raw.unwrap_or_else(|| all.to_vec());
        let twice = all
            .iter()
            .any(|one| list.iter().filter(|other| *other == one).count() > 1);
        if list.is_empty() || twice {
            self.bad(
                line,
                "algorithms: must be one or more of \"sha256\", \"sha1\", \"md5\", each once",
            );
        }
        list
    }

    /// RFC 7143 9.2.1: no secret for both directions nor for both roles, and the relay, which
    /// is an initiator to storage and a target to computers, is not of one name in both.
    fn directions(&mut self, secrets: &Secrets) {
        let (computers, storages) = (&secrets.computers, &secrets.storages);
        let kinds: [Vec<&Account>; 4] = [
            computers.iter().map(|one| &one.computer).collect(),
            computers
                .iter()
                .filter_map(|one| one.relay.as_ref())
                .collect(),
            storages.iter().map(|one| &one.relay).collect(),
            storages
                .iter()
                .filter_map(|one| one.storage.as_ref())
                .collect(),
        ];
        for (at, kind) in kinds.iter().enumerate() {
            for theirs in kind {
                let mut others = kinds[..at].iter().flatten();
                if let Some(own) = others.find(|own| own.secret == theirs.secret) {
                    self.bad(
                        1,
                        &format!(
                            "users {:?} and {:?} have one secret: what one side proves itself with must not be what another does, nor the relay's the same on both sides; draw a second one",
                            own.user, theirs.user
                        ),
                    );
                }
            }
        }
        let [_, to_computers, to_storage, _] = &kinds;
        for account in to_storage {
            if to_computers.iter().any(|other| other.user == account.user) {
                self.bad(
                    1,
                    &format!(
                        "user {:?} is the relay's name to computers and to a storage: give it another in one of them",
                        account.user
                    ),
                );
            }
        }
    }
}
